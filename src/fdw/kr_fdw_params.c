/*
 * kr_fdw_params.c
 *	  Values on their way to the data source: they leave as text, under settings with
 *	  which it means the same there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "kr_fdw.h"

/* True where settings have a say in how values of the type are written. */
bool
kr_type_needs_settings(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONBOID:
		case JSONOID:
		case NUMERICOID:
		case TEXTOID:
		case TIDOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			return true;
	}
}

int
kr_transmission_begin(bool needed)
{
	int			nestlevel;

	if (!needed)
		return 0;

	nestlevel = NewGUCNestLevel();
	if (DateStyle != USE_ISO_DATES)
		(void) set_config_option("datestyle", "ISO", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (IntervalStyle != INTSTYLE_POSTGRES)
		(void) set_config_option("intervalstyle", "postgres", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (extra_float_digits < 3)
		(void) set_config_option("extra_float_digits", "3", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);

	/* Names in reg* values are qualified but for those of pg_catalog. */
	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

void
kr_transmission_end(int nestlevel)
{
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
}

void
kr_params_init(KrParams *params, PlanState *state, List *exprs)
{
	ListCell   *cell;
	int			i = 0;

	memset(params, 0, sizeof(*params));
	params->count = list_length(exprs);
	if (params->count == 0)
		return;

	params->output = palloc0(params->count * sizeof(FmgrInfo));
	params->values = palloc0(params->count * sizeof(char *));
	params->exprs = ExecInitExprList(exprs, state);
	params->cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel parameters",
										ALLOCSET_SMALL_SIZES);
	foreach(cell, exprs)
	{
		Oid			function;
		bool		varlena;

		getTypeOutputInfo(exprType(lfirst(cell)), &function, &varlena);
		fmgr_info(function, &params->output[i++]);
		params->needs_settings |= kr_type_needs_settings(exprType(lfirst(cell)));
	}
}

/* All are computed first: under the session's settings, not those of transmission. */
const char *const *
kr_params_eval(KrParams *params, ExprContext *econtext)
{
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;
	ListCell   *cell;
	int			nestlevel;
	int			i = 0;

	if (params->count == 0)
		return NULL;

	MemoryContextReset(params->cxt);
	old = MemoryContextSwitchTo(params->cxt);
	values = palloc(params->count * sizeof(Datum));
	nulls = palloc(params->count * sizeof(bool));
	foreach(cell, params->exprs)
	{
		values[i] = ExecEvalExpr((ExprState *) lfirst(cell), econtext, &nulls[i]);
		i++;
	}

	nestlevel = kr_transmission_begin(params->needs_settings);
	for (i = 0; i < params->count; i++)
		params->values[i] = nulls[i] ? NULL : OutputFunctionCall(&params->output[i], values[i]);
	kr_transmission_end(nestlevel);
	MemoryContextSwitchTo(old);
	return params->values;
}

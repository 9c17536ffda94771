/*
 * kr_fdw_rows.c
 *	  Values on their way to the data source and rows on their way back.
 *
 * Both travel as text. Rows are put aside (parked) in the form in which they
 * came, so parking runs no user-defined code and a conversion error strikes
 * who reads the row, not who needed the connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"

/* ---------- parameters ---------- */

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

const char *const *
kr_params_eval(KrParams *params, ExprContext *econtext)
{
	MemoryContext old;
	ListCell   *cell;
	int			nestlevel;
	int			i = 0;

	if (params->count == 0)
		return NULL;

	MemoryContextReset(params->cxt);
	old = MemoryContextSwitchTo(params->cxt);
	nestlevel = kr_transmission_begin(params->needs_settings);
	foreach(cell, params->exprs)
	{
		bool		isnull;
		Datum		value = ExecEvalExpr((ExprState *) lfirst(cell), econtext, &isnull);

		params->values[i] = isnull ? NULL : OutputFunctionCall(&params->output[i], value);
		i++;
	}
	kr_transmission_end(nestlevel);
	MemoryContextSwitchTo(old);
	return params->values;
}

/* ---------- rows ---------- */

void
kr_reader_init(KrRowReader *reader, TupleDesc desc, Relation rel, List *retrieved,
			   bool system_columns, EState *estate)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	ListCell   *cell;
	int			i = 0;

	memset(reader, 0, sizeof(*reader));
	reader->desc = desc;
	reader->input = TupleDescGetAttInMetadata(desc);
	reader->relname = rel ? RelationGetRelationName(rel) : NULL;
	reader->system_columns = system_columns;
	reader->cxt = AllocSetContextCreate(estate->es_query_cxt, "kessel row",
										ALLOCSET_SMALL_SIZES);

	/* A query that needs no column at all is deparsed as SELECT NULL. */
	reader->ncolumns = Max(list_length(retrieved), 1);
	reader->attnums = palloc0(reader->ncolumns * sizeof(int));
	foreach(cell, retrieved)
	{
		int			attnum = lfirst_int(cell);

		reader->attnums[i++] = attnum;
		if (attnum < 0)
			reader->system_columns = true;
	}
	MemoryContextSwitchTo(old);
}

void
kr_reader_check(const KrRowReader *reader, const PGresult *result)
{
	if (PQnfields(result) != reader->ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
				 errmsg("data source sent %d columns instead of %d",
						PQnfields(result), reader->ncolumns),
				 errhint("Run kessel.import_tables() again if the remote table has changed.")));
}

static void
conversion_context(void *arg)
{
	KrRowReader *reader = arg;
	int			attnum;

	if (reader->current < 0)
		return;
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_DATA_EXCEPTION)
		errhint("If the remote column has changed, bring the router tables up to date with kessel.import_tables().");
	attnum = reader->attnums[reader->current];
	if (reader->relname == NULL)
		errcontext("column %d of the remote result", reader->current + 1);
	else
		errcontext("column \"%s\" of foreign table \"%s\"",
				   attnum > 0 ? NameStr(TupleDescAttr(reader->desc, attnum - 1)->attname) : "ctid",
				   reader->relname);
}

/* Convert one row into arrays that have room for the whole tuple. */
static void
convert(KrRowReader *reader, const char *const *columns, Datum *values, bool *nulls,
		ItemPointer ctid)
{
	ErrorContextCallback callback;

	memset(nulls, true, reader->desc->natts * sizeof(bool));
	memset(values, 0, reader->desc->natts * sizeof(Datum));
	ItemPointerSetInvalid(ctid);

	callback.callback = conversion_context;
	callback.arg = reader;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	for (reader->current = 0; reader->current < reader->ncolumns; reader->current++)
	{
		int			attnum = reader->attnums[reader->current];
		char	   *text = unconstify(char *, columns[reader->current]);

		/* The data source was asked for our encoding; nothing makes it keep to it. */
		if (text != NULL)
			(void) pg_verifymbstr(text, strlen(text), false);

		if (attnum > 0)
		{
			int			i = attnum - 1;

			/* NULL goes through it too: a domain may object. */
			nulls[i] = text == NULL;
			values[i] = InputFunctionCall(&reader->input->attinfuncs[i], text,
										  reader->input->attioparams[i],
										  reader->input->atttypmods[i]);
		}
		else if (attnum == SelfItemPointerAttributeNumber && text != NULL)
			*ctid = *(ItemPointer) DatumGetPointer(DirectFunctionCall1(tidin, CStringGetDatum(text)));
	}
	reader->current = -1;
	error_context_stack = callback.previous;
}

/* A row as a virtual tuple; its values live to the next row. */
static void
store_virtual(KrRowReader *reader, const char *const *columns, TupleTableSlot *slot)
{
	ItemPointerData ctid;

	ExecClearTuple(slot);
	convert(reader, columns, slot->tts_values, slot->tts_isnull, &ctid);
	ExecStoreVirtualTuple(slot);
}

/*
 * A row as a heap tuple, for who asks for system columns. Those that the data
 * source does not tell are made invalid rather than left to chance.
 */
static void
store_heap(KrRowReader *reader, const char *const *columns, TupleTableSlot *slot)
{
	Datum	   *values = palloc(reader->desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(reader->desc->natts * sizeof(bool));
	ItemPointerData ctid;
	HeapTuple	tuple;

	convert(reader, columns, values, nulls, &ctid);

	MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = heap_form_tuple(reader->desc, values, nulls);
	if (ItemPointerIsValid(&ctid))
		tuple->t_self = tuple->t_data->t_ctid = ctid;
	HeapTupleHeaderSetXmax(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetXmin(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetCmin(tuple->t_data, InvalidTransactionId);
	ExecForceStoreHeapTuple(tuple, slot, true);
}

static void
store_row(KrRowReader *reader, const char *const *columns, TupleTableSlot *slot)
{
	MemoryContext old;

	MemoryContextReset(reader->cxt);
	old = MemoryContextSwitchTo(reader->cxt);
	if (reader->system_columns)
		store_heap(reader, columns, slot);
	else
		store_virtual(reader, columns, slot);
	MemoryContextSwitchTo(old);
}

static void
columns_of(const PGresult *result, int row, int ncolumns, const char **columns)
{
	for (int i = 0; i < ncolumns; i++)
		columns[i] = PQgetisnull(result, row, i) ? NULL : PQgetvalue(result, row, i);
}

void
kr_reader_store_result(KrRowReader *reader, const PGresult *result, int row,
					   TupleTableSlot *slot)
{
	const char *columns[MaxTupleAttributeNumber];

	columns_of(result, row, reader->ncolumns, columns);
	store_row(reader, columns, slot);
}

/* ---------- rows put aside ---------- */

void
kr_parked_init(KrParked *parked, EState *estate)
{
	memset(parked, 0, sizeof(*parked));
	parked->owner = CurrentResourceOwner;
	parked->cxt = estate->es_query_cxt;
}

static void
create_store(KrParked *parked, int ncolumns)
{
	TupleDesc	desc = CreateTemplateTupleDesc(ncolumns);

	for (int i = 1; i <= ncolumns; i++)
		TupleDescInitEntry(desc, i, NULL, CSTRINGOID, -1, 0);
	parked->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	parked->store = tuplestore_begin_heap(false, false, work_mem);
}

/* Add all rows of a result. */
void
kr_parked_add(KrParked *parked, const KrRowReader *reader, const PGresult *result)
{
	MemoryContext old = MemoryContextSwitchTo(parked->cxt);
	ResourceOwner old_owner = CurrentResourceOwner;

	kr_reader_check(reader, result);
	CurrentResourceOwner = parked->owner;
	if (parked->store == NULL)
		create_store(parked, reader->ncolumns);

	for (int row = 0; row < PQntuples(result); row++)
	{
		Datum		values[MaxTupleAttributeNumber];
		bool		nulls[MaxTupleAttributeNumber];

		for (int i = 0; i < reader->ncolumns; i++)
		{
			nulls[i] = PQgetisnull(result, row, i);
			values[i] = CStringGetDatum(PQgetvalue(result, row, i));
		}
		tuplestore_putvalues(parked->store, parked->slot->tts_tupleDescriptor,
							 values, nulls);
	}
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old);
}

/* The next row into slot; false at the end. */
bool
kr_parked_next(KrParked *parked, KrRowReader *reader, TupleTableSlot *slot)
{
	const char *columns[MaxTupleAttributeNumber];
	MemoryContext old;
	bool		found;

	if (parked->store == NULL)
		return false;

	/* A row read from disk belongs to the slot, which outlives the caller's row. */
	old = MemoryContextSwitchTo(parked->cxt);
	found = tuplestore_gettupleslot(parked->store, true, false, parked->slot);
	MemoryContextSwitchTo(old);
	if (!found)
		return false;

	slot_getallattrs(parked->slot);
	for (int i = 0; i < reader->ncolumns; i++)
		columns[i] = parked->slot->tts_isnull[i] ? NULL :
			DatumGetCString(parked->slot->tts_values[i]);
	store_row(reader, columns, slot);
	return true;
}

void
kr_parked_end(KrParked *parked)
{
	if (parked->store == NULL)
		return;
	ExecDropSingleTupleTableSlot(parked->slot);
	tuplestore_end(parked->store);
	parked->store = NULL;
}

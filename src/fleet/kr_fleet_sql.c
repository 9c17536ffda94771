/*
 * kr_fleet_sql.c
 *	  kessel.fleet_query(), kessel.fleet_rows() and kessel.fleet_exec().
 *
 * The first two return a row a call: in the list of a SELECT they stream, also to
 * a cursor, and what is not fetched is not read. In FROM, PostgreSQL collects
 * what a function returns before it delivers any, in work_mem and from there on
 * disk. fleet_exec() collects its rows itself, one a tenant: it is done when it
 * returns, however many of them are fetched.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "kr_fleet.h"
#include "kr_fleet_rows.h"
#include "kr_session.h"

PG_FUNCTION_INFO_V1(kr_fleet_query);
PG_FUNCTION_INFO_V1(kr_fleet_rows);
PG_FUNCTION_INFO_V1(kr_fleet_exec);

#define MAX_PARALLEL 1000

/* Their arguments, of all three alike, and the last one of fleet_rows(). */
enum
{
	ARG_SQL, ARG_TENANTS, ARG_MAX_PARALLEL, ARG_TIMEOUT, ARG_DEADLINE, ARG_PARAMS, ARG_ON_ERROR
};

/* From the first call to the last; in multi_call_memory_ctx. */
typedef struct Calls
{
	KrFleet    *fleet;
	AttInMetadata *types;		/* fleet_rows() */
	bool		warns;
} Calls;

/* ---------- arguments ---------- */

/* NULL: 0 ms, no limit. */
static int64
interval_ms(FunctionCallInfo fcinfo, int arg, const char *name)
{
	Interval   *span;
	double		ms;

	if (PG_ARGISNULL(arg))
		return 0;
	span = PG_GETARG_INTERVAL_P(arg);
	ms = span->time / 1000.0 + (span->day + span->month * 30.0) * 86400000.0;
	if (ms < 1 || ms > 30.0 * 86400000.0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between one millisecond and 30 days", name),
				 errhint("NULL is no limit.")));
	return (int64) ms;
}

/* Texts of an array; NULLs are NULL. */
static char **
texts(ArrayType *array, int *count)
{
	Datum	   *elems;
	bool	   *nulls;
	char	  **result;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, count);
	result = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = nulls[i] ? NULL : TextDatumGetCString(elems[i]);
	return result;
}

/* Each name once, in the order of the first of them. */
static int
without_repeats(char **names, int count)
{
	HASHCTL		ctl = {.keysize = NAMEDATALEN + 1,.entrysize = NAMEDATALEN + 1};
	HTAB	   *seen;
	int			kept = 0;

	ctl.hcxt = CurrentMemoryContext;
	seen = hash_create("kessel fleet names", Max(count, 16), &ctl,
					   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	for (int i = 0; i < count; i++)
	{
		bool		found = false;

		if (names[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a tenant is NULL"),
					 errhint("Name each by its slug or id, or leave the argument out for all active tenants.")));
		/* What is longer names none. */
		if (strlen(names[i]) <= NAMEDATALEN)
			(void) hash_search(seen, names[i], HASH_ENTER, &found);
		if (!found)
			names[kept++] = names[i];
	}
	hash_destroy(seen);
	return kept;
}

static void
take_tenants(FunctionCallInfo fcinfo, KrFleetOptions *options)
{
	if (PG_ARGISNULL(ARG_TENANTS))
	{
		if (!kr_session_enters_any_tenant())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for all tenants"),
					 errhint("Name those that the session's user is a member of.")));
		options->tenants = kr_route_active_tenants(CurrentMemoryContext, &options->ntenants);
		return;
	}
	options->tenants = texts(PG_GETARG_ARRAYTYPE_P(ARG_TENANTS), &options->ntenants);
	options->ntenants = without_repeats(options->tenants, options->ntenants);
}

/* In the current memory context. */
static void
take_options(FunctionCallInfo fcinfo, KrFleetKind kind, KrFleetOptions *options)
{
	memset(options, 0, sizeof(*options));
	options->kind = kind;
	if (PG_ARGISNULL(ARG_SQL))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the statement is NULL")));
	options->sql = text_to_cstring(PG_GETARG_TEXT_PP(ARG_SQL));
	options->max_parallel = PG_ARGISNULL(ARG_MAX_PARALLEL) ? 0 : PG_GETARG_INT32(ARG_MAX_PARALLEL);
	if (options->max_parallel < 1 || options->max_parallel > MAX_PARALLEL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_parallel must be between 1 and %d", MAX_PARALLEL)));
	options->timeout_ms = interval_ms(fcinfo, ARG_TIMEOUT, "timeout");
	options->deadline_ms = interval_ms(fcinfo, ARG_DEADLINE, "deadline");
	if (!PG_ARGISNULL(ARG_PARAMS))
		options->params = (const char *const *) texts(PG_GETARG_ARRAYTYPE_P(ARG_PARAMS), &options->nparams);
	if (options->nparams > PG_UINT16_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are more than %d parameters", PG_UINT16_MAX)));
	take_tenants(fcinfo, options);
}

/* ---------- fleet_query() ---------- */

typedef struct Conversion
{
	const KrFleetEvent *event;
	const Calls *calls;
	Datum		value;
	bool		isnull;
	HeapTuple	tuple;
} Conversion;

static void
convert_to_jsonb(void *arg)
{
	Conversion *c = arg;

	c->value = kr_fleet_row_to_jsonb(c->event->row, kr_fleet_sends_jsonb(c->event->target), &c->isnull);
}

static FuncCallContext *
begin_calls(FunctionCallInfo fcinfo, KrFleetKind kind)
{
	FuncCallContext *funcctx = SRF_FIRSTCALL_INIT();
	MemoryContext before = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
	Calls	   *calls = palloc0(sizeof(Calls));
	KrFleetOptions options;
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the columns are not known"),
				 errhint("Call it as FROM kessel.fleet_rows(...) AS t(tenant text, ...).")));
	funcctx->tuple_desc = BlessTupleDesc(desc);
	if (kind == KR_FLEET_ROWS)
		calls->types = TupleDescGetAttInMetadata(funcctx->tuple_desc);
	take_options(fcinfo, kind, &options);
	calls->fleet = kr_fleet_begin_statement(funcctx->multi_call_memory_ctx, &options);
	funcctx->user_fctx = calls;
	MemoryContextSwitchTo(before);
	return funcctx;
}

Datum
kr_fleet_query(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	KrFleetEvent event;
	Calls	   *calls;

	if (SRF_IS_FIRSTCALL())
		(void) begin_calls(fcinfo, KR_FLEET_QUERY);
	funcctx = SRF_PERCALL_SETUP();
	calls = funcctx->user_fctx;
	while (kr_fleet_next(calls->fleet, &event))
	{
		Conversion	c = {.event = &event,.calls = calls,.isnull = true};
		Datum		values[5] = {0};
		bool		nulls[5] = {false, false, true, true, false};

		/* The last row has been told already. */
		if (event.news == KR_FLEET_DONE && event.target->rows > 0)
			continue;
		/* The failure comes as the next event. */
		if (event.news == KR_FLEET_ROW && !kr_fleet_convert(event.target, convert_to_jsonb, &c))
			continue;
		values[0] = CStringGetTextDatum(event.target->label);
		values[1] = BoolGetDatum(event.news != KR_FLEET_FAILED);
		values[2] = c.value;
		nulls[2] = c.isnull;
		if (event.news == KR_FLEET_FAILED)
			values[3] = kr_fleet_error_to_jsonb(event.error, "");
		nulls[3] = event.news != KR_FLEET_FAILED;
		values[4] = Float8GetDatum(event.ms);
		SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
	}
	SRF_RETURN_DONE(funcctx);
}

/* ---------- fleet_rows() ---------- */

static void
convert_to_tuple(void *arg)
{
	Conversion *c = arg;

	c->tuple = kr_fleet_row_to_tuple(c->event->row, c->event->target->label, c->calls->types);
}

/* True: errors of single tenants are warnings. */
static bool
takes_warnings(FunctionCallInfo fcinfo)
{
	const char *on_error = PG_ARGISNULL(ARG_ON_ERROR) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_ERROR));

	if (strcmp(on_error, "stop") != 0 && strcmp(on_error, "warn") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("on_error must be \"stop\" or \"warn\"")));
	return strcmp(on_error, "warn") == 0;
}

Datum
kr_fleet_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	KrFleetEvent event;
	Calls	   *calls;

	if (SRF_IS_FIRSTCALL())
	{
		bool		warns = takes_warnings(fcinfo);

		funcctx = begin_calls(fcinfo, KR_FLEET_ROWS);
		((Calls *) funcctx->user_fctx)->warns = warns;
	}
	funcctx = SRF_PERCALL_SETUP();
	calls = funcctx->user_fctx;
	while (kr_fleet_next(calls->fleet, &event))
	{
		Conversion	c = {.event = &event,.calls = calls};

		if (event.news == KR_FLEET_FAILED)
			kr_fleet_report(event.error, event.target->label, calls->warns ? WARNING : ERROR);
		else if (event.news == KR_FLEET_ROW && kr_fleet_convert(event.target, convert_to_tuple, &c))
			SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(c.tuple));
	}
	SRF_RETURN_DONE(funcctx);
}

/* ---------- fleet_exec() ---------- */

static void
put_outcome(ReturnSetInfo *rsinfo, const KrFleetEvent *event)
{
	bool		ok = event->news == KR_FLEET_DONE;
	Datum		values[6] = {0};
	bool		nulls[6] = {false, false, !ok, !ok, ok, false};

	values[0] = CStringGetTextDatum(event->target->label);
	values[1] = BoolGetDatum(ok);
	if (ok)
	{
		values[2] = CStringGetTextDatum(kr_fleet_command_of(event->target));
		values[3] = Int64GetDatum((int64) event->target->rows);
	}
	else
		values[4] = kr_fleet_error_to_jsonb(event->error, "");
	values[5] = Float8GetDatum(event->ms);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
kr_fleet_exec(PG_FUNCTION_ARGS)
{
	MemoryContext row_cxt;
	MemoryContext before;
	KrFleetOptions options;
	KrFleetEvent event;
	KrFleet    *fleet;

	PreventCommandIfReadOnly("kessel.fleet_exec()");
	InitMaterializedSRF(fcinfo, 0);
	take_options(fcinfo, KR_FLEET_EXEC, &options);
	fleet = kr_fleet_begin_statement(CurrentMemoryContext, &options);
	row_cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel fleet outcome",
									ALLOCSET_SMALL_SIZES);
	while (kr_fleet_next(fleet, &event))
	{
		before = MemoryContextSwitchTo(row_cxt);
		put_outcome((ReturnSetInfo *) fcinfo->resultinfo, &event);
		MemoryContextSwitchTo(before);
		MemoryContextReset(row_cxt);
	}
	return (Datum) 0;
}

/*
 * kr_migrate_sql.c
 *	  kessel._migration_begin(), _next(), _open() and _stop(): the engine under
 *	  kessel.migrate() and kessel.rollback(), which commit between two calls.
 *
 * What ends such a call, cancellation or failed targets, is raised here without
 * context: the lines of the procedures in which that was would be longer than the
 * error, and say nothing to who has called them.
 *
 * A session has one at most. It lives in the portal that was active when it was
 * begun, so to the end of the procedure's CALL, and goes with it: what then runs in
 * targets is cancelled, and rolled back there. Who calls _migration_begin() from a
 * query of its own portal, as a FOR loop's, has it for as long as that.
 *
 * It reads the migrations once, when it begins. Data sources and credentials are
 * looked up as each target is begun.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "kr_error.h"
#include "kr_fleet_rows.h"
#include "kr_migrate.h"
#include "kr_spi.h"

PG_FUNCTION_INFO_V1(kr_migration_begin);
PG_FUNCTION_INFO_V1(kr_migration_next);
PG_FUNCTION_INFO_V1(kr_migration_open);
PG_FUNCTION_INFO_V1(kr_migration_stop);
PG_FUNCTION_INFO_V1(kr_migration_stop_after);
PG_FUNCTION_INFO_V1(kr_migration_fail);

#define MAX_PARALLEL 1000
#define MAX_LINES 1000

/* So long more is waited for when something has happened. */
#define GATHER_MS 100

enum
{
	ARG_RUN_ID, ARG_BLUEPRINT, ARG_DIRECTION, ARG_TO_VERSION, ARG_DRY_RUN, ARG_MAX_PARALLEL,
	ARG_TIMEOUT, ARG_LOCK_TIMEOUT, ARG_LOCK_RETRIES, ARG_SOURCES, ARG_SCHEMAS
};

/* The one of this session; NULL: none. */
static KrFleet *current = NULL;
static uint64 begun = 0;

/* Failures that it takes; the next one stops it. -1: any number. */
static int	failures_left = -1;

/* In the portal's memory. */
typedef struct Owner
{
	MemoryContextCallback callback;
	uint64		number;			/* of the one that was begun there */
} Owner;

static void
forget(void *arg)
{
	if (((Owner *) arg)->number == begun)
		current = NULL;
}

/* ---------- beginning ---------- */

static int64
interval_ms(FunctionCallInfo fcinfo, int arg, const char *name)
{
	Interval   *span;
	double		ms;

	if (PG_ARGISNULL(arg))
		return 0;
	span = PG_GETARG_INTERVAL_P(arg);
	ms = span->time / 1000.0 + (span->day + span->month * 30.0) * 86400000.0;
	if (ms < 1 || ms > 24 * 86400000.0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between one millisecond and 24 days", name),
				 errhint("NULL is no limit.")));
	return (int64) ms;
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (PG_ARGISNULL(i) && i != ARG_TIMEOUT && i != ARG_LOCK_TIMEOUT)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d is NULL", i + 1)));
	}
	if (PG_GETARG_INT32(ARG_MAX_PARALLEL) < 1 || PG_GETARG_INT32(ARG_MAX_PARALLEL) > MAX_PARALLEL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_parallel must be between 1 and %d", MAX_PARALLEL)));
	if (PG_GETARG_INT32(ARG_LOCK_RETRIES) < 0 || PG_GETARG_INT32(ARG_TO_VERSION) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lock_retries and to_version must not be less than 0")));
}

static void
take_targets(FunctionCallInfo fcinfo, KrMigrateProgram *program)
{
	Datum	   *ids;
	Datum	   *names;
	bool	   *no_id;
	bool	   *no_name;
	int			count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_SOURCES), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &ids, &no_id, &program->base.ntargets);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_SCHEMAS), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, &no_name, &count);
	if (count != program->base.ntargets)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("there are %d data sources and %d schemas", program->base.ntargets, count)));
	program->sources = palloc(sizeof(pg_uuid_t) * Max(count, 1));
	program->schemas = palloc(sizeof(char *) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		if (no_id[i] || no_name[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("target %d is NULL", i + 1)));
		program->sources[i] = *DatumGetUUIDP(ids[i]);
		program->schemas[i] = TextDatumGetCString(names[i]);
	}
}

static bool
takes_down(FunctionCallInfo fcinfo)
{
	const char *direction = text_to_cstring(PG_GETARG_TEXT_PP(ARG_DIRECTION));

	if (strcmp(direction, "up") != 0 && strcmp(direction, "down") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("direction must be \"up\" or \"down\"")));
	return strcmp(direction, "down") == 0;
}

static void
take_arguments(FunctionCallInfo fcinfo, KrMigrateProgram *program)
{
	check_arguments(fcinfo);
	program->run_id = DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(ARG_RUN_ID)));
	program->blueprint = text_to_cstring(PG_GETARG_TEXT_PP(ARG_BLUEPRINT));
	program->down = takes_down(fcinfo);
	program->to_version = PG_GETARG_INT32(ARG_TO_VERSION);
	program->dry_run = PG_GETARG_BOOL(ARG_DRY_RUN);
	program->base.max_parallel = PG_GETARG_INT32(ARG_MAX_PARALLEL);
	program->base.timeout_ms = interval_ms(fcinfo, ARG_TIMEOUT, "timeout");
	program->lock_timeout_ms = interval_ms(fcinfo, ARG_LOCK_TIMEOUT, "lock_timeout");
	program->lock_retries = PG_GETARG_INT32(ARG_LOCK_RETRIES);
	take_targets(fcinfo, program);
}

static bool
column_is_true(int row, int column)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}

static void
read_migrations(KrMigrateProgram *program)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {TEXTOID, BOOLOID};
	MemoryContext cxt = program->cxt;
	Datum		values[2];

	values[0] = CStringGetTextDatum(program->blueprint);
	values[1] = BoolGetDatum(program->down);
	kr_spi_read(&plan,
				"SELECT version, name, checksum, CASE WHEN $2 THEN down ELSE up END, transactional "
				"FROM kessel.migrations WHERE blueprint = $1 ORDER BY version",
				2, argtypes, values);
	program->nmigrations = SPI_processed;
	program->migrations = MemoryContextAllocZero(cxt, sizeof(KrMigration) * Max(program->nmigrations, 1));
	for (int i = 0; i < program->nmigrations; i++)
	{
		KrMigration *migration = &program->migrations[i];

		migration->version = atoi(kr_spi_text(i, 1, cxt));
		migration->name = kr_spi_text(i, 2, cxt);
		migration->checksum = kr_spi_text(i, 3, cxt);
		migration->script = kr_spi_text(i, 4, cxt);
		migration->transactional = column_is_true(i, 5);
	}
}

/* What is sent to each target, whatever is migrated. */
static char *
read_own_scripts(KrMigrateProgram *program)
{
	static SPIPlanPtr plan = NULL;

	kr_spi_read(&plan, "SELECT kessel._migrations_script(), kessel._row_safety_query(), kessel._agent_owner_check()", 0, NULL, NULL);
	program->row_safety = kr_spi_text(0, 2, program->cxt);
	program->owner_check = kr_spi_text(0, 3, program->cxt);
	return kr_spi_text(0, 1, program->cxt);
}

static void
read_catalogue(KrMigrateProgram *program)
{
	char	   *script;
	KrSpi		spi;

	kr_spi_begin(&spi);
	read_migrations(program);
	script = read_own_scripts(program);
	kr_spi_end(&spi);
	if (program->nmigrations == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("blueprint \"%s\" has no migrations", program->blueprint),
				 errhint("SELECT name FROM kessel.blueprints lists those that there are; kessel.add_migration() adds one.")));
	program->install = kr_script_split(script);
}

static void
own_in_portal(void)
{
	Owner	   *owner = MemoryContextAllocZero(PortalContext, sizeof(Owner));

	owner->number = ++begun;
	owner->callback.func = forget;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(PortalContext, &owner->callback);
}

Datum
kr_migration_begin(PG_FUNCTION_ARGS)
{
	KrMigrateProgram *program;
	KrFleet    *fleet;
	MemoryContext before;

	PreventCommandIfReadOnly("kessel._migration_begin()");
	/* A process in the background may have none. */
	if (PortalContext == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("migrations cannot be begun outside of a statement")));
	if (current != NULL && kr_fleet_open(current) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migrations are under way in this session")));
	if (current != NULL)
		kr_fleet_end(current);
	current = NULL;
	own_in_portal();
	fleet = kr_fleet_create(PortalContext);
	before = MemoryContextSwitchTo(kr_fleet_memory(fleet));
	program = palloc0(sizeof(KrMigrateProgram));
	program->cxt = kr_fleet_memory(fleet);
	take_arguments(fcinfo, program);
	read_catalogue(program);
	kr_migrate_make_program(program);
	kr_fleet_begin(fleet, &program->base);
	MemoryContextSwitchTo(before);
	current = fleet;
	failures_left = -1;
	PG_RETURN_VOID();
}

/* ---------- news ---------- */

static const char *
news_name(const KrFleetEvent *event)
{
	const KrMigrateWork *work = kr_migrate_work(event->target);

	switch (event->news)
	{
		case KR_FLEET_BEGUN:
			return "begun";
		case KR_FLEET_RETRIES:
			return "retry";
		case KR_FLEET_DONE:
			return "done";
		default:
			return work != NULL && work->unknown ? "unknown" : "failed";
	}
}

/* Another role, or another password, would help. */
static bool
is_of_role(const ErrorData *error)
{
	return (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE && error->hint == NULL) ||
		error->sqlerrcode == ERRCODE_INVALID_PASSWORD ||
		error->sqlerrcode == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
}

static char *
role_hint(const KrSource *source)
{
	return psprintf("It is done as role \"%s\". SELECT kessel.set_credential(%s, ..., purpose => 'owner') names another, or sets the password.",
					source->username ? source->username : "", quote_literal_cstr(source->name));
}

/* {... "migration": "0003_x", "statement": 2, "line": 7} */
static Datum
error_of(const KrFleetEvent *event)
{
	ErrorData	told = *event->error;
	const KrMigration *migration;
	StringInfoData more;
	int			statement;
	int			line;

	initStringInfo(&more);
	if (is_of_role(&told) && event->target->source != NULL)
		told.hint = role_hint(event->target->source);
	if (kr_migrate_place(event->target, &migration, &statement, &line))
	{
		appendStringInfoString(&more, ", \"migration\": ");
		escape_json(&more, migration->name);
		if (statement > 0)
			appendStringInfo(&more, ", \"statement\": %d, \"line\": %d", statement, line);
	}
	return kr_fleet_error_to_jsonb(&told, more.data);
}

static void
put_line(ReturnSetInfo *rsinfo, const KrFleetEvent *event)
{
	const KrMigrateWork *work = kr_migrate_work(event->target);
	bool		read = work != NULL && work->read;
	Datum		values[8] = {0};
	bool		nulls[8] = {false};

	values[0] = Int32GetDatum(event->target->index + 1);
	values[1] = CStringGetTextDatum(news_name(event));
	nulls[2] = !read;
	nulls[3] = !read || work->unknown;
	nulls[4] = event->news == KR_FLEET_BEGUN;
	if (work != NULL)
	{
		values[2] = Int32GetDatum(work->from_version);
		values[3] = Int32GetDatum(work->version);
		values[4] = Int32GetDatum(work->applied);
	}
	values[5] = Int32GetDatum(work ? work->attempts : 1);
	nulls[6] = event->error == NULL;
	if (event->error != NULL)
		values[6] = error_of(event);
	values[7] = Float8GetDatum(event->ms);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* What happens until then, and what is known already. */
static void
gather(ReturnSetInfo *rsinfo, int64 wait_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = TimestampTzPlusMilliseconds(now, Max(wait_ms, 1));
	TimestampTz enough = TimestampTzPlusMilliseconds(now, GATHER_MS);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel migration line",
											  ALLOCSET_SMALL_SIZES);
	KrFleetEvent event;
	int			lines = 0;

	while (lines < MAX_LINES &&
		   kr_fleet_next_until(current, &event, lines > 0 ? Min(until, enough) : until) &&
		   event.news != KR_FLEET_NOTHING)
	{
		MemoryContext before = MemoryContextSwitchTo(cxt);

		put_line(rsinfo, &event);
		MemoryContextSwitchTo(before);
		MemoryContextReset(cxt);
		lines++;
		/* At once: before the fleet is asked again, it begins nobody. */
		if (event.news == KR_FLEET_FAILED && failures_left >= 0 && failures_left-- == 0)
			kr_fleet_stop(current);
	}
}

static void
demand_current(void)
{
	if (current == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no migrations are under way in this session")));
}

Datum
kr_migration_next(PG_FUNCTION_ARGS)
{
	ErrorContextCallback *context = error_context_stack;
	int64		wait_ms = PG_ARGISNULL(0) ? 0 : interval_ms(fcinfo, 0, "wait");

	demand_current();
	InitMaterializedSRF(fcinfo, 0);
	error_context_stack = NULL;
	PG_TRY();
	{
		gather((ReturnSetInfo *) fcinfo->resultinfo, wait_ms);
	}
	PG_CATCH();
	{
		/* Somebody may catch it: nothing is left half done. */
		kr_fleet_end(current);
		current = NULL;
		PG_RE_THROW();
	}
	PG_END_TRY();
	error_context_stack = context;
	return (Datum) 0;
}

Datum
kr_migration_open(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(current == NULL ? 0 : kr_fleet_open(current));
}

Datum
kr_migration_stop(PG_FUNCTION_ARGS)
{
	demand_current();
	kr_fleet_stop(current);
	PG_RETURN_VOID();
}

Datum
kr_migration_stop_after(PG_FUNCTION_ARGS)
{
	demand_current();
	failures_left = Max(PG_GETARG_INT32(0), 0);
	PG_RETURN_VOID();
}

/* Whoever catches it has the context back. */
Datum
kr_migration_fail(PG_FUNCTION_ARGS)
{
	const char *message = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *detail = text_to_cstring(PG_GETARG_TEXT_PP(1));
	const char *hint = text_to_cstring(PG_GETARG_TEXT_PP(2));

	error_context_stack = NULL;
	ereport(ERROR,
			(errcode(KR_ERR_MIGRATION_FAILED),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
	PG_RETURN_VOID();
}

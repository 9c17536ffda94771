/*
 * kr_setup.c
 *	  What of the catalogue of blueprints cannot be said in SQL: who adds a
 *	  migration, running some in this database, and counting rows that would go.
 *
 * Both know the role whose rights the caller has at that moment, as functions
 * with SECURITY DEFINER cannot. Neither the session's role nor the one that was
 * SET would do: an index function of somebody else's can call us while a
 * superuser maintains his table.
 *
 * A migration of this database runs with that role's rights and in the caller's
 * transaction, its statements one by one as text, since a statement may need what
 * the one before has made. What may run is decided, and what has run is recorded,
 * with the rights of the extension's owner before and after, by
 * kessel._migration_here() and kessel._migrated_here(): nobody can record what has
 * not run. Whatever a script sets, with LOCAL or without, ends with it. What the
 * catalogs say before the first and after the last is compared and recorded, too,
 * for kessel.setup_drift().
 *
 * A superuser may have become that role by SET ROLE, to run what it has written or
 * over what it owns. Then a script runs as PostgreSQL maintains another one's table:
 * neither it nor a trigger can come back to the session's rights by RESET ROLE, or
 * leave something behind that runs later, with the transaction's end.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "kr_script.h"
#include "kr_spi.h"

PG_FUNCTION_INFO_V1(kr_setup_add_migration);
PG_FUNCTION_INFO_V1(kr_setup_run_migrations);
PG_FUNCTION_INFO_V1(kr_setup_count_rows);

/* Where unqualified names are looked up, and where what is made is put. */
#define SEARCH_PATH "public, pg_temp"

static Datum
caller(void)
{
	return DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(GetUserId(), false)));
}

/* ---------- adding one ---------- */

/* kessel.add_migration(blueprint, name, up, down, transactional) */
Datum
kr_setup_add_migration(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, NAMEOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];
	KrSpi		spi;

	for (int i = 0; i < lengthof(types) - 1; i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_GETARG_DATUM(i);
	}
	values[lengthof(types) - 1] = caller();
	nulls[lengthof(types) - 1] = ' ';

	kr_spi_begin(&spi);
	kr_spi_write(&plan, "SELECT kessel._add_migration($1, $2, $3, $4, $5, $6)",
				 lengthof(types), types, values, nulls);
	kr_spi_end(&spi);
	PG_RETURN_VOID();
}

/* ---------- running one ---------- */

typedef struct Running
{
	const char *what;			/* as "migration ..." */
	const char *applied_by;		/* the way back: who has applied it; else NULL */
	int			ordinal;
	int			line;
} Running;

/*
 * What to do where a way back fails for what has happened to its objects. The
 * server's own hint may be to drop more than that.
 */
static void
hint_way_back(const char *applied_by)
{
	switch (geterrcode())
	{
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			errhint("Role \"%s\" has applied it: call it as that one, with SET ROLE.",
					applied_by);
			break;
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_UNDEFINED_SCHEMA:
			errhint("SELECT * FROM kessel.setup_drift() shows what is not there any more, and how to bring it back. Then take it back.");
			break;
		case ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST:
			errhint("Drop or change what depends on it, then call kessel.teardown() again.");
			break;
		default:
			break;
	}
}

static void
tell_place(void *arg)
{
	Running    *running = arg;

	if (running->applied_by != NULL)
		hint_way_back(running->applied_by);
	if (running->ordinal > 0)
		errcontext("statement %d, line %d, of %s", running->ordinal, running->line, running->what);
	else
		errcontext("%s", running->what);
}

/*
 * An error's context repeats the statement, which may be a hundred lines; the place
 * in the script says more, so the first line of it is kept.
 */
static char *
shortened(char *context, const char *sql)
{
	char	   *found = context != NULL ? strstr(context, sql) : NULL;
	size_t		line = strcspn(sql, "\n");

	if (found == NULL || sql[line] == '\0')
		return context;
	return psprintf("%.*s%.*s ...%s", (int) (found - context), context, (int) line, sql,
					found + strlen(sql));
}

static void
run_statement(const char *sql)
{
	MemoryContext caller_context = CurrentMemoryContext;
	volatile int rc = 0;

	PG_TRY();
	{
		rc = SPI_execute(sql, false, 0);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller_context);
		error = CopyErrorData();
		FlushErrorState();
		error->context = shortened(error->context, sql);
		ReThrowError(error);
	}
	PG_END_TRY();
	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the statement cannot be run in a function: %s",
						SPI_result_code_string(rc))));
	SPI_freetuptable(SPI_tuptable);
}

static void
run_script(const char *script, Running running)
{
	ErrorContextCallback callback = {.callback = tell_place,.arg = &running};
	bool		confined = superuser_arg(GetAuthenticatedUserId()) && !superuser();
	List	   *statements;
	ListCell   *cell;
	Oid			save_userid;
	int			save_sec_context;
	int			level;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = kr_script_split(script);

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	if (confined)
		SetUserIdAndSecContext(save_userid, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	foreach(cell, statements)
	{
		KrScriptStatement *statement = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		running.ordinal++;
		running.line = statement->line;
		run_statement(statement->sql);
	}
	SPI_finish();
	/* Taken back, whatever the script has set. */
	AtEOXact_GUC(false, level);
	/* An error's subtransaction restores it, too. */
	if (confined)
		SetUserIdAndSecContext(save_userid, save_sec_context);
	error_context_stack = callback.previous;
}

/*
 * Asked anew, in the newest snapshot: a transaction that has waited for another
 * one's setup may see the time before it only.
 */
static void
check_still_to_do(Datum *arguments)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, INT4OID, BOOLOID};

	kr_spi_read(&plan,
				"SELECT FROM kessel.applied_migrations a WHERE a.blueprint = $1 AND a.version = $2"
				" HAVING (count(*) > 0) = $3", lengthof(types), types, arguments);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("another session has migrated this database meanwhile"),
				 errhint("Run the transaction again.")));
}

/* Arguments of what decides and records. */
enum
{
	BLUEPRINT, VERSION, BACK, RUNNER, NARGS
};
static const Oid run_types[NARGS] = {TEXTOID, INT4OID, BOOLOID, NAMEOID};

/*
 * What the catalogs say, in cxt. Before a run and after it with the same snapshot
 * of others' work, so that what differs is the run's.
 */
static Datum
look(Snapshot of_others, MemoryContext cxt)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext spi_cxt;
	Datum		seen;
	bool		isnull;
	KrSpi		spi;

	kr_spi_begin(&spi);
	PushCopiedSnapshot(of_others);
	UpdateActiveSnapshotCommandId();
	kr_spi_read(&plan, "SELECT kessel._setup_look()", 0, NULL, NULL);
	PopActiveSnapshot();
	seen = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	spi_cxt = MemoryContextSwitchTo(cxt);
	seen = PointerGetDatum(PG_DETOAST_DATUM_COPY(seen));
	MemoryContextSwitchTo(spi_cxt);
	kr_spi_end(&spi);
	return seen;
}

static void
run_migration(Datum *values, MemoryContext cxt)
{
	static SPIPlanPtr begin_plan = NULL;
	static SPIPlanPtr end_plan = NULL;
	Running		running = {0};
	KrSpi		spi;
	char	   *script;

	kr_spi_begin(&spi);
	check_still_to_do(values);
	kr_spi_write(&begin_plan, "SELECT script, what, applied_by FROM kessel._migration_here($1, $2, $3, $4)",
				 NARGS, run_types, values, NULL);
	script = kr_spi_text(0, 1, cxt);
	running.what = kr_spi_text(0, 2, cxt);
	running.applied_by = kr_spi_text(0, 3, cxt);
	kr_spi_end(&spi);

	run_script(script, running);

	kr_spi_begin(&spi);
	kr_spi_write(&end_plan, "SELECT kessel._migrated_here($1, $2, $3, $4)",
				 NARGS, run_types, values, NULL);
	kr_spi_end(&spi);
}

/*
 * What has been made between two looks, and by which migration: its OIDs are below
 * those of until, the first ones that came after each.
 */
static void
record_run(Datum blueprints, Datum versions, Datum *until, int n, Datum runner, Datum before, Datum after)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID, NAMEOID, JSONBOID, JSONBOID};
	Datum		values[] = {blueprints, versions, (Datum) 0, runner, before, after};
	KrSpi		spi;

	values[2] = PointerGetDatum(construct_array(until, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	kr_spi_begin(&spi);
	kr_spi_write(&plan, "SELECT kessel._setup_done($1, $2, $3, $4, $5, $6)", lengthof(types), types, values, NULL);
	kr_spi_end(&spi);
}

static Datum
run_timed(Datum *values, MemoryContext cxt)
{
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	run_migration(values, cxt);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	return Float8GetDatum(INSTR_TIME_GET_MILLISEC(end));
}

/* Those of an array, without NULLs. */
static Datum *
elements(ArrayType *array, Oid type, int *n)
{
	int16		len;
	bool		byval;
	char		align;
	Datum	   *elems;

	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a migration is NULL")));
	get_typlenbyvalalign(type, &len, &byval, &align);
	deconstruct_array(array, type, len, byval, align, &elems, NULL, n);
	return elems;
}

static Datum
run_migrations(FunctionCallInfo fcinfo)
{
	MemoryContext cxt = CurrentMemoryContext;
	int			n;
	int			nversions;
	Datum	   *blueprints = elements(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, &n);
	Datum	   *versions = elements(PG_GETARG_ARRAYTYPE_P(1), INT4OID, &nversions);
	Datum		values[NARGS];
	Datum	   *times = palloc(sizeof(Datum) * Max(n, 1));
	Datum	   *until = palloc(sizeof(Datum) * Max(n, 1));
	Snapshot	of_others;
	Datum		before;

	if (n != nversions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there must be as many versions as blueprints")));

	values[BACK] = PG_GETARG_DATUM(2);
	values[RUNNER] = caller();
	of_others = RegisterSnapshot(GetLatestSnapshot());
	before = look(of_others, cxt);
	for (int i = 0; i < n; i++)
	{
		values[BLUEPRINT] = blueprints[i];
		values[VERSION] = versions[i];
		times[i] = run_timed(values, cxt);
		until[i] = Int64GetDatum(GetNewObjectId());
	}
	record_run(PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), until, n, values[RUNNER], before, look(of_others, cxt));
	UnregisterSnapshot(of_others);
	PG_RETURN_ARRAYTYPE_P(construct_array(times, n, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
										  TYPALIGN_DOUBLE));
}

/*
 * kessel._run_migrations(blueprints, versions, back): one after the other, or their
 * ways back; each one's time in milliseconds.
 */
Datum
kr_setup_run_migrations(PG_FUNCTION_ARGS)
{
	static bool is_running = false;
	Datum		times = (Datum) 0;

	if (creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration cannot run while an extension is created"),
				 errdetail("What it makes would belong to the extension.")));
	if (is_running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration cannot run while another one does"),
				 errdetail("It could take that one back, which is to be recorded.")));
	PG_TRY();
	{
		is_running = true;
		times = run_migrations(fcinfo);
	}
	PG_FINALLY();
	{
		is_running = false;
	}
	PG_END_TRY();
	return times;
}

/* ---------- what would be lost ---------- */

/*
 * kessel._count_rows(relation, up_to): rows of a table that the transaction has
 * locked against everybody, without its partitions; one more than up_to where
 * there are more. Of the newest state, whatever the isolation level, and without
 * a query, which could run what the table's owner has put on it.
 */
Datum
kr_setup_count_rows(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	int64		up_to = PG_GETARG_INT64(1);
	int64		n = 0;

	if (!CheckRelationLockedByMe(rel, AccessExclusiveLock, true))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not locked", RelationGetRelationName(rel))));
	if (rel->rd_rel->relkind == RELKIND_RELATION)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		while (n <= up_to && table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			CHECK_FOR_INTERRUPTS();
			n++;
		}
		ExecDropSingleTupleTableSlot(slot);
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
	}
	table_close(rel, AccessShareLock);
	PG_RETURN_INT64(n);
}

/*
 * kr_setup.c
 *	  What of the catalogue of blueprints cannot be said in SQL: who adds a
 *	  migration, and running one in this database.
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
 * not run. Whatever a script sets, with LOCAL or without, ends with it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "kr_script.h"
#include "kr_spi.h"

PG_FUNCTION_INFO_V1(kr_setup_add_migration);
PG_FUNCTION_INFO_V1(kr_setup_run_migration);

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
	int			ordinal;
	int			line;
} Running;

static void
tell_place(void *arg)
{
	Running    *running = arg;

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
run_script(const char *script, const char *what)
{
	Running		running = {.what = what};
	ErrorContextCallback callback = {.callback = tell_place,.arg = &running};
	List	   *statements;
	ListCell   *cell;
	int			level;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = kr_script_split(script);

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

/*
 * kessel._run_migration(blueprint, version, back), or its way back; in milliseconds.
 */
Datum
kr_setup_run_migration(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr begin_plan = NULL;
	static SPIPlanPtr end_plan = NULL;
	static const Oid types[] = {TEXTOID, INT4OID, BOOLOID, NAMEOID};
	Datum		values[lengthof(types)];
	MemoryContext cxt = CurrentMemoryContext;
	instr_time	start;
	instr_time	end;
	KrSpi		spi;
	char	   *script;
	char	   *what;

	if (creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration cannot run while an extension is created"),
				 errdetail("What it makes would belong to the extension.")));

	for (int i = 0; i < lengthof(types) - 1; i++)
		values[i] = PG_GETARG_DATUM(i);
	values[lengthof(types) - 1] = caller();

	INSTR_TIME_SET_CURRENT(start);
	kr_spi_begin(&spi);
	check_still_to_do(values);
	kr_spi_write(&begin_plan, "SELECT script, what FROM kessel._migration_here($1, $2, $3, $4)",
				 lengthof(types), types, values, NULL);
	script = kr_spi_text(0, 1, cxt);
	what = kr_spi_text(0, 2, cxt);
	kr_spi_end(&spi);

	run_script(script, what);

	kr_spi_begin(&spi);
	kr_spi_write(&end_plan, "SELECT kessel._migrated_here($1, $2, $3, $4)",
				 lengthof(types), types, values, NULL);
	kr_spi_end(&spi);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_MILLISEC(end));
}

/*
 * kr_script_sql.c
 *	  Scripts from SQL: what is in one, and running one in this database.
 *
 * A script runs with the caller's rights and within the caller's transaction,
 * statement by statement, as text that is parsed only when its turn has come: a
 * statement may need what the one before has made. Whatever it sets, with LOCAL
 * or without, ends with it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"

#include "kr_script.h"

PG_FUNCTION_INFO_V1(kr_script_statements);
PG_FUNCTION_INFO_V1(kr_script_run);
PG_FUNCTION_INFO_V1(kr_script_placed);

/* Where unqualified names are looked up, and where what is made is put. */
#define SEARCH_PATH "public, pg_temp"

/* kessel._script_statements(script): a line for each. */
Datum
kr_script_statements(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *statements = kr_script_split(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, statements)
	{
		KrScriptStatement *statement = lfirst(cell);
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = Int32GetDatum(statement->line);
		values[1] = CStringGetTextDatum(statement->sql);
		nulls[2] = statement->alone == NULL;
		values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(statement->alone);
		values[3] = BoolGetDatum(statement->concurrent_index && statement->index_name == NULL);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* kessel._script_place(script, schema, runtime): for its tests. */
Datum
kr_script_placed(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(kr_script_place(text_to_cstring(PG_GETARG_TEXT_PP(0)),
													 PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
													 PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)))));
}

/* ---------- running ---------- */

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

	errcontext("statement %d, line %d, of %s", running->ordinal, running->line, running->what);
}

static void
run(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the statement cannot be run in a function: %s",
						SPI_result_code_string(rc))));
	SPI_freetuptable(SPI_tuptable);
}

/*
 * kessel._script_run(script, what). Returns how many statements there were. what
 * is for the context of errors.
 */
Datum
kr_script_run(PG_FUNCTION_ARGS)
{
	List	   *statements = kr_script_split(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	Running		running = {.what = text_to_cstring(PG_GETARG_TEXT_PP(1))};
	ErrorContextCallback callback = {.callback = tell_place,.arg = &running};
	ListCell   *cell;
	int			level;

	if (creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration cannot run while an extension is created"),
				 errdetail("What it makes would belong to the extension.")));

	level = NewGUCNestLevel();
	(void) set_config_option("search_path", SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	foreach(cell, statements)
	{
		KrScriptStatement *statement = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		running.ordinal++;
		running.line = statement->line;
		run(statement->sql);
	}
	error_context_stack = callback.previous;
	SPI_finish();
	/* Taken back, whatever the script has set, with LOCAL or without. */
	AtEOXact_GUC(false, level);
	PG_RETURN_INT32(list_length(statements));
}

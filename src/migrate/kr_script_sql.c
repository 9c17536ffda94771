/*
 * kr_script_sql.c
 *	  What is in a script, asked from SQL.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "kr_script.h"

PG_FUNCTION_INFO_V1(kr_script_statements);
PG_FUNCTION_INFO_V1(kr_script_placed);

static void
tell_what(void *what)
{
	errcontext("%s", (char *) what);
}

/* kessel._script_statements(script, what): a line for each. */
Datum
kr_script_statements(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ErrorContextCallback callback = {.callback = tell_what};
	List	   *statements;
	ListCell   *cell;

	callback.arg = text_to_cstring(PG_GETARG_TEXT_PP(1));
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = kr_script_split(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	error_context_stack = callback.previous;

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

static char *
text_or_null(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* kessel._script_place(script, schema_name, runtime) */
Datum
kr_script_placed(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(kr_script_place(text_or_null(fcinfo, 0),
													 text_or_null(fcinfo, 1),
													 text_or_null(fcinfo, 2))));
}

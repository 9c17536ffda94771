/*
 * kr_remote_sql.c
 *	  One-off statements on a data source, for the extension's own SQL: the
 *	  agent, import of tables, tests. Each call has a connection of its own,
 *	  outside the local transaction: what it does there is done when it returns.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "kr_compat.h"
#include "kr_remote_internal.h"

PG_FUNCTION_INFO_V1(kr_remote_query);
PG_FUNCTION_INFO_V1(kr_remote_exec);

/* Wait for the next result, letting interrupts through. */
static PGresult *
next_result(PGconn *pg, const char *source)
{
	while (PQisBusy(pg))
	{
		int			rc = WaitLatchOrSocket(MyLatch,
										   WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH,
										   PQsocket(pg), -1L, PG_WAIT_EXTENSION);

		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if ((rc & WL_SOCKET_READABLE) && !PQconsumeInput(pg))
			kr_remote_raise_lost(pg, source);
	}
	return PQgetResult(pg);
}

/*
 * The last result of what was sent. It is the caller's; an error in between
 * frees it and raises.
 */
static PGresult *
last_result(PGconn *pg, const char *source, bool raise)
{
	PGresult   *volatile last = NULL;

	PG_TRY();
	{
		PGresult   *result;

		while ((result = next_result(pg, source)) != NULL)
		{
			PQclear(last);
			last = result;
			CHECK_FOR_INTERRUPTS();
			if (raise && PQresultStatus(last) != PGRES_COMMAND_OK &&
				PQresultStatus(last) != PGRES_TUPLES_OK && PQresultStatus(last) != PGRES_SINGLE_TUPLE)
				kr_remote_raise_result(last, source, NULL, NULL, false);
		}
	}
	PG_CATCH();
	{
		PQclear(last);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return last;
}

PGresult *
kr_remote_run(PGconn *pg, const char *source, const char *sql, bool raise)
{
	if (!PQsendQuery(pg, sql))
		kr_remote_raise_lost(pg, source);
	return last_result(pg, source, raise);
}

/* Stop what is running, if it is, and close. */
void
kr_remote_close(PGconn *pg)
{
	if (PQtransactionStatus(pg) == PQTRANS_ACTIVE)
		(void) kr_remote_cancel(pg, KR_CLEANUP_TIMEOUT_MS);
	kr_remote_disconnect(pg);
}

/*
 * Names mean what they say. Catalog queries look dear to the planner and are
 * not; compiling one takes up to a second. For the transaction only: a pooler
 * may give the session to somebody else.
 */
#define SETTINGS "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off;"

/* Bytes. The tables of a large schema, described, are a few of these megabytes. */
#define MAX_ANSWER (256 * 1024 * 1024)

/* Statements without parameters or results of interest. */
static void
execute(PGconn *pg, const char *source, const char *script)
{
	if (!PQsendQuery(pg, script))
		kr_remote_raise_lost(pg, source);
	/* Rows that nobody has asked for have no room. */
	(void) PQsetSingleRowMode(pg);
	PQclear(last_result(pg, source, true));
}

/* A row as an array of text into the function's tuplestore; its size in bytes. */
static size_t
return_row(ReturnSetInfo *rsinfo, const PGresult *result)
{
	int			ncolumns = PQnfields(result);
	Datum	   *elems = palloc(ncolumns * sizeof(Datum));
	bool	   *nulls = palloc(ncolumns * sizeof(bool));
	int			lower = 1;
	size_t		size = ncolumns;
	Datum		array;
	bool		isnull = false;

	for (int i = 0; i < ncolumns; i++)
	{
		const char *value = PQgetvalue(result, 0, i);

		nulls[i] = PQgetisnull(result, 0, i);
		size += PQgetlength(result, 0, i);
		(void) pg_verifymbstr(value, strlen(value), false);
		elems[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(value);
	}
	array = PointerGetDatum(construct_md_array(elems, nulls, 1, &ncolumns, &lower,
											   TEXTOID, -1, false, TYPALIGN_INT));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &array, &isnull);
	return size;
}

/*
 * The rows of what was sent, one by one: all of them at once might be more than
 * there is memory. What is asked of is catalogs, so an end comes soon, or never.
 */
static void
return_rows(ReturnSetInfo *rsinfo, PGconn *pg, const char *source)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "kessel remote row",
													  ALLOCSET_DEFAULT_SIZES);
	PGresult   *volatile result = NULL;

	PG_TRY();
	{
		size_t		size = 0;

		while ((result = next_result(pg, source)) != NULL)
		{
			ExecStatusType status = PQresultStatus(result);

			CHECK_FOR_INTERRUPTS();
			if (status == PGRES_SINGLE_TUPLE)
			{
				MemoryContext old = MemoryContextSwitchTo(row_context);

				size += return_row(rsinfo, result);
				MemoryContextSwitchTo(old);
				MemoryContextReset(row_context);
			}
			else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
				kr_remote_raise_result(result, source, NULL, NULL, false);
			PQclear(result);
			result = NULL;
			if (size > MAX_ANSWER)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("data source \"%s\" answers with too much", source),
						 errdetail("It was asked of its catalogs, and more than %d MB came.", MAX_ANSWER / (1024 * 1024))));
		}
	}
	PG_CATCH();
	{
		PQclear(result);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextDelete(row_context);
}

/* kessel._remote_query(data_source_id uuid, purpose text, query text, params text[]) */
Datum
kr_remote_query(PG_FUNCTION_ARGS)
{
	char	   *purpose = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *query = text_to_cstring(PG_GETARG_TEXT_PP(2));
	const KrSource *source = kr_source_by_id(PG_GETARG_UUID_P(0), purpose);
	Datum	   *elems;
	bool	   *nulls;
	const char **values;
	int			nparams;
	PGconn	   *pg;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &nparams);
	values = palloc(sizeof(char *) * Max(nparams, 1));
	for (int i = 0; i < nparams; i++)
		values[i] = nulls[i] ? NULL : TextDatumGetCString(elems[i]);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	pg = kr_remote_connect(source, purpose);
	PG_TRY();
	{
		execute(pg, source->name, "BEGIN;" SETTINGS);
		if (!PQsendQueryParams(pg, query, nparams, NULL, values, NULL, NULL, 0))
			kr_remote_raise_lost(pg, source->name);
		(void) PQsetSingleRowMode(pg);
		return_rows((ReturnSetInfo *) fcinfo->resultinfo, pg, source->name);
		execute(pg, source->name, "COMMIT");
	}
	PG_FINALLY();
	{
		kr_remote_close(pg);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/* kessel._remote_exec(data_source_id uuid, purpose text, script text) */
Datum
kr_remote_exec(PG_FUNCTION_ARGS)
{
	char	   *purpose = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *script = text_to_cstring(PG_GETARG_TEXT_PP(2));
	const KrSource *source = kr_source_by_id(PG_GETARG_UUID_P(0), purpose);
	PGconn	   *pg = kr_remote_connect(source, purpose);

	PG_TRY();
	{
		execute(pg, source->name, psprintf("%s%s", SETTINGS, script));
	}
	PG_FINALLY();
	{
		kr_remote_close(pg);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

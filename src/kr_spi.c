/*
 * kr_spi.c
 *	  Reading and writing the extension's own tables from C, with its owner's
 *	  rights. Plans are kept for the life of the backend.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "kr_spi.h"

/*
 * The owner of the extension's tables, to whom row security does not apply.
 * Looked up each time, in syscaches: it follows ALTER and REASSIGN OWNED.
 */
static Oid
tables_owner(void)
{
	Oid			schema = get_namespace_oid("app", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("tenants", schema) : InvalidOid;
	HeapTuple	tuple = OidIsValid(relid) ?
		SearchSysCache1(RELOID, ObjectIdGetDatum(relid)) : NULL;
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("kessel_router is not installed in this database"),
				 errhint("Run CREATE EXTENSION kessel_router CASCADE.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * The newest committed state. While a plan runs in parallel no newer snapshot
 * can be had than that of the catalogs: it is what was true at the last look for
 * invalidations or later, and what is cached is no older than that. The query's
 * own snapshot is: a cache would keep what was revoked meanwhile.
 */
void
kr_spi_push_snapshot(void)
{
	if (!IsInParallelMode())
	{
		PushActiveSnapshot(GetLatestSnapshot());
		return;
	}
	InvalidateCatalogSnapshot();
	PushActiveSnapshot(GetCatalogSnapshot(InvalidOid));
}

void
kr_spi_begin(KrSpi *spi)
{
	GetUserIdAndSecContext(&spi->save_userid, &spi->save_sec_context);
	/* Not SECURITY_RESTRICTED_OPERATION: kr_session.c takes that for maintenance. */
	SetUserIdAndSecContext(tables_owner(),
						   spi->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	spi->save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	kr_spi_push_snapshot();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
kr_spi_end(KrSpi *spi)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	PopActiveSnapshot();
	AtEOXact_GUC(true, spi->save_nestlevel);
	SetUserIdAndSecContext(spi->save_userid, spi->save_sec_context);
}

static void
run(SPIPlanPtr *plan, const char *sql, int nargs, const Oid *argtypes, Datum *values,
	const char *nulls, bool read_only)
{
	int			rc;

	if (*plan == NULL)
	{
		SPIPlanPtr	fresh = SPI_prepare(sql, nargs, unconstify(Oid *, argtypes));

		if (fresh == NULL)
			elog(ERROR, "SPI_prepare failed for \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(fresh);
		*plan = fresh;
	}

	rc = SPI_execute_plan(*plan, values, nulls, read_only, 0);
	if (rc < 0)
		elog(ERROR, "SPI failed for \"%s\": %s", sql, SPI_result_code_string(rc));
}

void
kr_spi_read(SPIPlanPtr *plan, const char *sql, int nargs, const Oid *argtypes, Datum *values)
{
	run(plan, sql, nargs, argtypes, values, NULL, true);
}

void
kr_spi_write(SPIPlanPtr *plan, const char *sql, int nargs, const Oid *argtypes,
			 Datum *values, const char *nulls)
{
	run(plan, sql, nargs, argtypes, values, nulls, false);
}

char *
kr_spi_text(int row, int column, MemoryContext cxt)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row],
									 SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(cxt, value) : NULL;
}

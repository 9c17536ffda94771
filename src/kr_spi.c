/*
 * kr_spi.c
 *	  Reading and writing the extension's own tables from C, with its owner's
 *	  rights. Plans are kept for the life of the backend.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "kr_spi.h"

/* Looked up each time: it follows ALTER and REASSIGN OWNED. */
static Oid
extension_owner(void)
{
	Oid			extension = get_extension_oid("kessel_router", false);
	Oid			owner = InvalidOid;
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		elog(ERROR, "extension kessel_router has no owner");
	return owner;
}

void
kr_spi_push_snapshot(void)
{
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

void
kr_spi_begin(KrSpi *spi)
{
	GetUserIdAndSecContext(&spi->save_userid, &spi->save_sec_context);
	/* Not SECURITY_RESTRICTED_OPERATION: kr_session.c takes that for maintenance. */
	SetUserIdAndSecContext(extension_owner(),
						   spi->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	spi->save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	(void) set_config_option("row_security", "on",
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

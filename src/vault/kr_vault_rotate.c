/*
 * kr_vault_rotate.c
 *	  Replacing a tenant's data key, and sealing under the new one what the old
 *	  one has sealed.
 *
 * vault.rotate_tenant_key() first commits the change of keys: from then on the
 * new one seals, the retired one still opens. Then it seals secrets anew in
 * batches, each committed. A secret is locked, opened and sealed with all its
 * versions, which keep their numbers; readers see one state or the other and
 * need both keys, which are there. Nothing is remembered between batches but
 * the keys' status: a run that was killed is taken up by the next call, which
 * finds secrets under a retired key.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_audit.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_retire_key);
PG_FUNCTION_INFO_V1(kr_vault_sql_reseal);
PG_FUNCTION_INFO_V1(kr_vault_sql_record);

/* Secrets of tenant $1 of which some version is under a retired key. */
#define LEFT_TO_RESEAL \
	" FROM vault.secrets s WHERE s.tenant_id IS NOT DISTINCT FROM $1 AND (s.key_id = ANY (k.ids)" \
	" OR EXISTS (SELECT FROM vault.former_versions f WHERE f.secret_id = s.id AND f.key_id = ANY (k.ids)))"
#define RETIRED_KEYS \
	"(SELECT ARRAY(SELECT id FROM vault.keys WHERE tenant_id IS NOT DISTINCT FROM $1" \
	" AND purpose = 'seal' AND status = 'retired') AS ids) k"

typedef struct Resealed
{
	pg_uuid_t	last;			/* the secret that the batch ended with */
	bool		any;
	int64		resealed;		/* versions */
	int64		failed;			/* versions that did not open */
} Resealed;

static bool is_under_way(Datum tenant_id, bool is_infra);
static void reseal_secret(const pg_uuid_t *id, const KrDataKey *due, Resealed *done);
static void reseal_version(KrSecretRow *row, bool is_former, const KrDataKey *due,
						   Resealed *done);
static void record(const char *action, const pg_uuid_t *tenant_id, uint64 count);
static List *former_versions(const pg_uuid_t *id);

/*
 * vault._retire_key(tenant_id): the id of the key that seals from now on, or
 * NULL where the tenant has none. Does not retire it while an earlier rotation
 * is unfinished.
 */
Datum
kr_vault_sql_retire_key(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr lock_plan = NULL;
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID};
	const pg_uuid_t *tenant_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0);
	Datum		value = UUIDPGetDatum(tenant_id);
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));
	KrSpi		scope;
	KrDataKey	key;
	bool		found;

	PreventCommandIfReadOnly("rotating a key");

	kr_spi_begin(&scope);
	/* At once the lock that is needed: two that ask for more would wait for each other. */
	kr_spi_write(&lock_plan,
				 "SELECT FROM vault.keys WHERE tenant_id IS NOT DISTINCT FROM $1"
				 " AND purpose = 'seal' AND status = 'active' FOR UPDATE",
				 1, types, &value, tenant_id ? " " : "n");
	found = kr_rows_active_key(tenant_id, &key);
	if (found)
	{
		/* where its root key is missing this says so */
		kr_vault_key_for_sealing(tenant_id, &key);
		if (!is_under_way(value, tenant_id == NULL))
		{
			Datum		id = UUIDPGetDatum(&key.id);

			kr_spi_write(&plan, "UPDATE vault.keys SET status = 'retired', updated_at = pg_catalog.clock_timestamp() WHERE id = $1",
						 1, types, &id, " ");
			kr_vault_key_for_sealing(tenant_id, &key);
			record("rotate key", tenant_id, 1);
		}
	}
	kr_spi_end(&scope);

	if (!found)
		PG_RETURN_NULL();
	*result = key.id;
	PG_RETURN_UUID_P(result);
}

/*
 * vault._reseal(tenant_id, after, max_secrets, OUT last, OUT resealed,
 *				 OUT failed): the next batch of secrets after an id; last is NULL
 * where there is none.
 */
Datum
kr_vault_sql_reseal(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, UUIDOID, INT4OID};
	const pg_uuid_t *tenant_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0);
	TupleDesc	desc;
	KrDataKey	due;
	Datum		values[3];
	bool		nulls[3] = {false};
	char		arg_nulls[3] = {' ', ' ', ' '};
	Resealed	done = {.any = false};
	KrSpi		scope;
	MemoryContext caller = CurrentMemoryContext;
	SPITupleTable *batch;
	uint64		n;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("neither after nor max_secrets may be null")));

	values[0] = PG_GETARG_DATUM(0);
	arg_nulls[0] = tenant_id ? ' ' : 'n';
	values[1] = PG_GETARG_DATUM(1);
	values[2] = PG_GETARG_DATUM(2);

	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "SELECT s.id FROM vault.secrets s WHERE s.id = ANY (ARRAY("
				 "SELECT s.id FROM " RETIRED_KEYS " CROSS JOIN LATERAL (SELECT s.id" LEFT_TO_RESEAL
				 " AND s.id > $2 ORDER BY s.id LIMIT $3) s)) ORDER BY s.id FOR UPDATE",
				 3, types, values, arg_nulls);
	batch = SPI_tuptable;
	n = SPI_processed;
	if (n > 0)
		kr_vault_key_for_sealing(tenant_id, &due);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		done.last = *DatumGetUUIDP(SPI_getbinval(batch->vals[i], batch->tupdesc, 1, &isnull));
		done.any = true;
		reseal_secret(&done.last, &due, &done);
	}
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
	if (n > 0)
		record("reseal", tenant_id, done.resealed);

	nulls[0] = !done.any;
	values[0] = UUIDPGetDatum(&done.last);
	values[1] = Int64GetDatum(done.resealed);
	values[2] = Int64GetDatum(done.failed);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* vault._record(action, tenant_id, count): for functions in SQL */
Datum
kr_vault_sql_record(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("neither action nor count may be null")));
	record(text_to_cstring(PG_GETARG_TEXT_PP(0)),
		   PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1), PG_GETARG_INT64(2));
	PG_RETURN_VOID();
}

static void
record(const char *action, const pg_uuid_t *tenant_id, uint64 count)
{
	KrAuditEvent event = {
		.action = action,
		.tenant_id = tenant_id,
		.ok = true,
		.count = count
	};

	kr_audit_record(&event);
}

static bool
is_under_way(Datum tenant_id, bool is_infra)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID};

	kr_spi_write(&plan,
				 "SELECT FROM " RETIRED_KEYS " CROSS JOIN LATERAL (SELECT 1" LEFT_TO_RESEAL " LIMIT 1) s",
				 1, types, &tenant_id, is_infra ? "n" : " ");
	return SPI_processed > 0;
}

/* The secret's row is locked. */
static void
reseal_secret(const pg_uuid_t *id, const KrDataKey *due, Resealed *done)
{
	KrSecretRow row;
	ListCell   *cell;

	if (!kr_rows_lock_secret(id, &row))
		return;
	reseal_version(&row, false, due, done);

	foreach(cell, former_versions(id))
	{
		if (kr_rows_read_secret(id, lfirst_int(cell), &row))
			reseal_version(&row, true, due, done);
	}
}

/* The same version under the key that is due; nothing where it is under that already. */
static void
reseal_version(KrSecretRow *row, bool is_former, const KrDataKey *due, Resealed *done)
{
	KrSecret   *value;
	KrOpenResult result;

	if (memcmp(&due->id, &row->key_id, sizeof(pg_uuid_t)) == 0)
		return;

	row->expires_at = DT_NOEND; /* it is not given to anybody */
	result = kr_vault_open_row(row, &value);
	kr_vault_record_open(row, "reseal", InvalidOid, result, true);
	if (result != KR_OPEN_OK)
	{
		done->failed++;
		return;
	}
	row->key = *due;
	kr_vault_seal_row(row, value->value, value->len);
	kr_vault_close(value);
	kr_rows_reseal_secret(row, is_former);
	done->resealed++;
}

static List *
former_versions(const pg_uuid_t *id)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID};
	Datum		value = UUIDPGetDatum(id);
	List	   *versions = NIL;

	kr_spi_write(&plan, "SELECT version FROM vault.former_versions WHERE secret_id = $1",
				 1, types, &value, " ");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		versions = lappend_int(versions, DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
																	 SPI_tuptable->tupdesc, 1, &isnull)));
	}
	return versions;
}

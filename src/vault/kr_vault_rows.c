/*
 * kr_vault_rows.c
 *	  Reading and writing vault.secrets and vault.keys by SPI.
 *
 * Called by the vault alone, between kr_spi_begin() and kr_spi_end().
 *
 * What goes through here is sealed already; no parameter is ever plaintext.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "kr_compat.h"
#include "kr_spi.h"
#include "kr_vault_rows.h"

typedef enum RowsQuery
{
	READ_SECRET,
	LOCK_SECRET,
	INSERT_SECRET,
	UPDATE_SECRET,
	DESCRIBE_SECRET,
	DELETE_SECRET,
	TENANT_KEY,
	INFRA_KEY,
	KEY_BY_ID,
	INSERT_KEY,
	OTHER_ROOT_KEY,
	OTHER_ROOT_KEYS,
} RowsQuery;

#define MAX_ARGS 8

#define SELECT_SECRET \
	"SELECT s.id, s.name, s.version, s.tenant_id, s.key_id, s.secret, s.nonce," \
	" k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key, k.id" \
	" FROM vault.secrets s" \
	" LEFT JOIN vault.keys k ON k.id OPERATOR(pg_catalog.=) s.key_id" \
	" WHERE s.id OPERATOR(pg_catalog.=) $1"

#define SELECT_KEY \
	"SELECT k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key, k.id" \
	" FROM vault.keys k WHERE k.status OPERATOR(pg_catalog.=) 'active'"

static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[MAX_ARGS];
}			queries[] = {
	[READ_SECRET] = {SELECT_SECRET, 1, {UUIDOID}},
	[LOCK_SECRET] = {SELECT_SECRET " FOR UPDATE OF s", 1, {UUIDOID}},
	[INSERT_SECRET] = {
		"INSERT INTO vault.secrets (id, name, version, tenant_id, key_id, secret, nonce, description)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, COALESCE($8, ''))",
		8, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID, TEXTOID}
	},
	[UPDATE_SECRET] = {
		"UPDATE vault.secrets SET name = $2, version = $3, tenant_id = $4, key_id = $5,"
		" secret = $6, nonce = $7, description = COALESCE($8, description),"
		" updated_at = pg_catalog.clock_timestamp()"
		" WHERE id OPERATOR(pg_catalog.=) $1",
		8, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID, TEXTOID}
	},
	[DESCRIBE_SECRET] = {
		"UPDATE vault.secrets SET description = COALESCE($2, description),"
		" updated_at = pg_catalog.clock_timestamp()"
		" WHERE id OPERATOR(pg_catalog.=) $1",
		2, {UUIDOID, TEXTOID}
	},
	[DELETE_SECRET] = {
		"DELETE FROM vault.secrets WHERE id OPERATOR(pg_catalog.=) $1",
		1, {UUIDOID}
	},
	[TENANT_KEY] = {SELECT_KEY " AND k.tenant_id OPERATOR(pg_catalog.=) $1", 1, {UUIDOID}},
	[INFRA_KEY] = {SELECT_KEY " AND k.tenant_id IS NULL", 0},
	[KEY_BY_ID] = {SELECT_KEY " AND k.id OPERATOR(pg_catalog.=) $1", 1, {UUIDOID}},
	[INSERT_KEY] = {
		"INSERT INTO vault.keys (tenant_id, root_key_id, nonce, wrapped_key, id)"
		" VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		5, {UUIDOID, TEXTOID, BYTEAOID, BYTEAOID, UUIDOID}
	},
	/* not "<>": these two ranges find the odd one by index */
	[OTHER_ROOT_KEY] = {
		"(SELECT root_key_id FROM vault.keys"
		" WHERE status OPERATOR(pg_catalog.<>) 'destroyed' AND root_key_id OPERATOR(pg_catalog.<) $1 LIMIT 1)"
		" UNION ALL (SELECT root_key_id FROM vault.keys"
		" WHERE status OPERATOR(pg_catalog.<>) 'destroyed' AND root_key_id OPERATOR(pg_catalog.>) $1 LIMIT 1)",
		1, {TEXTOID}
	},
	[OTHER_ROOT_KEYS] = {
		"SELECT COALESCE(pg_catalog.array_agg(DISTINCT root_key_id), '{}') FROM vault.keys"
		" WHERE status OPERATOR(pg_catalog.<>) 'destroyed' AND root_key_id OPERATOR(pg_catalog.<>) $1",
		1, {TEXTOID}
	},
};

static SPIPlanPtr plans[lengthof(queries)];

static uint64 run(RowsQuery query, Datum *values, const bool *nulls, bool read_only);
static Datum column(int number, bool *isnull);
static bool read_key(RowsQuery query, Datum *values, KrDataKey *key);
static bool key_from_columns(int first, KrDataKey *key);
static void row_from_columns(KrSecretRow *row);
static void write_secret(RowsQuery query, const KrSecretRow *row, const char *description);
static bool copy_bytes(int number, unsigned char *to, size_t len);
static Datum bytes_datum(const unsigned char *bytes, size_t len);

/* The newest committed state, or the query's where a plan runs in parallel. */
bool
kr_rows_read_secret(const pg_uuid_t *id, KrSecretRow *row)
{
	Datum		values[] = {UUIDPGetDatum(id)};
	bool		found;

	kr_spi_push_snapshot();
	found = run(READ_SECRET, values, NULL, true) == 1;
	PopActiveSnapshot();

	if (found)
		row_from_columns(row);
	return found;
}

bool
kr_rows_lock_secret(const pg_uuid_t *id, KrSecretRow *row)
{
	Datum		values[] = {UUIDPGetDatum(id)};

	if (run(LOCK_SECRET, values, NULL, false) != 1)
		return false;
	row_from_columns(row);
	return true;
}

void
kr_rows_insert_secret(const KrSecretRow *row, const char *description)
{
	write_secret(INSERT_SECRET, row, description);
}

/* The row is locked: it is there. */
void
kr_rows_update_secret(const KrSecretRow *row, const char *description)
{
	write_secret(UPDATE_SECRET, row, description);
}

void
kr_rows_describe_secret(const pg_uuid_t *id, const char *description)
{
	Datum		values[] = {UUIDPGetDatum(id), CStringGetTextDatum(description)};

	run(DESCRIBE_SECRET, values, NULL, false);
}

bool
kr_rows_delete_secret(const pg_uuid_t *id)
{
	Datum		values[] = {UUIDPGetDatum(id)};

	return run(DELETE_SECRET, values, NULL, false) == 1;
}

bool
kr_rows_active_key(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	Datum		values[1];

	if (tenant_id == NULL)
		return read_key(INFRA_KEY, values, key);
	values[0] = UUIDPGetDatum(tenant_id);
	return read_key(TENANT_KEY, values, key);
}

bool
kr_rows_active_key_by_id(const pg_uuid_t *id, KrDataKey *key)
{
	Datum		values[] = {UUIDPGetDatum(id)};

	return read_key(KEY_BY_ID, values, key);
}

/*
 * Does nothing where another transaction has made the tenant's key meanwhile;
 * the caller reads again. Under REPEATABLE READ that is a serialization
 * failure instead.
 */
void
kr_rows_insert_key(const KrDataKey *key)
{
	Datum		values[] = {
		UUIDPGetDatum(&key->tenant_id),
		CStringGetTextDatum(key->root_key_id),
		bytes_datum(key->nonce, sizeof(key->nonce)),
		bytes_datum(key->wrapped, sizeof(key->wrapped)),
		UUIDPGetDatum(&key->id),
	};
	bool		nulls[lengthof(values)] = {!key->has_tenant};

	run(INSERT_KEY, values, nulls, false);
}

char *
kr_rows_other_root_key(const char *root_key_id)
{
	Datum		values[] = {CStringGetTextDatum(root_key_id)};
	bool		isnull;

	if (run(OTHER_ROOT_KEY, values, NULL, false) == 0)
		return NULL;
	return TextDatumGetCString(column(1, &isnull));
}

ArrayType *
kr_rows_other_root_keys(const char *root_key_id)
{
	Datum		values[] = {CStringGetTextDatum(root_key_id)};
	bool		isnull;

	kr_spi_push_snapshot();
	run(OTHER_ROOT_KEYS, values, NULL, true);
	PopActiveSnapshot();
	return DatumGetArrayTypeP(column(1, &isnull));
}

static uint64
run(RowsQuery query, Datum *values, const bool *nulls, bool read_only)
{
	char		flags[MAX_ARGS] = {0};

	for (int i = 0; i < queries[query].nargs; i++)
		flags[i] = nulls != NULL && nulls[i] ? 'n' : ' ';

	if (read_only)
		kr_spi_read(&plans[query], queries[query].sql, queries[query].nargs,
					queries[query].types, values);
	else
		kr_spi_write(&plans[query], queries[query].sql, queries[query].nargs,
					 queries[query].types, values, flags);
	return SPI_processed;
}

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static void
write_secret(RowsQuery query, const KrSecretRow *row, const char *description)
{
	Datum		values[MAX_ARGS] = {
		UUIDPGetDatum(&row->id),
		row->name ? CStringGetTextDatum(row->name) : (Datum) 0,
		Int32GetDatum(row->version),
		UUIDPGetDatum(&row->tenant_id),
		UUIDPGetDatum(&row->key_id),
		PointerGetDatum(row->sealed),
		PointerGetDatum(row->nonce),
		description ? CStringGetTextDatum(description) : (Datum) 0,
	};
	bool		nulls[MAX_ARGS] = {
		[1] = row->name == NULL,
		[3] = !row->has_tenant,
		[7] = description == NULL,
	};

	run(query, values, nulls, false);
}

static void
row_from_columns(KrSecretRow *row)
{
	bool		isnull;
	Datum		value;

	memset(row, 0, sizeof(*row));
	row->id = *DatumGetUUIDP(column(1, &isnull));
	value = column(2, &isnull);
	row->name = isnull ? NULL : TextDatumGetCString(value);
	row->version = DatumGetInt32(column(3, &isnull));
	value = column(4, &isnull);
	row->has_tenant = !isnull;
	if (row->has_tenant)
		row->tenant_id = *DatumGetUUIDP(value);
	row->key_id = *DatumGetUUIDP(column(5, &isnull));
	row->sealed = DatumGetByteaP(column(6, &isnull));
	row->nonce = DatumGetByteaP(column(7, &isnull));
	row->has_key = key_from_columns(8, &row->key);
}

static bool
read_key(RowsQuery query, Datum *values, KrDataKey *key)
{
	return run(query, values, NULL, false) == 1 && key_from_columns(1, key);
}

/* False where there is no key or nothing is left of it. */
static bool
key_from_columns(int first, KrDataKey *key)
{
	bool		isnull;
	Datum		value;

	memset(key, 0, sizeof(*key));
	value = column(first, &isnull);
	key->has_tenant = !isnull;
	if (key->has_tenant)
		key->tenant_id = *DatumGetUUIDP(value);

	value = column(first + 1, &isnull);
	if (isnull)
		return false;
	strlcpy(key->root_key_id, TextDatumGetCString(value), sizeof(key->root_key_id));

	if (!copy_bytes(first + 2, key->nonce, sizeof(key->nonce)) ||
		!copy_bytes(first + 3, key->wrapped, sizeof(key->wrapped)))
		return false;

	key->id = *DatumGetUUIDP(column(first + 4, &isnull));
	return true;
}

static bool
copy_bytes(int number, unsigned char *to, size_t len)
{
	bool		isnull;
	Datum		value = column(number, &isnull);
	bytea	   *bytes;

	if (isnull)
		return false;
	bytes = DatumGetByteaPP(value);
	if (VARSIZE_ANY_EXHDR(bytes) != len)
		return false;
	memcpy(to, VARDATA_ANY(bytes), len);
	return true;
}

static Datum
bytes_datum(const unsigned char *bytes, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

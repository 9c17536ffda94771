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
	READ_VERSION,
	LOCK_SECRET,
	FIND_SECRET,
	INSERT_SECRET,
	KEEP_VERSION,
	UPDATE_SECRET,
	DROP_VERSIONS,
	RESEAL_SECRET,
	RESEAL_VERSION,
	NOTE_SECRET,
	DELETE_SECRET,
	TENANT_KEY,
	INFRA_KEY,
	KEY_BY_ID,
	INSERT_KEY,
	ROOT_KEYS,
} RowsQuery;

#define MAX_ARGS 10

/* of row "v", a current or former version of secret "s" */
#define SELECT_VERSION(from) \
	"SELECT v.secret_id, v.name, v.version, v.tenant_id, v.key_id, v.secret, v.nonce, v.expires_at," \
	" k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key, k.id, k.fingerprint FROM " from \
	" LEFT JOIN vault.keys k ON k.id = v.key_id"

#define CURRENT_VERSION \
	SELECT_VERSION("(SELECT id AS secret_id, * FROM vault.secrets WHERE id = $1) v")

#define SELECT_KEY \
	"SELECT k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key, k.id, k.fingerprint" \
	" FROM vault.keys k WHERE k.status = 'active' AND k.purpose = 'seal'"

static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[MAX_ARGS];
}			queries[] = {
	[READ_SECRET] = {CURRENT_VERSION, 1, {UUIDOID}},
	[READ_VERSION] = {
		SELECT_VERSION("(SELECT f.*, s.expires_at FROM vault.former_versions f"
					   " JOIN vault.secrets s ON s.id = f.secret_id"
					   " WHERE f.secret_id = $1 AND f.version = $2) v"),
		2, {UUIDOID, INT4OID}
	},
	[LOCK_SECRET] = {
		"SELECT FROM vault.secrets WHERE id = $1 FOR UPDATE", 1, {UUIDOID}
	},
	[FIND_SECRET] = {
		"SELECT id, version FROM vault.secrets WHERE id ="
		" CASE WHEN $1 ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN $1::uuid END"
		" UNION ALL SELECT id, version FROM vault.secrets WHERE name = $1 LIMIT 1",
		1, {TEXTOID}
	},
	[INSERT_SECRET] = {
		"INSERT INTO vault.secrets (id, name, version, tenant_id, key_id, secret, nonce, description, tags, expires_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, COALESCE($8, ''), COALESCE($9, '{}'), $10)",
		10, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID, TEXTOID, JSONBOID, TIMESTAMPTZOID}
	},
	[KEEP_VERSION] = {
		"INSERT INTO vault.former_versions (secret_id, version, name, tenant_id, key_id, secret, nonce, created_at)"
		" SELECT id, version, name, tenant_id, key_id, secret, nonce, version_created_at FROM vault.secrets WHERE id = $1",
		1, {UUIDOID}
	},
	[UPDATE_SECRET] = {
		"UPDATE vault.secrets SET name = $2, version = $3, tenant_id = $4, key_id = $5,"
		" secret = $6, nonce = $7, updated_at = pg_catalog.clock_timestamp(),"
		" version_created_at = pg_catalog.clock_timestamp() WHERE id = $1",
		7, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID}
	},
	[DROP_VERSIONS] = {
		"DELETE FROM vault.former_versions WHERE secret_id = $1 AND version < $2",
		2, {UUIDOID, INT4OID}
	},
	[RESEAL_SECRET] = {
		"UPDATE vault.secrets SET key_id = $5, secret = $6, nonce = $7 WHERE id = $1 AND version = $3",
		7, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID}
	},
	[RESEAL_VERSION] = {
		"UPDATE vault.former_versions SET key_id = $5, secret = $6, nonce = $7 WHERE secret_id = $1 AND version = $3",
		7, {UUIDOID, TEXTOID, INT4OID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID}
	},
	[NOTE_SECRET] = {
		"UPDATE vault.secrets SET description = COALESCE($2, description), tags = COALESCE($3, tags),"
		" expires_at = COALESCE($4, expires_at), updated_at = pg_catalog.clock_timestamp() WHERE id = $1",
		4, {UUIDOID, TEXTOID, JSONBOID, TIMESTAMPTZOID}
	},
	[DELETE_SECRET] = {"DELETE FROM vault.secrets WHERE id = $1", 1, {UUIDOID}},
	/* locked: who retires or destroys the key waits for what is being sealed */
	[TENANT_KEY] = {SELECT_KEY " AND k.tenant_id = $1 FOR SHARE", 1, {UUIDOID}},
	[INFRA_KEY] = {SELECT_KEY " AND k.tenant_id IS NULL FOR SHARE", 0},
	[KEY_BY_ID] = {SELECT_KEY " AND k.id = $1 FOR SHARE", 1, {UUIDOID}},
	[INSERT_KEY] = {
		"INSERT INTO vault.keys (tenant_id, root_key_id, nonce, wrapped_key, id, fingerprint)"
		" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
		6, {UUIDOID, TEXTOID, BYTEAOID, BYTEAOID, UUIDOID, TEXTOID}
	},
	/* they are few and keys many: from one to the next through the index */
	[ROOT_KEYS] = {
		"WITH RECURSIVE used AS ("
		" SELECT pg_catalog.min(root_key_id) AS id FROM vault.keys WHERE status <> 'destroyed'"
		" UNION ALL SELECT (SELECT pg_catalog.min(k.root_key_id) FROM vault.keys k"
		" WHERE k.status <> 'destroyed' AND k.root_key_id > u.id) FROM used u WHERE u.id IS NOT NULL)"
		" SELECT id FROM used WHERE id IS NOT NULL", 0
	},
};

static SPIPlanPtr plans[lengthof(queries)];

static uint64 run(RowsQuery query, Datum *values, const bool *nulls, bool read_only);
static Datum column(int number, bool *isnull);
static bool read_key(RowsQuery query, Datum *values, KrDataKey *key);
static bool key_from_columns(int first, KrDataKey *key);
static void row_from_columns(KrSecretRow *row);
static void write_version(RowsQuery query, const KrSecretRow *row);
static void secret_values(const KrSecretRow *row, Datum *values, bool *nulls);
static bool copy_bytes(int number, unsigned char *to, size_t len);
static Datum bytes_datum(const unsigned char *bytes, size_t len);

/* The newest committed state. */
bool
kr_rows_read_secret(const pg_uuid_t *id, int32 version, KrSecretRow *row)
{
	Datum		values[] = {UUIDPGetDatum(id), Int32GetDatum(version)};
	bool		found;

	kr_spi_push_snapshot();
	found = run(READ_SECRET, values, NULL, true) == 1;
	if (found)
		row_from_columns(row);
	if (found && version != 0 && version != row->version)
	{
		found = run(READ_VERSION, values, NULL, true) == 1;
		if (found)
			row_from_columns(row);
	}
	PopActiveSnapshot();
	return found;
}

/* Locked first and then read: what is read is what will be replaced. */
bool
kr_rows_lock_secret(const pg_uuid_t *id, KrSecretRow *row)
{
	Datum		values[] = {UUIDPGetDatum(id)};

	if (run(LOCK_SECRET, values, NULL, false) != 1 ||
		run(READ_SECRET, values, NULL, false) != 1)
		return false;
	row_from_columns(row);
	return true;
}

bool
kr_rows_find_secret(const char *name_or_id, pg_uuid_t *id, int32 *version)
{
	Datum		values[] = {CStringGetTextDatum(name_or_id)};
	bool		isnull;

	if (run(FIND_SECRET, values, NULL, true) != 1)
		return false;
	*id = *DatumGetUUIDP(column(1, &isnull));
	*version = DatumGetInt32(column(2, &isnull));
	return true;
}

void
kr_rows_insert_secret(const KrSecretRow *row, const KrSecretNotes *notes)
{
	Datum		values[MAX_ARGS] = {0};
	bool		nulls[MAX_ARGS] = {false};

	secret_values(row, values, nulls);
	nulls[7] = notes->description == NULL;
	values[7] = nulls[7] ? (Datum) 0 : CStringGetTextDatum(notes->description);
	nulls[8] = notes->tags == NULL;
	values[8] = PointerGetDatum(notes->tags);
	nulls[9] = notes->expires_at == NULL;
	values[9] = nulls[9] ? (Datum) 0 : TimestampTzGetDatum(*notes->expires_at);
	run(INSERT_SECRET, values, nulls, false);
}

void
kr_rows_update_secret(const KrSecretRow *row, int keep_versions)
{
	Datum		values[] = {UUIDPGetDatum(&row->id), Int32GetDatum(row->version - keep_versions)};

	run(KEEP_VERSION, values, NULL, false);
	write_version(UPDATE_SECRET, row);
	run(DROP_VERSIONS, values, NULL, false);
}

void
kr_rows_reseal_secret(const KrSecretRow *row, bool is_former)
{
	write_version(is_former ? RESEAL_VERSION : RESEAL_SECRET, row);
}

void
kr_rows_note_secret(const pg_uuid_t *id, const KrSecretNotes *notes)
{
	Datum		values[] = {
		UUIDPGetDatum(id),
		notes->description ? CStringGetTextDatum(notes->description) : (Datum) 0,
		PointerGetDatum(notes->tags),
		notes->expires_at ? TimestampTzGetDatum(*notes->expires_at) : (Datum) 0,
	};
	bool		nulls[] = {
		false, notes->description == NULL, notes->tags == NULL, notes->expires_at == NULL
	};

	run(NOTE_SECRET, values, nulls, false);
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
		CStringGetTextDatum(key->fingerprint),
	};
	bool		nulls[lengthof(values)] = {!key->has_tenant};

	run(INSERT_KEY, values, nulls, false);
}

List *
kr_rows_root_keys(void)
{
	List	   *ids = NIL;

	kr_spi_push_snapshot();
	run(ROOT_KEYS, NULL, NULL, true);
	PopActiveSnapshot();
	for (uint64 i = 0; i < SPI_processed; i++)
		ids = lappend(ids, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	return ids;
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
write_version(RowsQuery query, const KrSecretRow *row)
{
	Datum		values[MAX_ARGS] = {0};
	bool		nulls[MAX_ARGS] = {false};

	secret_values(row, values, nulls);
	run(query, values, nulls, false);
}

/* The first seven parameters of what writes a version. */
static void
secret_values(const KrSecretRow *row, Datum *values, bool *nulls)
{
	values[0] = UUIDPGetDatum(&row->id);
	nulls[1] = row->name == NULL;
	values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(row->name);
	values[2] = Int32GetDatum(row->version);
	nulls[3] = !row->has_tenant;
	values[3] = UUIDPGetDatum(&row->tenant_id);
	values[4] = UUIDPGetDatum(&row->key_id);
	values[5] = PointerGetDatum(row->sealed);
	values[6] = PointerGetDatum(row->nonce);
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
	value = column(8, &isnull);
	row->expires_at = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	row->has_key = key_from_columns(9, &row->key);
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
	strlcpy(key->fingerprint, TextDatumGetCString(column(first + 5, &isnull)), sizeof(key->fingerprint));
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

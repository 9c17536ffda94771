/*
 * kr_vault_export.c
 *	  A tenant's secrets for another installation: vault.export_tenant().
 *
 * Each version is opened into locked memory, sealed under a key that is made
 * for this bundle alone, and wiped. That key leaves in a sealed box for the
 * recipient: nobody but him opens the bundle, whoever has written it included.
 * Opening so reveals: the caller needs that privilege on each secret, and each
 * version is recorded before the bundle is handed out.
 *
 * One query reads everything, in one snapshot, through a cursor. What the bundle
 * is built of lives in a memory context of the call, what a row takes in one
 * that is reset with each. Writes nothing, so it runs on a standby, too.
 */
#include "postgres.h"

#include <sodium.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_bundle.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_export_tenant);

#define BATCH 200

/* What jsonb can hold; its own message knows no way out. */
#define MAX_BUNDLE_BYTES JENTRY_OFFLENMASK

/* by column of versions_query */
typedef enum VersionColumn
{
	SECRET_ID = 1,
	DESCRIPTION,
	TAGS,
	EXPIRES_AT,
	CREATED_AT,
	UPDATED_AT,
	SECRET_NAME,
	VERSION,
	VERSION_NAME,
	VERSION_CREATED_AT,
	KEY_ID,
	SEALED,
	NONCE,
	KEY_ROOT_KEY_ID,
	KEY_NONCE,
	KEY_WRAPPED,
	KEY_TENANT_ID
} VersionColumn;

/* the newest version of each secret comes last */
static const char *const versions_query =
"SELECT s.id, s.description, s.tags, s.expires_at, s.created_at, s.updated_at, s.name,"
" v.version, v.name, v.created_at, v.key_id, v.secret, v.nonce,"
" k.root_key_id, k.nonce, k.wrapped_key, k.tenant_id"
" FROM vault.secrets s CROSS JOIN LATERAL ("
"SELECT s.version, s.name, s.version_created_at AS created_at, s.key_id, s.secret, s.nonce"
" UNION ALL SELECT f.version, f.name, f.created_at, f.key_id, f.secret, f.nonce"
" FROM vault.former_versions f WHERE f.secret_id = s.id) v"
" LEFT JOIN vault.keys k ON k.id = v.key_id"
" WHERE s.tenant_id = $1 AND ($2 IS NULL OR s.id = ANY ($2)) ORDER BY s.id, v.version";

typedef struct Export
{
	Oid			role;			/* who asks */
	pg_uuid_t	tenant_id;
	KrSecret   *key;			/* of the bundle */
	MemoryContext bundle_cxt;	/* what the bundle points to */
	MemoryContext row_cxt;
	JsonbParseState *json;
	KrBundleDigest digest;
	size_t		bytes;			/* of it so far, at least */
	uint32		secrets;
	uint32		versions;		/* of the current secret */
	pg_uuid_t	secret_id;		/* the current one, if secrets > 0 */
} Export;

static void get_recipient(const text *base64, unsigned char *recipient);
static pg_uuid_t resolve_tenant(const char *tenant, char **slug, MemoryContext cxt);
static void check_ids(const pg_uuid_t *tenant_id, ArrayType *ids);
static void begin_bundle(Export *export, const char *slug, const unsigned char *recipient);
static void add_rows(Export *export, ArrayType *ids);
static void add_version(Export *export, HeapTuple tuple, TupleDesc desc);
static void begin_secret(Export *export, HeapTuple tuple, TupleDesc desc);
static void end_secret(Export *export);
static void row_of(const Export *export, HeapTuple tuple, TupleDesc desc, KrSecretRow *row);
static void seal_version(Export *export, KrSecretRow *row);
static KrSecret *open_version(KrSecretRow *row, Oid role);
static Jsonb *end_bundle(Export *export);
static void push_key(Export *export, const char *name);
static void push_text(Export *export, const char *name, const char *value, size_t len);
static void push_string(Export *export, const char *name, const char *value);
static void push_bytes(Export *export, const char *name, const unsigned char *bytes, size_t nbytes);
static void push_number(Export *export, const char *name, int32 number);
static void push_time(Export *export, const char *name, Datum time, bool isnull);
static void push_tags(Export *export, const Jsonb *tags);

/* vault.export_tenant(tenant, recipient_public_key, secret_ids) */
Datum
kr_vault_sql_export_tenant(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	unsigned char recipient[KR_BOX_PUBLIC_BYTES];
	ArrayType  *ids = PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2);
	Export		export = {0};
	char	   *slug;
	KrSpi		scope;
	Jsonb	   *bundle;
	KrAuditEvent event = {.action = "export", .tenant_id = &export.tenant_id, .ok = true};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tenant and recipient must not be null"),
				 errhint("The recipient's key is what vault.public_key() returns in the other installation.")));
	get_recipient(PG_GETARG_TEXT_PP(1), recipient);

	export.role = GetUserId();
	export.bundle_cxt = AllocSetContextCreate(caller, "kessel vault bundle", ALLOCSET_DEFAULT_SIZES);
	export.row_cxt = AllocSetContextCreate(caller, "kessel vault exported version", ALLOCSET_DEFAULT_SIZES);

	kr_spi_begin(&scope);
	export.tenant_id = resolve_tenant(text_to_cstring(PG_GETARG_TEXT_PP(0)), &slug, export.bundle_cxt);
	check_ids(&export.tenant_id, ids);
	begin_bundle(&export, slug, recipient);
	add_rows(&export, ids);
	kr_spi_end(&scope);

	MemoryContextSwitchTo(caller);
	bundle = end_bundle(&export);
	event.count = export.secrets;
	kr_audit_record(&event);

	MemoryContextDelete(export.row_cxt);
	MemoryContextDelete(export.bundle_cxt);
	PG_RETURN_JSONB_P(bundle);
}

static void
get_recipient(const text *base64, unsigned char *recipient)
{
	size_t		len;

	if (!kr_bundle_unbase64(VARDATA_ANY(base64), VARSIZE_ANY_EXHDR(base64),
							recipient, KR_BOX_PUBLIC_BYTES, &len) ||
		len != KR_BOX_PUBLIC_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("recipient is not a public key"),
				 errdetail("It takes %d bytes in base64, without spaces.", KR_BOX_PUBLIC_BYTES),
				 errhint("Give what SELECT vault.public_key() returns in the other installation.")));
}

/* *slug is NULL for a tenant that was dropped. */
static pg_uuid_t
resolve_tenant(const char *tenant, char **slug, MemoryContext cxt)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(tenant)};
	bool		isnull;

	kr_spi_read(&plan,
				"SELECT i.id, t.slug FROM (SELECT vault._tenant_id($1) AS id) i LEFT JOIN app.tenants t ON t.id = i.id",
				1, types, values);
	*slug = kr_spi_text(0, 2, cxt);
	return *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* What is asked for by id and left out would be missed too late. */
static void
check_ids(const pg_uuid_t *tenant_id, ArrayType *ids)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, UUIDARRAYOID};
	Datum		values[] = {UUIDPGetDatum(tenant_id), PointerGetDatum(ids)};

	if (ids == NULL)
		return;
	kr_spi_read(&plan,
				"SELECT COALESCE(i.id::text, 'null') FROM pg_catalog.unnest($2) i (id)"
				" WHERE NOT EXISTS (SELECT FROM vault.secrets s WHERE s.id = i.id AND s.tenant_id = $1) LIMIT 1",
				2, types, values);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA),
				 errmsg("the tenant has no secret %s", kr_spi_text(0, 1, CurrentMemoryContext)),
				 errhint("Leave secret_ids out to export all secrets of the tenant.")));
}

static void
begin_bundle(Export *export, const char *slug, const unsigned char *recipient)
{
	unsigned char sealed_key[KR_BUNDLE_SEALED_KEY_BYTES];
	KrSecret   *boxed;
	Datum		now = TimestampTzGetDatum(GetCurrentTimestamp());

	MemoryContextSwitchTo(export->bundle_cxt);
	export->key = kr_vault_new_secret(KR_KEY_BYTES);
	randombytes_buf(export->key->value, KR_KEY_BYTES);
	boxed = kr_vault_new_secret(KR_BUNDLE_BOXED_KEY_BYTES);
	boxed->value[0] = '\0';
	memcpy(boxed->value + 1, export->key->value, KR_KEY_BYTES);
	if (crypto_box_seal(sealed_key, (unsigned char *) boxed->value, KR_BUNDLE_BOXED_KEY_BYTES, recipient) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("recipient is not a usable public key"),
				 errhint("Give what SELECT vault.public_key() returns in the other installation.")));
	kr_vault_close(boxed);

	kr_bundle_digest_begin(&export->digest);
	pushJsonbValue(&export->json, WJB_BEGIN_OBJECT, NULL);
	push_string(export, "format", KR_BUNDLE_FORMAT);
	push_number(export, "format_version", KR_BUNDLE_VERSION);
	push_time(export, "exported_at", now, false);
	push_string(export, "tenant_id", kr_vault_uuid_text(&export->tenant_id));
	push_string(export, "tenant", slug);
	push_bytes(export, "recipient", recipient, KR_BOX_PUBLIC_BYTES);
	push_bytes(export, "key", sealed_key, sizeof(sealed_key));
	push_key(export, "secrets");
	pushJsonbValue(&export->json, WJB_BEGIN_ARRAY, NULL);
}

static void
add_rows(Export *export, ArrayType *ids)
{
	Oid			types[] = {UUIDOID, UUIDARRAYOID};
	Datum		values[] = {UUIDPGetDatum(&export->tenant_id), PointerGetDatum(ids)};
	char		nulls[] = {' ', ids ? ' ' : 'n'};
	Portal		portal = SPI_cursor_open_with_args(NULL, versions_query, 2, types, values, nulls, true, 0);

	for (;;)
	{
		SPITupleTable *rows;
		uint64		nrows;

		SPI_cursor_fetch(portal, true, BATCH);
		rows = SPI_tuptable;
		nrows = SPI_processed;
		if (nrows == 0)
			break;
		for (uint64 i = 0; i < nrows; i++)
		{
			CHECK_FOR_INTERRUPTS();
			add_version(export, rows->vals[i], rows->tupdesc);
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	if (export->secrets > 0)
		end_secret(export);
}

static void
add_version(Export *export, HeapTuple tuple, TupleDesc desc)
{
	KrSecretRow row;
	bool		isnull;

	MemoryContextSwitchTo(export->row_cxt);
	row_of(export, tuple, desc, &row);

	MemoryContextSwitchTo(export->bundle_cxt);
	if (export->secrets == 0 || memcmp(&row.id, &export->secret_id, sizeof(pg_uuid_t)) != 0)
	{
		if (export->secrets > 0)
			end_secret(export);
		kr_vault_demand(export->role, &row.id, KR_PRIVILEGE_REVEAL, "export", NULL);
		MemoryContextSwitchTo(export->bundle_cxt);
		begin_secret(export, tuple, desc);
	}

	pushJsonbValue(&export->json, WJB_BEGIN_OBJECT, NULL);
	push_number(export, "version", row.version);
	push_string(export, "name", row.name ? pstrdup(row.name) : NULL);
	push_time(export, "created_at", SPI_getbinval(tuple, desc, VERSION_CREATED_AT, &isnull), false);
	seal_version(export, &row);
	pushJsonbValue(&export->json, WJB_END_OBJECT, NULL);
	export->versions++;

	MemoryContextReset(export->row_cxt);
	if (export->bytes > MAX_BUNDLE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("bundle is too large"),
				 errdetail("A jsonb holds up to %d bytes; these were reached after %u secrets.",
						   MAX_BUNDLE_BYTES, export->secrets),
				 errhint("Export some of the secrets at a time: vault.export_tenant(tenant, recipient, secret_ids => ...).")));
}

static void
begin_secret(Export *export, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value;

	export->secret_id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, SECRET_ID, &isnull));
	export->secrets++;
	export->versions = 0;
	if (export->secrets % KR_BUNDLE_NOTICE == 0)
		ereport(NOTICE, (errmsg("%u secrets are exported", export->secrets)));

	pushJsonbValue(&export->json, WJB_BEGIN_OBJECT, NULL);
	push_string(export, "id", kr_vault_uuid_text(&export->secret_id));
	push_string(export, "name", SPI_getvalue(tuple, desc, SECRET_NAME));
	push_string(export, "description", SPI_getvalue(tuple, desc, DESCRIPTION));
	value = SPI_getbinval(tuple, desc, TAGS, &isnull);
	push_tags(export, DatumGetJsonbPCopy(value));
	value = SPI_getbinval(tuple, desc, EXPIRES_AT, &isnull);
	push_time(export, "expires_at", value, isnull);
	value = SPI_getbinval(tuple, desc, CREATED_AT, &isnull);
	push_time(export, "created_at", value, isnull);
	value = SPI_getbinval(tuple, desc, UPDATED_AT, &isnull);
	push_time(export, "updated_at", value, isnull);
	push_key(export, "versions");
	pushJsonbValue(&export->json, WJB_BEGIN_ARRAY, NULL);
}

static void
end_secret(Export *export)
{
	MemoryContextSwitchTo(export->bundle_cxt);
	pushJsonbValue(&export->json, WJB_END_ARRAY, NULL);
	pushJsonbValue(&export->json, WJB_END_OBJECT, NULL);
	kr_bundle_digest_number(&export->digest, export->versions);
}

static void
row_of(const Export *export, HeapTuple tuple, TupleDesc desc, KrSecretRow *row)
{
	bool		isnull;
	Datum		value;
	bytea	   *nonce;
	bytea	   *wrapped;

	memset(row, 0, sizeof(*row));
	row->id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, SECRET_ID, &isnull));
	row->name = SPI_getvalue(tuple, desc, VERSION_NAME);
	row->version = DatumGetInt32(SPI_getbinval(tuple, desc, VERSION, &isnull));
	row->has_tenant = true;
	row->tenant_id = export->tenant_id;
	row->key_id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, KEY_ID, &isnull));
	row->sealed = DatumGetByteaP(SPI_getbinval(tuple, desc, SEALED, &isnull));
	row->nonce = DatumGetByteaP(SPI_getbinval(tuple, desc, NONCE, &isnull));
	row->expires_at = DT_NOEND; /* it travels with its expiry */

	value = SPI_getbinval(tuple, desc, KEY_WRAPPED, &isnull);
	if (isnull)
		return;
	wrapped = DatumGetByteaPP(value);
	nonce = DatumGetByteaPP(SPI_getbinval(tuple, desc, KEY_NONCE, &isnull));
	row->has_key = true;
	row->key.id = row->key_id;
	value = SPI_getbinval(tuple, desc, KEY_TENANT_ID, &isnull);
	row->key.has_tenant = !isnull;
	if (!isnull)
		row->key.tenant_id = *DatumGetUUIDP(value);
	strlcpy(row->key.root_key_id, SPI_getvalue(tuple, desc, KEY_ROOT_KEY_ID), sizeof(row->key.root_key_id));
	memcpy(row->key.nonce, VARDATA_ANY(nonce), KR_NONCE_BYTES);
	memcpy(row->key.wrapped, VARDATA_ANY(wrapped), KR_WRAPPED_KEY_BYTES);
}

static void
seal_version(Export *export, KrSecretRow *row)
{
	unsigned char nonce[KR_NONCE_BYTES];
	KrSecret   *value;
	unsigned char *aad;
	unsigned char *sealed;
	size_t		aad_len;
	size_t		len;
	char	   *utf8;

	MemoryContextSwitchTo(export->row_cxt);
	value = open_version(row, export->role);
	len = value->len;
	utf8 = kr_vault_to_utf8(value->value, &len);
	aad = kr_bundle_version_aad(&export->tenant_id, &row->id, row->version, row->name, &aad_len);
	randombytes_buf(nonce, sizeof(nonce));
	sealed = palloc(len + KR_TAG_BYTES);
	kr_aead_seal(sealed, (unsigned char *) utf8, len, aad, aad_len, nonce,
				 (unsigned char *) export->key->value);
	if (utf8 != value->value)
		sodium_memzero(utf8, len);
	kr_vault_close(value);

	MemoryContextSwitchTo(export->bundle_cxt);
	push_bytes(export, "nonce", nonce, sizeof(nonce));
	push_bytes(export, "sealed", sealed, len + KR_TAG_BYTES);
}

/* A bundle that lacks what could not be opened would be missed too late. */
static KrSecret *
open_version(KrSecretRow *row, Oid role)
{
	KrSecret   *value;
	KrOpenResult result = kr_vault_open_row(row, &value);

	kr_vault_record_open(row, "export", role, result, true);
	if (result == KR_OPEN_SEALED)
		kr_vault_raise_sealed(row->key.root_key_id);
	if (result != KR_OPEN_OK)
		ereport(ERROR,
				(errcode(kr_vault_sqlstate(result)),
				 errmsg("version %d of secret %s cannot be exported", row->version, kr_vault_uuid_text(&row->id)),
				 errdetail("It cannot be opened: %s.", kr_vault_reason(result)),
				 errhint("Delete the secret or store it anew; vault.verify() lists all that cannot be opened.")));
	return value;
}

static Jsonb *
end_bundle(Export *export)
{
	MemoryContext caller = MemoryContextSwitchTo(export->bundle_cxt);
	unsigned char hash[KR_BUNDLE_DIGEST_BYTES];
	unsigned char sealed[KR_BUNDLE_DIGEST_BYTES + KR_TAG_BYTES];
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char *aad;
	size_t		aad_len;
	JsonbValue *root;

	kr_bundle_digest_number(&export->digest, export->secrets);
	kr_bundle_digest_end(&export->digest, hash);
	aad = kr_bundle_digest_aad(&export->tenant_id, &aad_len);
	randombytes_buf(nonce, sizeof(nonce));
	kr_aead_seal(sealed, hash, sizeof(hash), aad, aad_len, nonce, (unsigned char *) export->key->value);
	kr_vault_close(export->key);

	pushJsonbValue(&export->json, WJB_END_ARRAY, NULL);
	push_bytes(export, "check_nonce", nonce, sizeof(nonce));
	push_bytes(export, "check", sealed, sizeof(sealed));
	root = pushJsonbValue(&export->json, WJB_END_OBJECT, NULL);

	MemoryContextSwitchTo(caller);
	return JsonbValueToJsonb(root);
}

/*
 * Members of the current object, in the bundle's memory, each into the hash as
 * it is pushed. name is a constant.
 */
static void
push_key(Export *export, const char *name)
{
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	export->bytes += key.val.string.len + 2 * sizeof(JEntry);
	pushJsonbValue(&export->json, WJB_KEY, &key);
}

static void
push_text(Export *export, const char *name, const char *value, size_t len)
{
	JsonbValue	json = {.type = jbvNull};

	kr_bundle_digest_text(&export->digest, value, len);
	push_key(export, name);
	if (value != NULL)
	{
		json.type = jbvString;
		json.val.string.val = unconstify(char *, value);
		json.val.string.len = len;
		export->bytes += len;
	}
	pushJsonbValue(&export->json, WJB_VALUE, &json);
}

static void
push_string(Export *export, const char *name, const char *value)
{
	push_text(export, name, value, value ? strlen(value) : 0);
}

static void
push_bytes(Export *export, const char *name, const unsigned char *bytes, size_t nbytes)
{
	size_t		len;
	char	   *base64 = kr_bundle_base64(bytes, nbytes, &len);

	push_text(export, name, base64, len);
}

static void
push_number(Export *export, const char *name, int32 number)
{
	JsonbValue	json = {.type = jbvNumeric};

	kr_bundle_digest_number(&export->digest, (uint32) number);
	push_key(export, name);
	json.val.numeric = int64_to_numeric(number);
	export->bytes += 8;
	pushJsonbValue(&export->json, WJB_VALUE, &json);
}

/* ISO 8601, in UTC */
static void
push_time(Export *export, const char *name, Datum time, bool isnull)
{
	char		buf[MAXDATELEN + 1];
	int			utc = 0;

	if (isnull)
		push_string(export, name, NULL);
	else
		push_string(export, name, pstrdup(JsonEncodeDateTime(buf, time, TIMESTAMPTZOID, &utc)));
}

static void
push_tags(Export *export, const Jsonb *tags)
{
	JsonbContainer *root = &unconstify(Jsonb *, tags)->root;
	JsonbValue	json = {.type = jbvBinary};
	char	   *shown = JsonbToCString(NULL, root, VARSIZE(tags));

	kr_bundle_digest_string(&export->digest, shown);
	pfree(shown);
	push_key(export, "tags");
	json.val.binary.data = root;
	json.val.binary.len = VARSIZE(tags) - VARHDRSZ;
	export->bytes += json.val.binary.len;
	pushJsonbValue(&export->json, WJB_VALUE, &json);
}

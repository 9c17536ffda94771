/*
 * kr_vault_import.c
 *	  A tenant's secrets from another installation: vault.import_tenant().
 *
 * Reads what kr_vault_export.c has written. Each version is opened into locked
 * memory with the bundle's key, sealed under the data key of the tenant here,
 * and wiped. Ids, versions and times are kept; grants do not travel, since
 * roles differ, and whoever imports gets none: he has not seen a secret.
 *
 * All of it happens in the caller's transaction: an error leaves nothing. That
 * something was taken out of the bundle is noticed at its end only.
 *
 * A bundle is as good as its sender: anybody can seal one for a public key.
 */
#include "postgres.h"

#include <sodium.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_bundle.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_import_tenant);

#define BUNDLE_HINT "Take it as vault.export_tenant() has returned it."

typedef struct Import
{
	pg_uuid_t	source_id;		/* the tenant's id where the bundle was made */
	pg_uuid_t	tenant_id;		/* and here */
	KrSecret   *key;			/* of the bundle */
	KrDataKey	seal_key;		/* of the tenant here; if there are secrets */
	MemoryContext row_cxt;
	KrBundleDigest digest;
	uint32		secrets;
} Import;

typedef struct BundledVersion
{
	KrSecretRow row;			/* sealed for the tenant here */
	Datum		created_at;
} BundledVersion;

typedef struct BundledSecret
{
	pg_uuid_t	id;
	const char *description;
	Jsonb	   *tags;
	Datum		expires_at;
	bool		never_expires;
	Datum		created_at;
	Datum		updated_at;
	uint32		nversions;
	BundledVersion *versions;	/* the newest comes last */
} BundledSecret;

static JsonbContainer *begin_import(Import *import, Jsonb *bundle, char **slug,
									unsigned char *recipient, unsigned char *sealed_key);
static pg_uuid_t resolve_tenant(const char *tenant);
static KrSecret *open_key(const unsigned char *recipient, const unsigned char *sealed_key);
static int	read_box_keys(KrDataKey **keys);
static void import_secrets(Import *import, JsonbContainer *secrets);
static void import_secret(Import *import, JsonbContainer *json);
static void import_version(Import *import, const pg_uuid_t *id, JsonbContainer *json,
						   BundledVersion *version);
static void insert_secret(const BundledSecret *secret);
static void insert_former(const BundledVersion *version);
static void record(const Import *import, const BundledSecret *secret);
static void check_digest(Import *import, JsonbContainer *root);
static void secret_context(void *arg);
static JsonbValue *member(JsonbContainer *json, const char *name, JsonbValue *value);
static JsonbContainer *get_container(JsonbContainer *json, const char *name, bool is_array);
static char *get_string(Import *import, JsonbContainer *json, const char *name, bool may_be_null);
static int32 get_number(Import *import, JsonbContainer *json, const char *name);
static pg_uuid_t get_uuid(Import *import, JsonbContainer *json, const char *name);
static bool get_time(Import *import, JsonbContainer *json, const char *name, bool may_be_null, Datum *value);
static Jsonb *get_tags(Import *import, JsonbContainer *json);
static unsigned char *get_bytes(Import *import, JsonbContainer *json, const char *name, size_t *len);
static void get_fixed(Import *import, JsonbContainer *json, const char *name,
					  unsigned char *bytes, size_t len);
static void raise_malformed(const char *name, const char *wanted) pg_attribute_noreturn();
static void raise_altered(const char *what) pg_attribute_noreturn();

/* vault.import_tenant(bundle, tenant) */
Datum
kr_vault_sql_import_tenant(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	Import		import = {.secrets = 0};
	unsigned char recipient[KR_BOX_PUBLIC_BYTES];
	unsigned char sealed_key[KR_BUNDLE_SEALED_KEY_BYTES];
	JsonbContainer *secrets;
	char	   *tenant;
	Jsonb	   *bundle;
	KrSpi		scope;
	KrAuditEvent event = {.action = "import", .tenant_id = &import.tenant_id, .ok = true};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the bundle must not be null"),
				 errhint(BUNDLE_HINT)));
	PreventCommandIfReadOnly("vault.import_tenant()");
	bundle = PG_GETARG_JSONB_P(0);
	secrets = begin_import(&import, bundle, &tenant, recipient, sealed_key);
	if (!PG_ARGISNULL(1))
		tenant = text_to_cstring(PG_GETARG_TEXT_PP(1));
	import.key = open_key(recipient, sealed_key);
	import.row_cxt = AllocSetContextCreate(caller, "kessel vault imported version", ALLOCSET_DEFAULT_SIZES);

	kr_spi_begin(&scope);
	import.tenant_id = resolve_tenant(tenant);
	import_secrets(&import, secrets);
	check_digest(&import, &bundle->root);
	kr_spi_end(&scope);

	MemoryContextSwitchTo(caller);
	kr_vault_close(import.key);
	MemoryContextDelete(import.row_cxt);
	event.count = import.secrets;
	kr_audit_record(&event);
	PG_RETURN_INT64(import.secrets);
}

/* What stands at the top, in the order of the hash. */
static JsonbContainer *
begin_import(Import *import, Jsonb *bundle, char **slug, unsigned char *recipient,
			 unsigned char *sealed_key)
{
	JsonbContainer *root = &bundle->root;
	char	   *format;
	char	   *exported_at;
	int32		version;

	kr_bundle_digest_begin(&import->digest);
	if (!JB_ROOT_IS_OBJECT(bundle))
		raise_malformed("bundle", "object");
	format = get_string(import, root, "format", false);
	if (strcmp(format, KR_BUNDLE_FORMAT) != 0)
		raise_malformed("format", "\"" KR_BUNDLE_FORMAT "\"");
	version = get_number(import, root, "format_version");
	if (version != KR_BUNDLE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("bundle has format version %d", version),
				 errdetail("This version of kessel_router reads format version %d.", KR_BUNDLE_VERSION),
				 errhint("Export and import with the same version of kessel_router.")));
	exported_at = get_string(import, root, "exported_at", false);
	pfree(exported_at);
	import->source_id = get_uuid(import, root, "tenant_id");
	*slug = get_string(import, root, "tenant", true);
	get_fixed(import, root, "recipient", recipient, KR_BOX_PUBLIC_BYTES);
	get_fixed(import, root, "key", sealed_key, KR_BUNDLE_SEALED_KEY_BYTES);
	return get_container(root, "secrets", true);
}

static pg_uuid_t
resolve_tenant(const char *tenant)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID};
	Datum		values[1];
	bool		isnull;

	if (tenant == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the bundle does not name a tenant"),
				 errhint("Tell whose secrets they are to be: vault.import_tenant(bundle, tenant).")));
	values[0] = CStringGetTextDatum(tenant);
	kr_spi_read(&plan, "SELECT id FROM app.tenants WHERE slug = $1 OR id::text = $1", 1, types, values);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(KR_ERR_UNKNOWN_TENANT),
				 errmsg("tenant \"%s\" does not exist", kr_error_name(tenant)),
				 errhint("Create it first, or tell which one takes the secrets: vault.import_tenant(bundle, tenant).")));
	return *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static KrSecret *
open_key(const unsigned char *recipient, const unsigned char *sealed_key)
{
	KrDataKey  *keys;
	int			nkeys = read_box_keys(&keys);
	const char *wanted = NULL;
	KrSecret   *boxed = kr_vault_new_secret(KR_BUNDLE_BOXED_KEY_BYTES);
	KrSecret   *key = kr_vault_new_secret(KR_KEY_BYTES);
	unsigned char public[KR_BOX_PUBLIC_BYTES];

	(void) kr_keyring_load();
	for (int i = 0; i < nkeys; i++)
	{
		if (!kr_keyring_has(keys[i].root_key_id))
		{
			wanted = keys[i].root_key_id;
			continue;
		}
		if (!kr_keyring_box_public(&keys[i], public) ||
			memcmp(public, recipient, sizeof(public)) != 0)
			continue;
		if (!kr_keyring_box_open(&keys[i], sealed_key, KR_BUNDLE_SEALED_KEY_BYTES,
								 (unsigned char *) boxed->value) ||
			boxed->value[0] != '\0')
			raise_altered("Its key cannot be opened.");
		memcpy(key->value, boxed->value + 1, KR_KEY_BYTES);
		kr_vault_close(boxed);
		return key;
	}

	if (wanted != NULL)
		kr_vault_raise_sealed(wanted);
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_CANNOT_OPEN),
			 errmsg("bundle was sealed for another vault"),
			 errdetail("Its recipient is none of the public keys of this one."),
			 errhint("Export it anew for what SELECT vault.public_key() returns here.")));
}

/* In the caller's memory; former keys, too. */
static int
read_box_keys(KrDataKey **keys)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;
	int			nkeys;

	kr_spi_begin(&scope);
	kr_spi_read(&plan,
				"SELECT id, root_key_id, nonce, wrapped_key FROM vault.keys"
				" WHERE purpose = 'box' AND status <> 'destroyed' AND tenant_id IS NULL",
				0, NULL, NULL);
	nkeys = SPI_processed;
	*keys = MemoryContextAllocZero(caller, sizeof(KrDataKey) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		KrDataKey  *key = &(*keys)[i];
		bool		isnull;

		key->purpose = KR_KEY_BOX;
		key->id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &isnull));
		strlcpy(key->root_key_id, SPI_getvalue(tuple, desc, 2), sizeof(key->root_key_id));
		memcpy(key->nonce, VARDATA_ANY(DatumGetByteaPP(SPI_getbinval(tuple, desc, 3, &isnull))), KR_NONCE_BYTES);
		memcpy(key->wrapped, VARDATA_ANY(DatumGetByteaPP(SPI_getbinval(tuple, desc, 4, &isnull))), KR_WRAPPED_KEY_BYTES);
	}
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
	return nkeys;
}

static void
import_secrets(Import *import, JsonbContainer *secrets)
{
	uint32		count = JsonContainerSize(secrets);
	ErrorContextCallback context = {.previous = error_context_stack, .callback = secret_context, .arg = import};

	if (count > 0)
		kr_vault_key_for_sealing(&import->tenant_id, &import->seal_key);

	error_context_stack = &context;
	for (uint32 i = 0; i < count; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(import->row_cxt);
		JsonbValue *element = getIthJsonbValueFromContainer(secrets, i);

		CHECK_FOR_INTERRUPTS();
		import->secrets++;
		if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
			raise_malformed("secrets", "array of objects");
		import_secret(import, element->val.binary.data);
		MemoryContextSwitchTo(spi);
		MemoryContextReset(import->row_cxt);
		if (import->secrets % KR_BUNDLE_NOTICE == 0)
			ereport(NOTICE,
					(errmsg("%u of %u secrets are imported", import->secrets, count),
					 errhidecontext(true)));
	}
	error_context_stack = context.previous;
}

/* In the order of the hash. */
static void
import_secret(Import *import, JsonbContainer *json)
{
	BundledSecret secret = {.id = get_uuid(import, json, "id")};
	JsonbContainer *versions;
	int32		before = 0;

	/* The newest version has it, too. */
	(void) get_string(import, json, "name", true);
	secret.description = get_string(import, json, "description", false);
	secret.tags = get_tags(import, json);
	secret.never_expires = !get_time(import, json, "expires_at", true, &secret.expires_at);
	(void) get_time(import, json, "created_at", false, &secret.created_at);
	(void) get_time(import, json, "updated_at", false, &secret.updated_at);

	versions = get_container(json, "versions", true);
	secret.nversions = JsonContainerSize(versions);
	if (secret.nversions == 0)
		raise_malformed("versions", "array of at least one version");
	secret.versions = palloc0(sizeof(BundledVersion) * secret.nversions);
	for (uint32 i = 0; i < secret.nversions; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(versions, i);

		if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
			raise_malformed("versions", "array of objects");
		import_version(import, &secret.id, element->val.binary.data, &secret.versions[i]);
		if (secret.versions[i].row.version <= before)
			raise_malformed("version", "number that is higher than the one before");
		before = secret.versions[i].row.version;
	}
	kr_bundle_digest_number(&import->digest, secret.nversions);

	/* Former versions refer to the secret. */
	insert_secret(&secret);
	for (uint32 i = 0; i < secret.nversions - 1; i++)
		insert_former(&secret.versions[i]);
	record(import, &secret);
}

/* Opened with the key of the bundle, sealed with the one of the tenant. */
static void
import_version(Import *import, const pg_uuid_t *id, JsonbContainer *json, BundledVersion *version)
{
	KrSecretRow *row = &version->row;
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char *sealed;
	unsigned char *aad;
	size_t		len;
	size_t		aad_len;
	KrSecret   *value;

	row->id = *id;
	row->has_tenant = true;
	row->tenant_id = import->tenant_id;
	row->key = import->seal_key;
	row->version = get_number(import, json, "version");
	row->name = get_string(import, json, "name", true);
	(void) get_time(import, json, "created_at", false, &version->created_at);
	get_fixed(import, json, "nonce", nonce, sizeof(nonce));
	sealed = get_bytes(import, json, "sealed", &len);
	if (len < KR_TAG_BYTES)
		raise_malformed("sealed", "sealed value");

	value = kr_vault_new_secret(len - KR_TAG_BYTES);
	aad = kr_bundle_version_aad(&import->source_id, id, row->version, row->name, &aad_len);
	if (!kr_aead_open((unsigned char *) value->value, sealed, len, aad, aad_len, nonce,
					  (unsigned char *) import->key->value))
		raise_altered("A secret is not what was exported, or belongs to another tenant, secret, version or name.");
	value = kr_vault_from_utf8(value);
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("a secret cannot be represented in this database"),
				 errdetail("It has characters that encoding \"%s\" has not.", GetDatabaseEncodingName()),
				 errhint("Import into a database with encoding UTF8.")));
	kr_vault_seal_row(row, value->value, value->len);
	kr_vault_close(value);
}

static void
insert_secret(const BundledSecret *secret)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {
		UUIDOID, TEXTOID, TEXTOID, BYTEAOID, UUIDOID, BYTEAOID, UUIDOID, INT4OID,
		JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID
	};
	const BundledVersion *newest = &secret->versions[secret->nversions - 1];
	const KrSecretRow *row = &newest->row;
	Datum		values[] = {
		UUIDPGetDatum(&row->id),
		row->name ? CStringGetTextDatum(row->name) : (Datum) 0,
		CStringGetTextDatum(secret->description),
		PointerGetDatum(row->sealed),
		UUIDPGetDatum(&row->key_id),
		PointerGetDatum(row->nonce),
		UUIDPGetDatum(&row->tenant_id),
		Int32GetDatum(row->version),
		PointerGetDatum(secret->tags),
		secret->expires_at,
		secret->created_at,
		secret->updated_at,
		newest->created_at
	};
	char		nulls[] = "             ";

	if (row->name == NULL)
		nulls[1] = 'n';
	if (secret->never_expires)
		nulls[9] = 'n';
	kr_spi_write(&plan,
				 "INSERT INTO vault.secrets (id, name, description, secret, key_id, nonce, tenant_id, version,"
				 " tags, expires_at, created_at, updated_at, version_created_at)"
				 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
				 lengthof(types), types, values, nulls);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("secret %s is here already", kr_vault_uuid_text(&row->id)),
				 row->name ? errdetail("The vault has a secret with this id or with the name \"%s\".", row->name) :
				 errdetail("The vault has a secret with this id."),
				 errhint("Delete or rename the one that is here, or export the others alone: vault.export_tenant(tenant, recipient, secret_ids => ...).")));
}

static void
insert_former(const BundledVersion *version)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {
		UUIDOID, INT4OID, TEXTOID, UUIDOID, UUIDOID, BYTEAOID, BYTEAOID, TIMESTAMPTZOID
	};
	const KrSecretRow *row = &version->row;
	Datum		values[] = {
		UUIDPGetDatum(&row->id),
		Int32GetDatum(row->version),
		row->name ? CStringGetTextDatum(row->name) : (Datum) 0,
		UUIDPGetDatum(&row->tenant_id),
		UUIDPGetDatum(&row->key_id),
		PointerGetDatum(row->sealed),
		PointerGetDatum(row->nonce),
		version->created_at
	};

	kr_spi_write(&plan,
				 "INSERT INTO vault.former_versions (secret_id, version, name, tenant_id, key_id, secret, nonce, created_at)"
				 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
				 lengthof(types), types, values, row->name ? "        " : "  n     ");
}

static void
record(const Import *import, const BundledSecret *secret)
{
	KrAuditEvent event = {
		.action = "import",
		.purpose = "bundle",
		.tenant_id = &import->tenant_id,
		.secret_id = &secret->id,
		.version = secret->versions[secret->nversions - 1].row.version,
		.ok = true
	};

	kr_audit_gather(&event);
}

static void
check_digest(Import *import, JsonbContainer *root)
{
	unsigned char hash[KR_BUNDLE_DIGEST_BYTES];
	unsigned char expected[KR_BUNDLE_DIGEST_BYTES];
	unsigned char sealed[KR_BUNDLE_DIGEST_BYTES + KR_TAG_BYTES];
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char *aad;
	size_t		aad_len;

	kr_bundle_digest_number(&import->digest, import->secrets);
	kr_bundle_digest_end(&import->digest, hash);

	/* What is read from here on stands in no hash. */
	kr_bundle_digest_begin(&import->digest);
	get_fixed(import, root, "check_nonce", nonce, sizeof(nonce));
	get_fixed(import, root, "check", sealed, sizeof(sealed));
	aad = kr_bundle_digest_aad(&import->source_id, &aad_len);
	if (!kr_aead_open(expected, sealed, sizeof(sealed), aad, aad_len, nonce,
					  (unsigned char *) import->key->value) ||
		sodium_memcmp(expected, hash, sizeof(hash)) != 0)
		raise_altered("Something was taken out of it, added, or changed.");
}

static void
secret_context(void *arg)
{
	const Import *import = arg;

	errcontext("secret %u of the bundle", import->secrets);
}

/* ---------- members of an object, each into the hash as it is read ---------- */

static JsonbValue *
member(JsonbContainer *json, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(json, name, strlen(name), value);
}

static JsonbContainer *
get_container(JsonbContainer *json, const char *name, bool is_array)
{
	JsonbValue	value;

	if (member(json, name, &value) == NULL || value.type != jbvBinary ||
		(is_array ? !JsonContainerIsArray(value.val.binary.data) : !JsonContainerIsObject(value.val.binary.data)))
		raise_malformed(name, is_array ? "array" : "object");
	return value.val.binary.data;
}

static char *
get_string(Import *import, JsonbContainer *json, const char *name, bool may_be_null)
{
	JsonbValue	value;
	char	   *string = NULL;

	if (member(json, name, &value) == NULL ||
		(value.type != jbvString && !(may_be_null && value.type == jbvNull)))
		raise_malformed(name, may_be_null ? "string or null" : "string");
	if (value.type == jbvString)
		string = pnstrdup(value.val.string.val, value.val.string.len);
	kr_bundle_digest_string(&import->digest, string);
	return string;
}

static int32
get_number(Import *import, JsonbContainer *json, const char *name)
{
	JsonbValue	value;
	bool		overflow = false;
	int32		number = 0;

	if (member(json, name, &value) != NULL && value.type == jbvNumeric)
		number = numeric_int4_opt_error(value.val.numeric, &overflow);
	if (overflow || number <= 0)
		raise_malformed(name, "number from 1");
	kr_bundle_digest_number(&import->digest, (uint32) number);
	return number;
}

static pg_uuid_t
get_uuid(Import *import, JsonbContainer *json, const char *name)
{
	char	   *string = get_string(import, json, name, false);

	return *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(string)));
}

/* False for null. */
static bool
get_time(Import *import, JsonbContainer *json, const char *name, bool may_be_null, Datum *value)
{
	char	   *string = get_string(import, json, name, may_be_null);

	if (string == NULL)
		return false;
	*value = DirectFunctionCall3(timestamptz_in, CStringGetDatum(string),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return true;
}

static Jsonb *
get_tags(Import *import, JsonbContainer *json)
{
	JsonbValue	value = {.type = jbvBinary};
	JsonbContainer *tags = get_container(json, "tags", false);
	char	   *shown;
	Jsonb	   *result;

	(void) member(json, "tags", &value);
	shown = JsonbToCString(NULL, tags, value.val.binary.len);
	kr_bundle_digest_string(&import->digest, shown);
	pfree(shown);
	result = JsonbValueToJsonb(&value);
	return result;
}

static unsigned char *
get_bytes(Import *import, JsonbContainer *json, const char *name, size_t *len)
{
	char	   *string = get_string(import, json, name, false);
	size_t		string_len = strlen(string);
	unsigned char *bytes = palloc(string_len + 1);

	if (!kr_bundle_unbase64(string, string_len, bytes, string_len + 1, len))
		raise_malformed(name, "base64");
	return bytes;
}

static void
get_fixed(Import *import, JsonbContainer *json, const char *name, unsigned char *bytes, size_t len)
{
	size_t		have;
	unsigned char *decoded = get_bytes(import, json, name, &have);

	if (have != len)
		raise_malformed(name, psprintf("base64 of %zu bytes", len));
	memcpy(bytes, decoded, len);
}

static void
raise_malformed(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("this is not a bundle of secrets"),
			 errdetail("\"%s\" is missing or is not as it should be: %s.", name, wanted),
			 errhint(BUNDLE_HINT)));
}

static void
raise_altered(const char *what)
{
	KrAuditEvent event = {
		.action = "import",
		.purpose = "bundle",
		.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN,
		.reason = "altered"
	};

	kr_audit_record(&event);
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_CANNOT_OPEN),
			 errmsg("bundle was altered"),
			 errdetail("%s Nothing was imported.", what),
			 errhint(BUNDLE_HINT)));
}

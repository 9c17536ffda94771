/*
 * kr_vault_value.c
 *	  Sealed values for columns of users' own tables.
 *
 * Called by the SQL functions for columns, once for each row, so everything
 * that a row does not need is kept from it: the wrapped data keys are cached in
 * the backend, by id, and for each tenant which one is active. The cache is
 * dropped as a whole when any row of vault.keys has changed anywhere; what was
 * read while such a change arrived is not kept. Keys are unwrapped by the
 * keyring, for one operation at a time, and are never cached.
 *
 * Plaintext is opened into the very datum that goes to the executor, with no
 * copy that would have to be wiped; that datum is the executor's.
 *
 * Format: format byte, type, id of the data key, nonce, then ciphertext and tag
 * of XChaCha20-Poly1305. Bound along: format, type, tenant, key and context.
 * Value and context are sealed as UTF-8, so that a dump opens in a database of
 * another encoding.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_int.h"
#include "kr_vault_value.h"
#include "kr_watch.h"

#define KR_VALUE_FORMAT 1
#define KR_VALUE_AAD_PREFIX "kessel.value"

/* A backend that works with more keys than this starts anew now and then. */
#define MAX_CACHED_KEYS 10000

/* See require_root_key(). */
#define CALLS_PER_LOAD 256

/* In the audit; with the actions open, seal and reseal. */
#define AUDIT_PURPOSE "value"

#define SELECT_KEY \
	"SELECT id, tenant_id, purpose, root_key_id, nonce, wrapped_key FROM vault.keys"

typedef struct ValueHeader
{
	uint8		format;
	uint8		type;
	uint8		key_id[UUID_LEN];
	uint8		nonce[KR_NONCE_BYTES];
} ValueHeader;

#define KR_VALUE_OVERHEAD (sizeof(ValueHeader) + KR_TAG_BYTES)

StaticAssertDecl(sizeof(ValueHeader) == 2 + UUID_LEN + KR_NONCE_BYTES,
				 "the header of a sealed value has holes");

/* A row of vault.keys. */
typedef struct KeyEntry
{
	pg_uuid_t	id;				/* hash key */
	bool		destroyed;
	bool		seals;			/* not a key of another purpose */
	KrDataKey	key;			/* wrapped; of a destroyed one without the key */
} KeyEntry;

typedef struct ActiveEntry
{
	pg_uuid_t	tenant_id;		/* hash key */
	KrDataKey	key;
} ActiveEntry;

static struct
{
	MemoryContext cxt;			/* NULL: empty */
	uint64		generation;		/* of kr_watch.c, when it was made */
	HTAB	   *keys;
	HTAB	   *active;
} cache;

static void freshen_cache(void);
static HTAB *create_table(const char *name, Size entrysize);
static bool find_key(const pg_uuid_t *id, KeyEntry *result);
static bool read_key(const pg_uuid_t *id, KeyEntry *result);
static bool read_row(SPIPlanPtr *plan, const char *sql, const Oid *argtypes,
					 Datum *values, KeyEntry *result);
static void key_from_row(HeapTuple tuple, TupleDesc desc, KeyEntry *result);
static void find_active_key(const pg_uuid_t *tenant_id, KrDataKey *key);
static bool read_active_key(const pg_uuid_t *tenant_id, KrDataKey *key);
static void make_active_key(const pg_uuid_t *tenant_id, KrDataKey *key);
static void require_root_key(const KrDataKey *key);
static bytea *seal(const KrDataKey *key, KrValueType type,
				   const unsigned char *utf8, size_t len, const text *context);
static bool open_into(const KrDataKey *key, const bytea *sealed,
					  const text *context, unsigned char *utf8);
static void require_key(const pg_uuid_t *tenant_id, const bytea *sealed, KrDataKey *key);
static unsigned char *value_aad(const ValueHeader *header, const pg_uuid_t *tenant_id,
								const text *context, size_t *len);
static const ValueHeader *header_of(const bytea *sealed);
static size_t plain_len(const bytea *sealed);
static text *convert_text(text *utf8);
static void gather(const char *action, const pg_uuid_t *tenant_id);
static void record_failure(const pg_uuid_t *tenant_id, int sqlerrcode, const char *reason);
static void raise_cannot_open(const pg_uuid_t *tenant_id, const char *reason,
							  const char *detail, const char *hint) pg_attribute_noreturn();

bytea *
kr_vault_value_seal(const pg_uuid_t *tenant_id, KrValueType type,
					const char *plain, size_t len, const text *context)
{
	KrDataKey	key;
	size_t		utf8_len = len;
	char	   *utf8;
	bytea	   *result;

	if (len > KR_VALUE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value is too large to be sealed"),
				 errdetail("It has %zu bytes; the limit is %d.", len, KR_VALUE_MAX)));

	find_active_key(tenant_id, &key);
	utf8 = kr_vault_to_utf8(plain, &utf8_len);
	result = seal(&key, type, (unsigned char *) utf8, utf8_len, context);
	if (utf8 != plain)
	{
		sodium_memzero(utf8, utf8_len);
		pfree(utf8);
	}
	gather("seal", tenant_id);
	return result;
}

text *
kr_vault_value_open(const pg_uuid_t *tenant_id, const bytea *sealed,
					const text *context, KrValueType *type)
{
	KrDataKey	key;
	size_t		len;
	text	   *result;

	require_key(tenant_id, sealed, &key);
	len = plain_len(sealed);
	result = palloc(VARHDRSZ + len);
	SET_VARSIZE(result, VARHDRSZ + len);
	if (!open_into(&key, sealed, context, (unsigned char *) VARDATA(result)))
		raise_cannot_open(tenant_id, "altered, or another context",
						  "It was altered, or sealed for another context.",
						  "Give the context that vault.seal() was called with.");
	gather("open", tenant_id);
	*type = header_of(sealed)->type;
	return kr_vault_value_text(result);
}

bytea *
kr_vault_value_reseal(const pg_uuid_t *tenant_id, bytea *sealed, const text *context)
{
	KrDataKey	old;
	KrDataKey	active;
	KrSecret   *plain;
	bytea	   *result;

	require_key(tenant_id, sealed, &old);
	find_active_key(tenant_id, &active);
	if (memcmp(active.id.data, old.id.data, UUID_LEN) == 0)
		return sealed;

	plain = kr_vault_new_secret(plain_len(sealed));
	if (!open_into(&old, sealed, context, (unsigned char *) plain->value))
		raise_cannot_open(tenant_id, "altered, or another context",
						  "It was altered, or sealed for another context.",
						  "Give the context that vault.seal() was called with.");
	gather("reseal", tenant_id);
	result = seal(&active, header_of(sealed)->type, (unsigned char *) plain->value, plain->len, context);
	kr_vault_close(plain);
	return result;
}

text *
kr_vault_value_text(text *utf8)
{
	int			encoding = GetDatabaseEncoding();
	size_t		len = VARSIZE(utf8) - VARHDRSZ;
	bool		ok;

	/* without an encoding of its own a database takes whatever has no NUL */
	ok = encoding == PG_SQL_ASCII ? memchr(VARDATA(utf8), '\0', len) == NULL :
		pg_verify_mbstr(PG_UTF8, VARDATA(utf8), len, true);
	if (ok && (encoding == PG_SQL_ASCII || encoding == PG_UTF8))
		return utf8;

	if (!ok)
	{
		sodium_memzero(VARDATA(utf8), len);
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("what was opened is not text"),
				 errdetail("It holds a zero byte or is not valid UTF-8."),
				 errhint("Only text can be opened; binary data has to be encoded as text before it is sealed.")));
	}
	return convert_text(utf8);
}

unsigned char *
kr_vault_value_utf8(const text *plain, size_t *len)
{
	char	   *utf8;
	unsigned char *copy;

	*len = VARSIZE_ANY_EXHDR(plain);
	utf8 = kr_vault_to_utf8(VARDATA_ANY(plain), len);
	if (utf8 != VARDATA_ANY(plain))
		return (unsigned char *) utf8;
	copy = palloc(Max(*len, 1));
	memcpy(copy, utf8, *len);
	return copy;
}

/* ---------- data keys ---------- */

static void
freshen_cache(void)
{
	uint64		generation = kr_watch_generation();

	if (cache.cxt != NULL && cache.generation == generation &&
		hash_get_num_entries(cache.keys) < MAX_CACHED_KEYS &&
		hash_get_num_entries(cache.active) < MAX_CACHED_KEYS)
		return;

	if (cache.cxt != NULL)
		MemoryContextDelete(cache.cxt);
	memset(&cache, 0, sizeof(cache));
	cache.cxt = AllocSetContextCreate(TopMemoryContext, "kessel data keys",
									  ALLOCSET_SMALL_SIZES);
	cache.keys = create_table("kessel data keys", sizeof(KeyEntry));
	cache.active = create_table("kessel active data keys", sizeof(ActiveEntry));
	cache.generation = generation;
}

static HTAB *
create_table(const char *name, Size entrysize)
{
	HASHCTL		ctl = {.keysize = sizeof(pg_uuid_t), .entrysize = entrysize, .hcxt = cache.cxt};

	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* False where there is none. What is not there is not remembered either. */
static bool
find_key(const pg_uuid_t *id, KeyEntry *result)
{
	KeyEntry   *entry;

	freshen_cache();
	entry = hash_search(cache.keys, id, HASH_FIND, NULL);
	if (entry != NULL)
	{
		*result = *entry;
		return true;
	}

	do
	{
		freshen_cache();
		if (!read_key(id, result))
			return false;
	} while (kr_watch_generation() != cache.generation);

	entry = hash_search(cache.keys, id, HASH_ENTER, NULL);
	*entry = *result;
	return true;
}

static bool
read_key(const pg_uuid_t *id, KeyEntry *result)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID};
	Datum		values[] = {UUIDPGetDatum(id)};

	return read_row(&plan, SELECT_KEY " WHERE id OPERATOR(pg_catalog.=) $1",
					argtypes, values, result);
}

static bool
read_row(SPIPlanPtr *plan, const char *sql, const Oid *argtypes, Datum *values,
		 KeyEntry *result)
{
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;
	bool		found;

	memset(result, 0, sizeof(*result));
	kr_spi_begin(&scope);
	kr_spi_read(plan, sql, 1, argtypes, values);
	found = SPI_processed == 1;
	if (found)
		key_from_row(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, result);
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
	return found;
}

/* The table's constraints see to the lengths. */
static void
key_from_row(HeapTuple tuple, TupleDesc desc, KeyEntry *result)
{
	KrDataKey  *key = &result->key;
	bool		isnull;
	Datum		value;

	result->id = key->id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &isnull));
	value = SPI_getbinval(tuple, desc, 2, &isnull);
	key->has_tenant = !isnull;
	if (!isnull)
		key->tenant_id = *DatumGetUUIDP(value);
	key->purpose = KR_KEY_SEAL;
	result->seals = strcmp(SPI_getvalue(tuple, desc, 3), "seal") == 0;
	strlcpy(key->root_key_id, SPI_getvalue(tuple, desc, 4), sizeof(key->root_key_id));
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	memcpy(key->nonce, VARDATA_ANY(DatumGetByteaPP(value)), KR_NONCE_BYTES);
	value = SPI_getbinval(tuple, desc, 6, &isnull);
	result->destroyed = isnull;
	if (!isnull)
		memcpy(key->wrapped, VARDATA_ANY(DatumGetByteaPP(value)), KR_WRAPPED_KEY_BYTES);
}

/*
 * The tenant's active key, made where it has none. It is not locked, as it is
 * for a secret: a key that is retired meanwhile still opens what it has sealed.
 */
static void
find_active_key(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	ActiveEntry *entry;

	freshen_cache();
	entry = hash_search(cache.active, tenant_id, HASH_FIND, NULL);
	if (entry != NULL)
	{
		require_root_key(&entry->key);
		*key = entry->key;
		return;
	}

	do
	{
		freshen_cache();
		if (!read_active_key(tenant_id, key))
			make_active_key(tenant_id, key);
	} while (kr_watch_generation() != cache.generation);

	require_root_key(key);
	entry = hash_search(cache.active, tenant_id, HASH_ENTER, NULL);
	entry->key = *key;
}

static bool
read_active_key(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID};
	Datum		values[] = {UUIDPGetDatum(tenant_id)};
	KeyEntry	entry;
	bool		found = read_row(&plan,
								 SELECT_KEY " WHERE tenant_id OPERATOR(pg_catalog.=) $1"
								 " AND purpose OPERATOR(pg_catalog.=) 'seal'"
								 " AND status OPERATOR(pg_catalog.=) 'active'",
								 argtypes, values, &entry);

	*key = entry.key;
	return found;
}

static void
make_active_key(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;

	PreventCommandIfReadOnly("making a tenant's first data key");
	kr_spi_begin(&scope);
	kr_vault_key_for_sealing(tenant_id, key);
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
}

/* The key that a value of this tenant names. */
static void
require_key(const pg_uuid_t *tenant_id, const bytea *sealed, KrDataKey *key)
{
	KeyEntry	entry;
	const ValueHeader *header = header_of(sealed);
	pg_uuid_t	id;

	if (header == NULL)
		raise_cannot_open(tenant_id, "not a sealed value",
						  "It is not what vault.seal() returns, or was cut short.",
						  "Give the value as vault.seal() has returned it.");
	memcpy(id.data, header->key_id, UUID_LEN);
	if (!find_key(&id, &entry) || !entry.seals)
		raise_cannot_open(tenant_id, "no such data key",
						  psprintf("Its data key %s does not exist here.", kr_vault_uuid_text(&id)),
						  "It was sealed in another database, or in a transaction that was rolled back.");
	if (!entry.key.has_tenant ||
		memcmp(entry.key.tenant_id.data, tenant_id->data, UUID_LEN) != 0)
		raise_cannot_open(tenant_id, "of another tenant",
						  "It was sealed for another tenant.",
						  "Set kessel.tenant to the tenant that it belongs to.");
	if (entry.destroyed)
		raise_cannot_open(tenant_id, "data key destroyed",
						  psprintf("Its data key %s was destroyed.", kr_vault_uuid_text(&id)),
						  "What was sealed under it is lost for good.");
	require_root_key(&entry.key);
	*key = entry.key;
}

/*
 * The keyring looks at its file with each load, which takes as long as opening
 * a short value. So it is asked when a statement begins, and now and then.
 */
static void
require_root_key(const KrDataKey *key)
{
	static TimestampTz asked_in = 0;
	static int	calls_left = 0;

	if (asked_in != GetCurrentStatementStartTimestamp() || --calls_left <= 0)
	{
		(void) kr_keyring_load();
		asked_in = GetCurrentStatementStartTimestamp();
		calls_left = CALLS_PER_LOAD;
	}
	if (kr_keyring_has(key->root_key_id))
		return;

	calls_left = 0;
	(void) kr_keyring_load();
	if (kr_keyring_has(key->root_key_id))
		return;
	record_failure(&key->tenant_id, KR_ERR_VAULT_SEALED, "sealed");
	kr_vault_raise_sealed(key->root_key_id);
}

/* ---------- the envelope ---------- */

/* NULL where it cannot be a sealed value. */
static const ValueHeader *
header_of(const bytea *sealed)
{
	const ValueHeader *header = (const ValueHeader *) VARDATA_ANY(sealed);

	if (VARSIZE_ANY_EXHDR(sealed) < KR_VALUE_OVERHEAD ||
		header->format != KR_VALUE_FORMAT ||
		(header->type != KR_VALUE_TEXT && header->type != KR_VALUE_JSONB))
		return NULL;
	return header;
}

static size_t
plain_len(const bytea *sealed)
{
	return VARSIZE_ANY_EXHDR(sealed) - KR_VALUE_OVERHEAD;
}

static bytea *
seal(const KrDataKey *key, KrValueType type, const unsigned char *utf8, size_t len,
	 const text *context)
{
	size_t		size = VARHDRSZ + KR_VALUE_OVERHEAD + len;
	bytea	   *result = palloc(size);
	ValueHeader *header = (ValueHeader *) VARDATA(result);
	unsigned char *aad;
	size_t		aad_len;
	bool		ok;

	SET_VARSIZE(result, size);
	header->format = KR_VALUE_FORMAT;
	header->type = type;
	memcpy(header->key_id, key->id.data, UUID_LEN);
	randombytes_buf(header->nonce, sizeof(header->nonce));

	aad = value_aad(header, &key->tenant_id, context, &aad_len);
	ok = kr_keyring_seal(key, header->nonce, aad, aad_len, utf8, len,
						 (unsigned char *) (header + 1));
	pfree(aad);
	if (!ok)
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_CANNOT_OPEN),
				 errmsg("data key %s cannot be opened", kr_vault_uuid_text(&key->id)),
				 errdetail("The row of vault.keys is not what the vault has written: it was altered or moved by other means."),
				 errhint("Restore the row of vault.keys.")));
	return result;
}

static bool
open_into(const KrDataKey *key, const bytea *sealed, const text *context,
		  unsigned char *utf8)
{
	const ValueHeader *header = header_of(sealed);
	unsigned char *aad;
	size_t		aad_len;
	bool		ok;

	aad = value_aad(header, &key->tenant_id, context, &aad_len);
	ok = kr_keyring_open(key, header->nonce, aad, aad_len,
						 (const unsigned char *) (header + 1),
						 plain_len(sealed) + KR_TAG_BYTES, utf8);
	pfree(aad);
	return ok;
}

/* Parts of fixed length first, the context last. */
static unsigned char *
value_aad(const ValueHeader *header, const pg_uuid_t *tenant_id, const text *context,
		  size_t *len)
{
	size_t		context_len = VARSIZE_ANY_EXHDR(context);
	char	   *utf8 = kr_vault_to_utf8(VARDATA_ANY(context), &context_len);
	unsigned char *aad = palloc(sizeof(KR_VALUE_AAD_PREFIX) + 2 + 2 * UUID_LEN + context_len);
	unsigned char *p = aad;

	memcpy(p, KR_VALUE_AAD_PREFIX, sizeof(KR_VALUE_AAD_PREFIX));
	p += sizeof(KR_VALUE_AAD_PREFIX);
	*p++ = header->format;
	*p++ = header->type;
	memcpy(p, tenant_id->data, UUID_LEN);
	p += UUID_LEN;
	memcpy(p, header->key_id, UUID_LEN);
	p += UUID_LEN;
	memcpy(p, utf8, context_len);
	p += context_len;

	if (utf8 != VARDATA_ANY(context))
		pfree(utf8);
	*len = p - aad;
	return aad;
}

/* ---------- encodings ---------- */

static text *
convert_text(text *utf8)
{
	size_t		len = VARSIZE(utf8) - VARHDRSZ;
	size_t		room = len * MAX_CONVERSION_GROWTH + 1;
	text	   *result = palloc(VARHDRSZ + room);
	bool		done = kr_vault_convert_utf8(VARDATA(utf8), len, VARDATA(result));

	sodium_memzero(VARDATA(utf8), len);
	pfree(utf8);
	if (!done)
	{
		sodium_memzero(VARDATA(result), room);
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("what was opened cannot be shown in this database's encoding"),
				 errdetail("It has a character that %s does not have.",
						   pg_encoding_to_char(GetDatabaseEncoding())),
				 errhint("Open it in a database whose encoding is UTF8.")));
	}
	SET_VARSIZE(result, VARHDRSZ + strlen(VARDATA(result)));
	return result;
}

/* ---------- what is told ---------- */

static void
gather(const char *action, const pg_uuid_t *tenant_id)
{
	KrAuditEvent event = {
		.action = action,
		.purpose = AUDIT_PURPOSE,
		.tenant_id = tenant_id,
		.ok = true
	};

	kr_audit_gather(&event);
}

static void
record_failure(const pg_uuid_t *tenant_id, int sqlerrcode, const char *reason)
{
	KrAuditEvent event = {
		.action = "open",
		.purpose = AUDIT_PURPOSE,
		.tenant_id = tenant_id,
		.sqlerrcode = sqlerrcode,
		.reason = reason
	};

	kr_audit_record(&event);
}

static void
raise_cannot_open(const pg_uuid_t *tenant_id, const char *reason,
				  const char *detail, const char *hint)
{
	record_failure(tenant_id, KR_ERR_VAULT_CANNOT_OPEN, reason);
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_CANNOT_OPEN),
			 errmsg("sealed value cannot be opened"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

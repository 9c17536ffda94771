/*
 * kr_vault_box_sql.c
 *	  Secrets that a client has sealed before they came in: boxes of libsodium's
 *	  crypto_box_seal.
 *
 * The private keys are rows of vault.keys with the purpose "box", wrapped by a
 * root key like all others and of no tenant. The public key is computed from
 * the private one each time and stored nowhere: who can write to the table can
 * make it fail, but cannot put a key of his own in its place.
 *
 * A box does not name its key, so the active one is tried, then the retired
 * ones, the newest first. What is in it is opened into locked memory, looked at
 * there, and sealed as any secret. It must be text: the vault's functions hand
 * out text.
 *
 * A box is not bound to a name or tenant. Who may call these functions could
 * store any secret anyway.
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
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_int.h"
#include "kr_vault_value.h"

/* More former keys than this are not tried. */
#define MAX_BOX_KEYS 16

PG_FUNCTION_INFO_V1(kr_vault_box_public_key);
PG_FUNCTION_INFO_V1(kr_vault_box_rotate);
PG_FUNCTION_INFO_V1(kr_vault_box_destroy_retired);
PG_FUNCTION_INFO_V1(kr_vault_box_create_secret);
PG_FUNCTION_INFO_V1(kr_vault_box_update_secret);

static int	read_keys(KrDataKey *keys, int max);
static void key_from_row(HeapTuple tuple, TupleDesc desc, KrDataKey *key);
static void make_key(void);
static Datum bytes_datum(const unsigned char *bytes, size_t len);
static text *public_key_of(const KrDataKey *key);
static text *active_public_key(void);
static void record(const char *action, uint64 count);
static unsigned char *decode_box(const text *base64, size_t *len);
static KrSecret *open_box(const unsigned char *box, size_t len);
static KrSecret *secret_of_call(FunctionCallInfo fcinfo, int number);
static KrSecret *as_text(KrSecret *secret);
static char *get_text_arg(FunctionCallInfo fcinfo, int number);
static pg_uuid_t *get_uuid_arg(FunctionCallInfo fcinfo, int number);

/* vault.public_key() returns text */
Datum
kr_vault_box_public_key(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(active_public_key());
}

/* vault.rotate_public_key() returns text */
Datum
kr_vault_box_rotate(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	KrSpi		scope;

	PreventCommandIfReadOnly("making a public key");
	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "UPDATE vault.keys SET status = 'retired', updated_at = pg_catalog.clock_timestamp()"
				 " WHERE purpose OPERATOR(pg_catalog.=) 'box' AND status OPERATOR(pg_catalog.=) 'active'",
				 0, NULL, NULL, NULL);
	make_key();
	kr_spi_end(&scope);
	record("rotate public key", 1);
	PG_RETURN_TEXT_P(active_public_key());
}

/* vault.destroy_retired_public_keys() returns integer */
Datum
kr_vault_box_destroy_retired(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	KrSpi		scope;
	int32		count;

	PreventCommandIfReadOnly("destroying public keys");
	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "UPDATE vault.keys SET status = 'destroyed', wrapped_key = NULL, updated_at = pg_catalog.clock_timestamp()"
				 " WHERE purpose OPERATOR(pg_catalog.=) 'box' AND status OPERATOR(pg_catalog.=) 'retired'",
				 0, NULL, NULL, NULL);
	count = (int32) SPI_processed;
	kr_spi_end(&scope);
	record("destroy public key", count);
	PG_RETURN_INT32(count);
}

/*
 * vault.create_secret_sealed(sealed_secret, new_name, new_description, new_key_id,
 *							  new_tenant_id, new_tags, new_expires_at)
 */
Datum
kr_vault_box_create_secret(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	KrSecret   *secret = secret_of_call(fcinfo, 0);
	KrSecretChange change = {.value = secret->value, .len = secret->len};
	TimestampTz expires_at;

	change.name = get_text_arg(fcinfo, 1);
	change.notes.description = get_text_arg(fcinfo, 2);
	change.key_id = get_uuid_arg(fcinfo, 3);
	change.notes.tags = PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5);
	if (change.notes.tags != NULL && !JB_ROOT_IS_OBJECT(change.notes.tags))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tags must be a JSON object"),
				 errhint("For example: {\"team\": \"billing\"}.")));
	if (!PG_ARGISNULL(6))
	{
		expires_at = PG_GETARG_TIMESTAMPTZ(6);
		change.notes.expires_at = &expires_at;
	}

	kr_vault_new_id(id);
	kr_vault_insert(id, get_uuid_arg(fcinfo, 4), &change);
	kr_vault_grant_creator(id);
	kr_vault_close(secret);
	PG_RETURN_UUID_P(id);
}

/* vault.update_secret_sealed(secret_id, sealed_secret) */
Datum
kr_vault_box_update_secret(PG_FUNCTION_ARGS)
{
	KrSecret   *secret;
	KrSecretChange change = {0};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the secret's id must not be null"),
				 errhint("Look up its id in vault.secrets.")));
	secret = secret_of_call(fcinfo, 1);
	change.value = secret->value;
	change.len = secret->len;
	kr_vault_update(PG_GETARG_UUID_P(0), &change);
	kr_vault_close(secret);
	PG_RETURN_VOID();
}

/* ---------- keys ---------- */

/* The active key first, then the retired ones; the newest state of them. */
static int
read_keys(KrDataKey *keys, int max)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;
	int			count;

	kr_spi_begin(&scope);
	kr_spi_read(&plan,
				"SELECT id, tenant_id, root_key_id, nonce, wrapped_key FROM vault.keys"
				" WHERE purpose OPERATOR(pg_catalog.=) 'box' AND wrapped_key IS NOT NULL"
				" ORDER BY (status OPERATOR(pg_catalog.=) 'active') DESC, created_at DESC",
				0, NULL, NULL);
	count = Min((int) SPI_processed, max);
	for (int i = 0; i < count; i++)
		key_from_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &keys[i]);
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
	return count;
}

/* The table's constraints see to the lengths. */
static void
key_from_row(HeapTuple tuple, TupleDesc desc, KrDataKey *key)
{
	bool		isnull;
	Datum		value;

	memset(key, 0, sizeof(*key));
	key->purpose = KR_KEY_BOX;
	key->id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &isnull));
	value = SPI_getbinval(tuple, desc, 2, &isnull);
	key->has_tenant = !isnull;
	if (!isnull)
		key->tenant_id = *DatumGetUUIDP(value);
	strlcpy(key->root_key_id, SPI_getvalue(tuple, desc, 3), sizeof(key->root_key_id));
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	memcpy(key->nonce, VARDATA_ANY(DatumGetByteaPP(value)), KR_NONCE_BYTES);
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	memcpy(key->wrapped, VARDATA_ANY(DatumGetByteaPP(value)), KR_WRAPPED_KEY_BYTES);
}

/*
 * Within kr_spi_begin/end. Does nothing where another transaction has made the
 * active key meanwhile; the caller reads again.
 */
static void
make_key(void)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID, TEXTOID, TEXTOID, BYTEAOID, BYTEAOID};
	KrDataKey	key;
	Datum		values[5];

	kr_vault_new_key(NULL, KR_KEY_BOX, &key);
	values[0] = UUIDPGetDatum(&key.id);
	values[1] = CStringGetTextDatum(key.root_key_id);
	values[2] = CStringGetTextDatum(key.fingerprint);
	values[3] = bytes_datum(key.nonce, sizeof(key.nonce));
	values[4] = bytes_datum(key.wrapped, sizeof(key.wrapped));
	kr_spi_write(&plan,
				 "INSERT INTO vault.keys (id, purpose, root_key_id, fingerprint, nonce, wrapped_key)"
				 " VALUES ($1, 'box', $2, $3, $4, $5) ON CONFLICT DO NOTHING",
				 lengthof(argtypes), argtypes, values, NULL);
}

static Datum
bytes_datum(const unsigned char *bytes, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

static text *
active_public_key(void)
{
	KrDataKey	key;

	if (read_keys(&key, 1) == 0)
	{
		KrSpi		scope;

		PreventCommandIfReadOnly("making a public key");
		kr_spi_begin(&scope);
		make_key();
		kr_spi_end(&scope);
		if (read_keys(&key, 1) == 0)
			elog(ERROR, "the new public key is not there");
	}
	return public_key_of(&key);
}

static text *
public_key_of(const KrDataKey *key)
{
	unsigned char bytes[KR_BOX_PUBLIC_BYTES];
	char		base64[sodium_base64_ENCODED_LEN(KR_BOX_PUBLIC_BYTES, sodium_base64_VARIANT_ORIGINAL)];

	(void) kr_keyring_load();
	if (!kr_keyring_has(key->root_key_id))
		kr_vault_raise_sealed(key->root_key_id);
	if (!kr_keyring_box_public(key, bytes))
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_CANNOT_OPEN),
				 errmsg("data key %s cannot be opened", kr_vault_uuid_text(&key->id)),
				 errdetail("The row of vault.keys is not what the vault has written: it was altered or moved by other means."),
				 errhint("Restore the row, or call vault.rotate_public_key().")));
	(void) sodium_bin2base64(base64, sizeof(base64), bytes, sizeof(bytes), sodium_base64_VARIANT_ORIGINAL);
	return cstring_to_text(base64);
}

/* Recorded also where the transaction does not commit. */
static void
record(const char *action, uint64 count)
{
	KrAuditEvent event = {.action = action, .ok = true, .count = count};

	if (count > 0)
		kr_audit_record(&event);
}

/* ---------- boxes ---------- */

static KrSecret *
secret_of_call(FunctionCallInfo fcinfo, int number)
{
	unsigned char *box;
	size_t		len;

	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a sealed secret must not be null")));
	/* should somebody send it unsealed */
	kr_error_hide_statement(KR_VAULT_LABEL);
	box = decode_box(PG_GETARG_TEXT_PP(number), &len);
	return as_text(open_box(box, len));
}

/* Node's Buffer writes the one form, libsodium-wrappers the other. */
static unsigned char *
decode_box(const text *base64, size_t *len)
{
	static const int variants[] = {
		sodium_base64_VARIANT_ORIGINAL,
		sodium_base64_VARIANT_URLSAFE_NO_PADDING,
		sodium_base64_VARIANT_ORIGINAL_NO_PADDING,
		sodium_base64_VARIANT_URLSAFE,
	};
	const char *from = VARDATA_ANY(base64);
	size_t		from_len = VARSIZE_ANY_EXHDR(base64);
	size_t		room = from_len / 4 * 3 + 3;
	unsigned char *box = palloc(room);
	const char *end;
	bool		is_ascii = true;

	/* libsodium takes two bytes beyond ASCII for '+' and '/' */
	for (size_t i = 0; i < from_len; i++)
		is_ascii &= (unsigned char) from[i] < 0x80;

	for (int i = 0; is_ascii && i < lengthof(variants); i++)
	{
		if (sodium_base642bin(box, room, from, from_len, NULL, len, &end, variants[i]) == 0 &&
			end == from + from_len && *len >= KR_BOX_SEAL_BYTES)
		{
			if (*len - KR_BOX_SEAL_BYTES > KR_SECRET_MAX)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("secret is too large"),
						 errdetail("It has %zu bytes; the limit is %d.", *len - KR_BOX_SEAL_BYTES, KR_SECRET_MAX),
						 errhint("Keep large data in a table of its own and its key in the vault.")));
			return box;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("sealed secret is not a box in base64"),
			 errdetail("It takes base64, without spaces and line ends, of at least %d bytes.", KR_BOX_SEAL_BYTES),
			 errhint("Seal the secret with crypto_box_seal() for the key that vault.public_key() returns.")));
}

static KrSecret *
open_box(const unsigned char *box, size_t len)
{
	KrDataKey	keys[MAX_BOX_KEYS];
	int			count = read_keys(keys, MAX_BOX_KEYS);
	const char *wanted = NULL;
	KrSecret   *secret;
	KrAuditEvent failure = {
		.action = "open",
		.purpose = "box",
		.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN,
		.reason = "altered, or another key"
	};

	(void) kr_keyring_load();
	secret = kr_vault_new_secret(len - KR_BOX_SEAL_BYTES);
	for (int i = 0; i < count; i++)
	{
		if (!kr_keyring_has(keys[i].root_key_id))
			wanted = keys[i].root_key_id;
		else if (kr_keyring_box_open(&keys[i], box, len, (unsigned char *) secret->value))
			return secret;
	}

	kr_vault_close(secret);
	if (wanted != NULL)
	{
		failure.sqlerrcode = KR_ERR_VAULT_SEALED;
		failure.reason = kr_vault_reason(KR_OPEN_SEALED);
	}
	kr_audit_record(&failure);
	if (wanted != NULL)
		kr_vault_raise_sealed(wanted);
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_CANNOT_OPEN),
			 errmsg("sealed secret cannot be opened"),
			 errdetail("It was altered, or sealed for a key that this vault does not have any more or never had."),
			 errhint("Seal it for the key that vault.public_key() returns.")));
}

/* The same secret in the database's encoding, or an error that tells nothing of it. */
static KrSecret *
as_text(KrSecret *secret)
{
	text	   *copy;
	KrSecret   *result;

	if (GetDatabaseEncoding() == PG_UTF8 &&
		pg_verify_mbstr(PG_UTF8, secret->value, secret->len, true))
		return secret;

	copy = cstring_to_text_with_len(secret->value, secret->len);
	kr_vault_close(secret);
	copy = kr_vault_value_text(copy);
	result = kr_vault_new_secret(VARSIZE(copy) - VARHDRSZ);
	memcpy(result->value, VARDATA(copy), result->len);
	sodium_memzero(VARDATA(copy), result->len);
	pfree(copy);
	return result;
}

static char *
get_text_arg(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static pg_uuid_t *
get_uuid_arg(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : PG_GETARG_UUID_P(number);
}

/*
 * kr_columns_aes.c
 *	  SQL functions for columns that an app has encrypted itself, with
 *	  AES-256-GCM under a key from its environment.
 *
 * The key is a secret of the vault. A statement over a million rows must not
 * open it a million times, nor must a trigger or a loop of PL/pgSQL under one
 * statement, so it is kept to the end of the client's statement or of the
 * transaction, whichever comes first: in a locked page of the backend's, which
 * is accessible only while a value is opened or written, and wiped then. It is
 * opened anew, and the privilege asked for again, for another user, and when a
 * secret, a grant or a role has changed anywhere.
 *
 * Plaintext is opened into the datum that goes to the executor; what is
 * decrypted before the tag was found wrong is wiped.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kr_aes_gcm.h"
#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_locked.h"
#include "kr_vault.h"
#include "kr_vault_value.h"
#include "kr_watch.h"

#define KR_AES_LABEL "<vault: statement with a value to be encrypted>"

/* In the audit; the opening of the key has the purpose "import". */
#define AUDIT_PURPOSE "aes_gcm"

/* How many keys are kept: apps change theirs now and then, and mark rows. */
#define MAX_KEYS 8

PG_FUNCTION_INFO_V1(kr_columns_import_aes_gcm);
PG_FUNCTION_INFO_V1(kr_columns_encrypt_aes_gcm);

/* What a key was opened as, and for whom. */
typedef struct AesKeyOwner
{
	text	   *secret;			/* key_secret as it was given; NULL: no key */
	Oid			user;
} AesKeyOwner;

static unsigned char (*keys)[KR_AES_KEY_BYTES] = NULL;	/* the page, closed */
static AesKeyOwner owners[MAX_KEYS];
static int	next_key = 0;		/* which is replaced when all are taken */

/* When what is in there was opened. */
static uint64 keys_generation = 0;	/* of kr_watch.c */
static TimestampTz keys_start = 0;	/* of the statement */

static bool wipe_is_due = false;	/* a callback of MessageContext is set */
static MemoryContextCallback wipe_callback;

static const unsigned char *find_key(text *key_secret);
static void make_page(void);
static void freshen_keys(void);
static void wipe_keys(void);
static void at_end_of_message(void *arg);
static void at_end_of_xact(XactEvent event, void *arg);
static void open_key(text *key_secret, unsigned char *key);
static void check_size(size_t len);
static text *get_text(FunctionCallInfo fcinfo, int number, const char *name);
static KrAesEncoding get_encoding(FunctionCallInfo fcinfo);
static size_t get_iv_len(FunctionCallInfo fcinfo);
static text *open_value(const unsigned char *key, const KrAesValue *value);
static text *write_value(const unsigned char *key, KrAesValue *value, unsigned char *bytes);
static void gather(const char *action);

/* vault.import_aes_gcm(value text, key_secret text) returns text */
Datum
kr_columns_import_aes_gcm(PG_FUNCTION_ARGS)
{
	text	   *text_value;
	KrAesValue	value;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	kr_error_hide_statement(NULL);
	text_value = PG_GETARG_TEXT_PP(0);
	if (!kr_aes_gcm_parse(VARDATA_ANY(text_value), VARSIZE_ANY_EXHDR(text_value), &value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("value is not of the form iv:authTag:ciphertext"),
				 errdetail("It takes three fields, all in hexadecimal or all in base64: an iv of 12 or 16 bytes, a tag of 16 bytes, the ciphertext."),
				 errhint("Hexadecimal digits are of one case; base64 is the standard one with padding, not base64url.")));
	check_size(value.len);

	PG_RETURN_TEXT_P(open_value(find_key(get_text(fcinfo, 1, "key_secret")), &value));
}

/* vault.encrypt_aes_gcm(value text, key_secret text, encoding text, iv_length int) returns text */
Datum
kr_columns_encrypt_aes_gcm(PG_FUNCTION_ARGS)
{
	KrAesValue	value = {0};
	const unsigned char *key;
	text	   *plain;
	unsigned char *bytes;
	text	   *result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	kr_error_hide_statement(KR_AES_LABEL);
	value.encoding = get_encoding(fcinfo);
	value.iv_len = get_iv_len(fcinfo);
	key = find_key(get_text(fcinfo, 1, "key_secret"));

	plain = PG_GETARG_TEXT_PP(0);
	check_size(VARSIZE_ANY_EXHDR(plain));
	bytes = kr_vault_value_utf8(plain, &value.len);
	if (PointerGetDatum(plain) != PG_GETARG_DATUM(0))
		sodium_memzero(VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));

	randombytes_buf(value.iv, value.iv_len);
	result = write_value(key, &value, bytes);
	pfree(bytes);
	PG_RETURN_TEXT_P(result);
}

static text *
open_value(const unsigned char *key, const KrAesValue *value)
{
	text	   *result = palloc(VARHDRSZ + value->len);
	unsigned char *bytes = (unsigned char *) VARDATA(result);
	bool		ok;

	SET_VARSIZE(result, VARHDRSZ + value->len);
	ok = kr_aes_gcm_body(value, bytes);
	if (ok)
	{
		sodium_mprotect_readonly(keys);
		ok = kr_aes_gcm_open(key, value->iv, value->iv_len, bytes, value->len, value->tag);
		sodium_mprotect_noaccess(keys);
	}
	if (!ok)
	{
		KrAuditEvent event = {
			.action = "open",
			.purpose = AUDIT_PURPOSE,
			.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN,
			.reason = "altered, or another key"
		};

		kr_audit_record(&event);
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_CANNOT_OPEN),
				 errmsg("encrypted value cannot be opened"),
				 errdetail("It was altered, or written under another key."),
				 errhint("Name the secret that holds the key that the value was written with.")));
	}
	gather("open");
	return kr_vault_value_text(result);
}

/* bytes are the plaintext and become ciphertext. */
static text *
write_value(const unsigned char *key, KrAesValue *value, unsigned char *bytes)
{
	size_t		len = kr_aes_gcm_text_len(value->encoding, value->iv_len, value->len);
	text	   *result = palloc(VARHDRSZ + len + 1);
	bool		ok;

	SET_VARSIZE(result, VARHDRSZ + len);
	sodium_mprotect_readonly(keys);
	ok = kr_aes_gcm_seal(key, value->iv, value->iv_len, bytes, value->len, value->tag);
	sodium_mprotect_noaccess(keys);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("OpenSSL cannot encrypt with AES-256-GCM"),
				 errhint("Look at the configuration of OpenSSL on the server: a provider that offers this cipher is missing.")));
	kr_aes_gcm_print(value, bytes, VARDATA(result));
	gather("seal");
	return result;
}

static void
gather(const char *action)
{
	KrAuditEvent event = {.action = action, .purpose = AUDIT_PURPOSE, .ok = true};

	kr_audit_gather(&event);
}

/* ---------- keys ---------- */

static const unsigned char *
find_key(text *key_secret)
{
	size_t		len = VARSIZE_ANY(key_secret);
	AesKeyOwner *owner;
	text	   *copy;

	make_page();
	freshen_keys();
	for (int i = 0; i < MAX_KEYS; i++)
	{
		owner = &owners[i];
		if (owner->secret != NULL && owner->user == GetUserId() &&
			VARSIZE_ANY(owner->secret) == len && memcmp(owner->secret, key_secret, len) == 0)
			return keys[i];
	}

	copy = MemoryContextAlloc(TopMemoryContext, len);
	memcpy(copy, key_secret, len);
	owner = &owners[next_key];
	if (owner->secret != NULL)
		pfree(owner->secret);
	owner->secret = NULL;
	PG_TRY();
	{
		open_key(key_secret, keys[next_key]);
	}
	PG_CATCH();
	{
		pfree(copy);
		PG_RE_THROW();
	}
	PG_END_TRY();

	owner->secret = copy;
	owner->user = GetUserId();
	next_key = (next_key + 1) % MAX_KEYS;
	return keys[owner - owners];
}

static void
make_page(void)
{
	if (keys != NULL)
		return;
	keys = kr_locked_new(MAX_KEYS * KR_AES_KEY_BYTES, NULL);
	if (keys == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no locked memory for a key")));
	sodium_mprotect_noaccess(keys);
	RegisterXactCallback(at_end_of_xact, NULL);
}

/* Another statement, or something has changed: keep no key from before. */
static void
freshen_keys(void)
{
	uint64		generation = kr_watch_generation();

	if (keys_generation != generation || keys_start != GetCurrentStatementStartTimestamp())
		wipe_keys();
	keys_generation = generation;
	keys_start = GetCurrentStatementStartTimestamp();

	/* A process without clients has no such context: it has transactions. */
	if (!wipe_is_due && MessageContext != NULL)
	{
		wipe_callback.func = at_end_of_message;
		MemoryContextRegisterResetCallback(MessageContext, &wipe_callback);
		wipe_is_due = true;
	}
}

static void
wipe_keys(void)
{
	bool		any = false;

	for (int i = 0; i < MAX_KEYS; i++)
	{
		if (owners[i].secret == NULL)
			continue;
		any = true;
		pfree(owners[i].secret);
		owners[i].secret = NULL;
	}
	if (!any)
		return;
	sodium_mprotect_readwrite(keys);
	sodium_memzero(keys, MAX_KEYS * KR_AES_KEY_BYTES);
	sodium_mprotect_noaccess(keys);
}

static void
at_end_of_message(void *arg)
{
	wipe_is_due = false;
	wipe_keys();
}

static void
at_end_of_xact(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		wipe_keys();
}

static void
open_key(text *key_secret, unsigned char *key)
{
	char	   *name = text_to_cstring(key_secret);
	KrSecret   *secret;
	pg_uuid_t	id;
	bool		ok;

	if (strlen(name) == 2 * KR_AES_KEY_BYTES && strspn(name, "0123456789abcdefABCDEF") == strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key_secret is the name or id of a secret, not the key itself"),
				 errhint("Store the key with vault.create_secret() and name it here.")));
	kr_vault_require(name, GetUserId(), KR_PRIVILEGE_USE, "import", &id);

	secret = kr_vault_open(&id, "import", GetUserId());
	sodium_mprotect_readwrite(keys);
	ok = kr_aes_gcm_key(secret->value, secret->len, key);
	if (!ok)
		sodium_memzero(key, KR_AES_KEY_BYTES);
	sodium_mprotect_noaccess(keys);
	kr_vault_close(secret);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the secret is not a key of AES-256"),
				 errdetail("It takes 64 hexadecimal digits and nothing else."),
				 errhint("Store the value of the app's ENCRYPTION_KEY without quotes and line end.")));
}

/* ---------- arguments ---------- */

static void
check_size(size_t len)
{
	if (len > KR_AES_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value is too large"),
				 errdetail("It has %zu bytes; the limit is %d.", len, KR_AES_MAX)));
}

static text *
get_text(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_TEXT_PP(number);
}

static KrAesEncoding
get_encoding(FunctionCallInfo fcinfo)
{
	char	   *encoding = text_to_cstring(get_text(fcinfo, 2, "encoding"));

	if (strcmp(encoding, "hex") == 0)
		return KR_AES_HEX;
	if (strcmp(encoding, "base64") == 0)
		return KR_AES_BASE64;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("there is no such encoding"),
			 errhint("It is 'hex' or 'base64'.")));
}

static size_t
get_iv_len(FunctionCallInfo fcinfo)
{
	int32		len = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);

	if (len != KR_AES_IV_SHORT && len != KR_AES_IV_LONG)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("iv_length must be 12 or 16")));
	return len;
}

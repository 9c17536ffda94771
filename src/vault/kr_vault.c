/*
 * kr_vault.c
 *	  Sealing secrets before they reach a table, and opening them.
 *
 * A secret is sealed here before anything of it reaches the executor: what a
 * tuple, WAL, or a plan's parameter holds is always ciphertext. It is bound to
 * its tenant, id, version, key and name: moved to another row, replaced by an
 * older one, or renamed behind our back, it does not open. Every write takes a
 * new random nonce and a new version.
 *
 * Keys: root key (kr_keyring.c) -> one random data key for each tenant, and
 * one for what belongs to none -> secrets. A data key is made when it is first
 * needed; the unique index on the active key decides between backends that
 * need it at the same time.
 *
 * Called by the router with a secret's id, and by the SQL functions. There is
 * no cache: a secret is read, opened, used and wiped each time.
 *
 * Format of vault.secrets.secret: one byte KR_SECRET_FORMAT, then ciphertext
 * and tag. Name and value are sealed as UTF-8, so that a dump opens in a
 * database of another encoding.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

#define KR_SECRET_AAD_PREFIX "kessel.secret"

/* A secret and what wipes it when its memory context goes first. */
typedef struct OwnedSecret
{
	KrSecret	secret;			/* must be first */
	MemoryContextCallback callback;
} OwnedSecret;

static KrSecret *new_secret(size_t len);
static void free_secret(void *arg);
static void seal_row(KrSecretRow *row, const char *value, size_t len);
static void key_for_sealing(const pg_uuid_t *tenant_id, KrDataKey *key);
static void key_by_id(const pg_uuid_t *key_id, KrDataKey *key);
static void check_key_owner(const KrSecretRow *row);
static const KrKeyringState *keyring_for_sealing(void);
static unsigned char *secret_aad(const KrSecretRow *row, size_t *len);
static char *to_utf8(const char *value, size_t *len);
static KrSecret *from_utf8(KrSecret *secret);
static bool is_converting(void);
static bool is_nil(const pg_uuid_t *id);
static char *uuid_text(const pg_uuid_t *id);
static void raise_sealed(const char *wanted) pg_attribute_noreturn();
static void raise_no_secret(const pg_uuid_t *id) pg_attribute_noreturn();

void
kr_vault_init(void)
{
	if (sodium_init() < 0)
		elog(ERROR, "libsodium cannot be initialized");
}

KrSecret *
kr_vault_open(const pg_uuid_t *secret_id, const char *purpose)
{
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;
	KrSecretRow row;
	KrSecret   *secret = NULL;
	KrOpenResult result;

	kr_spi_begin(&scope);
	if (!kr_rows_read_secret(secret_id, &row))
	{
		kr_audit_record(&(KrAuditEvent) {
						.action = "open",.purpose = purpose,.secret_id = secret_id,
						.sqlerrcode = ERRCODE_NO_DATA,.reason = "no such secret"
		});
		raise_no_secret(secret_id);
	}

	MemoryContextSwitchTo(caller);
	result = kr_vault_open_row(&row, &secret);
	kr_vault_record_open(&row, purpose, result, false);

	switch (result)
	{
		case KR_OPEN_OK:
			break;
		case KR_OPEN_SEALED:
			raise_sealed(row.key.root_key_id);
			break;
		case KR_OPEN_NO_KEY:
			ereport(ERROR,
					(errcode(KR_ERR_VAULT_CANNOT_OPEN),
					 errmsg("secret %s cannot be opened (%s)", uuid_text(secret_id), purpose),
					 errdetail("Its data key %s was destroyed.", uuid_text(&row.key_id)),
					 errhint("Store the secret anew.")));
			break;
		case KR_OPEN_ALTERED:
			ereport(ERROR,
					(errcode(KR_ERR_VAULT_CANNOT_OPEN),
					 errmsg("secret %s cannot be opened (%s)", uuid_text(secret_id), purpose),
					 errdetail("The row or its data key is not what the vault has written: it was altered, moved or renamed by other means."),
					 errhint("Restore the row of vault.secrets, or store the secret anew.")));
			break;
	}

	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);
	return secret;
}

void
kr_vault_close(KrSecret *secret)
{
	if (secret != NULL)
		free_secret(secret);
}

void
kr_vault_store(pg_uuid_t *secret_id, const char *value, size_t len,
			   const pg_uuid_t *tenant_id, const char *name,
			   const char *description)
{
	kr_error_hide_statement(KR_VAULT_LABEL);

	if (is_nil(secret_id))
	{
		pg_uuid_t	id;

		kr_vault_new_id(&id);
		kr_vault_insert(&id, value, len, tenant_id, NULL, name, description);
		*secret_id = id;
	}
	else
		kr_vault_update(secret_id, value, len, NULL, name, description);
}

bool
kr_vault_remove(const pg_uuid_t *id)
{
	KrSpi		scope;
	bool		found;

	kr_spi_begin(&scope);
	found = kr_rows_delete_secret(id);
	kr_spi_end(&scope);
	return found;
}

void
kr_vault_insert(const pg_uuid_t *id, const char *value, size_t len,
				const pg_uuid_t *tenant_id, const pg_uuid_t *key_id,
				const char *name, const char *description)
{
	KrSpi		scope;
	KrSecretRow row = {0};

	PreventCommandIfReadOnly("storing a secret");

	kr_spi_begin(&scope);
	row.id = *id;
	row.name = name ? pstrdup(name) : NULL;
	row.has_tenant = tenant_id != NULL;
	if (row.has_tenant)
		row.tenant_id = *tenant_id;

	if (key_id == NULL)
		key_for_sealing(tenant_id, &row.key);
	else
	{
		key_by_id(key_id, &row.key);
		if (tenant_id == NULL)
		{
			row.has_tenant = row.key.has_tenant;
			row.tenant_id = row.key.tenant_id;
		}
		check_key_owner(&row);
	}
	seal_row(&row, value, len);
	kr_rows_insert_secret(&row, description);
	kr_spi_end(&scope);
}

/*
 * The row is locked from reading its version to writing the next one, so that
 * no version is written twice.
 */
void
kr_vault_update(const pg_uuid_t *id, const char *value, size_t len,
				const pg_uuid_t *key_id, const char *name, const char *description)
{
	KrSpi		scope;
	KrSecretRow row;
	KrSecret   *old = NULL;

	PreventCommandIfReadOnly("storing a secret");

	kr_spi_begin(&scope);
	if (!kr_rows_lock_secret(id, &row))
		raise_no_secret(id);

	if (value == NULL && key_id == NULL && name == NULL)
	{
		if (description != NULL)
			kr_rows_describe_secret(id, description);
		kr_spi_end(&scope);
		return;
	}

	/* A new name or key alone needs the old value, to be sealed anew. */
	if (value == NULL)
	{
		old = kr_vault_open(id, "update");
		value = old->value;
		len = old->len;
	}

	if (key_id != NULL)
		key_by_id(key_id, &row.key);
	else
		key_for_sealing(row.has_tenant ? &row.tenant_id : NULL, &row.key);
	check_key_owner(&row);

	if (name != NULL)
		row.name = pstrdup(name);
	seal_row(&row, value, len);
	kr_rows_update_secret(&row, description);

	kr_vault_close(old);
	kr_spi_end(&scope);
}

KrOpenResult
kr_vault_open_row(const KrSecretRow *row, KrSecret **secret)
{
	const unsigned char *sealed = (unsigned char *) VARDATA_ANY(row->sealed);
	size_t		sealed_len = VARSIZE_ANY_EXHDR(row->sealed);
	const KrKeyringState *keyring;
	unsigned char *aad;
	size_t		aad_len;
	KrSecret   *result;
	bool		ok;

	if (!row->has_key)
		return KR_OPEN_NO_KEY;
	if (sealed_len < 1 + KR_TAG_BYTES || sealed[0] != KR_SECRET_FORMAT ||
		VARSIZE_ANY_EXHDR(row->nonce) != KR_NONCE_BYTES)
		return KR_OPEN_ALTERED;

	keyring = kr_keyring_load();
	if (!keyring->loaded || strcmp(keyring->fingerprint, row->key.root_key_id) != 0)
		return KR_OPEN_SEALED;

	aad = secret_aad(row, &aad_len);
	result = new_secret(sealed_len - 1 - KR_TAG_BYTES);
	ok = kr_keyring_open(&row->key, (unsigned char *) VARDATA_ANY(row->nonce),
						 aad, aad_len, sealed + 1, sealed_len - 1,
						 (unsigned char *) result->value);
	pfree(aad);
	if (!ok)
	{
		kr_vault_close(result);
		return KR_OPEN_ALTERED;
	}
	*secret = from_utf8(result);
	return KR_OPEN_OK;
}

void
kr_vault_record_open(const KrSecretRow *row, const char *purpose,
					 KrOpenResult result, bool gather)
{
	KrAuditEvent event = {
		.action = "open",
		.purpose = purpose,
		.tenant_id = row->has_tenant ? &row->tenant_id : NULL,
		.secret_id = &row->id,
		.version = row->version,
		.ok = result == KR_OPEN_OK
	};

	switch (result)
	{
		case KR_OPEN_OK:
			break;
		case KR_OPEN_SEALED:
			event.sqlerrcode = KR_ERR_VAULT_SEALED;
			event.reason = "sealed";
			break;
		case KR_OPEN_NO_KEY:
			event.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN;
			event.reason = "no key";
			break;
		case KR_OPEN_ALTERED:
			event.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN;
			event.reason = "altered";
			break;
	}

	if (gather)
		kr_audit_gather(&event);
	else
		kr_audit_record(&event);
}

void
kr_vault_new_id(pg_uuid_t *id)
{
	*id = *DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0));
}

/*
 * Locked memory with room for a NUL, wiped at the latest when the current
 * memory context is reset. The owner is made before what it owns: in between
 * nothing can be lost.
 */
static KrSecret *
new_secret(size_t len)
{
	OwnedSecret *owned = palloc0(sizeof(OwnedSecret));

	owned->callback.func = free_secret;
	owned->callback.arg = owned;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owned->callback);

	owned->secret.value = sodium_malloc(len + 1);
	if (owned->secret.value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no locked memory for a secret")));
	owned->secret.value[len] = '\0';
	owned->secret.len = len;
	return &owned->secret;
}

/* The struct stays, the callback points to it; it has nothing to hide. */
static void
free_secret(void *arg)
{
	KrSecret   *secret = arg;

	sodium_free(secret->value);
	secret->value = NULL;
	secret->len = 0;
}

/* Fill in key_id, version, nonce and sealed of a row that has all the rest. */
static void
seal_row(KrSecretRow *row, const char *value, size_t len)
{
	size_t		plain_len = len;
	char	   *plain;
	unsigned char *aad;
	size_t		aad_len;
	bool		ok;

	if (len > KR_SECRET_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("secret is too large"),
				 errdetail("It has %zu bytes; the limit is %d.", len, KR_SECRET_MAX),
				 errhint("Keep large data in a table of its own and its key in the vault.")));

	row->key_id = row->key.id;
	row->version++;
	aad = secret_aad(row, &aad_len);
	plain = to_utf8(value, &plain_len);

	row->nonce = palloc(VARHDRSZ + KR_NONCE_BYTES);
	SET_VARSIZE(row->nonce, VARHDRSZ + KR_NONCE_BYTES);
	randombytes_buf(VARDATA(row->nonce), KR_NONCE_BYTES);
	row->sealed = palloc(VARHDRSZ + 1 + plain_len + KR_TAG_BYTES);
	SET_VARSIZE(row->sealed, VARHDRSZ + 1 + plain_len + KR_TAG_BYTES);
	VARDATA(row->sealed)[0] = KR_SECRET_FORMAT;

	ok = kr_keyring_seal(&row->key, (unsigned char *) VARDATA(row->nonce),
						 aad, aad_len, (unsigned char *) plain, plain_len,
						 (unsigned char *) VARDATA(row->sealed) + 1);
	if (plain != value)
	{
		sodium_memzero(plain, plain_len);
		pfree(plain);
	}
	pfree(aad);

	if (!ok)
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_CANNOT_OPEN),
				 errmsg("data key %s cannot be opened", uuid_text(&row->key.id)),
				 errdetail("The row of vault.keys is not what the vault has written: it was altered or moved by other means."),
				 errhint("Restore the row of vault.keys.")));
}

/* The tenant's active key; a new one where it has none. */
static void
key_for_sealing(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	const KrKeyringState *keyring = keyring_for_sealing();

	if (!kr_rows_active_key(tenant_id, key))
	{
		char	   *other = kr_rows_other_root_key(keyring->fingerprint);

		/* A wrong root key in place must not become a second one. */
		if (other != NULL)
			raise_sealed(other);

		memset(key, 0, sizeof(*key));
		kr_vault_new_id(&key->id);
		key->has_tenant = tenant_id != NULL;
		if (key->has_tenant)
			key->tenant_id = *tenant_id;
		kr_keyring_new_key(key);
		kr_rows_insert_key(key);
		if (!kr_rows_active_key(tenant_id, key))
			elog(ERROR, "the new data key is not there");
	}
	if (strcmp(key->root_key_id, keyring->fingerprint) != 0)
		raise_sealed(key->root_key_id);
}

static void
key_by_id(const pg_uuid_t *key_id, KrDataKey *key)
{
	const KrKeyringState *keyring = keyring_for_sealing();

	if (!kr_rows_active_key_by_id(key_id, key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no active key %s", uuid_text(key_id)),
				 errhint("Leave the key out to use the one that is due.")));
	if (strcmp(key->root_key_id, keyring->fingerprint) != 0)
		raise_sealed(key->root_key_id);
}

static void
check_key_owner(const KrSecretRow *row)
{
	if (row->key.has_tenant != row->has_tenant ||
		(row->has_tenant &&
		 memcmp(row->key.tenant_id.data, row->tenant_id.data, UUID_LEN) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key %s cannot seal this secret", uuid_text(&row->key.id)),
				 errdetail("The key belongs to another tenant than the secret."),
				 errhint("Leave the key out to use the tenant's own.")));
}

/*
 * A key file is made where neither setting names a source, and only as long
 * as nothing is wrapped by a root key that got lost.
 */
static const KrKeyringState *
keyring_for_sealing(void)
{
	const KrKeyringState *keyring = kr_keyring_load();

	if (!keyring->loaded && keyring->can_create)
	{
		char	   *lost = kr_rows_other_root_key("");

		if (lost != NULL)
			raise_sealed(lost);
		keyring = kr_keyring_create();
	}
	if (!keyring->loaded)
		raise_sealed(NULL);
	return keyring;
}

/*
 * What a secret is bound to, unambiguously: parts of fixed length first, the
 * name last.
 */
static unsigned char *
secret_aad(const KrSecretRow *row, size_t *len)
{
	size_t		name_len = row->name ? strlen(row->name) : 0;
	char	   *name = row->name ? to_utf8(row->name, &name_len) : NULL;
	unsigned char *aad = palloc(sizeof(KR_SECRET_AAD_PREFIX) + 3 + 3 * UUID_LEN + 4 + name_len);
	unsigned char *p = aad;

	memcpy(p, KR_SECRET_AAD_PREFIX, sizeof(KR_SECRET_AAD_PREFIX));
	p += sizeof(KR_SECRET_AAD_PREFIX);
	*p++ = KR_SECRET_FORMAT;
	*p++ = row->has_tenant ? 1 : 0;
	if (row->has_tenant)
		memcpy(p, row->tenant_id.data, UUID_LEN);
	else
		memset(p, 0, UUID_LEN);
	p += UUID_LEN;
	memcpy(p, row->id.data, UUID_LEN);
	p += UUID_LEN;
	for (int shift = 24; shift >= 0; shift -= 8)
		*p++ = (uint32) row->version >> shift & 0xff;
	memcpy(p, row->key_id.data, UUID_LEN);
	p += UUID_LEN;
	*p++ = row->name ? 1 : 0;
	if (name_len > 0)
		memcpy(p, name, name_len);
	p += name_len;

	*len = p - aad;
	return aad;
}

static bool
is_converting(void)
{
	return GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII;
}

/* value itself, or a copy that the caller wipes; *len is updated. */
static char *
to_utf8(const char *value, size_t *len)
{
	char	   *result;

	if (!is_converting())
		return unconstify(char *, value);
	result = pg_server_to_any(value, *len, PG_UTF8);
	if (result != value)
		*len = strlen(result);
	return result;
}

/* The same secret, or one in the database's encoding in its place. */
static KrSecret *
from_utf8(KrSecret *secret)
{
	KrSecret   *result;
	char	   *converted;

	if (!is_converting())
		return secret;
	converted = pg_any_to_server(secret->value, secret->len, PG_UTF8);
	if (converted == secret->value)
		return secret;

	result = new_secret(strlen(converted));
	memcpy(result->value, converted, result->len);
	sodium_memzero(converted, result->len);
	pfree(converted);
	kr_vault_close(secret);
	return result;
}

static bool
is_nil(const pg_uuid_t *id)
{
	static const pg_uuid_t nil = {0};

	return memcmp(id->data, nil.data, UUID_LEN) == 0;
}

static char *
uuid_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

/*
 * wanted is the fingerprint of the root key that would do, or NULL. Where the
 * key lies is for the log and for vault.status(), not for whoever has asked.
 */
static void
raise_sealed(const char *wanted)
{
	const KrKeyringState *keyring = kr_keyring_state();

	if (keyring->loaded)
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_SEALED),
				 errmsg("the vault is sealed"),
				 errdetail("It wants the root key %s; the one in place is %s.",
						   wanted, keyring->fingerprint),
				 errhint("Put the right root key in place. SELECT * FROM vault.status() tells more.")));
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_SEALED),
			 errmsg("the vault is sealed"),
			 wanted ? errdetail("The root key %s is not at hand.", wanted) :
			 errdetail("No root key is at hand."),
			 errdetail_log("%s", keyring->problem.detail),
			 errhint("Put the root key in place. SELECT * FROM vault.status() tells more.")));
}

static void
raise_no_secret(const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA),
			 errmsg("secret %s does not exist", uuid_text(id)),
			 errhint("Look up its id in vault.secrets.")));
}

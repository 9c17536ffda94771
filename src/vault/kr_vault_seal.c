/*
 * kr_vault_seal.c
 *	  Between a row and its plaintext.
 *
 * A secret is sealed here before anything of it reaches the executor: what a
 * tuple, WAL, or a plan's parameter holds is always ciphertext. It is bound to
 * its tenant, id, version, key and name: moved to another row, replaced by an
 * older one, or renamed behind our back, it does not open. Every sealing takes
 * a new random nonce.
 *
 * Format of vault.secrets.secret: one byte KR_SECRET_FORMAT, then ciphertext
 * and tag. Name and value are sealed as UTF-8, so that a dump opens in a
 * database of another encoding.
 *
 * There is no cache: a secret is opened, used and wiped each time.
 */
#include "postgres.h"

#include <sodium.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_locked.h"
#include "kr_vault_int.h"

#define KR_SECRET_AAD_PREFIX "kessel.secret"

/* A secret and what wipes it when its memory context goes first. */
typedef struct OwnedSecret
{
	KrSecret	secret;			/* must be first */
	bool		is_locked;		/* of kr_locked_alloc() */
	size_t		size;
	MemoryContextCallback callback;
} OwnedSecret;

static KrOpenResult check_openable(const KrSecretRow *row);
static size_t plain_len(const KrSecretRow *row);
static bool decrypt(const KrSecretRow *row, char *out);
static void free_secret(void *arg);
static unsigned char *secret_aad(const KrSecretRow *row, size_t *len);

KrOpenResult
kr_vault_open_row(const KrSecretRow *row, KrSecret **secret)
{
	KrOpenResult result = check_openable(row);
	KrSecret   *opened;

	if (result == KR_OPEN_OK && row->expires_at <= GetCurrentTimestamp())
		result = KR_OPEN_EXPIRED;
	if (result != KR_OPEN_OK)
		return result;

	opened = kr_vault_new_secret(plain_len(row));
	if (!decrypt(row, opened->value))
	{
		kr_vault_close(opened);
		return KR_OPEN_ALTERED;
	}
	*secret = kr_vault_from_utf8(opened);
	return *secret != NULL ? KR_OPEN_OK : KR_OPEN_UNREPRESENTABLE;
}

/* For who is going to read it: into the datum that goes to the executor. */
KrOpenResult
kr_vault_open_row_text(const KrSecretRow *row, text **value)
{
	KrOpenResult result;
	KrSecret   *secret;
	size_t		len;

	if (kr_vault_is_converting())
	{
		result = kr_vault_open_row(row, &secret);
		if (result == KR_OPEN_OK)
		{
			*value = palloc(VARHDRSZ + secret->len);
			SET_VARSIZE(*value, VARHDRSZ + secret->len);
			memcpy(VARDATA(*value), secret->value, secret->len);
			kr_vault_close(secret);
		}
		return result;
	}

	result = check_openable(row);
	if (result == KR_OPEN_OK && row->expires_at <= GetCurrentTimestamp())
		result = KR_OPEN_EXPIRED;
	if (result != KR_OPEN_OK)
		return result;

	len = plain_len(row);
	*value = palloc(VARHDRSZ + len);
	SET_VARSIZE(*value, VARHDRSZ + len);
	if (!decrypt(row, VARDATA(*value)))
		return KR_OPEN_ALTERED;
	if (kr_vault_is_valid(VARDATA(*value), len))
		return KR_OPEN_OK;
	sodium_memzero(VARDATA(*value), len);
	return KR_OPEN_UNREPRESENTABLE;
}

KrOpenResult
kr_vault_check_row(const KrSecretRow *row)
{
	KrSecretRow lasting = *row;
	KrSecret   *secret = NULL;
	KrOpenResult result;

	lasting.expires_at = DT_NOEND;
	result = kr_vault_open_row(&lasting, &secret);
	kr_vault_close(secret);
	return result;
}

const char *
kr_vault_reason(KrOpenResult result)
{
	switch (result)
	{
		case KR_OPEN_OK:
			break;
		case KR_OPEN_SEALED:
			return "root key is not in place";
		case KR_OPEN_NO_KEY:
			return "data key was destroyed";
		case KR_OPEN_EXPIRED:
			return "expired";
		case KR_OPEN_ALTERED:
			return "altered, moved or renamed";
		case KR_OPEN_UNREPRESENTABLE:
			return "not representable in this database's encoding";
	}
	return NULL;
}

int
kr_vault_sqlstate(KrOpenResult result)
{
	switch (result)
	{
		case KR_OPEN_OK:
			break;
		case KR_OPEN_SEALED:
			return KR_ERR_VAULT_SEALED;
		case KR_OPEN_EXPIRED:
			return KR_ERR_SECRET_EXPIRED;
		case KR_OPEN_NO_KEY:
		case KR_OPEN_ALTERED:
			return KR_ERR_VAULT_CANNOT_OPEN;
		case KR_OPEN_UNREPRESENTABLE:
			return ERRCODE_UNTRANSLATABLE_CHARACTER;
	}
	return ERRCODE_SUCCESSFUL_COMPLETION;
}

void
kr_vault_seal_row(KrSecretRow *row, const char *value, size_t len)
{
	size_t		utf8_len = len;
	char	   *utf8;
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
	aad = secret_aad(row, &aad_len);
	utf8 = kr_vault_to_utf8(value, &utf8_len);

	row->nonce = palloc(VARHDRSZ + KR_NONCE_BYTES);
	SET_VARSIZE(row->nonce, VARHDRSZ + KR_NONCE_BYTES);
	randombytes_buf(VARDATA(row->nonce), KR_NONCE_BYTES);
	row->sealed = palloc(VARHDRSZ + 1 + utf8_len + KR_TAG_BYTES);
	SET_VARSIZE(row->sealed, VARHDRSZ + 1 + utf8_len + KR_TAG_BYTES);
	VARDATA(row->sealed)[0] = KR_SECRET_FORMAT;

	ok = kr_keyring_seal(&row->key, (unsigned char *) VARDATA(row->nonce),
						 aad, aad_len, (unsigned char *) utf8, utf8_len,
						 (unsigned char *) VARDATA(row->sealed) + 1);
	if (utf8 != value)
	{
		sodium_memzero(utf8, utf8_len);
		pfree(utf8);
	}
	pfree(aad);

	if (!ok)
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_CANNOT_OPEN),
				 errmsg("data key %s cannot be opened", kr_vault_uuid_text(&row->key.id)),
				 errdetail("The row of vault.keys is not what the vault has written: it was altered or moved by other means."),
				 errhint("Restore the row of vault.keys.")));
}

/* The owner is made before what it owns: in between nothing can be lost. */
KrSecret *
kr_vault_new_secret(size_t len)
{
	OwnedSecret *owned = palloc0(sizeof(OwnedSecret));

	owned->callback.func = free_secret;
	owned->callback.arg = owned;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owned->callback);

	owned->is_locked = len <= KR_SECRET_LOCKED_MAX;
	owned->secret.value = owned->is_locked ? kr_locked_alloc(len + 1) : palloc(len + 1);
	if (owned->secret.value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no locked memory for a secret")));
	owned->secret.value[len] = '\0';
	owned->secret.len = len;
	owned->size = len;
	return &owned->secret;
}

void
kr_vault_close(KrSecret *secret)
{
	if (secret != NULL)
		free_secret(secret);
}

/* Everything but the ciphertext itself. */
static KrOpenResult
check_openable(const KrSecretRow *row)
{
	if (!row->has_key)
		return KR_OPEN_NO_KEY;
	if (VARSIZE_ANY_EXHDR(row->sealed) < 1 + KR_TAG_BYTES ||
		VARDATA_ANY(row->sealed)[0] != KR_SECRET_FORMAT ||
		VARSIZE_ANY_EXHDR(row->nonce) != KR_NONCE_BYTES)
		return KR_OPEN_ALTERED;

	(void) kr_keyring_load();
	if (!kr_keyring_has(row->key.root_key_id))
		return KR_OPEN_SEALED;
	return KR_OPEN_OK;
}

static size_t
plain_len(const KrSecretRow *row)
{
	return VARSIZE_ANY_EXHDR(row->sealed) - 1 - KR_TAG_BYTES;
}

static bool
decrypt(const KrSecretRow *row, char *out)
{
	const unsigned char *sealed = (unsigned char *) VARDATA_ANY(row->sealed);
	unsigned char *aad;
	size_t		aad_len;
	bool		ok;

	aad = secret_aad(row, &aad_len);
	ok = kr_keyring_open(&row->key, (unsigned char *) VARDATA_ANY(row->nonce),
						 aad, aad_len, sealed + 1, VARSIZE_ANY_EXHDR(row->sealed) - 1,
						 (unsigned char *) out);
	pfree(aad);
	return ok;
}

/*
 * The struct stays, the callback points to it. What is not locked goes with
 * the memory context.
 */
static void
free_secret(void *arg)
{
	OwnedSecret *owned = arg;

	if (owned->is_locked)
		kr_locked_free(owned->secret.value);
	else if (owned->secret.value != NULL)
		sodium_memzero(owned->secret.value, owned->size);
	owned->secret.value = NULL;
	owned->secret.len = 0;
}

/*
 * What a secret is bound to, unambiguously: parts of fixed length first, the
 * name last.
 */
static unsigned char *
secret_aad(const KrSecretRow *row, size_t *len)
{
	size_t		name_len = row->name ? strlen(row->name) : 0;
	char	   *name = row->name ? kr_vault_to_utf8(row->name, &name_len) : NULL;
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

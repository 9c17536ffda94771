/*
 * kr_keyring.c
 *	  The root key in locked memory, and all cryptography that needs it.
 *
 * Owns one page of sodium_malloc(): locked, left out of core dumps, between
 * guard pages, inaccessible except inside the functions below, wiped when the
 * process exits. It is per backend and made on first use, so that the
 * postmaster, where the library may be preloaded, never has a key and no child
 * inherits one.
 *
 * The key is loaded on first use and again when it may have changed: when the
 * settings name another source, after a configuration reload
 * (pg_reload_conf()), and, for a file, when the file is not the one that was
 * read. A file is looked at on every use, which costs one stat(): taking it
 * away seals the vault and putting it back unseals it, at once. A command runs
 * once per backend and reload; one that failed is not run again for
 * KR_COMMAND_RETRY_MS, so that a broken one cannot be used to start processes
 * without end.
 *
 * XChaCha20-Poly1305 throughout. Nothing in here throws while the page can be
 * accessed.
 */
#include "postgres.h"

#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "kr_guc.h"
#include "kr_keyring.h"

#define KR_COMMAND_RETRY_MS 5000

#define KR_GENERATED_FILE "kessel_root.key"

/* Separates a fingerprint from every other hash of the key. */
#define KR_FINGERPRINT_PERSONAL "kessel.root.v1.\0"
#define KR_DATA_FINGERPRINT_PERSONAL "kessel.data.v1.\0"

/* Separates a wrapped key from a sealed secret. */
#define KR_KEY_AAD_PREFIX "kessel.key"
#define KR_KEY_FORMAT 1

typedef struct KeyPage
{
	unsigned char root[KR_ROOT_KEY_BYTES];
	unsigned char data[KR_DATA_KEY_BYTES];	/* in use only within a function */
} KeyPage;

/* What the key was loaded from. */
typedef struct KeySource
{
	KrProvider	provider;
	char	   *name;			/* path or command, malloc()ed */
	TimestampTz config_loaded;
	TimestampTz tried;
	struct stat st;				/* of a file */
} KeySource;

StaticAssertDecl(KR_NONCE_BYTES == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
				 "nonce length differs from libsodium's");
StaticAssertDecl(KR_TAG_BYTES == crypto_aead_xchacha20poly1305_ietf_ABYTES,
				 "tag length differs from libsodium's");
StaticAssertDecl(KR_ROOT_KEY_BYTES == crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
				 "key length differs from libsodium's");

static KeyPage *page = NULL;
static KeySource source;
static KrKeyringState state;

static bool is_current(KrProvider provider, const char *name);
static bool same_file(const struct stat *a, const struct stat *b);
static void load(KrProvider provider, const char *name);
static KrProvider configured_source(char **name);
static bool load_from_command(const char *command);
static void make_page(void);
static void wipe_page(int code, Datum arg);
static void fingerprint_of(const unsigned char *key, const char *personal, char *text);
static size_t key_aad(const KrDataKey *key, unsigned char *aad);
static bool unwrap(const KrDataKey *key);

/* prefix, format, tenant flag, tenant, key id */
#define KR_KEY_AAD_BYTES (sizeof(KR_KEY_AAD_PREFIX) + 1 + 1 + UUID_LEN + UUID_LEN)

const KrKeyringState *
kr_keyring_load(void)
{
	char	   *name;
	KrProvider	provider = configured_source(&name);

	if (!is_current(provider, name))
		load(provider, name);
	return &state;
}

const KrKeyringState *
kr_keyring_state(void)
{
	return &state;
}

const KrKeyringState *
kr_keyring_create(void)
{
	Assert(state.can_create && state.provider == KR_PROVIDER_GENERATED_FILE);

	if (!kr_root_key_create_file(kr_keyring_generated_path(), &state.problem))
		return &state;
	return kr_keyring_load();
}

const char *
kr_keyring_provider_name(KrProvider provider)
{
	switch (provider)
	{
		case KR_PROVIDER_GENERATED_FILE:
			return "generated file";
		case KR_PROVIDER_FILE:
			return "file";
		case KR_PROVIDER_COMMAND:
			return "command";
		case KR_PROVIDER_AMBIGUOUS:
			break;
	}
	return "ambiguous";
}

char *
kr_keyring_generated_path(void)
{
	return psprintf("%s/%s", DataDir, KR_GENERATED_FILE);
}

void
kr_keyring_new_key(KrDataKey *key)
{
	unsigned char aad[KR_KEY_AAD_BYTES];
	size_t		aad_len = key_aad(key, aad);

	Assert(state.loaded);

	strlcpy(key->root_key_id, state.fingerprint, sizeof(key->root_key_id));
	randombytes_buf(key->nonce, sizeof(key->nonce));

	sodium_mprotect_readwrite(page);
	randombytes_buf(page->data, sizeof(page->data));
	fingerprint_of(page->data, KR_DATA_FINGERPRINT_PERSONAL, key->fingerprint);
	crypto_aead_xchacha20poly1305_ietf_encrypt(key->wrapped, NULL,
											   page->data, sizeof(page->data),
											   aad, aad_len,
											   NULL, key->nonce, page->root);
	sodium_memzero(page->data, sizeof(page->data));
	sodium_mprotect_noaccess(page);
}

bool
kr_keyring_seal(const KrDataKey *key, const unsigned char *nonce,
				const unsigned char *aad, size_t aad_len,
				const unsigned char *plain, size_t len,
				unsigned char *out)
{
	bool		ok;

	Assert(state.loaded);

	sodium_mprotect_readwrite(page);
	ok = unwrap(key);
	if (ok)
		crypto_aead_xchacha20poly1305_ietf_encrypt(out, NULL, plain, len,
												   aad, aad_len,
												   NULL, nonce, page->data);
	sodium_memzero(page->data, sizeof(page->data));
	sodium_mprotect_noaccess(page);
	return ok;
}

bool
kr_keyring_open(const KrDataKey *key, const unsigned char *nonce,
				const unsigned char *aad, size_t aad_len,
				const unsigned char *sealed, size_t len,
				unsigned char *out)
{
	bool		ok;

	Assert(state.loaded);

	sodium_mprotect_readwrite(page);
	ok = unwrap(key) &&
		crypto_aead_xchacha20poly1305_ietf_decrypt(out, NULL, NULL, sealed, len,
												   aad, aad_len,
												   nonce, page->data) == 0;
	sodium_memzero(page->data, sizeof(page->data));
	sodium_mprotect_noaccess(page);
	return ok;
}

static KrProvider
configured_source(char **name)
{
	bool		has_file = kr_guc_root_key_file && kr_guc_root_key_file[0] != '\0';
	bool		has_command = kr_guc_root_key_command && kr_guc_root_key_command[0] != '\0';

	*name = "";
	if (has_file && has_command)
		return KR_PROVIDER_AMBIGUOUS;
	if (has_file)
	{
		*name = kr_guc_root_key_file;
		return KR_PROVIDER_FILE;
	}
	if (has_command)
	{
		*name = kr_guc_root_key_command;
		return KR_PROVIDER_COMMAND;
	}
	*name = kr_keyring_generated_path();
	return KR_PROVIDER_GENERATED_FILE;
}

/* Does the keyring still say what loading it anew would say? */
static bool
is_current(KrProvider provider, const char *name)
{
	struct stat st;

	if (source.name == NULL || source.provider != provider ||
		strcmp(source.name, name) != 0)
		return false;

	if (provider == KR_PROVIDER_COMMAND && !state.loaded)
		return source.config_loaded == PgReloadTime &&
			!TimestampDifferenceExceeds(source.tried, GetCurrentTimestamp(),
										KR_COMMAND_RETRY_MS);
	if (!state.loaded || source.config_loaded != PgReloadTime)
		return false;
	if (provider == KR_PROVIDER_COMMAND)
		return true;
	return stat(name, &st) == 0 && same_file(&st, &source.st);
}

static bool
same_file(const struct stat *a, const struct stat *b)
{
	/* the change time covers mode, owner and contents */
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
		a->st_size == b->st_size &&
		a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
		a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/*
 * Load the key. Until that has worked the keyring holds none: one that was
 * replaced must not go on being used because the new one is bad.
 */
static void
load(KrProvider provider, const char *name)
{
	struct stat st;
	char	   *copy = strdup(name);
	bool		ok = false;

	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	make_page();

	free(source.name);
	memset(&source, 0, sizeof(source));
	source.name = copy;
	source.provider = provider;
	source.config_loaded = PgReloadTime;
	source.tried = GetCurrentTimestamp();

	sodium_mprotect_readwrite(page);
	sodium_memzero(page, sizeof(*page));
	sodium_mprotect_noaccess(page);
	memset(&state, 0, sizeof(state));
	state.provider = provider;

	switch (provider)
	{
		case KR_PROVIDER_GENERATED_FILE:
			state.can_create = stat(name, &st) != 0 && errno == ENOENT;
			/* FALLTHROUGH */
		case KR_PROVIDER_FILE:
			sodium_mprotect_readwrite(page);
			ok = kr_root_key_read_file(name, page->root, &source.st, &state.problem);
			sodium_mprotect_noaccess(page);
			break;

		case KR_PROVIDER_COMMAND:
			ok = load_from_command(name);
			break;

		case KR_PROVIDER_AMBIGUOUS:
			strlcpy(state.problem.detail,
					"Both kessel.root_key_file and kessel.root_key_command are set.",
					sizeof(state.problem.detail));
			strlcpy(state.problem.hint, "Set one of them.", sizeof(state.problem.hint));
			break;
	}

	if (ok)
	{
		sodium_mprotect_readonly(page);
		fingerprint_of(page->root, KR_FINGERPRINT_PERSONAL, state.fingerprint);
		sodium_mprotect_noaccess(page);
	}
	state.loaded = ok;
}

/* Waiting may throw: the page stays closed meanwhile. */
static bool
load_from_command(const char *command)
{
	unsigned char *key = sodium_malloc(KR_ROOT_KEY_BYTES);

	if (key == NULL)
		return false;

	/* what is to be said of it if the wait is broken off */
	strlcpy(state.problem.detail, "kessel.root_key_command was interrupted.",
			sizeof(state.problem.detail));
	PG_TRY();
	{
		if (kr_root_key_run_command(command, kr_guc_root_key_timeout,
									key, &state.problem))
		{
			sodium_mprotect_readwrite(page);
			memcpy(page->root, key, sizeof(page->root));
			sodium_mprotect_noaccess(page);
			state.loaded = true;
		}
	}
	PG_CATCH();
	{
		sodium_free(key);
		PG_RE_THROW();
	}
	PG_END_TRY();

	sodium_free(key);
	return state.loaded;
}

static void
make_page(void)
{
	if (page != NULL)
		return;

	page = sodium_malloc(sizeof(*page));
	if (page == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no locked memory for the vault's keys")));
	sodium_mprotect_noaccess(page);
	on_proc_exit(wipe_page, (Datum) 0);
}

static void
wipe_page(int code, Datum arg)
{
	state.loaded = false;
	sodium_free(page);			/* opens it, wipes it, unmaps it */
	page = NULL;
}

/*
 * A key is named by a hash of itself, which tells nothing about a random key
 * of 256 bits. The caller has opened the page that it lies in.
 */
static void
fingerprint_of(const unsigned char *key, const char *personal, char *text)
{
	unsigned char hash[crypto_generichash_blake2b_BYTES_MIN];	/* twice what is shown */

	crypto_generichash_blake2b_salt_personal(hash, sizeof(hash), key, KR_ROOT_KEY_BYTES,
											 NULL, 0, NULL,
											 (const unsigned char *) personal);
	sodium_bin2hex(text, KR_FINGERPRINT_LEN + 1, hash, KR_FINGERPRINT_LEN / 2);
}

/* What a wrapped key is bound to: nothing else may be done with it. */
static size_t
key_aad(const KrDataKey *key, unsigned char *aad)
{
	unsigned char *p = aad;

	memcpy(p, KR_KEY_AAD_PREFIX, sizeof(KR_KEY_AAD_PREFIX));
	p += sizeof(KR_KEY_AAD_PREFIX);
	*p++ = KR_KEY_FORMAT;
	*p++ = key->has_tenant ? 1 : 0;
	if (key->has_tenant)
		memcpy(p, key->tenant_id.data, UUID_LEN);
	else
		memset(p, 0, UUID_LEN);
	p += UUID_LEN;
	memcpy(p, key->id.data, UUID_LEN);
	p += UUID_LEN;

	Assert(p - aad == KR_KEY_AAD_BYTES);
	return p - aad;
}

/* Put the data key into the page, which the caller has opened. */
static bool
unwrap(const KrDataKey *key)
{
	unsigned char aad[KR_KEY_AAD_BYTES];
	size_t		aad_len = key_aad(key, aad);

	return crypto_aead_xchacha20poly1305_ietf_decrypt(page->data, NULL, NULL,
													  key->wrapped, sizeof(key->wrapped),
													  aad, aad_len,
													  key->nonce, page->root) == 0;
}

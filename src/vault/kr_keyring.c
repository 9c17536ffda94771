/*
 * kr_keyring.c
 *	  The root keys in locked memory, and all cryptography that needs them.
 *
 * Owns one page of kr_locked_new(): locked, left out of core dumps, wiped in
 * children, between guard pages, inaccessible except inside the functions
 * below, wiped when the process exits. It is per backend and made on first
 * use, so that the postmaster, where the library may be preloaded, never has a
 * key. Opening and closing the page is two system calls and a page fault: on the
 * virtual machine where it was measured, 2 microseconds beside 1.2 for unwrapping
 * a data key and opening 100 bytes (make bench, "vault"). That is the price of a
 * stray read of ours not finding keys.
 *
 * Several root keys can be in place. The first is the primary, which wraps; the
 * others open what they have wrapped before, until vault.rotate_root_key() has
 * wrapped that anew.
 *
 * Keys are loaded on first use and again when they may have changed: when the
 * settings name another source, after a configuration reload
 * (pg_reload_conf()), and, for a file, when the file is not the one that was
 * read. A file is looked at on every use, which costs one stat(): taking it
 * away seals the vault and putting it back unseals it, at once. A command runs
 * once per backend and reload; one that failed is not run again for
 * KR_COMMAND_RETRY_MS, so that a broken one cannot be used to start processes
 * without end. The environment is read once, see kr_root_key.c.
 *
 * Nothing in here throws while the page can be accessed.
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
#include "kr_locked.h"

#define KR_COMMAND_RETRY_MS 5000

#define KR_GENERATED_FILE "kessel_root.key"

/* Separates a wrapped key from a sealed secret. */
#define KR_KEY_AAD_PREFIX "kessel.key"
#define KR_KEY_FORMAT 1

typedef struct KeyPage
{
	unsigned char root[KR_ROOT_KEYS_MAX][KR_ROOT_KEY_BYTES];
	unsigned char data[KR_DATA_KEY_BYTES];	/* in use only within a function */
} KeyPage;

/* What the key was loaded from. */
typedef struct KeySource
{
	KrProvider	provider;
	char	   *name;			/* path, command or variable, malloc()ed */
	TimestampTz config_loaded;
	TimestampTz tried;
	struct stat st;				/* of a file */
} KeySource;

StaticAssertDecl(KR_ROOT_KEY_BYTES == KR_KEY_BYTES, "a root key has another length");

static KeyPage *page = NULL;
static bool page_locked = false;
static KeySource source;
static KrKeyringState state;

static KrProvider configured_source(const char **name);
static bool is_current(KrProvider provider, const char *name);
static bool same_file(const struct stat *a, const struct stat *b);
static void load(KrProvider provider, const char *name);
static bool get_keys(KrProvider provider, const char *name, KrRootKeys *keys);
static void make_page(void);
static void wipe_page(int code, Datum arg);
static void open_page(void);
static void close_page(void);
static int	root_key_of(const char *root_key_id);
static size_t key_aad(const KrDataKey *key, unsigned char *aad);
static void wrap(KrDataKey *key);
static bool unwrap(const KrDataKey *key);
static KrKeyCheck check(const KrDataKey *key);

/* prefix, format, purpose, tenant flag, tenant, key id */
#define KR_KEY_AAD_BYTES (sizeof(KR_KEY_AAD_PREFIX) + 1 + 1 + 1 + UUID_LEN + UUID_LEN)

const KrKeyringState *
kr_keyring_load(void)
{
	const char *name;
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
		case KR_PROVIDER_ENVIRONMENT:
			return "environment";
		case KR_PROVIDER_AMBIGUOUS:
			break;
	}
	return "ambiguous";
}

const char *
kr_keyring_generated_path(void)
{
	static char path[MAXPGPATH];

	if (path[0] == '\0')
		snprintf(path, sizeof(path), "%s/%s", DataDir, KR_GENERATED_FILE);
	return path;
}

bool
kr_keyring_has(const char *root_key_id)
{
	return root_key_of(root_key_id) >= 0;
}

void
kr_keyring_new_key(KrDataKey *key)
{
	Assert(state.loaded);

	open_page();
	randombytes_buf(page->data, sizeof(page->data));
	kr_aead_fingerprint(key->fingerprint, page->data, KR_PERSONAL_DATA_KEY);
	wrap(key);
	close_page();
}

bool
kr_keyring_seal(const KrDataKey *key, const unsigned char *nonce,
				const unsigned char *aad, size_t aad_len,
				const unsigned char *plain, size_t len,
				unsigned char *out)
{
	bool		ok;

	if (key->purpose != KR_KEY_SEAL || !kr_keyring_has(key->root_key_id))
		return false;

	open_page();
	ok = unwrap(key);
	if (ok)
		kr_aead_seal(out, plain, len, aad, aad_len, nonce, page->data);
	close_page();
	return ok;
}

bool
kr_keyring_open(const KrDataKey *key, const unsigned char *nonce,
				const unsigned char *aad, size_t aad_len,
				const unsigned char *sealed, size_t len,
				unsigned char *out)
{
	bool		ok;

	if (key->purpose != KR_KEY_SEAL || !kr_keyring_has(key->root_key_id))
		return false;

	open_page();
	ok = unwrap(key) &&
		kr_aead_open(out, sealed, len, aad, aad_len, nonce, page->data);
	close_page();
	return ok;
}

bool
kr_keyring_box_public(const KrDataKey *key, unsigned char *public_key)
{
	bool		ok;

	if (key->purpose != KR_KEY_BOX || !kr_keyring_has(key->root_key_id))
		return false;

	open_page();
	ok = unwrap(key);
	if (ok)
		kr_aead_box_public(public_key, page->data);
	close_page();
	return ok;
}

bool
kr_keyring_box_open(const KrDataKey *key, const unsigned char *sealed, size_t len,
					unsigned char *out)
{
	bool		ok;

	if (key->purpose != KR_KEY_BOX || !kr_keyring_has(key->root_key_id))
		return false;

	open_page();
	ok = unwrap(key) && kr_aead_box_open(out, sealed, len, page->data);
	close_page();
	return ok;
}

KrKeyCheck
kr_keyring_rewrap(KrDataKey *key)
{
	KrKeyCheck	result;

	if (!kr_keyring_has(key->root_key_id))
		return KR_KEY_NO_ROOT_KEY;

	open_page();
	result = check(key);
	if (result == KR_KEY_OPENS)
		wrap(key);
	close_page();
	return result;
}

static KrProvider
configured_source(const char **name)
{
	const struct
	{
		KrProvider	provider;
		const char *setting;
	}			sources[] = {
		{KR_PROVIDER_FILE, kr_guc_root_key_file},
		{KR_PROVIDER_COMMAND, kr_guc_root_key_command},
		{KR_PROVIDER_ENVIRONMENT, kr_guc_root_key_environment},
	};
	KrProvider	provider = KR_PROVIDER_GENERATED_FILE;

	*name = NULL;
	for (int i = 0; i < lengthof(sources); i++)
	{
		if (sources[i].setting == NULL || sources[i].setting[0] == '\0')
			continue;
		if (*name != NULL)
		{
			*name = "";
			return KR_PROVIDER_AMBIGUOUS;
		}
		provider = sources[i].provider;
		*name = sources[i].setting;
	}
	if (*name == NULL)
		*name = kr_keyring_generated_path();
	return provider;
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
	if (!state.loaded)
		return false;
	if (provider == KR_PROVIDER_ENVIRONMENT)
		return true;
	if (source.config_loaded != PgReloadTime)
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
 * Load the keys. Until that has worked the keyring holds none: one that was
 * replaced must not go on being used because the new one is bad.
 */
static void
load(KrProvider provider, const char *name)
{
	struct stat st;
	char	   *copy = strdup(name);
	KrRootKeys *keys;

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

	memset(&state, 0, sizeof(state));
	state.provider = provider;
	state.locked = page_locked;
	if (provider == KR_PROVIDER_GENERATED_FILE)
		state.can_create = stat(name, &st) != 0 && errno == ENOENT;

	open_page();
	sodium_memzero(page, sizeof(*page));
	close_page();

	keys = kr_locked_alloc(sizeof(*keys));
	if (keys == NULL)
	{
		strlcpy(state.problem.detail, "No locked memory is to be had for root keys.",
				sizeof(state.problem.detail));
		return;
	}

	/* Waiting for a command may throw. */
	PG_TRY();
	{
		if (get_keys(provider, name, keys))
		{
			open_page();
			state.number = keys->number;
			for (int i = 0; i < keys->number; i++)
			{
				memcpy(page->root[i], keys->key[i], KR_ROOT_KEY_BYTES);
				kr_aead_fingerprint(state.root_key_ids[i], page->root[i], KR_PERSONAL_ROOT_KEY);
			}
			close_page();
			state.loaded = true;
		}
	}
	PG_FINALLY();
	{
		kr_locked_free(keys);
	}
	PG_END_TRY();
}

static bool
get_keys(KrProvider provider, const char *name, KrRootKeys *keys)
{
	switch (provider)
	{
		case KR_PROVIDER_GENERATED_FILE:
		case KR_PROVIDER_FILE:
			return kr_root_key_read_file(name, keys, &source.st, &state.problem);

		case KR_PROVIDER_COMMAND:
			/* what is to be said of it if the wait is broken off */
			strlcpy(state.problem.detail, "kessel.root_key_command was interrupted.",
					sizeof(state.problem.detail));
			return kr_root_key_run_command(name, kr_guc_root_key_timeout, keys, &state.problem);

		case KR_PROVIDER_ENVIRONMENT:
			return kr_root_key_read_environment(name, keys, &state.problem);

		case KR_PROVIDER_AMBIGUOUS:
			strlcpy(state.problem.detail,
					"More than one of kessel.root_key_file, kessel.root_key_command and kessel.root_key_environment is set.",
					sizeof(state.problem.detail));
			strlcpy(state.problem.hint, "Set one of them, and take the others back with ALTER SYSTEM RESET.", sizeof(state.problem.hint));
			break;
	}
	return false;
}

static void
make_page(void)
{
	if (page != NULL)
		return;

	page = kr_locked_new(sizeof(*page), &page_locked);
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
	state.number = 0;
	sodium_free(page);			/* opens it, wipes it, unmaps it */
	page = NULL;
}

static void
open_page(void)
{
	sodium_mprotect_readwrite(page);
}

static void
close_page(void)
{
	sodium_memzero(page->data, sizeof(page->data));
	sodium_mprotect_noaccess(page);
}

/* Its place in the ring, or -1. */
static int
root_key_of(const char *root_key_id)
{
	for (int i = 0; i < state.number; i++)
	{
		if (strcmp(state.root_key_ids[i], root_key_id) == 0)
			return i;
	}
	return -1;
}

/* What a wrapped key is bound to: nothing else may be done with it. */
static size_t
key_aad(const KrDataKey *key, unsigned char *aad)
{
	unsigned char *p = aad;

	memcpy(p, KR_KEY_AAD_PREFIX, sizeof(KR_KEY_AAD_PREFIX));
	p += sizeof(KR_KEY_AAD_PREFIX);
	*p++ = KR_KEY_FORMAT;
	*p++ = key->purpose == KR_KEY_BOX ? 'B' : 'S';
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

/*
 * From here on the page is open.
 *
 * Wrap the data key that stands in it by the primary root key.
 */
static void
wrap(KrDataKey *key)
{
	unsigned char aad[KR_KEY_AAD_BYTES];
	size_t		aad_len = key_aad(key, aad);

	strlcpy(key->root_key_id, state.root_key_ids[0], sizeof(key->root_key_id));
	randombytes_buf(key->nonce, sizeof(key->nonce));
	kr_aead_seal(key->wrapped, page->data, sizeof(page->data),
				 aad, aad_len, key->nonce, page->root[0]);
}

/* Put a data key into it whose root key is in the ring. */
static bool
unwrap(const KrDataKey *key)
{
	unsigned char aad[KR_KEY_AAD_BYTES];
	size_t		aad_len = key_aad(key, aad);

	return kr_aead_open(page->data, key->wrapped, sizeof(key->wrapped),
						aad, aad_len, key->nonce,
						page->root[root_key_of(key->root_key_id)]);
}

static KrKeyCheck
check(const KrDataKey *key)
{
	char		fingerprint[KR_FINGERPRINT_LEN + 1];

	if (!unwrap(key))
		return KR_KEY_ALTERED;
	kr_aead_fingerprint(fingerprint, page->data, KR_PERSONAL_DATA_KEY);
	if (key->fingerprint[0] != '\0' && strcmp(fingerprint, key->fingerprint) != 0)
		return KR_KEY_ALTERED;
	return KR_KEY_OPENS;
}

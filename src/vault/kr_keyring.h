/*
 * kr_keyring.h
 *	  The root keys in locked memory, and all cryptography that needs them.
 *
 * Root keys and data keys never leave the keyring: callers hand in what is to
 * be sealed or opened and get the result.
 */
#ifndef KR_KEYRING_H
#define KR_KEYRING_H

#include "postgres.h"

#include "utils/uuid.h"

#include "kr_aead.h"
#include "kr_root_key.h"

#define KR_DATA_KEY_BYTES KR_KEY_BYTES
#define KR_WRAPPED_KEY_BYTES (KR_DATA_KEY_BYTES + KR_TAG_BYTES)

typedef enum KrProvider
{
	KR_PROVIDER_GENERATED_FILE, /* no setting is set */
	KR_PROVIDER_FILE,
	KR_PROVIDER_COMMAND,
	KR_PROVIDER_ENVIRONMENT,
	KR_PROVIDER_AMBIGUOUS		/* more than one is set */
} KrProvider;

typedef struct KrKeyringState
{
	KrProvider	provider;
	bool		loaded;
	int			number;			/* of root keys in place; if loaded >= 1 */
	char		root_key_ids[KR_ROOT_KEYS_MAX][KR_FINGERPRINT_LEN + 1]; /* [0]: the primary */
	bool		can_create;		/* if not loaded: kr_keyring_create() may help */
	bool		locked;			/* if loaded: the memory cannot be swapped out */
	KrRootKeyProblem problem;	/* if not loaded */
} KrKeyringState;

/* What a data key is for; it is bound to that. */
typedef enum KrKeyPurpose
{
	KR_KEY_SEAL,				/* XChaCha20-Poly1305: secrets and values */
	KR_KEY_BOX					/* X25519: sealed boxes made by clients */
} KrKeyPurpose;

/* A data key as vault.keys has it: wrapped by a root key. */
typedef struct KrDataKey
{
	pg_uuid_t	id;
	KrKeyPurpose purpose;
	bool		has_tenant;
	pg_uuid_t	tenant_id;
	char		root_key_id[KR_FINGERPRINT_LEN + 1];
	char		fingerprint[KR_FINGERPRINT_LEN + 1];	/* of the key itself; not needed to use it */
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char wrapped[KR_WRAPPED_KEY_BYTES];
} KrDataKey;

typedef enum KrKeyCheck
{
	KR_KEY_OPENS,
	KR_KEY_NO_ROOT_KEY,			/* the one that wraps it is not in place */
	KR_KEY_ALTERED				/* or wrapped for another id, tenant or purpose */
} KrKeyCheck;

/* Load or reload what is due; the answer is valid till the next call. */
extern const KrKeyringState *kr_keyring_load(void);

/* What the last of these calls has answered, without looking again. */
extern const KrKeyringState *kr_keyring_state(void);

/* Make the key file where can_create; then load. */
extern const KrKeyringState *kr_keyring_create(void);

extern const char *kr_keyring_provider_name(KrProvider provider);
extern const char *kr_keyring_generated_path(void);

/*
 * From here on: with what the last load has brought, and if it has brought
 * anything.
 */
extern bool kr_keyring_has(const char *root_key_id);

/* Fills in root_key_id, fingerprint, nonce and wrapped; the primary wraps. */
extern void kr_keyring_new_key(KrDataKey *key);

/*
 * These return false if the data key cannot be unwrapped, is not for that or,
 * opening, if anything was altered. out has room for len + KR_TAG_BYTES and
 * len - KR_TAG_BYTES.
 */
extern bool kr_keyring_seal(const KrDataKey *key, const unsigned char *nonce,
							const unsigned char *aad, size_t aad_len,
							const unsigned char *plain, size_t len,
							unsigned char *out);
extern bool kr_keyring_open(const KrDataKey *key, const unsigned char *nonce,
							const unsigned char *aad, size_t aad_len,
							const unsigned char *sealed, size_t len,
							unsigned char *out);

/* The same for keys of KR_KEY_BOX. out has room for len - KR_BOX_SEAL_BYTES. */
extern bool kr_keyring_box_public(const KrDataKey *key, unsigned char *public_key);
extern bool kr_keyring_box_open(const KrDataKey *key, const unsigned char *sealed,
								size_t len, unsigned char *out);

/*
 * Wrap it by the primary root key, with a new nonce. What does not pass the
 * check, its fingerprint's included, stays as it is.
 */
extern KrKeyCheck kr_keyring_rewrap(KrDataKey *key);

#endif							/* KR_KEYRING_H */

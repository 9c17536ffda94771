/*
 * kr_keyring.h
 *	  The root key in locked memory, and all cryptography that needs it.
 *
 * Root keys and data keys never leave the keyring: callers hand in what is to
 * be sealed or opened and get the result.
 */
#ifndef KR_KEYRING_H
#define KR_KEYRING_H

#include "postgres.h"

#include "utils/uuid.h"

#include "kr_root_key.h"

#define KR_NONCE_BYTES 24
#define KR_TAG_BYTES 16
#define KR_DATA_KEY_BYTES 32
#define KR_WRAPPED_KEY_BYTES (KR_DATA_KEY_BYTES + KR_TAG_BYTES)
#define KR_FINGERPRINT_LEN 16	/* hexadecimal digits */

typedef enum KrProvider
{
	KR_PROVIDER_GENERATED_FILE, /* neither setting is set */
	KR_PROVIDER_FILE,
	KR_PROVIDER_COMMAND,
	KR_PROVIDER_AMBIGUOUS		/* both are set */
} KrProvider;

typedef struct KrKeyringState
{
	KrProvider	provider;
	bool		loaded;
	char		fingerprint[KR_FINGERPRINT_LEN + 1];	/* if loaded */
	bool		can_create;		/* if not: kr_keyring_create() may help */
	KrRootKeyProblem problem;	/* if not loaded */
} KrKeyringState;

/* A data key as vault.keys has it: wrapped by a root key. */
typedef struct KrDataKey
{
	pg_uuid_t	id;
	bool		has_tenant;
	pg_uuid_t	tenant_id;
	char		root_key_id[KR_FINGERPRINT_LEN + 1];
	char		fingerprint[KR_FINGERPRINT_LEN + 1];	/* of the key itself; set by kr_keyring_new_key() */
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char wrapped[KR_WRAPPED_KEY_BYTES];
} KrDataKey;

/* Load or reload what is due; the answer is valid till the next call. */
extern const KrKeyringState *kr_keyring_load(void);

/* What the last of these calls has answered, without looking again. */
extern const KrKeyringState *kr_keyring_state(void);

/* Make the key file where can_create; then load. */
extern const KrKeyringState *kr_keyring_create(void);

extern const char *kr_keyring_provider_name(KrProvider provider);
extern char *kr_keyring_generated_path(void);

/*
 * These need a loaded keyring. kr_keyring_new_key() fills in all of key but id
 * and tenant. The others return false if the data key cannot be unwrapped or,
 * opening, if anything was altered. out has room for len + KR_TAG_BYTES and
 * len - KR_TAG_BYTES.
 */
extern void kr_keyring_new_key(KrDataKey *key);
extern bool kr_keyring_seal(const KrDataKey *key, const unsigned char *nonce,
							const unsigned char *aad, size_t aad_len,
							const unsigned char *plain, size_t len,
							unsigned char *out);
extern bool kr_keyring_open(const KrDataKey *key, const unsigned char *nonce,
							const unsigned char *aad, size_t aad_len,
							const unsigned char *sealed, size_t len,
							unsigned char *out);

#endif							/* KR_KEYRING_H */

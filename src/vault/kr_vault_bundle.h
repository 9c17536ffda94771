/*
 * kr_vault_bundle.h
 *	  The format in which a tenant's secrets travel to another installation;
 *	  doc/migrating.md describes it.
 */
#ifndef KR_VAULT_BUNDLE_H
#define KR_VAULT_BUNDLE_H

#include "postgres.h"

#include <sodium.h>

#include "utils/uuid.h"

#include "kr_aead.h"
#include "kr_vault.h"

#define KR_BUNDLE_FORMAT "kessel-tenant-secrets"
#define KR_BUNDLE_VERSION 1

/*
 * What is in the box: a zero byte, then the key. Whoever may store what a client
 * has sealed could else have this box taken for a secret of his own, and read it:
 * text has no zero byte in any encoding.
 */
#define KR_BUNDLE_BOXED_KEY_BYTES (1 + KR_KEY_BYTES)
#define KR_BUNDLE_SEALED_KEY_BYTES (KR_BUNDLE_BOXED_KEY_BYTES + KR_BOX_SEAL_BYTES)
#define KR_BUNDLE_DIGEST_BYTES 32

/* Base64 with padding and the NUL, of so many bytes. */
#define KR_BASE64_LEN(bytes) sodium_base64_ENCODED_LEN(bytes, sodium_base64_VARIANT_ORIGINAL)

/* How many secrets go by between two notices. */
#define KR_BUNDLE_NOTICE 10000

/*
 * Everything in a bundle that is not sealed goes through this hash, in order,
 * and the hash is sealed at its end: what was taken out, added or changed on
 * the way is noticed.
 */
typedef struct KrBundleDigest
{
	crypto_generichash_state state;
} KrBundleDigest;

extern void kr_bundle_digest_begin(KrBundleDigest *digest);

/* text in the database's encoding; NULL differs from the empty string. */
extern void kr_bundle_digest_text(KrBundleDigest *digest, const char *text, size_t len);
extern void kr_bundle_digest_string(KrBundleDigest *digest, const char *string);
extern void kr_bundle_digest_number(KrBundleDigest *digest, uint32 number);
extern void kr_bundle_digest_end(KrBundleDigest *digest, unsigned char *hash);

/* What a sealed version, and the sealed hash, are bound to; palloc'd. */
extern unsigned char *kr_bundle_version_aad(const pg_uuid_t *tenant_id,
											const pg_uuid_t *secret_id, int32 version,
											const char *name, size_t *len);
extern unsigned char *kr_bundle_digest_aad(const pg_uuid_t *tenant_id, size_t *len);

/* palloc'd, without line ends; *len is its length. */
extern char *kr_bundle_base64(const unsigned char *bytes, size_t nbytes, size_t *len);

/* False unless it is base64 of this form and of at most room bytes. */
extern bool kr_bundle_unbase64(const char *text, size_t len, unsigned char *bytes,
							   size_t room, size_t *nbytes);

#endif							/* KR_VAULT_BUNDLE_H */

/*
 * kr_aead.h
 *	  The vault's cryptography: pure functions over bytes.
 */
#ifndef KR_AEAD_H
#define KR_AEAD_H

#include <stdbool.h>
#include <stddef.h>

#define KR_KEY_BYTES 32
#define KR_NONCE_BYTES 24
#define KR_TAG_BYTES 16
#define KR_BOX_PUBLIC_BYTES 32
#define KR_BOX_SEAL_BYTES (KR_BOX_PUBLIC_BYTES + KR_TAG_BYTES)
#define KR_FINGERPRINT_LEN 16	/* hexadecimal digits */
#define KR_PERSONAL_BYTES 16

/* What a fingerprint is of; each in a hash space of its own. */
#define KR_PERSONAL_ROOT_KEY "kessel.root.v1"
#define KR_PERSONAL_DATA_KEY "kessel.data.v1"

/*
 * XChaCha20-Poly1305. sealed has KR_TAG_BYTES more than plain; opening fails
 * if anything differs from what was sealed, and then leaves no plaintext.
 */
extern void kr_aead_seal(unsigned char *sealed,
						 const unsigned char *plain, size_t len,
						 const unsigned char *aad, size_t aad_len,
						 const unsigned char *nonce, const unsigned char *key);
extern bool kr_aead_open(unsigned char *plain,
						 const unsigned char *sealed, size_t len,
						 const unsigned char *aad, size_t aad_len,
						 const unsigned char *nonce, const unsigned char *key);

/* libsodium's sealed box, opened with an X25519 secret key. */
extern void kr_aead_box_public(unsigned char *public_key, const unsigned char *key);
extern bool kr_aead_box_open(unsigned char *plain,
							 const unsigned char *sealed, size_t len,
							 const unsigned char *key);

/*
 * KR_FINGERPRINT_LEN digits and a NUL: the first half of a BLAKE2b hash of 16
 * bytes, which tells nothing about a random key of 256 bits.
 */
extern void kr_aead_fingerprint(char *hex, const unsigned char *key,
								const char *personal);

#endif							/* KR_AEAD_H */

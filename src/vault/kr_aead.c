/*
 * kr_aead.c
 *	  The vault's cryptography: pure functions over bytes.
 *
 * Called by the keyring, and by the programs of test/unit, which link with this
 * file and libsodium alone: nothing of the server's is called in here, not even
 * Assert(). Nothing is allocated or kept; keys and plaintext stay where the
 * caller has them.
 */
#include "postgres.h"

#include <sodium.h>

#include "kr_aead.h"

StaticAssertDecl(KR_KEY_BYTES == crypto_aead_xchacha20poly1305_ietf_KEYBYTES &&
				 KR_KEY_BYTES == crypto_box_SECRETKEYBYTES,
				 "key length differs from libsodium's");
StaticAssertDecl(KR_NONCE_BYTES == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
				 "nonce length differs from libsodium's");
StaticAssertDecl(KR_TAG_BYTES == crypto_aead_xchacha20poly1305_ietf_ABYTES,
				 "tag length differs from libsodium's");
StaticAssertDecl(KR_BOX_PUBLIC_BYTES == crypto_box_PUBLICKEYBYTES &&
				 KR_BOX_SEAL_BYTES == crypto_box_SEALBYTES,
				 "lengths of sealed boxes differ from libsodium's");
StaticAssertDecl(KR_PERSONAL_BYTES == crypto_generichash_blake2b_PERSONALBYTES,
				 "personalization length differs from libsodium's");

void
kr_aead_seal(unsigned char *sealed, const unsigned char *plain, size_t len,
			 const unsigned char *aad, size_t aad_len,
			 const unsigned char *nonce, const unsigned char *key)
{
	(void) crypto_aead_xchacha20poly1305_ietf_encrypt(sealed, NULL, plain, len,
													  aad, aad_len,
													  NULL, nonce, key);
}

bool
kr_aead_open(unsigned char *plain, const unsigned char *sealed, size_t len,
			 const unsigned char *aad, size_t aad_len,
			 const unsigned char *nonce, const unsigned char *key)
{
	return crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, sealed, len,
													  aad, aad_len,
													  nonce, key) == 0;
}

void
kr_aead_box_public(unsigned char *public_key, const unsigned char *key)
{
	(void) crypto_scalarmult_base(public_key, key);
}

bool
kr_aead_box_open(unsigned char *plain, const unsigned char *sealed, size_t len,
				 const unsigned char *key)
{
	unsigned char public_key[KR_BOX_PUBLIC_BYTES];

	kr_aead_box_public(public_key, key);
	return crypto_box_seal_open(plain, sealed, len, public_key, key) == 0;
}

void
kr_aead_fingerprint(char *hex, const unsigned char *key, const char *personal)
{
	unsigned char hash[crypto_generichash_blake2b_BYTES_MIN];	/* twice what is shown */
	unsigned char padded[KR_PERSONAL_BYTES] = {0};

	memcpy(padded, personal, strnlen(personal, sizeof(padded)));
	(void) crypto_generichash_blake2b_salt_personal(hash, sizeof(hash),
													key, KR_KEY_BYTES,
													NULL, 0, NULL, padded);
	(void) sodium_bin2hex(hex, KR_FINGERPRINT_LEN + 1, hash, KR_FINGERPRINT_LEN / 2);
}

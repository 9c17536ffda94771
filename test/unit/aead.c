/*
 * aead.c
 *	  The vault's cryptography against published vectors.
 *
 * Links with: src/vault/kr_aead.c -lsodium
 */
#include "kr_unit.h"

#include <sodium.h>

#include "kr_aead.h"

static void published_vector(void);
static void altered_bytes(void);
static void lengths(void);
static void fingerprints(void);
static void boxes(void);

int
main(void)
{
	if (sodium_init() < 0)
		return 1;
	published_vector();
	altered_bytes();
	lengths();
	fingerprints();
	boxes();
	return tap_done();
}

/* draft-irtf-cfrg-xchacha-03, A.3.1 */
static const char *const plaintext =
"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
static const char *const sealed_hex =
"bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
"731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
"2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
"21f9664c97637da9768812f615c68b13b52e"
"c0875924c1c7987947deafd8780acf49";

typedef struct Vector
{
	unsigned char key[KR_KEY_BYTES];
	unsigned char nonce[KR_NONCE_BYTES];
	unsigned char aad[12];
	unsigned char sealed[256];
	size_t		sealed_len;
	size_t		len;
} Vector;

static void
read_vector(Vector *v)
{
	unhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f", v->key);
	unhex("404142434445464748494a4b4c4d4e4f5051525354555657", v->nonce);
	unhex("50515253c0c1c2c3c4c5c6c7", v->aad);
	v->sealed_len = unhex(sealed_hex, v->sealed);
	v->len = strlen(plaintext);
}

static bool
opens(const Vector *v)
{
	unsigned char out[256];

	return kr_aead_open(out, v->sealed, v->sealed_len, v->aad, sizeof(v->aad), v->nonce, v->key);
}

static void
published_vector(void)
{
	Vector		v;
	unsigned char out[256];

	read_vector(&v);
	ok(v.sealed_len == v.len + KR_TAG_BYTES, "the vector is whole");
	kr_aead_seal(out, (const unsigned char *) plaintext, v.len,
				 v.aad, sizeof(v.aad), v.nonce, v.key);
	same_bytes(out, v.sealed, v.sealed_len, "XChaCha20-Poly1305: ciphertext and tag are the published ones");
	memset(out, 0, sizeof(out));
	ok(kr_aead_open(out, v.sealed, v.sealed_len, v.aad, sizeof(v.aad), v.nonce, v.key) &&
	   memcmp(out, plaintext, v.len) == 0, "and open to the published plaintext");
}

/* Whether flipping any one bit of a part keeps it from opening; it is put back. */
static bool
each_bit_counts(Vector *v, unsigned char *part, size_t len)
{
	bool		all = true;

	for (size_t bit = 0; bit < len * 8; bit++)
	{
		part[bit / 8] ^= 1 << (bit % 8);
		all = all && !opens(v);
		part[bit / 8] ^= 1 << (bit % 8);
	}
	return all && opens(v);
}

static void
altered_bytes(void)
{
	Vector		v;
	unsigned char out[256];
	unsigned char zeros[256] = {0};

	read_vector(&v);
	ok(each_bit_counts(&v, v.sealed, v.len), "each bit of the ciphertext counts");
	ok(each_bit_counts(&v, v.sealed + v.len, KR_TAG_BYTES), "each bit of the tag");
	ok(each_bit_counts(&v, v.nonce, sizeof(v.nonce)), "each bit of the nonce");
	ok(each_bit_counts(&v, v.aad, sizeof(v.aad)), "each bit of what it is bound to");
	ok(each_bit_counts(&v, v.key, sizeof(v.key)), "each bit of the key");

	memset(out, 0x55, sizeof(out));
	v.sealed[0] ^= 1;
	ok(!kr_aead_open(out, v.sealed, v.sealed_len, v.aad, sizeof(v.aad), v.nonce, v.key) &&
	   memcmp(out, zeros, v.len) == 0, "what does not open leaves no plaintext");
}

static void
lengths(void)
{
	Vector		v;
	unsigned char out[256];
	bool		all = true;

	read_vector(&v);
	for (size_t len = 0; len < v.sealed_len; len++)
		all = all && !kr_aead_open(out, v.sealed, len, v.aad, sizeof(v.aad), v.nonce, v.key);
	ok(all, "nothing shorter opens");
	ok(!kr_aead_open(out, v.sealed, v.sealed_len + 1, v.aad, sizeof(v.aad), v.nonce, v.key),
	   "nothing longer");
	ok(!kr_aead_open(out, v.sealed, v.sealed_len, v.aad, sizeof(v.aad) - 1, v.nonce, v.key),
	   "nothing bound to less");

	kr_aead_seal(v.sealed, NULL, 0, NULL, 0, v.nonce, v.key);
	ok(kr_aead_open(out, v.sealed, KR_TAG_BYTES, NULL, 0, v.nonce, v.key), "an empty text opens");
	v.sealed[3] ^= 1;
	ok(!kr_aead_open(out, v.sealed, KR_TAG_BYTES, NULL, 0, v.nonce, v.key), "and not with another tag");
}

/*
 * By libsodium's streaming interface: other code for the same parameters.
 */
static void
fingerprint_by_stream(char *hex, const unsigned char *key, const char *personal)
{
	crypto_generichash_blake2b_state state;
	unsigned char hash[16];
	unsigned char salt[crypto_generichash_blake2b_SALTBYTES] = {0};
	unsigned char padded[16] = {0};

	memcpy(padded, personal, strlen(personal));
	crypto_generichash_blake2b_init_salt_personal(&state, NULL, 0, sizeof(hash), salt, padded);
	for (int i = 0; i < KR_KEY_BYTES; i++)
		crypto_generichash_blake2b_update(&state, key + i, 1);
	crypto_generichash_blake2b_final(&state, hash, sizeof(hash));
	sodium_bin2hex(hex, 17, hash, 8);
}

static void
fingerprints(void)
{
	unsigned char key[KR_KEY_BYTES];
	unsigned char hash[64];
	unsigned char expected[64];
	char		root[KR_FINGERPRINT_LEN + 1];
	char		data[KR_FINGERPRINT_LEN + 1];
	char		other[KR_FINGERPRINT_LEN + 1];

	/* RFC 7693, appendix A: the library's BLAKE2b is BLAKE2b */
	unhex("ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
		  "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923", expected);
	crypto_generichash_blake2b(hash, sizeof(hash), (const unsigned char *) "abc", 3, NULL, 0);
	same_bytes(hash, expected, sizeof(hash), "BLAKE2b: the published hash of \"abc\"");

	memset(key, 0xa1, sizeof(key));
	kr_aead_fingerprint(root, key, KR_PERSONAL_ROOT_KEY);
	kr_aead_fingerprint(data, key, KR_PERSONAL_DATA_KEY);
	ok(strlen(root) == 16 && strspn(root, "0123456789abcdef") == 16, "a fingerprint has 16 digits");
	ok(strcmp(root, data) != 0, "one key has different ones as root key and as data key");
	fingerprint_by_stream(other, key, "kessel.root.v1");
	ok(strcmp(root, other) == 0, "of a root key: personalized BLAKE2b, cut off");
	fingerprint_by_stream(other, key, "kessel.data.v1");
	ok(strcmp(data, other) == 0, "of a data key, too");
	key[31] ^= 1;
	kr_aead_fingerprint(other, key, KR_PERSONAL_ROOT_KEY);
	ok(strcmp(root, other) != 0, "another key has another one");

	/* as Python's hashlib.blake2b(..., digest_size=16, person=...) has it */
	ok(strcmp(root, "3fc6cd14851a3228") == 0 && strcmp(data, "0a6aace7a4d4efe0") == 0,
	   "other software has the same fingerprints");
}

static void
boxes(void)
{
	unsigned char key[KR_KEY_BYTES];
	unsigned char public_key[KR_BOX_PUBLIC_BYTES];
	unsigned char expected[KR_BOX_PUBLIC_BYTES];
	unsigned char sealed[100 + KR_BOX_SEAL_BYTES];
	unsigned char plain[100];
	unsigned char out[100];
	bool		all = true;

	/* RFC 7748, 6.1: Alice's keys */
	unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a", key);
	unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a", expected);
	kr_aead_box_public(public_key, key);
	same_bytes(public_key, expected, sizeof(expected), "X25519: the public key is the published one");

	randombytes_buf(plain, sizeof(plain));
	ok(crypto_box_seal(sealed, plain, sizeof(plain), public_key) == 0 &&
	   kr_aead_box_open(out, sealed, sizeof(sealed), key) &&
	   memcmp(out, plain, sizeof(plain)) == 0, "a sealed box opens");
	for (size_t bit = 0; bit < sizeof(sealed) * 8; bit++)
	{
		/* the top bit of an X25519 public key does not count */
		sealed[bit / 8] ^= 1 << (bit % 8);
		if (bit != 255)
			all = all && !kr_aead_box_open(out, sealed, sizeof(sealed), key);
		sealed[bit / 8] ^= 1 << (bit % 8);
	}
	ok(all, "each bit of it counts");
	all = true;
	for (size_t len = 0; len < sizeof(sealed); len++)
		all = all && !kr_aead_box_open(out, sealed, len, key);
	ok(all, "nothing shorter opens");
	key[10] ^= 1;
	ok(!kr_aead_box_open(out, sealed, sizeof(sealed), key), "nor with another key");
}

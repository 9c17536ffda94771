/*
 * aes_gcm.c
 *	  AES-256-GCM against published vectors, and the values of Node programs.
 *
 * Links with: src/vault/kr_aes_gcm.c -lcrypto -lsodium
 */
#include "kr_unit.h"

#include <sodium.h>

#include "kr_aes_gcm.h"

typedef struct Vector
{
	const char *name;
	const char *key;
	const char *iv;
	const char *plain;
	const char *sealed;
	const char *tag;
} Vector;

#define ZEROS_16 "00000000000000000000000000000000"
#define ZEROS_40 ZEROS_16 ZEROS_16 "0000000000000000"

/*
 * Test cases 13 to 15 of "The Galois/Counter Mode of Operation" (McGrew, Viega),
 * to which NIST SP 800-38D refers; and of C2SP's Wycheproof, aes_gcm_test, the
 * cases 94 and, with an iv of 16 bytes, 240 to 243.
 */
static const Vector vectors[] = {
	{"case 13", ZEROS_16 ZEROS_16, "000000000000000000000000", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
	{"case 14", ZEROS_16 ZEROS_16, "000000000000000000000000", ZEROS_16,
	"cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
	{"case 15", "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
		"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
	"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad", "b094dac5d93471bdec1a502270e3cc6c"},
	{"94", "cc56b680552eb75008f5484b4cb803fa5063ebd6eab91f6ab6aef4916a766273", "99e23ec48985bccdeeab60f1",
	"2a", "06", "633c1e9703ef744ffffb40edf9d14355"},
	{"240", "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f", "5c2ea9b695fcf6e264b96074d6bfa572",
	ZEROS_40, "28e1c5232f4ee8161dbe4c036309e0b3254e9212bef0a93431ce5e5604c8f6a73c18a3183018b770", "d5808a1bd11a01129bf3c6919aff2339"},
	{"241", "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f", "57b3a81f2c36b6b06577ca0fbab8fa8e",
	ZEROS_40, "cceebeb4fe4cd90c514e52d2327a2ecd75393661006cf2476d8620149aef3d1cdce491fff3e7a7a3", "8132e865b69d64ef37db261f80cbbe24"},
	{"242", "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f", "ce20a7e870696a5e68533c465bad2ba1",
	ZEROS_40, "4f4350565d91d9aa8c5f4048550492ad6d6fdabf66da5d1e2af7bfe1a8aadaa0baa3de38a41d9713", "155da6441ec071ef2d8e6cffbacc1c7c"},
	{"243", "00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f", "918e3c19dbdfee2db18156c5b93f3d75",
	ZEROS_40, "8316a53167b6de1a7575700693ffef274f4350565d91d9aa8c5f4048550492ad6d6fdabf66da5d1e", "6c574aa6a2490cc3b2f2f8f0ffbc56c4"},
};

static void check_vector(const Vector *v);
static void altered_bytes(void);
static void spellings(void);
static bool opens(const char *text, char *plain);
static void keys(void);

int
main(void)
{
	if (sodium_init() < 0)
		return 1;
	for (size_t i = 0; i < lengthof(vectors); i++)
		check_vector(&vectors[i]);
	altered_bytes();
	spellings();
	keys();
	return tap_done();
}

static void
check_vector(const Vector *v)
{
	unsigned char key[KR_AES_KEY_BYTES];
	unsigned char iv[KR_AES_IV_LONG];
	unsigned char plain[64];
	unsigned char sealed[64];
	unsigned char tag[KR_AES_TAG_BYTES];
	unsigned char got_tag[KR_AES_TAG_BYTES];
	unsigned char bytes[64];
	size_t		len;
	size_t		iv_len;

	unhex(v->key, key);
	iv_len = unhex(v->iv, iv);
	len = unhex(v->plain, plain);
	unhex(v->sealed, sealed);
	unhex(v->tag, tag);

	memcpy(bytes, plain, len);
	ok(kr_aes_gcm_seal(key, iv, iv_len, bytes, len, got_tag) &&
	   memcmp(bytes, sealed, len) == 0 && memcmp(got_tag, tag, sizeof(tag)) == 0, v->name);
	ok(kr_aes_gcm_open(key, iv, iv_len, bytes, len, tag) && memcmp(bytes, plain, len) == 0, "and back");
}

/* Whichever bit is another one: refused, and nothing of the plaintext left. */
static void
altered_bytes(void)
{
	static const unsigned char nothing[32];
	unsigned char v[KR_AES_KEY_BYTES + KR_AES_IV_SHORT + KR_AES_TAG_BYTES + 32];
	unsigned char *iv = v + KR_AES_KEY_BYTES;
	unsigned char *tag = iv + KR_AES_IV_SHORT;
	unsigned char *sealed = tag + KR_AES_TAG_BYTES;
	unsigned char bytes[32];
	int			opened = 0;
	int			left = 0;

	randombytes_buf(v, sizeof(v));
	ok(kr_aes_gcm_seal(v, iv, KR_AES_IV_SHORT, sealed, sizeof(bytes), tag), "a value");
	for (size_t bit = 0; bit < sizeof(v) * 8; bit++)
	{
		v[bit / 8] ^= 1 << bit % 8;
		memcpy(bytes, sealed, sizeof(bytes));
		opened += kr_aes_gcm_open(v, iv, KR_AES_IV_SHORT, bytes, sizeof(bytes), tag);
		left += memcmp(bytes, nothing, sizeof(bytes)) != 0;
		v[bit / 8] ^= 1 << bit % 8;
	}
	ok(opened == 0, "no bit of key, iv, tag and ciphertext can be another");
	ok(left == 0, "and what was decrypted is wiped");
	ok(kr_aes_gcm_open(v, iv, KR_AES_IV_SHORT, sealed, sizeof(bytes), tag), "the value as it was opens");
}

static const unsigned char test_key[KR_AES_KEY_BYTES + 1] = "an example key of exactly 32 byt";

/* plain gets the text that was sealed. */
static bool
opens(const char *text, char *plain)
{
	KrAesValue	value;
	unsigned char bytes[64];

	if (!kr_aes_gcm_parse(text, strlen(text), &value) || value.len >= sizeof(bytes) ||
		!kr_aes_gcm_body(&value, bytes) ||
		!kr_aes_gcm_open(test_key, value.iv, value.iv_len, bytes, value.len, value.tag))
		return false;
	memcpy(plain, bytes, value.len);
	plain[value.len] = '\0';
	return true;
}

/* Both encodings and lengths of the iv, all lengths of text, each byte altered. */
static void
spellings(void)
{
	static const char all[] = "0123456789 some plaintext";
	char		plain[64];
	int			wrong_len = 0;
	int			not_back = 0;
	int			altered = 0;
	int			lengths = 0;

	for (int form = 0; form < 4; form++)
	{
		for (size_t len = 0; len < sizeof(all); len++)
		{
			KrAesValue	value = {.encoding = form & 1 ? KR_AES_BASE64 : KR_AES_HEX};
			unsigned char bytes[64];
			char		text[256];
			size_t		text_len;

			value.iv_len = form & 2 ? KR_AES_IV_LONG : KR_AES_IV_SHORT;
			value.len = len;
			memset(value.iv, 0xcb + form, sizeof(value.iv));
			memcpy(bytes, all, len);
			(void) kr_aes_gcm_seal(test_key, value.iv, value.iv_len, bytes, len, value.tag);
			kr_aes_gcm_print(&value, bytes, text);
			text_len = strlen(text);
			wrong_len += text_len != kr_aes_gcm_text_len(value.encoding, value.iv_len, len);
			not_back += !opens(text, plain) || strlen(plain) != len || memcmp(plain, all, len) != 0;

			for (size_t i = 0; i < text_len; i++)
			{
				for (int bit = 0; bit < 8; bit++)
				{
					text[i] ^= 1 << bit;
					altered += text[i] != '\0' && opens(text, plain);
					text[i] ^= 1 << bit;
				}
			}
			for (size_t i = 0; i < text_len; i++)
			{
				char		cut = text[i];

				text[i] = '\0';
				lengths += opens(text, plain);
				text[i] = cut;
			}
			memcpy(text + text_len, "=", 2);
			lengths += opens(text, plain);
			memcpy(text + text_len, "00", 3);
			lengths += opens(text, plain);
			memcpy(text + text_len, "\n", 2);
			lengths += opens(text, plain);
		}
	}
	ok(wrong_len == 0, "the length of what is written is known before");
	ok(not_back == 0, "what is written opens");
	ok(altered == 0, "no bit of the text can be another");
	ok(lengths == 0, "nor can it be shorter or longer");
}

static void
keys(void)
{
	static const char good[] = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
	unsigned char key[KR_AES_KEY_BYTES];
	char		bad[80];

	ok(kr_aes_gcm_key(good, 64, key) && key[31] == 0xff, "a key of 64 digits");
	ok(!kr_aes_gcm_key(good, 63, key), "of 63");
	memcpy(bad, good, sizeof(good));
	bad[64] = '\n';
	ok(!kr_aes_gcm_key(bad, 65, key), "with a line end");
	bad[10] = 'g';
	ok(!kr_aes_gcm_key(bad, 64, key), "with a letter that is no digit");
	bad[10] = ' ';
	ok(!kr_aes_gcm_key(bad, 64, key), "with a space");
}

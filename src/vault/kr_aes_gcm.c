/*
 * kr_aes_gcm.c
 *	  AES-256-GCM, and the values "iv:authTag:ciphertext" that Node programs
 *	  write with it.
 *
 * Called by the functions for columns, and by a program of test/unit, which
 * links with this file, libcrypto and libsodium alone: nothing of the server's
 * is called in here. Nothing is kept. OpenSSL has the key schedule in memory of
 * its own for the length of a call, and wipes it when it frees the context.
 *
 * Parsing is strict, so that a value has one spelling: whatever byte of it is
 * changed, it is refused. Hexadecimal digits are of one case, base64 is the
 * standard one with padding and without stray bits. The tag tells the encoding:
 * its 16 bytes are 32 digits or 24 characters.
 */
#include "postgres.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <sodium.h>

#include "kr_aes_gcm.h"

#define HEX_TAG_LEN (2 * KR_AES_TAG_BYTES)
#define BASE64_TAG_LEN 24

static bool decode(KrAesEncoding encoding, const char *text, size_t len,
				   unsigned char *bytes, size_t max, size_t *bytes_len);
static char *encode(KrAesEncoding encoding, const unsigned char *bytes, size_t len,
					char *text);
static bool decode_hex(const char *text, size_t len, unsigned char *bytes);
static int	hex_digit(char c);
static bool is_ascii(const char *text, size_t len);
static bool is_one_case(const char *text, size_t len);
static const EVP_CIPHER *aes_256_gcm(void);
static bool run(bool sealing, const unsigned char *key,
				const unsigned char *iv, size_t iv_len,
				unsigned char *bytes, size_t len, unsigned char *tag);

bool
kr_aes_gcm_parse(const char *text, size_t len, KrAesValue *value)
{
	const char *end = text + len;
	const char *tag = memchr(text, ':', len);
	const char *body = tag ? memchr(tag + 1, ':', end - tag - 1) : NULL;
	size_t		tag_len;

	/* libsodium takes two bytes beyond ASCII for '+' and '/' */
	if (body == NULL || !is_ascii(text, len))
		return false;
	tag_len = body - ++tag;
	value->body = ++body;
	value->body_len = end - body;
	if (memchr(body, ':', value->body_len) != NULL)
		return false;

	if (tag_len == HEX_TAG_LEN)
		value->encoding = KR_AES_HEX;
	else if (tag_len == BASE64_TAG_LEN)
		value->encoding = KR_AES_BASE64;
	else
		return false;

	if (!decode(value->encoding, tag, tag_len,
				value->tag, sizeof(value->tag), &tag_len) ||
		tag_len != KR_AES_TAG_BYTES)
		return false;
	if (!decode(value->encoding, text, tag - 1 - text,
				value->iv, sizeof(value->iv), &value->iv_len) ||
		(value->iv_len != KR_AES_IV_SHORT && value->iv_len != KR_AES_IV_LONG))
		return false;

	if (value->encoding == KR_AES_HEX)
	{
		value->len = value->body_len / 2;
		return value->body_len % 2 == 0 && is_one_case(text, len);
	}
	value->len = value->body_len / 4 * 3;
	for (size_t i = 1; i <= 2 && i <= value->body_len && end[-i] == '='; i++)
		value->len--;
	return value->body_len % 4 == 0;
}

bool
kr_aes_gcm_body(const KrAesValue *value, unsigned char *bytes)
{
	size_t		len;

	return decode(value->encoding, value->body, value->body_len,
				  bytes, value->len, &len) && len == value->len;
}

size_t
kr_aes_gcm_text_len(KrAesEncoding encoding, size_t iv_len, size_t len)
{
	if (encoding == KR_AES_HEX)
		return 2 * iv_len + 1 + HEX_TAG_LEN + 1 + 2 * len;
	return (iv_len + 2) / 3 * 4 + 1 + BASE64_TAG_LEN + 1 + (len + 2) / 3 * 4;
}

void
kr_aes_gcm_print(const KrAesValue *value, const unsigned char *body, char *text)
{
	text = encode(value->encoding, value->iv, value->iv_len, text);
	*text++ = ':';
	text = encode(value->encoding, value->tag, sizeof(value->tag), text);
	*text++ = ':';
	(void) encode(value->encoding, body, value->len, text);
}

bool
kr_aes_gcm_seal(const unsigned char *key, const unsigned char *iv, size_t iv_len,
				unsigned char *bytes, size_t len, unsigned char *tag)
{
	return run(true, key, iv, iv_len, bytes, len, tag);
}

bool
kr_aes_gcm_open(const unsigned char *key, const unsigned char *iv, size_t iv_len,
				unsigned char *bytes, size_t len, const unsigned char *tag)
{
	return run(false, key, iv, iv_len, bytes, len, unconstify(unsigned char *, tag));
}

bool
kr_aes_gcm_key(const char *text, size_t len, unsigned char *key)
{
	size_t		key_len;
	const char *end;

	/* in constant time, other than decode_hex() */
	return len == 2 * KR_AES_KEY_BYTES &&
		sodium_hex2bin(key, KR_AES_KEY_BYTES, text, len, NULL, &key_len, &end) == 0 &&
		key_len == KR_AES_KEY_BYTES && end == text + len;
}

/*
 * Since OpenSSL 3 EVP_aes_256_gcm() only names what each use then looks up, in
 * more time than a short value takes. Kept for the life of the process.
 */
static const EVP_CIPHER *
aes_256_gcm(void)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	static EVP_CIPHER *fetched = NULL;

	if (fetched == NULL)
		fetched = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	return fetched;
#else
	return EVP_aes_256_gcm();
#endif
}

static bool
run(bool sealing, const unsigned char *key, const unsigned char *iv, size_t iv_len,
	unsigned char *bytes, size_t len, unsigned char *tag)
{
	EVP_CIPHER_CTX *cxt = EVP_CIPHER_CTX_new();
	const EVP_CIPHER *cipher = aes_256_gcm();
	unsigned char nothing[KR_AES_TAG_BYTES];
	int			done;
	bool		ok;

	ok = cxt != NULL && cipher != NULL && len <= KR_AES_MAX &&
		EVP_CipherInit_ex(cxt, cipher, NULL, NULL, NULL, sealing) == 1 &&
		EVP_CIPHER_CTX_ctrl(cxt, EVP_CTRL_AEAD_SET_IVLEN, (int) iv_len, NULL) == 1 &&
		EVP_CipherInit_ex(cxt, NULL, NULL, key, iv, sealing) == 1 &&
		(sealing ||
		 EVP_CIPHER_CTX_ctrl(cxt, EVP_CTRL_AEAD_SET_TAG, KR_AES_TAG_BYTES, tag) == 1) &&
		(len == 0 ||
		 (EVP_CipherUpdate(cxt, bytes, &done, bytes, (int) len) == 1 && done == (int) len)) &&
		EVP_CipherFinal_ex(cxt, nothing, &done) == 1 &&
		(!sealing ||
		 EVP_CIPHER_CTX_ctrl(cxt, EVP_CTRL_AEAD_GET_TAG, KR_AES_TAG_BYTES, tag) == 1);
	EVP_CIPHER_CTX_free(cxt);

	if (!ok)
	{
		/* what was decrypted before the tag was looked at; libpq's error queue */
		sodium_memzero(bytes, len);
		ERR_clear_error();
	}
	return ok;
}

static bool
decode(KrAesEncoding encoding, const char *text, size_t len,
	   unsigned char *bytes, size_t max, size_t *bytes_len)
{
	const char *end;

	if (encoding == KR_AES_HEX)
	{
		*bytes_len = len / 2;
		return len % 2 == 0 && len / 2 <= max && decode_hex(text, len, bytes);
	}
	return sodium_base642bin(bytes, max, text, len, NULL, bytes_len, &end,
							 sodium_base64_VARIANT_ORIGINAL) == 0 &&
		end == text + len;
}

/* Returns where it has ended; writes a NUL there. */
static char *
encode(KrAesEncoding encoding, const unsigned char *bytes, size_t len, char *text)
{
	size_t		room = encoding == KR_AES_HEX ? 2 * len + 1 :
		sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);

	if (encoding == KR_AES_HEX)
		(void) sodium_bin2hex(text, room, bytes, len);
	else
		(void) sodium_bin2base64(text, room, bytes, len, sodium_base64_VARIANT_ORIGINAL);
	return text + room - 1;
}

static bool
decode_hex(const char *text, size_t len, unsigned char *bytes)
{
	for (size_t i = 0; i < len; i += 2)
	{
		int			high = hex_digit(text[i]);
		int			low = hex_digit(text[i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i / 2] = high << 4 | low;
	}
	return true;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool
is_ascii(const char *text, size_t len)
{
	unsigned char all = 0;

	for (size_t i = 0; i < len; i++)
		all |= (unsigned char) text[i];
	return all < 0x80;
}

static bool
is_one_case(const char *text, size_t len)
{
	bool		lower = false;
	bool		upper = false;

	for (size_t i = 0; i < len; i++)
	{
		lower |= text[i] >= 'a';
		upper |= text[i] >= 'A' && text[i] <= 'Z';
	}
	return !lower || !upper;
}

/*
 * kr_aes_gcm.h
 *	  AES-256-GCM, and the values "iv:authTag:ciphertext" that Node programs
 *	  write with it.
 */
#ifndef KR_AES_GCM_H
#define KR_AES_GCM_H

#include <stdbool.h>
#include <stddef.h>

#define KR_AES_KEY_BYTES 32
#define KR_AES_TAG_BYTES 16
#define KR_AES_IV_SHORT 12
#define KR_AES_IV_LONG 16

/* What is larger is a document and wants other means. */
#define KR_AES_MAX (64 * 1024 * 1024)

typedef enum KrAesEncoding
{
	KR_AES_HEX,
	KR_AES_BASE64
} KrAesEncoding;

/* A value taken apart; body points into the text. */
typedef struct KrAesValue
{
	KrAesEncoding encoding;
	unsigned char iv[KR_AES_IV_LONG];
	size_t		iv_len;			/* KR_AES_IV_SHORT or KR_AES_IV_LONG */
	unsigned char tag[KR_AES_TAG_BYTES];
	const char *body;			/* the ciphertext, encoded */
	size_t		body_len;
	size_t		len;			/* of the ciphertext in bytes */
} KrAesValue;

/*
 * False where text is not of this form: three fields in the same encoding.
 * kr_aes_gcm_body() then decodes the ciphertext, value->len bytes.
 */
extern bool kr_aes_gcm_parse(const char *text, size_t len, KrAesValue *value);
extern bool kr_aes_gcm_body(const KrAesValue *value, unsigned char *bytes);

/* The other way round; body is len bytes, text has room for this many and a NUL. */
extern size_t kr_aes_gcm_text_len(KrAesEncoding encoding, size_t iv_len, size_t len);
extern void kr_aes_gcm_print(const KrAesValue *value, const unsigned char *body,
							 char *text);

/*
 * In place: bytes becomes ciphertext or plaintext of the same length. False
 * where OpenSSL cannot do it or, opening, where anything was altered; bytes
 * then holds zeros.
 */
extern bool kr_aes_gcm_seal(const unsigned char *key,
							const unsigned char *iv, size_t iv_len,
							unsigned char *bytes, size_t len, unsigned char *tag);
extern bool kr_aes_gcm_open(const unsigned char *key,
							const unsigned char *iv, size_t iv_len,
							unsigned char *bytes, size_t len, const unsigned char *tag);

/* 64 hexadecimal digits. */
extern bool kr_aes_gcm_key(const char *text, size_t len, unsigned char *key);

#endif							/* KR_AES_GCM_H */

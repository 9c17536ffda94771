/*
 * kr_vault_bundle.c
 *	  What export and import of a tenant's secrets have in common: how the parts
 *	  of a bundle are bound to one another.
 *
 * No state and no transaction; all of it in the caller's memory context.
 */
#include "postgres.h"

#include <sodium.h>

#include "kr_compat.h"
#include "kr_vault_bundle.h"
#include "kr_vault_int.h"

#define KR_VERSION_AAD_PREFIX "kessel.bundle"
#define KR_DIGEST_AAD_PREFIX "kessel.bundle.check"

static unsigned char *put_number(unsigned char *p, uint32 number);

void
kr_bundle_digest_begin(KrBundleDigest *digest)
{
	crypto_generichash_init(&digest->state, NULL, 0, KR_BUNDLE_DIGEST_BYTES);
}

/* Its length in front: no two sequences of texts give the same bytes. */
void
kr_bundle_digest_text(KrBundleDigest *digest, const char *text, size_t len)
{
	size_t		utf8_len = len;
	char	   *utf8;

	if (text == NULL)
	{
		kr_bundle_digest_number(digest, PG_UINT32_MAX);
		return;
	}
	utf8 = len > 0 ? kr_vault_to_utf8(text, &utf8_len) : unconstify(char *, text);
	kr_bundle_digest_number(digest, (uint32) utf8_len);
	crypto_generichash_update(&digest->state, (unsigned char *) utf8, utf8_len);
	if (utf8 != text)
		pfree(utf8);
}

void
kr_bundle_digest_string(KrBundleDigest *digest, const char *string)
{
	kr_bundle_digest_text(digest, string, string ? strlen(string) : 0);
}

void
kr_bundle_digest_number(KrBundleDigest *digest, uint32 number)
{
	unsigned char bytes[4];

	put_number(bytes, number);
	crypto_generichash_update(&digest->state, bytes, sizeof(bytes));
}

void
kr_bundle_digest_end(KrBundleDigest *digest, unsigned char *hash)
{
	crypto_generichash_final(&digest->state, hash, KR_BUNDLE_DIGEST_BYTES);
}

/* Parts of fixed length first, the name last. */
unsigned char *
kr_bundle_version_aad(const pg_uuid_t *tenant_id, const pg_uuid_t *secret_id,
					  int32 version, const char *name, size_t *len)
{
	size_t		name_len = name ? strlen(name) : 0;
	char	   *utf8 = name_len > 0 ? kr_vault_to_utf8(name, &name_len) : NULL;
	unsigned char *aad = palloc(sizeof(KR_VERSION_AAD_PREFIX) + 1 + 2 * UUID_LEN + 4 + 1 + name_len);
	unsigned char *p = aad;

	memcpy(p, KR_VERSION_AAD_PREFIX, sizeof(KR_VERSION_AAD_PREFIX));
	p += sizeof(KR_VERSION_AAD_PREFIX);
	*p++ = KR_BUNDLE_VERSION;
	memcpy(p, tenant_id->data, UUID_LEN);
	p += UUID_LEN;
	memcpy(p, secret_id->data, UUID_LEN);
	p += UUID_LEN;
	p = put_number(p, (uint32) version);
	*p++ = name ? 1 : 0;
	if (name_len > 0)
		memcpy(p, utf8, name_len);
	p += name_len;

	*len = p - aad;
	return aad;
}

unsigned char *
kr_bundle_digest_aad(const pg_uuid_t *tenant_id, size_t *len)
{
	unsigned char *aad = palloc(sizeof(KR_DIGEST_AAD_PREFIX) + 1 + UUID_LEN);
	unsigned char *p = aad;

	memcpy(p, KR_DIGEST_AAD_PREFIX, sizeof(KR_DIGEST_AAD_PREFIX));
	p += sizeof(KR_DIGEST_AAD_PREFIX);
	*p++ = KR_BUNDLE_VERSION;
	memcpy(p, tenant_id->data, UUID_LEN);
	p += UUID_LEN;

	*len = p - aad;
	return aad;
}

char *
kr_bundle_base64(const unsigned char *bytes, size_t nbytes, size_t *len)
{
	size_t		room = KR_BASE64_LEN(nbytes);
	char	   *text = palloc(room);

	(void) sodium_bin2base64(text, room, bytes, nbytes, sodium_base64_VARIANT_ORIGINAL);
	*len = room - 1;
	return text;
}

bool
kr_bundle_unbase64(const char *text, size_t len, unsigned char *bytes, size_t room,
				   size_t *nbytes)
{
	const char *end;

	/* libsodium 1.0.18 reads some bytes beyond ASCII as digits */
	for (size_t i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(text[i]))
			return false;
	}
	return sodium_base642bin(bytes, room, text, len, NULL, nbytes, &end,
							 sodium_base64_VARIANT_ORIGINAL) == 0 &&
		end == text + len;
}

static unsigned char *
put_number(unsigned char *p, uint32 number)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		*p++ = number >> shift & 0xff;
	return p;
}

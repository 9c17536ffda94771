/*
 * vault_loop.c
 *	  What the vault's cryptography costs by itself: the same calls of
 *	  libsodium in a loop, for one value of 100 bytes.
 *
 *	  vault_loop open|seal protect|plain SECONDS
 *
 * prints nanoseconds of one round, of the processor's time. A round unwraps a data key by a root key and
 * opens or seals with it, and wipes it; "protect" also opens and closes the
 * page that both are in, as the keyring does. Built by bench.pl.
 *
 * Links with: src/vault/kr_aead.c src/vault/kr_locked.c -lsodium
 */
#include "postgres.h"

#include <sodium.h>
#include <stdio.h>
#include <time.h>

#include "kr_aead.h"
#include "kr_locked.h"

#undef printf

#define KEY_AAD_BYTES 46
#define VALUE_AAD_BYTES 70
#define VALUE_BYTES 100
#define BATCH 1000

typedef struct Page
{
	unsigned char root[8][KR_KEY_BYTES];
	unsigned char data[KR_KEY_BYTES];
} Page;

static Page *page;
static unsigned char key_aad[KEY_AAD_BYTES];
static unsigned char value_aad[VALUE_AAD_BYTES];
static unsigned char key_nonce[KR_NONCE_BYTES];
static unsigned char nonce[KR_NONCE_BYTES];
static unsigned char wrapped[KR_KEY_BYTES + KR_TAG_BYTES];
static unsigned char plain[VALUE_BYTES];
static unsigned char sealed[VALUE_BYTES + KR_TAG_BYTES];

static bool
round_trip(bool opens, bool protects)
{
	bool		ok;

	if (!opens)
		randombytes_buf(nonce, sizeof(nonce));
	if (protects)
		sodium_mprotect_readwrite(page);
	ok = kr_aead_open(page->data, wrapped, sizeof(wrapped), key_aad, sizeof(key_aad),
					  key_nonce, page->root[0]);
	if (ok && opens)
		ok = kr_aead_open(plain, sealed, sizeof(sealed), value_aad, sizeof(value_aad),
						  nonce, page->data);
	else if (ok)
		kr_aead_seal(sealed, plain, sizeof(plain), value_aad, sizeof(value_aad),
					 nonce, page->data);
	sodium_memzero(page->data, sizeof(page->data));
	if (protects)
		sodium_mprotect_noaccess(page);
	return ok;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	bool		opens;
	bool		protects;
	double		start;
	double		end;
	long		rounds = 0;

	if (argc != 4 || sodium_init() < 0)
		return 2;
	opens = strcmp(argv[1], "open") == 0;
	protects = strcmp(argv[2], "protect") == 0;

	page = kr_locked_new(sizeof(*page), NULL);
	randombytes_buf(page->root, sizeof(page->root));
	randombytes_buf(page->data, sizeof(page->data));
	kr_aead_seal(wrapped, page->data, sizeof(page->data), key_aad, sizeof(key_aad),
				 key_nonce, page->root[0]);
	if (!round_trip(false, false))
		return 1;
	if (protects)
		sodium_mprotect_noaccess(page);

	start = now();
	do
	{
		for (int i = 0; i < BATCH; i++)
		{
			if (!round_trip(opens, protects))
				return 1;
		}
		rounds += BATCH;
		end = now();
	} while (end - start < atof(argv[3]));
	printf("%.0f\n", (end - start) * 1e9 / rounds);
	return 0;
}

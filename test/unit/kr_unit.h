/*
 * kr_unit.h
 *	  TAP for the programs of test/unit.
 *
 * A program is one file that includes this one and whose head says what it is
 * linked with, sources of the extension that call nothing of the server's, and
 * libraries:
 *
 *	  Links with: src/vault/kr_aead.c -lsodium
 *
 * test/lib/unit_program builds and runs it. main() returns tap_done().
 */
#ifndef KR_UNIT_H
#define KR_UNIT_H

#include "postgres.h"

#include <stdio.h>

/* postgres.h has the server's own in their place */
#undef printf
#undef vprintf

static int	tap_number = 0;
static int	tap_failed = 0;

static inline void
ok(bool passed, const char *name)
{
	tap_failed += !passed;
	printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_number, name);
}

static inline void
same_bytes(const void *got, const void *expected, size_t len, const char *name)
{
	ok(memcmp(got, expected, len) == 0, name);
}

static inline void
skip(const char *name, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tap_number, name, why);
}

/* Bytes written in hexadecimal; returns how many. */
static inline size_t
unhex(const char *hex, unsigned char *out)
{
	size_t		len = 0;

	for (; hex[0] != '\0'; hex += 2)
	{
		unsigned	byte;

		if (sscanf(hex, "%2x", &byte) != 1)
			return 0;
		out[len++] = byte;
	}
	return len;
}

static inline int
tap_done(void)
{
	printf("1..%d\n", tap_number);
	return tap_failed == 0 ? 0 : 1;
}

#endif							/* KR_UNIT_H */

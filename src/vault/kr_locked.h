/*
 * kr_locked.h
 *	  Memory for keys and plaintext.
 */
#ifndef KR_LOCKED_H
#define KR_LOCKED_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Bytes that end at a guard page, or NULL if there is no memory. What is small
 * comes from pages that the backend keeps; freeing wipes it.
 */
extern void *kr_locked_alloc(size_t size);
extern void kr_locked_free(void *memory);

/*
 * Pages of their own, for sodium_mprotect_*() and sodium_free(). *locked tells
 * whether the kernel keeps them out of swap.
 */
extern void *kr_locked_new(size_t size, bool *locked);

#endif							/* KR_LOCKED_H */

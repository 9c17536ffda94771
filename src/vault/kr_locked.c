/*
 * kr_locked.c
 *	  Memory for keys and plaintext.
 *
 * sodium_malloc(): locked, left out of core dumps, between guard pages, wiped
 * when freed; and here also wiped in a child after fork(), so that nothing that
 * a backend starts inherits it.
 *
 * Locking and unlocking pages takes ten times as long as opening a secret, so
 * up to KR_LOCKED_SLOTS pages are kept when they are freed, wiped and
 * inaccessible, for the life of the backend. With the keyring's page that stays
 * below the 64 kB that a process may lock on any Linux. What is larger than a
 * page, or is needed when all are taken, gets pages for itself.
 *
 * Called by the vault. Nothing in here throws; what is allocated has an owner
 * who frees it, see new_secret() in kr_vault.c.
 */
#include "postgres.h"

#include <sodium.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kr_locked.h"

#define KR_LOCKED_SLOTS 8

/* With libsodium's canary of 16 bytes it is one page, where pages have 4 kB. */
#define KR_LOCKED_SLOT_BYTES 4080

typedef struct LockedSlot
{
	unsigned char *page;		/* KR_LOCKED_SLOT_BYTES, NULL till first used */
	size_t		used;			/* how many at its end; 0: free, inaccessible */
} LockedSlot;

static LockedSlot slots[KR_LOCKED_SLOTS];

static LockedSlot *free_slot(void);
static LockedSlot *slot_of(const void *memory);

void *
kr_locked_alloc(size_t size)
{
	LockedSlot *slot = size > 0 && size <= KR_LOCKED_SLOT_BYTES ? free_slot() : NULL;

	if (slot == NULL)
		return kr_locked_new(size, NULL);

	if (slot->page == NULL)
		slot->page = kr_locked_new(KR_LOCKED_SLOT_BYTES, NULL);
	else if (sodium_mprotect_readwrite(slot->page) != 0)
		return NULL;
	if (slot->page == NULL)
		return NULL;
	slot->used = size;
	return slot->page + KR_LOCKED_SLOT_BYTES - size;
}

void
kr_locked_free(void *memory)
{
	LockedSlot *slot = slot_of(memory);

	if (slot == NULL)
	{
		sodium_free(memory);	/* of NULL: nothing */
		return;
	}
	sodium_memzero(memory, slot->used);
	slot->used = 0;
	sodium_mprotect_noaccess(slot->page);
}

/*
 * sodium_malloc() goes on without a word where the kernel refuses to lock, so
 * it is asked again.
 */
void *
kr_locked_new(size_t size, bool *locked)
{
	uintptr_t	page_size = (uintptr_t) sysconf(_SC_PAGESIZE);
	void	   *memory = sodium_malloc(size);
	uintptr_t	start = (uintptr_t) memory & ~(page_size - 1);
	uintptr_t	end = ((uintptr_t) memory + size + page_size - 1) & ~(page_size - 1);
	bool		done;

	if (memory == NULL)
		return NULL;

#ifdef MADV_WIPEONFORK
	(void) madvise((void *) start, end - start, MADV_WIPEONFORK);
#elif defined(MADV_DONTFORK)
	(void) madvise((void *) start, end - start, MADV_DONTFORK);
#endif
	done = mlock((void *) start, end - start) == 0;
	if (locked != NULL)
		*locked = done;
	return memory;
}

static LockedSlot *
free_slot(void)
{
	for (int i = 0; i < KR_LOCKED_SLOTS; i++)
	{
		if (slots[i].used == 0)
			return &slots[i];
	}
	return NULL;
}

static LockedSlot *
slot_of(const void *memory)
{
	const unsigned char *p = memory;

	for (int i = 0; i < KR_LOCKED_SLOTS; i++)
	{
		if (slots[i].used > 0 && p >= slots[i].page &&
			p < slots[i].page + KR_LOCKED_SLOT_BYTES)
			return &slots[i];
	}
	return NULL;
}

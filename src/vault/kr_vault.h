/*
 * kr_vault.h
 *	  Sealing secrets before they reach a table, and opening them.
 *
 * A secret is opened into locked memory that is wiped when it is closed or
 * when the memory context that was current at opening goes away, whichever
 * comes first; an error in between leaks nothing.
 */
#ifndef KR_VAULT_H
#define KR_VAULT_H

#include "postgres.h"

#include "utils/uuid.h"

typedef struct KrSecret
{
	char	   *value;			/* NUL-terminated, in sodium_malloc()ed memory */
	size_t		len;			/* without the NUL */
} KrSecret;

/*
 * Open the newest version of a secret. purpose ("route", "test", "owner" ...)
 * tells why. Runs SPI with the extension owner's rights, so it needs a
 * transaction. Errors: KR010 sealed, KR011 cannot be opened, 02000 no such row.
 */
extern KrSecret *kr_vault_open(const pg_uuid_t *secret_id, const char *purpose);
extern void kr_vault_close(KrSecret *secret);

/*
 * Seal a value and store it: a new secret where *secret_id is all zeros (its
 * id is put there), else a new version of that one. tenant_id is NULL for what
 * belongs to no tenant; name may be NULL.
 */
extern void kr_vault_store(pg_uuid_t *secret_id, const char *value, size_t len,
						   const pg_uuid_t *tenant_id, const char *name,
						   const char *description);

extern void kr_vault_init(void);

#endif							/* KR_VAULT_H */

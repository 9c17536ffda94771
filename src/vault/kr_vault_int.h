/*
 * kr_vault_int.h
 *	  What the vault's SQL functions need of its inside.
 */
#ifndef KR_VAULT_INT_H
#define KR_VAULT_INT_H

#include "postgres.h"

#include "kr_vault.h"
#include "kr_vault_rows.h"

/* First byte of a sealed secret; no text begins with it. */
#define KR_SECRET_FORMAT 1

/* No secret is larger; what is larger is a document and wants other means. */
#define KR_SECRET_MAX (1024 * 1024)

/* Shown in pg_stat_activity instead of a statement that carries a secret. */
#define KR_VAULT_LABEL "<vault: statement with a secret>"

typedef enum KrOpenResult
{
	KR_OPEN_OK,
	KR_OPEN_SEALED,				/* the keyring has not the root key it takes */
	KR_OPEN_NO_KEY,				/* the data key is missing or was destroyed */
	KR_OPEN_ALTERED
} KrOpenResult;

/* Never throws for a row that cannot be opened; *secret is set if it can. */
extern KrOpenResult kr_vault_open_row(const KrSecretRow *row, KrSecret **secret);

/*
 * Records how an open has ended, before plaintext or an error goes out; gather
 * for opens that come row by row.
 */
extern void kr_vault_record_open(const KrSecretRow *row, const char *purpose,
								 KrOpenResult result, bool gather);

/*
 * key_id may be NULL: the tenant's active key. With a key and no tenant the
 * secret belongs to the key's. In an update NULL leaves things as they are.
 */
extern void kr_vault_insert(const pg_uuid_t *id, const char *value, size_t len,
							const pg_uuid_t *tenant_id, const pg_uuid_t *key_id,
							const char *name, const char *description);
extern void kr_vault_update(const pg_uuid_t *id, const char *value, size_t len,
							const pg_uuid_t *key_id, const char *name,
							const char *description);
extern bool kr_vault_remove(const pg_uuid_t *id);
extern void kr_vault_new_id(pg_uuid_t *id);

#endif							/* KR_VAULT_INT_H */

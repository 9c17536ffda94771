/*
 * kr_vault_rows.h
 *	  Reading and writing vault.secrets and vault.keys; for the vault alone.
 */
#ifndef KR_VAULT_ROWS_H
#define KR_VAULT_ROWS_H

#include "postgres.h"

#include "utils/array.h"
#include "utils/uuid.h"

#include "kr_keyring.h"

/* A row of vault.secrets with the key that it is sealed under. */
typedef struct KrSecretRow
{
	pg_uuid_t	id;
	char	   *name;			/* NULL: it has none */
	int32		version;
	bool		has_tenant;
	pg_uuid_t	tenant_id;
	pg_uuid_t	key_id;
	bytea	   *sealed;
	bytea	   *nonce;
	bool		has_key;		/* key is there and not destroyed */
	KrDataKey	key;			/* if has_key */
} KrSecretRow;

/*
 * All are called between kr_spi_begin() and kr_spi_end(). What they return
 * lives in SPI's memory, till the end.
 */
extern bool kr_rows_read_secret(const pg_uuid_t *id, KrSecretRow *row);
extern bool kr_rows_lock_secret(const pg_uuid_t *id, KrSecretRow *row);
extern void kr_rows_insert_secret(const KrSecretRow *row, const char *description);
extern void kr_rows_update_secret(const KrSecretRow *row, const char *description);
extern void kr_rows_describe_secret(const pg_uuid_t *id, const char *description);
extern bool kr_rows_delete_secret(const pg_uuid_t *id);

/* tenant_id is NULL for what belongs to no tenant. */
extern bool kr_rows_active_key(const pg_uuid_t *tenant_id, KrDataKey *key);
extern bool kr_rows_active_key_by_id(const pg_uuid_t *id, KrDataKey *key);
extern void kr_rows_insert_key(const KrDataKey *key);

/* A root key other than this one that some data key is wrapped by, or NULL. */
extern char *kr_rows_other_root_key(const char *root_key_id);
extern ArrayType *kr_rows_other_root_keys(const char *root_key_id);

#endif							/* KR_VAULT_ROWS_H */

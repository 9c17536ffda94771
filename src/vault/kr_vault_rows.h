/*
 * kr_vault_rows.h
 *	  Reading and writing vault.secrets, its former versions and vault.keys;
 *	  for the vault alone.
 */
#ifndef KR_VAULT_ROWS_H
#define KR_VAULT_ROWS_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_keyring.h"

/* A version of a secret with the key that it is sealed under. */
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
	TimestampTz expires_at;		/* DT_NOEND: never */
	bool		has_key;		/* key is there and not destroyed */
	KrDataKey	key;			/* if has_key */
} KrSecretRow;

/* What stands beside a secret; NULL leaves it as it is. */
typedef struct KrSecretNotes
{
	const char *description;
	const Jsonb *tags;
	const TimestampTz *expires_at;	/* DT_NOEND: never */
} KrSecretNotes;

/*
 * All are called between kr_spi_begin() and kr_spi_end(). What they return
 * lives in SPI's memory, till the end. version 0 is the current one.
 */
extern bool kr_rows_read_secret(const pg_uuid_t *id, int32 version, KrSecretRow *row);
extern bool kr_rows_lock_secret(const pg_uuid_t *id, KrSecretRow *row);
extern bool kr_rows_find_secret(const char *name_or_id, pg_uuid_t *id, int32 *version);
extern void kr_rows_insert_secret(const KrSecretRow *row, const KrSecretNotes *notes);
extern void kr_rows_note_secret(const pg_uuid_t *id, const KrSecretNotes *notes);
extern bool kr_rows_delete_secret(const pg_uuid_t *id);

/* Replace the locked row by a later version; the one that was is kept. */
extern void kr_rows_update_secret(const KrSecretRow *row, int keep_versions);

/* The same version under another key. */
extern void kr_rows_reseal_secret(const KrSecretRow *row, bool is_former);

/* tenant_id is NULL for what belongs to no tenant; the key's row is locked. */
extern bool kr_rows_active_key(const pg_uuid_t *tenant_id, KrDataKey *key);
extern bool kr_rows_active_key_by_id(const pg_uuid_t *id, KrDataKey *key);
extern void kr_rows_insert_key(const KrDataKey *key);

/* The ids of all root keys that some data key is wrapped by, as strings. */
extern List *kr_rows_root_keys(void);

#endif							/* KR_VAULT_ROWS_H */

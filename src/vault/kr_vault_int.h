/*
 * kr_vault_int.h
 *	  What the files of the vault show each other.
 */
#ifndef KR_VAULT_INT_H
#define KR_VAULT_INT_H

#include "postgres.h"

#include "kr_compat.h"
#include "kr_vault.h"
#include "kr_vault_rows.h"

/* First byte of a sealed secret; no text begins with it. */
#define KR_SECRET_FORMAT 1

/* No secret is larger; what is larger is a document and wants other means. */
#define KR_SECRET_MAX (1024 * 1024)

/* Shown in pg_stat_activity instead of a statement that carries a secret. */
#define KR_VAULT_LABEL "<vault: statement with a secret>"

/* ---------- kr_vault_seal.c: between a row and its plaintext ---------- */

typedef enum KrOpenResult
{
	KR_OPEN_OK,
	KR_OPEN_SEALED,				/* the keyring has not the root key it takes */
	KR_OPEN_NO_KEY,				/* the data key is missing or was destroyed */
	KR_OPEN_EXPIRED,
	KR_OPEN_ALTERED,
	KR_OPEN_UNREPRESENTABLE		/* in the database's encoding */
} KrOpenResult;

/* Neither throws for a row that cannot be opened; *secret or *value is set if it can. */
extern KrOpenResult kr_vault_open_row(const KrSecretRow *row, KrSecret **secret);
extern KrOpenResult kr_vault_open_row_text(const KrSecretRow *row, text **value);

/*
 * The same, whether or not it has expired, and only to see if it opens: nothing
 * of it is kept.
 */
extern KrOpenResult kr_vault_check_row(const KrSecretRow *row);

/* For people and the audit: what is wrong, in a few words; NULL for KR_OPEN_OK. */
extern const char *kr_vault_reason(KrOpenResult result);
extern int	kr_vault_sqlstate(KrOpenResult result);

/* Fill in key_id, nonce and sealed of a row that has all the rest. */
extern void kr_vault_seal_row(KrSecretRow *row, const char *value, size_t len);

extern KrSecret *kr_vault_new_secret(size_t len);

/* ---------- kr_vault_utf8.c: what is sealed is UTF-8 ---------- */

/* Is the database's encoding another one, and one at all? */
extern bool kr_vault_is_converting(void);

/* In the database's encoding. What was sealed in a database of encoding SQL_ASCII may be anything. */
extern bool kr_vault_is_valid(const char *value, size_t len);

/* value itself, or a copy that the caller wipes; *len is updated. */
extern char *kr_vault_to_utf8(const char *value, size_t *len);

/*
 * Valid UTF-8 in the database's encoding, with a zero byte at the end, into out, which
 * has room for MAX_CONVERSION_GROWTH times len and that. False where it cannot be had.
 */
extern bool kr_vault_convert_utf8(const char *utf8, size_t len, char *out);

/*
 * The same secret, or one in the database's encoding in its place; NULL, and
 * the secret closed, where it cannot be had in that.
 */
extern KrSecret *kr_vault_from_utf8(KrSecret *secret);

/* ---------- kr_vault.c: secrets ---------- */

/* What a call asks to be changed; NULL leaves things as they are. */
typedef struct KrSecretChange
{
	const char *value;
	size_t		len;
	const pg_uuid_t *key_id;	/* NULL: the key that is due */
	const char *name;
	KrSecretNotes notes;
} KrSecretChange;

/* With a key and no tenant the secret belongs to the key's. */
extern void kr_vault_insert(const pg_uuid_t *id, const pg_uuid_t *tenant_id,
							const KrSecretChange *change);
extern void kr_vault_update(const pg_uuid_t *id, const KrSecretChange *change);

/* Seal a former version again as the newest; its number. */
extern int32 kr_vault_roll_back(const pg_uuid_t *id, int32 version);
extern bool kr_vault_remove(const pg_uuid_t *id);
extern void kr_vault_new_id(pg_uuid_t *id);

/* version 0 is the current one. */
extern KrSecret *kr_vault_open_version(const pg_uuid_t *id, int32 version,
									   const char *purpose, Oid as_role);

/* Tell the audit of an opening, or an attempt; at once, or gathered in a scan. */
extern void kr_vault_record_open(const KrSecretRow *row, const char *purpose, Oid as_role,
								 KrOpenResult result, bool gather);

extern char *kr_vault_uuid_text(const pg_uuid_t *id);

/* ---------- kr_vault_keys.c: data keys ---------- */

/* The tenant's active key, locked; a new one where it has none. */
extern void kr_vault_key_for_sealing(const pg_uuid_t *tenant_id, KrDataKey *key);

/* A new one, which the caller stores. */
extern void kr_vault_new_key(const pg_uuid_t *tenant_id, KrKeyPurpose purpose,
							 KrDataKey *key);
extern void kr_vault_key_by_id(const pg_uuid_t *key_id, KrDataKey *key);

/* wanted is the fingerprint of the root key that would do, or NULL. */
extern void kr_vault_raise_sealed(const char *wanted) pg_attribute_noreturn();

/* ---------- kr_vault_grants.c ---------- */

/* Both privileges for the current user on what it has just stored. */
extern void kr_vault_grant_creator(const pg_uuid_t *secret_id);

#endif							/* KR_VAULT_INT_H */

/*
 * kr_vault.h
 *	  Sealing secrets before they reach a table, and opening them.
 */
#ifndef KR_VAULT_H
#define KR_VAULT_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * An open secret, wiped when it is closed or when the memory context that was
 * current at opening goes away, whichever comes first; an error in between
 * leaks nothing. Up to KR_SECRET_LOCKED_MAX bytes it lies in locked memory of
 * kr_locked_alloc().
 */
typedef struct KrSecret
{
	char	   *value;			/* NUL-terminated */
	size_t		len;			/* without the NUL */
} KrSecret;

/* Credentials are shorter; with it a backend's locked memory is bounded. */
#define KR_SECRET_LOCKED_MAX (16 * 1024)

typedef enum KrPrivilege
{
	KR_PRIVILEGE_USE,			/* have it opened for a connection or a computation */
	KR_PRIVILEGE_REVEAL			/* read it */
} KrPrivilege;

/*
 * Open the newest version of a secret. purpose ("route", "test", "owner" ...)
 * tells why, and as_role whose privilege was asked for if not that of the
 * session's role (else InvalidOid), both for the audit. Whether the caller may is asked before, by
 * kr_vault_demand(). Runs SPI with the extension owner's rights, so it needs a
 * transaction. Errors: KR010 sealed, KR011 cannot be opened, KR012 expired,
 * 02000 no such row.
 */
extern KrSecret *kr_vault_open(const pg_uuid_t *secret_id, const char *purpose,
							   Oid as_role);
extern void kr_vault_close(KrSecret *secret);

/*
 * Seal a value and store it: a new secret where *secret_id is all zeros (its
 * id is put there), else a new version of that one. tenant_id is NULL for what
 * belongs to no tenant; name may be NULL. Nobody is granted anything.
 */
extern void kr_vault_store(pg_uuid_t *secret_id, const char *value, size_t len,
						   const pg_uuid_t *tenant_id, const char *name,
						   const char *description);

/* The secret with this id or name and its newest version; false: there is none. */
extern bool kr_vault_find(const char *name_or_id, pg_uuid_t *secret_id, int32 *version);

/*
 * Does the role have the privilege on the secret? Superusers and the owner of
 * the vault's tables always have. The answer is cached until a grant or a role
 * changes. kr_vault_demand() raises 42501 where it has not, and records that;
 * what tells people what the secret is, NULL: its id; secret_id may be NULL for
 * one that is not there, which nobody has.
 */
extern bool kr_vault_may(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege);
extern void kr_vault_demand(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege,
							const char *purpose, const char *what);

/*
 * The secret with this id or name, if the role has the privilege on it. Errors:
 * 42501 it has not, or there is none, which look the same;
 * 02000 there is none, for who has the privilege on all.
 */
extern void kr_vault_require(const char *name_or_id, Oid role, KrPrivilege privilege,
							 const char *purpose, pg_uuid_t *secret_id);

/* role_name is a role's name or "public". */
extern void kr_vault_grant(const pg_uuid_t *secret_id, const char *role_name,
						   KrPrivilege privilege);

extern void kr_vault_init(void);

#endif							/* KR_VAULT_H */

/*
 * kr_vault_value.h
 *	  Sealed values for columns of users' own tables.
 *
 * A value is bound to a tenant, to a context that the caller names, and to its
 * type; it is opened with the data key that its header names.
 */
#ifndef KR_VAULT_VALUE_H
#define KR_VAULT_VALUE_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KrValueType
{
	KR_VALUE_TEXT = 't',
	KR_VALUE_JSONB = 'j'		/* as text */
} KrValueType;

/* What is larger is a document and wants other means. */
#define KR_VALUE_MAX (64 * 1024 * 1024)

/*
 * context is not NULL. Errors of all three: KR010 the vault is sealed, KR011
 * cannot be opened, 25006 where the tenant's first key would have to be stored
 * and cannot. plain is in the database's encoding, and so is what comes out.
 */
extern bytea *kr_vault_value_seal(const pg_uuid_t *tenant_id, KrValueType type,
								  const char *plain, size_t len,
								  const text *context);
extern text *kr_vault_value_open(const pg_uuid_t *tenant_id, const bytea *sealed,
								 const text *context, KrValueType *type);

/* The same value under the tenant's active key; sealed itself if it is already. */
extern bytea *kr_vault_value_reseal(const pg_uuid_t *tenant_id, bytea *sealed,
									const text *context);

/*
 * A text that holds plaintext in UTF-8: itself, or one in the database's
 * encoding in its place. Where it is no text there, an error that tells nothing
 * of it; it is wiped then.
 */
extern text *kr_vault_value_text(text *utf8);

/* A copy of a text in UTF-8, which the caller wipes. */
extern unsigned char *kr_vault_value_utf8(const text *plain, size_t *len);

#endif							/* KR_VAULT_VALUE_H */

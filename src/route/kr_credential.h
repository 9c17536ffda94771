/*
 * kr_credential.h
 *	  The rows of app.data_source_credentials: storing a password, and changing
 *	  it in steps of which each leaves one that works.
 */
#ifndef KR_CREDENTIAL_H
#define KR_CREDENTIAL_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/uuid.h"

/*
 * A login of a data source. While its password is being changed, or where that
 * was interrupted, there is a pending one beside it, and either may be the one
 * that the data source knows.
 */
typedef struct KrCredential
{
	pg_uuid_t	source_id;
	char	   *source;			/* its name */
	char	   *purpose;
	char	   *username;
	bool		has_secret;
	pg_uuid_t	secret_id;
	bool		has_pending;
	pg_uuid_t	pending_id;

	/* In a list: sends the password of the first one nowhere else than that does. */
	bool		may_get;
	bool		may_lend;		/* the same the other way round */
} KrCredential;

/* What is sealed at this moment. */
typedef struct KrCredentialState
{
	int32		version;		/* of the secret; 0: there is none */
	bool		has_pending;
	pg_uuid_t	pending_id;
} KrCredentialState;

/*
 * What keeps others from changing the password of a role on a server. Locks are
 * for the transaction, or for the session until they are released.
 */
typedef struct KrCredentialLock
{
	char	   *username;
	int			nplaces;
	char	  **places;
	bool		session;
	int			held;			/* of the places, from the first on */
} KrCredentialLock;

/*
 * Seal a password (NULL: none is needed) and make it the credential of a
 * purpose. An earlier one is replaced, its secret and a pending one with it.
 * Waits for the end of a rotation. anew: for another host than before, which
 * must not come by a former version of the secret: it becomes another secret.
 */
extern void kr_credential_store(const pg_uuid_t *source_id, const char *purpose,
								const char *username, const char *password,
								bool anew);

/*
 * To the end of the transaction the data source leads where it does now and is
 * called this; where alter is false, others can store credentials meanwhile.
 * Locks the row, and is called before any lock on a login.
 */
extern void kr_credential_lock_source(const pg_uuid_t *source_id, const char *name, bool alter);

/* Wait for the end of rotations of a data source's logins, and let none begin. */
extern void kr_credential_hold(const pg_uuid_t *source_id);

/*
 * The credential, then those that log in as the same role on the same server.
 * NIL where the data source has none of this purpose. Fills in *lock, which is
 * not taken.
 */
extern List *kr_credential_same_login(const pg_uuid_t *source_id, const char *purpose,
									  KrCredentialLock *lock);

/* False where somebody else has it. */
extern bool kr_credential_lock(KrCredentialLock *lock, bool session);
extern void kr_credential_unlock(KrCredentialLock *lock);

/* Each under the lock, for all credentials in the list, which follows. */
extern void kr_credential_seal_pending(List *credentials, const char *password);
extern void kr_credential_promote(List *credentials, const char *password);
extern void kr_credential_drop_pending(KrCredential *credential);

extern KrCredentialState kr_credential_state(const pg_uuid_t *source_id,
											 const pg_uuid_t *secret_id);

#endif							/* KR_CREDENTIAL_H */

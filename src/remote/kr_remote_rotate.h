/*
 * kr_remote_rotate.h
 *	  Rotating a credential: what kr_remote_rotate.c, _session.c and _settle.c share.
 */
#ifndef KR_REMOTE_ROTATE_H
#define KR_REMOTE_ROTATE_H

#include "postgres.h"

#include "libpq-fe.h"
#include "utils/uuid.h"

#include "kr_credential.h"
#include "kr_remote_internal.h"

/* In the memory of the procedure, across its transactions. */
typedef struct KrRotation
{
	pg_uuid_t	source_id;
	char	   *source;			/* name */
	char	   *purpose;
	const char *step;			/* for the context of errors */
	List	   *credentials;	/* the one that is meant, then those of the same login */
	KrCredentialLock lock;
	PGconn	   *volatile pg;	/* the session that changes the password */
	char	   *password;		/* sodium_malloc()ed */
	char	   *reason;			/* what the data source, or libpq, has said last */
	bool		refused;		/* the last login: for its password */
} KrRotation;

static inline KrCredential *
kr_rotation_subject(const KrRotation *rotation)
{
	return linitial(rotation->credentials);
}

static inline const KrSource *
kr_rotation_source(const KrRotation *rotation)
{
	return kr_source_by_id(&rotation->source_id, rotation->purpose);
}

/* ---------- kr_remote_rotate.c ---------- */

/* The newest state of the rows, under the lock. */
extern void kr_rotation_refresh(KrRotation *rotation);
extern bool kr_rotation_any_pending(const KrRotation *rotation);

/*
 * One of the same login that would send the new password to where the one that
 * is rotated does not, or NULL. Whoever has made it could read it there.
 */
extern const KrCredential *kr_rotation_find_stranger(const KrRotation *rotation);
extern void kr_rotation_refuse_pooler(const KrRotation *rotation);

/* ---------- kr_remote_rotate_session.c ---------- */

/* The session in which the password will be changed, opened with the current one. */
extern void kr_rotation_open_session(KrRotation *rotation);
extern void kr_rotation_disconnect(KrRotation *rotation);

/*
 * The session's role takes this password. False, and rotation->reason, where the
 * data source refuses. A commit that is not flushed would be lost in a crash;
 * where somebody else is changing the role, this does not wait for long.
 */
extern bool kr_rotation_change_password(KrRotation *rotation, const char *password);

/* A login with what is sealed, which has to be what opens it; NULL where it does not. */
extern PGconn *kr_rotation_log_in(KrRotation *rotation, const pg_uuid_t *secret_id);

/* End the sessions of earlier attempts, and close the one that this is done from. */
extern void kr_rotation_end_sessions(const KrRotation *rotation, PGconn *pg);

/* ---------- kr_remote_rotate_settle.c ---------- */

typedef enum KrSettled
{
	KR_SETTLED_CURRENT,			/* the data source knows the current password */
	KR_SETTLED_PENDING,			/* it knew the pending one, which is the current one now */
	KR_NOT_SETTLED				/* neither opens it */
} KrSettled;

/*
 * Find out which password the role has, and forget the other. Everything is
 * proved by a login made after sessions of earlier attempts have ended.
 */
extern KrSettled kr_rotation_settle(KrRotation *rotation);
extern void kr_rotation_raise_not_settled(const KrRotation *rotation);

#endif							/* KR_REMOTE_ROTATE_H */

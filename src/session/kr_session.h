/*
 * kr_session.h
 *	  For which tenant and which user this session speaks.
 */
#ifndef KR_SESSION_H
#define KR_SESSION_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * The tenant that the session names: kessel.tenant, else the claims' tenant_id,
 * else their app_metadata.tenant_id; NULL where none is named. A slug or a
 * lowercase uuid. Valid until the next call. Error 22023 for malformed claims.
 */
extern const char *kr_session_tenant(void);

/* The claims' sub; false where there is none. Error 22023 where it is no uuid. */
extern bool kr_session_user_id(pg_uuid_t *user_id);

/*
 * The user that auth.uid() of the blueprint core names; false where it is NULL. Its
 * errors (22P02 and others of class 22) for malformed claims.
 */
extern bool kr_session_auth_uid(pg_uuid_t *user_id);

/*
 * The role whose memberships count: the one of SET ROLE or of the login, which
 * a SECURITY DEFINER function does not change.
 */
extern Oid	kr_session_role(void);

/*
 * True for superusers and for members of kessel_admin or kessel_service; as the
 * two below never during maintenance of a table (ANALYZE, REINDEX ...).
 */
extern bool kr_session_enters_any_tenant(void);

/* True for superusers and members of kessel_admin. */
extern bool kr_session_is_admin(void);

extern bool kr_session_is_superuser(void);

/* True where text is a uuid in its canonical lowercase form; fills *uuid. */
extern bool kr_session_parse_uuid(const char *text, pg_uuid_t *uuid);

extern void kr_session_init(void);

#endif							/* KR_SESSION_H */

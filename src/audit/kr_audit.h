/*
 * kr_audit.h
 *	  Recording who has opened which secret, and what else must leave a trace.
 *
 * A record outlives the transaction that it was made in: it goes into the
 * server's log at once and, where the library is preloaded, into shared memory,
 * from where a background worker writes it into app.audit_log. doc/audit.md
 * describes both.
 *
 * Nothing here throws for what it is given, and all of it may be called in a
 * read-only or aborted transaction, in recovery and in a parallel worker.
 */
#ifndef KR_AUDIT_H
#define KR_AUDIT_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * What has happened. Who, from where and when is added. The strings are short
 * constants of ours, never anything that a user has given: at most
 * KR_AUDIT_WORD - 1 bytes, what is longer is cut.
 */
typedef struct KrAuditEvent
{
	const char *action;			/* "open" for secrets; a verb */
	const char *purpose;		/* "route", "reveal", ...; may be NULL */
	const pg_uuid_t *tenant_id; /* may be NULL */
	const pg_uuid_t *secret_id; /* may be NULL */
	Oid			as_role;		/* whose privilege has counted; InvalidOid: the role's own */
	int32		version;		/* of the secret; 0: not known */
	bool		ok;
	int			sqlerrcode;		/* as of errcode(); 0 where ok */
	const char *reason;			/* why not, or NULL */
	uint64		count;			/* how often; 0 counts as 1 */
} KrAuditEvent;

#define KR_AUDIT_WORD 64

/*
 * Record it now: when this returns, the line is in the log. Call it before
 * plaintext is handed out, and before the error is raised where there is one.
 */
extern void kr_audit_record(const KrAuditEvent *event);

/*
 * The same for what comes row by row: events that differ only in secret,
 * version and tenant share a record, and those without a secret that differ in
 * nothing are counted. A record is written when it is full, at the end of the
 * client's statement or of the transaction, however that ends, and before
 * kr_audit_record() writes another.
 */
extern void kr_audit_gather(const KrAuditEvent *event);

/*
 * Who tells which user the session speaks for: false where it does not know.
 * It must not throw. Set once, by a module above this one.
 */
typedef bool (*KrAuditUserProvider) (pg_uuid_t *user_id);
extern void kr_audit_set_user_provider(KrAuditUserProvider provider);

extern void kr_audit_init(void);

#endif							/* KR_AUDIT_H */

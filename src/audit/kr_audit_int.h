/*
 * kr_audit_int.h
 *	  What the parts of the audit module share.
 */
#ifndef KR_AUDIT_INT_H
#define KR_AUDIT_INT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "kr_audit.h"

/*
 * Secrets in one record. So many that a record's line stays below 4096 bytes:
 * a longer one is not written in one piece where the log is a pipe.
 */
#define KR_AUDIT_SECRETS 32

/* A textual address without a zone. */
#define KR_AUDIT_ADDR 64

typedef struct KrAuditSecret
{
	pg_uuid_t	secret_id;
	pg_uuid_t	tenant_id;
	int32		version;		/* 0: not known */
	bool		has_tenant;
} KrAuditSecret;

/*
 * A record as it is logged and kept; no pointers. Where there are secrets, the
 * tenant stands with each of them and count is their number.
 */
typedef struct KrAuditRecord
{
	TimestampTz at;
	uint64		count;
	Oid			role;
	Oid			as_role;		/* InvalidOid: the role itself */
	int			pid;
	int			sqlerrcode;
	bool		ok;
	bool		has_user;
	bool		has_tenant;
	pg_uuid_t	user_id;
	pg_uuid_t	tenant_id;
	/* empty: NULL */
	char		action[KR_AUDIT_WORD];
	char		purpose[KR_AUDIT_WORD];
	char		reason[KR_AUDIT_WORD];
	char		role_name[NAMEDATALEN];
	char		login_role[NAMEDATALEN];
	char		as_role_name[NAMEDATALEN];
	char		application_name[NAMEDATALEN];
	char		client_addr[KR_AUDIT_ADDR];
	int			nsecrets;
	KrAuditSecret secrets[KR_AUDIT_SECRETS];
} KrAuditRecord;

/* kr_audit_who.c: fill in who, from where, and when. */
extern void kr_audit_who(KrAuditRecord *record, Oid as_role);
extern bool kr_audit_same_who(const KrAuditRecord *record, Oid as_role);
extern const char *kr_audit_database(void);

/* kr_audit_line.c: a record as one line of JSON, valid until the next call. */
extern const char *kr_audit_line(const KrAuditRecord *record);
extern const char *kr_audit_alert_line(const KrAuditRecord *alert);

/* kr_audit_alert.c: count it, and raise an alert where that is too much. */
extern void kr_audit_count(const KrAuditRecord *record);

enum
{
	KR_ALERT_REVEALS,
	KR_ALERT_FAILURES
};

/* What a record of an alert has as its action; its purpose is the kind. */
#define KR_ALERT_ACTION "alert"
#define KR_ALERT_CHANNEL "kessel_alerts"
#define KR_ALERT_SECONDS 60

#endif							/* KR_AUDIT_INT_H */

/*
 * kr_error.h
 *	  SQLSTATEs of our own, and keeping secrets out of the log.
 *
 * Class KR is in the range that the SQL standard leaves to implementations.
 */
#ifndef KR_ERROR_H
#define KR_ERROR_H

#include "postgres.h"

#include "kr_compat.h"

#define KR_ERR_NO_TENANT			MAKE_SQLSTATE('K', 'R', '0', '0', '1')
#define KR_ERR_UNKNOWN_TENANT		MAKE_SQLSTATE('K', 'R', '0', '0', '2')
#define KR_ERR_TENANT_SUSPENDED		MAKE_SQLSTATE('K', 'R', '0', '0', '3')
#define KR_ERR_STALE_ROUTE			MAKE_SQLSTATE('K', 'R', '0', '0', '4')	/* raised by the agent */
#define KR_ERR_NO_ROUTE				MAKE_SQLSTATE('K', 'R', '0', '0', '5')	/* source disabled, no credential, wrong schema */
#define KR_ERR_UNSAFE_SOURCE		MAKE_SQLSTATE('K', 'R', '0', '0', '6')	/* not safe for row isolation */
#define KR_ERR_NO_DATA_SOURCE		MAKE_SQLSTATE('K', 'R', '0', '0', '7')
#define KR_ERR_NO_AGENT				MAKE_SQLSTATE('K', 'R', '0', '0', '8')
#define KR_ERR_CROSS_TENANT_WRITE	MAKE_SQLSTATE('K', 'R', '0', '0', '9')
#define KR_ERR_VAULT_SEALED			MAKE_SQLSTATE('K', 'R', '0', '1', '0')	/* no root key, or the wrong one */
#define KR_ERR_VAULT_CANNOT_OPEN	MAKE_SQLSTATE('K', 'R', '0', '1', '1')	/* altered, or destroyed key */
#define KR_ERR_SECRET_EXPIRED		MAKE_SQLSTATE('K', 'R', '0', '1', '2')
#define KR_ERR_MIGRATION_FAILED		MAKE_SQLSTATE('K', 'R', '0', '1', '3')	/* in some of its targets */
#define KR_ERR_MIGRATION_UNKNOWN	MAKE_SQLSTATE('K', 'R', '0', '1', '4')	/* a target has what is not known here */

/*
 * From here to the end of the statement its text carries a secret: keep it out
 * of pg_stat_activity, and out of the log through kr_error_rethrow_hidden().
 * label, a string constant, is what pg_stat_activity shows instead; NULL leaves
 * it there, for a statement that only reads what messages must not quote.
 */
extern void kr_error_hide_statement(const char *label);

/*
 * The same before anything of it runs, for the statement whose text is known to
 * carry one. The label is a general one; the function puts its own there.
 */
extern void kr_error_hide_early(void);

/* Does the text name a function that is called with a secret? */
extern bool kr_error_carries_secret(const char *text);

/* In a PG_CATCH: rethrow the current error without statement text and context. */
extern void kr_error_rethrow_hidden(MemoryContext cxt) pg_attribute_noreturn();

/*
 * The formats of lines that the audit writes with errmsg_internal(), as
 * LOG_SERVER_ONLY. They hold no text of a statement and are logged whatever
 * statement runs. An alert is logged as a WARNING, which no client gets.
 */
#define KR_ERROR_AUDIT_FORMAT "kessel_audit: %s"
#define KR_ERROR_ALERT_FORMAT "kessel_alert: %s"

/*
 * A name that somebody gave, as messages quote it: one that is too long for a name
 * is cut, so that no log line or answer grows to its size.
 */
extern const char *kr_error_name(const char *name);

extern void kr_error_init(void);

#endif							/* KR_ERROR_H */

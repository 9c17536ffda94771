/*
 * kr_remote_pipeline.h
 *	  What sending (kr_remote_pipeline.c), reading (kr_remote_answer.c) and reading
 *	  without raising anything (kr_remote_resync.c) share.
 */
#ifndef KR_REMOTE_PIPELINE_H
#define KR_REMOTE_PIPELINE_H

#include "postgres.h"

#include "kr_remote_internal.h"

/* Whose answer is due next; NULL: all is answered. */
extern KrPending *kr_pending_head(KrConn *conn);
extern void kr_pending_pop(KrConn *conn);

/* ---------- kr_remote_answer.c ---------- */

/* The connection's result from now on; the one before is cleared. */
extern void kr_conn_set_result(KrConn *conn, PGresult *result);

extern bool kr_result_is_error(const PGresult *result);

/* More results of the same query follow. */
extern bool kr_result_is_partial(const PGresult *result);

/* A synchronisation point answers a sync and nothing else. */
extern bool kr_result_answers(const PGresult *result, const KrPending *head);

/* Before anything of it is read: deliver the rows of a query that is not wanted as they come. */
extern void kr_conn_begin_rows(KrConn *conn, KrPending *head);

/*
 * Every command's answer ends with a NULL, which is there at once; if it is not,
 * PQgetResult() would wait for it and let no interrupt through.
 */
extern bool kr_conn_has_terminator(KrConn *conn);

#endif							/* KR_REMOTE_PIPELINE_H */

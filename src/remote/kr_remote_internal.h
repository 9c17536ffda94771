/*
 * kr_remote_internal.h
 *	  What the files of src/remote share.
 */
#ifndef KR_REMOTE_INTERNAL_H
#define KR_REMOTE_INTERNAL_H

#include "postgres.h"

#include "lib/ilist.h"
#include "libpq-fe.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "kr_compat.h"
#include "kr_credential.h"
#include "kr_remote.h"
#include "kr_remote_dial.h"

/* How long cleaning up after an error may take, for each connection. */
#define KR_CLEANUP_TIMEOUT_MS 2000

/* So much earlier than the server we take an idle connection for closed. */
#define KR_IDLE_MARGIN_MS 1000

/*
 * Settings under which text means the same on both sides, as postgres_fdw has
 * them, and a query that is not in a transaction block sees what is committed.
 */
#define KR_SETTINGS(is_local) \
	"SELECT pg_catalog.set_config('search_path', 'pg_catalog', " is_local "), " \
	"pg_catalog.set_config('timezone', 'GMT', " is_local "), " \
	"pg_catalog.set_config('datestyle', 'ISO', " is_local "), " \
	"pg_catalog.set_config('intervalstyle', 'postgres', " is_local "), " \
	"pg_catalog.set_config('extra_float_digits', '3', " is_local "), " \
	"pg_catalog.set_config('default_transaction_isolation', 'read committed', " is_local ")"

/*
 * Should this backend be gone, its query must not run on. Not every system can be
 * asked for that, and where it cannot, setting it is an error. From 14 on.
 */
#define KR_CHECK_CLIENT \
	"SELECT pg_catalog.set_config('client_connection_check_interval', '5s', false) " \
	"WHERE pg_catalog.version() ~ 'linux'"

/* A backend that waits for its client cannot close what it does not use. From 14 on. */
#define KR_IDLE_TIMEOUT "SELECT pg_catalog.set_config('idle_session_timeout', $1, false)"

typedef enum KrPendingKind
{
	KR_PENDING_COMMAND,			/* transaction control; answers without interest */
	KR_PENDING_PREPARE,
	KR_PENDING_QUERY,
	KR_PENDING_SYNC
} KrPendingKind;

/* A statement that was prepared on a connection. */
typedef struct KrStatement
{
	dlist_node	node;			/* in KrConn.statements, newest use first */
	uint32		hash;
	bool		confirmed;		/* the server has said that it exists */
	bool		text_only;		/* its result has a type that we cannot read in binary form */
	char		name[24];
	char	   *sql;
} KrStatement;

/* Something sent whose answer has not been read. */
typedef struct KrPending
{
	KrPendingKind kind;
	bool		started;		/* query: reading its answer has begun */
	KrStatement *statement;		/* prepare, query */
	bool		was_prepared;	/* query: in an earlier transaction */
	bool		answered;		/* query: somebody has got a result of it */
	KrStream   *stream;			/* query: NULL if its rows are not wanted */
	const char *sql;			/* for error context */
} KrPending;

/*
 * A connection. In TopMemoryContext's child; every pointer in it is its own,
 * but for reader, writer and KrPending.stream, which the end of the transaction clears.
 */
struct KrConn
{
	dlist_node	node;			/* in the list of all connections */
	PGconn	   *pg;
	WaitEventSet *waits;
	PGresult   *result;			/* the one handed out last */
	MemoryContext cxt;

	/* whose it is */
	pg_uuid_t	source_id;
	uint64		stamp;
	Oid			serverid;		/* of a foreign server; InvalidOid: a data source */
	uint32		server_hash;	/* of it and the user mapping in the syscaches */
	uint32		mapping_hash;
	char	   *source_name;
	TimestampTz last_used;
	TimestampTz idle_limit;		/* the server may close it when it is idle at this time; 0: never */
	bool		ready;			/* the session's settings have been made */
	bool		pooled;			/* a transaction pooler: nothing may outlive a transaction there */
	char		named[NAMEDATALEN]; /* the tenant in the session's application_name; empty: none */

	/* the lease: valid while leased is true */
	bool		leased;
	bool		used;			/* a query was sent in this transaction */
	int			queries;		/* sent in the remote transaction, COPYs too */
	pg_uuid_t	tenant_id;
	char		tenant[NAMEDATALEN];	/* empty: none */
	char	   *enter;
	int64		epoch;
	int			depth;			/* remote nesting level; 0: no transaction block */
	bool		await_commit;	/* the local commit waits for the remote one */
	int			wrote_depth;	/* the outermost level that has written; 0: none */
	bool		withhold;		/* errors in this transaction must not repeat values */
	bool		failed;			/* the server has raised an error and skips to the sync */
	bool		committing;		/* a COMMIT that matters is unanswered */
	bool		broken;			/* lost or out of step: of no more use */
	bool		unwanted;		/* to be closed when the transaction ends */

	/* what is under way */
	KrPending  *pending;		/* ring buffer */
	int			pending_first;
	int			pending_count;
	int			pending_size;
	bool		unsynced;		/* something was queued after the last sync */
	KrStream   *reader;			/* the stream with outstanding results */
	KrWriter   *writer;			/* who keeps rows back; NULL: nobody */
	bool		copying;		/* in COPY, out of pipeline mode; nothing is pending */

	dlist_head	statements;
	int			nstatements;
	uint32		statement_counter;
};

/* kr_remote_connect.c */
extern PGconn *kr_remote_connect(const KrSource *source, const char *purpose);
extern PGconn *kr_remote_start(const KrSource *source, const char *purpose,
							   const pg_uuid_t *secret_id, const char *opened_for);

/*
 * One attempt with one password: PQstatus() tells whether it was let in. Errors
 * are raised for what has nothing to do with the password, as a timeout.
 */
extern PGconn *kr_remote_try(const KrSource *source, const char *purpose,
							 const pg_uuid_t *secret_id);
extern void kr_remote_check_password(PGconn *pg, const KrSource *source);

/*
 * One step of connecting, PQconnectPoll(), in bounded time. False when the
 * deadline has passed; then, and when an interrupt is raised, *pg is NULL, since
 * libpq is still at work on it.
 */
extern bool kr_remote_poll(PGconn *volatile *pg, TimestampTz deadline,
						   PostgresPollingStatusType *status);
extern bool kr_remote_leads_here(int fd);

/* Parts of it, for kr_remote_dial.c. */
extern const char *kr_remote_name_to_look_up(const KrSource *source);
extern bool kr_remote_has_one_host(const KrSource *source);
extern TimestampTz kr_remote_connect_deadline(const KrSource *source);
extern void kr_remote_check_where(PGconn *pg, const KrSource *source,
								  PostgresPollingStatusType status);
extern void kr_remote_forget_password(PGconn *pg);
extern void kr_remote_raise_timeout(const KrSource *source) pg_attribute_noreturn();
extern void kr_remote_raise_no_address(const KrSource *source, const char *hosts,
									   const char *reason) pg_attribute_noreturn();

/*
 * The password was refused: another one that may be the right one by now. tried
 * begins as {.version = source->secret_version}. False: there is none.
 */
extern bool kr_remote_next_secret(const KrSource *source, KrCredentialState *tried,
								  pg_uuid_t *secret_id);

/*
 * kr_remote_sql.c: statements on a connection of one's own. The last result;
 * an error there is raised, or returned as a result like others.
 */
extern PGresult *kr_remote_run(PGconn *pg, const char *source, const char *sql,
							   bool raise);
extern void kr_remote_close(PGconn *pg);

/* kr_remote_thread.c */
typedef void (*KrThreadFunction) (void *data);

typedef enum KrThreadResult
{
	KR_THREAD_NOT_STARTED,		/* none left, or too many left behind; data is the caller's */
	KR_THREAD_FINISHED,			/* data is the caller's again */
	KR_THREAD_LEFT_BEHIND		/* the deadline has passed; the thread will release data */
} KrThreadResult;

/*
 * Call run(data) on a thread of its own and wait for it until the deadline. data
 * is malloc'ed, and neither function uses anything of the server's. An interrupt
 * that is raised meanwhile leaves the thread behind, too.
 */
extern KrThreadResult kr_thread_run(KrThreadFunction run, KrThreadFunction release,
									void *data, TimestampTz deadline,
									bool interruptible);

/*
 * The same for who does not wait here. NULL where it could not be started, or so
 * many of this session's threads were left behind. Its file descriptor can be
 * read when it has finished. kr_job_end(): true when data is the caller's again,
 * false when the thread will release it.
 */
typedef struct KrJob KrJob;

extern KrJob *kr_job_start(KrThreadFunction run, KrThreadFunction release, void *data,
						   int max_left_behind);
extern int	kr_job_fd(const KrJob *job);
extern bool kr_job_end(KrJob *job);

/* kr_remote_resolve.c */
extern char *kr_remote_resolve(const char *host, TimestampTz deadline,
							   const char **reason);

/* The same as a job. kr_lookup_end() ends it: NULL when there is an address, else why not. */
typedef struct KrLookup KrLookup;

extern KrLookup *kr_lookup_start(const char *host);
extern int	kr_lookup_fd(const KrLookup *lookup);
extern const char *kr_lookup_end(KrLookup *lookup);

/* kr_remote_lease.c */
extern dlist_head *kr_conn_list(void);
extern void kr_conn_destroy(KrConn *conn);

/* Something is about to be written; KR009 where it may not be. */
extern void kr_conn_note_write(KrConn *conn);

/* kr_remote_xact.c: begin the remote transaction anew, with the next query */
extern void kr_conn_restart(KrConn *conn);

/* kr_remote_spare.c: connections that a fleet's work has left open */
typedef struct KrSpare
{
	dlist_node	node;			/* the one that was put away last comes first */
	PGconn	   *pg;
	pg_uuid_t	source_id;
	bool		is_owner;		/* one of both purposes is of no use to the other */
	uint64		stamp;
	char	   *source_name;
	TimestampTz last_used;
	TimestampTz idle_limit;		/* as KrConn's */
} KrSpare;

extern dlist_head *kr_spare_list(void);
extern int	kr_spare_close(const pg_uuid_t *source_id);	/* NULL: all; how many */

/* kr_remote_statements.c */
extern KrStatement *kr_statement_prepare(KrConn *conn, const char *sql, int nparams);
extern void kr_statement_forget_unconfirmed(KrConn *conn);

/* kr_remote_pipeline.c: sending */
extern void kr_conn_lost(KrConn *conn) pg_attribute_noreturn();
extern KrPending *kr_pending_push(KrConn *conn, KrPendingKind kind);
extern void kr_conn_command(KrConn *conn, const char *sql, int nparams,
							const char *const *values);
extern void kr_conn_sync(KrConn *conn);
extern void kr_conn_flush(KrConn *conn);
extern void kr_conn_park_reader(KrConn *conn);
extern bool kr_conn_wait_for_socket(KrConn *conn, bool flushing, TimestampTz deadline);
extern bool kr_conn_wait_for_result(KrConn *conn, TimestampTz deadline);
extern bool kr_conn_query_is_pending(const KrConn *conn);

/* kr_remote_answer.c: reading; what is wrong is raised */
extern void kr_conn_drain(KrConn *conn);
extern void kr_conn_await_commit(KrConn *conn);

/* kr_remote_resync.c: reading; nothing is raised */
extern bool kr_conn_take_arrived(KrConn *conn);
extern bool kr_conn_resync(KrConn *conn, TimestampTz deadline);
extern bool kr_conn_command_quietly(KrConn *conn, const char *sql);

/* kr_remote_copy.c */
extern void kr_conn_finish_writer(KrConn *conn);
extern bool kr_copy_abort(KrConn *conn, TimestampTz deadline);

/* kr_remote_cancel.c: ask the server to stop; false if that could not be done in time */
extern bool kr_remote_cancel(PGconn *pg, int timeout_ms);

/* kr_remote_error.c */
extern void kr_remote_raise_outcome_unknown(const char *source) pg_attribute_noreturn();
extern bool kr_remote_refused_login(PGconn *pg);
extern char *kr_remote_reason(PGconn *pg);
extern void kr_remote_raise_connect(PGconn *pg, const KrSource *source) pg_attribute_noreturn();

#endif							/* KR_REMOTE_INTERNAL_H */

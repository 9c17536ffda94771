/*
 * kr_remote.h
 *	  Connections to data sources: leased to one tenant for a transaction, run
 *	  in libpq's pipeline mode, following the local transaction.
 */
#ifndef KR_REMOTE_H
#define KR_REMOTE_H

#include "postgres.h"

#include "libpq-fe.h"
#include "utils/uuid.h"

#include "kr_route.h"

/* Where a statement runs: a source, and for whom. */
typedef struct KrTarget
{
	const KrSource *source;
	pg_uuid_t	tenant_id;		/* zeros: no tenant */
	const char *tenant;			/* slug, for messages; NULL: no tenant */
	const char *enter;			/* whom the agent is told to admit; NULL: nobody */
	int64		epoch;
	bool		close_after;	/* close the connection when the transaction ends */
	bool		withhold;		/* errors must not repeat values */
} KrTarget;

typedef struct KrConn KrConn;
typedef struct KrStream KrStream;

/*
 * The results of one query, or of several that were queued one after the
 * other. Lives in its user's memory; when that goes away, so does the interest
 * in the results.
 */
struct KrStream
{
	KrConn	   *conn;
	bool		single_row;		/* deliver rows as they come, a few at a time */
	bool		binary;			/* ask for results in binary form; may be set for each query */
	void		(*park) (KrStream *stream);
	void	   *owner;			/* the user's, for park */
	bool		may_repeat;		/* the user looks at outdated, and repeats the query */
	bool		outdated;		/* the statement was prepared for tables that have changed since */
	int			pending;		/* queries whose end has not been read */
	uint64		affected;		/* rows affected by the query that ended last */
	MemoryContextCallback callback;
};

/*
 * Set up a stream that was allocated in cxt. park is called when the connection
 * is needed for something else while results are outstanding: it must read them
 * to the end with kr_stream_next(). NULL for users that always do so at once.
 */
extern void kr_stream_init(KrStream *stream, KrConn *conn, MemoryContext cxt,
						   bool single_row, void (*park) (KrStream *),
						   void *owner);

/*
 * A connection for the target, in a remote transaction at the local nesting
 * level. The transaction's commands travel with the first query.
 *
 * reads_once: the query to come neither writes nor locks. Where it is the first
 * of a local transaction that is no block, and in READ COMMITTED, it is a
 * transaction of its own in the data source, without commands for it.
 */
extern KrConn *kr_remote_lease(const KrTarget *target, bool reads_once);

/*
 * Queue a query with text parameters. Remote statements are prepared once a
 * connection. `writes` makes the local commit wait for the remote one.
 */
extern void kr_stream_queue(KrStream *stream, const char *sql, int nparams,
							const char *const *values, bool writes);

/* The same with lengths and formats of the parameters, as PQsendQueryPrepared() has them. */
extern void kr_stream_queue_formatted(KrStream *stream, const char *sql, int nparams,
									  const char *const *values, const int *lengths,
									  const int *formats, bool writes);

/*
 * Wait until the data source has taken what is queued so far, so that no more
 * than that stands in memory. Not a synchronisation point.
 */
extern void kr_stream_push(KrStream *stream);

/* Send what is queued, up to a synchronisation point. */
extern void kr_stream_send(KrStream *stream);

/*
 * The next result that has rows, NULL at the end of each query. It belongs to
 * the connection and is valid until the stream is read on or abandoned.
 * Remote errors are raised here, but for one: where a statement that was
 * prepared earlier no longer fits the tables, and it is the first of the remote
 * transaction, that is rolled back, outdated is set and NULL returned.
 */
extern PGresult *kr_stream_next(KrStream *stream);

/*
 * For who waits for several streams at once: true when kr_stream_next() would
 * not wait (it may raise what is wrong), and the socket to wait for if not. What
 * was sent has to be on its way: kr_stream_push().
 */
extern bool kr_stream_is_ready(KrStream *stream);
extern int	kr_stream_socket(const KrStream *stream);

/* The stream that would have to be parked for a query to the target; NULL: none. */
extern KrStream *kr_remote_reader(const KrTarget *target);

/* The query being read is to be answered as text when it is asked again. */
extern void kr_stream_refuse_binary(KrStream *stream);

/* Nobody wants the rest. Does not wait. */
extern void kr_stream_abandon(KrStream *stream);

/*
 * Who keeps rows back for a connection, or has a COPY open on it. finish() must
 * see to it that the data source has them; it is called before anybody else uses
 * the connection and before COMMIT, and the writer has been released by then.
 */
typedef struct KrWriter
{
	KrConn	   *conn;			/* NULL: not active */
	void		(*finish) (struct KrWriter *writer);
	void	   *owner;
	MemoryContextCallback callback;
} KrWriter;

extern void kr_writer_init(KrWriter *writer, MemoryContext cxt,
						   void (*finish) (KrWriter *), void *owner);
extern void kr_writer_claim(KrWriter *writer, KrConn *conn);
extern bool kr_writer_is_active(const KrWriter *writer);
extern void kr_writer_release(KrWriter *writer);

/*
 * COPY ... FROM STDIN on a leased connection. The writer must be claimed before.
 * kr_copy_put() returns when the socket has taken the data; kr_copy_heard() tells
 * whether the server has said something in the meantime, which is an error most
 * of the time: end the COPY then.
 */
extern void kr_copy_begin(KrConn *conn, const char *sql);
extern void kr_copy_put(KrConn *conn, const char *data, int length);
extern bool kr_copy_heard(KrConn *conn);
extern void kr_copy_end(KrConn *conn, const char *sql);

extern void kr_remote_init(void);

#endif							/* KR_REMOTE_H */

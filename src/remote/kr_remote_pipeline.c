/*
 * kr_remote_pipeline.c
 *	  Sending on a connection in libpq's pipeline mode.
 *
 * What was sent and not yet answered stands in a queue; answers come in its
 * order (kr_remote_answer.c).
 *
 * An error that is raised in the middle leaves the queue as it is. The abort of
 * the transaction or subtransaction (kr_remote_xact.c) then reads up to the
 * last synchronisation point (kr_remote_resync.c), so connections are back in step
 * before anything is sent again. A result is always the connection's own (conn->result), so an
 * error leaks none.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "kr_compat.h"
#include "kr_remote_pipeline.h"

/* Entries that one statement can need: deallocate, prepare, execute, sync. */
#define QUEUE_AT_ONCE 4

/* Entries kept free for cleaning up, which must not allocate. */
#define CLEANUP_RESERVE 8

/* Raise what a connection that is gone means for this transaction. */
void
kr_conn_lost(KrConn *conn)
{
	conn->broken = true;
	if (conn->committing)
		kr_remote_raise_outcome_unknown(conn->source_name);
	kr_remote_raise_lost(conn->pg, conn->source_name);
}

/* ---------- the queue ---------- */

KrPending *
kr_pending_head(KrConn *conn)
{
	return conn->pending_count > 0 ? &conn->pending[conn->pending_first] : NULL;
}

KrPending *
kr_pending_push(KrConn *conn, KrPendingKind kind)
{
	KrPending  *entry;

	Assert(conn->pending_count < conn->pending_size);
	entry = &conn->pending[(conn->pending_first + conn->pending_count) % conn->pending_size];
	memset(entry, 0, sizeof(*entry));
	entry->kind = kind;
	conn->pending_count++;
	conn->unsynced = kind != KR_PENDING_SYNC;
	return entry;
}

/* Make room before anything is sent, so that pushing cannot fail afterwards. */
static void
pending_reserve(KrConn *conn, int more)
{
	int			size = Max(conn->pending_size, 16);
	KrPending  *grown;

	if (conn->pending_count + more <= conn->pending_size)
		return;
	while (size < conn->pending_count + more)
		size *= 2;
	grown = MemoryContextAlloc(conn->cxt, size * sizeof(KrPending));
	for (int i = 0; i < conn->pending_count; i++)
		grown[i] = conn->pending[(conn->pending_first + i) % conn->pending_size];
	if (conn->pending != NULL)
		pfree(conn->pending);
	conn->pending = grown;
	conn->pending_first = 0;
	conn->pending_size = size;
}

void
kr_pending_pop(KrConn *conn)
{
	/* The first synchronisation point that is reached is that of the settings. */
	if (kr_pending_head(conn)->kind == KR_PENDING_SYNC && !conn->failed)
		conn->ready = true;
	conn->pending_first = (conn->pending_first + 1) % conn->pending_size;
	conn->pending_count--;
}

bool
kr_conn_query_is_pending(const KrConn *conn)
{
	for (int i = 0; i < conn->pending_count; i++)
	{
		if (conn->pending[(conn->pending_first + i) % conn->pending_size].kind == KR_PENDING_QUERY)
			return true;
	}
	return false;
}

/* ---------- waiting ---------- */

/*
 * Wait until the socket can be read, or written where something is left to
 * flush. deadline 0: wait for ever and let interrupts through.
 */
bool
kr_conn_wait_for_socket(KrConn *conn, bool flushing, TimestampTz deadline)
{
	WaitEvent	event;
	long		timeout = -1;

	if (PQsocket(conn->pg) < 0)
		return false;
	if (deadline != 0)
	{
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (timeout <= 0)
			return false;
	}
	ModifyWaitEvent(conn->waits, 0,
					WL_SOCKET_READABLE | (flushing ? WL_SOCKET_WRITEABLE : 0), NULL);
	if (WaitEventSetWait(conn->waits, timeout, &event, 1, PG_WAIT_EXTENSION) == 0)
		return false;
	if (event.events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		if (deadline == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* True when PQgetResult() will not block; false when the deadline has passed. */
bool
kr_conn_wait_for_result(KrConn *conn, TimestampTz deadline)
{
	for (;;)
	{
		int			flushing = PQflush(conn->pg);

		/* What arrived before a connection broke is still read. */
		if (!PQisBusy(conn->pg))
			return true;
		if (flushing < 0 || !kr_conn_wait_for_socket(conn, flushing > 0, deadline))
			return false;
		if (!PQconsumeInput(conn->pg))
			return true;		/* PQgetResult() tells why */
	}
}

/* ---------- sending ---------- */

static void
check_in_step(KrConn *conn)
{
	if (conn->broken)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to data source \"%s\" was lost", conn->source_name),
				 errdetail("It was lost earlier in this transaction."),
				 errhint("Repeat the transaction; a new connection is made for it.")));
	if (conn->copying)
		elog(ERROR, "data source \"%s\" is used while it is copied to", conn->source_name);
}

/* Let the stream that is being read put its rows aside. */
void
kr_conn_park_reader(KrConn *conn)
{
	if (conn->reader == NULL)
		return;
	if (conn->reader->park == NULL)
		elog(ERROR, "data source \"%s\" is used while it is written", conn->source_name);
	conn->reader->park(conn->reader);
}

/* lengths and formats are as for PQsendQueryPrepared(); NULL: all values are text. */
static KrPending *
queue(KrConn *conn, KrPendingKind kind, const char *sql, int nparams,
	  const char *const *values, const int *lengths, const int *formats, bool binary)
{
	KrStatement *statement;
	KrPending  *entry;
	bool		was_prepared;

	check_in_step(conn);
	pending_reserve(conn, QUEUE_AT_ONCE + CLEANUP_RESERVE);
	if (conn->pooled)
	{
		/* The next transaction may be on another server that knows no statement of ours. */
		if (!PQsendQueryParams(conn->pg, sql, nparams, NULL, values, lengths, formats, binary))
			kr_conn_lost(conn);
		return kr_pending_push(conn, kind);
	}
	statement = kr_statement_prepare(conn, sql, nparams);
	was_prepared = statement->confirmed;
	if (!PQsendQueryPrepared(conn->pg, statement->name, nparams, values, lengths, formats,
							 binary && !statement->text_only))
		kr_conn_lost(conn);
	entry = kr_pending_push(conn, kind);
	entry->statement = statement;
	entry->was_prepared = was_prepared;
	return entry;
}

/* Queue a command whose answer matters only when it is an error. */
void
kr_conn_command(KrConn *conn, const char *sql, int nparams, const char *const *values)
{
	(void) queue(conn, KR_PENDING_COMMAND, sql, nparams, values, NULL, NULL, false);
}

void
kr_conn_sync(KrConn *conn)
{
	check_in_step(conn);
	pending_reserve(conn, 1 + CLEANUP_RESERVE);
	if (!PQpipelineSync(conn->pg))
		kr_conn_lost(conn);
	(void) kr_pending_push(conn, KR_PENDING_SYNC);
}

void
kr_conn_flush(KrConn *conn)
{
	if (PQflush(conn->pg) < 0)
		kr_conn_lost(conn);
}

void
kr_stream_queue(KrStream *stream, const char *sql, int nparams,
				const char *const *values, bool writes)
{
	kr_stream_queue_formatted(stream, sql, nparams, values, NULL, NULL, writes);
}

void
kr_stream_queue_formatted(KrStream *stream, const char *sql, int nparams,
						  const char *const *values, const int *lengths,
						  const int *formats, bool writes)
{
	KrConn	   *conn = stream->conn;
	KrPending  *entry;

	if (conn->reader != stream)
		kr_conn_park_reader(conn);
	Assert(conn->reader == NULL || conn->reader == stream);

	if (writes)
		kr_conn_note_write(conn);
	entry = queue(conn, KR_PENDING_QUERY, sql, nparams, values, lengths, formats, stream->binary);
	conn->queries++;
	stream->outdated = false;
	entry->stream = stream;
	entry->sql = sql;
	stream->pending++;
	conn->reader = stream;
}

void
kr_stream_push(KrStream *stream)
{
	KrConn	   *conn = stream->conn;
	int			flushing;

	check_in_step(conn);
	while ((flushing = PQflush(conn->pg)) != 0)
	{
		/* Reading along: a server that cannot send stops taking, too. */
		if (flushing < 0 || !kr_conn_wait_for_socket(conn, true, 0) || !PQconsumeInput(conn->pg))
			kr_conn_lost(conn);
	}
}

void
kr_stream_send(KrStream *stream)
{
	kr_conn_sync(stream->conn);
	kr_conn_flush(stream->conn);
}

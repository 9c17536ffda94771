/*
 * kr_remote_pipeline.c
 *	  Sending and reading on a connection in libpq's pipeline mode.
 *
 * What was sent and not yet answered stands in a queue; answers come in its
 * order. Nothing is read before somebody needs it, and what nobody needs is
 * skipped when the reading gets there.
 *
 * An error that is raised in the middle leaves the queue as it is. The abort of
 * the transaction or subtransaction (kr_remote_xact.c) then reads up to the
 * last synchronisation point, so connections are back in step before anything
 * is sent again. A result is always the connection's own (conn->result), so an
 * error leaks none.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "kr_compat.h"
#include "kr_remote_internal.h"

/* Entries that one statement can need: deallocate, prepare, execute, sync. */
#define QUEUE_AT_ONCE 4

/* Rows in one result where libpq can do that; each holds memory until it is read. */
#define CHUNK_ROWS 32

/* Bytes of a result after which a connection is closed when its transaction ends. */
#define LARGE_RESULT (16 * 1024 * 1024)

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

/*
 * libpq never gives back the memory of its input buffer, which has been as large
 * as the largest row: a connection that has seen such a row is not kept.
 */
static void
set_result(KrConn *conn, PGresult *result)
{
	PQclear(conn->result);
	conn->result = result;
	if (result != NULL && PQresultMemorySize(result) > LARGE_RESULT)
		conn->unwanted = true;
}

/* ---------- the queue ---------- */

static KrPending *
pending_head(KrConn *conn)
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

static void
pending_pop(KrConn *conn)
{
	/* The first synchronisation point that is reached is that of the settings. */
	if (pending_head(conn)->kind == KR_PENDING_SYNC && !conn->failed)
		conn->ready = true;
	conn->pending_first = (conn->pending_first + 1) % conn->pending_size;
	conn->pending_count--;
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

static bool
is_error(const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_SINGLE_TUPLE:
#ifdef LIBPQ_HAS_CHUNK_MODE
		case PGRES_TUPLES_CHUNK:
#endif
		case PGRES_PIPELINE_SYNC:
			return false;
		default:
			return true;
	}
}

/* More results of the same query follow. */
static bool
is_partial(const PGresult *result)
{
#ifdef LIBPQ_HAS_CHUNK_MODE
	if (PQresultStatus(result) == PGRES_TUPLES_CHUNK)
		return true;
#endif
	return PQresultStatus(result) == PGRES_SINGLE_TUPLE;
}

/* Deliver the next query's rows as they come. */
static bool
set_row_mode(KrConn *conn)
{
#ifdef LIBPQ_HAS_CHUNK_MODE
	return PQsetChunkedRowsMode(conn->pg, CHUNK_ROWS);
#else
	return PQsetSingleRowMode(conn->pg);
#endif
}

static bool
is_copy(const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			return true;
		default:
			return false;
	}
}

/* Raise conn->result, the answer of head. */
static void
raise_result(KrConn *conn, KrPending *head)
{
	const char *sqlstate = PQresultErrorField(conn->result, PG_DIAG_SQLSTATE);
	const char *severity = PQresultErrorField(conn->result, PG_DIAG_SEVERITY_NONLOCALIZED);

	/* A server's last words, as at its shutdown, mean the same as none. */
	if (PQstatus(conn->pg) == CONNECTION_BAD ||
		(severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0)))
		kr_conn_lost(conn);
	conn->failed = true;

	/* The remote schema has changed, or somebody dropped it: prepare anew. */
	if (head->statement != NULL && sqlstate != NULL &&
		(strcmp(sqlstate, "0A000") == 0 || strcmp(sqlstate, "26000") == 0))
		head->statement->confirmed = false;

	kr_remote_raise_result(conn->result, conn->source_name,
						   conn->leased ? conn->tenant : NULL,
						   head->kind == KR_PENDING_PREPARE ? head->statement->sql : head->sql,
						   conn->withhold);
}

/* ---------- reading ---------- */

/* A synchronisation point answers a sync and nothing else. */
static bool
is_answer_to(const PGresult *result, const KrPending *head)
{
	return (PQresultStatus(result) == PGRES_PIPELINE_SYNC) == (head->kind == KR_PENDING_SYNC);
}

/*
 * Every command's answer ends with a NULL, which is there at once; if it is not,
 * PQgetResult() would wait for it and let no interrupt through.
 */
static bool
has_terminator(KrConn *conn)
{
	PGresult   *extra;

	if (PQisBusy(conn->pg))
		return false;
	extra = PQgetResult(conn->pg);
	PQclear(extra);
	return extra == NULL;
}

static void
out_of_step(KrConn *conn)
{
	conn->broken = true;
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("data source \"%s\" sent an answer to something else", conn->source_name),
			 errhint("If there is a pooler in between that works by transaction, say so with the option pooler.")));
}

/* Wait for the next result, into conn->result. */
static void
await_result(KrConn *conn)
{
	if (!kr_conn_wait_for_result(conn, 0))
		kr_conn_lost(conn);
	set_result(conn, PQgetResult(conn->pg));
	if (conn->result == NULL)
		kr_conn_lost(conn);
}

/* Raise what is wrong with conn->result as an answer of head. */
static void
check_result(KrConn *conn, KrPending *head)
{
	if (is_error(conn->result))
		raise_result(conn, head);
	if (!is_answer_to(conn->result, head))
		out_of_step(conn);
}

/*
 * The statement was prepared before the tables changed, and there is nothing in
 * the remote transaction but this query, of which nobody has seen a row.
 */
static bool
is_outdated(const KrConn *conn, const KrPending *head)
{
	const char *sqlstate = PQresultErrorField(conn->result, PG_DIAG_SQLSTATE);

	return head->stream->may_repeat && head->was_prepared && !head->answered &&
		conn->queries == 1 && is_error(conn->result) && PQstatus(conn->pg) != CONNECTION_BAD &&
		sqlstate != NULL &&
		(strncmp(sqlstate, "42", 2) == 0 || strcmp(sqlstate, "0A000") == 0 ||
		 strcmp(sqlstate, "26000") == 0);
}

/* Read the answer of the queue's head, whose rows nobody wants. */
static void
skip_head(KrConn *conn)
{
	KrPending  *head = pending_head(conn);
	bool		ended = false;

	if (head->kind == KR_PENDING_QUERY && !head->started)
	{
		(void) set_row_mode(conn);
		head->started = true;
	}

	while (!ended)
	{
		await_result(conn);
		check_result(conn, head);
		ended = !is_partial(conn->result);
	}
	if (head->kind == KR_PENDING_PREPARE)
		head->statement->confirmed = true;
	if (head->kind != KR_PENDING_SYNC && !has_terminator(conn))
		out_of_step(conn);
	pending_pop(conn);
}

static void
stream_memory_goes(void *arg)
{
	kr_stream_abandon((KrStream *) arg);
}

void
kr_stream_init(KrStream *stream, KrConn *conn, MemoryContext cxt, bool single_row,
			   void (*park) (KrStream *), void *owner)
{
	memset(stream, 0, sizeof(*stream));
	stream->conn = conn;
	stream->single_row = single_row;
	stream->park = park;
	stream->owner = owner;
	stream->callback.func = stream_memory_goes;
	stream->callback.arg = stream;
	MemoryContextRegisterResetCallback(cxt, &stream->callback);
}

PGresult *
kr_stream_next(KrStream *stream)
{
	KrConn	   *conn = stream->conn;
	KrPending  *head;
	bool		ended;

	if (stream->pending == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("the remaining rows are gone"),
				 errdetail("An error in the meantime ended the remote query."),
				 errhint("Open the cursor again.")));
	while ((head = pending_head(conn)) != NULL &&
		   !(head->kind == KR_PENDING_QUERY && head->stream == stream))
		skip_head(conn);
	if (head == NULL)
		elog(ERROR, "no answer is outstanding on data source \"%s\"", conn->source_name);

	if (!head->started && stream->single_row && !set_row_mode(conn))
		elog(ERROR, "could not read row by row");
	head->started = true;

	await_result(conn);
	if (is_outdated(conn, head))
	{
		if (head->statement != NULL)
			head->statement->confirmed = false;
		conn->failed = true;
		kr_conn_restart(conn);
		stream->outdated = true;
		return NULL;
	}
	check_result(conn, head);

	ended = !is_partial(conn->result);
	head->answered = true;
	if (ended)
	{
		const char *affected = PQcmdTuples(conn->result);

		stream->affected = affected[0] ? strtoull(affected, NULL, 10) : 0;
		if (!has_terminator(conn))
			out_of_step(conn);
		pending_pop(conn);
		if (--stream->pending == 0)
			conn->reader = NULL;
		if (stream->single_row || PQresultStatus(conn->result) == PGRES_COMMAND_OK)
			return NULL;
	}
	return conn->result;
}

/* Take what comes before the stream's answer, as far as it has arrived. */
static bool
skip_arrived(KrConn *conn, const KrStream *stream)
{
	KrPending  *head;

	while ((head = pending_head(conn)) != NULL && head->stream != stream)
	{
		if (head->kind == KR_PENDING_QUERY && !head->started)
		{
			(void) set_row_mode(conn);
			head->started = true;
		}
		if (PQisBusy(conn->pg))
			return false;
		skip_head(conn);
	}

	/* Before libpq looks at its first row, and makes one result of all. */
	if (head != NULL && !head->started && stream->single_row)
	{
		(void) set_row_mode(conn);
		head->started = true;
	}
	return head == NULL || !PQisBusy(conn->pg);
}

bool
kr_stream_is_ready(KrStream *stream)
{
	KrConn	   *conn = stream->conn;

	if (stream->pending == 0 || conn->broken || skip_arrived(conn, stream))
		return true;
	if (PQflush(conn->pg) < 0 || !PQconsumeInput(conn->pg))
		return true;
	return skip_arrived(conn, stream);
}

int
kr_stream_socket(const KrStream *stream)
{
	return PQsocket(stream->conn->pg);
}

void
kr_stream_refuse_binary(KrStream *stream)
{
	KrPending  *head = pending_head(stream->conn);

	if (head != NULL && head->stream == stream && head->statement != NULL)
		head->statement->text_only = true;
}

void
kr_stream_abandon(KrStream *stream)
{
	KrConn	   *conn = stream->conn;

	if (stream->pending == 0)
		return;
	for (int i = 0; i < conn->pending_count; i++)
	{
		KrPending  *entry = &conn->pending[(conn->pending_first + i) % conn->pending_size];

		if (entry->stream == stream)
		{
			entry->stream = NULL;
			entry->sql = NULL;
		}
	}
	stream->pending = 0;
	if (conn->reader == stream)
		conn->reader = NULL;
}

/* Read the answer of a COMMIT, the last command before a sync. */
void
kr_conn_await_commit(KrConn *conn)
{
	conn->committing = true;
	PG_TRY();
	{
		while (conn->pending_count > 1)
			skip_head(conn);
	}
	PG_CATCH();
	{
		/* Who stops waiting for the answer does not know it. */
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		conn->broken = true;
		kr_remote_raise_outcome_unknown(conn->source_name);
	}
	PG_END_TRY();
	conn->committing = false;

	if (conn->result == NULL || strcmp(PQcmdStatus(conn->result), "COMMIT") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_ROLLBACK),
				 errmsg("data source \"%s\" rolled the transaction back", conn->source_name),
				 errdetail("An error there had ended it earlier."),
				 errhint("Repeat the transaction.")));
	skip_head(conn);
}

/* Read all that is outstanding; somebody else's rows are put aside. */
void
kr_conn_drain(KrConn *conn)
{
	kr_conn_park_reader(conn);
	if (conn->unsynced)
		kr_conn_sync(conn);
	while (conn->pending_count > 0)
		skip_head(conn);
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

/* Take answers that libpq has in its buffer. Sets conn->broken where they are wrong. */
static void
take_buffered(KrConn *conn)
{
	while (conn->pending_count > 0)
	{
		KrPending  *head = pending_head(conn);

		if (head->kind == KR_PENDING_QUERY && !head->started)
		{
			(void) set_row_mode(conn);
			head->started = true;
		}
		if (PQisBusy(conn->pg))
			return;
		set_result(conn, PQgetResult(conn->pg));
		if (conn->result == NULL || is_error(conn->result) ||
			!is_answer_to(conn->result, head))
		{
			conn->broken = true;
			return;
		}
		if (is_partial(conn->result))
			continue;
		if (head->kind == KR_PENDING_PREPARE)
			head->statement->confirmed = true;
		if (head->kind != KR_PENDING_SYNC && !has_terminator(conn))
		{
			conn->broken = true;
			return;
		}
		pending_pop(conn);
	}
}

/* Read what the network has. Sets conn->broken where the connection is lost. */
static void
read_arrived(KrConn *conn)
{
	if (PQflush(conn->pg) < 0 || !PQconsumeInput(conn->pg) ||
		PQstatus(conn->pg) == CONNECTION_BAD)
		conn->broken = true;
}

/*
 * Take what has arrived, without waiting. True when nothing is outstanding any
 * more; false also when the connection is lost (conn->broken then).
 */
bool
kr_conn_take_arrived(KrConn *conn)
{
	take_buffered(conn);
	if (!conn->broken && conn->pending_count > 0)
	{
		read_arrived(conn);
		if (!conn->broken)
			take_buffered(conn);
		if (!conn->broken && conn->pending_count > 0)
			return false;
	}
	if (conn->broken)
		return false;

	/* What comes when nothing is awaited is a farewell, or the end itself. */
	read_arrived(conn);
	if (!conn->broken)
		(void) PQisBusy(conn->pg);
	if (PQstatus(conn->pg) == CONNECTION_BAD)
		conn->broken = true;
	return !conn->broken;
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

void
kr_conn_flush(KrConn *conn)
{
	if (PQflush(conn->pg) < 0)
		kr_conn_lost(conn);
}

/* ---------- getting back into step, without raising anything ---------- */

/* Read up to the last synchronisation point. False where that was not reached. */
bool
kr_conn_resync(KrConn *conn, TimestampTz deadline)
{
	int			nulls = 0;

	if (conn->reader != NULL)
		kr_stream_abandon(conn->reader);
	if (conn->broken || PQstatus(conn->pg) == CONNECTION_BAD)
		return false;
	if (conn->unsynced)
	{
		if (!PQpipelineSync(conn->pg))
			return false;
		(void) kr_pending_push(conn, KR_PENDING_SYNC);
	}

	while (conn->pending_count > 0)
	{
		KrPending  *head = pending_head(conn);

		if (head->kind == KR_PENDING_QUERY && !head->started)
		{
			(void) set_row_mode(conn);
			head->started = true;
		}
		if (!kr_conn_wait_for_result(conn, deadline))
			return false;
		set_result(conn, PQgetResult(conn->pg));
		if (PQstatus(conn->pg) == CONNECTION_BAD)
			return false;
		if (conn->result == NULL)
		{
			/* the end of a command, or of everything */
			if (head->kind != KR_PENDING_SYNC)
				pending_pop(conn);
			else if (++nulls > 1)
				return false;
			continue;
		}
		nulls = 0;

		/* COPY, which nobody has asked for: libpq would say so again and again. */
		if (is_copy(conn->result))
			return false;
		if (head->kind == KR_PENDING_PREPARE && !is_error(conn->result))
			head->statement->confirmed = true;
		if (PQresultStatus(conn->result) == PGRES_PIPELINE_SYNC)
		{
			while (pending_head(conn)->kind != KR_PENDING_SYNC)
				pending_pop(conn);
			pending_pop(conn);
		}
	}
	set_result(conn, NULL);
	kr_statement_forget_unconfirmed(conn);
	conn->failed = false;
	return true;
}

/* Send one command and a sync. False where the connection is of no more use. */
bool
kr_conn_command_quietly(KrConn *conn, const char *sql)
{
	if (conn->broken || conn->pending_count + 2 > conn->pending_size)
		return false;
	if (!PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0))
		return false;
	(void) kr_pending_push(conn, KR_PENDING_COMMAND);
	if (!PQpipelineSync(conn->pg))
		return false;
	(void) kr_pending_push(conn, KR_PENDING_SYNC);
	return PQflush(conn->pg) >= 0;
}

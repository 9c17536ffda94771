/*
 * kr_remote_answer.c
 *	  Reading answers on a connection in libpq's pipeline mode.
 *
 * Answers come in the order of the queue (kr_remote_pipeline.c). Nothing is read
 * before somebody needs it, and what nobody needs is skipped when the reading gets
 * there. What is wrong with an answer is raised; who must not raise anything reads
 * in kr_remote_resync.c.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "kr_remote_pipeline.h"

/* Rows in one result where libpq can do that; each holds memory until it is read. */
#define CHUNK_ROWS 32

/* Bytes of a result after which a connection is closed when its transaction ends. */
#define LARGE_RESULT (16 * 1024 * 1024)

/* ---------- a result ---------- */

/*
 * libpq never gives back the memory of its input buffer, which has been as large
 * as the largest row: a connection that has seen such a row is not kept.
 */
void
kr_conn_set_result(KrConn *conn, PGresult *result)
{
	PQclear(conn->result);
	conn->result = result;
	if (result != NULL && PQresultMemorySize(result) > LARGE_RESULT)
		conn->unwanted = true;
}

bool
kr_result_is_error(const PGresult *result)
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

bool
kr_result_is_partial(const PGresult *result)
{
#ifdef LIBPQ_HAS_CHUNK_MODE
	if (PQresultStatus(result) == PGRES_TUPLES_CHUNK)
		return true;
#endif
	return PQresultStatus(result) == PGRES_SINGLE_TUPLE;
}

bool
kr_result_answers(const PGresult *result, const KrPending *head)
{
	return (PQresultStatus(result) == PGRES_PIPELINE_SYNC) == (head->kind == KR_PENDING_SYNC);
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

void
kr_conn_begin_rows(KrConn *conn, KrPending *head)
{
	if (head->kind != KR_PENDING_QUERY || head->started)
		return;
	(void) set_row_mode(conn);
	head->started = true;
}

bool
kr_conn_has_terminator(KrConn *conn)
{
	PGresult   *extra;

	if (PQisBusy(conn->pg))
		return false;
	extra = PQgetResult(conn->pg);
	PQclear(extra);
	return extra == NULL;
}

/* ---------- what is wrong with it ---------- */

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
	kr_conn_set_result(conn, PQgetResult(conn->pg));
	if (conn->result == NULL)
		kr_conn_lost(conn);
}

/* Raise what is wrong with conn->result as an answer of head. */
static void
check_result(KrConn *conn, KrPending *head)
{
	if (kr_result_is_error(conn->result))
		raise_result(conn, head);
	if (!kr_result_answers(conn->result, head))
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
		conn->queries == 1 && kr_result_is_error(conn->result) && PQstatus(conn->pg) != CONNECTION_BAD &&
		sqlstate != NULL &&
		(strncmp(sqlstate, "42", 2) == 0 || strcmp(sqlstate, "0A000") == 0 ||
		 strcmp(sqlstate, "26000") == 0);
}

/* ---------- of no interest ---------- */

/* Read the answer of the queue's head, whose rows nobody wants. */
static void
skip_head(KrConn *conn)
{
	KrPending  *head = kr_pending_head(conn);
	bool		ended = false;

	kr_conn_begin_rows(conn, head);

	while (!ended)
	{
		await_result(conn);
		check_result(conn, head);
		ended = !kr_result_is_partial(conn->result);
	}
	if (head->kind == KR_PENDING_PREPARE)
		head->statement->confirmed = true;
	if (head->kind != KR_PENDING_SYNC && !kr_conn_has_terminator(conn))
		out_of_step(conn);
	kr_pending_pop(conn);
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

/* ---------- a stream's ---------- */

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
	while ((head = kr_pending_head(conn)) != NULL &&
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

	ended = !kr_result_is_partial(conn->result);
	head->answered = true;
	if (ended)
	{
		const char *affected = PQcmdTuples(conn->result);

		stream->affected = affected[0] ? strtoull(affected, NULL, 10) : 0;
		if (!kr_conn_has_terminator(conn))
			out_of_step(conn);
		kr_pending_pop(conn);
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

	while ((head = kr_pending_head(conn)) != NULL && head->stream != stream)
	{
		kr_conn_begin_rows(conn, head);
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
	KrPending  *head = kr_pending_head(stream->conn);

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

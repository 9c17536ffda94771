/*
 * kr_remote_copy.c
 *	  COPY FROM STDIN on a connection, and who keeps rows back for one.
 *
 * libpq cannot COPY in pipeline mode. So what is outstanding is read, the
 * pipeline is left, the data goes out in blocks, each taken by the socket before
 * the next is made, and the pipeline is entered again when the answer is there.
 * In between nothing else can be sent on the connection (conn->copying).
 *
 * A writer is somebody who holds rows that others must find in the data source,
 * or who has a COPY open. There is one a connection at most. Before anybody else
 * uses the connection, and before COMMIT, its finish() is called.
 *
 * libpq does not look at an error until the COPY is ended, so whoever sends much
 * asks now and then whether the server has said anything (kr_copy_heard()).
 *
 * An error in here leaves conn->copying set if the COPY may still be open; the
 * abort of the transaction ends it (kr_copy_abort()), in bounded time.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"

#include "kr_remote_internal.h"

/* COPY answers that a server may give to one command before it counts as mad. */
#define MAX_COPY_ANSWERS 4

/* ---------- writers ---------- */

static void
writer_memory_goes(void *arg)
{
	kr_writer_release((KrWriter *) arg);
}

void
kr_writer_init(KrWriter *writer, MemoryContext cxt, void (*finish) (KrWriter *), void *owner)
{
	memset(writer, 0, sizeof(*writer));
	writer->finish = finish;
	writer->owner = owner;
	writer->callback.func = writer_memory_goes;
	writer->callback.arg = writer;
	MemoryContextRegisterResetCallback(cxt, &writer->callback);
}

void
kr_writer_claim(KrWriter *writer, KrConn *conn)
{
	if (conn->writer == writer)
		return;
	kr_conn_finish_writer(conn);
	conn->writer = writer;
	writer->conn = conn;
}

bool
kr_writer_is_active(const KrWriter *writer)
{
	return writer->conn != NULL;
}

void
kr_writer_release(KrWriter *writer)
{
	if (writer->conn != NULL)
		writer->conn->writer = NULL;
	writer->conn = NULL;
}

void
kr_conn_finish_writer(KrConn *conn)
{
	KrWriter   *writer = conn->writer;

	if (writer == NULL)
		return;

	/* Released first: it must not be asked again if it fails. */
	kr_writer_release(writer);
	if (!conn->broken)
		writer->finish(writer);
}

/* ---------- COPY ---------- */

static void
flush(KrConn *conn)
{
	int			flushing;

	while ((flushing = PQflush(conn->pg)) != 0)
	{
		if (flushing < 0 || !kr_conn_wait_for_socket(conn, true, 0) || !PQconsumeInput(conn->pg))
			kr_conn_lost(conn);
	}
}

/* The answer to what was sent last; NULL at its end. */
static PGresult *
next_answer(KrConn *conn)
{
	if (!kr_conn_wait_for_result(conn, 0))
		kr_conn_lost(conn);
	PQclear(conn->result);
	conn->result = PQgetResult(conn->pg);
	if (PQstatus(conn->pg) == CONNECTION_BAD)
		kr_conn_lost(conn);
	return conn->result;
}

/* The COPY is over: back into the pipeline. */
static void
leave(KrConn *conn)
{
	if (!PQenterPipelineMode(conn->pg))
		kr_conn_lost(conn);
	conn->copying = false;
}

static void pg_attribute_noreturn()
out_of_step(KrConn *conn)
{
	conn->broken = true;
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("data source \"%s\" did not answer COPY with COPY", conn->source_name)));
}

/*
 * conn->result is no success: read to the end of the answer, and raise it. That
 * another COPY begins libpq would say again and again.
 */
static void pg_attribute_noreturn()
fail(KrConn *conn, const char *sql)
{
	bool		ended = false;

	if (PQresultStatus(conn->result) != PGRES_FATAL_ERROR)
		out_of_step(conn);
	for (int answers = 0; !ended; answers++)
	{
		PGresult   *result;

		if (!kr_conn_wait_for_result(conn, 0))
			kr_conn_lost(conn);
		result = PQgetResult(conn->pg);
		ended = result == NULL;
		PQclear(result);
		if (PQstatus(conn->pg) == CONNECTION_BAD)
			kr_conn_lost(conn);
		if (answers > MAX_COPY_ANSWERS)
			out_of_step(conn);
	}
	leave(conn);
	conn->failed = true;
	kr_remote_raise_result(conn->result, conn->source_name,
						   conn->leased ? conn->tenant : NULL, sql, conn->withhold);
}

void
kr_copy_begin(KrConn *conn, const char *sql)
{
	kr_conn_drain(conn);
	kr_conn_note_write(conn);
	conn->queries++;
	if (!PQexitPipelineMode(conn->pg))
		kr_conn_lost(conn);
	conn->copying = true;
	if (!PQsendQuery(conn->pg, sql))
		kr_conn_lost(conn);
	if (PQresultStatus(next_answer(conn)) != PGRES_COPY_IN)
		fail(conn, sql);
}

void
kr_copy_put(KrConn *conn, const char *data, int length)
{
	if (PQputCopyData(conn->pg, data, length) <= 0)
		kr_conn_lost(conn);
	flush(conn);
}

bool
kr_copy_heard(KrConn *conn)
{
	WaitEvent	event;

	ModifyWaitEvent(conn->waits, 0, WL_SOCKET_READABLE, NULL);
	if (WaitEventSetWait(conn->waits, 0, &event, 1, PG_WAIT_EXTENSION) == 0)
		return false;
	if (event.events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		return false;
	}
	return true;
}

void
kr_copy_end(KrConn *conn, const char *sql)
{
	if (PQputCopyEnd(conn->pg, NULL) <= 0)
		kr_conn_lost(conn);
	flush(conn);
	if (next_answer(conn) == NULL)
		kr_conn_lost(conn);
	if (PQresultStatus(conn->result) != PGRES_COMMAND_OK)
		fail(conn, sql);
	if (next_answer(conn) != NULL)
		fail(conn, sql);
	leave(conn);
}

/*
 * End a COPY whose rows are not wanted any more, without raising anything. False
 * where that did not succeed in time; may be called again.
 */
bool
kr_copy_abort(KrConn *conn, TimestampTz deadline)
{
	int			answers = 0;

	for (;;)
	{
		PGresult   *result;
		ExecStatusType status;

		if (!kr_conn_wait_for_result(conn, deadline))
			return false;
		result = PQgetResult(conn->pg);
		if (PQstatus(conn->pg) == CONNECTION_BAD)
			conn->broken = true;
		if (result == NULL || conn->broken)
			break;
		status = PQresultStatus(result);
		PQclear(result);
		if (status == PGRES_COPY_IN &&
			PQputCopyEnd(conn->pg, "the statement was ended before its end") <= 0)
			conn->broken = true;
		if (++answers > MAX_COPY_ANSWERS)
			conn->broken = true;
	}
	if (!conn->broken && !PQenterPipelineMode(conn->pg))
		conn->broken = true;
	conn->copying = false;
	return !conn->broken;
}

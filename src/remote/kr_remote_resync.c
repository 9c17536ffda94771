/*
 * kr_remote_resync.c
 *	  Reading on a connection without raising anything: answers that have arrived
 *	  when a transaction has ended, and getting back into step after an error.
 *
 * An abort must not fail, nor allocate: kr_remote_pipeline.c keeps entries of the
 * queue free for it. A connection that it cannot get back into step is broken.
 */
#include "postgres.h"

#include "kr_remote_pipeline.h"

/* ---------- what has arrived ---------- */

/* Take answers that libpq has in its buffer. Sets conn->broken where they are wrong. */
static void
take_buffered(KrConn *conn)
{
	while (conn->pending_count > 0)
	{
		KrPending  *head = kr_pending_head(conn);

		kr_conn_begin_rows(conn, head);
		if (PQisBusy(conn->pg))
			return;
		kr_conn_set_result(conn, PQgetResult(conn->pg));
		if (conn->result == NULL || kr_result_is_error(conn->result) ||
			!kr_result_answers(conn->result, head))
		{
			conn->broken = true;
			return;
		}
		if (kr_result_is_partial(conn->result))
			continue;
		if (head->kind == KR_PENDING_PREPARE)
			head->statement->confirmed = true;
		if (head->kind != KR_PENDING_SYNC && !kr_conn_has_terminator(conn))
		{
			conn->broken = true;
			return;
		}
		kr_pending_pop(conn);
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

/* ---------- after an error ---------- */

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
		KrPending  *head = kr_pending_head(conn);

		kr_conn_begin_rows(conn, head);
		if (!kr_conn_wait_for_result(conn, deadline))
			return false;
		kr_conn_set_result(conn, PQgetResult(conn->pg));
		if (PQstatus(conn->pg) == CONNECTION_BAD)
			return false;
		if (conn->result == NULL)
		{
			/* the end of a command, or of everything */
			if (head->kind != KR_PENDING_SYNC)
				kr_pending_pop(conn);
			else if (++nulls > 1)
				return false;
			continue;
		}
		nulls = 0;

		/* COPY, which nobody has asked for: libpq would say so again and again. */
		if (is_copy(conn->result))
			return false;
		if (head->kind == KR_PENDING_PREPARE && !kr_result_is_error(conn->result))
			head->statement->confirmed = true;
		if (PQresultStatus(conn->result) == PGRES_PIPELINE_SYNC)
		{
			while (kr_pending_head(conn)->kind != KR_PENDING_SYNC)
				kr_pending_pop(conn);
			kr_pending_pop(conn);
		}
	}
	kr_conn_set_result(conn, NULL);
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

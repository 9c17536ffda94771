/*
 * kr_remote_xact.c
 *	  Making connections follow the end of the local transaction and its savepoints.
 *
 * Before the local commit every remote transaction gets its COMMIT at once;
 * only the answers of those that wrote are waited for, and by default only one
 * may have written. The answer of one that only read stands in the connection's
 * queue until it is used again. In an abort nothing is raised, and each
 * connection gets KR_CLEANUP_TIMEOUT_MS to come back into step; one that does
 * not is closed. Where they come from: kr_remote_lease.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "kr_compat.h"
#include "kr_guc.h"
#include "kr_remote_internal.h"

/*
 * Bring a connection back into step after an error, stopping what the server is
 * doing for it. Raises nothing. A cancel that reaches the server between two
 * commands is lost, so it is repeated.
 */
static void
settle(KrConn *conn)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   KR_CLEANUP_TIMEOUT_MS);
	int			patience = 100; /* ms */

	/* What the transaction has set is undone. */
	conn->named[0] = '\0';

	/* Nobody knows whether the session's settings were made. */
	if (!conn->ready)
		conn->broken = true;
	if (conn->writer != NULL)
		kr_writer_release(conn->writer);
	while (!conn->broken)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next = TimestampTzPlusMilliseconds(now, patience);
		long		left = TimestampDifferenceMilliseconds(now, deadline);

		if (left <= 0 || PQstatus(conn->pg) == CONNECTION_BAD)
			conn->broken = true;
		else if (conn->copying)
		{
			if (!kr_copy_abort(conn, Min(next, deadline)) &&
				!kr_remote_cancel(conn->pg, left))
				conn->broken = true;
		}
		else if (!conn->failed && kr_conn_query_is_pending(conn) &&
				 !kr_remote_cancel(conn->pg, left))
			conn->broken = true;
		else if (kr_conn_resync(conn, Min(next, deadline)))
			return;
		patience *= 2;
	}
}

static void
roll_back(KrConn *conn)
{
	settle(conn);
	if (!kr_conn_command_quietly(conn, "ROLLBACK"))
		conn->broken = true;
	conn->depth = 0;
}

/* Begin the remote transaction anew, with the next query. */
void
kr_conn_restart(KrConn *conn)
{
	if (conn->depth > 0)
		roll_back(conn);
	else
		settle(conn);
	if (conn->broken)
		kr_remote_raise_lost(conn->pg, conn->source_name);
	conn->wrote_depth = 0;
	conn->await_commit = false;
	conn->used = false;
}

/* Send the COMMIT; true when its answer must be waited for. */
static bool
send_commit(KrConn *conn)
{
	kr_conn_finish_writer(conn);
	if (conn->broken)
	{
		if (conn->await_commit)
			kr_remote_raise_lost(conn->pg, conn->source_name);
		conn->depth = 0;
		return false;
	}
	if (conn->reader != NULL)
		kr_stream_abandon(conn->reader);
	if (!conn->await_commit && kr_conn_query_is_pending(conn) &&
		!kr_conn_take_arrived(conn))
	{
		/* Rows that nobody wants are still coming: stop the query instead. */
		roll_back(conn);
		return false;
	}
	kr_conn_command(conn, "COMMIT", 0, NULL);
	kr_conn_sync(conn);
	kr_conn_flush(conn);
	if (!conn->await_commit)
		conn->depth = 0;
	return conn->await_commit;
}

/*
 * Stop a query that was not in a transaction block, if it is still running, and
 * end what was to go before one that was never sent.
 */
static void
finish_alone(KrConn *conn)
{
	if (conn->reader != NULL)
		kr_stream_abandon(conn->reader);
	if (conn->failed || conn->unsynced ||
		(kr_conn_query_is_pending(conn) && !kr_conn_take_arrived(conn)))
		settle(conn);
}

static void
before_commit(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (!conn->leased)
			continue;
		if (conn->depth > 0)
			(void) send_commit(conn);
		else
			finish_alone(conn);
	}
	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (conn->leased && conn->depth > 0)
		{
			kr_conn_await_commit(conn);
			conn->depth = 0;
		}
	}
}

static void
refuse_prepare(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (conn->leased && conn->depth > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has used a data source"),
					 errhint("Use COMMIT.")));
	}
}

static KrConn *
least_recently_used(void)
{
	dlist_iter	iter;
	KrConn	   *oldest = NULL;

	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (oldest == NULL || conn->last_used < oldest->last_used)
			oldest = conn;
	}
	return oldest;
}

static void
note_use(KrConn *conn)
{
	conn->last_used = GetCurrentTransactionStopTimestamp();
	conn->idle_limit = kr_guc_connection_idle_timeout == 0 ? 0 :
		TimestampTzPlusMilliseconds(conn->last_used,
									kr_guc_connection_idle_timeout * INT64CONST(1000) - KR_IDLE_MARGIN_MS);
}

/* Close what is broken, and what is idle beyond the number that is kept. */
static void
tidy_up(void)
{
	dlist_mutable_iter iter;
	int			idle = 0;

	dlist_foreach_modify(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		/* Whoever used it after the commit was sent has left a transaction open. */
		if (conn->depth > 0)
			conn->broken = true;
		if (conn->leased)
			note_use(conn);
		conn->leased = false;
		conn->depth = 0;
		conn->committing = false;
		if (conn->broken || conn->unwanted)
		{
			kr_conn_destroy(conn);
			continue;
		}
		idle++;
	}
	for (; idle > kr_guc_max_idle_connections; idle--)
		kr_conn_destroy(least_recently_used());
}

static void
xact_callback(XactEvent event, void *arg)
{
	dlist_iter	iter;

	if (dlist_is_empty(kr_conn_list()))
		return;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			before_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		case XACT_EVENT_ABORT:
			dlist_foreach(iter, kr_conn_list())
			{
				KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

				if (conn->leased && conn->depth > 0)
					roll_back(conn);
				else if (conn->leased)
					finish_alone(conn);
			}
			tidy_up();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			tidy_up();
			break;
		default:
			break;
	}
}

static void
release_savepoint(KrConn *conn)
{
	char		sql[64];

	snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT s%d", conn->depth);
	kr_conn_command(conn, sql, 0, NULL);
	conn->depth--;
	conn->wrote_depth = Min(conn->wrote_depth, conn->depth);
}

static void
roll_back_to_savepoint(KrConn *conn)
{
	char		sql[128];

	settle(conn);
	snprintf(sql, sizeof(sql), "ROLLBACK TO SAVEPOINT s%d", conn->depth);
	if (!kr_conn_command_quietly(conn, sql))
		conn->broken = true;
	snprintf(sql, sizeof(sql), "RELEASE SAVEPOINT s%d", conn->depth);
	if (!kr_conn_command_quietly(conn, sql))
		conn->broken = true;
	if (conn->wrote_depth >= conn->depth)
		conn->wrote_depth = 0;
	conn->depth--;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mysubid,
				 SubTransactionId parentsubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_iter	iter;

	if (event != SUBXACT_EVENT_PRE_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;

	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (!conn->leased)
			continue;
		if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
		{
			if (conn->depth >= level && !conn->broken)
				release_savepoint(conn);
		}
		else if (conn->depth >= level)
			roll_back_to_savepoint(conn);
		else if (conn->failed)
			settle(conn);
	}
}

/* A server or user mapping was changed or dropped: no connection outlives it. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	iter;

	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (OidIsValid(conn->serverid) &&
			(hashvalue == 0 ||
			 hashvalue == (cacheid == FOREIGNSERVEROID ? conn->server_hash : conn->mapping_hash)))
			conn->unwanted = true;
	}
}

static void
close_all(int code, Datum arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, kr_conn_list())
		PQfinish(dlist_container(KrConn, node, iter.cur)->pg);
	dlist_init(kr_conn_list());
}

void
kr_remote_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, syscache_callback, (Datum) 0);
	on_proc_exit(close_all, 0);
}

/*
 * kr_remote_xact.c
 *	  Leasing connections, and making them follow the local transaction.
 *
 * A connection is leased to one tenant for a transaction: the context that the
 * agent set there is transactional. Between transactions any tenant of the same
 * data source may take it. The remote transaction starts with the first query,
 * in the same trip, and is as deep in savepoints as the local one was when it
 * last sent something. A local transaction that is no block and only reads needs
 * no transaction block there: its query and what goes before it, up to the
 * synchronisation point, are one transaction by themselves.
 *
 * Before the local commit every remote transaction gets its COMMIT at once;
 * only the answers of those that wrote are waited for, and by default only one
 * may have written. The answer of one that only read stands in the connection's
 * queue until it is used again. In an abort nothing is raised, and each
 * connection gets KR_CLEANUP_TIMEOUT_MS to come back into step; one that does
 * not is closed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_guc.h"
#include "kr_remote_internal.h"

static dlist_head connections = DLIST_STATIC_INIT(connections);

dlist_head *
kr_conn_list(void)
{
	return &connections;
}

/* ---------- making and closing ---------- */

void
kr_conn_destroy(KrConn *conn)
{
	if (conn->reader != NULL)
		kr_stream_abandon(conn->reader);
	if (conn->writer != NULL)
		kr_writer_release(conn->writer);
	dlist_delete(&conn->node);
	if (conn->waits != NULL)
		FreeWaitEventSet(conn->waits);
	PQclear(conn->result);
	kr_remote_disconnect(conn->pg);
	MemoryContextDelete(conn->cxt);
}

/* In a transaction of their own, so that no ROLLBACK undoes them. */
static void
send_session_settings(KrConn *conn)
{
	kr_conn_command(conn, KR_SETTINGS("false"), 0, NULL);

	if (PQserverVersion(conn->pg) >= 140000)
		kr_conn_command(conn, KR_CHECK_CLIENT, 0, NULL);
	if (PQserverVersion(conn->pg) >= 140000 && kr_guc_connection_idle_timeout > 0)
	{
		char		seconds[16];
		const char *values[1] = {seconds};

		snprintf(seconds, sizeof(seconds), "%ds", kr_guc_connection_idle_timeout);
		kr_conn_command(conn, KR_IDLE_TIMEOUT, 1, values);
	}
	kr_conn_sync(conn);
}

/*
 * Notices of the data source are dropped. A server that closes an idle
 * connection says so in one.
 */
static void
receive_notice(void *arg, const PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (severity != NULL &&
		(strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		((KrConn *) arg)->broken = true;
}

static KrConn *
open_connection(const KrSource *source)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "kessel connection",
											  ALLOCSET_SMALL_SIZES);
	KrConn	   *conn = MemoryContextAllocZero(cxt, sizeof(KrConn));

	conn->cxt = cxt;
	conn->source_id = source->id;
	conn->stamp = source->stamp;
	conn->source_name = MemoryContextStrdup(cxt, source->name);
	conn->pooled = source->transaction_pooler;
	conn->serverid = source->serverid;
	if (OidIsValid(source->serverid))
	{
		conn->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID,
												  ObjectIdGetDatum(source->serverid));
		conn->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID,
												   ObjectIdGetDatum(source->mappingid));
	}
	dlist_init(&conn->statements);

	PG_TRY();
	{
		conn->pg = kr_remote_connect(source, "runtime");
	}
	PG_CATCH();
	{
		MemoryContextDelete(cxt);
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* From here on the list owns it, and an error leaves it broken there. */
	conn->broken = true;
	dlist_push_head(&connections, &conn->node);

	if (PQsetnonblocking(conn->pg, 1) != 0 || !PQenterPipelineMode(conn->pg))
		kr_remote_raise_lost(conn->pg, conn->source_name);
	PQsetNoticeReceiver(conn->pg, receive_notice, conn);
	conn->waits = kr_create_wait_event_set(3);
	AddWaitEventToSet(conn->waits, WL_SOCKET_READABLE, PQsocket(conn->pg), NULL, NULL);
	AddWaitEventToSet(conn->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(conn->waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	conn->broken = false;
	conn->ready = conn->pooled;
	if (!conn->pooled)
		send_session_settings(conn);
	return conn;
}

/* ---------- leasing ---------- */

static KrConn *
find_leased(const KrTarget *target)
{
	dlist_iter	iter;

	dlist_foreach(iter, &connections)
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (conn->leased &&
			memcmp(&conn->source_id, &target->source->id, sizeof(pg_uuid_t)) == 0 &&
			memcmp(&conn->tenant_id, &target->tenant_id, sizeof(pg_uuid_t)) == 0)
			return conn;
	}
	return NULL;
}

/*
 * An idle connection to the source that still works. Ones that do not, or that
 * were made under other options or another credential, are closed on the way.
 */
static KrConn *
find_idle(const KrSource *source)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &connections)
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (conn->leased ||
			memcmp(&conn->source_id, &source->id, sizeof(pg_uuid_t)) != 0)
			continue;
		(void) kr_conn_take_arrived(conn);
		if (conn->broken || conn->unwanted || conn->stamp != source->stamp ||
			(conn->idle_limit != 0 && GetCurrentTimestamp() >= conn->idle_limit))
			kr_conn_destroy(conn);
		else
			return conn;
	}
	return NULL;
}

static const char *
describe_lease(const KrConn *conn)
{
	return conn->tenant[0] != '\0' ?
		psprintf("for tenant \"%s\"", conn->tenant) :
		psprintf("in data source \"%s\"", conn->source_name);
}

static void
lease(KrConn *conn, const KrTarget *target)
{
	if (conn->enter != NULL)
		pfree(conn->enter);
	conn->enter = target->enter ? MemoryContextStrdup(conn->cxt, target->enter) : NULL;
	conn->epoch = target->epoch;
	conn->tenant_id = target->tenant_id;
	strlcpy(conn->tenant, target->tenant ? target->tenant : "", sizeof(conn->tenant));
	conn->leased = true;
	conn->used = false;
	conn->await_commit = false;
	conn->wrote_depth = 0;
	conn->depth = 0;
	conn->withhold = false;
}

/*
 * The local isolation level is passed on. (postgres_fdw always takes REPEATABLE
 * READ, so that the scans of one statement agree; the price would be a
 * serialization failure for every two transactions that update the same row.)
 * READ ONLY goes along only at the outermost level: inside a savepoint it may be
 * what that savepoint alone asked for.
 */
static const char *
start_transaction_sql(void)
{
	bool		read_only = XactReadOnly && GetCurrentTransactionNestLevel() == 1;

	if (IsolationIsSerializable())
	{
		if (read_only)
			return XactDeferrable ?
				"START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE" :
				"START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY";
		return "START TRANSACTION ISOLATION LEVEL SERIALIZABLE";
	}
	if (IsolationUsesXactSnapshot())
		return read_only ?
			"START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY" :
			"START TRANSACTION ISOLATION LEVEL REPEATABLE READ";
	return read_only ?
		"START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY" :
		"START TRANSACTION ISOLATION LEVEL READ COMMITTED";
}

/*
 * A query that neither writes nor locks, the first of a transaction that is no
 * block, with nothing that START TRANSACTION would have to say.
 */
static bool
may_run_alone(const KrConn *conn, bool reads_once)
{
	return reads_once && !conn->used && conn->depth == 0 &&
		!IsTransactionBlock() && GetCurrentTransactionNestLevel() == 1 &&
		!XactReadOnly && !IsolationUsesXactSnapshot();
}

/* What application_name says there: this backend and the tenant. */
static const char *
session_name(const KrConn *conn)
{
	return psprintf("kessel_router %d %s", MyProcPid, conn->tenant);
}

/* The context of a transaction there: settings, whose it is, the agent's consent. */
static void
queue_context(KrConn *conn)
{
	bool		rename = strcmp(conn->named, conn->tenant) != 0;
	char		epoch[MAXINT8LEN + 1];
	const char *values[3] = {conn->enter, epoch, NULL};

	if (conn->pooled)
		kr_conn_command(conn, KR_SETTINGS("true"), 0, NULL);
	pg_lltoa(conn->epoch, epoch);
	if (conn->pooled || !rename)
	{
		if (conn->enter != NULL)
			kr_conn_command(conn, "SELECT kessel_agent.enter($1, $2)", 2, values);
		return;
	}

	values[2] = session_name(conn);
	if (conn->enter != NULL)
		kr_conn_command(conn,
						"SELECT kessel_agent.enter($1, $2), pg_catalog.set_config('application_name', $3, false)",
						3, values);
	else
		kr_conn_command(conn,
						"SELECT pg_catalog.set_config('application_name', $1, false)",
						1, &values[2]);
	strlcpy(conn->named, conn->tenant, sizeof(conn->named));
}

static void
queue_begin(KrConn *conn, bool reads_once)
{
	int			level = GetCurrentTransactionNestLevel();
	bool		alone = may_run_alone(conn, reads_once);

	if (conn->depth == 0)
	{
		conn->queries = 0;
		if (!alone)
		{
			kr_conn_command(conn, start_transaction_sql(), 0, NULL);
			conn->depth = 1;
			/* A serializable reader may learn only at COMMIT that it must not be. */
			conn->await_commit = IsolationIsSerializable();
		}
		queue_context(conn);
	}
	conn->used = true;
	while (!alone && conn->depth < level)
	{
		char		sql[64];

		snprintf(sql, sizeof(sql), "SAVEPOINT s%d", conn->depth + 1);
		kr_conn_command(conn, sql, 0, NULL);
		conn->depth++;
	}
}

KrStream *
kr_remote_reader(const KrTarget *target)
{
	KrConn	   *conn = find_leased(target);

	return conn ? conn->reader : NULL;
}

KrConn *
kr_remote_lease(const KrTarget *target, bool reads_once)
{
	KrConn	   *conn = find_leased(target);

	if (conn == NULL)
	{
		conn = find_idle(target->source);
		if (conn == NULL)
			conn = open_connection(target->source);
		lease(conn, target);
	}
	kr_remote_check_password(conn->pg, target->source);
	if (target->close_after)
		conn->unwanted = true;
	conn->withhold |= target->withhold;
	kr_conn_finish_writer(conn);
	queue_begin(conn, reads_once);
	return conn;
}

/*
 * Two databases could not commit together, so by default only one is written
 * in a transaction. What a savepoint has undone does not count, nor do servers
 * with connection options: several may be written, as through postgres_fdw.
 */
void
kr_conn_note_write(KrConn *conn)
{
	dlist_iter	iter;

	conn->await_commit = true;
	if (conn->wrote_depth > 0)
		return;
	if (OidIsValid(conn->serverid))
	{
		conn->wrote_depth = conn->depth;
		return;
	}

	dlist_foreach(iter, &connections)
	{
		KrConn	   *other = dlist_container(KrConn, node, iter.cur);

		if (other != conn && other->leased && other->wrote_depth > 0 &&
			!OidIsValid(other->serverid) && !kr_guc_cross_tenant_writes)
			ereport(ERROR,
					(errcode(KR_ERR_CROSS_TENANT_WRITE),
					 errmsg("cannot write for two tenants in one transaction"),
					 errdetail("This transaction has written %s already; the two could not be committed together.",
							   describe_lease(other)),
					 errhint("Use a transaction for each, or set kessel.cross_tenant_writes to accept that one may be committed without the other.")));
	}
	conn->wrote_depth = conn->depth;
}

/* ---------- end of transactions ---------- */

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

	dlist_foreach(iter, &connections)
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (!conn->leased)
			continue;
		if (conn->depth > 0)
			(void) send_commit(conn);
		else
			finish_alone(conn);
	}
	dlist_foreach(iter, &connections)
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

	dlist_foreach(iter, &connections)
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

	dlist_foreach(iter, &connections)
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

	dlist_foreach_modify(iter, &connections)
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

	if (dlist_is_empty(&connections))
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
			dlist_foreach(iter, &connections)
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

	dlist_foreach(iter, &connections)
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

	dlist_foreach(iter, &connections)
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

	dlist_foreach(iter, &connections)
		PQfinish(dlist_container(KrConn, node, iter.cur)->pg);
	dlist_init(&connections);
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

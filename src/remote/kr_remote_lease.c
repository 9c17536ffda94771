/*
 * kr_remote_lease.c
 *	  The connections of this session, and leasing them.
 *
 * A connection is leased to one tenant for a transaction: the context that the
 * agent set there is transactional. Between transactions any tenant of the same
 * data source may take it. The remote transaction starts with the first query,
 * in the same trip, and is as deep in savepoints as the local one was when it
 * last sent something. A local transaction that is no block and only reads needs
 * no transaction block there: its query and what goes before it, up to the
 * synchronisation point, are one transaction by themselves.
 *
 * What the end of the local transaction does to them: kr_remote_xact.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
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

/* ---------- what goes before a query ---------- */

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

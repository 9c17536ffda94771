/*
 * kr_remote_spare.c
 *	  Connections that a fleet's work has left open, for the next one.
 *
 * They are no connections of the local transaction (kr_remote_lease.c) and are in
 * none there. Each is as a new session is but for the settings that were made at
 * its beginning: nothing that could be told by the next user, who may work for
 * another tenant of the same source. The session owns them; there are at most
 * kessel.max_idle_connections, and the one that was not used for the longest time
 * goes first.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "kr_guc.h"
#include "kr_remote_internal.h"

static dlist_head spares = DLIST_STATIC_INIT(spares);
static int	nspares = 0;
static bool exit_registered = false;

dlist_head *
kr_spare_list(void)
{
	return &spares;
}

/* Forget one; the connection is the caller's. */
static PGconn *
remove_spare(KrSpare *spare)
{
	PGconn	   *pg = spare->pg;

	dlist_delete(&spare->node);
	nspares--;
	pfree(spare->source_name);
	pfree(spare);
	return pg;
}

static void
close_at_exit(int code, Datum arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, &spares)
		PQfinish(dlist_container(KrSpare, node, iter.cur)->pg);
	dlist_init(&spares);
}

/* Nothing has come that nobody has asked for: a farewell, or the end itself. */
static bool
is_alive(const KrSpare *spare)
{
	PGconn	   *pg = spare->pg;

	if (spare->idle_limit != 0 && GetCurrentTimestamp() >= spare->idle_limit)
		return false;
	return PQconsumeInput(pg) == 1 && !PQisBusy(pg) && PQstatus(pg) == CONNECTION_OK &&
		PQtransactionStatus(pg) == PQTRANS_IDLE;
}

PGconn *
kr_spare_take(const KrSource *source)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &spares)
	{
		KrSpare    *spare = dlist_container(KrSpare, node, iter.cur);
		bool		usable;
		PGconn	   *pg;

		if (memcmp(&spare->source_id, &source->id, sizeof(pg_uuid_t)) != 0 ||
			spare->is_owner != source->is_owner)
			continue;
		usable = spare->stamp == source->stamp && is_alive(spare);
		pg = remove_spare(spare);
		if (usable)
			return pg;
		kr_remote_disconnect(pg);
	}
	return NULL;
}

bool
kr_spare_close_oldest(void)
{
	if (dlist_is_empty(&spares))
		return false;
	kr_remote_disconnect(remove_spare(dlist_container(KrSpare, node, dlist_tail_node(&spares))));
	return true;
}

void
kr_spare_put(PGconn *pg, const KrSource *source)
{
	KrSpare    *spare;

	if (!exit_registered)
		on_proc_exit(close_at_exit, 0);
	exit_registered = true;
	if (kr_guc_max_idle_connections == 0)
	{
		kr_remote_disconnect(pg);
		return;
	}
	while (nspares >= kr_guc_max_idle_connections)
		(void) kr_spare_close_oldest();

	spare = MemoryContextAllocZero(TopMemoryContext, sizeof(KrSpare));
	spare->pg = pg;
	spare->source_id = source->id;
	spare->is_owner = source->is_owner;
	spare->stamp = source->stamp;
	spare->source_name = MemoryContextStrdup(TopMemoryContext, source->name);
	spare->last_used = GetCurrentTimestamp();
	spare->idle_limit = kr_guc_connection_idle_timeout == 0 ? 0 :
		TimestampTzPlusMilliseconds(spare->last_used,
									kr_guc_connection_idle_timeout * INT64CONST(1000) - KR_IDLE_MARGIN_MS);
	dlist_push_head(&spares, &spare->node);
	nspares++;
}

int
kr_spare_close(const pg_uuid_t *source_id)
{
	dlist_mutable_iter iter;
	int			count = 0;

	dlist_foreach_modify(iter, &spares)
	{
		KrSpare    *spare = dlist_container(KrSpare, node, iter.cur);

		if (source_id != NULL && memcmp(&spare->source_id, source_id, sizeof(pg_uuid_t)) != 0)
			continue;
		kr_remote_disconnect(remove_spare(spare));
		count++;
	}
	return count;
}

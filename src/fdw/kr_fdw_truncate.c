/*
 * kr_fdw_truncate.c
 *	  TRUNCATE of router tables.
 *
 * Row security does not filter TRUNCATE: where tenants share tables it would
 * empty them for all, so it is refused there.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"

/* Servers of which this transaction has truncated tables, in its memory. */
static List *truncated_servers = NIL;

bool
kr_has_truncated(Oid serverid)
{
	return list_member_oid(truncated_servers, serverid);
}

void
kr_forget_truncated(void)
{
	truncated_servers = NIL;
}

static void
note_truncated(Oid serverid)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	truncated_servers = list_append_unique_oid(truncated_servers, serverid);
	MemoryContextSwitchTo(old);
}

/* postgres_fdw's option: a table's own setting counts, else its server's. */
static void
check_truncatable(Relation rel)
{
	ForeignTable *table = GetForeignTable(RelationGetRelid(rel));
	ForeignServer *server = GetForeignServer(table->serverid);
	bool		truncatable = true;
	ListCell   *cell;

	foreach(cell, list_concat_copy(server->options, table->options))
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "truncatable") == 0)
			truncatable = defGetBoolean(option);
	}
	if (!truncatable)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("foreign table \"%s\" does not allow truncates",
						RelationGetRelationName(rel))));
}

static void
refuse_shared(const KrFdwTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot TRUNCATE a table that tenants share"),
			 errdetail("Row security does not apply to TRUNCATE, so the rows of all tenants of data source \"%s\" would go.",
					   target->remote.source->name),
			 errhint("Use DELETE.")));
}

/* All tables are on the same server. */
void
kr_exec_truncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	KrFdwTarget target;
	Oid			serverid = GetForeignServerIdByRelId(RelationGetRelid((Relation) linitial(rels)));
	KrStream   *stream = palloc(sizeof(KrStream));
	StringInfoData sql;
	List	   *relids = NIL;
	ListCell   *cell;

	kr_fdw_resolve(serverid, GetUserId(), &target);
	if (target.remote.source->isolation == KR_ISOLATION_ROW)
		refuse_shared(&target);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "TRUNCATE ");
	foreach(cell, rels)
	{
		Relation	rel = lfirst(cell);

		check_truncatable(rel);
		kr_permission_to_write(RelationGetRelid(rel));
		relids = lappend_oid(relids, RelationGetRelid(rel));
		appendStringInfoString(&sql, foreach_current_index(cell) > 0 ? ", " : "");
		kr_fdw_append_table_name(&sql, rel);
	}
	appendStringInfo(&sql, " %s IDENTITY %s", restart_seqs ? "RESTART" : "CONTINUE",
					 behavior == DROP_CASCADE ? "CASCADE" : "RESTRICT");

	kr_stream_init(stream, kr_remote_lease(&target.remote, false), CurrentMemoryContext,
				   false, NULL, NULL);
	kr_stream_queue(stream, kr_fdw_adapt_sql(sql.data, &target, relids), 0, NULL, true);
	note_truncated(serverid);
	kr_stream_send(stream);
	(void) kr_stream_next(stream);
}

/*
 * kr_fdw_scan.c
 *	  SELECT on router tables.
 *
 * The target is decided when the scan begins and stays the same for its whole
 * life, so a cursor goes on reading the tenant for which it was opened. The
 * query is sent with the first row that is asked for. Rows stream; when
 * somebody else needs the connection, what is left is put aside.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"

typedef struct KrScanState
{
	KrFdwTarget target;
	const char *sql;
	KrParams	params;
	KrRowReader reader;
	KrStream	stream;
	KrParked	parked;
	bool		sent;			/* the query is under way or answered */
	bool		ended;			/* the last row has been delivered */
	bool		is_parked;		/* rows come from parked */
	bool		parked_all;		/* up to the last one */
} KrScanState;

/* fdw_private of a scan, as postgres_fdw's GetForeignPlan makes it */
#define SCAN_SQL 0
#define SCAN_RETRIEVED 1
#define SCAN_FETCH_SIZE 2

/*
 * The tuples that a scan delivers. In a join, whole-row columns of a table are
 * of type record as the planner sees them; they are read as the table's type.
 */
TupleDesc
kr_fdw_scan_desc(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	TupleDesc	desc;

	if (plan->scan.scanrelid > 0)
		return RelationGetDescr(node->ss.ss_currentRelation);

	desc = CreateTupleDescCopy(node->ss.ss_ScanTupleSlot->tts_tupleDescriptor);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		Var		   *var = (Var *) list_nth_node(TargetEntry, plan->fdw_scan_tlist, i)->expr;
		RangeTblEntry *rte;
		Oid			rowtype;

		if (attr->atttypid != RECORDOID || attr->atttypmod >= 0 ||
			!IsA(var, Var) || var->varattno != 0)
			continue;
		rte = rt_fetch(var->varno, estate->es_range_table);
		if (rte->rtekind != RTE_RELATION)
			continue;
		rowtype = get_rel_type_id(rte->relid);
		if (OidIsValid(rowtype))
			attr->atttypid = rowtype;
	}
	return desc;
}

/* The foreign tables that a scan reads. */
List *
kr_fdw_scan_relids(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	List	   *relids = NIL;
	int			rti = -1;

	while ((rti = bms_next_member(plan->fs_relids, rti)) >= 0)
	{
		RangeTblEntry *rte = rt_fetch(rti, estate->es_range_table);

		if (rte->rtekind == RTE_RELATION)
			relids = lappend_oid(relids, rte->relid);
	}
	return relids;
}

/* Somebody else needs the connection. */
static void
park(KrStream *stream)
{
	KrScanState *state = stream->owner;

	state->is_parked = true;
	while (stream->pending > 0)
	{
		PGresult   *result = kr_stream_next(stream);

		if (result != NULL)
			kr_parked_add(&state->parked, &state->reader, result);
	}
	state->parked_all = true;
}

/*
 * postgres_fdw deparses FOR UPDATE, but neither SKIP LOCKED nor NOWAIT: such a
 * query would wait for the locks that it means to avoid, and take more of them
 * than it asks for.
 */
static void
check_wait_policy(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	int			rti = -1;

	if (estate->es_rowmarks == NULL)
		return;
	while ((rti = bms_next_member(plan->fs_relids, rti)) >= 0)
	{
		ExecRowMark *mark = ExecFindRowMark(estate, rti, true);

		if (mark != NULL && mark->strength != LCS_NONE && mark->waitPolicy != LockWaitBlock)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s is not supported on router tables",
							mark->waitPolicy == LockWaitSkip ? "SKIP LOCKED" : "NOWAIT"),
					 errhint("Use FOR UPDATE alone, with lock_timeout or statement_timeout, or claim a row with UPDATE ... RETURNING.")));
	}
}

void
kr_begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	KrScanState *state;
	Node	   *sql;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	if (list_length(plan->fdw_private) < 3 ||
		!IsA(sql = list_nth(plan->fdw_private, SCAN_SQL), String) ||
		!IsA(list_nth(plan->fdw_private, SCAN_FETCH_SIZE), Integer))
		kr_fdw_layout_error("scan");

	check_wait_policy(node);
	state = palloc0(sizeof(KrScanState));
	node->fdw_state = state;
	kr_fdw_resolve(plan->fs_server, kr_scan_user(node), &state->target);
	state->sql = kr_fdw_adapt_sql(strVal(sql), &state->target, kr_fdw_scan_relids(node));
	kr_params_init(&state->params, (PlanState *) node, plan->fdw_exprs);
	kr_reader_init(&state->reader, kr_fdw_scan_desc(node), node->ss.ss_currentRelation,
				   list_nth(plan->fdw_private, SCAN_RETRIEVED), plan->fsSystemCol, estate);
	kr_parked_init(&state->parked, estate);
}

static void
send_query(ForeignScanState *node, KrScanState *state)
{
	const char *const *values = kr_params_eval(&state->params, node->ss.ps.ps_ExprContext);

	if (state->stream.conn == NULL)
		kr_stream_init(&state->stream, kr_remote_lease(&state->target.remote),
					   node->ss.ps.state->es_query_cxt, true, park, state);
	else
		(void) kr_remote_lease(&state->target.remote);
	kr_stream_queue(&state->stream, state->sql, state->params.count, values, false);
	kr_stream_send(&state->stream);
	state->sent = true;
}

TupleTableSlot *
kr_iterate_scan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	PGresult   *result;

	if (state->ended)
		return ExecClearTuple(slot);
	if (!state->sent)
		send_query(node, state);
	if (state->is_parked)
	{
		if (kr_parked_next(&state->parked, &state->reader, slot))
			return slot;

		/* An error broke the parking off: this raises what says so. */
		if (!state->parked_all)
		{
			kr_stream_abandon(&state->stream);
			(void) kr_stream_next(&state->stream);
		}
	}
	else if ((result = kr_stream_next(&state->stream)) != NULL)
	{
		kr_reader_check(&state->reader, result);
		kr_reader_store_result(&state->reader, result, 0, slot);
		return slot;
	}
	state->ended = true;
	return ExecClearTuple(slot);
}

void
kr_rescan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;

	if (state == NULL || !state->sent)
		return;
	kr_stream_abandon(&state->stream);
	kr_parked_end(&state->parked);
	state->sent = state->ended = state->is_parked = state->parked_all = false;
}

void
kr_end_scan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;

	if (state == NULL)
		return;
	kr_stream_abandon(&state->stream);
	kr_parked_end(&state->parked);
}

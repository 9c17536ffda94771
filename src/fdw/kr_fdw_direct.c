/*
 * kr_fdw_direct.c
 *	  UPDATE and DELETE that run as a whole in the data source.
 *
 * The statement runs to its end when the first row is asked for. What RETURNING
 * gives is put aside, since computing the local part of it may need the
 * connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "executor/executor.h"
#include "nodes/plannodes.h"
#include "utils/rel.h"

#include "kr_fdw.h"

typedef struct KrDirectState
{
	KrFdwTarget target;
	const char *sql;
	bool		set_processed;	/* it counts for the command's tag */
	bool		executed;
	KrParams	params;
	KrRowReader reader;
	KrParked	rows;
	AttrNumber *columns;		/* of a join: where the table's columns are in its rows; 0: nowhere */
	AttrNumber	ctid_column;
	KrStream	stream;
} KrDirectState;

/* fdw_private of a direct modification, as postgres_fdw's PlanDirectModify makes it */
#define DIRECT_SQL 0
#define DIRECT_HAS_RETURNING 1
#define DIRECT_RETRIEVED 2
#define DIRECT_SET_PROCESSED 3

/*
 * RETURNING of a join: its rows have columns of all its tables, but what is
 * said of the table that was changed is looked up in a row of that table.
 */
static void
map_columns(ForeignScanState *node, KrDirectState *state, List *retrieved)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	ResultRelInfo *relinfo = node->resultRelInfo;
	ListCell   *cell;

	state->columns = palloc0(RelationGetNumberOfAttributes(relinfo->ri_RelationDesc) *
							 sizeof(AttrNumber));
	foreach(cell, plan->fdw_scan_tlist)
	{
		Var		   *var = (Var *) lfirst_node(TargetEntry, cell)->expr;
		AttrNumber	column = foreach_current_index(cell) + 1;

		if (!IsA(var, Var) || var->varno != relinfo->ri_RangeTableIndex ||
			!list_member_int(retrieved, column))
			continue;
		if (var->varattno > 0)
			state->columns[var->varattno - 1] = column;
		else if (var->varattno == SelfItemPointerAttributeNumber)
			state->ctid_column = column;
	}
}

/* The row of the table that was changed, out of one of the join. */
static TupleTableSlot *
changed_row(EState *estate, ResultRelInfo *relinfo, KrDirectState *state,
			TupleTableSlot *joined)
{
	TupleTableSlot *slot = ExecGetReturningSlot(estate, relinfo);
	HeapTuple	tuple;

	slot_getallattrs(joined);
	ExecClearTuple(slot);
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		AttrNumber	column = state->columns[i];

		slot->tts_isnull[i] = column == 0 || joined->tts_isnull[column - 1];
		slot->tts_values[i] = column == 0 ? (Datum) 0 : joined->tts_values[column - 1];
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(relinfo->ri_RelationDesc);

	/* System columns are a tuple's alone; those that were not asked for are invalid. */
	if (state->ctid_column > 0 && !joined->tts_isnull[state->ctid_column - 1])
	{
		tuple = ExecFetchSlotHeapTuple(slot, true, NULL);
		tuple->t_self = tuple->t_data->t_ctid =
			*(ItemPointer) DatumGetPointer(joined->tts_values[state->ctid_column - 1]);
		HeapTupleHeaderSetXmax(tuple->t_data, InvalidTransactionId);
		HeapTupleHeaderSetXmin(tuple->t_data, InvalidTransactionId);
		HeapTupleHeaderSetCmin(tuple->t_data, InvalidTransactionId);
	}
	return slot;
}

void
kr_begin_direct_modify(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	List	   *private = plan->fdw_private;
	KrDirectState *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	if (list_length(private) < 4 ||
		!IsA(list_nth(private, DIRECT_SQL), String) ||
		!IsA(list_nth(private, DIRECT_HAS_RETURNING), Boolean) ||
		!IsA(list_nth(private, DIRECT_SET_PROCESSED), Boolean))
		kr_fdw_layout_error("direct modification");
	kr_permission_of_scan(node);

	state = palloc0(sizeof(KrDirectState));
	node->fdw_state = state;
	kr_fdw_resolve(plan->fs_server, kr_scan_user(node), &state->target);
	state->sql = kr_fdw_adapt_sql(strVal(list_nth(private, DIRECT_SQL)), &state->target,
								  kr_fdw_scan_relids(node));
	state->set_processed = boolVal(list_nth(private, DIRECT_SET_PROCESSED));
	kr_params_init(&state->params, (PlanState *) node, plan->fdw_exprs);
	kr_parked_init(&state->rows, estate);
	if (!boolVal(list_nth(private, DIRECT_HAS_RETURNING)))
		return;
	kr_reader_init(&state->reader, kr_fdw_scan_desc(node), node->ss.ss_currentRelation,
				   list_nth(private, DIRECT_RETRIEVED), true, estate);
	kr_reader_explain(&state->reader, &state->target, node);
	if (plan->scan.scanrelid == 0)
		map_columns(node, state, list_nth(private, DIRECT_RETRIEVED));
}

static void
execute(ForeignScanState *node, KrDirectState *state)
{
	EState	   *estate = node->ss.ps.state;
	const char *const *values = kr_params_eval(&state->params, node->ss.ps.ps_ExprContext);

	kr_stream_init(&state->stream, kr_remote_lease(&state->target.remote, false),
				   estate->es_query_cxt, true, NULL, NULL);
	state->stream.may_repeat = true;
	kr_stream_queue(&state->stream, state->sql, state->params.count, values, true);
	kr_stream_send(&state->stream);
	while (state->stream.pending > 0)
	{
		PGresult   *result = kr_stream_next(&state->stream);

		if (state->stream.outdated)
		{
			(void) kr_remote_lease(&state->target.remote, false);
			kr_stream_queue(&state->stream, state->sql, state->params.count, values, true);
			kr_stream_send(&state->stream);
			continue;
		}
		if (result != NULL && state->reader.desc != NULL &&
			kr_reader_describe(&state->reader, result, true))
			kr_parked_add(&state->rows, &state->reader, result, 0);
	}
	state->executed = true;

	if (state->set_processed)
		estate->es_processed += state->stream.affected;
}

TupleTableSlot *
kr_iterate_direct_modify(ForeignScanState *node)
{
	KrDirectState *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	ResultRelInfo *relinfo = node->resultRelInfo;

	if (!state->executed)
	{
		execute(node, state);
		if (relinfo->ri_projectReturning == NULL && node->ss.ps.instrument)
			node->ss.ps.instrument->tuplecount += state->stream.affected;
	}
	if (relinfo->ri_projectReturning == NULL)
		return ExecClearTuple(slot);

	if (state->reader.desc == NULL)
	{
		/* RETURNING of constants only: as many empty rows as were affected. */
		if (state->stream.affected == 0)
			return ExecClearTuple(slot);
		state->stream.affected--;
		ExecStoreAllNullTuple(slot);
	}
	else if (!kr_parked_next(&state->rows, &state->reader, slot))
		return ExecClearTuple(slot);

	relinfo->ri_projectReturning->pi_exprContext->ecxt_scantuple =
		state->columns == NULL ? slot : changed_row(node->ss.ps.state, relinfo, state, slot);
	return slot;
}

void
kr_end_direct_modify(ForeignScanState *node)
{
	KrDirectState *state = node->fdw_state;

	if (state != NULL)
		kr_parked_end(&state->rows);
}

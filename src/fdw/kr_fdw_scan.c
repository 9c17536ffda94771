/*
 * kr_fdw_scan.c
 *	  SELECT on router tables.
 *
 * The target is decided when the scan begins and stays the same for its whole
 * life, so a cursor goes on reading the tenant for which it was opened. The
 * query is sent with the first row that is asked for. Rows stream; when
 * somebody else needs the connection, what is left is put aside.
 *
 * Under an Append that waits for several servers at once, a row that has not
 * arrived is reported as pending. One scan a connection is under way; the next
 * one starts when that has ended, or when there is nothing else to wait for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/execAsync.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "storage/latch.h"
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
	PGresult   *rows;			/* those that have come, the connection's; NULL: none */
	int			next_row;		/* of them */
	KrParked	parked;
	AsyncRequest *request;		/* the latest; NULL: rows are waited for */
	bool		reads_once;		/* it may run outside of a transaction there */
	bool		as_text;		/* the source has a type that we cannot read in binary form */
	bool		described;		/* the reader knows the form of the rows */
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

/*
 * Look at the first rows of a query. False where they are in a form that cannot
 * be read: the query has to be asked again, for text.
 */
static bool
accept(KrScanState *state, const PGresult *result)
{
	if (state->described)
		return true;
	if (!kr_reader_describe(&state->reader, result, !state->stream.binary))
	{
		state->as_text = true;
		kr_stream_refuse_binary(&state->stream);
		return false;
	}
	state->described = true;
	return true;
}

/* Put aside what has come and has not been delivered. */
static void
park_rows(KrScanState *state)
{
	if (state->rows != NULL && accept(state, state->rows))
		kr_parked_add(&state->parked, &state->reader, state->rows, state->next_row);
	state->rows = NULL;
}

/* Somebody else needs the connection. */
static void
park(KrStream *stream)
{
	KrScanState *state = stream->owner;

	state->is_parked = true;
	stream->may_repeat = false;	/* the transaction is somebody else's, too */
	park_rows(state);
	while (stream->pending > 0)
	{
		state->rows = kr_stream_next(stream);
		state->next_row = 0;
		park_rows(state);
	}
	state->parked_all = true;
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
	kr_permission_of_scan(node);

	state = palloc0(sizeof(KrScanState));
	node->fdw_state = state;
	kr_fdw_resolve(plan->fs_server, kr_scan_user(node), &state->target);
	state->sql = kr_fdw_adapt_sql(strVal(sql), &state->target, kr_fdw_scan_relids(node));
	kr_params_init(&state->params, (PlanState *) node, plan->fdw_exprs);
	kr_reader_init(&state->reader, kr_fdw_scan_desc(node), node->ss.ss_currentRelation,
				   list_nth(plan->fdw_private, SCAN_RETRIEVED), plan->fsSystemCol, estate);
	kr_reader_explain(&state->reader, &state->target, node);
	kr_parked_init(&state->parked, estate);

	/* Nothing is written or locked, here or elsewhere in the statement. */
	state->reads_once = estate->es_plannedstmt->commandType == CMD_SELECT &&
		estate->es_plannedstmt->rowMarks == NIL &&
		!estate->es_plannedstmt->hasModifyingCTE;
}

static void
send_query(ForeignScanState *node, KrScanState *state)
{
	const char *const *values = kr_params_eval(&state->params, node->ss.ps.ps_ExprContext);
	KrConn	   *conn = kr_remote_lease(&state->target.remote, state->reads_once);

	if (state->stream.conn == NULL)
		kr_stream_init(&state->stream, conn, node->ss.ps.state->es_query_cxt, true,
					   park, state);
	state->stream.may_repeat = true;
	state->stream.binary = state->reader.binary && !state->as_text;
	kr_stream_queue(&state->stream, state->sql, state->params.count, values, false);
	kr_stream_send(&state->stream);
	state->sent = true;
}

/* Forget the query and what came of it. */
static void
reset(KrScanState *state)
{
	kr_stream_abandon(&state->stream);
	kr_parked_end(&state->parked);
	state->rows = NULL;
	state->described = false;
	state->sent = state->ended = state->is_parked = state->parked_all = false;
}

/* Have rows at hand that can be read; false at the end. */
static bool
fetch_rows(ForeignScanState *node, KrScanState *state)
{
	for (;;)
	{
		if (!state->sent)
			send_query(node, state);
		state->rows = kr_stream_next(&state->stream);
		state->next_row = 0;
		if (state->stream.outdated)
		{
			reset(state);
			continue;
		}
		if (state->rows == NULL)
			return false;
		if (accept(state, state->rows))
			return true;
		reset(state);
	}
}

/* Rows, their end or what went wrong are there without waiting. */
static bool
is_ready(KrScanState *state)
{
	/* Parked rows that could not be read: ask for them as text. */
	if (state->is_parked && state->as_text && !state->described)
		reset(state);

	return state->ended || state->is_parked ||
		(state->rows != NULL && state->stream.pending > 0) ||
		(state->sent && kr_stream_is_ready(&state->stream));
}

TupleTableSlot *
kr_iterate_scan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	/* Not the end: the Append will ask again. */
	if (node->ss.ps.async_capable && !is_ready(state))
		return ExecClearTuple(slot);

	if (state->is_parked && state->as_text && !state->described)
		reset(state);
	if (state->ended)
		return ExecClearTuple(slot);
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
	else if ((state->rows != NULL && state->stream.pending > 0) || fetch_rows(node, state))
	{
		kr_reader_store_result(&state->reader, state->rows, state->next_row, slot);
		if (++state->next_row == PQntuples(state->rows))
			state->rows = NULL;
		return slot;
	}
	state->ended = true;
	return ExecClearTuple(slot);
}

void
kr_rescan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;

	if (state != NULL && state->sent)
		reset(state);
}

void
kr_end_scan(ForeignScanState *node)
{
	KrScanState *state = node->fdw_state;

	if (state != NULL)
		reset(state);
}

/* ---------- for an Append that waits for several scans ---------- */

static void
start(ForeignScanState *node, KrScanState *state)
{
	send_query(node, state);
	kr_stream_push(&state->stream);
}

/* Answer a request with a row or the end, or say that it is pending. */
static void
produce(AsyncRequest *request)
{
	ForeignScanState *node = (ForeignScanState *) request->requestee;
	KrScanState *state = node->fdw_state;

	if (is_ready(state))
	{
		TupleTableSlot *slot = node->ss.ps.ExecProcNodeReal(&node->ss.ps);

		if (!TupIsNull(slot))
		{
			ExecAsyncRequestDone(request, slot);
			return;
		}
	}
	if (state->ended)
		ExecAsyncRequestDone(request, NULL);
	else
		ExecAsyncRequestPending(request);
}

void
kr_async_request(AsyncRequest *request)
{
	ForeignScanState *node = (ForeignScanState *) request->requestee;
	KrScanState *state = node->fdw_state;

	state->request = request;
	if (!state->sent && kr_remote_reader(&state->target.remote) == NULL)
		start(node, state);
	produce(request);
}

/*
 * True when the scan may take its connection from the one that is reading there.
 * That is put aside in full, which is waited for, so it is the last resort.
 */
static bool
may_interrupt(AsyncRequest *request, KrStream *reader)
{
	AppendState *append = (AppendState *) request->requestor;
	KrScanState *other = reader->park == park ? reader->owner : NULL;

	if (other != NULL && other->request != NULL && other->request->callback_pending &&
		other->request->requestor == request->requestor)
		return false;
	return bms_is_empty(append->as_needrequest) &&
		GetNumRegisteredWaitEvents(append->as_eventset) <= 1;
}

void
kr_async_configure_wait(AsyncRequest *request)
{
	ForeignScanState *node = (ForeignScanState *) request->requestee;
	KrScanState *state = node->fdw_state;
	AppendState *append = (AppendState *) request->requestor;

	if (!state->sent)
	{
		KrStream   *reader = kr_remote_reader(&state->target.remote);

		if (reader != NULL && !may_interrupt(request, reader))
			return;
		start(node, state);
	}
	if (is_ready(state))
	{
		request->callback_pending = false;
		produce(request);
		ExecAsyncResponse(request);
		if (node->ss.ps.instrument)
			InstrUpdateTupleCount(node->ss.ps.instrument, TupIsNull(request->result) ? 0.0 : 1.0);
		if (request->request_complete)
			return;
	}
	AddWaitEventToSet(append->as_eventset, WL_SOCKET_READABLE,
					  kr_stream_socket(&state->stream), NULL, request);
}

void
kr_async_notify(AsyncRequest *request)
{
	produce(request);
}

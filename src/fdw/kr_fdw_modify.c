/*
 * kr_fdw_modify.c
 *	  INSERT, UPDATE and DELETE row by row, COPY FROM and tuple routing.
 *
 * Each row is one execution of a prepared statement. Rows of an INSERT without
 * RETURNING come in batches. A few go as one execution each, all in one trip;
 * many go in bulk (kr_fdw_bulk.c), in several statements a trip, so that the
 * data source works on one while the next is made.
 *
 * After the first batches, a long INSERT goes on as a COPY that stays open from
 * batch to batch, if COPY does the same with every row: no view, rule, trigger,
 * row security, ON CONFLICT. How many rows arrived is then known beforehand; a
 * batch that is not full is the last one and ends the COPY, or the end of the
 * statement does.
 *
 * The executor keeps a batch's rows until the batch is full. How many that may
 * be is decided from batch to batch: few at first, so that wide rows do no harm,
 * then as many as fit into a bound on their memory.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"
#include "kr_fdw_bulk.h"
#include "kr_fdw_conflict.h"
#include "kr_fdw_insert.h"

/* COPYs that a statement may open because somebody else has ended the one before. */
#define MAX_COPIES 4

/* Rows of the first batch of an INSERT, and by what factor batches grow. */
#define FIRST_BATCH 128
#define BATCH_GROWTH 8

/* What the rows of a batch, and the executor's slots for them, may take. */
#define BATCH_BYTES (4 * 1024 * 1024)
#define SLOT_BYTES (16 * 1024 * 1024)

/* Fewer rows than this go one by one. */
#define MIN_BULK 8

/* After so many rows an INSERT may go on as COPY. */
#define MIN_COPY 1000

/* The INSERT with DEFAULT for some of its parameters. */
typedef struct KrInsertVariant
{
	bool	   *use_default;	/* one for each parameter */
	const char *sql;
} KrInsertVariant;

/* An INSERT as it was planned. */
typedef struct KrInsertText
{
	const char *head;			/* up to ON CONFLICT ... */
	const char *tail;			/* ... and from there on */
	bool		do_nothing;
	List	   *conflict;		/* with a target */
	List	   *left_out;		/* columns that take the source's own default */
	bool		left_out_in_head;	/* head says DEFAULT for them */
} KrInsertText;

typedef struct KrModifyState
{
	Relation	rel;
	KrFdwTarget target;
	const char *sql;			/* of an INSERT: NULL before the first row */
	List	   *target_attrs;	/* attnums sent, in order; generated ones are not */
	bool		has_returning;
	AttrNumber	ctid_attno;		/* junk column that tells the row; 0: INSERT */
	int			nparams;
	FmgrInfo   *output;			/* one for each parameter */
	bool		needs_settings;
	bool	   *source_default; /* INSERT: NULL here means the source's own default; NULL: nowhere */
	List	   *variants;		/* KrInsertVariant, as rows ask for them */
	const char **values;
	MemoryContext cxt;			/* of one row's parameters */
	KrRowReader reader;			/* of RETURNING */
	KrStream	stream;

	/* INSERT of many rows */
	KrBulk	   *bulk;			/* NULL: not made yet */
	bool		no_bulk;		/* not to be made */
	const char *head;			/* the statement up to ON CONFLICT ... */
	const char *tail;			/* ... and from there on */
	KrBulkSuffix suffix;		/* ON CONFLICT */
	KrParams	params;			/* its parameters */
	int			batch_option;	/* option batch_size; 0: none */
	bool		more_slots;		/* the executor's arrays have been made longer */
	uint64		sent;			/* rows of the statement so far */

	/* rows in a COPY */
	int			copies;			/* opened for this statement */
	bool		from_copy;		/* COPY FROM: rows may be kept back */
	bool		deferred;
	KrCopier   *copier;			/* NULL: not made yet, or of no use */
	bool		no_copy;
	uint64		copied_from;	/* the row that opened the COPY */
	KrWriter	writer;			/* active while rows are kept back */
	List	   *ranges;			/* of the statements that are not answered */
} KrModifyState;

/* Which rows of a statement an answer is about. */
typedef struct KrRowRange
{
	uint64		first;
	uint64		last;			/* 0: of a COPY that began with the first */
} KrRowRange;

/* fdw_private of a modification, as postgres_fdw's PlanForeignModify makes it */
#define MODIFY_SQL 0
#define MODIFY_TARGETS 1
#define MODIFY_VALUES_END 2
#define MODIFY_HAS_RETURNING 3
#define MODIFY_RETRIEVED 4

static void
add_output(KrModifyState *state, Oid type)
{
	Oid			function;
	bool		varlena;

	getTypeOutputInfo(type, &function, &varlena);
	fmgr_info(function, &state->output[state->nparams++]);
	state->needs_settings |= kr_type_needs_settings(type);
}

/* Option batch_size of the table or else of its server; 0: not set. */
static int
batch_size_option(Relation rel)
{
	ForeignTable *table = GetForeignTable(RelationGetRelid(rel));
	const char *value = kr_fdw_option(table->options, "batch_size");

	if (value == NULL)
		value = kr_fdw_option(GetForeignServer(table->serverid)->options, "batch_size");
	return value ? pg_strtoint32(value) : 0;
}

static void
init_insert(KrModifyState *state, ModifyTableState *mtstate, const KrInsertText *insert)
{
	state->head = kr_fdw_adapt_sql(insert->head, &state->target,
								   list_make1_oid(RelationGetRelid(state->rel)));
	state->tail = insert->tail;
	state->suffix.text = insert->do_nothing ? " ON CONFLICT DO NOTHING" : "";
	state->suffix.conflict = insert->conflict;
	if (insert->conflict != NIL)
		kr_params_init(&state->params, &mtstate->ps, kr_conflict_params(insert->conflict));
	state->batch_option = batch_size_option(state->rel);
}

static KrModifyState *
make_state(ModifyTableState *mtstate, ResultRelInfo *relinfo, const char *sql,
		   const KrInsertText *insert, List *targets, bool has_returning, List *retrieved)
{
	EState	   *estate = mtstate->ps.state;
	Relation	rel = relinfo->ri_RelationDesc;
	TupleDesc	desc = RelationGetDescr(rel);
	KrModifyState *state = palloc0(sizeof(KrModifyState));
	ListCell   *cell;

	kr_fdw_resolve(GetForeignServerIdByRelId(RelationGetRelid(rel)),
				   kr_modify_user(estate, relinfo), &state->target);
	state->rel = rel;
	if (insert == NULL)
		state->sql = kr_fdw_adapt_sql(sql, &state->target,
									  list_make1_oid(RelationGetRelid(rel)));
	else
		init_insert(state, mtstate, insert);
	state->has_returning = has_returning;
	state->output = palloc0((list_length(targets) + 1) * sizeof(FmgrInfo));
	state->values = palloc0((list_length(targets) + 1 + state->params.count) * sizeof(char *));
	state->cxt = AllocSetContextCreate(estate->es_query_cxt, "kessel modified row",
									   ALLOCSET_SMALL_SIZES);

	if (insert == NULL)
	{
		state->ctid_attno = ExecFindJunkAttributeInTlist(outerPlanState(mtstate)->plan->targetlist,
														 "ctid");
		if (!AttributeNumberIsValid(state->ctid_attno))
			elog(ERROR, "could not find junk ctid column");
		add_output(state, TIDOID);
	}
	foreach(cell, targets)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, lfirst_int(cell) - 1);
		bool		left_out;

		Assert(!attr->attisdropped);
		/* The statement says DEFAULT for these. */
		left_out = insert != NULL && list_member_int(insert->left_out, lfirst_int(cell));
		if (attr->attgenerated || (left_out && insert->left_out_in_head))
			continue;
		state->target_attrs = lappend_int(state->target_attrs, lfirst_int(cell));
		if (left_out || (insert != NULL && attr->attnotnull && !attr->atthasdef))
		{
			if (state->source_default == NULL)
				state->source_default = palloc0(list_length(targets) * sizeof(bool));
			state->source_default[state->nparams] = true;
		}
		add_output(state, attr->atttypid);
	}
	if (has_returning)
	{
		kr_reader_init(&state->reader, desc, rel, retrieved, true, estate);
		kr_reader_explain(&state->reader, &state->target, NULL);
	}
	return state;
}

void
kr_begin_modify(ModifyTableState *mtstate, ResultRelInfo *relinfo, List *fdw_private,
				int subplan_index, int eflags)
{
	KrInsertText insert;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	if (list_length(fdw_private) < 5 ||
		!IsA(list_nth(fdw_private, MODIFY_SQL), String) ||
		!IsA(list_nth(fdw_private, MODIFY_VALUES_END), Integer) ||
		!IsA(list_nth(fdw_private, MODIFY_HAS_RETURNING), Boolean))
		kr_fdw_layout_error("modification");

	if (mtstate->operation == CMD_INSERT)
	{
		if (list_length(fdw_private) <= MODIFY_TAIL)
			kr_fdw_layout_error("INSERT");
		insert.head = pnstrdup(strVal(list_nth(fdw_private, MODIFY_SQL)),
							   intVal(list_nth(fdw_private, MODIFY_VALUES_END)));
		insert.tail = strVal(list_nth(fdw_private, MODIFY_TAIL));
		insert.do_nothing = ((ModifyTable *) mtstate->ps.plan)->onConflictAction == ONCONFLICT_NOTHING;
		insert.conflict = list_nth(fdw_private, MODIFY_CONFLICT);
		insert.left_out = list_nth(fdw_private, MODIFY_LEFT_OUT);
		insert.left_out_in_head = relinfo->ri_TrigDesc == NULL ||
			!relinfo->ri_TrigDesc->trig_insert_before_row;
	}
	relinfo->ri_FdwState =
		make_state(mtstate, relinfo, strVal(list_nth(fdw_private, MODIFY_SQL)),
				   mtstate->operation == CMD_INSERT ? &insert : NULL,
				   list_nth(fdw_private, MODIFY_TARGETS),
				   boolVal(list_nth(fdw_private, MODIFY_HAS_RETURNING)),
				   list_nth(fdw_private, MODIFY_RETRIEVED));
}

static void finish_deferred(KrWriter *writer);
static void park_deferred(KrStream *stream);

/* Let rows be kept back. */
static void
defer(EState *estate, KrModifyState *state)
{
	state->deferred = true;
	kr_writer_init(&state->writer, estate->es_query_cxt, finish_deferred, state);
}

/*
 * Columns with a default in the data source that COPY, or the INSERT into the
 * partitioned table, does not list.
 */
static List *
left_out_columns(ResultRelInfo *relinfo, EState *estate)
{
	Relation	rel = relinfo->ri_RelationDesc;
	Bitmapset  *given = ExecGetInsertedCols(relinfo, estate);
	List	   *attnums = NIL;

	for (int attnum = 1; attnum <= RelationGetDescr(rel)->natts; attnum++)
	{
		if (!bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, given) &&
			kr_fdw_has_remote_default(rel, attnum))
			attnums = lappend_int(attnums, attnum);
	}
	return attnums;
}

/* COPY FROM, or a row routed to a partition: nobody has planned a statement. */
void
kr_begin_insert(ModifyTableState *mtstate, ResultRelInfo *relinfo)
{
	Relation	rel = relinfo->ri_RelationDesc;
	ModifyTable *plan = (ModifyTable *) mtstate->ps.plan;
	bool		returning = relinfo->ri_returningList != NIL ||
		relinfo->ri_WithCheckOptions != NIL ||
		(relinfo->ri_TrigDesc && relinfo->ri_TrigDesc->trig_insert_after_row);
	MemoryContext old;
	List	   *targets;
	List	   *retrieved;
	char	   *tail;
	KrInsertText insert = {0};

	kr_permission_to_write(RelationGetRelid(rel));

	/* The update that is yet to come would change the row that was moved, too. */
	if (relinfo->ri_FdwState != NULL || relinfo->ri_usesFdwDirectModify)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot route tuples into foreign table to be updated \"%s\"",
						RelationGetRelationName(rel)),
				 errhint("Delete the rows from one partition and insert them into the other.")));

	old = MemoryContextSwitchTo(mtstate->ps.state->es_query_cxt);
	insert.head = kr_fdw_insert_sql(rel, returning, &targets, &retrieved, &tail);
	insert.tail = tail;
	insert.do_nothing = plan && plan->onConflictAction == ONCONFLICT_NOTHING;
	if (mtstate->operation == CMD_INSERT)
		insert.left_out = left_out_columns(relinfo, mtstate->ps.state);
	relinfo->ri_FdwState = make_state(mtstate, relinfo, NULL, &insert, targets,
									  retrieved != NIL, retrieved);
	((KrModifyState *) relinfo->ri_FdwState)->from_copy = plan == NULL;
	if (plan == NULL && kr_modify_batch_size(relinfo) > 1)
		defer(mtstate->ps.state, relinfo->ri_FdwState);
	MemoryContextSwitchTo(old);
}

/* The row's parameters as text, in state->values. */
static void
collect_values(KrModifyState *state, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	int			nestlevel = kr_transmission_begin(state->needs_settings);
	int			n = 0;
	ListCell   *cell;
	bool		isnull;

	if (AttributeNumberIsValid(state->ctid_attno))
	{
		Datum		ctid = ExecGetJunkAttribute(plan_slot, state->ctid_attno, &isnull);

		if (isnull)
			elog(ERROR, "ctid is NULL");
		state->values[n] = OutputFunctionCall(&state->output[n], ctid);
		n++;
	}
	foreach(cell, state->target_attrs)
	{
		Datum		value = slot_getattr(slot, lfirst_int(cell), &isnull);

		state->values[n] = isnull ? NULL : OutputFunctionCall(&state->output[n], value);
		n++;
	}
	kr_transmission_end(nestlevel);
}

/* An INSERT from its head, which has so many parameters. */
static const char *
insert_sql(KrModifyState *state, const char *head, int nparams)
{
	const KrBulkSuffix *suffix = &state->suffix;

	return psprintf("%s%s%s", head,
					suffix->conflict == NIL ? suffix->text :
					kr_conflict_text(suffix->conflict, suffix->tenant_column, nparams),
					state->tail);
}

/*
 * The statement for the row in state->values, from which parameters are taken
 * away where it says DEFAULT. A column that may not be NULL and has no default
 * here (a serial or an identity column, mostly) gets the data source's, as a
 * column that the user has left out would there: NULL could only fail.
 */
static const char *
row_statement(KrModifyState *state, EState *estate, int *nparams)
{
	bool	   *use_default = NULL;
	KrInsertVariant *variant = NULL;
	MemoryContext old;
	ListCell   *cell;
	int			left = 0;

	*nparams = state->nparams;
	if (state->source_default == NULL)
		return state->sql;

	for (int i = 0; i < state->nparams; i++)
	{
		if (!state->source_default[i] || state->values[i] != NULL)
		{
			state->values[left++] = state->values[i];
			continue;
		}
		if (use_default == NULL)
			use_default = MemoryContextAllocZero(state->cxt, state->nparams * sizeof(bool));
		use_default[i] = true;
	}
	if (use_default == NULL)
		return state->sql;

	*nparams = left;
	foreach(cell, state->variants)
	{
		variant = lfirst(cell);
		if (memcmp(variant->use_default, use_default, state->nparams * sizeof(bool)) == 0)
			return variant->sql;
	}

	old = MemoryContextSwitchTo(estate->es_query_cxt);
	variant = palloc(sizeof(KrInsertVariant));
	variant->use_default = palloc(state->nparams * sizeof(bool));
	memcpy(variant->use_default, use_default, state->nparams * sizeof(bool));
	variant->sql = insert_sql(state, kr_fdw_insert_defaults(state->head, use_default), left);
	state->variants = lappend(state->variants, variant);
	MemoryContextSwitchTo(old);
	return variant->sql;
}

static void
lease_connection(KrModifyState *state, EState *estate)
{
	KrConn	   *conn = kr_remote_lease(&state->target.remote, false);

	if (state->stream.conn == NULL)
		kr_stream_init(&state->stream, conn, estate->es_query_cxt, false,
					   state->deferred ? park_deferred : NULL, state);
}

/*
 * What only the tenant decides, and the values of ON CONFLICT's parameters, when
 * the first row is there.
 */
static void
prepare_insert(KrModifyState *state, EState *estate)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	List	   *attnums = NIL;

	state->suffix.nparams = state->params.count;
	state->suffix.params = kr_params_eval(&state->params, GetPerTupleExprContext(estate));
	if (state->suffix.conflict != NIL)
		attnums = kr_conflict_attnums(state->suffix.conflict);
	if (attnums != NIL && state->target.route != NULL &&
		state->target.route->isolation == KR_ISOLATION_ROW)
	{
		const char *table = kr_fdw_remote_table(state->rel, &state->target);
		const char *column = kr_shape_tenant_column(kr_shape_of(&state->target.remote, table),
													state->rel, attnums);

		state->suffix.tenant_column = column ? pstrdup(column) : NULL;
		kr_shape_confirm(&state->target.remote, table);
	}
	state->sql = insert_sql(state, state->head, state->nparams);
	MemoryContextSwitchTo(old);
}

/* Make sure that the remote transaction is there, as deep as the local one. */
static void
lease(KrModifyState *state, EState *estate)
{
	if (state->sql == NULL)
		prepare_insert(state, estate);
	lease_connection(state, estate);
}

static void
queue_row(KrModifyState *state, EState *estate, TupleTableSlot *slot,
		  TupleTableSlot *plan_slot)
{
	MemoryContext old;
	const char *sql;
	int			nparams;

	MemoryContextReset(state->cxt);
	old = MemoryContextSwitchTo(state->cxt);
	collect_values(state, slot, plan_slot);
	MemoryContextSwitchTo(old);
	lease(state, estate);
	sql = row_statement(state, estate, &nparams);
	for (int i = 0; i < state->params.count; i++)
		state->values[nparams++] = state->suffix.params[i];
	kr_stream_queue(&state->stream, sql, nparams, state->values, true);
}

/* Read the answer for one row; what RETURNING gives goes into slot. */
static bool
finish_row(KrModifyState *state, TupleTableSlot *slot)
{
	PGresult   *result = kr_stream_next(&state->stream);

	if (result == NULL)
		return state->stream.affected > 0;
	if (PQntuples(result) == 0)
		return false;
	if (state->has_returning)
	{
		(void) kr_reader_describe(&state->reader, result, true);
		kr_reader_store_result(&state->reader, result, 0, slot);
	}
	return true;
}

static bool defer_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot);

static TupleTableSlot *
modify_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot,
		   TupleTableSlot *plan_slot)
{
	KrModifyState *state = relinfo->ri_FdwState;
	bool		changed;

	do
	{
		queue_row(state, estate, slot, plan_slot);
		kr_stream_send(&state->stream);
		state->stream.may_repeat = true;
		changed = finish_row(state, slot);
		state->stream.may_repeat = false;
	} while (state->stream.outdated);
	return changed ? slot : NULL;
}

TupleTableSlot *
kr_exec_insert(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot,
			   TupleTableSlot *plan_slot)
{
	KrModifyState *state = relinfo->ri_FdwState;
	ErrorContextCallback *context = error_context_stack;
	TupleTableSlot *result;

	if (defer_row(estate, relinfo, slot))
		return slot;

	/* COPY would repeat the line. */
	if (state->from_copy && state->target.remote.withhold && context != NULL)
		error_context_stack = context->previous;
	result = modify_row(estate, relinfo, slot, plan_slot);
	error_context_stack = context;
	return result;
}

TupleTableSlot *
kr_exec_update(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot,
			   TupleTableSlot *plan_slot)
{
	return modify_row(estate, relinfo, slot, plan_slot);
}

TupleTableSlot *
kr_exec_delete(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot,
			   TupleTableSlot *plan_slot)
{
	return modify_row(estate, relinfo, slot, plan_slot);
}

/* ---------- many rows ---------- */

static void
range_context(void *arg)
{
	KrRowRange *range = arg;

	/* A COPY's error has its line; it tells the row where the COPY began with the first. */
	if (range->last == 0 && range->first > 1)
		errcontext("line 1 of it is row " UINT64_FORMAT " of what is copied", range->first);
	if (range->last == 0)
		return;
	errcontext("rows " UINT64_FORMAT " to " UINT64_FORMAT " of what is inserted",
			   range->first, range->last);
}

/* One execution for each row, all in one trip. Returns how many were inserted. */
static int
insert_singly(KrModifyState *state, EState *estate, TupleTableSlot **slots,
			  TupleTableSlot **plan_slots, int nslots)
{
	int			inserted = 0;

	for (int i = 0; i < nslots; i++)
		queue_row(state, estate, slots[i], plan_slots ? plan_slots[i] : NULL);
	kr_stream_send(&state->stream);
	for (int i = 0; i < nslots; i++)
	{
		if (finish_row(state, slots[i]))
			inserted++;
	}
	return inserted;
}

/* Send the rows collected so far, and note for the answer which they are. */
static List *
send_collected(KrModifyState *state, List *ranges)
{
	KrRowRange *range = palloc(sizeof(KrRowRange));

	range->first = state->sent + 1;
	state->sent += kr_bulk_rows(state->bulk);
	range->last = state->sent;
	kr_bulk_queue(state->bulk, &state->stream);
	kr_stream_push(&state->stream);
	return lappend(ranges, range);
}

static uint64
read_answer(KrModifyState *state, KrRowRange *range)
{
	ErrorContextCallback callback = {error_context_stack, range_context, range};

	error_context_stack = &callback;
	if (kr_stream_next(&state->stream) != NULL)
		elog(ERROR, "an INSERT has sent rows");
	error_context_stack = callback.previous;
	return state->stream.affected;
}

/* Several statements of many rows, all in one trip. */
static int
insert_in_bulk(KrModifyState *state, TupleTableSlot **slots, int nslots, uint64 *bytes)
{
	MemoryContext old;
	List	   *ranges = NIL;
	int			inserted = 0;
	ListCell   *cell;

	*bytes = 0;
	MemoryContextReset(state->cxt);
	old = MemoryContextSwitchTo(state->cxt);
	for (int i = 0; i < nslots; i++)
	{
		uint64		before = kr_bulk_bytes(state->bulk);

		if (!kr_bulk_add(state->bulk, slots[i]))
		{
			ranges = send_collected(state, ranges);
			before = 0;
			(void) kr_bulk_add(state->bulk, slots[i]);
		}
		*bytes += kr_bulk_bytes(state->bulk) - before;
		if (kr_bulk_is_full(state->bulk))
			ranges = send_collected(state, ranges);
	}
	if (kr_bulk_rows(state->bulk) > 0)
		ranges = send_collected(state, ranges);
	kr_stream_send(&state->stream);

	foreach(cell, ranges)
		inserted += read_answer(state, lfirst(cell));
	kr_bulk_confirm(state->bulk);
	MemoryContextSwitchTo(old);
	return inserted;
}

/* Can these rows go in bulk? */
static bool
prepare_bulk(KrModifyState *state, EState *estate, Relation rel, int nslots)
{
	/* Rows that conflict with each other must be in one statement to be refused. */
	int			least = state->suffix.conflict != NIL ? 2 : MIN_BULK;

	if (state->bulk == NULL && !state->no_bulk && nslots >= least)
	{
		MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);

		state->bulk = kr_bulk_create(rel, &state->target, state->target_attrs,
									 state->source_default, &state->suffix);
		state->no_bulk = state->bulk == NULL;
		MemoryContextSwitchTo(old);
	}
	return state->bulk != NULL;
}

/*
 * Let the next batch have more rows, as far as rows of this one's size allow.
 * The executor has made its arrays for the first batch; it looks at them and at
 * the batch's size anew for every row.
 */
static void
resize_batch(EState *estate, ResultRelInfo *relinfo, int rows, uint64 bytes)
{
	KrModifyState *state = relinfo->ri_FdwState;
	int			natts = RelationGetDescr(relinfo->ri_RelationDesc)->natts;
	int			most = SLOT_BYTES / (2 * (natts * sizeof(FormData_pg_attribute) + 400));
	int			size;

	most = Max(most, FIRST_BATCH);
	size = Min((int64) rows * BATCH_GROWTH, most);
	size = Max(Min(size, (int64) (BATCH_BYTES / (bytes / rows + 1))), 2);

	if (size > FIRST_BATCH && !state->more_slots)
	{
		Size		length = most * sizeof(TupleTableSlot *);
		TupleTableSlot **slots = MemoryContextAlloc(estate->es_query_cxt, length);
		TupleTableSlot **plan_slots = MemoryContextAlloc(estate->es_query_cxt, length);

		length = relinfo->ri_NumSlotsInitialized * sizeof(TupleTableSlot *);
		memcpy(slots, relinfo->ri_Slots, length);
		memcpy(plan_slots, relinfo->ri_PlanSlots, length);
		relinfo->ri_Slots = slots;
		relinfo->ri_PlanSlots = plan_slots;
		state->more_slots = true;
	}
	relinfo->ri_BatchSize = size;
}

/* Can an INSERT of which there are more rows than one batch go on by COPY? */
static bool
prepare_copy(KrModifyState *state, EState *estate)
{
	MemoryContext old;

	/* Opening and ending a COPY are two trips. */
	if (state->no_copy || state->sent < MIN_COPY || state->suffix.text[0] != '\0' || state->suffix.conflict != NIL)
		return false;
	if (state->copier == NULL)
	{
		old = MemoryContextSwitchTo(estate->es_query_cxt);
		state->copier = kr_copier_create(state->rel, &state->target, state->target_attrs,
										 state->source_default, true);
		state->no_copy = state->copier == NULL;
		if (state->copier != NULL)
			kr_writer_init(&state->writer, estate->es_query_cxt, finish_deferred, state);
		MemoryContextSwitchTo(old);
	}
	return state->copier != NULL;
}

/*
 * A batch of an INSERT by COPY, if it can go so. Rows that differ in the columns
 * that they leave out end that way for the statement, and so does somebody who
 * needs the connection again and again.
 */
static bool
copy_batch(KrModifyState *state, EState *estate, ResultRelInfo *relinfo,
		   TupleTableSlot **slots, int nslots)
{
	if (state->copier == NULL)
		return false;
	if (!kr_writer_is_active(&state->writer))
	{
		if (++state->copies > MAX_COPIES)
		{
			state->copier = NULL;
			state->no_copy = true;
			return false;
		}
		lease(state, estate);
		kr_writer_claim(&state->writer, state->stream.conn);
	}

	for (int i = 0; i < nslots; i++)
	{
		if (!kr_copier_is_open(state->copier))
			state->copied_from = state->sent + 1;
		if (!kr_copier_add(state->copier, state->stream.conn, slots[i]))
		{
			uint64		bytes;

			kr_writer_release(&state->writer);
			state->copier = NULL;
			state->no_copy = true;
			(void) insert_in_bulk(state, slots + i, nslots - i, &bytes);
			return true;
		}
		state->sent++;
	}

	if (nslots < relinfo->ri_BatchSize)
	{
		kr_writer_release(&state->writer);
		finish_deferred(&state->writer);
	}
	return true;
}

/*
 * Several rows in one trip. Only used where nothing looks at the rows
 * afterwards, so all that is told back is how many were inserted. The array
 * stays as it is: the executor fills it again for the next batch and frees each
 * of its slots at the end.
 */
TupleTableSlot **
kr_exec_batch_insert(EState *estate, ResultRelInfo *relinfo, TupleTableSlot **slots,
					 TupleTableSlot **plan_slots, int *nslots)
{
	KrModifyState *state = relinfo->ri_FdwState;
	int			rows = *nslots;
	uint64		bytes;

	if (state->deferred)
	{
		for (int i = 0; i < rows; i++)
		{
			if (kr_exec_insert(estate, relinfo, slots[i], NULL) == NULL)
				(*nslots)--;
		}
		return slots;
	}

	if (copy_batch(state, estate, relinfo, slots, rows))
		return slots;

	lease(state, estate);
	if (!prepare_bulk(state, estate, relinfo->ri_RelationDesc, rows))
	{
		*nslots = insert_singly(state, estate, slots, plan_slots, rows);
		return slots;
	}
	*nslots = insert_in_bulk(state, slots, rows, &bytes);

	/* COPY FROM has slots of its own. */
	if (slots == relinfo->ri_Slots && state->batch_option == 0 && rows == relinfo->ri_BatchSize &&
		!prepare_copy(state, estate))
		resize_batch(estate, relinfo, rows, bytes);
	return slots;
}

int
kr_modify_batch_size(ResultRelInfo *relinfo)
{
	int			option = batch_size_option(relinfo->ri_RelationDesc);

	/*
	 * What looks at each row needs it to have been inserted when it looks; a
	 * BEFORE trigger may even query the table.
	 */
	if (relinfo->ri_projectReturning != NULL ||
		relinfo->ri_WithCheckOptions != NIL ||
		(relinfo->ri_TrigDesc &&
		 (relinfo->ri_TrigDesc->trig_insert_before_row ||
		  relinfo->ri_TrigDesc->trig_insert_after_row)))
		return 1;
	return option > 0 ? option : FIRST_BATCH;
}

/* ---------- COPY FROM ---------- */

/*
 * Rows are kept back: in a COPY that stays open, or collected, with two
 * statements under way. Whoever else needs the connection has them sent first.
 * COPY counts its rows itself and has no use for how many arrived.
 */

static void
finish_collected(KrModifyState *state)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

	if (kr_bulk_rows(state->bulk) > 0)
	{
		state->ranges = send_collected(state, state->ranges);
		kr_stream_send(&state->stream);
	}
	while (state->ranges != NIL)
	{
		KrRowRange *range = linitial(state->ranges);

		state->ranges = list_delete_first(state->ranges);
		(void) read_answer(state, range);
		pfree(range);
	}
	kr_bulk_confirm(state->bulk);
	MemoryContextSwitchTo(old);
}

static void
finish_deferred(KrWriter *writer)
{
	KrModifyState *state = writer->owner;

	if (state->copier != NULL)
	{
		KrRowRange	range = {state->copied_from, 0};
		ErrorContextCallback callback = {error_context_stack, range_context, &range};

		error_context_stack = &callback;
		kr_copier_end(state->copier);
		error_context_stack = callback.previous;
	}
	if (state->bulk != NULL && state->deferred)
		finish_collected(state);
}

static void
park_deferred(KrStream *stream)
{
	KrModifyState *state = stream->owner;

	kr_writer_release(&state->writer);
	finish_deferred(&state->writer);
}

/* Collect a row; when there are enough, send them and read an earlier answer. */
static void
collect_row(KrModifyState *state, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

	if (!kr_bulk_add(state->bulk, slot))
	{
		finish_collected(state);
		(void) kr_bulk_add(state->bulk, slot);
	}
	if (kr_bulk_is_full(state->bulk))
	{
		state->ranges = send_collected(state, state->ranges);
		kr_stream_send(&state->stream);
		if (list_length(state->ranges) > 2)
		{
			KrRowRange *range = linitial(state->ranges);

			state->ranges = list_delete_first(state->ranges);
			(void) read_answer(state, range);
			pfree(range);
		}
	}
	MemoryContextSwitchTo(old);
}

/* Decide how rows are kept back; false where they must not be. */
static bool
prepare_deferred(KrModifyState *state, EState *estate, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);

	if (state->copier == NULL && !state->no_copy)
	{
		state->copier = kr_copier_create(rel, &state->target, state->target_attrs,
										 state->source_default, false);
		state->no_copy = state->copier == NULL;
	}
	if (state->copier == NULL && state->bulk == NULL)
	{
		state->bulk = kr_bulk_create(rel, &state->target, state->target_attrs,
									 state->source_default, &state->suffix);
		state->deferred = state->bulk != NULL;
	}
	MemoryContextSwitchTo(old);
	return state->deferred;
}

/* Rows go on as INSERT. */
static void
give_up_copy(KrModifyState *state, EState *estate)
{
	state->copier = NULL;
	state->no_copy = true;
	if (!prepare_deferred(state, estate, state->rel))
		elog(ERROR, "rows can be copied but not inserted");
}

static void
claim_connection(KrModifyState *state, EState *estate)
{
	if (kr_writer_is_active(&state->writer))
		return;
	lease(state, estate);
	kr_writer_claim(&state->writer, state->stream.conn);
}

static void
defer_prepared(KrModifyState *state, EState *estate, TupleTableSlot *slot)
{
	/* Who needs the connection again and again makes COPY the slower way. */
	if (state->copier != NULL && !kr_writer_is_active(&state->writer) &&
		++state->copies > MAX_COPIES && state->sent / state->copies < MIN_COPY)
		give_up_copy(state, estate);

	claim_connection(state, estate);
	if (state->copier != NULL)
	{
		if (kr_copier_add(state->copier, state->stream.conn, slot))
		{
			state->sent++;
			return;
		}
		give_up_copy(state, estate);

		/* That may have needed the connection itself. */
		claim_connection(state, estate);
	}
	collect_row(state, slot);
}

/* Keep a row of COPY FROM back; false where it has to be inserted at once. */
static bool
defer_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot)
{
	KrModifyState *state = relinfo->ri_FdwState;
	ErrorContextCallback *context = error_context_stack;
	KrRowRange	range = {state->copied_from, 0};
	ErrorContextCallback callback = {NULL, range_context, &range};

	if (!state->deferred || !prepare_deferred(state, estate, relinfo->ri_RelationDesc))
		return false;

	/* COPY would name the line that it has reached, not the one that fails. */
	if (context != NULL)
		callback.previous = context->previous;
	error_context_stack = state->copier ? &callback : callback.previous;
	defer_prepared(state, estate, slot);
	error_context_stack = context;
	return true;
}

void
kr_end_modify(EState *estate, ResultRelInfo *relinfo)
{
	KrModifyState *state = relinfo->ri_FdwState;

	if (state == NULL)
		return;
	if (state->deferred || state->copier != NULL)
	{
		kr_writer_release(&state->writer);
		finish_deferred(&state->writer);
	}
	kr_stream_abandon(&state->stream);
}

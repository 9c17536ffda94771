/*
 * kr_fdw_modify_batch.c
 *	  Batches of an INSERT without RETURNING.
 *
 * A few rows go as one execution each, all in one trip; many go in bulk
 * (kr_fdw_bulk.c), in several statements a trip, so that the data source works on
 * one while the next is made.
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

#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw_modify.h"

/* Rows of the first batch of an INSERT, and by what factor batches grow. */
#define FIRST_BATCH 128
#define BATCH_GROWTH 8

/* What the rows of a batch, and the executor's slots for them, may take. */
#define BATCH_BYTES (4 * 1024 * 1024)
#define SLOT_BYTES (16 * 1024 * 1024)

/* Fewer rows than this go one by one. */
#define MIN_BULK 8

void
kr_modify_range_context(void *arg)
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
		kr_modify_queue_row(state, estate, slots[i], plan_slots ? plan_slots[i] : NULL);
	kr_stream_send(&state->stream);
	for (int i = 0; i < nslots; i++)
	{
		if (kr_modify_finish_row(state, slots[i]))
			inserted++;
	}
	return inserted;
}

/* Send the rows collected so far, and note for the answer which they are. */
List *
kr_modify_send_collected(KrModifyState *state, List *ranges)
{
	KrRowRange *range = palloc(sizeof(KrRowRange));

	range->first = state->sent + 1;
	state->sent += kr_bulk_rows(state->bulk);
	range->last = state->sent;
	kr_bulk_queue(state->bulk, &state->stream);
	kr_stream_push(&state->stream);
	return lappend(ranges, range);
}

uint64
kr_modify_read_answer(KrModifyState *state, KrRowRange *range)
{
	ErrorContextCallback callback = {error_context_stack, kr_modify_range_context, range};

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
			ranges = kr_modify_send_collected(state, ranges);
			before = 0;
			(void) kr_bulk_add(state->bulk, slots[i]);
		}
		*bytes += kr_bulk_bytes(state->bulk) - before;
		if (kr_bulk_is_full(state->bulk))
			ranges = kr_modify_send_collected(state, ranges);
	}
	if (kr_bulk_rows(state->bulk) > 0)
		ranges = kr_modify_send_collected(state, ranges);
	kr_stream_send(&state->stream);

	foreach(cell, ranges)
		inserted += kr_modify_read_answer(state, lfirst(cell));
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

/* ---------- by COPY ---------- */

/* Can an INSERT of which there are more rows than one batch go on by COPY? */
static bool
prepare_copy(KrModifyState *state, EState *estate)
{
	MemoryContext old;

	/* Opening and ending a COPY are two trips. */
	if (state->no_copy || state->sent < KR_MODIFY_MIN_COPY || state->suffix.text[0] != '\0' || state->suffix.conflict != NIL)
		return false;
	if (state->copier == NULL)
	{
		old = MemoryContextSwitchTo(estate->es_query_cxt);
		state->copier = kr_copier_create(state->rel, &state->target, state->target_attrs,
										 state->source_default, true);
		state->no_copy = state->copier == NULL;
		if (state->copier != NULL)
			kr_writer_init(&state->writer, estate->es_query_cxt, kr_modify_finish_deferred, state);
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
		if (++state->copies > KR_MODIFY_MAX_COPIES)
		{
			state->copier = NULL;
			state->no_copy = true;
			return false;
		}
		kr_modify_lease(state, estate);
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
		kr_modify_finish_deferred(&state->writer);
	}
	return true;
}

/* ---------- what the executor calls ---------- */

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

	kr_modify_lease(state, estate);
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
	int			option = kr_modify_batch_option(relinfo->ri_RelationDesc);

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

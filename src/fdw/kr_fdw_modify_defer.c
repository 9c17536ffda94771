/*
 * kr_fdw_modify_defer.c
 *	  Rows that are kept back: those of COPY FROM, and those of a long INSERT.
 *
 * They are in a COPY that stays open, or collected, with two statements under way.
 * Whoever else needs the connection has them sent first. COPY counts its rows itself
 * and has no use for how many arrived.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw_modify.h"

static void
finish_collected(KrModifyState *state)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(state));

	if (kr_bulk_rows(state->bulk) > 0)
	{
		state->ranges = kr_modify_send_collected(state, state->ranges);
		kr_stream_send(&state->stream);
	}
	while (state->ranges != NIL)
	{
		KrRowRange *range = linitial(state->ranges);

		state->ranges = list_delete_first(state->ranges);
		(void) kr_modify_read_answer(state, range);
		pfree(range);
	}
	kr_bulk_confirm(state->bulk);
	MemoryContextSwitchTo(old);
}

void
kr_modify_finish_deferred(KrWriter *writer)
{
	KrModifyState *state = writer->owner;

	if (state->copier != NULL)
	{
		KrRowRange	range = {state->copied_from, 0};
		ErrorContextCallback callback = {error_context_stack, kr_modify_range_context, &range};

		error_context_stack = &callback;
		kr_copier_end(state->copier);
		error_context_stack = callback.previous;
	}
	if (state->bulk != NULL && state->deferred)
		finish_collected(state);
}

void
kr_modify_park_deferred(KrStream *stream)
{
	KrModifyState *state = stream->owner;

	kr_writer_release(&state->writer);
	kr_modify_finish_deferred(&state->writer);
}

/* Let rows be kept back. */
void
kr_modify_defer(EState *estate, KrModifyState *state)
{
	state->deferred = true;
	kr_writer_init(&state->writer, estate->es_query_cxt, kr_modify_finish_deferred, state);
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
		state->ranges = kr_modify_send_collected(state, state->ranges);
		kr_stream_send(&state->stream);
		if (list_length(state->ranges) > 2)
		{
			KrRowRange *range = linitial(state->ranges);

			state->ranges = list_delete_first(state->ranges);
			(void) kr_modify_read_answer(state, range);
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
	kr_modify_lease(state, estate);
	kr_writer_claim(&state->writer, state->stream.conn);
}

static void
defer_prepared(KrModifyState *state, EState *estate, TupleTableSlot *slot)
{
	/* Who needs the connection again and again makes COPY the slower way. */
	if (state->copier != NULL && !kr_writer_is_active(&state->writer) &&
		++state->copies > KR_MODIFY_MAX_COPIES && state->sent / state->copies < KR_MODIFY_MIN_COPY)
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
bool
kr_modify_defer_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot)
{
	KrModifyState *state = relinfo->ri_FdwState;
	ErrorContextCallback *context = error_context_stack;
	KrRowRange	range = {state->copied_from, 0};
	ErrorContextCallback callback = {NULL, kr_modify_range_context, &range};

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

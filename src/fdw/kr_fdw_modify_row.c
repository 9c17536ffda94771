/*
 * kr_fdw_modify_row.c
 *	  One row of an INSERT, UPDATE or DELETE: one execution of a prepared statement.
 *
 * Those of an INSERT may differ in the columns for which the statement says DEFAULT;
 * ON CONFLICT and what only the tenant decides are put in when the first row is there.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "utils/memutils.h"

#include "kr_fdw_conflict.h"
#include "kr_fdw_modify.h"

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
					   state->deferred ? kr_modify_park_deferred : NULL, state);
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
void
kr_modify_lease(KrModifyState *state, EState *estate)
{
	if (state->sql == NULL)
		prepare_insert(state, estate);
	lease_connection(state, estate);
}

void
kr_modify_queue_row(KrModifyState *state, EState *estate, TupleTableSlot *slot,
					TupleTableSlot *plan_slot)
{
	MemoryContext old;
	const char *sql;
	int			nparams;

	MemoryContextReset(state->cxt);
	old = MemoryContextSwitchTo(state->cxt);
	collect_values(state, slot, plan_slot);
	MemoryContextSwitchTo(old);
	kr_modify_lease(state, estate);
	sql = row_statement(state, estate, &nparams);
	for (int i = 0; i < state->params.count; i++)
		state->values[nparams++] = state->suffix.params[i];
	kr_stream_queue(&state->stream, sql, nparams, state->values, true);
}

/* Read the answer for one row; what RETURNING gives goes into slot. */
bool
kr_modify_finish_row(KrModifyState *state, TupleTableSlot *slot)
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

static TupleTableSlot *
modify_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot,
		   TupleTableSlot *plan_slot)
{
	KrModifyState *state = relinfo->ri_FdwState;
	bool		changed;

	do
	{
		kr_modify_queue_row(state, estate, slot, plan_slot);
		kr_stream_send(&state->stream);
		state->stream.may_repeat = true;
		changed = kr_modify_finish_row(state, slot);
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

	if (kr_modify_defer_row(estate, relinfo, slot))
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

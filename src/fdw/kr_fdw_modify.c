/*
 * kr_fdw_modify.c
 *	  Beginning and end of INSERT, UPDATE, DELETE, COPY FROM and tuple routing.
 *
 * What happens in between: row by row in kr_fdw_modify_row.c, batch by batch in
 * kr_fdw_modify_batch.c, and rows that are kept back in kr_fdw_modify_defer.c. All of
 * it has one state, made here, which lives as long as the statement's executor.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "nodes/plannodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw_conflict.h"
#include "kr_fdw_insert.h"
#include "kr_fdw_modify.h"

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
int
kr_modify_batch_option(Relation rel)
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
	state->batch_option = kr_modify_batch_option(state->rel);
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
	kr_permission_of_modify(relinfo, mtstate->ps.state);

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
		kr_modify_defer(mtstate->ps.state, relinfo->ri_FdwState);
	MemoryContextSwitchTo(old);
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
		kr_modify_finish_deferred(&state->writer);
	}
	kr_stream_abandon(&state->stream);
}

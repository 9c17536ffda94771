/*
 * kr_fdw_insert.c
 *	  Planning of INSERT: what postgres_fdw does not know of.
 *
 * A column with the option remote_default that the statement leaves out gets
 * DEFAULT in place of the NULL that it would get, so that the data source's own
 * default applies, also where the column may be NULL. The clause of ON CONFLICT
 * with a target (kr_fdw_conflict.c) goes into the statement.
 *
 * Both are handed to the executor behind what postgres_fdw hands over.
 */
#include "postgres.h"

#include "access/table.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/rel.h"

#include "kr_fdw.h"
#include "kr_fdw_conflict.h"
#include "kr_fdw_insert.h"

/* fdw_private of a modification, as postgres_fdw's PlanForeignModify makes it */
#define MODIFY_SQL 0
#define MODIFY_VALUES_END 2

bool
kr_fdw_has_remote_default(Relation rel, int attnum)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	ListCell   *cell;

	if (attr->attisdropped || attr->attgenerated || attr->atthasdef)
		return false;
	foreach(cell, GetForeignColumnOptions(RelationGetRelid(rel), attnum))
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "remote_default") == 0)
			return defGetBoolean(option);
	}
	return false;
}

/* Columns with a default in the data source that the statement leaves out. */
static List *
left_out_columns(PlannerInfo *root, Relation rel)
{
	List	   *attnums = NIL;

	for (int attnum = 1; attnum <= RelationGetDescr(rel)->natts; attnum++)
	{
		bool		given = false;
		ListCell   *cell;

		foreach(cell, root->parse->targetList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, cell);

			given = given || (!entry->resjunk && entry->resno == attnum);
		}
		if (!given && kr_fdw_has_remote_default(rel, attnum))
			attnums = lappend_int(attnums, attnum);
	}
	return attnums;
}

/* One mark for each parameter of an INSERT of all columns. */
static bool *
mark_parameters(Relation rel, List *attnums)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool	   *marks = palloc0((desc->natts + 1) * sizeof(bool));
	int			n = 0;

	for (int attnum = 1; attnum <= desc->natts; attnum++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);

		if (!attr->attisdropped && !attr->attgenerated)
			marks[n++] = list_member_int(attnums, attnum);
	}
	return marks;
}

static int
count_parameters(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			n = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped && !attr->attgenerated)
			n++;
	}
	return n;
}

static List *
plan_insert(PlannerInfo *root, ModifyTable *plan, Relation rel, List *private)
{
	List	   *left_out = left_out_columns(root, rel);
	List	   *conflict = kr_conflict_of_plan(root, plan);
	char	   *sql = strVal(list_nth(private, MODIFY_SQL));
	int			values_end = intVal(list_nth(private, MODIFY_VALUES_END));
	int			nparams = count_parameters(rel);
	char	   *head = pnstrdup(sql, values_end);
	char	   *text = " ON CONFLICT DO NOTHING";
	char	   *tail = sql + values_end;

	if (plan->onConflictAction == ONCONFLICT_NONE)
		text = "";
	else if (strncmp(tail, text, strlen(text)) == 0)
		tail += strlen(text);
	else
		kr_fdw_layout_error("modification");

	/* A trigger may give the column a value: that is seen row by row. */
	if (left_out != NIL && !(rel->trigdesc && rel->trigdesc->trig_insert_before_row))
	{
		head = kr_fdw_insert_defaults(head, mark_parameters(rel, left_out));
		nparams -= list_length(left_out);
	}
	if (conflict != NIL)
		text = kr_conflict_text(conflict, NULL, nparams);

	lfirst(list_nth_cell(private, MODIFY_SQL)) = makeString(psprintf("%s%s%s", head, text, tail));
	lfirst(list_nth_cell(private, MODIFY_VALUES_END)) = makeInteger(strlen(head));
	return lappend(lappend(lappend(private, left_out), conflict), makeString(pstrdup(tail)));
}

List *
kr_plan_modify(PlanForeignModify_function plan_modify, PlannerInfo *root, ModifyTable *plan,
			   Index result_relation, int subplan_index)
{
	List	   *private = plan_modify(root, plan, result_relation, subplan_index);
	Relation	rel;

	if (plan->operation != CMD_INSERT)
		return private;
	if (list_length(private) < 5 ||
		!IsA(list_nth(private, MODIFY_SQL), String) ||
		!IsA(list_nth(private, MODIFY_VALUES_END), Integer))
		kr_fdw_layout_error("modification");

	rel = table_open(planner_rt_fetch(result_relation, root)->relid, NoLock);
	private = plan_insert(root, plan, rel, private);
	table_close(rel, NoLock);
	return private;
}

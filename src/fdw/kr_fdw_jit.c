/*
 * kr_fdw_jit.c
 *	  No JIT for statements with router tables.
 *
 * The planner asks for it where a plan costs more than jit_above_cost. A router
 * table has no statistics, so what its plans cost is a guess, and one for each row
 * of another table multiplies it: a related table embedded in one row would have
 * half a second of compiling for two milliseconds of work. Tables of bound servers
 * with connection options, which have statistics, are left alone.
 *
 * A planner hook; nothing is kept.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "jit/jit.h"
#include "optimizer/planner.h"

#include "kr_fdw.h"

static planner_hook_type next_planner = NULL;

static bool
has_router_table(const PlannedStmt *plan)
{
	ListCell   *cell;

	foreach(cell, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

		if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE &&
			GetFdwRoutineByRelId(rte->relid)->BeginForeignModify == kr_begin_modify &&
			kr_plan_prices(GetForeignTable(rte->relid)->serverid))
			return true;
	}
	return false;
}

static PlannedStmt *
plan_query(Query *query, const char *text, int cursor_options, ParamListInfo params)
{
	PlannedStmt *plan = next_planner ? next_planner(query, text, cursor_options, params) :
		standard_planner(query, text, cursor_options, params);

	if (plan->jitFlags != PGJIT_NONE && has_router_table(plan))
		plan->jitFlags = PGJIT_NONE;
	return plan;
}

void
kr_jit_init(void)
{
	next_planner = planner_hook;
	planner_hook = plan_query;
}

/*
 * kr_fdw_handler.c
 *	  kessel_fdw's callback table.
 *
 * Planning is postgres_fdw's: its handler is loaded and its planning callbacks
 * are taken as they are, but for the price of what it finds. Executing is ours.
 * What passes from one to the other is the ForeignScan's fdw_private and
 * fdw_exprs and the ModifyTable's fdw_private; the executing side checks their
 * shape and refuses any other than the one that PostgreSQL 15 to 18 have.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "nodes/plannodes.h"
#include "optimizer/planmain.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"
#include "kr_fdw_insert.h"

PG_FUNCTION_INFO_V1(kr_fdw_handler);

/* The size of a table of which nothing is known. */
#define UNKNOWN_PAGES 1000
#define UNKNOWN_TUPLES 100000

/* postgres_fdw's callbacks; kept for the life of the backend. */
static FdwRoutine *planner = NULL;

static void
load_planner(void)
{
	PGFunction	handler = load_external_function("$libdir/postgres_fdw",
												 "postgres_fdw_handler", true, NULL);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	planner = (FdwRoutine *) DatumGetPointer(DirectFunctionCall1(handler, (Datum) 0));
	MemoryContextSwitchTo(old);
}

/*
 * A router table has no statistics, unlike one of a bound server: it is another
 * table for every tenant. The default, ten pages, would make it look cheap to
 * fetch it whole and to group and join here. Taken for large, the work is
 * planned where the rows are.
 */
static void
get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	kr_plan_check_estimate(rel, relid);
	if (rel->tuples < 0 && kr_plan_prices(rel->serverid))
	{
		rel->pages = UNKNOWN_PAGES;
		rel->tuples = UNKNOWN_TUPLES;
	}
	kr_ship_base(root, rel);
	kr_plan_base(planner->GetForeignRelSize, root, rel, relid);
}

static void
get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	kr_plan_base(planner->GetForeignPaths, root, rel, relid);
	kr_plan_lookups(root, rel);
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path,
		 List *tlist, List *clauses, Plan *outer_plan)
{
	ForeignScan *scan = planner->GetForeignPlan(root, rel, relid, path, tlist,
												clauses, outer_plan);

	return kr_plan_locking(root, rel, kr_ship_plan(root, scan));
}

static bool
plan_direct_modify(PlannerInfo *root, ModifyTable *plan, Index result_relation,
				   int subplan_index)
{
	return kr_ship_direct_modify(planner->PlanDirectModify, root, plan,
								 result_relation, subplan_index);
}

static void
plan_join(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *outerrel,
		  RelOptInfo *innerrel, JoinType jointype, JoinPathExtraData *extra)
{
	JoinPathExtraData shipped = *extra;

	shipped.restrictlist = kr_ship_join(root, joinrel, jointype, extra->sjinfo,
										extra->restrictlist);
	kr_plan_join(planner->GetForeignJoinPaths, root, joinrel, outerrel, innerrel,
				 jointype, &shipped);
}

static void
plan_upper(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input_rel,
		   RelOptInfo *output_rel, void *extra)
{
	GroupPathExtraData shipped;
	PathTarget *target = output_rel->reltarget;
	PathTarget *shipped_target = target;
	ListCell   *cell;

	if (stage == UPPERREL_GROUP_AGG)
	{
		shipped = *(GroupPathExtraData *) extra;
		shipped.havingQual = kr_ship_having(root, input_rel, shipped.havingQual);
		extra = &shipped;
		shipped_target = kr_ship_grouping(root, input_rel, target);
	}

	output_rel->reltarget = shipped_target;
	kr_plan_upper(planner->GetForeignUpperPaths, root, stage, input_rel, output_rel,
				  extra);
	output_rel->reltarget = target;

	foreach(cell, output_rel->pathlist)
	{
		Path	   *path = lfirst(cell);

		if (path->pathtarget == shipped_target)
			path->pathtarget = target;
	}
}

static List *
plan_modify(PlannerInfo *root, ModifyTable *plan, Index result_relation, int subplan_index)
{
	return kr_plan_modify(planner->PlanForeignModify, root, plan, result_relation,
						  subplan_index);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;

	planner->ExplainForeignScan(node, es);
	kr_explain_route(plan->fs_server, es);
}

static void
explain_modify(ModifyTableState *mtstate, ResultRelInfo *relinfo, List *fdw_private,
			   int subplan_index, ExplainState *es)
{
	planner->ExplainForeignModify(mtstate, relinfo, fdw_private, subplan_index, es);
	kr_explain_route(GetForeignServerIdByRelId(RelationGetRelid(relinfo->ri_RelationDesc)), es);
}

static void
explain_direct_modify(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;

	planner->ExplainDirectModify(node, es);
	kr_explain_route(plan->fs_server, es);
}

Datum
kr_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	if (planner == NULL)
		load_planner();

	/* planning */
	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->GetForeignJoinPaths = plan_join;
	routine->GetForeignUpperPaths = plan_upper;
	routine->AddForeignUpdateTargets = planner->AddForeignUpdateTargets;
	routine->PlanForeignModify = plan_modify;
	routine->PlanDirectModify = plan_direct_modify;
	routine->IsForeignRelUpdatable = planner->IsForeignRelUpdatable;
	routine->RecheckForeignScan = planner->RecheckForeignScan;
	routine->IsForeignPathAsyncCapable = planner->IsForeignPathAsyncCapable;

	/* executing */
	routine->BeginForeignScan = kr_begin_scan;
	routine->IterateForeignScan = kr_iterate_scan;
	routine->ReScanForeignScan = kr_rescan;
	routine->EndForeignScan = kr_end_scan;
	routine->ForeignAsyncRequest = kr_async_request;
	routine->ForeignAsyncConfigureWait = kr_async_configure_wait;
	routine->ForeignAsyncNotify = kr_async_notify;
	routine->BeginDirectModify = kr_begin_direct_modify;
	routine->IterateDirectModify = kr_iterate_direct_modify;
	routine->EndDirectModify = kr_end_direct_modify;
	routine->BeginForeignModify = kr_begin_modify;
	routine->ExecForeignInsert = kr_exec_insert;
	routine->ExecForeignBatchInsert = kr_exec_batch_insert;
	routine->GetForeignModifyBatchSize = kr_modify_batch_size;
	routine->ExecForeignUpdate = kr_exec_update;
	routine->ExecForeignDelete = kr_exec_delete;
	routine->EndForeignModify = kr_end_modify;
	routine->BeginForeignInsert = kr_begin_insert;
	routine->EndForeignInsert = kr_end_modify;
	routine->ExecForeignTruncate = kr_exec_truncate;

	/* utility commands */
	routine->AnalyzeForeignTable = kr_analyze;
	routine->ImportForeignSchema = kr_import_schema;

	/* EXPLAIN */
	routine->ExplainForeignScan = explain_scan;
	routine->ExplainForeignModify = explain_modify;
	routine->ExplainDirectModify = explain_direct_modify;

	PG_RETURN_POINTER(routine);
}

void
kr_fdw_layout_error(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("postgres_fdw hands over a %s in a shape that kessel_fdw does not know", what),
			 errdetail("This version of kessel_router was made for the postgres_fdw of PostgreSQL 15 to 18."),
			 errhint("Install a kessel_router that was made for this server.")));
}

/*
 * kr_fdw_plan.c
 *	  The price of joins, aggregates, sorts and limits in a data source.
 *
 * Which paths there are is postgres_fdw's decision; what they cost is decided
 * here. Router tables have no statistics, as the tenant is known only when a
 * statement runs, and without them postgres_fdw prices a join as a loop over
 * all pairs of rows: it would fetch both tables whole and join them here.
 *
 * What is known of every plan is what it fetches. Work in the data source,
 * which has indexes and statistics, is taken as free, a trip and each row that
 * comes back are not. So a join runs there unless it is expected to return far
 * more rows than its parts have. Prices are only ever lowered.
 *
 * Called by the planner alone; what is made lives in its memory context.
 */
#include "postgres.h"

#include <float.h>

#include "access/transam.h"
#include "access/xact.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/prep.h"
#include "optimizer/restrictinfo.h"
#include "utils/resowner.h"

#include "kr_fdw.h"

/* What the options fdw_startup_cost and fdw_tuple_cost are when not set. */
#define KR_STARTUP_COST 100.0
#define KR_TUPLE_COST 0.01

/* Dominates nothing. */
#define KR_UNWANTED_COST 1.0e10

/*
 * A server with connection options is always the same database: its tables can
 * have statistics, and use_remote_estimate works. Its plans are postgres_fdw's.
 */
bool
kr_plan_prices(Oid serverid)
{
	return kr_fdw_server(serverid, InvalidOid)->kind != KR_SERVER_BOUND;
}

static void
check_estimate_option(List *options, bool *value)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "use_remote_estimate") == 0)
			*value = defGetBoolean(option);
	}
}

/*
 * For use_remote_estimate postgres_fdw makes a connection of its own. It knows
 * nothing of tenants, nor of secrets.
 */
void
kr_plan_check_estimate(RelOptInfo *rel, Oid relid)
{
	ForeignTable *table = GetForeignTable(relid);
	bool		remote_estimate = false;
	Oid			userid = OidIsValid(rel->userid) ? rel->userid : GetUserId();

	check_estimate_option(GetForeignServer(table->serverid)->options, &remote_estimate);
	check_estimate_option(table->options, &remote_estimate);
	if (!remote_estimate)
		return;
	if (kr_plan_prices(table->serverid))
		kr_fdw_refuse_remote_estimate();
	if (kr_fdw_server(table->serverid, userid)->source.has_secret)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("use_remote_estimate cannot be used with a secret"),
				 errdetail("The remote server is asked by postgres_fdw, which opens no secrets."),
				 errhint("Leave the option out and ANALYZE the table, or write the password into the user mapping.")));
}

/* True where postgres_fdw asks a remote server about tables of this query. */
static bool
asks_remote(PlannerInfo *root, Oid serverid)
{
	bool		remote_estimate = false;

	if (kr_plan_prices(serverid))
		return false;
	check_estimate_option(GetForeignServer(serverid)->options, &remote_estimate);
	for (int rti = 1; rti < root->simple_rel_array_size && !remote_estimate; rti++)
	{
		RelOptInfo *rel = root->simple_rel_array[rti];

		if (rel != NULL && rel->serverid == serverid && rel->rtekind == RTE_RELATION)
			check_estimate_option(GetForeignTable(root->simple_rte_array[rti]->relid)->options,
								  &remote_estimate);
	}
	return remote_estimate;
}

/* A planning callback of postgres_fdw with its arguments. */
typedef struct PlanCall
{
	PlannerInfo *root;
	RelOptInfo *rel;
	GetForeignRelSize_function base;
	Oid			relid;
	GetForeignJoinPaths_function join;
	RelOptInfo *outerrel;
	RelOptInfo *innerrel;
	JoinType	jointype;
	JoinPathExtraData *join_extra;
	GetForeignUpperPaths_function upper;
	UpperRelationKind stage;
	RelOptInfo *input_rel;
	void	   *upper_extra;
} PlanCall;

static void
run_call(const PlanCall *call)
{
	if (call->base != NULL)
		call->base(call->root, call->rel, call->relid);
	else if (call->join != NULL)
		call->join(call->root, call->rel, call->outerrel, call->innerrel,
				   call->jointype, call->join_extra);
	else
		call->upper(call->root, call->stage, call->input_rel, call->rel,
					call->upper_extra);
}

/*
 * To ask, postgres_fdw plans the query on a connection of its own, where the
 * tables stay locked to the end of the transaction: our TRUNCATE on another
 * connection would wait for that forever. So it asks in a subtransaction that
 * is rolled back at once, which there is a savepoint; here there is nothing to
 * undo, and what was planned is in the planner's memory.
 */
static void
run_call_and_unlock(const PlanCall *call)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		run_call(call);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	if (error != NULL)
		ReThrowError(error);
}

/* Nor could it ask about what our connection has locked against everybody. */
static void
refuse_after_truncate(Oid serverid)
{
	if (kr_has_truncated(serverid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("use_remote_estimate cannot be used after TRUNCATE in the same transaction"),
				 errdetail("The remote server is asked over another connection, for which the table is locked."),
				 errhint("Commit after TRUNCATE, or use DELETE, or ANALYZE the table instead of using remote estimates.")));
}

static void
plan_call(const PlanCall *call, Oid serverid)
{
	if (IsInParallelMode() || !asks_remote(call->root, serverid))
		run_call(call);
	else
	{
		refuse_after_truncate(serverid);
		run_call_and_unlock(call);
	}
}

void
kr_plan_base(GetForeignRelSize_function callback, PlannerInfo *root, RelOptInfo *rel,
			 Oid relid)
{
	PlanCall	call = {.root = root,.rel = rel,.base = callback,.relid = relid};

	plan_call(&call, rel->serverid);
}

static Cost
cost_option(const ForeignServer *server, const char *name, Cost value)
{
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			value = strtod(defGetString(option), NULL);
	}
	return value;
}

/* A column of the table, by number, that may be compared in the data source. */
static bool
is_column(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
		  EquivalenceMember *em, void *arg)
{
	Var		   *var = (Var *) em->em_expr;

	return IsA(var, Var) && var->varno == rel->relid && var->varlevelsup == 0 &&
		var->varattno == *(AttrNumber *) arg && var->vartype < FirstGenbkiObjectId;
}

/* Sets of other tables whose rows give the values of this table's columns. */
static List *
suppliers(PlannerInfo *root, RelOptInfo *rel)
{
	List	   *result = NIL;

	for (AttrNumber attnum = 1; attnum <= rel->max_attr; attnum++)
	{
		ListCell   *lc;

		if (bms_is_empty(rel->attr_needed[attnum - rel->min_attr]))
			continue;
		foreach(lc, generate_implied_equalities_for_column(root, rel, is_column, &attnum,
														   rel->lateral_referencers))
		{
			RestrictInfo *clause = lfirst_node(RestrictInfo, lc);
			Relids		others = bms_union(clause->clause_relids, rel->lateral_relids);

			others = bms_del_member(others, rel->relid);
			if (!bms_is_empty(others) && join_clause_is_movable_to(clause, rel))
				result = list_append_unique_ptr(result, get_baserel_parampathinfo(root, rel, others));
		}
	}
	return result;
}

/*
 * UPDATE ... WHERE id IN (SELECT ...) and the like: all rows that are fetched
 * get locked. Where the others are few, those that match are asked for one by
 * one. For a query that locks nothing a trip for each row is no bargain: how
 * many there will be is an estimate.
 */
void
kr_plan_lookups(PlannerInfo *root, RelOptInfo *rel)
{
	const PlanRowMark *mark = get_plan_rowmark(root->rowMarks, rel->relid);
	ForeignServer *server;
	ListCell   *lc;

	if (!rel->has_eclass_joins ||
		!(bms_is_member(rel->relid, root->all_result_relids) ||
		  (mark != NULL && mark->strength != LCS_NONE)) ||
		kr_fdw_server(rel->serverid, InvalidOid)->kind == KR_SERVER_BOUND)
		return;

	server = GetForeignServer(rel->serverid);
	foreach(lc, suppliers(root, rel))
	{
		ParamPathInfo *info = lfirst(lc);
		Cost		startup = cost_option(server, "fdw_startup_cost", KR_STARTUP_COST);
		Cost		row = cost_option(server, "fdw_tuple_cost", KR_TUPLE_COST);

		add_path(rel, kr_create_lookup_path(root, rel, info->ppi_rows, startup,
											startup + row * info->ppi_rows,
											info->ppi_req_outer));
	}
}

/*
 * Columns that are equal are nearly always a key and what refers to it; without
 * statistics the planner expects far more rows of such a join.
 */
static double
join_rows(RelOptInfo *joinrel, RelOptInfo *outerrel, RelOptInfo *innerrel,
		  List *clauses)
{
	ListCell   *lc;

	foreach(lc, clauses)
	{
		RestrictInfo *clause = lfirst_node(RestrictInfo, lc);

		if (clause->can_join && clause->mergeopfamilies != NIL)
			return Min(joinrel->rows, outerrel->rows + innerrel->rows);
	}
	return joinrel->rows;
}

/* Put the foreign paths among these into rel's list, at our price. */
static void
add_priced_paths(RelOptInfo *rel, List *paths, double max_rows, bool is_final)
{
	ForeignServer *server;
	Cost		startup;
	Cost		row;
	ListCell   *lc;

	if (paths == NIL)
		return;
	server = GetForeignServer(rel->serverid);
	startup = cost_option(server, "fdw_startup_cost", KR_STARTUP_COST);
	row = cost_option(server, "fdw_tuple_cost", KR_TUPLE_COST);

	foreach(lc, paths)
	{
		Path	   *path = lfirst(lc);
		double		rows = Min(path->rows, max_rows);
		Cost		total = startup + row * rows;

		if (!IsA(path, ForeignPath))
			continue;

		/*
		 * Two differences must show: rows in order cost a little more, or they
		 * would be asked for in order for no reason, and less than a sort here;
		 * a limit there costs less than one here, which takes its share of what
		 * is below: of a join that is next to nothing, as it is expected to
		 * return so many rows.
		 */
		if (is_final)
			total = Max(startup - cpu_operator_cost, 0);
		else
		{
			total += cpu_tuple_cost * rows;
			if (path->pathkeys != NIL)
				total += cpu_operator_cost * rows;
		}

		path->total_cost = Min(path->total_cost, total);
		path->startup_cost = Min(Min(path->startup_cost, startup), path->total_cost);
		add_path(rel, path);
	}
}

/*
 * The list is emptied for the call: add_path() frees what is dominated, and at
 * postgres_fdw's price that would often be the foreign path. Where rows may
 * have to be checked again, postgres_fdw wants a local path to copy; it gets
 * one that dominates nothing.
 */
void
kr_plan_join(GetForeignJoinPaths_function add_paths, PlannerInfo *root,
			 RelOptInfo *joinrel, RelOptInfo *outerrel, RelOptInfo *innerrel,
			 JoinType jointype, JoinPathExtraData *extra)
{
	List	   *local = joinrel->pathlist;
	List	   *paths;
	Path	   *check = NULL;
	Cost		check_startup = 0;
	Cost		check_total = 0;
	ListCell   *lc;

	if (!kr_plan_prices(joinrel->serverid))
	{
		PlanCall	call = {.root = root,.rel = joinrel,.join = add_paths,
			.outerrel = outerrel,.innerrel = innerrel,.jointype = jointype,
		.join_extra = extra};

		plan_call(&call, joinrel->serverid);
		return;
	}

	/* considered already */
	if (joinrel->fdw_private != NULL)
		return;

	if (root->parse->commandType != CMD_SELECT || root->rowMarks != NIL)
		check = GetExistingLocalJoinPath(joinrel);
	joinrel->pathlist = NIL;
	if (check != NULL)
	{
		check_startup = check->startup_cost;
		check_total = check->total_cost;
		check->startup_cost = check->total_cost = KR_UNWANTED_COST;
		joinrel->pathlist = list_make1(check);
	}

	add_paths(root, joinrel, outerrel, innerrel, jointype, extra);

	paths = joinrel->pathlist;
	joinrel->pathlist = local;

	/* EXPLAIN shows what the copies cost */
	foreach(lc, paths)
	{
		Path	   *copy = IsA(lfirst(lc), ForeignPath) ?
			((ForeignPath *) lfirst(lc))->fdw_outerpath : NULL;

		if (copy != NULL)
		{
			copy->startup_cost = check_startup;
			copy->total_cost = check_total;
		}
	}
	add_priced_paths(joinrel, paths,
					 join_rows(joinrel, outerrel, innerrel, extra->restrictlist),
					 false);
}

void
kr_plan_upper(GetForeignUpperPaths_function add_paths, PlannerInfo *root,
			  UpperRelationKind stage, RelOptInfo *input_rel,
			  RelOptInfo *output_rel, void *extra)
{
	List	   *local = output_rel->pathlist;
	List	   *paths;

	if (!kr_plan_prices(input_rel->serverid))
	{
		PlanCall	call = {.root = root,.rel = output_rel,.upper = add_paths,
		.stage = stage,.input_rel = input_rel,.upper_extra = extra};

		plan_call(&call, input_rel->serverid);
		return;
	}

	output_rel->pathlist = NIL;
	add_paths(root, stage, input_rel, output_rel, extra);

	paths = output_rel->pathlist;
	output_rel->pathlist = local;
	add_priced_paths(output_rel, paths, DBL_MAX, stage == UPPERREL_FINAL);
}

/*
 * kr_fdw_ship.c
 *	  More conditions than postgres_fdw would ship.
 *
 * Before postgres_fdw decides which of a table's conditions the data source can
 * check, they are replaced by what kr_fdw_rewrite.c makes of them. Once it has
 * made its plan, everything in the plan that is evaluated here is put back: the
 * conditions themselves, the columns, and the values for which parameters stand.
 * Nothing of the replacement leaves the planner, so a finished plan is copied,
 * checked for privileges and dependencies, and shown like any other.
 *
 * A RestrictInfo is never changed, since others hold it too; the relation's list
 * gets another one. What the planner has estimated of the condition goes along:
 * the replacement, whose types do not match, must not be asked.
 *
 * What was replaced is noted for each run of the planner, beside its
 * PlannerGlobal and in the same memory. It is forgotten when that memory is
 * released, be it by an error, so runs may nest and an address may be used again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

#include "kr_fdw.h"

/* Parameters of ours have numbers from here on; a statement cannot have so many. */
#define FIRST_PARAM 0x40000000

struct KrShip
{
	PlannerGlobal *glob;
	MemoryContext cxt;			/* of glob */
	MemoryContextCallback callback;
	KrShip	   *next;
	PlannerInfo *root;			/* the (sub)query whose turn it is */
	List	   *values;			/* of parameters, in the order of their numbers */
	List	   *columns;		/* Vars as of another type */
	List	   *clauses;
	List	   *targets;		/* of grouping: its columns, and aggregates */
};

/* What postgres_fdw sees, and what is meant. */
typedef struct Replaced
{
	PlannerInfo *root;			/* Vars of another query may look the same */
	Node	   *shipped;
	Node	   *original;
} Replaced;

/* Runs of the planner that are under way, or whose memory is still there. */
static KrShip *ships = NULL;

static void
forget(void *arg)
{
	for (KrShip **link = &ships; *link != NULL; link = &(*link)->next)
	{
		if (*link == arg)
		{
			*link = (*link)->next;
			break;
		}
	}
}

static KrShip *
find_ship(PlannerInfo *root)
{
	for (KrShip *ship = ships; ship != NULL; ship = ship->next)
	{
		if (ship->glob == root->glob)
		{
			ship->root = root;
			return ship;
		}
	}
	return NULL;
}

static KrShip *
get_ship(PlannerInfo *root)
{
	KrShip	   *ship = find_ship(root);

	if (ship != NULL)
		return ship;
	ship = MemoryContextAllocZero(GetMemoryChunkContext(root->glob), sizeof(KrShip));
	ship->glob = root->glob;
	ship->root = root;
	ship->cxt = GetMemoryChunkContext(root->glob);
	ship->callback.func = forget;
	ship->callback.arg = ship;
	ship->next = ships;
	ships = ship;
	MemoryContextRegisterResetCallback(ship->cxt, &ship->callback);
	return ship;
}

/* ---------- what is replaced ---------- */

Param *
kr_ship_value(KrShip *ship, Expr *expr, Oid type)
{
	Param	   *param = makeNode(Param);
	MemoryContext old;
	ListCell   *cell;
	int			number = 0;

	/*
	 * The data source gives an untyped parameter a type where it meets the first
	 * one, so it cannot stand in two places.
	 */
	foreach(cell, ship->values)
	{
		if (type != UNKNOWNOID && equal(lfirst(cell), expr))
			break;
		number++;
	}
	if (cell == NULL)
	{
		old = MemoryContextSwitchTo(ship->cxt);
		ship->values = lappend(ship->values, copyObject(expr));
		MemoryContextSwitchTo(old);
	}

	param->paramkind = PARAM_EXTERN;
	param->paramid = FIRST_PARAM + number;
	param->paramtype = type;
	param->paramtypmod = getBaseType(exprType((Node *) expr)) == type ? exprTypmod((Node *) expr) : -1;
	param->paramcollid = get_typcollation(type);
	if (OidIsValid(param->paramcollid) && type == getBaseType(exprType((Node *) expr)))
		param->paramcollid = exprCollation((Node *) expr);
	param->location = -1;
	return param;
}

/* The shipped node's own copy, which stays where it is while the planner works. */
static Node *
note(KrShip *ship, List **list, void *shipped, void *original)
{
	MemoryContext old = MemoryContextSwitchTo(ship->cxt);
	Replaced   *entry = palloc(sizeof(Replaced));

	entry->root = ship->root;
	entry->shipped = copyObject(shipped);
	entry->original = copyObject(original);
	*list = lappend(*list, entry);
	MemoryContextSwitchTo(old);
	return entry->shipped;
}

/* What is known to stand for such a node; NULL: nothing. */
static Replaced *
find_shipped(KrShip *ship, List *list, void *shipped)
{
	ListCell   *cell;

	foreach(cell, list)
	{
		Replaced   *entry = lfirst(cell);

		if (entry->root == ship->root && equal(entry->shipped, shipped))
			return entry;
	}
	return NULL;
}

Var *
kr_ship_column(KrShip *ship, Var *var, Oid type, int32 typmod)
{
	Var		   *column = copyObject(var);

	column->vartype = type;
	column->vartypmod = typmod;
	if (find_shipped(ship, ship->columns, column) == NULL)
		(void) note(ship, &ship->columns, column, var);
	return column;
}

bool
kr_ship_target(KrShip *ship, Expr *shipped, Expr *original)
{
	Replaced   *entry = find_shipped(ship, ship->targets, shipped);

	if (entry != NULL)
		return equal(entry->original, original);
	(void) note(ship, &ship->targets, shipped, original);
	return true;
}

/*
 * An enum's label stands in the SQL of a plan, which must not outlive the label.
 * Plans do not depend on enums; they are all made again when one has changed,
 * which is rare.
 */
static void
enum_changed(Datum arg, int cacheid, uint32 hash)
{
	ResetPlanCache();
}

void
kr_ship_depend_on_enums(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterSyscacheCallback(ENUMOID, enum_changed, (Datum) 0);
	registered = true;
}

/* ---------- before postgres_fdw decides ---------- */

/*
 * The order of an enum's labels is relied on where tables are made by import;
 * behind a server that names a database, the column may well be of type text.
 * That is also where estimates may be asked for.
 */
static void
rules_of_server(KrShipRules *rules, Oid serverid)
{
	bool		bound = kr_fdw_server(serverid, InvalidOid)->kind == KR_SERVER_BOUND;

	memset(rules, 0, sizeof(*rules));
	rules->enum_order = !bound;
	rules->estimates = bound;
}

static bool
wants_estimates(List *options, bool value)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "use_remote_estimate") == 0)
			value = defGetBoolean(option);
	}
	return value;
}

/* Found again by its address, so what a join search makes and frees is no good. */
static Expr *
note_clause(KrShip *ship, Expr *clause, Expr *original)
{
	Replaced   *entry = find_shipped(ship, ship->clauses, clause);

	if (entry != NULL && equal(entry->original, original))
		return (Expr *) entry->shipped;
	return (Expr *) note(ship, &ship->clauses, clause, original);
}

static RestrictInfo *
ship_clause(PlannerInfo *root, const KrShipRules *rules, RestrictInfo *info,
			JoinType jointype, SpecialJoinInfo *sjinfo)
{
	KrShip	   *ship;
	RestrictInfo *result;
	Expr	   *clause;

	if (info->pseudoconstant)
		return info;
	ship = get_ship(root);
	clause = kr_rewrite_condition(ship, rules, info->clause);
	if (clause == info->clause)
		return info;

	(void) clause_selectivity(root, (Node *) info, 0, JOIN_INNER, NULL);
	if (jointype != JOIN_INNER)
		(void) clause_selectivity(root, (Node *) info, 0, jointype, sjinfo);
	result = makeNode(RestrictInfo);
	memcpy(result, info, sizeof(RestrictInfo));
	result->clause = note_clause(ship, clause, info->clause);
	result->orclause = NULL;
	return result;
}

static List *
ship_clauses(PlannerInfo *root, const KrShipRules *rules, List *clauses,
			 JoinType jointype, SpecialJoinInfo *sjinfo)
{
	List	   *result = NIL;
	bool		changed = false;
	ListCell   *cell;

	foreach(cell, clauses)
	{
		RestrictInfo *info = lfirst_node(RestrictInfo, cell);
		RestrictInfo *shipped = ship_clause(root, rules, info, jointype, sjinfo);

		changed |= shipped != info;
		result = lappend(result, shipped);
	}
	return changed ? result : clauses;
}

void
kr_ship_base(PlannerInfo *root, RelOptInfo *rel)
{
	KrShipRules rules;
	List	   *shipped;

	if (rel->baserestrictinfo == NIL)
		return;
	rules_of_server(&rules, rel->serverid);
	if (rules.estimates)
		rules.estimates = wants_estimates(GetForeignTable(planner_rt_fetch(rel->relid, root)->relid)->options,
										  wants_estimates(GetForeignServer(rel->serverid)->options, false));

	shipped = ship_clauses(root, &rules, rel->baserestrictinfo, JOIN_INNER, NULL);
	if (shipped == rel->baserestrictinfo)
		return;

	/* Extended statistics look at the clauses themselves. */
	rel->baserestrictinfo = shipped;
	rel->statlist = NIL;
}

List *
kr_ship_join(PlannerInfo *root, RelOptInfo *joinrel, JoinType jointype,
			 SpecialJoinInfo *sjinfo, List *clauses)
{
	KrShipRules rules;

	/* once is enough: postgres_fdw looks at a join but once */
	if (clauses == NIL || !OidIsValid(joinrel->serverid) || joinrel->fdw_private != NULL)
		return clauses;
	rules_of_server(&rules, joinrel->serverid);
	return ship_clauses(root, &rules, clauses, jointype, sjinfo);
}

/*
 * HAVING: values, and what is within aggregates. The rest stays as it is: what
 * postgres_fdw makes of it estimates anew.
 */
Node *
kr_ship_having(PlannerInfo *root, RelOptInfo *rel, Node *having)
{
	List	   *result = NIL;
	KrShipRules rules;
	KrShip	   *ship;
	ListCell   *cell;

	if (having == NULL || !OidIsValid(rel->serverid))
		return having;
	rules_of_server(&rules, rel->serverid);
	ship = get_ship(root);
	foreach(cell, castNode(List, having))
	{
		Expr	   *clause = lfirst(cell);
		Expr	   *shipped;

		rules.values_only = false;
		shipped = kr_rewrite_aggregates(ship, &rules, clause);
		rules.values_only = true;
		shipped = kr_rewrite_condition(ship, &rules, shipped);
		if (shipped != clause)
			shipped = note_clause(ship, shipped, clause);
		result = lappend(result, shipped);
	}
	return (Node *) result;
}

/*
 * What grouping gives: columns of GROUP BY, and the rest, of which the aggregates
 * count. The target itself if there is nothing to change.
 */
PathTarget *
kr_ship_grouping(PlannerInfo *root, RelOptInfo *rel, PathTarget *target)
{
	PathTarget *result;
	KrShipRules rules;
	KrShip	   *ship;
	bool		changed = false;
	ListCell   *cell;
	int			i = 0;

	if (!OidIsValid(rel->serverid))
		return target;
	rules_of_server(&rules, rel->serverid);
	ship = get_ship(root);
	result = copy_pathtarget(target);
	foreach(cell, result->exprs)
	{
		Expr	   *expr = lfirst(cell);
		Index		ref = get_pathtarget_sortgroupref(target, i);
		Expr	   *shipped;

		if (ref != 0 && get_sortgroupref_clause_noerr(ref, root->parse->groupClause) != NULL)
			shipped = kr_rewrite_target(ship, &rules, expr);
		else
			shipped = kr_rewrite_aggregates(ship, &rules, expr);
		/* nor may it look like another column of the result */
		if (shipped != expr && !list_member(target->exprs, shipped) &&
			kr_ship_target(ship, shipped, expr))
		{
			lfirst(cell) = shipped;
			changed = true;
		}
		i++;
	}
	return changed ? result : target;
}

/* ---------- once the plan is made ---------- */

typedef struct RestoreContext
{
	KrShip	   *ship;
	bool		distinct;		/* values must not look like columns of a join */
} RestoreContext;

/*
 * A parameter under a cast that does nothing. Where a join or an aggregate is
 * shipped, setrefs.c takes any part of fdw_exprs that equals a column of the
 * result for that column. Only an expression with a parameter in it can.
 */
static Node *
disguise_params(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param))
		return (Node *) makeRelabelType(copyObject((Expr *) node), exprType(node), exprTypmod(node),
										exprCollation(node), COERCE_IMPLICIT_CAST);
	return expression_tree_mutator(node, disguise_params, context);
}

static Node *
restore(Node *node, RestoreContext *cxt)
{
	Replaced   *entry;

	if (node == NULL)
		return NULL;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN &&
		((Param *) node)->paramid >= FIRST_PARAM)
	{
		Node	   *value = list_nth(cxt->ship->values, ((Param *) node)->paramid - FIRST_PARAM);

		return cxt->distinct ? disguise_params(value, NULL) : copyObject(value);
	}
	entry = find_shipped(cxt->ship, IsA(node, Var) ? cxt->ship->columns : cxt->ship->targets, node);
	if (entry != NULL)
		return copyObject(entry->original);
	return expression_tree_mutator(node, restore, cxt);
}

static List *
restore_clauses(List *clauses, KrShip *ship)
{
	List	   *result = NIL;
	ListCell   *cell;
	ListCell   *lc;

	foreach(cell, clauses)
	{
		Node	   *clause = lfirst(cell);

		foreach(lc, ship->clauses)
		{
			Replaced   *entry = lfirst(lc);

			if (entry->shipped == clause)
			{
				clause = copyObject(entry->original);
				break;
			}
		}
		result = lappend(result, clause);
	}
	return result;
}

static void
restore_values(ForeignScan *scan, KrShip *ship)
{
	RestoreContext cxt = {ship, scan->scan.scanrelid == 0};

	scan->fdw_exprs = (List *) restore((Node *) scan->fdw_exprs, &cxt);
}

/* Lists are made anew: postgres_fdw keeps the clauses for PlanDirectModify. */
ForeignScan *
kr_ship_plan(PlannerInfo *root, ForeignScan *scan)
{
	KrShip	   *ship = find_ship(root);
	RestoreContext cxt = {ship, false};

	if (ship == NULL)
		return scan;
	scan->scan.plan.qual = restore_clauses(scan->scan.plan.qual, ship);
	scan->fdw_recheck_quals = restore_clauses(scan->fdw_recheck_quals, ship);
	scan->fdw_scan_tlist = (List *) restore((Node *) scan->fdw_scan_tlist, &cxt);
	restore_values(scan, ship);
	return scan;
}

static void
restore_scans(Plan *plan, KrShip *ship)
{
	ListCell   *cell;

	if (plan == NULL)
		return;
	if (IsA(plan, ForeignScan))
		restore_values((ForeignScan *) plan, ship);
	else if (IsA(plan, Append))
	{
		foreach(cell, ((Append *) plan)->appendplans)
			restore_scans(lfirst(cell), ship);
	}
	else
		restore_scans(plan->lefttree, ship);
}

/* The target list of an UPDATE as postgres_fdw is to see it. */
static List *
ship_assignments(PlannerInfo *root, Index result_relation)
{
	KrShip	   *ship = get_ship(root);
	List	   *result = NIL;
	KrShipRules rules;
	ListCell   *cell;

	rules_of_server(&rules, GetForeignServerIdByRelId(planner_rt_fetch(result_relation, root)->relid));
	foreach(cell, root->processed_tlist)
	{
		TargetEntry *entry = flatCopyTargetEntry(lfirst_node(TargetEntry, cell));

		if (!entry->resjunk)
			entry->expr = kr_rewrite_assignment(ship, &rules, entry->expr);
		result = lappend(result, entry);
	}
	return result;
}

/* Whether this succeeds or not, root has its own target list again. */
bool
kr_ship_direct_modify(PlanDirectModify_function plan_direct_modify, PlannerInfo *root,
					  ModifyTable *plan, Index result_relation, int subplan_index)
{
	List	   *original = root->processed_tlist;
	KrShip	   *ship;
	bool		result;

	if (plan->operation == CMD_UPDATE)
		root->processed_tlist = ship_assignments(root, result_relation);
	result = plan_direct_modify(root, plan, result_relation, subplan_index);
	root->processed_tlist = original;

	ship = find_ship(root);
	if (result && ship != NULL)
		restore_scans(outerPlan((Plan *) plan), ship);
	return result;
}

/*
 * kr_between.c
 *	  kessel.is_between(): rows of one's own, or all, by one index scan.
 *
 * "owner = me OR I see all" in a policy has the table read as a whole, whoever
 * asks. A range of owners, from me to me or from the first uuid to the last, does
 * not, as it is one of a B-tree on owner; but of a range that is not known before
 * the query runs, the planner takes it to be a two-hundredth of the table, and leaves
 * the index as soon as a LIMIT or an ORDER BY makes another way look better.
 *
 * So is_between() is a range to the planner that finds the rows of one owner, which
 * is what it does for nearly all who ask: plans are kept for whoever comes next,
 * and such a plan is never bad for a user, whereas one for who sees all is. Only
 * a plan that is made for one execution, with its parameters, is made for who asks.
 *
 * The estimate of an index scan is that of its conditions, so they are
 * given two bounds that an estimate takes for the same ordinary uuid
 * (kr_bound_support). Their COST keeps the planner, for the sake of those who
 * see all, to the index of another condition where that finds few rows; see
 * sql/modules/47_policies.sql.
 *
 * Called by the planner and by policies. No state.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(kr_is_between);
PG_FUNCTION_INFO_V1(kr_between_support);
PG_FUNCTION_INFO_V1(kr_first_bound);
PG_FUNCTION_INFO_V1(kr_last_bound);
PG_FUNCTION_INFO_V1(kr_bound_support);

/* The two bounds; NULL where the array is not of two, none of them NULL. */
static const pg_uuid_t *
bounds_of(Datum datum)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);

	if (ARR_NDIM(array) != 1 || ARR_DIMS(array)[0] != 2 || ARR_HASNULL(array))
		return NULL;
	return (const pg_uuid_t *) ARR_DATA_PTR(array);
}

/* kessel.is_between(id uuid, bounds uuid[]) returns boolean; strict */
Datum
kr_is_between(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = PG_GETARG_UUID_P(0);
	const pg_uuid_t *bounds = bounds_of(PG_GETARG_DATUM(1));

	PG_RETURN_BOOL(bounds != NULL &&
				   memcmp(id, &bounds[0], UUID_LEN) >= 0 && memcmp(id, &bounds[1], UUID_LEN) <= 0);
}

static Datum
one_bound(FunctionCallInfo fcinfo, int i)
{
	const pg_uuid_t *bounds = bounds_of(PG_GETARG_DATUM(0));
	pg_uuid_t  *bound;

	if (bounds == NULL)
		PG_RETURN_NULL();
	bound = palloc(sizeof(pg_uuid_t));
	*bound = bounds[i];
	PG_RETURN_UUID_P(bound);
}

/* kessel._first_bound(bounds uuid[]) returns uuid; strict */
Datum
kr_first_bound(PG_FUNCTION_ARGS)
{
	return one_bound(fcinfo, 0);
}

/* kessel._last_bound(bounds uuid[]) returns uuid; strict */
Datum
kr_last_bound(PG_FUNCTION_ARGS)
{
	return one_bound(fcinfo, 1);
}

/*
 * For the two: where an expression is simplified for an estimate only, which the
 * planner tells by giving no PlannerInfo, either is a uuid in the middle.
 */
Datum
kr_bound_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	pg_uuid_t  *middle;

	if (!IsA(request, SupportRequestSimplify) || ((SupportRequestSimplify *) request)->root != NULL)
		PG_RETURN_POINTER(NULL);
	middle = palloc(sizeof(pg_uuid_t));
	memset(middle, 0x80, sizeof(*middle));
	PG_RETURN_POINTER(makeConst(UUIDOID, -1, InvalidOid, UUID_LEN, UUIDPGetDatum(middle), false, false));
}

/* What stands in "(SELECT expression)" of this or a query around, once that is planned; else the node. */
static Node *
expression_behind(PlannerInfo *root, Node *node)
{
	ListCell   *cell;

	if (!IsA(node, Param) || ((Param *) node)->paramkind != PARAM_EXEC)
		return node;
	for (; root != NULL; root = root->parent_root)
	{
		foreach(cell, root->init_plans)
		{
			SubPlan    *subplan = lfirst_node(SubPlan, cell);
			Plan	   *plan = list_nth(root->glob->subplans, subplan->plan_id - 1);

			if (list_member_int(subplan->setParam, ((Param *) node)->paramid) && IsA(plan, Result) &&
				outerPlan(plan) == NULL && ((Result *) plan)->resconstantqual == NULL &&
				list_length(plan->targetlist) == 1)
				return (Node *) linitial_node(TargetEntry, plan->targetlist)->expr;
		}
	}
	return node;
}

/* Is this plan for one execution, by who sees more than the rows of one owner? */
static bool
plans_for_many(PlannerInfo *root, Node *bounds)
{
	Node	   *estimate;
	const pg_uuid_t *range;

	if (root->glob->boundParams == NULL)
		return false;
	estimate = estimate_expression_value(root, expression_behind(root, bounds));
	if (!IsA(estimate, Const) || ((Const *) estimate)->constisnull)
		return false;
	range = bounds_of(((Const *) estimate)->constvalue);
	return range != NULL && memcmp(&range[0], &range[1], UUID_LEN) != 0;
}

static Node *
estimate_share(SupportRequestSelectivity *request)
{
	VariableStatData id;

	if (plans_for_many(request->root, lsecond(request->args)))
	{
		request->selectivity = 1.0;
		return (Node *) request;
	}
	examine_variable(request->root, linitial(request->args), request->varRelid, &id);
	request->selectivity = var_eq_non_const(&id, lookup_type_cache(UUIDOID, TYPECACHE_EQ_OPR)->eq_opr,
											InvalidOid, lsecond(request->args), true, false);
	ReleaseVariableStats(id);
	return (Node *) request;
}

/* COLUMN OPERATOR BOUND(bounds); the function is in the schema of is_between(). */
static Node *
make_condition(SupportRequestIndexCondition *request, List *args, int16 strategy, const char *name)
{
	static const Oid types[] = {UUIDARRAYOID};
	Oid			comparison = get_opfamily_member(request->opfamily, UUIDOID, UUIDOID, strategy);
	Oid			bound = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
										PointerGetDatum(buildoidvector(types, lengthof(types))),
										ObjectIdGetDatum(get_func_namespace(request->funcid)));

	if (!OidIsValid(comparison) || !OidIsValid(bound))
		return NULL;
	return (Node *) make_opclause(comparison, BOOLOID, false, linitial(args),
								  (Expr *) makeFuncExpr(bound, UUIDOID, list_make1(lsecond(args)),
														InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
								  InvalidOid, request->indexcollation);
}

static List *
make_conditions(SupportRequestIndexCondition *request)
{
	List	   *args;
	Node	   *first;
	Node	   *last;

	if (!is_funcclause(request->node) || request->indexarg != 0 || request->index->relam != BTREE_AM_OID)
		return NIL;
	args = ((FuncExpr *) request->node)->args;
	if (!is_pseudo_constant_for_index(request->root, lsecond(args), request->index) ||
		plans_for_many(request->root, lsecond(args)))
		return NIL;
	first = make_condition(request, args, BTGreaterEqualStrategyNumber, "_first_bound");
	last = make_condition(request, args, BTLessEqualStrategyNumber, "_last_bound");
	if (first == NULL || last == NULL)
		return NIL;
	request->lossy = false;
	return list_make2(first, last);
}

/* kessel._between_support(internal), for is_between() */
Datum
kr_between_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	void	   *answer = NULL;

	if (IsA(request, SupportRequestSelectivity) && !((SupportRequestSelectivity *) request)->is_join)
		answer = estimate_share((SupportRequestSelectivity *) request);
	else if (IsA(request, SupportRequestIndexCondition))
		answer = make_conditions((SupportRequestIndexCondition *) request);
	PG_RETURN_POINTER(answer);
}

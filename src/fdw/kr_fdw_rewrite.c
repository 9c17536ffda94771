/*
 * kr_fdw_rewrite.c
 *	  Conditions as postgres_fdw ships them.
 *
 * postgres_fdw sends a condition only if it is made of built-in types and of
 * immutable built-in functions, and if it knows each kind of node in it. Much
 * that means the same in the data source fails that test. What is made here of
 * a condition is for postgres_fdw's eyes alone: it passes the test, and the SQL
 * that is written of it means what the condition means. It is never evaluated
 * here; kr_fdw_ship.c puts the condition back into the finished plan.
 *
 * This file walks through an expression. What becomes of values, enums, domains and
 * collations: kr_fdw_rewrite_value.c; of times: kr_fdw_rewrite_time.c; of the nodes
 * that postgres_fdw does not know: kr_fdw_rewrite_node.c.
 *
 * Runs while a statement is planned; what is made lives as long as its KrShip.
 */
#include "postgres.h"

#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"

#include "kr_fdw_rewrite.h"

/* ---------- an expression ---------- */

/* An operator on enums, or one whose collation can be left out. */
static Node *
rewrite_operator(Node *node, KrRewrite *cxt)
{
	OpExpr	   *op = (OpExpr *) node;	/* DistinctExpr is one */
	ScalarArrayOpExpr *array = (ScalarArrayOpExpr *) node;
	bool		is_array = IsA(node, ScalarArrayOpExpr);
	Oid			function = is_array ? array->opfuncid : op->opfuncid;
	List	   *args = is_array ? array->args : op->args;
	List	   *operands = NIL;

	if (kr_rewrite_is_enum_function(function, cxt->rules->enum_order))
		operands = kr_rewrite_enums(args, cxt);
	if (operands == NIL)
		operands = (List *) expression_tree_mutator((Node *) args, kr_rewrite, cxt);

	if (is_array)
	{
		array = copyObject(array);
		array->inputcollid = kr_rewrite_collation(array->inputcollid, function, args);
		array->args = operands;
		return (Node *) array;
	}
	op = copyObject(op);
	op->inputcollid = kr_rewrite_collation(op->inputcollid, function, args);
	op->args = operands;
	return (Node *) op;
}

/* What takes the place of a node that names a column; NULL: its parts decide. */
static Node *
rewrite_node(Node *node, KrRewrite *cxt)
{
	KrRewrite arms = *cxt;
	Node	   *result;

	switch (nodeTag(node))
	{
		case T_Var:
			return kr_rewrite_column((Var *) node, cxt);
		case T_OpExpr:
			result = kr_rewrite_time_comparison((OpExpr *) node, cxt);
			return result ? result : rewrite_operator(node, cxt);
		case T_DistinctExpr:
		case T_ScalarArrayOpExpr:
			return rewrite_operator(node, cxt);
		case T_FuncExpr:
			return kr_rewrite_time_function((FuncExpr *) node, cxt);
		case T_NullTest:
			result = kr_rewrite_enum((Node *) ((NullTest *) node)->arg, cxt);
			return result ? (Node *) kr_rewrite_null_test((Expr *) result, ((NullTest *) node)->nulltesttype) : NULL;
		case T_RowCompareExpr:
			return kr_rewrite_row_comparison((RowCompareExpr *) node, cxt);
		case T_BooleanTest:
			return kr_rewrite_boolean_test((BooleanTest *) node, cxt);
		case T_CoalesceExpr:
			return kr_rewrite_coalesce((CoalesceExpr *) node, cxt);
		case T_CoerceViaIO:
			return kr_rewrite_io_cast((CoerceViaIO *) node, cxt);
		case T_CaseExpr:
			arms.conditional = true;
			return expression_tree_mutator(node, kr_rewrite, &arms);
		default:
			return NULL;
	}
}

/* What is inside is computed elsewhere, or for each element. */
static bool
is_closed(Node *node)
{
	return IsA(node, Aggref) || IsA(node, WindowFunc) || IsA(node, SubPlan) ||
		IsA(node, AlternativeSubPlan) || IsA(node, ArrayCoerceExpr);
}

Node *
kr_rewrite(Node *node, KrRewrite *cxt)
{
	Node	   *result;

	if (node == NULL)
		return NULL;
	if (IsA(node, List) || IsA(node, CaseWhen) || IsA(node, CaseTestExpr))
		return expression_tree_mutator(node, kr_rewrite, cxt);
	if (!kr_rewrite_needs_row(node, NULL))
	{
		result = kr_rewrite_value(node, cxt);
		if (result != NULL)
			return result;
	}
	else if (is_closed(node))
		return node;
	else if (!cxt->rules->values_only)
	{
		result = rewrite_node(node, cxt);
		if (result != NULL)
			return result;
	}
	return expression_tree_mutator(node, kr_rewrite, cxt);
}

/* ---------- for the planner ---------- */

/*
 * The expression itself where there is nothing to change, or where it depends
 * on more than immutable functions still: postgres_fdw would refuse it anyway.
 */
Expr *
kr_rewrite_condition(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	KrRewrite cxt = {ship, rules, false};
	Node	   *result;

	if (!kr_rewrite_needs_row((Node *) expr, NULL))
		return expr;
	result = kr_rewrite((Node *) expr, &cxt);
	if (equal(result, expr) || contain_mutable_functions(result))
		return expr;
	return (Expr *) result;
}

/* A column of GROUP BY. */
Expr *
kr_rewrite_target(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	KrRewrite cxt = {ship, rules, false};

	if (IsA(expr, Var) && kr_rewrite_is_enum(exprType((Node *) expr)))
		return (Expr *) kr_rewrite_enum((Node *) expr, &cxt);
	return kr_rewrite_condition(ship, rules, expr);
}

/* An aggregate's arguments and filter; itself where that does not do. */
static Aggref *
rewrite_aggregate(Aggref *original, KrRewrite *cxt)
{
	Aggref	   *agg = copyObject(original);
	bool		takes_enum = false;
	ListCell   *cell;

	if (agg->aggkind != AGGKIND_NORMAL)
		return original;
	foreach(cell, agg->args)
	{
		TargetEntry *arg = lfirst_node(TargetEntry, cell);
		Node	   *operand = IsA(arg->expr, Var) ? kr_rewrite_enum((Node *) arg->expr, cxt) : NULL;

		takes_enum |= operand != NULL;
		arg->expr = (Expr *) (operand ? operand : kr_rewrite((Node *) arg->expr, cxt));
	}
	agg->aggfilter = (Expr *) kr_rewrite((Node *) agg->aggfilter, cxt);
	if (agg->aggfnoid == F_COUNT_ANY)
		agg->inputcollid = InvalidOid;
	if (takes_enum && agg->aggorder != NIL)
		return original;
	if (cxt->rules->enum_order && (agg->aggfnoid == F_MAX_ANYENUM || agg->aggfnoid == F_MIN_ANYENUM))
		agg->aggtype = UNKNOWNOID;
	if (equal(agg, original) || contain_mutable_functions((Node *) agg) ||
		!kr_ship_target(cxt->ship, (Expr *) agg, (Expr *) original))
		return original;
	return agg;
}

static Node *
find_aggregates(Node *node, KrRewrite *cxt)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Aggref))
		return (Node *) rewrite_aggregate((Aggref *) node, cxt);
	return expression_tree_mutator(node, find_aggregates, cxt);
}

/* The aggregates in an expression. */
Expr *
kr_rewrite_aggregates(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	KrRewrite cxt = {ship, rules, false};
	Node	   *result = find_aggregates((Node *) expr, &cxt);

	return equal(result, expr) ? expr : (Expr *) result;
}

/* The value of a column in UPDATE ... SET. */
Expr *
kr_rewrite_assignment(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	KrRewrite cxt = {ship, rules, false};
	Node	   *result = kr_rewrite_enum((Node *) expr, &cxt);

	if (result == NULL)
		result = kr_rewrite((Node *) expr, &cxt);
	return contain_mutable_functions(result) ? expr : (Expr *) result;
}

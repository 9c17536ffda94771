/*
 * kr_fdw_rewrite_node.c
 *	  Nodes that postgres_fdw cannot write, in terms of those that it can.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"

#include "kr_fdw_rewrite.h"

Expr *
kr_rewrite_null_test(Expr *arg, NullTestType type)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = arg;
	test->nulltesttype = type;
	test->location = -1;
	return (Expr *) test;
}

/*
 * (a, b) > (x, y) is a > x OR (a = x AND b > y), also where NULLs are in it.
 * That a >= x follows from it is said, since an index can answer that.
 */
Node *
kr_rewrite_row_comparison(RowCompareExpr *row, KrRewrite *cxt)
{
	int			last = list_length(row->opnos) - 1;
	int			strategy = kr_row_compare_strategy(row);
	bool		less = strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber;
	Expr	   *result = NULL;

	for (int i = last; i >= 0; i--)
	{
		Oid			family = list_nth_oid(row->opfamilies, i);
		Oid			collation = list_nth_oid(row->inputcollids, i);
		Expr	   *left = list_nth(row->largs, i);
		Expr	   *right = list_nth(row->rargs, i);
		Oid			types[2];
		Oid			unequal,
					equal,
					bound;

		op_input_types(list_nth_oid(row->opnos, i), &types[0], &types[1]);
		if (i == last)
		{
			result = make_opclause(list_nth_oid(row->opnos, i), BOOLOID, false, left, right,
								   InvalidOid, collation);
			continue;
		}
		unequal = get_opfamily_member(family, types[0], types[1],
									  less ? BTLessStrategyNumber : BTGreaterStrategyNumber);
		equal = get_opfamily_member(family, types[0], types[1], BTEqualStrategyNumber);
		bound = get_opfamily_member(family, types[0], types[1],
									less ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber);
		if (!OidIsValid(unequal) || !OidIsValid(equal) || !OidIsValid(bound))
			return NULL;
		result = makeBoolExpr(AND_EXPR,
							  list_make2(make_opclause(equal, BOOLOID, false, left, right,
													   InvalidOid, collation), result), -1);
		result = makeBoolExpr(OR_EXPR,
							  list_make2(make_opclause(unequal, BOOLOID, false, left, right,
													   InvalidOid, collation), result), -1);
		result = makeBoolExpr(AND_EXPR,
							  list_make2(make_opclause(bound, BOOLOID, false, left, right,
													   InvalidOid, collation), result), -1);
	}
	fix_opfuncids((Node *) result);
	return kr_rewrite((Node *) result, cxt);
}

/* What stands twice is made twice: see kr_ship_value() on untyped parameters. */
Node *
kr_rewrite_boolean_test(BooleanTest *test, KrRewrite *cxt)
{
	bool		negated = test->booltesttype == IS_NOT_TRUE || test->booltesttype == IS_NOT_FALSE;
	Expr	   *arg = (Expr *) kr_rewrite((Node *) test->arg, cxt);
	Expr	   *result;

	if (test->booltesttype == IS_UNKNOWN)
		return (Node *) kr_rewrite_null_test(arg, IS_NULL);
	if (test->booltesttype == IS_NOT_UNKNOWN)
		return (Node *) kr_rewrite_null_test(arg, IS_NOT_NULL);

	result = (Expr *) kr_rewrite((Node *) test->arg, cxt);
	if (test->booltesttype == IS_FALSE || test->booltesttype == IS_NOT_FALSE)
		result = makeBoolExpr(NOT_EXPR, list_make1(result), -1);
	result = makeBoolExpr(AND_EXPR, list_make2(result, kr_rewrite_null_test(arg, IS_NOT_NULL)), -1);
	return (Node *) (negated ? makeBoolExpr(NOT_EXPR, list_make1(result), -1) : result);
}

/* COALESCE(a, b) is CASE WHEN a IS NOT NULL THEN a ELSE b END. */
Node *
kr_rewrite_coalesce(CoalesceExpr *coalesce, KrRewrite *cxt)
{
	KrRewrite arms = *cxt;
	CaseExpr   *result = makeNode(CaseExpr);
	ListCell   *cell;

	result->casetype = coalesce->coalescetype;
	result->casecollid = coalesce->coalescecollid;
	result->location = -1;
	foreach(cell, coalesce->args)
	{
		Expr	   *arg = (Expr *) kr_rewrite(lfirst(cell), &arms);

		if (lnext(coalesce->args, cell) == NULL)
			result->defresult = arg;
		else
		{
			CaseWhen   *arm = makeNode(CaseWhen);

			if (type_is_rowtype(exprType((Node *) arg)))
				return NULL;
			arm->expr = kr_rewrite_null_test(arg, IS_NOT_NULL);
			arm->result = (Expr *) kr_rewrite(lfirst(cell), &arms);
			result->args = lappend(result->args, arm);
		}
		arms.conditional = true;
	}
	return result->args == NIL ? (Node *) result->defresult : (Node *) result;
}

/* True where the text of a value depends on no setting, and means one thing. */
static bool
is_immutable_io(Oid from, Oid to)
{
	Oid			function,
				param;

	if (kr_type_needs_settings(from) || from == BYTEAOID)
		return false;
	getTypeInputInfo(to, &function, &param);
	return func_volatile(function) == PROVOLATILE_IMMUTABLE;
}

/* A cast by way of text is written like any other: x::type. */
Node *
kr_rewrite_io_cast(CoerceViaIO *cast, KrRewrite *cxt)
{
	Oid			from = exprType((Node *) cast->arg);
	Node	   *arg;

	if (!kr_rewrite_is_builtin(cast->resulttype))
		return NULL;
	if (kr_rewrite_is_enum(from))
		arg = kr_rewrite_enum((Node *) cast->arg, cxt);
	else
		arg = is_immutable_io(from, cast->resulttype) ? kr_rewrite((Node *) cast->arg, cxt) : NULL;
	if (arg == NULL)
		return NULL;
	return (Node *) makeRelabelType((Expr *) arg, cast->resulttype, -1, cast->resultcollid,
									COERCE_EXPLICIT_CAST);
}

/*
 * kr_fdw_rewrite_time.c
 *	  Times in a condition for postgres_fdw.
 *
 * A timestamp meets a timestamptz by way of the session's time zone, which the data
 * source does not share: it is sent along.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "kr_fdw_rewrite.h"

/* The operator family of date, timestamp and timestamptz; it has no name in C. */
#define DATETIME_BTREE_FAMILY 434

static Expr *
text_constant(const char *text)
{
	return (Expr *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							  CStringGetTextDatum(text), false, false);
}

static Expr *
text_function(Oid function, Expr *arg)
{
	return (Expr *) makeFuncExpr(function, TEXTOID, list_make1(arg), DEFAULT_COLLATION_OID,
								 DEFAULT_COLLATION_OID, COERCE_EXPLICIT_CALL);
}

/*
 * The name of the session's time zone, as timezone() takes it: that looks for
 * an abbreviation first, and four zones have the name of one that knows no
 * summer time.
 */
static Node *
session_time_zone(KrRewrite *cxt)
{
	static const char *const misread[][2] = {
		{"CET", "Europe/Brussels"},
		{"EET", "Europe/Athens"},
		{"MET", "Europe/Brussels"},
		{"WET", "Europe/Lisbon"},
	};
	Expr	   *setting = text_function(F_CURRENT_SETTING_TEXT, text_constant("TimeZone"));
	CaseExpr   *zone = makeNode(CaseExpr);

	zone->casetype = TEXTOID;
	zone->casecollid = DEFAULT_COLLATION_OID;
	zone->defresult = setting;
	for (int i = 0; i < lengthof(misread); i++)
	{
		CaseWhen   *arm = makeNode(CaseWhen);

		arm->expr = make_opclause(TextEqualOperator, BOOLOID, false,
								  text_function(F_UPPER_TEXT, copyObject(setting)),
								  text_constant(misread[i][0]),
								  InvalidOid, DEFAULT_COLLATION_OID);
		arm->result = text_constant(misread[i][1]);
		zone->args = lappend(zone->args, arm);
	}
	fix_opfuncids((Node *) zone);
	return (Node *) kr_ship_value(cxt->ship, (Expr *) zone, TEXTOID);
}

/* timezone(zone, time): from timestamp to timestamptz or back */
static Node *
at_time_zone(Node *time, Oid function, Oid result, KrRewrite *cxt)
{
	return (Node *) makeFuncExpr(function, result,
								 list_make2(session_time_zone(cxt), time),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static Node *
date_to_timestamp(Node *date)
{
	return (Node *) makeFuncExpr(F_TIMESTAMP_DATE, TIMESTAMPOID, list_make1(date),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CAST);
}

/* An expression with columns, as timestamptz. */
static Node *
column_to_timestamptz(Node *node, KrRewrite *cxt)
{
	Oid			type = exprType(node);

	node = kr_rewrite(node, cxt);
	if (type == TIMESTAMPTZOID)
		return node;
	if (type == DATEOID)
		node = date_to_timestamp(node);
	return at_time_zone(node, F_TIMEZONE_TEXT_TIMESTAMP, TIMESTAMPTZOID, cxt);
}

static Node *
value_to_timestamptz(Node *node, KrRewrite *cxt)
{
	Oid			type = exprType(node);

	if (type != TIMESTAMPTZOID)
		node = (Node *) makeFuncExpr(type == DATEOID ? F_TIMESTAMPTZ_DATE : F_TIMESTAMPTZ_TIMESTAMP,
									 TIMESTAMPTZOID, list_make1(node), InvalidOid,
									 InvalidOid, COERCE_IMPLICIT_CAST);
	return kr_rewrite(node, cxt);
}

/* A comparison of a timestamptz with a timestamp or date; NULL if it is none. */
Node *
kr_rewrite_time_comparison(OpExpr *op, KrRewrite *cxt)
{
	List	   *args = NIL;
	int			strategy;
	Oid			left,
				right,
				same;
	ListCell   *cell;

	if (list_length(op->args) != 2 || cxt->conditional)
		return NULL;
	op_input_types(op->opno, &left, &right);
	if (left == right || (left != TIMESTAMPTZOID && right != TIMESTAMPTZOID))
		return NULL;
	strategy = get_op_opfamily_strategy(op->opno, DATETIME_BTREE_FAMILY);
	if (strategy == 0)
		return NULL;
	same = get_opfamily_member(DATETIME_BTREE_FAMILY, TIMESTAMPTZOID, TIMESTAMPTZOID, strategy);
	foreach(cell, op->args)
	{
		Node	   *arg = lfirst(cell);

		if (exprType(arg) != TIMESTAMPTZOID && exprType(arg) != TIMESTAMPOID &&
			exprType(arg) != DATEOID)
			return NULL;
		args = lappend(args, kr_rewrite_needs_row(arg, NULL) ? column_to_timestamptz(arg, cxt) :
					   value_to_timestamptz(arg, cxt));
	}
	return (Node *) make_opclause(same, BOOLOID, false, linitial(args), lsecond(args),
								  InvalidOid, InvalidOid);
}

/* The start of a day or of more than that is one moment in every zone. */
static bool
is_long_unit(Node *node)
{
	static const char *const units[] = {"day", "week", "month", "quarter", "year"};
	char	   *unit;

	if (!IsA(node, Const) || ((Const *) node)->constisnull)
		return false;
	unit = TextDatumGetCString(((Const *) node)->constvalue);
	for (int i = 0; i < lengthof(units); i++)
	{
		if (pg_strcasecmp(unit, units[i]) == 0)
			return true;
	}
	return false;
}

/* Casts between date, timestamp and timestamptz, date_trunc(); NULL if it is none. */
Node *
kr_rewrite_time_function(FuncExpr *func, KrRewrite *cxt)
{
	Node	   *local;

	switch (func->funcid)
	{
		case F_TIMESTAMPTZ_TIMESTAMP:
		case F_TIMESTAMPTZ_DATE:
			return column_to_timestamptz(linitial(func->args), cxt);
		case F_TIMESTAMP_TIMESTAMPTZ:
		case F_DATE_TIMESTAMPTZ:
			local = at_time_zone(kr_rewrite(linitial(func->args), cxt),
								 F_TIMEZONE_TEXT_TIMESTAMPTZ, TIMESTAMPOID, cxt);
			if (func->funcid == F_TIMESTAMP_TIMESTAMPTZ)
				return local;
			return (Node *) makeFuncExpr(F_DATE_TIMESTAMP, DATEOID, list_make1(local),
										 InvalidOid, InvalidOid, COERCE_EXPLICIT_CAST);
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
			if (!is_long_unit(linitial(func->args)))
				return NULL;
			local = at_time_zone(kr_rewrite(lsecond(func->args), cxt),
								 F_TIMEZONE_TEXT_TIMESTAMPTZ, TIMESTAMPOID, cxt);
			local = (Node *) makeFuncExpr(F_DATE_TRUNC_TEXT_TIMESTAMP, TIMESTAMPOID,
										  list_make2(linitial(func->args), local),
										  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
			return at_time_zone(local, F_TIMEZONE_TEXT_TIMESTAMP, TIMESTAMPTZOID, cxt);
		default:
			return NULL;
	}
}

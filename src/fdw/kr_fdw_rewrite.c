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
 * Values. What names no column is computed here, once for each time that the
 * statement is sent, and travels as a parameter. That is what stable means, and
 * it keeps to this server's clock, settings and functions. Not touched are the
 * arms of CASE and COALESCE, which must not be computed unless they are needed.
 *
 * Enums. postgres_fdw refuses a type that is not built in, though the data
 * source has its own of the same name. Where it is compared, the column passes
 * as of type unknown, and so does what it is compared with: 'open' or
 * $1::unknown. The data source takes it for a value of the column's type.
 *
 * Domains pass as the type that they are made of.
 *
 * Time zones. A timestamp meets a timestamptz by way of the session's time
 * zone, which the data source does not share: it is sent along.
 *
 * The rest are nodes that postgres_fdw cannot write, in terms of those that it
 * can, and collations that make no difference to the result.
 *
 * Runs while a statement is planned; what is made lives as long as its KrShip.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "kr_fdw.h"

/* The operator family of date, timestamp and timestamptz; it has no name in C. */
#define DATETIME_BTREE_FAMILY 434

typedef struct RewriteContext
{
	KrShip	   *ship;
	const KrShipRules *rules;
	bool		conditional;	/* in an arm of CASE or COALESCE */
} RewriteContext;

static Node *rewrite(Node *node, RewriteContext *cxt);

static bool
is_builtin(Oid oid)
{
	return oid < FirstGenbkiObjectId;
}

/* ---------- values ---------- */

/* True if the expression is nothing that can be computed before the scan. */
static bool
needs_row(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_PlaceHolderVar:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubLink:
		case T_SubPlan:
		case T_AlternativeSubPlan:
		case T_CoerceToDomainValue:
		case T_SetToDefault:
		case T_CurrentOfExpr:
		case T_NextValueExpr:
		case T_RestrictInfo:
			return true;
		case T_Param:
			return ((Param *) node)->paramkind != PARAM_EXTERN &&
				((Param *) node)->paramkind != PARAM_EXEC;
		default:
			return expression_tree_walker(node, needs_row, context);
	}
}

/* Of enum type, or an array of enums; of a domain, what it is made of counts. */
static bool
is_enum(Oid type)
{
	Oid			element;

	if (is_builtin(type))
		return false;
	type = getBaseType(type);
	element = get_element_type(type);
	return type_is_enum(OidIsValid(element) ? element : type);
}

/* As which type a value may travel; InvalidOid if it may not. */
static Oid
travel_type(Oid type)
{
	if (is_enum(type))
		return UNKNOWNOID;
	type = getBaseType(type);
	switch (type)
	{
		case NAMEOID:
			return TEXTOID;		/* compared without its collation */

			/* names of objects: what they mean is decided where they are read */
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGNAMESPACEOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGROLEOID:
		case REGTYPEOID:
			return InvalidOid;
		default:
			return get_typtype(type) == TYPTYPE_PSEUDO ? InvalidOid : type;
	}
}

/* The parameter in whose place the value of expr is sent; NULL if it cannot be. */
static Node *
as_parameter(Node *expr, RewriteContext *cxt)
{
	Oid			type = travel_type(exprType(expr));

	if (!OidIsValid(type) || contain_volatile_functions(expr) || expression_returns_set(expr))
		return NULL;
	if (type == UNKNOWNOID && cxt->rules->estimates)
		return NULL;
	return (Node *) kr_ship_value(cxt->ship, (Expr *) expr, type);
}

/* A constant or parameter that postgres_fdw knows how to send. */
static bool
is_plain_value(Node *node)
{
	while (IsA(node, RelabelType))
	{
		if (!is_builtin(((RelabelType *) node)->resulttype))
			return false;
		node = (Node *) ((RelabelType *) node)->arg;
	}
	if (IsA(node, Const))
		return is_builtin(((Const *) node)->consttype);
	return IsA(node, Param) && is_builtin(((Param *) node)->paramtype) &&
		((Param *) node)->paramtype != NAMEOID;
}

/* Like as_parameter(), and NULL where the expression must not be computed. */
static Node *
rewrite_value(Node *node, RewriteContext *cxt)
{
	if (is_plain_value(node))
		return node;
	if (cxt->conditional && !IsA(node, Param))
		return NULL;
	return as_parameter(node, cxt);
}

/* ---------- enums and domains ---------- */

static bool
is_enum_function(Oid function, bool order)
{
	switch (function)
	{
		case F_ENUM_EQ:
		case F_ENUM_NE:
		case F_ARRAY_EQ:
		case F_ARRAY_NE:
		case F_ARRAYCONTAINS:
		case F_ARRAYCONTAINED:
		case F_ARRAYOVERLAP:
			return true;
		case F_ENUM_LT:
		case F_ENUM_LE:
		case F_ENUM_GE:
		case F_ENUM_GT:
			return order;
		default:
			return false;
	}
}

static Node *
enum_constant(Const *value)
{
	Oid			output;
	bool		varlena;
	Datum		text = (Datum) 0;

	if (!value->constisnull)
	{
		getTypeOutputInfo(value->consttype, &output, &varlena);
		text = CStringGetDatum(OidOutputFunctionCall(output, value->constvalue));
		kr_ship_depend_on_enums();
	}
	return (Node *) makeConst(UNKNOWNOID, -1, InvalidOid, -2, text, value->constisnull, false);
}

/* A column, constant or value of an enum's type; NULL if it is anything else. */
static Node *
enum_operand(Node *node, RewriteContext *cxt)
{
	Node	   *bare = node;

	if (!is_enum(exprType(node)))
		return NULL;
	while (IsA(bare, RelabelType))
		bare = (Node *) ((RelabelType *) bare)->arg;
	if (IsA(bare, Var) && is_enum(exprType(bare)))
		return (Node *) kr_ship_column(cxt->ship, (Var *) bare, UNKNOWNOID, -1);
	if (IsA(bare, Const) && is_enum(exprType(bare)))
		return enum_constant((Const *) bare);
	if (needs_row(node, NULL) || (cxt->conditional && !IsA(node, Param)))
		return NULL;
	return as_parameter(node, cxt);
}

/* Arguments of an operator on enums; NIL if there are others. */
static List *
enum_operands(List *args, RewriteContext *cxt)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, args)
	{
		Node	   *operand = enum_operand(lfirst(cell), cxt);

		if (operand == NULL)
			return NIL;
		result = lappend(result, operand);
	}
	return result;
}

static Node *
rewrite_column(Var *var, RewriteContext *cxt)
{
	int32		typmod = var->vartypmod;
	Oid			base;

	if (is_builtin(var->vartype))
		return (Node *) var;
	base = getBaseTypeAndTypmod(var->vartype, &typmod);
	if (base == var->vartype || !is_builtin(base))
		return (Node *) var;
	return (Node *) kr_ship_column(cxt->ship, var, base, typmod);
}

/* ---------- collations ---------- */

/* What these functions return does not depend on a deterministic collation. */
static bool
ignores_collation(Oid function)
{
	switch (function)
	{
		case F_TEXTEQ:
		case F_TEXTNE:
		case F_TEXTLIKE:
		case F_TEXTNLIKE:
		case F_BPCHAREQ:
		case F_BPCHARNE:
		case F_BPCHARLIKE:
		case F_BPCHARNLIKE:
		case F_NAMEEQTEXT:
		case F_NAMENETEXT:
		case F_TEXTEQNAME:
		case F_TEXTNENAME:
		case F_ARRAY_EQ:
		case F_ARRAY_NE:
		case F_ARRAYCONTAINS:
		case F_ARRAYCONTAINED:
		case F_ARRAYOVERLAP:
		case F_JSON_OBJECT_FIELD:
		case F_JSON_OBJECT_FIELD_TEXT:
		case F_JSON_EXTRACT_PATH:
		case F_JSON_EXTRACT_PATH_TEXT:
		case F_JSONB_OBJECT_FIELD:
		case F_JSONB_OBJECT_FIELD_TEXT:
		case F_JSONB_EXTRACT_PATH:
		case F_JSONB_EXTRACT_PATH_TEXT:
		case F_JSONB_EXISTS:
		case F_JSONB_EXISTS_ALL:
		case F_JSONB_EXISTS_ANY:
		case F_TIMEZONE_TEXT_TIMESTAMP:
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
			return true;
		default:
			return false;
	}
}

static bool
has_collation(Node *node, void *collation)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Oid			own = ((Var *) node)->varcollid;

		return OidIsValid(own) && (collation == NULL || own != *(Oid *) collation);
	}
	return expression_tree_walker(node, has_collation, collation);
}

/*
 * The collation to pass on. postgres_fdw wants one that comes from a column,
 * or none. The default one and that of type name are deterministic.
 */
static Oid
input_collation(Oid collation, Oid function, List *args)
{
	Oid			usual = DEFAULT_COLLATION_OID;

	if (!ignores_collation(function))
		return collation;
	if (collation == DEFAULT_COLLATION_OID && !has_collation((Node *) args, NULL))
		return InvalidOid;
	if (collation == C_COLLATION_OID && !has_collation((Node *) args, &usual))
		return InvalidOid;
	return collation;
}

/* ---------- time zones ---------- */

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
session_time_zone(RewriteContext *cxt)
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
at_time_zone(Node *time, Oid function, Oid result, RewriteContext *cxt)
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
column_to_timestamptz(Node *node, RewriteContext *cxt)
{
	Oid			type = exprType(node);

	node = rewrite(node, cxt);
	if (type == TIMESTAMPTZOID)
		return node;
	if (type == DATEOID)
		node = date_to_timestamp(node);
	return at_time_zone(node, F_TIMEZONE_TEXT_TIMESTAMP, TIMESTAMPTZOID, cxt);
}

static Node *
value_to_timestamptz(Node *node, RewriteContext *cxt)
{
	Oid			type = exprType(node);

	if (type != TIMESTAMPTZOID)
		node = (Node *) makeFuncExpr(type == DATEOID ? F_TIMESTAMPTZ_DATE : F_TIMESTAMPTZ_TIMESTAMP,
									 TIMESTAMPTZOID, list_make1(node), InvalidOid,
									 InvalidOid, COERCE_IMPLICIT_CAST);
	return rewrite(node, cxt);
}

/* A comparison of a timestamptz with a timestamp or date; NULL if it is none. */
static Node *
rewrite_time_comparison(OpExpr *op, RewriteContext *cxt)
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
		args = lappend(args, needs_row(arg, NULL) ? column_to_timestamptz(arg, cxt) :
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
static Node *
rewrite_time_function(FuncExpr *func, RewriteContext *cxt)
{
	Node	   *local;

	switch (func->funcid)
	{
		case F_TIMESTAMPTZ_TIMESTAMP:
		case F_TIMESTAMPTZ_DATE:
			return column_to_timestamptz(linitial(func->args), cxt);
		case F_TIMESTAMP_TIMESTAMPTZ:
		case F_DATE_TIMESTAMPTZ:
			local = at_time_zone(rewrite(linitial(func->args), cxt),
								 F_TIMEZONE_TEXT_TIMESTAMPTZ, TIMESTAMPOID, cxt);
			if (func->funcid == F_TIMESTAMP_TIMESTAMPTZ)
				return local;
			return (Node *) makeFuncExpr(F_DATE_TIMESTAMP, DATEOID, list_make1(local),
										 InvalidOid, InvalidOid, COERCE_EXPLICIT_CAST);
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
			if (!is_long_unit(linitial(func->args)))
				return NULL;
			local = at_time_zone(rewrite(lsecond(func->args), cxt),
								 F_TIMEZONE_TEXT_TIMESTAMPTZ, TIMESTAMPOID, cxt);
			local = (Node *) makeFuncExpr(F_DATE_TRUNC_TEXT_TIMESTAMP, TIMESTAMPOID,
										  list_make2(linitial(func->args), local),
										  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
			return at_time_zone(local, F_TIMEZONE_TEXT_TIMESTAMP, TIMESTAMPTZOID, cxt);
		default:
			return NULL;
	}
}

/* ---------- nodes that postgres_fdw cannot write ---------- */

static Expr *
null_test(Expr *arg, NullTestType type)
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
static Node *
rewrite_row_comparison(RowCompareExpr *row, RewriteContext *cxt)
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
	return rewrite((Node *) result, cxt);
}

/* What stands twice is made twice: see kr_ship_value() on untyped parameters. */
static Node *
rewrite_boolean_test(BooleanTest *test, RewriteContext *cxt)
{
	bool		negated = test->booltesttype == IS_NOT_TRUE || test->booltesttype == IS_NOT_FALSE;
	Expr	   *arg = (Expr *) rewrite((Node *) test->arg, cxt);
	Expr	   *result;

	if (test->booltesttype == IS_UNKNOWN)
		return (Node *) null_test(arg, IS_NULL);
	if (test->booltesttype == IS_NOT_UNKNOWN)
		return (Node *) null_test(arg, IS_NOT_NULL);

	result = (Expr *) rewrite((Node *) test->arg, cxt);
	if (test->booltesttype == IS_FALSE || test->booltesttype == IS_NOT_FALSE)
		result = makeBoolExpr(NOT_EXPR, list_make1(result), -1);
	result = makeBoolExpr(AND_EXPR, list_make2(result, null_test(arg, IS_NOT_NULL)), -1);
	return (Node *) (negated ? makeBoolExpr(NOT_EXPR, list_make1(result), -1) : result);
}

/* COALESCE(a, b) is CASE WHEN a IS NOT NULL THEN a ELSE b END. */
static Node *
rewrite_coalesce(CoalesceExpr *coalesce, RewriteContext *cxt)
{
	RewriteContext arms = *cxt;
	CaseExpr   *result = makeNode(CaseExpr);
	ListCell   *cell;

	result->casetype = coalesce->coalescetype;
	result->casecollid = coalesce->coalescecollid;
	result->location = -1;
	foreach(cell, coalesce->args)
	{
		Expr	   *arg = (Expr *) rewrite(lfirst(cell), &arms);

		if (lnext(coalesce->args, cell) == NULL)
			result->defresult = arg;
		else
		{
			CaseWhen   *arm = makeNode(CaseWhen);

			if (type_is_rowtype(exprType((Node *) arg)))
				return NULL;
			arm->expr = null_test(arg, IS_NOT_NULL);
			arm->result = (Expr *) rewrite(lfirst(cell), &arms);
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
static Node *
rewrite_io_cast(CoerceViaIO *cast, RewriteContext *cxt)
{
	Oid			from = exprType((Node *) cast->arg);
	Node	   *arg;

	if (!is_builtin(cast->resulttype))
		return NULL;
	if (is_enum(from))
		arg = enum_operand((Node *) cast->arg, cxt);
	else
		arg = is_immutable_io(from, cast->resulttype) ? rewrite((Node *) cast->arg, cxt) : NULL;
	if (arg == NULL)
		return NULL;
	return (Node *) makeRelabelType((Expr *) arg, cast->resulttype, -1, cast->resultcollid,
									COERCE_EXPLICIT_CAST);
}

/* ---------- all together ---------- */

/* An operator on enums, or one whose collation can be left out. */
static Node *
rewrite_operator(Node *node, RewriteContext *cxt)
{
	OpExpr	   *op = (OpExpr *) node;	/* DistinctExpr is one */
	ScalarArrayOpExpr *array = (ScalarArrayOpExpr *) node;
	bool		is_array = IsA(node, ScalarArrayOpExpr);
	Oid			function = is_array ? array->opfuncid : op->opfuncid;
	List	   *args = is_array ? array->args : op->args;
	List	   *operands = NIL;

	if (is_enum_function(function, cxt->rules->enum_order))
		operands = enum_operands(args, cxt);
	if (operands == NIL)
		operands = (List *) expression_tree_mutator((Node *) args, rewrite, cxt);

	if (is_array)
	{
		array = copyObject(array);
		array->inputcollid = input_collation(array->inputcollid, function, args);
		array->args = operands;
		return (Node *) array;
	}
	op = copyObject(op);
	op->inputcollid = input_collation(op->inputcollid, function, args);
	op->args = operands;
	return (Node *) op;
}

/* What takes the place of a node that names a column; NULL: its parts decide. */
static Node *
rewrite_node(Node *node, RewriteContext *cxt)
{
	RewriteContext arms = *cxt;
	Node	   *result;

	switch (nodeTag(node))
	{
		case T_Var:
			return rewrite_column((Var *) node, cxt);
		case T_OpExpr:
			result = rewrite_time_comparison((OpExpr *) node, cxt);
			return result ? result : rewrite_operator(node, cxt);
		case T_DistinctExpr:
		case T_ScalarArrayOpExpr:
			return rewrite_operator(node, cxt);
		case T_FuncExpr:
			return rewrite_time_function((FuncExpr *) node, cxt);
		case T_NullTest:
			result = enum_operand((Node *) ((NullTest *) node)->arg, cxt);
			return result ? (Node *) null_test((Expr *) result, ((NullTest *) node)->nulltesttype) : NULL;
		case T_RowCompareExpr:
			return rewrite_row_comparison((RowCompareExpr *) node, cxt);
		case T_BooleanTest:
			return rewrite_boolean_test((BooleanTest *) node, cxt);
		case T_CoalesceExpr:
			return rewrite_coalesce((CoalesceExpr *) node, cxt);
		case T_CoerceViaIO:
			return rewrite_io_cast((CoerceViaIO *) node, cxt);
		case T_CaseExpr:
			arms.conditional = true;
			return expression_tree_mutator(node, rewrite, &arms);
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

static Node *
rewrite(Node *node, RewriteContext *cxt)
{
	Node	   *result;

	if (node == NULL)
		return NULL;
	if (IsA(node, List) || IsA(node, CaseWhen) || IsA(node, CaseTestExpr))
		return expression_tree_mutator(node, rewrite, cxt);
	if (!needs_row(node, NULL))
	{
		result = rewrite_value(node, cxt);
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
	return expression_tree_mutator(node, rewrite, cxt);
}

/*
 * The expression itself where there is nothing to change, or where it depends
 * on more than immutable functions still: postgres_fdw would refuse it anyway.
 */
Expr *
kr_rewrite_condition(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	RewriteContext cxt = {ship, rules, false};
	Node	   *result;

	if (!needs_row((Node *) expr, NULL))
		return expr;
	result = rewrite((Node *) expr, &cxt);
	if (equal(result, expr) || contain_mutable_functions(result))
		return expr;
	return (Expr *) result;
}

/* A column of GROUP BY. */
Expr *
kr_rewrite_target(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	RewriteContext cxt = {ship, rules, false};

	if (IsA(expr, Var) && is_enum(exprType((Node *) expr)))
		return (Expr *) enum_operand((Node *) expr, &cxt);
	return kr_rewrite_condition(ship, rules, expr);
}

/* An aggregate's arguments and filter; itself where that does not do. */
static Aggref *
rewrite_aggregate(Aggref *original, RewriteContext *cxt)
{
	Aggref	   *agg = copyObject(original);
	bool		takes_enum = false;
	ListCell   *cell;

	if (agg->aggkind != AGGKIND_NORMAL)
		return original;
	foreach(cell, agg->args)
	{
		TargetEntry *arg = lfirst_node(TargetEntry, cell);
		Node	   *operand = IsA(arg->expr, Var) ? enum_operand((Node *) arg->expr, cxt) : NULL;

		takes_enum |= operand != NULL;
		arg->expr = (Expr *) (operand ? operand : rewrite((Node *) arg->expr, cxt));
	}
	agg->aggfilter = (Expr *) rewrite((Node *) agg->aggfilter, cxt);
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
find_aggregates(Node *node, RewriteContext *cxt)
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
	RewriteContext cxt = {ship, rules, false};
	Node	   *result = find_aggregates((Node *) expr, &cxt);

	return equal(result, expr) ? expr : (Expr *) result;
}

/* The value of a column in UPDATE ... SET. */
Expr *
kr_rewrite_assignment(KrShip *ship, const KrShipRules *rules, Expr *expr)
{
	RewriteContext cxt = {ship, rules, false};
	Node	   *result = enum_operand((Node *) expr, &cxt);

	if (result == NULL)
		result = rewrite((Node *) expr, &cxt);
	return contain_mutable_functions(result) ? expr : (Expr *) result;
}

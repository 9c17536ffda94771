/*
 * kr_fdw_rewrite_value.c
 *	  Values and columns in a condition for postgres_fdw, by their types.
 *
 * What names no column is computed here, once for each time that the statement is
 * sent, and travels as a parameter. That is what stable means, and it keeps to this
 * server's clock, settings and functions. Not touched are the arms of CASE and
 * COALESCE, which must not be computed unless they are needed.
 *
 * Enums. postgres_fdw refuses a type that is not built in, though the data
 * source has its own of the same name. Where it is compared, the column passes
 * as of type unknown, and so does what it is compared with: 'open' or
 * $1::unknown. The data source takes it for a value of the column's type.
 *
 * Domains pass as the type that they are made of; collations that make no difference
 * to the result do not pass.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "kr_fdw_rewrite.h"

/* ---------- values ---------- */

/* True if the expression is nothing that can be computed before the scan. */
bool
kr_rewrite_needs_row(Node *node, void *context)
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
			return expression_tree_walker(node, kr_rewrite_needs_row, context);
	}
}

bool
kr_rewrite_is_enum(Oid type)
{
	Oid			element;

	if (kr_rewrite_is_builtin(type))
		return false;
	type = getBaseType(type);
	element = get_element_type(type);
	return type_is_enum(OidIsValid(element) ? element : type);
}

/* As which type a value may travel; InvalidOid if it may not. */
static Oid
travel_type(Oid type)
{
	if (kr_rewrite_is_enum(type))
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
as_parameter(Node *expr, KrRewrite *cxt)
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
		if (!kr_rewrite_is_builtin(((RelabelType *) node)->resulttype))
			return false;
		node = (Node *) ((RelabelType *) node)->arg;
	}
	if (IsA(node, Const))
		return kr_rewrite_is_builtin(((Const *) node)->consttype);
	return IsA(node, Param) && kr_rewrite_is_builtin(((Param *) node)->paramtype) &&
		((Param *) node)->paramtype != NAMEOID;
}

/* Like as_parameter(), and NULL where the expression must not be computed. */
Node *
kr_rewrite_value(Node *node, KrRewrite *cxt)
{
	if (is_plain_value(node))
		return node;
	if (cxt->conditional && !IsA(node, Param))
		return NULL;
	return as_parameter(node, cxt);
}

/* ---------- enums and domains ---------- */

bool
kr_rewrite_is_enum_function(Oid function, bool order)
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

Node *
kr_rewrite_enum(Node *node, KrRewrite *cxt)
{
	Node	   *bare = node;

	if (!kr_rewrite_is_enum(exprType(node)))
		return NULL;
	while (IsA(bare, RelabelType))
		bare = (Node *) ((RelabelType *) bare)->arg;
	if (IsA(bare, Var) && kr_rewrite_is_enum(exprType(bare)))
		return (Node *) kr_ship_column(cxt->ship, (Var *) bare, UNKNOWNOID, -1);
	if (IsA(bare, Const) && kr_rewrite_is_enum(exprType(bare)))
		return enum_constant((Const *) bare);
	if (kr_rewrite_needs_row(node, NULL) || (cxt->conditional && !IsA(node, Param)))
		return NULL;
	return as_parameter(node, cxt);
}

List *
kr_rewrite_enums(List *args, KrRewrite *cxt)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, args)
	{
		Node	   *operand = kr_rewrite_enum(lfirst(cell), cxt);

		if (operand == NULL)
			return NIL;
		result = lappend(result, operand);
	}
	return result;
}

Node *
kr_rewrite_column(Var *var, KrRewrite *cxt)
{
	int32		typmod = var->vartypmod;
	Oid			base;

	if (kr_rewrite_is_builtin(var->vartype))
		return (Node *) var;
	base = getBaseTypeAndTypmod(var->vartype, &typmod);
	if (base == var->vartype || !kr_rewrite_is_builtin(base))
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
Oid
kr_rewrite_collation(Oid collation, Oid function, List *args)
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

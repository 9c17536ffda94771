/*
 * kr_fdw_conflict.c
 *	  ON CONFLICT with a target: (columns) DO NOTHING or DO UPDATE.
 *
 * PostgreSQL looks for the unique index that the target means, and a foreign
 * table has none: its planner refuses the statement before any wrapper is asked.
 * So a planner hook turns the clause of an INSERT into one of our tables into
 * plain DO NOTHING, and leaves its text, as the data source will get it, where
 * the planner looks at nothing (exclRelTlist). When the INSERT is planned, the
 * text goes into the remote statement; executing it takes no further part in it.
 * Rights on the columns were noted by parse analysis and are checked as ever.
 *
 * The clause is sent as text and runs in the data source. What it may say there
 * is what means the same there: columns, builtin immutable operators and
 * functions. Whatever in it needs no column is evaluated here, once, and sent as
 * a parameter: now(), $1, a variable of a function, an enum's label. All else is
 * refused.
 *
 * The hook works once the library is loaded, so not in the first statement of a
 * session without session_preload_libraries.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "kr_fdw.h"
#include "kr_fdw_conflict.h"

static planner_hook_type next_planner = NULL;

/* A clause on its way to text. */
typedef struct Clause
{
	Relation	rel;
	Index		target;			/* range table indexes */
	Index		excluded;
	List	   *names;			/* what stands for parameter 1, 2, ... of the tree */
	List	   *params;			/* expressions that are evaluated here */
} Clause;

static void pg_attribute_noreturn()
refuse(const Clause *clause, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("ON CONFLICT on foreign table \"%s\" cannot have %s",
					RelationGetRelationName(clause->rel), what),
			 errhint("It runs in the data source: use columns, EXCLUDED, builtin immutable functions and operators, and values that need no column.")));
}

/* ---------- expressions ---------- */

static bool
is_builtin(Oid object)
{
	return object < FirstGenbkiObjectId;
}

static Node *
placeholder(Clause *clause, const char *text, Oid type, int32 typmod, Oid collation)
{
	Param	   *param = makeNode(Param);

	clause->names = lappend(clause->names, pstrdup(text));
	param->paramkind = PARAM_EXTERN;
	param->paramid = list_length(clause->names);
	param->paramtype = type;
	param->paramtypmod = typmod;
	param->paramcollid = collation;
	param->location = -1;
	return (Node *) param;
}

static Node *
replace_var(Clause *clause, const Var *var)
{
	const char *table;
	const char *name;

	if (var->varlevelsup > 0 || (var->varno != clause->target && var->varno != clause->excluded))
		refuse(clause, "columns of other tables");
	if (var->varattno <= 0)
		refuse(clause, "whole rows or system columns");
	name = quote_identifier(kr_fdw_column_name(clause->rel, var->varattno));
	table = var->varno == clause->excluded ? "excluded" :
		quote_identifier(kr_fdw_table_name(clause->rel));
	return placeholder(clause, psprintf("%s.%s", table, name), var->vartype, var->vartypmod, var->varcollid);
}

/* An expression without columns becomes a parameter. */
static Node *
replace_value(Clause *clause, Node *expr, bool needs_type)
{
	Oid			type = exprType(expr);
	StringInfoData name;

	if (contain_volatile_functions(expr))
		refuse(clause, "volatile functions");
	if (checkExprHasSubLink(expr))
		refuse(clause, "subqueries");
	if (needs_type && !is_builtin(type))
		refuse(clause, psprintf("a value of type %s in an expression", format_type_be(type)));

	clause->params = lappend(clause->params, expr);
	initStringInfo(&name);
	appendStringInfo(&name, "$%d", list_length(clause->params));
	if (needs_type)
		appendStringInfo(&name, "::%s", format_type_be_qualified(type));
	return placeholder(clause, name.data, type, exprTypmod(expr), exprCollation(expr));
}

static bool
find_var(Node *node, void *context)
{
	if (node == NULL)
		return false;

	/* What stands for the value that CASE compares counts as what it stands for. */
	return IsA(node, Var) || IsA(node, CaseTestExpr) ||
		expression_tree_walker(node, find_var, context);
}

/* Constants that mean the same wherever they are read; names of objects do not. */
static bool
can_be_text(const Const *constant)
{
	switch (constant->consttype)
	{
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGNAMESPACEOID:
		case REGOPERATOROID:
		case REGOPEROID:
		case REGPROCEDUREOID:
		case REGPROCOID:
		case REGROLEOID:
		case REGTYPEOID:
			return false;
		default:
			return is_builtin(constant->consttype);
	}
}

static Node *
replace_leaves(Node *node, void *context)
{
	Clause	   *clause = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
		return replace_var(clause, (Var *) node);
	if (IsA(node, SubLink) || IsA(node, Query))
		refuse(clause, "subqueries");
	if (IsA(node, CaseTestExpr) || IsA(node, CaseWhen) || IsA(node, List))
		return expression_tree_mutator(node, replace_leaves, context);
	if (!find_var(node, NULL))
	{
		if (IsA(node, Const) && can_be_text((Const *) node))
			return node;
		return replace_value(clause, node, true);
	}
	return expression_tree_mutator(node, replace_leaves, context);
}

static bool
function_is_foreign(Oid function, void *context)
{
	return !is_builtin(function);
}

/* Is there something in the tree that may be missing, or something else, there? */
static bool
find_unsafe(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Param:
		case T_List:
		case T_Const:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_FuncExpr:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_ArrayExpr:
			break;
		case T_RelabelType:
			if (((RelabelType *) node)->relabelformat != COERCE_IMPLICIT_CAST &&
				!is_builtin(((RelabelType *) node)->resulttype))
				return true;
			break;
		case T_CoerceViaIO:
			if (((CoerceViaIO *) node)->coerceformat != COERCE_IMPLICIT_CAST &&
				!is_builtin(((CoerceViaIO *) node)->resulttype))
				return true;
			break;
		case T_CoerceToDomain:
			if (((CoerceToDomain *) node)->coercionformat != COERCE_IMPLICIT_CAST)
				return true;
			break;
		case T_CollateExpr:
			if (!is_builtin(((CollateExpr *) node)->collOid))
				return true;
			break;
		default:
			return true;
	}
	if (check_functions_in_node(node, function_is_foreign, NULL))
		return true;
	return expression_tree_walker(node, find_unsafe, context);
}

/* The text of a tree with the names in place of its parameters. */
static char *
name_parameters(const Clause *clause, const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	while (*text != '\0')
	{
		if (*text == '\'' || *text == '"')
		{
			const char *end = kr_fdw_skip_quoted(text, *text == '\'' && buf.len > 0 &&
												 buf.data[buf.len - 1] == 'E');

			appendBinaryStringInfo(&buf, text, end - text);
			text = end;
		}
		else if (*text == '$')
		{
			char	   *end;
			long		number = strtol(text + 1, &end, 10);

			appendStringInfoString(&buf, list_nth(clause->names, number - 1));
			text = end;
		}
		else
			appendStringInfoChar(&buf, *text++);
	}
	return buf.data;
}

static char *
deparse(Clause *clause, Node *expr)
{
	Node	   *tree = replace_leaves(expr, clause);

	if (find_unsafe(tree, NULL))
		refuse(clause, "expressions other than of builtin functions and operators");
	if (contain_mutable_functions(tree))
		refuse(clause, "functions of columns that are not immutable");
	return name_parameters(clause, deparse_expression(tree, NIL, false, false));
}

/* The new value of a column; its type is the column's without saying so. */
static char *
deparse_source(Clause *clause, Node *expr)
{
	while (IsA(expr, CoerceToDomain) && ((CoerceToDomain *) expr)->coercionformat == COERCE_IMPLICIT_CAST)
		expr = (Node *) ((CoerceToDomain *) expr)->arg;
	if (IsA(expr, Const) && ((Const *) expr)->constisnull)
		return pstrdup("NULL");
	if (!find_var(expr, NULL))
	{
		Node	   *tree = replace_value(clause, expr, false);

		return name_parameters(clause, psprintf("$%d", ((Param *) tree)->paramid));
	}
	return deparse(clause, expr);
}

/* ---------- the clause ---------- */

/* The target's columns; attnums is left empty where there are expressions among them. */
static char *
target_text(Clause *clause, List *elems, List **attnums)
{
	StringInfoData buf;
	bool		plain = true;
	ListCell   *cell;

	*attnums = NIL;
	initStringInfo(&buf);
	foreach(cell, elems)
	{
		InferenceElem *elem = lfirst_node(InferenceElem, cell);

		if (OidIsValid(elem->inferopclass))
			refuse(clause, "an operator class");
		if (OidIsValid(elem->infercollid) && !is_builtin(elem->infercollid))
			refuse(clause, "a collation of its own");
		if (buf.len > 0)
			appendStringInfoString(&buf, ", ");
		if (IsA(elem->expr, Var))
		{
			int			attnum = ((Var *) elem->expr)->varattno;

			if (attnum <= 0)
				refuse(clause, "whole rows or system columns");
			*attnums = lappend_int(*attnums, attnum);
			appendStringInfoString(&buf, quote_identifier(kr_fdw_column_name(clause->rel, attnum)));
		}
		else
		{
			plain = false;
			appendStringInfo(&buf, "(%s)", deparse(clause, elem->expr));
		}
		if (OidIsValid(elem->infercollid))
			appendStringInfo(&buf, " COLLATE pg_catalog.%s",
							 quote_identifier(get_collation_name(elem->infercollid)));
	}
	if (!plain)
		*attnums = NIL;
	return buf.data;
}

/*
 * set_config('pgrst.inserted', ..., true) <> '-1', by which PostgREST counts the
 * rows that are updated, to answer 200 rather than 201. It is true of every row.
 * Which rows they are is known only in the data source, so none is counted.
 */
static bool
is_postgrest_counter(Node *condition)
{
	OpExpr	   *op = (OpExpr *) condition;
	FuncExpr   *call;
	Const	   *name;

	if (!IsA(condition, OpExpr) || !IsA(linitial(op->args), FuncExpr))
		return false;
	call = linitial(op->args);
	if (call->funcid != F_SET_CONFIG || !IsA(linitial(call->args), Const))
		return false;
	name = linitial(call->args);
	return !name->constisnull && !find_var(condition, NULL) &&
		strcmp(TextDatumGetCString(name->constvalue), "pgrst.inserted") == 0;
}

static char *
action_text(Clause *clause, const OnConflictExpr *conflict)
{
	StringInfoData buf;
	const char *comma = "";
	ListCell   *cell;

	initStringInfo(&buf);
	if (conflict->arbiterWhere != NULL)
		appendStringInfo(&buf, " WHERE %s", deparse(clause, conflict->arbiterWhere));
	if (clause->params != NIL)
		refuse(clause, "values in its target that are not constants");
	if (conflict->action == ONCONFLICT_NOTHING)
	{
		appendStringInfoString(&buf, " DO NOTHING");
		return buf.data;
	}

	appendStringInfoString(&buf, " DO UPDATE SET ");
	foreach(cell, conflict->onConflictSet)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (entry->resjunk)
			continue;
		if (IsA(entry->expr, FieldStore) ||
			(IsA(entry->expr, SubscriptingRef) &&
			 ((SubscriptingRef *) entry->expr)->refassgnexpr != NULL))
			refuse(clause, "assignments to a part of a column");
		appendStringInfo(&buf, "%s%s = %s", comma,
						 quote_identifier(kr_fdw_column_name(clause->rel, entry->resno)),
						 deparse_source(clause, (Node *) entry->expr));
		comma = ", ";
	}
	if (conflict->onConflictWhere != NULL && !is_postgrest_counter(conflict->onConflictWhere))
		appendStringInfo(&buf, " WHERE %s", deparse(clause, conflict->onConflictWhere));
	return buf.data;
}

/* What core would do with rows that are updated instead of inserted cannot be done here. */
static void
check_triggers(const Relation rel)
{
	const TriggerDesc *triggers = rel->trigdesc;

	if (triggers == NULL)
		return;
	if (triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
		triggers->trig_update_before_row || triggers->trig_update_after_row ||
		triggers->trig_update_before_statement || triggers->trig_update_after_statement)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT DO UPDATE cannot be used on foreign table \"%s\", which has triggers",
						RelationGetRelationName(rel)),
				 errdetail("Whether a row is inserted or updated is decided in the data source, and the triggers would not fire."),
				 errhint("Make the triggers in the data source.")));
}

static TargetEntry *
carry_text(const char *text)
{
	return makeTargetEntry((Expr *) makeConst(TEXTOID, -1, InvalidOid, -1,
											  CStringGetTextDatum(text), false, false),
						   1, NULL, false);
}

static void
rewrite_conflict(Query *query, RangeTblEntry *rte)
{
	OnConflictExpr *conflict = query->onConflict;
	Relation	rel = table_open(rte->relid, NoLock);
	Clause		clause = {rel, query->resultRelation, conflict->exclRelIndex, NIL, NIL};
	int			nestlevel = kr_transmission_begin(true);
	List	   *attnums;
	char	   *target = target_text(&clause, conflict->arbiterElems, &attnums);
	char	   *action = action_text(&clause, conflict);
	StringInfoData numbers;
	ListCell   *cell;

	kr_transmission_end(nestlevel);
	if (conflict->action == ONCONFLICT_UPDATE)
		check_triggers(rel);
	table_close(rel, NoLock);

	initStringInfo(&numbers);
	foreach(cell, attnums)
		appendStringInfo(&numbers, " %d", lfirst_int(cell));

	conflict->action = ONCONFLICT_NOTHING;
	conflict->arbiterElems = NIL;
	conflict->arbiterWhere = NULL;
	conflict->onConflictSet = NIL;
	conflict->onConflictWhere = NULL;
	conflict->exclRelIndex = 0;
	conflict->exclRelTlist = list_make3(carry_text(target), carry_text(action),
										carry_text(numbers.data));
	foreach(cell, clause.params)
		conflict->exclRelTlist = lappend(conflict->exclRelTlist,
										 makeTargetEntry(lfirst(cell), 1, NULL, false));
}

static bool
is_ours(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE &&
		GetFdwRoutineByRelId(rte->relid)->BeginForeignModify == kr_begin_modify;
}

static bool
rewrite_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->commandType == CMD_INSERT && query->onConflict != NULL &&
			query->onConflict->arbiterElems != NIL)
		{
			RangeTblEntry *rte = list_nth_node(RangeTblEntry, query->rtable,
															  query->resultRelation - 1);

			if (is_ours(rte))
				rewrite_conflict(query, rte);
		}
		return query_tree_walker(query, rewrite_walker, context, 0);
	}
	return expression_tree_walker(node, rewrite_walker, context);
}

static PlannedStmt *
plan_query(Query *query, const char *text, int cursor_options, ParamListInfo params)
{
	if (query->onConflict != NULL || query->hasModifyingCTE)
		(void) rewrite_walker((Node *) query, NULL);
	return next_planner ? next_planner(query, text, cursor_options, params) :
		standard_planner(query, text, cursor_options, params);
}

void
kr_conflict_init(void)
{
	next_planner = planner_hook;
	planner_hook = plan_query;
}

/* ---------- what was carried ---------- */

static char *
carried_text(List *list, int n)
{
	TargetEntry *entry = list_nth_node(TargetEntry, list, n);

	return TextDatumGetCString(castNode(Const, entry->expr)->constvalue);
}

List *
kr_conflict_of_plan(PlannerInfo *root, ModifyTable *plan)
{
	List	   *carried = plan->exclRelTlist;
	List	   *attnums = NIL;
	List	   *params = NIL;
	char	   *numbers;

	if (plan->onConflictAction != ONCONFLICT_NOTHING || list_length(carried) < 3)
		return NIL;
	numbers = carried_text(carried, 2);
	while (*numbers != '\0')
		attnums = lappend_int(attnums, strtol(numbers, &numbers, 10));
	for (int i = 3; i < list_length(carried); i++)
	{
		Node	   *expr = (Node *) list_nth_node(TargetEntry, carried, i)->expr;

		expr = eval_const_expressions(root, expr);
		fix_opfuncids(expr);
		params = lappend(params, expr);
	}
	plan->exclRelTlist = NIL;
	return list_make4(makeString(carried_text(carried, 0)), makeString(carried_text(carried, 1)),
					  attnums, params);
}

char *
kr_conflict_text(List *conflict, const char *tenant_column, int nparams)
{
	const char *at = strVal(linitial(conflict));
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, " ON CONFLICT (%s%s%s)", at,
					 tenant_column ? ", " : "", tenant_column ? quote_identifier(tenant_column) : "");
	for (at = strVal(lsecond(conflict)); *at != '\0';)
	{
		if (*at == '\'' || *at == '"')
		{
			const char *end = kr_fdw_skip_quoted(at, *at == '\'' && buf.data[buf.len - 1] == 'E');

			appendBinaryStringInfo(&buf, at, end - at);
			at = end;
		}
		else if (*at == '$')
		{
			char	   *end;

			appendStringInfo(&buf, "$%ld", strtol(at + 1, &end, 10) + nparams);
			at = end;
		}
		else
			appendStringInfoChar(&buf, *at++);
	}
	return buf.data;
}

List *
kr_conflict_attnums(List *conflict)
{
	return lthird(conflict);
}

List *
kr_conflict_params(List *conflict)
{
	return lfourth(conflict);
}

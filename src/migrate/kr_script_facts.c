/*
 * kr_script_facts.c
 *	  What a script makes, and what of others' it needs to, by its text: for
 *	  kessel.setup(), which says before the first statement runs what stands in
 *	  the way of all of them.
 *
 * Nothing is looked up here. What a function or a DO block does does not show;
 * nor where an unqualified name leads once a script has set search_path, so those
 * are left out then. Without that it is public, as kessel._run_migrations() has it.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(kr_script_facts);

typedef struct Facts
{
	ReturnSetInfo *rsinfo;
	int			statement;		/* from 1 */
	bool		path_is_set;
} Facts;

/* args: of a function, as text; NIL: none. */
static void
put(Facts *facts, const char *action, const char *class, const char *schema, const char *name, List *args)
{
	Datum		values[6];
	bool		nulls[6] = {false};
	Datum	   *texts = palloc(sizeof(Datum) * Max(list_length(args), 1));
	int			n = 0;
	ListCell   *cell;

	if (schema == NULL && strcmp(class, "schema") != 0)
	{
		if (facts->path_is_set)
			return;
		schema = "public";
	}
	foreach(cell, args)
		texts[n++] = CStringGetTextDatum(lfirst(cell));
	values[0] = Int32GetDatum(facts->statement);
	values[1] = CStringGetTextDatum(action);
	values[2] = CStringGetTextDatum(class);
	values[3] = CStringGetTextDatum(schema ? schema : name);
	values[4] = CStringGetTextDatum(name);
	values[5] = PointerGetDatum(construct_array(texts, n, TEXTOID, -1, false, TYPALIGN_INT));
	tuplestore_putvalues(facts->rsinfo->setResult, facts->rsinfo->setDesc, values, nulls);
}

static void
put_relation(Facts *facts, const char *action, const RangeVar *relation)
{
	if (relation != NULL && relation->relpersistence != RELPERSISTENCE_TEMP &&
		(relation->schemaname == NULL || strcmp(relation->schemaname, "pg_temp") != 0))
		put(facts, action, "relation", relation->schemaname, relation->relname, NIL);
}

/* Of the names of an object, the last one is its own, and the one before its schema. */
static void
put_named(Facts *facts, const char *action, const char *class, List *names, List *args)
{
	put(facts, action, class,
		list_length(names) > 1 ? strVal(list_nth(names, list_length(names) - 2)) : NULL,
		strVal(llast(names)), args);
}

static const char *
making(bool replaces)
{
	return replaces ? "keep" : "make";
}

/* ---------- tables ---------- */

static void
put_constraints(Facts *facts, List *constraints)
{
	ListCell   *cell;

	foreach(cell, constraints)
	{
		Node	   *node = lfirst(cell);

		if (IsA(node, Constraint) && ((Constraint *) node)->contype == CONSTR_FOREIGN)
			put_relation(facts, "refer", ((Constraint *) node)->pktable);
		else if (IsA(node, ColumnDef))
			put_constraints(facts, ((ColumnDef *) node)->constraints);
	}
}

static void
put_table(Facts *facts, CreateStmt *stmt)
{
	put_relation(facts, making(stmt->if_not_exists), stmt->relation);
	put_constraints(facts, stmt->tableElts);
}

static void
put_altered(Facts *facts, AlterTableStmt *stmt)
{
	ListCell   *cell;

	put_relation(facts, "own", stmt->relation);
	foreach(cell, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, cell);

		if (cmd->def != NULL)
			put_constraints(facts, list_make1(cmd->def));
	}
}

static void
put_index(Facts *facts, IndexStmt *stmt)
{
	RangeVar   *index;

	put_relation(facts, "own", stmt->relation);
	if (stmt->idxname == NULL)
		return;
	index = makeRangeVar(stmt->relation->schemaname, stmt->idxname, -1);
	put_relation(facts, making(stmt->if_not_exists), index);
}

/* ---------- others ---------- */

static List *
type_names(List *parameters)
{
	List	   *names = NIL;
	ListCell   *cell;

	foreach(cell, parameters)
	{
		FunctionParameter *parameter = lfirst_node(FunctionParameter, cell);

		if (parameter->mode != FUNC_PARAM_OUT && parameter->mode != FUNC_PARAM_TABLE)
			names = lappend(names, TypeNameToString(parameter->argType));
	}
	return names;
}

static void
put_dropped(Facts *facts, DropStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->objects)
	{
		Node	   *object = lfirst(cell);

		if (stmt->removeType == OBJECT_SCHEMA)
			put(facts, "drop", "schema", NULL, strVal(object), NIL);
		else if (IsA(object, List))
			put_named(facts, "drop", "relation", (List *) object, NIL);
		else if (IsA(object, TypeName))
			put_named(facts, "drop", "type", ((TypeName *) object)->names, NIL);
		else if (IsA(object, ObjectWithArgs))
			put_named(facts, "drop", "function", ((ObjectWithArgs *) object)->objname, NIL);
	}
}

static bool
put_read(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeVar))
		put_relation(context, "read", (RangeVar *) node);
	return raw_expression_tree_walker(node, put_read, context);
}

static void
put_statement(Facts *facts, Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_VariableSetStmt:
			if (((VariableSetStmt *) stmt)->name != NULL && strcmp(((VariableSetStmt *) stmt)->name, "search_path") == 0)
				facts->path_is_set = true;
			break;
		case T_CreateSchemaStmt:
			if (((CreateSchemaStmt *) stmt)->schemaname != NULL)
				put(facts, making(((CreateSchemaStmt *) stmt)->if_not_exists), "schema", NULL, ((CreateSchemaStmt *) stmt)->schemaname, NIL);
			break;
		case T_CreateStmt:
			put_table(facts, (CreateStmt *) stmt);
			break;
		case T_CreateForeignTableStmt:
			put_table(facts, &((CreateForeignTableStmt *) stmt)->base);
			break;
		case T_CreateTableAsStmt:
			put_relation(facts, making(((CreateTableAsStmt *) stmt)->if_not_exists), ((CreateTableAsStmt *) stmt)->into->rel);
			break;
		case T_ViewStmt:
			put_relation(facts, making(((ViewStmt *) stmt)->replace), ((ViewStmt *) stmt)->view);
			break;
		case T_CreateSeqStmt:
			put_relation(facts, making(((CreateSeqStmt *) stmt)->if_not_exists), ((CreateSeqStmt *) stmt)->sequence);
			break;
		case T_IndexStmt:
			put_index(facts, (IndexStmt *) stmt);
			break;
		case T_CompositeTypeStmt:
			put_relation(facts, "make", ((CompositeTypeStmt *) stmt)->typevar);
			break;
		case T_CreateEnumStmt:
			put_named(facts, "make", "type", ((CreateEnumStmt *) stmt)->typeName, NIL);
			break;
		case T_CreateRangeStmt:
			put_named(facts, "make", "type", ((CreateRangeStmt *) stmt)->typeName, NIL);
			break;
		case T_CreateDomainStmt:
			put_named(facts, "make", "type", ((CreateDomainStmt *) stmt)->domainname, NIL);
			break;
		case T_CreateFunctionStmt:
			put_named(facts, making(((CreateFunctionStmt *) stmt)->replace), "function", ((CreateFunctionStmt *) stmt)->funcname,
					  type_names(((CreateFunctionStmt *) stmt)->parameters));
			break;
		case T_CreateTrigStmt:
			put_relation(facts, "trigger", ((CreateTrigStmt *) stmt)->relation);
			put_named(facts, "execute", "function", ((CreateTrigStmt *) stmt)->funcname, NIL);
			break;
		case T_CreatePolicyStmt:
			put_relation(facts, "own", ((CreatePolicyStmt *) stmt)->table);
			break;
		case T_AlterTableStmt:
			put_altered(facts, (AlterTableStmt *) stmt);
			break;
		case T_InsertStmt:
			put_relation(facts, "fill", ((InsertStmt *) stmt)->relation);
			(void) put_read(((InsertStmt *) stmt)->selectStmt, facts);
			break;
		case T_DropStmt:
			put_dropped(facts, (DropStmt *) stmt);
			break;
		default:
			break;
	}
}

/*
 * kessel._script_facts(script): statement, action, class, schema_name, name, args,
 * as they come.
 *	make, keep (if it is there), drop: schema, relation, type, function
 *	own, refer (by a foreign key), trigger, fill (by INSERT), read: a relation
 *	execute: a function without arguments
 */
Datum
kr_script_facts(PG_FUNCTION_ARGS)
{
	Facts		facts = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, raw_parser(text_to_cstring(PG_GETARG_TEXT_PP(0)), RAW_PARSE_DEFAULT))
	{
		facts.statement++;
		put_statement(&facts, lfirst_node(RawStmt, cell)->stmt);
	}
	return (Datum) 0;
}

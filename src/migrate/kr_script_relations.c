/*
 * kr_script_relations.c
 *	  Which tables and views a script makes, drops and renames, by its text.
 *
 * kessel.expose() makes router tables of what a blueprint's migrations have made,
 * and only of that: other blueprints, and people, may have tables in the same
 * schema. The text tells it without asking a data source. What a function or a DO
 * block makes does not show here; who has such names it in expose().
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(kr_script_relations);

/* In the target's schema: named without one, or by the name that stands for it. */
static bool
is_local(const char *schema)
{
	return schema == NULL || strcmp(schema, "@tenant") == 0;
}

static void
put(ReturnSetInfo *rsinfo, const char *action, const char *name, const char *new_name)
{
	Datum		values[3] = {CStringGetTextDatum(action), CStringGetTextDatum(name), (Datum) 0};
	bool		nulls[3] = {false, false, new_name == NULL};

	if (new_name != NULL)
		values[2] = CStringGetTextDatum(new_name);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_relation(ReturnSetInfo *rsinfo, const char *action, const RangeVar *relation, const char *new_name)
{
	if (relation != NULL && is_local(relation->schemaname) && relation->relpersistence != RELPERSISTENCE_TEMP)
		put(rsinfo, action, relation->relname, new_name);
}

static bool
is_relation(ObjectType type)
{
	return type == OBJECT_TABLE || type == OBJECT_VIEW || type == OBJECT_MATVIEW || type == OBJECT_FOREIGN_TABLE;
}

static void
put_dropped(ReturnSetInfo *rsinfo, const DropStmt *drop)
{
	ListCell   *lc;

	if (!is_relation(drop->removeType))
		return;
	foreach(lc, drop->objects)
	{
		List	   *names = (List *) lfirst(lc);

		if (list_length(names) == 1 || (list_length(names) == 2 && is_local(strVal(linitial(names)))))
			put(rsinfo, "drop", strVal(llast(names)), NULL);
	}
}

static void
put_statement(ReturnSetInfo *rsinfo, Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateStmt:
			/* A partition is reached through its table. */
			if (((CreateStmt *) stmt)->partbound == NULL)
				put_relation(rsinfo, "create", ((CreateStmt *) stmt)->relation, NULL);
			break;
		case T_CreateForeignTableStmt:
			put_relation(rsinfo, "create", ((CreateForeignTableStmt *) stmt)->base.relation, NULL);
			break;
		case T_CreateTableAsStmt:
			put_relation(rsinfo, "create", ((CreateTableAsStmt *) stmt)->into->rel, NULL);
			break;
		case T_ViewStmt:
			put_relation(rsinfo, "create", ((ViewStmt *) stmt)->view, NULL);
			break;
		case T_SelectStmt:
			if (((SelectStmt *) stmt)->intoClause != NULL)
				put_relation(rsinfo, "create", ((SelectStmt *) stmt)->intoClause->rel, NULL);
			break;
		case T_DropStmt:
			put_dropped(rsinfo, (DropStmt *) stmt);
			break;
		case T_RenameStmt:
			if (is_relation(((RenameStmt *) stmt)->renameType))
				put_relation(rsinfo, "rename", ((RenameStmt *) stmt)->relation, ((RenameStmt *) stmt)->newname);
			break;
		case T_AlterObjectSchemaStmt:
			if (is_relation(((AlterObjectSchemaStmt *) stmt)->objectType) && !is_local(((AlterObjectSchemaStmt *) stmt)->newschema))
				put_relation(rsinfo, "drop", ((AlterObjectSchemaStmt *) stmt)->relation, NULL);
			break;
		default:
			break;
	}
}

/* kessel._script_relations(script): action (create, drop, rename), name, new_name, as they come. */
Datum
kr_script_relations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, raw_parser(text_to_cstring(PG_GETARG_TEXT_PP(0)), RAW_PARSE_DEFAULT))
		put_statement(rsinfo, lfirst_node(RawStmt, lc)->stmt);
	return (Datum) 0;
}

/*
 * kr_fleet_fence.c
 *	  What a statement for a fleet may be, and whether it stays with its tenant.
 *
 * A statement goes to a data source by the extended protocol, which takes one
 * only, within a transaction block that is begun and ended for it. A tenant who
 * has the whole database can see nobody else's rows, whatever it does. Where
 * tenants share a database, the runtime role can reach the rows of all: which
 * tenant's rows it sees is decided by a setting (row isolation), which every role
 * can set, or by a name (schema isolation). So there the statement is parsed here,
 * and must be one that can do neither:
 *
 * - a SELECT, INSERT, UPDATE, DELETE or MERGE, or EXPLAIN or SHOW;
 * - calling only functions that are built in, and not volatile. set_config() is
 *   volatile, and so is what runs SQL given as text, as query_to_xml(). Some that
 *   are not volatile tell of other tables or of other sessions: those of the
 *   statistics and table_to_xml() and the like;
 * - reading no statistics or session state, writing no catalog;
 * - for schema isolation, naming no schema but the tenant's own and the catalogs.
 *
 * What this version's grammar does not know is not confined. The text must mean
 * the same there: standard_conforming_strings is on here while it is parsed and
 * there when it runs. Objects of the data source, such as views and triggers, are
 * its owner's, whom we trust.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "kr_fleet.h"

/* Volatile, and nobody learns anything by them. */
static const char *const harmless[] = {
	"clock_timestamp",
	"gen_random_uuid",
	"random",
	"timeofday",
	"uuidv4",
	"uuidv7",
};

/* Relations and functions of these names tell of others. */
static const char *const telling[] = {
	"pg_cursors",
	"pg_ls_",
	"pg_prepared",
	"pg_read_",
	"pg_stat",
	"pg_lock",
	"pg_replication",
	"pg_logical",
	"pg_sequences",
	"pg_settings",
};

static void
unconfine(KrFleetStatement *statement, const char *why, int location)
{
	if (statement->unconfined != NULL)
		return;
	statement->unconfined = why;
	statement->location = location;
}

static bool
is_telling(const char *name)
{
	for (int i = 0; i < lengthof(telling); i++)
	{
		if (strncmp(name, telling[i], strlen(telling[i])) == 0)
			return true;
	}
	return strstr(name, "_to_xml") != NULL;
}

/* All functions of that name which are built in are without effect. */
static bool
is_tame_builtin(const char *name)
{
	CatCList   *list;
	int			found = 0;
	bool		tame = true;

	for (int i = 0; i < lengthof(harmless); i++)
	{
		if (strcmp(name, harmless[i]) == 0)
			return true;
	}
	if (is_telling(name))
		return false;
	list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace != PG_CATALOG_NAMESPACE)
			continue;
		found++;
		tame &= proc->provolatile != PROVOLATILE_VOLATILE && !proc->prosecdef;
	}
	ReleaseSysCacheList(list);
	return found > 0 && tame;
}

static void
check_function(KrFleetStatement *statement, const FuncCall *call)
{
	const char *name = strVal(llast(call->funcname));
	const char *schema = list_length(call->funcname) == 1 ? NULL :
		strVal(list_nth(call->funcname, list_length(call->funcname) - 2));

	if (schema != NULL && strcmp(schema, "kessel_agent") == 0 && strcmp(name, "tenant_id") == 0)
		return;
	if ((schema != NULL && strcmp(schema, "pg_catalog") != 0) || !is_tame_builtin(name))
		unconfine(statement,
				  psprintf("It calls %s(), which is no built-in function, or may change or tell more than the tenant's rows.", name),
				  call->location);
}

static void
check_table(KrFleetStatement *statement, const RangeVar *table)
{
	ListCell   *cell;

	if (is_telling(table->relname))
		unconfine(statement, psprintf("It names %s, which tells of others.", table->relname),
				  table->location);
	if (table->schemaname == NULL || strcmp(table->schemaname, "pg_catalog") == 0 ||
		strcmp(table->schemaname, "information_schema") == 0)
		return;
	foreach(cell, statement->schemas)
	{
		if (strcmp(lfirst(cell), table->schemaname) == 0)
			return;
	}
	statement->schemas = lappend(statement->schemas, pstrdup(table->schemaname));
}

/* What is written. Only who may write to a catalog's view could do so by its rules. */
static void
check_written(KrFleetStatement *statement, const RangeVar *table)
{
	if (strncmp(table->relname, "pg_", 3) == 0 ||
		(table->schemaname != NULL && strcmp(table->schemaname, "pg_catalog") == 0))
		unconfine(statement, "It writes to a catalog.", table->location);
}

static bool
walk(Node *node, void *context)
{
	KrFleetStatement *statement = context;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_FuncCall:
			check_function(statement, (FuncCall *) node);
			break;
		case T_RangeVar:
			check_table(statement, (RangeVar *) node);
			return false;
		case T_A_Expr:
			{
				List	   *name = ((A_Expr *) node)->name;

				if (list_length(name) > 1 && strcmp(strVal(linitial(name)), "pg_catalog") != 0)
					unconfine(statement, "It names an operator with its schema.",
							  ((A_Expr *) node)->location);
			}
			break;
		case T_SelectStmt:
			if (((SelectStmt *) node)->intoClause != NULL)
				unconfine(statement, "It makes a table.", -1);
			break;
		case T_InsertStmt:
			check_written(statement, ((InsertStmt *) node)->relation);
			break;
		case T_UpdateStmt:
			check_written(statement, ((UpdateStmt *) node)->relation);
			break;
		case T_DeleteStmt:
			check_written(statement, ((DeleteStmt *) node)->relation);
			break;
		case T_MergeStmt:
			check_written(statement, ((MergeStmt *) node)->relation);
			break;
		default:
			break;
	}
	return raw_expression_tree_walker(node, walk, context);
}

static void
check_parsed(KrFleetStatement *statement, Node *parsed)
{
	switch (nodeTag(parsed))
	{
		case T_CopyStmt:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("COPY is not for a fleet"),
					 errhint("Use SELECT, or INSERT with parameters.")));
			break;
		case T_TransactionStmt:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
					 errmsg("a fleet's statement cannot begin or end a transaction"),
					 errdetail("It runs in a transaction of its own for each tenant.")));
			break;
		case T_ExplainStmt:
			parsed = ((ExplainStmt *) parsed)->query;
			break;
		case T_VariableShowStmt:
			return;
		default:
			break;
	}
	switch (nodeTag(parsed))
	{
		case T_SelectStmt:
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
			(void) walk(parsed, statement);
			break;
		default:
			unconfine(statement, "It is no SELECT, INSERT, UPDATE, DELETE or MERGE.", -1);
			break;
	}
}

typedef struct Parse
{
	const char *sql;
	List	   *statements;
} Parse;

static void
parse(void *arg)
{
	Parse	   *p = arg;
	int			level = NewGUCNestLevel();

	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	p->statements = raw_parser(p->sql, RAW_PARSE_DEFAULT);
	AtEOXact_GUC(true, level);
}

/* Where the grammar here does not know it: does it look as if it had rows? */
static bool
looks_like_select(const char *sql)
{
	static const char *const words[] = {"select", "with", "values", "table", "("};

	sql += strspn(sql, " \t\r\n\f\v");
	for (int i = 0; i < lengthof(words); i++)
	{
		if (pg_strncasecmp(sql, words[i], strlen(words[i])) == 0)
			return true;
	}
	return false;
}

static const char *
without_semicolon(const char *sql)
{
	char	   *copy = pstrdup(sql);
	int			len = strlen(copy);

	while (len > 0 && strchr(" \t\r\n\f\v;", copy[len - 1]) != NULL)
		copy[--len] = '\0';
	return copy;
}

static void
take_parsed(KrFleetStatement *statement, const char *sql, List *statements)
{
	RawStmt    *raw;

	if (list_length(statements) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("there is no statement")));
	if (list_length(statements) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a fleet runs one statement"),
				 errdetail("There are %d.", list_length(statements)),
				 errhint("Call it once for each.")));
	raw = linitial_node(RawStmt, statements);
	statement->sql = raw->stmt_len > 0 ?
		pnstrdup(sql + raw->stmt_location, raw->stmt_len) : pstrdup(sql + raw->stmt_location);
	statement->as_jsonb = IsA(raw->stmt, SelectStmt);
	check_parsed(statement, raw->stmt);
}

void
kr_fleet_read_statement(KrFleetStatement *statement, const char *sql, KrFleetKind kind)
{
	Parse		p = {.sql = sql};
	ErrorData  *error = kr_fleet_try(parse, &p, CurrentMemoryContext, true);

	memset(statement, 0, sizeof(*statement));
	statement->kind = kind;
	statement->location = -1;
	if (error == NULL)
		take_parsed(statement, sql, p.statements);
	else
	{
		unconfine(statement, psprintf("It could not be parsed: %s.", error->message), -1);
		statement->sql = without_semicolon(sql);
		statement->as_jsonb = looks_like_select(sql);
	}

	statement->as_jsonb &= kind == KR_FLEET_QUERY;
	/* On a line of its own: a comment may stand at its end. */
	statement->sent = !statement->as_jsonb ? statement->sql :
		psprintf("SELECT pg_catalog.to_jsonb(\"kessel row\") FROM (%s\n) AS \"kessel row\"",
				 statement->sql);
}

static void
raise_unconfined(const KrRoute *route, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("the statement might not stay with tenant \"%s\"", route->slug),
			 errdetail("%s", why),
			 errhint("The tenant shares the database with others: use one SELECT, INSERT, UPDATE, DELETE or MERGE, with built-in functions that are not volatile.")));
}

void
kr_fleet_check_confined(const KrFleetStatement *statement, const KrRoute *route)
{
	ListCell   *cell;

	if (route->isolation == KR_ISOLATION_DATABASE)
		return;
	if (statement->unconfined != NULL)
		raise_unconfined(route, statement->unconfined);
	if (route->isolation != KR_ISOLATION_SCHEMA)
		return;
	foreach(cell, statement->schemas)
	{
		if (strcmp(lfirst(cell), route->id_in_source) != 0)
			raise_unconfined(route, psprintf("It names the schema \"%s\".", (char *) lfirst(cell)));
	}
}

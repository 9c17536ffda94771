/*
 * kr_script.c
 *	  Cutting a script into statements with the server's own parser, and putting
 *	  the names of a target into them with its scanner.
 *
 * Nothing is looked up: what a statement names need not exist here. The grammar
 * is this server's, so a script can use what this version and the target's both
 * know. standard_conforming_strings is taken as on, whatever the session has, as
 * it is where a script runs.
 *
 * kr_fdw_sql.c replaces a marker as well, in what the planner has deparsed, which
 * knows no comments and dollar quotes, and for each statement that it sends: it
 * has its own, quicker way.
 */
#include "postgres.h"

#include <limits.h>

#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "utils/guc.h"

#include "kr_script.h"

#define TENANT "\"@tenant\""
#define RUNTIME "\"@runtime\""

/* ---------- where something is ---------- */

static int
line_of(const char *script, int location)
{
	int			line = 1;

	for (int i = 0; i < location; i++)
		line += script[i] == '\n';
	return line;
}

/* For ereport(): the place in the script, which is not the client's statement. */
static int
at_place(const char *script, int location)
{
	internalerrquery(script);
	internalerrposition(pg_mbstrlen_with_len(script, location) + 1);
	return errcontext("line %d of the script", line_of(script, location));
}

/* The place in bytes of a position in characters, from 1. */
static int
byte_offset(const char *script, int position)
{
	const char *at = script;

	while (--position > 0 && *at != '\0')
		at += pg_mblen(at);
	return at - script;
}

/* ---------- parsing ---------- */

/* Does a command of psql's stand there, a backslash and a word at a line's beginning? */
static bool
is_psql_command(const char *script, int location)
{
	if (script[location] != '\\')
		return false;
	while (--location >= 0 && script[location] != '\n')
	{
		if (strchr(" \t\r", script[location]) == NULL)
			return false;
	}
	return true;
}

/* What pg_dump writes has the rows of a COPY below it, which do not parse. */
static bool
follows_copy(const char *script, int location)
{
	const char *words = "from stdin";

	for (int i = 0; i + (int) strlen(words) <= location; i++)
	{
		if (pg_strncasecmp(script + i, words, strlen(words)) == 0)
			return true;
	}
	return false;
}

/* Raise it again with its place in the script, not in the client's statement. */
static void
raise_unparsed(const char *script, const ErrorData *error)
{
	int			location = byte_offset(script, error->cursorpos);

	if (is_psql_command(script, location))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("commands of psql cannot be used in a migration"),
				 errdetail("There is \"%.*s\".", (int) strcspn(script + location, " \t\r\n"),
						   script + location),
				 errhint("Write the SQL itself in its place."),
				 at_place(script, location)));
	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg_internal("%s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) :
			 follows_copy(script, location) ?
			 errhint("The rows of COPY FROM STDIN cannot be in a migration: use INSERT.") : 0,
			 error->cursorpos > 0 ? at_place(script, location) : 0));
}

/*
 * Without the callers' context: those of them that run a statement would take the
 * position to be one in theirs.
 */
static List *
parse(const char *script)
{
	MemoryContext cxt = CurrentMemoryContext;
	ErrorContextCallback *callers = error_context_stack;
	int			level = NewGUCNestLevel();
	List	   *statements = NIL;

	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	error_context_stack = NULL;
	PG_TRY();
	{
		statements = raw_parser(script, RAW_PARSE_DEFAULT);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		error_context_stack = callers;
		raise_unparsed(script, error);
	}
	PG_END_TRY();
	error_context_stack = callers;
	AtEOXact_GUC(true, level);
	return statements;
}

/* ---------- the server's scanner ---------- */

typedef struct Scan
{
	core_yyscan_t scanner;
	core_yy_extra_type extra;
	core_YYSTYPE value;
	int			location;		/* of the token, in bytes; past all: INT_MAX */
} Scan;

static void
scan_begin(Scan *scan, const char *sql)
{
	memset(scan, 0, sizeof(*scan));
	scan->location = -1;
	scan->scanner = scanner_init(sql, &scan->extra, &ScanKeywords, ScanKeywordTokens);
	scan->extra.standard_conforming_strings = true;
	scan->extra.escape_string_warning = false;
}

static bool
scan_next(Scan *scan)
{
	if (core_yylex(&scan->value, &scan->location, scan->scanner) != 0)
		return true;
	scan->location = INT_MAX;
	return false;
}

/* ---------- what kind of statement it is ---------- */

static bool
option_is_on(const List *options, const char *name, bool by_default)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetBoolean(option);
	}
	return by_default;
}

static const char *
alone_of_reindex(const ReindexStmt *reindex)
{
	if (option_is_on(reindex->params, "concurrently", false))
		return "REINDEX CONCURRENTLY";
	switch (reindex->kind)
	{
		case REINDEX_OBJECT_SCHEMA:
			return "REINDEX SCHEMA";
		case REINDEX_OBJECT_SYSTEM:
			return "REINDEX SYSTEM";
		case REINDEX_OBJECT_DATABASE:
			return "REINDEX DATABASE";
		default:
			return NULL;
	}
}

static const char *
alone_of_alter_table(const AlterTableStmt *alter)
{
	ListCell   *cell;

	foreach(cell, alter->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, cell);

		if (cmd->subtype == AT_DetachPartition && castNode(PartitionCmd, cmd->def)->concurrent)
			return "ALTER TABLE ... DETACH CONCURRENTLY";
	}
	return NULL;
}

static const char *
alone_of_alter_subscription(const AlterSubscriptionStmt *alter)
{
	switch (alter->kind)
	{
		case ALTER_SUBSCRIPTION_SET_PUBLICATION:
		case ALTER_SUBSCRIPTION_ADD_PUBLICATION:
		case ALTER_SUBSCRIPTION_DROP_PUBLICATION:
			return option_is_on(alter->options, "refresh", true) ? "ALTER SUBSCRIPTION with refresh" : NULL;
		case ALTER_SUBSCRIPTION_REFRESH:
			return "ALTER SUBSCRIPTION ... REFRESH";
		default:
			return NULL;
	}
}

/*
 * Those whose code calls PreventInTransactionBlock() for what the statement says.
 * When a version has new ones, they are to be added: one that is missing here
 * fails where it runs, with PostgreSQL's own message.
 */
static const char *
alone_of(const Node *parsed)
{
	switch (nodeTag(parsed))
	{
		case T_IndexStmt:
			return ((const IndexStmt *) parsed)->concurrent ? "CREATE INDEX CONCURRENTLY" : NULL;
		case T_DropStmt:
			return ((const DropStmt *) parsed)->concurrent ? "DROP INDEX CONCURRENTLY" : NULL;
		case T_ReindexStmt:
			return alone_of_reindex((const ReindexStmt *) parsed);
		case T_AlterTableStmt:
			return alone_of_alter_table((const AlterTableStmt *) parsed);
		case T_VacuumStmt:
			return ((const VacuumStmt *) parsed)->is_vacuumcmd ? "VACUUM" : NULL;
		case T_ClusterStmt:
			return ((const ClusterStmt *) parsed)->relation == NULL ? "CLUSTER of all tables" : NULL;
		case T_CreatedbStmt:
			return "CREATE DATABASE";
		case T_DropdbStmt:
			return "DROP DATABASE";
		case T_AlterDatabaseStmt:
			return strcmp(linitial_node(DefElem, ((const AlterDatabaseStmt *) parsed)->options)->defname,
						  "tablespace") == 0 ? "ALTER DATABASE SET TABLESPACE" : NULL;
		case T_CreateTableSpaceStmt:
			return "CREATE TABLESPACE";
		case T_DropTableSpaceStmt:
			return "DROP TABLESPACE";
		case T_AlterSystemStmt:
			return "ALTER SYSTEM";
		case T_DiscardStmt:
			return ((const DiscardStmt *) parsed)->target == DISCARD_ALL ? "DISCARD ALL" : NULL;
		case T_CreateSubscriptionStmt:
			{
				const List *options = ((const CreateSubscriptionStmt *) parsed)->options;

				return option_is_on(options, "connect", true) && option_is_on(options, "create_slot", true) ?
					"CREATE SUBSCRIPTION with create_slot" : NULL;
			}
		case T_AlterSubscriptionStmt:
			return alone_of_alter_subscription((const AlterSubscriptionStmt *) parsed);
		default:
			return NULL;
	}
}

static void
take_index(KrScriptStatement *statement, const IndexStmt *index)
{
	if (!index->concurrent)
		return;
	statement->concurrent_index = true;
	statement->index_schema = index->relation->schemaname;
	statement->index_table = index->relation->relname;
	statement->index_name = index->idxname;
}

static void
refuse(const char *script, int location, const Node *parsed)
{
	if (IsA(parsed, TransactionStmt))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("a migration cannot begin or end a transaction"),
				 errhint("It runs in one; if its statements have to be committed one by one, add it with transactional => false, or let its file begin with the line \"-- kessel: non-transactional\"."),
				 at_place(script, location)));
	if (IsA(parsed, CopyStmt) && ((const CopyStmt *) parsed)->filename == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a migration cannot COPY %s",
						((const CopyStmt *) parsed)->is_from ? "FROM STDIN" : "TO STDOUT"),
				 errhint("Use INSERT."),
				 at_place(script, location)));
}

/* raw's text, whose first word is at location: up to the semicolon, without blanks at its end. */
static char *
text_of(const char *script, const RawStmt *raw, int location)
{
	int			end = raw->stmt_len > 0 ?
		Max(raw->stmt_location, 0) + raw->stmt_len : (int) strlen(script);

	while (end > location && strchr(" \t\r\n\f\v", script[end - 1]) != NULL)
		end--;
	return pnstrdup(script + location, end - location);
}

List *
kr_script_split(const char *script)
{
	List	   *parsed = parse(script);
	List	   *statements = NIL;
	ListCell   *cell;
	Scan		scan;
	int			counted = 0;
	int			line = 1;

	scan_begin(&scan, script);
	foreach(cell, parsed)
	{
		RawStmt    *raw = lfirst_node(RawStmt, cell);
		KrScriptStatement *statement = palloc0(sizeof(KrScriptStatement));

		/* The parser may count blanks and comments before a statement to it. */
		while (scan.location < Max(raw->stmt_location, 0) && scan_next(&scan))
			continue;
		refuse(script, scan.location, raw->stmt);
		while (counted < scan.location)
			line += script[counted++] == '\n';
		statement->line = line;
		statement->sql = text_of(script, raw, scan.location);
		statement->alone = alone_of(raw->stmt);
		if (IsA(raw->stmt, IndexStmt))
			take_index(statement, (IndexStmt *) raw->stmt);
		statements = lappend(statements, statement);
	}
	scanner_finish(scan.scanner);
	return statements;
}

/* ---------- names of a target ---------- */

/* Quoted whatever it is: the target may have other reserved words. */
static void
append_name(StringInfo buf, const char *name, const char *placeholder)
{
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is nothing that %s stands for here", placeholder),
				 strcmp(placeholder, RUNTIME) == 0 ?
				 errhint("The data source's credential for the purpose runtime has no user name.") : 0));
	appendStringInfoChar(buf, '"');
	for (; *name != '\0'; name++)
	{
		if (*name == '"')
			appendStringInfoChar(buf, '"');
		appendStringInfoChar(buf, *name);
	}
	appendStringInfoChar(buf, '"');
}

/* Two quotes within an identifier are one quote of its name. */
static bool
stands_at(const char *sql, const char *placeholder)
{
	size_t		len = strlen(placeholder);

	return strncmp(sql, placeholder, len) == 0 && sql[len] != '"';
}

char *
kr_script_place(const char *sql, const char *schema, const char *runtime)
{
	StringInfoData buf;
	Scan		scan;
	int			done = 0;

	if (strstr(sql, TENANT) == NULL && strstr(sql, RUNTIME) == NULL)
		return pstrdup(sql);
	initStringInfo(&buf);
	scan_begin(&scan, sql);
	while (scan_next(&scan))
	{
		bool		tenant = stands_at(sql + scan.location, TENANT);

		if (!tenant && !stands_at(sql + scan.location, RUNTIME))
			continue;
		appendBinaryStringInfo(&buf, sql + done, scan.location - done);
		append_name(&buf, tenant ? schema : runtime, tenant ? TENANT : RUNTIME);
		done = scan.location + strlen(tenant ? TENANT : RUNTIME);
	}
	scanner_finish(scan.scanner);
	appendStringInfoString(&buf, sql + done);
	return buf.data;
}

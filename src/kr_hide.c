/*
 * kr_hide.c
 *	  Keeping a statement that carries a secret out of statistics from its first
 *	  moment on.
 *
 * pg_stat_activity: a function of ours puts a label in the statement's place
 * when it is called (kr_error.c), but before that the statement may wait for
 * locks or compute other columns. So it gets a label as soon as it is known for
 * what it is: when it has been parsed, and, since the protocol reports a
 * statement's text again when it is executed, when execution begins.
 *
 * pg_stat_statements replaces the constants of what it can plan. The text of a
 * utility statement (DO, EXPLAIN, EXECUTE, COPY, DECLARE) it keeps as it is, in
 * a file. One that carries a secret is not tracked: its setting track_utility is
 * off for the rest of the transaction. Not caught is one that was prepared by
 * the protocol's message in an earlier transaction. Where several statements
 * came in one message, the text that it takes for one of them may reach into
 * the next, so none of them is tracked: they get no query identifier.
 *
 * The client's statement is meant, not what functions run in it: only text that
 * is debug_query_string is looked at. EXECUTE carries a secret if the
 * statement that it names does.
 *
 * No state but the hooks' forerunners.
 */
#include "postgres.h"

#include "commands/prepare.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_hide.h"

#define TRACK_UTILITY "pg_stat_statements.track_utility"

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;

static bool
is_secret_prepared(const char *name)
{
	PreparedStatement *prepared = FetchPreparedStatement(name, false);

	return prepared != NULL && kr_error_carries_secret(prepared->plansource->query_string);
}

/* Asked while a record is logged, in any state: throws nothing. */
bool
kr_hide_executes_secret(const char *text)
{
	static const char word[] = "execute";
	char		name[NAMEDATALEN];

	for (; text != NULL && *text != '\0'; text++)
	{
		const char *p = text + strlen(word);
		bool		quoted;
		size_t		len = 0;

		if (pg_strncasecmp(text, word, strlen(word)) != 0)
			continue;
		p += strspn(p, " \t\r\n");
		quoted = *p == '"';
		p += quoted;
		for (; len < NAMEDATALEN - 1 && *p != '\0' && strchr(quoted ? "\"" : " \t\r\n(;", *p) == NULL; p++)
			name[len++] = quoted ? *p : pg_tolower((unsigned char) *p);
		name[len] = '\0';
		if (is_secret_prepared(name))
			return true;
	}
	return false;
}

/* What EXPLAIN and CREATE TABLE AS are about. */
static Node *
innermost(Node *statement)
{
	for (;;)
	{
		Node	   *query = NULL;

		if (IsA(statement, ExplainStmt))
			query = ((ExplainStmt *) statement)->query;
		else if (IsA(statement, CreateTableAsStmt))
			query = ((CreateTableAsStmt *) statement)->query;
		if (query == NULL || !IsA(query, Query) || ((Query *) query)->utilityStmt == NULL)
			return statement;
		statement = ((Query *) query)->utilityStmt;
	}
}

static bool
executes_secret(const Query *query)
{
	Node	   *statement;

	if (query->utilityStmt == NULL)
		return false;
	statement = innermost(query->utilityStmt);
	return IsA(statement, ExecuteStmt) && is_secret_prepared(((ExecuteStmt *) statement)->name);
}

/* A semicolon in a literal is taken for one between statements. */
static bool
has_several_statements(const char *text)
{
	const char *semicolon = strchr(text, ';');

	return semicolon != NULL && semicolon[strspn(semicolon, "; \t\r\n")] != '\0';
}

static void
track_no_utility(void)
{
	const char *now = GetConfigOption(TRACK_UTILITY, true, false);

	if (now != NULL && strcmp(now, "off") != 0)
		(void) set_config_option(TRACK_UTILITY, "off", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

static void
post_parse_analyze(ParseState *pstate, Query *query, JumbleState *jstate)
{
	bool		has_secret = debug_query_string != NULL &&
		pstate->p_sourcetext == debug_query_string &&
		(kr_error_carries_secret(debug_query_string) || executes_secret(query));

	/* before who is told next stores the text */
	if (has_secret && has_several_statements(debug_query_string))
		query->queryId = 0;

	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);

	if (!has_secret)
		return;
	kr_error_hide_early();
	if (query->commandType == CMD_UTILITY)
		track_no_utility();
}

static void
executor_run(KR_EXECUTOR_RUN_PARAMETERS)
{
	/* A portal has a copy of the text. */
	if (debug_query_string != NULL && strcmp(desc->sourceText, debug_query_string) == 0 &&
		kr_error_carries_secret(debug_query_string))
		kr_error_hide_early();

	if (prev_executor_run)
		prev_executor_run(KR_EXECUTOR_RUN_ARGUMENTS);
	else
		standard_ExecutorRun(KR_EXECUTOR_RUN_ARGUMENTS);
}

void
kr_hide_init(void)
{
	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = post_parse_analyze;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
}

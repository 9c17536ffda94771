/*
 * kr_remote_error.c
 *	  Errors of data sources, raised as errors of this server.
 *
 * A remote error keeps its SQLSTATE, message, detail and hint. Where a table has
 * sensitive columns, what repeats values is left out: detail, context, the
 * statement, and what the message of a data exception quotes. What libpq says
 * of a failed connection names hosts and users, so only administrators see it;
 * everybody else finds the data source's name, and the server's log the rest.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "kr_error.h"
#include "kr_remote_internal.h"
#include "kr_session.h"

/* Whoever sends more than that means no reader. */
#define MAX_TEXT (64 * 1024)

/* No more of it than that, and of a long one no part of a character. */
static char *
start_of(const char *text)
{
	size_t		len = strnlen(text, MAX_TEXT);

	if (text[len] == '\0')
		return pchomp(text);
	while (len > MAX_TEXT - 8 && IS_HIGHBIT_SET(text[len - 1]))
		len--;
	return psprintf("%.*s...", (int) len, text);
}

char *
kr_remote_clean_text(const char *text)
{
	char	   *result = start_of(text);

	if (!pg_verifymbstr(result, strlen(result), true))
	{
		for (char *c = result; *c != '\0'; c++)
		{
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
		}
	}
	return result;
}

static char *
field(const PGresult *result, int code)
{
	const char *value = PQresultErrorField(result, code);

	return value ? kr_remote_clean_text(value) : NULL;
}

static int
sqlstate_of(const char *text)
{
	return MAKE_SQLSTATE(text[0], text[1], text[2], text[3], text[4]);
}

/* A message without what it quotes. */
static char *
unquoted(const char *message)
{
	StringInfoData buf;
	const char *quote;

	initStringInfo(&buf);
	while ((quote = strchr(message, '"')) != NULL)
	{
		const char *end = strrchr(quote + 1, '"');

		appendBinaryStringInfo(&buf, message, quote - message);
		appendStringInfoString(&buf, "\"...\"");
		message = end ? end + 1 : "";
	}
	appendStringInfoString(&buf, message);
	return buf.data;
}

void
kr_remote_raise_result(const PGresult *result, const char *source,
					   const char *tenant, const char *sql, bool withhold)
{
	char	   *sqlstate = field(result, PG_DIAG_SQLSTATE);
	char	   *message = field(result, PG_DIAG_MESSAGE_PRIMARY);
	char	   *detail = field(result, PG_DIAG_MESSAGE_DETAIL);
	char	   *hint = field(result, PG_DIAG_MESSAGE_HINT);
	char	   *context = field(result, PG_DIAG_CONTEXT);
	char	   *schema = field(result, PG_DIAG_SCHEMA_NAME);
	char	   *table = field(result, PG_DIAG_TABLE_NAME);
	char	   *column = field(result, PG_DIAG_COLUMN_NAME);
	char	   *datatype = field(result, PG_DIAG_DATATYPE_NAME);
	char	   *constraint = field(result, PG_DIAG_CONSTRAINT_NAME);

	char	   *where = tenant && tenant[0] ?
		psprintf("tenant \"%s\" on data source \"%s\"", tenant, source) :
		psprintf("data source \"%s\"", source);

	if (sqlstate == NULL || strlen(sqlstate) != 5 || strncmp(sqlstate, "00", 2) == 0 ||
		strspn(sqlstate, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5)
		sqlstate = "08006";
	if (message == NULL)
		message = kr_remote_clean_text(PQresultErrorMessage(result));

	if (hint == NULL && tenant != NULL && tenant[0] != '\0' &&
		(strcmp(sqlstate, "42P01") == 0 || strcmp(sqlstate, "42703") == 0))
		hint = "Migrate this data source or, if it is ahead of the router tables, bring them up to date from it with kessel.import_tables().";
	if (hint == NULL && tenant != NULL && tenant[0] != '\0' && strcmp(sqlstate, "42501") == 0)
		hint = "What counts there are the privileges of the data source's runtime role.";

	if (withhold)
	{
		if (detail != NULL || context != NULL)
			detail = "Values are withheld: the table has sensitive columns.";
		context = NULL;
		sql = NULL;
		if (strncmp(sqlstate, "22", 2) == 0)
			message = unquoted(message);
	}

	ereport(ERROR,
			(errcode(sqlstate_of(sqlstate)),
			 errmsg_internal("%s", message[0] ? message : "data source gave no reason"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 schema ? err_generic_string(PG_DIAG_SCHEMA_NAME, schema) : 0,
			 table ? err_generic_string(PG_DIAG_TABLE_NAME, table) : 0,
			 column ? err_generic_string(PG_DIAG_COLUMN_NAME, column) : 0,
			 datatype ? err_generic_string(PG_DIAG_DATATYPE_NAME, datatype) : 0,
			 constraint ? err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint) : 0,
			 context ? errcontext("%s", context) : 0,
			 sql ? errcontext("remote SQL command: %s", sql) : 0,
			 errcontext("%s", where)));
}

void
kr_remote_raise_lost(PGconn *pg, const char *source)
{
	char	   *reason = kr_remote_clean_text(PQerrorMessage(pg));

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to data source \"%s\" was lost", source),
			 kr_session_is_admin() ? errdetail_internal("%s", reason) :
			 errdetail_log("%s", reason),
			 errhint("Repeat the transaction; a new connection is made for it.")));
}

void
kr_remote_raise_outcome_unknown(const char *source)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("data source \"%s\" has not answered the commit", source),
			 errdetail("The connection was lost or the waiting was cancelled. Whether the changes were committed there is unknown; here the transaction is rolled back."),
			 errhint("Look at the data before you repeat the transaction.")));
}

/*
 * The SQLSTATE in a message of libpq that was built with PQERRORS_VERBOSE
 * ("SEVERITY:  28P01: text"); 08001 where the server sent none.
 */
static const char *
next_sqlstate(const char *message)
{
	const char *at = message;

	while ((at = strstr(at, ":  ")) != NULL)
	{
		at += 3;
		if (strspn(at, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && at[5] == ':')
			return at;
	}
	return NULL;
}

static int
sqlstate_of_connect_error(const char *message)
{
	const char *sqlstate = next_sqlstate(message);

	return sqlstate ? sqlstate_of(sqlstate) : ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
}

/*
 * Has a server said that these are not the user and password that it wants
 * (class 28)? Not the language of its messages tells, and one that was asked
 * before may have said something else.
 */
bool
kr_remote_refused_login(PGconn *pg)
{
	const char *at = PQerrorMessage(pg);

	while ((at = next_sqlstate(at)) != NULL)
	{
		if (strncmp(at, "28", 2) == 0)
			return true;
	}
	return false;
}

/* libpq's words, without what PQERRORS_VERBOSE adds about its source code. */
char *
kr_remote_reason(PGconn *pg)
{
	char	   *reason = kr_remote_clean_text(PQerrorMessage(pg));
	char	   *location = strstr(reason, "\nLOCATION:");

	if (location != NULL)
		*location = '\0';
	return reason;
}

void
kr_remote_raise_connect(PGconn *pg, const KrSource *source)
{
	char	   *reason = kr_remote_reason(pg);
	int			sqlstate = sqlstate_of_connect_error(reason);

	if (OidIsValid(source->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"", source->name),
				 errdetail_internal("%s", reason)));

	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("could not connect to data source \"%s\"", source->name),
			 kr_session_is_admin() ? errdetail_internal("%s", reason) :
			 errdetail_log("%s", reason),
			 sqlstate == ERRCODE_INVALID_PASSWORD ?
			 errhint("An administrator can set the password with kessel.set_credential().") :
			 errhint("kessel.test_data_source('%s') shows to an administrator how far it gets.",
					 source->name)));
}

/*
 * kr_source_sql.c
 *	  SQL functions that take a data source's url or password.
 *
 * libpq reads the url. The password is taken out of it here and sealed before
 * anything is stored; what SQL gets to see is the rest. Errors leave without
 * the statement's text.
 */
#include "postgres.h"

#include <sodium.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_credential.h"
#include "kr_error.h"
#include "kr_route.h"
#include "kr_session.h"
#include "kr_spi.h"
#include "kr_vault.h"

PG_FUNCTION_INFO_V1(kr_create_data_source);
PG_FUNCTION_INFO_V1(kr_alter_data_source);
PG_FUNCTION_INFO_V1(kr_set_credential);

/* What may stand in a url. Files of the server's are for superusers to name. */
typedef struct AllowedKeyword
{
	const char *keyword;
	bool		superuser;
} AllowedKeyword;

static const AllowedKeyword allowed_keywords[] = {
	{"channel_binding", false},
	{"dbname", false},
	{"gssencmode", false},
	{"host", false},
	{"hostaddr", false},
	{"keepalives", false},
	{"keepalives_count", false},
	{"keepalives_idle", false},
	{"keepalives_interval", false},
	{"load_balance_hosts", false},
	{"options", false},
	{"port", false},
	{"require_auth", false},
	{"sslcert", true},
	{"sslcertmode", false},
	{"sslcompression", false},
	{"sslcrl", true},
	{"sslcrldir", true},
	{"sslkey", true},
	{"ssl_max_protocol_version", false},
	{"ssl_min_protocol_version", false},
	{"sslmode", false},
	{"sslnegotiation", false},
	{"sslrootcert", true},
	{"sslsni", false},
	{"target_session_attrs", false},
	{"tcp_user_timeout", false},
};

/* A url taken apart. */
typedef struct ParsedUrl
{
	char	   *conninfo;		/* JSON text */
	char	   *username;		/* NULL: none in it */
	char	   *password;		/* NULL: none in it; wiped by wipe_url() */
} ParsedUrl;

static void
wipe(char *text)
{
	if (text != NULL)
		sodium_memzero(text, strlen(text));
}

static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static void
require_arg(const char *value, const char *name)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* ---------- the url ---------- */

static void
check_keyword(const char *keyword, const char *value)
{
	for (int i = 0; i < lengthof(allowed_keywords); i++)
	{
		if (strcmp(keyword, allowed_keywords[i].keyword) != 0)
			continue;

		/* "system" is no file but the certificates of the system. */
		if (allowed_keywords[i].superuser && strcmp(value, "system") != 0 &&
			!kr_session_is_superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to use \"%s\" in a url", keyword),
					 errdetail("It names a file of the database server."),
					 errhint("Only superusers can do that.")));
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" cannot be used in the url of a data source", keyword),
			 errdetail("The router sets it itself, or it would take a secret from elsewhere than the vault."),
			 errhint("Leave it out.")));
}

static void
append_option(StringInfo json, const char *keyword, const char *value)
{
	appendStringInfoString(json, json->len > 1 ? ", " : "");
	escape_json(json, keyword);
	appendStringInfoString(json, ": ");
	escape_json(json, value);
}

/* Take libpq's options over; what is secret goes into *parsed alone. */
static void
collect_options(const PQconninfoOption *options, ParsedUrl *parsed)
{
	StringInfoData json;
	bool		has_host = false;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (const PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (option->val == NULL || option->val[0] == '\0')
			continue;
		if (strcmp(option->keyword, "user") == 0)
			parsed->username = pstrdup(option->val);
		else if (strcmp(option->keyword, "password") == 0)
			parsed->password = pstrdup(option->val);
		else
		{
			check_keyword(option->keyword, option->val);
			has_host |= strcmp(option->keyword, "host") == 0 ||
				strcmp(option->keyword, "hostaddr") == 0;
			append_option(&json, option->keyword, option->val);
		}
	}
	appendStringInfoChar(&json, '}');
	parsed->conninfo = json.data;

	if (!has_host && !kr_session_is_superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the url names no host"),
				 errhint("For example: postgresql://user:password@db.example.com:5432/crm")));
}

/* Wipes the url. */
static void
parse_url(char *url, ParsedUrl *parsed)
{
	char	   *message = NULL;
	bool		is_http = pg_strncasecmp(url, "http", 4) == 0;
	PQconninfoOption *options = PQconninfoParse(url, &message);

	wipe(url);
	memset(parsed, 0, sizeof(*parsed));
	if (options == NULL)
	{
		/* libpq's message may quote the part that it stumbled over. */
		PQfreemem(message);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the url cannot be read"),
				 errdetail("libpq takes it neither for a connection URI nor for a keyword/value string."),
				 is_http ?
				 errhint("Name the database. The url of its API goes into kessel.set_api().") :
				 errhint("For example: postgresql://user:password@db.example.com:5432/crm; escape special characters in the password with %%XX.")));
	}

	PG_TRY();
	{
		collect_options(options, parsed);
	}
	PG_FINALLY();
	{
		for (PQconninfoOption *option = options; option->keyword != NULL; option++)
			wipe(option->val);
		PQconninfoFree(options);
	}
	PG_END_TRY();
}

/* ---------- where a credential is sent ---------- */

/*
 * A credential of a purpose that the url itself does not replace. What runs while
 * a table is maintained is its owner's, and must not do this with the rights of
 * whoever maintains it.
 */
static void
check_credential(const pg_uuid_t *source_id, const char *name, const char *purpose,
				 const char *reason)
{
	KrCredentialLock lock;
	List	   *credentials = kr_credential_same_login(source_id, purpose, &lock);
	KrCredential *credential = credentials ? linitial(credentials) : NULL;
	KrAuditEvent denied = {
		.action = "redirect",
		.purpose = purpose,
		.sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE,
		.reason = "no privilege reveal"
	};

	if (credential == NULL || !credential->has_secret ||
		(!InSecurityRestrictedOperation() &&
		 kr_vault_may(kr_session_role(), &credential->secret_id, KR_PRIVILEGE_REVEAL)))
		return;
	denied.secret_id = &credential->secret_id;
	denied.purpose = credential->purpose;
	kr_audit_record(&denied);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to send the %s credential of data source \"%s\" elsewhere",
					purpose, name),
			 errdetail("%s Whoever may do that could read the password.", reason),
			 strcmp(purpose, "runtime") == 0 ?
			 errhint("Give user and password in the url, or ask for the privilege \"reveal\" on the secret.") :
			 errhint("Forget it first with kessel.drop_credential('%s', '%s') and set it again afterwards, or ask for the privilege \"reveal\" on the secret.",
					 name, purpose)));
}

/*
 * Changing host, address or port, or giving up what tells that it is the same
 * server, hands the password to somebody else: that takes the right to read it.
 * True where the url leads elsewhere, and that is allowed.
 */
static bool
check_redirection(const pg_uuid_t *source_id, const char *name, const ParsedUrl *parsed,
				  Datum conninfo)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, JSONBOID};
	Datum		values[2];
	MemoryContext caller = CurrentMemoryContext;
	char	   *reason = NULL;
	KrSpi		spi;

	values[0] = UUIDPGetDatum(source_id);
	values[1] = conninfo;
	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT kessel._leads_elsewhere(s.conninfo, $2) FROM app.data_sources s WHERE s.id = $1",
				2, types, values);
	if (SPI_processed == 1)
		reason = kr_spi_text(0, 1, caller);
	kr_spi_end(&spi);

	if (reason == NULL)
		return false;
	if (parsed->password == NULL)
		check_credential(source_id, name, "runtime", reason);
	check_credential(source_id, name, "owner", reason);
	return true;
}

/* ---------- SQL functions ---------- */

/* The statement that does the rest, in SQL; returns the data source's id. */
static pg_uuid_t
run_statement(SPIPlanPtr *plan, const char *sql, int nargs, const Oid *argtypes,
			  Datum *values, const char *nulls)
{
	pg_uuid_t	id;
	bool		isnull;
	KrSpi		spi;

	kr_spi_begin(&spi);
	kr_spi_write(plan, sql, nargs, argtypes, values, nulls);
	id = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	kr_spi_end(&spi);
	return id;
}

/*
 * kessel.create_data_source(name, url, region, isolation, options, notes)
 * returns uuid. The row is written by kessel._write_data_source().
 */
static Datum
create_data_source(FunctionCallInfo fcinfo, ParsedUrl *parsed)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {TEXTOID, JSONBOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID};
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	char	   *url = text_arg(fcinfo, 1);
	Datum		values[6];
	char		nulls[6];

	require_arg(text_arg(fcinfo, 0), "name");
	require_arg(url, "url");
	parse_url(url, parsed);

	for (int i = 0; i < 6; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(parsed->conninfo));
	*id = run_statement(&plan,
						"SELECT kessel._create_data_source($1, $2, $3, $4, $5, $6)",
						6, argtypes, values, nulls);
	if (parsed->username != NULL || parsed->password != NULL)
		kr_credential_store(id, "runtime", parsed->username, parsed->password, false);
	return UUIDPGetDatum(id);
}

/* kessel.alter_data_source(name, url, region, isolation, options, notes, new_name, status) */
static Datum
alter_data_source(FunctionCallInfo fcinfo, ParsedUrl *parsed)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {TEXTOID, JSONBOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, TEXTOID, TEXTOID};
	char	   *name = text_arg(fcinfo, 0);
	char	   *url = text_arg(fcinfo, 1);
	bool		elsewhere = false;
	pg_uuid_t	id;
	Datum		values[8];
	char		nulls[8];

	require_arg(name, "name");
	for (int i = 0; i < 8; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	if (url != NULL)
	{
		parse_url(url, parsed);
		values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(parsed->conninfo));
		id = kr_source_by_name(name)->id;
		kr_credential_lock_source(&id, name, true);
		kr_credential_hold(&id);
		elsewhere = check_redirection(&id, name, parsed, values[1]);
	}
	id = run_statement(&plan,
					   "SELECT kessel._alter_data_source($1, $2, $3, $4, $5, $6, $7, $8)",
					   8, argtypes, values, nulls);
	if (parsed->username != NULL || parsed->password != NULL)
		kr_credential_store(&id, "runtime", parsed->username, parsed->password, elsewhere);
	return (Datum) 0;
}

/* kessel.set_credential(data_source, username, password, purpose) */
static Datum
set_credential(FunctionCallInfo fcinfo, ParsedUrl *parsed)
{
	char	   *name = text_arg(fcinfo, 0);
	char	   *purpose = text_arg(fcinfo, 3);
	bool		is_login;
	pg_uuid_t	id;

	parsed->username = text_arg(fcinfo, 1);
	parsed->password = text_arg(fcinfo, 2);
	require_arg(name, "data_source");
	require_arg(purpose, "purpose");

	is_login = strcmp(purpose, "runtime") == 0 || strcmp(purpose, "owner") == 0;
	if (!is_login && strcmp(purpose, "anon") != 0 && strcmp(purpose, "service") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid purpose \"%s\"", purpose),
				 errhint("runtime and owner are logins of the database, anon and service are API keys.")));
	if (is_login)
		require_arg(parsed->username, "username");

	id = kr_source_by_name(name)->id;
	kr_credential_lock_source(&id, name, false);
	kr_credential_store(&id, purpose, parsed->username, parsed->password, false);
	return (Datum) 0;
}

/*
 * Run one of the above so that neither its statement nor its arguments get into
 * the log or stay in memory of ours.
 */
static Datum
run_hidden(FunctionCallInfo fcinfo, Datum (*function) (FunctionCallInfo, ParsedUrl *),
		   const char *label)
{
	MemoryContext caller = CurrentMemoryContext;
	ParsedUrl	parsed = {0};
	volatile Datum result = (Datum) 0;

	kr_error_hide_statement(label);
	PG_TRY();
	{
		result = function(fcinfo, &parsed);
	}
	PG_CATCH();
	{
		wipe(parsed.password);
		kr_error_rethrow_hidden(caller);
	}
	PG_END_TRY();
	wipe(parsed.password);
	return result;
}

Datum
kr_create_data_source(PG_FUNCTION_ARGS)
{
	return run_hidden(fcinfo, create_data_source, "SELECT kessel.create_data_source(<hidden>)");
}

Datum
kr_alter_data_source(PG_FUNCTION_ARGS)
{
	(void) run_hidden(fcinfo, alter_data_source, "SELECT kessel.alter_data_source(<hidden>)");
	PG_RETURN_VOID();
}

Datum
kr_set_credential(PG_FUNCTION_ARGS)
{
	(void) run_hidden(fcinfo, set_credential, "SELECT kessel.set_credential(<hidden>)");
	PG_RETURN_VOID();
}

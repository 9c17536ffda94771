/*
 * kr_fdw_options.c
 *	  Options of servers, user mappings, tables and columns, and the target of
 *	  a statement.
 *
 * Ours are `tenant`, `data_source` and `pooler` of a server, `secret` of a user
 * mapping, `remote_default` and `sensitive` of a column. Everything else is
 * postgres_fdw's and is checked by its own validator. A validator is told of one
 * object's options alone: what depends on the server that a mapping or table
 * belongs to is refused when it is used.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "miscadmin.h"

#include "kr_error.h"
#include "kr_fdw.h"
#include "kr_session.h"
#include "kr_vault.h"

PG_FUNCTION_INFO_V1(kr_fdw_validator);

/* What a server's options say together. */
typedef struct ServerOptions
{
	const char *binding;		/* tenant or data_source */
	const char *connection;		/* an option of libpq */
	bool		pooler;
	bool		remote_estimate;
} ServerOptions;

static bool
is_option(const DefElem *option, const char *name)
{
	return strcmp(option->defname, name) == 0;
}

static void
check_not_empty(DefElem *option)
{
	if (defGetString(option)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be empty", option->defname)));
}

static void
check_binding(DefElem *option)
{
	if (!kr_session_is_admin())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to bind a server to a %s",
						is_option(option, "tenant") ? "tenant" : "data source"),
				 errhint("Only superusers and members of kessel_admin can.")));
	check_not_empty(option);
}

/* An option of 18. */
static void
check_no_scram_passthrough(DefElem *option)
{
	if (is_option(option, "use_scram_passthrough") && defGetBoolean(option))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("use_scram_passthrough cannot be used with kessel_fdw"),
				 errdetail("Its connections outlive the session user for whom they were made."),
				 errhint("Use password or secret in the user mapping.")));
}

static void
check_pooler(DefElem *option)
{
	const char *value = defGetString(option);

	if (strcmp(value, "session") != 0 && strcmp(value, "transaction") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"pooler\": %s", value),
				 errhint("It is session or transaction.")));
}

/* Takes note of one option of a server; true where postgres_fdw must check it. */
static bool
note_server_option(DefElem *option, ServerOptions *noted)
{
	if (is_option(option, "tenant") || is_option(option, "data_source"))
	{
		check_binding(option);
		if (noted->binding != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("options \"tenant\" and \"data_source\" exclude each other")));
		noted->binding = option->defname;
		return false;
	}
	if (is_option(option, "pooler"))
	{
		check_pooler(option);
		noted->pooler = true;
		return false;
	}
	if (kr_fdw_is_connection_option(option->defname))
		noted->connection = option->defname;
	if (is_option(option, "use_remote_estimate"))
		noted->remote_estimate = defGetBoolean(option);
	return true;
}

static void
check_server_options(const ServerOptions *noted)
{
	if (noted->binding != NULL && noted->connection != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"%s\" and \"%s\" exclude each other",
						noted->binding, noted->connection),
				 errdetail("How a data source is reached is said there, with its credential sealed."),
				 errhint("kessel.alter_data_source() changes it.")));
	if (noted->pooler && noted->connection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"pooler\" can only be used where a server has connection options"),
				 errdetail("It is said of a data source, too, but there."),
				 errhint("kessel.alter_data_source() sets it in its options.")));
	if (noted->remote_estimate && noted->connection == NULL)
		kr_fdw_refuse_remote_estimate();
}

void
kr_fdw_refuse_remote_estimate(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("use_remote_estimate can only be used where a server has connection options"),
			 errdetail("On any other the tenant is known only when a statement runs, not when it is planned."),
			 errhint("Leave the option out.")));
}

/*
 * Whoever names a secret can have it sent to a host of his choice, so he must
 * be one who may read it. For a superuser it need not be there yet: a dump is
 * restored with its mappings first.
 */
static void
check_secret(DefElem *option)
{
	pg_uuid_t	id;
	int32		version;

	check_not_empty(option);
	if (superuser())
		return;
	if (!kr_vault_find(defGetString(option), &id, &version) ||
		!kr_vault_may(GetUserId(), &id, KR_PRIVILEGE_REVEAL))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to use this secret in a user mapping"),
				 errdetail("The role \"%s\" does not have the privilege \"reveal\" on a secret of this name.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Write the password into the user mapping, or let someone make it who has the privilege, see vault.grant_secret().")));
}

/* True where postgres_fdw must check it. */
static bool
check_mapping_option(DefElem *option, DefElem **password)
{
	bool		is_secret = is_option(option, "secret");

	if (is_secret)
		check_secret(option);
	if (is_secret || is_option(option, "password"))
	{
		if (*password != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("options \"password\" and \"secret\" exclude each other")));
		*password = option;
	}
	return !is_secret;
}

/*
 * Whoever has USAGE on the router's server can make tables of it. What a source
 * that tenants share tells in its catalogs and statistics is not for all.
 */
static void
check_table_schema(DefElem *option)
{
	const char *schema = defGetString(option);

	if (is_option(option, "schema_name") && !kr_session_is_admin() &&
		(strncmp(schema, "pg_", 3) == 0 || strcmp(schema, "information_schema") == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to use schema \"%s\" of a data source", schema),
				 errhint("Only superusers and members of kessel_admin can.")));
}

/* True where postgres_fdw must check it. */
static bool
check_column_option(DefElem *option)
{
	if (!is_option(option, "remote_default") && !is_option(option, "sensitive"))
		return true;
	(void) defGetBoolean(option);
	return false;
}

Datum
kr_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	List	   *theirs = NIL;
	ServerOptions server = {0};
	DefElem    *password = NULL;
	ListCell   *cell;
	PGFunction	validator;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);
		bool		is_theirs = true;

		if (catalog == ForeignServerRelationId)
			is_theirs = note_server_option(option, &server);
		else if (catalog == UserMappingRelationId)
			is_theirs = check_mapping_option(option, &password);
		else if (catalog == ForeignTableRelationId)
			check_table_schema(option);
		else if (catalog == AttributeRelationId)
			is_theirs = check_column_option(option);
		if (is_theirs)
			theirs = lappend(theirs, option);
	}
	check_server_options(&server);

	validator = load_external_function("$libdir/postgres_fdw", "postgres_fdw_validator",
									   true, NULL);
	DirectFunctionCall2(validator,
						transformRelOptions((Datum) 0, theirs, NULL, NULL, false, false),
						ObjectIdGetDatum(catalog));
	foreach(cell, theirs)
		check_no_scram_passthrough(lfirst_node(DefElem, cell));
	PG_RETURN_VOID();
}

/* ---------- the target of a statement ---------- */

static void
target_of_route(KrFdwTarget *target, const KrRoute *route)
{
	const KrSource *source = route->source;

	if (route->isolation == KR_ISOLATION_ROW && !source->has_agent)
		ereport(ERROR,
				(errcode(KR_ERR_NO_AGENT),
				 errmsg("data source \"%s\" has no agent", source->name),
				 errdetail("Tenant \"%s\" shares its tables with others; without the agent the source cannot tell them apart.",
						   route->slug),
				 errhint("An administrator can call kessel.install_agent('%s').", source->name)));

	target->route = route;
	target->remote.source = source;
	target->remote.tenant_id = route->tenant_id;
	target->remote.tenant = route->slug;
	target->remote.enter = source->has_agent ? route->id_in_source : NULL;
	target->remote.epoch = route->epoch;
	target->marker_only = route->isolation == KR_ISOLATION_SCHEMA;
	target->schema = target->marker_only ? route->id_in_source : source->schema;
}

static void
target_of_source(KrFdwTarget *target, const KrSource *source)
{
	if (!source->active)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" is disabled", source->name),
				 errhint("An administrator can call kessel.alter_data_source() with status => 'active'.")));
	target->remote.source = source;
	target->schema = source->schema;
}

/* postgres_fdw's rule: nobody may borrow what the server itself can log in with. */
static void
target_of_server(KrFdwTarget *target, const KrSource *source)
{
	if (source->password_required && !source->has_secret &&
		(source->password == NULL || source->password[0] == '\0'))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("Non-superusers must provide a password in the user mapping.")));
	target->remote.source = source;
	target->schema = source->schema;
}

void
kr_fdw_resolve(Oid serverid, Oid userid, KrFdwTarget *target)
{
	const KrServer *server = kr_fdw_server(serverid, userid);

	memset(target, 0, sizeof(*target));
	switch (server->kind)
	{
		case KR_SERVER_ROUTER:
			target_of_route(target, kr_route_of_session());
			break;
		case KR_SERVER_TENANT:
			target_of_route(target, kr_route_of_tenant(server->bound_to));
			break;
		case KR_SERVER_DATA_SOURCE:
			target_of_source(target, kr_source_by_name(server->bound_to));
			break;
		case KR_SERVER_BOUND:
			target_of_server(target, &server->source);
			break;
	}
	target->remote.close_after = !server->keep_connections;
}

/*
 * kr_fdw_options.c
 *	  Options of servers, tables and columns, and what a server means.
 *
 * A server without our options is a router: the session's tenant decides. With
 * `tenant` or `data_source` it is bound. Everything else is postgres_fdw's and
 * is checked by its own validator.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"

#include "kr_error.h"
#include "kr_fdw.h"
#include "kr_session.h"

PG_FUNCTION_INFO_V1(kr_fdw_validator);

/* Options of postgres_fdw that only its planner reads. */
static const char *const planner_options[] = {
	"analyze_sampling",
	"async_capable",
	"batch_size",
	"extensions",
	"fdw_startup_cost",
	"fdw_tuple_cost",
	"fetch_size",
	"keep_connections",
	"parallel_abort",
	"parallel_commit",
	"truncatable",
	"updatable",
	"use_remote_estimate",
};

static bool
is_planner_option(const char *name)
{
	for (int i = 0; i < lengthof(planner_options); i++)
	{
		if (strcmp(name, planner_options[i]) == 0)
			return true;
	}
	return false;
}

static void
check_binding(DefElem *option)
{
	if (!kr_session_is_admin())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to bind a server to a %s",
						strcmp(option->defname, "tenant") == 0 ? "tenant" : "data source"),
				 errhint("Only superusers and members of kessel_admin can.")));
	if (defGetString(option)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be empty", option->defname)));
}

static void
check_no_remote_estimate(DefElem *option)
{
	if (strcmp(option->defname, "use_remote_estimate") == 0 && defGetBoolean(option))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("use_remote_estimate cannot be used with kessel_fdw"),
				 errdetail("The tenant is known only when a statement runs, not when it is planned."),
				 errhint("Leave the option out.")));
}

/*
 * Whoever has USAGE on the router's server can make tables of it. What a source
 * that tenants share tells in its catalogs and statistics is not for all.
 */
static void
check_table_schema(DefElem *option)
{
	const char *schema = defGetString(option);

	if (strcmp(option->defname, "schema_name") == 0 && !kr_session_is_admin() &&
		(strncmp(schema, "pg_", 3) == 0 || strcmp(schema, "information_schema") == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to use schema \"%s\" of a data source", schema),
				 errhint("Only superusers and members of kessel_admin can.")));
}

static void
check_server_option(DefElem *option)
{
	if (!is_planner_option(option->defname))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", option->defname),
				 errdetail("How a database is reached is said in its data source, with its credential sealed."),
				 errhint("Create it with kessel.create_data_source() and bind the server by OPTIONS (data_source '...') or (tenant '...').")));
}

Datum
kr_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	List	   *theirs = NIL;
	bool		bound = false;
	ListCell   *cell;
	PGFunction	validator;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (catalog == UserMappingRelationId)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname),
					 errhint("Servers of kessel_fdw need no user mapping: set the credential with kessel.set_credential().")));
		if (catalog == ForeignServerRelationId &&
			(strcmp(option->defname, "tenant") == 0 ||
			 strcmp(option->defname, "data_source") == 0))
		{
			check_binding(option);
			if (bound)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
						 errmsg("options \"tenant\" and \"data_source\" exclude each other")));
			bound = true;
			continue;
		}
		if (catalog == ForeignServerRelationId)
			check_server_option(option);
		if (catalog == ForeignTableRelationId)
			check_table_schema(option);
		check_no_remote_estimate(option);
		theirs = lappend(theirs, option);
	}

	validator = load_external_function("$libdir/postgres_fdw", "postgres_fdw_validator",
									   true, NULL);
	DirectFunctionCall2(validator,
						transformRelOptions((Datum) 0, theirs, NULL, NULL, false, false),
						ObjectIdGetDatum(catalog));
	PG_RETURN_VOID();
}

static const char *
server_option(const ForeignServer *server, const char *name)
{
	ListCell   *cell;

	foreach(cell, server->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

bool
kr_fdw_is_undecided(Oid serverid)
{
	ForeignServer *server = GetForeignServer(serverid);

	return server_option(server, "tenant") == NULL &&
		server_option(server, "data_source") == NULL &&
		kr_session_tenant() == NULL;
}

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

void
kr_fdw_resolve(Oid serverid, KrFdwTarget *target)
{
	ForeignServer *server = GetForeignServer(serverid);
	const char *tenant = server_option(server, "tenant");
	const char *source = server_option(server, "data_source");

	memset(target, 0, sizeof(*target));
	if (tenant != NULL)
		target_of_route(target, kr_route_of_tenant(tenant));
	else if (source != NULL)
		target_of_source(target, kr_source_by_name(source));
	else
		target_of_route(target, kr_route_of_session());
}

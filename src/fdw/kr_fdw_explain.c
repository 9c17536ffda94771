/*
 * kr_fdw_explain.c
 *	  The route in EXPLAIN, so that one sees where a statement goes. It is the
 *	  route of now: a plan is for all tenants. A server with connection options
 *	  leads to one place, and its plans look like postgres_fdw's.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "kr_fdw.h"
#include "kr_session.h"

void
kr_explain_route(Oid serverid, ExplainState *es)
{
	KrServerKind kind = kr_fdw_server(serverid, InvalidOid)->kind;
	KrFdwTarget target;
	char	   *text;

	if (kind == KR_SERVER_BOUND)
		return;
	if (kind == KR_SERVER_ROUTER && kr_session_tenant() == NULL)
	{
		ExplainPropertyText("Route", "none, no tenant is set", es);
		return;
	}

	kr_fdw_resolve(serverid, GetUserId(), &target);
	if (target.route != NULL)
		text = psprintf("tenant \"%s\" on data source \"%s\", isolation %s",
						target.route->slug, target.remote.source->name,
						kr_isolation_name(target.route->isolation));
	else
		text = psprintf("data source \"%s\"", target.remote.source->name);
	ExplainPropertyText("Route", text, es);
}

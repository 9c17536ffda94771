/*
 * kr_fdw_explain.c
 *	  The route in EXPLAIN, so that one sees where a statement goes. It is the
 *	  route of now: a plan is for all tenants.
 */
#include "postgres.h"

#include "kr_fdw.h"

void
kr_explain_route(Oid serverid, ExplainState *es)
{
	KrFdwTarget target;
	char	   *text;

	if (kr_fdw_is_undecided(serverid))
	{
		ExplainPropertyText("Route", "none, no tenant is set", es);
		return;
	}

	kr_fdw_resolve(serverid, &target);
	if (target.route != NULL)
		text = psprintf("tenant \"%s\" on data source \"%s\", isolation %s",
						target.route->slug, target.remote.source->name,
						kr_isolation_name(target.route->isolation));
	else
		text = psprintf("data source \"%s\"", target.remote.source->name);
	ExplainPropertyText("Route", text, es);
}

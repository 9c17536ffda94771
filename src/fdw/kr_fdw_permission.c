/*
 * kr_fdw_permission.c
 *	  May the user of the claims read or write this router table?
 *
 * With kessel.require_permissions the app's own table public.role_permissions
 * decides, on top of what roles are granted; infra.has_table_permission() of the
 * blueprint core is asked, as its owner. A session that works for no user and may
 * work for any tenant, a backend's, is not asked about.
 *
 * Asked when execution begins, in ExecutorCheckPerms_hook, so that a plan kept
 * from before counts for nothing. In a parallel worker, too: a function that runs
 * there may have statements of its own. COPY and TRUNCATE ask by themselves: the one
 * can be what loads this library, after its check, the other has none of this kind.
 * So do scans and modifications of children and partitions, for which PostgreSQL
 * looks at no permissions but their parent's. Nothing is kept between statements.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "kr_compat.h"
#include "kr_fdw.h"
#include "kr_guc.h"
#include "kr_infra.h"
#include "kr_session.h"

#define ACL_WRITE (ACL_INSERT | ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE)

static ExecutorCheckPerms_hook_type prev_check_perms = NULL;

static bool
is_router_table(Oid relid)
{
	ForeignServer *server;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return false;
	server = GetForeignServer(GetForeignTable(relid)->serverid);
	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "kessel_fdw") == 0 &&
		kr_fdw_server(server->serverid, InvalidOid)->kind == KR_SERVER_ROUTER;
}

static bool
is_permitted(const char *table, const char *command)
{
	static const Oid types[] = {TEXTOID, TEXTOID};
	NullableDatum args[lengthof(types)] = {
		{.value = CStringGetTextDatum(table)}, {.value = CStringGetTextDatum(command)}
	};
	Oid			owner;
	Oid			function = kr_infra_function("has_table_permission", lengthof(types), types, &owner);
	bool		isnull;
	Datum		result;

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no permissions in this database"),
				 errdetail("kessel.require_permissions is on."),
				 errhint("SELECT kessel.setup() makes public.role_permissions.")));
	result = kr_infra_call(function, owner, lengthof(types), args, &isnull);
	return !isnull && DatumGetBool(result);
}

/* The module "a.b" of table b in a is not that of a table "a.b", nor "b:read" one of b. */
static const char *
part_of_module(const char *name)
{
	return strpbrk(name, ".:\"") != NULL ? quote_identifier(name) : name;
}

static bool
may(Oid relid, AclMode wanted, bool raise)
{
	static const struct
	{
		AclMode		mode;
		const char *command;
	}			commands[] = {{ACL_SELECT, "read"}, {ACL_WRITE, "write"}};
	char	   *table;

	if (!is_router_table(relid))
		return true;
	table = psprintf("%s.%s", part_of_module(get_namespace_name(get_rel_namespace(relid))),
					 part_of_module(get_rel_name(relid)));
	for (int i = 0; i < lengthof(commands); i++)
	{
		if ((wanted & commands[i].mode) == 0 || is_permitted(table, commands[i].command))
			continue;
		if (raise)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to %s table \"%s\"", commands[i].command, table),
					 errdetail("The user's role has no access to the module \"%s\" or \"%s:%s\".",
							   table, table, commands[i].command),
					 errhint("public.role_permissions and public.module_role_access say who has.")));
		return false;
	}
	return true;
}

/* Is there anything to ask in this session? */
static bool
is_asked(void)
{
	pg_uuid_t	user;

	if (!kr_guc_require_permissions)
		return false;
	return kr_session_user_id(&user) || !kr_session_enters_any_tenant();
}

void
kr_permission_to_write(Oid relid)
{
	if (is_asked())
		(void) may(relid, ACL_INSERT, true);
}

static void
ask_of_child(Index rti, EState *estate, AclMode wanted)
{
	RangeTblEntry *rte = exec_rt_fetch(rti, estate);

	if (rte->rtekind == RTE_RELATION && kr_is_child(rte) && is_asked())
		(void) may(rte->relid, wanted, true);
}

void
kr_permission_of_scan(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	int			rti = -1;

	while ((rti = bms_next_member(plan->fs_relids, rti)) >= 0)
	{
		ExecRowMark *mark = ExecFindRowMark(node->ss.ps.state, rti, true);

		ask_of_child(rti, node->ss.ps.state, rti == plan->resultRelation ? ACL_WRITE : ACL_SELECT);
		if (mark != NULL && mark->strength != LCS_NONE)
			ask_of_child(rti, node->ss.ps.state, ACL_WRITE);
	}
}

void
kr_permission_of_modify(ResultRelInfo *relinfo, EState *estate)
{
	ask_of_child(relinfo->ri_RangeTableIndex, estate, ACL_WRITE);
}

static bool
check_perms(KR_CHECK_PERMS_PARAMETERS)
{
	ListCell   *cell;

	if (prev_check_perms && !prev_check_perms(KR_CHECK_PERMS_ARGUMENTS))
		return false;
	if (!kr_guc_require_permissions)
		return true;
	foreach(cell, KR_CHECK_PERMS_LIST)
	{
		KrPermissionInfo *info = lfirst(cell);

		if (info->requiredPerms != 0 && OidIsValid(info->relid) &&
			get_rel_relkind(info->relid) == RELKIND_FOREIGN_TABLE && is_asked() &&
			!may(info->relid, info->requiredPerms, ereport_on_violation))
			return false;
	}
	return true;
}

void
kr_permission_init(void)
{
	prev_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_perms;
}

/*
 * kr_infra.c
 *	  Calling functions of the infra database's own blueprints.
 *
 * They belong to whoever has called kessel.setup(), who may have less rights than
 * the session that calls, and may put anything in their place. So they run with
 * their owner's rights alone, whether or not they are SECURITY DEFINER. Called by
 * kr_members.c and by the FDW; no state.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "kr_infra.h"

#define INFRA_SCHEMA "infra"
#define MAX_ARGS 2

Oid
kr_infra_function(const char *name, int nargs, const Oid *types, Oid *owner)
{
	Oid			schema = get_namespace_oid(INFRA_SCHEMA, true);
	Oid			admin = get_role_oid("kessel_admin", true);
	Oid			function = InvalidOid;
	HeapTuple	tuple;

	if (!OidIsValid(schema) || !OidIsValid(admin))
		return InvalidOid;
	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(name),
							PointerGetDatum(buildoidvector(types, nargs)),
							ObjectIdGetDatum(schema));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prokind == PROKIND_FUNCTION &&
		has_privs_of_role(((Form_pg_proc) GETSTRUCT(tuple))->proowner, admin))
	{
		function = ((Form_pg_proc) GETSTRUCT(tuple))->oid;
		*owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	}
	ReleaseSysCache(tuple);
	return function;
}

Datum
kr_infra_call(Oid function, Oid owner, int nargs, const NullableDatum *args, bool *isnull)
{
	LOCAL_FCINFO(call, MAX_ARGS);
	FmgrInfo	flinfo;
	Datum		result = (Datum) 0;
	Oid			save_userid;
	int			save_sec_context;
	int			level;

	Assert(nargs <= MAX_ARGS);
	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, nargs, InvalidOid, NULL, NULL);
	*isnull = false;
	for (int i = 0; i < nargs; i++)
	{
		call->args[i] = args[i];
		if (args[i].isnull && flinfo.fn_strict)
			*isnull = true;
	}
	if (!*isnull)
	{
		result = FunctionCallInvoke(call);
		*isnull = call->isnull;
	}

	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	return result;
}

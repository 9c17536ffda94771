/*
 * kr_members.c
 *	  Telling the infra database's own tables that memberships have changed.
 *
 * app.user_tenants belongs to the extension; what an app keeps about its users,
 * public.profiles, belongs to whoever has set it up. A trigger of theirs on our
 * table would not be in a dump, and would run with the rights of whoever changes
 * a membership, a superuser's even. So the trigger is ours, and it calls
 * infra.members_changed(uuid[]), where there is one, as that function's owner:
 * in a restricted operation, so that the owner can put off nothing until the
 * caller's rights are back.
 *
 * The owner has to be in kessel_admin, so that nobody else gets to see who comes
 * and goes, or to refuse it. Called by the triggers of app.user_tenants; no
 * state. Transaction or subtransaction abort restores the user.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#define LISTENER_SCHEMA "infra"
#define LISTENER_NAME "members_changed"

PG_FUNCTION_INFO_V1(kr_members_tell);

/* infra.members_changed(uuid[]), and its owner; InvalidOid where nobody listens. */
static Oid
listener(Oid *owner)
{
	Oid			schema = get_namespace_oid(LISTENER_SCHEMA, true);
	Oid			admin = get_role_oid("kessel_admin", true);
	Oid			argument = UUIDARRAYOID;
	Oid			function = InvalidOid;
	HeapTuple	tuple;

	if (!OidIsValid(schema) || !OidIsValid(admin))
		return InvalidOid;
	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(LISTENER_NAME),
							PointerGetDatum(buildoidvector(&argument, 1)),
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

/* kessel._tell_members(user_ids): NULL stands for all users. */
Datum
kr_members_tell(PG_FUNCTION_ARGS)
{
	LOCAL_FCINFO(call, 1);
	FmgrInfo	flinfo;
	Oid			owner = InvalidOid;
	Oid			function = listener(&owner);
	Oid			save_userid;
	int			save_sec_context;
	int			level;

	if (!OidIsValid(function))
		PG_RETURN_VOID();

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(owner, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 1, InvalidOid, NULL, NULL);
	call->args[0].isnull = PG_ARGISNULL(0);
	call->args[0].value = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	if (!(flinfo.fn_strict && call->args[0].isnull))
		(void) FunctionCallInvoke(call);

	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	PG_RETURN_VOID();
}

/*
 * kr_members.c
 *	  Telling the infra database's own tables that memberships have changed.
 *
 * app.user_tenants belongs to the extension; what an app keeps about its users,
 * public.profiles, belongs to whoever has set it up. A trigger of theirs on our
 * table would not be in a dump, and would run with the rights of whoever changes
 * a membership, a superuser's even. So the trigger is ours, and calls
 * infra.members_changed(uuid[]), where there is one, as kr_infra.h says. No state.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"

#include "kr_infra.h"

PG_FUNCTION_INFO_V1(kr_members_tell);

/* kessel._tell_members(user_ids): NULL stands for all users. */
Datum
kr_members_tell(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {UUIDARRAYOID};
	Oid			owner;
	Oid			function = kr_infra_function("members_changed", lengthof(types), types, &owner);
	bool		isnull;

	if (OidIsValid(function))
		(void) kr_infra_call(function, owner, lengthof(types), fcinfo->args, &isnull);
	PG_RETURN_VOID();
}

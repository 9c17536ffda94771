/*
 * kr_expose.c
 *	  Bringing router tables up to date as the role that has exposed them, for
 *	  kessel._refresh_exposed().
 *
 * They are made by DDL, on which code of others may run, and who calls
 * kessel.migrate() may be a superuser. So it is done with that role's rights as a
 * table is maintained with its owner's: what runs cannot come back to the caller's
 * with RESET ROLE, as it could under SET ROLE.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "kr_compat.h"

PG_FUNCTION_INFO_V1(kr_expose_refresh_as);
PG_FUNCTION_INFO_V1(kr_expose_role);

/* As whom, while kr_expose_refresh_as() is at work. */
static Oid	acting = InvalidOid;

static Oid
role_to_become(const char *name)
{
	Oid			role = get_role_oid(name, false);

	if (!kr_may_become(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set role \"%s\"", name)));
	return role;
}

static void
refresh(Oid type, Datum exposed)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT kessel._refresh_exposed_one($1)", 1, &type, &exposed, NULL,
							  false, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed");
	SPI_finish();
}

/* kessel._refresh_exposed_as(role, exposed) */
Datum
kr_expose_refresh_as(PG_FUNCTION_ARGS)
{
	Oid			role = role_to_become(NameStr(*PG_GETARG_NAME(0)));
	Oid			before = acting;
	Oid			save_userid;
	int			save_sec_context;

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	PG_TRY();
	{
		acting = role;
		/* An error's subtransaction restores the user. */
		SetUserIdAndSecContext(role, save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
		refresh(get_fn_expr_argtype(fcinfo->flinfo, 1), PG_GETARG_DATUM(1));
		SetUserIdAndSecContext(save_userid, save_sec_context);
	}
	PG_FINALLY();
	{
		acting = before;
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* kessel._expose_role() */
Datum
kr_expose_role(PG_FUNCTION_ARGS)
{
	Oid			role = OidIsValid(acting) ? acting : GetOuterUserId();

	PG_RETURN_DATUM(DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(role, false))));
}

/*
 * kr_route_sql.c
 *	  SQL functions about the session's tenant and user.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/uuid.h"

#include "kr_route.h"
#include "kr_session.h"

PG_FUNCTION_INFO_V1(kr_use_tenant);
PG_FUNCTION_INFO_V1(kr_current_tenant);
PG_FUNCTION_INFO_V1(kr_current_tenant_id);
PG_FUNCTION_INFO_V1(kr_current_user_id);
PG_FUNCTION_INFO_V1(kr_caller_is_superuser);

static Datum
copy_uuid(const pg_uuid_t *uuid)
{
	pg_uuid_t  *copy = palloc(sizeof(pg_uuid_t));

	*copy = *uuid;
	return UUIDPGetDatum(copy);
}

/* kessel.use_tenant(tenant text, is_local boolean) returns uuid */
Datum
kr_use_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant;
	bool		is_local;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("neither tenant nor is_local may be null")));
	tenant = text_to_cstring(PG_GETARG_TEXT_PP(0));
	is_local = PG_GETARG_BOOL(1);

	/* If the tenant is refused, the error takes the setting back too. */
	(void) set_config_option("kessel.tenant", tenant, PGC_USERSET, PGC_S_SESSION,
							 is_local ? GUC_ACTION_LOCAL : GUC_ACTION_SET,
							 true, 0, false);
	return copy_uuid(&kr_route_entered()->tenant_id);
}

/* kessel.current_tenant() returns text */
Datum
kr_current_tenant(PG_FUNCTION_ARGS)
{
	if (kr_session_tenant() == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(kr_route_entered()->slug));
}

/* kessel.current_tenant_id() returns uuid */
Datum
kr_current_tenant_id(PG_FUNCTION_ARGS)
{
	if (kr_session_tenant() == NULL)
		PG_RETURN_NULL();
	return copy_uuid(&kr_route_entered()->tenant_id);
}

/* kessel.current_user_id() returns uuid */
Datum
kr_current_user_id(PG_FUNCTION_ARGS)
{
	pg_uuid_t	user_id;

	if (!kr_session_user_id(&user_id))
		PG_RETURN_NULL();
	return copy_uuid(&user_id);
}

/*
 * kessel._caller_is_superuser() returns boolean: asked by SECURITY DEFINER
 * functions about the role that speaks, not about their owner.
 */
Datum
kr_caller_is_superuser(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(kr_session_is_superuser());
}

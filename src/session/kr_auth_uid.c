/*
 * kr_auth_uid.c
 *	  What auth.uid() says, without a query's expression for it.
 *
 * The auth.uid() of the blueprint core takes "sub" out of a setting each time it is
 * asked, as Supabase's does. Here the same built-in functions do, once for each
 * text of the claims: the last one is kept with the user that it names. Malformed
 * claims raise the errors that auth.uid() raises. Unlike kr_session_user_id() it does
 * not ask that the claims name a tenant rightly.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "kr_session.h"

/* Longer ones are read each time. */
#define KEPT_SIZE 8192

static struct
{
	char		claims[KEPT_SIZE];	/* empty: nothing kept */
	bool		has_user;
	pg_uuid_t	user_id;
}			kept;

static bool
read_sub(const char *claims, pg_uuid_t *user_id)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "kessel auth.uid()", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	LOCAL_FCINFO(call, 2);
	Datum		sub;

	InitFunctionCallInfoData(*call, NULL, 2, DEFAULT_COLLATION_OID, NULL, NULL);
	call->args[0] = (NullableDatum) {.value = DirectFunctionCall1(jsonb_in, CStringGetDatum(claims))};
	call->args[1] = (NullableDatum) {.value = CStringGetTextDatum("sub")};
	sub = jsonb_object_field_text(call);
	if (!call->isnull)
		*user_id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(TextDatumGetCString(sub))));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
	return !call->isnull;
}

bool
kr_session_auth_uid(pg_uuid_t *user_id)
{
	const char *claims = GetConfigOption("request.jwt.claims", true, false);
	const char *sub;
	bool		has_user;

	if (claims == NULL || claims[0] == '\0')
	{
		/* What older servers make of the claims */
		sub = GetConfigOption("request.jwt.claim.sub", true, false);
		if (sub == NULL || sub[0] == '\0')
			return false;
		*user_id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(sub)));
		return true;
	}
	if (strcmp(claims, kept.claims) == 0)
	{
		*user_id = kept.user_id;
		return kept.has_user;
	}
	has_user = read_sub(claims, user_id);
	if (strlen(claims) < KEPT_SIZE)
	{
		strlcpy(kept.claims, claims, KEPT_SIZE);
		kept.has_user = has_user;
		if (has_user)
			kept.user_id = *user_id;
	}
	return has_user;
}

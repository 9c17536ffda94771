/*
 * kr_session.c
 *	  For which tenant and which user this session speaks.
 *
 * Nothing is resolved when a setting is assigned: PostgREST sets the role
 * before the claims, and a setting can be assigned outside a transaction. The
 * parsed claims are kept with the text they were parsed from, so that the
 * usual call costs one comparison.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "kr_audit.h"
#include "kr_guc.h"
#include "kr_session.h"

/* What the claims said when they were last looked at. */
typedef struct ParsedClaims
{
	char	   *text;			/* NULL: nothing parsed yet */
	bool		has_user;
	pg_uuid_t	user_id;
	char		tenant[NAMEDATALEN];	/* empty: not named */
} ParsedClaims;

static ParsedClaims claims;

bool
kr_session_parse_uuid(const char *text, pg_uuid_t *uuid)
{
	if (strlen(text) != 36)
		return false;
	for (int i = 0; i < 36; i++)
	{
		bool		dash = (i == 8 || i == 13 || i == 18 || i == 23);

		if (dash ? text[i] != '-' : strchr("0123456789abcdef", text[i]) == NULL)
			return false;
	}
	*uuid = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(text)));
	return true;
}

/* A string member of a JSON object; NULL where it is absent or no string. */
static char *
string_member(JsonbContainer *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(object, key, strlen(key),
													 &buffer);

	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
claims_error(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot use request.jwt.claims"),
			 errdetail("%s", detail),
			 errhint("The claims are a JSON object with \"sub\" (a uuid) and, where kessel.tenant is not set, \"tenant_id\".")));
}

/* jsonb_in(), with an error that says what was being read, not what stood in it. */
static Jsonb *
claims_json(const char *text)
{
	volatile Datum json = (Datum) 0;

	PG_TRY();
	{
		json = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	}
	PG_CATCH();
	{
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		claims_error("They are not JSON.");
	}
	PG_END_TRY();
	return DatumGetJsonbP(json);
}

static void
parse_claims(const char *text, ParsedClaims *parsed)
{
	Jsonb	   *json = claims_json(text);
	char	   *sub;
	char	   *tenant;

	if (!JB_ROOT_IS_OBJECT(json))
		claims_error("They are not a JSON object.");

	sub = string_member(&json->root, "sub");
	if (sub != NULL)
	{
		char	   *lower = str_tolower(sub, strlen(sub), C_COLLATION_OID);

		parsed->has_user = kr_session_parse_uuid(lower, &parsed->user_id);
		if (!parsed->has_user)
			claims_error("\"sub\" is not a uuid.");
	}

	tenant = string_member(&json->root, "tenant_id");
	if (tenant == NULL)
	{
		JsonbValue	buffer;
		JsonbValue *meta = getKeyJsonValueFromContainer(&json->root,
														"app_metadata",
														strlen("app_metadata"),
														&buffer);

		if (meta != NULL && meta->type == jbvBinary &&
			JsonContainerIsObject(meta->val.binary.data))
			tenant = string_member(meta->val.binary.data, "tenant_id");
	}
	if (tenant != NULL && tenant[0] != '\0')
	{
		if (!kr_guc_is_tenant_name(tenant))
			claims_error("\"tenant_id\" is neither a slug nor a lowercase uuid.");
		strlcpy(parsed->tenant, tenant, sizeof(parsed->tenant));
	}
}

static const ParsedClaims *
current_claims(void)
{
	const char *text = GetConfigOption("request.jwt.claims", true, false);
	ParsedClaims parsed = {0};

	if (text == NULL)
		text = "";
	if (claims.text != NULL && strcmp(claims.text, text) == 0)
		return &claims;

	if (text[0] != '\0')
	{
		MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
												   "kessel claims",
												   ALLOCSET_SMALL_SIZES);
		MemoryContext old = MemoryContextSwitchTo(work);

		parse_claims(text, &parsed);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(work);
	}
	parsed.text = MemoryContextStrdup(TopMemoryContext, text);
	if (claims.text != NULL)
		pfree(claims.text);
	claims = parsed;
	return &claims;
}

const char *
kr_session_tenant(void)
{
	const ParsedClaims *parsed;

	if (kr_guc_tenant != NULL && kr_guc_tenant[0] != '\0')
		return kr_guc_tenant;
	parsed = current_claims();
	return parsed->tenant[0] != '\0' ? parsed->tenant : NULL;
}

bool
kr_session_user_id(pg_uuid_t *user_id)
{
	const ParsedClaims *parsed = current_claims();

	if (parsed->has_user)
		*user_id = parsed->user_id;
	return parsed->has_user;
}

/*
 * For the audit, which must go on whatever stands in the claims: malformed ones
 * name nobody, and are not parsed again for each record.
 */
static bool
user_id_for_audit(pg_uuid_t *user_id)
{
	static char *malformed = NULL;
	const char *text = GetConfigOption("request.jwt.claims", true, false);
	MemoryContext caller = CurrentMemoryContext;
	volatile bool found = false;

	if (text == NULL || text[0] == '\0' || !IsTransactionState() ||
		(malformed != NULL && strcmp(malformed, text) == 0))
		return false;

	PG_TRY();
	{
		found = kr_session_user_id(user_id);
	}
	PG_CATCH();
	{
		/* Parsing takes no locks and opens nothing: there is nothing to undo. */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		if (malformed != NULL)
			pfree(malformed);
		malformed = NULL;
		malformed = MemoryContextStrdup(TopMemoryContext, text);
	}
	PG_END_TRY();
	return found;
}

void
kr_session_init(void)
{
	kr_audit_set_user_provider(user_id_for_audit);
}

Oid
kr_session_role(void)
{
	return GetOuterUserId();
}

static bool
role_is_in(Oid role, const char *group)
{
	Oid			groupid = get_role_oid(group, true);

	return OidIsValid(groupid) && has_privs_of_role(role, groupid);
}

/*
 * ANALYZE, REINDEX, REFRESH MATERIALIZED VIEW and their like run functions of a
 * table's owner, in the session of whoever maintains the table, autovacuum
 * included. That session's rights are not the owner's to use.
 */
bool
kr_session_is_superuser(void)
{
	return !InSecurityRestrictedOperation() && superuser_arg(kr_session_role());
}

bool
kr_session_is_admin(void)
{
	if (InSecurityRestrictedOperation())
		return false;
	return kr_session_is_superuser() || role_is_in(kr_session_role(), "kessel_admin");
}

bool
kr_session_enters_any_tenant(void)
{
	if (InSecurityRestrictedOperation())
		return false;
	return kr_session_is_admin() || role_is_in(kr_session_role(), "kessel_service");
}

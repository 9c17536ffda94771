/*
 * kr_vault_grants.c
 *	  Who may use and who may read which secret.
 *
 * Two privileges, each on its own: use lets the router open a secret for a
 * role's connections, and functions compute with it; reveal lets a role read
 * it. Superusers and the owner of the vault's tables have both on all.
 *
 * The router asks before each statement, so answers are cached until a grant
 * or a role changes (kr_watch.h).
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_spi.h"
#include "kr_vault_int.h"
#include "kr_watch.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_grant);
PG_FUNCTION_INFO_V1(kr_vault_sql_revoke);
PG_FUNCTION_INFO_V1(kr_vault_sql_may_reveal);

/* More answers than this are not worth keeping. */
#define MAX_CACHED_ANSWERS 10000

typedef struct AnswerKey
{
	pg_uuid_t	secret_id;
	Oid			role;
	KrPrivilege privilege;
} AnswerKey;

typedef struct Answer
{
	AnswerKey	key;
	bool		may;
} Answer;

static HTAB *answers = NULL;
static uint64 answers_generation = 0;

static const char *privilege_name(KrPrivilege privilege);
static KrPrivilege privilege_of_text(const char *text);
static bool has_all(Oid role);
static bool is_granted(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege);
static void freshen_answers(void);
static void tell_if_outside(const char *role_name);
static void get_grant_args(FunctionCallInfo fcinfo, pg_uuid_t *secret_id,
						   const char **role_name, KrPrivilege *privilege);

bool
kr_vault_may(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege)
{
	AnswerKey	key;
	Answer	   *answer;
	bool		may;

	if (superuser_arg(role))
		return true;

	memset(&key, 0, sizeof(key));
	key.secret_id = *secret_id;
	key.role = role;
	key.privilege = privilege;

	freshen_answers();
	answer = hash_search(answers, &key, HASH_FIND, NULL);
	if (answer != NULL)
		return answer->may;

	/* Read again what changes while it is being read. */
	do
	{
		freshen_answers();
		may = has_all(role) || is_granted(role, secret_id, privilege);
	} while (answers_generation != kr_watch_generation());

	answer = hash_search(answers, &key, HASH_ENTER, NULL);
	answer->may = may;
	return may;
}

void
kr_vault_demand(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege,
				const char *purpose, const char *what)
{
	KrAuditEvent event = {
		.action = "open",
		.purpose = purpose,
		.secret_id = secret_id,
		.as_role = role,
		.sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE,
		.reason = privilege == KR_PRIVILEGE_USE ? "no privilege use" : "no privilege reveal"
	};

	if (secret_id != NULL && kr_vault_may(role, secret_id, privilege))
		return;
	kr_audit_record(&event);

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to %s %s (%s)", privilege_name(privilege),
					what ? what : psprintf("secret %s", kr_vault_uuid_text(secret_id)), purpose),
			 errdetail("Role \"%s\" does not have the privilege \"%s\" on it.",
					   GetUserNameFromId(role, false), privilege_name(privilege)),
			 privilege == KR_PRIVILEGE_USE ?
			 errhint("An administrator can call vault.grant_secret().") :
			 errhint("A superuser, or an administrator who has it, can call vault.grant_secret().")));
}

void
kr_vault_grant(const pg_uuid_t *secret_id, const char *role_name, KrPrivilege privilege)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, NAMEOID, TEXTOID, NAMEOID};
	NameData	role;
	NameData	by;
	Datum		values[4];
	KrSpi		scope;

	namestrcpy(&role, role_name);
	namestrcpy(&by, GetUserNameFromId(GetUserId(), false));
	values[0] = UUIDPGetDatum(secret_id);
	values[1] = NameGetDatum(&role);
	values[2] = CStringGetTextDatum(privilege_name(privilege));
	values[3] = NameGetDatum(&by);

	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "INSERT INTO vault.secret_grants (secret_id, role_name, privilege, granted_by)"
				 " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
				 4, types, values, "    ");
	kr_spi_end(&scope);
}

/* Who has stored a secret knows it. */
void
kr_vault_grant_creator(const pg_uuid_t *secret_id)
{
	Oid			creator = GetUserId();
	const char *name = GetUserNameFromId(creator, false);

	if (superuser_arg(creator) || has_all(creator))
		return;
	kr_vault_grant(secret_id, name, KR_PRIVILEGE_USE);
	kr_vault_grant(secret_id, name, KR_PRIVILEGE_REVEAL);
}

/* vault.grant_secret(secret_id, role_name, privilege) */
Datum
kr_vault_sql_grant(PG_FUNCTION_ARGS)
{
	pg_uuid_t	secret_id;
	const char *role_name;
	KrPrivilege privilege;

	get_grant_args(fcinfo, &secret_id, &role_name, &privilege);
	if (strcmp(role_name, "public") != 0)
		(void) get_role_oid(role_name, false);

	/* Who may read it can tell it to others anyway; use tells nothing. */
	if (privilege == KR_PRIVILEGE_REVEAL)
		kr_vault_demand(GetUserId(), &secret_id, KR_PRIVILEGE_REVEAL, "grant", NULL);
	kr_vault_grant(&secret_id, role_name, privilege);
	if (privilege == KR_PRIVILEGE_REVEAL)
		tell_if_outside(role_name);
	PG_RETURN_VOID();
}

/* vault.revoke_secret(secret_id, role_name, privilege) */
Datum
kr_vault_sql_revoke(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, NAMEOID, TEXTOID};
	pg_uuid_t	secret_id;
	const char *role_name;
	KrPrivilege privilege;
	NameData	role;
	Datum		values[3];
	KrSpi		scope;
	bool		found;

	get_grant_args(fcinfo, &secret_id, &role_name, &privilege);
	namestrcpy(&role, role_name);
	values[0] = UUIDPGetDatum(&secret_id);
	values[1] = NameGetDatum(&role);
	values[2] = CStringGetTextDatum(privilege_name(privilege));

	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "DELETE FROM vault.secret_grants WHERE secret_id = $1 AND role_name = $2 AND privilege = $3",
				 3, types, values, "   ");
	found = SPI_processed > 0;
	kr_spi_end(&scope);
	PG_RETURN_BOOL(found);
}

/* vault._may_reveal(secret_id): for the view, which runs it as its caller */
Datum
kr_vault_sql_may_reveal(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(kr_vault_may(GetUserId(), PG_GETARG_UUID_P(0), KR_PRIVILEGE_REVEAL));
}

static const char *
privilege_name(KrPrivilege privilege)
{
	return privilege == KR_PRIVILEGE_USE ? "use" : "reveal";
}

static KrPrivilege
privilege_of_text(const char *text)
{
	if (strcmp(text, "use") == 0)
		return KR_PRIVILEGE_USE;
	if (strcmp(text, "reveal") == 0)
		return KR_PRIVILEGE_REVEAL;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized privilege on a secret: \"%s\"", text),
			 errhint("It is use or reveal.")));
}

/* The owner of the vault's tables can read and replace them anyway. */
static bool
has_all(Oid role)
{
	Oid			schema = get_namespace_oid("vault", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("secrets", schema) : InvalidOid;
	HeapTuple	tuple = OidIsValid(relid) ? SearchSysCache1(RELOID, ObjectIdGetDatum(relid)) : NULL;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relowner == role;
	ReleaseSysCache(tuple);
	return result;
}

static bool
is_granted(Oid role, const pg_uuid_t *secret_id, KrPrivilege privilege)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID};
	Datum		values[2];
	KrSpi		scope;
	bool		granted = false;

	values[0] = UUIDPGetDatum(secret_id);
	values[1] = CStringGetTextDatum(privilege_name(privilege));

	kr_spi_begin(&scope);
	kr_spi_read(&plan,
				"SELECT role_name::text FROM vault.secret_grants WHERE secret_id = $1 AND privilege = $2",
				2, types, values);
	for (uint64 i = 0; i < SPI_processed && !granted; i++)
	{
		const char *name = kr_spi_text(i, 1, CurrentMemoryContext);
		Oid			grantee;

		if (strcmp(name, "public") == 0)
			granted = true;
		else
		{
			grantee = get_role_oid(name, true);
			granted = OidIsValid(grantee) && has_privs_of_role(role, grantee);
		}
	}
	kr_spi_end(&scope);
	return granted;
}

static void
freshen_answers(void)
{
	uint64		generation = kr_watch_generation();
	HASHCTL		ctl;

	if (answers != NULL && answers_generation == generation &&
		hash_get_num_entries(answers) < MAX_CACHED_ANSWERS)
		return;

	if (answers != NULL)
		hash_destroy(answers);
	ctl.keysize = sizeof(AnswerKey);
	ctl.entrysize = sizeof(Answer);
	answers = hash_create("kessel vault grants", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	answers_generation = generation;
}

/* To call the vault's functions takes more than the grant. */
static void
tell_if_outside(const char *role_name)
{
	Oid			schema = get_namespace_oid("vault", true);

	if (strcmp(role_name, "public") == 0 || !OidIsValid(schema) ||
		kr_may_use_schema(schema, get_role_oid(role_name, false)))
		return;
	ereport(NOTICE,
			(errmsg("role \"%s\" cannot call the vault's functions yet", role_name),
			 errhint("Make it a member of kessel_user, kessel_service or kessel_admin.")));
}

static void
get_grant_args(FunctionCallInfo fcinfo, pg_uuid_t *secret_id, const char **role_name,
			   KrPrivilege *privilege)
{
	*secret_id = *PG_GETARG_UUID_P(0);
	*role_name = NameStr(*PG_GETARG_NAME(1));
	*privilege = privilege_of_text(text_to_cstring(PG_GETARG_TEXT_PP(2)));
}

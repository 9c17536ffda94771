/*
 * kr_audit_who.c
 *	  Who does what is recorded: roles, user, client.
 *
 * Names of roles and of the database are looked up when a record begins, in a
 * transaction, and kept until pg_authid changes: a record can be written where
 * no catalog can be read. What cannot be had is left empty.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <netdb.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "common/ip.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "kr_audit_int.h"

typedef struct RoleName
{
	Oid			role;			/* InvalidOid: nothing kept */
	char		name[NAMEDATALEN];
} RoleName;

static KrAuditUserProvider user_provider = NULL;
static RoleName current_role_name;
static RoleName login_role_name;
static RoleName as_role_name;
static char database_name[NAMEDATALEN];
static char client_addr[KR_AUDIT_ADDR];
static int	known_for = 0;		/* the process that client_addr is right for */
static bool listens_to_roles = false;

static Oid	role_of_record(void);
static Oid	other_than(Oid role, Oid as_role);
static const char *role_name(RoleName *kept, Oid role);
static void make_valid(char *name);
static void roles_changed(Datum arg, int cacheid, uint32 hashvalue);
static void find_client(void);

void
kr_audit_set_user_provider(KrAuditUserProvider provider)
{
	user_provider = provider;
}

void
kr_audit_who(KrAuditRecord *record, Oid as_role)
{
	if (known_for != MyProcPid)
		find_client();

	record->at = GetCurrentTimestamp();
	record->pid = MyProcPid;
	record->role = role_of_record();
	strlcpy(record->role_name, role_name(&current_role_name, record->role), NAMEDATALEN);
	strlcpy(record->login_role, role_name(&login_role_name, GetAuthenticatedUserId()), NAMEDATALEN);
	record->as_role = other_than(record->role, as_role);
	strlcpy(record->as_role_name,
			OidIsValid(record->as_role) ? role_name(&as_role_name, record->as_role) : "", NAMEDATALEN);
	record->has_user = user_provider != NULL && user_provider(&record->user_id);
	strlcpy(record->application_name, application_name ? application_name : "", NAMEDATALEN);
	strlcpy(record->client_addr, client_addr, KR_AUDIT_ADDR);
	(void) kr_audit_database();
}

bool
kr_audit_same_who(const KrAuditRecord *record, Oid as_role)
{
	pg_uuid_t	user_id;
	bool		has_user;

	if (record->role != role_of_record() ||
		record->as_role != other_than(record->role, as_role))
		return false;
	has_user = user_provider != NULL && user_provider(&user_id);
	return has_user == record->has_user &&
		(!has_user || memcmp(user_id.data, record->user_id.data, UUID_LEN) == 0);
}

/*
 * That of SET ROLE or of the login; a SECURITY DEFINER function changes neither.
 * But what runs while a table is maintained (ANALYZE, REINDEX, autovacuum) is its
 * owner's doing, in a session of somebody else's.
 */
static Oid
role_of_record(void)
{
	return InSecurityRestrictedOperation() ? GetUserId() : GetOuterUserId();
}

/* The owner of a SECURITY DEFINER function, mostly; InvalidOid: no other. */
static Oid
other_than(Oid role, Oid as_role)
{
	return as_role == role ? InvalidOid : as_role;
}

/* Its name cannot change while we are connected to it. */
const char *
kr_audit_database(void)
{
	if (database_name[0] == '\0' && IsTransactionState())
	{
		char	   *name = get_database_name(MyDatabaseId);

		if (name != NULL)
		{
			strlcpy(database_name, name, NAMEDATALEN);
			make_valid(database_name);
			pfree(name);
		}
	}
	return database_name;
}

static const char *
role_name(RoleName *kept, Oid role)
{
	char	   *name;

	if (kept->role == role)
		return kept->name;
	if (!IsTransactionState())
		return "";

	if (!listens_to_roles)
	{
		CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
		listens_to_roles = true;
	}
	name = GetUserNameFromId(role, true);
	if (name == NULL)
		return "";
	strlcpy(kept->name, name, NAMEDATALEN);
	make_valid(kept->name);
	kept->role = role;
	pfree(name);
	return kept->name;
}

/*
 * Names of the cluster's objects may have been made in a database of another
 * encoding. In app.audit_log such a name would make a dump that cannot be
 * restored.
 */
static void
make_valid(char *name)
{
	if (pg_verifymbstr(name, strlen(name), true))
		return;
	for (char *p = name; *p != '\0'; p++)
	{
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	}
}

static void
roles_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	current_role_name.role = InvalidOid;
	login_role_name.role = InvalidOid;
	as_role_name.role = InvalidOid;
}

/*
 * Empty for a Unix socket and for processes that serve no client. As the
 * statistics have it: MyProcPort's header wants that of GSSAPI.
 */
static void
find_client(void)
{
	const SockAddr *peer = MyBEEntry ? &MyBEEntry->st_clientaddr : NULL;

	known_for = MyProcPid;
	client_addr[0] = '\0';
	if (peer == NULL ||
		(peer->addr.ss_family != AF_INET && peer->addr.ss_family != AF_INET6))
		return;
	if (pg_getnameinfo_all(&peer->addr, peer->salen, client_addr, sizeof(client_addr),
						   NULL, 0, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		client_addr[0] = '\0';
	/* The type inet knows no zone. */
	client_addr[strcspn(client_addr, "%")] = '\0';
}

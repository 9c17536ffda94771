/*
 * kr_guc.c
 *	  All settings of kessel_router, in alphabetical order.
 *
 * Called once from _PG_init. The check hooks are pure: they look at the value
 * alone, so that a value is as valid in postgresql.conf and in ALTER ROLE as
 * it is in a session, and whether or not the library was loaded first. What a
 * value means (does the tenant exist, can the key be read) is found out when
 * it is used.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_guc.h"

/* Longest slug: what PostgreSQL takes for an identifier. */
#define KR_SLUG_MAX 63

/* Longest name of an environment variable; shorter than any key. */
#define KR_VARIABLE_MAX 40

int			kr_guc_alert_failures = 20;
int			kr_guc_alert_reveals = 100;
int			kr_guc_audit_buffer_size = 8192;
int			kr_guc_connect_timeout = 5;
int			kr_guc_connection_idle_timeout = 600;
bool		kr_guc_cross_tenant_writes = false;
bool		kr_guc_require_permissions = false;
int			kr_guc_fleet_connections_per_host = 16;
int			kr_guc_max_idle_connections = 32;
char	   *kr_guc_root_key_command = NULL;
char	   *kr_guc_root_key_environment = NULL;
char	   *kr_guc_root_key_file = NULL;
int			kr_guc_root_key_timeout = 10;
int			kr_guc_secret_versions = 10;
char	   *kr_guc_tenant = NULL;

static bool check_variable_name(char **newval, void **extra, GucSource source);
static bool check_tenant(char **newval, void **extra, GucSource source);

/*
 * What was set before the library is loaded waits for that. Where it cannot be
 * applied then, PostgreSQL warns, and goes on with the default; but one that
 * forbids something must not get lost so. There are two such cases:
 *
 * - During a parallel operation nothing can be set.
 * - The options of a connection come before what ALTER DATABASE and ALTER ROLE
 *   say, and hide it, though their sender may not set the parameter.
 *
 * Whoever needs the library then gets an error, each time: one that has raised is
 * not loaded. In shared_preload_libraries it knows its settings before either.
 */
static const char *lost_setting = NULL;

static void
raise_lost_setting(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("parameter \"%s\" cannot be set in the options of a connection", lost_setting),
			 errhint("Connect without it.")));
}

/* Names of what waits and came in the connection's options. */
static List *
waiting_settings(void)
{
	struct config_generic **variables;
	List	   *names = NIL;
	int			count;

	variables = kr_guc_variables(&count);
	for (int i = 0; i < count; i++)
	{
		if (pg_strncasecmp(variables[i]->name, "kessel.", strlen("kessel.")) != 0)
			continue;
		if (IsInParallelMode())
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
					 errmsg("kessel_router cannot be loaded during a parallel operation"),
					 errdetail("\"%s\" was set before, and would be ignored.", variables[i]->name),
					 errhint("Name it in session_preload_libraries or shared_preload_libraries.")));
		if (variables[i]->reset_source == PGC_S_CLIENT)
			names = lappend(names, pstrdup(variables[i]->name));
	}
	return names;
}

static void
check_settings(List *names)
{
	struct config_generic **variables;
	int			count;
	ListCell   *cell;

	variables = kr_guc_variables(&count);
	foreach(cell, names)
	{
		for (int i = 0; i < count; i++)
		{
			if (pg_strcasecmp(variables[i]->name, lfirst(cell)) == 0 &&
				variables[i]->context != PGC_USERSET &&
				variables[i]->reset_source != PGC_S_CLIENT)
				lost_setting = variables[i]->name;
		}
	}
	if (lost_setting != NULL)
		raise_lost_setting();
}

void
kr_guc_init(void)
{
	List	   *waiting;

	if (lost_setting != NULL)
		raise_lost_setting();
	waiting = waiting_settings();

	DefineCustomIntVariable("kessel.alert_failures",
							"Sets how many failures to open a secret within a minute, of one role, raise an alert.",
							"An alert when there are more. 0 turns it off.",
							&kr_guc_alert_failures,
							20,
							0,
							INT_MAX,
							PGC_SIGHUP,
							0,
							NULL,
							NULL,
							NULL);

	DefineCustomIntVariable("kessel.alert_reveals",
							"Sets how many secrets revealed within a minute, to one role, raise an alert.",
							"An alert when there are more. 0 turns it off.",
							&kr_guc_alert_reveals,
							100,
							0,
							INT_MAX,
							PGC_SIGHUP,
							0,
							NULL,
							NULL,
							NULL);

	/*
	 * One database may use three quarters of it: 24,000 single records, or what
	 * one query leaves that reads 100,000 secrets through a view. Where the
	 * library is not preloaded, there is no such memory and the setting, which
	 * may stand in postgresql.conf all the same, means nothing; then it must not
	 * be PGC_POSTMASTER.
	 */
	DefineCustomIntVariable("kessel.audit_buffer_size",
							"Sets the size of the shared memory through which audit records reach app.audit_log.",
							"0 leaves them in the server's log only.",
							&kr_guc_audit_buffer_size,
							8192,
							0,
							1024 * 1024,
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL,
							NULL,
							NULL);

	DefineCustomIntVariable("kessel.connect_timeout",
							"Sets the longest time to wait for a connection to a data source.",
							NULL,
							&kr_guc_connect_timeout,
							5,
							1,
							600,
							PGC_USERSET,
							GUC_UNIT_S,
							NULL,
							NULL,
							NULL);

	DefineCustomIntVariable("kessel.connection_idle_timeout",
							"Sets how long a connection to a data source is kept that nobody uses.",
							"0 keeps it. For data sources from PostgreSQL 14 on.",
							&kr_guc_connection_idle_timeout,
							600,
							0,
							86400,
							PGC_SUSET,
							GUC_UNIT_S,
							NULL,
							NULL,
							NULL);

	DefineCustomBoolVariable("kessel.cross_tenant_writes",
							 "Lets one transaction write for several tenants or in several data sources.",
							 "They commit one after the other: if one fails, those before it stay committed.",
							 &kr_guc_cross_tenant_writes,
							 false,
							 PGC_USERSET,
							 0,
							 NULL,
							 NULL,
							 NULL);

	DefineCustomIntVariable("kessel.fleet_connections_per_host",
							"Sets how many connections a call of kessel.fleet_query() and the like has to one host and port at once.",
							NULL,
							&kr_guc_fleet_connections_per_host,
							16,
							1,
							1000,
							PGC_SUSET,
							0,
							NULL,
							NULL,
							NULL);

	DefineCustomIntVariable("kessel.max_idle_connections",
							"Sets how many connections to data sources a session keeps between transactions.",
							"Those that were not used for the longest time are closed.",
							&kr_guc_max_idle_connections,
							32,
							0,
							1000,
							PGC_SUSET,
							0,
							NULL,
							NULL,
							NULL);

	DefineCustomBoolVariable("kessel.require_permissions",
							 "Lets public.role_permissions decide which router tables a user may read or write.",
							 "On top of the privileges of the session's role.",
							 &kr_guc_require_permissions,
							 false,
							 PGC_SUSET,
							 0,
							 NULL,
							 NULL,
							 NULL);

	DefineCustomStringVariable("kessel.root_key_command",
							   "Sets the shell command that prints the vault's root keys.",
							   "One a line, the one that wraps first. Give only one of the settings kessel.root_key_*.",
							   &kr_guc_root_key_command,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   NULL,
							   NULL,
							   NULL);

	DefineCustomStringVariable("kessel.root_key_environment",
							   "Names the variable in the server's environment that holds the vault's root keys.",
							   "Separated by blanks, the one that wraps first. A file or a command keeps them better.",
							   &kr_guc_root_key_environment,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   check_variable_name,
							   NULL,
							   NULL);

	DefineCustomStringVariable("kessel.root_key_file",
							   "Sets the file that holds the vault's root keys.",
							   "32 bytes each, in hexadecimal or in base64, one a line, the one that wraps first; only the server's user can read it.",
							   &kr_guc_root_key_file,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   NULL,
							   NULL,
							   NULL);

	DefineCustomIntVariable("kessel.root_key_timeout",
							"Sets the longest time that kessel.root_key_command may run.",
							NULL,
							&kr_guc_root_key_timeout,
							10,
							1,
							600,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL,
							NULL,
							NULL);

	DefineCustomIntVariable("kessel.secret_versions",
							"Sets how many former versions of each secret the vault keeps.",
							"They can be listed in vault.secret_versions and rolled back to.",
							&kr_guc_secret_versions,
							10,
							0,
							1000,
							PGC_SUSET,
							0,
							NULL,
							NULL,
							NULL);

	DefineCustomStringVariable("kessel.tenant",
							   "Sets the tenant that this session works for.",
							   "A slug or a uuid in lower case; empty leaves it to the claims of the request.",
							   &kr_guc_tenant,
							   "",
							   PGC_USERSET,
							   GUC_REPORT,
							   check_tenant,
							   NULL,
							   NULL);

	MarkGUCPrefixReserved("kessel");
	check_settings(waiting);
}

/*
 * Nothing but [a-z0-9][a-z0-9-]{0,62}, which covers a lower-case uuid: a
 * pooler that carries the value from session to session compares without case
 * and drops what is long, so no other form is safe behind one.
 */
bool
kr_guc_is_tenant_name(const char *value)
{
	size_t		len = strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return value[len] == '\0' && len >= 1 && len <= KR_SLUG_MAX && value[0] != '-';
}

/* The name of a variable, not its value: what is set here can be read. */
static bool
check_variable_name(char **newval, void **extra, GucSource source)
{
	const char *value = *newval;
	size_t		len;

	if (value == NULL || value[0] == '\0')
		return true;
	len = strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789");
	if (value[len] == '\0' && len <= KR_VARIABLE_MAX && strchr("0123456789", value[0]) == NULL)
		return true;

	GUC_check_errcode(ERRCODE_INVALID_PARAMETER_VALUE);
	GUC_check_errdetail("It takes the name of an environment variable, not a key.");
	GUC_check_errhint("Use up to %d letters, digits and underscores, such as KESSEL_ROOT_KEYS.",
					  KR_VARIABLE_MAX);
	return false;
}

static bool
check_tenant(char **newval, void **extra, GucSource source)
{
	const char *value = *newval;

	if (value == NULL || value[0] == '\0' || kr_guc_is_tenant_name(value))
		return true;

	GUC_check_errcode(ERRCODE_INVALID_PARAMETER_VALUE);
	GUC_check_errmsg("invalid value for parameter \"kessel.tenant\": \"%s\"", kr_error_name(value));
	GUC_check_errdetail("A tenant is named by its slug or its uuid, in lower case.");
	GUC_check_errhint("Use 1 to %d letters a-z, digits and hyphens, beginning with a letter or a digit.",
					  KR_SLUG_MAX);
	return false;
}

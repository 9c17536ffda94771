/*
 * kr_remote_connect.c
 *	  Opening one libpq connection to a data source.
 *
 * Non-blocking and interruptible, bounded by kessel.connect_timeout. The
 * password is opened just before, handed to libpq and wiped here; libpq's copy is
 * when the connection is made. Where the data source refuses it while another one
 * is pending (kr_credential.h), that is tried.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sodium.h>
#include <sys/socket.h>

#include "commands/dbcommands.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/postmaster.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "kr_credential.h"
#include "kr_error.h"
#include "kr_guc.h"
#include "kr_remote_internal.h"
#include "kr_session.h"
#include "kr_vault.h"

/* Those that are set below, and the terminator. */
#define FIXED_OPTIONS 11

static const char *
option(const KrSource *source, const char *keyword)
{
	for (int i = 0; i < source->noptions; i++)
	{
		if (strcmp(source->keywords[i], keyword) == 0)
			return source->values[i];
	}
	return NULL;
}

static void
refuse_local(const KrSource *source, const char *what)
{
	ereport(ERROR,
			(errcode(KR_ERR_NO_ROUTE),
			 errmsg("data source \"%s\" leads to %s", source->name, what),
			 errdetail("This is allowed only to a data source with the option allow_local."),
			 errhint("A superuser can set it: kessel.alter_data_source('%s', options => '{\"allow_local\": true}').",
					 source->name)));
}

static void
check_source(const KrSource *source, const char *purpose)
{
	const char *host = option(source, "host");

	/* Who may use it was decided by the user mapping. */
	if (OidIsValid(source->serverid))
		return;
	if (source->username == NULL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" has no %s credential", source->name, purpose),
				 errhint("An administrator can set it with kessel.set_credential('%s', …).",
						 source->name)));
	if (source->password_required && !source->has_secret)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" has no password", source->name),
				 errhint("Set one with kessel.set_credential(), or, as a superuser, the option password_required to false.")));
	if (!source->allow_local && option(source, "hostaddr") == NULL &&
		(host == NULL || host[0] == '/' || host[0] == '@' || host[0] == '\0'))
		refuse_local(source, "a unix socket");
}

/* An address of the loopback's or of another interface of this machine. */
static bool
is_own_address(const struct sockaddr *address)
{
	const struct in_addr *v4 = NULL;
	const struct in6_addr *v6 = NULL;
	struct ifaddrs *interfaces;
	bool		found = false;

	if (address->sa_family == AF_INET)
		v4 = &((const struct sockaddr_in *) address)->sin_addr;
	else
	{
		v6 = &((const struct sockaddr_in6 *) address)->sin6_addr;
		if (IN6_IS_ADDR_LOOPBACK(v6))
			return true;
		if (IN6_IS_ADDR_V4MAPPED(v6))
			v4 = (const struct in_addr *) &v6->s6_addr[12];
	}
	if (v4 != NULL && ntohl(v4->s_addr) >> 24 == IN_LOOPBACKNET)
		return true;

	if (getifaddrs(&interfaces) != 0)
		return false;
	for (struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next)
	{
		if (i->ifa_addr == NULL)
			continue;
		if (v4 != NULL && i->ifa_addr->sa_family == AF_INET)
			found = memcmp(&((struct sockaddr_in *) i->ifa_addr)->sin_addr,
						   v4, sizeof(*v4)) == 0;
		else if (v4 == NULL && i->ifa_addr->sa_family == AF_INET6)
			found = memcmp(&((struct sockaddr_in6 *) i->ifa_addr)->sin6_addr,
						   v6, sizeof(*v6)) == 0;
	}
	freeifaddrs(interfaces);
	return found;
}

/*
 * The peer is a unix socket, or is on this machine and listens on this server's
 * own port. It may have another address than our end: 127.0.0.2 has.
 */
bool
kr_remote_leads_here(int fd)
{
	struct sockaddr_storage peer;
	socklen_t	peerlen = sizeof(peer);

	if (getpeername(fd, (struct sockaddr *) &peer, &peerlen) != 0)
		return false;

	switch (peer.ss_family)
	{
		case AF_UNIX:
			return true;
		case AF_INET:
			return ntohs(((struct sockaddr_in *) &peer)->sin_port) == PostPortNumber &&
				is_own_address((struct sockaddr *) &peer);
		case AF_INET6:
			return ntohs(((struct sockaddr_in6 *) &peer)->sin6_port) == PostPortNumber &&
				is_own_address((struct sockaddr *) &peer);
		default:
			return false;
	}
}

/* Seconds; a server's connect_timeout means what it means to libpq, but for ever. */
static int
connect_timeout(const KrSource *source)
{
	const char *value = OidIsValid(source->serverid) ? option(source, "connect_timeout") : NULL;
	int			seconds = value ? atoi(value) : 0;

	return seconds > 0 ? Max(seconds, 2) : kr_guc_connect_timeout;
}

void
kr_remote_raise_timeout(const KrSource *source)
{
	if (OidIsValid(source->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"", source->name),
				 errdetail("It did not answer within %d s.", connect_timeout(source)),
				 errhint("The server's option connect_timeout and the setting kessel.connect_timeout say how long to wait.")));
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to data source \"%s\"", source->name),
			 errdetail("It did not answer within kessel.connect_timeout (%d s).",
					   kr_guc_connect_timeout),
			 errhint("kessel.test_data_source('%s') shows to an administrator how far it gets.",
					 source->name)));
}

/*
 * Where the password was not asked for, it was something of the server's own
 * that opened the connection. For one that is there already, too: a user mapping
 * for PUBLIC is that of superusers and others.
 */
void
kr_remote_check_password(PGconn *pg, const KrSource *source)
{
	if (!source->password_required || PQconnectionUsedPassword(pg))
		return;
	if (OidIsValid(source->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("Non-superuser cannot connect if the server does not request a password."),
				 errhint("Target server's authentication method must be changed or password_required=false set in the user mapping attributes.")));
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("data source \"%s\" did not ask for the password", source->name),
			 errdetail("Anyone could connect there as this user."),
			 errhint("Make it ask for a password, or, as a superuser, set the option password_required to false.")));
}

/* After each step: libpq may go on to another host or address. */
void
kr_remote_check_where(PGconn *pg, const KrSource *source, PostgresPollingStatusType status)
{
	if (!source->allow_local && status != PGRES_POLLING_FAILED &&
		PQstatus(pg) != CONNECTION_STARTED && kr_remote_leads_here(PQsocket(pg)))
		refuse_local(source, "this very server");
}

/* malloc'ed */
typedef struct PollJob
{
	PGconn	   *pg;
	PostgresPollingStatusType status;
} PollJob;

static void
poll_connection(void *data)
{
	PollJob    *job = data;

	job->status = PQconnectPoll(job->pg);
}

static void
finish_left_behind(void *data)
{
	PollJob    *job = data;

	PQfinish(job->pg);
	free(job);
}

/*
 * How often the password is hashed is what the server asks for, up to 2^31 times.
 */
bool
kr_remote_poll(PGconn *volatile *pg, TimestampTz deadline,
			   PostgresPollingStatusType *status)
{
	PollJob    *job = malloc(sizeof(PollJob));

	*status = PGRES_POLLING_FAILED;
	if (job == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	job->pg = *pg;
	*pg = NULL;
	switch (kr_thread_run(poll_connection, finish_left_behind, job, deadline, true))
	{
		case KR_THREAD_LEFT_BEHIND:
			return false;
		case KR_THREAD_NOT_STARTED:
			*pg = job->pg;
			free(job);
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not start a thread to connect with"),
					 errhint("Earlier attempts to connect are still busy in this session, or the operating system has no thread, file descriptor or memory left.")));
			break;
		case KR_THREAD_FINISHED:
			break;
	}
	*pg = job->pg;
	*status = job->status;
	free(job);
	return true;
}

/*
 * Drive the connection to its end. False where libpq has failed, which *pg tells
 * more of; anything else that is wrong is raised.
 */
static bool
finish_connecting(PGconn *volatile *pg, const KrSource *source, TimestampTz deadline)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (PQstatus(*pg) == CONNECTION_BAD)
		return false;

	while (status != PGRES_POLLING_OK)
	{
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT;
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc;

		if (status == PGRES_POLLING_FAILED)
			return false;
		if (left <= 0)
			kr_remote_raise_timeout(source);

		events |= status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		rc = WaitLatchOrSocket(MyLatch, events, PQsocket(*pg), left, PG_WAIT_EXTENSION);
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if ((rc & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)) == 0)
			continue;

		if (!kr_remote_poll(pg, deadline, &status))
			kr_remote_raise_timeout(source);
		kr_remote_check_where(*pg, source, status);
	}

	kr_remote_check_password(*pg, source);
	return true;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* %a %c %C %d %p %u and %% as in log_line_prefix; what else follows % is dropped. */
static const char *
expand_application_name(const char *template)
{
	StringInfoData name;

	initStringInfo(&name);
	for (const char *at = template; *at != '\0'; at++)
	{
		if (*at != '%')
		{
			appendStringInfoChar(&name, *at);
			continue;
		}
		switch (*++at)
		{
			case '\0':
				return name.data;
			case '%':
				appendStringInfoChar(&name, '%');
				break;
			case 'a':
				appendStringInfoString(&name, application_name);
				break;
			case 'c':
				appendStringInfo(&name, "%lx.%x", (long) MyStartTime, MyProcPid);
				break;
			case 'C':
				appendStringInfoString(&name, cluster_name);
				break;
			case 'd':
				appendStringInfoString(&name, get_database_name(MyDatabaseId));
				break;
			case 'p':
				appendStringInfo(&name, "%d", MyProcPid);
				break;
			case 'u':
				appendStringInfoString(&name, GetUserNameFromId(GetAuthenticatedUserId(), false));
				break;
			default:
				break;
		}
	}
	return name.data;
}

/*
 * application_name as postgres_fdw sets it: its setting, else the server's
 * option, with escapes replaced; what then is empty is as if not given.
 */
static const char *
application_name_of(const KrSource *source)
{
	const char *setting = GetConfigOption("postgres_fdw.application_name", true, false);
	const char *templates[2] = {setting, option(source, "application_name")};

	for (int i = 0; i < lengthof(templates); i++)
	{
		const char *name = templates[i] ? expand_application_name(templates[i]) : "";

		if (name[0] != '\0')
			return name;
	}
	return NULL;
}

/* What libpq is told; of a keyword given twice the last one counts. */
typedef struct ConnectOptions
{
	const char **keywords;
	const char **values;
	int			count;
} ConnectOptions;

static void
tell(ConnectOptions *options, const char *keyword, const char *value)
{
	options->keywords[options->count] = keyword;
	options->values[options->count++] = value;
}

/* All but the password. */
static void
tell_options(ConnectOptions *options, const KrSource *source)
{
	bool		is_server = OidIsValid(source->serverid);

	tell(options, is_server ? "fallback_application_name" : "application_name",
		 is_server ? "kessel_fdw" : "kessel_router");
	if (!is_server)
		tell(options, "gssencmode", "disable");
	/* A peer that is gone without a word is noticed within a minute. */
	tell(options, "keepalives_idle", "30");
	tell(options, "keepalives_interval", "10");
	tell(options, "keepalives_count", "3");
	tell(options, "tcp_user_timeout", "60000");
	for (int i = 0; i < source->noptions; i++)
		tell(options, source->keywords[i], source->values[i]);
	tell(options, "client_encoding", GetDatabaseEncodingName());
	if (is_server)
		tell(options, "application_name", application_name_of(source));
	tell(options, "user", source->username);
}

static PGconn *
start(const ConnectOptions *options, const KrSource *source)
{
	PGconn	   *pg;

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not connect to data source \"%s\"", source->name),
				 errdetail("There are too many open files in this session."),
				 errhint("Raise max_files_per_process, or use fewer data sources in a session.")));
	pg = PQconnectStartParams(options->keywords, options->values, false);
	if (pg == NULL)
		ReleaseExternalFD();
	return pg;
}

/*
 * Begin to connect: open the credential and hand it to libpq, which looks up the
 * host and sends the first packet. The caller drives it on and ends with
 * kr_remote_disconnect(). secret_id is NULL for the source's own. purpose tells
 * which credential is meant, opened_for what the audit is told.
 */
PGconn *
kr_remote_start(const KrSource *source, const char *purpose, const pg_uuid_t *secret_id,
				const char *opened_for)
{
	ConnectOptions options = {
		.keywords = palloc(sizeof(char *) * (source->noptions + FIXED_OPTIONS)),
		.values = palloc(sizeof(char *) * (source->noptions + FIXED_OPTIONS))
	};
	KrSecret   *password = NULL;
	PGconn	   *pg;

	check_source(source, purpose);
	tell_options(&options, source);
	if (source->has_secret)
	{
		password = kr_vault_open(secret_id ? secret_id : &source->secret_id, opened_for, InvalidOid);
		tell(&options, "password", password->value);
	}
	else if (source->password != NULL)
		tell(&options, "password", source->password);
	tell(&options, NULL, NULL);

	pg = start(&options, source);
	kr_vault_close(password);
	if (pg == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("libpq could not make a connection object.")));

	if (!OidIsValid(source->serverid))
		PQsetErrorVerbosity(pg, PQERRORS_VERBOSE);
	PQsetNoticeReceiver(pg, ignore_notice, NULL);
	pfree(options.keywords);
	pfree(options.values);
	return pg;
}

/* The hosts of a source, where there may be a name among them; else NULL. */
const char *
kr_remote_name_to_look_up(const KrSource *source)
{
	const char *hosts = option(source, "host");

	if (hosts == NULL || option(source, "hostaddr") != NULL ||
		strspn(hosts, "0123456789.:") == strlen(hosts))
		return NULL;
	return hosts;
}

/* No other one is tried, and who listens there is not looked up. */
bool
kr_remote_has_one_host(const KrSource *source)
{
	static const char *const keywords[] = {"host", "hostaddr"};

	for (int i = 0; i < lengthof(keywords); i++)
	{
		const char *value = option(source, keywords[i]);

		if (value != NULL && strchr(value, ',') != NULL)
			return false;
	}
	return option(source, "requirepeer") == NULL;
}

void
kr_remote_raise_no_address(const KrSource *source, const char *hosts, const char *reason)
{
	if (OidIsValid(source->serverid))
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"", source->name),
				 errdetail("No address is known for \"%s\": %s", hosts, reason)));
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to data source \"%s\"", source->name),
			 kr_session_is_admin() ?
			 errdetail("No address is known for \"%s\": %s", hosts, reason) :
			 errdetail_log("No address is known for \"%s\": %s", hosts, reason),
			 errhint("kessel.test_data_source('%s') shows to an administrator how far it gets.",
					 source->name)));
}

/*
 * libpq looks names up without a bound. A name server that does not answer is
 * found out here first, where the waiting is bounded and interruptible.
 */
static void
check_names(const KrSource *source, TimestampTz deadline)
{
	const char *hosts = kr_remote_name_to_look_up(source);
	const char *reason = NULL;
	char	   *rest;
	char	   *host;

	if (hosts == NULL)
		return;
	rest = pstrdup(hosts);
	while ((host = strsep(&rest, ",")) != NULL)
	{
		if (host[0] == '/' || host[0] == '@' || host[0] == '\0' ||
			kr_remote_resolve(host, deadline, &reason) != NULL)
			return;
	}
	kr_remote_raise_no_address(source, hosts, reason);
}

/*
 * libpq keeps the password for PQreset(), which is not called here. Another copy,
 * in the state of its SCRAM exchange, lives as long as the connection and cannot
 * be reached.
 */
void
kr_remote_forget_password(PGconn *pg)
{
	char	   *password = PQpass(pg);

	if (password != NULL)
		sodium_memzero(password, strlen(password));
}

static PGconn *
try_connecting(const KrSource *source, const char *purpose, const pg_uuid_t *secret_id,
			   TimestampTz deadline)
{
	PGconn	   *volatile pg = kr_remote_start(source, purpose, secret_id,
										   strcmp(purpose, "runtime") == 0 ? "route" : purpose);

	PG_TRY();
	{
		if (finish_connecting(&pg, source, deadline))
			PQsetErrorVerbosity(pg, PQERRORS_DEFAULT);
		kr_remote_forget_password(pg);
	}
	PG_CATCH();
	{
		kr_remote_disconnect(pg);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return pg;
}

TimestampTz
kr_remote_connect_deadline(const KrSource *source)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), connect_timeout(source) * 1000L);
}

PGconn *
kr_remote_try(const KrSource *source, const char *purpose, const pg_uuid_t *secret_id)
{
	TimestampTz deadline = kr_remote_connect_deadline(source);

	check_source(source, purpose);
	check_names(source, deadline);
	return try_connecting(source, purpose, secret_id, deadline);
}

bool
kr_remote_next_secret(const KrSource *source, KrCredentialState *tried, pg_uuid_t *secret_id)
{
	KrCredentialState now = kr_credential_state(&source->id, &source->secret_id);

	if (now.has_pending &&
		(!tried->has_pending ||
		 memcmp(&now.pending_id, &tried->pending_id, sizeof(pg_uuid_t)) != 0))
	{
		*secret_id = now.pending_id;
		tried->has_pending = true;
		tried->pending_id = now.pending_id;
		return true;
	}
	*secret_id = source->secret_id;
	if (now.version == tried->version)
		return false;
	tried->version = now.version;
	return true;
}

/*
 * The password was refused. While it is being changed, and after that was
 * interrupted, it may be the pending one that the data source knows; or the
 * change was completed after we had opened the current one. What is sealed is
 * looked at anew after each attempt, so one that fails was made under it.
 */
static PGconn *
retry_refused(PGconn *refused, const KrSource *source, const char *purpose,
			  TimestampTz deadline)
{
	KrCredentialState tried = {.version = source->secret_version};
	PGconn	   *volatile pg = refused;

	PG_TRY();
	{
		pg_uuid_t	next;

		while (PQstatus(pg) != CONNECTION_OK && kr_remote_refused_login(pg) &&
			   kr_remote_next_secret(source, &tried, &next))
		{
			kr_remote_disconnect(pg);
			pg = NULL;
			pg = try_connecting(source, purpose, &next, deadline);
		}
	}
	PG_CATCH();
	{
		if (pg != NULL)
			kr_remote_disconnect(pg);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return pg;
}

PGconn *
kr_remote_connect(const KrSource *source, const char *purpose)
{
	TimestampTz deadline = kr_remote_connect_deadline(source);
	PGconn	   *pg;

	check_source(source, purpose);
	check_names(source, deadline);
	pg = try_connecting(source, purpose, NULL, deadline);
	if (PQstatus(pg) != CONNECTION_OK && source->has_secret && !OidIsValid(source->serverid))
		pg = retry_refused(pg, source, purpose, deadline);
	if (PQstatus(pg) != CONNECTION_OK)
	{
		PG_TRY();
		{
			kr_remote_raise_connect(pg, source);
		}
		PG_FINALLY();
		{
			kr_remote_disconnect(pg);
		}
		PG_END_TRY();
	}
	return pg;
}

void
kr_remote_disconnect(PGconn *pg)
{
	PQfinish(pg);
	ReleaseExternalFD();
}

/*
 * kr_remote_probe.c
 *	  Connecting to a data source one step at a time and reporting each:
 *	  the part of kessel.test_data_source() that SQL cannot do.
 *
 * The connection is the probe's own and ends with it. What fails on the way is
 * a row of the result, not an error; errors are raised only for what keeps the
 * probe from starting (no credential, vault sealed) and for cancellation. All
 * of it together takes at most kessel.connect_timeout, but for libpq's own look-up
 * of a name that has just been looked up here.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "kr_guc.h"
#include "kr_remote_internal.h"

/* What the agent and import_tables() are written for. */
#define OLDEST_SERVER 120000

#define NO_TIME (-1.0)

PG_FUNCTION_INFO_V1(kr_remote_probe);

typedef enum Phase
{
	PHASE_TCP,
	PHASE_TLS,
	PHASE_AUTHENTICATION,
	PHASE_CONNECTED
} Phase;

typedef struct Probe
{
	const KrSource *source;
	ReturnSetInfo *rows;
	PGconn	   *volatile pg;	/* NULL: libpq is still at work on it */
	const char *where;			/* the address that answered */
	TimestampTz deadline;
	double		finished[PHASE_CONNECTED];	/* ms from the start to each phase's end */
} Probe;

static double
now_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MILLISEC(now);
}

static void
report(Probe *probe, const char *check, bool ok, const char *detail, double ms)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, ms < 0};

	values[0] = CStringGetTextDatum(check);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	values[3] = Float8GetDatum(Max(ms, 0));
	tuplestore_putvalues(probe->rows->setResult, probe->rows->setDesc, values, nulls);
}

/* Each name in a comma-separated list of hosts. False where none is known. */
static bool
probe_names(Probe *probe, const char *hosts)
{
	char	   *list = pstrdup(hosts);
	char	   *rest = list;
	char	   *host;
	bool		any = false;

	while ((host = strsep(&rest, ",")) != NULL)
	{
		double		start = now_ms();
		const char *reason;
		char	   *addresses;

		/* libpq takes these for a unix socket, the default one too. */
		if (host[0] == '/' || host[0] == '@' || host[0] == '\0')
		{
			any = true;
			continue;
		}
		addresses = kr_remote_resolve(host, probe->deadline, &reason);
		report(probe, "name resolution", addresses != NULL,
			   psprintf("%s: %s", host, addresses ? addresses : reason),
			   now_ms() - start);
		any = any || addresses != NULL;
	}
	pfree(list);
	return any;
}

/* What the connection is waiting for. libpq begins anew for a further host. */
static Phase
phase_of(PGconn *pg)
{
	switch (PQstatus(pg))
	{
		case CONNECTION_NEEDED:
		case CONNECTION_STARTED:
			return PHASE_TCP;
		case CONNECTION_MADE:
		case CONNECTION_SSL_STARTUP:
			return PHASE_TLS;
		case CONNECTION_OK:
			return PHASE_CONNECTED;
		default:
			return PHASE_AUTHENTICATION;
	}
}

/* False when the deadline has passed. */
static bool
wait_for_socket(Probe *probe, int event)
{
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), probe->deadline);
		int			rc;

		if (left <= 0)
			return false;
		rc = WaitLatchOrSocket(MyLatch, event | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   PQsocket(probe->pg), left, PG_WAIT_EXTENSION);
		if (rc & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			return true;
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

static const char *
where(PGconn *pg)
{
	const char *address = PQhostaddr(pg);

	if (address == NULL || address[0] == '\0' || address[0] == '/')
		return psprintf("unix socket in %s", PQhost(pg));
	return psprintf("%s port %s", address, PQport(pg));
}

/*
 * Drive the connection as far as it gets. Returns the phase that it came to and,
 * unless that is the last, why no further.
 */
static Phase
drive(Probe *probe, double start, const char **reason)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	Phase		phase = PHASE_TCP;

	if (PQstatus(probe->pg) == CONNECTION_BAD)
	{
		*reason = kr_remote_reason(probe->pg);
		return PHASE_TCP;
	}
	while (phase != PHASE_CONNECTED)
	{
		Phase		before = phase;
		double		ready;

		if (!wait_for_socket(probe, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE))
		{
			*reason = psprintf("No answer within kessel.connect_timeout (%d s).", kr_guc_connect_timeout);
			return phase;
		}
		/* A phase ends when its answer is there; libpq sends on in the same call. */
		ready = now_ms() - start;
		if (!kr_remote_poll(&probe->pg, probe->deadline, &status))
		{
			*reason = psprintf("No end of it within kessel.connect_timeout (%d s).", kr_guc_connect_timeout);
			return phase;
		}
		if (status == PGRES_POLLING_FAILED)
		{
			*reason = kr_remote_reason(probe->pg);
			return phase;
		}
		phase = phase_of(probe->pg);
		for (Phase p = before; p < phase; p++)
			probe->finished[p] = ready;
		if (phase > PHASE_TCP)
			probe->where = where(probe->pg);

		if (!probe->source->allow_local && phase > PHASE_TCP &&
			kr_remote_leads_here(PQsocket(probe->pg)))
		{
			*reason = "This is the very server that asks. It is allowed to a data source with the option allow_local, which a superuser can set.";
			return PHASE_TCP;
		}
	}
	return phase;
}

/* Nothing can listen in between here and there. */
static bool
is_local(PGconn *pg)
{
	const char *address = PQhostaddr(pg);

	return address == NULL || address[0] == '\0' || address[0] == '/' ||
		strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}

static void
report_tls(Probe *probe, double ms)
{
	PGconn	   *pg = probe->pg;
	const char *mode = NULL;

	for (int i = 0; i < probe->source->noptions; i++)
	{
		if (strcmp(probe->source->keywords[i], "sslmode") == 0)
			mode = probe->source->values[i];
	}
	if (PQsslInUse(pg))
		report(probe, "TLS", true,
			   psprintf("%s, %s; %s", PQsslAttribute(pg, "protocol"), PQsslAttribute(pg, "cipher"),
						mode && strcmp(mode, "verify-full") == 0 ? "certificate and host name verified" :
						mode && strcmp(mode, "verify-ca") == 0 ? "certificate verified, host name not" :
						"certificate not verified: set sslmode=verify-full in the url"),
			   ms);
	else if (is_local(pg))
		report(probe, "TLS", true, "not used, and not needed on this machine", NO_TIME);
	else
		report(probe, "TLS", false,
			   "not used: credentials and rows can be read on the way; set sslmode=verify-full in the url", NO_TIME);
}

static void
report_authentication(Probe *probe, double ms)
{
	bool		used_password = PQconnectionUsedPassword(probe->pg);
	bool		ok = used_password || !probe->source->password_required;

	report(probe, "authentication", ok,
		   psprintf("user \"%s\" %s", PQuser(probe->pg),
					used_password ? "with password" :
					ok ? "without password" :
					"was let in without being asked for the password, so anyone would be; make the data source ask"),
		   ms);
}

static void
report_version(Probe *probe)
{
	int			version = PQserverVersion(probe->pg);
	const char *text = PQparameterStatus(probe->pg, "server_version");

	report(probe, "server version", version >= OLDEST_SERVER,
		   psprintf("PostgreSQL %s%s", text ? text : "of unknown version",
					version >= OLDEST_SERVER ? "" : ", older than 12: agent and import do not work there"),
		   NO_TIME);
}

/* One empty statement, there and back. */
static void
probe_round_trip(Probe *probe)
{
	double		start = now_ms();
	PGresult   *result;
	bool		ok = PQsendQuery(probe->pg, "") == 1;

	while (ok && PQisBusy(probe->pg))
	{
		ok = wait_for_socket(probe, WL_SOCKET_READABLE);
		if (ok)
			ok = PQconsumeInput(probe->pg) == 1;
	}
	if (ok)
	{
		result = PQgetResult(probe->pg);
		ok = PQresultStatus(result) == PGRES_EMPTY_QUERY;
		PQclear(result);
	}
	report(probe, "round trip", ok,
		   ok ? "one statement, there and back" :
		   PQerrorMessage(probe->pg)[0] ? kr_remote_reason(probe->pg) : "No answer in time.",
		   now_ms() - start);
}

static void
run(Probe *probe, double start)
{
	static const char *const names[] = {"TCP", "TLS", "authentication"};
	const char *reason = NULL;
	Phase		reached = drive(probe, start, &reason);

	if (reached > PHASE_TCP)
		report(probe, "TCP", true, probe->where, probe->finished[PHASE_TCP]);
	if (reached > PHASE_TLS && probe->pg != NULL)
		report_tls(probe, probe->finished[PHASE_TLS] - probe->finished[PHASE_TCP]);
	if (reached < PHASE_CONNECTED)
	{
		report(probe, names[reached], false, reason,
			   now_ms() - start - (reached > PHASE_TCP ? probe->finished[reached - 1] : 0));
		return;
	}
	report_authentication(probe, probe->finished[PHASE_AUTHENTICATION] - probe->finished[PHASE_TLS]);
	report_version(probe);
	probe_round_trip(probe);
}

/*
 * kessel._probe_connection(data_source_id uuid)
 *	  The runtime credential's way to a data source, step by step.
 */
Datum
kr_remote_probe(PG_FUNCTION_ARGS)
{
	Probe		probe = {0};
	const char *host = NULL;
	const char *hostaddr = NULL;
	double		start;

	InitMaterializedSRF(fcinfo, 0);
	probe.rows = (ReturnSetInfo *) fcinfo->resultinfo;
	probe.source = kr_source_by_id(PG_GETARG_UUID_P(0), "runtime");
	probe.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), kr_guc_connect_timeout * 1000L);

	for (int i = 0; i < probe.source->noptions; i++)
	{
		if (strcmp(probe.source->keywords[i], "host") == 0)
			host = probe.source->values[i];
		if (strcmp(probe.source->keywords[i], "hostaddr") == 0)
			hostaddr = probe.source->values[i];
	}
	if (host != NULL && hostaddr == NULL && !probe_names(&probe, host))
		return (Datum) 0;

	start = now_ms();
	probe.pg = kr_remote_start(probe.source, "runtime", NULL, "test");
	PG_TRY();
	{
		run(&probe, start);
	}
	PG_FINALLY();
	{
		kr_remote_disconnect(probe.pg);
	}
	PG_END_TRY();
	return (Datum) 0;
}

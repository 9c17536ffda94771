/*
 * kr_remote_dial.c
 *	  Connecting to a data source in steps, so that one backend can connect to
 *	  many at once.
 *
 * A dial looks up the name, then lets libpq connect; what may block or compute
 * without end, as hashing a password does, runs as a job on a thread (kr_remote_thread.c), one a step, and the
 * dial waits for its file descriptor. While such a job is at work the connection
 * is the thread's; a dial that is given up meanwhile leaves it behind. At any time
 * there are no more threads than dials, but for those left behind.
 *
 * A dial is palloc'd and owns a connection, a look-up and a job, which
 * kr_dial_end() gives back: its user calls that before the memory goes.
 */
#include "postgres.h"

#include "storage/fd.h"
#include "storage/latch.h"

#include "kr_guc.h"
#include "kr_remote_internal.h"

/* Threads that compute for servers that hang, and those that were left behind. */
#define MAX_LEFT_BEHIND 64

/* Who refuses a connection after that time is not the host itself. */
#define SLOW_REFUSAL_MS 1000

/* malloc'ed */
typedef struct StepJob
{
	PGconn	   *pg;
	PostgresPollingStatusType status;
} StepJob;

struct KrDial
{
	const KrSource *source;
	TimestampTz deadline;
	char	   *names;			/* those that have not been looked up; NULL: none */
	KrLookup   *lookup;			/* of a name, under way */
	bool		lacks_address;
	TimestampTz begun;
	bool		has_one_host;
	bool		arrived;		/* at the host */
	bool		unanswered;
	PGconn	   *pg;				/* NULL: not begun, or a thread's */
	PostgresPollingStatusType status;
	KrJob	   *job;			/* a step under way */
	StepJob    *step;
	KrCredentialState tried;
};

static void
ignore_notice(void *arg, const PGresult *result)
{
}

bool
kr_dial_needs_look_up(const KrSource *source)
{
	return kr_remote_name_to_look_up(source) != NULL;
}

static void
begin_connecting(KrDial *dial, const pg_uuid_t *secret_id)
{
	dial->pg = kr_remote_start(dial->source, "runtime", secret_id, "route");
	dial->status = PGRES_POLLING_WRITING;
}

static void
raise_no_thread(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not start a thread to connect with"),
			 errhint("Earlier attempts to connect are still busy in this session, or the operating system has no thread, file descriptor or memory left.")));
}

/* Look the next name up, or begin to connect. */
static void
look_up_or_begin(KrDial *dial)
{
	char	   *host = dial->names ? strsep(&dial->names, ",") : NULL;

	if (host == NULL || host[0] == '/' || host[0] == '@' || host[0] == '\0')
	{
		begin_connecting(dial, NULL);
		return;
	}
	dial->lookup = kr_lookup_start(host);
	if (dial->lookup == NULL)
		raise_no_thread();
}

KrDial *
kr_dial_start(const KrSource *source, bool looked_up)
{
	KrDial	   *dial = palloc0(sizeof(KrDial));
	const char *names = looked_up ? NULL : kr_remote_name_to_look_up(source);

	dial->source = source;
	dial->begun = GetCurrentTimestamp();
	dial->deadline = kr_remote_connect_deadline(source);
	dial->tried.version = source->secret_version;
	dial->has_one_host = kr_remote_has_one_host(source);
	dial->names = names ? pstrdup(names) : NULL;
	look_up_or_begin(dial);
	return dial;
}

TimestampTz
kr_dial_deadline(const KrDial *dial)
{
	return dial->deadline;
}

void
kr_dial_extend(KrDial *dial, int64 us)
{
	dial->begun += us;
	dial->deadline += us;
}

bool
kr_dial_lacks_address(const KrDial *dial)
{
	return dial->lacks_address;
}

bool
kr_dial_is_unanswered(const KrDial *dial)
{
	return dial->unanswered;
}

int
kr_dial_socket(const KrDial *dial, uint32 *events)
{
	*events = WL_SOCKET_READABLE;
	if (dial->lookup != NULL)
		return kr_lookup_fd(dial->lookup);
	if (dial->job != NULL)
		return kr_job_fd(dial->job);
	if (dial->status == PGRES_POLLING_WRITING)
		*events = WL_SOCKET_WRITEABLE;
	return dial->pg ? PQsocket(dial->pg) : -1;
}

/* A look-up has ended, or its time has. */
static void
take_address(KrDial *dial)
{
	KrLookup   *lookup = dial->lookup;
	const char *reason;

	dial->lookup = NULL;
	reason = kr_lookup_end(lookup);
	if (reason == NULL)
		begin_connecting(dial, NULL);
	else if (dial->names != NULL && GetCurrentTimestamp() < dial->deadline)
		look_up_or_begin(dial);
	else
	{
		dial->lacks_address = true;
		kr_remote_raise_no_address(dial->source, kr_remote_name_to_look_up(dial->source), reason);
	}
}

static void
run_step(void *data)
{
	StepJob    *step = data;

	step->status = PQconnectPoll(step->pg);
}

static void
release_step(void *data)
{
	StepJob    *step = data;

	PQfinish(step->pg);
	free(step);
}

/*
 * What a step does while the host has not said anything takes no time, but to look
 * a further host's name up.
 */
static bool
step_is_short(const KrDial *dial)
{
	ConnStatusType status = PQstatus(dial->pg);

	return dial->has_one_host && (status == CONNECTION_STARTED || status == CONNECTION_MADE);
}

static void
begin_step(KrDial *dial)
{
	StepJob    *step = malloc(sizeof(StepJob));

	if (step == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	step->pg = dial->pg;
	step->status = PGRES_POLLING_FAILED;
	dial->job = kr_job_start(run_step, release_step, step, MAX_LEFT_BEHIND);
	if (dial->job == NULL)
	{
		free(step);
		raise_no_thread();
	}
	dial->step = step;
	dial->pg = NULL;
}

/* False when the thread keeps the connection: its time is up. */
static bool
end_step(KrDial *dial)
{
	StepJob    *step = dial->step;
	KrJob	   *job = dial->job;

	dial->job = NULL;
	dial->step = NULL;
	if (!kr_job_end(job))
	{
		/* Its file descriptor counts no more: nobody knows when it is closed. */
		kr_remote_disconnect(NULL);
		return false;
	}
	dial->pg = step->pg;
	dial->status = step->status;
	free(step);
	return true;
}

/* libpq has given up. */
static void
try_other_secret(KrDial *dial)
{
	pg_uuid_t	next;

	if (!dial->source->has_secret || !kr_remote_refused_login(dial->pg) ||
		!kr_remote_next_secret(dial->source, &dial->tried, &next))
		kr_remote_raise_connect(dial->pg, dial->source);
	kr_remote_disconnect(dial->pg);
	dial->pg = NULL;
	begin_connecting(dial, &next);
}

static void
make_ready(KrDial *dial)
{
	PGconn	   *pg = dial->pg;

	kr_remote_forget_password(pg);
	kr_remote_check_password(pg, dial->source);
	PQsetErrorVerbosity(pg, PQERRORS_DEFAULT);
	PQsetNoticeReceiver(pg, ignore_notice, NULL);
	if (PQsetnonblocking(pg, 1) != 0 || !PQenterPipelineMode(pg))
		kr_remote_raise_lost(pg, dial->source->name);
}

/*
 * After a step. A refusal is an answer, but not that of a router on the way, which
 * comes after some seconds.
 */
static void
note_answer(KrDial *dial, bool late)
{
	ConnStatusType status = dial->pg ? PQstatus(dial->pg) : CONNECTION_BAD;
	bool		failed = status == CONNECTION_BAD || dial->status == PGRES_POLLING_FAILED;

	dial->arrived |= status != CONNECTION_BAD && status != CONNECTION_STARTED;
	dial->unanswered = failed ? !dial->arrived &&
		TimestampDifferenceExceeds(dial->begun, GetCurrentTimestamp(), SLOW_REFUSAL_MS) : late;
}

bool
kr_dial_step(KrDial *dial)
{
	bool		late = GetCurrentTimestamp() >= dial->deadline;

	if (dial->lookup != NULL)
	{
		take_address(dial);
		return false;
	}
	if (dial->job != NULL)
	{
		if (!end_step(dial))
		{
			dial->unanswered = true;
			kr_remote_raise_timeout(dial->source);
		}
		kr_remote_check_where(dial->pg, dial->source, dial->status);
	}
	else if (PQstatus(dial->pg) != CONNECTION_BAD && !late)
	{
		if (!step_is_short(dial))
		{
			begin_step(dial);
			return false;
		}
		dial->status = PQconnectPoll(dial->pg);
		kr_remote_check_where(dial->pg, dial->source, dial->status);
	}

	note_answer(dial, late);
	if (PQstatus(dial->pg) == CONNECTION_BAD || dial->status == PGRES_POLLING_FAILED)
		try_other_secret(dial);
	else if (dial->status == PGRES_POLLING_OK)
	{
		make_ready(dial);
		return true;
	}
	else if (late)
		kr_remote_raise_timeout(dial->source);
	return false;
}

PGconn *
kr_dial_take(KrDial *dial)
{
	PGconn	   *pg = dial->pg;

	dial->pg = NULL;
	return pg;
}

void
kr_dial_end(KrDial *dial)
{
	if (dial->lookup != NULL)
		(void) kr_lookup_end(dial->lookup);
	dial->lookup = NULL;
	if (dial->job != NULL)
		(void) end_step(dial);
	if (dial->pg != NULL)
		kr_remote_disconnect(dial->pg);
	dial->pg = NULL;
}

/* A socket, the pipe of a thread, and a set to wait for them. */
bool
kr_dial_has_room(void)
{
	int			got = 0;

	while (got < 3 && AcquireExternalFD())
		got++;
	for (int i = 0; i < got; i++)
		ReleaseExternalFD();
	return got == 3;
}

static bool
queue_command(PGconn *pg, const char *sql, int nparams, const char *const *values)
{
	return PQsendQueryParams(pg, sql, nparams, NULL, values, NULL, NULL, 0) == 1;
}

int
kr_dial_queue_settings(PGconn *pg, bool is_local)
{
	char		seconds[16];
	const char *values[1] = {seconds};
	int			n = 1;

	if (!queue_command(pg, is_local ? KR_SETTINGS("true") : KR_SETTINGS("false"), 0, NULL))
		return -1;
	if (is_local)
		return n;
	if (PQserverVersion(pg) >= 140000)
	{
		if (!queue_command(pg, KR_CHECK_CLIENT, 0, NULL))
			return -1;
		n++;
	}
	if (PQserverVersion(pg) >= 140000 && kr_guc_connection_idle_timeout > 0)
	{
		snprintf(seconds, sizeof(seconds), "%ds", kr_guc_connection_idle_timeout);
		if (!queue_command(pg, KR_IDLE_TIMEOUT, 1, values))
			return -1;
		n++;
	}
	return PQpipelineSync(pg) ? n : -1;
}

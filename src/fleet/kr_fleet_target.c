/*
 * kr_fleet_target.c
 *	  One tenant's part of a fleet's work: its route, a connection, a transaction,
 *	  the rows.
 *
 * What is sent is a pipeline, and `steps` has a letter for each answer that is
 * due, in their order:
 *
 *	 c	a command, whose answer matters only when it is an error
 *	 q	the statement
 *	 k	COMMIT
 *	 s	a synchronisation point
 *
 * A statement that reads travels with START TRANSACTION, the tenant's context and
 * ROLLBACK, in one trip. One that writes is committed in a second trip, when its
 * answer is there: so a connection that is lost before that has changed nothing
 * there, and one that is lost afterwards is reported as unknown (08007).
 *
 * Rows are asked for one by one and nothing is read ahead of what is asked for
 * but by libpq, so what a tenant's rows take here is libpq's buffer and one row.
 *
 * Nothing here waits. A connection that has answered an error, or anything that
 * it was not asked, is closed; what the server may still be doing is cancelled.
 */
#include "postgres.h"

#include <sys/ioctl.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"

#include "kr_error.h"
#include "kr_fleet.h"
#include "kr_guc.h"

/* libpq never gives back the memory of a row while the connection lives. */
#define LARGE_ROW (1024 * 1024)

/* What libpq's input buffer has at first. */
#define LIBPQ_BUFFER (16 * 1024)

/* ---------- route ---------- */

void
kr_fleet_resolve(KrFleetTarget *target)
{
	const KrRoute *route;

	if (!kr_guc_is_tenant_name(target->tenant))
		ereport(ERROR,
				(errcode(KR_ERR_UNKNOWN_TENANT),
				 errmsg("tenant \"%s\" does not exist", target->tenant),
				 errhint("A tenant is named by its slug or its uuid, in lower case.")));
	route = kr_route_to_enter(target->tenant);
	if (route->isolation == KR_ISOLATION_ROW && !route->source->has_agent)
		ereport(ERROR,
				(errcode(KR_ERR_NO_AGENT),
				 errmsg("data source \"%s\" has no agent", route->source->name),
				 errdetail("Tenant \"%s\" shares its tables with others; without the agent the source cannot tell them apart.",
						   route->slug),
				 errhint("An administrator can call kessel.install_agent('%s').", route->source->name)));
	target->route = route;
	target->tenant = route->slug;
	kr_fleet_check_confined(target->statement, route);
}

/* Host and port, as the source names them; several are one. */
void
kr_fleet_host_key(const KrSource *source, char *key, Size size)
{
	static const char *const keywords[] = {"host", "hostaddr", "port"};
	int			len = 0;

	memset(key, 0, size);
	for (int k = 0; k < lengthof(keywords); k++)
	{
		for (int i = 0; i < source->noptions && len < size; i++)
		{
			if (strcmp(source->keywords[i], keywords[k]) == 0)
				len += snprintf(key + len, size - len, "%s ", source->values[i]);
		}
	}
}

/* ---------- errors ---------- */

void
kr_fleet_fail(KrFleetTarget *target, ErrorData *error)
{
	if (target->error == NULL)
		target->error = error;
	target->phase = KR_FLEET_ENDS;
}

static void
raise_result(void *arg)
{
	KrFleetTarget *target = arg;

	kr_remote_raise_result(target->result, target->route->source->name, target->tenant, NULL, false);
}

static void
raise_lost(void *arg)
{
	KrFleetTarget *target = arg;

	kr_remote_raise_lost(target->pg, target->route->source->name);
}

static void
raise_unknown_outcome(void *arg)
{
	KrFleetTarget *target = arg;

	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("data source \"%s\" has not answered the commit", target->route->source->name),
			 errdetail("Whether the changes for tenant \"%s\" were committed there is unknown.", target->tenant),
			 errhint("Look at the data before you repeat it.")));
}

static void
raise_protocol(void *arg)
{
	KrFleetTarget *target = arg;

	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("data source \"%s\" sent an answer to something else", target->route->source->name),
			 errhint("If there is a pooler in between that works by transaction, say so with the option pooler.")));
}

static void
raise_copy(void *arg)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("COPY is not for a fleet"),
			 errhint("Use SELECT, or INSERT with parameters.")));
}

static void
raise_ended_transaction(void *arg)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("the statement has ended its transaction"),
			 errdetail("What it did in it may be committed.")));
}

static void
raise_rolled_back(void *arg)
{
	KrFleetTarget *target = arg;

	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_ROLLBACK),
			 errmsg("data source \"%s\" rolled the transaction back", target->route->source->name)));
}

/* What was sent is not known to have arrived, or to have been done. */
static void
fail_with(KrFleetTarget *target, void (*raise) (void *))
{
	if (target->phase == KR_FLEET_COMMITS && raise != raise_result && raise != raise_rolled_back)
		raise = raise_unknown_outcome;
	kr_fleet_fail(target, kr_fleet_try(raise, target, target->cxt, false));
}

typedef struct Late
{
	KrFleetTarget *target;
	bool		whole_call;
} Late;

static void
raise_late(void *arg)
{
	Late	   *late = arg;
	KrFleetTarget *target = late->target;

	if (target->phase == KR_FLEET_COMMITS)
		raise_unknown_outcome(target);
	if (late->whole_call)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the deadline has passed before tenant \"%s\" was done", target->tenant),
				 target->phase == KR_FLEET_WAITS ? errdetail("It was not begun.") :
				 errdetail("It was cancelled, and changed nothing.")));
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("tenant \"%s\" was not done within " INT64_FORMAT " ms", target->tenant,
					target->options->timeout_ms),
			 errdetail("It was cancelled, and changed nothing.")));
}

void
kr_fleet_fail_late(KrFleetTarget *target, bool whole_call)
{
	Late		late = {.target = target,.whole_call = whole_call};

	kr_fleet_fail(target, kr_fleet_try(raise_late, &late, target->cxt, false));
}

/* ---------- sending ---------- */

static void
expect(KrFleetTarget *target, char step, int times)
{
	int			n = strlen(target->steps);

	Assert(n + times < KR_FLEET_MAX_STEPS);
	memset(target->steps + n, step, times);
}

static bool
command(KrFleetTarget *target, const char *sql, int nparams, const char *const *values)
{
	expect(target, 'c', 1);
	return PQsendQueryParams(target->pg, sql, nparams, NULL, values, NULL, NULL, 0) == 1;
}

static bool
sync_point(KrFleetTarget *target)
{
	expect(target, 's', 1);
	return PQpipelineSync(target->pg) == 1;
}

/*
 * Names mean the tenant's, and the text of the statement is read there as it was
 * here.
 */
static bool
queue_context(KrFleetTarget *target)
{
	const KrRoute *route = target->route;
	const char *schema = route->isolation == KR_ISOLATION_SCHEMA ? route->id_in_source :
		route->source->schema;
	const char *values[2];
	char		epoch[MAXINT8LEN + 1];

	if (route->source->transaction_pooler)
	{
		int			n = kr_dial_queue_settings(target->pg, true);

		if (n < 0)
			return false;
		expect(target, 'c', n);
	}
	values[0] = psprintf("%s, pg_temp", quote_identifier(schema));
	values[1] = psprintf("kessel_router %d %s", MyProcPid, target->tenant);
	if (!command(target,
				 "SELECT pg_catalog.set_config('search_path', $1, true), "
				 "pg_catalog.set_config('application_name', $2, true), "
				 "pg_catalog.set_config('standard_conforming_strings', 'on', true)",
				 2, values))
		return false;
	if (!route->source->has_agent)
		return true;
	pg_lltoa(route->epoch, epoch);
	values[0] = route->id_in_source;
	values[1] = epoch;
	return command(target, "SELECT kessel_agent.enter($1, $2)", 2, values);
}

static bool
queue_statement(KrFleetTarget *target)
{
	const KrFleetOptions *options = target->options;

	expect(target, 'q', 1);
	return PQsendQueryParams(target->pg, target->statement->sent, options->nparams, NULL,
							 options->params, NULL, NULL, 0) == 1;
}

static bool
queue_all(KrFleetTarget *target)
{
	bool		writes = target->statement->kind == KR_FLEET_EXEC;

	target->steps[0] = '\0';
	memset(target->steps, 0, sizeof(target->steps));
	target->step = 0;
	if (!target->was_spare && !target->route->source->transaction_pooler)
	{
		int			n = kr_dial_queue_settings(target->pg, false);

		if (n < 0)
			return false;
		expect(target, 'c', n);
		expect(target, 's', 1);
	}
	return command(target, writes ? "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE" :
				   "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY", 0, NULL) &&
		queue_context(target) && queue_statement(target) &&
		(writes || command(target, "ROLLBACK", 0, NULL)) && sync_point(target);
}

static void
flush(KrFleetTarget *target)
{
	/* Should the connection be lost, reading will tell. */
	target->flushing = PQflush(target->pg) > 0;
}

static void
send_all(KrFleetTarget *target)
{
	target->phase = KR_FLEET_RUNS;
	target->begun = target->answered = target->heard = false;
	if (!queue_all(target))
		fail_with(target, raise_lost);
	else
		flush(target);
}

static void
send_commit(KrFleetTarget *target)
{
	memset(target->steps, 0, sizeof(target->steps));
	target->step = 0;
	target->begun = target->answered = false;
	expect(target, 'k', 1);
	if (!PQsendQueryParams(target->pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 0) || !sync_point(target))
	{
		fail_with(target, raise_lost);
		return;
	}
	target->phase = KR_FLEET_COMMITS;
	flush(target);
}

/* ---------- connecting ---------- */

static void
dial_step(void *arg)
{
	KrFleetTarget *target = arg;

	if (target->dial == NULL)
		target->dial = kr_dial_start(target->route->source, target->host->looked_up);
	else if (kr_dial_step(target->dial))
		target->pg = kr_dial_take(target->dial);
}

/* Begin, or a step further; several where nothing is to be waited for. */
static void
dial(KrFleetTarget *target)
{
	uint32		events;

	/* A socket may be closed, and another one have its number. */
	target->fd = -1;
	do
	{
		ErrorData  *error = kr_fleet_try(dial_step, target, target->cxt, true);

		if (error != NULL)
		{
			target->keeps_error = target->dial != NULL && kr_dial_lacks_address(target->dial);
			if (target->keeps_error)
				target->host->unknown = error;
			kr_fleet_fail(target, error);
			return;
		}
	} while (target->pg == NULL && kr_dial_socket(target->dial, &events) < 0);

	if (target->pg != NULL)
	{
		target->host->looked_up = true;
		kr_dial_end(target->dial);
		target->dial = NULL;
		send_all(target);
	}
}

void
kr_fleet_start(KrFleetTarget *target)
{
	target->pg = kr_spare_take(target->route->source);
	target->was_spare = target->pg != NULL;
	if (target->was_spare)
	{
		send_all(target);
		return;
	}
	target->phase = KR_FLEET_CONNECTS;
	dial(target);
}

/* ---------- waiting ---------- */

int
kr_fleet_socket(KrFleetTarget *target, uint32 *events)
{
	if (target->phase == KR_FLEET_CONNECTS)
		return kr_dial_socket(target->dial, events);
	*events = target->flushing ? WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE;
	return PQsocket(target->pg);
}

/* ---------- reading ---------- */

static bool
is_final(const PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity == NULL || strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0;
}

/* A spare connection that was closed in just that moment: take a new one. */
static bool
start_again(KrFleetTarget *target)
{
	if (!target->was_spare || target->heard)
		return false;
	kr_remote_disconnect(target->pg);
	target->pg = NULL;
	target->was_spare = false;
	target->phase = KR_FLEET_CONNECTS;
	dial(target);
	return true;
}

static void
hear_error(KrFleetTarget *target)
{
	bool		final = is_final(target->result);

	if (final && start_again(target))
		return;
	target->settled = true;
	if (final && target->phase == KR_FLEET_COMMITS)
		fail_with(target, raise_unknown_outcome);
	else if (final && PQresultErrorField(target->result, PG_DIAG_SQLSTATE) == NULL)
		fail_with(target, raise_lost);
	else
		fail_with(target, raise_result);
}

/* The words of a command's tag, and no other characters, whatever the server has sent. */
static char *
tag_of(PGresult *result)
{
	const char *tag = PQcmdStatus(result);
	int			len = Min(strspn(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ "), 64);

	while (len > 0 && tag[len - 1] == ' ')
		len--;
	return pnstrdup(tag, len);
}

static void
take_answer(KrFleetTarget *target)
{
	char		step = target->steps[target->step];
	const char *affected = PQcmdTuples(target->result);

	if (target->answered || step == 's')
	{
		fail_with(target, raise_protocol);
		return;
	}
	target->answered = true;
	if (step == 'k' && strcmp(PQcmdStatus(target->result), "COMMIT") != 0)
		fail_with(target, raise_rolled_back);
	if (step != 'q')
		return;
	target->command = tag_of(target->result);
	if (target->statement->kind == KR_FLEET_EXEC)
		target->rows = affected[0] ? strtoull(affected, NULL, 10) : 0;
}

/* All that was sent is answered. */
static KrFleetNews
take_end(KrFleetTarget *target)
{
	PGTransactionStatusType status = PQtransactionStatus(target->pg);
	bool		runs = target->phase == KR_FLEET_RUNS;

	if (runs && target->statement->kind == KR_FLEET_EXEC)
	{
		if (status == PQTRANS_INTRANS)
			send_commit(target);
		else
			fail_with(target, raise_ended_transaction);
		return target->phase == KR_FLEET_ENDS ? KR_FLEET_FAILED : KR_FLEET_NOTHING;
	}
	if (status != PQTRANS_IDLE)
	{
		/* It is committed, or was only read. */
		target->spoiled = true;
	}
	target->phase = KR_FLEET_ENDS;
	return KR_FLEET_DONE;
}

/* One result of libpq's. */
static KrFleetNews
take_result(KrFleetTarget *target)
{
	char		step = target->steps[target->step];

	if (target->result == NULL)
	{
		if (!target->answered)
			fail_with(target, PQstatus(target->pg) == CONNECTION_BAD ? raise_lost : raise_protocol);
		target->step++;
		target->begun = target->answered = false;
		return KR_FLEET_NOTHING;
	}
	target->buffered = 0;
	switch (PQresultStatus(target->result))
	{
		case PGRES_SINGLE_TUPLE:
			target->heard = true;
			if (step != 'q' || target->answered)
				fail_with(target, raise_protocol);
			else if (target->statement->kind != KR_FLEET_EXEC)
			{
				target->rows++;
				if (PQresultMemorySize(target->result) > LARGE_ROW)
					target->held = Max(target->held, (int64) PQresultMemorySize(target->result));
				return KR_FLEET_ROW;
			}
			break;
		case PGRES_PIPELINE_SYNC:
			target->heard = true;
			if (step != 's')
				fail_with(target, raise_protocol);
			else
			{
				target->step++;
				target->begun = target->answered = false;
			}
			break;
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_EMPTY_QUERY:
			target->heard = true;
			take_answer(target);
			break;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			fail_with(target, raise_copy);
			break;
		default:
			hear_error(target);
			break;
	}
	return KR_FLEET_NOTHING;
}

/* False when there is nothing more to do without waiting. */
static bool
can_read(KrFleetTarget *target)
{
	if (target->steps[target->step] == 'q' && !target->begun)
		(void) PQsetSingleRowMode(target->pg);
	target->begun = true;
	return PQstatus(target->pg) == CONNECTION_BAD || !PQisBusy(target->pg);
}

bool
kr_fleet_awaits_row(const KrFleetTarget *target)
{
	return target->phase == KR_FLEET_RUNS && target->steps[target->step] == 'q';
}

/*
 * libpq reads what has come, 16 kB of it or, within a larger row, for as long as
 * something comes. How much that was nobody tells. So what may have been a row is
 * delivered before anybody else is heard; and one that is not complete then counts
 * as more than there is room for: nobody else is read, and what comes for others
 * waits in the kernel.
 */
void
kr_fleet_hear(KrFleetTarget *target)
{
	int			available = 0;
	bool		is_row;

	if (target->phase == KR_FLEET_CONNECTS)
	{
		dial(target);
		return;
	}
	is_row = kr_fleet_awaits_row(target);
	(void) ioctl(PQsocket(target->pg), FIONREAD, &available);
	target->buffered += available;
	if (target->flushing)
		flush(target);
	/* If it fails, PQgetResult() tells why. */
	(void) PQconsumeInput(target->pg);
	if (is_row && target->buffered >= LIBPQ_BUFFER && !can_read(target))
		target->buffered = Max(target->buffered, work_mem * INT64CONST(1024) + 1);
}

KrFleetNews
kr_fleet_advance(KrFleetTarget *target)
{
	MemoryContext before = MemoryContextSwitchTo(target->cxt);
	KrFleetNews news = KR_FLEET_NOTHING;

	while (news == KR_FLEET_NOTHING &&
		   (target->phase == KR_FLEET_RUNS || target->phase == KR_FLEET_COMMITS))
	{
		if (target->steps[target->step] == '\0')
			news = take_end(target);
		else if (!can_read(target))
			break;
		else
		{
			PQclear(target->result);
			target->result = PQgetResult(target->pg);
			news = take_result(target);
		}
	}
	if (target->phase == KR_FLEET_ENDS && news != KR_FLEET_DONE)
		news = KR_FLEET_FAILED;
	MemoryContextSwitchTo(before);
	return news;
}

/* ---------- the end ---------- */

KrCancel *
kr_fleet_release(KrFleetTarget *target)
{
	KrCancel   *cancel = NULL;

	if (target->dial != NULL)
		kr_dial_end(target->dial);
	target->dial = NULL;
	PQclear(target->result);
	target->result = NULL;
	if (target->pg == NULL)
		return NULL;

	if (target->phase == KR_FLEET_ENDS && target->error == NULL && !target->spoiled && target->held == 0 &&
		target->statement->unconfined == NULL)
		kr_spare_put(target->pg, target->route->source);
	else
	{
		if (!target->settled && PQstatus(target->pg) == CONNECTION_OK &&
			PQtransactionStatus(target->pg) == PQTRANS_ACTIVE)
			cancel = kr_cancel_start(target->pg);
		kr_remote_disconnect(target->pg);
	}
	target->pg = NULL;
	return cancel;
}

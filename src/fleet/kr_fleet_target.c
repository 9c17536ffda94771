/*
 * kr_fleet_target.c
 *	  One target of a fleet: a connection, and what goes over it.
 *
 * What is sent is a pipeline, and `steps` has an entry for each answer that is
 * due, in their order. What is sent, and what an answer means, is the program's
 * (kr_fleet.h). It queues a trip, up to a synchronisation point or several; when
 * all of it is answered it is asked for the next one.
 *
 * Rows that are told are asked for one by one and nothing is read ahead of what is
 * asked for but by libpq, so what a target's rows take here is libpq's buffer and
 * one row.
 *
 * Nothing here waits. A connection that has answered an error which the program
 * does not excuse, or anything that it was not asked, is closed; what the server
 * may still be doing is cancelled.
 */
#include "postgres.h"

#include <sys/ioctl.h>

#include "miscadmin.h"
#include "storage/latch.h"

#include "kr_fleet.h"
#include "kr_guc.h"

/* libpq never gives back the memory of a row while the connection lives. */
#define LARGE_ROW (1024 * 1024)

/* What libpq's input buffer has at first. */
#define LIBPQ_BUFFER (16 * 1024)

/* ---------- how it ends ---------- */

/* The answers to come are of no interest any more. */
static void
end_well(KrFleetTarget *target, bool spoiled)
{
	target->spoiled |= spoiled;
	target->phase = KR_FLEET_ENDS;
}

void
kr_fleet_finish(KrFleetTarget *target)
{
	end_well(target, false);
}

void
kr_fleet_fail(KrFleetTarget *target, ErrorData *error)
{
	if (target->concluded)
	{
		end_well(target, true);
		return;
	}
	if (target->error == NULL)
		target->error = error;
	target->phase = KR_FLEET_ENDS;
}

void
kr_fleet_rest(KrFleetTarget *target, ErrorData *error, int64 ms)
{
	target->error = error;
	target->rested = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	target->phase = KR_FLEET_RESTS;
}

typedef struct Raise
{
	void		(*raise) (KrFleetTarget *target);
	KrFleetTarget *target;
} Raise;

static void
call_raise(void *arg)
{
	Raise	   *call = arg;

	call->raise(call->target);
}

ErrorData *
kr_fleet_error(KrFleetTarget *target, void (*raise) (KrFleetTarget *target))
{
	Raise		call = {.raise = raise,.target = target};

	return kr_fleet_try(call_raise, &call, target->cxt, false);
}

void
kr_fleet_fail_with(KrFleetTarget *target, void (*raise) (KrFleetTarget *target))
{
	kr_fleet_fail(target, kr_fleet_error(target, raise));
}

static void
raise_lost(KrFleetTarget *target)
{
	if (target->program->raise_lost != NULL)
		target->program->raise_lost(target);
	kr_remote_raise_lost(target->pg, target->source->name);
}

static void
raise_protocol(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("data source \"%s\" sent an answer to something else", target->source->name),
			 errhint("If there is a pooler in between that works by transaction, say so with the option pooler.")));
}

static void
raise_copy(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("COPY is not for a fleet"),
			 errhint("Use SELECT, or INSERT with parameters.")));
}

/* What was sent is not known to have arrived, or to have been done. */
static void
break_off(KrFleetTarget *target, void (*raise) (KrFleetTarget *target))
{
	kr_fleet_fail_with(target, target->commits ? target->program->raise_unknown : raise);
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

	if (late->target->commits)
		late->target->program->raise_unknown(late->target);
	late->target->program->raise_late(late->target, late->whole_call);
}

void
kr_fleet_fail_late(KrFleetTarget *target, bool whole_call)
{
	Late		late = {.target = target,.whole_call = whole_call};

	target->unanswered = target->phase == KR_FLEET_CONNECTS && !whole_call;
	kr_fleet_fail(target, kr_fleet_try(raise_late, &late, target->cxt, false));
}

/* ---------- sending ---------- */

static void
expect(KrFleetTarget *target, KrFleetStepKind kind, int tag)
{
	KrFleetStep step = {.kind = kind,.tag = tag};

	if (target->steps.data == NULL)
		initStringInfo(&target->steps);
	appendBinaryStringInfo(&target->steps, (const char *) &step, sizeof(step));
}

const KrFleetStep *
kr_fleet_current_step(const KrFleetTarget *target)
{
	int			at = target->step * sizeof(KrFleetStep);

	return at < target->steps.len ? (const KrFleetStep *) (target->steps.data + at) : NULL;
}

static void
next_step(KrFleetTarget *target)
{
	target->step++;
	target->begun = target->answered = false;
}

void
kr_fleet_queue(KrFleetTarget *target, KrFleetStepKind kind, int tag,
			   const char *sql, int nparams, const char *const *values)
{
	expect(target, kind, tag);
	if (!PQsendQueryParams(target->pg, sql, nparams, NULL, values, NULL, NULL, 0))
		target->unsent = true;
}

void
kr_fleet_queue_sync(KrFleetTarget *target)
{
	expect(target, KR_FLEET_SYNC, 0);
	if (!PQpipelineSync(target->pg))
		target->unsent = true;
}

void
kr_fleet_queue_settings(KrFleetTarget *target, bool is_local)
{
	int			n = kr_dial_queue_settings(target->pg, is_local);

	if (n < 0)
		target->unsent = true;
	for (int i = 0; i < n; i++)
		expect(target, KR_FLEET_COMMAND, 0);
	if (!is_local)
		expect(target, KR_FLEET_SYNC, 0);
}

static void
flush(KrFleetTarget *target)
{
	/* Should the connection be lost, reading will tell. */
	target->flushing = PQflush(target->pg) > 0;
}

/* Let the program queue a trip. */
static void
send_trip(KrFleetTarget *target, void (*queue) (KrFleetTarget *target))
{
	resetStringInfo(&target->steps);
	target->step = 0;
	target->begun = target->answered = false;
	queue(target);
	if (target->phase != KR_FLEET_RUNS)
		return;
	if (target->unsent)
		break_off(target, raise_lost);
	else
		flush(target);
}

static void
begin_program(KrFleetTarget *target)
{
	target->phase = KR_FLEET_RUNS;
	target->heard = target->settled = target->skips = target->unsent = false;
	if (target->steps.data == NULL)
		initStringInfo(&target->steps);
	send_trip(target, target->program->begin);
}

/* ---------- connecting ---------- */

static void
dial_step(void *arg)
{
	KrFleetTarget *target = arg;

	if (target->dial == NULL)
		target->dial = kr_dial_start(target->source, target->host->looked_up);
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
			target->unanswered = target->dial != NULL && kr_dial_is_unanswered(target->dial);
			kr_fleet_fail(target, error);
			return;
		}
	} while (target->pg == NULL && kr_dial_socket(target->dial, &events) < 0);

	if (target->pg != NULL)
	{
		kr_fleet_host_answered(target->host);
		kr_dial_end(target->dial);
		target->dial = NULL;
		begin_program(target);
	}
}

void
kr_fleet_start(KrFleetTarget *target)
{
	target->unanswered = false;
	target->pg = kr_spare_take(target->source);
	target->was_spare = target->pg != NULL;
	if (target->was_spare)
	{
		/* As far as we know. */
		target->host->answers = true;
		begin_program(target);
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
	const KrFleetProgram *program = target->program;
	bool		final = is_final(target->result);
	const KrFleetStep *step = kr_fleet_current_step(target);

	if (final && start_again(target))
		return;
	if (!final && program->excuse != NULL && !target->answered && step->kind != KR_FLEET_SYNC &&
		program->excuse(target, step))
	{
		target->heard = target->answered = target->skips = true;
		target->settled = target->phase != KR_FLEET_RUNS;
		return;
	}
	target->settled = true;
	if (final && target->commits)
		kr_fleet_fail_with(target, program->raise_unknown);
	else if (final && PQresultErrorField(target->result, PG_DIAG_SQLSTATE) == NULL)
		break_off(target, raise_lost);
	else
		kr_fleet_fail_with(target, program->raise_result);
}

static void
take_answer(KrFleetTarget *target, const KrFleetStep *step)
{
	if (target->answered || step->kind == KR_FLEET_SYNC)
	{
		break_off(target, raise_protocol);
		return;
	}
	target->answered = true;
	if (target->program->take != NULL)
		target->program->take(target, step);
}

static void
take_sync(KrFleetTarget *target, const KrFleetStep *step)
{
	if (step->kind != KR_FLEET_SYNC)
	{
		break_off(target, raise_protocol);
		return;
	}
	target->skips = false;
	next_step(target);
}

static void
take_null(KrFleetTarget *target)
{
	if (!target->answered)
		break_off(target, PQstatus(target->pg) == CONNECTION_BAD ? raise_lost : raise_protocol);
	next_step(target);
}

static KrFleetNews
take_row(KrFleetTarget *target, const KrFleetStep *step)
{
	if (target->answered || step->kind == KR_FLEET_SYNC)
	{
		break_off(target, raise_protocol);
		return KR_FLEET_NOTHING;
	}
	if (PQresultMemorySize(target->result) > LARGE_ROW)
		target->held = Max(target->held, (int64) PQresultMemorySize(target->result));
	if (step->kind == KR_FLEET_COMMAND && target->program->take_row != NULL)
		target->program->take_row(target, step);
	if (step->kind != KR_FLEET_ROWS_TOLD)
		return KR_FLEET_NOTHING;
	target->rows++;
	return KR_FLEET_ROW;
}

/* One result of libpq's. */
static KrFleetNews
take_result(KrFleetTarget *target)
{
	const KrFleetStep *step = kr_fleet_current_step(target);

	if (target->result == NULL)
	{
		take_null(target);
		return KR_FLEET_NOTHING;
	}
	target->buffered = 0;
	switch (PQresultStatus(target->result))
	{
		case PGRES_SINGLE_TUPLE:
			target->heard = true;
			return take_row(target, step);
		case PGRES_PIPELINE_SYNC:
			target->heard = true;
			take_sync(target, step);
			break;
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_EMPTY_QUERY:
			target->heard = true;
			take_answer(target, step);
			break;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			break_off(target, raise_copy);
			break;
		case PGRES_PIPELINE_ABORTED:
			if (target->skips && !target->answered && step->kind != KR_FLEET_SYNC)
			{
				target->answered = true;
				break;
			}
			hear_error(target);
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
	const KrFleetStep *step = kr_fleet_current_step(target);

	/* All of them: libpq would collect what a command is answered with, were it without end. */
	if (!target->begun && step->kind != KR_FLEET_SYNC)
		(void) PQsetSingleRowMode(target->pg);
	target->begun = true;
	return PQstatus(target->pg) == CONNECTION_BAD || !PQisBusy(target->pg);
}

bool
kr_fleet_awaits_row(const KrFleetTarget *target)
{
	const KrFleetStep *step = target->phase == KR_FLEET_RUNS ? kr_fleet_current_step(target) : NULL;

	return step != NULL && step->kind == KR_FLEET_ROWS_TOLD;
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

	while (news == KR_FLEET_NOTHING && target->phase == KR_FLEET_RUNS)
	{
		if (kr_fleet_current_step(target) == NULL)
			send_trip(target, target->program->proceed);
		else if (!can_read(target))
			break;
		else
		{
			PQclear(target->result);
			target->result = PQgetResult(target->pg);
			news = take_result(target);
		}
	}
	if (target->phase == KR_FLEET_ENDS)
		news = target->error ? KR_FLEET_FAILED : KR_FLEET_DONE;
	else if (target->phase == KR_FLEET_RESTS)
		news = KR_FLEET_RETRIES;
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
		PQtransactionStatus(target->pg) == PQTRANS_IDLE && target->program->keeps(target))
		kr_spare_put(target->pg, target->source);
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

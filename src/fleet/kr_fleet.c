/*
 * kr_fleet.c
 *	  Work on many data sources at once, from one backend.
 *
 * A fleet works on up to max_parallel targets, each on a connection of its own,
 * and waits for all of them in one wait event set (kr_fleet_wait.c). No process and
 * no thread belongs to a connection; a step of connecting that could block runs on a
 * thread (kr_remote_dial.c). Who is begun when: kr_fleet_turn.c.
 *
 * What goes wrong with one target is its error and nobody else's. What can raise
 * runs in a subtransaction (kr_fleet_try). A target whose program says so is begun
 * again some time later and takes up no connection meanwhile.
 *
 * Memory. Nothing is collected here: who asks for the next row gets one that has
 * arrived, and what is not asked for stays with libpq, in the sockets and at the
 * data sources. A target's own memory is that of its context, which goes with it.
 *
 * Time. A target's limit counts from its beginning, without the time for which
 * nobody asks for rows or it is not read for lack of memory. The whole call's
 * deadline is a time of the clock.
 *
 * The end. A memory context callback ends the fleet when its memory goes: at the
 * end of the query, and in every abort. What still runs is cancelled, all at once
 * and in bounded time, before the connections are closed. What had been committed
 * by then stays so, which the server's log tells. Nothing here belongs to a local
 * transaction: a fleet may outlive the one in which it was begun.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "kr_fleet_engine.h"

/* How long to wait for requests to cancel, all together. */
#define CANCEL_TIMEOUT_MS 2000

/* ---------- subtransactions ---------- */

ErrorData *
kr_fleet_try(void (*run) (void *arg), void *arg, MemoryContext errors, bool may_cancel)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		run(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(errors);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;

	if (error != NULL && may_cancel && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return error;
}

/* ---------- beginning and end ---------- */

static HTAB *
make_table(KrFleet *fleet, const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl = {.keysize = keysize,.entrysize = entrysize,.hcxt = fleet->cxt};

	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Let all connections go; those whose server is at work get a request to stop. */
static void
end_targets(KrFleet *fleet, KrCancel **cancels, int *ncancels, int *nunknown)
{
	dlist_iter	iter;

	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		KrCancel   *cancel = kr_fleet_release(target);

		*nunknown += target->commits;
		/* One for each connection: of those there are as many as may be, not of targets. */
		if (cancel != NULL)
			cancels[(*ncancels)++] = cancel;
	}
	dlist_init(&fleet->running);
}

/* While memory is freed, perhaps in an abort: nothing is allocated, nothing raised. */
static void
end_fleet(KrFleet *fleet)
{
	KrCancel   *cancels[1000];
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CANCEL_TIMEOUT_MS);
	int			ncancels = 0;
	int			nunknown = 0;
	ListCell   *cell;

	if (fleet->ended)
		return;
	fleet->ended = true;
	kr_fleet_forget_waits(fleet);
	end_targets(fleet, cancels, &ncancels, &nunknown);
	foreach(cell, fleet->cancels)
	{
		(void) kr_cancel_wait(lfirst(cell), deadline);
		kr_cancel_end(lfirst(cell));
	}
	for (int i = 0; i < ncancels; i++)
	{
		(void) kr_cancel_wait(cancels[i], deadline);
		kr_cancel_end(cancels[i]);
	}
	if (fleet->program != NULL && !fleet->finished)
		fleet->program->note_cut_off(fleet->program, nunknown);
}

static void
memory_goes(void *arg)
{
	FleetOwner *owner = arg;

	if (owner->fleet != NULL)
		kr_fleet_end(owner->fleet);
}

/*
 * The fleet's memory is not below its user's: children are freed before their
 * parents' callbacks are called.
 */
KrFleet *
kr_fleet_create(MemoryContext cxt)
{
	FleetOwner *owner = MemoryContextAllocZero(cxt, sizeof(FleetOwner));
	MemoryContext own = AllocSetContextCreate(TopMemoryContext, "kessel fleet",
											  ALLOCSET_DEFAULT_SIZES);
	KrFleet    *fleet = MemoryContextAllocZero(own, sizeof(KrFleet));

	fleet->cxt = own;
	fleet->owner = owner;
	dlist_init(&fleet->queues);
	dlist_init(&fleet->running);
	dlist_init(&fleet->resting);
	owner->fleet = fleet;
	owner->callback.func = memory_goes;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(cxt, &owner->callback);
	return fleet;
}

MemoryContext
kr_fleet_memory(const KrFleet *fleet)
{
	return fleet->cxt;
}

void
kr_fleet_begin(KrFleet *fleet, const KrFleetProgram *program)
{
	MemoryContext before = MemoryContextSwitchTo(fleet->cxt);

	fleet->hosts = make_table(fleet, "kessel fleet hosts",
							  sizeof(((KrFleetHost *) NULL)->key), sizeof(KrFleetHost));
	fleet->begun = make_table(fleet, "kessel fleet ids", sizeof(pg_uuid_t), sizeof(pg_uuid_t));
	if (program->deadline_ms > 0)
		fleet->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), program->deadline_ms);
	fleet->program = program;
	MemoryContextSwitchTo(before);
}

void
kr_fleet_end(KrFleet *fleet)
{
	end_fleet(fleet);
	fleet->owner->fleet = NULL;
	MemoryContextDelete(fleet->cxt);
}

/* ---------- the user's side ---------- */

/* Its connection is let go; it has nothing more to do. */
static void
settle(KrFleet *fleet, KrFleetTarget *target)
{
	KrCancel   *cancel;

	kr_fleet_forget_waits(fleet);
	cancel = kr_fleet_release(target);
	if (cancel != NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(fleet->cxt);

		fleet->cancels = lappend(fleet->cancels, cancel);
		MemoryContextSwitchTo(before);
	}
	if (target->counted)
		kr_fleet_host_leave(target->host, target);
	target->counted = false;
}

static void
free_target(KrFleet *fleet, KrFleetTarget *target)
{
	if (!target->keeps_error)
		MemoryContextDelete(target->cxt);
}

static void
describe(KrFleetTarget *target, KrFleetNews news, KrFleetEvent *event)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, target->start);
	memset(event, 0, sizeof(*event));
	event->news = news;
	event->target = target;
	event->row = news == KR_FLEET_ROW ? target->result : NULL;
	event->error = news == KR_FLEET_FAILED || news == KR_FLEET_RETRIES ? target->error : NULL;
	event->ms = INSTR_TIME_GET_MILLISEC(now);
}

/* What has happened to it, and where it belongs from now on. */
static KrFleetNews
take_news_of(KrFleet *fleet, KrFleetTarget *target)
{
	KrFleetNews news;

	if (fleet->program->tells_begin && !target->told_begin)
	{
		target->told_begin = true;
		return KR_FLEET_BEGUN;
	}
	news = kr_fleet_advance(target);
	switch (news)
	{
		case KR_FLEET_NOTHING:
		case KR_FLEET_BEGUN:
			break;
		case KR_FLEET_ROW:
			/* Who has been heard waits for the others. */
			dlist_delete(&target->node);
			dlist_push_tail(&fleet->running, &target->node);
			break;
		case KR_FLEET_RETRIES:
			dlist_delete(&target->node);
			fleet->nrunning--;
			settle(fleet, target);
			dlist_push_tail(&fleet->resting, &target->node);
			fleet->nresting++;
			break;
		case KR_FLEET_DONE:
		case KR_FLEET_FAILED:
			dlist_delete(&target->node);
			fleet->nrunning--;
			fleet->told = target;
			break;
	}
	return news;
}

/* Something that is known already. */
static bool
take_news(KrFleet *fleet, KrFleetEvent *event)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);
		KrFleetNews news = take_news_of(fleet, target);

		if (news == KR_FLEET_NOTHING)
			continue;
		describe(target, news, event);
		if (target == fleet->told)
			settle(fleet, target);
		return true;
	}
	return false;
}

static void
note_return(KrFleet *fleet)
{
	if (fleet->asked != 0)
		kr_fleet_add_time(fleet, fleet->asked, false);
	if (fleet->told != NULL)
		free_target(fleet, fleet->told);
	fleet->told = NULL;
}

bool
kr_fleet_next_until(KrFleet *fleet, KrFleetEvent *event, TimestampTz until)
{
	if (fleet->ended)
		return false;
	note_return(fleet);
	for (;;)
	{
		bool		found;

		CHECK_FOR_INTERRUPTS();
		kr_fleet_begin_targets(fleet);
		memset(event, 0, sizeof(*event));
		found = take_news(fleet, event);
		if (found || (until != 0 && GetCurrentTimestamp() >= until && fleet->nrunning + fleet->nresting > 0))
		{
			fleet->asked = GetCurrentTimestamp();
			return true;
		}
		if (fleet->nrunning + fleet->nresting == 0 && fleet->nlooks < KR_FLEET_MAX_LOOKS)
			break;
		kr_fleet_wait(fleet, until);
	}
	fleet->finished = true;
	end_fleet(fleet);
	return false;
}

bool
kr_fleet_next(KrFleet *fleet, KrFleetEvent *event)
{
	return kr_fleet_next_until(fleet, event, 0);
}

int
kr_fleet_open(const KrFleet *fleet)
{
	if (fleet->ended)
		return 0;
	return fleet->nrunning + fleet->nresting + fleet->nqueued +
		fleet->program->ntargets - fleet->next_index;
}

void
kr_fleet_stop(KrFleet *fleet)
{
	if (fleet->ended)
		return;
	fleet->next_index = fleet->program->ntargets;
	while (!dlist_is_empty(&fleet->queues))
		(void) kr_fleet_dequeue(fleet, dlist_head_element(KrFleetHost, node, &fleet->queues));
	while (!dlist_is_empty(&fleet->resting))
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, dlist_pop_head_node(&fleet->resting));

		fleet->nresting--;
		target->phase = KR_FLEET_ENDS;
		dlist_push_tail(&fleet->running, &target->node);
		fleet->nrunning++;
	}
}

bool
kr_fleet_convert(KrFleetTarget *target, void (*run) (void *arg), void *arg)
{
	ErrorData  *error = kr_fleet_try(run, arg, target->cxt, true);

	if (error == NULL)
		return true;
	kr_fleet_fail(target, error);
	return false;
}

/*
 * kr_fleet.c
 *	  Work on many data sources at once, from one backend.
 *
 * A fleet works on up to max_parallel targets, each on a connection of its own,
 * and waits for all of them in one wait event set. No process and no thread
 * belongs to a connection; a step of connecting that could block runs on a thread
 * (kr_remote_dial.c). Targets are begun in their order, but for those whose host
 * has as many connections as it may have: they queue for it, and others overtake
 * them (kr_fleet_host.c).
 *
 * What goes wrong with one target is its error and nobody else's. What can raise
 * runs in a subtransaction (kr_fleet_try). A target whose program says so is begun
 * again some time later and takes up no connection meanwhile.
 *
 * Memory. Nothing is collected here: who asks for the next row gets one that has
 * arrived, and what is not asked for stays with libpq, in the sockets and at the
 * data sources. While rows that are not complete, and the room that libpq keeps
 * for the largest row of a connection, exceed work_mem, only the target that takes
 * most of it is read, to its end if need be: so a hundred rows of 100 MB each come
 * one after the other. A target's own memory is that of its context,
 * which goes with it.
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
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "kr_error.h"
#include "kr_fleet.h"
#include "kr_guc.h"

/* How many targets to look at for one that can be begun, before others are heard. */
#define MAX_LOOKS 64

/* How often to look whether there is room for who has rested. */
#define REST_CHECK_MS 100

/* How long to wait for requests to cancel, all together. */
#define CANCEL_TIMEOUT_MS 2000

struct KrFleet
{
	MemoryContext cxt;
	struct FleetOwner *owner;
	const KrFleetProgram *program;	/* NULL: not begun */
	TimestampTz deadline;		/* 0: none */
	TimestampTz asked;			/* when kr_fleet_next() returned last */
	int			next_index;		/* of the program's targets */
	HTAB	   *hosts;
	HTAB	   *begun;			/* ids of targets */
	dlist_head	queues;			/* hosts with a queue */
	int			nqueued;
	int			nlooks;			/* since somebody was heard */
	dlist_head	running;		/* targets, in the order in which they are asked */
	int			nrunning;
	dlist_head	resting;		/* targets that are to be begun again */
	int			nresting;
	KrFleetTarget *told;		/* whose end was delivered; it goes with the next call */

	WaitEventSet *waits;		/* NULL: has to be made */
	int			nwaits;
	List	   *cancels;		/* malloc'ed, under way */

	uint64		turns;
	bool		finished;		/* all was told */
	bool		ended;
};

/* In the user's memory: with it goes the fleet. */
typedef struct FleetOwner
{
	MemoryContextCallback callback;
	KrFleet    *fleet;			/* NULL: it has ended before */
} FleetOwner;

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

/* ---------- targets ---------- */

static void
forget_waits(KrFleet *fleet)
{
	if (fleet->waits != NULL)
		FreeWaitEventSet(fleet->waits);
	fleet->waits = NULL;
}

/* Its connection is let go; it has nothing more to do. */
static void
settle(KrFleet *fleet, KrFleetTarget *target)
{
	KrCancel   *cancel;

	forget_waits(fleet);
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
resolve(void *arg)
{
	KrFleetTarget *target = arg;

	target->program->raise_resolve(target);
}

/*
 * A target; NULL when it is one that was begun under another name, but for those
 * that have waited in a queue.
 */
static KrFleetTarget *
make_target(KrFleet *fleet, int index, bool was_queued)
{
	MemoryContext cxt = AllocSetContextCreate(fleet->cxt, "kessel fleet target",
											  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(cxt);
	KrFleetTarget *target = palloc0(sizeof(KrFleetTarget));
	ErrorData  *error;
	bool		found = false;

	target->cxt = cxt;
	target->program = fleet->program;
	target->index = index;
	target->fd = -1;
	INSTR_TIME_SET_CURRENT(target->start);
	error = kr_fleet_try(resolve, target, cxt, true);
	if (error != NULL)
		kr_fleet_fail(target, error);
	if (target->has_id && !was_queued)
		(void) hash_search(fleet->begun, &target->id, HASH_ENTER, &found);
	if (target->source != NULL)
		target->host = kr_fleet_find_host(fleet->hosts, fleet->cxt, target->source);
	MemoryContextSwitchTo(before);
	if (!found)
		return target;
	MemoryContextDelete(cxt);
	return NULL;
}

/* It goes, and is made anew when its turn comes: so however many wait take no memory. */
static void
enqueue(KrFleet *fleet, KrFleetTarget *target)
{
	KrFleetHost *host = target->host;

	if (!kr_fleet_host_has_queue(host))
		dlist_push_tail(&fleet->queues, &host->node);
	kr_fleet_host_push(host, target->index);
	fleet->nqueued++;
	MemoryContextDelete(target->cxt);
}

static int
dequeue(KrFleet *fleet, KrFleetHost *host)
{
	int			index = kr_fleet_host_pop(host);

	if (!kr_fleet_host_has_queue(host))
		dlist_delete(&host->node);
	fleet->nqueued--;
	return index;
}

/* Is the whole call's time up? */
static bool
is_late(const KrFleet *fleet)
{
	return fleet->deadline != 0 && GetCurrentTimestamp() >= fleet->deadline;
}

/* Need its targets not wait, be it that they fail at once? */
static bool
host_is_due(const KrFleet *fleet, const KrFleetHost *host)
{
	return kr_fleet_host_has_room(host) || host->unknown != NULL ||
		kr_fleet_host_is_silent(host) || is_late(fleet);
}

/* One that has rested; NULL: none. */
static KrFleetTarget *
next_rested(KrFleet *fleet)
{
	TimestampTz now = dlist_is_empty(&fleet->resting) ? 0 : GetCurrentTimestamp();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &fleet->resting)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		if ((target->rested > now || !host_is_due(fleet, target->host)) && !is_late(fleet))
			continue;
		dlist_delete(&target->node);
		fleet->nresting--;
		target->phase = KR_FLEET_WAITS;
		target->error = NULL;
		return target;
	}
	return NULL;
}

/* One who has waited for its host; NULL: none. */
static KrFleetTarget *
next_queued(KrFleet *fleet)
{
	dlist_iter	iter;

	dlist_foreach(iter, &fleet->queues)
	{
		KrFleetHost *host = dlist_container(KrFleetHost, node, iter.cur);

		if (host_is_due(fleet, host))
		{
			int			index = dequeue(fleet, host);

			return make_target(fleet, index, true);
		}
	}
	return NULL;
}

/* One that can be begun now, or has failed already; NULL: none. */
static KrFleetTarget *
next_target(KrFleet *fleet)
{
	KrFleetTarget *target = next_rested(fleet);

	if (target != NULL)
		return target;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		target = next_queued(fleet);
		if (target == NULL)
		{
			if (fleet->next_index >= fleet->program->ntargets || fleet->nlooks >= MAX_LOOKS)
				return NULL;
			fleet->nlooks++;
			target = make_target(fleet, fleet->next_index++, false);
		}
		if (target == NULL)
			continue;
		if (target->phase == KR_FLEET_ENDS || host_is_due(fleet, target->host))
			return target;
		enqueue(fleet, target);
	}
}

/* A connection that is idle makes room, too. */
static bool
has_room(KrFleet *fleet)
{
	while (!kr_dial_has_room())
	{
		if (!kr_spare_close_oldest())
			return fleet->nrunning == 0;	/* then the error says so */
	}
	return true;
}

static void
begin_target(KrFleet *fleet, KrFleetTarget *target)
{
	MemoryContext before = MemoryContextSwitchTo(target->cxt);

	dlist_push_tail(&fleet->running, &target->node);
	fleet->nrunning++;
	if (target->phase == KR_FLEET_WAITS && is_late(fleet))
		kr_fleet_fail_late(target, true);
	else if (target->phase == KR_FLEET_WAITS && target->host->unknown != NULL)
		kr_fleet_fail(target, target->host->unknown);
	else if (target->phase == KR_FLEET_WAITS && kr_fleet_host_is_silent(target->host))
		kr_fleet_fail_with(target, kr_fleet_raise_silent);
	if (target->phase == KR_FLEET_WAITS)
	{
		if (!target->told_begin)
			INSTR_TIME_SET_CURRENT(target->start);
		if (fleet->program->timeout_ms > 0)
			target->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   fleet->program->timeout_ms);
		kr_fleet_host_enter(target->host, target);
		target->counted = true;
		forget_waits(fleet);
		kr_fleet_start(target);
	}
	MemoryContextSwitchTo(before);
}

static void
begin_targets(KrFleet *fleet)
{
	fleet->nlooks = 0;
	while (fleet->nrunning < fleet->program->max_parallel)
	{
		KrFleetTarget *target;

		if (!has_room(fleet))
			return;
		target = next_target(fleet);
		if (target == NULL)
			return;
		begin_target(fleet, target);
	}
}

static void
free_target(KrFleet *fleet, KrFleetTarget *target)
{
	if (!target->keeps_error)
		MemoryContextDelete(target->cxt);
}

/* ---------- waiting ---------- */

static void
reap_cancels(KrFleet *fleet)
{
	ListCell   *cell;

	foreach(cell, fleet->cancels)
	{
		KrCancel   *cancel = lfirst(cell);

		if (!kr_cancel_wait(cancel, 0))
			continue;
		fleet->cancels = foreach_delete_current(fleet->cancels, cell);
		kr_cancel_end(cancel);
	}
}

/* What a target's rows take in libpq. */
static int64
weight(const KrFleetTarget *target)
{
	return Max(target->buffered, target->held);
}

/* Who may go on reading: all, or only the one that takes most. */
static void
pause_others(KrFleet *fleet)
{
	KrFleetTarget *largest = NULL;
	int64		total = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		total += weight(target);
		if (largest == NULL || weight(target) > weight(largest))
			largest = target;
	}
	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		target->paused = total > work_mem * INT64CONST(1024) && target != largest &&
			target->phase != KR_FLEET_CONNECTS && !target->flushing;
	}
}

/* True where the set can stay as it is, but for what is waited for on a socket. */
static bool
waits_are_current(KrFleet *fleet)
{
	int			n = 0;
	dlist_iter	iter;

	if (fleet->waits == NULL)
		return false;
	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);
		uint32		events;

		if (target->paused)
		{
			if (target->fd >= 0)
				return false;
			continue;
		}
		if (target->fd != kr_fleet_socket(target, &events) || target->events != events)
			return false;
		n++;
	}
	return n == fleet->nwaits;
}

static void
make_waits(KrFleet *fleet)
{
	dlist_iter	iter;

	forget_waits(fleet);
	fleet->waits = kr_create_wait_event_set(fleet->nrunning + 2);
	AddWaitEventToSet(fleet->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(fleet->waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	fleet->nwaits = 0;
	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		target->fd = -1;
		if (target->paused)
			continue;
		target->fd = kr_fleet_socket(target, &target->events);
		if (target->fd < 0)
			continue;
		AddWaitEventToSet(fleet->waits, target->events, target->fd, NULL, target);
		fleet->nwaits++;
	}
}

static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

/* When those who rest are to be looked at again; 0: there are none. */
static TimestampTz
end_of_rest(KrFleet *fleet)
{
	TimestampTz soon = dlist_is_empty(&fleet->resting) ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REST_CHECK_MS);
	TimestampTz until = 0;
	dlist_iter	iter;

	/* Who is due and was not begun waits for something that nobody is told of. */
	dlist_foreach(iter, &fleet->resting)
		until = earlier(until, Max(soon, dlist_container(KrFleetTarget, node, iter.cur)->rested));
	return until;
}

/* ms to wait at most; -1: for ever */
static long
patience(KrFleet *fleet, TimestampTz until)
{
	dlist_iter	iter;

	/* There may be one that can be begun. */
	if (fleet->nlooks >= MAX_LOOKS)
		return 0;
	until = earlier(earlier(until, fleet->deadline), end_of_rest(fleet));

	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		until = earlier(until, target->paused ? 0 : target->deadline);
		if (target->phase == KR_FLEET_CONNECTS)
			until = earlier(until, kr_dial_deadline(target->dial));
		/* A socket that is none: there is something to be told at once. */
		if (!target->paused && target->fd < 0)
			return 0;
	}
	return until == 0 ? -1 : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
}

static void
hear(KrFleetTarget *target)
{
	MemoryContext before = MemoryContextSwitchTo(target->cxt);

	kr_fleet_hear(target);
	MemoryContextSwitchTo(before);
}

/* All but those who have rows; of them, who has waited longest for a turn. */
static void
hear_some(KrFleet *fleet, const WaitEvent *events, int nevents)
{
	KrFleetTarget *next = NULL;

	for (int i = 0; i < nevents; i++)
	{
		KrFleetTarget *target = events[i].user_data;

		if (target == NULL)
			continue;
		if (!kr_fleet_awaits_row(target))
			hear(target);
		else if (next == NULL || target->heard_at < next->heard_at)
			next = target;
	}
	if (next == NULL)
		return;
	next->heard_at = ++fleet->turns;
	hear(next);
}

/* What nobody has read in time. */
static void
fail_late_ones(KrFleet *fleet)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		all = fleet->deadline != 0 && now >= fleet->deadline;
	dlist_iter	iter;

	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);
		MemoryContext before = MemoryContextSwitchTo(target->cxt);

		if (target->phase == KR_FLEET_ENDS)
			;
		else if (all || (target->deadline != 0 && now >= target->deadline && !target->paused))
			kr_fleet_fail_late(target, all);
		else if (target->phase == KR_FLEET_CONNECTS && now >= kr_dial_deadline(target->dial))
			hear(target);
		MemoryContextSwitchTo(before);
	}
}

/* Time that does not count: deadlines move along with it. */
static void
add_time(KrFleet *fleet, TimestampTz since, bool paused_only)
{
	TimestampTz passed = GetCurrentTimestamp() - since;
	dlist_iter	iter;

	dlist_foreach(iter, &fleet->running)
	{
		KrFleetTarget *target = dlist_container(KrFleetTarget, node, iter.cur);

		if (target->deadline != 0 && (target->paused || !paused_only))
			target->deadline += passed;
		if (target->dial != NULL && !paused_only)
			kr_dial_extend(target->dial, passed);
	}
}

static void
wait_for_some(KrFleet *fleet, TimestampTz until)
{
	TimestampTz begun = GetCurrentTimestamp();
	WaitEvent	events[1002];
	int			n;

	pause_others(fleet);
	if (!waits_are_current(fleet))
		make_waits(fleet);
	n = WaitEventSetWait(fleet->waits, patience(fleet, until), events, lengthof(events), PG_WAIT_EXTENSION);
	add_time(fleet, begun, true);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	hear_some(fleet, events, n);
	fail_late_ones(fleet);
	reap_cancels(fleet);
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
	forget_waits(fleet);
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
		add_time(fleet, fleet->asked, false);
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
		begin_targets(fleet);
		memset(event, 0, sizeof(*event));
		found = take_news(fleet, event);
		if (found || (until != 0 && GetCurrentTimestamp() >= until && fleet->nrunning + fleet->nresting > 0))
		{
			fleet->asked = GetCurrentTimestamp();
			return true;
		}
		if (fleet->nrunning + fleet->nresting == 0 && fleet->nlooks < MAX_LOOKS)
			break;
		wait_for_some(fleet, until);
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
		(void) dequeue(fleet, dlist_head_element(KrFleetHost, node, &fleet->queues));
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

/*
 * kr_fleet_wait.c
 *	  Waiting for a fleet's targets, all of them in one wait event set.
 *
 * The set is made anew when a target comes, goes, or waits for something else. Who is
 * heard reads; who has rows waits for a turn. While rows that are not complete, and
 * the room that libpq keeps for the largest row of a connection, exceed work_mem, only
 * the target that takes most of it is read, to its end if need be: so a hundred rows of
 * 100 MB each come one after the other. Its time does not count for the others.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"

#include "kr_compat.h"
#include "kr_fleet_engine.h"

/* How often to look whether there is room for who has rested. */
#define REST_CHECK_MS 100

/* ---------- the set ---------- */

void
kr_fleet_forget_waits(KrFleet *fleet)
{
	if (fleet->waits != NULL)
		FreeWaitEventSet(fleet->waits);
	fleet->waits = NULL;
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

	kr_fleet_forget_waits(fleet);
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

/* ---------- how long ---------- */

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
	if (fleet->nlooks >= KR_FLEET_MAX_LOOKS)
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

void
kr_fleet_add_time(KrFleet *fleet, TimestampTz since, bool paused_only)
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

/* ---------- who is heard ---------- */

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

void
kr_fleet_wait(KrFleet *fleet, TimestampTz until)
{
	TimestampTz begun = GetCurrentTimestamp();
	WaitEvent	events[1002];
	int			n;

	pause_others(fleet);
	if (!waits_are_current(fleet))
		make_waits(fleet);
	n = WaitEventSetWait(fleet->waits, patience(fleet, until), events, lengthof(events), PG_WAIT_EXTENSION);
	kr_fleet_add_time(fleet, begun, true);
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

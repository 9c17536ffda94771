/*
 * kr_fleet_turn.c
 *	  Whose turn it is in a fleet.
 *
 * Targets are begun in their order, but for those whose host has as many connections
 * as it may have: they queue for it, and others overtake them (kr_fleet_host.c). Who
 * has rested comes first. A target whose host is not there, or whose call has no time
 * left, is begun, too: to fail.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "kr_fleet_engine.h"

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

int
kr_fleet_dequeue(KrFleet *fleet, KrFleetHost *host)
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
			int			index = kr_fleet_dequeue(fleet, host);

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
			if (fleet->next_index >= fleet->program->ntargets || fleet->nlooks >= KR_FLEET_MAX_LOOKS)
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
		kr_fleet_forget_waits(fleet);
		kr_fleet_start(target);
	}
	MemoryContextSwitchTo(before);
}

void
kr_fleet_begin_targets(KrFleet *fleet)
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

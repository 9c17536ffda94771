/*
 * kr_fleet_engine.h
 *	  The state of a fleet, and what the parts of its engine offer each other: its
 *	  beginning, news and end (kr_fleet.c), whose turn it is (kr_fleet_turn.c), and
 *	  waiting (kr_fleet_wait.c). Nobody else looks into it.
 */
#ifndef KR_FLEET_ENGINE_H
#define KR_FLEET_ENGINE_H

#include "postgres.h"

#include "storage/latch.h"

#include "kr_compat.h"
#include "kr_fleet.h"

/* How many targets to look at for one that can be begun, before others are heard. */
#define KR_FLEET_MAX_LOOKS 64

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

/* ---------- kr_fleet_turn.c ---------- */

/* Begin as many as there is room for. */
extern void kr_fleet_begin_targets(KrFleet *fleet);

/* The index of the first who waits for the host. */
extern int	kr_fleet_dequeue(KrFleet *fleet, KrFleetHost *host);

/* ---------- kr_fleet_wait.c ---------- */

/* Until somebody was heard, or that time. 0: none. */
extern void kr_fleet_wait(KrFleet *fleet, TimestampTz until);

/* Who is waited for has changed. */
extern void kr_fleet_forget_waits(KrFleet *fleet);

/* Time that does not count: deadlines move along with it. */
extern void kr_fleet_add_time(KrFleet *fleet, TimestampTz since, bool paused_only);

#endif							/* KR_FLEET_ENGINE_H */

/*
 * kr_fleet.h
 *	  One statement on many tenants: the engine (kr_fleet.c), one tenant's part of
 *	  it (kr_fleet_target.c), and what a statement may be (kr_fleet_fence.c).
 */
#ifndef KR_FLEET_H
#define KR_FLEET_H

#include "postgres.h"

#include "lib/ilist.h"
#include "libpq-fe.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

#include "kr_remote_dial.h"
#include "kr_route.h"

typedef enum KrFleetKind
{
	KR_FLEET_QUERY,				/* rows as jsonb, read only */
	KR_FLEET_ROWS,				/* rows as they are, read only */
	KR_FLEET_EXEC				/* what it does is committed */
} KrFleetKind;

/* ---------- kr_fleet_fence.c ---------- */

typedef struct KrFleetStatement
{
	KrFleetKind kind;
	const char *sql;			/* as the caller has it, up to the statement's end */
	const char *sent;			/* as it is sent */
	bool		as_jsonb;		/* each row comes as one jsonb */
	const char *unconfined;		/* why it could leave its tenant; NULL: it cannot */
	int			location;		/* of that, in bytes; -1: nowhere */
	List	   *schemas;		/* of tables that it names, each once */
} KrFleetStatement;

/* Errors: 42601 several statements, 0A000 COPY, 2D000 transaction control. */
extern void kr_fleet_read_statement(KrFleetStatement *statement, const char *sql, KrFleetKind kind);

/* Raise what keeps it from running for a tenant who shares the source with others. */
extern void kr_fleet_check_confined(const KrFleetStatement *statement, const KrRoute *route);

/* ---------- kr_fleet.c ---------- */

typedef struct KrFleetOptions
{
	KrFleetKind kind;
	const char *sql;
	char	  **tenants;		/* as they are to be called; each once */
	int			ntenants;
	int			nparams;
	const char *const *params;
	int			max_parallel;
	int64		timeout_ms;		/* for each tenant; 0: none */
	int64		deadline_ms;	/* for all; 0: none */
} KrFleetOptions;

typedef struct KrFleet KrFleet;
typedef struct KrFleetTarget KrFleetTarget;

typedef enum KrFleetNews
{
	KR_FLEET_NOTHING,
	KR_FLEET_ROW,				/* a row of a tenant's */
	KR_FLEET_DONE,				/* a tenant has had its last row */
	KR_FLEET_FAILED				/* a tenant's work has failed, perhaps after some rows */
} KrFleetNews;

/* Valid until the next kr_fleet_next(). */
typedef struct KrFleetEvent
{
	KrFleetNews news;
	KrFleetTarget *target;
	const char *tenant;			/* slug, or as it was named where there is none such */
	const PGresult *row;		/* its first row; of DONE: NULL */
	uint64		rows;			/* DONE: that were delivered, or affected */
	const char *command;		/* DONE: the command's tag without numbers */
	const ErrorData *error;		/* FAILED */
	double		ms;				/* since the work for this tenant began */
} KrFleetEvent;

/*
 * Begin. The fleet ends with cxt, whatever way that goes; what then runs in data
 * sources is cancelled. The options' contents must last as long.
 */
extern KrFleet *kr_fleet_begin(MemoryContext cxt, const KrFleetOptions *options);

/* Do rows come as one jsonb each? Else in columns. */
extern bool kr_fleet_sends_jsonb(const KrFleet *fleet);

/* The next thing that has happened, waiting for it. False: nothing more will. */
extern bool kr_fleet_next(KrFleet *fleet, KrFleetEvent *event);

/*
 * Convert the row that was delivered last, in a subtransaction. False where that
 * has raised an error: then it is the tenant's work that has failed.
 */
extern bool kr_fleet_convert(KrFleetTarget *target, void (*run) (void *arg), void *arg);

/*
 * Run something in a subtransaction; the error that it has raised, in the memory
 * context errors, or NULL. With may_cancel an error that cancels the statement
 * here is raised on.
 */
extern ErrorData *kr_fleet_try(void (*run) (void *arg), void *arg,
							   MemoryContext errors, bool may_cancel);

/* ---------- kr_fleet_target.c ---------- */

/* A host and port, and the limit of connections to it. In the fleet's memory. */
typedef struct KrFleetHost
{
	char		key[256];
	int			active;
	int			waiting;		/* targets */
	bool		looked_up;		/* its name has an address */
	ErrorData  *unknown;		/* its name has none */
	dlist_head	queue;			/* of targets that wait for their turn */
	dlist_node	node;			/* in the fleet's list of hosts with a queue */
} KrFleetHost;

typedef enum KrFleetPhase
{
	KR_FLEET_WAITS,				/* for its turn */
	KR_FLEET_CONNECTS,
	KR_FLEET_RUNS,
	KR_FLEET_COMMITS,			/* the COMMIT is on its way */
	KR_FLEET_ENDS				/* with an error or without */
} KrFleetPhase;

#define KR_FLEET_MAX_STEPS 16

struct KrFleetTarget
{
	dlist_node	node;			/* in the fleet's list of running ones, or a host's queue */
	MemoryContext cxt;
	const KrFleetStatement *statement;
	const KrFleetOptions *options;
	const char *tenant;
	const KrRoute *route;		/* the route cache's, to the end of the transaction */
	KrFleetHost *host;
	KrFleetPhase phase;
	bool		counted;		/* in host->active */
	instr_time	start;
	TimestampTz deadline;		/* 0: none */

	KrDial	   *dial;
	PGconn	   *pg;
	bool		was_spare;
	bool		heard;			/* the connection has answered something */
	bool		settled;		/* it has ended what it did, with an error */
	bool		spoiled;		/* of no more use when it is done */
	char		steps[KR_FLEET_MAX_STEPS];	/* what is to be answered, see kr_fleet_target.c */
	int			step;
	bool		begun;			/* to read the step's answer */
	bool		answered;		/* but for the end of it */
	bool		flushing;
	int64		buffered;		/* bytes that have come since the last result, roughly */
	int64		held;			/* of the largest row, which libpq keeps room for */
	PGresult   *result;
	uint64		rows;
	const char *command;
	ErrorData  *error;
	bool		keeps_error;	/* for others of its host, who have the same */

	int			fd;				/* in the wait event set; -1: not */
	uint32		events;
	bool		paused;
	uint64		heard_at;		/* its last turn */
};

/* What was asked for by name; raises KR002, KR003, KR005, KR008, 42501 and so on. */
extern void kr_fleet_resolve(KrFleetTarget *target);
extern void kr_fleet_host_key(const KrSource *source, char *key, Size size);

/* Take a spare connection and send, or begin to connect. */
extern void kr_fleet_start(KrFleetTarget *target);

/* Its file descriptor is ready. */
extern void kr_fleet_hear(KrFleetTarget *target);

/* What comes next may be a row, which is to be delivered before anybody else is heard. */
extern bool kr_fleet_awaits_row(const KrFleetTarget *target);

/* What it has to tell without waiting. */
extern KrFleetNews kr_fleet_advance(KrFleetTarget *target);

extern void kr_fleet_fail(KrFleetTarget *target, ErrorData *error);
extern void kr_fleet_fail_late(KrFleetTarget *target, bool whole_call);
extern int	kr_fleet_socket(KrFleetTarget *target, uint32 *events);

/*
 * Let its connection go. NULL, or the request to stop what runs there, which is
 * the caller's. Raises nothing.
 */
extern KrCancel *kr_fleet_release(KrFleetTarget *target);

#endif							/* KR_FLEET_H */

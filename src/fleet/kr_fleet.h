/*
 * kr_fleet.h
 *	  Work on many data sources at once: the engine (kr_fleet.c, kr_fleet_turn.c and
 *	  kr_fleet_wait.c), the hosts that they are on (kr_fleet_host.c), one target's
 *	  connection and what goes over it (kr_fleet_target.c). What is done for each
 *	  target is a program: one statement for each tenant (kr_fleet_statement.c, and
 *	  kr_fleet_fence.c for what it may be), or migrations (src/migrate).
 */
#ifndef KR_FLEET_H
#define KR_FLEET_H

#include "postgres.h"

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "portability/instr_time.h"
#include "utils/hsearch.h"
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

/* ---------- programs ---------- */

typedef struct KrFleet KrFleet;
typedef struct KrFleetTarget KrFleetTarget;

/* What is sent and has an answer of its own. */
typedef enum KrFleetStepKind
{
	KR_FLEET_COMMAND,			/* its rows and its end are taken */
	KR_FLEET_ROWS_TOLD,			/* each of its rows is told */
	KR_FLEET_ROWS_DROPPED,		/* its rows are of no interest */
	KR_FLEET_SYNC				/* a synchronisation point */
} KrFleetStepKind;

typedef struct KrFleetStep
{
	KrFleetStepKind kind;
	int			tag;			/* the program's */
} KrFleetStep;

/*
 * What is done for each target. Functions are called in the target's memory
 * context and, but for those named raise_..., raise nothing that is the target's
 * own: that is told with kr_fleet_fail().
 */
typedef struct KrFleetProgram
{
	int			ntargets;
	int			max_parallel;
	int64		timeout_ms;		/* for each target, from its beginning; 0: none */
	int64		deadline_ms;	/* for all; 0: none */
	bool		tells_begin;	/* KR_FLEET_BEGUN is of interest */

	/*
	 * Whose turn target->index is: set source, which outlives the target, and label;
	 * id where it counts once. In a subtransaction, errors are the target's. Called
	 * again, for a new target, where this one has to wait for its host.
	 */
	void		(*raise_resolve) (KrFleetTarget *target);

	/*
	 * There is a connection: queue the first trip. Called again where a spare
	 * connection turns out to be closed, and after kr_fleet_rest().
	 */
	void		(*begin) (KrFleetTarget *target);

	/* All that was queued is answered: queue more, or kr_fleet_finish(). */
	void		(*proceed) (KrFleetTarget *target);

	/*
	 * target->result is a row of a command's: of any number, with any columns,
	 * whatever was asked. NULL: none is of interest.
	 */
	void		(*take_row) (KrFleetTarget *target, const KrFleetStep *step);

	/* target->result ends a command well. */
	void		(*take) (KrFleetTarget *target, const KrFleetStep *step);

	/*
	 * target->result is an error, after which the connection is still of use: true
	 * where the work goes on, at the next synchronisation point. NULL: never.
	 */
	bool		(*excuse) (KrFleetTarget *target, const KrFleetStep *step);

	/* target->result is an error that is not excused. */
	void		(*raise_result) (KrFleetTarget *target);

	/* The connection is gone. NULL: nothing particular is to be said of that. */
	void		(*raise_lost) (KrFleetTarget *target);

	/* Its time is over. */
	void		(*raise_late) (KrFleetTarget *target, bool whole_call);

	/* Nobody has answered while target->commits. */
	void		(*raise_unknown) (KrFleetTarget *target);

	/* The work is done: is its connection as a new one is? */
	bool		(*keeps) (const KrFleetTarget *target);

	/* The fleet was ended before it was finished. Raises nothing. */
	void		(*note_cut_off) (const struct KrFleetProgram *program, int nunknown);
} KrFleetProgram;

/* ---------- kr_fleet.c ---------- */

typedef enum KrFleetNews
{
	KR_FLEET_NOTHING,
	KR_FLEET_BEGUN,				/* the work for a target has begun */
	KR_FLEET_ROW,				/* a row of a target's */
	KR_FLEET_RETRIES,			/* it has failed, and will be begun again */
	KR_FLEET_DONE,				/* it has had its last row */
	KR_FLEET_FAILED				/* its work has failed, perhaps after some rows */
} KrFleetNews;

/* Valid until the next kr_fleet_next(). */
typedef struct KrFleetEvent
{
	KrFleetNews news;
	KrFleetTarget *target;
	const PGresult *row;		/* its first row; of DONE: NULL */
	const ErrorData *error;		/* FAILED, RETRIES */
	double		ms;				/* since the work for this target began */
} KrFleetEvent;

/*
 * A fleet ends with cxt, whatever way that goes; what then runs in data sources is
 * cancelled. It may live through several local transactions. Its program must live
 * as long as kr_fleet_memory(), where it may be put.
 */
extern KrFleet *kr_fleet_create(MemoryContext cxt);
extern MemoryContext kr_fleet_memory(const KrFleet *fleet);
extern void kr_fleet_begin(KrFleet *fleet, const KrFleetProgram *program);

/* End it now; its memory goes, too. */
extern void kr_fleet_end(KrFleet *fleet);

/* The next thing that has happened, waiting for it. False: nothing more will. */
extern bool kr_fleet_next(KrFleet *fleet, KrFleetEvent *event);

/* The same, but KR_FLEET_NOTHING where nothing has happened by then. 0: wait. */
extern bool kr_fleet_next_until(KrFleet *fleet, KrFleetEvent *event, TimestampTz until);

/* Targets that have not ended, or not begun. */
extern int	kr_fleet_open(const KrFleet *fleet);

/* Begin no more targets; who waits to be begun again fails. */
extern void kr_fleet_stop(KrFleet *fleet);

/*
 * Convert the row that was delivered last, in a subtransaction. False where that
 * has raised an error: then it is the target's work that has failed.
 */
extern bool kr_fleet_convert(KrFleetTarget *target, void (*run) (void *arg), void *arg);

/*
 * Run something in a subtransaction; the error that it has raised, in the memory
 * context errors, or NULL. With may_cancel an error that cancels the statement
 * here is raised on.
 */
extern ErrorData *kr_fleet_try(void (*run) (void *arg), void *arg,
							   MemoryContext errors, bool may_cancel);

/* ---------- kr_fleet_statement.c: a statement for each tenant ---------- */

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

/* The options' contents must last as long as cxt. */
extern KrFleet *kr_fleet_begin_statement(MemoryContext cxt, const KrFleetOptions *options);

/* Do rows come as one jsonb each? Else in columns. */
extern bool kr_fleet_sends_jsonb(const KrFleetTarget *target);

/* Of a target that is done: the command's tag without numbers. */
extern const char *kr_fleet_command_of(const KrFleetTarget *target);

/* ---------- kr_fleet_host.c ---------- */

/* A host and port, and whether connections to it may be opened. In the fleet's memory. */
typedef struct KrFleetHost
{
	char		key[256];
	MemoryContext cxt;
	int			active;			/* targets at work there */
	bool		looked_up;		/* its name has an address */
	ErrorData  *unknown;		/* its name has none */
	bool		answers;		/* it has let somebody in, or refused to */
	int			silences;		/* attempts to connect, the last ones, that had no answer in time */
	const KrFleetTarget *prober;	/* who tries whether it answers again; NULL: nobody */
	TimestampTz probe;			/* not before */
	int		   *queue;			/* indexes of targets that wait for their turn */
	int			queue_first;
	int			queue_end;
	int			queue_size;
	dlist_node	node;			/* in the fleet's list of hosts with a queue */
} KrFleetHost;

/* It is made, and its queue later on, in cxt, which is the table's. */
extern KrFleetHost *kr_fleet_find_host(HTAB *hosts, MemoryContext cxt, const KrSource *source);

/* May a target be begun there now? */
extern bool kr_fleet_host_has_room(const KrFleetHost *host);

/* Has nobody an answer from it? Then kr_fleet_raise_silent() says so for a target. */
extern bool kr_fleet_host_is_silent(const KrFleetHost *host);
extern void kr_fleet_raise_silent(KrFleetTarget *target);

/* Somebody begins to work there; has been let in; has an end. */
extern void kr_fleet_host_enter(KrFleetHost *host, const KrFleetTarget *target);
extern void kr_fleet_host_answered(KrFleetHost *host);
extern void kr_fleet_host_leave(KrFleetHost *host, const KrFleetTarget *target);

/* The queue, first in, first out. */
extern void kr_fleet_host_push(KrFleetHost *host, int index);
extern int	kr_fleet_host_pop(KrFleetHost *host);
extern bool kr_fleet_host_has_queue(const KrFleetHost *host);

/* ---------- kr_fleet_target.c ---------- */

typedef enum KrFleetPhase
{
	KR_FLEET_WAITS,				/* for its turn */
	KR_FLEET_CONNECTS,
	KR_FLEET_RUNS,
	KR_FLEET_RESTS,				/* to be begun again */
	KR_FLEET_ENDS				/* with an error or without */
} KrFleetPhase;

struct KrFleetTarget
{
	dlist_node	node;			/* in a list of the fleet's, or a host's queue */
	MemoryContext cxt;
	const KrFleetProgram *program;
	int			index;			/* which of the program's targets, from 0 */
	void	   *work;			/* the program's */
	const char *label;			/* as the user calls it */
	const KrSource *source;
	bool		has_id;			/* of those with the same one, only the first counts */
	pg_uuid_t	id;
	KrFleetHost *host;
	KrFleetPhase phase;
	bool		counted;		/* in host->active */
	bool		told_begin;
	instr_time	start;
	TimestampTz deadline;		/* 0: none */
	TimestampTz rested;			/* when it may be begun again */

	KrDial	   *dial;
	PGconn	   *pg;
	bool		was_spare;
	bool		heard;			/* the connection has answered something */
	bool		settled;		/* it has ended what it did, with an error */
	bool		spoiled;		/* of no more use when it is done */
	bool		commits;		/* a commit is on its way: set and cleared by the program */
	bool		concluded;		/* whatever comes, the work is done: set by the program */
	bool		skips;			/* what was queued, up to a synchronisation point */
	bool		unsent;			/* something could not be queued */
	StringInfoData steps;		/* of KrFleetStep: what is to be answered */
	int			step;			/* the next of them */
	bool		begun;			/* to read the step's answer */
	bool		answered;		/* but for the end of it */
	bool		flushing;
	int64		buffered;		/* bytes that have come since the last result, roughly */
	int64		held;			/* of the largest row, which libpq keeps room for */
	PGresult   *result;
	uint64		rows;			/* that were told; or what the program counts */
	ErrorData  *error;
	bool		keeps_error;	/* for others of its host, who have the same */
	bool		unanswered;		/* it was not let in, or refused, in time */

	int			fd;				/* in the wait event set; -1: not */
	uint32		events;
	bool		paused;
	uint64		heard_at;		/* its last turn */
};

/* For programs: queue what goes over the connection. */
extern void kr_fleet_queue(KrFleetTarget *target, KrFleetStepKind kind, int tag,
						   const char *sql, int nparams, const char *const *values);
extern void kr_fleet_queue_sync(KrFleetTarget *target);

/* A new session's settings; or, before a pooler, those of the transaction begun. */
extern void kr_fleet_queue_settings(KrFleetTarget *target, bool is_local);

/* For programs: the work is done; is at an end with an error; begins again later. */
extern void kr_fleet_finish(KrFleetTarget *target);
extern void kr_fleet_fail(KrFleetTarget *target, ErrorData *error);
extern void kr_fleet_fail_with(KrFleetTarget *target, void (*raise) (KrFleetTarget *target));
extern void kr_fleet_rest(KrFleetTarget *target, ErrorData *error, int64 ms);

/* Whose answer is due next; NULL: all is answered. */
extern const KrFleetStep *kr_fleet_current_step(const KrFleetTarget *target);

/* The error that is raised, in the target's memory. */
extern ErrorData *kr_fleet_error(KrFleetTarget *target, void (*raise) (KrFleetTarget *target));

/* Take a spare connection and send, or begin to connect. */
extern void kr_fleet_start(KrFleetTarget *target);

/* Its file descriptor is ready. */
extern void kr_fleet_hear(KrFleetTarget *target);

/* What comes next may be a row, which is to be delivered before anybody else is heard. */
extern bool kr_fleet_awaits_row(const KrFleetTarget *target);

/* What it has to tell without waiting. */
extern KrFleetNews kr_fleet_advance(KrFleetTarget *target);

extern void kr_fleet_fail_late(KrFleetTarget *target, bool whole_call);
extern int	kr_fleet_socket(KrFleetTarget *target, uint32 *events);

/*
 * Let its connection go. NULL, or the request to stop what runs there, which is
 * the caller's. Raises nothing.
 */
extern KrCancel *kr_fleet_release(KrFleetTarget *target);

#endif							/* KR_FLEET_H */

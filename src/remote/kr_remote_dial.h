/*
 * kr_remote_dial.h
 *	  Connections to data sources for who drives many of them at once, outside
 *	  of the local transaction: connecting in steps, cancelling without waiting,
 *	  and a place for those that are idle.
 */
#ifndef KR_REMOTE_DIAL_H
#define KR_REMOTE_DIAL_H

#include "postgres.h"

#include "libpq-fe.h"
#include "utils/timestamp.h"

#include "kr_compat.h"
#include "kr_route.h"

/*
 * Connecting, with the source's runtime credential. Nothing here waits, but for
 * libpq's own look-up of a name that has just been looked up.
 */
typedef struct KrDial KrDial;

/*
 * Begin. palloc'd; the source must outlive it. looked_up: somebody has just found
 * an address for its name. Errors are raised, here and in kr_dial_step().
 */
extern KrDial *kr_dial_start(const KrSource *source, bool looked_up);

/* One step, when the file descriptor is ready or the deadline has passed. True: connected. */
extern bool kr_dial_step(KrDial *dial);

/* For what to wait: a file descriptor, WL_SOCKET_..., and until when. */
extern int	kr_dial_socket(const KrDial *dial, uint32 *events);
extern TimestampTz kr_dial_deadline(const KrDial *dial);

/* Time in which nobody could take a step, in microseconds, does not count. */
extern void kr_dial_extend(KrDial *dial, int64 us);

/* The name for which no address was found in the step that has raised an error. */
extern bool kr_dial_lacks_address(const KrDial *dial);

/* Nobody has let it in, nor refused it, in the time that there was for that. */
extern bool kr_dial_is_unanswered(const KrDial *dial);

/* Does the source's name have to be looked up? */
extern bool kr_dial_needs_look_up(const KrSource *source);

/*
 * The connection, when there is one: non-blocking, in pipeline mode, notices are
 * dropped. It is the caller's, to be given to kr_remote_disconnect() or
 * kr_spare_put().
 */
extern PGconn *kr_dial_take(KrDial *dial);

/* Give up, or be done. Raises nothing. */
extern void kr_dial_end(KrDial *dial);

extern void kr_remote_disconnect(PGconn *pg);	/* pg may be NULL after kr_remote_poll() */

/* True where a connection more, and what it takes to make it, may be opened. */
extern bool kr_dial_has_room(void);

/*
 * Queue what a session's transactions rely on. In its own transaction, with a
 * synchronisation point, for a new session; or (is_local) for the transaction
 * that has been started. How many commands that is; -1 where sending failed.
 */
extern int	kr_dial_queue_settings(PGconn *pg, bool is_local);

/*
 * Connections that are idle, outside of any transaction and as a new session is
 * but for those settings. At most kessel.max_idle_connections are kept.
 */
extern PGconn *kr_spare_take(const KrSource *source);	/* NULL: none */
extern void kr_spare_put(PGconn *pg, const KrSource *source);
extern bool kr_spare_close_oldest(void);	/* false: there is none */

/*
 * Ask a server to stop, without waiting for that. malloc'ed; NULL where it could
 * not be done. The connection may be closed meanwhile. Nothing of it raises.
 */
typedef struct KrCancel KrCancel;

extern KrCancel *kr_cancel_start(PGconn *pg);
extern bool kr_cancel_wait(KrCancel *cancel, TimestampTz deadline);	/* 0: is it done? */
extern void kr_cancel_end(KrCancel *cancel);

/* Errors of data sources, raised as errors of this server: kr_remote_error.c */
extern void kr_remote_raise_result(const PGresult *result, const char *source,
								   const char *tenant, const char *sql,
								   bool withhold) pg_attribute_noreturn();
/* A copy that is well-formed in our encoding, whatever the data source has sent. */
extern char *kr_remote_clean_text(const char *text);

extern void kr_remote_raise_lost(PGconn *pg, const char *source) pg_attribute_noreturn();

#endif							/* KR_REMOTE_DIAL_H */

/*
 * kr_audit_ring.h
 *	  Records on their way from all backends to the workers that store them.
 */
#ifndef KR_AUDIT_RING_H
#define KR_AUDIT_RING_H

#include "postgres.h"

#include "kr_audit_int.h"

/* What can be told of a database's queue. */
typedef struct KrRingStatus
{
	int			size;			/* kB of shared memory, 0: there is none */
	int			used;			/* kB in use, of all databases */
	int			pending;		/* this database's records */
	int			worker_pid;		/* 0: none runs */
	uint64		lost;			/* rows since the server's start */
	uint64		failed_starts;	/* how often no worker could be had */
} KrRingStatus;

/* From _PG_init: asks for shared memory where the library is preloaded. */
extern void kr_ring_init(void);

/* For backends: never waits for room. False where nothing stores records. */
extern bool kr_ring_put(const KrAuditRecord *record);

extern void kr_ring_status(KrRingStatus *status);

/*
 * For a database's worker. attach: false where another one works already, or
 * there is nothing to do. peek: the first records that wait, without taking
 * them. taken: the first nrecords and nlost are stored. sleep: from now on the
 * next record sets this worker's latch; false if one waits already. leave: ends
 * this worker's turn; with if_idle only, and true, if nothing waits.
 */
extern bool kr_ring_attach(void);
extern int	kr_ring_peek(KrAuditRecord *records, int max, int max_rows, uint64 *nlost);
extern void kr_ring_taken(int nrecords, uint64 nlost);
extern bool kr_ring_sleep(void);
extern bool kr_ring_leave(bool if_idle);

/* Forget what waits for databases of which exists() is false. */
extern void kr_ring_forget(bool (*exists) (Oid database));

/* Counters of alerts, in shared memory where there is some. */
typedef struct KrAlertCounter
{
	Oid			database;
	Oid			role;
	int			kind;
	int64		slot;			/* number of the current slot of time */
	uint32		counts[6];		/* by slot modulo 6 */
	TimestampTz alerted_at;
} KrAlertCounter;

#define KR_ALERT_COUNTERS 256

/* The counters, locked until kr_ring_unlock_counters(). */
extern KrAlertCounter *kr_ring_lock_counters(void);
extern void kr_ring_unlock_counters(void);

#endif							/* KR_AUDIT_RING_H */

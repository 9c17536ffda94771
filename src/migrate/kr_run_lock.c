/*
 * kr_run_lock.c
 *	  The lock that keeps two runs of one blueprint apart, for kessel.migrate(),
 *	  kessel.rollback() and kessel.baseline().
 *
 * A run commits many times, so its lock is one of the session. It must not outlive
 * the run, whatever ends that: a lock of pg_advisory_lock() would stay with a
 * session whose run was cancelled, and anybody could take it. This one is a
 * session lock of the lock method that tables have, as VACUUM takes it: it
 * survives COMMIT, and goes with any ROLLBACK of a whole transaction. An error in
 * a run ends in such a one, for it has committed before it took the lock, which
 * nobody can who would catch the error. kessel.baseline() is a function, whose
 * errors its caller can catch: its lock is one of the transaction, and goes with
 * the subtransaction that an error takes back. In pg_locks both show as an advisory
 * lock with objsubid 75, a number that no SQL function of PostgreSQL's gives out.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"

PG_FUNCTION_INFO_V1(kr_run_check_alone);
PG_FUNCTION_INFO_V1(kr_run_lock);
PG_FUNCTION_INFO_V1(kr_run_unlock);

/* objsubid in pg_locks; kessel._run_holder() looks for it. */
#define RUN_LOCK 75

static void
set_tag(LOCKTAG *tag, int64 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) ((uint64) key >> 32), (uint32) key, RUN_LOCK);
	tag->locktag_lockmethodid = DEFAULT_LOCKMETHOD;
}

/* The same condition under which CALL refuses a procedure's COMMIT, before it comes to that. */
Datum
kr_run_check_alone(PG_FUNCTION_ARGS)
{
	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a migration cannot run inside a transaction block"),
				 errdetail("It commits as it goes."),
				 errhint("Send the CALL alone, without BEGIN and without other statements beside it.")));
	PG_RETURN_VOID();
}

/* False: another session has it, or, unless it is for the transaction, this one. */
Datum
kr_run_lock(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;
	LockAcquireResult result;

	set_tag(&tag, PG_GETARG_INT64(0));
	if (PG_GETARG_BOOL(1))
		PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL);
	result = LockAcquire(&tag, ExclusiveLock, true, true);
	/* By a run that calls this one, for there is no other way. */
	if (result == LOCKACQUIRE_ALREADY_HELD)
		LockRelease(&tag, ExclusiveLock, true);
	PG_RETURN_BOOL(result == LOCKACQUIRE_OK);
}

Datum
kr_run_unlock(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	set_tag(&tag, PG_GETARG_INT64(0));
	PG_RETURN_BOOL(LockRelease(&tag, ExclusiveLock, true));
}

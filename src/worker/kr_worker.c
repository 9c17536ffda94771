/*
 * kr_worker.c
 *	  The background worker that moves a database's audit records from shared
 *	  memory into app.audit_log.
 *
 * One a database, asked for by the backend whose record finds none, see
 * kr_audit_ring.c. It works as long as records come and leaves when none has
 * come for IDLE_MS, so that a server with many databases does not keep a worker
 * for each.
 *
 * A batch is one transaction. Records leave the ring after its commit, with
 * interrupts held off in between: they are stored exactly once unless the
 * server crashes just there. Where storing fails, the batch stays in the ring
 * and is tried again, less and less often; what finds no room meanwhile is
 * counted, and told once storing works again.
 *
 * It must be in nobody's way:
 * - DROP DATABASE, ALTER DATABASE RENAME, CREATE DATABASE from this one as the
 *   template wait at most five seconds for others to go. They hold a lock on
 *   the database meanwhile; we look for it twice a second, between batches,
 *   and leave.
 * - Waiting for a lock is bounded by LOCK_TIMEOUT, which is shorter than the
 *   default of deadlock_timeout: DROP EXTENSION locks partitions before the
 *   table and we the other way round, and it is us who must give way. A batch is
 *   bounded by BATCH_MS. It never waits for a synchronous standby. So SIGTERM,
 *   which the worker answers by storing for at most SHUTDOWN_MS what is there, is
 *   answered in time.
 *
 * It acts as the owner of the extension's tables, never with the rights of a
 * superuser: what that owner has hung onto app.audit_log runs as the owner.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "kr_compat.h"
#include "kr_spi.h"
#include "kr_worker.h"

/* Ten times a start-up, so that starting costs little however records come. */
#define IDLE_MS 10000
#define POLL_MS 500

/*
 * Between batches, in which nobody need set our latch: a steady stream of
 * records makes at most fifty commits a second, and costs backends no signals.
 */
#define PAUSE_MS 20
#define BATCH_MS 20000
#define LOCK_TIMEOUT "500ms"
#define SHUTDOWN_MS 3000
#define RETRY_MAX_MS 60000

/* Partitions are looked after so often, and whenever a worker starts. */
#define PARTITIONS_MS (60 * 60 * 1000)

/* A transaction's worth: commits cost little then, and memory stays below 1 MB. */
#define BATCH_RECORDS 400
#define BATCH_ROWS 2000

typedef enum Outcome
{
	FAILED,
	NOTHING_TO_DO,
	STORED,
	FULL_BATCH					/* stored, and more may be there */
} Outcome;

typedef struct Worker
{
	KrAuditRecord *records;		/* BATCH_RECORDS, and one for what was lost */
	TimestampTz busy_at;		/* last had something to do */
	TimestampTz retry_at;		/* after a failure */
	TimestampTz partitions_at;	/* last looked after */
	int			retry_ms;
} Worker;

static void prepare_session(void);
static void work(Worker *worker);
static Outcome try_batch(Worker *worker);
static Outcome batch(Worker *worker);
static void look_after_partitions(Worker *worker);
static void after_failure(Worker *worker);
static int	count_rows(const KrAuditRecord *records, int nrecords);
static void record_loss(KrAuditRecord *record, uint64 lost);
static void notify_alerts(const KrAuditRecord *records, int nrecords);
static bool is_installed(void);
static bool database_is_wanted(void);
static bool database_exists(Oid database);
static bool has_passed(TimestampTz since, int ms);
static void leave(int code, Datum arg);

void
kr_worker_main(Datum main_arg)
{
	Worker		worker = {0};

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);

	if (!kr_ring_attach())
		proc_exit(0);
	before_shmem_exit(leave, (Datum) 0);

	prepare_session();
	worker.records = MemoryContextAlloc(TopMemoryContext,
										(BATCH_RECORDS + 1) * sizeof(KrAuditRecord));
	worker.busy_at = GetCurrentTimestamp();
	work(&worker);
	proc_exit(0);
}

/* Whatever postgresql.conf, ALTER DATABASE and ALTER ROLE say. */
static void
prepare_session(void)
{
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_OVERRIDE);

	StartTransactionCommand();
	kr_ring_forget(database_exists);
	CommitTransactionCommand();
}

static void
work(Worker *worker)
{
	TimestampTz shutdown_at = 0;

	for (;;)
	{
		Outcome		outcome = FAILED;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (database_is_wanted())
			return;
		if (ShutdownRequestPending && shutdown_at == 0)
			shutdown_at = GetCurrentTimestamp();

		if (worker->retry_at == 0 || has_passed(worker->retry_at, worker->retry_ms))
			outcome = try_batch(worker);
		if (shutdown_at != 0 && (outcome < STORED || has_passed(shutdown_at, SHUTDOWN_MS)))
			return;
		if (outcome == NOTHING_TO_DO && has_passed(worker->busy_at, IDLE_MS) && kr_ring_leave(true))
			return;
		if (outcome == NOTHING_TO_DO && !kr_ring_sleep())
			continue;
		if (outcome == FULL_BATCH || (outcome == STORED && ShutdownRequestPending))
			continue;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 outcome == STORED ? PAUSE_MS : POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* A batch, whose failure is logged and leaves us as we were. */
static Outcome
try_batch(Worker *worker)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile Outcome outcome = FAILED;

	PG_TRY();
	{
		enable_timeout_after(STATEMENT_TIMEOUT, BATCH_MS);
		outcome = batch(worker);
		disable_timeout(STATEMENT_TIMEOUT, false);
		worker->retry_at = 0;
		worker->retry_ms = 0;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		disable_all_timeouts(false);
		QueryCancelPending = false;
		EmitErrorReport();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		after_failure(worker);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	if (outcome >= STORED)
		worker->busy_at = GetCurrentTimestamp();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return outcome;
}

static void
after_failure(Worker *worker)
{
	worker->retry_ms = Min(Max(worker->retry_ms * 2, 1000), RETRY_MAX_MS);
	worker->retry_at = GetCurrentTimestamp();
}

static Outcome
batch(Worker *worker)
{
	KrAuditRecord *records = worker->records;
	KrSpi		scope;
	uint64		lost;
	int			taken = kr_ring_peek(records, BATCH_RECORDS, BATCH_ROWS, &lost);
	int			stored = taken;
	bool		is_full = taken == BATCH_RECORDS || count_rows(records, taken) >= BATCH_ROWS;

	if (taken == 0 && lost == 0)
		return NOTHING_TO_DO;
	if (lost > 0)
		record_loss(&records[stored++], lost);

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "storing audit records");
	StartTransactionCommand();
	/* Dropped since: what waits has no table any more. */
	if (!is_installed())
	{
		CommitTransactionCommand();
		kr_ring_taken(taken, lost);
		return STORED;
	}
	look_after_partitions(worker);
	kr_spi_begin(&scope);
	kr_worker_store(records, stored);
	kr_spi_end(&scope);
	notify_alerts(records, taken);

	HOLD_INTERRUPTS();
	CommitTransactionCommand();
	kr_ring_taken(taken, lost);
	RESUME_INTERRUPTS();

	if (lost > 0)
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg(UINT64_FORMAT " audit records did not reach app.audit_log", lost),
				 errdetail("There was no room for them in shared memory. They are in the server's log."),
				 errhint("Raise kessel.audit_buffer_size, if this happens often.")));
	return is_full ? FULL_BATCH : STORED;
}

/* In a transaction of its own: it locks more than storing does. */
static void
look_after_partitions(Worker *worker)
{
	KrSpi		scope;

	if (worker->partitions_at != 0 && !has_passed(worker->partitions_at, PARTITIONS_MS))
		return;
	kr_spi_begin(&scope);
	kr_worker_make_partitions();
	kr_spi_end(&scope);
	CommitTransactionCommand();
	worker->partitions_at = GetCurrentTimestamp();
	StartTransactionCommand();
}

static int
count_rows(const KrAuditRecord *records, int nrecords)
{
	int			rows = 0;

	for (int i = 0; i < nrecords; i++)
		rows += Max(records[i].nsecrets, 1);
	return rows;
}

static void
record_loss(KrAuditRecord *record, uint64 lost)
{
	memset(record, 0, offsetof(KrAuditRecord, secrets));
	strlcpy(record->action, "lost", sizeof(record->action));
	strlcpy(record->reason, "audit buffer full", sizeof(record->reason));
	record->at = GetCurrentTimestamp();
	record->pid = MyProcPid;
	record->sqlerrcode = ERRCODE_INSUFFICIENT_RESOURCES;
	record->count = lost;
}

static void
notify_alerts(const KrAuditRecord *records, int nrecords)
{
	for (int i = 0; i < nrecords; i++)
	{
		if (strcmp(records[i].action, KR_ALERT_ACTION) == 0)
			Async_Notify(KR_ALERT_CHANNEL, kr_audit_alert_line(&records[i]));
	}
}

/* The table, too: the library can be newer than the extension. */
static bool
is_installed(void)
{
	Oid			schema = get_namespace_oid("app", true);

	return OidIsValid(get_extension_oid("kessel_router", true)) &&
		OidIsValid(schema) && OidIsValid(get_relname_relid("audit_log", schema));
}

/* Does somebody hold a lock on the database that keeps others from it? */
static bool
database_is_wanted(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

static bool
database_exists(Oid database)
{
	return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
}

static bool
has_passed(TimestampTz since, int ms)
{
	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), ms);
}

static void
leave(int code, Datum arg)
{
	(void) kr_ring_leave(false);
}

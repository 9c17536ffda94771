/*
 * kr_audit_ring.c
 *	  Shared memory through which records reach the workers that store them.
 *
 * There where the library is in shared_preload_libraries; without it nothing
 * here does anything. A pool of blocks serves all databases. A record takes as
 * many blocks as it needs, and each database has a queue of them, so that one
 * whose worker is held up does not keep another's records waiting. A queue may
 * use three quarters of the pool. What finds no room is counted as lost: it is
 * in the server's log all the same, and no backend ever waits.
 *
 * One LWLock guards queues and pool; it is held for copying a record in or
 * some out. A second one guards the counters of alerts, which few records
 * touch. Either is taken with interrupts held off, as every LWLock is, and
 * nothing in between throws.
 *
 * The backend whose record finds no worker for its database asks the
 * postmaster for one, at most every RETRY_MS. Only a worker takes
 * from a queue, and a queue has one worker at most: kr_ring_attach() decides,
 * under the lock. Queue and worker belong to the life of the server: after a
 * crash of any backend the postmaster makes the shared memory anew, and what
 * waited then is in the log only.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "kr_audit_ring.h"
#include "kr_guc.h"

#define TRANCHE "kessel_router"

/* A record of one secret takes one block. */
#define BLOCK_SIZE 256
#define BLOCK_DATA (BLOCK_SIZE - sizeof(int32))

/* Databases with records at the same time. */
#define QUEUES 64

/* How long a worker that was asked for may take to appear. */
#define RETRY_MS 5000

#define NO_BLOCK (-1)

typedef struct Block
{
	int32		next;
	char		data[BLOCK_DATA];
} Block;

typedef struct Queue
{
	Oid			database;		/* InvalidOid: not in use */
	int32		first;			/* block, or NO_BLOCK */
	int32		last;
	int			nblocks;
	int			nrecords;
	uint64		lost;			/* not yet told by a worker */
	uint64		lost_ever;
	uint64		failed_starts;
	int			worker_pid;		/* 0: none */
	Latch	   *worker_latch;
	bool		worker_sleeps;	/* and wants its latch set */
	TimestampTz ask_again;		/* no further worker is asked for until then */
} Queue;

typedef struct Ring
{
	int32		nblocks;
	int32		nfree;
	int32		free;			/* first of the free blocks */
	Queue		queues[QUEUES];
	KrAlertCounter counters[KR_ALERT_COUNTERS];
	Block		blocks[FLEXIBLE_ARRAY_MEMBER];
} Ring;

/* A record without the room that its strings and secrets do not use. */
typedef struct PackedRecord
{
	uint32		size;			/* of all of it */
	int			nsecrets;
	TimestampTz at;
	uint64		count;
	Oid			role;
	int			pid;
	int			sqlerrcode;
	bool		ok;
	bool		has_user;
	bool		has_tenant;
	pg_uuid_t	user_id;
	pg_uuid_t	tenant_id;
	/* then strings, each with its NUL, then secrets */
} PackedRecord;

#define STRINGS 8
#define PACKED_MAX (sizeof(PackedRecord) + STRINGS * KR_AUDIT_WORD + KR_AUDIT_SECRETS * sizeof(KrAuditSecret))

StaticAssertDecl(KR_AUDIT_WORD == NAMEDATALEN && KR_AUDIT_ADDR == NAMEDATALEN,
				 "all strings of a record are of one size");

static Ring *ring = NULL;
static LWLock *queue_lock = NULL;
static LWLock *counter_lock = NULL;
static union
{
	PackedRecord head;
	char		bytes[PACKED_MAX];
}			packed;

/* Counters of this backend alone, where there is no shared memory. */
static KrAlertCounter own_counters[KR_ALERT_COUNTERS];

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void request_shmem(void);
static void start_shmem(void);
static Size ring_size(void);
static void make_ring(void);
static Queue *find_queue(Oid database, bool make);
static bool append(Queue *queue, uint32 size);
static void drop_records(Queue *queue, int nrecords);
static bool needs_worker(Queue *queue);
static void ask_for_worker(void);
static uint32 pack(const KrAuditRecord *record);
static void unpack(KrAuditRecord *record);
static int32 copy_out(int32 block);
static char *string_of(KrAuditRecord *record, int i);

void
kr_ring_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
}

static Size
ring_size(void)
{
	return offsetof(Ring, blocks) + (Size) kr_guc_audit_buffer_size * 1024;
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	if (kr_guc_audit_buffer_size == 0)
		return;
	RequestAddinShmemSpace(ring_size());
	RequestNamedLWLockTranche(TRANCHE, 2);
}

static void
start_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (kr_guc_audit_buffer_size == 0)
		return;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ring = ShmemInitStruct("kessel_router audit", ring_size(), &found);
	if (!found)
		make_ring();
	queue_lock = &GetNamedLWLockTranche(TRANCHE)[0].lock;
	counter_lock = &GetNamedLWLockTranche(TRANCHE)[1].lock;
	LWLockRelease(AddinShmemInitLock);
}

static void
make_ring(void)
{
	memset(ring, 0, offsetof(Ring, blocks));
	ring->nblocks = (Size) kr_guc_audit_buffer_size * 1024 / BLOCK_SIZE;
	ring->nfree = ring->nblocks;
	for (int32 i = 0; i < ring->nblocks; i++)
		ring->blocks[i].next = i + 1 < ring->nblocks ? i + 1 : NO_BLOCK;
}

bool
kr_ring_put(const KrAuditRecord *record)
{
	Queue	   *queue;
	uint32		size;
	bool		ask = false;

	if (ring == NULL || MyProc == NULL || !OidIsValid(MyDatabaseId) || RecoveryInProgress())
		return false;

	size = pack(record);
	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, true);
	if (queue != NULL)
	{
		if (!append(queue, size))
		{
			queue->lost += Max(record->nsecrets, 1);
			queue->lost_ever += Max(record->nsecrets, 1);
		}
		if (queue->worker_sleeps)
		{
			queue->worker_sleeps = false;
			SetLatch(queue->worker_latch);
		}
		ask = needs_worker(queue);
	}
	LWLockRelease(queue_lock);

	if (ask)
		ask_for_worker();
	return true;
}

void
kr_ring_status(KrRingStatus *status)
{
	Queue	   *queue;

	memset(status, 0, sizeof(*status));
	if (ring == NULL)
		return;
	LWLockAcquire(queue_lock, LW_SHARED);
	status->size = kr_guc_audit_buffer_size;
	status->used = (Size) (ring->nblocks - ring->nfree) * BLOCK_SIZE / 1024;
	queue = find_queue(MyDatabaseId, false);
	if (queue != NULL)
	{
		status->pending = queue->nrecords;
		status->worker_pid = queue->worker_pid;
		status->lost = queue->lost_ever;
		status->failed_starts = queue->failed_starts;
	}
	LWLockRelease(queue_lock);
}

bool
kr_ring_attach(void)
{
	Queue	   *queue;
	bool		ours = false;

	if (ring == NULL)
		return false;
	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, false);
	if (queue != NULL && queue->worker_pid == 0)
	{
		queue->worker_pid = MyProcPid;
		queue->worker_latch = MyLatch;
		ours = true;
	}
	LWLockRelease(queue_lock);
	return ours;
}

/* At least one record, then as many as make up max_rows. */
int
kr_ring_peek(KrAuditRecord *records, int max, int max_rows, uint64 *nlost)
{
	Queue	   *queue;
	int			n = 0;
	int			rows = 0;

	LWLockAcquire(queue_lock, LW_SHARED);
	queue = find_queue(MyDatabaseId, false);
	*nlost = queue->lost;
	for (int32 block = queue->first; n < max && n < queue->nrecords && rows < max_rows; n++)
	{
		block = copy_out(block);
		unpack(&records[n]);
		rows += Max(records[n].nsecrets, 1);
	}
	LWLockRelease(queue_lock);
	return n;
}

void
kr_ring_taken(int nrecords, uint64 nlost)
{
	Queue	   *queue;

	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, false);
	drop_records(queue, nrecords);
	queue->lost -= nlost;
	LWLockRelease(queue_lock);
}

/*
 * This and kr_ring_leave() look under one lock whether something waits: a record
 * that comes later finds a sleeper, or no worker.
 */
bool
kr_ring_sleep(void)
{
	Queue	   *queue;
	bool		sleeps;

	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, false);
	sleeps = queue->nrecords == 0 && queue->lost == 0;
	queue->worker_sleeps = sleeps;
	LWLockRelease(queue_lock);
	return sleeps;
}

bool
kr_ring_leave(bool if_idle)
{
	Queue	   *queue;
	bool		left = false;

	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, false);
	if (queue != NULL && queue->worker_pid == MyProcPid &&
		!(if_idle && (queue->nrecords > 0 || queue->lost > 0)))
	{
		queue->worker_pid = 0;
		queue->worker_latch = NULL;
		queue->worker_sleeps = false;
		queue->ask_again = 0;
		left = true;
	}
	LWLockRelease(queue_lock);
	return left;
}

/* exists() reads catalogs, so the lock is not held meanwhile. */
void
kr_ring_forget(bool (*exists) (Oid database))
{
	for (int i = 0; i < QUEUES; i++)
	{
		Oid			database = ring->queues[i].database;
		Queue	   *queue;

		if (!OidIsValid(database) || exists(database))
			continue;
		LWLockAcquire(queue_lock, LW_EXCLUSIVE);
		queue = find_queue(database, false);
		if (queue != NULL && queue->worker_pid == 0)
		{
			drop_records(queue, queue->nrecords);
			queue->database = InvalidOid;
		}
		LWLockRelease(queue_lock);
	}
}

KrAlertCounter *
kr_ring_lock_counters(void)
{
	if (ring == NULL || MyProc == NULL)
		return own_counters;
	LWLockAcquire(counter_lock, LW_EXCLUSIVE);
	return ring->counters;
}

void
kr_ring_unlock_counters(void)
{
	if (ring != NULL && MyProc != NULL)
		LWLockRelease(counter_lock);
}

/*
 * A database's queue; a new one takes the place of one that nobody needs. What
 * this one has lost is then no longer told by kr_ring_status().
 */
static Queue *
find_queue(Oid database, bool make)
{
	Queue	   *unused = NULL;

	for (int i = 0; i < QUEUES; i++)
	{
		Queue	   *queue = &ring->queues[i];

		if (queue->database == database)
			return queue;
		if (!OidIsValid(queue->database) ||
			(unused == NULL && queue->nrecords == 0 && queue->lost == 0 && queue->worker_pid == 0))
			unused = queue;
	}
	if (!make || unused == NULL)
		return NULL;

	memset(unused, 0, sizeof(*unused));
	unused->database = database;
	unused->first = unused->last = NO_BLOCK;
	return unused;
}

/* Copies packed into blocks at the queue's end; false if there is no room. */
static bool
append(Queue *queue, uint32 size)
{
	int			needed = (size + BLOCK_DATA - 1) / BLOCK_DATA;
	uint32		done = 0;

	if (needed > ring->nfree || queue->nblocks + needed > ring->nblocks - ring->nblocks / 4)
		return false;

	while (done < size)
	{
		int32		number = ring->free;
		Block	   *block = &ring->blocks[number];
		uint32		part = Min(size - done, BLOCK_DATA);

		ring->free = block->next;
		block->next = NO_BLOCK;
		memcpy(block->data, packed.bytes + done, part);
		done += part;

		if (queue->last == NO_BLOCK)
			queue->first = number;
		else
			ring->blocks[queue->last].next = number;
		queue->last = number;
	}
	ring->nfree -= needed;
	queue->nblocks += needed;
	queue->nrecords++;
	return true;
}

static void
drop_records(Queue *queue, int nrecords)
{
	for (; nrecords > 0; nrecords--)
	{
		uint32		size;
		int			nblocks;

		memcpy(&size, ring->blocks[queue->first].data, sizeof(size));
		nblocks = (size + BLOCK_DATA - 1) / BLOCK_DATA;
		for (int i = 0; i < nblocks; i++)
		{
			int32		number = queue->first;

			queue->first = ring->blocks[number].next;
			ring->blocks[number].next = ring->free;
			ring->free = number;
		}
		ring->nfree += nblocks;
		queue->nblocks -= nblocks;
		queue->nrecords--;
	}
	if (queue->first == NO_BLOCK)
		queue->last = NO_BLOCK;
}

static bool
needs_worker(Queue *queue)
{
	TimestampTz now;

	if (queue->worker_pid != 0)
		return false;
	now = GetCurrentTimestamp();
	if (now < queue->ask_again)
		return false;
	queue->ask_again = TimestampTzPlusMilliseconds(now, RETRY_MS);
	return true;
}

/*
 * Never restarted by the postmaster: it would go on trying for a database that
 * was dropped. The next record asks again.
 */
static void
ask_for_worker(void)
{
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, "kessel_router audit worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "kessel_router audit worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "kessel_router", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "kr_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);

	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
	{
		Queue	   *queue;

		LWLockAcquire(queue_lock, LW_EXCLUSIVE);
		queue = find_queue(MyDatabaseId, false);
		if (queue != NULL)
			queue->failed_starts++;
		LWLockRelease(queue_lock);
	}
}

static uint32
pack(const KrAuditRecord *record)
{
	PackedRecord *head = &packed.head;
	char	   *p = packed.bytes + sizeof(PackedRecord);
	size_t		secrets_size = record->nsecrets * sizeof(KrAuditSecret);

	memset(head, 0, sizeof(*head));
	head->nsecrets = record->nsecrets;
	head->at = record->at;
	head->count = record->count;
	head->role = record->role;
	head->pid = record->pid;
	head->sqlerrcode = record->sqlerrcode;
	head->ok = record->ok;
	head->has_user = record->has_user;
	head->has_tenant = record->has_tenant;
	head->user_id = record->user_id;
	head->tenant_id = record->tenant_id;
	for (int i = 0; i < STRINGS; i++)
	{
		const char *string = string_of(unconstify(KrAuditRecord *, record), i);
		size_t		size = strlen(string) + 1;

		memcpy(p, string, size);
		p += size;
	}
	memcpy(p, record->secrets, secrets_size);
	p += secrets_size;
	head->size = p - packed.bytes;
	return head->size;
}

static void
unpack(KrAuditRecord *record)
{
	const PackedRecord *head = &packed.head;
	const char *p = packed.bytes + sizeof(PackedRecord);

	record->nsecrets = head->nsecrets;
	record->at = head->at;
	record->count = head->count;
	record->role = head->role;
	record->pid = head->pid;
	record->sqlerrcode = head->sqlerrcode;
	record->ok = head->ok;
	record->has_user = head->has_user;
	record->has_tenant = head->has_tenant;
	record->user_id = head->user_id;
	record->tenant_id = head->tenant_id;
	for (int i = 0; i < STRINGS; i++)
	{
		strlcpy(string_of(record, i), p, KR_AUDIT_WORD);
		p += strlen(p) + 1;
	}
	memcpy(record->secrets, p, record->nsecrets * sizeof(KrAuditSecret));
}

/* The record that begins in a block into packed; returns the next one's block. */
static int32
copy_out(int32 number)
{
	uint32		size;
	uint32		done = 0;

	memcpy(&size, ring->blocks[number].data, sizeof(size));
	while (done < size)
	{
		uint32		part = Min(size - done, BLOCK_DATA);

		memcpy(packed.bytes + done, ring->blocks[number].data, part);
		done += part;
		number = ring->blocks[number].next;
	}
	return number;
}

static char *
string_of(KrAuditRecord *record, int i)
{
	switch (i)
	{
		case 0:
			return record->action;
		case 1:
			return record->purpose;
		case 2:
			return record->reason;
		case 3:
			return record->role_name;
		case 4:
			return record->login_role;
		case 5:
			return record->as_role_name;
		case 6:
			return record->application_name;
		default:
			return record->client_addr;
	}
}

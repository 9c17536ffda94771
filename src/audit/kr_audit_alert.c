/*
 * kr_audit_alert.c
 *	  Noticing that a role reveals, or fails to open, more than is usual.
 *
 * Counted over a sliding window of a minute, in slots of ten seconds, by
 * database, role (that of SET ROLE or of the login) and kind:
 *
 *	reveals		secrets opened with the purpose reveal	kessel.alert_reveals
 *	failures	whatever was recorded as not ok			kessel.alert_failures
 *
 * Whoever makes the record that goes above the limit raises the alert: a line
 * of severity WARNING in the log, at once, and a NOTIFY kessel_alerts. At most
 * one a minute for the same database, role and kind.
 *
 * With shared memory the counts are those of all backends, and the NOTIFY goes
 * by way of the database's worker, as a record with the action "alert": it
 * comes whatever becomes of this transaction. Without it each backend counts
 * for itself, and the NOTIFY goes out when this transaction commits; one that
 * is prepared (PREPARE TRANSACTION) then fails, as after any NOTIFY. On a
 * standby, where nothing can be notified, there is the line only.
 *
 * The counters are a hash table of fixed size; where it is crowded, the entry
 * that has been silent for the longest time goes.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "kr_audit_ring.h"
#include "kr_error.h"
#include "kr_guc.h"

#define SLOT_SECONDS (KR_ALERT_SECONDS / lengthof(((KrAlertCounter *) NULL)->counts))

/* How many places of the hash table an entry may be in. */
#define PROBES 8

static int	limit_for(int kind);
static uint32 count_event(int kind, const KrAuditRecord *record);
static KrAlertCounter *find_counter(KrAlertCounter *counters, Oid role, int kind);
static void move_window(KrAlertCounter *counter, int64 slot);
static void raise_alert(int kind, const KrAuditRecord *cause, uint32 count);

void
kr_audit_count(const KrAuditRecord *record)
{
	int			kind;
	uint32		count;

	if (!record->ok)
		kind = KR_ALERT_FAILURES;
	else if (strcmp(record->action, "open") == 0 && strcmp(record->purpose, "reveal") == 0)
		kind = KR_ALERT_REVEALS;
	else
		return;

	if (limit_for(kind) == 0)
		return;
	count = count_event(kind, record);
	if (count > 0)
		raise_alert(kind, record, count);
}

static int
limit_for(int kind)
{
	return kind == KR_ALERT_REVEALS ? kr_guc_alert_reveals : kr_guc_alert_failures;
}

/*
 * How many there were in the window, if that is worth an alert now; else 0. The
 * count of other actions than opening tells what was done before the failure.
 */
static uint32
count_event(int kind, const KrAuditRecord *record)
{
	bool		is_open = strcmp(record->action, "open") == 0;
	KrAlertCounter *counter = find_counter(kr_ring_lock_counters(), record->role, kind);
	int64		slot = record->at / (SLOT_SECONDS * USECS_PER_SEC);
	uint64		sum = 0;
	bool		alert;

	move_window(counter, slot);
	counter->counts[counter->slot % lengthof(counter->counts)] += is_open ? Min(record->count, PG_INT32_MAX) : 1;
	for (int i = 0; i < lengthof(counter->counts); i++)
		sum += counter->counts[i];

	alert = sum > limit_for(kind) &&
		(counter->alerted_at == 0 ||
		 TimestampDifferenceExceeds(counter->alerted_at, record->at, KR_ALERT_SECONDS * 1000));
	if (alert)
		counter->alerted_at = record->at;
	kr_ring_unlock_counters();
	return alert ? (uint32) Min(sum, PG_UINT32_MAX) : 0;
}

static KrAlertCounter *
find_counter(KrAlertCounter *counters, Oid role, int kind)
{
	uint32		hash = hash_combine(murmurhash32(MyDatabaseId), murmurhash32(role)) + kind;
	KrAlertCounter *oldest = NULL;

	for (int i = 0; i < PROBES; i++)
	{
		KrAlertCounter *counter = &counters[(hash + i) % KR_ALERT_COUNTERS];

		if (counter->database == MyDatabaseId && counter->role == role && counter->kind == kind)
			return counter;
		if (oldest == NULL || counter->slot < oldest->slot)
			oldest = counter;
	}

	memset(oldest, 0, sizeof(*oldest));
	oldest->database = MyDatabaseId;
	oldest->role = role;
	oldest->kind = kind;
	return oldest;
}

/* Slots between the last event and this one are empty. A clock may go back. */
static void
move_window(KrAlertCounter *counter, int64 slot)
{
	int64		empty = Min(slot - counter->slot, (int64) lengthof(counter->counts));

	if (empty <= 0)
		return;
	for (int64 i = 0; i < empty; i++)
		counter->counts[(slot - i) % lengthof(counter->counts)] = 0;
	counter->slot = slot;
}

static void
raise_alert(int kind, const KrAuditRecord *cause, uint32 count)
{
	KrAuditRecord alert;
	ErrorContextCallback *callbacks = error_context_stack;
	const char *text;

	memcpy(&alert, cause, offsetof(KrAuditRecord, secrets));
	strlcpy(alert.action, KR_ALERT_ACTION, sizeof(alert.action));
	strlcpy(alert.purpose, kind == KR_ALERT_REVEALS ? "reveals" : "failures", sizeof(alert.purpose));
	snprintf(alert.reason, sizeof(alert.reason), "more than %d in %d seconds", limit_for(kind), KR_ALERT_SECONDS);
	alert.ok = true;
	alert.sqlerrcode = 0;
	alert.count = count;
	alert.nsecrets = 0;
	alert.has_tenant = false;

	text = kr_audit_alert_line(&alert);
	error_context_stack = NULL;
	ereport(LOG_SERVER_ONLY,
			(errmsg_internal(KR_ERROR_ALERT_FORMAT, text),
			 errhidestmt(true),
			 errhidecontext(true)));
	error_context_stack = callbacks;

	if (!kr_ring_put(&alert) && IsTransactionState() && !IsParallelWorker() && !RecoveryInProgress())
		Async_Notify(KR_ALERT_CHANNEL, text);
}

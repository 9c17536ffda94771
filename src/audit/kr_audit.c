/*
 * kr_audit.c
 *	  Making records of what happens, gathering those that come row by row, and
 *	  handing them on.
 *
 * Called by the vault and by whoever else does what must leave a trace. A
 * record does not belong to the transaction: what was opened was seen, whether
 * or not the transaction commits.
 *
 * Gathered records lie in static memory, in a few groups so that two kinds of
 * events that alternate row by row do not become a line each. They are written
 * at the latest when the client's message has been dealt with (a callback of
 * MessageContext, which PostgresMain() resets before it waits for the next one)
 * or when the transaction ends, which covers processes without clients, errors,
 * cancellation and termination. Only SIGKILL or a crash in between loses them.
 *
 * Subtransactions need nothing: static memory does not roll back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "kr_audit_ring.h"
#include "kr_error.h"

#define GROUPS 4

/* A group is in use while its action is not empty. */
static KrAuditRecord groups[GROUPS];

static bool flush_is_due = false;	/* a callback of MessageContext is set */
static MemoryContextCallback flush_callback;

static void flush(void);
static void start_record(KrAuditRecord *record, const KrAuditEvent *event);
static void add_secret(KrAuditRecord *record, const KrAuditEvent *event);
static bool belongs_to(const KrAuditRecord *record, const KrAuditEvent *event);
static bool same_word(const char *stored, const char *word);
static bool same_uuid(bool has, const pg_uuid_t *stored, const pg_uuid_t *id);
static void write_group(KrAuditRecord *record);
static void write_record(const KrAuditRecord *record);
static void at_end_of_message(void *arg);
static void at_end_of_xact(XactEvent event, void *arg);

void
kr_audit_init(void)
{
	kr_ring_init();
	RegisterXactCallback(at_end_of_xact, NULL);
}

void
kr_audit_record(const KrAuditEvent *event)
{
	KrAuditRecord record;

	flush();
	start_record(&record, event);
	write_record(&record);
}

void
kr_audit_gather(const KrAuditEvent *event)
{
	KrAuditRecord *record = NULL;
	KrAuditRecord *unused = NULL;

	for (int i = 0; i < GROUPS && record == NULL; i++)
	{
		if (groups[i].action[0] == '\0')
			unused = &groups[i];
		else if (belongs_to(&groups[i], event))
			record = &groups[i];
	}

	if (record == NULL)
	{
		if (unused == NULL)
		{
			flush();
			unused = &groups[0];
		}
		start_record(unused, event);
		record = unused;
	}
	else if (event->secret_id != NULL)
		add_secret(record, event);
	else
		record->count += Max(event->count, 1);

	if (record->nsecrets == KR_AUDIT_SECRETS)
		write_group(record);
	else if (!flush_is_due && MessageContext != NULL)
	{
		flush_callback.func = at_end_of_message;
		flush_callback.arg = NULL;
		MemoryContextRegisterResetCallback(MessageContext, &flush_callback);
		flush_is_due = true;
	}
}

static void
flush(void)
{
	for (int i = 0; i < GROUPS; i++)
		write_group(&groups[i]);
}

static void
at_end_of_message(void *arg)
{
	flush_is_due = false;
	flush();
}

/* Whatever the event: before a commit as well, where writing can still wait. */
static void
at_end_of_xact(XactEvent event, void *arg)
{
	flush();
}

static void
start_record(KrAuditRecord *record, const KrAuditEvent *event)
{
	memset(record, 0, offsetof(KrAuditRecord, secrets));
	strlcpy(record->action, event->action, sizeof(record->action));
	strlcpy(record->purpose, event->purpose ? event->purpose : "", sizeof(record->purpose));
	strlcpy(record->reason, event->reason ? event->reason : "", sizeof(record->reason));
	record->ok = event->ok;
	record->sqlerrcode = event->sqlerrcode;
	kr_audit_who(record, event->as_role);

	if (event->secret_id != NULL)
		add_secret(record, event);
	else
	{
		record->count = Max(event->count, 1);
		record->has_tenant = event->tenant_id != NULL;
		if (record->has_tenant)
			record->tenant_id = *event->tenant_id;
	}
}

static void
add_secret(KrAuditRecord *record, const KrAuditEvent *event)
{
	KrAuditSecret *secret = &record->secrets[record->nsecrets++];

	secret->secret_id = *event->secret_id;
	secret->version = event->version;
	secret->has_tenant = event->tenant_id != NULL;
	if (secret->has_tenant)
		secret->tenant_id = *event->tenant_id;
	record->count = record->nsecrets;
}

static bool
belongs_to(const KrAuditRecord *record, const KrAuditEvent *event)
{
	if (record->ok != event->ok || record->sqlerrcode != event->sqlerrcode ||
		!same_word(record->action, event->action) ||
		!same_word(record->purpose, event->purpose) ||
		!same_word(record->reason, event->reason) ||
		(record->nsecrets > 0) != (event->secret_id != NULL) ||
		!kr_audit_same_who(record, event->as_role))
		return false;
	return record->nsecrets > 0 ||
		same_uuid(record->has_tenant, &record->tenant_id, event->tenant_id);
}

static bool
same_word(const char *stored, const char *word)
{
	return strncmp(stored, word ? word : "", KR_AUDIT_WORD - 1) == 0;
}

static bool
same_uuid(bool has, const pg_uuid_t *stored, const pg_uuid_t *id)
{
	return has == (id != NULL) &&
		(!has || memcmp(stored->data, id->data, UUID_LEN) == 0);
}

static void
write_group(KrAuditRecord *record)
{
	KrAuditRecord full;

	if (record->action[0] == '\0')
		return;
	/* Emptied first, in case that writing it leads back here. */
	memcpy(&full, record, offsetof(KrAuditRecord, secrets) + record->nsecrets * sizeof(KrAuditSecret));
	record->action[0] = '\0';
	write_record(&full);
}

/*
 * The log first: it is what stays, whatever happens next. Whatever is logged
 * ends with a look for interrupts: a cancel that waits there must not keep the
 * record from table and alerts.
 */
static void
write_record(const KrAuditRecord *record)
{
	ErrorContextCallback *callbacks = error_context_stack;

	HOLD_INTERRUPTS();
	error_context_stack = NULL;
	ereport(LOG_SERVER_ONLY,
			(errmsg_internal(KR_ERROR_AUDIT_FORMAT, kr_audit_line(record)),
			 errhidestmt(true),
			 errhidecontext(true)));
	error_context_stack = callbacks;

	(void) kr_ring_put(record);
	kr_audit_count(record);
	RESUME_INTERRUPTS();
}

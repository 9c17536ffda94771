/*
 * kr_audit_line.c
 *	  A record as one line of JSON for the server's log.
 *
 * Written into static memory of a size that the longest record does not fill:
 * nothing is allocated, so that nothing can fail. All members are there in
 * every line; what is not known is null. What users have named (roles,
 * application_name, the database) is escaped.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/elog.h"
#include "utils/timestamp.h"

#include "kr_audit_int.h"

/* 32 secrets of at most 95 bytes, 5 names of at most 63 * 6, and the rest. */
static char line[8192];
static size_t line_len;

static void add_text(const char *text);
static void add_format(const char *format,...) pg_attribute_printf(1, 2);
static void add_string(const char *text);
static void add_member(const char *name, const char *text);
static void add_uuid(bool known, const pg_uuid_t *id);
static void add_time(TimestampTz at);
static void add_secrets(const KrAuditRecord *record);

const char *
kr_audit_line(const KrAuditRecord *record)
{
	line_len = 0;
	add_text("{\"time\": ");
	add_time(record->at);
	add_member("action", record->action);
	add_member("purpose", record->purpose);
	add_format(", \"ok\": %s", record->ok ? "true" : "false");
	add_member("role", record->role_name);
	add_member("login_role", record->login_role);
	add_member("as_role", record->as_role_name);
	add_text(", \"user_id\": ");
	add_uuid(record->has_user, &record->user_id);
	add_secrets(record);
	add_format(", \"count\": " UINT64_FORMAT, record->count);
	add_member("sqlstate", record->sqlerrcode ? unpack_sql_state(record->sqlerrcode) : "");
	add_member("reason", record->reason);
	add_format(", \"pid\": %d", record->pid);
	add_member("database", kr_audit_database());
	add_member("client_addr", record->client_addr);
	add_member("application_name", record->application_name);
	add_format(", \"standby\": %s}", RecoveryInProgress() ? "true" : "false");
	return line;
}

/* What LISTEN kessel_alerts is told, and the log. */
const char *
kr_audit_alert_line(const KrAuditRecord *alert)
{
	line_len = 0;
	add_text("{\"time\": ");
	add_time(alert->at);
	add_member("kind", alert->purpose);
	add_member("role", alert->role_name);
	add_member("login_role", alert->login_role);
	add_text(", \"user_id\": ");
	add_uuid(alert->has_user, &alert->user_id);
	add_format(", \"count\": " UINT64_FORMAT, alert->count);
	add_format(", \"window_seconds\": %d", KR_ALERT_SECONDS);
	add_member("reason", alert->reason);
	add_format(", \"pid\": %d", alert->pid);
	add_member("database", kr_audit_database());
	add_member("client_addr", alert->client_addr);
	add_format(", \"standby\": %s}", RecoveryInProgress() ? "true" : "false");
	return line;
}

/*
 * One secret stands in members of its own; several, each with its tenant, in
 * an array, so that a line's form does not depend on whose they are.
 */
static void
add_secrets(const KrAuditRecord *record)
{
	const KrAuditSecret *first = &record->secrets[0];

	if (record->nsecrets <= 1)
	{
		bool		one = record->nsecrets == 1;

		add_text(", \"tenant_id\": ");
		add_uuid(one ? first->has_tenant : record->has_tenant,
				 one ? &first->tenant_id : &record->tenant_id);
		add_text(", \"secret_id\": ");
		add_uuid(one, &first->secret_id);
		if (one && first->version > 0)
			add_format(", \"version\": %d", first->version);
		else
			add_text(", \"version\": null");
		return;
	}

	add_text(", \"secrets\": [");
	for (int i = 0; i < record->nsecrets; i++)
	{
		const KrAuditSecret *secret = &record->secrets[i];

		add_text(i > 0 ? ",[" : "[");
		add_uuid(true, &secret->secret_id);
		if (secret->version > 0)
			add_format(",%d,", secret->version);
		else
			add_text(",null,");
		add_uuid(secret->has_tenant, &secret->tenant_id);
		add_text("]");
	}
	add_text("]");
}

static void
add_text(const char *text)
{
	size_t		len = Min(strlen(text), sizeof(line) - 1 - line_len);

	memcpy(line + line_len, text, len);
	line_len += len;
	line[line_len] = '\0';
}

static void
add_format(const char *format,...)
{
	char		text[64];
	va_list		args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	add_text(text);
}

/* null for the empty string */
static void
add_member(const char *name, const char *text)
{
	add_text(", \"");
	add_text(name);
	add_text("\": ");
	if (text[0] == '\0')
		add_text("null");
	else
		add_string(text);
}

/* Byte by byte: no server encoding has ASCII bytes within other characters. */
static void
add_string(const char *text)
{
	add_text("\"");
	for (const char *p = text; *p != '\0'; p++)
	{
		char		one[2] = {*p, '\0'};

		if (*p == '"' || *p == '\\')
			add_text("\\");
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			add_format("\\u%04x", (unsigned char) *p);
		else
			add_text(one);
	}
	add_text("\"");
}

static void
add_uuid(bool known, const pg_uuid_t *id)
{
	static const char digits[] = "0123456789abcdef";
	char		text[2 * UUID_LEN + 7];
	char	   *p = text;

	if (!known)
	{
		add_text("null");
		return;
	}
	*p++ = '"';
	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id->data[i] >> 4];
		*p++ = digits[id->data[i] & 0x0f];
	}
	*p++ = '"';
	*p = '\0';
	add_text(text);
}

/* In UTC, whatever TimeZone and DateStyle are. */
static void
add_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		add_text("null");
	else
		add_format("\"%04d-%02d-%02dT%02d:%02d:%02d.%06dZ\"", tm.tm_year, tm.tm_mon, tm.tm_mday,
				   tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
}

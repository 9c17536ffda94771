/*
 * kr_error.c
 *	  Keeping secrets that stand in a statement out of the log and of
 *	  pg_stat_activity.
 *
 * Some functions are called with a secret in the clear: a password, a url that
 * holds one, a value for the vault. The text of such a statement, its
 * parameters and any message that quotes from them must not be logged.
 *
 * A statement carries a secret if its text names one of secret_words, or if
 * one of those functions has called kr_error_hide_statement() while it ran.
 * The first rule works before anything was executed, and so for statements
 * that are logged when they arrive or that fail while being parsed; the second
 * works where the name does not stand in the text (EXECUTE of a prepared
 * statement, a function of the user's that calls ours).
 *
 * emit_log_hook acts on every record that is about to be logged meanwhile. A
 * client still gets its error in full, it knows what it has sent. The server
 * log gets the record without statement, context and internal query; and where
 * the message itself may quote from the statement, with the quoted parts
 * replaced by ***.
 *
 * What cannot be caught:
 * - Whatever is logged before this library is loaded into the session. Where
 *   it comes in by the first call of one of its functions, that statement has
 *   been logged already. Name it in shared_preload_libraries or
 *   session_preload_libraries.
 * - A statement that hands a literal to a function of the user's which then
 *   calls ours, for as long as ours was not reached: nothing in the text tells.
 *   So log_statement logs it, and so does an error in planning it. The same
 *   for EXECUTE of a prepared statement that fails before it begins.
 * - Other extensions' copies of the text: an emit_log_hook that was installed
 *   later than ours sees the record first. For pg_stat_statements and for
 *   pg_stat_activity see kr_hide.c.
 * So: call the function directly, by SELECT, with the secret as a parameter.
 *
 * State: two statics for the running top-level statement, no memory, no locks.
 * The hook runs wherever ereport() does, in no transaction or an aborted one:
 * it reads no catalog and throws nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"

#include "kr_error.h"
#include "kr_hide.h"

/* Compared without case, anywhere in the text. */
typedef struct SecretWord
{
	const char *word;
	bool		carries;		/* its argument is the secret; else its result */
} SecretWord;

static const SecretWord secret_words[] = {
	{"alter_data_source", true},
	{"app_installations", true},
	{"create_data_source", true},
	{"create_secret", true},
	{"data_source_anon_key", true},
	{"data_source_service_key", true},
	{"data_source_url", true},
	{"encrypt_aes_gcm", true},
	{"import_aes_gcm", false},
	{"insert_secret", true},
	{"into vault.secrets", true},
	{"set_api", true},
	{"set_ai_provider_key", true},
	{"set_credential", true},
	{"update vault.secrets", true},
	{"update_secret", true},
	{"vault.open", false},
	{"vault.seal", true},
};

#define KR_WITHHELD "***"
#define KR_WITHHELD_LABEL "<statement with a secret>"

/* Bytes of a name that messages quote: slugs, ids and names of secrets fit. */
#define KR_NAME_SHOWN 200

static emit_log_hook_type prev_emit_log_hook = NULL;

/* The statement that kr_error_hide_statement() was last called in. */
static const char *hidden_query = NULL;
static TimestampTz hidden_start = 0;
static bool is_labelled = false;	/* pg_stat_activity shows a label instead */

/* Set while the hook itself emits a replacement for this record. */
static const ErrorData *replaced = NULL;

static void show_label(const char *label);
static void emit_log(ErrorData *edata);
static void emit_replacement(ErrorData *edata);
static void hide_in_place(ErrorData *edata);
static bool has_format(const ErrorData *edata, const char *format);
static bool imitates_audit(const ErrorData *edata);
static bool is_fast_path(const ErrorData *edata);
static bool record_has_secret(const ErrorData *edata);
static bool statement_is_hidden(void);
static bool text_names_secret(const char *text);
static bool find_word(const char *text, bool carrying);
static bool message_may_quote(const ErrorData *edata);
static char *redacted_message(const ErrorData *edata);

const char *
kr_error_name(const char *name)
{
	int			len = strlen(name);

	if (len <= KR_NAME_SHOWN)
		return name;
	return psprintf("%.*s...", pg_mbcliplen(name, len, KR_NAME_SHOWN), name);
}

void
kr_error_init(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = emit_log;
}

void
kr_error_hide_statement(const char *label)
{
	/* The outermost function names the statement. */
	if (statement_is_hidden() && (label == NULL || is_labelled))
		return;

	is_labelled = label != NULL;
	hidden_query = debug_query_string;
	hidden_start = GetCurrentStatementStartTimestamp();
	if (label != NULL)
		show_label(label);
}

void
kr_error_hide_early(void)
{
	if (statement_is_hidden())
		return;
	kr_error_hide_statement(NULL);
	show_label(KR_WITHHELD_LABEL);
}

void
kr_error_rethrow_hidden(MemoryContext cxt)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(cxt);
	edata = CopyErrorData();
	FlushErrorState();

	edata->hide_stmt = true;
	edata->hide_ctx = true;
	edata->internalquery = NULL;
	edata->internalpos = 0;
	ReThrowError(edata);
}

/*
 * In pg_stat_activity, in place of the statement. What stands behind the label
 * in shared memory nobody is shown, but a core dump would have it.
 */
static void
show_label(const char *label)
{
	int			len = strlen(label) + 1;

	pgstat_report_activity(STATE_RUNNING, label);
	if (MyBEEntry != NULL && len < pgstat_track_activity_query_size)
		memset(MyBEEntry->st_activity_raw + len, 0, pgstat_track_activity_query_size - len);
}

/*
 * The hook. Order matters for those who were there before us: they must see
 * the record as it goes to the log, so they are called with the redacted one.
 */
static void
emit_log(ErrorData *edata)
{
	if (imitates_audit(edata))
		edata->message = psprintf("not of kessel_router: %s", edata->message);

	if (replaced != NULL)
	{
		/* Our own replacement: let it look like what it stands for. */
		edata->elevel = replaced->elevel;
		edata->filename = replaced->filename;
		edata->lineno = replaced->lineno;
		edata->funcname = replaced->funcname;
	}
	else if (has_format(edata, KR_ERROR_ALERT_FORMAT))
		edata->elevel = WARNING;
	else if (!has_format(edata, KR_ERROR_AUDIT_FORMAT) && record_has_secret(edata))
	{
		if (edata->elevel >= ERROR && MyBackendType == B_BACKEND)
			show_label(KR_WITHHELD_LABEL);

		if (message_may_quote(edata) && edata->elevel <= ERROR)
		{
			emit_replacement(edata);
			return;
		}
		hide_in_place(edata);
	}

	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}

/*
 * Log a redacted record instead of this one, which then goes to the client
 * only. It is emitted at a level that cannot throw; emit_log() is called back
 * for it and puts the level right.
 */
static void
emit_replacement(ErrorData *edata)
{
	ErrorContextCallback *callbacks = error_context_stack;

	edata->output_to_server = false;

	HOLD_INTERRUPTS();
	error_context_stack = NULL;
	replaced = edata;
	ereport(LOG_SERVER_ONLY,
			(errcode(edata->sqlerrcode),
			 errmsg_internal("%s", redacted_message(edata)),
			 errdetail_internal("The statement carries a secret; its text is withheld."),
			 errhidestmt(true),
			 errhidecontext(true)));
	replaced = NULL;
	error_context_stack = callbacks;
	RESUME_INTERRUPTS();
}

/* The message is harmless: withhold what is logged along with it. */
static void
hide_in_place(ErrorData *edata)
{
	edata->hide_stmt = true;
	edata->hide_ctx = true;
	edata->internalquery = NULL;
	edata->internalpos = 0;

	/* detail_log goes to the log in place of detail, which the client gets */
	if ((edata->detail != NULL || edata->detail_log != NULL) &&
		edata->sqlerrcode != KR_ERR_VAULT_SEALED &&
		edata->sqlerrcode != KR_ERR_VAULT_CANNOT_OPEN)
		edata->detail_log = MemoryContextStrdup(edata->assoc_context,
												"The statement carries a secret; the detail is withheld.");
}

/* No SQL can give a record such a format: RAISE fills in a "%s". */
static bool
has_format(const ErrorData *edata, const char *format)
{
	return edata->message_id != NULL && strcmp(edata->message_id, format) == 0;
}

/* RAISE LOG can say anything; what reads the log goes by how a line begins. */
static bool
imitates_audit(const ErrorData *edata)
{
	static const char *const formats[] = {KR_ERROR_AUDIT_FORMAT, KR_ERROR_ALERT_FORMAT};

	for (int i = 0; i < lengthof(formats); i++)
	{
		if (edata->message != NULL && !has_format(edata, formats[i]) &&
			strncmp(edata->message, formats[i], strlen(formats[i]) - strlen("%s")) == 0)
			return true;
	}
	return false;
}

/*
 * A function that the client calls by its number has no statement. What cannot
 * be read as its argument would be quoted.
 */
static bool
is_fast_path(const ErrorData *edata)
{
	return debug_query_string == NULL && MyBackendType == B_BACKEND &&
		ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_DATA_EXCEPTION;
}

static bool
record_has_secret(const ErrorData *edata)
{
	return statement_is_hidden() ||
		is_fast_path(edata) ||
		text_names_secret(debug_query_string) ||
		kr_hide_executes_secret(debug_query_string) ||
		text_names_secret(edata->message) ||
		text_names_secret(edata->detail) ||
		text_names_secret(edata->detail_log) ||
		text_names_secret(edata->context) ||
		text_names_secret(edata->internalquery);
}

/*
 * Still in the statement that was hidden? Its start time tells even where the
 * next statement's text happens to lie at the same address.
 */
static bool
statement_is_hidden(void)
{
	return hidden_start != 0 &&
		hidden_query == debug_query_string &&
		hidden_start == GetCurrentStatementStartTimestamp();
}

static bool
text_names_secret(const char *text)
{
	return find_word(text, false);
}

bool
kr_error_carries_secret(const char *text)
{
	return find_word(text, true);
}

/* One look at each character: every statement's text goes through here. */
static bool
find_word(const char *text, bool carrying)
{
	static bool is_first[256];
	static bool is_first_known = false;

	if (text == NULL)
		return false;
	if (!is_first_known)
	{
		for (int i = 0; i < lengthof(secret_words); i++)
		{
			is_first[(unsigned char) secret_words[i].word[0]] = true;
			is_first[pg_toupper((unsigned char) secret_words[i].word[0])] = true;
		}
		is_first_known = true;
	}

	for (const char *p = text; *p != '\0'; p++)
	{
		if (!is_first[(unsigned char) *p])
			continue;
		for (int i = 0; i < lengthof(secret_words); i++)
		{
			if ((secret_words[i].carries || !carrying) &&
				pg_strncasecmp(p, secret_words[i].word, strlen(secret_words[i].word)) == 0)
				return true;
		}
	}
	return false;
}

/*
 * A message quotes at most what its format lets in. Those of the states and
 * classes below name objects that exist, hosts and limits, not a statement's
 * constants. Our own are not among them: a password given in the place of a
 * data source's name makes an unknown data source.
 */
static bool
message_may_quote(const ErrorData *edata)
{
	if (edata->message == NULL)
		return false;
	if (edata->message_id != NULL &&
		(strchr(edata->message_id, '%') == NULL ||
		 strcmp(edata->message_id, "duration: %s ms") == 0))
		return false;

	switch (edata->sqlerrcode)
	{
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
		case ERRCODE_UNDEFINED_FUNCTION:
		case KR_ERR_VAULT_SEALED:
		case KR_ERR_VAULT_CANNOT_OPEN:
			return false;
	}

	switch (ERRCODE_TO_CATEGORY(edata->sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
			return false;
	}
	return true;
}

/*
 * The message's format with *** for what was filled in. A duration is kept:
 * it is what the record was written for.
 */
static char *
redacted_message(const ErrorData *edata)
{
	const char *format = edata->message_id;
	const char *end;
	StringInfoData buf;

	if (format == NULL)
		return pstrdup(KR_WITHHELD);

	initStringInfo(&buf);
	if (strncmp(format, "duration: %s ms", strlen("duration: %s ms")) == 0 &&
		(end = strstr(edata->message, " ms")) != NULL)
	{
		appendBinaryStringInfo(&buf, edata->message,
							   end + strlen(" ms") - edata->message);
		format += strlen("duration: %s ms");
	}

	while (*format != '\0')
	{
		if (*format != '%')
			appendStringInfoChar(&buf, *format++);
		else if (format[1] == '%')
		{
			appendStringInfoChar(&buf, '%');
			format += 2;
		}
		else
		{
			/* flags, width, precision, length, conversion */
			format++;
			format += strspn(format, "-+ #0123456789.*$hlqjzt");
			if (*format != '\0')
				format++;
			appendStringInfoString(&buf, KR_WITHHELD);
		}
	}
	return buf.data;
}

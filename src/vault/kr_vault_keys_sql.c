/*
 * kr_vault_keys_sql.c
 *	  SQL functions over root keys: vault.status(), vault.rotate_root_key().
 *
 * Rotation wraps every data key by the first root key in place, in one
 * transaction. It locks vault.keys against all but readers: whoever seals a
 * secret waits till it has ended, whoever opens one does not notice. The lock
 * comes before any row's, so that nobody who seals under two tenants' keys can
 * get in its way, and no key that is being made escapes. A key that cannot be
 * unwrapped stays as it is and is reported.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_status);
PG_FUNCTION_INFO_V1(kr_vault_sql_rotate_root_key);

#define KR_ROTATE_BATCH 1000
#define KR_ROTATE_NOTICE 10000

/* As many are named in a warning; the rest is counted. */
#define KR_ROTATE_NAMED 8

static const char *const keys_to_wrap =
"SELECT id, tenant_id, purpose, root_key_id, fingerprint, nonce, wrapped_key FROM vault.keys"
" WHERE status <> 'destroyed' AND root_key_id <> $1";

static const char *const count_to_wrap =
"SELECT pg_catalog.count(*) FROM vault.keys WHERE status <> 'destroyed' AND root_key_id <> $1";

static const char *const store_key =
"UPDATE vault.keys SET root_key_id = $2, nonce = $3, wrapped_key = $4,"
" updated_at = pg_catalog.clock_timestamp() WHERE id = $1";

typedef struct RootKeyUse
{
	List	   *wanted;			/* ids that are used and not in place */
	List	   *still_used;		/* in place, used and not the primary */
	List	   *unused;			/* in place, not used and not the primary */
} RootKeyUse;

/* What rotation has left as it was. */
typedef struct Leftovers
{
	int64		missing;
	int64		altered;
	List	   *root_key_ids;	/* that are not in place, each once */
	List	   *altered_ids;	/* of the first data keys, as text */
} Leftovers;

static RootKeyUse look_at_use(const KrKeyringState *keyring, MemoryContext cxt);
static void advise(const KrKeyringState *keyring, const RootKeyUse *use,
				   StringInfo detail, StringInfo hint);
static void add_sentence(StringInfo text, const char *fmt,...) pg_attribute_printf(2, 3);
static char *join(List *texts);
static bool has_text(List *texts, const char *text);
static Datum text_array(List *texts);
static int64 rewrap_all(const char *primary, int64 total, Leftovers *left);
static bool rewrap_row(HeapTuple row, TupleDesc desc, Leftovers *left);
static bool key_of(HeapTuple row, TupleDesc desc, KrDataKey *key);
static bool get_bytes(HeapTuple row, TupleDesc desc, int column, unsigned char *to, size_t len);
static void note_missing(Leftovers *left, const char *root_key_id);
static void warn_of(const Leftovers *left);
static void record(int64 done, const Leftovers *left);
static Datum bytes_datum(const unsigned char *bytes, size_t len);

/* vault.status(): one row, and never an error because of what it reports. */
Datum
kr_vault_sql_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const KrKeyringState *keyring;
	RootKeyUse	use;
	List	   *in_place = NIL;
	Datum		values[7];
	bool		nulls[7] = {false};
	StringInfoData detail;
	StringInfoData hint;

	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&detail);
	initStringInfo(&hint);

	keyring = kr_keyring_load();
	use = look_at_use(keyring, CurrentMemoryContext);
	advise(keyring, &use, &detail, &hint);
	for (int i = 0; i < keyring->number; i++)
		in_place = lappend(in_place, pstrdup(keyring->root_key_ids[i]));

	values[0] = BoolGetDatum(use.wanted != NIL || (!keyring->loaded && !keyring->can_create));
	values[1] = CStringGetTextDatum(kr_keyring_provider_name(keyring->provider));
	nulls[2] = !keyring->loaded;
	values[2] = CStringGetTextDatum(keyring->root_key_ids[0]);
	values[3] = text_array(in_place);
	values[4] = text_array(use.wanted);
	nulls[5] = detail.len == 0;
	values[5] = CStringGetTextDatum(detail.data);
	nulls[6] = hint.len == 0;
	values[6] = CStringGetTextDatum(hint.data);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);

	return (Datum) 0;
}

/* vault.rotate_root_key(): how many data keys it has wrapped anew */
Datum
kr_vault_sql_rotate_root_key(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr lock_plan = NULL;
	static SPIPlanPtr count_plan = NULL;
	const KrKeyringState *keyring;
	Leftovers	left = {0};
	KrSpi		scope;
	char		primary[KR_FINGERPRINT_LEN + 1];
	Datum		arg;
	bool		isnull;
	int64		done;

	PreventCommandIfReadOnly("vault.rotate_root_key()");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("root keys cannot be rotated at isolation level REPEATABLE READ or SERIALIZABLE"),
				 errhint("Call vault.rotate_root_key() at READ COMMITTED.")));

	keyring = kr_keyring_load();
	if (!keyring->loaded)
		kr_vault_raise_sealed(NULL);
	strlcpy(primary, keyring->root_key_ids[0], sizeof(primary));

	kr_spi_begin(&scope);
	kr_spi_write(&lock_plan, "LOCK TABLE vault.keys IN EXCLUSIVE MODE", 0, NULL, NULL, NULL);
	kr_spi_push_snapshot();

	arg = CStringGetTextDatum(primary);
	kr_spi_read(&count_plan, count_to_wrap, 1, (Oid[]) {TEXTOID}, &arg);
	done = rewrap_all(primary,
					  DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)),
					  &left);
	warn_of(&left);
	record(done, &left);

	PopActiveSnapshot();
	kr_spi_end(&scope);
	PG_RETURN_INT64(done);
}

static RootKeyUse
look_at_use(const KrKeyringState *keyring, MemoryContext cxt)
{
	RootKeyUse	use = {0};
	List	   *used;
	KrSpi		scope;

	kr_spi_begin(&scope);
	used = kr_rows_root_keys();
	MemoryContextSwitchTo(cxt);
	for (int i = 0; i < list_length(used); i++)
	{
		char	   *id = list_nth(used, i);

		if (!kr_keyring_has(id))
			use.wanted = lappend(use.wanted, pstrdup(id));
	}
	for (int i = 1; i < keyring->number; i++)
	{
		char	   *id = pstrdup(keyring->root_key_ids[i]);

		if (has_text(used, id))
			use.still_used = lappend(use.still_used, id);
		else
			use.unused = lappend(use.unused, id);
	}
	kr_spi_end(&scope);
	MemoryContextSwitchTo(cxt);
	return use;
}

static void
advise(const KrKeyringState *keyring, const RootKeyUse *use,
	   StringInfo detail, StringInfo hint)
{
	if (!keyring->loaded && keyring->can_create && use->wanted == NIL)
	{
		add_sentence(detail, "A key file \"%s\" is made when the first secret is stored.",
					 kr_keyring_generated_path());
		add_sentence(hint, "For production set kessel.root_key_file or kessel.root_key_command first.");
	}
	else if (!keyring->loaded)
	{
		add_sentence(detail, "%s", keyring->problem.detail);
		if (keyring->problem.hint[0] != '\0')
			add_sentence(hint, "%s", keyring->problem.hint);
	}
	else if (use->wanted != NIL)
	{
		add_sentence(detail, "Some secrets are sealed under a root key that is not at hand.");
		add_sentence(hint, "Put the root key with the wanted id in place and run pg_reload_conf().");
	}
	else if (keyring->provider == KR_PROVIDER_GENERATED_FILE)
	{
		add_sentence(detail, "The root key lies in \"%s\", inside the data directory: every base backup carries it along, and pg_upgrade leaves it behind.",
					 kr_keyring_generated_path());
		add_sentence(hint, "For production move it out of the data directory and name it in kessel.root_key_file.");
	}

	if (!keyring->loaded)
		return;
	if (use->still_used != NIL)
	{
		add_sentence(detail, "Data keys are still wrapped by %s, which is not the first root key.",
					 join(use->still_used));
		add_sentence(hint, "Run SELECT vault.rotate_root_key() before that is taken out.");
	}
	if (use->unused != NIL)
		add_sentence(detail, "Nothing in this database is wrapped by %s any more.",
					 join(use->unused));
	if (!keyring->locked)
	{
		add_sentence(detail, "The kernel refuses to lock the memory that keys are in: they may be written to swap.");
		add_sentence(hint, "Let the server lock 64 kB: LimitMEMLOCK=8M in its systemd unit, or \"postgres - memlock 8192\" in /etc/security/limits.conf; then restart it.");
	}
}

static void
add_sentence(StringInfo text, const char *fmt,...)
{
	char		sentence[1024];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, args);
	va_end(args);
	appendStringInfo(text, "%s%s", text->len > 0 ? " " : "", sentence);
}

static char *
join(List *texts)
{
	StringInfoData result;

	initStringInfo(&result);
	for (int i = 0; i < list_length(texts); i++)
		appendStringInfo(&result, "%s%s", i > 0 ? ", " : "", (char *) list_nth(texts, i));
	return result.data;
}

static bool
has_text(List *texts, const char *text)
{
	for (int i = 0; i < list_length(texts); i++)
	{
		if (strcmp(list_nth(texts, i), text) == 0)
			return true;
	}
	return false;
}

static Datum
text_array(List *texts)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(texts) + 1));

	for (int i = 0; i < list_length(texts); i++)
		values[i] = CStringGetTextDatum(list_nth(texts, i));
	return PointerGetDatum(construct_array(values, list_length(texts), TEXTOID, -1, false, TYPALIGN_INT));
}

/* A batch's tuples and parameters live in a context of its own. */
static int64
rewrap_all(const char *primary, int64 total, Leftovers *left)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(caller, "batch of data keys", ALLOCSET_DEFAULT_SIZES);
	Datum		arg = CStringGetTextDatum(primary);
	Oid			type = TEXTOID;
	Portal		portal;
	int64		seen = 0;
	int64		done = 0;

	portal = SPI_cursor_open_with_args(NULL, keys_to_wrap, 1, &type, &arg, NULL, true, 0);
	for (;;)
	{
		SPITupleTable *rows;
		uint64		number;

		SPI_cursor_fetch(portal, true, KR_ROTATE_BATCH);
		rows = SPI_tuptable;
		number = SPI_processed;
		if (number == 0)
			break;

		MemoryContextSwitchTo(batch);
		for (uint64 i = 0; i < number; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (rewrap_row(rows->vals[i], rows->tupdesc, left))
				done++;
			if (++seen % KR_ROTATE_NOTICE == 0)
				ereport(NOTICE,
						(errmsg("wrapped " INT64_FORMAT " of " INT64_FORMAT " data keys anew",
								done, total)));
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch);
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	MemoryContextDelete(batch);
	return done;
}

/*
 * The keyring is asked for what it has, but not to look for something newer:
 * all keys go to the same root key.
 */
static bool
rewrap_row(HeapTuple row, TupleDesc desc, Leftovers *left)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID, BYTEAOID, BYTEAOID};
	KrDataKey	key;
	KrKeyCheck	result;
	Datum		values[4];

	result = key_of(row, desc, &key) ? kr_keyring_rewrap(&key) : KR_KEY_ALTERED;
	if (result == KR_KEY_NO_ROOT_KEY)
	{
		note_missing(left, key.root_key_id);
		return false;
	}
	if (result == KR_KEY_ALTERED)
	{
		if (left->altered++ < KR_ROTATE_NAMED)
		{
			MemoryContext cxt = MemoryContextSwitchTo(TopTransactionContext);

			left->altered_ids = lappend(left->altered_ids,
										psprintf("%s (%s)", kr_vault_uuid_text(&key.id), key.fingerprint));
			MemoryContextSwitchTo(cxt);
		}
		return false;
	}

	values[0] = UUIDPGetDatum(&key.id);
	values[1] = CStringGetTextDatum(key.root_key_id);
	values[2] = bytes_datum(key.nonce, sizeof(key.nonce));
	values[3] = bytes_datum(key.wrapped, sizeof(key.wrapped));
	kr_spi_write(&plan, store_key, lengthof(types), types, values, NULL);
	return true;
}

/* False where it has a form that the vault has not written. */
static bool
key_of(HeapTuple row, TupleDesc desc, KrDataKey *key)
{
	bool		isnull;
	Datum		value;
	char	   *purpose;

	memset(key, 0, sizeof(*key));
	key->id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
	value = SPI_getbinval(row, desc, 2, &isnull);
	key->has_tenant = !isnull;
	if (key->has_tenant)
		key->tenant_id = *DatumGetUUIDP(value);
	purpose = SPI_getvalue(row, desc, 3);
	key->purpose = strcmp(purpose, "box") == 0 ? KR_KEY_BOX : KR_KEY_SEAL;
	strlcpy(key->root_key_id, SPI_getvalue(row, desc, 4), sizeof(key->root_key_id));
	strlcpy(key->fingerprint, SPI_getvalue(row, desc, 5), sizeof(key->fingerprint));
	return get_bytes(row, desc, 6, key->nonce, sizeof(key->nonce)) &&
		get_bytes(row, desc, 7, key->wrapped, sizeof(key->wrapped));
}

static bool
get_bytes(HeapTuple row, TupleDesc desc, int column, unsigned char *to, size_t len)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);
	bytea	   *bytes;

	if (isnull)
		return false;
	bytes = DatumGetByteaPP(value);
	if (VARSIZE_ANY_EXHDR(bytes) != len)
		return false;
	memcpy(to, VARDATA_ANY(bytes), len);
	return true;
}

static void
note_missing(Leftovers *left, const char *root_key_id)
{
	left->missing++;
	if (list_length(left->root_key_ids) < KR_ROTATE_NAMED &&
		!has_text(left->root_key_ids, root_key_id))
	{
		MemoryContext cxt = MemoryContextSwitchTo(TopTransactionContext);

		left->root_key_ids = lappend(left->root_key_ids, pstrdup(root_key_id));
		MemoryContextSwitchTo(cxt);
	}
}

static void
warn_of(const Leftovers *left)
{
	StringInfoData detail;

	if (left->missing + left->altered == 0)
		return;

	initStringInfo(&detail);
	if (left->missing > 0)
		add_sentence(&detail, INT64_FORMAT " of them are wrapped by root keys that are not in place: %s.",
					 left->missing, join(left->root_key_ids));
	if (left->altered > 0)
		add_sentence(&detail, INT64_FORMAT " of them are not what the vault has written: %s.",
					 left->altered, join(left->altered_ids));
	ereport(WARNING,
			(errcode(left->missing > 0 ? KR_ERR_VAULT_SEALED : KR_ERR_VAULT_CANNOT_OPEN),
			 errmsg(INT64_FORMAT " data keys were left as they are", left->missing + left->altered),
			 errdetail_internal("%s", detail.data),
			 errhint("Put missing root keys in place behind the first one and call vault.rotate_root_key() again; restore altered rows of vault.keys.")));
}

static void
record(int64 done, const Leftovers *left)
{
	KrAuditEvent event = {0};

	event.action = "rotate root key";
	event.ok = left->missing + left->altered == 0;
	if (left->missing > 0)
	{
		event.sqlerrcode = KR_ERR_VAULT_SEALED;
		event.reason = "root key is not in place";
	}
	else if (left->altered > 0)
	{
		event.sqlerrcode = KR_ERR_VAULT_CANNOT_OPEN;
		event.reason = "altered data keys";
	}
	event.count = done;
	kr_audit_record(&event);
}

static Datum
bytes_datum(const unsigned char *bytes, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

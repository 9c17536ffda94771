/*
 * kr_vault_sql.c
 *	  The vault's SQL functions.
 *
 * Each that is given a secret first hides the statement, then works inside
 * PG_TRY so that an error goes out without the statement's text. The secret
 * arrives in a text datum of the executor's, which cannot be helped; copies
 * made here are wiped.
 */
#include "postgres.h"

#include <sodium.h>

#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_create);
PG_FUNCTION_INFO_V1(kr_vault_sql_update);
PG_FUNCTION_INFO_V1(kr_vault_sql_delete);
PG_FUNCTION_INFO_V1(kr_vault_sql_roll_back);
PG_FUNCTION_INFO_V1(kr_vault_sql_reveal);
PG_FUNCTION_INFO_V1(kr_vault_sql_reveal_name);
PG_FUNCTION_INFO_V1(kr_vault_sql_open);
PG_FUNCTION_INFO_V1(kr_vault_sql_check);
PG_FUNCTION_INFO_V1(kr_vault_sql_guard);

/* A text argument, detoasted; .text is NULL for NULL. */
typedef struct SecretArg
{
	text	   *text;
	bool		is_copy;
} SecretArg;

static bool is_sealed(HeapTuple tuple, TupleDesc desc);
static SecretArg get_secret_arg(FunctionCallInfo fcinfo, int number);
static void wipe_secret_arg(SecretArg arg);
static Datum reveal(const pg_uuid_t *id, int32 version);
static void require_id(FunctionCallInfo fcinfo);
static bool get_row_args(FunctionCallInfo fcinfo, KrSecretRow *row);
static void get_change_args(FunctionCallInfo fcinfo, SecretArg secret, int name,
							KrSecretChange *change);
static void get_notes_args(FunctionCallInfo fcinfo, int description, int tags,
						   KrSecretNotes *notes, TimestampTz *expires_at);
static char *get_text_arg(FunctionCallInfo fcinfo, int number);
static pg_uuid_t *get_uuid_arg(FunctionCallInfo fcinfo, int number);

/*
 * vault.create_secret(new_secret, new_name, new_description, new_key_id,
 *					   new_tenant_id, new_tags, new_expires_at)
 */
Datum
kr_vault_sql_create(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	SecretArg	secret;

	kr_error_hide_statement(KR_VAULT_LABEL);
	secret = get_secret_arg(fcinfo, 0);
	PG_TRY();
	{
		KrSecretChange change;
		TimestampTz expires_at;

		if (secret.text == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a secret must not be null"),
					 errhint("An empty string is allowed.")));
		get_change_args(fcinfo, secret, 1, &change);
		get_notes_args(fcinfo, 2, 5, &change.notes, &expires_at);
		kr_vault_new_id(id);
		kr_vault_insert(id, get_uuid_arg(fcinfo, 4), &change);
		kr_vault_grant_creator(id);
	}
	PG_CATCH();
	{
		wipe_secret_arg(secret);
		kr_error_rethrow_hidden(caller);
	}
	PG_END_TRY();

	wipe_secret_arg(secret);
	PG_RETURN_UUID_P(id);
}

/*
 * vault.update_secret(secret_id, new_secret, new_name, new_description,
 *					   new_key_id, new_tags, new_expires_at)
 */
Datum
kr_vault_sql_update(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	SecretArg	secret;

	kr_error_hide_statement(KR_VAULT_LABEL);
	secret = get_secret_arg(fcinfo, 1);
	PG_TRY();
	{
		KrSecretChange change;
		TimestampTz expires_at;

		require_id(fcinfo);
		get_change_args(fcinfo, secret, 2, &change);
		get_notes_args(fcinfo, 3, 5, &change.notes, &expires_at);
		kr_vault_update(PG_GETARG_UUID_P(0), &change);
	}
	PG_CATCH();
	{
		wipe_secret_arg(secret);
		kr_error_rethrow_hidden(caller);
	}
	PG_END_TRY();

	wipe_secret_arg(secret);
	PG_RETURN_VOID();
}

/* vault.delete_secret(secret_id) */
Datum
kr_vault_sql_delete(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(kr_vault_remove(PG_GETARG_UUID_P(0)));
}

/* vault.rollback_secret(secret_id, to_version) */
Datum
kr_vault_sql_roll_back(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(kr_vault_roll_back(PG_GETARG_UUID_P(0), PG_GETARG_INT32(1)));
}

/* vault.reveal(secret_id, version); NULL is the current version */
Datum
kr_vault_sql_reveal(PG_FUNCTION_ARGS)
{
	require_id(fcinfo);
	kr_vault_demand(GetUserId(), PG_GETARG_UUID_P(0), KR_PRIVILEGE_REVEAL, "reveal", NULL);
	return reveal(PG_GETARG_UUID_P(0), PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1));
}

/* vault.reveal(secret_name) */
Datum
kr_vault_sql_reveal_name(PG_FUNCTION_ARGS)
{
	pg_uuid_t	id;

	kr_vault_require(text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId(),
					 KR_PRIVILEGE_REVEAL, "reveal", &id);
	return reveal(&id, 0);
}

/*
 * vault._open(id, name, version, tenant_id, key_id, secret, nonce, expires_at,
 *			   key's tenant_id, root_key_id, nonce, wrapped_key)
 *
 * For the view: NULL for a row that cannot be opened, so that it spoils no
 * other, and one warning a query where none can.
 */
Datum
kr_vault_sql_open(PG_FUNCTION_ARGS)
{
	KrSecretRow row;
	KrOpenResult result;
	text	   *value;

	if (!get_row_args(fcinfo, &row))
		PG_RETURN_NULL();

	/* The view has asked already; whoever calls this by hand has not. */
	kr_vault_demand(GetUserId(), &row.id, KR_PRIVILEGE_REVEAL, "reveal", NULL);
	/* what the query does with it may fail and quote it */
	kr_error_hide_statement(NULL);
	result = kr_vault_open_row_text(&row, &value);
	kr_vault_record_open(&row, "reveal", GetUserId(), result, true);
	if (result == KR_OPEN_SEALED && fcinfo->flinfo->fn_extra == NULL)
	{
		fcinfo->flinfo->fn_extra = fcinfo->flinfo;
		ereport(WARNING,
				(errcode(KR_ERR_VAULT_SEALED),
				 errmsg("the vault is sealed"),
				 errhint("SELECT * FROM vault.status() tells why.")));
	}
	if (result != KR_OPEN_OK)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(value);
}

/* vault._check(as vault._open): what keeps the row from being opened, or NULL */
Datum
kr_vault_sql_check(PG_FUNCTION_ARGS)
{
	KrSecretRow row;
	KrOpenResult result = KR_OPEN_ALTERED;

	if (get_row_args(fcinfo, &row))
	{
		result = kr_vault_check_row(&row);
		kr_vault_record_open(&row, "verify", InvalidOid, result, true);
	}
	if (result == KR_OPEN_OK && row.expires_at <= GetCurrentTimestamp())
		result = KR_OPEN_EXPIRED;
	if (result == KR_OPEN_OK)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(kr_vault_reason(result)));
}

/*
 * Row trigger, before INSERT or UPDATE of vault.secrets: what is not sealed
 * must not reach the heap. A restore and our own writes bring rows in the form
 * that passes; whether one opens is found out when it is opened.
 */
Datum
kr_vault_sql_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "kr_vault_sql_guard is not called by the trigger manager");

	tuple = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
		trigger->tg_newtuple : trigger->tg_trigtuple;
	if (!is_sealed(tuple, RelationGetDescr(trigger->tg_relation)))
	{
		kr_error_hide_statement(KR_VAULT_LABEL);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("vault.secrets takes sealed secrets only"),
				 errdetail("The row holds plaintext and was not stored."),
				 errhint("Call vault.create_secret(secret, name, description) or vault.update_secret(id, secret)."),
				 errhidestmt(true),
				 errhidecontext(true)));
	}
	return PointerGetDatum(tuple);
}

static bool
is_sealed(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value;
	bytea	   *secret;

	value = SPI_getbinval(tuple, desc, SPI_fnumber(desc, "nonce"), &isnull);
	if (isnull || VARSIZE_ANY_EXHDR(DatumGetByteaPP(value)) != KR_NONCE_BYTES)
		return false;
	value = SPI_getbinval(tuple, desc, SPI_fnumber(desc, "secret"), &isnull);
	if (isnull)
		return false;
	secret = DatumGetByteaPP(value);
	return VARSIZE_ANY_EXHDR(secret) >= 1 + KR_TAG_BYTES &&
		VARDATA_ANY(secret)[0] == KR_SECRET_FORMAT;
}

static SecretArg
get_secret_arg(FunctionCallInfo fcinfo, int number)
{
	SecretArg	arg = {NULL, false};

	if (!PG_ARGISNULL(number))
	{
		arg.text = PG_GETARG_TEXT_PP(number);
		arg.is_copy = PointerGetDatum(arg.text) != PG_GETARG_DATUM(number);
	}
	return arg;
}

static void
wipe_secret_arg(SecretArg arg)
{
	if (!arg.is_copy)
		return;
	sodium_memzero(VARDATA_ANY(arg.text), VARSIZE_ANY_EXHDR(arg.text));
	pfree(arg.text);
}

/* The privilege has been asked for. */
static Datum
reveal(const pg_uuid_t *id, int32 version)
{
	KrSecret   *secret;
	text	   *result;

	/* what is done with it may fail and quote it */
	kr_error_hide_statement(NULL);
	secret = kr_vault_open_version(id, version, "reveal", GetUserId());
	result = cstring_to_text_with_len(secret->value, secret->len);
	kr_vault_close(secret);
	PG_RETURN_TEXT_P(result);
}

static void
require_id(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the secret's id must not be null"),
				 errhint("Look up its id in vault.secrets.")));
}

/* False where a part is missing that each row has. */
static bool
get_row_args(FunctionCallInfo fcinfo, KrSecretRow *row)
{
	memset(row, 0, sizeof(*row));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(4) ||
		PG_ARGISNULL(5) || PG_ARGISNULL(6))
		return false;

	row->id = *PG_GETARG_UUID_P(0);
	row->name = get_text_arg(fcinfo, 1);
	row->version = PG_GETARG_INT32(2);
	row->has_tenant = !PG_ARGISNULL(3);
	if (row->has_tenant)
		row->tenant_id = *PG_GETARG_UUID_P(3);
	row->key_id = *PG_GETARG_UUID_P(4);
	row->sealed = PG_GETARG_BYTEA_PP(5);
	row->nonce = PG_GETARG_BYTEA_PP(6);
	row->expires_at = PG_ARGISNULL(7) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(7);

	row->has_key = !PG_ARGISNULL(9) && !PG_ARGISNULL(10) && !PG_ARGISNULL(11) &&
		VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(10)) == KR_NONCE_BYTES &&
		VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(11)) == KR_WRAPPED_KEY_BYTES;
	if (row->has_key)
	{
		row->key.id = row->key_id;
		row->key.has_tenant = !PG_ARGISNULL(8);
		if (row->key.has_tenant)
			row->key.tenant_id = *PG_GETARG_UUID_P(8);
		strlcpy(row->key.root_key_id, get_text_arg(fcinfo, 9), sizeof(row->key.root_key_id));
		memcpy(row->key.nonce, VARDATA_ANY(PG_GETARG_BYTEA_PP(10)), KR_NONCE_BYTES);
		memcpy(row->key.wrapped, VARDATA_ANY(PG_GETARG_BYTEA_PP(11)), KR_WRAPPED_KEY_BYTES);
	}
	return true;
}

/* Name, description and key follow one another. */
static void
get_change_args(FunctionCallInfo fcinfo, SecretArg secret, int name, KrSecretChange *change)
{
	memset(change, 0, sizeof(*change));
	change->value = secret.text ? VARDATA_ANY(secret.text) : NULL;
	change->len = secret.text ? VARSIZE_ANY_EXHDR(secret.text) : 0;
	change->name = get_text_arg(fcinfo, name);
	change->key_id = get_uuid_arg(fcinfo, name + 2);
}

/* The expiry follows the tags; *expires_at keeps it. */
static void
get_notes_args(FunctionCallInfo fcinfo, int description, int tags,
			   KrSecretNotes *notes, TimestampTz *expires_at)
{
	notes->description = get_text_arg(fcinfo, description);
	notes->tags = PG_ARGISNULL(tags) ? NULL : PG_GETARG_JSONB_P(tags);
	if (notes->tags != NULL && !JB_ROOT_IS_OBJECT(notes->tags))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tags must be a JSON object"),
				 errhint("For example: {\"team\": \"billing\"}.")));
	notes->expires_at = NULL;
	if (!PG_ARGISNULL(tags + 1))
	{
		*expires_at = PG_GETARG_TIMESTAMPTZ(tags + 1);
		notes->expires_at = expires_at;
	}
}

static char *
get_text_arg(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static pg_uuid_t *
get_uuid_arg(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : PG_GETARG_UUID_P(number);
}

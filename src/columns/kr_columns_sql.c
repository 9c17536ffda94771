/*
 * kr_columns_sql.c
 *	  SQL functions that seal and open values of users' own tables, for the
 *	  session's tenant.
 *
 * The tenant is resolved and checked as for a router table, at each call: a
 * setting may change between two rows. Both plaintext that is handed in and
 * plaintext that comes out can get into messages (a failing cast quotes it), so
 * each call keeps its statement out of the log; a call that only opens leaves
 * it in pg_stat_activity, since no plaintext stands in it.
 */
#include "postgres.h"

#include <sodium.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "kr_compat.h"
#include "kr_error.h"
#include "kr_route.h"
#include "kr_vault_value.h"

#define KR_COLUMNS_LABEL "<vault: statement with a value to be sealed>"

PG_FUNCTION_INFO_V1(kr_columns_seal_text);
PG_FUNCTION_INFO_V1(kr_columns_seal_jsonb);
PG_FUNCTION_INFO_V1(kr_columns_open);
PG_FUNCTION_INFO_V1(kr_columns_open_jsonb);
PG_FUNCTION_INFO_V1(kr_columns_reseal);

static text *get_context(FunctionCallInfo fcinfo);
static text *open_value(FunctionCallInfo fcinfo, KrValueType *type);
static const pg_uuid_t *session_tenant(void);

/* vault.seal(value text, context text) returns bytea */
Datum
kr_columns_seal_text(PG_FUNCTION_ARGS)
{
	text	   *context = get_context(fcinfo);
	text	   *value;
	bytea	   *result = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	kr_error_hide_statement(KR_COLUMNS_LABEL);
	value = PG_GETARG_TEXT_PP(0);
	PG_TRY();
	{
		result = kr_vault_value_seal(session_tenant(), KR_VALUE_TEXT,
									 VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), context);
	}
	PG_FINALLY();
	{
		if (PointerGetDatum(value) != PG_GETARG_DATUM(0))
			sodium_memzero(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	}
	PG_END_TRY();
	PG_RETURN_BYTEA_P(result);
}

/* vault.seal(value jsonb, context text) returns bytea */
Datum
kr_columns_seal_jsonb(PG_FUNCTION_ARGS)
{
	text	   *context = get_context(fcinfo);
	Jsonb	   *value;
	StringInfoData json;
	bytea	   *result = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	kr_error_hide_statement(KR_COLUMNS_LABEL);
	value = PG_GETARG_JSONB_P(0);
	initStringInfo(&json);
	PG_TRY();
	{
		(void) JsonbToCString(&json, &value->root, VARSIZE(value) * 2);
		result = kr_vault_value_seal(session_tenant(), KR_VALUE_JSONB,
									 json.data, json.len, context);
	}
	PG_FINALLY();
	{
		sodium_memzero(json.data, json.len);
		if (PointerGetDatum(value) != PG_GETARG_DATUM(0))
			sodium_memzero(VARDATA(value), VARSIZE(value) - VARHDRSZ);
	}
	PG_END_TRY();
	PG_RETURN_BYTEA_P(result);
}

/* vault.open(sealed bytea, context text) returns text */
Datum
kr_columns_open(PG_FUNCTION_ARGS)
{
	KrValueType type;
	text	   *result = open_value(fcinfo, &type);

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* vault.open_jsonb(sealed bytea, context text) returns jsonb */
Datum
kr_columns_open_jsonb(PG_FUNCTION_ARGS)
{
	KrValueType type;
	text	   *json = open_value(fcinfo, &type);
	char	   *copy;
	Datum		result;

	if (json == NULL)
		PG_RETURN_NULL();
	if (type != KR_VALUE_JSONB)
	{
		sodium_memzero(VARDATA(json), VARSIZE(json) - VARHDRSZ);
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("sealed value is not jsonb"),
				 errdetail("It was sealed as text."),
				 errhint("Open it with vault.open().")));
	}
	copy = text_to_cstring(json);
	sodium_memzero(VARDATA(json), VARSIZE(json) - VARHDRSZ);
	result = DirectFunctionCall1(jsonb_in, CStringGetDatum(copy));
	sodium_memzero(copy, strlen(copy));
	return result;
}

/* vault.reseal(sealed bytea, context text) returns bytea */
Datum
kr_columns_reseal(PG_FUNCTION_ARGS)
{
	text	   *context = get_context(fcinfo);

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(kr_vault_value_reseal(session_tenant(), PG_GETARG_BYTEA_PP(0), context));
}

static text *
open_value(FunctionCallInfo fcinfo, KrValueType *type)
{
	text	   *context = get_context(fcinfo);

	if (PG_ARGISNULL(0))
		return NULL;
	kr_error_hide_statement(NULL);
	return kr_vault_value_open(session_tenant(), PG_GETARG_BYTEA_PP(0), context, type);
}

static text *
get_context(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("context must not be null"),
				 errhint("Name what the value is, for instance the table and the column: 'patients.diagnosis'.")));
	return PG_GETARG_TEXT_PP(1);
}

static const pg_uuid_t *
session_tenant(void)
{
	return &kr_route_entered()->tenant_id;
}

/*
 * kr_fleet_rows.c
 *	  What comes from data sources, as values of this server.
 *
 * A query's rows are turned into jsonb by the data source, with its own
 * to_jsonb(), so that types which are not known here (enums, composite types,
 * extensions' types) look as they do in a row there. Only what is no SELECT, as
 * EXPLAIN and SHOW, is put together here. A data source can send anything: each
 * conversion raises an error for what is not well-formed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "kr_fleet_rows.h"

static Datum
jsonb_of_text(char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/* A value as it came; NULL: it is NULL. Error 22021 where it is not well-formed. */
static char *
value_of(const PGresult *row, int column)
{
	char	   *value;

	if (PQgetisnull(row, 0, column))
		return NULL;
	value = PQgetvalue(row, 0, column);
	(void) pg_verify_mbstr(GetDatabaseEncoding(), value, PQgetlength(row, 0, column), false);
	return value;
}

static void
append_value(StringInfo json, Oid type, const char *value)
{
	switch (value ? type : InvalidOid)
	{
		case InvalidOid:
			if (value == NULL)
				appendStringInfoString(json, "null");
			else
				escape_json(json, value);
			break;
		case BOOLOID:
			appendStringInfoString(json, value[0] == 't' ? "true" : "false");
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONOID:
		case JSONBOID:
			appendStringInfoString(json, value);
			break;
		default:
			escape_json(json, value);
			break;
	}
}

Datum
kr_fleet_row_to_jsonb(const PGresult *row, bool as_jsonb, bool *isnull)
{
	StringInfoData json;
	char	   *value;

	*isnull = false;
	if (as_jsonb)
	{
		if (PQnfields(row) != 1 || (value = value_of(row, 0)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("the data source has sent no row of one jsonb")));
		return jsonb_of_text(value);
	}

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < PQnfields(row); i++)
	{
		const char *name = PQfname(row, i);

		(void) pg_verifymbstr(name, strlen(name), false);
		if (i > 0)
			appendStringInfoChar(&json, ',');
		escape_json(&json, name);
		appendStringInfoChar(&json, ':');
		append_value(&json, PQftype(row, i), value_of(row, i));
	}
	appendStringInfoChar(&json, '}');
	return jsonb_of_text(json.data);
}

static void
append_field(StringInfo json, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(json, "%s\"%s\": ", json->len > 1 ? ", " : "", name);
	escape_json(json, value);
}

Datum
kr_fleet_error_to_jsonb(const ErrorData *error, const char *more)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	append_field(&json, "sqlstate", unpack_sql_state(error->sqlerrcode));
	append_field(&json, "message", error->message ? error->message : "");
	append_field(&json, "detail", error->detail);
	append_field(&json, "hint", error->hint);
	appendStringInfoString(&json, more);
	appendStringInfoChar(&json, '}');
	return jsonb_of_text(json.data);
}

HeapTuple
kr_fleet_row_to_tuple(const PGresult *row, const char *tenant, AttInMetadata *types)
{
	TupleDesc	desc = types->tupdesc;
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));

	if (PQnfields(row) != desc->natts - 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the rows of tenant \"%s\" have %d columns, and %d are asked for",
						tenant, PQnfields(row), desc->natts - 1),
				 errhint("The first column of the list is the tenant, the others are the query's.")));
	for (int i = 0; i < desc->natts; i++)
	{
		char	   *value = i == 0 ? pstrdup(tenant) : value_of(row, i - 1);

		nulls[i] = value == NULL;
		values[i] = InputFunctionCall(&types->attinfuncs[i], value,
									  types->attioparams[i], types->atttypmods[i]);
	}
	return heap_form_tuple(desc, values, nulls);
}

void
kr_fleet_report(const ErrorData *error, const char *tenant, int elevel)
{
	ereport(elevel,
			(errcode(error->sqlerrcode),
			 elevel >= ERROR ? errmsg_internal("%s", error->message) :
			 errmsg_internal("tenant \"%s\": %s", tenant, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 errcontext("tenant \"%s\"", tenant)));
}

/*
 * kr_worker_rows.c
 *	  The rows of app.audit_log.
 *
 * A batch is one INSERT ... SELECT from arrays, one for each column: ten times
 * as fast as a statement for each row. A record of several secrets becomes a
 * row for each.
 *
 * unnest stands without a schema: only so does the parser take several arrays.
 * kr_spi_begin() sees to it that it is pg_catalog's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_spi.h"
#include "kr_worker.h"

/* In the order of the statement below. */
static const Oid column_types[] = {
	TIMESTAMPTZOID,				/* occurred_at */
	TEXTOID,					/* action */
	TEXTOID,					/* purpose */
	BOOLOID,					/* ok */
	TEXTOID,					/* role_name */
	TEXTOID,					/* login_role */
	TEXTOID,					/* as_role */
	UUIDOID,					/* user_id */
	UUIDOID,					/* tenant_id */
	UUIDOID,					/* secret_id */
	INT4OID,					/* version */
	INT8OID,					/* count */
	TEXTOID,					/* sqlstate */
	TEXTOID,					/* reason */
	INT4OID,					/* pid */
	TEXTOID,					/* client_addr */
	TEXTOID						/* application_name */
};

#define COLUMNS lengthof(column_types)

static const char insert_sql[] =
"INSERT INTO app.audit_log (occurred_at, action, purpose, ok, role_name, login_role, as_role, user_id, tenant_id,"
" secret_id, version, count, sqlstate, reason, pid, client_addr, application_name)"
" SELECT r.occurred_at, r.action, r.purpose, r.ok, r.role_name, r.login_role, r.as_role, r.user_id, r.tenant_id,"
" r.secret_id, r.version, r.count, r.sqlstate, r.reason, r.pid, r.client_addr::pg_catalog.inet, r.application_name"
" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
" r (occurred_at, action, purpose, ok, role_name, login_role, as_role, user_id, tenant_id,"
" secret_id, version, count, sqlstate, reason, pid, client_addr, application_name)";

/* Columns of all rows; nrows of them are filled in. */
typedef struct Rows
{
	Datum	   *values[COLUMNS];
	bool	   *nulls[COLUMNS];
	int			nrows;
	int			column;			/* the next one of the current row */
} Rows;

static void add_row(Rows *rows, const KrAuditRecord *record, const KrAuditSecret *secret);
static void add(Rows *rows, bool known, Datum value);
static void add_text(Rows *rows, const char *text);
static void add_uuid(Rows *rows, bool known, const pg_uuid_t *id);
static Datum column_array(const Rows *rows, int column);

void
kr_worker_store(const KrAuditRecord *records, int nrecords)
{
	static SPIPlanPtr plan = NULL;
	Rows		rows = {0};
	Oid			types[COLUMNS];
	Datum		arrays[COLUMNS];
	int			total = 0;

	for (int i = 0; i < nrecords; i++)
		total += Max(records[i].nsecrets, 1);
	for (int i = 0; i < COLUMNS; i++)
	{
		rows.values[i] = palloc(total * sizeof(Datum));
		rows.nulls[i] = palloc(total * sizeof(bool));
	}

	for (int i = 0; i < nrecords; i++)
	{
		if (records[i].nsecrets == 0)
			add_row(&rows, &records[i], NULL);
		for (int j = 0; j < records[i].nsecrets; j++)
			add_row(&rows, &records[i], &records[i].secrets[j]);
	}

	for (int i = 0; i < COLUMNS; i++)
	{
		types[i] = get_array_type(column_types[i]);
		arrays[i] = column_array(&rows, i);
	}
	kr_spi_write(&plan, insert_sql, COLUMNS, types, arrays, NULL);
}

void
kr_worker_make_partitions(void)
{
	static SPIPlanPtr plan = NULL;

	kr_spi_write(&plan, "SELECT kessel._make_audit_partitions()", 0, NULL, NULL, NULL);
}

static void
add_row(Rows *rows, const KrAuditRecord *record, const KrAuditSecret *secret)
{
	rows->column = 0;
	add(rows, true, TimestampTzGetDatum(record->at));
	add_text(rows, record->action);
	add_text(rows, record->purpose);
	add(rows, true, BoolGetDatum(record->ok));
	add_text(rows, record->role_name);
	add_text(rows, record->login_role);
	add_text(rows, record->as_role_name);
	add_uuid(rows, record->has_user, &record->user_id);
	if (secret != NULL)
		add_uuid(rows, secret->has_tenant, &secret->tenant_id);
	else
		add_uuid(rows, record->has_tenant, &record->tenant_id);
	add_uuid(rows, secret != NULL, secret ? &secret->secret_id : NULL);
	add(rows, secret != NULL && secret->version > 0, Int32GetDatum(secret ? secret->version : 0));
	add(rows, true, Int64GetDatum(secret ? 1 : (int64) record->count));
	add_text(rows, record->sqlerrcode ? unpack_sql_state(record->sqlerrcode) : "");
	add_text(rows, record->reason);
	add(rows, true, Int32GetDatum(record->pid));
	add_text(rows, record->client_addr);
	add_text(rows, record->application_name);
	Assert(rows->column == COLUMNS);
	rows->nrows++;
}

static void
add(Rows *rows, bool known, Datum value)
{
	rows->values[rows->column][rows->nrows] = value;
	rows->nulls[rows->column][rows->nrows] = !known;
	rows->column++;
}

/* null for the empty string */
static void
add_text(Rows *rows, const char *text)
{
	add(rows, text[0] != '\0', text[0] != '\0' ? CStringGetTextDatum(text) : (Datum) 0);
}

static void
add_uuid(Rows *rows, bool known, const pg_uuid_t *id)
{
	add(rows, known, known ? UUIDPGetDatum(id) : (Datum) 0);
}

static Datum
column_array(const Rows *rows, int column)
{
	int			dims[1] = {rows->nrows};
	int			lower[1] = {1};
	Oid			type = column_types[column];
	int16		len;
	bool		by_value;
	char		align;

	get_typlenbyvalalign(type, &len, &by_value, &align);
	return PointerGetDatum(construct_md_array(rows->values[column], rows->nulls[column],
											  1, dims, lower, type, len, by_value, align));
}

/*
 * kr_fdw_bulk.c
 *	  Rows of an INSERT collected by column, to be sent as
 *	  INSERT INTO t(a, b) SELECT unnest($1), unnest($2).
 *
 * One array a column, in binary form, which needs no quoting and no parsing. It
 * is an INSERT like any other, so rules, triggers, row security and ON CONFLICT
 * do what they do there, and it has one text, however many rows there are.
 *
 * A parameter of a single INSERT takes its column's type, whatever that is; an
 * array must be told its type. Values of types whose binary form is the same
 * everywhere travel as what they are if the remote column is of the very same
 * type. All others travel as text and are cast to the remote column's type,
 * which runs that type's input function, as a single INSERT would.
 *
 * Everything lives in the memory context in which the bulk was created.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "kr_fdw_bulk.h"

/* Rows and bytes of one statement; the data source works on it while we make the next. */
#define MAX_ROWS 1000
#define MAX_BYTES (256 * 1024)

/* Of an array: dimensions, flags, type, length, lower bound. */
#define ARRAY_HEADER 20

typedef enum KrBulkForm
{
	KR_BULK_INT2,
	KR_BULK_INT4,
	KR_BULK_INT8,
	KR_BULK_FLOAT4,
	KR_BULK_FLOAT8,
	KR_BULK_BOOL,
	KR_BULK_UUID,
	KR_BULK_BYTES,				/* what a varlena holds */
	KR_BULK_JSONB,				/* a version, then text */
	KR_BULK_SEND,				/* by the type's send function */
	KR_BULK_OUTPUT				/* text */
} KrBulkForm;

typedef struct KrBulkColumn
{
	AttrNumber	attnum;
	const char *name;			/* there, quoted */
	Oid			element;		/* type of the array's elements */
	KrBulkForm	form;
	FmgrInfo	function;		/* of SEND and OUTPUT */
	const char *cast;			/* NULL: none */
	bool		source_default; /* NULL means the source's own default */
	bool		left_out;		/* in the rows that are being collected */
	bool		has_null;
	StringInfoData data;
} KrBulkColumn;

typedef struct KrBulkVariant
{
	bool	   *left_out;		/* one for each column */
	const char *sql;
} KrBulkVariant;

struct KrBulk
{
	const KrTarget *target;
	const char *table;
	const char *suffix;
	int			ncolumns;
	KrBulkColumn *columns;
	int			rows;
	uint64		bytes;
	bool		needs_settings;
	List	   *variants;
	const char **values;
	int		   *lengths;
	int		   *formats;
	MemoryContext cxt;
	MemoryContext row_cxt;
};

/* ---------- columns ---------- */

static bool
is_string(Oid type)
{
	return type == TEXTOID || type == VARCHAROID || type == BPCHAROID;
}

/*
 * How a builtin type travels as what it is; false where its binary form depends
 * on settings, on object ids, or on our client's encoding.
 */
static bool
binary_form(Oid type, KrBulkForm *form)
{
	switch (type)
	{
		case INT2OID:
			*form = KR_BULK_INT2;
			return true;
		case DATEOID:
		case INT4OID:
			*form = KR_BULK_INT4;
			return true;
		case INT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			*form = KR_BULK_INT8;
			return true;
		case FLOAT4OID:
			*form = KR_BULK_FLOAT4;
			return true;
		case FLOAT8OID:
			*form = KR_BULK_FLOAT8;
			return true;
		case BOOLOID:
			*form = KR_BULK_BOOL;
			return true;
		case UUIDOID:
			*form = KR_BULK_UUID;
			return true;
		case BYTEAOID:
		case JSONOID:
			*form = KR_BULK_BYTES;
			return true;
		case JSONBOID:
			*form = KR_BULK_JSONB;
			return true;
		case INTERVALOID:
		case NUMERICOID:
		case TIMETZOID:
			*form = KR_BULK_SEND;
			return true;
		default:
			return false;
	}
}

static void
init_column(KrBulk *bulk, KrBulkColumn *column, Form_pg_attribute attr,
			const KrRemoteColumn *remote)
{
	Oid			type = getBaseType(attr->atttypid);
	Oid			function;
	bool		varlena;

	column->attnum = attr->attnum;
	column->name = quote_identifier(remote->name);
	if (remote->type == type && binary_form(type, &column->form))
		column->element = type;
	else
	{
		column->element = TEXTOID;
		column->form = is_string(type) ? KR_BULK_BYTES : KR_BULK_OUTPUT;
		if (!is_string(remote->type))
			column->cast = pstrdup(remote->type_name);
	}

	if (column->form == KR_BULK_SEND)
		getTypeBinaryOutputInfo(type, &function, &varlena);
	else
		getTypeOutputInfo(type, &function, &varlena);
	fmgr_info(function, &column->function);
	if (column->form == KR_BULK_OUTPUT)
		bulk->needs_settings |= kr_type_needs_settings(type);
}

static void
start_anew(KrBulk *bulk)
{
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];

		/* What one large value needed is not kept for the rest. */
		if (column->data.maxlen > 2 * MAX_BYTES)
		{
			pfree(column->data.data);
			initStringInfo(&column->data);
		}
		resetStringInfo(&column->data);
		appendStringInfoSpaces(&column->data, ARRAY_HEADER);
		column->has_null = false;
	}
	bulk->rows = 0;
	bulk->bytes = 0;
}

KrBulk *
kr_bulk_create(Relation rel, const KrFdwTarget *target, List *attnums,
			   const bool *source_default, const char *suffix)
{
	TupleDesc	desc = RelationGetDescr(rel);
	KrBulk	   *bulk = palloc0(sizeof(KrBulk));
	const KrShape *shape;
	StringInfoData table;
	bool		can_be_empty = true;
	ListCell   *cell;

	initStringInfo(&table);
	kr_fdw_append_table_name(&table, rel);
	bulk->table = kr_fdw_adapt_sql(table.data, target, list_make1_oid(RelationGetRelid(rel)));
	bulk->target = &target->remote;
	bulk->suffix = suffix;
	bulk->cxt = CurrentMemoryContext;
	bulk->columns = palloc0((list_length(attnums) + 1) * sizeof(KrBulkColumn));
	bulk->values = palloc0((list_length(attnums) + 1) * sizeof(char *));
	bulk->lengths = palloc0((list_length(attnums) + 1) * sizeof(int));
	bulk->formats = palloc0((list_length(attnums) + 1) * sizeof(int));

	shape = kr_shape_of(bulk->target, bulk->table);
	foreach(cell, attnums)
	{
		int			attnum = lfirst_int(cell);
		KrBulkColumn *column = &bulk->columns[bulk->ncolumns];
		const KrRemoteColumn *remote = kr_shape_column(shape, kr_fdw_column_name(rel, attnum));

		if (remote == NULL)
			return NULL;			/* an INSERT says best what is wrong */
		init_column(bulk, column, TupleDescAttr(desc, attnum - 1), remote);
		column->source_default = source_default != NULL && source_default[bulk->ncolumns];
		initStringInfo(&column->data);
		can_be_empty = can_be_empty && column->source_default;
		bulk->formats[bulk->ncolumns++] = 1;
	}
	if (can_be_empty)
		return NULL;
	bulk->row_cxt = AllocSetContextCreate(bulk->cxt, "kessel collected row",
										  ALLOCSET_SMALL_SIZES);
	start_anew(bulk);
	return bulk;
}

/* ---------- rows ---------- */

static void
append_value(StringInfo buf, const void *data, int length)
{
	enlargeStringInfo(buf, sizeof(int32) + length);
	pq_writeint32(buf, length);
	memcpy(buf->data + buf->len, data, length);
	buf->len += length;
}

static void
append_varlena(StringInfo buf, Datum value)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

	append_value(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}

static void
append_jsonb(StringInfo buf, KrBulkColumn *column, Datum value)
{
	char	   *text = OutputFunctionCall(&column->function, value);
	int			length = strlen(text);

	enlargeStringInfo(buf, sizeof(int32) + 1 + length);
	pq_writeint32(buf, 1 + length);
	pq_writeint8(buf, 1);
	memcpy(buf->data + buf->len, text, length);
	buf->len += length;
}

static void
append_element(KrBulkColumn *column, Datum value)
{
	StringInfo	buf = &column->data;
	char	   *text;
	bytea	   *sent;

	switch (column->form)
	{
		case KR_BULK_INT2:
			pq_sendint32(buf, 2);
			pq_sendint16(buf, DatumGetInt16(value));
			break;
		case KR_BULK_INT4:
			pq_sendint32(buf, 4);
			pq_sendint32(buf, DatumGetInt32(value));
			break;
		case KR_BULK_INT8:
			pq_sendint32(buf, 8);
			pq_sendint64(buf, DatumGetInt64(value));
			break;
		case KR_BULK_FLOAT4:
			pq_sendint32(buf, 4);
			pq_sendfloat4(buf, DatumGetFloat4(value));
			break;
		case KR_BULK_FLOAT8:
			pq_sendint32(buf, 8);
			pq_sendfloat8(buf, DatumGetFloat8(value));
			break;
		case KR_BULK_BOOL:
			pq_sendint32(buf, 1);
			pq_sendint8(buf, DatumGetBool(value) ? 1 : 0);
			break;
		case KR_BULK_UUID:
			append_value(buf, DatumGetUUIDP(value)->data, UUID_LEN);
			break;
		case KR_BULK_BYTES:
			append_varlena(buf, value);
			break;
		case KR_BULK_JSONB:
			append_jsonb(buf, column, value);
			break;
		case KR_BULK_SEND:
			sent = SendFunctionCall(&column->function, value);
			append_value(buf, VARDATA(sent), VARSIZE(sent) - VARHDRSZ);
			break;
		case KR_BULK_OUTPUT:
			text = OutputFunctionCall(&column->function, value);
			append_value(buf, text, strlen(text));
			break;
	}
}

/* False where the row leaves out other columns than those collected already. */
static bool
fits(KrBulk *bulk, TupleTableSlot *slot)
{
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];
		bool		left_out = column->source_default && slot_attisnull(slot, column->attnum);

		if (bulk->rows == 0)
			column->left_out = left_out;
		else if (column->left_out != left_out)
			return false;
	}
	return true;
}

bool
kr_bulk_add(KrBulk *bulk, TupleTableSlot *slot)
{
	MemoryContext old;
	int			nestlevel;

	if (!fits(bulk, slot))
		return false;

	old = MemoryContextSwitchTo(bulk->row_cxt);
	nestlevel = kr_transmission_begin(bulk->needs_settings);
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];
		int			before = column->data.len;
		bool		isnull;
		Datum		value;

		if (column->left_out)
			continue;
		value = slot_getattr(slot, column->attnum, &isnull);
		if (isnull)
		{
			pq_sendint32(&column->data, (uint32) -1);
			column->has_null = true;
		}
		else
			append_element(column, value);
		bulk->bytes += column->data.len - before;
	}
	kr_transmission_end(nestlevel);
	MemoryContextSwitchTo(old);
	MemoryContextReset(bulk->row_cxt);
	bulk->rows++;
	return true;
}

bool
kr_bulk_is_full(const KrBulk *bulk)
{
	return bulk->rows >= MAX_ROWS || bulk->bytes >= MAX_BYTES;
}

int
kr_bulk_rows(const KrBulk *bulk)
{
	return bulk->rows;
}

uint64
kr_bulk_bytes(const KrBulk *bulk)
{
	return bulk->bytes;
}

/* ---------- the statement ---------- */

static char *
make_sql(KrBulk *bulk)
{
	StringInfoData names;
	StringInfoData values;
	int			param = 0;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];

		if (column->left_out)
			continue;
		appendStringInfo(&names, "%s%s", param > 0 ? ", " : "", column->name);
		appendStringInfo(&values, "%spg_catalog.unnest($%d::%s[])%s%s",
						 param > 0 ? ", " : "", param + 1,
						 format_type_be_qualified(column->element),
						 column->cast ? "::" : "", column->cast ? column->cast : "");
		param++;
	}
	return psprintf("INSERT INTO %s(%s) SELECT %s%s", bulk->table, names.data, values.data,
					bulk->suffix);
}

/* The statement for the columns that the collected rows have. */
static const char *
statement(KrBulk *bulk)
{
	KrBulkVariant *variant;
	MemoryContext old;
	ListCell   *cell;

	foreach(cell, bulk->variants)
	{
		bool		same = true;

		variant = lfirst(cell);
		for (int i = 0; i < bulk->ncolumns; i++)
			same = same && variant->left_out[i] == bulk->columns[i].left_out;
		if (same)
			return variant->sql;
	}

	old = MemoryContextSwitchTo(bulk->cxt);
	variant = palloc(sizeof(KrBulkVariant));
	variant->left_out = palloc(bulk->ncolumns * sizeof(bool));
	for (int i = 0; i < bulk->ncolumns; i++)
		variant->left_out[i] = bulk->columns[i].left_out;
	variant->sql = make_sql(bulk);
	bulk->variants = lappend(bulk->variants, variant);
	MemoryContextSwitchTo(old);
	return variant->sql;
}

static void
write_header(const KrBulk *bulk, KrBulkColumn *column)
{
	uint32		header[5];

	header[0] = pg_hton32(1);
	header[1] = pg_hton32(column->has_null ? 1 : 0);
	header[2] = pg_hton32(column->element);
	header[3] = pg_hton32(bulk->rows);
	header[4] = pg_hton32(1);
	memcpy(column->data.data, header, ARRAY_HEADER);
}

void
kr_bulk_queue(KrBulk *bulk, KrStream *stream)
{
	int			nparams = 0;

	if (bulk->rows == 0)
		return;
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];

		if (column->left_out)
			continue;
		write_header(bulk, column);
		bulk->values[nparams] = column->data.data;
		bulk->lengths[nparams++] = column->data.len;
	}
	kr_stream_queue_formatted(stream, statement(bulk), nparams, bulk->values, bulk->lengths,
							  bulk->formats, true);
	start_anew(bulk);
}

void
kr_bulk_confirm(const KrBulk *bulk)
{
	kr_shape_confirm(bulk->target, bulk->table);
}

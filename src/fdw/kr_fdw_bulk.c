/*
 * kr_fdw_bulk.c
 *	  Rows of an INSERT collected by column, to be sent as
 *	  INSERT INTO t(a, b) SELECT unnest($1), unnest($2).
 *
 * One array a column, in binary form, which needs no quoting and no parsing. It
 * is an INSERT like any other, so rules, triggers, row security and ON CONFLICT
 * do what they do there, and it has one text, however many rows there are.
 *
 * What does not travel in the form of the remote column's type travels as text
 * and is cast to that type, which runs its input function, as a single INSERT
 * would.
 *
 * Everything lives in the memory context in which the bulk was created.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw_bulk.h"
#include "kr_fdw_conflict.h"

/* Rows and bytes of one statement; the data source works on it while we make the next. */
#define MAX_ROWS 1000
#define MAX_BYTES (256 * 1024)

/* Of an array: dimensions, flags, type, length, lower bound. */
#define ARRAY_HEADER 20

typedef struct KrBulkColumn
{
	KrEncoder	encoder;
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
	const KrBulkSuffix *suffix;
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
			   const bool *source_default, const KrBulkSuffix *suffix)
{
	TupleDesc	desc = RelationGetDescr(rel);
	KrBulk	   *bulk = palloc0(sizeof(KrBulk));
	const KrShape *shape;
	bool		can_be_empty = true;
	ListCell   *cell;

	bulk->table = kr_fdw_remote_table(rel, target);
	bulk->target = &target->remote;
	bulk->suffix = suffix;
	bulk->cxt = CurrentMemoryContext;
	bulk->columns = palloc0((list_length(attnums) + 1) * sizeof(KrBulkColumn));
	bulk->values = palloc0((list_length(attnums) + suffix->nparams + 1) * sizeof(char *));
	bulk->lengths = palloc0((list_length(attnums) + suffix->nparams + 1) * sizeof(int));
	bulk->formats = palloc0((list_length(attnums) + suffix->nparams + 1) * sizeof(int));

	shape = kr_shape_of(bulk->target, bulk->table);
	foreach(cell, attnums)
	{
		int			attnum = lfirst_int(cell);
		KrBulkColumn *column = &bulk->columns[bulk->ncolumns];
		const KrRemoteColumn *remote = kr_shape_column(shape, kr_fdw_column_name(rel, attnum));

		if (remote == NULL)
			return NULL;			/* an INSERT says best what is wrong */
		kr_encoder_init(&column->encoder, TupleDescAttr(desc, attnum - 1), remote);
		bulk->needs_settings |= column->encoder.needs_settings;
		column->source_default = source_default != NULL && source_default[bulk->ncolumns];
		initStringInfo(&column->data);
		can_be_empty = can_be_empty && column->source_default;
		bulk->ncolumns++;
	}
	if (can_be_empty)
		return NULL;
	bulk->row_cxt = AllocSetContextCreate(bulk->cxt, "kessel collected row",
										  ALLOCSET_SMALL_SIZES);
	start_anew(bulk);
	return bulk;
}

/* ---------- rows ---------- */

/* False where the row leaves out other columns than those collected already. */
static bool
fits(KrBulk *bulk, TupleTableSlot *slot)
{
	for (int i = 0; i < bulk->ncolumns; i++)
	{
		KrBulkColumn *column = &bulk->columns[i];
		bool		left_out = column->source_default && slot_attisnull(slot, column->encoder.attnum);

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
		value = slot_getattr(slot, column->encoder.attnum, &isnull);
		if (isnull)
		{
			pq_sendint32(&column->data, (uint32) -1);
			column->has_null = true;
		}
		else
			kr_encode(&column->encoder, &column->data, value);
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
		appendStringInfo(&names, "%s%s", param > 0 ? ", " : "", column->encoder.name);
		appendStringInfo(&values, "%spg_catalog.unnest($%d::%s[])%s%s",
						 param > 0 ? ", " : "", param + 1,
						 format_type_be_qualified(column->encoder.element),
						 column->encoder.cast ? "::" : "", column->encoder.cast ? column->encoder.cast : "");
		param++;
	}
	return psprintf("INSERT INTO %s(%s) SELECT %s%s", bulk->table, names.data, values.data,
					bulk->suffix->conflict == NIL ? bulk->suffix->text :
					kr_conflict_text(bulk->suffix->conflict, bulk->suffix->tenant_column, param));
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
	header[2] = pg_hton32(column->encoder.element);
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
		bulk->lengths[nparams] = column->data.len;
		bulk->formats[nparams++] = 1;
	}
	for (int i = 0; i < bulk->suffix->nparams; i++)
	{
		bulk->values[nparams] = bulk->suffix->params[i];
		bulk->formats[nparams++] = 0;
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

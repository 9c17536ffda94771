/*
 * kr_fdw_copy.c
 *	  Rows on their way to the data source by COPY: those of a COPY FROM, and
 *	  those of a long INSERT into a table where COPY does the same.
 *
 * In binary form where all columns have the same there, else as text. A COPY
 * stays open over many rows; who else needs the connection ends it, and the next
 * row opens another. The columns are those of the first row: a column that may
 * not be NULL and has no default here is left out where that row has NULL, so
 * that it gets the data source's own default. A row that differs in that needs
 * a COPY of its own.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw_bulk.h"

/* What is sent at once. */
#define BLOCK_BYTES (64 * 1024)

/* So many COPYs for rows that differ are enough. */
#define MAX_SWITCHES 8

typedef struct KrCopyColumn
{
	KrEncoder	encoder;
	bool		source_default; /* NULL means the source's own default */
	bool		left_out;		/* in the COPY that is open */
} KrCopyColumn;

struct KrCopier
{
	const KrTarget *target;
	const char *table;
	int			ncolumns;
	KrCopyColumn *columns;
	bool		binary;
	bool		needs_settings;
	KrConn	   *conn;			/* NULL: no COPY is open */
	const char *sql;
	int			switches;
	StringInfoData buf;			/* what is not sent yet */
	MemoryContext cxt;
	MemoryContext row_cxt;
};

KrCopier *
kr_copier_create(Relation rel, const KrFdwTarget *target, List *attnums,
				 const bool *source_default, bool for_insert)
{
	TupleDesc	desc = RelationGetDescr(rel);
	KrCopier   *copier = palloc0(sizeof(KrCopier));
	const KrShape *shape;
	bool		can_be_empty = true;
	ListCell   *cell;

	copier->table = kr_fdw_remote_table(rel, target);
	copier->target = &target->remote;
	copier->cxt = CurrentMemoryContext;
	copier->columns = palloc0((list_length(attnums) + 1) * sizeof(KrCopyColumn));
	copier->binary = true;

	shape = kr_shape_ask(copier->target, copier->table);
	if (!(for_insert ? shape->plain : shape->copyable))
	{
		kr_shape_confirm(copier->target, copier->table);
		return NULL;
	}
	foreach(cell, attnums)
	{
		int			attnum = lfirst_int(cell);
		KrCopyColumn *column = &copier->columns[copier->ncolumns];
		const KrRemoteColumn *remote = kr_shape_column(shape, kr_fdw_column_name(rel, attnum));

		if (remote == NULL || (for_insert && remote->takes_no_value))
			return NULL;
		kr_encoder_init(&column->encoder, TupleDescAttr(desc, attnum - 1), remote);
		copier->binary = copier->binary && column->encoder.cast == NULL;
		column->source_default = source_default != NULL && source_default[copier->ncolumns];
		can_be_empty = can_be_empty && column->source_default;
		copier->ncolumns++;
	}
	if (can_be_empty)
		return NULL;

	for (int i = 0; i < copier->ncolumns; i++)
	{
		KrEncoder  *encoder = &copier->columns[i].encoder;

		if (!copier->binary)
			kr_encoder_use_text(encoder, TupleDescAttr(desc, encoder->attnum - 1));
		copier->needs_settings |= encoder->needs_settings;
	}
	initStringInfo(&copier->buf);
	copier->row_cxt = AllocSetContextCreate(copier->cxt, "kessel copied row",
											ALLOCSET_SMALL_SIZES);
	return copier;
}

bool
kr_copier_is_open(const KrCopier *copier)
{
	return copier->conn != NULL;
}

/* Does the row have the columns of the COPY that is open? */
static bool
fits(KrCopier *copier, TupleTableSlot *slot)
{
	for (int i = 0; i < copier->ncolumns; i++)
	{
		KrCopyColumn *column = &copier->columns[i];

		if (column->left_out !=
			(column->source_default && slot_attisnull(slot, column->encoder.attnum)))
			return false;
	}
	return true;
}

static const char *
make_sql(KrCopier *copier)
{
	MemoryContext old = MemoryContextSwitchTo(copier->cxt);
	StringInfoData sql;
	const char *comma = "";

	initStringInfo(&sql);
	appendStringInfo(&sql, "COPY %s(", copier->table);
	for (int i = 0; i < copier->ncolumns; i++)
	{
		if (copier->columns[i].left_out)
			continue;
		appendStringInfo(&sql, "%s%s", comma, copier->columns[i].encoder.name);
		comma = ", ";
	}
	appendStringInfo(&sql, ") FROM STDIN%s", copier->binary ? " (FORMAT binary)" : "");
	MemoryContextSwitchTo(old);
	return sql.data;
}

static void
open_copy(KrCopier *copier, KrConn *conn, TupleTableSlot *slot)
{
	if (copier->sql == NULL || !fits(copier, slot))
	{
		for (int i = 0; i < copier->ncolumns; i++)
		{
			KrCopyColumn *column = &copier->columns[i];

			column->left_out = column->source_default &&
				slot_attisnull(slot, column->encoder.attnum);
		}
		copier->sql = make_sql(copier);
	}
	kr_copy_begin(conn, copier->sql);
	copier->conn = conn;
	resetStringInfo(&copier->buf);
	if (copier->binary)
	{
		/* signature, flags, length of an extension */
		appendBinaryStringInfo(&copier->buf, "PGCOPY\n\377\r\n\0", 11);
		pq_sendint32(&copier->buf, 0);
		pq_sendint32(&copier->buf, 0);
	}
}

/* ---------- rows ---------- */

static void
append_escaped(StringInfo buf, const char *text, int length)
{
	enlargeStringInfo(buf, 2 * length);
	for (int i = 0; i < length; i++)
	{
		char		c = text[i];

		if (c == '\\' || c == '\t' || c == '\n' || c == '\r')
		{
			buf->data[buf->len++] = '\\';
			c = c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : c;
		}
		buf->data[buf->len++] = c;
	}
	buf->data[buf->len] = '\0';
}

static void
append_binary(KrCopier *copier, TupleTableSlot *slot)
{
	int			ncolumns = 0;

	for (int i = 0; i < copier->ncolumns; i++)
		ncolumns += copier->columns[i].left_out ? 0 : 1;
	pq_sendint16(&copier->buf, ncolumns);
	for (int i = 0; i < copier->ncolumns; i++)
	{
		KrCopyColumn *column = &copier->columns[i];
		bool		isnull;
		Datum		value;

		if (column->left_out)
			continue;
		value = slot_getattr(slot, column->encoder.attnum, &isnull);
		if (isnull)
			pq_sendint32(&copier->buf, (uint32) -1);
		else
			kr_encode(&column->encoder, &copier->buf, value);
	}
}

static void
append_text(KrCopier *copier, TupleTableSlot *slot)
{
	bool		first = true;

	for (int i = 0; i < copier->ncolumns; i++)
	{
		KrCopyColumn *column = &copier->columns[i];
		bool		isnull;
		Datum		value;

		if (column->left_out)
			continue;
		if (!first)
			appendStringInfoChar(&copier->buf, '\t');
		first = false;
		value = slot_getattr(slot, column->encoder.attnum, &isnull);
		if (isnull)
			appendStringInfoString(&copier->buf, "\\N");
		else
		{
			char	   *text = OutputFunctionCall(&column->encoder.function, value);

			append_escaped(&copier->buf, text, strlen(text));
		}
	}
	appendStringInfoChar(&copier->buf, '\n');
}

static void
put(KrCopier *copier)
{
	kr_copy_put(copier->conn, copier->buf.data, copier->buf.len);
	if (copier->buf.maxlen > 4 * BLOCK_BYTES)
	{
		pfree(copier->buf.data);
		initStringInfo(&copier->buf);
	}
	resetStringInfo(&copier->buf);
}

bool
kr_copier_add(KrCopier *copier, KrConn *conn, TupleTableSlot *slot)
{
	MemoryContext old;
	int			nestlevel;

	if (copier->conn != NULL && !fits(copier, slot))
	{
		kr_copier_end(copier);
		copier->switches++;
	}
	if (copier->switches > MAX_SWITCHES)
		return false;
	if (copier->conn == NULL)
		open_copy(copier, conn, slot);

	old = MemoryContextSwitchTo(copier->row_cxt);
	nestlevel = kr_transmission_begin(copier->needs_settings);
	if (copier->binary)
		append_binary(copier, slot);
	else
		append_text(copier, slot);
	kr_transmission_end(nestlevel);
	MemoryContextSwitchTo(old);
	MemoryContextReset(copier->row_cxt);

	if (copier->buf.len >= BLOCK_BYTES)
	{
		put(copier);
		if (kr_copy_heard(conn))
			kr_copier_end(copier);
	}
	return true;
}

void
kr_copier_end(KrCopier *copier)
{
	KrConn	   *conn = copier->conn;

	if (conn == NULL)
		return;
	if (copier->binary)
		pq_sendint16(&copier->buf, (uint16) -1);
	if (copier->buf.len > 0)
		put(copier);
	copier->conn = NULL;
	kr_copy_end(conn, copier->sql);
	kr_shape_confirm(copier->target, copier->table);
}

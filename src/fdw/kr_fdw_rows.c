/*
 * kr_fdw_rows.c
 *	  Rows on their way back from the data source.
 *
 * Rows come in binary form if all their columns are of types whose binary form is
 * the same everywhere, else as text. They are put aside (parked) in the form in which
 * they came, so parking runs no user-defined code and a conversion error strikes who
 * reads the row, not who needed the connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "kr_fdw.h"

/* ---------- what is read ---------- */

void
kr_reader_init(KrRowReader *reader, TupleDesc desc, Relation rel, List *retrieved,
			   bool system_columns, EState *estate)
{
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	ListCell   *cell;
	int			i = 0;

	memset(reader, 0, sizeof(*reader));
	reader->desc = desc;
	reader->relname = rel ? RelationGetRelationName(rel) : NULL;
	reader->system_columns = system_columns;
	reader->binary = true;
	reader->cxt = AllocSetContextCreate(estate->es_query_cxt, "kessel row",
										ALLOCSET_SMALL_SIZES);

	/* A query that needs no column at all is deparsed as SELECT NULL. */
	reader->ncolumns = Max(list_length(retrieved), 1);
	reader->columns = palloc0(reader->ncolumns * sizeof(KrColumn));
	reader->values = palloc0(reader->ncolumns * sizeof(char *));
	reader->lengths = palloc0(reader->ncolumns * sizeof(int));
	foreach(cell, retrieved)
	{
		KrColumn   *column = &reader->columns[i++];
		Oid			function;

		column->attnum = lfirst_int(cell);
		column->type = TIDOID;
		column->typmod = -1;
		if (column->attnum > 0)
		{
			Form_pg_attribute attr = TupleDescAttr(desc, column->attnum - 1);

			column->type = attr->atttypid;
			column->typmod = attr->atttypmod;
		}
		else if (column->attnum < 0)
			reader->system_columns = true;
		column->base_type = getBaseType(column->type);
		reader->binary = reader->binary && kr_column_has_binary(column->base_type);
		getTypeInputInfo(column->type, &function, &column->ioparam);
		fmgr_info(function, &column->input);
	}
	MemoryContextSwitchTo(old);
}

void
kr_reader_explain(KrRowReader *reader, const KrFdwTarget *target, ForeignScanState *scan)
{
	reader->is_bound = OidIsValid(target->remote.source->serverid);
	reader->withhold = target->remote.withhold;
	reader->scan = scan;
}

bool
kr_reader_describe(KrRowReader *reader, const PGresult *result, bool asked_for_text)
{
	MemoryContext cxt = GetMemoryChunkContext(reader->columns);

	if (PQnfields(result) != reader->ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
				 errmsg("data source sent %d columns instead of %d",
						PQnfields(result), reader->ncolumns),
				 reader->is_bound ? 0 :
				 errhint("Run kessel.import_tables() again if the remote table has changed.")));

	for (int i = 0; i < reader->ncolumns; i++)
	{
		KrColumn   *column = &reader->columns[i];

		column->form = KR_FORM_TEXT;
		if (PQfformat(result, i) == 0 || column->attnum == 0)
			continue;
		if (asked_for_text)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("data source sent column %d in binary form instead of text", i + 1)));
		if (!kr_column_describe(column, PQftype(result, i), cxt))
			return false;
	}
	return true;
}

/* ---------- a row ---------- */

/* What a scan calls a column: names are those of the statement. */
static void
scanned_column_context(const KrRowReader *reader, int attnum)
{
	ForeignScan *plan = (ForeignScan *) reader->scan->ss.ps.plan;
	int			varno = plan->scan.scanrelid;
	int			varattno = attnum;
	Alias	   *names;

	if (varno == 0)
	{
		Var		   *var = (Var *) list_nth_node(TargetEntry, plan->fdw_scan_tlist, attnum - 1)->expr;

		if (!IsA(var, Var))
		{
			errcontext("processing expression at position %d in select list", attnum);
			return;
		}
		varno = var->varno;
		varattno = var->varattno;
	}
	names = exec_rt_fetch(varno, reader->scan->ss.ps.state)->eref;
	if (varattno == 0)
		errcontext("whole-row reference to foreign table \"%s\"", names->aliasname);
	else
		errcontext("column \"%s\" of foreign table \"%s\"",
				   varattno > 0 ? strVal(list_nth(names->colnames, varattno - 1)) : "ctid",
				   names->aliasname);
}

static void
conversion_context(void *arg)
{
	KrRowReader *reader = arg;
	int			attnum;

	if (reader->current < 0)
		return;
	if (reader->withhold)
	{
		errmsg("a value of the data source does not fit the column");
		errdetail("It is withheld: the table has sensitive columns.");
	}
	if (!reader->is_bound && ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_DATA_EXCEPTION)
		errhint("If the remote column has changed, bring the router tables up to date with kessel.import_tables().");
	attnum = reader->columns[reader->current].attnum;
	if (reader->scan != NULL)
		scanned_column_context(reader, attnum);
	else
		errcontext("column \"%s\" of foreign table \"%s\"",
				   attnum > 0 ? NameStr(TupleDescAttr(reader->desc, attnum - 1)->attname) : "ctid",
				   reader->relname);
}

/* Convert the row in reader->values into arrays that have room for the whole tuple. */
static void
convert(KrRowReader *reader, Datum *values, bool *nulls, ItemPointer ctid)
{
	ErrorContextCallback callback;

	memset(nulls, true, reader->desc->natts * sizeof(bool));
	memset(values, 0, reader->desc->natts * sizeof(Datum));
	ItemPointerSetInvalid(ctid);

	callback.callback = conversion_context;
	callback.arg = reader;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	for (reader->current = 0; reader->current < reader->ncolumns; reader->current++)
	{
		KrColumn   *column = &reader->columns[reader->current];
		char	   *value = reader->values[reader->current];
		int			length = reader->lengths[reader->current];

		if (column->attnum > 0)
		{
			nulls[column->attnum - 1] = value == NULL;
			values[column->attnum - 1] = kr_column_read(column, value, length);
		}
		else if (column->attnum == SelfItemPointerAttributeNumber && value != NULL)
			*ctid = *(ItemPointer) DatumGetPointer(kr_column_read(column, value, length));
	}
	reader->current = -1;
	error_context_stack = callback.previous;
}

/* A row as a virtual tuple; its values live to the next row. */
static void
store_virtual(KrRowReader *reader, TupleTableSlot *slot)
{
	ItemPointerData ctid;

	ExecClearTuple(slot);
	convert(reader, slot->tts_values, slot->tts_isnull, &ctid);
	ExecStoreVirtualTuple(slot);
}

/*
 * A row as a heap tuple, for who asks for system columns. Those that the data
 * source does not tell are made invalid rather than left to chance.
 */
static void
store_heap(KrRowReader *reader, TupleTableSlot *slot)
{
	Datum	   *values = palloc(reader->desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(reader->desc->natts * sizeof(bool));
	ItemPointerData ctid;
	HeapTuple	tuple;

	convert(reader, values, nulls, &ctid);

	MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = heap_form_tuple(reader->desc, values, nulls);
	if (ItemPointerIsValid(&ctid))
		tuple->t_self = tuple->t_data->t_ctid = ctid;
	HeapTupleHeaderSetXmax(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetXmin(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetCmin(tuple->t_data, InvalidTransactionId);
	ExecForceStoreHeapTuple(tuple, slot, true);
}

/* The row in reader->values into slot. */
static void
store_row(KrRowReader *reader, TupleTableSlot *slot)
{
	MemoryContext old;

	MemoryContextReset(reader->cxt);
	old = MemoryContextSwitchTo(reader->cxt);
	if (reader->system_columns)
		store_heap(reader, slot);
	else
		store_virtual(reader, slot);
	MemoryContextSwitchTo(old);
}

static void
take_row(KrRowReader *reader, const PGresult *result, int row)
{
	for (int i = 0; i < reader->ncolumns; i++)
	{
		int			length = PQgetlength(result, row, i);
		bool		isnull = length == 0 && PQgetisnull(result, row, i);

		reader->values[i] = isnull ? NULL : PQgetvalue(result, row, i);
		reader->lengths[i] = isnull ? -1 : length;
	}
}

void
kr_reader_store_result(KrRowReader *reader, const PGresult *result, int row,
					   TupleTableSlot *slot)
{
	take_row(reader, result, row);
	store_row(reader, slot);
}

/* ---------- rows put aside ---------- */

void
kr_parked_init(KrParked *parked, EState *estate)
{
	memset(parked, 0, sizeof(*parked));
	parked->owner = CurrentResourceOwner;
	parked->cxt = estate->es_query_cxt;
}

static void
create_store(KrParked *parked)
{
	TupleDesc	desc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(desc, 1, NULL, BYTEAOID, -1, 0);
	parked->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	parked->store = tuplestore_begin_heap(false, false, work_mem);
}

/*
 * The row in reader->values as one value: of each column its length, -1 for
 * NULL, its bytes and a NUL.
 */
static bytea *
pack_row(const KrRowReader *reader)
{
	Size		size = VARHDRSZ;
	bytea	   *packed;
	char	   *at;

	for (int i = 0; i < reader->ncolumns; i++)
		size += sizeof(int) + (reader->values[i] ? (Size) reader->lengths[i] + 1 : 0);
	packed = palloc(size);
	SET_VARSIZE(packed, size);
	at = VARDATA(packed);
	for (int i = 0; i < reader->ncolumns; i++)
	{
		memcpy(at, &reader->lengths[i], sizeof(int));
		at += sizeof(int);
		if (reader->values[i] == NULL)
			continue;
		memcpy(at, reader->values[i], reader->lengths[i] + 1);
		at += reader->lengths[i] + 1;
	}
	return packed;
}

static void
unpack_row(KrRowReader *reader, bytea *packed)
{
	char	   *at = VARDATA_ANY(packed);

	for (int i = 0; i < reader->ncolumns; i++)
	{
		memcpy(&reader->lengths[i], at, sizeof(int));
		at += sizeof(int);
		reader->values[i] = reader->lengths[i] < 0 ? NULL : at;
		if (reader->values[i] != NULL)
			at += reader->lengths[i] + 1;
	}
}

/* Add the rows of a result, from one on. */
void
kr_parked_add(KrParked *parked, KrRowReader *reader, const PGresult *result, int first)
{
	MemoryContext old = MemoryContextSwitchTo(parked->cxt);
	ResourceOwner old_owner = CurrentResourceOwner;

	CurrentResourceOwner = parked->owner;
	if (parked->store == NULL)
		create_store(parked);

	for (int row = first; row < PQntuples(result); row++)
	{
		bytea	   *packed;
		Datum		value;
		bool		isnull = false;

		take_row(reader, result, row);
		packed = pack_row(reader);
		value = PointerGetDatum(packed);
		tuplestore_putvalues(parked->store, parked->slot->tts_tupleDescriptor,
							 &value, &isnull);
		pfree(packed);
	}
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old);
}

/* The next row into slot; false at the end. */
bool
kr_parked_next(KrParked *parked, KrRowReader *reader, TupleTableSlot *slot)
{
	MemoryContext old;
	bool		found;

	if (parked->store == NULL)
		return false;

	/* A row read from disk belongs to the slot, which outlives the caller's row. */
	old = MemoryContextSwitchTo(parked->cxt);
	found = tuplestore_gettupleslot(parked->store, true, false, parked->slot);
	MemoryContextSwitchTo(old);
	if (!found)
		return false;

	slot_getallattrs(parked->slot);
	unpack_row(reader, DatumGetByteaPP(parked->slot->tts_values[0]));
	store_row(reader, slot);
	return true;
}

void
kr_parked_end(KrParked *parked)
{
	if (parked->store == NULL)
		return;
	ExecDropSingleTupleTableSlot(parked->slot);
	tuplestore_end(parked->store);
	parked->store = NULL;
}

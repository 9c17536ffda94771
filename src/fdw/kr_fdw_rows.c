/*
 * kr_fdw_rows.c
 *	  Values on their way to the data source and rows on their way back.
 *
 * Values leave as text. Rows come in binary form if all their columns are of
 * types whose binary form is the same everywhere, else as text. They are put
 * aside (parked) in the form in which they came, so parking runs no user-defined
 * code and a conversion error strikes who reads the row, not who needed the
 * connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_fdw.h"

/* ---------- parameters ---------- */

/* True where settings have a say in how values of the type are written. */
bool
kr_type_needs_settings(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONBOID:
		case JSONOID:
		case NUMERICOID:
		case TEXTOID:
		case TIDOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			return true;
	}
}

int
kr_transmission_begin(bool needed)
{
	int			nestlevel;

	if (!needed)
		return 0;

	nestlevel = NewGUCNestLevel();
	if (DateStyle != USE_ISO_DATES)
		(void) set_config_option("datestyle", "ISO", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (IntervalStyle != INTSTYLE_POSTGRES)
		(void) set_config_option("intervalstyle", "postgres", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (extra_float_digits < 3)
		(void) set_config_option("extra_float_digits", "3", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);

	/* Names in reg* values are qualified but for those of pg_catalog. */
	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

void
kr_transmission_end(int nestlevel)
{
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
}

void
kr_params_init(KrParams *params, PlanState *state, List *exprs)
{
	ListCell   *cell;
	int			i = 0;

	memset(params, 0, sizeof(*params));
	params->count = list_length(exprs);
	if (params->count == 0)
		return;

	params->output = palloc0(params->count * sizeof(FmgrInfo));
	params->values = palloc0(params->count * sizeof(char *));
	params->exprs = ExecInitExprList(exprs, state);
	params->cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel parameters",
										ALLOCSET_SMALL_SIZES);
	foreach(cell, exprs)
	{
		Oid			function;
		bool		varlena;

		getTypeOutputInfo(exprType(lfirst(cell)), &function, &varlena);
		fmgr_info(function, &params->output[i++]);
		params->needs_settings |= kr_type_needs_settings(exprType(lfirst(cell)));
	}
}

/* All are computed first: under the session's settings, not those of transmission. */
const char *const *
kr_params_eval(KrParams *params, ExprContext *econtext)
{
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;
	ListCell   *cell;
	int			nestlevel;
	int			i = 0;

	if (params->count == 0)
		return NULL;

	MemoryContextReset(params->cxt);
	old = MemoryContextSwitchTo(params->cxt);
	values = palloc(params->count * sizeof(Datum));
	nulls = palloc(params->count * sizeof(bool));
	foreach(cell, params->exprs)
	{
		values[i] = ExecEvalExpr((ExprState *) lfirst(cell), econtext, &nulls[i]);
		i++;
	}

	nestlevel = kr_transmission_begin(params->needs_settings);
	for (i = 0; i < params->count; i++)
		params->values[i] = nulls[i] ? NULL : OutputFunctionCall(&params->output[i], values[i]);
	kr_transmission_end(nestlevel);
	MemoryContextSwitchTo(old);
	return params->values;
}

/* ---------- rows ---------- */

/*
 * True where the binary form of a type is the same in every database and
 * version, and shorter to read than text. Strings are the same in both forms.
 * Receive functions that convert from the client's encoding are not for us, so
 * arrays of strings are left out.
 */
static bool
has_portable_binary(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case CIDROID:
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INETOID:
		case INT2ARRAYOID:
		case INT2OID:
		case INT4ARRAYOID:
		case INT4OID:
		case INT8ARRAYOID:
		case INT8OID:
		case INTERVALOID:
		case JSONBOID:
		case JSONOID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case TIDOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMETZOID:
		case UUIDARRAYOID:
		case UUIDOID:
		case VARCHAROID:
			return true;
		default:
			return false;
	}
}

static bool
is_string(Oid type)
{
	return type == TEXTOID || type == VARCHAROID || type == BPCHAROID ||
		type == NAMEOID || type == JSONOID;
}

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
		reader->binary = reader->binary && has_portable_binary(column->base_type);
		getTypeInputInfo(column->type, &function, &column->ioparam);
		fmgr_info(function, &column->input);
	}
	MemoryContextSwitchTo(old);
}

/*
 * The length of values of types that are read here rather than by their receive
 * function, as most rows consist of them; 0 for others.
 */
static int
fixed_length(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return 1;
		case INT2OID:
			return 2;
		case FLOAT4OID:
		case INT4OID:
		case OIDOID:
			return 4;
		case FLOAT8OID:
		case INT8OID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return 8;
		case UUIDOID:
			return UUID_LEN;
		default:
			return 0;
	}
}

/*
 * Decide how a column in binary form is read: by its own type's receive
 * function if it is of that type there too, else by that of the type that it
 * has there, and then through text. False for a type of which we do not know
 * the binary form.
 */
static bool
describe_binary(KrColumn *column, Oid remote_type, MemoryContext cxt)
{
	Oid			function;
	Oid			ioparam;
	bool		varlena;

	if (!has_portable_binary(remote_type))
		return false;
	if (is_string(remote_type))
		column->form = KR_FORM_TEXT;
	else if (remote_type == JSONBOID)
		column->form = KR_FORM_JSONB;
	else if (remote_type == column->type && column->typmod < 0 &&
			 fixed_length(remote_type) > 0)
		column->form = KR_FORM_FIXED;
	else if (remote_type == column->base_type)
	{
		column->form = KR_FORM_BINARY;
		getTypeBinaryInputInfo(column->type, &function, &ioparam);
		fmgr_info_cxt(function, &column->receive, cxt);
	}
	else
	{
		column->form = KR_FORM_OTHER_BINARY;
		column->remote_type = remote_type;
		getTypeBinaryInputInfo(remote_type, &function, &column->remote_ioparam);
		fmgr_info_cxt(function, &column->receive, cxt);
		getTypeOutputInfo(remote_type, &function, &varlena);
		fmgr_info_cxt(function, &column->output, cxt);
	}
	return true;
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
		if (!describe_binary(column, PQftype(result, i), cxt))
			return false;
	}
	return true;
}

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

static Datum
read_text(KrColumn *column, char *text, int length)
{
	/* The data source was asked for our encoding; nothing makes it keep to it. */
	if (text != NULL)
		(void) pg_verifymbstr(text, length, false);

	if (column->type == TEXTOID && text != NULL)
		return PointerGetDatum(cstring_to_text_with_len(text, length));

	/* NULL goes through it too: a domain may object. */
	return InputFunctionCall(&column->input, text, column->ioparam, column->typmod);
}

static void
wrong_length(int length, int expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("data source sent a value of %d bytes where it has %d",
					length, expected)));
}

static Datum
receive(KrColumn *column, char *value, int length, Oid ioparam, int32 typmod)
{
	StringInfoData buf;
	Datum		datum;

	if (value == NULL)
		return ReceiveFunctionCall(&column->receive, NULL, ioparam, typmod);

	buf.data = value;
	buf.len = length;
	buf.maxlen = length + 1;
	buf.cursor = 0;
	datum = ReceiveFunctionCall(&column->receive, &buf, ioparam, typmod);
	if (buf.cursor != buf.len)
		wrong_length(buf.len, buf.cursor);
	return datum;
}

static uint64
network_int(const char *value, int length)
{
	uint64		result = 0;

	for (int i = 0; i < length; i++)
		result = result << 8 | (unsigned char) value[i];
	return result;
}

static Datum
read_fixed(Oid type, const char *value, int length)
{
	if (length != fixed_length(type))
		wrong_length(length, fixed_length(type));

	switch (type)
	{
		case BOOLOID:
			return BoolGetDatum(value[0] != 0);
		case INT2OID:
			return Int16GetDatum((int16) network_int(value, 2));
		case INT4OID:
			return Int32GetDatum((int32) network_int(value, 4));
		case OIDOID:
			return ObjectIdGetDatum((Oid) network_int(value, 4));
		case FLOAT4OID:
			{
				uint32		bits = (uint32) network_int(value, 4);
				float4		number;

				memcpy(&number, &bits, sizeof(number));
				return Float4GetDatum(number);
			}
		case INT8OID:
			return Int64GetDatum((int64) network_int(value, 8));
		case FLOAT8OID:
			{
				uint64		bits = network_int(value, 8);
				float8		number;

				memcpy(&number, &bits, sizeof(number));
				return Float8GetDatum(number);
			}
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			{
				Timestamp	timestamp = (Timestamp) network_int(value, 8);

				if (!TIMESTAMP_NOT_FINITE(timestamp) && !IS_VALID_TIMESTAMP(timestamp))
					ereport(ERROR,
							(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
							 errmsg("timestamp out of range")));
				return TimestampTzGetDatum(timestamp);
			}
		default:
			Assert(type == UUIDOID);
			return PointerGetDatum(memcpy(palloc(UUID_LEN), value, UUID_LEN));
	}
}

static Datum
read_column(KrColumn *column, char *value, int length)
{
	switch (column->form)
	{
		case KR_FORM_FIXED:
			return value ? read_fixed(column->type, value, length) : (Datum) 0;
		case KR_FORM_BINARY:
			return receive(column, value, length, column->ioparam, column->typmod);
		case KR_FORM_OTHER_BINARY:
			if (value != NULL)
			{
				value = OutputFunctionCall(&column->output,
										   receive(column, value, length,
												   column->remote_ioparam, -1));
				length = strlen(value);
			}
			break;
		case KR_FORM_JSONB:
			if (value != NULL)
			{
				if (length < 1 || value[0] != 1)
					ereport(ERROR,
							(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
							 errmsg("data source sent jsonb in an unknown version")));
				value++;
				length--;
			}
			break;
		case KR_FORM_TEXT:
			break;
	}
	return read_text(column, value, length);
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
			values[column->attnum - 1] = read_column(column, value, length);
		}
		else if (column->attnum == SelfItemPointerAttributeNumber && value != NULL)
			*ctid = *(ItemPointer) DatumGetPointer(read_column(column, value, length));
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

/*
 * kr_fdw_column.c
 *	  One value on its way back, from the form in which its column has come.
 *
 * What most rows consist of, in binary form, is read here; other binary forms by the
 * type's receive function, and text by its input function. A data source may send
 * anything: lengths and encodings are checked.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "kr_fdw.h"

/* ---------- in which form ---------- */

bool
kr_column_has_binary(Oid type)
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

bool
kr_column_describe(KrColumn *column, Oid remote_type, MemoryContext cxt)
{
	Oid			function;
	Oid			ioparam;
	bool		varlena;

	if (!kr_column_has_binary(remote_type))
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

/* ---------- its value ---------- */

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

Datum
kr_column_read(KrColumn *column, char *value, int length)
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

/*
 * kr_fdw_encode.c
 *	  Values on their way into many rows: binary form, each with its length, as
 *	  arrays and COPY have it.
 *
 * A parameter of a single INSERT takes its column's type, whatever that is; an
 * array must be told its type. Values of types whose binary form is the same
 * everywhere travel as what they are if the remote column is of the very same
 * type. All others travel as text, for the remote type's input function, as in a
 * single INSERT.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "kr_fdw_bulk.h"

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
binary_form(Oid type, KrEncoding *form)
{
	switch (type)
	{
		case INT2OID:
			*form = KR_ENCODE_INT2;
			return true;
		case DATEOID:
		case INT4OID:
			*form = KR_ENCODE_INT4;
			return true;
		case INT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			*form = KR_ENCODE_INT8;
			return true;
		case FLOAT4OID:
			*form = KR_ENCODE_FLOAT4;
			return true;
		case FLOAT8OID:
			*form = KR_ENCODE_FLOAT8;
			return true;
		case BOOLOID:
			*form = KR_ENCODE_BOOL;
			return true;
		case UUIDOID:
			*form = KR_ENCODE_UUID;
			return true;
		case BYTEAOID:
		case JSONOID:
			*form = KR_ENCODE_BYTES;
			return true;
		case JSONBOID:
			*form = KR_ENCODE_JSONB;
			return true;
		case INTERVALOID:
		case NUMERICOID:
		case TIMETZOID:
			*form = KR_ENCODE_SEND;
			return true;
		default:
			return false;
	}
}

void
kr_encoder_init(KrEncoder *encoder, Form_pg_attribute attr, const KrRemoteColumn *remote)
{
	Oid			type = getBaseType(attr->atttypid);
	Oid			function;
	bool		varlena;

	encoder->attnum = attr->attnum;
	encoder->name = pstrdup(quote_identifier(remote->name));
	encoder->cast = NULL;
	if (remote->type == type && binary_form(type, &encoder->encoding))
		encoder->element = type;
	else
	{
		encoder->element = TEXTOID;
		encoder->encoding = is_string(type) ? KR_ENCODE_BYTES : KR_ENCODE_OUTPUT;
		if (!is_string(remote->type))
			encoder->cast = pstrdup(remote->type_name);
	}

	if (encoder->encoding == KR_ENCODE_SEND)
		getTypeBinaryOutputInfo(type, &function, &varlena);
	else
		getTypeOutputInfo(type, &function, &varlena);
	fmgr_info(function, &encoder->function);
	encoder->needs_settings = encoder->encoding == KR_ENCODE_OUTPUT && kr_type_needs_settings(type);
}

void
kr_encoder_use_text(KrEncoder *encoder, Form_pg_attribute attr)
{
	Oid			function;
	bool		varlena;

	getTypeOutputInfo(attr->atttypid, &function, &varlena);
	fmgr_info(function, &encoder->function);
	encoder->encoding = KR_ENCODE_OUTPUT;
	encoder->needs_settings = kr_type_needs_settings(attr->atttypid);
}

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
append_jsonb(StringInfo buf, KrEncoder *encoder, Datum value)
{
	char	   *text = OutputFunctionCall(&encoder->function, value);
	int			length = strlen(text);

	enlargeStringInfo(buf, sizeof(int32) + 1 + length);
	pq_writeint32(buf, 1 + length);
	pq_writeint8(buf, 1);
	memcpy(buf->data + buf->len, text, length);
	buf->len += length;
}

void
kr_encode(KrEncoder *encoder, StringInfo buf, Datum value)
{
	char	   *text;
	bytea	   *sent;

	switch (encoder->encoding)
	{
		case KR_ENCODE_INT2:
			pq_sendint32(buf, 2);
			pq_sendint16(buf, DatumGetInt16(value));
			break;
		case KR_ENCODE_INT4:
			pq_sendint32(buf, 4);
			pq_sendint32(buf, DatumGetInt32(value));
			break;
		case KR_ENCODE_INT8:
			pq_sendint32(buf, 8);
			pq_sendint64(buf, DatumGetInt64(value));
			break;
		case KR_ENCODE_FLOAT4:
			pq_sendint32(buf, 4);
			pq_sendfloat4(buf, DatumGetFloat4(value));
			break;
		case KR_ENCODE_FLOAT8:
			pq_sendint32(buf, 8);
			pq_sendfloat8(buf, DatumGetFloat8(value));
			break;
		case KR_ENCODE_BOOL:
			pq_sendint32(buf, 1);
			pq_sendint8(buf, DatumGetBool(value) ? 1 : 0);
			break;
		case KR_ENCODE_UUID:
			append_value(buf, DatumGetUUIDP(value)->data, UUID_LEN);
			break;
		case KR_ENCODE_BYTES:
			append_varlena(buf, value);
			break;
		case KR_ENCODE_JSONB:
			append_jsonb(buf, encoder, value);
			break;
		case KR_ENCODE_SEND:
			sent = SendFunctionCall(&encoder->function, value);
			append_value(buf, VARDATA(sent), VARSIZE(sent) - VARHDRSZ);
			break;
		case KR_ENCODE_OUTPUT:
			text = OutputFunctionCall(&encoder->function, value);
			append_value(buf, text, strlen(text));
			break;
	}
}

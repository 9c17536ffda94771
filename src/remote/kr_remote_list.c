/*
 * kr_remote_list.c
 *	  SQL functions about this backend's connections.
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "kr_remote_internal.h"

PG_FUNCTION_INFO_V1(kr_connections);
PG_FUNCTION_INFO_V1(kr_disconnect);

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text[0] == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

/*
 * kessel._connections(): data_source, tenant, in_transaction, has_written,
 * remote_pid, server_version, prepared_statements, last_used
 */
Datum
kr_connections(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	dlist_iter	iter;

	InitMaterializedSRF(fcinfo, 0);
	dlist_foreach(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);
		Datum		values[8];
		bool		nulls[8] = {false};

		values[0] = CStringGetTextDatum(conn->source_name);
		values[1] = text_or_null(conn->leased ? conn->tenant : "", &nulls[1]);
		values[2] = BoolGetDatum(conn->leased && conn->depth > 0);
		values[3] = BoolGetDatum(conn->leased && conn->wrote_depth > 0);
		values[4] = Int32GetDatum(PQbackendPID(conn->pg));
		values[5] = Int32GetDatum(PQserverVersion(conn->pg));
		values[6] = Int32GetDatum(conn->nstatements);
		values[7] = TimestampTzGetDatum(conn->last_used);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	dlist_foreach(iter, kr_spare_list())
	{
		KrSpare    *spare = dlist_container(KrSpare, node, iter.cur);
		Datum		values[8] = {0};
		bool		nulls[8] = {false, true};

		values[0] = CStringGetTextDatum(spare->source_name);
		values[4] = Int32GetDatum(PQbackendPID(spare->pg));
		values[5] = Int32GetDatum(PQserverVersion(spare->pg));
		values[7] = TimestampTzGetDatum(spare->last_used);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * kessel.disconnect(data_source text) returns integer
 *
 * The name is a data source's or a foreign server's; should both be called so,
 * it is both.
 */
Datum
kr_disconnect(PG_FUNCTION_ARGS)
{
	const char *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			serverid = name ? get_foreign_server_oid(name, true) : InvalidOid;
	const KrSource *source = name && !OidIsValid(serverid) ? kr_source_by_name(name) : NULL;
	dlist_mutable_iter iter;
	int			count = 0;

	dlist_foreach_modify(iter, kr_conn_list())
	{
		KrConn	   *conn = dlist_container(KrConn, node, iter.cur);

		if (source != NULL &&
			memcmp(&conn->source_id, &source->id, sizeof(pg_uuid_t)) != 0)
			continue;
		if (OidIsValid(serverid) && conn->serverid != serverid &&
			(OidIsValid(conn->serverid) || strcmp(conn->source_name, name) != 0))
			continue;
		count++;
		if (conn->leased)
			conn->unwanted = true;
		else
			kr_conn_destroy(conn);
	}
	if (name == NULL || source != NULL)
		count += kr_spare_close(source ? &source->id : NULL);
	PG_RETURN_INT32(count);
}

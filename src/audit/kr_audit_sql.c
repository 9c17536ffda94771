/*
 * kr_audit_sql.c
 *	  The audit's SQL functions.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"

#include "kr_audit_ring.h"

PG_FUNCTION_INFO_V1(kr_audit_sql_status);

/* kessel.audit_status() */
Datum
kr_audit_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	KrRingStatus status;
	Datum		values[6];
	bool		nulls[6] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	kr_ring_status(&status);
	values[0] = Int32GetDatum(status.size);
	values[1] = Int32GetDatum(status.used);
	values[2] = Int32GetDatum(status.pending);
	values[3] = Int64GetDatum((int64) status.lost);
	values[4] = Int32GetDatum(status.worker_pid);
	nulls[4] = status.worker_pid == 0;
	values[5] = Int64GetDatum((int64) status.failed_starts);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * kr_fleet_rows.h
 *	  What comes from data sources, as values of this server.
 */
#ifndef KR_FLEET_ROWS_H
#define KR_FLEET_ROWS_H

#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "libpq-fe.h"

/* The first row of a result; as_jsonb: the data source has made one jsonb of it. */
extern Datum kr_fleet_row_to_jsonb(const PGresult *row, bool as_jsonb, bool *isnull);

/* The first row of a result behind the tenant's slug. 42804: as many columns it is not. */
extern HeapTuple kr_fleet_row_to_tuple(const PGresult *row, const char *tenant,
									   AttInMetadata *types);

/*
 * {"sqlstate": ..., "message": ..., "detail": ..., "hint": ...}, without what is not
 * there; more: further members, as ", \"line\": 3", or empty
 */
extern Datum kr_fleet_error_to_jsonb(const ErrorData *error, const char *more);

/* Raise a tenant's error here, as an ERROR or a WARNING. */
extern void kr_fleet_report(const ErrorData *error, const char *tenant, int elevel);

#endif							/* KR_FLEET_ROWS_H */

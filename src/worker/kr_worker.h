/*
 * kr_worker.h
 *	  The background worker that stores a database's audit records.
 */
#ifndef KR_WORKER_H
#define KR_WORKER_H

#include "postgres.h"

#include "kr_audit_ring.h"

/* Started by name, see kr_audit_ring.c; its argument is the database's oid. */
extern PGDLLEXPORT void kr_worker_main(Datum main_arg);

/*
 * kr_worker_rows.c, within kr_spi_begin() and kr_spi_end(): store records, and
 * make the table's partitions of this month and the next ones.
 */
extern void kr_worker_store(const KrAuditRecord *records, int nrecords);
extern void kr_worker_make_partitions(void);

#endif							/* KR_WORKER_H */

/*
 * kr_spi.h
 *	  Reading and writing the extension's own tables from C.
 *
 * Between begin and end the current user is the extension's owner, so that row
 * security and the caller's privileges do not matter, with a search_path in
 * which nothing of the caller's is found. The snapshot is the newest one,
 * whatever the transaction's isolation level: whether a tenant may be entered is
 * decided by what is committed now.
 */
#ifndef KR_SPI_H
#define KR_SPI_H

#include "postgres.h"

#include "executor/spi.h"

typedef struct KrSpi
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
} KrSpi;

/*
 * An error between begin and end needs no cleanup of ours: transaction or
 * subtransaction abort restores user, settings, snapshot and SPI.
 */
extern void kr_spi_begin(KrSpi *spi);
extern void kr_spi_end(KrSpi *spi);

/* Such a snapshot on top, for who reads again what may have changed meanwhile. */
extern void kr_spi_push_snapshot(void);

/*
 * Run one statement whose plan is kept for the backend's life in *plan. read
 * sees the snapshot of kr_spi_begin(), write sees and makes changes.
 */
extern void kr_spi_read(SPIPlanPtr *plan, const char *sql, int nargs,
						const Oid *argtypes, Datum *values);
extern void kr_spi_write(SPIPlanPtr *plan, const char *sql, int nargs,
						 const Oid *argtypes, Datum *values, const char *nulls);

/* One column of the current SPI result as text, NULL for NULL; palloc'd in cxt. */
extern char *kr_spi_text(int row, int column, MemoryContext cxt);

#endif							/* KR_SPI_H */

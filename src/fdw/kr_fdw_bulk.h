/*
 * kr_fdw_bulk.h
 *	  Many rows in one statement: what a remote table looks like, and rows
 *	  collected by column.
 */
#ifndef KR_FDW_BULK_H
#define KR_FDW_BULK_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

#include "kr_fdw.h"

/* ---------- kr_fdw_shape.c ---------- */

typedef struct KrRemoteColumn
{
	const char *name;
	Oid			type;			/* there; ours only where it is builtin */
	const char *type_name;		/* as a statement there can name it */
} KrRemoteColumn;

typedef struct KrShape
{
	bool		copyable;		/* COPY may be used in place of INSERT */
	int			ncolumns;		/* 0: no such table */
	KrRemoteColumn *columns;
} KrShape;

/*
 * A table's shape, by its qualified name in a statement for the target. May
 * need a trip. Valid to the next call of this function.
 */
extern const KrShape *kr_shape_of(const KrTarget *target, const char *table);
extern const KrRemoteColumn *kr_shape_column(const KrShape *shape, const char *name);

/* A statement that relied on the shape has succeeded. */
extern void kr_shape_confirm(const KrTarget *target, const char *table);

/* ---------- kr_fdw_bulk.c ---------- */

typedef struct KrBulk KrBulk;

/*
 * Rows of a table for INSERT, the columns being attnums; those of them that are
 * marked in source_default (may be NULL) take the data source's default where a
 * row has NULL. suffix comes behind the rows. NULL where the table's shape does
 * not allow it. Lives in the current memory context.
 */
extern KrBulk *kr_bulk_create(Relation rel, const KrFdwTarget *target, List *attnums,
							  const bool *source_default, const char *suffix);

/* Add a row; false where it needs a statement other than those before it. */
extern bool kr_bulk_add(KrBulk *bulk, TupleTableSlot *slot);
extern bool kr_bulk_is_full(const KrBulk *bulk);
extern int	kr_bulk_rows(const KrBulk *bulk);
extern uint64 kr_bulk_bytes(const KrBulk *bulk);

/* Queue the INSERT of the rows collected, and start anew. */
extern void kr_bulk_queue(KrBulk *bulk, KrStream *stream);

/* All that was queued has been inserted. */
extern void kr_bulk_confirm(const KrBulk *bulk);

#endif							/* KR_FDW_BULK_H */

/*
 * kr_fdw_bulk.h
 *	  Many rows in one statement: what a remote table looks like, rows collected
 *	  by column, and rows copied.
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
	int			attnum;			/* there */
	bool		is_tenant;		/* the agent tells its value */
	bool		takes_no_value; /* GENERATED ALWAYS AS IDENTITY: from COPY it does, though */
} KrRemoteColumn;

typedef struct KrShape
{
	bool		copyable;		/* COPY FROM may be passed on as COPY */
	bool		plain;			/* COPY does what INSERT does, with every row */
	int			ncolumns;		/* 0: no such table */
	KrRemoteColumn *columns;
	const char *keys;			/* unique indexes: " 1 2 , 3 " */
} KrShape;

/*
 * A table's shape, by its qualified name in a statement for the target. May
 * need a trip. Valid to the next call of this function.
 */
extern const KrShape *kr_shape_of(const KrTarget *target, const char *table);

/* The same, from the data source itself, in the transaction that will rely on it. */
extern const KrShape *kr_shape_ask(const KrTarget *target, const char *table);
extern const KrRemoteColumn *kr_shape_column(const KrShape *shape, const char *name);

/*
 * The column that makes these columns, which are unique within a tenant, a key of
 * a table that tenants share; NULL where there is none or it is not needed.
 */
extern const char *kr_shape_tenant_column(const KrShape *shape, Relation rel, List *attnums);

/* A statement that relied on the shape has succeeded. */
extern void kr_shape_confirm(const KrTarget *target, const char *table);

/* ---------- kr_fdw_encode.c ---------- */

typedef enum KrEncoding
{
	KR_ENCODE_INT2,
	KR_ENCODE_INT4,
	KR_ENCODE_INT8,
	KR_ENCODE_FLOAT4,
	KR_ENCODE_FLOAT8,
	KR_ENCODE_BOOL,
	KR_ENCODE_UUID,
	KR_ENCODE_BYTES,				/* what a varlena holds */
	KR_ENCODE_JSONB,				/* a version, then text */
	KR_ENCODE_SEND,				/* by the type's send function */
	KR_ENCODE_OUTPUT				/* text */
} KrEncoding;

typedef struct KrEncoder
{
	AttrNumber	attnum;
	const char *name;			/* of the column there, quoted */
	Oid			element;		/* type in which values travel */
	const char *cast;			/* type to which they are cast there; NULL: none */
	KrEncoding	encoding;
	FmgrInfo	function;		/* of SEND, OUTPUT and JSONB */
	bool		needs_settings; /* of transmission */
} KrEncoder;

extern void kr_encoder_init(KrEncoder *encoder, Form_pg_attribute attr,
							const KrRemoteColumn *remote);

/* Let values travel as text of the column's own type. */
extern void kr_encoder_use_text(KrEncoder *encoder, Form_pg_attribute attr);

/* Append a value, which is not NULL, with its length. */
extern void kr_encode(KrEncoder *encoder, StringInfo buf, Datum value);

/* ---------- kr_fdw_bulk.c ---------- */

typedef struct KrBulk KrBulk;

/* What follows the rows of an INSERT. */
typedef struct KrBulkSuffix
{
	const char *text;			/* where conflict is NIL */
	List	   *conflict;		/* ON CONFLICT with a target */
	const char *tenant_column;	/* to be added to it */
	int			nparams;		/* of conflict, as text */
	const char *const *params;
} KrBulkSuffix;

/*
 * Rows of a table for INSERT, the columns being attnums; those of them that are
 * marked in source_default (may be NULL) take the data source's default where a
 * row has NULL. NULL where the table's shape does not allow it. Lives in the
 * current memory context.
 */
extern KrBulk *kr_bulk_create(Relation rel, const KrFdwTarget *target, List *attnums,
							  const bool *source_default, const KrBulkSuffix *suffix);

/* Add a row; false where it needs a statement other than those before it. */
extern bool kr_bulk_add(KrBulk *bulk, TupleTableSlot *slot);
extern bool kr_bulk_is_full(const KrBulk *bulk);
extern int	kr_bulk_rows(const KrBulk *bulk);
extern uint64 kr_bulk_bytes(const KrBulk *bulk);

/* Queue the INSERT of the rows collected, and start anew. */
extern void kr_bulk_queue(KrBulk *bulk, KrStream *stream);

/* All that was queued has been inserted. */
extern void kr_bulk_confirm(const KrBulk *bulk);

/* ---------- kr_fdw_copy.c ---------- */

typedef struct KrCopier KrCopier;

/*
 * As kr_bulk_create(), for COPY; NULL where COPY cannot write to the table, or,
 * for an INSERT, would not do the same.
 */
extern KrCopier *kr_copier_create(Relation rel, const KrFdwTarget *target, List *attnums,
								  const bool *source_default, bool for_insert);

/*
 * Send a row; opens the COPY if none is open. False, with none open any more,
 * where rows differ too often in the columns that they leave out: the row must go
 * some other way.
 */
extern bool kr_copier_add(KrCopier *copier, KrConn *conn, TupleTableSlot *slot);
extern bool kr_copier_is_open(const KrCopier *copier);

/* End the COPY, if one is open; raises what is wrong with its rows. */
extern void kr_copier_end(KrCopier *copier);

#endif							/* KR_FDW_BULK_H */

/*
 * kr_fdw_modify.h
 *	  The state of a modification, and what the files of that name offer each other.
 *	  What the executor calls is in kr_fdw.h.
 */
#ifndef KR_FDW_MODIFY_H
#define KR_FDW_MODIFY_H

#include "postgres.h"

#include "kr_fdw.h"
#include "kr_fdw_bulk.h"

/* COPYs that a statement may open because somebody else has ended the one before. */
#define KR_MODIFY_MAX_COPIES 4

/* After so many rows an INSERT may go on as COPY. */
#define KR_MODIFY_MIN_COPY 1000

/* The INSERT with DEFAULT for some of its parameters. */
typedef struct KrInsertVariant
{
	bool	   *use_default;	/* one for each parameter */
	const char *sql;
} KrInsertVariant;

typedef struct KrModifyState
{
	Relation	rel;
	KrFdwTarget target;
	const char *sql;			/* of an INSERT: NULL before the first row */
	List	   *target_attrs;	/* attnums sent, in order; generated ones are not */
	bool		has_returning;
	AttrNumber	ctid_attno;		/* junk column that tells the row; 0: INSERT */
	int			nparams;
	FmgrInfo   *output;			/* one for each parameter */
	bool		needs_settings;
	bool	   *source_default; /* INSERT: NULL here means the source's own default; NULL: nowhere */
	List	   *variants;		/* KrInsertVariant, as rows ask for them */
	const char **values;
	MemoryContext cxt;			/* of one row's parameters */
	KrRowReader reader;			/* of RETURNING */
	KrStream	stream;

	/* INSERT of many rows */
	KrBulk	   *bulk;			/* NULL: not made yet */
	bool		no_bulk;		/* not to be made */
	const char *head;			/* the statement up to ON CONFLICT ... */
	const char *tail;			/* ... and from there on */
	KrBulkSuffix suffix;		/* ON CONFLICT */
	KrParams	params;			/* its parameters */
	int			batch_option;	/* option batch_size; 0: none */
	bool		more_slots;		/* the executor's arrays have been made longer */
	uint64		sent;			/* rows of the statement so far */

	/* rows in a COPY */
	int			copies;			/* opened for this statement */
	bool		from_copy;		/* COPY FROM: rows may be kept back */
	bool		deferred;
	KrCopier   *copier;			/* NULL: not made yet, or of no use */
	bool		no_copy;
	uint64		copied_from;	/* the row that opened the COPY */
	KrWriter	writer;			/* active while rows are kept back */
	List	   *ranges;			/* of the statements that are not answered */
} KrModifyState;

/* Which rows of a statement an answer is about. */
typedef struct KrRowRange
{
	uint64		first;
	uint64		last;			/* 0: of a COPY that began with the first */
} KrRowRange;

/* ---------- kr_fdw_modify.c ---------- */

/* Option batch_size of the table or else of its server; 0: not set. */
extern int	kr_modify_batch_option(Relation rel);

/* ---------- kr_fdw_modify_row.c ---------- */

/* Make sure that the remote transaction is there, as deep as the local one. */
extern void kr_modify_lease(KrModifyState *state, EState *estate);

extern void kr_modify_queue_row(KrModifyState *state, EState *estate, TupleTableSlot *slot,
								TupleTableSlot *plan_slot);

/* Read the answer for one row; what RETURNING gives goes into slot. False: it was not modified. */
extern bool kr_modify_finish_row(KrModifyState *state, TupleTableSlot *slot);

/* ---------- kr_fdw_modify_batch.c ---------- */

/* Send the rows collected so far; ranges has then, for the answer, which they are. */
extern List *kr_modify_send_collected(KrModifyState *state, List *ranges);

/* How many rows of them were inserted. */
extern uint64 kr_modify_read_answer(KrModifyState *state, KrRowRange *range);

/* An error context: arg is a KrRowRange. */
extern void kr_modify_range_context(void *arg);

/* ---------- kr_fdw_modify_defer.c ---------- */

/* Let rows be kept back. */
extern void kr_modify_defer(EState *estate, KrModifyState *state);

/* Keep a row of COPY FROM back; false where it has to be inserted at once. */
extern bool kr_modify_defer_row(EState *estate, ResultRelInfo *relinfo, TupleTableSlot *slot);

/* Send what is kept back; and the same for whoever else needs the connection. */
extern void kr_modify_finish_deferred(KrWriter *writer);
extern void kr_modify_park_deferred(KrStream *stream);

#endif							/* KR_FDW_MODIFY_H */

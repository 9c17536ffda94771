/*
 * kr_fdw_rewrite.h
 *	  What the files that rewrite a condition offer each other. What the planner
 *	  calls is in kr_fdw.h.
 */
#ifndef KR_FDW_REWRITE_H
#define KR_FDW_REWRITE_H

#include "postgres.h"

#include "access/transam.h"
#include "nodes/pathnodes.h"

#include "kr_fdw.h"

typedef struct KrRewrite
{
	KrShip	   *ship;
	const KrShipRules *rules;
	bool		conditional;	/* in an arm of CASE or COALESCE */
} KrRewrite;

static inline bool
kr_rewrite_is_builtin(Oid oid)
{
	return oid < FirstGenbkiObjectId;
}

/* ---------- kr_fdw_rewrite.c ---------- */

/* An expression, or a part of one. */
extern Node *kr_rewrite(Node *node, KrRewrite *cxt);

/* ---------- kr_fdw_rewrite_value.c ---------- */

/* Is it nothing that can be computed before the scan? For expression_tree_walker(), too. */
extern bool kr_rewrite_needs_row(Node *node, void *context);

/* What can be computed before: as a parameter; NULL where it must not be computed. */
extern Node *kr_rewrite_value(Node *node, KrRewrite *cxt);

/* Of enum type, or an array of enums; of a domain, what it is made of counts. */
extern bool kr_rewrite_is_enum(Oid type);

/* Is it an operator's on enums? order: of those that order them, too. */
extern bool kr_rewrite_is_enum_function(Oid function, bool order);

/* A column, constant or value of an enum's type; NULL if it is anything else. */
extern Node *kr_rewrite_enum(Node *node, KrRewrite *cxt);

/* Arguments of an operator on enums; NIL if there are others. */
extern List *kr_rewrite_enums(List *args, KrRewrite *cxt);

/* A column; of a domain as of the type that it is made of. */
extern Node *kr_rewrite_column(Var *var, KrRewrite *cxt);

/* The collation to pass on. */
extern Oid	kr_rewrite_collation(Oid collation, Oid function, List *args);

/* ---------- kr_fdw_rewrite_time.c: NULL if it is none ---------- */

/* A comparison of a timestamptz with a timestamp or date. */
extern Node *kr_rewrite_time_comparison(OpExpr *op, KrRewrite *cxt);

/* Casts between date, timestamp and timestamptz, date_trunc(). */
extern Node *kr_rewrite_time_function(FuncExpr *func, KrRewrite *cxt);

/* ---------- kr_fdw_rewrite_node.c: NULL if it cannot be said otherwise ---------- */

extern Expr *kr_rewrite_null_test(Expr *arg, NullTestType type);
extern Node *kr_rewrite_row_comparison(RowCompareExpr *row, KrRewrite *cxt);
extern Node *kr_rewrite_boolean_test(BooleanTest *test, KrRewrite *cxt);
extern Node *kr_rewrite_coalesce(CoalesceExpr *coalesce, KrRewrite *cxt);
extern Node *kr_rewrite_io_cast(CoerceViaIO *cast, KrRewrite *cxt);

#endif							/* KR_FDW_REWRITE_H */

/*
 * kr_fdw_conflict.h
 *	  ON CONFLICT with a target, on its way from the query to the remote statement.
 */
#ifndef KR_FDW_CONFLICT_H
#define KR_FDW_CONFLICT_H

#include "postgres.h"

#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"

extern void kr_conflict_init(void);

/*
 * The clause of an INSERT that is being planned; NIL where it has none with a
 * target. A list that may stand in a plan; the functions below know its inside.
 */
extern List *kr_conflict_of_plan(PlannerInfo *root, ModifyTable *plan);

/*
 * Its text, for a statement whose own parameters are nparams; the clause's come
 * behind them. tenant_column, if not NULL, is added to the target.
 */
extern char *kr_conflict_text(List *conflict, const char *tenant_column, int nparams);

/* The target's columns; NIL where it has expressions. */
extern List *kr_conflict_attnums(List *conflict);

/* The clause's parameters, expressions that are evaluated once. */
extern List *kr_conflict_params(List *conflict);

#endif							/* KR_FDW_CONFLICT_H */

/*
 * kr_fdw_insert.h
 *	  What planning an INSERT hands to its executor, behind what postgres_fdw does.
 */
#ifndef KR_FDW_INSERT_H
#define KR_FDW_INSERT_H

#include "postgres.h"

#include "foreign/fdwapi.h"
#include "utils/relcache.h"

#define MODIFY_LEFT_OUT 5		/* attnums that take the data source's default */
#define MODIFY_CONFLICT 6		/* ON CONFLICT with a target; NIL: none */
#define MODIFY_TAIL 7			/* what follows ON CONFLICT */

extern List *kr_plan_modify(PlanForeignModify_function plan_modify, PlannerInfo *root,
							ModifyTable *plan, Index result_relation, int subplan_index);

/* Has the column a default in the data source and none here? */
extern bool kr_fdw_has_remote_default(Relation rel, int attnum);

#endif							/* KR_FDW_INSERT_H */

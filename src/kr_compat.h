/*
 * kr_compat.h
 *	  What differs between PostgreSQL 15 and 18; the only file that asks for
 *	  the server's version.
 */
#ifndef KR_COMPAT_H
#define KR_COMPAT_H

#include "postgres.h"

#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/plannodes.h"
#include "optimizer/pathnode.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "kessel_router is written for PostgreSQL 15 to 18"
#endif

/* VARDATA_ANY() and the like; in postgres.h before 16 */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* A wait event set that lives until it is freed, whatever the transaction does. */
static inline WaitEventSet *
kr_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* All settings; told how many they are since 16 */
#if PG_VERSION_NUM >= 160000
#define kr_guc_variables(count) get_guc_variables(count)
#else
#define kr_guc_variables(count) (*(count) = GetNumConfigOptions(), get_guc_variables())
#endif

/* Not one that is deferrable, of which a row may be there twice */
static inline Oid
kr_primary_key_index(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

/* What a query needs is apart from its range table since 16; of a child it needs nothing */
#if PG_VERSION_NUM >= 160000
#define KR_CHECK_PERMS_PARAMETERS List *range_table, List *permissions, bool ereport_on_violation
#define KR_CHECK_PERMS_ARGUMENTS range_table, permissions, ereport_on_violation
#define KR_CHECK_PERMS_LIST permissions
typedef RTEPermissionInfo KrPermissionInfo;
#define kr_is_child(rte) ((rte)->perminfoindex == 0)
#else
#define KR_CHECK_PERMS_PARAMETERS List *range_table, bool ereport_on_violation
#define KR_CHECK_PERMS_ARGUMENTS range_table, ereport_on_violation
#define KR_CHECK_PERMS_LIST range_table
typedef RangeTblEntry KrPermissionInfo;
#define kr_is_child(rte) ((rte)->requiredPerms == 0)
#endif

/* aclchk.c has one function for all kinds of objects since 16 */
static inline bool
kr_may_execute(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

static inline bool
kr_may_use_schema(Oid schema, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK;
#else
	return pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK;
#endif
}

/* SET is an option of membership since 16. */
static inline bool
kr_may_become(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/* Of a hook for ExecutorRun(), which has one parameter less since 18 */
#if PG_VERSION_NUM >= 180000
#define KR_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *desc, ScanDirection direction, uint64 count
#define KR_EXECUTOR_RUN_ARGUMENTS desc, direction, count
#else
#define KR_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once
#define KR_EXECUTOR_RUN_ARGUMENTS desc, direction, count, execute_once
#endif

/* 16 has postgres_fdw's option analyze_sampling, which is then on. */
#define KR_DEFAULT_ANALYZE_SAMPLES (PG_VERSION_NUM >= 160000)

/*
 * The user whose privileges count for a scan or a modification: the current one
 * or, below a view, its owner. Before 16 it stands with the table.
 */
#if PG_VERSION_NUM < 160000
static inline Oid
kr_user_of(Index rti, EState *estate)
{
	RangeTblEntry *rte = exec_rt_fetch(rti, estate);

	return OidIsValid(rte->checkAsUser) ? rte->checkAsUser : GetUserId();
}
#endif

static inline Oid
kr_scan_user(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;

#if PG_VERSION_NUM >= 160000
	return OidIsValid(plan->checkAsUser) ? plan->checkAsUser : GetUserId();
#else
	return kr_user_of(plan->scan.scanrelid > 0 ? plan->scan.scanrelid :
					  (Index) bms_next_member(plan->fs_relids, -1),
					  node->ss.ps.state);
#endif
}

static inline Oid
kr_modify_user(EState *estate, ResultRelInfo *relinfo)
{
#if PG_VERSION_NUM >= 160000
	return ExecGetResultRelCheckAsUser(relinfo, estate);
#else
	/* A partition that rows are routed to may have no entry of its own. */
	return kr_user_of(relinfo->ri_RangeTableIndex > 0 ? relinfo->ri_RangeTableIndex :
					  relinfo->ri_RootResultRelInfo->ri_RangeTableIndex, estate);
#endif
}

/* the B-tree strategy of a row comparison */
#if PG_VERSION_NUM >= 180000
#define kr_row_compare_strategy(row) ((int) (row)->cmptype)
#else
#define kr_row_compare_strategy(row) ((int) (row)->rctype)
#endif

/* A path of a base relation that takes values from other relations. */
static inline Path *
kr_create_lookup_path(PlannerInfo *root, RelOptInfo *rel, double rows,
					  Cost startup, Cost total, Relids required_outer)
{
#if PG_VERSION_NUM >= 180000
	return (Path *) create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, NIL,
											required_outer, NULL, NIL, NIL);
#elif PG_VERSION_NUM >= 170000
	return (Path *) create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL,
											required_outer, NULL, NIL, NIL);
#else
	return (Path *) create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL,
											required_outer, NULL, NIL);
#endif
}

/* 18 has pg_noreturn instead, which stands in front of a declaration */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

#endif							/* KR_COMPAT_H */

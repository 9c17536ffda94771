/*
 * kr_fdw.h
 *	  What the files of kessel_fdw share.
 *
 * kr_fdw_handler.c   the callback table: postgres_fdw's planner, our executor
 * kr_fdw_plan.c      what joins and aggregates cost in a data source
 * kr_fdw_ship.c      conditions that postgres_fdw would not ship
 * kr_fdw_rewrite.c   such conditions in terms of what it does ship; with
 *					  _value.c, _time.c and _node.c
 * kr_fdw_locking.c   SKIP LOCKED and NOWAIT
 * kr_fdw_options.c   options of servers, mappings and tables; the target of a statement
 * kr_fdw_server.c    what a server is, and where one with options of libpq leads
 * kr_fdw_sql.c       statements: the tenant's schema, INSERT for COPY
 * kr_fdw_params.c    parameters to text
 * kr_fdw_column.c    values from binary or text
 * kr_fdw_rows.c      rows, and rows put aside
 * kr_fdw_scan.c      SELECT
 * kr_fdw_direct.c    UPDATE and DELETE that run as a whole in the data source
 * kr_fdw_modify.c    INSERT, UPDATE, DELETE and COPY FROM; _row.c: row by row,
 *					  _batch.c: in batches, _defer.c: rows kept back
 * kr_fdw_bulk.c      INSERT of many rows
 * kr_fdw_copy.c      COPY FROM as COPY
 * kr_fdw_encode.c    values of many rows
 * kr_fdw_shape.c     what a table looks like in the data source
 * kr_fdw_conflict.c  ON CONFLICT with a target
 * kr_fdw_insert.c    planning of INSERT: columns left out, ON CONFLICT
 * kr_fdw_sensitive.c tables of which errors tell no values
 * kr_fdw_truncate.c  TRUNCATE
 * kr_fdw_analyze.c   ANALYZE
 * kr_fdw_import.c    IMPORT FOREIGN SCHEMA
 * kr_fdw_explain.c   the route in EXPLAIN
 */
#ifndef KR_FDW_H
#define KR_FDW_H

#include "postgres.h"

#include "commands/explain.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "kr_compat.h"
#include "kr_remote.h"

/* In a table's option schema_name: the schema of the tenant that is asked for. */
#define KR_TENANT_SCHEMA_MARKER "@tenant"

/* ---------- kr_fdw_plan.c ---------- */

/* True where we set prices, false where postgres_fdw's are kept. */
extern bool kr_plan_prices(Oid serverid);

/* Refuse use_remote_estimate where postgres_fdw cannot ask. */
extern void kr_plan_check_estimate(RelOptInfo *rel, Oid relid);

/*
 * Call postgres_fdw's callback; for router tables set the prices of the paths
 * that it adds. kr_plan_base() is for GetForeignRelSize and GetForeignPaths.
 */
extern void kr_plan_base(GetForeignRelSize_function callback, PlannerInfo *root,
						 RelOptInfo *rel, Oid relid);

/* Let a table whose rows get locked be asked row by row, by other tables' values. */
extern void kr_plan_lookups(PlannerInfo *root, RelOptInfo *rel);

extern void kr_plan_join(GetForeignJoinPaths_function add_paths, PlannerInfo *root,
						 RelOptInfo *joinrel, RelOptInfo *outerrel,
						 RelOptInfo *innerrel, JoinType jointype,
						 JoinPathExtraData *extra);
extern void kr_plan_upper(GetForeignUpperPaths_function add_paths,
						  PlannerInfo *root, UpperRelationKind stage,
						  RelOptInfo *input_rel, RelOptInfo *output_rel,
						  void *extra);

/* ---------- kr_fdw_jit.c ---------- */

extern void kr_jit_init(void);

/* ---------- kr_fdw_server.c ---------- */

typedef enum KrServerKind
{
	KR_SERVER_ROUTER,			/* the session's tenant decides */
	KR_SERVER_TENANT,
	KR_SERVER_DATA_SOURCE,
	KR_SERVER_BOUND				/* by options of libpq and a user mapping */
} KrServerKind;

typedef struct KrServer
{
	KrServerKind kind;
	Oid			owner;
	const char *name;
	const char *bound_to;		/* tenant or data source */
	bool		keep_connections;
	KrSource	source;			/* KR_SERVER_BOUND, asked for with a user */
} KrServer;

/*
 * A server, and with a user (not InvalidOid) the user mapping that counts for
 * it; raises what is wrong with that. Valid to the end of the transaction.
 */
extern const KrServer *kr_fdw_server(Oid serverid, Oid userid);

/* True for what libpq takes and a user may set, on a server or in a mapping. */
extern bool kr_fdw_is_connection_option(const char *name);

extern void kr_fdw_server_init(void);

/* ---------- kr_fdw_permission.c ---------- */

/* Raises where the user of the claims may not write the table; see there. */
extern void kr_permission_to_write(Oid relid);

/* Of what a plan reads and writes, the children and partitions. */
extern void kr_permission_of_scan(ForeignScanState *node);
extern void kr_permission_of_modify(ResultRelInfo *relinfo, EState *estate);

extern void kr_permission_init(void);

/* ---------- kr_fdw_ship.c ---------- */

/*
 * Around postgres_fdw's callbacks: before it looks at a table's conditions, at
 * those of a join, at HAVING and at grouping, and after it has made a plan.
 */
extern void kr_ship_base(PlannerInfo *root, RelOptInfo *rel);
extern List *kr_ship_join(PlannerInfo *root, RelOptInfo *joinrel, JoinType jointype,
						  SpecialJoinInfo *sjinfo, List *clauses);
extern Node *kr_ship_having(PlannerInfo *root, RelOptInfo *rel, Node *having);
extern PathTarget *kr_ship_grouping(PlannerInfo *root, RelOptInfo *rel, PathTarget *target);
extern ForeignScan *kr_ship_plan(PlannerInfo *root, ForeignScan *scan);
extern bool kr_ship_direct_modify(PlanDirectModify_function plan_direct_modify,
								  PlannerInfo *root, ModifyTable *plan,
								  Index result_relation, int subplan_index);

/* What was changed in a statement's conditions; lives while it is planned. */
typedef struct KrShip KrShip;

typedef struct KrShipRules
{
	bool		values_only;	/* leave columns as they are */
	bool		enum_order;		/* labels have the same order there */
	bool		estimates;		/* the data source is asked for estimates */
} KrShipRules;

/*
 * For kr_fdw_rewrite.c: a parameter for a value, a column as of another type, and
 * an expression of a grouping's result; false if that stands for something else.
 */
extern Param *kr_ship_value(KrShip *ship, Expr *expr, Oid type);
extern Var *kr_ship_column(KrShip *ship, Var *var, Oid type, int32 typmod);
extern bool kr_ship_target(KrShip *ship, Expr *shipped, Expr *original);
extern void kr_ship_depend_on_enums(void);

/* ---------- kr_fdw_rewrite.c ---------- */

extern Expr *kr_rewrite_condition(KrShip *ship, const KrShipRules *rules, Expr *expr);
extern Expr *kr_rewrite_target(KrShip *ship, const KrShipRules *rules, Expr *expr);
extern Expr *kr_rewrite_aggregates(KrShip *ship, const KrShipRules *rules, Expr *expr);
extern Expr *kr_rewrite_assignment(KrShip *ship, const KrShipRules *rules, Expr *expr);

/* ---------- kr_fdw_locking.c ---------- */

/* Have the plan's SQL wait for locks, or not, as the statement says. */
extern ForeignScan *kr_plan_locking(PlannerInfo *root, RelOptInfo *rel, ForeignScan *scan);

/* ---------- kr_fdw_options.c ---------- */

/* The source that a statement is for, and what its SQL must be adapted to. */
typedef struct KrFdwTarget
{
	KrTarget	remote;
	const KrRoute *route;		/* NULL: server bound to a data source */
	const char *schema;			/* replaces the marker */
	bool		marker_only;	/* no other schema may be named */
} KrFdwTarget;

/*
 * Decide where statements of a user on a server go now; raises what the route
 * raises. Valid to the end of the transaction.
 */
extern void kr_fdw_resolve(Oid serverid, Oid userid, KrFdwTarget *target);

extern void kr_fdw_refuse_remote_estimate(void) pg_attribute_noreturn();

/* ---------- kr_fdw_sql.c ---------- */

/* An option of a table, column, server or mapping; NULL where it is not set. */
extern const char *kr_fdw_option(List *options, const char *name);

/*
 * A deparsed statement on these tables (OIDs), made fit for the target; and the
 * target told whether errors may repeat values of these tables.
 */
extern const char *kr_fdw_adapt_sql(const char *sql, KrFdwTarget *target,
									List *relids);

/* The end of a quoted token that starts at text: past its closing quote. */
extern const char *kr_fdw_skip_quoted(const char *text, bool backslashes);

extern void kr_fdw_append_table_name(StringInfo buf, Relation rel);

extern const char *kr_fdw_remote_table(Relation rel, const KrFdwTarget *target);

/* A table's and a column's name in the data source. */
extern const char *kr_fdw_table_name(Relation rel);
extern const char *kr_fdw_column_name(Relation rel, int attnum);

/*
 * INSERT of all columns, up to where ON CONFLICT would stand; *tail gets what comes
 * behind, *retrieved the attnums of RETURNING, if asked for.
 */
extern char *kr_fdw_insert_sql(Relation rel, bool returning, List **targets,
							   List **retrieved, char **tail);
extern char *kr_fdw_insert_defaults(const char *sql, const bool *use_default);

/* ---------- kr_fdw_sensitive.c ---------- */

/* Has the table a column whose values no error may repeat? */
extern bool kr_fdw_is_sensitive(Oid relid);

/* ---------- kr_fdw_params.c ---------- */

/* Expressions evaluated here and sent as text. */
typedef struct KrParams
{
	int			count;
	FmgrInfo   *output;
	List	   *exprs;			/* ExprStates */
	const char **values;
	bool		needs_settings; /* of transmission, for one of the types */
	MemoryContext cxt;			/* reset with each evaluation */
} KrParams;

extern void kr_params_init(KrParams *params, PlanState *state, List *exprs);
extern const char *const *kr_params_eval(KrParams *params, ExprContext *econtext);

/*
 * Settings under which values become text that means the same everywhere. Not
 * set where no type needs them: setting them costs more than a short query.
 */
extern bool kr_type_needs_settings(Oid type);
extern int	kr_transmission_begin(bool needed);
extern void kr_transmission_end(int nestlevel);

/* ---------- kr_fdw_column.c ---------- */

/* In which form a column of a result has come. */
typedef enum KrForm
{
	KR_FORM_TEXT,
	KR_FORM_JSONB,				/* a version, then text */
	KR_FORM_FIXED,				/* of its own type, which is read here */
	KR_FORM_BINARY,				/* of its own type, by its receive function */
	KR_FORM_OTHER_BINARY		/* of another builtin type; goes through text */
} KrForm;

typedef struct KrColumn
{
	int			attnum;			/* attribute of the tuple, 0: none */
	Oid			type;
	Oid			base_type;		/* of a domain */
	int32		typmod;
	FmgrInfo	input;
	Oid			ioparam;
	KrForm		form;
	FmgrInfo	receive;		/* of KR_FORM_BINARY, or of the remote type */
	Oid			remote_type;
	Oid			remote_ioparam;
	FmgrInfo	output;			/* of the remote type */
} KrColumn;

/*
 * True where the binary form of a type is the same in every database and
 * version, and shorter to read than text. Strings are the same in both forms.
 * Receive functions that convert from the client's encoding are not for us, so
 * arrays of strings are left out.
 */
extern bool kr_column_has_binary(Oid type);

/*
 * Decide how a column in binary form is read: by its own type's receive
 * function if it is of that type there too, else by that of the type that it
 * has there, and then through text. False for a type of which we do not know
 * the binary form.
 */
extern bool kr_column_describe(KrColumn *column, Oid remote_type, MemoryContext cxt);

/* A value, with a NUL behind it; NULL: it is NULL, which a domain may refuse. */
extern Datum kr_column_read(KrColumn *column, char *value, int length);

/* ---------- kr_fdw_rows.c ---------- */

/* How a result's columns become columns of a tuple. */
typedef struct KrRowReader
{
	TupleDesc	desc;
	const char *relname;		/* for error context */
	ForeignScanState *scan;		/* likewise: whose rows they are; NULL: no scan's */
	bool		is_bound;		/* likewise: not a router table */
	bool		withhold;		/* errors must not repeat values */
	bool		binary;			/* the query may be asked to answer in binary form */
	bool		system_columns; /* real tuples are needed, with ctid */
	int			ncolumns;		/* of the result */
	KrColumn   *columns;
	char	  **values;			/* of the current row, each with a NUL behind it */
	int		   *lengths;
	MemoryContext cxt;			/* reset with each row */
	int			current;		/* column being converted */
} KrRowReader;

/* Rows put aside as they came, in work_mem and then on disk. */
typedef struct KrParked
{
	Tuplestorestate *store;		/* NULL: none */
	TupleTableSlot *slot;
	ResourceOwner owner;		/* of the portal, not of who happens to park */
	MemoryContext cxt;
} KrParked;

extern void kr_reader_init(KrRowReader *reader, TupleDesc desc, Relation rel,
						   List *retrieved, bool system_columns, EState *estate);

/* Whose rows they are, for error messages. scan may be NULL. */
extern void kr_reader_explain(KrRowReader *reader, const KrFdwTarget *target,
							  ForeignScanState *scan);

/*
 * Look at a query's first result before its rows are stored or parked. False
 * where it has a column of a type whose binary form is not known: it must be
 * asked for as text.
 */
extern bool kr_reader_describe(KrRowReader *reader, const PGresult *result,
							   bool asked_for_text);
extern void kr_reader_store_result(KrRowReader *reader, const PGresult *result,
								   int row, TupleTableSlot *slot);

extern void kr_parked_init(KrParked *parked, EState *estate);
extern void kr_parked_add(KrParked *parked, KrRowReader *reader,
						  const PGresult *result, int first);
extern bool kr_parked_next(KrParked *parked, KrRowReader *reader,
						   TupleTableSlot *slot);
extern void kr_parked_end(KrParked *parked);

/* ---------- executor callbacks ---------- */

extern TupleDesc kr_fdw_scan_desc(ForeignScanState *node);
extern List *kr_fdw_scan_relids(ForeignScanState *node);
extern void kr_fdw_layout_error(const char *what) pg_attribute_noreturn();

extern void kr_begin_scan(ForeignScanState *node, int eflags);
extern TupleTableSlot *kr_iterate_scan(ForeignScanState *node);
extern void kr_rescan(ForeignScanState *node);
extern void kr_end_scan(ForeignScanState *node);
extern void kr_async_request(AsyncRequest *request);
extern void kr_async_configure_wait(AsyncRequest *request);
extern void kr_async_notify(AsyncRequest *request);

extern void kr_begin_direct_modify(ForeignScanState *node, int eflags);
extern TupleTableSlot *kr_iterate_direct_modify(ForeignScanState *node);
extern void kr_end_direct_modify(ForeignScanState *node);

extern void kr_begin_modify(ModifyTableState *mtstate, ResultRelInfo *relinfo,
							List *fdw_private, int subplan_index, int eflags);
extern TupleTableSlot *kr_exec_insert(EState *estate, ResultRelInfo *relinfo,
									  TupleTableSlot *slot, TupleTableSlot *plan_slot);
extern TupleTableSlot **kr_exec_batch_insert(EState *estate, ResultRelInfo *relinfo,
											 TupleTableSlot **slots,
											 TupleTableSlot **plan_slots, int *nslots);
extern int	kr_modify_batch_size(ResultRelInfo *relinfo);
extern TupleTableSlot *kr_exec_update(EState *estate, ResultRelInfo *relinfo,
									  TupleTableSlot *slot, TupleTableSlot *plan_slot);
extern TupleTableSlot *kr_exec_delete(EState *estate, ResultRelInfo *relinfo,
									  TupleTableSlot *slot, TupleTableSlot *plan_slot);
extern void kr_end_modify(EState *estate, ResultRelInfo *relinfo);
extern void kr_begin_insert(ModifyTableState *mtstate, ResultRelInfo *relinfo);

extern void kr_exec_truncate(List *rels, DropBehavior behavior, bool restart_seqs);

/* Whether this transaction has truncated tables of a server (or tried to). */
extern bool kr_has_truncated(Oid serverid);
extern void kr_forget_truncated(void);

extern bool kr_analyze(Relation rel, AcquireSampleRowsFunc *func, BlockNumber *pages);
extern List *kr_import_schema(ImportForeignSchemaStmt *stmt, Oid serverid);

extern void kr_explain_route(Oid serverid, ExplainState *es);

#endif							/* KR_FDW_H */

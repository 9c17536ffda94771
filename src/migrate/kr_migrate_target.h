/*
 * kr_migrate_target.h
 *	  The parts of the program that brings a target to a version: its trips
 *	  (kr_migrate_target.c, and kr_migrate_alone.c outside of a transaction), what
 *	  they are made of (kr_migrate_queue.c), and its errors (kr_migrate_error.c).
 */
#ifndef KR_MIGRATE_TARGET_H
#define KR_MIGRATE_TARGET_H

#include "postgres.h"

#include "kr_migrate.h"

/* Tags of steps that are no statement of a migration; those of migrations are > 0. */
enum
{
	KR_TAG_OTHER = 0, KR_TAG_SCHEMA = -1, KR_TAG_RECORD = -2, KR_TAG_COMMIT = -3, KR_TAG_ROLLBACK = -4,
	KR_TAG_INDEX = -5, KR_TAG_SAFETY = -6, KR_TAG_HOLDER = -7
};

static inline const KrMigrateTask *
kr_migrate_task(const KrMigrateWork *work)
{
	return &work->tasks[work->task];
}

/* The next to be sent. */
static inline const KrScriptStatement *
kr_migrate_statement(const KrMigrateWork *work)
{
	return list_nth(kr_migrate_task(work)->migration->statements, work->statement);
}

/* ---------- kr_migrate_queue.c ---------- */

extern void kr_migrate_command(KrFleetTarget *target, int tag, const char *sql,
							   int nparams, const char *const *values);

/*
 * Should nobody hear from us any more, it ends by itself. For the transaction, or
 * for the session. The search_path is pg_catalog then.
 */
extern void kr_migrate_queue_limits(KrFleetTarget *target, bool is_local);

/* As each migration finds it, whatever the one before has set. */
extern void kr_migrate_queue_context(KrFleetTarget *target, bool is_local);

/*
 * A lock on the schema, then a look: a record that has changed since it was read is
 * read again. Both as errors there, so that what follows in the trip is not run.
 */
extern void kr_migrate_queue_lock(KrFleetTarget *target, bool of_session);

/* The current task's line of the record; state NULL: it goes. */
extern void kr_migrate_queue_record(KrFleetTarget *target, const char *state, int statements_done);

/* The next statement. How many bytes that was; 0: it could not be sent, and the target has failed. */
extern int	kr_migrate_queue_statement(KrFleetTarget *target);

/* Where a lock was not had before: who has one on the statement's tables. The search_path must be pg_catalog. */
extern void kr_migrate_queue_holders(KrFleetTarget *target);

/*
 * Could tenants who share the tables see each other's rows, once this is committed?
 * What runs outside of a transaction is not asked for: kessel.test_data_source() tells.
 */
extern void kr_migrate_queue_safety(KrFleetTarget *target);

/*
 * Behind a pooler the session is somebody else's after the commit. What a script may
 * have left in it goes while it is still ours.
 */
extern void kr_migrate_queue_leave(KrFleetTarget *target);

/* ---------- kr_migrate_alone.c ---------- */

/* The current task is such a migration; and: one of its trips, but for the last, is answered. */
extern void kr_migrate_begin_alone(KrFleetTarget *target);
extern void kr_migrate_proceed_alone(KrFleetTarget *target);
extern void kr_migrate_take_index(KrMigrateWork *work, const PGresult *result);

/* ---------- kr_migrate_error.c ---------- */

extern void kr_migrate_raise_result(KrFleetTarget *target);
extern void kr_migrate_raise_lost(KrFleetTarget *target);
extern void kr_migrate_raise_late(KrFleetTarget *target, bool whole_call);
extern void kr_migrate_raise_unknown(KrFleetTarget *target);
extern void kr_migrate_raise_ended_transaction(KrFleetTarget *target);
extern void kr_migrate_raise_rolled_back(KrFleetTarget *target);
extern void kr_migrate_raise_unsafe(KrFleetTarget *target);

/* True: it rests and is begun again; or its record is not there yet. */
extern bool kr_migrate_excuse(KrFleetTarget *target, const KrFleetStep *step);

#endif							/* KR_MIGRATE_TARGET_H */

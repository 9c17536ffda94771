/*
 * kr_migrate.h
 *	  Migrations of one blueprint on many targets: what the files of src/migrate
 *	  that begin with kr_migrate share.
 *
 * A target is a schema of a data source. Its own record (kessel_agent.migrations)
 * is the truth about what it has.
 */
#ifndef KR_MIGRATE_H
#define KR_MIGRATE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "kr_fleet.h"
#include "kr_script.h"

typedef struct KrMigration
{
	int			version;
	char	   *name;
	char	   *checksum;
	char	   *script;			/* of the run's direction; NULL: there is none */
	bool		transactional;
	bool		is_split;
	List	   *statements;		/* of KrScriptStatement */
} KrMigration;

/* What a call does; everything in the fleet's memory. */
typedef struct KrMigrateProgram
{
	KrFleetProgram base;		/* first */
	MemoryContext cxt;
	char	   *run_id;
	char	   *blueprint;
	bool		down;
	int			to_version;
	bool		dry_run;
	int64		lock_timeout_ms;	/* 0: none */
	int			lock_retries;
	KrMigration *migrations;	/* all of the blueprint, by version */
	int			nmigrations;
	List	   *install;		/* statements that make the record, of KrScriptStatement */
	char	   *owner_check;	/* the statement that keeps it from what others have made */
	char	   *row_safety;		/* what tells why tenants could see each other's rows */
	pg_uuid_t  *sources;		/* of each target */
	char	  **schemas;
} KrMigrateProgram;

typedef enum KrMigrateState
{
	KR_MIGRATE_APPLIED,
	KR_MIGRATE_APPLYING,		/* cut off outside of a transaction, or under way */
	KR_MIGRATE_REVERTING
} KrMigrateState;

/* A line of the target's record. */
typedef struct KrMigrateRecord
{
	int			version;
	char	   *name;
	char	   *checksum;
	KrMigrateState state;
	int			statements_done;
} KrMigrateRecord;

/* A migration that is to be run in a target. */
typedef struct KrMigrateTask
{
	KrMigration *migration;
	int			first;			/* the statement with which it begins, from 0 */
	bool		resumes;		/* somebody was cut off at that one */
	int			tag;			/* of its first statement; it has one for each, and one more */
	int			version;		/* of the target, when it is done */
} KrMigrateTask;

/* What was sent last. */
typedef enum KrMigrateTrip
{
	KR_TRIP_READ,				/* the record */
	KR_TRIP_INSTALL,			/* the record's table is made */
	KR_TRIP_WORK,				/* statements in a transaction */
	KR_TRIP_COMMIT,
	KR_TRIP_ALONE_BEGIN,		/* lock and record of a migration outside of one */
	KR_TRIP_ALONE_LOOK,			/* for the index that its statement makes */
	KR_TRIP_ALONE_DROP,			/* what is left of that index */
	KR_TRIP_ALONE_RUN,			/* its statement */
	KR_TRIP_ALONE_NOTE,			/* that it is done */
	KR_TRIP_ALONE_END,			/* that all are */
	KR_TRIP_RESET				/* the session */
} KrMigrateTrip;

/* Of a target; in its memory. */
typedef struct KrMigrateWork
{
	const KrMigrateProgram *program;
	const char *schema;
	const char *runtime;		/* the runtime role's name; NULL: there is none */
	const char *shared_tables;	/* of row isolation: those meant for all tenants, as jsonb */
	int			attempts;
	KrMigrateTrip trip;
	bool		has_schema;
	bool		lacks_table;	/* of the record */
	bool		installed;
	KrMigrateRecord *records;	/* by version */
	int			nrecords;
	int			max_records;
	KrMigrateTask *tasks;
	int			ntasks;
	int			task;			/* where it is */
	int			statement;		/* of that task's, the next to be sent */
	bool		in_transaction;
	char	   *index;			/* an invalid one, quoted */
	bool		index_is_there;
	bool		read;			/* the versions below are known */
	int			from_version;
	int			version;
	int			applied;
	int			pending;		/* that are done but for the commit */
	int			pending_version;
	bool		rests;
	bool		unknown;
	bool		ran;			/* something of a migration was sent */
	bool		was_reset;
	int			line;			/* of the script, in which the error is; 0: not known */
	int			nunsafe;		/* reasons why tenants could see each other's rows */
	const char *unsafe;			/* the first of them, in lines; NULL: there are none */
	const char *locked;			/* a statement that has not had a lock; NULL: none */
	int			nholders;
	const char *holders;		/* who has had one on its tables when it was tried again, in lines */
} KrMigrateWork;

static inline KrMigrateWork *
kr_migrate_work(const KrFleetTarget *target)
{
	return target->work;
}

/* ---------- kr_migrate_plan.c ---------- */

/* One more line of the record, as it came. */
extern void kr_migrate_add_record(KrMigrateWork *work, const PGresult *row);

/*
 * What is to be done, from what was read. Raises KR014 where the record disagrees
 * with what is known here, KR005 where there is no such schema, 0A000 for a
 * migration that has no script of this direction.
 */
extern void kr_migrate_raise_plan(KrFleetTarget *target);

/* What the record will say once the current task is done, or begun. */
extern void kr_migrate_note_done(KrMigrateWork *work);
extern void kr_migrate_note_begun(KrMigrateWork *work);

/* What is done is committed; or, in a dry run, was taken back. */
extern void kr_migrate_note_committed(KrMigrateWork *work);

/* As kr_migrate_queue.c asks the target's record to look. */
extern char *kr_migrate_signature(const KrMigrateWork *work);

/* ---------- kr_migrate_target.c ---------- */

/* Fill in the program's functions. */
extern void kr_migrate_make_program(KrMigrateProgram *program);

/* ---------- kr_migrate_error.c ---------- */

/*
 * Where the target is or was: false where at no migration. statement counts from 1;
 * 0: at none, and line is 0.
 */
extern bool kr_migrate_place(const KrFleetTarget *target, const KrMigration **migration,
							 int *statement, int *line);

#endif							/* KR_MIGRATE_H */

/*
 * kr_migrate_plan.c
 *	  What a target has, by its own record, and what is therefore to be done.
 *
 * A target's version is that of the last migration that is applied there. At most
 * one, the one above it, is half done: one outside of a transaction that is under
 * way or was cut off. Up, it is gone on with after the statements that are done;
 * one whose way down was cut off begins anew. Down, the same the other way round.
 */
#include "postgres.h"

#include "kr_error.h"
#include "kr_migrate.h"

/* ---------- the record ---------- */

static KrMigrateState
state_of_text(const char *text)
{
	if (strcmp(text, "applying") == 0)
		return KR_MIGRATE_APPLYING;
	if (strcmp(text, "reverting") == 0)
		return KR_MIGRATE_REVERTING;
	return KR_MIGRATE_APPLIED;
}

static KrMigrateRecord *
new_record(KrMigrateWork *work)
{
	if (work->nrecords == work->max_records)
	{
		work->max_records = Max(16, work->max_records * 2);
		work->records = work->records == NULL ?
			palloc(work->max_records * sizeof(KrMigrateRecord)) :
			repalloc(work->records, work->max_records * sizeof(KrMigrateRecord));
	}
	return &work->records[work->nrecords++];
}

/* A target can send anything; what is longer is none that is known here. */
static char *
short_text(const char *text)
{
	return kr_remote_clean_text(pnstrdup(text, 200));
}

void
kr_migrate_add_record(KrMigrateWork *work, const PGresult *row)
{
	KrMigrateRecord *record;

	/* One more than there are migrations is enough to tell that they disagree. */
	if (work->nrecords > work->program->nmigrations)
		return;
	record = new_record(work);
	record->version = atoi(PQgetvalue(row, 0, 0));
	record->name = short_text(PQgetvalue(row, 0, 1));
	record->checksum = short_text(PQgetvalue(row, 0, 2));
	record->state = state_of_text(PQgetvalue(row, 0, 3));
	record->statements_done = Max(0, atoi(PQgetvalue(row, 0, 4)));
}

static const char *
state_text(KrMigrateState state)
{
	return state == KR_MIGRATE_APPLIED ? "applied" :
		state == KR_MIGRATE_APPLYING ? "applying" : "reverting";
}

char *
kr_migrate_signature(const KrMigrateWork *work)
{
	const KrMigrateRecord *last = work->nrecords > 0 ? &work->records[work->nrecords - 1] : NULL;

	if (last == NULL)
		return pstrdup("0");
	return psprintf("%d %d %s %d", work->nrecords, last->version, state_text(last->state),
					last->state == KR_MIGRATE_APPLIED ? 0 : last->statements_done);
}

static KrMigrateRecord *
find_record(const KrMigrateWork *work, int version)
{
	for (int i = work->nrecords - 1; i >= 0 && work->records[i].version >= version; i--)
	{
		if (work->records[i].version == version)
			return &work->records[i];
	}
	return NULL;
}

/* A task's first step or its last are recorded: the record's end is what changes. */
static void
set_state(KrMigrateWork *work, KrMigrateState state)
{
	const KrMigrateTask *task = &work->tasks[work->task];
	KrMigrateRecord *record = find_record(work, task->migration->version);

	if (record == NULL)
	{
		record = new_record(work);
		record->version = task->migration->version;
		record->name = task->migration->name;
		record->checksum = task->migration->checksum;
	}
	record->state = state;
	record->statements_done = state == KR_MIGRATE_APPLIED ? 0 : task->first;
}

void
kr_migrate_note_begun(KrMigrateWork *work)
{
	set_state(work, work->program->down ? KR_MIGRATE_REVERTING : KR_MIGRATE_APPLYING);
}

void
kr_migrate_note_done(KrMigrateWork *work)
{
	if (!work->program->down)
		set_state(work, KR_MIGRATE_APPLIED);
	else if (work->nrecords > 0)
		work->nrecords--;
	work->pending_version = work->tasks[work->task].version;
	work->pending++;
}

void
kr_migrate_note_committed(KrMigrateWork *work)
{
	if (work->pending > 0)
		work->version = work->pending_version;
	work->applied += work->pending;
	work->pending = 0;
}

/* ---------- what is wrong with it ---------- */

static const char *
place_of(const KrFleetTarget *target)
{
	return psprintf("schema \"%s\" of data source \"%s\"", kr_migrate_work(target)->schema,
					target->source->name);
}

static int
compare_version(const void *key, const void *migration)
{
	int			version = *(const int *) key;
	int			other = ((const KrMigration *) migration)->version;

	return (version > other) - (version < other);
}

static KrMigration *
find_migration(const KrMigrateProgram *program, int version)
{
	return bsearch(&version, program->migrations, program->nmigrations, sizeof(KrMigration), compare_version);
}

/* A record of each migration that is known here, in their order, and of no other. */
static void
check_records(const KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateProgram *program = work->program;

	for (int i = 0; i < work->nrecords; i++)
	{
		const KrMigrateRecord *record = &work->records[i];
		const KrMigration *known = find_migration(program, record->version);

		if (known == NULL)
			ereport(ERROR,
					(errcode(KR_ERR_MIGRATION_UNKNOWN),
					 errmsg("%s has migration \"%s\" of blueprint \"%s\", which is not known here",
							place_of(target), record->name, program->blueprint),
					 errhint("Load the blueprint as it was when that was migrated, with kessel.add_migration().")));
		if (strcmp(known->checksum, record->checksum) != 0 || strcmp(known->name, record->name) != 0)
			ereport(ERROR,
					(errcode(KR_ERR_MIGRATION_UNKNOWN),
					 errmsg("%s has another migration %d of blueprint \"%s\" than is known here",
							place_of(target), record->version, program->blueprint),
					 errdetail("There it is \"%s\" with the checksum %s, here \"%s\" with %s.",
							   record->name, record->checksum, known->name, known->checksum),
					 errhint("Load the blueprint as it was when that was migrated, or mend the target and its record kessel_agent.migrations.")));
		if (i > 0 && record->version <= work->records[i - 1].version)
			ereport(ERROR,
					(errcode(KR_ERR_MIGRATION_UNKNOWN),
					 errmsg("%s has migration %d of blueprint \"%s\" twice, or not in its place",
							place_of(target), record->version, program->blueprint),
					 errhint("Mend the target's record kessel_agent.migrations.")));
		if (program->migrations[i].version != record->version)
			ereport(ERROR,
					(errcode(KR_ERR_MIGRATION_UNKNOWN),
					 errmsg("%s has migration %d of blueprint \"%s\", but not %d, which comes before it",
							place_of(target), record->version, program->blueprint,
							program->migrations[i].version),
					 errhint("Mend the target and its record kessel_agent.migrations.")));
		if (record->state != KR_MIGRATE_APPLIED && i < work->nrecords - 1)
			ereport(ERROR,
					(errcode(KR_ERR_MIGRATION_UNKNOWN),
					 errmsg("%s has half of migration %d of blueprint \"%s\", and others after it",
							place_of(target), record->version, program->blueprint),
					 errhint("Mend the target and its record kessel_agent.migrations.")));
	}
}

/* ---------- what is to be done ---------- */

static void
split(const KrMigrateProgram *program, KrMigration *migration)
{
	MemoryContext before;

	if (migration->is_split)
		return;
	before = MemoryContextSwitchTo(program->cxt);
	migration->statements = kr_script_split(migration->script);
	migration->is_split = true;
	MemoryContextSwitchTo(before);
}

static void
add_task(KrFleetTarget *target, KrMigration *migration, int version)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateProgram *program = work->program;
	const KrMigrateRecord *record = find_record(work, migration->version);
	const KrMigrateTask *last = work->ntasks > 0 ? &work->tasks[work->ntasks - 1] : NULL;
	KrMigrateTask *task = &work->tasks[work->ntasks++];
	bool		half_done = record != NULL &&
		record->state == (program->down ? KR_MIGRATE_REVERTING : KR_MIGRATE_APPLYING);

	if (migration->script == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("migration \"%s\" of blueprint \"%s\" has no way down", migration->name, program->blueprint),
				 errdetail("Nothing was changed in %s.", place_of(target)),
				 errhint("Roll back to version %d at the lowest, or write its down script.", migration->version)));
	if (!migration->transactional && target->source->transaction_pooler)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("migration \"%s\" of blueprint \"%s\" cannot run through a pooler that works by transaction",
						migration->name, program->blueprint),
				 errdetail("It runs outside of a transaction, and the lock against others is one of the session's."),
				 errhint("Migrate the data source on the way past the pooler.")));
	split(program, migration);
	task->migration = migration;
	task->version = version;
	task->tag = last ? last->tag + list_length(last->migration->statements) + 1 : 1;
	task->resumes = half_done;
	task->first = half_done ? Min(record->statements_done, list_length(migration->statements)) : 0;
}

static void
plan_up(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateProgram *program = work->program;

	for (int i = 0; i < program->nmigrations; i++)
	{
		KrMigration *migration = &program->migrations[i];

		if (migration->version > work->version && migration->version <= program->to_version)
			add_task(target, migration, migration->version);
	}
}

static void
plan_down(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateProgram *program = work->program;

	for (int i = work->nrecords - 1; i >= 0; i--)
	{
		int			version = work->records[i].version;

		if (version > program->to_version)
			add_task(target, find_migration(program, version), i > 0 ? work->records[i - 1].version : 0);
	}
}

void
kr_migrate_raise_plan(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateProgram *program = work->program;
	int			napplied = work->nrecords;

	if (!work->has_schema)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" has no schema \"%s\"", target->source->name, work->schema),
				 errhint("Make it there, or correct what the data source's option schema or the tenant's tenant_id_in_data_source says.")));
	check_records(target);
	if (napplied > 0 && work->records[napplied - 1].state != KR_MIGRATE_APPLIED)
		napplied--;
	work->version = napplied > 0 ? work->records[napplied - 1].version : 0;
	if (!work->read)
		work->from_version = work->version;
	work->read = true;
	work->task = work->statement = work->ntasks = 0;
	work->tasks = palloc0(sizeof(KrMigrateTask) * Max(program->nmigrations, 1));
	if (program->down)
		plan_down(target);
	else
		plan_up(target);
	/* Outside of a transaction there is nothing to be tried and taken back. */
	for (int i = 0; program->dry_run && i < work->ntasks; i++)
	{
		if (!work->tasks[i].migration->transactional)
			work->ntasks = i;
	}
}

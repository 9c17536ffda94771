/*
 * kr_migrate_error.c
 *	  Where a target is in its migrations, and what is said when something goes wrong
 *	  there.
 *
 * Functions named raise are called in a subtransaction of the target's; what they
 * raise is told of it, and nothing else ends. Whoever was only in the way, with a
 * lock or at the same row, is excused: the target rests, and begins again with
 * reading its record. Then those are looked for who have the lock, to be named
 * should it not be had again.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "mb/pg_wchar.h"

#include "kr_error.h"
#include "kr_migrate_target.h"

#define FIRST_REST_MS 500
#define LONGEST_REST_MS 30000

/* ---------- where it is ---------- */

/* The task that a tag belongs to; NULL: none. */
static const KrMigrateTask *
task_of_tag(const KrMigrateWork *work, int tag)
{
	for (int i = work->ntasks - 1; i >= 0; i--)
	{
		if (tag > 0 && work->tasks[i].tag <= tag)
			return &work->tasks[i];
	}
	return NULL;
}

/* The statement that a tag belongs to; NULL: none. */
static const KrScriptStatement *
statement_of_tag(const KrMigrateWork *work, int tag)
{
	const KrMigrateTask *task = task_of_tag(work, tag);

	/* The one after the last stands for the record's line. */
	if (task == NULL || tag - task->tag >= list_length(task->migration->statements))
		return NULL;
	return list_nth(task->migration->statements, tag - task->tag);
}

bool
kr_migrate_place(const KrFleetTarget *target, const KrMigration **migration,
				 int *statement, int *line)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const KrFleetStep *step = kr_fleet_current_step(target);
	int			tag = step ? step->tag : KR_TAG_OTHER;
	const KrScriptStatement *at = work ? statement_of_tag(work, tag) : NULL;
	const KrMigrateTask *task = work ? task_of_tag(work, tag) : NULL;

	if (task == NULL)
		return false;
	*migration = task->migration;
	*statement = at ? tag - task->tag + 1 : 0;
	*line = at == NULL ? 0 : work->line > 0 ? work->line : at->line;
	return true;
}

/* ---------- errors ---------- */

/* The line of the script in which an error's position is. */
static int
line_of_error(const KrMigrateWork *work, const KrScriptStatement *statement, const PGresult *result)
{
	const char *text = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION);
	int			position = text ? atoi(text) : 0;
	const char *at = position > 1 ? kr_script_place(statement->sql, work->schema, work->runtime) : "";
	int			line = statement->line;

	for (; --position > 0 && *at != '\0'; at += pg_mblen(at))
		line += *at == '\n';
	return line;
}

static bool
is_state(const PGresult *result, const char *state)
{
	const char *is = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return is != NULL && strcmp(is, state) == 0;
}

/* Its message names no table, and nobody who has the lock. */
static void
raise_not_had(KrFleetTarget *target)
{
	const char *message = PQresultErrorField(target->result, PG_DIAG_MESSAGE_PRIMARY);

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("%s", kr_remote_clean_text(message ? message : "")),
			 errdetail("%s", kr_migrate_work(target)->holders),
			 errhint("That was when this attempt began. Wait for who is in the way, or end it there with pg_terminate_backend().")));
}

void
kr_migrate_raise_result(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrFleetStep *step = kr_fleet_current_step(target);
	const KrScriptStatement *statement = step ? statement_of_tag(work, step->tag) : NULL;

	if (statement != NULL)
		work->line = line_of_error(work, statement, target->result);
	if (statement != NULL && is_state(target->result, "55P03"))
	{
		work->locked = statement->sql;
		if (work->holders != NULL)
			raise_not_had(target);
	}
	kr_remote_raise_result(target->result, target->source->name, NULL, NULL, false);
}

void
kr_migrate_raise_unknown(KrFleetTarget *target)
{
	kr_migrate_work(target)->unknown = true;
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("data source \"%s\" has not answered the commit", target->source->name),
			 errdetail("Whether schema \"%s\" was migrated is unknown.", kr_migrate_work(target)->schema),
			 errhint("Run it again: the target's own record tells, and what is done is not done twice.")));
}

void
kr_migrate_raise_ended_transaction(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("a statement has ended the transaction of the migration"),
			 errdetail("What it did in it may be committed.")));
}

void
kr_migrate_raise_unsafe(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(KR_ERR_UNSAFE_SOURCE),
			 errmsg("data source \"%s\" would not be safe for row isolation", target->source->name),
			 errdetail("%s", kr_migrate_work(target)->unsafe),
			 errhint("Protect each table that the migration makes with kessel_agent.protect('table'). "
					 "Tables that are meant for all tenants go into the data source's option shared_tables.")));
}

void
kr_migrate_raise_rolled_back(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_ROLLBACK),
			 errmsg("data source \"%s\" rolled the transaction back", target->source->name)));
}

static bool
is_alone(const KrMigrateWork *work)
{
	return work->trip >= KR_TRIP_ALONE_BEGIN && work->trip <= KR_TRIP_ALONE_END;
}

void
kr_migrate_raise_lost(KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to data source \"%s\" was lost", target->source->name),
			 errdetail("%s", kr_remote_clean_text(PQerrorMessage(target->pg))),
			 is_alone(work) ?
			 errhint("What is done of migration \"%s\" stays. Run it again: it goes on with the first statement that the target's record does not have as done.",
					 kr_migrate_task(work)->migration->name) :
			 errhint("What was not committed is taken back. Run it again.")));
}

void
kr_migrate_raise_late(KrFleetTarget *target, bool whole_call)
{
	const KrMigrateWork *work = kr_migrate_work(target);

	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("schema \"%s\" of data source \"%s\" was not done within " INT64_FORMAT " ms",
					work->schema, target->source->name, target->program->timeout_ms),
			 is_alone(work) ?
			 errdetail("It was cancelled. What is done of migration \"%s\" stays, and the next run goes on with it.",
					   kr_migrate_task(work)->migration->name) :
			 errdetail("It was cancelled, and what had not been committed was taken back.")));
}

/* ---------- who was in the way ---------- */

static bool
is_passing(const PGresult *result)
{
	return is_state(result, "55P03") || is_state(result, "40P01") || is_state(result, "40001");
}

/* Doubled with each attempt, and not for all the same. */
static int64
rest_ms(int attempts)
{
	int64		ms = attempts > 7 ? LONGEST_REST_MS : Min(LONGEST_REST_MS, FIRST_REST_MS << (attempts - 1));

	return (int64) (ms * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

bool
kr_migrate_excuse(KrFleetTarget *target, const KrFleetStep *step)
{
	KrMigrateWork *work = kr_migrate_work(target);

	if (step->tag == KR_TAG_RECORD && work->trip == KR_TRIP_READ && !work->installed &&
		(is_state(target->result, "42P01") || is_state(target->result, "3F000")))
	{
		work->lacks_table = true;
		return true;
	}
	if (target->concluded || !is_passing(target->result) || work->attempts > work->program->lock_retries)
		return false;
	target->commits = work->installed = false;
	work->rests = true;
	kr_fleet_rest(target, kr_fleet_error(target, kr_migrate_raise_result), rest_ms(work->attempts));
	return true;
}

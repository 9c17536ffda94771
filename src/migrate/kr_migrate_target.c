/*
 * kr_migrate_target.c
 *	  The program that brings a target to a version.
 *
 * One trip reads the target's record; where it is there already, that is all.
 *
 * Migrations that may be in a transaction run in one, as many as follow each other:
 * a lock that two runs cannot both have, a look whether the record is still as it
 * was read, their statements, each a command of its own and some 64 kB a trip, and
 * with each migration its line of the record. COMMIT is sent when all of that is
 * answered. So what is cut off before has changed nothing, and what is cut off
 * later is reported as unknown (08007).
 *
 * One that may not be in a transaction has its line of the record first, then each
 * statement alone, and after each the record says so. Who goes on with it begins
 * with the first statement that the record does not have as done. That one may have
 * been done, in part or as a whole: an index made with CREATE INDEX CONCURRENTLY is
 * looked for, and dropped first where it is not valid; other statements are run
 * again.
 *
 * A lock that is not had in time, a deadlock and the like: the target rests, and
 * begins again with reading the record. Nothing is kept of a session in which an
 * error has happened; one in which scripts have run is reset before it is used
 * again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_error.h"
#include "kr_migrate.h"
#include "kr_spi.h"

/* Tags of steps that are no statement of a migration; those of migrations are > 0. */
enum
{
	TAG_OTHER = 0, TAG_SCHEMA = -1, TAG_RECORD = -2, TAG_COMMIT = -3, TAG_ROLLBACK = -4, TAG_INDEX = -5, TAG_SAFETY = -6
};

/* What is queued in a trip, roughly. */
#define TRIP_BYTES (64 * 1024)
#define TRIP_STATEMENTS 500

#define RESET_MS 5000

#define FIRST_REST_MS 500
#define LONGEST_REST_MS 30000

/* ---------- where it is ---------- */

static const KrMigrateTask *
task_of(const KrMigrateWork *work)
{
	return &work->tasks[work->task];
}

static const KrScriptStatement *
statement_of(const KrMigrateWork *work)
{
	return list_nth(task_of(work)->migration->statements, work->statement);
}

static int
statement_tag(const KrMigrateWork *work)
{
	return task_of(work)->tag + work->statement;
}

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
	int			tag = step ? step->tag : TAG_OTHER;
	const KrScriptStatement *at = work ? statement_of_tag(work, tag) : NULL;
	const KrMigrateTask *task = work ? task_of_tag(work, tag) : NULL;

	if (task == NULL)
		return false;
	*migration = task->migration;
	*statement = at ? tag - task->tag + 1 : 0;
	*line = at == NULL ? 0 : work->line > 0 ? work->line : at->line;
	return true;
}

/* ---------- whose turn ---------- */

static void
read_source(KrMigrateWork *work, const pg_uuid_t *source_id)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID};
	MemoryContext cxt = CurrentMemoryContext;
	Datum		value = UUIDPGetDatum(source_id);
	KrSpi		spi;

	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT coalesce(s.options -> 'shared_tables', '[]')::text, c.username FROM app.data_sources s "
				"LEFT JOIN app.data_source_credentials c ON c.data_source_id = s.id AND c.purpose = 'runtime' "
				"WHERE s.id = $1",
				1, argtypes, &value);
	if (SPI_processed == 1)
	{
		work->shared_tables = kr_spi_text(0, 1, cxt);
		work->runtime = kr_spi_text(0, 2, cxt);
	}
	kr_spi_end(&spi);
}

static void
raise_resolve(KrFleetTarget *target)
{
	const KrMigrateProgram *program = (const KrMigrateProgram *) target->program;
	const pg_uuid_t *id = &program->sources[target->index];
	KrMigrateWork *work = palloc0(sizeof(KrMigrateWork));
	const KrSource *source;

	work->program = program;
	work->schema = program->schemas[target->index];
	work->attempts = 1;
	target->work = work;
	target->label = work->schema;
	source = kr_source_by_id(id, "owner");
	if (!source->active)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" is disabled", source->name),
				 errhint("An administrator can call kessel.alter_data_source() with status => 'active'.")));
	target->source = kr_source_copy(source);
	target->label = target->source->name;
	read_source(work, id);
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

static void
raise_result(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrFleetStep *step = kr_fleet_current_step(target);
	const KrScriptStatement *statement = step ? statement_of_tag(work, step->tag) : NULL;

	if (statement != NULL)
		work->line = line_of_error(work, statement, target->result);
	kr_remote_raise_result(target->result, target->source->name, NULL, NULL, false);
}

static void
raise_unknown(KrFleetTarget *target)
{
	kr_migrate_work(target)->unknown = true;
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("data source \"%s\" has not answered the commit", target->source->name),
			 errdetail("Whether schema \"%s\" was migrated is unknown.", kr_migrate_work(target)->schema),
			 errhint("Run it again: the target's own record tells, and what is done is not done twice.")));
}

static void
raise_ended_transaction(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("a statement has ended the transaction of the migration"),
			 errdetail("What it did in it may be committed.")));
}

static void
raise_unsafe(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(KR_ERR_UNSAFE_SOURCE),
			 errmsg("data source \"%s\" would not be safe for row isolation", target->source->name),
			 errdetail("%s", kr_migrate_work(target)->unsafe),
			 errhint("Protect each table that the migration makes with kessel_agent.protect('table'). "
					 "Tables that are meant for all tenants go into the data source's option shared_tables.")));
}

static void
raise_rolled_back(KrFleetTarget *target)
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

static void
raise_lost(KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to data source \"%s\" was lost", target->source->name),
			 errdetail("%s", kr_remote_clean_text(PQerrorMessage(target->pg))),
			 is_alone(work) ?
			 errhint("What is done of migration \"%s\" stays. Run it again: it goes on with the first statement that the target's record does not have as done.",
					 task_of(work)->migration->name) :
			 errhint("What was not committed is taken back. Run it again.")));
}

static void
raise_late(KrFleetTarget *target, bool whole_call)
{
	const KrMigrateWork *work = kr_migrate_work(target);

	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("schema \"%s\" of data source \"%s\" was not done within " INT64_FORMAT " ms",
					work->schema, target->source->name, target->program->timeout_ms),
			 is_alone(work) ?
			 errdetail("It was cancelled. What is done of migration \"%s\" stays, and the next run goes on with it.",
					   task_of(work)->migration->name) :
			 errdetail("It was cancelled, and what had not been committed was taken back.")));
}

/* Somebody else was in the way. */
static bool
is_passing(const PGresult *result)
{
	static const char *const states[] = {"55P03", "40P01", "40001"};
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	for (int i = 0; state != NULL && i < lengthof(states); i++)
	{
		if (strcmp(state, states[i]) == 0)
			return true;
	}
	return false;
}

/* Doubled with each attempt, and not for all the same. */
static int64
rest_ms(int attempts)
{
	int64		ms = attempts > 7 ? LONGEST_REST_MS : Min(LONGEST_REST_MS, FIRST_REST_MS << (attempts - 1));

	return (int64) (ms * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

static bool
excuse(KrFleetTarget *target, const KrFleetStep *step)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const char *state = PQresultErrorField(target->result, PG_DIAG_SQLSTATE);

	if (step->tag == TAG_RECORD && work->trip == KR_TRIP_READ && !work->installed && state != NULL &&
		(strcmp(state, "42P01") == 0 || strcmp(state, "3F000") == 0))
	{
		work->lacks_table = true;
		return true;
	}
	if (target->concluded || !is_passing(target->result) || work->attempts > work->program->lock_retries)
		return false;
	target->commits = work->installed = false;
	work->rests = true;
	kr_fleet_rest(target, kr_fleet_error(target, raise_result), rest_ms(work->attempts));
	return true;
}

/* ---------- sending ---------- */

static void
command(KrFleetTarget *target, int tag, const char *sql, int nparams, const char *const *values)
{
	kr_fleet_queue(target, KR_FLEET_COMMAND, tag, sql, nparams, values);
}

/* A little less than there is left: who is late there says where. 0: no limit. */
static int64
time_left(const KrFleetTarget *target)
{
	int64		left;

	if (target->deadline == 0)
		return 0;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), target->deadline);
	return Max(1, left - Min(500, left / 10));
}

/*
 * Should nobody hear from us any more, it ends by itself. For the transaction, or
 * for the session. What is ours is looked up in pg_catalog.
 */
static void
queue_limits(KrFleetTarget *target, bool is_local)
{
	const KrMigrateProgram *program = kr_migrate_work(target)->program;
	const char *values[4];

	values[0] = psprintf(INT64_FORMAT, time_left(target));
	values[1] = psprintf(INT64_FORMAT, program->lock_timeout_ms);
	values[2] = psprintf("kessel_router %d %s", MyProcPid, program->blueprint);
	values[3] = is_local ? "true" : "false";
	command(target, TAG_OTHER,
			"SELECT pg_catalog.set_config('search_path', 'pg_catalog', $4::pg_catalog.bool), "
			"pg_catalog.set_config('statement_timeout', $1, $4::pg_catalog.bool), "
			"pg_catalog.set_config('idle_in_transaction_session_timeout', $1, $4::pg_catalog.bool), "
			"pg_catalog.set_config('lock_timeout', $2, $4::pg_catalog.bool), "
			"pg_catalog.set_config('application_name', $3, $4::pg_catalog.bool)",
			4, values);
}

/* As each migration finds it, whatever the one before has set. */
static void
queue_context(KrFleetTarget *target, bool is_local)
{
	const char *values[3];

	values[0] = psprintf("%s, pg_temp", quote_identifier(kr_migrate_work(target)->schema));
	values[1] = is_local ? "true" : "false";
	values[2] = kr_isolation_name(target->source->isolation);
	command(target, TAG_OTHER,
			"SELECT pg_catalog.set_config('search_path', $1, $2::pg_catalog.bool), "
			"pg_catalog.set_config('standard_conforming_strings', 'on', $2::pg_catalog.bool), "
			"pg_catalog.set_config('check_function_bodies', 'on', $2::pg_catalog.bool), "
			"pg_catalog.set_config('kessel_agent.isolation', $3, $2::pg_catalog.bool)",
			3, values);
}

/*
 * Could tenants who share the tables see each other's rows, once this is committed?
 * What runs outside of a transaction is not asked for: kessel.test_data_source() tells.
 */
static void
queue_safety(KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const char *values[2] = {work->shared_tables, work->runtime};

	if (target->source->isolation != KR_ISOLATION_ROW || work->runtime == NULL)
		return;
	command(target, TAG_OTHER, "SET LOCAL search_path = pg_catalog, pg_temp", 0, NULL);
	command(target, TAG_SAFETY, work->program->row_safety, 2, values);
}

static void
take_safety(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const char *reason = PQnfields(target->result) == 1 ?
		kr_remote_clean_text(PQgetvalue(target->result, 0, 0)) : "It has answered something else than was asked.";

	if (work->nunsafe++ < 20)
		work->unsafe = work->unsafe ? psprintf("%s\n%s", work->unsafe, reason) : reason;
}

/*
 * A lock on the schema, then a look: a record that has changed since it was read is
 * read again. Both as errors there, so that what follows in the trip is not run.
 */
static void
queue_lock(KrFleetTarget *target, bool of_session)
{
	KrMigrateWork *work = kr_migrate_work(target);
	char	   *schema = quote_literal_cstr(work->schema);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "BEGIN IF NOT %s(hashtextextended('kessel_router ' || %s, 0)) THEN "
					 "RAISE EXCEPTION 'another session migrates schema \"%%\"', %s USING ERRCODE = '55P03'; END IF; ",
					 of_session ? "pg_try_advisory_lock" : "pg_try_advisory_xact_lock", schema, schema);
	if (!work->lacks_table)
		appendStringInfo(&sql,
						 "IF (SELECT CASE count(*) WHEN 0 THEN '0' ELSE format('%%s %%s %%s', count(*), max(version), "
						 "(array_agg(format('%%s %%s', state, CASE state WHEN 'applied' THEN 0 ELSE statements_done END) ORDER BY version DESC))[1]) END "
						 "FROM kessel_agent.migrations WHERE schema_name = %s AND blueprint = %s) <> %s THEN "
						 "RAISE EXCEPTION 'schema \"%%\" has been migrated by another session', %s USING ERRCODE = '40001'; END IF; ",
						 schema, quote_literal_cstr(work->program->blueprint),
						 quote_literal_cstr(kr_migrate_signature(work)), schema);
	appendStringInfoString(&sql, "END");
	command(target, TAG_OTHER, psprintf("DO %s", quote_literal_cstr(sql.data)), 0, NULL);
}

/* The current task's line of the record. */
static void
queue_record(KrFleetTarget *target, const char *state, int statements_done)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const KrMigration *migration = task_of(work)->migration;
	int			tag = task_of(work)->tag + list_length(migration->statements);
	const char *values[8];

	if (work->lacks_table)
		return;
	values[0] = work->schema;
	values[1] = work->program->blueprint;
	values[2] = psprintf("%d", migration->version);
	if (state == NULL)
	{
		command(target, tag,
				"DELETE FROM kessel_agent.migrations WHERE schema_name OPERATOR(pg_catalog.=) $1::pg_catalog.name "
				"AND blueprint OPERATOR(pg_catalog.=) $2::pg_catalog.text AND version OPERATOR(pg_catalog.=) $3::pg_catalog.int4",
				3, values);
		return;
	}
	values[3] = migration->name;
	values[4] = migration->checksum;
	values[5] = state;
	values[6] = psprintf("%d", statements_done);
	values[7] = work->program->run_id;
	command(target, tag,
			"INSERT INTO kessel_agent.migrations AS m (schema_name, blueprint, version, name, checksum, state, statements_done, run_id, applied_at) "
			"VALUES ($1::pg_catalog.name, $2::pg_catalog.text, $3::pg_catalog.int4, $4, $5, $6::pg_catalog.text, $7, $8, "
			"CASE $6::pg_catalog.text WHEN 'applied' THEN pg_catalog.clock_timestamp() END) "
			"ON CONFLICT (schema_name, blueprint, version) DO UPDATE SET state = excluded.state, "
			"statements_done = excluded.statements_done, run_id = excluded.run_id, applied_at = excluded.applied_at",
			8, values);
}

typedef struct Place
{
	const KrScriptStatement *statement;
	const KrMigrateWork *work;
	char	   *sql;
} Place;

static void
place_names(void *arg)
{
	Place	   *place = arg;

	place->sql = kr_script_place(place->statement->sql, place->work->schema, place->work->runtime);
}

/* How many bytes that was; 0: it could not be sent, and the target has failed. */
static int
queue_statement(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	Place		place = {.statement = statement_of(work),.work = work};
	bool		has_names = strstr(place.statement->sql, "\"@") != NULL;
	ErrorData  *error = NULL;

	if (has_names)
		error = kr_fleet_try(place_names, &place, target->cxt, false);
	if (error != NULL)
	{
		kr_fleet_fail(target, error);
		return 0;
	}
	work->ran = true;
	kr_fleet_queue(target, KR_FLEET_ROWS_DROPPED, statement_tag(work),
				   has_names ? place.sql : place.statement->sql, 0, NULL);
	if (has_names)
		pfree(place.sql);
	return strlen(place.statement->sql) + 100;
}

/* ---------- reading ---------- */

static void
begin(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const char *values[2] = {work->schema, work->program->blueprint};
	const char *schema = quote_identifier(work->schema);

	work->trip = KR_TRIP_READ;
	work->attempts += work->rests;
	work->rests = false;
	work->unsafe = NULL;
	work->nunsafe = 0;
	work->nrecords = work->ntasks = work->pending = work->line = 0;
	work->has_schema = work->lacks_table = work->in_transaction = work->was_reset = work->ran = false;
	if (!target->was_spare && !target->source->transaction_pooler && !target->heard)
		kr_fleet_queue_settings(target, false);
	command(target, TAG_SCHEMA, "SELECT pg_catalog.to_regnamespace($1) IS NOT NULL", 1, &schema);
	command(target, TAG_OTHER, work->program->owner_check, 0, NULL);
	command(target, TAG_RECORD,
			"SELECT version, name, checksum, state, statements_done FROM kessel_agent.migrations "
			"WHERE schema_name OPERATOR(pg_catalog.=) $1::pg_catalog.name AND blueprint OPERATOR(pg_catalog.=) $2::pg_catalog.text "
			"ORDER BY version",
			2, values);
	kr_fleet_queue_sync(target);
}

/* The record's table is made in a transaction of its own, by one at a time. */
static void
send_install(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	ListCell   *cell;

	work->trip = KR_TRIP_INSTALL;
	work->installed = true;
	command(target, TAG_OTHER, "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", 0, NULL);
	queue_limits(target, true);
	command(target, TAG_OTHER,
			"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('kessel_router', 0))", 0, NULL);
	foreach(cell, work->program->install)
		command(target, TAG_OTHER, ((KrScriptStatement *) lfirst(cell))->sql, 0, NULL);
	command(target, TAG_OTHER, "COMMIT", 0, NULL);
	kr_fleet_queue_sync(target);
}

/* ---------- in a transaction ---------- */

/* Up to the end of what can be in it, or of what a trip can take. */
static void
queue_some(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	int			bytes = 0;
	int			count = 0;

	while (work->task < work->ntasks && task_of(work)->migration->transactional)
	{
		int			last = list_length(task_of(work)->migration->statements);

		if (work->statement == task_of(work)->first)
			queue_context(target, true);
		while (work->statement < last)
		{
			int			size = queue_statement(target);

			if (size == 0)
				return;
			bytes += size;
			work->statement++;
			if (bytes >= TRIP_BYTES || ++count >= TRIP_STATEMENTS)
				break;
		}
		if (work->statement < last)
			break;
		queue_record(target, work->program->down ? NULL : "applied", 0);
		kr_migrate_note_done(work);
		work->task++;
		work->statement = work->task < work->ntasks ? task_of(work)->first : 0;
		if (bytes >= TRIP_BYTES || ++count >= TRIP_STATEMENTS)
			break;
	}
	if (work->task >= work->ntasks || !task_of(work)->migration->transactional)
		queue_safety(target);
	kr_fleet_queue_sync(target);
}

static void
send_work(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_WORK;
	if (!work->in_transaction)
	{
		work->in_transaction = true;
		command(target, TAG_OTHER, "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", 0, NULL);
		if (target->source->transaction_pooler)
			kr_fleet_queue_settings(target, true);
		queue_limits(target, true);
		queue_lock(target, false);
	}
	queue_some(target);
}

/*
 * The session as a new one. A trip of its own: with the COMMIT it would be one more
 * reason for not hearing what has become of that. The target is done already, and
 * not kept waiting by it for long.
 */
static void
send_reset(KrFleetTarget *target)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESET_MS);
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_RESET;
	if (target->deadline == 0 || target->deadline > deadline)
		target->deadline = deadline;
	command(target, TAG_OTHER, "DISCARD ALL", 0, NULL);
	kr_fleet_queue_sync(target);
	kr_fleet_queue_settings(target, false);
}

/*
 * Behind a pooler the session is somebody else's after the commit. What a script may
 * have left in it goes while it is still ours.
 */
static void
queue_leave(KrFleetTarget *target)
{
	static const char *const leave[] = {
		"RESET SESSION AUTHORIZATION", "RESET ALL", "UNLISTEN *", "CLOSE ALL", "DISCARD TEMP",
		"SELECT pg_catalog.pg_advisory_unlock_all()"
	};

	for (int i = 0; i < lengthof(leave); i++)
		command(target, TAG_OTHER, leave[i], 0, NULL);
}

static void
send_commit(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	bool		dry_run = work->program->dry_run;

	if (PQtransactionStatus(target->pg) != PQTRANS_INTRANS)
	{
		kr_fleet_fail_with(target, raise_ended_transaction);
		return;
	}
	work->trip = KR_TRIP_COMMIT;
	if (target->source->transaction_pooler)
		queue_leave(target);
	/* What waits for the commit is to be found out, too. */
	if (dry_run)
	{
		command(target, TAG_OTHER, "SET CONSTRAINTS ALL IMMEDIATE", 0, NULL);
		command(target, TAG_ROLLBACK, "ROLLBACK", 0, NULL);
	}
	else
		command(target, TAG_COMMIT, "COMMIT", 0, NULL);
	kr_fleet_queue_sync(target);
	/* Before it is on its way: what could not be queued may be, too. */
	target->commits = !dry_run;
}

/* ---------- outside of a transaction ---------- */

static void
send_alone_begin(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_BEGIN;
	work->statement = task_of(work)->first;
	queue_limits(target, false);
	queue_lock(target, true);
	queue_record(target, work->program->down ? "reverting" : "applying", work->statement);
	queue_context(target, false);
	kr_fleet_queue_sync(target);
	work->ran = true;
	kr_migrate_note_begun(work);
}

static void
send_alone_run(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_RUN;
	if (queue_statement(target) > 0)
		kr_fleet_queue_sync(target);
}

/* Somebody was cut off with it: is the index there? */
static void
send_alone_look(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrScriptStatement *statement = statement_of(work);
	const char *schema = statement->index_schema;
	const char *values[2];

	work->trip = KR_TRIP_ALONE_LOOK;
	work->index = NULL;
	work->index_is_there = false;
	if (schema != NULL && strcmp(schema, "@tenant") == 0)
		schema = work->schema;
	values[0] = schema ? quote_qualified_identifier(schema, statement->index_table) :
		quote_identifier(statement->index_table);
	values[1] = statement->index_name;
	command(target, TAG_INDEX,
			"SELECT i.indisvalid, pg_catalog.format('%I.%I', n.nspname, c.relname) "
			"FROM pg_catalog.pg_index i "
			"JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid "
			"JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace "
			"WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid "
			"AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
			2, values);
	kr_fleet_queue_sync(target);
}

static void
take_index(KrMigrateWork *work, const PGresult *result)
{
	if (PQnfields(result) != 2)
		return;
	if (PQgetvalue(result, 0, 0)[0] == 't')
		work->index_is_there = true;
	else
		work->index = pnstrdup(PQgetvalue(result, 0, 1), 4 * NAMEDATALEN + 10);
}

static void
send_alone_drop(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_DROP;
	command(target, TAG_OTHER, psprintf("DROP INDEX CONCURRENTLY %s", work->index), 0, NULL);
	kr_fleet_queue_sync(target);
}

static void
send_alone_end(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_END;
	queue_record(target, work->program->down ? NULL : "applied", 0);
	kr_fleet_queue_sync(target);
	target->commits = true;
}

/* The statement is done. */
static void
send_alone_note(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->statement++;
	if (work->statement >= list_length(task_of(work)->migration->statements))
	{
		send_alone_end(target);
		return;
	}
	work->trip = KR_TRIP_ALONE_NOTE;
	queue_record(target, work->program->down ? "reverting" : "applying", work->statement);
	kr_fleet_queue_sync(target);
}

static void
next_alone(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateTask *task = task_of(work);

	/* Half of it is not it. */
	if (work->trip == KR_TRIP_ALONE_BEGIN && work->program->down)
		work->version = task->version;
	if (work->statement >= list_length(task->migration->statements))
		send_alone_end(target);
	else if (work->trip == KR_TRIP_ALONE_BEGIN && task->resumes && statement_of(work)->concurrent_index &&
			 statement_of(work)->index_name != NULL)
		send_alone_look(target);
	else
		send_alone_run(target);
}

/* ---------- one trip after the other ---------- */

static void
next_task(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	target->commits = work->in_transaction = false;
	kr_migrate_note_committed(work);
	if (work->task >= work->ntasks)
	{
		target->concluded = true;
		if (work->ran && !target->source->transaction_pooler)
			send_reset(target);
		else
			kr_fleet_finish(target);
	}
	else if (task_of(work)->migration->transactional)
	{
		work->statement = task_of(work)->first;
		send_work(target);
	}
	else
		send_alone_begin(target);
}

/* The record was read, or is not there. */
static void
plan(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	ErrorData  *error = kr_fleet_error(target, kr_migrate_raise_plan);

	if (error != NULL)
		kr_fleet_fail(target, error);
	else if (work->ntasks > 0 && work->lacks_table && !work->program->dry_run)
		send_install(target);
	else
		next_task(target);
}

static void
end_alone(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	kr_migrate_note_done(work);
	work->task++;
	next_task(target);
}

static void
proceed(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	switch (work->trip)
	{
		case KR_TRIP_READ:
			plan(target);
			break;
		case KR_TRIP_INSTALL:
			begin(target);
			break;
		case KR_TRIP_WORK:
			if (work->task < work->ntasks && task_of(work)->migration->transactional)
				send_work(target);
			else
				send_commit(target);
			break;
		case KR_TRIP_COMMIT:
			next_task(target);
			break;
		case KR_TRIP_ALONE_BEGIN:
		case KR_TRIP_ALONE_DROP:
		case KR_TRIP_ALONE_NOTE:
			next_alone(target);
			break;
		case KR_TRIP_ALONE_LOOK:
			if (work->index_is_there)
				send_alone_note(target);
			else if (work->index != NULL)
				send_alone_drop(target);
			else
				send_alone_run(target);
			break;
		case KR_TRIP_ALONE_RUN:
			send_alone_note(target);
			break;
		case KR_TRIP_ALONE_END:
			end_alone(target);
			break;
		case KR_TRIP_RESET:
			work->was_reset = true;
			kr_fleet_finish(target);
			break;
	}
}

/* What comes of resetting the session is not the target's. */
static void
end_segment(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	kr_migrate_note_committed(work);
	target->concluded = work->task >= work->ntasks;
}

static void
take_row(KrFleetTarget *target, const KrFleetStep *step)
{
	KrMigrateWork *work = kr_migrate_work(target);

	switch (step->tag)
	{
		case TAG_SCHEMA:
			work->has_schema = PQnfields(target->result) == 1 && PQgetvalue(target->result, 0, 0)[0] == 't';
			break;
		case TAG_RECORD:
			if (PQnfields(target->result) == 5)
				kr_migrate_add_record(work, target->result);
			break;
		case TAG_INDEX:
			take_index(work, target->result);
			break;
		case TAG_SAFETY:
			take_safety(target);
			break;
		default:
			break;
	}
}

static void
take(KrFleetTarget *target, const KrFleetStep *step)
{
	KrMigrateWork *work = kr_migrate_work(target);

	switch (step->tag)
	{
		case TAG_SAFETY:
			if (work->unsafe != NULL)
				kr_fleet_fail_with(target, raise_unsafe);
			break;
		case TAG_COMMIT:
			target->commits = false;
			if (strcmp(PQcmdStatus(target->result), "COMMIT") != 0)
				kr_fleet_fail_with(target, raise_rolled_back);
			else
				end_segment(target);
			break;
		case TAG_ROLLBACK:
			end_segment(target);
			break;
		default:
			break;
	}
}

/* ---------- the end ---------- */

static bool
keeps(const KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);

	return !work->ran || work->was_reset;
}

static void
note_cut_off(const KrFleetProgram *program, int nunknown)
{
	if (nunknown > 0)
		ereport(LOG,
				(errmsg("migrations of blueprint \"%s\" were cut off while %d targets committed",
						((const KrMigrateProgram *) program)->blueprint, nunknown)));
}

void
kr_migrate_make_program(KrMigrateProgram *program)
{
	program->base.tells_begin = true;
	program->base.raise_resolve = raise_resolve;
	program->base.begin = begin;
	program->base.proceed = proceed;
	program->base.take_row = take_row;
	program->base.take = take;
	program->base.excuse = excuse;
	program->base.raise_result = raise_result;
	program->base.raise_lost = raise_lost;
	program->base.raise_late = raise_late;
	program->base.raise_unknown = raise_unknown;
	program->base.keeps = keeps;
	program->base.note_cut_off = note_cut_off;
}

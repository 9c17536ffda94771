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
 * later is reported as unknown (08007). One that may not be in a transaction:
 * kr_migrate_alone.c.
 *
 * Nothing is kept of a session in which an error has happened; one in which scripts
 * have run is reset before it is used again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "kr_error.h"
#include "kr_migrate_target.h"
#include "kr_spi.h"

/* What is queued in a trip, roughly. */
#define TRIP_BYTES (64 * 1024)
#define TRIP_STATEMENTS 500

#define RESET_MS 5000

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
	kr_migrate_command(target, KR_TAG_SCHEMA, "SELECT pg_catalog.to_regnamespace($1) IS NOT NULL", 1, &schema);
	kr_migrate_command(target, KR_TAG_OTHER, work->program->owner_check, 0, NULL);
	kr_migrate_command(target, KR_TAG_RECORD,
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
	kr_migrate_command(target, KR_TAG_OTHER, "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", 0, NULL);
	kr_migrate_queue_limits(target, true);
	kr_migrate_command(target, KR_TAG_OTHER,
					   "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('kessel_router', 0))", 0, NULL);
	foreach(cell, work->program->install)
		kr_migrate_command(target, KR_TAG_OTHER, ((KrScriptStatement *) lfirst(cell))->sql, 0, NULL);
	kr_migrate_command(target, KR_TAG_OTHER, "COMMIT", 0, NULL);
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

	while (work->task < work->ntasks && kr_migrate_task(work)->migration->transactional)
	{
		int			last = list_length(kr_migrate_task(work)->migration->statements);

		if (work->statement == kr_migrate_task(work)->first)
			kr_migrate_queue_context(target, true);
		while (work->statement < last)
		{
			int			size = kr_migrate_queue_statement(target);

			if (size == 0)
				return;
			bytes += size;
			work->statement++;
			if (bytes >= TRIP_BYTES || ++count >= TRIP_STATEMENTS)
				break;
		}
		if (work->statement < last)
			break;
		kr_migrate_queue_record(target, work->program->down ? NULL : "applied", 0);
		kr_migrate_note_done(work);
		work->task++;
		work->statement = work->task < work->ntasks ? kr_migrate_task(work)->first : 0;
		if (bytes >= TRIP_BYTES || ++count >= TRIP_STATEMENTS)
			break;
	}
	if (work->task >= work->ntasks || !kr_migrate_task(work)->migration->transactional)
		kr_migrate_queue_safety(target);
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
		kr_migrate_command(target, KR_TAG_OTHER, "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", 0, NULL);
		if (target->source->transaction_pooler)
			kr_fleet_queue_settings(target, true);
		kr_migrate_queue_limits(target, true);
		kr_migrate_queue_holders(target);
		kr_migrate_queue_lock(target, false);
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
	kr_migrate_command(target, KR_TAG_OTHER, "DISCARD ALL", 0, NULL);
	kr_fleet_queue_sync(target);
	kr_fleet_queue_settings(target, false);
}

static void
send_commit(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	bool		dry_run = work->program->dry_run;

	if (PQtransactionStatus(target->pg) != PQTRANS_INTRANS)
	{
		kr_fleet_fail_with(target, kr_migrate_raise_ended_transaction);
		return;
	}
	work->trip = KR_TRIP_COMMIT;
	if (target->source->transaction_pooler)
		kr_migrate_queue_leave(target);
	/* What waits for the commit is to be found out, too. */
	if (dry_run)
	{
		kr_migrate_command(target, KR_TAG_OTHER, "SET CONSTRAINTS ALL IMMEDIATE", 0, NULL);
		kr_migrate_command(target, KR_TAG_ROLLBACK, "ROLLBACK", 0, NULL);
	}
	else
		kr_migrate_command(target, KR_TAG_COMMIT, "COMMIT", 0, NULL);
	kr_fleet_queue_sync(target);
	/* Before it is on its way: what could not be queued may be, too. */
	target->commits = !dry_run;
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
	else if (kr_migrate_task(work)->migration->transactional)
	{
		work->statement = kr_migrate_task(work)->first;
		send_work(target);
	}
	else
		kr_migrate_begin_alone(target);
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
			if (work->task < work->ntasks && kr_migrate_task(work)->migration->transactional)
				send_work(target);
			else
				send_commit(target);
			break;
		case KR_TRIP_COMMIT:
			next_task(target);
			break;
		case KR_TRIP_ALONE_BEGIN:
		case KR_TRIP_ALONE_LOOK:
		case KR_TRIP_ALONE_DROP:
		case KR_TRIP_ALONE_RUN:
		case KR_TRIP_ALONE_NOTE:
			kr_migrate_proceed_alone(target);
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

/* ---------- answers ---------- */

static void
take_safety(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const char *reason = PQnfields(target->result) == 1 ?
		kr_remote_clean_text(PQgetvalue(target->result, 0, 0)) : "It has answered something else than was asked.";

	if (work->nunsafe++ < 20)
		work->unsafe = work->unsafe ? psprintf("%s\n%s", work->unsafe, reason) : reason;
}

static void
take_holder(KrMigrateWork *work, const PGresult *result)
{
	const char *holder = PQnfields(result) == 1 ?
		kr_remote_clean_text(pnstrdup(PQgetvalue(result, 0, 0), 500)) : "";

	if (work->nholders++ < 3)
		work->holders = work->holders ? psprintf("%s\n%s", work->holders, holder) : holder;
}

static void
take_row(KrFleetTarget *target, const KrFleetStep *step)
{
	KrMigrateWork *work = kr_migrate_work(target);

	switch (step->tag)
	{
		case KR_TAG_SCHEMA:
			work->has_schema = PQnfields(target->result) == 1 && PQgetvalue(target->result, 0, 0)[0] == 't';
			break;
		case KR_TAG_RECORD:
			if (PQnfields(target->result) == 5)
				kr_migrate_add_record(work, target->result);
			break;
		case KR_TAG_INDEX:
			kr_migrate_take_index(work, target->result);
			break;
		case KR_TAG_HOLDER:
			take_holder(work, target->result);
			break;
		case KR_TAG_SAFETY:
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
		case KR_TAG_SAFETY:
			if (work->unsafe != NULL)
				kr_fleet_fail_with(target, kr_migrate_raise_unsafe);
			break;
		case KR_TAG_COMMIT:
			target->commits = false;
			if (strcmp(PQcmdStatus(target->result), "COMMIT") != 0)
				kr_fleet_fail_with(target, kr_migrate_raise_rolled_back);
			else
				end_segment(target);
			break;
		case KR_TAG_ROLLBACK:
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
	program->base.excuse = kr_migrate_excuse;
	program->base.raise_result = kr_migrate_raise_result;
	program->base.raise_lost = kr_migrate_raise_lost;
	program->base.raise_late = kr_migrate_raise_late;
	program->base.raise_unknown = kr_migrate_raise_unknown;
	program->base.keeps = keeps;
	program->base.note_cut_off = note_cut_off;
}

/*
 * kr_migrate_alone.c
 *	  A migration that may not be in a transaction, on one target: each statement a
 *	  trip and a transaction of its own, and one in between for the record.
 *
 * The record says what is done before the next statement is sent. Who goes on with
 * one that was cut off begins with the first statement that is not done there; that
 * one may have been done, in part or as a whole: an index made with CREATE INDEX
 * CONCURRENTLY is looked for, and dropped first where it is not valid; other
 * statements are run again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_migrate_target.h"

void
kr_migrate_begin_alone(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_BEGIN;
	work->statement = kr_migrate_task(work)->first;
	kr_migrate_queue_limits(target, false);
	kr_migrate_queue_holders(target);
	kr_migrate_queue_lock(target, true);
	kr_migrate_queue_record(target, work->program->down ? "reverting" : "applying", work->statement);
	kr_migrate_queue_context(target, false);
	kr_fleet_queue_sync(target);
	work->ran = true;
	kr_migrate_note_begun(work);
}

static void
send_alone_run(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_RUN;
	if (kr_migrate_queue_statement(target) > 0)
		kr_fleet_queue_sync(target);
}

/* Somebody was cut off with it: is the index there? */
static void
send_alone_look(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrScriptStatement *statement = kr_migrate_statement(work);
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
	kr_migrate_command(target, KR_TAG_INDEX,
					   "SELECT i.indisvalid, pg_catalog.format('%I.%I', n.nspname, c.relname) "
					   "FROM pg_catalog.pg_index i "
					   "JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid "
					   "JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace "
					   "WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid "
					   "AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
					   2, values);
	kr_fleet_queue_sync(target);
}

void
kr_migrate_take_index(KrMigrateWork *work, const PGresult *result)
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
	kr_migrate_command(target, KR_TAG_OTHER, psprintf("DROP INDEX CONCURRENTLY %s", work->index), 0, NULL);
	kr_fleet_queue_sync(target);
}

static void
send_alone_end(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->trip = KR_TRIP_ALONE_END;
	kr_migrate_queue_record(target, work->program->down ? NULL : "applied", 0);
	kr_fleet_queue_sync(target);
	target->commits = true;
}

/* The statement is done. */
static void
send_alone_note(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	work->statement++;
	if (work->statement >= list_length(kr_migrate_task(work)->migration->statements))
	{
		send_alone_end(target);
		return;
	}
	work->trip = KR_TRIP_ALONE_NOTE;
	kr_migrate_queue_record(target, work->program->down ? "reverting" : "applying", work->statement);
	kr_fleet_queue_sync(target);
}

static void
next_alone(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const KrMigrateTask *task = kr_migrate_task(work);

	/* Half of it is not it. */
	if (work->trip == KR_TRIP_ALONE_BEGIN && work->program->down)
		work->version = task->version;
	if (work->statement >= list_length(task->migration->statements))
		send_alone_end(target);
	else if (work->trip == KR_TRIP_ALONE_BEGIN && task->resumes && kr_migrate_statement(work)->concurrent_index &&
			 kr_migrate_statement(work)->index_name != NULL)
		send_alone_look(target);
	else
		send_alone_run(target);
}

/* A trip of such a migration's is answered, but for the last. */
void
kr_migrate_proceed_alone(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);

	switch (work->trip)
	{
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
		default:
			next_alone(target);
			break;
	}
}

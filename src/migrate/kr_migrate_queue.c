/*
 * kr_migrate_queue.c
 *	  What goes to a target beside its migrations' statements: limits, locks, its
 *	  record, and what is looked for before the commit.
 *
 * All of it is queued; kr_migrate_target.c and kr_migrate_alone.c make trips of it.
 * What is ours is looked up in pg_catalog, whatever a script has set.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_migrate_target.h"

void
kr_migrate_command(KrFleetTarget *target, int tag, const char *sql, int nparams, const char *const *values)
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

void
kr_migrate_queue_limits(KrFleetTarget *target, bool is_local)
{
	const KrMigrateProgram *program = kr_migrate_work(target)->program;
	const char *values[4];

	values[0] = psprintf(INT64_FORMAT, time_left(target));
	values[1] = psprintf(INT64_FORMAT, program->lock_timeout_ms);
	values[2] = psprintf("kessel_router %d %s", MyProcPid, program->blueprint);
	values[3] = is_local ? "true" : "false";
	kr_migrate_command(target, KR_TAG_OTHER,
					   "SELECT pg_catalog.set_config('search_path', 'pg_catalog', $4::pg_catalog.bool), "
					   "pg_catalog.set_config('statement_timeout', $1, $4::pg_catalog.bool), "
					   "pg_catalog.set_config('idle_in_transaction_session_timeout', $1, $4::pg_catalog.bool), "
					   "pg_catalog.set_config('lock_timeout', $2, $4::pg_catalog.bool), "
					   "pg_catalog.set_config('application_name', $3, $4::pg_catalog.bool)",
					   4, values);
}

void
kr_migrate_queue_context(KrFleetTarget *target, bool is_local)
{
	const char *values[3];

	values[0] = psprintf("%s, pg_temp", quote_identifier(kr_migrate_work(target)->schema));
	values[1] = is_local ? "true" : "false";
	values[2] = kr_isolation_name(target->source->isolation);
	kr_migrate_command(target, KR_TAG_OTHER,
					   "SELECT pg_catalog.set_config('search_path', $1, $2::pg_catalog.bool), "
					   "pg_catalog.set_config('standard_conforming_strings', 'on', $2::pg_catalog.bool), "
					   "pg_catalog.set_config('check_function_bodies', 'on', $2::pg_catalog.bool), "
					   "pg_catalog.set_config('kessel_agent.isolation', $3, $2::pg_catalog.bool)",
					   3, values);
}

void
kr_migrate_queue_safety(KrFleetTarget *target)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const char *values[2] = {work->shared_tables, work->runtime};

	if (target->source->isolation != KR_ISOLATION_ROW || work->runtime == NULL)
		return;
	kr_migrate_command(target, KR_TAG_OTHER, "SET LOCAL search_path = pg_catalog, pg_temp", 0, NULL);
	kr_migrate_command(target, KR_TAG_SAFETY, work->program->row_safety, 2, values);
}

void
kr_migrate_queue_lock(KrFleetTarget *target, bool of_session)
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
	kr_migrate_command(target, KR_TAG_OTHER, psprintf("DO %s", quote_literal_cstr(sql.data)), 0, NULL);
}

/*
 * Which lock a statement has waited for, nobody can say who has not looked while it
 * did. So those are asked for who have one of the tables whose names are in it; who
 * has worked longest comes first.
 */
void
kr_migrate_queue_holders(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	const char *values[2] = {work->schema, work->locked};

	work->holders = NULL;
	work->nholders = 0;
	if (work->locked == NULL)
		return;
	kr_migrate_command(target, KR_TAG_HOLDER,
					   "SELECT format('Process %s%s%s has %s on \"%s\".', l.pid, ' of role \"' || a.usename || '\"', "
					   "' (' || a.state || coalesce(', in a transaction since ' || date_trunc('second', a.xact_start), '') || ')', "
					   "string_agg(l.mode, ', ' ORDER BY l.mode), c.relname) "
					   "FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid "
					   "WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() "
					   "AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) "
					   "AND c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
					   "AND strpos(lower($2), lower(c.relname)) > 0 "
					   "GROUP BY l.pid, a.usename, a.state, a.xact_start, c.relname ORDER BY a.xact_start, l.pid LIMIT 3",
					   2, values);
}

/* The current task's line of the record. */
void
kr_migrate_queue_record(KrFleetTarget *target, const char *state, int statements_done)
{
	const KrMigrateWork *work = kr_migrate_work(target);
	const KrMigration *migration = kr_migrate_task(work)->migration;
	int			tag = kr_migrate_task(work)->tag + list_length(migration->statements);
	const char *values[8];

	if (work->lacks_table)
		return;
	values[0] = work->schema;
	values[1] = work->program->blueprint;
	values[2] = psprintf("%d", migration->version);
	if (state == NULL)
	{
		kr_migrate_command(target, tag,
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
	kr_migrate_command(target, tag,
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

int
kr_migrate_queue_statement(KrFleetTarget *target)
{
	KrMigrateWork *work = kr_migrate_work(target);
	Place		place = {.statement = kr_migrate_statement(work),.work = work};
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
	kr_fleet_queue(target, KR_FLEET_ROWS_DROPPED, kr_migrate_task(work)->tag + work->statement,
				   has_names ? place.sql : place.statement->sql, 0, NULL);
	if (has_names)
		pfree(place.sql);
	return strlen(place.statement->sql) + 100;
}

void
kr_migrate_queue_leave(KrFleetTarget *target)
{
	static const char *const leave[] = {
		"RESET SESSION AUTHORIZATION", "RESET ALL", "UNLISTEN *", "CLOSE ALL", "DISCARD TEMP",
		"SELECT pg_catalog.pg_advisory_unlock_all()"
	};

	for (int i = 0; i < lengthof(leave); i++)
		kr_migrate_command(target, KR_TAG_OTHER, leave[i], 0, NULL);
}

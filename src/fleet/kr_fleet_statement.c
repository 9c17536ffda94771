/*
 * kr_fleet_statement.c
 *	  The program that runs one statement for each tenant.
 *
 * A statement that reads travels with START TRANSACTION, the tenant's context and
 * ROLLBACK, in one trip. One that writes is committed in a second trip, when its
 * answer is there: so a connection that is lost before that has changed nothing
 * there, and one that is lost afterwards is reported as unknown (08007).
 *
 * The program lives in the fleet's memory. Routes are the route cache's: such a
 * fleet does not outlive the local transaction.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_error.h"
#include "kr_fleet.h"
#include "kr_guc.h"

/* Tags of steps. */
enum
{
	STEP_CONTEXT, STEP_STATEMENT, STEP_COMMIT
};

typedef struct StatementProgram
{
	KrFleetProgram base;
	KrFleetOptions options;
	KrFleetStatement statement;
	uint64		committed;
} StatementProgram;

/* Of a target; in its memory. */
typedef struct StatementWork
{
	const KrRoute *route;
	const char *command;
} StatementWork;

static const StatementProgram *
program_of(const KrFleetTarget *target)
{
	return (const StatementProgram *) target->program;
}

static const StatementWork *
work_of(const KrFleetTarget *target)
{
	return target->work;
}

static bool
writes(const KrFleetTarget *target)
{
	return program_of(target)->statement.kind == KR_FLEET_EXEC;
}

/* ---------- route ---------- */

/* What was asked for by name; raises KR002, KR003, KR005, KR008, 42501 and so on. */
static void
raise_resolve(KrFleetTarget *target)
{
	const char *name = program_of(target)->options.tenants[target->index];
	StatementWork *work = palloc0(sizeof(StatementWork));
	const KrRoute *route;

	target->label = name;
	if (!kr_guc_is_tenant_name(name))
		ereport(ERROR,
				(errcode(KR_ERR_UNKNOWN_TENANT),
				 errmsg("tenant \"%s\" does not exist", name),
				 errhint("A tenant is named by its slug or its uuid, in lower case.")));
	route = kr_route_to_enter(name);
	if (route->isolation == KR_ISOLATION_ROW && !route->source->has_agent)
		ereport(ERROR,
				(errcode(KR_ERR_NO_AGENT),
				 errmsg("data source \"%s\" has no agent", route->source->name),
				 errdetail("Tenant \"%s\" shares its tables with others; without the agent the source cannot tell them apart.",
						   route->slug),
				 errhint("An administrator can call kessel.install_agent('%s').", route->source->name)));
	work->route = route;
	target->work = work;
	target->source = route->source;
	target->has_id = true;
	target->id = route->tenant_id;
	target->label = route->slug;
	kr_fleet_check_confined(&program_of(target)->statement, route);
}

/* ---------- errors ---------- */

static void
raise_result(KrFleetTarget *target)
{
	kr_remote_raise_result(target->result, target->source->name, target->label, NULL, false);
}

static void
raise_unknown(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("data source \"%s\" has not answered the commit", target->source->name),
			 errdetail("Whether the changes for tenant \"%s\" were committed there is unknown.", target->label),
			 errhint("Look at the data before you repeat it.")));
}

static void
raise_ended_transaction(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("the statement has ended its transaction"),
			 errdetail("What it did in it may be committed.")));
}

static void
raise_rolled_back(KrFleetTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_ROLLBACK),
			 errmsg("data source \"%s\" rolled the transaction back", target->source->name)));
}

static void
raise_late(KrFleetTarget *target, bool whole_call)
{
	if (whole_call)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the deadline has passed before tenant \"%s\" was done", target->label),
				 target->phase == KR_FLEET_WAITS ? errdetail("It was not begun.") :
				 errdetail("It was cancelled, and changed nothing.")));
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("tenant \"%s\" was not done within " INT64_FORMAT " ms", target->label,
					target->program->timeout_ms),
			 errdetail("It was cancelled, and changed nothing.")));
}

/* ---------- sending ---------- */

static void
command(KrFleetTarget *target, const char *sql, int nparams, const char *const *values)
{
	kr_fleet_queue(target, KR_FLEET_COMMAND, STEP_CONTEXT, sql, nparams, values);
}

/*
 * Names mean the tenant's, and the text of the statement is read there as it was
 * here.
 */
static void
queue_context(KrFleetTarget *target)
{
	const KrRoute *route = work_of(target)->route;
	const char *schema = route->isolation == KR_ISOLATION_SCHEMA ? route->id_in_source :
		route->source->schema;
	const char *values[2];
	char		epoch[MAXINT8LEN + 1];

	if (route->source->transaction_pooler)
		kr_fleet_queue_settings(target, true);
	values[0] = psprintf("%s, pg_temp", quote_identifier(schema));
	values[1] = psprintf("kessel_router %d %s", MyProcPid, target->label);
	command(target,
			"SELECT pg_catalog.set_config('search_path', $1, true), "
			"pg_catalog.set_config('application_name', $2, true), "
			"pg_catalog.set_config('standard_conforming_strings', 'on', true)",
			2, values);
	if (!route->source->has_agent)
		return;
	pg_lltoa(route->epoch, epoch);
	values[0] = route->id_in_source;
	values[1] = epoch;
	command(target, "SELECT kessel_agent.enter($1, $2)", 2, values);
}

static void
begin(KrFleetTarget *target)
{
	const StatementProgram *program = program_of(target);

	if (!target->was_spare && !target->source->transaction_pooler)
		kr_fleet_queue_settings(target, false);
	command(target, writes(target) ? "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE" :
			"START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY", 0, NULL);
	queue_context(target);
	kr_fleet_queue(target, writes(target) ? KR_FLEET_ROWS_DROPPED : KR_FLEET_ROWS_TOLD, STEP_STATEMENT,
				   program->statement.sent, program->options.nparams, program->options.params);
	if (!writes(target))
		command(target, "ROLLBACK", 0, NULL);
	kr_fleet_queue_sync(target);
}

static void
commit(KrFleetTarget *target)
{
	if (PQtransactionStatus(target->pg) != PQTRANS_INTRANS)
	{
		kr_fleet_fail_with(target, raise_ended_transaction);
		return;
	}
	kr_fleet_queue(target, KR_FLEET_COMMAND, STEP_COMMIT, "COMMIT", 0, NULL);
	kr_fleet_queue_sync(target);
	/* Before it is on its way: the COMMIT that could not be queued may be, too. */
	target->commits = true;
}

static void
proceed(KrFleetTarget *target)
{
	if (!writes(target))
		kr_fleet_finish(target);
	else if (!target->commits)
		commit(target);
	else
	{
		target->commits = false;
		((StatementProgram *) unconstify(KrFleetProgram *, target->program))->committed++;
		kr_fleet_finish(target);
	}
}

/* ---------- answers ---------- */

/* The words of a command's tag, and no other characters, whatever the server has sent. */
static char *
tag_of(PGresult *result)
{
	const char *tag = PQcmdStatus(result);
	int			len = Min(strspn(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ "), 64);

	while (len > 0 && tag[len - 1] == ' ')
		len--;
	return pnstrdup(tag, len);
}

static void
take(KrFleetTarget *target, const KrFleetStep *step)
{
	const char *affected = PQcmdTuples(target->result);

	if (step->tag == STEP_COMMIT && strcmp(PQcmdStatus(target->result), "COMMIT") != 0)
		kr_fleet_fail_with(target, raise_rolled_back);
	if (step->tag != STEP_STATEMENT)
		return;
	((StatementWork *) target->work)->command = tag_of(target->result);
	if (writes(target))
		target->rows = affected[0] ? strtoull(affected, NULL, 10) : 0;
}

/* ---------- the end ---------- */

static bool
keeps(const KrFleetTarget *target)
{
	return program_of(target)->statement.unconfined == NULL;
}

static void
note_cut_off(const KrFleetProgram *base, int nunknown)
{
	const StatementProgram *program = (const StatementProgram *) base;

	if (program->statement.kind == KR_FLEET_EXEC && (program->committed > 0 || nunknown > 0))
		ereport(LOG,
				(errmsg("a statement for a fleet was cut off: " UINT64_FORMAT " tenants had committed, and of %d it is unknown",
						program->committed, nunknown)));
}

/* ---------- the user's side ---------- */

KrFleet *
kr_fleet_begin_statement(MemoryContext cxt, const KrFleetOptions *options)
{
	KrFleet    *fleet = kr_fleet_create(cxt);
	MemoryContext before = MemoryContextSwitchTo(kr_fleet_memory(fleet));
	StatementProgram *program = palloc0(sizeof(StatementProgram));

	program->base = (KrFleetProgram) {
		.ntargets = options->ntenants,
		.max_parallel = options->max_parallel,
		.timeout_ms = options->timeout_ms,
		.deadline_ms = options->deadline_ms,
		.raise_resolve = raise_resolve,
		.begin = begin,
		.proceed = proceed,
		.take = take,
		.raise_result = raise_result,
		.raise_late = raise_late,
		.raise_unknown = raise_unknown,
		.keeps = keeps,
		.note_cut_off = note_cut_off
	};
	program->options = *options;
	kr_fleet_read_statement(&program->statement, options->sql, options->kind);
	kr_fleet_begin(fleet, &program->base);
	MemoryContextSwitchTo(before);
	return fleet;
}

bool
kr_fleet_sends_jsonb(const KrFleetTarget *target)
{
	return program_of(target)->statement.as_jsonb;
}

const char *
kr_fleet_command_of(const KrFleetTarget *target)
{
	const char *command = work_of(target)->command;

	return command ? command : "";
}

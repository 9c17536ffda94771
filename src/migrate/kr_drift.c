/*
 * kr_drift.c
 *	  Reading the schemas of many data sources at once, as they are or as
 *	  migrations make them, for kessel.drift().
 *
 * For each target one trip in one transaction that is rolled back: scripts, if
 * there are any, then one query whose rows are told. Nothing that a script makes
 * outlives it, but for what PostgreSQL never rolls back: sequences' values. The
 * snapshot is one for all of it, so what a query sees of others has been there
 * before the first script.
 *
 * With the credential of the purpose owner, as migrations run.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/scanner.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "kr_error.h"
#include "kr_fleet.h"
#include "kr_fleet_rows.h"
#include "kr_spi.h"

PG_FUNCTION_INFO_V1(kr_drift_read);
PG_FUNCTION_INFO_V1(kr_script_names_schema);

/* Tags of steps that are no statement of a script's; those count from 1. */
#define STEP_QUERY 0
#define STEP_FRAME (-1)

/*
 * Settings that a query of catalogs needs, whatever the role has: compiling one
 * takes up to a second, and names in definitions are to be complete. Those of views
 * and rules take locks, as scripts do: nobody is to wait behind who reads them.
 */
#define QUERY_SETTINGS \
	"SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), " \
	"pg_catalog.set_config('jit', 'off', true), " \
	"pg_catalog.set_config('lock_timeout', '2s', true), " \
	"pg_catalog.set_config('quote_all_identifiers', 'off', true), " \
	"pg_catalog.set_config('standard_conforming_strings', 'on', true), " \
	"pg_catalog.set_config('bytea_output', 'hex', true), " \
	"pg_catalog.set_config('xmloption', 'content', true)"

typedef struct DriftProgram
{
	KrFleetProgram base;
	pg_uuid_t  *sources;
	List	  **scripts;		/* of each target: of statements */
	const char *owner_check;	/* keeps it from what others have made */
	const char *query;
	const char ***params;		/* of each target */
	int			nparams;
} DriftProgram;

/* Of a target; in its memory. */
typedef struct DriftWork
{
	int			failed;			/* the statement that has */
} DriftWork;

static const DriftProgram *
program_of(const KrFleetTarget *target)
{
	return (const DriftProgram *) target->program;
}

/* ---------- what it is for a target ---------- */

static void
raise_resolve(KrFleetTarget *target)
{
	const KrSource *source;

	target->label = "";
	target->work = palloc0(sizeof(DriftWork));
	source = kr_source_by_id(&program_of(target)->sources[target->index], "owner");
	target->label = source->name;
	if (!source->active)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" is disabled", source->name),
				 errhint("An administrator can call kessel.alter_data_source() with status => 'active'.")));
	target->source = source;
}

static void
raise_result(KrFleetTarget *target)
{
	const KrFleetStep *step = kr_fleet_current_step(target);

	((DriftWork *) target->work)->failed = step ? Max(step->tag, 0) : 0;
	kr_remote_raise_result(target->result, target->source->name, NULL, NULL, false);
}

static void
raise_late(KrFleetTarget *target, bool whole_call)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("data source \"%s\" has not answered within " INT64_FORMAT " ms", target->label,
					target->program->timeout_ms),
			 errhint("The argument timeout of kessel.drift() sets the limit.")));
}

/* ---------- sending ---------- */

static void
frame(KrFleetTarget *target, const char *sql)
{
	kr_fleet_queue(target, KR_FLEET_COMMAND, STEP_FRAME, sql, 0, NULL);
}

static void
begin(KrFleetTarget *target)
{
	const DriftProgram *program = program_of(target);
	List	   *script = program->scripts[target->index];
	ListCell   *cell;
	int			n = 0;

	if (!target->was_spare && !target->source->transaction_pooler)
		kr_fleet_queue_settings(target, false);
	frame(target, script == NIL ? "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY" :
		  "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE");
	if (target->source->transaction_pooler)
		kr_fleet_queue_settings(target, true);
	frame(target, program->owner_check);
	foreach(cell, script)
		kr_fleet_queue(target, KR_FLEET_ROWS_DROPPED, ++n, lfirst(cell), 0, NULL);
	frame(target, QUERY_SETTINGS);
	kr_fleet_queue(target, KR_FLEET_ROWS_TOLD, STEP_QUERY, program->query, program->nparams,
				   program->params[target->index]);
	frame(target, "ROLLBACK");
	kr_fleet_queue_sync(target);
}

static void
proceed(KrFleetTarget *target)
{
	kr_fleet_finish(target);
}

/* What a script has set may outlive its transaction. */
static bool
keeps(const KrFleetTarget *target)
{
	return program_of(target)->scripts[target->index] == NIL;
}

static void
note_cut_off(const KrFleetProgram *base, int nunknown)
{
}

/* ---------- arguments ---------- */

static char **
texts_of(ArrayType *array, int *count)
{
	Datum	   *elems;
	bool	   *nulls;
	char	  **result;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, count);
	result = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = nulls[i] ? NULL : TextDatumGetCString(elems[i]);
	return result;
}

static pg_uuid_t *
uuids_of(ArrayType *array, int *count)
{
	Datum	   *elems;
	bool	   *nulls;
	pg_uuid_t  *result;

	deconstruct_array(array, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &elems, &nulls, count);
	result = palloc(sizeof(pg_uuid_t) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = *DatumGetUUIDP(elems[i]);
	return result;
}

/* An array of arrays of texts, one a target. */
static List *
script_of(Jsonb *all, int index)
{
	JsonbValue *script = getIthJsonbValueFromContainer(&all->root, index);
	List	   *statements = NIL;

	if (script == NULL || script->type != jbvBinary || !JsonContainerIsArray(script->val.binary.data))
		return NIL;
	for (int i = 0; i < JsonContainerSize(script->val.binary.data); i++)
	{
		JsonbValue *statement = getIthJsonbValueFromContainer(script->val.binary.data, i);

		statements = lappend(statements, pnstrdup(statement->val.string.val, statement->val.string.len));
	}
	return statements;
}

static const char *
read_owner_check(void)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext cxt = CurrentMemoryContext;
	char	   *check;
	KrSpi		spi;

	kr_spi_begin(&spi);
	kr_spi_read(&plan, "SELECT kessel._agent_owner_check()", 0, NULL, NULL);
	check = kr_spi_text(0, 1, cxt);
	kr_spi_end(&spi);
	return check;
}

/* In the fleet's memory. */
static DriftProgram *
make_program(FunctionCallInfo fcinfo)
{
	DriftProgram *program = palloc0(sizeof(DriftProgram));
	int			nvalues;
	char	  **values;

	program->base = (KrFleetProgram) {
		.max_parallel = PG_GETARG_INT32(4),
		.timeout_ms = PG_GETARG_INT64(5),
		.raise_resolve = raise_resolve,
		.begin = begin,
		.proceed = proceed,
		.raise_result = raise_result,
		.raise_late = raise_late,
		.raise_unknown = raise_result,
		.keeps = keeps,
		.note_cut_off = note_cut_off
	};
	program->sources = uuids_of(PG_GETARG_ARRAYTYPE_P(0), &program->base.ntargets);
	program->query = text_to_cstring(PG_GETARG_TEXT_PP(2));
	program->owner_check = read_owner_check();
	values = texts_of(PG_GETARG_ARRAYTYPE_P(3), &nvalues);
	program->nparams = program->base.ntargets > 0 ? nvalues / program->base.ntargets : 0;
	program->params = palloc(sizeof(char **) * Max(program->base.ntargets, 1));
	program->scripts = palloc(sizeof(List *) * Max(program->base.ntargets, 1));
	for (int i = 0; i < program->base.ntargets; i++)
	{
		program->params[i] = (const char **) values + i * program->nparams;
		program->scripts[i] = script_of(PG_GETARG_JSONB_P(1), i);
	}
	return program;
}

/* ---------- what is told ---------- */

typedef struct Told
{
	const PGresult *row;
	Datum		values;
} Told;

static void
convert(void *arg)
{
	Told	   *told = arg;
	int			n = PQnfields(told->row);
	int			lower = 1;
	Datum	   *elems = palloc(n * sizeof(Datum));
	bool	   *nulls = palloc(n * sizeof(bool));

	for (int i = 0; i < n; i++)
	{
		const char *value = PQgetvalue(told->row, 0, i);

		nulls[i] = PQgetisnull(told->row, 0, i);
		(void) pg_verifymbstr(value, strlen(value), false);
		elems[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(value);
	}
	told->values = PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lower,
													  TEXTOID, -1, false, TYPALIGN_INT));
}

static void
put_row(ReturnSetInfo *rsinfo, const KrFleetEvent *event)
{
	Told		told = {.row = event->row};
	Datum		values[4] = {0};
	bool		nulls[4] = {false, event->row == NULL, event->row != NULL, event->row != NULL};

	if (event->row != NULL && !kr_fleet_convert(event->target, convert, &told))
		return;
	values[0] = Int32GetDatum(event->target->index + 1);
	values[1] = told.values;
	if (event->error != NULL)
	{
		const DriftWork *work = event->target->work;

		values[2] = kr_fleet_error_to_jsonb(event->error, "");
		values[3] = Int32GetDatum(work != NULL ? work->failed : 0);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * kessel._schema_read(data_source_ids uuid[], scripts jsonb, query text, params
 * text[], max_parallel integer, timeout_ms bigint): the rows of the query for each
 * data source, or its error, each with the source's index, from 1.
 */
Datum
kr_drift_read(PG_FUNCTION_ARGS)
{
	MemoryContext row_cxt;
	MemoryContext before;
	KrFleetEvent event;
	KrFleet    *fleet;

	InitMaterializedSRF(fcinfo, 0);
	fleet = kr_fleet_create(CurrentMemoryContext);
	before = MemoryContextSwitchTo(kr_fleet_memory(fleet));
	kr_fleet_begin(fleet, &make_program(fcinfo)->base);
	MemoryContextSwitchTo(before);
	row_cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel schema lines",
									ALLOCSET_DEFAULT_SIZES);
	while (kr_fleet_next(fleet, &event))
	{
		before = MemoryContextSwitchTo(row_cxt);
		if (event.news == KR_FLEET_ROW || event.news == KR_FLEET_FAILED)
			put_row((ReturnSetInfo *) fcinfo->resultinfo, &event);
		MemoryContextSwitchTo(before);
		MemoryContextReset(row_cxt);
	}
	return (Datum) 0;
}

/* ---------- what a script names ---------- */

static bool
goes_on(char c)
{
	return isalnum((unsigned char) c) || IS_HIGHBIT_SET(c) || c == '_' || c == '$';
}

/* What stands behind the identifier, if it is this one; else NULL. */
static const char *
behind_name(const char *at, const char *name)
{
	bool		quoted = *at == '"';

	at += quoted;
	for (; *name != '\0'; name++)
	{
		char		c = quoted ? *at : pg_tolower((unsigned char) *at);

		if (c != *name || (quoted && c == '"' && *++at != '"'))
			return NULL;
		at++;
	}
	if (quoted)
		return at[0] == '"' && at[1] != '"' ? at + 1 : NULL;
	return goes_on(*at) ? NULL : at;
}

/* The first thing in a literal, as in nextval('public.numbers'). */
static bool
literal_names(const char *at, const char *schema)
{
	const char *behind;

	if (*at == 'E' || *at == 'e')
		at++;
	if (*at != '\'')
		return false;
	behind = behind_name(at + 1, schema);
	return behind != NULL && *behind == '.';
}

/*
 * kessel._script_names_schema(script, schema): does it name something in that
 * schema, outside of comments and of bodies of functions?
 */
Datum
kr_script_names_schema(PG_FUNCTION_ARGS)
{
	char	   *script = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *schema = text_to_cstring(PG_GETARG_TEXT_PP(1));
	core_yy_extra_type extra = {0};
	core_YYSTYPE value;
	int			location = 0;
	core_yyscan_t scanner = scanner_init(script, &extra, &ScanKeywords, ScanKeywordTokens);
	bool		just_named = false;
	bool		found = false;

	extra.standard_conforming_strings = true;
	extra.escape_string_warning = false;
	while (!found && core_yylex(&value, &location, scanner) != 0)
	{
		const char *at = script + location;

		found = (just_named && *at == '.') || literal_names(at, schema);
		just_named = behind_name(at, schema) != NULL;
	}
	scanner_finish(scanner);
	PG_RETURN_BOOL(found);
}

/*
 * kr_fdw_analyze.c
 *	  ANALYZE of foreign tables.
 *
 * Rows stream over the connection and a random sample of them is kept; where
 * the option analyze_sampling (PostgreSQL 16 and later) says so, the remote
 * server sends a sample to begin with. The remote server is asked as the
 * table's owner, whoever has started ANALYZE, as all of it runs with the owner's
 * rights and none else.
 *
 * A router table is another table for every tenant, so it has no statistics:
 * ANALYZE passes it over with a warning, as it does for wrappers that cannot
 * analyze at all, and no tenant is entered.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/sampling.h"

#include "kr_fdw.h"

typedef enum KrSampling
{
	KR_SAMPLE_OFF,
	KR_SAMPLE_AUTO,
	KR_SAMPLE_RANDOM,
	KR_SAMPLE_SYSTEM,
	KR_SAMPLE_BERNOULLI
} KrSampling;

/* The rows that are kept; each of those seen has the same chance. */
typedef struct KrSample
{
	HeapTuple  *rows;
	int			size;			/* most rows to keep */
	int			count;
	double		seen;
	double		skip;			/* rows to pass over before the next exchange; -1: not set */
	ReservoirStateData state;
	MemoryContext cxt;
} KrSample;

/* ---------- asking the remote server ---------- */

static void
resolve(Relation rel, KrFdwTarget *target)
{
	kr_fdw_resolve(GetForeignServerIdByRelId(RelationGetRelid(rel)),
				   rel->rd_rel->relowner, target);
}

/* One query, answered by one row of one column; NULL where it has none. */
static char *
ask(Relation rel, const char *sql)
{
	KrFdwTarget target;
	KrStream   *stream = palloc(sizeof(KrStream));
	PGresult   *result;
	char	   *answer = NULL;

	resolve(rel, &target);
	sql = kr_fdw_adapt_sql(sql, &target, list_make1_oid(RelationGetRelid(rel)));
	kr_stream_init(stream, kr_remote_lease(&target.remote, false), CurrentMemoryContext,
				   false, NULL, NULL);
	kr_stream_queue(stream, sql, 0, NULL, false);
	kr_stream_send(stream);
	result = kr_stream_next(stream);
	if (result != NULL && PQntuples(result) == 1 && PQnfields(result) == 1 &&
		!PQgetisnull(result, 0, 0))
		answer = pstrdup(PQgetvalue(result, 0, 0));
	kr_stream_abandon(stream);
	return answer;
}

/* The table's name as a literal; the marker is replaced in the name, not in it. */
static char *
name_literal(Relation rel)
{
	KrFdwTarget target;
	StringInfoData name;

	resolve(rel, &target);
	initStringInfo(&name);
	kr_fdw_append_table_name(&name, rel);
	return quote_literal_cstr(kr_fdw_adapt_sql(name.data, &target,
											   list_make1_oid(RelationGetRelid(rel))));
}

/* Rows that the remote server believes to have; 0 where it does not know. */
static double
remote_tuples(Relation rel, bool *can_sample)
{
	char	   *answer = ask(rel, psprintf("SELECT reltuples::text || ' ' || relkind::text "
										   "FROM pg_catalog.pg_class WHERE oid = %s::pg_catalog.regclass",
										   name_literal(rel)));
	char	   *rest;
	double		tuples;

	*can_sample = false;
	if (answer == NULL)
		return 0;
	tuples = strtod(answer, &rest);
	if (isnan(tuples) || isinf(tuples))
		return 0;
	*can_sample = *rest == ' ' &&
		(rest[1] == RELKIND_RELATION || rest[1] == RELKIND_MATVIEW ||
		 rest[1] == RELKIND_PARTITIONED_TABLE);
	return tuples;
}

/* ---------- which rows to send ---------- */

/* A table's own option counts, else its server's. Before 16 neither has it. */
static KrSampling
sampling_option(Relation rel)
{
	static const char *const names[] = {"off", "auto", "random", "system", "bernoulli"};
	ForeignTable *table = GetForeignTable(RelationGetRelid(rel));
	ForeignServer *server = GetForeignServer(table->serverid);
	KrSampling	sampling = KR_DEFAULT_ANALYZE_SAMPLES ? KR_SAMPLE_AUTO : KR_SAMPLE_OFF;
	ListCell   *cell;

	foreach(cell, list_concat_copy(server->options, table->options))
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "analyze_sampling") != 0)
			continue;
		for (int i = 0; i < lengthof(names); i++)
		{
			if (strcmp(defGetString(option), names[i]) == 0)
				sampling = (KrSampling) i;
		}
	}
	return sampling;
}

/*
 * Decide how the remote server is to choose rows, and which share of them;
 * *tuples is how many it has. It chooses none where it does not know that, or
 * where all are wanted. What was asked for by name and cannot be done fails.
 */
static KrSampling
choose_sampling(Relation rel, int wanted, double *share, double *tuples)
{
	KrSampling	sampling = sampling_option(rel);
	bool		can_sample;

	if (sampling == KR_SAMPLE_OFF)
		return KR_SAMPLE_OFF;
	*tuples = remote_tuples(rel, &can_sample);
	if (*tuples <= 0 || wanted >= *tuples)
		return KR_SAMPLE_OFF;
	*share = wanted / *tuples;
	if (sampling == KR_SAMPLE_AUTO)
		return can_sample ? KR_SAMPLE_BERNOULLI : KR_SAMPLE_RANDOM;
	return sampling;
}

static char *
sample_sql(Relation rel, KrSampling sampling, double share, List **retrieved)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData sql;

	*retrieved = NIL;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int attnum = 1; attnum <= desc->natts; attnum++)
	{
		if (TupleDescAttr(desc, attnum - 1)->attisdropped)
			continue;
		appendStringInfo(&sql, "%s%s", *retrieved != NIL ? ", " : "",
						 quote_identifier(kr_fdw_column_name(rel, attnum)));
		*retrieved = lappend_int(*retrieved, attnum);
	}
	if (*retrieved == NIL)
		appendStringInfoString(&sql, "NULL");
	appendStringInfoString(&sql, " FROM ");
	kr_fdw_append_table_name(&sql, rel);

	switch (sampling)
	{
		case KR_SAMPLE_RANDOM:
			appendStringInfo(&sql, " WHERE pg_catalog.random() < %f", share);
			break;
		case KR_SAMPLE_SYSTEM:
			appendStringInfo(&sql, " TABLESAMPLE SYSTEM(%f)", 100 * share);
			break;
		case KR_SAMPLE_BERNOULLI:
			appendStringInfo(&sql, " TABLESAMPLE BERNOULLI(%f)", 100 * share);
			break;
		default:
			break;
	}
	return sql.data;
}

/* ---------- keeping some of them ---------- */

/* Where the next row goes in the sample, -1: nowhere. (Vitter's algorithm) */
static int
sample_place(KrSample *sample)
{
	int			place = -1;

	sample->seen++;
	if (sample->count < sample->size)
		return sample->count++;

	if (sample->skip < 0)
		sample->skip = reservoir_get_next_S(&sample->state, sample->seen, sample->size);
	if (sample->skip <= 0)
	{
		place = (int) (sample->size * sampler_random_fract(&sample->state.randstate));
		heap_freetuple(sample->rows[place]);
	}
	sample->skip--;
	return place;
}

static void
sample_result(KrSample *sample, KrRowReader *reader, const PGresult *result,
			  TupleTableSlot *slot)
{
	(void) kr_reader_describe(reader, result, true);
	for (int row = 0; row < PQntuples(result); row++)
	{
		int			place = sample_place(sample);
		MemoryContext old;

		if (place < 0)
			continue;
		kr_reader_store_result(reader, result, row, slot);
		old = MemoryContextSwitchTo(sample->cxt);
		sample->rows[place] = ExecCopySlotHeapTuple(slot);
		MemoryContextSwitchTo(old);
	}
}

/* Rows that a query gives go into the sample. */
static void
run_sample(Relation rel, const char *sql, List *retrieved, KrSample *sample)
{
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
	KrStream   *stream = palloc(sizeof(KrStream));
	KrFdwTarget target;
	KrRowReader reader;

	resolve(rel, &target);
	sql = kr_fdw_adapt_sql(sql, &target, list_make1_oid(RelationGetRelid(rel)));
	kr_reader_init(&reader, RelationGetDescr(rel), rel, retrieved, false, estate);
	kr_reader_explain(&reader, &target, NULL);
	kr_stream_init(stream, kr_remote_lease(&target.remote, false), estate->es_query_cxt,
				   true, NULL, NULL);
	kr_stream_queue(stream, sql, 0, NULL, false);
	kr_stream_send(stream);
	while (stream->pending > 0)
	{
		PGresult   *result = kr_stream_next(stream);

		CHECK_FOR_INTERRUPTS();
		if (result != NULL)
			sample_result(sample, &reader, result, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
}

static int
acquire_sample(Relation rel, int elevel, HeapTuple *rows, int size,
			   double *totalrows, double *totaldeadrows)
{
	KrSample	sample = {0};
	double		share = 1;
	double		tuples = 0;
	KrSampling	sampling = choose_sampling(rel, size, &share, &tuples);
	List	   *retrieved;
	char	   *sql = sample_sql(rel, sampling, share, &retrieved);

	sample.rows = rows;
	sample.size = size;
	sample.skip = -1;
	sample.cxt = CurrentMemoryContext;
	reservoir_init_selection_state(&sample.state, size);
	run_sample(rel, sql, retrieved, &sample);

	*totalrows = sampling == KR_SAMPLE_OFF ? sample.seen : tuples;
	*totaldeadrows = 0;
	ereport(elevel,
			(errmsg("\"%s\": table contains %.0f rows, %d rows in sample",
					RelationGetRelationName(rel), *totalrows, sample.count)));
	return sample.count;
}

/* Why a table cannot be analyzed; NULL: it can. */
static const char *
no_statistics(Relation rel)
{
	const KrServer *server = kr_fdw_server(GetForeignServerIdByRelId(RelationGetRelid(rel)),
										   InvalidOid);

	if (server->kind == KR_SERVER_ROUTER)
		return "It is another table for every tenant; one tenant's statistics would be taken for all.";
	if (server->kind == KR_SERVER_DATA_SOURCE &&
		kr_source_by_name(server->bound_to)->isolation == KR_ISOLATION_ROW)
		return "Tenants share it, and its data source shows nothing to nobody.";
	return NULL;
}

bool
kr_analyze(Relation rel, AcquireSampleRowsFunc *func, BlockNumber *pages)
{
	const char *reason = no_statistics(rel);
	char	   *answer;

	if (reason != NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign table \"%s\" has no statistics", RelationGetRelationName(rel)),
				 errdetail("%s", reason)));
		return false;
	}

	answer = ask(rel, psprintf("SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass) / %d",
							   name_literal(rel), BLCKSZ));
	*pages = answer ? (BlockNumber) strtoul(answer, NULL, 10) : 0;
	*func = acquire_sample;
	return true;
}

/*
 * kr_fdw_shape.c
 *	  What a table looks like in the data source: its columns' types there, and
 *	  whether COPY can write to it.
 *
 * One INSERT needs none of this: a parameter takes the type of its column. Many
 * rows in one statement do. A table is asked about once in a backend, and again
 * after any statement that relied on the answer and did not succeed: an answer
 * counts as doubtful while it is being used, and the user says when it was
 * right. COPY asks each time: in binary form it would take the bits of an integer
 * for those of a real.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "kr_fdw_bulk.h"

/* Tables that a backend remembers; then it starts anew. */
#define MAX_SHAPES 512

/* Two quoted identifiers of which every character is a quote. */
#define MAX_TABLE_NAME (2 * (2 * NAMEDATALEN + 2) + 2)

typedef struct ShapeKey
{
	pg_uuid_t	source_id;
	uint64		stamp;			/* of the source's options */
	char		table[MAX_TABLE_NAME];
} ShapeKey;

typedef struct ShapeEntry
{
	ShapeKey	key;
	bool		doubtful;
	MemoryContext cxt;			/* of the shape; NULL: none yet */
	KrShape		shape;
} ShapeEntry;

static HTAB *shapes = NULL;

/*
 * COPY writes past rules, is refused for views, and under row security. What the
 * agent tells is found by the default that kessel_agent.protect() sets.
 */
static const char *const shape_sql =
"SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, -1), "
"c.relkind IN ('r', 'p') AND NOT c.relhasrules AND NOT pg_catalog.row_security_active(c.oid), "
"a.attnum, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid) LIKE '%kessel\\_agent.tenant\\_id()%', false), "
"(SELECT pg_catalog.string_agg(' ' || pg_catalog.array_to_string((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1], ' ') || ' ', ',') "
"FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid), "
"a.attidentity = 'a', "
"c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) "
"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid "
"LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
"WHERE c.oid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

static void
forget_all(void)
{
	HASH_SEQ_STATUS status;
	ShapeEntry *entry;

	hash_seq_init(&status, shapes);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->cxt != NULL)
			MemoryContextDelete(entry->cxt);
	}
	hash_destroy(shapes);
	shapes = NULL;
}

static void
make_key(ShapeKey *key, const KrTarget *target, const char *table)
{
	memset(key, 0, sizeof(*key));
	key->source_id = target->source->id;
	key->stamp = target->source->stamp;
	strlcpy(key->table, table, sizeof(key->table));
}

static ShapeEntry *
find_entry(const KrTarget *target, const char *table)
{
	ShapeKey	key;
	ShapeEntry *entry;
	bool		found;

	if (shapes != NULL && hash_get_num_entries(shapes) >= MAX_SHAPES)
		forget_all();
	if (shapes == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(ShapeKey), .entrysize = sizeof(ShapeEntry)};

		shapes = hash_create("kessel remote tables", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	make_key(&key, target, table);
	entry = hash_search(shapes, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->doubtful = true;
		entry->cxt = NULL;
	}
	return entry;
}

/* What the data source says, in a context of the caller's. */
static void
ask(KrShape *shape, const KrTarget *target, const char *table)
{
	KrStream   *stream = palloc(sizeof(KrStream));
	PGresult   *result;

	memset(shape, 0, sizeof(*shape));
	shape->keys = "";
	kr_stream_init(stream, kr_remote_lease(target, false), CurrentMemoryContext, false, NULL, NULL);
	kr_stream_queue(stream, shape_sql, 1, &table, false);
	kr_stream_send(stream);
	result = kr_stream_next(stream);
	if (result == NULL || PQnfields(result) != 9)
		return;

	shape->ncolumns = PQntuples(result);
	shape->columns = palloc(Max(shape->ncolumns, 1) * sizeof(KrRemoteColumn));
	for (int i = 0; i < shape->ncolumns; i++)
	{
		shape->columns[i].name = pstrdup(PQgetvalue(result, i, 0));
		shape->columns[i].type = strtoul(PQgetvalue(result, i, 1), NULL, 10);
		shape->columns[i].type_name = pstrdup(PQgetvalue(result, i, 2));
		shape->copyable = strcmp(PQgetvalue(result, i, 3), "t") == 0;
		shape->columns[i].attnum = atoi(PQgetvalue(result, i, 4));
		shape->columns[i].is_tenant = strcmp(PQgetvalue(result, i, 5), "t") == 0;
		shape->keys = pstrdup(PQgetvalue(result, i, 6));
		shape->columns[i].takes_no_value = strcmp(PQgetvalue(result, i, 7), "t") == 0;
		shape->plain = shape->copyable && strcmp(PQgetvalue(result, i, 8), "t") == 0;
	}
}

const KrShape *
kr_shape_of(const KrTarget *target, const char *table)
{
	ShapeEntry *entry = find_entry(target, table);
	MemoryContext cxt;
	MemoryContext old;
	MemoryContext asking;
	KrShape		shape;

	if (!entry->doubtful)
	{
		entry->doubtful = true;
		return &entry->shape;
	}

	asking = AllocSetContextCreate(CurrentMemoryContext, "kessel remote table asked for",
								   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(asking);
	ask(&shape, target, table);
	MemoryContextSwitchTo(old);

	/* The way here may have led through another query that made room. */
	entry = find_entry(target, table);
	if (entry->cxt != NULL)
		MemoryContextDelete(entry->cxt);
	entry->cxt = NULL;
	cxt = AllocSetContextCreate(TopMemoryContext, "kessel remote table", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	entry->shape = shape;
	entry->shape.keys = pstrdup(shape.keys);
	entry->shape.columns = palloc(Max(shape.ncolumns, 1) * sizeof(KrRemoteColumn));
	for (int i = 0; i < shape.ncolumns; i++)
	{
		entry->shape.columns[i] = shape.columns[i];
		entry->shape.columns[i].name = pstrdup(shape.columns[i].name);
		entry->shape.columns[i].type_name = pstrdup(shape.columns[i].type_name);
	}
	entry->cxt = cxt;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(asking);
	return &entry->shape;
}

const KrShape *
kr_shape_ask(const KrTarget *target, const char *table)
{
	find_entry(target, table)->doubtful = true;
	return kr_shape_of(target, table);
}

void
kr_shape_confirm(const KrTarget *target, const char *table)
{
	ShapeKey	key;
	ShapeEntry *entry;

	if (shapes == NULL)
		return;
	make_key(&key, target, table);
	entry = hash_search(shapes, &key, HASH_FIND, NULL);
	if (entry != NULL && entry->cxt != NULL)
		entry->doubtful = false;
}

const KrRemoteColumn *
kr_shape_column(const KrShape *shape, const char *name)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		if (strcmp(shape->columns[i].name, name) == 0)
			return &shape->columns[i];
	}
	return NULL;
}

const char *
kr_shape_tenant_column(const KrShape *shape, Relation rel, List *attnums)
{
	const KrRemoteColumn *tenant = NULL;
	Bitmapset  *target = NULL;
	const char *key = shape->keys;
	bool		needed = false;
	ListCell   *cell;

	foreach(cell, attnums)
	{
		const KrRemoteColumn *column =
			kr_shape_column(shape, kr_fdw_column_name(rel, lfirst_int(cell)));

		if (column == NULL)
			return NULL;
		target = bms_add_member(target, column->attnum);
	}
	for (int i = 0; i < shape->ncolumns; i++)
	{
		if (shape->columns[i].is_tenant)
			tenant = &shape->columns[i];
	}
	if (tenant == NULL || target == NULL)
		return NULL;

	while (*key != '\0')
	{
		Bitmapset  *columns = NULL;

		while (*key != '\0' && *key != ',')
		{
			char	   *end;
			long		attnum = strtol(key, &end, 10);

			if (end == key)
				break;
			if (attnum > 0 && attnum <= MaxHeapAttributeNumber)
				columns = bms_add_member(columns, attnum);
			key = end;
		}
		if (bms_equal(columns, target))
			return NULL;
		columns = bms_del_member(columns, tenant->attnum);
		needed = needed || bms_equal(columns, target);
		while (*key != '\0' && *key++ != ',')
			;
	}
	return needed ? tenant->name : NULL;
}

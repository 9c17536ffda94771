/*
 * kr_fdw_sensitive.c
 *	  Which tables have columns whose values no error may repeat: those with the
 *	  column option sensitive.
 *
 * Asked for each table of each statement, so the answers are kept until the
 * table's definition changes.
 */
#include "postgres.h"

#include "access/table.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "kr_fdw.h"

typedef struct SensitiveEntry
{
	Oid			relid;
	bool		known;
	bool		sensitive;
} SensitiveEntry;

static HTAB *tables = NULL;

static void
forget(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	SensitiveEntry *entry;

	if (OidIsValid(relid))
	{
		entry = hash_search(tables, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->known = false;
		return;
	}
	hash_seq_init(&status, tables);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->known = false;
}

static bool
has_sensitive_column(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	bool		found = false;

	for (int attnum = 1; attnum <= RelationGetDescr(rel)->natts && !found; attnum++)
	{
		ListCell   *cell;

		if (TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attisdropped)
			continue;
		foreach(cell, GetForeignColumnOptions(relid, attnum))
		{
			DefElem    *option = lfirst_node(DefElem, cell);

			found = found || (strcmp(option->defname, "sensitive") == 0 && defGetBoolean(option));
		}
	}
	table_close(rel, NoLock);
	return found;
}

bool
kr_fdw_is_sensitive(Oid relid)
{
	SensitiveEntry *entry;
	bool		found;

	if (tables == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(SensitiveEntry)};

		tables = hash_create("kessel sensitive tables", 64, &ctl, HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	}
	entry = hash_search(tables, &relid, HASH_ENTER, &found);
	if (!found)
		entry->known = false;
	if (!entry->known)
	{
		/* Set first: reading the catalogs may bring the news that it is outdated. */
		entry->sensitive = true;
		entry->known = true;
		entry->sensitive = has_sensitive_column(relid);
	}
	return entry->sensitive;
}

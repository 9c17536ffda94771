/*
 * kr_watch.c
 *	  Noticing that the extension's tables have changed.
 *
 * A trigger on each of these tables sends one and the same message at commit:
 * the relcache invalidation of app.tenants, which stands for "any of them".
 * Changes of roles come by syscache. Callbacks run at any place where locks
 * are taken, so they only count.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "kr_watch.h"

PG_FUNCTION_INFO_V1(kr_watch_changed);

static uint64 generation = 1;
static Oid	watched_relation = InvalidOid;

static Oid
watched_relation_oid(void)
{
	Oid			schema = get_namespace_oid("app", true);

	return OidIsValid(schema) ? get_relname_relid("tenants", schema) : InvalidOid;
}

uint64
kr_watch_generation(void)
{
	AcceptInvalidationMessages();

	/* After a change its oid may be another: the extension was made anew. */
	if (!OidIsValid(watched_relation))
		watched_relation = watched_relation_oid();
	return generation;
}

/* kessel._changed(): row and truncate trigger of what is cached somewhere. */
Datum
kr_watch_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kessel._changed() must be called as a trigger")));

	CacheInvalidateRelcacheByRelid(watched_relation_oid());
	return PointerGetDatum(NULL);
}

static void
relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || !OidIsValid(watched_relation) || relid == watched_relation)
	{
		generation++;
		watched_relation = InvalidOid;
	}
}

static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}

void
kr_watch_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, syscache_callback, (Datum) 0);
}

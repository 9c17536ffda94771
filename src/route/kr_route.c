/*
 * kr_route.c
 *	  Tenant -> route, checked against the caller and cached in the backend.
 *
 * Owns three hash tables in one memory context: routes by the name under which
 * a tenant was asked for, data sources by id and purpose, and memberships that
 * were found. After a change of the tables behind them (kr_watch.h) the next
 * lookup starts a new cache, and the old one lives to the end of the
 * transaction, because plans that are running point into it.
 *
 * Rows are read with the newest snapshot. Were an older one used, an
 * invalidation could be consumed after the snapshot was taken and before the
 * row was stored, and the cache would keep what has already been revoked. As it
 * is, a change that the snapshot does not see sends its invalidation later, and
 * an invalidation that arrives during the reading discards what was read.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "kr_error.h"
#include "kr_route.h"
#include "kr_session.h"
#include "kr_spi.h"
#include "kr_vault.h"
#include "kr_watch.h"

#define KR_TENANT_NAME_MAX 64

/* A backend that works for more tenants than this starts anew now and then. */
#define MAX_CACHED_ROUTES 10000

typedef struct RouteEntry
{
	char		name[KR_TENANT_NAME_MAX];	/* key: slug or uuid, as asked for */
	KrRoute		route;
} RouteEntry;

typedef struct SourceKey
{
	pg_uuid_t	id;
	char		purpose[16];
} SourceKey;

typedef struct SourceEntry
{
	SourceKey	key;
	KrSource	source;
} SourceEntry;

typedef struct MemberKey
{
	pg_uuid_t	user_id;
	pg_uuid_t	tenant_id;
} MemberKey;

typedef struct RouteCache
{
	MemoryContext cxt;
	HTAB	   *routes;
	HTAB	   *sources;
	HTAB	   *members;
} RouteCache;

static RouteCache cache;
static uint64 cache_generation = 0;

/* Parent of the caches that were replaced in this transaction. */
static MemoryContext replaced_caches = NULL;

const char *
kr_isolation_name(KrIsolation isolation)
{
	switch (isolation)
	{
		case KR_ISOLATION_DATABASE:
			return "database";
		case KR_ISOLATION_SCHEMA:
			return "schema";
		case KR_ISOLATION_ROW:
			return "row";
	}
	return "unknown";
}

static KrIsolation
isolation_of_text(const char *text)
{
	if (strcmp(text, "schema") == 0)
		return KR_ISOLATION_SCHEMA;
	if (strcmp(text, "row") == 0)
		return KR_ISOLATION_ROW;
	return KR_ISOLATION_DATABASE;
}

/* ---------- the cache ---------- */

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (replaced_caches != NULL)
				MemoryContextDelete(replaced_caches);
			replaced_caches = NULL;
			break;
		default:
			break;
	}
}

static HTAB *
create_table(const char *name, Size keysize, Size entrysize, int flags)
{
	HASHCTL		ctl;

	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = cache.cxt;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_CONTEXT | flags);
}

/* Take in what other backends have committed; start anew if it concerns us. */
static void
freshen_cache(void)
{
	uint64		generation = kr_watch_generation();

	if (cache.members != NULL && cache_generation == generation &&
		hash_get_num_entries(cache.routes) < MAX_CACHED_ROUTES &&
		hash_get_num_entries(cache.members) < MAX_CACHED_ROUTES)
		return;

	if (cache.cxt != NULL)
	{
		if (replaced_caches == NULL)
			replaced_caches = AllocSetContextCreate(TopMemoryContext,
													"kessel replaced routes",
													ALLOCSET_SMALL_SIZES);
		MemoryContextSetParent(cache.cxt, replaced_caches);
		memset(&cache, 0, sizeof(cache));
	}

	cache_generation = generation;
	cache.cxt = AllocSetContextCreate(TopMemoryContext, "kessel routes",
									  ALLOCSET_SMALL_SIZES);
	cache.routes = create_table("kessel routes", KR_TENANT_NAME_MAX,
								sizeof(RouteEntry), HASH_STRINGS);
	cache.sources = create_table("kessel sources", sizeof(SourceKey),
								 sizeof(SourceEntry), HASH_BLOBS);
	cache.members = create_table("kessel members", sizeof(MemberKey),
								 sizeof(MemberKey), HASH_BLOBS);
}

/*
 * Run `fill` on a cache that no invalidation has reached meanwhile. Each round
 * reads with a newer snapshot.
 */
#define FILL_CACHE(fill) \
	do { \
		KrSpi		spi_; \
		freshen_cache(); \
		kr_spi_begin(&spi_); \
		fill; \
		kr_spi_end(&spi_); \
	} while (cache_generation != kr_watch_generation())

/* ---------- data sources ---------- */

/*
 * A credential is opened for those who may use it, also where a connection is
 * kept; while a table is maintained, for its owner, too.
 */
static void
check_credential(const KrSource *source, const char *purpose)
{
	Oid			roles[] = {kr_session_role(), GetUserId()};

	if (!source->has_secret)
		return;
	for (int i = 0; i < (InSecurityRestrictedOperation() ? 2 : 1); i++)
	{
		if (!kr_vault_may(roles[i], &source->secret_id, KR_PRIVILEGE_USE))
			kr_vault_demand(roles[i], &source->secret_id, KR_PRIVILEGE_USE, purpose,
							psprintf("the credential of data source \"%s\"", source->name));
	}
}

#define SOURCE_QUERY \
	"SELECT s.id, s.name, s.isolation, s.status, s.agent_version," \
	"       COALESCE(s.options ->> 'schema', 'public')," \
	"       COALESCE((s.options ->> 'allow_local')::bool, false)," \
	"       COALESCE((s.options ->> 'password_required')::bool, true)," \
	"       s.options ->> 'pooler' IS NOT DISTINCT FROM 'transaction'," \
	"       ARRAY(SELECT o.key FROM pg_catalog.jsonb_each_text(s.conninfo) o ORDER BY o.key)," \
	"       ARRAY(SELECT o.value FROM pg_catalog.jsonb_each_text(s.conninfo) o ORDER BY o.key)," \
	"       c.username, c.secret_id, v.version " \
	"FROM app.data_sources s " \
	"LEFT JOIN app.data_source_credentials c ON c.data_source_id = s.id AND c.purpose = $2 " \
	"LEFT JOIN vault.secrets v ON v.id = c.secret_id " \
	"WHERE s.id = $1"

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static char **
text_array(Datum array, MemoryContext cxt, int *count)
{
	Datum	   *elems;
	char	  **result;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, count);
	result = MemoryContextAlloc(cxt, sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = MemoryContextStrdup(cxt, TextDatumGetCString(elems[i]));
	return result;
}

uint64
kr_source_stamp_text(uint64 stamp, const char *text)
{
	if (text == NULL)
		text = "\001";
	return hash_bytes_extended((const unsigned char *) text, strlen(text) + 1, stamp);
}

static uint64
source_stamp(const KrSource *source, const char *secret, const char *version)
{
	uint64		stamp = kr_source_stamp_text(0, source->username);

	stamp = kr_source_stamp_text(stamp, secret);
	stamp = kr_source_stamp_text(stamp, version);
	stamp = kr_source_stamp_text(stamp, source->allow_local ? "local" : "");
	stamp = kr_source_stamp_text(stamp, source->password_required ? "password" : "");
	stamp = kr_source_stamp_text(stamp, source->transaction_pooler ? "pooler" : "");
	for (int i = 0; i < source->noptions; i++)
	{
		stamp = kr_source_stamp_text(stamp, source->keywords[i]);
		stamp = kr_source_stamp_text(stamp, source->values[i]);
	}
	return stamp;
}

/* Within kr_spi_begin/end. False where there is no such data source. */
static bool
load_source(const pg_uuid_t *id, const char *purpose, KrSource *source)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID, TEXTOID};
	MemoryContext cxt = cache.cxt;
	Datum		values[2];
	Datum		secret_id;
	bool		isnull;
	int			nvalues;

	values[0] = UUIDPGetDatum(id);
	values[1] = CStringGetTextDatum(purpose);
	kr_spi_read(&plan, SOURCE_QUERY, 2, argtypes, values);
	if (SPI_processed != 1)
		return false;

	memset(source, 0, sizeof(*source));
	source->id = *id;
	source->name = kr_spi_text(0, 2, cxt);
	source->isolation = isolation_of_text(kr_spi_text(0, 3, cxt));
	source->active = strcmp(kr_spi_text(0, 4, cxt), "active") == 0;
	source->has_agent = kr_spi_text(0, 5, cxt) != NULL;
	source->schema = kr_spi_text(0, 6, cxt);
	source->allow_local = DatumGetBool(column(7, &isnull));
	source->password_required = DatumGetBool(column(8, &isnull));
	source->transaction_pooler = DatumGetBool(column(9, &isnull));
	source->keywords = text_array(column(10, &isnull), cxt, &source->noptions);
	source->values = text_array(column(11, &isnull), cxt, &nvalues);
	source->is_owner = strcmp(purpose, "owner") == 0;
	source->username = kr_spi_text(0, 12, cxt);
	secret_id = column(13, &isnull);
	source->has_secret = !isnull;
	if (source->has_secret)
	{
		source->secret_id = *DatumGetUUIDP(secret_id);
		source->secret_version = DatumGetInt32(column(14, &isnull));
	}
	source->stamp = source_stamp(source, kr_spi_text(0, 13, cxt), kr_spi_text(0, 14, cxt));
	return true;
}

/* The cached source, or NULL. Within kr_spi_begin/end. */
static const KrSource *
find_source(const pg_uuid_t *id, const char *purpose)
{
	SourceKey	key;
	SourceEntry *entry;
	KrSource	source;

	memset(&key, 0, sizeof(key));
	key.id = *id;
	strlcpy(key.purpose, purpose, sizeof(key.purpose));
	entry = hash_search(cache.sources, &key, HASH_FIND, NULL);
	if (entry != NULL)
		return &entry->source;

	if (!load_source(id, purpose, &source))
		return NULL;
	if (source.username == NULL && strcmp(purpose, "owner") == 0)
		(void) load_source(id, "runtime", &source);
	entry = hash_search(cache.sources, &key, HASH_ENTER, NULL);
	entry->source = source;
	return &entry->source;
}

const KrSource *
kr_source_by_id(const pg_uuid_t *id, const char *purpose)
{
	const KrSource *source;

	FILL_CACHE(source = find_source(id, purpose));
	if (source == NULL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_DATA_SOURCE),
				 errmsg("data source does not exist"),
				 errhint("SELECT name FROM app.data_sources lists those that do.")));
	check_credential(source, purpose);
	return source;
}

static char *
copy_text(const char *text)
{
	return text ? pstrdup(text) : NULL;
}

KrSource *
kr_source_copy(const KrSource *source)
{
	KrSource   *copy = palloc(sizeof(KrSource));

	*copy = *source;
	copy->name = copy_text(source->name);
	copy->schema = copy_text(source->schema);
	copy->username = copy_text(source->username);
	copy->password = copy_text(source->password);
	copy->keywords = palloc(sizeof(char *) * Max(source->noptions, 1));
	copy->values = palloc(sizeof(char *) * Max(source->noptions, 1));
	for (int i = 0; i < source->noptions; i++)
	{
		copy->keywords[i] = pstrdup(source->keywords[i]);
		copy->values[i] = pstrdup(source->values[i]);
	}
	return copy;
}

static const KrSource *
find_source_by_name(const char *name)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {TEXTOID};
	Datum		value = CStringGetTextDatum(name);
	bool		isnull;
	pg_uuid_t	id;

	kr_spi_read(&plan, "SELECT id FROM app.data_sources WHERE name = $1", 1,
			   argtypes, &value);
	if (SPI_processed != 1)
		return NULL;
	id = *DatumGetUUIDP(column(1, &isnull));
	return find_source(&id, "runtime");
}

const KrSource *
kr_source_by_name(const char *name)
{
	const KrSource *source;

	FILL_CACHE(source = find_source_by_name(name));
	if (source == NULL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_DATA_SOURCE),
				 errmsg("data source \"%s\" does not exist", kr_error_name(name)),
				 errhint("SELECT name FROM app.data_sources lists those that do.")));
	return source;
}

/* ---------- tenants ---------- */

#define ROUTE_QUERY \
	"SELECT t.id, t.slug, t.status, t.isolation, t.tenant_id_in_data_source," \
	"       t.route_epoch, t.data_source_id " \
	"FROM app.tenants t "

/* Within kr_spi_begin/end. NULL where there is no such tenant. */
static const KrRoute *
load_route(const char *tenant)
{
	static SPIPlanPtr by_slug = NULL;
	static SPIPlanPtr by_id = NULL;
	static const Oid text_arg[] = {TEXTOID};
	static const Oid uuid_arg[] = {UUIDOID};
	KrRoute		route = {0};
	RouteEntry *entry;
	pg_uuid_t	id;
	pg_uuid_t	source_id;
	Datum		value;
	bool		isnull;

	if (kr_session_parse_uuid(tenant, &id))
	{
		value = UUIDPGetDatum(&id);
		kr_spi_read(&by_id, ROUTE_QUERY "WHERE t.id = $1", 1, uuid_arg,
				   &value);
	}
	else
	{
		value = CStringGetTextDatum(tenant);
		kr_spi_read(&by_slug, ROUTE_QUERY "WHERE t.slug = $1", 1, text_arg,
				   &value);
	}
	if (SPI_processed != 1)
		return NULL;

	route.tenant_id = *DatumGetUUIDP(column(1, &isnull));
	route.slug = kr_spi_text(0, 2, cache.cxt);
	route.active = strcmp(kr_spi_text(0, 3, cache.cxt), "active") == 0;
	route.isolation = isolation_of_text(kr_spi_text(0, 4, cache.cxt));
	route.id_in_source = kr_spi_text(0, 5, cache.cxt);
	route.epoch = DatumGetInt64(column(6, &isnull));
	source_id = *DatumGetUUIDP(column(7, &isnull));

	route.source = find_source(&source_id, "runtime");
	if (route.source == NULL)
		return NULL;
	entry = hash_search(cache.routes, tenant, HASH_ENTER, NULL);
	entry->route = route;
	return &entry->route;
}

/* NULL where there is no such tenant; nothing else is checked. */
static const KrRoute *
find_route(const char *tenant)
{
	RouteEntry *entry;
	const KrRoute *route;

	freshen_cache();
	entry = hash_search(cache.routes, tenant, HASH_FIND, NULL);
	if (entry != NULL)
		return &entry->route;

	FILL_CACHE(route = load_route(tenant));
	return route;
}

/* Within kr_spi_begin/end. */
static bool
load_membership(const MemberKey *key)
{
	static SPIPlanPtr plan = NULL;
	static const Oid argtypes[] = {UUIDOID, UUIDOID};
	Datum		values[2];

	values[0] = UUIDPGetDatum(&key->user_id);
	values[1] = UUIDPGetDatum(&key->tenant_id);
	kr_spi_read(&plan,
			   "SELECT FROM app.user_tenants WHERE user_id = $1 AND tenant_id = $2 AND is_active",
			   2, argtypes, values);
	if (SPI_processed != 1)
		return false;
	(void) hash_search(cache.members, key, HASH_ENTER, NULL);
	return true;
}

static bool
is_member(const pg_uuid_t *user_id, const pg_uuid_t *tenant_id)
{
	MemberKey	key;
	bool		member;

	memset(&key, 0, sizeof(key));
	key.user_id = *user_id;
	key.tenant_id = *tenant_id;
	freshen_cache();
	if (hash_search(cache.members, &key, HASH_FIND, NULL) != NULL)
		return true;

	FILL_CACHE(member = load_membership(&key));
	return member;
}

static void
check_membership(const KrRoute *route)
{
	pg_uuid_t	user_id;

	if (kr_session_enters_any_tenant())
		return;
	if (!kr_session_user_id(&user_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for tenant \"%s\"", route->slug),
				 InSecurityRestrictedOperation() ?
				 errdetail("The session names no user, and its role opens no tenant to what runs while a table or materialized view is maintained.") :
				 errdetail("The session names no user, and role \"%s\" is in neither kessel_admin nor kessel_service.",
						   GetUserNameFromId(kr_session_role(), false)),
				 errhint("Set request.jwt.claims to the user's claims; their \"sub\" is the user.")));
	if (!is_member(&user_id, &route->tenant_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for tenant \"%s\"", route->slug),
				 errdetail("The session's user is not an active member of it."),
				 errhint("An administrator can call kessel.add_member().")));
}

static void
check_usable(const KrRoute *route)
{
	if (!route->active)
		ereport(ERROR,
				(errcode(KR_ERR_TENANT_SUSPENDED),
				 errmsg("tenant \"%s\" is suspended", route->slug),
				 errhint("An administrator can call kessel.resume_tenant().")));
	if (!route->source->active)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" of tenant \"%s\" is disabled",
						route->source->name, route->slug),
				 errhint("An administrator can call kessel.alter_data_source() with status => 'active'.")));
}

static const KrRoute *
require_route(const char *tenant)
{
	const KrRoute *route = find_route(tenant);

	if (route == NULL)
		ereport(ERROR,
				(errcode(KR_ERR_UNKNOWN_TENANT),
				 errmsg("tenant \"%s\" does not exist", kr_error_name(tenant)),
				 errhint("kessel.tenant is the slug or the id of a tenant.")));
	return route;
}

/* For whom the session may work; not whether it may use the credential. */
static const KrRoute *
check_tenant(const char *tenant)
{
	const KrRoute *route = require_route(tenant);

	check_membership(route);
	check_usable(route);
	return route;
}

const KrRoute *
kr_route_to_enter(const char *tenant)
{
	const KrRoute *route = check_tenant(tenant);

	check_credential(route->source, "route");
	return route;
}

const KrRoute *
kr_route_entered(void)
{
	const char *tenant = kr_session_tenant();

	if (tenant == NULL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_TENANT),
				 errmsg("no tenant is set"),
				 errdetail("Neither kessel.tenant nor the claims name one."),
				 errhint("SET kessel.tenant = '...'; or, within a transaction, SELECT kessel.use_tenant('...').")));
	return check_tenant(tenant);
}

const KrRoute *
kr_route_of_session(void)
{
	const KrRoute *route = kr_route_entered();

	check_credential(route->source, "route");
	return route;
}

char **
kr_route_active_tenants(MemoryContext cxt, int *count)
{
	static SPIPlanPtr plan = NULL;
	char	  **slugs;
	KrSpi		spi;

	kr_spi_begin(&spi);
	kr_spi_read(&plan, "SELECT slug FROM app.tenants WHERE status = 'active' ORDER BY slug",
				0, NULL, NULL);
	*count = SPI_processed;
	slugs = MemoryContextAllocHuge(cxt, sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		slugs[i] = kr_spi_text(i, 1, cxt);
	kr_spi_end(&spi);
	return slugs;
}

const KrRoute *
kr_route_of_tenant(const char *tenant)
{
	const KrRoute *route = require_route(tenant);

	check_usable(route);
	check_credential(route->source, "route");
	return route;
}

void
kr_route_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

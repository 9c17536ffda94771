/*
 * kr_fdw_server.c
 *	  What a foreign server is, and the source that a bound one leads to.
 *
 * A server with an option of libpq is bound to that database, as one of
 * postgres_fdw is, and needs a user mapping. With `tenant` or `data_source` it
 * is bound to what these name. Every other server is a router: an option that
 * was forgotten makes it ask for a tenant, and never leads anywhere by itself.
 *
 * The answers are cached for each server and user. The cache starts anew when a
 * server, a user mapping or a secret was changed by anybody; what was handed
 * out lives to the end of the transaction. Connections tell by the source's
 * stamp whether they were made under the same options.
 *
 * A mapping may name a secret of the vault. Whoever may say to which host a
 * secret is sent can read it, so both who writes the mapping (checked by the
 * validator) and who owns the server (checked here, each time) must have the
 * privilege to reveal it.
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "kr_fdw.h"
#include "kr_vault.h"
#include "kr_watch.h"

/* The extension's own: it is never anything but a router. */
#define KR_ROUTER_SERVER "kessel_router"

typedef struct ServerKey
{
	Oid			serverid;
	Oid			userid;			/* InvalidOid: the server alone */
} ServerKey;

typedef struct ServerEntry
{
	ServerKey	key;
	KrServer	server;
} ServerEntry;

static MemoryContext cache_cxt = NULL;
static HTAB *cache = NULL;
static bool cache_is_stale = true;
static uint64 cache_generation = 0;

/* Parent of the caches that were replaced in this transaction. */
static MemoryContext replaced_caches = NULL;

/* ---------- options of libpq ---------- */

/* Those of all contexts; NULL where it is none that a user may set. */
static const PQconninfoOption *
libpq_option(const char *name)
{
	static PQconninfoOption *all = NULL;

	if (all == NULL && (all = PQconndefaults()) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("libpq could not list its options.")));

	for (const PQconninfoOption *option = all; option->keyword != NULL; option++)
	{
		if (strcmp(option->keyword, name) == 0)
			return strchr(option->dispchar, 'D') == NULL &&
				strcmp(name, "client_encoding") != 0 &&
				strcmp(name, "fallback_application_name") != 0 ? option : NULL;
	}
	return NULL;
}

bool
kr_fdw_is_connection_option(const char *name)
{
	return libpq_option(name) != NULL;
}

/* ---------- secrets ---------- */

/* Fills in the secret's id; adds its version to the stamp. */
static void
find_secret(const char *secret, const ForeignServer *server, KrSource *source)
{
	int32		version;

	if (!kr_vault_find(secret, &source->secret_id, &version))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("secret \"%s\" does not exist", secret),
				 errdetail("A user mapping for server \"%s\" names it.", server->servername),
				 errhint("Create it with vault.create_secret(), or change the user mapping.")));
	source->has_secret = true;
	source->stamp = kr_source_stamp_text(source->stamp, psprintf("%d", version));
}

/* ---------- building what is cached ---------- */

static bool
find_bool(List *options, const char *name, bool value)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			value = defGetBoolean(option);
	}
	return value;
}

static bool
has_connection_option(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		if (kr_fdw_is_connection_option(lfirst_node(DefElem, cell)->defname))
			return true;
	}
	return false;
}

static char *
copy_text(const char *text)
{
	return text ? MemoryContextStrdup(cache_cxt, text) : NULL;
}

/*
 * An id that no data source has: theirs are of another version. A mapping for
 * PUBLIC is one mapping, whoever uses it, and one connection.
 */
static void
make_id(pg_uuid_t *id, Oid serverid, Oid umid)
{
	memset(id, 0, sizeof(*id));
	memcpy(&id->data[0], "kr", 2);
	memcpy(&id->data[8], &serverid, sizeof(serverid));
	memcpy(&id->data[12], &umid, sizeof(umid));
}

/* Server first, so that the mapping's options win, as in postgres_fdw. */
static void
take_options(KrSource *source, List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);
		char	   *value;

		if (!kr_fdw_is_connection_option(option->defname))
			continue;
		value = copy_text(defGetString(option));
		source->stamp = kr_source_stamp_text(source->stamp, option->defname);
		source->stamp = kr_source_stamp_text(source->stamp, value);
		if (strcmp(option->defname, "user") == 0)
			source->username = value;
		else if (strcmp(option->defname, "password") == 0)
			source->password = value;
		else
		{
			source->keywords[source->noptions] = copy_text(option->defname);
			source->values[source->noptions++] = value;
		}
	}
}

static void
build_source(const ForeignServer *server, Oid userid, KrSource *source)
{
	UserMapping *mapping = GetUserMapping(userid, server->serverid);
	int			most = list_length(server->options) + list_length(mapping->options);
	const char *secret = kr_fdw_option(mapping->options, "secret");
	const char *pooler = kr_fdw_option(server->options, "pooler");

	make_id(&source->id, server->serverid, mapping->umid);
	source->serverid = server->serverid;
	source->mappingid = mapping->umid;
	source->name = copy_text(server->servername);
	source->isolation = KR_ISOLATION_DATABASE;
	source->active = true;
	source->allow_local = true;
	source->password_required = !superuser_arg(userid) &&
		find_bool(mapping->options, "password_required", true);
	source->transaction_pooler = pooler != NULL && strcmp(pooler, "transaction") == 0;
	source->stamp = kr_source_stamp_text(source->stamp, source->transaction_pooler ? "pooler" : "");
	/* No schema is special here: the marker stands for itself. */
	source->schema = copy_text(KR_TENANT_SCHEMA_MARKER);
	source->keywords = MemoryContextAlloc(cache_cxt, Max(most, 1) * sizeof(char *));
	source->values = MemoryContextAlloc(cache_cxt, Max(most, 1) * sizeof(char *));
	take_options(source, server->options);
	take_options(source, mapping->options);
	if (secret != NULL)
		find_secret(secret, server, source);
}

/* A mapping that has something to say, where nobody would listen. */
static void
refuse_mapping(const ForeignServer *server, Oid userid)
{
	HeapTuple	tuple;
	bool		isnull = true;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							ObjectIdGetDatum(server->serverid));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server->serverid));
	if (!HeapTupleIsValid(tuple))
		return;
	(void) SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	ReleaseSysCache(tuple);
	if (!isnull)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("server \"%s\" takes no user mapping", server->servername),
				 errdetail("It has no connection options of its own; the credential is that of the data source."),
				 errhint("Drop the user mapping. kessel.set_credential() sets a data source's credential.")));
}

static void
build_server(Oid serverid, Oid userid, KrServer *result)
{
	ForeignServer *server = GetForeignServer(serverid);
	const char *tenant = kr_fdw_option(server->options, "tenant");
	const char *data_source = kr_fdw_option(server->options, "data_source");

	memset(result, 0, sizeof(*result));
	result->kind = KR_SERVER_ROUTER;
	if (tenant != NULL)
		result->kind = KR_SERVER_TENANT;
	else if (data_source != NULL)
		result->kind = KR_SERVER_DATA_SOURCE;
	else if (has_connection_option(server->options))
		result->kind = KR_SERVER_BOUND;
	if (result->kind == KR_SERVER_BOUND && strcmp(server->servername, KR_ROUTER_SERVER) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("server \"%s\" must not have connection options", KR_ROUTER_SERVER),
				 errdetail("All tenants would read the same database."),
				 errhint("Drop them with ALTER SERVER, and create a server of its own for this database.")));
	result->name = copy_text(server->servername);
	result->bound_to = copy_text(tenant ? tenant : data_source);
	result->keep_connections = find_bool(server->options, "keep_connections", true);
	result->owner = server->owner;
	if (!OidIsValid(userid))
		return;
	if (result->kind == KR_SERVER_BOUND)
		build_source(server, userid, &result->source);
	else
		refuse_mapping(server, userid);
}

/* ---------- the cache ---------- */

static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	cache_is_stale = true;
}

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
			kr_forget_truncated();
			break;
		default:
			break;
	}
}

static void
freshen_cache(void)
{
	HASHCTL		ctl;
	uint64		generation = kr_watch_generation();

	if (cache != NULL && !cache_is_stale && cache_generation == generation)
		return;
	if (cache_cxt != NULL)
	{
		if (replaced_caches == NULL)
			replaced_caches = AllocSetContextCreate(TopMemoryContext,
													"kessel replaced servers",
													ALLOCSET_SMALL_SIZES);
		MemoryContextSetParent(cache_cxt, replaced_caches);
		cache = NULL;
	}

	cache_is_stale = false;
	cache_generation = generation;
	cache_cxt = AllocSetContextCreate(TopMemoryContext, "kessel servers",
									  ALLOCSET_SMALL_SIZES);
	ctl.keysize = sizeof(ServerKey);
	ctl.entrysize = sizeof(ServerEntry);
	ctl.hcxt = cache_cxt;
	cache = hash_create("kessel servers", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Who decides to which host a secret is sent can read it. */
static const KrServer *
check_secret(const KrServer *server)
{
	if (server->source.has_secret &&
		!kr_vault_may(server->owner, &server->source.secret_id, KR_PRIVILEGE_REVEAL))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("no secret can be used for server \"%s\"", server->name),
				 errdetail("Its owner, who decides to which host it is sent, may not read the secret."),
				 errhint("Give the server to a superuser with ALTER SERVER ... OWNER TO, grant its owner the privilege reveal with vault.grant_secret(), or write the password into the user mapping.")));
	return server;
}

const KrServer *
kr_fdw_server(Oid serverid, Oid userid)
{
	ServerKey	key;
	ServerEntry *entry;
	KrServer	server;

	key.serverid = serverid;
	key.userid = userid;
	freshen_cache();
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry != NULL)
		return check_secret(&entry->server);

	/* Reading the catalogs may bring news of them. */
	for (;;)
	{
		build_server(serverid, userid, &server);
		if (!cache_is_stale && cache_generation == kr_watch_generation())
			break;
		freshen_cache();
	}
	entry = hash_search(cache, &key, HASH_ENTER, NULL);
	entry->server = server;
	return check_secret(&entry->server);
}

void
kr_fdw_server_init(void)
{
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, syscache_callback, (Datum) 0);
	RegisterXactCallback(xact_callback, NULL);
}

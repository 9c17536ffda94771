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
 * validator) and who owns the server (checked here, each time) must be allowed
 * to read secrets.
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "kr_error.h"
#include "kr_fdw.h"
#include "kr_session.h"
#include "kr_spi.h"

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

/* app.tenants, whose relcache invalidation tells of changed secrets, too. */
static Oid	watched_relation = InvalidOid;

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

/* Without asking whether the current user may look into the schema. */
static Oid
function_oid(const char *name, Oid schema)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Oid			function = InvalidOid;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc form = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (form->pronamespace == schema)
			function = form->oid;
	}
	ReleaseSysCacheList(list);
	return function;
}

/* Privileges on the view do not extend to the function that opens them. */
bool
kr_fdw_may_read_secrets(Oid role)
{
	Oid			schema;
	Oid			view;
	Oid			function;

	if (superuser_arg(role))
		return true;
	schema = get_namespace_oid("vault", true);
	if (!OidIsValid(schema) || !kr_may_use_schema(schema, role))
		return false;
	view = get_relname_relid("decrypted_secrets", schema);
	function = function_oid("_open", schema);
	return OidIsValid(view) && OidIsValid(function) &&
		pg_class_aclcheck(view, role, ACL_SELECT) == ACLCHECK_OK &&
		kr_may_execute(function, role);
}

/* Fills in the secret's id; adds its version to the stamp. */
static void
find_secret(const char *secret, const ForeignServer *server, KrSource *source)
{
	static SPIPlanPtr by_name = NULL;
	static SPIPlanPtr by_id = NULL;
	static const Oid text_arg[] = {TEXTOID};
	static const Oid uuid_arg[] = {UUIDOID};
	KrSpi		spi;
	Datum		value;
	bool		isnull;

	kr_spi_begin(&spi);
	if (kr_session_parse_uuid(secret, &source->secret_id))
	{
		value = UUIDPGetDatum(&source->secret_id);
		kr_spi_read(&by_id, "SELECT id, version::text FROM vault.secrets WHERE id = $1",
					1, uuid_arg, &value);
	}
	else
	{
		value = CStringGetTextDatum(secret);
		kr_spi_read(&by_name, "SELECT id, version::text FROM vault.secrets WHERE name = $1",
					1, text_arg, &value);
	}
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("secret \"%s\" does not exist", secret),
				 errdetail("A user mapping for server \"%s\" names it.", server->servername),
				 errhint("Create it with vault.create_secret(), or change the user mapping.")));
	source->secret_id = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1, &isnull));
	source->has_secret = true;
	source->stamp = kr_source_stamp_text(source->stamp, kr_spi_text(0, 2, CurrentMemoryContext));
	kr_spi_end(&spi);
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
relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == watched_relation)
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
	Oid			schema;

	if (cache != NULL && !cache_is_stale)
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
	schema = get_namespace_oid("app", true);
	watched_relation = OidIsValid(schema) ? get_relname_relid("tenants", schema) : InvalidOid;
	cache_cxt = AllocSetContextCreate(TopMemoryContext, "kessel servers",
									  ALLOCSET_SMALL_SIZES);
	ctl.keysize = sizeof(ServerKey);
	ctl.entrysize = sizeof(ServerEntry);
	ctl.hcxt = cache_cxt;
	cache = hash_create("kessel servers", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Privileges on the vault are not what the cache is told of. */
static const KrServer *
check_secret(const KrServer *server)
{
	if (server->source.has_secret && !kr_fdw_may_read_secrets(server->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("no secret can be used for server \"%s\"", server->name),
				 errdetail("Its owner, who decides to which host it is sent, may not read secrets."),
				 errhint("Give the server to a superuser with ALTER SERVER ... OWNER TO, or write the password into the user mapping.")));
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
		if (!cache_is_stale)
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
	CacheRegisterSyscacheCallback(AUTHOID, syscache_callback, (Datum) 0);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	RegisterXactCallback(xact_callback, NULL);
}

/*
 * kr_route.h
 *	  Tenant -> route, checked against the caller and cached in the backend.
 *
 * What these functions return belongs to the cache. It stays valid to the end
 * of the transaction in which it was asked for, also when an invalidation
 * arrives meanwhile.
 */
#ifndef KR_ROUTE_H
#define KR_ROUTE_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KrIsolation
{
	KR_ISOLATION_DATABASE,
	KR_ISOLATION_SCHEMA,
	KR_ISOLATION_ROW
} KrIsolation;

/*
 * A data source with the credential of one purpose, or what a foreign server
 * with options of libpq leads to (kr_fdw_server.c): that has no agent, and the
 * rules of postgres_fdw.
 */
typedef struct KrSource
{
	pg_uuid_t	id;
	Oid			serverid;		/* foreign server and user mapping; InvalidOid: a data source */
	Oid			mappingid;
	char	   *name;
	KrIsolation isolation;
	bool		active;
	bool		allow_local;	/* may name a unix socket or this server */
	bool		password_required;
	bool		transaction_pooler; /* a pooler stands before it that keeps no sessions */
	bool		has_agent;
	char	   *schema;			/* where tenants' tables are, but for schema isolation */
	int			noptions;
	char	  **keywords;		/* libpq, without user and password */
	char	  **values;
	bool		is_owner;		/* the credential is that of the purpose owner */
	char	   *username;		/* NULL: no credential of this purpose; of a server: libpq's default */
	char	   *password;		/* written in the user mapping; else NULL */
	bool		has_secret;
	pg_uuid_t	secret_id;
	int32		secret_version; /* of a data source's, when it was looked up */
	uint64		stamp;			/* differs when a connection made earlier is of no use */
} KrSource;

typedef struct KrRoute
{
	pg_uuid_t	tenant_id;
	char	   *slug;
	bool		active;
	KrIsolation isolation;
	char	   *id_in_source;
	int64		epoch;
	const KrSource *source;
} KrRoute;

/*
 * The route of the tenant that the session names, for the user and role it
 * speaks for. Errors: KR001 none named, KR002 unknown, KR003 suspended, 42501
 * not a member, KR005 source not in use.
 */
extern const KrRoute *kr_route_of_session(void);

/* The same for who does not go there: the credential need not be one to be used. */
extern const KrRoute *kr_route_entered(void);

/* The same for a tenant named otherwise, without asking for membership. */
extern const KrRoute *kr_route_of_tenant(const char *tenant);

/* For a tenant named otherwise, with all that is asked of the session's. */
extern const KrRoute *kr_route_to_enter(const char *tenant);

/* The slugs of all active tenants, in their order; palloc'd in cxt. */
extern char **kr_route_active_tenants(MemoryContext cxt, int *count);

/* A data source by name (KR007), with its runtime credential. */
extern const KrSource *kr_source_by_name(const char *name);

/* A data source by id with the credential of a purpose; owner falls back to runtime. */
extern const KrSource *kr_source_by_id(const pg_uuid_t *id, const char *purpose);

/* A copy in the current memory context, for who works longer than the transaction. */
extern KrSource *kr_source_copy(const KrSource *source);

/* Mix a text (or NULL) into a stamp. */
extern uint64 kr_source_stamp_text(uint64 stamp, const char *text);

extern const char *kr_isolation_name(KrIsolation isolation);

extern void kr_route_init(void);

#endif							/* KR_ROUTE_H */

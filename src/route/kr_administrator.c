/*
 * kr_administrator.c
 *	  Is who asks an administrator of the app: in a role with is_admin?
 *
 * What policies of the infra database's own tables ask in each query, through
 * infra.is_admin() and infra.visible_users(). So it takes a microsecond or two, not the fifty of a function
 * that queries: the rows are looked up by their primary keys. They are those that a
 * query would see at the same place: the active snapshot counts, and nothing that was
 * read is kept. Privileges on the tables and row security do not count, as it tells
 * about nobody but who asks.
 *
 * Kept in the backend is where to look (PlaceOf), until a table, a schema, a
 * role or a membership changes. public.profiles and public.roles belong to whoever
 * has called kessel.setup(): others than members of kessel_admin are not believed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "kr_compat.h"
#include "kr_session.h"

#define APP_SCHEMA "public"

/* One column of a table, and the index by which its rows are found by their id */
typedef struct PlaceOf
{
	const char *table;
	const char *column;
	Oid			type;
	Oid			relid;			/* InvalidOid: to be found out */
	Oid			index;			/* InvalidOid: there is none */
	AttrNumber	id;
	AttrNumber	wanted;
} PlaceOf;

/* The role that every new user has: a system role, which nobody makes an administrator's. */
static const pg_uuid_t user_role = {{0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1}};

static PlaceOf role_of_profile = {.table = "profiles", .column = "role_id", .type = UUIDOID};
static PlaceOf flag_of_role = {.table = "roles", .column = "is_admin", .type = BOOLOID};

/* Counts what was forgotten. */
static uint64 generation = 0;

PG_FUNCTION_INFO_V1(kr_is_administrator);
PG_FUNCTION_INFO_V1(kr_visible_users);

static void
forget_relation(Datum arg, Oid relid)
{
	PlaceOf    *places[] = {&role_of_profile, &flag_of_role};

	generation++;
	for (int i = 0; i < lengthof(places); i++)
	{
		if (!OidIsValid(relid) || relid == places[i]->relid)
			places[i]->relid = InvalidOid;
	}
}

static void
forget_all(Datum arg, int cacheid, uint32 hashvalue)
{
	forget_relation(arg, InvalidOid);
}

static void
watch_places(void)
{
	static bool watched = false;

	if (watched)
		return;
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_all, (Datum) 0);
	watched = true;
}

static AttrNumber
find_column(Relation rel, const char *name, Oid type)
{
	AttrNumber	column = get_attnum(RelationGetRelid(rel), name);

	if (column <= 0 || TupleDescAttr(RelationGetDescr(rel), column - 1)->atttypid != type)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s.%s\" has no column \"%s\" of type %s",
						APP_SCHEMA, RelationGetRelationName(rel), name, format_type_be(type)),
				 errhint("SELECT kessel.setup() makes the tables of the app's users and roles.")));
	return column;
}

/* The primary key's index, if the key is this column alone. */
static Oid
find_index(Relation rel, AttrNumber column)
{
	Oid			index = kr_primary_key_index(rel);
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		fits = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

		fits = form->indnkeyatts == 1 && form->indkey.values[0] == column;
		ReleaseSysCache(tuple);
	}
	return fits ? index : InvalidOid;
}

static Relation
find_place(PlaceOf *place)
{
	uint64		begun;
	Oid			relid;
	Oid			admin;
	Relation	rel;

	watch_places();
	begun = generation;
	relid = get_relname_relid(place->table, get_namespace_oid(APP_SCHEMA, true));
	admin = get_role_oid("kessel_admin", true);
	rel = OidIsValid(relid) ? table_open(relid, AccessShareLock) : NULL;
	if (rel == NULL || rel->rd_rel->relkind != RELKIND_RELATION || !OidIsValid(admin) ||
		!has_privs_of_role(rel->rd_rel->relowner, admin))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no table \"%s.%s\" of a member of kessel_admin", APP_SCHEMA, place->table),
				 errhint("SELECT kessel.setup() makes it.")));
	place->id = find_column(rel, "id", UUIDOID);
	place->wanted = find_column(rel, place->column, place->type);
	place->index = find_index(rel, place->id);
	/* What has changed in between is looked at the next time. */
	if (begun == generation)
		place->relid = relid;
	return rel;
}

/* Opens the table; what is sent about it while its lock is waited for makes us look again. */
static Relation
open_place(PlaceOf *place)
{
	Oid			relid = place->relid;
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;

	if (rel != NULL && relid == place->relid)
		return rel;
	if (rel != NULL)
		table_close(rel, AccessShareLock);
	return find_place(place);
}

/* The value of the column in the row of this id; false where it is NULL or there is no row. */
static bool
look_up(PlaceOf *place, const pg_uuid_t *id, void *value)
{
	Relation	rel = open_place(place);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull = true;

	ScanKeyInit(&key, place->id, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	scan = systable_beginscan(rel, place->index, OidIsValid(place->index), GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		datum = heap_getattr(tuple, place->wanted, RelationGetDescr(rel), &isnull);

		if (!isnull && place->type == BOOLOID)
			*(bool *) value = DatumGetBool(datum);
		else if (!isnull)
			*(pg_uuid_t *) value = *DatumGetUUIDP(datum);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return !isnull;
}

/* Somebody's own auth.uid(), called again: so that nobody is told about others. */
static bool
is_auth_uid(const pg_uuid_t *user_id)
{
	Oid			uid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("uid"),
									  PointerGetDatum(buildoidvector(NULL, 0)),
									  ObjectIdGetDatum(get_namespace_oid("auth", true)));
	LOCAL_FCINFO(call, 0);
	FmgrInfo	flinfo;
	Datum		said;

	if (!OidIsValid(uid) || get_func_rettype(uid) != UUIDOID)
		return false;
	fmgr_info(uid, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 0, InvalidOid, NULL, NULL);
	said = FunctionCallInvoke(call);
	return !call->isnull && memcmp(DatumGetUUIDP(said), user_id, sizeof(*user_id)) == 0;
}

/* The user: of the claims, or the argument, if there is one. */
static bool
who_asks(FunctionCallInfo fcinfo, pg_uuid_t *user_id)
{
	if (PG_NARGS() == 0)
		return kr_session_auth_uid(user_id);
	if (PG_ARGISNULL(0))
		return false;
	*user_id = *PG_GETARG_UUID_P(0);
	return is_auth_uid(user_id);
}

static bool
is_administrator(const pg_uuid_t *user_id)
{
	pg_uuid_t	role_id;
	bool		flag = false;

	if (!look_up(&role_of_profile, user_id, &role_id) || memcmp(&role_id, &user_role, sizeof(role_id)) == 0)
		return false;
	return look_up(&flag_of_role, &role_id, &flag) && flag;
}

/* kessel._is_administrator([user_id uuid]) returns boolean */
Datum
kr_is_administrator(PG_FUNCTION_ARGS)
{
	pg_uuid_t	user_id;

	PG_RETURN_BOOL(who_asks(fcinfo, &user_id) && is_administrator(&user_id));
}

/* kessel._visible_users([user_id uuid]) returns uuid[] */
Datum
kr_visible_users(PG_FUNCTION_ARGS)
{
	pg_uuid_t	bounds[2];
	Datum		datums[2] = {UUIDPGetDatum(&bounds[0]), UUIDPGetDatum(&bounds[1])};

	if (!who_asks(fcinfo, &bounds[0]))
		PG_RETURN_NULL();
	bounds[1] = bounds[0];
	if (is_administrator(&bounds[0]))
	{
		memset(&bounds[0], 0, sizeof(bounds[0]));
		memset(&bounds[1], 0xff, sizeof(bounds[1]));
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(datums, lengthof(datums), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

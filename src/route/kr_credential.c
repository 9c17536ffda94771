/*
 * kr_credential.c
 *	  The rows of app.data_source_credentials: storing a password, and changing
 *	  it in steps of which each leaves one that works.
 *
 * Called by the SQL functions that take a password (kr_source_sql.c) and by the
 * rotation (kr_remote_rotate.c), which calls the steps in transactions of their
 * own: a pending password is sealed beside the current one before the data
 * source learns of it, and takes its place after it was proved there. The
 * secret keeps its id, and with that its privileges; who may use it is asked
 * before one of both is opened, so nobody is granted anything on the pending one.
 *
 * One password belongs to a role on a server, however many data sources lead
 * there. So the lock is one on the role's name and each place (host or address,
 * and port) by which the server is known: an advisory lock in a class that SQL
 * cannot reach. Rotations hold it for the session, across their commits;
 * whoever else changes a credential, for the transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "kr_credential.h"
#include "kr_spi.h"
#include "kr_vault.h"

/* pg_advisory_lock() has 1 and 2. */
#define KR_LOCK_CLASS 7

static Datum
column(int row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

static bool
uuid_column(int row, int number, pg_uuid_t *id)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	if (!isnull)
		*id = *DatumGetUUIDP(value);
	return !isnull;
}

/* ---------- the lock ---------- */

static void
set_tag(LOCKTAG *tag, const char *username, const char *place)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) username,
										   strlen(username) + 1, 0);

	hash = hash_bytes_extended((const unsigned char *) place, strlen(place) + 1, hash);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, KR_LOCK_CLASS);
}

bool
kr_credential_lock(KrCredentialLock *lock, bool session)
{
	LOCKTAG		tag;

	lock->session = session;
	for (lock->held = 0; lock->held < lock->nplaces; lock->held++)
	{
		set_tag(&tag, lock->username, lock->places[lock->held]);
		if (LockAcquire(&tag, ExclusiveLock, session, true) != LOCKACQUIRE_NOT_AVAIL)
			continue;
		kr_credential_unlock(lock);
		return false;
	}
	return true;
}

void
kr_credential_unlock(KrCredentialLock *lock)
{
	LOCKTAG		tag;

	while (lock->held > 0)
	{
		set_tag(&tag, lock->username, lock->places[--lock->held]);
		(void) LockRelease(&tag, ExclusiveLock, lock->session);
	}
}

/* Of one role, or of those that the data source has credentials of. */
static void
wait_for_lock(const pg_uuid_t *source_id, const char *username)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID};
	Datum		values[2];
	KrSpi		spi;

	values[0] = UUIDPGetDatum(source_id);
	values[1] = CStringGetTextDatum(username);
	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT n.username, p.place FROM app.data_sources s, unnest(kessel._places(s.conninfo)) AS p(place),"
				" (SELECT $2 UNION SELECT c.username FROM app.data_source_credentials c WHERE c.data_source_id = $1) AS n(username) "
				"WHERE s.id = $1 AND n.username <> '' ORDER BY n.username, p.place",
				2, types, values);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		LOCKTAG		tag;

		set_tag(&tag, kr_spi_text(i, 1, CurrentMemoryContext),
				kr_spi_text(i, 2, CurrentMemoryContext));
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	kr_spi_end(&spi);
}

void
kr_credential_hold(const pg_uuid_t *source_id)
{
	wait_for_lock(source_id, "");
}

/*
 * The name was looked up before there was a lock; what it leads to must not
 * change between the look whether a credential may be sent there and the sending.
 */
void
kr_credential_lock_source(const pg_uuid_t *source_id, const char *name, bool alter)
{
	static SPIPlanPtr alter_plan = NULL;
	static SPIPlanPtr store_plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID};
	Datum		values[2];
	bool		found;
	KrSpi		spi;

	values[0] = UUIDPGetDatum(source_id);
	values[1] = CStringGetTextDatum(name);
	kr_spi_begin(&spi);
	if (alter)
		kr_spi_write(&alter_plan,
					 "SELECT FROM app.data_sources WHERE id = $1 AND name = $2 FOR NO KEY UPDATE",
					 2, types, values, "  ");
	else
		kr_spi_write(&store_plan,
					 "SELECT FROM app.data_sources WHERE id = $1 AND name = $2 FOR SHARE",
					 2, types, values, "  ");
	found = SPI_processed == 1;
	kr_spi_end(&spi);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("data source \"%s\" was renamed or dropped meanwhile", name),
				 errhint("Call it again.")));
}

/* ---------- storing ---------- */

static void
delete_secret(const pg_uuid_t *id)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID};
	Datum		value = UUIDPGetDatum(id);
	KrSpi		spi;

	kr_spi_begin(&spi);
	kr_spi_write(&plan, "SELECT vault.delete_secret($1)", 1, types, &value, " ");
	kr_spi_end(&spi);
}

static bool
read_credential(const pg_uuid_t *source_id, const char *purpose, KrCredential *credential)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID};
	Datum		values[2];
	bool		found;
	KrSpi		spi;

	memset(credential, 0, sizeof(*credential));
	values[0] = UUIDPGetDatum(source_id);
	values[1] = CStringGetTextDatum(purpose);
	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT secret_id, pending_secret_id FROM app.data_source_credentials"
				" WHERE data_source_id = $1 AND purpose = $2",
				2, types, values);
	found = SPI_processed == 1;
	if (found)
	{
		credential->has_secret = uuid_column(0, 1, &credential->secret_id);
		credential->has_pending = uuid_column(0, 2, &credential->pending_id);
	}
	kr_spi_end(&spi);
	return found;
}

static void
write_credential(const pg_uuid_t *source_id, const char *purpose, const char *username,
				 const KrCredential *credential)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID, TEXTOID, UUIDOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	KrSpi		spi;

	values[0] = UUIDPGetDatum(source_id);
	values[1] = CStringGetTextDatum(purpose);
	values[2] = username ? CStringGetTextDatum(username) : (Datum) 0;
	nulls[2] = username ? ' ' : 'n';
	values[3] = UUIDPGetDatum(&credential->secret_id);
	nulls[3] = credential->has_secret ? ' ' : 'n';
	kr_spi_begin(&spi);
	kr_spi_write(&plan,
				 "INSERT INTO app.data_source_credentials AS c (data_source_id, purpose, username, secret_id) "
				 "VALUES ($1, $2, $3, $4) "
				 "ON CONFLICT (data_source_id, purpose) DO UPDATE SET "
				 "username = COALESCE(excluded.username, c.username), secret_id = excluded.secret_id,"
				 " pending_secret_id = NULL",
				 4, types, values, nulls);
	kr_spi_end(&spi);
}

/*
 * A runtime credential may be used by everyone, until that is revoked: who may
 * enter which tenant is decided elsewhere. The others are for administrators.
 */
void
kr_credential_store(const pg_uuid_t *source_id, const char *purpose, const char *username,
					const char *password, bool anew)
{
	KrCredential before;
	KrCredential credential;

	wait_for_lock(source_id, username ? username : "");
	(void) read_credential(source_id, purpose, &before);
	credential = before;
	if (anew && password != NULL)
		memset(&credential, 0, sizeof(credential));

	if (password != NULL)
	{
		kr_vault_store(&credential.secret_id, password, strlen(password), NULL, NULL,
					   "credential of a data source");
		if (!credential.has_secret)
			kr_vault_grant(&credential.secret_id,
						   strcmp(purpose, "runtime") == 0 ? "public" : "kessel_admin",
						   KR_PRIVILEGE_USE);
		credential.has_secret = true;
	}
	else if (credential.has_secret)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("password must not be null"),
				 errdetail("The data source has one already.")));

	write_credential(source_id, purpose, username, &credential);
	if (before.has_secret && memcmp(&before.secret_id, &credential.secret_id, sizeof(pg_uuid_t)) != 0)
		delete_secret(&before.secret_id);
	if (before.has_pending)
		delete_secret(&before.pending_id);
}

/* ---------- changing it in steps ---------- */

static void
take_places(Datum array, MemoryContext cxt, KrCredentialLock *lock)
{
	Datum	   *elems;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, NULL, &lock->nplaces);
	lock->places = MemoryContextAlloc(cxt, sizeof(char *) * Max(lock->nplaces, 1));
	for (int i = 0; i < lock->nplaces; i++)
		lock->places[i] = MemoryContextStrdup(cxt, TextDatumGetCString(elems[i]));
}

List *
kr_credential_same_login(const pg_uuid_t *source_id, const char *purpose,
						 KrCredentialLock *lock)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID};
	MemoryContext cxt = CurrentMemoryContext;
	Datum		values[2];
	List	   *result = NIL;
	KrSpi		spi;

	memset(lock, 0, sizeof(*lock));
	values[0] = UUIDPGetDatum(source_id);
	values[1] = CStringGetTextDatum(purpose);
	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT data_source_id, data_source, purpose, username, secret_id, pending_secret_id, places,"
				" may_get, may_lend"
				" FROM kessel._same_login($1, $2)",
				2, types, values);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KrCredential *credential = MemoryContextAllocZero(cxt, sizeof(KrCredential));
		MemoryContext spi_cxt = MemoryContextSwitchTo(cxt);
		bool		isnull;

		(void) uuid_column(i, 1, &credential->source_id);
		credential->source = kr_spi_text(i, 2, cxt);
		credential->purpose = kr_spi_text(i, 3, cxt);
		credential->username = kr_spi_text(i, 4, cxt);
		credential->has_secret = uuid_column(i, 5, &credential->secret_id);
		credential->has_pending = uuid_column(i, 6, &credential->pending_id);
		credential->may_get = DatumGetBool(column(i, 8, &isnull));
		credential->may_lend = DatumGetBool(column(i, 9, &isnull));
		if (i == 0)
		{
			lock->username = credential->username;
			take_places(column(i, 7, &isnull), cxt, lock);
		}
		result = lappend(result, credential);
		MemoryContextSwitchTo(spi_cxt);
	}
	kr_spi_end(&spi);
	return result;
}

/* False where the row is gone or has been given another secret meanwhile. */
static bool
set_pending(const KrCredential *credential, const pg_uuid_t *pending_id)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TEXTOID, UUIDOID, UUIDOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	bool		found;
	KrSpi		spi;

	values[0] = UUIDPGetDatum(&credential->source_id);
	values[1] = CStringGetTextDatum(credential->purpose);
	values[2] = UUIDPGetDatum(&credential->secret_id);
	values[3] = pending_id ? UUIDPGetDatum(pending_id) : (Datum) 0;
	nulls[3] = pending_id ? ' ' : 'n';
	kr_spi_begin(&spi);
	kr_spi_write(&plan,
				 "UPDATE app.data_source_credentials SET pending_secret_id = $4"
				 " WHERE data_source_id = $1 AND purpose = $2 AND secret_id = $3",
				 4, types, values, nulls);
	found = SPI_processed == 1;
	kr_spi_end(&spi);
	return found;
}

void
kr_credential_seal_pending(List *credentials, const char *password)
{
	ListCell   *cell;

	foreach(cell, credentials)
	{
		KrCredential *credential = lfirst(cell);

		memset(&credential->pending_id, 0, sizeof(credential->pending_id));
		kr_vault_store(&credential->pending_id, password, strlen(password), NULL, NULL,
					   "next credential of a data source");
		credential->has_pending = true;
		if (!set_pending(credential, &credential->pending_id))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the %s credential of data source \"%s\" was changed meanwhile",
							credential->purpose, credential->source),
					 errhint("Call it again.")));
	}
}

/* One that was dropped meanwhile needs no password. */
void
kr_credential_promote(List *credentials, const char *password)
{
	ListCell   *cell;

	foreach(cell, credentials)
	{
		KrCredential *credential = lfirst(cell);

		if (!set_pending(credential, NULL))
			continue;
		kr_vault_store(&credential->secret_id, password, strlen(password), NULL, NULL, NULL);
		if (credential->has_pending)
			delete_secret(&credential->pending_id);
		credential->has_pending = false;
	}
}

void
kr_credential_drop_pending(KrCredential *credential)
{
	if (credential->has_pending && set_pending(credential, NULL))
		delete_secret(&credential->pending_id);
	credential->has_pending = false;
}

KrCredentialState
kr_credential_state(const pg_uuid_t *source_id, const pg_uuid_t *secret_id)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, UUIDOID};
	KrCredentialState state = {0};
	Datum		values[2];
	bool		isnull;
	KrSpi		spi;

	values[0] = UUIDPGetDatum(source_id);
	values[1] = UUIDPGetDatum(secret_id);
	kr_spi_begin(&spi);
	kr_spi_read(&plan,
				"SELECT v.version, c.pending_secret_id FROM app.data_source_credentials c"
				" JOIN vault.secrets v ON v.id = c.secret_id"
				" WHERE c.data_source_id = $1 AND c.secret_id = $2 LIMIT 1",
				2, types, values);
	if (SPI_processed == 1)
	{
		state.version = DatumGetInt32(column(0, 1, &isnull));
		state.has_pending = uuid_column(0, 2, &state.pending_id);
	}
	kr_spi_end(&spi);
	return state;
}

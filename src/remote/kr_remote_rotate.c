/*
 * kr_remote_rotate.c
 *	  kessel.rotate_credential(): a new password for the role that a credential
 *	  logs in as, so that at every moment there is one that works.
 *
 *	  1. The new password is sealed beside the current one, as pending. Commit.
 *	  2. The role changes its own password, in a session opened with the current
 *		 one. What is sent is the verifier; the password never leaves this process
 *		 but sealed.
 *	  3. A new login with what was sealed proves it.
 *	  4. The pending one takes the current one's place. Commit.
 *
 * Whatever ends this on its way (kill -9 here or there, a lost network, a
 * cancel) leaves one of two states: the data source knows the current one, or
 * the pending one. Sessions try both (kr_remote_connect.c); settling finds out
 * which it is and forgets the other. Both commits wait for their WAL to be
 * flushed whatever synchronous_commit says, and the data source's does too.
 *
 * What is forgotten must not come back: a session of an earlier attempt may
 * still be about to execute its ALTER ROLE, which the network or a lock has held
 * up. These sessions carry a name of their own from before they are told to; so
 * they are ended first, which a role may do with its own, and then the password
 * is tried once more.
 *
 * Where the data source says no in step 2 or 3, the session of step 2 puts the
 * current password back, and the pending one is dropped after it was proved that
 * the current one works.
 *
 * A procedure, since it commits. It cannot be SECURITY DEFINER or have a SET
 * clause then; what it does in this database it does between kr_spi_begin() and
 * kr_spi_end(). The lock is one for the session (kr_credential.h): it outlives
 * the commits, and is released by us or with the process.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "kr_audit.h"
#include "kr_credential.h"
#include "kr_error.h"
#include "kr_guc.h"
#include "kr_remote_internal.h"
#include "kr_vault.h"

PG_FUNCTION_INFO_V1(kr_rotate_credential);
PG_FUNCTION_INFO_V1(kr_settle_credential);

/* 238 bits */
#define PASSWORD_LENGTH 40

/* Of the sessions that change a password; older ones than ours are ended by it. */
#define ROTATION_NAME "kessel_router rotation"

/* How many credentials of the same role are asked which password it has. */
#define MAX_CANDIDATES 6

typedef enum Settled
{
	SETTLED_CURRENT,			/* the data source knows the current password */
	SETTLED_PENDING,			/* it knew the pending one, which is the current one now */
	NOT_SETTLED					/* neither opens it */
} Settled;

/* In the memory of the procedure, across its transactions. */
typedef struct Rotation
{
	pg_uuid_t	source_id;
	char	   *source;			/* name */
	char	   *purpose;
	const char *step;			/* for the context of errors */
	List	   *credentials;	/* the one that is meant, then those of the same login */
	KrCredentialLock lock;
	PGconn	   *volatile pg;	/* the session that changes the password */
	char	   *password;		/* sodium_malloc()ed */
	char	   *reason;			/* what the data source, or libpq, has said last */
	bool		refused;		/* the last login: for its password */
} Rotation;

static KrCredential *
subject(const Rotation *rotation)
{
	return linitial(rotation->credentials);
}

static const KrSource *
source_of(const Rotation *rotation)
{
	return kr_source_by_id(&rotation->source_id, rotation->purpose);
}

static void
describe_step(void *arg)
{
	Rotation   *rotation = arg;

	errcontext("%s, rotating the %s credential of data source \"%s\"",
			   rotation->step, rotation->purpose, rotation->source);
}

/* ---------- what may be rotated ---------- */

static void
check_purpose(const char *purpose)
{
	if (strcmp(purpose, "runtime") == 0 || strcmp(purpose, "owner") == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid purpose \"%s\"", purpose),
			 strcmp(purpose, "anon") == 0 || strcmp(purpose, "service") == 0 ?
			 errdetail("It is an API key, which only its issuer can change.") : 0,
			 errhint("runtime and owner are logins of the database.")));
}

static void
look_up_credentials(Rotation *rotation)
{
	rotation->credentials = kr_credential_same_login(&rotation->source_id, rotation->purpose,
													 &rotation->lock);
	if (rotation->credentials == NIL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" has no %s credential", rotation->source, rotation->purpose),
				 errhint("SELECT purpose, username FROM app.data_source_credentials lists those that there are.")));
	if (!subject(rotation)->has_secret)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("the %s credential of data source \"%s\" has no password",
						rotation->purpose, rotation->source),
				 errhint("There is nothing to rotate. Set a password with kessel.set_credential().")));
}

static void
refuse_pooler(const Rotation *rotation)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the credential of data source \"%s\" cannot be rotated through a pooler", rotation->source),
			 errdetail("A pooler may keep a list of passwords of its own, which would not learn of the new one."),
			 errhint("Change the password at the server and in the pooler, and then call kessel.set_credential().")));
}

static void
lock_credentials(Rotation *rotation)
{
	if (kr_credential_lock(&rotation->lock, true))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the credential of data source \"%s\" is being changed in another session", rotation->source),
			 errdetail("It is of the role \"%s\" there, which has one password.", rotation->lock.username),
			 errhint("Wait for that to end.")));
}

/* ---------- in this database ---------- */

static void
commit(void)
{
	ForceSyncCommit();
	SPI_commit();
}

/* The newest state of the rows, under the lock. */
static void
refresh_credentials(Rotation *rotation)
{
	KrCredentialLock ignored;

	rotation->credentials = kr_credential_same_login(&rotation->source_id, rotation->purpose, &ignored);
	if (rotation->credentials == NIL || !subject(rotation)->has_secret)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the %s credential of data source \"%s\" was changed meanwhile",
						rotation->purpose, rotation->source),
				 errhint("Call it again.")));
}

/*
 * One of the same login that would send the new password to where the one that
 * is rotated does not, or NULL. Whoever has made it could read it there.
 */
static const KrCredential *
find_stranger(const Rotation *rotation)
{
	ListCell   *cell;

	for_each_from(cell, rotation->credentials, 1)
	{
		const KrCredential *other = lfirst(cell);

		if (!other->may_get)
			return other;
	}
	return NULL;
}

static void
refuse_strangers(const Rotation *rotation)
{
	const KrCredential *other = find_stranger(rotation);

	if (other == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the %s credential of data source \"%s\" cannot be rotated",
					rotation->purpose, rotation->source),
			 errdetail("The %s credential of data source \"%s\" is of the same role there and would get the new password. But that data source leads to further hosts or addresses, or asks for less with sslmode.",
					   other->purpose, other->source),
			 errhint("Rotate the one that leads to all of the hosts, give both the same hosts, or forget that one: kessel.drop_credential('%s', '%s').",
					 other->source, other->purpose)));
}

static bool
any_pending(const Rotation *rotation)
{
	ListCell   *cell;

	foreach(cell, rotation->credentials)
	{
		if (((KrCredential *) lfirst(cell))->has_pending)
			return true;
	}
	return false;
}

static void
make_password(Rotation *rotation)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

	rotation->password = sodium_malloc(PASSWORD_LENGTH + 1);
	if (rotation->password == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no locked memory for a password")));
	for (int i = 0; i < PASSWORD_LENGTH; i++)
		rotation->password[i] = alphabet[randombytes_uniform(sizeof(alphabet) - 1)];
	rotation->password[PASSWORD_LENGTH] = '\0';
}

/* ---------- at the data source ---------- */

static void
disconnect(Rotation *rotation)
{
	PGconn	   *pg = rotation->pg;

	rotation->pg = NULL;
	if (pg != NULL)
		kr_remote_close(pg);
}

/* A login with what is sealed, which has to be what opens it; NULL where it does not. */
static PGconn *
log_in(Rotation *rotation, const pg_uuid_t *secret_id)
{
	PGconn	   *pg = kr_remote_try(source_of(rotation), rotation->purpose, secret_id);

	if (PQstatus(pg) != CONNECTION_OK)
	{
		rotation->reason = kr_remote_reason(pg);
		rotation->refused = kr_remote_refused_login(pg);
		kr_remote_disconnect(pg);
		return NULL;
	}
	if (!PQconnectionUsedPassword(pg))
	{
		kr_remote_disconnect(pg);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data source \"%s\" did not ask for the password", rotation->source),
				 errdetail("No login there could prove that a new one works."),
				 errhint("Make it ask for a password.")));
	}
	return pg;
}

static bool
is_field(const PGresult *result, int column, const char *value)
{
	return PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, column), value) == 0;
}

/* The session in which the password will be changed, opened with the current one. */
static void
open_session(Rotation *rotation)
{
	char		pid[16];
	bool		pooled;
	bool		standby;
	PGresult   *result;

	rotation->pg = kr_remote_connect(source_of(rotation), rotation->purpose);
	if (!PQconnectionUsedPassword(rotation->pg))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data source \"%s\" did not ask for the password", rotation->source),
				 errdetail("No login there could prove that a new one works."),
				 errhint("Make it ask for a password.")));
	if (PQserverVersion(rotation->pg) < 100000)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data source \"%s\" knows no SCRAM verifiers", rotation->source),
				 errdetail("Its server is older than PostgreSQL 10."),
				 errhint("Change the password there, and then call kessel.set_credential().")));

	/* A pooler passes a number of its own off as the session's. */
	snprintf(pid, sizeof(pid), "%d", PQbackendPID(rotation->pg));
	result = kr_remote_run(rotation->pg, rotation->source,
						   "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()", true);
	pooled = !is_field(result, 0, pid);
	standby = is_field(result, 1, "t");
	PQclear(result);
	if (pooled)
		refuse_pooler(rotation);
	if (standby)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("data source \"%s\" leads to a standby", rotation->source),
				 errhint("Add target_session_attrs=read-write to its url.")));
	/* Before anything is sent that might be held up on its way. */
	PQclear(kr_remote_run(rotation->pg, rotation->source,
						  "SET application_name = '" ROTATION_NAME "'", true));
}

/*
 * The session's role takes this password. False, and rotation->reason, where the
 * data source refuses. A commit that is not flushed would be lost in a crash;
 * where somebody else is changing the role, this does not wait for long.
 */
static bool
change_password(Rotation *rotation, const char *password)
{
	char	   *verifier;
	char	   *script;
	PGresult   *result;
	bool		ok;

	verifier = PQencryptPasswordConn(rotation->pg, password, PQuser(rotation->pg), "scram-sha-256");
	if (verifier == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not make a verifier of the new password")));
	script = psprintf("BEGIN; SET LOCAL ROLE NONE;"
					  " SELECT pg_catalog.set_config('synchronous_commit', 'local', true)"
					  " WHERE pg_catalog.current_setting('synchronous_commit') = 'off';"
					  " SET LOCAL lock_timeout = '%ds';"
					  " ALTER ROLE SESSION_USER PASSWORD '%s';"
					  " COMMIT", kr_guc_connect_timeout, verifier);
	PQfreemem(verifier);
	result = kr_remote_run(rotation->pg, rotation->source, script, false);
	pfree(script);
	ok = PQresultStatus(result) == PGRES_COMMAND_OK;
	if (PQstatus(rotation->pg) != CONNECTION_OK)
	{
		PQclear(result);
		kr_remote_raise_lost(rotation->pg, rotation->source);
	}
	if (!ok)
	{
		const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

		rotation->reason = pstrdup(message ? message : "It gave no reason.");
	}
	PQclear(result);
	if (!ok && PQtransactionStatus(rotation->pg) == PQTRANS_INERROR)
		PQclear(kr_remote_run(rotation->pg, rotation->source, "ROLLBACK", false));
	return ok;
}

/* End the sessions of earlier attempts, and see that they have ended. */
static void
end_sessions(const Rotation *rotation, PGconn *pg)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   kr_guc_connect_timeout * 1000L);

	for (;;)
	{
		PGresult   *result;
		bool		gone;

		result = kr_remote_run(pg, rotation->source,
							   "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid))"
							   " FROM pg_catalog.pg_stat_activity"
							   " WHERE usename = session_user AND application_name = '" ROTATION_NAME "'"
							   " AND pid <> pg_catalog.pg_backend_pid()", true);
		gone = is_field(result, 0, "0");
		PQclear(result);
		if (gone)
			return;
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("a session that changes the password of role \"%s\" does not end in data source \"%s\"",
							PQuser(pg), rotation->source),
					 errhint("End it there: its application_name is \"%s\".", ROTATION_NAME)));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The same, and close the session that this is done from. */
static void
end_sessions_from(const Rotation *rotation, PGconn *pg)
{
	PG_TRY();
	{
		end_sessions(rotation, pg);
	}
	PG_CATCH();
	{
		kr_remote_close(pg);
		PG_RE_THROW();
	}
	PG_END_TRY();
	kr_remote_close(pg);
}

/* ---------- settling ---------- */

/* The secrets that may hold the role's password, the most likely first. */
static int
list_candidates(const Rotation *rotation, pg_uuid_t *candidates)
{
	KrCredential *first = subject(rotation);
	int			n = 0;
	ListCell   *cell;

	candidates[n++] = first->secret_id;
	if (first->has_pending)
		candidates[n++] = first->pending_id;
	for_each_from(cell, rotation->credentials, 1)
	{
		KrCredential *other = lfirst(cell);

		if (!other->has_pending || !other->may_lend || n + 2 > MAX_CANDIDATES)
			continue;
		candidates[n++] = other->pending_id;
		candidates[n++] = other->secret_id;
	}
	return n;
}

/* A session with the first of them that opens one; -1: none. */
static int
log_in_with_any(Rotation *rotation, const pg_uuid_t *candidates, int n, PGconn **pg)
{
	for (int i = 0; i < n; i++)
	{
		*pg = log_in(rotation, &candidates[i]);
		if (*pg != NULL)
			return i;
	}
	return -1;
}

/*
 * The password of candidate i is the role's. Who has that as the current one only
 * drops what is pending.
 */
static Settled
settle_on(Rotation *rotation, const pg_uuid_t *candidates, int i)
{
	List	   *others = NIL;
	ListCell   *cell;
	KrSecret   *secret;

	foreach(cell, rotation->credentials)
	{
		KrCredential *credential = lfirst(cell);

		if (i == 0 && credential == subject(rotation))
			kr_credential_drop_pending(credential);
		else if (i > 0 || credential->has_pending)
			others = lappend(others, credential);
	}
	if (others != NIL)
	{
		secret = kr_vault_open(&candidates[i], "rotate", InvalidOid);
		kr_credential_promote(others, secret->value);
		kr_vault_close(secret);
	}
	return i == 0 ? SETTLED_CURRENT : SETTLED_PENDING;
}

/*
 * Find out which password the role has, and forget the other. Everything is
 * proved by a login made after sessions of earlier attempts have ended.
 */
static Settled
settle(Rotation *rotation)
{
	pg_uuid_t	candidates[MAX_CANDIDATES];
	int			n = list_candidates(rotation, candidates);
	PGconn	   *pg;
	int			i;

	i = log_in_with_any(rotation, candidates, n, &pg);
	if (i < 0)
		return NOT_SETTLED;
	end_sessions_from(rotation, pg);

	i = log_in_with_any(rotation, candidates, n, &pg);
	if (i < 0)
		return NOT_SETTLED;
	kr_remote_close(pg);
	return settle_on(rotation, candidates, i);
}

static void
raise_not_settled(const Rotation *rotation)
{
	if (!rotation->refused)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to data source \"%s\"", rotation->source),
				 errdetail_internal("%s", rotation->reason),
				 errhint("The current and the new password are kept, and sessions try both. Call it again when the data source can be reached.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PASSWORD),
			 errmsg("no password of the %s credential opens data source \"%s\"",
					rotation->purpose, rotation->source),
			 errdetail_internal("%s", rotation->reason),
			 errhint("All that may be right are kept, and sessions try them. Set the password with kessel.set_credential().")));
}

static void
settle_earlier(Rotation *rotation)
{
	rotation->step = "Settling an earlier attempt";
	switch (settle(rotation))
	{
		case SETTLED_CURRENT:
			commit();
			ereport(NOTICE,
					(errmsg("an earlier rotation that was interrupted was undone")));
			break;
		case SETTLED_PENDING:
			commit();
			ereport(NOTICE,
					(errmsg("an earlier rotation that was interrupted was completed")));
			break;
		case NOT_SETTLED:
			raise_not_settled(rotation);
	}
	refresh_credentials(rotation);
}

/* ---------- the steps ---------- */

/* The data source did not want it. Afterwards the current password is the only one again. */
static void
undo(Rotation *rotation, bool was_changed)
{
	char	   *refusal = rotation->reason;

	rotation->step = "Undoing it";
	if (was_changed && PQtransactionStatus(rotation->pg) == PQTRANS_IDLE)
	{
		KrSecret   *current = kr_vault_open(&subject(rotation)->secret_id, "rotate", InvalidOid);

		(void) change_password(rotation, current->value);
		kr_vault_close(current);
	}
	disconnect(rotation);

	switch (settle(rotation))
	{
		case SETTLED_CURRENT:
			commit();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("data source \"%s\" did not take a new password for role \"%s\"",
							rotation->source, rotation->lock.username),
					 errdetail_internal("%s", refusal),
					 errhint("The current one was proved to work, and is kept.")));
			break;
		case SETTLED_PENDING:
			commit();
			break;
		case NOT_SETTLED:
			raise_not_settled(rotation);
	}
}

static void
tell_done(const Rotation *rotation)
{
	ListCell   *cell;

	ereport(NOTICE,
			(errmsg("role \"%s\" of data source \"%s\" has a new password",
					rotation->lock.username, rotation->source)));
	for_each_from(cell, rotation->credentials, 1)
	{
		KrCredential *other = lfirst(cell);

		ereport(NOTICE,
				(errmsg("the %s credential of data source \"%s\" was changed along: it is of the same role on the same server",
						other->purpose, other->source)));
	}
}

static void
rotate(Rotation *rotation)
{
	PGconn	   *proof;

	refresh_credentials(rotation);
	refuse_strangers(rotation);
	if (any_pending(rotation))
	{
		settle_earlier(rotation);
		refuse_strangers(rotation);
	}

	rotation->step = "Logging in with the current password";
	open_session(rotation);

	rotation->step = "Sealing the new password";
	make_password(rotation);
	kr_credential_seal_pending(rotation->credentials, rotation->password);
	commit();
	ereport(NOTICE,
			(errmsg("a new password for role \"%s\" is sealed", rotation->lock.username)));

	rotation->step = "Changing the password there";
	if (!change_password(rotation, rotation->password))
	{
		undo(rotation, false);
		tell_done(rotation);
		return;
	}
	ereport(NOTICE,
			(errmsg("data source \"%s\" has taken its verifier", rotation->source)));

	rotation->step = "Proving the new password";
	proof = log_in(rotation, &subject(rotation)->pending_id);
	if (proof == NULL)
	{
		undo(rotation, true);
		tell_done(rotation);
		return;
	}
	kr_remote_close(proof);

	rotation->step = "Switching over";
	kr_credential_promote(rotation->credentials, rotation->password);
	commit();
	tell_done(rotation);
}

/* ---------- SQL ---------- */

static bool
is_atomic(FunctionCallInfo fcinfo)
{
	return IsSubTransaction() || fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic;
}

static void
begin_rotation(Rotation *rotation, const char *name, const char *purpose)
{
	const KrSource *source = kr_source_by_name(name);

	memset(rotation, 0, sizeof(*rotation));
	rotation->source_id = source->id;
	rotation->source = pstrdup(source->name);
	rotation->purpose = pstrdup(purpose);
	rotation->step = "Looking it up";
	if (source->transaction_pooler)
		refuse_pooler(rotation);
	look_up_credentials(rotation);
}

static void
end_rotation(Rotation *rotation)
{
	disconnect(rotation);
	if (rotation->password != NULL)
		sodium_free(rotation->password);
	rotation->password = NULL;
	kr_credential_unlock(&rotation->lock);
}

/* For the audit; sqlerrcode is 0 where it has a new password. */
static void
record(const Rotation *rotation, int sqlerrcode)
{
	KrAuditEvent event = {
		.action = "rotate credential",
		.purpose = rotation->purpose,
		.secret_id = &subject(rotation)->secret_id,
		.ok = sqlerrcode == 0,
		.sqlerrcode = sqlerrcode,
		.reason = sqlerrcode == 0 ? NULL : rotation->step
	};

	kr_audit_record(&event);
}

/* kessel.rotate_credential(data_source text, purpose text) */
Datum
kr_rotate_credential(PG_FUNCTION_ARGS)
{
	ErrorContextCallback context;
	Rotation   *rotation;
	char	   *name;
	char	   *purpose;

	if (is_atomic(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("kessel.rotate_credential() cannot run inside a transaction block"),
				 errdetail("What it has changed in the data source could not be rolled back."),
				 errhint("CALL it by itself.")));
	PreventCommandIfReadOnly("kessel.rotate_credential()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", PG_ARGISNULL(0) ? "data_source" : "purpose")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	purpose = text_to_cstring(PG_GETARG_TEXT_PP(1));
	check_purpose(purpose);

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	rotation = palloc(sizeof(Rotation));
	begin_rotation(rotation, name, purpose);
	context.callback = describe_step;
	context.arg = rotation;
	context.previous = error_context_stack;
	error_context_stack = &context;

	lock_credentials(rotation);
	PG_TRY();
	{
		rotate(rotation);
	}
	PG_CATCH();
	{
		record(rotation, geterrcode());
		end_rotation(rotation);
		PG_RE_THROW();
	}
	PG_END_TRY();
	record(rotation, 0);
	end_rotation(rotation);

	error_context_stack = context.previous;
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	PG_RETURN_VOID();
}

static const char *
settle_in_transaction(Rotation *rotation, bool *ok)
{
	*ok = false;
	if (RecoveryInProgress() || XactReadOnly)
		return "A rotation is under way or was interrupted; sessions try both passwords.";
	if (!kr_credential_lock(&rotation->lock, false))
		return "A rotation is under way in another session.";
	refresh_credentials(rotation);
	*ok = true;
	if (!any_pending(rotation))
		return "A rotation has just ended.";
	if (find_stranger(rotation) != NULL)
	{
		*ok = false;
		return "A rotation was interrupted. It cannot be settled while a data source with the same role leads to further hosts or asks for less with sslmode; kessel.rotate_credential() tells which.";
	}
	switch (settle(rotation))
	{
		case SETTLED_CURRENT:
			return "A rotation that was interrupted was undone.";
		case SETTLED_PENDING:
			return "A rotation that was interrupted was completed.";
		case NOT_SETTLED:
			break;
	}
	*ok = false;
	return "A rotation was interrupted, and none of its passwords opens the data source.";
}

/*
 * kessel._settle_credential(data_source_id uuid, purpose text, OUT ok, OUT detail)
 *	  What an interrupted rotation has left is settled in the transaction of the
 *	  caller; NULL where there is nothing.
 */
Datum
kr_settle_credential(PG_FUNCTION_ARGS)
{
	const KrSource *source;
	Rotation	rotation = {0};
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	bool		ok = true;
	const char *detail = NULL;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	rotation.purpose = text_to_cstring(PG_GETARG_TEXT_PP(1));
	source = kr_source_by_id(PG_GETARG_UUID_P(0), rotation.purpose);
	rotation.source_id = source->id;
	rotation.source = pstrdup(source->name);
	rotation.credentials = kr_credential_same_login(&rotation.source_id, rotation.purpose,
													&rotation.lock);
	if (rotation.credentials != NIL && subject(&rotation)->has_secret && any_pending(&rotation))
		detail = settle_in_transaction(&rotation, &ok);

	values[0] = BoolGetDatum(ok);
	values[1] = detail ? CStringGetTextDatum(detail) : (Datum) 0;
	nulls[1] = detail == NULL;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

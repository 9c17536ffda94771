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
 * the pending one. Sessions try both (kr_remote_connect.c); settling
 * (kr_remote_rotate_settle.c) finds out which it is and forgets the other. Both commits wait for their WAL to be
 * flushed whatever synchronous_commit says, and the data source's does too.
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
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"

#include "kr_audit.h"
#include "kr_error.h"
#include "kr_remote_rotate.h"
#include "kr_vault.h"

PG_FUNCTION_INFO_V1(kr_rotate_credential);

/* 238 bits */
#define PASSWORD_LENGTH 40

static void
describe_step(void *arg)
{
	KrRotation   *rotation = arg;

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
look_up_credentials(KrRotation *rotation)
{
	rotation->credentials = kr_credential_same_login(&rotation->source_id, rotation->purpose,
													 &rotation->lock);
	if (rotation->credentials == NIL)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("data source \"%s\" has no %s credential", rotation->source, rotation->purpose),
				 errhint("SELECT purpose, username FROM app.data_source_credentials lists those that there are.")));
	if (!kr_rotation_subject(rotation)->has_secret)
		ereport(ERROR,
				(errcode(KR_ERR_NO_ROUTE),
				 errmsg("the %s credential of data source \"%s\" has no password",
						rotation->purpose, rotation->source),
				 errhint("There is nothing to rotate. Set a password with kessel.set_credential().")));
}

void
kr_rotation_refuse_pooler(const KrRotation *rotation)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the credential of data source \"%s\" cannot be rotated through a pooler", rotation->source),
			 errdetail("A pooler may keep a list of passwords of its own, which would not learn of the new one."),
			 errhint("Change the password at the server and in the pooler, and then call kessel.set_credential().")));
}

static void
lock_credentials(KrRotation *rotation)
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

void
kr_rotation_refresh(KrRotation *rotation)
{
	KrCredentialLock ignored;

	rotation->credentials = kr_credential_same_login(&rotation->source_id, rotation->purpose, &ignored);
	if (rotation->credentials == NIL || !kr_rotation_subject(rotation)->has_secret)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the %s credential of data source \"%s\" was changed meanwhile",
						rotation->purpose, rotation->source),
				 errhint("Call it again.")));
}

const KrCredential *
kr_rotation_find_stranger(const KrRotation *rotation)
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
refuse_strangers(const KrRotation *rotation)
{
	const KrCredential *other = kr_rotation_find_stranger(rotation);

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

bool
kr_rotation_any_pending(const KrRotation *rotation)
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
make_password(KrRotation *rotation)
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

/* ---------- the steps ---------- */

static void
settle_earlier(KrRotation *rotation)
{
	rotation->step = "Settling an earlier attempt";
	switch (kr_rotation_settle(rotation))
	{
		case KR_SETTLED_CURRENT:
			commit();
			ereport(NOTICE,
					(errmsg("an earlier rotation that was interrupted was undone")));
			break;
		case KR_SETTLED_PENDING:
			commit();
			ereport(NOTICE,
					(errmsg("an earlier rotation that was interrupted was completed")));
			break;
		case KR_NOT_SETTLED:
			kr_rotation_raise_not_settled(rotation);
	}
	kr_rotation_refresh(rotation);
}

/* The data source did not want it. Afterwards the current password is the only one again. */
static void
undo(KrRotation *rotation, bool was_changed)
{
	char	   *refusal = rotation->reason;

	rotation->step = "Undoing it";
	if (was_changed && PQtransactionStatus(rotation->pg) == PQTRANS_IDLE)
	{
		KrSecret   *current = kr_vault_open(&kr_rotation_subject(rotation)->secret_id, "rotate", InvalidOid);

		(void) kr_rotation_change_password(rotation, current->value);
		kr_vault_close(current);
	}
	kr_rotation_disconnect(rotation);

	switch (kr_rotation_settle(rotation))
	{
		case KR_SETTLED_CURRENT:
			commit();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("data source \"%s\" did not take a new password for role \"%s\"",
							rotation->source, rotation->lock.username),
					 errdetail_internal("%s", refusal),
					 errhint("The current one was proved to work, and is kept.")));
			break;
		case KR_SETTLED_PENDING:
			commit();
			break;
		case KR_NOT_SETTLED:
			kr_rotation_raise_not_settled(rotation);
	}
}

static void
tell_done(const KrRotation *rotation)
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
rotate(KrRotation *rotation)
{
	PGconn	   *proof;

	kr_rotation_refresh(rotation);
	refuse_strangers(rotation);
	if (kr_rotation_any_pending(rotation))
	{
		settle_earlier(rotation);
		refuse_strangers(rotation);
	}

	rotation->step = "Logging in with the current password";
	kr_rotation_open_session(rotation);

	rotation->step = "Sealing the new password";
	make_password(rotation);
	kr_credential_seal_pending(rotation->credentials, rotation->password);
	commit();
	ereport(NOTICE,
			(errmsg("a new password for role \"%s\" is sealed", rotation->lock.username)));

	rotation->step = "Changing the password there";
	if (!kr_rotation_change_password(rotation, rotation->password))
	{
		undo(rotation, false);
		tell_done(rotation);
		return;
	}
	ereport(NOTICE,
			(errmsg("data source \"%s\" has taken its verifier", rotation->source)));

	rotation->step = "Proving the new password";
	proof = kr_rotation_log_in(rotation, &kr_rotation_subject(rotation)->pending_id);
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
begin_rotation(KrRotation *rotation, const char *name, const char *purpose)
{
	const KrSource *source = kr_source_by_name(name);

	memset(rotation, 0, sizeof(*rotation));
	rotation->source_id = source->id;
	rotation->source = pstrdup(source->name);
	rotation->purpose = pstrdup(purpose);
	rotation->step = "Looking it up";
	if (source->transaction_pooler)
		kr_rotation_refuse_pooler(rotation);
	look_up_credentials(rotation);
}

static void
end_rotation(KrRotation *rotation)
{
	kr_rotation_disconnect(rotation);
	if (rotation->password != NULL)
		sodium_free(rotation->password);
	rotation->password = NULL;
	kr_credential_unlock(&rotation->lock);
}

/* For the audit; sqlerrcode is 0 where it has a new password. */
static void
record(const KrRotation *rotation, int sqlerrcode)
{
	KrAuditEvent event = {
		.action = "rotate credential",
		.purpose = rotation->purpose,
		.secret_id = &kr_rotation_subject(rotation)->secret_id,
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
	KrRotation   *rotation;
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
	rotation = palloc(sizeof(KrRotation));
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

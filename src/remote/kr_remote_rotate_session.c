/*
 * kr_remote_rotate_session.c
 *	  Rotating a credential, at the data source: sessions that change a password, and
 *	  logins that prove one.
 *
 * Sessions that change a password carry a name of their own from before they are told
 * to, by which those of earlier attempts are found and ended. What is sent is the
 * verifier; the password itself never is.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "kr_guc.h"
#include "kr_remote_rotate.h"

/* Of the sessions that change a password; older ones than ours are ended by it. */
#define ROTATION_NAME "kessel_router rotation"

void
kr_rotation_disconnect(KrRotation *rotation)
{
	PGconn	   *pg = rotation->pg;

	rotation->pg = NULL;
	if (pg != NULL)
		kr_remote_close(pg);
}

static void
refuse_unasked(const KrRotation *rotation)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("data source \"%s\" did not ask for the password", rotation->source),
			 errdetail("No login there could prove that a new one works."),
			 errhint("Make it ask for a password.")));
}

PGconn *
kr_rotation_log_in(KrRotation *rotation, const pg_uuid_t *secret_id)
{
	PGconn	   *pg = kr_remote_try(kr_rotation_source(rotation), rotation->purpose, secret_id);

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
		refuse_unasked(rotation);
	}
	return pg;
}

static bool
is_field(const PGresult *result, int column, const char *value)
{
	return PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, column), value) == 0;
}

void
kr_rotation_open_session(KrRotation *rotation)
{
	char		pid[16];
	bool		pooled;
	bool		standby;
	PGresult   *result;

	rotation->pg = kr_remote_connect(kr_rotation_source(rotation), rotation->purpose);
	if (!PQconnectionUsedPassword(rotation->pg))
		refuse_unasked(rotation);
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
		kr_rotation_refuse_pooler(rotation);
	if (standby)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("data source \"%s\" leads to a standby", rotation->source),
				 errhint("Add target_session_attrs=read-write to its url.")));
	/* Before anything is sent that might be held up on its way. */
	PQclear(kr_remote_run(rotation->pg, rotation->source,
						  "SET application_name = '" ROTATION_NAME "'", true));
}

bool
kr_rotation_change_password(KrRotation *rotation, const char *password)
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
end_sessions(const KrRotation *rotation, PGconn *pg)
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
void
kr_rotation_end_sessions(const KrRotation *rotation, PGconn *pg)
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

/*
 * kr_remote_rotate_settle.c
 *	  What a rotation that was interrupted has left: which password has the role?
 *
 * The data source knows the current one or the pending one. What is forgotten must
 * not come back: a session of an earlier attempt may still be about to execute its
 * ALTER ROLE, which the network or a lock has held up. So these are ended first, which
 * a role may do with its own, and then the password is tried once more. Called by
 * kessel.rotate_credential() and kessel.test_data_source().
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "kr_remote_rotate.h"
#include "kr_vault.h"

PG_FUNCTION_INFO_V1(kr_settle_credential);

/* How many credentials of the same role are asked which password it has. */
#define MAX_CANDIDATES 6

/* The secrets that may hold the role's password, the most likely first. */
static int
list_candidates(const KrRotation *rotation, pg_uuid_t *candidates)
{
	KrCredential *first = kr_rotation_subject(rotation);
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
log_in_with_any(KrRotation *rotation, const pg_uuid_t *candidates, int n, PGconn **pg)
{
	for (int i = 0; i < n; i++)
	{
		*pg = kr_rotation_log_in(rotation, &candidates[i]);
		if (*pg != NULL)
			return i;
	}
	return -1;
}

/*
 * The password of candidate i is the role's. Who has that as the current one only
 * drops what is pending.
 */
static KrSettled
settle_on(KrRotation *rotation, const pg_uuid_t *candidates, int i)
{
	List	   *others = NIL;
	ListCell   *cell;
	KrSecret   *secret;

	foreach(cell, rotation->credentials)
	{
		KrCredential *credential = lfirst(cell);

		if (i == 0 && credential == kr_rotation_subject(rotation))
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
	return i == 0 ? KR_SETTLED_CURRENT : KR_SETTLED_PENDING;
}

KrSettled
kr_rotation_settle(KrRotation *rotation)
{
	pg_uuid_t	candidates[MAX_CANDIDATES];
	int			n = list_candidates(rotation, candidates);
	PGconn	   *pg;
	int			i;

	i = log_in_with_any(rotation, candidates, n, &pg);
	if (i < 0)
		return KR_NOT_SETTLED;
	kr_rotation_end_sessions(rotation, pg);

	i = log_in_with_any(rotation, candidates, n, &pg);
	if (i < 0)
		return KR_NOT_SETTLED;
	kr_remote_close(pg);
	return settle_on(rotation, candidates, i);
}

void
kr_rotation_raise_not_settled(const KrRotation *rotation)
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

/* ---------- SQL ---------- */

static const char *
settle_in_transaction(KrRotation *rotation, bool *ok)
{
	*ok = false;
	if (RecoveryInProgress() || XactReadOnly)
		return "A rotation is under way or was interrupted; sessions try both passwords.";
	if (!kr_credential_lock(&rotation->lock, false))
		return "A rotation is under way in another session.";
	kr_rotation_refresh(rotation);
	*ok = true;
	if (!kr_rotation_any_pending(rotation))
		return "A rotation has just ended.";
	if (kr_rotation_find_stranger(rotation) != NULL)
	{
		*ok = false;
		return "A rotation was interrupted. It cannot be settled while a data source with the same role leads to further hosts or asks for less with sslmode; kessel.rotate_credential() tells which.";
	}
	switch (kr_rotation_settle(rotation))
	{
		case KR_SETTLED_CURRENT:
			return "A rotation that was interrupted was undone.";
		case KR_SETTLED_PENDING:
			return "A rotation that was interrupted was completed.";
		case KR_NOT_SETTLED:
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
	KrRotation	rotation = {0};
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
	if (rotation.credentials != NIL && kr_rotation_subject(&rotation)->has_secret && kr_rotation_any_pending(&rotation))
		detail = settle_in_transaction(&rotation, &ok);

	values[0] = BoolGetDatum(ok);
	values[1] = detail ? CStringGetTextDatum(detail) : (Datum) 0;
	nulls[1] = detail == NULL;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

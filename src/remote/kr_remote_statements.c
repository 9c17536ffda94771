/*
 * kr_remote_statements.c
 *	  Statements that are prepared on a connection: each text once, up to a
 *	  number, found by hash.
 *
 * A prepared statement outlives transactions on the server, rolled back ones
 * too. It counts as there once the server has confirmed it; what an error left
 * unconfirmed is forgotten and, under another name, prepared anew.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "kr_remote_internal.h"

/* Statements kept prepared on one connection; the least recently used goes first. */
#define MAX_STATEMENTS 256

static KrStatement *
find_statement(KrConn *conn, const char *sql, uint32 hash)
{
	dlist_iter	iter;

	dlist_foreach(iter, &conn->statements)
	{
		KrStatement *statement = dlist_container(KrStatement, node, iter.cur);

		if (statement->hash == hash && strcmp(statement->sql, sql) == 0)
		{
			dlist_move_head(&conn->statements, &statement->node);
			return statement;
		}
	}
	return NULL;
}

static void
forget_statement(KrConn *conn, KrStatement *statement)
{
	dlist_delete(&statement->node);
	conn->nstatements--;
	pfree(statement->sql);
	pfree(statement);
}

static void
send_deallocate(KrConn *conn, const char *name)
{
	char		sql[64];

	snprintf(sql, sizeof(sql), "DEALLOCATE %s", name);
	if (!PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0))
		kr_conn_lost(conn);
	(void) kr_pending_push(conn, KR_PENDING_COMMAND);
}

/* Executions whose answers are outstanding no longer refer to it. */
static void
detach_statement(KrConn *conn, const KrStatement *statement)
{
	for (int i = 0; i < conn->pending_count; i++)
	{
		KrPending  *entry = &conn->pending[(conn->pending_first + i) % conn->pending_size];

		if (entry->statement == statement)
			entry->statement = NULL;
	}
}

/* The oldest statement whose preparation is not under way goes. */
static void
evict_statement(KrConn *conn)
{
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &conn->statements)
	{
		KrStatement *statement = dlist_container(KrStatement, node, iter.cur);

		if (statement->confirmed)
		{
			send_deallocate(conn, statement->name);
			detach_statement(conn, statement);
			forget_statement(conn, statement);
			return;
		}
	}
}

/* The statement's name on the server; sends its preparation if it is new. */
KrStatement *
kr_statement_prepare(KrConn *conn, const char *sql, int nparams)
{
	uint32		hash = hash_bytes((const unsigned char *) sql, strlen(sql));
	KrStatement *statement = find_statement(conn, sql, hash);

	if (statement != NULL)
		return statement;
	if (conn->nstatements >= MAX_STATEMENTS)
		evict_statement(conn);

	statement = MemoryContextAllocZero(conn->cxt, sizeof(KrStatement));
	statement->hash = hash;
	statement->sql = MemoryContextStrdup(conn->cxt, sql);
	snprintf(statement->name, sizeof(statement->name), "kr%u", ++conn->statement_counter);
	dlist_push_head(&conn->statements, &statement->node);
	conn->nstatements++;

	if (!PQsendPrepare(conn->pg, statement->name, sql, nparams, NULL))
		kr_conn_lost(conn);
	kr_pending_push(conn, KR_PENDING_PREPARE)->statement = statement;
	return statement;
}

/* After an error: what was not confirmed may not exist on the server. */
void
kr_statement_forget_unconfirmed(KrConn *conn)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &conn->statements)
	{
		KrStatement *statement = dlist_container(KrStatement, node, iter.cur);

		if (!statement->confirmed)
			forget_statement(conn, statement);
	}
}

/*
 * kr_script.h
 *	  A script of SQL, cut into its statements, and names put into them.
 */
#ifndef KR_SCRIPT_H
#define KR_SCRIPT_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KrScriptStatement
{
	char	   *sql;			/* from its first word on, without the semicolon */
	int			line;			/* of the script, in which it begins; the first is 1 */

	/*
	 * The command, where PostgreSQL refuses it in a transaction block, as
	 * "VACUUM"; NULL: it may be in one. Some are refused for what they find when
	 * they run only, as CLUSTER on a partitioned table: those are not named here.
	 */
	const char *alone;

	/* CREATE INDEX CONCURRENTLY; an index is in its table's schema. */
	bool		concurrent_index;
	char	   *index_schema;	/* as it is written, perhaps "@tenant"; NULL: by search_path */
	char	   *index_table;
	char	   *index_name;		/* NULL: PostgreSQL chooses one */
} KrScriptStatement;

/*
 * The script's statements, each a KrScriptStatement; NIL where there is none. In
 * the current memory context.
 *
 * Errors, all with the place as internal position and a line as context: 42601
 * for what cannot be parsed, and for commands of psql; 2D000 for transaction
 * control; 0A000 for COPY FROM STDIN and TO STDOUT.
 */
extern List *kr_script_split(const char *script);

/*
 * The statement with the identifiers "@tenant" and "@runtime", in just this
 * spelling, replaced by the quoted name of the schema and the role. What stands
 * in literals, dollar quotes and comments stays. A NULL is an error (55000) where
 * it would be put.
 */
extern char *kr_script_place(const char *sql, const char *schema, const char *runtime);

#endif							/* KR_SCRIPT_H */

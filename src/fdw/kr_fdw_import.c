/*
 * kr_fdw_import.c
 *	  IMPORT FOREIGN SCHEMA, with the options of postgres_fdw.
 *
 * For servers that lead to one database. What a tenant's tables look like is
 * for kessel.import_tables() to say, which knows where they are and which of
 * their columns tell tenants apart.
 */
#include "postgres.h"

#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "kr_fdw.h"
#include "kr_session.h"

typedef struct KrImport
{
	bool		import_collate;
	bool		import_default;
	bool		import_generated;
	bool		import_not_null;
	const char *server;
	const char *schema;
} KrImport;

/*
 * A row for each column of each table, and one for a table without columns.
 * What older servers do not have in their catalogs is asked of the row as a
 * whole, which then has NULL for it. With search_path = pg_catalog, types and
 * expressions come qualified.
 */
#define COLUMNS_QUERY \
	"SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull," \
	" pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.to_jsonb(a) ->> 'attgenerated'," \
	" coll.collname, colln.nspname " \
	"FROM pg_catalog.pg_class c " \
	"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace " \
	"LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped " \
	"LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum " \
	"LEFT JOIN pg_catalog.pg_collation coll ON coll.oid = a.attcollation " \
	"LEFT JOIN pg_catalog.pg_namespace colln ON colln.oid = coll.collnamespace " \
	"WHERE n.nspname = $1 AND c.relkind IN ('r', 'v', 'f', 'm', 'p')" \
	" AND ($2 = 'limit' OR (pg_catalog.to_jsonb(c) ->> 'relispartition') IS DISTINCT FROM 'true')" \
	" AND CASE $2 WHEN 'limit' THEN c.relname = ANY ($3::pg_catalog.text[])" \
	" WHEN 'except' THEN c.relname <> ALL ($3::pg_catalog.text[]) ELSE true END " \
	"ORDER BY c.relname, a.attnum"

enum
{
	COL_TABLE,
	COL_NAME,
	COL_TYPE,
	COL_NOT_NULL,
	COL_EXPRESSION,
	COL_GENERATED,
	COL_COLLATION,
	COL_COLLATION_SCHEMA,
	NCOLS
};

static void
read_options(List *options, KrImport *import)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "import_collate") == 0)
			import->import_collate = defGetBoolean(option);
		else if (strcmp(option->defname, "import_default") == 0)
			import->import_default = defGetBoolean(option);
		else if (strcmp(option->defname, "import_generated") == 0)
			import->import_generated = defGetBoolean(option);
		else if (strcmp(option->defname, "import_not_null") == 0)
			import->import_not_null = defGetBoolean(option);
		else
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname),
					 errhint("Options are import_collate, import_default, import_generated and import_not_null.")));
	}
}

/* What a data source's tables look like is for administrators. */
static void
check_server(const KrServer *server)
{
	if (server->kind == KR_SERVER_BOUND ||
		(server->kind == KR_SERVER_DATA_SOURCE && kr_session_is_admin()))
		return;
	if (server->kind == KR_SERVER_DATA_SOURCE)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to import from data source \"%s\"", server->bound_to),
				 errhint("Only superusers and members of kessel_admin can.")));
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot import a schema from server \"%s\"", server->name),
			 errdetail("Its tables are those of tenants."),
			 errhint("Use kessel.import_tables(), which knows where a data source keeps them.")));
}

/* ---------- asking the remote server ---------- */

static PGresult *
ask(const KrFdwTarget *target, KrStream *stream, const char *sql, int nparams,
	const char *const *values)
{
	kr_stream_init(stream, kr_remote_lease(&target->remote, false), CurrentMemoryContext,
				   false, NULL, NULL);
	kr_stream_queue(stream, sql, nparams, values, false);
	kr_stream_send(stream);
	return kr_stream_next(stream);
}

static void
check_schema(const KrFdwTarget *target, const KrImport *import)
{
	KrStream   *stream = palloc(sizeof(KrStream));
	PGresult   *result = ask(target, stream, "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1",
							 1, &import->schema);

	if (result == NULL || PQntuples(result) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
				 errmsg("schema \"%s\" is not present on foreign server \"%s\"",
						import->schema, import->server)));
	kr_stream_abandon(stream);
}

static char *
names_literal(List *tables)
{
	Datum	   *names = palloc(sizeof(Datum) * Max(list_length(tables), 1));
	Oid			output;
	bool		varlena;
	ArrayType  *array;
	ListCell   *cell;

	foreach(cell, tables)
		names[foreach_current_index(cell)] =
			CStringGetTextDatum(lfirst_node(RangeVar, cell)->relname);
	array = construct_array(names, list_length(tables), TEXTOID, -1, false, TYPALIGN_INT);
	getTypeOutputInfo(TEXTARRAYOID, &output, &varlena);
	return OidOutputFunctionCall(output, PointerGetDatum(array));
}

/* ---------- writing commands ---------- */

/* NULL for NULL. Belongs to the result. */
static const char *
field(const PGresult *result, int row, int column)
{
	return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

/* What the catalogs never leave out is there. */
static void
check_rows(const PGresult *result, const KrImport *import)
{
	for (int row = 0; row < PQntuples(result); row++)
	{
		if (field(result, row, COL_TABLE) == NULL ||
			(field(result, row, COL_NAME) != NULL &&
			 (field(result, row, COL_TYPE) == NULL || field(result, row, COL_NOT_NULL) == NULL)))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("server \"%s\" did not list the tables of schema \"%s\"",
							import->server, import->schema)));
	}
}

static void
append_column(StringInfo command, const KrImport *import, const PGresult *result, int row)
{
	const char *name = field(result, row, COL_NAME);
	const char *expression = field(result, row, COL_EXPRESSION);
	const char *generated = field(result, row, COL_GENERATED);
	const char *collation = field(result, row, COL_COLLATION);
	bool		is_generated = generated != NULL && generated[0] != '\0';

	/* The option keeps column and name together when the column is renamed here. */
	appendStringInfo(command, "  %s %s OPTIONS (column_name %s)", quote_identifier(name),
					 field(result, row, COL_TYPE), quote_literal_cstr(name));
	if (import->import_collate && collation != NULL)
		appendStringInfo(command, " COLLATE %s",
						 quote_qualified_identifier(field(result, row, COL_COLLATION_SCHEMA),
													collation));
	if (import->import_default && expression != NULL && !is_generated)
		appendStringInfo(command, " DEFAULT %s", expression);
	if (import->import_generated && expression != NULL && is_generated &&
		generated[0] == ATTRIBUTE_GENERATED_STORED)
		appendStringInfo(command, " GENERATED ALWAYS AS (%s) STORED", expression);
	if (import->import_not_null && field(result, row, COL_NOT_NULL)[0] == 't')
		appendStringInfoString(command, " NOT NULL");
}

/* The command for the table that begins at *row, which moves on to the next one. */
static char *
table_command(const KrImport *import, const PGresult *result, int *row)
{
	const char *table = field(result, *row, COL_TABLE);
	StringInfoData command;
	bool		first = true;

	initStringInfo(&command);
	appendStringInfo(&command, "CREATE FOREIGN TABLE %s (\n", quote_identifier(table));
	for (; *row < PQntuples(result) && strcmp(field(result, *row, COL_TABLE), table) == 0; (*row)++)
	{
		if (field(result, *row, COL_NAME) == NULL)
			continue;
		appendStringInfoString(&command, first ? "" : ",\n");
		append_column(&command, import, result, *row);
		first = false;
	}
	appendStringInfo(&command, "\n) SERVER %s\nOPTIONS (schema_name %s, table_name %s);",
					 quote_identifier(import->server), quote_literal_cstr(import->schema),
					 quote_literal_cstr(table));
	return command.data;
}

/* A list of CREATE FOREIGN TABLE commands, which the caller runs. */
List *
kr_import_schema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	const KrServer *server = kr_fdw_server(serverid, InvalidOid);
	KrImport	import = {true, false, true, true, server->name, stmt->remote_schema};
	KrStream   *stream = palloc(sizeof(KrStream));
	KrFdwTarget target;
	const char *values[3];
	PGresult   *result;
	List	   *commands = NIL;
	int			row = 0;

	read_options(stmt->options, &import);
	check_server(server);
	kr_fdw_resolve(serverid, GetUserId(), &target);
	check_schema(&target, &import);

	values[0] = import.schema;
	values[1] = stmt->list_type == FDW_IMPORT_SCHEMA_LIMIT_TO ? "limit" :
		stmt->list_type == FDW_IMPORT_SCHEMA_EXCEPT ? "except" : "all";
	values[2] = names_literal(stmt->table_list);
	result = ask(&target, stream, COLUMNS_QUERY, lengthof(values), values);
	if (result == NULL || PQnfields(result) != NCOLS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("server \"%s\" did not list the tables of schema \"%s\"",
						import.server, import.schema)));
	check_rows(result, &import);
	while (row < PQntuples(result))
		commands = lappend(commands, table_command(&import, result, &row));
	kr_stream_abandon(stream);
	return commands;
}

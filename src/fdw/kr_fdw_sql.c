/*
 * kr_fdw_sql.c
 *	  Making deparsed statements fit for the target, and the one statement that
 *	  no planner has deparsed: the INSERT behind COPY FROM and tuple routing.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "kr_error.h"
#include "kr_fdw.h"

/* As postgres_fdw deparses the marker: it is no plain identifier. */
#define QUOTED_MARKER "\"" KR_TENANT_SCHEMA_MARKER "\""

const char *
kr_fdw_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/*
 * A tenant that is kept apart by its schema shares its database with others:
 * a table in any other schema is not its own.
 */
static void
check_schemas(const KrFdwTarget *target, List *relids)
{
	ListCell   *cell;

	foreach(cell, relids)
	{
		Oid			relid = lfirst_oid(cell);
		const char *schema = kr_fdw_option(GetForeignTable(relid)->options, "schema_name");

		if (schema == NULL || strcmp(schema, KR_TENANT_SCHEMA_MARKER) != 0)
			ereport(ERROR,
					(errcode(KR_ERR_NO_ROUTE),
					 errmsg("table \"%s\" cannot be used for tenant \"%s\"",
							get_rel_name(relid), target->route->slug),
					 errdetail("The tenant is kept apart by its schema, and this table names another one."),
					 errhint("Make it with kessel.import_tables(), or set its option schema_name to '%s'.",
							 KR_TENANT_SCHEMA_MARKER)));
	}
}

/* The end of a quoted token that starts at text: past its closing quote. */
const char *
kr_fdw_skip_quoted(const char *text, bool backslashes)
{
	char		quote = *text++;

	while (*text != '\0')
	{
		if (backslashes && *text == '\\' && text[1] != '\0')
			text += 2;
		else if (*text == quote && text[1] == quote)
			text += 2;
		else if (*text++ == quote)
			break;
	}
	return text;
}

/* Replace the marker where it stands as a schema, never inside a literal. */
static const char *
replace_marker(const char *sql, const char *schema)
{
	const char *quoted = quote_identifier(schema);
	StringInfoData buf;

	initStringInfo(&buf);
	while (*sql != '\0')
	{
		const char *end;

		if (*sql == '\'')
			end = kr_fdw_skip_quoted(sql, buf.len > 0 && buf.data[buf.len - 1] == 'E');
		else if (*sql == '"')
			end = kr_fdw_skip_quoted(sql, false);
		else
		{
			end = sql + strcspn(sql, "'\"");
			appendBinaryStringInfo(&buf, sql, end - sql);
			sql = end;
			continue;
		}

		if (end - sql == strlen(QUOTED_MARKER) && *end == '.' &&
			strncmp(sql, QUOTED_MARKER, strlen(QUOTED_MARKER)) == 0 &&
			(buf.len == 0 || buf.data[buf.len - 1] != '.'))
			appendStringInfoString(&buf, quoted);
		else
			appendBinaryStringInfo(&buf, sql, end - sql);
		sql = end;
	}
	return buf.data;
}

static const char *
put_schema(const char *sql, const KrFdwTarget *target)
{
	if (strstr(sql, QUOTED_MARKER) == NULL)
		return sql;
	return replace_marker(sql, target->schema);
}

const char *
kr_fdw_adapt_sql(const char *sql, KrFdwTarget *target, List *relids)
{
	ListCell   *cell;

	if (target->marker_only)
		check_schemas(target, relids);
	foreach(cell, relids)
	{
		if (kr_fdw_is_sensitive(lfirst_oid(cell)))
			target->remote.withhold = true;
	}
	return put_schema(sql, target);
}

/* ---------- INSERT ---------- */

const char *
kr_fdw_column_name(Relation rel, int attnum)
{
	const char *name = kr_fdw_option(GetForeignColumnOptions(RelationGetRelid(rel), attnum),
							  "column_name");

	return name ? name :
		NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname);
}

const char *
kr_fdw_table_name(Relation rel)
{
	const char *table = kr_fdw_option(GetForeignTable(RelationGetRelid(rel))->options, "table_name");

	return table ? table : RelationGetRelationName(rel);
}

/* A table's name in the data source, with the marker where the tenant's schema goes. */
void
kr_fdw_append_table_name(StringInfo buf, Relation rel)
{
	List	   *options = GetForeignTable(RelationGetRelid(rel))->options;
	const char *schema = kr_fdw_option(options, "schema_name");

	if (schema == NULL)
		schema = get_namespace_name(RelationGetNamespace(rel));
	appendStringInfo(buf, "%s.%s",
					 strcmp(schema, KR_TENANT_SCHEMA_MARKER) == 0 ? QUOTED_MARKER : quote_identifier(schema),
					 quote_identifier(kr_fdw_table_name(rel)));
}

/* The same as statements for the target name it. */
const char *
kr_fdw_remote_table(Relation rel, const KrFdwTarget *target)
{
	StringInfoData table;

	initStringInfo(&table);
	kr_fdw_append_table_name(&table, rel);
	return put_schema(table.data, target);
}

char *
kr_fdw_insert_sql(Relation rel, bool returning, List **targets, List **retrieved,
				  char **tail)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData sql;
	StringInfoData values;
	StringInfoData columns;
	int			param = 0;

	*targets = NIL;
	*retrieved = NIL;
	initStringInfo(&sql);
	initStringInfo(&values);
	initStringInfo(&columns);

	for (int attnum = 1; attnum <= desc->natts; attnum++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);
		const char *comma = columns.len > 0 ? ", " : "";

		if (attr->attisdropped)
			continue;
		appendStringInfo(&columns, "%s%s", comma,
						 quote_identifier(kr_fdw_column_name(rel, attnum)));
		*targets = lappend_int(*targets, attnum);
		if (returning)
			*retrieved = lappend_int(*retrieved, attnum);
		if (attr->attgenerated)
			appendStringInfo(&values, "%sDEFAULT", comma);
		else
			appendStringInfo(&values, "%s$%d", comma, ++param);
	}

	appendStringInfoString(&sql, "INSERT INTO ");
	kr_fdw_append_table_name(&sql, rel);
	if (columns.len > 0)
		appendStringInfo(&sql, "(%s) VALUES (%s)", columns.data, values.data);
	else
		appendStringInfoString(&sql, " DEFAULT VALUES");
	*tail = returning && columns.len > 0 ? psprintf(" RETURNING %s", columns.data) : "";
	return sql.data;
}

/* What follows "VALUES (" in an INSERT; names that could look like it are quoted. */
static const char *
values_list(const char *sql)
{
	const char *keyword = "VALUES (";
	bool		quoted = false;

	for (const char *at = sql; *at != '\0'; at++)
	{
		if (*at == '"')
			quoted = !quoted;
		else if (!quoted && strncmp(at, keyword, strlen(keyword)) == 0)
			return at + strlen(keyword);
	}
	return NULL;
}

/*
 * An INSERT with DEFAULT in place of those of its parameters that are marked;
 * the others are numbered anew.
 */
char *
kr_fdw_insert_defaults(const char *sql, const bool *use_default)
{
	const char *at = values_list(sql);
	StringInfoData result;
	int			param = 0;

	if (at == NULL)
		kr_fdw_layout_error("INSERT");
	initStringInfo(&result);
	appendBinaryStringInfo(&result, sql, at - sql);
	while (*at != ')' && *at != '\0')
	{
		char	   *end;
		long		number;

		if (*at != '$')
		{
			appendStringInfoChar(&result, *at++);
			continue;
		}
		number = strtol(at + 1, &end, 10);
		at = end;
		if (use_default[number - 1])
			appendStringInfoString(&result, "DEFAULT");
		else
			appendStringInfo(&result, "$%d", ++param);
	}
	appendStringInfoString(&result, at);
	return result.data;
}

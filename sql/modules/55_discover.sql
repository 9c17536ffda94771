-- Which tables there are in a data source.

CREATE FUNCTION kessel.discover_tables(data_source text, schema_name text DEFAULT NULL)
RETURNS TABLE (table_schema text, table_name text, table_type text, estimated_rows bigint, description text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source app.data_sources;
    line text[];
BEGIN
    SELECT * INTO source FROM app.data_sources s WHERE s.name = data_source OR s.id::text = data_source;
    IF source.id IS NULL THEN
        RAISE EXCEPTION 'data source "%" does not exist', left(data_source, 100)
            USING ERRCODE = 'KR007', HINT = 'SELECT name FROM app.data_sources lists those that do.';
    END IF;
    FOR line IN
        SELECT * FROM kessel._remote_query(source.id, 'runtime', $query$
            SELECT n.nspname, c.relname,
                   CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'BASE TABLE' END,
                   CASE WHEN c.reltuples >= 0 THEN c.reltuples::pg_catalog.int8 END,
                   pg_catalog.obj_description(c.oid, 'pg_class')
            FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
              AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'kessel_agent')
              AND ($1 = '' OR n.nspname = $1)
              AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
              AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
            ORDER BY 1, 2 $query$, ARRAY[coalesce(schema_name, '')])
    LOOP
        table_schema := line[1]; table_name := line[2]; table_type := line[3]; estimated_rows := line[4]; description := line[5];
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kessel.discover_tables(text, text) IS
    'The tables and views of a data source (name or id) that the router''s role may read there, of one schema or (NULL) all. estimated_rows: as the data source knows, NULL where it does not. Errors: KR007, and those of a connection. For kessel_service, kessel_admin';
REVOKE ALL ON FUNCTION kessel.discover_tables(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.discover_tables(text, text) TO kessel_service, kessel_admin;

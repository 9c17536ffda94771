-- What tables there are and how they hang together, as far as the caller's
-- privileges reach.

SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION public.get_table_columns(p_schema text, p_table text)
RETURNS TABLE (column_name text, data_type text, is_nullable boolean, column_default text, ordinal_position integer, is_primary_key boolean, description text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attnum,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
           col_description(c.oid, a.attnum)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE n.nspname = p_schema AND c.relname = p_table AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND has_schema_privilege(n.oid, 'USAGE')
      AND has_column_privilege(c.oid, a.attnum, 'SELECT, INSERT, UPDATE, REFERENCES')
    ORDER BY a.attnum
$$;
COMMENT ON FUNCTION public.get_table_columns(text, text) IS
    'The columns of a table or view that the caller has a privilege on; no row where there is no such table. For authenticated, service_role';

CREATE FUNCTION public.get_schema_relationships()
RETURNS TABLE (constraint_name text, table_schema text, table_name text, column_name text,
               foreign_table_schema text, foreign_table_name text, foreign_column_name text, key_position integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.conname, n.nspname, c.relname, a.attname, fn.nspname, f.relname, fa.attname, u.at::integer
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class f ON f.oid = k.confrelid
    JOIN pg_namespace fn ON fn.oid = f.relnamespace
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY u(own, other, at)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.own
    JOIN pg_attribute fa ON fa.attrelid = f.oid AND fa.attnum = u.other
    WHERE k.contype = 'f' AND k.conparentid = 0
      AND has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(fn.oid, 'USAGE')
      AND has_column_privilege(c.oid, a.attnum, 'SELECT, INSERT, UPDATE, REFERENCES')
      AND has_column_privilege(f.oid, fa.attnum, 'SELECT, INSERT, UPDATE, REFERENCES')
    ORDER BY n.nspname, c.relname, k.conname, u.at
$$;
COMMENT ON FUNCTION public.get_schema_relationships() IS
    'The foreign keys between tables that the caller has privileges on: a row for each pair of columns, key_position counted from 1. For authenticated, service_role';

CREATE FUNCTION public.discover_tables(p_database text DEFAULT 'kessel', p_schema text DEFAULT NULL)
RETURNS TABLE (table_schema text, table_name text, table_type text, estimated_rows bigint, description text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source uuid;
BEGIN
    IF p_database IS DISTINCT FROM 'kessel' THEN
        SELECT d.data_source_id INTO source FROM public.db_registry d WHERE d.id = p_database;
        IF source IS NULL THEN
            RAISE EXCEPTION 'database "%" does not exist or has no data source', left(p_database, 100)
                USING ERRCODE = 'KR007', HINT = 'public.db_registry has those that do.';
        END IF;
        RETURN QUERY SELECT * FROM kessel.discover_tables(source::text, p_schema);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT n.nspname::text, c.relname::text,
           CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'BASE TABLE' END,
           CASE WHEN c.reltuples >= 0 AND NOT row_security_active(c.oid) THEN c.reltuples::bigint END,
           obj_description(c.oid, 'pg_class')
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
      AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
      AND (p_schema IS NULL OR n.nspname = p_schema)
      AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION public.discover_tables(text, text) IS
    'Tables and views that may be read, of one schema or (NULL) all. estimated_rows: NULL where it is not known, or row security keeps rows from the caller. p_database: kessel, this one, where the caller''s privileges count; or an id of public.db_registry with a data source, where those of the router''s role do, for whoever may call kessel.discover_tables(). Errors: KR007 no such database, 42501. For authenticated, service_role';

REVOKE ALL ON FUNCTION public.get_table_columns(text, text), public.get_schema_relationships(), public.discover_tables(text, text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.get_table_columns(text, text), public.get_schema_relationships(), public.discover_tables(text, text)
    TO authenticated, service_role;

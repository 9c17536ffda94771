SET search_path = pg_catalog, pg_temp;

DROP FUNCTION public.discover_tables(text, text);
DROP FUNCTION public.get_schema_relationships();
DROP FUNCTION public.get_table_columns(text, text);

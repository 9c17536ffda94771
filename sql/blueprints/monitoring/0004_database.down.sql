SET search_path = pg_catalog, pg_temp;

DROP VIEW public.slow_queries, public.index_usage, public.table_sizes;
DROP FUNCTION infra.slow_queries();

-- What the database does: for pg_monitor and the service. Texts of statements are
-- shown as pg_stat_statements shows them: one's own role's, or, for
-- pg_read_all_stats, all.

SET search_path = pg_catalog, pg_temp;

-- With the caller's rights. pg_stat_statements may come and go, and be in any schema.
CREATE FUNCTION infra.slow_queries(OUT queryid bigint, OUT role_name name, OUT query text, OUT calls bigint, OUT total_ms double precision, OUT mean_ms double precision,
                                   OUT max_ms double precision, OUT rows bigint, OUT blocks_hit bigint, OUT blocks_read bigint) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
    IF place IS NOT NULL THEN
        BEGIN
            RETURN QUERY EXECUTE format(
                'SELECT s.queryid, s.userid::regrole::name, s.query, s.calls, s.total_exec_time, s.mean_exec_time, s.max_exec_time, s.rows, s.shared_blks_hit, s.shared_blks_read
                 FROM %I.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
                 WHERE d.datname = current_database() AND s.queryid IS NOT NULL ORDER BY s.mean_exec_time DESC LIMIT 1000', place);
            RETURN;
        EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
            RAISE NOTICE 'there are no statistics of statements'
                USING DETAIL = SQLERRM, HINT = 'shared_preload_libraries must have pg_stat_statements, and the caller the privilege to read it.';
            RETURN;
        END;
    END IF;
    RAISE NOTICE 'there are no statistics of statements'
        USING DETAIL = 'The extension pg_stat_statements is not installed.', HINT = 'Add pg_stat_statements to shared_preload_libraries, restart the server, and CREATE EXTENSION pg_stat_statements.';
END
$$;
COMMENT ON FUNCTION infra.slow_queries() IS 'What public.slow_queries shows';

CREATE VIEW public.slow_queries AS SELECT * FROM infra.slow_queries();
COMMENT ON VIEW public.slow_queries IS 'The 1,000 statements of this database with the longest mean time, in milliseconds, by pg_stat_statements: those whose texts the caller may read there. Empty, with a notice that says what to do, where it is not installed. For pg_monitor, service_role';

CREATE VIEW public.index_usage AS
    SELECT s.schemaname AS schema_name, s.relname AS table_name, s.indexrelname AS index_name, s.idx_scan AS scans, s.idx_tup_read AS rows_read, s.idx_tup_fetch AS rows_fetched,
           pg_relation_size(s.indexrelid) AS bytes, i.indisunique AS is_unique, i.indisvalid AS is_valid,
           s.idx_scan = 0 AND NOT i.indisunique AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = s.indexrelid) AS is_unused
    FROM pg_stat_user_indexes s JOIN pg_index i ON i.indexrelid = s.indexrelid;
COMMENT ON VIEW public.index_usage IS 'How often each index was used since the statistics were reset, and its size in bytes. is_unused: never, and no constraint needs it. For pg_monitor, service_role';

CREATE VIEW public.table_sizes AS
    SELECT n.nspname AS schema_name, c.relname AS table_name,
           (SELECT p.inhparent::regclass::text FROM pg_inherits p WHERE p.inhrelid = c.oid AND c.relispartition) AS partition_of,
           pg_total_relation_size(c.oid) AS total_bytes, pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
           CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS estimated_rows, s.n_dead_tup AS dead_rows, s.seq_scan AS seq_scans, s.idx_scan AS index_scans,
           greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum, greatest(s.last_analyze, s.last_autoanalyze) AS last_analyze
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema';
COMMENT ON VIEW public.table_sizes IS 'Tables, partitions and materialized views with their size in bytes; table_bytes has what is stored out of line, total_bytes the indexes, too. For pg_monitor, service_role';

REVOKE ALL ON TABLE public.slow_queries, public.index_usage, public.table_sizes FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.slow_queries, public.index_usage, public.table_sizes TO pg_monitor, service_role;
REVOKE ALL ON FUNCTION infra.slow_queries() FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.slow_queries() TO pg_monitor, service_role;

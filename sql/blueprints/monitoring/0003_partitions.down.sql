-- With what was detached.
SET search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    partman record := infra.partman();
    parent name;
    template text;
    part regclass;
BEGIN
    FOREACH parent IN ARRAY ARRAY['system_logs', 'user_activity', 'performance_metrics'] LOOP
        CONTINUE WHEN NOT infra.has_partman(parent);
        EXECUTE format('DELETE FROM %I.part_config WHERE parent_table = $1 RETURNING template_table', partman.schema_name) INTO template USING 'public.' || parent;
        IF to_regclass(template) IS NOT NULL THEN
            EXECUTE format('DROP TABLE %s', to_regclass(template));
        END IF;
    END LOOP;
    FOR part IN SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace IN ('infra'::regnamespace, 'public'::regnamespace)
                AND obj_description(c.oid, 'pg_class') = 'kessel_router monitoring: a part of the logs' LOOP
        EXECUTE format('DROP TABLE %s', part);
    END LOOP;
END
$$;
DROP FUNCTION public.monitoring_upkeep(text);
DROP FUNCTION infra.keep_by_partman(public.monitoring_rules);
DROP FUNCTION infra.close_partitions(name);
DROP FUNCTION infra.give_to_partman(name);
DROP FUNCTION infra.has_partman(name);
DROP FUNCTION infra.partman();
DROP FUNCTION infra.keep_partitions(public.monitoring_rules);
DROP FUNCTION infra.wants_partitions(public.monitoring_rules);
DROP FUNCTION infra.lock_partitions(name, boolean);
DROP FUNCTION infra.partitions(name);
DROP FUNCTION infra.make_partition(name, timestamptz, boolean);
DROP FUNCTION infra.month_table(name, timestamptz);
DROP FUNCTION infra.close_partition(regclass);
DROP TABLE public.monitoring_rules;

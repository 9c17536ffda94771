-- Partitions: made ahead, and old ones detached or dropped, by rules that can be
-- set. By pg_partman for tables that it was given here, because it was installed.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.monitoring_rules (
    table_name   text PRIMARY KEY CHECK (table_name IN ('system_logs', 'user_activity', 'performance_metrics')),
    months_ahead integer NOT NULL DEFAULT 2 CHECK (months_ahead BETWEEN 1 AND 24),
    keep_months  integer DEFAULT 12 CHECK (keep_months BETWEEN 1 AND 1200),
    when_old     text NOT NULL DEFAULT 'detach' CHECK (when_old IN ('detach', 'drop')),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.monitoring_rules IS 'How many months of logs, activity and metrics are kept. Read by public.monitoring_upkeep()';
COMMENT ON COLUMN public.monitoring_rules.months_ahead IS 'For so many months after this one there are partitions';
COMMENT ON COLUMN public.monitoring_rules.keep_months IS 'So many months before this one are kept; NULL: all';
COMMENT ON COLUMN public.monitoring_rules.when_old IS 'detach: older ones become tables of their own in the schema infra; drop: they are dropped';
INSERT INTO public.monitoring_rules (table_name) VALUES ('system_logs'), ('user_activity'), ('performance_metrics');

CREATE TRIGGER touch BEFORE UPDATE ON public.monitoring_rules FOR EACH ROW EXECUTE FUNCTION infra.touch();
ALTER TABLE public.monitoring_rules ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON public.monitoring_rules FOR SELECT TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.monitoring_rules FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.monitoring_rules TO service_role USING (true);
REVOKE ALL ON TABLE public.monitoring_rules FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, UPDATE (months_ahead, keep_months, when_old) ON public.monitoring_rules TO authenticated, service_role;

-- ---------- without pg_partman ----------

-- Nobody reaches rows past the policies of the table. The comment is how the way
-- back knows what was made here.
CREATE FUNCTION infra.close_partition(partition regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC, anon, authenticated, service_role', partition);
    EXECUTE format('COMMENT ON TABLE %s IS %L', partition, 'kessel_router monitoring: a part of the logs');
END
$$;
COMMENT ON FUNCTION infra.close_partition(regclass) IS 'Leaves a partition to its table';

CREATE FUNCTION infra.month_table(parent name, month timestamptz) RETURNS regclass
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
    partition text := format('infra.%I', parent || to_char(month, '_YYYY_MM'));
BEGIN
    IF to_regclass(partition) IS NULL THEN
        EXECUTE format('CREATE TABLE %s (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', partition, parent);
        PERFORM infra.close_partition(partition::regclass);
    END IF;
    RETURN partition::regclass;
END
$$;
COMMENT ON FUNCTION infra.month_table(name, timestamptz) IS 'The table for a month, made where it is missing';

-- Rows that were in the default partition go where they belong. Lines of what was done.
CREATE FUNCTION infra.make_partition(parent name, month timestamptz, attach boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    until timestamptz := month + interval '1 month';
    partition regclass;
    moved bigint;
BEGIN
    partition := infra.month_table(parent, month);
    EXECUTE format('WITH gone AS (DELETE FROM infra.%I WHERE created_at >= %L AND created_at < %L RETURNING *) INSERT INTO %s SELECT * FROM gone',
                   parent || '_default', month, until, partition);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF attach THEN
        EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, partition, month, until);
    END IF;
    RETURN format('%s rows from the default partition', moved);
END
$$;
COMMENT ON FUNCTION infra.make_partition(name, timestamptz, boolean) IS 'Makes the table for a month, with what the default partition has of it, and attaches it';

CREATE FUNCTION infra.partitions(parent name, OUT partition regclass, OUT month timestamptz) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
    SELECT c.oid::regclass, to_timestamp(right(c.relname, 7), 'YYYY_MM')
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = format('public.%I', parent)::regclass AND c.relnamespace = 'infra'::regnamespace AND c.relname ~ '^[a-z_]+_[0-9]{4}_[0-9]{2}$'
    ORDER BY 2
$$;
COMMENT ON FUNCTION infra.partitions(name) IS 'The partitions of months that a table has';

-- Rows are on their way to the default partition until who writes has ended, and
-- would be refused there once their month has another. All that come have this lock
-- before those of partitions, so it is the only one to wait for; and to wait for it
-- while having that of another table could make a deadlock: then it is now or not.
CREATE FUNCTION infra.lock_partitions(parent name, patient boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('LOCK TABLE ONLY public.%I IN ACCESS EXCLUSIVE MODE %s', parent, CASE WHEN patient THEN '' ELSE 'NOWAIT' END);
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION infra.lock_partitions(name, boolean) IS 'Locks a table for work on its partitions; why not';

-- Is there anything to do?
CREATE FUNCTION infra.wants_partitions(rule public.monitoring_rules) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
    this_month timestamptz := date_trunc('month', now());
    has_rows boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM infra.%I)', rule.table_name || '_default') INTO has_rows;
    RETURN has_rows
        OR EXISTS (SELECT FROM infra.partitions(rule.table_name) p WHERE p.month < this_month - make_interval(months => rule.keep_months))
        OR EXISTS (SELECT FROM generate_series(0, rule.months_ahead) ahead
                   WHERE this_month + make_interval(months => ahead) NOT IN (SELECT p.month FROM infra.partitions(rule.table_name) p));
END
$$;
COMMENT ON FUNCTION infra.wants_partitions(public.monitoring_rules) IS 'Has infra.keep_partitions() anything to do?';

CREATE FUNCTION infra.keep_partitions(rule public.monitoring_rules, OUT action text, OUT object text, OUT detail text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS $$
DECLARE
    this_month timestamptz := date_trunc('month', now());
    oldest timestamptz := coalesce(this_month - make_interval(months => rule.keep_months), '-infinity');
    old record;
    first_row timestamptz;
    last_row timestamptz;
    month timestamptz;
BEGIN
    FOR old IN SELECT p.* FROM infra.partitions(rule.table_name) p WHERE p.month < oldest LOOP
        action := rule.when_old;
        object := old.partition;
        detail := to_char(old.month, 'YYYY-MM');
        BEGIN
            EXECUTE format('ALTER TABLE public.%I DETACH PARTITION %s', rule.table_name, old.partition);
            IF rule.when_old = 'drop' THEN
                EXECUTE format('DROP TABLE %s', old.partition);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            action := 'failed';
            detail := SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;

    FOR ahead IN 0 .. rule.months_ahead LOOP
        month := this_month + make_interval(months => ahead);
        CONTINUE WHEN month IN (SELECT p.month FROM infra.partitions(rule.table_name) p);
        action := 'make';
        object := format('infra.%s', rule.table_name || to_char(month, '_YYYY_MM'));
        BEGIN
            detail := infra.make_partition(rule.table_name, month, true);
        EXCEPTION WHEN OTHERS THEN
            action := 'failed';
            detail := SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;

    -- Rows of months that had no partition.
    LOOP
        EXECUTE format('SELECT min(created_at) FROM infra.%I WHERE created_at > $1', rule.table_name || '_default') INTO first_row USING coalesce(last_row, '-infinity');
        EXIT WHEN first_row IS NULL;
        month := date_trunc('month', first_row);
        last_row := month + interval '1 month' - interval '1 microsecond';
        action := 'move';
        object := format('infra.%s', rule.table_name || to_char(month, '_YYYY_MM'));
        BEGIN
            IF month < oldest AND rule.when_old = 'drop' THEN
                action := 'delete';
                EXECUTE format('DELETE FROM infra.%I WHERE created_at <= $1', rule.table_name || '_default') USING last_row;
                detail := to_char(month, 'YYYY-MM');
            ELSE
                detail := infra.make_partition(rule.table_name, month, month >= oldest);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            action := 'failed';
            detail := SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION infra.keep_partitions(public.monitoring_rules) IS 'Makes partitions ahead, and detaches old ones; a line for each thing done. What fails fails alone. The table must be locked';

-- ---------- with pg_partman ----------

CREATE FUNCTION infra.partman(OUT schema_name name, OUT major integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.nspname, split_part(e.extversion, '.', 1)::integer
    FROM (SELECT) always LEFT JOIN pg_extension e ON e.extname = 'pg_partman' LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
$$;
COMMENT ON FUNCTION infra.partman() IS 'Where pg_partman is, and its major version; NULL where it is not';

CREATE FUNCTION infra.has_partman(parent name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partman record := infra.partman();
    found_one boolean := false;
BEGIN
    IF partman.schema_name IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.part_config p WHERE p.parent_table = $1)', partman.schema_name) INTO found_one USING 'public.' || parent;
    END IF;
    RETURN found_one;
END
$$;
COMMENT ON FUNCTION infra.has_partman(name) IS 'Is this table looked after by pg_partman?';

-- Its own schedule leaves the table alone, since that would not close partitions.
CREATE FUNCTION infra.give_to_partman(parent name) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partman record := infra.partman();
BEGIN
    EXECUTE format('SELECT %I.create_parent(p_parent_table := %L, p_control := ''created_at'', p_type := %L, p_interval := %L, p_premake := 2, p_automatic_maintenance := ''off'')',
                   partman.schema_name, 'public.' || parent, CASE WHEN partman.major < 5 THEN 'native' ELSE 'range' END, CASE WHEN partman.major < 5 THEN 'monthly' ELSE '1 month' END);
END
$$;
COMMENT ON FUNCTION infra.give_to_partman(name) IS 'Has pg_partman make the partitions of a table';

CREATE FUNCTION infra.close_partitions(parent name) RETURNS SETOF regclass
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = format('public.%I', parent)::regclass
                     AND obj_description(i.inhrelid, 'pg_class') IS DISTINCT FROM 'kessel_router monitoring: a part of the logs' ORDER BY 1 LOOP
        PERFORM infra.close_partition(partition);
        RETURN NEXT partition;
    END LOOP;
END
$$;
COMMENT ON FUNCTION infra.close_partitions(name) IS 'Closes the partitions of a table that are not; which these were';

CREATE FUNCTION infra.keep_by_partman(rule public.monitoring_rules, OUT action text, OUT object text, OUT detail text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
    partman record := infra.partman();
    parent text := 'public.' || rule.table_name;
BEGIN
    EXECUTE format('UPDATE %I.part_config SET premake = $1, retention = $2, retention_keep_table = $3, infinite_time_partitions = true WHERE parent_table = $4', partman.schema_name)
        USING rule.months_ahead, rule.keep_months || ' months', rule.when_old = 'detach', parent;
    EXECUTE format('SELECT %I.partition_data_time(p_parent_table := $1, p_batch_count := 100)', partman.schema_name) USING parent;
    -- It stays to the end of the transaction, and has one table's columns.
    DROP TABLE IF EXISTS pg_temp.partman_temp_data_storage;
    -- Before some of them are detached.
    RETURN QUERY SELECT 'make', c::text, 'by pg_partman' FROM infra.close_partitions(rule.table_name) c;
    EXECUTE format('SELECT %I.run_maintenance(p_parent_table := $1)', partman.schema_name) USING parent;
    RETURN QUERY SELECT 'make', c::text, 'by pg_partman' FROM infra.close_partitions(rule.table_name) c;
END
$$;
COMMENT ON FUNCTION infra.keep_by_partman(public.monitoring_rules) IS 'Has pg_partman do what the rule says, and closes the partitions that it makes';

-- ---------- upkeep ----------

CREATE FUNCTION public.monitoring_upkeep(only_table text DEFAULT NULL) RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    rule public.monitoring_rules;
    by_partman boolean;
    patient boolean := true;
BEGIN
    -- One at a time.
    LOCK TABLE public.monitoring_rules IN SHARE ROW EXCLUSIVE MODE;
    IF only_table IS NOT NULL AND NOT EXISTS (SELECT FROM public.monitoring_rules r WHERE r.table_name = only_table) THEN
        RAISE EXCEPTION 'there is no rule for table "%"', left(only_table, 100)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT table_name FROM public.monitoring_rules lists those that there are.';
    END IF;
    FOR rule IN SELECT * FROM public.monitoring_rules r WHERE only_table IS NULL OR r.table_name = only_table ORDER BY r.table_name LOOP
        by_partman := infra.has_partman(rule.table_name);
        CONTINUE WHEN NOT by_partman AND NOT infra.wants_partitions(rule);
        detail := infra.lock_partitions(rule.table_name, patient);
        IF detail IS NOT NULL THEN
            action := 'failed';
            object := 'public.' || rule.table_name;
            RETURN NEXT;
            CONTINUE;
        END IF;
        patient := false;
        IF by_partman THEN
            RETURN QUERY SELECT * FROM infra.keep_by_partman(rule);
        ELSE
            RETURN QUERY SELECT * FROM infra.keep_partitions(rule);
        END IF;
    END LOOP;
    RETURN QUERY SELECT 'fold', f.object, f.detail FROM infra.fold_summaries() f WHERE only_table IS NULL;
END
$$;
COMMENT ON FUNCTION public.monitoring_upkeep(text) IS
    'Makes partitions ahead and detaches or drops old ones as public.monitoring_rules says, gives rows of the default partitions a partition, and folds summaries. To be called by a scheduler, once a day or more often; nothing is lost without. '
    'A line for each thing done: action make, move, detach, drop, delete, fold or failed, object, detail. A lock is waited for 2 s: what fails is done by a later call. Errors: 22023 no such table, 55P03 another upkeep is running. For service_role';

REVOKE ALL ON FUNCTION infra.close_partition(regclass), infra.close_partitions(name), infra.month_table(name, timestamptz), infra.make_partition(name, timestamptz, boolean), infra.partitions(name),
    infra.lock_partitions(name, boolean), infra.wants_partitions(public.monitoring_rules),
    infra.keep_partitions(public.monitoring_rules), infra.partman(), infra.has_partman(name), infra.give_to_partman(name), infra.keep_by_partman(public.monitoring_rules),
    public.monitoring_upkeep(text) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.monitoring_upkeep(text) TO service_role;

DO $$
DECLARE
    parent name;
BEGIN
    FOREACH parent IN ARRAY ARRAY['system_logs', 'user_activity', 'performance_metrics'] LOOP
        IF (infra.partman()).schema_name IS NOT NULL THEN
            PERFORM infra.give_to_partman(parent);
        ELSE
            EXECUTE format('CREATE TABLE infra.%I PARTITION OF public.%I DEFAULT', parent || '_default', parent);
        END IF;
        PERFORM infra.close_partitions(parent);
    END LOOP;
    PERFORM public.monitoring_upkeep();
END
$$;

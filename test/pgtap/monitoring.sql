-- The blueprint monitoring: who may do what with which table, view and function,
-- partitions, summaries, views of the database, bad input, plans, and the way back.
--
-- Every table and view that the blueprint makes must have its line in the matrix
-- below, and every function its line further down, or this file fails.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA ct;
GRANT USAGE ON SCHEMA ct TO PUBLIC;

-- All that a migration could leave behind, with privileges.
CREATE FUNCTION ct.snapshot() RETURNS SETOF text LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('class %s %s %s %s', o.oid::regclass, o.relkind, o.relowner::regrole, o.relacl) FROM pg_class o WHERE o.relnamespace::regnamespace::text !~ '^pg_(toast|temp)'
    UNION ALL SELECT format('function %s %s %s', o.oid::regprocedure, o.proowner::regrole, o.proacl) FROM pg_proc o WHERE o.pronamespace::regnamespace::text !~ '^pg_temp'
    UNION ALL SELECT format('type %s %s', o.oid::regtype, o.typacl) FROM pg_type o WHERE o.typnamespace::regnamespace::text !~ '^pg_(toast|temp)'
    UNION ALL SELECT format('schema %s %s', o.nspname, o.nspacl) FROM pg_namespace o WHERE o.nspname !~ '^pg_'
    UNION ALL SELECT format('trigger %s %s', o.tgrelid::regclass, o.tgname) FROM pg_trigger o WHERE NOT o.tgisinternal
    UNION ALL SELECT format('policy %s %s', o.polrelid::regclass, o.polname) FROM pg_policy o
    UNION ALL SELECT format('constraint %s %s', o.conrelid::regclass, o.conname) FROM pg_constraint o
    UNION ALL SELECT format('attribute %s %s %s', o.attrelid::regclass, o.attname, o.attacl) FROM pg_attribute o JOIN pg_class c ON c.oid = o.attrelid WHERE o.attnum > 0 AND c.relnamespace::regnamespace::text !~ '^pg_(toast|temp)'
    UNION ALL SELECT format('default acl %s', o) FROM pg_default_acl o
$$;

SELECT * FROM kessel.setup('{core}') \g /dev/null
CREATE TEMP TABLE before AS SELECT * FROM ct.snapshot() AS object;
CREATE TEMP TABLE objects AS SELECT 'pg_class'::regclass AS class, oid FROM pg_class UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc;
SELECT * FROM kessel.setup('{monitoring}') \g /dev/null
CREATE TEMP TABLE made AS SELECT * FROM ct.snapshot() AS object;
SELECT cmp_ok((SELECT count(*)::integer FROM made), '>', (SELECT count(*)::integer FROM before) + 100, 'setup makes much');
SELECT is_empty('SELECT object FROM before EXCEPT SELECT object FROM made', 'nothing that was there is changed');
CREATE FUNCTION ct.step(back_to integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kessel.teardown('monitoring', back_to);
    PERFORM kessel.setup('{monitoring}');
    RETURN (SELECT string_agg(object, E'\n') FROM (SELECT object FROM made EXCEPT SELECT ct.snapshot()) AS d);
END $$;
SELECT is(ct.step(m.version - 1), NULL, 'back to version ' || m.version - 1 || ' and forth') FROM kessel.migrations m WHERE m.blueprint = 'monitoring' ORDER BY m.version DESC;

--
-- People: a and b are members of a tenant each, ex was one of a's, admin is an administrator of the app, monitor
-- a role of the database.
--
CREATE ROLE ct_monitor IN ROLE pg_monitor;
INSERT INTO app.data_sources (id, name, isolation, conninfo) VALUES ('00000000-0000-4000-8000-0000000000d5', 'ct-source', 'row', '{}');
INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
VALUES ('00000000-0000-4000-8000-00000000000a', 'ct-a', 'A', '00000000-0000-4000-8000-0000000000d5', 'row', 'a'),
       ('00000000-0000-4000-8000-00000000000b', 'ct-b', 'B', '00000000-0000-4000-8000-0000000000d5', 'row', 'b');
CREATE TABLE ct.people (who text PRIMARY KEY, role name, id uuid);
INSERT INTO ct.people VALUES ('anon', 'anon', NULL), ('a', 'authenticated', '00000000-0000-4000-9000-00000000000a'), ('b', 'authenticated', '00000000-0000-4000-9000-00000000000b'),
    ('ex', 'authenticated', '00000000-0000-4000-9000-0000000000e0'), ('admin', 'authenticated', '00000000-0000-4000-9000-0000000000ad'), ('nobody', 'authenticated', NULL),
    ('service', 'service_role', NULL), ('monitor', 'ct_monitor', NULL);
INSERT INTO auth.users (id, email) SELECT id, who || '@example.com' FROM ct.people WHERE id IS NOT NULL;
UPDATE profiles SET role = 'admin' WHERE email = 'admin@example.com';
SELECT kessel.add_member('ct-a', '00000000-0000-4000-9000-00000000000a'), kessel.add_member('ct-b', '00000000-0000-4000-9000-00000000000b'),
       kessel.add_member('ct-a', '00000000-0000-4000-9000-0000000000e0'), kessel.deactivate_member('ct-a', '00000000-0000-4000-9000-0000000000e0') \g /dev/null

-- Runs a statement as somebody and takes it back. Returns rows, or - where the
-- privilege is missing, ! where a policy refuses a row, or another SQLSTATE.
CREATE FUNCTION ct.try(somebody text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    person ct.people;
    result text;
    rows bigint;
BEGIN
    SELECT * INTO STRICT person FROM ct.people WHERE who = somebody;
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE statement;
        GET DIAGNOSTICS rows = ROW_COUNT;
        result := rows;
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        result := CASE WHEN SQLSTATE = '42501' THEN CASE WHEN SQLERRM LIKE '%row-level security%' THEN '!' ELSE '-' END ELSE SQLSTATE END;
    END;
    RETURN result;
END $$;

-- What a query of somebody returns, as text; with keep it is not taken back.
CREATE FUNCTION ct.ask(somebody text, query text, keep boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    person ct.people;
    result text;
BEGIN
    SELECT * INTO STRICT person FROM ct.people WHERE who = somebody;
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE query INTO result;
        IF keep THEN
            RESET ROLE;
            RETURN result;
        END IF;
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        result := SQLSTATE;
    END;
    RETURN result;
END $$;
CREATE FUNCTION ct.id(somebody text) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM ct.people WHERE who = somebody $$;


INSERT INTO system_logs (created_at, level, message, tenant_id) VALUES ('2026-01-01 12:30Z', 'error', 'of a', '00000000-0000-4000-8000-00000000000a'), ('2026-01-01 12:40Z', 'error', 'of b', '00000000-0000-4000-8000-00000000000b');
INSERT INTO user_activity (created_at, user_id, action) SELECT '2026-01-01 12:30Z', ct.id(w), 'sign_in' FROM unnest(ARRAY['a', 'b', 'ex']) w;
INSERT INTO performance_metrics (created_at, name, value, unit) VALUES ('2026-01-01 12:30Z', 'latency', 5, 'ms'), ('2026-01-01 12:40Z', 'latency', 15, 'ms');

--
-- The matrix: rows read, inserted, updated, deleted; - no privilege, ! refused by a policy, + ten rows or more,
-- V no view can do that.
--
CREATE TABLE ct.matrix (tab regclass PRIMARY KEY, ins text, upd text, anon text, nobody text, a text, b text, ex text, admin text, service text, monitor text);
INSERT INTO ct.matrix VALUES
    ('system_logs', '(message) VALUES (''m'')', 'message = ''x''',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 1 - -', '- - - -'),
    -- One inserts for oneself: here for b.
    ('user_activity', format('(user_id, action) VALUES (%L, ''x'')', ct.id('b')), 'action = ''x''',
        '- - - -', '0 ! - -', '1 ! - -', '1 1 - -', '1 ! - -', '3 ! - -', '3 1 - -', '- - - -'),
    ('performance_metrics', '(name, value) VALUES (''x'', 1)', 'value = 1',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 1 - -', '- - - -'),
    ('monitoring_rules', '(table_name) VALUES (''x'')', 'keep_months = 5',
        '- - - -', '0 - 0 -', '0 - 0 -', '0 - 0 -', '0 - 0 -', '3 - 3 -', '3 - 3 -', '- - - -'),
    ('log_summary', '(count) VALUES (1)', 'count = 1',
        '- V V V', '0 V V V', '0 V V V', '0 V V V', '0 V V V', '2 V V V', '2 V V V', '- V V V'),
    ('activity_summary', '(count) VALUES (1)', 'count = 1',
        '- V V V', '0 V V V', '1 V V V', '1 V V V', '1 V V V', '3 V V V', '3 V V V', '- V V V'),
    ('metric_summary', '(count) VALUES (1)', 'count = 1',
        '- V V V', '0 V V V', '0 V V V', '0 V V V', '0 V V V', '1 V V V', '1 V V V', '- V V V'),
    ('slow_queries', '(calls) VALUES (1)', 'calls = 1',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '0 V V V', '0 V V V'),
    ('index_usage', '(scans) VALUES (1)', 'scans = 1',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '+ V V V', '+ V V V'),
    ('table_sizes', '(total_bytes) VALUES (1)', 'total_bytes = 1',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '+ V V V', '+ V V V'),
    ('infra.log_counts', '(hour, level, source, count) VALUES (now(), ''x'', ''x'', 1)', 'count = 1',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 - - -', '- - - -'),
    ('infra.activity_counts', '(day, user_id, action, count) VALUES (now(), gen_random_uuid(), ''x'', 1)', 'count = 1',
        '- - - -', '0 - - -', '1 - - -', '1 - - -', '1 - - -', '3 - - -', '3 - - -', '- - - -'),
    ('infra.metric_sums', '(hour, name, unit, count, sum, min, max) VALUES (now(), ''x'', '''', 1, 1, 1, 1)', 'count = 1',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '0 - - -', '1 - - -', '1 - - -', '- - - -');
-- Partitions are nobody's.
INSERT INTO ct.matrix SELECT c.oid, '(id) VALUES (1)', 'id = 1', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -'
FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' AND c.relnamespace = 'infra'::regnamespace;
SELECT is((SELECT count(*) FROM ct.matrix WHERE tab::text ~ '_default$|_2[0-9]{3}_[0-9]{2}$'), 12::bigint, 'partitions of this month and the next two, and a default one');

SELECT is_empty($$ SELECT c.oid::regclass FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace IN ('public'::regnamespace, 'infra'::regnamespace)
    AND (c.oid, 'pg_class'::regclass) NOT IN (SELECT oid, class FROM objects) EXCEPT SELECT tab FROM ct.matrix $$, 'every table is in the matrix');
SELECT ok(c.relrowsecurity OR c.relkind = 'v', c.oid::regclass || ' has row security') FROM pg_class c JOIN ct.matrix m ON m.tab = c.oid;
SELECT is(replace(concat_ws(' ', regexp_replace(ct.try(p.who, format('SELECT FROM %s', m.tab)), '^\d\d+$', '+'), ct.try(p.who, format('INSERT INTO %s %s', m.tab, m.ins)),
                         ct.try(p.who, format('UPDATE %s SET %s', m.tab, m.upd)), ct.try(p.who, format('DELETE FROM %s', m.tab))), '55000', 'V'),
          to_jsonb(m) ->> p.who, format('%s as %s', m.tab, p.who))
FROM ct.matrix m, ct.people p ORDER BY m.tab::text, p.who;
SELECT is(ct.try(p.who, format('TRUNCATE %s CASCADE', m.tab)), '-', format('%s cannot be emptied by %s', m.tab, p.who)) FROM ct.matrix m JOIN pg_class c ON c.oid = m.tab AND c.relkind <> 'v', ct.people p;
SELECT is_empty($$ SELECT r, c.oid::regclass FROM pg_class c JOIN ct.matrix m ON m.tab = c.oid, unnest('{anon,authenticated,service_role,ct_monitor}'::name[]) r
    WHERE c.relkind = 'v' AND has_table_privilege(r, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') $$, 'nobody writes to a view');
SELECT results_eq($$
    SELECT p.oid::regprocedure::text,
           concat_ws(' ', CASE WHEN has_function_privilege('anon', p.oid, 'EXECUTE') THEN 'anon' END, CASE WHEN has_function_privilege('authenticated', p.oid, 'EXECUTE') THEN 'authenticated' END,
                     CASE WHEN has_function_privilege('service_role', p.oid, 'EXECUTE') THEN 'service_role' END, CASE WHEN has_function_privilege('ct_monitor', p.oid, 'EXECUTE') THEN 'pg_monitor' END)
    FROM pg_proc p WHERE p.pronamespace IN ('public'::regnamespace, 'infra'::regnamespace) AND (p.oid, 'pg_proc'::regclass) NOT IN (SELECT oid, class FROM objects)
    ORDER BY p.oid::regprocedure::text COLLATE "C" $$,
$$VALUES ('infra.close_partition(regclass)', ''), ('infra.close_partitions(name)', ''), ('infra.count_activity()', ''), ('infra.count_logs()', ''), ('infra.fold_summaries()', ''), ('infra.forget_activity()', ''),
    ('infra.give_to_partman(name)', ''), ('infra.has_partman(name)', ''), ('infra.keep_by_partman(monitoring_rules)', ''), ('infra.keep_partitions(monitoring_rules)', ''),
    ('infra.lock_partitions(name,boolean)', ''), ('infra.make_partition(name,timestamp with time zone,boolean)', ''), ('infra.month_table(name,timestamp with time zone)', ''), ('infra.partitions(name)', ''), ('infra.partman()', ''),
    ('infra.slow_queries()', 'service_role pg_monitor'), ('infra.sum_metrics()', ''), ('infra.wants_partitions(monitoring_rules)', ''), ('monitoring_upkeep(text)', 'service_role')$$, 'who may call which function');
SELECT is_empty($$ SELECT p.oid::regprocedure FROM pg_proc p WHERE (p.oid, 'pg_proc'::regclass) NOT IN (SELECT oid, class FROM objects) AND p.pronamespace IN ('public'::regnamespace, 'infra'::regnamespace)
    AND (p.proconfig IS NULL OR 'search_path=pg_catalog, pg_temp' <> ALL (p.proconfig) OR obj_description(p.oid, 'pg_proc') IS NULL) $$, 'each has its search_path and a comment');
SELECT is_empty($$ SELECT tab FROM ct.matrix WHERE obj_description(tab, 'pg_class') IS NULL $$, 'tables and views have comments');

SELECT is(ct.ask('a', 'SELECT string_agg(user_id::text, '','') FROM user_activity'), ct.id('a')::text, 'one reads what one has done oneself');
SELECT is(ct.try('a', 'INSERT INTO user_activity (action) VALUES (''x'') RETURNING id'), '1', 'and tells it');
SELECT is(ct.try('a', 'INSERT INTO user_activity (action, created_at) VALUES (''x'', ''2026-01-01'')'), '-', 'but not another time');
SELECT is(ct.try(w, format('INSERT INTO user_activity (action, tenant_id) VALUES (''x'', %L)', t)), r, format('%s for tenant %s', w, t))
FROM (VALUES ('a', '00000000-0000-4000-8000-00000000000a', '1'), ('a', '00000000-0000-4000-8000-00000000000b', '!'), ('ex', '00000000-0000-4000-8000-00000000000a', '!'), ('b', '00000000-0000-4000-8000-0000000000cc', '!')) v(w, t, r);
SELECT is(ct.try('service', s), r, left(s, 100)) FROM (VALUES ('SELECT * FROM monitoring_upkeep(''none'')', '22023'), ('SELECT * FROM monitoring_upkeep('''')', '22023'), ('SELECT * FROM monitoring_upkeep(repeat(''x'', 1000000))', '22023'),
    ('SELECT * FROM monitoring_upkeep(''x''''; DROP TABLE system_logs; --'')', '22023'), ('SELECT * FROM monitoring_upkeep(''system_logs'') WHERE action = ''failed''', '0')) v(s, r);

--
-- Partitions
--
CREATE FUNCTION ct.month(n integer) RETURNS timestamptz LANGUAGE sql SET TimeZone = 'UTC' AS $$ SELECT date_trunc('month', now()) + make_interval(months => n) $$;
CREATE FUNCTION ct.part(n integer, t text DEFAULT 'system_logs') RETURNS text LANGUAGE sql AS $$ SELECT 'infra.' || t || to_char(ct.month(n) AT TIME ZONE 'UTC', '_YYYY_MM') $$;
SELECT is((SELECT count(*) FROM infra.system_logs_default), 2::bigint, 'rows of a month without partition are in the default one');
INSERT INTO system_logs (message) VALUES ('now');
SELECT is((SELECT tableoid::regclass::text FROM system_logs WHERE message = 'now'), ct.part(0), 'those of this month in its own');
DELETE FROM system_logs;
INSERT INTO system_logs (created_at, message) VALUES (ct.month(0) - interval '1 microsecond', 'last month'), (ct.month(3), 'far'), (ct.month(4) - interval '1 microsecond', 'far'), (ct.month(-20), 'old');
SET LOCAL TimeZone = 'Pacific/Kiritimati';
SET LOCAL DateStyle = 'German';
SELECT results_eq('SELECT action, object, detail FROM monitoring_upkeep(''system_logs'')',
    format($$VALUES ('move', %L, '1 rows from the default partition'), ('move', %L, '1 rows from the default partition'), ('move', %L, '2 rows from the default partition')$$, ct.part(-20), ct.part(-1), ct.part(3)), 'upkeep gives them one');
RESET TimeZone;
RESET DateStyle;
SELECT is_empty('SELECT FROM infra.system_logs_default', 'the default one is empty');
SELECT results_eq('SELECT tableoid::regclass::text, message FROM system_logs ORDER BY created_at', format($$VALUES (%L, 'last month'), (%L, 'far'), (%2$L, 'far')$$, ct.part(-1), ct.part(3)), 'each where it belongs');
SELECT is((SELECT count(*) FROM pg_inherits WHERE inhrelid = ct.part(-20)::regclass), 0::bigint, 'what is older than what is kept has a table of its own');
SELECT is_empty('SELECT FROM monitoring_upkeep(''system_logs'')', 'nothing is left to be done');
SELECT is((SELECT count(*) FROM pg_index WHERE indrelid = ct.part(-1)::regclass), 4::bigint, 'a partition has the indexes');
SELECT is((SELECT format('%s %s', relrowsecurity, relacl) FROM pg_class WHERE oid = ct.part(3)::regclass), (SELECT format('%s %s', relrowsecurity, relacl) FROM pg_class WHERE oid = 'infra.system_logs_default'::regclass), 'and is nobody''s');
INSERT INTO system_logs (created_at, message) VALUES (ct.month(-20), 'old again');
SELECT results_eq('SELECT action FROM monitoring_upkeep(''system_logs'')', ARRAY['move'], 'a row of a month that is detached already');
SELECT is((SELECT count(*) FROM infra.partitions('system_logs')), 5::bigint, 'this month, three after it, one before');
UPDATE monitoring_rules SET keep_months = 1, months_ahead = 4;
SELECT results_eq('SELECT action, object FROM monitoring_upkeep(''system_logs'')', format($$VALUES ('make', %L)$$, ct.part(4)), 'a month more ahead; the last one is kept');
INSERT INTO system_logs (created_at, message) VALUES (ct.month(-2), 'before');
SELECT infra.make_partition('system_logs', ct.month(-2), true) \g /dev/null
SELECT results_eq('SELECT action, object FROM monitoring_upkeep(''system_logs'')', format($$VALUES ('detach', %L)$$, ct.part(-2)), 'what is too old is detached');
SELECT is((SELECT count(*) FROM system_logs WHERE message = 'before'), 0::bigint, 'and not read any more');
SELECT is(ct.try(who, 'SELECT FROM ' || ct.part(-2)), '-', who || ' does not reach it') FROM ct.people;
UPDATE monitoring_rules SET when_old = 'drop', keep_months = NULL;
INSERT INTO system_logs (created_at, message) VALUES (ct.month(-30), 'older');
SELECT results_eq('SELECT action, object FROM monitoring_upkeep(''system_logs'')', format($$VALUES ('move', %L)$$, ct.part(-30)), 'all is kept');
INSERT INTO system_logs (created_at, message) VALUES (ct.month(-40), 'oldest');
UPDATE monitoring_rules SET keep_months = 12;
SELECT results_eq('SELECT action FROM monitoring_upkeep(''system_logs'')', ARRAY['drop', 'delete'], 'or dropped');
SELECT is(to_regclass(ct.part(-30)), NULL, 'it is gone');
SELECT is_empty('SELECT FROM infra.system_logs_default', 'so are rows that came too late');
UPDATE monitoring_rules SET months_ahead = 2, when_old = 'detach';
-- What stands in the way of one thing does not stand in the way of others.
INSERT INTO performance_metrics (created_at, name, value) VALUES (ct.month(6), 'x', 1), (ct.month(7), 'x', 1);
DO $$ BEGIN EXECUTE format('CREATE TABLE %s (i integer)', ct.part(6, 'performance_metrics')); END $$;
SELECT results_eq('SELECT action, object FROM monitoring_upkeep(''performance_metrics'') ORDER BY 2 DESC LIMIT 2',
    format($$VALUES ('move', %L), ('failed', %L)$$, ct.part(7, 'performance_metrics'), ct.part(6, 'performance_metrics')), 'one fails, others do not');
SELECT is((SELECT count(*) FROM performance_metrics WHERE created_at >= ct.month(6)), 2::bigint, 'and nothing is lost');
DO $$ BEGIN EXECUTE format('DROP TABLE %s', ct.part(6, 'performance_metrics')); END $$;
SELECT results_eq('SELECT action FROM monitoring_upkeep(''performance_metrics'')', ARRAY['move'], 'it is done when it can be');
DELETE FROM performance_metrics WHERE name = 'x';
DELETE FROM infra.metric_sums WHERE name = 'x';
SELECT is(ct.try('service', s), r, left(s, 100)) FROM (VALUES
    ('UPDATE monitoring_rules SET keep_months = 0', '23514'), ('UPDATE monitoring_rules SET months_ahead = 0', '23514'), ('UPDATE monitoring_rules SET months_ahead = 25', '23514'), ('UPDATE monitoring_rules SET when_old = ''burn''', '23514'),
    ('UPDATE monitoring_rules SET table_name = ''x''', '-'), ('UPDATE monitoring_rules SET keep_months = ''x''', '22P02'),
    ('INSERT INTO system_logs (message) VALUES (NULL)', '23502'), ('INSERT INTO system_logs (message) VALUES (repeat(''x'', 16385))', '23514'), ('INSERT INTO system_logs (message, level) VALUES (''x'', ''loud'')', '23514'),
    ('INSERT INTO system_logs (message, created_at) VALUES (''x'', ''infinity'')', '23514'), ('INSERT INTO system_logs (message, created_at) VALUES (''x'', ''1999-12-31'')', '23514'), ('INSERT INTO system_logs (message, created_at) VALUES (''x'', NULL)', '23502'),
    ('INSERT INTO system_logs (message, source) VALUES (''x'', '''')', '23514'), ('INSERT INTO system_logs (message, context) VALUES (''x'', to_jsonb(repeat(''x'', 65536)))', '23514'), ('INSERT INTO system_logs (message, context) VALUES (''x'', ''{'')', '22P02'),
    ('INSERT INTO user_activity (action) VALUES (''x'')', '23502'), ('INSERT INTO user_activity (user_id, action) VALUES (gen_random_uuid(), '''')', '23514'), ('INSERT INTO user_activity (user_id, action, ip_address) VALUES (gen_random_uuid(), ''x'', ''1.2.3'')', '22P02'),
    ('INSERT INTO user_activity (user_id, action, user_agent) VALUES (gen_random_uuid(), ''x'', repeat(''x'', 1001))', '23514'),
    ('INSERT INTO performance_metrics (name, value) VALUES (''x'', ''NaN'')', '23514'), ('INSERT INTO performance_metrics (name, value) VALUES (''x'', ''Infinity'')', '23514'), ('INSERT INTO performance_metrics (name, value) VALUES (''x'', NULL)', '23502'),
    ('INSERT INTO performance_metrics (name, value) VALUES ('''', 1)', '23514'), ('INSERT INTO performance_metrics (name, value) VALUES (''x''''; DROP TABLE system_logs; --'', 1)', '1')) v(s, r);

--
-- Summaries
--
SELECT is(ct.ask('service', 'SELECT string_agg(count::text, '' '' ORDER BY tenant_id) FROM log_summary WHERE hour = ''2026-01-01 12:00Z'''), '1 1', 'logs by hour, though they are gone');
SELECT is(ct.ask('service', 'SELECT concat_ws('' '', count, sum, avg, min, max, unit) FROM metric_summary WHERE name = ''latency'''), '2 20 10 5 15 ms', 'metrics by hour');
SELECT is(ct.ask('b', 'SELECT concat_ws('' '', day, action, count) FROM activity_summary'), '2026-01-01 sign_in 1', 'activity by day, one''s own');
CREATE TABLE ct.totals AS SELECT * FROM log_summary;
INSERT INTO performance_metrics (created_at, name, value, unit) SELECT '2026-01-01 12:00Z'::timestamptz + i * interval '1 minute', 'latency', i, CASE WHEN i % 2 = 0 THEN 'ms' ELSE '' END FROM generate_series(0, 119) i;
INSERT INTO performance_metrics (created_at, name, value, unit) VALUES ('2026-01-01 12:59Z', 'latency', -5, 'ms');
SELECT results_eq('SELECT hour, unit COLLATE "C", count, sum, min, max FROM metric_summary ORDER BY 1, 2',
    $$VALUES ('2026-01-01 12:00Z'::timestamptz, '' COLLATE "C", 30::bigint, 900::double precision, 1::double precision, 59::double precision), ('2026-01-01 12:00Z', 'ms', 33, 870 + 15, -5, 58), ('2026-01-01 13:00Z', '', 30, 2700, 61, 119), ('2026-01-01 13:00Z', 'ms', 30, 2670, 60, 118)$$, 'many rows, late rows');
CREATE TABLE ct.metrics AS SELECT * FROM metric_summary;
SELECT is((SELECT string_agg(object || ': ' || detail, ', ' ORDER BY object) FROM monitoring_upkeep() WHERE action = 'fold'),
    'infra.activity_counts: 3 rows into 3, infra.log_counts: 11 rows into 10, infra.metric_sums: 6 rows into 4', 'folded');
SELECT is_empty('(SELECT * FROM metric_summary EXCEPT SELECT * FROM ct.metrics) UNION ALL (SELECT * FROM ct.metrics EXCEPT SELECT * FROM metric_summary)', 'the totals stay');
SELECT is_empty('(SELECT * FROM log_summary EXCEPT SELECT * FROM ct.totals) UNION ALL (SELECT * FROM ct.totals EXCEPT SELECT * FROM log_summary)', 'of logs, too');
SELECT is_empty('SELECT FROM monitoring_upkeep()', 'there is nothing to fold any more');
INSERT INTO performance_metrics (created_at, name, value, unit) VALUES ('2026-01-01 13:00Z', 'latency', 1000, 'ms');
SELECT is((SELECT concat_ws(' ', count, max) FROM metric_summary WHERE hour = '2026-01-01 13:00Z' AND unit = 'ms'), '31 1000', 'a row after that counts');
SELECT results_eq('SELECT detail FROM monitoring_upkeep() WHERE action = ''fold''', ARRAY['3 rows into 2'], 'and is folded into the others');
SAVEPOINT s;
INSERT INTO performance_metrics (name, value) VALUES ('never', 1);
ROLLBACK TO s;
SELECT is_empty('SELECT FROM metric_summary WHERE name = ''never''', 'what is rolled back does not count');
SELECT is((SELECT count(*) FROM user_activity WHERE user_id = ct.id('ex')) + (SELECT count(*) FROM activity_summary WHERE user_id = ct.id('ex')), 2::bigint, 'a user''s activity');
DELETE FROM auth.users WHERE id = ct.id('ex');
SELECT is((SELECT count(*) FROM user_activity WHERE user_id = ct.id('ex')) + (SELECT count(*) FROM activity_summary WHERE user_id = ct.id('ex')), 0::bigint, 'goes with the user');

--
-- Views of the database
--
SELECT is(ct.ask('monitor', 'SELECT total_bytes > 0 AND partition_of = ''system_logs'' FROM table_sizes WHERE schema_name = ''infra'' AND table_name = ''system_logs_default'''), 'true', 'sizes');
SELECT is(ct.ask('monitor', 'SELECT NOT is_unused AND is_unique AND bytes > 0 FROM index_usage WHERE index_name = ''profiles_pkey'''), 'true', 'indexes');
SELECT is(ct.ask('service', 'SELECT count(*) FROM slow_queries'), '0', 'no statistics of statements, no error');

--
-- Plans: one's own of 20,000 users' activity
--
INSERT INTO user_activity (user_id, action) SELECT gen_random_uuid(), 'x' FROM generate_series(1, 20000);
ANALYZE user_activity, infra.activity_counts;
SELECT ok(ct.ask('a', 'EXPLAIN (FORMAT json) SELECT * FROM user_activity') ~ ('"' || replace(ct.part(0, 'user_activity'), 'infra.', '') || '_user_id_created_at_idx"'), 'one''s own is found by an index');
SELECT ok(ct.ask('a', 'EXPLAIN (FORMAT json) SELECT * FROM activity_summary') ~ 'activity_counts_user_id', 'so is its summary');
SELECT cmp_ok((ct.ask('a', 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM user_activity')::jsonb #>> '{0,Plan,Shared Hit Blocks}')::integer, '<', 80, 'few blocks are read');

SELECT lives_ok('SELECT kessel.teardown(''monitoring'', drop_data => true)', 'the way back with rows and tables that are detached');
SELECT is_empty('SELECT object FROM ct.snapshot() AS object WHERE object !~ ''ct\.|schema ct'' EXCEPT SELECT object FROM before', 'leaves nothing');
SELECT is_empty('SELECT object FROM before EXCEPT SELECT object FROM ct.snapshot() AS object', 'and takes nothing that was there');

SELECT * FROM finish();
ROLLBACK;

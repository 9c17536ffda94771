-- The blueprint monitoring: who may do what with which table, view and function,
-- partitions, summaries, views of the database, bad input, plans, and the way back.
--
-- Every table and view that the blueprint makes must have its line in the matrix
-- below, and every function its line in the list, or this file fails.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

\ir ../lib/infra.sql

SELECT * FROM kessel.setup('{core}') \g /dev/null
CREATE TABLE ct.before AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT ct.check_ways('monitoring');
SELECT ct.populate() \g /dev/null
-- Without a user, and a role of the database.
CREATE ROLE ct_monitor IN ROLE pg_monitor;
INSERT INTO ct.people VALUES ('nobody', 'authenticated', NULL), ('monitor', 'ct_monitor', NULL);

INSERT INTO system_logs (created_at, level, message, tenant_id) VALUES ('2026-01-01 12:30Z', 'error', 'of a', '00000000-0000-4000-8000-00000000000a'), ('2026-01-01 12:40Z', 'error', 'of b', '00000000-0000-4000-8000-00000000000b');
INSERT INTO user_activity (created_at, user_id, action) SELECT '2026-01-01 12:30Z', ct.id(w), 'sign_in' FROM unnest(ARRAY['a', 'b', 'ex']) w;
INSERT INTO performance_metrics (created_at, name, value, unit) VALUES ('2026-01-01 12:30Z', 'latency', 5, 'ms'), ('2026-01-01 12:40Z', 'latency', 15, 'ms');

INSERT INTO ct.matrix SELECT v.tab, '', v.ins, v.upd, v.condition, v.anon, v.a, v.b, v.ex, v.admin, v.service, jsonb_build_object('nobody', v.nobody, 'monitor', v.monitor) FROM (VALUES
    ('system_logs'::regclass, '(message) VALUES (''m'')', 'message = ''x''', 'true',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 1 - -', '0 - - -', '- - - -'),
    -- One inserts for oneself: here for b.
    ('user_activity', format('(user_id, action) VALUES (%L, ''x'')', ct.id('b')), 'action = ''x''', 'true',
        '- - - -', '1 ! - -', '1 1 - -', '1 ! - -', '3 ! - -', '3 1 - -', '0 ! - -', '- - - -'),
    ('performance_metrics', '(name, value) VALUES (''x'', 1)', 'value = 1', 'true',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 1 - -', '0 - - -', '- - - -'),
    ('monitoring_rules', '(table_name) VALUES (''x'')', 'keep_months = 5', 'true',
        '- - - -', '0 - 0 -', '0 - 0 -', '0 - 0 -', '3 - 3 -', '3 - 3 -', '0 - 0 -', '- - - -'),
    ('log_summary', '(count) VALUES (1)', 'count = 1', 'true',
        '- V V V', '0 V V V', '0 V V V', '0 V V V', '2 V V V', '2 V V V', '0 V V V', '- V V V'),
    ('activity_summary', '(count) VALUES (1)', 'count = 1', 'true',
        '- V V V', '1 V V V', '1 V V V', '1 V V V', '3 V V V', '3 V V V', '0 V V V', '- V V V'),
    ('metric_summary', '(count) VALUES (1)', 'count = 1', 'true',
        '- V V V', '0 V V V', '0 V V V', '0 V V V', '1 V V V', '1 V V V', '0 V V V', '- V V V'),
    ('slow_queries', '(calls) VALUES (1)', 'calls = 1', 'true',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '0 V V V', '- V V V', '0 V V V'),
    ('index_usage', '(scans) VALUES (1)', 'scans = 1', 'index_name = ''profiles_pkey''',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '1 V V V', '- V V V', '1 V V V'),
    ('table_sizes', '(total_bytes) VALUES (1)', 'total_bytes = 1', 'table_name = ''profiles''',
        '- V V V', '- V V V', '- V V V', '- V V V', '- V V V', '1 V V V', '- V V V', '1 V V V'),
    ('infra.log_counts', '(hour, level, source, count) VALUES (now(), ''x'', ''x'', 1)', 'count = 1', 'true',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '2 - - -', '2 - - -', '0 - - -', '- - - -'),
    ('infra.activity_counts', '(day, user_id, action, count) VALUES (now(), gen_random_uuid(), ''x'', 1)', 'count = 1', 'true',
        '- - - -', '1 - - -', '1 - - -', '1 - - -', '3 - - -', '3 - - -', '0 - - -', '- - - -'),
    ('infra.metric_sums', '(hour, name, unit, count, sum, min, max) VALUES (now(), ''x'', '''', 1, 1, 1, 1)', 'count = 1', 'true',
        '- - - -', '0 - - -', '0 - - -', '0 - - -', '1 - - -', '1 - - -', '0 - - -', '- - - -')) v(tab, ins, upd, condition, anon, a, b, ex, admin, service, nobody, monitor);
-- Partitions are nobody's.
INSERT INTO ct.matrix SELECT c.oid, '', '(id) VALUES (1)', 'id = 1', 'true', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '{"nobody": "- - - -", "monitor": "- - - -"}'
FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' AND c.relnamespace = 'infra'::regnamespace;
SELECT is((SELECT count(*) FROM ct.matrix WHERE tab::text ~ '_default$|_2[0-9]{3}_[0-9]{2}$'), 12::bigint, 'partitions of this month and the next two, and a default one');

INSERT INTO ct.functions VALUES ('infra.close_partition(regclass)', ''), ('infra.close_partitions(name)', ''), ('infra.fold_summaries()', ''),
    ('infra.give_to_partman(name)', ''), ('infra.has_partman(name)', ''), ('infra.keep_by_partman(monitoring_rules)', ''), ('infra.keep_partitions(monitoring_rules)', ''),
    ('infra.lock_partitions(name,boolean)', ''), ('infra.make_partition(name,timestamp with time zone,boolean)', ''), ('infra.month_table(name,timestamp with time zone)', ''), ('infra.partitions(name)', ''), ('infra.partman()', ''),
    ('infra.slow_queries()', 'service_role'), ('infra.wants_partitions(monitoring_rules)', ''), ('monitoring_upkeep(text)', 'service_role');
SELECT ct.check_matrix();
SELECT is((SELECT string_agg(f.fn::text, ' ') FROM ct.functions f WHERE has_function_privilege('ct_monitor', f.fn, 'EXECUTE')), 'infra.slow_queries()', 'what pg_monitor may call');
SELECT is_empty($$ SELECT r, c.oid::regclass FROM pg_class c JOIN ct.matrix m ON m.tab = c.oid, unnest('{anon,authenticated,service_role,ct_monitor}'::name[]) r
    WHERE c.relkind = 'v' AND has_table_privilege(r, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') $$, 'nobody writes to a view');

SELECT is(ct.ask('a', 'SELECT string_agg(user_id::text, '','') FROM user_activity'), ct.id('a')::text, 'one reads what one has done oneself');
SELECT is(ct.try('a', 'INSERT INTO user_activity (action) VALUES (''x'') RETURNING id'), '1', 'and tells it');
SELECT is(ct.try('a', 'INSERT INTO user_activity (action, created_at) VALUES (''x'', ''2026-01-01'')'), '-', 'but not another time');
INSERT INTO ct.people (who, role, id) VALUES ('gone', 'authenticated', gen_random_uuid());
SELECT is(ct.try('gone', 'INSERT INTO user_activity (action) VALUES (''x'')'), '!', 'nor does a token that has outlived its user');
DELETE FROM ct.people WHERE who = 'gone';
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
-- Whatever new tables are granted to whom: none of those is anybody's, attached, detached or moved to.
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA infra GRANT ALL ON TABLES TO PUBLIC, anon, authenticated, service_role;
INSERT INTO performance_metrics (created_at, name, value) VALUES (ct.month(9), 'x', 1), (ct.month(-50), 'x', 1);
SELECT results_eq('SELECT action, object FROM monitoring_upkeep(''performance_metrics'')', format($$VALUES ('move', %L), ('move', %L)$$, ct.part(-50, 'performance_metrics'), ct.part(9, 'performance_metrics')), 'with default privileges');
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA infra REVOKE ALL ON TABLES FROM PUBLIC, anon, authenticated, service_role;
SELECT is_empty($$SELECT c.oid::regclass, c.relacl FROM pg_class c WHERE c.relname ~ '^(system_logs|user_activity|performance_metrics)_' AND c.relkind = 'r'
    AND (NOT c.relrowsecurity OR EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner))$$, 'all are closed');
SELECT is(ct.try(who, statement), '-', who || ': ' || statement) FROM unnest(ARRAY['anon', 'a', 'admin', 'service']) who,
    unnest(ARRAY['SELECT infra.fold_summaries()', 'SELECT infra.make_partition(''user_activity'', now(), true)', 'SELECT infra.close_partitions(''user_activity'')', 'LOCK TABLE user_activity IN ROW EXCLUSIVE MODE',
                 'SELECT setval(''infra.user_activity_id_seq'', 1)', 'UPDATE user_activity SET user_id = auth.uid()', 'INSERT INTO infra.activity_counts (day, user_id, action, count) VALUES (now(), auth.uid(), ''x'', 1)']) statement WHERE who <> 'service' OR statement !~ 'LOCK';
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

SELECT ct.check_gone('monitoring', (SELECT b.all FROM ct.before b));
SELECT is(array(SELECT unnest(b.all) FROM ct.before b EXCEPT SELECT ct.snapshot()), '{}', 'and takes nothing that was there');

SELECT * FROM finish();
ROLLBACK;

-- The audit without shared memory: table, privileges, functions, settings.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
CREATE ROLE audit_admin;
GRANT kessel_admin TO audit_admin;
CREATE ROLE audit_user;
GRANT kessel_user TO audit_user;

---------- the table ----------

SELECT has_table('app', 'audit_log', 'the table');
SELECT columns_are('app', 'audit_log', ARRAY['id', 'occurred_at', 'action', 'purpose', 'ok', 'role_name', 'login_role', 'as_role', 'user_id', 'tenant_id', 'secret_id',
    'version', 'count', 'sqlstate', 'reason', 'pid', 'client_addr', 'application_name']);
SELECT is((SELECT relkind::text || relrowsecurity FROM pg_class WHERE oid = 'app.audit_log'::regclass), 'ptrue', 'is partitioned and has row security');
SELECT is((SELECT array_agg(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'app.audit_log'::regclass), '{app.audit_log_default}', 'begins with the default partition alone');
SELECT table_privs_are('app', 'audit_log', 'kessel_admin', ARRAY['SELECT'], 'administrators read');
SELECT table_privs_are('app', 'audit_log', r, ARRAY[]::text[], r || ' may do nothing') FROM unnest('{kessel_user,kessel_service,audit_user}'::text[]) r;
SELECT table_privs_are('app', 'audit_log_default', r, ARRAY[]::text[], r || ' may do nothing with a partition') FROM unnest('{kessel_admin,kessel_user,kessel_service}'::text[]) r;
SELECT ok(NOT has_sequence_privilege(r, 'app.audit_log_id_seq', 'USAGE, SELECT, UPDATE'), r || ' may not touch the sequence') FROM unnest('{kessel_admin,kessel_user,kessel_service}'::text[]) r;
SELECT set_eq($$ SELECT c.oid::regclass::text FROM pg_extension x, unnest(x.extconfig) o JOIN pg_class c ON c.oid = o WHERE extname = 'kessel_router' AND c.relname LIKE 'audit%' $$,
    ARRAY['app.audit_log', 'app.audit_log_default', 'app.audit_log_id_seq'], 'a dump carries their rows');
SELECT is_empty($$ SELECT attname FROM pg_attribute WHERE attrelid = 'app.audit_log'::regclass AND attnum > 0 AND attname <> 'application_name' AND col_description(attrelid, attnum) IS NULL $$, 'every column says what it is');

---------- partitions ----------

SELECT lives_ok('SELECT kessel._make_audit_partitions()', 'partitions are made');
SELECT is((SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.audit_log'::regclass), 4::bigint, 'of this month and the next two');
SELECT is((SELECT bool_and(relrowsecurity AND relacl IS NULL OR relacl = acldefault('r', relowner)) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'app.audit_log'::regclass), true, 'with row security, for nobody');
SELECT is((SELECT string_agg(DISTINCT n::text, ',') FROM (SELECT count(*) AS n FROM pg_index JOIN pg_inherits ON inhrelid = indrelid WHERE inhparent = 'app.audit_log'::regclass GROUP BY indrelid) x), '3', 'with three indexes each');
SELECT is((SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND objid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'app.audit_log'::regclass)), 1::bigint, 'only the default partition is the extension''s');
SELECT lives_ok('SELECT kessel._make_audit_partitions()', 'and made once');
SELECT is((SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.audit_log'::regclass), 4::bigint, 'not twice');

-- Each instant of the three months has its partition, whatever the time zone.
SET LOCAL timezone = 'Pacific/Kiritimati';
INSERT INTO app.audit_log (occurred_at, action, ok, count, pid)
SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + d, 'x', true, 1, 1
FROM (VALUES ('0'::interval), (date_trunc('month', now() AT TIME ZONE 'UTC') + '3 months' - date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 microsecond')) v (d);
SELECT is((SELECT count(*) FROM ONLY app.audit_log_default), 0::bigint, 'the first and the last moment are not in the default partition');
INSERT INTO app.audit_log (occurred_at, action, ok, count, pid) VALUES ('2020-02-29', 'x', true, 1, 1);
SELECT is((SELECT count(*) FROM ONLY app.audit_log_default), 1::bigint, 'one of long ago is');
RESET timezone;

---------- privileges ----------

SET LOCAL ROLE audit_admin;
SELECT is((SELECT count(*) FROM app.audit_log), 3::bigint, 'an administrator sees all rows');
SELECT throws_ok($$ INSERT INTO app.audit_log (occurred_at, action, ok, count, pid) VALUES (now(), 'x', true, 1, 1) $$, '42501', NULL, 'adds none');
SELECT throws_ok($$ UPDATE app.audit_log SET ok = false $$, '42501', NULL, 'changes none');
SELECT throws_ok($$ DELETE FROM app.audit_log $$, '42501', NULL, 'deletes none');
SELECT throws_ok($$ TRUNCATE app.audit_log $$, '42501', NULL, 'nor all');
SELECT throws_ok($$ SELECT * FROM app.audit_log_default $$, '42501', NULL, 'and reads through the table alone');
SELECT throws_ok($$ SELECT kessel._make_audit_partitions() $$, '42501', NULL, 'partitions are not theirs to make');
SELECT lives_ok($$ SELECT * FROM kessel.audit_status() $$, 'and asks for the state');
SET LOCAL ROLE audit_user;
SELECT throws_ok($$ SELECT * FROM app.audit_log $$, '42501', NULL, 'a user reads nothing');
SELECT throws_ok($$ SELECT * FROM kessel.audit_status() $$, '42501', NULL, 'and asks nothing');
RESET ROLE;
SELECT results_eq($$ SELECT * FROM kessel.audit_status() $$, $$ VALUES (0, 0, 0, 0::bigint, NULL::integer, 0::bigint) $$, 'without shared memory there is none');

---------- settings ----------

SELECT is(current_setting(name), value, name) FROM (VALUES ('kessel.alert_failures', '20'), ('kessel.alert_reveals', '100'), ('kessel.audit_buffer_size', '8MB')) v (name, value);
SELECT throws_ok(format('SET %s = 0', name), '55P02', NULL, name || ' is not a session''s') FROM unnest('{kessel.alert_failures,kessel.alert_reveals,kessel.audit_buffer_size}'::text[]) name;
SELECT throws_ok($$ ALTER SYSTEM SET kessel.alert_reveals = -1 $$, '25001', NULL, 'nor set here');

---------- what is recorded throws nothing ----------

SELECT set_config('request.jwt.claims', '{"sub": 1}', true) \g /dev/null
SELECT lives_ok($$ SELECT vault.create_secret('a', 'audit a') $$, 'a secret');
SELECT is(vault.reveal('audit a'), 'a', 'claims without a uuid');
SELECT set_config('request.jwt.claims', repeat('[', 100000), true) \g /dev/null
SELECT is(vault.reveal('audit a'), 'a', 'claims too deep to be read');
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-00000000000g"}', true) \g /dev/null
SELECT is(vault.reveal('audit a'), 'a', 'claims of nobody');
SELECT * FROM finish();
ROLLBACK;

-- Migrations of data sources, as far as they need none: who may call what, wrong
-- arguments, the plan, the view of runs, the tables that scripts make.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();

-- ---------- what there is, and for whom ----------

CREATE TEMP TABLE calls AS
SELECT p.oid::regprocedure AS call, p.* FROM pg_proc p
WHERE p.pronamespace = 'kessel'::regnamespace AND p.proname IN ('migrate', 'rollback', 'plan_migration', 'expose', 'unexpose', 'forget_migration_runs');
SELECT is(count(*), 6::bigint, 'the calls are there') FROM calls;
SELECT ok(obj_description(call, 'pg_proc') ~ 'For kessel_admin$', proname || ' says for whom it is') FROM calls ORDER BY proname;
SELECT ok(has_function_privilege('kessel_admin', oid, 'EXECUTE') AND NOT has_function_privilege('kessel_service', oid, 'EXECUTE') AND NOT has_function_privilege('kessel_user', oid, 'EXECUTE'),
          proname || ' is for kessel_admin') FROM calls ORDER BY proname;
SELECT is(prosecdef::text || coalesce(proconfig::text, ''), 'false', proname || ' can commit') FROM calls WHERE prokind = 'p' ORDER BY proname;
SELECT ok(NOT has_function_privilege('kessel_service', p.oid, 'EXECUTE'), p.proname || ' is not for kessel_service')
FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace AND p.proname ~ '^_(run|targets|tenant_ids|expose|refresh_exposed|migrate_new|settle|script_rel|blueprint_rel)' ORDER BY p.proname;
SELECT is(array_agg(DISTINCT p.proname::text), NULL, 'what reads or writes without asking whose run it is, is for nobody')
FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace AND has_function_privilege('kessel_admin', p.oid, 'EXECUTE')
  AND p.proname IN ('_run_try_lock', '_run_release', '_run_mine', '_run_choose', '_run_choose_canary', '_run_take_up', '_targets', '_migrate_new_tenant', '_settle_tenant');

SELECT ok(has_table_privilege('kessel_admin', t, 'SELECT') AND NOT has_table_privilege('kessel_admin', t, 'INSERT, UPDATE, DELETE, TRUNCATE')
          AND NOT has_table_privilege('kessel_service', t, 'SELECT'), t || ' is read by kessel_admin alone')
FROM unnest('{kessel.migration_targets,kessel.migration_runs,kessel.migration_run_targets,kessel.exposed,kessel.migration_progress}'::text[]) t;
SELECT ok((SELECT bool_and(c.relrowsecurity) FROM pg_class c WHERE c.oid = t::regclass), t || ' has row security')
FROM unnest('{kessel.migration_targets,kessel.migration_runs,kessel.migration_run_targets,kessel.exposed}'::text[]) t;
SELECT ok(t::regclass = ANY (e.extconfig), t || ' is part of a dump')
FROM unnest('{kessel.migration_targets,kessel.migration_runs,kessel.migration_run_targets,kessel.exposed}'::text[]) t, pg_extension e WHERE e.extname = 'kessel_router';

-- ---------- a fleet on paper ----------

INSERT INTO app.data_sources (id, name, isolation, conninfo, options, status)
SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, name, isolation, '{}', options::jsonb, status
FROM (VALUES (1, 'shared', 'row', '{"schema": "crm"}', 'active'), (2, 'schemas', 'schema', '{}', 'active'), (3, 'solo', 'database', '{}', 'active'),
             (4, 'empty', 'row', '{}', 'active'), (5, 'nobody', 'schema', '{}', 'active'), (6, 'off', 'database', '{}', 'disabled')) v (n, name, isolation, options, status);
INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source, status)
SELECT slug, slug, s.id, s.isolation, v.id, v.status
FROM (VALUES ('row-b', 'shared', 'b', 'active'), ('row-a', 'shared', 'a', 'suspended'), ('sch-a', 'schemas', 't_a', 'active'), ('sch-b', 'schemas', 't_b', 'suspended'),
             ('one', 'solo', 'x', 'active'), ('away', 'off', 'x', 'active')) v (slug, source, id, status)
     JOIN app.data_sources s ON s.name = v.source;
SELECT kessel.add_blueprint('paper'), kessel.add_blueprint('blank');
SELECT kessel.add_blueprint('here', applies_to => 'infra');
SELECT kessel.add_migration('paper', '0001_a', 'CREATE TABLE a (id integer); CREATE TABLE gone (id integer)', 'DROP TABLE a, gone'),
       kessel.add_migration('paper', '0002_b', 'CREATE VIEW "@tenant".b AS SELECT * FROM a; DROP TABLE gone; ALTER TABLE a RENAME TO "A 2"', 'SELECT 1'),
       kessel.add_migration('paper', '0010_c', 'CREATE INDEX CONCURRENTLY i ON "A 2" (id)', NULL, false);

SELECT throws_ok('SELECT * FROM kessel.plan_migration(''nothing'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(NULL)', '42704');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''here'')', '42809', 'blueprint "here" is for this database, not for data sources');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''blank'')', '22023', 'blueprint "blank" has no migrations');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''paper'', 3)', '22023', 'blueprint "paper" has no version 3');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''paper'', -1)', '22023', 'blueprint "paper" has no version -1');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''paper'', tenants => ''{one,nobody,Row-a}'')', 'KR002', 'there is no tenant "Row-a", "nobody"');
SELECT throws_ok('SELECT * FROM kessel.plan_migration(''paper'', tenants => ''{one,NULL}'')', '22004', 'a tenant is NULL');
SELECT is_empty('SELECT * FROM kessel.plan_migration(''paper'', tenants => ''{}'')', 'no tenants, no targets');

SELECT results_eq($$SELECT data_source, schema_name, tenants, from_version, to_version, migrations, note FROM kessel.plan_migration('paper', 2)$$,
    $$VALUES ('empty', 'public', '{}'::text[], NULL::integer, 2, '{0001_a,0002_b}'::text[], 'not known here what it has: the target will be asked'),
             ('off', 'public', '{away}', NULL, 2, '{}', 'skipped: the data source is disabled'),
             ('schemas', 't_a', '{sch-a}', NULL, 2, '{0001_a,0002_b}', 'not known here what it has: the target will be asked'),
             ('schemas', 't_b', '{sch-b}', NULL, 2, '{0001_a,0002_b}', 'not known here what it has: the target will be asked'),
             ('shared', 'crm', '{row-a,row-b}', NULL, 2, '{0001_a,0002_b}', 'not known here what it has: the target will be asked'),
             ('solo', 'public', '{one}', NULL, 2, '{0001_a,0002_b}', 'not known here what it has: the target will be asked')$$,
    'one target a database, one a schema; suspended tenants count, sources without a tenant too');
INSERT INTO kessel.migration_targets (data_source_id, schema_name, blueprint, version, trying)
SELECT s.id, schema, 'paper', version, trying
FROM (VALUES ('shared', 'crm', 2, NULL::integer), ('schemas', 't_a', 10, NULL), ('schemas', 't_b', 1, NULL), ('solo', 'public', 0, 10)) v (source, schema, version, trying)
     JOIN app.data_sources s ON s.name = v.source;
SELECT results_eq($$SELECT schema_name, from_version, migrations, note FROM kessel.plan_migration('paper', tenants => '{row-b,sch-a,sch-b,one}')$$,
    $$VALUES ('t_a', 10, '{}'::text[], NULL), ('t_b', 1, '{0002_b,0010_c}', 'not transactional: 0010_c'), ('crm', 2, '{0010_c}', 'not transactional: 0010_c'),
             ('public', 0, '{0001_a,0002_b,0010_c}', 'a migration was cut off there: the target will be asked what it has; not transactional: 0010_c')$$,
    'from what each is known to have');
SELECT results_eq($$SELECT schema_name, migrations, note FROM kessel.plan_migration('paper', 1, tenants => '{sch-a,sch-b,row-a}')$$,
    $$VALUES ('t_a', '{0010_c,0002_b}'::text[], 'by kessel.rollback() only; without a way down: 0010_c; not transactional: 0010_c'), ('t_b', '{}', NULL), ('crm', '{0002_b}', 'by kessel.rollback() only')$$,
    'and back');
SELECT results_eq($$SELECT schema_name, tenants FROM kessel.plan_migration('paper', 1, ARRAY[(SELECT id::text FROM app.tenants WHERE slug = 'row-b'), 'row-b'])$$,
    $$VALUES ('crm', '{row-a,row-b}'::text[])$$, 'who is named by id, or twice, counts once; those who share the place show');

-- ---------- changes of what may be applied ----------

SELECT throws_ok($$SELECT kessel.add_migration('paper', '0010_c', 'SELECT 1', NULL, false)$$, '55000');
DELETE FROM kessel.migration_targets WHERE version = 10;
SELECT throws_ok($$SELECT kessel.add_migration('paper', '0010_c', 'SELECT 1', NULL, false)$$, '55000', NULL, 'one that may be applied, by a run that was cut off, cannot be changed either');

-- ---------- runs ----------

SELECT throws_ok('CALL kessel.migrate(''paper'')', '25001', 'a migration cannot run inside a transaction block');
SELECT throws_ok('CALL kessel.rollback(''paper'', 0)', '25001', 'a migration cannot run inside a transaction block');

CREATE FUNCTION pg_temp.check(more text) RETURNS text LANGUAGE sql AS $$
    SELECT 'SELECT kessel._run_check(' || string_agg(coalesce((SELECT quote_literal(m[2]) FROM regexp_matches(more, '(\w+)=([^,]*)', 'g') m WHERE m[1] = name), value), ',' ORDER BY o) || ')'
    FROM unnest('{kind,blueprint,to_version,tenants,canary,max_parallel,on_error,max_failures,dry_run,timeout,lock_timeout,lock_retries,verify}'::text[],
                '{''migrate'',''paper'',"NULL","NULL","NULL",16,''stop'',"NULL",false,''5 min'',''2 s'',5,true}'::text[]) WITH ORDINALITY u (name, value, o) $$;
SELECT lives_ok(pg_temp.check(''), 'the defaults');
SELECT throws_ok(pg_temp.check(wrong), state, message, wrong)
FROM (VALUES ('max_parallel=0', '22023', 'max_parallel must be between 1 and 1000'), ('max_parallel=1001', '22023', 'max_parallel must be between 1 and 1000'),
             ('on_error=go', '22023', 'on_error must be stop or continue'), ('max_failures=-1', '22023', 'max_failures must not be negative'),
             ('timeout=0', '22023', 'timeout must be between one millisecond and 24 days'), ('timeout=25 days', '22023', 'timeout must be between one millisecond and 24 days'),
             ('lock_timeout=-1 s', '22023', 'lock_timeout must be between one millisecond and 24 days'), ('lock_retries=-1', '22023', 'lock_retries must be between 0 and 1000'),
             ('to_version=0', '22023', 'blueprint "paper" has no version 0'), ('to_version=7', '22023', 'blueprint "paper" has no version 7'),
             ('kind=rollback', '22004', 'to_version must not be NULL'), ('tenants={nobody}', 'KR002', 'there is no tenant "nobody"'),
             ('canary={nobody}', 'KR002', 'there is no tenant "nobody"'), ('blueprint=here', '42809', 'blueprint "here" is for this database, not for data sources')) v (wrong, state, message);
SELECT throws_ok('SELECT kessel._run_check(''migrate'', ''paper'', NULL, NULL, NULL, 16, ''stop'', NULL, NULL, NULL, NULL, 5, true)', '22023', 'dry_run and verify must not be NULL');

INSERT INTO kessel.migration_runs (run_id, blueprint, kind, to_version, dry_run, options, called_by, started_at, resumed_at, updated_at)
VALUES ('00000000-0000-0000-0000-0000000000aa', 'paper', 'migrate', 2, false, '{}', 'x', now() - interval '40 s', now() - interval '20 s', now() - interval '10 s');
INSERT INTO kessel.migration_run_targets (run_id, n, wave, data_source_id, data_source, schema_name, tenants, state, ended_at)
SELECT '00000000-0000-0000-0000-0000000000aa', n, 'rest', gen_random_uuid(), 'x', 'x', '{}', state, CASE WHEN n <= 20 THEN now() END
FROM (SELECT n, CASE WHEN n <= 18 THEN 'done' WHEN n = 19 THEN 'failed' WHEN n = 20 THEN 'unknown' WHEN n <= 24 THEN 'running' WHEN n <= 30 THEN 'waiting' ELSE 'skipped' END FROM generate_series(1, 33) n) v (n, state);
SET LOCAL ROLE kessel_admin;
SELECT results_eq('SELECT state, waiting, running, done, failed, skipped, unknown, total, round(rate::numeric, 1), time_left FROM kessel.migration_progress',
    $$VALUES ('interrupted', 6::bigint, 4::bigint, 18::bigint, 1::bigint, 3::bigint, 1::bigint, 33::bigint, 2.0, NULL::interval)$$, 'a run that no session works on is interrupted');
SELECT throws_ok('SELECT kessel._run_step(''00000000-0000-0000-0000-0000000000aa'')', '55000', 'this session does not work on run 00000000-0000-0000-0000-0000000000aa');
SELECT throws_ok('SELECT kessel._run_end(''00000000-0000-0000-0000-0000000000aa'')', '55000', 'this session does not work on run 00000000-0000-0000-0000-0000000000aa');
SELECT throws_ok('SELECT kessel._run_begin(''migrate'', ''paper'', 2, NULL, NULL, false, ''{}'', NULL)', '55000', 'this session is not migrating blueprint "paper"');
SELECT lives_ok('SELECT kessel._run_lock(''paper'')', 'with its lock');
SELECT results_eq('SELECT state, time_left BETWEEN ''4 s'' AND ''15 s'' FROM kessel.migration_progress', $$VALUES ('running', true)$$, 'it is running');
SELECT throws_ok('SELECT kessel._run_lock(''paper'')', '55P03', 'blueprint "paper" is being migrated by another session', 'the lock is taken once');
SELECT is(kessel.forget_migration_runs('0'), 0::bigint, 'a run that is running is not forgotten');
SELECT lives_ok('SELECT kessel._run_unlock(''paper'')', 'and goes');
SELECT is((SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 75), 0::bigint, 'without a trace');
SELECT is(kessel.forget_migration_runs('1 hour'), 0::bigint, 'a young one is not forgotten');
SELECT is(kessel.forget_migration_runs(NULL), 0::bigint, 'NULL forgets nothing');
SELECT is(kessel.forget_migration_runs('5 s'), 1::bigint, 'an old one is');
SELECT is((SELECT count(*) FROM kessel.migration_run_targets), 0::bigint, 'with its targets');
RESET ROLE;

-- ---------- what scripts make ----------

SELECT is(kessel._blueprint_relations('paper', v), r::text[], 'tables at version ' || v) FROM (VALUES (0, '{}'), (1, '{a,gone}'), (2, '{"A 2",b}'), (10, '{"A 2",b}')) x (v, r);
SELECT results_eq('SELECT * FROM kessel._script_relations(' || quote_literal(script) || ')', 'VALUES ' || wanted, script)
FROM (VALUES ('CREATE TABLE IF NOT EXISTS x (LIKE y)', $$('create', 'x', NULL)$$), ('CREATE TABLE "@tenant"."X" ()', $$('create', 'X', NULL)$$),
             ('CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p DEFAULT', $$('create', 'p', NULL)$$),
             ('CREATE MATERIALIZED VIEW m AS SELECT 1', $$('create', 'm', NULL)$$), ('CREATE TABLE t AS SELECT 1', $$('create', 't', NULL)$$),
             ('SELECT 1 AS a INTO s', $$('create', 's', NULL)$$), ('CREATE FOREIGN TABLE f () SERVER s', $$('create', 'f', NULL)$$),
             ('DROP TABLE a, "@tenant".b, other.c', $$('drop', 'a', NULL), ('drop', 'b', NULL)$$), ('DROP MATERIALIZED VIEW m', $$('drop', 'm', NULL)$$),
             ('ALTER VIEW v RENAME TO w', $$('rename', 'v', 'w')$$), ('ALTER TABLE a SET SCHEMA other', $$('drop', 'a', NULL)$$)) v (script, wanted);
SELECT is_empty('SELECT * FROM kessel._script_relations(' || quote_literal(script) || ')', script)
FROM unnest(ARRAY['CREATE TABLE other.x ()', 'CREATE TEMP TABLE x ()', 'CREATE INDEX i ON a (b)', 'DROP INDEX i', 'ALTER TABLE a RENAME b TO c', 'DO $$BEGIN CREATE TABLE x (); END$$', '']) script;

SELECT throws_ok('SELECT * FROM kessel.expose(''nothing'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT * FROM kessel.expose(''here'')', '42809');
SELECT throws_ok('SELECT * FROM kessel.expose(NULL)', '22004');
SELECT throws_ok('SELECT * FROM kessel.expose(''paper'', tables => ''{NULL}'')', '22004');
SELECT throws_ok('SELECT * FROM kessel.expose(''paper'')', '55000', 'blueprint "paper" has not been applied to all tenants');
UPDATE kessel.blueprints SET version = 1 WHERE name = 'blank';
SELECT throws_ok('SELECT * FROM kessel.expose(''blank'')', '42P01', 'the migrations of blueprint "blank" show no table');
UPDATE kessel.blueprints SET version = 10 WHERE name = 'paper';
SELECT throws_ok('SELECT * FROM kessel.expose(''paper'')', 'KR005', 'no data source can show the tables of blueprint "paper"');
SELECT is_empty('SELECT * FROM kessel.exposed', 'what fails is not remembered');
SELECT is(kessel.unexpose('paper'), false, 'nothing to take away');

SELECT * FROM finish();
ROLLBACK;

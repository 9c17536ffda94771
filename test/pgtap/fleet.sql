-- The functions of the fleet: what they look like, and who may call them.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();

SELECT has_function('kessel', name, 'there is ' || name) FROM unnest(ARRAY['fleet_query', 'fleet_exec', 'fleet_rows']) AS name;
SELECT is(pg_get_function_result('kessel.fleet_query'::regproc), 'TABLE(tenant text, ok boolean, "row" jsonb, error jsonb, ms double precision)', 'columns of fleet_query');
SELECT is(pg_get_function_result('kessel.fleet_exec'::regproc), 'TABLE(tenant text, ok boolean, command text, rows bigint, error jsonb, ms double precision)', 'columns of fleet_exec');
SELECT is(pg_get_function_result('kessel.fleet_rows'::regproc), 'SETOF record', 'fleet_rows has those of its caller');
SELECT is(proparallel::text || provolatile::text, 'uv', 'never in a parallel worker: ' || proname) FROM pg_proc WHERE oid IN ('kessel.fleet_query'::regproc, 'kessel.fleet_exec'::regproc, 'kessel.fleet_rows'::regproc) ORDER BY proname;
SELECT ok(obj_description(p, 'pg_proc') ~ 'kessel_service, kessel_admin$', p || ' says for whom it is') FROM unnest(ARRAY['kessel.fleet_query'::regproc, 'kessel.fleet_exec', 'kessel.fleet_rows']) p;
SELECT ok(has_function_privilege('kessel_admin', p::oid, 'EXECUTE') AND has_function_privilege('kessel_service', p::oid, 'EXECUTE') AND NOT has_function_privilege('kessel_user', p::oid, 'EXECUTE'), p || ' is for kessel_admin and kessel_service')
FROM unnest(ARRAY['kessel.fleet_query'::regproc, 'kessel.fleet_exec', 'kessel.fleet_rows']) p;
SELECT is(setting || ' ' || context, '16 superuser', 'kessel.fleet_connections_per_host') FROM pg_settings WHERE name = 'kessel.fleet_connections_per_host';

SELECT is_empty('SELECT * FROM kessel.fleet_query(''SELECT 1'')', 'without tenants there are no lines');
SELECT is_empty('SELECT * FROM kessel.fleet_exec(''SELECT 1'')', 'nor for a statement');
SELECT is_empty('SELECT * FROM kessel.fleet_rows(''SELECT 1'') AS t(tenant text, a int)', 'nor rows');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(NULL)', '22004', 'the statement is NULL');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''SELECT 1'', ''{NULL}'')', '22004', 'a tenant is NULL');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''SELECT 1'', max_parallel => 0)', '22023', 'max_parallel must be between 1 and 1000');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''SELECT 1'', timeout => ''0'')', '22023', 'timeout must be between one millisecond and 30 days');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''SELECT 1'', deadline => ''0'')', '22023', 'deadline must be between one millisecond and 30 days');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''SELECT 1; SELECT 2'')', '42601', 'a fleet runs one statement');
SELECT throws_ok('SELECT * FROM kessel.fleet_exec(''BEGIN'')', '2D000', 'a fleet''s statement cannot begin or end a transaction');
SELECT throws_ok('SELECT * FROM kessel.fleet_query(''COPY x TO STDOUT'')', '0A000', 'COPY is not for a fleet');
SELECT results_eq('SELECT tenant, ok, error ->> ''sqlstate'' FROM kessel.fleet_query(''SELECT 1'', ''{nobody,Nobody}'')', $$VALUES ('nobody', false, 'KR002'), ('Nobody', false, 'KR002')$$, 'unknown tenants are lines');
SELECT throws_ok('SELECT * FROM kessel.fleet_rows(''SELECT 1'', ''{nobody}'') AS t(tenant text, a int)', 'KR002', 'tenant "nobody" does not exist');

SELECT * FROM finish();
ROLLBACK;

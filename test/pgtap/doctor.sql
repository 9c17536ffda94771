-- kessel.doctor() and kessel.test_data_source(): what is wrong is a row, with a
-- word on what to do, and never an error.
\set superuser :USER
CREATE ROLE doctor_runtime LOGIN;
CREATE ROLE doctor_admin;
GRANT kessel_admin TO doctor_admin;
CREATE ROLE doctor_user;
GRANT kessel_user TO doctor_user;
SET client_min_messages = error;
SELECT * FROM no_plan();

---------- doctor ----------

CREATE FUNCTION finding(name text) RETURNS text LANGUAGE sql AS
    $$ SELECT concat_ws('|', ok, detail, hint) FROM kessel.doctor() WHERE "check" = name $$;

SELECT is((SELECT count(DISTINCT "check") FROM kessel.doctor()), (SELECT count(*) FROM kessel.doctor()), 'each check once');
SELECT is_empty($$ SELECT "check" FROM kessel.doctor() WHERE ok IS NULL OR detail IS NULL OR detail = '' OR ok <> (hint IS NULL) $$, 'each has a detail, and a hint where something is wrong');
SELECT is(finding('extension version'), 't|0.1');
SELECT matches(finding('library preloaded'), '^f\|.*session_preload_libraries = ''kessel_router''$');
SELECT matches(finding('tenant reported to poolers'), '^f\|.*Preload the library as above.$');
SET session_preload_libraries = 'auto_explain, kessel_router';
SELECT is(finding('library preloaded'), 't|in session_preload_libraries');
SELECT matches(finding('tenant reported to poolers'), '^t\|');
SET session_preload_libraries = 'auto_explain';
SELECT matches(finding('library preloaded'), 'session_preload_libraries = ''auto_explain, kessel_router''$');
RESET session_preload_libraries;
SELECT is(finding('expiring secrets'), 't|None expires within 14 days.');
SELECT is(finding('grants on secrets'), 't|Every grant is to a role that is there.');
SELECT is(finding('keys without a tenant'), 't|Every data key belongs to a tenant that is there, or to none.');
SELECT is(finding('audit lines'), 't|Every open of a secret is a line in the server''s log.');
SET log_min_messages = fatal;
SELECT matches(finding('audit lines'), '^f\|.*log_min_messages = fatal\|Set log_min_messages');
RESET log_min_messages;
SELECT matches(finding('audit table'), '^f\|.*in the server''s log only.*\|Put this line into postgresql.conf and restart: shared_preload_libraries = ''kessel_router''$');
SELECT is(finding('data sources'), 'f|0|Make one known with kessel.create_data_source(name, url).');
SELECT is(finding('router tables'), 'f|none|Make them with kessel.import_tables(data_source, remote_schema).');
SELECT is(finding('default data source'), 't|none', 'no default is needed without data sources');

SELECT format('host=%s port=%s dbname=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()) AS local \gset
\set options '''{"allow_local": true, "password_required": false}'''
SELECT kessel.create_data_source('here', :'local' || ' user=doctor_runtime', isolation => 'row', options => :options) \g /dev/null
SELECT kessel.create_data_source('nobody', :'local', options => '{"allow_local": true}') \g /dev/null
SELECT kessel.create_data_source('plain', 'postgresql://u:doctorsecret@db.invalid/crm?sslmode=require') \g /dev/null
SELECT matches(finding('vault'), '^f\|open, root key from generated file.*root_key_file', 'a generated key belongs elsewhere');
SELECT vault.create_secret('x', 'soon over', new_expires_at => now() + interval '13 days') AS expiring \gset
SELECT is(finding('expiring secrets'), 'f|Expired, or within 14 days: soon over|Store a new value: vault.update_secret(id, new_secret, new_expires_at => ...).');
SELECT vault.delete_secret(:'expiring') \g /dev/null
SELECT vault.create_secret('x', new_tenant_id => '00000000-0000-4000-8000-00000000dead') AS stray \gset
SELECT matches(finding('keys without a tenant'), '^f\|.*dead\|Run SELECT \* FROM vault.shred_tenant\(''00000000-0000-4000-8000-00000000dead''\)');
SELECT vault.shred_tenant('00000000-0000-4000-8000-00000000dead') \g /dev/null
SELECT matches(finding('keys without a tenant'), '^t\|', 'shredded it is all right');
SELECT is(finding('data sources'), 't|3');
SELECT matches(finding('default data source'), '^f\|none\|');
SELECT kessel.set_default_data_source('here') \g /dev/null
SELECT is(finding('default data source'), 't|here');
SELECT is(finding('credentials'), 'f|No runtime credential: nobody|Run SELECT kessel.set_credential(''nobody'', username, password).');
SELECT matches(finding('server certificates'), '^f\|Not verified: plain\|');
SELECT is(finding('agents for row isolation'), 'f|Missing in: here|Run SELECT kessel.install_agent(''here'').');
UPDATE app.data_sources SET agent_version = '0' WHERE name = 'here';
SELECT matches(finding('agent versions'), '^f\|Not of version 1: here \(0\)\|');
INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'lost', 'Lost', id, 'database', 'x' FROM app.data_sources WHERE name = 'plain';
SELECT kessel.alter_data_source('plain', status => 'disabled') \g /dev/null
SELECT matches(finding('routes'), '^f\|Active tenants on a disabled data source: lost \(plain\)\|');
UPDATE app.data_sources SET agent_version = NULL;

SELECT is(finding('PUBLIC'), 't|may do nothing with the extension', 'the extension gives PUBLIC nothing');
BEGIN;
GRANT EXECUTE ON FUNCTION kessel.doctor() TO PUBLIC;
GRANT SELECT ON app.tenants TO PUBLIC;
GRANT USAGE ON FOREIGN SERVER kessel_router TO PUBLIC;
SELECT matches(finding('PUBLIC'), '^f\|EXECUTE on function kessel.doctor\(\), SELECT on table app.tenants, USAGE on server kessel_router\|');
ROLLBACK;
BEGIN;
CREATE ROLE doctor_both LOGIN;
GRANT kessel_user, kessel_admin TO doctor_both;
SELECT matches(finding('app roles'), '^f\|.*doctor_both');
ROLLBACK;
SELECT is(kessel._some('{a,b}'), 'a, b');
SELECT is(kessel._some(ARRAY(SELECT i::text FROM generate_series(1, 13) i)), '1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more');

---------- test_data_source ----------

CREATE FUNCTION outcome(source text) RETURNS text LANGUAGE sql AS
    $$ SELECT string_agg("check" || CASE ok WHEN true THEN '' ELSE '!' END, ' ') FROM kessel.test_data_source(source) $$;
CREATE FUNCTION finding(source text, name text) RETURNS text LANGUAGE sql AS
    $$ SELECT concat_ws('|', ok, detail) FROM kessel.test_data_source(source) WHERE "check" = name $$;

SELECT is(outcome('here'), 'TCP TLS authentication server version round trip owner credential collation agent! role safety row security', 'a source that answers');
SELECT is(finding('here', 'collation'), 't|' || datcollate || ', as here') FROM pg_database WHERE datname = current_database();
SELECT is(finding('here', 'agent'), 'f|not installed, and row isolation needs it: run SELECT kessel.install_agent(''here'')');
SELECT is(finding('here', 'authentication'), 't|user "doctor_runtime" without password');
SELECT is(finding('here', 'row security'), 't|every exposed table is protected');
SELECT is_empty($$ SELECT "check", ms FROM kessel.test_data_source('here') WHERE "check" IN ('TCP', 'authentication', 'round trip', 'agent', 'role safety') AND (ms IS NULL OR ms < 0 OR ms > 60000) $$, 'steps take time');
CREATE TABLE exposed (x integer);
GRANT SELECT ON exposed TO doctor_runtime;
SELECT is(finding('here', 'row security'), 'f|table public.exposed: row security is not enabled');
CREATE TABLE counted (id serial, n bigint GENERATED ALWAYS AS IDENTITY, x integer);
GRANT INSERT (x) ON counted TO doctor_runtime;
SELECT is(finding('here', 'sequences'), 'f|defaults call nextval(), so the runtime role needs USAGE on public.counted_id_seq');
GRANT USAGE ON SEQUENCE counted_id_seq TO doctor_runtime;
SELECT is(finding('here', 'sequences'), NULL, 'and with that no row of it');
DROP TABLE counted;
SELECT kessel.set_credential('here', current_user, NULL, 'owner') \g /dev/null
SELECT is(finding('here', 'owner credential'), format('t|user "%s"', current_user));
SELECT kessel.install_agent('here') \g /dev/null
SELECT is(finding('here', 'agent'), 't|version 1');
UPDATE app.data_sources SET agent_version = NULL WHERE name = 'here';
SELECT matches(finding('here', 'agent'), '^f\|installed there, but not from here');
SELECT kessel.install_agent('here') \g /dev/null
COMMENT ON SCHEMA kessel_agent IS 'kessel_router agent 0: of old';
SELECT matches(finding('here', 'agent'), '^f\|version 0, this extension has version 1: run');
REVOKE USAGE ON SCHEMA kessel_agent FROM doctor_runtime;
SELECT matches(finding('here', 'agent'), '^f\|the runtime role may not use it: run');
DROP SCHEMA kessel_agent CASCADE;
SELECT matches(finding('here', 'agent'), '^f\|gone from there: run');

SELECT throws_ok($$ SELECT * FROM kessel.test_data_source('nowhere') $$, 'KR007');
SELECT is(outcome('nobody'), 'credential!');
SELECT matches(finding('nobody', 'credential'), 'has no runtime credential');
SELECT is(outcome('plain'), 'status! name resolution!', 'a disabled source is tested all the same');
SELECT kessel.create_data_source('closed', 'postgresql://u:doctorsecret@127.0.0.1:1/crm', options => '{"allow_local": true}') \g /dev/null
SELECT is(outcome('closed'), 'name resolution TCP!');
SELECT matches(finding('closed', 'TCP'), 'Connection refused');
SELECT kessel.create_data_source('norole', :'local' || ' user=doctor_nobody', options => :options) \g /dev/null
SELECT matches(finding('norole', 'authentication'), '^f\|.*role "doctor_nobody" does not exist');
SELECT kessel.create_data_source('nodb', :'local' || 'x user=doctor_runtime', options => :options) \g /dev/null
SELECT matches(finding('nodb', 'authentication'), '^f\|.*database ".*x" does not exist');
SELECT kessel.create_data_source('open', :'local' || ' user=doctor_runtime password=doctorsecret', options => '{"allow_local": true}') \g /dev/null
SELECT is(outcome('open'), 'TCP TLS authentication! server version round trip', 'a source that asks for no password');
SELECT is_empty($$ SELECT * FROM app.data_sources s, kessel.test_data_source(s.name) t WHERE t.detail LIKE '%doctorsecret%' $$, 'no password in any detail');

---------- privileges ----------

SET ROLE doctor_admin;
SELECT lives_ok($$ SELECT * FROM kessel.doctor() $$, 'an administrator asks the doctor');
SELECT lives_ok($$ SELECT * FROM kessel.test_data_source('here') $$, 'and tests a source');
SELECT throws_ok($$ SELECT * FROM kessel._probe_connection(NULL) $$, '42501', NULL, 'but not by the inner function');
SET ROLE doctor_user;
SELECT throws_ok($$ SELECT * FROM kessel.doctor() $$, '42501', NULL, 'a user may not');
SELECT throws_ok($$ SELECT * FROM kessel.test_data_source('here') $$, '42501', NULL, 'nor test');
RESET ROLE;
SELECT * FROM finish();

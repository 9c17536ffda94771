-- The agent in a data source of its own: tenant context, fence, privileges,
-- which sources are safe for row isolation, and attaching tenants.
\set superuser :USER
\set infra :DBNAME
CREATE ROLE agent_owner LOGIN;
CREATE ROLE agent_runtime LOGIN;
CREATE ROLE agent_admin;
GRANT kessel_admin TO agent_admin;
CREATE DATABASE agent_source OWNER agent_owner;

\c agent_source agent_owner
CREATE SCHEMA crm;
CREATE TABLE crm.accounts (id integer PRIMARY KEY, tenant_id text NOT NULL, name text);
CREATE TABLE crm.notes (id integer PRIMARY KEY, customer uuid NOT NULL, note text);
CREATE TABLE crm.currencies (code text PRIMARY KEY);
GRANT USAGE ON SCHEMA crm TO agent_runtime;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crm TO agent_runtime;
CREATE SCHEMA t_delta;
CREATE SCHEMA t_closed;
GRANT USAGE ON SCHEMA t_delta TO agent_runtime;

\c :infra :superuser
SET client_min_messages = error;
SELECT * FROM no_plan();

SELECT kessel.create_data_source(name, url, isolation => isolation, options => '{"allow_local": true, "password_required": false, "schema": "crm"}')
FROM (SELECT format('host=%s port=%s dbname=agent_source user=agent_runtime', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'))) AS u (url),
     (VALUES ('shared', 'row'), ('schemas', 'schema'), ('bare', 'row')) AS v (name, isolation)
\g /dev/null
SELECT kessel.set_credential(name, 'agent_owner', NULL, 'owner') FROM unnest(ARRAY['shared', 'schemas', 'bare']) name
\g /dev/null

-- As a superuser there.
SELECT kessel.create_data_source('root', format('host=%s port=%s dbname=agent_source user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_user),
                                 options => '{"allow_local": true, "password_required": false}')
\g /dev/null

-- One value, fetched from the source as one of the two roles.
CREATE FUNCTION remote(purpose text, query text) RETURNS text LANGUAGE sql AS
    $$ SELECT r[1] FROM kessel._remote_query((SELECT id FROM app.data_sources WHERE name = 'shared'), purpose, query) r $$;
-- Several statements in one transaction there; purpose may be root.
CREATE FUNCTION remote_script(purpose text, script text) RETURNS void LANGUAGE sql AS
    $$ SELECT kessel._remote_exec(id, CASE name WHEN 'root' THEN 'runtime' ELSE purpose END, script)
       FROM app.data_sources WHERE name = CASE purpose WHEN 'root' THEN 'root' ELSE 'shared' END $$;
CREATE FUNCTION reasons() RETURNS SETOF text LANGUAGE sql AS
    $$ SELECT kessel._row_safety((SELECT id FROM app.data_sources WHERE name = 'shared')) $$;

---------- installing ----------

SELECT throws_ok($$ SELECT kessel.install_agent('nowhere') $$, 'KR007');
SELECT throws_ok($$ SELECT kessel.create_tenant('early', data_source => 'shared') $$, 'KR008', 'data source "shared" has no agent');
SELECT is((SELECT count(*) FROM app.tenants WHERE slug = 'early'), 0::bigint, 'a tenant that was refused is not there');
SET ROLE agent_admin;
SELECT is(kessel.install_agent('shared'), '1', 'an administrator installs the agent');
SELECT is(kessel.install_agent('shared'), '1', 'and installs it again');
RESET ROLE;
SELECT is((SELECT agent_version FROM app.data_sources WHERE name = 'shared'), '1', 'the version is known here');
SELECT is(remote('runtime', 'SELECT kessel_agent.version()'), '1', 'and there');
SELECT is(remote('owner', $$ SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'kessel_agent' $$), 'agent_owner', 'it belongs to the owner credential');

SELECT throws_ok($$ SELECT remote('runtime', 'SELECT count(*) FROM kessel_agent.tenants') $$, '42501', NULL, 'the runtime role cannot read the fence');
SELECT throws_ok($$ SELECT remote('runtime', 'UPDATE kessel_agent.tenants SET epoch = 7 RETURNING 1') $$, '42501', NULL, 'nor raise it');
SELECT throws_ok($$ SELECT remote('runtime', 'SELECT kessel_agent.protect(''crm.accounts'')') $$, '42501', NULL, 'nor protect a table');
SELECT is(remote('owner', $$ SELECT count(*) FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
                             WHERE pronamespace = 'kessel_agent'::regnamespace AND a.grantee = 0 $$), '0', 'PUBLIC has no function of the agent');
SELECT is(remote('owner', $$ SELECT count(*) FROM pg_namespace, aclexplode(nspacl) a WHERE nspname = 'kessel_agent' AND a.grantee NOT IN (nspowner, 'agent_runtime'::regrole) $$),
          '0', 'none but owner and runtime role may look into its schema');
SELECT is(remote('owner', $$ SELECT string_agg(proname, ' ') FROM pg_proc WHERE pronamespace = 'kessel_agent'::regnamespace AND prosecdef AND proconfig::text NOT LIKE '%search_path=pg_catalog, pg_temp%' $$),
          NULL, 'what runs with the owner''s rights fixes its search_path');

---------- which sources are safe ----------

SELECT bag_eq('SELECT reasons()', $$ VALUES ('table crm.accounts: row security is not enabled'), ('table crm.notes: row security is not enabled'),
                                              ('table crm.currencies: row security is not enabled') $$, 'open tables are named');
SELECT throws_ok($$ SELECT kessel.create_tenant('acme', data_source => 'shared') $$, 'KR006', 'data source "shared" is not safe for row isolation');

SELECT lives_ok($$ SELECT remote_script('owner', 'SELECT kessel_agent.protect(''crm.accounts''), kessel_agent.protect(''crm.notes'', ''customer'')') $$, 'the owner protects tables');
SELECT lives_ok($$ SELECT remote_script('owner', 'SELECT kessel_agent.protect(''crm.accounts'')') $$, 'twice, if need be');
SELECT throws_ok($$ SELECT remote_script('owner', 'SELECT kessel_agent.protect(''crm.currencies'')') $$, '42703', NULL, 'not without a tenant column');
SELECT throws_ok($$ SELECT remote_script('owner', 'SELECT kessel_agent.protect(''crm.accounts_pkey'')') $$, '42809', NULL, 'nothing but tables');
SELECT is(remote('owner', $$ SELECT string_agg(pg_get_expr(adbin, adrelid), '; ' ORDER BY adrelid) FROM pg_attrdef WHERE adrelid IN ('crm.accounts'::regclass, 'crm.notes'::regclass) $$),
          'kessel_agent.tenant_id(); (kessel_agent.tenant_id())::uuid', 'the tenant column fills itself in');
SELECT kessel.alter_data_source('shared', options => '{"shared_tables": ["crm.currencies"]}') \g /dev/null
SELECT is_empty('SELECT reasons()', 'protected and shared tables are safe');

-- Make it unsafe, look at the reason, undo.
CREATE FUNCTION reason_after(purpose text, script text, undo text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    PERFORM remote_script(purpose, script);
    found := (SELECT string_agg(r, '; ') FROM reasons() r);
    PERFORM remote_script(purpose, undo);
    RETURN found;
END
$$;
SELECT is(reason_after('owner', script, undo), reason, reason) FROM (VALUES
    ('ALTER TABLE crm.accounts NO FORCE ROW LEVEL SECURITY', 'ALTER TABLE crm.accounts FORCE ROW LEVEL SECURITY', 'table crm.accounts: row security is not forced'),
    ('ALTER TABLE crm.accounts DISABLE ROW LEVEL SECURITY', 'ALTER TABLE crm.accounts ENABLE ROW LEVEL SECURITY', 'table crm.accounts: row security is not enabled'),
    ('CREATE POLICY wide ON crm.accounts FOR SELECT USING (true)', 'DROP POLICY wide ON crm.accounts', 'table crm.accounts: policy "wide" does not ask for the tenant'),
    ('CREATE POLICY wide ON crm.accounts USING (tenant_id = kessel_agent.tenant_id()) WITH CHECK (true)', 'DROP POLICY wide ON crm.accounts', 'table crm.accounts: policy "wide" does not ask for the tenant'),
    ('CREATE POLICY wide ON crm.accounts TO agent_owner USING (true)', 'DROP POLICY wide ON crm.accounts', NULL),
    ('CREATE POLICY wide ON crm.accounts USING (true); CREATE POLICY narrow ON crm.accounts AS RESTRICTIVE USING (tenant_id = (SELECT kessel_agent.tenant_id()))',
     'DROP POLICY wide ON crm.accounts; DROP POLICY narrow ON crm.accounts', NULL),
    ('GRANT TRUNCATE ON crm.accounts TO agent_runtime', 'REVOKE TRUNCATE ON crm.accounts FROM agent_runtime', 'table crm.accounts: the role may TRUNCATE it, which no policy filters'),
    ('CREATE TABLE crm.open (id int); GRANT SELECT (id) ON crm.open TO agent_runtime', 'DROP TABLE crm.open', 'table crm.open: row security is not enabled'),
    ('CREATE TABLE crm.open (id int); GRANT SELECT ON crm.open TO PUBLIC', 'DROP TABLE crm.open', 'table crm.open: row security is not enabled'),
    ('CREATE TABLE crm.closed (id int)', 'DROP TABLE crm.closed', NULL),
    ('CREATE VIEW crm.v AS TABLE crm.accounts; GRANT SELECT ON crm.v TO agent_runtime', 'DROP VIEW crm.v', 'view crm.v runs with its owner''s rights'),
    ('CREATE VIEW crm.v WITH (security_invoker) AS TABLE crm.accounts; GRANT SELECT ON crm.v TO agent_runtime', 'DROP VIEW crm.v', NULL),
    ('CREATE VIEW crm.v AS SELECT 1 AS one; GRANT SELECT ON crm.v TO agent_runtime', 'DROP VIEW crm.v', NULL),
    ('CREATE MATERIALIZED VIEW crm.m AS SELECT 1 AS one; GRANT SELECT ON crm.m TO agent_runtime', 'DROP MATERIALIZED VIEW crm.m', 'materialized view crm.m has no row security')
) AS v (script, undo, reason);
SELECT is(reason_after('root', script, undo), reason, reason) FROM (VALUES
    ('ALTER ROLE agent_runtime BYPASSRLS', 'ALTER ROLE agent_runtime NOBYPASSRLS', 'role "agent_runtime" has BYPASSRLS'),
    ('ALTER ROLE agent_runtime CREATEROLE', 'ALTER ROLE agent_runtime NOCREATEROLE', 'role "agent_runtime" may create roles'),
    ('CREATE ROLE agent_high BYPASSRLS; CREATE ROLE agent_middle; GRANT agent_high TO agent_middle; GRANT agent_middle TO agent_runtime',
     'DROP ROLE agent_middle; DROP ROLE agent_high', 'role "agent_runtime", as a member of "agent_high", has BYPASSRLS'),
    ('CREATE ROLE agent_high NOINHERIT; GRANT agent_high TO agent_runtime', 'DROP ROLE agent_high', NULL),
    ('GRANT pg_read_server_files TO agent_runtime', 'REVOKE pg_read_server_files FROM agent_runtime', 'role "agent_runtime", as a member of "pg_read_server_files", may use the server''s files or programs')
) AS v (script, undo, reason);
SELECT matches(reason_after('root', 'ALTER ROLE agent_runtime SUPERUSER', 'ALTER ROLE agent_runtime NOSUPERUSER'), 'role "agent_runtime" is a superuser');
SELECT matches(reason_after('root', 'GRANT agent_owner TO agent_runtime', 'REVOKE agent_owner FROM agent_runtime'), 'as a member of "agent_owner", owns tables');
SELECT is_empty('SELECT reasons()', 'all of that is undone');

---------- attaching ----------

SELECT lives_ok($$ SELECT kessel.create_tenant('acme', data_source => 'shared', tenant_id_in_data_source => 'acme') $$, 'a tenant is attached to a safe source');
SELECT lives_ok($$ SELECT kessel.create_tenant('birch', data_source => 'shared', tenant_id_in_data_source => 'birch') $$, 'and another one');
SELECT is(remote('owner', $$ SELECT string_agg(tenant_id || epoch, ' ' ORDER BY tenant_id) FROM kessel_agent.tenants $$), 'acme1 birch1', 'the fence knows them');
SELECT kessel._raise_fence((SELECT id FROM app.data_sources WHERE name = 'shared'), '{acme}', '{2}') \g /dev/null
SELECT throws_ok($$ SELECT remote('runtime', $q$ SELECT kessel_agent.enter('acme', 1) $q$) $$, 'KR004', NULL, 'a stale epoch is refused');
SELECT lives_ok($$ SELECT kessel.resume_tenant('acme') $$, 'resuming attaches again');
SELECT is(remote('runtime', $$ SELECT kessel_agent.enter('acme', 1) $$), '', 'which repairs the fence');
SELECT throws_ok(format('SELECT remote(''runtime'', %L)', q), 'KR004', NULL, q || ' is refused') FROM (VALUES
    ($$ SELECT kessel_agent.enter('acme', 2) $$), ($$ SELECT kessel_agent.enter('ACME', 1) $$), ($$ SELECT kessel_agent.enter('', 1) $$),
    ($$ SELECT kessel_agent.enter(NULL, 1) $$), ($$ SELECT kessel_agent.enter('acme', NULL) $$), ($$ SELECT kessel_agent.enter('cedar', 1) $$)) AS v (q);

SELECT throws_ok($$ SELECT kessel.create_tenant('echo', data_source => 'schemas') $$, 'KR005', 'data source "schemas" has no usable schema "t_echo"');
SELECT throws_ok($$ SELECT kessel.create_tenant('closed', data_source => 'schemas') $$, 'KR005', 'data source "schemas" has no usable schema "t_closed"');
SELECT lives_ok($$ SELECT kessel.create_tenant('delta', data_source => 'schemas') $$, 'a schema that is there will do, with or without agent');
SELECT is(kessel.install_agent('schemas'), '1', 'an agent that comes later');
SELECT is(remote('owner', $$ SELECT epoch FROM kessel_agent.tenants WHERE tenant_id = 't_delta' $$), '1', 'knows the tenants that were there before');

-- Where router tables find their schema.
SELECT is(kessel._describe_source('schemas', schema, NULL, NULL) ->> 'schema_name', written, schema || ' is written as ' || written)
FROM (VALUES ('t_delta', '@tenant'), ('crm', '@tenant'), ('public', 'public')) AS v (schema, written);

---------- tenant context ----------

SELECT throws_ok($$ SELECT remote('runtime', 'SELECT kessel_agent.tenant_id()') $$, 'KR001', NULL, 'nobody has entered');
SELECT lives_ok($$ SELECT remote_script('runtime', $q$
    SELECT kessel_agent.enter('acme', 1);
    INSERT INTO crm.accounts (id, name) VALUES (1, 'of acme');
    COMMIT;
    BEGIN;
    SELECT kessel_agent.enter('birch', 1);
    INSERT INTO crm.accounts (id, name) VALUES (2, 'of birch');
    COMMIT $q$) $$, 'rows go to the tenant that has entered');
SELECT is(remote('runtime', $$ WITH e AS MATERIALIZED (SELECT kessel_agent.enter('acme', 1)) SELECT kessel_agent.tenant_id() FROM e $$), 'acme', 'enter() says who');

-- What a tenant tries; the script raises where it succeeds.
SELECT lives_ok(format('SELECT remote_script(''runtime'', %L)', $q$ SELECT kessel_agent.enter('acme', 1); DO $$ BEGIN ASSERT $q$ || condition || $q$; END $$ $q$), condition) FROM (VALUES
    ($$ (SELECT string_agg(name, ',') FROM crm.accounts) = 'of acme' $$),
    ($$ NOT EXISTS (SELECT FROM crm.accounts WHERE tenant_id = 'birch') $$),
    ($$ NOT EXISTS (SELECT FROM crm.accounts a LEFT JOIN crm.accounts b ON true WHERE b.name <> 'of acme') $$)) AS v (condition);
SELECT throws_ok(format('SELECT remote_script(''runtime'', %L)', $q$ SELECT kessel_agent.enter('acme', 1); $q$ || attack), '42501', NULL, attack) FROM (VALUES
    ($$ INSERT INTO crm.accounts (id, tenant_id) VALUES (3, 'birch') $$),
    ($$ UPDATE crm.accounts SET tenant_id = 'birch' $$),
    ($$ TRUNCATE crm.accounts $$)) AS v (attack);
SELECT lives_ok($$ SELECT remote_script('runtime', $q$ SELECT kessel_agent.enter('acme', 1); DELETE FROM crm.accounts WHERE id = 2; UPDATE crm.accounts SET name = 'x' WHERE id = 2 $q$) $$, 'what cannot be seen cannot be changed');
SELECT lives_ok($$ SELECT remote_script('runtime', $q$ SELECT kessel_agent.enter('birch', 1); DO $d$ BEGIN ASSERT (SELECT name FROM crm.accounts) = 'of birch'; END $d$ $q$) $$, 'nor was it');
SELECT throws_ok($$ SELECT remote_script('runtime', $q$ SELECT kessel_agent.enter('acme', 1); COMMIT; BEGIN; SELECT * FROM crm.accounts $q$) $$, 'KR001', NULL, 'the context ends with its transaction');
SELECT throws_ok($$ SELECT remote_script('runtime', $q$ BEGIN; SAVEPOINT s; SELECT kessel_agent.enter('acme', 1); ROLLBACK TO s; SELECT * FROM crm.accounts $q$) $$, 'KR001', NULL, 'and with its savepoint');
SELECT throws_ok($$ SELECT remote_script('owner', 'SELECT * FROM crm.accounts') $$, 'KR001', NULL, 'the owner of the table is under its policy, too');
SELECT throws_ok($$ SELECT remote_script('runtime', $q$ SELECT kessel_agent.enter('acme', 1); INSERT INTO crm.notes (id, note) VALUES (1, '') $q$) $$, '22P02', NULL, 'an id that is no uuid fits no uuid column');

SELECT lives_ok($$ SELECT kessel.drop_tenant('acme') $$, 'a tenant is dropped');
SELECT throws_ok($$ SELECT remote('runtime', $q$ SELECT kessel_agent.enter('acme', 1) $q$) $$, 'KR004', NULL, 'and refused by the fence');

---------- a planted schema ----------

SELECT remote_script('owner', 'DROP SCHEMA kessel_agent CASCADE') \g /dev/null
SELECT remote_script('root', 'CREATE SCHEMA kessel_agent AUTHORIZATION agent_runtime') \g /dev/null
SELECT throws_ok($$ SELECT kessel.install_agent('bare') $$, '42501', 'schema kessel_agent belongs to another role', 'the agent does not move into a schema of somebody else');

---------- privileges ----------

SELECT ok(NOT has_function_privilege('kessel_admin', p.oid, 'EXECUTE') AND NOT has_function_privilege('kessel_user', p.oid, 'EXECUTE'), p.oid::regprocedure || ' is the owner''s')
FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace
 AND p.proname IN ('_agent_script', '_agent_version', '_raise_fence', '_row_safety', '_attach_tenant', '_detach_tenant') ORDER BY 1;
SELECT ok(has_function_privilege('kessel_admin', 'kessel.install_agent(text)', 'EXECUTE') AND NOT has_function_privilege('kessel_user', 'kessel.install_agent(text)', 'EXECUTE')
          AND NOT has_function_privilege('kessel_service', 'kessel.install_agent(text)', 'EXECUTE'), 'install_agent is for administrators');
SELECT * FROM finish();

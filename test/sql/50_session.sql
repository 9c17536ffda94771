-- Who may work for which tenant. User a is a member of alder and cedar, user b of birch.
\set SHOW_CONTEXT never
\set a '{"sub": "00000000-0000-4000-8000-00000000000a", "role": "authenticated"}'
\set b '{"sub": "00000000-0000-4000-8000-00000000000b", "tenant_id": "birch"}'
SET SESSION AUTHORIZATION regress_app;
SELECT count(*) FROM data.accounts;
SET kessel.tenant = 'alder';
SELECT count(*) FROM data.accounts;
SELECT set_config('request.jwt.claims', :'a', false) IS NOT NULL AS claims;
SELECT count(*), kessel.current_tenant(), kessel.current_user_id() FROM data.accounts;
SET kessel.tenant = 'birch';
SELECT count(*) FROM data.accounts;
SET kessel.tenant = 'nobody';
SELECT count(*) FROM data.accounts;
SET kessel.tenant = 'Alder';
SET kessel.tenant = 'al der';
SET kessel.tenant = '-alder';
SHOW kessel.tenant;
RESET kessel.tenant;

-- the claims name the tenant where the setting does not
SELECT set_config('request.jwt.claims', :'b', false) IS NOT NULL AS claims;
SELECT count(*), kessel.current_tenant() FROM data.accounts;
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-00000000000b", "app_metadata": {"tenant_id": "birch"}}', false) IS NOT NULL AS claims;
SELECT count(*), kessel.current_tenant() FROM data.accounts;
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-00000000000b", "tenant_id": "alder"}', false) IS NOT NULL AS claims;
SELECT count(*) FROM data.accounts;
SELECT set_config('request.jwt.claims', '{"sub": "nobody"}', false) IS NOT NULL AS claims;
SELECT count(*) FROM data.accounts;
SELECT set_config('request.jwt.claims', '["sub"]', false) IS NOT NULL AS claims;
SELECT count(*) FROM data.accounts;
SELECT set_config('request.jwt.claims', 'rubbish', false) IS NOT NULL AS claims;
SELECT count(*) FROM data.accounts;
SELECT set_config('request.jwt.claims', '', false) IS NOT NULL AS claims;
SELECT kessel.current_tenant(), kessel.current_tenant_id(), kessel.current_user_id();

-- use_tenant, for the transaction or the session
SELECT set_config('request.jwt.claims', :'a', false) IS NOT NULL AS claims;
BEGIN;
SELECT kessel.use_tenant('cedar') IS NOT NULL AS used;
SELECT count(*) FROM data.accounts;
COMMIT;
SHOW kessel.tenant;
SELECT kessel.use_tenant('cedar', is_local => false) = kessel.current_tenant_id() AS used;
SELECT kessel.use_tenant('birch', false);
SHOW kessel.tenant;
SELECT kessel.use_tenant(NULL);
SELECT slug, name FROM app.tenants ORDER BY slug;
SELECT count(*) FROM app.user_tenants;
SELECT count(*) FROM app.data_sources;
SELECT count(*) FROM kessel.routes;
SELECT kessel.create_tenant('mine');
SELECT kessel._remote_query(gen_random_uuid(), 'runtime', 'SELECT 1');

-- another's rights help with tables, not with tenants
RESET SESSION AUTHORIZATION;
CREATE FUNCTION data.count_as_owner(tenant text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.set_config('kessel.tenant', tenant, true);
    RETURN (SELECT pg_catalog.count(*) FROM data.accounts);
END $$;
CREATE VIEW data.account_names AS SELECT name FROM data.accounts;
GRANT SELECT ON data.account_names TO regress_app;
SET ROLE regress_app;
SELECT data.count_as_owner('cedar');
SELECT data.count_as_owner('birch');
SET kessel.tenant = 'birch';
SELECT * FROM data.account_names;
SET kessel.tenant = 'cedar';
SELECT min(name) FROM data.account_names;
RESET ROLE;

-- a suspended tenant and an ended membership count from the next statement on
SET ROLE regress_app;
PREPARE names AS SELECT count(*) FROM data.accounts;
EXECUTE names;
RESET ROLE;
SELECT kessel.suspend_tenant('cedar');
EXECUTE names;
SELECT kessel.resume_tenant('cedar');
SELECT kessel.deactivate_member('cedar', '00000000-0000-4000-8000-00000000000a');
EXECUTE names;
SET ROLE regress_app;
EXECUTE names;
RESET ROLE;
SELECT kessel.activate_member('cedar', '00000000-0000-4000-8000-00000000000a');
SET ROLE regress_app;
EXECUTE names;
RESET ROLE;
SELECT kessel.remove_member('cedar', '00000000-0000-4000-8000-00000000000a');
SELECT kessel.remove_member('cedar', '00000000-0000-4000-8000-00000000000a');
SET ROLE regress_app;
EXECUTE names;
RESET ROLE;
DROP FUNCTION data.count_as_owner(text);
DROP VIEW data.account_names;

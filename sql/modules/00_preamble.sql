-- kessel_router: schemas and roles. Loaded first.

\echo Use "CREATE EXTENSION kessel_router CASCADE" to load this file. \quit

CREATE SCHEMA kessel;
CREATE SCHEMA app;
CREATE SCHEMA vault;

COMMENT ON SCHEMA kessel IS 'kessel_router: functions, the session''s tenant, routing';
COMMENT ON SCHEMA app IS 'kessel_router: tenants, their data sources and members';
COMMENT ON SCHEMA vault IS 'kessel_router: sealed secrets and their keys';

-- Roles belong to the cluster, not to the extension: they are made where
-- missing and never dropped.
DO $$
DECLARE
    rolename text;
BEGIN
    FOREACH rolename IN ARRAY ARRAY['kessel_admin', 'kessel_service', 'kessel_user'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = rolename) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', rolename);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA kessel, app, vault FROM PUBLIC;
GRANT USAGE ON SCHEMA kessel, app, vault TO kessel_admin, kessel_service, kessel_user;

-- kessel_router: schemas and roles. Loaded first.

\echo Use "CREATE EXTENSION kessel_router CASCADE" to load this file. \quit

-- Most often it is Supabase Vault's, which keeps to this name.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('vault') IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_extension
               WHERE extname OPERATOR(pg_catalog.=) 'supabase_vault'
                 AND extnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('vault')) THEN
        RAISE EXCEPTION 'schema "vault" belongs to the extension supabase_vault' USING
            ERRCODE = 'duplicate_schema',
            DETAIL = 'kessel_router has a vault with the same functions and views, in a schema of the same name.',
            HINT = 'Rename the schema, its secrets stay readable, and have them taken over: ALTER SCHEMA vault RENAME TO supabase_vault; CREATE EXTENSION kessel_router CASCADE; SELECT * FROM vault.import_supabase(); and when all are imported: DROP EXTENSION supabase_vault; DROP SCHEMA supabase_vault.';
    END IF;
    RAISE EXCEPTION 'schema "vault" exists already' USING
        ERRCODE = 'duplicate_schema',
        DETAIL = 'kessel_router keeps its secrets in a schema of this name, which it makes itself.',
        HINT = 'Drop it if it is empty (DROP SCHEMA vault) or rename it (ALTER SCHEMA vault RENAME TO ...).';
END
$$;

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

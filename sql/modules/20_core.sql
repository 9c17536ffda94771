-- The data model: data sources, their credentials, tenants, members.
--
-- Rows are written by the functions of the later modules, which are SECURITY
-- DEFINER; roles get reading only. Row security holds for everyone but the
-- extension's owner.

CREATE TABLE app.data_sources (
    id            uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    name          text NOT NULL UNIQUE
                  CHECK (name OPERATOR(pg_catalog.~) '^[a-z0-9][a-z0-9_-]{0,62}$'),
    kind          text NOT NULL DEFAULT 'postgres' CHECK (kind IN ('postgres', 'supabase', 'neon')),
    region        text,
    isolation     text NOT NULL CHECK (isolation IN ('database', 'schema', 'row')),
    conninfo      jsonb NOT NULL,
    options       jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(options) = 'object'),
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    is_default    boolean NOT NULL DEFAULT false,
    agent_version text,
    notes         text,
    api_url       text,
    pool_config   jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(pool_config) = 'object'),
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at    timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE UNIQUE INDEX data_sources_one_default ON app.data_sources (is_default) WHERE is_default;

COMMENT ON TABLE app.data_sources IS 'Databases that hold tenant data. Written by kessel.create_data_source, alter_data_source, drop_data_source.';
COMMENT ON COLUMN app.data_sources.isolation IS 'How tenants are kept apart there: database (one tenant has it all), schema (one each), row (shared tables under row security)';
COMMENT ON COLUMN app.data_sources.conninfo IS 'libpq connection keywords and values, without user and without any secret';
COMMENT ON COLUMN app.data_sources.options IS 'allow_local: boolean, may name a unix socket or this server; schema: text, where tables of database- and row-isolated tenants live, default public; password_required: boolean, default true; pooler: ''transaction'' where the url leads to a pooler that gives each transaction another session, default ''session''; shared_tables: array of ''schema.table'', meant for all tenants of a row-isolated source';
COMMENT ON COLUMN app.data_sources.kind IS 'Whose service it is; the router treats all alike';
COMMENT ON COLUMN app.data_sources.api_url IS 'Where apps reach it that open their own client, such as a Supabase project''s url; see kessel.set_api';
COMMENT ON COLUMN app.data_sources.pool_config IS 'For apps that open their own pool; the router does not read it';
COMMENT ON COLUMN app.data_sources.agent_version IS 'version of the schema kessel_agent in that database; NULL where it is not installed';

CREATE TABLE app.data_source_credentials (
    data_source_id uuid NOT NULL REFERENCES app.data_sources ON DELETE CASCADE,
    purpose        text NOT NULL CHECK (purpose IN ('runtime', 'owner', 'anon', 'service')),
    username       text,
    secret_id      uuid REFERENCES vault.secrets,
    pending_secret_id uuid REFERENCES vault.secrets,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (data_source_id, purpose)
);
CREATE INDEX data_source_credentials_secret_id ON app.data_source_credentials (secret_id);
CREATE INDEX data_source_credentials_pending_secret_id ON app.data_source_credentials (pending_secret_id) WHERE pending_secret_id IS NOT NULL;

COMMENT ON TABLE app.data_source_credentials IS 'Which sealed secret opens a data source for which purpose. Written by kessel.set_credential.';
COMMENT ON COLUMN app.data_source_credentials.purpose IS 'runtime: the router connects with it; owner: installs the agent and changes schema; anon, service: API keys for apps that open their own client';
COMMENT ON COLUMN app.data_source_credentials.secret_id IS 'NULL where the source needs no password';
COMMENT ON COLUMN app.data_source_credentials.pending_secret_id IS 'The next password, while kessel.rotate_credential is at work or where it was interrupted: logins that the current one does not open try this one';

CREATE TABLE app.tenants (
    id                       uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    slug                     text NOT NULL UNIQUE
                             CHECK (slug OPERATOR(pg_catalog.~) '^[a-z0-9][a-z0-9-]{0,62}$'),
    name                     text NOT NULL,
    status                   text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    data_source_id           uuid NOT NULL REFERENCES app.data_sources,
    isolation                text NOT NULL CHECK (isolation IN ('database', 'schema', 'row')),
    tenant_id_in_data_source text NOT NULL CHECK (tenant_id_in_data_source <> ''),
    route_epoch              bigint NOT NULL DEFAULT 1,
    created_at               timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at               timestamptz NOT NULL DEFAULT pg_catalog.now(),
    UNIQUE (data_source_id, tenant_id_in_data_source)
);
CREATE UNIQUE INDEX tenants_whole_database ON app.tenants (data_source_id) WHERE isolation = 'database';

COMMENT ON TABLE app.tenants IS 'Customers and their routes. Written by kessel.create_tenant and its sisters.';
COMMENT ON COLUMN app.tenants.tenant_id_in_data_source IS 'row isolation: the value of the tenant column there; schema isolation: the name of the schema; database isolation: free';
COMMENT ON COLUMN app.tenants.route_epoch IS 'raised whenever the route changes; the target refuses any other';

CREATE TABLE app.user_tenants (
    user_id    uuid NOT NULL,
    tenant_id  uuid NOT NULL REFERENCES app.tenants ON DELETE CASCADE,
    role       text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    is_active  boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (user_id, tenant_id)
);
CREATE INDEX user_tenants_tenant_id ON app.user_tenants (tenant_id);

COMMENT ON TABLE app.user_tenants IS 'Which user may work for which tenant. Written by kessel.add_member and its sisters.';

-- Rows, not definitions, are what a dump must carry.
SELECT pg_catalog.pg_extension_config_dump('app.data_sources', '');
SELECT pg_catalog.pg_extension_config_dump('app.data_source_credentials', '');
SELECT pg_catalog.pg_extension_config_dump('app.tenants', '');
SELECT pg_catalog.pg_extension_config_dump('app.user_tenants', '');

-- A change of any of these rows reaches every backend's caches at commit.
CREATE FUNCTION kessel._changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'kr_watch_changed';
REVOKE ALL ON FUNCTION kessel._changed() FROM PUBLIC;

CREATE FUNCTION kessel._touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := pg_catalog.clock_timestamp();
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION kessel._touch() FROM PUBLIC;

DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['app.data_sources', 'app.data_source_credentials', 'app.tenants', 'app.user_tenants'] LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tab);
        EXECUTE pg_catalog.format('CREATE TRIGGER touch BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION kessel._touch()', tab);
    END LOOP;
    FOREACH tab IN ARRAY ARRAY['app.data_sources', 'app.data_source_credentials', 'app.tenants', 'app.user_tenants', 'vault.secrets', 'vault.keys', 'vault.secret_grants'] LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION kessel._changed()', tab);
        EXECUTE pg_catalog.format('CREATE TRIGGER changed_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION kessel._changed()', tab);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER changed', tab);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER changed_truncate', tab);
    END LOOP;
END
$$;

CREATE POLICY admin_reads ON app.data_sources FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON app.data_source_credentials FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON app.tenants FOR SELECT TO kessel_admin, kessel_service USING (true);
CREATE POLICY admin_reads ON app.user_tenants FOR SELECT TO kessel_admin, kessel_service USING (true);

GRANT SELECT ON app.data_sources, app.data_source_credentials, app.tenants, app.user_tenants TO kessel_admin;
GRANT SELECT ON app.tenants, app.user_tenants TO kessel_service;

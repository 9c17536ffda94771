-- The app's settings, and the databases that it knows.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.app_settings (
    key         text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 200),
    value       jsonb NOT NULL DEFAULT 'null' CHECK (octet_length(value::text) <= 1048576),
    description text CHECK (char_length(description) <= 2000),
    is_public   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.app_settings IS 'Settings of the app, for all users alike. Secrets belong in the vault: public.insert_secret()';
COMMENT ON COLUMN public.app_settings.value IS 'Up to 1 MB';
COMMENT ON COLUMN public.app_settings.is_public IS 'Everybody reads it, without a user too; else administrators only';

CREATE TABLE public.db_registry (
    id              text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name            text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description     text CHECK (char_length(description) <= 2000),
    connection_type text NOT NULL DEFAULT 'postgres' CHECK (connection_type ~ '^[a-z][a-z0-9_-]{0,62}$'),
    is_enabled      boolean NOT NULL DEFAULT true,
    is_default      boolean NOT NULL DEFAULT false,
    env_url_key     text CHECK (env_url_key ~ '^[A-Za-z_][A-Za-z0-9_]{0,199}$'),
    env_anon_key    text CHECK (env_anon_key ~ '^[A-Za-z_][A-Za-z0-9_]{0,199}$'),
    env_service_key text CHECK (env_service_key ~ '^[A-Za-z_][A-Za-z0-9_]{0,199}$'),
    data_source_id  uuid REFERENCES app.data_sources ON DELETE SET NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX db_registry_one_default ON public.db_registry (is_default) WHERE is_default;
CREATE INDEX db_registry_data_source_id ON public.db_registry (data_source_id);
COMMENT ON TABLE public.db_registry IS 'Databases that the app knows by a name of its own';
COMMENT ON COLUMN public.db_registry.connection_type IS 'How the app reaches it: infra, postgres, supabase, neon or the like';
COMMENT ON COLUMN public.db_registry.env_url_key IS 'The name of the app''s environment variable with the url; env_anon_key and env_service_key: with the keys. Names, no values';
COMMENT ON COLUMN public.db_registry.data_source_id IS 'The data source that it stands for; NULL: this database, or none';

INSERT INTO public.db_registry (id, name, description, connection_type, is_default) VALUES ('kessel', 'Infra database', 'This database', 'infra', true);

CREATE TRIGGER touch BEFORE UPDATE ON public.app_settings FOR EACH ROW EXECUTE FUNCTION infra.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.db_registry FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.app_settings ENABLE ROW LEVEL SECURITY;
CREATE POLICY public_is_read ON public.app_settings FOR SELECT TO anon USING (is_public);
CREATE POLICY public_or_admin_reads ON public.app_settings FOR SELECT TO authenticated USING (is_public OR (SELECT infra.is_admin()));
CREATE POLICY admin_inserts ON public.app_settings FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.app_settings FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.app_settings FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.app_settings TO service_role USING (true);

ALTER TABLE public.db_registry ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin ON public.db_registry TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.db_registry TO service_role USING (true);

REVOKE ALL ON TABLE public.app_settings, public.db_registry FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.app_settings TO anon;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.app_settings, public.db_registry TO authenticated, service_role;

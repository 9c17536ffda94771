-- What the app's AI may read, what it has done, and the models that it has.

SET search_path = pg_catalog, pg_temp;

CREATE TYPE public.ai_access_level AS ENUM ('none', 'read', 'read_write', 'full');
COMMENT ON TYPE public.ai_access_level IS 'What an AI may do with a table';

CREATE TABLE public.ai_datasources (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    database_id        text NOT NULL DEFAULT 'kessel' REFERENCES public.db_registry ON UPDATE CASCADE ON DELETE CASCADE,
    table_schema       text NOT NULL DEFAULT 'public' CHECK (char_length(table_schema) BETWEEN 1 AND 63),
    table_name         text NOT NULL CHECK (char_length(table_name) BETWEEN 1 AND 63),
    display_name       text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    description        text CHECK (char_length(description) <= 2000),
    access_level       public.ai_access_level NOT NULL DEFAULT 'none',
    is_enabled         boolean NOT NULL DEFAULT true,
    allowed_columns    text[],
    excluded_columns   text[] NOT NULL DEFAULT '{}',
    max_rows_per_query integer NOT NULL DEFAULT 100 CHECK (max_rows_per_query BETWEEN 1 AND 1000000),
    created_by         uuid DEFAULT auth.uid() REFERENCES auth.users ON DELETE SET NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (database_id, table_schema, table_name)
);
CREATE INDEX ai_datasources_created_by ON public.ai_datasources (created_by);
COMMENT ON TABLE public.ai_datasources IS 'Tables that the app''s AI may use. What it says is for the app to keep to; rights are given by GRANT and policies';
COMMENT ON COLUMN public.ai_datasources.allowed_columns IS 'NULL: all columns';
COMMENT ON COLUMN public.ai_datasources.excluded_columns IS 'Of those, not these';

CREATE TABLE public.ai_tool_calls (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid NOT NULL DEFAULT auth.uid() REFERENCES auth.users ON DELETE CASCADE,
    session_id    text CHECK (char_length(session_id) <= 200),
    tool_name     text NOT NULL CHECK (char_length(tool_name) BETWEEN 1 AND 200),
    tool_args     jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(tool_args::text) <= 1048576),
    success       boolean,
    result        jsonb CHECK (octet_length(result::text) <= 1048576),
    error_message text CHECK (char_length(error_message) <= 10000),
    is_dry_run    boolean NOT NULL DEFAULT false,
    executed_at   timestamptz NOT NULL DEFAULT now(),
    duration_ms   integer CHECK (duration_ms >= 0)
);
CREATE INDEX ai_tool_calls_user_id ON public.ai_tool_calls (user_id, executed_at);
CREATE INDEX ai_tool_calls_session_id ON public.ai_tool_calls (session_id);
CREATE INDEX ai_tool_calls_executed_at ON public.ai_tool_calls (executed_at);
COMMENT ON TABLE public.ai_tool_calls IS 'What the app''s AI has done for whom; goes with the user';
COMMENT ON COLUMN public.ai_tool_calls.tool_args IS 'Up to 1 MB, as result';
COMMENT ON COLUMN public.ai_tool_calls.success IS 'NULL: not ended yet';
COMMENT ON COLUMN public.ai_tool_calls.duration_ms IS 'Milliseconds';

CREATE TABLE public.ai_models (
    id                 text PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 200),
    provider           text NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 63),
    display_name       text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    description        text CHECK (char_length(description) <= 2000),
    supports_vision    boolean NOT NULL DEFAULT false,
    supports_tools     boolean NOT NULL DEFAULT false,
    max_tokens         integer CHECK (max_tokens > 0),
    is_default         boolean NOT NULL DEFAULT false,
    is_enabled         boolean NOT NULL DEFAULT true,
    cost_per_1k_input  numeric CHECK (cost_per_1k_input >= 0),
    cost_per_1k_output numeric CHECK (cost_per_1k_output >= 0),
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX ai_models_one_default ON public.ai_models (is_default) WHERE is_default;
COMMENT ON TABLE public.ai_models IS 'Models that the app offers';
COMMENT ON COLUMN public.ai_models.cost_per_1k_input IS 'Per 1,000 tokens, in the app''s currency; as cost_per_1k_output';

CREATE TRIGGER touch BEFORE UPDATE ON public.ai_datasources FOR EACH ROW EXECUTE FUNCTION infra.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.ai_models FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.ai_datasources ENABLE ROW LEVEL SECURITY;
CREATE POLICY enabled_or_admin_reads ON public.ai_datasources FOR SELECT TO authenticated
    USING ((is_enabled AND access_level <> 'none') OR (SELECT infra.is_admin()));
CREATE POLICY admin_inserts ON public.ai_datasources FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.ai_datasources FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.ai_datasources FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.ai_datasources TO service_role USING (true);

ALTER TABLE public.ai_tool_calls ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_or_admin_reads ON public.ai_tool_calls FOR SELECT TO authenticated
    USING (kessel.is_between(user_id, (SELECT infra.visible_users())));
CREATE POLICY own_is_inserted ON public.ai_tool_calls FOR INSERT TO authenticated WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY service ON public.ai_tool_calls TO service_role USING (true);

ALTER TABLE public.ai_models ENABLE ROW LEVEL SECURITY;
CREATE POLICY enabled_or_admin_reads ON public.ai_models FOR SELECT TO authenticated USING (is_enabled OR (SELECT infra.is_admin()));
CREATE POLICY admin_inserts ON public.ai_models FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.ai_models FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.ai_models FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.ai_models TO service_role USING (true);

REVOKE ALL ON TABLE public.ai_datasources, public.ai_tool_calls, public.ai_models FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ai_datasources, public.ai_models TO authenticated;
GRANT SELECT, INSERT ON public.ai_tool_calls TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ai_datasources, public.ai_tool_calls, public.ai_models TO service_role;

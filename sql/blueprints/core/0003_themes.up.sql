-- Themes that users can choose.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.themes (
    id            text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name          text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description   text CHECK (char_length(description) <= 2000),
    dynamic_fonts text[] NOT NULL DEFAULT '{}' CHECK (cardinality(dynamic_fonts) <= 50),
    is_builtin    boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.themes IS 'Themes that users can choose';
COMMENT ON COLUMN public.themes.dynamic_fonts IS 'Fonts that a client loads for it';
COMMENT ON COLUMN public.themes.is_builtin IS 'Can be neither changed nor deleted';

INSERT INTO public.themes (id, name, description, is_builtin) VALUES ('default', 'Default', 'What a user has who has chosen none', true);

CREATE FUNCTION infra.guard_theme() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'theme "%" cannot be %', OLD.id, CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'changed' END
        USING ERRCODE = 'restrict_violation', DETAIL = 'It is built in.', HINT = 'Make another theme.';
END
$$;
COMMENT ON FUNCTION infra.guard_theme() IS 'Keeps built-in themes as they are';
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON public.themes
    FOR EACH ROW WHEN (OLD.is_builtin) EXECUTE FUNCTION infra.guard_theme();
CREATE TRIGGER touch BEFORE UPDATE ON public.themes FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.themes ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON public.themes FOR SELECT TO anon, authenticated USING (true);
CREATE POLICY admin_inserts ON public.themes FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.themes FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.themes FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.themes TO service_role USING (true);

REVOKE ALL ON TABLE public.themes FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.themes TO anon;
GRANT SELECT, DELETE, INSERT (id, name, description, dynamic_fonts), UPDATE (id, name, description, dynamic_fonts) ON public.themes TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.themes TO service_role;
REVOKE ALL ON FUNCTION infra.guard_theme() FROM PUBLIC, anon, authenticated, service_role;

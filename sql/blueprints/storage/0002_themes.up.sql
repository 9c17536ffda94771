-- The bucket themes, whose file ID.css is the CSS of the theme ID; which theme a
-- user has, and a tenant's default.

SET search_path = pg_catalog, pg_temp;

INSERT INTO storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)
VALUES ('themes', 'themes', 'kessel_router', true, 1048576, '{text/css,application/json}') ON CONFLICT DO NOTHING;

CREATE POLICY kessel_themes_read ON storage.objects FOR SELECT TO anon, authenticated USING (bucket_id = 'themes');
CREATE POLICY kessel_themes_insert ON storage.objects FOR INSERT TO authenticated WITH CHECK (bucket_id = 'themes' AND (SELECT infra.is_admin()));
CREATE POLICY kessel_themes_update ON storage.objects FOR UPDATE TO authenticated USING (bucket_id = 'themes' AND (SELECT infra.is_admin()));
CREATE POLICY kessel_themes_delete ON storage.objects FOR DELETE TO authenticated USING (bucket_id = 'themes' AND (SELECT infra.is_admin()));

-- ---------- defaults of tenants ----------

CREATE TABLE public.tenant_themes (
    tenant_id  uuid PRIMARY KEY REFERENCES app.tenants ON DELETE CASCADE,
    theme      text NOT NULL REFERENCES public.themes ON UPDATE CASCADE ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenant_themes_theme ON public.tenant_themes (theme);
COMMENT ON TABLE public.tenant_themes IS 'The theme of users who have chosen none, in each tenant. Written by kessel.set_theme()';
CREATE TRIGGER touch BEFORE UPDATE ON public.tenant_themes FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.tenant_themes ENABLE ROW LEVEL SECURITY;
CREATE POLICY member_reads ON public.tenant_themes FOR SELECT TO authenticated
    USING (tenant_id = ANY (ARRAY(SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = (SELECT auth.uid()) AND m.is_active)));
CREATE POLICY manager_inserts ON public.tenant_themes FOR INSERT TO authenticated
    WITH CHECK (tenant_id = ANY (ARRAY(SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = (SELECT auth.uid()) AND m.is_active AND m.role IN ('owner', 'admin'))));
CREATE POLICY manager_updates ON public.tenant_themes FOR UPDATE TO authenticated
    USING (tenant_id = ANY (ARRAY(SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = (SELECT auth.uid()) AND m.is_active AND m.role IN ('owner', 'admin'))));
CREATE POLICY manager_deletes ON public.tenant_themes FOR DELETE TO authenticated
    USING (tenant_id = ANY (ARRAY(SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = (SELECT auth.uid()) AND m.is_active AND m.role IN ('owner', 'admin'))));
CREATE POLICY service ON public.tenant_themes TO service_role USING (true);
REVOKE ALL ON TABLE public.tenant_themes FROM PUBLIC, anon, authenticated, service_role;
-- The key, too: an upsert by PostgREST sets all columns that it is given. The policy asks of the new row what it asks of the old.
GRANT SELECT, DELETE, INSERT (tenant_id, theme), UPDATE (tenant_id, theme) ON public.tenant_themes TO authenticated, service_role;

-- ---------- which theme ----------

CREATE FUNCTION infra.set_theme(theme text, tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wanted text := coalesce(set_theme.theme, 'default');
    of_tenant uuid;
BEGIN
    IF NOT EXISTS (SELECT FROM public.themes t WHERE t.id = wanted) THEN
        RAISE EXCEPTION 'theme "%" does not exist', left(wanted, 100)
            USING ERRCODE = 'no_data_found', HINT = 'SELECT id FROM public.themes lists those that do.';
    END IF;
    IF set_theme.tenant IS NULL THEN
        UPDATE public.profiles p SET selected_theme = wanted WHERE p.id = auth.uid();
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no user to set a theme for'
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'request.jwt.claims has no sub, or nobody''s.', HINT = 'Set request.jwt.claims to the user''s claims, or name a tenant to set its default.';
        END IF;
        RETURN;
    END IF;
    SELECT t.id INTO of_tenant FROM app.tenants t WHERE t.slug = set_theme.tenant OR t.id::text = set_theme.tenant;
    IF of_tenant IS NULL THEN
        RAISE EXCEPTION 'tenant "%" does not exist', left(set_theme.tenant, 100)
            USING ERRCODE = 'KR002', DETAIL = 'Or it is none that you are an active member of.';
    END IF;
    IF wanted <> 'default' THEN
        BEGIN
            INSERT INTO public.tenant_themes AS t (tenant_id, theme) VALUES (of_tenant, wanted) ON CONFLICT (tenant_id) DO UPDATE SET theme = excluded.theme;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'permission denied to change the theme of tenant "%"', set_theme.tenant
                USING ERRCODE = 'insufficient_privilege', HINT = 'Its owners and admins can.';
        END;
        RETURN;
    END IF;
    DELETE FROM public.tenant_themes t WHERE t.tenant_id = of_tenant;
    -- Where there is one still, a policy has kept it.
    IF EXISTS (SELECT FROM public.tenant_themes t WHERE t.tenant_id = of_tenant) THEN
        RAISE EXCEPTION 'permission denied to change the theme of tenant "%"', set_theme.tenant
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owners and admins can.';
    END IF;
END
$$;
COMMENT ON FUNCTION infra.set_theme(text, text) IS 'What kessel.set_theme() calls';

CREATE FUNCTION public.current_theme() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    chosen text := 'default';
    of_tenant uuid;
BEGIN
    IF auth.uid() IS NULL THEN
        RETURN chosen;
    END IF;
    SELECT p.selected_theme, p.tenant_id INTO chosen, of_tenant FROM public.profiles p WHERE p.id = auth.uid();
    IF chosen <> 'default' THEN
        RETURN chosen;
    END IF;
    RETURN coalesce((SELECT t.theme FROM public.tenant_themes t WHERE t.tenant_id = coalesce(kessel.current_tenant_id(), of_tenant)), 'default');
END
$$;
COMMENT ON FUNCTION public.current_theme() IS
    'Id of the theme of the claims'' user: the one that he or she has chosen, else the default of the session''s tenant, or of the one in the profile, else default. Errors: KR002, KR003 and 42501 of the session''s tenant. For anon, authenticated, service_role';

CREATE FUNCTION public.put_theme_css(p_theme text, p_css text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_theme IS NULL OR NOT EXISTS (SELECT FROM public.themes t WHERE t.id = p_theme) THEN
        RAISE EXCEPTION 'theme "%" does not exist', left(p_theme, 100)
            USING ERRCODE = 'no_data_found', HINT = 'SELECT id FROM public.themes lists those that do.';
    END IF;
    IF p_css IS NULL THEN
        RAISE EXCEPTION 'the CSS of a theme cannot be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = format('storage.remove_object(''themes'', %L) takes it away.', p_theme || '.css');
    END IF;
    RETURN (SELECT o.etag FROM storage.put_object('themes', p_theme || '.css', convert_to(p_css, 'UTF8'), 'text/css; charset=utf-8') o);
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'permission denied to write the CSS of theme "%"', left(p_theme, 100)
        USING ERRCODE = 'insufficient_privilege', HINT = 'Administrators of the app can: those whose role has is_admin.';
END
$$;
COMMENT ON FUNCTION public.put_theme_css(text, text) IS
    'Stores the CSS of a theme, up to 1 MB, as ID.css in the bucket themes; returns its ETag. Errors: P0002 no such theme, 42501 not allowed, 54000 too large, 22004 NULL. For authenticated, who need to be administrators, and service_role';

CREATE FUNCTION public.get_theme_css(p_theme text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT convert_from(o.content, 'UTF8') FROM storage.get_object('themes', coalesce(p_theme, public.current_theme()) || '.css') o);
END
$$;
COMMENT ON FUNCTION public.get_theme_css(text) IS
    'The CSS of a theme; NULL where it has none. p_theme NULL: public.current_theme(). Errors as there, and 22021 what was stored is not UTF-8. For anon, authenticated, service_role';

-- A theme's files have its id in their names. With the rights of whoever writes the
-- theme: what others have put on the table of files is not to have the owner's.
CREATE FUNCTION infra.theme_files() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ending text;
BEGIN
    FOREACH ending IN ARRAY ARRAY['.css', '.json'] LOOP
        IF TG_OP = 'DELETE' THEN
            PERFORM storage.remove_object('themes', OLD.id || ending)
            FROM storage.objects o WHERE o.bucket_id = 'themes' AND o.name = OLD.id || ending AND o.version LIKE 'kessel:%';
        ELSE
            UPDATE storage.objects o SET name = NEW.id || ending WHERE o.bucket_id = 'themes' AND o.name = OLD.id || ending AND o.version LIKE 'kessel:%';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.theme_files() IS 'Deletes or renames the files of a theme with it';
CREATE TRIGGER kessel_theme_deleted AFTER DELETE ON public.themes FOR EACH ROW EXECUTE FUNCTION infra.theme_files();
CREATE TRIGGER kessel_theme_renamed AFTER UPDATE OF id ON public.themes FOR EACH ROW WHEN (NEW.id <> OLD.id) EXECUTE FUNCTION infra.theme_files();

REVOKE ALL ON FUNCTION infra.set_theme(text, text), infra.theme_files(), public.current_theme(), public.put_theme_css(text, text), public.get_theme_css(text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.current_theme(), public.get_theme_css(text) TO anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.set_theme(text, text), public.put_theme_css(text, text) TO authenticated, service_role;

-- Which modules of the app are for whom.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.role_permissions (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    module_id     text NOT NULL UNIQUE CHECK (char_length(module_id) BETWEEN 1 AND 200),
    module_name   text NOT NULL CHECK (char_length(module_name) BETWEEN 1 AND 200),
    parent_id     text REFERENCES public.role_permissions (module_id) ON UPDATE CASCADE ON DELETE SET NULL CONSTRAINT role_permissions_parent_is_another CHECK (parent_id <> module_id),
    admin_access  boolean NOT NULL DEFAULT true,
    user_access   boolean NOT NULL DEFAULT false,
    nouser_access boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX role_permissions_parent_id ON public.role_permissions (parent_id);
COMMENT ON TABLE public.role_permissions IS 'The app''s modules, and for whom they are. Asked by kessel.has_permission()';
COMMENT ON COLUMN public.role_permissions.parent_id IS 'module_id of the module that it is shown below; its access is its own';
COMMENT ON COLUMN public.role_permissions.admin_access IS 'For users of a role with is_admin';
COMMENT ON COLUMN public.role_permissions.user_access IS 'For all other users';
COMMENT ON COLUMN public.role_permissions.nouser_access IS 'Without a user';

CREATE TABLE public.module_role_access (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    module_id  text NOT NULL REFERENCES public.role_permissions (module_id) ON UPDATE CASCADE ON DELETE CASCADE,
    role_id    uuid NOT NULL REFERENCES public.roles ON DELETE CASCADE,
    has_access boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (module_id, role_id)
);
CREATE INDEX module_role_access_role_id ON public.module_role_access (role_id);
COMMENT ON TABLE public.module_role_access IS 'Access of one role to one module: goes before what role_permissions says';

CREATE TRIGGER touch BEFORE UPDATE ON public.role_permissions FOR EACH ROW EXECUTE FUNCTION infra.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.module_role_access FOR EACH ROW EXECUTE FUNCTION infra.touch();

CREATE FUNCTION infra.has_permission(module text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean;
BEGIN
    SELECT CASE WHEN r.id IS NULL THEN m.nouser_access
                WHEN r.id = '00000000-0000-4000-8000-000000000003' THEN true
                WHEN a.has_access IS NOT NULL THEN a.has_access
                WHEN r.is_admin THEN m.admin_access
                ELSE m.user_access END
    INTO allowed
    FROM public.role_permissions m
    LEFT JOIN public.profiles p ON p.id = auth.uid()
    LEFT JOIN public.roles r ON r.id = p.role_id
    LEFT JOIN public.module_role_access a ON a.module_id = m.module_id AND a.role_id = r.id
    WHERE m.module_id = module;
    RETURN coalesce(allowed, false);
END
$$;
COMMENT ON FUNCTION infra.has_permission(text) IS 'What kessel.has_permission() asks: superusers may use every module; for others goes module_role_access of their role, else admin_access or user_access; without a user nouser_access';

CREATE FUNCTION infra.has_table_permission(table_name text, command text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_command text := table_name || ':' || command;
BEGIN
    RETURN infra.has_permission(CASE WHEN EXISTS (SELECT FROM public.role_permissions m WHERE m.module_id = of_command) THEN of_command ELSE table_name END);
END
$$;
COMMENT ON FUNCTION infra.has_table_permission(text, text) IS 'What the router asks with kessel.require_permissions: the module TABLE:read or TABLE:write decides, or where it is not there the module TABLE';

ALTER TABLE public.role_permissions ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON public.role_permissions FOR SELECT TO anon, authenticated USING (true);
CREATE POLICY admin_inserts ON public.role_permissions FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.role_permissions FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.role_permissions FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.role_permissions TO service_role USING (true);

ALTER TABLE public.module_role_access ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_reads ON public.module_role_access FOR SELECT TO authenticated USING (true);
CREATE POLICY admin_inserts ON public.module_role_access FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.module_role_access FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.module_role_access FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.module_role_access TO service_role USING (true);

REVOKE ALL ON TABLE public.role_permissions, public.module_role_access FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.role_permissions TO anon;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.role_permissions, public.module_role_access TO authenticated, service_role;
REVOKE ALL ON FUNCTION infra.has_permission(text), infra.has_table_permission(text, text) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.has_permission(text) TO anon, authenticated, service_role, kessel_user, kessel_service, kessel_admin;

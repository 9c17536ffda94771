-- Users' roles, and the schema for what the blueprints' own functions are.
--
-- A database that was made ready for an app may grant everything in public to
-- everybody by default: so each table and function takes all that back first.

SET search_path = pg_catalog, pg_temp;

CREATE SCHEMA infra;
COMMENT ON SCHEMA infra IS 'What policies and triggers of the infra database''s tables are made of; not for an API';
REVOKE ALL ON SCHEMA infra FROM PUBLIC, anon, authenticated, service_role;
GRANT USAGE ON SCHEMA infra TO anon, authenticated, service_role, kessel_user, kessel_service, kessel_admin;

CREATE FUNCTION infra.touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.touch() IS 'Sets updated_at';

CREATE TABLE public.roles (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 200),
    description  text CHECK (char_length(description) <= 2000),
    is_system    boolean NOT NULL DEFAULT false,
    is_admin     boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.roles IS 'What users of the app are; has nothing to do with the database''s roles';
COMMENT ON COLUMN public.roles.is_system IS 'Cannot be deleted, nor renamed';
COMMENT ON COLUMN public.roles.is_admin IS 'Its users may read and write what policies keep for administrators';

INSERT INTO public.roles (id, name, display_name, description, is_system, is_admin) VALUES
    ('00000000-0000-4000-8000-000000000001', 'user', 'User', 'What every new user is', true, false),
    ('00000000-0000-4000-8000-000000000002', 'admin', 'Administrator', 'Sees all users, writes roles, permissions, themes and settings', true, true),
    ('00000000-0000-4000-8000-000000000003', 'superuser', 'Superuser', 'As an administrator, and may use every module', true, true);

CREATE FUNCTION infra.guard_role() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'role "%" cannot be deleted', OLD.name
            USING ERRCODE = 'restrict_violation', DETAIL = 'It is a system role.';
    END IF;
    IF (NEW.id, NEW.name, NEW.is_system, NEW.is_admin) IS DISTINCT FROM (OLD.id, OLD.name, OLD.is_system, OLD.is_admin) THEN
        RAISE EXCEPTION 'role "%" cannot be changed so', OLD.name
            USING ERRCODE = 'restrict_violation', DETAIL = 'It is a system role.', HINT = 'Only display_name and description can be changed.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.guard_role() IS 'Keeps system roles as they are';
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON public.roles
    FOR EACH ROW WHEN (OLD.is_system) EXECUTE FUNCTION infra.guard_role();
CREATE TRIGGER touch BEFORE UPDATE ON public.roles FOR EACH ROW EXECUTE FUNCTION infra.touch();

-- Policies ask in each query, those of profiles, too: the extension looks it up, past
-- privileges and policies. It reads the claims by itself, faster than an auth.uid() that says
-- the same, which ours does, and Supabase's where nobody has set what older servers do;
-- somebody's own is asked.
DO $$
DECLARE
    supabase constant text := 'selectcoalesce(nullif(current_setting(''request.jwt.claim.sub'',true),''''),(nullif(current_setting(''request.jwt.claims'',true),'''')::jsonb->>''sub''))::uuid';
    who text;
BEGIN
    SELECT CASE WHEN obj_description(p.oid, 'pg_proc') LIKE 'kessel_router core:%' OR regexp_replace(p.prosrc, '\s', '', 'g') = supabase THEN '' ELSE 'auth.uid()' END
    INTO who
    FROM pg_proc p WHERE p.oid = to_regprocedure('auth.uid()');
    EXECUTE format('CREATE FUNCTION infra.is_admin() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE RETURN kessel._is_administrator(%s)', who);
    EXECUTE format('CREATE FUNCTION infra.visible_users() RETURNS uuid[] LANGUAGE sql STABLE PARALLEL SAFE RETURN kessel._visible_users(%s)', who);
END
$$;
COMMENT ON FUNCTION infra.is_admin() IS 'Is the user of the claims in a role with is_admin? For policies, as (SELECT infra.is_admin())';
COMMENT ON FUNCTION infra.visible_users() IS 'The first and the last of the users whose rows the user of the claims sees: himself or herself, or, for an administrator, all. NULL without a user. For policies, as kessel.is_between(user_id, (SELECT infra.visible_users()))';

ALTER TABLE public.roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_reads ON public.roles FOR SELECT TO authenticated USING (true);
CREATE POLICY admin_inserts ON public.roles FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.roles FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.roles FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.roles TO service_role USING (true);

REVOKE ALL ON TABLE public.roles FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, DELETE, INSERT (id, name, display_name, description, is_admin), UPDATE (name, display_name, description, is_admin) ON public.roles TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.roles TO service_role;
REVOKE ALL ON FUNCTION infra.touch(), infra.guard_role(), infra.is_admin(), infra.visible_users() FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.is_admin() TO authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.visible_users() TO authenticated;

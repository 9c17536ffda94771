-- What the app knows of each user. One is made for each new user; email follows
-- auth.users, tenant_id follows app.user_tenants.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.profiles (
    id               uuid PRIMARY KEY REFERENCES auth.users ON DELETE CASCADE,
    email            text,
    display_name     text CHECK (char_length(display_name) <= 200),
    avatar_url       text CHECK (char_length(avatar_url) <= 2048),
    role             text NOT NULL DEFAULT 'user',
    role_id          uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001' REFERENCES public.roles ON DELETE SET DEFAULT,
    tenant_id        uuid REFERENCES app.tenants ON DELETE SET NULL,
    selected_theme   text NOT NULL DEFAULT 'default' REFERENCES public.themes ON UPDATE CASCADE ON DELETE SET DEFAULT,
    can_select_theme boolean NOT NULL DEFAULT true,
    color_scheme     text NOT NULL DEFAULT 'system' CHECK (color_scheme IN ('system', 'light', 'dark')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX profiles_email ON public.profiles (email);
CREATE INDEX profiles_role_id ON public.profiles (role_id);
CREATE INDEX profiles_selected_theme ON public.profiles (selected_theme);
CREATE INDEX profiles_tenant_id ON public.profiles (tenant_id);

COMMENT ON TABLE public.profiles IS 'Users of the app; made with each row of auth.users';
COMMENT ON COLUMN public.profiles.email IS 'Follows auth.users';
COMMENT ON COLUMN public.profiles.role IS 'The name of the role; follows role_id, and role_id follows it';
COMMENT ON COLUMN public.profiles.tenant_id IS 'The tenant that the user joined first, of those in which he or she is active; follows app.user_tenants';
COMMENT ON COLUMN public.profiles.can_select_theme IS 'false: only administrators change selected_theme';

-- ---------- kept in step ----------

-- The extension calls this with the users whose memberships have changed; NULL: all.
CREATE FUNCTION infra.members_changed(user_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    user_ids := coalesce(user_ids, ARRAY(SELECT p.id FROM public.profiles p WHERE p.tenant_id IS NOT NULL));
    -- Whoever is last to get the lock sees, in the next statement, what the others have done.
    PERFORM FROM public.profiles p WHERE p.id IN (SELECT unnest(user_ids)) ORDER BY p.id FOR NO KEY UPDATE;
    UPDATE public.profiles p
    SET tenant_id = f.tenant_id
    FROM (SELECT u.id, (SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = u.id AND m.is_active ORDER BY m.created_at, m.tenant_id LIMIT 1) AS tenant_id
          FROM unnest(user_ids) u(id) OFFSET 0) f
    WHERE p.id = f.id AND p.tenant_id IS DISTINCT FROM f.tenant_id;
END
$$;
COMMENT ON FUNCTION infra.members_changed(uuid[]) IS 'Brings tenant_id of these users'' profiles in step with app.user_tenants. The extension calls it after each statement that has changed memberships';

CREATE FUNCTION infra.new_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Not every auth.users has this column.
    meta jsonb := to_jsonb(NEW) -> 'raw_user_meta_data';
BEGIN
    INSERT INTO public.profiles (id, email, display_name, avatar_url)
    VALUES (NEW.id, NEW.email,
            left(coalesce(meta ->> 'display_name', meta ->> 'full_name', meta ->> 'name'), 200),
            CASE WHEN char_length(meta ->> 'avatar_url') <= 2048 THEN meta ->> 'avatar_url' END)
    ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.new_user() IS 'Makes a profile for a new user. Takes a name and a picture from what the user has said, and nothing that gives rights';

CREATE FUNCTION infra.new_email() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.profiles p SET email = NEW.email WHERE p.id = NEW.id AND p.email IS DISTINCT FROM NEW.email;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.new_email() IS 'Brings a profile''s email in step with auth.users';

-- A token outlives its user, by an hour or so; what it could enter does not.
CREATE FUNCTION infra.user_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel.remove_member(m.tenant_id::text, m.user_id) FROM app.user_tenants m WHERE m.user_id = OLD.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.user_deleted() IS 'Ends the memberships of a user who is deleted';

CREATE TRIGGER kessel_new_user AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION infra.new_user();
CREATE TRIGGER kessel_new_email AFTER UPDATE OF email ON auth.users FOR EACH ROW EXECUTE FUNCTION infra.new_email();
CREATE TRIGGER kessel_user_deleted AFTER DELETE ON auth.users FOR EACH ROW EXECUTE FUNCTION infra.user_deleted();

CREATE FUNCTION infra.profile_in_step() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    by_name boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.tenant_id := kessel._first_tenant(NEW.id);
        NEW.email := coalesce((SELECT u.email FROM auth.users u WHERE u.id = NEW.id), NEW.email);
        by_name := NEW.role_id = '00000000-0000-4000-8000-000000000001';
    ELSE
        by_name := NEW.role_id IS NOT DISTINCT FROM OLD.role_id AND NEW.role IS DISTINCT FROM OLD.role;
    END IF;
    -- Locked, so that it is not being renamed meanwhile.
    IF by_name THEN
        SELECT r.id INTO NEW.role_id FROM public.roles r WHERE r.name = NEW.role FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'role "%" does not exist', left(NEW.role, 100)
                USING ERRCODE = 'foreign_key_violation', HINT = 'SELECT name FROM public.roles lists those that do.';
        END IF;
    ELSE
        -- One that does not exist is found by the foreign key.
        NEW.role := coalesce((SELECT r.name FROM public.roles r WHERE r.id = NEW.role_id FOR KEY SHARE), NEW.role);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.profile_in_step() IS 'Keeps role and role_id in step, and gives a new profile its email and tenant';

CREATE FUNCTION infra.role_renamed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.profiles p SET role = NEW.name WHERE p.role_id = NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.role_renamed() IS 'Brings role of profiles in step with a role''s new name';
CREATE TRIGGER renamed AFTER UPDATE ON public.roles
    FOR EACH ROW WHEN (NEW.name IS DISTINCT FROM OLD.name) EXECUTE FUNCTION infra.role_renamed();

-- ---------- who may change what ----------

CREATE FUNCTION infra.guard_profile() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'a profile stays with its user' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Not for whom policies do not count: the owner, and with it the foreign keys' actions.
    IF NOT row_security_active('public.profiles') THEN
        RETURN NEW;
    END IF;
    -- Privileges keep from these, until somebody grants all tables to everybody.
    IF TG_OP = 'UPDATE' AND (NEW.email, NEW.tenant_id) IS DISTINCT FROM (OLD.email, OLD.tenant_id) THEN
        RAISE EXCEPTION 'permission denied to change email or tenant_id'
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'They follow auth.users and app.user_tenants.';
    END IF;
    IF pg_has_role('service_role', 'USAGE') OR infra.is_admin() THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' OR (NEW.role, NEW.role_id, NEW.can_select_theme) IS DISTINCT FROM (OLD.role, OLD.role_id, OLD.can_select_theme) THEN
        RAISE EXCEPTION 'permission denied to change role, role_id or can_select_theme'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Administrators can.';
    END IF;
    IF NEW.selected_theme IS DISTINCT FROM OLD.selected_theme AND NOT OLD.can_select_theme THEN
        RAISE EXCEPTION 'permission denied to change selected_theme'
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'can_select_theme is false.', HINT = 'Administrators can.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.guard_profile() IS 'Keeps a profile with its user, and users from giving themselves rights';

-- In the order of their names.
CREATE TRIGGER guard BEFORE UPDATE ON public.profiles FOR EACH ROW
    WHEN (NEW.id <> OLD.id OR NEW.email IS DISTINCT FROM OLD.email OR NEW.tenant_id IS DISTINCT FROM OLD.tenant_id
          OR NEW.role IS DISTINCT FROM OLD.role OR NEW.role_id IS DISTINCT FROM OLD.role_id
          OR NEW.can_select_theme IS DISTINCT FROM OLD.can_select_theme OR NEW.selected_theme IS DISTINCT FROM OLD.selected_theme)
    EXECUTE FUNCTION infra.guard_profile();
CREATE TRIGGER guard_from_start BEFORE INSERT ON public.profiles FOR EACH ROW
    WHEN (NEW.role <> 'user' OR NEW.role_id <> '00000000-0000-4000-8000-000000000001' OR NOT NEW.can_select_theme)
    EXECUTE FUNCTION infra.guard_profile();
CREATE TRIGGER in_step BEFORE UPDATE ON public.profiles FOR EACH ROW
    WHEN ((NEW.role, NEW.role_id) IS DISTINCT FROM (OLD.role, OLD.role_id)) EXECUTE FUNCTION infra.profile_in_step();
CREATE TRIGGER in_step_from_start BEFORE INSERT ON public.profiles FOR EACH ROW EXECUTE FUNCTION infra.profile_in_step();
CREATE TRIGGER touch BEFORE UPDATE ON public.profiles FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_or_admin_reads ON public.profiles FOR SELECT TO authenticated
    USING (kessel.is_between(id, (SELECT infra.visible_users())));
CREATE POLICY own_or_admin_updates ON public.profiles FOR UPDATE TO authenticated
    USING (kessel.is_between(id, (SELECT infra.visible_users())));
CREATE POLICY own_is_inserted ON public.profiles FOR INSERT TO authenticated WITH CHECK (id = (SELECT auth.uid()));
CREATE POLICY service ON public.profiles TO service_role USING (true);

REVOKE ALL ON TABLE public.profiles FROM PUBLIC, anon, authenticated, service_role;
-- Apps upsert a profile with all that they know: the key, too, and the time.
GRANT SELECT, INSERT (id, display_name, avatar_url, selected_theme, color_scheme, updated_at),
    UPDATE (id, display_name, avatar_url, role, role_id, selected_theme, can_select_theme, color_scheme, updated_at) ON public.profiles TO authenticated;
GRANT SELECT, INSERT, DELETE, UPDATE (id, display_name, avatar_url, role, role_id, selected_theme, can_select_theme, color_scheme, updated_at) ON public.profiles TO service_role;
REVOKE ALL ON FUNCTION infra.members_changed(uuid[]), infra.new_user(), infra.new_email(), infra.user_deleted(), infra.profile_in_step(),
    infra.role_renamed(), infra.guard_profile() FROM PUBLIC, anon, authenticated, service_role;

-- Users that there are already.
INSERT INTO public.profiles (id, email, display_name, avatar_url)
SELECT u.id, u.email, left(coalesce(m.meta ->> 'display_name', m.meta ->> 'full_name', m.meta ->> 'name'), 200),
       CASE WHEN char_length(m.meta ->> 'avatar_url') <= 2048 THEN m.meta ->> 'avatar_url' END
FROM auth.users u, LATERAL (SELECT to_jsonb(u) -> 'raw_user_meta_data' AS meta) m;

-- Tenants and members for the app's backend, and where users' tokens are issued.

SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION infra.create_tenant(p_slug text, p_name text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF char_length(p_name) > 200 THEN
        RAISE EXCEPTION 'the name of the tenant is too long'
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'It has up to 200 characters.';
    END IF;
    RETURN kessel.create_tenant(p_slug, p_name);
END
$$;
COMMENT ON FUNCTION infra.create_tenant(text, text) IS 'What public.create_tenant() calls';

CREATE FUNCTION public.create_tenant(p_slug text, p_name text) RETURNS uuid
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT infra.create_tenant(p_slug, p_name) $$;
COMMENT ON FUNCTION public.create_tenant(text, text) IS
    'Creates a tenant in the default data source and returns its id. p_name NULL: the slug. Errors: 22001 name too long, those of kessel.create_tenant(). For service_role';

CREATE FUNCTION public.get_tenant_by_slug(p_slug text)
RETURNS TABLE (id uuid, slug text, name text, status text, created_at timestamptz, updated_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.id, t.slug, t.name, t.status, t.created_at, t.updated_at FROM app.tenants t WHERE t.slug = p_slug
$$;
COMMENT ON FUNCTION public.get_tenant_by_slug(text) IS
    'The tenant with this slug; no row where there is none, or none that one may see: users see those that they are active in. For authenticated, service_role';

CREATE FUNCTION infra.assign_user_to_tenant(p_user_id uuid, p_tenant_id uuid, p_role text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_user_id IS NULL OR p_tenant_id IS NULL THEN
        RAISE EXCEPTION 'user and tenant must be named' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- Held, so that the user is not deleted before the membership is there.
    PERFORM FROM public.profiles p WHERE p.id = p_user_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'user % does not exist', p_user_id
            USING ERRCODE = 'foreign_key_violation', HINT = 'SELECT id FROM public.profiles lists those that do.';
    END IF;
    PERFORM kessel.add_member(p_tenant_id::text, p_user_id, p_role);
END
$$;
COMMENT ON FUNCTION infra.assign_user_to_tenant(uuid, uuid, text) IS 'What public.assign_user_to_tenant() calls';

CREATE FUNCTION public.assign_user_to_tenant(p_user_id uuid, p_tenant_id uuid, p_role text DEFAULT 'member') RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT infra.assign_user_to_tenant(p_user_id, p_tenant_id, p_role) $$;
COMMENT ON FUNCTION public.assign_user_to_tenant(uuid, uuid, text) IS
    'Lets a user work for a tenant; one who is a member already gets the role and is active again. p_role: owner, admin or member. Errors: 22004 NULL, 23503 no such user, KR002 no such tenant, 22023 no such role. For service_role';

REVOKE ALL ON FUNCTION infra.create_tenant(text, text), infra.assign_user_to_tenant(uuid, uuid, text), public.create_tenant(text, text), public.get_tenant_by_slug(text), public.assign_user_to_tenant(uuid, uuid, text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.get_tenant_by_slug(text) TO authenticated;
GRANT EXECUTE ON FUNCTION infra.create_tenant(text, text), infra.assign_user_to_tenant(uuid, uuid, text), public.create_tenant(text, text), public.get_tenant_by_slug(text), public.assign_user_to_tenant(uuid, uuid, text) TO service_role;

-- Who issues tokens beside Supabase.
DO $$
BEGIN
    IF to_regrole('supabase_auth_admin') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA app TO supabase_auth_admin;
        GRANT EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) TO supabase_auth_admin;
    END IF;
END
$$;

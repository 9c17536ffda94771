SET search_path = pg_catalog, pg_temp;

DROP FUNCTION public.assign_user_to_tenant(uuid, uuid, text);
DROP FUNCTION public.get_tenant_by_slug(text);
DROP FUNCTION public.create_tenant(text, text);
DROP FUNCTION infra.assign_user_to_tenant(uuid, uuid, text);
DROP FUNCTION infra.create_tenant(text, text);
DO $$
BEGIN
    IF to_regrole('supabase_auth_admin') IS NOT NULL THEN
        REVOKE EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) FROM supabase_auth_admin;
        REVOKE USAGE ON SCHEMA app FROM supabase_auth_admin;
    END IF;
END
$$;

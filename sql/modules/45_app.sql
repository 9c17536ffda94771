-- What the infra database's own tables and policies ask for, whoever has set
-- them up: the session's tenant, membership, the claims of a token, permissions.

CREATE FUNCTION app.current_tenant_id() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
RETURN kessel.current_tenant_id();
COMMENT ON FUNCTION app.current_tenant_id() IS
    'Id of the session''s tenant; as kessel.current_tenant_id(). For policies: tenant_id = (SELECT app.current_tenant_id()). For kessel_user, kessel_service, kessel_admin';

-- Row security decides whom one may ask about.
CREATE FUNCTION app.is_user_active_in_tenant(user_id uuid, tenant_id uuid) RETURNS boolean
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
RETURN EXISTS (SELECT FROM app.user_tenants m
               WHERE m.user_id = is_user_active_in_tenant.user_id AND m.tenant_id = is_user_active_in_tenant.tenant_id AND m.is_active
                 AND EXISTS (SELECT FROM app.tenants t WHERE t.id = m.tenant_id AND t.status = 'active'));
COMMENT ON FUNCTION app.is_user_active_in_tenant(uuid, uuid) IS
    'Is the user an active member of this tenant, and the tenant active? False for NULL and unknown ones. A kessel_user is told about the user of the claims only, and false about others. For kessel_user, kessel_service, kessel_admin';

CREATE FUNCTION app.custom_access_token_hook(event jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    user_name text := event ->> 'user_id';
    wanted text := event #>> '{claims,app_metadata,tenant_id}';
    tenant uuid;
BEGIN
    IF jsonb_typeof(event) IS DISTINCT FROM 'object' OR jsonb_typeof(event -> 'claims') IS DISTINCT FROM 'object'
       OR user_name IS NULL OR user_name !~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN
        RAISE EXCEPTION 'invalid event of an access token'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is a JSON object with user_id, a uuid, and claims, an object.';
    END IF;
    SELECT t.id INTO tenant
    FROM app.user_tenants m
    JOIN app.tenants t ON t.id = m.tenant_id
    WHERE m.user_id = user_name::uuid AND m.is_active AND t.status = 'active'
    ORDER BY coalesce(wanted IN (t.slug, t.id::text), false) DESC, m.created_at, m.tenant_id
    LIMIT 1;
    IF tenant IS NULL THEN
        RETURN event #- '{claims,tenant_id}';
    END IF;
    RETURN jsonb_set(event, '{claims,tenant_id}', to_jsonb(tenant));
END
$$;
COMMENT ON FUNCTION app.custom_access_token_hook(jsonb) IS
    'Puts tenant_id into the claims of a token that is about to be issued: the tenant that claims.app_metadata.tenant_id names (slug or id), or else the one that the user joined first; of tenants that are active, and in which the user is. Takes it out where there is none. '
    'event: an object with user_id and claims, as Supabase Auth and others that know this hook send it; all else in it is returned as it came. Error 22023 no such object. For kessel_service, kessel_admin, and who issues tokens';

-- Is there this function of a blueprint? Not one that somebody has put there who may
-- only make schemas; nor, for a superuser, one that somebody else may have changed:
-- ours that call it do so with their caller's rights.
CREATE FUNCTION kessel._infra_has(function text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    it record;
BEGIN
    SELECT p.prosecdef, o.rolname, o.rolsuper INTO it
    FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
    WHERE p.oid = to_regprocedure('infra.' || function) AND pg_has_role(p.proowner, 'kessel_admin', 'USAGE');
    IF it.rolname IS NULL THEN
        RETURN false;
    ELSIF NOT it.prosecdef AND NOT it.rolsuper AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'function infra.% belongs to role "%"', function, it.rolname
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'It would run with the rights of a superuser, which that one does not have.', HINT = 'Call it as a role that is none.';
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION kessel.has_permission(module text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT kessel._infra_has('has_permission(text)') THEN
        RAISE EXCEPTION 'there are no permissions in this database'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT kessel.setup() makes public.role_permissions.';
    END IF;
    RETURN infra.has_permission(module);
END
$$;
COMMENT ON FUNCTION kessel.has_permission(text) IS
    'May the user of the claims use this module, as public.role_permissions and public.module_role_access say? Without a user, nouser_access decides. False for NULL and for a module that is not there. Errors: 55000 the blueprint core was not set up, 22P02 bad claims. For kessel_user, kessel_service, kessel_admin';

REVOKE ALL ON FUNCTION app.current_tenant_id(), app.is_user_active_in_tenant(uuid, uuid), app.custom_access_token_hook(jsonb),
    kessel._infra_has(text), kessel.has_permission(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.current_tenant_id(), app.is_user_active_in_tenant(uuid, uuid), kessel._infra_has(text), kessel.has_permission(text)
    TO kessel_user, kessel_service, kessel_admin;
GRANT EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) TO kessel_service, kessel_admin;

-- ---------- who comes and goes ----------

-- Calls infra.members_changed(user_ids), where there is one, as its owner. NULL: all users.
CREATE FUNCTION kessel._tell_members(user_ids uuid[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_members_tell';
REVOKE ALL ON FUNCTION kessel._tell_members(uuid[]) FROM PUBLIC;

-- The tenant of a profile that is being made, which nobody else sees yet: the locks
-- have those wait who change memberships, until they do.
CREATE FUNCTION kessel._first_tenant(user_id uuid) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM app.user_tenants m WHERE m.user_id = _first_tenant.user_id ORDER BY m.tenant_id FOR SHARE;
    RETURN (SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = _first_tenant.user_id AND m.is_active ORDER BY m.created_at, m.tenant_id LIMIT 1);
END
$$;
REVOKE ALL ON FUNCTION kessel._first_tenant(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._first_tenant(uuid) TO kessel_admin;

CREATE FUNCTION kessel._members_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    user_ids uuid[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM kessel._tell_members(NULL);
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(u.user_id) INTO user_ids FROM (SELECT c.user_id FROM changed c UNION SELECT f.user_id FROM former f) u;
    ELSE
        SELECT array_agg(DISTINCT c.user_id) INTO user_ids FROM changed c;
    END IF;
    IF user_ids IS NOT NULL THEN
        PERFORM kessel._tell_members(user_ids);
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION kessel._members_changed() FROM PUBLIC;

CREATE TRIGGER members_inserted AFTER INSERT ON app.user_tenants
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION kessel._members_changed();
CREATE TRIGGER members_updated AFTER UPDATE ON app.user_tenants
    REFERENCING OLD TABLE AS former NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION kessel._members_changed();
CREATE TRIGGER members_deleted AFTER DELETE ON app.user_tenants
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION kessel._members_changed();
CREATE TRIGGER members_truncated AFTER TRUNCATE ON app.user_tenants
    FOR EACH STATEMENT EXECUTE FUNCTION kessel._members_changed();

-- For which tenant and which user this session speaks.

CREATE FUNCTION kessel.use_tenant(tenant text, is_local boolean DEFAULT true) RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_use_tenant';
COMMENT ON FUNCTION kessel.use_tenant(text, boolean) IS
    'Sets kessel.tenant to a slug or id, to the end of the transaction or (is_local => false) of the session, and returns the tenant''s id. '
    'Errors: 22023 no such form, KR002 unknown, KR003 suspended, 42501 the session''s user is not a member, 22004 NULL. For kessel_user, kessel_service, kessel_admin';

CREATE FUNCTION kessel.current_tenant() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_current_tenant';
COMMENT ON FUNCTION kessel.current_tenant() IS
    'Slug of the session''s tenant (kessel.tenant, else the claims'' tenant_id, else their app_metadata.tenant_id); NULL where none is named. Errors as kessel.use_tenant';

CREATE FUNCTION kessel.current_tenant_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_current_tenant_id';
COMMENT ON FUNCTION kessel.current_tenant_id() IS 'Id of the session''s tenant; as kessel.current_tenant()';

CREATE FUNCTION kessel.current_user_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_current_user_id';
COMMENT ON FUNCTION kessel.current_user_id() IS
    '"sub" of request.jwt.claims; NULL where there is none. Error 22023 where it is no uuid or the claims are no JSON object';

CREATE FUNCTION kessel._caller_is_superuser() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_caller_is_superuser';

REVOKE ALL ON FUNCTION kessel.use_tenant(text, boolean), kessel.current_tenant(), kessel.current_tenant_id(),
    kessel.current_user_id(), kessel._caller_is_superuser() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.use_tenant(text, boolean), kessel.current_tenant(), kessel.current_tenant_id(),
    kessel.current_user_id() TO kessel_user, kessel_service, kessel_admin;

-- A user sees the tenants that he or she is a member of. An array, because IN (SELECT)
-- in a policy would have all tenants read and looked up.
CREATE POLICY member_reads ON app.user_tenants FOR SELECT TO kessel_user
    USING (user_id = (SELECT kessel.current_user_id()));
CREATE POLICY member_reads ON app.tenants FOR SELECT TO kessel_user
    USING (id = ANY (ARRAY(SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = (SELECT kessel.current_user_id()) AND m.is_active)));
GRANT SELECT ON app.user_tenants TO kessel_user;
GRANT SELECT (id, slug, name, status, created_at, updated_at) ON app.tenants TO kessel_user;

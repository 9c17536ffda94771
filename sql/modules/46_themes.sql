-- Which theme a user has, where the blueprint storage has been set up.

CREATE FUNCTION kessel.set_theme(theme text, tenant text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT kessel._infra_has('set_theme(text, text)') THEN
        RAISE EXCEPTION 'there are no themes to choose in this database'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT kessel.setup(''{storage}'') makes them.';
    END IF;
    PERFORM infra.set_theme(theme, tenant);
END
$$;
COMMENT ON FUNCTION kessel.set_theme(text, text) IS
    'Gives the user of the claims a theme; or, with tenant (slug or id), makes it what users of that tenant have who have chosen none. theme NULL or default: takes the choice back. With the caller''s rights. '
    'Errors: P0002 no such theme, 42501 the user may not choose (profiles.can_select_theme), or is neither owner nor admin of the tenant, KR002 no such tenant, 55000 no user, or the blueprint storage was not set up. For kessel_user, kessel_service; what it does is for authenticated and service_role';

REVOKE ALL ON FUNCTION kessel.set_theme(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.set_theme(text, text) TO kessel_user, kessel_service;

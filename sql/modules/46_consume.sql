-- What an agent of an organization uses, by the name that the router's own
-- functions have; the blueprint enterprise counts it.

CREATE FUNCTION kessel.consume(agent uuid, amount bigint DEFAULT 1) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT kessel._infra_has('consume(uuid, bigint)') THEN
        RAISE EXCEPTION 'there are no agents in this database'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT kessel.setup(''{enterprise}'') makes public.enterprise_agents.';
    END IF;
    RETURN infra.consume(agent, amount);
END
$$;
REVOKE ALL ON FUNCTION kessel.consume(uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.consume(uuid, bigint) TO kessel_user, kessel_service;
COMMENT ON FUNCTION kessel.consume(uuid, bigint) IS
    'As public.consume() of the blueprint enterprise, which has its errors: counts what an agent uses, and refuses what is above its limit; what is left in this period, NULL without a limit. Error 55000 the blueprint was not set up. For kessel_user as owner, admin or member of the agent''s organization, kessel_service';

-- Agents of organizations, and how much each may use in a period.
--
-- A limit holds exactly, because all that an agent uses in a period is counted in
-- one row: who comes second waits until the first one has committed or rolled back.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.enterprise_agents (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES public.organizations ON DELETE CASCADE,
    name            text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description     text CHECK (char_length(description) <= 2000),
    config          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object' AND octet_length(config::text) <= 65536),
    is_active       boolean NOT NULL DEFAULT true,
    usage_limit     bigint DEFAULT 0 CHECK (usage_limit >= 0),
    usage_period    text NOT NULL DEFAULT 'month' CHECK (usage_period IN ('hour', 'day', 'week', 'month', 'year', 'ever')),
    created_by      uuid DEFAULT auth.uid() REFERENCES auth.users ON DELETE SET NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);
CREATE INDEX enterprise_agents_created_by ON public.enterprise_agents (created_by);
COMMENT ON TABLE public.enterprise_agents IS 'Agents of organizations. What they use is counted by public.consume()';
COMMENT ON COLUMN public.enterprise_agents.config IS 'Up to 64 kB; every member reads it, so secrets belong in the vault';
COMMENT ON COLUMN public.enterprise_agents.is_active IS 'false: public.consume() refuses it';
COMMENT ON COLUMN public.enterprise_agents.usage_limit IS 'How much it may use in a period, in units of the app; NULL: no limit. 0 until service_role says otherwise';
COMMENT ON COLUMN public.enterprise_agents.usage_period IS 'hour, day, week (from Monday), month or year, in UTC; ever: all of its life is one';

CREATE TABLE public.agent_usage (
    agent_id     uuid NOT NULL REFERENCES public.enterprise_agents ON DELETE CASCADE,
    usage_period text NOT NULL,
    period_start timestamptz NOT NULL,
    used         bigint NOT NULL CHECK (used >= 0),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, usage_period, period_start)
) WITH (fillfactor = 50);
COMMENT ON TABLE public.agent_usage IS 'What agents have used: a row for each period in which they have used something. Written by public.consume()';
COMMENT ON COLUMN public.agent_usage.period_start IS '-infinity for usage_period ever';
COMMENT ON COLUMN public.agent_usage.used IS 'In units of the app';

CREATE FUNCTION infra.period_start(usage_period text, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN usage_period = 'ever' THEN '-infinity' ELSE date_trunc(usage_period, at, 'UTC') END;
COMMENT ON FUNCTION infra.period_start(text, timestamptz) IS 'When the period of an agent''s limit began in which this time lies';

CREATE FUNCTION infra.my_agents(roles text[] DEFAULT '{owner,admin,member,viewer}') RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT a.id FROM public.enterprise_agents a WHERE a.organization_id = ANY (infra.my_organizations(roles)));
END
$$;
COMMENT ON FUNCTION infra.my_agents(text[]) IS 'Ids of the agents of the organizations in which the user of the claims has one of these roles. For policies, as infra.my_organizations()';

-- ---------- consume ----------

CREATE FUNCTION infra.consume_any(agent uuid, amount bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_agent public.enterprise_agents;
    most bigint;
    began timestamptz;
    now_used bigint;
BEGIN
    IF agent IS NULL OR amount IS NULL THEN
        RAISE EXCEPTION 'agent and amount cannot be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF amount < 1 THEN
        RAISE EXCEPTION 'invalid amount %', amount
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'An amount is 1 or more.', HINT = 'What was not used after all is given back by rolling back.';
    END IF;
    -- Locked, so that the limit stays what it is until the end of this transaction.
    SELECT * INTO found_agent FROM public.enterprise_agents a WHERE a.id = agent FOR NO KEY UPDATE;
    IF found_agent.id IS NULL THEN
        RAISE EXCEPTION 'agent % does not exist', agent USING ERRCODE = 'undefined_object';
    ELSIF NOT found_agent.is_active THEN
        RAISE EXCEPTION 'agent % is not active', agent
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Owners and admins of its organization set is_active.';
    END IF;
    most := coalesce(found_agent.usage_limit, 9223372036854775807);
    -- Not now(): waiting for the lock may have taken until the next period.
    began := infra.period_start(found_agent.usage_period, clock_timestamp());
    IF amount <= most THEN
        INSERT INTO public.agent_usage AS u (agent_id, usage_period, period_start, used)
        VALUES (agent, found_agent.usage_period, began, amount)
        ON CONFLICT ON CONSTRAINT agent_usage_pkey DO UPDATE SET used = u.used + amount, updated_at = clock_timestamp()
        WHERE amount <= most - u.used
        RETURNING u.used INTO now_used;
    END IF;
    IF now_used IS NULL THEN
        RAISE EXCEPTION 'agent % has reached its limit', agent
            USING ERRCODE = 'PT429',
                  DETAIL = format('The limit is %s for usage_period %s, of which %s is left; %s was asked for.', most, found_agent.usage_period,
                                  greatest(0, most - coalesce((SELECT u.used FROM public.agent_usage u WHERE u.agent_id = agent AND u.usage_period = found_agent.usage_period AND u.period_start = began), 0)), amount),
                  HINT = CASE WHEN found_agent.usage_period = 'ever' OR amount > most THEN 'service_role can raise usage_limit.'
                              ELSE format('The next period begins at %s.', to_char((began AT TIME ZONE 'UTC' + ('1 ' || found_agent.usage_period)::interval), 'YYYY-MM-DD HH24:MI "UTC"')) END;
    END IF;
    RETURN found_agent.usage_limit - now_used;
END
$$;
COMMENT ON FUNCTION infra.consume_any(uuid, bigint) IS 'public.consume() for every agent. For service_role';

CREATE FUNCTION infra.consume_own(agent uuid, amount bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    member_role text;
BEGIN
    SELECT m.role INTO member_role
    FROM public.enterprise_agents a
    JOIN public.organization_members m ON m.organization_id = a.organization_id
    WHERE a.id = agent AND m.user_id = auth.uid();
    -- Whether another organization has such an agent is nobody's business.
    IF member_role IS NULL AND agent IS NOT NULL THEN
        RAISE EXCEPTION 'agent % does not exist', agent USING ERRCODE = 'undefined_object';
    ELSIF member_role = 'viewer' THEN
        RAISE EXCEPTION 'permission denied to use agent %', agent
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'A viewer only reads.';
    END IF;
    RETURN infra.consume_any(agent, amount);
END
$$;
COMMENT ON FUNCTION infra.consume_own(uuid, bigint) IS 'public.consume() for the agents of the organizations of the user of the claims, not as a viewer. For authenticated';

-- Whoever may call the one for all agents gets it; for others their own.
CREATE FUNCTION infra.consume(agent uuid, amount bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF has_function_privilege('infra.consume_any(uuid, bigint)', 'EXECUTE') THEN
        RETURN infra.consume_any(agent, amount);
    END IF;
    RETURN infra.consume_own(agent, amount);
END
$$;
COMMENT ON FUNCTION infra.consume(uuid, bigint) IS 'What public.consume() and kessel.consume() call';

CREATE FUNCTION public.consume(agent uuid, amount bigint DEFAULT 1) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN infra.consume(agent, amount);
COMMENT ON FUNCTION public.consume(uuid, bigint) IS
    'Counts what an agent uses, and refuses what is above its limit: all of the amount or nothing. amount: 1 or more, in units of the app. Returns what is left in this period; NULL without a limit. '
    'Counted with the transaction: rolled back, it was not used. Until it ends, other calls for the same agent wait. '
    'Errors: PT429 (which PostgREST answers with status 429) the limit would be exceeded, 22004 NULL, 22023 amount below 1, 42704 no such agent or none of one''s organizations, 42501 a viewer, 55000 the agent is not active, '
    '40001 above read committed, another call came before. For authenticated as owner, admin or member of the agent''s organization, service_role';

-- ---------- who may do what ----------

CREATE TRIGGER touch BEFORE UPDATE ON public.enterprise_agents FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.enterprise_agents ENABLE ROW LEVEL SECURITY;
CREATE POLICY member_reads ON public.enterprise_agents FOR SELECT TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations())::uuid[]));
CREATE POLICY admin_inserts ON public.enterprise_agents FOR INSERT TO authenticated
    WITH CHECK (organization_id = ANY ((SELECT infra.my_organizations('{owner,admin}'))::uuid[]));
CREATE POLICY admin_updates ON public.enterprise_agents FOR UPDATE TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations('{owner,admin}'))::uuid[]));
CREATE POLICY admin_deletes ON public.enterprise_agents FOR DELETE TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations('{owner,admin}'))::uuid[]));
CREATE POLICY service ON public.enterprise_agents TO service_role USING (true);

ALTER TABLE public.agent_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY member_reads ON public.agent_usage FOR SELECT TO authenticated
    USING (agent_id = ANY ((SELECT infra.my_agents())::uuid[]));
CREATE POLICY service ON public.agent_usage TO service_role USING (true);

REVOKE ALL ON TABLE public.enterprise_agents, public.agent_usage FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, DELETE, INSERT (organization_id, name, description, config, is_active), UPDATE (name, description, config, is_active)
    ON public.enterprise_agents TO authenticated;
GRANT SELECT ON public.agent_usage TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.enterprise_agents, public.agent_usage TO service_role;
REVOKE ALL ON FUNCTION infra.period_start(text, timestamptz), infra.my_agents(text[]), infra.consume_any(uuid, bigint), infra.consume_own(uuid, bigint),
    infra.consume(uuid, bigint), public.consume(uuid, bigint) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.my_agents(text[]) TO authenticated;
GRANT EXECUTE ON FUNCTION infra.consume_any(uuid, bigint) TO service_role, kessel_service;
GRANT EXECUTE ON FUNCTION infra.consume_own(uuid, bigint) TO authenticated, kessel_user;
GRANT EXECUTE ON FUNCTION infra.consume(uuid, bigint) TO authenticated, service_role, kessel_user, kessel_service;
GRANT EXECUTE ON FUNCTION public.consume(uuid, bigint) TO authenticated, service_role;

SET search_path = pg_catalog, pg_temp;

DROP FUNCTION public.consume(uuid, bigint);
DROP FUNCTION infra.consume(uuid, bigint);
DROP FUNCTION infra.consume_own(uuid, bigint);
DROP FUNCTION infra.consume_any(uuid, bigint);
DROP TABLE public.agent_usage, public.enterprise_agents;
DROP FUNCTION infra.my_agents(text[]);
DROP FUNCTION infra.period_start(text, timestamptz);

-- Logs, users' activity and metrics, partitioned by month.
--
-- Partitions are in the schema infra, which no API shows, and nobody has rights on
-- them but through the tables. Each table has a default partition, so that a row
-- finds a place though nobody has looked after partitions for long.

SET search_path = pg_catalog, pg_temp;

CREATE SEQUENCE infra.system_logs_id_seq;
CREATE TABLE public.system_logs (
    id         bigint NOT NULL DEFAULT nextval('infra.system_logs_id_seq'),
    created_at timestamptz NOT NULL DEFAULT now() CHECK (created_at >= '2000-01-01 00:00Z' AND created_at < '2200-01-01 00:00Z'),
    level      text NOT NULL DEFAULT 'info' CHECK (level IN ('debug', 'info', 'warning', 'error', 'fatal')),
    source     text NOT NULL DEFAULT 'app' CHECK (char_length(source) BETWEEN 1 AND 200),
    message    text NOT NULL CHECK (char_length(message) <= 16384),
    context    jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(context::text) <= 65536),
    tenant_id  uuid,
    user_id    uuid,
    request_id text CHECK (char_length(request_id) <= 200),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX system_logs_created_at ON public.system_logs (created_at);
CREATE INDEX system_logs_level ON public.system_logs (level, created_at);
CREATE INDEX system_logs_tenant_id ON public.system_logs (tenant_id, created_at);
COMMENT ON TABLE public.system_logs IS 'What the app logs. Written by service_role, read by it and by administrators. Partitioned by month, in UTC';
COMMENT ON COLUMN public.system_logs.created_at IS 'May be given, also late; from 2000 to 2199';
COMMENT ON COLUMN public.system_logs.level IS 'debug, info, warning, error or fatal';
COMMENT ON COLUMN public.system_logs.source IS 'Which part of the app: summaries have a row for each, so no free text';

CREATE SEQUENCE infra.user_activity_id_seq;
CREATE TABLE public.user_activity (
    id            bigint NOT NULL DEFAULT nextval('infra.user_activity_id_seq'),
    created_at    timestamptz NOT NULL DEFAULT now() CHECK (created_at >= '2000-01-01 00:00Z' AND created_at < '2200-01-01 00:00Z'),
    user_id       uuid NOT NULL DEFAULT auth.uid(),
    tenant_id     uuid,
    action        text NOT NULL CHECK (char_length(action) BETWEEN 1 AND 200),
    resource_type text CHECK (char_length(resource_type) <= 200),
    resource_id   text CHECK (char_length(resource_id) <= 200),
    details       jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(details::text) <= 65536),
    ip_address    inet,
    user_agent    text CHECK (char_length(user_agent) <= 1000),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX user_activity_created_at ON public.user_activity (created_at);
CREATE INDEX user_activity_user_id ON public.user_activity (user_id, created_at);
CREATE INDEX user_activity_tenant_id ON public.user_activity (tenant_id, created_at);
COMMENT ON TABLE public.user_activity IS 'What users have done, as they or service_role tell; one reads one''s own, administrators all. Goes with the user. Partitioned by month, in UTC';
COMMENT ON COLUMN public.user_activity.created_at IS 'For users now; service_role may give it, also late';
COMMENT ON COLUMN public.user_activity.action IS 'A word of the app, as sign_in: summaries have a row for each, so no free text';

CREATE SEQUENCE infra.performance_metrics_id_seq;
CREATE TABLE public.performance_metrics (
    id         bigint NOT NULL DEFAULT nextval('infra.performance_metrics_id_seq'),
    created_at timestamptz NOT NULL DEFAULT now() CHECK (created_at >= '2000-01-01 00:00Z' AND created_at < '2200-01-01 00:00Z'),
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    -- Neither infinite nor NaN, which would stay in every sum.
    value      double precision NOT NULL CHECK (value BETWEEN -1e300 AND 1e300),
    unit       text NOT NULL DEFAULT '' CHECK (char_length(unit) <= 50),
    tags       jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(tags::text) <= 65536),
    tenant_id  uuid,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX performance_metrics_created_at ON public.performance_metrics (created_at);
CREATE INDEX performance_metrics_name ON public.performance_metrics (name, created_at);
COMMENT ON TABLE public.performance_metrics IS 'Measurements of the app. Written by service_role, read by it and by administrators. Partitioned by month, in UTC';

ALTER TABLE public.system_logs ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON public.system_logs FOR SELECT TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.system_logs TO service_role USING (true);

ALTER TABLE public.user_activity ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_or_admin_reads ON public.user_activity FOR SELECT TO authenticated
    USING (kessel.is_between(user_id, (SELECT infra.visible_users())));
CREATE POLICY own_is_inserted ON public.user_activity FOR INSERT TO authenticated
    WITH CHECK (user_id = (SELECT auth.uid()) AND (tenant_id IS NULL OR app.is_user_active_in_tenant(user_id, tenant_id))
                -- A token may outlive its user, with whom all of this went.
                AND EXISTS (SELECT FROM public.profiles p WHERE p.id = user_id));
CREATE POLICY service ON public.user_activity TO service_role USING (true);

ALTER TABLE public.performance_metrics ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON public.performance_metrics FOR SELECT TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.performance_metrics TO service_role USING (true);

-- What is there stays as it is: summaries count what has come.
REVOKE ALL ON TABLE public.system_logs, public.user_activity, public.performance_metrics FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON SEQUENCE infra.system_logs_id_seq, infra.user_activity_id_seq, infra.performance_metrics_id_seq FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.system_logs, public.user_activity, public.performance_metrics TO authenticated;
GRANT INSERT (user_id, tenant_id, action, resource_type, resource_id, details, ip_address, user_agent) ON public.user_activity TO authenticated;
GRANT SELECT, INSERT ON public.system_logs, public.user_activity, public.performance_metrics TO service_role;
GRANT USAGE ON SEQUENCE infra.user_activity_id_seq TO authenticated;
GRANT USAGE ON SEQUENCE infra.system_logs_id_seq, infra.user_activity_id_seq, infra.performance_metrics_id_seq TO service_role;

-- ---------- a user who goes ----------

CREATE FUNCTION infra.forget_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.user_activity a WHERE a.user_id = OLD.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.forget_activity() IS 'Deletes what a user has done with the user. Not a foreign key, which every new partition would lock auth.users for';
CREATE TRIGGER kessel_forget_activity AFTER DELETE ON auth.users FOR EACH ROW EXECUTE FUNCTION infra.forget_activity();
REVOKE ALL ON FUNCTION infra.forget_activity() FROM PUBLIC, anon, authenticated, service_role;

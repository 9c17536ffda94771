-- Summaries of logs, activity and metrics, kept up to date with every insert.
--
-- Each statement that inserts adds what it has brought, in rows of its own: nobody
-- waits for anybody, as they would for one row of a total, and what is rolled back
-- takes its rows along. A late row counts for the hour in which it says it was. The
-- total is the sum of all rows for it, which the views make; folding makes them one.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE infra.log_counts (
    hour      timestamptz NOT NULL,
    tenant_id uuid,
    level     text NOT NULL,
    source    text NOT NULL,
    count     bigint NOT NULL,
    folded    boolean NOT NULL DEFAULT false
);
CREATE INDEX log_counts_hour ON infra.log_counts (hour, level);
CREATE INDEX log_counts_new ON infra.log_counts (hour) WHERE NOT folded;
COMMENT ON TABLE infra.log_counts IS 'Parts of public.log_summary';

CREATE TABLE infra.activity_counts (
    day       date NOT NULL,
    user_id   uuid NOT NULL,
    tenant_id uuid,
    action    text NOT NULL,
    count     bigint NOT NULL,
    folded    boolean NOT NULL DEFAULT false
);
CREATE INDEX activity_counts_day ON infra.activity_counts (day, action);
CREATE INDEX activity_counts_user_id ON infra.activity_counts (user_id, day);
CREATE INDEX activity_counts_new ON infra.activity_counts (day) WHERE NOT folded;
COMMENT ON TABLE infra.activity_counts IS 'Parts of public.activity_summary';

CREATE TABLE infra.metric_sums (
    hour      timestamptz NOT NULL,
    tenant_id uuid,
    name      text NOT NULL,
    unit      text NOT NULL,
    count     bigint NOT NULL,
    sum       double precision NOT NULL,
    min       double precision NOT NULL,
    max       double precision NOT NULL,
    folded    boolean NOT NULL DEFAULT false
);
CREATE INDEX metric_sums_name ON infra.metric_sums (name, hour);
CREATE INDEX metric_sums_new ON infra.metric_sums (hour) WHERE NOT folded;
COMMENT ON TABLE infra.metric_sums IS 'Parts of public.metric_summary';

-- ---------- what is inserted ----------

CREATE FUNCTION infra.count_logs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO infra.log_counts (hour, tenant_id, level, source, count)
    SELECT date_trunc('hour', a.created_at, 'UTC'), a.tenant_id, a.level, a.source, count(*) FROM added a GROUP BY 1, 2, 3, 4;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.count_logs() IS 'Counts new rows of public.system_logs';
CREATE TRIGGER count_logs AFTER INSERT ON public.system_logs
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION infra.count_logs();

CREATE FUNCTION infra.count_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO infra.activity_counts (day, user_id, tenant_id, action, count)
    SELECT (a.created_at AT TIME ZONE 'UTC')::date, a.user_id, a.tenant_id, a.action, count(*) FROM added a GROUP BY 1, 2, 3, 4;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.count_activity() IS 'Counts new rows of public.user_activity';
CREATE TRIGGER count_activity AFTER INSERT ON public.user_activity
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION infra.count_activity();

CREATE FUNCTION infra.sum_metrics() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO infra.metric_sums (hour, tenant_id, name, unit, count, sum, min, max)
    SELECT date_trunc('hour', a.created_at, 'UTC'), a.tenant_id, a.name, a.unit, count(*), sum(a.value), min(a.value), max(a.value) FROM added a GROUP BY 1, 2, 3, 4;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.sum_metrics() IS 'Sums up new rows of public.performance_metrics';
CREATE TRIGGER sum_metrics AFTER INSERT ON public.performance_metrics
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION infra.sum_metrics();

-- ---------- folding ----------

-- Rows that another session has folded meanwhile are gone when this one gets to
-- them, so nothing counts twice; rows that came meanwhile stay for the next time.
CREATE FUNCTION infra.fold_summaries(OUT object text, OUT detail text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
    made bigint;
BEGIN
    object := 'infra.log_counts';
    WITH parts AS (DELETE FROM infra.log_counts c USING (SELECT DISTINCT n.hour, n.level, n.source FROM infra.log_counts n WHERE NOT n.folded) n
                   WHERE (c.hour, c.level, c.source) = (n.hour, n.level, n.source) RETURNING c.*),
         sums AS (INSERT INTO infra.log_counts (hour, tenant_id, level, source, count, folded)
                  SELECT p.hour, p.tenant_id, p.level, p.source, sum(p.count), true FROM parts p GROUP BY 1, 2, 3, 4 RETURNING 1)
    SELECT (SELECT count(*) FROM parts), (SELECT count(*) FROM sums) INTO gone, made;
    detail := format('%s rows into %s', gone, made);
    IF gone > 0 THEN RETURN NEXT; END IF;

    object := 'infra.activity_counts';
    WITH parts AS (DELETE FROM infra.activity_counts c USING (SELECT DISTINCT n.day, n.user_id FROM infra.activity_counts n WHERE NOT n.folded) n
                   WHERE (c.day, c.user_id) = (n.day, n.user_id) RETURNING c.*),
         sums AS (INSERT INTO infra.activity_counts (day, user_id, tenant_id, action, count, folded)
                  SELECT p.day, p.user_id, p.tenant_id, p.action, sum(p.count), true FROM parts p GROUP BY 1, 2, 3, 4 RETURNING 1)
    SELECT (SELECT count(*) FROM parts), (SELECT count(*) FROM sums) INTO gone, made;
    detail := format('%s rows into %s', gone, made);
    IF gone > 0 THEN RETURN NEXT; END IF;

    object := 'infra.metric_sums';
    WITH parts AS (DELETE FROM infra.metric_sums c USING (SELECT DISTINCT n.hour, n.name FROM infra.metric_sums n WHERE NOT n.folded) n
                   WHERE (c.hour, c.name) = (n.hour, n.name) RETURNING c.*),
         sums AS (INSERT INTO infra.metric_sums (hour, tenant_id, name, unit, count, sum, min, max, folded)
                  SELECT p.hour, p.tenant_id, p.name, p.unit, sum(p.count), sum(p.sum), min(p.min), max(p.max), true FROM parts p GROUP BY 1, 2, 3, 4 RETURNING 1)
    SELECT (SELECT count(*) FROM parts), (SELECT count(*) FROM sums) INTO gone, made;
    detail := format('%s rows into %s', gone, made);
    IF gone > 0 THEN RETURN NEXT; END IF;
END
$$;
COMMENT ON FUNCTION infra.fold_summaries() IS 'Makes one row of those for the same total; the totals stay what they are';

-- ---------- what is read ----------

CREATE VIEW public.log_summary WITH (security_invoker = true) AS
    SELECT c.hour, c.tenant_id, c.level, c.source, sum(c.count)::bigint AS count FROM infra.log_counts c GROUP BY c.hour, c.tenant_id, c.level, c.source;
COMMENT ON VIEW public.log_summary IS 'How many rows of public.system_logs came for each hour, with those that are not kept any more; up to date with each insert';
CREATE VIEW public.activity_summary WITH (security_invoker = true) AS
    SELECT c.day, c.user_id, c.tenant_id, c.action, sum(c.count)::bigint AS count FROM infra.activity_counts c GROUP BY c.day, c.user_id, c.tenant_id, c.action;
COMMENT ON VIEW public.activity_summary IS 'How often each user did what on each day, in UTC, by public.user_activity, with what is not kept any more; up to date with each insert';
CREATE VIEW public.metric_summary WITH (security_invoker = true) AS
    SELECT s.hour, s.tenant_id, s.name, s.unit, sum(s.count)::bigint AS count, sum(s.sum) AS sum, sum(s.sum) / sum(s.count)::double precision AS avg, min(s.min) AS min, max(s.max) AS max
    FROM infra.metric_sums s GROUP BY s.hour, s.tenant_id, s.name, s.unit;
COMMENT ON VIEW public.metric_summary IS 'Each metric for each hour, by public.performance_metrics, with those that are not kept any more; up to date with each insert';

ALTER TABLE infra.log_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON infra.log_counts FOR SELECT TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON infra.log_counts FOR SELECT TO service_role USING (true);
ALTER TABLE infra.activity_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_or_admin_reads ON infra.activity_counts FOR SELECT TO authenticated
    USING (kessel.is_between(user_id, (SELECT infra.visible_users())));
CREATE POLICY service ON infra.activity_counts FOR SELECT TO service_role USING (true);
ALTER TABLE infra.metric_sums ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON infra.metric_sums FOR SELECT TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON infra.metric_sums FOR SELECT TO service_role USING (true);

REVOKE ALL ON TABLE infra.log_counts, infra.activity_counts, infra.metric_sums, public.log_summary, public.activity_summary, public.metric_summary
    FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON infra.log_counts, infra.activity_counts, infra.metric_sums, public.log_summary, public.activity_summary, public.metric_summary
    TO authenticated, service_role;

CREATE OR REPLACE FUNCTION infra.forget_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.user_activity a WHERE a.user_id = OLD.id;
    DELETE FROM infra.activity_counts c WHERE c.user_id = OLD.id;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION infra.count_logs(), infra.count_activity(), infra.sum_metrics(), infra.fold_summaries() FROM PUBLIC, anon, authenticated, service_role;

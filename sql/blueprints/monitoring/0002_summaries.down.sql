SET search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION infra.forget_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.user_activity a WHERE a.user_id = OLD.id;
    RETURN NULL;
END
$$;
DROP VIEW public.log_summary, public.activity_summary, public.metric_summary;
DROP TRIGGER count_logs ON public.system_logs;
DROP TRIGGER count_activity ON public.user_activity;
DROP TRIGGER sum_metrics ON public.performance_metrics;
DROP FUNCTION infra.fold_summaries();
DROP FUNCTION infra.count_logs();
DROP FUNCTION infra.count_activity();
DROP FUNCTION infra.sum_metrics();
DROP TABLE infra.log_counts, infra.activity_counts, infra.metric_sums;

SET search_path = pg_catalog, pg_temp;

DROP TRIGGER kessel_forget_activity ON auth.users;
DROP FUNCTION infra.forget_activity();
DROP TABLE public.system_logs, public.user_activity, public.performance_metrics;
DROP SEQUENCE infra.system_logs_id_seq, infra.user_activity_id_seq, infra.performance_metrics_id_seq;

SET search_path = pg_catalog, pg_temp;

-- With its trigger on auth.users, which only its owner could drop by name.
DROP FUNCTION infra.forget_activity() CASCADE;
DROP TABLE public.system_logs, public.user_activity, public.performance_metrics;
DROP SEQUENCE infra.system_logs_id_seq, infra.user_activity_id_seq, infra.performance_metrics_id_seq;

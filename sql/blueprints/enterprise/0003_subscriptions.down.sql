SET search_path = pg_catalog, pg_temp;

DROP TABLE public.subscriptions;

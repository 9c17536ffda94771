SET search_path = pg_catalog, pg_temp;

DROP TABLE public.db_registry;
DROP TABLE public.app_settings;

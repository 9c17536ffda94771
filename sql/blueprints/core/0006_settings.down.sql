DROP TABLE public.db_registry;
DROP TABLE public.app_settings;

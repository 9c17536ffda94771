SET search_path = pg_catalog, pg_temp;

DROP TABLE public.ai_models;
DROP TABLE public.ai_tool_calls;
DROP TABLE public.ai_datasources;
DROP TYPE public.ai_access_level;

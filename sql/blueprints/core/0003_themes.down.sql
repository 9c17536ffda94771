DROP TABLE public.themes;
DROP FUNCTION infra.guard_theme();

SET search_path = pg_catalog, pg_temp;

DROP TABLE public.roles;
DROP FUNCTION infra.is_admin();
DROP FUNCTION infra.visible_users();
DROP FUNCTION infra.guard_role();
DROP FUNCTION infra.touch();
DROP SCHEMA infra;

SET search_path = pg_catalog, pg_temp;

DROP FUNCTION infra.has_table_permission(text, text);
DROP FUNCTION infra.has_permission(text);
DROP TABLE public.module_role_access;
DROP TABLE public.role_permissions;

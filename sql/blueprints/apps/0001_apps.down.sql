-- Passwords in the vault go with their rows.
SET search_path = pg_catalog, pg_temp;
SET CONSTRAINTS infra.app_secrets_user_id_app_id_fkey IMMEDIATE;

DELETE FROM infra.app_secrets;
DROP FUNCTION public.get_app_config(uuid, text);
DROP FUNCTION infra.open_app_installations(text, text);
DROP VIEW public.app_configs;
DROP TABLE infra.app_secrets;
DROP TABLE public.app_installations;
DROP TABLE public.app_registry;
DROP FUNCTION infra.app_secret_gone();
DROP FUNCTION infra.app_installations_unwritten();
DROP FUNCTION infra.app_installations_sealed();
DROP FUNCTION infra.seal_app_installations();
DROP FUNCTION infra.guard_app_installation();
DROP FUNCTION infra.app_installations_problems(jsonb, jsonb, text[]);
DROP FUNCTION infra.check_app_key();
DROP FUNCTION infra.check_app();
DROP FUNCTION infra.password_fields(jsonb);
DROP FUNCTION infra.app_fields_problems(jsonb);

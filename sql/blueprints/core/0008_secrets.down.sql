SET search_path = pg_catalog, pg_temp;

DROP FUNCTION public.get_all_secrets_for_env();
DROP FUNCTION public.delete_secret(text);
DROP FUNCTION public.read_secret(text);
DROP FUNCTION public.update_secret(text, text);
DROP FUNCTION public.insert_secret(text, text);
DROP FUNCTION infra.delete_secret(text);
DROP FUNCTION infra.update_secret(text, text);
DROP FUNCTION infra.insert_secret(text, text);

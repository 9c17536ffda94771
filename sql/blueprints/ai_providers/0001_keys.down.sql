-- Keys go from the vault, too.
SET search_path = pg_catalog, pg_temp;

DELETE FROM public.ai_provider_keys;
DROP FUNCTION public.get_ai_provider_key(uuid, text);
DROP FUNCTION public.list_ai_provider_keys();
DROP FUNCTION public.remove_ai_provider_key(text);
DROP FUNCTION public.set_ai_provider_key(text, text);
DROP TABLE public.ai_provider_keys;
DROP FUNCTION infra.ai_provider_key_gone();
DROP TABLE public.ai_providers;

-- The bucket stays where somebody else has made it, or keeps files in it.
SET search_path = pg_catalog, pg_temp;
SET storage.allow_delete_query = 'true';
SELECT infra.check_storage_owners();

DROP TRIGGER kessel_theme_renamed ON public.themes;
DROP TRIGGER kessel_theme_deleted ON public.themes;
DROP FUNCTION infra.theme_files();
DROP FUNCTION public.get_theme_css(text);
DROP FUNCTION public.put_theme_css(text, text);
DROP FUNCTION public.current_theme();
DROP FUNCTION infra.set_theme(text, text);
DROP TABLE public.tenant_themes;
DROP POLICY kessel_themes_delete ON storage.objects;
DROP POLICY kessel_themes_update ON storage.objects;
DROP POLICY kessel_themes_insert ON storage.objects;
DROP POLICY kessel_themes_read ON storage.objects;
DELETE FROM storage.objects o USING storage.buckets b WHERE b.id = o.bucket_id AND b.id = 'themes' AND b.owner_id = 'kessel_router' AND o.version LIKE 'kessel:%';
DELETE FROM storage.buckets b WHERE b.id = 'themes' AND b.owner_id = 'kessel_router' AND NOT EXISTS (SELECT FROM storage.objects o WHERE o.bucket_id = b.id);

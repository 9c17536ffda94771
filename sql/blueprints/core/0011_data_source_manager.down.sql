SET search_path = pg_catalog, pg_temp;

DROP VIEW public.tenants;
DROP FUNCTION infra.shown_url(text, jsonb);
DROP FUNCTION infra.api_key(uuid, text);
DROP FUNCTION infra.delete_tenant();
DROP FUNCTION infra.update_tenant();
DROP FUNCTION infra.insert_tenant();
DROP FUNCTION infra.guard_tenant();
DROP FUNCTION infra.kind_of(text);
DROP FUNCTION infra.database_url(text);
DROP FUNCTION infra.visible_tenants();
DROP FUNCTION infra.all_tenants();

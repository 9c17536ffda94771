SET search_path = pg_catalog, pg_temp;

DROP TABLE public.organization_members, public.organizations;
DROP FUNCTION public.create_organization(text, text);
DROP FUNCTION infra.keep_owner();
DROP FUNCTION infra.first_owner();
DROP FUNCTION infra.my_organizations(text[]);

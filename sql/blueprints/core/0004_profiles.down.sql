SET search_path = pg_catalog, pg_temp;

DROP TRIGGER kessel_new_user ON auth.users;
DROP TRIGGER kessel_new_email ON auth.users;
DROP TRIGGER renamed ON public.roles;
DROP TABLE public.profiles;
DROP FUNCTION infra.visible_from();
DROP FUNCTION infra.visible_to();
DROP FUNCTION infra.guard_profile();
DROP FUNCTION infra.role_renamed();
DROP FUNCTION infra.profile_in_step();
DROP FUNCTION infra.new_email();
DROP FUNCTION infra.new_user();
DROP FUNCTION infra.members_changed(uuid[]);

SET search_path = pg_catalog, pg_temp;

-- With their triggers on auth.users, which only its owner could drop by name.
DROP FUNCTION infra.new_user() CASCADE;
DROP FUNCTION infra.new_email() CASCADE;
DROP FUNCTION infra.user_deleted() CASCADE;
DROP TRIGGER renamed ON public.roles;
DROP TABLE public.profiles;
DROP FUNCTION infra.guard_profile();
DROP FUNCTION infra.role_renamed();
DROP FUNCTION infra.profile_in_step();
DROP FUNCTION infra.members_changed(uuid[]);

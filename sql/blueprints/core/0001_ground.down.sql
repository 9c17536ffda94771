-- What has the comment that 0001_ground.up.sql gives; roles stay. Fails where
-- something else depends on it, or is in the schema.
SET search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    made text := 'kessel_router core:%';
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['auth.email()', 'auth.role()', 'auth.uid()', 'auth.jwt()'] LOOP
        IF obj_description(to_regprocedure(name), 'pg_proc') LIKE made THEN
            EXECUTE 'DROP FUNCTION ' || name;
        END IF;
    END LOOP;
    IF obj_description(to_regclass('auth.users'), 'pg_class') LIKE made THEN
        DROP TABLE auth.users;
    END IF;
    IF obj_description(to_regnamespace('auth'), 'pg_namespace') LIKE made THEN
        DROP SCHEMA auth;
    END IF;
END
$$;

-- The vault for the app's backend: secrets of its environment. For service_role
-- alone, which reads what it has the privilege reveal on.
--
-- What acts with the owner's rights is in infra: in public, somebody will one day
-- grant all functions to everybody.

SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION infra.insert_secret(name text, secret text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id uuid;
BEGIN
    IF name IS NULL OR char_length(name) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'invalid name of a secret'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A name has 1 to 200 characters.';
    END IF;
    IF EXISTS (SELECT FROM vault.secrets s WHERE s.name = insert_secret.name) THEN
        RAISE EXCEPTION 'there is a secret of this name already'
            USING ERRCODE = 'unique_violation', HINT = 'public.update_secret() gives a secret of the app''s environment another value.';
    END IF;
    new_id := vault.create_secret(secret, name, new_tags => '{"env": true}');
    PERFORM vault.grant_secret(new_id, 'service_role', 'reveal');
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION infra.insert_secret(text, text) IS 'What public.insert_secret() calls';

CREATE FUNCTION public.insert_secret(name text, secret text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN infra.insert_secret(name, secret);
END
$$;
COMMENT ON FUNCTION public.insert_secret(text, text) IS
    'Seals a secret of the app''s environment and returns its id. secret: up to 1 MB. Errors: 22023 bad name, 22004 secret is NULL, 23505 name taken, 54000 too large, KR010 no root key. For service_role';

CREATE FUNCTION infra.update_secret(name text, secret text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id uuid := (SELECT s.id FROM vault.secrets s WHERE s.name = update_secret.name AND s.tags @> '{"env": true}');
    done boolean;
BEGIN
    IF secret IS NULL THEN
        RAISE EXCEPTION 'a secret must not be null'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'An empty string is allowed. public.delete_secret() deletes a secret.';
    ELSIF found_id IS NULL THEN
        RAISE EXCEPTION 'there is no secret of this name in the app''s environment'
            USING ERRCODE = 'no_data_found', HINT = 'public.insert_secret() makes one.';
    END IF;
    -- PERFORM would leave more copies of the secret in memory.
    done := vault.update_secret(found_id, secret) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION infra.update_secret(text, text) IS 'What public.update_secret() calls';

CREATE FUNCTION public.update_secret(name text, secret text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done boolean;
BEGIN
    done := infra.update_secret(name, secret) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION public.update_secret(text, text) IS
    'Gives a secret that has the tag env, as those of public.insert_secret() have, another value; the former one stays a version of it. secret: up to 1 MB. Errors: 22004 secret is NULL, P0002 none of this name, 54000 too large, KR010 no root key. For service_role';

CREATE FUNCTION public.read_secret(secret_name text) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT vault.reveal(s.id) FROM vault.decrypted_secrets s WHERE s.name = secret_name
$$;
COMMENT ON FUNCTION public.read_secret(text) IS
    'The plaintext of a secret; NULL where there is none of this name that service_role may reveal. Each call is recorded. Errors: KR010 no root key, KR011 it cannot be opened, KR012 it has expired. For service_role';

CREATE FUNCTION infra.delete_secret(secret_name text) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT vault.delete_secret(s.id) FROM vault.secrets s WHERE s.name = secret_name AND s.tags @> '{"env": true}'), false)
$$;
COMMENT ON FUNCTION infra.delete_secret(text) IS 'What public.delete_secret() calls';

CREATE FUNCTION public.delete_secret(secret_name text) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT infra.delete_secret(secret_name) $$;
COMMENT ON FUNCTION public.delete_secret(text) IS
    'Deletes a secret that has the tag env, as those of public.insert_secret() have; false: there is none of this name. For service_role';

CREATE FUNCTION public.get_all_secrets_for_env() RETURNS TABLE (name text, secret text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.name, s.decrypted_secret FROM vault.decrypted_secrets s WHERE s.name IS NOT NULL AND s.tags @> '{"env": true}' ORDER BY s.name
$$;
COMMENT ON FUNCTION public.get_all_secrets_for_env() IS
    'The secrets that have the tag env and that service_role may reveal; secret is NULL where one cannot be opened, see vault.verify(). Each opening is recorded. For service_role';

REVOKE ALL ON FUNCTION infra.insert_secret(text, text), infra.update_secret(text, text), infra.delete_secret(text),
    public.insert_secret(text, text), public.update_secret(text, text), public.read_secret(text), public.delete_secret(text), public.get_all_secrets_for_env()
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.insert_secret(text, text), infra.update_secret(text, text), infra.delete_secret(text),
    public.insert_secret(text, text), public.update_secret(text, text), public.read_secret(text), public.delete_secret(text), public.get_all_secrets_for_env()
    TO service_role;

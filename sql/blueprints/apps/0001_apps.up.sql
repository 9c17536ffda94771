-- Apps, the fields of their configuration, and who has installed which.
--
-- app_installations.config holds ******** in place of each password, for every
-- reader; the sealed one is in infra.app_secrets. Triggers see to it before a row
-- gets to the table, so that no password ever is in it.
--
-- An INSERT ... ON CONFLICT runs through the triggers of both commands, and may
-- write nothing in the end: so what is sealed waits as pending until the row is
-- written. Names of functions that are handed passwords have app_installations in
-- them, which keeps statements with it out of the log.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.app_registry (
    id               text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name             text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description      text CHECK (char_length(description) <= 2000),
    fields           jsonb NOT NULL DEFAULT '[]',
    password_storage text NOT NULL DEFAULT 'vault' CHECK (password_storage IN ('vault', 'aes_gcm')),
    key_secret       text CHECK (char_length(key_secret) BETWEEN 1 AND 200),
    is_enabled       boolean NOT NULL DEFAULT true,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT app_registry_aes_gcm_has_key_secret CHECK ((password_storage = 'aes_gcm') = (key_secret IS NOT NULL))
);
COMMENT ON TABLE public.app_registry IS 'Apps that users can install, and what is to be configured of each';
COMMENT ON COLUMN public.app_registry.fields IS
    'Array of objects: key, label, type (text, password, number, boolean, select, url), required, options (of a select: array of strings), pattern (regular expression for all of a text, password or url), description, placeholder';
COMMENT ON COLUMN public.app_registry.password_storage IS 'Where fields of type password go: vault; or aes_gcm: iv:authTag:ciphertext in hexadecimal digits, which the app opens by itself. Written by the service only';
COMMENT ON COLUMN public.app_registry.key_secret IS 'aes_gcm: name of the vault''s secret that has the app''s ENCRYPTION_KEY, 64 hexadecimal digits';
COMMENT ON COLUMN public.app_registry.is_enabled IS 'false: nobody installs it any more';

CREATE TABLE public.app_installations (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      uuid NOT NULL DEFAULT auth.uid() REFERENCES auth.users ON DELETE CASCADE,
    app_id       text NOT NULL REFERENCES public.app_registry ON DELETE CASCADE,
    status       text NOT NULL DEFAULT 'installed' CHECK (status IN ('installed', 'configured')),
    config       jsonb NOT NULL DEFAULT '{}',
    installed_at timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, app_id)
);
CREATE INDEX app_installations_app_id ON public.app_installations (app_id);
COMMENT ON TABLE public.app_installations IS 'Apps that users have installed';
COMMENT ON COLUMN public.app_installations.status IS 'configured: config has what the app''s fields ask for';
COMMENT ON COLUMN public.app_installations.config IS 'Values of the app''s fields; ******** is a password, which stays as it is where that is written back';

CREATE TABLE infra.app_secrets (
    user_id      uuid NOT NULL,
    app_id       text NOT NULL,
    key          text NOT NULL,
    value        text,
    pending      text,
    pending_xact xid8,
    PRIMARY KEY (user_id, app_id, key),
    FOREIGN KEY (user_id, app_id) REFERENCES public.app_installations (user_id, app_id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX app_secrets_pending ON infra.app_secrets (pending_xact) WHERE pending_xact IS NOT NULL;
COMMENT ON TABLE infra.app_secrets IS 'Passwords of app_installations, sealed';
COMMENT ON COLUMN infra.app_secrets.value IS 'iv:authTag:ciphertext, or the id of a secret of the vault';
COMMENT ON COLUMN infra.app_secrets.pending IS 'What value is to be once the row of app_installations is written';

-- ---------- what an app may ask for ----------

CREATE FUNCTION infra.app_fields_problems(fields jsonb) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text[] := '{}';
    keys text[] := '{}';
    field jsonb;
    name text;
    pattern text;
    known text;
    states bigint;
    bound bigint;
BEGIN
    IF jsonb_typeof(fields) IS DISTINCT FROM 'array' OR jsonb_array_length(fields) > 50 OR octet_length(fields::text) > 65536 THEN
        RETURN ARRAY['fields is no array of up to 50 objects and 64 kB'];
    END IF;
    FOR field IN SELECT f FROM jsonb_array_elements(fields) f LOOP
        name := field ->> 'key';
        IF jsonb_typeof(field) <> 'object' OR jsonb_typeof(field -> 'key') IS DISTINCT FROM 'string' OR name !~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' THEN
            found := found || 'a field has no key of up to 63 letters, digits and underscores'::text;
            CONTINUE;
        END IF;
        IF name = ANY (keys) THEN
            found := found || format('"%s" is there twice', name);
        END IF;
        keys := keys || name;
        IF jsonb_typeof(field -> 'label') IS DISTINCT FROM 'string' OR char_length(field ->> 'label') NOT BETWEEN 1 AND 200 THEN
            found := found || format('"%s" has no label of up to 200 characters', name);
        END IF;
        IF NOT coalesce(field ->> 'type' IN ('text', 'password', 'number', 'boolean', 'select', 'url'), false) THEN
            found := found || format('"%s" has no type of text, password, number, boolean, select, url', name);
        END IF;
        IF field ? 'required' AND jsonb_typeof(field -> 'required') <> 'boolean' THEN
            found := found || format('required of "%s" is neither true nor false', name);
        END IF;
        FOREACH known IN ARRAY ARRAY['description', 'placeholder'] LOOP
            IF field ? known AND (jsonb_typeof(field -> known) <> 'string' OR char_length(field ->> known) > 2000) THEN
                found := found || format('%s of "%s" is no text of up to 2000 characters', known, name);
            END IF;
        END LOOP;
        FOR known IN SELECT k FROM jsonb_object_keys(field) k WHERE k NOT IN ('key', 'label', 'type', 'required', 'options', 'pattern', 'description', 'placeholder') LOOP
            found := found || format('"%s" of "%s" is not known', left(known, 63), name);
        END LOOP;
        IF (field ->> 'type' IS NOT DISTINCT FROM 'select') <> (field ? 'options') THEN
            found := found || format('"%s" has options and is no select, or is one and has none', name);
        ELSIF (CASE WHEN NOT field ? 'options' THEN false
                   WHEN jsonb_typeof(field -> 'options') <> 'array' THEN true
                   WHEN jsonb_array_length(field -> 'options') NOT BETWEEN 1 AND 200 THEN true
                   ELSE EXISTS (SELECT FROM jsonb_array_elements(field -> 'options') o WHERE jsonb_typeof(o) <> 'string') END) THEN
            found := found || format('options of "%s" are no array of 1 to 200 texts', name);
        END IF;
        IF NOT field ? 'pattern' THEN
            CONTINUE;
        END IF;
        pattern := field ->> 'pattern';
        IF jsonb_typeof(field -> 'pattern') <> 'string' OR char_length(pattern) NOT BETWEEN 1 AND 200 OR NOT coalesce(field ->> 'type' IN ('text', 'password', 'url'), false) THEN
            found := found || format('pattern of "%s" is no text of up to 200 characters, or of a field that is none', name);
            CONTINUE;
        END IF;
        -- What can make a match or the expression itself large: back references, and repetitions of repetitions.
        states := 1;
        FOR bound IN SELECT greatest(m[1]::bigint, coalesce(nullif(m[3], '')::bigint, 0), 1) FROM regexp_matches(pattern, '\{([0-9]{1,3})(,([0-9]{0,3}))?\}', 'g') m LOOP
            states := least(states * bound, 1000000);
        END LOOP;
        IF pattern ~ '\\[1-9]' OR states > 20000 THEN
            found := found || format('pattern of "%s" has a back reference, or bounds whose product is more than 20000', name);
            CONTINUE;
        END IF;
        BEGIN
            PERFORM '' ~ pattern, '' ~ ('^(?:' || pattern || ')$');
        EXCEPTION WHEN OTHERS THEN
            found := found || format('pattern of "%s": %s', name, SQLERRM);
        END;
    END LOOP;
    RETURN found;
END
$$;
COMMENT ON FUNCTION infra.app_fields_problems(jsonb) IS 'What is wrong with app_registry.fields; an empty array: nothing';

CREATE FUNCTION infra.password_fields(fields jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(SELECT f ->> 'key' FROM jsonb_array_elements(fields) f WHERE f ->> 'type' = 'password');
COMMENT ON FUNCTION infra.password_fields(jsonb) IS 'Keys of an app''s fields of type password';

CREATE FUNCTION infra.check_app() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problems text[] := infra.app_fields_problems(NEW.fields);
    former text[];
    now_are text[];
BEGIN
    IF problems <> '{}' THEN
        RAISE EXCEPTION 'fields of app "%" are not valid', left(NEW.id, 63)
            USING ERRCODE = 'invalid_parameter_value', DETAIL = array_to_string(problems[1:20], '; ') || '.';
    END IF;
    IF NEW.password_storage = 'aes_gcm' AND NEW.key_secret IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.key_secret IS DISTINCT FROM OLD.key_secret) THEN
        PERFORM vault.encrypt_aes_gcm('', NEW.key_secret);
    END IF;
    IF TG_OP = 'INSERT' OR NOT EXISTS (SELECT FROM public.app_installations i WHERE i.app_id = OLD.id AND i.status = 'configured') THEN
        RETURN NEW;
    END IF;
    former := infra.password_fields(OLD.fields);
    now_are := infra.password_fields(NEW.fields);
    IF (NEW.id, NEW.password_storage, NEW.key_secret) IS DISTINCT FROM (OLD.id, OLD.password_storage, OLD.key_secret) OR NOT former <@ now_are
       OR EXISTS (SELECT FROM jsonb_array_elements(OLD.fields) f WHERE f ->> 'key' = ANY (now_are) AND f ->> 'key' <> ALL (former)) THEN
        RAISE EXCEPTION 'app "%" cannot be changed so', OLD.id
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'There are users who have configured it: id, password_storage, key_secret and fields of type password stay, and no other field becomes one.',
                  HINT = 'Register another app.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.check_app() IS 'Holds an app to what can be validated and sealed';
CREATE TRIGGER check_fields BEFORE INSERT OR UPDATE ON public.app_registry FOR EACH ROW EXECUTE FUNCTION infra.check_app();
-- With the caller's rights: the app opens with this key, so who may not use it does not
-- choose it.
CREATE FUNCTION infra.check_app_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM vault.encrypt_aes_gcm('', NEW.key_secret);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.check_app_key() IS 'Refuses an app''s key_secret to who has not the privilege use on it';
CREATE TRIGGER check_key BEFORE INSERT ON public.app_registry
    FOR EACH ROW WHEN (NEW.key_secret IS NOT NULL) EXECUTE FUNCTION infra.check_app_key();
CREATE TRIGGER check_new_key BEFORE UPDATE ON public.app_registry
    FOR EACH ROW WHEN (NEW.key_secret IS DISTINCT FROM OLD.key_secret AND NEW.key_secret IS NOT NULL) EXECUTE FUNCTION infra.check_app_key();
CREATE TRIGGER touch BEFORE UPDATE ON public.app_registry FOR EACH ROW EXECUTE FUNCTION infra.touch();

-- ---------- configurations ----------

-- No value is in what it returns.
CREATE FUNCTION infra.app_installations_problems(fields jsonb, config jsonb, sealed text[]) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text[] := '{}';
    field jsonb;
    name text;
    kind text;
    value jsonb;
    words text;
    wrong text;
BEGIN
    IF jsonb_typeof(config) IS DISTINCT FROM 'object' OR octet_length(config::text) > 65536 THEN
        RETURN ARRAY['it is no object of up to 64 kB'];
    END IF;
    FOR name IN SELECT k FROM jsonb_object_keys(config) k WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(fields) f WHERE f ->> 'key' = k) LIMIT 20 LOOP
        found := found || format('"%s" is not a field', left(name, 63));
    END LOOP;
    FOR field IN SELECT f FROM jsonb_array_elements(fields) f LOOP
        name := field ->> 'key';
        value := config -> name;
        kind := jsonb_typeof(value);
        words := config ->> name;
        wrong := NULL;
        IF coalesce(words, '') = '' OR (field ->> 'type' = 'password' AND words = '********' AND name <> ALL (sealed)) THEN
            IF coalesce((field ->> 'required')::boolean, false) OR words <> '' THEN
                found := found || format('"%s" is missing', name);
            END IF;
            CONTINUE;
        END IF;
        CASE field ->> 'type'
            WHEN 'number' THEN
                wrong := CASE WHEN kind <> 'number' OR octet_length(words) > 100 THEN 'is not a number' END;
            WHEN 'boolean' THEN
                wrong := CASE WHEN kind <> 'boolean' THEN 'is neither true nor false' END;
            WHEN 'select' THEN
                wrong := CASE WHEN kind <> 'string' OR NOT (field -> 'options') ? words THEN 'is none of its options' END;
            WHEN 'url' THEN
                wrong := CASE WHEN kind <> 'string' OR octet_length(words) > 2048 OR words !~ '^https?://([^][/?#@:\s\\"<>]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?#][^\s\\"<>]*)?$' THEN 'is not an http or https url without a user' END;
            ELSE
                wrong := CASE WHEN kind <> 'string' THEN 'is not a text' WHEN octet_length(words) > 8192 THEN 'is too long' END;
        END CASE;
        IF wrong IS NULL AND field ? 'pattern' AND words <> '********' THEN
            wrong := CASE WHEN octet_length(words) > 4096 THEN 'is too long' WHEN words !~ ('^(?:' || (field ->> 'pattern') || ')$') THEN 'does not match its pattern' END;
        END IF;
        IF wrong IS NOT NULL THEN
            found := found || format('"%s" %s', name, wrong);
        END IF;
    END LOOP;
    RETURN found;
END
$$;
COMMENT ON FUNCTION infra.app_installations_problems(jsonb, jsonb, text[]) IS 'What is wrong with a configuration, for fields of an app and keys of passwords that are sealed already; an empty array: nothing. Has no values in it';

-- What the other triggers find in another user's row would be told before the policy
-- has refused it. In the order of their names.
CREATE FUNCTION infra.guard_app_installation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF row_security_active('public.app_installations') AND NOT pg_has_role('service_role', 'USAGE') THEN
        RAISE EXCEPTION 'new row violates row-level security policy for table "app_installations"' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.guard_app_installation() IS 'Refuses an installation for another user, as the policy own';
CREATE TRIGGER guard BEFORE INSERT ON public.app_installations
    FOR EACH ROW WHEN (NEW.user_id IS DISTINCT FROM auth.uid()) EXECUTE FUNCTION infra.guard_app_installation();

CREATE FUNCTION infra.seal_app_installations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    app public.app_registry;
    problems text[];
    name text;
    sealed text;
BEGIN
    IF NEW.user_id IS NULL OR NEW.app_id IS NULL OR NEW.config IS NULL OR NEW.status IS NULL THEN
        RAISE EXCEPTION 'user_id, app_id, status and config of an installation cannot be NULL' USING ERRCODE = 'not_null_violation';
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.user_id, NEW.app_id) <> (OLD.user_id, OLD.app_id) THEN
        RAISE EXCEPTION 'an installation stays with its user and app' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Make another one.';
    END IF;
    -- Held, so that it is not changed before this is written.
    SELECT * INTO app FROM public.app_registry r WHERE r.id = NEW.app_id FOR SHARE;
    IF app.id IS NULL THEN
        RAISE EXCEPTION 'app "%" does not exist', left(NEW.app_id, 63)
            USING ERRCODE = 'foreign_key_violation', HINT = 'SELECT id FROM public.app_registry lists those that do.';
    END IF;
    IF TG_OP = 'INSERT' AND NOT app.is_enabled THEN
        RAISE EXCEPTION 'app "%" cannot be installed', app.id USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'It is not enabled.';
    END IF;
    IF NEW.config = '{}' AND NEW.status = 'installed' THEN
        RETURN NEW;
    END IF;

    problems := infra.app_installations_problems(app.fields, NEW.config,
        ARRAY(SELECT s.key FROM infra.app_secrets s WHERE s.user_id = NEW.user_id AND s.app_id = NEW.app_id AND (s.value IS NOT NULL OR s.pending_xact = pg_current_xact_id())));
    IF problems <> '{}' THEN
        RAISE EXCEPTION 'the configuration of app "%" is not valid', app.id
            USING ERRCODE = 'invalid_parameter_value', DETAIL = array_to_string(problems, '; ') || '.', HINT = 'app_registry.fields tells what it is made of.';
    END IF;
    NEW.config := (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(NEW.config) c WHERE c.value NOT IN ('null', '""'));
    NEW.status := 'configured';

    FOREACH name IN ARRAY infra.password_fields(app.fields) LOOP
        CONTINUE WHEN NOT NEW.config ? name OR NEW.config ->> name = '********';
        IF app.password_storage = 'aes_gcm' THEN
            sealed := vault.encrypt_aes_gcm(NEW.config ->> name, app.key_secret);
        ELSE
            sealed := vault.create_secret(NEW.config ->> name, new_tags => jsonb_build_object('app', app.id, 'field', name, 'user', NEW.user_id));
            PERFORM vault.grant_secret(sealed::uuid, 'service_role', 'reveal');
        END IF;
        NEW.config := jsonb_set(NEW.config, ARRAY[name], '"********"');
        INSERT INTO infra.app_secrets AS s (user_id, app_id, key, pending, pending_xact) VALUES (NEW.user_id, app.id, name, sealed, pg_current_xact_id())
        ON CONFLICT (user_id, app_id, key) DO UPDATE SET pending = excluded.pending, pending_xact = excluded.pending_xact;
    END LOOP;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.seal_app_installations() IS 'Validates a configuration, and seals its passwords';
CREATE TRIGGER seal BEFORE INSERT OR UPDATE ON public.app_installations FOR EACH ROW EXECUTE FUNCTION infra.seal_app_installations();
CREATE TRIGGER touch BEFORE UPDATE ON public.app_installations FOR EACH ROW EXECUTE FUNCTION infra.touch();

CREATE FUNCTION infra.app_installations_sealed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE infra.app_secrets s SET value = s.pending, pending = NULL, pending_xact = NULL
    WHERE s.user_id = NEW.user_id AND s.app_id = NEW.app_id AND s.pending_xact = pg_current_xact_id();
    DELETE FROM infra.app_secrets s
    WHERE s.user_id = NEW.user_id AND s.app_id = NEW.app_id AND NOT NEW.config ? s.key;
    -- A mask that another session took the password of, since it was looked for.
    IF EXISTS (SELECT FROM public.app_registry r, unnest(infra.password_fields(r.fields)) f(key)
               WHERE r.id = NEW.app_id AND NEW.config ? f.key
                 AND NOT EXISTS (SELECT FROM infra.app_secrets s WHERE s.user_id = NEW.user_id AND s.app_id = NEW.app_id AND s.key = f.key AND s.value IS NOT NULL)) THEN
        RAISE EXCEPTION 'a password of the installation of app "%" is gone meanwhile', NEW.app_id
            USING ERRCODE = 'serialization_failure', HINT = 'Read the configuration again.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.app_installations_sealed() IS 'Makes what was sealed the password of a row that was written, and forgets others';
CREATE TRIGGER sealed AFTER INSERT OR UPDATE ON public.app_installations FOR EACH ROW EXECUTE FUNCTION infra.app_installations_sealed();

-- ON CONFLICT DO NOTHING has written no row.
CREATE FUNCTION infra.app_installations_unwritten() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM infra.app_secrets s WHERE s.pending_xact = pg_current_xact_id() AND s.value IS NULL;
    UPDATE infra.app_secrets s SET pending = NULL, pending_xact = NULL WHERE s.pending_xact = pg_current_xact_id();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.app_installations_unwritten() IS 'Forgets what was sealed for rows that were not written';
CREATE TRIGGER unwritten AFTER INSERT ON public.app_installations FOR EACH STATEMENT EXECUTE FUNCTION infra.app_installations_unwritten();

CREATE FUNCTION infra.app_secret_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM vault.delete_secret(o.id::uuid)
    FROM (VALUES (OLD.value), (OLD.pending)) o(id)
    WHERE strpos(o.id, ':') = 0 AND (TG_OP = 'DELETE' OR (o.id IS DISTINCT FROM NEW.value AND o.id IS DISTINCT FROM NEW.pending));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.app_secret_gone() IS 'Deletes from the vault what no installation has any more';
CREATE TRIGGER gone AFTER UPDATE OR DELETE ON infra.app_secrets FOR EACH ROW EXECUTE FUNCTION infra.app_secret_gone();

-- ---------- for the service ----------

CREATE VIEW public.app_configs WITH (security_invoker, security_barrier) AS
SELECT i.id, i.user_id, i.app_id, i.status,
       i.config || coalesce((SELECT jsonb_object_agg(s.key, s.value) FROM infra.app_secrets s WHERE s.user_id = i.user_id AND s.app_id = i.app_id AND strpos(s.value, ':') > 0), '{}') AS config,
       i.installed_at, i.updated_at
FROM public.app_installations i;
COMMENT ON VIEW public.app_configs IS 'app_installations with passwords as iv:authTag:ciphertext, where the app keeps them so; those in the vault are ********, see public.get_app_config(). For service_role';

CREATE FUNCTION infra.open_app_installations(app_id text, value text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN vault.import_aes_gcm(value, (SELECT r.key_secret FROM public.app_registry r WHERE r.id = open_app_installations.app_id));
END
$$;
COMMENT ON FUNCTION infra.open_app_installations(text, text) IS 'Opens iv:authTag:ciphertext of an app';

CREATE FUNCTION public.get_app_config(p_user_id uuid, p_app_id text) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.config || coalesce((SELECT jsonb_object_agg(s.key, CASE WHEN strpos(s.value, ':') > 0 THEN infra.open_app_installations(s.app_id, s.value) ELSE vault.reveal(s.value::uuid) END)
                                 FROM infra.app_secrets s WHERE s.user_id = i.user_id AND s.app_id = i.app_id AND s.value IS NOT NULL), '{}')
    FROM public.app_installations i WHERE i.user_id = p_user_id AND i.app_id = p_app_id
$$;
COMMENT ON FUNCTION public.get_app_config(uuid, text) IS
    'The configuration of a user''s app with its passwords in the clear; NULL where it is not installed. Each opening of the vault is recorded. Errors: KR010 no root key, KR011 a password cannot be opened. For service_role';

ALTER TABLE public.app_registry ENABLE ROW LEVEL SECURITY;
CREATE POLICY enabled_or_admin_reads ON public.app_registry FOR SELECT TO authenticated USING (is_enabled OR (SELECT infra.is_admin()));
CREATE POLICY admin_inserts ON public.app_registry FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.app_registry FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.app_registry FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.app_registry TO service_role USING (true);

ALTER TABLE public.app_installations ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.app_installations TO authenticated USING (user_id = (SELECT auth.uid()));
CREATE POLICY service ON public.app_installations TO service_role USING (true);

ALTER TABLE infra.app_secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON infra.app_secrets FOR SELECT TO service_role USING (true);

REVOKE ALL ON TABLE public.app_registry, public.app_installations, infra.app_secrets, public.app_configs FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, DELETE, INSERT (id, name, description, fields, is_enabled), UPDATE (id, name, description, fields, is_enabled) ON public.app_registry TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.app_registry TO service_role;
GRANT SELECT, DELETE, INSERT (user_id, app_id, status, config), UPDATE (user_id, app_id, status, config) ON public.app_installations TO authenticated, service_role;
GRANT SELECT ON infra.app_secrets, public.app_configs TO service_role;
REVOKE ALL ON FUNCTION infra.app_fields_problems(jsonb), infra.password_fields(jsonb), infra.check_app(), infra.check_app_key(), infra.app_installations_problems(jsonb, jsonb, text[]), infra.guard_app_installation(),
    infra.seal_app_installations(), infra.app_installations_sealed(), infra.app_installations_unwritten(), infra.app_secret_gone(), infra.open_app_installations(text, text), public.get_app_config(uuid, text) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.open_app_installations(text, text), public.get_app_config(uuid, text) TO service_role;

-- Providers of AI, and users' own keys of them, one each. Keys are in the vault;
-- what is kept beside them is the end of each, for its owner to know it by.
--
-- set_ai_provider_key is a name that keeps statements with it out of the log.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.ai_providers (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    url        text CHECK (char_length(url) <= 2048 AND url ~ '^https?://[^\s@]+$'),
    is_enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.ai_providers IS 'Providers of AI that users may have keys of';
COMMENT ON COLUMN public.ai_providers.url IS 'Where its API is, and users'' keys are sent. As id, changed by service_role only';
COMMENT ON COLUMN public.ai_providers.is_enabled IS 'false: nobody stores a key any more';
INSERT INTO public.ai_providers (id, name, url) VALUES
    ('openai', 'OpenAI', 'https://api.openai.com'), ('anthropic', 'Anthropic', 'https://api.anthropic.com'), ('straico', 'Straico', 'https://api.straico.com'),
    ('cohere', 'Cohere', 'https://api.cohere.com'), ('mistral', 'Mistral', 'https://api.mistral.ai'), ('google', 'Google', 'https://generativelanguage.googleapis.com'),
    ('groq', 'Groq', 'https://api.groq.com'), ('openrouter', 'OpenRouter', 'https://openrouter.ai');

CREATE TABLE public.ai_provider_keys (
    user_id    uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    provider   text NOT NULL REFERENCES public.ai_providers ON UPDATE CASCADE ON DELETE CASCADE,
    secret_id  uuid NOT NULL,
    ending     text NOT NULL CHECK (char_length(ending) <= 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, provider)
);
CREATE INDEX ai_provider_keys_provider ON public.ai_provider_keys (provider);
COMMENT ON TABLE public.ai_provider_keys IS 'Users'' own keys of AI providers. Written by public.set_ai_provider_key() and remove_ai_provider_key()';
COMMENT ON COLUMN public.ai_provider_keys.secret_id IS 'The key, in the vault';
COMMENT ON COLUMN public.ai_provider_keys.ending IS 'The last 4 characters of a key of 16 and more; else empty';
COMMENT ON COLUMN public.ai_provider_keys.updated_at IS 'When the key was stored that is there now';
CREATE TRIGGER touch BEFORE UPDATE ON public.ai_providers FOR EACH ROW EXECUTE FUNCTION infra.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.ai_provider_keys FOR EACH ROW EXECUTE FUNCTION infra.touch();

CREATE FUNCTION infra.ai_provider_key_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.secret_id <> OLD.secret_id THEN
        PERFORM vault.delete_secret(OLD.secret_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.ai_provider_key_gone() IS 'Deletes a key from the vault with its row, however that goes';
CREATE TRIGGER gone AFTER UPDATE OR DELETE ON public.ai_provider_keys FOR EACH ROW EXECUTE FUNCTION infra.ai_provider_key_gone();

CREATE FUNCTION public.set_ai_provider_key(p_provider text, p_key text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid := auth.uid();
    new_id uuid;
    last_four text := CASE WHEN char_length(p_key) >= 16 THEN right(p_key, 4) ELSE '' END;
BEGIN
    IF p_provider IS NULL OR p_key IS NULL THEN
        RAISE EXCEPTION 'provider and key cannot be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF of_user IS NULL THEN
        RAISE EXCEPTION 'there is no user to store a key for'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'request.jwt.claims has no sub.';
    END IF;
    IF char_length(p_key) NOT BETWEEN 8 AND 1000 OR p_key ~ '[^!-~]' THEN
        RAISE EXCEPTION 'invalid key of a provider'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A key has 8 to 1000 characters of ASCII, no blanks among them.';
    END IF;
    IF NOT EXISTS (SELECT FROM public.ai_providers p WHERE p.id = p_provider AND p.is_enabled) THEN
        RAISE EXCEPTION 'there is no such provider'
            USING ERRCODE = 'no_data_found', HINT = 'SELECT id FROM public.ai_providers WHERE is_enabled lists those that there are.';
    END IF;
    -- Held, so that the user is not deleted before the key is there.
    PERFORM FROM auth.users u WHERE u.id = of_user FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'user % does not exist', of_user USING ERRCODE = 'foreign_key_violation';
    END IF;
    new_id := vault.create_secret(p_key, new_tags => jsonb_build_object('ai_provider', p_provider, 'user', of_user));
    PERFORM vault.grant_secret(new_id, 'service_role', 'reveal');
    INSERT INTO public.ai_provider_keys AS k (user_id, provider, secret_id, ending) VALUES (of_user, p_provider, new_id, last_four)
    ON CONFLICT (user_id, provider) DO UPDATE SET secret_id = excluded.secret_id, ending = excluded.ending;
END
$$;
COMMENT ON FUNCTION public.set_ai_provider_key(text, text) IS
    'Seals the key that the user of the claims has of a provider; one that is there is replaced, and destroyed. p_key: 8 to 1000 characters of ASCII without blanks. '
    'Errors: P0002 no such provider, or not enabled, 22023 no such key, 22004 NULL, 55000 no user, 23503 one that is not there, KR010 no root key. For authenticated';

CREATE FUNCTION public.remove_ai_provider_key(p_provider text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.ai_provider_keys k WHERE k.user_id = auth.uid() AND k.provider = p_provider;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION public.remove_ai_provider_key(text) IS 'Destroys the key that the user of the claims has of a provider; false where there is none. For authenticated';

CREATE FUNCTION public.list_ai_provider_keys() RETURNS TABLE (provider text, name text, masked_key text, created_at timestamptz, updated_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.provider, p.name, '********' || k.ending, k.created_at, k.updated_at
    FROM public.ai_provider_keys k LEFT JOIN public.ai_providers p ON p.id = k.provider
    WHERE k.user_id = auth.uid() ORDER BY k.provider
$$;
COMMENT ON FUNCTION public.list_ai_provider_keys() IS 'Of which providers the user of the claims has keys; masked_key: ******** and the last 4 characters of a key of 16 and more. For authenticated';

CREATE FUNCTION public.get_ai_provider_key(p_user_id uuid, p_provider text) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT vault.reveal(k.secret_id) FROM public.ai_provider_keys k WHERE k.user_id = p_user_id AND k.provider = p_provider
$$;
COMMENT ON FUNCTION public.get_ai_provider_key(uuid, text) IS
    'The key that a user has of a provider, in the clear; NULL where there is none. The vault records each call. Errors: KR010 no root key, KR011 it cannot be opened. For service_role';

ALTER TABLE public.ai_providers ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_reads ON public.ai_providers FOR SELECT TO authenticated USING (true);
CREATE POLICY admin_inserts ON public.ai_providers FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
CREATE POLICY admin_updates ON public.ai_providers FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY admin_deletes ON public.ai_providers FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
CREATE POLICY service ON public.ai_providers TO service_role USING (true);

ALTER TABLE public.ai_provider_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_reads ON public.ai_provider_keys FOR SELECT TO authenticated USING (user_id = (SELECT auth.uid()));
CREATE POLICY own_deletes ON public.ai_provider_keys FOR DELETE TO authenticated USING (user_id = (SELECT auth.uid()));
CREATE POLICY service ON public.ai_provider_keys TO service_role USING (true);

REVOKE ALL ON TABLE public.ai_providers, public.ai_provider_keys FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ai_providers TO service_role;
-- An administrator deletes a provider, with its keys, but does not send those elsewhere.
GRANT SELECT, INSERT, DELETE, UPDATE (name, is_enabled) ON public.ai_providers TO authenticated;
GRANT SELECT, DELETE ON public.ai_provider_keys TO authenticated, service_role;
REVOKE ALL ON FUNCTION infra.ai_provider_key_gone(), public.set_ai_provider_key(text, text), public.remove_ai_provider_key(text),
    public.list_ai_provider_keys(), public.get_ai_provider_key(uuid, text) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.set_ai_provider_key(text, text), public.remove_ai_provider_key(text), public.list_ai_provider_keys() TO authenticated;
GRANT EXECUTE ON FUNCTION public.get_ai_provider_key(uuid, text) TO service_role;

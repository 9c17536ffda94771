-- Apps that open their own client to a data source: where its API is, and the keys.

CREATE FUNCTION kessel.set_api(
    data_source text,
    api_url     text DEFAULT NULL,
    anon_key    text DEFAULT NULL,
    service_key text DEFAULT NULL,
    kind        text DEFAULT NULL,
    pool_config jsonb DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    source app.data_sources := kessel._data_source(data_source);
    -- What a statement is given is copied into its plan. So not the keys, and an assignment instead of PERFORM.
    done text;
    not_given text[] := array_remove(ARRAY[CASE WHEN anon_key IS NULL THEN 'anon' END, CASE WHEN service_key IS NULL THEN 'service' END], NULL);
BEGIN
    IF kind NOT IN ('postgres', 'supabase', 'neon') THEN
        RAISE EXCEPTION 'invalid kind of a data source' USING ERRCODE = 'invalid_parameter_value', HINT = 'It is postgres, supabase or neon.';
    END IF;
    IF char_length(api_url) > 2048 OR api_url <> '' AND api_url !~ '^https?://[^/?#@[:space:]]+(/[^?#@[:space:]]*)?$' THEN
        RAISE EXCEPTION 'invalid url of an API'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It has up to 2048 characters, begins with https:// or http://, and has neither user nor query.';
    END IF;
    IF jsonb_typeof(pool_config) <> 'object' OR octet_length(pool_config::text) > 10000 THEN
        RAISE EXCEPTION 'invalid configuration of a pool' USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It is a JSON object of up to 10000 bytes.';
    END IF;
    PERFORM FROM app.data_sources s WHERE s.id = source.id FOR UPDATE;
    -- Apps will send the keys there.
    IF api_url IS DISTINCT FROM (SELECT s.api_url FROM app.data_sources s WHERE s.id = source.id) AND api_url <> ''
       AND EXISTS (SELECT FROM app.data_source_credentials c WHERE c.data_source_id = source.id AND c.secret_id IS NOT NULL AND c.purpose = ANY (not_given)) THEN
        RAISE EXCEPTION 'permission denied to send keys of data source "%" to another url', source.name
            USING ERRCODE = 'insufficient_privilege', HINT = 'Give the keys in the same call, or forget them with kessel.drop_credential() first.';
    END IF;
    UPDATE app.data_sources s
    SET api_url = nullif(coalesce(api_url, s.api_url), ''), kind = coalesce(kind, s.kind), pool_config = coalesce(pool_config, s.pool_config)
    WHERE s.id = source.id;
    IF anon_key IS NOT NULL THEN
        done := kessel.set_credential(source.name, NULL, anon_key, 'anon');
    END IF;
    IF service_key IS NOT NULL THEN
        done := kessel.set_credential(source.name, NULL, service_key, 'service');
    END IF;
END
$$;
COMMENT ON FUNCTION kessel.set_api(text, text, text, text, text, jsonb) IS
    'Says where apps reach a data source that open their own client (api_url, as https://abcd.supabase.co), with which keys, which are sealed, whose service it is (kind: postgres, supabase or neon), and what their pools are to be like (pool_config, an object). What is NULL stays; the url '''' forgets that there is one. '
    'A new url takes all keys that there are along: those that are stored would be sent there. Errors: KR007, 22023 bad url, kind or configuration, 42501 a key is not given along, KR010. For kessel_admin';

CREATE FUNCTION kessel._api_key(data_source_id uuid, purpose text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT vault.reveal(c.secret_id) FROM app.data_source_credentials c
            WHERE c.data_source_id = _api_key.data_source_id AND c.purpose = _api_key.purpose AND c.purpose IN ('anon', 'service') AND c.secret_id IS NOT NULL);
END
$$;

CREATE FUNCTION kessel._client_config(tenant text, purpose text) RETURNS TABLE (url text, key text, tenant_id text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := coalesce(current_setting('kessel.tenant', true), '');
    found_id uuid;
    source app.data_sources;
BEGIN
    -- May the session work for it? Its own tenant stays.
    found_id := kessel.use_tenant(tenant, true);
    PERFORM set_config('kessel.tenant', before, true);
    SELECT s.* INTO source FROM app.tenants t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.id = found_id;
    url := source.api_url;
    key := kessel._api_key(source.id, purpose);
    SELECT t.tenant_id_in_data_source INTO tenant_id FROM app.tenants t WHERE t.id = found_id;
    IF url IS NULL OR key IS NULL OR source.status <> 'active' THEN
        RAISE EXCEPTION 'the data source of tenant "%" has no API for this', tenant
            USING ERRCODE = 'KR005',
                  DETAIL = CASE WHEN source.status <> 'active' THEN 'It is disabled.' WHEN url IS NULL THEN 'It has no url for apps.' ELSE format('It has no key for purpose %s.', purpose) END,
                  HINT = format('SELECT kessel.set_api(%L, ...) gives it one.', source.name);
    END IF;
    RETURN NEXT;
END
$$;

CREATE FUNCTION kessel._client_config_anon(tenant text) RETURNS TABLE (url text, key text, tenant_id text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM kessel._client_config(tenant, 'anon') $$;
CREATE FUNCTION kessel._client_config_service(tenant text) RETURNS TABLE (url text, key text, tenant_id text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM kessel._client_config(tenant, 'service') $$;

CREATE FUNCTION kessel.client_config(tenant text, use_service_role boolean DEFAULT false) RETURNS TABLE (url text, key text, tenant_id text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tenant IS NULL THEN
        RAISE EXCEPTION 'tenant must not be null' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name it by its slug or id.';
    END IF;
    IF use_service_role THEN
        IF NOT has_function_privilege('kessel._client_config_service(text)', 'EXECUTE') THEN
            RAISE EXCEPTION 'permission denied for the service''s key of tenant "%"', tenant
                USING ERRCODE = 'insufficient_privilege', DETAIL = 'It is for kessel_service.', HINT = 'Without use_service_role you get the key of purpose anon.';
        END IF;
        RETURN QUERY SELECT * FROM kessel._client_config_service(tenant);
    ELSE
        RETURN QUERY SELECT * FROM kessel._client_config_anon(tenant);
    END IF;
END
$$;
COMMENT ON FUNCTION kessel.client_config(text, boolean) IS
    'What an app needs that opens its own client to a tenant''s data source: url, key (the one of purpose anon, or, with use_service_role, of purpose service) and the tenant''s id there. The key is opened and the opening recorded. '
    'Errors: KR005 no url or no such key, or the source is disabled, those of kessel.use_tenant, 42501 the service''s key is for kessel_service only, KR010 to KR012. For kessel_user, kessel_service, kessel_admin';

REVOKE ALL ON FUNCTION kessel.set_api(text, text, text, text, text, jsonb), kessel._api_key(uuid, text), kessel._client_config(text, text),
    kessel._client_config_anon(text), kessel._client_config_service(text), kessel.client_config(text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.set_api(text, text, text, text, text, jsonb) TO kessel_admin;
GRANT EXECUTE ON FUNCTION kessel.client_config(text, boolean), kessel._client_config_anon(text) TO kessel_user, kessel_service, kessel_admin;
-- kessel_admin stores keys and does not read them.
GRANT EXECUTE ON FUNCTION kessel._api_key(uuid, text), kessel._client_config_service(text) TO kessel_service;

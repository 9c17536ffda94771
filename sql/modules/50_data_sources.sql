-- Data sources and their credentials. Every public function is for kessel_admin.

CREATE FUNCTION kessel.create_data_source(
    name      text,
    url       text,
    region    text DEFAULT NULL,
    isolation text DEFAULT 'database',
    options   jsonb DEFAULT '{}',
    notes     text DEFAULT NULL
) RETURNS uuid
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'kr_create_data_source';
COMMENT ON FUNCTION kessel.create_data_source(text, text, text, text, jsonb, text) IS
    'Makes a database known and returns its id; connects nowhere. url: a libpq URI or keyword/value string; user and password in it become the runtime credential, sealed. '
    'isolation: database, schema or row. options: allow_local and password_required (superusers only), pooler, schema, shared_tables; see app.data_sources. '
    'Errors: 22004 NULL, 22023 bad argument, 23505 name taken, 42501 an option for superusers, KR010 vault sealed. Errors carry neither the statement nor the password. For kessel_admin';

CREATE FUNCTION kessel.alter_data_source(
    name      text,
    url       text DEFAULT NULL,
    region    text DEFAULT NULL,
    isolation text DEFAULT NULL,
    options   jsonb DEFAULT NULL,
    notes     text DEFAULT NULL,
    new_name  text DEFAULT NULL,
    status    text DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'kr_alter_data_source';
COMMENT ON FUNCTION kessel.alter_data_source(text, text, text, text, jsonb, text, text, text) IS
    'Changes what is not NULL; options are merged, a JSON null takes one away. status: active or disabled. isolation can be changed only while the source has no tenants. '
    'Sessions connect anew at their next transaction. Where the url leads to another host, address or port, or tells less about whether it is the same server, credentials that it does not replace would be sent there: that takes the privilege reveal on their secrets. '
    'Waits for a rotation of the credential. Errors as kessel.create_data_source, KR007 unknown, 42501 a credential would be sent elsewhere. For kessel_admin';

CREATE FUNCTION kessel.set_credential(data_source text, username text, password text, purpose text DEFAULT 'runtime') RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'kr_set_credential';
COMMENT ON FUNCTION kessel.set_credential(text, text, text, text) IS
    'Seals a credential and makes it that of a purpose: runtime (the router connects with it; weak), owner (installs the agent, changes schema; default: runtime), anon, service (API keys; username may be NULL). '
    'password NULL: none is needed. What kessel.rotate_credential() has left unfinished is forgotten. Errors: 22004 NULL, 22023 no such purpose, KR007, KR010. Errors carry neither the statement nor the password. For kessel_admin';

CREATE FUNCTION kessel._remote_query(data_source_id uuid, purpose text, query text, params text[] DEFAULT '{}') RETURNS SETOF text[]
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'kr_remote_query';
CREATE FUNCTION kessel._remote_exec(data_source_id uuid, purpose text, script text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'kr_remote_exec';

CREATE FUNCTION kessel._check_source_options(options jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    option record;
    wanted text;
BEGIN
    IF jsonb_typeof(options) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'options must be a JSON object' USING ERRCODE = 'invalid_parameter_value', HINT = 'For example: {"schema": "crm"}.';
    END IF;
    FOR option IN SELECT * FROM jsonb_each(options) WHERE value <> 'null' LOOP
        wanted := CASE option.key WHEN 'allow_local' THEN 'boolean' WHEN 'password_required' THEN 'boolean'
                                  WHEN 'pooler' THEN 'string' WHEN 'schema' THEN 'string' WHEN 'shared_tables' THEN 'array' END;
        IF wanted IS NULL THEN
            RAISE EXCEPTION 'invalid option "%"', option.key
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Options are allow_local, password_required, pooler, schema and shared_tables.';
        END IF;
        IF jsonb_typeof(option.value) <> wanted THEN
            RAISE EXCEPTION 'option "%" must be a JSON %', option.key, wanted
                USING ERRCODE = 'invalid_parameter_value', HINT = 'See the comment of app.data_sources.options.';
        END IF;
        IF option.key = 'pooler' AND option.value #>> '{}' NOT IN ('session', 'transaction') THEN
            RAISE EXCEPTION 'invalid value for option "pooler"' USING ERRCODE = 'invalid_parameter_value', HINT = 'Poolers work by session or by transaction.';
        END IF;
        IF (option.key = 'allow_local' AND option.value = 'true' OR option.key = 'password_required' AND option.value = 'false')
           AND NOT kessel._caller_is_superuser() THEN
            RAISE EXCEPTION 'permission denied to set option "%"', option.key
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = 'It lets the router use what the server''s operating system user may reach.',
                      HINT = 'Only superusers can set it.';
        END IF;
    END LOOP;
END
$$;

-- A unix socket, or a loopback address with this server's own port. Names are
-- looked up when the router connects, and asked again then.
CREATE FUNCTION kessel._check_not_local(conninfo jsonb, options jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    host text := coalesce(conninfo ->> 'hostaddr', conninfo ->> 'host', '');
BEGIN
    IF coalesce((options ->> 'allow_local')::boolean, false) THEN
        RETURN;
    END IF;
    IF host = '' OR host ~ '^[/@]'
       OR host IN ('localhost', '127.0.0.1', '::1') AND coalesce(conninfo ->> 'port', '5432') = current_setting('port') THEN
        RAISE EXCEPTION 'the url names %', CASE WHEN host = '' OR host ~ '^[/@]' THEN 'a unix socket' ELSE 'this very server' END
            USING ERRCODE = 'KR005',
                  DETAIL = 'This is allowed only to a data source with the option allow_local.',
                  HINT = 'A superuser can set options => ''{"allow_local": true}''.';
    END IF;
END
$$;

CREATE FUNCTION kessel._check_data_source(name text, isolation text, status text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
        RAISE EXCEPTION 'invalid name "%" for a data source', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It has 1 to 63 characters: lowercase letters, digits, and, but not as the first, - and _.';
    END IF;
    IF isolation NOT IN ('database', 'schema', 'row') THEN
        RAISE EXCEPTION 'invalid isolation "%"', isolation
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is database, schema or row.';
    END IF;
    IF status NOT IN ('active', 'disabled') THEN
        RAISE EXCEPTION 'invalid status "%"', status
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is active or disabled.';
    END IF;
END
$$;

-- The part of kessel.create_data_source that no secret reaches.
CREATE FUNCTION kessel._create_data_source(name text, conninfo jsonb, region text, isolation text, options jsonb, notes text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    new_id uuid;
BEGIN
    isolation := coalesce(isolation, 'database');
    options := jsonb_strip_nulls(coalesce(options, '{}'));
    PERFORM kessel._check_data_source(name, isolation, 'active');
    PERFORM kessel._check_source_options(options);
    PERFORM kessel._check_not_local(conninfo, options);
    INSERT INTO app.data_sources (name, conninfo, region, isolation, options, notes)
    VALUES (name, conninfo, region, isolation, options, notes)
    RETURNING id INTO new_id;
    RETURN new_id;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'data source "%" exists already', name
        USING ERRCODE = 'unique_violation', HINT = 'kessel.alter_data_source() changes it.';
END
$$;

CREATE FUNCTION kessel._alter_data_source(name text, conninfo jsonb, region text, isolation text, options jsonb, notes text, new_name text, status text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    old app.data_sources := kessel._data_source(name);
    new_options jsonb := jsonb_strip_nulls(old.options || coalesce(options, '{}'));
BEGIN
    PERFORM kessel._check_data_source(coalesce(new_name, old.name), coalesce(isolation, old.isolation), coalesce(status, old.status));
    IF options IS NOT NULL THEN
        PERFORM kessel._check_source_options(options);
    END IF;
    IF conninfo IS NOT NULL OR options IS NOT NULL THEN
        PERFORM kessel._check_not_local(coalesce(conninfo, old.conninfo), new_options);
    END IF;
    IF isolation <> old.isolation AND EXISTS (SELECT FROM app.tenants t WHERE t.data_source_id = old.id) THEN
        RAISE EXCEPTION 'isolation of data source "%" cannot be changed', name
            USING ERRCODE = 'object_in_use', DETAIL = 'It has tenants.', HINT = 'Create another data source for tenants that are to be kept apart in another way.';
    END IF;
    UPDATE app.data_sources s
    SET name = coalesce(new_name, s.name), conninfo = coalesce(conninfo, s.conninfo), region = coalesce(region, s.region),
        isolation = coalesce(isolation, s.isolation), options = new_options, notes = coalesce(notes, s.notes), status = coalesce(status, s.status)
    WHERE s.id = old.id;
    RETURN old.id;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'data source "%" exists already', new_name USING ERRCODE = 'unique_violation', HINT = 'Choose another name.';
END
$$;

CREATE FUNCTION kessel.drop_data_source(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old app.data_sources := kessel._data_source(name);
    secrets uuid[];
BEGIN
    -- In the order of who stores a credential: the data source, then the credential.
    PERFORM FROM app.data_sources s WHERE s.id = old.id FOR UPDATE;
    IF EXISTS (SELECT FROM app.tenants t WHERE t.data_source_id = old.id) THEN
        RAISE EXCEPTION 'data source "%" has tenants', old.name
            USING ERRCODE = 'object_in_use',
                  DETAIL = (SELECT format('%s, such as "%s".', count(*), min(t.slug)) FROM app.tenants t WHERE t.data_source_id = old.id),
                  HINT = 'Drop them first.';
    END IF;
    WITH gone AS (
        DELETE FROM app.data_source_credentials c WHERE c.data_source_id = old.id RETURNING c.secret_id, c.pending_secret_id
    )
    SELECT array_agg(secret) INTO secrets FROM gone, unnest(ARRAY[gone.secret_id, gone.pending_secret_id]) AS secret WHERE secret IS NOT NULL;
    DELETE FROM app.data_sources s WHERE s.id = old.id;
    PERFORM vault.delete_secret(secret) FROM unnest(secrets) AS secret;
END
$$;
COMMENT ON FUNCTION kessel.drop_data_source(text) IS
    'Forgets a data source that has no tenants, and its credentials; the database itself is not touched. Errors: KR007, 55006 it has tenants. For kessel_admin';

CREATE FUNCTION kessel.set_default_data_source(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source_id uuid;
BEGIN
    -- One after the other: each must see what the one before has made the default.
    LOCK TABLE app.data_sources IN SHARE ROW EXCLUSIVE MODE;
    source_id := (kessel._data_source(name)).id;
    UPDATE app.data_sources s SET is_default = false WHERE s.is_default AND s.id <> source_id;
    UPDATE app.data_sources s SET is_default = true WHERE s.id = source_id AND NOT s.is_default;
END
$$;
COMMENT ON FUNCTION kessel.set_default_data_source(text) IS 'Where kessel.create_tenant puts a tenant when no data source is named. Error KR007. For kessel_admin';

CREATE VIEW kessel.routes AS
SELECT t.slug AS tenant, t.id AS tenant_id, t.status, s.name AS data_source, s.region, t.isolation, t.tenant_id_in_data_source,
       CASE t.isolation WHEN 'schema' THEN t.tenant_id_in_data_source ELSE coalesce(s.options ->> 'schema', 'public') END AS schema,
       t.route_epoch AS epoch, coalesce(s.conninfo ->> 'host', s.conninfo ->> 'hostaddr') AS host, s.conninfo ->> 'port' AS port,
       s.conninfo ->> 'dbname' AS dbname, c.username, s.agent_version
FROM app.tenants t
JOIN app.data_sources s ON s.id = t.data_source_id
LEFT JOIN app.data_source_credentials c ON c.data_source_id = s.id AND c.purpose = 'runtime';
COMMENT ON VIEW kessel.routes IS 'Every tenant with the database that it is in; no secrets. For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel.create_data_source(text, text, text, text, jsonb, text),
    kessel.alter_data_source(text, text, text, text, jsonb, text, text, text),
    kessel.set_credential(text, text, text, text),
    kessel.drop_data_source(text), kessel.set_default_data_source(text),
    kessel._remote_query(uuid, text, text, text[]), kessel._remote_exec(uuid, text, text),
    kessel._check_source_options(jsonb), kessel._check_not_local(jsonb, jsonb), kessel._check_data_source(text, text, text),
    kessel._create_data_source(text, jsonb, text, text, jsonb, text),
    kessel._alter_data_source(text, jsonb, text, text, jsonb, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel.create_data_source(text, text, text, text, jsonb, text),
    kessel.alter_data_source(text, text, text, text, jsonb, text, text, text),
    kessel.set_credential(text, text, text, text),
    kessel.drop_data_source(text), kessel.set_default_data_source(text) TO kessel_admin;
GRANT SELECT ON kessel.routes TO kessel_admin;

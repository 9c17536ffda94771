-- kessel.test_data_source(): how far one gets with a data source, step by step.

CREATE FUNCTION kessel._probe_connection(data_source_id uuid)
RETURNS TABLE ("check" text, ok boolean, detail text, ms double precision)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'kr_remote_probe';
REVOKE ALL ON FUNCTION kessel._probe_connection(uuid) FROM PUBLIC;

CREATE FUNCTION kessel._ms_since(started timestamptz) RETURNS numeric
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.round(pg_catalog.extract('epoch', pg_catalog.clock_timestamp() - started) * 1000, 2);
REVOKE ALL ON FUNCTION kessel._ms_since(timestamptz) FROM PUBLIC;

CREATE FUNCTION kessel.test_data_source(name text)
RETURNS TABLE ("check" text, ok boolean, detail text, ms numeric)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source app.data_sources := kessel._data_source(name);
    started timestamptz;
    authenticated boolean := false;
    connected boolean := false;
    step record;
    found_version text;
    reasons text[];
    hint text;
BEGIN
    IF source.status <> 'active' THEN
        "check" := 'status'; ok := false; detail := 'The data source is disabled: no tenant is routed to it.'; RETURN NEXT;
    END IF;

    -- Before it is probed with the password that is then the current one.
    BEGIN
        FOR step IN SELECT p.purpose, r.* FROM unnest(ARRAY['runtime', 'owner']) AS p(purpose), kessel._settle_credential(source.id, p.purpose) AS r WHERE r.detail IS NOT NULL LOOP
            "check" := 'rotation'; ok := step.ok; detail := step.detail;
            IF step.purpose <> 'runtime' THEN
                detail := pg_catalog.format('%s (%s)', detail, step.purpose);
            END IF;
            RETURN NEXT;
        END LOOP;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;   -- who may not use a credential is told below
    END;

    BEGIN
        FOR step IN SELECT * FROM kessel._probe_connection(source.id) LOOP
            "check" := step."check"; ok := step.ok; detail := step.detail; ms := pg_catalog.round(step.ms::numeric, 2);
            RETURN NEXT;
            connected := step."check" = 'round trip' AND step.ok AND authenticated;
            authenticated := authenticated OR step."check" = 'authentication' AND step.ok;
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        -- No credential, a sealed vault, a unix socket that is not allowed.
        GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
        "check" := 'credential'; ok := false; detail := pg_catalog.concat_ws('. ', SQLERRM, hint); ms := NULL;
        RETURN NEXT;
    END;
    IF NOT connected THEN
        RETURN;
    END IF;

    -- Without one the runtime one does, as far as its role may.
    "check" := 'owner credential'; started := pg_catalog.clock_timestamp();
    BEGIN
        SELECT pg_catalog.format('user "%s"', r[1]) INTO detail FROM kessel._remote_query(source.id, 'owner', 'SELECT session_user') r;
        ok := true;
        IF NOT EXISTS (SELECT FROM app.data_source_credentials c WHERE c.data_source_id = source.id AND c.purpose = 'owner') THEN
            detail := pg_catalog.format('none: migrations and the agent are made as the runtime role, %s; SELECT kessel.set_credential(%L, ..., purpose => ''owner'') sets one', detail, name);
        END IF;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        ok := false; detail := pg_catalog.concat_ws(': ', SQLERRM, nullif(detail, ''));
    END;
    ms := kessel._ms_since(started); RETURN NEXT;

    -- Rows that the source has sorted may be merged here with rows sorted here.
    "check" := 'collation'; started := pg_catalog.clock_timestamp();
    DECLARE
        here text := (SELECT d.datcollate FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
        there text;
    BEGIN
        SELECT r[1] INTO there
        FROM kessel._remote_query(source.id, 'runtime', 'SELECT datcollate FROM pg_database WHERE datname = current_database()') r;
        ok := here = there;
        detail := CASE WHEN ok THEN there || ', as here'
                       ELSE pg_catalog.format('%s there and %s here: text that is sorted there may be out of order here, and a join on it may lose rows', there, here) END;
    EXCEPTION WHEN OTHERS THEN
        ok := false; detail := SQLERRM;
    END;
    ms := kessel._ms_since(started); RETURN NEXT;

    "check" := 'agent'; started := pg_catalog.clock_timestamp();
    BEGIN
        SELECT r[1], r[2]::boolean INTO found_version, ok FROM kessel._remote_query(source.id, 'runtime', $query$
            SELECT pg_catalog.obj_description(n.oid, 'pg_namespace'),
                   has_schema_privilege(n.oid, 'USAGE') AND EXISTS (
                       SELECT FROM pg_catalog.pg_proc p
                       WHERE p.pronamespace = n.oid AND p.proname = 'enter' AND has_function_privilege(p.oid, 'EXECUTE'))
            FROM pg_catalog.pg_namespace n
            -- What a migration makes there alone, its record, is not the agent.
            WHERE n.nspname = 'kessel_agent' AND EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid)$query$) r;
        found_version := pg_catalog.substring(found_version, ' agent ([^:]+):');
        detail := CASE
            WHEN ok IS NULL AND source.agent_version IS NOT NULL THEN 'gone from there'
            WHEN ok IS NULL AND source.isolation = 'row' THEN 'not installed, and row isolation needs it'
            WHEN ok IS NULL THEN 'not installed, and not needed'
            WHEN NOT ok THEN 'the runtime role may not use it'
            WHEN source.agent_version IS NULL THEN 'installed there, but not from here'
            WHEN found_version IS DISTINCT FROM kessel._agent_version() THEN pg_catalog.format('version %s, this extension has version %s', found_version, kessel._agent_version())
            ELSE 'version ' || found_version END;
        IF detail <> 'not installed, and not needed' AND detail <> 'version ' || kessel._agent_version() THEN
            detail := pg_catalog.format('%s: run SELECT kessel.install_agent(%L)', detail, name);
            ok := false;
        ELSE
            ok := true;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        ok := false; detail := SQLERRM;
    END;
    ms := kessel._ms_since(started); RETURN NEXT;

    -- A serial column is filled by its default with the privileges of who inserts.
    "check" := 'sequences'; started := pg_catalog.clock_timestamp();
    BEGIN
        reasons := ARRAY(SELECT r[1] FROM kessel._remote_query(source.id, 'runtime', $query$
            SELECT DISTINCT s.oid::pg_catalog.regclass::text COLLATE "C"
            FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class s ON s.oid = d.refobjid
            JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
            WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
              AND pg_catalog.has_any_column_privilege(f.adrelid, 'INSERT')
              AND CASE WHEN s.relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
            ORDER BY 1$query$) r);
        ok := reasons = '{}';
        detail := 'defaults call nextval(), so the runtime role needs USAGE on ' || kessel._some(reasons);
    EXCEPTION WHEN OTHERS THEN
        ok := false; detail := SQLERRM;
    END;
    IF NOT ok THEN
        ms := kessel._ms_since(started); RETURN NEXT;
    END IF;

    -- With a database or schema to itself, a tenant needs no row security; a
    -- role that could undo everything there is still worth a word.
    "check" := 'role safety'; started := pg_catalog.clock_timestamp();
    BEGIN
        reasons := ARRAY(SELECT kessel._row_safety(source.id));
        detail := pg_catalog.array_to_string(ARRAY(SELECT r FROM pg_catalog.unnest(reasons) r
                                                   WHERE r ~ '^role ' AND (source.isolation = 'row' OR r !~ ' owns ')), '; ');
        ok := detail = '';
        detail := coalesce(nullif(detail, ''), 'nothing beyond what the router needs');
        ms := kessel._ms_since(started); RETURN NEXT;

        "check" := 'row security'; ms := NULL;
        detail := pg_catalog.array_to_string(ARRAY(SELECT r FROM pg_catalog.unnest(reasons) r WHERE r !~ '^role '), '; ');
        ok := detail = '' OR source.isolation <> 'row';
        detail := CASE WHEN source.isolation <> 'row' THEN pg_catalog.format('not needed for %s isolation', source.isolation)
                       WHEN detail = '' THEN 'every exposed table is protected' ELSE detail END;
        RETURN NEXT;
    EXCEPTION WHEN OTHERS THEN
        ok := false; detail := SQLERRM; RETURN NEXT;
    END;
END
$$;
REVOKE ALL ON FUNCTION kessel.test_data_source(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.test_data_source(text) TO kessel_admin;
COMMENT ON FUNCTION kessel.test_data_source(text) IS
    'How far one gets with a data source: name resolution, TCP, TLS, authentication, server version, round trip, owner credential, collation, agent, role safety, row security. '
    'Where the runtime role may insert, but not use the sequence of a default: sequences. '
    'ms: milliseconds that the step took, NULL where it takes none. What fails is a row with ok = false, and what depends on it is left out; the connection takes at most kessel.connect_timeout. '
    'Raises KR007 for an unknown data source. For kessel_admin';

-- Databases that had their tables before they had a record of them.

-- What one place says when it is told to record migrations that were applied to it
-- by other means. Only a place without any record of the blueprint takes it.
CREATE FUNCTION kessel._baseline(data_source_id uuid, schema_name text, blueprint text, version integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    applied record;
    recorded bigint;
BEGIN
    SELECT array_agg(m.version ORDER BY m.version)::text AS versions, array_agg(m.name ORDER BY m.version)::text AS names, array_agg(m.checksum ORDER BY m.version)::text AS checksums
    INTO applied FROM kessel.migrations m WHERE m.blueprint = _baseline.blueprint AND m.version <= _baseline.version;

    PERFORM kessel._remote_exec(data_source_id, 'owner', kessel._migrations_script());
    SELECT count(*) INTO recorded FROM kessel._remote_query(data_source_id, 'owner',
        'INSERT INTO kessel_agent.migrations (schema_name, blueprint, version, name, checksum, applied_at) '
        'SELECT $1::name, $2, v, n, c, clock_timestamp() FROM unnest($3::int[], $4::text[], $5::text[]) u (v, n, c) '
        'WHERE NOT EXISTS (SELECT FROM kessel_agent.migrations k WHERE k.schema_name = $1::name AND k.blueprint = $2) '
        'AND EXISTS (SELECT FROM pg_catalog.pg_namespace s WHERE s.nspname = $1::name) RETURNING version::text',
        ARRAY[schema_name, blueprint, applied.versions, applied.names, applied.checksums]);
    IF recorded = 0 THEN
        RAISE EXCEPTION 'schema "%" has a record of blueprint "%" already, or is not there', schema_name, blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'kessel.migrate() goes on from the version that it has.';
    END IF;
    RETURN recorded;
END
$$;
REVOKE ALL ON FUNCTION kessel._baseline(uuid, text, text, integer) FROM PUBLIC;

CREATE FUNCTION kessel.baseline(blueprint text, version integer, tenants text[])
RETURNS TABLE (data_source text, schema_name text, recorded bigint, error jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wanted integer := kessel._wanted_version(baseline.blueprint, baseline.version);
    place record;
    state text;
    message text;
    details text;
    advice text;
BEGIN
    IF baseline.version IS NULL OR wanted = 0 THEN
        RAISE EXCEPTION 'version must name the migration up to which the tables are there'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'SELECT version, name FROM kessel.migrations lists them.';
    END IF;
    PERFORM kessel._run_lock(baseline.blueprint, of_transaction => true);
    FOR place IN SELECT t.data_source_id AS id, t.data_source, t.schema_name FROM kessel._targets(kessel._tenant_ids(baseline.tenants)) t WHERE NOT t.disabled ORDER BY 2, 3 LOOP
        data_source := place.data_source; schema_name := place.schema_name; recorded := NULL; error := NULL;
        BEGIN
            recorded := kessel._baseline(place.id, place.schema_name, baseline.blueprint, wanted);
            INSERT INTO kessel.migration_targets AS k (data_source_id, schema_name, blueprint, version)
            VALUES (place.id, place.schema_name, baseline.blueprint, wanted)
            ON CONFLICT ON CONSTRAINT migration_targets_pkey DO UPDATE
            SET version = excluded.version, trying = NULL, error = NULL, updated_at = clock_timestamp();
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL, advice = PG_EXCEPTION_HINT;
            error := jsonb_build_object('sqlstate', state, 'message', message, 'detail', nullif(details, ''), 'hint', nullif(advice, ''));
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel.baseline(text, integer, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.baseline(text, integer, text[]) TO kessel_admin;
COMMENT ON FUNCTION kessel.baseline(text, integer, text[]) IS
    'Records in each target that it has a blueprint''s migrations up to version, without running any: for databases that had their tables before, or have lost their record. kessel.drift() then tells whether that is true. '
    'tenants: slugs or ids; NULL: all targets. A line for each: recorded (migrations), or error ({"sqlstate", "message", "detail", "hint"}; 55000: it has a record of the blueprint already, or no such schema). '
    'Each target commits at once, one after the other, whatever becomes of the transaction here, up to whose end nobody else migrates the blueprint. Errors: 42704 unknown blueprint, 22004, 22023 no such version, KR002, 55P03 it is being migrated. For kessel_admin';

-- The comparison of many targets: what each should be, and who is not.

-- ---------- references ----------

-- A text as it stands within a string of JSON.
CREATE FUNCTION kessel._json_inner(value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.substr(pg_catalog.to_jsonb(value)::text, 2, pg_catalog.length(pg_catalog.to_jsonb(value)::text) - 2);
REVOKE ALL ON FUNCTION kessel._json_inner(text) FROM PUBLIC;

-- Lines of a reference with the target's schema in place of the scratch one, in the
-- ways in which its name is written: in literals of its own, as in SET search_path;
-- at the beginning of those of regclass; and as an identifier.
CREATE FUNCTION kessel._reference_placed(lines text, scratch text, schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(lines,
    '''' || scratch || '''', kessel._json_inner('''' || pg_catalog.replace(schema_name, '''', '''''') || '''')),
    '''' || scratch || '.', kessel._json_inner('''' || pg_catalog.replace(pg_catalog.quote_ident(schema_name), '''', '''''') || '.')),
    scratch, kessel._json_inner(pg_catalog.quote_ident(schema_name)));
REVOKE ALL ON FUNCTION kessel._reference_placed(text, text, text) FROM PUBLIC;

CREATE FUNCTION kessel._reference_fingerprint(key text, schema_name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(kessel._reference_placed(r.content, r.scratch, schema_name), 'UTF8')), 'hex')
        FROM kessel.schema_references r WHERE r.key = _reference_fingerprint.key);
REVOKE ALL ON FUNCTION kessel._reference_fingerprint(text, text) FROM PUBLIC;

-- All that a schema depends on. migrations: what the target has recorded.
CREATE FUNCTION kessel._reference_key(data_source_id uuid, environment jsonb, migrations jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            pg_catalog.jsonb_build_array(kessel._schema_lines_query(), s.conninfo -> 'host', s.conninfo -> 'hostaddr', s.conninfo -> 'port',
                (SELECT c.username FROM app.data_source_credentials c WHERE c.data_source_id = s.id AND c.purpose IN ('owner', 'runtime') ORDER BY c.purpose LIMIT 1),
                CASE WHEN s.options ->> 'pooler' = 'transaction' THEN s.conninfo -> 'dbname' END,
                s.isolation, environment, migrations)::text, 'UTF8')), 'hex')
        FROM app.data_sources s WHERE s.id = data_source_id);
REVOKE ALL ON FUNCTION kessel._reference_key(uuid, jsonb, jsonb) FROM PUBLIC;

-- Reads the lines of many schemas, or builds what migrations make: in C. A row for
-- each row of the query: n, the data source's place in the array; values; or the
-- error and the statement of the script that has raised it (0: none of them).
-- scripts: an array of statements for each, or []; params: as many for each, in a row.
CREATE FUNCTION kessel._schema_read(data_source_ids uuid[], scripts jsonb, query text, params text[], max_parallel integer, timeout_ms bigint)
RETURNS TABLE (n integer, "values" text[], error jsonb, statement integer)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 1000 COST 100000 AS 'MODULE_PATHNAME', 'kr_drift_read';
REVOKE ALL ON FUNCTION kessel._schema_read(uuid[], jsonb, text, text[], integer, bigint) FROM PUBLIC;

CREATE FUNCTION kessel._script_names_schema(script text, schema_name text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_names_schema';
REVOKE ALL ON FUNCTION kessel._script_names_schema(text, text) FROM PUBLIC;

CREATE FUNCTION kessel._error_json(state text, message text, detail text DEFAULT NULL, hint text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('sqlstate', state, 'message', message, 'detail', detail, 'hint', hint));
REVOKE ALL ON FUNCTION kessel._error_json(text, text, text, text) FROM PUBLIC;

-- What keeps a target's record from telling what its schema should be; NULL: nothing.
CREATE FUNCTION kessel._record_error(migrations jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry jsonb;
    known kessel.migrations;
BEGIN
    FOR entry IN SELECT jsonb_array_elements(migrations) LOOP
        SELECT * INTO known FROM kessel.migrations m WHERE m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer;
        IF known.checksum IS DISTINCT FROM entry ->> 2 THEN
            RETURN kessel._error_json('KR014', format('migration %s of blueprint "%s" is not known here%s', entry ->> 4, entry ->> 0, CASE WHEN known.version IS NULL THEN '' ELSE ' with that content' END),
                                      'So what the schema should be is not known.', 'Load the blueprint that the target was migrated with.');
        ELSIF entry ->> 3 <> 'applied' THEN
            RETURN kessel._error_json('55000', format('migration %s of blueprint "%s" is under way or was cut off', known.name, entry ->> 0),
                                      'What the schema should be is known again when it has ended.', 'Run the migration again: it goes on where it was.');
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION kessel._record_error(jsonb) FROM PUBLIC;

-- Where extensions have put their objects into the target's schema, scripts find
-- them there, and nothing else: under the name of each relation and type in it that
-- is no extension's there is a temporary one, which is found first.
CREATE FUNCTION kessel._reference_shadows(schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.format('DO %L', pg_catalog.format($script$
DECLARE
    shadow text;
BEGIN
    FOR shadow IN
        SELECT format(CASE c.relkind WHEN 'c' THEN 'CREATE TYPE pg_temp.%%I AS ()' ELSE 'CREATE TEMP VIEW %%I AS SELECT' END, c.relname)
        FROM pg_class c WHERE c.relnamespace = %1$L::regnamespace
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
      UNION ALL
        SELECT format('CREATE TYPE pg_temp.%%I AS ()', t.typname)
        FROM pg_type t WHERE t.typnamespace = %1$L::regnamespace AND t.typtype IN ('e', 'd', 'r')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
          AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = t.typnamespace AND c.relname = t.typname)
    LOOP
        EXECUTE shadow;
    END LOOP;
END$script$, pg_catalog.quote_ident(schema_name)));
REVOKE ALL ON FUNCTION kessel._reference_shadows(text) FROM PUBLIC;

-- What each migration finds, whatever the one before has set.
CREATE FUNCTION kessel._reference_context(scratch text, extended text, isolation text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.format('SELECT set_config(''search_path'', %L, true), set_config(''standard_conforming_strings'', ''on'', true), set_config(''check_function_bodies'', ''on'', true), set_config(''kessel_agent.isolation'', %L, true)',
                         pg_catalog.concat_ws(', ', scratch, 'pg_temp', pg_catalog.quote_ident(extended)), isolation);
REVOKE ALL ON FUNCTION kessel._reference_context(text, text, text) FROM PUBLIC;

-- The statements that build a reference, each with the migration that it is of. What
-- cannot run in a transaction runs without what forbids it, or does not change the
-- schema. extended: the target's schema, where extensions are in it; else NULL.
CREATE FUNCTION kessel._reference_script(migrations jsonb, scratch text, extended text, runtime text, isolation text)
RETURNS TABLE (statement text, of text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known kessel.migrations;
    part record;
BEGIN
    RETURN QUERY VALUES ('SELECT set_config(''search_path'', ''pg_catalog, pg_temp'', true), set_config(''lock_timeout'', ''2s'', true), set_config(''client_min_messages'', ''error'', true)', NULL),
                        ('SELECT txid_current()', NULL), (format('CREATE SCHEMA %I', scratch), NULL);
    IF extended IS NOT NULL THEN
        RETURN QUERY VALUES (kessel._reference_shadows(extended), NULL);
    END IF;
    FOR known IN
        SELECT m.* FROM jsonb_array_elements(migrations) WITH ORDINALITY e (entry, n) JOIN kessel.migrations m ON m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer ORDER BY n
    LOOP
        RETURN QUERY VALUES (kessel._reference_context(scratch, extended, isolation), NULL);
        FOR part IN SELECT * FROM kessel._script_statements(kessel._script_place(known.up, scratch, runtime), known.name) LOOP
            CONTINUE WHEN part.alone = 'VACUUM' OR part.alone LIKE 'REINDEX%' OR part.alone LIKE 'CLUSTER%';
            statement := CASE WHEN part.alone LIKE '%CONCURRENTLY' THEN regexp_replace(part.sql, '\mconcurrently\M', '', 'i') ELSE part.sql END;
            of := known.name;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel._reference_script(jsonb, text, text, text, text) FROM PUBLIC;

-- Why a reference cannot be built for a schema; NULL: it can. A script that names the
-- schema would reach what lives in it.
CREATE FUNCTION kessel._reference_obstacle(migrations jsonb, schema_name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT kessel._error_json('0A000', pg_catalog.format('migration %s names the schema "%s"', m.name, schema_name),
                                  'So what the migrations make cannot be built beside it, in a scratch schema.',
                                  'Name tables without a schema in migrations, or as "@tenant".name: the schema is set when they run.')
        FROM pg_catalog.jsonb_array_elements(migrations) WITH ORDINALITY e (entry, n) JOIN kessel.migrations m ON m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer
        WHERE kessel._script_names_schema(m.up, schema_name) ORDER BY n LIMIT 1);
REVOKE ALL ON FUNCTION kessel._reference_obstacle(jsonb, text) FROM PUBLIC;

-- What has happened instead of a reference.
CREATE FUNCTION kessel._reference_error(error jsonb, of text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN of IS NULL AND error ->> 'sqlstate' = '42501' THEN
        kessel._error_json('42501', 'a scratch schema cannot be made there', error ->> 'message', 'Grant the credential for the purpose owner CREATE on the database.')
    WHEN of IS NULL THEN error
    ELSE kessel._error_json('55000', pg_catalog.format('migration %s cannot be built in a scratch schema', of), pg_catalog.format('%s (SQLSTATE %s)', error ->> 'message', error ->> 'sqlstate'),
                            'All that a migration needs must be made by it or the ones before, or be in another schema that it names.') END;
REVOKE ALL ON FUNCTION kessel._reference_error(jsonb, text) FROM PUBLIC;

-- ---------- the comparison ----------

-- A schema in which tenants' data is, and what has become known of it.
CREATE TYPE kessel._drift_target AS (
    n              integer,
    data_source_id uuid,
    data_source    text,
    schema_name    text,
    tenant         text, -- NULL: several share it
    owner          text,
    runtime        text,
    fingerprint    text,
    environment    text,
    record         text,
    key            text, -- of its reference
    error          jsonb
);

CREATE FUNCTION kessel._drift_targets(tenants text[]) RETURNS kessel._drift_target[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(
    SELECT ROW(pg_catalog.row_number() OVER (ORDER BY g.data_source COLLATE "C", g.schema_name COLLATE "C"), g.data_source_id, g.data_source, g.schema_name,
               CASE WHEN cardinality(g.tenants) = 1 THEN g.tenants[1] END, coalesce(o.username, r.username), r.username, NULL, NULL, NULL, NULL, NULL)::kessel._drift_target
    FROM kessel._targets(kessel._tenant_ids(tenants)) g
    LEFT JOIN app.data_source_credentials r ON r.data_source_id = g.data_source_id AND r.purpose = 'runtime'
    LEFT JOIN app.data_source_credentials o ON o.data_source_id = g.data_source_id AND o.purpose = 'owner'
    ORDER BY 1);
REVOKE ALL ON FUNCTION kessel._drift_targets(text[]) FROM PUBLIC;

-- What a query says of targets, by their n.
CREATE FUNCTION kessel._drift_read(targets kessel._drift_target[], what text, lines boolean, max_parallel integer, timeout_ms bigint)
RETURNS TABLE (n integer, "values" text[], error jsonb)
LANGUAGE sql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT _drift_read.targets[r.n].n, r."values", r.error
    FROM kessel._schema_read(ARRAY(SELECT t.data_source_id FROM unnest(_drift_read.targets) WITH ORDINALITY t ORDER BY t.ordinality), '[]', kessel._schema_query(what),
                             coalesce((SELECT array_agg(p.value ORDER BY t.ordinality, p.k)
                                       FROM unnest(_drift_read.targets) WITH ORDINALITY t, LATERAL (VALUES (1, t.schema_name), (2, t.runtime), (3, _drift_read.lines::text)) p (k, value)), '{}'),
                             max_parallel, timeout_ms) r;
END;
REVOKE ALL ON FUNCTION kessel._drift_read(kessel._drift_target[], text, boolean, integer, bigint) FROM PUBLIC;

-- So that whoever says nothing has not said that nothing differs.
CREATE FUNCTION kessel._drift_unanswered(targets kessel._drift_target[], asked kessel._drift_target[]) RETURNS kessel._drift_target[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one kessel._drift_target;
BEGIN
    FOREACH one IN ARRAY asked LOOP
        targets[one.n].error := kessel._error_json('08P01', format('data source "%s" has not answered', one.data_source));
    END LOOP;
    RETURN targets;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_unanswered(kessel._drift_target[], kessel._drift_target[]) FROM PUBLIC;

-- Fingerprint, environment and record of each. One where nothing was ever migrated has no record to read.
CREATE FUNCTION kessel._drift_survey(targets kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS kessel._drift_target[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer record;
    again kessel._drift_target[] := '{}';
BEGIN
    targets := kessel._drift_unanswered(targets, targets);
    FOR answer IN SELECT * FROM kessel._drift_read(targets, 'recorded', false, max_parallel, timeout_ms) LOOP
        IF answer.error ->> 'sqlstate' = '42P01' THEN
            again := again || targets[answer.n];
        ELSE
            targets[answer.n] := kessel._drift_take(targets[answer.n], answer.values, answer.error);
        END IF;
    END LOOP;
    FOR answer IN SELECT * FROM kessel._drift_read(again, 'unrecorded', false, max_parallel, timeout_ms) LOOP
        targets[answer.n] := kessel._drift_take(targets[answer.n], answer.values, answer.error);
    END LOOP;
    RETURN targets;
END
$$;

CREATE FUNCTION kessel._drift_take(target kessel._drift_target, "values" text[], error jsonb) RETURNS kessel._drift_target
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    target.error := error;
    IF error IS NULL AND "values"[1] IS DISTINCT FROM 't' THEN
        target.error := kessel._error_json('3F000', format('data source "%s" has no schema "%s"', target.data_source, target.schema_name));
    ELSIF error IS NULL THEN
        target.environment := "values"[2];
        target.fingerprint := "values"[3];
        target.record := "values"[4];
    END IF;
    RETURN target;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_survey(kessel._drift_target[], integer, bigint), kessel._drift_take(kessel._drift_target, text[], jsonb) FROM PUBLIC;

-- Which reference each is to be compared with, or why there is none.
CREATE FUNCTION kessel._drift_keys(targets kessel._drift_target[], blueprint text) RETURNS kessel._drift_target[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind record;
    i integer;
    key text;
    error jsonb;
    migrations jsonb;
BEGIN
    FOR kind IN
        SELECT t.record, t.environment, s.isolation, s.conninfo -> 'host', s.conninfo -> 'hostaddr', s.conninfo -> 'port', array_agg(t.n) AS members, min(t.data_source_id::text)::uuid AS data_source_id
        FROM unnest(targets) t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.error IS NULL GROUP BY 1, 2, 3, 4, 5, 6
    LOOP
        key := NULL;
        BEGIN
            migrations := kind.record::jsonb;
            error := kessel._record_error(migrations);
            IF error IS NULL THEN
                migrations := (SELECT coalesce(jsonb_agg(jsonb_build_array(e -> 0, e -> 1, e -> 2) ORDER BY o), '[]') FROM jsonb_array_elements(migrations) WITH ORDINALITY x (e, o));
                key := kessel._reference_key(kind.data_source_id, kind.environment::jsonb, migrations);
            END IF;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            error := kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
        END;
        FOREACH i IN ARRAY kind.members LOOP
            targets[i].key := key;
            targets[i].error := coalesce(error, kessel._drift_unapplied(targets[i], migrations, blueprint));
        END LOOP;
    END LOOP;
    RETURN targets;
END
$$;

-- A place to which the blueprint was never applied is not one that has drifted; and
-- where its record is gone, all that the blueprint has made would be unexpected.
CREATE FUNCTION kessel._drift_unapplied(target kessel._drift_target, migrations jsonb, blueprint text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known kessel.migration_targets;
BEGIN
    SELECT * INTO known FROM kessel.migration_targets m
    WHERE m.data_source_id = target.data_source_id AND m.schema_name = target.schema_name AND m.blueprint = _drift_unapplied.blueprint;
    RETURN CASE
        WHEN EXISTS (SELECT FROM jsonb_array_elements(migrations) e WHERE e ->> 0 = blueprint) OR known.version = 0 THEN NULL
        WHEN known.version > 0 THEN
            kessel._error_json('KR014', format('the record of blueprint "%s" is not there any more', blueprint), format('Here it is known to have version %s.', known.version),
                               format('If it has, SELECT * FROM kessel.baseline(%L, %s, ...) records it again.', blueprint, known.version))
        ELSE kessel._error_json('55000', format('blueprint "%s" was never applied there', blueprint), NULL, format('CALL kessel.migrate(%L) applies it.', blueprint)) END;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_keys(kessel._drift_target[], text), kessel._drift_unapplied(kessel._drift_target, jsonb, text) FROM PUBLIC;

-- Build the references that are missing. Where that fails on one target, another one
-- of the same kind may do.
CREATE FUNCTION kessel._drift_references(targets kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS kessel._drift_target[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    builders kessel._drift_target[];
    failures jsonb := '{}';
    i integer;
BEGIN
    FOR attempt IN 1 .. 3 LOOP
        builders := ARRAY(
            SELECT t FROM (SELECT u.*::kessel._drift_target AS t, row_number() OVER (PARTITION BY u.key ORDER BY u.n) AS nth FROM unnest(targets) u WHERE u.error IS NULL) x
            WHERE x.nth = attempt AND NOT EXISTS (SELECT FROM kessel.schema_references r WHERE r.key = (x.t).key));
        EXIT WHEN builders = '{}';
        failures := failures || kessel._drift_build(builders, max_parallel, timeout_ms);
    END LOOP;
    FOR i IN SELECT t.n FROM unnest(targets) t WHERE t.error IS NULL AND NOT EXISTS (SELECT FROM kessel.schema_references r WHERE r.key = t.key) LOOP
        targets[i].error := failures -> targets[i].key;
    END LOOP;
    RETURN targets;
END
$$;

-- All that one builds: an array of statements, and of the migrations that they are of.
CREATE FUNCTION kessel._drift_script(builder kessel._drift_target, scratch text, OUT statements jsonb, OUT origins jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT jsonb_agg(x.statement ORDER BY x.n), jsonb_agg(x.of ORDER BY x.n)
    FROM app.data_sources s,
         LATERAL (SELECT r.*, row_number() OVER () AS n
                  FROM kessel._reference_script((_drift_script.builder).record::jsonb, _drift_script.scratch,
                           CASE WHEN EXISTS (SELECT FROM jsonb_array_elements((_drift_script.builder).environment::jsonb -> 4) e WHERE e ->> 1 = '') THEN (_drift_script.builder).schema_name END,
                           (_drift_script.builder).runtime, s.isolation) r) x
    WHERE s.id = (_drift_script.builder).data_source_id;
END;

-- Keep what was built; the error where it is no reference.
CREATE FUNCTION kessel._drift_keep(builder kessel._drift_target, scratch text, "values" text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF "values"[4] <> '[]' THEN
        RETURN kessel._error_json('0A000', 'the migrations make or change something outside of their schema',
                                  (SELECT string_agg(o, ', ') FROM (SELECT jsonb_array_elements_text("values"[4]::jsonb) LIMIT 5) x (o)),
                                  'Only what is in the target''s schema can be compared: name tables without a schema in migrations.');
    END IF;
    DELETE FROM kessel.schema_references r WHERE r.built_at < clock_timestamp() - interval '90 days';
    INSERT INTO kessel.schema_references AS r (key, migrations, environment, data_source_id, scratch, content, lines)
    SELECT builder.key, builder.record::jsonb, builder.environment::jsonb, builder.data_source_id, scratch,
           coalesce((SELECT string_agg(jsonb_build_array(l -> 0, l -> 1, l -> 2)::text, E',\n' ORDER BY o) FROM jsonb_array_elements("values"[5]::jsonb) WITH ORDINALITY x (l, o)), ''), "values"[5]
    ON CONFLICT (key) DO NOTHING;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
END
$$;

-- Builds references, each on one data source, many at once. The errors of those that
-- have failed, by key.
CREATE FUNCTION kessel._drift_build(builders kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scratch text := 'kessel_scratch_' || replace(gen_random_uuid()::text, '-', '');
    scripts jsonb := '[]';
    origins jsonb := '[]';
    params text[] := '{}';
    failures jsonb;
    builder kessel._drift_target;
    script record;
    answer record;
BEGIN
    failures := (SELECT coalesce(jsonb_object_agg(b.key, o.error), '{}')
                 FROM unnest(builders) b, LATERAL (SELECT kessel._reference_obstacle(b.record::jsonb, b.schema_name)) o (error) WHERE o.error IS NOT NULL);
    builders := ARRAY(SELECT b FROM unnest(builders) b WHERE NOT failures ? b.key);
    FOREACH builder IN ARRAY builders LOOP
        script := kessel._drift_script(builder, scratch);
        scripts := scripts || jsonb_build_array(script.statements);
        origins := origins || jsonb_build_array(script.origins);
        params := params || ARRAY[scratch, builder.runtime, 'true'];
    END LOOP;
    FOR answer IN SELECT * FROM kessel._schema_read(ARRAY(SELECT b.data_source_id FROM unnest(builders) WITH ORDINALITY b ORDER BY b.ordinality), scripts, kessel._schema_query('scratch'), params, max_parallel, timeout_ms) LOOP
        failures := failures || jsonb_build_object(builders[answer.n].key, CASE WHEN answer.error IS NULL THEN kessel._drift_keep(builders[answer.n], scratch, answer.values)
                                                                              ELSE kessel._reference_error(answer.error, origins -> answer.n - 1 ->> answer.statement - 1) END);
    END LOOP;
    RETURN failures;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_references(kessel._drift_target[], integer, bigint), kessel._drift_build(kessel._drift_target[], integer, bigint),
    kessel._drift_script(kessel._drift_target, text), kessel._drift_keep(kessel._drift_target, text, text[]) FROM PUBLIC;

-- Those whose fingerprint is not that of their reference.
CREATE FUNCTION kessel._drift_suspects(targets kessel._drift_target[]) RETURNS kessel._drift_target[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(
    SELECT t
    FROM pg_catalog.unnest(targets) t
    JOIN (SELECT d.key, d.schema_name, kessel._reference_fingerprint(d.key, d.schema_name) AS fingerprint
          FROM (SELECT DISTINCT u.key, u.schema_name FROM pg_catalog.unnest(targets) u WHERE u.error IS NULL) d) r ON r.key = t.key AND r.schema_name = t.schema_name
    WHERE t.error IS NULL AND t.fingerprint IS DISTINCT FROM r.fingerprint
    ORDER BY t.n);
REVOKE ALL ON FUNCTION kessel._drift_suspects(kessel._drift_target[]) FROM PUBLIC;

-- What differs in one target, whose lines these are.
CREATE FUNCTION kessel._drift_of(target kessel._drift_target, lines text, ignore text[])
RETURNS TABLE (step integer, difference text, kind text, object text, expected text, actual text, mend text, note text)
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT row_number() OVER ()::integer, d.difference, d.kind, o.label, d.wanted, d.was, d.mend, d.note
    FROM kessel.schema_references r,
         LATERAL kessel._schema_differences(kessel._reference_placed(r.lines, r.scratch, (_drift_of.target).schema_name)::jsonb, _drift_of.lines::jsonb,
                                            (_drift_of.target).schema_name, (_drift_of.target).owner, (_drift_of.target).runtime) d,
         LATERAL (SELECT kessel._schema_object_label(d.kind, d.path)) o (label)
    WHERE r.key = (_drift_of.target).key AND NOT coalesce(d.kind || ' ' || o.label LIKE ANY (_drift_of.ignore), false);
END;
REVOKE ALL ON FUNCTION kessel._drift_of(kessel._drift_target, text, text[]) FROM PUBLIC;

CREATE FUNCTION kessel.drift(blueprint text, tenants text[] DEFAULT NULL, ignore text[] DEFAULT NULL, max_parallel integer DEFAULT 16, timeout interval DEFAULT '1 min')
RETURNS TABLE (tenant text, data_source text, schema_name text, step integer, difference text, kind text, object text, expected text, actual text, mend text, note text, error jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    -- 0: no limit
    timeout_ms bigint := coalesce(extract(epoch FROM timeout) * 1000, 0);
    targets kessel._drift_target[];
    target kessel._drift_target;
    suspects kessel._drift_target[];
    counts jsonb := '{}';
    answer record;
    differences bigint;
BEGIN
    PERFORM kessel._check_drift(drift.blueprint, drift.max_parallel, drift.timeout);
    targets := kessel._drift_survey(kessel._drift_targets(drift.tenants), drift.max_parallel, timeout_ms);
    targets := kessel._drift_keys(targets, drift.blueprint);
    targets := kessel._drift_references(targets, drift.max_parallel, timeout_ms);
    suspects := kessel._drift_suspects(targets);
    targets := kessel._drift_unanswered(targets, suspects);

    FOR answer IN SELECT * FROM kessel._drift_read(suspects, 'unrecorded', true, drift.max_parallel, timeout_ms) r ORDER BY r.n LOOP
        target := targets[answer.n];
        BEGIN
            IF answer.error IS NULL THEN
                RETURN QUERY SELECT target.tenant, target.data_source, target.schema_name, d.*, NULL::jsonb FROM kessel._drift_of(target, answer.values[5], drift.ignore) d;
                GET DIAGNOSTICS differences = ROW_COUNT;
                counts := counts || jsonb_build_object(answer.n::text, differences);
            END IF;
        EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation OR program_limit_exceeded THEN
            -- What it has sent is no list of lines.
            answer.error := kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
        END;
        targets[answer.n].error := answer.error;
    END LOOP;

    RETURN QUERY SELECT t.tenant, t.data_source, t.schema_name, NULL::integer, 'unknown', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, t.error
                 FROM unnest(targets) t WHERE t.error IS NOT NULL;
    INSERT INTO kessel.schema_checks AS c (data_source_id, schema_name, fingerprint, differences, error)
    SELECT t.data_source_id, t.schema_name, t.fingerprint, CASE WHEN t.error IS NULL THEN coalesce((counts ->> t.n::text)::integer, 0) END, t.error FROM unnest(targets) t
    ON CONFLICT (data_source_id, schema_name) DO UPDATE
        SET fingerprint = excluded.fingerprint, differences = excluded.differences, error = excluded.error, checked_at = clock_timestamp();
END
$$;

CREATE FUNCTION kessel._check_drift(blueprint text, max_parallel integer, timeout interval) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel._fleet_blueprint(blueprint);
    IF max_parallel IS NULL OR max_parallel NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_parallel must be between 1 and 1000' USING ERRCODE = 'invalid_parameter_value';
    ELSIF timeout < '1 ms' OR timeout > '30 days' THEN
        RAISE EXCEPTION 'timeout must be between one millisecond and 30 days' USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL is no limit.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._check_drift(text, integer, interval), kessel.drift(text, text[], text[], integer, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.drift(text, text[], text[], integer, interval) TO kessel_admin;
COMMENT ON FUNCTION kessel.drift(text, text[], text[], integer, interval) IS
    'Compares each target''s schema, a tenant''s or one that tenants share (tenant NULL), with what the migrations that are recorded there make, of all blueprints. No line: it is the same. A line for each difference: missing, unexpected or different; '
    'kind, object, expected and actual definition; mend, SQL that changes that, NULL with the reason in note. One target''s, run in the order of step in one transaction, bring it back; what destroys data begins with /* destroys data */. '
    'difference unknown: that target could not be compared, error says why ({"sqlstate", "message", "detail", "hint"}; KR014: it has migrations that are not known here; 55000: the blueprint was never applied there, or a migration is under way). '
    'tenants: slugs or ids; NULL: all. ignore: patterns of LIKE for kind and object, such as ''index orders.tmp%''. max_parallel: 1 to 1000; timeout: for each target and query; NULL: no limit. What was found is kept in kessel.schema_checks. '
    'Works as the credential for the purpose owner; where no target of the kind was compared before, it makes a scratch schema there for a moment and rolls it back. A target that is behind is no difference. '
    'Errors: 42704 unknown blueprint, 42809 one for this database, KR002 unknown tenant, 22004, 22023. For kessel_admin';

-- What migrations mean for the router: new tenants get them, and router tables
-- follow them.

-- ---------- new tenants ----------

-- A schema with nothing in it that has a record was dropped and made again: the
-- record is that of the one before.
CREATE FUNCTION kessel._forget_empty_schema(data_source_id uuid, schema_name text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT r[1]::boolean FROM kessel._remote_query(data_source_id, 'owner',
            'SELECT pg_catalog.to_regclass(''kessel_agent.migrations'') IS NOT NULL AND NOT EXISTS ('
            'SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)', ARRAY[schema_name]) r) THEN
        PERFORM kessel._remote_query(data_source_id, 'owner', 'DELETE FROM kessel_agent.migrations WHERE schema_name = $1', ARRAY[schema_name]);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._forget_empty_schema(uuid, text) FROM PUBLIC;

-- Brings a new tenant's place to the versions that the fleet is meant to have, and
-- returns how many migrations that took. They are committed there at once: if the
-- tenant's transaction rolls back here, the place has them, which the next one to
-- ask finds out. Holds the versions as they are until that transaction ends, so
-- that a run of the fleet, which raises them before it looks for late comers,
-- misses none; and the migrations up to them, not those that come after.
CREATE FUNCTION kessel._migrate_new_tenant(tenant_id uuid) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record;
    wanted record;
    news record;
    heard boolean;
    looked boolean := false;
    applied integer := 0;
BEGIN
    SELECT g.* INTO STRICT place FROM kessel._targets(ARRAY[tenant_id]) g;
    FOR wanted IN
        SELECT b.name, b.version FROM kessel.blueprints b
        WHERE b.applies_to = 'data_sources' AND b.for_new_tenants ORDER BY b.name FOR KEY SHARE
    LOOP
        CONTINUE WHEN wanted.version = 0 OR EXISTS (
            SELECT FROM kessel.migration_targets k
            WHERE k.data_source_id = place.data_source_id AND k.schema_name = place.schema_name AND k.blueprint = wanted.name
              AND k.version >= wanted.version AND k.trying IS NULL);
        IF NOT looked AND EXISTS (SELECT FROM app.tenants t WHERE t.id = tenant_id AND t.isolation = 'schema') THEN
            PERFORM kessel._forget_empty_schema(place.data_source_id, place.schema_name);
        END IF;
        looked := true;
        PERFORM kessel._migration_begin(gen_random_uuid(), wanted.name, 'up', wanted.version, false, 1, '5 min', '2 s', 5,
                                        ARRAY[place.data_source_id], ARRAY[place.schema_name]);
        LOOP
            heard := false;
            FOR news IN SELECT * FROM kessel._migration_next('500 ms') LOOP
                heard := true;
                IF news.news IN ('failed', 'unknown') THEN
                    RAISE EXCEPTION 'blueprint "%" cannot be applied in data source "%", schema "%": %', wanted.name, place.data_source, place.schema_name, news.error ->> 'message'
                        USING ERRCODE = news.error ->> 'sqlstate', DETAIL = concat_ws(E'\n', news.error ->> 'detail', 'In migration ' || (news.error ->> 'migration') || '.'),
                              HINT = coalesce(news.error ->> 'hint', 'A new tenant gets every blueprint with for_new_tenants; SELECT * FROM kessel.plan_migration() shows what is to be applied.');
                ELSIF news.news = 'done' THEN
                    applied := applied + news.applied;
                    INSERT INTO kessel.migration_targets AS k (data_source_id, schema_name, blueprint, version)
                    VALUES (place.data_source_id, place.schema_name, wanted.name, news.version)
                    ON CONFLICT ON CONSTRAINT migration_targets_pkey DO UPDATE
                    SET version = excluded.version, trying = NULL, error = NULL, last_run = NULL, updated_at = clock_timestamp();
                END IF;
            END LOOP;
            EXIT WHEN NOT heard AND kessel._migration_open() = 0;
        END LOOP;
    END LOOP;
    RETURN applied;
END
$$;
REVOKE ALL ON FUNCTION kessel._migrate_new_tenant(uuid) FROM PUBLIC;

-- A tenant's place is looked at, brought up to date, and where tables came that
-- tenants share, looked at again.
CREATE FUNCTION kessel._settle_tenant(tenant_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel._attach_tenant(tenant_id);
    IF kessel._migrate_new_tenant(tenant_id) > 0 THEN
        PERFORM kessel._attach_tenant(tenant_id);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._settle_tenant(uuid) FROM PUBLIC;

-- ---------- router tables ----------

CREATE TABLE kessel.exposed (
    blueprint    text COLLATE "C" NOT NULL REFERENCES kessel.blueprints ON UPDATE CASCADE ON DELETE CASCADE,
    local_schema name NOT NULL,
    tables       text[],
    made         text[] NOT NULL DEFAULT '{}',
    exposed_by   name NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (blueprint, local_schema)
);
COMMENT ON TABLE kessel.exposed IS 'Which blueprints'' tables are router tables here. Written by kessel.expose and kessel.unexpose.';
COMMENT ON COLUMN kessel.exposed.tables IS 'Names of tables and views; NULL: all that the blueprint''s migrations make';
COMMENT ON COLUMN kessel.exposed.made IS 'The router tables there that follow the blueprint';
COMMENT ON COLUMN kessel.exposed.exposed_by IS 'Who has called kessel.expose() last: as that role the router tables are brought up to date';
SELECT pg_catalog.pg_extension_config_dump('kessel.exposed', '');
CREATE TRIGGER touch BEFORE UPDATE ON kessel.exposed FOR EACH ROW EXECUTE FUNCTION kessel._touch();
ALTER TABLE kessel.exposed ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON kessel.exposed FOR SELECT TO kessel_admin USING (true);
GRANT SELECT ON kessel.exposed TO kessel_admin;

CREATE FUNCTION kessel._script_relations(script text) RETURNS TABLE (action text, name text, new_name text)
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_relations';
REVOKE ALL ON FUNCTION kessel._script_relations(text) FROM PUBLIC;

-- Tables and views that a blueprint has at a version, by the text of its migrations.
CREATE FUNCTION kessel._blueprint_relations(blueprint text, version integer) RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[] := '{}';
    step record;
BEGIN
    FOR step IN
        SELECT r.* FROM kessel.migrations m CROSS JOIN LATERAL kessel._script_relations(m.up) WITH ORDINALITY r
        WHERE m.blueprint = _blueprint_relations.blueprint AND m.version <= _blueprint_relations.version
        ORDER BY m.version, r.ordinality
    LOOP
        CASE WHEN step.action = 'drop' THEN
            names := array_remove(names, step.name);
        WHEN step.action = 'create' THEN
            names := array_remove(names, step.name) || step.name;
        ELSE
            names := array_replace(names, step.name, step.new_name);
        END CASE;
    END LOOP;
    RETURN names;
END
$$;
REVOKE ALL ON FUNCTION kessel._blueprint_relations(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._blueprint_relations(text, integer) TO kessel_admin;

-- Where the blueprint's tables can be looked at: places that have its version. Those
-- that tenants share come first: import_tables() leaves their tenant column out,
-- which a router table for all kinds of places must not have.
CREATE FUNCTION kessel._expose_places(blueprint text) RETURNS TABLE (data_source text, schema_name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.data_source, g.schema_name
    FROM kessel._targets(NULL) g
         JOIN kessel.migration_targets k ON k.data_source_id = g.data_source_id AND k.schema_name = g.schema_name
         JOIN kessel.blueprints b ON b.name = k.blueprint
         JOIN app.data_sources s ON s.id = g.data_source_id
    WHERE b.name = _expose_places.blueprint AND k.version = b.version AND k.trying IS NULL AND NOT g.disabled
    ORDER BY s.isolation = 'row' DESC, g.first_tenant COLLATE "C" NULLS LAST, g.data_source, g.schema_name LIMIT 3
$$;
REVOKE ALL ON FUNCTION kessel._expose_places(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._expose_places(text) TO kessel_admin;

-- As whom the tables are exposed: the role of SET ROLE or of the login, or the one
-- that kessel._refresh_exposed_as() acts as.
CREATE FUNCTION kessel._expose_role() RETURNS name
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_expose_role';
REVOKE ALL ON FUNCTION kessel._expose_role() FROM PUBLIC;

-- Remembers what is exposed, and by whom. Of the tables that are named, those count
-- that are router tables there.
CREATE FUNCTION kessel._expose_remember(blueprint text, local_schema name, tables text[], made text[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO kessel.exposed AS e (blueprint, local_schema, tables, made, exposed_by)
    SELECT _expose_remember.blueprint, _expose_remember.local_schema, _expose_remember.tables, coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}'),
           kessel._expose_role()
    FROM pg_class c
         JOIN pg_foreign_table f ON f.ftrelid = c.oid
         JOIN pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'kessel_router'
         JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = _expose_remember.local_schema
    WHERE c.relname = ANY (_expose_remember.made)
    ON CONFLICT ON CONSTRAINT exposed_pkey DO UPDATE SET tables = excluded.tables, made = excluded.made, exposed_by = excluded.exposed_by
    WHERE (e.tables, e.made, e.exposed_by) IS DISTINCT FROM (excluded.tables, excluded.made, excluded.exposed_by)
$$;
REVOKE ALL ON FUNCTION kessel._expose_remember(text, name, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._expose_remember(text, name, text[], text[]) TO kessel_admin;

-- Makes the router tables of one schema what the blueprint is now, as the caller.
CREATE FUNCTION kessel._expose_refresh(exposed kessel.exposed) RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    version integer := (SELECT b.version FROM kessel.blueprints b WHERE b.name = exposed.blueprint);
    wanted text[] := CASE WHEN version > 0 THEN coalesce(exposed.tables, kessel._blueprint_relations(exposed.blueprint, version)) ELSE '{}' END;
    usable text[] := '{}';
    place record;
    failure text;
    name text;
BEGIN
    IF wanted <> '{}' THEN
        FOR place IN SELECT * FROM kessel._expose_places(exposed.blueprint) LOOP
            BEGIN
                usable := ARRAY(SELECT r #>> '{}' FROM jsonb_path_query(
                    kessel._describe_source(place.data_source, place.schema_name, wanted, NULL), '$.relations[*].name') r);
                failure := NULL;
                EXIT;
            EXCEPTION WHEN connection_exception THEN
                failure := SQLERRM;
            END;
        END LOOP;
        IF place IS NULL OR failure IS NOT NULL THEN
            RAISE EXCEPTION 'no data source can show the tables of blueprint "%"', exposed.blueprint
                USING ERRCODE = 'KR005', DETAIL = coalesce(failure, format('None is known to have version %s.', version)),
                      HINT = format('CALL kessel.migrate(%L) makes sure that they have it.', exposed.blueprint);
        END IF;
        IF usable <> '{}' THEN
            RETURN QUERY SELECT * FROM kessel.import_tables(place.data_source, place.schema_name, exposed.local_schema, usable);
        END IF;
        RETURN QUERY
        SELECT 'missing', format('table %I.%I', exposed.local_schema, w.name),
               format('Schema "%s" of data source "%s" has none that the runtime role may use.', place.schema_name, place.data_source)
        FROM unnest(wanted) WITH ORDINALITY AS w (name, o) WHERE w.name <> ALL (usable) ORDER BY w.o;
    END IF;

    -- What it does not have any more. Nothing that depends on one goes with it.
    FOREACH name IN ARRAY exposed.made LOOP
        CONTINUE WHEN name = ANY (CASE WHEN exposed.tables IS NULL THEN wanted ELSE usable END) OR NOT EXISTS (
            SELECT FROM pg_class c JOIN pg_foreign_table f ON f.ftrelid = c.oid
                   JOIN pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'kessel_router'
                   JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = exposed.local_schema
            WHERE c.relname = name);
        EXECUTE format('DROP FOREIGN TABLE %I.%I', exposed.local_schema, name);
        action := 'dropped'; object := format('table %I.%I', exposed.local_schema, name); detail := NULL; RETURN NEXT;
    END LOOP;
    PERFORM kessel._expose_remember(exposed.blueprint, exposed.local_schema, exposed.tables, exposed.made || usable);
END
$$;
REVOKE ALL ON FUNCTION kessel._expose_refresh(kessel.exposed) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._expose_refresh(kessel.exposed) TO kessel_admin;

CREATE FUNCTION kessel.expose(blueprint text, local_schema text DEFAULT 'data', tables text[] DEFAULT NULL) RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    exposed kessel.exposed;
    version integer;
BEGIN
    IF blueprint IS NULL OR local_schema IS NULL OR array_position(tables, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint, local_schema and names of tables must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    version := (kessel._fleet_blueprint(blueprint)).version;
    IF version = 0 THEN
        RAISE EXCEPTION 'blueprint "%" has not been applied to all tenants', blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Router tables are for all tenants, and made once a run for all has brought them the tables.',
                  HINT = format('CALL kessel.migrate(%L), without tenants, is one.', blueprint);
    END IF;
    IF tables IS NULL AND kessel._blueprint_relations(blueprint, version) = '{}' THEN
        RAISE EXCEPTION 'the migrations of blueprint "%" show no table', blueprint
            USING ERRCODE = 'undefined_table', DETAIL = 'What functions and DO blocks make does not show.',
                  HINT = 'Name the tables: tables => ''{...}''.';
    END IF;
    exposed.blueprint := blueprint;
    exposed.local_schema := local_schema;
    exposed.tables := tables;
    exposed.made := coalesce((SELECT e.made FROM kessel.exposed e WHERE e.blueprint = expose.blueprint AND e.local_schema = expose.local_schema::name), '{}');
    RETURN QUERY SELECT * FROM kessel._expose_refresh(exposed);
END
$$;
REVOKE ALL ON FUNCTION kessel.expose(text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.expose(text, text, text[]) TO kessel_admin;
COMMENT ON FUNCTION kessel.expose(text, text, text[]) IS
    'Makes router tables in local_schema of the tables and views that a blueprint''s migrations make, by kessel.import_tables() from a place that has the version of the fleet, and has every later kessel.migrate() and kessel.rollback() of all tenants bring them up to date. '
    'tables: their names, where migrations make them in functions or DO blocks, or not all are wanted; NULL: what CREATE TABLE, CREATE VIEW and their like make in the scripts. '
    'Rows as kessel.import_tables(), and missing: the runtime role may not use it, dropped: the blueprint has it no more. What is made belongs to the caller, as whom those calls act then: '
    'one whose caller may not become this role leaves them as they are, with a WARNING. '
    'Errors: those of kessel.import_tables(), 42704 no such blueprint, 55000 no run for all tenants has applied it, 42P01 its scripts show no table, KR005 no place can be asked. For kessel_admin';

CREATE FUNCTION kessel.unexpose(blueprint text, local_schema text DEFAULT 'data') RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM kessel.exposed e WHERE e.blueprint = unexpose.blueprint AND e.local_schema = unexpose.local_schema::name;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION kessel.unexpose(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.unexpose(text, text) TO kessel_admin;
COMMENT ON FUNCTION kessel.unexpose(text, text) IS
    'Router tables in local_schema follow the blueprint no more; they stay as they are. False if they did not. For kessel_admin';

-- One schema's, and what has changed as notices.
CREATE FUNCTION kessel._refresh_exposed_one(exposed kessel.exposed) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change record;
BEGIN
    FOR change IN SELECT * FROM kessel._expose_refresh(exposed) r WHERE r.action <> 'unchanged' LOOP
        RAISE NOTICE '%: %', change.object, concat_ws(', ', change.action, change.detail);
    END LOOP;
END
$$;

-- The same with that role's rights, from which nothing that runs there can come back
-- to the caller's. 42501: the caller may not become it.
CREATE FUNCTION kessel._refresh_exposed_as(role name, exposed kessel.exposed) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_expose_refresh_as';

-- At the end of a run of the whole fleet, which what fails here does not undo. As
-- the role that has exposed the tables, if the caller may become it, never with more
-- rights than it has.
CREATE FUNCTION kessel._refresh_exposed(blueprint text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    exposed kessel.exposed;
    why text;
    hint text;
BEGIN
    FOR exposed IN SELECT * FROM kessel.exposed e WHERE e.blueprint = _refresh_exposed.blueprint ORDER BY e.local_schema LOOP
        BEGIN
            PERFORM kessel._refresh_exposed_as(exposed.exposed_by, exposed);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RAISE WARNING 'router tables of blueprint "%" in schema "%" were not brought up to date: %', blueprint, exposed.local_schema, SQLERRM
                USING ERRCODE = SQLSTATE, DETAIL = concat_ws(' ', 'The migrations are done.', nullif(why, ''), nullif(hint, '')),
                      HINT = format('Once that is mended: SELECT * FROM kessel.expose(%L, %L%s), as %s.', blueprint, exposed.local_schema,
                                    CASE WHEN exposed.tables IS NOT NULL THEN format(', %L', exposed.tables) ELSE '' END, exposed.exposed_by);
        END;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel._refresh_exposed(text), kessel._refresh_exposed_as(name, kessel.exposed), kessel._refresh_exposed_one(kessel.exposed) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._refresh_exposed(text), kessel._refresh_exposed_as(name, kessel.exposed), kessel._refresh_exposed_one(kessel.exposed) TO kessel_admin;

-- Blueprints: named, versioned sets of migrations, for the infra database or for
-- data sources.

CREATE TABLE kessel.blueprints (
    name            text COLLATE "C" PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^[a-z][a-z0-9_]{0,62}$'),
    description     text,
    applies_to      text NOT NULL CHECK (applies_to IN ('infra', 'data_sources')),
    for_new_tenants boolean NOT NULL DEFAULT true,
    version         integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    requires        text[] COLLATE "C" NOT NULL DEFAULT '{}',
    built_in        boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE kessel.blueprints IS 'Named sets of migrations. Written by kessel.add_blueprint and kessel.drop_blueprint.';
COMMENT ON COLUMN kessel.blueprints.applies_to IS 'infra: this database, see kessel.setup(); data_sources: where tenants'' data is, see kessel.migrate()';
COMMENT ON COLUMN kessel.blueprints.for_new_tenants IS 'data_sources: a new tenant''s place is brought to version when the tenant is created';
COMMENT ON COLUMN kessel.blueprints.version IS 'data_sources: the version that the whole fleet is meant to have, which the last migration or rollback of all tenants has set; 0: none';
COMMENT ON COLUMN kessel.blueprints.requires IS 'infra: other blueprints, which kessel.setup() applies before';
COMMENT ON COLUMN kessel.blueprints.built_in IS 'comes with the extension, and is not part of a dump';

CREATE TABLE kessel.migrations (
    blueprint     text COLLATE "C" NOT NULL REFERENCES kessel.blueprints ON UPDATE CASCADE ON DELETE CASCADE,
    version       integer NOT NULL CHECK (version > 0),
    name          text NOT NULL CHECK (name OPERATOR(pg_catalog.~) '^[0-9]{1,9}_[a-z0-9_]{1,100}$'),
    up            text NOT NULL,
    down          text,
    transactional boolean NOT NULL DEFAULT true,
    checksum      text NOT NULL,
    author        name,
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (blueprint, version)
);
COMMENT ON TABLE kessel.migrations IS 'The migrations of each blueprint. Written by kessel.add_migration.';
COMMENT ON COLUMN kessel.migrations.version IS 'The number with which the name begins; migrations run in its order';
COMMENT ON COLUMN kessel.migrations.down IS 'What takes it back; NULL: nothing does';
COMMENT ON COLUMN kessel.migrations.transactional IS 'false: its statements run one by one, each committed alone, as CREATE INDEX CONCURRENTLY has to';
COMMENT ON COLUMN kessel.migrations.checksum IS 'SHA-256 of up in UTF-8, 64 hexadecimal digits';
COMMENT ON COLUMN kessel.migrations.author IS 'The role that has written it last; kessel.setup() runs it for that role and those that the role could become. NULL: it comes with the extension';

CREATE TABLE kessel.applied_migrations (
    blueprint  text COLLATE "C" NOT NULL,
    version    integer NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    applied_by name NOT NULL DEFAULT session_user,
    PRIMARY KEY (blueprint, version)
);
COMMENT ON TABLE kessel.applied_migrations IS 'What was migrated in this database. Written by kessel.setup and kessel.teardown.';

CREATE TABLE kessel.setup_objects (
    schema_name text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    path        text[] COLLATE "C" NOT NULL,
    definition  text NOT NULL,
    ord         bigint NOT NULL,
    needs       text[],
    blueprint   text COLLATE "C" NOT NULL,
    version     integer NOT NULL,
    made_by     name NOT NULL,
    rows        bigint NOT NULL DEFAULT 0,
    server      text COLLATE "C" NOT NULL,
    PRIMARY KEY (schema_name, kind, path)
);
COMMENT ON TABLE kessel.setup_objects IS 'What the migrations of this database have made, for kessel.setup_drift to compare with. Written by kessel.setup and kessel.teardown.';
COMMENT ON COLUMN kessel.setup_objects.path IS 'Its names, without the schema; of owner and comment behind the kind of object, of grants behind the grantee, too';
COMMENT ON COLUMN kessel.setup_objects.ord IS 'Order in which things were made';
COMMENT ON COLUMN kessel.setup_objects.needs IS 'Relations that it stands on, as far as the order of mending depends on them';
COMMENT ON COLUMN kessel.setup_objects.version IS 'Of the migration that has made it';
COMMENT ON COLUMN kessel.setup_objects.made_by IS 'With whose rights';
COMMENT ON COLUMN kessel.setup_objects.rows IS 'tables: how many rows the migrations have put in';
COMMENT ON COLUMN kessel.setup_objects.server IS 'Which PostgreSQL has written the definition: major version, system identifier, OID of the database';

SELECT pg_catalog.pg_extension_config_dump('kessel.blueprints', 'WHERE NOT built_in');
SELECT pg_catalog.pg_extension_config_dump('kessel.migrations', 'WHERE blueprint IN (SELECT b.name FROM kessel.blueprints b WHERE NOT b.built_in)');
SELECT pg_catalog.pg_extension_config_dump('kessel.applied_migrations', '');
SELECT pg_catalog.pg_extension_config_dump('kessel.setup_objects', '');

CREATE TRIGGER touch BEFORE UPDATE ON kessel.blueprints FOR EACH ROW EXECUTE FUNCTION kessel._touch();
ALTER TABLE kessel.blueprints ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.applied_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.setup_objects ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON kessel.blueprints FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.migrations FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.applied_migrations FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.setup_objects FOR SELECT TO kessel_admin USING (true);
GRANT SELECT ON kessel.blueprints, kessel.migrations, kessel.applied_migrations, kessel.setup_objects TO kessel_admin;

-- ---------- scripts ----------

-- Errors: 42601 what cannot be parsed, 2D000 transaction control, 0A000 COPY FROM
-- STDIN and TO STDOUT.
CREATE FUNCTION kessel._script_statements(script text, what text)
RETURNS TABLE (line integer, sql text, alone text, unnamed_index boolean)
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_statements';

CREATE FUNCTION kessel._script_place(script text, schema_name text, runtime text) RETURNS text
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'kr_script_placed';

-- ---------- where a blueprint was applied ----------

-- Places that have a version or may have it; of this database the place is NULL.
CREATE FUNCTION kessel._applied_places(blueprint text, from_version integer)
RETURNS TABLE (place text, version integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NULL, max(a.version)
    FROM kessel.applied_migrations a
    WHERE a.blueprint = _applied_places.blueprint AND a.version >= from_version
    HAVING count(*) > 0
    UNION ALL
    SELECT format('schema "%s" of data source "%s"', t.schema_name, s.name), greatest(t.version, t.trying)
    FROM kessel.migration_targets t
    JOIN app.data_sources s ON s.id = t.data_source_id
    WHERE t.blueprint = _applied_places.blueprint AND greatest(t.version, t.trying) >= from_version
$$;

-- Those in words; NULL: nowhere.
CREATE FUNCTION kessel._applied_where(blueprint text, from_version integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 THEN NULL
                ELSE format('It was applied in %s%s.',
                            coalesce((array_agg(p.place ORDER BY p.version DESC, p.place))[1], 'this database'),
                            CASE WHEN count(*) > 1 THEN format(' and in %s more', count(*) - 1) ELSE '' END)
           END
    FROM kessel._applied_places(blueprint, from_version) p
$$;

-- ---------- blueprints ----------

-- Locked against other changes of it and its migrations until the transaction ends.
CREATE FUNCTION kessel._blueprint(name text) RETURNS kessel.blueprints
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found kessel.blueprints;
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'the blueprint is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT * INTO found FROM kessel.blueprints b WHERE b.name = _blueprint.name FOR NO KEY UPDATE;
    IF found.name IS NULL THEN
        RAISE EXCEPTION 'blueprint "%" does not exist', name
            USING ERRCODE = 'undefined_object', HINT = 'kessel.add_blueprint() makes one; SELECT name FROM kessel.blueprints lists those that there are.';
    END IF;
    RETURN found;
END
$$;

-- Tenants that are being created get the migrations that the fleet has, and keep the
-- blueprint from this lock, not from _blueprint()'s: whoever changes one of those
-- waits until it is known where they are applied.
CREATE FUNCTION kessel._await_new_tenants(name text, version integer) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM kessel.blueprints b WHERE b.name = _await_new_tenants.name AND b.version >= _await_new_tenants.version FOR UPDATE;
END
$$;

-- A run has read the migrations. It locks the blueprint's row when it has its own
-- lock, so with ours of _blueprint() either it waits for us or we find it.
CREATE FUNCTION kessel._check_not_running(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder integer := kessel._run_holder(name);
BEGIN
    IF holder IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint "%" is being migrated', name
            USING ERRCODE = 'object_in_use', DETAIL = format('Process %s is at it. Meanwhile migrations can be added only.', holder),
                  HINT = 'SELECT * FROM kessel.migration_progress shows how far it is. Wait for it.';
    END IF;
END
$$;

-- The blueprint itself and what it needs, in the order of setup; an error where it
-- needs itself.
CREATE FUNCTION kessel._required(names text[]) RETURNS TABLE (name text, ordinal integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE need (name, depth) AS (
        SELECT unnest(names) COLLATE "C", 0
        UNION
        SELECT unnest(b.requires), n.depth + 1
        FROM need n
        JOIN kessel.blueprints b ON b.name = n.name
        WHERE n.depth <= (SELECT count(*) FROM kessel.blueprints)
    )
    SELECT n.name, (row_number() OVER (ORDER BY max(n.depth) DESC, n.name))::integer
    FROM need n
    GROUP BY n.name
$$;

CREATE FUNCTION kessel._check_requires(blueprint text, applies_to text, requires text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text;
    other kessel.blueprints;
BEGIN
    IF applies_to <> 'infra' AND requires <> '{}' THEN
        RAISE EXCEPTION 'a blueprint for data sources cannot require others'
            USING ERRCODE = 'feature_not_supported', HINT = 'Migrate with the one first, then with the other.';
    END IF;
    FOREACH wanted IN ARRAY requires LOOP
        IF wanted IS NULL THEN
            RAISE EXCEPTION 'a blueprint that is required is NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        SELECT * INTO other FROM kessel.blueprints b WHERE b.name = wanted;
        IF other.name IS NULL THEN
            RAISE EXCEPTION 'blueprint "%" does not exist', wanted
                USING ERRCODE = 'undefined_object', HINT = 'Add it before the one that requires it.';
        END IF;
        IF other.applies_to <> 'infra' THEN
            RAISE EXCEPTION 'blueprint "%" is for data sources', wanted
                USING ERRCODE = 'invalid_parameter_value', DETAIL = 'One for the infra database can require those for the infra database only.';
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM kessel._required(requires) r WHERE r.name = blueprint) THEN
        RAISE EXCEPTION 'blueprint "%" would require itself', blueprint
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is among %s and what they require.', array_to_string(requires, ', '));
    END IF;
END
$$;

CREATE FUNCTION kessel.add_blueprint(name text, description text DEFAULT NULL, applies_to text DEFAULT 'data_sources',
    for_new_tenants boolean DEFAULT true, requires text[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old kessel.blueprints;
BEGIN
    IF name IS NULL OR applies_to IS NULL OR for_new_tenants IS NULL OR requires IS NULL THEN
        RAISE EXCEPTION 'only the description may be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF name !~ '^[a-z][a-z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'invalid name of a blueprint "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A name has 1 to 63 characters: lowercase letters, digits and underscores, beginning with a letter.';
    END IF;
    IF applies_to NOT IN ('infra', 'data_sources') THEN
        RAISE EXCEPTION 'a blueprint cannot apply to "%"', applies_to
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It applies to ''data_sources'', where tenants'' data is, or to ''infra'', this database.';
    END IF;

    -- Two that come to require each other at once would not see it.
    IF requires <> '{}' THEN
        LOCK TABLE kessel.blueprints IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    INSERT INTO kessel.blueprints AS b (name, description, applies_to, for_new_tenants)
    VALUES (add_blueprint.name, add_blueprint.description, add_blueprint.applies_to, add_blueprint.for_new_tenants)
    ON CONFLICT ON CONSTRAINT blueprints_pkey DO NOTHING;
    old := kessel._blueprint(name);
    IF old.built_in THEN
        RAISE EXCEPTION 'blueprint "%" comes with the extension', name
            USING ERRCODE = 'duplicate_object', HINT = 'Choose another name.';
    END IF;
    IF old.applies_to <> applies_to AND EXISTS (SELECT FROM kessel.migrations m WHERE m.blueprint = old.name) THEN
        RAISE EXCEPTION 'blueprint "%" exists and applies to %', name, old.applies_to
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'It has migrations, which were written for that.', HINT = 'Choose another name.';
    END IF;
    PERFORM kessel._check_requires(name, applies_to, requires);
    UPDATE kessel.blueprints b
    SET description = coalesce(add_blueprint.description, old.description), applies_to = add_blueprint.applies_to,
        for_new_tenants = add_blueprint.for_new_tenants, requires = add_blueprint.requires
    WHERE b.name = old.name
      AND (b.description, b.applies_to, b.for_new_tenants, b.requires)
          IS DISTINCT FROM (coalesce(add_blueprint.description, old.description), add_blueprint.applies_to, add_blueprint.for_new_tenants, add_blueprint.requires);
END
$$;
COMMENT ON FUNCTION kessel.add_blueprint(text, text, text, boolean, text[]) IS
    'Makes a named set of migrations, which kessel.add_migration() adds; of one that exists it changes what is said here, and a description of NULL stays. '
    'name: 1 to 63 lowercase letters, digits and underscores. applies_to: data_sources, see kessel.migrate(), or infra, this database, see kessel.setup(). '
    'for_new_tenants: a new tenant''s place is brought to the current version. requires: of infra, blueprints that are set up before it. '
    'Errors: 22004 NULL, 22023 bad name, applies_to or circle of requirements, 42704 one that is required does not exist, 0A000 requirements of one for data sources, '
    '42710 one that comes with the extension, 55000 applies_to of one that has migrations. For kessel_admin';

CREATE FUNCTION kessel.drop_blueprint(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old kessel.blueprints := kessel._blueprint(name);
    place text := kessel._applied_where(name, 1);
    other text;
BEGIN
    IF old.built_in THEN
        RAISE EXCEPTION 'blueprint "%" comes with the extension', name USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF place IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint "%" is in use', name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = place,
                  HINT = CASE old.applies_to WHEN 'infra' THEN format('SELECT * FROM kessel.teardown(%L) takes back what it has made.', name)
                              ELSE format('CALL kessel.rollback(%L, 0) takes back what it has made.', name) END;
    END IF;
    PERFORM kessel._check_not_running(name);
    SELECT b.name INTO other FROM kessel.blueprints b WHERE old.name = ANY (b.requires) ORDER BY 1 LIMIT 1;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint "%" is in use', name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Blueprint "%s" requires it.', other), HINT = 'Drop that one first.';
    END IF;
    DELETE FROM kessel.blueprints b WHERE b.name = old.name;
END
$$;
COMMENT ON FUNCTION kessel.drop_blueprint(text) IS
    'Forgets a blueprint and its migrations. Errors: 22004 NULL, 42704 it does not exist, 55000 it was applied somewhere, another one requires it, or it comes with the extension, 55006 it is being migrated. For kessel_admin';

-- ---------- migrations ----------

-- What is in both scripts, and whether they can run as the blueprint's are run.
CREATE FUNCTION kessel._check_script(blueprint kessel.blueprints, name text, script text, what text, transactional boolean) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    statement record;
    how_many integer := 0;
    whole text := format('%s script of migration "%s" of blueprint "%s"', what, name, blueprint.name);
BEGIN
    FOR statement IN SELECT * FROM kessel._script_statements(script, whole) LOOP
        how_many := how_many + 1;
        IF statement.alone IS NOT NULL AND transactional THEN
            RAISE EXCEPTION '% cannot run in a transaction', statement.alone
                USING ERRCODE = 'active_sql_transaction', DETAIL = format('It is in line %s of the %s.', statement.line, whole),
                      HINT = CASE blueprint.applies_to
                             WHEN 'infra' THEN 'In the infra database all migrations do: write a form that can, or run it beside kessel.setup().'
                             ELSE 'Add the migration with transactional => false, or let its file begin with the line "-- kessel: non-transactional": then its statements run and are committed one by one. Write them so that they can be run again.' END;
        END IF;
        IF statement.unnamed_index THEN
            RAISE EXCEPTION 'CREATE INDEX CONCURRENTLY needs a name for the index'
                USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is in line %s of the %s.', statement.line, whole),
                      HINT = 'By its name an index is found that an earlier attempt has left invalid.';
        END IF;
    END LOOP;
    RETURN how_many;
END
$$;

-- The version in a migration's name.
CREATE FUNCTION kessel._version_of(name text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    version integer;
BEGIN
    IF name ~ '^[0-9]{1,9}_[a-z0-9_]{1,100}$' THEN
        version := split_part(name, '_', 1)::integer;
    END IF;
    IF version IS NULL OR version = 0 THEN
        RAISE EXCEPTION 'invalid name of a migration "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A name is a version from 1 to 999999999, an underscore, and 1 to 100 lowercase letters, digits and underscores.',
                  HINT = 'As 0001_accounts.';
    END IF;
    RETURN version;
END
$$;

-- May what a role has written run as another one? If it could become that one, it
-- could run it itself.
CREATE FUNCTION kessel._may_write_for(author name, runner name) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_roles a, pg_roles r WHERE a.rolname = author AND r.rolname = runner AND pg_has_role(a.oid, r.oid, 'MEMBER'))
$$;

CREATE FUNCTION kessel._change_migration(old kessel.migrations, up text, down text, transactional boolean, author name) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place text;
BEGIN
    IF old.up = up AND old.down IS NOT DISTINCT FROM down AND old.transactional = transactional THEN
        -- Whoever could become its author vouches for it by adding it again.
        UPDATE kessel.migrations m SET author = _change_migration.author
        WHERE m.blueprint = old.blueprint AND m.version = old.version AND m.author <> _change_migration.author
          AND (kessel._may_write_for(_change_migration.author, m.author) OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = m.author));
        RETURN;
    END IF;
    PERFORM kessel._check_not_running(old.blueprint);
    IF old.up <> up THEN
        PERFORM kessel._await_new_tenants(old.blueprint, old.version);
        place := kessel._applied_where(old.blueprint, old.version);
        IF place IS NOT NULL THEN
            RAISE EXCEPTION 'migration "%" of blueprint "%" was applied already and cannot be changed', old.name, old.blueprint
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = place,
                      HINT = 'Add another migration that changes what this one has made. What takes it back, down, can be changed.';
        END IF;
    END IF;
    UPDATE kessel.migrations m
    SET up = _change_migration.up, down = _change_migration.down, transactional = _change_migration.transactional,
        author = _change_migration.author, checksum = kessel._checksum(_change_migration.up)
    WHERE m.blueprint = old.blueprint AND m.version = old.version;
END
$$;

CREATE FUNCTION kessel._checksum(script text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$ SELECT encode(sha256(convert_to(script, 'UTF8')), 'hex') $$;

CREATE FUNCTION kessel._add_migration(of_blueprint text, name text, up text, down text, transactional boolean, author name) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    blueprint kessel.blueprints;
    new_version integer;
    old kessel.migrations;
    highest record;
BEGIN
    IF name IS NULL OR up IS NULL OR transactional IS NULL THEN
        RAISE EXCEPTION 'only down may be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    new_version := kessel._version_of(name);
    blueprint := kessel._blueprint(of_blueprint);
    IF blueprint.built_in THEN
        RAISE EXCEPTION 'blueprint "%" comes with the extension', blueprint.name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Add one of your own: SELECT kessel.add_blueprint(..., applies_to => %L, requires => %L).', 'infra', array[blueprint.name]);
    END IF;
    IF blueprint.applies_to = 'infra' AND NOT transactional THEN
        RAISE EXCEPTION 'a migration of the infra database runs in a transaction'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'kessel.setup() is a function, within the transaction of its caller.',
                  HINT = 'Write a form that can, as CREATE INDEX without CONCURRENTLY, or run it beside kessel.setup().';
    END IF;

    -- Blanks at the end are what editors and psql's backquotes differ in.
    up := rtrim(up, E' \t\r\n');
    down := nullif(rtrim(down, E' \t\r\n'), '');
    IF kessel._check_script(blueprint, name, up, 'up', transactional) = 0 THEN
        RAISE EXCEPTION 'migration "%" has no statement', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Was its file found?';
    END IF;
    PERFORM kessel._check_script(blueprint, name, coalesce(down, ''), 'down', transactional);

    SELECT * INTO old FROM kessel.migrations m WHERE m.blueprint = of_blueprint AND m.version = new_version;
    IF old.name IS NOT NULL THEN
        IF old.name <> name THEN
            RAISE EXCEPTION 'version % of blueprint "%" is "%"', new_version, of_blueprint, old.name
                USING ERRCODE = 'unique_violation', HINT = 'Give the other one the next number, or drop that one with kessel.drop_migration().';
        END IF;
        PERFORM kessel._change_migration(old, up, down, transactional, author);
        RETURN;
    END IF;

    PERFORM kessel._await_new_tenants(of_blueprint, new_version);
    SELECT p.version, kessel._applied_where(of_blueprint, p.version) AS place INTO highest
    FROM kessel._applied_places(of_blueprint, new_version) p ORDER BY p.version DESC LIMIT 1;
    IF highest.version IS NOT NULL THEN
        RAISE EXCEPTION 'migration "%" comes too late', name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('Version %s is there already. %s', highest.version, highest.place),
                  HINT = format('Give it a number above %s.', highest.version);
    END IF;
    INSERT INTO kessel.migrations (blueprint, version, name, up, down, transactional, checksum, author)
    VALUES (of_blueprint, new_version, name, up, down, transactional, kessel._checksum(up), author);
    IF down IS NULL THEN
        RAISE NOTICE 'migration "%" has no way back', name
            USING HINT = 'Add it again with down, also when it is applied already; if there is nothing to take back, with a comment that says so.';
    END IF;
END
$$;

CREATE FUNCTION kessel.add_migration(blueprint text, name text, up text, down text DEFAULT NULL, transactional boolean DEFAULT true) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_setup_add_migration';
COMMENT ON FUNCTION kessel.add_migration(text, text, text, text, boolean) IS
    'Adds a migration to a blueprint. name: its version, an underscore, and what it does, as 0003_add_index; migrations run in the order of their versions. up: SQL, any number of statements without BEGIN and COMMIT; '
    'down: what takes it back; NULL: nothing does. In both the identifier "@tenant" stands for the schema that is migrated and "@runtime" for the role that the router connects as, outside of literals and function bodies. '
    'transactional: false where PostgreSQL refuses a statement in a transaction, as CREATE INDEX CONCURRENTLY; the statements then run one by one, each committed alone, and again where they were cut off: write them so that they can. '
    'What is added again as it is stays; up can be changed while it is applied nowhere, down and transactional always. Blanks at the end of a script do not count. '
    'Errors: 22004 NULL, 22023 bad name, no statement, or an index made CONCURRENTLY without a name, 42704 no such blueprint, 42601 what does not parse, or a command of psql, 2D000 transaction control, '
    '0A000 COPY FROM STDIN or TO STDOUT, or transactional => false for the infra database, 25001 what cannot run in a transaction, 23505 another one has that version, '
    '55000 changed after it was applied, below a version that was applied, or the blueprint comes with the extension, 55006 changed while it is being migrated. For kessel_admin';

CREATE FUNCTION kessel.drop_migration(blueprint text, name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    within kessel.blueprints := kessel._blueprint(blueprint);
    old kessel.migrations;
    place text;
BEGIN
    SELECT * INTO old FROM kessel.migrations m WHERE m.blueprint = within.name AND m.name = drop_migration.name;
    IF old.name IS NULL THEN
        RAISE EXCEPTION 'blueprint "%" has no migration "%"', within.name, drop_migration.name
            USING ERRCODE = 'undefined_object', HINT = 'SELECT blueprint, name FROM kessel.migrations lists those that there are.';
    END IF;
    PERFORM kessel._await_new_tenants(within.name, old.version);
    place := CASE WHEN within.built_in THEN 'It comes with the extension.' ELSE kessel._applied_where(within.name, old.version) END;
    IF place IS NOT NULL THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" cannot be dropped', old.name, within.name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = place;
    END IF;
    PERFORM kessel._check_not_running(within.name);
    DELETE FROM kessel.migrations m WHERE m.blueprint = within.name AND m.version = old.version;
END
$$;
COMMENT ON FUNCTION kessel.drop_migration(text, text) IS
    'Forgets a migration that was applied nowhere. Errors: 22004 NULL blueprint, 42704 it does not exist, 55000 it was applied somewhere, or comes with the extension, 55006 the blueprint is being migrated. For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel._script_statements(text, text), kessel._script_place(text, text, text), kessel._applied_places(text, integer), kessel._applied_where(text, integer),
    kessel._blueprint(text), kessel._await_new_tenants(text, integer), kessel._check_not_running(text), kessel._required(text[]), kessel._check_requires(text, text, text[]), kessel._check_script(kessel.blueprints, text, text, text, boolean),
    kessel._version_of(text), kessel._may_write_for(name, name), kessel._change_migration(kessel.migrations, text, text, boolean, name), kessel._checksum(text),
    kessel._add_migration(text, text, text, text, boolean, name),
    kessel.add_blueprint(text, text, text, boolean, text[]), kessel.drop_blueprint(text),
    kessel.add_migration(text, text, text, text, boolean), kessel.drop_migration(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel.add_blueprint(text, text, text, boolean, text[]), kessel.drop_blueprint(text),
    kessel.add_migration(text, text, text, text, boolean), kessel.drop_migration(text, text) TO kessel_admin;

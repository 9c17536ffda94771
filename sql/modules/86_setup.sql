-- The infra database's own migrations: applying them here, and taking them back.
--
-- They run with the rights of the role that asks, which then owns what they make,
-- and within its transaction: all of a call or nothing. What a role has written
-- runs only for those that it could become, and so does what builds on what it has
-- applied: nobody is made to run somebody else's SQL with rights that that one does
-- not have. The table lock is one that nobody without rights can take, as they could
-- an advisory lock.

CREATE FUNCTION kessel._lock_setup() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE kessel.applied_migrations IN SHARE ROW EXCLUSIVE MODE;
END
$$;

-- Every migration that is known here or was applied. state: applied, missing,
-- changed since it was applied, unknown: applied, and not in the catalogue.
CREATE FUNCTION kessel._setup_state()
RETURNS TABLE (blueprint text, version integer, name text, state text, has_down boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(m.blueprint, a.blueprint), coalesce(m.version, a.version), coalesce(m.name, a.name),
           CASE WHEN a.version IS NULL THEN 'missing'
                WHEN m.version IS NULL THEN 'unknown'
                WHEN m.checksum <> a.checksum OR m.name <> a.name THEN 'changed'
                ELSE 'applied' END,
           m.down IS NOT NULL
    FROM (SELECT m.* FROM kessel.migrations m JOIN kessel.blueprints b ON b.name = m.blueprint WHERE b.applies_to = 'infra') m
    FULL JOIN kessel.applied_migrations a ON a.blueprint = m.blueprint AND a.version = m.version
$$;

-- Before anything is run: what was applied must be what is known here.
CREATE FUNCTION kessel._check_setup(blueprints text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    SELECT * INTO bad FROM kessel._setup_state() s
    WHERE s.blueprint = ANY (blueprints) AND s.state IN ('changed', 'unknown') ORDER BY s.blueprint, s.version LIMIT 1;
    IF bad.state = 'changed' THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" is not the one that was applied', bad.name, bad.blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'Its script or name was changed since then.',
                  HINT = 'Bring back the former one; what is to change belongs into another migration. kessel.applied_migrations has its name and checksum.';
    ELSIF bad.state = 'unknown' THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" was applied here, and is not known', bad.name, bad.blueprint
            USING ERRCODE = 'KR014',
                  DETAIL = 'It comes from a newer version of the extension, or from a blueprint that another database has.',
                  HINT = 'Update the extension, or add the migration.';
    END IF;
END
$$;

CREATE FUNCTION kessel._infra_blueprints(names text[]) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text;
    found kessel.blueprints;
BEGIN
    FOREACH wanted IN ARRAY coalesce(names, ARRAY(SELECT b.name FROM kessel.blueprints b WHERE b.applies_to = 'infra')) LOOP
        IF wanted IS NULL THEN
            RAISE EXCEPTION 'a blueprint is NULL'
                USING ERRCODE = 'null_value_not_allowed', HINT = 'Leave the argument out for all of the infra database.';
        END IF;
        SELECT * INTO found FROM kessel.blueprints b WHERE b.name = wanted;
        IF found.name IS NULL THEN
            RAISE EXCEPTION 'blueprint "%" does not exist', wanted
                USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM kessel.blueprints lists those that there are.';
        END IF;
        IF found.applies_to <> 'infra' THEN
            RAISE EXCEPTION 'blueprint "%" is for data sources', wanted
                USING ERRCODE = 'invalid_parameter_value', HINT = 'kessel.migrate() and kessel.rollback() are for those.';
        END IF;
    END LOOP;
    RETURN coalesce(names, ARRAY(SELECT b.name FROM kessel.blueprints b WHERE b.applies_to = 'infra'));
END
$$;

-- Whoever has applied what a migration builds on owns it, and can change its triggers
-- and functions: they would run with the rights of this one's tables and functions.
-- What was left by a role that is gone belongs to the owner of the schema infra.
CREATE FUNCTION kessel._check_ground(of_blueprint text, runner name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    SELECT a.name, a.blueprint, o.owner INTO bad
    FROM kessel._required(ARRAY[of_blueprint]) r
    JOIN kessel.applied_migrations a ON a.blueprint = r.name
    CROSS JOIN LATERAL (SELECT coalesce((SELECT o.rolname FROM pg_roles o WHERE o.rolname = a.applied_by),
                                        (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'infra'), a.applied_by) AS owner) o
    WHERE NOT kessel._may_write_for(o.owner, runner)
    ORDER BY r.ordinal, a.version LIMIT 1;
    IF bad.name IS NOT NULL THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" was applied by role "%"', bad.name, bad.blueprint, bad.owner
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('What it has made would run with the rights of role "%s", which that one does not have.', runner),
                  HINT = format('Call it as that one: SET ROLE %I. If somebody else owns it now, a superuser can write that into kessel.applied_migrations.applied_by.', bad.owner);
    END IF;
END
$$;

-- What kessel._run_migration() may run now for a role, and how errors call it.
CREATE FUNCTION kessel._migration_here(of_blueprint text, of_version integer, back boolean, runner name, OUT script text, OUT what text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found kessel.migrations;
    next_version integer;
BEGIN
    LOCK TABLE kessel.applied_migrations IN SHARE ROW EXCLUSIVE MODE;
    PERFORM kessel._check_setup(ARRAY[of_blueprint]);
    SELECT CASE WHEN back THEN max(s.version) ELSE min(s.version) END INTO next_version
    FROM kessel._setup_state() s WHERE s.blueprint = of_blueprint AND s.state = CASE WHEN back THEN 'applied' ELSE 'missing' END;
    IF next_version IS DISTINCT FROM of_version THEN
        RAISE EXCEPTION 'version % of blueprint "%" is not the next one', of_version, of_blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call kessel.setup() or kessel.teardown().';
    END IF;
    SELECT * INTO found FROM kessel.migrations m WHERE m.blueprint = of_blueprint AND m.version = of_version;
    IF found.author IS NOT NULL AND NOT kessel._may_write_for(found.author, runner) THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" was written by role "%"', found.name, of_blueprint, found.author
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('It would run with the rights of role "%s", which that one does not have.', runner),
                  HINT = 'Read it, and if it is good have a role with those rights call kessel.add_migration() with the same scripts; or let its author run it.';
    END IF;
    PERFORM kessel._check_ground(of_blueprint, runner);
    script := CASE WHEN back THEN found.down ELSE found.up END;
    IF script IS NULL THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" has no way back', found.name, of_blueprint
            USING ERRCODE = 'feature_not_supported', HINT = 'kessel.add_migration() with the same up and a down gives it one.';
    END IF;
    what := format('%s script of migration "%s" of blueprint "%s"', CASE WHEN back THEN 'down' ELSE 'up' END, found.name, of_blueprint);
END
$$;

CREATE FUNCTION kessel._migrated_here(of_blueprint text, of_version integer, back boolean, runner name) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF back THEN
        DELETE FROM kessel.applied_migrations a WHERE a.blueprint = of_blueprint AND a.version = of_version;
    ELSE
        INSERT INTO kessel.applied_migrations (blueprint, version, name, checksum, applied_by)
        SELECT m.blueprint, m.version, m.name, m.checksum, runner
        FROM kessel.migrations m WHERE m.blueprint = of_blueprint AND m.version = of_version;
    END IF;
END
$$;

-- Runs the next migration, or takes back the last one, as the caller; in milliseconds.
CREATE FUNCTION kessel._run_migration(blueprint text, version integer, back boolean) RETURNS double precision
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_setup_run_migration';

CREATE FUNCTION kessel.setup(blueprints text[] DEFAULT NULL)
RETURNS TABLE (blueprint text, version integer, name text, ms double precision)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text[];
BEGIN
    PERFORM kessel._lock_setup();
    wanted := ARRAY(SELECT r.name FROM kessel._required(kessel._infra_blueprints(blueprints)) r);
    PERFORM kessel._check_setup(wanted);
    FOR blueprint, version, name IN
        SELECT s.blueprint, s.version, s.name
        FROM kessel._setup_state() s
        JOIN kessel._required(wanted) r ON r.name = s.blueprint
        WHERE s.state = 'missing'
        ORDER BY r.ordinal, s.version
    LOOP
        ms := kessel._run_migration(blueprint, version, false);
        RAISE NOTICE '%: % applied', blueprint, name;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kessel.setup(text[]) IS
    'Applies to this database what is missing of the blueprints for it, and of those that they require: all of a call or nothing, within the caller''s transaction. A line for each migration, ms in milliseconds. '
    'blueprints: NULL: all whose applies_to is infra. With the rights of the caller, to whom then belongs what is made; search_path is public, pg_temp, and what a script sets ends with it. Another call waits until the transaction ends. '
    'Errors: those of the migrations, with place; 22004 NULL, 42704 no such blueprint, 22023 one for data sources, 55000 a migration was changed since it was applied, KR014 one was applied that is not known, '
    '42501 one was written, or what it builds on was applied, by a role that could not become the caller, 40001 another session has set up meanwhile. For kessel_admin';

CREATE FUNCTION kessel.teardown(blueprint text, to_version integer DEFAULT 0)
RETURNS TABLE (version integer, name text, ms double precision)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other text;
    stuck text;
BEGIN
    IF blueprint IS NULL OR to_version IS NULL THEN
        RAISE EXCEPTION 'blueprint and version cannot be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM kessel._lock_setup();
    PERFORM kessel._infra_blueprints(ARRAY[blueprint]);
    IF to_version <> 0 AND NOT EXISTS (SELECT FROM kessel._setup_state() s WHERE s.blueprint = teardown.blueprint AND s.version = to_version AND s.state <> 'missing') THEN
        RAISE EXCEPTION 'blueprint "%" was not applied here up to version %', blueprint, to_version
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM kessel.setup_status() shows what was; 0 takes back all.';
    END IF;
    PERFORM kessel._check_setup(ARRAY[blueprint]);
    SELECT b.name INTO other
    FROM kessel.blueprints b
    WHERE teardown.blueprint = ANY (b.requires) AND EXISTS (SELECT FROM kessel.applied_migrations a WHERE a.blueprint = b.name)
    ORDER BY 1 LIMIT 1;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint "%" is in use', blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Blueprint "%s" requires it.', other), HINT = 'Take that one back first.';
    END IF;
    SELECT s.name INTO stuck FROM kessel._setup_state() s
    WHERE s.blueprint = teardown.blueprint AND s.version > to_version AND s.state = 'applied' AND NOT s.has_down
    ORDER BY s.version DESC LIMIT 1;
    IF stuck IS NOT NULL THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" has no way back', stuck, blueprint
            USING ERRCODE = 'feature_not_supported', HINT = 'kessel.add_migration() with the same up and a down gives it one.';
    END IF;
    FOR version, name IN
        SELECT s.version, s.name FROM kessel._setup_state() s
        WHERE s.blueprint = teardown.blueprint AND s.version > to_version AND s.state = 'applied' ORDER BY s.version DESC
    LOOP
        ms := kessel._run_migration(blueprint, version, true);
        RAISE NOTICE '%: % taken back', blueprint, name;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kessel.teardown(text, integer) IS
    'Takes back in this database the migrations of a blueprint above a version, the last one first: all or nothing, as kessel.setup() applies them. What the tables hold is lost. A line for each migration, ms in milliseconds. '
    'Errors: those of the migrations, with place; 22004 NULL, 42704 no such blueprint, 22023 one for data sources, or a version that was not applied, 0A000 a migration has no down, '
    '55000 another blueprint that requires it is applied, or a migration was changed since it was applied, KR014, 42501 and 40001 as kessel.setup(). For kessel_admin';

CREATE FUNCTION kessel.setup_status()
RETURNS TABLE (blueprint text, version integer, available integer, missing text[], changed text[], unknown text[], requires text[], description text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.name,
           coalesce(max(s.version) FILTER (WHERE s.state <> 'missing'), 0),
           coalesce(max(s.version) FILTER (WHERE s.state <> 'unknown'), 0),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'missing'), '{}'),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'changed'), '{}'),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'unknown'), '{}'),
           b.requires, b.description
    FROM (SELECT b.name FROM kessel.blueprints b WHERE b.applies_to = 'infra'
          UNION SELECT a.blueprint FROM kessel.applied_migrations a) n
    LEFT JOIN kessel.blueprints b ON b.name = n.name
    LEFT JOIN kessel._setup_state() s ON s.blueprint = n.name
    GROUP BY n.name, b.requires, b.description
    ORDER BY n.name
$$;
COMMENT ON FUNCTION kessel.setup_status() IS
    'A line for each blueprint of this database: version that is applied (0: none) and that is available, names of migrations that are missing, changed since they were applied, or applied and not known. For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel._lock_setup(), kessel._setup_state(), kessel._check_setup(text[]), kessel._infra_blueprints(text[]), kessel._check_ground(text, name),
    kessel._migration_here(text, integer, boolean, name), kessel._migrated_here(text, integer, boolean, name), kessel._run_migration(text, integer, boolean),
    kessel.setup(text[]), kessel.teardown(text, integer), kessel.setup_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel._required(text[]), kessel._lock_setup(), kessel._setup_state(), kessel._check_setup(text[]), kessel._infra_blueprints(text[]), kessel._run_migration(text, integer, boolean),
    kessel.setup(text[]), kessel.teardown(text, integer), kessel.setup_status() TO kessel_admin;

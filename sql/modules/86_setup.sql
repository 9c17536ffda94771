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
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- What kessel._run_migrations() may run now for a role, how errors call it, and on
-- the way back who has applied it. Recorded before it runs, so that its own script
-- can make nobody believe that it was another one.
CREATE FUNCTION kessel._migration_here(of_blueprint text, of_version integer, back boolean, runner name, OUT script text, OUT what text, OUT applied_by text)
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
    IF back THEN
        SELECT a.applied_by INTO applied_by FROM kessel.applied_migrations a WHERE a.blueprint = of_blueprint AND a.version = of_version;
    ELSE
        INSERT INTO kessel.applied_migrations (blueprint, version, name, checksum, applied_by) VALUES (of_blueprint, of_version, found.name, found.checksum, runner);
    END IF;
    what := format('%s script of migration "%s" of blueprint "%s"', CASE WHEN back THEN 'down' ELSE 'up' END, found.name, of_blueprint);
END
$$;

CREATE FUNCTION kessel._migrated_here(of_blueprint text, of_version integer, back boolean, runner name) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM kessel.applied_migrations a WHERE back AND a.blueprint = of_blueprint AND a.version = of_version
$$;

-- Runs the next migrations, or takes back the last ones, as the caller; each one's
-- time in milliseconds.
CREATE FUNCTION kessel._run_migrations(blueprints text[], versions integer[], back boolean) RETURNS double precision[]
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_setup_run_migrations';

-- The same with a notice for each.
CREATE FUNCTION kessel._run(blueprints text[], versions integer[], names text[], back boolean)
RETURNS TABLE (blueprint text, version integer, name text, ms double precision)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    times double precision[];
BEGIN
    IF versions = '{}' THEN
        RETURN;
    END IF;
    times := kessel._run_migrations(blueprints, versions, back);
    FOR blueprint, version, name, ms IN SELECT * FROM unnest(blueprints, versions, names, times) LOOP
        RAISE NOTICE '%: % %', blueprint, name, CASE WHEN back THEN 'taken back' ELSE 'applied' END;
        RETURN NEXT;
    END LOOP;
END
$$;

CREATE FUNCTION kessel.setup(blueprints text[] DEFAULT NULL)
RETURNS TABLE (blueprint text, version integer, name text, ms double precision)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text[];
    todo record;
BEGIN
    PERFORM kessel._lock_setup();
    wanted := ARRAY(SELECT r.name FROM kessel._required(kessel._infra_blueprints(blueprints)) r);
    PERFORM kessel._check_setup(wanted);
    PERFORM kessel._setup_renew();
    PERFORM kessel._warn_of_drift(wanted);
    SELECT coalesce(array_agg(s.blueprint ORDER BY r.ordinal, s.version), '{}') AS blueprints, coalesce(array_agg(s.version ORDER BY r.ordinal, s.version), '{}') AS versions,
           array_agg(s.name ORDER BY r.ordinal, s.version) AS names
    INTO todo
    FROM kessel._setup_state() s JOIN kessel._required(wanted) r ON r.name = s.blueprint
    WHERE s.state = 'missing';
    PERFORM kessel._check_setup_possible(todo.blueprints, todo.versions);
    RETURN QUERY SELECT * FROM kessel._run(todo.blueprints, todo.versions, todo.names, false);
END
$$;
COMMENT ON FUNCTION kessel.setup(text[]) IS
    'Applies to this database what is missing of the blueprints for it, and of those that they require: all of a call or nothing, within the caller''s transaction. A line for each migration, ms in milliseconds. '
    'blueprints: NULL: all whose applies_to is infra. With the rights of the caller, to whom then belongs what is made; search_path is public, pg_temp, and what a script sets ends with it. Another call waits until the transaction ends. '
    'What was applied before is not touched: where it was changed since, a warning says so, see kessel.setup_drift(). '
    'Errors: those of the migrations, with place; 22004 NULL, 42704 no such blueprint, 22023 one for data sources, 55000 a migration was changed since it was applied, KR014 one was applied that is not known, '
    '42501 one was written, or what it builds on was applied, by a role that could not become the caller, 40001 another session has set up meanwhile. For kessel_admin';

-- ---------- the way back ----------

-- Blueprints that were applied and need these, directly or not, those that need
-- others first.
CREATE FUNCTION kessel._requiring(blueprint text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE requiring (name) AS (
        SELECT b.name FROM kessel.blueprints b WHERE _requiring.blueprint = ANY (b.requires)
      UNION
        SELECT b.name FROM requiring r JOIN kessel.blueprints b ON r.name = ANY (b.requires)
    ), applied AS (
        SELECT r.name FROM requiring r WHERE EXISTS (SELECT FROM kessel.applied_migrations a WHERE a.blueprint = r.name)
    )
    SELECT coalesce(array_agg(a.name ORDER BY o.ordinal DESC), '{}') FROM applied a JOIN kessel._required(ARRAY(SELECT r.name FROM requiring r)) o ON o.name = a.name
$$;

-- Rows of a table, without its partitions, that the transaction has locked against
-- everybody; one more than up_to where there are more.
CREATE FUNCTION kessel._count_rows(relation regclass, up_to bigint) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_setup_count_rows';

-- The tables that the migrations above a version have made and that are there still,
-- with the rows that those have put in.
CREATE FUNCTION kessel._setup_tables(of_blueprint text, above integer)
RETURNS TABLE (relation regclass, owner name, seeded bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, pg_get_userbyid(c.relowner), o.rows
    FROM kessel.setup_objects o JOIN pg_namespace n ON n.nspname = o.schema_name JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.path[1] AND c.relkind IN ('r', 'p')
    WHERE o.kind = 'table' AND o.blueprint = of_blueprint AND o.version > above
    ORDER BY c.oid
$$;

-- Rows that have come since, and what of them there is in which table; NULL: none.
-- Locks the tables, so that none comes afterwards.
CREATE FUNCTION kessel._rows_to_lose(of_blueprint text, above integer) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    up_to constant bigint := 1000000;
    found record;
    number bigint;
    told text[] := '{}';
BEGIN
    FOR found IN SELECT * FROM kessel._setup_tables(of_blueprint, above) LOOP
        IF NOT pg_has_role(found.owner, 'USAGE') THEN
            RAISE EXCEPTION 'permission denied to take back blueprint "%"', of_blueprint
                USING ERRCODE = 'insufficient_privilege', DETAIL = format('Table %s belongs to role "%s".', found.relation, found.owner),
                      HINT = format('Call it as that one: SET ROLE %I.', found.owner);
        END IF;
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', found.relation);
        number := (SELECT least(sum(kessel._count_rows(p.relid, up_to)), up_to + 1) FROM (SELECT found.relation UNION SELECT t.relid FROM pg_partition_tree(found.relation) t) p (relid));
        IF number > found.seeded THEN
            told := told || format('%s: %s', found.relation, CASE WHEN number > up_to THEN 'more than ' || up_to ELSE (number - found.seeded)::text END);
        END IF;
    END LOOP;
    RETURN nullif(array_to_string(told, ', '), '');
END
$$;

CREATE FUNCTION kessel._check_teardown(blueprint text, to_version integer, drop_data boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stuck text;
    rows_there text;
BEGIN
    PERFORM kessel._check_setup(ARRAY[blueprint]);
    SELECT s.name INTO stuck FROM kessel._setup_state() s
    WHERE s.blueprint = _check_teardown.blueprint AND s.version > to_version AND s.state = 'applied' AND NOT s.has_down
    ORDER BY s.version DESC LIMIT 1;
    IF stuck IS NOT NULL THEN
        RAISE EXCEPTION 'migration "%" of blueprint "%" has no way back', stuck, blueprint
            USING ERRCODE = 'feature_not_supported', HINT = 'kessel.add_migration() with the same up and a down gives it one.';
    END IF;
    rows_there := kessel._rows_to_lose(blueprint, to_version);
    IF rows_there IS NOT NULL AND NOT drop_data THEN
        RAISE EXCEPTION 'tables of blueprint "%" have rows, which would be lost', blueprint
            USING ERRCODE = 'object_in_use', DETAIL = format('Rows that have come since kessel.setup(): %s.', rows_there),
                  HINT = 'Save what is needed, then call kessel.teardown() with drop_data => true.';
    END IF;
END
$$;

CREATE FUNCTION kessel.teardown(blueprint_name text, to_version integer DEFAULT 0, cascade boolean DEFAULT false, drop_data boolean DEFAULT false)
RETURNS TABLE (blueprint text, version integer, name text, ms double precision)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others text[];
    todo record;
BEGIN
    IF blueprint_name IS NULL OR to_version IS NULL OR cascade IS NULL OR drop_data IS NULL THEN
        RAISE EXCEPTION 'an argument of kessel.teardown() is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM kessel._lock_setup();
    PERFORM kessel._infra_blueprints(ARRAY[blueprint_name]);
    IF to_version <> 0 AND NOT EXISTS (SELECT FROM kessel._setup_state() s WHERE s.blueprint = blueprint_name AND s.version = to_version AND s.state <> 'missing') THEN
        RAISE EXCEPTION 'blueprint "%" was not applied here up to version %', blueprint_name, to_version
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM kessel.setup_status() shows what was; 0 takes back all.';
    END IF;
    others := kessel._requiring(blueprint_name);
    IF others <> '{}' AND NOT cascade THEN
        RAISE EXCEPTION 'blueprint "%" is in use', blueprint_name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is required by: %s.', array_to_string(others, ', ')),
                  HINT = 'Take those back first, in this order; cascade => true does so.';
    END IF;
    PERFORM kessel._check_teardown(o.name, CASE WHEN o.name = blueprint_name THEN to_version ELSE 0 END, drop_data) FROM unnest(others || blueprint_name) o (name);
    SELECT coalesce(array_agg(s.blueprint ORDER BY o.n, s.version DESC), '{}') AS blueprints, coalesce(array_agg(s.version ORDER BY o.n, s.version DESC), '{}') AS versions,
           array_agg(s.name ORDER BY o.n, s.version DESC) AS names
    INTO todo
    FROM unnest(others || blueprint_name) WITH ORDINALITY o (name, n) JOIN kessel._setup_state() s ON s.blueprint = o.name
    WHERE s.state = 'applied' AND s.version > CASE WHEN o.name = blueprint_name THEN to_version ELSE 0 END;
    RETURN QUERY SELECT * FROM kessel._run(todo.blueprints, todo.versions, todo.names, true);
END
$$;
COMMENT ON FUNCTION kessel.teardown(text, integer, boolean, boolean) IS
    'Takes back in this database the migrations of a blueprint above a version, the last one first: all or nothing, as kessel.setup() applies them. A line for each migration, ms in milliseconds. '
    'cascade: those that require it before it, as a whole. drop_data: true: rows that have come into their tables since go with them; false: such rows are an error, which counts them. '
    'Errors: those of the migrations, with place; 22004 NULL, 42704 no such blueprint, 22023 one for data sources, or a version that was not applied, 0A000 a migration has no down, '
    '55000 another blueprint that requires it is applied, or a migration was changed since it was applied, 55006 there are rows, KR014, 42501 and 40001 as kessel.setup(). For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel._lock_setup(), kessel._setup_state(), kessel._check_setup(text[]), kessel._infra_blueprints(text[]), kessel._check_ground(text, name),
    kessel._migration_here(text, integer, boolean, name), kessel._migrated_here(text, integer, boolean, name), kessel._run_migrations(text[], integer[], boolean), kessel._run(text[], integer[], text[], boolean),
    kessel._requiring(text), kessel._count_rows(regclass, bigint), kessel._setup_tables(text, integer), kessel._rows_to_lose(text, integer), kessel._check_teardown(text, integer, boolean),
    kessel.setup(text[]), kessel.teardown(text, integer, boolean, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel._required(text[]), kessel._lock_setup(), kessel._setup_state(), kessel._check_setup(text[]), kessel._infra_blueprints(text[]), kessel._check_ground(text, name), kessel._run_migrations(text[], integer[], boolean), kessel._run(text[], integer[], text[], boolean),
    kessel._requiring(text), kessel._count_rows(regclass, bigint), kessel._setup_tables(text, integer), kessel._rows_to_lose(text, integer), kessel._check_teardown(text, integer, boolean),
    kessel.setup(text[]), kessel.teardown(text, integer, boolean, boolean) TO kessel_admin;

-- What the migrations of this database have made, and whether it is so still.
--
-- The lines are those of kessel.drift(), of this database's schemas instead of a
-- target's. There is no reference to build: scripts of this database name their
-- schemas, so they cannot run beside what they have made. Instead the catalogs are
-- read before and after a run of migrations, and what differs is recorded as the
-- run's. So whatever a migration makes or changes is no drift, in whichever
-- blueprint it is, and what people have made themselves never was recorded.
--
-- Of what is not recorded only what changes a recorded object counts: privileges
-- on it, its owner, its row security, defaults and NOT NULL of its columns. Columns,
-- indexes, constraints, triggers and policies of somebody's own on it are objects
-- of their own. Partitions come and go while the database is used: they are not
-- recorded.
--
-- SQL that mends begins with SET ROLE: what a role has made is made again with its
-- rights, not with those of whoever reads of it here.

-- Where a definition was written down. Another major version may write it otherwise,
-- and so may PostgreSQL itself when it has read it again from a dump.
CREATE FUNCTION kessel._setup_server() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.format('%s/%s/%s', pg_catalog.current_setting('server_version_num')::integer / 10000, c.system_identifier, d.oid)
        FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());

-- The kinds of lines whose definitions read the same in each.
CREATE FUNCTION kessel._setup_reads_alike(kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN kind IN ('grant', 'grant option', 'owner', 'comment', 'row security', 'forced row security');

-- The schema itself, which the lines of a schema leave out.
CREATE FUNCTION kessel._setup_schema_lines(schema_name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(jsonb_build_array(l.kind, l.path || ARRAY[n.nspname::text], l.definition, n.oid::bigint, NULL))
    FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner,
         LATERAL (SELECT 'schema', '{}'::text[], 'SCHEMA'
                  UNION ALL SELECT 'owner', '{schema}', '=' || o.rolname WHERE o.rolname <> current_user
                  UNION ALL
                  SELECT CASE WHEN x.is_grantable THEN 'grant option' ELSE 'grant' END, ARRAY[coalesce('=' || r.rolname, '@public'), 'schema'],
                         string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type)
                  FROM aclexplode(n.nspacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.grantee <> n.nspowner GROUP BY x.is_grantable, r.rolname) l (kind, path, definition)
    WHERE n.nspname = schema_name
$$;

-- {schema: lines}; NULL: of all schemas but the server's and those of extensions.
CREATE FUNCTION kessel._setup_lines(schemas text[] DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET quote_all_identifiers = off SET standard_conforming_strings = on SET bytea_output = 'hex'
SET xmloption = content SET "DateStyle" = 'ISO, YMD' SET "IntervalStyle" = 'postgres' SET "TimeZone" = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    found jsonb;
BEGIN
    EXECUTE format('SELECT jsonb_object_agg(s.name, kessel._setup_schema_lines(s.name) || q.lines) FROM unnest($1) s (name), LATERAL (%s) q (there, environment, fingerprint, migrated, lines)',
                   replace(kessel._schema_query('unrecorded'), '$1', 's.name'))
    INTO found USING ARRAY(
        SELECT n.nspname::text FROM pg_namespace n
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (schemas IS NULL OR n.nspname = ANY (schemas))
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')), NULL::text, 'true';
    RETURN coalesce(found, '{}');
END
$$;

-- Those as rows.
CREATE FUNCTION kessel._setup_rows(lines jsonb)
RETURNS TABLE (schema_name text, kind text, path text[], definition text, ord bigint, needs text[])
LANGUAGE sql STABLE ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.key, l.* FROM jsonb_each(lines) s, LATERAL kessel._schema_lines(s.value) l WHERE l.definition IS NOT NULL
$$;

-- ---------- the record ----------

-- What there is now: lines, and how many rows this transaction has put into tables.
CREATE FUNCTION kessel._setup_look() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('lines', kessel._setup_lines(),
                              'rows', (SELECT coalesce(jsonb_object_agg(c.oid::regclass, r.n), '{}')
                                       FROM pg_class c, LATERAL (SELECT pg_stat_get_xact_tuples_inserted(c.oid) - pg_stat_get_xact_tuples_deleted(c.oid)) r (n)
                                       WHERE c.relkind = 'r' AND c.oid >= 16384 AND r.n <> 0))
$$;

-- Records what a run has made, changed and taken away. What a migration has made
-- has OIDs below the one in until.
CREATE FUNCTION kessel._setup_done(blueprints text[], versions integer[], until bigint[], runner name, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    WITH b AS MATERIALIZED (
        SELECT * FROM kessel._setup_rows(before -> 'lines')
    ), a AS MATERIALIZED (
        SELECT * FROM kessel._setup_rows(after -> 'lines')
    ), lost AS MATERIALIZED (
        SELECT b.schema_name, b.kind, b.path FROM b EXCEPT SELECT a.schema_name, a.kind, a.path FROM a
    ), gone AS (
        DELETE FROM kessel.setup_objects o USING lost WHERE (o.schema_name, o.kind, o.path) = (lost.schema_name, lost.kind, lost.path)
    ), made AS MATERIALIZED (
        SELECT a.* FROM a LEFT JOIN b ON (a.schema_name, a.kind, a.path) = (b.schema_name, b.kind, b.path) WHERE a.definition IS DISTINCT FROM b.definition
    )
    INSERT INTO kessel.setup_objects AS o (schema_name, kind, path, definition, ord, needs, blueprint, version, made_by, server)
    SELECT m.*, blueprints[by.n], versions[by.n], runner, kessel._setup_server()
    FROM made m LEFT JOIN a t ON m.ord < 16384 AND t.schema_name = m.schema_name AND t.kind IN ('table', 'foreign table') AND t.path = m.path[1:1], -- of columns ord is a number
         LATERAL (SELECT coalesce(min(u.n), 1)::integer AS n FROM unnest(until) WITH ORDINALITY u (oid, n) WHERE coalesce(t.ord, m.ord) < u.oid) by
    WHERE (m.schema_name, kessel._schema_line_of(m.kind, m.path)) NOT IN (
        SELECT p.schema_name, ARRAY['relation', p.path[1]] FROM a p WHERE p.kind IN ('table', 'foreign table') AND p.definition LIKE '%TABLE PARTITION OF %')
    ON CONFLICT (schema_name, kind, path) DO UPDATE SET definition = excluded.definition, ord = excluded.ord, needs = excluded.needs, server = excluded.server;

    UPDATE kessel.setup_objects o SET rows = greatest(o.rows + r.added, 0)
    FROM (SELECT coalesce(a.key, b.key), coalesce(a.value::bigint, 0) - coalesce(b.value::bigint, 0)
          FROM jsonb_each_text(after -> 'rows') a FULL JOIN jsonb_each_text(before -> 'rows') b ON b.key = a.key) r (relation, added)
    WHERE o.kind = 'table' AND r.added <> 0 AND format('%I.%I', o.schema_name, o.path[1]) = r.relation;
END
$$;

-- After an upgrade of the server, and where a dump was restored, definitions may read
-- otherwise without having changed: takes them as they are written now.
CREATE FUNCTION kessel._setup_renew() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    IF EXISTS (SELECT FROM kessel.setup_objects o WHERE o.server <> kessel._setup_server()) THEN
        UPDATE kessel.setup_objects o
        SET server = kessel._setup_server(), definition = CASE WHEN kessel._setup_reads_alike(o.kind) THEN o.definition ELSE n.definition END
        FROM kessel._setup_rows(kessel._setup_lines()) n
        WHERE o.server <> kessel._setup_server() AND (o.schema_name, o.kind, o.path) = (n.schema_name, n.kind, n.path);
    END IF;
END
$$;

-- ---------- the comparison ----------

-- What should be in a schema. What was recorded elsewhere is compared as far as that
-- can be. Privileges on columns that somebody has added are as they are: what mends
-- those of the table gives them again.
CREATE FUNCTION kessel._setup_expected(of_schema text, lines jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH a AS MATERIALIZED (
        SELECT * FROM kessel._schema_lines(lines)
    ), e (kind, path, definition, ord, needs) AS (
        SELECT o.kind, o.path, CASE WHEN o.server = kessel._setup_server() OR kessel._setup_reads_alike(o.kind) THEN o.definition ELSE coalesce(a.definition, o.definition) END, o.ord, o.needs
        FROM kessel.setup_objects o LEFT JOIN a ON a.kind = o.kind AND a.path = o.path
        WHERE o.schema_name = of_schema
      UNION ALL
        SELECT a.* FROM a
        WHERE a.kind IN ('grant', 'grant option') AND a.path[2] = 'column' AND a.path[3:] IN (SELECT c.path FROM a c WHERE c.kind = 'column')
          AND a.path[3:] NOT IN (SELECT o.path FROM kessel.setup_objects o WHERE o.schema_name = of_schema AND o.kind = 'column')
          AND a.path[3:3] IN (SELECT o.path FROM kessel.setup_objects o WHERE o.schema_name = of_schema AND o.kind = 'table')
    )
    SELECT coalesce(jsonb_agg(jsonb_build_array(e.kind, e.path, e.definition, e.ord, e.needs)), '[]') FROM e
$$;

-- Of what is in a schema, what counts.
CREATE FUNCTION kessel._setup_actual(of_schema text, lines jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH recorded AS MATERIALIZED (
        SELECT o.kind, o.path FROM kessel.setup_objects o WHERE o.schema_name = of_schema
    ), objects AS MATERIALIZED (
        SELECT kessel._schema_line_of(r.kind, r.path) AS object FROM recorded r WHERE kessel._schema_line_is_object(r.kind) OR r.kind = 'schema'
    ), a AS MATERIALIZED (
        SELECT * FROM kessel._setup_rows(jsonb_build_object(of_schema, lines))
    )
    SELECT coalesce(jsonb_agg(jsonb_build_array(a.kind, a.path, a.definition, a.ord, a.needs)), '[]')
    FROM a
    WHERE (a.kind, a.path) IN (SELECT r.kind, r.path FROM recorded r)
       OR a.kind IN ('not null', 'default', 'identity') AND a.path IN (SELECT r.path FROM recorded r WHERE r.kind = 'column')
       OR a.kind IN ('grant', 'grant option', 'owner', 'row security', 'forced row security') AND kessel._schema_line_of(a.kind, a.path) IN (SELECT o.object FROM objects o)
$$;

-- What differs, in the order in which it can be mended.
CREATE FUNCTION kessel._setup_differences(blueprints text[])
RETURNS TABLE (blueprint text, schema_name text, difference text, kind text, path text[], expected text, actual text, mend text, note text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    schemas text[] := ARRAY(SELECT DISTINCT o.schema_name FROM kessel.setup_objects o);
    lines jsonb := kessel._setup_lines(schemas);
BEGIN
    RETURN QUERY
    SELECT w.blueprint, s.name, d.difference, d.kind, d.path, d.wanted, d.was,
           -- Whoever owns a thing now may not be who is to own it.
           CASE WHEN l.runs_code THEN NULL
                WHEN d.kind = 'owner' THEN d.mend
                -- A trigger on somebody else's table is dropped with that one's rights, and made with one's own.
                WHEN d.kind = 'trigger' AND d.mend LIKE '%; CREATE %' AND NOT EXISTS (SELECT FROM kessel.setup_objects t WHERE t.schema_name = s.name AND t.kind IN ('table', 'foreign table', 'view') AND t.path = d.path[1:1])
                THEN replace(d.mend, d.wanted, format('SET ROLE %I; %s', w.made_by, d.wanted)) || '; RESET ROLE'
                ELSE format('SET ROLE %I; ', w.made_by) || d.mend || coalesce(f.sql, '') || '; RESET ROLE' END,
           CASE WHEN l.runs_code THEN format('To be mended in a session of role "%s", or of one that may become it: in a superuser''s, functions of its defaults, checks and indexes could take a superuser''s rights.', w.made_by)
                WHEN d.kind = 'table' AND d.difference = 'missing' THEN 'Its rows are gone but for those that migrations put in.'
                WHEN d.kind = 'owner' THEN 'Look at it first: it gets the rights of its owner.' ELSE d.note END
    FROM unnest(schemas) s (name),
         LATERAL (SELECT coalesce(lines -> s.name, '[]')) h (here),
         LATERAL kessel._schema_differences(kessel._setup_expected(s.name, h.here), kessel._setup_actual(s.name, h.here), s.name, current_user, NULL) d,
         LATERAL kessel._setup_whose(s.name, d.kind, d.path, d.difference, d.wanted) w,
         -- SET ROLE is no wall for what is run by that: a function in it can reset it.
         LATERAL (SELECT d.kind <> ALL ('{schema,owner,function,procedure,view,default,not null,row security,forced row security,policy,trigger,grant,grant option,comment}') AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.made_by AND r.rolsuper) AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = session_user AND r.rolsuper)) l (runs_code),
         LATERAL (SELECT CASE WHEN d.kind = 'table' AND d.difference = 'missing' THEN kessel._setup_fill(s.name, d.path[1]) END) f (sql)
    WHERE (blueprints IS NULL OR w.blueprint = ANY (blueprints))
      -- What is missing is made again by who is to own it.
      AND (d.kind <> 'owner' OR EXISTS (SELECT FROM kessel._schema_lines(h.here, d.path[1:1]) l WHERE l.path = d.path[2:]))
    ORDER BY w.step, w.ord, d.kind COLLATE "C", d.path COLLATE "C";
END
$$;

-- What migrations have put into a table.
CREATE FUNCTION kessel._setup_fill(of_schema text, of_table text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
    SELECT string_agg('; ' || s.sql, '' ORDER BY a.applied_at, s.n)
    FROM kessel.applied_migrations a JOIN kessel.migrations m ON m.blueprint = a.blueprint AND m.version = a.version,
         LATERAL kessel._script_facts(m.up) f, LATERAL (SELECT x.sql, row_number() OVER () AS n FROM kessel._script_statements(m.up, m.name) x) s
    WHERE f.action = 'fill' AND f.schema_name = of_schema AND f.name = of_table AND s.n = f.statement
$$;

CREATE FUNCTION kessel.setup_drift(blueprints text[] DEFAULT NULL, ignore text[] DEFAULT NULL)
RETURNS TABLE (blueprint text, schema_name text, step integer, difference text, kind text, object text, expected text, actual text, mend text, note text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM kessel._infra_blueprints(setup_drift.blueprints);
    RETURN QUERY
    SELECT d.blueprint, d.schema_name, row_number() OVER ()::integer, d.difference, d.kind, l.label, d.expected, d.actual, d.mend, d.note
    FROM kessel._setup_differences(setup_drift.blueprints) d, LATERAL kessel._schema_object_label(d.kind, d.path) l (label)
    WHERE NOT coalesce(d.kind || ' ' || l.label LIKE ANY (setup_drift.ignore), false);
END
$$;
COMMENT ON FUNCTION kessel.setup_drift(text[], text[]) IS
    'Compares this database with what the migrations that kessel.setup() has applied have made in it. No line: it is so still. A line for each difference: missing, unexpected or different; '
    'kind, object, expected and actual definition; mend, SQL that changes that, NULL with the reason in note. Those of all lines, run in the order of step in one transaction, bring it back; each runs with the rights of the role that has made the object. Where that may run functions of a role that is no superuser, as defaults and checks do, mend is NULL for a superuser: that role is to do it in a session of its own. '
    'What was added beside it, as columns, indexes, triggers and policies, is none, nor are rows. blueprints: NULL: all. ignore: patterns of LIKE for kind and object, such as ''grant profiles%''. '
    'After a restore or an upgrade of the server, definitions are compared again from the next kessel.setup() on; that things are there, and privileges, always are. Errors: 42704 unknown blueprint, 22023 one for data sources, 22004 NULL. For kessel_admin';

-- Of what a line is: of its own in the record, or, where that has none, of its object's.
CREATE FUNCTION kessel._setup_whose(of_schema text, kind text, path text[], difference text, wanted text, OUT blueprint text, OUT made_by name, OUT ord bigint, OUT step integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    SELECT o.blueprint, o.made_by, o.ord INTO blueprint, made_by, ord
    FROM kessel.setup_objects o WHERE o.schema_name = of_schema AND o.kind = kind AND o.path = path;
    IF blueprint IS NULL THEN
        SELECT o.blueprint, o.made_by, o.ord INTO blueprint, made_by, ord
        FROM kessel.setup_objects o
        WHERE o.schema_name = of_schema AND (kessel._schema_line_is_object(o.kind) OR o.kind = 'schema') AND kessel._schema_line_of(o.kind, o.path) = kessel._schema_line_of(kind, path)
        ORDER BY o.ord LIMIT 1;
    END IF;
    step := CASE kind WHEN 'schema' THEN 0 WHEN 'owner' THEN 1 ELSE kessel._schema_step(difference, kind, wanted, false) END;
END
$$;

-- The differences in words, without the parts of what is missing as a whole.
CREATE FUNCTION kessel._setup_drift_names(blueprints text[]) RETURNS TABLE (blueprint text, name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH d AS MATERIALIZED (
        SELECT row_number() OVER () AS n, x.*, kessel._schema_line_of(x.kind, x.path) AS object, x.difference = 'missing' AND (x.kind = 'schema' OR kessel._schema_line_is_object(x.kind)) AS whole
        FROM kessel._setup_differences(blueprints) x
    )
    SELECT d.blueprint, d.difference || ' ' || CASE
        WHEN d.kind = 'schema' OR d.kind IN ('grant', 'grant option') AND d.path[2] = 'schema' OR d.kind = 'owner' AND d.path[1] = 'schema' THEN d.kind || ' ' || kessel._schema_object_label(d.kind, d.path)
        WHEN d.kind IN ('owner', 'comment') THEN format('%s of %s %I.%s', d.kind, d.path[1], d.schema_name, kessel._schema_object_label(d.path[1], d.path[2:]))
        ELSE format('%s %I.%s', d.kind, d.schema_name, kessel._schema_object_label(d.kind, d.path)) END
    FROM d
    WHERE NOT EXISTS (SELECT FROM d g WHERE g.whole AND g.schema_name = d.schema_name AND g.n <> d.n AND (g.kind = 'schema' OR g.object = d.object))
    ORDER BY d.n
$$;

CREATE FUNCTION kessel._warn_of_drift(blueprints text[]) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[] := ARRAY(SELECT n.name FROM kessel._setup_drift_names(blueprints) n);
BEGIN
    IF names <> '{}' THEN
        RAISE WARNING 'what kessel.setup() has made is not as it was'
            USING DETAIL = kessel._some(names), HINT = 'SELECT * FROM kessel.setup_drift() ORDER BY step shows it, with SQL that brings it back.';
    END IF;
END
$$;

CREATE FUNCTION kessel.setup_status()
RETURNS TABLE (blueprint text, version integer, available integer, missing text[], changed text[], unknown text[], drift text[], requires text[], description text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.name,
           coalesce(max(s.version) FILTER (WHERE s.state <> 'missing'), 0),
           coalesce(max(s.version) FILTER (WHERE s.state <> 'unknown'), 0),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'missing'), '{}'),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'changed'), '{}'),
           coalesce(array_agg(s.name ORDER BY s.version) FILTER (WHERE s.state = 'unknown'), '{}'),
           coalesce(d.names, '{}'),
           b.requires, b.description
    FROM (SELECT b.name FROM kessel.blueprints b WHERE b.applies_to = 'infra'
          UNION SELECT a.blueprint FROM kessel.applied_migrations a) n
    LEFT JOIN kessel.blueprints b ON b.name = n.name
    LEFT JOIN kessel._setup_state() s ON s.blueprint = n.name
    LEFT JOIN (SELECT x.blueprint, array_agg(x.name) AS names FROM kessel._setup_drift_names(NULL) x GROUP BY 1) d ON d.blueprint = n.name
    GROUP BY n.name, d.names, b.requires, b.description
    ORDER BY n.name
$$;
COMMENT ON FUNCTION kessel.setup_status() IS
    'A line for each blueprint of this database: version that is applied (0: none) and that is available; names of migrations that are missing, changed since they were applied, or applied and not known; '
    'drift: what the applied ones have made and is missing or otherwise now, see kessel.setup_drift(). For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel._setup_server(), kessel._setup_reads_alike(text), kessel._setup_schema_lines(text), kessel._setup_lines(text[]), kessel._setup_rows(jsonb), kessel._setup_look(),
    kessel._setup_done(text[], integer[], bigint[], name, jsonb, jsonb), kessel._setup_renew(), kessel._setup_expected(text, jsonb), kessel._setup_actual(text, jsonb), kessel._setup_whose(text, text, text[], text, text),
    kessel._setup_differences(text[]), kessel._setup_fill(text, text),
    kessel._setup_drift_names(text[]), kessel._warn_of_drift(text[]), kessel.setup_drift(text[], text[]), kessel.setup_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel._setup_renew(), kessel._setup_drift_names(text[]), kessel._warn_of_drift(text[]), kessel.setup_drift(text[], text[]), kessel.setup_status()
    TO kessel_admin;

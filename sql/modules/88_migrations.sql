-- Runs of migrations: which targets there are, what each has, and what became of
-- each in each run.
--
-- A target is one place where a blueprint for data sources is applied: a schema of
-- a data source. Its own record there (kessel_agent.migrations) is the truth; these
-- tables follow it. A run commits as it goes, so that others see how far it is, and
-- whatever ends it, a killed server, too, leaves here what was known by then.

CREATE TABLE kessel.migration_targets (
    data_source_id uuid NOT NULL REFERENCES app.data_sources ON DELETE CASCADE,
    schema_name    text COLLATE "C" NOT NULL,
    blueprint      text COLLATE "C" NOT NULL REFERENCES kessel.blueprints ON UPDATE CASCADE ON DELETE CASCADE,
    version        integer CHECK (version >= 0),
    trying         integer CHECK (trying > 0),
    error          jsonb,
    last_run       uuid,
    updated_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (data_source_id, schema_name, blueprint)
) WITH (fillfactor = 80);
CREATE INDEX migration_targets_blueprint ON kessel.migration_targets (blueprint);
COMMENT ON TABLE kessel.migration_targets IS 'Which version of a blueprint each place has that it was applied to, as far as this database knows; the place''s own record is the truth. Written by kessel.migrate, kessel.rollback and kessel.create_tenant.';
COMMENT ON COLUMN kessel.migration_targets.schema_name IS 'The schema in the data source: with schema isolation a tenant''s, else the source''s option schema';
COMMENT ON COLUMN kessel.migration_targets.version IS 'The version of the last migration that is applied there; 0: none; NULL: not known';
COMMENT ON COLUMN kessel.migration_targets.trying IS 'It may have any version up to this one: a run has begun there or may have, and how that has ended is not known here; NULL: it is known';
COMMENT ON COLUMN kessel.migration_targets.error IS 'What the last attempt has failed with; NULL: it has not';
COMMENT ON COLUMN kessel.migration_targets.last_run IS 'The run that has touched it last, see kessel.migration_runs; NULL: kessel.create_tenant() has';

CREATE TABLE kessel.migration_runs (
    run_id      uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    blueprint   text COLLATE "C" NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('migrate', 'rollback')),
    to_version  integer NOT NULL CHECK (to_version >= 0),
    tenants     text[],
    canary      text[],
    dry_run     boolean NOT NULL,
    options     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed', 'stopped', 'interrupted')),
    wave        text CHECK (wave IN ('canary', 'rest')),
    working_on  integer[],
    stopping    boolean NOT NULL DEFAULT false,
    pid         integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    called_by   name NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    resumed_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    ended_at    timestamptz
);
CREATE INDEX migration_runs_blueprint ON kessel.migration_runs (blueprint, started_at);
COMMENT ON TABLE kessel.migration_runs IS 'Calls of kessel.migrate and kessel.rollback, see kessel.migration_progress. kessel.forget_migration_runs deletes old ones.';
COMMENT ON COLUMN kessel.migration_runs.tenants IS 'As the call named them, as slugs; NULL: all';
COMMENT ON COLUMN kessel.migration_runs.canary IS 'As the call named them, as slugs; NULL: one; empty: none';
COMMENT ON COLUMN kessel.migration_runs.options IS 'The other arguments of the call';
COMMENT ON COLUMN kessel.migration_runs.state IS 'running; done; failed: some targets have; stopped: and others were not begun for that; interrupted: another call has replaced it. One that is running for no session was cut off: the next call takes it up';
COMMENT ON COLUMN kessel.migration_runs.working_on IS 'The targets of the wave at work, by n, in the order in which the engine counts them';
COMMENT ON COLUMN kessel.migration_runs.resumed_at IS 'When the call began that is or was working on it';

CREATE TABLE kessel.migration_run_targets (
    run_id         uuid NOT NULL REFERENCES kessel.migration_runs ON DELETE CASCADE,
    n              integer NOT NULL,
    wave           text NOT NULL CHECK (wave IN ('canary', 'rest')),
    data_source_id uuid NOT NULL,
    data_source    text NOT NULL,
    schema_name    text COLLATE "C" NOT NULL,
    tenants        text[] NOT NULL,
    state          text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed', 'skipped', 'unknown')),
    from_version   integer,
    version        integer,
    applied        integer,
    attempts       integer NOT NULL DEFAULT 0,
    error          jsonb,
    note           text,
    doubted        boolean NOT NULL DEFAULT false,
    ms             double precision,
    began_at       timestamptz,
    ended_at       timestamptz,
    PRIMARY KEY (run_id, n),
    UNIQUE (run_id, data_source_id, schema_name)
) WITH (fillfactor = 50);
COMMENT ON TABLE kessel.migration_run_targets IS 'What became of each target in each run';
COMMENT ON COLUMN kessel.migration_run_targets.tenants IS 'Slugs of those who live there, at the beginning of the run';
COMMENT ON COLUMN kessel.migration_run_targets.state IS 'waiting, running, done, failed; skipped: not begun, note says why; unknown: the connection was lost while it committed';
COMMENT ON COLUMN kessel.migration_run_targets.from_version IS 'What it had; NULL: not known yet';
COMMENT ON COLUMN kessel.migration_run_targets.version IS 'What it has, or of a dry run would have; NULL: not known';
COMMENT ON COLUMN kessel.migration_run_targets.applied IS 'Migrations that were run there';
COMMENT ON COLUMN kessel.migration_run_targets.attempts IS 'How often it was tried: a lock that was not to be had makes it more than once';
COMMENT ON COLUMN kessel.migration_run_targets.error IS 'sqlstate, message, detail, hint, migration, statement (its number in the script), line';
COMMENT ON COLUMN kessel.migration_run_targets.doubted IS 'What it has was not known for sure when the run came to it, see kessel.migration_targets.trying';
COMMENT ON COLUMN kessel.migration_run_targets.ms IS 'Milliseconds since the work for it began';

SELECT pg_catalog.pg_extension_config_dump('kessel.migration_targets', '');
SELECT pg_catalog.pg_extension_config_dump('kessel.migration_runs', '');
SELECT pg_catalog.pg_extension_config_dump('kessel.migration_run_targets', '');

ALTER TABLE kessel.migration_targets ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.migration_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.migration_run_targets ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON kessel.migration_targets FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.migration_runs FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.migration_run_targets FOR SELECT TO kessel_admin USING (true);
GRANT SELECT ON kessel.migration_targets, kessel.migration_runs, kessel.migration_run_targets TO kessel_admin;

-- ---------- who is at work ----------

-- Refuses (25001) where COMMIT would be refused.
CREATE FUNCTION kessel._run_check_alone() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_run_check_alone';
CREATE FUNCTION kessel._run_try_lock(key bigint, of_transaction boolean) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_run_lock';
CREATE FUNCTION kessel._run_release(key bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_run_unlock';
REVOKE ALL ON FUNCTION kessel._run_check_alone(), kessel._run_try_lock(bigint, boolean), kessel._run_release(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_check_alone() TO kessel_admin;

CREATE FUNCTION kessel._run_key(blueprint text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
RETURN hashtextextended(blueprint COLLATE "C", 0);
REVOKE ALL ON FUNCTION kessel._run_key(text) FROM PUBLIC;

-- The process that works on a run of the blueprint; NULL: none. 75: see kr_run_lock.c.
CREATE FUNCTION kessel._run_holder(blueprint text) RETURNS integer
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid FROM pg_catalog.pg_locks l, kessel._run_key(blueprint) AS key
    WHERE l.locktype = 'advisory' AND l.objsubid = 75 AND l.granted
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
      AND l.classid = ((key >> 32) & 4294967295)::oid AND l.objid = (key & 4294967295)::oid
$$;
REVOKE ALL ON FUNCTION kessel._run_holder(text) FROM PUBLIC;

-- A run's lock outlives its transactions, to _run_unlock(). The other kind is let go
-- when the transaction ends, or the part of it that an error takes back.
CREATE FUNCTION kessel._run_lock(blueprint text, of_transaction boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder integer;
    began timestamptz;
BEGIN
    -- Whoever just held it may be gone by the time we ask who it is.
    FOR i IN 1 .. 3 LOOP
        IF kessel._run_try_lock(kessel._run_key(blueprint), of_transaction) THEN
            -- Who is changing its migrations comes first; who comes later sees the lock.
            PERFORM FROM kessel.blueprints b WHERE b.name = _run_lock.blueprint FOR SHARE;
            RETURN;
        END IF;
        holder := kessel._run_holder(blueprint);
        EXIT WHEN holder IS NOT NULL;
    END LOOP;
    SELECT max(r.resumed_at) INTO began FROM kessel.migration_runs r
    WHERE r.blueprint = _run_lock.blueprint AND r.state = 'running' AND r.pid = holder;
    RAISE EXCEPTION 'blueprint "%" is being migrated by another session', blueprint
        USING ERRCODE = 'lock_not_available',
              DETAIL = format('Process %s%s.', coalesce(holder::text, 'unknown'), coalesce(' has been at it since ' || began, '')),
              HINT = 'SELECT * FROM kessel.migration_progress shows how far it is. Wait for it, or end it with pg_terminate_backend().';
END
$$;
CREATE FUNCTION kessel._run_unlock(blueprint text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT kessel._run_release(kessel._run_key(blueprint))
$$;
REVOKE ALL ON FUNCTION kessel._run_lock(text, boolean), kessel._run_unlock(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_lock(text, boolean), kessel._run_unlock(text) TO kessel_admin;

-- The numbers of one run.
CREATE FUNCTION kessel._run_numbers(run kessel.migration_runs, OUT state text, OUT waiting bigint, OUT running bigint, OUT done bigint, OUT failed bigint,
                                    OUT skipped bigint, OUT unknown bigint, OUT total bigint, OUT rate double precision, OUT time_left interval)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.state, t.waiting, t.running, t.done, t.failed, t.skipped, t.unknown, t.total, e.rate,
           CASE WHEN c.state = 'running' AND e.rate > 0 THEN make_interval(secs => (t.waiting + t.running) / e.rate) END
    FROM (SELECT CASE WHEN run.state = 'running' AND kessel._run_holder(run.blueprint) IS DISTINCT FROM run.pid THEN 'interrupted' ELSE run.state END AS state) c
         CROSS JOIN (
             SELECT count(*) FILTER (WHERE x.state = 'waiting') AS waiting,
                    count(*) FILTER (WHERE x.state = 'running') AS running,
                    count(*) FILTER (WHERE x.state = 'done') AS done,
                    count(*) FILTER (WHERE x.state = 'failed') AS failed,
                    count(*) FILTER (WHERE x.state = 'skipped') AS skipped,
                    count(*) FILTER (WHERE x.state = 'unknown') AS unknown,
                    count(*) AS total,
                    count(*) FILTER (WHERE x.ended_at >= run.resumed_at) AS ended
             FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id) t
         CROSS JOIN LATERAL (
             SELECT t.ended / greatest(extract(epoch FROM CASE WHEN c.state = 'running' THEN clock_timestamp()
                                                               ELSE coalesce(run.ended_at, run.updated_at) END - run.resumed_at), 0.001)::double precision AS rate) e
$$;
REVOKE ALL ON FUNCTION kessel._run_numbers(kessel.migration_runs) FROM PUBLIC;

-- Its functions run as whoever reads it, and so read what that role may.
CREATE VIEW kessel.migration_progress AS
SELECT r.run_id, r.blueprint, r.kind, r.to_version, r.dry_run, n.state, r.wave,
       n.waiting, n.running, n.done, n.failed, n.skipped, n.unknown, n.total, n.rate, n.time_left,
       r.started_at, r.updated_at, r.ended_at, r.pid
FROM kessel.migration_runs r CROSS JOIN LATERAL kessel._run_numbers(r) n;
COMMENT ON VIEW kessel.migration_progress IS
    'Each run of kessel.migrate and kessel.rollback: how many targets are in which state, targets a second, time left. state: running, done, failed, stopped, and interrupted where the session is gone that worked on it: the same call again takes it up. '
    'Up to half a second old. For kessel_admin';
COMMENT ON COLUMN kessel.migration_progress.rate IS 'Targets a second, since the call began that is or was working on it';
COMMENT ON COLUMN kessel.migration_progress.time_left IS 'At this rate; NULL: not running, or nothing has ended yet';
REVOKE ALL ON kessel.migration_progress FROM PUBLIC;
GRANT SELECT ON kessel.migration_progress TO kessel_admin;
GRANT EXECUTE ON FUNCTION kessel._run_numbers(kessel.migration_runs), kessel._run_holder(text), kessel._run_key(text) TO kessel_admin;

CREATE FUNCTION kessel.forget_migration_runs(older_than interval) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM kessel.migration_runs r
        WHERE coalesce(r.ended_at, r.updated_at) < clock_timestamp() - older_than
          AND (r.state <> 'running' OR kessel._run_holder(r.blueprint) IS DISTINCT FROM r.pid)
        RETURNING 1)
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION kessel.forget_migration_runs(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.forget_migration_runs(interval) TO kessel_admin;
COMMENT ON FUNCTION kessel.forget_migration_runs(interval) IS
    'Deletes the records of runs that have ended, or were cut off, longer ago than this, and returns how many. What each target has stays known. NULL: none. For kessel_admin';

-- ---------- which targets there are ----------

-- Ids of tenants by slug or id; NULL for NULL.
CREATE FUNCTION kessel._tenant_ids(tenants text[]) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids uuid[];
    unknown text;
BEGIN
    IF tenants IS NULL THEN
        RETURN NULL;
    END IF;
    IF array_position(tenants, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'a tenant is NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name each by its slug or id, or leave the argument out for all.';
    END IF;
    WITH named AS (
        SELECT DISTINCT n.name FROM unnest(tenants) AS n (name)
    ), found AS (
        SELECT n.name, t.id FROM named n JOIN app.tenants t ON t.slug = n.name
      UNION
        SELECT n.name, t.id FROM named n JOIN app.tenants t ON t.id::text = n.name
    )
    SELECT coalesce((SELECT array_agg(DISTINCT f.id) FROM found f), '{}'),
           (SELECT string_agg(format('"%s"', n.name), ', ' ORDER BY n.name) FROM named n WHERE NOT EXISTS (SELECT FROM found f WHERE f.name = n.name))
    INTO ids, unknown;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'there is no tenant %', left(unknown, 200)
            USING ERRCODE = 'KR002', HINT = 'SELECT slug FROM app.tenants lists those that are.';
    END IF;
    RETURN ids;
END
$$;
REVOKE ALL ON FUNCTION kessel._tenant_ids(text[]) FROM PUBLIC;

-- The places of these tenants, or all there are: with schema isolation one for
-- each tenant, else one for each data source, also before its first tenant.
CREATE FUNCTION kessel._targets(tenant_ids uuid[])
RETURNS TABLE (data_source_id uuid, data_source text, schema_name text, tenants text[], first_tenant text, disabled boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.id, s.name, p.schema_name, coalesce(array_agg(t.slug ORDER BY t.slug COLLATE "C") FILTER (WHERE t.id IS NOT NULL), '{}'),
           min(t.slug COLLATE "C") FILTER (WHERE tenant_ids IS NULL OR w.id IS NOT NULL), s.status = 'disabled'
    FROM app.data_sources s
         LEFT JOIN app.tenants t ON t.data_source_id = s.id
         LEFT JOIN unnest(tenant_ids) AS w (id) ON w.id = t.id
         CROSS JOIN LATERAL (SELECT CASE WHEN s.isolation = 'schema' THEN t.tenant_id_in_data_source
                                         ELSE coalesce(s.options ->> 'schema', 'public') END AS schema_name) p
    WHERE p.schema_name IS NOT NULL
    GROUP BY s.id, p.schema_name
    HAVING tenant_ids IS NULL OR count(w.id) > 0
$$;
REVOKE ALL ON FUNCTION kessel._targets(uuid[]) FROM PUBLIC;

-- ---------- what a call asks for ----------

-- The blueprint, if it is one for data sources.
CREATE FUNCTION kessel._fleet_blueprint(blueprint text) RETURNS kessel.blueprints
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found kessel.blueprints;
BEGIN
    SELECT * INTO found FROM kessel.blueprints b WHERE b.name = blueprint;
    IF found.name IS NULL THEN
        RAISE EXCEPTION 'blueprint "%" does not exist', blueprint
            USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM kessel.blueprints lists those that do.';
    END IF;
    IF found.applies_to <> 'data_sources' THEN
        RAISE EXCEPTION 'blueprint "%" is for this database, not for data sources', blueprint
            USING ERRCODE = 'wrong_object_type', HINT = 'kessel.setup() applies it, kessel.teardown() takes it back.';
    END IF;
    RETURN found;
END
$$;
REVOKE ALL ON FUNCTION kessel._fleet_blueprint(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._fleet_blueprint(text) TO kessel_admin;

-- The version that a call means: the last one for NULL.
CREATE FUNCTION kessel._wanted_version(blueprint text, to_version integer) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known integer[] := ARRAY(SELECT m.version FROM kessel.migrations m WHERE m.blueprint = (kessel._fleet_blueprint(_wanted_version.blueprint)).name ORDER BY 1);
BEGIN
    IF known = '{}' THEN
        RAISE EXCEPTION 'blueprint "%" has no migrations', blueprint
            USING ERRCODE = 'invalid_parameter_value', HINT = 'kessel.add_migration() adds them.';
    END IF;
    IF to_version IS NULL THEN
        RETURN known[cardinality(known)];
    END IF;
    IF to_version <> 0 AND to_version <> ALL (known) THEN
        RAISE EXCEPTION 'blueprint "%" has no version %', blueprint, to_version
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It has %s%s.', array_to_string(known[1:20], ', '), CASE WHEN cardinality(known) > 20 THEN ' and more' ELSE '' END),
                  HINT = 'SELECT version, name FROM kessel.migrations lists them.';
    END IF;
    RETURN to_version;
END
$$;
REVOKE ALL ON FUNCTION kessel._wanted_version(text, integer) FROM PUBLIC;

CREATE TYPE kessel.planned_migration AS (data_source text, schema_name text, tenants text[], from_version integer, to_version integer, migrations text[], note text);
COMMENT ON TYPE kessel.planned_migration IS 'A line of kessel.plan_migration()';

CREATE FUNCTION kessel.plan_migration(blueprint text, to_version integer DEFAULT NULL, tenants text[] DEFAULT NULL) RETURNS SETOF kessel.planned_migration
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted integer := kessel._wanted_version(blueprint, to_version);
BEGIN
    RETURN QUERY
    WITH place AS (
        SELECT g.*, k.version, k.trying
        FROM kessel._targets(kessel._tenant_ids(plan_migration.tenants)) g
             LEFT JOIN kessel.migration_targets k ON k.data_source_id = g.data_source_id AND k.schema_name = g.schema_name AND k.blueprint = plan_migration.blueprint
    ), way AS (
        SELECT f.version AS from_version, down.it AS is_down,
               array_agg(m.name ORDER BY CASE WHEN down.it THEN -m.version ELSE m.version END) AS names,
               string_agg(m.name, ', ' ORDER BY m.version) FILTER (WHERE NOT m.transactional) AS alone,
               string_agg(m.name, ', ' ORDER BY m.version) FILTER (WHERE down.it AND m.down IS NULL) AS no_way_down
        FROM (SELECT DISTINCT coalesce(p.version, 0) AS version FROM place p) f
             CROSS JOIN LATERAL (SELECT f.version > wanted AS it) down
             JOIN kessel.migrations m ON m.blueprint = plan_migration.blueprint
                                         AND m.version > least(f.version, wanted) AND m.version <= greatest(f.version, wanted)
        GROUP BY f.version, down.it
    )
    SELECT p.data_source, p.schema_name, p.tenants, p.version, wanted,
           CASE WHEN p.disabled THEN '{}' ELSE coalesce(w.names, '{}') END,
           nullif(concat_ws('; ',
               CASE WHEN p.disabled THEN 'skipped: the data source is disabled'
                    WHEN p.trying IS NOT NULL THEN 'a migration was cut off there: the target will be asked what it has'
                    WHEN p.version IS NULL THEN 'not known here what it has: the target will be asked'
                    WHEN w.is_down THEN 'by kessel.rollback() only' END,
               'without a way down: ' || CASE WHEN NOT p.disabled THEN w.no_way_down END,
               'not transactional: ' || CASE WHEN NOT p.disabled THEN w.alone END), '')
    FROM place p LEFT JOIN way w ON w.from_version = coalesce(p.version, 0)
    ORDER BY p.data_source, p.schema_name;
END
$$;
REVOKE ALL ON FUNCTION kessel.plan_migration(text, integer, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.plan_migration(text, integer, text[]) TO kessel_admin;
COMMENT ON FUNCTION kessel.plan_migration(text, integer, text[]) IS
    'What kessel.migrate(), or where a target has a higher version kessel.rollback(), would run where, as far as this database knows; connects nowhere. A line for each target: data source, schema, slugs of all tenants who live there, '
    'from_version (NULL: not known), to_version (NULL as the argument: the last one), names of the migrations in the order in which they run, note: what is special. tenants: slugs or ids; NULL: all. '
    'Errors: 22023 no such version, 42704 no such blueprint, 42809 it is for the infra database, KR002. For kessel_admin';

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
COMMENT ON COLUMN kessel.migration_targets.trying IS 'A migration to this version has begun or may have, and how it has ended is not known here; NULL: it is known';
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
COMMENT ON COLUMN kessel.migration_run_targets.version IS 'What it has; NULL: not known';
COMMENT ON COLUMN kessel.migration_run_targets.applied IS 'Migrations that were run there';
COMMENT ON COLUMN kessel.migration_run_targets.attempts IS 'How often it was tried: a lock that was not to be had makes it more than once';
COMMENT ON COLUMN kessel.migration_run_targets.error IS 'sqlstate, message, detail, hint, migration, statement (its number in the script), line';
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

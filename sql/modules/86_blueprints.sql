-- Blueprints: named, versioned sets of migrations, for the infra database or for
-- data sources.

CREATE TABLE kessel.blueprints (
    name            text COLLATE "C" PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^[a-z][a-z0-9_]{0,62}$'),
    description     text,
    applies_to      text NOT NULL CHECK (applies_to IN ('infra', 'data_sources')),
    for_new_tenants boolean NOT NULL DEFAULT true,
    version         integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    built_in        boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE kessel.blueprints IS 'Named sets of migrations. Written by kessel.add_blueprint and kessel.drop_blueprint.';
COMMENT ON COLUMN kessel.blueprints.applies_to IS 'infra: this database, see kessel.setup(); data_sources: where tenants'' data is, see kessel.migrate()';
COMMENT ON COLUMN kessel.blueprints.for_new_tenants IS 'data_sources: a new tenant''s place is brought to version when the tenant is created';
COMMENT ON COLUMN kessel.blueprints.version IS 'data_sources: the version that the whole fleet is meant to have, which the last migration or rollback of all tenants has set; 0: none';
COMMENT ON COLUMN kessel.blueprints.built_in IS 'comes with the extension, and is not part of a dump';

CREATE TABLE kessel.migrations (
    blueprint     text COLLATE "C" NOT NULL REFERENCES kessel.blueprints ON UPDATE CASCADE ON DELETE CASCADE,
    version       integer NOT NULL CHECK (version > 0),
    name          text NOT NULL CHECK (name OPERATOR(pg_catalog.~) '^[0-9]{1,9}_[a-z0-9_]{1,100}$'),
    up            text NOT NULL,
    down          text,
    transactional boolean NOT NULL DEFAULT true,
    checksum      text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (blueprint, version)
);
COMMENT ON TABLE kessel.migrations IS 'The migrations of each blueprint. Written by kessel.add_migration.';
COMMENT ON COLUMN kessel.migrations.version IS 'The number with which the name begins; migrations run in its order';
COMMENT ON COLUMN kessel.migrations.down IS 'What takes it back; NULL: nothing does';
COMMENT ON COLUMN kessel.migrations.transactional IS 'false: its statements run one by one, each committed alone, as CREATE INDEX CONCURRENTLY has to';
COMMENT ON COLUMN kessel.migrations.checksum IS 'SHA-256 of up in UTF-8, 64 hexadecimal digits';

CREATE TABLE kessel.applied_migrations (
    blueprint  text COLLATE "C" NOT NULL,
    version    integer NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    applied_by name NOT NULL DEFAULT session_user,
    PRIMARY KEY (blueprint, version)
);
COMMENT ON TABLE kessel.applied_migrations IS 'What was migrated in this database. Written by kessel.setup.';

SELECT pg_catalog.pg_extension_config_dump('kessel.blueprints', 'WHERE NOT built_in');
SELECT pg_catalog.pg_extension_config_dump('kessel.migrations', 'WHERE blueprint IN (SELECT b.name FROM kessel.blueprints b WHERE NOT b.built_in)');
SELECT pg_catalog.pg_extension_config_dump('kessel.applied_migrations', '');

CREATE TRIGGER touch BEFORE UPDATE ON kessel.blueprints FOR EACH ROW EXECUTE FUNCTION kessel._touch();
ALTER TABLE kessel.blueprints ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.applied_migrations ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON kessel.blueprints FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.migrations FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.applied_migrations FOR SELECT TO kessel_admin USING (true);
GRANT SELECT ON kessel.blueprints, kessel.migrations, kessel.applied_migrations TO kessel_admin;

-- What is in a script. Errors: 42601 what cannot be parsed, 2D000 transaction
-- control, 0A000 COPY FROM STDIN and TO STDOUT.
CREATE FUNCTION kessel._script_statements(script text)
RETURNS TABLE (line integer, sql text, alone text, unnamed_index boolean)
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_statements';
REVOKE ALL ON FUNCTION kessel._script_statements(text) FROM PUBLIC;

CREATE FUNCTION kessel._script_place(script text, schema_name text, runtime text) RETURNS text
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'kr_script_placed';
REVOKE ALL ON FUNCTION kessel._script_place(text, text, text) FROM PUBLIC;

-- Runs a script here, as the caller and in the caller's transaction.
CREATE FUNCTION kessel._script_run(script text, what text) RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_script_run';
REVOKE ALL ON FUNCTION kessel._script_run(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._script_run(text, text) TO kessel_admin;

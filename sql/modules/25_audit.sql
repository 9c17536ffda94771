-- The audit log: who has opened which secret, and what else left a trace.
--
-- The same records stand in the server's log; the table is written by a
-- background worker, in transactions of its own, and by nobody else. doc/audit.md
-- tells what is recorded, where, and what can get lost.

-- No identity column: before PostgreSQL 17 partitions have none, and a dump of
-- one version has to be restored in another.
CREATE SEQUENCE app.audit_log_id_seq;

CREATE TABLE app.audit_log (
    id               bigint NOT NULL DEFAULT pg_catalog.nextval('app.audit_log_id_seq'),
    occurred_at      timestamptz NOT NULL,
    action           text NOT NULL,
    purpose          text,
    ok               boolean NOT NULL,
    role_name        text,
    login_role       text,
    as_role          text,
    user_id          uuid,
    tenant_id        uuid,
    secret_id        uuid,
    version          integer,
    count            bigint NOT NULL,
    sqlstate         text,
    reason           text,
    pid              integer NOT NULL,
    client_addr      inet,
    application_name text
) PARTITION BY RANGE (occurred_at);

COMMENT ON TABLE app.audit_log IS 'Who has opened which secret, and what else left a trace; also what has failed, and what was done in transactions that were rolled back. Written by a background worker where the library is in shared_preload_libraries. Partitioned by month, in UTC; to be rid of a month drop its partition.';
COMMENT ON COLUMN app.audit_log.id IS 'In the order of storing';
COMMENT ON COLUMN app.audit_log.occurred_at IS 'When; where secrets were read through a view, when the first of up to 32 was';
COMMENT ON COLUMN app.audit_log.action IS 'open: a secret was opened; alert: a rate was out of the ordinary; lost: so many records found no room and stand in the server''s log only';
COMMENT ON COLUMN app.audit_log.purpose IS 'What for: route (the router connects), reveal (read by a person), test, owner, update, verify, export and others; of an alert its kind: reveals, failures';
COMMENT ON COLUMN app.audit_log.ok IS 'false: refused or failed, see sqlstate and reason';
COMMENT ON COLUMN app.audit_log.role_name IS 'The role of SET ROLE, or of the login; while a table is maintained (ANALYZE, REINDEX, autovacuum) its owner, whose functions run then';
COMMENT ON COLUMN app.audit_log.login_role IS 'The role of the login';
COMMENT ON COLUMN app.audit_log.as_role IS 'Whose privilege has counted, where that is another role''s: the owner of a SECURITY DEFINER function';
COMMENT ON COLUMN app.audit_log.user_id IS 'sub of the request''s claims; NULL where there is none, or where they are malformed';
COMMENT ON COLUMN app.audit_log.tenant_id IS 'Whose secret it is; NULL for what belongs to no tenant';
COMMENT ON COLUMN app.audit_log.secret_id IS 'In vault.secrets, where it may have been deleted since';
COMMENT ON COLUMN app.audit_log.version IS 'Which version of the secret';
COMMENT ON COLUMN app.audit_log.count IS 'How often; more than 1 only where there is no secret_id';
COMMENT ON COLUMN app.audit_log.sqlstate IS 'Of the failure';
COMMENT ON COLUMN app.audit_log.reason IS 'Of the failure, in a few words';
COMMENT ON COLUMN app.audit_log.pid IS 'Process id of the backend';
COMMENT ON COLUMN app.audit_log.client_addr IS 'NULL for a Unix socket, and for processes that serve no client';

-- For rows of which the month has no partition.
CREATE TABLE app.audit_log_default PARTITION OF app.audit_log DEFAULT;
COMMENT ON TABLE app.audit_log_default IS 'Rows of months that have no partition: empty, unless one could not be made';

-- Indexes belong to partitions: one on the table itself would, in a restore, make
-- those of each partition before the dump does.
CREATE INDEX audit_log_default_occurred_at ON app.audit_log_default (occurred_at);
CREATE INDEX audit_log_default_secret_id ON app.audit_log_default (secret_id, occurred_at);
CREATE INDEX audit_log_default_tenant_id ON app.audit_log_default (tenant_id, occurred_at);

ALTER TABLE app.audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.audit_log_default ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON app.audit_log, app.audit_log_default FROM PUBLIC;
REVOKE ALL ON SEQUENCE app.audit_log_id_seq FROM PUBLIC;
GRANT SELECT ON app.audit_log TO kessel_admin;
CREATE POLICY admin_reads ON app.audit_log FOR SELECT TO kessel_admin USING (true);

-- Partitions of months are made later, so they are not the extension's: a dump
-- carries them as tables, with their rows.
SELECT pg_catalog.pg_extension_config_dump('app.audit_log', '');
SELECT pg_catalog.pg_extension_config_dump('app.audit_log_default', '');
SELECT pg_catalog.pg_extension_config_dump('app.audit_log_id_seq', '');

-- This month's partition and those of the next two. One that cannot be made
-- must not keep records from being stored.
CREATE FUNCTION kessel._make_audit_partitions() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month timestamp;
    partition text;
BEGIN
    FOR ahead IN 0 .. 2 LOOP
        month := pg_catalog.date_trunc('month', pg_catalog.now() AT TIME ZONE 'UTC') + pg_catalog.make_interval(months => ahead);
        partition := 'audit_log_' || pg_catalog.to_char(month, 'YYYY_MM');
        CONTINUE WHEN pg_catalog.to_regclass('app.' || partition) IS NOT NULL;
        BEGIN
            EXECUTE pg_catalog.format('CREATE TABLE app.%I (LIKE app.audit_log INCLUDING DEFAULTS)', partition);
            EXECUTE pg_catalog.format('REVOKE ALL ON app.%I FROM PUBLIC', partition);
            EXECUTE pg_catalog.format('ALTER TABLE app.%I ENABLE ROW LEVEL SECURITY', partition);
            EXECUTE pg_catalog.format('CREATE INDEX %I ON app.%I (occurred_at)', partition || '_occurred_at', partition);
            EXECUTE pg_catalog.format('CREATE INDEX %I ON app.%I (secret_id, occurred_at)', partition || '_secret_id', partition);
            EXECUTE pg_catalog.format('CREATE INDEX %I ON app.%I (tenant_id, occurred_at)', partition || '_tenant_id', partition);
            EXECUTE pg_catalog.format('ALTER TABLE app.audit_log ATTACH PARTITION app.%I FOR VALUES FROM (%L) TO (%L)', partition,
                                      month AT TIME ZONE 'UTC', (month + '1 month') AT TIME ZONE 'UTC');
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING USING ERRCODE = SQLSTATE,
                MESSAGE = pg_catalog.format('partition app.%s of the audit log was not made', partition),
                DETAIL = SQLERRM,
                HINT = 'Its rows go to app.audit_log_default. What stands in there already for that month must be moved before it can be made.';
        END;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel._make_audit_partitions() FROM PUBLIC;

CREATE FUNCTION kessel.audit_status(
    OUT buffer_kb     integer,
    OUT used_kb       integer,
    OUT pending       integer,
    OUT lost          bigint,
    OUT worker_pid    integer,
    OUT failed_starts bigint
) RETURNS record
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_audit_sql_status';
REVOKE ALL ON FUNCTION kessel.audit_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.audit_status() TO kessel_admin;
COMMENT ON FUNCTION kessel.audit_status() IS
'How audit records get from shared memory into app.audit_log. buffer_kb: size of that memory, 0 where there is none because the library is not in shared_preload_libraries, and then records are in the server''s log only. used_kb: how much of it all databases use. pending: records of this database that wait to be stored. lost: rows of this database that found no room since the server''s start; they are in the log. worker_pid: the worker that stores them, NULL while there is none, because nothing waits. failed_starts: how often no worker could be had, for want of max_worker_processes. For kessel_admin.';

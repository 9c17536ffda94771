-- The remote transaction follows the local one.
SET kessel.tenant = 'ember';
BEGIN;
INSERT INTO data.accounts (id, name) VALUES (9001, 'kept');
SAVEPOINT a;
INSERT INTO data.accounts (id, name) VALUES (9002, 'undone');
SAVEPOINT b;
UPDATE data.accounts SET name = 'undone too' WHERE id = 9001;
RELEASE b;
ROLLBACK TO a;
SELECT id, name FROM data.accounts WHERE id > 9000;
INSERT INTO data.accounts (id, name) VALUES (9001, 'fails');
ROLLBACK TO a;
INSERT INTO data.accounts (id, name) VALUES (9003, 'kept too');
COMMIT;
SELECT id, name FROM data.accounts WHERE id > 9000 ORDER BY id;
BEGIN;
DELETE FROM data.accounts WHERE id > 9000;
ROLLBACK;
SELECT count(*) FROM data.accounts WHERE id > 9000;

-- exceptions in plpgsql are savepoints, also in the middle of a scan
DO $$
DECLARE
    r record;
    failures int := 0;
BEGIN
    FOR r IN SELECT id FROM data.accounts WHERE id > 8990 ORDER BY id LOOP
        BEGIN
            INSERT INTO data.accounts (id, name) VALUES (r.id, 'again');
        EXCEPTION WHEN unique_violation THEN
            failures := failures + 1;
        END;
    END LOOP;
    RAISE NOTICE '% failures', failures;
END $$;
DO $$
BEGIN
    DELETE FROM data.accounts WHERE id = 9001;
    BEGIN
        DELETE FROM data.accounts WHERE id = 9003;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
SELECT id FROM data.accounts WHERE id > 9000;
DELETE FROM data.accounts WHERE id > 9000;

-- one snapshot for the whole transaction, over both tenants of one source
BEGIN;
SELECT kessel.use_tenant('alder') IS NOT NULL AS alder;
SELECT count(*) FROM data.accounts;
SELECT kessel.use_tenant('birch') IS NOT NULL AS birch;
SELECT count(*) FROM data.accounts;
SELECT kessel.use_tenant('alder') IS NOT NULL AS alder;
SELECT count(*) FROM data.accounts;
COMMIT;
SHOW kessel.tenant;

-- an error of the data source ends the transaction and nothing more
BEGIN;
SELECT 1 / (id - 1) FROM data.accounts WHERE id = 1;
COMMIT;
SELECT count(*) FROM data.accounts WHERE 1 / (id - 1) = 0 AND id < 3;
SELECT count(*) FROM data.accounts;

-- a timeout stops the remote query too
SET statement_timeout = '200ms';
SELECT count(*) FROM data.accounts a, data.accounts b, data.accounts c WHERE a.amount + b.amount + c.amount < 0;
RESET statement_timeout;
SELECT count(*) FROM data.accounts;
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kessel_router' AND state = 'active';

-- read only, and what cannot be done
BEGIN READ ONLY;
SELECT count(*) FROM data.accounts;
INSERT INTO data.accounts (id, name) VALUES (1, 'x');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT count(*) FROM data.accounts;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE data.accounts SET amount = amount WHERE id = 1;
COMMIT;
BEGIN;
SELECT count(*) FROM data.accounts;
PREPARE TRANSACTION 'no';
SELECT count(*) FROM data.accounts;

-- writing for two tenants is refused, reading is not
BEGIN;
UPDATE data.accounts SET amount = amount WHERE id = 1;
SELECT kessel.use_tenant('alder') IS NOT NULL AS alder;
SELECT count(*) FROM data.accounts;
SAVEPOINT a;
UPDATE data.accounts SET amount = amount WHERE id = 1;
ROLLBACK TO a;
SELECT count(*) FROM data.accounts;
COMMIT;
-- what a savepoint has undone does not count; what it has kept does
SET kessel.tenant = 'ember';
BEGIN;
SAVEPOINT a;
UPDATE data.accounts SET amount = amount WHERE id = 1;
ROLLBACK TO a;
SET LOCAL kessel.tenant = 'birch';
SAVEPOINT b;
UPDATE data.accounts SET amount = amount WHERE id = 1;
RELEASE b;
SET LOCAL kessel.tenant = 'alder';
INSERT INTO data.accounts (id, name) VALUES (8000, 'refused');
ROLLBACK;
BEGIN;
SET LOCAL kessel.cross_tenant_writes = on;
INSERT INTO data.accounts (id, name) VALUES (8000, 'both');
SET LOCAL kessel.tenant = 'alder';
INSERT INTO data.accounts (id, name) VALUES (8000, 'both');
COMMIT;
DELETE FROM data.accounts WHERE id = 8000 RETURNING name;
SET kessel.tenant = 'alder';
DELETE FROM data.accounts WHERE id = 8000 RETURNING name;

-- the connections of this session
SELECT kessel.disconnect() > 0 AS closed;
SELECT count(*) FROM kessel.connections;
BEGIN;
UPDATE data.accounts SET amount = amount WHERE id = 1;
SET LOCAL kessel.tenant = 'ember';
SELECT count(*) FROM data.accounts;
SELECT data_source, tenant, in_transaction, has_written, server_version / 10000 = current_setting('server_version_num')::int / 10000 AS this_version
FROM kessel.connections ORDER BY data_source;
SELECT kessel.disconnect('database');
SELECT count(*) FROM data.accounts;
COMMIT;
SELECT data_source, tenant, in_transaction, has_written FROM kessel.connections;
SELECT kessel.disconnect('nowhere');

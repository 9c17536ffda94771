-- Appends that wait for several servers at once (option async_capable).
\set VERBOSITY terse
\set me :USER

-- Two queries that wait for each other end only if both are under way.
\c regress_database regress_owner
CREATE TABLE events (id int, part int, data text);
INSERT INTO events SELECT i, i % 4, 'database ' || i FROM generate_series(1, 3000) i;
CREATE FUNCTION meet(self int, other int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(7072, self);
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7072 AND objid = other AND granted) LOOP
        IF clock_timestamp() > statement_timestamp() + interval '20 seconds' THEN
            RAISE 'nobody came';
        END IF;
    END LOOP;
    RETURN self;
END
$$;
CREATE VIEW meeting AS SELECT meet(1, 2) AS id;
GRANT SELECT, INSERT, UPDATE ON events, meeting TO regress_runtime;
\c regress_schema regress_owner
CREATE TABLE t_cedar.events (id int, part int, data text);
CREATE TABLE "t-Dune".events (id int, part int, data text);
INSERT INTO t_cedar.events SELECT i, 5, 'cedar ' || i FROM generate_series(1, 2000) i;
INSERT INTO "t-Dune".events SELECT i, 6, 'dune ' || i FROM generate_series(1, 1000) i;
CREATE FUNCTION meet(self int, other int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(7072, self);
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7072 AND objid = other AND granted) LOOP
        IF clock_timestamp() > statement_timestamp() + interval '20 seconds' THEN
            RAISE 'nobody came';
        END IF;
    END LOOP;
    RETURN self;
END
$$;
CREATE VIEW t_cedar.meeting AS SELECT meet(2, 1) AS id;
GRANT SELECT, INSERT, UPDATE ON t_cedar.events, "t-Dune".events, t_cedar.meeting TO regress_runtime;

\c regression :me
CREATE SCHEMA everywhere;
SET search_path = everywhere;
CREATE SERVER async_cedar FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'cedar', async_capable 'true');
CREATE SERVER async_dune FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'dune', async_capable 'true');
CREATE SERVER async_one FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'database', async_capable 'true');
CREATE SERVER async_two FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'database', async_capable 'true');
CREATE TABLE events (id int, part int, data text) PARTITION BY LIST (part);
CREATE FOREIGN TABLE e_cedar PARTITION OF events FOR VALUES IN (5) SERVER async_cedar OPTIONS (schema_name '@tenant', table_name 'events');
CREATE FOREIGN TABLE e_dune PARTITION OF events FOR VALUES IN (6) SERVER async_dune OPTIONS (schema_name '@tenant', table_name 'events');
-- these two share a connection
CREATE FOREIGN TABLE e_one PARTITION OF events FOR VALUES IN (0, 1, 2, 3) SERVER async_one OPTIONS (schema_name 'public', table_name 'events');
CREATE FOREIGN TABLE e_two PARTITION OF events FOR VALUES IN (7) SERVER async_two OPTIONS (schema_name 'public', table_name 'events');
CREATE TABLE e_here PARTITION OF events FOR VALUES IN (8);
INSERT INTO e_here SELECT i, 8, 'here ' || i FROM generate_series(1, 500) i;
CREATE FUNCTION keeps(text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$BEGIN RETURN $1 LIKE '%7'; END$$;

CREATE FOREIGN TABLE meeting_one (id int) SERVER async_one OPTIONS (schema_name 'public', table_name 'meeting');
CREATE FOREIGN TABLE meeting_cedar (id int) SERVER async_cedar OPTIONS (schema_name '@tenant', table_name 'meeting');
SELECT sum(id) FROM (SELECT id FROM meeting_one UNION ALL SELECT id FROM meeting_cedar) s;

EXPLAIN (COSTS OFF) SELECT count(*), sum(id), min(data), max(data) FROM events WHERE keeps(data);
PREPARE totals AS SELECT count(*), sum(id), min(data), max(data) FROM events WHERE keeps(data);
EXECUTE totals;
EXECUTE totals;
-- the same, one after the other
SET enable_async_append = off;
SELECT count(*), sum(id), min(data), max(data) FROM events WHERE keeps(data);
RESET enable_async_append;

-- several Appends on the same connections; parameters; again and again
SELECT count(*), sum(a.id) FROM events a JOIN events b ON b.id = a.id AND b.part = a.part;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*), sum(b.id) FROM (SELECT id FROM e_here WHERE id < 8) h, LATERAL (SELECT id FROM events e WHERE e.id = h.id OFFSET 0) b;
RESET enable_hashjoin;
RESET enable_mergejoin;
SELECT count(*), count(m) FROM (SELECT (SELECT max(o.data) FROM e_two o WHERE o.id = e.id) AS m FROM events e WHERE e.id < 30) s;

-- stopping early, nothing found, an error at one of them
SELECT count(*) FROM (SELECT id FROM events LIMIT 10) s;
SELECT count(*) FROM events WHERE id < 0;
SELECT count(*) FROM events WHERE 1 / (id - 1500) IS NULL;
SELECT count(*) FROM events WHERE id = 1500;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM events WHERE id IN (1, 2);
MOVE 3 FROM c;
SELECT count(*) FROM events;
SAVEPOINT s;
SELECT count(*) FROM e_dune WHERE 1 / (id - 500) IS NULL;
ROLLBACK TO s;
SELECT count(*) FROM e_cedar;
MOVE FORWARD ALL FROM c;
COMMIT;

-- what is written in a transaction is read, and rows are updated where they are
BEGIN;
SET LOCAL kessel.cross_tenant_writes = on;
INSERT INTO events VALUES (-1, 5, 'new'), (-1, 6, 'new'), (-1, 1, 'new'), (-1, 8, 'new');
SELECT part, data FROM events WHERE id = -1 ORDER BY part;
ROLLBACK;
BEGIN;
UPDATE e_cedar SET data = 'changed' WHERE id = 3;
SELECT part, data FROM events WHERE id = 3 ORDER BY part;
ROLLBACK;
DO $$ BEGIN EXECUTE 'EXPLAIN (ANALYZE, VERBOSE) SELECT id FROM everywhere.events WHERE id < 30'; END $$;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA everywhere CASCADE;
DROP SERVER async_cedar, async_dune, async_one, async_two;
SELECT kessel.disconnect() > 0 AS closed;

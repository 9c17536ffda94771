-- Many rows: INSERT in bulk.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER
\c regress_database regress_owner
CREATE TYPE mood AS ENUM ('calm', 'wild "one"');
CREATE DOMAIN posint AS integer CHECK (VALUE > 0);
CREATE TABLE kinds (
    id serial PRIMARY KEY, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric(10,3), yes boolean, u uuid, raw bytea,
    j json, jb jsonb, t text, vc varchar(5), c char(4), d date, tm time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
    ints integer[], texts text[], m mood, p posint, ip inet, b bit(3), vb varbit, r int4range, "Odd ""name""" text,
    twice bigint GENERATED ALWAYS AS (i8 * 2) STORED);
CREATE TABLE numbers (n integer PRIMARY KEY CHECK (n <> 777), note text NOT NULL DEFAULT 'none', gone integer);
CREATE TABLE drifted (n bigint PRIMARY KEY, a mood, b text[], c numeric, d bigint);
CREATE TABLE always (n integer GENERATED ALWAYS AS IDENTITY, note text);
CREATE TABLE dropping (n integer);
CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.n % 10 = 0 THEN RETURN NULL; END IF; RETURN new; END';
CREATE TRIGGER drop_some BEFORE INSERT ON dropping FOR EACH ROW EXECUTE FUNCTION drop_some();
CREATE VIEW even AS SELECT n, note FROM numbers WHERE n % 2 = 0;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON kinds, numbers, drifted, even, always, dropping TO regress_runtime;
GRANT USAGE ON SEQUENCE kinds_id_seq TO regress_runtime;
\c regression :me
SELECT count(*) FROM kessel.import_tables('database', 'public', 'bulk', limit_to => '{kinds,numbers,drifted,even,always,dropping}');
SET kessel.tenant = 'ember';

-- all kinds of types, NULLs among them, the same through the row by row way
CREATE TEMP TABLE kinds_here AS
SELECT i AS i2, (i * 10000000000)::bigint AS i8, (i / 3.0)::real AS f4, (i / 7.0)::double precision AS f8, i / 11.0 AS n, i % 2 = 0 AS yes,
       md5(i::text)::uuid AS u, ('\x00ff' || lpad(to_hex(i), 4, '0'))::bytea AS raw, ('{"a" :  ' || i || '}')::json AS j, ('{"a" :  ' || i || '}')::jsonb AS jb,
       'tab	line
back\slash "quote" {brace} NULL é ' || i AS t, 'v' || i AS vc, 'c' || i % 100 AS c, date '1999-12-31' + i AS d, time '00:00' + i * interval '1 s' AS tm,
       timetz '00:00+05' + i * interval '1 s' AS tz, timestamp '2000-01-01' + i * interval '1 us' AS ts, timestamptz '2000-01-01 00:00+05' + i * interval '1 h' AS tstz,
       i * interval '1 mon 1 day 1 us' AS iv, ARRAY[i, NULL, -i] AS ints, ARRAY['a,b', NULL, '"', i::text] AS texts,
       CASE WHEN i % 3 > 0 THEN 'wild "one"' ELSE 'calm' END::bulk.mood AS m, i::bulk.posint AS p, ('10.0.0.' || i % 256)::inet AS ip, (i % 8)::bit(3) AS b,
       (i % 8)::bit(3)::varbit AS vb, int4range(i, i + 5) AS r, CASE WHEN i % 5 > 0 THEN 'x' END AS odd
FROM generate_series(1, 3000) i;
UPDATE kinds_here SET t = NULL, jb = NULL, m = NULL, ints = NULL, n = NULL WHERE i2 % 10 = 0;
SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET timezone = 'Asia/Kolkata'; SET extra_float_digits = 0; SET bytea_output = 'escape';
SET client_encoding = 'LATIN1';
INSERT INTO bulk.kinds (i2, i8, f4, f8, n, yes, u, raw, j, jb, t, vc, c, d, tm, tz, ts, tstz, iv, ints, texts, m, p, ip, b, vb, r, "Odd ""name""") SELECT * FROM kinds_here;
RESET client_encoding;
RESET datestyle; RESET intervalstyle; RESET timezone; RESET extra_float_digits; RESET bytea_output;
SELECT count(*), sum(twice) = sum(i8) * 2 AS twice, min(id), max(id) FROM bulk.kinds;
SELECT count(*) AS same FROM bulk.kinds k JOIN kinds_here h USING (i2)
WHERE (k.i8, k.f4, k.f8, k.yes, k.u, k.raw, k.j::text, k.vc, k.c, k.d, k.tm, k.tz, k.ts, k.tstz, k.iv, k.texts, k.p, k.ip, k.b, k.vb, k.r)
    = (h.i8, h.f4, h.f8, h.yes, h.u, h.raw, h.j::text, h.vc, h.c, h.d, h.tm, h.tz, h.ts, h.tstz, h.iv, h.texts, h.p, h.ip, h.b, h.vb, h.r)
  AND (k.t, k.jb, k.ints, k.m, k.n, k."Odd ""name""") IS NOT DISTINCT FROM (h.t, h.jb, h.ints, h.m, h.n::numeric(10,3), h.odd);
TRUNCATE bulk.kinds;

-- the source's default for some of the rows; the ids come in order
INSERT INTO bulk.kinds (id, i2) SELECT CASE WHEN i BETWEEN 1001 AND 1500 THEN 100000 + i END, i FROM generate_series(1, 2000) i;
SELECT count(*), count(*) FILTER (WHERE id > 100000) AS given,
       bool_and(id - i2 = 3000 OR id > 100000 OR id - i2 = 2500) AS in_order FROM bulk.kinds;
TRUNCATE bulk.kinds;

-- what fails is named, and nothing of it stays
\set SHOW_CONTEXT errors
\set VERBOSITY default
INSERT INTO bulk.numbers SELECT i FROM generate_series(1, 1000) i;
INSERT INTO bulk.numbers SELECT 3000 - i FROM generate_series(1, 3000) i;
SELECT count(*) FROM bulk.numbers;
\set SHOW_CONTEXT never
INSERT INTO bulk.kinds (id, m) SELECT i % 900, 'calm' FROM generate_series(1, 3000) i;
SELECT count(*) FROM bulk.kinds;
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- counts
\set QUIET off
INSERT INTO bulk.numbers SELECT i FROM generate_series(1000, 1999) i;
INSERT INTO bulk.numbers SELECT i FROM generate_series(1500, 2499) i ON CONFLICT DO NOTHING;
INSERT INTO bulk.numbers SELECT i FROM generate_series(1500, 2499) i ON CONFLICT DO NOTHING RETURNING n;
INSERT INTO bulk.even SELECT i, 'even' FROM generate_series(3001, 3020) i;
\set QUIET on
SELECT note, count(*) FROM bulk.numbers WHERE n > 3000 GROUP BY 1;

-- goes on by COPY after batches of 128 and 1024 rows; a full batch may be the last
CREATE FUNCTION bulk.report() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '% rows', (SELECT count(*) FROM bulk.numbers WHERE n > 100000); RETURN NULL; END$$;
CREATE TRIGGER report AFTER INSERT ON bulk.numbers FOR EACH STATEMENT EXECUTE FUNCTION bulk.report();
\set QUIET off
INSERT INTO bulk.numbers SELECT 100000 + i FROM generate_series(1, 128) i;
INSERT INTO bulk.numbers SELECT 200000 + i FROM generate_series(1, 2176) i;
INSERT INTO bulk.numbers SELECT 300000 + i FROM generate_series(1, 3000) i;
DROP TRIGGER report ON bulk.numbers;
INSERT INTO bulk.numbers SELECT 400000 + i FROM generate_series(1, 2176) i;
\set VERBOSITY default
INSERT INTO bulk.numbers SELECT CASE i WHEN 2176 THEN 777 ELSE 500000 + i END FROM generate_series(1, 2176) i;
INSERT INTO bulk.numbers SELECT CASE i WHEN 1300 THEN 777 ELSE 500000 + i END FROM generate_series(1, 4000) i;
BEGIN;
INSERT INTO bulk.numbers SELECT 500000 + i FROM generate_series(1, 2300) i;
INSERT INTO bulk.numbers SELECT 600000 + i / CASE i WHEN 2280 THEN 0 ELSE 1 END FROM generate_series(1, 3000) i;
ROLLBACK;
\set VERBOSITY terse
-- somebody else needs the connection: the table that is read, a function, a trigger
INSERT INTO bulk.numbers SELECT n + 500000, note FROM bulk.numbers WHERE n > 400000;
CREATE FUNCTION bulk.rows_now() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT count(*) FROM bulk.numbers WHERE n > 1000000';
INSERT INTO bulk.numbers SELECT 1000000 + i, bulk.rows_now()::text FROM generate_series(1, 3000) i;
SELECT count(*) FROM bulk.numbers WHERE n > 1000000;
INSERT INTO bulk.kinds (id, i2) SELECT CASE WHEN i % 300 < 100 THEN i + 10000 END, i FROM generate_series(1, 3000) i;
SELECT count(*), count(*) FILTER (WHERE id > 10000) AS given FROM bulk.kinds;
INSERT INTO bulk.always (note) SELECT 'n' FROM generate_series(1, 500) i;
INSERT INTO bulk.always (n, note) SELECT i, 'n' FROM generate_series(1, 500) i;
INSERT INTO bulk.dropping SELECT i FROM generate_series(1, 1000) i;
SELECT (SELECT count(*) FROM bulk.always), (SELECT count(*) FROM bulk.dropping);
\set QUIET on
DELETE FROM bulk.numbers WHERE n > 100000;

-- other types there than here
CREATE SCHEMA drift;
CREATE FOREIGN TABLE drift.drifted (n integer, a text, b text, c integer, d text) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'drifted');
INSERT INTO drift.drifted SELECT i, CASE WHEN i % 2 = 0 THEN 'calm' END, '{a,"b c"}', i, i FROM generate_series(1, 500) i;
SELECT count(*), count(a), min(b) AS b, sum(c) AS c, max(d::int) AS d FROM drift.drifted;
INSERT INTO drift.drifted SELECT i, 'mad', '{}' FROM generate_series(501, 600) i;

-- the remote table changes under what is remembered of it
\c regress_database regress_owner
ALTER TABLE numbers DROP COLUMN gone, ADD COLUMN later integer;
ALTER TABLE drifted ALTER COLUMN c TYPE text, ALTER COLUMN d TYPE mood USING NULL;
\c regression :me
SET kessel.tenant = 'ember';
INSERT INTO bulk.numbers SELECT i FROM generate_series(5001, 5100) i;
ALTER FOREIGN TABLE bulk.numbers DROP COLUMN gone;
INSERT INTO bulk.numbers SELECT i FROM generate_series(5001, 5100) i;
INSERT INTO drift.drifted SELECT i, 'calm', '{}', i, 'calm' FROM generate_series(501, 600) i;

-- the option batch_size, and a table without columns to send
ALTER FOREIGN TABLE bulk.numbers OPTIONS (ADD batch_size '10');
EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO bulk.numbers SELECT i FROM generate_series(6001, 6100) i;
INSERT INTO bulk.numbers SELECT i FROM generate_series(6001, 6100) i;
ALTER FOREIGN TABLE bulk.numbers OPTIONS (SET batch_size '1');
INSERT INTO bulk.numbers SELECT i FROM generate_series(6101, 6110) i;
ALTER FOREIGN TABLE bulk.numbers OPTIONS (DROP batch_size);
EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO bulk.numbers SELECT i FROM generate_series(6001, 6100) i;
SELECT count(*) FROM bulk.numbers WHERE n > 6000;

-- two partitions on one connection, rows in turn
CREATE TABLE parts (n integer, note text) PARTITION BY LIST ((n % 3));
CREATE FOREIGN TABLE part_0 PARTITION OF parts FOR VALUES IN (0) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'numbers');
CREATE FOREIGN TABLE part_1 PARTITION OF parts FOR VALUES IN (1) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'numbers');
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
\set QUIET off
INSERT INTO parts SELECT i, 'part' FROM generate_series(10001, 13000) i;
\set QUIET on
SELECT (SELECT count(*) FROM bulk.numbers WHERE n > 10000) AS there, (SELECT count(*) FROM part_2) AS here;
DROP TABLE parts;

-- wide rows
INSERT INTO bulk.numbers SELECT i, repeat('x', 100000) FROM generate_series(20001, 20300) i;
SELECT count(*), sum(length(note)) FROM bulk.numbers WHERE n > 20000;

-- the schema of a tenant, and tenants that share a table
SET kessel.tenant = 'dune';
INSERT INTO data.accounts SELECT i, 'many ' || i FROM generate_series(100, 1099) i;
SELECT count(*) FROM data.accounts WHERE id >= 100;
SET kessel.tenant = 'birch';
INSERT INTO data.accounts SELECT i, 'many ' || i FROM generate_series(100, 1099) i;
SET kessel.tenant = 'alder';
SELECT count(*) FROM data.accounts WHERE id >= 100;
SET kessel.tenant = 'birch';
SELECT count(*) FROM data.accounts WHERE id >= 100;
DELETE FROM data.accounts WHERE id >= 100;
SET kessel.tenant = 'dune';
DELETE FROM data.accounts WHERE id >= 100;

SET client_min_messages = warning;
DROP SCHEMA bulk, drift CASCADE;
\c regress_database regress_owner
DROP TABLE kinds, numbers, drifted, always, dropping CASCADE; DROP FUNCTION drop_some;
DROP TYPE mood; DROP DOMAIN posint;

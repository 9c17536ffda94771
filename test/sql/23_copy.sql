-- COPY FROM into router tables.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER
\c regress_database regress_owner
CREATE TYPE mood AS ENUM ('calm', 'wild "one"');
CREATE TABLE plain (id serial PRIMARY KEY, gone integer, t text, b bytea, j jsonb, n numeric(10,2), at timestamptz, at_home boolean NOT NULL DEFAULT true,
                    CHECK (id <> 3777));
CREATE TABLE mixed (id integer PRIMARY KEY, m mood, texts text[], t text, twice integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE VIEW low AS SELECT id, t, at_home FROM plain WHERE id < 1000000;
ALTER TABLE plain DROP COLUMN gone;
CREATE TABLE ruled (id integer, note text);
CREATE RULE elsewhere AS ON INSERT TO ruled DO INSTEAD INSERT INTO plain (id, t) VALUES (new.id, new.note);
CREATE TABLE told (id integer);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'row %', new.id; IF new.id % 10 = 0 THEN RETURN NULL; END IF; RETURN new; END$$;
CREATE TRIGGER tell BEFORE INSERT ON told FOR EACH ROW EXECUTE FUNCTION tell();
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON plain, mixed, low, ruled, told TO regress_runtime;
GRANT USAGE ON SEQUENCE plain_id_seq TO regress_runtime;
\c regression :me
SELECT count(*) FROM kessel.import_tables('database', 'public', 'copied', limit_to => '{plain,mixed,low,ruled,told}');
CREATE FOREIGN TABLE copied.renamed (first text, gone text, "Second" integer) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'plain');
ALTER FOREIGN TABLE copied.renamed ALTER COLUMN first OPTIONS (ADD column_name 't'), ALTER COLUMN "Second" OPTIONS (ADD column_name 'id'), DROP COLUMN gone;
SET kessel.tenant = 'ember';

-- in binary form: NULL, empty, and what text would have to escape
\set QUIET off
COPY copied.plain (id, t, b, j, n, at, at_home) FROM stdin;
1	\N	\N	\N	\N	\N	t
2		\\x	{}	0	2026-01-01 00:00:00+05	f
3	a\tb\\c\nd\re\\.	\\x00ff5c0a	{"k": "v\\"w"}	-1.239	infinity	t
4	\\N	\\x41	[1, null]	NaN	-infinity	t
\.
\set QUIET on
SELECT id, t, b, j, n, at AT TIME ZONE 'UTC' AS at, at_home FROM copied.plain ORDER BY id;
SELECT t IS NULL AS is_null, t = '' AS is_empty, t = E'a\tb\\c\nd\re\\.' AS as_it_was FROM copied.plain ORDER BY id;
COPY copied.plain (id, t, at_home) FROM stdin (FORMAT csv);
5,"quoted, ""text"" é",t
6,,t
7,"",t
\.
SELECT id, left(t, 14) AS t, t = 'quoted, "text" é' AS as_it_was FROM copied.plain WHERE id > 4 ORDER BY id;
DELETE FROM copied.plain;

-- as text, for types of its own
SET datestyle = 'German';
COPY copied.mixed (id, m, texts, t) FROM stdin;
1	wild "one"	{"a,b","c\\\\d",NULL,"\ttab"}	x\ty
2	\N	\N	\\.
3	calm	{}	\\N\r\n\\
\.
SELECT id, m, texts, t = E'x\ty' OR t = '\.' OR t = E'\\N\r\n\\' AS t, twice FROM copied.mixed ORDER BY id;
RESET datestyle;

-- the data source's default where NULL cannot be, also for some rows only; other names
COPY copied.plain (t, at_home) FROM stdin;
first	t
second	t
\.
COPY copied.plain (id, t, at_home) FROM stdin;
101	given	t
\N	taken	t
102	given	t
\.
COPY copied.renamed FROM stdin;
renamed	200
\.
SELECT id, t, at_home FROM copied.plain ORDER BY id;
COPY (SELECT CASE WHEN i % 2 = 0 THEN i + 10000 END, 'in turn', true FROM generate_series(1, 100) i) TO '/tmp/kr_regress_copy.txt';
COPY copied.plain (id, t, at_home) FROM '/tmp/kr_regress_copy.txt';
SELECT count(*), count(*) FILTER (WHERE id > 10000) AS given FROM copied.plain WHERE t = 'in turn';
DELETE FROM copied.plain;

-- many rows; what fails is named, nothing of it stays, and the session goes on
COPY (SELECT i, 'row ' || i, true FROM generate_series(1, 20000) i) TO '/tmp/kr_regress_copy.txt';
\set SHOW_CONTEXT errors
\set VERBOSITY default
COPY copied.plain (id, t, at_home) FROM '/tmp/kr_regress_copy.txt';
COPY (SELECT i, CASE i WHEN 15000 THEN NULL ELSE true END FROM generate_series(10001, 20000) i) TO '/tmp/kr_regress_copy.txt';
\set SHOW_CONTEXT never
BEGIN;
SAVEPOINT a;
COPY copied.plain (id, at_home) FROM '/tmp/kr_regress_copy.txt' WHERE id < 15000 OR at_home IS NOT NULL;
SELECT count(*) FROM copied.plain;
SAVEPOINT b;
COPY copied.plain (id, at_home) FROM '/tmp/kr_regress_copy.txt' WHERE id > 15000;
ROLLBACK TO b;
SELECT count(*) FROM copied.plain;
COPY (SELECT CASE i WHEN 25000 THEN 'x' ELSE i::text END, true FROM generate_series(20001, 30000) i) TO '/tmp/kr_regress_copy.txt';
COPY copied.plain (id, at_home) FROM '/tmp/kr_regress_copy.txt';
ROLLBACK TO a;
SELECT count(*) FROM copied.plain;
COPY copied.plain (id) FROM stdin;
1
\.
COMMIT;
SELECT id, at_home FROM copied.plain;
\set VERBOSITY terse

-- somebody else needs the connection: a default that looks at the table, triggers
CREATE FUNCTION copied.rows_so_far() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT count(*)::text FROM copied.plain';
ALTER FOREIGN TABLE copied.plain ALTER COLUMN t SET DEFAULT copied.rows_so_far();
COPY copied.plain (id, at_home) FROM stdin;
2	t
3	t
4	t
3001	t
3002	t
3003	t
\N	t
\N	t
3006	t
\.
SELECT id, t FROM copied.plain WHERE id > 1 ORDER BY t;
DELETE FROM copied.plain WHERE id > 4;
ALTER FOREIGN TABLE copied.plain ALTER COLUMN t DROP DEFAULT;
CREATE FUNCTION copied.report() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE NOTICE '% % %: % rows', TG_WHEN, TG_OP, TG_LEVEL, (SELECT count(*) FROM copied.plain); RETURN new; END$$;
CREATE TRIGGER report_all AFTER INSERT ON copied.plain FOR EACH STATEMENT EXECUTE FUNCTION copied.report();
COPY copied.plain (id, at_home) FROM stdin;
5	t
6	t
\.
CREATE TRIGGER report_each AFTER INSERT ON copied.plain FOR EACH ROW EXECUTE FUNCTION copied.report();
COPY copied.plain (id, at_home) FROM stdin;
7	t
8	t
\.
DROP TRIGGER report_each ON copied.plain;
CREATE TRIGGER report_before BEFORE INSERT ON copied.plain FOR EACH ROW EXECUTE FUNCTION copied.report();
COPY copied.plain (id, at_home) FROM stdin;
9	t
10	t
\.
DROP TRIGGER report_before ON copied.plain;
DROP TRIGGER report_all ON copied.plain;

-- partitions on one connection, rows in turn
CREATE TABLE parts (id integer, t text, at_home boolean DEFAULT true) PARTITION BY LIST ((id % 3));
CREATE FOREIGN TABLE part_0 PARTITION OF parts FOR VALUES IN (0) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'plain');
CREATE FOREIGN TABLE part_1 PARTITION OF parts FOR VALUES IN (1) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'low');
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
COPY (SELECT i, 'part' FROM generate_series(30001, 30600) i) TO '/tmp/kr_regress_copy.txt';
COPY parts (id, t) FROM '/tmp/kr_regress_copy.txt';
SELECT (SELECT count(*) FROM copied.plain WHERE id > 30000) AS there, (SELECT count(*) FROM part_2) AS here;
DROP TABLE parts;

-- where COPY does not do what INSERT does: views, rules; a source that speaks
COPY copied.low FROM stdin;
40001	by a view	t
\.
COPY copied.ruled FROM stdin;
40002	by a rule
\.
SELECT id, t FROM copied.plain WHERE id > 40000 ORDER BY id;
COPY (SELECT i FROM generate_series(1, 30000) i) TO '/tmp/kr_regress_copy.txt';
COPY copied.told FROM '/tmp/kr_regress_copy.txt';
SELECT count(*) FROM copied.told;
ALTER FOREIGN TABLE copied.plain OPTIONS (ADD batch_size '1');
COPY copied.plain (id, at_home) FROM stdin;
50001	t
\.

-- a schema each, and shared tables, where COPY is refused there
SET kessel.tenant = 'dune';
COPY data.accounts (id, name) FROM stdin;
100	dune 100
\.
SELECT count(*) FROM data.accounts WHERE id = 100;
DELETE FROM data.accounts WHERE id = 100;
SET kessel.tenant = 'birch';
COPY (SELECT i, 'copied ' || i FROM generate_series(100, 5099) i) TO '/tmp/kr_regress_copy.txt';
\set QUIET off
COPY data.accounts (id, name) FROM '/tmp/kr_regress_copy.txt';
\set QUIET on
SELECT count(*) FROM data.accounts WHERE id >= 100;
COPY data.accounts (id, name) FROM '/tmp/kr_regress_copy.txt' WHERE id > 5000;
SELECT count(*) FROM data.accounts WHERE id >= 100;
SET kessel.tenant = 'alder';
SELECT count(*) FROM data.accounts WHERE id >= 100;
SET kessel.tenant = 'birch';
DELETE FROM data.accounts WHERE id >= 100;

\! rm -f /tmp/kr_regress_copy.txt
SET client_min_messages = warning;
DROP SCHEMA copied CASCADE;
\c regress_database regress_owner
DROP TABLE plain, mixed, ruled, told CASCADE;
DROP FUNCTION tell; DROP TYPE mood;

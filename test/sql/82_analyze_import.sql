-- ANALYZE and IMPORT FOREIGN SCHEMA.
\getenv host PGHOST
\getenv port PGPORT
SELECT format('host %L, port %L, dbname %L', :'host', :'port', 'regress_database') AS place \gset
CREATE SCHEMA stock;
SET search_path = stock;
CREATE SERVER depot FOREIGN DATA WRAPPER kessel_fdw OPTIONS (:place);
CREATE USER MAPPING FOR CURRENT_USER SERVER depot OPTIONS (user 'regress_owner');

-- what the other side has
\set me :USER
\c regress_database regress_owner
CREATE SCHEMA "Odd's";
SET search_path = "Odd's";
CREATE DOMAIN public.grams AS int CHECK (VALUE > 0);
CREATE TABLE parts (id int PRIMARY KEY, "Weight" public.grams NOT NULL, label varchar(20) COLLATE "C" DEFAULT 'it''s \ new',
    gone int, twice int GENERATED ALWAYS AS (id * 2) STORED, serial_no serial);
ALTER TABLE parts DROP COLUMN gone;
INSERT INTO parts (id, "Weight", label) SELECT i, i % 100 + 1, CASE WHEN i % 4 > 0 THEN 'part ' || i % 10 END FROM generate_series(1, 20000) i;
ANALYZE parts;
CREATE TABLE defaults (a int NOT NULL DEFAULT 7, b text COLLATE "C" DEFAULT 'it''s \ new', c int GENERATED ALWAYS AS (a * 2) STORED);
CREATE TABLE nothing ();
CREATE TABLE "back\slash" (a int);
CREATE TABLE years (y int, note text) PARTITION BY RANGE (y);
CREATE TABLE years_1 PARTITION OF years FOR VALUES FROM (1) TO (1000);
CREATE VIEW heavy AS SELECT id, "Weight" FROM parts WHERE "Weight" > 90;
CREATE MATERIALIZED VIEW light AS SELECT id FROM parts WHERE "Weight" < 3;
CREATE SEQUENCE not_a_table;
\c regression :me
SET search_path = stock;

-- IMPORT FOREIGN SCHEMA
IMPORT FOREIGN SCHEMA "Odd's" FROM SERVER depot INTO stock;
CREATE DOMAIN public.grams AS int;
IMPORT FOREIGN SCHEMA "Odd's" FROM SERVER depot INTO stock;
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
       pg_get_expr(d.adbin, d.adrelid) AS expression, a.attfdwoptions, co.collname
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
     LEFT JOIN pg_collation co ON co.oid = a.attcollation AND co.collname <> 'default'
WHERE c.relnamespace = 'stock'::regnamespace ORDER BY c.relname, a.attnum;
SELECT ftrelid::regclass AS table, ftoptions FROM pg_foreign_table WHERE ftrelid::regclass::text ~ '^(nothing|".*)$' ORDER BY 1;
SELECT id, "Weight", label, twice FROM parts ORDER BY id LIMIT 3;
SELECT count(*) FROM light;
SELECT 1 AS one FROM nothing;

CREATE SCHEMA part_of;
IMPORT FOREIGN SCHEMA "Odd's" LIMIT TO (defaults) FROM SERVER depot INTO part_of OPTIONS (import_default 'true');
SELECT a.attname, a.attnotnull, a.attgenerated, pg_get_expr(d.adbin, d.adrelid) AS expression FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'part_of.defaults'::regclass ORDER BY a.attnum;
IMPORT FOREIGN SCHEMA "Odd's" LIMIT TO (years_1, parts) FROM SERVER depot INTO part_of
    OPTIONS (import_collate 'false', import_default 'false', import_generated 'false', import_not_null 'false');
SELECT c.relname, a.attname, a.attnotnull, a.attgenerated, a.atthasdef FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'part_of'::regnamespace ORDER BY c.relname, a.attnum;
SET client_min_messages = warning;
DROP SCHEMA part_of CASCADE;
RESET client_min_messages;
CREATE SCHEMA part_of;
IMPORT FOREIGN SCHEMA "Odd's" EXCEPT (years, parts, defaults, nothing) FROM SERVER depot INTO part_of;
SELECT relname FROM pg_class WHERE relnamespace = 'part_of'::regnamespace ORDER BY relname;
IMPORT FOREIGN SCHEMA "Odd's" LIMIT TO (light) FROM SERVER depot INTO part_of;
IMPORT FOREIGN SCHEMA nowhere FROM SERVER depot INTO part_of;
IMPORT FOREIGN SCHEMA "Odd's" FROM SERVER depot INTO part_of OPTIONS (import_colour 'false');
IMPORT FOREIGN SCHEMA public FROM SERVER kessel_router INTO part_of;
CREATE SERVER by_source FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'database');
IMPORT FOREIGN SCHEMA public LIMIT TO (accounts) FROM SERVER by_source INTO part_of;
SELECT count(*) FROM part_of.accounts;
GRANT USAGE ON FOREIGN SERVER by_source TO regress_app;
GRANT CREATE ON SCHEMA part_of TO regress_app;
SET ROLE regress_app;
IMPORT FOREIGN SCHEMA public LIMIT TO (contacts) FROM SERVER by_source INTO part_of;
RESET ROLE;

-- ANALYZE
SET default_statistics_target = 10;
ANALYZE parts;
SELECT reltuples, relpages > 50 AS has_pages FROM pg_class WHERE oid = 'parts'::regclass;
SELECT attname, abs(null_frac - 0.25) < 0.05 AS quarter_null, array_length(most_common_vals, 1) > 0 AS common
FROM pg_stats WHERE schemaname = 'stock' AND tablename = 'parts' AND attname IN ('label', 'id') ORDER BY attname;
EXPLAIN (COSTS OFF) SELECT count(*) FROM parts WHERE label = 'never';
ANALYZE heavy, years, nothing;
SELECT relname, reltuples FROM pg_class WHERE oid IN ('heavy'::regclass, 'years'::regclass) ORDER BY relname;

-- it is asked as the owner, whoever analyzes
ALTER FOREIGN TABLE parts OWNER TO regress_app;
\set VERBOSITY sqlstate
ANALYZE parts;
\set VERBOSITY default
CREATE USER MAPPING FOR regress_app SERVER depot OPTIONS (user 'regress_owner', password_required 'false');
ANALYZE parts;

-- a server that is bound to a data source is one database; a router is not
ANALYZE part_of.accounts;
SELECT reltuples FROM pg_class WHERE oid = 'part_of.accounts'::regclass;
CREATE SERVER by_row_source FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'row');
CREATE FOREIGN TABLE part_of.shared (id int) SERVER by_row_source OPTIONS (schema_name 'public', table_name 'accounts');
ANALYZE part_of.shared;
SET kessel.tenant = 'alder';
ANALYZE data.accounts;
SELECT reltuples FROM pg_class WHERE oid = 'data.accounts'::regclass;
SELECT count(*) FROM pg_stats WHERE schemaname = 'data';
RESET kessel.tenant;

SET client_min_messages = warning;
DROP SERVER depot, by_source, by_row_source CASCADE;
DROP SCHEMA stock, part_of CASCADE;
DROP DOMAIN public.grams;
\c regress_database regress_owner
SET client_min_messages = warning;
DROP SCHEMA "Odd's" CASCADE;
DROP DOMAIN public.grams;

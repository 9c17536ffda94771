-- Columns with a default that only the data source can evaluate.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER
\c regress_database regress_owner
CREATE SEQUENCE tickets;
CREATE FUNCTION next_code() RETURNS text LANGUAGE sql AS $$SELECT 'code ' || nextval('public.tickets')$$;
CREATE TABLE orders (id serial PRIMARY KEY, code text DEFAULT next_code(), ident integer GENERATED ALWAYS AS IDENTITY, plain text DEFAULT 'here', note text, "Odd" integer DEFAULT nextval('tickets') + 1000);
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON orders TO regress_runtime;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO regress_runtime;
\c regression :me
SELECT * FROM kessel.import_tables('database', 'public', 'def', limit_to => '{orders}') ORDER BY object, action;
SELECT * FROM kessel.import_tables('database', 'public', 'def', limit_to => '{orders}') ORDER BY object, action;
-- one of an earlier version has no options yet; what a table has no more goes
ALTER FOREIGN TABLE def.orders ALTER COLUMN code OPTIONS (DROP remote_default), ALTER COLUMN "Odd" OPTIONS (SET remote_default 'false'), ALTER COLUMN note OPTIONS (ADD remote_default 'true');
SELECT * FROM kessel.import_tables('database', 'public', 'def', limit_to => '{orders}') WHERE action = 'altered column' ORDER BY object;
SELECT attname, attfdwoptions FROM pg_attribute WHERE attrelid = 'def.orders'::regclass AND attfdwoptions IS NOT NULL ORDER BY attnum;
ALTER FOREIGN TABLE def.orders ALTER COLUMN note OPTIONS (ADD remote_default 'maybe');
SET kessel.tenant = 'ember';

EXPLAIN (VERBOSE, COSTS OFF) INSERT INTO def.orders (note) VALUES ('a');
INSERT INTO def.orders (note) VALUES ('a') RETURNING *;
INSERT INTO def.orders (code, note) VALUES (NULL, 'explicit NULL') RETURNING *;
INSERT INTO def.orders (code, note) VALUES (DEFAULT, 'DEFAULT') RETURNING *;
INSERT INTO def.orders DEFAULT VALUES RETURNING *;
INSERT INTO def.orders (id, code, note) VALUES (100000, 'x', 'in a list'), (DEFAULT, DEFAULT, 'in a list') RETURNING *;
INSERT INTO def.orders (note) SELECT 'many' FROM generate_series(1, 300);
SELECT count(*), count(code), count(DISTINCT "Odd"), count(DISTINCT ident) FROM def.orders WHERE note = 'many';
PREPARE put(text) AS INSERT INTO def.orders (note) VALUES ($1) RETURNING code IS NOT NULL AS code;
EXECUTE put('prepared');
INSERT INTO def.orders (id, note) VALUES (1, 'again') ON CONFLICT (id) DO UPDATE SET note = excluded.note || excluded.code || current_setting('kessel.tenant') || $$ $1 $$ RETURNING id, note;
UPDATE def.orders SET code = DEFAULT WHERE id = 1 RETURNING code;

-- COPY with a list of columns
COPY def.orders (note) FROM stdin;
copied
copied
\.
COPY def.orders (note, code) FROM stdin;
copied with NULL	\N
\.
SELECT note, code IS NULL AS no_code, "Odd" IS NULL AS no_odd FROM def.orders WHERE note LIKE 'copied%' ORDER BY id;

-- a BEFORE trigger may give the value; partitions; views
CREATE FUNCTION def.fill() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF new.note = 'fill' THEN new.code := 'filled'; END IF; RETURN new; END$$;
CREATE TRIGGER fill BEFORE INSERT ON def.orders FOR EACH ROW EXECUTE FUNCTION def.fill();
INSERT INTO def.orders (note) VALUES ('fill'), ('leave') RETURNING note, code LIKE 'code %' AS default, code = 'filled' AS filled;
DROP TRIGGER fill ON def.orders;
CREATE TABLE parts (note text, code text, id integer) PARTITION BY LIST (note);
CREATE FOREIGN TABLE part PARTITION OF parts FOR VALUES IN ('p') SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'orders');
ALTER FOREIGN TABLE part ALTER COLUMN code OPTIONS (ADD remote_default 'true'), ALTER COLUMN id OPTIONS (ADD remote_default 'true');
INSERT INTO parts (note) VALUES ('p') RETURNING note, code IS NOT NULL AS code, id IS NOT NULL AS id;
INSERT INTO parts (note, code) VALUES ('p', NULL) RETURNING note, code IS NOT NULL AS code, id IS NOT NULL AS id;
DROP TABLE parts;
CREATE VIEW def.view AS SELECT note, code FROM def.orders;
INSERT INTO def.view (note) VALUES ('v') RETURNING note, code IS NOT NULL AS code;

SET client_min_messages = warning;
DROP SCHEMA def CASCADE;
\c regress_database regress_owner
DROP TABLE orders; DROP FUNCTION next_code; DROP SEQUENCE tickets;

-- Errors do not repeat values of tables with sensitive columns.
\getenv host PGHOST
\getenv port PGPORT
\set me :USER
\c regress_database regress_owner
CREATE TABLE people (id integer PRIMARY KEY, ssn text UNIQUE, born text, CHECK (ssn <> 'no-secret'));
CREATE TABLE deferred (id integer, ssn text UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO people VALUES (1, 'secret-1', 'secret-not-a-date');
GRANT SELECT, INSERT, UPDATE, DELETE ON people, deferred TO regress_runtime;
\c regression :me
SELECT count(*) FROM kessel.import_tables('database', 'public', 'hr', limit_to => '{people,deferred}');
ALTER FOREIGN TABLE hr.people ALTER COLUMN ssn OPTIONS (ADD sensitive 'on');
ALTER FOREIGN TABLE hr.deferred ALTER COLUMN ssn OPTIONS (ADD sensitive 'true');
SET kessel.tenant = 'ember';
\set SHOW_CONTEXT always
\set VERBOSITY default
INSERT INTO hr.people VALUES (2, 'secret-1');
INSERT INTO hr.people SELECT i, 'secret-' || i FROM generate_series(1, 100) i;
COPY hr.people (id, ssn) FROM stdin;
3	secret-1
\.
CREATE FUNCTION hr.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER nothing BEFORE INSERT ON hr.people FOR EACH ROW EXECUTE FUNCTION hr.nothing();
COPY hr.people (id, ssn) FROM stdin;
3	secret-1
\.
INSERT INTO hr.people VALUES (4, 'no-secret');
UPDATE hr.people SET ssn = 'no-secret';
SELECT id FROM hr.people WHERE ssn::integer = 5;
ALTER FOREIGN TABLE hr.people ALTER COLUMN born TYPE date;
SELECT born FROM hr.people;
BEGIN;
INSERT INTO hr.deferred VALUES (1, 'secret-1'), (1, 'secret-1');
COMMIT;
DO $$
DECLARE name text; detail text;
BEGIN
    INSERT INTO hr.people VALUES (2, 'secret-1');
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS name = CONSTRAINT_NAME, detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '% % %', SQLSTATE, name, detail;
END $$;
-- without the option they do
ALTER FOREIGN TABLE hr.people ALTER COLUMN ssn OPTIONS (SET sensitive 'false');
INSERT INTO hr.people VALUES (2, 'secret-1');
ALTER FOREIGN TABLE hr.people ALTER COLUMN ssn OPTIONS (DROP sensitive);
SELECT born FROM hr.people;
\set VERBOSITY terse
ALTER FOREIGN TABLE hr.people ALTER COLUMN ssn OPTIONS (ADD sensitive 'perhaps');

SET client_min_messages = warning;
DROP SCHEMA hr CASCADE;
\c regress_database regress_owner
DROP TABLE people, deferred;

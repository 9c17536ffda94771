-- Three data sources in this very instance, one for each isolation, and five
-- tenants. The tests that follow build on it.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER

CREATE EXTENSION kessel_router CASCADE;
CREATE ROLE regress_runtime LOGIN;
CREATE ROLE regress_owner LOGIN;
CREATE DATABASE regress_row OWNER regress_owner;
CREATE DATABASE regress_schema OWNER regress_owner;
CREATE DATABASE regress_database OWNER regress_owner;

-- shared tables, told apart by rows
\c regress_row regress_owner
GRANT USAGE ON SCHEMA public TO regress_runtime;
CREATE TABLE accounts (
    tenant_id text NOT NULL, id int NOT NULL, name text NOT NULL UNIQUE, amount numeric(10,2) DEFAULT 0,
    opened date, PRIMARY KEY (tenant_id, id));
CREATE TABLE contacts (
    tenant_id text NOT NULL, id int NOT NULL, account_id int, email text, PRIMARY KEY (tenant_id, id));
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts, contacts TO regress_runtime;

-- a schema for each
\c regress_schema regress_owner
CREATE SCHEMA t_cedar;
CREATE SCHEMA "t-Dune";
CREATE TABLE t_cedar.accounts (id int PRIMARY KEY, name text NOT NULL UNIQUE, amount numeric(10,2) DEFAULT 0, opened date);
CREATE TABLE t_cedar.contacts (id int PRIMARY KEY, account_id int REFERENCES t_cedar.accounts, email text);
CREATE TABLE "t-Dune".accounts (LIKE t_cedar.accounts INCLUDING ALL);
CREATE TABLE "t-Dune".contacts (LIKE t_cedar.contacts INCLUDING ALL);
INSERT INTO t_cedar.accounts SELECT i, 'cedar ' || i, i * 3, date '2026-01-01' + i FROM generate_series(1, 6) i;
INSERT INTO t_cedar.contacts SELECT i, i % 6 + 1, 'c' || i || '@cedar.example' FROM generate_series(1, 12) i;
INSERT INTO "t-Dune".accounts SELECT i, 'dune ' || i, i * 4, date '2026-01-01' + i FROM generate_series(1, 7) i;
INSERT INTO "t-Dune".contacts SELECT i, i % 7 + 1, 'c' || i || '@dune.example' FROM generate_series(1, 14) i;
GRANT USAGE ON SCHEMA t_cedar, "t-Dune" TO regress_runtime;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA t_cedar, "t-Dune" TO regress_runtime;

-- a database for one
\c regress_database regress_owner
GRANT USAGE ON SCHEMA public TO regress_runtime;
CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL UNIQUE, amount numeric(10,2) DEFAULT 0, opened date);
CREATE TABLE contacts (id int PRIMARY KEY, account_id int REFERENCES accounts, email text);
INSERT INTO accounts SELECT i, 'ember ' || i, i * 5, date '2026-01-01' + i FROM generate_series(1, 2000) i;
INSERT INTO contacts SELECT i, i % 2000 + 1, 'c' || i || '@ember.example' FROM generate_series(1, 4000) i;
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts, contacts TO regress_runtime;

\c regression :me
SELECT format('host=%s port=%s user=regress_runtime dbname=', :'host', :'port') AS place \gset
\set trusted '{"allow_local": true, "password_required": false}'
SELECT kessel.create_data_source('row', :'place' || 'regress_row', isolation => 'row', options => :'trusted') IS NOT NULL AS made;
SELECT kessel.create_data_source('schema', :'place' || 'regress_schema', isolation => 'schema', options => :'trusted') IS NOT NULL AS made;
SELECT kessel.create_data_source('database', :'place' || 'regress_database', options => :'trusted') IS NOT NULL AS made;
SELECT kessel.set_credential('row', 'regress_owner', NULL, 'owner');
SELECT kessel.install_agent('row');

\c regress_row regress_owner
SELECT kessel_agent.protect('accounts'), kessel_agent.protect('contacts');
\c regression :me
SELECT kessel.create_tenant('alder', data_source => 'row', tenant_id_in_data_source => 'a') IS NOT NULL AS made;
SELECT kessel.create_tenant('birch', data_source => 'row', tenant_id_in_data_source => 'b') IS NOT NULL AS made;
SELECT kessel.create_tenant('cedar', data_source => 'schema') IS NOT NULL AS made;
SELECT kessel.create_tenant('dune', data_source => 'schema', tenant_id_in_data_source => 't-Dune') IS NOT NULL AS made;
SELECT kessel.create_tenant('ember', data_source => 'database') IS NOT NULL AS made;
SELECT tenant, data_source, isolation, schema, epoch, username FROM kessel.routes
WHERE isolation <> 'database' ORDER BY tenant;

SELECT action, object FROM kessel.import_tables('database', 'public') ORDER BY object, action;
\d data.accounts

SET kessel.tenant = 'alder';
INSERT INTO data.accounts SELECT i, 'alder ' || i, i, date '2026-01-01' + i FROM generate_series(1, 4) i;
INSERT INTO data.contacts SELECT i, i % 4 + 1, 'c' || i || '@alder.example' FROM generate_series(1, 8) i;
SET kessel.tenant = 'birch';
INSERT INTO data.accounts SELECT i, 'birch ' || i, i * 2, date '2026-01-01' + i FROM generate_series(1, 5) i;
INSERT INTO data.contacts SELECT i, i % 5 + 1, 'c' || i || '@birch.example' FROM generate_series(1, 10) i;

CREATE ROLE regress_app LOGIN IN ROLE kessel_user;
GRANT USAGE ON SCHEMA data TO regress_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON data.accounts, data.contacts TO regress_app;
SELECT kessel.add_member('alder', '00000000-0000-4000-8000-00000000000a', 'owner');
SELECT kessel.add_member('cedar', '00000000-0000-4000-8000-00000000000a');
SELECT kessel.add_member('birch', '00000000-0000-4000-8000-00000000000b');

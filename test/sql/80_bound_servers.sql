-- Servers with options of libpq, as postgres_fdw has them.
\getenv host PGHOST
\getenv port PGPORT
CREATE SCHEMA bound;
SET search_path = bound;
SELECT format('host %L, port %L, dbname %L', :'host', :'port', 'regress_database') AS place \gset
CREATE SERVER ledger FOREIGN DATA WRAPPER kessel_fdw OPTIONS (:place);
CREATE FOREIGN TABLE ledger_accounts (id int, name text, amount numeric(10,2), opened date)
    SERVER ledger OPTIONS (schema_name 'public', table_name 'accounts');
-- the message differs between versions
\set VERBOSITY sqlstate
SELECT count(*) FROM ledger_accounts;
\set VERBOSITY default
CREATE USER MAPPING FOR CURRENT_USER SERVER ledger OPTIONS (user 'regress_runtime');

-- no tenant is asked for, and none has a say
SET kessel.tenant = 'cedar';
SELECT count(*), min(name) FROM ledger_accounts;
EXPLAIN (COSTS OFF) SELECT * FROM ledger_accounts WHERE id = 3;
INSERT INTO ledger_accounts VALUES (9001, 'by a server', 1) RETURNING id, name;
UPDATE ledger_accounts SET amount = amount + 1 WHERE id = 9001 RETURNING amount;
DELETE FROM ledger_accounts WHERE id = 9001;
BEGIN;
SAVEPOINT a;
INSERT INTO ledger_accounts VALUES (9001, 'undone', 1);
ROLLBACK TO a;
SELECT count(*) FROM ledger_accounts WHERE id = 9001;
COMMIT;
SELECT data_source, tenant, in_transaction FROM kessel.connections WHERE data_source = 'ledger';
RESET kessel.tenant;

-- the marker of router tables means nothing here
CREATE FOREIGN TABLE marked (id int) SERVER ledger OPTIONS (schema_name '@tenant', table_name 'accounts');
SELECT * FROM marked;
DROP FOREIGN TABLE marked;

-- application_name, and what the server's options set for the connection
CREATE FOREIGN TABLE settings (name text, setting text) SERVER ledger OPTIONS (schema_name 'pg_catalog', table_name 'pg_settings');
ALTER SERVER ledger OPTIONS (ADD application_name '%d|%u|%%|%', ADD options '-c work_mem=3MB');
SELECT setting = 'regression|' || session_user || '|%|' AS escapes FROM settings WHERE name = 'application_name';
SELECT setting FROM settings WHERE name = 'work_mem';
SET postgres_fdw.application_name = 'by setting';
SELECT kessel.disconnect('ledger');
SELECT setting FROM settings WHERE name = 'application_name';
RESET postgres_fdw.application_name;
ALTER SERVER ledger OPTIONS (DROP application_name, DROP options);

-- connections: changed options, keep_connections, disconnect, DROP SERVER
SELECT count(*) FROM kessel.connections WHERE data_source = 'ledger';
SELECT 1 AS one FROM ledger_accounts LIMIT 1;
BEGIN;
SELECT 1 AS one FROM ledger_accounts LIMIT 1;
ALTER SERVER ledger OPTIONS (ADD keep_connections 'off');
SELECT 1 AS one FROM ledger_accounts LIMIT 1;
SELECT data_source, in_transaction FROM kessel.connections WHERE data_source = 'ledger';
COMMIT;
SELECT count(*) FROM kessel.connections WHERE data_source = 'ledger';
SELECT 1 AS one FROM ledger_accounts LIMIT 1;
SELECT count(*) FROM kessel.connections WHERE data_source = 'ledger';
ALTER SERVER ledger OPTIONS (DROP keep_connections);
SELECT 1 AS one FROM ledger_accounts LIMIT 1;
SELECT kessel.disconnect('ledger'), kessel.disconnect('ledger');
SELECT kessel.disconnect('no such server');

-- UPDATE and DELETE of joins run there as a whole, also with RETURNING
CREATE FOREIGN TABLE ledger_contacts (id int, account_id int, email text) SERVER ledger OPTIONS (schema_name 'public', table_name 'contacts');
BEGIN;
SET LOCAL enable_nestloop = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
EXPLAIN (VERBOSE, COSTS OFF)
UPDATE ledger_accounts a SET amount = amount + 1 FROM ledger_contacts c WHERE c.account_id = a.id AND a.id = 2
    RETURNING a.tableoid::regclass, a.amount, c.email, a.id, a.ctid IS NOT NULL AS ctid, c, upper(a.name);
UPDATE ledger_accounts a SET amount = amount + 1 FROM ledger_contacts c WHERE c.account_id = a.id AND a.id = 2
    RETURNING a.tableoid::regclass, a.amount, c.email, a.id, a.ctid IS NOT NULL AS ctid, c, upper(a.name);
UPDATE ledger_accounts a SET amount = amount + 1 FROM ledger_contacts c WHERE c.account_id = a.id AND a.id = 2 RETURNING c.id;
UPDATE ledger_accounts a SET amount = amount + 1 FROM ledger_contacts c WHERE c.account_id = a.id AND a.id = 2 RETURNING 'done';
DELETE FROM ledger_contacts c USING ledger_accounts a WHERE c.account_id = a.id AND a.id = 2 RETURNING c.*, a.name, a.amount;
ROLLBACK;
CREATE TABLE own_accounts (id int, name text, amount numeric(10,2), opened date);
INSERT INTO own_accounts VALUES (2, 'own', 7);
ALTER FOREIGN TABLE ledger_accounts INHERIT own_accounts;
BEGIN;
EXPLAIN (VERBOSE, COSTS OFF) UPDATE own_accounts SET amount = amount + 1 WHERE id = 2 RETURNING tableoid::regclass, id, amount;
UPDATE own_accounts SET amount = amount + 1 WHERE id = 2 RETURNING tableoid::regclass, id, amount;
ROLLBACK;
ALTER FOREIGN TABLE ledger_accounts NO INHERIT own_accounts;

-- what cannot be converted is named as the statement names it
CREATE FOREIGN TABLE ledger_mistyped (id int, name date) SERVER ledger OPTIONS (schema_name 'public', table_name 'accounts');
SELECT m.b FROM ledger_mistyped m(a, b) WHERE m.a = 1;
SELECT m, c.id FROM ledger_mistyped m(a, b) JOIN ledger_contacts c ON c.account_id = m.a WHERE m.a = 1;

-- two servers may be written in one transaction, as through postgres_fdw
CREATE SERVER journal FOREIGN DATA WRAPPER kessel_fdw OPTIONS (:place);
CREATE USER MAPPING FOR PUBLIC SERVER journal OPTIONS (user 'regress_runtime');
CREATE FOREIGN TABLE journal_accounts (id int, name text) SERVER journal OPTIONS (schema_name 'public', table_name 'accounts');
BEGIN;
INSERT INTO ledger_accounts VALUES (9001, 'one');
INSERT INTO journal_accounts VALUES (9002, 'two');
COMMIT;
DELETE FROM ledger_accounts WHERE id IN (9001, 9002) RETURNING id, name;

-- a password is asked of who is no superuser, also below a view and for PUBLIC
GRANT USAGE ON SCHEMA bound TO regress_app;
GRANT SELECT ON ledger_accounts, journal_accounts TO regress_app;
SELECT count(*) FROM journal_accounts WHERE id < 3;
SET ROLE regress_app;
SELECT count(*) FROM journal_accounts;
RESET ROLE;
CREATE VIEW few AS SELECT id FROM ledger_accounts WHERE id < 3;
GRANT SELECT ON few TO regress_app;
SET ROLE regress_app;
SELECT * FROM few ORDER BY id;
RESET ROLE;
ALTER VIEW few OWNER TO regress_app;
\set VERBOSITY sqlstate
SELECT * FROM few ORDER BY id;
\set VERBOSITY default
CREATE USER MAPPING FOR regress_app SERVER ledger OPTIONS (user 'regress_runtime', password 'not asked for');
SELECT * FROM few ORDER BY id;
ALTER USER MAPPING FOR regress_app SERVER ledger OPTIONS (DROP password, ADD password_required 'false');
SELECT * FROM few ORDER BY id;
SET ROLE regress_app;
SELECT * FROM few ORDER BY id;
RESET ROLE;

-- a secret instead of a password
SELECT vault.create_secret('not asked for', 'ledger password') IS NOT NULL AS made;
ALTER USER MAPPING FOR CURRENT_USER SERVER ledger OPTIONS (ADD secret 'ledger pasword');
SELECT count(*) FROM ledger_accounts WHERE id < 3;
ALTER USER MAPPING FOR CURRENT_USER SERVER ledger OPTIONS (SET secret 'ledger password');
SELECT count(*) FROM ledger_accounts WHERE id < 3;
ALTER USER MAPPING FOR CURRENT_USER SERVER ledger OPTIONS (ADD password 'x');
ALTER FOREIGN TABLE ledger_accounts OPTIONS (ADD use_remote_estimate 'true');
SELECT count(*) FROM ledger_accounts WHERE id < 3;
ALTER USER MAPPING FOR CURRENT_USER SERVER ledger OPTIONS (DROP secret);
SELECT count(*) FROM ledger_accounts WHERE id < 3;
ALTER FOREIGN TABLE ledger_accounts OPTIONS (DROP use_remote_estimate);
SELECT vault.delete_secret(id) FROM vault.secrets WHERE name = 'ledger password';

-- truncatable, updatable
CREATE TABLE public.bound_scrap (i int);
CREATE SERVER here FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host :'host', port :'port', dbname 'regression', truncatable 'false');
CREATE USER MAPPING FOR CURRENT_USER SERVER here;
CREATE FOREIGN TABLE scrap (i int) SERVER here OPTIONS (schema_name 'public', table_name 'bound_scrap');
INSERT INTO scrap SELECT generate_series(1, 3);
TRUNCATE scrap;
ALTER FOREIGN TABLE scrap OPTIONS (truncatable 'true', updatable 'false');
TRUNCATE scrap;
SELECT * FROM scrap;
INSERT INTO scrap VALUES (1);

-- a database that is not there
CREATE SERVER nowhere FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host '/nonexistent', dbname 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere OPTIONS (password 'a secret of mine');
CREATE FOREIGN TABLE lost (i int) SERVER nowhere;
\set VERBOSITY terse
SELECT * FROM lost;
\set VERBOSITY default
SET client_min_messages = warning;
DROP SERVER here, ledger, journal, nowhere CASCADE;
SELECT data_source FROM kessel.connections WHERE data_source IN ('here', 'ledger', 'journal');
DROP TABLE public.bound_scrap;
RESET search_path;
DROP SCHEMA bound CASCADE;

-- Servers bound to a tenant or to a data source; options that are refused.
CREATE SERVER cedar_only FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'cedar');
CREATE SERVER ember_source FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'database');
CREATE FOREIGN TABLE cedar_accounts (id int, name text) SERVER cedar_only OPTIONS (schema_name '@tenant', table_name 'accounts');
CREATE FOREIGN TABLE ember_accounts (id int, name text) SERVER ember_source OPTIONS (schema_name 'public', table_name 'accounts');
SET kessel.tenant = 'alder';
SELECT (SELECT count(*) FROM cedar_accounts) AS cedar, (SELECT count(*) FROM ember_accounts) AS ember, (SELECT count(*) FROM data.accounts) AS alder;
EXPLAIN (COSTS OFF) SELECT * FROM cedar_accounts;
EXPLAIN (COSTS OFF) SELECT * FROM ember_accounts;

-- a row-isolated source does not answer to nobody
CREATE SERVER row_source FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'row');
CREATE FOREIGN TABLE row_accounts (tenant_id text, id int, name text) SERVER row_source OPTIONS (schema_name 'public', table_name 'accounts');
SELECT * FROM row_accounts;

-- a tenant with a schema of its own reaches no other
CREATE FOREIGN TABLE other_schema (id int, name text) SERVER kessel_router OPTIONS (schema_name 't_cedar', table_name 'accounts');
SET kessel.tenant = 'dune';
SELECT * FROM other_schema;
INSERT INTO other_schema VALUES (1, 'x');
DELETE FROM other_schema;
UPDATE data.accounts a SET name = 'x' FROM other_schema o WHERE o.id = a.id;

SET kessel.tenant = 'alder';
SELECT kessel.suspend_tenant('cedar');
SELECT count(*) FROM cedar_accounts;
SELECT kessel.resume_tenant('cedar');
SELECT count(*) FROM cedar_accounts;
SELECT kessel.alter_data_source('database', status => 'disabled');
SELECT count(*) FROM ember_accounts;
SELECT kessel.alter_data_source('database', status => 'active');
SELECT count(*) FROM ember_accounts;

CREATE SERVER bad FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'a', data_source 'b');
CREATE SERVER bad FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant '');
CREATE SERVER bad FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'cedar', host 'example.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kessel_fdw OPTIONS (use_remote_estimate 'true');
ALTER SERVER kessel_router OPTIONS (SET fdw_tuple_cost 'cheap');

-- what the validator cannot know is refused when it is used
CREATE USER MAPPING FOR CURRENT_USER SERVER kessel_router OPTIONS (password 'x');
SELECT count(*) FROM data.accounts;
DROP USER MAPPING FOR CURRENT_USER SERVER kessel_router;
CREATE FOREIGN TABLE estimated (id int) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'accounts', use_remote_estimate 'on');
SELECT count(*) FROM estimated;
DROP FOREIGN TABLE estimated;
ALTER SERVER kessel_router OPTIONS (ADD host 'example.com');
SELECT count(*) FROM data.accounts;
ALTER SERVER kessel_router OPTIONS (DROP host);
SELECT count(*) FROM data.accounts;
CREATE SERVER missing FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'nobody');
CREATE FOREIGN TABLE missing_accounts (id int) SERVER missing OPTIONS (table_name 'accounts');
SELECT * FROM missing_accounts;

-- a table that is not there, or not as it was
CREATE FOREIGN TABLE data.gone (id int) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'gone');
SELECT * FROM data.gone;
CREATE FOREIGN TABLE data.changed (id int, surname text) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'accounts');
SELECT * FROM data.changed;
CREATE FOREIGN TABLE data.mistyped (id int, name int) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'accounts');
SELECT * FROM data.mistyped ORDER BY id;
-- a marker inside a literal stays what it is
SELECT count(*) FROM data.accounts WHERE name <> '"@tenant".accounts' AND name <> E'\\''"@tenant".x';
DROP FOREIGN TABLE cedar_accounts, ember_accounts, row_accounts, other_schema, missing_accounts, data.gone, data.changed, data.mistyped;
DROP SERVER cedar_only;
DROP SERVER ember_source;
DROP SERVER row_source;
DROP SERVER missing;

-- catalogs of a data source are for administrators
GRANT USAGE ON FOREIGN SERVER kessel_router TO regress_app;
GRANT CREATE ON SCHEMA data TO regress_app;
SET ROLE regress_app;
CREATE FOREIGN TABLE data.activity (query text) SERVER kessel_router OPTIONS (schema_name 'pg_catalog', table_name 'pg_stat_activity');
CREATE FOREIGN TABLE data.mine (id int) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'accounts');
ALTER FOREIGN TABLE data.mine OPTIONS (SET schema_name 'information_schema');
DROP FOREIGN TABLE data.mine;
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER kessel_router FROM regress_app;
REVOKE CREATE ON SCHEMA data FROM regress_app;

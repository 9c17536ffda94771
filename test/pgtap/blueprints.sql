-- The catalogue of blueprints, and setting up the infra database: what is
-- refused, and who may do what.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = warning;
CREATE ROLE bp_admin;
GRANT kessel_admin TO bp_admin;
CREATE ROLE bp_other;
GRANT kessel_admin TO bp_other;
CREATE ROLE bp_service;
GRANT kessel_service TO bp_service;
GRANT CREATE ON SCHEMA public TO bp_admin, bp_other;

-- ---------- who may do what ----------

SELECT has_function('kessel', name, 'there is ' || name) FROM unnest(ARRAY['add_blueprint', 'add_migration', 'drop_blueprint', 'drop_migration', 'setup', 'setup_status', 'teardown']) AS name;
SELECT ok(obj_description(p, 'pg_proc') ~ 'For kessel_admin$', p || ' says for whom it is')
FROM unnest(ARRAY['kessel.add_blueprint'::regproc, 'kessel.add_migration', 'kessel.drop_blueprint', 'kessel.drop_migration', 'kessel.setup', 'kessel.setup_status', 'kessel.teardown']) p;
SELECT is(array(SELECT r FROM unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user', 'bp_service']) r WHERE has_function_privilege(r, p::oid, 'EXECUTE')), ARRAY['kessel_admin'], p || ' is for kessel_admin alone')
FROM unnest(ARRAY['kessel.add_blueprint'::regproc, 'kessel.add_migration', 'kessel.drop_blueprint', 'kessel.drop_migration', 'kessel.setup', 'kessel.setup_status', 'kessel.teardown']) p;
SELECT is(array(SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace AND p.proname ~ '^_(add_migration|change_migration|migration_here|migrated_here|script_|check_script|blueprint$|checksum|applied_)' AND has_function_privilege('kessel_admin', p.oid, 'EXECUTE')),
          '{}', 'what writes the records is for nobody');
SELECT is(array(SELECT t || ' ' || r FROM unnest(ARRAY['kessel.blueprints', 'kessel.migrations', 'kessel.applied_migrations']) t, unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user']) r WHERE has_table_privilege(r, t, 'INSERT, UPDATE, DELETE, TRUNCATE')),
          '{}', 'nobody writes to the tables');
SELECT is(array(SELECT DISTINCT r FROM unnest(ARRAY['kessel.blueprints', 'kessel.migrations', 'kessel.applied_migrations']) t, unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user']) r WHERE has_table_privilege(r, t, 'SELECT')),
          '{kessel_admin}', 'kessel_admin reads them');
SELECT is(array(SELECT p.proname::text FROM pg_proc p WHERE p.oid IN ('kessel.setup'::regproc, 'kessel.teardown'::regproc, 'kessel._run_migrations'::regproc, 'kessel.add_migration'::regproc) AND p.prosecdef), '{}', 'what runs scripts has the caller''s rights');

-- ---------- blueprints ----------

SELECT lives_ok('SELECT kessel.add_blueprint(''crm'', ''Customers'')', 'a blueprint');
SELECT results_eq('SELECT description, applies_to, for_new_tenants, version, requires::text COLLATE "default", built_in FROM kessel.blueprints WHERE name = ''crm''', $$VALUES ('Customers', 'data_sources', true, 0, '{}', false)$$, 'is there');
SELECT lives_ok('SELECT kessel.add_blueprint(''crm'', for_new_tenants => false)', 'again, with something else');
SELECT results_eq('SELECT description, for_new_tenants FROM kessel.blueprints WHERE name = ''crm''', $$VALUES ('Customers', false)$$, 'changes that, and leaves the description');
SELECT throws_ok(format('SELECT kessel.add_blueprint(%s)', args), '22004', 'only the description may be NULL', 'NULL: ' || args)
FROM unnest(ARRAY['NULL', '''x'', applies_to => NULL', '''x'', for_new_tenants => NULL', '''x'', requires => NULL']) args;
SELECT throws_ok(format('SELECT kessel.add_blueprint(%L)', name), '22023', format('invalid name of a blueprint "%s"', name), format('not a name: "%s"', left(name, 20)))
FROM unnest(ARRAY['', 'Crm', '1crm', 'crm-2', 'crm.x', repeat('x', 64), 'a b', 'x''; DROP TABLE kessel.blueprints; --']) name;
SELECT lives_ok(format('SELECT kessel.add_blueprint(%L); SELECT kessel.drop_blueprint(%1$L)', repeat('x', 63)), '63 characters are');
SELECT throws_ok('SELECT kessel.add_blueprint(''x'', applies_to => ''tenants'')', '22023', 'a blueprint cannot apply to "tenants"');
SELECT lives_ok('SELECT kessel.add_blueprint(''one'', applies_to => ''infra''), kessel.add_blueprint(''two'', applies_to => ''infra'', requires => ''{one}''), kessel.add_blueprint(''three'', applies_to => ''infra'', requires => ''{two,one}'')', 'blueprints that require others');
SELECT throws_ok('SELECT kessel.add_blueprint(''one'', applies_to => ''infra'', requires => ''{three}'')', '22023', 'blueprint "one" would require itself');
SELECT throws_ok('SELECT kessel.add_blueprint(''one'', applies_to => ''infra'', requires => ''{one}'')', '22023', 'blueprint "one" would require itself');
SELECT throws_ok('SELECT kessel.add_blueprint(''x'', applies_to => ''infra'', requires => ''{nothing}'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT kessel.add_blueprint(''x'', applies_to => ''infra'', requires => ''{NULL}'')', '22004', 'a blueprint that is required is NULL');
SELECT throws_ok('SELECT kessel.add_blueprint(''x'', applies_to => ''infra'', requires => ''{crm}'')', '22023', 'blueprint "crm" is for data sources');
SELECT throws_ok('SELECT kessel.add_blueprint(''x'', requires => ''{one}'')', '0A000', 'a blueprint for data sources cannot require others');
SELECT is((SELECT count(*) FROM kessel.blueprints WHERE name = 'x'), 0::bigint, 'what was refused is not there');
SELECT throws_ok('SELECT kessel.drop_blueprint(''one'')', '55000', 'blueprint "one" is in use');
SELECT throws_ok('SELECT kessel.drop_blueprint(''nothing'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT kessel.drop_blueprint(NULL)', '22004', 'the blueprint is NULL');

-- ---------- migrations ----------

SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0001_accounts'', ''CREATE TABLE "@tenant".accounts (id integer)'', ''DROP TABLE accounts'')', 'a migration');
SELECT results_eq('SELECT version, name, transactional, checksum, author FROM kessel.migrations WHERE blueprint = ''crm''',
                  $$VALUES (1, '0001_accounts', true, encode(sha256('CREATE TABLE "@tenant".accounts (id integer)'), 'hex'), current_user::name)$$, 'is there');
SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0001_accounts'', E''CREATE TABLE "@tenant".accounts (id integer)\n\r\n\t '', E''DROP TABLE accounts\n'')', 'again, with blanks at the end');
SELECT is((SELECT count(*) FROM kessel.migrations WHERE checksum = encode(sha256('CREATE TABLE "@tenant".accounts (id integer)'), 'hex')), 1::bigint, 'nothing happens');
SELECT throws_ok(format('SELECT kessel.add_migration(%s)', args), state, message, args)
FROM (VALUES
    ('NULL, ''1_x'', ''SELECT 1''', '22004', 'the blueprint is NULL'),
    ('''crm'', NULL, ''SELECT 1''', '22004', 'only down may be NULL'),
    ('''crm'', ''1_x'', NULL', '22004', 'only down may be NULL'),
    ('''crm'', ''1_x'', ''SELECT 1'', NULL, NULL', '22004', 'only down may be NULL'),
    ('''nothing'', ''1_x'', ''SELECT 1''', '42704', 'blueprint "nothing" does not exist'),
    ('''crm'', '''', ''SELECT 1''', '22023', 'invalid name of a migration ""'),
    ('''crm'', ''accounts'', ''SELECT 1''', '22023', 'invalid name of a migration "accounts"'),
    ('''crm'', ''0000_accounts'', ''SELECT 1''', '22023', 'invalid name of a migration "0000_accounts"'),
    ('''crm'', ''0002'', ''SELECT 1''', '22023', 'invalid name of a migration "0002"'),
    ('''crm'', ''0002_Accounts'', ''SELECT 1''', '22023', 'invalid name of a migration "0002_Accounts"'),
    ('''crm'', ''1234567890_accounts'', ''SELECT 1''', '22023', 'invalid name of a migration "1234567890_accounts"'),
    ('''crm'', ''2_x'', ''''', '22023', 'migration "2_x" has no statement'),
    ('''crm'', ''2_x'', '' ; -- nothing''', '22023', 'migration "2_x" has no statement'),
    ('''crm'', ''2_x'', ''SELECT 1; SELCT 2''', '42601', 'syntax error at or near "SELCT"'),
    ('''crm'', ''2_x'', ''SELECT 1'', ''DROP''', '42601', 'syntax error at end of input'),
    ('''crm'', ''2_x'', ''SELECT $$''', '42601', 'unterminated dollar-quoted string at or near "$$"'),
    ('''crm'', ''2_x'', E''SELECT 1;\n \\i other.sql''', '42601', 'commands of psql cannot be used in a migration'),
    ('''crm'', ''2_x'', E''\\copy a from b''', '42601', 'commands of psql cannot be used in a migration'),
    ('''crm'', ''2_x'', ''BEGIN; SELECT 1; COMMIT''', '2D000', 'a migration cannot begin or end a transaction'),
    ('''crm'', ''2_x'', ''SELECT 1'', ''ROLLBACK''', '2D000', 'a migration cannot begin or end a transaction'),
    ('''crm'', ''2_x'', ''SAVEPOINT a''', '2D000', 'a migration cannot begin or end a transaction'),
    ('''crm'', ''2_x'', ''PREPARE TRANSACTION ''''a''''''', '2D000', 'a migration cannot begin or end a transaction'),
    ('''crm'', ''2_x'', ''COPY a FROM STDIN''', '0A000', 'a migration cannot COPY FROM STDIN'),
    ('''crm'', ''2_x'', ''COPY a TO STDOUT''', '0A000', 'a migration cannot COPY TO STDOUT'),
    ('''crm'', ''2_x'', E''COPY a FROM STDIN;\n1\t2\n\\.\n''', '42601', 'syntax error at or near "1"'),
    ('''crm'', ''2_x'', ''CREATE INDEX CONCURRENTLY i ON a (b)''', '25001', 'CREATE INDEX CONCURRENTLY cannot run in a transaction'),
    ('''crm'', ''2_x'', ''SELECT 1'', ''DROP INDEX CONCURRENTLY i''', '25001', 'DROP INDEX CONCURRENTLY cannot run in a transaction'),
    ('''crm'', ''2_x'', ''CREATE INDEX CONCURRENTLY ON a (b)'', NULL, false', '22023', 'CREATE INDEX CONCURRENTLY needs a name for the index'),
    ('''one'', ''2_x'', ''SELECT 1'', NULL, false', '0A000', 'a migration of the infra database runs in a transaction'),
    ('''one'', ''2_x'', ''VACUUM''', '25001', 'VACUUM cannot run in a transaction'),
    ('''crm'', ''01_other'', ''SELECT 1''', '23505', 'version 1 of blueprint "crm" is "0001_accounts"')) AS t(args, state, message);
SELECT is((SELECT count(*) FROM kessel.migrations WHERE blueprint = 'crm'), 1::bigint, 'what was refused is not there');
SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''2_index'', ''CREATE INDEX CONCURRENTLY i ON a (b)'', ''DROP INDEX CONCURRENTLY i'', false)', 'not in a transaction');
SELECT throws_ok('SELECT kessel.add_blueprint(''crm'', applies_to => ''infra'')', '55000', 'blueprint "crm" exists and applies to data_sources');

-- What PostgreSQL refuses in a transaction.
SELECT is((SELECT array_agg(coalesce(alone, '-') ORDER BY line) FROM kessel._script_statements(E'CREATE DATABASE a;\nDROP DATABASE a;\nCREATE TABLESPACE a LOCATION ''b'';\nDROP TABLESPACE a;\nALTER SYSTEM SET a = b;\nALTER DATABASE a SET TABLESPACE b;\nREINDEX TABLE CONCURRENTLY a;\nREINDEX SCHEMA a;\nREINDEX TABLE a;\nVACUUM;\nANALYZE;\nCLUSTER;\nCLUSTER a;\nDISCARD ALL;\nDISCARD PLANS;\nALTER TABLE a DETACH PARTITION b CONCURRENTLY;\nALTER TABLE a DETACH PARTITION b;\nALTER TYPE a ADD VALUE ''b'';\nCREATE SUBSCRIPTION a CONNECTION ''b'' PUBLICATION c;\nCREATE SUBSCRIPTION a CONNECTION ''b'' PUBLICATION c WITH (connect = false);\nALTER SUBSCRIPTION a REFRESH PUBLICATION;\nALTER SUBSCRIPTION a SET PUBLICATION b WITH (refresh = false);\nALTER SUBSCRIPTION a DISABLE', 'x')),
    ARRAY['CREATE DATABASE', 'DROP DATABASE', 'CREATE TABLESPACE', 'DROP TABLESPACE', 'ALTER SYSTEM', 'ALTER DATABASE SET TABLESPACE', 'REINDEX CONCURRENTLY', 'REINDEX SCHEMA', '-', 'VACUUM', '-', 'CLUSTER of all tables', '-', 'DISCARD ALL', '-', 'ALTER TABLE ... DETACH CONCURRENTLY', '-', '-', 'CREATE SUBSCRIPTION with create_slot', '-', 'ALTER SUBSCRIPTION ... REFRESH', '-', '-'],
    'what cannot run in a transaction');

-- Statements and their lines, with all that can hide a semicolon.
SELECT results_eq($x$SELECT line, sql FROM kessel._script_statements($s$-- one; two
CREATE TABLE "a;b" (c text DEFAULT ';', d text DEFAULT E'\';'); /* ; /* ; */ */ ;;
CREATE FUNCTION f() RETURNS integer LANGUAGE sql
BEGIN ATOMIC
  SELECT 1; SELECT 2;
END;
  DO $a$ BEGIN PERFORM $b$;$b$; END $a$ -- tail;
;
SELECT 'é\' -- end$s$, 'x')$x$,
    $x$VALUES (2, $s$CREATE TABLE "a;b" (c text DEFAULT ';', d text DEFAULT E'\';')$s$), (3, E'CREATE FUNCTION f() RETURNS integer LANGUAGE sql\nBEGIN ATOMIC\n  SELECT 1; SELECT 2;\nEND'),
              (7, $s$DO $a$ BEGIN PERFORM $b$;$b$; END $a$ -- tail;$s$), (9, $s$SELECT 'é\' -- end$s$)$x$, 'statements');
SET LOCAL standard_conforming_strings = off;
SET LOCAL escape_string_warning = off;
SELECT is((SELECT count(*) FROM kessel._script_statements($x$SELECT '\'; SELECT '\'$x$, 'x')), 2::bigint, 'a backslash is one, whatever the session thinks');
RESET standard_conforming_strings;
SELECT is_empty(format('SELECT * FROM kessel._script_statements(%L, ''x'')', script), 'no statement') FROM unnest(ARRAY['', ';;', ' -- x', E'/* \n */']) script;

SELECT is(kessel._script_place($x$SELECT "@tenant".a, "@tenant", '"@tenant"', "@tenant""", E'\'"@tenant"', $a$"@tenant"$a$, U&"@tenant", "@runtime" /* "@tenant" /**/ "@tenant" */ -- "@tenant"
, "@Tenant", "@tenant" , 'x\'"@tenant"$x$, 's"c;h', 'r'),
    $x$SELECT "s""c;h".a, "s""c;h", '"@tenant"', "@tenant""", E'\'"@tenant"', $a$"@tenant"$a$, U&"@tenant", "r" /* "@tenant" /**/ "@tenant" */ -- "@tenant"
, "@Tenant", "s""c;h" , 'x\'"s""c;h"$x$, 'names of the target are put in where they are identifiers');
SELECT is(kessel._script_place('SELECT 1', NULL, NULL), 'SELECT 1', 'a NULL that is not used');
SELECT throws_ok('SELECT kessel._script_place(''GRANT SELECT ON a TO "@runtime"'', ''s'', NULL)', '55000', 'there is nothing that "@runtime" stands for here');
SELECT throws_ok('SELECT kessel._script_place(''SELECT "@tenant".a'', NULL, ''r'')', '55000', 'there is nothing that "@tenant" stands for here');

-- ---------- what was applied in data sources ----------

SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0005_a'', ''SELECT 5''), kessel.add_migration(''crm'', ''0007_b'', ''SELECT 7'')', 'more migrations');
INSERT INTO kessel.migration_targets (data_source_id, schema_name, blueprint, version, trying)
SELECT kessel.create_data_source('bp_a', 'postgresql://u@example.org/a', isolation => 'schema'), 's"1', 'crm', 2, 5
UNION ALL SELECT kessel.create_data_source('bp_b', 'postgresql://u@example.org/b'), 'public', 'crm', NULL, NULL
UNION ALL SELECT kessel.create_data_source('bp_c', 'postgresql://u@example.org/c'), 'public', 'crm', 1, NULL;
SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0007_b'', ''SELECT 77'')', 'applied nowhere: it can be changed');
SELECT is((SELECT checksum FROM kessel.migrations WHERE name = '0007_b'), encode(sha256('SELECT 77'), 'hex'), 'and its checksum is');
SELECT throws_ok('SELECT kessel.add_migration(''crm'', ''0005_a'', ''SELECT 55'')', '55000', 'migration "0005_a" of blueprint "crm" was applied already and cannot be changed');
SELECT throws_ok('SELECT kessel.add_migration(''crm'', ''0001_accounts'', ''SELECT 11'')', '55000', 'migration "0001_accounts" of blueprint "crm" was applied already and cannot be changed');
SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0005_a'', ''SELECT 5'', ''SELECT 4'')', 'its way back can be');
SELECT throws_ok('SELECT kessel.add_migration(''crm'', ''0003_late'', ''SELECT 3'')', '55000', 'migration "0003_late" comes too late');
SELECT lives_ok('SELECT kessel.add_migration(''crm'', ''0006_between'', ''SELECT 6'')', 'above what was applied one can come between');
SELECT throws_ok('SELECT kessel.drop_migration(''crm'', ''0005_a'')', '55000', 'migration "0005_a" of blueprint "crm" cannot be dropped');
SELECT lives_ok('SELECT kessel.drop_migration(''crm'', ''0006_between'')', 'and be dropped');
SELECT throws_ok('SELECT kessel.drop_migration(''crm'', ''0006_between'')', '42704', 'blueprint "crm" has no migration "0006_between"');
SELECT throws_ok('SELECT kessel.drop_blueprint(''crm'')', '55000', 'blueprint "crm" is in use');
CREATE FUNCTION pg_temp.detail(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS found = PG_EXCEPTION_DETAIL;
    RETURN found;
END
$$;
CREATE FUNCTION pg_temp.hint(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS found = PG_EXCEPTION_HINT;
    RETURN found;
END
$$;
SELECT is(pg_temp.detail('SELECT kessel.add_migration(''crm'', ''0001_accounts'', ''SELECT 11'')'), 'It was applied in schema "s"1" of data source "bp_a" and in 1 more.', 'it says where');
SELECT is(pg_temp.detail('SELECT kessel.add_migration(''crm'', ''0003_late'', ''SELECT 11'')'), 'Version 5 is there already. It was applied in schema "s"1" of data source "bp_a".', 'and who is ahead');
DELETE FROM kessel.migration_targets;
SELECT lives_ok('SELECT kessel.drop_blueprint(''crm'')', 'applied nowhere, it can be dropped');
SELECT is((SELECT count(*) FROM kessel.migrations WHERE blueprint = 'crm'), 0::bigint, 'with its migrations');

-- ---------- setup ----------

SET LOCAL ROLE bp_admin;
SELECT lives_ok('SELECT kessel.add_migration(''one'', ''0001_a'', ''CREATE TABLE bp_one (i integer); SET search_path = pg_catalog; SET LOCAL work_mem = ''''99MB'''''', ''DROP TABLE bp_one'')', 'for the infra database');
SELECT lives_ok('SELECT kessel.add_migration(''one'', ''0002_b'', ''INSERT INTO bp_one VALUES (1), (2)'', ''DELETE FROM bp_one'')', 'a second one');
SELECT lives_ok('SELECT kessel.add_migration(''two'', ''0001_c'', ''CREATE TABLE bp_two AS SELECT i, current_setting(''''search_path'''') AS path FROM bp_one'', ''DROP TABLE bp_two'')', 'one that needs them');
SELECT results_eq('SELECT version, available, missing, changed, unknown, requires COLLATE "default" FROM kessel.setup_status() WHERE blueprint = ''one''', $$VALUES (0, 2, '{0001_a,0002_b}'::text[], '{}'::text[], '{}'::text[], '{}'::text[])$$, 'the status: all is missing');
SELECT results_eq('SELECT blueprint, version, name, ms > 0 FROM kessel.setup(''{three}'')', $$VALUES ('one', 1, '0001_a', true), ('one', 2, '0002_b', true), ('two', 1, '0001_c', true)$$, 'set up, with what is required before');
SELECT is_empty('SELECT * FROM kessel.setup(''{two}'')', 'again: nothing to do');
SELECT is((SELECT string_agg(i || path, ' ' ORDER BY i) FROM public.bp_two), '1public, pg_temp 2public, pg_temp', 'in public');
SELECT is((SELECT bool_and(setting = reset_val) FROM pg_settings WHERE name IN ('search_path', 'work_mem')), true, 'what a script sets ends with it');
SELECT is((SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE tablename LIKE 'bp\_%'), 'bp_admin', 'the tables are the caller''s');
SELECT is((SELECT count(*) FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid IN ('public.bp_one'::regclass, 'public.bp_two'::regclass) AND deptype = 'e'), 0::bigint, 'and no extension''s');
SELECT results_eq('SELECT blueprint COLLATE "default", version, name, applied_by FROM kessel.applied_migrations WHERE blueprint IN (''one'', ''two'') ORDER BY 1, 2', $$VALUES ('one', 1, '0001_a', 'bp_admin'::name), ('one', 2, '0002_b', 'bp_admin'), ('two', 1, '0001_c', 'bp_admin')$$, 'recorded');
SELECT results_eq('SELECT version, available, missing FROM kessel.setup_status() WHERE blueprint = ''one''', $$VALUES (2, 2, '{}'::text[])$$, 'the status: all is there');

SELECT throws_ok('SELECT kessel._run_migrations(''{one}'', ''{2}'', false)', '40001', 'another session has migrated this database meanwhile');
SELECT throws_ok('SELECT kessel._run_migrations(''{one}'', ''{1}'', true)', '55000', 'version 1 of blueprint "one" is not the next one', 'none is recorded out of order');
SELECT throws_ok('SELECT kessel._run_migrations(''{one}'', ''{9}'', false)', '55000', 'version 9 of blueprint "one" is not the next one');
SELECT throws_ok('SELECT kessel.setup(''{nothing}'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT kessel.setup(''{NULL}'')', '22004', 'a blueprint is NULL');
SELECT kessel.add_blueprint('far');
SELECT throws_ok('SELECT kessel.setup(''{far}'')', '22023', 'blueprint "far" is for data sources');
SELECT throws_ok('SELECT kessel.teardown(''far'')', '22023', 'blueprint "far" is for data sources');
SELECT throws_ok('SELECT kessel.drop_blueprint(''two'')', '55000', 'blueprint "two" is in use');
SELECT throws_ok('SELECT kessel.drop_migration(''one'', ''0002_b'')', '55000', 'migration "0002_b" of blueprint "one" cannot be dropped');
SELECT throws_ok('SELECT kessel.add_migration(''one'', ''0002_b'', ''SELECT 1'')', '55000', 'migration "0002_b" of blueprint "one" was applied already and cannot be changed');
SELECT is(pg_temp.detail('SELECT kessel.add_migration(''one'', ''0002_b'', ''SELECT 1'')'), 'It was applied in this database.', 'it says where');

-- One that fails: nothing of the call stays, and the error says where.
SELECT kessel.add_migration('one', '0003_c', 'CREATE TABLE bp_three ()', 'DROP TABLE bp_three'), kessel.add_migration('one', '0004_d', E'SELECT 1;\n\nSELECT 1 / (i - 1) FROM bp_one', 'SELECT 1');
SELECT throws_ok('SELECT kessel.setup(''{one}'')', '22012', 'division by zero', 'the error is the statement''s');
CREATE FUNCTION pg_temp.context(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS found = PG_EXCEPTION_CONTEXT;
    RETURN found;
END
$$;
SELECT matches(pg_temp.context('SELECT kessel.setup(''{one}'')'), 'statement 2, line 3, of up script of migration "0004_d" of blueprint "one"', 'and its context says where');
SELECT is(to_regclass('public.bp_three'), NULL, 'nothing of it stays');
SELECT kessel.drop_migration('one', '0004_d');
SELECT kessel.add_migration('one', '0004_d', 'DO $do$' || chr(10) || 'BEGIN' || repeat(chr(10) || '    NULL;', 100) || chr(10) || 'PERFORM 1 / 0; END $do$', 'SELECT 1');
SELECT matches(pg_temp.context('SELECT kessel.setup(''{one}'')'), 'SQL statement "DO \$do\$ \.\.\."\nstatement 1, line 1, of up script', 'of a long statement it has the first line');
SELECT kessel.drop_migration('one', '0004_d');
SELECT lives_ok('SELECT kessel.setup(''{one}'')', 'without it, the rest is applied');

-- ---------- whose script runs with whose rights ----------

SET LOCAL ROLE bp_other;
SELECT kessel.add_migration('three', '0001_x', 'CREATE TABLE bp_four AS SELECT current_user AS who', 'DROP TABLE bp_four');
SET LOCAL ROLE bp_admin;
SELECT throws_ok('SELECT kessel.setup(''{three}'')', '42501', 'migration "0001_x" of blueprint "three" was written by role "bp_other"', 'nobody runs what another role has written');
SELECT kessel.add_migration('three', '0001_x', 'CREATE TABLE bp_four AS SELECT current_user AS who', 'DROP TABLE bp_four');
SELECT throws_ok('SELECT kessel.setup(''{three}'')', '42501', 'migration "0001_x" of blueprint "three" was written by role "bp_other"', 'nor by adding it again, as one who could not become its author');
RESET ROLE;
SELECT throws_ok('SELECT kessel.setup(''{three}'')', '42501', 'migration "0001_x" of blueprint "three" was written by role "bp_other"', 'a superuser least of all');
SET LOCAL ROLE bp_other;
SELECT throws_ok('SELECT kessel.setup(''{three}'')', '42501', 'migration "0001_a" of blueprint "one" was applied by role "bp_admin"', 'its author neither, above what another role has made');
RESET ROLE;
UPDATE kessel.applied_migrations SET applied_by = current_user;
SET LOCAL ROLE bp_other;
SELECT lives_ok('SELECT kessel.setup(''{three}'')', 'its author does');
SELECT lives_ok('SELECT kessel.teardown(''three'')', 'both ways');
RESET ROLE;
SELECT kessel.add_migration('three', '0001_x', 'CREATE TABLE bp_four AS SELECT current_user AS who', 'DROP TABLE bp_four');
SELECT is((SELECT author FROM kessel.migrations WHERE blueprint = 'three'), current_user::name, 'a superuser vouches for it by adding it again');
SET LOCAL ROLE bp_admin;
SELECT lives_ok('SELECT kessel.setup(''{three}'')', 'then everyone runs it');
SELECT is((SELECT who::text FROM public.bp_four), 'bp_admin', 'with their own rights');
SELECT kessel.add_migration('three', '0001_x', 'CREATE TABLE bp_four AS SELECT current_user AS who', 'DROP TABLE bp_four; ALTER ROLE bp_admin SUPERUSER');
RESET ROLE;
SELECT is((SELECT author FROM kessel.migrations WHERE blueprint = 'three'), 'bp_admin', 'who changes the way back becomes its author');
SELECT throws_ok('SELECT kessel.teardown(''three'')', '42501', 'migration "0001_x" of blueprint "three" was written by role "bp_admin"', 'and it does not run as superuser');
SET LOCAL ROLE bp_admin;
SELECT throws_ok('SELECT kessel.teardown(''three'')', '42501', 'must be superuser to alter superuser roles or change superuser attribute', 'but as that role') WHERE current_setting('server_version_num')::integer < 160000;
SELECT kessel.add_migration('three', '0001_x', 'CREATE TABLE bp_four AS SELECT current_user AS who', 'DROP TABLE bp_four');
-- A function of an index runs while a superuser maintains the table.
CREATE FUNCTION pg_temp.plant(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM kessel.add_migration('three', '0002_y', 'ALTER ROLE bp_admin SUPERUSER', '--');
    RETURN i;
END
$$;
CREATE TABLE public.bp_bait (i integer);
CREATE INDEX ON public.bp_bait (pg_temp.plant(i));
INSERT INTO public.bp_bait VALUES (1);
SELECT kessel.drop_migration('three', '0002_y');
RESET ROLE;
REINDEX TABLE public.bp_bait;
SELECT is((SELECT author FROM kessel.migrations WHERE blueprint = 'three' AND version = 2), 'bp_admin', 'the author is who has the rights, not whose session it is');
SELECT kessel.drop_migration('three', '0002_y');

-- What others have made is theirs to change: it does not run with more rights than they have.
UPDATE kessel.applied_migrations SET applied_by = 'bp_admin' WHERE blueprint IN ('one', 'two');
SELECT kessel.add_blueprint('four', applies_to => 'infra', requires => '{one}'), kessel.add_migration('four', '0001_w', 'INSERT INTO bp_one VALUES (3)', 'DELETE FROM bp_one WHERE i = 3');
SET LOCAL ROLE bp_admin;
SELECT lives_ok('SELECT kessel.setup(''{four}'')', 'as its owner, one builds on it');
CREATE FUNCTION public.bp_spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE bp_admin SUPERUSER; RETURN NULL; END $$;
CREATE TRIGGER spring AFTER INSERT OR DELETE ON public.bp_one FOR EACH STATEMENT EXECUTE FUNCTION public.bp_spring();
RESET ROLE;
SELECT kessel.add_migration('four', '0002_v', 'INSERT INTO bp_one VALUES (4)', 'DELETE FROM bp_one WHERE i = 4');
SELECT throws_ok('SELECT kessel.setup(''{four}'')', '42501', 'migration "0001_a" of blueprint "one" was applied by role "bp_admin"', 'a superuser does not build on it');
SELECT is(pg_temp.hint('SELECT kessel.setup(''{four}'')'), 'Call it as that one: SET ROLE bp_admin. If somebody else owns it now, a superuser can write that into kessel.applied_migrations.applied_by.', 'and is told what to do');
UPDATE kessel.applied_migrations SET applied_by = 'bp_gone' WHERE blueprint = 'one';
CREATE SCHEMA infra AUTHORIZATION bp_admin;
SELECT throws_ok('SELECT kessel.setup(''{four}'')', '42501', 'migration "0001_a" of blueprint "one" was applied by role "bp_admin"', 'what is left by a role that is gone is of who owns the schema');
DROP SCHEMA infra;
SELECT throws_ok('SELECT kessel.setup(''{four}'')', '42501', 'migration "0001_a" of blueprint "one" was applied by role "bp_gone"', 'or of nobody');
UPDATE kessel.applied_migrations SET applied_by = 'bp_admin' WHERE blueprint = 'one';
SELECT throws_ok('SELECT kessel.teardown(''four'')', '42501', 'migration "0001_a" of blueprint "one" was applied by role "bp_admin"', 'nor takes it back');
SELECT ok(NOT rolsuper, 'nobody has become one') FROM pg_roles WHERE rolname = 'bp_admin';
SET LOCAL ROLE bp_admin;
DROP FUNCTION public.bp_spring() CASCADE;
SELECT lives_ok('SELECT kessel.teardown(''four'')', 'its owner does');
SELECT kessel.drop_blueprint('four');
RESET ROLE;

-- Nor with those of the session, for which SET ROLE is no wall.
SET LOCAL ROLE bp_admin;
SELECT kessel.add_blueprint('five', applies_to => 'infra');
CREATE TABLE public.bp_five (i integer);
CREATE FUNCTION public.bp_spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; ALTER ROLE bp_admin SUPERUSER; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER now AFTER INSERT ON public.bp_five FOR EACH ROW WHEN (NEW.i = 1) EXECUTE FUNCTION public.bp_spring();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON public.bp_five DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.i = 2) EXECUTE FUNCTION public.bp_spring();
CREATE FUNCTION pg_temp.run(script text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kessel.add_migration('five', '0001_z', script, '--');
    PERFORM kessel.setup('{five}');
    RETURN 'it ran';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;
SELECT is(pg_temp.run(script), said, script) FROM (VALUES
    ('RESET ROLE; ALTER ROLE bp_admin SUPERUSER', 'cannot set parameter "role" within security-definer function'), ('SET ROLE NONE', 'cannot set parameter "role" within security-definer function'),
    ('SET LOCAL ROLE bp_other', 'cannot set parameter "role" within security-definer function'), ('RESET SESSION AUTHORIZATION', 'cannot set parameter "session_authorization" within security-definer function'),
    ('DO $d$ BEGIN PERFORM set_config(''role'', ''none'', false); END $d$', 'cannot set parameter "role" within security-definer function'), ('INSERT INTO bp_five VALUES (1)', 'cannot set parameter "role" within security-definer function'),
    ('INSERT INTO bp_five VALUES (2)', 'cannot fire deferred trigger within security-restricted operation'), ('SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO bp_five VALUES (2)', 'cannot set parameter "role" within security-definer function'),
    ('DO $d$ BEGIN EXECUTE ''DECLARE c CURSOR WITH HOLD FOR SELECT 1''; END $d$', 'cannot create a cursor WITH HOLD within security-restricted operation')) v(script, said);
-- What has run is what is recorded.
SELECT is(pg_temp.run(script), said, script) FROM (VALUES
    ('SELECT kessel.add_migration(''five'', ''0001_z'', ''SELECT 1'', ''--'')', 'migration "0001_z" of blueprint "five" was applied already and cannot be changed'), ('SELECT kessel.drop_migration(''five'', ''0001_z'')', 'migration "0001_z" of blueprint "five" cannot be dropped'),
    ('SELECT kessel.drop_blueprint(''five'')', 'blueprint "five" is in use'), ('SELECT kessel.teardown(''five'')', 'a migration cannot run while another one does'),
    ('SELECT kessel._run_migrations(''{five}'', ''{1}'', false)', 'a migration cannot run while another one does')) v(script, said);
SELECT is(pg_temp.run('SELECT 1'), 'it ran', 'one that does nothing of the kind');
SELECT lives_ok('SELECT kessel.teardown(''five'')', 'both ways');
SELECT kessel.drop_blueprint('five');
DROP TABLE public.bp_five;
DROP FUNCTION public.bp_spring();
RESET ROLE;
SELECT ok(NOT rolsuper, 'nobody has become one') FROM pg_roles WHERE rolname = 'bp_admin';

-- ---------- the way back ----------

SET LOCAL ROLE bp_admin;
SELECT throws_ok('SELECT kessel.teardown(NULL)', '22004', 'an argument of kessel.teardown() is NULL');
SELECT throws_ok('SELECT kessel.teardown(''one'', NULL)', '22004', 'an argument of kessel.teardown() is NULL');
SELECT throws_ok('SELECT kessel.teardown(''nothing'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT kessel.teardown(''one'', 9)', '22023', 'blueprint "one" was not applied here up to version 9');
SELECT throws_ok('SELECT kessel.teardown(''one'', -1)', '22023', 'blueprint "one" was not applied here up to version -1');
SELECT throws_ok('SELECT kessel.teardown(''one'')', '55000', 'blueprint "one" is in use');
SELECT lives_ok('SELECT kessel.teardown(''three''), kessel.teardown(''two'')', 'what requires it is taken back');
SELECT results_eq('SELECT version, name FROM kessel.teardown(''one'', 2)', $$VALUES (3, '0003_c')$$, 'down to a version');
SELECT kessel.add_migration('one', '0002_b', 'INSERT INTO bp_one VALUES (1), (2)', NULL);
SELECT throws_ok('SELECT kessel.teardown(''one'')', '0A000', 'migration "0002_b" of blueprint "one" has no way back');
SELECT kessel.add_migration('one', '0002_b', 'INSERT INTO bp_one VALUES (1), (2)', 'SELECT 1 / 0');
SELECT throws_ok('SELECT kessel.teardown(''one'')', '22012', 'division by zero', 'one that fails');
SELECT matches(pg_temp.context('SELECT kessel.teardown(''one'')'), 'statement 1, line 1, of down script of migration "0002_b" of blueprint "one"', 'says where');
SELECT kessel.add_migration('one', '0002_b', 'INSERT INTO bp_one VALUES (1), (2)', '-- they go with their table');
SELECT results_eq('SELECT version, name FROM kessel.teardown(''one'')', $$VALUES (2, '0002_b'), (1, '0001_a')$$, 'mended, all is taken back');
SELECT is_empty('SELECT tablename FROM pg_tables WHERE tablename LIKE ''bp\_%'' AND tablename <> ''bp_bait''', 'nothing is left');
SELECT is_empty('SELECT * FROM kessel.applied_migrations WHERE blueprint IN (''one'', ''two'', ''three'')', 'nor recorded');
SELECT is_empty('SELECT * FROM kessel.teardown(''one'')', 'again: nothing to do');
SELECT lives_ok('SELECT kessel.setup(''{one}'')', 'and up again');
RESET ROLE;

-- ---------- records that do not fit ----------

UPDATE kessel.applied_migrations SET checksum = 'x' WHERE blueprint = 'one' AND version = 2;
SELECT throws_ok('SELECT kessel.setup(''{one}'')', '55000', 'migration "0002_b" of blueprint "one" is not the one that was applied');
SELECT throws_ok('SELECT kessel.teardown(''one'')', '55000', 'migration "0002_b" of blueprint "one" is not the one that was applied');
SELECT is((SELECT changed FROM kessel.setup_status() WHERE blueprint = 'one'), '{0002_b}', 'the status names it');
UPDATE kessel.applied_migrations a SET checksum = m.checksum FROM kessel.migrations m WHERE m.blueprint = a.blueprint AND m.version = a.version;
INSERT INTO kessel.applied_migrations (blueprint, version, name, checksum) VALUES ('one', 8, '0008_later', 'x'), ('gone', 1, '0001_x', 'x');
SELECT throws_ok('SELECT kessel.setup(''{one}'')', 'KR014', 'migration "0008_later" of blueprint "one" was applied here, and is not known');
SELECT throws_ok('SELECT kessel.teardown(''one'')', 'KR014', 'migration "0008_later" of blueprint "one" was applied here, and is not known');
SELECT results_eq('SELECT blueprint, version, available, unknown FROM kessel.setup_status() WHERE blueprint IN (''one'', ''gone'')', $$VALUES ('gone', 1, 0, '{0001_x}'::text[]), ('one', 8, 3, '{0008_later}')$$, 'the status names them');

-- ---------- without rights ----------

SET LOCAL ROLE bp_service;
SELECT throws_ok(statement, '42501', NULL, 'not for kessel_service: ' || statement)
FROM unnest(ARRAY['SELECT kessel.add_blueprint(''x'')', 'SELECT kessel.add_migration(''one'', ''9_x'', ''SELECT 1'')', 'SELECT kessel.drop_blueprint(''one'')', 'SELECT kessel.drop_migration(''one'', ''0001_a'')', 'SELECT kessel.setup()', 'SELECT kessel.teardown(''one'')', 'SELECT kessel.setup_status()', 'SELECT * FROM kessel.migrations']) statement;
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;

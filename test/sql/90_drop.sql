-- The extension in a database of its own: its schemas and roles, and that
-- nothing of it is left when it goes, and it can come again.
\set VERBOSITY terse
\set me :USER
CREATE DATABASE regress_drop;
\c regress_drop :me
SET client_min_messages = warning;
CREATE EXTENSION kessel_router;
CREATE EXTENSION kessel_router CASCADE;
SELECT nspname FROM pg_namespace WHERE nspname IN ('app', 'kessel', 'vault') ORDER BY 1;
SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname LIKE 'kessel\_%' ORDER BY 1;
CREATE TABLE public.things (id integer PRIMARY KEY, name text);
SELECT kessel.create_data_source('here', format('host=%s port=%s dbname=regress_drop user=%s', current_setting('unix_socket_directories'), current_setting('port'), current_user),
           options => '{"allow_local": true, "password_required": false}') IS NOT NULL AS made;
SELECT kessel.create_tenant('here', data_source => 'here') IS NOT NULL AS made;
SELECT action, object FROM kessel.import_tables('here', 'public');
SET kessel.tenant = 'here';
INSERT INTO data.things VALUES (1, 'routed');
SELECT * FROM public.things;
DROP EXTENSION kessel_router;
DROP SCHEMA data CASCADE;
DROP EXTENSION kessel_router;
SELECT nspname FROM pg_namespace WHERE nspname IN ('app', 'kessel', 'vault') ORDER BY 1;
SELECT proname FROM pg_proc WHERE probin LIKE '%kessel_router%';
SELECT fdwname FROM pg_foreign_data_wrapper WHERE fdwname LIKE '%kessel%';
CREATE EXTENSION kessel_router;
SELECT count(*) FROM kessel.routes;
-- The setting of before the drop is still there, and names nobody.
SELECT kessel.use_tenant('here');
\c regression :me
DROP DATABASE regress_drop WITH (FORCE);

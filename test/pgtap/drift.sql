-- Drift: who may look for it, what two schemas have in common, and that what a data
-- source says ends up in SQL as names alone.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = warning;

-- ---------- who may do what ----------

SELECT has_function('kessel', 'drift', 'there is drift');
SELECT ok(obj_description('kessel.drift'::regproc, 'pg_proc') ~ 'For kessel_admin$', 'it says for whom it is');
SELECT is(array(SELECT r FROM unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user']) r WHERE has_function_privilege(r, 'kessel.drift'::regproc, 'EXECUTE')), '{kessel_admin}', 'kessel_admin alone');
SELECT is(array(SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace AND p.proname ~ '^_(drift|schema|reference|check_drift|script_names|record_error|json_inner|error_json)'
                AND (has_function_privilege('kessel_admin', p.oid, 'EXECUTE') OR has_function_privilege('kessel_user', p.oid, 'EXECUTE'))), '{}', 'what is under it is for nobody');
SELECT is(array(SELECT t || ' ' || r FROM unnest(ARRAY['kessel.schema_references', 'kessel.schema_checks']) t, unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user']) r WHERE has_table_privilege(r, t, 'INSERT, UPDATE, DELETE, TRUNCATE')),
          '{}', 'nobody writes to its tables');
SELECT is(array(SELECT DISTINCT r FROM unnest(ARRAY['kessel.schema_references', 'kessel.schema_checks']) t, unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user']) r WHERE has_table_privilege(r, t, 'SELECT')),
          '{kessel_admin}', 'kessel_admin reads them');

-- ---------- arguments ----------

SELECT kessel.add_blueprint('crm'), kessel.add_blueprint('here', applies_to => 'infra');
SELECT is_empty('SELECT * FROM kessel.drift(''crm'')', 'no targets, no lines');
SELECT throws_ok('SELECT * FROM kessel.drift(''nothing'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT * FROM kessel.drift(NULL)', '42704', NULL, 'NULL is no blueprint');
SELECT throws_ok('SELECT * FROM kessel.drift(''here'')', '42809', 'blueprint "here" is for this database, not for data sources');
SELECT throws_ok('SELECT * FROM kessel.drift(''crm'', ''{nobody}'')', 'KR002', 'there is no tenant "nobody"');
SELECT throws_ok('SELECT * FROM kessel.drift(''crm'', ''{NULL}'')', '22004', 'a tenant is NULL');
SELECT throws_ok(format('SELECT * FROM kessel.drift(''crm'', max_parallel => %s)', n), '22023', 'max_parallel must be between 1 and 1000', 'max_parallel ' || n) FROM unnest(ARRAY['0', '-1', '1001', 'NULL']) n;
SELECT throws_ok(format('SELECT * FROM kessel.drift(''crm'', timeout => %L)', t), '22023', 'timeout must be between one millisecond and 30 days', 'timeout ' || t) FROM unnest(ARRAY['0', '-1 s', '31 days']) t;
SELECT lives_ok('SELECT * FROM kessel.drift(''crm'', timeout => NULL)', 'no timeout');

-- ---------- whom a reference serves ----------

INSERT INTO app.data_sources (name, isolation, conninfo, options)
SELECT concat_ws('-', d, u, p), 'database', jsonb_build_object('host', 'h', 'port', '1', 'dbname', d), CASE p WHEN 'session' THEN '{}'::jsonb ELSE jsonb_build_object('pooler', p) END
FROM unnest('{a,b}'::text[]) d, unnest('{one,two}'::text[]) u, unnest('{session,transaction}'::text[]) p;
INSERT INTO app.data_source_credentials (data_source_id, purpose, username)
SELECT id, purpose, CASE purpose WHEN 'owner' THEN split_part(name, '-', 2) ELSE name END FROM app.data_sources, unnest('{owner,runtime}'::text[]) purpose;
SELECT results_eq($$SELECT array_agg(name ORDER BY name) FROM app.data_sources GROUP BY kessel._reference_key(id, '{}', '[]') ORDER BY 1$$,
    $$VALUES ('{a-one-session,b-one-session}'::text[]), ('{a-one-transaction}'), ('{a-two-session,b-two-session}'), ('{a-two-transaction}'), ('{b-one-transaction}'), ('{b-two-transaction}')$$,
    'those of one host and login; behind a pooler, of one database');
DELETE FROM app.data_sources;

-- ---------- scripts that name a schema ----------

SELECT is(kessel._script_names_schema(script, 'public'), expected, script)
FROM (VALUES ('CREATE TABLE public.a (id int)', true), ('CREATE TABLE "public" . "a" (id int)', true), ('CREATE TABLE PUBLIC.a (id int)', true), ('CREATE TABLE "Public".a (id int)', false),
             ('SELECT ''public.a''::regclass', true), ('SELECT ''"public".a''::regclass', true), ('SELECT E''public.a''::regclass', true), ('SELECT ''x public.a''', false),
             ('-- public.a', false), ('/* public.a */ SELECT 1', false), ('CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT public.f()$$', false),
             ('GRANT SELECT ON a TO public', false), ('CREATE TABLE my_public.a (id int)', false), ('CREATE TABLE publication.a (id int)', false), ('CREATE TABLE a.public (id int)', false), ('', false)) v (script, expected);
SELECT is(kessel._script_names_schema(script, 'a "b"'), expected, script)
FROM (VALUES ('SELECT * FROM "a ""b""".t', true), ('SELECT * FROM "a "', false), ('SELECT * FROM "a ""b""c".t', false), ('SELECT ''"a ""b""".t''', true)) v (script, expected);

-- ---------- the same schema, made in two ways ----------

CREATE ROLE d_runtime;
CREATE FUNCTION pg_temp.lines_of(schema_name text) RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    r record;
    found jsonb;
BEGIN
    EXECUTE 'PREPARE look AS ' || kessel._schema_query('unrecorded');
    FOR r IN EXECUTE format('EXECUTE look (%L, %L, true)', schema_name, 'd_runtime') LOOP
        found := (to_jsonb(r) ->> 'case')::jsonb;
        RETURN QUERY SELECT replace(jsonb_build_array(l -> 0, l -> 1, l -> 2)::text, schema_name, 'SCHEMA') FROM jsonb_array_elements(found) l;
    END LOOP;
    DEALLOCATE look;
END
$$;
CREATE SCHEMA d_one;
SET LOCAL search_path = d_one, public;
CREATE TABLE a (id int PRIMARY KEY, b text DEFAULT 'x', c int);
CREATE TABLE z (a int REFERENCES a);
CREATE VIEW v AS SELECT b FROM a;
GRANT SELECT ON a TO d_runtime;
CREATE SCHEMA d_two;
SET LOCAL search_path = d_two, public;
CREATE TABLE z (gone int, a int);
CREATE TABLE a (c int, gone text, b text);
ALTER TABLE a DROP gone, ADD id int PRIMARY KEY, ALTER b SET DEFAULT 'x';
ALTER TABLE z DROP gone, ADD FOREIGN KEY (a) REFERENCES a;
GRANT ALL ON a TO d_runtime;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON a FROM d_runtime;
DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN REVOKE ALL ON a FROM d_runtime; GRANT SELECT ON a TO d_runtime; END IF; END $$;
CREATE VIEW v AS SELECT b FROM a;
RESET search_path;
SELECT set_eq('SELECT pg_temp.lines_of(''d_one'')', 'SELECT pg_temp.lines_of(''d_two'')', 'neither order nor gaps nor oids matter');
SELECT cmp_ok((SELECT count(*) FROM pg_temp.lines_of('d_one')), '>', 10::bigint, 'there are lines');

-- ---------- a data source that lies ----------

CREATE FUNCTION pg_temp.mend(expected jsonb, actual jsonb) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT d.mend FROM kessel._schema_differences(expected, actual, 't', 'o', 'r') d
$$;
-- Whatever it calls a thing, its definition is not SQL here.
SELECT is(array(SELECT m FROM pg_temp.mend('[]', jsonb_build_array(jsonb_build_array(kind, '["a", "b", "c", "d", "e"]'::jsonb, 'x; DROP TABLE evil', 1, '["evil", "evil"]'::jsonb))) m WHERE m ~ 'evil'), '{}', 'a definition: ' || kind)
FROM unnest(ARRAY['table', 'foreign table', 'view', 'materialized view', 'sequence', 'owned by', 'unlogged', 'inheritance', 'parameter', 'toast parameter', 'row security', 'forced row security', 'replica identity', 'clustered on',
                  'column', 'not null', 'default', 'identity', 'column setting', 'constraint', 'index', 'index parameter', 'trigger', 'rule', 'statistics', 'policy', 'type', 'domain', 'domain not null', 'domain default', 'domain constraint',
                  'function', 'procedure', 'aggregate', 'other', 'comment', 'owner', 'grant', 'grant option', 'default privileges', 'default privileges with grant option', 'evil']) kind;
SELECT is(array(SELECT m FROM pg_temp.mend(jsonb_build_array(jsonb_build_array(kind, path, definition, 1, NULL)), jsonb_build_array(jsonb_build_array(kind, path, 'x; DROP TABLE evil', 1, '["evil", "evil"]'::jsonb))) m WHERE m ~ 'evil'), '{}', 'another definition: ' || kind)
FROM (VALUES ('view', '["a"]'::jsonb, 'VIEW t.a AS SELECT 1'), ('column', '["a", "b"]', 'integer'), ('default', '["a", "b"]', '1'), ('constraint', '["a", "b"]', 'CHECK (true)'), ('index', '["a", "b"]', 'CREATE INDEX b ON t.a (c)'),
             ('function', '["f"]', E'CREATE OR REPLACE FUNCTION t.f()\n RETURNS int\n LANGUAGE sql'), ('type', '["a"]', 'ENUM (''x'', ''y'')'), ('policy', '["a", "b"]', 'AS PERMISSIVE'), ('trigger', '["a", "b"]', 'CREATE TRIGGER b'),
             ('comment', '["table", "a"]', 'x'), ('sequence', '["a"]', 'AS bigint'), ('identity', '["a", "b"]', 'GENERATED ALWAYS SET CACHE 1'), ('table', '["a"]', 'TABLE'), ('owner', '["table", "a"]', '@runtime'), ('grant', '["@public", "table", "a"]', 'SELECT')) v (kind, path, definition);
-- A name stays one, whatever is in it. Outside of quotes there is only what is written here.
SELECT is(array(SELECT m FROM pg_temp.mend('[]', jsonb_build_array(jsonb_build_array(kind, path, 'x', 1, NULL))) m WHERE regexp_replace(regexp_replace(m, '"([^"]|"")*"', '', 'g'), '''([^'']|'''')*''', '', 'g') ~ 'evil|\\'), '{}', 'a name: ' || kind || path)
FROM unnest(ARRAY['table', 'view', 'sequence', 'owned by', 'inheritance', 'parameter', 'toast parameter', 'row security', 'replica identity', 'column', 'not null', 'default', 'identity', 'column setting', 'constraint', 'index', 'index parameter', 'trigger',
                  'rule', 'statistics', 'policy', 'type', 'domain', 'domain not null', 'domain constraint', 'function', 'procedure', 'aggregate']) kind,
     LATERAL (VALUES (jsonb_build_array(E'a"; DROP evil; --', E'b'';\n\\! evil', E'c") evil', 'D"', 'e'))) v (path);
SELECT is(array(SELECT m FROM pg_temp.mend('[]', jsonb_build_array(jsonb_build_array(kind, path, 'x', 1, NULL))) m WHERE regexp_replace(m, '"([^"]|"")*"', '', 'g') ~ 'evil'), '{}', 'a name: ' || kind || path)
FROM (VALUES ('comment', '["table", "a\"; DROP evil; --"]'::jsonb), ('comment', '["evil", "a"]'), ('owner', '["evil; ", "a"]'), ('grant', '["=x\"; evil", "table", "a"]'), ('grant', '["evil", "evil", "a"]'), ('grant', '["@public", "table; evil", "a"]'),
             ('grant', '["@public", "column", "a\"; evil", "b"]'), ('default privileges', '["@public", "TABLES; evil", "@owner"]'), ('default privileges', '["=\"; evil", "TABLES", "=\"; evil"]'),
             ('comment', '["function", "f", "evil\"", ") evil"]')) v (kind, path);
-- What is no list of lines is an error, and not of this server.
SELECT throws_ok(format('SELECT pg_temp.mend(''[]'', %L)', lines), state, NULL, 'no lines: ' || lines)
FROM (VALUES ('{}', '22023'), ('["x"]', '22023'), ('[["table", "x", "y", 1, null]]', '22023'), ('[["table", ["x"], "y", "z", null]]', '22P02'), ('[["table", [null], "y", 1, null]]', '22004')) v (lines, state);

-- ---------- what is put into scripts ----------

SELECT is(kessel._reference_placed(' scratch_x.a ''scratch_x'' nextval(''scratch_x.s'') ', 'scratch_x', 'public'), ' public.a ''public'' nextval(''public.s'') ', 'a schema''s name');
SELECT is((kessel._reference_placed('["scratch_x.a ''scratch_x'' nextval(''scratch_x.s'')"]', 'scratch_x', E'it''s "C" \\'))::jsonb ->> 0, E'"it''s ""C"" \\".a ''it''''s "C" \\'' nextval(''"it''''s ""C"" \\".s'')', '... whatever it is');
SELECT is(kessel._schema_identity('GENERATED BY DEFAULT SET INCREMENT BY 1 SET NO CYCLE'), 'GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY 1 NO CYCLE)', 'an identity');
SELECT is(kessel._schema_change_enum('m', 'ENUM (''a'', ''b'', ''c'', ''d'')', was, 't'), mend, 'an enum that has ' || was)
FROM (VALUES ('ENUM (''b'', ''d'')', 'ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''c'' BEFORE ''d''; ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''a'' BEFORE ''b'''), ('ENUM (''a'', ''c'', ''b'', ''d'')', NULL), ('ENUM (''a'', ''x'')', NULL),
             ('ENUM ()', 'ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''d''; ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''c'' BEFORE ''d''; ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''b'' BEFORE ''c''; ALTER TYPE t.m ADD VALUE IF NOT EXISTS ''a'' BEFORE ''b''')) v (was, mend);

SELECT * FROM finish();
ROLLBACK;

-- The infra database when people have been at it: what setup() finds in its way, what
-- setup_drift() and setup_status() say of what is not any more as it was made, that
-- what they say brings it back, and that teardown() takes nothing unasked.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA sd;
GRANT USAGE ON SCHEMA sd TO PUBLIC;
-- What a statement's error says, in a line each: state, message, detail, hint.
CREATE FUNCTION sd.said(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
END
$$;

-- ---------- what is in the way ----------

-- As a product may have that comes from somewhere else.
CREATE TABLE public.profiles (id integer PRIMARY KEY, name text);
INSERT INTO public.profiles VALUES (1, 'theirs');
CREATE VIEW public.tenants AS SELECT 1 AS id;
CREATE TYPE public.ai_access_level AS ENUM ('none');
CREATE FUNCTION public.create_tenant(a text, b text) RETURNS text LANGUAGE sql RETURN a;
CREATE FUNCTION public.get_tenant_by_slug(a integer) RETURNS text LANGUAGE sql RETURN a;
CREATE TABLE public.orders ();
CREATE INDEX roles_x ON public.profiles (name);
SELECT is(sd.said('SELECT kessel.setup(''{core}'')'), E'42710\nnames that kessel.setup() needs are taken\nThere are already: function public.create_tenant(text,text), table public.profiles, type public.ai_access_level, view public.tenants.\n'
          'What is there is left as it is. Rename it, or move it to another schema with ALTER ... SET SCHEMA; then set up, and copy its rows. Or set up other blueprints only. doc/infra-database.md shows how.', 'names that are taken are one error');
SELECT is((SELECT name FROM public.profiles), 'theirs', 'nothing is touched');
SELECT is_empty('SELECT FROM kessel.applied_migrations', 'nor applied');
CREATE SCHEMA theirs;
ALTER TABLE public.profiles SET SCHEMA theirs;
ALTER VIEW public.tenants SET SCHEMA theirs;
ALTER TYPE public.ai_access_level SET SCHEMA theirs;
ALTER FUNCTION public.create_tenant(text, text) SET SCHEMA theirs;
SELECT lives_ok('SELECT kessel.setup()', 'out of the way, it is set up');
SELECT is((SELECT name FROM theirs.profiles), 'theirs', 'and theirs is still there');
SELECT is((SELECT count(*) FROM kessel.setup_objects WHERE schema_name = 'theirs' OR path[1] = 'orders' OR path = '{get_tenant_by_slug,pg_catalog,int4}'), 0::bigint, 'of which nothing is recorded');

-- What a script says is not there yet, or is to be kept, is in nobody's way.
SELECT kessel.add_blueprint('way', applies_to => 'infra');
SELECT kessel.add_migration('way', '1_a', 'DROP TABLE orders; CREATE TABLE orders (i integer); CREATE TABLE IF NOT EXISTS theirs.profiles (); CREATE OR REPLACE FUNCTION theirs.create_tenant(a text, b text) RETURNS text LANGUAGE sql RETURN b;
    SET search_path = elsewhere; CREATE TABLE themes ()', 'DROP TABLE orders');
SELECT is(sd.said('SELECT kessel.setup(''{way}'')'), E'3F000\nno schema has been selected to create in', 'replaced, kept, or put where its own search_path leads');
SELECT kessel.add_migration('way', '1_a', 'CREATE TABLE themes ()', '--');
SELECT matches(sd.said('SELECT kessel.setup(''{way}'')'), 'table public.themes', 'a name without schema is one of public');
SELECT kessel.add_migration('way', '1_a', 'CREATE TYPE public.themes AS ENUM ()', '--');
SELECT matches(sd.said('SELECT kessel.setup(''{way}'')'), 'table public.themes', 'a type may have no table''s name');
SELECT kessel.add_migration('way', '1_a', 'CREATE INDEX profiles_email ON public.roles (name)', '--');
SELECT matches(sd.said('SELECT kessel.setup(''{way}'')'), 'index public.profiles_email', 'nor an index another one''s');
SELECT kessel.drop_blueprint('way');

-- ---------- what has changed ----------

SELECT is_empty('SELECT * FROM kessel.setup_drift()', 'as it was made');
SELECT is((SELECT string_agg(DISTINCT drift::text, ' ') FROM kessel.setup_status()), '{}', 'says the status, too');
CREATE TABLE sd.made AS SELECT schema_name, kind, path, definition FROM kessel.setup_objects;
SELECT cmp_ok((SELECT count(*) FROM sd.made), '>', 1500::bigint, 'much is recorded');

-- What the status says after statements, and what is left of that after what they are
-- mended with; both are taken back.
CREATE FUNCTION sd.after(statements text, OUT says text[], OUT is_left text) LANGUAGE plpgsql AS $$
DECLARE
    mend text;
BEGIN
    BEGIN
        EXECUTE statements;
        says := ARRAY(SELECT d FROM kessel.setup_status() s, unnest(s.drift) d ORDER BY d COLLATE "C");
        FOR mend IN SELECT d.mend FROM kessel.setup_drift() d ORDER BY d.step LOOP
            EXECUTE mend;
        END LOOP;
        is_left := concat_ws(', ', (SELECT string_agg(n.name, ', ') FROM kessel._setup_drift_names(NULL) n), (SELECT 'otherwise: ' || min(m::text) FROM (TABLE sd.made EXCEPT SELECT schema_name, kind, path, definition FROM kessel.setup_objects) m));
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'SD000';
    EXCEPTION WHEN SQLSTATE 'SD000' THEN
        NULL;
    END;
END
$$;
-- Those of one number are made together: they are not in each other's way.
CREATE TABLE sd.changes (at_once integer, statement text, says text[]);
INSERT INTO sd.changes VALUES
    (1, 'DROP TABLE public.themes CASCADE', '{"missing constraint public.profiles.profiles_selected_theme_fkey","missing constraint public.tenant_themes.tenant_themes_theme_fkey","missing table public.themes"}'),
    (1, 'DROP TABLE public.module_role_access', '{"missing table public.module_role_access"}'),
    (2, 'ALTER TABLE public.app_settings DROP COLUMN description', '{"missing column public.app_settings.description","missing constraint public.app_settings.app_settings_description_check"}'),
    (3, 'ALTER TABLE public.app_settings ALTER description TYPE varchar(5000)', '{"different column public.app_settings.description","different constraint public.app_settings.app_settings_description_check"}'),
    (1, 'ALTER TABLE public.app_settings ALTER description SET NOT NULL', '{"unexpected not null public.app_settings.description"}'),
    (1, 'ALTER TABLE public.app_settings ALTER description SET DEFAULT 1', '{"unexpected default public.app_settings.description"}'),
    (1, 'ALTER TABLE public.app_settings ALTER is_public SET DEFAULT true', '{"different default public.app_settings.is_public"}'),
    (1, 'ALTER TABLE public.profiles DROP CONSTRAINT profiles_color_scheme_check', '{"missing constraint public.profiles.profiles_color_scheme_check"}'),
    (1, 'DROP INDEX public.profiles_email', '{"missing index public.profiles.profiles_email"}'),
    (1, 'ALTER TABLE public.roles DISABLE ROW LEVEL SECURITY', '{"missing row security public.roles"}'),
    (1, 'ALTER TABLE public.roles FORCE ROW LEVEL SECURITY', '{"unexpected forced row security public.roles"}'),
    (1, 'DROP POLICY own_or_admin_reads ON public.profiles', '{"missing policy public.profiles.own_or_admin_reads"}'),
    (2, 'ALTER POLICY own_or_admin_reads ON public.profiles USING (true)', '{"different policy public.profiles.own_or_admin_reads"}'),
    (1, 'ALTER POLICY user_reads ON public.roles TO anon, authenticated', '{"different policy public.roles.user_reads"}'),
    (1, 'GRANT SELECT ON public.profiles TO anon', '{"unexpected grant public.profiles to anon"}'),
    (1, 'GRANT SELECT ON public.profiles TO PUBLIC', '{"unexpected grant public.profiles to public"}'),
    (1, 'GRANT SELECT (email) ON public.profiles TO anon', '{"unexpected grant public.profiles.email to anon"}'),
    (2, 'GRANT SELECT ON public.profiles TO authenticated WITH GRANT OPTION', '{"missing grant public.profiles to authenticated","unexpected grant option public.profiles to authenticated"}'),
    (2, 'GRANT UPDATE ON public.themes TO anon', '{"different grant public.themes to anon"}'),
    (3, 'REVOKE SELECT ON public.themes FROM anon', '{"missing grant public.themes to anon"}'),
    (1, 'GRANT EXECUTE ON FUNCTION public.read_secret(text) TO authenticated', '{"unexpected grant public.read_secret(text) to authenticated"}'),
    (1, 'GRANT ALL ON infra.app_secrets, infra.log_counts TO anon', '{"unexpected grant infra.app_secrets to anon","unexpected grant infra.log_counts to anon"}'),
    (1, 'GRANT CREATE ON SCHEMA infra TO authenticated', '{"different grant infra to authenticated"}'),
    (1, 'ALTER TABLE auth.users DISABLE TRIGGER kessel_new_user', '{"different trigger auth.users.kessel_new_user"}'),
    (1, 'DROP TRIGGER guard ON public.roles', '{"missing trigger public.roles.guard"}'),
    (2, 'CREATE OR REPLACE FUNCTION infra.is_admin() RETURNS boolean LANGUAGE sql SECURITY DEFINER RETURN true', '{"different function infra.is_admin()"}'),
    (1, 'ALTER FUNCTION infra.members_changed(uuid[]) RESET ALL', '{"different function infra.members_changed(_uuid)"}'),
    (1, 'DROP FUNCTION storage.get_object(text, text, text)', '{"missing function storage.get_object(text, text, text)"}'),
    (1, 'ALTER FUNCTION infra.is_admin() OWNER TO kessel_service', '{"unexpected owner of function infra.is_admin()"}'),
    (4, 'ALTER TABLE public.app_settings OWNER TO kessel_service', '{"unexpected owner of table public.app_settings"}'),
    (1, 'ALTER VIEW public.tenants SET (security_barrier = false)', '{"different view public.tenants"}'),
    (1, 'COMMENT ON TABLE auth.users IS NULL', '{"missing comment of table auth.users"}'),
    (1, 'DROP SEQUENCE infra.system_logs_id_seq CASCADE', '{"missing default public.system_logs.id","missing sequence infra.system_logs_id_seq"}'),
    -- what people add themselves
    (5, 'CREATE TABLE public.mine (i integer); CREATE FUNCTION infra.mine() RETURNS integer LANGUAGE sql RETURN 1; GRANT ALL ON public.mine TO anon', '{}'),
    (5, 'ALTER TABLE public.profiles ADD COLUMN mine text NOT NULL DEFAULT ''x''; GRANT SELECT (mine) ON public.profiles TO anon; COMMENT ON COLUMN public.profiles.mine IS ''x''', '{}'),
    (5, 'CREATE INDEX mine_index ON public.profiles (display_name); CREATE POLICY mine ON public.profiles FOR SELECT TO anon USING (false); ALTER TABLE public.profiles ADD CONSTRAINT mine CHECK (true)', '{}'),
    (5, 'CREATE TRIGGER mine AFTER INSERT ON public.profiles FOR EACH ROW EXECUTE FUNCTION infra.touch(); ALTER TABLE public.profiles SET (fillfactor = 70)', '{}'),
    (5, 'INSERT INTO public.themes (id, name) VALUES (''mine'', ''Mine''); DELETE FROM public.monitoring_rules', '{}'),
    (5, 'UPDATE public.monitoring_rules SET months_ahead = 9, keep_months = 1; SELECT public.monitoring_upkeep()', '{}');
INSERT INTO auth.users (id, email) VALUES ('00000000-0000-4000-9000-00000000000a', 'a@example.com');
CREATE TABLE sd.seen AS
SELECT c.at_once, c.says AS expected, d.says, d.is_left
FROM (SELECT x.at_once, string_agg(x.statement, '; ') AS statements, ARRAY(SELECT d FROM sd.changes y, unnest(y.says) d WHERE y.at_once = x.at_once ORDER BY d COLLATE "C") AS says FROM sd.changes x GROUP BY 1) c,
     LATERAL sd.after(c.statements) d;
SELECT ok(c.says <@ s.says, c.statement || ' is told') FROM sd.changes c JOIN sd.seen s ON s.at_once = c.at_once WHERE c.says <> '{}';
SELECT is(s.says, s.expected, 'and nothing else is, with ' || s.at_once) FROM sd.seen s ORDER BY s.at_once;
SELECT is(s.is_left, '', 'brought back, with ' || s.at_once) FROM sd.seen s ORDER BY s.at_once;
SELECT t.line
FROM sd.after('DROP SCHEMA infra CASCADE') a,
     LATERAL (VALUES (is((SELECT array_agg(d) FROM unnest(a.says) d WHERE d ~ 'infra'), '{missing schema infra}', 'of a schema that is gone nothing is told but that')), (is(a.is_left, '', 'and it is brought back'))) t (line);
SELECT is(a.is_left, '', 'brought back: tables that stand on each other')
FROM sd.after('DROP TABLE public.profiles, public.roles, public.themes, public.tenant_themes, public.organizations, public.subscriptions CASCADE; DROP TABLE auth.users CASCADE') a;
SELECT is(a.says, '{"missing table public.app_settings"}', 'what was renamed is missing') FROM sd.after('ALTER TABLE public.app_settings RENAME TO settings; ALTER INDEX public.app_settings_pkey RENAME TO settings_pkey') a;
SAVEPOINT seeds;
DROP TABLE public.themes CASCADE;
SELECT matches((SELECT note FROM kessel.setup_drift() WHERE kind = 'table'), '^Its rows are gone', 'what is lost is told');
SELECT string_agg(mend, E';\n' ORDER BY step) AS mends FROM kessel.setup_drift() \gset
:mends;
SELECT is((SELECT array_agg(id) FROM public.themes), '{default}', 'what migrations put in is there again');
ROLLBACK TO seeds;

SAVEPOINT own_column;
ALTER TABLE public.profiles ADD COLUMN mine text;
GRANT SELECT (mine) ON public.profiles TO anon;
GRANT SELECT ON public.profiles TO anon;
SELECT mend AS mends FROM kessel.setup_drift() \gset
:mends;
SELECT is((SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = 'public.profiles'::regclass AND has_column_privilege('anon', attrelid, attnum, 'SELECT')), 'mine', 'privileges on a column of one''s own outlast it');
ROLLBACK TO own_column;

-- Which of them.
SAVEPOINT which;
DROP POLICY service ON public.profiles;
DROP POLICY service ON public.ai_providers;
SELECT results_eq('SELECT blueprint, schema_name, step, difference, kind, object, actual, note FROM kessel.setup_drift() ORDER BY step',
    $$VALUES ('core', 'public', 1, 'missing', 'policy', 'profiles.service', NULL::text, NULL::text), ('ai_providers', 'public', 2, 'missing', 'policy', 'ai_providers.service', NULL, NULL)$$, 'lines as kessel.drift() has them');
SELECT is((SELECT count(*) FROM kessel.setup_drift('{ai_providers}')), 1::bigint, 'of one blueprint');
SELECT is((SELECT count(*) FROM kessel.setup_drift(ignore => '{policy profiles.%}')), 1::bigint, 'without some');
SELECT throws_ok('SELECT kessel.setup_drift(''{nothing}'')', '42704', 'blueprint "nothing" does not exist');
SELECT throws_ok('SELECT kessel.setup_drift(''{NULL}'')', '22004', 'a blueprint is NULL');
ROLLBACK TO which;

-- A dump restored, or a newer server: definitions may read otherwise, all else not.
SAVEPOINT elsewhere;
UPDATE kessel.setup_objects SET server = '9/1/1';
UPDATE kessel.setup_objects SET definition = 'otherwise' WHERE kind IN ('policy', 'view', 'trigger', 'constraint', 'index', 'function');
DROP POLICY service ON public.profiles;
GRANT SELECT ON public.profiles TO anon;
SELECT is((SELECT drift FROM kessel.setup_status() WHERE blueprint = 'core'), '{"missing policy public.profiles.service","unexpected grant public.profiles to anon"}', 'what was recorded elsewhere is compared as far as that can be');
SELECT is_empty('SELECT kessel.setup()', 'setup() has nothing to do');
SELECT is((SELECT count(*) FROM kessel.setup_objects WHERE server = '9/1/1'), 1::bigint, 'but takes definitions as they read here');
ALTER POLICY own_or_admin_reads ON public.profiles USING (true);
SELECT ok('different policy public.profiles.own_or_admin_reads' = ANY (drift), 'from then on they are compared') FROM kessel.setup_status() WHERE blueprint = 'core';
ROLLBACK TO elsewhere;

-- ---------- migrations of one's own ----------

CREATE ROLE sd_admin;
GRANT kessel_admin TO sd_admin;
GRANT CREATE ON SCHEMA public TO sd_admin;
SET LOCAL ROLE sd_admin;
SELECT kessel.add_blueprint('own', applies_to => 'infra'), kessel.add_migration('own', '1_a', 'CREATE TABLE sd_own (i integer); INSERT INTO sd_own VALUES (1); CREATE FUNCTION sd_own() RETURNS text LANGUAGE sql SECURITY DEFINER RETURN current_user', 'DROP FUNCTION sd_own(); DROP TABLE sd_own'),
       kessel.add_migration('own', '2_b', 'ALTER TABLE sd_own ADD COLUMN j integer; CREATE TABLE sd_two (i integer); INSERT INTO sd_own VALUES (2)', 'ALTER TABLE sd_own DROP COLUMN j; DROP TABLE sd_two; DELETE FROM sd_own WHERE i = 2');
SELECT lives_ok('SELECT kessel.setup(''{own}'')', 'an admin''s own blueprint');
RESET ROLE;
SELECT results_eq('SELECT DISTINCT kind COLLATE "default", path[1] COLLATE "default", version, rows, made_by::text COLLATE "default" FROM kessel.setup_objects WHERE blueprint = ''own'' AND kind IN (''table'', ''function'') ORDER BY 1, 2',
    $$VALUES ('function', 'sd_own', 1, 0::bigint, 'sd_admin'), ('table', 'sd_own', 1, 2, 'sd_admin'), ('table', 'sd_two', 2, 0, 'sd_admin')$$, 'is recorded with its version and who has made it');
DROP FUNCTION public.sd_own();
SELECT mend AS mends FROM kessel.setup_drift('{own}') WHERE kind = 'function' \gset
:mends;
RESET ROLE;
SELECT is(public.sd_own(), 'sd_admin', 'what a superuser mends is not a superuser''s');
SELECT is_empty('SELECT * FROM kessel.setup_drift(''{own}'')', 'and is as it was');
SAVEPOINT column_gone;
ALTER TABLE public.sd_own DROP COLUMN j;
SELECT results_eq('SELECT mend, note ~ ''^To be mended in a session of role "sd_admin"'' FROM kessel.setup_drift(''{own}'')', 'VALUES (NULL, true)', 'what could run that role''s functions, a superuser does not mend');
ROLLBACK TO column_gone;
SELECT kessel.add_blueprint('change', applies_to => 'infra', requires => '{core}'), kessel.add_migration('change', '1_a', 'ALTER POLICY user_reads ON public.roles USING (is_system); REVOKE SELECT ON public.themes FROM anon; DROP INDEX public.profiles_email',
                                                                          'ALTER POLICY user_reads ON public.roles USING (true); GRANT SELECT ON public.themes TO anon; CREATE INDEX profiles_email ON public.profiles (email)');
SELECT lives_ok('SELECT kessel.setup(''{change}'')', 'a migration that changes what another one has made');
SELECT is_empty('SELECT * FROM kessel.setup_drift()', 'is no drift');
SELECT lives_ok('SELECT kessel.teardown(''change'')', 'nor when it is taken back');
SELECT is_empty('SELECT * FROM kessel.setup_drift()', 'and what it was before is compared with again');

-- ---------- taken back ----------

SET LOCAL ROLE sd_admin;
SELECT matches(sd.said('SELECT kessel.teardown(''own'')'), '^no error$', 'what migrations themselves put in may go');
SELECT kessel.setup('{own}') \g /dev/null
INSERT INTO public.sd_own VALUES (3), (4);
INSERT INTO public.sd_two VALUES (1);
SELECT is(sd.said('SELECT kessel.teardown(''own'')'), E'55006\ntables of blueprint "own" have rows, which would be lost\nRows that have come since kessel.setup(): public.sd_own: 2, public.sd_two: 1.\nSave what is needed, then call kessel.teardown() with drop_data => true.', 'rows of others are counted, and stay');
SELECT is(sd.said('SELECT kessel.teardown(''own'', 1)'), E'55006\ntables of blueprint "own" have rows, which would be lost\nRows that have come since kessel.setup(): public.sd_two: 1.\nSave what is needed, then call kessel.teardown() with drop_data => true.', 'of the tables that would go');
DELETE FROM public.sd_two;
SELECT lives_ok('SELECT kessel.teardown(''own'', 1)', 'none is there any more');
SELECT throws_ok('SELECT kessel.teardown(''own'', drop_data => NULL)', '22004', 'an argument of kessel.teardown() is NULL');
RESET ROLE;
SELECT matches(sd.said('SELECT kessel.teardown(''own'', drop_data => true)'), E'^42501\n.*"sd_admin"', 'somebody else is told whose it is');
SET LOCAL ROLE kessel_admin;
SELECT matches(sd.said('SELECT kessel.teardown(''own'', drop_data => true)'), E'^42501\npermission denied to take back blueprint "own"\nTable public.sd_own belongs to role "sd_admin".\nCall it as that one: SET ROLE sd_admin.$', 'whoever it is');
SELECT throws_ok('SELECT kessel._count_rows(''app.tenants'', 1)', '55000', 'table "tenants" is not locked', 'rows are counted for who may drop them');
SET LOCAL ROLE sd_admin;
SAVEPOINT missing;
DROP TABLE public.sd_own;
SELECT matches(sd.said('SELECT kessel.teardown(''own'')'), E'^42P01\n.*does not exist\nSELECT \\* FROM kessel.setup_drift\\(\\) shows what is not there any more', 'where something is missing, it says how to get on');
SET LOCAL SESSION AUTHORIZATION sd_admin;
SELECT string_agg(mend, '; ' ORDER BY step) AS mends FROM kessel.setup_drift('{own}') \gset
:mends;
RESET SESSION AUTHORIZATION;
SET LOCAL ROLE sd_admin;
SELECT lives_ok('SELECT kessel.teardown(''own'')', 'which does');
ROLLBACK TO missing;
SELECT results_eq('SELECT blueprint, version, name FROM kessel.teardown(''own'', drop_data => true)', $$VALUES ('own', 1, '1_a')$$, 'confirmed, it goes');
RESET ROLE;
SELECT is_empty('SELECT FROM kessel.setup_objects WHERE blueprint = ''own''', 'and nothing is recorded of it');

-- Those that need each other.
SELECT kessel.add_blueprint('low', applies_to => 'infra', requires => '{enterprise}'), kessel.add_blueprint('high', applies_to => 'infra', requires => '{low,storage}'), kessel.add_blueprint('aside', applies_to => 'infra', requires => '{low}');
SELECT kessel.add_migration(b, '1_a', format('CREATE TABLE sd_%s ()', b), format('DROP TABLE sd_%s', b)) FROM unnest('{low,high}'::text[]) b;
SELECT kessel.setup('{high,aside}') \g /dev/null
SELECT is(sd.said('SELECT kessel.teardown(''enterprise'')'), E'55000\nblueprint "enterprise" is in use\nIt is required by: high, low.\nTake those back first, in this order; cascade => true does so.', 'all that need it are named, in order');
SELECT matches(sd.said('SELECT kessel.teardown(''core'', cascade => true)'), E'^55006\n.*"core"(.|\n)*auth.users: 1, public.profiles: 1', 'nothing goes where one has rows');
SELECT is((SELECT string_agg(DISTINCT t.blueprint, ' ') FROM (SELECT blueprint FROM kessel.teardown('enterprise', cascade => true)) t), 'enterprise high low', 'with those that need it');
SELECT is((SELECT string_agg(b, ' ' ORDER BY n) FROM (SELECT t.blueprint, min(t.n) FROM kessel.teardown('core', cascade => true, drop_data => true) WITH ORDINALITY t (blueprint, version, name, ms, n) GROUP BY 1) x (b, n)) ~ ' core$', true, 'core is the last one');
SELECT is_empty('SELECT FROM kessel.setup_objects', 'nothing is recorded any more');
SELECT is((SELECT name FROM theirs.profiles), 'theirs', 'theirs is still there');

-- ---------- without rights ----------

SELECT is(array(SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'kessel'::regnamespace AND p.proname ~ '^_setup_(look|done|lines|differences|expected|actual|fill|whose|rows)' AND has_function_privilege('kessel_admin', p.oid, 'EXECUTE')), '{}', 'what writes the record is for nobody');
SET LOCAL ROLE kessel_service;
SELECT throws_ok(statement, '42501', NULL, 'not for kessel_service: ' || statement)
FROM unnest(ARRAY['SELECT kessel.setup_drift()', 'SELECT * FROM kessel.setup_objects', 'SELECT kessel._count_rows(''app.tenants'', 1)', 'SELECT kessel._warn_of_drift(NULL)']) statement;
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;

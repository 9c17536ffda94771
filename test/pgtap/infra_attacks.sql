-- Attacks on the blueprints core and storage: schemas and functions that somebody
-- has put in their place before kessel.setup(), functions in temporary schemas,
-- rights that are given by default, ways around policies, and what errors tell.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
\ir ../lib/infra.sql

--
-- Somebody who may make schemas, and no more, was there before
--
CREATE ROLE squatter;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO squatter', current_database()); END $$;
CREATE FUNCTION ct.as_role(who name, script text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', who);
    EXECUTE script;
    RESET ROLE;
END $$;
CREATE FUNCTION ct.evil(signature text, returns text) RETURNS text LANGUAGE sql AS $$
    SELECT format('CREATE FUNCTION %s RETURNS %s LANGUAGE plpgsql AS $e$ BEGIN EXECUTE ''ALTER ROLE squatter SUPERUSER''; RETURN NULL; END $e$;', signature, returns)
$$;
-- The blueprint is set up as a superuser, and says that it is not.
CREATE FUNCTION ct.refused(blueprint text, script text, stranger text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ct.as_role('squatter', script);
    RETURN NEXT throws_ok(format('SELECT kessel.setup(ARRAY[%L])', blueprint), '42501', stranger);
    RETURN NEXT ok(NOT rolsuper, 'and nothing of it was run') FROM pg_roles WHERE rolname = 'squatter';
END $$;

SAVEPOINT s;
SELECT ct.refused('core', 'CREATE SCHEMA auth', 'schema auth belongs to role "squatter"');
ROLLBACK TO s;
SELECT ct.refused('core', 'CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text); ' || ct.evil('auth.uid()', 'uuid'), 'schema auth belongs to role "squatter"');
ROLLBACK TO s;
CREATE SCHEMA auth;
GRANT CREATE, USAGE ON SCHEMA auth TO squatter;
SAVEPOINT ours;
SELECT ct.refused('core', ct.evil('auth.uid()', 'uuid'), 'function auth.uid() belongs to role "squatter"');
ROLLBACK TO ours;
SELECT ct.refused('core', ct.evil('auth.role()', 'text'), 'function auth.role() belongs to role "squatter"');
ROLLBACK TO ours;
SELECT ct.refused('core', 'CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)', 'table auth.users belongs to role "squatter"');
ROLLBACK TO s;
-- Who could become the one that sets up has no more by it.
CREATE ROLE peer;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO peer; GRANT %I TO peer', current_database(), current_user); END $$;
SELECT ct.as_role('peer', 'CREATE SCHEMA auth');
SELECT lives_ok('SELECT kessel.setup(''{core}'')', 'what belongs to one who could become the one that sets up is used');
ROLLBACK TO s;

SELECT ct.as_role('squatter', 'CREATE SCHEMA infra; GRANT USAGE ON SCHEMA infra TO PUBLIC; ' || ct.evil('infra.set_theme(text, text)', 'text') || ct.evil('infra.consume(uuid, bigint)', 'bigint')
    || ct.evil('infra.has_permission(text)', 'boolean') || ct.evil('infra.members_changed(uuid[])', 'text') || ct.evil('infra.has_table_permission(text, text)', 'boolean'));
SELECT throws_ok(call, '55000', NULL, call || ' does not call what anybody has put there') FROM unnest(ARRAY['SELECT kessel.set_theme(''x'')', 'SELECT kessel.set_theme(''x'', ''y'')', 'SELECT kessel.consume(gen_random_uuid())', 'SELECT kessel.has_permission(''x'')']) call;
TRUNCATE app.user_tenants;
SELECT throws_ok('SELECT kessel.setup(''{core}'')', '42710', NULL, 'nor is it built on');
ROLLBACK TO s;

SELECT * FROM kessel.setup('{core}') \g /dev/null
SAVEPOINT core;
SELECT ct.refused('storage', 'CREATE SCHEMA storage', 'schema storage belongs to role "squatter"');
ROLLBACK TO core;
CREATE SCHEMA storage;
GRANT CREATE, USAGE ON SCHEMA storage TO squatter;
SELECT ct.refused('storage', 'CREATE TABLE storage.buckets (id text PRIMARY KEY, name text, owner_id text, public boolean, file_size_limit bigint, allowed_mime_types text[]); ' || ct.evil('storage.t()', 'trigger')
    || 'CREATE TRIGGER t BEFORE INSERT ON storage.buckets FOR EACH ROW EXECUTE FUNCTION storage.t()', 'table storage.buckets belongs to role "squatter"');
ROLLBACK TO s;

-- Who may make triggers on tables that are somebody else's, as everybody may beside Supabase.
SELECT * FROM kessel.setup('{core,storage}') \g /dev/null
GRANT USAGE ON SCHEMA storage TO squatter;
GRANT TRIGGER ON storage.objects, storage.buckets TO squatter;
INSERT INTO auth.users (id) VALUES ('00000000-0000-4000-9000-0000000000ad');
UPDATE profiles SET role = 'admin';
INSERT INTO themes (id, name) VALUES ('dark', 'Dark');
SELECT put_theme_css('dark', 'a {}') \g /dev/null
CREATE FUNCTION ct.trigger(tab text) RETURNS text LANGUAGE sql AS $$
    SELECT ct.evil('pg_temp.t()', 'trigger') || format('CREATE TRIGGER x BEFORE INSERT OR UPDATE OR DELETE ON storage.%s FOR EACH ROW EXECUTE FUNCTION pg_temp.t()', tab)
$$;
SAVEPOINT made;
SELECT ct.as_role('squatter', ct.trigger('objects'));
INSERT INTO ct.people VALUES ('admin', 'authenticated', '00000000-0000-4000-9000-0000000000ad');
SELECT is(ct.try('admin', q), '-', 'what it does is done with the rights of who is an administrator only: ' || q) FROM unnest(ARRAY['UPDATE themes SET id = ''night'' WHERE id = ''dark''', 'DELETE FROM themes WHERE id = ''dark''', 'SELECT put_theme_css(''dark'', ''b {}'')']) q;
SELECT throws_ok('SELECT kessel.teardown(''storage'', drop_data => true)', '42501', 'function of trigger x on storage.objects belongs to role "squatter"', 'nothing is taken back with it');
ROLLBACK TO made;
SELECT ct.as_role('squatter', ct.trigger('buckets'));
SELECT throws_ok('SELECT kessel.teardown(''storage'', drop_data => true)', '42501', 'function of trigger x on storage.buckets belongs to role "squatter"', 'nor with this one');
ROLLBACK TO made;
COMMENT ON SCHEMA storage IS NULL;
COMMENT ON TABLE storage.objects IS NULL;
COMMENT ON TABLE storage.buckets IS NULL;
DROP TRIGGER guard ON storage.objects;
SELECT kessel.teardown('storage', drop_data => true) \g /dev/null
SELECT ct.refused('storage', ct.trigger('buckets'), 'function of trigger x on storage.buckets belongs to role "squatter"');
ROLLBACK TO s;

-- What is given by default in the whole database.
SELECT kessel.setup('{core}'), kessel.teardown('core') \g /dev/null
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, authenticated;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO anon, authenticated;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon, authenticated;
SELECT * FROM kessel.setup('{core,storage}') \g /dev/null
SELECT is_empty($$SELECT c.oid::regclass, r, p FROM pg_class c, unnest('{anon,authenticated}'::text[]) r, unnest('{TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
    WHERE c.relnamespace::regnamespace::text IN ('auth', 'infra', 'storage', 'public') AND c.relkind IN ('r', 'v') AND has_table_privilege(r, c.oid, p)$$, 'rights that are given by default are taken back, of tables');
SELECT is_empty($$SELECT n.nspname, r FROM pg_namespace n, unnest('{anon,authenticated}'::text[]) r WHERE n.nspname IN ('auth', 'infra', 'storage') AND has_schema_privilege(r, n.oid, 'CREATE')$$, 'and of schemas');
SELECT ok(NOT has_table_privilege('authenticated', 'auth.users', 'SELECT, INSERT, UPDATE, DELETE'), 'users are for who signs them in');
ROLLBACK TO s;

--
-- Set up: around policies
--
SELECT * FROM kessel.setup('{core,storage}') \g /dev/null
SELECT ct.populate() \g /dev/null
INSERT INTO themes (id, name) VALUES ('dark', 'Dark');
INSERT INTO app_settings (key, value) VALUES ('hidden', '5');
INSERT INTO ai_tool_calls (id, user_id, tool_name) SELECT md5(who)::uuid, id, 'tool' FROM ct.people WHERE id IS NOT NULL;
INSERT INTO storage.buckets (id, name, public, allowed_mime_types, file_size_limit) VALUES ('mine', 'mine', false, NULL, NULL), ('private', 'private', false, '{text/css}', 5), ('open', 'open', true, '{image/*}', NULL);
CREATE POLICY own_folder ON storage.objects TO authenticated USING (bucket_id IN ('mine', 'open') AND (storage.foldername(name))[1] = (SELECT auth.uid())::text);
SELECT ct.try('a', $$SELECT storage.put_object('mine', '00000000-0000-4000-9000-00000000000a/x', 'of a')$$, true), ct.try('b', $$SELECT storage.put_object('mine', '00000000-0000-4000-9000-00000000000b/x', 'of b')$$, true) \g /dev/null

-- A function that costs nothing and tells what it is asked about.
CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN IF $1 ~ '^(b@|admin@|B$|dark|of b|.*000b)' THEN RAISE EXCEPTION USING ERRCODE = 'CT001'; END IF; RETURN true; END $$;
SELECT is(ct.try('a', q), '1', 'is told of one''s own row: ' || q) FROM unnest(ARRAY['SELECT FROM profiles WHERE pg_temp.tell(email)', 'SELECT FROM tenants WHERE pg_temp.tell(name)', 'SELECT FROM app.tenants WHERE pg_temp.tell(name)',
    'SELECT FROM ai_tool_calls WHERE pg_temp.tell(user_id::text)', 'SELECT FROM storage.objects WHERE pg_temp.tell(owner_id)', 'SELECT FROM infra.object_contents WHERE pg_temp.tell(convert_from(content, ''UTF8''))',
    'UPDATE profiles SET display_name = ''x'' WHERE pg_temp.tell(email) RETURNING email', 'DELETE FROM storage.objects WHERE pg_temp.tell(owner_id)', 'SELECT FROM profiles p JOIN profiles o ON pg_temp.tell(o.email)']) q;

-- Ways to write one's own rights.
SELECT is(ct.try('a', q), '-', q) FROM unnest(ARRAY[
    'INSERT INTO profiles (id, role) VALUES (auth.uid(), ''admin'') ON CONFLICT (id) DO UPDATE SET role = excluded.role',
    'INSERT INTO profiles (id, can_select_theme) VALUES (auth.uid(), true) ON CONFLICT (id) DO NOTHING', 'UPDATE profiles SET (role, role_id) = (''admin'', ''00000000-0000-4000-8000-000000000002'')',
    'UPDATE profiles p SET role = r.name FROM roles r WHERE r.is_admin AND r.name = ''admin''', 'UPDATE profiles SET role = ''user '' RETURNING role', 'UPDATE profiles SET role = NULL', 'UPDATE profiles SET role_id = NULL',
    'MERGE INTO profiles p USING roles r ON r.name = ''admin'' AND p.id = auth.uid() WHEN MATCHED THEN UPDATE SET role = r.name', 'MERGE INTO profiles p USING roles r ON false WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (auth.uid(), ''00000000-0000-4000-8000-00000000000b'')',
    'WITH x AS (UPDATE profiles SET role = ''admin'' RETURNING 1) SELECT FROM x', 'COPY profiles (id) FROM ''/dev/null''', 'COPY roles FROM ''/dev/null''', 'ALTER TABLE profiles DISABLE TRIGGER guard', 'SET LOCAL session_replication_role = replica',
    'CREATE TRIGGER x BEFORE UPDATE ON profiles FOR EACH ROW EXECUTE FUNCTION pg_temp.tell()', 'CREATE POLICY x ON profiles USING (true)', 'SELECT infra.members_changed(NULL)', 'SELECT kessel._tell_members(NULL)',
    'SELECT kessel.add_member(''ct-b'', auth.uid())', 'SELECT assign_user_to_tenant(auth.uid(), ''00000000-0000-4000-8000-00000000000b'', ''owner'')', 'SELECT create_tenant(''x'', ''X'')', 'SELECT infra.guard_profile()']) q;
SELECT is(ct.try('a', 'MERGE INTO profiles p USING roles r ON r.name = ''admin'' WHEN MATCHED THEN UPDATE SET display_name = ''x'''), '!', 'MERGE finds no other rows');
SELECT is(ct.try('a', 'SET LOCAL row_security = off; SELECT FROM profiles'), '!', 'row security is not switched off');
SELECT is(ct.try('a', 'DECLARE c CURSOR FOR SELECT FROM profiles FOR UPDATE; FETCH ALL c'), '1', 'a cursor finds one''s own');
SELECT is(ct.try('a', format('CREATE TEMP TABLE t (x text); CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION infra.%s()', f)), '-', 'nor does a trigger with infra.' || f)
FROM unnest(ARRAY['new_user', 'new_email', 'profile_in_step', 'role_renamed', 'insert_tenant', 'update_tenant', 'delete_tenant', 'object_written', 'object_content_is_its', 'drop_unused_content', 'theme_files', 'check_content']) f;

-- The same answer whether what one may not see is there or not.
SELECT is(replace(ct.ask('a', format(q, there), 'message'), there, ''), replace(ct.ask('a', format(q, nowhere), 'message'), nowhere, ''), 'tells nothing: ' || q) FROM (VALUES
    ('INSERT INTO app_settings (key) VALUES (%L) RETURNING 1', 'hidden', 'none'), ('INSERT INTO ai_tool_calls (user_id, tool_name) VALUES (%L, ''x'') RETURNING 1', '00000000-0000-4000-9000-00000000000b', '00000000-0000-4000-9000-000000000bad'),
    ('INSERT INTO tenant_themes (tenant_id, theme) VALUES (%L, ''dark'') RETURNING 1', '00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-000000000bad'), ('SELECT kessel.set_theme(''dark'', %L)', '00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-000000000bad'),
    ('INSERT INTO storage.objects (bucket_id, name) VALUES (%L, ''x'') RETURNING 1', 'private', 'none'), ('INSERT INTO storage.objects (bucket_id, name) VALUES (''mine'', %L) RETURNING 1', '00000000-0000-4000-9000-00000000000b/x', '00000000-0000-4000-9000-00000000000b/none'),
    ('SELECT size FROM storage.put_object(%L, ''x'', ''too large'', ''text/html'')', 'private', 'none'), ('SELECT size FROM storage.put_object(''mine'', %L, '''')', '00000000-0000-4000-9000-00000000000b/x', '00000000-0000-4000-9000-00000000000b/none'),
    ('SELECT size FROM storage.put_object(''mine'', %L, '''', if_none_match => ''*'')', '00000000-0000-4000-9000-00000000000b/x', '00000000-0000-4000-9000-00000000000b/none'), ('SELECT storage.remove_object(''mine'', %L)', '00000000-0000-4000-9000-00000000000b/x', '00000000-0000-4000-9000-00000000000b/none'),
    ('UPDATE storage.objects SET bucket_id = %L RETURNING 1', 'private', 'none'), ('SELECT name FROM get_tenant_by_slug(%L)', 'ct-b', 'none'), ('SELECT kessel.has_permission(%L)', 'hidden', 'none')) v(q, there, nowhere);
SELECT is(ct.ask('a', 'SELECT count(*) FROM discover_tables() WHERE table_name IN (''profiles'', ''objects'') AND estimated_rows IS NOT NULL'), '0', 'nor how many rows there are that one may not see');
ANALYZE profiles, storage.objects;
SELECT is(ct.ask('a', 'SELECT count(*) FROM discover_tables() WHERE table_name IN (''profiles'', ''objects'') AND estimated_rows IS NOT NULL'), '0', 'also when they were counted');
SELECT is(ct.ask('service', 'SELECT estimated_rows FROM discover_tables() WHERE table_name = ''profiles'''), '4', 'which who sees all of them is told');
SELECT is(ct.ask('a', 'SELECT count(*) FROM pg_stats WHERE schemaname IN (''public'', ''storage'', ''infra'', ''auth'') AND tablename IN (''profiles'', ''objects'', ''object_contents'', ''users'')'), '0', 'nor are statistics');

--
-- Claims of all kinds
--
CREATE FUNCTION ct.claim(claims text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        PERFORM set_config('request.jwt.claims', claims, true);
        SET LOCAL ROLE authenticated;
        EXECUTE query INTO result;
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        result := left(SQLSTATE, 2);
    END;
    RETURN result;
END $$;
SELECT is(coalesce(ct.claim(claims, 'SELECT infra.is_admin() OR EXISTS (SELECT FROM profiles)'), '-'), result, 'claims ' || left(claims, 60)) FROM (VALUES
    ('', 'false'), ('{}', 'false'), ('{"sub": null}', 'false'), ('null', 'false'), ('[]', 'false'), ('"x"', 'false'), ('{"role": "service_role", "is_admin": true, "app_metadata": {"role": "admin"}}', 'false'), ('{"sub": ""}', '22'), ('{"sub": "x"}', '22'), ('{"sub": ["00000000-0000-4000-9000-0000000000ad"]}', '22'),
    ('{"sub": {"id": "00000000-0000-4000-9000-0000000000ad"}}', '22'), ('{"sub": true}', '22'), ('{"sub": 1}', '22'), ('{"sub": "00000000-0000-4000-9000-0000000000ad\u0000"}', '22'), ('{"sub": "00000000-0000-4000-9000-0000000000ad'' OR true --"}', '22'), ('{', '22'),
    ('{"sub": "00000000-0000-0000-0000-000000000000"}', 'false'), ('{"sub": "ffffffff-ffff-ffff-ffff-ffffffffffff"}', 'false'), ('[{"sub": "00000000-0000-4000-9000-0000000000ad"}]', 'false'), ('{"SUB": "00000000-0000-4000-9000-0000000000ad"}', 'false'),
    ('{"sub": "00000000-0000-4000-9000-0000000000ad", "sub": "00000000-0000-4000-9000-000000000bad"}', 'false'), ('{"sub": "00000000-0000-4000-9000-000000000bad", "x": "' || repeat('x', 1000000) || '"}', 'false'), (repeat('[', 100000), '54')) v(claims, result);
-- What somebody has left in the session is not the next one's.
SELECT set_config('request.jwt.claim.sub', '00000000-0000-4000-9000-0000000000ad', true), set_config('request.jwt.claim.role', 'service_role', true), set_config('request.jwt.claim.email', 'admin@example.com', true), set_config('request.jwt.claim', '{"sub": "00000000-0000-4000-9000-0000000000ad"}', true) \g /dev/null
SELECT is(ct.ask(who, CASE who WHEN 'anon' THEN 'SELECT ''''' ELSE 'SELECT infra.is_admin()::text' END || ' || coalesce(auth.uid()::text, '' none '') || auth.role() || coalesce(auth.email(), '''') || (auth.jwt() ? ''role'')'), result, 'claims decide who is ' || who) FROM (VALUES ('a', 'false00000000-0000-4000-9000-00000000000aauthenticatedtrue'), ('anon', ' none anontrue')) v(who, result);
SELECT is(ct.claim('', 'SELECT auth.uid() || auth.role() || auth.email() || auth.jwt()'), '00000000-0000-4000-9000-0000000000adservice_roleadmin@example.com{"sub": "00000000-0000-4000-9000-0000000000ad"}', 'where there are none, those of older servers do');
SELECT set_config('request.jwt.claim.sub', '', true), set_config('request.jwt.claim.role', '', true), set_config('request.jwt.claim.email', '', true), set_config('request.jwt.claim', '', true) \g /dev/null
SELECT is(ct.claim('', 'SELECT coalesce(auth.uid()::text, auth.role(), auth.email(), auth.jwt()::text)'), NULL, 'where there are none of these either, nobody');

--
-- Somebody grants all in public to everybody
--
SAVEPOINT granted;
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO anon, authenticated;
SELECT is(ct.try(who, q), '-', who || ': ' || q) FROM unnest('{anon,a,admin}'::text[]) who, unnest(ARRAY['SELECT create_tenant(''x'', ''X'')', 'SELECT assign_user_to_tenant(''00000000-0000-4000-9000-00000000000a'', ''00000000-0000-4000-8000-00000000000b'', ''owner'')',
    'SELECT insert_secret(''x'', ''y'')', 'SELECT update_secret(''x'', ''y'')', 'SELECT delete_secret(''x'')', 'SELECT read_secret(''x'')', 'SELECT * FROM get_all_secrets_for_env()', 'INSERT INTO tenants (name, subdomain, data_source_url) VALUES (''X'', ''x'', ''https://x.example'')']) q
WHERE NOT (q ~ 'read_secret|get_all' AND who <> 'anon');
SELECT is(ct.try('a', q), r, 'a: ' || q) FROM (VALUES ('UPDATE tenants SET name = ''x''', '-'), ('DELETE FROM tenants', '-'), ('SELECT * FROM get_all_secrets_for_env()', '0'), ('SELECT FROM profiles', '1'),
    ('UPDATE profiles SET tenant_id = ''00000000-0000-4000-8000-00000000000b''', '-'), ('UPDATE profiles SET email = ''b@example.com''', '-'), ('UPDATE profiles SET role = ''admin''', '-'), ('INSERT INTO profiles (id) VALUES (gen_random_uuid())', '!'), ('DELETE FROM profiles', '0'),
    ('UPDATE ai_tool_calls SET success = true', '0'), ('DELETE FROM ai_tool_calls', '0'), ('DELETE FROM roles', '0'), ('INSERT INTO roles (name, display_name, is_system, is_admin) VALUES (''x'', ''X'', true, true)', '!'), ('SELECT FROM app_settings', '0')) v(q, r);
SELECT is(ct.try('anon', q), r, 'anon: ' || q) FROM (VALUES ('SELECT FROM profiles', '0'), ('SELECT FROM roles', '0'), ('SELECT FROM db_registry', '0'), ('UPDATE themes SET name = ''x''', '0'), ('INSERT INTO themes (id, name) VALUES (''x'', ''x'')', '!'), ('SELECT FROM tenants', '-')) v(q, r);
SELECT is(ct.try('admin', 'UPDATE profiles SET tenant_id = NULL, email = NULL WHERE id <> auth.uid()'), '-', 'nor does an administrator write what follows other tables');
ROLLBACK TO granted;

--
-- Files
--
SELECT is(ct.ask('a', format('SELECT mime_type FROM storage.put_object(''open'', ''00000000-0000-4000-9000-00000000000a/x'', '''', %L) p, storage.get_object(''open'', ''00000000-0000-4000-9000-00000000000a/x'')', type)), '22023', 'no type: ' || type)
FROM unnest(ARRAY['image/png,text/html', 'image/png;a,text/html', 'image/png; a="b,text/html"', 'image/png;', 'image/png; charset', 'image/png text/html', ' image/png', 'image/png;a=b;c', 'image/png; a="b\"c"', 'image/*', '*/*', 'image/svg+xml;x=<script>', 'image/pn' || chr(778) || 'g']) type;
SELECT is(ct.ask('a', format('SELECT size FROM storage.put_object(''open'', ''00000000-0000-4000-9000-00000000000a/x'', '''', %L)', type)), '0', 'a type: ' || type) FROM unnest(ARRAY['image/png', 'IMAGE/PNG', 'image/svg+xml; charset="utf-8"', 'image/png ; a=b;c="d e"']) type;

-- Who made a file is its owner.
SELECT is(ct.try('a', q), state, q) FROM (VALUES ('INSERT INTO storage.objects (bucket_id, name, owner_id) VALUES (''mine'', ''00000000-0000-4000-9000-00000000000a/y'', ''00000000-0000-4000-9000-00000000000b'')', '-'),
    ('INSERT INTO storage.objects (bucket_id, name, owner) VALUES (''mine'', ''00000000-0000-4000-9000-00000000000a/y'', NULL)', '-'), ('INSERT INTO storage.objects (bucket_id, name) VALUES (''mine'', ''00000000-0000-4000-9000-00000000000a/y'')', '1'),
    ('UPDATE storage.objects SET owner = ''00000000-0000-4000-9000-00000000000b''', '-'), ('UPDATE storage.objects SET owner_id = NULL', '-'), ('UPDATE storage.objects SET user_metadata = ''{}''', '1'),
    ('INSERT INTO storage.objects (bucket_id, name) VALUES (''mine'', ''00000000-0000-4000-9000-00000000000a/x'') ON CONFLICT (bucket_id, name) DO UPDATE SET owner_id = ''x''', '-')) v(q, state);
SELECT is(ct.try('service', 'UPDATE storage.objects SET owner = NULL, owner_id = ''x'''), '2', 'the service decides');

-- Who could see a file once, and knows its ids, reads it no more.
CREATE TABLE ct.known AS SELECT o.id, o.version FROM storage.objects o WHERE o.owner_id LIKE '%000a';
GRANT SELECT ON ct.known TO PUBLIC;
SELECT is(ct.ask(who, 'SELECT convert_from(content, ''UTF8'') FROM infra.object_contents c JOIN ct.known k ON k.id = c.object_id AND k.version = ''kessel:'' || c.id'), result, who || ' and the content of a''s file') FROM (VALUES ('anon', NULL), ('a', 'of a'), ('b', NULL), ('admin', NULL), ('service', 'of a')) v(who, result);
DROP POLICY own_folder ON storage.objects;
SELECT is(ct.ask('a', 'SELECT count(*) FROM infra.object_contents'), '0', 'not with a''s when the policy has gone');
UPDATE storage.buckets SET public = true WHERE id = 'mine';
SELECT is(ct.ask('anon', $$SELECT convert_from(content, 'UTF8') FROM storage.get_object('mine', '00000000-0000-4000-9000-00000000000a/x')$$), 'of a', 'in a public bucket who knows the name does');
SELECT is(ct.ask('anon', 'SELECT count(*) FROM infra.object_contents'), '0', 'and finds no other way');
UPDATE storage.buckets SET public = false WHERE id = 'mine';
SELECT is(ct.ask('anon', $$SELECT coalesce(infra.public_content('mine', '00000000-0000-4000-9000-00000000000a/x'), 'nothing')$$), convert_to('nothing', 'UTF8')::text, 'until it is not public any more');

SELECT * FROM finish();
ROLLBACK;

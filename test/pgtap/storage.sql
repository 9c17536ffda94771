-- The blueprint storage: who may do what with buckets, files and themes, what is
-- refused, that content follows its object, Supabase's own tables, the way back.
--
-- Every table and function that it makes must have its line in the lists below.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
\ir ../lib/infra.sql

SELECT * FROM kessel.setup('{core}') \g /dev/null
CREATE TABLE ct.before AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT ct.check_ways('storage');
SELECT ct.populate() \g /dev/null
INSERT INTO themes (id, name) VALUES ('dark', 'Dark'), ('light', 'Light');

SELECT results_eq('SELECT public, file_size_limit, allowed_mime_types FROM storage.buckets WHERE id = ''themes''', $$VALUES (true, 1048576::bigint, '{text/css,application/json}'::text[])$$, 'the bucket themes');
INSERT INTO storage.buckets (id, name, public, file_size_limit, allowed_mime_types) VALUES ('mine', 'mine', false, 10, NULL), ('open', 'open', true, NULL, '{image/*}');
-- As an app would: each user's folder.
CREATE POLICY own_folder ON storage.objects TO authenticated USING (bucket_id = 'mine' AND (storage.foldername(name))[1] = (SELECT auth.uid())::text);

SELECT is(ct.try('admin', $$SELECT storage.put_object('themes', 'dark.css', 'a {}', 'text/css')$$, true), '1', 'an administrator stores CSS');
SELECT is(ct.try('a', $$SELECT storage.put_object('mine', '00000000-0000-4000-9000-00000000000a/x', 'of a')$$, true), '1', 'a user a file');
SELECT is(ct.try('service', $$SELECT storage.put_object('open', 'i/logo.png', '\x89', 'image/png')$$, true), '1', 'the service another one');
SELECT is(ct.try('a', $$SELECT kessel.set_theme('light', 'ct-a')$$, true), '1', 'an owner makes a tenant''s default');

INSERT INTO ct.matrix VALUES
    ('storage.buckets', '', $$(id, name) VALUES ('n', 'n')$$, 'name = name || ''x''', 'id <> ''themes''',
        '1 - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '2 1 2 23503', '2 1 2 23503'),
    ('storage.objects', '', $$(bucket_id, name) VALUES ('themes', 'n')$$, 'user_metadata = ''{}''', 'true',
        '1 - - -', '2 ! 1 1', '1 ! 0 0', '1 ! 0 0', '1 1 1 1', '3 1 3 3'),
    ('infra.object_contents', '', $$(bucket_id, mime_type, content) VALUES ('mine', 'a/b', '')$$, 'content = ''''', 'true',
        '1 - - -', '2 - - -', '1 - - -', '1 - - -', '1 - - -', '3 - - -'),
    -- One inserts for the tenant b.
    ('tenant_themes', '', $$(tenant_id, theme) VALUES ('00000000-0000-4000-8000-00000000000b', 'dark')$$, 'theme = ''dark''', 'true',
        '- - - -', '1 ! 1 1', '0 ! 0 0', '0 ! 0 0', '0 ! 0 0', '1 1 1 1');
INSERT INTO ct.functions VALUES
    ('storage.foldername(text)', 'anon authenticated public service_role'), ('storage.filename(text)', 'anon authenticated public service_role'), ('storage.extension(text)', 'anon authenticated public service_role'),
    ('infra.check_object_name(text)', 'authenticated service_role'), ('infra.check_mime_type(text)', ''), ('infra.check_storage_owners()', ''), ('infra.check_object(text,text,bigint)', ''), ('infra.add_content(text,bytea)', 'authenticated service_role'),
    ('infra.public_content(text,text)', 'anon authenticated service_role'), ('infra.public_object(text,text)', 'anon authenticated service_role'),
    ('storage.put_object(text,text,bytea,text,text,text,text)', 'authenticated service_role'), ('storage.get_object(text,text,text)', 'anon authenticated service_role'),
    ('storage.list_objects(text,text,integer,text)', 'anon authenticated service_role'), ('storage.remove_object(text,text)', 'authenticated service_role'),
    ('infra.set_theme(text,text)', 'authenticated service_role'), ('current_theme()', 'anon authenticated service_role'),
    ('put_theme_css(text,text)', 'authenticated service_role'), ('get_theme_css(text)', 'anon authenticated service_role');
SELECT ct.check_matrix();

--
-- Files
--
SELECT is(ct.ask(who, $$SELECT encode(content, 'escape') || ' ' || mime_type || ' ' || size || ' ' || cache_control || ' ' || not_modified FROM storage.get_object('themes', 'dark.css')$$), 'a {} text/css 4 max-age=3600 false', who || ' fetches it') FROM ct.people;
SELECT is(ct.ask('a', $$SELECT etag FROM storage.get_object('themes', 'dark.css')$$), '"' || encode(sha256('a {}'), 'hex') || '"', 'its ETag is the SHA-256');
SELECT is(ct.ask('anon', format($$SELECT not_modified || ' ' || (content IS NULL) FROM storage.get_object('themes', 'dark.css', %L)$$, tag)), known || ' ' || known, 'If-None-Match: ' || left(tag, 20))
FROM (SELECT '"' || encode(sha256('a {}'), 'hex') || '"') e(t), LATERAL (VALUES (t, 'true'), ('W/' || t, 'true'), ('"x", ' || t || ',"y"', 'true'), ('*', 'true'), ('"x"', 'false'), ('', 'false'), (upper(t), 'false')) v(tag, known);
SELECT is(ct.try(who, $$SELECT * FROM storage.get_object('mine', '00000000-0000-4000-9000-00000000000a/x')$$), rows, who || ' and a user''s file') FROM (VALUES ('anon', '0'), ('a', '1'), ('b', '0'), ('admin', '0'), ('service', '1')) v(who, rows);
SELECT is(ct.try('anon', $$SELECT * FROM storage.get_object('open', 'i/logo.png')$$) || ct.try('anon', $$SELECT * FROM storage.list_objects('open')$$), '10', 'a public bucket: who knows the name, and no list');
SELECT is(ct.try(who, $$SELECT storage.put_object('themes', 'dark.css', 'b {}', 'text/css')$$), state, who || ' overwrites') FROM (VALUES ('anon', '-'), ('a', '!'), ('b', '!'), ('admin', '1'), ('service', '1')) v(who, state);
SELECT is(ct.try('b', $$SELECT storage.put_object('mine', '00000000-0000-4000-9000-00000000000a/x', 'of b')$$), '!', 'not over another one''s');
SELECT is(ct.try(who, $$SELECT storage.remove_object('themes', 'dark.css')$$), state, who || ' removes') FROM (VALUES ('anon', '-'), ('a', '1'), ('admin', '1'), ('service', '1')) v(who, state);
SELECT is(ct.ask(who, $$SELECT storage.remove_object('themes', 'dark.css')$$), done, who || ' removes it') FROM (VALUES ('a', 'false'), ('admin', 'true'), ('service', 'true')) v(who, done);
SELECT is(ct.ask('service', $$SELECT storage.remove_object('themes', 'none')$$), 'false', 'nothing is not removed');

SELECT is(ct.ask('admin', $$SELECT string_agg(etag, '') FROM storage.put_object('themes', 'dark.css', 'b {}', 'text/css', if_none_match => '*')$$, 'message'), 'object "dark.css" is there already', 'only a new one');
SELECT is(ct.ask('admin', $$SELECT size FROM storage.put_object('themes', 'n.css', 'b {}', 'text/css', if_none_match => '*')$$), '4', 'which this is');
SELECT is(ct.ask('admin', $$SELECT id FROM storage.put_object('themes', 'dark.css', 'b {}', 'text/css', '"x"')$$), '55000', 'only over the one that was read');
SELECT is(ct.ask('admin', $$SELECT id FROM storage.put_object('themes', 'none.css', 'b {}', 'text/css', '*')$$), '55000', 'or over any');
SELECT is(ct.ask('admin', $$SELECT size FROM storage.put_object('themes', 'dark.css', 'bc {}', 'text/css', '"$$ || encode(sha256('a {}'), 'hex') || $$"')$$), '5', 'which this is');
SELECT is(ct.ask('a', $$SELECT id FROM storage.put_object('themes', 'dark.css', 'b {}', 'text/css', '*')$$), '55000', 'not by who may not');

CREATE TEMP TABLE old AS SELECT id, version FROM storage.objects WHERE name = 'dark.css';
SELECT is(ct.try('admin', $$SELECT storage.put_object('themes', 'dark.css', 'c { }', 'TEXT/CSS; charset=utf-8', cache_control => 'no-cache')$$, true), '1', 'overwritten');
SELECT results_eq('SELECT o.id = old.id, o.version <> old.version, (metadata ->> ''size'')::int, metadata ->> ''cacheControl'', NOT EXISTS (SELECT FROM infra.object_contents c WHERE ''kessel:'' || c.id = old.version) FROM storage.objects o, old WHERE o.name = ''dark.css''',
                  $$VALUES (true, true, 5, 'no-cache', true)$$, 'the object stays, the former content goes');
SELECT is((SELECT count(*) FROM infra.object_contents), (SELECT count(*) FROM storage.objects WHERE version IS NOT NULL), 'each has one content');
SELECT is(ct.try('admin', $$UPDATE storage.objects SET metadata = '{"size": 1, "eTag": "x"}' WHERE name = 'dark.css'$$, true), '1', 'metadata can be written');
SELECT is((SELECT metadata ->> 'size' FROM storage.objects WHERE name = 'dark.css'), '5', 'but tell of the content');

-- Another's content.
SELECT version AS v, id FROM storage.objects WHERE bucket_id = 'mine' \gset
SELECT is(ct.try('b', format($$INSERT INTO storage.objects (bucket_id, name, version) VALUES ('mine', '00000000-0000-4000-9000-00000000000b/x', %L)$$, :'v')), '22023', 'a version is one''s own');
SELECT is(ct.try('admin', format($$UPDATE storage.objects SET version = %L WHERE name = 'dark.css'$$, version)), '22023', 'or it is none: ' || version)
FROM unnest(ARRAY[:'v', 'kessel:', 'kessel:x', 'kessel:' || gen_random_uuid(), 'kessel:''; DROP TABLE storage.objects; --']) version;
SELECT is(ct.try('a', $$UPDATE storage.objects SET bucket_id = 'themes', name = 'x.css' WHERE bucket_id = 'mine'$$), '!', 'a file does not move where one may not write');
SELECT is(ct.try('service', $$UPDATE storage.objects SET bucket_id = 'themes', name = 'x.css' WHERE bucket_id = 'mine'$$), '22023', 'one that moves obeys the other bucket');
SELECT is(ct.try('service', $$UPDATE storage.objects SET bucket_id = 'mine', name = 'x.css' WHERE bucket_id = 'open'$$), '1', 'or moves');
SELECT is(ct.try('service', $$UPDATE storage.objects SET name = '../x.css' WHERE bucket_id = 'open'$$), '22023', 'to a name that is one');
SELECT is(ct.try('service', $$INSERT INTO storage.objects (bucket_id, name) VALUES ('open', 'a/../b')$$), '23514', 'as of any row');

-- Content without an object.
SELECT is(ct.try('b', $$SELECT infra.add_content('a/b', 'loose')$$, true), '1', 'content alone');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT is((SELECT count(*) FROM infra.object_contents WHERE object_id IS NULL), 0::bigint, 'is gone at commit');
SET CONSTRAINTS ALL DEFERRED;

-- Every way in.
SELECT throws_ok($$UPDATE infra.object_contents SET content = repeat('x', 11)::bytea WHERE bucket_id = 'mine'$$, '54000', 'a file of 11 bytes is too large for bucket "mine"');
SELECT throws_ok($$UPDATE infra.object_contents SET mime_type = 'text/html' WHERE bucket_id = 'themes'$$, '22023', 'bucket "themes" does not take files of type "text/html"');
SELECT throws_ok($$INSERT INTO infra.object_contents (bucket_id, mime_type, content) VALUES ('themes', 'text/css', repeat('x', 1048577)::bytea)$$, '54000');
SELECT is(ct.try('admin', $$SELECT storage.put_object('themes', 'max.css', repeat('x', 1048576)::bytea, 'text/css')$$), '1', '1 MB is not');
SELECT is(ct.try('service', $$SELECT storage.put_object('open', 'n.png', '', 'image/png')$$), '1', 'an empty file is one');

SELECT is(ct.ask('service', statement), state, left(statement, 100)) FROM (VALUES
    ($$SELECT id FROM storage.put_object(NULL, 'x', '')$$, '22004'), ($$SELECT id FROM storage.put_object('mine', NULL, '')$$, '22023'), ($$SELECT id FROM storage.put_object('mine', 'x', NULL)$$, '22004'),
    ($$SELECT id FROM storage.put_object('mine', 'x', '', NULL)$$, '22004'), ($$SELECT id FROM storage.put_object('none', 'x', '')$$, '23503'), ($$SELECT id FROM storage.put_object('''; DROP TABLE storage.objects; --', 'x', '')$$, '23503'),
    ($$SELECT id FROM storage.put_object(repeat('x', 100000), 'x', '')$$, '23503'), ($$SELECT id FROM storage.put_object('mine', 'x', '', if_none_match => '"x"')$$, '22023'), ($$SELECT id FROM storage.put_object('mine', 'x', repeat('x', 11)::bytea)$$, '54000'),
    ($$SELECT id FROM storage.put_object('mine', 'x', '', 'text')$$, '22023'), ($$SELECT id FROM storage.put_object('mine', 'x', '', '')$$, '22023'), ($$SELECT id FROM storage.put_object('mine', 'x', '', E'text/css\r\nSet-Cookie: x')$$, '22023'),
    ($$SELECT id FROM storage.put_object('mine', 'x', '', '*/*')$$, '22023'), ($$SELECT id FROM storage.put_object('mine', 'x', '', 'text/' || repeat('x', 300))$$, '22023'), ($$SELECT id FROM storage.put_object('themes', 'x', '', 'text/html')$$, '22023'),
    ($$SELECT id FROM storage.put_object('themes', 'x', '', 'text/cssx')$$, '22023'), ($$SELECT id FROM storage.put_object('open', 'x', '', 'imagex/png')$$, '22023'), ($$SELECT id FROM storage.put_object(1, 2, 3)$$, '42883'),
    ($$SELECT id FROM storage.get_object(NULL, 'x')$$, NULL), ($$SELECT id FROM storage.get_object('mine', NULL)$$, NULL), ($$SELECT id FROM storage.get_object('mine', ''' OR true --')$$, NULL), ($$SELECT id FROM storage.get_object('none', 'x')$$, NULL),
    ($$SELECT id FROM storage.get_object('themes', 'dark.css', repeat('x', 8193))$$, '22023'), ($$SELECT id FROM storage.get_object(repeat('x', 100000), repeat('x', 100000))$$, NULL),
    ($$SELECT count(*) FROM storage.list_objects(NULL)$$, '0'), ($$SELECT count(*) FROM storage.list_objects('themes', NULL)$$, '1'), ($$SELECT count(*) FROM storage.list_objects('themes', '%')$$, '0'), ($$SELECT count(*) FROM storage.list_objects('themes', ''' OR true --')$$, '0'),
    ($$SELECT count(*) FROM storage.list_objects('themes', '', 0)$$, '22023'), ($$SELECT count(*) FROM storage.list_objects('themes', '', 1001)$$, '22023'), ($$SELECT count(*) FROM storage.list_objects('themes', '', NULL)$$, '22023'),
    ($$SELECT storage.remove_object(NULL, 'x')$$, 'false'), ($$SELECT storage.remove_object('mine', NULL)$$, 'false'), ($$SELECT storage.remove_object('mine', ''' OR true --')$$, 'false')) v(statement, state);
SELECT is(ct.ask('service', format('SELECT id FROM storage.put_object(''mine'', %L, '''')', name)), '22023', 'no name: ' || left(name, 30))
FROM unnest(ARRAY['', '/', '/x', 'x/', 'x//y', '.', '..', '../x', 'x/..', 'x/../y', 'x/./y', E'x\ny', E'x\ty', E'x\x7f', E'x\u0085', E'x\\y', E'\\..\\x', repeat('x', 256), repeat('xxxx/', 205) || 'x']) name;
SELECT is(ct.ask('service', format('SELECT size FROM storage.put_object(''mine'', %L, '''')', name)), '0', 'a name: ' || left(name, 30))
FROM unnest(ARRAY['x', '...', '.x', 'x..y', 'a b/ü (1).txt', '''; DROP TABLE storage.objects; --', repeat('x', 255), repeat('xxx/', 255) || 'x', '%_']) name;
SELECT is(ct.ask('service', statement), value, statement) FROM (VALUES ('SELECT storage.foldername(''a/b/c.tar.gz'')::text', '{a,b}'), ('SELECT storage.foldername(''c'')::text', '{}'), ('SELECT storage.filename(''a/b/c.tar.gz'')', 'c.tar.gz'), ('SELECT storage.extension(''a/b/c.tar.gz'')', 'gz')) v(statement, value);

-- A row that is not ours.
INSERT INTO storage.objects (bucket_id, name, version) VALUES ('open', 'theirs', 'v1');
SELECT is(ct.ask('service', $$SELECT id FROM storage.get_object('open', 'theirs')$$) || ct.ask('service', $$SELECT storage.remove_object('open', 'theirs')$$), '5500055000', 'a row without content here');
SELECT is(ct.try('service', $$SELECT storage.put_object('open', 'theirs', '', 'image/png')$$), '1', 'can be overwritten');
UPDATE storage.objects SET version = 'v2' WHERE name = 'i/logo.png';
SELECT is((SELECT count(*) FROM infra.object_contents WHERE bucket_id = 'open'), 0::bigint, 'one that gets another version loses its content');

-- Lists.
SELECT count(*) FROM (SELECT storage.put_object('open', f || '/' || n, 'x', 'image/png') FROM unnest(ARRAY['B', 'a', 'a%', 'é']) f, generate_series(1, 3) n) s \g /dev/null
SELECT is(ct.ask('service', format($$SELECT string_agg(name, ' ') FROM storage.list_objects('open', %s)$$, args)), names, 'list ' || args)
FROM (VALUES ('''a''', 'a%/1 a%/2 a%/3 a/1 a/2 a/3'), ('''a%''', 'a%/1 a%/2 a%/3'), ('''é''', 'é/1 é/2 é/3'), (''''', 2', 'B/1 B/2'), (''''', 2, ''B/2''', 'B/3 a%/1'), ('''a/'', 1, ''a/2''', 'a/3')) v(args, names);

--
-- Themes
--
SELECT is(ct.ask('admin', format('SELECT put_theme_css(%L, ''x {}'')', t)), 'P0002', 'no theme: ' || coalesce(left(t, 20), 'NULL')) FROM unnest(ARRAY[NULL, '', 'none', '../dark', '''; DROP TABLE themes; --', repeat('x', 100000)]) t;
SELECT is(ct.ask('admin', 'SELECT put_theme_css(''dark'', NULL)'), '22004', 'no CSS');
SELECT is(ct.ask('admin', 'SELECT put_theme_css(''dark'', repeat(''x'', 1048577))'), '54000', 'too much of it');
SELECT is(ct.ask(who, 'SELECT length(put_theme_css(''dark'', ''é {}''))'), result, 'CSS by ' || who) FROM (VALUES ('anon', '42501'), ('a', '42501'), ('admin', '66'), ('service', '66')) v(who, result);
SELECT is(ct.try('admin', 'SELECT put_theme_css(''dark'', ''é {}'')', true) || ct.try('admin', 'SELECT put_theme_css(''light'', ''l {}'')', true), '11', 'CSS of themes');
SELECT is(ct.ask(who, 'SELECT get_theme_css(''dark'')'), 'é {}', 'is read by ' || who) FROM ct.people;
SELECT is(ct.ask('anon', format('SELECT get_theme_css(%L)', t)), NULL, 'CSS of no theme: ' || coalesce(left(t, 20), 'NULL')) FROM unnest(ARRAY[NULL, '', 'none', '../dark', repeat('x', 100000)]) t;
SELECT is(ct.ask('anon', 'SELECT string_agg(name, '' '') FROM storage.list_objects(''themes'')'), 'dark.css light.css', 'listed');

SELECT is(ct.ask(who, 'SELECT current_theme()'), theme, 'theme of ' || who) FROM (VALUES ('anon', 'default'), ('a', 'light'), ('b', 'default'), ('ex', 'default'), ('admin', 'default'), ('service', 'default')) v(who, theme);
SELECT is(ct.ask('a', 'SELECT get_theme_css()'), 'l {}', 'its CSS');
SELECT is(ct.try('a', 'SELECT kessel.set_theme(''dark'')', true), '1', 'a user chooses');
SELECT is(ct.ask('a', 'SELECT current_theme()') || ct.ask('b', 'SELECT current_theme()'), 'darkdefault', 'for himself or herself');
SELECT is((SELECT selected_theme FROM profiles WHERE email = 'a@example.com'), 'dark', 'in the profile');
SELECT is(ct.try('b', 'SELECT kessel.set_theme(''dark'', ''ct-b'')'), '-', 'a member does not set the default');
SELECT is(ct.try('service', 'SELECT kessel.set_theme(''dark'', ''00000000-0000-4000-8000-00000000000b'')', true), '1', 'the service does');
SELECT is(ct.ask('b', 'SELECT current_theme()'), 'dark', 'and it is');
SELECT is(ct.try('b', 'SELECT kessel.set_theme(NULL, ''ct-b'')'), '-', 'nor does a member take it back');
SELECT kessel.add_member('ct-b', '00000000-0000-4000-9000-00000000000a') \g /dev/null
SELECT is(ct.try('a', 'SELECT kessel.set_theme(NULL)', true), '1', 'the choice is taken back');
SELECT is(ct.ask('a', 'SELECT current_theme() FROM (SELECT set_config(''kessel.tenant'', ''ct-b'', true) OFFSET 0) s'), 'dark', 'the session''s tenant decides');
SELECT set_config('kessel.tenant', '', true) \g /dev/null
SELECT is(ct.try('a', 'SELECT kessel.set_theme(NULL, ''ct-a'')', true) || ct.ask('a', 'SELECT current_theme()'), '1default', 'the default too');
SELECT is(ct.try('a', format('INSERT INTO tenant_themes (tenant_id, theme) SELECT id, %L FROM tenants WHERE subdomain = ''ct-a'' ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = excluded.tenant_id, theme = excluded.theme', t), true), '1', 'an upsert as PostgREST makes it: ' || t) FROM unnest('{dark,light}'::text[]) t;
SELECT is(ct.try('a', 'UPDATE tenant_themes SET tenant_id = ''00000000-0000-4000-8000-00000000000b'' WHERE tenant_id = ''00000000-0000-4000-8000-00000000000a'''), '!', 'not for a tenant that another manages');
SELECT is(ct.try('a', 'DELETE FROM tenant_themes WHERE tenant_id = ''00000000-0000-4000-8000-00000000000a''', true), '1', 'and away with it');
UPDATE profiles SET can_select_theme = false WHERE email = 'a@example.com';
SELECT is(ct.ask(who, format('SELECT kessel.set_theme(%s)', args)), state, format('%s: %s', who, left(args, 30))) FROM (VALUES
    ('anon', '''dark''', '42501'), ('a', '''dark''', '42501'), ('a', '''none''', 'P0002'), ('a', '''''', 'P0002'), ('a', '''../x''', 'P0002'), ('a', 'repeat(''x'', 100000)', 'P0002'), ('service', '''dark''', '55000'),
    ('a', '''dark'', ''none''', 'KR002'), ('a', '''dark'', ''''', 'KR002'), ('a', '''dark'', ''x'''' OR true --''', 'KR002'), ('ex', '''dark'', ''ct-a''', 'KR002'), ('admin', '''dark'', ''ct-a''', 'KR002'), ('a', '1, 2', '42883')) v(who, args, state);
SELECT is(ct.try('admin', 'UPDATE themes SET id = ''night'' WHERE id = ''dark''', true), '1', 'a theme is renamed');
SELECT is(ct.ask('anon', 'SELECT get_theme_css(''night'')') || ct.ask('b', 'SELECT current_theme()'), 'é {}night', 'its CSS and who has it follow');
SELECT is(ct.try('admin', 'DELETE FROM themes WHERE id = ''night''', true), '1', 'and deleted');
SELECT is(ct.ask('anon', 'SELECT string_agg(name, '' '') FROM storage.list_objects(''themes'')') || ct.ask('b', 'SELECT current_theme()'), 'light.cssdefault', 'with its CSS');
SELECT is((SELECT count(*) FROM infra.object_contents c WHERE NOT EXISTS (SELECT FROM storage.objects o WHERE o.version = 'kessel:' || c.id)), 0::bigint, 'no content is without its object');

-- Plans.
INSERT INTO storage.objects (bucket_id, name) SELECT 'mine', 'u' || i FROM generate_series(1, 20000) i;
ANALYZE storage.objects;
CREATE FUNCTION ct.plan(somebody text, query text) RETURNS text LANGUAGE sql AS $$ SELECT ct.ask(somebody, 'EXPLAIN (FORMAT json) ' || query) $$;
SELECT matches(ct.plan('b', $$SELECT * FROM storage.objects WHERE bucket_id = 'mine' AND name = 'u7'$$), 'bucketid_objname|idx_objects_bucket_id_name', 'a file is found by an index');
SELECT matches(ct.plan('a', $$SELECT name FROM storage.objects WHERE bucket_id = 'mine' AND name COLLATE "C" >= 'u77' AND name COLLATE "C" > '' ORDER BY name COLLATE "C" LIMIT 10$$), 'Index Cond.*u77', 'so is a prefix');

-- The way back with all these rows.
DROP POLICY own_folder ON storage.objects;
SELECT ct.check_gone('storage', (SELECT b.all FROM ct.before b));
SELECT is(ct.try('a', 'SELECT kessel.set_theme(NULL)'), '55000', 'there are no themes to choose then');

--
-- Beside Supabase
--
CREATE ROLE supabase_storage_admin;
CREATE SCHEMA storage AUTHORIZATION supabase_storage_admin;
GRANT USAGE ON SCHEMA storage TO anon, authenticated, service_role;
SET LOCAL ROLE supabase_storage_admin;
CREATE TYPE storage.buckettype AS ENUM ('STANDARD', 'ANALYTICS');
CREATE TABLE storage.buckets (id text PRIMARY KEY, name text NOT NULL, owner uuid, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), public boolean DEFAULT false, avif_autodetection boolean DEFAULT false,
    file_size_limit bigint, allowed_mime_types text[], owner_id text, type storage.buckettype NOT NULL DEFAULT 'STANDARD');
CREATE UNIQUE INDEX bname ON storage.buckets (name);
CREATE TABLE storage.objects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), bucket_id text REFERENCES storage.buckets, name text, owner uuid, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(),
    last_accessed_at timestamptz DEFAULT now(), metadata jsonb, path_tokens text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED, version text, owner_id text, user_metadata jsonb);
CREATE UNIQUE INDEX bucketid_objname ON storage.objects (bucket_id, name);
CREATE FUNCTION storage.foldername(name text) RETURNS text[] LANGUAGE sql AS $$ SELECT string_to_array(name, '/') $$;
CREATE FUNCTION storage.protect_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' THEN
        RAISE EXCEPTION 'Direct deletion from storage tables is not allowed. Use the Storage API instead.' USING ERRCODE = '42501';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER protect_objects_delete BEFORE DELETE ON storage.objects FOR EACH STATEMENT EXECUTE FUNCTION storage.protect_delete();
CREATE TRIGGER protect_buckets_delete BEFORE DELETE ON storage.buckets FOR EACH STATEMENT EXECUTE FUNCTION storage.protect_delete();
ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
GRANT ALL ON storage.buckets, storage.objects TO anon, authenticated, service_role;
INSERT INTO storage.buckets (id, name) VALUES ('theirs', 'theirs');
INSERT INTO storage.objects (bucket_id, name, version) VALUES ('theirs', 'a.pdf', 'v1');
RESET ROLE;
CREATE TABLE ct.theirs AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT lives_ok('SELECT kessel.setup(''{storage}'')', 'set up where Supabase has made schema storage');
SELECT is(array(SELECT unnest(t.all) FROM ct.theirs t EXCEPT SELECT ct.snapshot()), '{}', 'what is there is used as it is');
SELECT is(ct.try('admin', 'SELECT put_theme_css(''light'', ''l {}'')', true) || ct.ask('anon', 'SELECT get_theme_css(''light'')'), '1l {}', 'CSS is stored and read');
SELECT is(ct.try('a', 'SELECT put_theme_css(''light'', ''l {}'')'), '-', 'by administrators');
SELECT is(ct.ask('admin', 'SELECT storage.remove_object(''themes'', ''light.css'')'), 'true', 'and removed, which is let pass');
SELECT is(ct.try('service', 'DELETE FROM storage.objects'), '-', 'only there');
SELECT is(ct.ask('service', 'SELECT storage.remove_object(''theirs'', ''a.pdf'')'), '55000', 'what Supabase keeps is not ours');
SELECT is(ct.try('anon', 'SELECT FROM storage.objects WHERE bucket_id <> ''themes''') || ct.try('anon', 'SELECT FROM storage.buckets'), '00', 'nobody sees more of it');
SELECT ct.check_gone('storage', (SELECT t.all FROM ct.theirs t));
SELECT is(array(SELECT unnest(t.all) FROM ct.theirs t EXCEPT SELECT ct.snapshot()), '{}', 'theirs stays');
SELECT results_eq('SELECT b.id, o.name FROM storage.buckets b LEFT JOIN storage.objects o ON o.bucket_id = b.id', $$VALUES ('theirs', 'a.pdf')$$, 'with its rows');
ALTER TABLE storage.objects DROP COLUMN owner_id;
SELECT throws_ok('SELECT kessel.setup(''{storage}'')', '55000', 'schema storage is there already, and is not as it should be');

SELECT * FROM finish();
ROLLBACK;

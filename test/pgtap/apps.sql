-- The blueprint apps: who may do what with apps and installations, what a
-- configuration may be, where its passwords are, and the way back.
--
-- Wants a server where the vault can be used: a root key is made in the data
-- directory with the first secret. Every table and function that the blueprint
-- makes must have its line in the lists below.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
\ir ../lib/infra.sql

SELECT * FROM kessel.setup('{core}') \g /dev/null
CREATE TABLE ct.before AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT ct.check_ways('apps');
SELECT ct.populate() \g /dev/null

SELECT vault.create_secret(repeat('0f', 32), 'ct-key') AS key_id \gset
SELECT vault.grant_secret(:'key_id', 'service_role', 'use') \g /dev/null
INSERT INTO app_registry (id, name, fields) VALUES ('mail', 'Mail', '[
    {"key": "host", "label": "Host", "type": "text", "required": true, "pattern": "[a-z.]+"}, {"key": "port", "label": "Port", "type": "number"},
    {"key": "tls", "label": "TLS", "type": "boolean"}, {"key": "mode", "label": "Mode", "type": "select", "options": ["in", "out"]},
    {"key": "hook", "label": "Hook", "type": "url"}, {"key": "password", "label": "Password", "type": "password", "required": true, "pattern": ".{4,}"}, {"key": "token", "label": "Token", "type": "password"}]');
INSERT INTO app_registry (id, name, fields, password_storage, key_secret)
SELECT 'own', 'With its own key', fields, 'aes_gcm', 'ct-key' FROM app_registry;
INSERT INTO app_registry (id, name, is_enabled) VALUES ('off', 'Off', false);

INSERT INTO app_installations (user_id, app_id, config) SELECT id, 'mail', jsonb_build_object('host', 'mail.example', 'password', 'pass-of-' || who) FROM ct.people WHERE who IN ('a', 'b', 'ex');
INSERT INTO ct.matrix VALUES
    ('app_registry', '', $$(id, name) VALUES ('n', 'N')$$, 'description = ''x''', 'true',
        '- - - -', '2 ! 0 0', '2 ! 0 0', '2 ! 0 0', '3 1 3 3', '3 1 3 3'),
    -- One inserts for b.
    ('app_installations', '', $$(user_id, app_id) VALUES ('00000000-0000-4000-9000-00000000000b', 'own')$$, 'config = config', 'true',
        '- - - -', '1 ! 1 1', '1 1 1 1', '1 ! 1 1', '0 ! 0 0', '3 1 3 3'),
    ('infra.app_secrets', '', $$(user_id, app_id, key) VALUES ('00000000-0000-4000-9000-00000000000b', 'mail', 'x')$$, 'value = ''x''', 'true',
        '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '3 - - -'),
    ('app_configs', '', $$(user_id) VALUES (gen_random_uuid())$$, 'status = ''x''', 'true',
        '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '3 - - -');
INSERT INTO ct.functions VALUES ('infra.app_fields_problems(jsonb)', ''), ('infra.password_fields(jsonb)', ''), ('infra.app_installations_problems(jsonb,jsonb,text[])', ''),
    ('infra.open_app_installations(text,text)', 'service_role'), ('get_app_config(uuid,text)', 'service_role');
SELECT ct.check_matrix();
SELECT is(ct.try('admin', 'INSERT INTO app_registry (id, name, password_storage, key_secret) VALUES (''n'', ''N'', ''aes_gcm'', ''ct-key'')'), '-', 'an administrator does not choose a key');
SELECT is(ct.try('admin', 'UPDATE app_registry SET key_secret = ''ct-key'''), '-', 'nor another one');
SELECT is(ct.try('a', 'SELECT FROM app_registry WHERE id = ''off'''), '0', 'what is not enabled is not seen');
SELECT vault.create_secret(repeat('ab', 32), 'ct-other-key') \g /dev/null
SELECT vault.encrypt_aes_gcm('of others', 'ct-other-key') AS others \gset
SELECT is(ct.ask('service', statement), said, left(statement, 60)) FROM (VALUES
    ('INSERT INTO app_registry (id, name, password_storage, key_secret) VALUES (''n'', ''N'', ''aes_gcm'', ''ct-other-key'')', '42501'),
    ('UPDATE app_registry SET key_secret = ''ct-other-key'' WHERE id = ''own''', '42501'),
    ('MERGE INTO app_registry r USING (VALUES (''own'')) v(id) ON r.id = v.id WHEN MATCHED THEN UPDATE SET key_secret = ''ct-other-key''', '42501'),
    ('WITH n AS (INSERT INTO app_registry (id, name, password_storage, key_secret) VALUES (''n'', ''N'', ''aes_gcm'', ''ct-key'') RETURNING id) SELECT id FROM n', 'n'), ('WITH n AS (UPDATE app_registry SET name = name, key_secret = key_secret WHERE id = ''own'' RETURNING id) SELECT id FROM n', 'own')) v(statement, said);
SELECT is(ct.ask('service', format('SELECT infra.open_app_installations(''own'', %L)', :'others')), 'KR011', 'nor opens what another key has sealed');
SELECT vault.delete_secret(id) FROM vault.secrets WHERE name = 'ct-other-key' \g /dev/null

--
-- Passwords
--
SELECT is(ct.ask(who, 'SELECT config::text FROM app_installations ORDER BY user_id LIMIT 1'), '{"host": "mail.example", "password": "********"}', who || ' reads a mask') FROM unnest(ARRAY['a', 'b', 'ex', 'service']) who;
SELECT is((SELECT count(DISTINCT s.id) FROM infra.app_secrets a JOIN vault.secrets s ON s.id = a.value::uuid), 3::bigint, 'they are in the vault');
SELECT is(ct.ask('service', format('SELECT get_app_config(%L, ''mail'')', id)), jsonb_build_object('host', 'mail.example', 'password', 'pass-of-' || who)::text, 'the service reads that of ' || who) FROM ct.people WHERE who IN ('a', 'b', 'ex');
SELECT is(ct.ask(who, 'SELECT get_app_config(gen_random_uuid(), ''mail'')'), '42501', 'and ' || who || ' none') FROM unnest(ARRAY['anon', 'a', 'admin']) who;
SELECT is(ct.ask('a', format('SELECT vault.reveal(%L::uuid)', value)), '42501', 'nor from the vault') FROM infra.app_secrets LIMIT 1;

CREATE FUNCTION ct.password(who text, app text, field text DEFAULT 'password') RETURNS text LANGUAGE sql AS $$
    SELECT ct.ask('service', format('SELECT get_app_config(%L, %L) ->> %L', p.id, app, field)) FROM ct.people p WHERE p.who = $1 $$;
SELECT is(ct.try('a', statement, true), '1', left(statement, 60)) FROM unnest(ARRAY[
    $$INSERT INTO app_installations (app_id) VALUES ('own')$$,
    $$UPDATE app_installations SET config = '{"host": "h", "password": "first", "token": "t1"}' WHERE app_id = 'own'$$]) statement;
SELECT results_eq('SELECT status, config FROM app_installations WHERE app_id = ''own''', $$VALUES ('configured', '{"host": "h", "token": "********", "password": "********"}'::jsonb)$$, 'configured');
SELECT matches((SELECT value FROM infra.app_secrets WHERE app_id = 'own' AND key = 'password'), '^[0-9a-f]{24}:[0-9a-f]{32}:[0-9a-f]{10}$', 'iv:authTag:ciphertext');
SELECT is(ct.ask('service', $$SELECT vault.import_aes_gcm(config ->> 'password', 'ct-key') FROM app_configs WHERE app_id = 'own'$$), 'first', 'which the key opens');
SELECT is(ct.password('a', 'own'), 'first', 'as the service reads it');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config || '{"port": 25}' WHERE app_id = 'own'$$, true), '1', 'what was read is written back');
SELECT is(ct.password('a', 'own') || ct.password('a', 'own', 'token'), 'firstt1', 'and the passwords stay');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config - 'token' || '{"password": "second"}' WHERE app_id = 'own'$$, true), '1', 'one goes, one is another');
SELECT is(ct.password('a', 'own') || coalesce(ct.password('a', 'own', 'token'), ' none'), 'second none', 'so they are');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config || '{"token": "********"}' WHERE app_id = 'own'$$), '22023', 'a mask of nothing is none');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config || '{"token": "", "port": null}' WHERE app_id = 'own'$$, true), '1', 'empty is none');
SELECT is((SELECT config FROM app_installations WHERE app_id = 'own'), '{"host": "h", "password": "********"}', 'and is not kept');

-- As supabase-js upserts.
SELECT is(ct.try('a', $$INSERT INTO app_installations (user_id, app_id, config) VALUES (auth.uid(), 'own', '{"host": "i", "password": "third"}') ON CONFLICT (user_id, app_id) DO UPDATE SET user_id = excluded.user_id, app_id = excluded.app_id, config = excluded.config$$, true), '1', 'ON CONFLICT DO UPDATE');
SELECT is(ct.password('a', 'own') || (SELECT config FROM app_installations WHERE app_id = 'own'), 'third{"host": "i", "password": "********"}', 'writes');
SELECT is(ct.try('a', $$INSERT INTO app_installations (app_id, config) VALUES ('own', '{"host": "j", "password": "fourth"}') ON CONFLICT DO NOTHING$$, true), '0', 'DO NOTHING');
SELECT is(ct.password('a', 'own'), 'third', 'does nothing');
SELECT is(ct.try('a', $$INSERT INTO app_installations (app_id, config) VALUES ('own', '{"host": "j", "password": "fourth"}')$$), '23505', 'one a user and app');
SELECT is(ct.try('b', $$INSERT INTO app_installations (user_id, app_id, config) VALUES ('00000000-0000-4000-9000-00000000000a', 'own', '{"host": "j", "password": "fifth"}') ON CONFLICT (user_id, app_id) DO UPDATE SET config = excluded.config$$), '!', 'not another one''s');
SELECT is(ct.password('a', 'own'), 'third', 'which stays');
SELECT is(ct.try('a', $$UPDATE app_installations SET app_id = 'own' WHERE app_id = 'mail'$$), '55000', 'an installation stays with its app');

-- What another user has is not told before the policy refuses.
SELECT is(ct.try('b', format($$INSERT INTO app_installations (user_id, app_id, config) VALUES (%L, 'own', %L)$$, id, config)), '!', who || ': ' || config) FROM (SELECT who, id FROM ct.people WHERE who IN ('a', 'ex', 'admin') UNION ALL VALUES ('NULL', NULL::uuid), ('nobody', gen_random_uuid())) p(who, id),
    unnest(ARRAY['{"host": "h", "password": "********"}', '{"host": "h", "password": "********", "token": "********"}', '{"nosuch": 1}', '{}']) config;
SELECT is(ct.try('b', format($$INSERT INTO app_installations (user_id, app_id) VALUES (%L, %L) ON CONFLICT DO NOTHING$$, id, app)), '!', app || ' for another user') FROM ct.people, unnest(ARRAY['mail', 'off', 'none']) app WHERE who = 'a';

-- What was not written is no password later, and nobody's secret.
SELECT count(*) AS secrets FROM vault.secrets \gset
SELECT is(ct.try('a', $$INSERT INTO app_installations (app_id, config) VALUES ('mail', '{"host": "h", "password": "unwritten", "token": "unwritten"}') ON CONFLICT DO NOTHING$$, true), '0', 'not written');
SELECT is((SELECT count(*) FROM infra.app_secrets WHERE pending IS NOT NULL OR value IS NULL) || ' ' || (SELECT count(*) FROM vault.secrets), '0 ' || :'secrets', 'and not kept');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config || '{"port": 1}' WHERE app_id = 'mail'$$, true) || ct.password('a', 'mail'), '1pass-of-a', 'nor the password of what is written next');
SELECT is(ct.try('a', $$UPDATE app_installations SET config = config || '{"token": "********"}' WHERE app_id = 'mail'$$), '22023', 'nor what a mask stands for');
SELECT is(ct.try('a', $$MERGE INTO app_installations i USING (VALUES ('own', '{"host": "h", "password": "merged"}'::jsonb)) v(app, config) ON i.app_id = v.app WHEN MATCHED THEN UPDATE SET config = v.config WHEN NOT MATCHED THEN INSERT (app_id, config) VALUES (v.app, v.config)$$, true), '1', 'MERGE');
SELECT is(ct.password('a', 'own') || (SELECT config FROM app_installations WHERE app_id = 'own'), 'merged{"host": "h", "password": "********"}', 'writes no password in the clear');
SELECT is(ct.try('b', format($$MERGE INTO app_installations i USING (VALUES (%L::uuid)) v(u) ON i.user_id = v.u WHEN MATCHED THEN UPDATE SET config = '{}' WHEN NOT MATCHED THEN INSERT (user_id, app_id) VALUES (v.u, 'own')$$, id)), '!', 'nor another one''s row') FROM ct.people WHERE who = 'a';
SELECT is(ct.try('a', $$WITH w AS (UPDATE app_installations SET config = config || '{"password": "returned"}' WHERE app_id = 'own' RETURNING config ->> 'password' AS p) SELECT FROM w WHERE p = '********'$$), '1', 'nor does RETURNING show it');
SELECT is(ct.try(who, $$SELECT set_config('x.y', (SELECT p.pending FROM infra.app_secrets p LIMIT 1), true)$$), '-', who || ' sees nothing of what is sealed') FROM unnest(ARRAY['anon', 'a', 'admin']) who;

SELECT count(*) AS secrets FROM vault.secrets \gset
SELECT is(ct.try('b', $$UPDATE app_installations SET config = '{"host": "h", "password": "again"}'$$, true), '1', 'another password in the vault');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint, 'destroys the former one');
SELECT is(ct.password('b', 'mail'), 'again', 'and is there');
SELECT is(ct.try('b', $$UPDATE app_installations SET config = '{}', status = 'installed'$$, true), '1', 'no configuration');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint - 1, 'no password');
DELETE FROM auth.users WHERE email = 'ex@example.com';
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint - 2, 'a user who is deleted leaves none');
SELECT is((SELECT string_agg(value, ' ') FROM infra.app_secrets s WHERE strpos(s.value, ':') = 0 AND NOT EXISTS (SELECT FROM vault.secrets v WHERE v.id = s.value::uuid)), NULL, 'each that is kept is there');

--
-- What is not valid: one error that lists all, without values
--
SELECT is(ct.ask('a', format('UPDATE app_installations SET config = %L WHERE app_id = ''own''', config), 'detail'), said, left(config, 60)) FROM (VALUES
    ('{"host": 5, "port": "x-secret", "tls": "x-secret", "mode": "x-secret", "hook": "ftp://x-secret", "password": "x", "nosuch": "x-secret"}',
     '"nosuch" is not a field; "host" is not a text; "port" is not a number; "tls" is neither true nor false; "mode" is none of its options; "hook" is not an http or https url without a user; "password" does not match its pattern.'),
    ('{"port": 1}', '"host" is missing; "password" is missing.'), ('{"host": "", "password": null}', '"host" is missing; "password" is missing.'), ('{"host": "x5", "password": "second"}', '"host" does not match its pattern.'),
    (E'{"host": "x\\nx", "password": "second"}', '"host" does not match its pattern.'), ('{"host": ["h"], "password": {"a": 1}}', '"host" is not a text; "password" is not a text.'), ('[]', 'it is no object of up to 64 kB.'), ('"x"', 'it is no object of up to 64 kB.'), ('null', 'it is no object of up to 64 kB.'),
    (format('{"host": "x", "password": "%s"}', repeat('x', 8193)), '"password" is too long.'), (format('{"host": "x", "password": "%s"}', repeat('x', 4097)), '"password" is too long.'), (format('{"host": "%s"}', repeat('x', 65536)), 'it is no object of up to 64 kB.'),
    (format('{"host": "x", "password": "pass", "%s": 1}', repeat('k', 100)), format('"%s" is not a field.', repeat('k', 63))), ('{"host": "x", "password": "pass", "''; DROP TABLE profiles; --": 1}', '"''; DROP TABLE profiles; --" is not a field.')) v(config, said);
SELECT is(ct.try('a', format('UPDATE app_installations SET config = %L WHERE app_id = ''own''', '{"host": "x", "password": "pass"}'::jsonb || config::jsonb)), state, config) FROM (VALUES
    ('{"hook": "https://example.com"}', '1'), ('{"hook": "http://[::1]:8080/x?y=z#f"}', '1'), ('{"hook": "https://u:p@example.com"}', '22023'), ('{"hook": "https://"}', '22023'), ('{"hook": "javascript:alert(1)"}', '22023'), ('{"hook": "https://a b"}', '22023'),
    ('{"hook": "https://example.com:99999999"}', '22023'), ('{"port": 1e5}', '1'), ('{"port": true}', '22023'), ('{"tls": false}', '1'), ('{"tls": 0}', '22023'), ('{"mode": "out"}', '1'), ('{"mode": ["out"]}', '22023')) v(config, state);
SELECT is(ct.try('service', statement), state, left(statement, 80)) FROM (VALUES
    ($$INSERT INTO app_installations (user_id, app_id) VALUES (NULL, 'own')$$, '23502'), ($$INSERT INTO app_installations (user_id, app_id) VALUES (gen_random_uuid(), 'own')$$, '23503'), ($$INSERT INTO app_installations (user_id, app_id) VALUES ('00000000-0000-4000-9000-00000000000b', 'none')$$, '23503'),
    ($$INSERT INTO app_installations (user_id, app_id, config) VALUES ('00000000-0000-4000-9000-00000000000b', 'own', NULL)$$, '23502'), ($$INSERT INTO app_installations (user_id, app_id, status) VALUES ('00000000-0000-4000-9000-00000000000b', 'own', 'x')$$, '22023'),
    ($$INSERT INTO app_installations (user_id, app_id, status) VALUES ('00000000-0000-4000-9000-00000000000b', 'own', 'configured')$$, '22023'), ($$INSERT INTO app_installations (user_id, app_id) VALUES ('00000000-0000-4000-9000-00000000000b', 'off')$$, '55000'),
    ($$INSERT INTO app_installations (user_id, app_id) VALUES ('x', 'own')$$, '22P02'), ($$SELECT get_app_config(NULL, NULL)$$, '1'), ($$SELECT get_app_config(gen_random_uuid(), '''; DROP TABLE profiles; --')$$, '1'), ($$SELECT get_app_config(gen_random_uuid(), repeat('x', 100000))$$, '1'),
    ($$SELECT infra.open_app_installations('own', 'x')$$, '22P02'), ($$SELECT infra.open_app_installations('none', 'x')$$, '22P02'), ($$SELECT infra.open_app_installations(NULL, NULL)$$, '1')) v(statement, state);

-- Fields of an app.
SELECT is(array_to_string(infra.app_fields_problems(fields::jsonb), '; '), said, left(fields, 60)) FROM (VALUES
    ('[]', ''), ('{}', 'fields is no array of up to 50 objects and 64 kB'), ('null', 'fields is no array of up to 50 objects and 64 kB'), ('[1, {}, {"key": "a b"}, {"key": 5}, null]', repeat('a field has no key of up to 63 letters, digits and underscores; ', 4) || 'a field has no key of up to 63 letters, digits and underscores'),
    ('[{"key": "a", "label": "A", "type": "text"}, {"key": "a", "label": "", "type": "file", "required": 1, "x": 1}]', '"a" is there twice; "a" has no label of up to 200 characters; "a" has no type of text, password, number, boolean, select, url; required of "a" is neither true nor false; "x" of "a" is not known'),
    ('[{"key": "a", "label": "A", "type": "select"}]', '"a" has options and is no select, or is one and has none'), ('[{"key": "a", "label": "A", "type": "text", "options": ["x"]}]', '"a" has options and is no select, or is one and has none'),
    ('[{"key": "a", "label": "A", "type": "select", "options": []}]', 'options of "a" are no array of 1 to 200 texts'), ('[{"key": "a", "label": "A", "type": "select", "options": ["x", 1]}]', 'options of "a" are no array of 1 to 200 texts'), ('[{"key": "a", "label": "A", "type": "select", "options": "x"}]', 'options of "a" are no array of 1 to 200 texts'),
    ('[{"key": "a", "label": "A", "type": "number", "pattern": "x"}]', 'pattern of "a" is no text of up to 200 characters, or of a field that is none'), ('[{"key": "a", "label": "A", "type": "text", "pattern": "("}]', 'pattern of "a": invalid regular expression: parentheses () not balanced'),
    ('[{"key": "a", "label": "A", "type": "text", "pattern": "a)|(b"}]', 'pattern of "a": invalid regular expression: parentheses () not balanced'), ('[{"key": "a", "label": "A", "type": "text", "pattern": "(a)\\1"}]', 'pattern of "a" has a back reference, or bounds whose product is more than 20000'),
    ('[{"key": "a", "label": "A", "type": "text", "pattern": "(((a{99}){99}){99}){99}"}]', 'pattern of "a" has a back reference, or bounds whose product is more than 20000'), ('[{"key": "a", "label": "A", "type": "text", "pattern": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"}]', ''),
    (format('[{"key": "a", "label": "A", "type": "text", "pattern": "%s"}]', repeat('x', 201)), 'pattern of "a" is no text of up to 200 characters, or of a field that is none'), (format('[{"key": "%s", "label": "A", "type": "text"}]', repeat('x', 64)), 'a field has no key of up to 63 letters, digits and underscores')) v(fields, said);
SELECT throws_ok($$INSERT INTO app_registry (id, name, fields) VALUES ('x', 'X', '[1]')$$, '22023', 'fields of app "x" are not valid');
SELECT is(ct.try('service', statement), state, left(statement, 80)) FROM (VALUES
    ($$INSERT INTO app_registry (id, name) VALUES ('../x', 'x')$$, '23514'), ($$INSERT INTO app_registry (id, name) VALUES (NULL, 'x')$$, '23502'), ($$INSERT INTO app_registry (id, name, fields) VALUES ('x', 'x', NULL)$$, '22023'),
    ($$INSERT INTO app_registry (id, name, password_storage) VALUES ('x', 'x', 'aes_gcm')$$, '23514'), ($$INSERT INTO app_registry (id, name, key_secret) VALUES ('x', 'x', 'ct-key')$$, '23514'), ($$INSERT INTO app_registry (id, name, password_storage, key_secret) VALUES ('x', 'x', 'aes_gcm', 'none')$$, '02000'),
    ($$INSERT INTO app_registry (id, name, password_storage) VALUES ('x', 'x', 'plain')$$, '23514'),
    ($$UPDATE app_registry SET password_storage = 'vault', key_secret = NULL WHERE id = 'own'$$, '55000'), ($$UPDATE app_registry SET id = 'x' WHERE id = 'own'$$, '55000'), ($$UPDATE app_registry SET fields = fields - 5 WHERE id = 'own'$$, '55000'),
    ($$UPDATE app_registry SET fields = jsonb_set(fields, '{0,type}', '"password"') WHERE id = 'own'$$, '55000'), ($$UPDATE app_registry SET fields = jsonb_set(fields, '{5,type}', '"text"') WHERE id = 'own'$$, '55000'),
    ($$UPDATE app_registry SET fields = fields || '{"key": "more", "label": "More", "type": "password"}', is_enabled = false WHERE id = 'own'$$, '1'), ($$UPDATE app_registry SET fields = fields - 1 WHERE id = 'own'$$, '1')) v(statement, state);

-- A pattern that is made to be slow.
UPDATE app_registry SET fields = jsonb_set(fields, '{0,pattern}', '"((a*)*)*b|(a|aa)+$|(x+x+)+y"') WHERE id = 'own';
CREATE TABLE ct.slow AS SELECT clock_timestamp() AS at;
SELECT is(ct.try('a', format('UPDATE app_installations SET config = %L WHERE app_id = ''own''', jsonb_build_object('host', repeat('a', 2000) || repeat('x', 2000), 'password', 'pass'))), '22023', 'a pattern');
SELECT cmp_ok((SELECT clock_timestamp() - at FROM ct.slow), '<', interval '5 s', 'takes no time to speak of');

-- The way back with all these rows.
SELECT is(ct.try('admin', 'DELETE FROM app_registry WHERE id = ''own''', true), '1', 'an app goes');
SELECT is((SELECT string_agg(DISTINCT app_id, ' ') FROM infra.app_secrets), 'mail', 'with what is configured of it');
SELECT ct.check_gone('apps', (SELECT b.all FROM ct.before b));
SELECT is((SELECT string_agg(name, ' ') FROM vault.secrets), 'ct-key', 'and no password in the vault');

SELECT * FROM finish();
ROLLBACK;

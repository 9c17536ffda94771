-- The blueprint ai_providers: who may do what with providers and users' keys, that
-- keys are in the vault alone, what is refused, and the way back.
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
SELECT ct.check_ways('ai_providers');
SELECT ct.populate() \g /dev/null
SELECT vault.create_secret('stays') \g /dev/null

SELECT is((SELECT string_agg(id, ' ' ORDER BY id) FROM ai_providers WHERE id IN ('openai', 'anthropic', 'straico', 'cohere')), 'anthropic cohere openai straico', 'known providers');
SELECT is(ct.try(who, format('SELECT set_ai_provider_key(''openai'', ''sk-of-%s-0123456789'')', who), true), '1', who || ' stores a key') FROM unnest(ARRAY['a', 'b', 'ex']) who;
INSERT INTO ai_providers (id, name, is_enabled) VALUES ('off', 'Off', false);

INSERT INTO ct.matrix VALUES
    ('ai_providers', '', $$(id, name) VALUES ('n', 'N')$$, 'name = ''x''', 'true',
        '- - - -', '9 ! 0 0', '9 ! 0 0', '9 ! 0 0', '9 1 9 9', '9 1 9 9'),
    ('ai_provider_keys', '', $$(user_id, provider, secret_id, ending) VALUES ('00000000-0000-4000-9000-00000000000b', 'cohere', gen_random_uuid(), '')$$, 'ending = ''x''', 'true',
        '- - - -', '1 - - 1', '1 - - 1', '1 - - 1', '0 - - 0', '3 - - 3');
INSERT INTO ct.functions VALUES ('set_ai_provider_key(text,text)', 'authenticated'), ('remove_ai_provider_key(text)', 'authenticated'),
    ('list_ai_provider_keys()', 'authenticated'), ('get_ai_provider_key(uuid,text)', 'service_role');
SELECT ct.check_matrix();

CREATE FUNCTION ct.key(who text, provider text DEFAULT 'openai') RETURNS text LANGUAGE sql AS $$
    SELECT ct.ask('service', format('SELECT get_ai_provider_key(%L, %L)', p.id, provider)) FROM ct.people p WHERE p.who = $1 $$;
SELECT is(ct.key(who), format('sk-of-%s-0123456789', who), 'the service reads that of ' || who) FROM unnest(ARRAY['a', 'b', 'ex']) who;
SELECT is(ct.ask(who, format('SELECT get_ai_provider_key(%L, ''openai'')', id)), '42501', who || ' does not, not even the own one') FROM ct.people WHERE who <> 'service';
SELECT is(ct.ask('a', format('SELECT vault.reveal(%L::uuid)', secret_id)), '42501', 'nor from the vault') FROM ai_provider_keys;
SELECT is(ct.ask('a', 'SELECT count(*) FROM vault.decrypted_secrets'), '0', 'which shows none');
SELECT is(ct.ask('a', 'SELECT string_agg(provider || '' '' || name || '' '' || masked_key, '','') FROM list_ai_provider_keys()'), 'openai OpenAI ********6789', 'one''s own are listed, masked');
SELECT is(ct.ask('admin', 'SELECT count(*) FROM list_ai_provider_keys()'), '0', 'who has none sees none');
SELECT is((SELECT string_agg(DISTINCT tags ->> 'ai_provider' || name, ' ') FROM vault.secrets WHERE tags ? 'ai_provider'), NULL, 'they have no names');

-- Rotated, removed, gone with the user or the provider.
SELECT count(*) AS secrets FROM vault.secrets \gset
SELECT secret_id AS former FROM ai_provider_keys WHERE user_id = '00000000-0000-4000-9000-00000000000a' \gset
SELECT is(ct.try('a', 'SELECT set_ai_provider_key(''openai'', ''sk-new-1'')', true), '1', 'another key');
SELECT is(ct.key('a'), 'sk-new-1', 'is there');
SELECT is((SELECT ending FROM ai_provider_keys WHERE user_id = '00000000-0000-4000-9000-00000000000a'), '', 'of a short one nothing is shown');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint, 'in place of the former one');
SELECT is((SELECT count(*) FROM vault.secrets WHERE id = :'former') + (SELECT count(*) FROM vault.former_versions WHERE secret_id = :'former'), 0::bigint, 'which is destroyed');
SELECT is(ct.try('a', 'SELECT set_ai_provider_key(''anthropic'', ''sk-ant-000000000000001'')', true), '1', 'and one of another provider');
SELECT is(ct.ask('a', 'SELECT remove_ai_provider_key(''openai'')') || ct.ask('a', 'SELECT remove_ai_provider_key(''cohere'')'), 'truefalse', 'removing says whether there was one');
SELECT is(ct.try('a', 'SELECT remove_ai_provider_key(''openai'')', true), '1', 'removed');
SELECT is(coalesce(ct.key('a'), 'none') || ct.key('a', 'anthropic') || ct.key('b'), 'nonesk-ant-000000000000001sk-of-b-0123456789', 'no other one is');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint, 'nor in the vault');
SELECT is(ct.try('b', 'DELETE FROM ai_provider_keys', true), '1', 'deleting the row does as well');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint - 1, 'as the vault knows');
DELETE FROM auth.users WHERE email = 'ex@example.com';
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint - 2, 'a user who is deleted leaves none');
SELECT is(ct.try('admin', 'DELETE FROM ai_providers WHERE id = ''anthropic''', true), '1', 'a provider goes');
SELECT is((SELECT count(*) FROM vault.secrets), :secrets::bigint - 3, 'with its keys');

-- The vault records who reads.
SELECT is(ct.try('a', 'SELECT set_ai_provider_key(''openai'', ''sk-of-a-0123456789'')', true), '1', 'a key');
SELECT is(ct.try('service', 'SELECT get_ai_provider_key(''00000000-0000-4000-9000-00000000000a'', ''openai'')', true), '1', 'is read');

--
-- What is refused
--
SELECT is(ct.ask(who, statement), state, who || ': ' || left(statement, 70)) FROM (VALUES
    ('a', $$SELECT set_ai_provider_key(NULL, 'sk-0123456789')$$, '22004'), ('a', $$SELECT set_ai_provider_key('openai', NULL)$$, '22004'), ('a', $$SELECT set_ai_provider_key('none', 'sk-0123456789')$$, 'P0002'),
    ('a', $$SELECT set_ai_provider_key('off', 'sk-0123456789')$$, 'P0002'), ('a', $$SELECT set_ai_provider_key('', 'sk-0123456789')$$, 'P0002'), ('a', $$SELECT set_ai_provider_key('openai''; DROP TABLE profiles; --', 'sk-0123456789')$$, 'P0002'),
    ('a', $$SELECT set_ai_provider_key(repeat('x', 100000), 'sk-0123456789')$$, 'P0002'), ('a', $$SELECT set_ai_provider_key('openai', '')$$, '22023'), ('a', $$SELECT set_ai_provider_key('openai', 'short')$$, '22023'),
    ('a', $$SELECT set_ai_provider_key('openai', repeat('x', 1001))$$, '22023'), ('a', $$SELECT set_ai_provider_key('openai', 'sk-0123 456789')$$, '22023'), ('a', E'SELECT set_ai_provider_key(''openai'', E''sk-0123456789\\n'')', '22023'),
    ('a', $$SELECT set_ai_provider_key('openai', 'sk-é0123456789')$$, '22023'), ('a', $$SELECT set_ai_provider_key(1, 2)$$, '42883'), ('a', $$SELECT remove_ai_provider_key(NULL)$$, 'false'), ('a', $$SELECT remove_ai_provider_key(''' OR true --')$$, 'false'),
    ('anon', $$SELECT set_ai_provider_key('openai', 'sk-0123456789')$$, '42501'), ('service', $$SELECT set_ai_provider_key('openai', 'sk-0123456789')$$, '42501'),
    ('anon', $$SELECT list_ai_provider_keys()$$, '42501'), ('service', $$SELECT get_ai_provider_key(NULL, NULL)$$, NULL), ('service', $$SELECT get_ai_provider_key(gen_random_uuid(), 'openai')$$, NULL), ('service', $$SELECT get_ai_provider_key('00000000-0000-4000-9000-00000000000a', ''' OR true --')$$, NULL),
    ('service', $$SELECT get_ai_provider_key('x', 'openai')$$, '22P02'), ('a', $$INSERT INTO ai_provider_keys VALUES (auth.uid(), 'openai', gen_random_uuid(), '')$$, '42501')) v(who, statement, state);
INSERT INTO ct.people VALUES ('nobody', 'authenticated', NULL), ('unknown', 'authenticated', '00000000-0000-4000-9000-000000000bad');
SELECT is(ct.ask(who, $$SELECT set_ai_provider_key('openai', 'sk-0123456789')$$), state, who || ' has no key') FROM (VALUES ('nobody', '55000'), ('unknown', '23503')) v(who, state);
SELECT is(ct.ask(who, $$SELECT count(*) FROM list_ai_provider_keys()$$), '0', who || ' sees none') FROM unnest(ARRAY['nobody', 'unknown']) who;
SELECT is(ct.ask('a', $$SELECT set_ai_provider_key('openai', 'secret with blanks')$$, 'message') || ct.ask('a', $$SELECT set_ai_provider_key('sk-secret', 'sk-0123456789')$$, 'message'), 'invalid key of a providerthere is no such provider', 'errors repeat nothing of what was given');
SELECT is(ct.try('admin', statement), state, left(statement, 70)) FROM (VALUES
    ($$INSERT INTO ai_providers (id, name) VALUES ('Bad Id', 'x')$$, '23514'), ($$INSERT INTO ai_providers (id, name) VALUES ('openai', 'x')$$, '23505'), ($$INSERT INTO ai_providers (id, name) VALUES ('x', NULL)$$, '23502'),
    ($$INSERT INTO ai_providers (id, name, url) VALUES ('x', 'x', 'ftp://x')$$, '23514'), ($$INSERT INTO ai_providers (id, name, url) VALUES ('x', 'x', 'https://user:secret@x')$$, '23514')) v(statement, state);

-- Who may not read users' keys does not have them sent elsewhere.
SELECT is(ct.try('admin', statement), state, left(statement, 90)) FROM (VALUES
    ($$UPDATE ai_providers SET url = 'https://elsewhere.example' WHERE id = 'openai'$$, '-'), ($$UPDATE ai_providers SET id = 'mine' WHERE id = 'openai'$$, '-'),
    ($$INSERT INTO ai_providers (id, name, url) VALUES ('openai', 'OpenAI', 'https://elsewhere.example') ON CONFLICT (id) DO UPDATE SET url = excluded.url$$, '-'),
    ($$MERGE INTO ai_providers p USING (VALUES ('openai')) v(id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET url = 'https://elsewhere.example'$$, '-'),
    ($$UPDATE ai_providers SET is_enabled = false, name = 'x' WHERE id = 'openai'$$, '1'), ($$INSERT INTO ai_providers (id, name, url) VALUES ('new', 'New', 'https://new.example')$$, '1')) v(statement, state);
SELECT is(ct.try('service', $$UPDATE ai_providers SET url = 'https://elsewhere.example' WHERE id = 'openai'$$), '1', 'the service may');

-- The way back with all these rows.
SELECT ct.check_gone('ai_providers', (SELECT b.all FROM ct.before b));
SELECT is((SELECT count(*) FROM vault.secrets), 1::bigint, 'no key is left in the vault, and all else is');

SELECT * FROM finish();
ROLLBACK;

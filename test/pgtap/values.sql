-- Values of users' own tables: sealed for a tenant, encrypted by an app, sealed
-- by a client.
--
-- Wants a server where the vault can be used: a root key is made in the data
-- directory with the first secret.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA vv;
GRANT USAGE ON SCHEMA vv TO PUBLIC;
CREATE FUNCTION vv.refused(statement text, state text, label text) RETURNS text LANGUAGE sql AS
    $$SELECT throws_ok(statement, state::char(5), NULL, label)$$;

-- What an error says, in full.
CREATE FUNCTION vv.said(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws('|', state, message, detail, hint);
END $$;

CREATE ROLE vv_user IN ROLE kessel_user;
CREATE ROLE vv_service IN ROLE kessel_service;
CREATE ROLE vv_admin IN ROLE kessel_admin;
CREATE ROLE vv_nobody;

INSERT INTO app.data_sources (id, name, isolation, conninfo) VALUES ('00000000-0000-4000-8000-0000000000d6', 'vv-source', 'row', '{}');
INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
SELECT ('00000000-0000-4000-8000-00000000b00' || n)::uuid, 'vv-' || n, 'vv', '00000000-0000-4000-8000-0000000000d6', 'row', n FROM generate_series(1, 3) n;
INSERT INTO app.user_tenants (user_id, tenant_id) VALUES ('00000000-0000-4000-8000-00000000c001', '00000000-0000-4000-8000-00000000b001');

--
-- Sealed for a tenant
--
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, 'KR001', 'no tenant, no seal');
SET LOCAL kessel.tenant = 'vv-nosuch';
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, 'KR002', 'nor for one that is not there');
SET LOCAL kessel.tenant = 'vv-1';

SELECT is(vault.open(vault.seal(v, 'c'), 'c'), v, 'round trip of ' || label) FROM (VALUES
    ('hello', 'text'), ('', 'nothing'), ('ä€😀', 'characters of several bytes'), (E'a\nb\t''"\\', 'special characters'),
    (repeat('x', 5000000), 'five megabytes')) t (v, label);
SELECT is(vault.open_jsonb(vault.seal(v, 'c'), 'c'), v, 'round trip of the jsonb ' || left(v::text, 20)) FROM (VALUES
    ('{"a": [1, 2.50, null, "ä\n"], "b": {}}'::jsonb), ('null'), ('"text"'), ('[]'), (to_jsonb(repeat('"', 100000)))) t (v);
SELECT is(vault.open(vault.seal('{"a":1}'::jsonb, 'c'), 'c'), '{"a": 1}', 'a jsonb opens as text');
SELECT vv.refused($$SELECT vault.open_jsonb(vault.seal('{"a":1}'::text, 'c'), 'c')$$, '42804', 'a text does not open as jsonb');
SELECT is(vault.open(vault.seal('x', ''), ''), 'x', 'an empty context');
SELECT is(vault.open(context => 'c', sealed => vault.seal(context => 'c', value => 'named')), 'named', 'arguments by name');
SELECT is(vault.seal(NULL::text, 'c'), NULL, 'NULL stays NULL');
SELECT is(vault.seal(NULL::jsonb, 'c'), NULL, 'also of a jsonb');
SELECT is(vault.open(NULL, 'c'), NULL, 'also opening');
SELECT is(vault.open_jsonb(NULL, 'c'), NULL, 'a jsonb');
SELECT is(vault.reseal(NULL, 'c'), NULL, 'and resealing');
SELECT vv.refused(statement, '22004', 'no context: ' || statement) FROM (VALUES
    ($$SELECT vault.seal('x'::text, NULL)$$), ($$SELECT vault.seal('1'::jsonb, NULL)$$), ($$SELECT vault.open('\x00', NULL)$$),
    ($$SELECT vault.open_jsonb(NULL, NULL)$$), ($$SELECT vault.reseal('\x00', NULL)$$)) t (statement);
SELECT isnt(vault.seal('x', 'c'), vault.seal('x', 'c'), 'no two are the same');
SELECT is(octet_length(vault.seal(repeat('x', n), 'c')), n + 58, n || ' bytes are 58 more when sealed') FROM unnest(ARRAY[0, 1, 100]) n;
SELECT vv.refused($$SELECT vault.seal(repeat('x', 64 * 1024 * 1024 + 1), 'c')$$, '54000', 'too large');

CREATE TABLE vv.notes (id integer, tenant text, body bytea);
INSERT INTO vv.notes VALUES (1, 'vv-1', vault.seal('of the first', 'notes.body'));
SET LOCAL kessel.tenant = 'vv-2';
INSERT INTO vv.notes VALUES (2, 'vv-2', vault.seal('of the second', 'notes.body'));
SELECT is(vault.open(body, 'notes.body'), 'of the second', 'the second tenant opens its own') FROM vv.notes WHERE id = 2;
SELECT alike(vv.said($$SELECT vault.open(body, 'notes.body') FROM vv.notes WHERE id = 1$$), 'KR011|%another tenant%kessel.tenant%', 'but not the first one''s');
SELECT alike(vv.said($$SELECT vault.reseal(body, 'notes.body') FROM vv.notes WHERE id = 1$$), 'KR011|%another tenant%', 'nor reseals it');
SELECT is((SELECT count(*) FROM vault.keys WHERE tenant_id IN ('00000000-0000-4000-8000-00000000b001', '00000000-0000-4000-8000-00000000b002')), 2::bigint, 'each has its data key');
SET LOCAL kessel.tenant = 'vv-1';
SELECT is(vault.open(body, 'notes.body'), 'of the first', 'back to the first') FROM vv.notes WHERE id = 1;
SELECT alike(vv.said($$SELECT vault.open(body, 'notes.title') FROM vv.notes WHERE id = 1$$), 'KR011|%another context%', 'another context');
SELECT alike(vv.said(format($$SELECT vault.open(%L, 'c')$$, v)), 'KR011|%not what vault.seal() returns%', 'not a sealed value: ' || v) FROM (VALUES ('\x'), ('\x00'), ('plaintext'), (repeat('t', 58))) t (v);
SELECT vv.refused(format($$SELECT vault.open(%L, 'c')$$, '\x0174' || repeat('ab', 100)), 'KR011', 'a key that is not there');

-- Every byte, and every length.
CREATE FUNCTION vv.attack(altered bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN 'opened: ' || vault.open(altered, 'notes.body');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
SELECT is((SELECT string_agg(DISTINCT vv.attack(set_byte(body, i, get_byte(body, i) # (1 << b))), ' ') FROM generate_series(0, octet_length(body) - 1) i, generate_series(0, 7) b),
          'KR011', 'each bit of each byte') FROM vv.notes WHERE id = 1;
SELECT is((SELECT string_agg(DISTINCT vv.attack(substr(body, 1, i)), ' ') FROM generate_series(0, octet_length(body) - 1) i), 'KR011', 'cut short anywhere') FROM vv.notes WHERE id = 1;
SELECT is(vv.attack(body || '\x00'), 'KR011', 'made longer') FROM vv.notes WHERE id = 1;
SELECT is(vv.attack(body), 'opened: of the first', 'what was not altered opens') FROM vv.notes WHERE id = 1;
-- A secret of the same tenant and a value are not each other.
SELECT vault.create_secret('a secret', 'vv secret', new_tenant_id => '00000000-0000-4000-8000-00000000b001') IS NOT NULL AS made \gset
SELECT is(vv.attack('\x0174'::bytea || uuid_send(key_id) || nonce || substr(secret, 2)), 'KR011', 'a secret of the vault in a value''s clothes') FROM vault.secrets WHERE name = 'vv secret';

-- Keys
SELECT is(vault.reseal(body, 'notes.body'), body, 'under the active key already: unchanged') FROM vv.notes WHERE id = 1;
UPDATE vault.keys SET status = 'retired' WHERE tenant_id = '00000000-0000-4000-8000-00000000b001';
SELECT is(vault.open(body, 'notes.body'), 'of the first', 'a retired key opens') FROM vv.notes WHERE id = 1;
INSERT INTO vv.notes SELECT 3, tenant, vault.reseal(body, 'notes.body') FROM vv.notes WHERE id = 1;
SELECT isnt(substr(a.body, 3, 16), substr(b.body, 3, 16), 'resealed under another key') FROM vv.notes a, vv.notes b WHERE a.id = 1 AND b.id = 3;
SELECT is(vault.open(body, 'notes.body'), 'of the first', 'which opens') FROM vv.notes WHERE id = 3;
SELECT is(vault.open_jsonb(vault.reseal(vault.seal('[1]'::jsonb, 'c'), 'c'), 'c'), '[1]', 'a jsonb stays one');
SELECT vv.refused($$SELECT vault.reseal(body, 'another') FROM vv.notes WHERE id = 1$$, 'KR011', 'resealing with another context');
UPDATE vault.keys SET status = 'destroyed', wrapped_key = NULL WHERE tenant_id = '00000000-0000-4000-8000-00000000b001' AND status = 'retired';
SELECT alike(vv.said($$SELECT vault.open(body, 'notes.body') FROM vv.notes WHERE id = 1$$), 'KR011|%was destroyed%lost for good%', 'a destroyed key opens nothing, and the error says so');
SELECT vv.refused($$SELECT vault.reseal(body, 'notes.body') FROM vv.notes WHERE id = 1$$, 'KR011', 'nor reseals');
SELECT is(vault.open(body, 'notes.body'), 'of the first', 'the other one still does') FROM vv.notes WHERE id = 3;
SAVEPOINT s;
UPDATE vault.keys SET root_key_id = '0123456789abcdef' WHERE tenant_id = '00000000-0000-4000-8000-00000000b001' AND status = 'active';
SELECT alike(vv.said($$SELECT vault.open(body, 'notes.body') FROM vv.notes WHERE id = 3$$), 'KR010|%0123456789abcdef%', 'a key that another root key wraps');
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, 'KR010', 'seals nothing either');
ROLLBACK TO s;
UPDATE vault.keys SET tenant_id = '00000000-0000-4000-8000-00000000b001', status = 'retired' WHERE tenant_id = '00000000-0000-4000-8000-00000000b002';
SELECT is(vv.attack(body), 'KR011', 'a key that was given to another tenant') FROM vv.notes WHERE id = 2;
ROLLBACK TO s;
SELECT is(vault.open(body, 'notes.body'), 'of the first', 'after the rollback it opens again') FROM vv.notes WHERE id = 3;
SET LOCAL kessel.tenant = 'vv-3';
SAVEPOINT s;
SELECT vault.seal('x', 'notes.body') AS lost \gset
ROLLBACK TO s;
SELECT alike(vv.said(format('SELECT vault.open(%L, ''notes.body'')', :'lost')), 'KR011|%does not exist here%rolled back%', 'a key that was rolled back is not in the cache');
SELECT is(vault.open(vault.seal('x', 'c'), 'c'), 'x', 'the next value gets another');

-- Whom it works for
SET LOCAL kessel.tenant = 'vv-1';
SET LOCAL ROLE vv_user;
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, '42501', 'a user who is nobody');
SET LOCAL request.jwt.claims = '{"sub": "00000000-0000-4000-8000-00000000c002"}';
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, '42501', 'a user who is no member');
SET LOCAL request.jwt.claims = '{"sub": "00000000-0000-4000-8000-00000000c001"}';
SELECT is(vault.open(vault.seal('x', 'c'), 'c'), 'x', 'a member');
SET LOCAL kessel.tenant = 'vv-2';
SELECT vv.refused($$SELECT vault.seal('x', 'c')$$, '42501', 'of another tenant');
RESET ROLE;
SET LOCAL request.jwt.claims = '';
SET LOCAL ROLE vv_service;
SELECT is(vault.open_jsonb(vault.seal('1'::jsonb, 'c'), 'c'), '1', 'the service');
RESET ROLE;
SET LOCAL ROLE vv_nobody;
SELECT vv.refused(statement, '42501', 'not for everybody: ' || statement) FROM (VALUES
    ($$SELECT vault.seal('x'::text, 'c')$$), ($$SELECT vault.open('\x', 'c')$$), ($$SELECT vault.import_aes_gcm('', '')$$), ($$SELECT vault.public_key()$$)) t (statement);
RESET ROLE;
SAVEPOINT s;
UPDATE app.tenants SET status = 'suspended' WHERE slug = 'vv-2';
SELECT vv.refused($$SELECT vault.open(body, 'notes.body') FROM vv.notes WHERE id = 2$$, 'KR003', 'nothing of a suspended tenant opens');
ROLLBACK TO s;

-- A view whose opened column nobody asks for opens nothing.
CREATE VIEW vv.opened AS SELECT id, vault.open(body, 'wrong context') AS body FROM vv.notes;
SELECT lives_ok('SELECT id FROM vv.opened', 'a column that is not asked for is not opened');
SELECT vv.refused('SELECT body FROM vv.opened WHERE id = 2', 'KR011', 'one that is, is');

--
-- Encrypted by an app: values as Node's crypto writes them
--
SELECT vault.create_secret('000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', 'vv key') AS key_id \gset
SELECT vault.create_secret(repeat('ab', 32), 'vv other key') AS other_key_id \gset
SELECT vault.create_secret('not a key', 'vv no key') AS no_key_id \gset

SELECT is(vault.import_aes_gcm(v, 'vv key'), 'sk_live_4eC39HqLyjWDarjtT1zdp7dc', 'opens ' || label) FROM (VALUES
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9a261169148e5a1c56023c3aefaa611463b400fd8fd70d342fb5368bbdba1', 'hex, iv of 12 bytes'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7:5198cacf8b941aa983e379ab929ca1d8:11b0975f16c4329dbd2fa25b453587e1e6edc0db36be6bc7031baf46c9a653f3', 'hex, iv of 16 bytes'),
    ('x8fHx8fHx8fHx8fH:5Pf0JGM0KHAne4wkxnqlWg==:sLmiYRaRSOWhxWAjw676phFGO0AP2P1w00L7U2i726E=', 'base64, iv of 12 bytes'),
    ('x8fHx8fHx8fHx8fHx8fHxw==:UZjKz4uUGqmD43mrkpyh2A==:EbCXXxbEMp29L6JbRTWH4ebtwNs2vmvHAxuvRsmmU/M=', 'base64, iv of 16 bytes'),
    (upper('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9a261169148e5a1c56023c3aefaa611463b400fd8fd70d342fb5368bbdba1'), 'hex in upper case')) t (v, label);
SELECT is(vault.import_aes_gcm('c7c7c7c7c7c7c7c7c7c7c7c7:4785c9bf82d70cea9a6a65d9da94bf25:', 'vv key'), '', 'an empty text');
SELECT is(vault.import_aes_gcm('x8fHx8fHx8fHx8fHx8fHxw==:ikBFG0XuL38lqdtSvUKSOQ==:JakLj7wtMu6prln+m+h6jW8YDx8=', 'vv key'), 'Grüße, 世界 😀', 'characters of several bytes');
SELECT is(vault.import_aes_gcm('c7c7c7c7c7c7c7c7c7c7c7c7:4785c9bf82d70cea9a6a65d9da94bf25:', :'key_id'), '', 'the key by its id');
SELECT is(vault.import_aes_gcm(NULL, 'vv key'), NULL, 'NULL stays NULL');
SELECT is(vault.encrypt_aes_gcm(NULL, 'vv key'), NULL, 'writing, too');

SELECT is(vault.import_aes_gcm(vault.encrypt_aes_gcm(v, 'vv key', e, l), 'vv key'), v, format('%s characters there and back, %s, iv of %s bytes', length(v), e, l))
FROM (VALUES (''), ('a'), ('ab'), ('Grüße'), (repeat('€', 400000))) t (v), unnest(ARRAY['hex', 'base64']) e, unnest(ARRAY[12, 16]) l;
SELECT matches(vault.encrypt_aes_gcm('x', 'vv key'), '^[0-9a-f]{24}:[0-9a-f]{32}:[0-9a-f]{2}$', 'hex and 12 bytes if not said otherwise');
SELECT matches(vault.encrypt_aes_gcm('x', 'vv key', 'base64', 16), '^[A-Za-z0-9+/]{22}==:[A-Za-z0-9+/]{22}==:[A-Za-z0-9+/]{2}==$', 'base64 and 16');
SELECT isnt(vault.encrypt_aes_gcm('x', 'vv key'), vault.encrypt_aes_gcm('x', 'vv key'), 'no two are the same');

SELECT is(vv.said(format('SELECT vault.import_aes_gcm(%L, ''vv key'')', v)),
          '22P02|value is not of the form iv:authTag:ciphertext|It takes three fields, all in hexadecimal or all in base64: an iv of 12 or 16 bytes, a tag of 16 bytes, the ciphertext.|Hexadecimal digits are of one case; base64 is the standard one with padding, not base64url.',
          label || ': the same words for all')
FROM (VALUES ('', 'nothing'), ('::', 'three times nothing'), ('plaintext', 'plaintext'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a', 'two fields'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9:b0b90', 'four fields'),
    ('c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9', 'an iv of 11 bytes'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9', 'an iv of 13 bytes'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa5:b0b9', 'a short tag'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b', 'half a byte'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:E4F7F42463342870277B8C24C67AA55A:b0b9', 'upper and lower case'),
    (' c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:b0b9', 'a space in front'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7: e4f7f42463342870277b8c24c67aa55:b0b9', 'a space in the tag'),
    (E'x8fHx8fHx8fHx8fH:5Pf0JGM0KHAne4wkxnqlWg==:sLmi\n', 'a line end'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:5Pf0JGM0KHAne4wkxnqlWg==:b0b9', 'iv in hex, tag in base64'),
    ('x8fHx8fHx8fHx8fH:e4f7f42463342870277b8c24c67aa55a:b0b9', 'iv in base64, tag in hex'),
    ('x8fHx8fHx8fHx8fH:5Pf0JGM0KHAne4wkxnqlWg:sLmi', 'base64 without padding')) t (v, label);
SELECT alike(vv.said(format('SELECT vault.import_aes_gcm(%L, ''vv key'')', v)), state || '|%', label)
FROM (VALUES ('x8fHx8fHx8fHx8fH:5Pf0JGM0KHAne4wkxnqlWg==:deadbeef', 'KR011', 'ciphertext in hex, the rest in base64'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:bc9eb01bd56c405df95ab242abf7507c:a22d03', '22021', 'not UTF-8'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:ad65811e2b60ad54ea6bd2ec7030b207:a2d29f', '22021', 'a NUL in it'),
    ('c7c7c7c7c7c7c7c7c7c7c7c7:e4f7f42463342870277b8c24c67aa55a:', 'KR011', 'an empty ciphertext')) t (v, state, label);
SELECT is(vv.said(format('SELECT vault.import_aes_gcm(%L, ''vv other key'')', vault.encrypt_aes_gcm('marked plaintext', 'vv key'))),
          'KR011|encrypted value cannot be opened|It was altered, or written under another key.|Name the secret that holds the key that the value was written with.', 'another key');
CREATE FUNCTION vv.attack_aes(altered text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN 'opened: ' || vault.import_aes_gcm(altered, 'vv key');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
SELECT is((SELECT string_agg(DISTINCT vv.attack_aes(overlay(v PLACING c FROM i FOR 1)), ' ' ORDER BY vv.attack_aes(overlay(v PLACING c FROM i FOR 1)))
             FROM generate_series(1, length(v)) i, unnest(ARRAY['0', '5', 'a', 'f', 'A', 'Q', 'z', '/', '+', '=', ':', '-', ' ', 'ä']) c WHERE substr(v, i, 1) <> c),
          '22P02 KR011', 'no character can be another: ' || left(v, 12))
FROM (SELECT vault.encrypt_aes_gcm('marked', 'vv key', e, l) AS v FROM unnest(ARRAY['hex', 'base64']) e, unnest(ARRAY[12, 16]) l) t;

SELECT vv.refused(statement, state, label) FROM (VALUES
    ($$SELECT vault.import_aes_gcm('c7c7c7c7c7c7c7c7c7c7c7c7:4785c9bf82d70cea9a6a65d9da94bf25:', 'vv no key')$$, '22023', 'a secret that is no key'),
    ($$SELECT vault.import_aes_gcm('c7c7c7c7c7c7c7c7c7c7c7c7:4785c9bf82d70cea9a6a65d9da94bf25:', 'vv nosuch')$$, '02000', 'a secret that is not there'),
    ($$SELECT vault.import_aes_gcm('c7c7c7c7c7c7c7c7c7c7c7c7:4785c9bf82d70cea9a6a65d9da94bf25:', NULL)$$, '22004', 'no secret'),
    ($$SELECT vault.encrypt_aes_gcm('x', repeat('0a', 32))$$, '22023', 'the key itself'),
    ($$SELECT vault.encrypt_aes_gcm('x', 'vv key', 'base64url')$$, '22023', 'another encoding'),
    ($$SELECT vault.encrypt_aes_gcm('x', 'vv key', NULL)$$, '22004', 'no encoding'),
    ($$SELECT vault.encrypt_aes_gcm('x', 'vv key', 'hex', 13)$$, '22023', 'another iv'),
    ($$SELECT vault.encrypt_aes_gcm('x', 'vv key', 'hex', NULL)$$, '22023', 'no iv'),
    ($$SELECT vault.encrypt_aes_gcm(repeat('x', 64 * 1024 * 1024 + 1), 'vv key')$$, '54000', 'too large')) t (statement, state, label);
SELECT unalike(vv.said($$SELECT vault.encrypt_aes_gcm('x', repeat('0a', 32))$$), '%0a0a%', 'the key is not in the error');

-- The privilege
SET LOCAL ROLE vv_service;
SELECT vv.refused($$SELECT vault.encrypt_aes_gcm('x', 'vv key')$$, '42501', 'without a privilege on the key');
RESET ROLE;
SELECT vault.grant_secret(:'key_id', 'vv_service', 'reveal');
SET LOCAL ROLE vv_service;
SELECT vv.refused($$SELECT vault.encrypt_aes_gcm('x', 'vv key')$$, '42501', 'reveal is not it');
RESET ROLE;
SELECT vault.revoke_secret(:'key_id', 'vv_service', 'reveal'), vault.grant_secret(:'key_id', 'vv_service', 'use');
SET LOCAL ROLE vv_service;
SELECT is(vault.import_aes_gcm(vault.encrypt_aes_gcm('x', 'vv key'), 'vv key'), 'x', 'use is');
SELECT vv.refused($$SELECT vault.reveal('vv key')$$, '42501', 'and the key cannot be read with it');
RESET ROLE;
SELECT vault.revoke_secret(:'key_id', 'vv_service', 'use');
SET LOCAL ROLE vv_service;
SELECT vv.refused($$SELECT vault.encrypt_aes_gcm('x', 'vv key')$$, '42501', 'until it is taken away');
RESET ROLE;

-- More keys than one in a statement, row by row.
CREATE TABLE vv.mixed AS
SELECT n, CASE WHEN n % 2 = 0 THEN 'vv key' ELSE 'vv other key' END AS key_name FROM generate_series(1, 20) n;
SELECT is(count(*) FILTER (WHERE opened = n::text), 20::bigint, 'rows of two keys')
FROM (SELECT n, vault.import_aes_gcm(vault.encrypt_aes_gcm(n::text, key_name), key_name) AS opened FROM vv.mixed) t;
SELECT is(vault.update_secret(:'other_key_id', repeat('cd', 32))::text, '', 'the other key is changed');
SELECT vv.refused(format('SELECT vault.import_aes_gcm(%L, ''vv other key'')', vault.encrypt_aes_gcm('x', 'vv key')), 'KR011', 'and used from the next statement on');

--
-- Sealed by a client (that what clients seal opens is for 013_node)
--
SELECT is(octet_length(decode(vault.public_key(), 'base64')), 32, 'a public key');
SELECT is(vault.public_key(), vault.public_key(), 'stays the same');
SELECT results_eq($$SELECT purpose, status, tenant_id FROM vault.keys WHERE purpose = 'box'$$, $$VALUES ('box', 'active', NULL::uuid)$$, 'made once');
SELECT isnt(vault.public_key(), vault.rotate_public_key(), 'another after rotation');
SELECT results_eq($$SELECT status FROM vault.keys WHERE purpose = 'box' ORDER BY status$$, $$VALUES ('active'), ('retired')$$, 'the former one is retired');
SELECT is(vault.destroy_retired_public_keys(), 1, 'former ones can be destroyed');
SELECT is(vault.destroy_retired_public_keys(), 0, 'once');
SELECT is(octet_length(decode(vault.public_key(), 'base64')), 32, 'the active one stays');
SAVEPOINT s;
UPDATE vault.keys b SET wrapped_key = s.wrapped_key, nonce = s.nonce FROM vault.keys s WHERE b.purpose = 'box' AND b.status = 'active' AND s.purpose = 'seal' AND s.tenant_id IS NULL AND s.status = 'active';
SELECT vv.refused('SELECT vault.public_key()', 'KR011', 'another key in its row is noticed');
ROLLBACK TO s;
UPDATE vault.keys SET purpose = 'seal', tenant_id = '00000000-0000-4000-8000-00000000b003', status = 'retired' WHERE purpose = 'box' AND status = 'active';
SELECT isnt(vault.public_key(), NULL, 'without a key there is a new one');
ROLLBACK TO s;
SELECT vv.refused(statement, state, label) FROM (VALUES
    ($$SELECT vault.create_secret_sealed(NULL)$$, '22004', 'no box'),
    ($$SELECT vault.create_secret_sealed('')$$, '22P02', 'nothing'),
    ($$SELECT vault.create_secret_sealed('a secret in the clear')$$, '22P02', 'no base64'),
    ($$SELECT vault.create_secret_sealed(repeat('A', 62) || '==')$$, '22P02', 'stray bits, or 46 bytes'),
    ($$SELECT vault.create_secret_sealed(repeat('A', 60))$$, '22P02', '45 bytes'),
    ($$SELECT vault.create_secret_sealed(repeat('A', 64) || E'\n')$$, '22P02', 'a line end'),
    ($$SELECT vault.create_secret_sealed(repeat('A', 64))$$, 'KR011', '48 bytes that are no box'),
    ($$SELECT vault.create_secret_sealed(repeat('_', 83))$$, '22P02', 'url-safe with stray bits'),
    ($$SELECT vault.create_secret_sealed(repeat('A', 1400000))$$, '54000', 'too large'),
    ($$SELECT vault.update_secret_sealed(NULL, repeat('A', 64))$$, '22004', 'no id')) t (statement, state, label);
SET LOCAL ROLE vv_user;
SELECT isnt(vault.public_key(), NULL, 'the public key is for users, too');
SELECT vv.refused(statement, '42501', 'not for users: ' || statement) FROM (VALUES
    ($$SELECT vault.create_secret_sealed('')$$), ($$SELECT vault.update_secret_sealed(NULL, '')$$), ($$SELECT vault.rotate_public_key()$$), ($$SELECT vault.destroy_retired_public_keys()$$)) t (statement);
RESET ROLE;

--
-- Under which key
--
SELECT is(vault.sealed_key_id('plain'::bytea), NULL, 'what is no sealed value is under no key');
SELECT is(vault.sealed_key_id(NULL), NULL, 'nor is NULL');

SELECT * FROM finish();
ROLLBACK;

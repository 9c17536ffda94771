-- The vault: sealing, binding, missing and wrong root keys, privileges.
--
-- Moves the generated root key about in the data directory and puts it back at
-- the end, so it wants a server where nothing else runs meanwhile and no
-- setting names a root key.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA vt;

CREATE FUNCTION vt.id_of(secret_name text) RETURNS uuid LANGUAGE sql AS
    $$SELECT id FROM vault.secrets WHERE name = secret_name$$;
CREATE FUNCTION vt.shown(secret_name text) RETURNS text LANGUAGE sql AS
    $$SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = secret_name$$;

-- A shell command in the data directory; cat, or COPY's row finds the pipe closed.
CREATE FUNCTION vt.sh(command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'cat >/dev/null; ' || command);
END $$;

-- Bytes into a file that only the server's user can read.
CREATE FUNCTION vt.write_key(bytes bytea, mode text DEFAULT '600') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    object oid := lo_from_bytea(0, bytes);
BEGIN
    PERFORM vt.sh('rm -f kessel_root.key');
    PERFORM lo_export(object, 'kessel_root.key'), lo_unlink(object);
    PERFORM vt.sh('chmod ' || mode || ' kessel_root.key');
END $$;

-- The same, and which root key the vault then has.
CREATE FUNCTION vt.try_key(bytes bytea, mode text DEFAULT '600') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM vt.write_key(bytes, mode);
    RETURN (SELECT root_key_id FROM vault.status());
END $$;

-- What is left after an attack, which is then undone: the victim as the view
-- shows it, the SQLSTATE of using it, and whether its neighbour still opens.
CREATE FUNCTION vt.attack(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    victim uuid := vt.id_of('victim');
    state  text := 'opened';
    result text;
BEGIN
    BEGIN
        EXECUTE statement;
        BEGIN
            PERFORM vault.update_secret(victim, new_name => 'taken over');
        EXCEPTION WHEN OTHERS THEN
            state := SQLSTATE;
        END;
        SELECT concat_ws(' ', coalesce(max(decrypted_secret) FILTER (WHERE id = victim), 'null'), state,
                         max(decrypted_secret) FILTER (WHERE description = 'neighbour'))
          INTO result FROM vault.decrypted_secrets;
        RAISE EXCEPTION USING ERRCODE = 'XXUND', MESSAGE = result;
    EXCEPTION WHEN SQLSTATE 'XXUND' THEN
        RETURN SQLERRM;
    END;
END $$;

--
-- Before the first secret
--
SELECT vt.sh('test ! -e kessel_root.key || mv kessel_root.key kessel_root.key.before');
SELECT is((SELECT count(*) FROM vault.keys), 0::bigint, 'no key is made before it is needed');
SELECT is(sealed, false, 'not sealed while a key can be made') FROM vault.status();
SELECT is(root_key_id, NULL, 'no root key before the first secret') FROM vault.status();
SELECT is(provider, 'generated file', 'the provider is named') FROM vault.status();

--
-- Round trips
--
SELECT isnt(vault.create_secret('hunter2'), NULL, 'a secret without a name');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets), 'hunter2', 'opens');
SELECT isnt(vault.create_secret('positional', 'positional', 'described'), NULL, 'positional call');
SELECT isnt(vault.create_secret(new_secret => 'named', new_name => 'named', new_description => 'd', new_key_id => NULL), NULL, 'named call');
SELECT results_eq($$SELECT name, description, decrypted_secret, version FROM vault.decrypted_secrets WHERE name IS NOT NULL ORDER BY name$$,
                  $$VALUES ('named', 'd', 'named', 1), ('positional', 'described', 'positional', 1)$$, 'what was stored comes back');
SELECT vault.create_secret(value, 'value ' || n) FROM (VALUES (1, ''), (2, 'ä€😀'), (3, E'a\nb\t''"\\'), (4, repeat('x', 1024 * 1024))) v (n, value);
SELECT is(vt.shown('value 1'), '', 'an empty secret');
SELECT is(vt.shown('value 2'), 'ä€😀', 'characters of several bytes');
SELECT is(vt.shown('value 3'), E'a\nb\t''"\\', 'special characters');
SELECT is(length(vt.shown('value 4')), 1024 * 1024, 'the largest that is allowed');
SELECT is((SELECT count(*) FROM vault.keys), 1::bigint, 'one key for what belongs to no tenant');
SELECT is((SELECT count(DISTINCT nonce) FROM vault.secrets), (SELECT count(*) FROM vault.secrets), 'a nonce of its own for each');

SELECT lives_ok($$SELECT vault.update_secret(vt.id_of('named'), 'second')$$, 'a new value');
SELECT is(vt.shown('named'), 'second', 'replaces the old one');
SELECT results_eq($$SELECT version, description FROM vault.secrets WHERE name = 'named'$$, $$VALUES (2, 'd')$$, 'as the next version, all else as it was');
SELECT lives_ok($$SELECT vault.update_secret(vt.id_of('named'), new_name => 'renamed')$$, 'a new name');
SELECT is(vt.shown('renamed'), 'second', 'keeps the value');
SELECT lives_ok($$SELECT vault.update_secret(vt.id_of('renamed'), new_description => 'new')$$, 'a new description');
SELECT results_eq($$SELECT version, description FROM vault.secrets WHERE name = 'renamed'$$, $$VALUES (3, 'new')$$, 'does not seal anew');
SELECT lives_ok($$SELECT vault.update_secret(vt.id_of('renamed'), '', NULL, NULL, (SELECT id FROM vault.keys))$$, 'all arguments by position, the key by id');
SELECT is(vt.shown('renamed'), '', 'an empty value is a value');
SELECT is(vault.delete_secret(vt.id_of('renamed')), true, 'deleting');
SELECT is(vault.delete_secret(gen_random_uuid()), false, 'deleting what is not there');
SELECT is(vt.id_of('renamed'), NULL, 'it is gone');

--
-- Tenants' keys
--
SELECT vault.create_secret('of ' || n, 'tenant ' || n, new_tenant_id => ('00000000-0000-4000-8000-00000000000' || n)::uuid) FROM generate_series(1, 2) n;
SELECT vault.create_secret('again', 'tenant 1 again', new_tenant_id => '00000000-0000-4000-8000-000000000001');
SELECT is(vt.shown('tenant 1'), 'of 1', 'a tenant''s secret opens');
SELECT is((SELECT count(DISTINCT key_id) FROM vault.secrets WHERE name LIKE 'tenant%'), 2::bigint, 'each tenant has its key');
SELECT isnt(vault.create_secret('x', 'by key', new_key_id => (SELECT key_id FROM vault.secrets WHERE name = 'tenant 2')), NULL, 'a key may be named');
SELECT is((SELECT tenant_id FROM vault.secrets WHERE name = 'by key'), '00000000-0000-4000-8000-000000000002', 'a key brings its tenant');
SELECT throws_ok($$SELECT vault.update_secret(vt.id_of('tenant 1'), new_key_id => (SELECT key_id FROM vault.secrets WHERE name = 'tenant 2'))$$,
                 '22023', NULL, 'another tenant''s key does not seal');
SELECT throws_ok($$SELECT vault.create_secret('x', new_tenant_id => gen_random_uuid(), new_key_id => (SELECT key_id FROM vault.secrets WHERE name = 'tenant 2'))$$,
                 '22023', NULL, 'nor for a new secret');

--
-- Bad input
--
SELECT throws_ok($$SELECT vault.create_secret(NULL)$$, '22004', NULL, 'NULL is no secret');
SELECT throws_ok($$SELECT vault.create_secret('x', 'positional')$$, '23505', NULL, 'a name that is taken');
SELECT throws_ok($$SELECT vault.create_secret(repeat('x', 1024 * 1024 + 1))$$, '54000', 'secret is too large', 'too large');
SELECT throws_ok($$SELECT vault.create_secret('x', new_key_id => gen_random_uuid())$$, '22023', NULL, 'no such key');
SELECT throws_ok($$SELECT vault.update_secret(gen_random_uuid(), 'x')$$, '02000', NULL, 'no such secret');
SELECT throws_ok($$SELECT vault.update_secret(NULL, 'x')$$, '22004', NULL, 'no id');
SELECT throws_ok($$INSERT INTO vault.secrets (secret, name) VALUES ('plaintext', 'p')$$, '0A000', 'vault.secrets takes sealed secrets only', 'INSERT of plaintext');
SELECT throws_ok($$INSERT INTO vault.secrets (id, secret, name, nonce, key_id, version) SELECT gen_random_uuid(), 'plaintext of some length', 'p', nonce, key_id, 1 FROM vault.secrets LIMIT 1$$,
                 '0A000', NULL, 'INSERT of plaintext with a nonce');
SELECT throws_ok($$UPDATE vault.secrets SET secret = 'plaintext of some length'$$, '0A000', NULL, 'UPDATE to plaintext');

--
-- Binding
--
SELECT vault.create_secret('the victim''s', 'victim', new_tenant_id => '00000000-0000-4000-8000-000000000001');
SELECT vault.create_secret('neighbour''s', 'neighbour', 'neighbour', new_tenant_id => '00000000-0000-4000-8000-000000000001');
SELECT is(vt.attack('SELECT'), 'the victim''s opened neighbour''s', 'the attack that does nothing');
SELECT is(vt.attack(statement), 'null KR011 neighbour''s', label) FROM (VALUES
    ($$UPDATE vault.secrets v SET secret = n.secret FROM vault.secrets n WHERE v.name = 'victim' AND n.name = 'neighbour'$$, 'another row''s ciphertext'),
    ($$UPDATE vault.secrets v SET nonce = n.nonce FROM vault.secrets n WHERE v.name = 'victim' AND n.name = 'neighbour'$$, 'another row''s nonce'),
    ($$UPDATE vault.secrets v SET secret = n.secret, nonce = n.nonce FROM vault.secrets n WHERE v.name = 'victim' AND n.name = 'neighbour'$$, 'both: a moved secret'),
    ($$UPDATE vault.secrets SET name = 'alias' WHERE name = 'victim'$$, 'another name'),
    ($$UPDATE vault.secrets SET name = NULL WHERE name = 'victim'$$, 'no name'),
    ($$UPDATE vault.secrets SET name = '' WHERE name = 'victim'$$, 'an empty name'),
    ($$UPDATE vault.secrets SET version = version + 1 WHERE name = 'victim'$$, 'another version'),
    ($$UPDATE vault.secrets SET tenant_id = NULL WHERE name = 'victim'$$, 'no tenant'),
    ($$UPDATE vault.secrets SET tenant_id = '00000000-0000-4000-8000-000000000002' WHERE name = 'victim'$$, 'another tenant'),
    ($$UPDATE vault.secrets SET key_id = (SELECT id FROM vault.keys WHERE tenant_id IS NULL) WHERE name = 'victim'$$, 'another key'),
    ($$UPDATE vault.secrets SET key_id = (SELECT key_id FROM vault.secrets WHERE name = 'tenant 2'), tenant_id = '00000000-0000-4000-8000-000000000002' WHERE name = 'victim'$$, 'another tenant and its key'),
    ($$UPDATE vault.secrets SET secret = substr(secret, 1, length(secret) - 1) WHERE name = 'victim'$$, 'cut short'),
    ($$UPDATE vault.secrets SET secret = secret || '\x00' WHERE name = 'victim'$$, 'made longer')) a (statement, label);
SELECT is(vt.attack($$UPDATE vault.secrets SET description = 'other' WHERE name = 'victim'$$), 'the victim''s opened neighbour''s', 'a description is free');

-- The victim has a key of its own, or its neighbour would not open either.
SELECT vault.update_secret(vt.id_of('neighbour'), 'neighbour''s');
UPDATE vault.keys SET status = 'retired' WHERE tenant_id = '00000000-0000-4000-8000-000000000001';
SELECT vault.update_secret(vt.id_of('neighbour'), 'neighbour''s');
SELECT is(vt.attack('SELECT'), 'the victim''s opened neighbour''s', 'a retired key opens');
SELECT isnt((SELECT key_id FROM vault.secrets WHERE name = 'victim'), (SELECT key_id FROM vault.secrets WHERE name = 'neighbour'), 'and does not seal');
SELECT is(vt.attack($$UPDATE vault.keys SET tenant_id = '00000000-0000-4000-8000-000000000002' WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 'victim')$$),
          'null KR011 neighbour''s', 'a key given to another tenant');
SELECT is(vt.attack($$UPDATE vault.keys v SET wrapped_key = n.wrapped_key, nonce = n.nonce FROM vault.keys n WHERE v.id = (SELECT key_id FROM vault.secrets WHERE name = 'victim') AND n.id = (SELECT key_id FROM vault.secrets WHERE name = 'neighbour')$$),
          'null KR011 neighbour''s', 'another key of the same tenant in its place');
SELECT is(vt.attack($$UPDATE vault.keys SET status = 'destroyed', wrapped_key = NULL WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 'victim')$$),
          'null KR011 neighbour''s', 'a destroyed key');
SELECT is(vt.attack($$UPDATE vault.keys SET root_key_id = '0123456789abcdef' WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 'victim')$$),
          'null KR010 neighbour''s', 'a key that another root key wraps');

SELECT is((SELECT string_agg(DISTINCT vt.attack(format('UPDATE vault.secrets SET secret = set_byte(secret, %s, get_byte(secret, %s) # %s) WHERE name = ''victim''', i, i, 1 << (i % 8))), ', ')
             FROM generate_series(1, (SELECT length(secret) - 1 FROM vault.secrets WHERE name = 'victim')) i),
          'null KR011 neighbour''s', 'a bit of each byte of the ciphertext');
SELECT throws_ok($$UPDATE vault.secrets SET secret = set_byte(secret, 0, 2) WHERE name = 'victim'$$, '0A000', NULL, 'an unknown format');
SELECT is((SELECT string_agg(DISTINCT vt.attack(format('UPDATE vault.secrets SET nonce = set_byte(nonce, %s, get_byte(nonce, %s) # %s) WHERE name = ''victim''', i, i, 1 << (i % 8))), ', ')
             FROM generate_series(0, 23) i),
          'null KR011 neighbour''s', 'a bit of each byte of the nonce');
SELECT is((SELECT string_agg(DISTINCT vt.attack(format('UPDATE vault.keys SET wrapped_key = set_byte(wrapped_key, %s, get_byte(wrapped_key, %s) # %s) WHERE id = (SELECT key_id FROM vault.secrets WHERE name = ''victim'')', i, i, 1 << (i % 8))), ', ')
             FROM generate_series(0, 47) i),
          'null KR011 neighbour''s', 'a bit of each byte of the wrapped key');

--
-- The root key
--
SELECT vt.sh('cp -p kessel_root.key kessel_root.key.saved');
CREATE TABLE vt.root AS SELECT root_key_id AS id, decode(trim(E'\n' FROM pg_read_file('kessel_root.key')), 'hex') AS key FROM vault.status();
SELECT is((pg_stat_file('kessel_root.key')).size, 65::bigint, 'the generated file holds 64 digits and a line end');
SELECT ok(id ~ '^[0-9a-f]{16}$' AND id = ALL (SELECT root_key_id FROM vault.keys), 'keys name the root key by its fingerprint') FROM vt.root;

SELECT vt.sh('rm kessel_root.key');
SELECT throws_ok($$SELECT vault.create_secret('x')$$, 'KR010', 'the vault is sealed', 'without the root key nothing can be stored');
SELECT throws_ok($$SELECT vault.update_secret(vt.id_of('victim'), new_name => 'x')$$, 'KR010', NULL, 'nor opened');
SELECT is(vt.shown('victim'), NULL, 'the view shows NULL');
SELECT throws_ok($$SELECT pg_stat_file('kessel_root.key')$$, '58P01', NULL, 'no other key is made in its place');
SELECT lives_ok($$SELECT vault.update_secret(vt.id_of('victim'), new_description => 'sealed')$$, 'what needs no key works');
SELECT is(vault.delete_secret(vault_id), true, 'deleting too') FROM (SELECT vt.id_of('value 4') AS vault_id) v;
SELECT results_eq($$SELECT sealed, provider, root_key_id, wanted_root_key_ids FROM vault.status()$$,
                  $$SELECT true, 'generated file', NULL::text, ARRAY[id] FROM vt.root$$, 'status names the missing fingerprint');
SELECT vt.sh('cp -p kessel_root.key.saved kessel_root.key');
SELECT is(vt.shown('victim'), 'the victim''s', 'with the key back in place it opens at once');

SELECT vt.write_key(decode(repeat('a5', 32), 'hex') || '\x0a');
SELECT is(vt.shown('victim'), NULL, 'a wrong key opens nothing');
SELECT throws_ok($$SELECT vault.create_secret('x', new_tenant_id => gen_random_uuid())$$, 'KR010', NULL, 'and seals nothing beside the right one''s');
SELECT results_eq($$SELECT sealed, root_key_id <> id, wanted_root_key_ids = ARRAY[id] FROM vault.status(), vt.root$$,
                  $$VALUES (true, true, true)$$, 'status names both fingerprints');

-- Forms that a key may have
SELECT is(vt.try_key(bytes), id, label)
  FROM vt.root, LATERAL (VALUES
    (key, '32 raw bytes'),
    (key || '\x0a', '32 raw bytes and a line end'),
    (convert_to(encode(key, 'hex'), 'UTF8'), 'hexadecimal'),
    (convert_to(upper(encode(key, 'hex')) || E'\r\n', 'UTF8'), 'hexadecimal in upper case, line end of DOS'),
    (convert_to(encode(key, 'base64') || E'\n\n', 'UTF8'), 'base64'),
    (convert_to(rtrim(encode(key, 'base64'), '='), 'UTF8'), 'base64 without padding')) f (bytes, label);
SELECT is(vt.try_key(bytes), NULL, label || ' is no key')
  FROM vt.root, LATERAL (VALUES
    (''::bytea, 'nothing'),
    (substr(key, 1, 31), '31 bytes'),
    (key || '\x00', '33 bytes'),
    (convert_to(left(encode(key, 'hex'), 63), 'UTF8'), '63 digits'),
    (convert_to(left(encode(key, 'hex'), 63) || 'g', 'UTF8'), 'a wrong digit'),
    (convert_to(left(encode(key, 'hex'), 32), 'UTF8'), 'half a key'),
    ('correct horse battery staple ok!', 'a password of 32 characters'),
    (convert_to(repeat('0', 64), 'UTF8'), 'zero'),
    (convert_to(repeat(encode(key, 'hex'), 100), 'UTF8'), 'a long file')) f (bytes, label);

-- Who may read the file
SELECT is(vt.try_key(key, mode), expected, 'mode ' || mode)
  FROM vt.root, LATERAL (VALUES ('600', id), ('400', id), ('640', NULL), ('604', NULL), ('620', NULL), ('666', NULL), ('700', id)) m (mode, expected);
SELECT vt.sh('rm kessel_root.key; mkdir kessel_root.key');
SELECT is((SELECT detail LIKE '%not a regular file%' FROM vault.status()), true, 'a folder is refused');
SELECT vt.sh('rmdir kessel_root.key; mkfifo kessel_root.key');
SELECT is((SELECT detail LIKE '%not a regular file%' FROM vault.status()), true, 'a pipe is refused and not waited for');
SELECT vt.sh('rm kessel_root.key; ln -s kessel_root.key.saved kessel_root.key');
SELECT is(vt.shown('victim'), 'the victim''s', 'a link to a good file is followed');
SELECT vt.sh('chmod 644 kessel_root.key.saved');
SELECT is(vt.shown('victim'), NULL, 'and its target''s mode counts, at once');
SELECT vt.sh('chmod 600 kessel_root.key.saved; mv kessel_root.key.saved kessel_root.key');
SELECT is(vt.shown('victim'), 'the victim''s', 'all is well again');

--
-- Privileges
--
CREATE ROLE vault_stranger;
CREATE ROLE vault_admin IN ROLE kessel_admin;
GRANT USAGE ON SCHEMA vt, vault TO vault_stranger, vault_admin;
SELECT is((SELECT count(*) FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.pronamespace = 'vault'::regnamespace AND a.grantee = 0), 0::bigint, 'PUBLIC may call nothing');
SELECT is((SELECT count(*) FROM pg_class c CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
            WHERE c.relnamespace = 'vault'::regnamespace AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
              AND (c.relname, a.privilege_type) <> ('secrets', 'DELETE')), 0::bigint, 'nobody but the owner may write tables and views');
SELECT is((SELECT count(*) FROM pg_class c CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
            WHERE c.relnamespace = 'vault'::regnamespace AND c.relkind = 'r' AND a.grantee NOT IN (c.relowner, 'kessel_admin'::regrole)), 0::bigint, 'nobody but administrators may look at tables');
SELECT ok(bool_and(relrowsecurity), 'row security on ' || string_agg(relname, ', ')) FROM pg_class WHERE relnamespace = 'vault'::regnamespace AND relkind = 'r';

SET LOCAL ROLE vault_stranger;
SELECT throws_ok($$SELECT vault.create_secret('x')$$, '42501', NULL, 'a stranger creates no secret');
SELECT throws_ok($$SELECT vault.update_secret(gen_random_uuid(), 'x')$$, '42501', NULL, 'nor changes one');
SELECT throws_ok($$SELECT vault.delete_secret(gen_random_uuid())$$, '42501', NULL, 'nor deletes one');
SELECT throws_ok($$SELECT * FROM vault.decrypted_secrets$$, '42501', NULL, 'nor sees one');
SELECT throws_ok($$SELECT * FROM vault.secrets$$, '42501', NULL, 'nor its ciphertext');
SELECT throws_ok($$SELECT * FROM vault.keys$$, '42501', NULL, 'nor keys');
SELECT throws_ok($$SELECT * FROM vault.status()$$, '42501', NULL, 'nor the state');
SET LOCAL ROLE vault_admin;
SELECT lives_ok($$SELECT vault.create_secret('admin''s', 'admin')$$, 'an admin creates secrets');
SELECT results_eq($$SELECT name, decrypted_secret FROM vault.decrypted_secrets$$, $$VALUES ('admin', 'admin''s')$$, 'and sees those, and no others');
SELECT ok(count(*) > 1, 'all are in the table, sealed') FROM vault.secrets;
SELECT lives_ok($$SELECT sealed FROM vault.status()$$, 'and may ask for the state');
RESET ROLE;
SELECT is(vt.shown('admin'), 'admin''s', 'the owner sees it');

-- The work is done as the owner: nothing of the caller's gets in between.
CREATE SCHEMA trap;
GRANT USAGE, CREATE ON SCHEMA trap TO vault_admin;
SET LOCAL ROLE vault_admin;
CREATE FUNCTION trap.sprung(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'trapped as %', current_user; END$$;
CREATE OPERATOR trap.= (FUNCTION = trap.sprung, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'trapped as %', current_user; END$$;
CREATE FUNCTION trap.walk() RETURNS text LANGUAGE plpgsql SET search_path = trap, pg_catalog AS $$
BEGIN
    PERFORM vault.create_secret('x', 'trap');
    RETURN pg_catalog.format('%s %s', current_user, pg_catalog.current_setting('search_path'));
END $$;
SELECT is(trap.walk(), 'vault_admin trap, pg_catalog', 'objects in the caller''s search_path are not used; path and role are as before');
RESET ROLE;

-- Reading works where nothing may be written.
SET LOCAL transaction_read_only = on;
SELECT is(vt.shown('victim'), 'the victim''s', 'a read-only transaction opens');
SELECT throws_ok($$SELECT vault.create_secret('x')$$, '25006', NULL, 'and does not store');

SELECT vt.sh('rm kessel_root.key; test ! -e kessel_root.key.before || mv kessel_root.key.before kessel_root.key');

SELECT * FROM finish();
ROLLBACK;

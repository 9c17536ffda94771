-- Versions, tags, expiry, who may use and who may read, and the end of keys.
--
-- Wants a server where the vault can be used: a root key is made in the data
-- directory with the first secret.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA st;
CREATE FUNCTION st.id(secret_name text) RETURNS uuid LANGUAGE sql AS
    $$SELECT id FROM vault.secrets WHERE name = secret_name$$;
CREATE FUNCTION st.versions(secret_name text) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(version || CASE WHEN is_current THEN '*' ELSE '' END, ' ' ORDER BY version) FROM vault.secret_versions WHERE secret_id = st.id(secret_name)$$;
CREATE FUNCTION st.refused(statement text, state text, label text) RETURNS text LANGUAGE sql AS
    $$SELECT throws_ok(statement, state::char(5), NULL, label)$$;

CREATE FUNCTION st.message(statement text) RETURNS text LANGUAGE plpgsql AS
    $$BEGIN EXECUTE statement; RETURN 'no error'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END$$;

CREATE ROLE st_admin IN ROLE kessel_admin;
CREATE ROLE st_app IN ROLE kessel_user;
CREATE ROLE st_team;
CREATE ROLE st_other;
GRANT USAGE ON SCHEMA st TO PUBLIC;

INSERT INTO app.data_sources (id, name, isolation, conninfo) VALUES ('00000000-0000-4000-8000-0000000000d5', 'st-source', 'row', '{}');
INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
SELECT ('00000000-0000-4000-8000-00000000a00' || n)::uuid, 'st-' || n, 'st', '00000000-0000-4000-8000-0000000000d5', 'row', n FROM generate_series(1, 2) n;

--
-- Versions
--
SELECT vault.create_secret('one', 'v') IS NOT NULL AS made \gset
SELECT is(st.versions('v'), '1*', 'a new secret has one version');
SELECT lives_ok($$SELECT vault.update_secret(st.id('v'), 'two')$$, 'a second value');
SELECT lives_ok($$SELECT vault.update_secret(st.id('v'), 'three', 'w')$$, 'a third, with another name');
SELECT is(st.versions('w'), '1 2 3*', 'all are kept');
SELECT is(ARRAY(SELECT vault.reveal(st.id('w'), v) FROM generate_series(1, 3) v), '{one,two,three}', 'and open');
SELECT is(vault.reveal(st.id('w')), 'three', 'the newest without a number');
SELECT is(vault.reveal('w'), 'three', 'by its name');
SELECT is((SELECT array_agg(name ORDER BY version) FROM vault.secret_versions WHERE secret_id = st.id('w')), '{v,v,w}', 'each with the name of its time');
SELECT is(vault.rollback_secret(st.id('w'), 1), 4, 'going back makes a new version');
SELECT is(vault.reveal('w'), 'one', 'with the old value');
SELECT is(vault.rollback_secret(st.id('w'), 4), 4, 'going back to the newest does nothing');
SELECT is(st.versions('w'), '1 2 3 4*', 'nothing is lost');
SELECT st.refused($$SELECT vault.rollback_secret(st.id('w'), 5)$$, '02000', 'no such version');
SELECT st.refused($$SELECT vault.rollback_secret(st.id('w'), 0)$$, '02000', 'nor version 0');
SELECT st.refused($$SELECT vault.reveal(st.id('w'), -1)$$, '02000', 'nor a negative one');
SELECT st.refused($$SELECT vault.rollback_secret(gen_random_uuid(), 1)$$, '02000', 'nor of no secret');
SELECT st.refused($$SELECT vault.reveal('no such name')$$, '02000', 'nor by a name that nobody has');
SELECT st.refused($$SELECT vault.reveal(NULL, 1)$$, '22004', 'an id must be given');
SELECT is(vault.reveal(NULL::text), NULL, 'no name, no secret');

SET LOCAL kessel.secret_versions = 2;
SELECT vault.update_secret(st.id('w'), 'five') \g /dev/null
SELECT is(st.versions('w'), '3 4 5*', 'as many as kessel.secret_versions are kept');
SET LOCAL kessel.secret_versions = 0;
SELECT vault.update_secret(st.id('w'), 'six') \g /dev/null
SELECT is(st.versions('w'), '6*', 'or none');
RESET kessel.secret_versions;

SELECT vault.update_secret(st.id('w'), 'seven') \g /dev/null
SELECT is((SELECT count(*) FROM vault.verify()), 0::bigint, 'all versions open');
SAVEPOINT swapped;
UPDATE vault.former_versions SET version = 5 WHERE secret_id = st.id('w');
SELECT results_eq($$SELECT version, reason FROM vault.verify()$$, $$VALUES (5, 'altered, moved or renamed')$$, 'a version under another number does not open');
SELECT st.refused($$SELECT vault.reveal(st.id('w'), 5)$$, 'KR011', 'nor when asked for');
ROLLBACK TO swapped;
UPDATE vault.secrets s SET secret = f.secret, nonce = f.nonce FROM vault.former_versions f WHERE f.secret_id = s.id AND s.id = st.id('w');
SELECT results_eq($$SELECT version, reason FROM vault.verify()$$, $$VALUES (7, 'altered, moved or renamed')$$, 'a former version is not taken for the newest');
ROLLBACK TO swapped;
SELECT throws_ok($$INSERT INTO vault.former_versions SELECT secret_id, 99, name, tenant_id, key_id, 'plaintext of some length', nonce, now() FROM vault.former_versions$$,
                 '0A000', NULL, 'no plaintext into former versions');
SELECT throws_ok($$SELECT vault.create_secret(repeat('x', 100 * 1024 * 1024))$$, '54000', 'secret is too large', 'a secret of 100 MB');
SELECT throws_ok($$SELECT vault.update_secret(st.id('w'), repeat('x', 100 * 1024 * 1024))$$, '54000', 'secret is too large', 'also as a new value');
SELECT is(vault.delete_secret(st.id('w')), true, 'deleted');
SELECT is((SELECT count(*) FROM vault.former_versions), 0::bigint, 'with its former versions');

-- Any altered byte is noticed: of the secret, its nonce, the wrapped key and its nonce.
CREATE FUNCTION st.flips(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s vault.secrets;
    k vault.keys;
    unharmed bytea;
    noticed int := 0;
BEGIN
    SELECT * INTO STRICT s FROM vault.secrets WHERE name = 'flip';
    SELECT * INTO STRICT k FROM vault.keys WHERE id = s.key_id;
    unharmed := CASE what WHEN 'secret' THEN s.secret WHEN 'nonce' THEN s.nonce WHEN 'wrapped key' THEN k.wrapped_key ELSE k.nonce END;
    FOR i IN 0 .. octet_length(unharmed) - 1 LOOP
        DECLARE
            harmed bytea := set_byte(unharmed, i, get_byte(unharmed, i) # 64);
        BEGIN
            IF vault._check(s.id, s.name, s.version, s.tenant_id, s.key_id,
                            CASE what WHEN 'secret' THEN harmed ELSE s.secret END, CASE what WHEN 'nonce' THEN harmed ELSE s.nonce END, s.expires_at,
                            k.tenant_id, k.root_key_id,
                            CASE what WHEN 'key nonce' THEN harmed ELSE k.nonce END, CASE what WHEN 'wrapped key' THEN harmed ELSE k.wrapped_key END) LIKE 'altered%' THEN
                noticed := noticed + 1;
            END IF;
        END;
    END LOOP;
    RETURN noticed || ' of ' || octet_length(unharmed);
END $$;
SELECT vault.create_secret('0123456789', 'flip') IS NOT NULL AS made \gset
SELECT is(st.flips('secret'), '27 of 27', 'every byte of a secret counts');
SELECT is(st.flips('nonce'), '24 of 24', 'every byte of its nonce');
SELECT is(st.flips('wrapped key'), '48 of 48', 'every byte of the wrapped key');
SELECT is(st.flips('key nonce'), '24 of 24', 'every byte of its nonce');

--
-- Tags and expiry
--
SELECT vault.create_secret('x', 't', new_tags => '{"team": "billing"}', new_expires_at => 'infinity') IS NOT NULL AS made \gset
SELECT is((SELECT tags FROM vault.decrypted_secrets WHERE name = 't'), '{"team": "billing"}', 'tags are kept');
SELECT lives_ok($$SELECT vault.update_secret(st.id('t'), new_tags => '{"team": "sales"}')$$, 'and replaced');
SELECT results_eq($$SELECT tags, version FROM vault.secrets WHERE name = 't'$$, $$VALUES ('{"team": "sales"}'::jsonb, 1)$$, 'which is no new version');
SELECT st.refused($$SELECT vault.create_secret('x', new_tags => '[]')$$, '22023', 'tags are an object');
SELECT st.refused($$SELECT vault.update_secret(st.id('t'), new_tags => '"x"')$$, '22023', 'also when changed');
SELECT is(vault.reveal('t'), 'x', 'it never expires');
SELECT lives_ok($$SELECT vault.update_secret(st.id('t'), new_expires_at => clock_timestamp())$$, 'it expires now');
SELECT st.refused($$SELECT vault.reveal('t')$$, 'KR012', 'an expired secret is not opened');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 't'), NULL, 'nor shown');
SELECT results_eq($$SELECT name, reason FROM vault.verify()$$, $$VALUES ('t', 'expired')$$, 'verify() says why');
SELECT st.refused($$SELECT vault.update_secret(st.id('t'), new_name => 'tt')$$, 'KR012', 'nor renamed, for which it has to be opened');
SELECT lives_ok($$SELECT vault.update_secret(st.id('t'), 'y', new_expires_at => 'infinity')$$, 'a new value with a new expiry');
SELECT is(vault.reveal('t'), 'y', 'is there again');

-- A query that does not ask for the plaintext opens nothing.
CREATE FUNCTION st.opens(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
    found boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (VERBOSE) ' || query LOOP
        found := found OR line LIKE '%\_open(%';
    END LOOP;
    RETURN found;
END $$;
SELECT is(st.opens('SELECT decrypted_secret FROM vault.decrypted_secrets'), true, 'asking for the plaintext opens');
SELECT is(st.opens('SELECT name FROM vault.decrypted_secrets'), false, 'asking for names does not');
SELECT is(st.opens('SELECT count(*) FROM vault.decrypted_secrets'), false, 'nor counting');

--
-- Use and reveal
--
SELECT vault.create_secret('superuser''s', 'g') IS NOT NULL AS made \gset
SELECT is((SELECT count(*) FROM vault.secret_grants WHERE secret_id = st.id('g')), 0::bigint, 'a superuser needs no grant');
SET LOCAL ROLE st_admin;
SELECT st.refused($$SELECT vault.reveal('g')$$, '42501', 'an administrator may not read it');
SELECT is((SELECT count(*) FROM vault.decrypted_secrets WHERE name = 'g'), 0::bigint, 'nor see it in the view');
SELECT throws_ok($$SELECT vault._open(s.id, s.name, s.version, s.tenant_id, s.key_id, s.secret, s.nonce, s.expires_at, k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key)
                    FROM vault.secrets s JOIN vault.keys k ON k.id = s.key_id WHERE s.name = 'g'$$, '42501', NULL, 'nor open the row by hand');
SELECT st.refused($$SELECT vault.grant_secret(st.id('g'), 'st_admin', 'reveal')$$, '42501', 'nor grant that to himself');
SELECT st.refused($$SELECT vault.grant_secret(st.id('g'), 'public', 'reveal')$$, '42501', 'nor to everyone');
SELECT lives_ok($$SELECT vault.grant_secret(st.id('g'), 'st_team', 'use')$$, 'he may let others use it');
SELECT lives_ok($$SELECT vault.update_secret(st.id('g'), 'changed')$$, 'and replace it');
SELECT st.refused($$SELECT vault.reveal('g')$$, '42501', 'which does not make it his');
SELECT lives_ok($$SELECT vault.rollback_secret(st.id('g'), 1)$$, 'and go back');
SELECT st.refused($$INSERT INTO vault.secret_grants VALUES (st.id('g'), 'st_admin', 'reveal', 'x')$$, '42501', 'the table is not his to write');
SELECT st.refused($$DELETE FROM vault.secret_grants$$, '42501', 'nor to empty');
SELECT vault.create_secret('his', 'h') IS NOT NULL AS made \gset
SELECT is(vault.reveal('h'), 'his', 'what he has stored he may read');
SELECT lives_ok($$SELECT vault.grant_secret(st.id('h'), 'st_team', 'reveal')$$, 'and let others read');
RESET ROLE;
SELECT is((SELECT string_agg(concat_ws(' ', role_name, privilege, granted_by), ', ' ORDER BY role_name, privilege) FROM vault.secret_grants WHERE secret_id = st.id('h')),
          'st_admin reveal st_admin, st_admin use st_admin, st_team reveal st_admin', 'who has granted is recorded');

SET LOCAL ROLE st_app;
SELECT st.refused($$SELECT vault.reveal('h')$$, '42501', 'who has no grant may not read');
SELECT is((SELECT count(*) FROM vault.decrypted_secrets), 0::bigint, 'and sees none');
SELECT is(vault_message, 'permission denied to reveal secret "no such name" (reveal)', 'nor learn whether a name is taken')
  FROM (SELECT st.message($$SELECT vault.reveal('no such name')$$) AS vault_message) m;
SELECT is(st.message($$SELECT vault.import_aes_gcm(repeat('0', 24) || ':' || repeat('0', 32) || ':', 'no such name')$$),
          'permission denied to use secret "no such name" (import)', 'nor by the name of a key');
SELECT is(st.message($$SELECT vault.import_aes_gcm(repeat('0', 24) || ':' || repeat('0', 32) || ':', 'h')$$),
          'permission denied to use secret "h" (import)', 'as one that is there');
SELECT is(st.message($$SELECT vault.reveal('h')$$), 'permission denied to reveal secret "h" (reveal)', 'as one that is taken');
SELECT st.refused($$SELECT vault.grant_secret(gen_random_uuid(), 'st_app', 'use')$$, '42501', 'nor grant');
SELECT st.refused($$SELECT * FROM vault.secrets$$, '42501', 'nor look at what is sealed');
SELECT st.refused($$SELECT * FROM vault.secret_versions$$, '42501', 'nor at versions');
SELECT st.refused($$SELECT * FROM vault.verify()$$, '42501', 'nor verify');
SELECT st.refused($$SELECT vault.rollback_secret(gen_random_uuid(), 1)$$, '42501', 'nor roll back');
SELECT st.refused($$SELECT vault.shred_tenant('st-1')$$, '42501', 'nor shred');
SELECT st.refused($$SELECT vault.destroy_key(gen_random_uuid())$$, '42501', 'nor destroy keys');
SELECT st.refused($$CALL vault.rotate_tenant_key('st-1')$$, '42501', 'nor rotate them');
RESET ROLE;
GRANT st_team TO st_app;
SET LOCAL ROLE st_app;
SELECT is(vault.reveal('h'), 'his', 'a member of a role that has it may');
SELECT results_eq($$SELECT name, decrypted_secret FROM vault.decrypted_secrets$$, $$VALUES ('h', 'his')$$, 'and sees that one');
RESET ROLE;
REVOKE st_team FROM st_app;
SET LOCAL ROLE st_app;
SELECT st.refused($$SELECT vault.reveal('h')$$, '42501', 'who is no member any more may not');
RESET ROLE;
SELECT is(vault.revoke_secret(st.id('h'), 'st_team', 'reveal'), true, 'revoked');
SELECT is(vault.revoke_secret(st.id('h'), 'st_team', 'reveal'), false, 'not twice');
GRANT st_team TO st_app;
SET LOCAL ROLE st_app;
SELECT st.refused($$SELECT vault.reveal('h')$$, '42501', 'a revoked grant counts no more');
RESET ROLE;
SELECT vault.grant_secret(st.id('h'), 'public', 'reveal') \g /dev/null
SET LOCAL ROLE st_app;
SELECT is(vault.reveal('h'), 'his', 'public is everyone');
RESET ROLE;
SELECT st.refused($$SELECT vault.grant_secret(st.id('h'), 'no such role', 'use')$$, '42704', 'no such role');
SELECT st.refused($$SELECT vault.grant_secret(st.id('h'), 'st_app', 'SELECT')$$, '22023', 'no such privilege');
SELECT st.refused($$SELECT vault.grant_secret(gen_random_uuid(), 'st_app', 'use')$$, '23503', 'no such secret');
SELECT lives_ok($$SELECT vault.grant_secret(st.id('h'), 'st_app', 'use'), vault.grant_secret(st.id('h'), 'st_app', 'use')$$, 'granting twice is granting once');
SET LOCAL ROLE st_other;
SELECT st.refused($$SELECT vault.reveal('h')$$, '42501', 'a role outside may not even call it');
RESET ROLE;

--
-- Keys of tenants
--
SELECT vault.create_secret('a', 'a', new_tenant_id => '00000000-0000-4000-8000-00000000a001') IS NOT NULL AS made \gset
SELECT vault.create_secret('b', 'b', new_tenant_id => '00000000-0000-4000-8000-00000000a002') IS NOT NULL AS made \gset
SELECT vault.update_secret(st.id('a'), 'aa') \g /dev/null
SELECT is((SELECT secrets + former_versions FROM vault.key_usage WHERE key_id = (SELECT key_id FROM vault.secrets WHERE name = 'a')), 2::bigint, 'usage counts secrets and former versions');
SELECT is((SELECT count(DISTINCT fingerprint) FROM vault.keys), (SELECT count(*) FROM vault.keys), 'each key has its fingerprint');
SELECT st.refused($$SELECT vault.destroy_key((SELECT key_id FROM vault.secrets WHERE name = 'a'))$$, '55006', 'an active key is not destroyed alone');
SELECT is(vault.destroy_key(gen_random_uuid()), false, 'nor one that is not there');
SELECT st.refused($$CALL vault.rotate_tenant_key('st-1')$$, '2D000', 'rotation wants to commit');
SELECT st.refused($$CALL vault.rotate_tenant_key('nobody')$$, 'KR002', 'of a tenant that is there');
SELECT st.refused($$CALL vault.rotate_tenant_key('st-1', 0)$$, '22023', 'in batches of some size');
SELECT is(vault._retire_key('00000000-0000-4000-8000-00000000a001') <> (SELECT key_id FROM vault.secrets WHERE name = 'a'), true, 'another key seals');
SELECT is((SELECT array_agg(status ORDER BY status) FROM vault.keys WHERE tenant_id = '00000000-0000-4000-8000-00000000a001'), '{active,retired}', 'the old one is retired');
SELECT is(vault.reveal('a'), 'aa', 'and opens');
SELECT st.refused($$SELECT vault.destroy_key((SELECT key_id FROM vault.secrets WHERE name = 'a'))$$, '55006', 'so it is not destroyed');
SELECT is((SELECT resealed || ' ' || failed FROM vault._reseal('00000000-0000-4000-8000-00000000a001', '00000000-0000-0000-0000-000000000000', 10)), '2 0', 'both versions are sealed anew');
SELECT is((SELECT last FROM vault._reseal('00000000-0000-4000-8000-00000000a001', '00000000-0000-0000-0000-000000000000', 10)), NULL, 'and none is left');
SELECT is(st.versions('a'), '1 2*', 'they are the versions that they were');
SELECT is(vault.reveal(st.id('a'), 1), 'a', 'the first');
SELECT is(vault.reveal('a'), 'aa', 'and the second');
SELECT is((SELECT vault.destroy_key(id) FROM vault.keys WHERE status = 'retired'), true, 'now the old key can be destroyed');
SELECT is((SELECT count(*) FROM vault.verify()), 0::bigint, 'which harms nothing');

SET LOCAL ROLE st_admin;
SELECT results_eq($$SELECT tenant, shredded_by::text COLLATE "C", cardinality(key_ids), cardinality(key_fingerprints), secrets, former_versions FROM vault.shred_tenant('st-1')$$,
                  $$VALUES ('st-1', 'st_admin' COLLATE "C", 1, 1, 1::bigint, 1::bigint)$$, 'shredding gives a proof');
RESET ROLE;
SELECT is((SELECT key_fingerprints[1] FROM vault.shred_proofs), (SELECT k.fingerprint FROM vault.keys k JOIN vault.secrets s ON s.key_id = k.id WHERE s.name = 'a'), 'with the key''s fingerprint');
SELECT results_eq($$SELECT version, reason FROM vault.verify() ORDER BY 1$$, $$VALUES (1, 'data key was destroyed'), (2, 'data key was destroyed')$$, 'nothing of the tenant opens');
SELECT st.refused($$SELECT vault.reveal('a')$$, 'KR011', 'not the newest version');
SELECT st.refused($$SELECT vault.reveal(st.id('a'), 1)$$, 'KR011', 'nor a former one');
SELECT st.refused($$SELECT vault.rollback_secret(st.id('a'), 1)$$, 'KR011', 'nor by going back');
SELECT is(vault.reveal('b'), 'b', 'another tenant''s does');
SELECT is((SELECT count(*) FROM vault.keys WHERE wrapped_key IS NOT NULL AND tenant_id = '00000000-0000-4000-8000-00000000a001'), 0::bigint, 'nothing is left of the key');
SELECT is((SELECT cardinality(key_ids) FROM vault.shred_tenant('00000000-0000-4000-8000-00000000a001')), 0, 'a second time there is nothing to destroy, which is proven, too');
SELECT st.refused($$SELECT vault.shred_tenant('nobody')$$, 'KR002', 'no such tenant');
SELECT st.refused($$SELECT vault.shred_tenant(NULL)$$, '22004', 'nor none');
DELETE FROM app.tenants WHERE slug = 'st-2';
SELECT is((SELECT (p).secrets || coalesce((p).tenant, '-') FROM (SELECT vault.shred_tenant('00000000-0000-4000-8000-00000000a002') AS p) s), '1-', 'one that was dropped is shredded by its id');

SELECT * FROM finish();
ROLLBACK;

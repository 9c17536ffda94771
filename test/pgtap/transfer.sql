-- The calls of Supabase Vault's users, in all forms that they write them in.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

CREATE SCHEMA tt;
CREATE TABLE tt.result (id uuid, note text);

-- Runs a body of PL/pgSQL, so that its calls stand as in a function of a user's.
CREATE FUNCTION tt.run(declarations text, body text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
    EXECUTE format('DO %L', 'DECLARE ' || declarations || '; BEGIN ' || body || ' END');
END $f$;

CREATE FUNCTION tt.shown(secret_name text) RETURNS text LANGUAGE sql AS
    $$SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = secret_name$$;

--
-- create_secret
--
SELECT is(pg_typeof(vault.create_secret('one argument')), 'uuid'::regtype, 'SELECT vault.create_secret(secret)');
SELECT vault.create_secret('two', 'two arguments');
SELECT vault.create_secret('three', 'three arguments', 'described');
SELECT vault.create_secret('four', 'four arguments', 'described', NULL);
SELECT vault.create_secret(new_secret := 'named', new_name := 'named :=');
SELECT vault.create_secret(new_secret => 'named', new_name => 'named =>', new_description => 'described', new_key_id => NULL);
SELECT vault.create_secret('mixed', new_description => 'described', new_name => 'mixed');
SELECT vault.create_secret(gen_random_uuid()::text, 'computed');
select vault.create_secret ('lower', 'lower case', 'and a blank');
SELECT results_eq($$SELECT name, decrypted_secret, description FROM vault.decrypted_secrets WHERE name IS NOT NULL AND name <> 'computed' ORDER BY name COLLATE "C"$$,
$$VALUES ('four arguments', 'four', 'described'), ('lower case', 'lower', 'and a blank'), ('mixed', 'mixed', 'described'), ('named :=', 'named', ''),
         ('named =>', 'named', 'described'), ('three arguments', 'three', 'described'), ('two arguments', 'two', '')$$, 'positional, named and mixed calls of create_secret');
SELECT is(length(tt.shown('computed')), 36, 'a computed secret');

SELECT tt.run('v text := ''v''', $$PERFORM vault.create_secret(v, 'by PERFORM');$$);
SELECT tt.run('i uuid', $$i := vault.create_secret('v', 'by assignment'); INSERT INTO tt.result VALUES (i, 'by assignment');$$);
SELECT tt.run('i uuid', $$SELECT vault.create_secret('v', 'by SELECT INTO') INTO i; INSERT INTO tt.result VALUES (i, 'by SELECT INTO');$$);
SELECT tt.run('i uuid', $$SELECT * INTO i FROM vault.create_secret('v', 'by FROM'); INSERT INTO tt.result VALUES (i, 'by FROM');$$);
SELECT tt.run('i uuid', $$EXECUTE 'SELECT vault.create_secret($1, $2)' INTO i USING 'v', 'by EXECUTE'; INSERT INTO tt.result VALUES (i, 'by EXECUTE');$$);
INSERT INTO tt.result VALUES (vault.create_secret('v', 'by INSERT'), 'by INSERT');
SELECT bag_eq($$SELECT name FROM vault.secrets JOIN tt.result USING (id) WHERE name = note$$,
              $$VALUES ('by assignment'), ('by SELECT INTO'), ('by FROM'), ('by EXECUTE'), ('by INSERT')$$, 'the id comes back in PL/pgSQL');
SELECT is(tt.shown('by PERFORM'), 'v', 'PERFORM vault.create_secret()');
SELECT throws_ok($$SELECT vault.create_secret('again', 'two arguments')$$, '23505', NULL, 'a name that is taken, with the state that they catch');
SELECT tt.run('found text', $$BEGIN PERFORM vault.create_secret('again', 'two arguments'); EXCEPTION WHEN unique_violation THEN INSERT INTO tt.result (note) VALUES ('caught'); END;$$);
SELECT ok(EXISTS (SELECT FROM tt.result WHERE note = 'caught'), 'EXCEPTION WHEN unique_violation');

--
-- decrypted_secrets
--
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'two arguments'), 'two', 'by name, as a scalar');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'two arguments' LIMIT 1), 'two', 'with LIMIT 1');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE id = (SELECT id FROM vault.secrets WHERE name = 'two arguments')), 'two', 'by id');
SELECT is((SELECT decrypted_secret::text FROM vault.decrypted_secrets WHERE name ILIKE 'TWO arg%'), 'two', 'by pattern');
SELECT is((SELECT count(*) FROM vault.decrypted_secrets WHERE name IN ('two arguments', 'three arguments')), 2::bigint, 'by list');
SELECT is((SELECT count(*) FROM vault.decrypted_secrets WHERE name = ANY (ARRAY['two arguments', 'three arguments'])), 2::bigint, 'by array');
SELECT is((SELECT count(*) FROM (SELECT * FROM vault.decrypted_secrets ORDER BY created_at DESC LIMIT 3) t), 3::bigint, 'the newest');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'no such'), NULL, 'none of that name');
SELECT is((SELECT coalesce((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'no such'), 'otherwise')), 'otherwise', 'with a default');
SELECT is((SELECT jsonb_build_object('Authorization', 'Bearer ' || (SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'two arguments'))),
          '{"Authorization": "Bearer two"}', 'as a header of a request');
SELECT is((SELECT decrypted_secret::jsonb ->> 'a' FROM vault.decrypted_secrets WHERE id = vault.create_secret('{"a": "b"}')), NULL, 'a secret is not seen by the statement that makes it');
SELECT isnt(to_regclass('vault.decrypted_secrets'), NULL, 'to_regclass');
SELECT isnt(to_regprocedure('vault.update_secret(uuid, text, text, text, uuid, jsonb, timestamptz)'), NULL, 'to_regprocedure, with our signature');
SELECT is((SELECT array_agg(column_name::text ORDER BY column_name) FROM information_schema.columns WHERE table_schema = 'vault' AND table_name = 'decrypted_secrets'
             AND column_name IN ('id', 'name', 'description', 'secret', 'decrypted_secret', 'key_id', 'nonce', 'created_at', 'updated_at')),
          ARRAY['created_at', 'decrypted_secret', 'description', 'id', 'key_id', 'name', 'nonce', 'secret', 'updated_at'], 'all their columns');
SELECT tt.run('s text', $$SELECT decrypted_secret INTO s FROM vault.decrypted_secrets WHERE name = 'two arguments'; INSERT INTO tt.result (note) VALUES ('into ' || s);$$);
SELECT tt.run('s text', $$SELECT decrypted_secret INTO STRICT s FROM vault.decrypted_secrets WHERE name = 'three arguments'; INSERT INTO tt.result (note) VALUES ('into ' || s);$$);
SELECT tt.run('s text', $$s := (SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'mixed'); INSERT INTO tt.result (note) VALUES ('into ' || s);$$);
SELECT is((SELECT count(*) FROM tt.result WHERE note IN ('into two', 'into three', 'into mixed')), 3::bigint, 'INTO in PL/pgSQL');
SELECT throws_ok($$SELECT tt.run('s text', $x$SELECT decrypted_secret INTO STRICT s FROM vault.decrypted_secrets WHERE name = 'no such';$x$)$$, 'P0002', NULL, 'INTO STRICT finds none');

-- The usual wrapper: a function of the owner's that others may call.
CREATE ROLE tt_app;
CREATE ROLE tt_owner IN ROLE kessel_user;
GRANT USAGE ON SCHEMA tt TO tt_app, tt_owner;
GRANT CREATE ON SCHEMA tt TO tt_owner;
SET LOCAL ROLE tt_owner;
CREATE FUNCTION tt.get_secret(secret_name text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    secret text;
BEGIN
    SELECT decrypted_secret INTO secret FROM vault.decrypted_secrets WHERE name = secret_name;
    RETURN secret;
END $$;
CREATE FUNCTION tt.get_secret_sql(secret_name text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS
    $$SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = secret_name LIMIT 1$$;
CREATE FUNCTION tt.sign() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    NEW.note := NEW.note || ' signed with ' || (SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'two arguments');
    RETURN NEW;
END $$;
RESET ROLE;
CREATE TABLE tt.signed (note text);
CREATE TRIGGER sign BEFORE INSERT ON tt.signed FOR EACH ROW EXECUTE FUNCTION tt.sign();
GRANT INSERT, SELECT ON tt.signed TO tt_app;

SET LOCAL ROLE tt_app;
SELECT is(tt.get_secret('two arguments'), NULL, 'a SECURITY DEFINER function shows nothing while its owner may reveal nothing');
SELECT throws_ok($$SELECT * FROM vault.decrypted_secrets$$, '42501', NULL, 'its callers see nothing themselves');
RESET ROLE;
SELECT vault.grant_secret(id, 'tt_owner', 'reveal') FROM vault.secrets WHERE name = 'two arguments';
SET LOCAL ROLE tt_app;
SELECT is(tt.get_secret('two arguments'), 'two', 'in PL/pgSQL, once its owner may reveal the secret');
SELECT is(tt.get_secret_sql('two arguments'), 'two', 'in SQL');
SELECT is(tt.get_secret('three arguments'), NULL, 'but no other');
INSERT INTO tt.signed VALUES ('text');
SELECT is((SELECT note FROM tt.signed), 'text signed with two', 'in a trigger');
RESET ROLE;

--
-- update_secret
--
SELECT vault.update_secret((SELECT id FROM vault.secrets WHERE name = 'two arguments'), 'new');
SELECT is(tt.shown('two arguments'), 'new', 'update_secret(id, secret)');
SELECT vault.update_secret((SELECT id FROM vault.secrets WHERE name = 'two arguments'), 'new', 'renamed', 'described anew');
SELECT results_eq($$SELECT name, decrypted_secret, description FROM vault.decrypted_secrets WHERE name = 'renamed'$$, $$VALUES ('renamed', 'new', 'described anew')$$, 'four arguments');
SELECT tt.run('i uuid', $$SELECT id INTO i FROM vault.secrets WHERE name = 'renamed'; PERFORM vault.update_secret(i, 'newer', 'renamed', 'as it was', NULL);$$);
SELECT is(tt.shown('renamed'), 'newer', 'five, its own name among them');
SELECT vault.update_secret(secret_id := (SELECT id FROM vault.secrets WHERE name = 'renamed'), new_secret := 'newest');
SELECT is(tt.shown('renamed'), 'newest', 'named :=');
SELECT vault.update_secret(id, new_description => 'by a list') FROM vault.secrets WHERE name LIKE 'by %';
SELECT is((SELECT count(*) FROM vault.secrets WHERE description = 'by a list'), (SELECT count(*) FROM vault.secrets WHERE name LIKE 'by %'), 'over the rows of vault.secrets');
CREATE FUNCTION tt.upsert(secret_name text, value text) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    existing uuid;
BEGIN
    SELECT id INTO existing FROM vault.secrets WHERE name = secret_name;
    IF existing IS NULL THEN
        RETURN vault.create_secret(value, secret_name);
    END IF;
    PERFORM vault.update_secret(existing, value);
    RETURN existing;
END $$;
SELECT is(tt.upsert('upserted', 'first'), tt.upsert('upserted', 'second'), 'create or update');
SELECT is(tt.shown('upserted'), 'second', 'leaves the later value');

--
-- Deleting; there is no function for it in theirs
--
CREATE ROLE tt_admin IN ROLE kessel_admin;
SET LOCAL ROLE tt_admin;
SELECT lives_ok($$DELETE FROM vault.secrets WHERE name = 'upserted'$$, 'DELETE FROM vault.secrets');
SELECT throws_ok($$UPDATE vault.secrets SET description = 'x'$$, '42501', NULL, 'UPDATE is the vault''s');
SELECT throws_ok($$INSERT INTO vault.secrets SELECT * FROM vault.secrets$$, '42501', NULL, 'so is INSERT');
SELECT throws_ok($$TRUNCATE vault.secrets CASCADE$$, '42501', NULL, 'and TRUNCATE');
RESET ROLE;
SELECT is(tt.shown('upserted'), NULL, 'the secret is gone');
SELECT is((SELECT count(*) FROM vault.former_versions f WHERE NOT EXISTS (SELECT FROM vault.secrets s WHERE s.id = f.secret_id)), 0::bigint, 'with its former versions');

--
-- What is refused
--
SELECT throws_ok($$INSERT INTO vault.secrets (name, secret) VALUES ('plain', 'a secret in the clear') RETURNING id$$, '0A000', 'vault.secrets takes sealed secrets only', 'INSERT of plaintext');
SELECT throws_ok($$INSERT INTO vault.secrets (secret) VALUES ('s3kre3t_k3y') RETURNING *$$, '0A000', NULL, 'without a name');
SELECT throws_ok($$UPDATE vault.secrets SET secret = 'a secret in the clear' WHERE name = 'renamed'$$, '0A000', NULL, 'UPDATE to plaintext');
SELECT throws_ok($$SELECT tt.run('v text := ''a secret''', 'INSERT INTO vault.secrets (name, secret) VALUES (''plain'', v);')$$, '42804', NULL, 'INSERT of a text variable');
SELECT is(tt.shown('renamed'), 'newest', 'nothing has changed');

SELECT * FROM finish();
ROLLBACK;

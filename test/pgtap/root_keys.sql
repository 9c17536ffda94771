-- vault.status() and vault.rotate_root_key(): form, privileges, errors. What
-- they do with several root keys is in test/t/011_root_keys.pl.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

SELECT is(pg_get_function_result('vault.status()'::regprocedure),
          'SETOF record', 'status() returns a record');
SELECT is((SELECT string_agg(n || ' ' || t::regtype, ', ' ORDER BY o)
             FROM pg_proc p, unnest(p.proargnames, p.proallargtypes) WITH ORDINALITY a (n, t, o) WHERE p.oid = 'vault.status()'::regprocedure),
          'sealed boolean, provider text, root_key_id text, root_key_ids text[], wanted_root_key_ids text[], detail text, hint text',
          'with these columns');
SELECT is((SELECT count(*) FROM vault.status()), 1::bigint, 'one row');
SELECT function_returns('vault', 'rotate_root_key', '{}'::name[], 'bigint');
SELECT ok(obj_description(f::regprocedure, 'pg_proc') LIKE '%For kessel_admin.', f || ' says whom it is for')
  FROM unnest('{vault.status(),vault.rotate_root_key()}'::text[]) f;

-- The first secret makes the key file; then there is one root key.
SELECT vault.create_secret('x', 'x');
SELECT results_eq($$SELECT sealed, root_key_ids = ARRAY[root_key_id], wanted_root_key_ids FROM vault.status()$$,
                  $$VALUES (false, true, '{}'::text[])$$, 'one root key is in place, and no other wanted');
SELECT is(root_key_id, (SELECT DISTINCT k.root_key_id FROM vault.keys k), 'the one that wraps') FROM vault.status();
SELECT is(vault.rotate_root_key(), 0::bigint, 'nothing is wrapped by another');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'x'), 'x', 'and it opens');

SAVEPOINT s;
UPDATE vault.keys SET root_key_id = 'feedfeedfeedfeed';
SELECT results_eq($$SELECT sealed, wanted_root_key_ids FROM vault.status()$$, $$VALUES (true, '{feedfeedfeedfeed}'::text[])$$,
                  'a root key that is not in place is wanted');
SELECT is(vault.rotate_root_key(), 0::bigint, 'what it wraps is left alone');
UPDATE vault.keys SET root_key_id = (SELECT root_key_id FROM vault.status());
SELECT results_eq($$SELECT sealed, wanted_root_key_ids FROM vault.status()$$, $$VALUES (false, '{}'::text[])$$, 'none is wanted');
ROLLBACK TO s;

-- A data key is bound to its purpose: none can be made to serve the other one.
SELECT isnt(vault.public_key(), NULL, 'a key that clients seal to');
UPDATE vault.keys SET status = 'retired' WHERE purpose = 'box';
SAVEPOINT s2;
UPDATE vault.keys SET purpose = 'box' WHERE purpose = 'seal';
SELECT throws_ok('SELECT vault.public_key()', 'KR011', NULL, 'a key for secrets opens nothing that clients have sealed');
ROLLBACK TO s2;
UPDATE vault.keys SET status = 'retired' WHERE purpose = 'seal';
UPDATE vault.keys SET status = 'active', purpose = 'seal' WHERE purpose = 'box';
SELECT throws_ok($$SELECT vault.create_secret('y')$$, 'KR011', NULL, 'and the other way round');
ROLLBACK TO s;

CREATE ROLE keys_stranger;
CREATE ROLE keys_admin IN ROLE kessel_admin;
CREATE ROLE keys_user IN ROLE kessel_user, kessel_service;
SET LOCAL ROLE keys_user;
SELECT throws_ok('SELECT vault.rotate_root_key()', '42501', NULL, 'an app rotates nothing');
SELECT throws_ok('SELECT * FROM vault.status()', '42501', NULL, 'and does not see the state');
SET LOCAL ROLE keys_admin;
SELECT lives_ok('SELECT vault.rotate_root_key()', 'an admin may');
RESET ROLE;

SET LOCAL ROLE keys_stranger;
SELECT throws_ok(format('SHOW %s', s), '42501', NULL, s || ' is not for everyone')
  FROM unnest('{kessel.root_key_command,kessel.root_key_environment,kessel.root_key_file}'::text[]) s;
SELECT throws_ok(format('SET %s = ''x''', s), '55P02', NULL, s || ' cannot be set in a session')
  FROM unnest('{kessel.root_key_command,kessel.root_key_environment,kessel.root_key_file}'::text[]) s;
RESET ROLE;

SET LOCAL transaction_read_only = on;
SELECT throws_ok('SELECT vault.rotate_root_key()', '25006', NULL, 'not in a read-only transaction');

SELECT finish();
ROLLBACK;

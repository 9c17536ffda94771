-- Settings: what they take, what they refuse, who may change them.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();

-- Something of the library's, so that its settings exist.
SELECT * FROM vault.status() LIMIT 0;

SELECT results_eq($$SELECT name, setting, coalesce(unit, ''), context FROM pg_settings WHERE name LIKE 'kessel.%'
                     AND name IN ('kessel.connect_timeout', 'kessel.root_key_command', 'kessel.root_key_environment', 'kessel.root_key_file', 'kessel.root_key_timeout', 'kessel.tenant') ORDER BY name$$,
                  $$VALUES ('kessel.connect_timeout', '5', 's', 'user'),
                           ('kessel.root_key_command', '', '', 'sighup'),
                           ('kessel.root_key_environment', '', '', 'sighup'),
                           ('kessel.root_key_file', '', '', 'sighup'),
                           ('kessel.root_key_timeout', '10', 's', 'sighup'),
                           ('kessel.tenant', '', '', 'user')$$,
                  'defaults, units and contexts');

SELECT lives_ok(format('SET LOCAL kessel.tenant = %L', value), format('kessel.tenant takes "%s"', value))
  FROM (VALUES (''), ('a'), ('0'), ('acme'), ('acme-2'), ('3-acme-'), (repeat('a', 63)), ('0f3c5a8e-7b1d-4c2e-9f60-a1b2c3d4e5f6')) v (value);
SELECT throws_ok(format('SET LOCAL kessel.tenant = %L', value), '22023', NULL, format('kessel.tenant refuses "%s"', value))
  FROM (VALUES ('-a'), ('Acme'), ('0F3C5A8E-7B1D-4C2E-9F60-A1B2C3D4E5F6'), ('a_b'), ('a b'), ('a.b'), (' a'), ('a '), ('ä'), (repeat('a', 64)), (E'a\nb'), ('a''b')) v (value);
SELECT is(current_setting('kessel.tenant'), '0f3c5a8e-7b1d-4c2e-9f60-a1b2c3d4e5f6', 'a refused value leaves the old one');

SELECT throws_ok('SET LOCAL kessel.connect_timeout = 0', '22023', NULL, 'connect_timeout has a lower bound');
SELECT throws_ok('SET LOCAL kessel.connect_timeout = 601', '22023', NULL, 'connect_timeout has an upper bound');
SELECT lives_ok('SET LOCAL kessel.connect_timeout = ''2min''', 'connect_timeout takes units');
SELECT throws_ok('SET LOCAL kessel.root_key_file = ''/tmp/x''', '55P02', NULL, 'a session cannot choose the root key');
SELECT throws_ok('SET LOCAL kessel.root_key_command = ''echo''', '55P02', NULL, 'a session cannot choose the root key''s command');
SELECT throws_ok('SET LOCAL kessel.no_such = 1', '42602', NULL, 'the prefix is reserved');

CREATE ROLE settings_stranger;
SET LOCAL ROLE settings_stranger;
SELECT throws_ok('SHOW kessel.root_key_file', '42501', NULL, 'where the root key lies is not for everyone');
SELECT lives_ok('SET LOCAL kessel.tenant = ''acme''', 'anyone may name a tenant');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;

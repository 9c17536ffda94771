-- Where a credential may be sent: who cannot read it cannot have it sent to a
-- host of his choice. And kessel.drop_credential(), and who is of one login.
\set superuser :USER
CREATE ROLE credentials_admin;
CREATE ROLE credentials_reader;
GRANT kessel_admin TO credentials_admin, credentials_reader;
CREATE ROLE credentials_user;
GRANT kessel_user TO credentials_user;
SET client_min_messages = error;
SELECT * FROM no_plan();

SELECT kessel.create_data_source('one', 'postgresql://u:one@db.example.com:6000/crm?sslmode=verify-full');
SELECT kessel.set_credential('one', 'o', 'two', 'owner');

CREATE FUNCTION secret_of(source text, purpose text DEFAULT 'runtime') RETURNS uuid LANGUAGE sql SECURITY DEFINER AS
    $$ SELECT c.secret_id FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = source AND c.purpose = secret_of.purpose $$;
CREATE FUNCTION alter_url(url text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kessel.alter_data_source('one', url);
    RAISE EXCEPTION 'allowed' USING ERRCODE = 'P0001';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE WHEN SQLSTATE = 'P0001' THEN '' ELSE SQLSTATE END;
END $$;

SELECT set_eq($$ SELECT role_name::text, privilege FROM vault.secret_grants WHERE secret_id = secret_of('one') $$, $$ VALUES ('public', 'use') $$, 'a runtime credential may be used by everyone, and read by nobody');
SELECT set_eq($$ SELECT role_name::text, privilege FROM vault.secret_grants WHERE secret_id = secret_of('one', 'owner') $$, $$ VALUES ('kessel_admin', 'use') $$, 'that of the owner is for administrators');

---------- what leads elsewhere ----------
SET ROLE credentials_admin;
SELECT is(alter_url(url), '', 'as before: ' || url) FROM (VALUES
    ('postgresql://db.example.com:6000/crm?sslmode=verify-full'),
    ('postgresql://DB.example.com:6000/crm?sslmode=verify-full'),
    ('postgresql://db.example.com:6000/other?sslmode=verify-full'),
    ('postgresql://db.example.com:6000/crm?sslmode=verify-full&ssl_min_protocol_version=TLSv1.3'),
    ('postgresql://db.example.com:6000/crm?sslmode=verify-full&channel_binding=require')) AS t(url);
SELECT is(alter_url(url), '42501', 'refused: ' || url) FROM (VALUES
    ('postgresql://evil.example.com:6000/crm?sslmode=verify-full'),
    ('postgresql://db.example.com/crm?sslmode=verify-full'),
    ('postgresql://db.example.com:6001/crm?sslmode=verify-full'),
    ('postgresql://db.example.com,evil.example.com:6000/crm?sslmode=verify-full'),
    ('postgresql://db.example.com:6000,evil.example.com:6000/crm?sslmode=verify-full'),
    ('host=db.example.com hostaddr=192.0.2.1 port=6000 sslmode=verify-full'),
    ('hostaddr=192.0.2.1 port=6000 sslmode=verify-full'),
    ('postgresql://db.example.com:6000/crm'),
    ('postgresql://db.example.com:6000/crm?sslmode=disable'),
    ('postgresql://db.example.com:6000/crm?sslmode=verify-ca'),
    ('postgresql://db.example.com:6000/crm?sslmode=verify-full&sslrootcert=system'),
    ('postgresql://db.example.com:6000/crm?sslmode=verify-full&ssl_min_protocol_version=TLSv1'),
    -- The new password is that of the runtime credential; the owner's would go there, too.
    ('postgresql://u:mine@evil.example.com:6000/crm?sslmode=verify-full')) AS t(url)
WHERE url !~ 'sslrootcert' OR current_setting('server_version_num')::int >= 160000;
SELECT throws_ok($$ SELECT kessel.alter_data_source('one', 'postgresql://evil.example.com/crm') $$, '42501',
    'permission denied to send the runtime credential of data source "one" elsewhere', 'by the name of the credential');
SELECT throws_ok($$ SELECT kessel.alter_data_source('one', 'postgresql://u:mine@evil.example.com/crm') $$, '42501',
    'permission denied to send the owner credential of data source "one" elsewhere', 'also that of the owner');
SELECT lives_ok($$ SELECT kessel.alter_data_source('one', region => 'eu', options => '{"schema": "crm"}', notes => 'n') $$, 'what leads nowhere else is free');
RESET ROLE;
SELECT kessel.alter_data_source('one', 'postgresql://db.example.com:6000,standby.example.com:6000/crm?sslmode=verify-full&channel_binding=require');
SET ROLE credentials_admin;
SELECT is(alter_url('postgresql://db.example.com:6000/crm?sslmode=verify-full&channel_binding=require'), '', 'a host may be left out');
SELECT is(alter_url('postgresql://db.example.com:6000/crm?sslmode=verify-full'), '42501', 'channel binding may not');
RESET ROLE;

---------- with the privilege ----------
SELECT vault.grant_secret(secret_of('one'), 'credentials_reader', 'reveal');
SET ROLE credentials_reader;
SELECT is(alter_url('postgresql://evil.example.com/crm'), '42501', 'who may read the one credential only cannot send the other');
RESET ROLE;
SELECT vault.grant_secret(secret_of('one', 'owner'), 'credentials_reader', 'reveal');
SET ROLE credentials_reader;
SELECT is(alter_url('postgresql://evil.example.com/crm'), '', 'who may read both can');
RESET ROLE;

---------- without ----------
SET ROLE credentials_admin;
SELECT lives_ok($$ SELECT kessel.drop_credential('one', 'owner') $$, 'it is forgotten first');
SELECT is(secret_of('one', 'owner'), NULL, 'and gone');
SELECT throws_ok($$ SELECT kessel.drop_credential('one', 'owner') $$, 'KR005', 'data source "one" has no owner credential', 'once');
SELECT throws_ok($$ SELECT kessel.drop_credential('one', NULL) $$, 'KR005', 'data source "one" has no such credential', 'NULL');
SELECT throws_ok($$ SELECT kessel.drop_credential('nosuch', 'owner') $$, 'KR007', NULL, 'no such data source');
RESET ROLE;
CREATE TEMP TABLE before AS SELECT secret_of('one') AS id;
SET ROLE credentials_admin;
SELECT lives_ok($$ SELECT kessel.alter_data_source('one', 'postgresql://u:mine@mine.example.com/crm') $$, 'user and password in the url');
RESET ROLE;
SELECT isnt(secret_of('one'), (SELECT id FROM before), 'it is another secret, without former versions to roll back to');
SELECT is_empty($$ SELECT FROM vault.secrets JOIN before USING (id) $$, 'the one before is gone');
SELECT is((SELECT count(*) FROM vault.former_versions WHERE secret_id = secret_of('one')), 0::bigint, 'it has none');
SELECT set_eq($$ SELECT role_name::text, privilege FROM vault.secret_grants WHERE secret_id = secret_of('one') $$, $$ VALUES ('public', 'use') $$, 'and nobody may read it');

---------- one login ----------
SELECT is(kessel._places(conninfo), places, conninfo::text) FROM (VALUES
    ('{"host": "A.example.com"}'::jsonb, '{a.example.com:5432}'::text[]),
    ('{"host": "a,b", "port": "1,2"}', '{a:1,b:2}'), ('{"host": "a,b", "port": "1"}', '{a:1,b:1}'),
    ('{"host": "a", "hostaddr": "192.0.2.1", "port": "7"}', '{192.0.2.1:7,a:7}'), ('{}', '{:5432}')) AS t(conninfo, places);
SELECT kessel.create_data_source('l' || n, url) FROM (VALUES (1, 'postgresql://same:x@a.example.com,b.example.com/one'), (2, 'postgresql://same:x@b.example.com/two'),
    (3, 'postgresql://same:x@b.example.com:6000/two'), (4, 'postgresql://other:x@b.example.com/two'), (5, 'postgresql://same:x@c.example.com/two'),
    (6, 'postgresql://same:x@b.example.com,d.example.com/two'), (7, 'postgresql://same:x@d.example.com/two')) AS t(n, url);
SELECT kessel.set_credential('l2', 'same', 'x', 'owner');
SELECT kessel.set_credential('l2', 'same', 'x', 'anon');
SELECT results_eq($$ SELECT data_source, purpose FROM app.data_sources s, kessel._same_login(s.id, 'runtime') WHERE s.name = 'l1' $$,
    $$ VALUES ('l1', 'runtime'), ('l2', 'owner'), ('l2', 'runtime'), ('l6', 'runtime'), ('l7', 'runtime') $$, 'same role, and a host in common');
SELECT set_eq($$ SELECT data_source, may_get, may_lend FROM app.data_sources s, kessel._same_login(s.id, 'runtime') WHERE s.name = 'l1' $$,
    $$ VALUES ('l1', true, true), ('l2', true, false), ('l6', false, false), ('l7', false, false) $$, 'a password goes to no further host');

---------- who may ----------
SET ROLE credentials_user;
SELECT throws_ok($$ SELECT kessel.drop_credential('one', 'owner') $$, '42501', NULL, 'not for others');
SELECT throws_ok($$ CALL kessel.rotate_credential('one') $$, '42501', NULL, 'nor is the rotation');
RESET ROLE;
SELECT throws_ok($$ SELECT kessel._settle_credential(gen_random_uuid(), 'runtime') $$, 'KR007', NULL, 'settling what is not there');

SELECT * FROM finish();

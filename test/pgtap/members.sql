-- Who is told of memberships that have changed, and with whose rights.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

INSERT INTO app.data_sources (id, name, isolation, conninfo) VALUES ('00000000-0000-4000-8000-0000000000d5', 'mt-source', 'row', '{}');
INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
SELECT ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'mt-' || n, 'M', '00000000-0000-4000-8000-0000000000d5', 'row', n FROM generate_series(1, 2) n;
SELECT lives_ok($$SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000001')$$, 'nobody listens');

-- A listener, at first of somebody who may not listen.
CREATE ROLE mt_other;
CREATE ROLE mt_admin IN ROLE kessel_admin;
CREATE SCHEMA infra;
GRANT USAGE, CREATE ON SCHEMA infra TO mt_other, mt_admin;
SET LOCAL ROLE mt_other;
CREATE TABLE infra.heard (user_ids uuid[], by name, path text);
CREATE FUNCTION infra.members_changed(user_ids uuid[]) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO infra.heard SELECT ARRAY(SELECT unnest(user_ids) ORDER BY 1), current_user, current_setting('search_path') $$;
GRANT ALL ON infra.heard TO mt_admin;
RESET ROLE;
SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000002') \g /dev/null
SELECT is_empty('SELECT * FROM infra.heard', 'who is not in kessel_admin is told nothing');

ALTER FUNCTION infra.members_changed(uuid[]) OWNER TO mt_admin;
SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000003') \g /dev/null
SELECT results_eq('SELECT * FROM infra.heard', $$VALUES ('{00000000-0000-4000-9000-000000000003}'::uuid[], 'mt_admin'::name, 'pg_catalog, pg_temp')$$, 'the listener runs with its owner''s rights, not the caller''s');
DELETE FROM infra.heard;
INSERT INTO app.user_tenants (user_id, tenant_id) SELECT ('00000000-0000-4000-9000-00000000000' || n)::uuid, '00000000-0000-4000-8000-000000000002' FROM generate_series(1, 5) n;
UPDATE app.user_tenants SET role = 'admin' WHERE tenant_id = '00000000-0000-4000-8000-000000000002';
UPDATE app.user_tenants SET user_id = '00000000-0000-4000-9000-000000000009' WHERE user_id = '00000000-0000-4000-9000-000000000005';
DELETE FROM app.user_tenants WHERE user_id = '00000000-0000-4000-9000-000000000001';
DELETE FROM app.user_tenants WHERE false;
DELETE FROM app.tenants WHERE slug = 'mt-2';
TRUNCATE app.user_tenants;
SELECT results_eq('SELECT cardinality(user_ids) FROM infra.heard', $$VALUES (5), (5), (2), (1), (4), (0)$$, 'once a statement, each user once; all for TRUNCATE');
SELECT is((SELECT by::text FROM infra.heard GROUP BY 1), 'mt_admin', 'always as its owner');

-- It can put off nothing to a time when the caller's rights are back, nor keep them.
CREATE FUNCTION infra.sprung() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO infra.heard VALUES (NULL, current_user, 'sprung'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER sprung AFTER INSERT ON infra.heard DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.path <> 'sprung') EXECUTE FUNCTION infra.sprung();
SELECT throws_ok($$SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000001')$$, '42501', 'cannot fire deferred trigger within security-restricted operation', 'a deferred trigger is refused');
DROP TRIGGER sprung ON infra.heard;
CREATE OR REPLACE FUNCTION infra.members_changed(user_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE NONE'; END $$;
SELECT throws_ok($$SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000001')$$, '42501', NULL, 'nor does it become the caller');
CREATE OR REPLACE FUNCTION infra.members_changed(user_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('kessel.tenant', 'mt-1', false), set_config('search_path', 'x', false); END $$;
SELECT lives_ok($$SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000001')$$, 'it sets something');
SELECT is(current_setting('kessel.tenant', true) || current_setting('search_path'), '"$user", public', 'which ends with it');
CREATE OR REPLACE FUNCTION infra.members_changed(user_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'MT001'; END $$;
SELECT throws_ok($$SELECT kessel.add_member('mt-1', '00000000-0000-4000-9000-000000000004')$$, 'MT001', 'no', 'its error is the statement''s');
SELECT is(current_user::text, session_user::text, 'and the caller is who he was');
SELECT is_empty($$SELECT FROM app.user_tenants WHERE user_id = '00000000-0000-4000-9000-000000000004'$$, 'nothing is changed');

-- Whose function it is not.
SELECT is(has_function_privilege(r, 'kessel._tell_members(uuid[])', 'EXECUTE'), false, r || ' does not tell') FROM unnest(ARRAY['kessel_admin', 'kessel_service', 'kessel_user', 'mt_other']) r;

SELECT * FROM finish();
ROLLBACK;

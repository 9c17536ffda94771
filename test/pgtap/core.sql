-- The blueprint core: who may do what with which table and function, what stays
-- in step, bad input, plans, and the way back.
--
-- Every table that the blueprint makes and every one of the extension must have its
-- line in the matrix below, and every function its line in the list, or this file fails.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

\ir ../lib/infra.sql

CREATE TABLE ct.before AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT ct.check_ways('core');
SELECT cmp_ok((SELECT count(*)::integer FROM kessel.applied_migrations WHERE blueprint = 'core'), '>', 5, 'there are several migrations');
SELECT ct.populate() \g /dev/null
INSERT INTO auth.users (id, email) VALUES ('00000000-0000-4000-9000-0000000000ff', 'none@example.com');
DELETE FROM profiles WHERE email = 'none@example.com';

INSERT INTO roles (id, name, display_name) VALUES ('00000000-0000-4000-9000-000000000005', 'editor', 'Editor');
INSERT INTO themes (id, name) VALUES ('dark', 'Dark');
INSERT INTO role_permissions (module_id, module_name, user_access, nouser_access) VALUES ('crm', 'CRM', true, false), ('home', 'Home', true, true), ('users', 'Users', false, false);
INSERT INTO module_role_access (module_id, role_id, has_access) VALUES ('crm', '00000000-0000-4000-9000-000000000005', false);
INSERT INTO app_settings (key, value, is_public) VALUES ('title', '"CT"', true), ('limit', '5', false);
INSERT INTO ai_datasources (table_name, display_name, access_level) VALUES ('profiles', 'Profiles', 'read'), ('roles', 'Roles', 'none');
INSERT INTO ai_models (id, provider, display_name, is_enabled) VALUES ('m1', 'p', 'M1', true), ('m2', 'p', 'M2', false);
INSERT INTO ai_tool_calls (user_id, tool_name) SELECT id, 'tool' FROM ct.people WHERE who IN ('a', 'b', 'ex');

INSERT INTO ct.matrix VALUES
    ('profiles', '', $$(id) VALUES ('00000000-0000-4000-9000-0000000000ff')$$, 'display_name = ''x''', 'true',
        '- - - -', '1 ! 1 -', '1 ! 1 -', '1 ! 1 -', '4 ! 4 -', '4 1 4 4'),
    ('roles', '', $$(name, display_name) VALUES ('n', 'N')$$, 'description = ''x''', 'NOT is_system',
        '- - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '1 1 1 1', '1 1 1 1'),
    ('themes', '', $$(id, name) VALUES ('n', 'N')$$, 'name = ''x''', 'NOT is_builtin',
        '1 - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '1 1 1 1', '1 1 1 1'),
    ('role_permissions', '', $$(module_id, module_name) VALUES ('n', 'N')$$, 'module_name = ''x''', 'true',
        '3 - - -', '3 ! 0 0', '3 ! 0 0', '3 ! 0 0', '3 1 3 3', '3 1 3 3'),
    ('module_role_access', '', $$(module_id, role_id) VALUES ('home', '00000000-0000-4000-9000-000000000005')$$, 'has_access = true', 'true',
        '- - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '1 1 1 1', '1 1 1 1'),
    ('app_settings', '', $$(key) VALUES ('n')$$, 'value = ''1''', 'true',
        '1 - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '2 1 2 2', '2 1 2 2'),
    ('db_registry', '', $$(id, name) VALUES ('n', 'N')$$, 'name = ''x''', 'true',
        '- - - -', '0 ! 0 0', '0 ! 0 0', '0 ! 0 0', '1 1 1 1', '1 1 1 1'),
    ('ai_datasources', '', $$(table_name, display_name) VALUES ('n', 'N')$$, 'display_name = ''x''', 'true',
        '- - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '2 1 2 2', '2 1 2 2'),
    ('ai_models', '', $$(id, provider, display_name) VALUES ('n', 'p', 'N')$$, 'display_name = ''x''', 'true',
        '- - - -', '1 ! 0 0', '1 ! 0 0', '1 ! 0 0', '2 1 2 2', '2 1 2 2'),
    -- One inserts for oneself: here for b.
    ('ai_tool_calls', '', $$(user_id, tool_name) VALUES ('00000000-0000-4000-9000-00000000000b', 't')$$, 'success = true', 'true',
        '- - - -', '1 ! - -', '1 1 - -', '1 ! - -', '3 ! - -', '3 1 3 3'),
    ('tenants', 'name', $$(name, subdomain, data_source_url) VALUES ('N', 'n', 'https://n.supabase.co')$$, 'name = ''x''', 'true',
        '- - - -', '1 - - -', '1 - - -', '0 - - -', '2 - - -', '2 1 2 2'),
    -- The extension's tables, beside them.
    ('app.tenants', 'name', $$(slug, name) VALUES ('n', 'N')$$, 'name = ''x''', 'true',
        '- - - -', '1 - - -', '1 - - -', '0 - - -', '0 - - -', '2 - - -'),
    ('app.user_tenants', '', $$(user_id, tenant_id) VALUES ('00000000-0000-4000-9000-00000000000b', '00000000-0000-4000-8000-00000000000a')$$, 'role = ''owner''', 'true',
        '- - - -', '1 - - -', '1 - - -', '1 - - -', '0 - - -', '3 - - -'),
    ('app.data_sources', '', $$(name, isolation, conninfo) VALUES ('n', 'row', '{}')$$, 'name = ''x''', 'true',
        '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -'),
    ('app.data_source_credentials', '', $$(data_source_id, purpose) VALUES ('00000000-0000-4000-8000-0000000000d5', 'owner')$$, 'username = ''x''', 'true',
        '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -'),
    ('app.audit_log', '', $$(occurred_at, action, ok, count, pid) VALUES (now(), 'open', true, 1, 1)$$, 'action = ''x''', 'true',
        '- - - -', '- - - -', '- - - -', '- - - -', '- - - -', '- - - -'),
    ('vault.decrypted_secrets', '', '(id) VALUES (gen_random_uuid())', 'name = ''x''', 'true',
        '- - - -', '0 V V V', '0 V V V', '0 V V V', '0 V V V', '0 V V V'),
    ('kessel.connections', '', '(data_source) VALUES (''x'')', 'data_source = ''x''', 'true',
        '- - - -', '- V V V', '- V V V', '- V V V', '- V V V', '0 V V V');
-- Nobody's.
INSERT INTO ct.matrix SELECT n, '', 'DEFAULT VALUES', format('%1$I = %1$I', (SELECT attname FROM pg_attribute WHERE attrelid = n::regclass AND attnum = 1)), 'true', '- - - -', l, l, l, l, l
FROM (SELECT unnest('{auth.users,kessel.applied_migrations,kessel.blueprints,kessel.exposed,kessel.migrations,kessel.migration_run_targets,kessel.migration_runs,kessel.migration_targets,kessel.schema_checks,
                      kessel.schema_references,kessel.setup_objects,vault.key_usage,vault.former_versions,vault.keys,vault.secret_grants,vault.secrets,vault.shred_proofs}'::text[]), '- - - -'
      UNION ALL SELECT unnest('{kessel.migration_progress,kessel.routes,vault.secret_versions}'::text[]), '- V V V') v(n, l);

INSERT INTO ct.functions SELECT unnest('{auth.email(),auth.jwt(),auth.role(),auth.uid()}'::regprocedure[]), 'anon authenticated public service_role';
INSERT INTO ct.functions VALUES ('assign_user_to_tenant(uuid,uuid,text)', 'service_role'),
    ('create_tenant(text,text)', 'service_role'),
    ('delete_secret(text)', 'service_role'),
    ('discover_tables(text,text)', 'authenticated service_role'),
    ('get_all_secrets_for_env()', 'service_role'),
    ('get_schema_relationships()', 'authenticated service_role'),
    ('get_table_columns(text,text)', 'authenticated service_role'),
    ('get_tenant_by_slug(text)', 'authenticated service_role'),
    ('infra.all_tenants()', 'authenticated'),
    ('infra.assign_user_to_tenant(uuid,uuid,text)', 'service_role'),
    ('infra.create_tenant(text,text)', 'service_role'),
    ('infra.delete_secret(text)', 'service_role'),
    ('infra.insert_secret(text,text)', 'service_role'),
    ('infra.update_secret(text,text)', 'service_role'),
    ('infra.api_key(uuid,text)', 'authenticated service_role'),
    ('infra.database_url(text)', ''),
    ('infra.has_permission(text)', 'anon authenticated service_role'),
    ('infra.has_table_permission(text,text)', ''),
    ('infra.is_admin()', 'authenticated service_role'),
    ('infra.kind_of(text)', ''),
    ('infra.members_changed(uuid[])', ''),
    ('infra.shown_url(text,jsonb)', 'authenticated service_role'),
    ('infra.visible_tenants()', 'authenticated service_role'),
    ('infra.visible_users()', 'authenticated'),
    ('insert_secret(text,text)', 'service_role'),
    ('read_secret(text)', 'service_role'),
    ('update_secret(text,text)', 'service_role');
SELECT ct.check_matrix('{app,kessel,vault}');
SELECT ok(EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = m.tab), m.tab || ' has policies') FROM ct.matrix m WHERE m.tab::text <> 'tenants' AND m.tab::text !~ '^(auth|kessel|vault)\.' ORDER BY 1;

-- Whose row it is.
SELECT is(ct.ask('a', 'SELECT string_agg(email, '','') FROM profiles'), 'a@example.com', 'one reads one''s own profile');
SELECT is(ct.ask('b', 'SELECT string_agg(user_id::text, '','') FROM ai_tool_calls'), '00000000-0000-4000-9000-00000000000b', 'and calls');
SELECT is(ct.try('a', 'UPDATE profiles SET display_name = ''x'' WHERE email = ''b@example.com'''), '0', 'and changes nobody else''s');
SELECT is(ct.ask('a', 'SELECT string_agg(data_source_id::text, '','') FROM app.tenants'), '42501', 'tenants have columns that are not for users');
SELECT is(ct.ask('a', 'SELECT string_agg(name, '','') FROM app.tenants'), 'A', 'a user sees his or her tenants');
SELECT is(ct.ask('ex', 'SELECT string_agg(name, '','') FROM app.tenants'), NULL, 'an ex-member none');

-- A claim is not a privilege; a claim without a user sees nothing.
INSERT INTO ct.people VALUES ('nobody', 'authenticated', NULL), ('unknown', 'authenticated', '00000000-0000-4000-9000-000000000bad');
SELECT is(ct.try(who, 'SELECT FROM profiles') || ct.try(who, 'SELECT FROM ai_tool_calls') || ct.try(who, 'SELECT FROM app_settings'), '001', who || ' sees what is public')
FROM ct.people WHERE who IN ('nobody', 'unknown');
SELECT is(ct.try('nobody', 'INSERT INTO ai_tool_calls (tool_name) VALUES (''t'')'), '!', 'a call is somebody''s');
SELECT is(ct.try('a', 'INSERT INTO ai_tool_calls (tool_name) VALUES (''t'')'), '1', 'by default one''s own');

--
-- Users cannot give themselves rights
--
SELECT is(ct.try('a', format('UPDATE profiles SET %s', s)), '-', 'not by ' || s)
FROM unnest(ARRAY['role = ''admin''', 'role_id = ''00000000-0000-4000-8000-000000000002''', 'can_select_theme = false', 'email = ''b@example.com''',
                  'tenant_id = ''00000000-0000-4000-8000-00000000000b''', 'created_at = now()']) s;
SELECT is(ct.try('a', 'INSERT INTO roles (name, display_name, is_admin) VALUES (''mine'', ''M'', true)'), '!', 'nor by a role');
SELECT is(ct.try('a', 'UPDATE roles SET is_admin = true'), '0', 'nor by their own');
SELECT is((SELECT role || display_name FROM profiles WHERE email = 'a@example.com'), 'userSome One', 'what a new user says gives a name and no rights');
SELECT is(ct.try('admin', 'UPDATE profiles SET role = ''admin'' WHERE email = ''a@example.com'''), '1', 'an administrator makes another one');
SELECT is(ct.try('service', 'UPDATE profiles SET role = ''admin'' WHERE email = ''a@example.com'''), '1', 'the service too');
SELECT is(ct.try(w, 'UPDATE profiles SET tenant_id = NULL'), '-', w || ' does not write tenant_id') FROM unnest(ARRAY['admin', 'service']) w;
SELECT is(ct.try('admin', s), '23001', 'not even an administrator: ' || s)
FROM unnest(ARRAY['DELETE FROM roles', 'UPDATE roles SET name = ''x'' WHERE name = ''user''', 'UPDATE roles SET is_admin = true WHERE name = ''user''',
                  'DELETE FROM themes', 'UPDATE themes SET name = ''x''']) s;
SELECT is(ct.try('service', s), '23001', 'nor the service: ' || s) FROM unnest(ARRAY['DELETE FROM roles', 'UPDATE roles SET is_system = false', 'DELETE FROM themes', 'UPDATE themes SET is_builtin = false']) s;
SELECT is(ct.try('admin', s), '-', 'nor is by an administrator: ' || s)
FROM unnest(ARRAY['INSERT INTO roles (name, display_name, is_system) VALUES (''n'', ''N'', true)', 'INSERT INTO themes (id, name, is_builtin) VALUES (''n'', ''N'', true)']) s;
SELECT is(ct.try('a', 'UPDATE profiles SET selected_theme = ''dark'', color_scheme = ''dark'', avatar_url = NULL'), '1', 'a user chooses a theme');
UPDATE profiles SET can_select_theme = false WHERE email = 'a@example.com';
SELECT is(ct.try('a', 'UPDATE profiles SET selected_theme = ''dark'''), '-', 'but not where that is not for him or her');
SELECT is(ct.try('a', 'UPDATE profiles SET selected_theme = ''default'', display_name = ''y'''), '1', 'all else is');
SELECT is(ct.try('admin', 'UPDATE profiles SET selected_theme = ''dark'' WHERE email = ''a@example.com'''), '1', 'administrators do');
-- As apps write it: the key and the time are among what is set.
CREATE FUNCTION ct.upsert(of text, columns text, value text) RETURNS text LANGUAGE sql AS $$
    SELECT format('INSERT INTO profiles (id, updated_at, %s) VALUES (%L, ''-infinity'', %L) ON CONFLICT (id) DO UPDATE SET id = excluded.id, updated_at = excluded.updated_at, %1$s = excluded.%1$s RETURNING id', columns, ct.id(of), value) $$;
SELECT is(ct.try('a', ct.upsert('a', 'display_name', 'z')), '1', 'a user upserts his or her profile');
SELECT is(ct.try('service', ct.upsert('b', 'display_name', 'z')), '1', 'the service anybody''s');
SELECT is(ct.try('a', ct.upsert('b', 'display_name', 'z')), '!', 'a user nobody else''s');
SELECT is(ct.try('a', ct.upsert('a', c, 'admin')), '-', 'and by that no ' || c) FROM unnest(ARRAY['role', 'email', 'selected_theme']) c;
SELECT is(ct.try(w, 'UPDATE profiles SET id = gen_random_uuid() WHERE email = ''a@example.com'''), '55000', w || ' does not give a profile to another user') FROM unnest(ARRAY['a', 'admin', 'service']) w;
DELETE FROM profiles WHERE id = ct.id('a');
GRANT INSERT ON profiles TO authenticated;
SELECT is(ct.try('a', format('INSERT INTO profiles (id, %s) VALUES (auth.uid(), %L)', c, v)), '-', 'nor from the start, whatever is granted: ' || c)
FROM (VALUES ('role', 'admin'), ('role_id', '00000000-0000-4000-8000-000000000002'), ('can_select_theme', 'false')) x(c, v);
SELECT is(ct.try('service', format('INSERT INTO profiles (id, role) VALUES (%L, ''admin'')', ct.id('a'))), '1', 'the service gives a role from the start');
REVOKE INSERT ON profiles FROM authenticated;
GRANT INSERT (id, display_name, avatar_url, selected_theme, color_scheme, updated_at) ON profiles TO authenticated;
SELECT is(ct.try('a', ct.upsert('a', 'display_name', 'z'), true), '1', 'one whose profile is gone makes it anew');
SELECT is((SELECT role || email || tenant_id FROM profiles WHERE id = ct.id('a')), 'usera@example.com00000000-0000-4000-8000-00000000000a', 'with no rights, and what is known of him or her');
UPDATE profiles SET can_select_theme = true;

--
-- In step
--
SELECT results_eq('SELECT email, tenant_id::text FROM profiles ORDER BY 1', $$VALUES ('a@example.com', '00000000-0000-4000-8000-00000000000a'), ('admin@example.com', NULL), ('b@example.com', '00000000-0000-4000-8000-00000000000b'), ('ex@example.com', NULL)$$, 'tenant_id follows memberships');
CREATE FUNCTION ct.tenant(who text) RETURNS text LANGUAGE sql AS $$ SELECT t.slug FROM public.profiles p JOIN app.tenants t ON t.id = p.tenant_id WHERE p.email = who || '@example.com' $$;
SELECT kessel.add_member('ct-b', '00000000-0000-4000-9000-00000000000a') \g /dev/null
UPDATE app.user_tenants SET created_at = now() + interval '1 second' WHERE user_id = '00000000-0000-4000-9000-00000000000a' AND tenant_id = '00000000-0000-4000-8000-00000000000b';
SELECT is(ct.tenant('a'), 'ct-a', 'the first tenant stays');
SELECT kessel.deactivate_member('ct-a', '00000000-0000-4000-9000-00000000000a') \g /dev/null
SELECT is(ct.tenant('a'), 'ct-b', 'the next one follows');
SELECT kessel.activate_member('ct-a', '00000000-0000-4000-9000-00000000000a') \g /dev/null
SELECT is(ct.tenant('a'), 'ct-a', 'and the first again');
SELECT kessel.remove_member('ct-a', '00000000-0000-4000-9000-00000000000a') \g /dev/null
SELECT is(ct.tenant('a'), 'ct-b', 'removed');
SAVEPOINT s;
DELETE FROM app.tenants WHERE slug = 'ct-b';
SELECT is_empty('SELECT FROM profiles WHERE tenant_id IS NOT NULL', 'a tenant that is dropped is nobody''s');
ROLLBACK TO s;
TRUNCATE app.user_tenants;
SELECT is_empty('SELECT FROM profiles WHERE tenant_id IS NOT NULL', 'TRUNCATE of the memberships');
ROLLBACK TO s;
UPDATE app.user_tenants SET user_id = '00000000-0000-4000-9000-0000000000ad' WHERE user_id = '00000000-0000-4000-9000-00000000000a';
SELECT is(coalesce(ct.tenant('a'), '-') || coalesce(ct.tenant('admin'), '-'), '-ct-b', 'a membership that goes to another user');
ROLLBACK TO s;
INSERT INTO app.user_tenants (user_id, tenant_id) VALUES ('00000000-0000-4000-9000-00000000f001', '00000000-0000-4000-8000-00000000000b');
INSERT INTO auth.users (id, email) VALUES ('00000000-0000-4000-9000-00000000f001', 'late@example.com');
SELECT is(ct.tenant('late'), 'ct-b', 'a user who comes after the membership');
UPDATE auth.users SET email = 'new@example.com' WHERE email = 'late@example.com';
SELECT is(ct.tenant('new'), 'ct-b', 'email follows auth.users');
DELETE FROM auth.users WHERE email = 'new@example.com';
SELECT is_empty('SELECT FROM profiles WHERE email = ''new@example.com''', 'a profile goes with its user');
SELECT is_empty('SELECT FROM app.user_tenants WHERE user_id = ''00000000-0000-4000-9000-00000000f001''', 'and memberships with it');
INSERT INTO auth.users (id, email, raw_user_meta_data) SELECT gen_random_uuid(), 'odd' || n || '@example.com', m
FROM (VALUES (1, '[]'::jsonb), (2, '"x"'), (3, 'null'), (4, NULL), (5, '{"full_name": 5}'), (6, '{"display_name": {"a": 1}, "avatar_url": []}'),
             (7, jsonb_build_object('name', repeat('x', 100000), 'avatar_url', repeat('y', 100000)))) v(n, m);
SELECT is((SELECT count(*) FROM profiles WHERE email LIKE 'odd%'), 7::bigint, 'nothing that a new user says keeps the profile from being made');
SELECT is((SELECT length(display_name) || coalesce(avatar_url, ' none') FROM profiles WHERE email = 'odd7@example.com'), '200 none', 'what is too long is cut or left out');
DELETE FROM auth.users WHERE email LIKE 'odd%';

UPDATE profiles SET role_id = '00000000-0000-4000-9000-000000000005' WHERE email = 'b@example.com';
SELECT is((SELECT role FROM profiles WHERE email = 'b@example.com'), 'editor', 'role follows role_id');
UPDATE profiles SET role = 'superuser' WHERE email = 'b@example.com';
SELECT is((SELECT role_id FROM profiles WHERE email = 'b@example.com'), '00000000-0000-4000-8000-000000000003', 'role_id follows role');
UPDATE profiles SET role = 'editor' WHERE email = 'b@example.com';
UPDATE roles SET name = 'author' WHERE name = 'editor';
SELECT is((SELECT role FROM profiles WHERE email = 'b@example.com'), 'author', 'and the role''s name');
SELECT is(ct.ask('admin', 'WITH d AS (DELETE FROM roles WHERE name = ''author'' RETURNING name) SELECT name FROM d'), 'author', 'an administrator deletes a role');
DELETE FROM roles WHERE name = 'author';
SELECT is((SELECT role || role_id FROM profiles WHERE email = 'b@example.com'), 'user00000000-0000-4000-8000-000000000001', 'its users fall back to user');
INSERT INTO roles (id, name, display_name) VALUES ('00000000-0000-4000-9000-000000000005', 'editor', 'Editor');
UPDATE profiles SET selected_theme = 'dark' WHERE email = 'b@example.com';
DELETE FROM themes WHERE id = 'dark';
SELECT is((SELECT selected_theme FROM profiles WHERE email = 'b@example.com'), 'default', 'a theme''s users fall back to default');
UPDATE profiles SET display_name = 'z' WHERE email = 'b@example.com';
SELECT ok((SELECT updated_at > created_at FROM profiles WHERE email = 'b@example.com'), 'updated_at is kept');

--
-- Permissions
--
INSERT INTO module_role_access (module_id, role_id, has_access) VALUES ('crm', '00000000-0000-4000-9000-000000000005', false), ('users', '00000000-0000-4000-9000-000000000005', true);
UPDATE profiles SET role = 'editor' WHERE email = 'b@example.com';
UPDATE profiles SET role = 'superuser' WHERE email = 'ex@example.com';
UPDATE role_permissions SET admin_access = false WHERE module_id = 'home';
CREATE FUNCTION ct.modules(who text) RETURNS text LANGUAGE sql AS $$ SELECT ct.ask(who, 'SELECT string_agg(module_id, '' '' ORDER BY module_id) FROM role_permissions WHERE kessel.has_permission(module_id)') $$;
SELECT is(ct.modules(who), may, who || ' may use') FROM (VALUES ('a', 'crm home'), ('b', 'home users'), ('admin', 'crm users'), ('ex', 'crm home users'), ('nobody', 'home'), ('unknown', 'home'), ('service', 'home')) v(who, may);
SELECT is(ct.ask('ex', 'SELECT kessel.has_permission(NULL)') || ct.ask('ex', 'SELECT kessel.has_permission(''none'')') || ct.ask('ex', 'SELECT kessel.has_permission(repeat(''x'', 1000000))'), 'falsefalsefalse', 'a module that is not there is for nobody');
SELECT is(ct.try('a', 'SELECT kessel.has_permission(''crm'') FROM set_config(''request.jwt.claims'', ''{"sub": "x"}'', true)'), '22P02', 'a user who is no uuid');
UPDATE profiles SET role = 'user' WHERE email IN ('b@example.com', 'ex@example.com');

--
-- Secrets
--
SELECT is(ct.ask('service', $$SELECT read_secret('ct-env') FROM insert_secret('ct-env', 'v1')$$), 'v1', 'a secret is stored and read');
SELECT vault.create_secret('not-for-apps', 'ct-other') \g /dev/null
SELECT is(ct.ask('service', $$SELECT count(*) || coalesce(read_secret('ct-other'), ' none') || coalesce(delete_secret('ct-other')::text, '-') FROM get_all_secrets_for_env()$$), '0 nonefalse', 'others'' secrets are neither read nor deleted');
SELECT is(ct.ask('service', $$SELECT string_agg(e.name || e.secret, ',') FROM insert_secret('ct-2', '2') b, insert_secret('ct-1', '1') a, LATERAL (SELECT * FROM get_all_secrets_for_env() WHERE a <> b) e$$), 'ct-11,ct-22', 'all of the environment');
SELECT is(ct.ask('service', $$SELECT delete_secret(n)::text || delete_secret(n)::text FROM (SELECT 'ct-3' AS n FROM insert_secret('ct-3', 'x') OFFSET 0) s$$), 'truefalse', 'deleted once');
SELECT is(ct.ask('service', $$SELECT u::text || read_secret(n) FROM (SELECT n, update_secret(n, 'z') AS u FROM (SELECT 'ct-3' AS n FROM insert_secret('ct-3', 'x') OFFSET 0) i OFFSET 0) s$$), 'z', 'another value');
SELECT is((SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'ct-other'), 'not-for-apps', 'which stays');
SELECT is(ct.try('service', statement), state, statement) FROM (VALUES
    ($$SELECT update_secret('ct-other', NULL)$$, '22004'), ($$SELECT update_secret('ct-other', 'x')$$, 'P0002'), ($$SELECT update_secret('ct-none', 'x')$$, 'P0002'), ($$SELECT update_secret(NULL, 'x')$$, 'P0002'), 
    ($$SELECT insert_secret(NULL, 'x')$$, '22023'), ($$SELECT insert_secret('', 'x')$$, '22023'), ($$SELECT insert_secret(repeat('x', 201), 'x')$$, '22023'),
    ($$SELECT insert_secret('x', NULL)$$, '22004'), ($$SELECT insert_secret('ct-other', 'x')$$, '23505'), ($$SELECT insert_secret('x', repeat('x', 1048577))$$, '54000'),
    ($$SELECT insert_secret('''; DROP TABLE profiles; --', 'x')$$, '1'), ($$SELECT insert_secret(1, 2)$$, '42883'),
    ($$SELECT read_secret(NULL)$$, '1'), ($$SELECT read_secret('''; DROP TABLE profiles; --')$$, '1'), ($$SELECT delete_secret(NULL)$$, '1'),
    ($$SELECT create_tenant(NULL, NULL)$$, '22023'), ($$SELECT create_tenant('Bad Slug', 'x')$$, '22023'), ($$SELECT create_tenant('x''; DROP TABLE profiles; --', 'x')$$, '22023'),
    ($$SELECT create_tenant(repeat('x', 64), 'x')$$, '22023'), ($$SELECT create_tenant('ct-x', repeat('x', 201))$$, '22001'), ($$SELECT create_tenant('ct-x', 'x')$$, 'KR007'),
    ($$SELECT create_tenant('00000000-0000-4000-8000-00000000000a', 'x')$$, '22023'),
    ($$SELECT * FROM get_tenant_by_slug(NULL)$$, '0'), ($$SELECT * FROM get_tenant_by_slug('ct-a')$$, '1'), ($$SELECT * FROM get_tenant_by_slug(''' OR true --')$$, '0'),
    ($$SELECT assign_user_to_tenant(NULL, '00000000-0000-4000-8000-00000000000a', 'member')$$, '22004'), ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-00000000000a', NULL, 'member')$$, '22004'),
    ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000a', NULL)$$, '22023'),
    ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000a', 'king')$$, '22023'),
    ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-0000000000cc', 'member')$$, 'KR002'),
    ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-0000000000cc', '00000000-0000-4000-8000-00000000000a', 'member')$$, '23503'),
    ($$SELECT assign_user_to_tenant('x', 'y', 'member')$$, '22P02'), ($$SELECT assign_user_to_tenant('00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000a')$$, '1'),
    ($$SELECT * FROM get_table_columns(NULL, NULL)$$, '0'), ($$SELECT * FROM get_table_columns('public', 'profiles''; DROP TABLE profiles; --')$$, '0'), ($$SELECT * FROM get_table_columns('public', 'profiles')$$, '12'),
    ($$SELECT * FROM get_table_columns('vault', 'keys')$$, '0'), ($$SELECT * FROM get_table_columns(repeat('x', 100000), 'x')$$, '0'),
    ($$SELECT * FROM discover_tables(NULL)$$, 'KR007'), ($$SELECT * FROM discover_tables('none')$$, 'KR007'), ($$SELECT * FROM discover_tables(repeat('x', 100000))$$, 'KR007'),
    ($$SELECT * FROM discover_tables('kessel', '''; DROP TABLE profiles; --')$$, '0')) v(statement, state);
SELECT is(ct.ask('service', $$SELECT t.slug FROM (SELECT assign_user_to_tenant('00000000-0000-4000-9000-0000000000ad', '00000000-0000-4000-8000-00000000000a', 'admin') OFFSET 0) x, profiles p JOIN app.tenants t ON t.id = p.tenant_id WHERE p.email = 'admin@example.com'$$), NULL, 'one statement sees what was before it');
SELECT is(ct.try(who, statement), '-', format('not for %s: %s', who, statement)) FROM unnest(ARRAY['anon', 'a', 'ex', 'admin']) who,
    unnest(ARRAY['SELECT insert_secret(''x'', ''y'')', 'SELECT update_secret(''x'', ''y'')', 'SELECT read_secret(''x'')', 'SELECT delete_secret(''x'')', 'SELECT * FROM get_all_secrets_for_env()', 'SELECT create_tenant(''x'', ''y'')',
                 'SELECT assign_user_to_tenant(gen_random_uuid(), gen_random_uuid())', 'SELECT app.custom_access_token_hook(''{}'')', 'SELECT infra.members_changed(NULL)']) statement ORDER BY 1;

-- Tenants and catalogues show what one may see.
SELECT is(ct.ask('b', 'SELECT count(*) FROM get_tenant_by_slug(''ct-b'')') || ct.ask('b', 'SELECT count(*) FROM get_tenant_by_slug(''ct-a'')') || ct.ask('ex', 'SELECT count(*) FROM get_tenant_by_slug(''ct-a'')'), '100', 'tenants by slug: one''s own');
SELECT is(ct.ask('a', 'SELECT string_agg(column_name || '':'' || data_type || '':'' || is_nullable || '':'' || is_primary_key, '' '') FROM get_table_columns(''public'', ''module_role_access'') WHERE ordinal_position < 3'), 'id:uuid:false:true module_id:text:false:false', 'columns');
SELECT is(ct.ask('a', 'SELECT string_agg(column_name || '' '' || foreign_table_schema || ''.'' || foreign_table_name || ''.'' || foreign_column_name, '','' ORDER BY column_name) FROM get_schema_relationships() WHERE table_name = ''module_role_access'''), 'module_id public.role_permissions.module_id,role_id public.roles.id', 'relationships');
SELECT is(ct.ask('a', 'SELECT string_agg(table_schema || ''.'' || table_name, '' '') FROM discover_tables(''kessel'', ''app'')'), 'app.tenants app.user_tenants', 'tables');
SELECT is(ct.try('a', 'SELECT * FROM discover_tables(''kessel'', ''pg_catalog'')'), '0', 'no catalogs');
INSERT INTO db_registry (id, name, data_source_id) VALUES ('ct', 'CT', '00000000-0000-4000-8000-0000000000d5');
SELECT is(ct.try('a', 'SELECT * FROM discover_tables(''ct'')'), 'KR007', 'a user does not get to see other databases');
SELECT is(ct.try('admin', 'SELECT * FROM discover_tables(''ct'')'), '-', 'an administrator of the app is nobody to the router');

--
-- Tenants with their data sources
--
CREATE FUNCTION ct.tenant_row(columns text) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT ' || columns || ' FROM tenants WHERE subdomain = ''ct-new''' $$;
SET LOCAL ROLE service_role;
INSERT INTO tenants (id, name, subdomain, data_source_url, data_source_anon_key, data_source_service_key, data_source_region, connection_pool_config, data_source_notes)
VALUES ('00000000-0000-4000-8000-0000000000ee', 'New', 'ct-new', 'https://abcd.supabase.co', 'anon-key', 'service-key', 'eu', '{"max": 3}', 'note');
RESET ROLE;
SELECT is((SELECT s.kind || s.isolation || s.api_url || (s.conninfo ->> 'host') || s.region || s.notes FROM app.data_sources s WHERE name = 'ct-new'), 'supabasedatabasehttps://abcd.supabase.codb.abcd.supabase.coeunote', 'a tenant with a Supabase project is a data source of its own');
SELECT is_empty($$SELECT FROM app.data_sources s WHERE s::text ~ 'anon-key|service-key'$$, 'without the keys');
SELECT is(ct.ask('service', ct.tenant_row('data_source_anon_key || data_source_service_key || connection_pool_config || tenant_id_in_data_source || status')), 'anon-keyservice-key{"max": 3}00000000-0000-4000-8000-0000000000eeactive', 'the service reads them');
SELECT is(ct.ask('admin', ct.tenant_row('data_source_anon_key || data_source_service_key || data_source_notes')), '****************note', 'an administrator does not');
SELECT is(ct.ask('a', ct.tenant_row('name')), NULL, 'whoever is no member sees no row');
SELECT kessel.add_member('ct-new', '00000000-0000-4000-9000-00000000000a') \g /dev/null
SELECT is(ct.ask('a', ct.tenant_row('data_source_anon_key || data_source_service_key || coalesce(data_source_notes, '' none'')')), '**************** none', 'a member sees it, masked');
SELECT is(ct.ask('service', $$SELECT url || key || tenant_id FROM kessel.client_config('ct-new')$$), 'https://abcd.supabase.coanon-key00000000-0000-4000-8000-0000000000ee', 'what a client needs');
SELECT is(ct.ask('service', $$SELECT key FROM kessel.client_config('ct-new', true)$$), 'service-key', 'with the service''s key');
SELECT is(ct.ask('a', $$SELECT key FROM kessel.client_config('ct-new')$$), 'anon-key', 'a member gets the key of anon');
SELECT is(ct.ask(who, statement), state, who || ': ' || statement) FROM (VALUES
    ('a', $$SELECT key FROM kessel.client_config('ct-new', true)$$, '42501'), ('b', $$SELECT key FROM kessel.client_config('ct-new')$$, '42501'), ('anon', $$SELECT key FROM kessel.client_config('ct-new')$$, '42501'),
    ('service', $$SELECT key FROM kessel.client_config('ct-b')$$, 'KR005'), ('service', $$SELECT key FROM kessel.client_config('none', true)$$, 'KR002'), ('service', $$SELECT key FROM kessel.client_config(NULL)$$, '22004'),
    ('service', $$SELECT key FROM kessel.client_config('''; DROP TABLE profiles; --')$$, '22023'), ('a', $$SELECT kessel._api_key('00000000-0000-4000-8000-0000000000d5', 'runtime')$$, '42501'),
    ('service', $$SELECT kessel._api_key('00000000-0000-4000-8000-0000000000d5', 'runtime')$$, NULL), ('service', $$SELECT kessel.set_api('ct-new', 'https://x')$$, '42501')) v(who, statement, state);
SELECT is(ct.ask('a', $$SELECT key || coalesce(current_setting('kessel.tenant', true), '') FROM kessel.client_config('ct-new')$$), 'anon-key', 'the session''s tenant stays what it is');
SELECT is(ct.try('service', statement), state, statement) FROM (VALUES
    ($$UPDATE tenants SET name = 'X', subdomain = 'ct-newer', status = 'suspended' WHERE subdomain = 'ct-new'$$, '1'), ($$UPDATE tenants SET data_source_url = 'https://efgh.supabase.co' WHERE subdomain = 'ct-new'$$, '1'),
    ($$UPDATE tenants SET data_source_anon_key = 'new', connection_pool_config = '{}', data_source_region = 'us' WHERE subdomain = 'ct-new'$$, '1'),
    ($$UPDATE tenants SET data_source_url = 'https://efgh.supabase.co', data_source_anon_key = NULL WHERE subdomain = 'ct-new'$$, '-'),
    ($$UPDATE tenants SET status = 'gone' WHERE subdomain = 'ct-new'$$, '22023'), ($$UPDATE tenants SET id = gen_random_uuid()$$, '0A000'), ($$UPDATE tenants SET tenant_id_in_data_source = 'x'$$, '0A000'),
    ($$UPDATE tenants SET subdomain = 'ct-a' WHERE subdomain = 'ct-b'$$, '23505'), ($$UPDATE tenants SET data_source_notes = 'x' WHERE subdomain = 'ct-b'$$, '55000'), ($$UPDATE tenants SET data_source_url = 'https://u:p@x' WHERE subdomain = 'ct-new'$$, '22023'),
    ($$UPDATE tenants SET connection_pool_config = '[]' WHERE subdomain = 'ct-new'$$, '22023'), ($$UPDATE tenants SET data_source_url = 'javascript:alert(1)' WHERE subdomain = 'ct-new'$$, '22023'), ($$DELETE FROM tenants WHERE subdomain = 'ct-new'$$, '1'),
    ($$INSERT INTO tenants (name, subdomain) VALUES ('N', 'ct-none')$$, 'KR007'), ($$INSERT INTO tenants (name, subdomain, data_source_anon_key) VALUES ('N', 'ct-none', 'k')$$, '22023'),
    ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', NULL, 'https://x.y')$$, '22004'), ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-a', 'https://x.y')$$, '23505'),
    ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'x; DROP', 'https://x.y')$$, '22023'), ($$INSERT INTO tenants (name, subdomain, data_source_url, status) VALUES ('N', 'ct-none', 'https://x.y', 'odd')$$, '22023'),
    ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-none', 'postgresql://u:p@ep-cool.eu.neon.tech/db')$$, '1'), ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-none', 'https://' || repeat('x', 3000))$$, '22023')) v(statement, state);
SELECT is(infra.database_url(u), d, 'behind ' || u) FROM (VALUES ('https://ABcd.supabase.co/', 'postgresql://db.abcd.supabase.co:5432/postgres'), ('http://kong.local:8000/x', 'postgresql://kong.local:5432/postgres'), ('postgresql://u@h/d', 'postgresql://u@h/d')) v(u, d);
SELECT is(infra.kind_of(u), d, u) FROM (VALUES ('https://x.y', 'supabase'), ('postgres://u:p@ep.neon.tech:5432/x', 'neon'), ('postgres://u@h/ep.neon.tech', 'postgres'), ('host=h', 'postgres')) v(u, d);
SELECT ok(has_function_privilege('kessel_admin', 'kessel.set_api(text,text,text,text,text,jsonb)', 'EXECUTE') AND NOT has_function_privilege('kessel_admin', 'kessel._api_key(uuid,text)', 'EXECUTE'), 'kessel_admin stores keys and does not read them');
SELECT is(ct.ask('service', statement), result, statement) FROM (VALUES
    ($$UPDATE tenants SET data_source_url = 'postgresql://u:p@h:1/d' WHERE subdomain = 'ct-new' RETURNING data_source_url$$, 'postgresql://h:1/d'),
    ($$UPDATE tenants SET data_source_url = NULL, data_source_region = 'x' WHERE subdomain = 'ct-new' RETURNING data_source_url$$, 'https://abcd.supabase.co'),
    ($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-none', 'postgresql://u:p@h/d') RETURNING data_source_url$$, 'postgresql://h:5432/d')) v(statement, result);
UPDATE tenants SET data_source_url = NULL, data_source_region = 'x' WHERE subdomain = 'ct-new';
SELECT is((SELECT kind FROM app.data_sources WHERE name = 'ct-new'), 'supabase', 'without a url it stays what it is');
UPDATE tenants SET data_source_url = 'postgresql://u:p@h:1/d' WHERE subdomain = 'ct-new';
SELECT is(ct.ask('service', ct.tenant_row('data_source_url')), 'postgresql://h:1/d', 'a database takes the place of an API');
SELECT is(ct.ask('service', $$SELECT key FROM kessel.client_config('ct-new')$$), 'KR005', 'to which no app is led any more');
SELECT throws_ok($$INSERT INTO tenants (name) VALUES ('N')$$, '22004', 'subdomain is missing', 'a tenant without subdomain is told what is missing');
SELECT throws_ok($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-new', 'https://abcd.supabase.co')$$, '23505', 'tenant "ct-new" exists already', 'one that is there is called by its name, not by its data source''s');
SELECT kessel.drop_tenant('ct-new') \g /dev/null
SELECT throws_ok($$INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'ct-new', 'https://abcd.supabase.co')$$, '23505', 'data source "ct-new" exists already', 'a tenant that is deleted leaves its data source');
SELECT ok(kessel.create_tenant('ct-new', data_source => 'ct-new') IS NOT NULL, 'which can be given to a tenant again');
SELECT kessel.drop_tenant('ct-new') \g /dev/null

--
-- The hook, membership
--
SELECT is(app.custom_access_token_hook(jsonb_build_object('user_id', id, 'claims', '{"sub": "s", "x": [1]}'::jsonb, 'more', 1)) #>> '{claims,tenant_id}', tenant, 'the claims of ' || who || ' get the tenant')
FROM ct.people JOIN (VALUES ('b', '00000000-0000-4000-8000-00000000000b'), ('ex', NULL), ('admin', NULL)) v(name, tenant) ON name = who;
SELECT is(app.custom_access_token_hook('{"user_id": "00000000-0000-4000-9000-0000000000E0", "claims": {"tenant_id": "ct-a", "aud": "x"}, "z": null}'), '{"user_id": "00000000-0000-4000-9000-0000000000E0", "claims": {"aud": "x"}, "z": null}', 'none is left where there is none; all else stays');
SELECT kessel.add_member('ct-a', '00000000-0000-4000-9000-00000000000b') \g /dev/null
UPDATE app.user_tenants SET created_at = now() + interval '1 second' WHERE user_id = '00000000-0000-4000-9000-00000000000b' AND tenant_id = '00000000-0000-4000-8000-00000000000a';
SELECT is(app.custom_access_token_hook(jsonb_build_object('user_id', '00000000-0000-4000-9000-00000000000b', 'claims', jsonb_build_object('app_metadata', jsonb_build_object('tenant_id', wanted)))) #>> '{claims,tenant_id}', tenant, 'the one that app_metadata names: ' || coalesce(wanted, 'NULL'))
FROM (VALUES ('ct-a', '00000000-0000-4000-8000-00000000000a'), ('00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000a'), ('none', '00000000-0000-4000-8000-00000000000b'), (NULL, '00000000-0000-4000-8000-00000000000b')) v(wanted, tenant);
UPDATE app.tenants SET status = 'suspended' WHERE slug = 'ct-b';
SELECT is(app.custom_access_token_hook('{"user_id": "00000000-0000-4000-9000-00000000000b", "claims": {}}') #>> '{claims,tenant_id}', '00000000-0000-4000-8000-00000000000a', 'not a suspended one');
SELECT is(ct.ask('b', $$SELECT app.is_user_active_in_tenant(auth.uid(), '00000000-0000-4000-8000-00000000000b')$$), 'false', 'nobody is active in a suspended tenant');
UPDATE app.tenants SET status = 'active' WHERE slug = 'ct-b';
SELECT throws_ok(format('SELECT app.custom_access_token_hook(%L)', event), '22023', NULL, 'no event: ' || coalesce(left(event, 40), 'NULL'))
FROM unnest(ARRAY[NULL, '{}', '[]', '"x"', 'null', '{"user_id": 5, "claims": {}}', '{"user_id": "x", "claims": {}}', '{"user_id": "00000000-0000-4000-9000-00000000000b"}', '{"user_id": "00000000-0000-4000-9000-00000000000b", "claims": []}', '{"claims": {}}']) event;
SELECT is(ct.ask(who, format('SELECT app.is_user_active_in_tenant(%L, %L)', usr, tenant)), active, format('%s asks about %s in %s', who, usr, tenant)) FROM (VALUES
    ('b', '00000000-0000-4000-9000-00000000000b', '00000000-0000-4000-8000-00000000000b', 'true'), ('b', '00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000b', 'false'),
    ('ex', '00000000-0000-4000-9000-0000000000e0', '00000000-0000-4000-8000-00000000000a', 'false'), ('service', '00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000b', 'true'),
    ('service', '00000000-0000-4000-9000-00000000000a', NULL, 'false'), ('service', NULL, '00000000-0000-4000-8000-00000000000b', 'false'), ('service', '00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-0000000000cc', 'false'),
    ('anon', '00000000-0000-4000-9000-00000000000a', '00000000-0000-4000-8000-00000000000b', '42501')) v(who, usr, tenant, active);
SELECT is(ct.ask('a', 'SELECT app.current_tenant_id()'), NULL, 'no tenant is named');
SELECT is(ct.ask('a', 'SELECT app.current_tenant_id() FROM (SELECT set_config(''kessel.tenant'', ''ct-b'', true) OFFSET 0) s'), '00000000-0000-4000-8000-00000000000b', 'the session''s tenant');
SELECT is(ct.ask('ex', 'SELECT app.current_tenant_id() FROM (SELECT set_config(''kessel.tenant'', ''ct-a'', true) OFFSET 0) s'), '42501', 'not of an ex-member');

--
-- Bad values
--
SELECT is(ct.try('service', statement), state, left(statement, 80)) FROM (VALUES
    ($$UPDATE profiles SET display_name = repeat('x', 201)$$, '23514'), ($$UPDATE profiles SET avatar_url = repeat('x', 2049)$$, '23514'), ($$UPDATE profiles SET color_scheme = 'pink'$$, '23514'),
    ($$UPDATE profiles SET role = 'none'$$, '23503'), ($$UPDATE profiles SET role = NULL$$, '23503'), ($$UPDATE profiles SET role_id = gen_random_uuid()$$, '23503'), ($$UPDATE profiles SET role_id = NULL$$, '23502'),
    ($$UPDATE profiles SET selected_theme = 'none'$$, '23503'), ($$INSERT INTO profiles (id) VALUES (gen_random_uuid())$$, '23503'),
    ($$INSERT INTO roles (name, display_name) VALUES ('Bad', 'x')$$, '23514'), ($$INSERT INTO roles (name, display_name) VALUES ('admin', 'x')$$, '23505'), ($$INSERT INTO roles (name, display_name) VALUES ('x', '')$$, '23514'),
    ($$INSERT INTO themes (id, name) VALUES ('../x', 'x')$$, '23514'), ($$INSERT INTO themes (id, name, dynamic_fonts) VALUES ('x', 'x', array_fill('f'::text, ARRAY[51]))$$, '23514'),
    ($$INSERT INTO role_permissions (module_id, module_name, parent_id) VALUES ('x', 'x', 'none')$$, '23503'), ($$INSERT INTO role_permissions (module_id, module_name, parent_id) VALUES ('x', 'x', 'x')$$, '23514'),
    ($$INSERT INTO role_permissions (module_id, module_name) VALUES ('crm', 'x')$$, '23505'), ($$INSERT INTO module_role_access (module_id, role_id) VALUES ('none', '00000000-0000-4000-8000-000000000001')$$, '23503'),
    ($$INSERT INTO module_role_access (module_id, role_id) VALUES ('crm', gen_random_uuid())$$, '23503'), ($$INSERT INTO module_role_access (module_id, role_id) VALUES ('crm', '00000000-0000-4000-9000-000000000005')$$, '23505'),
    ($$INSERT INTO app_settings (key, value) VALUES ('x', to_jsonb(repeat('x', 1048577)))$$, '23514'), ($$INSERT INTO app_settings (key) VALUES (repeat('x', 201))$$, '23514'),
    ($$INSERT INTO db_registry (id, name, env_url_key) VALUES ('x', 'x', 'postgres://secret@host/db')$$, '23514'), ($$INSERT INTO db_registry (id, name, is_default) VALUES ('x', 'x', true)$$, '23505'),
    ($$INSERT INTO db_registry (id, name, data_source_id) VALUES ('x', 'x', gen_random_uuid())$$, '23503'),
    ($$INSERT INTO ai_datasources (table_name, display_name) VALUES ('profiles', 'x')$$, '23505'), ($$INSERT INTO ai_datasources (database_id, table_name, display_name) VALUES ('none', 'x', 'x')$$, '23503'),
    ($$INSERT INTO ai_datasources (table_name, display_name, access_level) VALUES ('x', 'x', 'all')$$, '22P02'), ($$INSERT INTO ai_datasources (table_name, display_name, max_rows_per_query) VALUES ('x', 'x', 0)$$, '23514'),
    ($$INSERT INTO ai_tool_calls (user_id, tool_name) VALUES (gen_random_uuid(), 'x')$$, '23503'), ($$INSERT INTO ai_tool_calls (user_id, tool_name, duration_ms) VALUES ('00000000-0000-4000-9000-00000000000a', 'x', -1)$$, '23514'),
    ($$INSERT INTO ai_models (id, provider, display_name, cost_per_1k_input) VALUES ('x', 'x', 'x', -1)$$, '23514'), ($$INSERT INTO ai_models (id, provider, display_name) VALUES (repeat('x', 201), 'x', 'x')$$, '23514')) v(statement, state);

--
-- Plans: 100,000 users, of whom one reads the own rows
--
ALTER TABLE auth.users DISABLE TRIGGER kessel_new_user;
INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), 'user' || i || '@example.com' FROM generate_series(1, 100000) i;
ALTER TABLE auth.users ENABLE TRIGGER kessel_new_user;
INSERT INTO profiles (id, email) SELECT id, email FROM auth.users WHERE email ~ '^user';
INSERT INTO app.user_tenants (user_id, tenant_id) SELECT id, '00000000-0000-4000-8000-00000000000a' FROM auth.users WHERE email ~ '^user.*0@';
INSERT INTO ai_tool_calls (user_id, tool_name) SELECT id, 'tool' FROM auth.users WHERE email ~ '^user.*0@';
ANALYZE profiles, app.user_tenants, app.tenants, ai_tool_calls;
SELECT is((SELECT count(*) FROM profiles WHERE tenant_id = '00000000-0000-4000-8000-00000000000a'), 10000::bigint, 'ten thousand users join at once');
CREATE FUNCTION ct.plan(somebody text, query text) RETURNS jsonb LANGUAGE sql AS $$ SELECT ct.ask(somebody, 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || query)::jsonb -> 0 $$;
CREATE TABLE ct.plans AS SELECT query, index, ct.plan('a', query) AS p
FROM (VALUES ('SELECT * FROM profiles', 'profiles_pkey'), ('SELECT * FROM ai_tool_calls', 'ai_tool_calls_user_id'), ('SELECT * FROM app.user_tenants', 'user_tenants_pkey')) v(query, index);
SELECT ok(p ->> 'Plan' NOT LIKE '%Seq Scan%' AND p ->> 'Plan' LIKE '%"Index Name": "' || index || '"%', query || ' uses its index') FROM ct.plans;
SELECT cmp_ok((p #>> '{Plan,Shared Hit Blocks}')::integer + (p #>> '{Plan,Shared Read Blocks}')::integer, '<', 60, query || ' reads few blocks') FROM ct.plans;
SELECT is((p #>> '{Plan,Actual Rows}')::numeric, 1::numeric, query || ' finds one row') FROM ct.plans;
SELECT is(ct.try('admin', 'SELECT FROM profiles'), '100004', 'an administrator sees all');
SELECT ok(ct.plan('admin', 'SELECT * FROM profiles WHERE email = ''user77@example.com''') ->> 'Plan' LIKE '%profiles_email%', 'and finds one by an index');
SELECT ok(ct.plan('a', 'SELECT * FROM ' || t) ->> 'Plan' !~ 'Filter|InitPlan', t || ' is read without any condition') FROM unnest(ARRAY['themes', 'roles', 'role_permissions', 'module_role_access']) t;
-- Once a query, not once a row.
SELECT is(ct.ask('admin', 'EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM ai_models')::jsonb #>> '{0,Plan,Plans,0,Parent Relationship}', 'InitPlan', 'what is asked once');

-- The way back with all these rows.
SELECT ct.check_gone('core', (SELECT b.all FROM ct.before b));
SELECT is((SELECT count(*) FROM app.user_tenants), 10004::bigint, 'memberships stay');
SELECT lives_ok($$SELECT kessel.add_member('ct-b', gen_random_uuid())$$, 'and are written as before');
SELECT throws_ok('SELECT kessel.has_permission(''crm'')', '55000', NULL, 'there are no permissions then');

SELECT * FROM finish();
ROLLBACK;

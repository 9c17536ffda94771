-- The blueprint enterprise: who may do what with which table and function, always
-- an owner, limits of usage, subscriptions, bad input, plans, and the way back.
--
-- Every table that the blueprint makes must have its line in the matrix below, and
-- every function its line in the list, or this file fails.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;

\ir ../lib/infra.sql

SELECT throws_ok('SELECT kessel.consume(gen_random_uuid())', '55000', NULL, 'without the blueprint there are no agents');
SELECT * FROM kessel.setup('{core}') \g /dev/null
CREATE TABLE ct.before AS SELECT array(SELECT ct.snapshot()) AS all;
SELECT ct.check_ways('enterprise');
SELECT throws_ok('SELECT kessel.teardown(''core'')', '55000', NULL, 'core is needed');

--
-- People of organization A: a, its owner; deputy, its admin; member, viewer; and ex, who was one. b owns B; admin is
-- an administrator of the app; free has none, and nobody is no user.
--
SELECT ct.populate() \g /dev/null
INSERT INTO ct.people SELECT w, 'authenticated', ('00000000-0000-4000-9000-0000000000' || n)::uuid
FROM (VALUES ('deputy', 'a1'), ('member', 'a2'), ('viewer', 'a3'), ('free', 'f0')) v(w, n)
UNION ALL VALUES ('nobody', 'authenticated', NULL::uuid);
INSERT INTO auth.users (id, email) SELECT id, who || '@example.com' FROM ct.people WHERE who IN ('deputy', 'member', 'viewer', 'free');

CREATE TABLE ct.organizations (name text, id uuid);
GRANT SELECT ON ct.organizations TO PUBLIC;
INSERT INTO ct.organizations VALUES ('A', ct.ask('a', 'SELECT create_organization(''A'', ''a'')', true)::uuid), ('B', ct.ask('b', 'SELECT create_organization(name => ''B'')', true)::uuid);
SELECT results_eq('SELECT o.name, o.slug, m.user_id, m.role FROM organizations o JOIN organization_members m ON m.organization_id = o.id ORDER BY 1',
    $$VALUES ('A', 'a', ct.id('a'), 'owner'), ('B', NULL, ct.id('b'), 'owner')$$, 'who makes an organization owns it');
SELECT is(ct.ask('a', format('INSERT INTO organization_members (organization_id, user_id, role) SELECT o.id, v.u, v.r FROM ct.organizations o, (VALUES (%L::uuid, ''admin''), (%L, ''member''), (%L, ''viewer''), (%L, ''member'')) v(u, r) WHERE o.name = ''A'' RETURNING role',
    ct.id('deputy'), ct.id('member'), ct.id('viewer'), ct.id('ex')), true), 'admin', 'who adds members');
SELECT is(ct.ask('deputy', format('DELETE FROM organization_members WHERE user_id = %L RETURNING role', ct.id('ex')), true), 'member', 'an admin removes one');
INSERT INTO enterprise_agents (id, organization_id, name, usage_limit)
SELECT ('00000000-0000-4000-8000-00000000000' || lower(name))::uuid, id, 'Agent', 10 FROM ct.organizations;
INSERT INTO agent_usage SELECT id, 'month', date_trunc('month', now(), 'UTC') - interval '1 month', 3 FROM enterprise_agents;
INSERT INTO subscriptions (organization_id, plan, amount) SELECT id, 'enterprise', 1000 FROM ct.organizations;
INSERT INTO subscriptions (user_id, plan) VALUES (ct.id('member'), 'basic');

INSERT INTO ct.matrix VALUES
    ('organizations', '', format('(name, created_by) VALUES (''n'', %L)', ct.id('free')), 'name = ''x''', 'true',
        '- - - -', '1 - 1 1', '1 - 1 1', '0 - 0 0', '0 - 0 0', '2 1 2 2',
        '{"nobody": "0 - 0 0", "deputy": "1 - 1 0", "member": "1 - 0 0", "viewer": "1 - 0 0", "free": "0 - 0 0"}'),
    -- A new member of A; the last owner cannot become something else, nor go.
    ('organization_members', '', format('(organization_id, user_id, role) SELECT id, %L, ''member'' FROM ct.organizations WHERE name = ''A''', ct.id('free')), 'role = ''viewer''', 'true',
        '- - - -', '4 1 23001 23001', '1 ! 23001 23001', '0 ! 0 0', '0 ! 0 0', '5 1 23001 23001',
        '{"nobody": "0 ! 0 0", "deputy": "4 1 3 3", "member": "4 ! 0 1", "viewer": "4 ! 0 1", "free": "0 ! 0 0"}'),
    ('enterprise_agents', '', '(organization_id, name) SELECT id, ''n'' FROM ct.organizations WHERE name = ''A''', 'is_active = false', 'true',
        '- - - -', '1 1 1 1', '1 ! 1 1', '0 ! 0 0', '0 ! 0 0', '2 1 2 2',
        '{"nobody": "0 ! 0 0", "deputy": "1 1 1 1", "member": "1 ! 0 0", "viewer": "1 ! 0 0", "free": "0 ! 0 0"}'),
    ('agent_usage', '', $$(agent_id, usage_period, period_start, used) VALUES ('00000000-0000-4000-8000-00000000000a', 'day', now(), 1)$$, 'used = 0', 'true',
        '- - - -', '1 - - -', '1 - - -', '0 - - -', '0 - - -', '2 1 2 2',
        '{"nobody": "0 - - -", "deputy": "1 - - -", "member": "1 - - -", "viewer": "1 - - -", "free": "0 - - -"}'),
    ('subscriptions', '', format('(user_id) VALUES (%L)', ct.id('free')), 'plan = ''free''', 'true',
        '- - - -', '1 - - -', '1 - - -', '0 - - -', '0 - - -', '3 1 3 3',
        '{"nobody": "0 - - -", "deputy": "1 - - -", "member": "1 - - -", "viewer": "0 - - -", "free": "0 - - -"}');
INSERT INTO ct.functions VALUES ('consume(uuid,bigint)', 'authenticated service_role'), ('create_organization(text,text)', 'authenticated'), ('infra.consume(uuid,bigint)', 'authenticated service_role'),
    ('infra.consume_any(uuid,bigint)', 'service_role'), ('infra.consume_own(uuid,bigint)', 'authenticated'),
    ('infra.my_agents(text[])', 'authenticated'), ('infra.my_organizations(text[])', 'authenticated'), ('infra.period_start(text,timestamp with time zone)', '');
SELECT ct.check_matrix();
SELECT is_empty($$ SELECT k.conrelid::regclass, k.conname FROM pg_constraint k JOIN ct.matrix m ON m.tab = k.conrelid
    WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indkey[0] = k.conkey[1]) $$, 'every foreign key has its index');

--
-- Membership
--
SELECT is(ct.try('member', 'UPDATE organization_members SET role = ''owner'''), '0', 'a member gives no roles');
SELECT is(ct.try('deputy', format('UPDATE organization_members SET role = ''owner'' WHERE user_id = %L', ct.id('deputy'))), '!', 'an admin does not become an owner');
SELECT is(ct.try('deputy', format('INSERT INTO organization_members (organization_id, user_id, role) SELECT id, %L, ''owner'' FROM ct.organizations WHERE name = ''A''', ct.id('free'))), '!', 'nor makes one');
SELECT is(ct.try('deputy', format('UPDATE organization_members SET role = ''viewer'' WHERE user_id = %L', ct.id('a'))), '0', 'nor touches one');
SELECT is(ct.try('deputy', format('DELETE FROM organization_members WHERE user_id = %L', ct.id('a'))), '0', 'nor removes one');
SELECT is(ct.try('a', format('UPDATE organization_members SET organization_id = (SELECT id FROM ct.organizations WHERE name = ''B'') WHERE user_id = %L', ct.id('viewer'))), '-', 'a membership stays where it is');
SELECT is(ct.try('a', format('UPDATE organization_members SET user_id = %L WHERE user_id = %L', ct.id('free'), ct.id('viewer'))), '-', 'and whose it is');
SELECT is(ct.try('a', format('INSERT INTO organization_members (organization_id, user_id) SELECT id, %L FROM ct.organizations WHERE name = ''B''', ct.id('a'))), '!', 'nobody joins another organization');
SELECT is(ct.try(who, replace(replace(statement, '@own', quote_literal(ct.id(who))), '@owner', quote_literal(ct.id('a')))), '!', who || ' is not raised, nor an owner lowered: ' || statement) FROM (VALUES
    ('deputy', $$INSERT INTO organization_members (organization_id, user_id, role) SELECT id, @own, 'member' FROM ct.organizations WHERE name = 'A' ON CONFLICT (organization_id, user_id) DO UPDATE SET role = 'owner'$$),
    ('deputy', $$INSERT INTO organization_members (organization_id, user_id, role) SELECT id, @own, 'owner' FROM ct.organizations WHERE name = 'A' ON CONFLICT (organization_id, user_id) DO NOTHING$$),
    ('deputy', $$INSERT INTO organization_members (organization_id, user_id) SELECT organization_id, user_id FROM organization_members WHERE role = 'owner' ON CONFLICT (organization_id, user_id) DO UPDATE SET role = 'viewer'$$),
    ('deputy', $$MERGE INTO organization_members m USING (VALUES (@own::uuid)) v(u) ON m.user_id = v.u WHEN MATCHED THEN UPDATE SET role = 'owner'$$),
    ('deputy', $$MERGE INTO organization_members m USING (VALUES ('owner')) v(r) ON m.role = v.r WHEN MATCHED THEN DELETE$$),
    ('member', $$INSERT INTO organization_members (organization_id, user_id) SELECT id, @own FROM ct.organizations WHERE name = 'A' ON CONFLICT (organization_id, user_id) DO UPDATE SET role = 'owner'$$),
    ('member', $$WITH d AS (DELETE FROM organization_members WHERE user_id = @own RETURNING *) INSERT INTO organization_members (organization_id, user_id, role) SELECT organization_id, user_id, 'owner' FROM d$$),
    ('b', $$WITH o AS (SELECT create_organization('C')) INSERT INTO organization_members (organization_id, user_id) SELECT c.id, @own FROM ct.organizations c, o WHERE c.name = 'A'$$)) v(who, statement);
SELECT is(ct.try('viewer', 'DELETE FROM organization_members'), '1', 'anybody leaves');
SELECT is(ct.ask('ex', 'SELECT count(*) FROM organization_members'), '0', 'an ex-member sees nobody');
SELECT is(ct.try('a', 'UPDATE organizations SET ' || s), '-', 'not for members: ' || s) FROM unnest(ARRAY['tenant_id = NULL', 'created_by = NULL', 'id = gen_random_uuid()', 'created_at = now()']) s;
SELECT is(ct.try('a', 'UPDATE enterprise_agents SET ' || s), '-', 'not for members: ' || s) FROM unnest(ARRAY['usage_limit = NULL', 'usage_period = ''hour''', 'organization_id = gen_random_uuid()', 'id = gen_random_uuid()']) s;
SELECT is(ct.try('a', 'INSERT INTO enterprise_agents (organization_id, name, usage_limit) SELECT id, ''n'', 5 FROM ct.organizations'), '-', 'nobody gives an own agent a limit');
SELECT is(ct.ask('a', 'INSERT INTO enterprise_agents (organization_id, name) SELECT id, ''n'' FROM ct.organizations WHERE name = ''A'' RETURNING usage_limit'), '0', 'a new one may use nothing yet');
SELECT is(ct.ask('viewer', 'SELECT count(*) FROM subscriptions') || ct.ask('member', 'SELECT string_agg(plan, '','') FROM subscriptions') || ct.ask('deputy', 'SELECT string_agg(plan, '','') FROM subscriptions'), '0basicenterprise', 'what is paid is for owners and admins');

SELECT throws_ok(format('DELETE FROM auth.users WHERE id = %L', ct.id('a')), '23001', NULL, 'the last owner''s user stays');
SELECT throws_ok(format('DELETE FROM organization_members WHERE user_id = %L', ct.id('a')), '23001', NULL, 'even for whom policies do not count');
SAVEPOINT s;
SELECT is(ct.ask('a', format('UPDATE organization_members SET role = CASE WHEN user_id = %L THEN ''owner'' ELSE ''member'' END WHERE user_id IN (%1$L, %L) RETURNING 1', ct.id('member'), ct.id('a')), true), '1', 'an owner hands over in one statement');
SELECT lives_ok(format('DELETE FROM auth.users WHERE id = %L', ct.id('a')), 'and may go');
SELECT is((SELECT created_by FROM organizations WHERE name = 'A'), NULL, 'who made it is forgotten');
ROLLBACK TO s;
SET CONSTRAINTS ALL DEFERRED;
DELETE FROM organization_members WHERE user_id = ct.id('a');
UPDATE organization_members SET role = 'owner' WHERE user_id = ct.id('member');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'or in several, where the check waits');
DELETE FROM organizations;
SELECT is_empty('SELECT FROM organization_members UNION ALL SELECT FROM enterprise_agents UNION ALL SELECT FROM agent_usage', 'an organization takes all with it');
ROLLBACK TO s;
DELETE FROM organization_members WHERE role <> 'owner';
SELECT is(ct.ask('a', 'DELETE FROM organizations RETURNING name'), 'A', 'an owner ends it');
ROLLBACK TO s;

--
-- consume
--
SELECT is(ct.ask(w, c), result, format('%s: %s', w, c)) FROM (VALUES
    ('a', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', 4)', '6'),
    ('deputy', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '9'),
    ('member', 'SELECT kessel.consume(''00000000-0000-4000-8000-00000000000a'', 10)', '0'),
    ('member', 'SELECT kessel.consume(''00000000-0000-4000-8000-00000000000a'')', '9'),
    ('service', 'SELECT consume(''00000000-0000-4000-8000-00000000000b'', 4)', '6'),
    ('service', 'SELECT kessel.consume(''00000000-0000-4000-8000-00000000000b'', 4)', '6'),
    ('viewer', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42501'),
    ('ex', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42704'),
    ('b', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42704'),
    ('admin', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42704'),
    ('nobody', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42704'),
    ('anon', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'')', '42501'),
    ('anon', 'SELECT kessel.consume(''00000000-0000-4000-8000-00000000000a'')', '42501'),
    ('b', 'SELECT infra.consume_any(''00000000-0000-4000-8000-00000000000a'', 1)', '42501'),
    ('b', 'SELECT infra.consume_own(''00000000-0000-4000-8000-00000000000a'', 1)', '42704'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', 11)', 'PT429'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', 0)', '22023'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', -5)', '22023'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', -9223372036854775808)', '22023'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', 9223372036854775807)', 'PT429'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', 9223372036854775808)', '42883'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', ''9223372036854775808'')', '22003'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', ''NaN'')', '22P02'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', ''1; DROP TABLE organizations'')', '22P02'),
    ('member', 'SELECT consume(''00000000-0000-4000-8000-00000000000a'', NULL)', '22004'),
    ('member', 'SELECT consume(NULL)', '22004'), ('member', 'SELECT consume(NULL, NULL)', '22004'), ('service', 'SELECT consume(NULL)', '22004'),
    ('member', 'SELECT consume(''x'')', '22P02'), ('member', 'SELECT consume(gen_random_uuid())', '42704'), ('service', 'SELECT consume(gen_random_uuid())', '42704')) v(w, c, result);
CREATE FUNCTION ct.use(amount bigint DEFAULT 1) RETURNS text LANGUAGE sql AS $$ SELECT ct.ask('member', format('SELECT coalesce(consume(''00000000-0000-4000-8000-00000000000a'', %s), -1)', amount), true) $$;
SELECT is(ct.use(10) || ct.use(), '0PT429', 'exactly the limit');
SELECT is((SELECT string_agg(used::text, ' ' ORDER BY period_start) FROM agent_usage WHERE agent_id = '00000000-0000-4000-8000-00000000000a'), '3 10', 'periods are counted apart');
-- As if a month had passed.
DELETE FROM agent_usage WHERE agent_id = '00000000-0000-4000-8000-00000000000a' AND used = 3;
UPDATE agent_usage SET period_start = period_start - interval '1 month' WHERE agent_id = '00000000-0000-4000-8000-00000000000a' AND used = 10;
SELECT is(ct.use(7), '3', 'the next period begins anew');
UPDATE enterprise_agents SET usage_limit = 5 WHERE name = 'Agent';
SELECT is(ct.use(), 'PT429', 'a limit that was lowered below what is used');
SELECT throws_like('SELECT infra.consume_any(''00000000-0000-4000-8000-00000000000a'', 1)', '%has reached its limit', 'is told');
UPDATE enterprise_agents SET usage_limit = 8;
SELECT is(ct.use() || ct.use(), '0PT429', 'one that was raised');
UPDATE enterprise_agents SET usage_period = 'ever';
SELECT is(ct.use(8) || ct.use(), '0PT429', 'another kind of period begins anew');
SELECT is((SELECT period_start FROM agent_usage WHERE usage_period = 'ever'), '-infinity', 'ever');
UPDATE enterprise_agents SET usage_limit = NULL;
SELECT is(ct.use(1000000), '-1', 'no limit');
SELECT is(ct.use(9223372036854775807), 'PT429', 'but that of the number');
SELECT is(ct.use(9223372036854775807 - 1000008), '-1', 'all of it');
SELECT is(ct.use(), 'PT429', 'and no more');
UPDATE enterprise_agents SET usage_limit = 0, usage_period = 'day';
SELECT is(ct.use(), 'PT429', 'a limit of 0');
UPDATE enterprise_agents SET usage_limit = 5, is_active = false;
SELECT is(ct.use(), '55000', 'not active');
UPDATE enterprise_agents SET is_active = true;
SELECT is(ct.ask('service', 'WITH d AS (DELETE FROM agent_usage RETURNING 1) SELECT count(*) > 0 FROM d', true), 'true', 'the service forgets what was used');
SELECT is(infra.period_start(p, '2026-03-01 00:30+01'), r::timestamptz, p) FROM (VALUES ('hour', '2026-02-28 23:00Z'), ('day', '2026-02-28 00:00Z'), ('week', '2026-02-23 00:00Z'),
    ('month', '2026-02-01 00:00Z'), ('year', '2026-01-01 00:00Z'), ('ever', '-infinity')) v(p, r);
SET LOCAL TimeZone = 'Pacific/Kiritimati';
SELECT is(infra.period_start('day', '2026-03-01 00:30+01'), '2026-02-28 00:00Z', 'whatever the session''s time zone');
RESET TimeZone;

--
-- Bad values
--
SELECT is(ct.try('service', statement), state, left(statement, 100)) FROM (VALUES
    ($$INSERT INTO organizations (name) VALUES ('n')$$, '23502'), (format('INSERT INTO organizations (name, created_by) VALUES ('''', %L)', ct.id('b')), '23514'),
    (format('INSERT INTO organizations (name, created_by) VALUES (repeat(''x'', 201), %L)', ct.id('b')), '23514'), (format('INSERT INTO organizations (name, created_by, slug) VALUES (''n'', %L, ''a'')', ct.id('b')), '23505'),
    (format('INSERT INTO organizations (name, created_by, slug) VALUES (''n'', %L, ''../x'')', ct.id('b')), '23514'), (format('INSERT INTO organizations (name, created_by, settings) VALUES (''n'', %L, ''[]'')', ct.id('b')), '23514'),
    ($$INSERT INTO organizations (name, created_by) VALUES ('n', gen_random_uuid())$$, '23503'), ($$UPDATE organizations SET tenant_id = gen_random_uuid()$$, '23503'),
    ($$UPDATE organizations SET settings = jsonb_build_object('x', repeat('x', 65536))$$, '23514'),
    ($$UPDATE organization_members SET role = 'king'$$, '23514'), ($$INSERT INTO organization_members (organization_id, user_id) SELECT id, gen_random_uuid() FROM organizations$$, '23503'),
    ($$INSERT INTO organization_members (organization_id, user_id) SELECT organization_id, user_id FROM organization_members$$, '23505'),
    ($$UPDATE enterprise_agents SET usage_limit = -1$$, '23514'), ($$UPDATE enterprise_agents SET usage_period = 'fortnight'$$, '23514'), ($$UPDATE enterprise_agents SET config = '5'$$, '23514'),
    ($$INSERT INTO enterprise_agents (organization_id, name) SELECT organization_id, name FROM enterprise_agents$$, '23505'), ($$UPDATE agent_usage SET used = -1$$, '0'),
    ($$INSERT INTO agent_usage VALUES ('00000000-0000-4000-8000-00000000000a', 'day', now(), -1)$$, '23514'),
    ($$INSERT INTO subscriptions (plan) VALUES ('free')$$, '23514'), (format('INSERT INTO subscriptions (user_id, organization_id) SELECT %L, id FROM organizations', ct.id('free')), '23514'),
    ($$INSERT INTO subscriptions (organization_id) SELECT id FROM organizations$$, '23505'), (format('INSERT INTO subscriptions (user_id, status) VALUES (%L, ''trialing'')', ct.id('member')), '23505'),
    (format('INSERT INTO subscriptions (user_id, status) VALUES (%L, ''past_due'')', ct.id('member')), '23505'), (format('INSERT INTO subscriptions (user_id, status) VALUES (%1$L, ''canceled''), (%1$L, ''canceled'')', ct.id('member')), '2'),
    ($$UPDATE subscriptions SET user_id = NULL, organization_id = NULL$$, '23514'), ($$INSERT INTO subscriptions (user_id) VALUES (gen_random_uuid())$$, '23503'),
    ($$UPDATE subscriptions SET plan = 'gold'$$, '23514'), ($$UPDATE subscriptions SET status = 'on'$$, '23514'), ($$UPDATE subscriptions SET billing_cycle = 'weekly'$$, '23514'),
    ($$UPDATE subscriptions SET currency = c FROM unnest(ARRAY['usd']) c$$, '23514'), ($$UPDATE subscriptions SET currency = 'US'$$, '23514'), ($$UPDATE subscriptions SET currency = 'DOLLAR'$$, '23514'),
    ($$UPDATE subscriptions SET currency = 'ÄÖÜ'$$, '23514'), ($$UPDATE subscriptions SET currency = E'USD\n'$$, '23514'), ($$UPDATE subscriptions SET currency = NULL$$, '23502'), ($$UPDATE subscriptions SET currency = 'CHF'$$, '3'),
    ($$UPDATE subscriptions SET amount = -0.0001$$, '23514'), ($$UPDATE subscriptions SET amount = 'NaN'$$, '23514'), ($$UPDATE subscriptions SET amount = 'Infinity'$$, '22003'), ($$UPDATE subscriptions SET amount = 1e12$$, '22003'),
    ($$UPDATE subscriptions SET amount = 999999999999.9999$$, '3'), ($$UPDATE subscriptions SET current_period_end = current_period_start$$, '23514'), ($$UPDATE subscriptions SET external_id = 'x'$$, '23505')) v(statement, state);
SELECT is(ct.ask(w, statement), state, format('%s: %s', w, left(statement, 80))) FROM (VALUES
    ('free', 'SELECT create_organization(NULL)', '23502'), ('free', 'SELECT create_organization('''')', '23514'), ('free', 'SELECT create_organization(repeat(''x'', 1000000))', '23514'),
    ('free', 'SELECT create_organization(''x'', ''a'')', '23505'), ('free', 'SELECT create_organization(''x'', ''A B'')', '23514'), ('nobody', 'SELECT create_organization(''x'')', '42501'),
    ('free', 'SELECT o.name FROM (SELECT create_organization(''x''''; DROP TABLE organizations; --'') IS NULL OFFSET 0) c, organizations o', NULL), ('service', 'SELECT create_organization(''x'')', '42501'), ('anon', 'SELECT create_organization(''x'')', '42501')) v(w, statement, state);

--
-- Plans: 20,000 organizations, of which one belongs to two
--
INSERT INTO organizations (name, created_by) SELECT 'O' || i, ct.id('free') FROM generate_series(1, 20000) i;
INSERT INTO enterprise_agents (organization_id, name) SELECT id, 'Agent' FROM organizations WHERE name ~ '^O';
INSERT INTO agent_usage SELECT id, 'month', '2026-01-01', 1 FROM enterprise_agents;
INSERT INTO subscriptions (organization_id) SELECT id FROM organizations WHERE name ~ '^O';
ANALYZE organizations, organization_members, enterprise_agents, agent_usage, subscriptions;
CREATE TABLE ct.plans AS SELECT query, index, ct.ask('deputy', 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || query)::jsonb -> 0 AS p
FROM (VALUES ('SELECT * FROM organizations', 'organizations_pkey'), ('SELECT * FROM organization_members', 'organization_members_pkey'), ('SELECT * FROM enterprise_agents', 'enterprise_agents_organization_id_name_key'),
             ('SELECT * FROM agent_usage', 'agent_usage_pkey'), ('SELECT * FROM subscriptions', 'subscriptions_organization_id')) v(query, index);
SELECT ok(p ->> 'Plan' NOT LIKE '%Seq Scan%' AND p ->> 'Plan' LIKE '%"Index Name": "' || index || '%', query || ' uses its index') FROM ct.plans;
SELECT cmp_ok((p #>> '{Plan,Shared Hit Blocks}')::integer + (p #>> '{Plan,Shared Read Blocks}')::integer, '<', 80, query || ' reads few blocks') FROM ct.plans;

SELECT ct.check_gone('enterprise', (SELECT b.all FROM ct.before b));
SELECT is(array(SELECT unnest(b.all) FROM ct.before b EXCEPT SELECT ct.snapshot()), '{}', 'and takes nothing that was there');

SELECT * FROM finish();
ROLLBACK;

-- Every function that anon, authenticated or service_role may call, of all blueprints
-- and of the extension, with NULLs, empty values, wrong types, ids and names of others,
-- SQL in names, values out of bounds, over-long ones: each call ends with a result or
-- an error that has a proper SQLSTATE and is short, and tells nothing of others.
--
-- Complete by construction: functions are taken from the catalog, and a type of an
-- argument without values in ct.inputs fails. Wants a server where the vault can be used.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
\ir ../lib/infra.sql

SELECT count(*) FROM kessel.setup() \g /dev/null
SELECT ct.populate() \g /dev/null

--
-- What b has: nobody but b, the service and, without its secrets, an administrator sees it.
--
UPDATE profiles SET display_name = 'kr-of-b', avatar_url = 'https://kr-of-b' WHERE id = ct.id('b');
UPDATE app.tenants SET name = 'kr-of-b' WHERE slug = 'ct-b';
INSERT INTO themes (id, name) VALUES ('dark', 'Dark');
INSERT INTO storage.buckets (id, name, public) VALUES ('mine', 'mine', false);
INSERT INTO app_registry (id, name, fields) VALUES ('mail', 'Mail', '[{"key": "host", "label": "Host", "type": "text"}, {"key": "password", "label": "P", "type": "password"}]');
INSERT INTO app_installations (user_id, app_id, config) VALUES (ct.id('b'), 'mail', '{"host": "kr-of-b", "password": "kr-secret-of-b"}');
SELECT storage.put_object('mine', 'file-of-b', 'kr-of-b') \g /dev/null
SELECT vault.create_secret('kr-secret-of-b', 'secret-of-b') AS secret_of_b \gset
SELECT ct.ask('b', 'SELECT set_ai_provider_key(''openai'', ''kr-secret-of-b'')', true), ct.ask('b', 'SELECT create_organization(''kr-of-b'', ''org-of-b'')', true),
       ct.ask('b', 'INSERT INTO ai_tool_calls (tool_name) VALUES (''kr-of-b'')', true), ct.ask('b', 'INSERT INTO user_activity (action) VALUES (''kr-of-b'')', true) \g /dev/null
INSERT INTO enterprise_agents (organization_id, name) SELECT id, 'kr-of-b' FROM organizations;
INSERT INTO db_registry (id, name, data_source_id) VALUES ('source-of-b', 'kr-of-b', '00000000-0000-4000-8000-0000000000d5');
SELECT ct.ask('b', 'SELECT vault.seal(''kr-secret-of-b'', ''ct'') FROM (SELECT set_config(''kessel.tenant'', ''ct-b'', true) OFFSET 0) s', true) AS sealed_of_b, set_config('kessel.tenant', '', true) \gset

--
-- Values, as SQL expressions. others: what b has; pairs of all but the long ones are tried.
--
CREATE TABLE ct.inputs (type regtype, kind text, value text);
INSERT INTO ct.inputs SELECT t, 'NULL', 'NULL' FROM unnest('{text,name,uuid,boolean,smallint,integer,bigint,numeric,double precision,oid,regclass,json,jsonb,bytea,text[],uuid[],interval,date,timestamptz}'::regtype[]) t;
INSERT INTO ct.inputs SELECT t, 'wrong', quote_literal('x') FROM unnest('{uuid,boolean,smallint,integer,bigint,numeric,double precision,oid,regclass,json,jsonb,text[],uuid[],interval,date,timestamptz}'::regtype[]) t;
INSERT INTO ct.inputs SELECT 'text', k, quote_literal(v) FROM (VALUES ('empty', ''), ('plain', 'mail'), ('plain', 'openai'), ('plain', 'dark'),
    ('others', 'ct-b'), ('others', 'secret-of-b'), ('others', 'source-of-b'), ('others', 'mine'), ('others', 'file-of-b'), ('others', ct.id('b')::text), ('others', '00000000-0000-4000-8000-00000000000b'),
    ('sql', '''; DROP TABLE profiles; --'), ('sql', '"; DROP TABLE profiles; --'), ('sql', '%I%s$1\'' OR true --'), ('odd', E'../a\nb\x01'), ('odd', 'é𝄞')) v(k, v);
INSERT INTO ct.inputs VALUES ('text', 'long', 'repeat(''x'', 1048577)'), ('text', 'long', 'repeat(''é''''"\'', 262145)'),
    ('bytea', 'empty', ''''''), ('bytea', 'plain', '''\x00ff'''), ('bytea', 'others', quote_literal(:'sealed_of_b')), ('bytea', 'odd', 'set_byte(' || quote_literal(:'sealed_of_b') || ', 20, 7)'), ('bytea', 'odd', 'substr(' || quote_literal(:'sealed_of_b') || '::bytea, 1, 30)'),
    ('bytea', 'long', 'convert_to(repeat(''x'', 1048577), ''UTF8'')'),
    ('boolean', 'plain', 'true'), ('boolean', 'plain', 'false'), ('integer', 'plain', '1'), ('integer', 'odd', '0'), ('integer', 'odd', '-1'), ('integer', 'odd', '2147483647'), ('integer', 'odd', '-2147483648'), ('integer', 'wrong', '''99999999999'''),
    ('bigint', 'plain', '1'), ('bigint', 'odd', '0'), ('bigint', 'odd', '-1'), ('bigint', 'odd', '9223372036854775807'), ('bigint', 'odd', '''-9223372036854775808'''), ('bigint', 'wrong', '''99999999999999999999'''),
    ('jsonb', 'empty', '''{}'''), ('jsonb', 'empty', '''[]'''), ('jsonb', 'odd', '''null'''), ('jsonb', 'odd', '''"x"'''), ('jsonb', 'odd', '''5'''), ('jsonb', 'odd', '''{"user_id": {"a": []}, "claims": {"app_metadata": 5}}'''),
    ('jsonb', 'others', format('''{"user_id": "%s", "claims": {}}''', ct.id('b'))), ('jsonb', 'odd', '(repeat(''['', 1000) || repeat('']'', 1000))'), ('jsonb', 'long', 'to_jsonb(repeat(''x'', 1048577))'), ('jsonb', 'wrong', '''{'''),
    ('text[]', 'empty', '''{}'''), ('text[]', 'plain', '''{owner}'''), ('text[]', 'others', '''{ct-b}'''), ('text[]', 'odd', '''{NULL}'''), ('text[]', 'odd', '''{{a,b},{c,d}}'''), ('text[]', 'sql', 'ARRAY[''''''; DROP TABLE profiles; --'']'), ('text[]', 'long', 'ARRAY[repeat(''x'', 1048577)]'),
    ('text[]', 'long', 'array_fill(''x''::text, ARRAY[100000])'),
    ('name', 'plain', '''profiles'''), ('name', 'sql', '''"; DROP TABLE profiles; --'''), ('smallint', 'odd', '-32768'), ('numeric', 'odd', '''NaN'''), ('numeric', 'odd', '''1e1000'''), ('double precision', 'odd', '''-Infinity'''),
    ('oid', 'plain', '''public.profiles''::regclass'), ('oid', 'odd', '0'), ('oid', 'odd', '4294967295'), ('regclass', 'plain', '''public.profiles'''), ('regclass', 'others', '''vault.secrets'''), ('regclass', 'odd', '0'),
    ('json', 'empty', '''{}'''), ('json', 'odd', '''{"a": 1, "a": [null]}'''), ('uuid[]', 'empty', '''{}'''), ('uuid[]', 'odd', '''{NULL}'''), ('uuid[]', 'others', format('''{%s}''', ct.id('b'))), ('date', 'odd', '''infinity'''),
    ('interval', 'plain', '''1 s'''), ('interval', 'odd', '''0'''), ('interval', 'odd', '''-1 day'''), ('interval', 'odd', '''170000000 years'''),
    ('timestamptz', 'plain', 'now()'), ('timestamptz', 'odd', '''infinity'''), ('timestamptz', 'odd', '''-infinity'''), ('timestamptz', 'odd', '''294276-12-31''');
INSERT INTO ct.inputs SELECT 'uuid'::regtype, 'others', quote_literal(v) FROM (VALUES (ct.id('b')), ('00000000-0000-4000-8000-00000000000b'), ('00000000-0000-4000-8000-0000000000d5'), (:'secret_of_b'::uuid), ('00000000-0000-0000-0000-000000000000'), ('ffffffff-ffff-ffff-ffff-ffffffffffff')) v(v)
UNION ALL SELECT 'uuid'::regtype, 'others', quote_literal(id) FROM enterprise_agents UNION ALL SELECT 'uuid'::regtype, 'others', quote_literal(id) FROM storage.objects UNION ALL SELECT 'uuid'::regtype, 'others', quote_literal(ct.id('a'));

--
-- Calls
--
CREATE FUNCTION ct.callable() RETURNS SETOF regprocedure LANGUAGE sql AS $$
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname !~ '^(ct$|pg_|information_schema$)' AND p.prorettype <> 'trigger'::regtype AND ct.is_ours('pg_proc'::regclass, p.oid)
      AND EXISTS (SELECT FROM unnest('{anon,authenticated,service_role}'::text[]) r WHERE has_function_privilege(r, p.oid, 'EXECUTE')) $$;

-- The argument lists: NULLs; all of one kind; two arguments in all pairs; of more, each
-- value in each place, beside NULLs and beside plain ones; long ones in each place.
CREATE FUNCTION ct.arguments(fn regprocedure) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    types regtype[] := (SELECT p.proargtypes::regtype[] FROM pg_proc p WHERE p.oid = fn);
    n integer := (SELECT p.pronargs FROM pg_proc p WHERE p.oid = fn);
    plain text[] := ARRAY(SELECT format('CAST(%s AS %s)', coalesce((SELECT min(i.value) FROM ct.inputs i WHERE i.type = t AND i.kind = 'plain'), 'NULL'), t) FROM unnest(types) WITH ORDINALITY u(t, at) ORDER BY at);
    nulls text[] := ARRAY(SELECT format('CAST(NULL AS %s)', t) FROM unnest(types) WITH ORDINALITY u(t, at) ORDER BY at);
    place integer;
    beside text[];
BEGIN
    IF n = 0 THEN
        RETURN NEXT '';
        RETURN;
    END IF;
    IF n = 2 THEN
        RETURN QUERY SELECT format('CAST(%s AS %s), CAST(%s AS %s)', a.value, a.type, b.value, b.type) FROM ct.inputs a, ct.inputs b
            WHERE a.type = types[0] AND b.type = types[1] AND a.kind <> 'long' AND b.kind <> 'long';
    END IF;
    FOR place IN 1 .. n LOOP
        FOREACH beside SLICE 1 IN ARRAY CASE WHEN n = 1 THEN ARRAY[nulls] ELSE ARRAY[nulls, plain] END LOOP
            RETURN QUERY SELECT array_to_string(beside[:place - 1] || format('CAST(%s AS %s)', i.value, i.type) || beside[place + 1:], ', ')
                FROM ct.inputs i WHERE i.type = types[place - 1] AND (n <> 2 OR i.kind = 'long');
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT string_agg(format('CAST(%s AS %s)', coalesce((SELECT min(i.value) FROM ct.inputs i WHERE i.type = u.t AND i.kind = k), 'NULL'), u.t), ', ' ORDER BY u.at)
        FROM unnest(ARRAY['empty', 'others', 'sql', 'odd', 'long']) k, unnest(types) WITH ORDINALITY u(t, at) GROUP BY k;
END $$;

-- What is wrong with a call, or NULL.
CREATE FUNCTION ct.wrong(person ct.people, fn regprocedure, arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    p pg_proc := (SELECT p FROM pg_proc p WHERE p.oid = fn);
    result text;
    message text := '';
    detail text := '';
    hint text := '';
    said text;
    state text := '';
    begun timestamptz := clock_timestamp();
BEGIN
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE format('SELECT left(string_agg(t::text, '' ''), 100000) FROM %s(%s) AS t%s', fn::oid::regproc, arguments, CASE WHEN p.prorettype = 'record'::regtype AND p.proallargtypes IS NULL THEN '(x text)' ELSE '' END) INTO result;
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    END;
    said := concat_ws(' ', message, detail, hint);
    -- What a statement may be wrong in, where that is the argument.
    IF fn::text LIKE 'kessel.fleet\_%' AND state = '42601' THEN
        RETURN NULL;
    END IF;
    -- No error, or one of the caller's, of a privilege, of what is not there, or a limit.
    IF state !~ '^($|02|08|0A|22|23|25|28|54|55|KR|PT4|42501$|42704$|P0002$)' THEN
        RETURN format('%s %s', state, left(said, 200));
    ELSIF length(said) > 3000 THEN
        RETURN format('%s is long: %s', state, length(said));
    ELSIF concat(result, said) ~ 'kr-of-b' AND person.who IN ('anon', 'a', 'ex') OR concat(result, said) ~ 'kr-secret-of-b' AND person.who <> 'service' AND person.who <> 'b' THEN
        RETURN format('tells of b: %s', left(concat(result, said), 200));
    ELSIF clock_timestamp() - begun > interval '10 s' THEN
        RETURN format('takes %s', clock_timestamp() - begun);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION ct.wrongs(fn regprocedure) RETURNS text[] LANGUAGE sql AS $$
    SELECT array(SELECT format('%s: (%s): %s', p.who, left(a, 100), w) FROM ct.people p, ct.arguments(fn) a, ct.wrong(p, fn, a) w
                 WHERE has_function_privilege(p.role, fn, 'EXECUTE') AND p.who <> 'b' AND w IS NOT NULL LIMIT 20) $$;

SELECT cmp_ok((SELECT count(*)::integer FROM ct.callable()), '>', 80, 'functions that apps may call');
SELECT is_empty($$ SELECT DISTINCT t::regtype FROM ct.callable() f, pg_proc p, unnest(p.proargtypes) t WHERE p.oid = f AND NOT EXISTS (SELECT FROM ct.inputs i WHERE i.type = t AND i.kind <> 'NULL') $$, 'there are bad values of each type of their arguments');
SELECT is_empty($$ SELECT p.oid::regprocedure FROM ct.callable() f, pg_proc p WHERE p.oid = f AND p.prokind <> 'f' $$, 'they are functions');

-- That it would be seen.
SAVEPOINT s;
CREATE FUNCTION public.ct_injected(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT ' || name INTO name; RETURN name; END $$;
CREATE FUNCTION public.ct_tells(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT p.display_name FROM public.profiles p WHERE p.id = $1 $$;
CREATE FUNCTION public.ct_repeats(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no "%"', name USING ERRCODE = 'invalid_parameter_value'; END $$;
CREATE FUNCTION public.ct_plain(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
SELECT is((SELECT count(*) FROM ct.callable() f WHERE f::text LIKE 'ct\_%'), 4::bigint, 'what is made is called, too');
SELECT matches(array_to_string(ct.wrongs(f), ' '), said, f || ' is found') FROM (VALUES ('ct_injected(text)'::regprocedure, '42601 syntax error'), ('ct_tells(uuid)', 'a: .*tells of b: kr-of-b'), ('ct_repeats(text)', '22023 is long'), ('ct_plain(text)', 'P0001 no')) v(f, said);
ROLLBACK TO s;

SELECT is(ct.wrongs(f), '{}', f || ' with bad input') FROM ct.callable() f ORDER BY f::text COLLATE "C";
SELECT is((SELECT display_name FROM profiles WHERE id = ct.id('b')), 'kr-of-b', 'everything is as it was');

SELECT * FROM finish();
ROLLBACK;

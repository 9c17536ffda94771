-- For pgTAP files of the infra database's blueprints: what there is, people, and
-- what they may do. Included behind BEGIN and the plan.
--
-- Each table and view that a blueprint makes has a line in ct.matrix, each function
-- one in ct.functions, and each person of ct.people a column: ct.check_matrix() fails
-- for what has none.

CREATE SCHEMA ct;
GRANT USAGE ON SCHEMA ct TO PUBLIC;

-- All that a migration could leave behind, with privileges. Roles stay, and their memberships.
CREATE FUNCTION ct.snapshot() RETURNS SETOF text LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('class %s %s %s %s', o.oid::regclass, o.relkind, o.relowner::regrole, o.relacl) FROM pg_class o WHERE o.relnamespace::regnamespace::text !~ '^(ct$|pg_toast|pg_temp)'
    UNION ALL SELECT format('function %s %s %s', o.oid::regprocedure, o.proowner::regrole, o.proacl) FROM pg_proc o WHERE o.pronamespace::regnamespace::text !~ '^(ct$|pg_temp)'
    UNION ALL SELECT format('type %s %s', o.oid::regtype, o.typacl) FROM pg_type o WHERE o.typnamespace::regnamespace::text !~ '^(ct$|pg_toast|pg_temp)'
    UNION ALL SELECT format('schema %s %s', o.nspname, o.nspacl) FROM pg_namespace o WHERE o.nspname !~ '^pg_'
    UNION ALL SELECT format('trigger %s %s', o.tgrelid::regclass, o.tgname) FROM pg_trigger o WHERE NOT o.tgisinternal
    UNION ALL SELECT format('policy %s %s', o.polrelid::regclass, o.polname) FROM pg_policy o
    UNION ALL SELECT format('constraint %s %s', o.conrelid::regclass, o.conname) FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid WHERE c.relnamespace::regnamespace::text !~ '^(ct$|pg_temp)'
    UNION ALL SELECT format('attribute %s %s %s', o.attrelid::regclass, o.attname, o.attacl) FROM pg_attribute o JOIN pg_class c ON c.oid = o.attrelid WHERE o.attnum > 0 AND c.relnamespace::regnamespace::text !~ '^(ct$|pg_toast|pg_temp)'
    UNION ALL SELECT format('default acl %s', o) FROM pg_default_acl o
$$;

-- People: a and b are members of tenants (a owns the first), ex was one of a's, admin is in the role.
-- A file may add others.
CREATE TABLE ct.people (who text PRIMARY KEY, role name, id uuid);
CREATE FUNCTION ct.id(somebody text) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM ct.people WHERE who = somebody $$;
CREATE FUNCTION ct.populate() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.data_sources (id, name, isolation, conninfo) VALUES ('00000000-0000-4000-8000-0000000000d5', 'ct-source', 'row', '{}');
    INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
    VALUES ('00000000-0000-4000-8000-00000000000a', 'ct-a', 'A', '00000000-0000-4000-8000-0000000000d5', 'row', 'a'),
           ('00000000-0000-4000-8000-00000000000b', 'ct-b', 'B', '00000000-0000-4000-8000-0000000000d5', 'row', 'b');
    INSERT INTO ct.people VALUES ('anon', 'anon', NULL), ('a', 'authenticated', '00000000-0000-4000-9000-00000000000a'), ('b', 'authenticated', '00000000-0000-4000-9000-00000000000b'),
        ('ex', 'authenticated', '00000000-0000-4000-9000-0000000000e0'), ('admin', 'authenticated', '00000000-0000-4000-9000-0000000000ad'), ('service', 'service_role', NULL);
    INSERT INTO auth.users (id, email, raw_user_meta_data)
    SELECT id, who || '@example.com', '{"full_name": "Some One", "avatar_url": "https://example.com/a.png", "role": "admin"}' FROM ct.people WHERE id IS NOT NULL;
    UPDATE public.profiles SET role = 'admin' WHERE email = 'admin@example.com';
    PERFORM kessel.add_member('ct-a', '00000000-0000-4000-9000-00000000000a', 'owner'), kessel.add_member('ct-b', '00000000-0000-4000-9000-00000000000b'),
            kessel.add_member('ct-a', '00000000-0000-4000-9000-0000000000e0', 'owner'), kessel.deactivate_member('ct-a', '00000000-0000-4000-9000-0000000000e0');
END $$;

-- Runs a statement as somebody, and takes it back unless it is to stay. Returns rows,
-- or - where the privilege is missing, ! where a policy refuses a row, or another SQLSTATE.
CREATE FUNCTION ct.try(somebody text, statement text, stays boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    person ct.people;
    result text;
    rows bigint;
BEGIN
    SELECT * INTO STRICT person FROM ct.people WHERE who = somebody;
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE statement;
        GET DIAGNOSTICS rows = ROW_COUNT;
        result := rows;
        IF NOT stays THEN
            RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
        END IF;
        RESET ROLE;
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        result := CASE WHEN SQLSTATE = '42501' THEN CASE WHEN SQLERRM LIKE '%row-level security%' THEN '!' ELSE '-' END ELSE SQLSTATE END;
    END;
    RETURN result;
END $$;

-- What a query of somebody returns, as text, or the error: SQLSTATE, or with what more message or detail.
CREATE FUNCTION ct.ask(somebody text, query text, more text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    person ct.people;
    result text;
    said text;
BEGIN
    SELECT * INTO STRICT person FROM ct.people WHERE who = somebody;
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE query INTO result;
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
    EXCEPTION WHEN SQLSTATE 'CT000' THEN
        NULL;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS said = PG_EXCEPTION_DETAIL;
        result := CASE more WHEN 'detail' THEN said WHEN 'message' THEN SQLERRM ELSE SQLSTATE END;
    END;
    RETURN result;
END $$;

-- What a query of somebody returns, as text; with stays it is not taken back.
CREATE FUNCTION ct.ask(somebody text, query text, stays boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    person ct.people;
    result text;
BEGIN
    IF NOT stays THEN
        RETURN ct.ask(somebody, query);
    END IF;
    SELECT * INTO STRICT person FROM ct.people WHERE who = somebody;
    BEGIN
        PERFORM set_config('request.jwt.claims', jsonb_strip_nulls(jsonb_build_object('sub', person.id, 'role', person.role))::text, true);
        EXECUTE format('SET LOCAL ROLE %I', person.role);
        EXECUTE query INTO result;
        RESET ROLE;
    EXCEPTION WHEN OTHERS THEN
        result := SQLSTATE;
    END;
    RETURN result;
END $$;

-- The matrix: rows read, inserted, updated, deleted; - no privilege, ! refused by a policy,
-- V no view can do that. more: of people other than these six, {"who": "1 - - -"}.
CREATE TABLE ct.matrix (tab regclass PRIMARY KEY, row_of text, ins text, upd text, condition text, anon text, a text, b text, ex text, admin text, service text, more jsonb);
CREATE FUNCTION ct.row_of_matrix(m ct.matrix, who text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(concat_ws(' ', ct.try(who, format('SELECT %s FROM %s WHERE %s', coalesce(nullif(m.row_of, ''), '1'), m.tab, m.condition)),
                                  ct.try(who, format('INSERT INTO %s %s', m.tab, m.ins)),
                                  ct.try(who, format('UPDATE %s SET %s WHERE %s', m.tab, m.upd, m.condition)),
                                  ct.try(who, format('DELETE FROM %s WHERE %s', m.tab, m.condition))), '55000', 'V')
$$;
-- Functions: who may call them.
CREATE TABLE ct.functions (fn regprocedure PRIMARY KEY, for_roles text);

-- What there was before the blueprint.
CREATE TABLE ct.before_classes (oid oid);
CREATE TABLE ct.before_functions (oid oid);

-- What has no line: of all that is new since ct.before_classes and ct.before_functions, and of further schemas.
CREATE FUNCTION ct.is_ours(class oid, object oid) RETURNS boolean LANGUAGE sql AS $$
    SELECT NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = class AND d.objid = object AND d.deptype = 'e' AND e.extname <> 'kessel_router') $$;
CREATE FUNCTION ct.tables_without_line(also text[] DEFAULT '{}') RETURNS SETOF regclass LANGUAGE sql AS $$
    SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND n.nspname !~ '^(ct$|pg_|information_schema$)' AND ct.is_ours('pg_class'::regclass, c.oid)
      AND (n.nspname = ANY (also) OR c.oid NOT IN (SELECT oid FROM ct.before_classes))
    EXCEPT SELECT tab FROM ct.matrix $$;
CREATE FUNCTION ct.functions_without_line() RETURNS SETOF regprocedure LANGUAGE sql AS $$
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname !~ '^(ct$|pg_)' AND p.prorettype <> 'trigger'::regtype AND ct.is_ours('pg_proc'::regclass, p.oid) AND p.oid NOT IN (SELECT oid FROM ct.before_functions)
    EXCEPT SELECT fn FROM ct.functions $$;

-- That they find what is made without a line, whichever kind it is and wherever.
CREATE FUNCTION ct.check_finds(also text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    schema name;
    found text;
BEGIN
    FOR schema IN SELECT DISTINCT unnest(ARRAY['public', 'infra', 'auth', 'kessel'] || also) LOOP
        BEGIN
            EXECUTE format('CREATE TABLE %1$I.ct_table (i integer); CREATE TABLE %1$I.ct_parent (i integer) PARTITION BY RANGE (i); CREATE VIEW %1$I.ct_view AS SELECT 1;
                            CREATE MATERIALIZED VIEW %1$I.ct_materialized AS SELECT 1; CREATE FUNCTION %1$I.ct_function() RETURNS integer LANGUAGE sql AS ''SELECT 1''', schema);
            found := concat_ws(', ', (SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM ct.tables_without_line(also) t), (SELECT string_agg(f::text, ' ') FROM ct.functions_without_line() f));
            RAISE EXCEPTION 'taken back' USING ERRCODE = 'CT000';
        EXCEPTION WHEN SQLSTATE 'CT000' THEN
            NULL;
        END;
        RETURN NEXT is(replace(found, schema || '.', ''), 'ct_materialized ct_parent ct_table ct_view, ct_function()', 'what is made in ' || schema || ' without a line is found');
    END LOOP;
END $$;

-- also: schemas all of whose tables have a line, made before or not.
CREATE FUNCTION ct.check_matrix(also text[] DEFAULT '{}') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT is_empty(format('SELECT ct.tables_without_line(%L)', also), 'every table is in the matrix');
    RETURN NEXT is_empty('SELECT ct.functions_without_line()', 'every function is in the list');
    RETURN QUERY SELECT ct.check_finds(also);
    RETURN QUERY SELECT ok(c.relrowsecurity OR c.relkind = 'v' AND (c.reloptions::text ~ 'security_(invoker|barrier)=true' OR NOT has_table_privilege('anon', c.oid, 'SELECT') AND NOT has_table_privilege('authenticated', c.oid, 'SELECT')),
                    c.oid::regclass || ' has row security, or is a view that has its caller''s or is not for users') FROM pg_class c JOIN ct.matrix m ON m.tab = c.oid ORDER BY c.oid::regclass::text;
    RETURN QUERY SELECT is(ct.row_of_matrix(m, p.who), coalesce(to_jsonb(m) ->> p.who, m.more ->> p.who, 'nothing in the matrix'), format('%s as %s', m.tab, p.who)) FROM ct.matrix m, ct.people p ORDER BY m.tab::text, p.who;
    RETURN QUERY SELECT is(ct.try(p.who, format('TRUNCATE %s CASCADE', m.tab)), '-', format('%s cannot be emptied by %s', m.tab, p.who))
        FROM ct.matrix m JOIN pg_class c ON c.oid = m.tab AND c.relkind <> 'v', ct.people p ORDER BY m.tab::text, p.who;
    RETURN NEXT is_empty($q$
        SELECT p.oid::regclass, r FROM pg_class p JOIN pg_inherits i ON i.inhrelid = p.oid JOIN ct.matrix m ON m.tab = i.inhparent, unnest('{anon,authenticated,service_role}'::text[]) r
        WHERE has_table_privilege(r, p.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') OR has_any_column_privilege(r, p.oid, 'SELECT, INSERT, UPDATE, REFERENCES') $q$, 'partitions are nobody''s');
    RETURN QUERY SELECT is((SELECT string_agg(r, ' ' ORDER BY r) FROM unnest(ARRAY['anon', 'authenticated', 'service_role', 'public']) r WHERE has_function_privilege(r, f.fn, 'EXECUTE')), nullif(f.for_roles, ''), f.fn || ' is for these')
        FROM ct.functions f ORDER BY f.fn::text;
    RETURN QUERY SELECT ok(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', f.fn || ' fixes its search_path') FROM ct.functions f JOIN pg_proc p ON p.oid = f.fn WHERE p.prosqlbody IS NULL ORDER BY f.fn::text;
    RETURN QUERY SELECT ok(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%' AND NOT has_function_privilege('public', p.oid, 'EXECUTE') AND obj_description(p.oid, 'pg_proc') <> ''
                        AND NOT EXISTS (SELECT FROM unnest(ARRAY['anon', 'authenticated', 'service_role']) r WHERE has_function_privilege(r, p.oid, 'EXECUTE')),
                    p.oid::regprocedure || ', of triggers, fixes its search_path, has a comment, and is for nobody')
        FROM pg_proc p WHERE p.prorettype = 'trigger'::regtype AND ct.is_ours('pg_proc'::regclass, p.oid) AND p.oid NOT IN (SELECT oid FROM ct.before_functions) ORDER BY p.oid::regprocedure::text;
    RETURN QUERY SELECT ok(obj_description(f.fn, 'pg_proc') <> '', f.fn || ' has a comment') FROM ct.functions f ORDER BY f.fn::text;
    RETURN QUERY SELECT ok(obj_description(m.tab, 'pg_class') <> '', m.tab || ' has a comment') FROM ct.matrix m ORDER BY m.tab::text;
END $$;

-- Up, down and up again; and each migration's own way back. Leaves it applied.
CREATE FUNCTION ct.check_ways(of_blueprint text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    before text[];
    made text[];
    found record;
BEGIN
    before := ARRAY(SELECT ct.snapshot());
    INSERT INTO ct.before_classes SELECT oid FROM pg_class;
    INSERT INTO ct.before_functions SELECT oid FROM pg_proc;
    PERFORM kessel.setup(ARRAY[of_blueprint]);
    made := ARRAY(SELECT ct.snapshot());
    RETURN NEXT cmp_ok(cardinality(made), '>', cardinality(before) + 10, 'setup makes much');
    RETURN NEXT is(array(SELECT unnest(before) EXCEPT SELECT unnest(made)), '{}', 'and changes nothing that was there');
    PERFORM kessel.teardown(of_blueprint);
    RETURN NEXT is(array(SELECT ct.snapshot() EXCEPT SELECT unnest(before)), '{}', 'the way back leaves nothing');
    RETURN NEXT is(array(SELECT unnest(before) EXCEPT SELECT ct.snapshot()), '{}', 'and takes nothing that was there');
    PERFORM kessel.setup(ARRAY[of_blueprint]);
    RETURN NEXT is(array(SELECT unnest(made) EXCEPT SELECT ct.snapshot()), '{}', 'a second setup makes the same');
    FOR found IN SELECT m.version FROM kessel.migrations m WHERE m.blueprint = of_blueprint ORDER BY m.version DESC LOOP
        PERFORM kessel.teardown(of_blueprint, found.version - 1);
        PERFORM kessel.setup(ARRAY[of_blueprint]);
        RETURN NEXT is(array(SELECT unnest(made) EXCEPT SELECT ct.snapshot()), '{}', 'back before version ' || found.version || ' and forth');
    END LOOP;
END $$;

-- After a teardown with rows in it.
CREATE FUNCTION ct.check_gone(of_blueprint text, before text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT lives_ok(format('SELECT kessel.teardown(%L, drop_data => true)', of_blueprint), 'the way back with rows');
    RETURN NEXT is(array(SELECT ct.snapshot() EXCEPT SELECT unnest(before)), '{}', 'leaves nothing');
END $$;

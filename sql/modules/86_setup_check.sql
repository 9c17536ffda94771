-- What keeps migrations of this database from being applied, all of it before the
-- first one runs: by the text of their scripts, and for the caller's rights.

-- Actions: make, keep (unless it is there), drop: a schema, relation, type or function;
-- own, refer, trigger, fill, read: a relation; execute: a function without arguments.
CREATE FUNCTION kessel._script_facts(script text)
RETURNS TABLE (statement integer, action text, class text, schema_name text, name text, args text[])
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_facts';

-- What has that name now, in words; NULL: nothing.
CREATE FUNCTION kessel._name_taken(class text, schema_name text, name text, args text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE class
        WHEN 'schema' THEN (SELECT 'schema ' || quote_ident(n.nspname) FROM pg_namespace n WHERE n.nspname = name)
        WHEN 'function' THEN (
            SELECT pg_describe_object('pg_proc'::regclass, p.oid, 0)
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = schema_name AND p.proname = name AND ARRAY(SELECT unnest(p.proargtypes)) = ARRAY(SELECT coalesce(to_regtype(a), 0)::oid FROM unnest(args) WITH ORDINALITY u (a, n) ORDER BY n))
        ELSE (
            SELECT CASE WHEN t.typrelid <> 0 THEN pg_describe_object('pg_class'::regclass, t.typrelid, 0) ELSE pg_describe_object('pg_type'::regclass, t.oid, 0) END
            FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = schema_name AND t.typname = name
          UNION
            SELECT pg_describe_object('pg_class'::regclass, c.oid, 0) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = schema_name AND c.relname = name
            LIMIT 1)
        END
$$;

-- What migrations do with what is there already: as kessel._script_facts() has it;
-- taken: that in the words of an error, where they make something of that name.
CREATE FUNCTION kessel._setup_facts(blueprints text[], versions integer[])
RETURNS TABLE (action text, class text, schema_name text, name text, relation regclass, taken text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
    WITH facts AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY t.n, f.n) AS n, f.action, f.class, f.schema_name, f.name, f.args
        FROM unnest(blueprints, versions) WITH ORDINALITY t (blueprint, version, n) JOIN kessel.migrations m ON m.blueprint = t.blueprint AND m.version = t.version,
             LATERAL (SELECT x.*, row_number() OVER () AS n FROM kessel._script_facts(m.up) x) f
    )
    SELECT DISTINCT f.action, f.class, f.schema_name, f.name, (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = f.schema_name AND c.relname = f.name),
           CASE WHEN f.action = 'make' AND NOT EXISTS (SELECT FROM facts d WHERE d.action = 'drop' AND d.n < f.n AND d.schema_name = f.schema_name AND d.name = f.name)
                THEN kessel._name_taken(f.class, f.schema_name, f.name, f.args) END
    FROM facts f
    WHERE f.action = 'make' OR NOT EXISTS (SELECT FROM facts e WHERE e.action = 'make' AND e.n < f.n AND e.class = f.class AND e.schema_name = f.schema_name AND e.name = f.name)
$$;

-- What the caller lacks for that, and what would give it. core: for what 0001_ground
-- and 0009_tenants do in DO blocks, too.
CREATE FUNCTION kessel._setup_lacks(blueprints text[], versions integer[]) RETURNS TABLE (lack text, remedy text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH me AS (
        SELECT quote_ident(current_user) AS who, r.rolsuper, r.rolcreaterole, r.rolbypassrls, current_setting('server_version_num')::integer AS server FROM pg_roles r WHERE r.rolname = current_user
    ), facts AS MATERIALIZED (
        SELECT * FROM kessel._setup_facts(blueprints, versions)
    ), core AS (
        SELECT t.version FROM unnest(blueprints, versions) t (blueprint, version) WHERE t.blueprint = 'core'
    ), needs (privilege, object, has, statement) AS (
        SELECT 'CREATE', format('database %I', current_database()), has_database_privilege(current_database(), 'CREATE'), NULL
        FROM facts f WHERE f.action IN ('make', 'keep') AND f.class = 'schema' AND to_regnamespace(quote_ident(f.name)) IS NULL
      UNION
        SELECT 'CREATE', format('database %I', current_database()), has_database_privilege(current_database(), 'CREATE'), NULL FROM core WHERE version = 1 AND to_regnamespace('auth') IS NULL
      UNION
        SELECT 'CREATE', format('schema %I', f.schema_name), has_schema_privilege(n.oid, 'CREATE'), NULL
        FROM facts f JOIN pg_namespace n ON n.nspname = f.schema_name WHERE f.action IN ('make', 'keep') AND f.class <> 'schema'
      UNION
        SELECT 'CREATE', 'schema auth', has_schema_privilege('auth', 'CREATE'), NULL
        FROM core WHERE version = 1 AND to_regnamespace('auth') IS NOT NULL
          AND (kessel._name_taken('relation', 'auth', 'users', '{}') IS NULL OR EXISTS (SELECT FROM unnest('{jwt,uid,role,email}'::text[]) f WHERE kessel._name_taken('function', 'auth', f, '{}') IS NULL))
      UNION
        SELECT 'USAGE', format('schema %I', n.nspname), has_schema_privilege(n.oid, 'USAGE'), NULL
        FROM facts f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace WHERE f.action IN ('refer', 'trigger', 'read', 'fill')
      UNION
        SELECT p.privilege, format('table %s', f.relation), CASE p.privilege WHEN 'TRIGGER' THEN has_table_privilege(f.relation, p.privilege) ELSE has_any_column_privilege(f.relation, p.privilege) END, NULL
        FROM facts f JOIN (VALUES ('refer', 'REFERENCES'), ('trigger', 'TRIGGER'), ('read', 'SELECT'), ('fill', 'INSERT')) p (action, privilege) ON p.action = f.action WHERE f.relation IS NOT NULL
      UNION
        SELECT 'ownership', pg_describe_object('pg_class'::regclass, c.oid, 0), pg_has_role(c.relowner, 'USAGE'), format('GRANT %I TO %s', pg_get_userbyid(c.relowner), me.who)
        FROM me, facts f JOIN pg_class c ON c.oid = f.relation WHERE f.action = 'own'
      UNION
        SELECT 'EXECUTE', format('function %s', p.oid::regprocedure), has_function_privilege(p.oid, 'EXECUTE'), NULL
        FROM facts f JOIN pg_namespace n ON n.nspname = f.schema_name JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = f.name AND p.pronargs = 0 WHERE f.action = 'execute'
      UNION
        SELECT 'CREATEROLE', NULL, me.rolcreaterole, format('ALTER ROLE %s CREATEROLE', me.who)
        FROM me, core WHERE version = 1 AND (to_regrole('anon') IS NULL OR to_regrole('authenticated') IS NULL OR to_regrole('service_role') IS NULL)
      UNION
        SELECT CASE WHEN me.server < 160000 THEN 'SUPERUSER' ELSE 'BYPASSRLS' END || ' to make service_role', NULL, me.server >= 160000 AND me.rolbypassrls,
               CASE WHEN me.server < 160000 THEN 'CREATE ROLE service_role NOLOGIN BYPASSRLS' ELSE format('ALTER ROLE %s BYPASSRLS', me.who) END
        FROM me, core WHERE version = 1 AND to_regrole('service_role') IS NULL
      UNION
        SELECT 'ADMIN', 'role ' || g.name, pg_has_role(g.name, 'MEMBER WITH ADMIN OPTION') OR me.server < 160000 AND me.rolcreaterole, format('GRANT %s TO %s WITH ADMIN OPTION', g.name, me.who)
        FROM me, core, (VALUES ('authenticated', 'kessel_user'), ('service_role', 'kessel_service')) g (member, name)
        WHERE version = 1 AND NOT coalesce(pg_has_role(to_regrole(g.member), g.name, 'USAGE'), false)
      UNION
        SELECT 'USAGE with grant option', 'schema app', has_schema_privilege('app', 'USAGE WITH GRANT OPTION'), format('GRANT USAGE ON SCHEMA app TO %s WITH GRANT OPTION', me.who)
        FROM me, core WHERE version = 9 AND to_regrole('supabase_auth_admin') IS NOT NULL
      UNION
        SELECT 'EXECUTE with grant option', 'function app.custom_access_token_hook(jsonb)', has_function_privilege('app.custom_access_token_hook(jsonb)', 'EXECUTE WITH GRANT OPTION'),
               format('GRANT EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) TO %s WITH GRANT OPTION', me.who)
        FROM me, core WHERE version = 9 AND to_regrole('supabase_auth_admin') IS NOT NULL
    )
    SELECT concat_ws(' on ', n.privilege, n.object), coalesce(n.statement, format('GRANT %s ON %s TO %s', n.privilege, n.object, me.who))
    FROM me, needs n WHERE NOT me.rolsuper AND NOT n.has
    ORDER BY 1
$$;

CREATE FUNCTION kessel._check_setup_possible(blueprints text[], versions integer[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lacks text[];
    remedies text[];
    taken text[] := ARRAY(SELECT DISTINCT f.taken FROM kessel._setup_facts(blueprints, versions) f WHERE f.taken IS NOT NULL ORDER BY 1);
BEGIN
    SELECT array_agg(l.lack), array_agg(l.remedy) INTO lacks, remedies FROM kessel._setup_lacks(blueprints, versions) l;
    IF lacks IS NULL AND taken = '{}' THEN
        RETURN;
    ELSIF lacks IS NOT NULL THEN
        -- Who is not to build on what is there needs no privileges for it.
        PERFORM kessel._check_ground(b, current_user) FROM unnest(blueprints) b;
    END IF;
    RAISE EXCEPTION '%', concat_ws(', and ', CASE WHEN lacks IS NOT NULL THEN format('role "%s" lacks privileges to set up this database', current_user) END,
                                   CASE WHEN taken <> '{}' THEN 'names that kessel.setup() needs are taken' END)
        USING ERRCODE = CASE WHEN lacks IS NULL THEN 'duplicate_object' ELSE 'insufficient_privilege' END,
              DETAIL = concat_ws(E'\n', 'It lacks: ' || array_to_string(lacks, ', ') || '.', 'There are already: ' || nullif(array_to_string(taken, ', '), '') || '.'),
              HINT = concat_ws(E'\n', 'Have a superuser run: ' || array_to_string(remedies, '; ') || '.',
                               CASE WHEN taken <> '{}' THEN 'What is there is left as it is. Rename it, or move it to another schema with ALTER ... SET SCHEMA; then set up, and copy its rows. Or set up other blueprints only. doc/infra-database.md shows how.' END);
END
$$;

REVOKE ALL ON FUNCTION kessel._script_facts(text), kessel._name_taken(text, text, text, text[]), kessel._setup_facts(text[], integer[]), kessel._setup_lacks(text[], integer[]),
    kessel._check_setup_possible(text[], integer[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._name_taken(text, text, text, text[]), kessel._setup_facts(text[], integer[]), kessel._setup_lacks(text[], integer[]),
    kessel._check_setup_possible(text[], integer[]) TO kessel_admin;

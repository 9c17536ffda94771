-- SQL that makes a target's schema what its reference says, line by line.

-- An object by the words of DROP and COMMENT ON; NULL for a kind that is not known.
CREATE FUNCTION kessel._schema_object(class text, path text[], schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN class IN ('table', 'foreign table', 'view', 'materialized view', 'sequence', 'type', 'domain', 'statistics')
        THEN pg_catalog.format('%s %I.%I', upper(class), schema_name, path[1])
    WHEN class = 'index' THEN pg_catalog.format('INDEX %I.%I', schema_name, path[2])
    WHEN class = 'schema' THEN pg_catalog.format('SCHEMA %I', schema_name)
    WHEN class = 'column' THEN pg_catalog.format('COLUMN %I.%I.%I', schema_name, path[1], path[2])
    WHEN class IN ('trigger', 'policy', 'rule', 'constraint') THEN pg_catalog.format('%s %I ON %I.%I', upper(class), path[2], schema_name, path[1])
    WHEN class = 'domain constraint' THEN pg_catalog.format('CONSTRAINT %I ON DOMAIN %I.%I', path[2], schema_name, path[1])
    WHEN class IN ('function', 'procedure', 'aggregate') THEN pg_catalog.format('%s %I.%I(%s)', upper(class), schema_name, path[1],
        CASE WHEN class = 'aggregate' AND cardinality(path) = 1 THEN '*' ELSE
        (SELECT pg_catalog.string_agg(pg_catalog.format('%I.%I', coalesce(nullif(path[i], ''), schema_name), path[i + 1]), ', ' ORDER BY i)
         FROM pg_catalog.generate_series(2, cardinality(path), 2) i) END)
    END;
REVOKE ALL ON FUNCTION kessel._schema_object(text, text[], text) FROM PUBLIC;

-- As people would call it.
CREATE FUNCTION kessel._schema_object_label(kind text, path text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN kind IN ('grant', 'grant option') THEN kessel._schema_object_label(path[2], path[3:]) || ' to ' || pg_catalog.ltrim(path[1], '@=')
        WHEN kind IN ('owner', 'comment') THEN path[1] || ' ' || kessel._schema_object_label(path[1], path[2:])
        WHEN kind IN ('function', 'procedure', 'aggregate') THEN pg_catalog.format('%I(%s)', path[1],
            (SELECT pg_catalog.string_agg(CASE WHEN path[i] IN ('', 'pg_catalog') THEN '' ELSE pg_catalog.quote_ident(path[i]) || '.' END || pg_catalog.quote_ident(path[i + 1]), ', ' ORDER BY i)
             FROM pg_catalog.generate_series(2, cardinality(path), 2) i))
        WHEN kind LIKE 'default privileges%' THEN pg_catalog.format('%s of %s to %s', path[2], pg_catalog.ltrim(path[3], '@='), pg_catalog.ltrim(path[1], '@='))
        WHEN kind = 'other' THEN pg_catalog.array_to_string(path, ' ')
        ELSE (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p), '.' ORDER BY n) FROM pg_catalog.unnest(path) WITH ORDINALITY u (p, n) WHERE p <> '')
        END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_object_label(text, text[]) FROM PUBLIC;

-- The object that a line is part of, or is: what kind of name it has, and the name.
CREATE FUNCTION kessel._schema_line_of(kind text, path text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN kind IN ('grant', 'grant option') THEN kessel._schema_line_of(path[2], path[3:])
        WHEN kind IN ('owner', 'comment') THEN kessel._schema_line_of(path[1], path[2:])
        WHEN kind IN ('function', 'procedure', 'aggregate') THEN 'routine'::text || path
        WHEN kind IN ('type', 'domain', 'domain not null', 'domain default', 'domain constraint') THEN ARRAY['type', path[1]]
        WHEN kind IN ('schema', 'statistics', 'other') OR kind LIKE 'default privileges%' THEN kind || path
        ELSE ARRAY['relation', path[1]]
        END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_line_of(text, text[]) FROM PUBLIC;

-- Is the line the object itself?
CREATE FUNCTION kessel._schema_line_is_object(kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN kind IN ('table', 'foreign table', 'view', 'materialized view', 'sequence', 'type', 'domain', 'function', 'procedure', 'aggregate');
REVOKE ALL ON FUNCTION kessel._schema_line_is_object(text) FROM PUBLIC;

CREATE FUNCTION kessel._schema_role(role text, owner text, runtime text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE role WHEN '@public' THEN 'PUBLIC' WHEN '@owner' THEN pg_catalog.quote_ident(owner) WHEN '@runtime' THEN pg_catalog.quote_ident(runtime)
    ELSE pg_catalog.quote_ident(pg_catalog.substr(role, 2)) END;
REVOKE ALL ON FUNCTION kessel._schema_role(text, text, text) FROM PUBLIC;

-- What makes what a line of a reference says, on an object that is there. NULL: the line does not tell.
CREATE FUNCTION kessel._schema_make(kind text, path text[], definition text, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel text := format('ALTER TABLE %I.%I ', schema_name, path[1]);
    col text := rel || format('ALTER COLUMN %I ', coalesce(path[2], ''));
    dom text := format('ALTER DOMAIN %I.%I ', schema_name, path[1]);
BEGIN
    RETURN CASE kind
        WHEN 'schema' THEN format('CREATE SCHEMA %I', schema_name)
        WHEN 'view' THEN 'CREATE ' || definition
        WHEN 'materialized view' THEN 'CREATE ' || definition
        WHEN 'sequence' THEN format('CREATE SEQUENCE %I.%I %s', schema_name, path[1], definition)
        WHEN 'owned by' THEN format('ALTER SEQUENCE %I.%I OWNED BY %s', schema_name, path[1], definition)
        WHEN 'unlogged' THEN format('ALTER SEQUENCE %I.%I SET UNLOGGED', schema_name, path[1])
        WHEN 'inheritance' THEN rel || 'INHERIT ' || definition
        WHEN 'of type' THEN rel || 'OF ' || definition
        WHEN 'parameter' THEN rel || format('SET (%I = %L)', path[2], definition)
        WHEN 'toast parameter' THEN rel || format('SET (toast.%I = %L)', path[2], definition)
        WHEN 'row security' THEN rel || 'ENABLE ROW LEVEL SECURITY'
        WHEN 'forced row security' THEN rel || 'FORCE ROW LEVEL SECURITY'
        WHEN 'replica identity' THEN rel || 'REPLICA IDENTITY ' || definition
        WHEN 'clustered on' THEN rel || 'CLUSTER ON ' || definition
        WHEN 'column' THEN rel || format('ADD COLUMN %I %s', path[2], definition)
        WHEN 'not null' THEN CASE WHEN definition = 'NOT NULL' THEN col || 'SET NOT NULL'
                                  ELSE rel || format('ADD NOT NULL %I%s', path[2], substr(definition, 9)) END
        WHEN 'default' THEN col || 'SET DEFAULT ' || definition
        WHEN 'identity' THEN format('%sADD %s; SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence(%L, %L), coalesce(max(%I), 0) + 1, false) FROM %I.%I',
                                    col, kessel._schema_identity(definition), format('%I.%I', schema_name, path[1]), path[2], path[2], schema_name, path[1])
        WHEN 'column setting' THEN CASE WHEN path[3] <> 'fdw options' THEN col || 'SET ' || definition END
        WHEN 'constraint' THEN rel || format('ADD CONSTRAINT %I %s', path[2], definition)
        WHEN 'index' THEN definition
        WHEN 'index parameter' THEN format('ALTER INDEX %I.%I SET (%I = %L)', schema_name, path[2], path[3], definition)
        WHEN 'trigger' THEN definition
        WHEN 'rule' THEN definition
        WHEN 'statistics' THEN definition
        WHEN 'policy' THEN format('CREATE POLICY %I ON %I.%I %s', path[2], schema_name, path[1],
                                  replace(replace(definition, '"@owner"', quote_ident(owner)), '"@runtime"', coalesce(quote_ident(runtime), '"@runtime"')))
        WHEN 'type' THEN format('CREATE TYPE %I.%I AS %s', schema_name, path[1], definition)
        WHEN 'domain' THEN format('CREATE DOMAIN %I.%I AS %s', schema_name, path[1], definition)
        WHEN 'domain not null' THEN dom || 'SET NOT NULL'
        WHEN 'domain default' THEN dom || 'SET DEFAULT ' || definition
        WHEN 'domain constraint' THEN dom || format('ADD CONSTRAINT %I %s', path[2], definition)
        WHEN 'function' THEN 'SET LOCAL check_function_bodies = off; ' || definition
        WHEN 'procedure' THEN 'SET LOCAL check_function_bodies = off; ' || definition
        WHEN 'comment' THEN format('COMMENT ON %s IS %L', kessel._schema_object(path[1], path[2:], schema_name), definition)
        WHEN 'owner' THEN format('ALTER %s OWNER TO %s', kessel._schema_object(path[1], path[2:], schema_name), kessel._schema_role(definition, owner, runtime))
        WHEN 'default privileges' THEN format('ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %I GRANT %s ON %s TO %s',
                                              kessel._schema_role(path[3], owner, runtime), schema_name, definition, path[2], kessel._schema_role(path[1], owner, runtime))
        WHEN 'default privileges with grant option' THEN format('ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %I GRANT %s ON %s TO %s WITH GRANT OPTION',
                                              kessel._schema_role(path[3], owner, runtime), schema_name, definition, path[2], kessel._schema_role(path[1], owner, runtime))
        END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_make(text, text[], text, text, text, text) FROM PUBLIC;

-- GENERATED ALWAYS SET INCREMENT BY 1 SET ... as ADD wants it.
CREATE FUNCTION kessel._schema_identity(definition text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.replace(pg_catalog.regexp_replace(definition, '^(GENERATED ALWAYS|GENERATED BY DEFAULT) SET ', '\1 AS IDENTITY ('), ' SET ', ' ') || ')';
REVOKE ALL ON FUNCTION kessel._schema_identity(text) FROM PUBLIC;

-- What takes away what a line of the target's says. Of that line only the path is
-- used, and of the path only names, each of them quoted. NULL: there is no such SQL.
CREATE FUNCTION kessel._schema_unmake(kind text, path text[], schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel text := format('ALTER TABLE %I.%I ', schema_name, path[1]);
    col text := rel || format('ALTER COLUMN %I ', coalesce(path[2], ''));
    dom text := format('ALTER DOMAIN %I.%I ', schema_name, path[1]);
BEGIN
    RETURN CASE
        WHEN kessel._schema_line_is_object(kind) OR kind IN ('index', 'statistics')
            THEN regexp_replace(kessel._schema_object(kind, path, schema_name), '^((?:FOREIGN |MATERIALIZED )?[A-Z]+) ', 'DROP \1 IF EXISTS ')
        WHEN kind IN ('trigger', 'policy', 'rule') THEN format('DROP %s IF EXISTS %I ON %I.%I', upper(kind), path[2], schema_name, path[1])
        WHEN kind = 'constraint' THEN rel || format('DROP CONSTRAINT IF EXISTS %I', path[2])
        WHEN kind = 'owned by' THEN format('ALTER SEQUENCE %I.%I OWNED BY NONE', schema_name, path[1])
        WHEN kind = 'unlogged' THEN format('ALTER SEQUENCE %I.%I SET LOGGED', schema_name, path[1])
        WHEN kind = 'inheritance' THEN rel || format('NO INHERIT %I.%I', coalesce(nullif(path[2], ''), schema_name), path[3])
        WHEN kind = 'of type' THEN rel || 'NOT OF'
        WHEN kind = 'parameter' THEN rel || format('RESET (%I)', path[2])
        WHEN kind = 'toast parameter' THEN rel || format('RESET (toast.%I)', path[2])
        WHEN kind = 'row security' THEN rel || 'DISABLE ROW LEVEL SECURITY'
        WHEN kind = 'forced row security' THEN rel || 'NO FORCE ROW LEVEL SECURITY'
        WHEN kind = 'replica identity' THEN rel || 'REPLICA IDENTITY DEFAULT'
        WHEN kind = 'clustered on' THEN rel || 'SET WITHOUT CLUSTER'
        WHEN kind = 'column' THEN rel || format('DROP COLUMN IF EXISTS %I', path[2])
        WHEN kind = 'not null' THEN col || 'DROP NOT NULL'
        WHEN kind = 'default' THEN col || 'DROP DEFAULT'
        WHEN kind = 'identity' THEN col || 'DROP IDENTITY IF EXISTS'
        WHEN kind = 'column setting' THEN col || CASE path[3] WHEN 'statistics' THEN 'SET STATISTICS -1' WHEN 'options' THEN 'RESET (n_distinct, n_distinct_inherited)'
                                                              WHEN 'compression' THEN 'SET COMPRESSION DEFAULT' END
        WHEN kind = 'index parameter' THEN format('ALTER INDEX %I.%I RESET (%I)', schema_name, path[2], path[3])
        WHEN kind = 'domain not null' THEN dom || 'DROP NOT NULL'
        WHEN kind = 'domain default' THEN dom || 'DROP DEFAULT'
        WHEN kind = 'domain constraint' THEN dom || format('DROP CONSTRAINT IF EXISTS %I', path[2])
        WHEN kind = 'comment' THEN format('COMMENT ON %s IS NULL', kessel._schema_object(path[1], path[2:], schema_name))
        WHEN kind = 'owner' THEN format('ALTER %s OWNER TO %I', kessel._schema_object(path[1], path[2:], schema_name), owner)
        WHEN kind IN ('default privileges', 'default privileges with grant option') AND path[2] IN ('TABLES', 'SEQUENCES', 'FUNCTIONS', 'TYPES')
            THEN format('ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %I REVOKE ALL ON %s FROM %s',
                        kessel._schema_role(path[3], owner, runtime), schema_name, path[2], kessel._schema_role(path[1], owner, runtime))
        END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_unmake(text, text[], text, text, text) FROM PUBLIC;

-- The lines of a target or a reference, as rows; kinds: only those.
CREATE FUNCTION kessel._schema_lines(lines jsonb, kinds text[] DEFAULT NULL)
RETURNS TABLE (kind text, path text[], definition text, ord bigint, needs text[])
LANGUAGE sql IMMUTABLE ROWS 1000 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l ->> 0, ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(l) WHEN 'array' THEN l -> 1 ELSE l END)), l ->> 2, (l ->> 3)::bigint,
           CASE WHEN jsonb_typeof(l -> 4) = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(l -> 4)) END
    FROM jsonb_array_elements(lines) l WHERE kinds IS NULL OR l ->> 0 = ANY (kinds);
END;
REVOKE ALL ON FUNCTION kessel._schema_lines(jsonb, text[]) FROM PUBLIC;

-- What privileges of a role on an object should be, from nothing on. Those on a
-- table and on its columns go together: to revoke the ones takes away the others.
CREATE FUNCTION kessel._schema_grants(grant_path text[], expected jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class text := CASE WHEN grant_path[2] = 'column' THEN 'table' ELSE grant_path[2] END;
    names text[] := CASE WHEN grant_path[2] = 'column' THEN grant_path[3:3] ELSE grant_path[3:] END;
    -- GRANT knows no view.
    object text := regexp_replace(kessel._schema_object(class, names, schema_name), '^(FOREIGN TABLE|MATERIALIZED VIEW|VIEW) ', 'TABLE ');
    role text := kessel._schema_role(grant_path[1], owner, runtime);
    given text;
    told boolean;
BEGIN
    IF object IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT string_agg(format('; GRANT %s ON %s TO %s%s',
                             CASE WHEN l.path[2] = 'column' THEN (SELECT string_agg(format('%s (%I)', p, l.path[4]), ', ') FROM string_to_table(l.definition, ', ') p) ELSE l.definition END,
                             object, role, CASE l.kind WHEN 'grant option' THEN ' WITH GRANT OPTION' ELSE '' END), '' ORDER BY l.kind, l.path) FILTER (WHERE l.definition <> 'none'),
           count(*) FILTER (WHERE l.path[2] <> 'column' AND l.kind = 'grant') > 0
    INTO given, told
    FROM kessel._schema_lines(expected, '{grant,grant option}') l
    WHERE l.path[1] = grant_path[1]
      AND (l.path[2:] = class || names OR class NOT IN ('function', 'procedure', 'aggregate', 'type', 'domain', 'sequence') AND l.path[3] = names[1] AND l.path[2] IN ('column', grant_path[2], 'table', 'view', 'materialized view', 'foreign table'));
    -- What an object has at first.
    IF NOT told AND grant_path[1] = '@owner' THEN
        given := coalesce(given, '') || format('; GRANT ALL ON %s TO %s', object, role);
    ELSIF NOT told AND grant_path[1] = '@public' AND class IN ('function', 'procedure', 'aggregate', 'type', 'domain') THEN
        given := coalesce(given, '') || format('; GRANT ALL ON %s TO PUBLIC', object);
    END IF;
    RETURN format('REVOKE ALL ON %s FROM %s', object, role) || coalesce(given, '');
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_grants(text[], jsonb, text, text, text) FROM PUBLIC;

-- With all that stands within its parentheses. A partition takes its columns from its parent.
CREATE FUNCTION kessel._schema_make_table(name text, definition text, expected jsonb, schema_name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words text[] := regexp_match(definition, '^((?:UNLOGGED |FOREIGN )?TABLE)(.*)$');
    parts jsonb;
    columns text;
BEGIN
    IF words[2] LIKE ' PARTITION OF %' THEN
        RETURN format('CREATE %s %I.%I%s', words[1], schema_name, name, words[2]);
    END IF;
    parts := (SELECT jsonb_agg(l) FROM jsonb_array_elements(expected) l WHERE l ->> 0 IN ('column', 'default', 'identity', 'not null') AND l -> 1 ->> 0 = name);
    columns := (SELECT string_agg(kessel._schema_make_column(l.path, l.definition, parts), ', ' ORDER BY l.ord) FROM kessel._schema_lines(parts, '{column}') l);
    RETURN format('CREATE %s %I.%I (%s)%s', words[1], schema_name, name, columns, words[2]);
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_make_table(text, text, jsonb, text) FROM PUBLIC;

-- A column with its default, as CREATE TABLE and ADD COLUMN want it.
CREATE FUNCTION kessel._schema_make_column(column_path text[], column_type text, expected jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.quote_ident(column_path[2]) || ' ' || column_type
               || coalesce(pg_catalog.string_agg(CASE l.kind WHEN 'default' THEN ' DEFAULT ' || l.definition WHEN 'identity' THEN ' ' || kessel._schema_identity(l.definition)
                                                             WHEN 'not null' THEN ' NOT NULL' END, '' ORDER BY l.kind), '')
        FROM kessel._schema_lines(expected, '{default,identity,not null}') l WHERE l.path = column_path);
REVOKE ALL ON FUNCTION kessel._schema_make_column(text[], text, jsonb) FROM PUBLIC;

-- The order in which things are made.
CREATE FUNCTION kessel._schema_rank(kind text, definition text) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN 300 + CASE
    WHEN kind IN ('type', 'domain', 'sequence', 'table', 'foreign table', 'function', 'procedure') THEN 0
    WHEN kind IN ('domain not null', 'domain default', 'domain constraint', 'unlogged') THEN 1
    WHEN kind = 'column' THEN 2
    WHEN kind IN ('inheritance', 'of type') THEN 3
    WHEN kind = 'not null' THEN 5
    WHEN kind IN ('default', 'identity') THEN 6
    WHEN kind IN ('owned by', 'parameter', 'toast parameter', 'column setting') THEN 7
    WHEN kind = 'constraint' AND definition NOT LIKE 'FOREIGN KEY%' THEN 10
    WHEN kind IN ('view', 'materialized view') THEN 11
    WHEN kind = 'index' THEN 12
    WHEN kind = 'constraint' THEN 13
    WHEN kind IN ('index parameter', 'clustered on', 'replica identity', 'statistics') THEN 14
    WHEN kind = 'rule' THEN 15
    WHEN kind = 'trigger' THEN 16
    WHEN kind IN ('row security', 'forced row security', 'policy') THEN 17
    WHEN kind = 'owner' THEN 18
    ELSE 19 END;
REVOKE ALL ON FUNCTION kessel._schema_rank(text, text) FROM PUBLIC;

-- The privileges of what has just been made, which default privileges may have given others.
CREATE FUNCTION kessel._schema_make_grants(class text, object_path text[], expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN coalesce((
    SELECT pg_catalog.string_agg('; ' || kessel._schema_grants(ARRAY[g.grantee, class] || object_path, expected, schema_name, owner, runtime), '' ORDER BY g.grantee)
    FROM (SELECT l.path[1] FROM kessel._schema_lines(expected, '{grant,grant option,default privileges,default privileges with grant option}') l
          WHERE l.kind IN ('grant', 'grant option') AND (l.path[2:] = class || object_path OR l.path[2] = 'column' AND l.path[3:3] = object_path) OR l.kind LIKE 'default privileges%'
        UNION
          SELECT l.path[1] FROM kessel._schema_lines(actual, '{default privileges,default privileges with grant option}') l) g (grantee)), '');
REVOKE ALL ON FUNCTION kessel._schema_make_grants(text, text[], jsonb, jsonb, text, text, text) FROM PUBLIC;

-- A view or a routine and all that a reference says of it, in an order in which it can be made.
CREATE FUNCTION kessel._schema_make_whole(class text, object_path text[], expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.string_agg(kessel._schema_make(l.kind, l.path, l.definition, schema_name, owner, runtime), '; ' ORDER BY kessel._schema_rank(l.kind, l.definition), l.ord)
        FROM kessel._schema_lines(expected) l
        WHERE kessel._schema_line_of(l.kind, l.path) = kessel._schema_line_of(class, object_path) AND l.kind NOT IN ('grant', 'grant option'))
    || kessel._schema_make_grants(class, object_path, expected, actual, schema_name, owner, runtime);
REVOKE ALL ON FUNCTION kessel._schema_make_whole(text, text[], jsonb, jsonb, text, text, text) FROM PUBLIC;

-- SQL within which views that stand on a relation, directly or not, are dropped, and
-- made again as the reference has them.
CREATE FUNCTION kessel._schema_without_views(inner_sql text, relation text, expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text;
    after text;
BEGIN
    WITH RECURSIVE views AS MATERIALIZED (
        SELECT l.kind, l.path, l.needs FROM kessel._schema_lines(actual, '{view,materialized view}') l WHERE l.needs IS NOT NULL
    ), dependents (name, depth) AS (
        SELECT v.path[1], 1 FROM views v WHERE relation = ANY (v.needs)
      UNION
        SELECT v.path[1], d.depth + 1 FROM dependents d JOIN views v ON d.name = ANY (v.needs) WHERE d.depth < 64
    ), deepest AS (
        SELECT v.kind, v.path, max(d.depth) AS depth FROM dependents d JOIN views v ON v.path[1] = d.name WHERE d.name <> relation GROUP BY 1, 2
    )
    SELECT string_agg(kessel._schema_unmake(d.kind, d.path, schema_name, owner, runtime) || '; ', '' ORDER BY d.depth DESC, d.path),
           string_agg('; ' || kessel._schema_make_whole(e.kind, e.path, expected, actual, schema_name, owner, runtime), '' ORDER BY d.depth, d.path)
    INTO before, after FROM deepest d LEFT JOIN kessel._schema_lines(expected, '{view,materialized view}') e ON e.path = d.path;
    RETURN coalesce(before, '') || inner_sql || coalesce(after, '');
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_without_views(text, text, jsonb, jsonb, text, text, text) FROM PUBLIC;

-- The same with foreign keys that refer to a constraint.
CREATE FUNCTION kessel._schema_without_references(inner_sql text, constraint_path text[], expected jsonb, actual jsonb, schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN coalesce((SELECT pg_catalog.string_agg(kessel._schema_unmake(a.kind, a.path, schema_name, NULL, NULL) || '; ', '' ORDER BY a.path)
                 FROM kessel._schema_lines(actual, '{constraint}') a WHERE a.needs = constraint_path), '')
       || inner_sql
       || coalesce((SELECT pg_catalog.string_agg('; ' || kessel._schema_make(e.kind, e.path, e.definition, schema_name, NULL, NULL), '' ORDER BY e.path)
                    FROM kessel._schema_lines(expected, '{constraint}') e
                    WHERE e.needs = constraint_path AND EXISTS (SELECT FROM kessel._schema_lines(actual, '{constraint}') a WHERE a.path = e.path AND a.needs = constraint_path)), '');
REVOKE ALL ON FUNCTION kessel._schema_without_references(text, text[], jsonb, jsonb, text) FROM PUBLIC;

-- The comment of what is made again, behind it.
CREATE FUNCTION kessel._schema_make_comment(class text, of_path text[], expected jsonb, schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN coalesce((SELECT '; ' || kessel._schema_make(e.kind, e.path, e.definition, schema_name, NULL, NULL)
                 FROM kessel._schema_lines(expected, '{comment}') e WHERE e.path = class || of_path), '');
REVOKE ALL ON FUNCTION kessel._schema_make_comment(text, text[], jsonb, text) FROM PUBLIC;

-- The same with the policies and triggers of a table.
CREATE FUNCTION kessel._schema_without_policies(inner_sql text, relation text, expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN coalesce((SELECT pg_catalog.string_agg(kessel._schema_unmake(a.kind, a.path, schema_name, owner, runtime) || '; ', '' ORDER BY a.kind, a.path)
                 FROM kessel._schema_lines(actual, '{policy,trigger}') a WHERE a.path[1] = relation), '')
       || inner_sql
       || coalesce((SELECT pg_catalog.string_agg('; ' || kessel._schema_make(e.kind, e.path, e.definition, schema_name, owner, runtime)
                                                 || kessel._schema_make_comment(e.kind, e.path, expected, schema_name), '' ORDER BY e.kind, e.path)
                    FROM kessel._schema_lines(expected, '{policy,trigger}') e
                    WHERE e.path[1] = relation AND EXISTS (SELECT FROM kessel._schema_lines(actual, '{policy,trigger}') a WHERE a.kind = e.kind AND a.path = e.path)), '');
REVOKE ALL ON FUNCTION kessel._schema_without_policies(text, text, jsonb, jsonb, text, text, text) FROM PUBLIC;

-- A column of another type or collation, or generated otherwise.
CREATE FUNCTION kessel._schema_change_column(path text[], wanted text, was text, expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel text := format('ALTER TABLE %I.%I ', schema_name, path[1]);
    col text := rel || format('ALTER COLUMN %I ', path[2]);
    new_default text := (SELECT e.definition FROM kessel._schema_lines(expected, '{default}') e WHERE e.path = _schema_change_column.path);
    mend text;
BEGIN
    IF wanted LIKE '% GENERATED ALWAYS AS (%' THEN
        mend := rel || format('DROP COLUMN %I; ', path[2]) || rel || 'ADD COLUMN ' || kessel._schema_make_column(path, wanted, expected);
    ELSE
        mend := CASE WHEN was LIKE '% GENERATED ALWAYS AS (%' THEN col || 'DROP EXPRESSION; ' ELSE col || 'DROP DEFAULT; ' END
                || col || format('TYPE %s USING %I::%s', wanted, path[2], regexp_replace(wanted, ' COLLATE .*$', ''))
                || coalesce('; ' || col || 'SET DEFAULT ' || new_default, '');
        -- An identity has no default.
        IF EXISTS (SELECT FROM kessel._schema_lines(actual, '{identity}') a WHERE a.path = _schema_change_column.path) THEN
            mend := replace(mend, col || 'DROP DEFAULT; ', '');
        END IF;
    END IF;
    RETURN kessel._schema_without_views(kessel._schema_without_policies(mend, path[1], expected, actual, schema_name, owner, runtime), path[1], expected, actual, schema_name, owner, runtime);
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_change_column(text[], text, text, jsonb, jsonb, text, text, text) FROM PUBLIC;

-- An enum that lacks labels; NULL where it has others, or another order of them.
CREATE FUNCTION kessel._schema_change_enum(name text, wanted text, was text, schema_name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    labels text[] := ARRAY(SELECT m[1] FROM regexp_matches(wanted, '(E?''(?:[^'']|'''')*'')', 'g') m);
    had text[] := ARRAY(SELECT m[1] FROM regexp_matches(was, '(E?''(?:[^'']|'''')*'')', 'g') m);
    mend text[] := '{}';
BEGIN
    IF wanted NOT LIKE 'ENUM (%' OR was NOT LIKE 'ENUM (%' OR had <> ARRAY(SELECT l FROM unnest(labels) WITH ORDINALITY u (l, n) WHERE l = ANY (had) ORDER BY n) THEN
        RETURN NULL;
    END IF;
    FOR i IN REVERSE cardinality(labels) .. 1 LOOP
        CONTINUE WHEN labels[i] = ANY (had);
        mend := mend || (format('ALTER TYPE %I.%I ADD VALUE IF NOT EXISTS %s', schema_name, name, labels[i])
                         || CASE WHEN i < cardinality(labels) THEN ' BEFORE ' || labels[i + 1] ELSE '' END);
    END LOOP;
    RETURN array_to_string(mend, '; ');
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_change_enum(text, text, text, text) FROM PUBLIC;

-- SQL for what is there, and otherwise than it should be. NULL: none is known.
CREATE FUNCTION kessel._schema_change(kind text, path text[], wanted text, was text, expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unmake text := kessel._schema_unmake(kind, path, schema_name, owner, runtime);
    make text := kessel._schema_make(kind, path, wanted, schema_name, owner, runtime);
    again text := unmake || '; ' || make || kessel._schema_make_comment(kind, path, expected, schema_name);
BEGIN
    RETURN CASE
        WHEN kind = 'column' THEN kessel._schema_change_column(path, wanted, was, expected, actual, schema_name, owner, runtime)
        WHEN kind = 'table' THEN CASE WHEN replace(wanted, 'UNLOGGED ', '') = replace(was, 'UNLOGGED ', '')
            THEN format('ALTER TABLE %I.%I SET %s', schema_name, path[1], CASE WHEN wanted LIKE 'UNLOGGED %' THEN 'UNLOGGED' ELSE 'LOGGED' END) END
        WHEN kind IN ('view', 'materialized view') THEN kessel._schema_without_views(
            unmake || '; ' || kessel._schema_make_whole(kind, path, expected, actual, schema_name, owner, runtime), path[1], expected, actual, schema_name, owner, runtime)
        WHEN kind IN ('function', 'procedure') THEN CASE WHEN split_part(wanted, E'\n LANGUAGE ', 1) = split_part(was, E'\n LANGUAGE ', 1) THEN make
            ELSE unmake || '; ' || kessel._schema_make_whole(kind, path, expected, actual, schema_name, owner, runtime) END
        WHEN kind = 'sequence' THEN format('ALTER SEQUENCE %I.%I %s', schema_name, path[1], wanted)
        WHEN kind = 'identity' THEN format('ALTER TABLE %I.%I ALTER COLUMN %I SET %s', schema_name, path[1], path[2], wanted)
        WHEN kind = 'type' THEN kessel._schema_change_enum(path[1], wanted, was, schema_name)
        WHEN kind = 'constraint' THEN kessel._schema_without_references(again, path, expected, actual, schema_name)
        WHEN kind IN ('index', 'trigger', 'rule', 'policy', 'statistics', 'domain constraint', 'not null', 'default privileges', 'default privileges with grant option') THEN again
        WHEN kind IN ('foreign table', 'domain', 'aggregate', 'other') THEN NULL
        ELSE make END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_change(text, text[], text, text, jsonb, jsonb, text, text, text) FROM PUBLIC;

-- SQL for any difference.
CREATE FUNCTION kessel._schema_mend(difference text, kind text, path text[], wanted text, was text, expected jsonb, actual jsonb, schema_name text, owner text, runtime text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unmake text;
BEGIN
    IF kind IN ('grant', 'grant option') THEN
        RETURN kessel._schema_grants(path, expected, schema_name, owner, runtime);
    ELSIF kind = 'column' AND EXISTS (SELECT FROM kessel._schema_lines(CASE difference WHEN 'unexpected' THEN actual ELSE expected END, '{column}') l
                                      WHERE l.path = _schema_mend.path AND l.needs[2] = 'inherited') THEN
        RETURN NULL;
    ELSIF difference = 'different' THEN
        RETURN kessel._schema_change(kind, path, wanted, was, expected, actual, schema_name, owner, runtime);
    END IF;
    unmake := kessel._schema_unmake(kind, path, schema_name, owner, runtime);
    IF difference = 'missing' THEN
        RETURN CASE
            WHEN kind IN ('table', 'foreign table') THEN kessel._schema_make_table(path[1], wanted, expected, schema_name)
                 || kessel._schema_make_grants(kind, path, expected, actual, schema_name, owner, runtime)
            WHEN kessel._schema_line_is_object(kind) THEN kessel._schema_make(kind, path, wanted, schema_name, owner, runtime)
                 || kessel._schema_make_grants(kind, path, expected, actual, schema_name, owner, runtime)
            WHEN kind = 'column' THEN format('ALTER TABLE %I.%I ADD COLUMN ', schema_name, path[1]) || kessel._schema_make_column(path, wanted, expected)
            -- Another line's SQL may have made it again already.
            WHEN kind IN ('policy', 'trigger', 'rule') THEN unmake || '; ' || kessel._schema_make(kind, path, wanted, schema_name, owner, runtime)
            ELSE kessel._schema_make(kind, path, wanted, schema_name, owner, runtime) END;
    END IF;
    RETURN CASE
        WHEN kind IN ('view', 'materialized view') THEN kessel._schema_without_views(unmake, path[1], expected, actual, schema_name, owner, runtime)
        -- What is as it should be cannot stand on it, and what is not has gone before.
        WHEN kind IN ('table', 'foreign table', 'sequence', 'column') THEN '/* destroys data */ ' || unmake
        WHEN kind = 'column setting' AND path[3] = 'storage' THEN format('ALTER TABLE %I.%I ALTER COLUMN %I SET STORAGE %s', schema_name, path[1], path[2],
            (SELECT l.needs[1] FROM kessel._schema_lines(expected, '{column}') l WHERE l.path = _schema_mend.path[1:2]))
        WHEN kind = 'constraint' THEN kessel._schema_without_references(unmake, path, expected, actual, schema_name)
        ELSE unmake END;
END
$$;
REVOKE ALL ON FUNCTION kessel._schema_mend(text, text, text[], text, text, jsonb, jsonb, text, text, text) FROM PUBLIC;

-- Where in the order a difference is mended: first what is in the way goes, from
-- what stands on others to what others stand on; then what should be there is made;
-- at last what holds data goes.
CREATE FUNCTION kessel._schema_step(difference text, kind text, definition text, in_the_way boolean) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN difference = 'different' AND kind = 'column' THEN 304
    WHEN difference = 'different' AND kind IN ('function', 'procedure') THEN 308
    WHEN difference <> 'unexpected' THEN kessel._schema_rank(kind, definition)
    WHEN kind IN ('policy', 'trigger', 'rule') THEN 100
    WHEN kind IN ('view', 'materialized view') THEN 103
    WHEN kind = 'constraint' AND definition LIKE 'FOREIGN KEY%' THEN 104
    WHEN kind IN ('constraint', 'index', 'statistics', 'inheritance') THEN 107
    WHEN in_the_way THEN 120
    WHEN kind IN ('default', 'identity', 'not null') THEN 121
    WHEN kind = 'column' THEN 400
    WHEN kind IN ('table', 'foreign table') THEN 401
    WHEN kind IN ('function', 'procedure', 'aggregate') THEN 402
    WHEN kind = 'sequence' THEN 403
    WHEN kind IN ('type', 'domain') THEN 404
    ELSE 320 END;
REVOKE ALL ON FUNCTION kessel._schema_step(text, text, text, boolean) FROM PUBLIC;

-- Why there is no SQL, or what to know of it.
CREATE FUNCTION kessel._schema_note(difference text, kind text, definition text, mend text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN mend LIKE '/* destroys data */%' THEN 'Rows or values go with it. If they are needed, put it into a migration instead.'
    WHEN mend IS NOT NULL AND kind = 'column' AND difference = 'different' AND definition NOT LIKE '%GENERATED ALWAYS AS (%' THEN 'The table is written anew. A value that cannot be cast is an error.'
    WHEN mend IS NOT NULL AND kind = 'column' AND difference = 'different' THEN 'Indexes and constraints on the column go with it: compare again afterwards.'
    WHEN mend IS NOT NULL THEN NULL
    WHEN kind = 'column' THEN 'It is inherited: its parent''s line is for it, too.'
    WHEN kind IN ('aggregate', 'other') THEN 'Of such objects only is compared that they are there.'
    WHEN kind = 'type' THEN 'A type cannot be changed so while columns have it: write a migration.'
    WHEN kind = 'domain' THEN 'A domain''s type cannot be changed: write a migration.'
    WHEN kind IN ('table', 'foreign table') THEN 'It would have to be made anew, with its rows: write a migration.'
    ELSE 'No statement is known that changes it.' END;
REVOKE ALL ON FUNCTION kessel._schema_note(text, text, text, text) FROM PUBLIC;

-- What differs, in the order in which it can be mended. What goes without saying is
-- left out: parts of what is missing or unexpected as a whole.
CREATE FUNCTION kessel._schema_differences(expected jsonb, actual jsonb, schema_name text, owner text, runtime text)
RETURNS TABLE (kind text, path text[], difference text, wanted text, was text, mend text, note text)
LANGUAGE sql IMMUTABLE ROWS 10 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH lines AS MATERIALIZED (
        SELECT coalesce(e.kind, a.kind) AS kind, coalesce(e.path, a.path) AS path, e.definition AS wanted, a.definition AS was, coalesce(e.ord, a.ord) AS ord,
               kessel._schema_line_of(coalesce(e.kind, a.kind), coalesce(e.path, a.path)) AS object,
               kessel._schema_line_is_object(coalesce(e.kind, a.kind)) AS is_object,
               CASE WHEN a.kind IS NULL THEN 'missing' WHEN e.kind IS NULL THEN 'unexpected' ELSE 'different' END AS difference
        FROM kessel._schema_lines(_schema_differences.expected) e FULL JOIN kessel._schema_lines(_schema_differences.actual) a ON e.kind = a.kind AND e.path = a.path
        WHERE e.definition IS DISTINCT FROM a.definition
    ), told AS MATERIALIZED (
        SELECT l.* FROM lines l
        WHERE NOT EXISTS (
            SELECT FROM lines o
            WHERE o.object = l.object AND o.difference = l.difference
              AND (o.is_object AND NOT l.is_object
                   AND (o.difference = 'unexpected' OR l.kind IN ('grant', 'grant option') OR l.kind IN ('column', 'not null', 'identity', 'default') AND o.kind IN ('table', 'foreign table'))
                   OR o.kind = 'column' AND l.object[1] = 'relation' AND (
                       l.kind IN ('not null', 'identity', 'default') AND l.path = o.path
                       OR o.difference = 'unexpected' AND (l.kind = 'column setting' AND l.path[1:2] = o.path
                          OR l.kind = 'comment' AND l.path = 'column'::text || o.path OR l.kind IN ('grant', 'grant option') AND l.path[2:] = 'column'::text || o.path))))
    ), lacking AS MATERIALIZED (
        SELECT DISTINCT t.path FROM told t WHERE t.difference = 'missing' AND t.is_object
    ), own AS MATERIALIZED (
        -- What is missing needs no more than its object's lines to be made.
        SELECT o.object, jsonb_agg(l.line) AS lines
        FROM (SELECT kessel._schema_line_of(x.kind, x.path) AS object, jsonb_build_array(x.kind, x.path, x.definition, x.ord, x.needs) AS line FROM kessel._schema_lines(_schema_differences.expected) x) l
        JOIN (SELECT DISTINCT t.object FROM told t WHERE t.difference = 'missing') o ON o.object = l.object GROUP BY 1
    ), defaults AS MATERIALIZED (
        SELECT (SELECT coalesce(jsonb_agg(l), '[]') FROM jsonb_array_elements(_schema_differences.expected) l WHERE l ->> 0 LIKE 'default privileges%') AS expected,
               (SELECT coalesce(jsonb_agg(l), '[]') FROM jsonb_array_elements(_schema_differences.actual) l WHERE l ->> 0 LIKE 'default privileges%') AS actual
    ), mended AS (
        SELECT t.*, kessel._schema_mend(t.difference, t.kind, t.path, t.wanted, t.was,
                                        CASE t.difference WHEN 'missing' THEN coalesce(w.lines, '[]') || d.expected ELSE _schema_differences.expected END,
                                        CASE t.difference WHEN 'missing' THEN d.actual ELSE _schema_differences.actual END,
                                        _schema_differences.schema_name, _schema_differences.owner, _schema_differences.runtime) AS mend,
               kessel._schema_step(t.difference, t.kind, coalesce(t.wanted, t.was), t.is_object AND g.path IS NOT NULL) AS step
        FROM defaults d, told t LEFT JOIN lacking g ON g.path = t.path LEFT JOIN own w ON w.object = t.object AND t.difference = 'missing'
    )
    SELECT m.kind, m.path, m.difference, m.wanted, m.was, m.mend, kessel._schema_note(m.difference, m.kind, m.wanted, m.mend)
    FROM mended m
    ORDER BY m.step, CASE WHEN m.difference = 'unexpected' THEN -m.ord ELSE m.ord END, m.kind COLLATE "C", m.path COLLATE "C";
END;
REVOKE ALL ON FUNCTION kessel._schema_differences(jsonb, jsonb, text, text, text) FROM PUBLIC;

-- Router tables made from a data source's tables.
--
-- What the source says is text from outside, perhaps from a customer's server:
-- no type name, expression or comment of it goes into a statement as it is.
-- Types and collations are looked up here by name and written as this server
-- writes them; an expression is taken apart, and every word in it must be known.
--
-- Reading the source needs the extension owner's rights, making tables must not
-- have them: what import_tables() makes belongs to its caller.

-- The one query that reads the source, as its runtime role: relations with any
-- privilege, their columns, and the types these are made of. "depth" orders
-- types so that a domain comes after its base.
CREATE FUNCTION kessel._describe_source(data_source text, remote_schema text, limit_to text[], "except" text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source app.data_sources := kessel._data_source(data_source);
    description jsonb;
    reasons text[];
BEGIN
    SELECT r[1] INTO STRICT description FROM kessel._remote_query(source.id, 'runtime', $query$
WITH RECURSIVE rel AS (
    SELECT c.oid, c.relname, c.relkind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      -- A partition is reached through its table, unless it is asked for.
      AND CASE WHEN $2::text[] IS NULL THEN NOT c.relispartition ELSE c.relname = ANY ($2::text[]) END
      AND c.relname <> ALL (coalesce($3::text[], '{}'))
      AND has_schema_privilege(n.oid, 'USAGE')
      AND (has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE') OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))
), col AS (
    SELECT rel.oid AS relid, rel.relname, a.attnum, a.attname, a.attnotnull, a.atttypid, a.atttypmod, a.attidentity, a.attgenerated,
           pg_get_expr(d.adbin, d.adrelid) AS expression, col_description(rel.oid, a.attnum) AS comment,
           CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation END AS collation
    FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
         JOIN pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), used (oid, depth, by) AS (
    SELECT atttypid, 0, format('column "%s" of table "%s"', attname, relname) FROM col
  UNION
    SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE e.oid END, used.depth + 1, used.by
    FROM used JOIN pg_type t ON t.oid = used.oid LEFT JOIN pg_type e ON e.typarray = t.oid
    WHERE t.typtype = 'd' OR e.oid IS NOT NULL
), typ AS (
    SELECT used.oid, max(used.depth) AS depth, min(used.by) AS by,
           -- how a type is named: arrays by their element
           jsonb_build_object('schema', n.nspname, 'name', t.typname, 'array', coalesce(t.oid <> used.oid, false), 'extension', x.extname,
                              'mirrored', x.extname IS NULL AND t.typtype IN ('e', 'd') AND n.nspname NOT IN ('pg_catalog', 'information_schema')) AS id
    FROM used LEFT JOIN pg_type e ON e.typarray = used.oid
         JOIN pg_type t ON t.oid = coalesce(e.oid, used.oid)
         JOIN pg_namespace n ON n.oid = t.typnamespace
         LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
         LEFT JOIN pg_extension x ON x.oid = d.refobjid
    GROUP BY used.oid, t.oid, t.typname, t.typtype, n.nspname, x.extname
), coll AS (
    SELECT c.oid, jsonb_build_object('schema', n.nspname, 'name', c.collname) AS id
    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
), columns AS (
    SELECT col.relid, jsonb_agg(jsonb_build_object(
               'name', col.attname, 'type', typ.id, 'typmod', col.atttypmod, 'collation', coll.id, 'not_null', col.attnotnull,
               'identity', col.attidentity <> '', 'generated', col.attgenerated <> '', 'expression', col.expression,
               'comment', col.comment) ORDER BY col.attnum) AS list
    FROM col JOIN typ ON typ.oid = col.atttypid LEFT JOIN coll ON coll.oid = col.collation
    GROUP BY col.relid
), enums AS (
    SELECT enumtypid, jsonb_agg(enumlabel ORDER BY enumsortorder) AS labels FROM pg_enum GROUP BY enumtypid
), checks AS (
    SELECT contypid, jsonb_object_agg(conname, pg_get_expr(conbin, 0)) AS list
    FROM pg_constraint WHERE contypid <> 0 AND contype = 'c' AND convalidated GROUP BY contypid
)
SELECT jsonb_build_object(
    'schema', (SELECT CASE WHEN has_schema_privilege(n.oid, 'USAGE') THEN 'ok' ELSE 'The runtime role has no USAGE on it.' END
               FROM pg_namespace n WHERE n.nspname = $1),
    'relations', (SELECT jsonb_agg(jsonb_build_object('name', rel.relname, 'comment', obj_description(rel.oid, 'pg_class'),
                                                      'columns', coalesce(columns.list, '[]')) ORDER BY rel.relname)
                  FROM rel LEFT JOIN columns ON columns.relid = rel.oid),
    'types', (SELECT jsonb_agg(typ.id || jsonb_build_object(
                         'by', typ.by, 'comment', obj_description(t.oid, 'pg_type'), 'labels', enums.labels,
                         'base', base.id, 'typmod', t.typtypmod, 'collation', coll.id, 'not_null', t.typnotnull,
                         'expression', pg_get_expr(t.typdefaultbin, 0), 'checks', checks.list) ORDER BY typ.depth DESC, t.typname)
              FROM typ JOIN pg_type t ON t.oid = typ.oid
                   LEFT JOIN enums ON enums.enumtypid = t.oid
                   LEFT JOIN checks ON checks.contypid = t.oid
                   LEFT JOIN typ base ON base.oid = t.typbasetype
                   LEFT JOIN pg_type b ON b.oid = t.typbasetype
                   LEFT JOIN coll ON coll.oid = t.typcollation AND t.typcollation <> b.typcollation
              WHERE (typ.id ->> 'mirrored')::boolean AND NOT (typ.id ->> 'array')::boolean))
$query$, ARRAY[remote_schema, limit_to::text, "except"::text]) r;

    IF description ->> 'schema' IS DISTINCT FROM 'ok' THEN
        RAISE EXCEPTION 'data source "%" has no usable schema "%"', source.name, remote_schema
            USING ERRCODE = 'invalid_schema_name',
                  DETAIL = coalesce(description ->> 'schema', 'The schema does not exist there.'),
                  HINT = 'Check the name, and grant the runtime role USAGE on the schema.';
    END IF;

    -- A table that came after the tenants, and that nobody has protected, would show them each other's rows.
    IF source.isolation = 'row' AND EXISTS (SELECT FROM app.tenants t WHERE t.data_source_id = source.id) THEN
        reasons := ARRAY(SELECT kessel._row_safety(source.id));
        IF reasons <> '{}' THEN
            RAISE EXCEPTION 'data source "%" is not safe for row isolation', source.name
                USING ERRCODE = 'KR006', DETAIL = pg_catalog.array_to_string(reasons, E'\n'),
                      HINT = 'Protect each table with kessel_agent.protect(''schema.table''), or list it in the data source''s option shared_tables.';
        END IF;
    END IF;

    -- Where tenants' tables live, the schema is the tenant's own: the executor puts it in.
    RETURN description || pg_catalog.jsonb_build_object('schema_name', CASE
        WHEN remote_schema = coalesce(source.options ->> 'schema', CASE WHEN source.isolation <> 'schema' THEN 'public' END)
             OR EXISTS (SELECT FROM app.tenants t
                        WHERE t.data_source_id = source.id AND t.isolation = 'schema' AND t.tenant_id_in_data_source = remote_schema)
        THEN '@tenant' ELSE remote_schema END);
END
$$;
REVOKE ALL ON FUNCTION kessel._describe_source(text, text, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._describe_source(text, text, text[], text[]) TO kessel_admin;

-- The type here that a type of the source stands for: the built-in one, the
-- mirror in local_schema, or that of the same extension. NULL if there is none.
CREATE FUNCTION kessel._local_type(type jsonb, local_schema text) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN (type ->> 'array')::boolean THEN nullif(t.typarray, 0) ELSE t.oid END
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typname = type ->> 'name'
      AND CASE WHEN (type ->> 'mirrored')::boolean THEN n.nspname = local_schema AND t.typtype IN ('e', 'd')
               WHEN type ->> 'extension' IS NULL THEN n.nspname = type ->> 'schema' AND t.typtype <> 'p'
               ELSE EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
                            WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                              AND x.extname = type ->> 'extension') END
$$;
REVOKE ALL ON FUNCTION kessel._local_type(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._local_type(jsonb, text) TO kessel_admin;

-- ' COLLATE x' for a collation of the source, '' for NULL.
CREATE FUNCTION kessel._local_collation(coll jsonb, by text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coll IS NULL OR coll = 'null' THEN
        RETURN '';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
                   WHERE c.collname = coll ->> 'name' AND n.nspname = coll ->> 'schema') THEN
        RAISE EXCEPTION '% has collation "%.%", which is unknown here', by, coll ->> 'schema', coll ->> 'name'
            USING ERRCODE = 'undefined_object', HINT = 'Create the collation here, or leave the table out with "except".';
    END IF;
    RETURN pg_catalog.format(' COLLATE %I.%I', coll ->> 'schema', coll ->> 'name');
END
$$;
REVOKE ALL ON FUNCTION kessel._local_collation(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._local_collation(jsonb, text) TO kessel_admin;

-- An expression of the source, as pg_get_expr() prints it under
-- search_path = pg_catalog, made into one for here; NULL if it means nothing
-- here or might do something: it may hold literals, columns, operators, casts,
-- and functions that are built in and either immutable or listed below.
-- types maps 'schema.type' of the source to a type here, for casts. Strings are
-- read as standard_conforming_strings = on has them, and so must the result be.
-- The result's parentheses are balanced; between two of the caller's it cannot
-- end the clause that it is put into, without them it can: '1, OWNER TO x'.
CREATE FUNCTION kessel._local_expression(expression text, types jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_$
DECLARE
    -- space, strings, names, numbers, operators, the rest
    pattern CONSTANT text := $re$(\s+|'(?:[^']|'')*'|"(?:[^"]|"")+"|[A-Za-z_][A-Za-z_0-9]*|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|::|[-+*/<>=~!@#%^&|`?]+|[][(),.])$re$;
    -- words before a parenthesis that are no function, or a harmless one that is not immutable
    words CONSTANT text[] := '{and,or,not,in,any,all,some,when,then,else,between,is,distinct,from,for,coalesce,nullif,greatest,least,
        extract,overlay,position,substring,trim,row,varying,character,bit,numeric,interval,time,timestamp,
        now,transaction_timestamp,statement_timestamp,clock_timestamp,timeofday,random,gen_random_uuid,uuidv4,uuidv7,
        timezone,date_trunc,date_part,age,date,to_char,to_date,to_timestamp,make_timestamptz,length,concat,concat_ws,format,array_to_string,
        to_json,to_jsonb,json_build_object,jsonb_build_object,json_build_array,jsonb_build_array}';
    -- words that would be about this server instead of the source
    refused CONSTANT text[] := '{select,operator,user,current_user,session_user,system_user,current_role,current_catalog,current_schema,
        regclass,regtype,regproc,regprocedure,regoper,regoperator,regrole,regnamespace,regconfig,regdictionary,regcollation}';
    tokens text[] := ARRAY(SELECT m[1] FROM pg_catalog.regexp_matches(expression, pattern, 'g') m);
    result text := '';
    cast_type text;
    depth integer := 0;
    name text;
    i integer := 1;
    following integer;
BEGIN
    IF pg_catalog.array_to_string(tokens, '') IS DISTINCT FROM expression THEN
        RETURN NULL;
    END IF;
    WHILE i <= pg_catalog.cardinality(tokens) LOOP
        CASE
        WHEN tokens[i] ~ '^[A-Za-z_"]' THEN
            name := CASE WHEN tokens[i] ~ '^"' THEN pg_catalog.replace(pg_catalog.substr(tokens[i], 2, pg_catalog.length(tokens[i]) - 2), '""', '"')
                         ELSE pg_catalog.lower(tokens[i]) END;
            following := CASE WHEN tokens[i + 1] ~ '^\s' THEN i + 2 ELSE i + 1 END;
            IF tokens[i + 1] = '.' THEN
                -- Only the type of a cast is qualified.
                cast_type := CASE WHEN tokens[i - 1] = '::' THEN types ->> (name || '.' ||
                    CASE WHEN tokens[i + 2] ~ '^"' THEN pg_catalog.replace(pg_catalog.btrim(tokens[i + 2], '"'), '""', '"') ELSE tokens[i + 2] END) END;
                IF cast_type IS NULL OR tokens[i + 3] = '.' THEN
                    RETURN NULL;
                END IF;
                result := result || cast_type;
                i := i + 3;
                CONTINUE;
            END IF;
            IF name = ANY (refused) OR tokens[i + 1] ~ '^''' THEN
                RETURN NULL;
            END IF;
            IF tokens[following] = '(' AND name <> ALL (words)
               AND NOT coalesce((SELECT pg_catalog.bool_and(p.provolatile = 'i') FROM pg_catalog.pg_proc p
                                 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = name), false) THEN
                RETURN NULL;
            END IF;
        WHEN tokens[i] = '(' THEN
            depth := depth + 1;
        WHEN tokens[i] = ')' THEN
            depth := depth - 1;
        WHEN tokens[i] = '.' OR tokens[i] ~ '^[^'']*(--|/\*)' THEN
            RETURN NULL;
        ELSE
            NULL;
        END CASE;
        IF depth < 0 THEN
            RETURN NULL;
        END IF;
        result := result || tokens[i];
        i := i + 1;
    END LOOP;
    RETURN CASE WHEN depth = 0 THEN nullif(result, '') END;
END
$_$;
REVOKE ALL ON FUNCTION kessel._local_expression(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._local_expression(text, jsonb) TO kessel_admin;

-- One enum or domain of the source into local_schema.
CREATE FUNCTION kessel._mirror_type(type jsonb, local_schema text, types jsonb) RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    local_name text := pg_catalog.format('%I.%I', local_schema, type ->> 'name');
    local pg_catalog.pg_type;
    is_enum boolean := type ->> 'labels' IS NOT NULL;
    created boolean;
    base text;
    expression text;
    previous text;
    item record;
BEGIN
    object := pg_catalog.format('type %s', local_name);
    SELECT t.* INTO local FROM pg_catalog.pg_type t
    WHERE t.typname = type ->> 'name' AND t.typnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = local_schema);
    created := NOT FOUND;
    IF local.typtype <> (CASE WHEN is_enum THEN 'e' ELSE 'd' END) THEN
        RAISE EXCEPTION 'type % exists and is no %', local_name, CASE WHEN is_enum THEN 'enum' ELSE 'domain' END
            USING ERRCODE = 'duplicate_object',
                  DETAIL = pg_catalog.format('Of the data source''s type %s.%s, used by %s, it should be the mirror.', type ->> 'schema', type ->> 'name', type ->> 'by'),
                  HINT = 'Import into another schema, or rename one of the two.';
    END IF;

    IF is_enum THEN
        IF created THEN
            EXECUTE pg_catalog.format('CREATE TYPE %s AS ENUM (%s)', local_name,
                (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(l), ', ' ORDER BY n)
                 FROM pg_catalog.jsonb_array_elements_text(type -> 'labels') WITH ORDINALITY AS x (l, n)));
        ELSE
            FOR item IN SELECT l AS label FROM pg_catalog.jsonb_array_elements_text(type -> 'labels') WITH ORDINALITY AS x (l, n) ORDER BY n LOOP
                IF NOT EXISTS (SELECT FROM pg_catalog.pg_enum e WHERE e.enumtypid = local.oid AND e.enumlabel = item.label) THEN
                    EXECUTE pg_catalog.format('ALTER TYPE %s ADD VALUE %L %s', local_name, item.label,
                        coalesce('AFTER ' || pg_catalog.quote_literal(previous),
                                 'BEFORE ' || pg_catalog.quote_literal((SELECT e.enumlabel FROM pg_catalog.pg_enum e WHERE e.enumtypid = local.oid
                                                                        ORDER BY e.enumsortorder LIMIT 1)), ''));
                    action := 'altered'; detail := pg_catalog.format('label %L added', item.label); RETURN NEXT;
                END IF;
                previous := item.label;
            END LOOP;
        END IF;
    ELSE
        base := pg_catalog.format_type(kessel._local_type(type -> 'base', local_schema), (type ->> 'typmod')::integer);
        IF kessel._local_type(type -> 'base', local_schema) IS NULL THEN
            RAISE EXCEPTION '% has type "%.%" over "%.%", which is unknown here', type ->> 'by', type ->> 'schema', type ->> 'name',
                            type -> 'base' ->> 'schema', type -> 'base' ->> 'name'
                USING ERRCODE = 'undefined_object',
                      HINT = coalesce('Run CREATE EXTENSION ' || pg_catalog.quote_ident(type -> 'base' ->> 'extension') || ' here',
                                      'Create the type here in a schema of the same name') || ', or leave the table out with "except".';
        END IF;
        IF created THEN
            EXECUTE pg_catalog.format('CREATE DOMAIN %s AS %s%s', local_name, base, kessel._local_collation(type -> 'collation', type ->> 'by'));
            SELECT t.* INTO local FROM pg_catalog.pg_type t WHERE t.oid = kessel._local_type(type, local_schema);
        ELSIF base <> pg_catalog.format_type(local.typbasetype, local.typtypmod) THEN
            RAISE EXCEPTION 'domain % is over %, that of the data source over %', local_name,
                            pg_catalog.format_type(local.typbasetype, local.typtypmod), base
                USING ERRCODE = 'datatype_mismatch', HINT = 'Drop the domain here and import again; PostgreSQL cannot change what a domain is over.';
        END IF;

        IF local.typnotnull <> (type ->> 'not_null')::boolean THEN
            EXECUTE pg_catalog.format('ALTER DOMAIN %s %s NOT NULL', local_name, CASE WHEN local.typnotnull THEN 'DROP' ELSE 'SET' END);
            action := 'altered'; detail := CASE WHEN local.typnotnull THEN 'NOT NULL dropped' ELSE 'NOT NULL set' END;
            IF NOT created THEN RETURN NEXT; END IF;
        END IF;

        expression := kessel._local_expression(type ->> 'expression', types);
        IF expression IS NULL AND type ->> 'expression' IS NOT NULL THEN
            action := 'default left out'; detail := type ->> 'expression'; RETURN NEXT;
        END IF;
        IF expression IS DISTINCT FROM pg_catalog.pg_get_expr(local.typdefaultbin, 0) THEN
            EXECUTE pg_catalog.format('ALTER DOMAIN %s %s', local_name, coalesce('SET DEFAULT (' || expression || ')', 'DROP DEFAULT'));
            action := 'altered'; detail := pg_catalog.format('default %s', coalesce(expression, 'dropped'));
            IF NOT created THEN RETURN NEXT; END IF;
        END IF;

        FOR item IN
            SELECT coalesce(c.key, k.conname::text) AS name, c.value AS remote, kessel._local_expression(c.value, types) AS wanted,
                   pg_catalog.pg_get_expr(k.conbin, 0) AS present
            FROM pg_catalog.jsonb_each_text(CASE WHEN type ->> 'checks' IS NULL THEN '{}' ELSE type -> 'checks' END) c
                 FULL JOIN (SELECT * FROM pg_catalog.pg_constraint WHERE contypid = local.oid AND contype = 'c') k ON k.conname::text = c.key
            ORDER BY 1
        LOOP
            IF item.wanted IS NULL AND item.remote IS NOT NULL THEN
                action := 'check left out'; detail := item.remote; RETURN NEXT;
            END IF;
            CONTINUE WHEN item.wanted IS NOT DISTINCT FROM item.present;
            IF item.present IS NOT NULL THEN
                EXECUTE pg_catalog.format('ALTER DOMAIN %s DROP CONSTRAINT %I', local_name, item.name);
            END IF;
            IF item.wanted IS NOT NULL THEN
                EXECUTE pg_catalog.format('ALTER DOMAIN %s ADD CONSTRAINT %I CHECK (%s)', local_name, item.name, item.wanted);
            END IF;
            action := 'altered'; detail := pg_catalog.format('check %I %s', item.name, coalesce(item.wanted, 'dropped'));
            IF NOT created THEN RETURN NEXT; END IF;
        END LOOP;
    END IF;

    IF type ->> 'comment' IS DISTINCT FROM pg_catalog.obj_description(local.oid, 'pg_type') AND type ->> 'comment' IS NOT NULL THEN
        EXECUTE pg_catalog.format('COMMENT ON TYPE %s IS %L', local_name, type ->> 'comment');
    END IF;
    IF created THEN
        action := 'created'; detail := CASE WHEN is_enum THEN 'enum' ELSE pg_catalog.format('domain over %s', base) END; RETURN NEXT;
    ELSIF action IS NULL THEN
        action := 'unchanged'; detail := NULL; RETURN NEXT;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._mirror_type(jsonb, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._mirror_type(jsonb, text, jsonb) TO kessel_admin;

-- A relation's columns as they shall be here. The column that the agent fills
-- in is left out: one set of router tables serves every isolation.
CREATE FUNCTION kessel._wanted_columns(relation jsonb, local_schema text, types jsonb)
RETURNS TABLE (num bigint, name text, type text, coll text, not_null boolean, generated text, "default" text, remote_default text, comment text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subject text;
    col jsonb;
BEGIN
    FOR num, col IN SELECT n, c FROM pg_catalog.jsonb_array_elements(relation -> 'columns') WITH ORDINALITY AS x (c, n) LOOP
        CONTINUE WHEN col ->> 'expression' ~ '^\(?kessel_agent\.tenant_id\(\)\)?(::[a-z0-9 ()]+)?$' AND NOT (col ->> 'generated')::boolean;
        name := col ->> 'name';
        subject := pg_catalog.format('column "%s" of table "%s"', name, relation ->> 'name');
        type := pg_catalog.format_type(kessel._local_type(col -> 'type', local_schema), (col ->> 'typmod')::integer);
        IF kessel._local_type(col -> 'type', local_schema) IS NULL THEN
            RAISE EXCEPTION '% has type "%.%", which is unknown here', subject, col -> 'type' ->> 'schema', col -> 'type' ->> 'name'
                USING ERRCODE = 'undefined_object',
                      HINT = coalesce('Run CREATE EXTENSION ' || pg_catalog.quote_ident(col -> 'type' ->> 'extension') || ' here',
                                      'Create the type here in a schema of the same name') || ', or leave the table out with "except".';
        END IF;
        coll := kessel._local_collation(col -> 'collation', subject);
        not_null := (col ->> 'not_null')::boolean;
        comment := col ->> 'comment';
        generated := NULL; "default" := NULL; remote_default := NULL;
        IF (col ->> 'generated')::boolean THEN
            -- Its value is always the source's; the expression here only makes
            -- the column one that is not written. Where it cannot be evaluated
            -- here, NULL does as well.
            generated := coalesce(kessel._local_expression(col ->> 'expression', types), pg_catalog.format('NULL::%s', type));
        ELSE
            "default" := kessel._local_expression(col ->> 'expression', types);
            remote_default := CASE WHEN (col ->> 'identity')::boolean THEN 'identity' ELSE col ->> 'expression' END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel._wanted_columns(jsonb, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._wanted_columns(jsonb, text, jsonb) TO kessel_admin;

-- One table: made, or its columns brought up to date.
CREATE FUNCTION kessel._import_relation(relation jsonb, local_schema text, schema_name text, types jsonb)
RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    local_name text := pg_catalog.format('%I.%I', local_schema, relation ->> 'name');
    table_object text := pg_catalog.format('table %s', local_name);
    rel oid := pg_catalog.to_regclass(local_name);
    created boolean := rel IS NULL;
    changed boolean := false;
    col record;
    definition text;
    present text;
    failure text;
    refresh boolean;
BEGIN
    IF created THEN
        EXECUTE pg_catalog.format('CREATE FOREIGN TABLE %s (%s) SERVER kessel_router OPTIONS (schema_name %L, table_name %L)', local_name,
            (SELECT pg_catalog.string_agg(pg_catalog.format('%I %s%s%s%s', w.name, w.type, w.coll,
                        ' GENERATED ALWAYS AS (' || w.generated || ') STORED', CASE WHEN w.not_null THEN ' NOT NULL' END), ', ' ORDER BY w.num)
             FROM kessel._wanted_columns(relation, local_schema, types) w),
            schema_name, relation ->> 'name');
        rel := pg_catalog.to_regclass(local_name);
        action := 'created'; object := table_object; detail := NULL; RETURN NEXT;
    ELSE
        SELECT f.ftoptions::text INTO present
        FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
        WHERE f.ftrelid = rel AND s.srvname = 'kessel_router'
          AND EXISTS (SELECT FROM pg_catalog.pg_options_to_table(f.ftoptions) o WHERE o.option_name = 'table_name' AND o.option_value = relation ->> 'name');
        IF NOT FOUND THEN
            RAISE EXCEPTION 'relation % exists and is not the router table of "%"', local_name, relation ->> 'name'
                USING ERRCODE = 'duplicate_table', HINT = 'Import into another schema, or leave the table out with "except".';
        END IF;
        FOR col IN
            SELECT o.option_value AS present FROM pg_catalog.pg_foreign_table f, pg_catalog.pg_options_to_table(f.ftoptions) o
            WHERE f.ftrelid = rel AND o.option_name = 'schema_name' AND o.option_value <> schema_name
        LOOP
            EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s OPTIONS (SET schema_name %L)', local_name, schema_name);
            changed := true;
            action := 'altered'; object := table_object; detail := pg_catalog.format('schema_name %s, was %s', schema_name, col.present); RETURN NEXT;
        END LOOP;
    END IF;

    FOR col IN
        SELECT coalesce(w.name, a.attname::text) AS name, w.num IS NOT NULL AS wanted, a.attname IS NOT NULL AS present,
               w.type || w.coll AS type, w.not_null, w.generated, w."default", w.remote_default, w.comment,
               pg_catalog.format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation
                   THEN (SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) FROM pg_catalog.pg_collation c
                         JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation) ELSE '' END AS present_type,
               a.attnotnull, a.attnum, a.attgenerated <> '' AS present_generated,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS present_expression,
               (SELECT o.option_value::boolean FROM pg_catalog.pg_options_to_table(a.attfdwoptions) o WHERE o.option_name = 'remote_default') AS present_remote_default,
               pg_catalog.col_description(rel, a.attnum) AS present_comment
        FROM kessel._wanted_columns(relation, local_schema, types) w
             FULL JOIN (SELECT * FROM pg_catalog.pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped) a ON a.attname::text = w.name
             LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = rel AND d.adnum = a.attnum
        -- Columns that go make way first: one that is generated may need them gone.
        ORDER BY w.num IS NOT NULL, w.num
    LOOP
        object := pg_catalog.format('column %s.%I', local_name, col.name);
        refresh := false;
        failure := NULL;

        -- What generates a column cannot be altered.
        IF col.present AND (NOT col.wanted OR col.present_generated <> (col.generated IS NOT NULL)
                            OR col.generated IS NOT NULL AND col.generated <> col.present_expression) THEN
            EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s DROP COLUMN %I', local_name, col.name);
            changed := true; col.present := false; col.present_expression := NULL; col.present_comment := NULL; col.present_remote_default := NULL;
            action := 'dropped column'; detail := col.present_type; RETURN NEXT;
        END IF;
        CONTINUE WHEN NOT col.wanted;

        IF NOT col.present THEN
            definition := pg_catalog.concat(col.type, ' GENERATED ALWAYS AS (' || col.generated || ') STORED', CASE WHEN col.not_null THEN ' NOT NULL' END);
            EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s ADD COLUMN %I %s', local_name, col.name, definition);
            changed := true;
            action := 'added column'; detail := definition; RETURN NEXT;
        ELSE
            IF col.type <> col.present_type THEN
                -- An old default may have no cast to the new type.
                EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s ALTER COLUMN %I %s', local_name, col.name,
                    CASE WHEN col.generated IS NULL THEN pg_catalog.format('DROP DEFAULT, ALTER COLUMN %I ', col.name) ELSE '' END || 'TYPE ' || col.type);
                changed := true;
                action := 'altered column'; detail := pg_catalog.format('type %s, was %s', col.type, col.present_type); RETURN NEXT;
                refresh := col.generated IS NULL;
            END IF;
            IF col.not_null <> col.attnotnull THEN
                EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s ALTER COLUMN %I %s NOT NULL', local_name, col.name, CASE WHEN col.not_null THEN 'SET' ELSE 'DROP' END);
                changed := true;
                action := 'altered column'; detail := CASE WHEN col.not_null THEN 'NOT NULL set' ELSE 'NOT NULL dropped' END; RETURN NEXT;
            END IF;
        END IF;

        IF col.generated IS NULL AND (refresh OR col."default" IS DISTINCT FROM col.present_expression) THEN
            BEGIN
                EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s ALTER COLUMN %I %s', local_name, col.name, coalesce('SET DEFAULT (' || col."default" || ')', 'DROP DEFAULT'));
                SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) INTO present
                FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                WHERE a.attrelid = rel AND a.attname = col.name;
                -- Another version may print the same expression in another way.
                IF NOT created AND present IS DISTINCT FROM col.present_expression THEN
                    changed := true;
                    action := 'altered column'; detail := pg_catalog.format('default %s', coalesce(present, 'dropped')); RETURN NEXT;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                -- A cast that this version lacks, or an enum's label that is new in this very transaction.
                col."default" := NULL; failure := ' (' || SQLERRM || ')';
            END;
        END IF;
        IF col.remote_default IS NOT NULL AND col."default" IS NULL THEN
            action := 'default left out'; detail := pg_catalog.concat(col.remote_default, failure); RETURN NEXT;
        END IF;
        -- An INSERT that leaves such a column out leaves it out there, too.
        IF (col.remote_default IS NOT NULL AND col."default" IS NULL) <> coalesce(col.present_remote_default, false) THEN
            EXECUTE pg_catalog.format('ALTER FOREIGN TABLE %s ALTER COLUMN %I OPTIONS (%s)', local_name, col.name,
                CASE WHEN col.present_remote_default THEN 'DROP remote_default' WHEN NOT col.present_remote_default THEN 'SET remote_default ''true''' ELSE 'ADD remote_default ''true''' END);
            IF NOT created THEN
                changed := true;
                action := 'altered column'; detail := CASE WHEN col.present_remote_default THEN 'option remote_default dropped' ELSE 'option remote_default set' END; RETURN NEXT;
            END IF;
        END IF;

        IF col.comment IS NOT NULL AND col.comment IS DISTINCT FROM col.present_comment THEN
            EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', local_name, col.name, col.comment);
            IF NOT created THEN
                changed := true;
                action := 'altered column'; detail := 'comment'; RETURN NEXT;
            END IF;
        END IF;
    END LOOP;

    object := table_object;
    IF relation ->> 'comment' IS NOT NULL AND relation ->> 'comment' IS DISTINCT FROM pg_catalog.obj_description(rel, 'pg_class') THEN
        EXECUTE pg_catalog.format('COMMENT ON FOREIGN TABLE %s IS %L', local_name, relation ->> 'comment');
        IF NOT created THEN
            changed := true;
            action := 'altered'; detail := 'comment'; RETURN NEXT;
        END IF;
    END IF;
    IF NOT created AND NOT changed THEN
        action := 'unchanged'; detail := NULL; RETURN NEXT;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._import_relation(jsonb, text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._import_relation(jsonb, text, text, jsonb) TO kessel_admin;

CREATE FUNCTION kessel.import_tables(data_source text, remote_schema text DEFAULT 'public', local_schema text DEFAULT 'data',
                                     limit_to text[] DEFAULT NULL, "except" text[] DEFAULT NULL)
RETURNS TABLE (action text, object text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    description jsonb;
    types jsonb := '{}';
    missing text;
    item jsonb;
BEGIN
    IF data_source IS NULL OR remote_schema IS NULL OR local_schema IS NULL THEN
        RAISE EXCEPTION 'data_source, remote_schema and local_schema must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF local_schema ~ '^pg_' OR local_schema IN ('information_schema', 'kessel', 'app', 'vault', 'kessel_agent') THEN
        RAISE EXCEPTION 'schema "%" is not for router tables', local_schema
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name a schema of your own as local_schema; it is made if it is missing.';
    END IF;

    description := kessel._describe_source(data_source, remote_schema, limit_to, "except");
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(l), ', ' ORDER BY n) INTO missing
    FROM pg_catalog.unnest(limit_to) WITH ORDINALITY AS x (l, n)
    WHERE l <> ALL (coalesce("except", '{}'))
      AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_path_query(description, '$.relations[*].name') r WHERE r #>> '{}' = l);
    IF missing IS NOT NULL OR description ->> 'relations' IS NULL THEN
        RAISE EXCEPTION 'schema "%" of data source "%" has no % that the router may use', remote_schema, data_source,
                        coalesce('table ' || missing, 'table')
            USING ERRCODE = 'undefined_table', HINT = 'Check the names, and grant the runtime role what it needs on the tables.';
    END IF;

    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = local_schema) THEN
        EXECUTE pg_catalog.format('CREATE SCHEMA %I', local_schema);
        action := 'created'; object := pg_catalog.format('schema %I', local_schema); RETURN NEXT;
    END IF;

    FOR item IN SELECT t FROM pg_catalog.jsonb_array_elements(CASE WHEN description ->> 'types' IS NULL THEN '[]' ELSE description -> 'types' END) t LOOP
        RETURN QUERY SELECT * FROM kessel._mirror_type(item, local_schema, types);
        types := types || pg_catalog.jsonb_build_object(pg_catalog.concat(item ->> 'schema', '.', item ->> 'name'),
                                                        pg_catalog.format('%I.%I', local_schema, item ->> 'name'));
    END LOOP;
    -- Defaults may cast to types of extensions, too.
    SELECT types || coalesce(pg_catalog.jsonb_object_agg(pg_catalog.concat(t ->> 'schema', '.', t ->> 'name'),
                                                         pg_catalog.format_type(kessel._local_type(t || '{"array": false}', local_schema), NULL)), '{}') INTO types
    FROM pg_catalog.jsonb_path_query(description, '$.relations[*].columns[*].type') t
    WHERE t ->> 'extension' IS NOT NULL AND kessel._local_type(t || '{"array": false}', local_schema) IS NOT NULL;

    FOR item IN SELECT r FROM pg_catalog.jsonb_array_elements(description -> 'relations') r LOOP
        RETURN QUERY SELECT * FROM kessel._import_relation(item, local_schema, description ->> 'schema_name', types);
    END LOOP;

    -- What an earlier run made and the source has no more, or shows no more.
    IF limit_to IS NULL THEN
        RETURN QUERY
        SELECT 'missing', pg_catalog.format('table %s', f.ftrelid::regclass), 'The data source has it no more; DROP FOREIGN TABLE if nobody needs it.'
        FROM pg_catalog.pg_foreign_table f
             JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'kessel_router'
             JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = local_schema
        WHERE EXISTS (SELECT FROM pg_catalog.pg_options_to_table(f.ftoptions) o
                      WHERE o.option_name = 'schema_name' AND o.option_value = description ->> 'schema_name')
          AND c.relname <> ALL (coalesce("except", '{}'))
          AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_path_query(description, '$.relations[*].name') r WHERE r #>> '{}' = c.relname)
        ORDER BY 2;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel.import_tables(text, text, text, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.import_tables(text, text, text, text[], text[]) TO kessel_admin;
COMMENT ON FUNCTION kessel.import_tables(text, text, text, text[], text[]) IS
    'Makes router tables in local_schema, which is made if missing, of the tables, partitioned tables, views, materialized views and foreign tables of remote_schema in a data source that its runtime role may use; '
    'partitions only where limit_to names them. Where tenants'' tables live (the source''s option schema, else public, or with schema isolation the schema of any tenant) '
    'the schema is left to the tenant, elsewhere it is remote_schema. Enums and domains are mirrored. Run again, it brings them up to date. All or nothing. '
    'Rows: action (created, altered, unchanged, added column, altered column, dropped column, default left out, check left out, missing), object, detail. '
    'A default left out is one that only the data source can evaluate, such as a sequence: it does so for an INSERT or COPY that leaves the column out (option remote_default of the column), and for NULL where the column is NOT NULL. '
    'What is made belongs to the caller, who needs USAGE on the server kessel_router and CREATE on the schema, or on the database where it is missing. '
    'Errors: KR006 tenants share the source and it is not safe for that (DETAIL lists why), KR007 unknown data source, 3F000 no such schema there, 42P01 no such table, 42704 unknown type or collation, 42P07 or 42710 name taken. For kessel_admin';

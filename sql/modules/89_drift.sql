-- Drift: is each target's schema what its migrations make?
--
-- What is compared is a list of lines, each (kind, path, definition), which one
-- query of catalogs gives: the same query for a target's schema as it is, and for
-- a scratch schema in which, there, all that its own record names is run again and
-- then rolled back: the reference. Same server, same version, same extensions, same
-- roles: so what differs is the schema itself. A reference is kept
-- (kessel.schema_references) and serves every target with the same migrations on
-- the same host, so in a fleet that is as it should be each target answers one
-- query with a hash, and that is all.
--
-- Names. Definitions come with every name qualified, under a search_path of
-- pg_catalog alone. The scratch schema has a name that occurs nowhere else; putting
-- the target's in its place gives what the target should have said, and the SQL
-- that makes it so. Roles are named by what they are here: @owner, @runtime.
--
-- Not compared: the order of columns (a column that is dropped and added again
-- comes last; nothing that the router does goes by it); the names of not-null
-- constraints; tablespaces; who has granted something; the schema's own owner,
-- privileges and comment; what belongs to extensions, and which there are; rows,
-- sequences' values and statistics; what is in other schemas. Of aggregates,
-- operators, operator classes, collations, conversions, base types and text search
-- objects only that they are there. Bodies of functions are compared as text.
--
-- Trust. A data source may be a customer's own and lie. What it says of its own
-- schema goes into SQL as names alone, each quoted here, and into nobody else's.
-- Definitions in that SQL come from a reference, and a reference serves only those
-- who share its host and port: the server that could forge it could do anything to
-- them anyway. Kinds of objects and privileges are taken from lists here.

CREATE TABLE kessel.schema_references (
    key            text COLLATE "C" PRIMARY KEY,
    migrations     jsonb NOT NULL,
    environment    jsonb NOT NULL,
    data_source_id uuid NOT NULL REFERENCES app.data_sources ON DELETE CASCADE,
    scratch        text NOT NULL,
    content        text NOT NULL,
    lines          text NOT NULL,
    built_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX schema_references_data_source_id ON kessel.schema_references (data_source_id);
COMMENT ON TABLE kessel.schema_references IS 'What migrations make, for kessel.drift to compare with. What is missing is built again when it is needed, as after 90 days.';
COMMENT ON COLUMN kessel.schema_references.key IS 'Hash of all that a schema depends on: migrations, environment, host and port';
COMMENT ON COLUMN kessel.schema_references.migrations IS 'Those that were run, in their order, as a target has recorded them: [blueprint, version, checksum, state, name]';
COMMENT ON COLUMN kessel.schema_references.environment IS 'Where: version of the server, roles, extensions, default privileges';
COMMENT ON COLUMN kessel.schema_references.data_source_id IS 'Where it was built';
COMMENT ON COLUMN kessel.schema_references.scratch IS 'The schema''s name when it was, which stands for the target''s';
COMMENT ON COLUMN kessel.schema_references.content IS 'The lines that are hashed';
COMMENT ON COLUMN kessel.schema_references.lines IS 'The same with what the order of mending depends on';

CREATE TABLE kessel.schema_checks (
    data_source_id uuid NOT NULL REFERENCES app.data_sources ON DELETE CASCADE,
    schema_name    text COLLATE "C" NOT NULL,
    fingerprint    text,
    differences    integer,
    error          jsonb,
    checked_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (data_source_id, schema_name)
) WITH (fillfactor = 80);
COMMENT ON TABLE kessel.schema_checks IS 'What kessel.drift has found last in each target';
COMMENT ON COLUMN kessel.schema_checks.fingerprint IS 'SHA-256 of the schema as it was, 64 hexadecimal digits; NULL: it could not be read';
COMMENT ON COLUMN kessel.schema_checks.differences IS '0: it is what its migrations make; NULL: that is not known';
COMMENT ON COLUMN kessel.schema_checks.error IS 'Why it is not known: sqlstate, message, detail, hint';

ALTER TABLE kessel.schema_references ENABLE ROW LEVEL SECURITY;
ALTER TABLE kessel.schema_checks ENABLE ROW LEVEL SECURITY;
CREATE POLICY admin_reads ON kessel.schema_references FOR SELECT TO kessel_admin USING (true);
CREATE POLICY admin_reads ON kessel.schema_checks FOR SELECT TO kessel_admin USING (true);
GRANT SELECT ON kessel.schema_references, kessel.schema_checks TO kessel_admin;

-- ---------- what a schema is ----------

-- For PostgreSQL 12 and later. A column that some version lacks is read in an inner
-- query around which one of that name stands for it. $1: the schema; $2: the name
-- of the runtime role. The path of a line is what it is found by, without the
-- schema: an object's names; with columns, what it has of the table; with owner and
-- comment the kind of object before it, with grants the grantee before that.
CREATE FUNCTION kessel._schema_lines_query() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN $query$
WITH me AS MATERIALIZED (
    SELECT n.oid AS schema, quote_ident(n.nspname) AS s, r.oid AS owner, u.oid AS runtime
    FROM pg_roles r LEFT JOIN pg_namespace n ON n.nspname = $1 LEFT JOIN pg_roles u ON u.rolname = $2
    WHERE r.rolname = current_user
), roles AS MATERIALIZED (
    SELECT r.oid, CASE r.oid WHEN me.owner THEN '@owner' WHEN me.runtime THEN '@runtime' ELSE '=' || r.rolname END AS role,
           CASE r.oid WHEN me.owner THEN '"@owner"' WHEN me.runtime THEN '"@runtime"' ELSE quote_ident(r.rolname) END AS sql
    FROM pg_roles r, me
  UNION ALL
    SELECT 0, '@public', 'PUBLIC'
), extensions AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e'
), relations AS MATERIALIZED (
    SELECT c.oid, c.relname AS name, c.relkind, c.relpersistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity,
           c.relispartition, c.relpartbound, c.relreplident, c.relam, c.reloftype, c.relowner, c.relacl, c.reltoastrelid, me.s || '.' || quote_ident(c.relname) AS sql,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'table' END AS class
    FROM me JOIN pg_class c ON c.relnamespace = me.schema
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM extensions e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)
      -- those of identity columns
      AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'))
), columns AS MATERIALIZED (
    SELECT r.oid AS relation, r.name AS relation_name, r.sql AS relation_sql, r.relkind, a.attnum, a.attname AS name, a.atttypid, a.attcollation, a.attnotnull, a.attidentity, a.attgenerated,
           a.attstorage, a.attstattarget, a.attoptions, a.attfdwoptions, a.attacl, t.typstorage, a.attinhcount > 0 AS inherited,
           format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation
               THEN (SELECT ' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = a.attcollation)
               ELSE '' END AS type,
           pg_get_expr(d.adbin, d.adrelid) AS expression,
           (SELECT nullif(y.method, '') FROM (SELECT ''::"char" AS attcompression) before_14, LATERAL (SELECT attcompression AS method FROM pg_attribute x WHERE x.attrelid = a.attrelid AND x.attnum = a.attnum) y) AS compression
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE r.relkind <> 'S'
), indexes AS MATERIALIZED (
    SELECT i.indexrelid AS oid, c.relname AS name, r.name AS relation_name, r.sql AS relation_sql, i.indisvalid, i.indisclustered, i.indisreplident, c.reloptions,
           EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')) AS by_constraint, c.relispartition
    FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
), types AS MATERIALIZED (
    SELECT t.oid, t.typname AS name, t.typtype, t.typrelid, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault, t.typcollation, t.typowner, t.typacl,
           CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END AS class
    FROM me JOIN pg_type t ON t.typnamespace = me.schema
    WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND EXISTS (SELECT FROM relations r WHERE r.oid = t.typrelid AND r.relkind = 'c'))
      AND NOT EXISTS (SELECT FROM extensions e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid)
), routines AS MATERIALIZED (
    SELECT p.oid, p.prokind, p.proowner, p.proacl, p.prolang, p.prosrc, CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS class,
           ARRAY[p.proname::text] || ARRAY(
               SELECT v.part FROM unnest(p.proargtypes) WITH ORDINALITY a (type, n) JOIN pg_type t ON t.oid = a.type JOIN pg_namespace n ON n.oid = t.typnamespace,
                      LATERAL (VALUES (1, CASE WHEN t.typnamespace = me.schema THEN '' ELSE n.nspname::text END), (2, t.typname::text)) v (k, part)
               ORDER BY a.n, v.k) AS path
    FROM me JOIN pg_proc p ON p.pronamespace = me.schema
    WHERE NOT EXISTS (SELECT FROM extensions e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid)
      -- constructors of range types
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
), objects AS MATERIALIZED (
    -- whatever can have an owner, privileges or a comment
    SELECT 'pg_class'::regclass AS classid, oid, 0 AS subid, class, ARRAY[name::text] AS path, relowner AS owner, relacl AS acl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END AS acl_kind FROM relations WHERE relkind <> 'c'
  UNION ALL
    SELECT 'pg_class'::regclass, relation, attnum, 'column', ARRAY[relation_name::text, name::text], NULL, attacl, 'c' FROM columns
  UNION ALL
    SELECT 'pg_class'::regclass, oid, 0, 'index', ARRAY[relation_name::text, name::text], NULL, NULL, NULL FROM indexes WHERE NOT relispartition
  UNION ALL
    SELECT 'pg_type'::regclass, oid, 0, class, ARRAY[name::text], typowner, typacl, 'T' FROM types
  UNION ALL
    SELECT 'pg_proc'::regclass, oid, 0, class, path, proowner, proacl, 'f' FROM routines
  UNION ALL
    SELECT 'pg_constraint'::regclass, k.oid, 0, 'constraint', ARRAY[r.name::text, k.conname::text], NULL, NULL, NULL FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
  UNION ALL
    SELECT 'pg_constraint'::regclass, k.oid, 0, 'domain constraint', ARRAY[t.name::text, k.conname::text], NULL, NULL, NULL FROM types t JOIN pg_constraint k ON k.contypid = t.oid
  UNION ALL
    SELECT 'pg_trigger'::regclass, g.oid, 0, 'trigger', ARRAY[r.name::text, g.tgname::text], NULL, NULL, NULL FROM relations r JOIN pg_trigger g ON g.tgrelid = r.oid AND NOT g.tgisinternal
  UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 0, 'policy', ARRAY[r.name::text, p.polname::text], NULL, NULL, NULL FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
), lines (kind, path, definition, oid) AS (
    SELECT class, ARRAY[r.name::text],
           CASE r.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END || CASE relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END
           || CASE WHEN relispartition THEN (SELECT ' PARTITION OF ' || i.inhparent::regclass || ' ' || pg_get_expr(r.relpartbound, r.oid) FROM pg_inherits i WHERE i.inhrelid = r.oid) ELSE '' END
           || CASE WHEN relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(r.oid) ELSE '' END
           || coalesce((SELECT ' USING ' || quote_ident(m.amname) FROM pg_am m WHERE m.oid = r.relam AND m.amname <> 'heap'), '')
           || coalesce((SELECT ' SERVER ' || quote_ident(f.srvname) || coalesce(' OPTIONS (' || (SELECT string_agg(quote_ident(o.option_name) || ' ' || quote_literal(o.option_value), ', ' ORDER BY o.option_name COLLATE "C") FROM pg_options_to_table(t.ftoptions) o) || ')', '')
                        FROM pg_foreign_table t JOIN pg_foreign_server f ON f.oid = t.ftserver WHERE t.ftrelid = r.oid), ''),
           r.oid
    FROM relations r WHERE relkind IN ('r', 'p', 'f')
  UNION ALL
    SELECT class, ARRAY[r.name::text],
           CASE relkind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END || r.sql
           || coalesce(' WITH (' || (SELECT string_agg(o.option_name || '=' || quote_literal(o.option_value), ', ' ORDER BY o.option_name COLLATE "C") FROM pg_options_to_table(r.reloptions) o) || ')', '')
           || ' AS' || E'\n' || rtrim(pg_get_viewdef(r.oid), ';'), r.oid
    FROM relations r WHERE relkind IN ('v', 'm')
  UNION ALL
    SELECT 'sequence', ARRAY[r.name::text], format('AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s',
           format_type(q.seqtypid, -1), q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END), r.oid
    FROM relations r JOIN pg_sequence q ON q.seqrelid = r.oid
  UNION ALL
    SELECT 'owned by', ARRAY[r.name::text], d.refobjid::regclass || '.' || quote_ident(a.attname), r.oid
    FROM relations r JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'a' AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE r.relkind = 'S'
  UNION ALL
    SELECT 'inheritance', ARRAY[r.name::text, CASE WHEN p.relnamespace = me.schema THEN '' ELSE n.nspname::text END, p.relname::text], p.oid::regclass::text, p.oid
    FROM me, relations r JOIN pg_inherits i ON i.inhrelid = r.oid JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
    WHERE NOT r.relispartition
  UNION ALL
    SELECT 'unlogged', ARRAY[r.name::text], 'UNLOGGED', r.oid FROM relations r WHERE relpersistence = 'u' AND relkind = 'S'
  UNION ALL
    SELECT CASE o.prefix WHEN '' THEN 'parameter' ELSE 'toast parameter' END, ARRAY[r.name::text, x.option_name], x.option_value, r.oid
    FROM relations r, LATERAL (SELECT '' AS prefix, r.reloptions AS options UNION ALL SELECT 'toast.', t.reloptions FROM pg_class t WHERE t.oid = r.reltoastrelid) o, pg_options_to_table(o.options) x
    WHERE r.relkind IN ('r', 'p', 'm')
  UNION ALL
    SELECT 'row security', ARRAY[r.name::text], 'ENABLE', r.oid FROM relations r WHERE relrowsecurity
  UNION ALL
    SELECT 'forced row security', ARRAY[r.name::text], 'FORCE', r.oid FROM relations r WHERE relforcerowsecurity
  UNION ALL
    SELECT 'replica identity', ARRAY[r.name::text], CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE (SELECT 'USING INDEX ' || quote_ident(i.name) FROM indexes i WHERE i.relation_name = r.name AND i.indisreplident) END, r.oid
    FROM relations r WHERE relkind IN ('r', 'p', 'm') AND relreplident <> 'd'
  UNION ALL
    SELECT 'column', ARRAY[relation_name::text, name::text],
           type || CASE attgenerated WHEN '' THEN '' WHEN 's' THEN ' GENERATED ALWAYS AS (' || expression || ') STORED' ELSE ' GENERATED ALWAYS AS (' || expression || ')' END, attnum
    FROM columns WHERE relkind IN ('r', 'p', 'f')
  UNION ALL
    SELECT 'not null', ARRAY[relation_name::text, c.name::text], coalesce((SELECT CASE WHEN k.convalidated THEN 'NOT NULL' ELSE 'NOT NULL NOT VALID' END || CASE WHEN k.connoinherit THEN ' NO INHERIT' ELSE '' END
                                                                            FROM pg_constraint k WHERE k.conrelid = c.relation AND k.contype = 'n' AND k.conkey = ARRAY[c.attnum]), 'NOT NULL'), attnum
    FROM columns c WHERE attnotnull AND relkind IN ('r', 'p', 'f')
  UNION ALL
    SELECT 'default', ARRAY[relation_name::text, name::text], expression, attnum FROM columns WHERE attgenerated = '' AND expression IS NOT NULL
  UNION ALL
    SELECT 'identity', ARRAY[relation_name::text, c.name::text], format('%s SET INCREMENT BY %s SET MINVALUE %s SET MAXVALUE %s SET START WITH %s SET CACHE %s SET %s',
           CASE attidentity WHEN 'a' THEN 'GENERATED ALWAYS' ELSE 'GENERATED BY DEFAULT' END,
           q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END), attnum
    FROM columns c JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.relation AND d.refobjsubid = c.attnum AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
    JOIN pg_sequence q ON q.seqrelid = d.objid
    WHERE attidentity <> ''
  UNION ALL
    SELECT 'column setting', ARRAY[relation_name::text, name::text, v.what], v.setting, attnum
    FROM columns c, LATERAL (VALUES
        ('storage', CASE WHEN attstorage <> typstorage THEN 'STORAGE ' || CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END),
        ('compression', 'COMPRESSION ' || CASE compression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE compression::text END),
        ('statistics', CASE WHEN attstattarget >= 0 THEN 'STATISTICS ' || attstattarget END),
        ('options', '(' || (SELECT string_agg(quote_ident(o.option_name) || '=' || quote_literal(o.option_value), ', ' ORDER BY o.option_name COLLATE "C") FROM pg_options_to_table(attoptions) o
                        -- PostgreSQL keeps versions of its own among them
                        WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited')) || ')'),
        ('fdw options', '(' || (SELECT string_agg(quote_ident(o.option_name) || ' ' || quote_literal(o.option_value), ', ' ORDER BY o.option_name COLLATE "C") FROM pg_options_to_table(attfdwoptions) o) || ')')) v (what, setting)
    WHERE v.setting IS NOT NULL AND relkind IN ('r', 'p', 'f', 'm')
  UNION ALL
    SELECT 'constraint', ARRAY[r.name::text, k.conname::text], pg_get_constraintdef(k.oid), k.oid
    FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
    WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0 AND (k.conislocal OR k.coninhcount = 0)
  UNION ALL
    -- ON ONLY is said of every index of a partitioned table
    SELECT 'index', ARRAY[relation_name::text, i.name::text], replace(pg_get_indexdef(i.oid), format('INDEX %I ON ONLY ', i.name), format('INDEX %I ON ', i.name)) || CASE WHEN indisvalid THEN '' ELSE ' -- not valid' END, i.oid
    FROM indexes i WHERE NOT by_constraint AND NOT relispartition
  UNION ALL
    SELECT 'index parameter', ARRAY[relation_name::text, i.name::text, x.option_name], x.option_value, i.oid
    FROM indexes i, pg_options_to_table(i.reloptions) x WHERE by_constraint AND NOT relispartition
  UNION ALL
    SELECT 'clustered on', ARRAY[relation_name::text], quote_ident(i.name), i.oid FROM indexes i WHERE indisclustered
  UNION ALL
    SELECT 'trigger', ARRAY[r.name::text, g.tgname::text], pg_get_triggerdef(g.oid)
           || CASE g.tgenabled WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s %s TRIGGER %I', r.sql, CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname) END, g.oid
    FROM relations r JOIN pg_trigger g ON g.tgrelid = r.oid
    WHERE NOT g.tgisinternal AND NOT EXISTS (
        SELECT FROM (SELECT 0::oid AS tgparentid) before_13, LATERAL (SELECT tgparentid AS parent FROM pg_trigger x WHERE x.oid = g.oid) y WHERE y.parent <> 0)
  UNION ALL
    SELECT 'rule', ARRAY[r.name::text, w.rulename::text], rtrim(pg_get_ruledef(w.oid), ';')
           || CASE w.ev_enabled WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s %s RULE %I', r.sql, CASE w.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, w.rulename) END, w.oid
    FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'
  UNION ALL
    SELECT 'policy', ARRAY[r.name::text, p.polname::text],
           format('AS %s FOR %s TO %s', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(o.sql, ', ' ORDER BY o.role COLLATE "C") FROM roles o WHERE o.oid = ANY (p.polroles)))
           || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '') || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''), p.oid
    FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
  UNION ALL
    SELECT 'statistics', ARRAY[x.stxname::text], pg_get_statisticsobjdef(x.oid)
           || coalesce((SELECT format('; ALTER STATISTICS %s.%I SET STATISTICS %s', me.s, x.stxname, y.target) FROM (SELECT -1 AS stxstattarget) before_13,
                        LATERAL (SELECT stxstattarget AS target FROM pg_statistic_ext z WHERE z.oid = x.oid) y WHERE y.target >= 0), ''), x.oid
    FROM me JOIN pg_statistic_ext x ON x.stxnamespace = me.schema
  UNION ALL
    SELECT 'type', ARRAY[t.name::text], 'ENUM (' || coalesce((SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '') || ')', t.oid
    FROM types t WHERE typtype = 'e'
  UNION ALL
    SELECT 'type', ARRAY[t.name::text], '(' || coalesce((SELECT string_agg(quote_ident(c.name) || ' ' || c.type, ', ' ORDER BY c.attnum) FROM columns c WHERE c.relation = t.typrelid), '') || ')', t.oid
    FROM types t WHERE typtype = 'c'
  UNION ALL
    SELECT 'type', ARRAY[t.name::text], format('RANGE (SUBTYPE = %s, SUBTYPE_OPCLASS = %s%s%s%s%s)', format_type(g.rngsubtype, -1),
           (SELECT quote_ident(n.nspname) || '.' || quote_ident(o.opcname) FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace WHERE o.oid = g.rngsubopc),
           (SELECT ', COLLATION = ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = g.rngcollation),
           CASE WHEN g.rngcanonical <> 0 THEN ', CANONICAL = ' || g.rngcanonical END, CASE WHEN g.rngsubdiff <> 0 THEN ', SUBTYPE_DIFF = ' || g.rngsubdiff END,
           (SELECT ', MULTIRANGE_TYPE_NAME = ' || me.s || '.' || quote_ident(m.typname) FROM (SELECT 0::oid AS rngmultitypid) before_14, LATERAL (SELECT rngmultitypid AS multi FROM pg_range x WHERE x.rngtypid = t.oid) y JOIN pg_type m ON m.oid = y.multi)), t.oid
    FROM me, types t JOIN pg_range g ON g.rngtypid = t.oid
  UNION ALL
    SELECT 'domain', ARRAY[t.name::text], format_type(t.typbasetype, t.typtypmod) || CASE WHEN t.typcollation <> b.typcollation
               THEN (SELECT ' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = t.typcollation) ELSE '' END, t.oid
    FROM types t JOIN pg_type b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
  UNION ALL
    SELECT 'domain not null', ARRAY[name::text], 'NOT NULL', oid FROM types WHERE typtype = 'd' AND typnotnull
  UNION ALL
    SELECT 'domain default', ARRAY[t.name::text], coalesce(pg_get_expr((SELECT x.typdefaultbin FROM pg_type x WHERE x.oid = t.oid), 0), typdefault), oid FROM types t WHERE typtype = 'd' AND typdefault IS NOT NULL
  UNION ALL
    SELECT 'domain constraint', ARRAY[t.name::text, k.conname::text], pg_get_constraintdef(k.oid), k.oid FROM types t JOIN pg_constraint k ON k.contypid = t.oid WHERE k.contype = 'c'
  UNION ALL
    SELECT class, path, rtrim(pg_get_functiondef(p.oid), E'\n'), p.oid FROM routines p WHERE prokind <> 'a'
  UNION ALL
    SELECT class, path, format('aggregate of %s, state %s, final %s, initial %L', a.aggtransfn, format_type(a.aggtranstype, -1), a.aggfinalfn, a.agginitval), p.oid
    FROM routines p JOIN pg_aggregate a ON a.aggfnoid = p.oid
  UNION ALL
    SELECT 'other', ARRAY[d.classid::regclass::text, replace((pg_identify_object(d.classid, d.objid, 0)).identity, me.s || '.', '')], 'exists', d.objid
    FROM me JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = me.schema AND d.deptype = 'n'
    WHERE (d.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_statistic_ext'::regclass, 'pg_constraint'::regclass, 'pg_extension'::regclass, 'pg_default_acl'::regclass)
           OR d.classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type t WHERE t.oid = d.objid AND t.typtype IN ('b', 'p') AND t.typelem = 0))
      AND NOT EXISTS (SELECT FROM extensions e WHERE e.classid = d.classid AND e.objid = d.objid)
  UNION ALL
    SELECT 'owner', o.class || o.path, r.role, o.oid FROM me, objects o JOIN roles r ON r.oid = o.owner WHERE o.owner <> me.owner
  UNION ALL
    SELECT 'comment', o.class || o.path, d.description, o.oid
    FROM objects o JOIN pg_description d ON d.classoid = o.classid AND d.objoid = o.oid AND d.objsubid = o.subid
  UNION ALL
    -- Per grantee what differs from what an object has at first.
    SELECT CASE WHEN coalesce(a.grantable, b.grantable) THEN 'grant option' ELSE 'grant' END,
           coalesce(a.role, b.role) || (coalesce(a.class, b.class) || coalesce(a.path, b.path)), coalesce(a.privileges, 'none'), coalesce(a.oid, b.oid)
    FROM (SELECT o.classid, o.oid, o.subid, o.class, o.path, r.role, x.is_grantable AS grantable, string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type) AS privileges
          FROM objects o, LATERAL aclexplode(o.acl) x JOIN roles r ON r.oid = x.grantee
          WHERE o.acl IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7) a
    FULL JOIN (SELECT o.classid, o.oid, o.subid, o.class, o.path, r.role, x.is_grantable AS grantable, string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type) AS privileges
          FROM objects o, LATERAL aclexplode(acldefault(o.acl_kind::"char", o.owner)) x JOIN roles r ON r.oid = x.grantee
          WHERE o.acl IS NOT NULL AND o.acl_kind <> 'c' GROUP BY 1, 2, 3, 4, 5, 6, 7) b
      ON a.classid = b.classid AND a.oid = b.oid AND a.subid = b.subid AND a.role = b.role AND a.grantable = b.grantable
    WHERE a.privileges IS DISTINCT FROM b.privileges
  UNION ALL
    SELECT CASE WHEN x.is_grantable THEN 'default privileges with grant option' ELSE 'default privileges' END, ARRAY[g.role, CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END, r.role],
           string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type), 0::oid
    FROM me JOIN pg_default_acl d ON d.defaclnamespace = me.schema JOIN roles r ON r.oid = d.defaclrole, LATERAL aclexplode(d.defaclacl) x JOIN roles g ON g.oid = x.grantee
    GROUP BY x.is_grantable, g.role, d.defaclobjtype, r.role
)
$query$;
REVOKE ALL ON FUNCTION kessel._schema_lines_query() FROM PUBLIC;

-- One row: does the schema exist, the environment, the fingerprint, what was
-- migrated, and, if $3, the lines with their order and needs.
--   recorded: with the target's record; 42P01 where there is none
--   unrecorded: without
--   scratch: of a schema that this transaction has made; instead of what was
--     migrated, what the transaction has made or changed elsewhere
CREATE FUNCTION kessel._schema_query(what text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN kessel._schema_lines_query() || $query$
SELECT me.schema IS NOT NULL,
       jsonb_build_array(
           current_setting('server_version_num'), me.runtime IS NOT NULL, me.runtime = me.owner,
           (SELECT jsonb_agg(jsonb_build_array(d.defaclobjtype, r.role, x.privilege_type, x.is_grantable) ORDER BY d.defaclobjtype, r.role COLLATE "C", x.privilege_type, x.is_grantable)
            FROM pg_default_acl d, aclexplode(d.defaclacl) x JOIN roles r ON r.oid = x.grantee WHERE d.defaclnamespace = 0 AND d.defaclrole = me.owner),
           (SELECT jsonb_agg(jsonb_build_array(e.extname, CASE WHEN e.extnamespace = me.schema THEN '' ELSE n.nspname END) ORDER BY e.extname COLLATE "C")
            FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace)),
       (SELECT encode(sha256(convert_to(coalesce(string_agg(jsonb_build_array(kind, path, definition)::text, E',\n' ORDER BY kind COLLATE "C", path COLLATE "C"), ''), 'UTF8')), 'hex') FROM lines),
       $query$ || CASE what
    WHEN 'recorded' THEN $query$(
           SELECT coalesce(jsonb_agg(jsonb_build_array(blueprint, version, checksum, state, name) ORDER BY applied_at, blueprint, version), '[]')
           FROM kessel_agent.migrations WHERE schema_name = $1)$query$
    WHEN 'unrecorded' THEN $query$'[]'$query$
    WHEN 'scratch' THEN $query$(
           SELECT coalesce(jsonb_agg(DISTINCT o.description), '[]') FROM (
               SELECT pg_describe_object('pg_class'::regclass, c.oid, 0), c.xmin
               FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relnamespace NOT IN (me.schema, 'pg_toast'::regnamespace) AND c.relpersistence <> 't'
                 -- the referenced side of a foreign key gets triggers
                 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = c.oid AND k.connamespace = me.schema)
             UNION ALL
               SELECT pg_describe_object('pg_proc'::regclass, p.oid, 0), p.xmin FROM pg_proc p WHERE p.pronamespace <> me.schema
             UNION ALL
               SELECT pg_describe_object('pg_type'::regclass, t.oid, 0), t.xmin FROM pg_type t WHERE t.typtype IN ('e', 'd', 'r') AND t.typnamespace <> me.schema
             UNION ALL
               SELECT pg_describe_object('pg_trigger'::regclass, g.oid, 0), g.xmin FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal AND c.relnamespace <> me.schema
             UNION ALL
               SELECT pg_describe_object('pg_policy'::regclass, p.oid, 0), p.xmin FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relnamespace <> me.schema
           ) o (description, xmin)
           -- The snapshot is older than this transaction's id: what it sees of later ones is the transaction's own.
           WHERE age(o.xmin) <= age((txid_current() & 4294967295)::text::xid))$query$
    END || $query$::text,
       CASE WHEN $3::boolean THEN (SELECT coalesce(jsonb_agg(jsonb_build_array(kind, path, definition, oid::bigint, CASE
               WHEN kind IN ('view', 'materialized view') THEN (
                   SELECT jsonb_agg(DISTINCT r.name) FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
                   JOIN relations r ON r.oid = d.refobjid WHERE w.ev_class = lines.oid AND r.oid <> lines.oid)
               WHEN kind = 'constraint' THEN (
                   SELECT jsonb_build_array(r.name, i.relname) FROM pg_constraint k JOIN relations r ON r.oid = k.confrelid JOIN pg_class i ON i.oid = k.conindid WHERE k.oid = lines.oid AND k.contype = 'f')
               WHEN kind = 'column' THEN (
                   SELECT jsonb_build_array(CASE c.typstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END, CASE WHEN c.inherited THEN 'inherited' ELSE '' END)
                   FROM columns c WHERE c.relation_name = lines.path[1] AND c.name = lines.path[2])
               END) ORDER BY kind COLLATE "C", path COLLATE "C"), '[]') FROM lines) END
FROM me$query$;
REVOKE ALL ON FUNCTION kessel._schema_query(text) FROM PUBLIC;

-- ---------- SQL that mends ----------

-- An object by the words of DROP and COMMENT ON; NULL for a kind that is not known.
CREATE FUNCTION kessel._schema_object(class text, path text[], schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN class IN ('table', 'foreign table', 'view', 'materialized view', 'sequence', 'type', 'domain', 'statistics')
        THEN pg_catalog.format('%s %I.%I', upper(class), schema_name, path[1])
    WHEN class = 'index' THEN pg_catalog.format('INDEX %I.%I', schema_name, path[2])
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
        WHEN kind IN ('statistics', 'other') OR kind LIKE 'default privileges%' THEN kind || path
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
        WHEN 'view' THEN 'CREATE ' || definition
        WHEN 'materialized view' THEN 'CREATE ' || definition
        WHEN 'sequence' THEN format('CREATE SEQUENCE %I.%I %s', schema_name, path[1], definition)
        WHEN 'owned by' THEN format('ALTER SEQUENCE %I.%I OWNED BY %s', schema_name, path[1], definition)
        WHEN 'unlogged' THEN format('ALTER SEQUENCE %I.%I SET UNLOGGED', schema_name, path[1])
        WHEN 'inheritance' THEN rel || 'INHERIT ' || definition
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
    WHEN kind = 'inheritance' THEN 3
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

-- ---------- references ----------

-- A text as it stands within a string of JSON.
CREATE FUNCTION kessel._json_inner(value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.substr(pg_catalog.to_jsonb(value)::text, 2, pg_catalog.length(pg_catalog.to_jsonb(value)::text) - 2);
REVOKE ALL ON FUNCTION kessel._json_inner(text) FROM PUBLIC;

-- Lines of a reference with the target's schema in place of the scratch one, in the
-- ways in which its name is written: in literals of its own, as in SET search_path;
-- at the beginning of those of regclass; and as an identifier.
CREATE FUNCTION kessel._reference_placed(lines text, scratch text, schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(lines,
    '''' || scratch || '''', kessel._json_inner('''' || pg_catalog.replace(schema_name, '''', '''''') || '''')),
    '''' || scratch || '.', kessel._json_inner('''' || pg_catalog.replace(pg_catalog.quote_ident(schema_name), '''', '''''') || '.')),
    scratch, kessel._json_inner(pg_catalog.quote_ident(schema_name)));
REVOKE ALL ON FUNCTION kessel._reference_placed(text, text, text) FROM PUBLIC;

CREATE FUNCTION kessel._reference_fingerprint(key text, schema_name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(kessel._reference_placed(r.content, r.scratch, schema_name), 'UTF8')), 'hex')
        FROM kessel.schema_references r WHERE r.key = _reference_fingerprint.key);
REVOKE ALL ON FUNCTION kessel._reference_fingerprint(text, text) FROM PUBLIC;

-- All that a schema depends on. migrations: what the target has recorded.
CREATE FUNCTION kessel._reference_key(data_source_id uuid, environment jsonb, migrations jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            pg_catalog.jsonb_build_array(kessel._schema_lines_query(), s.conninfo -> 'host', s.conninfo -> 'hostaddr', s.conninfo -> 'port', s.isolation, environment, migrations)::text, 'UTF8')), 'hex')
        FROM app.data_sources s WHERE s.id = data_source_id);
REVOKE ALL ON FUNCTION kessel._reference_key(uuid, jsonb, jsonb) FROM PUBLIC;

-- Reads the lines of many schemas, or builds what migrations make: in C. A row for
-- each row of the query: n, the data source's place in the array; values; or the
-- error and the statement of the script that has raised it (0: none of them).
-- scripts: an array of statements for each, or []; params: as many for each, in a row.
CREATE FUNCTION kessel._schema_read(data_source_ids uuid[], scripts jsonb, query text, params text[], max_parallel integer, timeout_ms bigint)
RETURNS TABLE (n integer, "values" text[], error jsonb, statement integer)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 1000 COST 100000 AS 'MODULE_PATHNAME', 'kr_drift_read';
REVOKE ALL ON FUNCTION kessel._schema_read(uuid[], jsonb, text, text[], integer, bigint) FROM PUBLIC;

CREATE FUNCTION kessel._script_names_schema(script text, schema_name text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'kr_script_names_schema';
REVOKE ALL ON FUNCTION kessel._script_names_schema(text, text) FROM PUBLIC;

CREATE FUNCTION kessel._error_json(state text, message text, detail text DEFAULT NULL, hint text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('sqlstate', state, 'message', message, 'detail', detail, 'hint', hint));
REVOKE ALL ON FUNCTION kessel._error_json(text, text, text, text) FROM PUBLIC;

-- What keeps a target's record from telling what its schema should be; NULL: nothing.
CREATE FUNCTION kessel._record_error(migrations jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry jsonb;
    known kessel.migrations;
BEGIN
    FOR entry IN SELECT jsonb_array_elements(migrations) LOOP
        SELECT * INTO known FROM kessel.migrations m WHERE m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer;
        IF known.checksum IS DISTINCT FROM entry ->> 2 THEN
            RETURN kessel._error_json('KR014', format('migration %s of blueprint "%s" is not known here%s', entry ->> 4, entry ->> 0, CASE WHEN known.version IS NULL THEN '' ELSE ' with that content' END),
                                      'So what the schema should be is not known.', 'Load the blueprint that the target was migrated with.');
        ELSIF entry ->> 3 <> 'applied' THEN
            RETURN kessel._error_json('55000', format('migration %s of blueprint "%s" is under way or was cut off', known.name, entry ->> 0),
                                      'What the schema should be is known again when it has ended.', 'Run the migration again: it goes on where it was.');
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION kessel._record_error(jsonb) FROM PUBLIC;

-- Where extensions have put their objects into the target's schema, scripts find
-- them there, and nothing else: under the name of each relation and type in it that
-- is no extension's there is a temporary one, which is found first.
CREATE FUNCTION kessel._reference_shadows(schema_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.format('DO %L', pg_catalog.format($script$
DECLARE
    shadow text;
BEGIN
    FOR shadow IN
        SELECT format(CASE c.relkind WHEN 'c' THEN 'CREATE TYPE pg_temp.%%I AS ()' ELSE 'CREATE TEMP VIEW %%I AS SELECT' END, c.relname)
        FROM pg_class c WHERE c.relnamespace = %1$L::regnamespace
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
      UNION ALL
        SELECT format('CREATE TYPE pg_temp.%%I AS ()', t.typname)
        FROM pg_type t WHERE t.typnamespace = %1$L::regnamespace AND t.typtype IN ('e', 'd', 'r')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
          AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = t.typnamespace AND c.relname = t.typname)
    LOOP
        EXECUTE shadow;
    END LOOP;
END$script$, pg_catalog.quote_ident(schema_name)));
REVOKE ALL ON FUNCTION kessel._reference_shadows(text) FROM PUBLIC;

-- What each migration finds, whatever the one before has set.
CREATE FUNCTION kessel._reference_context(scratch text, extended text, isolation text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.format('SELECT set_config(''search_path'', %L, true), set_config(''standard_conforming_strings'', ''on'', true), set_config(''check_function_bodies'', ''on'', true), set_config(''kessel_agent.isolation'', %L, true)',
                         pg_catalog.concat_ws(', ', scratch, 'pg_temp', pg_catalog.quote_ident(extended)), isolation);
REVOKE ALL ON FUNCTION kessel._reference_context(text, text, text) FROM PUBLIC;

-- The statements that build a reference, each with the migration that it is of. What
-- cannot run in a transaction runs without what forbids it, or does not change the
-- schema. extended: the target's schema, where extensions are in it; else NULL.
CREATE FUNCTION kessel._reference_script(migrations jsonb, scratch text, extended text, runtime text, isolation text)
RETURNS TABLE (statement text, of text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known kessel.migrations;
    part record;
BEGIN
    RETURN QUERY VALUES ('SELECT set_config(''search_path'', ''pg_catalog, pg_temp'', true), set_config(''lock_timeout'', ''2s'', true), set_config(''client_min_messages'', ''error'', true)', NULL),
                        ('SELECT txid_current()', NULL), (format('CREATE SCHEMA %I', scratch), NULL);
    IF extended IS NOT NULL THEN
        RETURN QUERY VALUES (kessel._reference_shadows(extended), NULL);
    END IF;
    FOR known IN
        SELECT m.* FROM jsonb_array_elements(migrations) WITH ORDINALITY e (entry, n) JOIN kessel.migrations m ON m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer ORDER BY n
    LOOP
        RETURN QUERY VALUES (kessel._reference_context(scratch, extended, isolation), NULL);
        FOR part IN SELECT * FROM kessel._script_statements(kessel._script_place(known.up, scratch, runtime), known.name) LOOP
            CONTINUE WHEN part.alone = 'VACUUM' OR part.alone LIKE 'REINDEX%' OR part.alone LIKE 'CLUSTER%';
            statement := CASE WHEN part.alone LIKE '%CONCURRENTLY' THEN regexp_replace(part.sql, '\mconcurrently\M', '', 'i') ELSE part.sql END;
            of := known.name;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION kessel._reference_script(jsonb, text, text, text, text) FROM PUBLIC;

-- Why a reference cannot be built for a schema; NULL: it can. A script that names the
-- schema would reach what lives in it.
CREATE FUNCTION kessel._reference_obstacle(migrations jsonb, schema_name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT kessel._error_json('0A000', pg_catalog.format('migration %s names the schema "%s"', m.name, schema_name),
                                  'So what the migrations make cannot be built beside it, in a scratch schema.',
                                  'Name tables without a schema in migrations, or as "@tenant".name: the schema is set when they run.')
        FROM pg_catalog.jsonb_array_elements(migrations) WITH ORDINALITY e (entry, n) JOIN kessel.migrations m ON m.blueprint = entry ->> 0 AND m.version = (entry ->> 1)::integer
        WHERE kessel._script_names_schema(m.up, schema_name) ORDER BY n LIMIT 1);
REVOKE ALL ON FUNCTION kessel._reference_obstacle(jsonb, text) FROM PUBLIC;

-- What has happened instead of a reference.
CREATE FUNCTION kessel._reference_error(error jsonb, of text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN of IS NULL AND error ->> 'sqlstate' = '42501' THEN
        kessel._error_json('42501', 'a scratch schema cannot be made there', error ->> 'message', 'Grant the credential for the purpose owner CREATE on the database.')
    WHEN of IS NULL THEN error
    ELSE kessel._error_json('55000', pg_catalog.format('migration %s cannot be built in a scratch schema', of), pg_catalog.format('%s (SQLSTATE %s)', error ->> 'message', error ->> 'sqlstate'),
                            'All that a migration needs must be made by it or the ones before, or be in another schema that it names.') END;
REVOKE ALL ON FUNCTION kessel._reference_error(jsonb, text) FROM PUBLIC;

-- ---------- the comparison ----------

-- A schema in which tenants' data is, and what has become known of it.
CREATE TYPE kessel._drift_target AS (
    n              integer,
    data_source_id uuid,
    data_source    text,
    schema_name    text,
    tenant         text, -- NULL: several share it
    owner          text,
    runtime        text,
    fingerprint    text,
    environment    text,
    record         text,
    key            text, -- of its reference
    error          jsonb
);

CREATE FUNCTION kessel._drift_targets(tenants text[]) RETURNS kessel._drift_target[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(
    SELECT ROW(pg_catalog.row_number() OVER (ORDER BY g.data_source COLLATE "C", g.schema_name COLLATE "C"), g.data_source_id, g.data_source, g.schema_name,
               CASE WHEN cardinality(g.tenants) = 1 THEN g.tenants[1] END, coalesce(o.username, r.username), r.username, NULL, NULL, NULL, NULL, NULL)::kessel._drift_target
    FROM kessel._targets(kessel._tenant_ids(tenants)) g
    LEFT JOIN app.data_source_credentials r ON r.data_source_id = g.data_source_id AND r.purpose = 'runtime'
    LEFT JOIN app.data_source_credentials o ON o.data_source_id = g.data_source_id AND o.purpose = 'owner'
    ORDER BY 1);
REVOKE ALL ON FUNCTION kessel._drift_targets(text[]) FROM PUBLIC;

-- What a query says of targets, by their n.
CREATE FUNCTION kessel._drift_read(targets kessel._drift_target[], what text, lines boolean, max_parallel integer, timeout_ms bigint)
RETURNS TABLE (n integer, "values" text[], error jsonb)
LANGUAGE sql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT _drift_read.targets[r.n].n, r."values", r.error
    FROM kessel._schema_read(ARRAY(SELECT t.data_source_id FROM unnest(_drift_read.targets) WITH ORDINALITY t ORDER BY t.ordinality), '[]', kessel._schema_query(what),
                             coalesce((SELECT array_agg(p.value ORDER BY t.ordinality, p.k)
                                       FROM unnest(_drift_read.targets) WITH ORDINALITY t, LATERAL (VALUES (1, t.schema_name), (2, t.runtime), (3, _drift_read.lines::text)) p (k, value)), '{}'),
                             max_parallel, timeout_ms) r;
END;
REVOKE ALL ON FUNCTION kessel._drift_read(kessel._drift_target[], text, boolean, integer, bigint) FROM PUBLIC;

-- So that whoever says nothing has not said that nothing differs.
CREATE FUNCTION kessel._drift_unanswered(targets kessel._drift_target[], asked kessel._drift_target[]) RETURNS kessel._drift_target[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one kessel._drift_target;
BEGIN
    FOREACH one IN ARRAY asked LOOP
        targets[one.n].error := kessel._error_json('08P01', format('data source "%s" has not answered', one.data_source));
    END LOOP;
    RETURN targets;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_unanswered(kessel._drift_target[], kessel._drift_target[]) FROM PUBLIC;

-- Fingerprint, environment and record of each. One where nothing was ever migrated has no record to read.
CREATE FUNCTION kessel._drift_survey(targets kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS kessel._drift_target[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer record;
    again kessel._drift_target[] := '{}';
BEGIN
    targets := kessel._drift_unanswered(targets, targets);
    FOR answer IN SELECT * FROM kessel._drift_read(targets, 'recorded', false, max_parallel, timeout_ms) LOOP
        IF answer.error ->> 'sqlstate' = '42P01' THEN
            again := again || targets[answer.n];
        ELSE
            targets[answer.n] := kessel._drift_take(targets[answer.n], answer.values, answer.error);
        END IF;
    END LOOP;
    FOR answer IN SELECT * FROM kessel._drift_read(again, 'unrecorded', false, max_parallel, timeout_ms) LOOP
        targets[answer.n] := kessel._drift_take(targets[answer.n], answer.values, answer.error);
    END LOOP;
    RETURN targets;
END
$$;

CREATE FUNCTION kessel._drift_take(target kessel._drift_target, "values" text[], error jsonb) RETURNS kessel._drift_target
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    target.error := error;
    IF error IS NULL AND "values"[1] IS DISTINCT FROM 't' THEN
        target.error := kessel._error_json('3F000', format('data source "%s" has no schema "%s"', target.data_source, target.schema_name));
    ELSIF error IS NULL THEN
        target.environment := "values"[2];
        target.fingerprint := "values"[3];
        target.record := "values"[4];
    END IF;
    RETURN target;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_survey(kessel._drift_target[], integer, bigint), kessel._drift_take(kessel._drift_target, text[], jsonb) FROM PUBLIC;

-- Which reference each is to be compared with, or why there is none.
CREATE FUNCTION kessel._drift_keys(targets kessel._drift_target[], blueprint text) RETURNS kessel._drift_target[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind record;
    i integer;
    key text;
    error jsonb;
    migrations jsonb;
BEGIN
    FOR kind IN
        SELECT t.record, t.environment, s.isolation, s.conninfo -> 'host', s.conninfo -> 'hostaddr', s.conninfo -> 'port', array_agg(t.n) AS members, min(t.data_source_id::text)::uuid AS data_source_id
        FROM unnest(targets) t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.error IS NULL GROUP BY 1, 2, 3, 4, 5, 6
    LOOP
        key := NULL;
        BEGIN
            migrations := kind.record::jsonb;
            error := kessel._record_error(migrations);
            IF error IS NULL THEN
                migrations := (SELECT coalesce(jsonb_agg(jsonb_build_array(e -> 0, e -> 1, e -> 2) ORDER BY o), '[]') FROM jsonb_array_elements(migrations) WITH ORDINALITY x (e, o));
                key := kessel._reference_key(kind.data_source_id, kind.environment::jsonb, migrations);
            END IF;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            error := kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
        END;
        FOREACH i IN ARRAY kind.members LOOP
            targets[i].key := key;
            targets[i].error := coalesce(error, kessel._drift_unapplied(targets[i], migrations, blueprint));
        END LOOP;
    END LOOP;
    RETURN targets;
END
$$;

-- A place to which the blueprint was never applied is not one that has drifted.
CREATE FUNCTION kessel._drift_unapplied(target kessel._drift_target, migrations jsonb, blueprint text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(migrations) e WHERE e ->> 0 = blueprint)
              OR EXISTS (SELECT FROM kessel.migration_targets m WHERE m.data_source_id = (target).data_source_id AND m.schema_name = (target).schema_name AND m.blueprint = _drift_unapplied.blueprint)
            THEN NULL
            ELSE kessel._error_json('55000', pg_catalog.format('blueprint "%s" was never applied there', blueprint), NULL, pg_catalog.format('CALL kessel.migrate(%L) applies it.', blueprint)) END;
REVOKE ALL ON FUNCTION kessel._drift_keys(kessel._drift_target[], text), kessel._drift_unapplied(kessel._drift_target, jsonb, text) FROM PUBLIC;

-- Build the references that are missing. Where that fails on one target, another one
-- of the same kind may do.
CREATE FUNCTION kessel._drift_references(targets kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS kessel._drift_target[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    builders kessel._drift_target[];
    failures jsonb := '{}';
    i integer;
BEGIN
    FOR attempt IN 1 .. 3 LOOP
        builders := ARRAY(
            SELECT t FROM (SELECT u.*::kessel._drift_target AS t, row_number() OVER (PARTITION BY u.key ORDER BY u.n) AS nth FROM unnest(targets) u WHERE u.error IS NULL) x
            WHERE x.nth = attempt AND NOT EXISTS (SELECT FROM kessel.schema_references r WHERE r.key = (x.t).key));
        EXIT WHEN builders = '{}';
        failures := failures || kessel._drift_build(builders, max_parallel, timeout_ms);
    END LOOP;
    FOR i IN SELECT t.n FROM unnest(targets) t WHERE t.error IS NULL AND NOT EXISTS (SELECT FROM kessel.schema_references r WHERE r.key = t.key) LOOP
        targets[i].error := failures -> targets[i].key;
    END LOOP;
    RETURN targets;
END
$$;

-- All that one builds: an array of statements, and of the migrations that they are of.
CREATE FUNCTION kessel._drift_script(builder kessel._drift_target, scratch text, OUT statements jsonb, OUT origins jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT jsonb_agg(x.statement ORDER BY x.n), jsonb_agg(x.of ORDER BY x.n)
    FROM app.data_sources s,
         LATERAL (SELECT r.*, row_number() OVER () AS n
                  FROM kessel._reference_script((_drift_script.builder).record::jsonb, _drift_script.scratch,
                           CASE WHEN EXISTS (SELECT FROM jsonb_array_elements((_drift_script.builder).environment::jsonb -> 4) e WHERE e ->> 1 = '') THEN (_drift_script.builder).schema_name END,
                           (_drift_script.builder).runtime, s.isolation) r) x
    WHERE s.id = (_drift_script.builder).data_source_id;
END;

-- Keep what was built; the error where it is no reference.
CREATE FUNCTION kessel._drift_keep(builder kessel._drift_target, scratch text, "values" text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF "values"[4] <> '[]' THEN
        RETURN kessel._error_json('0A000', 'the migrations make or change something outside of their schema',
                                  (SELECT string_agg(o, ', ') FROM (SELECT jsonb_array_elements_text("values"[4]::jsonb) LIMIT 5) x (o)),
                                  'Only what is in the target''s schema can be compared: name tables without a schema in migrations.');
    END IF;
    DELETE FROM kessel.schema_references r WHERE r.built_at < clock_timestamp() - interval '90 days';
    INSERT INTO kessel.schema_references AS r (key, migrations, environment, data_source_id, scratch, content, lines)
    SELECT builder.key, builder.record::jsonb, builder.environment::jsonb, builder.data_source_id, scratch,
           coalesce((SELECT string_agg(jsonb_build_array(l -> 0, l -> 1, l -> 2)::text, E',\n' ORDER BY o) FROM jsonb_array_elements("values"[5]::jsonb) WITH ORDINALITY x (l, o)), ''), "values"[5]
    ON CONFLICT (key) DO NOTHING;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
END
$$;

-- Builds references, each on one data source, many at once. The errors of those that
-- have failed, by key.
CREATE FUNCTION kessel._drift_build(builders kessel._drift_target[], max_parallel integer, timeout_ms bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scratch text := 'kessel_scratch_' || replace(gen_random_uuid()::text, '-', '');
    scripts jsonb := '[]';
    origins jsonb := '[]';
    params text[] := '{}';
    failures jsonb;
    builder kessel._drift_target;
    script record;
    answer record;
BEGIN
    failures := (SELECT coalesce(jsonb_object_agg(b.key, o.error), '{}')
                 FROM unnest(builders) b, LATERAL (SELECT kessel._reference_obstacle(b.record::jsonb, b.schema_name)) o (error) WHERE o.error IS NOT NULL);
    builders := ARRAY(SELECT b FROM unnest(builders) b WHERE NOT failures ? b.key);
    FOREACH builder IN ARRAY builders LOOP
        script := kessel._drift_script(builder, scratch);
        scripts := scripts || jsonb_build_array(script.statements);
        origins := origins || jsonb_build_array(script.origins);
        params := params || ARRAY[scratch, builder.runtime, 'true'];
    END LOOP;
    FOR answer IN SELECT * FROM kessel._schema_read(ARRAY(SELECT b.data_source_id FROM unnest(builders) WITH ORDINALITY b ORDER BY b.ordinality), scripts, kessel._schema_query('scratch'), params, max_parallel, timeout_ms) LOOP
        failures := failures || jsonb_build_object(builders[answer.n].key, CASE WHEN answer.error IS NULL THEN kessel._drift_keep(builders[answer.n], scratch, answer.values)
                                                                              ELSE kessel._reference_error(answer.error, origins -> answer.n - 1 ->> answer.statement - 1) END);
    END LOOP;
    RETURN failures;
END
$$;
REVOKE ALL ON FUNCTION kessel._drift_references(kessel._drift_target[], integer, bigint), kessel._drift_build(kessel._drift_target[], integer, bigint),
    kessel._drift_script(kessel._drift_target, text), kessel._drift_keep(kessel._drift_target, text, text[]) FROM PUBLIC;

-- Those whose fingerprint is not that of their reference.
CREATE FUNCTION kessel._drift_suspects(targets kessel._drift_target[]) RETURNS kessel._drift_target[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN ARRAY(
    SELECT t
    FROM pg_catalog.unnest(targets) t
    JOIN (SELECT d.key, d.schema_name, kessel._reference_fingerprint(d.key, d.schema_name) AS fingerprint
          FROM (SELECT DISTINCT u.key, u.schema_name FROM pg_catalog.unnest(targets) u WHERE u.error IS NULL) d) r ON r.key = t.key AND r.schema_name = t.schema_name
    WHERE t.error IS NULL AND t.fingerprint IS DISTINCT FROM r.fingerprint
    ORDER BY t.n);
REVOKE ALL ON FUNCTION kessel._drift_suspects(kessel._drift_target[]) FROM PUBLIC;

-- What differs in one target, whose lines these are.
CREATE FUNCTION kessel._drift_of(target kessel._drift_target, lines text, ignore text[])
RETURNS TABLE (step integer, difference text, kind text, object text, expected text, actual text, mend text, note text)
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT row_number() OVER ()::integer, d.difference, d.kind, o.label, d.wanted, d.was, d.mend, d.note
    FROM kessel.schema_references r,
         LATERAL kessel._schema_differences(kessel._reference_placed(r.lines, r.scratch, (_drift_of.target).schema_name)::jsonb, _drift_of.lines::jsonb,
                                            (_drift_of.target).schema_name, (_drift_of.target).owner, (_drift_of.target).runtime) d,
         LATERAL (SELECT kessel._schema_object_label(d.kind, d.path)) o (label)
    WHERE r.key = (_drift_of.target).key AND NOT coalesce(d.kind || ' ' || o.label LIKE ANY (_drift_of.ignore), false);
END;
REVOKE ALL ON FUNCTION kessel._drift_of(kessel._drift_target, text, text[]) FROM PUBLIC;

CREATE FUNCTION kessel.drift(blueprint text, tenants text[] DEFAULT NULL, ignore text[] DEFAULT NULL, max_parallel integer DEFAULT 16, timeout interval DEFAULT '1 min')
RETURNS TABLE (tenant text, data_source text, schema_name text, step integer, difference text, kind text, object text, expected text, actual text, mend text, note text, error jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    -- 0: no limit
    timeout_ms bigint := coalesce(extract(epoch FROM timeout) * 1000, 0);
    targets kessel._drift_target[];
    target kessel._drift_target;
    suspects kessel._drift_target[];
    counts jsonb := '{}';
    answer record;
    differences bigint;
BEGIN
    PERFORM kessel._check_drift(drift.blueprint, drift.max_parallel, drift.timeout);
    targets := kessel._drift_survey(kessel._drift_targets(drift.tenants), drift.max_parallel, timeout_ms);
    targets := kessel._drift_keys(targets, drift.blueprint);
    targets := kessel._drift_references(targets, drift.max_parallel, timeout_ms);
    suspects := kessel._drift_suspects(targets);
    targets := kessel._drift_unanswered(targets, suspects);

    FOR answer IN SELECT * FROM kessel._drift_read(suspects, 'unrecorded', true, drift.max_parallel, timeout_ms) r ORDER BY r.n LOOP
        target := targets[answer.n];
        BEGIN
            IF answer.error IS NULL THEN
                RETURN QUERY SELECT target.tenant, target.data_source, target.schema_name, d.*, NULL::jsonb FROM kessel._drift_of(target, answer.values[5], drift.ignore) d;
                GET DIAGNOSTICS differences = ROW_COUNT;
                counts := counts || jsonb_build_object(answer.n::text, differences);
            END IF;
        EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation OR program_limit_exceeded THEN
            -- What it has sent is no list of lines.
            answer.error := kessel._error_json('08P01', 'the data source has answered something else', SQLERRM);
        END;
        targets[answer.n].error := answer.error;
    END LOOP;

    RETURN QUERY SELECT t.tenant, t.data_source, t.schema_name, NULL::integer, 'unknown', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, t.error
                 FROM unnest(targets) t WHERE t.error IS NOT NULL;
    INSERT INTO kessel.schema_checks AS c (data_source_id, schema_name, fingerprint, differences, error)
    SELECT t.data_source_id, t.schema_name, t.fingerprint, CASE WHEN t.error IS NULL THEN coalesce((counts ->> t.n::text)::integer, 0) END, t.error FROM unnest(targets) t
    ON CONFLICT (data_source_id, schema_name) DO UPDATE
        SET fingerprint = excluded.fingerprint, differences = excluded.differences, error = excluded.error, checked_at = clock_timestamp();
END
$$;

CREATE FUNCTION kessel._check_drift(blueprint text, max_parallel integer, timeout interval) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel._fleet_blueprint(blueprint);
    IF max_parallel IS NULL OR max_parallel NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_parallel must be between 1 and 1000' USING ERRCODE = 'invalid_parameter_value';
    ELSIF timeout < '1 ms' OR timeout > '30 days' THEN
        RAISE EXCEPTION 'timeout must be between one millisecond and 30 days' USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL is no limit.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._check_drift(text, integer, interval), kessel.drift(text, text[], text[], integer, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.drift(text, text[], text[], integer, interval) TO kessel_admin;
COMMENT ON FUNCTION kessel.drift(text, text[], text[], integer, interval) IS
    'Compares each target''s schema, a tenant''s or one that tenants share (tenant NULL), with what the migrations that are recorded there make, of all blueprints. No line: it is the same. A line for each difference: missing, unexpected or different; '
    'kind, object, expected and actual definition; mend, SQL that changes that, NULL with the reason in note. One target''s, run in the order of step in one transaction, bring it back; what destroys data begins with /* destroys data */. '
    'difference unknown: that target could not be compared, error says why ({"sqlstate", "message", "detail", "hint"}; KR014: it has migrations that are not known here; 55000: the blueprint was never applied there, or a migration is under way). '
    'tenants: slugs or ids; NULL: all. ignore: patterns of LIKE for kind and object, such as ''index orders.tmp%''. max_parallel: 1 to 1000; timeout: for each target and query; NULL: no limit. What was found is kept in kessel.schema_checks. '
    'Works as the credential for the purpose owner; where no target of the kind was compared before, it makes a scratch schema there for a moment and rolls it back. A target that is behind is no difference. '
    'Errors: 42704 unknown blueprint, 42809 one for this database, KR002 unknown tenant, 22004, 22023. For kessel_admin';

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
-- sequences' values and statistics; security labels and publications; what is in
-- other schemas. Of aggregates,
-- operators, operator classes, collations, conversions, base types and text search
-- objects only that they are there. Bodies of functions are compared as text.
--
-- Trust. A data source may be a customer's own and lie. What it says of its own
-- schema goes into SQL as names alone, each quoted here, and into nobody else's.
-- Definitions in that SQL come from a reference, and a reference serves only those
-- who share its host, port and owner's login: the server that could forge it could do
-- anything to them anyway. A pooler can lead from one port to many servers, by login
-- or by database: behind one that keeps no sessions, the database counts, too. Before
-- one that keeps them, servers that may not trust each other need logins of their own. Kinds of objects and privileges are taken from lists here.

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
COMMENT ON COLUMN kessel.schema_references.key IS 'Hash of all that a schema depends on: migrations, environment; host, port and login';
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
  UNION ALL
    SELECT 'pg_rewrite'::regclass, w.oid, 0, 'rule', ARRAY[r.name::text, w.rulename::text], NULL, NULL, NULL FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
  UNION ALL
    SELECT 'pg_statistic_ext'::regclass, x.oid, 0, 'statistics', ARRAY[x.stxname::text], x.stxowner, NULL, NULL FROM me JOIN pg_statistic_ext x ON x.stxnamespace = me.schema
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
    SELECT 'of type', ARRAY[r.name::text], format_type(r.reloftype, -1), r.oid FROM relations r WHERE reloftype <> 0
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

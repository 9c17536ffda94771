-- The agent: what the router puts into a data source, and what it checks there
-- before a tenant may live in it.
--
-- The agent is the schema kessel_agent, owned by the source's `owner`
-- credential. It holds the fence (which tenant, under which route epoch, is
-- served there) and the tenant context that row security compares with. The
-- transaction's first trip calls kessel_agent.enter(); a transaction that has
-- not entered gets an error where a protected table would show it a row.
--
-- What the context is worth. It is the setting kessel_agent.tenant_id, and
-- PostgreSQL lets every role set a setting of this kind. The runtime role runs
-- no other SQL than what the router deparses: operators and functions that are
-- immutable and built in, over table names and columns; set_config() is
-- volatile and never among them, SET is no query. So no tenant can forge it.
-- Whoever holds the runtime role's password can, and gains nothing by it: such a
-- person may call enter() just as the router does, for every tenant of that
-- source. A keyed hash in the setting, or a record per transaction, would cost
-- a second look-up on the hot path and leave that door open; the password is
-- what guards a source, which is why it is sealed and the role is weak.

CREATE FUNCTION kessel._agent_version() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN '1';
REVOKE ALL ON FUNCTION kessel._agent_version() FROM PUBLIC;

-- A schema that somebody else has made could be full of traps, also for who reads.
CREATE FUNCTION kessel._agent_owner_check() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN $script$DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace
               WHERE nspname = 'kessel_agent'
                 AND nspowner <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)) THEN
        RAISE EXCEPTION 'schema kessel_agent belongs to another role'
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Set the credential of its owner for the purpose owner, or drop the schema if it is not the router''s.';
    END IF;
END
$$;
$script$;
REVOKE ALL ON FUNCTION kessel._agent_owner_check() FROM PUBLIC;

-- The owner's default privileges may have given the agent's tables to others.
CREATE FUNCTION kessel._agent_private_tables() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN $script$
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT DISTINCT c.oid::pg_catalog.regclass AS name, a.grantee
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(c.relacl) a
        WHERE n.nspname = 'kessel_agent' AND c.relkind = 'r' AND a.grantee <> c.relowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', held.name,
                                  CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE held.grantee::pg_catalog.regrole::text END);
    END LOOP;
END
$$;
$script$;
REVOKE ALL ON FUNCTION kessel._agent_private_tables() FROM PUBLIC;

-- What was migrated in a data source, recorded there: the truth, which what the
-- infra database knows follows. Part of the agent; a source without an agent gets
-- it alone when it is migrated first. Run as the source's owner, in one
-- transaction; running it again changes nothing.
CREATE FUNCTION kessel._migrations_script() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN $script$
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
$script$ || kessel._agent_owner_check() || $script$
CREATE SCHEMA IF NOT EXISTS kessel_agent;

CREATE TABLE IF NOT EXISTS kessel_agent.migrations (
    schema_name     name NOT NULL,
    blueprint       text COLLATE pg_catalog."C" NOT NULL,
    version         integer NOT NULL,
    name            text NOT NULL,
    checksum        text NOT NULL,
    state           text NOT NULL DEFAULT 'applied' CHECK (state IN ('applied', 'applying', 'reverting')),
    statements_done integer NOT NULL DEFAULT 0,
    run_id          uuid,
    started_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    applied_at      timestamptz,
    PRIMARY KEY (schema_name, blueprint, version)
);
COMMENT ON TABLE kessel_agent.migrations IS 'What was migrated here, by schema and blueprint';
COMMENT ON COLUMN kessel_agent.migrations.checksum IS 'SHA-256 of the script, 64 hexadecimal digits';
COMMENT ON COLUMN kessel_agent.migrations.state IS 'applied; applying or reverting: outside of a transaction, under way or cut off after statements_done of its statements';
$script$ || kessel._agent_private_tables();
REVOKE ALL ON FUNCTION kessel._migrations_script() FROM PUBLIC;

-- Run as the source's owner, in one transaction; running it again changes
-- nothing or brings an older agent up to date. Who may call it is granted by
-- install_agent(), which knows the runtime role.
CREATE FUNCTION kessel._agent_script() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN kessel._migrations_script() || pg_catalog.replace($script$
COMMENT ON SCHEMA kessel_agent IS 'kessel_router agent @version@: tenant context and route fence';

DO $$
DECLARE
    grantee pg_catalog.oid;
BEGIN
    FOR grantee IN
        SELECT DISTINCT a.grantee FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname = 'kessel_agent' AND a.grantee <> n.nspowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA kessel_agent FROM %s',
                                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::pg_catalog.regrole::text END);
    END LOOP;
END
$$;

CREATE TABLE IF NOT EXISTS kessel_agent.tenants (
    tenant_id  text COLLATE pg_catalog."C" PRIMARY KEY CHECK (tenant_id <> ''),
    epoch      bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE kessel_agent.tenants IS 'The fence: who is served here, and under which route epoch; any other is refused';

CREATE OR REPLACE FUNCTION kessel_agent.version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT '@version@' $$;
REVOKE ALL ON FUNCTION kessel_agent.version() FROM PUBLIC;
COMMENT ON FUNCTION kessel_agent.version() IS 'Version of the agent; never NULL';

-- Every transaction of the router begins with this. Measured on PostgreSQL 15,
-- inside the server: 5 us above calling an empty function, against 6 us with
-- look-up and set_config() in two statements and 25 us as an SQL function, whose
-- body PostgreSQL 15 to 17 plan anew in each call. 1 us of it is SET search_path,
-- without which what runs with the owner's rights would rest on nobody ever
-- forgetting to qualify a name.
-- No lock is taken: a mover raises the epoch and then waits for the transactions
-- that are older than its own.
-- Every transaction begins with it, so it is made to be quick: STABLE reads with
-- the caller's snapshot, which is the transaction's first. A SET clause would
-- cost as much as the rest of it; instead every name, operators too, is
-- qualified.
CREATE OR REPLACE FUNCTION kessel_agent.enter(tenant_id text, epoch bigint) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
AS $$
BEGIN
    PERFORM pg_catalog.set_config('kessel_agent.tenant_id', t.tenant_id, true)
    FROM kessel_agent.tenants t
    WHERE t.tenant_id OPERATOR(pg_catalog.=) $1 AND t.epoch OPERATOR(pg_catalog.=) $2;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this database does not serve tenant "%" under route epoch %', $1, $2
            USING ERRCODE = 'KR004',
                  HINT = 'The tenant''s route has changed: run the transaction again. If that does not help, resume the tenant in the infra database.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel_agent.enter(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION kessel_agent.enter(text, bigint) IS 'Makes tenant_id the tenant of this transaction. KR004 where it is not served here under that epoch';

-- In policies as (SELECT kessel_agent.tenant_id()), so that it runs once a
-- query; as a column's default it runs once a row. Hence plpgsql, which is not
-- inlined and parsed again whenever a query is planned, and no SET clause: it
-- has the caller's rights and every name in it is qualified.
CREATE OR REPLACE FUNCTION kessel_agent.tenant_id() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    entered pg_catalog.text := pg_catalog.current_setting('kessel_agent.tenant_id', true);
BEGIN
    -- '' is what a setting made by SET LOCAL leaves behind.
    IF entered OPERATOR(pg_catalog.<>) '' THEN
        RETURN entered;
    END IF;
    RAISE EXCEPTION 'no tenant has been entered in this transaction'
        USING ERRCODE = 'KR001',
              HINT = 'Reach this table through the router, or call kessel_agent.enter() first.';
END
$$;
REVOKE ALL ON FUNCTION kessel_agent.tenant_id() FROM PUBLIC;
COMMENT ON FUNCTION kessel_agent.tenant_id() IS 'The tenant that this transaction has entered; never NULL, never empty. KR001 where none was entered';

CREATE OR REPLACE FUNCTION kessel_agent.protect(rel pg_catalog.regclass, column_name name DEFAULT 'tenant_id') RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
    kind "char" := (SELECT relkind FROM pg_catalog.pg_class WHERE oid = rel);
    column_type oid := (SELECT atttypid FROM pg_catalog.pg_attribute
                        WHERE attrelid = rel AND attname = column_name AND attnum > 0 AND NOT attisdropped);
    tenant text;
BEGIN
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', rel USING ERRCODE = 'wrong_object_type';
    END IF;
    IF column_type IS NULL THEN
        RAISE EXCEPTION 'table % has no column "%"', rel, column_name
            USING ERRCODE = 'undefined_column', HINT = 'Name the column that holds the tenant''s id as the second argument.';
    END IF;
    WHILE (SELECT typtype = 'd' FROM pg_catalog.pg_type WHERE oid = column_type) LOOP
        column_type := (SELECT typbasetype FROM pg_catalog.pg_type WHERE oid = column_type);
    END LOOP;
    -- Without a length: a cast to one would cut the ids of two tenants down to the same.
    tenant := CASE column_type WHEN 'pg_catalog.text'::pg_catalog.regtype THEN 'kessel_agent.tenant_id()'
                               ELSE pg_catalog.format('kessel_agent.tenant_id()::%s', pg_catalog.format_type(column_type, -1)) END;

    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, ALTER COLUMN %I SET DEFAULT %s',
                              rel, column_name, tenant);
    EXECUTE pg_catalog.format('DROP POLICY IF EXISTS kessel_tenant ON %s', rel);
    EXECUTE pg_catalog.format('CREATE POLICY kessel_tenant ON %1$s USING (%2$I = (SELECT %3$s)) WITH CHECK (%2$I = (SELECT %3$s))',
                              rel, column_name, tenant);
END
$$;
REVOKE ALL ON FUNCTION kessel_agent.protect(pg_catalog.regclass, name) FROM PUBLIC;
COMMENT ON FUNCTION kessel_agent.protect(pg_catalog.regclass, name) IS
    'Row security for a table that tenants share: enabled, forced, each row visible to the tenant in column_name alone, and that column filled in by default. A partition that the runtime role may read directly needs it too';
$script$, '@version@', kessel._agent_version()) || kessel._agent_private_tables();
REVOKE ALL ON FUNCTION kessel._agent_script() FROM PUBLIC;

-- The fence rows of one tenant or of all, in one trip. It commits there before the caller commits here;
-- if the caller then fails, the fence is ahead and refuses until the tenant is
-- attached again, which is the safe way round.
CREATE FUNCTION kessel._raise_fence(data_source_id uuid, tenant_ids text[], epochs bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel._remote_query(data_source_id, 'owner',
        'INSERT INTO kessel_agent.tenants AS t (tenant_id, epoch) '
        'SELECT * FROM unnest($1::text[], $2::bigint[]) '
        'ON CONFLICT (tenant_id) DO UPDATE SET epoch = excluded.epoch, updated_at = now() '
        'WHERE t.epoch <> excluded.epoch',
        ARRAY[tenant_ids::text, epochs::text]);
END
$$;
REVOKE ALL ON FUNCTION kessel._raise_fence(uuid, text[], bigint[]) FROM PUBLIC;

CREATE FUNCTION kessel.install_agent(data_source text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source_id uuid := (kessel._data_source(data_source)).id;
    runtime text;
    owner text;
BEGIN
    -- Waits for tenants that are being attached, so that none is left without its fence.
    PERFORM FROM app.data_sources s WHERE s.id = source_id FOR UPDATE;

    runtime := (SELECT r[1] FROM kessel._remote_query(source_id, 'runtime', 'SELECT session_user') r);
    owner := (SELECT r[1] FROM kessel._remote_query(source_id, 'owner', 'SELECT current_user') r);

    BEGIN
        PERFORM kessel._remote_exec(source_id, 'owner', kessel._agent_script()
            || CASE WHEN runtime <> owner THEN pg_catalog.format(
                'GRANT USAGE ON SCHEMA kessel_agent TO %1$I;
                 GRANT EXECUTE ON FUNCTION kessel_agent.version(), kessel_agent.enter(text, bigint), kessel_agent.tenant_id() TO %1$I;',
                runtime) ELSE '' END);
    EXCEPTION WHEN insufficient_privilege THEN
        IF EXISTS (SELECT FROM app.data_source_credentials c WHERE c.data_source_id = source_id AND c.purpose = 'owner') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the runtime role may not install the agent'
            USING ERRCODE = 'insufficient_privilege', DETAIL = SQLERRM,
                  HINT = pg_catalog.format('Name one that may: SELECT kessel.set_credential(%L, ''...'', ''...'', purpose => ''owner'').', data_source);
    END;

    PERFORM kessel._raise_fence(source_id, pg_catalog.array_agg(t.tenant_id_in_data_source), pg_catalog.array_agg(t.route_epoch))
    FROM app.tenants t WHERE t.data_source_id = source_id HAVING pg_catalog.count(*) > 0;

    UPDATE app.data_sources s SET agent_version = kessel._agent_version() WHERE s.id = source_id;
    RETURN kessel._agent_version();
END
$$;
REVOKE ALL ON FUNCTION kessel.install_agent(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.install_agent(text) TO kessel_admin;
COMMENT ON FUNCTION kessel.install_agent(text) IS
    'Puts the agent into a data source or brings it up to date, with the owner credential (else the runtime one), and lets the runtime role use it. Returns the agent''s version. '
    'Run again after the runtime role has changed. KR007 unknown data source; errors of the data source come with their own SQLSTATE. For kessel_admin';

-- What the runtime role can become, what those roles own, and everything it can
-- touch. $1: shared tables, $2: the role, who need not be the one that asks. Written for PostgreSQL 12 and later.
CREATE FUNCTION kessel._row_safety_query() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN $query$
WITH me AS MATERIALIZED (
    SELECT r.*,
           CASE WHEN r.rolname = $2 THEN format('role "%s"', r.rolname)
                ELSE format('role "%s", as a member of "%s",', $2, r.rolname) END AS who
    FROM pg_roles r
    -- A superuser is a member of every role, which says nothing.
    WHERE r.rolname = $2
       OR pg_has_role($2::name, r.oid, 'MEMBER') AND NOT (SELECT s.rolsuper FROM pg_roles s WHERE s.rolname = $2)
), exposed AS MATERIALIZED (
    SELECT c.oid, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
           format('%I.%I', n.nspname, c.relname) AS name,
           EXISTS (SELECT FROM me WHERE has_table_privilege(me.oid, c.oid, 'TRUNCATE')) AS may_truncate
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'kessel_agent')
      AND n.nspname !~ '^pg_(toast|temp_)'
      AND NOT $1::jsonb ? format('%s.%s', n.nspname, c.relname)
      AND EXISTS (SELECT FROM me
                  WHERE has_table_privilege(me.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                     OR has_any_column_privilege(me.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
), policies AS (
    SELECT p.polrelid, p.polname, p.polpermissive, p.polcmd,
           (p.polqual IS NULL OR pg_get_expr(p.polqual, p.polrelid) LIKE '%kessel_agent.tenant_id()%')
           AND (p.polwithcheck IS NULL OR pg_get_expr(p.polwithcheck, p.polrelid) LIKE '%kessel_agent.tenant_id()%') AS by_tenant
    FROM pg_policy p
    WHERE p.polroles = '{0}' OR EXISTS (SELECT FROM me WHERE me.oid = ANY (p.polroles))
), reasons (n, reason) AS (
    SELECT 1, format('%s %s', who, what)
    FROM me, LATERAL (VALUES
        (rolsuper, 'is a superuser'),
        (rolbypassrls AND NOT rolsuper, 'has BYPASSRLS'),
        (rolcreaterole AND NOT rolsuper, 'may create roles'),
        (rolreplication AND NOT rolsuper, 'may replicate'),
        (rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'), 'may use the server''s files or programs')) AS v (bad, what)
    WHERE bad
  UNION ALL
    SELECT 2, format('%s owns %s (%s), such as %s', who,
                     CASE classid WHEN 'pg_class'::regclass THEN 'tables, views or sequences' WHEN 'pg_proc'::regclass THEN 'functions'
                                  WHEN 'pg_namespace'::regclass THEN 'schemas' ELSE 'the database' END,
                     count(*), min(pg_describe_object(classid, objid, 0)))
    FROM me JOIN (SELECT classid, objid, refobjid FROM pg_shdepend
                  WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass
                    AND (dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                         AND classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass)
                         OR classid = 'pg_database'::regclass AND objid = (SELECT oid FROM pg_database WHERE datname = current_database()))
                  ) d ON d.refobjid = me.oid
    GROUP BY who, classid
  UNION ALL
    SELECT 3, format('table %s: row security is %s', name,
                     CASE WHEN NOT relrowsecurity THEN 'not enabled' ELSE 'not forced' END)
    FROM exposed WHERE relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity)
  UNION ALL
    -- A restrictive policy for all commands that asks for the tenant makes up for any other.
    SELECT 4, format('table %s: policy "%s" does not ask for the tenant', name, polname)
    FROM exposed JOIN policies ON polrelid = oid
    WHERE relkind IN ('r', 'p') AND relrowsecurity AND relforcerowsecurity AND polpermissive AND NOT by_tenant
      AND NOT EXISTS (SELECT FROM policies r WHERE r.polrelid = exposed.oid AND NOT r.polpermissive AND r.polcmd = '*' AND r.by_tenant)
  UNION ALL
    SELECT 5, format('table %s: the role may TRUNCATE it, which no policy filters', name)
    FROM exposed WHERE relkind IN ('r', 'p') AND may_truncate AND NOT (SELECT bool_or(rolsuper) FROM me)
  UNION ALL
    SELECT 6, format('view %s runs with its owner''s rights', name)
    FROM exposed
    WHERE relkind = 'v'
      AND NOT coalesce((SELECT o.option_value::boolean FROM pg_options_to_table(reloptions) o WHERE o.option_name = 'security_invoker'), false)
      AND EXISTS (SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                  WHERE w.ev_class = exposed.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> exposed.oid
                    -- no system catalog
                    AND d.refobjid >= 16384)
  UNION ALL
    SELECT 7, format('%s %s has no row security',
                     CASE relkind WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END, name)
    FROM exposed WHERE relkind IN ('m', 'f')
)
SELECT reason FROM reasons ORDER BY n, reason$query$;
REVOKE ALL ON FUNCTION kessel._row_safety_query() FROM PUBLIC;

CREATE FUNCTION kessel._row_safety(data_source_id uuid) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shared text := coalesce((SELECT s.options -> 'shared_tables' FROM app.data_sources s WHERE s.id = data_source_id), '[]')::text;
BEGIN
    RETURN QUERY SELECT r[1] FROM kessel._remote_query(data_source_id, 'runtime', kessel._row_safety_query(),
        ARRAY[shared, (SELECT r[1] FROM kessel._remote_query(data_source_id, 'runtime', 'SELECT session_user') r)]) r;
END
$$;
REVOKE ALL ON FUNCTION kessel._row_safety(uuid) FROM PUBLIC;

CREATE FUNCTION kessel._attach_tenant(tenant_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant app.tenants;
    source app.data_sources;
    reasons text[];
    state text;
BEGIN
    SELECT * INTO STRICT tenant FROM app.tenants t WHERE t.id = tenant_id;
    SELECT * INTO STRICT source FROM app.data_sources s WHERE s.id = tenant.data_source_id;

    IF tenant.isolation = 'row' THEN
        IF source.agent_version IS NULL THEN
            RAISE EXCEPTION 'data source "%" has no agent', source.name
                USING ERRCODE = 'KR008', DETAIL = 'Row isolation needs it: policies compare with the tenant that the agent has let in.',
                      HINT = pg_catalog.format('Run SELECT kessel.install_agent(%L).', source.name);
        END IF;
        reasons := ARRAY(SELECT kessel._row_safety(source.id));
        IF reasons <> '{}' THEN
            RAISE EXCEPTION 'data source "%" is not safe for row isolation', source.name
                USING ERRCODE = 'KR006', DETAIL = pg_catalog.array_to_string(reasons, E'\n'),
                      HINT = 'Let the router connect as a role that owns nothing, and protect each table with kessel_agent.protect(''schema.table''). '
                             'Tables that are meant for all tenants go into the data source''s options: {"shared_tables": ["schema.table"]}.';
        END IF;
    ELSIF tenant.isolation = 'schema' THEN
        SELECT r[1] INTO state FROM kessel._remote_query(source.id, 'runtime',
            'SELECT coalesce((SELECT CASE WHEN pg_catalog.has_schema_privilege(n.oid, ''USAGE'') THEN ''ok'' ELSE ''no privilege'' END
                              FROM pg_catalog.pg_namespace n WHERE n.nspname = $1), ''missing'')',
            ARRAY[tenant.tenant_id_in_data_source]) r;
        IF state <> 'ok' THEN
            RAISE EXCEPTION 'data source "%" has no usable schema "%"', source.name, tenant.tenant_id_in_data_source
                USING ERRCODE = 'KR005',
                      DETAIL = CASE state WHEN 'missing' THEN 'The schema does not exist there.' ELSE 'The runtime role has no USAGE on it.' END,
                      HINT = 'Make the schema there and grant the runtime role USAGE on it, or name another one in tenant_id_in_data_source.';
        END IF;
    END IF;

    IF source.agent_version IS NOT NULL THEN
        PERFORM kessel._raise_fence(source.id, ARRAY[tenant.tenant_id_in_data_source], ARRAY[tenant.route_epoch]);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._attach_tenant(uuid) FROM PUBLIC;

-- The reverse: the source serves that tenant no more. For a tenant that is
-- dropped or has moved away.
CREATE FUNCTION kessel._detach_tenant(data_source_id uuid, tenant_id_in_data_source text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel._remote_query(data_source_id, 'owner', 'DELETE FROM kessel_agent.tenants WHERE tenant_id = $1', ARRAY[tenant_id_in_data_source])
    FROM app.data_sources s WHERE s.id = data_source_id AND s.agent_version IS NOT NULL;
END
$$;
REVOKE ALL ON FUNCTION kessel._detach_tenant(uuid, text) FROM PUBLIC;

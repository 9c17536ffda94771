-- kessel.doctor(): what keeps this installation from doing its work well. Cheap:
-- it asks this server alone; kessel.test_data_source() asks a data source.

-- Names for a detail: the first ten, then how many more.
CREATE FUNCTION kessel._some(names text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.array_to_string(names[1:10], ', ')
    || CASE WHEN pg_catalog.cardinality(names) > 10 THEN pg_catalog.format(' and %s more', pg_catalog.cardinality(names) - 10) ELSE '' END;
REVOKE ALL ON FUNCTION kessel._some(text[]) FROM PUBLIC;

-- The list setting with one more library in it, as a line for postgresql.conf.
CREATE FUNCTION kessel._line_to_preload(setting text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.format('%s = ''%s''', setting,
    pg_catalog.concat_ws(', ', nullif(pg_catalog.current_setting(setting), ''), 'kessel_router'));
REVOKE ALL ON FUNCTION kessel._line_to_preload(text) FROM PUBLIC;

-- What PUBLIC may do with what the extension made, but for calling what policies are
-- made of (47_policies.sql): that runs as whoever reads a table.
CREATE FUNCTION kessel._public_privileges() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH member AS (
        SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT x.oid FROM pg_catalog.pg_extension x WHERE x.extname = 'kessel_router')
    ), acl AS (
        SELECT 'pg_catalog.pg_proc'::regclass AS classid, p.oid, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS list FROM pg_catalog.pg_proc p
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relacl FROM pg_catalog.pg_class c
        UNION ALL
        SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.nspacl FROM pg_catalog.pg_namespace n
        UNION ALL
        SELECT 'pg_catalog.pg_foreign_server'::regclass, s.oid, s.srvacl FROM pg_catalog.pg_foreign_server s
        UNION ALL
        SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, w.fdwacl FROM pg_catalog.pg_foreign_data_wrapper w
    )
    SELECT pg_catalog.format('%s on %s', pg_catalog.string_agg(a.privilege_type, ', '), pg_catalog.pg_describe_object(m.classid, m.objid, 0))
    FROM member m JOIN acl ON acl.classid = m.classid AND acl.oid = m.objid, pg_catalog.aclexplode(acl.list) a
    WHERE a.grantee = 0
    GROUP BY m.classid, m.objid
    ORDER BY 1
$$;
REVOKE ALL ON FUNCTION kessel._public_privileges() FROM PUBLIC;

CREATE FUNCTION kessel.doctor() RETURNS TABLE ("check" text, ok boolean, detail text, hint text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shared boolean := 'kessel_router' = ANY (pg_catalog.string_to_array(pg_catalog.translate(pg_catalog.current_setting('shared_preload_libraries'), ' "', ''), ','));
    session boolean := 'kessel_router' = ANY (pg_catalog.string_to_array(pg_catalog.translate(pg_catalog.current_setting('session_preload_libraries'), ' "', ''), ','));
    extension record;
    vault_status record;
    audit record;
    names text[];
    number bigint;
BEGIN
    SELECT x.extversion AS installed, a.default_version AS available INTO extension
    FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_available_extensions a ON a.name = x.extname WHERE x.extname = 'kessel_router';
    "check" := 'extension version';
    ok := extension.installed IS NOT DISTINCT FROM extension.available;
    detail := pg_catalog.concat(extension.installed, CASE WHEN NOT ok THEN ', while the files on disk are of version ' || extension.available END);
    hint := CASE WHEN NOT ok THEN 'Run ALTER EXTENSION kessel_router UPDATE.' END;
    RETURN NEXT;

    "check" := 'library preloaded';
    ok := shared OR session;
    detail := CASE WHEN shared THEN 'in shared_preload_libraries' WHEN session THEN 'in session_preload_libraries'
                   ELSE 'A session loads the library when it first uses it: until then a statement with a password can reach the server''s log, and ON CONFLICT with a target is refused.' END;
    hint := CASE WHEN NOT ok THEN pg_catalog.format('Put this line into postgresql.conf and reload: %s', kessel._line_to_preload('session_preload_libraries')) END;
    RETURN NEXT;

    "check" := 'tenant reported to poolers';
    ok := shared OR session;
    detail := CASE WHEN ok THEN 'Each session reports kessel.tenant from its start; PgBouncer follows it with track_extra_parameters = kessel.tenant.'
                   ELSE 'A session reports kessel.tenant only once it has used the library, so a pooler may hand it on with another client''s tenant.' END;
    hint := CASE WHEN NOT ok THEN 'Preload the library as above.' END;
    RETURN NEXT;

    "check" := 'vault';
    BEGIN
        SELECT * INTO STRICT vault_status FROM vault.status() v;
        ok := NOT vault_status.sealed AND vault_status.hint IS NULL;
        detail := pg_catalog.concat_ws('. ', CASE WHEN vault_status.sealed THEN 'sealed' ELSE 'open, root key from ' || vault_status.provider END, vault_status.detail);
        hint := vault_status.hint;
    EXCEPTION WHEN OTHERS THEN
        ok := false; detail := SQLERRM; hint := 'Look at the settings kessel.root_key_file, kessel.root_key_command and kessel.root_key_environment.';
    END;
    RETURN NEXT;

    SELECT pg_catalog.array_agg(coalesce(s.name, s.id::text) ORDER BY s.expires_at) INTO names
    FROM vault.secrets s WHERE s.expires_at <= pg_catalog.now() + interval '14 days';
    "check" := 'expiring secrets';
    ok := names IS NULL;
    detail := CASE WHEN ok THEN 'None expires within 14 days.' ELSE 'Expired, or within 14 days: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN 'Store a new value: vault.update_secret(id, new_secret, new_expires_at => ...).' END;
    RETURN NEXT;

    names := ARRAY(SELECT DISTINCT g.role_name FROM vault.secret_grants g
                   WHERE g.role_name <> 'public' AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = g.role_name) ORDER BY 1);
    "check" := 'grants on secrets';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'Every grant is to a role that is there.' ELSE 'To roles that are gone, and would hold again for new ones of these names: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN pg_catalog.format('Run SELECT vault.revoke_secret(secret_id, role_name, privilege) FROM vault.secret_grants WHERE role_name = %L.', names[1]) END;
    RETURN NEXT;

    names := ARRAY(SELECT DISTINCT k.tenant_id::text FROM vault.keys k
                   WHERE k.tenant_id IS NOT NULL AND k.status <> 'destroyed' AND NOT EXISTS (SELECT FROM app.tenants t WHERE t.id = k.tenant_id) ORDER BY 1);
    "check" := 'keys without a tenant';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'Every data key belongs to a tenant that is there, or to none.' ELSE 'Secrets or sealed values of tenants that are not there: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN pg_catalog.format('Run SELECT * FROM vault.shred_tenant(%L), unless the tenant is to come back under this id.', names[1]) END;
    RETURN NEXT;

    "check" := 'audit lines';
    ok := pg_catalog.current_setting('log_min_messages') NOT IN ('fatal', 'panic');
    detail := CASE WHEN ok THEN 'Every open of a secret is a line in the server''s log.'
                   ELSE 'The server''s log gets no audit lines: log_min_messages = ' || pg_catalog.current_setting('log_min_messages') END;
    hint := CASE WHEN NOT ok THEN 'Set log_min_messages to log, error or less.' END;
    RETURN NEXT;

    SELECT * INTO audit FROM kessel.audit_status() a;
    "check" := 'audit table';
    ok := audit.buffer_kb > 0 AND audit.lost = 0 AND audit.failed_starts = 0;
    detail := CASE WHEN audit.buffer_kb = 0 THEN 'Audit records are in the server''s log only: a worker writes app.audit_log where the library is in shared_preload_libraries.'
                   WHEN audit.lost > 0 THEN pg_catalog.format('%s audit records found no room since the server''s start and are in its log only.', audit.lost)
                   WHEN audit.failed_starts > 0 THEN pg_catalog.format('No worker could be had %s times since the server''s start; %s audit records wait.', audit.failed_starts, audit.pending)
                   ELSE 'A worker writes audit records into app.audit_log, too.' END;
    hint := CASE WHEN ok THEN NULL
                 WHEN audit.buffer_kb = 0 AND NOT shared THEN pg_catalog.format('Put this line into postgresql.conf and restart: %s', kessel._line_to_preload('shared_preload_libraries'))
                 WHEN audit.buffer_kb = 0 THEN 'Set kessel.audit_buffer_size, if it is 0, and restart.'
                 WHEN audit.lost > 0 THEN 'Raise kessel.audit_buffer_size and restart, if this happens often.'
                 ELSE 'Raise max_worker_processes and restart.' END;
    RETURN NEXT;

    SELECT pg_catalog.count(*) INTO number FROM app.data_sources s;
    "check" := 'data sources';
    ok := number > 0;
    detail := number::text;
    hint := CASE WHEN NOT ok THEN 'Make one known with kessel.create_data_source(name, url).' END;
    RETURN NEXT;

    names := ARRAY(SELECT s.name FROM app.data_sources s WHERE s.is_default);
    "check" := 'default data source';
    ok := names <> '{}' OR number = 0;
    detail := coalesce(names[1], 'none');
    hint := CASE WHEN NOT ok THEN 'Choose one with kessel.set_default_data_source(name), or name one whenever you create a tenant.' END;
    RETURN NEXT;

    names := ARRAY(SELECT s.name FROM app.data_sources s
                   WHERE NOT EXISTS (SELECT FROM app.data_source_credentials c
                                     WHERE c.data_source_id = s.id AND c.purpose = 'runtime' AND c.username IS NOT NULL
                                       AND (c.secret_id IS NOT NULL OR s.options @> '{"password_required": false}')) ORDER BY s.name);
    "check" := 'credentials';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'Every data source has its runtime credential.' ELSE 'No runtime credential: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN pg_catalog.format('Run SELECT kessel.set_credential(%L, username, password).', names[1]) END;
    RETURN NEXT;

    names := ARRAY(SELECT s.name FROM app.data_sources s
                   WHERE s.conninfo ->> 'sslmode' IS DISTINCT FROM 'verify-full' AND s.conninfo ->> 'sslmode' IS DISTINCT FROM 'verify-ca'
                     AND NOT s.options @> '{"allow_local": true}' ORDER BY s.name);
    "check" := 'server certificates';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'verified by the sslmode of every data source that is not local' ELSE 'Not verified: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN 'Set sslmode=verify-full and sslrootcert in the url of each, unless nobody can listen on its network.' END;
    RETURN NEXT;

    names := ARRAY(SELECT s.name FROM app.data_sources s
                   WHERE s.agent_version IS NULL
                     AND (s.isolation = 'row' OR EXISTS (SELECT FROM app.tenants t WHERE t.data_source_id = s.id AND t.isolation = 'row')) ORDER BY s.name);
    "check" := 'agents for row isolation';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'installed wherever they are needed' ELSE 'Missing in: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN pg_catalog.format('Run SELECT kessel.install_agent(%L).', names[1]) END;
    RETURN NEXT;

    names := ARRAY(SELECT pg_catalog.format('%s (%s)', s.name, s.agent_version) FROM app.data_sources s WHERE s.agent_version <> kessel._agent_version() ORDER BY s.name);
    "check" := 'agent versions';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'all are of version ' || kessel._agent_version() ELSE pg_catalog.format('Not of version %s: %s', kessel._agent_version(), kessel._some(names)) END;
    hint := CASE WHEN NOT ok THEN 'Run kessel.install_agent(name) for each.' END;
    RETURN NEXT;

    names := ARRAY(SELECT pg_catalog.format('%s (%s)', t.slug, s.name) FROM app.tenants t JOIN app.data_sources s ON s.id = t.data_source_id
                   WHERE s.status <> 'active' AND t.status = 'active' ORDER BY t.slug LIMIT 1000);
    "check" := 'routes';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'Every active tenant is on an active data source.' ELSE 'Active tenants on a disabled data source: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN 'Enable the data source with kessel.alter_data_source(name, status => ''active''), or suspend the tenants.' END;
    RETURN NEXT;

    SELECT pg_catalog.count(*), pg_catalog.array_agg(DISTINCT c.relnamespace::regnamespace::text) INTO number, names
    FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'kessel_router'
         JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid;
    "check" := 'router tables';
    ok := number > 0;
    detail := CASE WHEN ok THEN pg_catalog.format('%s in %s', number, kessel._some(names)) ELSE 'none' END;
    hint := CASE WHEN NOT ok THEN 'Make them with kessel.import_tables(data_source, remote_schema).' END;
    RETURN NEXT;

    names := ARRAY(SELECT kessel._public_privileges());
    "check" := 'PUBLIC';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'may do nothing with the extension' ELSE kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN 'REVOKE these; grant kessel_user, kessel_service or kessel_admin to those who need them.' END;
    RETURN NEXT;

    -- Whom no membership holds back. An app must not log in as one of them.
    names := ARRAY(SELECT r.rolname FROM pg_catalog.pg_roles r
                   WHERE r.rolcanlogin AND pg_catalog.pg_has_role(r.oid, 'kessel_user', 'MEMBER')
                     AND (r.rolsuper OR pg_catalog.pg_has_role(r.oid, 'kessel_admin', 'MEMBER'))
                     AND EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid AND m.roleid = 'kessel_user'::regrole) ORDER BY 1);
    "check" := 'app roles';
    ok := names = '{}';
    detail := CASE WHEN ok THEN 'No member of kessel_user is an administrator, too.' ELSE 'Members of kessel_user that reach every tenant, being superuser or in kessel_admin: ' || kessel._some(names) END;
    hint := CASE WHEN NOT ok THEN 'Let apps connect as a role that is neither, so that membership of the tenant is asked for.' END;
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION kessel.doctor() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.doctor() TO kessel_admin;
COMMENT ON FUNCTION kessel.doctor() IS
    'What is well and what is not in this installation: check, ok, detail, and for what is not, a hint that says what to do. Asks this server alone; kessel.test_data_source(name) asks a data source. Raises nothing. For kessel_admin';

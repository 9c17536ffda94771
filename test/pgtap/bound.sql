-- Options of kessel_fdw: what postgres_fdw of this version takes or refuses is
-- taken or refused alike, but for the options that are listed here.
CREATE ROLE bound_user;
CREATE ROLE bound_reader;
CREATE ROLE bound_admin;
GRANT kessel_admin TO bound_admin;
GRANT USAGE ON FOREIGN DATA WRAPPER kessel_fdw, postgres_fdw TO bound_user, bound_reader;
GRANT USAGE ON SCHEMA kessel TO bound_user;
GRANT EXECUTE ON FUNCTION kessel.fdw_validator(text[], oid) TO bound_user;

SET client_min_messages = error;
SELECT no_plan();

-- What a validator says: SQLSTATE and message, empty where it is content.
CREATE FUNCTION verdict(validator text, options text[], context regclass) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT %s($1, $2)', validator) USING options, context::oid;
    RETURN '';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

CREATE FUNCTION valid_options(context regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM postgres_fdw_validator(ARRAY['no_such_option=x'], context);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN QUERY SELECT trim(o) FROM string_to_table(regexp_replace(hint, '^.*: ', ''), ',') o;
END $$;

-- 16 and later hint at one option that looks alike; then these are tried.
CREATE TEMP TABLE tried (context regclass, option text);
INSERT INTO tried
SELECT c, o FROM unnest('{pg_foreign_server,pg_user_mapping,pg_foreign_table,pg_attribute,pg_foreign_data_wrapper}'::regclass[]) c,
    LATERAL (SELECT o FROM valid_options(c) o
        UNION SELECT unnest('{host,hostaddr,port,dbname,service,options,user,password,passfile,sslmode,sslcert,sslkey,sslpassword,sslrootcert,channel_binding,connect_timeout,
            application_name,fallback_application_name,client_encoding,replication,authtype,target_session_attrs,load_balance_hosts,require_auth,gssencmode,krbsrvname,
            schema_name,table_name,column_name,use_remote_estimate,fdw_startup_cost,fdw_tuple_cost,extensions,updatable,truncatable,fetch_size,batch_size,async_capable,
            parallel_commit,parallel_abort,analyze_sampling,keep_connections,password_required,use_scram_passthrough,no_such_option}'::text[])) o
WHERE o ~ '^[a-z_]+$';
CREATE TEMP TABLE value AS SELECT unnest('{true,false,on,1,0,-1,x,1.5,random,"","100kB"}'::text[]) AS value;
GRANT SELECT ON tried, value TO bound_user;
SELECT cmp_ok((SELECT count(*) FROM tried), '>', 200::bigint, 'there is something to try');

-- With an option of libpq beside it, so that the server is a bound one.
CREATE FUNCTION differences() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s=%s: "%s" but "%s"', context, option, value, ours, theirs)
    FROM (SELECT context, option, value, verdict('kessel.fdw_validator', o, context) AS ours, verdict('public.postgres_fdw_validator', o, context) AS theirs
          FROM tried, value, LATERAL (SELECT ARRAY[option || '=' || value] || CASE context::text WHEN 'pg_foreign_server' THEN ARRAY['port=1'] ELSE '{}' END) x(o)) t
    WHERE ours <> theirs AND NOT (option = 'use_scram_passthrough' AND ours ~ '^HV00D use_scram_passthrough cannot')
$$;
SELECT is_empty('SELECT differences()', 'a superuser finds the options of postgres_fdw');
SET ROLE bound_user;
SELECT is_empty('SELECT d FROM differences() d WHERE d !~ ''^pg_foreign_table schema_name''', 'and so do others');
RESET ROLE;

-- what is ours
CREATE FUNCTION refused(sql text, state text, message text, what text) RETURNS SETOF text LANGUAGE sql AS 'SELECT throws_ok(sql, state, message, what)';
SELECT lives_ok($$CREATE SERVER router FOREIGN DATA WRAPPER kessel_fdw OPTIONS (fetch_size '10', extensions 'plpgsql')$$, 'a server without options of libpq');
SELECT lives_ok($$CREATE SERVER remote FOREIGN DATA WRAPPER kessel_fdw OPTIONS (port '1')$$, 'any one of libpq is enough');
SELECT refused($$CREATE SERVER x FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 's', port '1')$$, 'HV00D', 'options "data_source" and "port" exclude each other', 'not both');
SELECT refused($$ALTER SERVER router OPTIONS (pooler 'transaction')$$, 'HV00D', 'option "pooler" can only be used where a server has connection options', 'a router has no pooler');
SELECT refused($$ALTER SERVER remote OPTIONS (pooler 'statement')$$, 'HV024', 'invalid value for option "pooler": statement', 'two kinds of poolers');
SELECT lives_ok($$ALTER SERVER remote OPTIONS (pooler 'session')$$, 'a bound server may say what it leads to');
SELECT refused($$ALTER SERVER router OPTIONS (use_remote_estimate 'on')$$, 'HV00D', 'use_remote_estimate can only be used where a server has connection options', 'a router cannot be asked for estimates');
SELECT lives_ok($$ALTER SERVER remote OPTIONS (use_remote_estimate 'on')$$, 'a bound server can');
SELECT refused($$CREATE USER MAPPING FOR bound_user SERVER remote OPTIONS (password 'a', secret 'b')$$, 'HV00D', 'options "password" and "secret" exclude each other', 'one password');
SELECT refused($$CREATE USER MAPPING FOR bound_user SERVER remote OPTIONS (secret '')$$, 'HV024', 'option "secret" must not be empty', 'a secret has a name');
SELECT refused($$ALTER SERVER remote OPTIONS (secret 'b')$$, 'HV00D', 'invalid option "secret"', 'it belongs into the user mapping');
SELECT lives_ok($$CREATE USER MAPPING FOR bound_user SERVER remote OPTIONS (user 'u', secret 'not yet there')$$, 'a secret may come later');

-- who may send a secret to a host of his choice
CREATE FUNCTION as_role(role name, sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE sql;
    PERFORM set_config('role', 'none', true);
END $$;
GRANT USAGE ON FOREIGN SERVER remote TO bound_user, bound_admin, bound_reader;
SELECT refused($$SELECT as_role('bound_user', 'ALTER USER MAPPING FOR bound_user SERVER remote OPTIONS (SET user ''v'')')$$, '42501',
    'permission denied to use this secret in a user mapping', 'its user cannot alter a mapping with a secret');
SELECT refused($$SELECT as_role('bound_user', 'ALTER SERVER remote OPTIONS (ADD host ''evil'')')$$, '42501', 'must be owner of foreign server remote', 'nor its server');
SELECT lives_ok($$SELECT as_role('bound_user', 'ALTER USER MAPPING FOR bound_user SERVER remote OPTIONS (DROP secret)')$$, 'he can do without');
SELECT refused($$SELECT as_role('bound_user', 'ALTER USER MAPPING FOR bound_user SERVER remote OPTIONS (ADD secret ''x'')')$$, '42501',
    'permission denied to use this secret in a user mapping', 'but not put it back');
SELECT refused($$SELECT as_role('bound_admin', 'CREATE USER MAPPING FOR bound_admin SERVER remote OPTIONS (secret ''x'')')$$, '42501',
    'permission denied to use this secret in a user mapping', 'an administrator may not read secrets, and not send them');
SELECT vault.create_secret('pw', 'x') AS x_id \gset
SELECT vault.grant_secret(:'x_id', 'bound_reader', 'use') \g /dev/null
SELECT refused($$SELECT as_role('bound_reader', 'CREATE USER MAPPING FOR bound_reader SERVER remote OPTIONS (secret ''x'')')$$, '42501',
    'permission denied to use this secret in a user mapping', 'using it is not enough');
SELECT vault.grant_secret(:'x_id', 'bound_reader', 'reveal') \g /dev/null
SELECT lives_ok($$SELECT as_role('bound_reader', 'CREATE USER MAPPING FOR bound_reader SERVER remote OPTIONS (secret ''x'')')$$, 'who may read it may');

-- the server's owner decides to which host it goes
CREATE FOREIGN TABLE far (i int) SERVER remote;
GRANT SELECT ON far TO bound_reader;
ALTER SERVER remote OPTIONS (DROP use_remote_estimate, SET port '1', ADD host '127.0.0.1');
SELECT refused($$SELECT as_role('bound_reader', 'SELECT * FROM far')$$, '08001', 'could not connect to server "remote"', 'a superuser''s server uses the secret');
ALTER SERVER remote OWNER TO bound_user;
SELECT refused($$SELECT as_role('bound_reader', 'SELECT * FROM far')$$, '42501', 'no secret can be used for server "remote"', 'a server of who may not read it does not');
ALTER SERVER remote OWNER TO bound_reader;
SELECT refused($$SELECT as_role('bound_reader', 'SELECT * FROM far')$$, '08001', 'could not connect to server "remote"', 'one of who may does');
SELECT vault.revoke_secret(:'x_id', 'bound_reader', 'reveal') \g /dev/null
SELECT refused($$SELECT as_role('bound_reader', 'SELECT * FROM far')$$, '42501', 'no secret can be used for server "remote"', 'a right that is taken away counts at once');

SELECT * FROM finish();

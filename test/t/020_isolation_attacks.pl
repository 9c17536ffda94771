# A tenant's user tries to reach another tenant's rows, in each isolation, with
# whatever SQL lets an app role do. And sources that are not safe for row
# isolation are refused.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;

# What a careless admin adds: a view, functions with their owner's rights, and
# router tables that show the tenant column.
$k->exec(<<'SQL');
CREATE VIEW data.v AS SELECT * FROM data.accounts;
CREATE FUNCTION data.names() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'SELECT name FROM data.accounts';
CREATE FUNCTION data.switch(tenant text) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'BEGIN RETURN pg_catalog.set_config(''kessel.tenant'', tenant, false); END';
CREATE FUNCTION data.pinned() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET kessel.tenant = 'row-b'
    AS 'SELECT name FROM data.accounts';
CREATE FOREIGN TABLE data.accounts_full (id integer, tenant_id text, name text) SERVER kessel_router
    OPTIONS (schema_name '@tenant', table_name 'accounts');
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA data TO kessel_user, kessel_service;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA data TO kessel_user, kessel_service;
SQL

# own(RESULT, TENANT, NAME): rows came, and each is of that tenant.
sub own
{
    my ($r, $tenant, $name) = @_;
    my @foreign = grep { !/^\Q$tenant\E account/ } split /\n/, $r->{out};
    ok($r->{state} eq '' && $r->{out} ne '' && !@foreign, $name) or diag("$r->{out}\n$r->{err}");
    return;
}

# denied(RESULT, NAME): 42501 and not a row.
sub denied
{
    my ($r, $name) = @_;
    ok($r->{state} eq '42501' && $r->{out} eq '', $name) or diag("state \"$r->{state}\" out \"$r->{out}\"\n$r->{err}");
    return;
}

foreach my $kind (qw(row schema solo))
{
    my ($mine, $theirs) = ("$kind-a", "$kind-b");
    my $before = $k->at_home($theirs, 'SELECT * FROM accounts ORDER BY 1, 2');
    # The member of $mine, who names $theirs.
    my $intrude = sub { my ($sql) = @_; return $k->as_member($mine, "SET kessel.tenant = '$theirs'; $sql") };

    # Reading.
    own($k->as_member($mine, 'SELECT name FROM data.accounts'), $mine, "$kind: SELECT shows its own rows alone");
    ok_run($k->as_member($mine, "SELECT count(*) FROM data.accounts WHERE name LIKE '%-b%'"), '0', "$kind: none of the others matches");
    own($k->as_member($mine, "SELECT name FROM data.accounts WHERE 1 / CASE WHEN name LIKE '%-b%' THEN 0 ELSE 1 END = 1"), $mine, "$kind: an erroring condition meets no row of the others");
    denied($intrude->('SELECT name FROM data.accounts'), "$kind: naming the other tenant");
    denied($intrude->('EXPLAIN (VERBOSE) SELECT name FROM data.accounts'), "$kind: EXPLAIN for the other tenant");
    denied($k->as_member($mine, "SELECT kessel.use_tenant('$theirs', false); SELECT name FROM data.accounts"), "$kind: use_tenant");
    denied($k->as_member($mine, "SET request.jwt.claims = '{}'; SELECT name FROM data.accounts"), "$kind: nobody's claims");
    denied($k->run('SELECT name FROM data.accounts', user => 'stranger', tenant => $mine, sub => $k->{user}{a}), "$kind: a role without privileges");

    # Writing.
    denied($intrude->("INSERT INTO data.accounts (id, name) VALUES (666, 'x')"), "$kind: INSERT for the other tenant");
    denied($intrude->('UPDATE data.accounts SET balance = 0'), "$kind: UPDATE for the other tenant");
    denied($intrude->('DELETE FROM data.contacts'), "$kind: DELETE for the other tenant");
    denied($intrude->("COPY data.accounts (id, name) FROM STDIN;\n667\tx\n\\.\n"), "$kind: COPY for the other tenant");
    ok_run($k->as_member($mine, "UPDATE data.accounts SET balance = 0 WHERE name LIKE '%-b%' RETURNING name"), '', "$kind: UPDATE meets none of its rows");
    ok_run($k->as_member($mine, "DELETE FROM data.accounts WHERE name LIKE '%-b%' RETURNING name"), '', "$kind: nor DELETE");
    if ($kind eq 'row')
    {
        denied($k->as_member($mine, "INSERT INTO data.accounts_full VALUES (668, '$theirs', 'x')"), "$kind: INSERT with the other's tenant id");
        denied($k->as_member($mine, "UPDATE data.accounts_full SET tenant_id = '$theirs' WHERE id = 1"), "$kind: UPDATE that gives a row to the other");
        ok_run($k->as_member($mine, "UPDATE data.accounts_full SET name = 'x' WHERE tenant_id = '$theirs' RETURNING id"), '', "$kind: UPDATE by the other's tenant id");
        ok_run($k->as_member($mine, "SELECT count(*) FROM data.accounts_full WHERE tenant_id <> '$mine' OR tenant_id IS NULL"), '0', "$kind: the tenant column shows one tenant");
        isnt($k->as_member($mine, 'TRUNCATE data.contacts')->{state}, '', "$kind: TRUNCATE, which row security does not see, is refused");
    }

    # A router table joined with itself, and a switch in the middle of a query.
    my $pairs = 'SELECT a.name, b.name FROM data.accounts a JOIN data.accounts b ON a.id = b.id';
    own($k->as_member($mine, $pairs), $mine, "$kind: a join with itself");
    my $r = $k->as_member($mine, "SELECT b.name FROM data.accounts a, LATERAL (SELECT set_config('kessel.tenant', '$theirs', false) AS s OFFSET 0) x, data.accounts b WHERE x.s IS NOT NULL");
    unlike($r->{out}, qr/-b/, "$kind: a switch in the middle of a query");
    $r = $k->as_member($mine, "SELECT data.switch('$theirs'); SELECT name FROM data.accounts");
    ok($r->{state} eq '42501' && $r->{out} !~ /-b account/, "$kind: a switch by a SECURITY DEFINER function");
    $r = $k->run("SELECT count(*) FILTER (WHERE left(a.name, 8) <> left(b.name, 8)), count(*) FROM data.accounts a, LATERAL (SELECT set_config('kessel.tenant', '$theirs', false) AS s OFFSET 0) x, data.accounts b WHERE a.id = b.id AND x.s IS NOT NULL",
        user => 'service', tenant => $mine);
    ok($r->{state} ne '' || $r->{out} eq "0|5", "$kind: one query never mixes two tenants, whoever asks") or diag($r->{out});

    # A prepared statement across a switch of tenant and of user.
    my $s = $k->member_session($mine);
    $s->run('SET plan_cache_mode = force_generic_plan; PREPARE p AS SELECT name FROM data.accounts; PREPARE u AS UPDATE data.accounts SET balance = balance WHERE id = 1 RETURNING name');
    own($s->run('EXECUTE p'), $mine, "$kind: a prepared statement");
    own($s->run('EXECUTE u'), $mine, "$kind: a prepared update");
    $s->run("SET kessel.tenant = '$theirs'");
    denied($s->run('EXECUTE p'), "$kind: the same across a switch");
    denied($s->run('EXECUTE u'), "$kind: and the update");
    $s->run("SET request.jwt.claims = '{\"sub\": \"$k->{user}{b}\"}'");
    own($s->run('EXECUTE p'), $theirs, "$kind: the other's user, who may");
    own($s->run('EXECUTE u'), $theirs, "$kind: and may update");
    $s->run("SET request.jwt.claims = '{\"sub\": \"$k->{user}{a}\"}'");
    denied($s->run('EXECUTE p'), "$kind: this user still may not");
    denied($s->run('EXECUTE u'), "$kind: nor update");
    $s->run("SET kessel.tenant = '$mine'");
    own($s->run('EXECUTE p'), $mine, "$kind: back at home");
    $s->quit;

    # A cursor left open across a switch, by one who may see both.
    $s = $k->session(user => 'service');
    $s->run("BEGIN; SET LOCAL kessel.tenant = '$mine'; DECLARE c CURSOR FOR SELECT name FROM data.accounts; DECLARE d CURSOR FOR SELECT name FROM data.accounts; DECLARE h CURSOR WITH HOLD FOR SELECT name FROM data.accounts");
    own($s->run('FETCH 1 FROM c'), $mine, "$kind: a cursor");
    $s->run("SET LOCAL kessel.tenant = '$theirs'");
    own($s->run('SELECT name FROM data.accounts'), $theirs, "$kind: another tenant in the same transaction");
    own($s->run('FETCH ALL FROM c'), $mine, "$kind: the open cursor stays with its tenant");
    own($s->run('FETCH ALL FROM d'), $mine, "$kind: so does one not fetched from before the switch");
    $s->run('COMMIT');
    own($s->run("SET kessel.tenant = '$theirs'; FETCH ALL FROM h"), $mine, "$kind: and one that is held");
    $s->run("CLOSE h; BEGIN; SET LOCAL kessel.tenant = '$mine'; SAVEPOINT s; SET LOCAL kessel.tenant = '$theirs'");
    own($s->run('SELECT name FROM data.accounts'), $theirs, "$kind: a switch after a savepoint");
    own($s->run('ROLLBACK TO s; SELECT name FROM data.accounts'), $mine, "$kind: is undone with it");
    $s->run('ROLLBACK');
    $s->quit;

    # Views and functions that have their owner's rights.
    own($k->as_member($mine, 'SELECT name FROM data.v'), $mine, "$kind: a view");
    denied($intrude->('SELECT name FROM data.v'), "$kind: a view lends no membership");
    denied($intrude->('UPDATE data.v SET balance = 0'), "$kind: nor for writing");
    own($k->as_member($mine, 'SELECT data.names()'), $mine, "$kind: a SECURITY DEFINER function");
    denied($intrude->('SELECT data.names()'), "$kind: it lends no membership");
    denied($k->as_member($mine, 'SELECT data.pinned()'), "$kind: nor does one that names a tenant itself");

    # Statistics are common to all tenants.
    $k->run('ANALYZE data.accounts', tenant => $theirs);
    ok_run($k->as_member($mine, "SELECT count(*) FROM pg_stats WHERE schemaname = 'data' AND concat(most_common_vals, histogram_bounds) LIKE '%-b%'"),
        '0', "$kind: no statistics of the other tenant");

    is($k->at_home($theirs, 'SELECT * FROM accounts ORDER BY 1, 2'), $before, "$kind: the other's rows are what they were");
}

#
# The app role beside the router
#
foreach my $sql (
    'SELECT * FROM app.data_sources', 'SELECT * FROM app.data_source_credentials', 'SELECT * FROM app.tenants',
    'SELECT * FROM vault.secrets', 'SELECT * FROM vault.keys', 'SELECT * FROM vault.former_versions', 'SELECT * FROM kessel.routes',
    "INSERT INTO app.user_tenants (user_id, tenant_id) VALUES (gen_random_uuid(), gen_random_uuid())",
    "SELECT kessel.add_member('row-b', '$k->{user}{a}')", "SELECT kessel.create_data_source('x', 'host=127.0.0.1')",
    "SELECT kessel.suspend_tenant('row-b')", "SELECT kessel.test_data_source('shared')", "SELECT kessel.install_agent('shared')",
    'CREATE FOREIGN TABLE data.mine (name text) SERVER kessel_router OPTIONS (schema_name \'schema_b\', table_name \'accounts\')',
    'CREATE SERVER mine FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant \'row-b\')',
    'ALTER FOREIGN TABLE data.accounts OPTIONS (SET schema_name \'schema_b\')', 'SET ROLE kessel_admin', 'SET ROLE kessel_service')
{
    denied($k->as_member('row-a', $sql), "app may not: $sql");
}
ok_run($k->as_member('row-a', 'SELECT count(*) FROM vault.decrypted_secrets'), '0', 'app sees no secret, as long as it is granted none');
unlike($k->as_member('row-a', 'SELECT user_id FROM app.user_tenants')->{out}, qr/$k->{user}{b}/, 'app sees no memberships of others');
ok_run($k->run(<<'SQL'), '', 'PUBLIC may execute nothing');
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace IN ('kessel'::regnamespace, 'vault'::regnamespace, 'app'::regnamespace) AND has_function_privilege('stranger', p.oid, 'EXECUTE')
SQL
ok_run($k->run(<<'SQL'), '', 'nor read anything');
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace IN ('kessel'::regnamespace, 'vault'::regnamespace, 'app'::regnamespace) AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
  AND (has_table_privilege('stranger', c.oid, 'SELECT, INSERT, UPDATE, DELETE') OR has_any_column_privilege('stranger', c.oid, 'SELECT, INSERT, UPDATE'))
SQL
ok_run($k->run(<<'SQL'), '', 'every function of the extension has a fixed search_path, and procedures commit');
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace IN ('kessel'::regnamespace, 'vault'::regnamespace, 'app'::regnamespace) AND l.lanname <> 'c' AND l.lanname <> 'internal' AND p.prokind <> 'p'
  AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)
SQL

#
# With the runtime role's password, straight at a shared source
#
{
    my $url = $k->url($k->{shared});
    is($k->run('SELECT name FROM accounts', url => $url)->{state}, 'KR001', 'straight: no tenant, no row');
    is($k->run('SELECT count(*) FROM contacts', url => $url)->{state}, 'KR001', 'straight: nor a count');
    is($k->run("BEGIN; SELECT kessel_agent.enter('row-a', 1000)", url => $url)->{state}, 'KR004', 'straight: another epoch');
    is($k->run('SELECT * FROM kessel_agent.tenants', url => $url)->{state}, '42501', 'straight: the fence is not for reading');
    is($k->run("UPDATE kessel_agent.tenants SET epoch = 0", url => $url)->{state}, '42501', 'straight: nor for writing');
    is($k->run('ALTER TABLE accounts DISABLE ROW LEVEL SECURITY', url => $url)->{state}, '42501', 'straight: row security is not its to switch off');
    is($k->run('SET row_security = off; SELECT name FROM accounts', url => $url)->{state}, '42501', 'straight: row_security = off is an error');
}

#
# Sources that are not safe for row isolation
#
{
    my $d = $k->data_cluster('unsafe');
    my $owner = $d->{owner};
    my $runtime = $d->{runtime};

    $k->data_source($d, isolation => 'row');
    $k->crm_row($d, ['t1']);
    $k->data_exec($d, "GRANT CREATE ON DATABASE $d->{db} TO $owner; CREATE ROLE strong BYPASSRLS; CREATE ROLE boss SUPERUSER");
    my $create = "SELECT kessel.create_tenant('t1', data_source => 'unsafe', tenant_id_in_data_source => 't1')";
    foreach my $case (
        [ 'superuser', "ALTER ROLE $runtime SUPERUSER", "ALTER ROLE $runtime NOSUPERUSER", qr/superuser/i ],
        [ 'BYPASSRLS', "ALTER ROLE $runtime BYPASSRLS", "ALTER ROLE $runtime NOBYPASSRLS", qr/bypassrls|row security/i ],
        [ 'CREATEROLE', "ALTER ROLE $runtime CREATEROLE", "ALTER ROLE $runtime NOCREATEROLE", qr/create roles|createrole/i ],
        [ 'member of a role with BYPASSRLS', "GRANT strong TO $runtime", "REVOKE strong FROM $runtime", qr/strong/ ],
        [ 'member of a superuser', "GRANT boss TO $runtime", "REVOKE boss FROM $runtime", qr/boss/ ],
        [ 'member of the owner', "GRANT $owner TO $runtime", "REVOKE $owner FROM $runtime", qr/$owner/ ],
        [ 'owner of a table', "ALTER TABLE public.contacts OWNER TO $runtime", "ALTER TABLE public.contacts OWNER TO $owner", qr/own/ ],
        [ 'row security off', 'ALTER TABLE public.accounts DISABLE ROW LEVEL SECURITY', 'ALTER TABLE public.accounts ENABLE ROW LEVEL SECURITY', qr/accounts/ ],
        [ 'row security not forced', 'ALTER TABLE public.accounts NO FORCE ROW LEVEL SECURITY', 'ALTER TABLE public.accounts FORCE ROW LEVEL SECURITY', qr/accounts/ ],
        [ 'TRUNCATE granted', "GRANT TRUNCATE ON public.contacts TO $runtime", "REVOKE TRUNCATE ON public.contacts FROM $runtime", qr/contacts/ ],
        [ 'a table without it', "CREATE TABLE public.open (id int); GRANT SELECT ON public.open TO $runtime", 'DROP TABLE public.open', qr/open/ ],
        [ 'a table granted to PUBLIC', 'CREATE TABLE public.open (id int); GRANT SELECT ON public.open TO PUBLIC', 'DROP TABLE public.open', qr/open/ ],
        [ 'a column granted', "CREATE TABLE public.open (id int); GRANT SELECT (id) ON public.open TO $runtime", 'DROP TABLE public.open', qr/open/ ],
        [ 'a view with its owner\'s rights', "CREATE VIEW public.seen AS SELECT * FROM public.accounts; GRANT SELECT ON public.seen TO $runtime", 'DROP VIEW public.seen', qr/seen/ ],
        [ 'a materialized view', "CREATE MATERIALIZED VIEW public.kept AS SELECT * FROM public.accounts; GRANT SELECT ON public.kept TO $runtime", 'DROP MATERIALIZED VIEW public.kept', qr/kept/ ])
    {
        my ($what, $break, $mend, $reason) = @$case;
        $k->data_exec($d, $break);
        my $r = $k->run($create);
        ok($r->{state} eq 'KR006' && $r->{err} =~ $reason, "refused: $what") or diag("state \"$r->{state}\"\n$r->{err}");
        $k->data_exec($d, $mend);
    }
    is($k->run($create)->{state}, '', 'accepted when all is mended');
}

done_testing();

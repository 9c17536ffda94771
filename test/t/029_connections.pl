# Connections to data sources: in which form rows come, reads that are
# transactions by themselves, names, limits, and poolers on the data source's
# side.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k   = KesselTest->new;
my $one = $k->data_cluster('one');
my $two = $k->data_cluster('two');
$k->crm_database($one, 'one', rows => 100);
$k->data_source($one);
$k->data_source($two, isolation => 'row');
$k->crm_row($two, [qw(a b)], rows => 5);
$k->exec("SELECT kessel.create_tenant('one', data_source => 'one')");
$k->exec("SELECT kessel.create_tenant('$_', data_source => 'two', tenant_id_in_data_source => '$_')") foreach qw(a b);

# Backends of the runtime role in a data cluster.
sub remote
{
    my ($d, $columns, $condition) = @_;
    return $k->data_exec($d, "SELECT $columns FROM pg_stat_activity WHERE usename = '$d->{runtime}' AND " . ($condition || 'true'));
}

#
# The same values in every form
#
my %types = (
    boolean => [qw(t f)],
    '"char"' => ['x'],
    smallint => [qw(-32768 0 32767)],
    integer => [qw(-2147483648 0 2147483647)],
    bigint => [qw(-9223372036854775808 9223372036854775807)],
    real => [qw(0 -1.5 3.4028235e+38 NaN Infinity)],
    'double precision' => [qw(-0 0.1 1e-300 NaN -Infinity)],
    numeric => [ '0', '-12345678901234567890.12345', 'NaN', '1e100' ],
    'numeric(8,2)' => ['123456.78'],
    text => [ '', 'käse', "a\\b\nc", '{"x"}' ],
    'varchar(5)' => [ '', 'abcde' ],
    'char(4)' => [ 'ab', '' ],
    name => ['some_name'],
    bytea => [ '\x', '\x00ff10' ],
    uuid => ['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
    date => [ '2024-02-29', 'infinity', '4713-01-01 BC' ],
    time => ['23:59:59.999999'],
    timetz => ['12:00:00+05:30'],
    timestamp => [ '2024-02-29 12:34:56.789', '-infinity', '294276-12-31' ],
    timestamptz => [ '2024-02-29 12:34:56.789+03', 'infinity' ],
    'timestamptz(0)' => ['2024-02-29 12:34:56+00'],
    interval => [ '1 year 2 mons -3 days 04:05:06.7', '0' ],
    json => ['{"a":  [1, null]}'],
    jsonb => [ '{"a": [1, null], "k": "ü"}', 'null' ],
    inet => [ '10.1.2.3/8', '::1' ],
    cidr => ['10.0.0.0/8'],
    oid => [qw(0 4294967295)],
    tid => ['(1,2)'],
    'integer[]' => [ '{1,NULL,3}', '{}', '[2:3]={4,5}' ],
    'uuid[]' => ['{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'],
    # These have no form but text for us.
    'text[]' => [ '{a,"b,c",NULL}', '{}' ],
    money => ['$12.34'],
    'bit(3)' => ['101'],
    tsvector => ["'a':1 'b'"],
    point => ['(1,2)'],
    int4range => [ '[1,5)', 'empty' ],
    xml => ['<a/>'],
);
my @types = sort keys %types;
sub table { my ($n) = @_; return "form_$n"; }
foreach my $n (0 .. $#types)
{
    my $values = join ', ', map { "(\$v\$$_\$v\$::$types[$n])" } @{ $types{ $types[$n] } };
    $k->data_exec($one, "CREATE TABLE @{[ table($n) ]} (id serial, v $types[$n]); INSERT INTO @{[ table($n) ]} (v) VALUES $values, (NULL);");
}
$k->data_exec($one, <<'SQL');
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE other (id integer, a integer, b timestamptz, c varchar(10), d text, e jsonb, f positive, g mood);
INSERT INTO other VALUES (1, 7, '2024-02-29 12:34:56+00', 'abc', '42', '{"x": 1}', 3, 'sad'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE moods AS SELECT i AS id, 'glad'::mood AS m, 'some text' AS t FROM generate_series(1, 2000) i;
SQL
$k->data_exec($one, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO $one->{runtime}");
$k->exec("SELECT count(*) FROM kessel.import_tables('one', 'public')");

my $s = $k->session(tenant => 'one');
$s->run("SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 0;");
foreach my $n (0 .. $#types)
{
    # OFFSET 0: the comparison is made here.
    my @expected = (@{ $types{ $types[$n] } });
    my $list = join ', ', map { "(" . ($_ + 1) . ", \$v\$$expected[$_]\$v\$::$types[$n])" } 0 .. $#expected;
    my $same = $types[$n] =~ /^(json|xml|point|tid|timetz)$/ ? 'x.v::text IS NOT DISTINCT FROM y.v::text' : 'x.v IS NOT DISTINCT FROM y.v AND x.v::text IS NOT DISTINCT FROM y.v::text';
    my $n_rows = @expected + 1;
    ok_run($s->run("SELECT count(*), bool_and($same) FROM (SELECT * FROM data.@{[ table($n) ]} OFFSET 0) x LEFT JOIN (VALUES $list) y(id, v) USING (id)"),
        "$n_rows|t", "$types[$n]");
}

# A column that has another type there.
$k->exec(<<'SQL');
CREATE FOREIGN TABLE data.other_here (id bigint, a text, b timestamp, c text, d integer, e text, f bigint, g text)
    SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'other');
CREATE FOREIGN TABLE data.moods_here (id bigint, m text, t text) SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'moods');
SQL
$s->run('RESET ALL; SET kessel.tenant = one');
ok_run($s->run('SELECT id, a, c, d, e, f FROM data.other_here ORDER BY id OFFSET 0'), "1|7|abc|42|{\"x\": 1}|3\n2|||||", 'builtin types that differ');
ok_run($s->run('SELECT b FROM data.other_here WHERE id = 1'), '2024-02-29 12:34:56', 'a timestamp with time zone for one without');
ok_run($s->run('SELECT g FROM data.other_here ORDER BY id'), "sad\n", 'an enumeration for text') for 1 .. 2;
ok_run($s->run(<<'SQL'), "2000|2000|2000\n2000|2000|2000", 'rows that are put aside before their form is known');
DO $$
DECLARE
    moods CURSOR FOR SELECT id, m, t FROM data.moods_here;
    n bigint := 0;
    length bigint := 0;
BEGIN
    CREATE TEMP TABLE counts (a bigint, b bigint, c bigint);
    FOR round IN 1 .. 2 LOOP
        n := 0;
        FOR r IN moods LOOP
            IF n = 0 THEN
                PERFORM count(*) FROM data.accounts;
            END IF;
            n := n + 1;
        END LOOP;
        INSERT INTO counts SELECT n, (SELECT count(*) FROM data.moods_here), (SELECT count(m) FROM (SELECT m FROM data.moods_here OFFSET 0) x);
    END LOOP;
END
$$;
SELECT * FROM counts
SQL
like_error($s->run("SELECT * FROM (SELECT d FROM data.other_here WHERE id = 1) x, (SELECT c::integer FROM data.other_here OFFSET 0) y"), '22P02', qr/invalid input syntax for type integer: "abc"/, 'what cannot be converted is an error');

#
# Reads that are transactions by themselves
#
$k->data_exec($one, <<"SQL");
CREATE TABLE visits (n serial);
CREATE FUNCTION visit() RETURNS integer LANGUAGE sql VOLATILE SECURITY DEFINER AS 'INSERT INTO public.visits DEFAULT VALUES RETURNING n';
CREATE VIEW visited AS SELECT id, visit() AS n FROM accounts WHERE id = 1;
CREATE VIEW blocked AS SELECT count(*) AS n FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND pid = pg_backend_pid();
CREATE TABLE many AS SELECT i AS id, repeat('x', 500) AS filler FROM generate_series(1, 100000) i;
GRANT SELECT ON visited, blocked, many TO $one->{runtime};
SQL
$k->exec("SELECT count(*) FROM kessel.import_tables('one', 'public', limit_to => '{many}')");
$k->exec("CREATE FOREIGN TABLE data.visited (id bigint, n integer) SERVER kessel_router OPTIONS (schema_name '\@tenant')");
sub visits { return $k->data_exec($one, 'SELECT count(*) FROM visits') }

ok_run($s->run('SELECT id FROM data.visited WHERE n > 0'), '1', 'a view that writes');
is(visits(), '1', 'is committed');
$s->run('BEGIN; SELECT id FROM data.visited WHERE n > 0; ROLLBACK');
is(visits(), '1', 'in a transaction block it is rolled back');
$s->run('BEGIN READ WRITE; SELECT id FROM data.visited WHERE n > 0; COMMIT');
is(visits(), '2', 'or committed');
like_error($s->run('BEGIN READ ONLY; SELECT id FROM data.visited WHERE n > 0; COMMIT'), '25006', qr/read-only transaction/, 'READ ONLY is passed on');
$s->run('ROLLBACK; SET default_transaction_read_only = on');
like_error($s->run('SELECT id FROM data.visited WHERE n > 0'), '25006', qr/read-only transaction/, 'also where it is the default');
$s->run('RESET default_transaction_read_only');

# Stopped early: the query ends there, the connection stays.
my $pid = remote($one, 'pid', "state = 'idle'");
foreach my $case (
    [ 'a loop that is left', "DO \$\$ DECLARE r record; BEGIN FOR r IN SELECT * FROM data.many LOOP EXIT WHEN r.id > 5; END LOOP; END \$\$" ],
    [ 'an error in the middle', 'SELECT count(1 / (5 - id)) FROM (SELECT * FROM data.many OFFSET 0) x' ],
    [ 'an error in a savepoint', "DO \$\$ DECLARE r record; BEGIN FOR r IN SELECT * FROM data.many LOOP BEGIN PERFORM 1 / (5 - r.id); EXCEPTION WHEN division_by_zero THEN EXIT; END; END LOOP; END \$\$" ])
{
    my ($what, $sql) = @$case;
    my $r = $s->run($sql);
    like($r->{state}, qr/^(22012)?$/, $what);
    ok_run($s->run('SELECT count(*) FROM data.accounts'), '100', "$what: the session works");
    ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state <> 'idle'"),
        "$what: nothing runs there");
    is(remote($one, 'pid'), $pid, "$what: the connection is kept");
}
like_error($s->run("SELECT count(*) FROM data.accounts WHERE 1 / (id - id) > 0"), '22012', qr/division by zero/, 'an error there');
ok_run($s->run('SELECT count(*) FROM data.accounts'), '100', 'is over with its statement');
is(remote($one, 'pid'), $pid, 'with the connection kept');

#
# Locks that are not waited for
#
my $job = 'SELECT id FROM data.accounts ORDER BY id LIMIT 1 FOR UPDATE';
my $worker = $k->session(tenant => 'one');
$s->run("SET statement_timeout = '10s'");
ok_run($worker->run("BEGIN; $job"), '1', 'a worker takes a row');
ok_run($s->run("BEGIN; $job SKIP LOCKED"), '2', 'another takes the next');
like_error($worker->run("SELECT id FROM data.accounts WHERE id = 2 FOR UPDATE NOWAIT"), '55P03', qr/could not obtain lock/, 'NOWAIT does not wait');
$worker->run('ROLLBACK');
ok_run($s->run("$job SKIP LOCKED; COMMIT"), '1', 'what is free again is found');
ok_run($worker->run("BEGIN; SELECT a.id FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id WHERE a.id = 3 LIMIT 1 FOR UPDATE OF a"), '3', 'in a join');
ok_run($s->run("SELECT a.id FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id WHERE a.id IN (3, 4) ORDER BY a.id LIMIT 1 FOR SHARE OF a SKIP LOCKED"), '4', 'the locked table has the clause');
$worker->run('ROLLBACK');
my $claim = "UPDATE data.accounts SET balance = balance WHERE id IN (SELECT id FROM data.accounts ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED) RETURNING id";
my $with = "WITH next AS (SELECT id FROM data.accounts ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED) UPDATE data.accounts a SET balance = balance FROM next WHERE next.id = a.id RETURNING a.id";
ok_run($worker->run("BEGIN; $claim"), "1\n2", 'a worker claims two rows');
ok_run($s->run("BEGIN; $claim; $with; COMMIT"), "3\n4\n3\n4", 'another claims others, and is not held up');
$worker->quit;
$s->run('RESET statement_timeout');

#
# Statements that were prepared before the tables changed
#
$k->data_exec($one, "CREATE TABLE changing (id integer PRIMARY KEY, v integer); INSERT INTO changing SELECT i, i FROM generate_series(1, 3) i; GRANT SELECT, INSERT, UPDATE, DELETE ON changing TO $one->{runtime}");
$k->exec("SELECT count(*) FROM kessel.import_tables('one', 'public', limit_to => '{changing}')");
my $read = 'SELECT id, v FROM data.changing WHERE id = 2';
my $write = 'UPDATE data.changing SET v = 5 WHERE id = 3 RETURNING id, v';
my $row_by_row = q(INSERT INTO data.changing (id, v) VALUES (4, 4) RETURNING id, v);
ok_run($s->run("$read; $write; $row_by_row; DELETE FROM data.changing WHERE id = 4"), "2|2\n3|5\n4|4", 'prepared');
foreach my $type (qw(bigint text integer))
{
    my $remote_change = "ALTER TABLE changing ALTER COLUMN v TYPE $type USING v::$type";
    $k->data_exec($one, $remote_change);
    ok_run($s->run($read), '2|2', "$type: a read is prepared anew");
    $k->data_exec($one, "ALTER TABLE changing ALTER COLUMN v TYPE numeric USING v::numeric; $remote_change");
    ok_run($s->run("BEGIN; $read; $read; COMMIT"), "2|2\n2|2", "$type: the first of a transaction, too");
    $k->data_exec($one, "ALTER TABLE changing ALTER COLUMN v TYPE numeric USING v::numeric; $remote_change");
    $k->exec("ALTER FOREIGN TABLE data.changing ALTER COLUMN v TYPE $type");
    ok_run($s->run($row_by_row . '; DELETE FROM data.changing WHERE id = 4'), '4|4', "$type: a row") if $type ne 'text';
    $k->data_exec($one, "ALTER TABLE changing ALTER COLUMN v TYPE numeric USING v::numeric; $remote_change");
    ok_run($s->run($write =~ s/5/$type eq 'text' ? q('5') : 5/er), '3|5', "$type: a write");
    $k->data_exec($one, "ALTER TABLE changing ALTER COLUMN v TYPE varchar(20) USING v::text");
    like_error($s->run("BEGIN; SELECT count(*) FROM data.accounts; $read"), '0A000', qr/cached plan must not change result type/, "$type: what is not the first cannot be repeated");
    $s->run('ROLLBACK');
    ok_run($s->run($read), '2|2', "$type: but the next time it works");
    $k->data_exec($one, $remote_change);
    ok_run($s->run($read), '2|2', "$type: as before");
}
# What a transaction has copied before is not lost, nor are rows given twice.
my $rows = PostgreSQL::Test::Utils::tempdir() . '/rows';
my $copy = "COPY data.changing (id, v) FROM '$rows'";
$k->exec("COPY (SELECT i, i FROM generate_series(1001, 1003) i) TO '$rows'");
my $city = q(SELECT city <> '' FROM data.accounts WHERE id = 1);
ok_run($s->run("$copy; DELETE FROM data.changing WHERE id > 1000; $city"), 't', 'a COPY');
$k->data_exec($one, 'ALTER TABLE accounts ALTER city TYPE varchar(40)');
like_error($s->run("BEGIN; $copy; $city"), '0A000', qr/cached plan must not change result type/, 'a statement after a COPY cannot be repeated');
$s->run('ROLLBACK');
foreach my $way ($copy, 'INSERT INTO data.changing (id, v) SELECT i, i FROM generate_series(1001, 6000) i')
{
    $k->exec('ALTER FOREIGN TABLE data.changing ALTER COLUMN v TYPE integer');
    $k->data_exec($one, 'ALTER TABLE changing ALTER COLUMN v TYPE integer');
    $s->run("$way; DELETE FROM data.changing WHERE id > 1000");
    $k->data_exec($one, 'ALTER TABLE changing ALTER COLUMN v TYPE real');
    $s->run($way);
    is($k->data_exec($one, 'SELECT count(*) > 0, bool_and(v = id) FROM changing WHERE id > 1000'), 't|t', 'an integer is copied as such to a column that has become real');
    ok_run($s->run('DELETE FROM data.changing WHERE id > 1000'), '', 'and deleted');
}
$k->data_exec($one, <<"SQL");
CREATE TABLE fuse (lit boolean); INSERT INTO fuse VALUES (false);
CREATE FUNCTION burn(i integer) RETURNS integer LANGUAGE plpgsql AS \$\$
BEGIN
    IF i = 2500 AND (SELECT lit FROM public.fuse) THEN EXECUTE 'SELECT 1 FROM public.nowhere'; END IF;
    RETURN i;
END \$\$;
CREATE VIEW burning AS SELECT burn(i) AS id FROM generate_series(1, 3000) i;
GRANT SELECT ON fuse, burning TO $one->{runtime}
SQL
$k->exec("SELECT count(*) FROM kessel.import_tables('one', 'public', limit_to => '{burning}');"
      . 'CREATE FUNCTION public.seen() RETURNS integer[] LANGUAGE plpgsql AS $$ DECLARE n integer; seen integer[];'
      . 'BEGIN FOR n IN SELECT id FROM data.burning LOOP seen := seen || n; END LOOP; RETURN seen;'
      . 'EXCEPTION WHEN undefined_table THEN RETURN seen; END $$');
my $count_seen = 'SELECT count(*) = count(DISTINCT n), count(*) > 0 FROM unnest(public.seen()) n';
ok_run($s->run("$count_seen; SELECT id FROM data.burning LIMIT 0"), 't|t', 'a view');
$k->data_exec($one, 'UPDATE fuse SET lit = true');
ok_run($s->run($count_seen), 't|t', 'a statement is not repeated once it has given rows');
like_error($s->run("SELECT id FROM data.changing WHERE v::text::integer / (id - id) = 1"), '22012', qr/division by zero/, 'an error that is none of these is raised at once');

#
# Names
#
sub names { my ($d) = @_; return remote($d, 'application_name', "application_name LIKE 'kessel_router%' ORDER BY 1"); }
my $own = $s->pid;
is(names($one), "kessel_router $own one", 'application_name tells backend and tenant');
$s->run("SET kessel.tenant = 'a'; SELECT count(*) FROM data.accounts");
is(names($two), "kessel_router $own a", 'another tenant');
$s->run("SET kessel.tenant = 'b'; SELECT count(*) FROM data.accounts");
is(names($two), "kessel_router $own b", 'a third one on the same connection');
$s->run("BEGIN; SET LOCAL kessel.tenant = 'a'; SELECT count(*) FROM data.accounts; ROLLBACK");
ok($two->{node}->poll_query_until('postgres', "SELECT application_name = 'kessel_router $own b' FROM pg_stat_activity WHERE usename = '$two->{runtime}' AND application_name LIKE 'kessel_router%'"),
    'a rollback brings back the name');
$s->run("SET kessel.tenant = 'a'; SELECT count(*) FROM data.accounts");
is(names($two), "kessel_router $own a", 'and the next transaction has the right one');

#
# Limits
#
$s->run("SET kessel.tenant = 'one'; SELECT count(*) FROM data.accounts");
is($k->data_exec($one, 'SELECT 1') && remote($one, 'count(*)') + remote($two, 'count(*)'), 2, 'a connection to each of two data sources');
$s->run("SET kessel.max_idle_connections = 1; SELECT count(*) FROM data.accounts");
ok($two->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$two->{runtime}'"), 'kessel.max_idle_connections closes the older one');
is(remote($one, 'count(*)'), 1, 'and keeps the other');
ok_run($s->run('SELECT data_source FROM kessel.connections'), 'one', 'which is what the view shows');
$s->run('SET kessel.max_idle_connections = 0; SELECT count(*) FROM data.accounts');
ok_run($s->run('SELECT count(*) FROM kessel.connections'), '0', '0 keeps none');
ok_run($s->run("BEGIN; SELECT count(*) FROM data.accounts; SET LOCAL kessel.tenant = 'a'; SELECT count(*) FROM data.accounts; COMMIT"), "100\n5", 'a transaction has what it needs');
$s->run('RESET kessel.max_idle_connections; SET kessel.connection_idle_timeout = 2; SELECT count(*) FROM data.accounts');
is(remote($one, 'count(*)'), 1, 'idle');
ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{runtime}'"), 'kessel.connection_idle_timeout closes it there');
ok_run($s->run('SELECT count(*) FROM data.accounts'), '100', 'and the session connects anew');
like_error($k->run('SELECT kessel.current_user_id(); SET kessel.connection_idle_timeout = 0', user => 'app'), '42501', qr/permission denied to set parameter/, 'not everybody may change it');
$s->quit;

#
# A pooler in transaction mode before the data source, with one connection
#
SKIP:
{
    my ($version, $no) = ('', '');
    $ENV{PATH} .= ':/usr/sbin';
    IPC::Run::run([ 'pgbouncer', '--version' ], '>', \$version, '2>', \$no) or skip 'no pgbouncer here', 1;

    my $dir  = PostgreSQL::Test::Utils::tempdir_short();
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    append_to_file("$dir/users", qq("$two->{runtime}" "$two->{password}"\n));
    append_to_file("$dir/ini", <<"INI");
[databases]
tenants = host=127.0.0.1 port=$two->{port} dbname=tenants
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/users
logfile = $dir/log
pidfile = $dir/pid
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits, options
INI
    my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
    my $url = "postgresql://$two->{runtime}:$two->{password}\@127.0.0.1:$port/tenants";
    my ($up, $deadline) = (0, time + 30);
    until ($up || time > $deadline)
    {
        $bouncer->pump_nb;
        $up = $k->run('SELECT 1', url => $url)->{out} eq '1';
    }
    ok($up, 'PgBouncer is up') or diag(slurp_file("$dir/log"));

    like_error($k->run("SELECT kessel.alter_data_source('two', options => '{\"pooler\": \"statement\"}')"), '22023', qr/invalid value for option "pooler"/, 'there are two kinds of poolers');
    $k->exec("SELECT kessel.alter_data_source('two', url => '$url', options => '{\"pooler\": \"transaction\"}')");
    my %session = map { $_ => $k->session(tenant => $_) } qw(a b);
    foreach my $round (1 .. 3)
    {
        foreach my $tenant (qw(a b))
        {
            my $c = $session{$tenant};
            ok_run($c->run('SELECT min(name), count(*) FROM data.accounts'), "$tenant account 1|5", "tenant $tenant reads, round $round");
            ok_run($c->run("BEGIN; UPDATE data.accounts SET balance = balance + 1 WHERE id = (SELECT min(id) FROM data.accounts); SAVEPOINT s; UPDATE data.accounts SET balance = -1; ROLLBACK TO s; SELECT count(*) FROM data.accounts; COMMIT"), '5', "writes, round $round");
            like_error($c->run('SELECT 1 / (id - id) FROM data.accounts'), '22012', qr/division by zero/, "and fails, round $round");
            ok_run($c->run('SELECT count(DISTINCT tenant) FROM (SELECT split_part(name, \' \', 1) AS tenant FROM data.accounts OFFSET 0) x'), '1', "sees its own only, round $round");
        }
    }
    ok_run($session{a}->run("SET timezone = 'Asia/Tokyo'; SELECT count(*) FROM data.accounts WHERE balance >= 0"), '5', 'parameters and settings');
    ok_run($k->run("SELECT count(*) FROM pg_prepared_statements; SELECT setting FROM pg_settings WHERE name IN ('search_path', 'TimeZone') AND source = 'session'", url => $url),
        '0', 'nothing is left on the server');
    $_->quit foreach values %session;

    # A server with connection options that leads to such a pooler says so itself.
    $k->exec("CREATE SERVER pooled FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'tenants', pooler 'transaction');"
          . "CREATE USER MAPPING FOR postgres SERVER pooled OPTIONS (user '$two->{runtime}', password '$two->{password}');"
          . "CREATE FOREIGN TABLE pooled_settings (name text, setting text) SERVER pooled OPTIONS (schema_name 'pg_catalog', table_name 'pg_settings')");
    my @pair = map { $k->session } 1 .. 2;
    foreach my $round (1 .. 2)
    {
        ok_run($_->run("SELECT setting FROM pooled_settings WHERE name = 'search_path'; BEGIN; SELECT setting FROM pooled_settings WHERE name = 'search_path'; COMMIT"),
            "pg_catalog\npg_catalog", "a bound server behind it, round $round") foreach @pair;
    }
    ok_run($k->run("SELECT count(*) FROM pg_prepared_statements; SELECT setting FROM pg_settings WHERE name IN ('search_path', 'TimeZone') AND source = 'session'", url => $url),
        '0', 'leaves nothing there, either');
    $_->quit foreach @pair;
    $bouncer->kill_kill;
}

done_testing();

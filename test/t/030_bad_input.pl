# What is wrong in the input or at the other end is a clear error: SQLSTATE,
# hint, in bounded time; and the session goes on afterwards.
use strict;
use warnings;

use lib 'test/lib';
use IO::Socket::INET;
use KesselTest;
use Test::More;
use Time::HiRes qw(time);

my $k = KesselTest->new;
my $d = $k->data_cluster('good');
$k->crm_database($d, 'good');
$k->data_source($d);
$k->exec("SELECT kessel.create_tenant('good', data_source => 'good')");
$k->exec("SELECT kessel.import_tables('good', 'public'); GRANT USAGE ON SCHEMA data TO kessel_user; GRANT SELECT ON ALL TABLES IN SCHEMA data TO kessel_user");
my $s = $k->session;
$s->run("SET kessel.connect_timeout = 2");

# bad(SQL, STATE, qr/message/, NAME): the error, a hint, at most ten seconds,
# and the session works afterwards (and after the SQL of undo).
sub bad
{
    my ($sql, $state, $pattern, $name, %opt) = @_;
    my $begin = time;
    my $r = $s->run($sql);
    my $took = time - $begin;
    $state = qr/^$state$/ unless ref $state;
    ok($r->{state} =~ $state && $r->{message} =~ $pattern, $name) or diag("expected $state $pattern\n$r->{out}\n$r->{err}");
    isnt($r->{hint}, '', "$name: hint") or diag($r->{err});
    cmp_ok($took, '<', 10, "$name: in bounded time");
    unlike($r->{err}, qr/kr-marked/, "$name: no password in it");
    $opt{undo} ||= '';
    ok_run($s->run("ROLLBACK; $opt{undo}; SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', "$name: the session goes on");
    return $r;
}

#
# Tenants
#
my $query = 'SELECT count(*) FROM data.accounts';
bad("SET kessel.tenant = ''; $query", 'KR001', qr/tenant/, 'no tenant');
bad("SET kessel.tenant = 'nobody'; $query", 'KR002', qr/nobody/, 'unknown tenant');
bad("SET kessel.tenant = '00000000-0000-4000-8000-000000000000'; $query", 'KR002', qr/00000000-0000/, 'unknown uuid');
bad("SELECT kessel.use_tenant('nobody')", 'KR002', qr/nobody/, 'use_tenant of an unknown one');
like($s->run('SELECT kessel.use_tenant(NULL)')->{state}, qr/^(?:22023|22004)$/, 'use_tenant of NULL');
$k->exec("SELECT kessel.suspend_tenant('good')");
is($s->run($query)->{state}, 'KR003', 'a suspended tenant');
$k->exec("SELECT kessel.resume_tenant('good')");
foreach my $slug ('Good', 'good ', 'a_b', "a'b", 'a"b', '-a', 'a;b', "a\nb", "\x{c3}\x{a9}", '../x', '@tenant', 'x' x 64)
{
    (my $quoted = $slug) =~ s/'/''/g;
    (my $shown = $slug) =~ s/\n/\\n/;
    bad("SET kessel.tenant = '$quoted'", '22023', qr/tenant/, "slug \"$shown\"");
    is($k->run("SELECT kessel.create_tenant('$quoted', data_source => 'good')")->{state}, '22023', "create_tenant of \"$shown\"");
}
bad("SET request.jwt.claims = 'no json'; SET kessel.tenant = ''; SET ROLE app; $query", '22023', qr/claims/, 'malformed claims', undo => 'RESET ROLE; RESET request.jwt.claims');
is($k->run("SELECT kessel.create_tenant('good', data_source => 'good')")->{state}, '23505', 'a slug that is taken');
is($k->run("SELECT kessel.create_tenant('second', data_source => 'good')")->{state} =~ /^(23505|KR005|22023|55000)$/ ? 1 : 0, 1, 'a second tenant in a whole database');
bad("SELECT kessel.create_tenant('x', data_source => 'nowhere')", 'KR007', qr/nowhere/, 'unknown data source');
bad("SELECT kessel.create_tenant('x')", qr/^(KR007|22023)$/, qr/data source/, 'no default data source');
bad("SELECT kessel.test_data_source('nowhere')", 'KR007', qr/nowhere/, 'test of an unknown source');
bad("SELECT kessel.create_tenant('x', data_source => 'good', isolation => 'none')", '22023', qr/none/, 'unknown isolation');
bad("SELECT kessel.add_member('good', gen_random_uuid(), 'king')", '22023', qr/role/, 'unknown role of a member');

#
# URLs
#
my $port = $k->node->port;
my $closed = PostgreSQL::Test::Cluster::get_free_port();
my $socket = $k->node->host;
foreach my $url ('postgresql://u:kr-marked-secret@[::1', 'host=a password=kr-marked-secret bad', 'nosuchoption=1 host=a password=kr-marked-secret',
    'postgresql://u:kr-marked-secret@h/db?nosuch=1',)
{
    bad("SELECT kessel.create_data_source('x', '$url')", '22023', qr/./, "url \"$url\"");
}
foreach my $url ("host=$socket port=$port dbname=infra user=u password=p", "postgresql://u:p@/infra?host=$socket&port=$port", 'dbname=infra user=u password=p',
    "host=127.0.0.1 port=$port dbname=infra user=u password=p", "host=localhost port=$port dbname=infra user=u password=p", "hostaddr=127.0.0.1 host=elsewhere port=$port user=u password=p",
    "host=127.0.0.1,127.0.0.1 port=$closed,$port user=u password=p", "host=\@abstract user=u password=p")
{
    (my $shown = $url) =~ s/\Q$socket\E/SOCKET/;
    my $r = $s->run("SELECT kessel.create_data_source('local', '$url')");
    if ($r->{state} eq '')
    {
        # Or else it is found when the router is to connect.
        $r = $s->run("SELECT kessel.create_tenant('local', data_source => 'local'); SET kessel.tenant = 'local'; $query");
        $s->run("SET kessel.tenant = 'good'; SELECT kessel.drop_tenant('local')");
        $s->run("SELECT kessel.drop_data_source('local')");
    }
    like_error($r, $r->{state} =~ /^(22023|KR005|42501)$/ ? $1 : '22023', qr/./, "refused: $shown", hint => qr/allow_local/);
    ok_run($s->run("ROLLBACK; SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', 'the session goes on');
}
$k->exec("CREATE ROLE loop LOGIN PASSWORD 'kr-marked-loop'; CREATE TABLE public.accounts (id integer, name text); INSERT INTO public.accounts VALUES (1, 'here'); GRANT SELECT ON public.accounts TO loop");
$k->exec("SELECT kessel.create_data_source('loop', 'host=127.0.0.1 port=$port dbname=infra user=loop password=kr-marked-loop', options => '{\"allow_local\": true, \"password_required\": false}');"
      . "SELECT kessel.create_tenant('loop', data_source => 'loop')");
ok_run($k->run('SELECT name FROM data.accounts', tenant => 'loop'), 'here', 'this very server with allow_local');
$k->exec("SELECT kessel.create_data_source('socket', 'host=$socket port=$port dbname=infra user=loop', options => '{\"allow_local\": true, \"password_required\": false}');"
      . "SELECT kessel.create_tenant('socket', data_source => 'socket')");
ok_run($k->run('SELECT name FROM data.accounts', tenant => 'socket'), 'here', 'a socket with allow_local');

#
# Sources that cannot be reached
#
# A data source and a tenant in it: the query meets the error, the test reports it.
sub unreachable
{
    my ($name, $url, $state, $pattern, $what) = @_;
    my $r = $s->run("SELECT kessel.create_data_source('$name', '$url'); SELECT kessel.create_tenant('$name', data_source => '$name')");
    is($r->{state}, '', "$what: a source may be named before it can be reached") or diag($r->{err});
    bad("SET kessel.tenant = '$name'; $query", $state, $pattern, $what);
    my $report = $k->run("SET kessel.connect_timeout = 2; SELECT count(*) FILTER (WHERE NOT ok) > 0 FROM kessel.test_data_source('$name')");
    ok_run($report, 't', "$what: test_data_source reports it and does not raise");
    return;
}

# One where nothing ever answers, beside the port that nothing listens on.
my $silent = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die "listen: $!";
unreachable('closed', "host=127.0.0.1 port=$closed dbname=x user=u password=kr-marked-x", '08001', qr/closed/, 'connection refused');
unreachable('silent', 'host=127.0.0.1 port=' . $silent->sockport . ' dbname=x user=u password=kr-marked-x', '08001', qr/silent/, 'a server that never answers');
unreachable('unresolved', 'host=db.invalid dbname=x user=u password=kr-marked-x', '08001', qr/unresolved/, 'a name that does not resolve');
unreachable('nodatabase', "host=127.0.0.1 port=$d->{port} dbname=nosuch user=$d->{runtime} password=$d->{password}", qr/^(3D000|08001)$/, qr/./, 'a database that does not exist');
unreachable('wrong', "host=127.0.0.1 port=$d->{port} dbname=tenants user=$d->{runtime} password=kr-marked-wrong", '28P01', qr/./, 'a wrong password');
unreachable('nouser', "host=127.0.0.1 port=$d->{port} dbname=tenants user=nosuch password=kr-marked-wrong", '28P01', qr/./, 'an unknown role');
my $expired = $k->data_cluster('expired', tls => 'expired');
unreachable('expired', $k->url($expired), '08001', qr/./, 'an expired certificate');
like($k->run("SELECT detail FROM kessel.test_data_source('expired') WHERE NOT ok")->{out}, qr/certificate/, 'the report says that it is the certificate');
my $tls = $k->data_cluster('tls', tls => 'good');
(my $other_ca = $k->url($tls)) =~ s/\Q$tls->{ca}\E/$expired->{ca}/;
unreachable('otherca', $other_ca, '08001', qr/./, 'a certificate of another CA');

# A wrong password is put right, and the session that met it connects.
$k->exec("SELECT kessel.set_credential('wrong', '$d->{runtime}', '$d->{password}')");
ok_run($s->run("SET kessel.tenant = 'wrong'; $query"), '5', 'with the right password');

# test_data_source on good ones.
ok_run($k->run("SELECT bool_and(ok) FROM kessel.test_data_source('good')"), 't', 'all is well with a good source') or diag($k->run("SELECT * FROM kessel.test_data_source('good')")->{out});

#
# Remote tables
#
$s->run("SET kessel.tenant = 'good'");
$k->exec("CREATE FOREIGN TABLE data.missing (id integer) SERVER kessel_router OPTIONS (schema_name '\@tenant', table_name 'missing')");
$k->exec("CREATE FOREIGN TABLE data.other_type (id integer, name integer) SERVER kessel_router OPTIONS (schema_name '\@tenant', table_name 'accounts')");
bad('SELECT * FROM data.missing', '42P01', qr/missing/, 'a remote table that is missing');
bad('SELECT name FROM data.other_type', '22P02', qr/good account/, 'a remote column of another type');
$k->data_exec($d, 'ALTER TABLE public.contacts DROP COLUMN email');
bad('SELECT email FROM data.contacts', '42703', qr/email/, 'a remote column that was dropped');
is($k->run("SELECT kessel.import_tables('good', 'public')")->{state}, '', 'import again');
$k->data_exec($d, 'REVOKE SELECT ON public.contacts FROM good_runtime');
is($s->run('SELECT * FROM data.contacts')->{state}, '42501', 'a remote table without privileges');

# A server that goes away and comes back.
$d->{node}->stop('immediate');
is($s->run($query)->{state} =~ /^08/ ? 1 : 0, 1, 'a source that is down');
$d->{node}->start;
ok_run($s->run($query), '5', 'and is up again');

done_testing();

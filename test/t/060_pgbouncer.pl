# Behind PgBouncer in transaction mode: SET LOCAL, the claims, and, where it
# knows track_extra_parameters (1.20), a session's own kessel.tenant. One server
# connection serves all clients, so that what a client leaves behind meets the
# next one.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($version_text, $no) = ('', '');
$ENV{PATH} .= ':/usr/sbin';
IPC::Run::run([ 'pgbouncer', '--version' ], '>', \$version_text, '2>', \$no) or plan skip_all => 'no pgbouncer here';
my ($version) = $version_text =~ /PgBouncer 1\.(\d+)/;
my $tracks = $version >= 20;

# PgBouncer gives a client that names no tenant the value that the server
# reports when a connection starts. Reported it is only if the library is loaded
# by then: without that, such a client would keep its forerunner's tenant.
my $k = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\n");
$k->fleet;

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $track = $tracks ? "track_extra_parameters = kessel.tenant\n" : '';
append_to_file("$dir/users", qq("app" ""\n"service" ""\n"admin" ""\n));
append_to_file("$dir/ini", <<"INI");
[databases]
infra = host=@{[ $k->node->host ]} port=@{[ $k->node->port ]} dbname=infra
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
logfile = $dir/log
pidfile = $dir/pid
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits, options
${track}
INI
my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
END { local $?; $bouncer->kill_kill if $bouncer; }

sub url { my ($user) = @_; return "host=127.0.0.1 port=$port dbname=infra user=$user"; }

# Up when it answers.
{
    my ($up, $deadline) = (0, time + 30);
    until ($up || time > $deadline)
    {
        $bouncer->pump_nb;
        $up = $k->run('SELECT 1', url => url('app'))->{out} eq '1';
    }
    ok($up, "PgBouncer 1.$version is up") or BAIL_OUT(slurp_file("$dir/log"));
}

my ($one, $two) = map { $k->session(url => url('service')) } 1 .. 2;
is($one->run('SELECT pg_backend_pid()')->{out}, $two->run('SELECT pg_backend_pid()')->{out}, 'two clients share one server connection');

# SET LOCAL ends with the transaction.
foreach my $round (1 .. 2)
{
    foreach my $tenant ($k->tenants)
    {
        my $client = $round % 2 ? $one : $two;
        ok_run($client->run("BEGIN; SET LOCAL kessel.tenant = '$tenant'; SELECT min(name), count(*) FROM data.accounts; COMMIT"), "$tenant account 1|5", "SET LOCAL, $tenant, round $round");
    }
    is($two->run('SELECT count(*) FROM data.accounts')->{state}, 'KR001', 'afterwards no tenant is left for the next client');
}
ok_run($one->run("BEGIN; SELECT kessel.use_tenant('solo-a') IS NOT NULL; SELECT min(name) FROM data.accounts; COMMIT"), "t\nsolo-a account 1", 'use_tenant()');
is($two->run('SELECT count(*) FROM data.accounts')->{state}, 'KR001', 'leaves nothing behind, either');
$_->quit foreach $one, $two;

# Members with claims, in turn on the same connection.
{
    my ($a, $b) = map { $k->session(url => url('app')) } 1 .. 2;
    my $as = sub {
        my ($letter, $tenant) = @_;
        return "BEGIN; SET LOCAL request.jwt.claims = '{\"sub\": \"$k->{user}{$letter}\"}'; SET LOCAL kessel.tenant = '$tenant'; SELECT min(name) FROM data.accounts; COMMIT";
    };
    foreach my $round (1 .. 2)
    {
        ok_run($a->run($as->('a', 'row-a')), 'row-a account 1', "member of row-a, round $round");
        ok_run($b->run($as->('b', 'row-b')), 'row-b account 1', "member of row-b, round $round");
        is($a->run($as->('a', 'row-b'))->{state}, '42501', "not a member, round $round");
        is($b->run("BEGIN; SET LOCAL kessel.tenant = 'row-b'; SELECT min(name) FROM data.accounts; COMMIT")->{state}, '42501', "no claims are left over, round $round");
    }
    $_->quit foreach $a, $b;
}

SKIP:
{
    skip 'track_extra_parameters came with PgBouncer 1.20', 1 unless $tracks;

    my %client = map { $_ => $k->session(url => url('service')) } $k->tenants;
    $client{$_}->run("SET kessel.tenant = '$_'") foreach $k->tenants;
    foreach my $round (1 .. 2)
    {
        foreach my $tenant ($k->tenants)
        {
            ok_run($client{$tenant}->run('SELECT min(name), count(*) FROM data.accounts'), "$tenant account 1|5", "a session's own tenant follows it, $tenant, round $round");
        }
    }
    ok_run($client{'row-a'}->run("BEGIN; SET LOCAL kessel.tenant = 'row-b'; SELECT min(name) FROM data.accounts; COMMIT; SELECT min(name) FROM data.accounts"),
        "row-b account 1\nrow-a account 1", 'SET LOCAL inside gives way to it again');
    ok_run($client{'row-b'}->run('SELECT min(name) FROM data.accounts'), 'row-b account 1', 'and touches no other client');
    my $fresh = $k->session(url => url('service'));
    is($fresh->run('SELECT count(*) FROM data.accounts')->{state}, 'KR001', 'a client that names no tenant has none');
    $_->quit foreach values %client, $fresh;
}

# A run commits many times, all within one statement: to the pooler it is one
# transaction, and the server connection, with the run's lock, stays with it.
{
    $k->exec("SELECT kessel.add_blueprint('pooled'); SELECT kessel.add_migration('pooled', '0001_x', 'SELECT 1', 'SELECT 1'), kessel.add_migration('pooled', '0002_x', 'SELECT 1/0', 'SELECT 1')");
    my ($one, $two) = map { $k->session(url => url('admin')) } 1 .. 2;
    my $r = $one->run("CALL kessel.migrate('pooled', 1)");
    ok($r->{state} eq '' && $r->{err} =~ /5 of 5 targets done/, 'a run of migrations') or diag($r->{err});
    is($one->run("CALL kessel.migrate('pooled')")->{state}, 'KR013', 'one that fails');
    $r = $two->run("CALL kessel.rollback('pooled', 0)");
    ok($r->{state} eq '' && $r->{err} =~ /5 of 5 targets done/, 'keeps nobody from the next one') or diag($r->{err});
    is($two->run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")->{out}, '0', 'and leaves no lock in the server connection');
    $_->quit foreach $one, $two;
}

done_testing();

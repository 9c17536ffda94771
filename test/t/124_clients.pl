# Node's clients at the router: postgres.js, node-postgres, and Drizzle over
# each, directly and through PgBouncer in transaction mode (test/lib/clients.mjs).
# Each transaction names its tenant first; no pool may show one tenant another's
# rows: not among eight by turns, nor between two that alternate 10,000 times, each
# client for itself, and through PgBouncer on one server connection. The clients come from npm's registry: without it there is nothing to do.
use strict;
use warnings;

use lib 'test/lib';
use Cwd;
use File::Copy;
use IPC::Run ();
use JSON::PP;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Looks by turns of all tenants in all, and alternations of two clients for each kind
# of client, through PgBouncer and, if it is here, a tenth of them directly.
use constant { CHECKS => 4_000, ALTERNATIONS => 10_000 };

my $slow = $ENV{KR_SLOW} || 1;
my $dir = PostgreSQL::Test::Utils::tempdir();
$ENV{PATH} .= ':/usr/sbin';

sub command
{
    my (@command) = @_;
    my ($out, $err) = ('', '');
    my $done = eval { IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err); 1 } ? $? : -1;
    return ($done, $out, $err);
}

my (undef, $node_version) = command('node', '--version');
plan skip_all => 'Node 18 or later is not here' unless $node_version =~ /^v(\d+)/ && $1 >= 18;
plan skip_all => 'npm is not here' if (command('npm', '--version'))[0];
{
    my ($status, undef, $said) = command('ci/npm-packages', "$dir/npm", 60 * $slow);
    plan skip_all => 'the registry of npm cannot be reached' if $status >> 8 == 69;
    ok(!$status, 'the clients are the ones that are pinned') or BAIL_OUT($said);
}
copy('test/lib/clients.mjs', "$dir/npm/clients.mjs") or die "clients.mjs: $!";

my $k = KesselTest->new;
$k->fleet;
my @tenants = $k->tenants;
$k->at_home($_, 'ALTER TABLE accounts ADD COLUMN extra jsonb') foreach grep { $_ ne 'row-b' } @tenants;
$k->exec("SELECT kessel.import_tables('shared', 'public')");

# Where clients connect to: the server, and PgBouncer if it is here. It keeps
# prepared statements of clients from 1.21 on.
my %place = (directly => { port => $k->node->port, db => 'infra', prepare => JSON::PP::true });
my (undef, $bouncer_version) = command('pgbouncer', '--version');
my $bouncer;
END { local $?; $bouncer->kill_kill if $bouncer; }
if ($bouncer_version =~ /PgBouncer 1\.(\d+)/)
{
    $place{'through PgBouncer'} = { port => start_bouncer($1), db => 'one', prepare => $1 >= 21 ? JSON::PP::true : JSON::PP::false };
}

# Fewer server connections than a client's pool has.
sub start_bouncer
{
    my ($version) = @_;
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    my $prepared = $version >= 21 ? "max_prepared_statements = 100\n" : '';
    append_to_file("$dir/users", qq("service" ""\n));
    append_to_file("$dir/ini", <<"INI");
[databases]
infra = host=@{[ $k->node->host ]} port=@{[ $k->node->port ]} dbname=infra
one = host=@{[ $k->node->host ]} port=@{[ $k->node->port ]} dbname=infra pool_size=1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
logfile = $dir/log
pidfile = $dir/pid
pool_mode = transaction
default_pool_size = 3
$prepared
INI
    $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
    my ($up, $deadline) = (0, time + 30 * $slow);
    until ($up || time > $deadline)
    {
        $bouncer->pump_nb;
        $up = $k->run('SELECT 1', url => "host=127.0.0.1 port=$port dbname=infra user=service")->{out} eq '1';
    }
    ok($up, "PgBouncer 1.$version is up") or BAIL_OUT(slurp_file("$dir/log"));
    return $port;
}

# What each client has to see of a tenant: names as the database has them,
# numeric as text, JSON as it was.
sub expected
{
    my ($tenant) = @_;
    my %new = (id => 71, name => "$tenant \x{e9} ''\\", active => JSON::PP::false, opened => '2024-02-29',
        extra => { tags => [ 'a', "\x{fc}" ], n => 1.5, none => undef });
    my $first = { id => 1, name => "$tenant account 1", balance => '10.00', active => JSON::PP::true, opened => '2026-01-01', extra => undef };
    return {
        read       => [ $first ],
        added      => [ { %new, balance => '1234567.89' } ],
        changed    => [ { %new, balance => '1234568.00' } ],
        joined     => [ { name => "$tenant account 2", email => "${tenant}2\@example.com" } ],
        removed    => [ { id => 71 } ],
        twice      => '23505',
        afterError => [ [ $first ], [] ],
    };
}

$ENV{TZ} = 'UTC';
my $each = CHECKS / (4 * keys %place);
my %all = (checked => 0, mismatches => 0, rows => 0);
foreach my $how (sort keys %place)
{
    my $url = "postgres://service\@127.0.0.1:$place{$how}{port}";
    my $alternations = ALTERNATIONS / ($how eq 'directly' && keys %place > 1 ? 10 : 1);
    my $asked = encode_json({ url => "$url/infra", prepare => $place{$how}{prepare}, tenants => \@tenants, checks => $each,
            pair_url => "$url/$place{$how}{db}", pairs => [ map { [ "$_-a", "$_-b" ] } qw(row schema solo) ], alternations => $alternations });
    my ($status, $out, $err) = command('timeout', '-k', '10', 300 * $slow, 'node', "$dir/npm/clients.mjs", $asked);
    is($status, 0, "the clients have come to their end, $how") or diag($err);
    my @reports = map { decode_json($_) } split /\n/, $out;
    is(scalar @reports, 4, "four clients, $how");
    foreach my $report (@reports)
    {
        my $name = "$report->{client} $how";
        is_deeply($report->{tenants}{$_}, expected($_), "$name: $_, read, written, and undone by an error")
            or diag(encode_json($report->{tenants}{$_})) foreach @tenants;
        is_deeply($report->{without}, [ ('KR001') x 9 ], "$name: without a tenant there is KR001, on every connection");
        is_deeply($report->{turns}, { checked => $each, mismatches => 0, rows => 5 * $each }, "$name: tenants in turns see their own rows");
        is_deeply($report->{pairs}, { checked => $alternations, mismatches => 0, rows => 5 * $alternations }, "$name: two clients of one pool alternate $alternations times");
        $all{$_} += $report->{turns}{$_} foreach keys %all;
    }
}
is_deeply(\%all, { checked => CHECKS, mismatches => 0, rows => 5 * CHECKS }, 'checks in all: ' . CHECKS);

done_testing();

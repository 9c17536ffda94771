# A server says how often the client is to hash its password. One that asks for
# hours of it holds up the statement until kessel.connect_timeout, no longer, and
# the session can be cancelled meanwhile.
use strict;
use warnings;

use lib 'test/lib';
use IO::Socket::INET;
use KesselTest;
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

my $k = KesselTest->new;
my $good = $k->data_cluster('good');
$k->crm_database($good, 'good');

#
# Speaks the protocol up to the question.
#
my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "cannot listen: $!";
my $port = $listener->sockport;

sub read_bytes
{
    my ($socket, $n) = @_;
    my $data = '';
    while (length($data) < $n) { sysread($socket, $data, $n - length($data), length($data)) or POSIX::_exit(0) }
    return $data;
}

sub authentication { my ($body) = @_; return 'R' . pack('N', 4 + length $body) . $body }

my $asked;
sub serve
{
    my ($socket) = @_;
    for (;;)
    {
        my $code = unpack('N', read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4));
        last if $code == 196608;
        syswrite($socket, 'N');
    }
    syswrite($socket, authentication(pack('N Z* C', 10, 'SCRAM-SHA-256', 0)));
    my ($type, $length) = unpack('a N', read_bytes($socket, 5));
    my ($nonce) = read_bytes($socket, $length - 4) =~ /r=(.*)$/s;
    syswrite($asked, 'x');
    syswrite($socket, authentication(pack('N', 11) . "r=${nonce}more,s=" . encode_base64('0123456789abcdef', '') . ',i=2000000000'));
    read_bytes($socket, 1);
    return;
}

pipe(my $asking, $asked) or die "pipe: $!";
my $connections = 0;

# Returns when so many clients have been asked.
sub connected { my ($n) = @_; read_bytes($asking, 1) foreach 1 .. $n; return }

my $server = fork // die "fork: $!";
if (!$server)
{
    local $SIG{CHLD} = 'IGNORE';
    while (my $socket = $listener->accept)
    {
        my $child = fork // POSIX::_exit(1);
        if (!$child) { serve($socket); POSIX::_exit(0) }
        close $socket;
    }
    POSIX::_exit(0);
}
END { local $?; kill 'KILL', $server if $server }

$k->data_source($good);
$k->exec("SELECT kessel.create_data_source('endless', 'postgresql://u:secret\@127.0.0.1:$port/x?sslmode=disable');"
      . "SELECT kessel.create_tenant('good', data_source => 'good')");
$k->exec("SELECT count(*) FROM kessel.import_tables('good', 'public')");
$k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'endless', 'Endless', id, 'database', 'endless' FROM app.data_sources WHERE name = 'endless'");

my $s = $k->session(tenant => 'endless');
foreach my $case (
    [ 'kessel.connect_timeout', 'SET kessel.connect_timeout = 2', sub { $connections++ }, '08001', qr/could not connect to data source "endless"/ ],
    [ 'statement_timeout', "SET kessel.connect_timeout = 60; SET statement_timeout = '1s'", sub { $connections++ }, '57014', qr/canceling statement due to statement timeout/ ],
    [ 'pg_cancel_backend()', 'SET statement_timeout = 0', sub { connected(++$connections); $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')') }, '57014', qr/canceling statement due to user request/ ])
{
    my ($what, $before, $during, $state, $pattern) = @$case;
    $s->run($before);
    my $start = time;
    $s->start('SELECT count(*) FROM data.accounts');
    $during->();
    like_error($s->finish, $state, $pattern, "$what ends the statement");
    cmp_ok(time - $start, '<', 15, "$what: in time");
}
ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', 'the session works for another tenant');
$s->run('SET kessel.connect_timeout = 2');
ok_run($s->run("SELECT ok FROM kessel.test_data_source('endless') WHERE \"check\" = 'authentication'"), 'f', 'the test of the data source says where it ends');
my $pid = $s->pid;
$s->quit;
ok($k->node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), 'the backend ends with its session');

# Statement after statement, only so many threads are busy.
{
    my $again = $k->session(tenant => 'endless');
    my $refused = 0;
    $again->run("SET statement_timeout = '300ms'");
    foreach (1 .. 8)
    {
        my $r = $again->run('SELECT count(*) FROM data.accounts');
        $refused++ if $r->{state} eq '53000' && $r->{message} =~ /could not start a thread/;
    }
    is($refused, 4, 'the fifth attempt and those after it are refused');
    my @threads = glob('/proc/' . $again->pid . '/task/*');
    cmp_ok(scalar @threads, '<=', 5, 'and leave no more threads behind');
    ok_run($again->run("SET statement_timeout = 0; SET kessel.tenant = 'good'; SELECT slug FROM (SELECT kessel.current_tenant() AS slug) x"), 'good', 'the session lives');
    $again->quit;
    connected(4);
}

# A backend that ends while a thread of its still works takes nobody along.
foreach my $round (1 .. 8)
{
    my $leaving = $k->session(tenant => 'endless');
    $leaving->start("SET statement_timeout = '300ms'; SELECT count(*) FROM data.accounts");
    connected(1);
    like_error($leaving->finish, '57014', qr/statement timeout/, "a session that ends soon, $round");
    $leaving->quit;
}
ok_run($k->run('SELECT count(*) FROM data.accounts', tenant => 'good'), '5', 'the server is well');

done_testing();

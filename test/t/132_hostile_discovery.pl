# Which tables a data source has is asked of a server that may be anybody's: what
# it answers is text, ends, and has room.
use strict;
use warnings;

use lib 'test/lib';
use IO::Socket::INET;
use KesselTest;
use POSIX ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length($body // '')) . ($body // '') }
sub columns { return message('T', pack('n', scalar @_) . join('', map { pack('Z* N n N n N n', $_, 0, 0, 25, 0xffff, 0xffffffff, 0) } @_)) }
sub row { return message('D', pack('n', scalar @_) . join('', map { defined ? pack('N/a*', $_) : pack('N', 0xffffffff) } @_)) }
sub done { return message('C', "$_[0]\0") }
my @five = (1 .. 5);
my %answer = (
    well => columns(@five) . row('s', 't', 'BASE TABLE', 7, undef) . done('SELECT 1'),
    nothing => columns(@five) . row((undef) x 5) . done('SELECT 1'),
    few => columns(1) . row('s') . done('SELECT 1'),
    none => columns() . row() . done('SELECT 1'),
    many => columns(1 .. 1000) . row(('x') x 1000) . done('SELECT 1'),
    number => columns(@five) . row('s', 't', 'BASE TABLE', '7; DROP TABLE app.tenants', undef) . done('SELECT 1'),
    encoding => columns(@five) . row("a\xf0", 't', 'BASE TABLE', 7, undef) . done('SELECT 1'),
    statement => columns(@five) . row("'; DROP TABLE app.tenants; --", '$$', '"', 7, '%s') . done('SELECT 1'),
    copy => message('H', pack('C n n', 0, 1, 0)) . message('d', 'x') x 1000,
    error => message('E', "SERROR\0C42P01\0Mno\0\0"),
    commanded => done('DROP TABLE'),
    later => columns(@five) . row('s', 't', 'BASE TABLE', 7, undef) . message('E', "SERROR\0C57014\0Mlater\0\0"),
    endless => undef,
    endless_begin => undef,
    endless_commit => undef,
);

sub read_bytes
{
    my ($socket, $n) = @_;
    my $data = '';
    while (length($data) < $n) { sysread($socket, $data, $n - length($data), length($data)) or POSIX::_exit(0) }
    return $data;
}

sub serve
{
    my ($socket) = @_;
    my ($db, $is_asked);
    my $send = sub { my ($data) = @_; while (length $data) { my $n = syswrite($socket, $data) or POSIX::_exit(0); substr($data, 0, $n) = '' } return };

    for (;;)
    {
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        my $code = unpack('N', $body);
        if ($code == 80877103 || $code == 80877104) { $send->('N'); next }
        POSIX::_exit(0) if $code == 80877102;    # cancel
        my %option = split /\0/, substr($body, 4);
        $db = $option{database};
        last;
    }
    $send->(message('R', pack('N', 3)));
    read_bytes($socket, 1);
    read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
    $send->(message('R', pack('N', 0)) . join('', map { message('S', "$_\0") } "server_version\0" . '15.0', "client_encoding\0UTF8", "standard_conforming_strings\0on")
        . message('K', pack('NN', $$, 1)) . message('Z', 'I'));
    for (;;)
    {
        my $type = read_bytes($socket, 1);
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        POSIX::_exit(0) if $type eq 'X';
        if ($type eq 'Q')
        {
            $send->(columns(1));
            $send->(row('s' x 1000) x 1000) while $db eq 'endless_begin' || $db eq 'endless_commit' && $body =~ /COMMIT/;
            $send->(done('SET') . message('Z', 'T'));
        }
        if ($type eq 'P') { $is_asked = $body =~ /pg_class/; $send->(message('1')) }
        $send->(message('2')) if $type eq 'B';
        if ($type eq 'E' && $is_asked && $db eq 'endless')
        {
            $send->(columns(@five));
            $send->(row('s' x 1000, 't', 'BASE TABLE', 7, undef) x 1000) while 1;
        }
        $send->($is_asked ? $answer{$db} : done('SET')) if $type eq 'E';
        $send->(message('Z', 'T')) if $type eq 'S';
    }
}

my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "cannot listen: $!";
my $port = $listener->sockport;
my $server = fork // die;
if (!$server)
{
    $SIG{CHLD} = 'IGNORE';
    while (my $socket = $listener->accept) { serve($socket) unless fork }
    POSIX::_exit(0);
}
close $listener;
END { local $?; kill 'KILL', $server if $server }

my $k = KesselTest->new;
my $started = $k->exec('SELECT pg_postmaster_start_time()');
my %expected = (well => 's|t|BASE TABLE|7|', nothing => '||||', few => 's||||', none => '||||', many => '22P02', number => '22P02', encoding => '22021', statement => q{'; DROP TABLE app.tenants; --|$$|"|7|%s},
    copy => '08006', error => '42P01', commanded => '', later => '57014', endless => '54000', endless_begin => '57014', endless_commit => '57014');
$answer{endless_commit} = $answer{well};
foreach my $case (sort keys %answer)
{
    $k->exec("SELECT kessel.create_data_source('$case', 'host=127.0.0.1 port=$port dbname=$case user=u password=p sslmode=disable')");
    my $s = $k->session(user => 'service');
    my $r = $s->run("SET statement_timeout = '@{[ $case =~ /endless_/ ? 3 : 60 ]}s'; SELECT * FROM kessel.discover_tables('$case')");
    is($r->{state} || $r->{out}, $expected{$case}, $case) or diag(substr($r->{err}, 0, 500));
    my ($kb) = slurp_file('/proc/' . $s->pid . '/status') =~ /^VmHWM:\s*(\d+) kB/m;
    cmp_ok($kb / 1024, '<', 200, "$case: in bounded memory");
    ok_run($s->run('SELECT 1'), '1', "$case: the session goes on");
    $s->quit;
}
is($k->exec('SELECT pg_postmaster_start_time(), to_regclass($$app.tenants$$)'), "$started|app.tenants", 'all is as it was');

done_testing();

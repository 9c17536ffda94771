# A data source that a customer runs can answer anything. Whatever it sends, the
# statement ends, with an error, in bounded time; the session and the server go
# on. And what it says of its tables stays what it is: text.
use strict;
use warnings;

use lib 'test/lib';
use IO::Socket::INET;
use KesselTest;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

#
# A server that speaks the protocol until a query asks for the table t. What it
# does then is told by the name of the database.
#
sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length($body // '')) . ($body // '') }
sub columns { return message('T', pack('n', scalar @_) . join('', map { pack('Z* N n N n N n', $_, 0, 0, 25, 0xffff, 0xffffffff, 0) } @_)) }
sub row { return message('D', pack('n', scalar @_) . join('', map { pack('N/a*', $_) } @_)) }
sub done { return message('C', "$_[0]\0") }
my $ready = message('Z', 'T');

my %answer = (
    copy_out => sub { message('H', pack('C n n', 0, 1, 0)) },
    copy_in => sub { message('G', pack('C n n', 0, 1, 0)) },
    copy_both => sub { message('W', pack('C n n', 0, 1, 0)) },
    early_sync => sub { $ready },
    two_syncs => sub { columns('v') . row('x') . done('SELECT 1') . $ready . $ready },
    two_ends => sub { columns('v') . row('x') . done('SELECT 1') . done('SELECT 1') },
    no_columns => sub { columns() . row() . done('SELECT 1') },
    more_columns => sub { columns(qw(v w x)) . row(qw(1 2 3)) . done('SELECT 1') },
    many_columns => sub { columns(('v') x 3000) . row(('x') x 3000) . done('SELECT 1') },
    no_description => sub { row('x') . done('SELECT 1') },
    ragged => sub { columns('v') . row('x', 'y') . done('SELECT 1') },
    bad_length => sub { columns('v') . message('D', pack('n N', 1, 0x7ffffff0)) },
    huge => sub { columns('v') . 'D' . pack('N', 0x7fffffff) },
    bad_encoding => sub { columns('v') . row("a\xf0") . done('SELECT 1') },
    bad_error => sub { message('E', "SERROR\0C\xff\xff\xff\xff\xff\0M\xf0\x9f\xff\0D\xc3\0\0") },
    no_error => sub { message('E', "\0") },
    null_error => sub { message('E', "SERROR\0C00000\0M\0\0") },
    no_select => sub { done('DELETE 18446744073709551615') },
    garbage => sub { join '', map { chr(int(rand(256))) } 1 .. 4000 },
    silence => sub { '' },
    notices => undef,
    rows => undef,
);

sub read_bytes
{
    my ($socket, $n) = @_;
    my $data = '';
    while (length($data) < $n) { sysread($socket, $data, $n - length($data), length($data)) or exit 0 }
    return $data;
}

sub serve
{
    my ($socket) = @_;
    my ($db, $mute, $asks, %sql) = ('', 0, 0);
    my $send = sub { my ($data) = @_; while (length $data) { my $n = syswrite($socket, $data) or exit 0; substr($data, 0, $n) = '' } };

    for (;;)
    {
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        my $code = unpack('N', $body);
        if ($code == 80877103 || $code == 80877104) { $send->('N'); next }
        exit 0 if $code == 80877102;    # cancel
        my %option = split /\0/, substr($body, 4);
        $db = $option{database};
        last;
    }
    $send->(message('R', pack('N', 3)));
    read_bytes($socket, 1);
    read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
    $send->(message('R', pack('N', 0)) . join('', map { message('S', "$_\0") } "server_version\00015.0", "client_encoding\0UTF8", "standard_conforming_strings\0on")
        . message('K', pack('NN', $$, 1)) . message('Z', 'I'));

    for (;;)
    {
        my $type = read_bytes($socket, 1);
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        exit 0 if $type eq 'X';
        if ($type eq 'P') { my ($name, $sql) = split /\0/, $body; $sql{$name} = $sql; $send->(message('1')) unless $mute }
        if ($type eq 'B') { my (undef, $name) = split /\0/, $body; $asks = $sql{$name} =~ /FROM public\.t/; $send->(message('2')) unless $mute }
        if ($type eq 'E' && $asks && !$mute)
        {
            $mute = 1;
            if ($db eq 'notices') { $send->(message('N', "SNOTICE\0C00000\0Mx\0\0") x 100) for 1 .. 2000000 }
            if ($db eq 'rows') { $send->(columns('v')); $send->(row('x') x 1000) for 1 .. 2000000 }
            $send->($answer{$db}->());
        }
        elsif ($type eq 'E' && !$mute) { $send->(message('n') . done('COMMIT')) }
        $send->($ready) if $type eq 'S' && (!$mute || $db !~ /silence|early_sync|huge|garbage/);
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

my $k = KesselTest->new;
my $good = $k->data_cluster('good');
$k->crm_database($good, 'good');
$k->data_source($good);
$k->exec("SELECT kessel.create_tenant('good', data_source => 'good'); SELECT kessel.import_tables('good', 'public');"
      . "CREATE FOREIGN TABLE data.t (v text) SERVER kessel_router OPTIONS (schema_name '\@tenant')");
my $started = $k->exec('SELECT pg_postmaster_start_time()');

foreach my $case (sort keys %answer)
{
    (my $slug = $case) =~ tr/_/-/;
    $k->exec("SELECT kessel.create_data_source('$case', 'host=127.0.0.1 port=$port dbname=$case user=u password=p sslmode=disable');"
          . "SELECT kessel.create_tenant('$slug', data_source => '$case')");
    my $s = $k->session(tenant => $slug);
    my $start = time;
    $s->run("BEGIN; SAVEPOINT a; SET LOCAL statement_timeout = '1500ms'");
    my $r = $s->run('SELECT v FROM data.t');
    my $took = time - $start;
    isnt($r->{state}, '', "$case: an error") if $case !~ /^(rows|two_ends|two_syncs|no_select)$/;
    isnt($r->{state}, '08000', "$case: from a living server");
    $s->run('ROLLBACK TO a; COMMIT');
    cmp_ok(time - $start, '<', 15, "$case: in bounded time") or diag("$took s; state $r->{state}");
    ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', "$case: the session goes on");
    $s->quit;
}
is($k->exec('SELECT pg_postmaster_start_time()'), $started, 'no backend has crashed');
kill 'TERM', $server;

#
# What import_tables() is told.
#
$k->exec("CREATE ROLE heir; GRANT CREATE, USAGE ON SCHEMA data TO heir");
$k->data_exec($good, <<'SQL');
SET allow_system_table_mods = on;
CREATE TABLE public.gift (a integer DEFAULT 1, b integer);
GRANT SELECT ON public.gift TO good_runtime;
CREATE OR REPLACE FUNCTION pg_catalog.pg_get_expr(pg_node_tree, oid) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''1, OWNER TO heir, DROP COLUMN b''';
SQL
like($k->run("SELECT * FROM kessel.import_tables('good', 'public', 'data', '{gift}')")->{out}, qr/default left out/, 'a default that is more than an expression is left out');
ok_run($k->run("SELECT relowner::regrole, (SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) FROM pg_class c WHERE oid = 'data.gift'::regclass"),
    'postgres|2', 'and does nothing');

done_testing();

# A data source that a customer runs can answer anything. Whatever it sends, the
# statement ends, with an error, in bounded time; the session and the server go
# on. And what it says of its tables stays what it is: text.
use strict;
use warnings;

use lib 'test/lib';
use IO::Socket::INET;
use KesselTest;
use POSIX ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes qw(time);

#
# A server that speaks the protocol until a query asks for the table t. What it
# does then is told by the name of the database.
#
sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length($body // '')) . ($body // '') }
sub typed_columns { return message('T', pack('n', scalar @_) . join('', map { pack('Z* N n N n N n', $_->[0], 0, 0, $_->[1], 0xffff, 0xffffffff, $_->[2]) } @_)) }
sub columns { return typed_columns(map { [ $_, 25, 0 ] } @_) }
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
    # ... after a value of 400 MB
    long_value => sub { done('SELECT 1') },
    notices => undef,
    rows => undef,
    second_description => sub { columns('v') . row('x') . columns(qw(v w)) . row(qw(1 2)) . done('SELECT 2') },
    no_column_later => sub { columns('v') . row('x') . columns() . row() . done('SELECT 2') },
    null_length => sub { columns('v') . message('D', pack('n N', 1, 0xfffffff0)) . done('SELECT 1') },
    negative_length => sub { columns('v') . 'D' . pack('N', 0x80000000) },
    all_types => sub { columns('v') . row('x') . join '', map { message(chr $_, 'x') } grep { chr($_) !~ /[A-Za-z]/ } 33 .. 126 },
    settings => sub { message('S', "client_encoding\0LATIN1\0") . message('S', "standard_conforming_strings\0off\0") . columns('v') . row("\xe9") . done('SELECT 1') },
    settings_garbage => sub { join('', map { message('S', "x$_\0" . 'y' x 1000 . "\0") } 1 .. 2000) . columns('v') . row('x') . done('SELECT 1') },
    version => sub { columns('v') . row('x') . done('SELECT 1') },
    notifications => sub { join('', map { message('A', pack('N', $_) . "x\0y\0") } 1 .. 20000) . columns('v') . row('x') . done('SELECT 1') },
);

#
# Values in binary form that are none. Of a column, here: type, and the state of
# the error that it must lead to, or the text that it is. There: type and bytes.
#
my %oid = (bool => 16, bytea => 17, name => 19, int8 => 20, int2 => 21, int4 => 23, text => 25, oid => 26, json => 114, cidr => 650, float4 => 700, float8 => 701,
    inet => 869, varchar => 1043, date => 1082, time => 1083, timestamp => 1114, timestamptz => 1184, interval => 1186, timetz => 1266, numeric => 1700,
    uuid => 2950, jsonb => 3802, 'int4[]' => 1007, 'int8[]' => 1016, 'uuid[]' => 2951, 'text[]' => 1009, record => 2249, unknown => 999999);
my @lie = (
    [ int4 => '22P03', int4 => "\0\0\1" ],
    [ int4 => '22P03', int4 => '' ],
    [ int4 => '22P03', int4 => "\0" x 8 ],
    [ int4 => '22003', int8 => "\x7f" . "\xff" x 7 ],
    [ int4 => '7', int8 => pack('q>', 7) ],
    [ int4 => '22P02', text => 'x' ],
    [ int4 => '08P01', unknown => "\0\0\0\7" ],
    [ int4 => '08P01', 'text[]' => pack('N*', 1, 0, 25, 1, 1, 1) . 'x' ],
    [ int4 => '08P01', record => pack('N*', 1, 23, 4, 7) ],
    [ int8 => '22P03', int8 => "\0" x 9 ],
    [ int2 => '22P03', int2 => "\0\0\0" ],
    [ oid => '22P03', oid => "\0\0" ],
    [ float4 => '22P03', float4 => "\0" x 8 ],
    [ float8 => '22P03', float8 => "\0" x 7 ],
    [ float8 => 'NaN', float8 => "\x7f\xf8" . "\0" x 6 ],
    [ bool => '22P03', bool => "\1\1" ],
    [ bool => 't', bool => "\7" ],
    [ bool => '22P03', bool => '' ],
    [ uuid => '22P03', uuid => 'x' x 15 ],
    [ uuid => '22P03', uuid => 'x' x 1_000_000 ],
    [ timestamptz => '22008', timestamptz => "\x7f" . "\xff" x 6 . "\xfe" ],
    [ timestamptz => '22P03', timestamptz => "\0" x 4 ],
    [ timestamp => '22008', timestamp => "\x80" . "\0" x 6 . "\1" ],
    [ date => '22008', date => pack('N', 0x7ffffffe) ],
    [ date => '08P01|22P03', date => "\0\0" ],
    [ time => '22008', time => pack('q>', 86_400_000_001) ],
    [ time => '22008', time => pack('q>', -1) ],
    [ timetz => '22009|22008', timetz => pack('q> N', 0, 0x7fffffff) ],
    [ interval => '08P01', interval => "\0" x 12 ],
    [ interval => '22P03', interval => "\0" x 20 ],
    [ numeric => '22P03', numeric => pack('n*', 1, 0, 0, 0, 20000) ],
    [ numeric => '22P03', numeric => pack('n*', 1, 0, 0x1234, 0, 1) ],
    [ numeric => '22P03|22003', numeric => pack('n*', 1, 0, 0, 0xffff, 1) ],
    [ numeric => '08P01', numeric => pack('n*', 0xffff, 0, 0, 0) ],
    [ numeric => '08P01', numeric => pack('n*', 3, 0, 0, 0, 1) ],
    [ numeric => '22P03', numeric => pack('n*', 1, 0, 0, 0, 1, 1) ],
    [ numeric => '10+', numeric => pack('n*', 1, 0x7fff, 0, 0, 1) ],
    [ 'numeric(5,2)' => '22003', numeric => pack('n*', 1, 5, 0, 0, 1) ],
    [ jsonb => '22P03', jsonb => "\2{}" ],
    [ jsonb => '22P03', jsonb => '' ],
    [ jsonb => '22P02', jsonb => "\1{" ],
    [ jsonb => '22P02', jsonb => "\1" ],
    [ jsonb => '54001|22P02', jsonb => "\1" . '[' x 1_000_000 ],
    [ json => '22P02', json => '{"a"' ],
    [ 'int4[]' => '22P03|54000', 'int4[]' => pack('N*', 7, 0, 23, (1, 1) x 7) ],
    [ 'int4[]' => '22P03', 'int4[]' => pack('N*', 0xffffffff, 0, 23) ],
    [ 'int4[]' => '54000', 'int4[]' => pack('N*', 2, 0, 23, 0x7fffffff, 1, 0x7fffffff, 1) ],
    [ 'int4[]' => '08P01|54000', 'int4[]' => pack('N*', 1, 0, 23, 0x07ffffff, 1) ],
    [ 'int4[]' => '22P03|54000', 'int4[]' => pack('N*', 1, 0, 23, 0xffffffff, 1) ],
    [ 'int4[]' => '22P03', 'int4[]' => pack('N*', 1, 5, 23, 1, 1, 4, 1) ],
    [ 'int4[]' => '42804', 'int4[]' => pack('N*', 1, 0, 25, 1, 1, 4, 1) ],
    [ 'int4[]' => '22P03|08P01', 'int4[]' => pack('N*', 1, 0, 23, 1, 1, 1000, 1) ],
    [ 'int4[]' => '22P03|08P01', 'int4[]' => pack('N*', 1, 0, 23, 1, 1, 0xfffffff0, 1) ],
    [ 'int4[]' => '54000|22003|22P03', 'int4[]' => pack('N*', 1, 0, 23, 1, 0x7fffffff, 4, 1) ],
    [ 'int4[]' => '08P01', 'int4[]' => "\0\0" ],
    [ 'uuid[]' => '08P01|22P03', 'uuid[]' => pack('N*', 1, 0, 2950, 1, 1, 16, 1) ],
    [ inet => '22P03', inet => pack('C*', 77, 32, 0, 4, 1, 2, 3, 4) ],
    [ inet => '22P03', inet => pack('C*', 2, 200, 0, 4, 1, 2, 3, 4) ],
    [ inet => '22P03|08P01', inet => pack('C*', 2, 32, 0, 200, 1) ],
    [ cidr => '22P03', cidr => pack('C*', 2, 8, 1, 4, 1, 2, 3, 4) ],
    [ text => '22021', text => "a\0b" ],
    [ text => '22021', text => "\xff\xfe" ],
    [ text => '42', int4 => pack('N', 42) ],
    [ text => '08P01|22P03', int4 => 'x' ],
    [ varchar => '22021', varchar => "a\0" ],
    [ 'varchar(3)' => '22001', varchar => 'abcd' ],
    [ 'small' => '23514', int4 => pack('N', 1000) ],
    [ 'small' => '23502', int4 => undef ],
    [ bytea => '\\\\x00ff', bytea => "\0\xff" ],
);

sub binary_answer
{
    my (undef, undef, $type, $bytes) = @{ $lie[ $_[0] - 1 ] };
    my $value = defined $bytes ? pack('N/a*', $bytes) : pack('N', 0xffffffff);
    return typed_columns([ 'v', $oid{$type}, 1 ]) . message('D', pack('n', 1) . $value) . done('SELECT 1');
}

#
# COPY: the answer to the command, and the one to its end.
#
my $go = message('G', pack('C n n', 0, 1, 0));
my $no = message('E', "SERROR\0C22000\0Mno\0\0");
my $idle = message('Z', 'T');
my %copy = (
    copy_well => [ $go, done('COPY 1') . $idle ],
    copy_again => [ $go, $go ],
    copy_out_after => [ $go, message('H', pack('C n n', 0, 1, 0)) . message('d', 'x') x 1000 ],
    copy_refused_again => [ $go, $no . $go ],
    copy_refused_both => [ $go, $no . message('W', pack('C n n', 0, 1, 0)) ],
    copy_no_copy => [ $no . $go, '' ],
    copy_twice => [ $go, (done('COPY 1') x 2) . $idle ],
    copy_rows => [ $go, columns('v') . row('x') . done('SELECT 1') . $idle ],
    copy_endless => [ $go, done('COPY 1') ],
    copy_ready => [ $go, $idle x 3 ],
    copy_silence => [ $go, '' ],
    copy_early => [ $go . $no . $idle, '' ],
    copy_garbage => [ $go, join '', map { chr(37 * $_ % 256) } 1 .. 4000 ],
);

# A column of a table, for IMPORT FOREIGN SCHEMA, with NULL where the catalogs have none.
my @listed = (
    [ 't', 'v', 'text', 'f', undef, '', undef, undef ],
    [ undef, 'v', 'text', 'f', undef, '', undef, undef ],
    [ 't', 'v', undef, 'f', undef, '', undef, undef ],
    [ 't', 'v', 'text', undef, undef, '', undef, undef ],
    [ 't', 'v', 'text', 'f', undef, 's', 'x', undef ],
    [ 't', 'v', 'text) SERVER kessel_router; DROP TABLE app.tenants; CREATE FOREIGN TABLE x (y int', 'f', undef, '', undef, undef ],
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
    my ($socket, $number) = @_;
    my ($db, $mute, $asks, %sql) = ('', 0, 0);
    my $send = sub { my ($data) = @_; while (length $data) { my $n = syswrite($socket, $data) or exit 0; substr($data, 0, $n) = '' } return 1 };

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
    # Each connection to this database is to a server of another version.
    my $version = $db eq 'version' ? (qw(15.0 8.1 99devel 7), '')[ $number % 5 ] : '15.0';
    $send->(message('R', pack('N', 3)));
    read_bytes($socket, 1);
    read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
    $send->(message('R', pack('N', 0)) . join('', map { message('S', "$_\0") } "server_version\0$version", "client_encoding\0UTF8", "standard_conforming_strings\0on")
        . message('K', pack('NN', $$, 1)) . message('Z', 'I'));

    for (;;)
    {
        my $type = read_bytes($socket, 1);
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        exit 0 if $type eq 'X';
        if ($type eq 'P') { my ($name, $sql) = split /\0/, $body; $sql{$name} = $sql; $send->(message('1')) unless $mute }
        if ($type eq 'B') { my (undef, $name) = split /\0/, $body; $asks = $sql{$name} =~ /FROM public\.t(?:_(\d+))?/ ? $1 // 'yes' : $sql{$name} =~ /relispartition/ ? 'list' : $sql{$name} =~ /^SELECT 1 FROM pg_catalog.pg_namespace/ ? 'there'
              : $sql{$name} =~ /JOIN pg_catalog\.pg_attribute/ ? 'shape' : 0; $send->(message('2')) unless $mute }
        if ($type eq 'E' && $asks eq 'shape') { $send->(columns(1 .. 9) . row('v', 25, 'text', 't', 1, 'f', '', 'f', 't') . done('SELECT 1')); next }
        if ($type eq 'E' && $asks =~ /^(?:there|list)$/) { $send->($asks eq 'there' ? columns(1) . row(1) . done('SELECT 1') : columns(1 .. 8) . message('D', pack('n', 8) . join '', map { defined ? pack('N/a*', $_) : pack('N', 0xffffffff) } @{ $listed[ $db =~ /(\d)/ ? $1 : 0 ] }) . done('SELECT 1')); next }
        if ($type eq 'Q') { $send->($copy{$db}[0]); next }
        if ($type eq 'c') { $send->($copy{$db}[1]); $send->($copy{$db}[1] x 1000) while $db eq 'copy_endless'; next }
        if ($type eq 'E' && $asks && $db eq 'binary') { $send->(binary_answer($asks)); next }
        if ($type eq 'E' && $asks && !$mute)
        {
            $mute = 1;
            if ($db eq 'long_value') { $send->(columns('v') . 'D' . pack('N n N', 4 + 6 + 400_000_000, 1, 400_000_000)); $send->('x' x 1_000_000) for 1 .. 400 }
            if ($db eq 'notices') { $send->(message('N', "SNOTICE\0C00000\0Mx\0\0") x 100) for 1 .. 2000000 }
            if ($db eq 'rows') { $send->(columns('v')); $send->(row('x') x 1000) for 1 .. 2000000 }
            $send->($answer{$db}->());
        }
        elsif ($type eq 'E' && !$mute) { $send->(message('n') . done('COMMIT')) }
        exit 0 if $type eq 'S' && $mute && $db eq 'version' && $send->($ready);
        $send->($ready) if $type eq 'S' && (!$mute || $db !~ /silence|early_sync|huge|garbage/);
    }
}

my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "cannot listen: $!";
my $port = $listener->sockport;
my $server = fork // die;
if (!$server)
{
    $SIG{CHLD} = 'IGNORE';
    my $number = 0;
    while (my $socket = $listener->accept) { $number++; serve($socket, $number) unless fork }
    POSIX::_exit(0);
}
close $listener;
END { local $?; kill 'KILL', $server if $server }

my $k = KesselTest->new;
my $good = $k->data_cluster('good');
$k->crm_database($good, 'good');
$k->data_source($good);
$k->exec("SELECT kessel.create_tenant('good', data_source => 'good'); SELECT kessel.import_tables('good', 'public');"
      . "CREATE FOREIGN TABLE data.t (v text) SERVER kessel_router OPTIONS (schema_name '\@tenant')");

# Megabytes of a session's backend: VmHWM, its peak, or VmRSS.
sub memory
{
    my ($session, $field) = @_;
    my ($kb) = slurp_file('/proc/' . $session->pid . '/status') =~ /^$field:\s*(\d+) kB/m;
    return $kb / 1024;
}

my $started = $k->exec('SELECT pg_postmaster_start_time()');

foreach my $case (sort grep { $_ ne 'version' } keys %answer)
{
    (my $slug = $case) =~ tr/_/-/;
    $k->exec("SELECT kessel.create_data_source('$case', 'host=127.0.0.1 port=$port dbname=$case user=u password=p sslmode=disable');"
          . "SELECT kessel.create_tenant('$slug', data_source => '$case')");
    my $s = $k->session(tenant => $slug);
    my $start = time;
    my $before = memory($s, 'VmHWM');
    $s->run("BEGIN; SAVEPOINT a; SET LOCAL statement_timeout = '1500ms'");
    # A long value is not for psql to show, which takes its time.
    my $r = $s->run($case eq 'long_value' ? 'SELECT length(v || random()) FROM data.t' : 'SELECT v FROM data.t');
    my $took = time - $start;
    # libpq takes a length below zero for NULL, and a second description for the end.
    isnt($r->{state}, '', "$case: an error")
      if $case !~ /^(long_value|rows|two_ends|two_syncs|no_select|settings_garbage|notifications|null_length|second_description|no_column_later)$/;
    isnt($r->{state}, '08000', "$case: from a living server");
    $s->run('ROLLBACK TO a; COMMIT');
    cmp_ok(time - $start, '<', 15, "$case: in bounded time") or diag("$took s; state $r->{state}");
    ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', "$case: the session goes on");
    cmp_ok(memory($s, 'VmHWM') - $before, '<', 64, "$case: in bounded memory") if $case ne 'long_value';
    cmp_ok(memory($s, 'VmRSS') - $before, '<', 64, "$case: gives its memory back");
    $s->quit;
}

foreach my $case (sort keys %copy)
{
    (my $slug = $case) =~ tr/_/-/;
    $k->exec("SELECT kessel.create_data_source('$case', 'host=127.0.0.1 port=$port dbname=$case user=u password=p sslmode=disable');"
          . "SELECT kessel.create_tenant('$slug', data_source => '$case')");
    foreach my $timeout ('1500ms', '0')
    {
        next if $timeout eq '0' && $case =~ /^copy_(silence|endless|out_after|garbage|ready)$/;
        my $s = $k->session(tenant => $slug);
        my $start = time;
        $s->run("BEGIN; SAVEPOINT a; SET LOCAL statement_timeout = '$timeout'");
        my $r = $s->run("COPY data.t FROM PROGRAM 'echo x'");
        is($r->{state} ne '', $case ne 'copy_well', "$case: an error") or diag($r->{err});
        $s->run('ROLLBACK TO a; COMMIT');
        cmp_ok(time - $start, '<', 15, "$case: in bounded time") or diag("state $r->{state}");
        ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', "$case: the session goes on");
        cmp_ok(memory($s, 'VmHWM'), '<', 128, "$case: in bounded memory");
        $s->quit;
    }
}

#
# IMPORT FOREIGN SCHEMA
#
foreach my $i (0 .. $#listed)
{
    my $r = $k->run("CREATE SCHEMA listed; CREATE SERVER listed FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'listed$i', sslmode 'disable');"
          . "CREATE USER MAPPING FOR postgres SERVER listed OPTIONS (user 'u', password 'p'); IMPORT FOREIGN SCHEMA s FROM SERVER listed INTO listed");
    like($r->{state}, $i == 0 ? qr/^$/ : qr/^(?:HV000|HV005|42\w{3}|XX000)$/, "a list of tables with what cannot be ($i)") or diag($r->{err});
    $k->exec('DROP SERVER IF EXISTS listed CASCADE; DROP SCHEMA IF EXISTS listed');
}
is($k->exec("SELECT to_regclass('app.tenants')"), 'app.tenants', 'no other command comes with it');

#
# Binary values, in one session.
#
$k->exec("CREATE DOMAIN small AS integer NOT NULL CHECK (VALUE < 100);"
      . "SELECT kessel.create_data_source('binary', 'host=127.0.0.1 port=$port dbname=binary user=u password=p sslmode=disable');"
      . "SELECT kessel.create_tenant('binary', data_source => 'binary')");
my $s = $k->session(tenant => 'binary');
foreach my $i (1 .. @lie)
{
    my ($here, $expected, $there, $bytes) = @{ $lie[ $i - 1 ] };
    $k->exec("CREATE FOREIGN TABLE data.t_$i (v $here) SERVER kessel_router OPTIONS (schema_name '\@tenant')");
    foreach my $way ([ 'read', "SELECT v FROM data.t_$i" ], [ 'put aside', "BEGIN; DECLARE a CURSOR FOR SELECT v FROM data.t_$i; DECLARE b CURSOR FOR SELECT v FROM data.t_$i; MOVE 0 FROM a; FETCH b; FETCH a" ])
    {
        my ($how, $sql) = @$way;
        my $r = $s->run("SET statement_timeout = '10s'; $sql");
        my $got = $r->{state} || (split /\n/, $r->{out})[0] // '';
        my $bytes = defined $bytes ? length($bytes) . ' bytes' : 'NULL';
        ok($got =~ /^(?:$expected)$/, "$here of $bytes that are a bad $there, $how ($i)") or diag(substr("$r->{out} $r->{err}", 0, 500));
        $s->run('ROLLBACK');
    }
}
ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', 'binary values: the session goes on');

#
# A server that is another one each time.
#
$k->exec("SELECT kessel.create_data_source('version', 'host=127.0.0.1 port=$port dbname=version user=u password=p sslmode=disable');"
      . "SELECT kessel.create_tenant('version', data_source => 'version')");
foreach my $i (1 .. 6)
{
    my $r = $s->run("SET kessel.tenant = 'version'; SELECT v FROM data.t");
    like($r->{state} || $r->{out}, qr/^(?:x|08006)$/, "another version ($i)") or diag($r->{err});
}
ok_run($s->run("SET kessel.tenant = 'good'; SELECT count(*) FROM data.accounts"), '5', 'other versions: the session goes on');
$s->quit;

is($k->exec('SELECT pg_postmaster_start_time()'), $started, 'no backend has crashed');
kill 'KILL', $server;
undef $server;

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

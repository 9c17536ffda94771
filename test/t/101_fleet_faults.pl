# A fleet in which much is broken: each broken tenant costs one line, nobody
# waits for it longer than is said, and nothing runs on in a data source.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Socket::INET;
use IPC::Run ();
use KesselProxy;
use KesselTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $slow = $ENV{KR_SLOW} || 1;
# What is freed goes back at once, so that memory in use can be told from outside.
$ENV{MALLOC_MMAP_THRESHOLD_} = 131072;
my $k    = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\n");
my $one  = $k->data_cluster('one', conf => "restart_after_crash = on\n");
$k->data_exec($one, "CREATE TABLE accounts (id int PRIMARY KEY); INSERT INTO accounts SELECT generate_series(1, 5);"
      . "CREATE TABLE wide AS SELECT i AS id, repeat('x', 1000) AS filler FROM generate_series(1, 40000) i; GRANT ALL ON accounts, wide TO $one->{runtime}");
my $s = $k->session(user => 'admin');

# A tenant with a data source of its own, that leads to a port.
sub tenant
{
    my ($name, $port, %opt) = @_;
    my $host = $opt{host} || '127.0.0.1';
    my $password = $opt{password} || $one->{password};
    $k->exec("SELECT kessel.create_data_source('$name', 'postgresql://$one->{runtime}:$password\@$host:$port/$one->{db}?sslmode=disable', options => '@{[ $opt{options} || '{}' ]}');"
          . "SELECT kessel.create_tenant('$name', data_source => '$name')");
    return;
}

sub fleet
{
    my ($sql, $arguments) = @_;
    return $s->run("SELECT tenant, ok, \"row\", error ->> 'sqlstate' FROM kessel.fleet_query(\$kr\$$sql\$kr\$" . ($arguments ? ", $arguments" : '') . ') ORDER BY tenant COLLATE "C", ok DESC');
}

sub exec_all
{
    my ($sql, $arguments) = @_;
    return $s->run("SELECT tenant, ok, command, error ->> 'sqlstate' FROM kessel.fleet_exec(\$kr\$$sql\$kr\$" . ($arguments ? ", $arguments" : '') . ') ORDER BY tenant COLLATE "C"');
}

sub nothing_runs
{
    my ($what) = @_;
    ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state <> 'idle'"), "$what: nothing runs on there");
    return;
}

#
# Servers that are none.
#
sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length($body // '')) . ($body // '') }
sub columns { return message('T', pack('n', scalar @_) . join('', map { pack('Z* N n N n N n', $_, 0, 0, 25, 0xffff, 0xffffffff, 0) } @_)) }
sub row { return message('D', pack('n', scalar @_) . join('', map { pack('N/a*', $_) } @_)) }
sub done { return message('C', "$_[0]\0") }
my $ready = message('Z', 'T');
my %answer = (
    copyout => sub { message('H', pack('C n n', 0, 1, 0)) },
    copyin => sub { message('G', pack('C n n', 0, 1, 0)) },
    copyboth => sub { message('W', pack('C n n', 0, 1, 0)) },
    earlysync => sub { $ready x 3 },
    ragged => sub { columns('v') . row('{}', '{}') . done('SELECT 1') },
    nojson => sub { columns('v') . row('{"a": ') . done('SELECT 1') },
    twocolumns => sub { columns(qw(v w)) . row('{}', '{}') . done('SELECT 1') },
    deep => sub { columns('v') . row('[' x 1000000) . done('SELECT 1') },
    badencoding => sub { columns('v') . row("\"\xff\"") . done('SELECT 1') },
    badlength => sub { columns('v') . message('D', pack('n N', 1, 0x7ffffff0)) },
    huge => sub { columns('v') . 'D' . pack('N', 0x7fffffff) },
    baderror => sub { message('E', "SERROR\0C\xff\xff\xff\xff\xff\0M\xf0\x9f\xff\0D\xc3\0\0") },
    noerror => sub { message('E', "\0") },
    garbage => sub { join '', map { chr(37 * $_ % 256) } 1 .. 4000 },
    farewell => sub { message('E', "SFATAL\0VFATAL\0C57P01\0Mbye\0\0") },
    silence => sub { '' },
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
    my ($socket, $case) = @_;
    my ($mute, $asks) = (0, 0);
    my $send = sub { my ($data) = @_; while (length $data) { my $n = syswrite($socket, $data) or POSIX::_exit(0); substr($data, 0, $n) = '' } };

    for (;;)
    {
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        my $code = unpack('N', $body);
        if ($code == 80877103 || $code == 80877104) { $send->('N'); next }
        POSIX::_exit(0) if $code == 80877102;
        last;
    }
    $send->(message('R', pack('N', 3)));
    read_bytes($socket, 1);
    read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
    $send->(message('R', pack('N', 0)) . join('', map { message('S', "$_\0") } "server_version\00015.0", "client_encoding\0UTF8", "standard_conforming_strings\0on") . message('K', pack('NN', $$, 1)) . message('Z', 'I'));
    for (;;)
    {
        my $type = read_bytes($socket, 1);
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        POSIX::_exit(0) if $type eq 'X';
        next if $mute;
        if ($type eq 'P') { $asks = $body =~ /kessel row/; $send->(message('1')) }
        if ($type eq 'B') { $send->(message('2')) }
        if ($type eq 'E' && $asks) { $mute = 1; $send->($answer{$case}->()); $send->($ready) if $case !~ /silence|huge|garbage|earlysync/; POSIX::_exit(0) if $case eq 'farewell' }
        elsif ($type eq 'E') { $send->(message('n') . done('SELECT 0')) }
        $send->(message('Z', 'I')) if $type eq 'S';
    }
}

my @servers;
my %port;
foreach my $case (sort keys %answer)
{
    my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "cannot listen: $!";
    $port{$case} = $listener->sockport;
    my $server = fork // die;
    if (!$server)
    {
        $SIG{CHLD} = 'IGNORE';
        while (my $socket = $listener->accept) { serve($socket, $case) unless fork }
        POSIX::_exit(0);
    }
    push @servers, $server;
}
END { local $?; kill 'KILL', @servers if @servers; }

#
# A fleet: two that are well, and each fault once.
#
tenant("well-$_", $one->{port}) foreach 1, 2;
tenant($_, $port{$_}, options => '{"password_required": true}') foreach sort keys %answer;
tenant('password', $one->{port}, password => 'wrong');
tenant('suspended', $one->{port});
tenant('disabled', $one->{port});
tenant('nologin', $one->{port});
tenant('expired', $one->{port});
tenant('down', PostgreSQL::Test::Cluster::get_free_port());
tenant('nowhere', 5432, host => 'no-such-host.invalid');
my $cut = KesselProxy->new($one->{port});
tenant('cut', $cut->port);
my $stalled = KesselProxy->new($one->{port});
tenant('stalled', $stalled->port);
my $mute = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1') or die;
tenant('mute', $mute->sockport);
# A listener whose queue is full answers no SYN.
my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die;
my @callers = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Timeout => 0.2) } 1 .. 4;
tenant('blackhole', $full->sockport);
$k->data_exec($one, "CREATE ROLE limited LOGIN PASSWORD 'x' CONNECTION LIMIT 0");
tenant('crowded', $one->{port});
$k->exec("SELECT kessel.set_credential('crowded', 'limited', 'x'); SELECT kessel.suspend_tenant('suspended'); SELECT kessel.alter_data_source('disabled', status => 'disabled');"
      . "SELECT kessel.drop_credential('nologin', 'runtime');"
      . "SELECT vault.update_secret(c.secret_id, new_expires_at => '2020-01-01') FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = 'expired' AND c.purpose = 'runtime'");

my %state = (
    (map { ($_ => '08P01') } qw(copyboth earlysync twocolumns)), copyout => '0A000', copyin => '0A000', ragged => '08006|08P01', nojson => '22P02',
    deep => '54001|22P02', badencoding => '22021', badlength => '08006|08P01', huge => '57014|08006', baderror => '08006', noerror => '08006', garbage => '08006|57014', farewell => '57P01|08006', silence => '57014',
    password => '28P01', suspended => 'KR003', disabled => 'KR005', nologin => 'KR005', expired => 'KR012', down => '08001', nowhere => '08001', cut => '08006', stalled => '57014', mute => '08001', blackhole => '08001', crowded => '53300');
$state{copyboth} = '0A000|08P01|08006';

$k->exec("ALTER ROLE admin SET kessel.connect_timeout = '2s'");
$s->quit;
$s = $k->session(user => 'admin');
$cut->cut(100_000, 'reset');
$stalled->cut(200_000, 'hang');
foreach my $parallel (64, 4)
{
    my $start = time;
    my $names = join ',', sort 'well-1', 'well-2', keys %state;
    my $r = $s->run("SELECT tenant, ok, count(*), min(length(\"row\" ->> 'filler')), min(error ->> 'sqlstate'), min(error::text) FROM kessel.fleet_query(\$\$SELECT * FROM wide\$\$, '{$names}', $parallel, '4s') GROUP BY 1, 2");
    my $took = time - $start;
    my %line = map { my @f = split /\|/, $_, 6; ("$f[0] $f[1]" => \@f) } split /\n/, $r->{out};
    is($r->{state}, '', "$parallel at once: no error of all") or diag($r->{err});
    is($line{"$_ t"}[2], 40000, "$_ has all its rows") foreach qw(well-1 well-2);
    foreach my $name (sort keys %state)
    {
        my $line = $line{"$name f"};
        ok($line && $line->[2] == 1 && $line->[4] =~ /^(?:$state{$name})$/, "$name: one line, $state{$name}") or diag($line ? "@$line" : 'none');
    }
    cmp_ok($line{'cut t'}[2], '>', 10, 'rows that came before it was cut are there');
    unlike($r->{out} . $r->{err}, qr/@{[ PASSWORD_MARK ]}/, 'no password anywhere');
    cmp_ok($took, '<', ($parallel == 64 ? 15 : 40) * $slow, "in bounded time") or diag("$took s");
    # Behind a cable that was pulled a server waits for its client.
    $stalled->drop;
    nothing_runs("$parallel at once");
}
is($k->run("SELECT count(*) FROM kessel.fleet_query('SELECT 1', '{expired,password,cut}') WHERE error::text ~ '127.0.0.1'", user => 'service')->{out}, '0', 'where it leads is for administrators');
$_->stop foreach $cut, $stalled;

# The vault is sealed: everybody has the error, and it is no error of the call.
{
    my $key = $k->exec('SELECT setting FROM pg_settings WHERE name = \'kessel.root_key_file\'');
    $k->exec("ALTER SYSTEM SET kessel.root_key_file = '/nowhere/at/all'; SELECT pg_reload_conf()");
    ok($k->node->poll_query_until('infra', "SELECT sealed FROM vault.status()"), 'the vault is sealed');
    $s->quit;
    $s = $k->session(user => 'admin');
    is(fleet('SELECT 1', "'{well-1,well-2}'")->{out}, "well-1|f||KR010\nwell-2|f||KR010", 'a sealed vault');
    $k->exec("ALTER SYSTEM RESET kessel.root_key_file; SELECT pg_reload_conf()");
    ok($k->node->poll_query_until('infra', "SELECT NOT sealed FROM vault.status()"), 'and open again');
    $s->quit;
    $s = $k->session(user => 'admin');
    $s->run("SET application_name = 'fleet test'");
}

#
# Time
#
my $slow_query = 'SELECT count(*) FROM wide a, wide b WHERE a.filler || b.id < b.filler || a.id';
foreach my $case (
    [ 'timeout', "'{well-1,well-2}', timeout => '500 ms'", '57014' ],
    [ 'deadline', "'{well-1,well-2}', timeout => NULL, deadline => '500 ms'", '57014' ],
    [ 'deadline, one at a time', "'{well-1,well-2}', 1, deadline => '500 ms'", '57014' ])
{
    my ($name, $arguments, $state) = @$case;
    my $start = time;
    is(fleet($slow_query, $arguments)->{out}, "well-1|f||$state\nwell-2|f||$state", "$name: a line each");
    cmp_ok(time - $start, '<', 5 * $slow, "$name: in time");
    nothing_runs($name);
    is(exec_all("INSERT INTO accounts SELECT 100 FROM ($slow_query) x", $arguments)->{out}, "well-1|f||$state\nwell-2|f||$state", "$name: writing");
    nothing_runs("$name, writing");
}
foreach my $case ([ 'statement_timeout', sub { } ], [ 'pg_cancel_backend', sub { $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')') } ])
{
    my ($name, $cancel) = @$case;
    $s->run($name eq 'statement_timeout' ? "SET statement_timeout = '700ms'" : 'SET statement_timeout = 0');
    my $start = time;
    $s->start("SELECT count(*) FROM kessel.fleet_query(\$\$$slow_query\$\$, '{well-1,well-2,mute,silence,blackhole}')");
    $one->{node}->poll_query_until('postgres', "SELECT count(*) >= 2 FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state = 'active'") if $name ne 'statement_timeout';
    $cancel->();
    like_error($s->finish, '57014', qr/canceling statement/, "$name ends it");
    cmp_ok(time - $start, '<', 6 * $slow, "$name: in time");
    nothing_runs($name);
    $s->run('RESET statement_timeout');
    is(fleet('SELECT 1 AS a', "'{well-1}'")->{out}, 'well-1|t|{"a": 1}|', "$name: the session goes on");
}
# caught: what is around it goes on
ok_run($s->run("SET statement_timeout = 0; DO \$do\$ BEGIN BEGIN PERFORM * FROM kessel.fleet_rows('SELECT 1/0 FROM pg_class', '{well-1,well-2}') AS t(t text, i int); EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught'; END; "
      . "PERFORM * FROM kessel.fleet_rows('SELECT 1', '{well-1,well-2}') AS t(t text, i int); END \$do\$"), '', 'an error that is caught');
nothing_runs('caught');
# the backend ends
{
    my $victim = $k->session(user => 'admin');
    $victim->start("SELECT count(*) FROM kessel.fleet_query(\$\$$slow_query\$\$, '{well-1,well-2}')");
    $one->{node}->poll_query_until('postgres', "SELECT count(*) >= 2 FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state = 'active'");
    $k->exec('SELECT pg_terminate_backend(' . $victim->pid . ')');
    $victim->finish;
    nothing_runs('terminated');
}

#
# The data source is killed in mid-result.
#
{
    $s->run('SELECT kessel.disconnect()');
    my $log = -s $one->{node}->logfile;
    $s->run("BEGIN; DECLARE c CURSOR FOR SELECT kessel.fleet_query('SELECT a.id, a.filler FROM wide a, wide b', '{well-1}')");
    like($s->run('FETCH 1 FROM c')->{out}, qr/^\(well-1,t/, 'rows come');
    my $pid = $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state = 'active'");
    kill 'KILL', $pid;
    $one->{node}->wait_for_log(qr/database system is ready to accept connections/, $log);
    my $r = $s->run('MOVE FORWARD 1000000000 FROM c; CLOSE c; COMMIT');
    is($r->{state}, '', 'kill -9 in mid-result is an error of the tenant') or diag($r->{err});
    is(fleet('SELECT 1 AS a', "'{well-1,well-2}'")->{out}, "well-1|t|{\"a\": 1}|\nwell-2|t|{\"a\": 1}|", 'and is over');
    $log = -s $one->{node}->logfile;
    kill 'KILL', $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' LIMIT 1");
    $one->{node}->wait_for_log(qr/database system is ready to accept connections/, $log);
    is(fleet('SELECT 1 AS a', "'{well-1,well-2}'")->{out}, "well-1|t|{\"a\": 1}|\nwell-2|t|{\"a\": 1}|", 'killed while idle: nobody notices');
}

#
# The answer to COMMIT
#
foreach my $case ([ 'deafen', '08007', 1 ], [ 'lose', '08007', 0 ], [ 'hang', '08007', undef ])
{
    my ($how, $state, $there) = @$case;
    my $proxy = KesselProxy->new($one->{port});
    tenant("commit-$how", $proxy->port);
    $k->data_exec($one, 'DELETE FROM accounts WHERE id >= 100');
    $proxy->on('P:COMMIT', $how);
    is(exec_all('INSERT INTO accounts VALUES (100)', "'{commit-$how}', timeout => '3s'")->{out}, "commit-$how|f||$state", "$how: the outcome is unknown");
    is($k->data_exec($one, 'SELECT count(*) FROM accounts WHERE id = 100'), $there, "$how: it is as it is") if defined $there;
    $proxy->stop;
}
foreach my $how (qw(deafen lose))
{
    my $proxy = KesselProxy->new($one->{port});
    tenant("insert-$how", $proxy->port);
    $k->data_exec($one, 'DELETE FROM accounts WHERE id >= 100');
    $proxy->on('INSERT INTO', $how);
    is(exec_all('INSERT INTO accounts VALUES (100)', "'{insert-$how}', timeout => '3s'")->{out}, "insert-$how|f||08006", "$how before COMMIT: an error");
    nothing_runs("$how before COMMIT");
    is($k->data_exec($one, 'SELECT count(*) FROM accounts WHERE id = 100'), 0, "$how before COMMIT: and nothing was changed");
    $proxy->stop;
}
$s->run("SET statement_timeout = '2s'");
{
    my $proxy = KesselProxy->new($one->{port});
    tenant('unsure', $proxy->port);
    $k->data_exec($one, 'DELETE FROM accounts WHERE id >= 100');
    my $log = -s $k->node->logfile;
    $proxy->on('P:COMMIT', 'hang');
    like_error(exec_all('INSERT INTO accounts VALUES (101 + (random() * 1e6)::int)', "'{unsure,well-1}'"), '57014', qr/canceling/, 'cancelled while it commits');
    ok($k->node->wait_for_log(qr/a statement for a fleet was cut off: 1 tenants had committed, and of 1 it is unknown/, $log), 'the log tells');
    $proxy->stop;
}
$s->run('RESET statement_timeout');

#
# Memory: rows of 20 MB, of eight at once.
#
sub peak { my ($kb) = slurp_file('/proc/' . $_[0]->pid . '/status') =~ /^VmHWM:\s*(\d+) kB/m; return $kb / 1024 }
tenant("big-$_", $one->{port}) foreach 1 .. 8;
{
    my $fresh = $k->session(user => 'admin');
    my $sql = "SELECT sum(length(\"row\" ->> 'v')) FROM kessel.fleet_query(\$\$SELECT repeat('x', %d) AS v\$\$, '{%s}', 8)";
    $fresh->run(sprintf $sql, 20_000_000, 'big-1');
    my $before = peak($fresh);
    ok_run($fresh->run(sprintf $sql, 20_000_000, join ',', map { "big-$_" } 1 .. 8), 8 * 20_000_000, 'eight rows of 20 MB at once');
    cmp_ok(peak($fresh) - $before, '<', 30, 'are not in memory at the same time') or diag(peak($fresh) - $before);
    $fresh->run("SELECT count(*) FROM (SELECT kessel.fleet_query('SELECT * FROM wide', '{big-1}')) x");
    $before = peak($fresh);
    ok_run($fresh->run("SELECT count(*) FROM (SELECT kessel.fleet_query('SELECT * FROM wide', ARRAY(SELECT 'big-' || i FROM generate_series(1, 8) i))) x"), 320_000, '320 MB of rows');
    cmp_ok(peak($fresh) - $before, '<', 16, 'stream through') or diag(peak($fresh) - $before);
    $fresh->quit;
}

#
# Few connections to a host, few files in the session
#
{
    $k->exec('ALTER ROLE admin SET kessel.fleet_connections_per_host = 2; ALTER ROLE admin SET kessel.max_idle_connections = 0');
    my $fresh = $k->session(user => 'admin');
    $fresh->start("SELECT count(*) FROM kessel.fleet_query('SELECT count(*) FROM wide a, generate_series(1, 40) WHERE a.filler <> ''''', ARRAY(SELECT 'big-' || i FROM generate_series(1, 8) i))");
    my $most = 0;
    until ($fresh->{out} =~ /kr-end/)
    {
        my $n = $k->data_exec($one, "SELECT count(*) FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state = 'active' AND backend_type = 'client backend' AND query ~ 'generate_series'");
        $most = $n if $n > $most;
        $fresh->{run}->pump_nb;
    }
    ok_run($fresh->finish, 8, 'all eight');
    is($most, 2, 'two at a time');
    $fresh->quit;
    $k->exec('ALTER ROLE admin RESET kessel.fleet_connections_per_host; ALTER ROLE admin RESET kessel.max_idle_connections');
}

#
# Behind PgBouncer, in transaction mode, with one connection for all.
#
{
    my $dir = PostgreSQL::Test::Utils::tempdir_short();
    my $pool_port = PostgreSQL::Test::Cluster::get_free_port();
    local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
    my $version = '';
  SKIP: {
        skip 'no pgbouncer here', 2 unless eval { IPC::Run::run([ 'pgbouncer', '--version' ], '>', \$version, '2>', \my $no) };
        append_to_file("$dir/users", "\"$one->{runtime}\" \"$one->{password}\"\n");
        append_to_file("$dir/ini", "[databases]\n$one->{db} = host=127.0.0.1 port=$one->{port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = $pool_port\nunix_socket_dir =\n"
              . "auth_type = scram-sha-256\nauth_file = $dir/users\nlogfile = $dir/log\npool_mode = transaction\ndefault_pool_size = 1\n");
        my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
        tenant("pool-$_", $pool_port, options => '{"pooler": "transaction"}') foreach 1 .. 4;
        my $names = join ',', map { "pool-$_" } 1 .. 4;
        my $deadline = time + 30 * $slow;
        my $r;
        do { $r = fleet("SELECT count(*) AS n, current_setting('datestyle') ~ 'ISO' AS d FROM accounts WHERE id < 6", "'{$names}'") } until $r->{out} !~ /08001/ || time > $deadline;
        is($r->{out}, join("\n", map { "pool-$_|t|{\"d\": true, \"n\": 5}|" } 1 .. 4), 'behind PgBouncer');
        is(exec_all('UPDATE accounts SET id = id WHERE id < 3', "'{$names}'")->{out}, join("\n", map { "pool-$_|t|UPDATE|" } 1 .. 4), 'writing, too');
        $bouncer->kill_kill;
    }
}

#
# Very many tenants of one source, of which three hang.
#
{
    my $n = 3000;
    my $shared = $k->data_cluster('shared');
    $k->data_source($shared, isolation => 'row');
    $k->crm_row($shared, ['t-1']);
    $k->exec("SELECT kessel.create_tenant('t-1', data_source => 'shared', tenant_id_in_data_source => 't-1');"
          . "INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 't-' || i, 't', s.id, 'row', 't-' || i FROM generate_series(2, $n) i, app.data_sources s WHERE s.name = 'shared'");
    $k->data_exec($shared, "INSERT INTO kessel_agent.tenants SELECT 't-' || i, (SELECT epoch FROM kessel_agent.tenants WHERE tenant_id = 't-1') FROM generate_series(2, $n) i");
    my $fresh = $k->session(user => 'admin');
    my $sql = "SELECT count(*), count(*) FILTER (WHERE ok), sum((\"row\" ->> 'n')::int) FROM kessel.fleet_query('SELECT count(*) AS n FROM accounts', ARRAY(SELECT 't-' || i FROM generate_series(1, %d) i) || '%s'::text[], timeout => '3s')";
    $fresh->run(sprintf $sql, 100, '{}');
    my $before = peak($fresh);
    my $start = time;
    ok_run($fresh->run(sprintf $sql, $n, '{mute,silence,blackhole}'), ($n + 3) . "|$n|5", "$n tenants and three that hang");
    my $took = time - $start;
    cmp_ok($took, '<', 30 * $slow, 'which hold up nobody');
    ok_run($fresh->run("SELECT count(*), count(*) FILTER (WHERE ok) FROM kessel.fleet_query('SELECT 1', (SELECT array_agg(slug) || array_agg(id::text) || '{well-1}' FROM app.tenants WHERE slug ~ '^t-'))"),
        ($n + 1) . '|' . ($n + 1), 'and so do those who are named a second time');
    diag(sprintf '%d tenants: %.1f s, %.1f MB', $n, $took, peak($fresh) - $before);
    $fresh->quit;
}

is($k->node->safe_psql('infra', 'SELECT count(*) FROM pg_stat_activity WHERE false'), '0', 'no backend has crashed');
unlike(slurp_file($k->node->logfile), qr/was terminated by signal|TRAP:|@{[ PASSWORD_MARK ]}/, 'nor does the log tell of a crash or a password');
done_testing();

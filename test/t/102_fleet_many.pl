# Ten thousand tenants: three that hang and a whole host that is dead hold up
# nobody, memory does not grow with their number, and a call can be cancelled.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Socket::INET;
use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $slow = $ENV{KR_SLOW} || 1;
my $many = 10_000;
# What is freed goes back at once, so that memory in use can be told from outside.
$ENV{MALLOC_MMAP_THRESHOLD_} = 131072;
my $k    = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\n");
my @live = map { $k->data_cluster("live_$_") } 0, 1;

# A data source that leads to a port, for tenants with a schema each.
sub source
{
    my ($name, $port) = @_;
    my $d = $live[0];
    $k->exec("SELECT kessel.create_data_source('$name', 'postgresql://$d->{runtime}:$d->{password}\@127.0.0.1:$port/$d->{db}?sslmode=disable', isolation => 'schema')");
    return;
}

# Tenants PREFIX-1 ... PREFIX-N, of schemas s_1 ... s_n.
sub tenants
{
    my ($prefix, $n, $source) = @_;
    $k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)"
          . "SELECT '$prefix-' || i, 'T', s.id, 'schema', 's_' || i FROM generate_series(1, $n) i, app.data_sources s WHERE s.name = '$source'");
    return;
}

# Of FUNCTION's lines: how many, how many that are well and right, and how many ms until the last of these.
sub tally
{
    my ($tenants, $arguments) = @_;
    return "SELECT count(*), count(*) FILTER (WHERE (q).ok AND (q).\"row\" ->> 's' = 's_' || split_part((q).tenant, '-', 2)),"
      . "round(extract(epoch FROM max(at) FILTER (WHERE (q).ok) - statement_timestamp()) * 1000) "
      . "FROM (SELECT kessel.fleet_query('SELECT current_schema() AS s', $tenants, $arguments) AS q, clock_timestamp() AS at OFFSET 0) x";
}

sub names { my ($prefix, $n) = @_; return "ARRAY(SELECT '$prefix-' || i FROM generate_series(1, $n) i)" }
sub peak { my ($kb) = slurp_file('/proc/' . $_[0]->pid . '/status') =~ /^VmHWM:\s*(\d+) kB/m; return $kb / 1024 }

sub nothing_runs
{
    my ($what) = @_;
    ok($_->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'live_0_runtime' AND state <> 'idle'"), "$what: nothing runs on there") foreach @live;
    return;
}

# What hangs: a host that is not there, one that says nothing, one that stops in mid-answer.
my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die;
my @callers = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Timeout => 0.2) } 1 .. 4;
my $mute = IO::Socket::INET->new(Listen => 1000, LocalAddr => '127.0.0.1', Blocking => 0) or die;
my $stops = KesselProxy->new($live[0]{port});
$stops->on('kessel row', 'hang');

# How many have called who says nothing.
my @heard;
sub calls { while (my $socket = $mute->accept) { push @heard, $socket } my $n = @heard; @heard = (); return $n }

#
# Ten thousand tenants on two hosts
#
my $begun = time;
foreach my $d (@live)
{
    # One role for both: the tenants' sources differ in their port alone.
    $k->data_exec($d, "CREATE ROLE live_0_runtime LOGIN PASSWORD '$live[0]{password}'") if $d != $live[0];
    $k->data_exec($d, "DO \$do\$ BEGIN FOR i IN 1 .. $many LOOP EXECUTE format('CREATE SCHEMA s_%s; GRANT USAGE ON SCHEMA s_%s TO live_0_runtime', i, i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END \$do\$");
}
source("live_$_", $live[$_]{port}) foreach 0, 1;
source('blackhole', $full->sockport);
source('mute', $mute->sockport);
source('stops', $stops->port);
$k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)"
      . "SELECT 't-' || i, 'T', s.id, 'schema', 's_' || i FROM generate_series(1, $many) i JOIN app.data_sources s ON s.name = 'live_' || i % 2");
tenants($_, $_ eq 'mute' ? 3000 : 1, $_) foreach qw(blackhole mute stops);
$k->exec("VACUUM ANALYZE app.tenants; ALTER ROLE admin SET kessel.connect_timeout = '2s'");
diag(sprintf '%d tenants made in %.1f s', $many, time - $begun);

{
    my $s = $k->session(user => 'admin');
    my ($start, $r, $before);
    my $three = "'{blackhole-1,mute-1,stops-1}'::text[]";

    $s->run(tally(names('t', 100), '16'));
    $s->run(tally(names('t', 1000), '16'));
    $before = peak($s);
    $start  = time;
    $r = $s->run(tally("$three || " . names('t', $many), "16, timeout => '10 s'"));
    my $took = time - $start;
    is($r->{state}, '', 'no error of all') or diag($r->{err});
    my ($lines, $well, $ms) = split /\|/, $r->{out};
    is("$lines|$well", $many + 3 . "|$many", "$many tenants and three that hang: a line each, and all the others well");
    cmp_ok($took, '<', 60 * $slow, 'in time') or diag("$took s");
    cmp_ok($took * 1000 - $ms, '>', 5000, 'those that hang are waited for last') if $ms < 4_000;
    my $more = peak($s) - $before;
    cmp_ok($more, '<', 8, 'memory does not grow from 1,000 to 10,000') or diag("$more MB");
    diag(sprintf '%d tenants: %.1f s until the last one that is well, %.1f MB more than with 1,000', $many, $ms / 1000, $more);

    $stops->drop;
    $stops->on('kessel row', 'hang');
    $start = time;
    $r = $s->run("SELECT tenant, error ->> 'sqlstate' FROM kessel.fleet_query('SELECT current_schema() AS s', $three || " . names('t', 200) . ", timeout => '3 s') WHERE NOT ok ORDER BY tenant COLLATE \"C\"");
    is($r->{out}, "blackhole-1|08001\nmute-1|08001\nstops-1|57014", 'the three');
    cmp_ok(time - $start, '<', 8 * $slow, 'end at their times');
    $stops->drop;

    #
    # Cancelled in the middle
    #
    foreach my $case ([ 'reading', 'fleet_query', 'SELECT count(*) FROM pg_class a, pg_class b WHERE a.oid <> 0 AND b.relname > a.relname' ], [ 'short ones', 'fleet_query', 'SELECT 1' ])
    {
        my ($name, $function, $sql) = @$case;
        my $client = $k->session(user => 'admin', db => 'infra');
        $client->start("DO \$do\$ DECLARE r record; BEGIN FOR r IN SELECT kessel.$function('$sql', $three || " . names('t', $many) . ") LOOP PERFORM set_config('application_name', 'has begun', false); END LOOP; END \$do\$");
        ok($k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'has begun' AND pid = " . $client->pid), "$name: lines come");
        $start = time;
        $k->exec('SELECT pg_cancel_backend(' . $client->pid . ')');
        like_error($client->finish, '57014', qr/canceling statement/, "$name: cancelled");
        cmp_ok(time - $start, '<', 3 * $slow, "$name: within 3 s");
        nothing_runs($name);
        $client->quit;
    }
    $s->quit;
}

#
# A dead host of 3,000 tenants, between 1,000 that are well
#
{
    my $s = $k->session(user => 'admin');
    my $mixed = "ARRAY(SELECT n FROM (SELECT 'mute-' || i AS n, i FROM generate_series(1, 3000) i UNION ALL SELECT 't-' || i, i * 3 FROM generate_series(1, 1000) i) x ORDER BY i, n)";
    my ($start, $r);

    calls();
    foreach my $parallel (16, 1, 64)
    {
        my $name = "a dead host, $parallel at once";
        $start = time;
        $r = $s->run(tally($mixed, $parallel));
        is($r->{out} =~ /^(\d+\|\d+)/ && $1, '4000|1000', "$name: a line each");
        # Two attempts, and one every five seconds.
        cmp_ok(time - $start, '<', 20 * $slow, "$name: in time") or diag($r->{out});
        my $calls = calls();
        cmp_ok($calls, '>=', 2, "$name: it was tried");
        cmp_ok($calls, '<=', 2 + 4 * $slow, "$name: and not by everybody") or diag($calls);
        diag("$name: $r->{out}, $calls attempts");
    }
    $r = $s->run("SELECT error ->> 'message', error ->> 'detail', error ->> 'hint', count(*) > 2000 FROM kessel.fleet_query('SELECT 1', " . names('mute', 3000) . ") GROUP BY 1, 2, 3 HAVING count(*) > 1 OR error ->> 'detail' ~ 'tried' LIMIT 1");
    like($r->{out}, qr/could not connect to data source "mute"\|It was not tried: on its host, the last 2 attempts of this call to connect had no answer in time\.\|kessel\.test_data_source\('mute'\) shows .*\|t/, 'who was not tried is told so');
    $s->quit;
}

#
# A host that answers again while the call is at work
#
{
    my $s = $k->session(user => 'admin');
    my $sleeps = KesselProxy->new($live[0]{port});
    my $far = KesselProxy->new($live[0]{port});
    foreach ([ 'far', 50, $far->port ], [ 'sleeps', 30, $sleeps->port ])
    {
        my ($name, $n, $port) = @$_;
        $k->exec("SELECT kessel.create_data_source('${name}_' || i, 'postgresql://$live[0]{runtime}:$live[0]{password}\@127.0.0.1:$port/$live[0]{db}?sslmode=disable'),"
              . "kessel.create_tenant('$name-' || i, data_source => '${name}_' || i) FROM generate_series(1, $n) i");
    }
    $sleeps->stall;
    # Each of the others takes four round trips.
    $far->delay(200);
    $s->start("DO \$do\$ DECLARE r record; well int := 0; ill int := 0; BEGIN FOR r IN SELECT (q).tenant, (q).ok, (q).error ->> 'detail' AS detail FROM (SELECT kessel.fleet_query('SELECT 1', "
          . "ARRAY(SELECT n FROM (SELECT 'sleeps-' || i AS n, i * 2 AS i FROM generate_series(1, 30) i UNION ALL SELECT 'far-' || i, i FROM generate_series(1, 50) i) x ORDER BY i, n), 4) AS q OFFSET 0) x "
          . "LOOP IF r.tenant ~ 'sleeps' THEN IF r.ok THEN well := well + 1; ELSE ill := ill + 1; END IF; "
          . "IF r.detail ~ 'not tried' THEN PERFORM set_config('application_name', 'has given up', false); END IF; END IF; END LOOP; RAISE EXCEPTION '% well, % ill', well, ill; END \$do\$");
    ok($k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'has given up' AND pid = " . $s->pid), 'a host that is asleep');
    $sleeps->resume;
    my $r = $s->finish;
    my ($well, $ill) = $r->{message} =~ /^(\d+) well, (\d+) ill/;
    cmp_ok($well, '>', 0, 'is found again when it answers') or diag($r->{err});
    cmp_ok($ill, '>', 2, 'after some were refused');
    is($well + $ill, 30, 'a line each');
    $_->stop foreach $sleeps, $far;
    $s->quit;
}

$stops->stop;
unlike(slurp_file($k->node->logfile), qr/was terminated by signal|TRAP:|@{[ PASSWORD_MARK ]}/, 'the log tells of no crash, nor a password');
done_testing();

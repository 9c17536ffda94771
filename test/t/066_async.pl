# An Append that waits for several servers at once: what happens when one of
# them is slow, is killed, or the statement is cancelled while both are awaited.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $k   = KesselTest->new;
my $one = $k->data_cluster('one', conf => "restart_after_crash = on\n");
my $two = $k->data_cluster('two');
foreach my $d ($one, $two)
{
    $k->crm_database($d, $d->{name}, rows => 5000);
    # More than fits into any socket's buffers, and a row for which one waits.
    $k->data_exec($d, "CREATE TABLE wide AS SELECT i AS id, repeat('x', 800) AS filler FROM generate_series(1, 40000) i;
        CREATE TABLE gate (id int); INSERT INTO gate VALUES (1);
        GRANT SELECT, UPDATE ON wide, gate TO $d->{runtime};
        CREATE FUNCTION waits() RETURNS int LANGUAGE sql VOLATILE SECURITY DEFINER AS 'SELECT id FROM public.gate FOR UPDATE';
        CREATE VIEW gated AS SELECT waits() AS id; GRANT SELECT ON gated TO $d->{runtime}");
    $k->data_source($d);
    $k->exec("SELECT kessel.install_agent('$d->{name}'); SELECT kessel.create_tenant('$d->{name}', data_source => '$d->{name}')");
    $k->exec("CREATE SERVER $d->{name} FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant '$d->{name}', async_capable 'true')");
    $k->exec("CREATE FOREIGN TABLE public.${_}_$d->{name} (id int) SERVER $d->{name} OPTIONS (schema_name '\@tenant', table_name '$_')")
        foreach qw(wide gated);
    $k->exec("ALTER FOREIGN TABLE public.wide_$d->{name} ADD filler text");
}

sub all_of { my ($table) = @_; return "SELECT * FROM public.${table}_one UNION ALL SELECT * FROM public.${table}_two"; }

sub wait_for_remote
{
    my ($d, $condition, $wanted) = @_;
    return $d->{node}->poll_query_until('postgres',
        "SELECT count(*) = $wanted FROM pg_stat_activity WHERE usename = '$d->{runtime}' AND $condition");
}

my $s    = $k->session;
my $wide = 'SELECT count(*), sum(length(filler)) FROM (' . all_of('wide') . ' OFFSET 0) w';
my $plan = $s->run("EXPLAIN $wide");
like($plan->{out}, qr/Async Foreign Scan on wide_one.*Async Foreign Scan on wide_two/s, 'both scans are asynchronous');

sub all_well
{
    my ($what) = @_;
    ok_run($s->run($wide), '80000|64000000', "$what: all rows of both");
    ok(wait_for_remote($_, "state <> 'idle'", 0), "$what: nothing is left open on $_->{name}") foreach ($one, $two);
    return;
}

all_well('at first');
ok_run($s->run('SELECT count(*) FROM (SELECT id FROM (' . all_of('wide') . ') w LIMIT 1000) l'), '1000', 'stopping early');
all_well('after stopping early');

# One is held up: rows of the other come.
my $holder = KesselTest::Session->new([ KesselTest::_psql_command($one->{node}, db => $one->{db}) ], '');

sub hold { $holder->run($_) foreach ('BEGIN', 'SELECT id FROM gate FOR UPDATE'); return; }

hold();
$s->run('BEGIN');
$s->run('DECLARE c CURSOR FOR ' . all_of('gated'));
ok_run($s->run('FETCH 1 FROM c'), '1', 'the row of the one that is not held up comes first');
wait_for_remote($one, "wait_event_type = 'Lock'", 1);
$s->start('FETCH 1 FROM c');
$holder->run('COMMIT');
ok_run($s->finish, '1', 'the other when it may');
ok_run($s->run('FETCH 1 FROM c'), '', 'and that was all');
$s->run('COMMIT');

# cancelled while both are awaited
foreach my $case (
    [ "SET statement_timeout = '300ms'", 'statement_timeout', sub { } ],
    [ 'SELECT 1', 'pg_cancel_backend', sub { $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')') } ])
{
    my ($before, $what, $cancel) = @$case;
    my $start = time;

    hold();
    $s->run($before);
    $s->start('SELECT count(*) FROM (' . all_of('gated') . ' OFFSET 0) g');
    wait_for_remote($one, "wait_event_type = 'Lock'", 1);
    $cancel->();
    like_error($s->finish, '57014', qr/canceling statement/, "$what: the statement ends");
    cmp_ok(time - $start, '<', 20, "$what: in time");
    $s->run('RESET statement_timeout');
    ok(wait_for_remote($one, "wait_event_type = 'Lock'", 0), "$what: the remote query has ended, too");
    $holder->run('COMMIT');
    all_well($what);
}

# killed while the other streams
hold();
$s->start('SELECT count(*) FROM (SELECT id FROM public.gated_one UNION ALL SELECT id FROM public.wide_two OFFSET 0) g');
wait_for_remote($one, "wait_event_type = 'Lock'", 1);
my $pid    = $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND wait_event_type = 'Lock'");
my $offset = -s $one->{node}->logfile;
kill 'KILL', $pid;
like_error($s->finish, '08006', qr/lost/, 'killed while it is awaited');
$one->{node}->wait_for_log(qr/database system is ready to accept connections/, $offset);
all_well('killed while it is awaited');

# an error of one ends the other's query
like_error($s->run('SELECT count(*) FROM (' . all_of('wide') . ' OFFSET 0) w WHERE 1 / (id - 30000) IS NULL'), '22012', qr/division by zero/, 'an error here while rows stream');
all_well('an error here');

done_testing();

# Many rows at once, and what can happen to them: the data source is killed or
# stops, the statement is cancelled, a row in the middle is refused; memory does
# not grow with the number of rows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $k   = KesselTest->new;
my $one = $k->data_cluster('one', conf => "restart_after_crash = on\nmax_wal_size = 2GB\n");
my $two = $k->data_cluster('two');
$k->crm_database($one, 'one');
$k->crm_database($two, 'two');
$k->data_source($_) && $k->exec("SELECT kessel.create_tenant('$_->{name}', data_source => '$_->{name}')") foreach $one, $two;
$k->data_exec($one, "CREATE TABLE many (id integer PRIMARY KEY, note text); GRANT ALL ON many TO $one->{runtime}");
$k->exec("SELECT * FROM kessel.import_tables('one', 'public')");

my $s     = $k->session(tenant => 'one');
my $other = $k->session(tenant => 'two');
my $file  = PostgreSQL::Test::Utils::tempdir() . '/rows';
$k->exec("COPY (SELECT i, repeat('x', 100) FROM generate_series(1, 200000) i) TO '$file'");

my %way = (
    copy   => "COPY data.many FROM '$file'",
    insert => "INSERT INTO data.many SELECT i, repeat('x', 100) FROM generate_series(1, 200000) i");

sub remote
{
    my ($condition) = @_;
    return $k->data_exec($one, "SELECT count(*) FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND $condition");
}

sub wait_for_remote
{
    my ($condition, $wanted) = @_;
    return $one->{node}->poll_query_until('postgres',
        "SELECT count(*) = $wanted FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND $condition");
}

sub all_well
{
    my ($what, $rows) = @_;
    ok_run($s->run('SELECT count(*) FROM data.many'),         $rows, "$what: the session works, and rows are as they were");
    ok_run($other->run('SELECT count(*) FROM data.accounts'), '5',   "$what: so does another tenant's");
    ok(wait_for_remote("state <> 'idle'", 0), "$what: nothing is left open there");
    return;
}

# A row on which the data source waits, so that it can be caught in the middle.
$k->data_exec($one, <<'SQL');
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.id = 50000 THEN PERFORM pg_advisory_xact_lock(1); END IF;
    RETURN new;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON many FOR EACH ROW EXECUTE FUNCTION hold();
SQL
my $lock = $k->session(url => sprintf("host='%s' port=%d dbname=%s user=postgres", $one->{node}->host, $one->{port}, $one->{db}));

foreach my $what (sort keys %way)
{
    # a row in the middle is refused, and named
    $k->data_exec($one, 'ALTER TABLE many ADD CONSTRAINT no_77777 CHECK (id <> 77777)');
    my $r = $s->run($way{$what});
    like_error($r, '23514', qr/violates check constraint "no_77777"/, "$what: a row is refused", detail => qr/contains \(77777, /);
    $k->data_exec($one, 'ALTER TABLE many DROP CONSTRAINT no_77777');
    all_well("$what with a row refused", 0);

    # ... in a savepoint
    $s->run("BEGIN; INSERT INTO data.many VALUES (60000, 'first'); SAVEPOINT a");
    like_error($s->run($way{$what}), '23505', qr/duplicate key/, "$what: refused in a savepoint", detail => qr/\(id\)=\(60000\)/);
    $s->run('ROLLBACK TO a');
    ok_run($s->run('SELECT note FROM data.many'), 'first', "$what: the outer transaction goes on");
    $s->run('ROLLBACK');
    all_well("$what refused in a savepoint", 0);

    # cancelled while the data source waits; by the user and by a timeout
    foreach my $case ([ 'SELECT 1', sub { wait_for_remote("wait_event_type = 'Lock'", 1); $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')') } ],
        [ "SET statement_timeout = '1s'", sub { } ])
    {
        my ($before, $cancel) = @$case;
        $lock->run('SELECT pg_advisory_lock(1)');
        $s->run($before);
        $s->start($way{$what});
        $cancel->();
        my $start = time;
        like_error($s->finish, '57014', qr/canceling statement/, "$what: cancelled ($before)");
        cmp_ok(time - $start, '<', 10, "$what: in time");
        $lock->run('SELECT pg_advisory_unlock(1)');
        $s->run('RESET statement_timeout');
        all_well("$what cancelled", 0);
    }

    # ... in a savepoint: the connection is kept, and so is what was done before
    $lock->run('SELECT pg_advisory_lock(1)');
    $s->run("BEGIN; INSERT INTO data.many VALUES (0, 'kept'); SAVEPOINT a");
    $s->start($way{$what});
    wait_for_remote("wait_event_type = 'Lock'", 1);
    $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
    like_error($s->finish, '57014', qr/canceling statement/, "$what: cancelled in a savepoint");
    $s->run('ROLLBACK TO a');
    ok_run($s->run('SELECT note FROM data.many'), 'kept', "$what: the outer transaction has its row");
    $s->run('ROLLBACK');
    $lock->run('SELECT pg_advisory_unlock(1)');
    all_well("$what cancelled in a savepoint", 0);

    # terminated, and killed
    foreach my $signal (qw(TERM KILL))
    {
        $lock->run('SELECT pg_advisory_lock(1)');
        $s->start($way{$what});
        wait_for_remote("wait_event_type = 'Lock'", 1);
        my $offset = -s $one->{node}->logfile;
        kill $signal, $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND wait_event_type = 'Lock'");
        my $failed = $s->finish;
        like($failed->{state}, qr/^(57P01|57P02|08006)$/, "$what: SIG$signal for the data source's backend is an error") or diag($failed->{err});
        if ($signal eq 'KILL')
        {
            $one->{node}->wait_for_log(qr/database system is ready to accept connections/, $offset);
            $lock = $k->session(url => sprintf("host='%s' port=%d dbname=%s user=postgres", $one->{node}->host, $one->{port}, $one->{db}));
        }
        else { $lock->run('SELECT pg_advisory_unlock(1)'); }
        all_well("$what after SIG$signal", 0);
    }

    # the data source's backend stops: the time limit holds, its connection is given up
    my $offset = -s $one->{node}->logfile;
    $lock->run('SELECT pg_advisory_lock(1)');
    $s->run("SET statement_timeout = '4s'");
    $s->start($way{$what});
    wait_for_remote("wait_event_type = 'Lock'", 1);
    my $pid = $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND wait_event_type = 'Lock'");
    kill 'STOP', $pid;
    my $start = time;
    like_error($s->finish, '57014', qr/canceling statement/, "$what: a stopped backend there does not stop us");
    cmp_ok(time - $start, '<', 10, "$what: in time");
    kill 'CONT', $pid;
    $s->run('RESET statement_timeout');
    $lock->run('SELECT pg_advisory_unlock(1)');
    all_well("$what after SIGSTOP", 0);

    # nothing was in the way: all rows
    ok_run($s->run("$way{$what}"), '', "$what: all rows");
    all_well("$what in the end", 200000);
    $s->run('TRUNCATE data.many');
}
$lock->quit;
$k->data_exec($one, 'DROP TRIGGER hold ON many');

# a million rows: memory stays
sub peak_kb
{
    my ($pid) = @_;
    my ($peak) = slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;
    my ($shared) = slurp_file("/proc/$pid/status") =~ /^RssShmem:\s+(\d+) kB/m;
    return $peak - $shared;
}

SKIP:
{
    skip 'no /proc', 8 unless -r "/proc/$$/status";
    $k->exec("COPY (SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i) TO '$file'");
    foreach my $sql ("INSERT INTO data.many SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i", "COPY data.many FROM '$file'")
    {
        my $fresh = $k->session(tenant => 'one');
        $fresh->run('SELECT count(*) FROM data.many');
        my $before = peak_kb($fresh->pid);
        ok_run($fresh->run($sql), '', "a million rows: $sql");
        cmp_ok(peak_kb($fresh->pid) - $before, '<', 64 * 1024, 'memory does not grow with them');
        ok_run($fresh->run('SELECT count(*), max(id) FROM data.many'), '1000000|1000000', 'all are there');
        $fresh->run('TRUNCATE data.many');
        $fresh->quit;
    }

    # wide rows of which a full batch would be a gigabyte
    my $fresh = $k->session(tenant => 'one');
    $fresh->run('SELECT count(*) FROM data.many');
    my $before = peak_kb($fresh->pid);
    ok_run($fresh->run("INSERT INTO data.many SELECT i, repeat('x', 200000) FROM generate_series(1, 3000) i"), '', 'wide rows');
    cmp_ok(peak_kb($fresh->pid) - $before, '<', 100 * 1024, 'memory does not grow with them');
    $fresh->quit;
}

done_testing();

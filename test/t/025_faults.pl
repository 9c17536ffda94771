# What happens when a data source fails under a session: killed, restarted,
# stopped, cancelled. Each time the error says so in bounded time, and the
# session and other tenants go on working.
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
$k->crm_database($one, 'one', rows => 5000);
$k->crm_database($two, 'two');
foreach my $d ($one, $two)
{
    $k->data_source($d);
    $k->exec("SELECT kessel.install_agent('$d->{name}'); SELECT kessel.create_tenant('$d->{name}', data_source => '$d->{name}')");
}
# More than fits into any socket's buffers.
$k->data_exec($one, "CREATE TABLE wide AS SELECT i AS id, repeat('x', 800) AS filler FROM generate_series(1, 60000) i; GRANT SELECT ON wide TO $one->{runtime}");
$k->exec("SELECT * FROM kessel.import_tables('one', 'public')");

my $s     = $k->session(tenant => 'one');
my $other = $k->session(tenant => 'two');
my $count = 'SELECT count(*) FROM data.accounts';
my $slow  = 'SELECT count(*) FROM data.accounts a, data.accounts b, data.accounts c WHERE a.balance + b.balance + c.balance < 0';

# Backends of the runtime role in a data cluster, by what they do.
sub remote
{
    my ($d, $condition) = @_;
    return $k->data_exec($d, "SELECT count(*) FROM pg_stat_activity WHERE usename = '$d->{runtime}' AND $condition");
}

sub wait_for_remote
{
    my ($d, $condition, $wanted) = @_;
    return $d->{node}->poll_query_until('postgres',
        "SELECT count(*) = $wanted FROM pg_stat_activity WHERE usename = '$d->{runtime}' AND $condition");
}

# Kills a backend of a cluster with -9; returns when all its others were restarted.
sub kill_backend
{
    my ($node, $pid) = @_;
    my $offset = -s $node->logfile;
    kill 'KILL', $pid;
    $node->wait_for_log(qr/database system is ready to accept connections/, $offset);
    return;
}

sub all_well
{
    my ($what) = @_;
    ok_run($s->run($count),     '5000', "$what: the session works");
    ok_run($other->run($count), '5',    "$what: so does another tenant's");
    ok(wait_for_remote($one, "state <> 'idle'", 0), "$what: nothing is left open there");
    is($k->data_exec($one, "SELECT count(*) FROM pg_locks WHERE pid IN (SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}')"), '0', "$what: nor locked");
    return;
}

all_well('at first');
is(remote($one, 'true'), '1', 'one connection for one session');
$s->run($count) for 1 .. 5;
is(remote($one, 'true'), '1', 'and it is kept');

# cancelled
foreach my $case (
    [ "SET statement_timeout = '300ms'", 'statement_timeout', sub { } ],
    [ 'SELECT 1', 'pg_cancel_backend', sub { $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')') } ])
{
    my ($before, $what, $cancel) = @$case;
    $s->run($before);
    my $start = time;
    $s->start($slow);
    wait_for_remote($one, "state = 'active'", 1);
    $cancel->();
    like_error($s->finish, '57014', qr/canceling statement/, "$what: the statement ends");
    cmp_ok(time - $start, '<', 20, "$what: in time");
    ok(wait_for_remote($one, "state = 'active'", 0), "$what: the remote query has ended too");
    $s->run('RESET statement_timeout');
    all_well($what);
}

# cancelled in a savepoint: the outer transaction goes on
$s->run('BEGIN');
$s->run("INSERT INTO data.accounts (id, name) VALUES (6000, 'kept')");
$s->run('SAVEPOINT a');
$s->run("SET LOCAL statement_timeout = '300ms'");
like_error($s->run($slow), '57014', qr/canceling/, 'cancelled in a savepoint');
$s->run('ROLLBACK TO a');
ok_run($s->run('SELECT name FROM data.accounts WHERE id = 6000'), 'kept', 'the outer transaction has its row');
$s->run('COMMIT');
ok_run($s->run('DELETE FROM data.accounts WHERE id = 6000 RETURNING name'), 'kept', 'and commits');
all_well('cancelled in a savepoint');

# the connection ends between transactions
$k->data_exec($one, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
wait_for_remote($one, 'true', 0);
all_well('terminated while idle');
$one->{node}->restart;
all_well('restarted while idle');

# ... within a transaction
$s->run('BEGIN');
$s->run("UPDATE data.accounts SET name = 'changed' WHERE id = 1");
$k->data_exec($one, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
wait_for_remote($one, 'true', 0);
my $r = $s->run($count);
like($r->{state}, qr/^(57P01|08006)$/, 'terminated in a transaction: the next statement fails') or diag($r->{err});
$s->run('ROLLBACK');
all_well('terminated in a transaction');
ok_run($s->run('SELECT name FROM data.accounts WHERE id = 1'), 'one account 1', 'nothing of it was written');

# ... and the local commit comes next: it must not succeed
$s->run('BEGIN');
$s->run("UPDATE data.accounts SET name = 'changed' WHERE id = 1");
$k->data_exec($one, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
wait_for_remote($one, 'true', 0);
$r = $s->run('COMMIT');
like($r->{state}, qr/^(57P01|08006|08007)$/, 'terminated before the commit: the commit fails') or diag($r->{err});
all_well('terminated before the commit');
ok_run($s->run('SELECT name FROM data.accounts WHERE id = 1'), 'one account 1', 'nothing of it was written');

# the remote commit does not answer, and the waiting is cancelled: nobody knows
$k->data_exec($one, <<"SQL");
CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_lock();
SQL
my $lock = $k->session(url => sprintf("host='%s' port=%d dbname=%s user=postgres", $one->{node}->host, $one->{port}, $one->{db}));
$lock->run('SELECT pg_advisory_lock(1)');
$s->run('BEGIN; UPDATE data.accounts SET name = name WHERE id = 1');
$s->start('COMMIT');
wait_for_remote($one, "wait_event_type = 'Lock'", 1);
$k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
like_error($s->finish, '08007', qr/has not answered the commit/, 'cancelled while committing: the outcome is unknown', hint => qr/Look at the data/);
$lock->run('SELECT pg_advisory_unlock(1)');
$lock->quit;
$k->data_exec($one, 'DROP TRIGGER late ON accounts');
all_well('cancelled while committing');

# killed with -9: while idle, with a write unanswered, with a commit unanswered
sub victim { my ($condition) = @_; return $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND $condition") }
kill_backend($one->{node}, victim('true'));
all_well('killed while idle');

my $owner = sub { return $k->session(url => sprintf("host='%s' port=%d dbname=%s user=postgres", $one->{node}->host, $one->{port}, $one->{db})) };
$lock = $owner->();
$lock->run('BEGIN; SELECT FROM accounts WHERE id = 1 FOR UPDATE');
$s->start("UPDATE data.accounts SET name = 'changed' WHERE id = 1");
wait_for_remote($one, "wait_event_type = 'Lock'", 1);
kill_backend($one->{node}, victim("state = 'active'"));
$r = $s->finish;
like($r->{state}, qr/^(57P02|08006)$/, 'killed with a write unanswered: it fails') or diag($r->{err});
$lock->quit;
all_well('killed with a write unanswered');
ok_run($s->run('SELECT name FROM data.accounts WHERE id = 1'), 'one account 1', 'nothing of it was written');

$k->data_exec($one, 'CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_lock()');
$lock = $owner->();
$lock->run('SELECT pg_advisory_lock(1)');
$s->run("BEGIN; UPDATE data.accounts SET name = 'changed' WHERE id = 1");
$s->start('COMMIT');
wait_for_remote($one, "wait_event_type = 'Lock'", 1);
kill_backend($one->{node}, victim("state = 'active'"));
like_error($s->finish, '08007', qr/has not answered the commit/, 'killed with a commit unanswered: the outcome is unknown', hint => qr/Look at the data/);
$lock->quit;
$k->data_exec($one, 'DROP TRIGGER late ON accounts');
all_well('killed with a commit unanswered');

# restarted in the middle of a transaction, the hard way
$s->run("BEGIN; UPDATE data.accounts SET name = 'changed' WHERE id = 1");
$one->{node}->stop('immediate');
like($s->run($count)->{state}, qr/^(57P0[12]|08006)$/, 'restarted in a transaction: the next statement fails');
like_error($s->run("ROLLBACK; $count"), '08001', qr/could not connect to data source "one"/, 'stopped: no connection');
ok_run($other->run($count), '5', 'stopped: another tenant does not notice');
$one->{node}->start;
all_well('restarted in a transaction');

# no more connections there
my $first = $k->session(tenant => 'one');
$first->run($count);
$k->data_exec($one, "ALTER ROLE $one->{runtime} CONNECTION LIMIT 2");
my $second = $k->session(tenant => 'one');
like_error($second->run($count), '53300', qr/could not connect to data source "one"/, 'too many connections', hint => qr/test_data_source/);
ok_run($s->run($count), '5000', 'too many connections: those that are open work');
$k->data_exec($one, "ALTER ROLE $one->{runtime} CONNECTION LIMIT -1");
ok_run($second->run($count), '5000', 'too many connections: until there is room');
$_->quit foreach $first, $second;
wait_for_remote($one, 'true', 1);
all_well('too many connections');

#
# The remote schema changes under a cached statement. Outside a block it is
# prepared anew, unseen; in a block the remote transaction is lost with it.
#
my $cached = 'SELECT city FROM data.accounts WHERE id = 1';
my $write = "UPDATE data.accounts SET city = 'Rome' WHERE id = 1 RETURNING city";
my $anew = 'ALTER TABLE contacts DROP CONSTRAINT IF EXISTS contacts_account_id_fkey; CREATE TABLE copy (LIKE accounts INCLUDING ALL); INSERT INTO copy SELECT * FROM accounts;'
  . "DROP TABLE accounts; ALTER TABLE copy RENAME TO accounts; GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO $one->{runtime}";
foreach my $change (
    [ 'a column changes its type', [ 'ALTER TABLE accounts ALTER city TYPE varchar(40)', 'ALTER TABLE accounts ALTER city TYPE text' ] ],
    [ 'a column is added', [ 'ALTER TABLE accounts ADD more integer', 'ALTER TABLE accounts ADD even_more integer' ] ],
    [ 'a column is dropped', [ 'ALTER TABLE accounts DROP more', 'ALTER TABLE accounts DROP even_more' ] ],
    [ 'the table is made anew', [ ($anew) x 2 ] ])
{
    my ($what, $ddl) = @$change;
    foreach my $statement ([ 'a read', $cached ], [ 'a write', $write ])
    {
        my ($kind, $sql) = @$statement;
        my $before = $s->run($sql)->{out};
        $s->run($sql);
        $k->data_exec($one, "SET ROLE $one->{owner}; $ddl->[ $kind eq 'a read' ? 0 : 1 ]");
        ok_run($s->run($sql), $before, "$what: $kind goes on");
        ok_run($s->run("BEGIN; $sql; $sql; COMMIT"), "$before\n$before", "$what: $kind in a block, too");
    }
    all_well($what);
}

# Memory runs out in the middle of a value: for the wire, or for its conversion.
$k->data_exec($one, "CREATE TABLE large AS SELECT i AS id, repeat('x', 100000000) AS filler FROM generate_series(1, 1) i;"
      . "GRANT SELECT ON large TO $one->{runtime}");
$k->exec("SELECT * FROM kessel.import_tables('one', 'public', 'data', '{large}')");
$s->run($count);
my ($size) = slurp_file('/proc/' . $s->pid . '/status') =~ /^VmSize:\s*(\d+) kB/m;
foreach my $more (20, 150, 250, 350)
{
    IPC::Run::run([ 'prlimit', '--pid', $s->pid, '--as=' . 1024 * ($size + 1024 * $more) . ':unlimited' ]) or die 'prlimit';
    $r = $s->run('SELECT length(x.filler) FROM (SELECT * FROM data.large OFFSET 0) x');
    like($r->{state} || $r->{out}, qr/^(?:53200|08006|100000000)$/, "$more MB left: the large value does not come, or it does") or diag(substr($r->{err}, 0, 500));
    IPC::Run::run([ 'prlimit', '--pid', $s->pid, '--as=unlimited:unlimited' ]) or die 'prlimit';
    all_well("$more MB left");
}

# killed while it works
$s->start($slow);
wait_for_remote($one, "state = 'active'", 1);
kill_backend($one->{node}, $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND state = 'active'"));
$r = $s->finish;
like($r->{state}, qr/^(57P02|08006)$/, 'killed while it works: the statement fails') or diag($r->{err});
all_well('killed while it works');

# killed while rows stream
$s->run('BEGIN');
$s->run('DECLARE c CURSOR FOR SELECT * FROM data.wide');
ok_run($s->run('MOVE 10 FROM c; SELECT 1'), '1', 'rows stream');
kill_backend($one->{node}, $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}'"));
$r = $s->run('MOVE FORWARD ALL FROM c');
like($r->{state}, qr/^(57P02|08006)$/, 'killed while rows stream: the statement fails') or diag($r->{err});
$s->run('ROLLBACK');
all_well('killed while rows stream');

# stopped: it does not even answer a cancel; the session is free again in bounded time
my ($pid) = $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
my $postmaster = (split /\n/, slurp_file($one->{node}->data_dir . '/postmaster.pid'))[0];
$s->run("SET statement_timeout = '500ms'");
kill 'STOP', $pid, $postmaster;
my $start = time;
like_error($s->run($count), '57014', qr/statement timeout/, 'stopped: the statement ends');
cmp_ok(time - $start, '<', 20, 'stopped: in bounded time');
$s->run('RESET statement_timeout; SET kessel.connect_timeout = 1');
$start = time;
like_error($s->run($count), '08001', qr/could not connect to data source "one"/, 'stopped: no new connection either', hint => qr/test_data_source/);
cmp_ok(time - $start, '<', 10, 'stopped: in the time of kessel.connect_timeout');
ok_run($other->run($count), '5', 'stopped: another tenant does not notice');
kill 'CONT', $postmaster, $pid;
$s->run('RESET kessel.connect_timeout');
all_well('stopped and continued');

# the session ends in the middle of a query: the remote query ends too
my $gone = $k->session(tenant => 'one');
$gone->start($slow);
wait_for_remote($one, "state = 'active'", 1);
$k->exec('SELECT pg_terminate_backend(' . $gone->pid . ')');
ok(wait_for_remote($one, "state = 'active'", 0), 'pg_terminate_backend: the remote query has ended');
ok(wait_for_remote($one, 'true', 1), 'pg_terminate_backend: its connection is closed');
all_well('pg_terminate_backend');

# ... and when it has no time to say so
$gone = $k->session(tenant => 'one');
$gone->start($slow);
wait_for_remote($one, "state = 'active' AND query LIKE '%JOIN%'", 1);
$k->node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$k->node->reload;
kill_backend($k->node, $gone->pid);
ok(wait_for_remote($one, "state = 'active'", 0), 'kill -9 of the session: the remote query has ended');
$s     = $k->session(tenant => 'one');
$other = $k->session(tenant => 'two');
all_well('kill -9 of the session');

# another password: connections made with the old one are not used any more
$k->data_exec($one, "ALTER ROLE $one->{runtime} PASSWORD 'another'");
$k->exec("SELECT kessel.set_credential('one', '$one->{runtime}', 'another')");
my ($old) = $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
all_well('another password');
isnt($k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}'"), $old, 'another password: another connection');
$k->exec("SELECT kessel.set_credential('one', '$one->{runtime}', 'wrong')");
like_error($s->run($count), '28P01', qr/could not connect/, 'a wrong password', hint => qr/set_credential/);
ok_run($other->run($count), '5', 'a wrong password: of that source only');

# one transaction that uses many sources: afterwards only so many stay open
$k->exec("SELECT kessel.create_data_source('many-' || i, '" . $k->url($two) . "'), kessel.create_tenant('many-' || i, data_source => 'many-' || i) FROM generate_series(1, 40) i");
$other->quit;
$other = $k->session;
my $reads = join '', map { "SET LOCAL kessel.tenant = 'many-$_'; SELECT count(*) FROM data.accounts;" } 1 .. 40;
ok_run($other->run("BEGIN; $reads COMMIT"), join("\n", ('5') x 40), 'forty sources in one transaction');
ok(wait_for_remote($two, 'true', 32), 'the session keeps 32 connections');

done_testing();

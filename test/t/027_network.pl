# What happens when the network between the infra server and a data source
# fails, or a statement is cancelled, at any point of its life. Each time the
# error says so in bounded time, the session and other tenants go on working,
# and nothing is left open there.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $k   = KesselTest->new;
my $one = $k->data_cluster('one');
my $two = $k->data_cluster('two');
my $p   = KesselProxy->new($one->{port});
my $near = { %$one, port => $p->port };
$k->crm_database($one, 'one');
$k->crm_database($two, 'two');
$k->data_source($near);
$k->data_source($two);
$k->exec("SELECT kessel.install_agent('$_'); SELECT kessel.create_tenant('$_', data_source => '$_')") foreach qw(one two);
# More than fits into any socket's buffers, and rows of many packets.
$k->data_exec($one, "CREATE TABLE wide AS SELECT i AS id, repeat('x', 800) AS filler FROM generate_series(1, 60000) i;"
      . "CREATE TABLE long AS SELECT i AS id, repeat('y', 1000000) AS filler FROM generate_series(1, 20) i;"
      . "GRANT SELECT ON wide, long TO $one->{runtime}");
$k->exec("SELECT * FROM kessel.import_tables('one', 'public')");

my $s     = $k->session(tenant => 'one');
my $other = $k->session(tenant => 'two');
my $count = 'SELECT count(*) FROM data.accounts';
my $soon  = 400 * ($ENV{KR_SLOW} || 1);
my $write = "UPDATE data.accounts SET name = 'changed' WHERE id = 1";

sub wait_for_remote
{
    my ($condition, $wanted) = @_;
    return $one->{node}->poll_query_until('postgres',
        "SELECT count(*) = $wanted FROM pg_stat_activity WHERE usename = '$one->{runtime}' AND $condition");
}

sub cancel { $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')'); return }

# The infra backend waits for a data source, or for its cancellation.
sub wait_for_infra
{
    return $k->node->poll_query_until('infra', 'SELECT state = \'active\' AND wait_event_type = \'Extension\' FROM pg_stat_activity WHERE pid = ' . $s->pid);
}

sub all_well
{
    my ($what) = @_;
    $p->cut;
    $p->on;
    $p->drop;
    $p->resume;
    ok_run($s->run($count),     '5', "$what: the session works");
    ok_run($other->run($count), '5', "$what: so does another tenant's");
    ok(wait_for_remote("state <> 'idle'", 0), "$what: nothing is left open there");
    is($k->data_exec($one, "SELECT count(*) FROM pg_locks WHERE pid IN (SELECT pid FROM pg_stat_activity WHERE usename = '$one->{runtime}')"), '0', "$what: nor locked");
    return;
}

# An error of a connection that was lost, and not later than it should.
sub fails
{
    my ($what, $states, $sql) = @_;
    my $start = time;
    my $r = $s->run($sql);
    like($r->{state}, qr/^(?:$states)$/, "$what: the statement fails") or diag("$r->{state} $r->{out} $r->{err}");
    cmp_ok(time - $start, '<', 15, "$what: in bounded time");
    return $r;
}

sub name_is { my ($wanted, $what) = @_; is($k->data_exec($one, 'SELECT name FROM accounts WHERE id = 1'), $wanted, $what); return }

all_well('at first');

#
# The network is cut in the middle of a row: one of many, or a long one.
#
foreach my $case ([ 'a row of many', 'wide', 1_000_400, qw(reset close hang) ], [ 'a long row', 'long', 1_500_000, 'reset' ], [ 'the first message', 'wide', 2, qw(close hang) ])
{
    my ($what, $table, $bytes, @how) = @$case;
    foreach my $how (@how)
    {
        my $name = "cut in $what ($how)";
        $s->run("SET statement_timeout = '${soon}ms'") if $how eq 'hang';
        $p->reset;
        $p->cut($bytes, $how);
        my $r = fails($name, $how eq 'hang' ? '57014' : '08006', "SELECT count(filler) FROM (SELECT * FROM data.$table OFFSET 0) x");
        is($p->hits, 1, "$name: it was cut");
        $s->run('RESET statement_timeout');
        all_well($name);
    }
}

# ... within a transaction that has written: the transaction is lost
$s->run("BEGIN; $write");
$p->cut(1000, 'reset');
fails('cut after a write', '08006', 'SELECT * FROM data.wide');
like_error($s->run($count), '25P02', qr/aborted/, 'cut after a write: the transaction is over');
$s->run('ROLLBACK');
all_well('cut after a write');
name_is('one account 1', 'cut after a write: nothing of it was written');

# ... and in a savepoint: no new connection takes the place of one that has written
$s->run("BEGIN; $write; SAVEPOINT a");
$p->cut(1000, 'reset');
fails('cut in a savepoint', '08006', 'SELECT * FROM data.wide');
$s->run('ROLLBACK TO a');
$p->cut;
fails('cut in a savepoint, again', '08006', $count);
$s->run('ROLLBACK');
all_well('cut in a savepoint');
name_is('one account 1', 'cut in a savepoint: nothing of it was written');

#
# The commit: lost on the way, lost on the way back, or silence.
#
foreach my $case ([ lose => 'one account 1' ], [ deafen => 'changed' ], [ hang => 'changed' ])
{
    my ($action, $result) = @$case;
    my $name = "commit ($action)";
    $p->reset;
    $p->on(':COMMIT', $action);
    $s->start($write);
    # No timeout ends a commit: PostgreSQL switches statement_timeout off for it.
    if ($action eq 'hang') { 1 until $p->hits; wait_for_infra(); cancel() }
    my $start = time;
    like_error($s->finish, '08007', qr/data source "one" has not answered the commit/, "$name: the outcome is unknown", hint => qr/Look at the data/);
    cmp_ok(time - $start, '<', 15, "$name: in bounded time");
    is($p->hits, 1, "$name: it was the commit");
    all_well($name);
    name_is($result, "$name: what became of it");
    $k->data_exec($one, "UPDATE accounts SET name = 'one account 1' WHERE id = 1");

    # With other sources read in the same transaction: they do not mind.
    $p->on(':COMMIT', $action eq 'hang' ? 'lose' : $action);
    like_error($s->run("BEGIN; SET LOCAL kessel.tenant = 'two'; $count; SET LOCAL kessel.tenant = 'one'; $write; COMMIT"), '08007', qr/has not answered/, "$name: with another source");
    $s->run('ROLLBACK');
    all_well("$name: with another source");
    $k->data_exec($one, "UPDATE accounts SET name = 'one account 1' WHERE id = 1");
}

# A write that nobody answers has not been committed.
foreach my $action (qw(lose deafen))
{
    $p->reset;
    $p->on('UPDATE', $action);
    fails("write ($action)", '08006', $write);
    is($p->hits, 1, "write ($action): it was the write");
    all_well("write ($action)");
    name_is('one account 1', "write ($action): nothing was written");
}

# The end of a transaction that only read is nobody's concern.
$p->on(':COMMIT', 'lose');
ok_run($s->run("BEGIN ISOLATION LEVEL REPEATABLE READ; $count; COMMIT"), '5', 'the end of a reading transaction is lost: no error');
all_well('the end of a reading transaction');

# The start: lost, or unanswered, with a connection that was idle.
foreach my $action (qw(lose deafen))
{
    $p->on('accounts', $action);
    fails("start ($action)", '08006', $count);
    all_well("start ($action)");
}

# A connection that ended while it was idle is replaced, unseen.
foreach my $how (qw(reset close))
{
    $p->cut(0, $how);
    $k->data_exec($one, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '$one->{runtime}'");
    wait_for_remote('true', 0);
    $p->cut;
    all_well("ended while idle ($how)");
}

# COPY: when it starts, and when its end is not answered.
my $file = PostgreSQL::Test::Utils::tempdir('rows') . '/rows';
my $copy = "COPY data.accounts (id, name) FROM '$file'";
$k->exec("COPY (SELECT 1000 + i, repeat('z', 2000) FROM generate_series(1, 20000) i) TO '$file'");
foreach my $action (qw(lose deafen))
{
    $p->reset;
    $p->on('FROM STDIN', $action);
    fails("COPY ($action)", '08006', $copy);
    is($p->hits, 1, "COPY ($action): it was the COPY");
    all_well("COPY ($action)");
    is($k->data_exec($one, 'SELECT count(*) FROM accounts'), '5', "COPY ($action): nothing was written");
}

#
# Cancelled, by somebody else and by the clock, in every phase.
#
foreach my $by ('pg_cancel_backend', 'statement_timeout')
{
    # run what cancels; returns the answer
    my $try = sub {
        my ($what, $sql, $state) = @_;
        my $start;
        if ($by eq 'statement_timeout')
        {
            $start = time;
            $sql =~ s/^/SET LOCAL statement_timeout = '${soon}ms'; / if $sql =~ s/^BEGIN; //;
            my $r = $s->run($sql =~ /^SET LOCAL/ ? "BEGIN; $sql" : "SET statement_timeout = '${soon}ms'; $sql");
            like($r->{state}, qr/^$state$/, "$by, $what") or diag("$r->{out} $r->{err}");
            $s->run('ROLLBACK; RESET statement_timeout');
        }
        else
        {
            $s->start($sql);
            ok(wait_for_infra(), "$by, $what: it waits");
            cancel();
            $start = time;
            my $r = $s->finish;
            like($r->{state}, qr/^$state$/, "$by, $what") or diag("$r->{out} $r->{err}");
            $s->run('ROLLBACK');
        }
        cmp_ok(time - $start, '<', 10, "$by, $what: in bounded time");
        all_well("$by, $what");
        return;
    };

    $s->run('SELECT kessel.disconnect()');
    $p->stall;
    $try->('while connecting', $count, '57014');

    $s->run('SELECT kessel.disconnect()');
    $p->on('START', 'hold');
    $p->on('set_config', 'hold');
    $try->('while the session is set up', $count, '57014');

    if ($by eq 'pg_cancel_backend')
    {
        $p->on('accounts', 'hold');
        $try->('before the first answer', $count, '57014');
    }
    $p->on('accounts', 'hang');
    $try->('before the first answer, with a dead network', $count, '57014');

    $p->cut(500_000, 'hang');
    $try->('while rows stream', 'SELECT count(filler) FROM (SELECT * FROM data.wide OFFSET 0) x', '57014');

    # The second scan needs the connection: the rest of the first is put aside.
    $s->run('BEGIN; DECLARE c CURSOR FOR SELECT * FROM data.wide; MOVE 10 FROM c');
    $p->stall;
    $try->('while rows are put aside', $count, '57014');
    ok_run($s->run('BEGIN; DECLARE c CURSOR FOR SELECT * FROM data.wide; MOVE 10 FROM c; SELECT count(*) FROM data.accounts; MOVE FORWARD ALL FROM c; SELECT 1; COMMIT'), "5\n1", "$by, while rows are put aside: parking works afterwards");

    $p->on('UPDATE', 'hold');
    $try->('while a write is unanswered', $write, '57014');
    name_is('one account 1', "$by, while a write is unanswered: nothing was written");

    next if $by eq 'statement_timeout';
    $p->on(':COMMIT', 'hold');
    $try->('while committing', $write, '08007');
    $k->data_exec($one, "UPDATE accounts SET name = 'one account 1' WHERE id = 1");

    $p->on('FROM STDIN', 'hold');
    $try->('while rows are copied', $copy, '57014');
    is($k->data_exec($one, 'SELECT count(*) FROM accounts'), '5', "$by, while rows are copied: nothing was written");

    # Rows that nobody takes: sending is what it waits for.
    $s->run("CREATE TEMP TABLE many AS SELECT 1000 + i AS id, repeat('z', 2000) AS name FROM generate_series(1, 20000) i");
    $p->on('INSERT', 'hold');
    $try->('while rows are sent', 'INSERT INTO data.accounts (id, name) SELECT id, name FROM many', '57014');
    is($k->data_exec($one, 'SELECT count(*) FROM accounts'), '5', "$by, while rows are sent: nothing was written");
}

#
# A name server that does not answer.
#
my $dir = PostgreSQL::Test::Utils::tempdir('resolver');
append_to_file("$dir/resolver.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int			(*next) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

	while (node != NULL && strcmp(node, "silent.example") == 0)
		pause();
	*(void **) &next = dlsym(RTLD_NEXT, "getaddrinfo");
	return next(node, service, hints, res);
}
C
system_or_bail('gcc', '-shared', '-fPIC', '-o', "$dir/resolver.so", "$dir/resolver.c", '-ldl');
$_->quit foreach $s, $other;
{
    local $ENV{LD_PRELOAD} = "$dir/resolver.so";
    $k->node->restart;
}
$k->exec("SELECT kessel.create_data_source('silent', 'postgresql://u:p\@silent.example/x?sslmode=disable'); SELECT kessel.create_tenant('silent', data_source => 'silent')");
$s     = $k->session(tenant => 'one');
$other = $k->session(tenant => 'two');
my $start = time;
$s->start("SET kessel.tenant = 'silent'; $count");
ok(wait_for_infra(), 'resolving: it waits');
cancel();
like_error($s->finish, '57014', qr/canceling/, 'resolving: cancelled');
cmp_ok(time - $start, '<', 4, 'resolving: at once');
$start = time;
like_error($s->run("SET kessel.connect_timeout = 1; $count"), '08001', qr/could not connect to data source "silent"/, 'resolving: given up');
cmp_ok(time - $start, '<', 4, 'resolving: in the time of kessel.connect_timeout');
$s->run("RESET kessel.connect_timeout; SET kessel.tenant = 'one'");
all_well('resolving');

done_testing();

# Runs of migrations are cut off in each phase, in each way there is, and called
# again: each place is migrated once, whatever happened.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselMigrate;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k = KesselTest->new(conf => "restart_after_crash = on\n");
my $m = KesselMigrate->new($k, conf => "restart_after_crash = on\n");
my $node = $k->node;

# What runs there writes a line each time, which is never taken back.
$k->exec("SELECT kessel.add_blueprint('crm');"
      . "SELECT kessel.add_migration('crm', '0001_ground', 'CREATE TABLE ground (id integer, tenant_id text); CREATE TABLE journal (n integer GENERATED ALWAYS AS IDENTITY, line text)', 'DROP TABLE ground');"
      . "SELECT kessel.add_migration('crm', '0002_a', 'ALTER TABLE ground ADD COLUMN a text; INSERT INTO journal (line) VALUES (''+a'')', 'ALTER TABLE ground DROP COLUMN a; INSERT INTO journal (line) VALUES (''-a'')');"
      . "SELECT kessel.add_migration('crm', '0003_b', 'ALTER TABLE ground ADD COLUMN b text; INSERT INTO journal (line) VALUES (''+b'')', 'ALTER TABLE ground DROP COLUMN b; INSERT INTO journal (line) VALUES (''-b'')')");
is($k->run("CALL kessel.migrate('crm', 1)")->{state}, '', 'the ground');
my $expected = '';

# The phases: what makes a run stay in each, and what tells that it is there.
my %phase = (
    'before the first wave' => {
        hold => sub { return $k->session, 'BEGIN; LOCK TABLE kessel.migration_targets IN SHARE MODE' },
        there => 'waiting = 50', done => 0, sure => 50 },
    'in the canary' => {
        hold => sub { return $m->holder('r1', 'LOCK TABLE ground'), '' },
        there => "wave = 'canary' AND running = 1 AND waiting = 49", done => 0, sure => 49 },
    'in the rest' => {
        hold => sub { return map({ ($m->holder($_, 'LOCK TABLE ground'), '') } qw(t03 t33 s7)) },
        there => "wave = 'rest' AND running = 3 AND done = 47", done => 47, sure => 47 },
    'before it is written down' => {
        hold => sub { return $m->holder('t20', 'LOCK TABLE ground'), '' },
        there => "wave = 'rest' AND running = 1 AND done = 49", done => 49, sure => 49, late => 1 });

my %how = (
    'cancelled' => sub { my ($s) = @_; $k->exec("SELECT pg_cancel_backend(@{[ $s->pid ]})"); my $r = $s->finish; return $r->{state} eq '57014' && $r->{err} !~ /WITH news/ },
    'terminated' => sub { my ($s) = @_; $k->exec("SELECT pg_terminate_backend(@{[ $s->pid ]})"); return $s->finish->{state} ne '' },
    'killed with its backend' => sub {
        my ($s) = @_;
        kill 'KILL', $s->pid;
        $s->finish;
        return $node->poll_query_until('infra', 'SELECT true');
    },
    'killed with its server' => sub { my ($s) = @_; kill_server($node); $s->finish; $node->start; return 1 });

# Its processes have noticed, too, when this returns.
sub kill_server
{
    my ($server) = @_;
    my @pids = split /\n/, $server->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity') . "\n" . (split /\n/, slurp_file($server->data_dir . '/postmaster.pid'))[0];
    $server->kill9;
    foreach my $try (1 .. 300)
    {
        last unless grep { kill 0, $_ } @pids;
        select(undef, undef, undef, 0.1);
    }
    return;
}

sub nothing_runs
{
    return $m->{d}{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$m->{d}{owner}'");
}

sub interrupt
{
    my ($phase, $how, $call, $to) = @_;
    my $name = "$call, $how $phase";
    my %is = %{ $phase{$phase} };
    my $s = $k->session(user => 'admin');
    my @holders;

    my @hold = $is{hold}->();
    while (my ($holder, $sql) = splice(@hold, 0, 2))
    {
        $holder->run($sql) if $sql;
        push @holders, $holder;
    }
    $s->start("CALL kessel.$call('crm', $to, lock_timeout => NULL, timeout => NULL);");
    ok($node->poll_query_until('infra', "SELECT $is{there} FROM kessel.migration_progress WHERE state = 'running'"), "$name: it is there");
    if ($is{late})
    {
        # It is done in the place, and cannot be written down.
        my $writer = $k->session;
        $writer->run("BEGIN; SELECT FROM kessel.migration_run_targets WHERE state = 'running' AND data_source = 't20' FOR UPDATE");
        $_->quit foreach @holders;
        @holders = ($writer);
        my ($db) = $m->place('t20');
        ok($m->{d}{node}->poll_query_until($db, "SELECT max(version) = $to FROM kessel_agent.migrations"), "$name: it is committed there");
        ok($node->poll_query_until('infra', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = @{[ $s->pid ]}"), "$name: and not here");
    }
    my $run = $k->exec("SELECT run_id FROM kessel.migration_progress WHERE state = 'running'");
    # A run does not wait for the disk when it writes down what is done; after this all is there.
    $k->exec("SELECT pg_logical_emit_message(true, 'test', 'flush')");
    ok($how{$how}->($s), "$name: it is gone");
    $_->quit foreach @holders, $s;
    ok(nothing_runs(), "$name: nothing runs on there");
    is($k->exec("SELECT state, done FROM kessel.migration_progress WHERE run_id = '$run'"), "interrupted|$is{done}", "$name: it shows");
    is($k->exec("SELECT count(*) FROM kessel.migration_targets WHERE trying IS NULL"), $is{sure}, "$name: and so does what is in doubt");

    my $r = $k->run("CALL kessel.$call('crm', $to)", user => 'admin');
    ok($r->{state} eq '' && $r->{out} eq $run && $r->{err} =~ /NOTICE: .*run $run was interrupted at 2\S+ \S+ with $is{done} of 50 targets done: it goes on/, "$name: the next call goes on with it") or diag("$r->{out}\n$r->{err}");
    like($r->{err}, qr/50 of 50 targets done/, "$name: to the end");
    is($k->exec("SELECT count(*) FROM kessel.migration_targets WHERE version = $to AND trying IS NULL AND error IS NULL"), '50', "$name: everybody has it");
    is($k->exec("SELECT from_version, version, applied FROM kessel.migration_run_targets WHERE run_id = '$run' AND data_source = 't20'"), "$to|$to|0", "$name: what was done was not done again") if $is{late};
    return;
}

foreach my $phase (sort keys %phase)
{
    foreach my $how (sort keys %how)
    {
        # What ends in an orderly way is not told apart by where it was.
        next if $how =~ /cancelled|terminated/ && $phase ne 'in the rest';
        interrupt($phase, $how, 'migrate', 3);
        interrupt($phase, $how, 'rollback', 1);
        $expected .= '+a+b-b-a';
    }
}
is($m->versions('crm'), '1 x 50', 'the places say so themselves');
is($m->sql($_, "SELECT string_agg(line, '' ORDER BY n) FROM journal"), $expected, "$_: each was done once, in its order") foreach qw(r1 t01 t03 t20 t33 t40 s1 s7);

#
# Another call than the one that was cut off
#
{
    my $holder = $m->holder('t07', 'LOCK TABLE ground');
    my $s = $k->session(user => 'admin');
    my $id = '00000000-0000-4000-8000-00000000aaaa';
    $s->start("CALL kessel.migrate('crm', lock_timeout => NULL, timeout => NULL, run_id => '$id');");
    ok($node->poll_query_until('infra', "SELECT running = 1 AND done = 49 FROM kessel.migration_progress WHERE run_id = '$id'"), 'a run whose id is known before');
    $k->exec("SELECT pg_terminate_backend(@{[ $s->pid ]})");
    $s->finish;
    $holder->quit;
    nothing_runs();
    my $r = $k->run("CALL kessel.rollback('crm', 1)", user => 'admin');
    ok($r->{state} eq '' && $r->{err} =~ /run $id was interrupted at .*, and is replaced by this one/, 'a rollback takes its place') or diag($r->{err});
    is($k->exec("SELECT state, ended_at IS NOT NULL FROM kessel.migration_progress WHERE run_id = '$id'"), 'interrupted|t', 'it stays so');
    is($m->versions('crm'), '1 x 50', 'all are back');
    is($k->run("CALL kessel.migrate('crm', run_id => '$id')", user => 'admin')->{state}, '23505', 'its id is taken');
    is($k->exec("SELECT count(*) FROM kessel.migration_runs WHERE state = 'running'"), '0', 'and nothing was begun');
}

#
# The places go down
#
{
    my @holders = map { $m->holder($_, 'LOCK TABLE ground') } qw(t01 s1);
    my $s = $k->session(user => 'admin');
    $s->start("CALL kessel.migrate('crm', lock_timeout => NULL, timeout => NULL, on_error => 'continue');");
    ok($node->poll_query_until('infra', "SELECT running = 2 AND done = 48 FROM kessel.migration_progress WHERE state = 'running'"), 'two are at work');
    kill_server($m->{d}{node});
    $_->quit foreach @holders;
    my $r = $s->finish;
    like_error($r, 'KR013', qr/: 2 of 50 targets failed$/, 'their server is killed');
    is($k->exec("SELECT string_agg(DISTINCT left(error ->> 'sqlstate', 2), ' ') FROM kessel.migration_targets WHERE error IS NOT NULL"), '08', 'the connection was lost, they say');
    $m->{d}{node}->start;
    $r = $s->run("CALL kessel.migrate('crm')");
    ok($r->{state} eq '' && $r->{err} =~ /50 of 50 targets done/, 'when it is back they are done') or diag($r->{err});
    is($m->versions('crm'), '3 x 50', 'all are');
    is($k->exec("SELECT sum(applied) FROM kessel.migration_run_targets WHERE run_id = (SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1)"), '4', 'and what is done was not done again');
    $s->quit;
}

done_testing();

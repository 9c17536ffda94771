# The blueprint enterprise under concurrency: a limit is handed out exactly, with
# rollbacks, errors and killed sessions among the callers; an organization keeps an
# owner though all leave at once; set up by a role that is no superuser.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k = KesselTest->new;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $agent = 'aaaaaaaa-0000-4000-8000-00000000000a';
my @user = map { sprintf 'bbbbbbbb-0000-4000-8000-%012d', $_ } 1 .. 9;

# ---------- set up by an admin ----------

$k->exec(<<'SQL');
CREATE ROLE setter LOGIN;
GRANT kessel_admin TO setter;
GRANT CREATE ON DATABASE infra TO setter;
GRANT CREATE ON SCHEMA public TO setter;
GRANT REFERENCES ON app.tenants, app.data_sources TO setter;
CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
GRANT kessel_user TO authenticated; GRANT kessel_service TO service_role;
SQL
my $r = $k->run("SELECT count(*) > 10 FROM kessel.setup('{core,enterprise}')", user => 'setter');
ok_run($r, 't', 'a role that is no superuser sets it up');
is($k->exec("SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relname IN ('organizations', 'agent_usage')"), 'setter', 'and owns it');
$k->exec('GRANT authenticated, service_role TO app');
$k->exec("INSERT INTO auth.users (id, email) VALUES " . join(', ', map { "('$_', '$_\@example.com')" } @user));
is($k->run("SET ROLE authenticated; SELECT create_organization('A', 'a') IS NOT NULL", user => 'app', sub => $user[0])->{out}, 't', 'an organization');
$k->exec("INSERT INTO enterprise_agents (id, organization_id, name, usage_limit) SELECT '$agent', id, 'Agent', 0 FROM organizations");
$k->exec("INSERT INTO organization_members SELECT id, u FROM organizations, unnest('{" . join(',', @user[ 1 .. 8 ]) . "}'::uuid[]) u");

# ---------- exactly the limit ----------

# Runs what the script makes for each of N psql, all from one moment on; returns what
# each has printed.
sub at_once
{
    my ($n, $script) = @_;
    my @command = ('psql', '-XqAt', '-v', 'VERBOSITY=sqlstate', '-d', sprintf("host='%s' port=%d dbname=infra user=app", $k->node->host, $k->node->port));
    my (@out, @err, @run);
    my $gate = $k->session;

    $gate->run('SELECT pg_advisory_lock(116)');
    foreach my $i (0 .. $n - 1)
    {
        my $in = "SET ROLE authenticated; SELECT set_config('request.jwt.claims', '{\"sub\": \"$user[$i % 9]\"}', false), pg_advisory_lock_shared(116) \\g /dev/null\n" . $script->($i);
        # Files: what goes through this process would make them take turns.
        unlink map { "$dir/$_.$i" } qw(in out err);
        append_to_file("$dir/in.$i", $in);
        push @run, IPC::Run::start(\@command, '<', "$dir/in.$i", '>', "$dir/out.$i", '2>', "$dir/err.$i", IPC::Run::timeout(180 * ($ENV{KR_SLOW} || 1)));
    }
    die 'they do not come' unless $k->node->poll_query_until('infra', "SELECT count(*) = $n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
    $gate->quit;
    $_->finish foreach @run;
    push @out, slurp_file("$dir/out.$_") foreach 0 .. $#run;
    push @err, slurp_file("$dir/err.$_") foreach 0 .. $#run;
    return (\@out, \@err);
}

sub used { return $k->exec("SELECT coalesce(sum(used), 0) FROM agent_usage WHERE agent_id = '$agent'"); }

sub limit
{
    my ($limit, $period) = @_;
    $period ||= 'ever';
    $k->exec("DELETE FROM agent_usage; UPDATE enterprise_agents SET usage_limit = $limit, usage_period = '$period' WHERE id = '$agent'");
    return;
}

{
    # 12 sessions ask 100 times each for one of 500, and keep others waiting for a moment.
    limit(500);
    my ($out, $err) = at_once(12, sub { "SELECT c FROM (SELECT public.consume('$agent') AS c OFFSET 0) s WHERE (SELECT count(*) FROM generate_series(1, 5000 + c)) > 0;\n" x 100 });
    my @left = map { split /\n/ } @$out;
    my @refused = map { /ERROR: +(\S+)/g } @$err;

    is(scalar(@left), 500, '12 sessions get exactly the limit of 500');
    is_deeply([ sort { $a <=> $b } @left ], [ 0 .. 499 ], 'each of it once');
    is(scalar(@refused), 700, 'all others are refused');
    is(join(' ', keys %{ { map { $_ => 1 } @refused } }), 'PT429', 'for that reason');
    is(used(), 500, 'and that is what is counted');
}

{
    # A third is rolled back, a part of it to a savepoint; an error after it undoes it, too.
    limit(1000);
    my ($out, $err) = at_once(8, sub {
        my ($i) = @_;
        return join '', map {
            my $amount = 1 + ($i + $_) % 7;
            my $consume = "SELECT 'try $amount', consume('$agent', $amount) \\g /dev/null\n";
            $_ % 4 == 0   ? "BEGIN; $consume ROLLBACK;\n"
              : $_ % 4 == 1 ? "BEGIN; SAVEPOINT s; $consume ROLLBACK TO s; COMMIT;\n"
              : $_ % 4 == 2 ? "BEGIN; $consume SELECT 1/0; COMMIT;\n"
              : "SELECT 'got $amount' WHERE consume('$agent', $amount) IS NOT NULL;\n"
        } 1 .. 120;
    });
    my $got = 0;
    $got += $_ foreach map { /^got (\d+)$/mg } @$out;
    is(used(), $got, 'with rollbacks, what is counted is what was handed out');
    # 8 sessions ask for 30 times 4 on average, all in all 960 less than the limit.
    cmp_ok($got, '>', 900, 'and nothing that was given back is lost');
    cmp_ok($got, '<=', 1000, 'nor is there too much');
}

{
    # The limit is not a multiple of the amount: the rest is for who asks for less.
    limit(100);
    my ($out) = at_once(6, sub { "SELECT 'got 7' WHERE consume('$agent', 7) IS NOT NULL;\n" x 10 });
    is(scalar(map { /^got/mg } @$out), 14, 'no part of an amount');
    is($k->exec("SELECT consume('$agent', 2)"), '0', 'the rest is there');
}

{
    # Above read committed: some fail with 40001, and none of them counts.
    limit(200);
    my ($out, $err) = at_once(8, sub { "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 'got' WHERE consume('$agent') IS NOT NULL; COMMIT;\n" x 60 });
    my $got = () = join('', @$out) =~ /^got/mg;
    my %state = map { $_ => 1 } map { /ERROR: +(\S+)/g } @$err;
    delete @state{qw(40001 PT429 25P02)};
    is(join(' ', %state), '', 'repeatable read: 40001 and PT429 alone');
    # A transaction that has failed commits nothing, and one that got its row does.
    is(used(), $got, 'and the count is that of those that were told so');
    cmp_ok($got, '<=', 200, 'at most the limit');
}

{
    # Who comes second waits for the first one's end.
    my ($one, $two) = ($k->session, $k->session);
    limit(10);
    ok_run($one->run("BEGIN; SELECT consume('$agent', 10)"), '0', 'all is taken');
    $two->start("SELECT consume('$agent')");
    ok($k->node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'another one waits');
    $one->run('ROLLBACK');
    ok_run($two->finish, '9', 'and gets it, where it is given back');
    $one->run("BEGIN; SELECT consume('$agent', 9)");
    $two->start("SELECT consume('$agent')");
    ok($k->node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'or waits');
    $one->run('COMMIT');
    like_error($two->finish, 'PT429', qr/has reached its limit/, 'and is refused', hint => qr/service_role can raise usage_limit/);
    limit(10, 'month');
    $one->run("BEGIN; SELECT consume('$agent', 10)");
    $two->start("SELECT consume('$agent')");
    ok($k->node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'the first one of a period, too');
    $k->exec('SELECT pg_terminate_backend(' . $one->pid . ', 60000)');
    ok_run($two->finish, '9', 'what a lost session took is given back');
    $r = $two->run("SELECT consume('$agent', 10)");
    like_error($r, 'PT429', qr/limit/, 'when the next period begins', hint => qr/^The next period begins at \d{4}-\d\d-01 00:00 UTC\.$/);
    like($r->{detail}, qr/The limit is 10 for usage_period month, of which 9 is left; 10 was asked for/, 'and what is left is told');
    like_error($two->run("SELECT consume('$agent', 11)"), 'PT429', qr/limit/, 'no period is waited for that would not do', hint => qr/service_role can raise usage_limit/);

    # The limit is lowered while somebody waits.
    limit(10);
    $one = $k->session;
    $one->run("BEGIN; UPDATE enterprise_agents SET usage_limit = 3");
    $two->start("SELECT consume('$agent', 5)");
    ok($k->node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'a change of the limit is waited for');
    $one->run('COMMIT');
    is($two->finish->{state}, 'PT429', 'and counts');
    $_->quit foreach $one, $two;
}

# ---------- always an owner ----------

foreach my $level ('READ COMMITTED', 'REPEATABLE READ')
{
    $k->exec("UPDATE organization_members SET role = 'owner'");
    my ($out, $err) = at_once(9, sub { "BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM organizations \\g /dev/null\n DELETE FROM organization_members WHERE user_id = (SELECT auth.uid()) RETURNING 'left'; COMMIT;\n" x 3 });
    cmp_ok($k->exec("SELECT count(*) FROM organization_members WHERE role = 'owner'"), '>=', 1, "$level: all owners leave at once, and one stays");
    is($k->exec("SELECT count(*) FROM organization_members"), 1, 'the others are gone') if $level eq 'READ COMMITTED';
    my %state = map { $_ => 1 } map { /ERROR: +(\S+)/g } @$err;
    ok($state{23001} || $state{40001}, 'who was refused was told so');
    $k->exec("INSERT INTO organization_members SELECT id, u FROM organizations, unnest('{" . join(',', @user) . "}'::uuid[]) u ON CONFLICT DO NOTHING");
}
{
    my ($one, $two) = ($k->session, $k->session);

    $k->exec("UPDATE organization_members SET role = CASE WHEN user_id IN ('$user[0]', '$user[1]') THEN 'owner' ELSE 'member' END");
    $two->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM organizations');
    is($one->run("DELETE FROM organization_members WHERE user_id = '$user[0]'")->{state}, '', 'one owner leaves');
    is($two->run("DELETE FROM organization_members WHERE user_id = '$user[1]'")->{state}, '40001', 'another one, who does not see that, cannot');
    $two->run('ROLLBACK');
    like_error($two->run("UPDATE organization_members SET role = 'admin' WHERE user_id = '$user[1]'"), '23001', qr/would have no owner/, 'the last one stays', hint => qr/another member/);
    like_error($two->run("DELETE FROM auth.users WHERE id = '$user[1]'"), '23001', qr/would have no owner/, 'and the user');
    $_->quit foreach $one, $two;
}

# ---------- one subscription ----------

{
    my ($out, $err) = at_once(8, sub { "RESET ROLE; SET ROLE service_role;\n" . "INSERT INTO subscriptions (organization_id, plan) SELECT id, 'premium' FROM organizations RETURNING 'made';\n" x 5 });
    is(scalar(map { /^made/mg } @$out), 1, 'one active subscription, however many are made at once');
    is(scalar(map { /ERROR: +23505/g } @$err), 39, 'the others are refused');
}

is($k->run("SELECT count(*) FROM kessel.teardown('enterprise', drop_data => true)", user => 'setter')->{out}, '3', 'its owner takes it back');

done_testing();

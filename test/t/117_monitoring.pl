# The blueprint monitoring: summaries and partitions while many insert, with upkeep
# beside them and without any; pg_stat_statements; dump and restore; pg_partman where
# there is one; set up by a role that is no superuser.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k = KesselTest->new(conf => "shared_preload_libraries = 'pg_stat_statements'\n");
my $node = $k->node;
my $dir = PostgreSQL::Test::Utils::tempdir();

$k->exec(<<'SQL');
CREATE ROLE setter LOGIN;
GRANT kessel_admin TO setter;
GRANT CREATE ON DATABASE infra TO setter;
GRANT CREATE ON SCHEMA public TO setter;
GRANT REFERENCES ON app.tenants, app.data_sources TO setter;
CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
GRANT kessel_user TO authenticated; GRANT kessel_service TO service_role;
GRANT service_role, authenticated TO app;
CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor;
SQL
ok_run($k->run("SELECT count(*) > 10 FROM kessel.setup('{core,monitoring}')", user => 'setter'), 't', 'a role that is no superuser sets it up');

sub waits
{
    my ($s) = @_;
    return $node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $s->pid);
}

# Scripts in as many psql, all from one moment on. Returns what they have said, but for locks that an
# upkeep did not get.
sub at_once
{
    my (@script) = @_;
    my @command = ('psql', '-XqAt', '-v', 'VERBOSITY=sqlstate', '-d', sprintf("host='%s' port=%d dbname=infra user=app", $node->host, $node->port));
    my (@out, @err, @run);
    my ($n, $gate) = (scalar @script, $k->session);

    $gate->run('SELECT pg_advisory_lock(117)');
    foreach my $i (0 .. $#script)
    {
        my $in = "SET ROLE service_role; SELECT pg_advisory_lock_shared(117) \\g /dev/null\n$script[$i]";
        # Files: what goes through this process would make them take turns.
        unlink map { "$dir/$_.$i" } qw(in out err);
        append_to_file("$dir/in.$i", $in);
        push @run, IPC::Run::start(\@command, '<', "$dir/in.$i", '>', "$dir/out.$i", '2>', "$dir/err.$i", IPC::Run::timeout(180 * ($ENV{KR_SLOW} || 1)));
    }
    die 'they do not come' unless $node->poll_query_until('infra', "SELECT count(*) = $n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
    $gate->quit;
    $_->finish foreach @run;
    push @out, slurp_file("$dir/out.$_") foreach 0 .. $#run;
    push @err, slurp_file("$dir/err.$_") foreach 0 .. $#run;
    return join('', @out, @err) =~ s/^ERROR: +55P03\n//mgr;
}

# ---------- summaries are what the tables hold ----------

my %sums = (
    log_summary => 'SELECT date_trunc($$hour$$, created_at, $$UTC$$), tenant_id, level, source, count(*) FROM system_logs GROUP BY 1, 2, 3, 4',
    activity_summary => 'SELECT (created_at AT TIME ZONE $$UTC$$)::date, user_id, tenant_id, action, count(*) FROM user_activity GROUP BY 1, 2, 3, 4',
    metric_summary => 'SELECT date_trunc($$hour$$, created_at, $$UTC$$), tenant_id, name, unit, count(*), sum(value), avg(value), min(value), max(value) FROM performance_metrics GROUP BY 1, 2, 3, 4',
);

# Summaries that differ from what is there, in one snapshot.
sub differs
{
    return $k->exec(join ' UNION ALL ', map {
        "(SELECT '$_ ' || count(*) FROM ((TABLE $_ EXCEPT $sums{$_}) UNION ALL ($sums{$_} EXCEPT TABLE $_)) d HAVING count(*) > 0)"
    } sort keys %sums);
}

sub totals { my ($db) = @_; return $k->exec('SELECT (SELECT count(*) FROM system_logs), (SELECT count(*) FROM user_activity), (SELECT count(*) FROM performance_metrics)', db => $db || 'infra'); }

$k->exec('UPDATE monitoring_rules SET keep_months = NULL');
{
    # Eight write, in the order that makes deadlocks where a total is one row; a third of it is
    # rolled back, rows are late by up to a year. Two others do the upkeep.
    my @writer = map {
        my $i = $_;
        join '', map {
            my @levels = ($i + $_) % 2 ? qw(info error) : qw(error info);
            my $end = $_ % 3 == 0 ? 'ROLLBACK' : 'COMMIT';
            my $late = ($_ * 37 + $i * 11) % 400;
            "BEGIN; INSERT INTO system_logs (level, source, message, created_at) VALUES ('$levels[0]', 's', 'm', now() - interval '$late days'), ('$levels[0]', 's', 'm', now());\n"
              . "INSERT INTO performance_metrics (name, value, created_at) SELECT 'n' || g % 2, g, now() - interval '$late hours' FROM generate_series(1, 5) g;\n"
              . "INSERT INTO user_activity (user_id, action, created_at) SELECT ('00000000-0000-4000-8000-00000000000' || g)::uuid, 'a', now() - interval '$late days' FROM generate_series(1, 3) g;\n"
              . "INSERT INTO system_logs (level, source, message) VALUES ('$levels[1]', 's', 'm'); $end;\n"
        } 1 .. 60
    } 1 .. 8;
    is(at_once(@writer, map { join '', map { "SELECT monitoring_upkeep('$_') \\g /dev/null\n" } (qw(system_logs user_activity performance_metrics)) x 8 } 1 .. 2), '', 'eight write, two look after it, and nobody is in another\'s way');
    # 8 times 40 that were committed, of 3 rows, 3 and 5.
    is(totals(), '960|960|1600', 'all is there that was committed');
    is(differs(), '', 'each summary is what its table holds');
    is(at_once(@writer, ("SELECT monitoring_upkeep() \\g /dev/null\n" x 10) x 2), '', 'again, with folding');
    is(totals(), '1920|1920|3200', 'all is there');
    is(differs(), '', 'each summary is what its table holds, folded');
    $k->exec('SELECT monitoring_upkeep()');
    is($k->exec('SELECT count(*) FROM monitoring_upkeep()'), '0', 'upkeep comes to an end');
    is($k->exec('SELECT count(*) FROM infra.log_counts WHERE NOT folded'), '0', 'all is folded');
    is(totals() . differs(), '1920|1920|3200', 'and nothing lost');
}

{
    # A row that was inserted before folding, and is committed after it.
    my ($one, $two) = ($k->session, $k->session);
    my $late = "SELECT count FROM log_summary WHERE source = 'late'";
    my $insert = "INSERT INTO system_logs (source, message) VALUES ('late', 'm')";

    $one->run("BEGIN; $insert");
    $k->exec("$insert; SELECT monitoring_upkeep()");
    is($k->exec($late), '1', 'what is not committed does not count');
    $one->run('COMMIT');
    is($k->exec($late), '2', 'what commits after folding does');
    $k->exec($insert);

    ok_run($one->run('BEGIN; SELECT count(*) > 0 FROM infra.fold_summaries()'), 't', 'one folds');
    $two->start('SELECT count(*) FROM infra.fold_summaries()');
    ok(waits($two), 'another one waits for the same rows');
    is($k->exec($late), '3', 'who reads meanwhile sees the total');
    $k->exec($insert);
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'and finds them gone');
    is($k->exec($late), '4', 'nothing counts twice');
    is(differs(), '', 'in all summaries');

    $one->run('BEGIN; SELECT * FROM monitoring_upkeep()');
    is($two->run('SELECT * FROM monitoring_upkeep()')->{state}, '55P03', 'a second upkeep gives up');
    $one->run('ROLLBACK');
    $k->exec("INSERT INTO system_logs (message, created_at) VALUES ('future', date_trunc('month', now(), 'UTC') + interval '10 months')");
    $one->run('BEGIN; SELECT count(*) FROM system_logs');
    ok_run($two->run("SELECT action FROM monitoring_upkeep('system_logs')"), 'failed', 'upkeep waits for a reader for a moment only');
    is($two->run("INSERT INTO system_logs (message) VALUES ('m')")->{state}, '', 'and who writes goes on');
    $one->run('COMMIT');
    ok_run($two->run("SELECT action FROM monitoring_upkeep('system_logs')"), 'move', 'the next one does it');
    $_->quit foreach $one, $two;
}

# ---------- no upkeep at all ----------

{
    # As if nobody had looked after partitions for long.
    $k->exec("DO \$\$ DECLARE p regclass; BEGIN FOR p IN SELECT partition FROM infra.partitions('system_logs') LOOP EXECUTE format('DROP TABLE %s', p); END LOOP; END \$\$");
    is($k->run("SET ROLE service_role; INSERT INTO system_logs (message) VALUES ('nobody looks') RETURNING message", user => 'app')->{out}, 'nobody looks', 'a row finds a place');
    is($k->exec("SELECT tableoid::regclass FROM system_logs WHERE message = 'nobody looks'"), 'infra.system_logs_default', 'in the default partition');
    is(at_once((map { "INSERT INTO system_logs (source, message) VALUES ('w$_', 'm');\n" x 200 } 1 .. 3), "SELECT monitoring_upkeep('system_logs') \\g /dev/null\n" x 5), '', 'while rows are moved others are written');
    $k->exec("SELECT monitoring_upkeep('system_logs')");
    is($k->exec("SELECT count(*), count(DISTINCT id) FROM system_logs WHERE source ~ '^w'"), '600|600', 'none is lost');
    is($k->exec('SELECT count(*) FROM infra.system_logs_default'), '0', 'and all have a partition');
}

# ---------- what the database does ----------

{
    my $r = $k->run('SELECT * FROM slow_queries', user => 'monitor');
    ok_run($r, '', 'without pg_stat_statements: no rows');
    like($r->{err}, qr/NOTICE: .*no statistics.*HINT: .*shared_preload_libraries/s, 'and a hint');
    $k->exec('CREATE SCHEMA "odd name"; GRANT USAGE ON SCHEMA "odd name" TO PUBLIC; CREATE EXTENSION pg_stat_statements SCHEMA "odd name"');
    $k->exec("SELECT 'secret of tenant a', count(*) FROM pg_class");
    $k->run('SET ROLE service_role; SELECT 1 AS mine', user => 'app');
    is($k->run("SELECT count(*) FROM slow_queries WHERE query LIKE '%count(*) FROM pg_class' AND mean_ms > 0 AND calls = 1", user => 'monitor')->{out}, '1', 'with it pg_monitor sees all');
    is($k->run("SET ROLE service_role; SELECT string_agg(DISTINCT role_name, ' '), count(*) > 0 FROM slow_queries", user => 'app')->{out}, 'service_role|t', 'the service its own role\'s');
    is($k->run('SET ROLE authenticated; SELECT * FROM slow_queries', user => 'app')->{state}, '42501', 'users none');
    $node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
    $node->restart;
    $r = $k->run('SELECT * FROM slow_queries', user => 'monitor');
    ok_run($r, '', 'where the library is not loaded: no rows');
    like($r->{err}, qr/HINT: .*shared_preload_libraries/, 'and the hint');
    ok_run($k->run('SELECT (SELECT count(*) FROM table_sizes WHERE total_bytes > 0) > 10, (SELECT count(*) FROM index_usage) > 10', user => 'monitor'), 't|t', 'sizes and indexes');
}

# ---------- dump and restore ----------

{
    my $before = totals() . $k->exec('SELECT sum(count) FROM log_summary; SELECT count(*) FROM pg_inherits');
    my $there = $node->connstr('restored') . ' user=postgres';

    $node->command_ok([ 'pg_dump', '-U', 'postgres', '--format=custom', "--file=$dir/dump", $node->connstr('infra') ], 'dump');
    $k->exec('CREATE DATABASE restored', db => 'postgres');
    $node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $there, "$dir/dump" ], 'restore');
    is(totals('restored') . $k->exec('SELECT sum(count) FROM log_summary; SELECT count(*) FROM pg_inherits', db => 'restored'), $before, 'rows, partitions and totals are there, once');
    $k->exec("INSERT INTO system_logs (message, created_at) VALUES ('m', '2001-01-01 00:00Z')", db => 'restored');
    is($k->exec("SELECT string_agg(action, ' ') FROM monitoring_upkeep()", db => 'restored'), 'move fold', 'upkeep works there');
    is($k->exec("SET ROLE setter; SELECT count(*) FROM kessel.teardown('monitoring', drop_data => true)", db => 'restored'), '4', 'and the way back');
}

$k->exec("UPDATE monitoring_rules SET keep_months = 1; SELECT monitoring_upkeep()");
cmp_ok($k->exec("SELECT count(*) FROM pg_class WHERE relname ~ '^user_activity_2' AND relkind = 'r' AND NOT relispartition"), '>', 5, 'old months are detached');
is($k->run("SELECT count(*) FROM kessel.teardown('monitoring', drop_data => true)", user => 'setter')->{out}, '4', 'its owner takes it back');
is($k->exec("SELECT count(*) FROM pg_class WHERE relname ~ 'system_logs|user_activity|performance_metrics'"), '0', 'with what was detached');

# ---------- pg_partman ----------

SKIP:
{
    skip 'pg_partman is not there', 13 unless $k->exec("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'");
    $k->exec('CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman');
    $k->exec("SET ROLE setter; SELECT kessel.teardown('core', drop_data => true)");
    my $r = $k->run("SELECT * FROM kessel.setup('{monitoring}')");
    is($r->{state}, '', 'set up beside pg_partman') or diag($r->{err});
    is($k->exec("SELECT string_agg(parent_table || ' ' || automatic_maintenance, ', ' ORDER BY 1) FROM partman.part_config"), 'public.performance_metrics off, public.system_logs off, public.user_activity off', 'which has the tables');
    $k->exec("INSERT INTO system_logs (message) VALUES ('now'); INSERT INTO system_logs (message, created_at) VALUES ('old', now() - interval '3 years'), ('some', now() - interval '8 months'), ('far', now() + interval '1 year')");
    is($k->exec("SELECT count(*) FROM system_logs WHERE tableoid = 'public.system_logs_default'::regclass"), '3', 'a row without partition is not lost');
    $r = $k->run('SELECT * FROM monitoring_upkeep()');
    is($r->{state}, '', 'upkeep') or diag($r->{err});
    is($k->exec("SELECT string_agg(message, ' ' ORDER BY created_at) FROM system_logs"), 'some now far', 'old months are detached, others have partitions');
    is($k->exec("SELECT count(*) FROM system_logs WHERE tableoid = 'public.system_logs_default'::regclass"), '0', 'none is in the default one');
    is($k->exec("SELECT count(*) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent IN ('system_logs'::regclass, 'user_activity'::regclass, 'performance_metrics'::regclass) AND (NOT c.relrowsecurity OR c.relacl::text ~ 'anon|authenticated|service_role|[{,]=')"), '0', 'partitions are nobody\'s');
    is($k->exec("SELECT count(*) >= 3 FROM pg_inherits WHERE inhparent = 'user_activity'::regclass"), 't', 'some are made ahead');
    is($k->exec("SELECT count(*) FROM pg_class WHERE relname ~ ('^system_logs_p' || to_char(now() - interval '3 years', 'YYYY_?MM')) AND NOT relispartition AND relrowsecurity"), '1', 'nor is what was detached');
    is($k->run('SELECT * FROM monitoring_upkeep()')->{out}, '', 'nothing is left to be done');
    $r = $k->run("SELECT * FROM kessel.teardown('monitoring', drop_data => true)");
    is($r->{state}, '', 'taken back') or diag($r->{err});
    is($k->exec('SELECT count(*) FROM partman.part_config'), '0', 'pg_partman has forgotten the tables');
    is($k->exec("SELECT string_agg(oid::regclass::text, ' ') FROM pg_class WHERE relkind = 'r' AND relname ~ 'system_logs|user_activity|performance_metrics'"), '', 'and nothing is left');
}

done_testing();

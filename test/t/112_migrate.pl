# Blueprints go up and down over fifty places: waves, failures, dry runs, two runs
# at once, progress seen from outside, new tenants, router tables that follow.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselMigrate;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k = KesselTest->new;
my $m = KesselMigrate->new($k);
$k->exec("ALTER ROLE admin SET client_min_messages = notice; GRANT CREATE ON DATABASE infra TO admin; GRANT USAGE ON FOREIGN SERVER kessel_router TO admin");
my $s = $k->session(user => 'admin');

sub call { my ($what) = @_; return $s->run("CALL kessel.$what"); }

# What became of the last run: states by wave.
sub outcome
{
    return $k->exec("SELECT string_agg(wave || ' ' || state || ' ' || n, ', ' ORDER BY wave, state) FROM (SELECT wave, state, count(*) AS n FROM kessel.migration_run_targets"
          . " WHERE run_id = (SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1) GROUP BY 1, 2) t");
}
sub last_run { my ($what) = @_; return $k->exec("SELECT $what FROM kessel.migration_progress ORDER BY started_at DESC LIMIT 1"); }
sub known { return $k->exec("SELECT string_agg(coalesce(version::text, '?') || coalesce(' to ' || trying, '') || ' x ' || n, ', ' ORDER BY version) FROM (SELECT version, trying, count(*) AS n FROM kessel.migration_targets WHERE blueprint = 'crm' GROUP BY 1, 2) t"); }
sub fleet_version { return $k->exec("SELECT version FROM kessel.blueprints WHERE name = 'crm'"); }

sub ok_call
{
    my ($what, $pattern, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $r = call($what);
    ok($r->{state} eq '' && $r->{err} =~ $pattern, $name) or diag("expected $pattern\n$r->{out}\n$r->{err}");
    return $r;
}

#
# Up and down
#
$m->blueprint('crm');
is($k->exec("SELECT count(*), sum(cardinality(tenants)), sum(cardinality(migrations)) FROM kessel.plan_migration('crm')"), '50|51|150', 'the plan');

my $r = ok_call("migrate('crm', 1)", qr/crm 1: 1 of 50 done.*crm 1: 50 of 50 done.*blueprint "crm" to version 1: 50 of 50 targets done in [0-9.]+ s, run /s, 'up to version 1');
like($r->{out}, qr/^[0-9a-f-]{36}$/, 'the call returns the id of the run');
is($m->versions('crm'), '1 x 50', 'every place says so itself');
is(known(), '1 x 50', 'and is known here to have it');
is(outcome(), 'canary done 1, rest done 49', 'one went first');
is($k->exec("SELECT string_agg(DISTINCT tenants::text, ' ') FROM kessel.migration_run_targets WHERE wave = 'canary'"), '{r1,r2}', 'the place of the first tenant');
is(last_run('state, wave, waiting, running, done, failed, skipped, unknown, total, rate > 0, time_left, ended_at IS NOT NULL'), 'done|rest|0|0|50|0|0|0|50|t||t', 'the progress of a run that has ended');
is(fleet_version(), '1', 'new tenants will get it');
is($k->exec("SELECT count(*), min(applied), max(applied), min(attempts), max(attempts) FROM kessel.migration_run_targets"), '50|1|1|1|1', 'each was tried once');
is($m->sql($_, "SELECT count(*) FROM information_schema.columns WHERE table_schema = current_schema AND table_name = 'accounts'"), '3', "$_: the table is there") foreach qw(t01 t40 s1 s9 r1);

ok_run($s->run("SELECT action, object FROM kessel.expose('crm')"), "created|schema data\ncreated|table data.accounts", 'expose()');
$k->exec('GRANT USAGE ON SCHEMA data TO kessel_service; GRANT ALL ON data.accounts TO kessel_service');
ok_run($k->run("INSERT INTO data.accounts (id, name) VALUES (1, 'one'); SELECT name FROM data.accounts", user => 'service', tenant => 't07'), 'one', 'the router table leads there');
ok_run($s->run("SELECT action, object FROM kessel.expose('crm')"), 'unchanged|table data.accounts', 'expose() again');

ok_call("migrate('crm')", qr/column data.accounts.city: added column, text/, 'up to the last version; the router table follows in the same call');
is($m->versions('crm'), '3 x 50', 'also what is not transactional');
ok_run($k->run("SELECT id, city FROM data.accounts", user => 'service', tenant => 't07'), '1|', 'the new column');

ok_call("migrate('crm')", qr/50 of 50 targets done/, 'nothing to do');
is($k->exec("SELECT sum(applied) FROM kessel.migration_run_targets WHERE run_id = (SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1)"), '0', 'and nothing was done');
ok_call("migrate('crm', verify => false)", qr/50 of 50 targets done/, 'nobody asked');
is($k->exec("SELECT count(*), sum(attempts) FROM kessel.migration_run_targets WHERE run_id = (SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1) AND note ~ 'Not asked'"), '50|0', 'indeed');

ok_call("rollback('crm', 1, dry_run => true)", qr/dry run of blueprint "crm" back to version 1: 50 of 50/, 'a rollback on trial');
is($m->versions('crm'), '3 x 50', 'changes nothing');
ok_call("rollback('crm', 1)", qr/column data.accounts.city: dropped column/, 'back to version 1');
is($m->versions('crm') . ' ' . known() . ' ' . fleet_version(), '1 x 50 1 x 50 1', 'everywhere');
ok_call("rollback('crm', 0)", qr/table data.accounts: dropped/, 'back to nothing; the router table goes');
is($m->versions('crm') . ' ' . known() . ' ' . fleet_version(), '0 x 50 0 x 50 0', 'everywhere');
is($m->sql('t40', "SELECT to_regclass('accounts') IS NULL"), 't', 'indeed');
ok_call("migrate('crm')", qr/table data.accounts: created/, 'and up again; the router table comes back');
is($m->versions('crm') . ' ' . known() . ' ' . fleet_version(), '3 x 50 3 x 50 3', 'everywhere');
ok_run($k->run('SELECT count(*) FROM data.accounts', user => 'service', tenant => 't07'), '0', 'a new table') if $k->exec('GRANT ALL ON data.accounts TO kessel_service') eq '';

#
# Some tenants
#
ok_call("rollback('crm', 2, tenants => '{t01,t02,s1}', canary => '{t02}')", qr/3 of 3 targets done/, 'some tenants go back');
is(outcome(), 'canary done 1, rest done 2', 'the one that was named first');
is($m->versions('crm') . ' ' . fleet_version(), '2 x 3, 3 x 47 3', 'the version of the fleet stays');
ok_call("migrate('crm', tenants => '{t01,@{[ $k->exec(q{SELECT id FROM app.tenants WHERE slug = 't02'}) ]}}', canary => '{}')", qr/2 of 2 targets done/, 'up again, by slug and id, without a canary');
is(outcome(), 'rest done 2', 'no canary');
ok_call("migrate('crm', tenants => '{}')", qr/0 of 0 targets done/, 'none at all');
ok_call("migrate('crm', 1, tenants => '{t01}')", qr/1 of 1 targets done/, 'a lower version');
is($m->sql('t01', "SELECT max(version) FROM kessel_agent.migrations"), '3', 'takes nothing back');
like_error(call("migrate('crm', canary => '{t01}', tenants => '{t02}')"), '22023', qr/tenant "t01" cannot be the canary/, 'a canary that is not among them');
like_error(call("migrate('crm', tenants => '{nobody}')"), 'KR002', qr/there is no tenant "nobody"/, 'an unknown tenant');
like_error(call("migrate('crm', 7)"), '22023', qr/has no version 7/, 'an unknown version');
like_error(call("migrate('nothing')"), '42704', qr/blueprint "nothing" does not exist/, 'an unknown blueprint');
is($k->run("CALL kessel.migrate('crm')", user => $_)->{state}, '42501', "not for $_") foreach qw(service app stranger);
ok_call("migrate('crm')", qr/50 of 50/, 'all again');

#
# Where it cannot run
#
like_error($s->run("BEGIN; CALL kessel.migrate('crm')"), '25001', qr/cannot run inside a transaction block/, 'in a transaction block', hint => qr/Send the CALL alone/);
$s->run('ROLLBACK');
like_error($s->run("DO \$\$ DECLARE i uuid; BEGIN CALL kessel.migrate('crm', run_id => i); EXCEPTION WHEN division_by_zero THEN NULL; END \$\$"), '25001', qr/transaction block/, 'where its errors would be caught');
$k->exec("CREATE FUNCTION public.wrapped() RETURNS void LANGUAGE plpgsql AS \$\$ DECLARE i uuid; BEGIN CALL kessel.migrate('crm', run_id => i); END \$\$");
like_error($s->run('SELECT public.wrapped()'), '2D000', qr/invalid transaction termination/, 'in a function');
like_error($s->run("SET default_transaction_isolation = 'repeatable read'; CALL kessel.migrate('crm')"), '25001', qr/READ COMMITTED only/, 'with one snapshot');
like_error($s->run("RESET default_transaction_isolation; SET default_transaction_read_only = on; CALL kessel.migrate('crm')"), '25006', qr/read-only/, 'read only');
$s->run('RESET default_transaction_read_only');
is($k->exec("SELECT count(*) FROM kessel.migration_runs WHERE state = 'running'") . $k->exec("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '00', 'and left nothing');
ok_run($s->run("DO \$\$ DECLARE i uuid; BEGIN CALL kessel.migrate('crm', run_id => i); i := NULL; CALL kessel.migrate('crm', run_id => i); END \$\$"), '', 'twice in a DO block');

#
# A canary that fails
#
my $runs = $k->exec('SELECT count(*) FROM kessel.migration_run_targets WHERE attempts > 0');
$k->exec("SELECT kessel.add_migration('crm', '0004_bad', E'CREATE TABLE early ();\nSELECT 1/0', 'DROP TABLE early')");
$r = call("migrate('crm', on_error => 'continue')");
like_error($r, 'KR013', qr/^blueprint "crm" to version 4: 1 of 50 targets failed, 49 not begun$/, 'the canary fails', hint => qr/WHERE run_id = '[0-9a-f-]+' AND state <> 'done' lists all.*CALL kessel.migrate\(\) again/);
unlike($r->{err}, qr/CONTEXT/, 'which is all that is said');
like($r->{detail}, qr/^data source "shared", schema "public", 0004_bad line 2: 22012 division by zero$/, 'where, what and in which line');
is(outcome(), 'canary failed 1, rest skipped 49', 'nothing else was touched, whatever on_error says');
is($k->exec('SELECT count(*) FROM kessel.migration_run_targets WHERE attempts > 0') - $runs, 1, 'nobody else was asked anything');
is(last_run('state'), 'stopped', 'the run has stopped');
is($m->versions('crm') . ' ' . known() . ' ' . fleet_version(), '3 x 50 3 x 50 3', 'nothing is half applied');
is($m->sql('r1', "SELECT to_regclass('early') IS NULL"), 't', 'not even there');
ok_run($s->run("SELECT kessel.add_migration('crm', '0004_bad', 'SELECT 1', 'SELECT 1')"), '', 'it was applied nowhere, so it can be mended');
ok_call("migrate('crm')", qr/50 of 50/, 'and then goes through');

#
# Some fail
#
$m->sql($_, "INSERT INTO accounts (id) VALUES (-1)") foreach qw(t10 t20 s3);
$k->exec("SELECT kessel.add_migration('crm', '0005_positive', 'ALTER TABLE accounts ADD CONSTRAINT positive CHECK (id > 0)', 'ALTER TABLE accounts DROP CONSTRAINT positive')");
like_error(call("migrate('crm', max_parallel => 1, on_error => 'stop')"), 'KR013', qr/: 1 of 50 targets failed, \d+ not begun/, 'stops after the first');
my ($done, $skipped) = split /\|/, last_run('done, skipped');
is($done + $skipped, 49, 'the others are done, or were not begun');
cmp_ok($skipped, '>', 0, 'some were not');
is($k->exec("SELECT DISTINCT note FROM kessel.migration_run_targets WHERE state = 'skipped' AND run_id = '" . last_run('run_id') . "'"), 'Not begun: too many others have failed.', 'which their notes say');
is(fleet_version(), '5', 'the fleet is meant to have it, since the canary does');
is($m->versions('crm'), sprintf('4 x %d, 5 x %d', 50 - $done, $done), 'what was done stays');
is(known(), sprintf('4 x %d, 5 x %d', 50 - $done, $done), 'and is known');

like_error(call("migrate('crm', max_parallel => 1, on_error => 'stop', max_failures => 1)"), 'KR013', qr/: 2 of 50 targets failed/, 'max_failures');
like_error(call("migrate('crm', max_parallel => 1, on_error => 'continue', max_failures => 0)"), 'KR013', qr/: 1 of 50 targets failed, \d+ not begun/, 'which counts for continue, too');
$r = call("migrate('crm', on_error => 'continue')");
like_error($r, 'KR013', qr/^blueprint "crm" to version 5: 3 of 50 targets failed$/, 'goes on after errors');
is(last_run('state, done, failed, skipped'), 'failed|47|3|0', 'to the end');
is($m->versions('crm'), '4 x 3, 5 x 47', 'with all others done');
is($k->exec("SELECT string_agg(DISTINCT error ->> 'sqlstate', ',') FROM kessel.migration_targets WHERE error IS NOT NULL"), '23514', 'the last error of each place is known');
$m->sql($_, 'DELETE FROM accounts') foreach qw(t10 t20 s3);
ok_call("migrate('crm', on_error => 'continue')", qr/50 of 50/, 'once that is mended');
is($k->exec("SELECT count(*) FILTER (WHERE applied = 1), count(*) FILTER (WHERE applied = 0) FROM kessel.migration_run_targets WHERE run_id = '" . last_run('run_id') . "'"), '3|47', 'only what is missing is done');
is(known() . $k->exec('SELECT count(error) FROM kessel.migration_targets'), '5 x 500', 'and no error is left');

#
# Dry runs
#
my $notes = 'CREATE TABLE notes (LIKE accounts); GRANT SELECT ON notes TO "@runtime"; DO $do$ BEGIN IF to_regprocedure($$kessel_agent.protect(regclass, name)$$) IS NOT NULL THEN PERFORM kessel_agent.protect($$notes$$); END IF; END $do$';
$k->exec("SELECT kessel.add_migration('crm', '0006_notes', '$notes', 'SELECT 1/0')");
ok_call("migrate('crm', tenants => '{t01,t02,t03}', dry_run => true)", qr/dry run of blueprint "crm" to version 6: 3 of 3/, 'a dry run');
is($m->versions('crm') . ' ' . known(), '5 x 50 5 x 50', 'leaves everything');
is(last_run('dry_run'), 't', 'and is recorded as one');
$m->sql('t02', 'CREATE TABLE notes ()');
$r = call("migrate('crm', tenants => '{t01,t02,t03}', on_error => 'continue', dry_run => true)");
like_error($r, 'KR013', qr/^dry run of blueprint "crm" to version 6: 1 of 3 targets failed$/, 'it finds what would fail');
like($r->{detail}, qr/"t02".*42P07/, 'and where');
$m->sql('t02', 'DROP TABLE notes');

#
# Ways down that fail or are missing
#
ok_call("migrate('crm', tenants => '{t01,t02,t03}')", qr/3 of 3/, 'three have version 6');
like_error(call("rollback('crm', 5, tenants => '{t01,t02,t03}')"), 'KR013', qr/back to version 5: 1 of 3 targets failed, 2 not begun/, 'a way down that fails, on the canary');
is($m->versions('crm'), '5 x 47, 6 x 3', 'changes nothing');
$k->exec("SELECT kessel.add_migration('crm', '0006_notes', '$notes')");
$runs = $k->exec('SELECT count(*) FROM kessel.migration_runs');
$r = call("rollback('crm', 4)");
like_error($r, '0A000', qr/blueprint "crm" cannot go back to version 4/, 'a way down that is missing', hint => qr/add_migration/);
like($r->{detail}, qr/^There is no way down for 0006_notes\.$/, 'says which');
is($k->exec('SELECT count(*) FROM kessel.migration_runs'), $runs, 'before anything was done');
ok_call("rollback('crm', 4, tenants => '{t04,t05}')", qr/2 of 2/, 'where nobody has that one, it is not missed');
$k->exec("SELECT kessel.add_migration('crm', '0006_notes', '$notes', 'DROP TABLE notes')");
ok_call("migrate('crm')", qr/table data.notes: created/, 'the way down was mended; all go up');

#
# From outside, while it runs
#
{
    my @holders = map { $m->holder($_, 'LOCK TABLE accounts') } qw(t11 t12);
    my $other = $k->session(user => 'admin');
    $k->exec("SELECT kessel.add_migration('crm', '0007_more', 'ALTER TABLE accounts ADD COLUMN more text', 'ALTER TABLE accounts DROP COLUMN more'); SELECT kessel.add_blueprint('other'); SELECT kessel.add_migration('other', '0001_x', 'SELECT 1', 'SELECT 1')");
    like_error(call("migrate('crm', on_error => 'continue', lock_timeout => '100 ms', lock_retries => 1)"), 'KR013', qr/: 2 of 50 targets failed$/, 'locks that are not to be had');
    is($k->exec("SELECT string_agg(attempts || ' ' || (error ->> 'sqlstate'), ', ') FROM kessel.migration_run_targets WHERE state = 'failed' AND run_id = '" . last_run('run_id') . "'"), '2 55P03, 2 55P03', 'were tried twice');
    $s->start("CALL kessel.migrate('crm', lock_timeout => NULL, timeout => NULL);");
    ok($k->node->poll_query_until('infra', "SELECT done = 48 AND running = 2 FROM kessel.migration_progress WHERE state = 'running'"), 'all but two are done');
    is($other->run("SELECT state, wave, waiting, running, done, total, rate > 0, time_left > '0', pid FROM kessel.migration_progress WHERE state = 'running'")->{out}, 'running|rest|0|2|48|50|t|t|' . $s->pid, 'seen from another session');
    is($other->run("SELECT string_agg(data_source, ' ' ORDER BY data_source) FROM kessel.migration_run_targets WHERE state = 'running'")->{out}, 't11 t12', 'which they are');
    my $r2 = $other->run("CALL kessel.migrate('crm')");
    like_error($r2, '55P03', qr/blueprint "crm" is being migrated by another session/, 'a second run', hint => qr/migration_progress/);
    like($r2->{detail}, qr/^Process @{[ $s->pid ]} has been at it since 2\d\d\d-/, 'is told by whom, and since when');
    is($other->run("CALL kessel.rollback('crm', 0)")->{state}, '55P03', 'nor a rollback');
    my $r3 = $other->run("CALL kessel.migrate('other', tenants => '{t01,s1}')");
    is($r3->{state}, '', 'another blueprint, in other places, is not kept waiting') or diag($r3->{err});

    # A tenant that comes now, and one whose place is taken already.
    $m->schema('s10');
    is($k->run("SELECT kessel.create_tenant('s10', data_source => 'schemas')")->{state}, '', 'a tenant comes meanwhile');
    is($m->sql('s10', "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'accounts'::regclass AND attnum > 0"), 'id tenant_id name city more', 'and has what the fleet is about to have');
    $_->quit foreach @holders;
    $r = $s->finish;
    is($r->{state}, '', 'the run ends') or diag($r->{err});
    like($r->{err}, qr/51 of 51 targets done/, 'with the tenant that came');
    is(known(), '7 x 51', 'everybody has it');
    ok_run($other->run("CALL kessel.migrate('crm', verify => false)") , $k->exec('SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1'), 'the next run may begin');
    $other->quit;
}
{
    # Who comes while the canary is at work is added in the end.
    my $holder = $m->holder('t01', 'LOCK TABLE accounts');
    $k->exec("SELECT kessel.add_migration('crm', '0008_last', 'ALTER TABLE accounts ADD COLUMN last text', 'ALTER TABLE accounts DROP COLUMN last')");
    $s->start("CALL kessel.migrate('crm', lock_timeout => NULL, timeout => NULL, canary => '{t01}');");
    ok($k->node->poll_query_until('infra', "SELECT running = 1 FROM kessel.migration_progress WHERE state = 'running'"), 'the canary is at work');
    $m->schema('s11');
    is($k->run("SELECT kessel.create_tenant('s11', data_source => 'schemas')")->{state}, '', 'a tenant comes');
    is($m->sql('s11', 'SELECT max(version) FROM kessel_agent.migrations WHERE schema_name = current_schema'), '7', 'and has what the fleet has');
    $holder->quit;
    like($s->finish->{err}, qr/52 of 52 targets done/, 'but is not forgotten');
    is(known() . ' ' . fleet_version(), '8 x 52 8', 'everybody has it');
}

#
# Places that cannot be reached, know more, or are not there
#
{
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    $k->exec("SELECT kessel.create_data_source('gone', 'postgresql://nobody\@127.0.0.1:$port/x', options => '{\"password_required\": false}')");
    $m->sql('t30', "INSERT INTO kessel_agent.migrations (schema_name, blueprint, version, name, checksum) VALUES ('public', 'crm', 99, '0099_theirs', 'x')");
    $m->sql('s5', 'ALTER SCHEMA t_s5 RENAME TO elsewhere');
    $k->exec("SELECT kessel.alter_data_source('t31', status => 'disabled')");
    $k->exec("SELECT kessel.add_migration('crm', '0009_end', 'SELECT 1', 'SELECT 1')");
    $r = call("migrate('crm', on_error => 'continue')");
    like_error($r, 'KR013', qr/: 3 of 53 targets failed$/, 'three are broken');
    like($r->{err}, qr/NOTICE.*left out, because they are disabled: t31/, 'one is disabled');
    is($k->exec("SELECT string_agg(data_source || ' ' || schema_name || ' ' || (error ->> 'sqlstate'), ', ' ORDER BY data_source) FROM kessel.migration_run_targets WHERE state = 'failed' AND run_id = '" . last_run('run_id') . "'"),
        'gone public 08001, schemas t_s5 KR005, t30 public KR014', 'each with its error');
    is($k->exec("SELECT note FROM kessel.migration_run_targets WHERE state = 'skipped' AND run_id = '" . last_run('run_id') . "'"), 'The data source is disabled.', 'that one says why');
    is($k->exec("SELECT count(*) FROM kessel.migration_targets WHERE trying IS NOT NULL"), '0', 'nothing is in doubt');
    $m->sql('t30', "DELETE FROM kessel_agent.migrations WHERE version = 99");
    $k->data_exec($m->{d}, 'ALTER SCHEMA elsewhere RENAME TO t_s5', db => 'schemas');
    $k->exec("SELECT kessel.alter_data_source('t31', status => 'active'); SELECT kessel.drop_data_source('gone')");
    ok_call("migrate('crm')", qr/52 of 52/, 'all is well again');
}

#
# New tenants
#
{
    $m->database('new');
    is($k->run("SELECT kessel.create_tenant('new', data_source => 'new')")->{state}, '', 'a first tenant in a database');
    is($m->sql('new', "SELECT max(version), count(*) FROM kessel_agent.migrations WHERE blueprint = 'crm'"), '9|9', 'has the tables');
    ok_run($k->run('INSERT INTO data.accounts (id, more) VALUES (1, \'x\'); SELECT id, more FROM data.accounts', user => 'postgres', tenant => 'new'), '1|x', 'which can be used at once');
    is($m->sql('new', "SELECT count(*) FROM kessel_agent.migrations WHERE blueprint = 'other'"), '0', 'but not of a blueprint that only some have');

    # The blueprint goes on while one comes; what that one gets is not changed.
    $m->database('slow');
    my $other = $k->session(user => 'postgres');
    ok_run($other->run("BEGIN; SELECT kessel.create_tenant('slow', data_source => 'slow') IS NULL"), 'f', 'a tenant that is being created');
    is($k->run("SET lock_timeout = '10s'; BEGIN; SELECT kessel.add_migration('crm', '0019_next', 'SELECT 1', 'SELECT 1'); ROLLBACK")->{state}, '', '... keeps nobody from adding a migration');
    is($k->run("SET lock_timeout = '100ms'; SELECT kessel.add_migration('crm', '0009_end', 'SELECT 2', 'SELECT 2')")->{state}, '55P03', '... but from changing one that it may have');
    is($k->run("SET lock_timeout = '100ms'; SELECT kessel.drop_migration('crm', '0009_end')")->{state}, '55P03', '... or dropping it');
    $s->start("CALL kessel.rollback('crm', 8)");
    ok($k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM pg_locks l WHERE NOT granted AND EXISTS (SELECT FROM kessel.migration_runs r WHERE r.pid = l.pid AND r.state = 'running')"), 'a run for all waits with its end');
    $other->run('COMMIT');
    $other->quit;
    $r = $s->finish;
    like($r->{err}, qr/53 of 53 targets done|54 of 54 targets done/, 'for who comes') or diag($r->{err});
    is($m->sql('slow', 'SELECT max(version) FROM kessel_agent.migrations'), '8', '... who has it, too');
    ok_call("migrate('crm')", qr/targets done/, 'up again');

    $m->database('row2');
    $k->exec("SELECT kessel.alter_data_source('row2', isolation => 'row'); SELECT kessel.install_agent('row2')");
    $k->exec("SELECT kessel.add_blueprint('naked'); SELECT kessel.add_migration('naked', '0001_naked', 'CREATE TABLE naked (); GRANT SELECT ON naked TO \"\@runtime\"', 'DROP TABLE naked'); UPDATE kessel.blueprints SET version = 1 WHERE name = 'naked'");
    is($k->run("SELECT kessel.create_tenant('x1', data_source => 'row2')")->{state}, 'KR006', 'tables that are not protected are found, though they came with the tenant');
    is($k->exec("SELECT count(*) FROM app.tenants WHERE slug = 'x1'"), '0', 'the tenant is not there');
    $k->exec("UPDATE kessel.blueprints SET version = 0 WHERE name = 'naked'");
    $k->data_exec($m->{d}, 'DROP TABLE IF EXISTS naked', db => 'row2');
    is($k->run("SELECT kessel.create_tenant('x1', data_source => 'row2')")->{state}, '', 'and is once they are gone');

    $m->database('bad');
    $k->data_exec($m->{d}, "SET ROLE $m->{d}{owner}; CREATE TABLE accounts ()", db => 'bad');
    $r = $k->run("SELECT kessel.create_tenant('bad', data_source => 'bad')");
    like_error($r, '42P07', qr/^blueprint "crm" cannot be applied in data source "bad", schema "public": relation "accounts" already exists/, 'a place where it fails');
    like($r->{detail}, qr/0001_accounts/, 'says where');
    is($k->exec("SELECT count(*) FROM app.tenants WHERE slug = 'bad'"), '0', 'has no tenant');
    $k->exec("SELECT kessel.add_blueprint('crm', for_new_tenants => false)");
    is($k->run("SELECT kessel.create_tenant('bad', data_source => 'bad')")->{state}, '', 'unless the blueprint is not for new tenants');
    $k->exec("SELECT kessel.add_blueprint('crm', for_new_tenants => true)");
    is($k->run("SELECT kessel.suspend_tenant('bad'); SELECT kessel.resume_tenant('bad')")->{state}, '42P07', 'who comes back gets what is missing, too');
    $k->exec("SELECT kessel.drop_tenant('bad'); SELECT kessel.drop_data_source('bad')");

    # A schema that was dropped and made again is a new place.
    $k->exec("SELECT kessel.drop_tenant('s11')");
    is($k->exec("SELECT count(*) FROM kessel.migration_targets WHERE schema_name = 't_s11'"), '0', 'the schema of a tenant is forgotten with it');
    is($k->run("SELECT kessel.create_tenant('s11', data_source => 'schemas')")->{state} . $m->sql('s11', 'SELECT count(*) FROM kessel_agent.migrations WHERE schema_name = current_schema'), '9', 'who comes back to it finds it as it was');
    $k->exec("SELECT kessel.drop_tenant('s11')");
    $k->data_exec($m->{d}, 'DROP SCHEMA t_s11 CASCADE', db => 'schemas');
    $m->schema('s11');
    is($k->run("SELECT kessel.create_tenant('s11', data_source => 'schemas')")->{state} . $m->sql('s11', "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('accounts') AND attname = 'last'"), '1', 'and in one of the same name what a new one gets');
}

#
# Router tables of somebody else
#
{
    $k->exec("ALTER FOREIGN TABLE data.accounts OWNER TO postgres; SELECT kessel.add_migration('crm', '0010_owner', 'ALTER TABLE accounts ADD COLUMN owner text', 'ALTER TABLE accounts DROP COLUMN owner')");
    $r = call("migrate('crm', on_error => 'continue')");
    is($r->{state}, '', 'the run does not fail') or diag($r->{err});
    like($r->{err}, qr/WARNING.*router tables of blueprint "crm" in schema "data" were not brought up to date: must be owner of foreign table accounts.*HINT.*kessel.expose\('crm', 'data'\), as admin\./s, 'because of a router table that belongs to another role');
    is($k->run("SELECT object FROM kessel.expose('crm') WHERE action = 'added column'")->{out}, 'column data.accounts.owner', 'who can do it later');
    like(call("migrate('crm')")->{err}, qr/WARNING.*permission denied to set role "postgres"/, 'nobody acts as a role that the caller may not become');
    $k->exec('ALTER FOREIGN TABLE data.accounts OWNER TO admin');
    is($s->run("SELECT count(*) FROM kessel.expose('crm') WHERE action <> 'unchanged'")->{out}, '0', 'exposed by another role');
    is($k->run("CALL kessel.migrate('crm', run_id => NULL)")->{state} . $k->exec('SELECT exposed_by FROM kessel.exposed'), 'admin', 'as which a superuser acts, too');
    $k->exec('CREATE FUNCTION public.rise() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; END $$; CREATE EVENT TRIGGER rise ON ddl_command_end EXECUTE FUNCTION public.rise()');
    like($k->run("CALL kessel.rollback('crm', 9)")->{err}, qr/WARNING.*not brought up to date: cannot set parameter "role" within security-/, '... and nothing that runs then is a superuser again');
    $k->exec('DROP EVENT TRIGGER rise; DROP FUNCTION public.rise()');
    like($k->run("CALL kessel.migrate('crm')")->{err}, qr/run /, 'up again');
    $k->exec('CREATE VIEW public.dependent AS SELECT owner FROM data.accounts');
    $r = call("rollback('crm', 9)");
    like($r->{err}, qr/WARNING.*cannot drop column owner of foreign table data.accounts because other objects depend on it/, 'nor because of a view that needs a column');
    $k->exec('DROP VIEW public.dependent');
    is($k->run("SELECT count(*) FROM kessel.expose('crm') WHERE action = 'dropped column'")->{out}, '1', 'which goes later');
    is($k->run("SELECT kessel.unexpose('crm'), kessel.unexpose('crm')")->{out}, 't|f', 'unexpose()');
    unlike(ok_call("migrate('crm')", qr/targets done/, 'up')->{err}, qr/data\.accounts/, 'they follow no more');
}

#
# A dump has it all
#
{
    my $dir = PostgreSQL::Test::Utils::tempdir();
    local @ENV{qw(PGHOST PGPORT)} = ($k->node->host, $k->node->port);
    my $all = join ' UNION ALL ', map { "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)), count(*) FROM kessel.$_ t" } qw(migration_targets migration_runs migration_run_targets exposed);
    $s->run("SELECT kessel.expose('crm')");
    command_ok([ 'pg_dump', '-Fc', '-d', 'infra', '-f', "$dir/dump" ], 'dump');
    $k->exec('CREATE DATABASE again', db => 'postgres');
    command_ok([ 'pg_restore', '--exit-on-error', '-d', 'again', "$dir/dump" ], 'restore');
    is($k->exec($all, db => 'again'), $k->exec($all), 'runs, and what the places have');
    my $again = $k->run("CALL kessel.migrate('crm')", user => 'admin', db => 'again');
    ok($again->{state} eq '' && $again->{err} =~ /targets done/, 'goes on from there') or diag($again->{err});
}

is($k->exec("SELECT kessel.forget_migration_runs('0') > 10") . $k->exec('SELECT count(*) FROM kessel.migration_runs') . $k->exec('SELECT count(*) > 50 FROM kessel.migration_targets'), 't0t', 'runs are forgotten, what the places have is not');
$s->quit;
done_testing();

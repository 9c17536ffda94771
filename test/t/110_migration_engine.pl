# What is under kessel.migrate(): migrations on many targets from one session that
# commits as it goes. What a target has been told, what it has then, what is
# recorded there, and what is left when something is cut off at any point.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $slow = $ENV{KR_SLOW} || 1;
my $k = KesselTest->new;
$k->fleet;
my ($shared, $schemas, $solo) = @{$k}{qw(shared schemas solo)};

# What drives it: as the procedures that are built on it do, it commits between two
# calls. What has happened is kept in a table.
$k->exec(<<'SQL');
CREATE TABLE news (id serial, n int, news text, from_version int, version int, applied int, attempts int, error jsonb, ms float8);
CREATE PROCEDURE drive(targets text[], to_version int, direction text DEFAULT 'up', dry_run boolean DEFAULT false, timeout interval DEFAULT '1 min',
                       lock_timeout interval DEFAULT '2 s', lock_retries int DEFAULT 0, max_parallel int DEFAULT 16, blueprint text DEFAULT 'crm', stop_after int DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
    told int := 0;
    more int;
BEGIN
    TRUNCATE news RESTART IDENTITY;
    PERFORM kessel._migration_begin(gen_random_uuid(), blueprint, direction, to_version, dry_run, max_parallel, timeout, lock_timeout, lock_retries,
        ARRAY(SELECT s.id FROM unnest(targets) WITH ORDINALITY u (t, i) JOIN app.data_sources s ON s.name = split_part(t, '/', 1) ORDER BY i),
        ARRAY(SELECT split_part(t, '/', 2) FROM unnest(targets) WITH ORDINALITY u (t, i) ORDER BY i));
    COMMIT;
    WHILE kessel._migration_open() > 0 LOOP
        INSERT INTO news (n, news, from_version, version, applied, attempts, error, ms) SELECT * FROM kessel._migration_next('500 ms');
        GET DIAGNOSTICS more = ROW_COUNT;
        told := told + more;
        COMMIT;
        IF told >= stop_after THEN
            PERFORM kessel._migration_stop();
        END IF;
    END LOOP;
END
$$;
CREATE FUNCTION migration(name text, up text, down text DEFAULT NULL, transactional boolean DEFAULT true, blueprint text DEFAULT 'crm') RETURNS void
LANGUAGE sql AS $$
    INSERT INTO kessel.blueprints (name, applies_to) VALUES (blueprint, 'data_sources') ON CONFLICT DO NOTHING;
    INSERT INTO kessel.migrations (blueprint, version, name, up, down, transactional, checksum)
    VALUES (blueprint, substring(name, '^[0-9]+')::int, name, up, down, transactional, encode(sha256(convert_to(up, 'UTF8')), 'hex'))
    ON CONFLICT (blueprint, version) DO UPDATE SET up = excluded.up, down = excluded.down, transactional = excluded.transactional, checksum = excluded.checksum
$$;
GRANT ALL ON news TO admin;
SQL

my $s = $k->session;
# What is meant for all of those who share a database; see 114_migration_safety.
$k->exec(q{UPDATE app.data_sources SET options = options || '{"shared_tables": ["public.notes"]}' WHERE name = 'shared'});

# A list of arguments for drive(): the targets, then others by name.
sub call
{
    my ($targets, $to, %opt) = @_;
    return "CALL drive('{" . join(',', @$targets) . "}', $to" . join('', map { ", $_ => " . ($opt{$_} =~ /^(\d+|true|false)$/ ? $opt{$_} : "'$opt{$_}'") } sort keys %opt) . ')';
}

# What has become of each target: "n|news|from|to|applied|sqlstate|migration|statement|line"
my $told = q{SELECT n, news, from_version, version, applied, error ->> 'sqlstate', error ->> 'migration', error ->> 'statement', error ->> 'line'
             FROM news WHERE news NOT IN ('begun', 'retry') ORDER BY n};

sub drive
{
    my $r = $s->run(call(@_));
    return $r->{state} eq '' ? $s->run($told) : $r;
}

sub migration
{
    my ($name, $up, $down, %opt) = @_;
    $k->exec("SELECT migration(\$kr\$$name\$kr\$, \$kr\$$up\$kr\$, " . (defined $down ? "\$kr\$$down\$kr\$" : 'NULL') . ', ' . ($opt{alone} ? 'false' : 'true')
          . ', ' . ($opt{blueprint} ? "'$opt{blueprint}'" : "'crm'") . ')');
    return;
}

# The record of a schema there, "version state statements_done" in a line each.
sub record
{
    my ($d, $schema, %opt) = @_;
    return $k->data_exec($d, "SELECT version || ' ' || state || ' ' || statements_done FROM kessel_agent.migrations WHERE schema_name = '$schema' AND blueprint = '"
          . ($opt{blueprint} || 'crm') . "' ORDER BY version", db => $opt{db});
}

sub lines { return join "\n", @_ }

migration('0001_notes', 'CREATE TABLE notes (id int PRIMARY KEY, text text); GRANT SELECT ON "@tenant".notes TO "@runtime"', 'DROP TABLE notes');
migration('0002_more', "ALTER TABLE notes ADD author text;\nINSERT INTO notes VALUES (1, '\"\@tenant\"', current_schema());\n-- the end\n", 'DELETE FROM notes; ALTER TABLE notes DROP author');
migration('0003_empty', '-- nothing to do', '');

#
# Up and down, in all kinds of isolation
#
my @all = ('shared/public', 'schemas/schema_a', 'schemas/schema_b', 'solo_a/public', 'solo_b/public');
ok_run(drive(\@all, 2), lines(map { "$_|done|0|2|2||||" } 1 .. 5), 'all come to the version');
is($k->exec('SELECT string_agg(DISTINCT news, \',\' ORDER BY news), count(*), bool_and(ms > 0), min(attempts), max(attempts) FROM news'), 'begun,done|10|t|1|1', 'the beginning of each is told, too');
is($k->data_exec($schemas, 'SELECT * FROM schema_b.notes'), '1|"@tenant"|schema_b', 'names mean the target\'s schema; its name is put in, but not into literals');
is($k->data_exec($schemas, "SELECT has_table_privilege('$schemas->{runtime}', 'schema_a.notes', 'SELECT')"), 't', 'so is the runtime role\'s');
is($k->data_exec($schemas, "SELECT tableowner FROM pg_tables WHERE schemaname = 'schema_a' AND tablename = 'notes'"), $schemas->{owner}, 'it is the owner who migrates');
is(record($schemas, 'schema_a'), lines('1 applied 0', '2 applied 0'), 'the target has a record of it');
is($k->data_exec($schemas, q{SELECT count(DISTINCT run_id), bool_and(checksum ~ '^[0-9a-f]{64}$'), bool_and(name ~ '^000'), bool_and(applied_at > started_at - interval '1 s') FROM kessel_agent.migrations}), '1|t|t|t', 'with all that belongs to it');
ok_run(drive(\@all, 2), lines(map { "$_|done|2|2|0||||" } 1 .. 5), 'once more: nothing is to be done');
ok_run(drive(\@all, 1), lines(map { "$_|done|2|2|0||||" } 1 .. 5), 'up to a lower version: neither');
ok_run(drive(\@all, 3), lines(map { "$_|done|2|3|1||||" } 1 .. 5), 'an empty migration');
ok_run(drive(['schemas/schema_a', 'solo_b/public'], 1, direction => 'down'), lines(map { "$_|done|3|1|2||||" } 1 .. 2), 'down');
is(record($schemas, 'schema_a') . '/' . record($schemas, 'schema_b'), lines('1 applied 0/1 applied 0', '2 applied 0', '3 applied 0'), 'in that schema only');
is($k->data_exec($schemas, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'schema_a.notes'::regclass AND attname = 'author'"), '0', 'what was made is gone');
ok_run(drive(\@all, 0, direction => 'down'), lines('1|done|3|0|3||||', '2|done|1|0|1||||', '3|done|3|0|3||||', '4|done|3|0|3||||', '5|done|1|0|1||||'), 'down to nothing, from wherever it is');
is($k->data_exec($schemas, 'SELECT count(*) FROM kessel_agent.migrations'), '0', 'no record is left');
ok_run(drive(\@all, 3), lines(map { "$_|done|0|3|3||||" } 1 .. 5), 'and up again');
drive(\@all, 0, direction => 'down');
ok_run(drive([], 3), '', 'no targets');

# Connections of the runtime role and those of the owner are kept side by side.
{
    my $pid = "SELECT \"row\" FROM kessel.fleet_query('SELECT pg_backend_pid() AS pid, current_user AS role', '{solo-a}')";
    my $before = $s->run($pid)->{out};
    my $owners = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE usename = '$solo->{owner}' AND datname = 'tenants'";
    drive(['solo_a/public'], 0);
    my $owner = $k->data_exec($solo, $owners);
    like($before, qr/"role": "$solo->{runtime}"/, 'statements run as the runtime role');
    is($s->run($pid)->{out}, $before, 'on the connection that they have had before');
    drive(['solo_a/public'], 0);
    is($k->data_exec($solo, $owners), $owner, 'and migrations on theirs');
    like($owner, qr/^\d+$/, 'which is one');
}

#
# What a statement fails with, and where
#
migration('0004_fails', "-- what comes first\nCREATE TABLE first (id int);\nSELECT 1;\n\nINSERT INTO first\n  SELECT id / (\n    nothing)\n  FROM notes;\nCREATE TABLE never ()");
ok_run(drive(\@all, 4), lines(map { "$_|failed|0|0|0|42703|0004_fails|3|7" } 1 .. 5), 'the migration, the statement, and the line in which it is wrong');
is($k->exec("SELECT error ->> 'message' FROM news WHERE n = 2 AND news = 'failed'"), 'column "nothing" does not exist', 'the message is the target\'s');
is($k->data_exec($schemas, "SELECT to_regclass('schema_a.notes'), to_regclass('schema_a.first')") . record($schemas, 'schema_a'), '|', 'nothing of any of them is left');
migration('0004_fails', "CREATE TABLE first (id int);\nINSERT INTO first SELECT 1 / (SELECT count(*) FROM accounts WHERE name LIKE 'schema-a%')");
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 4), lines('1|done|0|4|4||||', '2|failed|0|0|0|22012|0004_fails|2|2'), 'one fails, the other is done');
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 4), lines('1|done|4|4|0||||', '2|failed|0|0|0|22012|0004_fails|2|2'), 'once more');
migration('0004_fails', 'CREATE TABLE first (id int)', 'DROP TABLE first');
ok_run(drive(['schemas/schema_a'], 4), '1|failed|||0|KR014|||', 'what was changed after it was applied is seen');
$k->data_exec($schemas, "UPDATE kessel_agent.migrations SET checksum = (SELECT '" . $k->exec("SELECT checksum FROM kessel.migrations WHERE blueprint = 'crm' AND version = 4") . "') WHERE version = 4");
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 4), lines('1|done|4|4|0||||', '2|done|0|4|4||||'), 'mended, both are there');

# What waits for the commit
migration('0005_deferred', 'CREATE TABLE waits (id int PRIMARY KEY REFERENCES first_ids DEFERRABLE INITIALLY DEFERRED); INSERT INTO waits VALUES (1)', 'DROP TABLE waits');
$k->data_exec($schemas, "SET ROLE $schemas->{owner}; CREATE TABLE schema_$_.first_ids (id int PRIMARY KEY)") foreach qw(a b);
$k->data_exec($schemas, 'INSERT INTO schema_b.first_ids VALUES (1)');
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 5, dry_run => 'true'), lines('1|failed|4|4|0|23503|||', '2|done|4|5|1||||'), 'a dry run finds what the commit would');
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 5), lines('1|failed|4|4|0|23503|||', '2|done|4|5|1||||'), 'an error of the commit is no unknown outcome');
is(record($schemas, 'schema_a'), lines(map { "$_ applied 0" } 1 .. 4), 'and nothing of it is there');
drive(['schemas/schema_a', 'schemas/schema_b'], 3, direction => 'down');

# What cannot be rolled back, or has no script
migration('0004_fails', 'CREATE TABLE first (id int)');
$k->exec("DELETE FROM kessel.migrations WHERE blueprint = 'crm' AND version = 5");
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 4), lines(map { "$_|done|3|4|1||||" } 1, 2), 'one that has no way down');
ok_run(drive(['schemas/schema_a'], 2, direction => 'down'), '1|failed|4|4|0|0A000|||', 'is not taken back');
is($k->exec("SELECT error ->> 'message', error ->> 'detail' FROM news WHERE news = 'failed'"), 'migration "0004_fails" of blueprint "crm" has no way down|Nothing was changed in schema "schema_a" of data source "schemas".', 'which says so');
migration('0004_fails', 'CREATE TABLE first (id int)', 'DROP TABLE first; DROP TABLE firsts');
ok_run(drive(['schemas/schema_a'], 2, direction => 'down'), '1|failed|4|4|0|42P01|0004_fails|2|1', 'a way down that fails');
is(record($schemas, 'schema_a'), lines(map { "$_ applied 0" } 1 .. 4), 'changes nothing');
migration('0004_fails', 'CREATE TABLE first (id int)', 'DROP TABLE first');

# A procedure that commits, a statement that makes others fail
migration('0005_commits', 'CREATE TABLE five (); CREATE PROCEDURE commits() LANGUAGE plpgsql AS $p$ BEGIN COMMIT; END $p$; CALL commits()');
ok_run(drive(['schemas/schema_a'], 5), '1|failed|4|4|0|2D000|0005_commits|3|1', 'a procedure that commits');
migration('0005_commits', "SET search_path = pg_catalog; SET work_mem = '123kB'; CREATE TEMP TABLE leftover (); LISTEN somebody; SELECT pg_advisory_lock(42); SELECT set_config('kessel_agent.tenant_id', 'me', false)", '');
migration('0006_after', 'CREATE TABLE six (id int)', 'DROP TABLE six');
ok_run(drive(['schemas/schema_a'], 6), '1|done|4|6|2||||', 'what one sets the next one does not see');
is($k->data_exec($schemas, "SELECT to_regclass('schema_a.six') IS NOT NULL"), 't', 'its table is where it belongs');
my $pid = $k->data_exec($schemas, "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE usename = '$schemas->{owner}'");
is($k->data_exec($schemas, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no lock is left');
is($k->data_exec($schemas, "SELECT count(*) FROM pg_class WHERE relname = 'leftover'"), '0', 'and no temporary table');
migration('0007_looks', q{DO $d$ BEGIN IF current_setting('work_mem') <> '4MB' OR current_setting('kessel_agent.tenant_id', true) <> '' OR EXISTS (SELECT pg_listening_channels()) THEN RAISE EXCEPTION 'left over'; END IF; END $d$}, '');
ok_run(drive(['schemas/schema_a'], 7), '1|done|6|7|1||||', 'nor anything else');
is($k->data_exec($schemas, "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE usename = '$schemas->{owner}'"), $pid, 'on the same connection');
drive(['schemas/schema_a', 'schemas/schema_b'], 0, direction => 'down');
$k->exec("DELETE FROM kessel.migrations WHERE blueprint = 'crm' AND version > 3");

#
# What is wrong with a target
#
ok_run(drive(['schemas/schema_a', 'schemas/nothing', 'solo_a/public'], 2), lines('1|done|0|2|2||||', '2|failed|||0|KR005|||', '3|done|0|2|2||||'), 'a schema that is not there');
$k->data_exec($schemas, "INSERT INTO kessel_agent.migrations VALUES ('schema_a', 'crm', 99, '0099_x', 'x')");
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 2), lines('1|failed|||0|KR014|||', '2|done|0|2|2||||'), 'a version that is not known here');
like($k->exec("SELECT error ->> 'message' FROM news WHERE news = 'failed'"), qr/^schema "schema_a" of data source "schemas" has migration "0099_x" of blueprint "crm", which is not known here$/, 'by name');
$k->data_exec($schemas, "DELETE FROM kessel_agent.migrations WHERE schema_name = 'schema_a' AND version IN (1, 99)");
ok_run(drive(['schemas/schema_a', 'schemas/schema_b'], 2), lines('1|failed|||0|KR014|||', '2|done|2|2|0||||'), 'a gap in what was applied');
drive(['schemas/schema_b', 'solo_a/public'], 0, direction => 'down');
$k->data_exec($schemas, 'DELETE FROM kessel_agent.migrations; DROP TABLE schema_a.notes');
$k->exec("SELECT kessel.alter_data_source('solo_b', status => 'disabled')");
$k->exec("SELECT kessel.create_data_source('down', 'postgresql://x:y\@127.0.0.1:1/x')");
$k->exec("SELECT kessel.create_data_source('weak', '" . $k->url($shared) . "')");
ok_run(drive(['solo_b/public', 'down/public', 'weak/public', 'shared/public'], 1), lines('1|failed|||0|KR005|||', '2|failed|||0|08001|||', '3|failed|||0|42501|||', '4|done|0|1|1||||'),
    'a source that is disabled, one that is down, one where the role may not');
$k->exec("SELECT kessel.alter_data_source('solo_b', status => 'active')");
drive(['shared/public'], 0, direction => 'down');
$k->exec("UPDATE app.data_sources SET options = options || '{\"pooler\": \"transaction\"}' WHERE name = 'solo_b'");
ok_run(drive(['solo_b/public'], 2), '1|done|0|2|2||||', 'as if before a pooler by transaction');
ok_run(drive(['solo_b/public'], 2), '1|done|2|2|0||||', 'and again');
drive(['solo_b/public'], 0, direction => 'down');
migration('0004_alone', 'CREATE INDEX CONCURRENTLY ON notes (id)', undef, alone => 1);
ok_run(drive(['solo_b/public'], 4), '1|failed|0|0|0|0A000|||', 'before a pooler by transaction nothing runs alone');
$k->exec("UPDATE app.data_sources SET options = options - 'pooler' WHERE name = 'solo_b'; DELETE FROM kessel.migrations WHERE blueprint = 'crm' AND version = 4");

#
# A dry run leaves nothing
#
my $one = $k->data_cluster('one', conf => "restart_after_crash = on\n");
$k->data_source($one);
ok_run(drive(['one/public'], 3, dry_run => 'true'), '1|done|0|3|3||||', 'a dry run of all');
is($k->data_exec($one, "SELECT to_regclass('public.notes'), to_regnamespace('kessel_agent')"), '|', 'leaves nothing, not even the record');
ok_run(drive(['one/public', 'one/none'], 3, dry_run => 'true', direction => 'down'), lines('1|done|0|0|0||||', '2|failed|||0|KR005|||'), 'a dry run down, and one where there is no schema');
is($k->data_exec($one, "SELECT to_regnamespace('kessel_agent')"), '', 'neither do they');
ok_run(drive(['one/public'], 2), '1|done|0|2|2||||', 'then for good');
ok_run(drive(['one/public'], 3, dry_run => 'true'), '1|done|2|3|1||||', 'a dry run of the rest');
ok_run(drive(['one/public'], 0, dry_run => 'true', direction => 'down'), '1|done|2|0|2||||', 'a dry run down');
is(record($one, 'public'), lines('1 applied 0', '2 applied 0'), 'both change nothing');
migration('0003_empty', 'SELECT 1 / 0', '');
ok_run(drive(['one/public'], 3, dry_run => 'true'), '1|failed|2|2|0|22012|0003_empty|1|1', 'a dry run finds errors');
migration('0003_empty', 'CREATE INDEX CONCURRENTLY notes_author ON notes (author)', 'DROP INDEX CONCURRENTLY notes_author', alone => 1);
ok_run(drive(['one/public'], 3, dry_run => 'true'), '1|done|2|2|0||||', 'what runs alone is not tried');
drive(['one/public'], 0, direction => 'down');
migration('0003_empty', '-- nothing to do', '');

#
# Locks
#
sub holder { return KesselTest::Session->new([ KesselTest::_psql_command($one->{node}, db => $one->{db}, user => 'postgres') ], '') }
my $holder = holder();
drive(['one/public'], 1);
$holder->run('BEGIN; LOCK TABLE notes IN ACCESS SHARE MODE');
ok_run(drive(['one/public'], 2, lock_timeout => '100 ms'), '1|failed|1|1|0|55P03|0002_more|1|1', 'a lock that is not had in time');
$s->start(call(['one/public'], 2, lock_timeout => '100 ms', lock_retries => 20));
ok($k->node->poll_query_until('infra', "SELECT count(*) >= 2 FROM news WHERE news = 'retry'"), 'it is begun again and again');
is($k->exec("SELECT string_agg(DISTINCT error ->> 'sqlstate' || coalesce(error ->> 'migration', ''), ','), max(attempts) >= 2 FROM news WHERE news = 'retry'"), '55P030002_more|t', 'each time for that');
is($k->exec("SELECT count(*) FROM news WHERE news = 'retry' AND attempts = 1 AND error ->> 'detail' IS NOT NULL"), '0', 'who has the lock nobody knows at first');
like($k->exec("SELECT error ->> 'detail' FROM news WHERE news = 'retry' ORDER BY id DESC LIMIT 1"), qr/^Process @{[ $holder->pid ]} of role "postgres".* has AccessShareLock on "notes"\.$/, '... and is told the next time');
$holder->run('ROLLBACK');
is($s->finish->{state}, '', 'the call ends');
is($k->exec("SELECT news, from_version, version, applied, attempts > 2 FROM news ORDER BY id DESC LIMIT 1"), 'done|1|2|1|t', 'with success, when the lock is free');
is($k->exec("SELECT count(*) FROM news WHERE news = 'begun'"), '1', 'it is said to begin once');

# Somebody else migrates it
drive(['one/public'], 1, direction => 'down');
$holder->run("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('kessel_router public', 0))");
ok_run(drive(['one/public'], 2), '1|failed|1|1|0|55P03|||', 'another session at the same schema');
like($k->exec("SELECT error ->> 'message' FROM news WHERE news = 'failed'"), qr/^another session migrates schema "public"$/, 'says so');
is($k->exec("SELECT kessel.create_data_source('one_more', '" . $k->url($one, owner => 1) . "') IS NULL"), 'f', 'the same database under another name');
$s->start(call(['one/public', 'one_more/public'], 2, lock_retries => 20, lock_timeout => '100 ms'));
ok($k->node->poll_query_until('infra', "SELECT count(DISTINCT n) = 2 FROM news WHERE news = 'retry'"), 'two at once wait');
$holder->run('ROLLBACK');
is($s->finish->{state}, '', 'until it is free');
is($k->exec("SELECT string_agg(concat_ws(' ', news, version, applied), ', ' ORDER BY applied) FROM news WHERE news NOT IN ('begun', 'retry')"), 'done 2 0, done 2 1', 'one of them does it, the other finds it done');
drive(['one/public'], 1, direction => 'down');

#
# Time
#
sub busy { return "count(*) FROM (SELECT generate_series(1, $_[0])) AS busy" }
my $for_ever = busy('100000000000');
migration('0002_more', "SELECT 1;\nSELECT $for_ever", '');
sub nothing_runs
{
    my ($what) = @_;
    ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND state <> 'idle'"), "$what: nothing runs on there");
    is(record($one, 'public'), '1 applied 0', "$what: nothing was changed");
    return;
}
my $at_work = "state = 'active' AND query LIKE '%busy'";
sub is_at_work { return $one->{node}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND $at_work") }
{
    my $start = time;
    ok_run(drive(['one/public'], 2, timeout => '1 s'), '1|failed|1|1|0|57014|0002_more|2|2', 'the time is over');
    cmp_ok(time - $start, '<', 5 * $slow, 'it does not take longer');
    nothing_runs('late');
}
foreach my $how ('pg_cancel_backend', 'pg_terminate_backend')
{
    my $victim = $how =~ /cancel/ ? $s : $k->session;
    $victim->start(call(['one/public'], 2));
    ok(is_at_work(), "$how: it is at work");
    ok($k->node->poll_query_until('infra', "SELECT news || n = 'begun1' FROM news"), "$how: which others see");
    $k->exec("SELECT $how(" . $victim->pid . ')');
    like($victim->finish->{state}, qr/^57014|57P01$/, "$how: the call ends");
    nothing_runs($how);
}
# kill -9: the target notices by itself.
{
    my $victim = $k->session;
    my $log = -s $k->node->logfile;
    $k->exec("ALTER SYSTEM SET restart_after_crash = on; SELECT pg_reload_conf()");
    $victim->start(call(['one/public'], 2));
    ok(is_at_work() && $k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM news"), 'kill -9 of the session: it is at work');
    kill 'KILL', $victim->pid;
    $k->node->wait_for_log(qr/database system is ready to accept connections/, $log);
    $victim->finish;
    nothing_runs('kill -9 of the session');
    $s->quit;
    $s = $k->session;
    is($k->exec("SELECT news, n FROM news"), 'begun|1', 'what was told before is committed');
}
# An error that is caught ends it, and the session goes on.
$k->exec(q{CREATE PROCEDURE catches() LANGUAGE plpgsql AS $$ BEGIN
    PERFORM kessel._migration_begin(gen_random_uuid(), 'crm', 'up', 2, false, 1, '1 min', '1 s', 0, ARRAY(SELECT id FROM app.data_sources WHERE name = 'one'), '{public}');
    SET LOCAL statement_timeout = '1 s';
    BEGIN LOOP PERFORM * FROM kessel._migration_next('10 s'); END LOOP; EXCEPTION WHEN query_canceled THEN NULL; END;
    SET LOCAL statement_timeout = 0;
    RAISE NOTICE 'open: %', kessel._migration_open();
END $$});
like($s->run("SET statement_timeout = '1s'; CALL catches(); RESET statement_timeout")->{err}, qr/open: 0|canceling/, 'an error that is caught ends it');
$s->run('RESET statement_timeout');
nothing_runs('caught');

#
# kill -9 of the target's backend, in each phase; all of its server goes
#
sub crash
{
    my ($what, $query, $news) = @_;
    my $log = -s $one->{node}->logfile;
    $s->start(call(['one/public'], 2));
    ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND $query"), "kill -9 $what: it is there");
    kill 'KILL', $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{owner}' AND $query");
    is($s->finish->{state}, '', "kill -9 $what: the call goes on");
    ok_run($s->run($told), $news, "kill -9 $what: the outcome");
    $one->{node}->wait_for_log(qr/database system is ready to accept connections/, $log);
    return;
}
crash('in a statement', $at_work, '1|failed|1|1|0|08006|||');
is(record($one, 'public'), '1 applied 0', 'nothing was changed');
migration('0002_more', "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS \$f\$ BEGIN PERFORM $for_ever; RETURN NULL; END \$f\$; CREATE TABLE slow (id int);" . q{
    CREATE CONSTRAINT TRIGGER t AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slowly(); INSERT INTO slow VALUES (1)}, '');
crash('while it commits', "state = 'active' AND query = 'COMMIT'", '1|unknown|1||0|08007|||');
is(record($one, 'public'), '1 applied 0', 'it was not committed');
migration('0002_more', 'CREATE TABLE two (id int)', 'DROP TABLE two');
ok_run(drive(['one/public'], 2), '1|done|1|2|1||||', 'the next run finishes it');
drive(['one/public'], 0, direction => 'down');

#
# The connection is lost at each message, or its answer
#
my $proxy = KesselProxy->new($one->{port});
my $proxied = $k->url($one, owner => 1) =~ s/:$one->{port}\//":" . $proxy->port . "\/"/er;
$k->exec("SELECT kessel.create_data_source('proxied', '$proxied')");
my @message = ('kessel_agent.migrations', 'START TRANSACTION', 'DO ', 'CREATE TABLE two', 'INSERT INTO kessel_agent', 'P:COMMIT', 'DISCARD ALL');
foreach my $how (qw(lose deafen hang))
{
    foreach my $at (@message)
    {
        $s->run('SELECT kessel.disconnect()');
        drive(['one/public'], 0, direction => 'down');
        $proxy->on($at, $how);
        my ($news) = split /\|/, drive(['proxied/public'], 2, timeout => 3 * $slow . ' s')->{out} =~ s/^1\|//r;
        my $r = $s->run($told);
        my $expected = $at eq 'P:COMMIT' ? 'unknown|0||0|08007' : $at eq 'DISCARD ALL' ? 'done|0|2|2|' : qr/failed\|0?\|0?\|0\|(08006|57014)/;
        like($r->{out}, ref $expected ? qr/^1\|$expected/ : qr/^1\|\Q$expected\E/, "$how at $at: " . $news) or diag($r->{err});
        ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND state <> 'idle' AND backend_type = 'client backend'"), "$how at $at: nothing is left there") if $how ne 'hang';
        $proxy->drop;
        $proxy->resume;
        my $had = record($one, 'public');
        my $complete = lines('1 applied 0', '2 applied 0');
        ok($had eq '' || $had eq $complete, "$how at $at: all or nothing") or diag($had);
        is($had, $complete, "$how at $at: what was done is done") if $news eq 'done' || ($at eq 'P:COMMIT' && $how eq 'deafen');
        like(drive(['one/public'], 2)->{out}, qr/^1\|done\|[02]\|2\|/, "$how at $at: the next run goes on");
    }
}
$proxy->stop;
drive(['one/public'], 0, direction => 'down');

#
# Outside of a transaction
#
migration('0002_more', 'CREATE INDEX CONCURRENTLY notes_text ON notes (text)', 'DROP INDEX CONCURRENTLY IF EXISTS notes_text', alone => 1);
migration('0003_empty', "INSERT INTO notes VALUES (3, 'three');\nCREATE UNIQUE INDEX CONCURRENTLY notes_unique ON \"\@tenant\".notes (text);\nUPDATE notes SET text = 'done' WHERE id = 3;\nSELECT 1", "DELETE FROM notes WHERE id = 3; DROP INDEX CONCURRENTLY IF EXISTS notes_unique", alone => 1);
migration('0004_last', 'CREATE TABLE last (id int)', 'DROP TABLE last');
sub valid { return $k->data_exec($one, q{SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ', ' ORDER BY indexrelid::regclass::text COLLATE "C") FROM pg_index WHERE indrelid = 'public.notes'::regclass AND NOT indisprimary}) }
ok_run(drive(['one/public'], 4), '1|done|0|4|4||||', 'alone, before and after others');
is(valid(), 'notes_text true, notes_unique true', 'the indexes are there');
is(record($one, 'public'), lines(map { "$_ applied 0" } 1 .. 4), 'and recorded as others');
is($k->data_exec($one, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no lock is left');
ok_run(drive(['one/public'], 1, direction => 'down'), '1|done|4|1|3||||', 'down');
is(record($one, 'public') . valid(), '1 applied 0', 'they are gone');
# An error: what was done stays, and is known.
$k->data_exec($one, "INSERT INTO notes VALUES (10, 'twice'), (11, 'twice')");
ok_run(drive(['one/public'], 4), '1|failed|1|2|1|23505|0003_empty|2|2', 'an error in the second statement');
is(record($one, 'public'), lines('1 applied 0', '2 applied 0', '3 applying 1'), 'the record says how far it is');
is(valid(), 'notes_text true, notes_unique false', 'an index that is not valid is left');
is($k->data_exec($one, 'SELECT count(*) FROM notes WHERE id = 3'), '1', 'with what the first one did');
ok_run(drive(['one/public'], 2), '1|done|2|2|0||||', 'it has the version before');
$k->data_exec($one, 'DELETE FROM notes WHERE id = 11');
ok_run(drive(['one/public'], 4), '1|done|2|4|2||||', 'it is gone on with after the statement that is done, and the index is made anew');
is(valid(), 'notes_text true, notes_unique true', 'which is valid');
is($k->data_exec($one, 'SELECT text FROM notes WHERE id = 3'), 'done', 'and then what comes after it');
# The other way while it is half done
drive(['one/public'], 2, direction => 'down');
$k->data_exec($one, "INSERT INTO notes VALUES (11, 'twice')");
drive(['one/public'], 4);
ok_run(drive(['one/public'], 1, direction => 'down'), '1|done|2|1|2||||', 'down from half of one');
is(record($one, 'public') . valid(), '1 applied 0', 'nothing is left of it');
$k->data_exec($one, 'DELETE FROM notes WHERE id = 11');
migration('0003_empty', "INSERT INTO notes VALUES (3, 'three');\nCREATE UNIQUE INDEX CONCURRENTLY notes_unique ON notes (text);\nUPDATE notes SET text = 'done' WHERE id = 3;\nSELECT 1", "DELETE FROM notes WHERE id = 3; SELECT 1/0; DROP INDEX CONCURRENTLY notes_unique", alone => 1);
drive(['one/public'], 3);
ok_run(drive(['one/public'], 1, direction => 'down'), '1|failed|3|2|0|22012|0003_empty|2|1', 'a way down that fails half way');
is(record($one, 'public'), lines('1 applied 0', '2 applied 0', '3 reverting 1'), 'is recorded as such');
$k->exec("UPDATE kessel.migrations SET down = replace(down, '1/0', '1/1') WHERE blueprint = 'crm' AND version = 3");
ok_run(drive(['one/public'], 1, direction => 'down'), '1|done|2|1|2||||', 'and gone on with');
is(record($one, 'public') . valid(), '1 applied 0', 'to the end');

# The connection is lost at each message, or its answer
migration('0002_more', "CREATE TABLE two (id int);\nCREATE INDEX CONCURRENTLY notes_text ON notes (text);\nDROP TABLE IF EXISTS two", 'DROP TABLE IF EXISTS two; DROP INDEX CONCURRENTLY IF EXISTS notes_text', alone => 1);
$k->exec("DELETE FROM kessel.migrations WHERE blueprint = 'crm' AND version > 2");
$proxy = KesselProxy->new($one->{port});
$proxied = $k->url($one, owner => 1) =~ s/:$one->{port}\//":" . $proxy->port . "\/"/er;
$k->exec("SELECT kessel.alter_data_source('proxied', '$proxied')");
my $steps = 0;
foreach my $how (qw(lose deafen))
{
    foreach my $at ('pg_try_advisory', 'INSERT INTO kessel_agent', 'CREATE INDEX CONCURRENTLY', 'DROP TABLE IF EXISTS', 'DISCARD ALL')
    {
        $s->run('SELECT kessel.disconnect()');
        drive(['one/public'], 1, direction => 'down');
        is(valid(), '', 'it is not there') or diag($s->run('SELECT * FROM news')->{out});
        $proxy->on($at, $how);
        my $r = drive(['proxied/public'], 2, timeout => '10 s');
        like($r->{out}, $at eq 'DISCARD ALL' ? qr/^1\|done\|1\|2\|1/ : qr/^1\|failed\|1\|1\|0\|08006\|/, "$how at $at: " . $r->{out} =~ s/^1\|(\w+).*/$1/r) or diag($r->{err});
        ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND state <> 'idle' AND backend_type = 'client backend'"), "$how at $at: nothing is left there");
        $proxy->drop;
        my $had = record($one, 'public');
        my $there = $k->data_exec($one, "SELECT to_regclass('two') IS NOT NULL");
        # A statement that was done and not noted is run again, which this one does not stand.
        $k->data_exec($one, 'DROP TABLE two') if $had =~ /applying 0/ && $there eq 't';
        ok_run(drive(['one/public'], 2, lock_retries => 5), $at eq 'DISCARD ALL' ? '1|done|2|2|0||||' : '1|done|1|2|1||||', "$how at $at: the next run goes on") or diag($had);
        is(valid() . record($one, 'public'), 'notes_text true' . lines('1 applied 0', '2 applied 0'), "$how at $at: and finishes it");
        $steps++;
    }
}
is($steps, 10, 'all of them');
$proxy->stop;
# kill -9 of the target's server while the index is made: it waits for a transaction that is older
drive(['one/public'], 1, direction => 'down');
$holder = holder();
$holder->run('BEGIN; UPDATE notes SET text = text');
{
    my $log = -s $one->{node}->logfile;
    $s->start(call(['one/public'], 2, lock_timeout => '1 min'));
    ok($one->{node}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = '$one->{owner}' AND query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"), 'kill -9 while an index is made');
    kill 'KILL', $k->data_exec($one, "SELECT pid FROM pg_stat_activity WHERE usename = '$one->{owner}' AND query LIKE 'CREATE INDEX%'");
    is($s->finish->{state}, '', 'the call goes on');
    ok_run($s->run($told), '1|failed|1|1|0|08006|0002_more|2|2', 'the outcome');
    $one->{node}->wait_for_log(qr/database system is ready to accept connections/, $log);
    is(valid() . record($one, 'public'), 'notes_text false' . lines('1 applied 0', '2 applying 1'), 'an invalid index, and the record');
}
$holder = holder();
$k->data_exec($one, 'REINDEX INDEX notes_text');
my $index = $k->data_exec($one, "SELECT 'notes_text'::regclass::oid");
ok_run(drive(['one/public'], 2), '1|done|1|2|1||||', 'where the index is valid');
is($k->data_exec($one, "SELECT 'notes_text'::regclass::oid"), $index, 'it counts as made');
drive(['one/public'], 1, direction => 'down');
# A lock that is not had: the index is left invalid, and the next attempt makes it
$holder->run('BEGIN; UPDATE notes SET text = text');
$s->start(call(['one/public'], 2, lock_timeout => '300 ms', lock_retries => 20));
ok($k->node->poll_query_until('infra', "SELECT count(*) >= 1 FROM news WHERE news = 'retry'"), 'an index that waits in vain');
$holder->run('ROLLBACK');
is($s->finish->{state}, '', 'is made later');
is(valid() . record($one, 'public'), 'notes_text true' . lines('1 applied 0', '2 applied 0'), 'all is there');
drive(['one/public'], 0, direction => 'down');

#
# Many statements, and large ones
#
{
    my $many = join '', map { "CREATE TABLE t$_ (id int);\nINSERT INTO t$_ SELECT generate_series(1, 3);\n" } 1 .. 700;
    my $wide = join '', map { "INSERT INTO wide VALUES ('" . ('x' x 50_000) . "');\n" } 1 .. 40;
    migration('0002_more', $many . "CREATE TABLE wide (v text);\n$wide" . 'SELECT repeat(v, 20) FROM wide', join('', map { "DROP TABLE t$_;" } 1 .. 700) . 'DROP TABLE wide');
    $k->data_exec($one, q{ALTER SYSTEM SET max_locks_per_transaction = 200});
    $one->{node}->restart;
    $holder = holder();
    ok_run(drive(['one/public'], 2), '1|done|0|2|2||||', 'many statements and large ones');
    is($k->data_exec($one, "SELECT count(*), sum(length(v)) FROM wide") . $k->data_exec($one, "SELECT count(*) FROM t700"), '40|20000003', 'all are there');
    ok_run(drive(['one/public'], 0, direction => 'down'), '1|done|2|0|2||||', 'and back');
    migration('0002_more', $many . 'SELECT 1 / 0');
    ok_run(drive(['one/public'], 2), '1|failed|0|0|0|22012|0002_more|1401|1401', 'the last one of many fails');
    is(record($one, 'public'), '', 'nothing is left');
}
migration('0002_more', 'SELECT 1', '');

#
# Who does not begin any more
#
migration('0001_slow', 'SELECT ' . busy(20_000_000), '', blueprint => 'slow');
my @six = ('one/public', 'schemas/schema_a', 'schemas/schema_b', 'solo_a/public', 'solo_b/public', 'shared/public');
ok_run(drive(\@six, 1, blueprint => 'slow', max_parallel => 1, stop_after => 1), '1|done|0|1|1||||', 'stopped: who has begun ends, the others are not told of');
is($k->exec('SELECT count(*) FROM news'), '2', 'with no other word');
ok_run(drive(\@six, 1, blueprint => 'slow', max_parallel => 4), lines('1|done|1|1|0||||', map { "$_|done|0|1|1||||" } 2 .. 6), 'the others later');
drive(\@six, 0, blueprint => 'slow', direction => 'down');
$holder->run("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('kessel_router public', 0))");
ok_run(drive(['one/public', 'one/none'], 1, lock_retries => 20, max_parallel => 1, stop_after => 3), lines('1|failed|0|0|0|55P03|||', '2|failed|||0|KR005|||'), 'stopped: who waits to be begun again has failed');
$holder->run('ROLLBACK');

#
# What is asked of it
#
my $ids = "ARRAY(SELECT id FROM app.data_sources WHERE name = 'one')";
my $good = "gen_random_uuid(), 'crm', 'up', 1, false, 1, '1 s', '1 s', 0, $ids";
foreach my $case (
    [ "$good, '{}'", '2202E' ], [ "$good, '{NULL}'", '22004' ], [ "$good, NULL", '22004' ], [ "NULL, 'crm', 'up', 1, false, 1, '1 s', '1 s', 0, $ids, '{x}'", '22004' ],
    [ "gen_random_uuid(), 'none', 'up', 1, false, 1, '1 s', '1 s', 0, $ids, '{x}'", '42704' ], [ "gen_random_uuid(), 'crm', 'sideways', 1, false, 1, '1 s', '1 s', 0, $ids, '{x}'", '22023' ],
    [ "gen_random_uuid(), 'crm', 'up', -1, false, 1, '1 s', '1 s', 0, $ids, '{x}'", '22023' ], [ "gen_random_uuid(), 'crm', 'up', 1, false, 0, '1 s', '1 s', 0, $ids, '{x}'", '22023' ],
    [ "gen_random_uuid(), 'crm', 'up', 1, false, 1001, '1 s', '1 s', 0, $ids, '{x}'", '22023' ], [ "gen_random_uuid(), 'crm', 'up', 1, false, 1, '-1 s', '1 s', 0, $ids, '{x}'", '22023' ],
    [ "gen_random_uuid(), 'crm', 'up', 1, false, 1, '1 s', '1 year', 0, $ids, '{x}'", '22023' ], [ "gen_random_uuid(), 'crm', 'up', 1, false, 1, '1 s', '1 s', -1, $ids, '{x}'", '22023' ])
{
    like_error($s->run("SELECT kessel._migration_begin($case->[0])"), $case->[1], qr/./, "$case->[0]: $case->[1]");
}
like_error($s->run('SELECT * FROM kessel._migration_next(NULL)'), '55000', qr/no migrations are under way/, 'none is under way');
like_error($s->run('SELECT kessel._migration_stop()'), '55000', qr/no migrations are under way/, 'so there is nothing to stop');
ok_run($s->run('SELECT kessel._migration_open()'), '0', 'none is open');
ok_run($s->run("SELECT kessel._migration_begin($good, '{public}'); SELECT kessel._migration_open()"), "\n0", 'a statement has it for itself');
ok_run($s->run("SELECT b IS NULL, kessel._migration_open(), (SELECT min(news) FROM kessel._migration_next('1 s')) FROM kessel._migration_begin($good, '{public}') b"), 'f|1|begun', 'within one statement');
like_error($s->run("DO \$\$ BEGIN PERFORM kessel._migration_begin($good, '{public}'); PERFORM kessel._migration_begin($good, '{public}'); END \$\$"), '55000', qr/migrations are under way/, 'two at once');
ok_run($s->run("DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP PERFORM kessel._migration_begin($good, '{public}'); COMMIT; WHILE kessel._migration_open() > 0 LOOP PERFORM kessel._migration_next('1 s'); COMMIT; END LOOP; END LOOP; END \$\$"), '', 'several after each other, in a DO block');
like_error($s->run("BEGIN READ ONLY; SELECT kessel._migration_begin($good, '{public}')"), '25006', qr/read-only/, 'a transaction that is read only');
$s->run('ROLLBACK');
foreach my $user (qw(app service stranger))
{
    like_error($k->run("SELECT kessel._migration_begin($good, '{public}')", user => $user), '42501', qr/permission denied/, "$user may not");
}
my $admin = $k->session(user => 'admin');
ok_run($admin->run("SELECT (SELECT min(news) FROM kessel._migration_next('1 s')) FROM kessel._migration_begin(gen_random_uuid(), 'crm', 'up', 1, false, 1, '1 s', '1 s', 0, (SELECT array_agg(data_source_id) FROM (SELECT DISTINCT t.data_source_id FROM app.tenants t WHERE slug = 'solo-a') x), '{public}')"), 'begun', 'an administrator may');

done_testing();

# What is recorded of secrets that are opened, in the log and in app.audit_log:
# whatever becomes of the transaction, the backend and the worker.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use JSON::PP ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir  = PostgreSQL::Test::Utils::tempdir();
my $key  = KesselTest::root_key_file("$dir/root.key");
my $mark = 'kr-audit-mark';
my $user = 'aaaaaaaa-0000-4000-8000-00000000000a';
my $acme = '00000000-0000-4000-8000-000000000001';
my $k    = KesselTest->new(
    conf => "shared_preload_libraries = 'kessel_router'\nkessel.root_key_file = '$key'\nmax_wal_senders = 5\nwal_level = replica\n"
      . "log_min_messages = error\nlog_line_prefix = '%m [%p] %q%d %u '\nkessel.alert_reveals = 0\nkessel.alert_failures = 0\nrestart_after_crash = on\n");
my $node = $k->node;

# Lines of the log since the last call of mark(), as hashes.
my $offset = 0;
sub mark { return $offset = -s $node->logfile; }

sub lines
{
    my (%opt) = @_;
    my $tag = $opt{tag} || 'kessel_audit';
    my $log = slurp_file($node->logfile, $offset);
    my @lines = map { JSON::PP::decode_json($_) } $log =~ /LOG:  $tag: (\{.*\})$/mg;
    return $opt{action} ? grep { $_->{action} eq $opt{action} } @lines : @lines;
}

sub total { my $sum = 0; $sum += $_->{count} foreach @_; return $sum; }

# The secrets of some lines, one or many.
sub secrets { return map { $_->{secrets} ? map { $_->[0] } @{ $_->{secrets} } : $_->{secret_id} // () } @_; }

# Waits for the table to have this many rows, of those that the condition tells.
sub rows_ok
{
    my ($where, $count, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = $node->poll_query_until('infra', "SELECT count(*) = $count FROM app.audit_log WHERE $where");
    ok($ok, $name) or diag($k->exec("SELECT count(*) FROM app.audit_log WHERE $where"));
    return;
}

sub last_id { return $k->exec('SELECT coalesce(max(id), 0) FROM app.audit_log'); }

sub worker { return $k->exec('SELECT worker_pid FROM kessel.audit_status()'); }

sub settled { $node->poll_query_until('infra', 'SELECT pending = 0 FROM kessel.audit_status()') or die 'records wait'; return; }

# A view reads, and opens, only the rows that are asked for by leakproof
# operators: BETWEEN is, LIKE is not.
$k->exec("SELECT count(vault.create_secret('$mark-' || i, 'many-' || to_char(i, 'FM000'), new_tenant_id => CASE WHEN i % 2 = 0 THEN '$acme'::uuid END)) FROM generate_series(1, 100) i");
$k->exec("SELECT vault.create_secret('$mark', 'one', new_tenant_id => '$acme')");
my $one = $k->exec("SELECT id FROM vault.secrets WHERE name = 'one'");

#
# One record
#
mark();
my $url = 'host=127.0.0.1 port=' . $node->port . ' dbname=infra user=postgres';
my $app = 'a "quoted" create_secret \\';
is($k->run("SET application_name = '$app'; CREATE ROLE \"odd \"\"role\" SUPERUSER; SET ROLE \"odd \"\"role\"; SELECT vault.reveal('one')", url => $url, sub => $user)->{out}, $mark, 'a secret is revealed');
my @lines = lines();
is(scalar(@lines), 1, 'one line');
my $line = $lines[0];
my $pid = delete $line->{pid};
like($pid, qr/^\d+$/, 'with the process id');
like(delete $line->{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, 'and the time in UTC');
is_deeply($line, {
        action => 'open', purpose => 'reveal', ok => JSON::PP::true, role => 'odd "role', login_role => 'postgres', as_role => undef, user_id => $user,
        tenant_id => $acme, secret_id => $one, version => 1, count => 1, sqlstate => undef, reason => undef, database => 'infra',
        client_addr => '127.0.0.1', application_name => $app, standby => JSON::PP::false
    }, 'and all the rest') or diag(explain($line));
rows_ok("action = 'open'", 1, 'a row in the table');
is($k->exec("SELECT id, action, purpose, ok, role_name, login_role, as_role, user_id, tenant_id, secret_id, version, count, sqlstate, reason, pid, client_addr, application_name, occurred_at BETWEEN now() - interval '1 minute' AND now() FROM app.audit_log"),
    "1|open|reveal|t|odd \"role|postgres||$user|$acme|$one|1|1|||$pid|127.0.0.1|$app|t", 'with the same in it');

# Through a function of another's: who has called it, and whose privilege it was.
$k->exec("CREATE FUNCTION public.read_one() RETURNS text LANGUAGE sql SECURITY DEFINER AS \$\$SELECT vault.reveal('one')\$\$");
mark();
is($k->run('SELECT public.read_one()', user => 'app')->{out}, $mark, 'a function of its owner\'s reveals');
is_deeply([ @{ (lines())[0] }{qw(role login_role as_role)} ], [ 'app', 'app', 'postgres' ], 'both stand in the line');
settled();
is($k->exec('SELECT role_name, login_role, as_role FROM app.audit_log ORDER BY id DESC LIMIT 1'), 'app|app|postgres', 'and in the row');
mark();
is($k->run("SELECT vault.reveal('one')", user => 'app')->{state}, '42501', 'without it the role is refused');
is((lines())[0]->{as_role}, undef, 'as itself');

mark();
is($k->run("SELECT vault.reveal('one')", claims => '{broken')->{out}, $mark, 'malformed claims keep nobody from opening');
is((lines())[0]->{user_id}, undef, 'and name no user');
$k->run("SELECT set_config('request.jwt.claims', '{\"sub\": \"$user\"}', false); SELECT vault.reveal('one'); SELECT set_config('request.jwt.claims', '[', false); SELECT vault.reveal('one'); SELECT set_config('request.jwt.claims', '{\"sub\": \"$user\"}', false); SELECT vault.reveal('one')");
is(join(',', map { $_->{user_id} // 'null' } (lines())[ 1 .. 3 ]), "$user,null,$user", 'the user is that of the moment');
mark();
$k->exec("CREATE ROLE renamed SUPERUSER; SET ROLE renamed; SELECT vault.reveal('one'); RESET ROLE; ALTER ROLE renamed RENAME TO newname; SET ROLE newname; SELECT vault.reveal('one')");
is(join(',', map { $_->{role} } lines()), 'renamed,newname', 'and so is the name of the role');
settled();

#
# Many at once
#
mark();
is($k->exec("SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'"), '100', 'a view reveals many');
@lines = lines();
is(scalar(@lines), 4, 'in few lines');
is(total(@lines), 100, 'that count them');
my %seen = map { $_ => 1 } secrets(@lines);
is(join(',', sort keys %seen), $k->exec("SELECT string_agg(id::text, ',' ORDER BY id::text) FROM vault.secrets WHERE name BETWEEN 'many-001' AND 'many-100'"), 'and name them all');
is(scalar(grep { length(JSON::PP::encode_json($_)) > 4000 } @lines), 0, 'and are not too long for a pipe');
my %tenant = map { $_->[0] => $_->[2] // '' } map { @{ $_->{secrets} } } @lines;
is(scalar(grep { $_ eq $acme } values %tenant), 50, 'with their tenants');
rows_ok("secret_id IN (SELECT id FROM vault.secrets WHERE name BETWEEN 'many-001' AND 'many-100')", 100, 'and each is a row');
is($k->exec("SELECT count(*) FROM app.audit_log a JOIN vault.secrets s ON s.id = a.secret_id AND s.tenant_id IS NOT DISTINCT FROM a.tenant_id AND s.version = a.version WHERE s.name BETWEEN 'many-001' AND 'many-100'"), '100', 'with its tenant and version');

mark();
$k->exec("SELECT count(decrypted_secret), count(vault.reveal('one')) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-009'");
is(total(lines()), 18, 'single records among gathered ones lose nothing');
mark();
$k->exec("SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-009'; SET ROLE newname; SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-009'");
is(join(',', map { "$_->{role} $_->{count}" } lines()), 'postgres 9,newname 9', 'what two roles open is apart');
settled();

# A cursor: its lines are there before the next FETCH.
my $s = $k->session;
mark();
$s->run("BEGIN; DECLARE c CURSOR FOR SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'; FETCH 5 FROM c");
is(total(lines()), 5, 'what a cursor has fetched is recorded while the transaction is open');
$s->run('FETCH 40 FROM c');
is(total(lines()), 45, 'and so on');
$s->run('ROLLBACK');
is(total(lines()), 45, 'once');

#
# Transactions that leave nothing else
#
my $id = last_id();
settled();
mark();
$id = last_id();
is($k->run("BEGIN; SELECT vault.reveal('one'); ROLLBACK")->{out}, $mark, 'rolled back');
is($k->run("BEGIN; SAVEPOINT s; SELECT vault.reveal('one'); SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-009'; ROLLBACK TO s; COMMIT")->{state}, '', 'rolled back to a savepoint');
is($k->run("BEGIN TRANSACTION READ ONLY; SELECT vault.reveal('one'); SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-009'; COMMIT")->{state}, '', 'read only');
is($k->run("SELECT vault.reveal('one'), 1 / (random() * 0)::integer")->{state}, '22012', 'failed afterwards');
is($k->run("BEGIN; SELECT vault.reveal('one'); PREPARE TRANSACTION 'audit'")->{state}, '', 'prepared');
is($k->run("ROLLBACK PREPARED 'audit'")->{state}, '', 'and rolled back');
is(total(lines()), 5 + 2 * 9, 'each has its line');
rows_ok("id > $id", 5 + 2 * 9, 'and its row');

# An error, a cancellation, a termination in mid-scan: after the 40th row.
$k->exec(<<'SQL');
CREATE SEQUENCE rows_seen;
CREATE FUNCTION at_row(n bigint, what text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF nextval('rows_seen') = n THEN
        IF what = 'wait' THEN PERFORM pg_advisory_lock(1); ELSE RAISE 'at row %', n; END IF;
    END IF;
END $$;
GRANT ALL ON SEQUENCE rows_seen TO PUBLIC;
SQL
my $scan = "SELECT setval('rows_seen', 1, false); SELECT length(decrypted_secret), at_row(40, '%s') FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'";
my $holder = $k->session;
$holder->run('SELECT pg_advisory_lock(1)');

sub scan_until_waiting
{
    my ($session) = @_;
    mark();
    $id = last_id();
    $session->start(sprintf $scan, 'wait');
    $node->poll_query_until('postgres', 'SELECT wait_event = \'advisory\' FROM pg_stat_activity WHERE pid = ' . $session->pid) or die 'the scan does not wait';
    return;
}

settled();
mark();
$id = last_id();
is($s->run(sprintf $scan, 'raise')->{state}, 'P0001', 'an error in mid-scan');
is(total(lines()), 40, 'what was opened before is in the log');
rows_ok("id > $id", 40, 'and in the table');
scan_until_waiting($s);
$k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
is($s->finish->{state}, '57014', 'cancelled in mid-scan');
is(total(lines()), 40, 'what was opened before is in the log');
rows_ok("id > $id", 40, 'and in the table');
mark();
$id = last_id();
is($s->run("SET statement_timeout = '300ms'; SELECT setval('rows_seen', 1, false); SELECT length(decrypted_secret), at_row(40, 'wait') FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'")->{state}, '57014', 'timed out in mid-scan');
is(total(lines()), 40, 'what was opened before is in the log');
rows_ok("id > $id", 40, 'and in the table');
$s->run('RESET statement_timeout');
scan_until_waiting($s);
$k->exec('SELECT pg_terminate_backend(' . $s->pid . ')');
$s->finish;
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ' . $s->pid);
is(total(lines()), 40, 'a terminated backend leaves what it has opened');
rows_ok("id > $id", 40, 'in the table, too');
$s->quit;

#
# Failures
#
$k->exec("SELECT vault.create_secret('$mark', 'other'); SELECT vault.create_secret('$mark', 'expired'); SELECT vault.create_secret('$mark', 'lost key', new_tenant_id => gen_random_uuid())");
$k->exec("UPDATE vault.secrets SET version = 9 WHERE name = 'other'; UPDATE vault.secrets SET expires_at = now() - interval '1 day' WHERE name = 'expired'; UPDATE vault.keys SET status = 'destroyed', wrapped_key = NULL WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 'lost key')");
settled();
$id = last_id();
my %id_of = map { split /\|/ } split /\n/, $k->exec("SELECT name, id FROM vault.secrets WHERE name IN ('one', 'other', 'expired', 'lost key')");
foreach my $case (
    [ 'one',      'admin',    '42501', qr/^no privilege reveal$/ ],
    [ 'other',    'postgres', 'KR011', qr/altered/ ],
    [ 'lost key', 'postgres', 'KR011', qr/key/ ],
    [ 'expired',  'postgres', 'KR012', qr/expired/ ])
{
    my ($name, $who, $state, $reason) = @$case;
    mark();
    is($k->run("SELECT vault.reveal('$id_of{$name}'::uuid)", user => $who)->{state}, $state, "reveal of the secret $name by $who: $state");
    my ($line) = lines();
    ok($line && !$line->{ok} && $line->{sqlstate} eq $state && $line->{reason} =~ $reason && $line->{secret_id} eq $id_of{$name} && $line->{role} eq $who, 'its line') or diag(explain($line));
}
mark();
is($k->run('SELECT vault.reveal(gen_random_uuid())')->{state}, '02000', 'no such secret');
is((lines())[0]->{sqlstate}, '02000', 'its line');
mark();
$k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name IN ('one', 'other', 'lost key')");
is(join(',', sort map { $_->{ok} ? 'ok' : $_->{sqlstate} } lines()), 'KR011,KR011,ok', 'the view\'s rows that do not open are recorded');
rename $key, "$key.away";
mark();
is($k->run("SELECT vault.reveal('one')")->{state}, 'KR010', 'sealed');
is($k->exec("SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'"), '0', 'sealed, by the view');
is(join(',', map { "$_->{sqlstate} $_->{count}" } lines()), 'KR010 1,KR010 32,KR010 32,KR010 32,KR010 4', 'recorded');
rename "$key.away", $key;
rows_ok("id > $id AND NOT ok", 5 + 2 + 101, 'all failures are in the table');
is($k->exec("SELECT string_agg(DISTINCT sqlstate, ',' ORDER BY sqlstate) FROM app.audit_log WHERE NOT ok"), '02000,42501,KR010,KR011,KR012', 'with their SQLSTATEs');

#
# The router's own opens
#
my $shared = $k->data_cluster('shared');
$k->crm_database($shared, 'acme');
$k->data_source($shared);
$k->exec("SELECT kessel.create_tenant('acme', data_source => 'shared'); SELECT kessel.add_member('acme', '$user'); SELECT kessel.import_tables('shared', 'public'); GRANT USAGE ON SCHEMA data TO kessel_user; GRANT SELECT ON ALL TABLES IN SCHEMA data TO kessel_user");
settled();
mark();
$id = last_id();
is($k->run('SELECT count(*) FROM data.accounts', user => 'app', tenant => 'acme', sub => $user)->{out}, '5', 'a query of a tenant');
@lines = lines();
is(scalar(@lines), 1, 'opens one secret') or diag(explain(\@lines));
is("$lines[0]{action} $lines[0]{purpose} $lines[0]{role} $lines[0]{user_id}", "open route app $user", 'to route, for the user');
rows_ok("id > $id AND purpose = 'route' AND role_name = 'app'", 1, 'in the table');
mark();
$k->exec("SELECT * FROM kessel.test_data_source('shared')");
my %purposes = map { $_->{purpose} => 1 } lines();
ok($purposes{test}, 'a test of the data source is recorded') or diag(explain(\%purposes));
mark();
$k->exec("SELECT kessel.install_agent('shared')");
%purposes = map { $_->{purpose} => 1 } lines();
ok($purposes{owner}, 'and what the owner\'s credential is opened for');
mark();
$k->exec("SELECT vault.update_secret('$one', new_name => 'one more'); SELECT vault.update_secret('$one', new_name => 'one')");
is(join(' ', map { "$_->{action} $_->{purpose} $_->{version}" } lines()), 'open update 1 open update 2', 'a new name opens the secret');
mark();
$k->exec('SELECT count(*) FROM vault.verify()');
is(total(grep { $_->{purpose} eq 'verify' } lines()), $k->exec('SELECT count(*) FROM vault.secret_versions'), 'and so does verification, all versions');
mark();
is($k->run("SELECT vault.reveal('$mark no such name')")->{state}, '02000', 'no secret of this name');
is(join(' ', map { "$_->{ok} $_->{sqlstate}" } lines()), '0 02000', 'is recorded, without it');

unlike(slurp_file($node->logfile), qr/kessel_audit.*(?:$mark|many-\d)/, 'no line has a secret\'s value or name');

#
# The table is read only, and grows by the month
#
settled();
foreach my $statement ('INSERT INTO app.audit_log (occurred_at, action, ok, count, pid) VALUES (now(), \'x\', true, 1, 1)', 'UPDATE app.audit_log SET ok = true', 'DELETE FROM app.audit_log', 'TRUNCATE app.audit_log')
{
    is($k->run($statement, user => 'admin')->{state}, '42501', "an administrator may not $statement");
}
ok($k->run('SELECT count(*) FROM app.audit_log', user => 'admin')->{out} > 0, 'but may read');
is($k->run('SELECT count(*) FROM app.audit_log', user => 'app')->{state}, '42501', 'an app may not');
is($k->exec("SELECT count(*), bool_and(c.relrowsecurity) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE inhparent = 'app.audit_log'::regclass"), '4|t', 'this month and the next two have a partition');
is($k->exec('SELECT count(*) FROM app.audit_log_default'), '0', 'none is missing');
my $next = $k->exec("SELECT 'app.audit_log_' || to_char((now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYY_MM')");
$k->exec("DROP TABLE $next; INSERT INTO app.audit_log (occurred_at, action, ok, count, pid) VALUES (now() + interval '1 month', 'planted', true, 1, 1)");
$k->exec('SELECT pg_terminate_backend(' . worker() . ')');
$node->poll_query_until('infra', 'SELECT worker_pid IS NULL FROM kessel.audit_status()') or die;
$id = last_id();
mark();
$k->exec("SELECT vault.reveal('one')");
rows_ok("id > $id AND action = 'open'", 1, 'a terminated worker is replaced by the next record\'s');
is($k->exec("SELECT to_regclass('$next') IS NULL"), 't', 'a partition that cannot be made keeps no record away');
$k->exec("DELETE FROM app.audit_log WHERE action = 'planted'");

#
# Eight clients, one worker, nothing twice and nothing lost
#
settled();
$id = last_id();
mark();
append_to_file("$dir/reveal.sql", "SELECT vault.reveal('one');\n");
command_ok([ 'pgbench', '-n', '-c', '8', '-j', '2', '-t', '250', '-f', "$dir/reveal.sql", $node->connstr('infra') . ' user=postgres' ], 'eight clients');
rows_ok("id > $id", 2000, 'all that they have opened is in the table');
is(scalar(lines()), 2000, 'and in the log');
is($k->exec("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kessel_router audit worker'"), '1', 'by one worker');
is($k->exec('SELECT lost FROM kessel.audit_status()'), '0', 'nothing was lost');

#
# Nothing is held up by the worker
#
$k->exec('CREATE DATABASE brief TEMPLATE template0', db => 'postgres');
$k->exec("CREATE EXTENSION kessel_router CASCADE; SELECT vault.create_secret('x', 'x'); SELECT vault.reveal('x')", db => 'brief');
$node->poll_query_until('brief', 'SELECT count(*) = 1 FROM app.audit_log') or die 'no row in brief';
is($k->exec("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kessel_router audit worker' AND datname = 'brief'"), '1', 'each database has its worker');
$k->exec('CREATE DATABASE copied TEMPLATE brief', db => 'postgres');
is($k->exec("SELECT vault.reveal('x')", db => 'copied'), 'x', 'a database with a worker can be copied');
$node->poll_query_until('copied', 'SELECT count(*) = 2 FROM app.audit_log') or die 'no row in copied';
$k->exec("ALTER DATABASE copied RENAME TO renamed", db => 'postgres');
$k->exec("SELECT vault.reveal('x')", db => 'renamed');
$node->poll_query_until('renamed', 'SELECT count(*) = 3 FROM app.audit_log') or die 'no row in renamed';
pass('renamed');
$k->exec('DROP DATABASE renamed', db => 'postgres');
pass('dropped');
$k->exec("SELECT vault.reveal('x')", db => 'brief');
$k->exec('BEGIN; DROP EXTENSION kessel_router; ROLLBACK', db => 'brief');
$k->exec("SELECT vault.reveal('x')", db => 'brief');
$node->poll_query_until('brief', 'SELECT count(*) = 3 FROM app.audit_log') or die 'no row in brief';
$k->exec("SELECT vault.reveal('x'); DROP EXTENSION kessel_router", db => 'brief');
is($k->exec("SELECT count(*) FROM pg_class WHERE relname LIKE 'audit_log%'", db => 'brief'), '0', 'the extension is dropped with all partitions');
$k->exec("CREATE EXTENSION kessel_router CASCADE; SELECT vault.create_secret('x', 'x'); SELECT vault.reveal('x')", db => 'brief');
ok($node->poll_query_until('brief', 'SELECT count(*) = 1 FROM app.audit_log JOIN vault.secrets s ON s.id = secret_id'), 'made again, it is at work again');
$k->exec('DROP DATABASE brief', db => 'postgres');

#
# Crashes
#
$k->exec("SELECT vault.reveal('one')");
settled();
mark();
kill 'KILL', worker();
$node->poll_query_until('infra', 'SELECT true') or die 'the server does not come back';
$k->exec("SELECT vault.reveal('one')");
is(scalar(lines(action => 'open')), 1, 'after a crash of the worker');
settled();
$id = last_id();
$holder = $k->session;
$holder->run('SELECT pg_advisory_lock(1)');
$s = $k->session;
scan_until_waiting($s);
kill 'KILL', $s->pid;
$s->finish;
$node->poll_query_until('infra', 'SELECT true') or die 'the server does not come back';
cmp_ok(total(lines()), '>=', 32, 'a killed backend loses less than a line');
$_->quit foreach $holder, $s;
$id = last_id();
$k->exec("SELECT vault.reveal('one')");
rows_ok("id > $id", 1, 'and the worker is at work again');

#
# A dump has the table, with the partitions that were made later
#
settled();
my $all = 'SELECT count(*), md5(string_agg(a::text, E\'\n\' ORDER BY id)) FROM app.audit_log a';
my $before = $k->exec($all);
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", '-U', 'postgres', 'infra' ], 'dump');
$k->exec('CREATE DATABASE restored TEMPLATE template0', db => 'postgres');
$node->command_ok([ 'pg_restore', '-e', '-d', 'restored', '-U', 'postgres', "$dir/dump" ], 'restore');
is($k->exec($all, db => 'restored'), $before, 'has every row');
is($k->exec("SELECT vault.reveal('one')", db => 'restored'), $mark, 'opened there');
my ($rows) = split /\|/, $before;
ok($node->poll_query_until('restored', 'SELECT count(*) = ' . ($rows + 1) . ' FROM app.audit_log'), 'and a row is added');
is($k->exec("SELECT count(*) = count(DISTINCT id), count(*) FROM app.audit_log_default", db => 'restored'), 't|0', 'in its month\'s partition');
is($k->exec('SELECT count(*) = count(DISTINCT id) FROM app.audit_log', db => 'restored'), 't', 'with a number of its own');

#
# Alerts
#
$k->exec("ALTER SYSTEM SET kessel.alert_reveals = 10; ALTER SYSTEM SET kessel.alert_failures = 5; SELECT pg_reload_conf()");
$node->poll_query_until('infra', "SELECT current_setting('kessel.alert_reveals') = '10'") or die;
$k->exec('CREATE ROLE reader LOGIN SUPERUSER; CREATE ROLE prober LOGIN; GRANT kessel_admin TO prober');
my $listener = $k->session;
$listener->run('LISTEN kessel_alerts');
mark();
$k->run("BEGIN; SELECT vault.reveal('one') FROM generate_series(1, 10); ROLLBACK", user => 'reader');
is(scalar(slurp_file($node->logfile, $offset) =~ /kessel_alert/), '', 'the usual rate raises no alert');
$k->run("BEGIN; SELECT vault.reveal('one'); ROLLBACK", user => 'reader') foreach 1 .. 5;
my @alerts = slurp_file($node->logfile, $offset) =~ /WARNING:  kessel_alert: (\{.*\})$/mg;
is(scalar(@alerts), 1, 'one more, by another backend, does, once') or diag(@alerts);
my $alert = JSON::PP::decode_json($alerts[0]);
is("$alert->{kind} $alert->{role} $alert->{count} $alert->{window_seconds} $alert->{reason}", 'reveals reader 11 60 more than 10 in 60 seconds', 'it says what for');

sub notified
{
    my ($session, $pattern) = @_;
    foreach (1 .. 300)
    {
        my $r = $session->run('SELECT count(*) FROM generate_series(1, 10000)');
        return $r->{out} if $r->{out} =~ $pattern;
    }
    return '';
}
my $told = notified($listener, qr/"reveals"/);
like($told, qr/Asynchronous notification "kessel_alerts" with payload "\{.*"kind": "reveals", "role": "reader".*\}"/, 'and listeners are told, of transactions that were rolled back');
$id = last_id();
$k->run("SELECT vault.reveal('$one'::uuid)", user => 'prober') foreach 1 .. 6;
like(notified($listener, qr/"failures"/), qr/"role": "prober".*"count": 6/, 'failures have their own');
rows_ok("action = 'alert' AND ok AND (purpose, role_name, count) IN (('reveals', 'reader', 11), ('failures', 'prober', 6))", 2, 'alerts are rows, too');
$listener->quit;

#
# A standby: lines in its log, nothing else
#
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$rows = $standby->safe_psql('infra', 'SELECT count(*) FROM app.audit_log');
my $standby_offset = -s $standby->logfile;
is($standby->safe_psql('infra', "SELECT vault.reveal('one') FROM generate_series(1, 11)") =~ s/\n.*//sr, $mark, 'a standby opens');
@lines = map { JSON::PP::decode_json($_) } slurp_file($standby->logfile, $standby_offset) =~ /kessel_audit: (\{.*\})$/mg;
is(join(',', scalar(@lines), $lines[0]{standby}, $lines[0]{secret_id}), "11,1,$one", 'and leaves its lines');
like(slurp_file($standby->logfile, $standby_offset), qr/WARNING:  kessel_alert: .*"standby": true/, 'and an alert\'s');
is($standby->safe_psql('infra', 'SELECT buffer_kb > 0, pending, worker_pid IS NULL FROM kessel.audit_status()'), 't|0|t', 'nothing waits there');
$standby->promote;
$standby->safe_psql('infra', "SELECT vault.reveal('one')");
ok($standby->poll_query_until('infra', "SELECT count(*) = $rows + 1 FROM app.audit_log"), 'promoted, it has a worker');
$standby->stop;

#
# No room: what does not fit is counted, and nobody waits
#
$node->append_conf('postgresql.conf', "kessel.audit_buffer_size = 64kB\nkessel.alert_reveals = 0\nkessel.alert_failures = 0\n");
$k->exec('ALTER SYSTEM RESET ALL');
$node->restart;
$holder = $k->session;
$holder->run('BEGIN; LOCK TABLE app.audit_log IN ACCESS EXCLUSIVE MODE');
mark();
command_ok([ 'pgbench', '-n', '-c', '4', '-t', '250', '-f', "$dir/reveal.sql", $node->connstr('infra') . ' user=postgres' ], 'nobody waits for room');
is(total(lines(action => 'open')), 1000, 'the log has all');
my $lost = $k->exec('SELECT lost FROM kessel.audit_status()');
cmp_ok($lost, '>', 700, 'some found no room');
$holder->run('SELECT coalesce(max(id), 0) FROM app.audit_log');
$holder->run('COMMIT');
ok($node->poll_query_until('infra', "SELECT count(*) = 1 FROM app.audit_log WHERE action = 'lost' AND count = $lost AND NOT ok"), 'the loss is a record of its own');
settled();
is($k->exec("SELECT sum(count) FROM app.audit_log WHERE occurred_at > (SELECT pg_postmaster_start_time())"), 1000, 'what was stored and what was lost make up the whole');
like($k->exec("SELECT ok, detail, hint FROM kessel.doctor() WHERE \"check\" = 'audit table'"), qr/^f\|$lost audit records.*Raise kessel.audit_buffer_size/, 'the doctor tells');
$holder->quit;

#
# Without the library preloaded: the log, in whatever form
#
$node->append_conf('postgresql.conf',
    "shared_preload_libraries = ''\nsession_preload_libraries = 'kessel_router'\nlogging_collector = on\nlog_destination = 'stderr,jsonlog'\nlog_directory = 'audit_logs'\nkessel.alert_reveals = 10\n");
$node->restart;
$rows = $k->exec('SELECT count(*) FROM app.audit_log');
is($k->exec("BEGIN TRANSACTION READ ONLY; SELECT count(decrypted_secret) FROM vault.decrypted_secrets WHERE name BETWEEN 'many-001' AND 'many-100'; ROLLBACK"), '100', 'without preload');
sub json_log { return grep { /kessel_a/ } map { split /\n/, slurp_file($_) } glob($node->data_dir . '/audit_logs/*.json'); }
foreach (1 .. 300) { last if json_log() >= 5; $k->exec('SELECT count(*) FROM generate_series(1, 10000)'); }
@lines = map { JSON::PP::decode_json($_) } json_log();
is(total(map { JSON::PP::decode_json($_->{message} =~ s/^kessel_audit: //r) } grep { $_->{message} =~ /^kessel_audit/ } @lines), 100, 'lines within lines of JSON');
is(scalar(grep { $_->{error_severity} eq 'WARNING' && $_->{message} =~ /^kessel_alert: \{.*"count": 32/ } @lines), 1, 'an alert is in the log');
is(scalar(grep { exists $_->{statement} || exists $_->{context} } @lines), 0, 'without the statement');
is($k->exec('SELECT count(*) FROM app.audit_log'), $rows, 'and not in the table');
like($k->exec("SELECT ok, detail, hint FROM kessel.doctor() WHERE \"check\" = 'audit table'"), qr/^f\|.*log only.*restart: shared_preload_libraries = 'kessel_router'/, 'the doctor tells');
$listener = $k->session;
$listener->run('LISTEN kessel_alerts');
is($k->run("SELECT vault.reveal('one') FROM generate_series(1, 11) LIMIT 11")->{err}, '', 'the client is told nothing of an alert');
like(notified($listener, qr/kessel_alerts/), qr/"kind": "reveals", "role": "postgres".*"count": 11/, 'listeners are, when the transaction commits');
$listener->quit;

done_testing();

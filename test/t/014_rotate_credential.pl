# kessel.rotate_credential(): a new password, and at every moment one that works,
# whoever is killed where. A proxy before the data source holds the conversation
# at each of its steps.
use strict;
use warnings;

use lib 'test/lib';
use File::Find;
use IPC::Run ();
use JSON::PP ();
use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $log_all = "log_statement = 'all'\nlog_min_duration_statement = 0\nlog_error_verbosity = verbose\nlog_parameter_max_length = -1\n";
my $key_file = KesselTest::root_key_file(PostgreSQL::Test::Utils::tempdir() . '/root.key');
my $k = KesselTest->new(conf => <<"CONF");
shared_preload_libraries = 'pg_stat_statements, kessel_router'
pg_stat_statements.track = all
restart_after_crash = on
synchronous_commit = off
kessel.connect_timeout = 5
kessel.root_key_file = '$key_file'
wal_level = replica
max_wal_senders = 5
hot_standby = on
$log_all
CONF
$k->exec('CREATE EXTENSION pg_stat_statements');
my $d = $k->data_cluster('solo', conf => "synchronous_commit = off\nrestart_after_crash = on\nwal_level = replica\nmax_wal_senders = 5\nshared_preload_libraries = 'pg_stat_statements'\n$log_all");
$k->data_exec($d, 'CREATE EXTENSION pg_stat_statements', db => 'postgres');
$k->data_database($d, 'second');
$k->crm_database($d, 'one');
$k->crm_database($d, 'two', db => 'second');
my $proxy = KesselProxy->new($d->{port});
{
    local $d->{port} = $proxy->port;
    $k->data_source($d, name => 'one');
    $k->data_source($d, name => 'two', db => 'second');
}
foreach my $tenant (qw(one two))
{
    $k->exec("SELECT kessel.create_tenant('$tenant', data_source => '$tenant')");
}
$k->exec("SELECT kessel.import_tables('one', 'public')");
$k->exec('GRANT USAGE ON SCHEMA data TO kessel_service; GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA data TO kessel_service');

my $count    = 'SELECT count(*) FROM data.accounts';
my $name     = 'SELECT name FROM data.accounts WHERE id = 1';
my $rotate   = "CALL kessel.rotate_credential('one')";
my $pending  = 'SELECT count(*) FROM app.data_source_credentials WHERE pending_secret_id IS NOT NULL';
my $password = "SELECT v.decrypted_secret FROM vault.decrypted_secrets v JOIN app.data_source_credentials c ON c.secret_id = v.id JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = '%s' AND c.purpose = '%s'";
my %passwords;

sub password_of
{
    my ($source, $purpose) = @_;
    my $p = $k->exec(sprintf $password, $source, $purpose || 'runtime');
    $passwords{$p} = 1 if $p =~ /^[A-Za-z0-9]{40}\z/;
    return $p;
}

# Whether a password opens the data source for a role, by the proxy or not.
sub opens
{
    my ($p, $role) = @_;
    my $r = $k->run('SELECT 1', url => "postgresql://" . ($role || $d->{runtime}) . ":$p\@127.0.0.1:$d->{port}/postgres");
    return $r->{out} eq '1';
}

# New sessions, which have no connection yet, of everybody.
sub all_connect
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok_run($k->run($name, tenant => 'one', user => 'service'), 'one account 1', "$what: a new session reads");
    ok_run($k->run($name, tenant => 'two', user => 'service'), 'two account 1', "$what: by the other data source, too");
    return;
}

sub standby_of
{
    my ($node, $label) = @_;
    $node->append_conf('pg_hba.conf', "local replication all trust\n");
    $node->reload;
    $node->backup($label);
    my $standby = PostgreSQL::Test::Cluster->new($label);
    $standby->init_from_backup($node, $label, has_streaming => 1);
    # Listens where the other one does not.
    $standby->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nport = " . $standby->port . "\n");
    $standby->start;
    return $standby;
}

sub verifier { return $k->data_exec($d, "SELECT rolpassword FROM pg_authid WHERE rolname = '$d->{runtime}'", db => 'postgres') }

sub wait_until
{
    my ($what, $node, $condition) = @_;
    return ok($node->poll_query_until('postgres', "SELECT $condition"), $what);
}

sub wait_for_hits
{
    my ($n) = @_;
    my $patience = time + KesselTest::PATIENCE();
    while ($proxy->hits < $n) { return 0 if time > $patience; select undef, undef, undef, 0.02 }
    return 1;
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

#
# As it should be
#
my $before = password_of('one');
my $secret = $k->exec("SELECT secret_id FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = 'one' AND purpose = 'runtime'");
my $idle = $k->session(tenant => 'one', user => 'service');
my $busy = $k->session(tenant => 'one', user => 'service');
ok_run($idle->run($count), '5', 'a session with an idle connection');
ok_run($busy->run("BEGIN; UPDATE data.accounts SET balance = 7 WHERE id = 1"), '', 'and one in a transaction');

my $r = $k->run($rotate, user => 'admin');
is($r->{state}, '', 'an administrator rotates the credential') or diag($r->{err});
like($r->{err}, qr/new password for role "solo_runtime" is sealed.*has taken its verifier.*has a new password/s, 'and is told the steps');
like($r->{err}, qr/credential of data source "two" was changed along/, 'and which data source has the same role');
my $after = password_of('one');
like($after, qr/^[A-Za-z0-9]{40}\z/, 'the new password has 40 characters');
isnt($after, $before, 'and is another one');
is(password_of('two'), $after, 'the other data source has it, too');
ok(opens($after),   'it opens the data source');
ok(!opens($before), 'the old one does not');
like(verifier(), qr/^SCRAM-SHA-256\$/, 'there is a SCRAM verifier there');
is($k->exec("SELECT secret_id FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = 'one' AND purpose = 'runtime'"), $secret, 'the secret has kept its id');
is($k->exec("SELECT version FROM vault.secrets WHERE id = '$secret'"), '2', 'and has a new version');
is($k->exec($pending), '0', 'nothing is pending');
is($k->exec("SELECT count(*) FROM vault.secrets WHERE description LIKE 'next%'"), '0', 'and no secret left over');
ok_run($idle->run($count), '5', 'the idle connection is used on, or replaced');
ok_run($busy->run('SELECT balance FROM data.accounts WHERE id = 1; COMMIT'), '7.00', 'the transaction goes on');
ok_run($busy->run($count), '5', 'and the next one begins');
all_connect('afterwards');

my $owner = password_of('one', 'owner');
is($k->run("CALL kessel.rotate_credential(data_source => 'one', purpose => 'owner')", user => 'admin')->{state}, '', 'the credential of the owner');
ok(opens(password_of('one', 'owner'), $d->{owner}), 'has a new password');
ok(!opens($owner, $d->{owner}), 'and the old one is gone');
is(password_of('one'), $after, 'that of the runtime role is what it was');
is($k->run("SELECT kessel.install_agent('one')")->{state}, '', 'and it is used');

#
# What is refused
#
$k->exec("SELECT kessel.set_credential('one', NULL, 'an-api-key', 'anon')");
like_error($k->run("CALL kessel.rotate_credential('one', 'anon')", user => 'admin'), '22023', qr/invalid purpose "anon"/, 'an API key');
like_error($k->run("CALL kessel.rotate_credential('one', 'nosuch')", user => 'admin'), '22023', qr/invalid purpose "nosuch"/, 'no such purpose');
like_error($k->run("CALL kessel.rotate_credential('nosuch')", user => 'admin'), 'KR007', qr/does not exist/, 'no such data source');
like_error($k->run('CALL kessel.rotate_credential(NULL)', user => 'admin'), '22004', qr/data_source must not be null/, 'NULL');
like_error($k->run("BEGIN; $rotate", user => 'admin'), '25001', qr/cannot run inside a transaction block/, 'in a transaction block');
like_error($k->run("DO \$\$ BEGIN CALL kessel.rotate_credential('one'); EXCEPTION WHEN division_by_zero THEN END \$\$", user => 'admin'), '25001', qr/transaction block/, 'in a block with EXCEPTION');
like_error($k->run("SET default_transaction_read_only = on; $rotate", user => 'admin'), '25006', qr/read-only/, 'in a read-only transaction');
like_error($k->run($rotate, user => 'service'), '42501', qr/permission denied for procedure/, 'to others');
$k->exec("SELECT kessel.create_data_source('bare', 'postgresql://127.0.0.1:$d->{port}/postgres')");
like_error($k->run("CALL kessel.rotate_credential('bare')", user => 'admin'), 'KR005', qr/has no runtime credential/, 'no credential');
$k->exec("SELECT kessel.set_credential('bare', 'postgres', NULL)");
like_error($k->run("CALL kessel.rotate_credential('bare')", user => 'admin'), 'KR005', qr/has no password/, 'no password');
like_error($k->run("CALL kessel.rotate_credential('bare', 'owner')", user => 'admin'), 'KR005', qr/has no owner credential/, 'the runtime credential does not stand in');
$k->exec("SELECT kessel.alter_data_source('two', options => '{\"pooler\": \"transaction\"}')");
like_error($k->run("CALL kessel.rotate_credential('two')", user => 'admin'), '0A000', qr/cannot be rotated through a pooler/, 'a pooler');
$k->exec("SELECT kessel.alter_data_source('two', options => '{\"pooler\": null}')");
my $hba = slurp_file($d->{node}->data_dir . '/pg_hba.conf');
$d->{node}->append_conf('pg_hba.conf', "host postgres all ::1/128 trust\n");
unlink $d->{node}->data_dir . '/pg_hba.conf';
$d->{node}->append_conf('pg_hba.conf', "host postgres solo_runtime 127.0.0.1/32 trust\n$hba");
$d->{node}->reload;
$k->exec("SELECT kessel.create_data_source('open', 'postgresql://solo_runtime:any\@127.0.0.1:$d->{port}/postgres', options => '{\"password_required\": false}')");
ok($k->node->poll_query_until('infra', "SELECT 'P0001' <> (SELECT detail FROM kessel.test_data_source('open') WHERE \"check\" = 'authentication')"), 'a server that trusts');
like_error($k->run("CALL kessel.rotate_credential('open')", user => 'admin'), '0A000', qr/did not ask for the password/, 'proves nothing');
{
    # A standby of the data source, and a pooler before it that has a list of passwords.
    my $standby = standby_of($d->{node}, 'data_standby');
    $k->exec("SELECT kessel.create_data_source('standby', 'postgresql://solo_owner:" . password_of('one', 'owner') . "\@127.0.0.1:" . $standby->port . "/tenants')");
    like_error($k->run("CALL kessel.rotate_credential('standby')", user => 'admin'), '25006', qr/leads to a standby/, 'a standby', hint => qr/target_session_attrs/);
    $k->exec("SELECT kessel.drop_data_source('standby')");
    $standby->stop;
}
SKIP:
{
    local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
    my $no;
    skip 'no pgbouncer here', 3 unless eval { IPC::Run::run([ 'pgbouncer', '--version' ], '>', \$no, '2>', \$no) };
    my $dir = PostgreSQL::Test::Utils::tempdir_short();
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    append_to_file("$dir/users", qq("solo_owner" "@{[ password_of('one', 'owner') ]}"\n));
    append_to_file("$dir/ini", "[databases]\ntenants = host=127.0.0.1 port=$d->{port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = $port\nunix_socket_dir =\n"
          . "auth_type = scram-sha-256\nauth_file = $dir/users\nlogfile = $dir/log\npidfile = $dir/pid\npool_mode = session\n");
    my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
    $k->exec("SELECT kessel.create_data_source('pooled', 'postgresql://solo_owner:" . password_of('one', 'owner') . "\@127.0.0.1:$port/tenants')");
    ok($k->node->poll_query_until('infra', q{SELECT coalesce(bool_or(ok), false) FROM kessel.test_data_source('pooled') WHERE "check" = 'round trip'}), 'through a pooler in session mode');
    like_error($k->run("CALL kessel.rotate_credential('pooled')", user => 'admin'), '0A000', qr/cannot be rotated through a pooler/, 'it is recognised');
    is($k->exec($pending), '0', 'before anything is pending');
    $k->exec("SELECT kessel.drop_data_source('pooled')");
    $bouncer->kill_kill;
}
$k->exec("SELECT kessel.drop_data_source('open'), kessel.drop_data_source('bare')");
unlink $d->{node}->data_dir . '/pg_hba.conf';
$d->{node}->append_conf('pg_hba.conf', $hba);
$d->{node}->reload;
is(password_of('one'), $after, 'none of them has changed anything');
is($k->exec($pending), '0', 'nor left anything pending');
all_connect('after what was refused');

#
# The data source says no: all is as it was
#
{
    my $blocker = $k->session(url => 'host=' . $d->{node}->host . " port=$d->{port} dbname=postgres user=postgres");
    $blocker->run("BEGIN; ALTER ROLE $d->{runtime} CONNECTION LIMIT 100");
    like_error($k->run($rotate, user => 'admin'), '55000', qr/did not take a new password/, 'somebody else is changing the role');
    $blocker->run('ROLLBACK');
    $blocker->quit;
    is(password_of('one'), $after, 'the password is the same');
    is($k->exec($pending), '0', 'nothing is pending');
    all_connect('after a refusal');

    $proxy->reset;
    $proxy->on('ALTER ROLE', 'hold');
    my $s = $k->session(user => 'admin');
    $s->start($rotate);
    ok(wait_for_hits(1), 'the change is on its way');
    all_connect('meanwhile');
    $proxy->on('start', 'lose');
    $proxy->resume;
    like_error($s->finish, '55000', qr/did not take a new password/, 'the new login fails');
    $s->quit;
    $proxy->on;
    is(password_of('one'), $after, 'the password is the same');
    ok(opens($after), 'and was put back there');
    is($k->exec($pending), '0', 'nothing is pending');
    all_connect('after it was put back');
}

#
# Interrupted
#

# Until the call has come to a step; then whatever ends it.
sub interrupt
{
    my ($step, $end) = @_;
    my $s = $k->session(user => 'admin');
    my $lock;

    $proxy->reset;
    $proxy->on('ALTER ROLE', $step eq 'before' ? 'hold' : $step eq 'during' ? 'hang' : 'hold');
    my $was = verifier();
    $s->start($rotate);
    ok(wait_for_hits(1), "$step: the call has come to the change");
    if ($step eq 'during')
    {
        wait_until("$step: which is made", $d->{node}, "rolpassword <> '$was' FROM pg_authid WHERE rolname = '$d->{runtime}'");
    }
    elsif ($step eq 'proving')
    {
        $proxy->on('start', 'hold');
        $proxy->resume;
        ok(wait_for_hits(2), "$step: and to the new login");
    }
    elsif ($step eq 'switching')
    {
        $lock = $k->session;
        $lock->run('BEGIN; SELECT FROM app.data_source_credentials FOR UPDATE');
        $proxy->resume;
        wait_until("$step: and to the switch", $k->node, "count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = " . $s->pid);
    }
    is($k->exec($pending), '2', "$step: a password is pending");
    # What waits in the proxy stays there for now.
    all_connect("$step: meanwhile") if $step ne 'proving';
    $end->($s);
    $s->quit;
    if ($lock) { $lock->run('ROLLBACK'); $lock->quit }
    return;
}

sub check_state
{
    my ($what, $settle) = @_;
    $proxy->drop;
    all_connect("$what: afterwards");
    is($k->exec($pending), '2', "$what: both passwords are kept");
    if ($settle eq 'test')
    {
        my $t = $k->run("SELECT ok, detail FROM kessel.test_data_source('one') WHERE \"check\" = 'rotation'", user => 'admin');
        like($t->{out}, qr/^t\|A rotation that was interrupted was (?:undone|completed)/, "$what: test_data_source() settles it") or diag($t->{err});
        is($k->exec($pending), '0', "$what: nothing is pending");
        $proxy->on;
        $proxy->resume;
        all_connect("$what: when it is settled");
    }
    $proxy->on;
    $proxy->resume;
    my $old = password_of('one');
    my $again = $k->run($rotate, user => 'admin');
    is($again->{state}, '', "$what: the next call rotates") or diag($again->{err});
    isnt(password_of('one'), $old, "$what: to another password");
    is(password_of('two'), password_of('one'), "$what: for both data sources");
    ok(opens(password_of('one')), "$what: which opens it");
    is($k->exec($pending), '0', "$what: and nothing is pending");
    is($k->exec("SELECT count(*) FROM vault.secrets WHERE description LIKE 'next%'"), '0', "$what: nor left over");
    all_connect("$what: in the end");
    return;
}

my $hot = standby_of($k->node, 'infra_standby');
my $hot_url = 'host=' . $hot->host . ' port=' . $hot->port . ' dbname=infra user=postgres';
interrupt('during', sub {
    $k->node->wait_for_catchup($hot, 'replay', $k->node->lsn('flush'));
    ok_run($k->run($name, tenant => 'one', url => $hot_url), 'one account 1', 'a hot standby logs in with the pending password, too');
    like($k->run("SELECT ok, detail FROM kessel.test_data_source('one') WHERE \"check\" = 'rotation'", url => $hot_url)->{out}, qr/^f\|A rotation is under way or was interrupted/, 'and settles nothing');
    is($k->run($rotate, url => $hot_url)->{state}, '25006', 'nor rotates');
    kill_backend($k->node, $_[0]->pid);
});
check_state('with a hot standby', 'test');
$k->node->wait_for_catchup($hot, 'replay', $k->node->lsn('flush'));
ok_run($k->run($name, tenant => 'one', url => $hot_url), 'one account 1', 'the standby follows');
$hot->stop;

foreach my $step (qw(before during proving switching))
{
    interrupt($step, sub { kill_backend($k->node, $_[0]->pid) });
    check_state("backend killed, $step", $step eq 'during' ? 'call' : 'test');
}
foreach my $step (qw(before during proving switching))
{
    interrupt($step, sub { $k->exec('SELECT pg_terminate_backend(' . $_[0]->pid . ')'); $_[0]->finish });
    check_state("backend terminated, $step", $step eq 'during' ? 'test' : 'call');
}
foreach my $step (qw(before during))
{
    interrupt($step, sub { $k->node->stop('immediate'); $k->node->start });
    check_state("infra stopped, $step", 'call');
}
foreach my $step (qw(before during proving))
{
    interrupt($step, sub {
        my ($s) = @_;
        $d->{node}->stop('immediate');
        $proxy->resume;
        $proxy->drop;
        my $lost = $s->finish;
        like($lost->{state}, qr/^(?:08|57)/, "data source stopped, $step: the call fails with $lost->{state}");
        $d->{node}->start;
    });
    check_state("data source stopped, $step", 'test');
}
interrupt('during', sub { is((($k->exec('SELECT pg_cancel_backend(' . $_[0]->pid . ')')), $_[0]->finish->{state})[1], '57014', 'cancelled') });
check_state('cancelled', 'call');
{
    my $s = $k->session(user => 'admin');
    $proxy->reset;
    $proxy->on('ALTER ROLE', 'hang');
    $s->run("SET statement_timeout = '1s'");
    is($s->run($rotate)->{state}, '57014', 'statement_timeout');
    $s->quit;
    check_state('statement_timeout', 'test');
}

#
# A change that was held up comes too late
#
interrupt('before', sub { kill_backend($k->node, $_[0]->pid) });
my $kept = password_of('one');
is($k->run("SELECT ok FROM kessel.test_data_source('one') WHERE \"check\" = 'rotation'", user => 'admin')->{out}, 't', 'it is undone while the change is still on its way');
$proxy->on;
$proxy->resume;
ok(opens($kept), 'which then finds its session gone');
all_connect('after a late change');

#
# At the same time
#
{
    my $s = $k->session(user => 'admin');
    my $alter = $k->session(user => 'admin');
    $proxy->reset;
    $proxy->on('ALTER ROLE', 'hold');
    $s->start($rotate);
    ok(wait_for_hits(1), 'while one rotates');
    like_error($k->run($rotate, user => 'admin'), '55006', qr/being changed in another session/, 'a second one is refused');
    like_error($k->run("CALL kessel.rotate_credential('two')", user => 'admin'), '55006', qr/being changed in another session/, 'also by another data source');
    is($k->run("CALL kessel.rotate_credential('one', 'owner')", user => 'admin')->{state}, '', 'another role is free');
    like($k->run("SELECT ok, detail FROM kessel.test_data_source('one') WHERE \"check\" = 'rotation'", user => 'admin')->{out}, qr/^f\|A rotation is under way/, 'a test says so');
    $alter->start("SELECT kessel.set_credential('two', 'nobody', 'nothing')");
    wait_until('who sets a credential waits', $k->node, "count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = " . $alter->pid);
    $proxy->resume;
    is($s->finish->{state}, '', 'the first one ends');
    is($alter->finish->{state}, '', 'then the credential is set');
    is(password_of('two'), 'nothing', 'as it was asked for');
    $k->exec("SELECT kessel.set_credential('two', '$d->{runtime}', '" . password_of('one') . "')");
    all_connect('afterwards');
    $_->quit foreach $s, $alter;
}

#
# A data source that claims the same login, and leads to somebody else as well
#
{
    my $plant = "SELECT kessel.create_data_source('planted', 'host=127.0.0.1,evil.example.com port=" . $proxy->port . " user=$d->{runtime} password=x')";
    my $uproot = "SELECT kessel.drop_data_source('planted')";
    my $was = password_of('one');

    is($k->run($plant, user => 'admin')->{state}, '', 'one that names a further host');
    like_error($k->run($rotate, user => 'admin'), '55000', qr/cannot be rotated/, 'gets no new password', hint => qr/drop_credential\('planted', 'runtime'\)/);
    is(password_of('one'), $was, 'nothing has changed');
    is(password_of('planted'), 'x', 'here and there');
    is($k->run($uproot, user => 'admin')->{state}, '', 'it is dropped');

    interrupt('during', sub { kill_backend($k->node, $_[0]->pid) });
    $k->run($plant, user => 'admin');
    my $settle = q{SELECT ok, detail FROM kessel.test_data_source('%s') WHERE "check" = 'rotation'};
    like($k->run(sprintf($settle, 'one'), user => 'admin')->{out}, qr/^f\|A rotation was interrupted. It cannot be settled/, 'a rotation that was interrupted is not settled');
    like($k->run(sprintf($settle, 'planted'), user => 'admin')->{out}, qr/^f\|.*none of its passwords/, 'and those of the others are not tried on its hosts');
    like_error($k->run($rotate, user => 'admin'), '55000', qr/cannot be rotated/, 'nor by the next call');
    is($k->exec($pending), '2', 'both passwords are kept');
    is(password_of('planted'), 'x', 'and given to nobody');
    $k->run($uproot, user => 'admin');
    check_state('without it', 'test');
}

#
# What the audit says
#
my @records = map { JSON::PP::decode_json($_) } slurp_file($k->node->logfile) =~ /(\{[^\n]*"action"\s*:\s*"rotate credential"[^\n]*\})/g;
cmp_ok(scalar(grep { $_->{ok} } @records), '>', 10, 'the audit has those that succeeded');
is_deeply([ sort(unique(map { $_->{reason} } grep { !$_->{ok} } @records)) ],
    [ 'Changing the password there', 'Logging in with the current password', 'Looking it up', 'Undoing it' ], 'and those that failed, with their step');

#
# Nowhere to be read
#
my $statistics = 'SELECT query FROM pg_stat_activity UNION ALL SELECT query FROM pg_stat_statements';
ok($k->exec($statistics) !~ pattern(), 'pg_stat_activity and pg_stat_statements');
ok($k->data_exec($d, $statistics, db => 'postgres') !~ pattern(), 'those of the data source');
cmp_ok($k->data_exec($d, "SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%ALTER ROLE SESSION_USER PASSWORD%'", db => 'postgres'), '>', 0, 'which has seen the changes');
cmp_ok(scalar(keys %passwords), '>', 10, 'the passwords of this test');
$k->exec('CHECKPOINT');
is_deeply([ search($k->node) ], [], 'are not in the data directory, WAL and log of the infra server');
is_deeply([ search($d->{node}) ], [], 'nor in those of the data source');
like(slurp_file($d->{node}->logfile), qr/ALTER ROLE SESSION_USER PASSWORD 'SCRAM-SHA-256/, 'whose log has the changes');

$k->exec("CREATE TABLE public.planted AS SELECT decrypted_secret FROM vault.decrypted_secrets WHERE id = '$secret'; CHECKPOINT");
cmp_ok(scalar(search($k->node)), '>', 0, 'the search finds one where it is');

done_testing();

sub unique { my %seen; return grep { !$seen{$_}++ } @_ }

sub pattern
{
    my $any = join '|', map { quotemeta } keys %passwords;
    return qr/$any/;
}

# The files of a cluster, its log among them, in which one of the passwords occurs.
sub search
{
    my ($node) = @_;
    my @found;
    my $pattern = pattern();
    find({ no_chdir => 1, wanted => sub {
        return unless -f $_;
        open(my $fh, '<:raw', $_) or return;
        local $/;
        my $content = <$fh>;
        push @found, $_ if defined $content && $content =~ $pattern;
    } }, $node->data_dir, $node->logfile);
    return @found;
}

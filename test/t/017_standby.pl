# The vault beyond one server: hot standby, promotion, point-in-time recovery,
# logical replication, pg_upgrade. Each server has the root key from where it
# is told to have it.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = 'kr-marked-secret';
my $dir  = PostgreSQL::Test::Utils::tempdir();
my $file = KesselTest::root_key_file("$dir/root.key");
my $conf = "session_preload_libraries = 'kessel_router'\nwal_level = logical\nmax_wal_senders = 5\nlog_statement = all\n";
my $k    = KesselTest->new(conf => $conf . "kessel.root_key_file = '$file'\narchive_mode = on\narchive_command = 'cp %p $dir/%f'\n");
my $primary = $k->node;

my $d = $k->data_cluster('solo');
$k->crm_database($d, 'acme');
$k->data_source($d);
$k->exec("SELECT kessel.create_tenant('acme', data_source => 'solo'); SELECT kessel.add_member('acme', 'aaaaaaaa-0000-4000-8000-00000000000a');"
      . "SELECT kessel.import_tables('solo', 'public'); GRANT USAGE ON SCHEMA data TO kessel_user; GRANT SELECT ON ALL TABLES IN SCHEMA data TO kessel_user");
my $acme = $k->exec("SELECT id FROM app.tenants WHERE slug = 'acme'");
$k->exec("SET log_statement = none; SELECT vault.create_secret('$mark-' || i, 'secret ' || i, new_tenant_id => CASE WHEN i % 2 = 0 THEN '$acme'::uuid END) FROM generate_series(1, 20) i;"
      . "SELECT vault.update_secret(id, '$mark-again') FROM vault.secrets WHERE name = 'secret 4';"
      . "SELECT vault.grant_secret(id, 'app', 'reveal') FROM vault.secrets WHERE name = 'secret 1'");
my $shown = q{SELECT name, version, decrypted_secret FROM vault.decrypted_secrets ORDER BY id};
my $all   = $k->exec($shown);
my $fingerprint = $k->exec('SELECT root_key_id FROM vault.status()');

# at(NODE, SQL, user => ...): as run(), on another server
sub url
{
    my ($node, %opt) = @_;
    return sprintf("host='%s' port=%d dbname='%s' user='%s'", $node->host, $node->port, $opt{db} || 'infra', $opt{user} || 'postgres');
}

sub at
{
    my ($node, $sql, %opt) = @_;
    return $k->run($sql, %opt, url => url($node, %opt));
}

sub as_member
{
    my ($node, $sql) = @_;
    return at($node, $sql, user => 'app', tenant => 'acme', sub => 'aaaaaaaa-0000-4000-8000-00000000000a');
}

sub caught_up
{
    my ($node) = @_;
    $primary->wait_for_catchup($node, 'replay', $primary->lsn('flush'));
    return;
}

my $names = 'SELECT name FROM data.accounts ORDER BY id';
my $rows  = as_member($primary, $names)->{out};
isnt($rows, '', 'the primary routes');

#
# A standby with a provider of its own
#
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "kessel.root_key_file = ''\nkessel.root_key_command = 'cat $dir/standby.key'\narchive_mode = off\n");
$standby->start;
caught_up($standby);

my $s = $k->session(url => url($standby));
is($s->run("SELECT sealed, provider, wanted_root_key_ids FROM vault.status()")->{out}, "t|command|{$fingerprint}", 'a standby without its key knows which one it wants');
my $r = $s->run("SELECT vault.reveal('secret 1')");
like_error($r, 'KR010', qr/^the vault is sealed$/, 'it opens nothing');
like($r->{detail}, qr/\Q$fingerprint\E/, 'and names the fingerprint');
is($s->run('SELECT count(*) FROM vault.decrypted_secrets WHERE decrypted_secret IS NULL')->{out}, $k->exec('SELECT count(*) FROM vault.secrets'), 'the view shows NULL');
is($s->run("SELECT DISTINCT reason, root_key_id FROM vault.verify()")->{out}, "root key is not in place|$fingerprint", 'vault.verify() tells why');
is($s->run('SELECT count(*) FROM kessel.routes')->{out}, '1', 'all else works');

append_to_file("$dir/standby.key", slurp_file($file));
$standby->reload;
$standby->poll_query_until('infra', 'SELECT NOT sealed FROM vault.status()') or die 'the standby stays sealed';
ok_run($s->run("SELECT vault.reveal('secret 1')"), "$mark-1", 'its key in place and a reload later the same session opens');
is($s->run($shown)->{out}, $all, 'every secret');
ok_run($s->run('SELECT count(*) FROM vault.verify()'), '0', 'vault.verify() has nothing to say');
is($s->run('SELECT provider, root_key_id FROM vault.status()')->{out}, "command|$fingerprint", 'by its own provider');
ok_run(as_member($standby, $names), $rows, 'it routes');
ok_run(at($standby, "SELECT vault.reveal('secret 1')", user => 'app'), "$mark-1", 'who has the privilege reads');
is(at($standby, "SELECT vault.reveal('secret 2')", user => 'app')->{state}, '42501', 'and nobody else');
foreach my $call ("vault.create_secret('x')", "vault.update_secret((SELECT id FROM vault.secrets WHERE name = 'secret 1'), 'x')",
    "vault.rollback_secret((SELECT id FROM vault.secrets WHERE name = 'secret 4'), 1)", 'vault.rotate_root_key()',
    "vault.import_supabase('public')", "vault.import_tenant('{}')")
{
    is($s->run("SELECT $call")->{state}, '25006', "it stores nothing: $call");
}
my $recipient = $k->exec('SELECT vault.public_key()');
caught_up($standby);
is($s->run("SELECT jsonb_array_length(vault.export_tenant('acme', '$recipient') -> 'secrets')")->{out},
    $k->exec("SELECT count(*) FROM vault.secrets WHERE tenant_id = '$acme'"), 'it exports');
ok(slurp_file($standby->logfile) =~ /kessel_audit: .*"purpose": "route", "ok": true.*"role": "app".*"standby": true/, 'it records what it opens');

# What changes on the primary
my $app = $k->session(url => url($standby, user => 'app'));
ok_run($app->run("SELECT vault.reveal('secret 1')"), "$mark-1", 'a session that may');
$k->exec("SET log_statement = none; SELECT vault.update_secret(id, '$mark-new') FROM vault.secrets WHERE name = 'secret 1'");
caught_up($standby);
ok_run($app->run("SELECT vault.reveal('secret 1')"), "$mark-new", 'a new version is there at once');
$k->exec("SELECT vault.revoke_secret(id, 'app', 'reveal') FROM vault.secrets WHERE name = 'secret 1'");
caught_up($standby);
is($app->run("SELECT vault.reveal('secret 1')")->{state}, '42501', 'a privilege that was taken is gone there, too');
$app->quit;

# The root key is rotated: the standby needs both keys as long as not all is wrapped anew.
my $next = KesselTest::root_key_file("$dir/next.key");
append_to_file("$dir/both.key", slurp_file($next) . slurp_file($file));
chmod 0600, "$dir/both.key";
rename "$dir/both.key", $file;
$k->exec('SELECT vault.rotate_root_key()');
caught_up($standby);
is($s->run("SELECT vault.reveal('secret 2')")->{state}, 'KR010', 'rotated on the primary: a standby that has the old root key only is sealed');
my $new_fingerprint = $k->exec('SELECT root_key_id FROM vault.status()');
is($s->run('SELECT wanted_root_key_ids FROM vault.status()')->{out}, "{$new_fingerprint}", 'and names the new one');
unlink "$dir/standby.key";
append_to_file("$dir/standby.key", slurp_file($file));
$standby->reload;
$standby->poll_query_until('infra', 'SELECT NOT sealed FROM vault.status()') or die 'the standby stays sealed';
ok_run($s->run("SELECT vault.reveal('secret 2')"), "$mark-2", 'with both it opens');
$s->quit;

#
# Logical replication of the vault's tables, to an installation with the same
# root key. What is sent is sealed.
#
my $sub = KesselTest->new(name => 'subscriber', conf => $conf . "kessel.root_key_file = '$file'\n");
$k->exec('CREATE PUBLICATION vault FOR TABLE vault.keys, vault.secrets, vault.former_versions, vault.secret_grants, vault.shred_proofs');
$sub->exec("CREATE SUBSCRIPTION vault CONNECTION '" . (url($primary) =~ s/'/''/gr) . "' PUBLICATION vault");
my $in_step = "SELECT count(*) = 5 FROM pg_subscription_rel WHERE srsubstate IN ('r', 's')";
$sub->node->poll_query_until('infra', $in_step) or die 'the subscription does not come up';
sub sent
{
    $primary->wait_for_catchup('vault', 'replay', $primary->lsn('flush'));
    return;
}
sent();
is($sub->exec($shown), $k->exec($shown), 'logical replication: all secrets open there');
my $reader = $sub->session;
ok_run($reader->run("SELECT vault.reveal('secret 3')"), "$mark-3", 'logical replication: a session there');
$k->exec("SET log_statement = none; SELECT vault.update_secret(id, '$mark-sent') FROM vault.secrets WHERE name = 'secret 3'; SELECT vault.create_secret('$mark-more', 'more')");
sent();
ok_run($reader->run("SELECT vault.reveal('secret 3')"), "$mark-sent", 'logical replication: sees a change');
ok_run($reader->run("SELECT vault.reveal('more')"), "$mark-more", 'logical replication: and a new secret');
is($sub->exec('SELECT count(*) FROM vault.verify()'), '0', 'logical replication: with all former versions');
$reader->quit;
$sub->exec('DROP SUBSCRIPTION vault');
$k->exec('DROP PUBLICATION vault');

#
# Back in time: what was destroyed by mistake comes back with a backup and the
# root key that was in place then.
#
$k->exec("SELECT pg_create_restore_point('before the accident')");
$k->exec("SELECT vault.delete_secret(id) FROM vault.secrets WHERE name = 'secret 5'; SELECT vault.shred_tenant('acme')");
is(at($primary, "SELECT vault.reveal('secret 4')")->{state}, 'KR011', 'shredded');
caught_up($standby);
is(at($standby, "SELECT vault.reveal('secret 4')")->{state}, 'KR011', 'shredded on the standby, too');
# The end of WAL is archived when its segment is.
my $segment = $k->exec('SELECT pg_walfile_name(pg_current_wal_lsn())');
$k->exec('SELECT pg_switch_wal()');
$primary->poll_query_until('infra', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver") or die "$segment was not archived";
my $past = PostgreSQL::Test::Cluster->new('past');
$past->init_from_backup($primary, 'base');
$past->append_conf('postgresql.conf', "archive_mode = off\nrestore_command = 'cp $dir/%f %p'\nrecovery_target_name = 'before the accident'\nrecovery_target_action = promote\n");
$past->append_conf('recovery.signal', '');
$past->start;
$past->poll_query_until('infra', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
ok_run(at($past, "SELECT vault.reveal('secret 4') || ' ' || vault.reveal('secret 5')"), "$mark-again $mark-5", 'recovered to a point in time: it opens with the root key that outlives it');
is(at($past, 'SELECT count(*) FROM vault.verify()')->{out}, '0', 'recovered to a point in time: all of it');
$past->stop;

#
# Promoted
#
$standby->promote;
ok_run(at($standby, "SET log_statement = none; SELECT vault.reveal(vault.create_secret('$mark-promoted', 'promoted'))"), "$mark-promoted", 'promoted: it seals');
is(at($standby, "SELECT k.root_key_id FROM vault.secrets s JOIN vault.keys k ON k.id = s.key_id WHERE s.name = 'promoted'")->{out}, $new_fingerprint, 'promoted: under a key that the same root key wraps');
ok_run(at($standby, "SELECT vault.reveal('secret 1')"), "$mark-new", 'promoted: it opens what was');
ok_run(as_member($standby, $names), $rows, 'promoted: it routes');

#
# pg_upgrade, of one version to itself: rows come with their table files. The
# root key lies outside of the data directory and is there for the new one.
#
$standby->stop;
my $new = PostgreSQL::Test::Cluster->new('upgraded');
$new->init(extra => [ '--no-locale', '-E', 'UTF8', '-U', 'postgres' ]);
my $bindir = $standby->config_data('--bindir');
chdir $dir or die "$dir: $!";    # where pg_upgrade leaves its scripts
command_ok([ 'pg_upgrade', '--no-sync', '-U', 'postgres', '-d', $standby->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
        '-s', $new->host, '-p', $standby->port, '-P', $new->port ], 'pg_upgrade');
$new->append_conf('postgresql.conf', $conf . "kessel.root_key_command = 'cat $dir/standby.key'\n");
$new->start;
ok_run(at($new, "SELECT vault.reveal('promoted') || ' ' || vault.reveal('secret 1')"), "$mark-promoted $mark-new", 'upgraded: it opens');
is(at($new, "SELECT DISTINCT reason FROM vault.verify()")->{out}, 'data key was destroyed', 'upgraded: all but what was shredded');
ok_run(as_member($new, $names), $rows, 'upgraded: it routes');
$new->stop;

foreach my $node ($primary, $standby, $past, $new, $sub->node)
{
    my $log = slurp_file($node->logfile);
    is(scalar(() = $log =~ /\Q$mark\E/g), 0, $node->name . ': no plaintext in the log');
}

done_testing();

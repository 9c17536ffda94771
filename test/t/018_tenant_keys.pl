# Rotating and shredding tenants' data keys in a running cluster: readers and
# writers meanwhile, kills at any point, what is left on disk and in a dump.
use strict;
use warnings;

use lib 'test/lib';
use File::Find;
use File::Temp ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir  = File::Temp->newdir(CLEANUP => 1);
my $k    = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\nmax_connections = 40\nrestart_after_crash = on\n");
my $node = $k->node;
my $n    = 3000;

$k->exec(q{INSERT INTO app.data_sources (name, isolation, conninfo) VALUES ('s', 'row', '{}')});
$k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT t, t, s.id, 'row', t FROM app.data_sources s, unnest(ARRAY['acme', 'other']) t");
my %id = map { split /\|/ } split /\n/, $k->exec('SELECT slug, id FROM app.tenants');
$k->exec("SELECT count(vault.create_secret(slug || ' ' || i, slug || ' ' || i, new_tenant_id => id)) FROM app.tenants, generate_series(1, $n) i");
$k->exec(q{SELECT count(vault.update_secret(id, name || ' again')) FROM vault.secrets WHERE name LIKE '%7'});

sub usage
{
    my ($status) = @_;
    return $k->exec("SELECT coalesce(sum(secrets + former_versions), 0) FROM vault.key_usage WHERE tenant_id = '$id{acme}' AND status = '$status'");
}

# All is there and right: each secret has its name in it.
sub all_well
{
    my ($name) = @_;
    return is($k->exec(q{SELECT count(*) FILTER (WHERE decrypted_secret LIKE name || '%'), (SELECT count(*) FROM vault.verify()) FROM vault.decrypted_secrets}),
        $k->exec('SELECT count(*) FROM vault.secrets') . '|0', $name);
}
all_well('all secrets open');
my $versions = usage('active');
cmp_ok($versions, '>', $n, 'there are former versions, too');

#
# Rotation with readers and writers beside it
#
my @readers = map { $k->session } 1 .. 2;
my $writer = $k->session;
my $slow   = $k->session;
$_->start(q{DO $$ DECLARE bad bigint; BEGIN FOR i IN 1 .. 40 LOOP
    SELECT count(*) INTO bad FROM vault.decrypted_secrets WHERE decrypted_secret IS NULL OR decrypted_secret NOT LIKE name || '%';
    IF bad > 0 THEN RAISE EXCEPTION '% cannot be read', bad; END IF; COMMIT; END LOOP; END $$}) foreach @readers;
$writer->start(qq{DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP
    PERFORM vault.update_secret((SELECT id FROM vault.secrets WHERE name = 'acme ' || i), 'acme ' || i || ' written');
    PERFORM vault.create_secret('new ' || i, 'new ' || i, new_tenant_id => '$id{acme}'); COMMIT; END LOOP; END \$\$});
# A transaction that has sealed under the old key and is still open.
$slow->run("BEGIN; SELECT vault.create_secret('late', 'late', new_tenant_id => '$id{acme}')");

my $rotating = $k->session(user => 'admin');
my $old = $k->exec("SELECT id FROM vault.keys WHERE tenant_id = '$id{acme}'");
$rotating->start("CALL vault.rotate_tenant_key('acme', 100)");
ok($node->poll_query_until('infra', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL%' AND wait_event_type = 'Lock'}), 'it waits for who is sealing under the old key');
ok_run($slow->run('COMMIT'), '', 'who commits');
my $r = $rotating->finish;
is($r->{state}, '', 'then it goes on') or diag($r->{err});
like($r->{err}, qr/NOTICE: .*\d+ sealed anew under key [0-9a-f-]{36}/, 'and says what it has done');
ok_run($_->finish, '', 'a reader never failed') foreach @readers;
ok_run($writer->finish, '', 'nor a writer');
is(usage('retired'), '0', 'nothing is left under the old key');
is($k->exec("SELECT status FROM vault.keys WHERE id = '$old'"), 'retired', 'which is retired');
all_well('all secrets open');
is($k->exec("SELECT vault.reveal('late')"), 'late', 'also what was committed last');
is($k->exec("SELECT count(*) FROM vault.keys WHERE tenant_id = '$id{other}'"), '1', 'another tenant keeps its key');
is($k->exec("SELECT count(*) FROM vault.secrets s JOIN vault.former_versions f ON f.secret_id = s.id WHERE f.version >= s.version"), '0', 'versions have kept their numbers');

$_->quit foreach @readers, $writer, $slow, $rotating;

#
# Killed, cancelled, and gone on with
#
foreach my $how ([ 'pg_cancel_backend', qr/canceling statement/ ], [ 'pg_terminate_backend', qr/terminating|connection/ ], [ 'SIGKILL', qr/connection|terminated|closed/ ])
{
    my ($signal, $pattern) = @$how;
    my $keys = $k->exec("SELECT count(*) FROM vault.keys WHERE tenant_id = '$id{acme}'");
    my $s = $k->session(user => 'admin');
    my $pid = $s->pid;

    $s->start("CALL vault.rotate_tenant_key('acme', 50)");
    ok($node->poll_query_until('infra', "SELECT coalesce(sum(secrets), 0) > 0 AND bool_or(status = 'retired') FROM vault.key_usage WHERE tenant_id = '$id{acme}' AND (status = 'retired' OR secrets BETWEEN 50 AND $n / 2)"), "$signal: under way");
    if ($signal eq 'SIGKILL') { kill 'KILL', $pid; }
    else                      { $k->exec("SELECT $signal($pid)"); }
    $r = $s->finish;
    $s->quit;
    # It may have been faster than we were; then there is nothing to go on with.
    SKIP: {
        skip "$signal came too late", 5 if $r->{state} eq '';
        like($r->{err}, $pattern, "$signal: it ends");
        $node->poll_query_until('infra', 'SELECT true') or die 'the server did not come back';
        cmp_ok(usage('retired'), '>', 0, "$signal: something is left under the old key");
        all_well("$signal: and opens");
        is($k->exec("SELECT count(*) FROM vault.keys WHERE tenant_id = '$id{acme}'"), $keys + 1, "$signal: one new key");
        $k->exec("CALL vault.rotate_tenant_key('acme')");
        is($k->exec("SELECT count(*) FROM vault.keys WHERE tenant_id = '$id{acme}'"), $keys + 1, "$signal: the next call makes no further key");
    }
    is(usage('retired'), '0', "$signal: it is finished");
    all_well("$signal: all secrets open");
}

# Two at once help each other.
my @both = map { $k->session(user => 'admin') } 1 .. 2;
$_->start("CALL vault.rotate_tenant_key('acme', 200)") foreach @both;
is($_->finish->{state}, '', 'two rotations at once') foreach @both;
is(usage('retired'), '0', 'leave nothing under an old key');
all_well('and lose nothing');

# A row that does not open stays, and is reported.
$k->exec(q{UPDATE vault.secrets SET secret = set_byte(secret, 20, get_byte(secret, 20) # 1) WHERE name = 'acme 5'});
$r = $k->run("CALL vault.rotate_tenant_key('acme')", user => 'admin');
like($r->{err}, qr/WARNING: .* 1 could not be opened/, 'a bad row is reported');
is(usage('retired'), '1', 'it stays under its key');
is($k->exec('SELECT name, reason FROM vault.verify()'), 'acme 5|altered, moved or renamed', 'and spoils no other');
$k->exec(q{UPDATE vault.secrets SET secret = set_byte(secret, 20, get_byte(secret, 20) # 1) WHERE name = 'acme 5'});
$k->exec("CALL vault.rotate_tenant_key('acme')");
all_well('mended it is sealed anew');

#
# Shredding
#
my $wrapped = $k->exec("SELECT string_agg(encode(wrapped_key, 'hex'), ' ') FROM vault.keys WHERE tenant_id = '$id{acme}'");
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/before.dump", $node->connstr('infra') ], 'a dump before');

# Who is making a tenant's first key is waited for.
$k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'fresh', 'f', id, 'row', 'f' FROM app.data_sources");
my $fresh = $k->exec("SELECT id FROM app.tenants WHERE slug = 'fresh'");
my $making = $k->session;
ok_run($making->run("BEGIN; SELECT vault.create_secret('f', 'f', new_tenant_id => '$fresh') IS NULL"), 'f', 'a key is being made');
my $shredding = $k->session(user => 'admin');
$shredding->start("SELECT cardinality(key_ids), secrets FROM vault.shred_tenant('fresh')");
ok($node->poll_query_until('infra', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%shred_tenant%' AND wait_event_type = 'Lock'}), 'shredding waits for a key that is being made');
$making->run('COMMIT');
ok_run($shredding->finish, '1|1', 'and destroys it');
like_error($k->run("SELECT vault.reveal('f')"), 'KR011', qr/cannot be opened/, 'so that nothing opens');

my $idle = $k->session;
ok_run($idle->run("SELECT vault.reveal('acme 1')"), 'acme 1 written', 'a session that has opened a secret');
ok_run($k->run("BEGIN; SELECT secrets > 0 FROM vault.shred_tenant('acme'); ROLLBACK"), 't', 'a shredding that is rolled back');
ok_run($idle->run("SELECT vault.reveal('acme 1')"), 'acme 1 written', 'has not happened');
like_error($k->run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT vault.shred_tenant('acme')"), '25001', qr/READ COMMITTED/, 'not under an old snapshot');
$r = $k->run("SELECT tenant, shredded_by, login_role, cardinality(key_ids), secrets, former_versions > 0 FROM vault.shred_tenant('acme')", user => 'admin');
my $count = $n + 301;
like($r->{out}, qr/^acme\|admin\|admin\|\d+\|$count\|t$/, 'a proof says who, and how much') or diag($r->{err});
like_error($idle->run("SELECT vault.reveal('acme 1')"), 'KR011', qr/cannot be opened/, 'a session that has opened it before cannot any more');
is($k->exec(q{SELECT count(*) FROM vault.decrypted_secrets WHERE name LIKE 'acme%' AND decrypted_secret IS NOT NULL}), '0', 'nothing of the tenant opens');
is($k->exec(q{SELECT count(*) FROM vault.decrypted_secrets WHERE name LIKE 'other%' AND decrypted_secret LIKE name || '%'}), $n, 'all of the other does');
is($k->exec("SELECT count(*) FROM vault.verify() WHERE tenant_id = '$id{acme}' AND reason <> 'data key was destroyed'"), '0', 'verify() says why');

command_ok([ 'pg_dump', '-Fc', '-f', "$dir/after.dump", $node->connstr('infra') ], 'a dump after');
$k->exec('CREATE DATABASE restored', db => 'postgres');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), "$dir/after.dump" ], 'restores');
is($k->exec(q{SELECT count(*) FILTER (WHERE decrypted_secret IS NULL), count(*) FILTER (WHERE name LIKE 'acme%' AND decrypted_secret IS NOT NULL), (SELECT count(*) FROM vault.shred_proofs) FROM vault.decrypted_secrets}, db => 'restored'),
    ($count + 1) . '|0|2', 'nothing opens there either, and the proofs are there');
$k->exec('DROP DATABASE restored', db => 'postgres');
$k->exec('CREATE DATABASE restored', db => 'postgres');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), "$dir/before.dump" ], 'the dump from before');
cmp_ok($k->exec(q{SELECT count(*) FROM vault.decrypted_secrets WHERE name LIKE 'acme%' AND decrypted_secret IS NOT NULL}, db => 'restored'), '>', 0,
    'still opens with the root key of its time, as the documentation says');

# What the documentation says ends that: the wrapped keys leave the disk, and
# the root key that opens older copies is replaced.
sub on_disk
{
    my $found = 0;
    $k->exec('CHECKPOINT');
    my @keys = map { pack('H*', $_) } split / /, $wrapped;
    my $path = $node->data_dir . '/' . $k->exec(q{SELECT pg_relation_filepath('vault.keys')});
    my $bytes = slurp_file($path);
    $found += index($bytes, $_) >= 0 ? 1 : 0 foreach @keys;
    return $found;
}
$k->exec('VACUUM FULL vault.keys');
is(on_disk(), 0, 'after VACUUM FULL no wrapped key of the tenant is left in the table\'s file');

my $root = $node->data_dir . '/kessel_root.key';
my $old_root = slurp_file($root);
KesselTest::root_key_file("$dir/new");
my $new_root = slurp_file("$dir/new");
open(my $fh, '>', $root) or die $!;
print $fh $new_root, $old_root;
close $fh;
$k->exec('SELECT vault.rotate_root_key()');
open($fh, '>', $root) or die $!;
print $fh $new_root;
close $fh;
is($k->exec(q{SELECT count(*) FROM vault.decrypted_secrets WHERE name LIKE 'other%' AND decrypted_secret LIKE name || '%'}), $n, 'after a rotation of the root key the others open');
is($k->exec(q{SELECT count(*) FROM vault.decrypted_secrets WHERE decrypted_secret IS NOT NULL}, db => 'restored'), '0', 'and of the older copy nothing does, without the old root key');

$_->quit foreach $making, @both, $shredding, $idle;
done_testing();

# Attacks on the infra database where pgTAP does not get to: two at once, what the
# log and statistics say of a tenant's url, openings in transactions that are taken
# back. See test/pgtap/infra_attacks.sql.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => "shared_preload_libraries = 'pg_stat_statements, kessel_router'\nkessel.root_key_file = '$key_file'\nlog_statement = all\nlog_min_messages = notice\n");
my $node = $k->node;
my %user = map { $_ => sprintf '5e1f0000-0000-4000-8000-00000000%04x', ord } qw(a b);
my ($r, $one, $two);

$k->exec('CREATE EXTENSION pg_stat_statements; SELECT kessel.setup($${core}$$); CREATE ROLE backend LOGIN; GRANT service_role TO backend');
$k->exec("SELECT kessel.create_data_source('row', 'postgresql://x\@192.0.2.1/x', isolation => 'row'); INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'row-' || n, 'r', id, 'row', n FROM app.data_sources, generate_series(1, 2) n");
$k->exec("INSERT INTO auth.users (id, email) VALUES ('$user{a}', 'a\@example.com')");

# ---------- two at once ----------

sub waits
{
    my ($session, $name) = @_;
    return ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $session->pid), $name);
}
($one, $two) = ($k->session, $k->session);

# Who signs up, and is a member no more by then.
my $tenant = "SELECT t.slug FROM profiles p JOIN app.tenants t ON t.id = p.tenant_id WHERE p.id = '$user{b}'";
foreach my $case ([ "SELECT kessel.deactivate_member('row-1', '$user{b}')", '' ], [ "SELECT kessel.remove_member('row-1', '$user{b}')", 'row-2' ])
{
    my ($change, $left) = @$case;
    my $join = "SELECT kessel.add_member('row-1', '$user{b}')" . ($left ne '' ? ", kessel.add_member('row-2', '$user{b}')" : '');
    $k->exec($join);
    $one->run("BEGIN; INSERT INTO auth.users (id) VALUES ('$user{b}')");
    $two->start($change);
    waits($two, 'who changes memberships of a user who signs up waits');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'until then');
    is($k->exec($tenant), $left, 'and the profile follows');
    $k->exec("DELETE FROM auth.users WHERE id = '$user{b}'; $join");
    $one->run("BEGIN; $change");
    $two->start("INSERT INTO auth.users (id) VALUES ('$user{b}')");
    waits($two, 'the other way round, too');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'both are done');
    is($k->exec($tenant), $left, 'the profile has no tenant that was left');
    $k->exec("DELETE FROM auth.users WHERE id = '$user{b}'");
}

# Who gets a role that is being renamed, or deleted.
my $role = "SELECT p.role || ' ' || (r.name = p.role) FROM profiles p JOIN roles r ON r.id = p.role_id WHERE p.id = '$user{a}'";
my $editor = '5e1f0000-0000-4000-8000-0000000000ed';
foreach my $case ([ "role = 'editor'", "UPDATE roles SET name = 'author' WHERE name = 'editor'", '23503', 'user true' ], [ "role_id = '$editor'", "UPDATE roles SET name = 'author' WHERE name = 'editor'", '', 'author true' ],
    [ "role = 'editor'", "DELETE FROM roles WHERE name = 'editor'", '23503', 'user true' ], [ "role_id = '$editor'", "DELETE FROM roles WHERE name = 'editor'", '23503', 'user true' ])
{
    my ($set, $change, $state, $result) = @$case;
    $k->exec("UPDATE profiles SET role = 'user'; DELETE FROM roles WHERE NOT is_system; INSERT INTO roles (id, name, display_name) VALUES ('$editor', 'editor', 'E')");
    $one->run("BEGIN; $change");
    $two->start("UPDATE profiles SET $set WHERE id = '$user{a}'");
    waits($two, "$set waits for $change");
    $one->run('COMMIT');
    is($two->finish->{state}, $state, 'and sees it');
    is($k->exec($role), $result, 'name and id are those of one role');
    $k->exec("UPDATE profiles SET role = 'user'; DELETE FROM roles WHERE NOT is_system; INSERT INTO roles (id, name, display_name) VALUES ('$editor', 'editor', 'E')");
    $one->run("BEGIN; UPDATE profiles SET $set WHERE id = '$user{a}'");
    $two->start($change);
    waits($two, 'as it waits for that');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'and is done');
    is($k->exec($role), $change =~ /DELETE/ ? 'user true' : 'author true', 'for that user, too');
}
$_->quit foreach $one, $two;

# ---------- a tenant's url may have a password ----------

my $mark = 'kr-mark-5e1f';
foreach my $sql ("INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'n', 'postgresql://u:$mark\@192.0.2.1/x')", "UPDATE tenants SET data_source_url = 'postgresql://u:$mark\@192.0.2.1/y' WHERE subdomain = 'n'",
    "INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'BAD', 'postgresql://u:$mark\@192.0.2.1/x')", "INSERT INTO tenants (name, subdomain, data_source_url) VALUES ('N', 'm', 'postgresql://u:$mark\@[x/x')",
    "COPY tenants (name, subdomain, data_source_url) FROM STDIN;\nN\tBAD\tpostgresql://u:$mark\@192.0.2.1/x\n\\.\n")
{
    $r = $k->run($sql, user => 'backend');
    is($r->{state} eq '' ? 1 : 0, $sql =~ /BAD|\[x/ ? 0 : 1, 'runs: ' . substr($sql, 0, 90)) or diag($r->{err});
}
$k->exec('SELECT 1 AS last_of_all');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
like($log, qr/last_of_all/, 'statements are logged');
unlike($log, qr/$mark/, 'the password is not');
is($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query ~ '$mark'"), '0', 'nor in statistics');
is($k->exec("SELECT count(*) FROM app.data_sources s WHERE s::text ~ '$mark'"), '0', 'it is sealed');

# ---------- what is taken back is recorded ----------

$k->exec("SELECT kessel.set_api('n', 'https://n.example', 'anon-key', 'service-key')");
ok($node->poll_query_until('infra', 'SELECT pending = 0 FROM kessel.audit_status()'), 'all records are stored');
my $count = "SELECT count(*) FROM app.audit_log WHERE action = 'open' AND role_name = 'backend' AND ok";
my $before = $k->exec($count);
my @open = ("SELECT key FROM kessel.client_config('n')", "SELECT key FROM kessel.client_config('n', true)", "SELECT data_source_service_key FROM tenants WHERE subdomain = 'n'");
is($k->run("BEGIN; $_; ROLLBACK; BEGIN READ ONLY; $_; SAVEPOINT s; $_; ROLLBACK TO s; $_; SELECT 1 / 0", user => 'backend')->{state}, '22012', "opened and taken back: $_") foreach @open;
ok($node->poll_query_until('infra', "SELECT ($count) = $before + 4 * " . scalar(@open)), 'each opening is recorded');

done_testing();

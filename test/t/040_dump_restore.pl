# A dump of the infra database, restored elsewhere with the same root key,
# routes again, and its vault is what it was byte for byte; with another root
# key it says what is wrong, and is well again once the right one is in place.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $key = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => "kessel.root_key_file = '$key'\n");
$k->fleet;
$k->exec("CREATE TABLE public.notes (tenant uuid REFERENCES app.tenants, note text); INSERT INTO public.notes SELECT id, slug FROM app.tenants");
$k->exec("SELECT vault.create_secret('kr-secret-' || i, 'secret ' || i, new_tags => '{\"n\": 1.50}', new_tenant_id => CASE WHEN i % 2 = 0 THEN t.id END)"
      . " FROM app.tenants t, generate_series(1, 6) i WHERE slug = 'row-a';"
      . "SELECT vault.update_secret(id, 'kr-secret-again', new_expires_at => 'infinity') FROM vault.secrets WHERE name IN ('secret 1', 'secret 2');"
      . "SELECT vault.public_key(); SELECT vault.grant_secret(id, 'app', 'reveal') FROM vault.secrets WHERE name = 'secret 1'; SELECT vault.grant_secret(id, 'public', 'use') FROM vault.secrets WHERE name = 'secret 2'");
$k->exec("SELECT vault.create_secret('kr-secret', 'shredded', new_tenant_id => id) FROM app.tenants WHERE slug = 'solo-b'; SELECT vault.shred_tenant('solo-b')");
my $all = join "\n", map { $k->as_member($_, 'SELECT name FROM data.accounts ORDER BY id')->{out} } $k->tenants;
my $routes = $k->exec('SELECT tenant, tenant_id, data_source, isolation, tenant_id_in_data_source, epoch, host, port, dbname, username FROM kessel.routes ORDER BY 1');

# The vault's rows, as they are: ciphertext, nonces, versions, wrapped keys,
# grants, proofs, times; and what the public key opens.
my $vault = join ' UNION ALL ', map { "SELECT '$_', md5(string_agg(t::text, E'\\n' ORDER BY t::text)), count(*) FROM vault.$_ t" } qw(keys secrets former_versions secret_grants shred_proofs);
my $bytes = $k->exec($vault);
is(scalar(() = $bytes =~ /\|0$/mg), 0, 'each of the tables has rows');
my $shown  = "SELECT name, version, decrypted_secret FROM vault.decrypted_secrets WHERE name LIKE 'secret%' ORDER BY 1";
my $opened = $k->exec($shown);
my $public = $k->exec('SELECT vault.public_key()');
my $wanted = $k->exec('SELECT root_key_id FROM vault.status()');

# command(NAME, COMMAND...): runs it against a node, dies on an error.
sub command
{
    my ($node, @command) = @_;
    my ($out, $err) = ('', '');
    local $ENV{PGHOST} = $node->host;
    local $ENV{PGPORT} = $node->port;
    local $ENV{PGUSER} = 'postgres';
    ok(IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err), "$command[0] for " . $node->name) or diag($err);
    return $err;
}

command($k->node, 'pg_dumpall', '--roles-only', '-f', "$dir/roles.sql");
command($k->node, 'pg_dump', '-Fc', '-d', 'infra', '-f', "$dir/infra.dump");

foreach my $case ([ 'same', $key ], [ 'other', KesselTest::root_key_file("$dir/other.key") ])
{
    my ($name, $file) = @$case;
    my $r = KesselTest->new(name => $name, extension => 0, conf => "kessel.root_key_file = '$file'\n");

    # postgres is in the dump, too, and exists already.
    command($r->node, 'psql', '-Xq', '-d', 'postgres', '-f', "$dir/roles.sql");
    is(command($r->node, 'pg_restore', '--exit-on-error', '-d', 'infra', "$dir/infra.dump"), '', "$name: restored without a warning");
    $r->{user} = $k->{user};
    is($r->exec('SELECT tenant, tenant_id, data_source, isolation, tenant_id_in_data_source, epoch, host, port, dbname, username FROM kessel.routes ORDER BY 1'), $routes, "$name: the routes");
    is($r->exec('SELECT count(*) FROM public.notes JOIN app.tenants ON id = tenant'), '6', "$name: rows that refer to tenants");
    is($r->exec($vault), $bytes, "$name: the vault byte for byte");
    if ($name eq 'same')
    {
        is(join("\n", map { $r->as_member($_, 'SELECT name FROM data.accounts ORDER BY id')->{out} } $k->tenants), $all, "$name: every tenant's rows");
        is($r->as_member('row-a', "SET kessel.tenant = 'row-b'; SELECT name FROM data.accounts")->{state}, '42501', "$name: and nobody else's");
        $r->exec("SELECT kessel.create_tenant('late', data_source => 'shared', tenant_id_in_data_source => 'late')");
        ok_run($r->run('SELECT count(*) FROM data.accounts', tenant => 'late'), '0', "$name: life goes on");
        opens($r, $name);
        ok_run($r->run("SELECT vault.reveal('secret 1')", user => 'app'), 'kr-secret-again', "$name: a grant holds");
    }
    else
    {
        my $error = $r->as_member('row-a', 'SELECT name FROM data.accounts');
        ok($error->{state} =~ /^KR01[01]$/ && $error->{hint} ne '', "$name: the vault says that the key is another") or diag($error->{err});
        is($r->exec('SELECT sealed, wanted_root_key_ids FROM vault.status()'), "t|{$wanted}", "$name: and which it wants");
        is($r->exec("SELECT DISTINCT reason, root_key_id FROM vault.verify() WHERE reason <> 'data key was destroyed'"), "root key is not in place|$wanted", "$name: vault.verify() names it, too");
        is($r->exec("SELECT count(*) FROM vault.verify() WHERE reason <> 'data key was destroyed'"), $r->exec("SELECT count(*) FROM vault.secret_versions v JOIN vault.keys k ON k.id = v.key_id WHERE k.status <> 'destroyed'"), "$name: for each version");
        $r->exec("SELECT kessel.add_member('row-a', gen_random_uuid()); SELECT count(*) FROM kessel.routes");
        is($r->run("SELECT vault.create_secret('x')")->{state}, 'KR010', "$name: nothing is sealed under a second root key");

        # In a session that has been there all the time
        my $s = $r->session;
        is($s->run("SELECT vault.reveal('secret 3')")->{state}, 'KR010', "$name: a session finds it sealed");
        append_to_file("$dir/both.key", slurp_file($file) . slurp_file($key));
        chmod 0600, "$dir/both.key";
        rename "$dir/both.key", $file;
        $r->exec('SELECT pg_reload_conf()');
        ok_run($s->run("SELECT vault.reveal('secret 3')"), 'kr-secret-3', "$name: the right key in place, the same session opens");
        $s->quit;
        opens($r, $name);
        is($r->as_member('row-a', 'SELECT count(*) > 0 FROM data.accounts')->{out}, 't', "$name: and routes");
    }
    $r->node->stop;
}

# Everything that was to be opened
sub opens
{
    my ($r, $name) = @_;
    is($r->exec($shown), $opened, "$name: every secret opens");
    is($r->exec("SELECT DISTINCT reason FROM vault.verify()"), 'data key was destroyed', "$name: but what was shredded");
    is($r->exec('SELECT vault.public_key()'), $public, "$name: clients' key is the same");
    return;
}

#
# Rows alone, into a database that has the extension already
#
command($k->node, 'pg_dump', '-Fc', '--data-only', '-d', 'infra', '-f', "$dir/data.dump");
my $r = KesselTest->new(name => 'rows', conf => "kessel.root_key_file = '$key'\n");
$r->exec('CREATE TABLE public.notes (tenant uuid, note text)');
is(command($r->node, 'pg_restore', '--exit-on-error', '--data-only', '-d', 'infra', "$dir/data.dump"), '', 'rows alone: restored without a warning');
is($r->exec($vault), $bytes, 'rows alone: the vault byte for byte');
opens($r, 'rows alone');
$r->node->stop;

#
# The whole cluster as one script
#
command($k->node, 'pg_dumpall', '-f', "$dir/all.sql");
unlike(slurp_file("$dir/all.sql"), qr/kr-secret/, 'pg_dumpall: no plaintext');
$r = KesselTest->new(name => 'whole', extension => 0, conf => "kessel.root_key_file = '$key'\n");
$r->exec('DROP DATABASE infra', db => 'postgres');
unlike(command($r->node, 'psql', '-Xq', '-d', 'postgres', '-f', "$dir/all.sql"), qr/ERROR:  (?!role "postgres" already exists)/, 'pg_dumpall: restored');
is($r->exec($vault), $bytes, 'pg_dumpall: the vault byte for byte');
opens($r, 'pg_dumpall');
ok_run($r->run("SELECT vault.reveal('secret 1')", user => 'app'), 'kr-secret-again', 'pg_dumpall: a grant holds');

done_testing();

# A dump of the infra database, restored elsewhere with the same root key,
# routes again; with another root key it says what is wrong.
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
my $all = join "\n", map { $k->as_member($_, 'SELECT name FROM data.accounts ORDER BY id')->{out} } $k->tenants;
my $routes = $k->exec('SELECT tenant, tenant_id, data_source, isolation, tenant_id_in_data_source, epoch, host, port, dbname, username FROM kessel.routes ORDER BY 1');

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
    if ($name eq 'same')
    {
        is(join("\n", map { $r->as_member($_, 'SELECT name FROM data.accounts ORDER BY id')->{out} } $k->tenants), $all, "$name: every tenant's rows");
        is($r->as_member('row-a', "SET kessel.tenant = 'row-b'; SELECT name FROM data.accounts")->{state}, '42501', "$name: and nobody else's");
        $r->exec("SELECT kessel.create_tenant('late', data_source => 'shared', tenant_id_in_data_source => 'late')");
        ok_run($r->run('SELECT count(*) FROM data.accounts', tenant => 'late'), '0', "$name: life goes on");
    }
    else
    {
        my $error = $r->as_member('row-a', 'SELECT name FROM data.accounts');
        ok($error->{state} =~ /^KR01[01]$/ && $error->{hint} ne '', "$name: the vault says that the key is another") or diag($error->{err});
    }
}

done_testing();

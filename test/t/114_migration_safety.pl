# A migration of a database whose tables tenants share does not open it: what
# would let a tenant see the rows of another one is refused before it is committed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;

# The last error of a target in the newest run: sqlstate, message, detail.
sub outcome
{
    return $k->exec("SELECT t.error ->> 'sqlstate', t.error ->> 'detail' FROM kessel.migration_run_targets t JOIN kessel.migration_runs r USING (run_id) "
          . "WHERE t.data_source = 'shared' ORDER BY r.started_at DESC LIMIT 1");
}

sub add { my ($name, $up, $down) = @_; return $k->exec("SELECT kessel.add_migration('billing', '$name', \$up\$$up\$up\$, \$down\$$down\$down\$)") }
sub tables { return $k->data_exec($k->{shared}, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^invoices'") }

$k->exec("SELECT kessel.add_blueprint('billing')");
my $grant = 'GRANT SELECT, INSERT ON invoices TO "@runtime"';

add('0001_invoices', "CREATE TABLE invoices (tenant_id text, amount numeric); $grant", 'DROP TABLE invoices');
is($k->run("CALL kessel.migrate('billing', canary => '{row-a}')")->{state}, 'KR013', 'a table without row security');
like(outcome(), qr/^KR006\|table public\.invoices: row security is not enabled$/, '... is refused, with the reason');
is(tables(), 0, '... and taken back');

add('0001_invoices', "CREATE TABLE invoices (tenant_id text, amount numeric); SELECT kessel_agent.protect('invoices'); CREATE TABLE invoices_old (); GRANT TRUNCATE ON invoices_old TO \"\@runtime\"; $grant", 'DROP TABLE invoices, invoices_old');
$k->run("CALL kessel.migrate('billing', canary => '{row-a}')");
like(outcome(), qr/^KR006\|table public\.invoices_old: row security is not enabled\n.*may TRUNCATE it/, 'so is a second table, beside one that is protected');
is(tables(), 0, '... with it');

# One script for all kinds of isolation.
my $script = "CREATE TABLE invoices (amount numeric NOT NULL); $grant; DO \$\$ BEGIN IF current_setting('kessel_agent.isolation') = 'row' THEN "
  . "ALTER TABLE invoices ADD tenant_id text NOT NULL; PERFORM kessel_agent.protect('invoices'); END IF; END \$\$";
add('0001_invoices', $script, 'DROP TABLE invoices');
is($k->run("CALL kessel.migrate('billing', canary => '{row-a}')")->{state}, '', 'a script can ask for the isolation');
is($k->exec("SELECT count(*) FROM kessel.migration_targets WHERE version = 1"), 5, '... and fits all targets');
$k->exec("SELECT kessel.expose('billing', 'data'); GRANT SELECT, INSERT ON data.invoices TO kessel_user");
foreach my $tenant ($k->tenants)
{
    ok_run($k->as_member($tenant, "INSERT INTO data.invoices VALUES (length('$tenant')); SELECT count(*), sum(amount) FROM data.invoices"), '1|' . length($tenant), "$tenant has its own rows");
}

add('0002_open', 'ALTER TABLE invoices NO FORCE ROW LEVEL SECURITY', 'ALTER TABLE invoices FORCE ROW LEVEL SECURITY');
$k->run("CALL kessel.migrate('billing', canary => '{row-a}')");
like(outcome(), qr/^KR006\|table public\.invoices: row security is not forced$/, 'nor can a table be opened later');
ok_run($k->as_member('row-b', 'SELECT count(*) FROM data.invoices'), '1', '... whose rows stay apart');
is($k->run("CALL kessel.migrate('billing', canary => '{row-a}', dry_run => true)")->{state}, 'KR013', 'a dry run tells so, too');

# The role counts that the router connects with, not the one that migrates.
$k->exec("UPDATE app.data_sources SET options = '{\"shared_tables\": [\"public.currencies\"]}' WHERE name = 'shared'");
add('0002_open', 'CREATE TABLE currencies (code text); GRANT SELECT ON currencies TO "@runtime"', 'DROP TABLE currencies');
is($k->run("CALL kessel.migrate('billing', canary => '{row-a}')")->{state}, '', 'a table that is meant for all tenants') or diag(outcome());
add('0003_private', 'CREATE TABLE private (x integer)', 'DROP TABLE private');
is($k->run("CALL kessel.migrate('billing', canary => '{row-a}')")->{state}, '', 'a table that the runtime role cannot use needs no protection') or diag(outcome());

done_testing();

# Databases that had their tables before they had a record of them, and those whose
# record is gone; what a dry run cannot try; as which role a migration runs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;
sub add { my ($name, $up, $down, $more) = @_; return $k->exec("SELECT kessel.add_migration('billing', '$name', \$up\$$up\$up\$, \$down\$$down\$down\$" . ($more || '') . ')') }
sub lines { return join "\n", @_ }

$k->exec("SELECT kessel.add_blueprint('billing')");
add('0001_invoices', 'CREATE TABLE invoices (id integer PRIMARY KEY)', 'DROP TABLE invoices');
add('0002_due', 'ALTER TABLE invoices ADD due date', 'ALTER TABLE invoices DROP due');

# One has the tables, made by hand.
$k->data_exec($k->{schemas}, "SET ROLE $k->{schemas}{owner}; CREATE TABLE schema_a.invoices (id integer PRIMARY KEY, due date)");
ok_run($k->run("SELECT data_source, schema_name, recorded, error FROM kessel.baseline('billing', 2, '{schema-a}')"), 'schemas|schema_a|2|', 'a place is told what it has');
ok_run($k->run("SELECT error ->> 'sqlstate', recorded FROM kessel.baseline('billing', 1, '{schema-a}')"), '55000|', '... but once');
is($k->run("CALL kessel.migrate('billing', tenants => '{schema-a,schema-b}')")->{state}, '', 'it is not migrated');
is($k->exec("SELECT string_agg(schema_name || ' ' || applied, ',' ORDER BY 1) FROM kessel.migration_run_targets"), 'schema_a 0,schema_b 2', '... others are');
my $ignore = "ignore => '{%accounts%,%contacts%}'";
ok_run($k->run("SELECT count(*) FROM kessel.drift('billing', '{schema-a,schema-b}', $ignore)"), '0', 'and it is the same as they are');
$k->data_exec($k->{schemas}, "ALTER TABLE schema_a.invoices DROP due");
ok_run($k->run("SELECT tenant, difference, object FROM kessel.drift('billing', '{schema-a,schema-b}', $ignore)"), 'schema-a|missing|invoices.due', '... or not');
$k->data_exec($k->{schemas}, "ALTER TABLE schema_a.invoices ADD due date");

# All of them, of which one cannot be reached and one has no such schema.
$k->{solo}{node}->stop('immediate');
my $r = $k->run("SELECT data_source, recorded, error ->> 'sqlstate' FROM kessel.baseline('billing', 1, NULL) ORDER BY 1, schema_name");
$k->{solo}{node}->start;
like($r->{out}, qr/^schemas\|\|55000\nschemas\|\|55000\nshared\|1\|\nsolo_a\|\|08\w+\nsolo_b\|\|08\w+$/, 'each has its line') or diag("$r->{out}\n$r->{err}");
like_error($k->run("SELECT kessel.baseline('billing', 7, NULL)"), '22023', qr/no version 7/, 'a version that there is not');
like_error($k->run("SELECT kessel.baseline('billing', NULL, NULL)"), '22004', qr/version/, 'no version');
like_error($k->run("SELECT kessel.baseline('nothing', 1, NULL)"), '42704', qr/does not exist/, 'no such blueprint');
like_error($k->run("SELECT kessel.baseline('billing', 1, '{nobody}')"), 'KR002', qr/nobody/, 'no such tenant');
is($k->run("SELECT kessel.baseline('billing', 1, NULL)", user => 'app')->{state}, '42501', 'it is not for apps');

# Whose error is caught, or who has recorded something, keeps the lock no longer than that.
my $s = $k->session(user => 'postgres');
ok_run($s->run("BEGIN; DO \$\$ BEGIN PERFORM kessel.baseline('billing', 1, '{nobody}'); EXCEPTION WHEN OTHERS THEN NULL; END \$\$; SELECT kessel._run_holder('billing') IS NULL"), 't', 'an error that is caught lets go of the lock');
ok_run($s->run("SELECT count(*) FROM (SELECT kessel.baseline('billing', 1, '{}') UNION SELECT kessel.baseline('billing', 1, '{}')) b"), '0', 'two in one transaction');
like_error($k->run("CALL kessel.migrate('billing', tenants => '{schema-b}')"), '55P03', qr/being migrated by another session/, '... to whose end nobody else has it');
ok_run($s->run("COMMIT; SELECT kessel._run_holder('billing') IS NULL"), 't', '... and no longer');
$s->quit;

# The record is dropped there: what the blueprint has made is not what should go.
$k->data_exec($k->{schemas}, 'DROP SCHEMA kessel_agent CASCADE');
ok_run($k->run("SELECT difference, error ->> 'sqlstate', mend FROM kessel.drift('billing', '{schema-a,schema-b}', $ignore)"), lines('unknown|KR014|', 'unknown|KR014|'), 'a record that is gone is no drift');
ok_run($k->run("SELECT recorded FROM kessel.baseline('billing', 2, '{schema-a,schema-b}')"), lines(2, 2), '... and can be written anew');
ok_run($k->run("SELECT count(*) FROM kessel.drift('billing', '{schema-a,schema-b}', $ignore)"), '0', '... then all is well');
ok_run($k->run("SELECT ok, detail FROM kessel.test_data_source('schemas') WHERE \"check\" = 'agent'"), 't|not installed, and not needed', 'a record alone is no agent');

# What cannot be tried.
add('0003_by_due', 'CREATE INDEX CONCURRENTLY by_due ON invoices (due)', 'DROP INDEX CONCURRENTLY by_due', ', transactional => false');
$r = $k->run("CALL kessel.migrate('billing', tenants => '{schema-a}', dry_run => true)");
like($r->{err}, qr/WARNING:.*1 of the targets were not tried to version 3/, 'a dry run says what it has not tried');
like($k->exec("SELECT note FROM kessel.migration_run_targets WHERE note IS NOT NULL"), qr/^Tried to version 2 only/, '... of each target');

# As whom.
sub owner_credential { return $k->run("SELECT ok, detail FROM kessel.test_data_source('solo_a') WHERE \"check\" = 'owner credential'")->{out} }
is(owner_credential(), qq(t|user "$k->{solo}{owner}"), 'the test of a data source says as whom');
$k->exec("DELETE FROM app.data_source_credentials WHERE purpose = 'owner' AND data_source_id = (SELECT id FROM app.data_sources WHERE name = 'solo_a')");
$k->run("CALL kessel.migrate('billing', tenants => '{solo-a}')");
like(owner_credential(), qr/^t\|none: .* as the runtime role, user "$k->{solo}{runtime}"; SELECT kessel\.set_credential\('solo_a', /, '... that there is no credential of the owner');
like($k->exec("SELECT t.error ->> 'sqlstate', t.error ->> 'hint' FROM kessel.migration_run_targets t JOIN kessel.migration_runs USING (run_id) ORDER BY started_at DESC LIMIT 1"),
    qr/^42501\|It is done as role "$k->{solo}{runtime}"\. SELECT kessel\.set_credential\('solo_a', \.\.\., purpose => 'owner'\)/, 'who lacks the privilege is told');

# Behind a pooler the session is somebody else's afterwards: nothing is left in it.
$k->exec("SELECT kessel.alter_data_source('shared', options => '{\"pooler\": \"transaction\"}'); SELECT kessel.add_blueprint('residue')");
$k->exec("SELECT kessel.add_migration('residue', '0001_all', 'SET work_mem = ''1MB''; LISTEN x; SELECT pg_advisory_lock(7); CREATE TEMP TABLE t (x int); DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SELECT 1')");
is($k->run("CALL kessel.migrate('residue', tenants => '{row-a}')")->{state}, '', 'a migration behind a pooler cleans up') or diag($k->exec("SELECT error FROM kessel.migration_run_targets WHERE error IS NOT NULL"));

done_testing();

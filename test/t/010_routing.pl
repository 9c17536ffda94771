# One set of router tables, six tenants in three isolations: reading, writing,
# transactions, plans that serve all tenants, cancel, lost connections, bound
# servers.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;

foreach my $tenant ($k->tenants)
{
    ok_run($k->as_member($tenant, 'SELECT count(*), min(name), max(name) FROM data.accounts'),
        "5|$tenant account 1|$tenant account 5", "$tenant: its own rows");
    ok_run($k->as_member($tenant, 'SELECT a.city, count(*), sum(a.balance), min(c.email) FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id GROUP BY 1 ORDER BY 1'),
        "Bern|1|30.00|${tenant}3\@example.com\nOslo|2|50.00|${tenant}1\@example.com\nPorto|2|70.00|${tenant}2\@example.com",
        "$tenant: join with aggregate");

    # Writing, with what comes back.
    ok_run($k->as_member($tenant, "INSERT INTO data.accounts (id, name) VALUES (100, 'new'), (101, 'newer') RETURNING id, name, balance, active, opened"),
        "100|new|0.00|t|2026-01-01\n101|newer|0.00|t|2026-01-01", "$tenant: INSERT RETURNING, with the remote defaults");
    ok_run($k->as_member($tenant, "INSERT INTO data.accounts (id, name) VALUES (100, 'again') ON CONFLICT DO NOTHING RETURNING id"),
        '', "$tenant: ON CONFLICT DO NOTHING");
    is($k->as_member($tenant, "INSERT INTO data.accounts (id, name) VALUES (100, 'again')")->{state},
        '23505', "$tenant: a remote error keeps its SQLSTATE");
    ok_run($k->as_member($tenant, "UPDATE data.accounts SET balance = balance + 1.5, city = NULL WHERE id >= 100 RETURNING id, balance, city IS NULL"),
        "100|1.50|t\n101|1.50|t", "$tenant: UPDATE RETURNING");
    # A volatile expression keeps the update here, row by row.
    ok_run($k->as_member($tenant, "UPDATE data.accounts SET name = name || (random() < 2)::text WHERE id = 100 RETURNING name"),
        'newtrue', "$tenant: UPDATE evaluated here");
    ok_run($k->as_member($tenant, 'WITH gone AS (DELETE FROM data.accounts WHERE id >= 100 RETURNING id) SELECT count(*) FROM gone'),
        '2', "$tenant: DELETE RETURNING");

    # Transactions.
    ok_run($k->as_member($tenant, <<'SQL'), "5\n6\n5", "$tenant: rollback");
SELECT count(*) FROM data.accounts;
BEGIN; INSERT INTO data.accounts (id, name) VALUES (100, 'x'); SELECT count(*) FROM data.accounts; ROLLBACK;
SELECT count(*) FROM data.accounts;
SQL
    ok_run($k->as_member($tenant, <<'SQL'), "7\n6\n6", "$tenant: savepoints");
BEGIN;
INSERT INTO data.accounts (id, name) VALUES (100, 'kept');
SAVEPOINT one;
INSERT INTO data.accounts (id, name) VALUES (101, 'dropped');
SELECT count(*) FROM data.accounts;
ROLLBACK TO one;
SELECT count(*) FROM data.accounts;
RELEASE one;
COMMIT;
SELECT count(*) FROM data.accounts;
SQL
    ok_run($k->as_member($tenant, <<'SQL'), "t\n6\nkept", "$tenant: a remote error inside a subtransaction");
BEGIN;
DO $$ BEGIN
    INSERT INTO data.accounts (id, name) VALUES (102, 'dropped');
    INSERT INTO data.accounts (id, name) VALUES (100, 'twice');
EXCEPTION WHEN unique_violation THEN PERFORM set_config('test.seen', 't', true); END $$;
SELECT current_setting('test.seen');
SELECT count(*) FROM data.accounts;
DELETE FROM data.accounts WHERE id = 100 RETURNING name;
COMMIT;
SQL
    is($k->at_home($tenant, "SELECT count(*) FROM accounts WHERE name IN ('kept', 'dropped')"), '0', "$tenant: the target agrees");
}

#
# One generic plan for all tenants
#
{
    my $s = $k->session(user => 'service');
    $s->run('SET plan_cache_mode = force_generic_plan; PREPARE one (int) AS SELECT name FROM data.accounts WHERE id = $1');
    foreach my $round (1 .. 2)
    {
        foreach my $tenant ($k->tenants)
        {
            ok_run($s->run("SET kessel.tenant = '$tenant'; EXECUTE one(2)"), "$tenant account 2", "one prepared statement, $tenant, round $round");
        }
    }
    ok_run($s->run('SELECT generic_plans, custom_plans FROM pg_prepared_statements'), '12|0', 'by one generic plan');

    # Several tenants in one transaction: each has its own remote transaction.
    $s->run('BEGIN; SET LOCAL kessel.cross_tenant_writes = on');
    foreach my $tenant ($k->tenants)
    {
        $s->run("SET LOCAL kessel.tenant = '$tenant'; INSERT INTO data.accounts (id, name) VALUES (200, 'together')");
    }
    ok_run($s->run("SET LOCAL kessel.tenant = 'row-a'; SELECT count(*) FROM data.accounts"), '6', 'back at the first tenant in the same transaction');
    is($s->run('COMMIT')->{state}, '', 'six tenants in one transaction');
    is($k->at_home($_, 'SELECT count(*) FROM accounts WHERE id = 200'), $_ =~ /row/ ? 2 : 1, "written for $_") foreach $k->tenants;
    $s->run('BEGIN');
    $s->run("SET LOCAL kessel.tenant = '$_'; DELETE FROM data.accounts WHERE id = 200") foreach $k->tenants;
    $s->run('ROLLBACK');
    is($k->at_home($_, 'SELECT count(*) FROM accounts WHERE id = 200'), $_ =~ /row/ ? 2 : 1, "rolled back for $_") foreach $k->tenants;
    $s->run("SET kessel.tenant = '$_'; DELETE FROM data.accounts WHERE id = 200") foreach $k->tenants;
    $s->quit;
}

#
# Scans side by side, rescans, local joins, values
#
{
    my $s = $k->member_session('row-a');
    $s->run('BEGIN; DECLARE c1 CURSOR FOR SELECT id FROM data.accounts ORDER BY id; DECLARE c2 CURSOR FOR SELECT id FROM data.contacts ORDER BY id DESC');
    ok_run($s->run('FETCH 1 FROM c1'), '1', 'a cursor');
    ok_run($s->run('FETCH 2 FROM c2'), "5\n4", 'a second one');
    ok_run($s->run('FETCH 2 FROM c1'), "2\n3", 'the first goes on');
    ok_run($s->run('FETCH ALL FROM c2; FETCH ALL FROM c1'), "3\n2\n1\n4\n5", 'both to the end');
    $s->run('COMMIT');
    ok_run($s->run('SET enable_hashjoin = off; SET enable_mergejoin = off; SELECT v, (SELECT name FROM data.accounts a WHERE a.id = v AND random() < 2) FROM generate_series(2, 4) v'),
        "2|row-a account 2\n3|row-a account 3\n4|row-a account 4", 'rescan with parameters');
    ok_run($s->run('SELECT name FROM data.accounts ORDER BY id DESC LIMIT 2 OFFSET 1'), "row-a account 4\nrow-a account 3", 'order, limit, offset');
    my $odd = "E'a''b\\\\c\\n\\u00e9\\u4e16 \@tenant \$1'";
    ok_run($s->run("INSERT INTO data.accounts (id, name, city, balance, active, opened) VALUES (300, $odd, NULL, -1.23, false, '0044-03-15 BC') RETURNING name = $odd, city IS NULL, balance, active, opened"),
        't|t|-1.23|f|0044-03-15 BC', 'values survive the way there and back');
    ok_run($s->run("SELECT count(*) FROM data.accounts WHERE name = $odd"), '1', 'and as a condition');
    $s->run('DELETE FROM data.accounts WHERE id = 300');
    $s->quit;

    # Where working here is dear, what is pushed down is what postgres_fdw would
    # push down.
    $k->exec("CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$k->{solo}{port}', dbname 'tenants');"
          . "CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (user '$k->{solo}{runtime}', password '$k->{solo}{password}');"
          . 'CREATE SCHEMA plain; IMPORT FOREIGN SCHEMA public FROM SERVER plain INTO plain; GRANT USAGE ON SCHEMA plain TO app; GRANT ALL ON ALL TABLES IN SCHEMA plain TO app');
    my $remote = 'SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_nestloop = off; SET enable_hashagg = off; SET enable_sort = off;';
    my @planned = (
        'SELECT * FROM %1$s.accounts WHERE id = 1 AND name ~ \'x\'',
        'SELECT name FROM %1$s.accounts WHERE city = \'Bern\' ORDER BY name LIMIT 1',
        'SELECT count(*), sum(balance) FROM %1$s.accounts',
        'SELECT a.city, count(*) FROM %1$s.accounts a JOIN %1$s.contacts c ON c.account_id = a.id GROUP BY 1',
        'SELECT a.name FROM %1$s.accounts a LEFT JOIN %1$s.contacts c ON c.account_id = a.id WHERE c.id IS NULL',
        'SELECT a.name FROM %1$s.accounts a WHERE EXISTS (SELECT FROM %1$s.contacts c WHERE c.account_id = a.id)',
        'UPDATE %1$s.accounts SET balance = balance + 1 WHERE city = \'Oslo\'',
        'DELETE FROM %1$s.contacts USING %1$s.accounts a WHERE a.id = account_id AND a.city = \'Oslo\'');
    foreach my $sql (@planned)
    {
        my ($plain, $router) = map { $k->as_member('solo-a', "$remote EXPLAIN (VERBOSE, COSTS OFF) " . sprintf($sql, $_))->{out} } qw(plain data);
        $plain =~ s/\bplain\./data./g;
        $router =~ s/^ *Route:.*(?:\n|\z)//mg;
        $router =~ s/"\@tenant"/public/g;
        chomp $router;
        is($router, $plain, "pushed down as by postgres_fdw: $sql");
    }
    foreach my $tenant (qw(row-a schema-a solo-a))
    {
        my $plan = $k->as_member($tenant, "$remote EXPLAIN (VERBOSE, COSTS OFF) " . sprintf($planned[3], 'data'))->{out};
        like($plan, qr/Remote SQL: SELECT .*count\(\*\).*INNER JOIN.*GROUP BY/, "$tenant: join and aggregate run there");
        like($plan, qr/^ *Route: tenant "\Q$tenant\E" on data source/m, "$tenant: EXPLAIN shows the route");
        unlike($plan, qr/kr-marked|_runtime/, "$tenant: and no credential");
    }
    my $literal = $k->as_member('schema-a', q{SELECT count(*), '"@tenant".' FROM data.accounts WHERE name <> '"@tenant".accounts'});
    ok_run($literal, '5|"@tenant".', 'a literal that looks like the marker stays what it is');
}

#
# Cancel reaches the target; a lost connection
#
foreach my $tenant (qw(row-a schema-a solo-a))
{
    my ($kind) = split /-/, $tenant;
    my $d = $k->{ { row => 'shared', schema => 'schemas', solo => 'solo' }->{$kind} };
    my $table = $kind eq 'schema' ? 'schema_a.accounts' : 'public.accounts';
    my $waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = '$d->{runtime}'";
    my $lock = $k->session(url => sprintf("host='%s' port=%d dbname=%s user=postgres", $d->{node}->host, $d->{port}, $d->{db}));
    my $s = $k->member_session($tenant);

    $lock->run("BEGIN; LOCK TABLE $table");
    like_error($s->run("SET statement_timeout = '300ms'; SELECT count(*) FROM data.accounts"), '57014', qr/statement timeout/, "$tenant: statement_timeout");
    ok($d->{node}->poll_query_until('postgres', "SELECT ($waits) = 0"), "$tenant: nothing goes on waiting there");
    $s->run('RESET statement_timeout');
    $s->start('SELECT count(*) FROM data.accounts');
    ok($d->{node}->poll_query_until('postgres', "SELECT ($waits) = 1"), "$tenant: the query waits there");
    $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
    like_error($s->finish, '57014', qr/user request/, "$tenant: pg_cancel_backend");
    ok($d->{node}->poll_query_until('postgres', "SELECT ($waits) = 0"), "$tenant: nothing goes on waiting there");
    $lock->run('ROLLBACK');
    $lock->quit;
    ok_run($s->run('SELECT count(*) FROM data.accounts'), '5', "$tenant: the session goes on");

    my $end = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = '$d->{runtime}'";
    $k->data_exec($d, $end);
    ok_run($s->run('SELECT count(*) FROM data.accounts'), '5', "$tenant: a connection lost between transactions is made again");
    ok_run($s->run('BEGIN; SELECT count(*) FROM data.accounts'), '5', "$tenant: in a transaction");
    $k->data_exec($d, $end);
    like($s->run('SELECT count(*) FROM data.accounts')->{state}, qr/^(?:08|57P01)/, "$tenant: one lost inside it is an error");
    ok_run($s->run('ROLLBACK; SELECT count(*) FROM data.accounts'), '5', "$tenant: the next transaction has a new one");
    $s->run('BEGIN; INSERT INTO data.accounts (id, name) VALUES (400, \'lost\')');
    $k->data_exec($d, $end);
    isnt($s->run('COMMIT')->{state}, '', "$tenant: a commit that cannot be is an error");
    ok_run($s->run('SELECT count(*) FROM data.accounts'), '5', "$tenant: and nothing was written");
    $s->quit;
}

#
# Bound servers
#
$k->exec(<<'SQL');
CREATE SCHEMA bound;
CREATE SERVER of_tenant FOREIGN DATA WRAPPER kessel_fdw OPTIONS (tenant 'schema-b');
CREATE FOREIGN TABLE bound.of_tenant (id integer, name text) SERVER of_tenant OPTIONS (schema_name '@tenant', table_name 'accounts');
CREATE SERVER of_source FOREIGN DATA WRAPPER kessel_fdw OPTIONS (data_source 'solo_b');
CREATE FOREIGN TABLE bound.of_source (id integer, name text) SERVER of_source OPTIONS (schema_name 'public', table_name 'accounts');
SQL
ok_run($k->run('SELECT name FROM bound.of_tenant WHERE id = 1', tenant => 'solo-a'), 'schema-b account 1', 'a server bound to a tenant');
ok_run($k->run('SELECT name FROM bound.of_source WHERE id = 1', tenant => 'solo-a'), 'solo-b account 1', 'a server bound to a data source');
ok_run($k->run('SELECT t.name, s.name, r.name FROM bound.of_tenant t JOIN bound.of_source s USING (id) JOIN data.accounts r USING (id) WHERE id = 1', tenant => 'solo-a'),
    'schema-b account 1|solo-b account 1|solo-a account 1', 'joined with a router table');

done_testing();

# One statement on many tenants: what comes back, who can see what, and what one
# tenant that is broken in any way costs the others: one line.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Socket::INET;
use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $slow = $ENV{KR_SLOW} || 1;
my $k = KesselTest->new(conf => "max_files_per_process = 1000\n");
$k->fleet;
my @tenants = $k->tenants;
my $s = $k->session(user => 'admin');

# fleet(SQL, ARGUMENTS): lines "tenant|ok|row|sqlstate" of fleet_query(), sorted.
sub call
{
    my ($sql, $arguments) = @_;
    return "kessel.fleet_query(\$kr\$$sql\$kr\$" . ($arguments ? ", $arguments)" : ')');
}

sub fleet
{
    my ($sql, $arguments, $session) = @_;
    return ($session || $s)->run("SELECT tenant, ok, \"row\", error ->> 'sqlstate' FROM " . call($sql, $arguments) . ' ORDER BY tenant COLLATE "C", ok DESC, "row"::text COLLATE "C"');
}

sub exec_all
{
    my ($sql, $arguments, $session) = @_;
    return ($session || $s)->run("SELECT tenant, ok, command, rows, error ->> 'sqlstate' FROM kessel.fleet_exec(\$kr\$$sql\$kr\$" . ($arguments ? ", $arguments)" : ')') . ' ORDER BY tenant COLLATE "C"');
}

sub lines { return join "\n", @_ }

#
# Rows of all, in all kinds of isolation
#
ok_run(fleet('SELECT count(*), min(name) FROM accounts'), lines(map { "$_|t|{\"min\": \"$_ account 1\", \"count\": 5}|" } @tenants), 'each tenant has its own rows');
ok_run(fleet('SELECT id FROM accounts WHERE id < 3 ORDER BY id;  -- with a comment'), lines(map { ("$_|t|{\"id\": 1}|", "$_|t|{\"id\": 2}|") } @tenants), 'a line for each row');
ok_run(fleet('SELECT id FROM accounts WHERE false'), lines(map { "$_|t||" } @tenants), 'one line for a tenant without rows');
ok_run(fleet('SELECT FROM accounts WHERE id = 1'), lines(map { "$_|t|{}|" } @tenants), 'rows without columns');
ok_run(fleet('SELECT name FROM accounts WHERE id = $1::int AND city = $2', "params => '{2,Porto}'"), lines(map { "$_|t|{\"name\": \"$_ account 2\"}|" } @tenants), 'parameters');
ok_run(fleet('SELECT $1 AS a', "'{solo-a}', params => '{NULL}'"), 'solo-a|t|{"a": null}|', 'a parameter that is NULL');
ok_run(fleet('VALUES (1)', "'{solo-a}'"), 'solo-a|t|{"column1": 1}|', 'VALUES');
ok_run(fleet('TABLE accounts LIMIT 0', "'{solo-a}'"), 'solo-a|t||', 'TABLE');
ok_run(fleet('WITH a AS (SELECT max(id) AS m FROM accounts) SELECT m FROM a', "'{row-a}'"), 'row-a|t|{"m": 5}|', 'WITH');
ok_run(fleet('SHOW search_path', "'{schema-a}'"), 'schema-a|t|{"search_path": "schema_a, pg_temp"}|', 'SHOW');
like(fleet('EXPLAIN (COSTS OFF, FORMAT JSON) SELECT 1', "'{row-a}'")->{out}, qr/^row-a\|t\|\{"QUERY PLAN": \[\{"Plan": /, 'EXPLAIN');
ok_run($s->run('SELECT bool_and(ms > 0 AND ms < 60000) FROM ' . call('SELECT 1')), 't', 'milliseconds');
ok_run(fleet('SELECT 1 AS a', "'{solo-a,row-a,solo-a}'"), lines('row-a|t|{"a": 1}|', 'solo-a|t|{"a": 1}|'), 'a tenant that is named twice counts once');
my $id = $k->exec("SELECT id FROM app.tenants WHERE slug = 'solo-a'");
ok_run(fleet('SELECT 1 AS a', "'{solo-a,$id}'"), 'solo-a|t|{"a": 1}|', 'so does one that is named by slug and id');
ok_run(fleet('SELECT 1 AS a', "'{nobody,Bad Name,$id," . 'x' x 200 . "}'"), lines('Bad Name|f||KR002', 'nobody|f||KR002', 'solo-a|t|{"a": 1}|', 'x' x 200 . '|f||KR002'), 'unknown tenants are errors');
ok_run(fleet('SELECT 1', "'{}'"), '', 'an empty list');
ok_run($s->run("SELECT count(*), count(DISTINCT tenant) FROM " . call('SELECT i, name FROM accounts, generate_series(1, 2000) i')), '60000|6', 'many rows of each');

# As to_jsonb() has them.
$k->at_home('solo-a', "CREATE TYPE public.mood AS ENUM ('sad', 'it''s'); CREATE TYPE public.pair AS (a int, b text); GRANT CREATE ON SCHEMA public TO $k->{solo}{runtime}");
foreach my $value (
    "1.50::numeric", "'NaN'::numeric", "'NaN'::float8", "'-Infinity'::float8", "1e-300::float8", "12345678901234567890::numeric", "9007199254740993::bigint",
    "'2026-01-02 03:04:05.678+09'::timestamptz", "'infinity'::timestamptz", "'0044-03-15 BC'::date", "'04:05:06'::time", "'1 year -2 days 03:00'::interval",
    "'\\x00ff'::bytea", "'{1,NULL,3}'::int[]", "'{{a,b},{\"c d\",NULL}}'::text[]", "NULL::text", "''::text", "E'a\\n\\t\"b\\\\ \xc3\xa9'::text", "true", "'{\"b\": 1, \"a\": [null]}'::jsonb",
    "'{\"b\":1,  \"a\": 2}'::json", "'[1,5)'::int4range", "'10.0.0.1/8'::inet", "'12.34'::money", "ROW(1, 'x')", "'<a/>'::xml", "point(1,2)", "'a'::\"char\"")
{
    next if $value =~ /xml/ && $k->run("SELECT '<a/>'::xml")->{state} ne '';
    my $here = $k->run("SET timezone = 'GMT'; SELECT to_jsonb(r) FROM (SELECT $value AS v, $value AS w) r");
    ok_run(fleet("SELECT $value AS v, $value AS w", "'{solo-a}'"), "solo-a|t|$here->{out}|", "as here: $value");
}
ok_run(fleet("SELECT 'it''s'::mood AS m, (7, 'x')::pair AS p, ARRAY['sad']::mood[] AS ms", "'{solo-a}'"), 'solo-a|t|{"m": "it\'s", "p": {"a": 7, "b": "x"}, "ms": ["sad"]}|', 'types that are not known here');
like(fleet('SELECT ' . join(', ', map { "$_ AS c$_" } 1 .. 1000), "'{row-a}'")->{out}, qr/"c1000": 1000/, '1,000 columns');
ok_run($s->run("SELECT length(\"row\" ->> 'v') FROM " . call("SELECT repeat('x', 100000000) AS v", "'{solo-a}'")), '100000000', 'a row of 100 MB');

#
# Arguments
#
foreach my $case (
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', max_parallel => 0)" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', max_parallel => -1)" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', max_parallel => 10000)" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', max_parallel => NULL)" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', timeout => '0')" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', timeout => '-1 s')" ],
    [ '22023', "SELECT * FROM kessel.fleet_query('SELECT 1', deadline => '1 year')" ],
    [ '22004', "SELECT * FROM kessel.fleet_query(NULL)" ],
    [ '22004', "SELECT * FROM kessel.fleet_query('SELECT 1', ARRAY['row-a', NULL])" ],
    [ '42601', "SELECT * FROM kessel.fleet_query('')" ],
    [ '42601', "SELECT * FROM kessel.fleet_query('  -- nothing')" ],
    [ '42601', "SELECT * FROM kessel.fleet_query('SELECT 1; SELECT 2')" ],
    [ '42601', "SELECT * FROM kessel.fleet_exec('DELETE FROM contacts; DELETE FROM accounts')" ],
    [ '2D000', "SELECT * FROM kessel.fleet_exec('COMMIT')" ],
    [ '2D000', "SELECT * FROM kessel.fleet_exec('PREPARE TRANSACTION ''x''')" ],
    [ '2D000', "SELECT * FROM kessel.fleet_query('ROLLBACK')" ],
    [ '0A000', "SELECT * FROM kessel.fleet_query('COPY accounts TO STDOUT')" ],
    [ '0A000', "SELECT * FROM kessel.fleet_exec('COPY accounts FROM STDIN')" ],
    [ '22023', "SELECT * FROM kessel.fleet_rows('SELECT 1', on_error => 'x') AS t(a text, b int)" ],
    [ '25006', "BEGIN READ ONLY; SELECT * FROM kessel.fleet_exec('DELETE FROM contacts')" ])
{
    like_error($s->run($case->[1]), $case->[0], qr/./, "$case->[0]: $case->[1]");
    $s->run('ROLLBACK');
}
ok_run(fleet('SELEC 1'), lines(map { "$_|f||" . (/solo/ ? '42601' : '42501') } @tenants), 'a syntax error is one line each');
ok_run(fleet('SELECT 1 FROM nothing'), lines(map { "$_|f||42P01" } @tenants), 'so is a table that is not there');
ok_run(fleet('INSERT INTO accounts (id, name) VALUES (100, \'x\')'), lines(map { "$_|f||25006" } @tenants), 'nothing can be written by a query');
ok_run(fleet("SELECT set_config('transaction_read_only', 'off', false), 1", "'{solo-a}'"), 'solo-a|f||25001', 'nor be made writable');

#
# Nobody leaves the tenant
#
my @attacks = (
    "SELECT set_config('kessel_agent.tenant_id', 'row-b', true), (SELECT min(name) FROM accounts)",
    "SELECT pg_catalog.set_config('kessel_agent.tenant_id', 'row-b', true)",
    "SELECT U&\"set\\005fconfig\"('kessel_agent.tenant_id', 'row-b', true)",
    "SELECT * FROM set_config('kessel_agent.tenant_id', 'row-b', true), LATERAL (SELECT name FROM accounts LIMIT 1) a",
    "SELECT name FROM accounts ORDER BY set_config('kessel_agent.tenant_id', 'row-b', true)",
    "SELECT name FROM accounts LIMIT (SELECT length(set_config('kessel_agent.tenant_id', 'row-b', true)))",
    "WITH x AS MATERIALIZED (SELECT set_config('kessel_agent.tenant_id', 'row-b', true)) SELECT * FROM x, accounts",
    "SELECT count(*) FILTER (WHERE set_config('kessel_agent.tenant_id', 'row-b', true) = '') OVER (PARTITION BY set_config('x.y', 'z', true)) FROM accounts",
    "SELECT CASE WHEN set_config('kessel_agent.tenant_id', 'row-b', true) IS NULL THEN 1 END",
    "SELECT kessel_agent.enter('row-b', 1)",
    "SELECT kessel_agent.enter('row-b', (SELECT epoch FROM kessel_agent.tenants WHERE tenant_id = 'row-b'))",
    "SELECT query_to_xml('SELECT set_config(''kessel_agent.tenant_id'', ''row-b'', true)', true, true, '')",
    "SELECT query_to_xml('SELECT * FROM schema_b.accounts', true, true, '')",
    "SELECT table_to_xml('schema_b.accounts', true, true, '')",
    "SELECT schema_to_xml('schema_b', true, true, '')",
    "SELECT ts_stat('SELECT to_tsvector(name) FROM schema_b.accounts')",
    "SELECT most_common_vals FROM pg_stats",
    "SELECT most_common_vals FROM pg_catalog.pg_stats",
    "SELECT query FROM pg_stat_activity",
    "SELECT last_value FROM pg_sequences",
    "MERGE INTO accounts a USING (SELECT set_config('kessel_agent.tenant_id', 'row-b', true) AS v) b ON a.name = b.v WHEN MATCHED THEN DELETE",
    "INSERT INTO accounts (id, name) VALUES (99, set_config('kessel_agent.tenant_id', 'row-b', true)) ON CONFLICT DO NOTHING",
    "UPDATE accounts SET name = 'x' WHERE set_config('kessel_agent.tenant_id', 'row-b', true) = '' RETURNING id",
    "DELETE FROM accounts USING set_config('kessel_agent.tenant_id', 'row-b', true)",
    "SELECT (ARRAY[set_config('kessel_agent.tenant_id', 'row-b', true)])[1]",
    "SELECT * FROM accounts TABLESAMPLE bernoulli ((SELECT length(set_config('kessel_agent.tenant_id', 'row-b', true))))",
    "SELECT * FROM XMLTABLE('/a' PASSING (set_config('kessel_agent.tenant_id', 'row-b', true))::xml COLUMNS x int)",
    "SELECT GREATEST(set_config('kessel_agent.tenant_id', 'row-b', true), '')",
    "VALUES (set_config('kessel_agent.tenant_id', 'row-b', true))",
    "SELECT pg_stat_get_activity(NULL)",
    "SELECT nextval('schema_b.s')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_terminate_backend(1)",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT dblink('dbname=tenants', 'SELECT 1')",
    "SELECT 1 OPERATOR(public.+) 2",
    "SET kessel_agent.tenant_id = 'row-b'",
    "SET LOCAL kessel_agent.tenant_id = 'row-b'",
    "RESET kessel_agent.tenant_id",
    "RESET ALL",
    "DISCARD ALL",
    "SET search_path = schema_b",
    "DO \$\$ BEGIN PERFORM set_config('kessel_agent.tenant_id', 'row-b', true); END \$\$",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DECLARE c CURSOR FOR SELECT 1",
    "LISTEN x",
    "CREATE TEMP TABLE t AS SELECT * FROM accounts",
    "SELECT * INTO TEMP t FROM accounts",
    "LOCK TABLE accounts",
    "CALL p()",
    "LOAD 'x'",
    "SET ROLE postgres",
    "SELECT 1) AS a; SELECT set_config('kessel_agent.tenant_id', 'row-b', true); --",
    "SELECT 'a\\'' || set_config('kessel_agent.tenant_id', 'row-b', true) || '",
    "UPDATE pg_settings SET setting = 'row-b' WHERE name = 'kessel_agent.tenant_id'",
    "WITH x AS (UPDATE pg_settings SET setting = 'row-b' WHERE name = 'kessel_agent.tenant_id' RETURNING 1) SELECT * FROM x",
    "EXPLAIN ANALYZE SELECT set_config('kessel_agent.tenant_id', 'row-b', true)");
foreach my $attack (@attacks)
{
    my $r = fleet($attack, "'{row-a,schema-a}'");
    my $ok = $r->{state} =~ /^(?:42601|0A000)$/ || $r->{out} eq lines('row-a|f||42501', 'schema-a|f||42501');
    ok($ok, "refused: $attack") or diag("$r->{out}\n$r->{err}");
    $r = exec_all($attack, "'{row-a,schema-a}'");
    $ok = $r->{state} =~ /^(?:42601|0A000)$/ || $r->{out} eq lines('row-a|f|||42501', 'schema-a|f|||42501');
    ok($ok, "refused for writing: $attack") or diag("$r->{out}\n$r->{err}");
}
{
    my $other = $k->session(user => 'admin');
    $other->run('SET standard_conforming_strings = off');
    my $r = fleet("SELECT 'a\\' || set_config('kessel_agent.tenant_id', 'row-b', true) || '' AS v", "'{row-a}'", $other);
    is($r->{out}, 'row-a|f||42501', 'a string means the same here and there');
    $other->quit;
}
ok_run(fleet('SELECT name FROM schema_b.accounts WHERE id = 1'), lines(map { "$_|f||" . (/schema-a/ ? '42501' : '42P01') } grep { $_ ne 'schema-b' } @tenants[ 0 .. 2 ])
      . "\nschema-b|t|{\"name\": \"schema-b account 1\"}|\n" . lines(map { "$_|f||42P01" } qw(solo-a solo-b)), 'a schema can be named by its own tenant');
ok_run(fleet("SELECT kessel_agent.tenant_id() AS t, random() < 2 AS r, now() IS NOT NULL AS n", "'{row-a,row-b}'"), lines(map { "$_|t|{\"n\": true, \"r\": true, \"t\": \"$_\"}|" } qw(row-a row-b)), 'what is harmless is let through');
ok_run(fleet("SELECT count(*) AS n FROM accounts WHERE name NOT LIKE current_setting('kessel_agent.tenant_id') || '%'", "'{row-a,row-b}'"), lines(map { "$_|t|{\"n\": 0}|" } qw(row-a row-b)), 'and sees no rows of others');
ok_run(fleet("DO \$\$ BEGIN COMMIT; END \$\$", "'{solo-a}'"), 'solo-a|f||2D000', 'a block cannot commit');
# What a tenant with its own database leaves in a session, nobody finds.
ok_run(exec_all("SET application_name = 'left behind'", "'{solo-a}'"), 'solo-a|t|SET|0|', 'SET in a database of its own');
ok_run(fleet("SHOW application_name", "'{solo-a}'") =~ /left/ ? { state => '', out => 'left', err => '' } : { state => '', out => '', err => '' }, '', 'leaves nothing behind');

#
# Writing
#
ok_run(exec_all("UPDATE accounts SET balance = 7 WHERE id < 3"), lines(map { "$_|t|UPDATE|2|" } @tenants), 'writing for all');
$s->run('BEGIN');
ok_run(exec_all("INSERT INTO accounts (id, name) VALUES (50, 'new') RETURNING id"), lines(map { "$_|t|INSERT|1|" } @tenants), 'within a transaction');
$s->run('ROLLBACK');
ok_run(fleet("SELECT name FROM accounts WHERE id = 50"), lines(map { "$_|t|{\"name\": \"new\"}|" } @tenants), 'which undoes nothing there');
$k->at_home('solo-b', 'DELETE FROM public.accounts WHERE id = 50');
ok_run(exec_all("INSERT INTO accounts (id, name) VALUES (50, 'new')"), lines(map { /solo-b/ ? "$_|t|INSERT|1|" : "$_|f|||23505" } @tenants), 'one works, the others fail');
ok_run(exec_all("DELETE FROM accounts WHERE id = 50"), lines(map { "$_|t|DELETE|1|" } @tenants), 'and they go on working');
ok_run(exec_all("CREATE TABLE public.made (a int)", "'{solo-a}'"), 'solo-a|t|CREATE TABLE|0|', 'a table in a database of its own');
$k->at_home('solo-a', "CREATE TABLE public.late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON public.late TO $k->{solo}{runtime}");
ok_run(exec_all('INSERT INTO public.late VALUES (1), (1)', "'{solo-a}'"), 'solo-a|f|||23505', 'what fails at COMMIT');
ok_run($s->run("SELECT count(*) FROM kessel.fleet_exec('UPDATE accounts SET balance = 8') WHERE ok LIMIT 1"), '6', 'all are written');
ok_run($s->run("SELECT 1 FROM (SELECT kessel.fleet_exec('UPDATE accounts SET balance = 9') OFFSET 0) x LIMIT 1"), '1', 'one line is fetched');
ok_run(fleet('SELECT DISTINCT balance FROM accounts'), lines(map { "$_|t|{\"balance\": 9.00}|" } @tenants), 'and all were written');

#
# Typed rows
#
ok_run($s->run("SELECT * FROM kessel.fleet_rows('SELECT id, name, opened, ARRAY[balance] FROM accounts WHERE id = 2') AS t(tenant text, id int, name text, opened date, b numeric[]) ORDER BY tenant"),
    lines(map { "$_|2|$_ account 2|2026-01-01|{9.00}" } @tenants), 'rows in columns');
ok_run($s->run("SELECT count(*) FROM kessel.fleet_rows('SELECT i, now() FROM generate_series(1, 1000) i') AS t(tenant varchar, i bigint, at timestamptz)"), '6000', 'many of them');
like_error($s->run("SELECT * FROM kessel.fleet_rows('SELECT 1, 2') AS t(tenant text, a int)"), '42804', qr/have 2 columns, and 1 are asked for/, 'too many columns');
like_error($s->run("SELECT * FROM kessel.fleet_rows('SELECT name FROM accounts', '{row-a}') AS t(tenant text, a int)"), '22P02', qr/row-a account/, 'of another type');
like_error($s->run("SELECT * FROM kessel.fleet_rows('SELECT 1 FROM nothing', '{row-a}') AS t(tenant text, a int)"), '42P01', qr/nothing/, 'the first error ends it');
like_error($s->run("SELECT kessel.fleet_rows('SELECT 1')"), '0A000', qr/./, 'without columns');
$k->at_home('solo-b', 'ALTER TABLE public.accounts ALTER COLUMN balance TYPE text USING \'x\'; ALTER TABLE public.accounts ADD COLUMN more int');
my $r = $s->run("SELECT * FROM kessel.fleet_rows('SELECT id, balance FROM accounts WHERE id = 1', on_error => 'warn') AS t(tenant text, id int, b numeric) ORDER BY 1");
is($r->{out}, lines(map { "$_|1|9.00" } grep { $_ ne 'solo-b' } @tenants), 'with on_error warn the others come');
like($r->{err}, qr/^WARNING:  22P02: tenant "solo-b": invalid input syntax for type numeric: "x"/m, 'and a warning');
ok_run(fleet('SELECT * FROM (SELECT accounts.* FROM accounts WHERE id = 1) a', "'{solo-b}'"), 'solo-b|t|{"id": 1, "city": "Oslo", "more": null, "name": "solo-b account 1", "active": true, "opened": "2026-01-01", "balance": "x"}|', 'each tenant has its own shape');

#
# Privileges
#
foreach my $case ([ 'service', '' ], [ 'app', '42501' ], [ 'stranger', '42501' ])
{
    my ($user, $state) = @$case;
    is($k->run('SELECT count(*) FROM ' . call('SELECT 1'), user => $user)->{state}, $state, "as $user");
}
$k->exec('GRANT EXECUTE ON FUNCTION kessel.fleet_query TO kessel_user');
my $member = $k->session(user => 'app', sub => $k->{user}{a});
ok_run(fleet('SELECT 1 AS a', "'{row-a,row-b,solo-a}'", $member), lines('row-a|t|{"a": 1}|', 'row-b|f||42501', 'solo-a|t|{"a": 1}|'), 'a member, if it is let, has its own tenants');
like_error($member->run('SELECT * FROM ' . call('SELECT 1')), '42501', qr/all tenants/, 'and must name them');
$member->quit;
$k->exec('REVOKE EXECUTE ON FUNCTION kessel.fleet_query FROM kessel_user');
$k->exec("SELECT vault.revoke_secret(c.secret_id, 'public', 'use') FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = 'schemas' AND c.purpose = 'runtime'");
$r = fleet('SELECT 1 AS a', undef, my $service = $k->session(user => 'service'));
is($r->{out}, lines(map { /schema/ ? "$_|f||42501" : "$_|t|{\"a\": 1}|" } @tenants), 'a credential that one may not use');
$service->quit;
$k->exec("SELECT vault.grant_secret(c.secret_id, 'public', 'use') FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = 'schemas' AND c.purpose = 'runtime'");

#
# Streams, in the list of a SELECT
#
$s->run('SELECT kessel.disconnect()');
$s->run('BEGIN; DECLARE c CURSOR FOR SELECT kessel.fleet_query($$SELECT i FROM generate_series(1, 10000000) i$$, $${solo-a,row-a}$$)');
my $begin = time;
like($s->run('FETCH 1 FROM c')->{out}, qr/^\((?:solo-a|row-a),t,"\{""i"": 1\}",,/, 'the first of 20,000,000 rows');
cmp_ok(time - $begin, '<', 5 * $slow, 'comes at once');
ok_run($s->run('MOVE 50000 FROM c; SELECT 1'), '1', 'and others');
$s->run('COMMIT');
ok($k->{$_}{node}->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%generate_series(1, 10000000)%' AND state <> 'idle' AND pid <> pg_backend_pid()"), "$_: nothing runs on") foreach qw(solo shared);
ok_run($s->run("SELECT count(*) FROM (SELECT kessel.fleet_query('SELECT i FROM generate_series(1, 10000000) i') LIMIT 10) x"), '10', 'LIMIT');
ok_run(fleet('SELECT 1 AS a'), lines(map { "$_|t|{\"a\": 1}|" } @tenants), 'and all goes on');

done_testing();

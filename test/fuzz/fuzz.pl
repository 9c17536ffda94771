# Run by make test-fuzz: sqlsmith writes random queries on router tables, as an
# app's role with a tenant. Fails on a crash of any server, and on an internal
# error (XX000) that was raised in this extension, or that postgres_fdw's
# planner was led to by it: one that does not come up when the same query is
# asked of the tables themselves.
#
#   KR_FUZZ_QUERIES   default 10,000, in turn for a tenant of each isolation
#   KR_FUZZ_SEED      default 1
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $queries = $ENV{KR_FUZZ_QUERIES} || 10_000;
my $seed    = $ENV{KR_FUZZ_SEED}    || 1;

my $k = KesselTest->new(conf => "log_error_verbosity = verbose\nlog_min_error_statement = error\nrestart_after_crash = on\nlog_line_prefix = '%m [%p] %a '\n");
$k->fleet;

# Tables with more types, the same in each home.
my $types = 'id integer, small smallint, large bigint, amount numeric(12,2), ratio double precision, single real, flag boolean, code char(4), label varchar(20), note text,'
  . ' day date, at timestamp, moment timestamptz, clock time, span interval, ref uuid, doc jsonb, raw json, bytes bytea, numbers integer[], words text[], host inet';
my $row = "i, i::smallint, i * 1000000000::bigint, i / 3.0, i / 7.0, i / 7.0, i % 2 = 0, 'c' || i, 'label ' || i, nullif('note ' || i, 'note 3'), '2026-01-01'::date + i, '2026-01-01'::timestamp + i * interval '1 h',"
  . " '2026-01-01'::timestamptz + i * interval '1 h', '10:00'::time + i * interval '1 min', i * interval '1 day', md5(i::text)::uuid, jsonb_build_object('i', i), json_build_array(i), decode(md5(i::text), 'hex'),"
  . " ARRAY[i, i + 1], ARRAY['a' || i, NULL], ('10.0.0.' || i)::inet";
foreach my $tenant (qw(row-a schema-a solo-a))
{
    my ($d) = map { $k->{$_} } $tenant =~ /^row/ ? 'shared' : $tenant =~ /^schema/ ? 'schemas' : 'solo';
    my $shared = $tenant =~ /^row/;
    $k->at_home($tenant, "SET ROLE $d->{owner}; CREATE TABLE everything (" . ($shared ? 'tenant_id text NOT NULL, ' : '') . "$types, PRIMARY KEY (" . ($shared ? 'tenant_id, ' : '') . 'id));'
          . ($shared ? "SELECT kessel_agent.protect('everything');" : '')
          . "GRANT SELECT, INSERT, UPDATE, DELETE ON everything TO $d->{runtime}; RESET ROLE;"
          . 'INSERT INTO everything (' . ($shared ? 'tenant_id, ' : '') . join(', ', $types =~ /(?:^|, ?)(\w+) /g) . ') SELECT ' . ($shared ? "'row-a', " : '') . "$row FROM generate_series(1, 20) i");
}
$k->exec("SELECT kessel.import_tables('solo_a', 'public'); GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA data TO kessel_user");

# sqlsmith knows little of polymorphic types: with their functions most of its
# queries are errors. So it is shown some functions only, in a schema that it
# takes no tables from, and such operators are taken away. No function that ends
# backends, and no table but the router's.
$k->exec(<<'SQL');
REVOKE ALL ON ALL TABLES IN SCHEMA app FROM PUBLIC, kessel_user;
SET allow_system_table_mods = on;
DELETE FROM pg_catalog.pg_operator o USING pg_catalog.pg_type t
WHERE t.oid IN (oprleft, oprright) AND t.typname IN ('anyrange', 'anymultirange', 'anyenum', 'point', 'polygon', 'box', 'circle', 'line', 'lseg', 'path');
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend, pg_catalog.pg_cancel_backend FROM PUBLIC;
CREATE VIEW information_schema.known_types AS
SELECT oid FROM pg_catalog.pg_type WHERE typname IN ('bool', 'bytea', 'name', 'int8', 'int2', 'int4', 'text', 'json', 'float4', 'float8', 'inet', 'bpchar',
    'varchar', 'date', 'time', 'timestamp', 'timestamptz', 'interval', 'numeric', 'uuid', 'jsonb', '_int4', '_text');
CREATE VIEW information_schema.pg_proc AS
SELECT p.* FROM pg_catalog.pg_proc p
WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND prorettype IN (SELECT oid FROM information_schema.known_types)
    AND proargtypes::oid[] <@ ARRAY(SELECT oid FROM information_schema.known_types)
    AND proname !~ '^(pg_|lo_|set_config|query_to|table_to|database_to|schema_to|cursor_to|txid|brin|gin|has_|inet_|current_|binary_|ts_|xml|plpgsql|row_security|to_reg|shobj|obj_|col_)';
GRANT SELECT ON information_schema.pg_proc TO PUBLIC;
ALTER ROLE app SET search_path = information_schema, pg_catalog, data;
SQL
$k->exec("ALTER ROLE app SET work_mem = '1MB'; ALTER ROLE app SET temp_file_limit = '200MB'; ALTER ROLE app CONNECTION LIMIT 5", db => 'postgres');

my %started = map { ($_->name => $_->safe_psql('postgres', 'SELECT pg_postmaster_start_time()')) } $k->node, map { $k->{$_}{node} } qw(shared schemas solo);

my $per_tenant = int(($queries + 2) / 3);
my $sent = 0;
foreach my $tenant (qw(row-a schema-a solo-a))
{
    my ($out, $err) = ('', '');
    my $claims = "{\\\"sub\\\":\\\"$k->{user}{a}\\\"}";
    my $target = sprintf "host='%s' port=%d dbname=infra user=app application_name=sqlsmith options='-c kessel.tenant=$tenant -c request.jwt.claims={\"sub\":\"%s\"}'", $k->node->host, $k->node->port, $k->{user}{a};
    my $ok = IPC::Run::run([ 'sqlsmith', "--target=$target", '--exclude-catalog', "--max-queries=$per_tenant", "--seed=$seed", '--verbose' ], '>', \$out, '2>', \$err);
    my ($n) = $err =~ /.*^queries: (\d+)/ms;
    $sent += $n || 0;
    my ($why) = $err =~ /([^\n]*(?:error|terminate|what\(\)|lost)[^\n]*)/i;
    ok($ok || ($n && $n >= $per_tenant - 500), "$tenant: sqlsmith came to its end") or diag(substr($err, -2000));
    diag("$tenant: " . ($n // 'no') . ' queries' . ($err =~ /.*(\([0-9.]+ gen\/s[^\n]*\))/s ? " $1" : '') . ($why && !$ok ? "; $why" : ''));
    $seed++;
}

#
# What the servers say.
#
my %log = map { ($_->name => slurp_file($_->logfile)) } $k->node, map { $k->{$_}{node} } qw(shared schemas solo);
foreach my $name (sort keys %log)
{
    my ($crash) = $log{$name} =~ /^([^\n]*(?:was terminated by signal|PANIC|TRAP:|server process .* exited with exit code [^01])[^\n]*)/m;
    is($crash, undef, "$name: no crash");
}
foreach my $node ($k->node, map { $k->{$_}{node} } qw(shared schemas solo))
{
    is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started{ $node->name }, $node->name . ': not restarted') if defined $started{ $node->name };
}

my (%states, %internal, %refused, $errors);
foreach my $entry (split /^(?=\d{4}-\d\d-\d\d [^\n]* sqlsmith\S* (?:ERROR|FATAL):)/m, $log{ $k->node->name })
{
    my ($state, $message) = $entry =~ /sqlsmith\S* (?:ERROR|FATAL): +(\w{5}): ([^\n]*)/ or next;
    my ($location) = $entry =~ /LOCATION: +([^\n]*)/;
    my $remote = $entry =~ /remote SQL command: ([^\n]*)/ ? $1 : undef;
    $errors++;
    $states{$state}++;
    (my $kind = $message) =~ s/\d+/N/g;
    my ($statement) = $entry =~ /STATEMENT: +(.*?)(?=^\d{4}-\d\d-\d\d |\z)/ms;
    push @{ $internal{"$kind @ " . ($location // '?') . ($remote ? ' (remote)' : '')} }, $statement // '' if $state eq 'XX000';
    # A statement that was made here and that a data source does not understand.
    $refused{"$state $kind"} //= $remote if defined $remote && $state =~ /^42/ && $state !~ /^4250/;
}
diag(sprintf '%d queries, %d errors: %s', $sent, $errors || 0, join ', ', map { "$_ $states{$_}" } sort { $states{$b} <=> $states{$a} } keys %states);
cmp_ok($sent, '>=', $queries * 0.9, 'as many queries as were asked for');
diag("internal error, " . scalar(@{ $internal{$_} }) . " times: $_\n" . substr($internal{$_}[0], 0, 3000)) foreach sort keys %internal;
is(scalar(grep { /@ kr_\w+, kr_/ && !/\(remote\)/ } keys %internal), 0, 'no internal error of ours');
diag("refused by a data source: $_\n  $refused{$_}") foreach sort keys %refused;
is(scalar keys %refused, 0, 'data sources understand what they are sent');
foreach my $tenant (qw(row-a schema-a solo-a))
{
    ok_run($k->as_member($tenant, 'SELECT count(*) FROM data.accounts'), '5', "$tenant: its rows are there");
}
done_testing();

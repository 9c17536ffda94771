# Run by make bench: a router table beside a postgres_fdw table and a direct
# connection; the cost of a tenant switch; ten tenants beside 100,000.
#
# All ways of one question are measured in the same run, in short alternating
# rounds, one client on loopback; what is printed is the best round of each,
# which is the one least disturbed by what else the machine does, and ratios.
# Absolute numbers say something about this machine only.
#
#   KR_BENCH_ROUNDS   default 9      KR_BENCH_SECONDS  of one round, default 1
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds  = $ENV{KR_BENCH_ROUNDS}  || 9;
my $seconds = $ENV{KR_BENCH_SECONDS} || 1;
my $rows    = 10_000;
my $user_id = '11111111-1111-4111-8111-111111111111';
my $scripts = PostgreSQL::Test::Utils::tempdir('scripts');
my @table;

my $k = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\n");
my $schema = $k->data_cluster('schemas');
my $shared = $k->data_cluster('shared');

#
# Tenants a and b in schemas of one source, c and d in rows of another.
#
$k->crm_schema($schema, $_, rows => $rows) foreach qw(a b);
$k->data_source($schema, isolation => 'schema');
$k->data_source($shared, isolation => 'row');
$k->exec("SELECT kessel.install_agent('schemas')");
$k->crm_row($shared, [qw(c d)], rows => $rows);
foreach my $tenant (qw(a b c d))
{
    my $source = $tenant =~ /[ab]/ ? 'schemas' : 'shared';
    $k->exec("SELECT kessel.create_tenant('$tenant', data_source => '$source', tenant_id_in_data_source => '$tenant');"
          . "SELECT kessel.add_member('$tenant', '$user_id')");
}
$k->data_exec($_, 'VACUUM ANALYZE') foreach $schema, $shared;
$k->exec(<<"SQL");
SELECT kessel.import_tables('schemas', 'a');
GRANT USAGE ON SCHEMA data TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA data TO app;
CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$schema->{port}', dbname '$schema->{db}');
CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (user '$schema->{runtime}', password '$schema->{password}');
CREATE SCHEMA plain;
IMPORT FOREIGN SCHEMA a FROM SERVER plain INTO plain;
GRANT USAGE ON SCHEMA plain TO app;
GRANT SELECT ON ALL TABLES IN SCHEMA plain TO app;
ALTER ROLE app SET "request.jwt.claims" = '{"sub": "$user_id"}';
ALTER ROLE app SET kessel.tenant = 'a';
SQL

sub infra_url
{
    my ($db) = @_;
    return sprintf('host=127.0.0.1 port=%d dbname=%s user=app', $k->node->port, $db || 'infra');
}

sub script
{
    my ($name, $sql) = @_;
    append_to_file("$scripts/$name", $sql);
    return "$scripts/$name";
}

# Microseconds of one transaction.
sub measure
{
    my ($way) = @_;
    my ($out, $err) = ('', '');
    local $ENV{PGOPTIONS} = $way->{options} || '';
    IPC::Run::run([ 'pgbench', '-n', '-c', 1, '-T', $seconds, '-M', $way->{mode} || 'prepared',
            (map { ('-f', $_) } @{ $way->{scripts} }), $way->{url} || infra_url() ], '>', \$out, '2>', \$err)
      or die "pgbench: $err\n";
    $out =~ /failed transactions: ([1-9]\d*)/ and die "pgbench: $1 failed transactions\n$err\n";
    $out =~ /latency average = ([\d.]+) ms/ or die "pgbench printed no latency:\n$out\n";
    # The tps line has more digits than the latency.
    $out =~ /tps = ([\d.]+) / or die "pgbench printed no tps:\n$out\n";
    return 1e6 / $1;
}

# compare(TITLE, [LABEL, WAY], ...): ratios are against the first.
sub compare
{
    my ($title, @ways) = @_;
    my %us;
    foreach my $round (1 .. $rounds)
    {
        # Forwards and backwards in turn: no way is always the first.
        push @{ $us{ $_->[0] } }, measure($_->[1]) foreach $round % 2 ? @ways : reverse @ways;
    }
    my $base = min(@{ $us{ $ways[0][0] } });
    push @table, [ $title, '', '', '' ];
    foreach my $way (@ways)
    {
        my $us = min(@{ $us{ $way->[0] } });
        push @table, [ "  $way->[0]", sprintf('%.0f', $us), sprintf('%.0f', 1e6 / $us), sprintf('%.2f', $us / $base) ];
    }
    diag("measured: $title");
    return;
}

my $point = "\\set id random(1, $rows)\nSELECT id, name, balance FROM %s WHERE id = :id;\n";
compare(
    'point SELECT by primary key',
    [ 'direct connection', { url => $k->url($schema), scripts => [ script('direct', sprintf $point, 'a.accounts') ] } ],
    [ 'postgres_fdw table', { scripts => [ script('plain', sprintf $point, 'plain.accounts') ] } ],
    [ 'router table, schema isolation', { scripts => [ script('router', sprintf $point, 'data.accounts') ] } ],
    [ 'router table, row isolation', { options => '-c kessel.tenant=c', scripts => [ script('router_row', sprintf $point, 'data.accounts') ] } ]);

foreach my $case ([ 'schema', 'a', 'b' ], [ 'row', 'c', 'd' ])
{
    my ($isolation, @tenants) = @$case;
    my $body = sprintf $point, 'data.accounts';
    $body =~ s/(\\set.*\n)//;
    my $set = $1;
    compare(
        "transaction with one point SELECT, $isolation isolation",
        [ 'no switch', { options => "-c kessel.tenant=$tenants[0]", scripts => [ script("stay_$isolation", "${set}BEGIN;\n${body}COMMIT;\n") ] } ],
        [ 'SET LOCAL of some other setting', { options => "-c kessel.tenant=$tenants[0]", scripts => [ script("other_$isolation", "${set}BEGIN;\nSET LOCAL application_name = 'x';\n${body}COMMIT;\n") ] } ],
        [ 'SET LOCAL kessel.tenant, the same', { scripts => [ script("same_$isolation", "${set}BEGIN;\nSET LOCAL kessel.tenant = '$tenants[0]';\n${body}COMMIT;\n") ] } ],
        [ 'SET LOCAL kessel.tenant, two in turn', { scripts => [ map { script("turn_${isolation}_$_", "${set}BEGIN;\nSET LOCAL kessel.tenant = '$_';\n${body}COMMIT;\n") } @tenants ] } ]);
}

#
# The same without the client's trips: transactions in a procedure's loop.
#
$k->exec(<<'SQL');
CREATE PROCEDURE public.turns(n integer, setting text, vals text[]) LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    FOR i IN 1 .. n LOOP
        IF setting <> '' THEN
            PERFORM set_config(setting, vals[1 + i % array_length(vals, 1)], true);
        END IF;
        SELECT name INTO found FROM data.accounts WHERE id = i;
        COMMIT;
    END LOOP;
END
$$;
SQL
foreach my $case ([ 'schema', 'a', 'b' ], [ 'row', 'c', 'd' ])
{
    my ($isolation, @tenants) = @$case;
    my @stay = (mode => 'simple', options => "-c kessel.tenant=$tenants[0]");
    compare(
        "500 transactions with one point SELECT in a procedure, $isolation isolation",
        [ 'no switch', { @stay, scripts => [ script("loop_$isolation", "CALL turns(500, '', '{}');\n") ] } ],
        [ 'set_config of some other setting', { @stay, scripts => [ script("loop_other_$isolation", "CALL turns(500, 'application_name', '{x,y}');\n") ] } ],
        [ 'set_config of kessel.tenant, two in turn', { @stay, scripts => [ script("loop_turn_$isolation", "CALL turns(500, 'kessel.tenant', '{$tenants[0],$tenants[1]}');\n") ] } ]);
}

#
# Planning and routing alone: EXPLAIN plans and names the route, and runs
# nothing. Two infra databases of the same server, one with ten tenants, one
# with 100,000.
#
sub many
{
    my ($db, $tenants) = @_;
    $k->exec("CREATE DATABASE $db", db => 'postgres');
    $k->exec(<<"SQL", db => $db);
CREATE EXTENSION kessel_router CASCADE;
SELECT kessel.create_data_source('schemas', '@{[ $k->url($schema) ]}', isolation => 'schema');
SELECT kessel.create_tenant('a', data_source => 'schemas', tenant_id_in_data_source => 'a');
SELECT kessel.import_tables('schemas', 'a');
GRANT USAGE ON SCHEMA data TO app;
GRANT SELECT ON ALL TABLES IN SCHEMA data TO app;
INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)
SELECT 'many-' || i, 'Many ' || i, s.id, 'schema', 'many_' || i FROM generate_series(1, $tenants) i, app.data_sources s;
INSERT INTO app.user_tenants (user_id, tenant_id) SELECT '$user_id', id FROM app.tenants WHERE slug LIKE 'many-%';
VACUUM ANALYZE app.tenants, app.user_tenants;
SQL
    return;
}

sub explain
{
    my ($db, $n) = @_;
    return {
        mode    => 'simple',
        url     => infra_url($db),
        scripts => [ script("explain_${db}_$n", "\\set n random(1, $n)\nSET kessel.tenant = 'many-:n';\nEXPLAIN SELECT name FROM data.accounts WHERE id = 1;\n") ] };
}

many('ten', 10);
many('many', 100_000);
compare(
    'SET kessel.tenant, plan and route (EXPLAIN)',
    [ '10 tenants',                explain('ten',  10) ],
    [ '100,000 tenants, ten used', explain('many', 10) ],
    [ '100,000 tenants, all used', explain('many', 100_000) ]);

my $text = sprintf("%-46s %10s %10s %8s\n", 'PostgreSQL ' . $k->node->pg_version, 'us', 'per s', 'ratio');
$text .= sprintf("%-46s %10s %10s %8s\n", @$_) foreach @table;
append_to_file($ENV{KR_BENCH_OUT}, $text);
pass('measured');
done_testing();

# make bench: a router table beside a postgres_fdw table and a direct
# connection; the cost of a tenant switch; ten tenants beside 100,000.
#
# All ways of one question are measured in the same run, in short alternating
# rounds, one client on loopback; what is printed is the median of the rounds
# and ratios. Absolute numbers say something about this machine only.
#
#   KR_BENCH_ROUNDS   default 5      KR_BENCH_SECONDS  of one round, default 2
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds  = $ENV{KR_BENCH_ROUNDS}  || 5;
my $seconds = $ENV{KR_BENCH_SECONDS} || 2;
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

sub infra_url { return sprintf("host=127.0.0.1 port=%d dbname=%s user=app", $k->node->port, 'infra'); }

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

sub median
{
    my @sorted = sort { $a <=> $b } @_;
    return $sorted[ $#sorted / 2 ];
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
    my $base = median(@{ $us{ $ways[0][0] } });
    push @table, [ $title, '', '', '' ];
    foreach my $way (@ways)
    {
        my $us = median(@{ $us{ $way->[0] } });
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
# Planning and routing alone: EXPLAIN plans and names the route, and runs nothing.
#
my %explain = (
    hot  => script('hot',  "\\set n random(1, 10)\nSET kessel.tenant = 'many-:n';\nEXPLAIN SELECT name FROM data.accounts WHERE id = 1;\n"),
    wide => script('wide', "\\set n random(1, 100000)\nSET kessel.tenant = 'many-:n';\nEXPLAIN SELECT name FROM data.accounts WHERE id = 1;\n"));

sub many
{
    my ($from, $to) = @_;
    $k->exec("INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)"
          . " SELECT 'many-' || i, 'Many ' || i, s.id, 'schema', 'many_' || i FROM generate_series($from, $to) i, app.data_sources s WHERE s.name = 'schemas';"
          . "INSERT INTO app.user_tenants (user_id, tenant_id) SELECT '$user_id', id FROM app.tenants WHERE slug LIKE 'many-%' ON CONFLICT DO NOTHING;");
    $k->exec('VACUUM ANALYZE app.tenants, app.user_tenants');
    return;
}

# The two sizes cannot stand side by side: rounds with ten, then with 100,000.
many(1, 10);
my %us;
my $hot = { mode => 'simple', scripts => [ $explain{hot} ] };
push @{ $us{ten} }, measure($hot) foreach 1 .. $rounds;
many(11, 100_000);
push @{ $us{many} }, measure($hot) foreach 1 .. $rounds;
push @{ $us{wide} }, measure({ mode => 'simple', scripts => [ $explain{wide} ] }) foreach 1 .. $rounds;
my $base = median(@{ $us{ten} });
push @table, [ 'SET kessel.tenant, plan and route (EXPLAIN)', '', '', '' ],
  map { my $us = median(@{ $us{ $_->[1] } }); [ "  $_->[0]", sprintf('%.0f', $us), sprintf('%.0f', 1e6 / $us), sprintf('%.2f', $us / $base) ] }
  ([ 'one of 10, 10 tenants', 'ten' ], [ 'one of the same 10, 100,000 tenants', 'many' ], [ 'any of 100,000 tenants', 'wide' ]);

my $text = sprintf("%-46s %10s %10s %8s\n", 'PostgreSQL ' . $k->node->pg_version, 'us', 'per s', 'ratio');
$text .= sprintf("%-46s %10s %10s %8s\n", @$_) foreach @table;
append_to_file($ENV{KR_BENCH_OUT}, $text);
pass('measured');
done_testing();

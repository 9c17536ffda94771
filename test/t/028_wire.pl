# Round trips between the infra server and a data source, counted on the wire
# and, where something is sent that nobody waits for, by the clock.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselProxy;
use KesselTest;
use List::Util qw(min);
use Test::More;

my $rows  = 100_000;
my $delay = 60;         # ms a round trip, where the clock counts

my $k = KesselTest->new;
my (%proxy, %tenants, %source);
foreach my $isolation (qw(database schema row))
{
    my $d = $source{$isolation} = $k->data_cluster($isolation);
    my $p = $proxy{$isolation} = KesselProxy->new($d->{port});
    my @tenants = $isolation eq 'database' ? ("$isolation-a") : ("$isolation-a", "$isolation-b");
    $tenants{$isolation} = \@tenants;
    my $near = { %$d, port => $p->port };
    $k->data_source($near, isolation => $isolation);
    if ($isolation eq 'row') { $k->crm_row($d, \@tenants, rows => 10) }
    if ($isolation eq 'schema') { $k->crm_schema($d, $_, rows => 10, schema => $_ =~ tr/-/_/r) foreach @tenants }
    if ($isolation eq 'database') { $k->crm_database($d, 'database', rows => 10) }
    foreach my $tenant (@tenants)
    {
        my $id = $isolation eq 'schema' ? $tenant =~ tr/-/_/r : $tenant;
        $k->exec("SELECT kessel.create_tenant('$tenant', data_source => '$isolation', tenant_id_in_data_source => '$id')");
    }
    # Many rows, of the first tenant only.
    my $schema = $isolation eq 'schema' ? 'schema_a' : 'public';
    my $values = join ', ', ($isolation eq 'row' ? "'row-a'" : ()), 'i', "'x'";
    my $columns = $isolation eq 'row' ? 'tenant_id, id, name' : 'id, name';
    $k->data_exec($d, "INSERT INTO $schema.accounts ($columns) SELECT $values FROM generate_series(1000, 999 + $rows) i");
}
$k->exec("SELECT kessel.import_tables('database', 'public')");

# The turns of the wire during a statement, awaited or not.
sub count
{
    my ($p, $s, $sql) = @_;
    $p->reset;
    my $r = $s->run($sql);
    die "$sql\n$r->{err}" if $r->{state} ne '';
    # What was sent without waiting is answered sooner or later.
    1 while grep { $_->{open} && $_->{unanswered} } @{ $p->connections };
    return ($p->turns);
}

# How many round trips of a slow network a statement waits for. A machine that
# is busy gets up to six tries.
sub waits
{
    my ($p, $s, $sql, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $best;
    $p->delay($delay);
    foreach my $try (1 .. 6)
    {
        my $r = $s->run("\\timing on\n$sql;\n\\timing off");
        die "$sql\n$r->{err}" if $r->{state} ne '';
        my $ms = 0;
        $ms += $1 while $r->{out} =~ /^Time: ([\d.]+) ms/mg;
        $best = min($ms, $best // $ms);
        last if int($best / $delay) <= $expected;
    }
    $p->delay(0);
    is(int($best / $delay), $expected, $name);
    return;
}

sub trips
{
    my ($p, $s, $sql, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @turns = count($p, $s, $sql);
    is(scalar @turns, $expected, $name) or diag(join "\n", @turns);
    return;
}

foreach my $isolation (qw(database schema row))
{
    my $p = $proxy{$isolation};
    my @tenants = @{ $tenants{$isolation} };
    my $s = $k->session(tenant => $tenants[0]);
    my $read = 'SELECT name FROM data.accounts WHERE id = 1';
    my $write = "UPDATE data.accounts SET city = 'Rome' WHERE id = 1";
    $s->run($_) foreach $read, $write, "BEGIN; $read; $write; COMMIT";

    waits($p, $s, $read, 1, "$isolation: an autocommit read waits for one trip");
    trips($p, $s, $read, 1, "$isolation: and makes one");
    waits($p, $s, $write, 2, "$isolation: an autocommit write waits for two trips");
    trips($p, $s, $write, 2, "$isolation: and makes two");

    trips($p, $s, "BEGIN; $read; $write; $read; $write; COMMIT", 5, "$isolation: a transaction of four statements makes five trips");
    waits($p, $s, "BEGIN; $read; $write; $read; $write; COMMIT", 5, "$isolation: and waits for five");
    trips($p, $s, "BEGIN; $write; SELECT id FROM data.accounts WHERE id BETWEEN 2 AND 4; COMMIT", 3, "$isolation: the first use of a statement makes no trip of its own");
    trips($p, $s, "UPDATE data.accounts SET city = name WHERE id = 1", 2, "$isolation: nor that of a write");

    trips($p, $s, "BEGIN; $write; SAVEPOINT a; $write; RELEASE a; SAVEPOINT b; SAVEPOINT c; $read; RELEASE b; $write; COMMIT", 5, "$isolation: savepoints make no trips of their own");
    waits($p, $s, "BEGIN; $write; SAVEPOINT a; $write; ROLLBACK TO a; $write; COMMIT", 4, "$isolation: nor does a rollback to one");
    waits($p, $s, "DO 'BEGIN FOR i IN 1 .. 5 LOOP BEGIN UPDATE data.accounts SET city = name WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END'",
        6, "$isolation: nor do five blocks with exceptions");

    if (@tenants > 1)
    {
        $s->run("SET kessel.tenant = '$tenants[1]'; $read; $write; SET kessel.tenant = '$tenants[0]'");
        trips($p, $s, "SET kessel.tenant = '$tenants[1]'; $write", 2, "$isolation: a switch of tenant makes no trip");
        waits($p, $s, "SET kessel.tenant = '$tenants[0]'; $read; SET kessel.tenant = '$tenants[1]'; $read; SET kessel.tenant = '$tenants[0]'", 2, "$isolation: nor do three");
    }

    waits($p, $s, 'SELECT count(x) FROM (SELECT a.id, c.email FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id WHERE a.id < 3) x', 1, "$isolation: a join of two tables waits for one");
    count($p, $s, "SELECT count(x) FROM (SELECT * FROM data.accounts WHERE name = 'x' OFFSET 0) x");
    my ($c) = @{ $p->connections };
    # The agent's answer is a row, too.
    is($c->{answers}{D}, $isolation eq 'row' ? $rows + 1 : $rows, "$isolation: a scan of 100,000 rows brings them");
    is(scalar @{ $c->{turns} }, 1, "$isolation: in one trip");
    my @turns = count($p, $s, "INSERT INTO data.accounts (id, name) SELECT i, 'new' FROM generate_series(200001, 201000) i");
    cmp_ok(scalar @turns, '<=', 4, "$isolation: an INSERT of 1,000 rows makes four trips at the most");
    trips($p, $s, "DELETE FROM data.accounts WHERE id > 200000", 2, "$isolation: a DELETE of 1,000 rows makes two");
    is(scalar @{ $p->connections }, 1, "$isolation: all on one connection");
    $s->quit;
}

done_testing();

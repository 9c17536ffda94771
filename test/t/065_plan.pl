# What is planned to run in the data source: plans are made without statistics,
# and must not fetch tables whole because of that.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new;
my $d = $k->data_cluster('crm');
$k->crm_database($d, 'acme', rows => 300);
$k->data_source($d, isolation => 'database');
$k->exec("SELECT kessel.create_tenant('acme', data_source => '$d->{name}')");
$k->exec("SELECT kessel.import_tables('$d->{name}', 'public')");

my $join = 'data.accounts a JOIN data.contacts c ON c.account_id = a.id';

# How often each kind of node stands in a query's plan.
sub nodes
{
    my ($sql, $settings) = @_;
    my $plan = $k->run(($settings || '') . "EXPLAIN (COSTS OFF) $sql", tenant => 'acme')->{out};
    my %count;
    $count{$1}++ while $plan =~ /^(?:\s*->)?\s*([A-Z][A-Za-z]*(?: [A-Z][A-Za-z]*)*)(?: on | using |$)/mg;
    return \%count;
}

my %whole = (
    'join'             => "SELECT a.name, c.email FROM $join",
    'outer join'       => 'SELECT a.name, c.email FROM data.accounts a LEFT JOIN data.contacts c ON c.account_id = a.id',
    'three tables'     => "SELECT a.name FROM $join JOIN data.contacts d ON d.account_id = a.id",
    'aggregate'        => "SELECT sum(a.balance) FROM $join",
    'groups'           => "SELECT a.city, count(DISTINCT a.id), sum(a.balance) FROM $join GROUP BY a.city",
    'groups in order'  => "SELECT a.city, count(*) AS n FROM $join GROUP BY a.city ORDER BY n DESC",
    'the first groups' => "SELECT a.city, count(*) AS n FROM $join GROUP BY a.city ORDER BY n DESC LIMIT 2",
    'order and limit'  => 'SELECT name FROM data.accounts ORDER BY name LIMIT 3',
    'a page of a join' => "SELECT a.name, c.email FROM $join WHERE a.name <> 'x' ORDER BY a.name LIMIT 3",
    'of an outer join' => 'SELECT a.name, c.email FROM data.accounts a LEFT JOIN data.contacts c ON c.account_id = a.id ORDER BY a.name, c.id LIMIT 3',
    'of three tables'  => "SELECT a.name FROM $join JOIN data.contacts d ON d.account_id = a.id ORDER BY a.id LIMIT 3 OFFSET 6",
    'a page to lock'   => "SELECT a.name FROM $join ORDER BY a.name LIMIT 3 FOR UPDATE OF a",
    'limit'            => 'SELECT name FROM data.accounts LIMIT 3',
    'locked rows'      => "SELECT a.name FROM $join FOR UPDATE OF a",
);
is_deeply(nodes($whole{$_}), { 'Foreign Scan' => 1 }, "$_ runs in the data source") foreach sort keys %whole;

is(nodes('SELECT a.name, c.email FROM data.accounts a, data.contacts c')->{'Foreign Scan'}, 2, 'what multiplies rows runs here');
is(nodes("SELECT a.name, c.email FROM $join", 'BEGIN; ALTER SERVER kessel_router OPTIONS (SET fdw_tuple_cost \'1000\'); ')->{'Foreign Scan'},
    1, 'whatever a row costs, as each pays');

# A join with rows to lock keeps a local plan for checking them again.
my $update = "UPDATE data.accounts a SET balance = balance + length(c.email) + random() * 0 FROM data.contacts c WHERE c.account_id = a.id AND a.id <= 3";
my $plan = $k->run("EXPLAIN (VERBOSE) $update", tenant => 'acme')->{out};
like($plan, qr/Remote SQL: SELECT .* INNER JOIN .* FOR UPDATE OF r1/, 'rows to update are found by a join in the data source');
unlike($plan, qr/cost=\d{9}/, 'and prices are those of the plan');
ok_run($k->run("WITH u AS ($update RETURNING a.id) SELECT string_agg(id::text, ',' ORDER BY id) FROM u", tenant => 'acme'), '1,2,3', 'and they are updated');

# What a plan costs is a guess, and no reason to compile it.
SKIP:
{
    skip 'no JIT here', 3 unless $k->exec('SELECT pg_jit_available()') eq 't';
    my $compiled = sub { my ($sql) = @_; return $k->run("SELECT count(*) FROM data.accounts \\g /dev/null\nSET jit = on; SET jit_above_cost = 0; EXPLAIN $sql", tenant => 'acme')->{out} =~ /^JIT/m ? 1 : 0 };
    is($compiled->('SELECT count(*) FROM pg_class'), 1, 'JIT of a local statement');
    is($compiled->("SELECT a.name, c.email FROM $join"), 0, 'none of one with router tables');
    is($compiled->('SELECT a.name, (SELECT json_agg(c.email) FROM data.contacts c WHERE c.account_id = a.id) FROM data.accounts a'), 0, 'nor of one that embeds rows');
}

done_testing();

# With a million users and 100,000 tenants, what a user sees of them comes by
# an index, whatever the query asks for: row security alone leads there. (Of
# rows that lie anywhere, the server makes a bitmap of the one index's entries.)
use strict;
use warnings;

use lib 'test/lib';
use JSON::PP ();
use KesselInfra;
use KesselTest;
use Test::More;

my $k = KesselTest->new(conf => "shared_buffers = 256MB\nmax_wal_size = 4GB\n");
my ($users, $tenants) = (1_000_000, 100_000);
many_users($k, 'many', $users, $tenants);
my %is = map { ($_ => $k->exec("SELECT @{[ user_number($_) ]}", db => 'many') =~ s/\s//gr) } 10, 11, 12;
$k->exec("UPDATE public.profiles SET role = 'admin' WHERE id = '$is{12}'", db => 'many');

sub nodes { my ($plan) = @_; return ($plan, map { nodes($_) } @{ $plan->{Plans} || [] }) }

# The plan of what a user of the app runs, when it runs for the second time.
sub plan_of
{
    my ($user, $sql, %opt) = @_;
    my $prepare = $opt{generic} ? "SET plan_cache_mode = force_generic_plan; PREPARE p AS $sql;" : '';
    my $run = 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' . ($opt{generic} ? 'EXECUTE p' : $sql);
    my $r = $k->run("SET ROLE authenticated; $prepare\n\\o /dev/null\n$run;\n\\o\n$run", db => 'many', sub => $user);
    die "$r->{err}\n" if $r->{state} ne '';
    my ($json) = $r->{out} =~ /(\[\s*\{.*\])/s or die "no plan: $r->{out}\n";
    return JSON::PP::decode_json($json)->[0]{Plan};
}

# by_index(USER, SQL, ROWS, PAGES, [INDEX, ...]): these indexes, once each, and no
# table as a whole. Pages are those of all that is run, policies' functions, too.
sub by_index
{
    my ($user, $sql, $rows, $pages, $indexes, %opt) = @_;
    my $plan = plan_of($user, $sql, %opt);
    my @nodes = nodes($plan);
    my @scans = map { $_->{'Index Name'} } grep { $_->{'Index Name'} } @nodes;
    my $read = $plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'};
    my $title = $sql . ($opt{generic} ? ' (generic plan)' : '');

    is_deeply([ grep { /Seq Scan/ } map { $_->{'Node Type'} } @nodes ], [], "$title: no table is read as a whole");
    is_deeply([ sort @scans ], [ sort @$indexes ], '... the indexes')
      or diag(JSON::PP->new->pretty->encode($plan));
    is($plan->{'Actual Rows'}, $rows, '... the rows');
    cmp_ok($read, '<=', $pages, '... few pages');
    note("$title: $read pages, $plan->{'Actual Total Time'} ms: " . join ', ', map { $_->{'Node Type'} } @nodes);
    return;
}

foreach my $generic (0, 1)
{
    my @how = (generic => $generic);
    by_index($is{11}, 'SELECT * FROM public.profiles', 1, 30, ['profiles_pkey'], @how);
    by_index($is{11}, "SELECT * FROM public.profiles WHERE id = '$is{11}'", 1, 30, ['profiles_pkey'], @how);
    by_index($is{11}, "SELECT * FROM public.profiles WHERE id = '$is{10}'", 0, 30, ['profiles_pkey'], @how);
    by_index($is{11}, 'SELECT * FROM app.user_tenants', 1, 10, ['user_tenants_pkey'], @how);
    by_index($is{10}, 'SELECT * FROM app.user_tenants', 3, 10, ['user_tenants_pkey'], @how);
    by_index($is{10}, 'SELECT id, slug, name FROM app.tenants', 3, 30, [ 'tenants_pkey', 'user_tenants_pkey' ], @how);
}
by_index($is{11}, 'UPDATE public.profiles SET color_scheme = $$dark$$', 0, 60, ['profiles_pkey']);
my $r = $k->run('SET ROLE authenticated; SELECT count(*) FROM public.profiles', db => 'many', sub => $is{12});
ok_run($r, "$users", 'an administrator sees all of them');
$r = $k->run('SET ROLE authenticated; SELECT count(*) FROM app.tenants', db => 'many');
ok_run($r, '0', 'and nobody without a user a tenant');
done_testing();

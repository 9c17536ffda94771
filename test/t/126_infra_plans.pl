# With a million users and 100,000 tenants, what a user sees of them comes by one
# index scan, whatever the query asks for: row security alone leads there. A user's
# own memberships lie anywhere, so of several the server may make a bitmap first.
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

$k->exec('ANALYZE public.roles', db => 'many');

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

# by_index(USER, SQL, ROWS, PAGES, [INDEX, ...]): an index scan of these, once each, and no
# table as a whole but the three roles. Pages are those of all that is run, policies' functions, too.
sub by_index
{
    my ($user, $sql, $rows, $pages, $indexes, %opt) = @_;
    my $plan = plan_of($user, $sql, %opt);
    my @nodes = nodes($plan);
    my @scans = map { $_->{'Index Name'} } grep { $_->{'Index Name'} } @nodes;
    my $read = $plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'};
    my $title = $sql . ($opt{generic} ? ' (generic plan)' : '');

    is_deeply([ grep { /Scan/ && !/^Index (Only )?Scan$/ } map { $_->{'Node Type'} } grep { ($_->{'Relation Name'} || '') ne 'roles' } @nodes ], [], "$title: index scans and no other");
    is_deeply([ sort @scans ], [ sort @$indexes ], '... of these')
      or diag(JSON::PP->new->pretty->encode($plan));
    is_deeply([ grep { $_->{'Actual Loops'} > 1 } @nodes ], [], '... once each') if @$indexes == 1;
    cmp_ok($plan->{'Actual Rows'}, '==', $rows, '... the rows');
    cmp_ok($read, '<=', $pages, '... few pages');
    note("$title: $read pages, $plan->{'Actual Total Time'} ms: " . join ', ', map { $_->{'Node Type'} } @nodes);
    return;
}

my $pkey = ['profiles_pkey'];
foreach my $generic (0, 1)
{
    my @how = (generic => $generic);
    by_index($is{11}, 'SELECT * FROM public.profiles', 1, 12, $pkey, @how);
    by_index($is{11}, 'SELECT id FROM public.profiles', 1, 12, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM public.profiles LIMIT 1', 1, 12, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM public.profiles ORDER BY email LIMIT 1', 1, 12, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM public.profiles ORDER BY created_at DESC LIMIT 50', 1, 12, $pkey, @how);
    by_index($is{11}, "SELECT * FROM public.profiles WHERE id = '$is{11}'", 1, 12, $pkey, @how);
    by_index($is{11}, "SELECT * FROM public.profiles WHERE id = '$is{10}'", 0, 12, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM public.profiles WHERE id = auth.uid()', 1, 12, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM public.profiles WHERE id = (SELECT auth.uid())', 1, 12, $pkey, @how);
    by_index($is{11}, "SELECT * FROM public.profiles WHERE display_name ILIKE '%a%'", 0, 12, $pkey, @how);
    by_index($is{11}, 'SELECT p.email, r.name FROM public.profiles p JOIN public.roles r ON r.id = p.role_id', 1, 13, $pkey, @how);
    by_index($is{11}, 'SELECT * FROM app.user_tenants', 1, 6, ['user_tenants_pkey'], @how);
    by_index($is{10}, 'SELECT * FROM app.user_tenants', 3, 8, ['user_tenants_pkey'], @how);
    by_index($is{10}, "SELECT * FROM app.user_tenants WHERE user_id = '$is{10}'", 3, 8, ['user_tenants_pkey'], @how);
    by_index($is{10}, "SELECT * FROM app.user_tenants WHERE user_id = '$is{11}'", 0, 8, ['user_tenants_pkey'], @how);
    by_index($is{10}, 'SELECT * FROM app.user_tenants LIMIT 1', 1, 6, ['user_tenants_pkey'], @how);
    by_index($is{10}, 'SELECT id, slug, name FROM app.tenants', 3, 30, [ 'tenants_pkey', 'user_tenants_pkey' ], @how);
}
by_index($is{11}, 'UPDATE public.profiles SET color_scheme = $$dark$$', 0, 40, $pkey);

# Nor does anybody's own row take an administrator more.
by_index($is{12}, "SELECT * FROM public.profiles WHERE id = '$is{12}'", 1, 14, $pkey);
by_index($is{12}, 'SELECT * FROM public.profiles WHERE id = auth.uid()', 1, 14, $pkey);
by_index($is{12}, "SELECT * FROM public.profiles WHERE email = 'user77\@example.com'", 1, 14, ['profiles_email']);
by_index($is{12}, "SELECT * FROM public.profiles WHERE tenant_id = '00000000-0000-4000-8000-000000000077'", 10, 30, ['profiles_tenant_id']);

my $r = $k->run('SET ROLE authenticated; SELECT count(*) FROM public.profiles', db => 'many', sub => $is{12});
ok_run($r, "$users", 'an administrator sees all of them');
$r = $k->run('SET ROLE authenticated; SELECT count(*) FROM app.tenants', db => 'many');
ok_run($r, '0', 'and nobody without a user a tenant');

# ---------- one session for many users ----------

sub becomes { my ($s, $user) = @_; return $s->run(qq[SET request.jwt.claims = '{"sub": "$user"}']) }
sub plan_text { my ($s, $execute) = @_; return $s->run("EXPLAIN (COSTS off) EXECUTE $execute")->{out} }

{
    my $s = $k->session(user => 'postgres', db => 'many');
    $s->run('SET ROLE authenticated');

    # A statement with a parameter is planned for who asks, as long as it is planned each time.
    $s->run('PREPARE page (int) AS SELECT email FROM public.profiles ORDER BY email LIMIT $1');
    $s->run('PREPARE listing AS SELECT email FROM public.profiles ORDER BY email LIMIT 1');
    becomes($s, $is{12});
    like(plan_text($s, 'page(50)'), qr/Index (Only )?Scan using profiles_email/, 'an administrator gets pages by the index of their order');
    is(scalar(split /\n/, $s->run('EXECUTE page(50)')->{out}), 50, 'and all of the page');
    # Of a plan that is kept nobody knows who will use it.
    like(plan_text($s, 'listing'), qr/Index Scan using profiles_pkey/, 'a plan that is kept is made for users, whoever makes it');
    ok_run($s->run('EXECUTE listing'), 'user0@example.com', '... and right for an administrator');
    becomes($s, $is{11});
    ok_run($s->run('EXECUTE listing'), 'user11@example.com', '... and for the next one');
    ok_run($s->run('EXECUTE page(50)'), 'user11@example.com', 'as the other');
    like(plan_text($s, 'page(50)'), qr/Index Scan using profiles_pkey/, '... which is planned for a user then');
    ok_run($s->run('RESET request.jwt.claims; EXECUTE listing'), '', 'nobody sees none');

    # Who is an administrator counts from statement to statement, also within a transaction.
    becomes($s, $is{12});
    $s->run('PREPARE seen AS SELECT count(*) > 1, infra.is_admin() FROM (SELECT FROM public.profiles LIMIT 2) p');
    ok_run($s->run('EXECUTE seen; EXECUTE seen; BEGIN; EXECUTE seen'), "t|t\nt|t\nt|t", 'an administrator');
    $k->exec("UPDATE public.profiles SET role = 'user' WHERE id = '$is{12}'", db => 'many');
    ok_run($s->run('EXECUTE seen'), 'f|f', 'who is none any more sees no others in the next statement');
    ok_run($s->run('SELECT count(*) FROM public.profiles'), '1', 'by any statement');
    $k->exec("INSERT INTO public.roles (name, display_name, is_admin) VALUES ('boss', 'Boss', true); UPDATE public.profiles SET role = 'boss' WHERE id = '$is{12}'", db => 'many');
    ok_run($s->run('EXECUTE seen'), 't|t', 'a role of one\'s own with is_admin');
    $k->exec("UPDATE public.roles SET is_admin = false WHERE name = 'boss'", db => 'many');
    ok_run($s->run('EXECUTE seen; COMMIT'), 'f|f', 'which it loses');
    $s->run('BEGIN ISOLATION LEVEL REPEATABLE READ; EXECUTE seen');
    $k->exec("UPDATE public.profiles SET role = 'admin' WHERE id = '$is{12}'", db => 'many');
    ok_run($s->run('EXECUTE seen; COMMIT; EXECUTE seen'), "f|f\nt|t", 'a snapshot is one also here');

    # Tables are found again when they have changed.
    $k->exec('ALTER TABLE public.profiles RENAME COLUMN role_id TO other; ALTER TABLE public.profiles ADD COLUMN x int', db => 'many');
    like_error($s->run('EXECUTE seen'), '42703', qr/has no column "role_id" of type uuid/, 'a column that has gone', hint => qr/kessel\.setup/);
    $k->exec('ALTER TABLE public.profiles RENAME COLUMN other TO role_id; CREATE ROLE nobody_much; ALTER TABLE public.profiles OWNER TO nobody_much', db => 'many');
    like_error($s->run('EXECUTE seen'), '55000', qr/no table "public\.profiles" of a member of kessel_admin/, 'a table of somebody who is not to decide');
    $k->exec('ALTER TABLE public.profiles OWNER TO postgres', db => 'many');
    ok_run($s->run('EXECUTE seen'), 't|t', 'and all is as it was');
    $s->quit;
}

# ---------- rows that users have many of ----------

$k->exec(<<"SQL", db => 'many');
INSERT INTO public.ai_tool_calls (user_id, session_id, tool_name, success, executed_at)
SELECT p.id, gen_random_uuid(), 'tool', true, now() - i * interval '1 s' FROM (SELECT id, row_number() OVER (ORDER BY id) i FROM public.profiles LIMIT 20000) p, generate_series(1, 5);
INSERT INTO public.ai_tool_calls (user_id, session_id, tool_name, success, executed_at) SELECT '$is{11}', gen_random_uuid(), 'tool', true, now() - i * interval '1 day' FROM generate_series(1, 4) i;
VACUUM ANALYZE public.ai_tool_calls
SQL
by_index($is{11}, $_->[0], $_->[1], 16, ['ai_tool_calls_user_id'])
  foreach [ 'SELECT * FROM public.ai_tool_calls', 4 ], [ 'SELECT * FROM public.ai_tool_calls ORDER BY executed_at DESC LIMIT 2', 2 ], [ 'SELECT count(*) FROM public.ai_tool_calls', 1 ];
done_testing();

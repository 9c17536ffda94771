# The infra database made by its blueprints, alone and beside Supabase; folders
# of migrations; two at once; dump and restore.
use strict;
use warnings;

use lib 'test/lib';
use Cwd 'abs_path';
use Digest::SHA 'sha256_hex';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $loader = abs_path('bin/kessel-load-blueprint');
my $k = KesselTest->new(conf => "restart_after_crash = on\n");
my $r;

# ---------- core, on plain PostgreSQL ----------

is($k->exec('SELECT blueprint, version, available > 0, cardinality(missing) = available FROM kessel.setup_status() WHERE blueprint = $$core$$'), 'core|0|t|t', 'core is built in, and not applied');
is($k->exec("SELECT count(*) FROM kessel.migrations WHERE checksum <> encode(sha256(convert_to(up, 'UTF8')), 'hex') OR down IS NULL OR author IS NOT NULL"), '0', 'with checksums, and ways back');
is($k->exec("SELECT count(*) FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')"), '0', 'the extension alone makes no roles of apps');
$r = $k->run('SELECT blueprint, version, name, ms > 0 FROM kessel.setup()');
like($r->{out}, qr/^core\|1\|0001_ground\|t$/m, 'kessel.setup() alone sets up all');
like($r->{err}, qr/NOTICE: .*core: 0001_ground applied/, 'and says so');
ok_run($k->run('SELECT * FROM kessel.setup()'), '', 'a second one finds nothing to do');
is($k->exec("SELECT DISTINCT version = available, missing FROM kessel.setup_status()"), 't|{}', 'the status says so');
is($k->run("SELECT kessel.teardown(name, cascade => true) FROM kessel.blueprints WHERE applies_to = 'infra' AND name <> 'core'")->{state}, '', 'those that require core are taken back');
is($k->exec("SELECT string_agg(DISTINCT pg_get_userbyid(relowner), ' ') FROM pg_class WHERE relnamespace = 'auth'::regnamespace"), 'postgres', 'the tables are the caller\'s');
is($k->exec("SELECT count(*) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid WHERE d.deptype = 'e' AND c.relnamespace = 'auth'::regnamespace"), '0', 'and no extension\'s');
$k->exec("INSERT INTO auth.users (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'a\@example.org')");
like_error($k->run("INSERT INTO auth.users (email) VALUES ('A\@example.org')"), '23505', qr/users_email/, 'an address is there once');
my $claims = '{"sub": "00000000-0000-0000-0000-000000000001", "role": "authenticated", "email": "a@example.org"}';
ok_run($k->run("SET ROLE authenticated; SELECT auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'sub'", claims => $claims),
    '00000000-0000-0000-0000-000000000001|authenticated|a@example.org|00000000-0000-0000-0000-000000000001', 'claims');
ok_run($k->run("SET ROLE anon; SELECT auth.uid() IS NULL, auth.role() IS NULL, auth.email() IS NULL, auth.jwt() IS NULL"), 't|t|t|t', 'none');
ok_run($k->run("SET ROLE anon; SELECT auth.uid() IS NULL, auth.role() IS NULL, auth.email() IS NULL, auth.jwt() IS NULL", claims => ''), 't|t|t|t', 'nor any more');
foreach my $role (qw(anon authenticated service_role app))
{
    is($k->run("SET ROLE $role; SELECT * FROM auth.users")->{state}, '42501', "$role does not read auth.users");
}
is($k->exec("SELECT pg_has_role('authenticated', 'kessel_user', 'USAGE'), pg_has_role('service_role', 'kessel_service', 'USAGE'), pg_has_role('anon', 'kessel_user', 'USAGE')"), 't|t|f', 'the router knows them');

$k->exec('CREATE VIEW public.mine AS SELECT id FROM auth.users');
$r = $k->run("SELECT * FROM kessel.teardown('core', drop_data => true)");
is($r->{state}, '2BP01', 'what others depend on stays');
like($r->{hint}, qr/^Drop or change what depends on it/, 'and nobody is told to drop more');
ok_run($k->run('SELECT version = available, count(*) FROM kessel.setup_status(), auth.users WHERE blueprint = $$core$$ GROUP BY 1'), 't|1', 'all of it');
$k->exec('DROP VIEW public.mine');
like_error($k->run("SELECT * FROM kessel.teardown('core')"), '55006', qr/blueprint "core" have rows/, 'rows are not dropped unasked', hint => qr/drop_data => true/);
is($k->run("SELECT * FROM kessel.teardown('core', drop_data => true)")->{state}, '', 'taken back');
is($k->exec("SELECT to_regnamespace('auth') IS NULL, count(*) FROM kessel.applied_migrations"), 't|0', 'it leaves nothing');

# ---------- beside Supabase ----------

$k->exec('CREATE DATABASE supabase', db => 'postgres');
$k->exec('REVOKE kessel_user FROM authenticated; REVOKE kessel_service FROM service_role; ALTER ROLE anon NOINHERIT; ALTER ROLE authenticated NOINHERIT; ALTER ROLE service_role NOINHERIT; CREATE ROLE supabase_auth_admin');
$k->exec(<<'SQL', db => 'supabase');
CREATE EXTENSION kessel_router CASCADE;
CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
SET ROLE supabase_auth_admin;
CREATE TABLE auth.users (instance_id uuid, id uuid PRIMARY KEY, aud varchar(255), role varchar(255), email varchar(255), is_sso_user boolean NOT NULL DEFAULT false);
CREATE UNIQUE INDEX users_email_partial_key ON auth.users (email) WHERE is_sso_user = false;
COMMENT ON TABLE auth.users IS 'Auth: Stores user login data within a secure schema.';
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('theirs.id', true), '')::uuid $$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'theirs' $$;
CREATE FUNCTION auth.email() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'theirs' $$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
SQL
my $theirs = "SELECT p.oid, p.xmin, p.prosrc FROM pg_proc p WHERE pronamespace = 'auth'::regnamespace AND proname <> 'jwt' UNION ALL SELECT c.oid, NULL, relowner::text || relname || coalesce(relacl::text, '') FROM pg_class c WHERE relnamespace = 'auth'::regnamespace UNION ALL SELECT n.oid, n.xmin, nspacl::text FROM pg_namespace n WHERE nspname = 'auth' ORDER BY 1";
my $before = $k->exec($theirs, db => 'supabase');
$r = $k->run("SELECT * FROM kessel.setup('{core}')", db => 'supabase');
is($r->{state}, '', 'set up where auth is there already');
like($r->{err}, qr/NOTICE: .*schema auth is there already .* role "supabase_auth_admin"/, 'and whose it is');
is($k->exec($theirs, db => 'supabase'), $before, 'what is there is used as it is');
is($k->exec("SELECT auth.jwt() IS NULL, auth.role()", db => 'supabase'), 't|theirs', 'what is missing is made');
is($k->exec("SELECT pg_has_role('authenticated', 'kessel_user', 'USAGE'), pg_has_role('service_role', 'kessel_service', 'USAGE')"), 't|t', 'the router knows the roles, which are NOINHERIT there');
{
    # An auth.uid() that asks something else than the claims is asked about the user, and the claims are not.
    my ($user, $admin) = map { "00000000-0000-4000-9000-00000000000$_" } qw(a d);
    my $sees = sub {
        my ($theirs_says, $claims_say) = @_;
        return $k->run("SET theirs.id = '$theirs_says'; SET ROLE authenticated; SELECT infra.is_admin(), (SELECT count(*) FROM public.profiles), kessel._is_administrator('$admin'), kessel._visible_users('$user') IS NULL",
            db => 'supabase', sub => $claims_say);
    };
    $k->exec("INSERT INTO auth.users (id) VALUES ('$user'), ('$admin'); UPDATE public.profiles SET role = 'admin' WHERE id = '$admin'", db => 'supabase');
    ok_run($sees->($user, $admin), 'f|1|f|f', 'a user of an auth.uid() of theirs, and what others are is not told');
    ok_run($sees->($admin, $user), 't|2|t|t', 'an administrator of it');
    ok_run($sees->('', $admin), 'f|0|f|t', 'nobody');
    $k->exec('DELETE FROM auth.users', db => 'supabase');
}
is($k->run("SELECT * FROM kessel.teardown('core')", db => 'supabase')->{state}, '', 'taken back');
is($k->exec($theirs, db => 'supabase'), $before, 'theirs stays');
is($k->exec("SELECT to_regprocedure('auth.jwt()') IS NULL", db => 'supabase'), 't', 'ours goes');

# ---------- two at once, and cut off ----------

# Until a session waits for a lock.
sub waits
{
    my ($s) = @_;
    return $k->node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $s->pid);
}

{
    my ($one, $two, $late) = ($k->session, $k->session, $k->session);

    $late->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kessel.applied_migrations');
    ok_run($one->run("BEGIN; SELECT count(*) > 0 FROM kessel.setup('{core}')"), 't', 'one sets up');
    $two->start("SELECT count(*) FROM kessel.setup('{core}')");
    ok(waits($two), 'another one waits');
    $one->run('COMMIT');
    ok_run($two->finish, '0', 'and finds nothing to do');
    like_error($late->run("SELECT * FROM kessel.setup('{core}')"), '40001', qr/meanwhile/, 'one that sees the time before it is told', hint => qr/again/);
    $late->run('ROLLBACK');

    $k->exec("SELECT kessel.teardown('core')");
    $one->run("BEGIN; SELECT count(*) FROM kessel.setup('{core}')");
    $two->start("SELECT count(*) > 0 FROM kessel.setup('{core}')");
    ok(waits($two), 'once more');
    $one->run('ROLLBACK');
    ok_run($two->finish, 't', 'if the first one gives up, the second one does it');
    $k->exec("SELECT kessel.teardown('core')");

    $k->exec("SELECT kessel.add_blueprint('slow', applies_to => 'infra'), kessel.add_migration('slow', '0001_a', 'CREATE TABLE public.slow (i int); SELECT pg_advisory_xact_lock(7)', 'DROP TABLE public.slow')");
    $two->run('SELECT pg_advisory_lock(7)');
    $one->start("SELECT * FROM kessel.setup('{core,slow}')");
    ok(waits($one), 'in the middle of a setup');
    kill 'KILL', $one->pid;
    like($one->finish->{message}, qr/has ended|lost|closed/, 'it is killed');
    ok($k->node->poll_query_until('infra', 'SELECT true'), 'the server is back');
    is($k->exec("SELECT to_regclass('public.slow') IS NULL, to_regnamespace('auth') IS NULL, count(*) FROM kessel.applied_migrations"), 't|t|0', 'nothing of it stays');
    is($k->exec("SELECT string_agg(DISTINCT blueprint, ' ' ORDER BY blueprint) FROM kessel.setup('{core,slow}')"), 'core slow', 'and it can be done again');
    $k->exec("SELECT kessel.teardown('slow'); SELECT kessel.drop_blueprint('slow')");
    $_->quit foreach $one, $two, $late;
}

{
    my ($one, $two) = ($k->session(user => 'admin'), $k->session(user => 'admin'));

    $one->run("SELECT kessel.add_blueprint('b')");
    $one->run("BEGIN; SELECT kessel.add_migration('b', '0001_one', 'SELECT 1', '--')");
    $two->start("SELECT kessel.add_migration('b', '0001_two', 'SELECT 2', '--')");
    ok(waits($two), 'two add the same version');
    $one->run('COMMIT');
    like_error($two->finish, '23505', qr/"0001_one"/, 'the second one is told', hint => qr/next number/);
    $one->run("BEGIN; SELECT kessel.drop_blueprint('b')");
    $two->start("SELECT kessel.add_migration('b', '0002_two', 'SELECT 2', '--')");
    ok(waits($two), 'one drops the blueprint');
    $one->run('COMMIT');
    like_error($two->finish, '42704', qr/does not exist/, 'the other one is told');
    $one->run("BEGIN; SELECT kessel.add_blueprint('b', 'one')");
    $two->start("SELECT kessel.add_blueprint('b', for_new_tenants => false)");
    ok(waits($two), 'two make the same blueprint');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'it is there for both');
    is($k->exec("SELECT description, for_new_tenants FROM kessel.blueprints WHERE name = 'b'"), 'one|f', 'once');
    $one->run("SELECT kessel.add_blueprint('p', applies_to => 'infra'), kessel.add_blueprint('q', applies_to => 'infra')");
    $one->run("BEGIN; SELECT kessel.add_blueprint('p', applies_to => 'infra', requires => '{q}')");
    $two->start("SELECT kessel.add_blueprint('q', applies_to => 'infra', requires => '{p}')");
    ok(waits($two), 'two come to require each other');
    $one->run('COMMIT');
    like_error($two->finish, '22023', qr/would require itself/, 'the second one is told');
    $one->run("SELECT kessel.drop_blueprint('p'), kessel.drop_blueprint('q'), kessel.drop_blueprint('b')");
    $_->quit foreach $one, $two;
}

# ---------- while the fleet is migrated ----------

{
    my $d = $k->data_cluster('solo');
    $k->data_source($d, isolation => 'database');
    $k->exec("SELECT kessel.create_tenant('a', data_source => 'solo')");
    my ($one, $two, $there) = ($k->session(user => 'admin'), $k->session(user => 'admin'), KesselTest::Session->new([ 'psql', '-XqAt', '-d', "host=@{[$d->{node}->host]} port=$d->{port} user=postgres dbname=$d->{db}" ], ''));

    $there->run('SELECT pg_advisory_lock(8)');
    $one->run("SELECT kessel.add_blueprint('f'); SELECT kessel.add_migration('f', '1_a', 'SELECT pg_advisory_xact_lock(8)', '--'); SELECT kessel.add_migration('f', '2_b', 'SELECT 2', '--')");
    $one->start("CALL kessel.migrate('f', 1)");
    ok($d->{node}->poll_query_until($d->{db}, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 'a migration of the fleet is under way');
    foreach my $sql ("SELECT kessel.add_migration('f', '2_b', 'SELECT 22', '--')", "SELECT kessel.add_migration('f', '1_a', 'SELECT pg_advisory_xact_lock(8)', 'SELECT 1')",
        "SELECT kessel.drop_migration('f', '2_b')")
    {
        like_error($two->run($sql), '55006', qr/is being migrated/, "refused meanwhile: $sql", hint => qr/Wait/);
    }
    is($two->run("SELECT kessel.drop_blueprint('f')")->{state}, '55000', 'nor can it be dropped');
    is($two->run("SELECT kessel.add_migration('f', '2_b', 'SELECT 2', '--'); SELECT kessel.add_migration('f', '3_c', 'SELECT 3', '--')")->{state}, '', 'one can be added');
    $there->quit;
    is($one->finish->{state}, '', 'it is done');
    $r = $two->run("SELECT kessel.add_migration('f', '1_a', 'SELECT 1', '--')");
    like_error($r, '55000', qr/applied already/, 'what was applied cannot be changed');
    is($r->{detail}, 'It was applied in schema "public" of data source "solo".', 'and it says where');

    $two->run("BEGIN; SELECT kessel.add_migration('f', '2_b', 'CREATE TABLE changed ()', 'DROP TABLE changed')");
    $one->start("CALL kessel.migrate('f', 2)");
    ok(waits($one), 'a run waits for who changes a migration');
    $two->run('COMMIT');
    is($one->finish->{state}, '', 'and does it');
    is($k->data_exec($d, "SELECT to_regclass('public.changed') IS NOT NULL"), 't', 'as it is then');
    is($one->run("CALL kessel.rollback('f', 0)")->{state}, '', 'taken back');
    is($one->run("SELECT kessel.drop_blueprint('f')")->{state}, '', 'it can be dropped');
    $_->quit foreach $one, $two;
}

# ---------- folders ----------

sub put
{
    my ($file, $text) = @_;
    my ($folder) = "$dir/$file" =~ m{(.*)/};
    mkdir $folder;
    unlink "$dir/$file";
    append_to_file("$dir/$file", $text);
    return;
}

# load(FOLDER..., OPTION...): exit code and what it said
sub load
{
    my (@arguments) = @_;
    my ($out, $err) = ('', '');
    local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($k->node->host, $k->node->port, 'postgres', 'infra');
    IPC::Run::run([ $loader, @arguments ], '<', \undef, '>', \$out, '2>', \$err);
    return { code => $? >> 8, out => $out, err => $err };
}

my $nasty = "-- \$kr\$ \$\$ ':x' :x :'x' :\"x\" \\q \\! \$1 %s `id` \"\$(id)\"\nCREATE TABLE it (\"d\xc3\xa9j\xc3\xa0 vu\" text DEFAULT '\\ '' \$krr\$');\r\nDO \$a\$ BEGIN\n\\\$x;\nEND \$a\$ -- \$kr";
$nasty =~ s/^\\\$x;\n/PERFORM '\\x', ':v', 1;\n/m;
put('crm/0001_it.up.sql', $nasty);
put('crm/0001_it.down.sql', "DROP TABLE it;\n\n");
put('crm/0002_index.up.sql', "-- kessel: non-transactional\nCREATE INDEX CONCURRENTLY it_i ON it ((1));\n");
put('crm/0002_index.down.sql', "DROP INDEX CONCURRENTLY it_i");
put('crm/10_last.up.sql', "SELECT 10");
put('crm/9_last_but_one.up.sql', "SELECT 9");
put('crm/blueprint.conf', "# of a CRM\ndescription = It's \"ours\": 100 % \\ \$kr\$\nfor_new_tenants=false\n");
$r = load("$dir/crm");
is("$r->{code} $r->{out}", '0 ', 'a folder is loaded') or diag($r->{err});
is($k->exec("SELECT description, applies_to, for_new_tenants FROM kessel.blueprints WHERE name = 'crm'"), "It's \"ours\": 100 % \\ \$kr\$|data_sources|f", 'as its head says');
is($k->exec("SELECT version, name, transactional, down FROM kessel.migrations WHERE blueprint = 'crm' ORDER BY 1"),
    "1|0001_it|t|DROP TABLE it;\n2|0002_index|f|DROP INDEX CONCURRENTLY it_i\n9|9_last_but_one|t|\n10|10_last|t|", 'with its migrations');
is($k->exec("SELECT checksum FROM kessel.migrations WHERE name = '0001_it'"), sha256_hex($nasty), 'byte for byte, whatever is in it');
my $rows = "SELECT b, m FROM kessel.blueprints b JOIN kessel.migrations m ON m.blueprint = b.name ORDER BY 2";
my $loaded = $k->exec($rows);
is(load("$dir/crm/")->{code}, 0, 'loaded again');
is($k->exec($rows), $loaded, 'nothing happens');
put('crm/0002_index.up.sql', "-- kessel: non-transactional\r\nCREATE INDEX CONCURRENTLY it_i ON it ((2));\n");
is(load("$dir/crm", '--', '-d', 'infra')->{code}, 0, 'loaded with a change, and an option of psql');
is($k->exec("SELECT up ~ '2' FROM kessel.migrations WHERE name = '0002_index'"), 't', 'it is there');

put('infra_one/0001_a.up.sql', 'SELECT 1');
put('infra_one/blueprint.conf', "applies_to = infra\r\n");
put('infra_two/0001_a.up.sql', 'SELECT 1');
put('infra_two/blueprint.conf', "applies_to = infra\nrequires = core, infra_one\n");
$r = load("$dir/infra_one", "$dir/infra_two");
is($k->exec("SELECT name, applies_to, requires FROM kessel.blueprints WHERE name ~ 'infra' ORDER BY 1"), "infra_one|infra|{}\ninfra_two|infra|{core,infra_one}", 'two folders') or diag($r->{err});

put('half/0001_a.up.sql', 'SELECT 1');
put('half/0002_b.up.sql', "SELECT 1;\nSELCT 2");
$r = load("$dir/half");
ok($r->{code} != 0 && $r->{err} =~ /syntax error at or near "SELCT"\nLINE 2: SELCT 2/, 'one that does not parse is refused, with its place') or diag($r->{err});
is($k->exec("SELECT count(*) FROM kessel.blueprints WHERE name = 'half'"), '0', 'with all of the folder');
foreach my $case (
    [ 'other/notes.sql', 'x', qr/notes\.sql: its name is not/ ], [ 'lone/1_x.down.sql', 'x', qr/there is no 1_x\.up\.sql/ ],
    [ 'zero/1_x.up.sql', "SELECT 1\0", qr/zero byte/ ], [ 'none/readme', 'x', qr/has no migrations/ ])
{
    my ($file, $text, $message) = @$case;
    my ($folder) = split m{/}, $file;

    put($file, $text);
    $r = load("$dir/$folder");
    ok($r->{code} != 0 && $r->{err} =~ $message, "refused: $file") or diag($r->{err});
    is($k->exec("SELECT count(*) FROM kessel.blueprints WHERE name = '$folder'"), '0', 'and nothing is loaded');
}
put('conf/1_x.up.sql', 'SELECT 1');
put('conf/blueprint.conf', "applies_for = infra\n");
$r = load("$dir/conf");
ok($r->{code} != 0 && $r->{err} =~ /line 1:applies_for/, 'refused: an unknown key') or diag($r->{err});
isnt(load("$dir/nothing")->{code}, 0, 'no folder');
isnt(load()->{code}, 0, 'no argument');
is(load('--help')->{code}, 0, 'help');
$r = load('--print', "$dir/crm");
ok($r->{code} == 0 && $r->{out} =~ /^SELECT kessel\.add_blueprint\(/ && $r->{out} =~ /SELECT 10/, 'printed instead');

# With psql alone.
{
    my ($out, $err) = ('', '');
    local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($k->node->host, $k->node->port, 'postgres', 'infra');
    my $script = "\\set up `cat $dir/crm/0001_it.up.sql`\n\\set down `cat $dir/crm/0001_it.down.sql`\nSELECT kessel.add_migration('alone', '0001_it', :'up', :'down');\n";
    $k->exec("SELECT kessel.add_blueprint('alone')");
    ok(IPC::Run::run([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1' ], '<', \$script, '>', \$out, '2>', \$err), 'a file with psql alone') or diag($err);
    is($k->exec("SELECT count(DISTINCT (up, down, checksum)) FROM kessel.migrations WHERE name = '0001_it'"), '1', 'is the same as the folder\'s');
}

# ---------- dump and restore ----------

$k->exec("SELECT kessel.setup('{infra_two}')");
$k->exec("INSERT INTO auth.users (email) VALUES ('b\@example.org')");
my $catalogue = "SELECT name, description, applies_to, for_new_tenants, version, requires, built_in FROM kessel.blueprints ORDER BY 1;"
  . "SELECT blueprint, version, name, checksum, md5(up), md5(down), transactional, author FROM kessel.migrations ORDER BY 1, 2;"
  . "SELECT a FROM kessel.applied_migrations a ORDER BY 1; SELECT s FROM kessel.setup_status() s";
$before = $k->exec($catalogue);
foreach my $format ('custom', 'plain')
{
    local $ENV{PGHOST} = $k->node->host;
    local $ENV{PGPORT} = $k->node->port;
    my $err = '';
    $k->exec("CREATE DATABASE restored_$format", db => 'postgres');
    ok(IPC::Run::run([ 'pg_dump', '-F', $format, '-f', "$dir/$format", 'infra' ], '2>', \$err), "dumped, $format") or diag($err);
    my @restore = $format eq 'custom' ? ('pg_restore', '--exit-on-error') : ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f');
    ok(IPC::Run::run([ @restore, $format eq 'custom' ? ('-d', "restored_$format", "$dir/$format") : ("$dir/$format", "restored_$format") ], '2>', \$err), 'restored') or diag($err);
    is($err, '', 'without a warning');
    is($k->exec($catalogue, db => "restored_$format"), $before, 'the catalogue is the same, what is built in is there once');
    is($k->exec("SELECT count(*) FROM kessel.setup('{infra_two}'); SELECT count(*) FROM auth.users", db => "restored_$format"), "0\n1", 'there is nothing to set up');
    is($k->run("SELECT kessel.teardown('core', cascade => true, drop_data => true)", db => "restored_$format")->{state}, '0A000', 'and what has no way back has none there');
    $k->exec("SELECT kessel.add_migration('infra_two', '0001_a', 'SELECT 1', '--'); SELECT kessel.teardown('core', cascade => true, drop_data => true)", db => "restored_$format");
    is($k->exec("SELECT to_regnamespace('auth') IS NULL", db => "restored_$format"), 't', 'the way back works');
}

done_testing();

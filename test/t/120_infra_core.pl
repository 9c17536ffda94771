# The blueprint core where pgTAP does not get to: beside Supabase's schemas and
# roles, set up by a role that is no superuser; through PostgREST's statements;
# data sources; two who change one user's memberships; dump and restore.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselClient;
use KesselPostgrest;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\nkessel.root_key_file = '$key_file'\n");
my $node = $k->node;
my %user = map { $_ => sprintf '5e1f0000-0000-4000-8000-00000000%04x', ord } qw(a b c);

# ---------- plain PostgreSQL, with a data source ----------

$k->exec('SELECT kessel.setup($${core}$$)');
my $d = $k->data_cluster('shared');
$k->crm_database($d, 'a');
$k->data_source($d, name => 'solo');
$k->exec("SELECT kessel.set_default_data_source('solo')");
$k->exec("INSERT INTO auth.users (id, email) VALUES " . join(', ', map { "('$user{$_}', '$_\@example.com')" } sort keys %user));
$k->exec('CREATE ROLE backend LOGIN; GRANT service_role TO backend; CREATE ROLE api LOGIN NOINHERIT; GRANT anon, authenticated TO api; ALTER ROLE backend SET kessel.tenant = $$$$');

my $tenant = $k->run("SELECT create_tenant('acme', 'Acme')", user => 'backend');
is($tenant->{state}, '', 'a backend creates a tenant');
chomp(my $acme = $tenant->{out});
ok_run($k->run("SELECT assign_user_to_tenant('$user{a}', '$acme', 'owner'); SELECT role FROM app.user_tenants", user => 'backend'), "\nowner", 'and assigns a user');
is($k->exec('SELECT string_agg(email, $$ $$) FROM profiles WHERE tenant_id IS NOT NULL'), 'a@example.com', 'whose profile follows');
is($k->run("SELECT create_tenant('acme', 'Acme')", user => 'backend')->{state}, '23505', 'a slug is there once');
$k->exec("INSERT INTO db_registry (id, name, data_source_id) SELECT 'crm', 'CRM', id FROM app.data_sources");
like($k->run("SELECT table_schema, table_name, table_type FROM discover_tables('crm')", user => 'backend')->{out}, qr/^public\|accounts\|BASE TABLE$/m, 'tables of a data source');
like($k->run("SELECT table_name FROM kessel.discover_tables('solo', 'public')", user => 'backend')->{out}, qr/^accounts$/m, 'by its name');
ok_run($k->run("SELECT count(*) FROM discover_tables('crm', 'kessel_agent''; DROP TABLE accounts; --')", user => 'backend'), '0', 'of no such schema');
is($k->run("SELECT kessel.discover_tables('nosuch')", user => 'backend')->{state}, 'KR007', 'of no such source');

# What PostgREST sends; 125_postgrest.pl has more of it.
my $api = KesselPostgrest->new(KesselClient->new($node, 'infra', user => 'api'));
sub request
{
    my ($method, $who, $statement, %opt) = @_;
    my $r = $api->request($method, $who ? 'authenticated' : 'anon', $who ? { sub => $user{$who} } : {}, $statement, %opt);
    return "$r->{state} " . ($r->{body} // '');
}
is(request('GET', $_, $api->get('profiles', 'email')), " [{\"email\":\"$_\@example.com\"}]", "GET /profiles as $_") foreach qw(a b a c);
is(request('GET', '', $api->get('themes', 'id')), ' [{"id":"default"}]', 'GET /themes without a user');
is(request('GET', '', $api->get('profiles', '*')), '42501 ', 'but no profiles');
is(request('PATCH', 'b', $api->patch('profiles', '{"display_name": "Bob"}', 'display_name text', 'display_name', [ 'id', '=', $user{b} ])), ' [{"display_name":"Bob"}]', 'PATCH of one\'s own');
is(request('PATCH', 'b', $api->patch('profiles', '{"display_name": "x"}', 'display_name text', 'display_name', [ 'id', '=', $user{a} ])), ' []', 'PATCH of another\'s changes nothing');
like(request('POST', 'a', $api->rpc('get_tenant_by_slug', 'set', '{"p_slug": "acme"}', 'p_slug text'), stable => 1), qr/^ \[.*"slug":"acme"/, 'POST /rpc/get_tenant_by_slug');
is(request('POST', 'a', $api->rpc('read_secret', 'scalar', '{"secret_name": "x"}', 'secret_name text')), '42501 ', 'POST /rpc/read_secret by a user');
$api->client->quit;

# ---------- two at once ----------

$k->exec("SELECT kessel.create_data_source('row', 'postgresql://x\@192.0.2.1/x', isolation => 'row'); INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'row-' || n, 'r', id, 'row', n FROM app.data_sources, generate_series(1, 2) n WHERE app.data_sources.name = 'row'");
{
    my ($one, $two) = ($k->session, $k->session);
    my $slug = "SELECT t.slug FROM profiles p JOIN app.tenants t ON t.id = p.tenant_id WHERE p.id = '$user{c}'";

    $one->run("BEGIN; SELECT kessel.add_member('row-1', '$user{c}')");
    $two->start("SELECT kessel.add_member('row-2', '$user{c}')");
    ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'who changes the same user\'s memberships waits');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'not for long');
    is($k->exec($slug), 'row-1', 'and sees what the first has done');
    $one->run("BEGIN; SELECT kessel.remove_member('row-1', '$user{c}')");
    $two->start("SELECT kessel.deactivate_member('row-2', '$user{c}')");
    ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'the same when they end');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'both');
    is($k->exec($slug), '', 'none is left');
    $_->quit foreach $one, $two;
}

# ---------- dump and restore ----------

$k->exec("SELECT kessel.activate_member('row-2', '$user{c}'); SELECT kessel.add_member('row-1', '$user{c}'); INSERT INTO roles (name, display_name) VALUES ('editor', 'E'); UPDATE profiles SET role = 'editor' WHERE id = '$user{b}'; SELECT insert_secret('ENV', 'v'); SELECT vault.create_secret('other', 'OTHER')");
my $look = "SELECT email, role, role_id, tenant_id, display_name FROM profiles ORDER BY 1; SELECT count(*) FROM roles; SELECT object FROM catalog_snapshot() object WHERE object ~ 'kessel_user|kessel_service|service_role|authenticated|anon|infra\\.|trigger|policy' ORDER BY object COLLATE \"C\"";
$k->exec('\i test/lib/catalog_snapshot.sql');
my $before = $k->exec($look);
foreach my $format (qw(plain custom))
{
    my $file = "$dir/dump.$format";
    $node->command_ok([ 'pg_dump', '-U', 'postgres', "--format=$format", "--file=$file", $node->connstr('infra') ], "dump, $format");
    $k->exec("CREATE DATABASE restored_$format", db => 'postgres');
    my @restore = $format eq 'plain' ? ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $file) : ('pg_restore', '--exit-on-error', '-d');
    my $connstr = $node->connstr("restored_$format") . ' user=postgres';
    $node->command_ok([ @restore, $format eq 'plain' ? ('-d', $connstr) : ($connstr, $file) ], "restore, $format");
    is($k->exec($look, db => "restored_$format"), $before, 'everything is as it was');
    $k->exec("SELECT kessel.deactivate_member('row-2', '$user{c}')", db => "restored_$format");
    is($k->exec("SELECT t.slug FROM profiles p JOIN app.tenants t ON t.id = p.tenant_id WHERE p.id = '$user{c}'", db => "restored_$format"), 'row-1', 'profiles follow memberships there');
    ok_run($k->run('SELECT * FROM get_all_secrets_for_env()', db => "restored_$format", user => 'backend'), 'ENV|v', 'secrets of the environment open, and no others');
    is($k->exec("SELECT kessel.teardown('core', cascade => true, drop_data => true)", db => "restored_$format") =~ /0001_ground/ ? 1 : 0, 1, 'and it can be taken back');
}

# ---------- beside Supabase ----------

$k->exec('CREATE DATABASE supabase', db => 'postgres');
$k->exec('\i test/lib/supabase_shape.sql', db => 'supabase');
$k->exec('\i test/lib/catalog_snapshot.sql', db => 'supabase');
$k->exec("INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES ('$user{a}', 'a\@example.com', '{\"name\": \"A\", \"avatar_url\": \"https://example.com/a.png\"}')", db => 'supabase');
$k->exec('CREATE EXTENSION kessel_router CASCADE', db => 'supabase');
my $owner = sub { return $k->run($_[0], db => 'supabase', user => 'project_owner') };
is($owner->('SELECT kessel.setup($${core}$$)')->{state}, '42501', 'who is nobody to the extension sets up nothing');
$k->exec('GRANT kessel_admin TO project_owner WITH ADMIN OPTION; GRANT kessel_user, kessel_service TO project_owner WITH ADMIN OPTION', db => 'supabase');
is($owner->('SELECT kessel.setup($${core}$$)')->{state}, '42501', 'nor who may not refer to tenants');
is($k->exec("SELECT count(*) FROM kessel.applied_migrations", db => 'supabase'), '0', 'nothing is half done');
$k->exec('GRANT REFERENCES ON app.tenants, app.data_sources TO project_owner; GRANT USAGE ON SCHEMA app TO project_owner WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) TO project_owner WITH GRANT OPTION', db => 'supabase');
$k->exec('CREATE TABLE public.before AS SELECT * FROM catalog_snapshot() AS object', db => 'supabase');
is($owner->('SELECT kessel.setup($${core}$$)')->{state}, '', 'with what doc/infra-database.md names the project\'s owner sets up');
is($k->exec("SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'infra'::regnamespace) AND relkind = 'r' AND relname <> 'before'", db => 'supabase'), 'project_owner', 'and owns it');

# In a database where all is granted to all by default the same is granted as elsewhere.
my $grants = q{
    SELECT r, c.oid::regclass, p, has_table_privilege(r, c.oid, p) FROM unnest('{anon,authenticated,service_role,public}'::text[]) r, pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname NOT IN ('before') AND EXISTS (SELECT FROM pg_policy l WHERE l.polrelid = c.oid) ORDER BY 1, 2, 3;
    SELECT r, c.attrelid::regclass, c.attname, p, has_column_privilege(r, c.attrelid, c.attnum, p) FROM unnest('{anon,authenticated,service_role,public}'::text[]) r, pg_attribute c, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) p
    WHERE c.attnum > 0 AND EXISTS (SELECT FROM pg_policy l JOIN pg_class o ON o.oid = l.polrelid WHERE l.polrelid = c.attrelid AND o.relnamespace = 'public'::regnamespace) ORDER BY 1, 2, 3, 4;
    SELECT r, f.oid::regprocedure, has_function_privilege(r, f.oid, 'EXECUTE') FROM unnest('{anon,authenticated,service_role,public}'::text[]) r, pg_proc f
    WHERE f.pronamespace IN ('public'::regnamespace, 'infra'::regnamespace) AND f.proname <> 'catalog_snapshot' AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = f.oid AND e.deptype = 'e') ORDER BY 1, 2};
my ($there, $here) = map { $k->exec($grants =~ s/,public\}/,dashboard_user}/gr, db => $_) } qw(supabase infra);
cmp_ok(length $here, '>', 10000, 'there are privileges to compare');
is($there, $here, 'nobody has more than on plain PostgreSQL');

is($k->exec('SELECT email, display_name, avatar_url FROM profiles', db => 'supabase'), 'a@example.com|A|https://example.com/a.png', 'who was there already has a profile');
is($k->run("INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES ('$user{b}', 'b\@example.com', '{\"full_name\": \"B\"}')", db => 'supabase', user => 'supabase_auth_admin')->{state}, '', 'Auth signs up a user');
is($k->exec("SELECT display_name FROM profiles WHERE email = 'b\@example.com'", db => 'supabase'), 'B', 'who gets a profile');
is($k->run("UPDATE auth.users SET email = 'b2\@example.com' WHERE email = 'b\@example.com'; DELETE FROM auth.users WHERE id = '$user{a}'", db => 'supabase', user => 'supabase_auth_admin')->{state}, '', 'changes one and deletes one');
is($k->exec('SELECT email FROM profiles', db => 'supabase'), 'b2@example.com', 'and profiles follow');
$k->exec("SELECT kessel.create_data_source('row', 'postgresql://x\@192.0.2.1/x', isolation => 'row'); INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT '$acme', 'acme', 'r', id, 'row', 'a' FROM app.data_sources", db => 'supabase');
is($k->run("SET ROLE service_role; SELECT assign_user_to_tenant('$user{b}', '$acme')", db => 'supabase', user => 'authenticator')->{state}, '', 'the service assigns a tenant');
is($k->exec('SELECT tenant_id FROM profiles', db => 'supabase'), $acme, 'which the profile follows, though its owner is no superuser');
my $hook = "SELECT app.custom_access_token_hook('{\"user_id\": \"$user{b}\", \"claims\": {}}') #>> '{claims,tenant_id}'";
ok_run($k->run($hook, db => 'supabase', user => 'supabase_auth_admin'), $acme, 'Auth asks for the tenant');
is($k->run("SET ROLE $_; $hook", db => 'supabase', user => 'authenticator')->{state}, '42501', "$_ does not") foreach qw(anon authenticated);
ok_run($k->run("SET ROLE authenticated; SELECT email, get_tenant_by_slug('acme') IS NULL FROM profiles", db => 'supabase', user => 'authenticator', sub => $user{b}), 'b2@example.com|f', 'a user reads his profile and tenant');
ok_run($k->run("SET ROLE service_role; SELECT insert_secret('K', 'v') IS NULL, read_secret('K'); SELECT * FROM get_all_secrets_for_env(); SELECT delete_secret('K')", db => 'supabase', user => 'authenticator'), "f|v\nK|v\nt", 'secrets');
is($k->run("SET ROLE $_; SELECT read_secret('K')", db => 'supabase', user => 'authenticator')->{state}, '42501', "none for $_") foreach qw(anon authenticated);
$k->exec("INSERT INTO auth.users (id) VALUES ('$user{a}'); SELECT assign_user_to_tenant('$user{a}', '$acme')", db => 'supabase');
is($k->run("DELETE FROM auth.users WHERE id = '$user{a}'", db => 'supabase', user => 'supabase_auth_admin')->{state}, '', 'Auth deletes a member');
is($k->exec('SELECT user_id FROM app.user_tenants', db => 'supabase'), $user{b}, 'whose membership ends with that');
is($owner->("SELECT kessel.teardown('core', cascade => true, drop_data => true)")->{state}, '', 'the owner takes it back, with what requires it');
is($k->exec("SELECT object FROM catalog_snapshot() AS object EXCEPT SELECT object FROM before ORDER BY 1", db => 'supabase'), '', 'nothing is left');
is($k->exec("SELECT object FROM before EXCEPT SELECT object FROM catalog_snapshot() AS object ORDER BY 1", db => 'supabase'), '', 'and nothing of Supabase\'s is gone');
is($k->exec('SELECT count(*) FROM auth.users', db => 'supabase'), '1', 'nor its users');

done_testing();

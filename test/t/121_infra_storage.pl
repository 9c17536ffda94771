# The blueprint storage where pgTAP does not get to: beside Supabase's schema, set
# up by a role that is no superuser; through PostgREST's statements; two who write
# one file; dump and restore.
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
my $k = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\n");
my $node = $k->node;
my $admin = '5e1f0000-0000-4000-8000-00000000ad00';
my $r;

$k->exec('SELECT kessel.setup($${storage}$$); CREATE ROLE api LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO api');
$k->exec("INSERT INTO auth.users (id, email) VALUES ('$admin', 'admin\@example.com'); UPDATE profiles SET role = 'admin'; INSERT INTO themes (id, name) VALUES ('dark', 'Dark')");

# What PostgREST sends for rpc/: arguments as one JSON text.
my $api = KesselPostgrest->new(KesselClient->new($node, 'infra', user => 'api'));
sub request
{
    my ($method, $role, $schema, $statement) = @_;
    my $r = $api->request($method, $role, $role eq 'authenticated' ? { sub => $admin } : {}, $statement, schema => $schema);
    return "$r->{state} " . ($r->{body} // '');
}
my $put = $api->rpc('storage.put_object', 'set', '{"bucket": "themes", "name": "dark.css", "content": "\\\\x61207b7d", "mime_type": "text/css"}', 'bucket text, name text, content bytea, mime_type text');
like(request('POST', 'authenticated', 'storage', $put), qr/^ \[.*"size":4\b/, 'POST /rpc/put_object');
is(request('POST', 'anon', 'storage', $put), '42501 ', 'not without a user');
is(request('GET', 'anon', 'public', $api->rpc_get('get_theme_css', 'scalar', [ 'p_theme', 'text', 'dark' ])), ' "a {}"', 'GET /rpc/get_theme_css');
is(request('GET', 'anon', 'storage', $api->get('storage.objects', 'name', where => [ [ 'bucket_id', '=', 'themes' ] ])), ' [{"name":"dark.css"}]', 'GET /objects');

# Two who write one file.
{
    my ($one, $two) = ($k->session, $k->session);
    my $write = sub { my ($what, $more) = @_; return "SET ROLE service_role; SELECT size FROM storage.put_object('themes', 'both.css', '$what', 'text/css'" . ($more || '') . ')' };
    foreach my $case ([ '', '3', '3', 'the second one overwrites' ], [ ", if_none_match => '*'", '2', '', 'only the first one makes it' ])
    {
        my ($more, $size, $answer, $name) = @$case;
        $one->run('BEGIN; ' . $write->('aa', $more));
        $two->start('BEGIN; ' . $write->('bbb', $more));
        ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'one waits for the other');
        $one->run('COMMIT');
        $r = $two->finish;
        is("$r->{out} $r->{state}", $answer ? "$answer " : ' 23505', $name);
        $two->run($answer ? 'COMMIT' : 'ROLLBACK');
        is($k->exec("SELECT size FROM storage.get_object('themes', 'both.css')"), $size, 'and its content is there');
        is($k->exec("SELECT count(*) FROM infra.object_contents c WHERE NOT EXISTS (SELECT FROM storage.objects o WHERE o.id = c.object_id)"), '0', 'no other one is');
        $k->exec("SELECT storage.remove_object('themes', 'both.css')");
    }
    $_->quit foreach $one, $two;
}

# Dump and restore.
foreach my $format (qw(plain custom))
{
    my $file = "$dir/dump.$format";
    $node->command_ok([ 'pg_dump', '-U', 'postgres', "--format=$format", "--file=$file", $node->connstr('infra') ], "dump, $format");
    $k->exec("CREATE DATABASE restored_$format", db => 'postgres');
    my @restore = $format eq 'plain' ? ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $file) : ('pg_restore', '--exit-on-error', '-d');
    my $connstr = $node->connstr("restored_$format") . ' user=postgres';
    $node->command_ok([ @restore, $format eq 'plain' ? ('-d', $connstr) : ($connstr, $file) ], "restore, $format");
    ok_run($k->run("SET ROLE anon; SELECT get_theme_css('dark')", db => "restored_$format"), 'a {}', 'the files are there');
    is($k->run("SELECT kessel.teardown('storage', drop_data => true)", db => "restored_$format")->{state}, '', 'and it can be taken back');
}

# ---------- beside Supabase ----------

$k->exec('CREATE DATABASE supabase', db => 'postgres');
$k->exec('\i test/lib/supabase_shape.sql', db => 'supabase');
$k->exec('\i test/lib/catalog_snapshot.sql', db => 'supabase');
$k->exec('CREATE EXTENSION kessel_router CASCADE; GRANT kessel_admin, kessel_user, kessel_service TO project_owner WITH ADMIN OPTION', db => 'supabase');
$k->exec('GRANT REFERENCES ON app.tenants, app.data_sources TO project_owner; GRANT USAGE ON SCHEMA app TO project_owner WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION app.custom_access_token_hook(jsonb) TO project_owner WITH GRANT OPTION', db => 'supabase');
my $owner = sub { return $k->run($_[0], db => 'supabase', user => 'project_owner') };
is($owner->('SELECT kessel.setup($${core}$$)')->{state}, '', 'core');
$k->exec("INSERT INTO auth.users (id, email) VALUES ('$admin', 'admin\@example.com'); UPDATE profiles SET role = 'admin'; INSERT INTO themes (id, name) VALUES ('dark', 'Dark')", db => 'supabase');
$k->exec('CREATE TABLE public.before AS SELECT * FROM catalog_snapshot() AS object', db => 'supabase');
like_error($owner->('SELECT kessel.setup($${storage}$$)'), '42501', qr/lacks privileges/, 'who may add nothing there is told', hint => qr/supabase_storage_admin/);
$k->exec('GRANT supabase_storage_admin TO project_owner');
$r = $owner->('SELECT kessel.setup($${storage}$$)');
is($r->{state}, '', 'a member of its owner sets up') or diag($r->{err});
is($k->exec("SELECT object FROM before EXCEPT SELECT object FROM catalog_snapshot() AS object", db => 'supabase'), '', 'and changes nothing that is there');
is($k->run("SET ROLE authenticated; SELECT put_theme_css('dark', 'a {}')", db => 'supabase', user => 'authenticator', sub => $admin)->{state}, '', 'an administrator stores CSS');
ok_run($k->run("SET ROLE anon; SELECT get_theme_css('dark'), count(*) FROM storage.list_objects('themes')", db => 'supabase', user => 'authenticator'), 'a {}|1', 'that everybody reads');
is($k->run("SET ROLE authenticated; SELECT put_theme_css('dark', 'b {}')", db => 'supabase', user => 'authenticator', sub => '5e1f0000-0000-4000-8000-00000000beef')->{state}, '42501', 'no other user does');
is($k->run("UPDATE storage.objects SET version = 'theirs', metadata = '{\"size\": 9}'", db => 'supabase', user => 'supabase_storage_admin')->{state}, '', 'Storage overwrites it');
is($k->exec('SELECT count(*) FROM infra.object_contents', db => 'supabase'), '0', 'and ours is gone');
is($k->run("SET ROLE anon; SELECT get_theme_css('dark')", db => 'supabase', user => 'authenticator')->{state}, '55000', 'which is not hidden');
$k->exec("DELETE FROM storage.objects; SELECT 1", db => 'supabase');
is($k->run("SET ROLE service_role; SELECT put_theme_css('dark', 'a {}')", db => 'supabase', user => 'authenticator')->{state}, '', 'once more');
is($owner->("SELECT kessel.teardown('storage', drop_data => true)")->{state}, '', 'taken back');
is($k->exec("SELECT object FROM catalog_snapshot() AS object EXCEPT SELECT object FROM before ORDER BY 1", db => 'supabase'), '', 'nothing is left');
is($k->exec("SELECT object FROM before EXCEPT SELECT object FROM catalog_snapshot() AS object ORDER BY 1; SELECT count(*) FROM storage.buckets", db => 'supabase'), '0', 'and nothing of Supabase\'s is gone');

done_testing();

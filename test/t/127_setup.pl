# Setting up and taking back where pgTAP does not get to: by a role that lacks
# privileges, among odd settings, event triggers and default privileges; killed in
# the middle; beside others; and what a restored dump says of itself.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $k = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\nrestart_after_crash = on\nallow_in_place_tablespaces = on\n");
my $node = $k->node;
my $r;

sub database
{
    my ($name) = @_;
    $k->exec("CREATE DATABASE $name", db => 'postgres');
    $k->exec('CREATE EXTENSION kessel_router CASCADE', db => $name);
    return;
}

# All that setup() says is drift; nothing: ''.
sub drift { return $k->exec('SELECT d FROM kessel.setup_status() s, unnest(s.drift) d ORDER BY 1', db => $_[0]); }

# Until a session waits for a lock.
sub waits
{
    my ($s) = @_;
    return $node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $s->pid);
}

# ---------- by whom ----------

$k->exec('CREATE ROLE keeper LOGIN; GRANT kessel_admin TO keeper');
$r = $k->run('SELECT count(*) FROM kessel.setup()', user => 'keeper');
like_error($r, '42501', qr/role "keeper" lacks privileges to set up this database/, 'who lacks privileges is told', hint => qr/Have a superuser run: /);
like($r->{detail}, qr/$_/, "it lacks $_") foreach 'CREATE on database infra', 'CREATE on schema public', 'REFERENCES on table app.tenants', 'REFERENCES on table app.data_sources', 'CREATEROLE,', 'to make service_role', 'ADMIN on role kessel_user';
is($k->exec("SELECT count(*) FROM kessel.applied_migrations; SELECT to_regrole('anon') IS NULL"), "0\nt", 'nothing is made before');
my ($remedy) = $r->{hint} =~ /run: (.*)\./;
$k->exec($remedy);
$r = $k->run('SELECT count(*) > 20 FROM kessel.setup()', user => 'keeper');
is("$r->{state}$r->{out}", 't', 'with what the hint says it works') or diag($r->{err});
is($k->exec("SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace IN ('infra'::regnamespace, 'auth'::regnamespace, 'storage'::regnamespace)"), 'keeper', 'as that role');
is(drift('infra'), '', 'and is as it was made');
is($k->run('SELECT count(*) FROM kessel.setup_drift()', user => 'keeper')->{out}, '0', 'says that role, too');

# What is Supabase's.
database('supabase');
$k->exec('\i test/lib/supabase_shape.sql', db => 'supabase');
$k->exec('REVOKE ALL ON auth.users FROM project_owner; GRANT kessel_admin TO project_owner; REVOKE kessel_user FROM authenticated', db => 'supabase');
$r = $k->run('SELECT kessel.setup()', db => 'supabase', user => 'project_owner');
is($r->{state}, '42501', 'beside Supabase');
like($r->{detail}, qr/\Q$_\E/, "it lacks $_") foreach 'SELECT on table auth.users', 'REFERENCES on table auth.users', 'TRIGGER on table auth.users', 'USAGE with grant option on schema app', 'ownership on table storage.objects',
    'EXECUTE with grant option on function app.custom_access_token_hook(jsonb)', 'CREATE on schema storage';
($remedy) = $r->{hint} =~ /run: (.*)\./;
$k->exec($remedy, db => 'supabase');
$r = $k->run('SELECT count(*) > 20 FROM kessel.setup()', db => 'supabase', user => 'project_owner');
is("$r->{state}$r->{out}", 't', 'with that it works, too') or diag($r->{err});
is(drift('supabase'), '', 'as it was made');
$k->exec('ALTER TABLE auth.users DISABLE TRIGGER kessel_new_user; DROP POLICY kessel_themes_read ON storage.objects; GRANT ALL ON auth.users TO anon', db => 'supabase');
is(drift('supabase'), "different trigger auth.users.kessel_new_user\nmissing policy storage.objects.kessel_themes_read", 'what is not is told, of what is not Supabase\'s');
is($k->run("SELECT count(*) > 20 FROM kessel.teardown('core', cascade => true, drop_data => true)", db => 'supabase', user => 'project_owner')->{state}, '42704', 'and is missed when it is taken back');
$k->exec($k->exec("SELECT string_agg(mend, E';\n' ORDER BY step) FROM kessel.setup_drift()", db => 'supabase'), db => 'supabase');
is(drift('supabase'), '', 'a superuser mends it');
is($k->exec("SELECT relowner::regrole, tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE tgname = 'kessel_new_user'", db => 'supabase'), 'supabase_auth_admin|O', 'the trigger on the other one\'s table, too');
$r = $k->run("SELECT count(*) > 20 FROM kessel.teardown('core', cascade => true, drop_data => true)", db => 'supabase', user => 'project_owner');
is("$r->{state}$r->{out}", 't', 'and it is taken back, by who owns neither auth.users') or diag($r->{err});

# ---------- said again ----------

$k->exec('DROP TABLE public.module_role_access');
$r = $k->run('SELECT count(*) FROM kessel.setup()', user => 'keeper');
is($r->{out}, '0', 'a second setup() does not mend');
like($r->{err}, qr/WARNING: .*what kessel\.setup\(\) has made is not as it was\nDETAIL: +missing table public\.module_role_access\nHINT: .*kessel\.setup_drift\(\)/, 'but says what is to be mended');
is($k->exec("SELECT mend IS NULL, note FROM kessel.setup_drift() WHERE kind = 'table'"), 't|To be mended in a session of role "keeper", or of one that may become it: in a superuser\'s, functions of its defaults, checks and indexes could take a superuser\'s rights.', 'not by a superuser');
$r = $k->run($k->run("SELECT string_agg(mend, E';\n' ORDER BY step) FROM kessel.setup_drift()", user => 'keeper')->{out}, user => 'keeper');
is($r->{state} . drift('infra'), '', 'mended') or diag($r->{err});
is($k->exec("SELECT relowner::regrole FROM pg_class WHERE oid = 'public.module_role_access'::regclass"), 'keeper', 'it belongs to whom it did');
unlike($k->run('SELECT kessel.setup()', user => 'keeper')->{err}, qr/WARNING/, 'no more is said');

# ---------- odd settings ----------

my @settings = ("search_path = 'nowhere, pg_temp'", 'quote_all_identifiers = on', 'standard_conforming_strings = off', 'check_function_bodies = off', "DateStyle = 'German, DMY'",
    "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'", 'extra_float_digits = -15', "bytea_output = 'escape'", "xmloption = 'document'", 'row_security = off', 'transform_null_equals = on',
    'array_nulls = off', "default_transaction_isolation = 'serializable'", "default_table_access_method = 'odd_heap'", "default_tablespace = 'odd'", "plpgsql.extra_errors = 'all'",
    "plpgsql.variable_conflict = 'use_variable'", 'jit_above_cost = 0', 'enable_hashjoin = off', "lo_compat_privileges = on");
database('odd');
$k->exec("CREATE TABLESPACE odd LOCATION ''", db => 'odd');
$k->exec(<<'SQL', db => 'odd');
CREATE ACCESS METHOD odd_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE ROLE reporting;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reporting;
CREATE SCHEMA log;
CREATE TABLE log.commands (tag text);
CREATE FUNCTION log.command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log.commands VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER made ON ddl_command_end EXECUTE FUNCTION log.command();
CREATE EVENT TRIGGER gone ON sql_drop EXECUTE FUNCTION log.command();
SQL
my $set = join('', map { "SET $_; " } @settings);
$r = $k->run("$set SELECT count(*) > 20 FROM kessel.setup()", db => 'odd');
is("$r->{state}$r->{out}", 't', 'set up among odd settings') or diag($r->{err});
is($k->exec("SELECT count(*) > 100 FROM log.commands WHERE tag IN ('CREATE TABLE', 'CREATE FUNCTION')", db => 'odd'), 't', 'and event triggers');
is($k->exec("SELECT has_table_privilege('reporting', 'profiles', 'SELECT')", db => 'odd'), 't', 'what a database gives to others by default is given');
is(drift('odd'), '', 'it is as it was made');
is($k->exec("$set SELECT d FROM kessel.setup_status() s, unnest(s.drift) d", db => 'odd'), '', 'among odd settings as well');
# Tables' access method and the privileges of reporting aside.
my $definitions = q{SELECT schema_name, kind, path, definition FROM kessel.setup_objects WHERE path[1] <> '=reporting' AND kind <> 'owner' AND path[1] <> '@owner' ORDER BY 1, 2, 3};
(my $there = $k->exec($definitions, db => 'odd')) =~ s/ USING odd_heap//g;
database('plain');
is($k->run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM kessel.setup(); COMMIT", db => 'plain')->{state}, '', 'in a serializable transaction');
is($there, $k->exec($definitions, db => 'plain'), 'what is made is the same');
is(drift('plain'), '', 'and as it was made');

like_error($k->run("BEGIN READ ONLY; SELECT * FROM kessel.teardown('core', cascade => true)", db => 'plain'), '25006', qr/read-only transaction/, 'a read-only transaction takes nothing back');
ok_run($k->run("BEGIN READ ONLY; SELECT count(*) FROM kessel.setup_status(); SELECT count(*) FROM kessel.setup_drift(); COMMIT", db => 'plain'), "6\n0", 'but tells');
is($k->run("$set SELECT count(*) FROM kessel.teardown('core', cascade => true)", db => 'odd')->{state}, '', 'taken back among odd settings');
is($k->exec("SELECT count(*) > 50 FROM log.commands WHERE tag LIKE 'DROP%'", db => 'odd'), 't', 'before event triggers');
is($k->exec("SELECT to_regnamespace('infra') IS NULL, count(*) FROM kessel.setup_objects", db => 'odd'), 't|0', 'and gone');
$k->exec("CREATE FUNCTION log.no_views() RETURNS event_trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'no views here'; END \$\$; CREATE EVENT TRIGGER no_views ON ddl_command_start WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION log.no_views()", db => 'odd');
$r = $k->run("SELECT kessel.setup()", db => 'odd');
like_error($r, 'P0001', qr/no views here/, 'an event trigger that refuses');
like($r->{err}, qr/of up script of migration "0011_data_source_manager" of blueprint "core"/, 'says where');
is($k->exec("SELECT to_regnamespace('infra') IS NULL, count(*) FROM kessel.applied_migrations; SELECT count(*) FROM kessel.setup_objects", db => 'odd'), "t|0\n0", 'nothing is half done');
like_error($k->run("BEGIN READ ONLY; SELECT * FROM kessel.setup()", db => 'odd'), '25006', qr/read-only transaction/, 'nor made in a read-only transaction');

# ---------- dump and restore ----------

$k->exec("INSERT INTO auth.users (email) VALUES ('a\@example.com')", db => 'plain');
my $catalogue = 'SELECT s FROM kessel.setup_status() s; SELECT o.schema_name, o.kind, o.path, o.definition, o.rows FROM kessel.setup_objects o ORDER BY 1, 2, 3';
my $before = $k->exec($catalogue, db => 'plain');
foreach my $format (qw(custom plain))
{
    my $file = "$dir/dump.$format";
    my $name = "restored_$format";
    my $connstr = $node->connstr($name) . ' user=postgres';
    $node->command_ok([ 'pg_dump', '-U', 'postgres', "--format=$format", "--file=$file", $node->connstr('plain') ], "dump, $format");
    $k->exec("CREATE DATABASE $name", db => 'postgres');
    $node->command_ok([ $format eq 'custom' ? ('pg_restore', '--exit-on-error', '-d', $connstr, $file) : ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $connstr) ], 'restore');
    is($k->exec($catalogue, db => $name), $before, 'it is set up, and as it was made');
    is($k->exec("SELECT count(*) FROM kessel.setup_objects WHERE server = kessel._setup_server()", db => $name), '0', 'definitions were recorded elsewhere');
    is($k->exec('SELECT count(*) FROM kessel.setup()', db => $name), '0', 'there is nothing to set up');
    is($k->exec("SELECT count(*) FROM kessel.setup_objects WHERE server <> kessel._setup_server()", db => $name), '0', 'they are known here from then on');
    is(drift($name), '', 'and are the same');
    $k->exec('DROP VIEW public.tenants; ALTER POLICY user_reads ON roles USING (is_system)', db => $name);
    is(drift($name), "different policy public.roles.user_reads\nmissing view public.tenants", 'what changes there is told');
    $k->exec($k->exec("SELECT string_agg(mend, E';\n' ORDER BY step) FROM kessel.setup_drift()", db => $name), db => $name);
    is(drift($name), '', 'and mended');
    $r = $k->run("SELECT count(*) FROM kessel.teardown('core', cascade => true)", db => $name);
    like_error($r, '55006', qr/have rows/, 'rows are known there');
    like($r->{detail}, qr/: auth\.users: 1, public\.profiles: 1\.$/, 'which have come since setup()');
    is($k->run("SELECT count(*) FROM kessel.teardown('core', cascade => true, drop_data => true)", db => $name)->{out}, '22', 'taken back');
}

# ---------- cut off ----------

$k->exec("SELECT kessel.add_blueprint('slow', applies_to => 'infra', requires => '{core}'), kessel.add_migration('slow', '0001_a', 'CREATE TABLE public.slow (i int); SELECT pg_advisory_xact_lock(7)', 'DROP TABLE public.slow; SELECT pg_advisory_xact_lock(8)')");
$k->exec("SELECT kessel.add_migration('slow', '0002_b', 'CREATE TABLE public.slower (i int)', 'DROP TABLE public.slower')");
my $applied = "SELECT count(*) FROM kessel.applied_migrations WHERE blueprint = 'slow'; SELECT count(*) FROM kessel.setup_objects WHERE blueprint = 'slow'; SELECT to_regclass('public.slow') IS NOT NULL, to_regclass('public.slower') IS NOT NULL";
{
    my ($one, $two, $other) = ($k->session(user => 'keeper'), $k->session(user => 'keeper'), $k->session);

    # Others make tables meanwhile.
    $k->exec("UPDATE kessel.migrations SET author = 'keeper' WHERE blueprint = 'slow'");
    $other->run('SELECT pg_advisory_lock(7)');
    $one->start("SELECT count(*) FROM kessel.setup('{slow}')");
    ok(waits($one), 'in the middle of a setup');
    $other->run('CREATE TABLE public.others (i int)');
    $two->start("SELECT count(*) FROM kessel.teardown('slow')");
    ok(waits($two), 'who would take it back waits');
    $other->run('SELECT pg_advisory_unlock_all()');
    ok_run($one->finish, '2', 'it is done');
    ok_run($two->finish, '2', 'and taken back then');
    $one->run("SELECT kessel.setup('{slow}')");
    is($k->exec("SELECT string_agg(path[1], ' ' ORDER BY path[1]) FROM kessel.setup_objects WHERE kind = 'table' AND path[1] IN ('slow', 'slower', 'others')"), 'slow slower', 'what others have made is not recorded');

    # Somebody writes.
    $other->run('BEGIN; INSERT INTO public.slow VALUES (1)');
    $two->start("SELECT count(*) FROM kessel.teardown('slow')");
    ok(waits($two), 'a teardown waits for who writes');
    $other->run('COMMIT');
    like_error($two->finish, '55006', qr/have rows/, 'and finds the row');
    $k->exec('DELETE FROM public.slow');

    my $whole = $k->exec($applied);
    $other->run('SELECT pg_advisory_lock(8)');
    $two->start("SELECT kessel.teardown('slow')");
    ok(waits($two), 'in the middle of a teardown');
    kill 'KILL', $two->pid;
    like($two->finish->{message}, qr/has ended|lost|closed/, 'it is killed');
    ok($node->poll_query_until('infra', 'SELECT true'), 'the server is back');
    is($k->exec($applied), $whole, 'nothing is taken back');
    $_->quit foreach $one, $two, $other;
}
{
    my ($one, $other) = ($k->session(user => 'keeper'), $k->session);

    is($one->run("SELECT count(*) FROM kessel.teardown('slow')")->{out}, '2', 'it can be');
    my $none = $k->exec($applied);
    $other->run('SELECT pg_advisory_lock(7)');
    $one->start("SELECT kessel.setup('{slow}')");
    ok(waits($one), 'in the middle of a setup');
    $node->stop('immediate');
    $one->finish;
    $node->start;
    is($k->exec($applied), $none, 'nothing of it is there after a crash');
    is(drift('infra'), '', 'and what was there is as it was');
    is($k->run("SELECT count(*) FROM kessel.setup('{slow}')", user => 'keeper')->{out}, '2', 'it can be set up');
    is($k->run("SELECT count(*) FROM kessel.teardown('core', cascade => true)", user => 'keeper')->{out}, '24', 'and all of it be taken back');
    is($k->exec("SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname IN ('auth', 'storage', 'infra')"), '', 'nothing is left');
    $_->quit foreach $one, $other;
}

done_testing();

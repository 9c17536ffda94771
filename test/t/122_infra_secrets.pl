# Users' passwords in the blueprints apps and ai_providers where pgTAP does not get
# to: set up by a role that is no superuser; read by Node's own crypto; recorded by
# the vault; two who write at once; dump and restore; and nowhere in the clear.
use strict;
use warnings;

use lib 'test/lib';
use File::Find;
use IPC::Run ();
use JSON::PP;
use KesselClient;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = 'kr-apps-mark';
my $app_key = '8899aabbccddeeff0011223344556677' x 2;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => <<"CONF");
shared_preload_libraries = 'pg_stat_statements, auto_explain, kessel_router'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
auto_explain.log_analyze = on
pg_stat_statements.track = all
kessel.root_key_file = '$key_file'
log_statement = all
log_min_duration_statement = 0
log_error_verbosity = verbose
log_parameter_max_length_on_error = -1
CONF
my $node = $k->node;
my %user = map { $_ => sprintf '5e1f0000-0000-4000-8000-00000000%04x', ord } qw(a b);
my $r;

# ---------- set up by who is no superuser ----------

$k->exec('CREATE EXTENSION pg_stat_statements; CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS; CREATE ROLE owner LOGIN CREATEROLE; CREATE ROLE api LOGIN NOINHERIT');
$k->exec('GRANT kessel_admin TO owner; GRANT kessel_user, kessel_service TO owner WITH ADMIN OPTION; GRANT CREATE ON DATABASE infra TO owner; GRANT CREATE ON SCHEMA public TO owner; GRANT USAGE ON SCHEMA app TO owner; GRANT REFERENCES ON app.tenants, app.data_sources TO owner; GRANT anon, authenticated, service_role TO api');
$r = $k->run('SELECT * FROM kessel.setup($${apps,ai_providers}$$)', user => 'owner');
is($r->{state}, '', 'set up by a role that is no superuser') or diag($r->{err});
$k->run("INSERT INTO auth.users (id, email) VALUES ('$user{a}', 'a\@example.com'), ('$user{b}', 'b\@example.com')", user => 'owner');
ok_run($k->run("SELECT vault.grant_secret(vault.create_secret('$app_key', 'app key'), 'service_role', 'use')", user => 'owner'), '', 'the app\'s key');
my $fields = '[{"key": "host", "label": "Host", "type": "text", "required": true}, {"key": "password", "label": "Password", "type": "password", "required": true}]';
foreach my $app ([ 'mail', 'vault', 'NULL' ], [ 'own', 'aes_gcm', "'app key'" ])
{
    is($k->run("SET ROLE service_role; INSERT INTO app_registry (id, name, fields, password_storage, key_secret) VALUES ('$app->[0]', 'x', '$fields', '$app->[1]', $app->[2])", user => 'api')->{state}, '', "the service registers an app, $app->[1]");
}

# ---------- as supabase-js writes through PostgREST ----------

my $api = KesselClient->new($node, 'infra', user => 'api');
sub request
{
    my ($mode, $role, $who, $sql, @params) = @_;
    $api->query("BEGIN ISOLATION LEVEL READ COMMITTED $mode");
    my $r = $api->call("select set_config('search_path', \$1, true), set_config('role', \$2, true), set_config('request.jwt.claims', \$3, true)", '"public"', $role, $who ? "{\"sub\": \"$user{$who}\"}" : '{}');
    $r = $api->call($sql, @params) if $r->{state} eq '';
    $api->query($r->{state} eq '' ? 'COMMIT' : 'ROLLBACK');
    return $r;
}
my $upsert = q{WITH pgrst_source AS (INSERT INTO "public"."app_installations"("user_id", "app_id", "config") SELECT "pgrst_body"."user_id", "pgrst_body"."app_id", "pgrst_body"."config" FROM (SELECT $1::json AS json_data) pgrst_payload, LATERAL (SELECT "user_id", "app_id", "config" FROM json_to_record(pgrst_payload.json_data) AS _("user_id" uuid, "app_id" text, "config" jsonb)) pgrst_body ON CONFLICT("user_id", "app_id") DO UPDATE SET "user_id" = EXCLUDED."user_id", "app_id" = EXCLUDED."app_id", "config" = EXCLUDED."config" RETURNING "public"."app_installations".*) SELECT coalesce(json_agg(_postgrest_t) -> 0 ->> 'config', '') FROM (SELECT * FROM pgrst_source) _postgrest_t};
my $body = sub { my ($who, $app, $password) = @_; return encode_json({ user_id => $user{$who}, app_id => $app, config => { host => 'h', password => $password } }) };
foreach my $app (qw(mail own))
{
    foreach my $n (1, 2)
    {
        $r = request('READ WRITE', 'authenticated', 'a', $upsert, $body->('a', $app, "$mark-$app-$n"));
        is("$r->{state} " . ($r->{rows}[0][0] // ''), ' {"host": "h", "password": "********"}', "upsert $n, $app");
        $r = request('READ WRITE', 'service_role', undef, q{SELECT "public"."get_app_config"($1, $2) ->> 'password'}, $user{a}, $app);
        is($r->{rows}[0][0], "$mark-$app-$n", 'the service reads it');
    }
    is(request('READ WRITE', 'authenticated', 'b', $upsert, $body->('a', $app, "$mark-other"))->{state}, '42501', 'not for another user');
    is(request('READ WRITE', 'authenticated', 'b', $upsert, $body->('b', $app, ''))->{state}, '22023', 'nor without a password');
}
is(request('READ WRITE', 'authenticated', 'a', 'SELECT "public"."set_ai_provider_key"($1, $2)', 'openai', "$mark-ai-1")->{state}, '', 'a key of a provider');
is(request('READ WRITE', 'authenticated', 'a', 'SELECT "public"."set_ai_provider_key"($1, $2)', 'openai', "$mark-ai-2")->{state}, '', 'another one');
is(request('READ ONLY', 'authenticated', 'a', 'SELECT masked_key FROM "public"."list_ai_provider_keys"()')->{rows}[0][0], '********', 'is listed, and not shown') if length("$mark-ai-2") < 16;
is(request('READ ONLY', 'service_role', undef, 'SELECT "public"."get_ai_provider_key"($1, $2)', $user{a}, 'openai')->{rows}[0][0], "$mark-ai-2", 'the service reads it, in a read-only transaction, too');

# Who has read it: the vault's own record.
my $secret = $k->exec('SELECT secret_id FROM ai_provider_keys');
ok($node->poll_query_until('infra', "SELECT count(*) = 1 FROM app.audit_log WHERE secret_id = '$secret' AND purpose = 'reveal' AND ok AND role_name = 'service_role' AND login_role = 'api'"), 'the vault has recorded who read it');

# ---------- Node's own crypto ----------

open(my $fh, '>', "$dir/open.js") or die;
print $fh <<'JS';
const crypto = require('crypto');
const [iv, tag, ciphertext] = process.argv[2].split(':').map((part) => Buffer.from(part, 'hex'));
const decipher = crypto.createDecipheriv('aes-256-gcm', Buffer.from(process.env.ENCRYPTION_KEY, 'hex'), iv);
decipher.setAuthTag(tag);
console.log(Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('utf8'));
JS
close $fh;
$ENV{ENCRYPTION_KEY} = $app_key;
my $sealed = request('READ ONLY', 'service_role', undef, q{SELECT "config" ->> 'password' FROM "public"."app_configs" WHERE "app_id" = $1}, 'own')->{rows}[0][0];
like($sealed, qr/^[0-9a-f]{24}:[0-9a-f]{32}:[0-9a-f]+$/, 'the service gets iv:authTag:ciphertext');
my ($out, $err) = ('', '');
ok(IPC::Run::run([ 'node', "$dir/open.js", $sealed ], '<', \undef, '>', \$out, '2>', \$err), 'Node opens it') or diag($err);
is($out, "$mark-own-2\n", 'with the app\'s key');

# ---------- two at once ----------

{
    my ($one, $two) = ($k->session(user => 'api', sub => $user{b}), $k->session(user => 'api', sub => $user{b}));
    my $write = sub { return "BEGIN; SET LOCAL ROLE authenticated; INSERT INTO app_installations (app_id, config) VALUES ('mail', '{\"host\": \"h\", \"password\": \"$mark-$_[0]\"}') ON CONFLICT (user_id, app_id) DO UPDATE SET config = excluded.config" };
    $one->run($write->('one'));
    $two->start($write->('two'));
    ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'two install at once');
    $one->run('COMMIT');
    is($two->finish->{state}, '', 'the second one goes on');
    $two->run('COMMIT');
    is($k->exec("SELECT get_app_config('$user{b}', 'mail') ->> 'password'"), "$mark-two", 'and its password is there');
    is($k->exec("SELECT count(*) FROM vault.secrets WHERE tags ->> 'app' = 'mail'"), '2', 'and no other one');
    # A mask whose password goes while it is written.
    $one->run('BEGIN; SET LOCAL ROLE authenticated; DELETE FROM app_installations');
    $two->start('BEGIN; SET LOCAL ROLE authenticated; INSERT INTO app_installations (app_id, config) VALUES ($$mail$$, $${"host": "h", "password": "********"}$$)');
    ok($node->poll_query_until('infra', 'SELECT wait_event_type = $$Lock$$ FROM pg_stat_activity WHERE pid = ' . $two->pid), 'one goes, and is installed again');
    $one->run('COMMIT');
    is($two->finish->{state}, '40001', 'a mask stands for no password that is gone');
    $two->run('ROLLBACK');
    # Taken back to a savepoint, and set anew.
    is($one->run("BEGIN; SET LOCAL ROLE authenticated; INSERT INTO app_installations (app_id) VALUES ('own'); SAVEPOINT s; UPDATE app_installations SET config = '{\"host\": \"h\", \"password\": \"$mark-back\"}'; ROLLBACK TO s")->{state}, '', 'a password is taken back');
    is($one->run('UPDATE app_installations SET config = $${"host": "h", "password": "********"}$$')->{state}, '22023', 'and no mask stands for it');
    $one->run("ROLLBACK TO s; UPDATE app_installations SET config = '{\"host\": \"h\", \"password\": \"$mark-forth\"}'; SAVEPOINT t; UPDATE app_installations SET config = '{\"host\": \"h\", \"password\": \"$mark-back\"}'; ROLLBACK TO t; COMMIT");
    is($k->exec("SELECT get_app_config('$user{b}', 'own') ->> 'password'"), "$mark-forth", 'the one that was not taken back');
    is($k->exec("SELECT count(*) FROM vault.secrets WHERE tags ->> 'app' = 'mail'"), '1', 'none is left over');
    $_->quit foreach $one, $two;
}

# ---------- other ways to say it ----------

{
    my $config = sub { return "{\"host\": \"h\", \"password\": \"$mark-$_[0]\"}" };
    my $s = $k->session(user => 'api', sub => $user{b});
    $s->run('SET ROLE authenticated; PREPARE config (jsonb) AS UPDATE app_installations SET config = $1 WHERE app_id = $$mail$$; PREPARE "key" (text) AS SELECT set_ai_provider_key($$openai$$, $1)');
    $s->run("INSERT INTO app_installations (app_id, config) VALUES ('mail', '@{[ $config->('literal') ]}') ON CONFLICT DO NOTHING");
    foreach my $case (
        [ '', "EXECUTE config('@{[ $config->('execute') ]}')" ], [ '', "EXPLAIN EXECUTE config('@{[ $config->('explain') ]}')" ], [ '', "EXPLAIN (ANALYZE, VERBOSE)\nExecute Config('@{[ $config->('analyze') ]}')" ],
        [ '22P02', "EXECUTE config('@{[ $config->('syntax') ]},,')" ], [ '22P02', "EXPLAIN EXECUTE config('@{[ $config->('explained syntax') ]},,')" ], [ '22023', "EXECUTE config('{\"password\": \"$mark-invalid\"}')" ],
        [ '', "EXECUTE \"key\"('$mark-of-a-provider')" ], [ '', "EXPLAIN ANALYZE EXECUTE \"key\"('$mark-of-a-provider')" ], [ '22023', "EXECUTE key('$mark with blanks')" ],
        [ '', "DO \$\$ BEGIN UPDATE app_installations SET config = '@{[ $config->('do') ]}'; END \$\$" ], [ '22P02', "DO \$\$ BEGIN UPDATE app_installations SET config = '@{[ $config->('do') ]},,'; END \$\$" ],
        [ '', "MERGE INTO app_installations i USING (VALUES ('@{[ $config->('merge') ]}'::jsonb)) v(c) ON i.app_id = 'mail' WHEN MATCHED THEN UPDATE SET config = v.c" ],
        [ '57014', "SET statement_timeout = '100ms'; UPDATE app_installations SET config = '@{[ $config->('timeout') ]}' WHERE (SELECT count(*) FROM generate_series(1, 1000000000)) > 0" ])
    {
        is($s->run($case->[1])->{state}, $case->[0], 'kept out of the log: ' . ($case->[1] =~ s/\Q$mark\E/.../r));
    }
    foreach my $case ([ '', $config->('copied') ], [ '22P02', $config->('copied') . ',,' ], [ '22023', $config->('copied') =~ s/host/nosuch/r ])
    {
        $k->exec("DELETE FROM app_installations WHERE user_id = '$user{b}'");
        is($k->run("SET ROLE service_role; COPY app_installations (user_id, app_id, config) FROM STDIN;\n$user{b}\tmail\t$case->[1]\n\\.\n", user => 'api')->{state}, $case->[0], 'COPY ' . ($case->[0] || 'as it is to be'));
    }
    $s->quit;
}

# ---------- dump and restore ----------

{
    my $file = "$dir/dump";
    $node->command_ok([ 'pg_dump', '-U', 'postgres', '--format=custom', "--file=$file", $node->connstr('infra') ], 'dump');
    $k->exec('CREATE DATABASE restored', db => 'postgres');
    $node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored') . ' user=postgres', $file ], 'restore');
    my $r = $k->run("SET ROLE service_role; SELECT get_app_config('$user{a}', 'mail') ->> 'password', get_app_config('$user{a}', 'own') ->> 'password', get_ai_provider_key('$user{a}', 'openai')", db => 'restored', user => 'api');
    ok_run($r, "$mark-mail-2|$mark-own-2|$mark-ai-2", 'all of them open');
    is($k->run("SELECT kessel.teardown('apps', drop_data => true), kessel.teardown('ai_providers', drop_data => true)", db => 'restored', user => 'owner')->{state}, '', 'and can be taken back');
    is($k->exec("SELECT string_agg(name, ' '), count(*) FROM vault.secrets", db => 'restored'), 'app key|1', 'with what is in the vault');
}

# ---------- a user goes ----------

is($k->run("DELETE FROM auth.users WHERE id = '$user{a}'", user => 'owner')->{state}, '', 'a user is deleted');
is($k->exec("SELECT count(*) FROM vault.secrets WHERE tags ->> 'user' = '$user{a}'"), '0', 'and so are the secrets');

# ---------- nowhere in the clear ----------

unlike($k->exec('SELECT * FROM pg_stat_activity'), qr/$mark/, 'not in pg_stat_activity');
is($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%kr-apps_mark%'"), '0', 'nor in pg_stat_statements');
$api->quit;
$k->exec("CREATE TABLE public.control AS SELECT 'kr-apps' || '-control' AS c; SELECT 'kr-apps-control'");
$k->exec('CHECKPOINT');
my %found;
find({ no_chdir => 1, wanted => sub {
    return unless -f $_;
    my $content = slurp_file($_);
    $found{control}++ if index($content, 'kr-apps-control') >= 0;
    push @{ $found{mark} }, $_ if index($content, $mark) >= 0;
} }, $node->data_dir, $node->logfile);
cmp_ok($found{control}, '>=', 2, 'the search finds what is there');
is(join(' ', @{ $found{mark} || [] }), '', 'no password is in data files, WAL and log');

done_testing();

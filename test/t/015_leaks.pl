# A secret in the clear goes through every function that takes or gives one, by
# every way of calling it and into every kind of error, in a server that logs all
# it can. Then it is looked for: in the data directory, WAL, logs, statistics,
# dumps, a logical decoding slot, and the memory of the backends.
#
# A function that has an argument of text, bytea or json must stand in %secret or
# in %plain, or this test fails: say there how it is called, or why none of its
# arguments is a secret.
use strict;
use warnings;

use lib 'test/lib';
use Fcntl ();
use File::Find;
use IPC::Run ();
use KesselClient;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => <<"CONF");
shared_preload_libraries = 'pg_stat_statements, auto_explain, kessel_router'
pg_stat_statements.track = all
kessel.root_key_file = '$key_file'
wal_level = logical
log_destination = 'stderr,csvlog,jsonlog'
logging_collector = on
log_statement = 'all'
log_min_duration_statement = 0
log_min_messages = debug1
log_min_error_statement = debug1
log_error_verbosity = verbose
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
auto_explain.log_min_duration = 0
auto_explain.log_verbose = on
auto_explain.log_analyze = on
auto_explain.log_nested_statements = on
debug_print_parse = on
debug_print_rewritten = on
debug_print_plan = on
CONF
my $node = $k->node;
my $data = $node->data_dir;
$k->exec('CREATE EXTENSION pg_stat_statements');
$k->exec('SELECT kessel.setup()');
my $d = $k->data_cluster('solo');
$k->crm_database($d, 'one');
$k->data_source($d, name => 'one');
$k->exec("SELECT kessel.create_tenant('one', data_source => 'one'); SELECT kessel.import_tables('one', 'public')");
$k->exec("SELECT vault.create_secret('x', 'taken', new_tags => '{\"env\": true}'); SELECT vault.create_secret(repeat('ab', 32), 'aes')");
$k->exec("SELECT pg_create_logical_replication_slot('leaks', 'test_decoding')");
$k->exec("INSERT INTO auth.users (id) VALUES ('5e1f0000-0000-4000-8000-00000000a11a')");
$k->exec("INSERT INTO public.app_registry (id, name, fields, password_storage, key_secret) SELECT id, id, '[{\"key\": \"host\", \"label\": \"H\", \"type\": \"text\"}, {\"key\": \"password\", \"label\": \"P\", \"type\": \"password\", \"pattern\": \"kr-.*\"}]', storage, secret FROM (VALUES ('mail', 'vault', NULL), ('own', 'aes_gcm', 'aes')) v(id, storage, secret)");
my $aes = '0' x 24 . ':' . '0' x 32 . ':' . '00';

# The calls that carry a secret. {mark} is the secret, {name} a new name; both
# are parameters or literals, as the call is made. The first call succeeds. Then
# what a call fails with: SQLSTATE => call.
my %secret = (
    'vault.create_secret' => [ 'vault.create_secret({mark}, {name})',
        '23505' => 'vault.create_secret({mark}, {taken})',
        '22023' => 'vault.create_secret({mark}, new_key_id => pg_catalog.gen_random_uuid())',
        '54000' => 'vault.create_secret(pg_catalog.repeat({mark}, 100000))',
        ''      => 'vault.create_secret(pg_catalog.repeat({mark}, 5000))' ],
    'vault.update_secret' => [ 'vault.update_secret((SELECT id FROM vault.secrets WHERE name = {taken}), {mark})',
        '02000' => 'vault.update_secret(pg_catalog.gen_random_uuid(), {mark})',
        '22004' => 'vault.update_secret(NULL, {mark})' ],
    'kessel.create_data_source' => [ 'kessel.create_data_source({name}, {url})',
        '23505' => "kessel.create_data_source('one', {url})",
        '22023' => 'kessel.create_data_source({name}, {url}, {taken}, {taken})' ],
    'kessel.alter_data_source' => [ "kessel.alter_data_source('one', {same})",
        'KR007' => 'kessel.alter_data_source({name}, {url})',
        '22023' => "kessel.alter_data_source('one', {url}, status => {taken})" ],
    'kessel.set_credential' => [ "kessel.set_credential('one', {taken}, {mark}, 'owner')",
        'KR007' => 'kessel.set_credential({name}, {taken}, {mark})',
        '22023' => "kessel.set_credential('one', {taken}, {mark}, {taken})",
        '22004' => "kessel.set_credential('one', NULL, {mark})" ],
    'vault.seal' => [ "vault.seal({mark}, 'c')",
        '22004' => 'vault.seal({mark}, NULL)',
        'KR001' => "vault.seal({mark}, 'c') FROM (SELECT pg_catalog.set_config('kessel.tenant', '', true) OFFSET 0) AS t" ],
    'vault.encrypt_aes_gcm' => [ "vault.encrypt_aes_gcm({mark}, 'aes')",
        '02000' => 'vault.encrypt_aes_gcm({mark}, {name})',
        '22023' => "vault.encrypt_aes_gcm({mark}, 'aes', {taken})" ],
    'kessel.set_api' => [ "kessel.set_api('one', NULL, {mark})",
        'KR007' => 'kessel.set_api({name}, NULL, {mark})',
        '22023' => "kessel.set_api('one', NULL, {mark}, kind => {taken})" ],
    'public.set_ai_provider_key' => [ "public.set_ai_provider_key('openai', {mark})",
        'P0002' => 'public.set_ai_provider_key({name}, {mark})',
        '22023' => "public.set_ai_provider_key('openai', pg_catalog.repeat({mark}, 100))" ],
    'infra.insert_secret' => [ 'infra.insert_secret({name}, {mark})',
        '23505' => 'infra.insert_secret({taken}, {mark})' ],
    'infra.update_secret' => [ 'infra.update_secret({taken}, {mark})',
        'P0002' => 'infra.update_secret({name}, {mark})' ],
    'public.insert_secret' => [ 'public.insert_secret({name}, {mark})',
        '23505' => 'public.insert_secret({taken}, {mark})',
        '22023' => "public.insert_secret('', {mark})" ],
    'public.update_secret' => [ 'public.update_secret({taken}, {mark})',
        'P0002' => 'public.update_secret({name}, {mark})' ],
);

# Those whose arguments are no secrets. What begins with _ is not for anybody to call.
my %plain = map { $_ => 1 } (
    # names of tenants, roles, data sources, tables; user ids
    map({ "kessel.$_" } qw(activate_member add_member create_tenant deactivate_member disconnect drop_credential drop_data_source drop_tenant
        import_tables install_agent remove_member rename_tenant resume_tenant rotate_credential set_default_data_source suspend_tenant
        test_data_source use_tenant)),
    # statements for tenants, which are logged as any statement is
    map({ "kessel.$_" } qw(fleet_exec fleet_query fleet_rows)),
    # scripts, which are there to be read
    map({ "kessel.$_" } qw(add_blueprint add_migration baseline drift drop_blueprint drop_migration expose migrate plan_migration rollback setup setup_drift teardown unexpose)),
    # options of servers and user mappings, which PostgreSQL itself keeps in the clear
    'kessel.fdw_validator',
    # names and ids of tables, databases, modules and organizations
    map({ "kessel.$_" } qw(client_config discover_tables has_permission)), map({ "infra.$_" } qw(api_key assign_user_to_tenant create_tenant delete_secret database_url has_permission has_table_permission kind_of shown_url my_agents my_organizations period_start)),
    map({ "public.$_" } qw(assign_user_to_tenant create_organization create_tenant delete_secret discover_tables get_table_columns get_tenant_by_slug monitoring_upkeep read_secret)),
    # fields of apps; users and ids of apps and providers; what is sealed
    map({ "infra.$_" } qw(app_fields_problems open_app_installations password_fields)), map({ "public.$_" } qw(get_ai_provider_key get_app_config remove_ai_provider_key)),
    # a configuration, which a trigger hands on: see below
    'infra.app_installations_problems',
    # files, their names, themes
    map({ "infra.$_" } qw(add_content check_mime_type check_object check_object_name public_content public_object set_theme)), 'kessel.set_theme', map({ "public.$_" } qw(get_theme_css put_theme_css)),
    # names and ids of secrets, tenants and roles; conditions; files
    map({ "vault.$_" } qw(grant_secret reveal revoke_secret rotate_tenant_key shred_tenant)),
    # what is sealed already
    map({ "vault.$_" } qw(create_secret_sealed export_tenant import_aes_gcm import_supabase import_tenant open open_jsonb reseal sealed_key_id update_secret_sealed)));

my @there = split /\n/, $k->exec(q{
    SELECT DISTINCT p.pronamespace::regnamespace || '.' || p.proname FROM pg_proc p
    WHERE p.pronamespace IN ('kessel'::regnamespace, 'vault'::regnamespace, 'public'::regnamespace, 'infra'::regnamespace) AND p.prorettype <> 'trigger'::regtype
      AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND e.extname <> 'kessel_router')
      AND (p.proname !~ '^_' OR has_function_privilege('stranger', p.oid, 'EXECUTE'))
      AND p.proargtypes::oid[] && '{text,text[],bytea,json,jsonb,varchar}'::regtype[]::oid[] ORDER BY 1});
cmp_ok(scalar(@there), '>', 20, 'there are functions with arguments that may be secrets');
is(join(' ', grep { !$secret{$_} && !$plain{$_} } @there), '', 'each is in the table of this test');
my %there = map { $_ => 1 } @there;
my @functions = grep { $there{$_} } sort keys %secret;

#
# Calls
#
my ($marks, %label) = (0);
sub new_mark
{
    my ($label) = @_;
    $label{ ++$marks } = $label;
    return sprintf 'kr-leak-%04d', $marks;
}

# The call with parameters, and these; or with literals.
sub render
{
    my ($call, $mark, $literal) = @_;
    my %value = (mark => "$mark-secret", name => sprintf('n%04d', $marks), taken => 'taken', url => "postgresql://u:$mark-secret\@127.0.0.1:1/db",
        same => "postgresql://u:$mark-secret\@127.0.0.1:$d->{port}/tenants");
    my (%number, @params);
    $call =~ s{\{(\w+)\}}{
        if (!$literal && !$number{$1}) { push @params, $value{$1}; $number{$1} = @params }
        $literal ? "'$value{$1}'" : "\$$number{$1}::text" }ge;
    return ($call, @params);
}

my %client;
sub client
{
    my ($user, @settings) = @_;
    my $c = KesselClient->new($node, 'infra', user => $user);
    $c->query($_) foreach "SET kessel.tenant = 'one'", "SET request.jwt.claims = '{\"sub\": \"5e1f0000-0000-4000-8000-00000000a11a\"}'", @settings;
    return $c;
}

sub attempt
{
    my ($c, $how, $call, $state, $label) = @_;
    my $mark = new_mark("$label, $how");
    my ($sql, @params) = render($call, $mark, $how eq 'literal');
    my $r = $how eq 'literal' ? $c->query($sql) : $how eq 'prepared' ? $c->call_prepared($sql, @params) : $c->call($sql, @params);
    like($r->{state}, qr/^(?:$state)\z/, "$label, $how") or diag("$r->{message}\n$sql");
    return;
}

# What is done with a call that would succeed.
my @around = (
    'SELECT %s'                                                     => '',
    'SELECT %s x y'                                                 => '42601',
    'SELECT %s, 1 / (pg_catalog.random() * 0)::integer'             => '22012',
    'SELECT {mark}::uuid, %s'                                       => '22P02',
    'SELECT {mark}::text + 1, %s'                                   => '42883',
    'SELECT nosuch(%s)'                                             => '42883',
    'EXPLAIN (ANALYZE, VERBOSE) SELECT %s'                          => '',
    # 42P16: it returns nothing.
    'CREATE TEMP TABLE t AS SELECT %s'                              => '|42P16',
    'DECLARE c CURSOR WITH HOLD FOR SELECT %s'                      => '');
my @literal = (
    'BEGIN; SELECT %s; ROLLBACK'                                    => '',
    'BEGIN; SELECT %s; SELECT 1 / 0'                                => '22012',
    'DO $do$ BEGIN PERFORM %s; RAISE %m; END $do$'                  => 'P0001',
    'DO $do$ BEGIN PERFORM %s; END $do$'                            => '',
    'PREPARE p AS SELECT %s; EXECUTE p; DEALLOCATE p'               => '',
    'PREPARE p (text) AS SELECT $1, %s; EXPLAIN ANALYZE EXECUTE p({mark}); DEALLOCATE p' => '',
    'COPY (SELECT %s) TO STDOUT'                                    => '');

foreach my $function (@functions)
{
    my ($call, @errors) = @{ $secret{$function} };
    my $c = client('postgres');
    foreach my $how (qw(literal extended prepared))
    {
        my @all = (@around, $how eq 'literal' ? @literal : ());
        while (my ($around, $state) = splice(@all, 0, 2))
        {
            next if $how eq 'prepared' && $around ne 'SELECT %s' && $around !~ /random/;
            next if $how ne 'literal' && $around =~ /^(?:DECLARE|CREATE)/;
            $c->query($_) foreach 'ROLLBACK', 'DROP TABLE IF EXISTS t', 'CLOSE ALL', 'DEALLOCATE ALL';
            # Executed twice, a name would be taken.
            my $one = $how eq 'prepared' && $state eq '' && $call =~ /\{name\}/ ? '23505' : $state;
            attempt($c, $how, sprintf($around =~ s/%m/{mark}/r, $call), $one, "$function: $around");
        }
        $c->query('ROLLBACK');
        my @wrong = @errors;
        while (my ($state, $wrong) = splice(@wrong, 0, 2)) { attempt($c, $how, "SELECT $wrong", $state, "$wrong") }
        attempt($c, $how, 'SELECT ' . $call =~ s/\)$/', {mark}' x 9 . ')'/er, '42883', "$function with too many arguments");
        my $timed = client('postgres', "SET statement_timeout = '100ms'");
        attempt($timed, $how, "SELECT $call, (SELECT count(*) FROM pg_catalog.generate_series(1, 1000000000))", '57014', "$function, cancelled");
        $timed->quit;
        my $stranger = client('stranger');
        attempt($stranger, $how, "SELECT $call", '42501', "$function by a stranger");
        $stranger->quit;
    }
    $c->quit;
}
# Passwords in configurations of apps, which triggers seal.
{
    my $c = client('postgres');
    my $into = "INSERT INTO public.app_installations (user_id, app_id, config) SELECT '5e1f0000-0000-4000-8000-00000000a11a'";
    my $upsert = 'ON CONFLICT (user_id, app_id) DO UPDATE SET config = excluded.config';
    foreach my $app (qw(mail own))
    {
        my @writes = (
            "$into, '$app', pg_catalog.jsonb_build_object('host', 'h', 'password', {mark}::text)" => '',
            "$into, '$app', pg_catalog.jsonb_build_object('host', 'h', 'password', {mark}::text) " => '23505',
            "$into, '$app', pg_catalog.jsonb_build_object('password', {mark}::text) $upsert" => '',
            "$into, '$app', pg_catalog.jsonb_build_object('password', {mark}::text) ON CONFLICT DO NOTHING" => '',
            "UPDATE public.app_installations SET config = config || pg_catalog.jsonb_build_object('password', {mark}::text) WHERE app_id = '$app'" => '',
            "UPDATE public.app_installations SET config = config || pg_catalog.jsonb_build_object('password', 'x' || {mark}::text) WHERE app_id = '$app'" => '22023',
            "UPDATE public.app_installations SET config = config || pg_catalog.jsonb_build_object({mark}::text, 'x') WHERE app_id = '$app'" => '22023',
            "UPDATE public.app_installations SET config = pg_catalog.to_jsonb({mark}::text) WHERE app_id = '$app'" => '22023',
            "UPDATE public.app_installations SET config = {mark}::jsonb WHERE app_id = '$app'" => '22P02',
            "UPDATE public.app_installations SET config = pg_catalog.jsonb_build_object('password', {mark}::text), app_id = NULL WHERE app_id = '$app'" => '23502',
            "$into, '$app', pg_catalog.jsonb_build_object('password', {mark}::text) $upsert, status = 1 / 0" => '22012',
            "WITH w AS ($into, '$app', pg_catalog.jsonb_build_object('password', {mark}::text) $upsert RETURNING config) SELECT 1 / (pg_catalog.random() * 0)::integer FROM w" => '22012',
            "INSERT INTO public.app_installations (user_id, app_id, config) SELECT NULL, '$app', pg_catalog.jsonb_build_object('password', {mark}::text)" => '23502',
            "$into, 'nosuch', pg_catalog.jsonb_build_object('password', {mark}::text)" => '23503');
        foreach my $how (qw(literal extended prepared))
        {
            $c->query("DELETE FROM public.app_installations WHERE app_id = '$app'");
            my @all = @writes;
            while (my ($sql, $state) = splice(@all, 0, 2))
            {
                # Executed twice.
                my $one = $how eq 'prepared' && $state eq '' && $sql !~ /CONFLICT|UPDATE/ ? '23505' : $state;
                attempt($c, $how, $sql, $one, "configuration, $app: " . $sql =~ s/.*00a11a'//r);
            }
        }
    }
    cmp_ok($k->exec("SELECT count(*) FROM public.app_installations i, LATERAL public.get_app_config(i.user_id, i.app_id) c WHERE c ->> 'password' LIKE 'kr-leak-%'"), '==', 2, 'passwords were stored');
    $c->quit;
}
# Without a statement: the function by its number.
{
    my %number = map { split / / } split /\n/, $k->exec(q{SELECT p.proname || ' ' || p.oid FROM pg_proc p WHERE p.oid IN
        ('vault.delete_secret'::regproc, 'kessel.set_credential'::regproc)});
    my $c = client('postgres');
    my @by_number = ([ 'set_credential', '', 'one', 'taken', '{mark}', 'owner' ], [ 'set_credential', 'KR007', 'nosuch', 'taken', '{mark}', 'owner' ],
        [ 'delete_secret', '22P02', '{mark}' ],
        [ 'set_credential', '08P01', '{mark}', '{mark}' ]);
    foreach (@by_number)
    {
        my ($function, $state, @params) = @$_;
        my $mark = new_mark("$function by number, $state");
        my $r = $c->call_number($number{$function}, map { defined $_ && $_ eq '{mark}' ? "$mark-secret" : $_ } @params);
        is($r->{state}, $state, "$function by its number: $state") or diag($r->{message});
    }
    $c->quit;
}
# No key.
rename $key_file, "$key_file.away";
$k->exec('SELECT pg_reload_conf()');
foreach my $function (@functions)
{
    my $c = client('postgres');
    attempt($c, $_, 'SELECT ' . $secret{$function}[0], 'KR010', "$function, sealed") foreach qw(literal extended);
    $c->quit;
}
rename "$key_file.away", $key_file;
$k->exec('SELECT pg_reload_conf()');
cmp_ok($k->exec("SELECT count(*) FROM vault.decrypted_secrets WHERE decrypted_secret LIKE 'kr-leak-%'"), '>', 3, 'secrets were stored');

# What is shown of a call that waits before it reaches the function.
{
    my $lock = client('postgres');
    $lock->query('SELECT pg_catalog.pg_advisory_lock(1)');
    foreach my $how (qw(literal extended prepared))
    {
        my $s = client('postgres');
        my $mark = new_mark("waiting, $how");
        my $sql = "SELECT pg_catalog.pg_advisory_xact_lock(1), vault.create_secret('$mark-secret')";
        $s->start($how eq 'literal' ? (query => $sql) : $how eq 'extended' ? (call => $sql) : (query => "PREPARE w (text) AS SELECT pg_catalog.pg_advisory_xact_lock(1), vault.create_secret(\$1); EXECUTE w('$mark-secret')"));
        ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND pid = " . $s->pid), "a call that waits, $how");
        is($k->exec('SELECT query FROM pg_stat_activity WHERE pid = ' . $s->pid), '<statement with a secret>', 'pg_stat_activity shows a label');
        $k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
        is($s->finish->{state}, '57014', 'cancelled');
        $s->quit;
    }
    $lock->quit;
}

#
# Where they are looked for
#

# What the search must be able to find.
$k->exec("CREATE TABLE public.control (c text, b bytea); ALTER TABLE public.control ALTER c SET STORAGE EXTERNAL; INSERT INTO public.control VALUES ('kr-leak-' || 9000 + 1, convert_to('kr-leak-' || 9000 + 2, 'UTF8'))");
$k->exec("SELECT 'kr-leak-9003'; DO \$\$ BEGIN PERFORM 'kr-leak-9004'; END \$\$");
$k->exec("INSERT INTO public.control (c) SELECT repeat(md5(i::text), 1000) || 'kr-leak-' || 9000 + 5 FROM generate_series(1, 2) i");

# The labels of the calls whose mark is in a text: as it is, in hexadecimal, or as the list of bytes of a printed tree.
my %form = (text => qr/kr-leak-(\d{4})/, hex => qr/6b722d6c65616b2d((?:3\d){4})/i, list => qr/107 114 45 108 101 97 107 45 ((?:\d\d ){4})/);
sub marks_in
{
    my ($text) = @_;
    my %n;
    $n{$1} = 1          while $text =~ /$form{text}/g;
    $n{ pack 'H*', $1 } = 1 while $text =~ /$form{hex}/g;
    $n{ join '', map { chr } split ' ', $1 } = 1 while $text =~ /$form{list}/g;
    return map { $label{ $_ + 0 } || "control-$_" } sort keys %n;
}

sub files
{
    my ($wanted) = @_;
    my %found;
    find({ no_chdir => 1, wanted => sub {
        return unless -f $_ && $_ =~ $wanted;
        open(my $fh, '<:raw', $_) or return;
        local $/;
        my $content = <$fh>;
        my @marks = defined $content ? marks_in($content) : ();
        $found{ substr($_, length($data) + 1) } = \@marks if @marks;
    } }, $data);
    return \%found;
}

# The controls are there, and nothing else.
sub none
{
    my ($found, $name, @controls) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %control;
    foreach my $where (keys %$found)
    {
        $control{$_} = 1 foreach grep { /^control-/ } @{ $found->{$where} };
        $found->{$where} = [ grep { !/^control-/ } @{ $found->{$where} } ];
        delete $found->{$where} unless @{ $found->{$where} };
    }
    is(join(' ', grep { !$control{"control-$_"} } @controls), '', "the search works: $name") if @controls;
    ok(!%$found, $name) or diag(map { my @m = @{ $found->{$_} }; "$_: " . @m . ' marks: ' . join(' | ', splice(@m, 0, 12)) . "\n" } sort keys %$found);
    return;
}

sub one { my ($text) = @_; my @m = marks_in($text); return @m ? { it => \@m } : {} }

$k->exec('CHECKPOINT');
none(files(qr{/base/|/global/}), 'not in tables, indexes and TOAST', 9001, 9002, 9005);
none(files(qr{/pg_wal/}), 'not in the WAL', 9001, 9002, 9005);
none(files(qr{/log/.*log$}), 'not in the log', 9003, 9004);
none(files(qr{/log/.*csv$}), 'not in the log as CSV', 9003, 9004);
none(files(qr{/log/.*json$}), 'not in the log as JSON', 9003, 9004) if $node->pg_version >= 15;
none(files(qr{^(?!.*/(?:base|global|pg_wal|log|pg_stat_tmp)/)}), 'nor in other files');
none(one($k->exec("SELECT data FROM pg_logical_slot_get_changes('leaks', NULL, NULL)")), 'not in what is decoded from the WAL', 9001, 9002);
my $waldump = '';
foreach my $segment (glob("$data/pg_wal/00*"))
{
    my $out = '';
    IPC::Run::run([ 'pg_waldump', $segment ], '<', \undef, '>', \$out, '2>', \my $err);
    $waldump .= $out;
}
like($waldump, qr/rmgr: Heap/, 'pg_waldump reads the WAL');
none(one($waldump), 'and shows none');
none(one($k->exec('SELECT query FROM pg_stat_activity')), 'not in pg_stat_activity');
none(one($k->exec('SELECT query FROM pg_stat_statements')), 'not in pg_stat_statements', 9004);
none(files(qr{/pg_stat_tmp/|/pg_stat/}), 'nor in its file', 9004);
cmp_ok($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%create_secret(%'"), '>', 0, 'which has seen the calls');
foreach my $command ([ 'pg_dump', 'infra' ], [ 'pg_dump', '--inserts', 'infra' ], ['pg_dumpall'])
{
    local @ENV{qw(PGHOST PGPORT PGUSER)} = ($node->host, $node->port, 'postgres');
    my ($dump) = run_command($command);
    none(one($dump), "not in what @$command writes", 9001, 9002);
}

#
# Memory
#
$k->exec(q{CREATE FUNCTION public.taken(text) RETURNS integer LANGUAGE internal VOLATILE STRICT AS 'textlen';
           CREATE FUNCTION public.given(text) RETURNS text LANGUAGE internal VOLATILE STRICT AS 'text_reverse'});

# How often a backend has these bytes in memory of its own; undef: it cannot be read.
sub copies
{
    my ($pid, $bytes, $shared) = @_;
    my ($n, $kind) = (0, $shared ? 's' : 'p');
    open(my $mem,  '<:raw', "/proc/$pid/mem")  or return undef;
    open(my $maps, '<',     "/proc/$pid/maps") or return undef;
    while (my $line = <$maps>)
    {
        my ($from, $to, $what) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) \S\S\S$kind \S+ \S+ \S+ *(.*)$/ or next;
        my ($length, $buffer, $got) = (hex($to) - hex($from), '', 0);
        next if $what =~ /^\[v/ || $length > 1 << 28 || !sysseek($mem, hex($from), Fcntl::SEEK_SET());
        while ($got < $length) { $got += sysread($mem, $buffer, $length - $got, $got) || last }
        my $pos = -1;
        $n++ while ($pos = index($buffer, $bytes, $pos + 1)) >= 0;
    }
    return $n;
}

# Copies right after a call, and after some other statements.
sub remains
{
    my ($sql, $mark, @params) = @_;
    my $c = client('postgres');
    my $r = $c->call($sql, @params);
    my @n = (copies($c->pid, $mark), $r->{state});
    $c->query($_) foreach 'SELECT 1', 'SELECT count(*) FROM pg_catalog.pg_class', "SELECT name FROM vault.secrets WHERE name = 'taken'";
    push @n, copies($c->pid, $mark);
    $c->quit;
    return @n;
}

SKIP:
{
    my $c = client('postgres');
    skip 'the memory of processes cannot be read here', 1 unless defined copies($c->pid, 'x');
    # A row of a table is in shared buffers.
    cmp_ok(copies($c->pid, 'kr-leak-9001', 1), '>', 0, 'the search works: shared memory');
    is(copies($c->pid, '-secret', 1), 0, 'no secret is in shared memory');
    $c->quit;
    # The debugging output is no part of what a server holds.
    $k->exec("ALTER SYSTEM SET debug_print_$_ = off") foreach qw(parse rewritten plan);
    $k->exec("ALTER SYSTEM SET auto_explain.log_min_duration = -1; ALTER SYSTEM SET log_statement = none; ALTER SYSTEM SET log_min_duration_statement = -1; ALTER SYSTEM SET log_min_messages = warning; ALTER SYSTEM SET log_parameter_max_length_on_error = 0");
    $k->exec('SELECT pg_reload_conf()');

    # PostgreSQL itself, with a function that does nothing of its own.
    my ($own, undef, $own_later) = remains('SELECT public.taken($1), 1', 'kr-leak-8001', 'kr-leak-8001-secret');
    my ($own_failing) = remains('SELECT public.taken($1), 1 / (pg_catalog.random() * 0)::integer', 'kr-leak-8002', 'kr-leak-8002-secret');
    my ($own_given) = remains('SELECT public.given($1)', 'kr-leak-8003', scalar reverse 'kr-leak-8003-secret');
    my ($own_json) = remains('SELECT public.given($1)::jsonb', 'kr-leak-8006', scalar reverse '"kr-leak-8006-secret"');
    diag("a parameter leaves $own copies in PostgreSQL itself, $own_failing in an error, a result $own_given, one of jsonb $own_json");
    cmp_ok($own, '>', 0, 'the search works: memory');
    foreach my $function (@functions)
    {
        my $mark = new_mark("$function, memory");
        my ($sql, @params) = render($secret{$function}[0], $mark, 0);
        my ($n, $state, $later) = remains("SELECT $sql", $mark, @params);
        is($state, '', "$function works");
        cmp_ok($n, '<=', $own, "$function leaves no more of a parameter than PostgreSQL itself: $n, later $later");
        my @errors = @{ $secret{$function} }[ 1, 2 ];
        $mark = new_mark("$function, memory, error");
        ($sql, @params) = render($errors[1], $mark, 0);
        ($n, $state, $later) = remains("SELECT $sql", $mark, @params);
        is($state, $errors[0], "$function fails");
        cmp_ok($n, '<=', $own_failing, "and then neither: $n, later $later");
    }
    $k->exec("SELECT vault.create_secret('kr-leak-' || 8000 + 4 || '-secret', 'given'); SELECT kessel.set_credential('one', '$d->{runtime}', '$d->{password}')");
    my $tenant = "SET kessel.tenant = 'one'; SELECT vault.";
    my %given = (
        'vault.reveal($1::text)'                                            => 'given',
        'decrypted_secret FROM vault.decrypted_secrets WHERE name = $1'     => 'given',
        q{vault.open($1::bytea, 'c')}                                       => $k->exec("${tenant}seal('kr-leak-' || 8000 + 4 || '-secret', 'c')"),
        q{vault.open_jsonb($1::bytea, 'c')}                                 => $k->exec("${tenant}seal(to_jsonb('kr-leak-' || 8000 + 4 || '-secret'), 'c')"),
        q{vault.reseal($1::bytea, 'c')}                                     => $k->exec("${tenant}seal('kr-leak-' || 8000 + 4 || '-secret', 'c')"),
        q{vault.import_aes_gcm($1, 'aes')}                                  => $k->exec("${tenant}encrypt_aes_gcm('kr-leak-' || 8000 + 4 || '-secret', 'aes')"));
    foreach my $call (sort keys %given)
    {
        my ($n, $state, $later) = remains("SELECT $call", 'kr-leak-8004', $given{$call});
        is($state, '', "$call works");
        cmp_ok($n, '<=', $call =~ /reseal/ ? 0 : $call =~ /json/ ? $own_json : $own_given, "and leaves no more of the result than PostgreSQL itself: $n, later $later");
    }
    $c = client('postgres');
    is($c->query('SELECT count(*) FROM data.accounts')->{rows}[0][0], '5', 'a connection to a data source');
    my $n = copies($c->pid, $d->{password});
    cmp_ok($n, '<=', 1, "has its password in libpq's SCRAM exchange at most: $n");
    $c->quit;

    # What is sealed by the client is in the clear only while it is sealed anew.
    my $sealed = seal_at_client('kr-leak-8005-secret', $k->exec('SELECT vault.public_key()'));
    my ($left, $state) = remains('SELECT vault.create_secret_sealed($1)', 'kr-leak-8005', $sealed);
    is($state, '', 'vault.create_secret_sealed() works');
    is($left, 0, 'and leaves nothing of the secret');

    # On its way to another installation, which is this one.
    $k->exec("SELECT vault.create_secret('kr-leak-' || 8000 + 7 || '-secret', 'exported', new_tenant_id => id) FROM app.tenants WHERE slug = 'one'");
    my $key = $k->exec('SELECT vault.public_key()');
    ($left, $state) = remains(q{SELECT vault.export_tenant('one', $1)}, 'kr-leak-8007', $key);
    is("$state $left", ' 0', 'vault.export_tenant() leaves nothing of a secret');
    my $bundle = $k->exec("SELECT vault.export_tenant('one', '$key')");
    $k->exec("SELECT vault.delete_secret(id) FROM vault.secrets WHERE name = 'exported'");
    ($left, $state) = remains('SELECT vault.import_tenant($1::jsonb)', 'kr-leak-8007', $bundle);
    is("$state $left", ' 0', 'vault.import_tenant() neither');

    # The password that nobody knows: libpq's copies of two logins.
    $c = client('postgres');
    is($c->query("CALL kessel.rotate_credential('one')")->{state}, '', 'a rotation');
    $n = copies($c->pid, $k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets v JOIN app.data_source_credentials c ON c.secret_id = v.id WHERE c.purpose = 'runtime' AND c.username = '$d->{runtime}'"));
    cmp_ok($n, '<=', 2, "leaves the new password in what libpq has freed at most: $n");
    $c->quit;
}

done_testing();

# libsodium's crypto_box_seal(), base64, as a client's library has it.
sub seal_at_client
{
    my ($secret, $key) = @_;
    my ($out, $err) = ('', '');
    append_to_file("$dir/seal.c", <<'C');
#include <sodium.h>
#include <stdio.h>
#include <string.h>
int
main(int argc, char **argv)
{
	unsigned char key[32], sealed[1024];
	char		text[2048];

	if (argc != 3 || sodium_init() < 0 || sodium_base642bin(key, 32, argv[2], strlen(argv[2]), NULL, NULL, NULL, sodium_base64_VARIANT_ORIGINAL) != 0)
		return 1;
	crypto_box_seal(sealed, (unsigned char *) argv[1], strlen(argv[1]), key);
	puts(sodium_bin2base64(text, sizeof(text), sealed, strlen(argv[1]) + crypto_box_SEALBYTES, sodium_base64_VARIANT_ORIGINAL));
	return 0;
}
C
    IPC::Run::run([ 'cc', '-o', "$dir/seal", "$dir/seal.c", '-lsodium' ], '<', \undef, '>&', \$out) or die "cc: $out";
    IPC::Run::run([ "$dir/seal", $secret, $key ], '<', \undef, '>', \$out, '2>', \$err) or die "seal: $err";
    chomp $out;
    return $out;
}

# The statements of PostgREST, named and kept for many requests of many users on one
# connection, as test/lib/KesselPostgrest.pm sends them: the infra database's tables and
# functions, and router tables, by turns of role, user and tenant, under each
# plan_cache_mode; reading in READ ONLY; a function before each request that chooses the
# tenant; errors, and changes of tables, policies, members and credentials in between;
# and without names, behind PgBouncer in transaction mode.
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use JSON::PP;
use KesselClient;
use KesselPostgrest;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

use constant REQUESTS => 2000;

my $slow = $ENV{KR_SLOW} || 1;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\nkessel.root_key_file = '$key_file'\n");
my $node = $k->node;
my $json = JSON::PP->new->canonical;
$ENV{PATH} .= ':/usr/sbin';

#
# Users, roles, what they have
#
$k->exec('SELECT kessel.setup()');
$k->fleet;
my %user = (%{ $k->{user} }, admin => '5e1f0000-0000-4000-8000-0000000000ad', ex => '5e1f0000-0000-4000-8000-0000000000e0');
my @tenants = $k->tenants;
$k->exec('CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO authenticator');
$k->exec("INSERT INTO auth.users (id, email) VALUES ('$user{$_}', '$_\@example.com')") foreach sort keys %user;
$k->exec("UPDATE profiles SET role = 'admin' WHERE email = 'admin\@example.com'; SELECT kessel.add_member('row-a', '$user{ex}'), kessel.deactivate_member('row-a', '$user{ex}')");
$k->exec("INSERT INTO themes (id, name) VALUES ('dark', 'Dark'); SET ROLE service_role; SELECT put_theme_css('dark', 'a {}'); SELECT insert_secret('ENV', 'kr-marked-env')");
$k->exec("INSERT INTO app_registry (id, name, fields) VALUES ('mail', 'Mail', '[{\"key\": \"host\", \"label\": \"Host\", \"type\": \"text\"}, {\"key\": \"password\", \"label\": \"P\", \"type\": \"password\"}]');"
      . "INSERT INTO app_installations (user_id, app_id, config) SELECT id, 'mail', jsonb_build_object('host', email, 'password', 'kr-marked-' || email) FROM profiles");
$k->exec("SELECT kessel.set_api('solo_$_', 'https://solo-$_.supabase.co', 'kr-marked-anon-$_', 'kr-marked-service-$_')") foreach qw(a b);
$k->exec(<<'SQL');
-- As an app would: which tenant a request is for.
CREATE FUNCTION public.choose_tenant() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text := current_setting('request.headers', true)::json ->> 'x-tenant';
BEGIN
    IF wanted IS NOT NULL THEN
        PERFORM set_config('kessel.tenant', wanted, true);
    END IF;
END $$;
-- A relationship that PostgREST embeds: what belongs to a row.
CREATE FUNCTION data.contacts(data.accounts) RETURNS SETOF data.contacts LANGUAGE sql STABLE AS 'SELECT * FROM data.contacts c WHERE c.account_id = $1.id';
GRANT EXECUTE ON FUNCTION data.contacts(data.accounts) TO kessel_user, kessel_service;
SQL

my %role = (anon => 'anon', service => 'service_role');
my $claims = sub { my ($who) = @_; return $user{$who} ? { sub => $user{$who}, aud => 'authenticated' } : {} };

sub connection
{
    my (%opt) = @_;
    return KesselPostgrest->new(KesselClient->new($node, 'infra', user => 'authenticator', %opt), before => '"public"."choose_tenant"', %opt);
}

# as(CONNECTION, METHOD, WHO, TENANT, STATEMENT): "state body" of a request.
sub as
{
    my ($p, $method, $who, $tenant, $statement, %opt) = @_;
    my $r = $p->request($method, $role{$who} || 'authenticated', $claims->($who), $statement, headers => { defined $tenant ? ('x-tenant' => $tenant) : () }, %opt);
    return $r->{state} eq '' ? $r->{body} : $r->{state};
}

my $api = connection(settings => { authenticated => { statement_timeout => '8s' } }, app => { 'app.settings.x' => '1' });

#
# One request of each kind, each for two users
#
my $tenant_of = $api->embed('object', '"public"."tenants" AS "tenants_1"', 'subdomain', '"tenants_1"."id" = "public"."profiles"."tenant_id"', 'tenants');
my $contacts_of = $api->embed('array', '"data"."contacts"("accounts"::"data"."accounts") AS "contacts_1"', 'email', '', 'contacts');
my %read = (
    profile   => $api->get('profiles', 'email', embed => $tenant_of, order => 'email'),
    installed => $api->get('app_installations', 'app_id config'),
    tenants   => $api->get('tenants', 'subdomain', order => 'subdomain', limit => 100, count => 1),
    keys      => $api->get('tenants', 'data_source_anon_key data_source_service_key', where => [ [ 'subdomain', '=', 'solo-a' ] ]),
    themes    => $api->get('themes', 'id', where => [ [ 'id', '= ANY', '{dark,default}' ] ], order => 'id'),
    roles     => $api->get('roles', 'name', order => 'name'),
    css       => $api->rpc_get('get_theme_css', 'scalar', [ 'p_theme', 'text', 'dark' ]),
    file      => $api->get('storage.objects', 'name', where => [ [ 'bucket_id', '=', 'themes' ] ]),
    secret    => $api->rpc_get('read_secret', 'scalar', [ 'secret_name', 'text', 'ENV' ]),
    app       => $api->rpc_get('get_app_config', 'scalar', [ 'p_user_id', 'uuid', $user{a} ], [ 'p_app_id', 'text', 'mail' ]),
    client    => $api->rpc_get('kessel.client_config', 'set', [ 'tenant', 'text', 'solo-a' ]),
    rows      => $api->get('data.accounts', 'name', where => [ [ 'id', '<=', 2 ] ], order => 'id'),
    page      => $api->get('data.accounts', 'name', where => [ [ 'id', '>', 1 ] ], order => 'id', limit => 1, count => 1),
    embedded  => $api->get('data.accounts', 'name', where => [ [ 'id', '=', 3 ] ], embed => $contacts_of),
    head      => $api->get('data.accounts', 'name', empty => 1, count => 1),
);
my @names = sort keys %read;
# What a request must answer, by what everybody is allowed.
my %reads_tenants = map { $_ => 1 } qw(rows page embedded head);
sub expected
{
    my ($who, $tenant, $name) = @_;
    my %mine = (a => [ map { "$_-a" } qw(row schema solo) ], b => [ map { "$_-b" } qw(row schema solo) ], service => \@tenants, admin => [], ex => [], anon => []);
    if ($reads_tenants{$name})
    {
        return '42501' if $who eq 'anon';
        return 'KR001' unless defined $tenant;
        return '42501' unless grep { $_ eq $tenant } @{ $mine{$who} };
        return '' if $name eq 'head';
        return $json->encode([ map { { name => "$tenant account $_" } } 1, 2 ]) if $name eq 'rows';
        return $json->encode([ { name => "$tenant account 2" } ]) if $name eq 'page';
        return $json->encode([ { contacts => [ { email => "${tenant}3\@example.com" } ], name => "$tenant account 3" } ]);
    }
    return $json->encode([ map { { id => $_ } } qw(dark default) ]) if $name eq 'themes';
    return '"a {}"' if $name eq 'css';
    return $json->encode([ { name => 'dark.css' } ]) if $name eq 'file';
    return $who eq 'service' ? '"kr-marked-env"' : '42501' if $name eq 'secret';
    return $who eq 'service' ? $json->encode({ host => 'a@example.com', password => 'kr-marked-a@example.com' }) : '42501' if $name eq 'app';
    return '42501' if $who eq 'anon';
    if ($name eq 'client')
    {
        return $who =~ /^(?:a|service)$/ ? $json->encode([ { url => 'https://solo-a.supabase.co', key => 'kr-marked-anon-a', tenant_id => 'solo-a' } ]) : '42501';
    }
    return $json->encode([ map { { name => $_ } } qw(admin superuser user) ]) if $name eq 'roles';
    return $json->encode([ map { { subdomain => $_ } } @{ $who eq 'admin' ? \@tenants : $mine{$who} } ]) if $name eq 'tenants';
    if ($name eq 'keys')
    {
        return $json->encode([]) if $who =~ /^(?:b|ex)$/;
        return $json->encode([ { data_source_anon_key => $who eq 'service' ? 'kr-marked-anon-a' : '*' x 8, data_source_service_key => $who eq 'service' ? 'kr-marked-service-a' : '*' x 8 } ]);
    }
    my @people = $who =~ /^(?:admin|service)$/ && ($name eq 'profile' || $who eq 'service') ? sort keys %user : ($who);
    return $json->encode([ map { { email => "$_\@example.com", tenants => $_ eq 'a' || $_ eq 'b' ? { subdomain => "row-$_" } : undef } } @people ]) if $name eq 'profile';
    return $json->encode([ map { { app_id => 'mail', config => { host => "$_\@example.com", password => '*' x 8 } } } @people ]);
}

# Objects in any order of keys; rows without an order in any order.
sub canonical
{
    my ($body, $name) = @_;
    return $body unless $body =~ /^[\[{]/;
    my $value = decode_json($body);
    @$value = sort { $json->encode($a) cmp $json->encode($b) } @$value if ref $value eq 'ARRAY' && $name eq 'installed';
    return $json->encode($value);
}

my @people = qw(anon a b ex admin service);
foreach my $name (@names)
{
    foreach my $who (@people)
    {
        foreach my $tenant ($reads_tenants{$name} ? (undef, 'row-a', 'schema-b') : undef)
        {
            my $schema = $reads_tenants{$name} ? 'data' : 'public';
            is(canonical(as($api, 'GET', $who, $tenant, $read{$name}, schema => $schema), $name), canonical(expected($who, $tenant, $name), $name), "GET $name as $who" . (defined $tenant ? " of $tenant" : ''));
        }
    }
}

is($api->request('GET', 'service_role', {}, $read{page}, schema => 'data', headers => { 'x-tenant' => 'row-a' })->{total}, 4, 'Prefer: count=exact');
like($api->request('GET', 'service_role', {}, $api->get('data.accounts', 'name', where => [ [ 'id', '>', 1 ] ], count => 'planned'), headers => { 'x-tenant' => 'row-a' })->{rows}[0][0], qr/"Plan Rows"/, 'Prefer: count=planned');
my $opened = q{SELECT count(*) FROM app.audit_log WHERE action = 'open' AND ok AND role_name = 'service_role' AND login_role = 'authenticator'};
ok($node->poll_query_until('infra', "SELECT ($opened) >= 4"), 'what was opened in READ ONLY is recorded') or diag($k->exec('SELECT action, purpose, role_name, login_role, count(*) FROM app.audit_log GROUP BY 1, 2, 3, 4'));

# All that the service may read can be read with GET, and without a tenant.
{
    my @tables = split /\n/, $k->exec(q{SELECT DISTINCT c.relnamespace::regnamespace || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, unnest('{anon,authenticated,service_role}'::text[]) r
        WHERE n.nspname IN ('public', 'storage', 'infra', 'app', 'vault', 'kessel') AND c.relkind IN ('r', 'p', 'v') AND has_schema_privilege(r, n.oid, 'USAGE') AND has_table_privilege(r, c.oid, 'SELECT') ORDER BY 1});
    cmp_ok(scalar @tables, '>', 40, 'tables and views that may be read');
    my @states;
    foreach my $table (@tables)
    {
        foreach my $who (qw(anon a admin service))
        {
            my $r = $api->request('GET', $role{$who} || 'authenticated', $claims->($who), $api->get($table, '*'));
            push @states, "$who $table: $r->{state} $r->{message}" if $r->{state} ne '' && $r->{state} ne '42501';
        }
    }
    is_deeply(\@states, [], 'none of them writes');
}
foreach my $case (
    [ 'service', 'get_all_secrets_for_env' ], [ 'service', 'discover_tables', [ 'p_database', 'text', 'kessel' ] ], [ 'service', 'discover_tables', [ 'p_database', 'text', 'solo' ] ],
    [ 'a', 'get_table_columns', [ 'p_schema', 'text', 'public' ], [ 'p_table', 'text', 'profiles' ] ], [ 'a', 'get_schema_relationships' ], [ 'a', 'get_tenant_by_slug', [ 'p_slug', 'text', 'row-a' ] ],
    [ 'a', 'list_ai_provider_keys' ], [ 'anon', 'storage.list_objects', [ 'bucket', 'text', 'themes' ] ], [ 'anon', 'storage.get_object', [ 'bucket', 'text', 'themes' ], [ 'name', 'text', 'dark.css' ] ])
{
    my ($who, $function, @args) = @$case;
    $k->exec("INSERT INTO db_registry (id, name, data_source_id) SELECT 'solo', 'Solo', id FROM app.data_sources WHERE name = 'solo_a' ON CONFLICT DO NOTHING");
    my $r = $api->request('GET', $role{$who} || 'authenticated', $claims->($who), $api->rpc_get($function, 'set', @args));
    is($r->{state}, '', "GET rpc/$function as $who") or diag($r->{message});
}

#
# Writing
#
my $types = 'id integer, name text, balance numeric';
my $upsert = sub { my ($tenant, @ids) = @_; return $api->post('data.accounts', $json->encode([ map { { id => $_, name => "$tenant account $_", balance => '1.5' } } @ids ]), $types, 'id name', on => 'id') };
foreach my $tenant (@tenants)
{
    my $who = substr($tenant, -1);
    my $write = sub { my ($method, $statement, %opt) = @_; return as($api, $method, $who, $tenant, $statement, schema => 'data', %opt) };
    my $row = sub { my ($id) = @_; return "[{\"id\":$id,\"name\":\"$tenant account $id\"}]" };
    is($write->('POST', $api->post('data.accounts', "{\"id\": 70, \"name\": \"$tenant account 70\"}", 'id integer, name text', 'id name')), $row->(70), "POST for $tenant, return=representation");
    is($write->('POST', $api->post('data.accounts', "{\"id\": 71, \"name\": \"$tenant account 71\"}", 'id integer, name text', '')), '', 'return=minimal');
    is($write->('PATCH', $api->patch('data.accounts', '{"city": "Bern"}', 'city text', 'name city', [ 'id', '=', 70 ])), "[{\"name\":\"$tenant account 70\",\"city\":\"Bern\"}]", 'PATCH');
    is($write->('POST', $upsert->($tenant, 70, 72)), "[{\"id\":70,\"name\":\"$tenant account 70\"}, \n {\"id\":72,\"name\":\"$tenant account 72\"}]", 'resolution=merge-duplicates');
    is($write->('POST', $api->post('data.accounts', '[{"id": 70, "name": "x"}]', 'id integer, name text', 'name', on => 'id', ignore => 1)), '[]', 'resolution=ignore-duplicates');
    is($write->('DELETE', $api->remove('data.accounts', 'name', [ 'id', '>', 70 ])), "[{\"name\":\"$tenant account 71\"}, \n {\"name\":\"$tenant account 72\"}]", 'DELETE');
    is($write->('POST', $api->post('data.accounts', '{"id": 73, "name": "x"}', 'id integer, name text', 'name'), rollback => 1), '[{"name":"x"}]', 'Prefer: tx=rollback');
    is($write->('GET', $api->get('data.accounts', 'id', where => [ [ 'id', '>', 70 ] ])), '[]', 'keeps nothing');
}
$k->exec("INSERT INTO app_registry (id, name) VALUES ('notes', 'Notes')");
my $install = sub { my ($who, $app) = @_; return $api->post('app_installations', $json->encode({ user_id => $user{$who}, app_id => $app, config => {} }), 'user_id uuid, app_id text, config jsonb', 'app_id', on => 'user_id app_id') };
is(as($api, 'POST', 'a', undef, $install->('a', 'notes')), '[{"app_id":"notes"}]', "upsert $_") foreach qw(makes changes);
is(as($api, 'POST', 'a', undef, $install->('b', 'notes')), '42501', 'not another\'s');
is(as($api, 'DELETE', 'a', undef, $api->remove('app_installations', 'app_id', [ 'app_id', '=', 'notes' ])), '[{"app_id":"notes"}]', 'DELETE of one\'s own');
is(as($api, 'POST', 'a', undef, $api->rpc('get_tenant_by_slug', 'set', '{"p_slug": "row-a"}', 'p_slug text'), stable => 1) =~ /"slug":"row-a"/, 1, 'POST rpc of a STABLE function, in READ ONLY');
is(() = as($api, 'POST', 'service', undef, $api->rpc('get_tenant_by_slug', 'set', $json->encode([ map { { p_slug => $_ } } @tenants ]), 'p_slug text'), stable => 1) =~ /"slug"/g, 6, 'with an array, for each element');
is(as($api, 'POST', 'a', undef, $api->rpc('set_ai_provider_key', 'void', '{"p_provider": "openai", "p_key": "sk-kr-marked-0123456789"}', 'p_provider text, p_key text')), '', 'POST rpc that writes');
is(as($api, 'GET', 'a', undef, $api->get('profiles', 'email'), level => $_), '[{"email":"a@example.com"}]', "isolation level $_") foreach 'REPEATABLE READ', 'SERIALIZABLE';
is(as($api, 'GET', 'a', 'solo-a', $read{rows}, level => $_), expected('a', 'solo-a', 'rows') =~ s/},/}, \n /r, "isolation level $_, of a tenant") foreach 'REPEATABLE READ', 'SERIALIZABLE';

#
# By turns: whoever, of whichever tenant, with whichever statement
#
my %display;
sub turn
{
    my ($p, $i) = @_;
    my $who = $people[ rand @people ];
    my $tenant = (undef, @tenants, @tenants, @tenants)[ rand 1 + 3 * @tenants ];
    my $schema = rand() < 0.5 ? 'public' : 'data';
    my $act = rand;
    my ($what, $got, $want);

    if ($act < 0.8)
    {
        $what = $names[ rand @names ];
        $got = canonical(as($p, 'GET', $who, $tenant, $read{$what}, schema => $schema), $what);
        $want = canonical(expected($who, $tenant, $what), $what);
    }
    elsif ($act < 0.85)
    {
        $what = 'PATCH of the profile';
        $got = as($p, 'PATCH', $who, $tenant, $p->patch('profiles', "{\"display_name\": \"$who $i\"}", 'display_name text', 'email', [ 'id', '=', $user{$who} // $user{a} ]));
        $want = $who eq 'anon' ? '42501' : $user{$who} ? "[{\"email\":\"$who\@example.com\"}]" : '[{"email":"a@example.com"}]';
        $display{ $user{$who} ? $who : 'a' } = "$who $i" if $who ne 'anon';
    }
    elsif ($act < 0.9)
    {
        $what = 'GET of the name';
        $got = as($p, 'GET', $who, $tenant, $p->get('profiles', 'display_name', where => [ [ 'email', '=', 'b@example.com' ] ]));
        $want = $who eq 'anon' ? '42501' : $who =~ /^(?:b|admin|service)$/ ? '[{"display_name":' . (defined $display{b} ? "\"$display{b}\"" : 'null') . '}]' : '[]';
    }
    else
    {
        # By the id: every tenant has that row.
        my $rows = expected($who, $tenant, 'rows');
        $what = 'PATCH and upsert of a tenant\'s rows';
        $got = as($p, 'PATCH', $who, $tenant, $p->patch('data.accounts', "{\"city\": \"Oslo\"}", 'city text', 'name', [ 'id', '=', 70 ]), schema => $schema)
          . as($p, 'POST', $who, $tenant, $p->post('data.accounts', "[{\"id\": 70, \"name\": \"" . ($tenant // '') . " account 70\"}]", 'id integer, name text', 'name', on => 'id'), schema => $schema);
        $want = $rows =~ /^\[/ ? "[{\"name\":\"$tenant account 70\"}]" x 2 : $rows x 2;
    }
    return $got eq $want ? () : "$what as $who of " . ($tenant // 'none') . ": $got, not $want";
}

sub turns
{
    my ($count, $name, @connections) = @_;
    my @wrong;
    foreach my $i (1 .. $count)
    {
        push @wrong, turn($connections[ $i % @connections ], $i);
        last if @wrong > 10;
    }
    is_deeply(\@wrong, [], "$name: nobody sees another's rows, $count requests");
    return;
}

srand 20261121;
foreach my $mode (qw(auto force_generic_plan force_custom_plan))
{
    my $p = connection();
    $p->client->query("SET plan_cache_mode = $mode");
    turns(REQUESTS, $mode, $p);
    my $kept = $p->client->query('SELECT count(*), sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements')->{rows}[0];
    is($kept->[0], scalar keys %{ $p->{names} }, "$mode: each statement is prepared once");
    my $name = $p->name_of('"data"."accounts"');
    my $plans = $p->client->query("SELECT generic_plans > custom_plans, custom_plans > 5 FROM pg_prepared_statements WHERE statement ~ 'FROM \"data\".\"accounts\"' AND parameter_types <> '{}' ORDER BY generic_plans + custom_plans DESC LIMIT 1")->{rows}[0];
    is("@$plans", { auto => 't f', force_generic_plan => 't f', force_custom_plan => 'f t' }->{$mode}, "$mode: so are plans of router tables");
    $p->client->quit;
}

# That it would be seen: a policy which a plan may compute for good.
$k->exec("CREATE FUNCTION public.fixed_user() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN auth.uid(); END'; CREATE TABLE public.fixed AS SELECT id, email FROM profiles;"
      . "ALTER TABLE public.fixed ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON public.fixed USING (id = public.fixed_user()); GRANT SELECT ON public.fixed TO authenticated");
is(join('', map { as($api, 'GET', $_, undef, $api->get('fixed', 'email')) } qw(a b)), '[{"email":"a@example.com"}]' x 2, 'a plan that keeps a user shows his row to the next one');
$k->exec('DROP TABLE public.fixed; DROP FUNCTION public.fixed_user()');

#
# Errors, and the next request
#
my $fine = sub { my ($what) = @_; return is(as($api, 'GET', 'a', 'row-a', $read{rows}) . as($api, 'GET', 'b', undef, $api->get('profiles', 'email')), canonical(expected('a', 'row-a', 'rows'), 'rows') =~ s/},/}, \n /r . '[{"email":"b@example.com"}]', "$what: the next requests are answered") };
my $wrong = sub {
    my ($state, $what, $method, $who, $tenant, $statement, %opt) = @_;
    is(as($api, $method, $who, $tenant, $statement, %opt), $state, $what);
    return $fine->($what);
};
$wrong->('22P02', 'a value of another type', 'GET', 'a', undef, $api->get('profiles', 'email', where => [ [ 'id', '=', 'x' ] ]));
$wrong->('42703', 'no such column', 'GET', 'a', undef, $api->get('profiles', 'nosuch'));
$wrong->('42P01', 'no such table', 'GET', 'a', 'row-a', $api->get('data.nosuch', '*'));
$wrong->('23505', 'a row that is there, in the data source', 'POST', 'a', $_, $api->post('data.accounts', '{"id": 1, "name": "x"}', 'id integer, name text', 'id')) foreach qw(row-a schema-a solo-a);
$wrong->('22003', 'a value that is too large, in the data source', 'PATCH', 'a', 'solo-a', $api->patch('data.accounts', '{"balance": 1e15}', 'balance numeric', 'id', [ 'id', '=', 1 ]));
$wrong->('23514', 'a value out of its bounds', 'PATCH', 'a', undef, $api->patch('profiles', '{"color_scheme": "pink"}', 'color_scheme text', 'id', [ 'id', '=', $user{a} ]));
$wrong->('25006', 'GET of a function that writes', 'GET', 'a', undef, $api->rpc_get('set_ai_provider_key', 'void', [ 'p_provider', 'text', 'openai' ], [ 'p_key', 'text', 'sk-0123456789' ]));
$wrong->('25006', 'a write in READ ONLY, in the data source', 'GET', 'a', $_, $api->remove('data.accounts', 'id', [ 'id', '=', 1 ])) foreach qw(row-a schema-a solo-a);
$wrong->('KR002', 'no such tenant', 'GET', 'service', 'nosuch', $read{rows});
$wrong->('22023', 'no name of a tenant', 'GET', 'a', "row-a'; DROP TABLE profiles; --", $read{rows});
$wrong->('42501', 'another\'s tenant', 'GET', 'a', 'row-b', $read{rows});
is(as($api, 'GET', 'a', 'row-a', [ 'SELECT 1/0' ]), '22012', 'division by zero');
$fine->('division by zero');
$k->exec("CREATE FUNCTION public.refuse() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'PT401'; END \$\$");
{
    local $api->{before} = '"public"."refuse"';
    is(as($api, 'GET', 'a', 'row-a', $read{rows}), 'PT401', 'the function before each request refuses');
}
$fine->('a refusal');
{
    local $api->{settings}{authenticated} = { statement_timeout => '100ms' };
    is(as($api, 'GET', 'a', 'row-a', [ 'SELECT count(*) FROM generate_series(1, 1000000000)' ]), '57014', 'statement_timeout, of the role');
}
$fine->('a time-out');

#
# Changes in between
#
my $all = $api->get('data.accounts', '*', where => [ [ 'id', '=', 1 ] ]);
my $profile = $api->get('profiles', '*', where => [ [ 'email', '=', 'a@example.com' ] ]);
my $keys = sub { my ($body) = @_; return $body =~ /^\[/ ? join(' ', sort keys %{ decode_json($body)->[0] }) : $body };
is($keys->(as($api, 'GET', 'a', 'solo-a', $all)), 'active balance city id name opened', 'columns of a router table');
unlike($keys->(as($api, 'GET', 'a', undef, $profile)), qr/nickname/, 'and of a table');
$k->at_home($_, "ALTER TABLE accounts ADD COLUMN note text DEFAULT 'new'") foreach qw(row-a schema-a schema-b solo-a solo-b);
$k->exec("SELECT kessel.import_tables('shared', 'public'); ALTER TABLE profiles ADD COLUMN nickname text DEFAULT 'n'; GRANT SELECT (nickname) ON profiles TO authenticated");
is($keys->(as($api, 'GET', 'a', $_, $all)), 'active balance city id name note opened', "a new column, $_") foreach qw(row-a schema-a solo-a);
is($keys->(as($api, 'GET', 'a', 'row-b', $all)), '42501', 'and nobody else\'s');
like($keys->(as($api, 'GET', 'a', undef, $profile)), qr/nickname/, 'and of a table, too');
$k->at_home($_, 'ALTER TABLE accounts DROP COLUMN note') foreach qw(row-a schema-a schema-b solo-a solo-b);
is(as($api, 'GET', 'a', 'solo-a', $all), '42703', 'a column that is gone in the data source');
$fine->('a column that is gone');
$k->exec("SELECT kessel.import_tables('shared', 'public')");
is($keys->(as($api, 'GET', 'a', 'solo-a', $all)), 'active balance city id name opened', 'and then here');

my $own = $api->get('profiles', 'email', order => 'email');
my $seen = sub { my ($who) = @_; return join ' ', map { $_->{email} =~ s/@.*//r } @{ decode_json(as($api, 'GET', $who, undef, $own)) } };
is(join(' | ', map { $seen->($_) } qw(a b admin a)), 'a | b | a admin b ex | a', 'profiles');
$k->exec("UPDATE profiles SET role = 'admin' WHERE email = 'b\@example.com'");
is(join(' | ', map { $seen->($_) } qw(a b a)), 'a | a admin b ex | a', 'b is an administrator');
$k->exec("UPDATE profiles SET role = 'user' WHERE email = 'b\@example.com'; CREATE POLICY hide ON profiles AS RESTRICTIVE USING (email <> 'ex\@example.com')");
is(join(' | ', map { $seen->($_) } qw(b admin a)), 'b | a admin b | a', 'and no more; another policy');
$k->exec("DROP POLICY hide ON profiles; REVOKE SELECT ON profiles FROM authenticated");
is(as($api, 'GET', 'a', undef, $own), '42501', 'without the privilege');
$k->exec('GRANT SELECT ON profiles TO authenticated');
is($seen->('a'), 'a', 'and with it again');

my $rows = sub { my ($who, $tenant) = @_; return canonical(as($api, 'GET', $who, $tenant, $read{rows}), 'rows') };
$k->exec("SELECT kessel.deactivate_member('solo-a', '$user{a}')");
is($rows->('a', 'solo-a'), '42501', 'who is no member any more');
$k->exec("SELECT kessel.activate_member('solo-a', '$user{a}'); SELECT kessel.suspend_tenant('solo-a')");
is($rows->('a', 'solo-a'), 'KR003', 'a suspended tenant');
$k->exec("SELECT kessel.resume_tenant('solo-a')");
is($rows->('a', 'solo-a'), expected('a', 'solo-a', 'rows'), 'resumed');
$k->exec("CALL kessel.rotate_credential('$_')") foreach qw(solo_a shared);
is($rows->('a', $_), expected('a', $_, 'rows'), "$_ after its credential was rotated") foreach qw(solo-a row-a);
is($rows->('b', 'row-b'), expected('b', 'row-b', 'rows'), 'and the other tenant of that source');
turns(REQUESTS / 10, 'after all this', $api);

#
# Without names, behind PgBouncer: two clients, one server connection
#
my ($version_text, $none) = ('', '');
SKIP:
{
    skip 'no pgbouncer here', 3 unless eval { IPC::Run::run([ 'pgbouncer', '--version' ], '>', \$version_text, '2>', \$none) } && $version_text =~ /PgBouncer 1\.(\d+)/;
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    my $named = $1 >= 21;
    append_to_file("$dir/users", qq("authenticator" ""\n));
    append_to_file("$dir/ini", <<"INI" . ($named ? "max_prepared_statements = 100\n" : ''));
[databases]
infra = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=infra
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
logfile = $dir/log
pidfile = $dir/pid
pool_mode = transaction
default_pool_size = 1
INI
    my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
    my ($up, $deadline) = (0, time + 30 * $slow);
    until ($up || time > $deadline)
    {
        $bouncer->pump_nb;
        $up = $k->run('SELECT 1', url => "host=127.0.0.1 port=$port dbname=infra user=authenticator")->{out} eq '1';
    }
    ok($up, 'PgBouncer is up') or diag(slurp_file("$dir/log"));
    my @two = map { connection(port => $port, prepared => 0) } 1, 2;
    is($two[0]->client->query('SELECT pg_backend_pid()')->{rows}[0][0], $two[1]->client->query('SELECT pg_backend_pid()')->{rows}[0][0], 'two clients have one server connection');
    turns(REQUESTS, 'behind PgBouncer, unnamed', @two);
    turns(REQUESTS / 3, 'behind PgBouncer, named', map { connection(port => $port) } 1, 2) if $named;
    $_->client->quit foreach @two;
    $bouncer->kill_kill;
}

$api->client->quit;
done_testing();

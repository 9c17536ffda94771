# kessel.require_permissions: who may read and write which router table is said by
# the app's role_permissions.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;
$k->exec("SELECT kessel.setup('{core}')");
my ($a, $b) = @{ $k->{user} }{qw(a b)};
$k->exec("INSERT INTO auth.users (id, email) VALUES ('$a', 'a\@example.com'), ('$b', 'b\@example.com')");
my $read  = 'SELECT count(*) FROM data.accounts WHERE id = 1';
my $write = "UPDATE data.accounts SET name = name WHERE id = 1";
my @writes = ($write, "INSERT INTO data.accounts (id, name) VALUES (99, 'x')", 'DELETE FROM data.accounts WHERE id = 99',
    "COPY data.accounts (id, name) FROM PROGRAM 'true'", "WITH w AS ($write RETURNING 1) SELECT * FROM w");

# The tenant's last letter names the user.
sub state_of { my ($tenant, $sql) = @_; return $k->as_member($tenant, $sql)->{state} }
sub allow { my ($set) = @_; $k->exec("TRUNCATE role_permissions CASCADE; $set"); return }

ok_run($k->as_member('schema-a', $read), '1', 'off: what roles are granted decides');
$k->exec('ALTER DATABASE infra SET kessel.require_permissions = on');
is(state_of('schema-a', $read), '42501', 'on: what is not said is refused');
like_error($k->as_member('schema-a', $read), '42501', qr/permission denied to read table "data.accounts"/, 'and told', detail => qr/"data.accounts:read"/);
is(state_of('schema-a', "SELECT kessel.current_tenant(); SET kessel.require_permissions = off"), '42501', 'a user does not turn it off');
is(state_of('schema-a', "SET kessel.require_permissions = off; $read"), '42501', 'nor before the library is loaded');

allow("INSERT INTO role_permissions (module_id, module_name, user_access) VALUES ('data.accounts', 'Accounts', true)");
is(state_of('schema-a', $_), '', "allowed: $_") foreach $read, $write;
is(state_of('schema-a', 'SELECT count(*) FROM data.contacts'), '42501', 'that table only');
is(state_of('schema-a', 'SELECT count(*) FROM data.accounts JOIN data.contacts ON contacts.id = accounts.id'), '42501', 'also in a join that is run there');
is(state_of('schema-a', 'EXPLAIN SELECT count(*) FROM data.contacts'), '42501', 'and EXPLAIN');

allow("INSERT INTO role_permissions (module_id, module_name, user_access) VALUES ('data.accounts:read', 'Read', true), ('data.accounts:write', 'Write', false), ('data.accounts', 'All', true)");
is(state_of('schema-a', $read), '', 'read only: reading');
$k->exec('GRANT pg_execute_server_program TO app');
is(state_of('schema-a', $_), '42501', "read only: $_") foreach @writes;
is(state_of('solo-a', 'TRUNCATE data.accounts'), '42501', 'read only: TRUNCATE');
is(state_of('schema-b', $write), '42501', 'for all of that role');
$k->exec("INSERT INTO module_role_access (module_id, role_id, has_access) VALUES ('data.accounts:write', (SELECT id FROM roles WHERE name = 'admin'), true); UPDATE profiles SET role = 'admin' WHERE id = '$b'");
is(state_of('schema-b', $write), '', 'another role may');
is(state_of('schema-a', $write), '42501', 'this one not');

# Plans and views are asked about whenever they run.
my $s = $k->member_session('schema-a');
$s->run("SET plan_cache_mode = force_generic_plan; PREPARE p AS $read");
ok_run($s->run('EXECUTE p'), '1', 'prepared');
$k->exec("UPDATE role_permissions SET user_access = false WHERE module_id = 'data.accounts:read'");
is($s->run('EXECUTE p')->{state}, '42501', 'holds from the next statement on');
$k->exec("CREATE VIEW public.seen AS SELECT * FROM data.accounts; GRANT SELECT ON public.seen TO app; CREATE FUNCTION public.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM data.accounts'");
is($s->run('SELECT count(*) FROM public.seen')->{state}, '42501', 'through a view');
is($s->run('SELECT public.peek()')->{state}, '42501', 'and a function with another one\'s rights');
$s->quit;

# A function that runs in a parallel worker, or in the leader meanwhile, has statements of its own. Settings that wait
# for the library cannot be applied there, so it does not come.
my $force = $k->exec('SHOW server_version_num') >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode';
my $peek = "CREATE FUNCTION pg_temp.peek(i int) RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT count(*) FROM data.contacts); END'; ";
my %parallel = (worker => "SET $force = on; EXPLAIN (COSTS off) SELECT pg_temp.peek(1); SELECT pg_temp.peek(1)",
    leader => 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;'
      . "EXPLAIN (COSTS off) SELECT pg_temp.peek(relnatts) FROM pg_class WHERE relname = 'pg_class'; SELECT pg_temp.peek(relnatts) FROM pg_class WHERE relname = 'pg_class'");
foreach my $where (sort keys %parallel)
{
    my $r = $k->as_member('schema-a', "SELECT kessel.current_tenant_id(); $peek$parallel{$where}");
    like($r->{out}, qr/Gather/, "parallel, $where");
    is($r->{state}, '42501', 'it is asked about as elsewhere');
    like_error($k->as_member('schema-a', "$peek$parallel{$where}"), '25000', qr/cannot be loaded during a parallel operation/, 'and does not begin with that', hint => qr/preload/);
    $r = $k->member_session('schema-a');
    is($r->run("$peek$parallel{$where}")->{state}, '25000', 'nor is anything lost by it:');
    is($r->run('SELECT count(*) FROM data.contacts')->{state}, '42501', 'what is forbidden stays so');
    $r->quit;
}

# The options of a connection would hide what ALTER DATABASE says, while the library is not there.
foreach my $off ('-c kessel.require_permissions=off', '-ckessel.require-permissions=0', '-c KESSEL.Require_Permissions=off')
{
    local $ENV{PGOPTIONS} = $off;
    my $s = $k->member_session('schema-a');
    like_error($s->run('SELECT count(*) FROM data.contacts'), '42501', qr/"kessel.require_permissions" cannot be set in the options of a connection/i, $off) foreach 1, 2;
    is($s->run("RESET ALL; $_")->{state}, '42501', "nor: $_") foreach $read, 'SELECT kessel.current_tenant_id()';
    $s->quit;
    is($k->run('SELECT kessel.current_tenant_id() IS NULL; SHOW kessel.require_permissions')->{out}, "t\noff", 'for who may set it, it can');
}
is(state_of('schema-a', "BEGIN; SET LOCAL kessel.require_permissions = off; SAVEPOINT s; SET LOCAL kessel.require_permissions = off; SELECT count(*) FROM data.contacts"), '42501', 'nor does a transaction');
$s = $k->member_session('schema-a');
$s->run('BEGIN; SET LOCAL kessel.require_permissions = off; SAVEPOINT s; SET kessel.require_permissions = off; SELECT count(*) FROM data.accounts; ROLLBACK TO s');
is($s->run('SELECT count(*) FROM data.contacts')->{state}, '42501', 'nor does what is taken back');
$s->quit;

# A child or partition: by itself PostgreSQL asks about the parent only.
$k->exec("CREATE TABLE public.all_contacts (LIKE data.contacts); ALTER FOREIGN TABLE data.contacts INHERIT public.all_contacts; INSERT INTO public.all_contacts VALUES (1000, 1, 'here');"
  . 'CREATE TABLE public.parts (LIKE data.accounts) PARTITION BY LIST (id); CREATE FOREIGN TABLE data.part PARTITION OF public.parts FOR VALUES IN (1) SERVER kessel_router OPTIONS (schema_name $$@tenant$$, table_name $$accounts$$);'
  . 'CREATE TABLE public.part_2 PARTITION OF public.parts FOR VALUES IN (2); GRANT SELECT, INSERT, UPDATE, DELETE ON public.all_contacts, public.parts TO app');
my @through = ('SELECT * FROM public.all_contacts FOR UPDATE', 'SELECT * FROM public.parts WHERE id = 1 FOR SHARE', 'UPDATE public.all_contacts SET email = email', 'DELETE FROM public.all_contacts', "UPDATE public.parts SET name = 'x'", "INSERT INTO public.parts (id, name) VALUES (1, 'x')");
is(state_of('schema-a', $_), '42501', "through the parent: $_") foreach 'SELECT * FROM public.all_contacts', 'SELECT * FROM public.parts', 'SELECT * FROM data.accounts JOIN public.all_contacts USING (id)', @through;
ok_run($k->as_member('schema-a', 'SELECT count(*) FROM ONLY public.all_contacts; SELECT count(*) FROM public.parts WHERE id = 2'), "1\n0", 'what of it is elsewhere may be read');
allow("INSERT INTO role_permissions (module_id, module_name, user_access) SELECT m, m, true FROM unnest('{data.contacts:read,data.part:read}'::text[]) m");
ok_run($k->as_member('schema-a', 'SELECT count(*) FROM public.all_contacts; SELECT count(*) FROM public.parts'), "6\n5", 'and all with access to it');
is(state_of('schema-a', $_), '42501', "to read, not: $_") foreach @through;
$k->exec('DROP TABLE public.all_contacts, public.parts CASCADE') if $k->exec('ALTER FOREIGN TABLE data.contacts NO INHERIT public.all_contacts') eq '';

# No name is another one's module.
$k->exec('CREATE SCHEMA "data.a"; CREATE FOREIGN TABLE data."a.b" (id int) SERVER kessel_router OPTIONS (schema_name $$public$$, table_name $$accounts$$); CREATE FOREIGN TABLE "data.a".b (id int) SERVER kessel_router OPTIONS (schema_name $$public$$, table_name $$accounts$$);'
  . 'CREATE FOREIGN TABLE data."b:read" (id int) SERVER kessel_router OPTIONS (schema_name $$public$$, table_name $$accounts$$); CREATE FOREIGN TABLE data."B" (id int) SERVER kessel_router OPTIONS (schema_name $$public$$, table_name $$accounts$$);'
  . 'GRANT USAGE ON SCHEMA "data.a" TO app; GRANT SELECT ON data."a.b", "data.a".b, data."b:read", data."B" TO app');
allow("INSERT INTO role_permissions (module_id, module_name, user_access) SELECT m, m, true FROM unnest('{data.a.b,data.b,data.b:read}'::text[]) m");
is(state_of('solo-a', "SELECT * FROM $_"), '42501', "not by another name: $_") foreach 'data."a.b"', '"data.a".b', 'data."b:read"', 'data."B"';
allow("INSERT INTO role_permissions (module_id, module_name, user_access) VALUES ('data.\"a.b\"', 'x', true), ('data.B', 'x', true)");
is(state_of('solo-a', "SELECT * FROM $_"), '', "by its own: $_") foreach 'data."a.b"', 'data."B"';
allow("INSERT INTO role_permissions (module_id, module_name, user_access) VALUES ('data.accounts:read', 'Read', false), ('data.accounts:write', 'Write', true)");
is(state_of('schema-a', $_), '42501', "write only: $_") foreach "UPDATE data.accounts SET name = 'x' WHERE id = 1", 'DELETE FROM data.accounts RETURNING *', 'INSERT INTO data.accounts (id, name) VALUES (98, $$x$$) RETURNING name', 'CREATE MATERIALIZED VIEW public.mv AS SELECT * FROM data.accounts';
is(state_of('schema-a', "SET request.jwt.claims = ''; $read"), '42501', 'nor does none');
allow("INSERT INTO role_permissions (module_id, module_name) VALUES ('data.accounts', 'Accounts')");

# Sessions without a user.
is($k->run("SET kessel.tenant = 'schema-a'; $read", user => 'service')->{state}, '', 'a backend for itself is not asked');
is($k->run("SET kessel.tenant = 'schema-a'; $read", user => 'service', sub => $a)->{state}, '42501', 'for a user it is');
is($k->run("SET kessel.tenant = 'schema-a'; $read")->{state}, '', 'nor is a superuser');

# What answers is the blueprint's, with its owner's rights; without it nobody may.
$k->exec("UPDATE role_permissions SET user_access = true");
is(state_of('schema-a', $read), '', 'allowed again');
$k->exec("CREATE OR REPLACE FUNCTION infra.has_table_permission(table_name text, command text) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'asked as %', current_user; END \$\$; CREATE ROLE chief IN ROLE kessel_admin; GRANT CREATE, USAGE ON SCHEMA infra TO chief; ALTER FUNCTION infra.has_table_permission(text, text) OWNER TO chief");
like($k->run("SET kessel.tenant = 'schema-a'; $read", sub => $a)->{message}, qr/asked as chief/, 'a superuser\'s rights are not lent');
$k->exec('CREATE OR REPLACE FUNCTION infra.has_permission(module text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION $e$asked as %$e$, current_user; END $$; ALTER FUNCTION infra.has_permission(text) OWNER TO chief');
like_error($k->run('SELECT kessel.has_permission($$x$$)'), '42501', qr/function infra.has_permission\(text\) belongs to role "chief"/, 'nor by kessel.has_permission()', hint => qr/another|none/);
like($k->as_member('schema-a', 'SELECT kessel.has_permission($$x$$)')->{message}, qr/asked as app/, 'others have none to lend');
$k->exec('REVOKE kessel_admin FROM chief');
is(state_of('schema-a', $read), '55000', 'nobody outside of kessel_admin answers');
$k->exec("SELECT kessel.teardown('core', drop_data => true)");
is(state_of('schema-a', $read), '55000', 'nothing to ask, nothing to read');
$k->exec('ALTER DATABASE infra RESET kessel.require_permissions');
ok_run($k->as_member('schema-a', $read), '1', 'off again');

done_testing();

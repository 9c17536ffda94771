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

# Sessions without a user.
is($k->run("SET kessel.tenant = 'schema-a'; $read", user => 'service')->{state}, '', 'a backend for itself is not asked');
is($k->run("SET kessel.tenant = 'schema-a'; $read", user => 'service', sub => $a)->{state}, '42501', 'for a user it is');
is($k->run("SET kessel.tenant = 'schema-a'; $read")->{state}, '', 'nor is a superuser');

# What answers is the blueprint's, with its owner's rights; without it nobody may.
$k->exec("UPDATE role_permissions SET user_access = true");
is(state_of('schema-a', $read), '', 'allowed again');
$k->exec("CREATE OR REPLACE FUNCTION infra.has_table_permission(table_name text, command text) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'asked as %', current_user; END \$\$; CREATE ROLE chief IN ROLE kessel_admin; GRANT CREATE, USAGE ON SCHEMA infra TO chief; ALTER FUNCTION infra.has_table_permission(text, text) OWNER TO chief");
like($k->run("SET kessel.tenant = 'schema-a'; $read", sub => $a)->{message}, qr/asked as chief/, 'a superuser\'s rights are not lent');
$k->exec('REVOKE kessel_admin FROM chief');
is(state_of('schema-a', $read), '55000', 'nobody outside of kessel_admin answers');
$k->exec("SELECT kessel.teardown('core', drop_data => true)");
is(state_of('schema-a', $read), '55000', 'nothing to ask, nothing to read');
$k->exec('ALTER DATABASE infra RESET kessel.require_permissions');
ok_run($k->as_member('schema-a', $read), '1', 'off again');

done_testing();

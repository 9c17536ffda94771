# What changes for a tenant, a member or a data source reaches every backend at
# commit: also sessions that used the route a moment ago.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new;
$k->fleet;
my $query = 'SELECT count(*) FROM data.accounts';

foreach my $tenant (qw(row-a schema-a solo-a))
{
    my $s = $k->member_session($tenant);
    my $user = $k->{user}{a};
    ok_run($s->run($query), '5', "$tenant: in use");

    # A change that is not committed is not seen, and then is.
    my $admin = $k->session(user => 'admin');
    $admin->run("BEGIN; SELECT kessel.suspend_tenant('$tenant')");
    ok_run($s->run($query), '5', "$tenant: a suspension not yet committed");
    $admin->run('ROLLBACK');
    ok_run($s->run($query), '5', "$tenant: rolled back");
    is($admin->run("SELECT kessel.suspend_tenant('$tenant')")->{state}, '', "$tenant: suspend");
    like_error($s->run($query), 'KR003', qr/\Q$tenant\E/, "$tenant: refused in a session that used it", hint => qr/./);
    is($k->run($query, tenant => $tenant)->{state}, 'KR003', "$tenant: and in a new one, for a superuser, too");
    $admin->run("SELECT kessel.resume_tenant('$tenant')");
    ok_run($s->run($query), '5', "$tenant: resumed");

    # Members.
    $admin->run("SELECT kessel.deactivate_member('$tenant', '$user')");
    is($s->run($query)->{state}, '42501', "$tenant: a deactivated member");
    $admin->run("SELECT kessel.activate_member('$tenant', '$user')");
    ok_run($s->run($query), '5', "$tenant: active again");
    $admin->run("SELECT kessel.remove_member('$tenant', '$user')");
    is($s->run($query)->{state}, '42501', "$tenant: a removed member");
    $admin->run("SELECT kessel.add_member('$tenant', '$user')");
    ok_run($s->run($query), '5', "$tenant: a member again");

    # Names.
    $admin->run("SELECT kessel.rename_tenant('$tenant', '$tenant-new')");
    is($s->run($query)->{state}, 'KR002', "$tenant: renamed away");
    ok_run($s->run("SET kessel.tenant = '$tenant-new'; $query"), '5', "$tenant: under its new name");
    $admin->run("SELECT kessel.rename_tenant('$tenant-new', '$tenant')");
    $s->run("SET kessel.tenant = '$tenant'");
    ok_run($s->run($query), '5', "$tenant: and the old one");

    # A suspension inside a transaction that has read already: the next statement.
    $s->run("BEGIN; $query");
    $admin->run("SELECT kessel.suspend_tenant('$tenant')");
    my $r = $s->run($query);
    is($s->run("ROLLBACK; $query")->{state}, 'KR003', "$tenant: at the latest the next transaction is refused");
    like($r->{state}, qr/^(?:KR003|)$/, "$tenant: the running one ends in one way or the other");
    $admin->run("SELECT kessel.resume_tenant('$tenant')");

    # The role itself.
    $k->exec('REVOKE kessel_user FROM app');
    is($s->run($query)->{state}, '42501', "$tenant: a role that lost its privileges");
    $k->exec('GRANT kessel_user TO app');
    ok_run($s->run($query), '5', "$tenant: and has them back");
    $_->quit foreach $s, $admin;
}

# A role loses its right to enter every tenant.
{
    my $s = $k->session(user => 'service', tenant => 'row-a');
    ok_run($s->run($query), '5', 'a service role');
    $k->exec('REVOKE kessel_service FROM service; GRANT kessel_user TO service');
    is($s->run($query)->{state}, '42501', 'that is no longer one');
    $k->exec('GRANT kessel_service TO service');
    $s->quit;
}

# A data source that moves: the next transaction goes to the new place.
{
    my $s = $k->member_session('solo-a');
    ok_run($s->run('SELECT min(name) FROM data.accounts'), 'solo-a account 1', 'before the move');
    $k->data_database($k->{solo}, 'moved');
    $k->crm_database($k->{solo}, 'solo-a moved', db => 'moved');
    $k->exec("SELECT kessel.alter_data_source('solo_a', url => '" . $k->url($k->{solo}, db => 'moved') . "')");
    ok_run($s->run('SELECT min(name) FROM data.accounts'), 'solo-a moved account 1', 'after it');
    $k->exec("SELECT kessel.alter_data_source('solo_a', status => 'disabled')");
    is($s->run($query)->{state}, 'KR005', 'a data source that is switched off');
    $k->exec("SELECT kessel.alter_data_source('solo_a', status => 'active')");
    ok_run($s->run($query), '5', 'and on again');

    # The password changes there and here.
    $k->data_exec($k->{solo}, "ALTER ROLE $k->{solo}{runtime} PASSWORD 'kr-marked-pw-next'");
    $k->exec("SELECT kessel.set_credential('solo_a', '$k->{solo}{runtime}', 'kr-marked-pw-next')");
    ok_run($s->run($query), '5', 'with a new password');
    $s->quit;
}

# The fence: the source itself refuses a route of another epoch.
{
    my $s = $k->member_session('row-a');
    ok_run($s->run($query), '5', 'inside the fence');
    $k->data_exec($k->{shared}, "UPDATE kessel_agent.tenants SET epoch = epoch + 1 WHERE tenant_id = 'row-a'");
    like_error($s->run($query), 'KR004', qr/row-a/, 'a stale route is refused by the source', hint => qr/./);
    like_error($s->run("INSERT INTO data.accounts (id, name) VALUES (900, 'x')"), 'KR004', qr/row-a/, 'and writes nothing');
    is($k->data_exec($k->{shared}, 'SELECT count(*) FROM accounts WHERE id = 900'), '0', 'indeed');
    ok_run($k->as_member('row-b', $query), '5', 'others go on');
    $s->quit;
}

# A tenant that was dropped.
{
    my $s = $k->member_session('schema-b');
    ok_run($s->run($query), '5', 'a tenant');
    $k->exec("SELECT kessel.drop_tenant('schema-b')");
    is($s->run($query)->{state}, 'KR002', 'that was dropped');
    is($k->data_exec($k->{schemas}, 'SELECT count(*) FROM schema_b.accounts'), '5', 'its data are still there');
    $s->quit;
}

done_testing();

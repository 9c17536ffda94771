# A credential that the router uses for those who can never read it, and not
# for those who may not use it: the privileges use and reveal on real routes.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\n");
$k->fleet;
my $query = 'SELECT count(*) FROM data.accounts';
my $mark  = PASSWORD_MARK;

sub secret
{
    my ($source, $purpose) = @_;
    return $k->exec("SELECT c.secret_id FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name = '$source' AND c.purpose = '$purpose'");
}

# What everyone begins with.
is($k->exec("SELECT DISTINCT c.purpose, g.role_name, g.privilege FROM vault.secret_grants g JOIN app.data_source_credentials c ON c.secret_id = g.secret_id ORDER BY 1"),
    "owner|kessel_admin|use\nruntime|public|use", 'a runtime credential may be used by all, an owner\'s by administrators; nobody may read one');

foreach my $tenant (qw(row-a schema-a solo-a))
{
    my $source = $k->exec("SELECT data_source FROM kessel.routes WHERE tenant = '$tenant'");
    my $id = secret($source, 'runtime');
    my $s = $k->member_session($tenant);

    ok_run($s->run($query), '5', "$tenant: a member's query uses the credential");
    like_error($s->run("SELECT vault.reveal('$id'::uuid)"), '42501', qr/permission denied to reveal secret/, "$tenant: and may not be read", hint => qr/grant_secret/);
    ok_run($s->run('SELECT count(*) FROM vault.decrypted_secrets'), '0', "$tenant: nor seen");
    like_error($k->run("SELECT vault.reveal('$id'::uuid)", user => 'admin'), '42501', qr/permission denied/, "$tenant: not by an administrator either");
    like($k->exec("SELECT vault.reveal('$id'::uuid)"), qr/^$mark/, "$tenant: a superuser may");

    # Taken away it counts at once, in a session with an open connection, too.
    is($k->exec("SELECT vault.revoke_secret('$id', 'public', 'use')"), 't', "$tenant: use is revoked");
    like_error($s->run($query), '42501', qr/permission denied to use the credential of data source "\Q$source\E" \(route\)/, "$tenant: the next statement is refused", hint => qr/grant_secret/);
    is($k->as_member($tenant, $query)->{state}, '42501', "$tenant: and in a new session");
    is($k->as_member($tenant, "SELECT vault.open(vault.seal('x', 'c'), 'c')")->{out}, 'x', "$tenant: which does not need it for values");
    is($k->as_member($tenant, "UPDATE data.accounts SET city = city")->{state}, '42501', "$tenant: writes, too");
    is($k->as_member($tenant, 'TRUNCATE data.accounts')->{state}, '42501', "$tenant: and TRUNCATE");
    ok_run($k->run($query, tenant => $tenant), '5', "$tenant: a superuser goes on");
    $k->exec("SELECT vault.grant_secret('$id', 'kessel_service', 'use')");
    ok_run($k->run($query, tenant => $tenant, user => 'service'), '5', "$tenant: who has it goes on");
    is($s->run($query)->{state}, '42501', "$tenant: and nobody else");
    is($k->run("SELECT vault.reveal('$id'::uuid)", user => 'service')->{state}, '42501', "$tenant: to use is not to read");
    $k->exec("SELECT vault.grant_secret('$id', 'app', 'reveal')");
    is($s->run($query)->{state}, '42501', "$tenant: to read is not to use");
    like($s->run("SELECT vault.reveal('$id'::uuid)")->{out}, qr/^$mark/, "$tenant: it is to read");
    $k->exec("SELECT vault.revoke_secret('$id', 'app', 'reveal')");
    $k->exec("SELECT vault.grant_secret('$id', 'public', 'use')");
    ok_run($s->run($query), '5', "$tenant: granted again it goes on");

    # A new password keeps the grants.
    my $password = $k->exec("SELECT vault.reveal('$id'::uuid)");
    my $user = $k->exec("SELECT username FROM kessel.routes WHERE tenant = '$tenant'");
    $k->exec("SELECT kessel.set_credential('$source', '$user', '$password')");
    is(secret($source, 'runtime'), $id, "$tenant: a new password is a new version");
    ok_run($s->run($query), '5', "$tenant: for those who may use it");
    $s->quit;
}

# Tests of connections.
my $owner = secret('shared', 'owner');
is($k->run(q{SELECT ok FROM kessel.test_data_source('shared') WHERE "check" = 'owner credential'}, user => 'admin')->{out}, 't', 'an administrator tests both credentials');
$k->exec("SELECT vault.revoke_secret('$owner', 'kessel_admin', 'use')");
my $r = $k->run(q{SELECT ok, detail FROM kessel.test_data_source('shared') WHERE "check" = 'owner credential'}, user => 'admin');
like($r->{out}, qr/^f\|permission denied to use the credential of data source "shared"/, 'without the privilege the test says so') or diag($r->{err});
is($k->run("SELECT kessel.install_agent('shared')", user => 'admin')->{state}, '42501', 'and nothing is done with it');
$k->exec("SELECT vault.grant_secret('$owner', 'kessel_admin', 'use')");
is($k->run(q{SELECT ok FROM kessel.test_data_source('shared') WHERE "check" = 'owner credential'}, user => 'admin')->{out}, 't', 'with it all is well again');

# A role that was dropped and made anew is another role, but grants are by name:
# verify that a dropped one's grant is listed, so that it can be taken away.
$k->exec('CREATE ROLE brief LOGIN; GRANT kessel_user TO brief');
$k->exec("SELECT vault.grant_secret('$owner', 'brief', 'reveal')");
like($k->run("SELECT vault.reveal('$owner'::uuid)", user => 'brief')->{out}, qr/^$mark/, 'a role with a grant');
$k->exec('DROP ROLE brief');
is($k->exec(q{SELECT ok FROM kessel.doctor() WHERE "check" = 'grants on secrets'}), 'f', 'the doctor tells of a grant to a role that is gone');
is($k->exec("SELECT vault.revoke_secret('$owner', 'brief', 'reveal')"), 't', 'which can be revoked');
is($k->exec(q{SELECT ok FROM kessel.doctor() WHERE "check" = 'grants on secrets'}), 't', 'then all is well');

done_testing();

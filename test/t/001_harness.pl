# The clusters that the other tests stand on: who gets in, and how errors are
# read. Needs no extension.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new(extension => 0);

ok_run($k->run('SELECT 1 + 1'), '2', 'output');
my $r = $k->run("DO \$\$ BEGIN RAISE 'no \"x\"' USING ERRCODE = 'KR007', DETAIL = 'Some.', HINT = 'Do it.'; END \$\$");
like_error($r, 'KR007', qr/^no "x"$/, 'error', hint => qr/^Do it\.$/);
is($r->{detail}, 'Some.', 'detail');

my $s = $k->session;
is($s->run('BEGIN; SELECT 1 / 0')->{state}, '22012', 'error in a session');
is($s->run('SELECT 1')->{state}, '25P02', 'the session goes on in its failed transaction');
ok_run($s->run("ROLLBACK; SELECT 'a'"), 'a', 'and after it');
my $waiting = $k->session;
$s->run('SELECT pg_advisory_lock(1)');
$waiting->start('SELECT pg_advisory_lock(1)');
$s->run('SELECT pg_terminate_backend(' . $waiting->pid . ', 10000)');
isnt($waiting->finish->{state}, '', 'a session that was ended is seen');
$s->quit;

my $plain = $k->data_cluster('plain');
ok_run($k->run('SELECT current_user', url => $k->url($plain)), 'plain_runtime', 'SCRAM lets the runtime role in');
ok_run($k->run('SELECT current_user', url => $k->url($plain, owner => 1)), 'plain_owner', 'and the owner');
(my $wrong = $k->url($plain)) =~ s/-runtime@/-wrong@/;
like($k->run('SELECT 1', url => $wrong)->{err}, qr/password authentication failed/, 'and nobody else');
$k->crm_database($plain, 'acme');
ok_run($k->run('SELECT count(*), min(name) FROM public.accounts', url => $k->url($plain)), '5|acme account 1', 'tables of a tenant with the whole database');
$k->crm_schema($plain, 'beta', rows => 3);
ok_run($k->run('SELECT count(*) FROM beta.contacts', url => $k->url($plain)), '3', 'tables of a tenant with a schema');

my $tls = $k->data_cluster('tls', tls => 'good');
ok_run($k->run('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()', url => $k->url($tls)), 't', 'TLS, verified');
(my $off = $k->url($tls)) =~ s/sslmode=verify-full/sslmode=disable/;
like($k->run('SELECT 1', url => $off)->{err}, qr/no pg_hba.conf entry/, 'TLS is required');
my $expired = $k->data_cluster('expired', tls => 'expired');
like($k->run('SELECT 1', url => $k->url($expired))->{err}, qr/certificate verify failed/, 'a bad certificate is refused');
like(`openssl verify -CAfile $expired->{ca} @{[ $expired->{ca} =~ s/ca\.crt$/server.crt/r ]} 2>&1`, qr/certificate has expired/, 'and it is bad by its date alone');

done_testing();

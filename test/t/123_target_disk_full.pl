# A target that has no room for what a migration writes: it fails there, as a whole,
# is recorded, and goes on where it was once there is room. The limit on the size of a
# file stands for the full disk: PostgreSQL meets both where it extends a file.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'prlimit is not installed' if system('command -v prlimit >/dev/null 2>&1');

my $k = KesselTest->new;
$k->fleet;

# New sessions of the server have the limit of its postmaster.
sub limit
{
    my ($bytes) = @_;
    my ($pid) = slurp_file($k->{solo}{node}->data_dir . '/postmaster.pid') =~ /^(\d+)/;
    system_or_bail('prlimit', '--pid', $pid, "--fsize=$bytes:");
    return;
}

sub outcomes { return $k->exec("SELECT string_agg(data_source || ' ' || state, ',' ORDER BY data_source, schema_name) FROM kessel.migration_run_targets WHERE run_id = (SELECT run_id FROM kessel.migration_runs ORDER BY started_at DESC LIMIT 1)") }
sub made { my ($db) = @_; return $k->data_exec($k->{solo}, "SELECT count(*) FROM pg_tables WHERE tablename IN ('small', 'big')", db => $db) }

$k->exec("SELECT kessel.add_blueprint('archive')");
$k->exec("SELECT kessel.add_migration('archive', '0001_small', 'CREATE TABLE small (x integer)', 'DROP TABLE small')");
$k->exec("SELECT kessel.add_migration('archive', '0002_big', \$\$CREATE TABLE big AS SELECT repeat(i::text, 200) AS x FROM generate_series(1, CASE current_database() WHEN 'tenants_b' THEN 60000 ELSE 10 END) i\$\$, 'DROP TABLE big')");

# WAL has files of 16 MB.
limit(24 * 1024 * 1024);
my $r = $k->run("CALL kessel.migrate('archive', tenants => '{solo-a,solo-b,schema-a}', canary => '{}', on_error => 'continue')");
like_error($r, 'KR013', qr/1 of 3 targets failed/, 'a target without room');
like($r->{err}, qr/0002_big line 1: .*could not extend file/, '... says so');
is(outcomes(), 'schemas done,solo_a done,solo_b failed', '... and the others are done');
is(made('tenants_b'), 0, 'it has nothing of either migration');
is($k->exec("SELECT version FROM kessel.migration_targets t JOIN app.data_sources s ON s.id = t.data_source_id WHERE s.name = 'solo_b'"), 0, '... and that is known here');

limit('unlimited');
is($k->run("CALL kessel.migrate('archive', tenants => '{solo-a,solo-b,schema-a}')")->{state}, '', 'with room it goes on');
is(outcomes(), 'schemas done,solo_a done,solo_b done', '... and is done');
is(made('tenants_b'), 2, 'all is there');
is($k->data_exec($k->{solo}, 'SELECT count(*) FROM big', db => 'tenants_b'), 60000, '... as a whole');

done_testing();

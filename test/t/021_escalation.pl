# What a role with little right could make of somebody else's work: maintenance
# by a superuser, batches, rows put aside, policies over short columns, urls
# that lead back here.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use Test::More;

my $k = KesselTest->new(conf => "listen_addresses = '*'\n");
$k->fleet;
my $s;

# Maintenance runs functions of a table's owner with that owner's rights; the
# session is the superuser's, who may enter any tenant. They must not.
$k->exec('CREATE SCHEMA mine; GRANT CREATE, USAGE ON SCHEMA mine TO app');
ok_run($k->as_member('row-a', <<'SQL'), '', 'traps are laid');
CREATE TABLE mine.loot (name text);
CREATE FUNCTION mine.spring() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('mine.armed', true) = 'yes' THEN
        PERFORM set_config('kessel.tenant', 'row-b', true);
        INSERT INTO mine.loot SELECT name FROM data.accounts;
    END IF;
EXCEPTION WHEN OTHERS THEN
    INSERT INTO mine.loot VALUES ('refused: ' || SQLSTATE);
END $$;
CREATE FUNCTION mine.trap(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mine.spring(); RETURN i; END $$;
CREATE FUNCTION mine.lent(i integer) RETURNS integer LANGUAGE sql SECURITY DEFINER IMMUTABLE AS 'SELECT mine.trap(i)';
CREATE TABLE mine.bait (i integer);
INSERT INTO mine.bait VALUES (1);
CREATE INDEX trap ON mine.bait (mine.trap(i));
CREATE INDEX lent ON mine.bait (mine.lent(i));
CREATE MATERIALIZED VIEW mine.seen AS SELECT mine.trap(1);
SQL
foreach my $what ('ANALYZE mine.bait', 'REINDEX TABLE mine.bait', 'CLUSTER mine.bait USING trap', 'REFRESH MATERIALIZED VIEW mine.seen')
{
    is($k->run("SET mine.armed = 'yes'; $what")->{state}, '', $what);
    ok_run($k->run("SELECT DISTINCT name FROM mine.loot; TRUNCATE mine.loot"), 'refused: 42501', "$what opens no tenant to the table's owner");
}
ok_run($k->run("SET kessel.tenant = 'row-b'; SELECT count(*) FROM data.accounts"), '5', 'the superuser still works for any tenant');

# Batches of an INSERT of which some rows are not inserted.
$s = $k->member_session('solo-a');
is($s->run("INSERT INTO data.accounts (id, name) SELECT i, 'new ' || i FROM generate_series(1, 20) i ON CONFLICT DO NOTHING")->{state}, '', 'a batch with conflicts at its start');
ok_run($s->run("SELECT count(*) FROM data.accounts"), '20', 'leaves the session alive, and what was new is there');
is($s->run("INSERT INTO data.accounts (id, name) SELECT i, 'new ' || i FROM generate_series(1, 1700) i ON CONFLICT DO NOTHING")->{state}, '', 'several batches');
ok_run($s->run("SELECT count(*), count(DISTINCT name) FROM data.accounts"), '1700|1700', 'no row is lost to the ones that were left out');
$s->run('DELETE FROM data.accounts WHERE id > 5');
$s->quit;

# Rows that were being put aside when a savepoint was rolled back.
$k->data_exec($k->{solo}, "CREATE TABLE wide AS SELECT i AS id, repeat('x', 800) AS filler FROM generate_series(1, 100000) i; GRANT SELECT ON wide TO $k->{solo}{runtime}");
$k->exec('CREATE FOREIGN TABLE data.wide (id integer, filler text) SERVER kessel_router OPTIONS (schema_name \'@tenant\'); GRANT SELECT ON data.wide TO kessel_user');
$s = $k->member_session('solo-a');
$s->run('BEGIN; DECLARE c CURSOR FOR SELECT id FROM data.wide w WHERE filler IS NOT NULL');
ok_run($s->run('FETCH 1 FROM c'), '1', 'rows stream');
$s->run("SAVEPOINT a; SET LOCAL statement_timeout = '10ms'");
is($s->run('SELECT count(*) FROM data.accounts')->{state}, '57014', 'cancelled while they are put aside');
$s->run('ROLLBACK TO a');
my $r = $s->run('FETCH ALL FROM c');
my $rows = () = $r->{out} =~ /^/mg;
ok($r->{state} eq '25000' || $r->{state} eq '' && $rows == 99999, 'a cursor that has lost rows says so') or diag("$rows rows, state \"$r->{state}\"\n$r->{err}");
$s->run('ROLLBACK');
$s->quit;

# A tenant column that is shorter than the tenants' ids.
{
    my $d = $k->{shared};

    $k->data_exec($d, <<"SQL");
SET ROLE $d->{owner};
CREATE TABLE short (tenant_id varchar(4) NOT NULL, note text);
CREATE TABLE fixed (tenant_id char(4) NOT NULL, note text);
SELECT kessel_agent.protect('short'), kessel_agent.protect('fixed');
GRANT SELECT, INSERT ON short, fixed TO $d->{runtime};
SQL
    $k->data_exec($d, "INSERT INTO short VALUES ('row-', 'whose?'); INSERT INTO fixed VALUES ('row-', 'whose?')");
    $k->exec("SELECT kessel.import_tables('shared', 'public', 'data', '{short,fixed}'); GRANT SELECT, INSERT ON data.short, data.fixed TO kessel_user");
    foreach my $table (qw(short fixed))
    {
        ok_run($k->as_member('row-a', "SELECT note FROM data.$table"), '', "$table: an id that only begins alike is another tenant's");
        is($k->as_member('row-a', "INSERT INTO data.$table (note) VALUES ('x')")->{state}, '22001', "$table: an id that does not fit is not cut");
    }
}

# A shared table that came later and was not protected.
{
    my $d = $k->{shared};

    $k->data_exec($d, "SET ROLE $d->{owner}; CREATE TABLE late (tenant_id text, note text); INSERT INTO late VALUES ('row-b', 'secret'); GRANT SELECT ON late TO $d->{runtime}");
    my $r = $k->run("SELECT kessel.import_tables('shared', 'public', 'data', '{late}')");
    like_error($r, 'KR006', qr/not safe for row isolation/, 'an unprotected table is not imported', hint => qr/protect/);
    like($r->{detail}, qr/public\.late/, 'and named');
    $k->data_exec($d, "SET ROLE $d->{owner}; SELECT kessel_agent.protect('late')");
    $k->exec("SELECT kessel.import_tables('shared', 'public', 'data', '{late}'); GRANT SELECT ON data.late TO kessel_user");
    ok_run($k->as_member('row-a', 'SELECT note FROM data.late'), '', 'protected, it is, and shows nothing of another tenant');
}

# Urls that lead to this server without allow_local.
{
    my $port = $k->node->port;
    my $host = $k->node->host;
    my $solo = $k->{solo}{port};

    foreach my $case (
        [ "host=127.0.0.1,$host port=1,$port", 'a unix socket behind another host' ],
        [ "host=$host,127.0.0.1 port=1,1", 'a unix socket before another host' ],
        [ "host=127.0.0.1,127.0.0.1 port=$solo,$port target_session_attrs=standby", 'this server behind one that is refused' ],
        [ "host=localhost port=$port", 'localhost' ],
        [ "hostaddr=127.0.0.1 port=$port", 'hostaddr' ],
        [ "host=127.0.0.2 port=$port", 'another address of the loopback' ],
        [ "host=0.0.0.0 port=$port", 'the address of all' ],
        [ "host=::ffff:127.0.0.1 port=$port", 'a mapped address' ])
    {
        my ($url, $what) = @$case;
        my $r = $k->run("SET ROLE kessel_admin; SELECT kessel.create_data_source('back', '$url dbname=tenants user=$k->{solo}{runtime} password=$k->{solo}{password}');"
              . "SELECT kessel.create_tenant('back', data_source => 'back')", user => 'admin');
        $r = $k->run('SELECT * FROM data.accounts', tenant => 'back') if $r->{state} eq '';
        is($r->{state}, 'KR005', "refused: $what") or diag($r->{err});
        $k->run("SELECT kessel.drop_tenant('back')");
        $k->run("SELECT kessel.drop_data_source('back')");
    }
}

done_testing();

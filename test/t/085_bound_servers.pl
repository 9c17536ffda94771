# Servers with options of libpq: who may use which password, secrets of the
# vault, changed options and credentials, ANALYZE with sampling, dump and restore.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = PASSWORD_MARK;
my $k = KesselTest->new;
my $d = $k->data_cluster('solo');
my $tls = $k->data_cluster('tls', tls => 'good');
$k->crm_database($d, 'solo');
$k->crm_database($tls, 'tls');
$k->exec(<<"SQL");
CREATE SERVER solo FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host '127.0.0.1', port '$d->{port}', dbname '$d->{db}');
CREATE SCHEMA far;
GRANT USAGE ON SCHEMA far TO PUBLIC;
CREATE FOREIGN TABLE far.accounts (id integer, name text) SERVER solo OPTIONS (schema_name 'public');
GRANT SELECT, INSERT ON far.accounts TO PUBLIC;
GRANT USAGE ON FOREIGN SERVER solo TO app, stranger, service;
GRANT USAGE ON FOREIGN DATA WRAPPER kessel_fdw TO app;
SQL
my $count = 'SELECT count(*) FROM far.accounts';

# The user mapping is that of the user the statement runs as.
like_error($k->run($count, user => 'app'), '42704', qr/user mapping not found/, 'no user mapping');
ok_run($k->run("CREATE USER MAPPING FOR app SERVER solo OPTIONS (user '$d->{runtime}', password '$d->{password}'); $count", user => 'app'),
    '5', 'a user makes his own mapping, and its password is used');
like_error($k->run($count, user => 'stranger'), '42704', qr/user mapping not found/, 'nobody else has it');
$k->exec('CREATE VIEW far.names AS SELECT name FROM far.accounts; ALTER VIEW far.names OWNER TO app; GRANT SELECT ON far.names TO PUBLIC');
ok_run($k->run('SELECT count(*) FROM far.names', user => 'stranger'), '5', 'below a view counts the mapping of its owner');
$k->exec('CREATE FUNCTION far.count() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT count(*) FROM far.accounts $$;'
      . 'ALTER FUNCTION far.count() OWNER TO app');
ok_run($k->run('SELECT far.count()', user => 'stranger'), '5', 'within a SECURITY DEFINER function, too');

# A connection whose settings could not be made is not used.
{
    $k->data_exec($d, 'REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM PUBLIC');
    my $s = $k->session(user => 'app');
    like_error($s->run($count), '42501', qr/permission denied for function set_config/, 'no settings, first') foreach 1 .. 2;
    $s->run("BEGIN; SAVEPOINT a; $count");
    isnt($s->run("ROLLBACK TO a; $count")->{state}, '', 'nor after a savepoint');
    $s->run('ROLLBACK');
    $k->data_exec($d, 'GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO PUBLIC');
    ok_run($s->run($count), '5', 'with them it works');
    $s->quit;
}

# A wrong password, and what an error tells.
$k->exec("CREATE USER MAPPING FOR stranger SERVER solo OPTIONS (user '$d->{runtime}', password '$mark-wrong')");
my $r = $k->run($count, user => 'stranger');
like_error($r, '08001', qr/^could not connect to server "solo"$/, 'a wrong password');
like($r->{detail}, qr/password authentication failed for user "$d->{runtime}"/, 'the reason is told');
unlike($r->{err}, qr/\Q$mark\E/, 'the password is not');

# Nobody borrows what the server's own user can log in with.
$k->exec("ALTER USER MAPPING FOR stranger SERVER solo OPTIONS (DROP password)");
like_error($k->run($count, user => 'stranger'), '2F003', qr/^password is required$/, 'a mapping without a password is for superusers');
{
    my $host = $d->{node}->host;
    $k->exec("CREATE SERVER trusting FOREIGN DATA WRAPPER kessel_fdw OPTIONS (host '$host', port '$d->{port}', dbname '$d->{db}');"
          . "CREATE FOREIGN TABLE far.trusted (id integer) SERVER trusting OPTIONS (schema_name 'public', table_name 'accounts'); GRANT SELECT ON far.trusted TO PUBLIC;"
          . "CREATE USER MAPPING FOR PUBLIC SERVER trusting OPTIONS (user '$d->{runtime}', password '$mark-any')");
    like_error($k->run('SELECT count(*) FROM far.trusted', user => 'stranger'), '2F003', qr/^password is required$/,
        'nor one where the server asks for none', hint => qr/password_required=false/);
    my $s = $k->session;
    ok_run($s->run('SELECT count(*) FROM far.trusted'), '5', 'a superuser needs none');
    like_error($s->run('SET ROLE stranger; SELECT count(*) FROM far.trusted'), '2F003', qr/^password is required$/,
        'the connection that he has made is not for others');
    $s->quit;
}

# What a role may is asked anew for each statement.
{
    $k->exec('CREATE ROLE fallen LOGIN SUPERUSER');
    my $s = $k->session(user => 'fallen');
    ok_run($s->run('SELECT count(*) FROM far.trusted'), '5', 'a superuser');
    $k->exec('ALTER ROLE fallen NOSUPERUSER');
    like_error($s->run('SELECT count(*) FROM far.trusted'), '2F003', qr/^password is required$/, 'who is none any more');
    $s->quit;
}

# A secret of the vault instead.
$k->exec("SELECT vault.create_secret('$d->{password}', 'solo runtime')");
$k->exec("ALTER USER MAPPING FOR stranger SERVER solo OPTIONS (ADD secret 'solo runtime')");
ok_run($k->run($count, user => 'stranger'), '5', 'a secret is a password');
is($k->run("SELECT umoptions FROM pg_user_mappings WHERE usename = 'stranger' AND srvname = 'solo'")->{out}, "{user=$d->{runtime},\"secret=solo runtime\"}",
    'the catalog has its name alone');
my $id = $k->exec("SELECT id FROM vault.secrets WHERE name = 'solo runtime'");
$k->exec("ALTER USER MAPPING FOR stranger SERVER solo OPTIONS (SET secret '$id')");
ok_run($k->run($count, user => 'stranger'), '5', 'it may be named by its id');

my $s = $k->session(user => 'stranger');
ok_run($s->run($count), '5', 'connected');
$k->data_exec($d, "ALTER ROLE $d->{runtime} PASSWORD '$mark-rotated'");
ok_run($s->run($count), '5', 'a connection outlives the password');
$k->exec("SELECT vault.update_secret('$id', '$mark-stale')");
like_error($s->run($count), '08001', qr/could not connect/, 'a new version of the secret means a new connection');
$k->exec("SELECT vault.update_secret('$id', '$mark-rotated')");
ok_run($s->run($count), '5', 'which finds the newest one');
$k->exec("SELECT vault.delete_secret('$id')");
like_error($s->run($count), '42704', qr/^secret "$id" does not exist$/, 'a secret that was deleted');
$s->quit;
$k->data_exec($d, "ALTER ROLE $d->{runtime} PASSWORD '$d->{password}'");

# Options that change reach a session at its next transaction.
$s = $k->session;
$k->exec("CREATE USER MAPPING FOR postgres SERVER solo OPTIONS (user '$d->{runtime}', password '$d->{password}')");
ok_run($s->run($count), '5', 'connected');
my $pid = $s->run("SELECT remote_pid FROM kessel.connections WHERE data_source = 'solo'")->{out};
ok_run($s->run("SELECT count(*) FROM far.accounts WHERE id > 3; SELECT remote_pid FROM kessel.connections WHERE data_source = 'solo'"), "2\n$pid", 'the connection is kept');
$s->run("BEGIN; $count");
$k->exec("ALTER SERVER solo OPTIONS (SET port '$tls->{port}', ADD sslmode 'verify-full', ADD sslrootcert '$tls->{ca}');"
      . "ALTER USER MAPPING FOR postgres SERVER solo OPTIONS (SET user '$tls->{runtime}', SET password '$tls->{password}')");
ok_run($s->run("SELECT min(name) FROM far.accounts"), 'solo account 1', 'a transaction goes on where it began');
$s->run('COMMIT');
ok_run($s->run('SELECT min(name) FROM far.accounts'), 'tls account 1', 'the next one goes where the options say, with TLS');
$k->exec("ALTER SERVER solo OPTIONS (SET sslrootcert '/nonexistent')");
like_error($s->run($count), '08001', qr/could not connect to server "solo"/, 'a certificate that is not there');
$k->exec("ALTER SERVER solo OPTIONS (SET port '$d->{port}', DROP sslmode, DROP sslrootcert);"
      . "ALTER USER MAPPING FOR postgres SERVER solo OPTIONS (SET user '$d->{runtime}', SET password '$d->{password}')");
ok_run($s->run('SELECT min(name) FROM far.accounts'), 'solo account 1', 'and back');

# use_remote_estimate: postgres_fdw asks over a connection of its own, which must
# hold no lock that we then wait for.
$k->exec("ALTER FOREIGN TABLE far.accounts OPTIONS (ADD use_remote_estimate 'true')");
$k->data_exec($d, 'ANALYZE accounts');
like($s->run('EXPLAIN SELECT * FROM far.accounts')->{out}, qr/rows=5 /, 'the remote estimate is asked for');
$k->data_exec($d, "CREATE TABLE scrap (id integer, name text); ALTER TABLE scrap OWNER TO $d->{runtime}; INSERT INTO scrap VALUES (1, 'x')");
$k->exec("CREATE FOREIGN TABLE far.scrap (id integer, name text) SERVER solo OPTIONS (schema_name 'public', use_remote_estimate 'true')");
ok_run($s->run("SET statement_timeout = '20s'; BEGIN; SELECT count(*) FROM far.scrap; TRUNCATE far.scrap"), '1', 'TRUNCATE after a SELECT that was estimated there');
like_error($s->run('SELECT count(*) FROM far.scrap'), '0A000', qr/after TRUNCATE in the same transaction/, 'an estimate after TRUNCATE does not wait for ever');
ok_run($s->run('ROLLBACK; BEGIN; TRUNCATE far.scrap; COMMIT; SELECT count(*) FROM far.scrap'), '0', 'after the commit it is asked again');
$k->exec("ALTER FOREIGN TABLE far.accounts OPTIONS (DROP use_remote_estimate)");
$s->quit;

# ANALYZE, with samples taken there from PostgreSQL 16 on.
$k->data_exec($d, "CREATE TABLE big AS SELECT i AS id, i % 50 AS kind FROM generate_series(1, 60000) i; CREATE VIEW seen AS SELECT * FROM big;"
      . "ANALYZE big; GRANT SELECT ON big, seen TO $d->{runtime}");
$k->exec('CREATE FOREIGN TABLE far.big (id integer, kind integer) SERVER solo OPTIONS (schema_name \'public\')');
my $stats = "SELECT reltuples, (SELECT n_distinct FROM pg_stats WHERE tablename = 'big' AND attname = 'kind') FROM pg_class WHERE oid = 'far.big'::regclass";
ok_run($k->run("SET default_statistics_target = 10; ANALYZE far.big; $stats"), '60000|50', 'ANALYZE');
SKIP:
{
    skip 'analyze_sampling is of PostgreSQL 16', 7 if $k->node->pg_version < 16;
    foreach my $method (qw(off auto random system bernoulli))
    {
        $k->exec("ALTER FOREIGN TABLE far.big OPTIONS (" . ($method eq 'off' ? 'ADD' : 'SET') . " analyze_sampling '$method')");
        my $log = $k->run("SET default_statistics_target = 10; SET client_min_messages = info; ANALYZE VERBOSE far.big; $stats");
        like($log->{out}, qr/^60000\|50$/m, "ANALYZE with sampling $method");
    }
    $k->exec("ALTER FOREIGN TABLE far.big OPTIONS (ADD table_name 'seen', SET analyze_sampling 'auto')");
    is($k->run('ANALYZE far.big')->{state}, '', 'a view can be sampled automatically');
    $k->exec("ALTER FOREIGN TABLE far.big OPTIONS (SET analyze_sampling 'bernoulli')");
    is($k->run('ANALYZE far.big')->{state}, '', 'or is read whole where it has no row count');
}

# ANALYZE sees what its transaction has written, and can be stopped.
$k->data_exec($d, "CREATE TABLE fresh (id integer); GRANT SELECT, INSERT ON fresh TO $d->{runtime};"
      . "CREATE VIEW endless AS SELECT a + b AS id FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b; GRANT SELECT ON endless TO $d->{runtime}");
$k->exec("CREATE FOREIGN TABLE far.fresh (id integer) SERVER solo OPTIONS (schema_name 'public'); CREATE FOREIGN TABLE far.endless (id integer) SERVER solo OPTIONS (schema_name 'public')");
$s = $k->session;
ok_run($s->run("BEGIN; INSERT INTO far.fresh SELECT generate_series(1, 7); ANALYZE far.fresh; SELECT reltuples FROM pg_class WHERE oid = 'far.fresh'::regclass; ROLLBACK"), '7',
    'ANALYZE counts rows of its own transaction');
like_error($s->run("SET statement_timeout = '300ms'; ANALYZE far.endless"), '57014', qr/statement timeout/, 'ANALYZE of what has no end is stopped');
ok_run($s->run("SET statement_timeout = 0; $count"), '5', 'and the connection works');
$s->quit;

# Dump and restore: a mapping comes before the secret that it names.
$k->exec("SELECT vault.create_secret('$d->{password}', 'again'); ALTER USER MAPPING FOR stranger SERVER solo OPTIONS (SET secret 'again')");
ok_run($k->run($count, user => 'stranger'), '5', 'before');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
command_ok([ 'pg_dump', '-f', $dump, '-d', $k->node->connstr('infra') ], 'dump');
$k->exec('CREATE DATABASE copy', db => 'postgres');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $k->node->connstr('copy') ], 'restore');
ok_run($k->run($count, user => 'stranger', db => 'copy'), '5', 'after');

# No password is in the log: failed statements stand there, none was one with a password.
unlike(slurp_file($k->node->logfile), qr/\Q$mark\E-(?:wrong|any|stale|rotated)/, 'and none of it is in the log');
done_testing();

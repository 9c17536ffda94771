# A data source that a customer runs can answer anything to a migration, too.
# Whatever it sends, its target fails, in bounded time and memory; those of others
# are migrated, and the server goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Socket::INET;
use KesselTest;
use POSIX ();
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes qw(time);

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length($body // '')) . ($body // '') }
sub columns { return message('T', pack('n', scalar @_) . join('', map { pack('Z* N n N n N n', $_, 0, 0, 25, 0xffff, 0xffffffff, 0) } @_)) }
my %sum;    # of the migrations, where a record has their names
sub row { return message('D', pack('n', scalar @_) . join('', map { defined ? pack('N/a*', $sum{$_} // $_) : pack('N', 0xffffffff) } @_)) }
sub done { return message('C', "$_[0]\0") }
sub error { return message('E', "SERROR\0VERROR\0C$_[0]\0M$_[1]\0\0") }
sub record { return columns(1 .. 5) . join('', map { row(@$_) } @_) . done('SELECT 1') }

my %record = (
    null_record => sub { record([ (undef) x 5 ]) },
    few_columns => sub { columns(1 .. 3) . row(1, 2, 3) . done('SELECT 1') },
    no_columns_of_record => sub { columns() . row() . done('SELECT 1') },
    bad_name => sub { record([ 77, "0077_\xf0\x9f", 'sum1', 'applied', 0 ]) },
    long_name => sub { record([ 77, 'x' x 10_000_000, 'y' x 10_000_000, 'applied', 0 ]) },
    gigantic_version => sub { record([ '9' x 40, '0001_a', 'sum1', 'applied', 0 ]) },
    twice => sub { record(([ 1, '0001_a', 'sum1', 'applied', 0 ]) x 5) },
    odd_state => sub { record([ 1, '0001_a', 'sum1', 'x' x 1000, '-9' ]) },
    negative_progress => sub { record([ 1, '0001_a', 'sum1', 'applied', 0 ], [ 2, '0002_b', 'sum2', 'applying', -2000000000 ]) },
    gigantic_progress => sub { record([ 1, '0001_a', 'sum1', 'applied', 0 ], [ 2, '0002_b', 'sum2', 'applying', 2000000000 ]) },
    deadlocks => sub { error('40P01', 'deadlock') },
    undefined_table => sub { error('42P01', 'no table, ever') },
    long_error => undef,
    endless_record => undef,
);
# Other commands: when, and what is answered.
my %answer = (
    no_columns => [ qr/to_regnamespace/, sub { columns() . row() . done('SELECT 1') } ],
    null_schema => [ qr/to_regnamespace/, sub { columns('v') . row(undef) . done('SELECT 1') } ],
    two_schemas => [ qr/to_regnamespace/, sub { columns('v') . row('t') x 1000 . done('SELECT 1') } ],
    safety_no_columns => [ qr/me AS MATERIALIZED/, sub { columns() . row() x 3 . done('SELECT 3') } ],
    safety_bad => [ qr/me AS MATERIALIZED/, sub { columns('v') . row("\xf0\x9f") x 3 . row(undef) x 100 . done('SELECT 3') } ],
    rows_of_begin => [ qr/^START TRANSACTION/, sub { columns('v', 'w') . row(1, 2) x 1000 . done('SELECT 1') } ],
    rows_of_commit => [ qr/^COMMIT/, sub { columns('v', 'w') . row(1, 2) x 1000 . done('COMMIT') } ],
    other_commit => [ qr/^COMMIT/, sub { done('ROLLBACK') } ],
    error_at_commit => [ qr/^COMMIT/, sub { error('40001', 'again') } ],
    silent_at_read => [ qr/FROM kessel_agent\.migrations/, sub { '' } ],
    silent_at_work => [ qr/CREATE TABLE a/, sub { '' } ],
    silent_at_commit => [ qr/^COMMIT/, sub { '' } ],
    silent_at_reset => [ qr/^DISCARD/, sub { '' } ],
    hangs_up_at_reset => [ qr/^DISCARD/, sub { POSIX::_exit(0) } ],
    endless_settings => [ qr/set_config\('search_path', 'pg_catalog'/, undef ],
    # Outside of a transaction: where it goes on with 0002.
    index_no_columns => [ qr/indisvalid/, sub { columns() . row() . done('SELECT 1') } ],
    index_long => [ qr/indisvalid/, sub { columns('v', 'w') . row('f', 'x' x 1_000_000) x 2 . done('SELECT 2') } ],
);

sub read_bytes
{
    my ($socket, $n) = @_;
    my $data = '';
    while (length($data) < $n) { sysread($socket, $data, $n - length($data), length($data)) or POSIX::_exit(0) }
    return $data;
}

sub serve
{
    my ($socket) = @_;
    my ($db, $sql, $mute, $status) = ('', '', 0, 'I');
    my $send = sub {
        my ($data) = @_;
        while (length $data) { my $n = syswrite($socket, $data) or POSIX::_exit(0); substr($data, 0, $n) = '' }
    };

    for (;;)
    {
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        my $code = unpack('N', $body);
        if ($code == 80877103 || $code == 80877104) { $send->('N'); next }
        POSIX::_exit(0) if $code == 80877102;    # cancel
        my %option = split /\0/, substr($body, 4);
        $db = $option{database};
        last;
    }
    $send->(message('R', pack('N', 3)));
    read_bytes($socket, 1);
    read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
    $send->(message('R', pack('N', 0)) . join('', map { message('S', "$_\0") } "server_version\0" . "15.0", "client_encoding\0UTF8", "standard_conforming_strings\0on")
        . message('K', pack('NN', $$, 1)) . message('Z', 'I'));

    for (;;)
    {
        my $type = read_bytes($socket, 1);
        my $body = read_bytes($socket, unpack('N', read_bytes($socket, 4)) - 4);
        POSIX::_exit(0) if $type eq 'X';
        if ($type eq 'P') { (undef, $sql) = split /\0/, $body; $send->(message('1')) unless $mute }
        $send->(message('2')) if $type eq 'B' && !$mute;
        $send->(message('Z', $status)) if $type eq 'S' && !$mute;
        $mute = 0 if $type eq 'S' && $mute == 2;
        next if $type ne 'E' || $mute;
        my $own = $answer{$db} && $sql =~ $answer{$db}[0] ? $answer{$db}[1] : undef;
        my $reads = $sql =~ /^SELECT version.* FROM kessel_agent\.migrations/s;
        $status = $sql =~ /^START TRANSACTION/ ? 'T' : $sql =~ /^(?:COMMIT|ROLLBACK)/ ? 'I' : $status;
        if ($db eq 'endless_settings' && $sql =~ $answer{$db}[0]) { $send->(columns('v')); $send->(row('x' x 1000) x 100) while 1 }
        if ($reads && $db eq 'endless_record')
        {
            $send->(columns(1 .. 5));
            $send->(record([ 1, '0001_a', 'sum1', 'applied', 0 ]) =~ s/^T.*?(?=D)//sr =~ s/C[^D]*$//sr x 1000) for 1 .. 20000;
        }
        if ($reads && $db eq 'long_error')
        {
            my $length = 100_000_000;
            $send->('E' . pack('N', 4 + $length + length("SERROR\0VERROR\0C22000\0M\0\0")) . "SERROR\0VERROR\0C22000\0M");
            $send->('x' x 1_000_000) for 1 .. $length / 1_000_000;
            $send->("\0\0");
            $mute = 2;
            $send->(message('Z', $status));
            next;
        }
        my $what = $own ? $own->() : $reads && $record{$db} ? $record{$db}->()
          : $reads ? ($db =~ /^index/ ? record([ 1, '0001_a', 'sum1', 'applied', 0 ], [ 2, '0002_b', 'sum2', 'applying', 0 ]) : columns(1 .. 5) . done('SELECT 0'))
          : $sql =~ /to_regnamespace/ ? columns('v') . row('t') . done('SELECT 1')
          : message('n') . done(($sql =~ /^(\w+)/)[0]);
        $mute = 1 if $what eq '';
        $send->($what);
    }
}

my $k = KesselTest->new;
my $good = $k->data_cluster('good');
$k->crm_database($good, 'good');
$k->data_source($good);
$k->data_exec($good, "DO 'BEGIN EXECUTE format(''GRANT CREATE ON DATABASE %I TO $good->{owner}'', current_database()); END'; GRANT CREATE ON SCHEMA public TO $good->{owner}");
$k->exec("SELECT kessel.add_blueprint('b', for_new_tenants => false)");
$k->exec("SELECT kessel.add_migration('b', '0001_a', 'CREATE TABLE a (x int)', 'DROP TABLE a')");
$k->exec("SELECT kessel.add_migration('b', '0002_b', 'CREATE INDEX CONCURRENTLY a_x ON a (x)', 'DROP INDEX CONCURRENTLY a_x', false)");
@sum{qw(sum1 sum2)} = split /\n/, $k->exec("SELECT checksum FROM kessel.migrations WHERE blueprint = 'b' ORDER BY version");

my $listener = IO::Socket::INET->new(Listen => 100, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "cannot listen: $!";
my $port = $listener->sockport;
my $server = fork // die;
if (!$server)
{
    $SIG{CHLD} = 'IGNORE';
    while (my $socket = $listener->accept) { next if fork; eval { serve($socket) }; POSIX::_exit(0) }
    POSIX::_exit(0);
}
close $listener;
END { local $?; kill 'KILL', $server if $server }

my @cases = grep { !$ENV{KR_CASE} || /$ENV{KR_CASE}/ } sort keys %record, keys %answer;
$k->exec("SELECT kessel.create_data_source('$_', 'host=127.0.0.1 port=$port dbname=$_ user=u password=p sslmode=disable'" . (/^safety/ ? ", isolation => 'row'" : '') . ')') foreach @cases;

my $started = $k->exec('SELECT pg_postmaster_start_time()');
my $s = $k->session;
my $start = time;
my $r = $s->run("SET client_min_messages = warning; CALL kessel.migrate('b', canary => '{}', max_parallel => 8, on_error => 'continue', timeout => '10 s', lock_retries => 1)");
is($r->{state}, 'KR013', 'some fail') or diag(substr($r->{err}, 0, 2000));
cmp_ok(time - $start, '<', 240, 'it ends');
my ($peak) = slurp_file('/proc/' . $s->pid . '/status') =~ /^VmHWM:\s*(\d+) kB/m;
# libpq has to have an error whole.
cmp_ok($peak / 1024, '<', 700, 'in bounded memory');

my %state = map { split /\|/, $_, 2 } split /\n/, $k->exec("SELECT data_source, concat_ws(' ', state, error ->> 'sqlstate') FROM kessel.migration_run_targets");
is($state{good}, 'done', 'the good one is migrated');
# What it says of itself is what counts: it has said that it is done.
my %well = map { $_ => 1 } qw(odd_state two_schemas rows_of_begin rows_of_commit silent_at_reset hangs_up_at_reset few_columns no_columns_of_record gigantic_progress index_no_columns index_long negative_progress);
foreach my $case (@cases)
{
    like($state{$case} // '', $well{$case} ? qr/^done$/ : $case eq 'silent_at_commit' ? qr/^unknown 08007$/ : qr/^failed \w{5}$/, $case);
}
is($k->exec('SELECT pg_postmaster_start_time()'), $started, 'no backend has crashed');
is($k->exec("SELECT count(*) FROM kessel.migration_run_targets WHERE octet_length(error::text) > 200000"), '0', 'what is kept of errors is short');
is($k->exec("SELECT count(*) FROM (SELECT jsonb_each_text(error), convert_from(convert_to(error::text, 'UTF8'), 'UTF8') FROM kessel.migration_run_targets) x") > 0, 1, '... and well-formed');
ok_run($s->run('SELECT 1'), '1', 'the session goes on');
$s->quit;

#
# A database in which the runtime role may make schemas: it lays out a record of
# its own, in which whoever reads it runs its code.
#
my $trap = $k->data_cluster('trap');
$k->data_source($trap);
$k->data_exec($trap, <<"SQL");
CREATE TABLE public.caught (who name);
GRANT INSERT ON public.caught TO PUBLIC;
GRANT CREATE ON SCHEMA public TO $trap->{owner};
CREATE SCHEMA kessel_agent AUTHORIZATION $trap->{runtime};
SET ROLE $trap->{runtime};
CREATE FUNCTION kessel_agent.spring() RETURNS integer LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.caught VALUES (current_user); RETURN 1; END';
CREATE VIEW kessel_agent.migrations AS SELECT ''::name AS schema_name, 'b'::text AS blueprint, kessel_agent.spring() AS version, '' AS name, '' AS checksum, '' AS state, 0 AS statements_done;
GRANT USAGE ON SCHEMA kessel_agent TO PUBLIC;
GRANT SELECT ON kessel_agent.migrations TO PUBLIC;
SQL
sub trapped { return $k->exec("SELECT t.state, t.error ->> 'sqlstate' FROM kessel.migration_run_targets t JOIN kessel.migration_runs r USING (run_id) WHERE data_source = 'trap' ORDER BY r.started_at DESC LIMIT 1") }
my $migrate = "CALL kessel.migrate('b', 1, canary => '{}', lock_retries => 0)";
$k->exec("UPDATE app.data_sources SET status = 'disabled' WHERE name <> 'trap'");
$k->run($migrate);
is(trapped(), 'failed|42501', 'a record that somebody else has made is refused');
is($k->data_exec($trap, 'SELECT count(*) FROM public.caught'), '0', '... and not read');
is($k->exec("SELECT error ->> 'sqlstate' FROM kessel.drift('b') WHERE data_source = 'trap'"), '42501', '... nor does a comparison of schemas read it');

# What the owner makes is given to others there, by default; not its record.
$k->data_exec($trap, <<"SQL");
DROP SCHEMA kessel_agent CASCADE;
DO 'BEGIN EXECUTE format(''GRANT CREATE ON DATABASE %I TO $trap->{owner}'', current_database()); END';
ALTER DEFAULT PRIVILEGES FOR ROLE $trap->{owner} GRANT ALL ON TABLES TO $trap->{runtime}, PUBLIC;
SQL
$k->run($migrate);
is(trapped(), 'done|', 'one of its own is made');
my $rights = q{SELECT string_agg(DISTINCT grantee::text, ',') FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'kessel_agent'::regnamespace AND relkind = 'r' AND grantee <> relowner};
is($k->data_exec($trap, $rights), '', '... which nobody else may touch');
$k->exec("SELECT kessel.install_agent('trap')");
is($k->data_exec($trap, "SELECT to_regclass('kessel_agent.tenants')"), 'kessel_agent.tenants', 'the agent beside it');
is($k->data_exec($trap, $rights), '', '... and nobody may touch its fence');

done_testing();

# No credential stands in the clear anywhere: passwords that carry a mark go
# through every door, also with errors, and the mark is then looked for.
use strict;
use warnings;

use lib 'test/lib';
use File::Find;
use IPC::Run ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = PASSWORD_MARK;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => <<"CONF");
shared_preload_libraries = 'pg_stat_statements, kessel_router'
pg_stat_statements.track = all
kessel.root_key_file = '$key_file'
log_min_messages = info
log_min_error_statement = info
log_error_verbosity = verbose
log_parameter_max_length_on_error = -1
wal_level = replica
CONF
$k->exec('CREATE EXTENSION pg_stat_statements');

# The search itself must be able to find: a table with the mark in it.
# (In two steps: the rows of CREATE TABLE AS may bypass the WAL.)
$k->exec('CREATE TABLE public.planted (p text)');
$k->exec("INSERT INTO public.planted SELECT 'plan' || 'ted-mark'");
my @planted = search('planted-mark');
cmp_ok(scalar(grep { m{/base/} } @planted), '>', 0, 'the search finds a planted mark in the data directory');
cmp_ok(scalar(grep { m{/pg_wal/} } @planted), '>', 0, 'and in the WAL');
like(dump_of('infra'), qr/planted-mark/, 'and in a dump');
is($k->run("DO \$\$ BEGIN RAISE '%', 'planted' || '-log'; END \$\$")->{state}, 'P0001', 'an error');
cmp_ok(scalar(grep { /infra\.log/ } search('planted-log')), '>', 0, 'and in the log');
$k->exec('DROP TABLE public.planted');

#
# Every door
#
$k->fleet;
my @wrong = (
    # Errors of the calls that carry a password, at all their stages.
    "SELECT kessel.create_data_source('Bad Name', 'postgresql://u:$mark-1\@127.0.0.1/db')",
    "SELECT kessel.create_data_source('x', 'postgresql://u:$mark-2\@127.0.0.1/db?nosuch=1')",
    "SELECT kessel.create_data_source('x', 'postgresql://u:$mark-3\@[::1')",
    "SELECT kessel.create_data_source('x', 'password=$mark-4 host')",
    "SELECT kessel.create_data_source('x', 'postgresql://u:$mark-5\@127.0.0.1/db', isolation => 'nosuch')",
    "SELECT kessel.create_data_source('x', 'postgresql://u:$mark-6\@127.0.0.1/db', options => '[]')",
    "SELECT kessel.create_data_source('shared', 'postgresql://u:$mark-7\@127.0.0.1/db')",
    "SELECT kessel.alter_data_source('nosuch', 'postgresql://u:$mark-8\@127.0.0.1/db')",
    "SELECT kessel.alter_data_source('shared', 'postgresql://u:$mark-9\@127.0.0.1/db?nosuch=1')",
    "SELECT kessel.set_credential('nosuch', 'u', '$mark-10')",
    "SELECT kessel.set_credential('shared', 'u', '$mark-11', 'nosuch')",
    "SELECT kessel.set_credential('shared', NULL, '$mark-12', NULL)",
    "SELECT vault.create_secret('$mark-13', 'dup'), vault.create_secret('$mark-14', 'dup')",
    "SELECT vault.update_secret(gen_random_uuid(), '$mark-15')",
    "SET ROLE app; SELECT kessel.set_credential('shared', 'u', '$mark-16')",
    "SET ROLE app; SELECT vault.create_secret('$mark-17', 'n')",
    # A statement that fails after the call has succeeded.
    "SELECT kessel.set_credential('solo_a', 'u', '$mark-18'), 1 / (random() * 0)::int",
    # Inside a function of the user's.
    "DO \$\$ BEGIN PERFORM kessel.set_credential('nosuch', 'u', '$mark-19'); END \$\$",
    # As parameters.
    "PREPARE p (text) AS SELECT kessel.set_credential('nosuch', 'u', \$1); EXECUTE p('$mark-20')");
foreach my $sql (@wrong)
{
    my $r = $k->run($sql);
    (my $shown = $sql) =~ s/$mark/.../g;
    isnt($r->{state}, '', "fails: $shown");
    # psql itself repeats the line of a syntax or function lookup error.
    unlike(join(' ', @{$r}{qw(message detail hint)}), qr/$mark/, 'without the password in the error');
}
$k->exec("SELECT kessel.create_data_source('wrong', 'postgresql://$k->{solo}{runtime}:$mark-wrong\@127.0.0.1:$k->{solo}{port}/tenants')");
$k->exec("SELECT kessel.create_tenant('wrong', data_source => 'wrong')");
my $refused = $k->run('SELECT * FROM data.accounts', tenant => 'wrong');
is($refused->{state}, '28P01', 'a wrong password');
unlike($refused->{err}, qr/$mark/, 'is not in the error');
$k->exec("SELECT kessel.set_credential('wrong', 'u', '$mark-replaced'); SELECT kessel.set_credential('wrong', 'u', '$mark-again', 'owner')");
$k->exec("SELECT kessel.alter_data_source('wrong', 'postgresql://u:$mark-altered\@127.0.0.1:$k->{solo}{port}/tenants')");
$k->run("SELECT * FROM kessel.test_data_source('wrong')");
$k->exec("SELECT vault.create_secret('$mark-secret', 'a name', 'a description')");
$k->as_member($_, 'SELECT * FROM data.accounts; UPDATE data.accounts SET balance = 1') foreach $k->tenants;

# While a connection is open, and while a call runs.
my $s = $k->session;
$s->run("SET kessel.tenant = 'row-a'; BEGIN; SELECT * FROM data.accounts");
unlike($k->exec('SELECT * FROM pg_stat_activity'), qr/$mark/, 'pg_stat_activity');
my $lock = $k->session;
$lock->run('BEGIN; LOCK TABLE app.data_source_credentials IN EXCLUSIVE MODE');
my $setter = $k->session;
$setter->start("SELECT kessel.set_credential('wrong', 'u', '$mark-running')");
ok($k->node->poll_query_until('infra', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = " . $setter->pid), 'a call that waits');
my $activity = $k->exec('SELECT * FROM pg_stat_activity');
unlike($activity, qr/$mark/, 'pg_stat_activity meanwhile');
$lock->run('ROLLBACK');
is($setter->finish->{state}, '', 'it goes on');
$_->quit foreach $lock, $setter;

unlike($k->exec('SELECT * FROM pg_stat_statements'), qr/$mark/, 'pg_stat_statements');
cmp_ok($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%set_credential%'"), '>', 0, 'which did see the calls');
unlike($k->exec('SELECT * FROM pg_settings'), qr/$mark/, 'settings');
foreach my $catalog (qw(pg_foreign_server pg_user_mapping pg_foreign_table pg_foreign_data_wrapper pg_db_role_setting pg_prepared_statements app.data_sources app.data_source_credentials vault.secrets vault.keys kessel.routes))
{
    unlike($k->exec("SELECT * FROM $catalog"), qr/$mark/, $catalog);
}
my $explain = $k->run('EXPLAIN (ANALYZE, VERBOSE, SETTINGS) SELECT * FROM data.accounts', tenant => 'row-a');
unlike($explain->{out}, qr/$mark/, 'EXPLAIN');
unlike($k->exec('SELECT * FROM kessel.doctor()'), qr/$mark/, 'doctor()');

# bytea, too: the mark in hex, as a dump would show it.
my $hex = unpack('H*', $mark);
foreach my $command ([ 'pg_dump', '-d', 'infra' ], [ 'pg_dump', '--inserts', '-d', 'infra' ], ['pg_dumpall'])
{
    my $dump = dump_of('infra', @$command);
    like($dump, qr/CREATE EXTENSION IF NOT EXISTS kessel_router/, "@$command: a whole dump");
    unlike($dump, qr/$mark|$hex/i, "@$command: no mark in it");
}

$s->quit;
is_deeply([ search($mark) ], [], 'no mark in the data directory, the WAL and the log, of a running server');
$k->node->stop;
is_deeply([ search($mark) ], [], 'nor of a stopped one');

# The root key itself.
my $root_key = slurp_file($key_file);
my @keys = ($root_key, $root_key =~ s/\s+\z//r);
push @keys, pack('H*', $keys[1]) if $keys[1] =~ /^(?:[0-9a-f]{2})+$/i;
is_deeply([ map { search($_) } @keys ], [], 'the root key is nowhere in the data directory, WAL and log');
# What the data sources wrote.
foreach my $name (qw(shared schemas solo))
{
    unlike(slurp_file($k->{$name}{node}->logfile), qr/$mark/, "log of the data cluster $name");
}

done_testing();

# The files of the infra cluster, its log among them, in which the bytes occur;
# the server's memory is written out first.
sub search
{
    my ($bytes) = @_;
    my @found;
    my $running = -e $k->node->data_dir . '/postmaster.pid';

    $k->exec('CHECKPOINT') if $running;
    find({ no_chdir => 1, wanted => sub {
        return unless -f $_;
        open(my $fh, '<:raw', $_) or return;
        local $/;
        my $content = <$fh>;
        push @found, $_ if defined $content && index($content, $bytes) >= 0;
    } }, $k->node->data_dir, $k->node->logfile);
    return @found;
}

sub dump_of
{
    my ($db, @command) = @_;
    my ($out, $err) = ('', '');
    @command = ('pg_dump', '-d', $db) unless @command;
    local $ENV{PGHOST} = $k->node->host;
    local $ENV{PGPORT} = $k->node->port;
    local $ENV{PGUSER} = 'postgres';
    IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err) or die "@command: $err";
    return $out;
}

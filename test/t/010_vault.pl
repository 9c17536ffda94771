# The vault in a running cluster: no plaintext anywhere, races, a standby, dump
# and restore. Root keys are in 011.
use strict;
use warnings;

use lib 'test/lib';
use File::Find;
use File::Temp ();
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = 'kr-vault-mark';
my $dir  = File::Temp->newdir(CLEANUP => 1);
my $k    = KesselTest->new(
    conf => "session_preload_libraries = 'kessel_router'\nshared_preload_libraries = 'pg_stat_statements'\n"
      . "wal_level = logical\nmax_wal_senders = 5\nlog_statement = all\nlog_min_duration_statement = 0\nlog_min_error_statement = debug5\n"
      . "log_parameter_max_length_on_error = -1\nlog_error_verbosity = verbose\nlog_destination = 'stderr,csvlog,jsonlog'\nlogging_collector = on\n");
my $node = $k->node;
my $data = $node->data_dir;
my $good = 'a1' x 32;

sub reload
{
    my (%set) = @_;
    $k->exec("ALTER SYSTEM SET $_ = '" . ($set{$_} =~ s/'/''/gr) . "'") foreach sort keys %set;
    $k->exec('SELECT pg_reload_conf()');
    # Once the postmaster has it, so has every session that begins.
    foreach my $name (sort keys %set)
    {
        my $value = $set{$name} =~ s/'/''/gr;
        $node->poll_query_until('infra', "SELECT current_setting('$name') = '$value'") or die "$name was not reloaded";
    }
    return;
}

# An expression over vault.status(), in a new session.
sub status
{
    my ($column) = @_;
    return $k->exec("SELECT $column FROM vault.status()");
}

# The files under a folder that hold the mark.
sub found_in
{
    my ($mark, @dirs) = @_;
    my @found;
    find({ no_chdir => 1, wanted => sub {
        return unless -f $_;
        push @found, $_ if index(slurp_file($_), $mark) >= 0;
    } }, @dirs);
    return join(' ', @found);
}

#
# The root key by command
#
my $s = $k->session;
write_key("$dir/key", $good);

sub write_key
{
    my ($file, $text) = @_;
    open(my $fh, '>', $file) or die "$file: $!";
    chmod 0600, $file;
    print $fh $text;
    close $fh;
    return;
}

reload('kessel.root_key_command' => "cat '$dir/key'; printf not-%s for-the-log >&2");
is(status('provider || sealed'), 'commandfalse', 'a command gives the root key');
my $fingerprint = status('root_key_id');
ok_run($s->run("SELECT vault.create_secret('plain', 'plain') IS NOT NULL"), 't', 'a session that was open takes it over');
ok(!-e "$data/kessel_root.key", 'no key file is made where a command is set');

reload('kessel.root_key_command' => 'false');
like_error($k->run("SELECT vault.create_secret('$mark-sealed')"), 'KR010', qr/^the vault is sealed$/, 'nothing is stored without', hint => qr/vault\.status/);

#
# No plaintext: through every function, failing and not, in every log format
#
reload('kessel.root_key_command' => "cat '$dir/key'");
$k->exec('CREATE EXTENSION pg_stat_statements');
$k->exec("CREATE FUNCTION wrapper(s text) RETURNS uuid LANGUAGE plpgsql AS 'BEGIN RETURN vault.create_secret(s); END'");
my @cases = (
    "SELECT vault.create_secret('$mark-1', 'one', 'first')"                      => '',
    "SELECT vault.create_secret('$mark-2', 'one')"                               => '23505',
    "SELECT vault.update_secret(id, '$mark-3') FROM vault.secrets"               => '',
    "SELECT VAULT.\"create_secret\" ('$mark-4')"                                 => '',
    "SELECT vault.create_secret('$mark-5', new_key_id => '$mark-5')"             => '22P02',
    "SELECT vault.create_secret('$mark-6'::integer)"                             => '22P02',
    "SELECT vault.create_secret('$mark-7' '$mark-7')"                            => '42601',
    "SELECT vault.create_secret('$mark-8"                                        => '42601',
    "SELECT vault.create_secret(\"$mark-9\")"                                    => '42703',
    "SELECT vault.create_secret('$mark-10', '$mark-10', '$mark-10', NULL, NULL, '$mark-10')" => '22P02',
    "SELECT vault.create_secret('$mark-43', '$mark-43', '$mark-43', NULL, NULL, NULL, NULL, '$mark-43')" => '42883',
    "SELECT vault.create_secret('$mark-11') / 0"                                 => '42883',
    "SELECT vault.create_secret('$mark-12'), 1 / 0"                              => '22012',
    "SELECT vault.update_secret(gen_random_uuid(), '$mark-13')"                  => '02000',
    "SELECT vault.create_secret(repeat('$mark-14', 1000000))"                    => '54000',
    "INSERT INTO vault.secrets (secret) VALUES ('$mark-15')"                     => '0A000',
    "UPDATE vault.secrets SET secret = '$mark-16 and so on and on'"              => '0A000',
    "PREPARE p (text) AS SELECT vault.create_secret(\$1); EXECUTE p('$mark-17')" => '',
    "PREPARE p (text, uuid) AS SELECT vault.create_secret(\$1, new_key_id => \$2); EXECUTE p('$mark-18', gen_random_uuid())" => '22023',
    "DO \$\$BEGIN PERFORM vault.create_secret('$mark-19'); RAISE WARNING '$mark-19'; RAISE 'no $mark-19' USING DETAIL = '$mark-19', HINT = '$mark-19'; END\$\$" => 'P0001',
    "DO \$\$BEGIN EXECUTE 'SELECT vault.create_secret(''$mark-20'' x y)'; END\$\$" => '42601',
    "BEGIN; SELECT vault.create_secret('$mark-21'); ROLLBACK"                    => '',
    "SET ROLE stranger; SELECT vault.create_secret('$mark-22')"                  => '42501',
    "SET statement_timeout = '50ms'; SELECT vault.create_secret('$mark-23'), (SELECT count(*) FROM generate_series(1, 1000000000))" => '57014',
    "SET default_transaction_read_only = on; SELECT vault.create_secret('$mark-24')"     => '25006',
    "SET debug_print_parse = on; SET debug_print_plan = on; SELECT vault.create_secret('$mark-25')" => '',
    "SET client_min_messages = log; SELECT vault.create_secret('$mark-26')"      => '',
    "SELECT kessel.create_data_source('s1', 'postgresql://u:$mark-28\@127.0.0.1:1/db')" => '',
    "SELECT kessel.create_data_source('s1', 'postgresql://u:$mark-29\@127.0.0.1:1/db')" => '23505',
    "SELECT kessel.create_data_source('no name', 'postgresql://u:$mark-30\@127.0.0.1:1/db')" => '22023',
    "SELECT kessel.create_data_source('s2', 'postgresql://u:$mark-31\@[127.0.0.1:1/db')" => '22023',
    "SELECT kessel.create_data_source('s2', 'host=127.0.0.1 password=$mark-32 $mark-32=1')" => '22023',
    "SELECT kessel.create_data_source('s2', 'host=127.0.0.1 password=''$mark-33')" => '22023',
    "SELECT kessel.create_data_source('s2', '$mark-34')" => '22023',
    "SELECT kessel.create_data_source('s2', 'postgresql://u:$mark-35\@/db')" => 'KR005',
    "SELECT kessel.create_data_source('s2', 'postgresql://u:$mark-36\@127.0.0.1:1/db', options => '{\"x\": \"$mark-36\"}')" => '22023',
    "SELECT kessel.alter_data_source('s1', url => 'postgresql://u:$mark-37\@127.0.0.1:1/db')" => '',
    "SELECT kessel.alter_data_source('s0', url => 'postgresql://u:$mark-38\@127.0.0.1:1/db')" => 'KR007',
    "SELECT kessel.set_credential('s1', 'owner', '$mark-39', 'owner')"           => '',
    "SELECT kessel.set_credential('s1', 'owner', '$mark-40', 'no purpose')"      => '22023',
    "SELECT kessel.set_credential('s0', 'owner', '$mark-41')"                    => 'KR007',
    "SELECT kessel.set_credential('$mark-42', 'owner', 's1')"                    => 'KR007',
    "COPY vault.secrets (secret) FROM stdin;\n$mark-27\n\\."                     => '0A000',
);
while (my ($sql, $state) = splice(@cases, 0, 2))
{
    is($k->run($sql)->{state}, $state, $sql =~ s/\n.*//sr);
}
like_error($k->run("SELECT vault.create_secret('x', new_key_id => 'wrong uuid')"), '22P02', qr/"wrong uuid"/, 'the client is told in full');

# Parameters of the extended protocol, unnamed and prepared statements.
write_key("$dir/script.sql", "SELECT vault.create_secret(:secret);\n");
foreach my $mode (qw(extended prepared))
{
    command_ok([ 'pgbench', '-n', '-t', '1', '-M', $mode, '-D', "secret=$mark-$mode", '-f', "$dir/script.sql", $node->connstr('infra') . ' user=postgres' ], "pgbench -M $mode");
}
write_key("$dir/script.sql", "SELECT vault.create_secret(:secret, new_key_id => :secret);\n");
system_log('pgbench', '-n', '-t', '1', '-M', 'extended', '-D', "secret=$mark-ext-error", '-f', "$dir/script.sql", $node->connstr('infra') . ' user=postgres');

# A function of the user's: the text of the call cannot be known for a secret
# before it runs (log_statement), all else is.
reload(log_statement => 'none');
is($k->run("SELECT wrapper('$mark-wrapped')")->{state}, '', 'through a function of the user\'s');
is($k->run("SELECT wrapper('$mark-wrapped'), 1 / (clock_timestamp() IS NULL)::integer")->{state}, '22012', 'the same, failing');
# What was opened is quoted by an error of what the query does with it.
$k->exec("SELECT vault.create_secret('$mark-quoted', 'quoted')");
foreach my $query ('decrypted_secret::integer FROM vault.decrypted_secrets', 'vault.reveal(id)::integer FROM vault.secrets', '(vault.reveal(name))::date FROM vault.secrets')
{
    my $r = $k->run("SELECT $query WHERE name = 'quoted'");
    like($r->{state}, qr/^22/, "$query fails");
    like($r->{message}, qr/$mark/, 'the client is told in full');
}
reload(log_statement => 'all');

my $last = $k->session;
$last->run("SELECT vault.create_secret('$mark-activity')");
is($k->exec('SELECT query FROM pg_stat_activity WHERE pid = ' . $last->pid), '<vault: statement with a secret>', 'pg_stat_activity shows a label');
$last->run("SELECT vault.create_secret('$mark-activity' x y)");
unlike($k->exec('SELECT query FROM pg_stat_activity WHERE pid = ' . $last->pid), qr/$mark/, 'and after a syntax error, too');
$last->quit;

my $count = $k->exec("SELECT count(*) FROM vault.decrypted_secrets WHERE decrypted_secret LIKE 'kr-vault-%'");
cmp_ok($count, '>', 5, 'the secrets were stored');
is($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%mark-%' AND query LIKE 'SELECT%'"), '0', 'pg_stat_statements has none of the plain calls');
$k->exec('SELECT pg_stat_statements_reset()');
$k->exec('VACUUM FULL vault.secrets');
$k->exec('CHECKPOINT');
my ($dump, $err) = run_command([ 'pg_dump', '-U', 'postgres', '-d', $node->connstr('infra') ]);
like($dump, qr/COPY vault\.secrets/, 'a dump has the sealed secrets');
unlike($dump, qr/$mark/, 'and no plaintext');
$node->stop;
is(found_in($mark, $data), '', 'no plaintext in data files, WAL and logs');
is(found_in($good, $data), '', 'nor the root key');
is(found_in('not-for-the-log', $data), '', 'nor what a command says on stderr');
my @logs = glob("$data/log/*");
is(scalar(grep { slurp_file($_) =~ /create_secret\(x\)|vault\.status/ } @logs), scalar(@logs), 'logs of all formats were searched');

#
# Two sessions that need the first key at the same time
#
$node->start;
my $tenant = '00000000-0000-4000-8000-000000000001';
my ($a, $b) = ($k->session, $k->session);
$a->run("BEGIN; SELECT vault.create_secret('a', new_tenant_id => '$tenant')");
$b->start("SELECT vault.create_secret('b', new_tenant_id => '$tenant')");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $b->pid);
$a->run('COMMIT');
is($b->finish->{state}, '', 'the one who waits goes on');
is($k->exec("SELECT count(*) FROM vault.keys WHERE tenant_id = '$tenant'"), '1', 'with the other one\'s key');
$a->run("BEGIN; SELECT vault.create_secret('a', new_tenant_id => '00000000-0000-4000-8000-000000000002')");
$b->start("SELECT vault.create_secret('b', 'of b', new_tenant_id => '00000000-0000-4000-8000-000000000002')");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $b->pid);
$a->run('ROLLBACK');
is($b->finish->{state}, '', 'and makes its own where the other one fails');
is($k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'of b'"), 'b', 'which opens');

# Two updates of one secret
$k->exec("SELECT vault.create_secret('0', 'contended')");
$a->run("BEGIN; SELECT vault.update_secret(id, 'a') FROM vault.secrets WHERE name = 'contended'");
$b->start("SELECT vault.update_secret(id, 'b') FROM vault.secrets WHERE name = 'contended'");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $b->pid);
$a->run('COMMIT');
is($b->finish->{state}, '', 'the second update waits for the first');
is($k->exec("SELECT decrypted_secret || version FROM vault.decrypted_secrets WHERE name = 'contended'"), 'b3', 'each makes a version');
$_->quit foreach $a, $b, $s;

#
# A standby opens with its own root key and stores nothing
#
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
write_key("$dir/standby_key", $good);
$standby->append_conf('postgresql.auto.conf', "kessel.root_key_command = 'cat $dir/standby_key'\n");
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('infra', "SELECT decrypted_secret || version FROM vault.decrypted_secrets WHERE name = 'contended'"), 'b3', 'a standby opens');
is($standby->safe_psql('infra', 'SELECT sealed FROM vault.status()'), 'f', 'and knows that it can');
my ($ret, $out, $said) = $standby->psql('infra', "\\set VERBOSITY sqlstate\nSELECT vault.create_secret('x')");
like($said, qr/25006/, 'and stores nothing');
$standby->stop;

#
# Dump and restore, into a database of another encoding
#
$k->exec("SELECT vault.create_secret('äöü', 'schlüssel')");
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", '-U', 'postgres', 'infra' ], 'dump');
$k->exec("CREATE DATABASE restored ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", db => 'postgres');
$node->command_ok([ 'pg_restore', '-e', '-d', 'restored', '-U', 'postgres', "$dir/dump" ], 'restore');
my $all = "SELECT count(*), count(decrypted_secret), md5(string_agg(md5(convert_to(decrypted_secret, 'UTF8')), '' ORDER BY id)) FROM vault.decrypted_secrets";
is($k->exec($all, db => 'restored'), $k->exec($all), 'all secrets open after a restore');
is($k->exec("SELECT convert_to(decrypted_secret, 'UTF8') FROM vault.decrypted_secrets WHERE name = 'schl' || chr(252) || 'ssel'", db => 'restored'), '\xc3a4c3b6c3bc', 'and have their characters');
# What another encoding has not spoils only itself.
$k->exec("SELECT vault.create_secret(E'\\u20ac', 'euro')");
$k->exec("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", db => 'postgres');
$k->exec('CREATE EXTENSION kessel_router CASCADE', db => 'ascii');
$k->exec("SELECT vault.create_secret(E'\\xff\\xfe', 'bytes'), vault.create_secret('letters', 'letters')", db => 'ascii');
my %other = (infra => [ 'restored', 'euro' ], ascii => [ 'utf8', 'bytes' ]);
foreach my $from (sort keys %other)
{
    my ($to, $name) = @{ $other{$from} };
    my $encoding = $to eq 'utf8' ? 'UTF8' : 'LATIN1';
    $k->exec("DROP DATABASE IF EXISTS $to", db => 'postgres');
    $k->exec("CREATE DATABASE $to ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", db => 'postgres');
    # The client's encoding: names are letters.
    $node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump.$from", '-U', 'postgres', $from ], "$from: dump");
    $node->command_ok([ 'bash', '-c', "pg_restore -f - '$dir/dump.$from' | sed 's/SQL_ASCII/UTF8/' | psql -Xqv ON_ERROR_STOP=1 -o /dev/null -d $to -U postgres" ], "$to: restore");
    is($k->exec("SELECT name, decrypted_secret IS NULL, (SELECT reason FROM vault.verify()) FROM vault.decrypted_secrets WHERE decrypted_secret IS NULL OR name = '$name'", db => $to),
        "$name|t|not representable in this database's encoding", "$to: a secret that it has no characters for");
    like_error($k->run("SELECT vault.reveal('$name')", db => $to), '22P05', qr/cannot be opened/, "$to: asked for it is an error", hint => qr/encoding/);
    like_error($k->run("SELECT vault.update_secret(id, new_name => 'x') FROM vault.secrets WHERE name = '$name'", db => $to), '22P05', qr/cannot be opened/, "$to: nor is it sealed anew");
}

write_key("$dir/key", 'b2' x 32);
is($k->exec('SELECT sealed || array_to_string(wanted_root_key_ids, \',\') FROM vault.status()', db => 'restored'), "true$fingerprint", 'with another root key the missing one is named');

done_testing();

# Runs what README.md says, and the files of doc that go on with its tenants:
# their blocks in their order, on real clusters. Holds the tables of the
# reference against the code.
#
# The info string of a fenced block tells what happens to it:
#   sql                 runs in one psql, as if it were pasted; no error
#   sql error=STATE     one error, of that SQLSTATE
#   sql pgbouncer       runs through PgBouncer, as the app's role
#   text output         what the block before it prints
#   sh run              runs in a shell
#   sh                  its make targets exist
#   ini pgbouncer       PgBouncer's configuration; later ones are added to it
#   python              runs where SQLAlchemy and psycopg2 are installed
#   others              are not looked at
# pgbouncer>=1.20 holds from that version on, and else the block is left out.
use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/../lib";
use KesselDoc;
use KesselTest;

my $top    = "$FindBin::RealBin/../..";
my %guide  = map { $_ => slurp_file("$top/$_") } KesselDoc::guide();
my $reference = slurp_file("$top/doc/reference.md");

#
# The place: one server that asks for passwords over TCP, as Debian's does.
#
my $k    = KesselTest->new(extension => 0);
my $node = $k->node;
my $dir  = PostgreSQL::Test::Utils::tempdir('readme');
my $port = $node->port;
my $pool_port = PostgreSQL::Test::Cluster::get_free_port();

$k->exec('DROP DATABASE infra', db => 'postgres');
unlink $node->data_dir . '/pg_hba.conf';
$node->append_conf('pg_hba.conf', "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
$node->append_conf('postgresql.conf', "password_encryption = 'scram-sha-256'\n");
$node->reload;
@ENV{qw(PGHOST PGPORT PGUSER)} = ($node->host, $port, 'postgres');

# Paths and ports that the README names, and what they are here.
sub localize
{
    my ($text) = @_;
    $text =~ s{/etc/(?:postgresql|pgbouncer)/}{$dir/}g;
    $text =~ s{\b5432\b}{$port}g;
    $text =~ s{\b6432\b}{$pool_port}g;
    return $text;
}

sub new_session
{
    my ($conninfo) = @_;
    return KesselTest::Session->new([ 'psql', '-Xq', '-v', 'VERBOSITY=verbose', '-v', 'ON_ERROR_STOP=1', '-P', 'pager=off', '-d', $conninfo ], '');
}

#
# PgBouncer
#
my ($pgbouncer) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
my $pool_version = $pgbouncer && `$pgbouncer --version` =~ /PgBouncer (\d+)\.(\d+)/ ? $1 + $2 / 100 : 0;
my ($pool, $pool_config) = (undef, '');

sub stop_pool
{
    return unless $pool;
    $pool->signal('INT');
    $pool->finish;
    undef $pool;
    return;
}

sub pool_url { return "host=127.0.0.1 port=$pool_port dbname=infra user=crm_app password=app-secret"; }

sub start_pool
{
    return if $pool;
    my $ini = "$dir/pgbouncer.ini";
    unlink $ini, "$dir/userlist.txt";
    append_to_file($ini, localize($pool_config) . "\nunix_socket_dir =\nlogfile = $dir/pgbouncer.log\n");
    append_to_file("$dir/userlist.txt", "\"crm_app\" \"app-secret\"\n");
    my $log = '';
    $pool = IPC::Run::start([ $pgbouncer, '-q', $ini ], '<', \undef, '>', \$log, '2>', \$log);
    foreach my $try (1 .. 100)
    {
        return if $k->run('SELECT 1', url => pool_url())->{state} eq '';
        select(undef, undef, undef, 0.1);
    }
    die "no PgBouncer: $log" . slurp_file("$dir/pgbouncer.log");
}

END { local $?; stop_pool(); }

#
# The blocks
#
my @blocks = map { my $file = $_; map { { %$_, at => "$file, line $_->{line}" } } KesselDoc::blocks($guide{$file}) } KesselDoc::guide();
cmp_ok(scalar(grep { $_->{lang} eq 'sql' } @blocks), '>=', 25, 'blocks of SQL');

my $session = new_session('dbname=postgres');
my $printed = '';

sub run_sql
{
    my ($block, $in, $state) = @_;
    my $name = "$block->{at}: " . ($block->{text} =~ /^([^\n]{1,60})/)[0];
    my $r    = $in->run(localize($block->{text}));
    my @errors = $r->{err} =~ /^(?:psql:[^\n]*?: )?(?:ERROR|FATAL|PANIC): +([0-9A-Z]{5})/mg;

    if ($state)
    {
        is("@errors", $state, "$name: error $state") or diag($r->{err});
        $printed = join("\n", "ERROR:  $r->{message}", map { $r->{ lc $_ } ne '' ? "$_:  $r->{lc $_}" : () } qw(DETAIL HINT));
    }
    else
    {
        ok(!@errors && $r->{state} eq '', $name) or diag($r->{err});
        $printed = $r->{out};
    }

    # Reading the configuration takes the server a moment.
    if ($block->{text} =~ /pg_reload_conf/)
    {
        foreach my $try (1 .. 100)
        {
            last if $in->run('SELECT provider FROM vault.status()')->{out} =~ /^ file$/m;
            select(undef, undef, undef, 0.1);
        }
    }
    return;
}

my $left_out = 0;
foreach my $block (@blocks)
{
    my %is = map { /^(\w+)(?:=(.*))?$/ ? ($1 => $2 // 1) : () } @{ $block->{words} };
    my ($from) = map { /^pgbouncer>=(\d+)\.(\d+)$/ ? $1 + $2 / 100 : () } @{ $block->{words} };
    my $at = $block->{at};

    $is{pgbouncer} = 1 if $from;
    if ($is{pgbouncer} && (!$pgbouncer || $from && $from > $pool_version))
    {
        $left_out = 1;
      SKIP: { skip "$at: PgBouncer of this version is not installed", 1; }
    }
    elsif ($block->{lang} eq 'ini' && $is{pgbouncer})
    {
        stop_pool();
        $pool_config .= $block->{text};
    }
    elsif ($block->{lang} eq 'sql' && $is{pgbouncer})
    {
        $left_out = 0;
        start_pool();
        my $client = new_session(pool_url());
        run_sql($block, $client);
        $client->quit;
        is(KesselDoc::trim($k->run('SELECT kessel.current_tenant()', url => pool_url())->{out}), '', "$at: the next client has no tenant");
    }
    elsif ($block->{lang} eq 'sql')
    {
        $left_out = 0;
        run_sql($block, $session, $is{error});
    }
    elsif ($block->{lang} eq 'text' && $is{output})
    {
        is(KesselDoc::trim($printed), KesselDoc::trim($block->{text}), "$at: that is the output") unless $left_out;
    }
    elsif ($block->{lang} eq 'sh' && $is{run})
    {
        my $out = '';
        ok(IPC::Run::run([ 'bash', '-euo', 'pipefail', '-c', "cd '$dir'\n" . localize($block->{text}) ], '<', \undef, '>&', \$out), "$at: shell") or diag($out);
    }
    elsif ($block->{lang} eq 'sh')
    {
        my $makefile = slurp_file("$top/Makefile");
        foreach my $target ($block->{text} =~ /^make +([a-z-]+)/mg)
        {
            ok($target eq 'install' || $makefile =~ /^\Q$target\E:/m, "$at: make $target");
        }
    }
    elsif ($block->{lang} eq 'python')
    {
      SKIP: {
            skip "$at: SQLAlchemy and psycopg2 are not installed", 1 if system("python3 -c 'import sqlalchemy, psycopg2' 2>/dev/null");
            my $out = '';
            IPC::Run::run([ 'python3', '-' ], '<', \localize($block->{text}), '>&', \$out);
            is($out, "Coyote & Sons\nRoad Runner Ltd\n", "$at: python");
        }
    }
}
stop_pool();
$session->quit;

#
# What the tables must name
#
sub missing { return join(', ', grep { $reference !~ /`\Q$_\E[`( ]/ && $reference !~ /`[^`]*\b\Q$_\E\(/ && $reference !~ /^\| \Q$_\E \|/m } @_); }

my $all = join "\n", values %guide, $reference;
my @settings = slurp_file("$top/src/kr_guc.c") =~ /DefineCustom\w+Variable\(\s*"([^"]+)"/g;
cmp_ok(scalar(@settings), '>=', 5, 'settings in kr_guc.c');
foreach my $row (split /\n/, $k->exec("SELECT * FROM vault.status() LIMIT 0; SELECT name, coalesce(nullif(boot_val, ''), 'empty'), unit FROM pg_settings WHERE name LIKE 'kessel.%'"))
{
    my ($name, $default, $unit) = split /\|/, $row, -1;
    like($reference, qr/^\| `\Q$name\E` \| \Q$default\E \| *\Q$unit\E(?: \([^|]*\))? *\|/m, "$name with its default and unit");
    @settings = grep { $_ ne $name } @settings;
}
is("@settings", '', 'and no other setting');

my @states = map { join '', /'(\w)'/g } slurp_file("$top/src/kr_error.h") =~ /MAKE_SQLSTATE\(([^)]*)\)/g;
cmp_ok(scalar(@states), '>=', 10, 'SQLSTATEs in kr_error.h');
is(missing(@states), '', 'every SQLSTATE has its row');
my %state = map { $_ => 1 } @states;
is(join(' ', grep { !$state{$_} } $all =~ /\b(KR\d{3})\b/g), '', 'and there is no other');

my @functions = split /\n/, $k->exec("SELECT DISTINCT pronamespace::regnamespace || '.' || proname FROM pg_proc WHERE pronamespace::regnamespace::text IN ('kessel', 'vault', 'app') AND proname !~ '^_'");
cmp_ok(scalar(@functions), '>=', 25, 'public functions');
is(missing(@functions), '', 'every public function is named');
my @relations = split /\n/, $k->exec("SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relnamespace::regnamespace::text IN ('app', 'vault', 'kessel') AND relkind IN ('r', 'p') AND NOT relispartition OR relnamespace::regnamespace::text IN ('kessel', 'vault') AND relkind = 'v'");
is(missing(@relations), '', 'every table and view to read is named');

my @agent = split /\n/, $k->exec("SELECT 'kessel_agent.' || proname FROM pg_proc WHERE pronamespace = 'kessel_agent'::regnamespace", db => 'crm_shared');
push @agent, split /\n/, $k->exec("SELECT 'kessel_agent.' || relname FROM pg_class WHERE relnamespace = 'kessel_agent'::regnamespace AND relkind = 'r' AND relname <> 'tenants'", db => 'crm_shared');
is(missing(@agent), '', "every function and record of the agent's is named");
# What a migration finds set.
my %known = map { $_ => 1 } 'kessel_agent.isolation', @functions, @relations, @agent, split /\n/, $k->exec("SELECT * FROM vault.status() LIMIT 0; SELECT name FROM pg_settings WHERE name LIKE 'kessel.%'");
is(join(' ', grep { !$known{$_} } $all =~ /\b((?:kessel|app|vault|kessel_agent)\.[a-z]\w+)/g), '', 'and nothing that is not there');

#
# Links
#
is(join(', ', KesselDoc::dead_links($guide{'README.md'}, $top)), '', 'links lead somewhere');

done_testing();

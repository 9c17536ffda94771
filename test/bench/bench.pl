# Run by make bench: a router table beside a postgres_fdw table and a direct
# connection to the data source, without and with 5 ms of network between the
# servers; memory of long scans; the cost of a tenant switch; ten tenants beside
# 100,000; the vault beside libsodium in a C loop and beside pgcrypto; the infra
# database's tables with and without row security; a query of 200 tenant databases
# beside a loop of psql and 200 postgres_fdw tables; a migration of them beside a
# loop of psql.
#
# All ways of one question are measured in the same run, in short alternating
# rounds; what is printed is the best round of each, which is the one least
# disturbed by what else the machine does, and ratios. Absolute numbers say
# something about this machine only.
#
# Short statements run under pgbench -M prepared, all ways alike; the first
# transaction of each client, which connects, does not count. Bulk loads run in
# a psql that stays, and are timed by it. The 5 ms are a round trip through
# KesselProxy, for the direct connection too; the app is near the infra server.
#
#   KR_BENCH_ROUNDS   default 3      KR_BENCH_SECONDS  of one round, default 1
#   KR_BENCH_ONLY     pattern of the questions to measure: '^point read$', '5 ms', 'memory', '^vault', '^infra', '^fleet', '^migrate'
use strict;
use warnings;

use lib 'test/lib';
use IPC::Run ();
use KesselInfra;
use KesselProxy;
use KesselTest;
use List::Util qw(min sum);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $rounds  = $ENV{KR_BENCH_ROUNDS}  || 3;
my $seconds = $ENV{KR_BENCH_SECONDS} || 1;
my $only    = $ENV{KR_BENCH_ONLY}    || '';
my $rows    = 100_000;
my $network = 5;                        # ms, a round trip
my $user_id = '11111111-1111-4111-8111-111111111111';
my $scripts = PostgreSQL::Test::Utils::tempdir('scripts');
my %goals;

# What postgres_fdw is at its best with: tried from 100 to 50,000.
my $best_options = "fetch_size '10000', batch_size '1000'";

my $k    = KesselTest->new(conf => "shared_preload_libraries = 'kessel_router'\n");
my $data = $k->data_cluster('data', conf => "max_wal_size = 4GB\n");
my $far  = KesselProxy->new($data->{port}, parse => 0);
$far->delay($network);

#
# The tables, each made when the first question asks for it. The same in
# schemas of the infra database: data (router; the tenant says whether near or
# far), plain and best (postgres_fdw), plain_far and best_far.
#
my %made;
my $typical = 'id bigint, ref uuid, name text, amount numeric(12,2), created_at timestamptz, active boolean, owner_id integer, kind text';
my $typical_rows = "SELECT i, md5(i::text)::uuid, 'item number ' || i, (i % 100000) / 100.0, '2026-01-01'::timestamptz + i * interval '1 second', i % 3 = 0, 1 + i % 1000, "
  . "'kind ' || i % 20 FROM generate_series(1, %d) i";
my %definition = (
    items  => "CREATE TABLE items ($typical, PRIMARY KEY (id)) WITH (fillfactor = 80); INSERT INTO items " . sprintf($typical_rows, $rows),
    owners => "CREATE TABLE owners (id integer PRIMARY KEY, name text); INSERT INTO owners SELECT i, 'owner ' || i FROM generate_series(1, 1000) i",
    target => "CREATE TABLE target ($typical, PRIMARY KEY (id))",
    big    => "CREATE UNLOGGED TABLE big ($typical); INSERT INTO big " . sprintf($typical_rows, 1_000_000),
    five   => 'CREATE VIEW five AS SELECT big.* FROM big, generate_series(1, 5)',
);

sub infra_url { my ($db) = @_; return sprintf('host=127.0.0.1 port=%d dbname=%s user=app', $k->node->port, $db || 'infra') }

sub source_url { my ($away) = @_; return $k->url({ %$data, port => $away ? $far->port : $data->{port} }) }

sub servers
{
    return if $made{servers}++;
    foreach my $away ('', '_far')
    {
        my $port = $away ? $far->port : $data->{port};
        my $name = $away ? 'far' : 'near';
        $k->exec("SELECT kessel.create_data_source('$name', '@{[ source_url($away) ]}');"
              . "SELECT kessel.create_tenant('$name', data_source => '$name'); SELECT kessel.add_member('$name', '$user_id')");
        foreach my $way ([ plain => '' ], [ best => ", $best_options" ])
        {
            my $server = "$way->[0]$away";
            $k->exec("CREATE SERVER $server FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname '$data->{db}'$way->[1]);"
                  . "CREATE USER MAPPING FOR PUBLIC SERVER $server OPTIONS (user '$data->{runtime}', password '$data->{password}');"
                  . "CREATE SCHEMA $server; GRANT USAGE ON SCHEMA $server TO app");
        }
    }
    $k->exec("CREATE SCHEMA data; GRANT USAGE ON SCHEMA data TO app; ALTER ROLE app SET \"request.jwt.claims\" = '{\"sub\": \"$user_id\"}'");
    return;
}

sub need
{
    servers();
    foreach my $name (grep { !$made{$_}++ } @_)
    {
        need('big') if $name eq 'five';
        $k->data_exec($data, "SET ROLE $data->{owner}; $definition{$name}; GRANT SELECT, INSERT, UPDATE, DELETE ON $name TO $data->{runtime}");
        $k->data_exec($data, "VACUUM ANALYZE $name") if $name ne 'five';
        $k->exec("SELECT kessel.import_tables('near', 'public', 'data', '{$name}')");
        $k->exec("IMPORT FOREIGN SCHEMA public LIMIT TO ($name) FROM SERVER $_ INTO $_") foreach qw(plain best plain_far best_far);
        $k->exec("GRANT SELECT, INSERT, UPDATE, DELETE ON $_.$name TO app") foreach qw(data plain best plain_far best_far);
    }
    return;
}

#
# Measuring
#

sub script
{
    my ($sql) = @_;
    my $file = sprintf '%s/%d', $scripts, ++$made{scripts};
    append_to_file($file, $sql);
    return $file;
}

# Microseconds of one transaction, the first one of each client apart: the mean of
# a round, or, of so many {times}, the median.
sub measure
{
    my ($way) = @_;
    my ($out, $err) = ('', '');
    my $clients = $way->{clients} || 1;
    my $log = sprintf '%s/log%d', $scripts, ++$made{logs};
    local $ENV{PGOPTIONS} = $way->{options} || '';

    # postgres_fdw reads in REPEATABLE READ: rarely, two clients hit the same row.
    IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', $clients > 1 ? 2 : 1, ($way->{times} ? ('-t', $way->{times}) : ('-T', $seconds)), '-M', $way->{mode} || 'prepared', '--max-tries=10',
            '-l', "--log-prefix=$log", (map { ('-f', $_) } @{ $way->{scripts} }), $way->{url} || infra_url() ], '>', \$out, '2>', \$err)
      or die "pgbench: $err\n";
    $out =~ /failed transactions: ([1-9]\d*)/ and die "pgbench: $1 failed transactions\n$err\n";
    my @times;
    foreach my $file (glob "$log.*")
    {
        my %seen;
        foreach my $line (split /\n/, slurp_file($file))
        {
            my ($client, undef, $us) = split / /, $line;
            push @times, $us if $seen{$client}++;
        }
        unlink $file;
    }
    return (sort { $a <=> $b } @times)[ @times / 2 ] if $way->{times};
    return sum(@times) / @times / $clients if @times >= 10 * $clients;
    # So slow that connecting does not count, but when each client ends does.
    $out =~ /tps = ([\d.]+) / or die "pgbench printed no tps:\n$out\n";
    return 1e6 / $1;
}

# Microseconds of one statement in a psql that stays. A way that would take
# long does it for fewer rows, and its time is multiplied.
sub measure_load
{
    my ($way) = @_;
    if (!$way->{rows})
    {
        my $whole = load_once($way, 1000) * 100 / 1e6;
        $way->{rows} = $whole > 50 ? 1000 : $whole > 5 ? 10_000 : $rows;
    }
    return load_once($way, $way->{rows}) * $rows / $way->{rows};
}

sub load_once
{
    my ($way, $n) = @_;
    my $s = $way->{session} ||= do {
        my $new = $k->session(%{ $way->{connect} });
        $new->run('\timing on');
        $new->run("SELECT count(*) FROM $way->{target} WHERE id = 0");
        $new;
    };
    $k->data_exec($data, 'TRUNCATE target');
    my $r = $s->run($way->{sql}->($n));
    die "$r->{err}\n" if $r->{state} ne '';
    my ($ms) = $r->{out} =~ /Time: ([\d.]+) ms/ or die "psql printed no time:\n$r->{out}\n";
    my $found = $k->data_exec($data, 'SELECT count(*) FROM target');
    die "$found rows arrived instead of $n\n" if $found != $n;
    return $ms * 1000;
}

# Each line is in the table as soon as it is known.
sub line
{
    my $text = sprintf '%-44s %10s %8s %10s %12s %9s  %s', map { defined $_ ? $_ : '' } @_[ 0 .. 6 ];
    $text =~ s/\s+$//;
    append_to_file($ENV{KR_BENCH_OUT}, "$text\n");
    return;
}

sub failed
{
    my ($title, $error) = @_;
    my ($first) = split /\n/, $error;
    diag("failed: $title: $error");
    $made{failed}++;
    return "failed: $first";
}

sub wanted { my ($title) = @_; return $title =~ /$only/ }

# compare(TITLE, MEASURE, GOALS, [LABEL, WAY], ...): the first is the one to be
# measured against, and says how many turns a round has; the columns "plain" and "best" are for the ways of that key.
sub compare
{
    my ($title, $measure, $goals, @ways) = @_;
    my (%us, $done);

    return unless wanted($title);
    my $start = time;
    line($title);
    eval {
        foreach my $round (1 .. $rounds * ($ways[0][1]{turns} || 1))
        {
            # Forwards and backwards in turn: no way is always the first.
            push @{ $us{ $_->[0] } }, $measure->($_->[1]) foreach $round % 2 ? @ways : reverse @ways;
        }
        $done = 1;
    } or line('  ' . failed($title, $@));
    $_->[1]{session} && $_->[1]{session}->quit foreach @ways;
    return unless $done;

    my %best = map { ($_ => min(@{ $us{$_} })) } keys %us;
    my ($plain) = map { $best{ $_->[0] } } grep { $_->[1]{key} && $_->[1]{key} eq 'plain' } @ways;
    my ($tuned) = map { $best{ $_->[0] } } grep { $_->[1]{key} && $_->[1]{key} eq 'best' } @ways;
    foreach my $way (@ways)
    {
        my $us = $best{ $way->[0] };
        my %ratio = (direct => $us / $best{ $ways[0][0] });
        $ratio{plain} = $plain / $us if $plain;
        $ratio{best}  = $tuned / $us if $tuned;
        my @verdicts = $way->[1]{key} && $way->[1]{key} eq 'router' ? map { verdict($title, $_, \%ratio) } @$goals : ();
        my $label = $way->[0];
        $label .= " (from $way->[1]{rows} rows)" if $way->[1]{rows} && $way->[1]{rows} != $rows;
        line("  $label", sprintf($us < 10 ? '%.2f' : '%.0f', $us), sprintf($us > 100_000 ? '%.2f' : '%.0f', 1e6 / $us), sprintf('%.2f', $ratio{direct}),
            (map { defined $ratio{$_} ? sprintf('%.2f', $ratio{$_}) : '' } qw(plain best)), join '; ', @verdicts);
    }
    diag(sprintf 'measured: %s (%d s)', $title, time - $start);
    return;
}

# A goal is [KIND, LIMIT, THAN WHAT if not these]: direct (of the time, at most), speed (of the direct
# connection's, at least), plain and best (times the speed of, at least).
sub verdict
{
    my ($title, $goal, $ratio) = @_;
    my ($kind, $limit, $than) = @$goal;
    my ($value, $met, $text);

    if ($kind eq 'direct')    { ($value, $text) = ($ratio->{direct}, "<= $limit x direct's time"); $met = $value <= $limit }
    elsif ($kind eq 'speed')  { ($value, $text) = (1 / $ratio->{direct}, ">= $limit x direct"); $met = $value >= $limit }
    elsif ($kind eq 'plain')  { ($value, $text) = ($ratio->{plain}, ">= $limit x postgres_fdw"); $met = $value >= $limit }
    elsif ($kind eq 'best')   { ($value, $text) = ($ratio->{best}, ">= $limit x its best"); $met = $value >= $limit }
    $text = ($kind eq 'direct' ? '<=' : '>=') . " $limit x $than" if $than;
    $goals{ $met ? 'met' : 'not met' }++;
    return sprintf '%s: %s (%.2f)', $text, $met ? 'met' : 'NOT MET', $value;
}

sub place { my ($name, $away, $clients) = @_; return $name . ($away ? ", $network ms" : '') . ($clients > 1 ? ", $clients clients" : '') }

# The same statement in all ways: TABLE: stands for the schema.
sub statement
{
    my ($name, $sql, %opt) = @_;
    foreach my $clients (1, 8)
    {
        foreach my $away ('', '_far')
        {
            my $title = place($name, $away, $clients);
            next unless wanted($title);
            need(@{ $opt{tables} });
            my $with = sub { my ($schema) = @_; (my $s = $sql) =~ s/TABLE:/$schema./g; return [ script($s) ] };
            my $goals = $clients > 1 ? [] : $opt{goals}{ $away ? 'far' : 'near' } || [];
            compare(
                $title, \&measure, $goals,
                [ 'direct connection', { clients => $clients, url => source_url($away), scripts => $with->('public') } ],
                [ 'postgres_fdw', { key => 'plain', clients => $clients, scripts => $with->("plain$away") } ],
                $opt{best} ? [ 'postgres_fdw, best options', { key => 'best', clients => $clients, scripts => $with->("best$away") } ] : (),
                [ 'router table', { key => 'router', clients => $clients, options => '-c kessel.tenant=' . ($away ? 'far' : 'near'), scripts => $with->('data') } ]);
        }
    }
    return;
}

line('PostgreSQL ' . $k->node->pg_version, 'us', 'per s', 'time', 'speed', 'speed');
line("best of $rounds rounds of $seconds s", '', '', 'of first', 'of pg_fdw', 'of best', 'goal');
statement('point read', "\\set id random(1, $rows)\nSELECT id, name, amount, created_at FROM TABLE:items WHERE id = :id;\n",
    tables => ['items'], goals => { near => [ [ plain => 3 ], [ speed => 0.6 ] ], far => [ [ direct => 1.15 ] ] });
statement('point write', "\\set id random(1, $rows)\nUPDATE TABLE:items SET amount = amount + 1 WHERE id = :id;\n",
    tables => ['items'], goals => { far => [ [ direct => 2.1 ] ] });
statement('read-modify-write transaction',
    "\\set id random(1, $rows)\nBEGIN;\nSELECT amount FROM TABLE:items WHERE id = :id FOR UPDATE;\nUPDATE TABLE:items SET amount = amount + 1 WHERE id = :id;\nCOMMIT;\n",
    tables => ['items']);
statement('join of two tables, 10 rows',
    "\\set id random(1, @{[ $rows - 10 ]})\nSELECT i.id, i.name, o.name FROM TABLE:items i JOIN TABLE:owners o ON o.id = i.owner_id WHERE i.id BETWEEN :id AND :id + 9;\n",
    tables => [qw(items owners)]);
statement('aggregate of 1,000,000 rows', "SELECT kind, count(*), sum(amount), max(created_at) FROM TABLE:big GROUP BY kind;\n", tables => ['big'], best => 1);
statement('scan of 100,000 rows to the client', "SELECT * FROM TABLE:items;\n", tables => ['items'], best => 1,
    goals => { near => [ [ plain => 5 ] ], far => [ [ plain => 5 ] ] });

# Rows that are used here: no client's trip hides what the executors cost. The
# direct connection has them sent to the client, which is what one would do.
foreach my $away ('', '_far')
{
    my $title = place('scan of 100,000 rows used here', $away, 1);
    next unless wanted($title);
    need('items');
    my $sql = 'SELECT count(x) FROM (SELECT * FROM %s.items OFFSET 0) x;';
    compare(
        $title, \&measure, [ [ plain => 5 ] ],
        [ 'direct connection, to the client', { url => source_url($away), scripts => [ script('SELECT * FROM items;') ] } ],
        [ 'postgres_fdw', { key => 'plain', scripts => [ script(sprintf $sql, "plain$away") ] } ],
        [ 'postgres_fdw, best options', { key => 'best', scripts => [ script(sprintf $sql, "best$away") ] } ],
        [ 'router table', { key => 'router', options => '-c kessel.tenant=' . ($away ? 'far' : 'near'), scripts => [ script(sprintf $sql, 'data') ] } ]);
}

#
# Bulk: 100,000 rows.
#
foreach my $away ('', '_far')
{
    my %name = (insert => place('INSERT ... SELECT of 100,000 rows', $away, 1), copy => place('COPY FROM of 100,000 rows', $away, 1));
    next unless grep { wanted($_) } values %name;
    need(qw(target));
    $k->exec("CREATE TABLE public.source_rows AS SELECT * FROM (" . sprintf($typical_rows, $rows) . ") AS r (id, ref, name, amount, created_at, active, owner_id, kind);"
          . 'GRANT SELECT ON public.source_rows TO app; VACUUM ANALYZE public.source_rows') unless $made{source_rows}++;
    $k->data_exec($data, "CREATE TABLE source_rows AS SELECT * FROM (" . sprintf($typical_rows, $rows) . ") AS r (id, ref, name, amount, created_at, active, owner_id, kind);"
          . "GRANT SELECT ON source_rows TO $data->{runtime}; VACUUM ANALYZE source_rows") unless $made{remote_rows}++;
    foreach my $n (1000, 10_000, $rows)
    {
        $k->exec("COPY (SELECT * FROM public.source_rows WHERE id <= $n ORDER BY id) TO '$scripts/rows.$n'") unless -e "$scripts/rows.$n";
    }
    my %connect = (
        public => { url => source_url($away) },
        "plain$away" => { url => infra_url() },
        "best$away"  => { url => infra_url() },
        data => { url => infra_url(), tenant => $away ? 'far' : 'near' });
    foreach my $kind (qw(insert copy))
    {
        my $way = sub {
            my ($schema, $key) = @_;
            my $sql = $kind eq 'copy' ? sub { "\\copy $schema.target FROM '$scripts/rows.$_[0]'" }
              : sub { "INSERT INTO $schema.target SELECT * FROM public.source_rows WHERE id <= $_[0];" };
            return { key => $key, connect => $connect{$schema}, target => "$schema.target", sql => $sql };
        };
        compare(
            $name{$kind}, \&measure_load, [ [ best => 1 ], [ plain => 20 ] ],
            [ $kind eq 'copy' ? 'direct connection' : 'direct connection, rows are there already', $way->('public') ],
            [ 'postgres_fdw', $way->("plain$away", 'plain') ],
            [ 'postgres_fdw, best options', $way->("best$away", 'best') ],
            [ 'router table', $way->('data', 'router') ]);
    }
}

#
# Memory: the peak of a backend during a scan, without what it has after a scan
# of one row.
#
sub peak_memory
{
    my ($connect, $first, $sql) = @_;
    my $s = $k->session(%$connect);
    my $peak = sub {
        my ($kb) = slurp_file('/proc/' . $s->pid . '/status') =~ /^VmHWM:\s*(\d+) kB/m;
        return $kb / 1024;
    };
    my $r = $s->run($first);
    die "$r->{err}\n" if $r->{state} ne '';
    my $before = $peak->();
    $r = $s->run($sql);
    die "$r->{err}\n" if $r->{state} ne '';
    my $more = $peak->() - $before;
    $s->quit;
    return $more;
}

foreach my $case (
    [ 'memory of a scan of 5,000,000 rows', 'SELECT count(x) FROM (SELECT * FROM %s.five OFFSET 0) x' ],
    [ 'memory of a scan of 5,000,000 rows in a cursor', 'BEGIN; DECLARE c CURSOR FOR SELECT * FROM %s.five; MOVE FORWARD ALL FROM c; COMMIT' ],
    [ 'memory of two scans in turn of 1,000,000 rows', 'BEGIN; DECLARE a CURSOR FOR SELECT * FROM %1$s.big; DECLARE b CURSOR FOR SELECT * FROM %1$s.big;'
          . 'FETCH 1 FROM a; FETCH 1 FROM b; FETCH 1 FROM a; MOVE FORWARD ALL FROM b; MOVE FORWARD ALL FROM a; COMMIT' ])
{
    my ($title, $sql) = @$case;
    next unless wanted($title);
    need(qw(five));
    my $limit = 4 + 16;
    line($title);
    foreach ([ 'postgres_fdw', 'plain', 'near' ], [ 'postgres_fdw, best options', 'best', 'near' ], [ 'router table', 'data', 'near' ])
    {
        my ($label, $schema, $tenant) = @$_;
        my $mb = eval { peak_memory({ url => infra_url(), tenant => $tenant }, "SELECT * FROM $schema.big LIMIT 1", sprintf $sql, $schema) };
        my $text = '';
        if (!defined $mb) { $text = failed($title, $@) }
        elsif ($schema eq 'data') { my $met = $mb <= $limit; $goals{ $met ? 'met' : 'not met' }++; $text = "<= work_mem + 16 MB: " . ($met ? 'met' : 'NOT MET') }
        line("  $label", defined $mb ? sprintf('%.1f MB', $mb) : '', '', '', '', '', $text);
    }
    diag("measured: $title");
}

#
# Tenants: a and b in schemas of one source, c and d in rows of another.
#
sub tenants
{
    return if $made{tenants}++;
    my $schema = $made{schemas} = $k->data_cluster('schemas');
    my $shared = $k->data_cluster('shared');
    $k->crm_schema($schema, $_, rows => 10_000) foreach qw(a b);
    $k->data_source($schema, isolation => 'schema');
    $k->data_source($shared, isolation => 'row');
    $k->exec("SELECT kessel.install_agent('schemas')");
    $k->crm_row($shared, [qw(c d)], rows => 10_000);
    servers();
    foreach my $tenant (qw(a b c d))
    {
        my $source = $tenant =~ /[ab]/ ? 'schemas' : 'shared';
        $k->exec("SELECT kessel.create_tenant('$tenant', data_source => '$source', tenant_id_in_data_source => '$tenant');"
              . "SELECT kessel.add_member('$tenant', '$user_id')");
    }
    $k->data_exec($_, 'VACUUM ANALYZE') foreach $schema, $shared;
    # The same without the client's trips: transactions in a procedure's loop.
    $k->exec(<<'SQL');
SELECT kessel.import_tables('schemas', 'a');
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA data TO app;
CREATE PROCEDURE public.turns(n integer, setting text, vals text[]) LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    FOR i IN 1 .. n LOOP
        IF setting <> '' THEN
            PERFORM set_config(setting, vals[1 + i % array_length(vals, 1)], true);
        END IF;
        SELECT name INTO found FROM data.accounts WHERE id = i;
        COMMIT;
    END LOOP;
END
$$;
SQL
    return;
}

foreach my $case ([ 'schema', 'a', 'b' ], [ 'row', 'c', 'd' ])
{
    my ($isolation, @tenants) = @$case;
    my @titles = ("transaction with one point read, $isolation isolation", "500 transactions in a procedure, $isolation isolation");
    next unless grep { wanted($_) } @titles;
    tenants();

    my $stay = { options => "-c kessel.tenant=$tenants[0]" };
    my $way = sub { my ($set, $more) = @_; return { %{ $more || {} }, scripts => [ script("\\set id random(1, 10000)\nBEGIN;\n${set}SELECT id, name, balance FROM data.accounts WHERE id = :id;\nCOMMIT;\n") ] } };
    compare(
        $titles[0], \&measure, [],
        [ 'no switch', $way->('', $stay) ],
        [ 'SET LOCAL of some other setting', $way->("SET LOCAL application_name = 'x';\n", $stay) ],
        [ 'SET LOCAL kessel.tenant, the same', $way->("SET LOCAL kessel.tenant = '$tenants[0]';\n") ],
        [ 'SET LOCAL kessel.tenant, two in turn', { scripts => [ map { @{ $way->("SET LOCAL kessel.tenant = '$_';\n")->{scripts} } } @tenants ] } ]);

    my $loop = sub { return { mode => 'simple', %$stay, scripts => [ script("CALL turns(500, $_[0]);\n") ] } };
    compare(
        $titles[1], \&measure, [],
        [ 'no switch', $loop->("'', '{}'") ],
        [ 'set_config of some other setting', $loop->("'application_name', '{x,y}'") ],
        [ 'set_config of kessel.tenant, two in turn', $loop->("'kessel.tenant', '{$tenants[0],$tenants[1]}'") ]);
}

#
# Planning and routing alone: EXPLAIN plans and names the route, and runs
# nothing. Two infra databases of the same server, one with ten tenants, one
# with 100,000.
#
sub many
{
    my ($db, $tenants) = @_;
    $k->exec("CREATE DATABASE $db", db => 'postgres');
    $k->exec(<<"SQL", db => $db);
CREATE EXTENSION kessel_router CASCADE;
SELECT kessel.create_data_source('schemas', '@{[ $k->url($made{schemas}) ]}', isolation => 'schema');
SELECT kessel.create_tenant('a', data_source => 'schemas', tenant_id_in_data_source => 'a');
SELECT kessel.import_tables('schemas', 'a');
GRANT USAGE ON SCHEMA data TO app;
GRANT SELECT ON ALL TABLES IN SCHEMA data TO app;
INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)
SELECT 'many-' || i, 'Many ' || i, s.id, 'schema', 'many_' || i FROM generate_series(1, $tenants) i, app.data_sources s;
INSERT INTO app.user_tenants (user_id, tenant_id) SELECT '$user_id', id FROM app.tenants WHERE slug LIKE 'many-%';
VACUUM ANALYZE app.tenants, app.user_tenants;
SQL
    return;
}

sub explain_way
{
    my ($db, $n) = @_;
    return {
        mode    => 'simple',
        url     => infra_url($db),
        scripts => [ script("\\set n random(1, $n)\nSET kessel.tenant = 'many-:n';\nEXPLAIN SELECT name FROM data.accounts WHERE id = 1;\n") ] };
}

my $title = 'SET kessel.tenant, plan and route (EXPLAIN)';
if (wanted($title))
{
    tenants();
    many('ten', 10);
    many('many', 100_000);
    compare(
        $title, \&measure, [],
        [ '10 tenants',                explain_way('ten',  10) ],
        [ '100,000 tenants, ten used', explain_way('many', 10) ],
        [ '100,000 tenants, all used', explain_way('many', 100_000) ]);
}

#
# The vault: microseconds of one value of 100 bytes, in one session. All of it is
# computing in one process, so the processor's time is what counts, which other
# work on the machine changes less.
#
sub compile
{
    my ($name) = @_;
    return if $made{$name}++;
    my $source = "test/bench/$name.c";
    my ($links) = slurp_file($source) =~ /^ \* Links with: *(.*)$/m;
    my $includes = join ' ', map { '-I$("$PG_CONFIG" ' . $_ . ')' } qw(--includedir-server --includedir);
    # As the server's own extensions are compiled.
    system('bash', '-euc', "\${CC:-cc} -std=gnu11 -O2 -Isrc -Isrc/vault $includes -o '$scripts/$name' $source $links") == 0 or die "$name does not compile\n";
    return;
}

# Nanoseconds that a process has had a processor.
sub cpu_time { my ($pid) = @_; return (split ' ', slurp_file("/proc/$pid/schedstat"))[0] }

sub measure_loop
{
    my ($way) = @_;
    compile('vault_loop');
    my $out = '';
    IPC::Run::run([ "$scripts/vault_loop", @{ $way->{loop} }, $seconds ], '>', \$out) or die "vault_loop failed\n";
    return $out / 1000;
}

sub measure_values
{
    my ($way) = @_;
    return measure_loop($way) if $way->{loop};
    my $s = $way->{session} ||= do {
        my $new = $k->session;
        $new->run("SET kessel.tenant = 'near'; SET max_parallel_workers_per_gather = 0");
        $new->run($way->{sql} =~ s/%d/10/r);
        $new;
    };
    my $n = $way->{rows} || $rows;
    my $before = cpu_time($s->pid);
    my $r = $s->run(sprintf $way->{sql}, $n);
    my $us = (cpu_time($s->pid) - $before) / 1000;
    die "$r->{err}\n" if $r->{state} ne '';
    die "$r->{out} of $n values\n" if $r->{out} != $n;
    return $us / $n;
}

if (grep { wanted($_) } 'vault: open by function call', 'vault: seal by function call', 'vault: decrypted_secrets of 100,000 rows')
{
    servers();
    my $value = "rpad(i::text, 100, 'x')";
    $k->exec("SET kessel.tenant = 'near'; CREATE EXTENSION pgcrypto;"
          . "CREATE TABLE public.plain AS SELECT i, $value AS v FROM generate_series(1, $rows) i;"
          . "CREATE TABLE public.sealed AS SELECT i, vault.seal(v, 'bench') AS v FROM public.plain;"
          . "CREATE TABLE public.pgp AS SELECT i, pgp_sym_encrypt(v, 'a password') AS v FROM public.plain WHERE i <= 2000;"
          . "SELECT count(vault.create_secret($value, 'bench ' || i)) FROM generate_series(1, $rows) i;"
          . 'VACUUM ANALYZE public.plain, public.sealed, public.pgp, vault.secrets');
    my @loops = map { my $what = $_; map { [ $_->[0], { loop => [ $what, $_->[1] ] } ] } [ 'libsodium in a C loop', 'protect' ], [ 'the same without mprotect', 'plain' ] } qw(open seal);
    my @goals = ([ speed => 0.5, 'the C loop' ], [ plain => 10, 'pgcrypto' ]);
    my $pgp = sub { my ($sql) = @_; return [ 'pgcrypto', { key => 'plain', rows => 2000, sql => $sql } ] };

    compare('vault: open by function call', \&measure_values, \@goals, @loops[ 0, 1 ],
        $pgp->("SELECT count(pgp_sym_decrypt(v, 'a password')) FROM public.pgp WHERE i <= %d"),
        [ 'vault.open', { key => 'router', sql => "SELECT count(vault.open(v, 'bench')) FROM public.sealed WHERE i <= %d" } ]);
    compare('vault: seal by function call', \&measure_values, \@goals, @loops[ 2, 3 ],
        $pgp->("SELECT count(pgp_sym_encrypt(v, 'a password')) FROM public.plain WHERE i <= %d"),
        [ 'vault.seal', { key => 'router', sql => "SELECT count(vault.seal(v, 'bench')) FROM public.plain WHERE i <= %d" } ]);
    compare('vault: decrypted_secrets of 100,000 rows', \&measure_values, [ $goals[1] ], @loops[ 0, 1 ],
        $pgp->("SELECT count(pgp_sym_decrypt(v, 'a password')) FROM public.pgp WHERE i <= %d"),
        [ 'vault.decrypted_secrets', { key => 'router', sql => 'SELECT count(decrypted_secret) FROM (SELECT * FROM vault.decrypted_secrets LIMIT %d) s' } ]);
}

#
# The infra database's own tables, with 100,000 users and tenants: as
# authenticated, against a role with the same privileges that bypasses row
# security and asks for the same rows itself. So little time differs by chance: many
# short turns, and of each the median. (That a million users are found by an index
# is tested: t/126_infra_plans.pl.)
#
sub infra_database
{
    return if $made{infra}++;
    many_users($k, 'product', 100_000, 100_000);
    my $user = $k->exec("SELECT @{[ user_number(11) ]}", db => 'product') =~ s/\s//gr;
    $k->exec(<<"SQL", db => 'product');
CREATE ROLE api LOGIN IN ROLE authenticated;
ALTER ROLE api SET role = 'authenticated';
ALTER ROLE api SET "request.jwt.claims" = '{"sub": "$user", "role": "authenticated"}';
CREATE ROLE bypasses LOGIN BYPASSRLS IN ROLE authenticated;
INSERT INTO public.themes (id, name, dynamic_fonts) SELECT 'theme-' || i, 'Theme ' || i, '{Inter,Roboto}' FROM generate_series(1, 20) i;
INSERT INTO public.roles (name, display_name) SELECT 'role-' || i, 'Role ' || i FROM generate_series(1, 10) i;
INSERT INTO public.role_permissions (module_id, module_name, user_access) SELECT 'module-' || i, 'Module ' || i, i % 2 = 0 FROM generate_series(1, 200) i;
INSERT INTO public.module_role_access (module_id, role_id, has_access) SELECT m.module_id, r.id, true FROM public.role_permissions m, public.roles r;
VACUUM ANALYZE public.themes, public.roles, public.role_permissions, public.module_role_access;
SQL
    $made{infra_user} = $user;
    return;
}

# infra(TITLE, GOALS, SQL, what to ask for without row security)
sub infra
{
    my ($title, $goals, $sql, $own) = @_;
    return unless wanted("infra: $title");
    infra_database();
    (my $bare = $sql . ($own || '')) =~ s/USER:/'$made{infra_user}'/g;
    $sql =~ s/USER:/'$made{infra_user}'/g;
    my $as = sub { my ($role) = @_; return infra_url('product') =~ s/user=app/user=$role/r };
    compare("infra: $title", \&measure, $goals,
        [ 'without row security', { turns => 5, times => 1000, url => $as->('bypasses'), scripts => [ script("$bare;\n") ] } ],
        [ 'as authenticated', { key => 'router', times => 1000, url => $as->('api'), scripts => [ script("$sql;\n") ] } ]);
    return;
}

{
    my @goals = ([ direct => 1.3, 'the time without' ]);
    infra('themes, all 21', \@goals, 'SELECT id, name, description, dynamic_fonts FROM public.themes ORDER BY name');
    infra('one theme', \@goals, "SELECT name, dynamic_fonts FROM public.themes WHERE id = 'theme-7'");
    infra('roles, all 13', \@goals, 'SELECT id, name, display_name FROM public.roles ORDER BY name');
    infra('permissions, all 200', \@goals, 'SELECT module_id, parent_id, admin_access, user_access, nouser_access FROM public.role_permissions');
    infra('one permission', \@goals, "SELECT user_access FROM public.role_permissions WHERE module_id = 'module-77'");
    infra('access of one role, 200 modules', \@goals, "SELECT module_id, has_access FROM public.module_role_access WHERE role_id = '00000000-0000-4000-8000-000000000001'");
    infra('a user\'s own profile', \@goals, 'SELECT * FROM public.profiles', ' WHERE id = USER:');
    infra('a user\'s own profile, by its id', \@goals, 'SELECT * FROM public.profiles WHERE id = USER:');
    infra('a user\'s own memberships', \@goals, 'SELECT * FROM app.user_tenants', ' WHERE user_id = USER:');
    infra('a user\'s own tenants', \@goals, 'SELECT id, slug, name FROM app.tenants',
        ' WHERE id IN (SELECT tenant_id FROM app.user_tenants WHERE user_id = USER: AND is_active)');
}

#
# The fleet: 200 tenants' databases of one server. New sessions each connect to
# all; those that stay have their connections already.
#
my $databases = 200;

sub database_url { my ($i, %opt) = @_; return $k->url($made{fleet_cluster}, db => "t_$i", %opt) }

# A loop over all databases, as one writes it: a psql for each.
sub loop_file
{
    my ($name, $sql, %opt) = @_;
    append_to_file("$scripts/$name", join '', map { "psql -XqAt -d '" . database_url($_, %opt) . "' -c \"$sql\"\n" } 1 .. $databases);
    return;
}

sub fleet_databases
{
    return if $made{fleet}++;
    my $many = $made{fleet_cluster} = $k->data_cluster('many', conf => "max_connections = 600\n");
    $k->data_exec($many, "CREATE TABLE accounts AS SELECT i AS id, 'account ' || i AS name FROM generate_series(1, 100) i; GRANT SELECT ON accounts TO PUBLIC; VACUUM ANALYZE");
    $k->exec("CREATE SCHEMA fleet; CREATE EXTENSION IF NOT EXISTS postgres_fdw; ALTER ROLE admin SET kessel.max_idle_connections = $databases; GRANT USAGE ON SCHEMA fleet TO admin");
    foreach my $i (1 .. $databases)
    {
        $k->data_exec($many, "CREATE DATABASE t_$i TEMPLATE $many->{db} OWNER $many->{owner}", db => 'postgres');
        my $url = database_url($i);
        $k->exec("SELECT kessel.create_data_source('t_$i', '$url'); SELECT kessel.create_tenant('t-$i', data_source => 't_$i');"
              . "SELECT kessel.set_credential('t_$i', '$many->{owner}', '$many->{owner_password}', 'owner');"
              . "CREATE SERVER t_$i FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$many->{port}', dbname 't_$i');"
              . "CREATE USER MAPPING FOR PUBLIC SERVER t_$i OPTIONS (user '$many->{runtime}', password '$many->{password}');"
              . "CREATE FOREIGN TABLE fleet.t_$i (id int, name text) SERVER t_$i OPTIONS (schema_name 'public', table_name 'accounts'); GRANT SELECT ON fleet.t_$i TO admin");
    }
    loop_file('count_loop', 'SELECT count(*) FROM accounts');
    return;
}

# Milliseconds that a process and its threads have had a processor; or, of a server, its children that have ended.
sub process_ms
{
    my ($pid, $children) = @_;
    my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/.*\) //r;
    return 10 * sum(@fields[ $children ? (13, 14) : (11, 12) ]);
}

sub data_server_ms
{
    my $node = $made{fleet_cluster}{node};
    my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
    $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname LIKE 't\\_%'");
    return process_ms($pid, 1);
}

# Microseconds of one statement, or of a program. New sessions: what it took of
# the processors is noted, too, of the session's process (or the program) and of
# the data sources' server.
sub measure_fleet
{
    my ($way) = @_;
    my ($start, $out, $found) = (0, '', '');
    $way->{before}->() if $way->{before};
    if ($way->{program})
    {
        my $server = $way->{new} ? data_server_ms() : 0;
        my $cpu = sum((times)[ 2, 3 ]);
        $start = Time::HiRes::time();
        IPC::Run::run($way->{program}, '>', \$out) or die "@{ $way->{program} }[0 .. 1] failed\n";
        my $us = (Time::HiRes::time() - $start) * 1e6;
        push @{ $way->{cpu} }, (sum((times)[ 2, 3 ]) - $cpu) * 1000;
        die "not all have answered\n" if $out ne $way->{expect};
        push @{ $way->{server} }, data_server_ms() - $server if $way->{new};
        return $us;
    }
    my $s = $way->{stays} ? $way->{session} ||= $k->session(user => 'admin') : $k->session(user => 'admin');
    if ($way->{stays} && !$way->{warm}++)
    {
        $s->run($way->{sql});
        $way->{before}->() if $way->{before};
    }
    my $server = $way->{new} ? data_server_ms() : 0;
    my $cpu = process_ms($s->pid);
    $start = Time::HiRes::time();
    my $r = $s->run($way->{sql});
    my $us = (Time::HiRes::time() - $start) * 1e6;
    $found = "$r->{out} $r->{err}";
    die "$found\n" if $found !~ $way->{expect};
    push @{ $way->{cpu} }, process_ms($s->pid) - $cpu;
    return $us if $way->{stays};
    $s->quit;
    push @{ $way->{server} }, data_server_ms() - $server if $way->{new};
    return $us;
}

sub compare_fleet
{
    my ($title, $goals, @ways) = @_;
    return unless wanted($title);
    fleet_databases();
    # Connections that stay do not end, and with that the server does not tell what they have taken.
    my $stays = grep { $_->[1]{stays} } @ways;
    $_->[1]{new} = !$stays foreach @ways;
    compare($title, \&measure_fleet, $goals, @ways);
    foreach my $way (@ways)
    {
        my @parts = map { my $ms = $way->[1]{ $_->[0] }; $ms ? sprintf('%s %.0f', $_->[1], sum(@$ms) / @$ms) : () } [ cpu => $way->[1]{program} ? 'the program' : "the session's process" ], [ server => 'the data sources' ];
        line("  ms of CPU, $way->[0]: " . join(', ', @parts)) if @parts;
    }
    return;
}

{
    my $fleet = "SELECT sum((\"row\" ->> 'count')::int) FROM kessel.fleet_query('SELECT count(*) FROM accounts', max_parallel => 16)";
    my $union = 'SELECT sum(count) FROM (' . join(' UNION ALL ', map { "SELECT count(*) FROM fleet.t_$_" } 1 .. $databases) . ') u';
    my @goals = ([ speed => 5, 'the loop' ], [ plain => 1, 'UNION ALL' ]);
    my $total = 100 * $databases;
    my $loop = [ 'loop of psql', { program => [ 'sh', "$scripts/count_loop" ], expect => "100\n" x $databases } ];
    my $cold = "fleet: count(*) in $databases databases, new sessions";
    my $memory = 'fleet: memory of rows of many tenants';

    # The least that it can take: libpq and nothing else, 16 threads.
    my @least;
    if (wanted($cold))
    {
        fleet_databases();
        compile('connect_loop');
        @least = [ 'libpq in a C program, 16 threads', { program => [ "$scripts/connect_loop", 16, 'SELECT count(*) FROM accounts', map { database_url($_) } 1 .. $databases ], expect => "$total\n" } ];
    }
    compare_fleet($cold, \@goals, $loop, @least,
        [ 'UNION ALL of postgres_fdw tables', { key => 'plain', sql => $union, expect => qr/^$total / } ],
        [ 'fleet_query', { key => 'router', sql => $fleet, expect => qr/^$total / } ]);
    compare_fleet("fleet: count(*) in $databases databases, sessions that stay", \@goals, $loop,
        [ 'UNION ALL of postgres_fdw tables', { key => 'plain', stays => 1, sql => $union, expect => qr/^$total / } ],
        [ 'fleet_query', { key => 'router', stays => 1, sql => $fleet, expect => qr/^$total / } ]);
    if (wanted($memory))
    {
        fleet_databases();
        line($memory);
        # As many connections are kept as kessel.max_idle_connections says: 32.
        foreach my $n (50, $databases)
        {
            my $sql = "SELECT count(*) FROM (SELECT kessel.fleet_query('SELECT * FROM accounts, generate_series(1, 100)', ARRAY(SELECT 't-' || i FROM generate_series(1, $n) i))) x";
            my $mb = eval { peak_memory({}, "SELECT count(*) FROM (SELECT kessel.fleet_query('SELECT * FROM accounts', ARRAY(SELECT 't-' || i FROM generate_series(1, 40) i))) x", $sql) };
            line("  $n tenants, 10,000 rows of each", defined $mb ? sprintf('%.1f MB', $mb) : failed($memory, $@));
        }
        diag("measured: $memory");
    }
}

#
# Migrations of the 200 databases.
#
sub migrated_databases
{
    return if $made{migrated}++;
    fleet_databases();
    $k->exec("SELECT kessel.add_blueprint('bench')");
    more_tables();
    $k->exec("SET kessel.max_idle_connections = 0; CALL kessel.migrate('bench')");
    loop_file('version_loop', "SELECT max(version) FROM kessel_agent.migrations WHERE blueprint = 'bench'", owner => 1);
    return;
}

# A migration more, for kessel.migrate() or for the loop.
sub more_tables
{
    my $n = ++$made{tables};
    $k->exec("SELECT kessel.add_migration('bench', '${n}_table', 'CREATE TABLE made_$n (id bigint PRIMARY KEY, name text NOT NULL)')");
    return;
}

sub more_loops
{
    my $n = ++$made{loop_tables};
    unlink "$scripts/table_loop";
    loop_file('table_loop', "CREATE TABLE looped_$n (id bigint PRIMARY KEY, name text NOT NULL)", owner => 1);
    return;
}

foreach my $stays (0, 1)
{
    my $sessions = $stays ? 'sessions that stay' : 'new sessions';
    my $nothing = "migrate: nothing to do in $databases databases, $sessions";
    my $table = "migrate: one table in $databases databases, $sessions";
    my $all = qr/$databases of $databases targets done/;

    migrated_databases() if grep { wanted($_) } $nothing, $table;
    my $version = ($made{tables} || 0) . "\n";
    compare_fleet($nothing, [ [ speed => 10, 'the loop' ] ],
        [ 'loop of psql that reads the versions', { program => [ 'sh', "$scripts/version_loop" ], expect => $version x $databases } ],
        [ 'migrate', { key => 'router', stays => $stays, sql => "CALL kessel.migrate('bench')", expect => $all } ],
        [ 'migrate, verify => false', { key => 'router', stays => $stays, sql => "CALL kessel.migrate('bench', verify => false)", expect => $all } ]);
    compare_fleet($table, [ [ speed => 4, 'the loop' ] ],
        [ 'loop of psql that makes it', { program => [ 'sh', "$scripts/table_loop" ], before => \&more_loops, expect => '' } ],
        [ 'migrate', { key => 'router', stays => $stays, before => \&more_tables, sql => "CALL kessel.migrate('bench')", expect => $all } ]);
}

line(sprintf 'goals: %d met, %d not met', $goals{met} || 0, $goals{'not met'} || 0) if %goals;
line("questions that failed: $made{failed}") if $made{failed};
ok(!$made{failed}, 'measured');
done_testing();

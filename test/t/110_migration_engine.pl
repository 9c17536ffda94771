# What is under kessel.migrate(): migrations on many targets from one session that
# commits as it goes. What a target has been told, what it has then, what is
# recorded there, and what is left when something is cut off at any point.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselProxy;
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $slow = $ENV{KR_SLOW} || 1;
my $k = KesselTest->new;
$k->fleet;
my ($shared, $schemas, $solo) = @{$k}{qw(shared schemas solo)};

# What drives it: as the procedures that are built on it do, it commits between two
# calls. What has happened is kept in a table.
$k->exec(<<'SQL');
CREATE TABLE news (id serial, n int, news text, from_version int, version int, applied int, attempts int, error jsonb, ms float8);
CREATE PROCEDURE drive(targets text[], to_version int, direction text DEFAULT 'up', dry_run boolean DEFAULT false, timeout interval DEFAULT '1 min',
                       lock_timeout interval DEFAULT '2 s', lock_retries int DEFAULT 0, max_parallel int DEFAULT 16, blueprint text DEFAULT 'crm', stop_after int DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
    told int := 0;
    more int;
BEGIN
    TRUNCATE news RESTART IDENTITY;
    PERFORM kessel._migration_begin(gen_random_uuid(), blueprint, direction, to_version, dry_run, max_parallel, timeout, lock_timeout, lock_retries,
        ARRAY(SELECT s.id FROM unnest(targets) WITH ORDINALITY u (t, i) JOIN app.data_sources s ON s.name = split_part(t, '/', 1) ORDER BY i),
        ARRAY(SELECT split_part(t, '/', 2) FROM unnest(targets) WITH ORDINALITY u (t, i) ORDER BY i));
    COMMIT;
    WHILE kessel._migration_open() > 0 LOOP
        INSERT INTO news (n, news, from_version, version, applied, attempts, error, ms) SELECT * FROM kessel._migration_next('500 ms');
        GET DIAGNOSTICS more = ROW_COUNT;
        told := told + more;
        COMMIT;
        IF told >= stop_after THEN
            PERFORM kessel._migration_stop();
        END IF;
    END LOOP;
END
$$;
CREATE FUNCTION migration(name text, up text, down text DEFAULT NULL, transactional boolean DEFAULT true, blueprint text DEFAULT 'crm') RETURNS void
LANGUAGE sql AS $$
    INSERT INTO kessel.blueprints (name, applies_to) VALUES (blueprint, 'data_sources') ON CONFLICT DO NOTHING;
    INSERT INTO kessel.migrations (blueprint, version, name, up, down, transactional, checksum)
    VALUES (blueprint, substring(name, '^[0-9]+')::int, name, up, down, transactional, encode(sha256(convert_to(up, 'UTF8')), 'hex'))
    ON CONFLICT (blueprint, version) DO UPDATE SET up = excluded.up, down = excluded.down, transactional = excluded.transactional, checksum = excluded.checksum
$$;
GRANT ALL ON news TO admin;
SQL

my $s = $k->session;

# A list of arguments for drive(): the targets, then others by name.
sub call
{
    my ($targets, $to, %opt) = @_;
    return "CALL drive('{" . join(',', @$targets) . "}', $to" . join('', map { ", $_ => " . ($opt{$_} =~ /^(\d+|true|false)$/ ? $opt{$_} : "'$opt{$_}'") } sort keys %opt) . ')';
}

# What has become of each target: "n|news|from|to|applied|sqlstate|migration|statement|line"
my $told = q{SELECT n, news, from_version, version, applied, error ->> 'sqlstate', error ->> 'migration', error ->> 'statement', error ->> 'line'
             FROM news WHERE news NOT IN ('begun', 'retry') ORDER BY n};

sub drive
{
    my $r = $s->run(call(@_));
    return $r->{state} eq '' ? $s->run($told) : $r;
}

sub migration
{
    my ($name, $up, $down, %opt) = @_;
    $k->exec("SELECT migration(\$kr\$$name\$kr\$, \$kr\$$up\$kr\$, " . (defined $down ? "\$kr\$$down\$kr\$" : 'NULL') . ', ' . ($opt{alone} ? 'false' : 'true')
          . ', ' . ($opt{blueprint} ? "'$opt{blueprint}'" : "'crm'") . ')');
    return;
}

# The record of a schema there, "version state statements_done" in a line each.
sub record
{
    my ($d, $schema, %opt) = @_;
    return $k->data_exec($d, "SELECT version || ' ' || state || ' ' || statements_done FROM kessel_agent.migrations WHERE schema_name = '$schema' AND blueprint = '"
          . ($opt{blueprint} || 'crm') . "' ORDER BY version", db => $opt{db});
}

sub lines { return join "\n", @_ }

migration('0001_notes', 'CREATE TABLE notes (id int PRIMARY KEY, text text); GRANT SELECT ON "@tenant".notes TO "@runtime"', 'DROP TABLE notes');
migration('0002_more', "ALTER TABLE notes ADD author text;\nINSERT INTO notes VALUES (1, '\"\@tenant\"', current_schema());\n-- the end\n", 'DELETE FROM notes; ALTER TABLE notes DROP author');
migration('0003_empty', '-- nothing to do', '');

#
# Up and down, in all kinds of isolation
#
my @all = ('shared/public', 'schemas/schema_a', 'schemas/schema_b', 'solo_a/public', 'solo_b/public');
ok_run(drive(\@all, 2), lines(map { "$_|done|0|2|2||||" } 1 .. 5), 'all come to the version');
is($k->exec('SELECT string_agg(DISTINCT news, \',\' ORDER BY news), count(*), bool_and(ms > 0), min(attempts), max(attempts) FROM news'), 'begun,done|10|t|1|1', 'the beginning of each is told, too');
is($k->data_exec($schemas, 'SELECT * FROM schema_b.notes'), '1|"@tenant"|schema_b', 'names mean the target\'s schema; its name is put in, but not into literals');
is($k->data_exec($schemas, "SELECT has_table_privilege('$schemas->{runtime}', 'schema_a.notes', 'SELECT')"), 't', 'so is the runtime role\'s');
is($k->data_exec($schemas, "SELECT tableowner FROM pg_tables WHERE schemaname = 'schema_a' AND tablename = 'notes'"), $schemas->{owner}, 'it is the owner who migrates');
is(record($schemas, 'schema_a'), lines('1 applied 0', '2 applied 0'), 'the target has a record of it');
is($k->data_exec($schemas, q{SELECT count(DISTINCT run_id), bool_and(checksum ~ '^[0-9a-f]{64}$'), bool_and(name ~ '^000'), bool_and(applied_at > started_at - interval '1 s') FROM kessel_agent.migrations}), '1|t|t|t', 'with all that belongs to it');
ok_run(drive(\@all, 2), lines(map { "$_|done|2|2|0||||" } 1 .. 5), 'once more: nothing is to be done');
ok_run(drive(\@all, 1), lines(map { "$_|done|2|2|0||||" } 1 .. 5), 'up to a lower version: neither');
ok_run(drive(\@all, 3), lines(map { "$_|done|2|3|1||||" } 1 .. 5), 'an empty migration');
ok_run(drive(['schemas/schema_a', 'solo_b/public'], 1, direction => 'down'), lines(map { "$_|done|3|1|2||||" } 1 .. 2), 'down');
is(record($schemas, 'schema_a') . '/' . record($schemas, 'schema_b'), lines('1 applied 0/1 applied 0', '2 applied 0', '3 applied 0'), 'in that schema only');
is($k->data_exec($schemas, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'schema_a.notes'::regclass AND attname = 'author'"), '0', 'what was made is gone');
ok_run(drive(\@all, 0, direction => 'down'), lines('1|done|3|0|3||||', '2|done|1|0|1||||', '3|done|3|0|3||||', '4|done|3|0|3||||', '5|done|1|0|1||||'), 'down to nothing, from wherever it is');
is($k->data_exec($schemas, 'SELECT count(*) FROM kessel_agent.migrations'), '0', 'no record is left');
ok_run(drive(\@all, 3), lines(map { "$_|done|0|3|3||||" } 1 .. 5), 'and up again');
drive(\@all, 0, direction => 'down');
ok_run(drive([], 3), '', 'no targets');

done_testing();

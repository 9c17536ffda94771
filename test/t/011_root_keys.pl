# Root keys: where they come from, several at once, rotation under readers and
# through a crash, and where in memory they are.
use strict;
use warnings;

use lib 'test/lib';
use Fcntl ();
use File::Temp ();
use IPC::Run ();
use KesselTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $dir  = File::Temp->newdir(CLEANUP => 1);
my $k    = KesselTest->new(conf => "session_preload_libraries = 'kessel_router'\nrestart_after_crash = on\n");
my $node = $k->node;
my $data = $node->data_dir;
my ($old, $new, $third) = map { unpack('H*', join('', map { chr(int(rand(256))) } 1 .. 32)) } 1 .. 3;
my @settings = map { "kessel.root_key_$_" } qw(file command environment);

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

# That provider and no other.
sub provide
{
    my ($provider, $value) = @_;
    reload((map { $_ => '' } @settings), "kessel.root_key_$provider" => $value);
    return;
}

# Under its name at once, as a whole.
sub write_key
{
    my ($text, %opt) = @_;
    my $file = $opt{file} || "$dir/keys";
    open(my $fh, '>:raw', "$file.tmp") or die "$file: $!";
    chmod(defined $opt{mode} ? $opt{mode} : 0600, "$file.tmp");
    print $fh $text;
    close $fh;
    rename("$file.tmp", $file) or die "$file: $!";
    return;
}

# An expression over vault.status(), in a new session or in this one.
sub status
{
    my ($expression, $session) = @_;
    my $sql = "SELECT $expression FROM vault.status()";
    return $session ? $session->run($sql)->{out} : $k->exec($sql);
}

sub id_of
{
    my ($key) = @_;
    write_key($key, file => "$dir/one");
    provide(file => "$dir/one");
    return status('root_key_id');
}
my %id = map { $_ => id_of($_) } $old, $new, $third;

#
# What a file may hold
#
my $hex = $old;
my $b64 = do { my $b = pack('u', pack('H*', $new)); chomp $b; $b = substr($b, 1); $b =~ tr/` -_/AA-Za-z0-9+\//; substr($b, 0, 43) . '=' };
my $raw = pack('H*', $old);
my @many = map { sprintf('%064x', $_) } 1 .. 9;

provide(file => "$dir/keys");
foreach my $case (
    [ 'one key',                          "$hex\n",                         "$id{$old}" ],
    [ 'two, the first wraps',             "$new\n$old\n",                   "$id{$new} $id{$old}" ],
    [ 'the other way round',              "$old\n$new\n",                   "$id{$old} $id{$new}" ],
    [ 'hexadecimal and base64',           "$old\n$b64\n",                   "$id{$old} $id{$new}" ],
    [ 'line ends of DOS',                 "$old\r\n$b64\r\n",               "$id{$old} $id{$new}" ],
    [ 'no line end',                      "$old\n$new",                     "$id{$old} $id{$new}" ],
    [ 'comments, blank lines and blanks', "# since May\n\n  $old \t\n#$third\n   # old\n$new\n", "$id{$old} $id{$new}" ],
    [ 'a key twice',                      "$old\n$b64\n\U$old\E\n$new\n",   "$id{$old} $id{$new}" ],
    [ 'raw bytes',                        $raw,                             "$id{$old}" ],
    [ 'raw bytes and a line end',         "$raw\n",                         "$id{$old}" ],
    [ 'eight keys',                       join("\n", @many[ 0 .. 7 ]),      undef ])
{
    my ($name, $text, $ids) = @$case;
    write_key($text);
    is(status("array_to_string(root_key_ids, ' ')"), $ids, $name) if defined $ids;
    is(status('cardinality(root_key_ids)'), '8', $name) unless defined $ids;
}
is(status("root_key_id = root_key_ids[1] AND NOT sealed AND provider = 'file'"), 't', 'the first is named by itself');

# What it may not, in a file and from a command
my $short = substr($old, 0, 62);
foreach my $case (
    [ 'a short key',                 "$old\n$short\n",              qr/Line 2 of .* is no root key/ ],
    [ 'a long key',                  "$old\n\n# c\n${old}00\n",     qr/Line 4 of .* is no root key/ ],
    [ 'a digit too many',            "${old}0\n",                   qr/Line 1 of .* is no root key/ ],
    [ 'a letter that is no digit',   "g" . substr($old, 1) . "\n",  qr/Line 1 of .* is no root key/ ],
    [ 'two on a line',               "$old $new\n",                 qr/Line 1 of .* is no root key/ ],
    [ 'base64 of less',              substr($b64, 4) . "\n",        qr/Line 1 of .* is no root key/ ],
    [ 'zero',                        "$old\n" . '0' x 64 . "\n",    qr/Line 2 of .* is no root key/ ],
    [ 'a NUL behind a key',          "$old\0\n",                    qr/Line 1 of .* is no root key/ ],
    [ 'a NUL between keys',          "$old\n\0\n$new\n",            qr/Line 2 of .* is no root key/ ],
    [ 'NULs only',                   "\0" x 64,                     qr/Line 1 of .* is no root key/ ],
    [ '31 bytes',                    substr($raw, 0, 31) =~ s/\n/x/gr, qr/Line 1 of .* is no root key/ ],
    [ 'raw bytes of two keys',       ($raw . pack('H*', $new)) =~ s/[\n#]/x/gr, qr/Line 1 of .* is no root key/ ],
    [ 'a password',                  "correct horse battery staple ok!", qr/Line 1 of .* is no root key/ ],
    [ 'a comment of 32 characters',  "# correct horse battery staple!\n", qr/has no root key in it/ ],
    [ 'nine keys',                   join("\n", @many),             qr/has more than 8 root keys/ ],
    [ 'nothing',                     '',                            qr/has no root key in it/ ],
    [ 'only comments',               "# none yet\n\n",              qr/has no root key in it/ ],
    [ 'a very long line',            "$old\n" . 'a' x 100000,       qr/more than 4000 bytes/ ],
    [ 'many blank lines',            "\n" x 100000 . $old,          qr/more than 4000 bytes/ ])
{
    my ($name, $text, $pattern) = @$case;
    write_key($text);
    like(status("sealed || ' ' || root_key_ids::text || ' ' || detail"), qr/^true \{\} .*key file.*/, "$name: the file is refused");
    like(status('detail'), $pattern, 'and why');
    unlike(status("detail || hint"), qr/\Q$short\E|correct|aaaa/, 'without its text');
    provide(command => "cat '$dir/keys'");
    like(status("sealed || ' ' || root_key_ids::text || ' ' || detail"), qr/^true \{\} .*$pattern/, "$name: from a command");
    provide(file => "$dir/keys");
}

# Files that are none of the server's business
foreach my $mode (0640, 0604, 0644, 0666, 0620)
{
    write_key($old, mode => $mode);
    like(status("sealed || ' ' || detail || ' ' || hint"), qr/^true .*\(mode 0\d*\Q@{[ sprintf('%o', $mode) ]}\E\).*chmod 0600/, sprintf('mode %04o', $mode));
}
write_key($old, mode => 0000);
like(status("sealed || ' ' || detail"), qr/^true .*cannot be opened: Permission denied/, 'a file that cannot be read');
unlink "$dir/keys";
like(status("sealed || ' ' || detail"), qr/^true .*cannot be opened: No such file/, 'a missing file');
mkdir "$dir/keys";
like(status("sealed || ' ' || detail"), qr/^true .*is not a regular file/, 'a folder');
rmdir "$dir/keys";
POSIX::mkfifo("$dir/keys", 0600);
like(status("sealed || ' ' || detail"), qr/^true .*is not a regular file/, 'a FIFO, which is not waited for');
unlink "$dir/keys";
provide(file => '/dev/zero');
like(status("sealed || ' ' || detail"), qr/^true .*is not a regular file/, 'a device');

#
# A command
#
write_key($old);
provide(command => "cat '$dir/keys'");
is(status("provider || sealed || root_key_id"), "commandfalse$id{$old}", 'a command gives the root key');
foreach my $case (
    [ 'exit 3',                     qr/exit code 3/,            'a command that fails' ],
    [ 'kill -9 $$',                 qr/ended by signal 9/,      'a command that is killed' ],
    [ "cat '$dir/keys'; exit 1",    qr/exit code 1/,            'a key and a failure' ],
    [ 'echo rubbish',               qr/Line 1 of the output of kessel.root_key_command is no root key/, 'rubbish' ],
    [ 'cat /dev/zero',              qr/did not |more than|signal/, 'output without end' ],
    [ ':',                          qr/has no root key in it/,  'nothing' ],
    [ '/no/such/program',           qr/exit code 127/,          'no such program' ])
{
    my ($command, $pattern, $name) = @$case;
    provide(command => $command);
    like(status("sealed || ' ' || detail"), qr/^true .*$pattern/, $name);
}
like_error($k->run("SELECT vault.create_secret('x')"), 'KR010', qr/^the vault is sealed$/, 'nothing is stored then', hint => qr/vault\.status/);

reload('kessel.root_key_timeout' => '1s');
provide(command => "tail -f /dev/null & echo \$! >$dir/pid; wait");
my $start = time;
like(status("sealed || ' ' || detail"), qr/^true .*did not end within 1 seconds/, 'a command that hangs');
cmp_ok(time - $start, '<', 20, 'in bounded time');
my $started = slurp_file("$dir/pid") =~ s/\s//gr;
ok($node->poll_query_until('postgres', "SELECT coalesce(pg_read_file('/proc/$started/stat', 0, 1000, true) ~ '[)] [ZX] ', true)"), 'and what it started is gone');
reload('kessel.root_key_timeout' => '10min');
my $waiting = $k->session;
unlink "$dir/pid";
$waiting->start("SELECT vault.create_secret('x')");
$node->poll_query_until('postgres', "SELECT (pg_stat_file('$dir/pid', true)).size > 0");
$k->exec('SELECT pg_cancel_backend(' . $waiting->pid . ')');
like_error($waiting->finish, '57014', qr/canceling statement/, 'a hanging command can be cancelled');
ok_run($waiting->run('SELECT 1'), '1', 'and the session goes on');
like_error($waiting->run("SELECT vault.create_secret('x')"), 'KR010', qr/sealed/, 'a failed command is not run again at once');
$waiting->quit;

provide(command => "tail -f /dev/null & echo \$! >$dir/pid; cat '$dir/keys'");
is(status('root_key_id'), $id{$old}, 'what a command leaves in the background, holding its output, is not waited for');
kill 'KILL', slurp_file("$dir/pid") =~ s/\s//gr;

# Only one of the settings
foreach my $case ([ 'kessel.root_key_file' => "$dir/keys", 'kessel.root_key_environment' => '' ],
    [ 'kessel.root_key_file' => '', 'kessel.root_key_environment' => 'KR_TEST_KEYS' ])
{
    reload(@$case);
    is(status("provider || sealed || cardinality(root_key_ids)"), 'ambiguoustrue0', 'two of the settings are refused');
    like(status('detail || hint'), qr/More than one of .*Set one of them/, 'and why');
}

#
# The environment
#
provide(environment => 'KR_TEST_KEYS');
like(status("provider || sealed || detail"), qr/^environmenttrue.*The environment variable "KR_TEST_KEYS" is not set/, 'a variable that is not set');
{
    local $ENV{KR_TEST_KEYS} = "$new\n  $old";
    local $ENV{KR_TEST_BAD}  = "$new rubbish";
    $node->restart;
}
my $s = $k->session;
is(status("concat_ws(' ', provider, sealed, array_to_string(root_key_ids, ' '))", $s), "environment f $id{$new} $id{$old}", 'root keys from the environment');
$k->exec('SELECT pg_reload_conf()');
is(status('sealed', $s), 'f', 'a session keeps them through a reload');
my $environment = "CREATE TEMP TABLE e (line text); COPY e FROM PROGRAM 'env; tr \"\\\\0\" \"\\\\n\" </proc/\$PPID/environ'; SELECT count(*) FILTER (WHERE line LIKE '%' || '$old' || '%'), count(*) > 5 FROM e";
is($s->run($environment)->{out}, '0|t', 'and what it starts has them not in its environment');
provide(file => "$dir/keys");
is(status('provider', $s), 'file', 'another provider');
provide(environment => 'KR_TEST_KEYS');
is(status('cardinality(root_key_ids)', $s), '2', 'and back');
$s->quit;
provide(environment => 'KR_TEST_BAD');
like(status("sealed || detail || hint"), qr/^trueItem 2 of the environment variable "KR_TEST_BAD" is no root key/, 'a bad one is named by its place');
unlike(status("detail || hint"), qr/rubbish|$new/, 'not by its text');
foreach my $value ('A=B', '1A', 'A B', $old)
{
    is($k->run("ALTER SYSTEM SET kessel.root_key_environment = '$value'")->{state}, '22023', 'the setting takes names only');
}

# What follows searches memory for keys: no process has them in its environment.
provide(file => "$dir/keys");
$node->restart;

#
# Rotation, step by step, with a session that is open all the while
#
write_key("$old\n");
my ($keys, $secrets) = (11000, 11002);
$s = $k->session;
$k->exec("SELECT count(vault.create_secret('value ' || i, 's' || i, new_tenant_id => gen_random_uuid())) FROM generate_series(1, $keys - 1) i; SELECT vault.create_secret('of none', 's$keys')");
is($k->exec('SELECT count(*) || min(root_key_id) || max(root_key_id) FROM vault.keys'), "$keys$id{$old}$id{$old}", 'data keys');

# Also a value of a tenant's and a key for clients
$k->exec("SELECT kessel.create_data_source('one', 'postgresql://u:p\@127.0.0.1:1/db'); SELECT kessel.create_tenant('acme', data_source => 'one')");
$k->exec("SET kessel.tenant = 'acme'; CREATE TABLE sealed AS SELECT vault.seal('of acme', 'c') AS v");
my $public = $k->exec('SELECT vault.public_key()');
$keys += 2;
my $all_open = "SELECT count(*) FROM vault.decrypted_secrets WHERE decrypted_secret IS NOT NULL";
is($s->run('SELECT vault.rotate_root_key()')->{out}, '0', 'nothing to rotate');

# The old key taken away too early
write_key("$new\n");
is($s->run("SELECT sealed, root_key_id, array_to_string(wanted_root_key_ids, ' ') FROM vault.status()")->{out}, "t|$id{$new}|$id{$old}", 'without the old key: sealed, and its id is named');
like_error($s->run("SELECT vault.create_secret('x')"), 'KR010', qr/sealed/, 'nothing is stored');
like_error($s->run("SELECT vault.create_secret('x', new_tenant_id => gen_random_uuid())"), 'KR010', qr/sealed/, 'nor under a new data key');
my $r = $s->run('SELECT vault.rotate_root_key()');
is($r->{out}, '0', 'and nothing rotated');
like($r->{err}, qr/WARNING:  KR010: $keys data keys were left as they are\nDETAIL:  $keys of them are wrapped by root keys that are not in place: $id{$old}\./, 'which is said');
write_key("$new\n$old\n");
is($s->run('SELECT sealed FROM vault.status()')->{out}, 'f', 'back in place, it is unsealed, in a session that was open');
is($s->run("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 's7'")->{out}, 'value 7', 'and opens');
like(status("detail || ' ' || hint"), qr/still wrapped by $id{$old}.*vault\.rotate_root_key/, 'status says what is to be done');
like($k->exec(q{SELECT ok || ' ' || detail || ' ' || hint FROM kessel.doctor() WHERE "check" = 'vault'}), qr/^false .*still wrapped by $id{$old}.*vault\.rotate_root_key/, 'and so does the doctor');
is($s->run("SELECT vault.create_secret('new', 'new', new_tenant_id => '00000000-0000-4000-8000-000000000001') IS NOT NULL")->{out}, 't', 'a new data key');
is($k->exec("SELECT root_key_id FROM vault.keys WHERE tenant_id = '00000000-0000-4000-8000-000000000001'"), $id{$new}, 'is wrapped by the first');

# Readers, who never fail, in transactions of their own
$k->exec('CREATE TABLE stop ()');
my $reader = "DO \$\$DECLARE n integer := 0; v text; one text; BEGIN LOOP
    one := 's' || 4 + floor(random() * ($secrets - 6))::integer;
    SELECT decrypted_secret INTO v FROM vault.decrypted_secrets WHERE name = one;
    IF v IS NULL OR v NOT LIKE 'value %' THEN RAISE EXCEPTION 'a reader failed after % reads: %', n, v; END IF;
    n := n + 1; COMMIT; EXIT WHEN EXISTS (SELECT FROM stop); END LOOP;
    RAISE NOTICE 'read % times', n; END\$\$";

# It stalls at one of the keys till we let it go on.
my $stall = $k->exec("SELECT id FROM vault.keys ORDER BY ctid OFFSET 10500 LIMIT 1");
$k->exec("CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN
        IF NEW.id = '$stall' THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN NEW; END\$\$;
    CREATE TRIGGER stall BEFORE UPDATE ON vault.keys FOR EACH ROW EXECUTE FUNCTION stall()");
my $holder = $k->session;
my $stalled = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' AND pid = ";
my $wrapped_by = 'SELECT count(*) FROM vault.keys WHERE root_key_id = ';

$holder->run('SELECT pg_advisory_lock(1)');
my @readers = map { $k->session } 1 .. 2;
$_->start($reader) foreach @readers;
$s->start('SELECT vault.rotate_root_key()');
ok($node->poll_query_until('infra', $stalled . $s->pid), 'a rotation in its middle');
is($k->exec($all_open), $secrets, 'all secrets open meanwhile');
my $writer = $k->session;
$writer->start("SELECT vault.create_secret('meanwhile', new_tenant_id => gen_random_uuid()) IS NOT NULL");
ok($node->poll_query_until('infra', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $writer->pid), 'who seals waits');
$k->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
$r = $s->finish;
like_error($r, '57014', qr/canceling/, 'it can be cancelled');
like($r->{err}, qr/NOTICE:  00000: wrapped 10000 of $keys data keys anew/, 'and has told how far it was');
ok_run($writer->finish, 't', 'who waited goes on');
is($k->exec($wrapped_by . "'$id{$old}'"), $keys, 'nothing has changed');
$k->exec('INSERT INTO stop DEFAULT VALUES');
like($_->finish->{err}, qr/\ANOTICE:  00000: read [1-9]/, 'a reader did not fail') foreach @readers;
$k->exec('TRUNCATE stop');

# The crash
$s->start('SELECT vault.rotate_root_key()');
ok($node->poll_query_until('infra', $stalled . $s->pid), 'a rotation in its middle, once more');
kill 'KILL', $s->pid;
$s->finish;
$_->quit foreach $s, $holder, $writer, @readers;
ok($node->poll_query_until('infra', 'SELECT count(*) = 1 FROM pg_locks WHERE locktype = \'virtualxid\''), 'the server comes back after kill -9');
is($k->exec($wrapped_by . "'$id{$old}'"), $keys, 'nothing has changed');
$k->exec('DROP TRIGGER stall ON vault.keys');

# Two that were spoiled
my $altered = $k->exec("UPDATE vault.keys SET wrapped_key = set_byte(wrapped_key, 5, get_byte(wrapped_key, 5) # 1) WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 's1') RETURNING id || ' (' || fingerprint || ')'");
my $foreign = $k->exec("UPDATE vault.keys SET root_key_id = 'feedfeedfeedfeed' WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 's2') RETURNING id");
my $named   = $k->exec("UPDATE vault.keys SET fingerprint = 'feedfeedfeedfeed' WHERE id = (SELECT key_id FROM vault.secrets WHERE name = 's3') RETURNING id");

$s = $k->session;
my $values = $k->session(tenant => 'acme');
is($values->run("SELECT vault.open(v, 'c') FROM sealed")->{out}, 'of acme', 'a session keeps a wrapped key');
@readers = map { $k->session } 1 .. 2;
$_->start($reader) foreach @readers;
my $began = time;
$r = $s->run('SELECT vault.rotate_root_key()');
my $took = time - $began;
$k->exec('INSERT INTO stop DEFAULT VALUES');
is($r->{out}, $keys - 3, 'rotated');
diag(sprintf('%d data keys in %.1f s', $r->{out}, $took));
like($r->{err}, qr/NOTICE:  00000: wrapped \d+ of $keys data keys anew/, 'with progress');
like($r->{err}, qr/WARNING:  KR010: 3 data keys were left as they are\nDETAIL:  1 of them are wrapped by root keys that are not in place: feedfeedfeedfeed\. 2 of them are not what the vault has written: /, 'what could not be is counted');
like($r->{err}, qr/\Q$altered\E/, 'and named');
like($r->{err}, qr/$named \(feedfeedfeedfeed\)/, 'also where only the fingerprint is wrong');
like($_->finish->{err}, qr/\ANOTICE:  00000: read [1-9]/, 'no reader failed meanwhile') foreach @readers;
$_->quit foreach @readers;
like(slurp_file($node->logfile), qr/^.*"action" *: *"rotate root key".*"KR010".*$/m, 'it is recorded');
is($k->exec($wrapped_by . "'$id{$new}'"), $keys - 3 + 2, 'all others are wrapped by the new key');
$k->exec("UPDATE vault.keys SET root_key_id = '$id{$old}' WHERE id = '$foreign';
    UPDATE vault.keys SET wrapped_key = set_byte(wrapped_key, 5, get_byte(wrapped_key, 5) # 1) WHERE id = '" . ($altered =~ s/ .*//r) . "';
    UPDATE vault.keys SET fingerprint = (SELECT fingerprint FROM vault.keys LIMIT 1) WHERE id = '$named'");
is($s->run('SELECT vault.rotate_root_key()')->{out}, '2', 'those that were restored, in another go');
$k->exec("DELETE FROM vault.secrets WHERE name = 's3'; DELETE FROM vault.keys WHERE id = '$named'");

like(status("sealed || ' ' || detail"), qr/^false Nothing in this database is wrapped by $id{$old} any more/, 'status says that the old key can go');
is(status('hint IS NULL'), 't', 'and asks for nothing');
write_key("$new\n");
is($s->run('SELECT sealed, wanted_root_key_ids FROM vault.status()')->{out}, 'f|{}', 'without it, in the session that was open');
is($s->run($all_open)->{out}, $secrets, 'all secrets open');
is($values->run("SELECT vault.open(v, 'c') FROM sealed")->{out}, 'of acme', 'and values, in the session that has kept their key in its former form');
is($values->run("SELECT vault.open(vault.seal('new', 'c'), 'c')")->{out}, 'new', 'which goes on sealing');
is($k->exec('SELECT vault.public_key()'), $public, 'clients need no other key');
$values->quit;
$k->exec('SELECT pg_reload_conf()');
is($k->exec($all_open), $secrets, 'and in a new one');

# Where it cannot be done
like_error($k->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT vault.rotate_root_key()'), '25001', qr/isolation level/, 'not in a snapshot', hint => qr/READ COMMITTED/);
like_error($k->run('BEGIN READ ONLY; SELECT vault.rotate_root_key()'), '25006', qr/read-only/, 'not read only');
like_error($k->run('SELECT vault.rotate_root_key()', user => 'stranger'), '42501', qr/denied/, 'not by everyone');
ok_run($k->run('SELECT vault.rotate_root_key()', user => 'admin'), '0', 'but by an admin');

#
# Memory
#
sub proc
{
    my ($pid, $file) = @_;
    open(my $fh, '<', "/proc/$pid/$file") or return '';
    local $/;
    return <$fh> // '';
}

# The kinds of memory in which a process has any of these bytes.
sub found_in_memory
{
    my ($pid, @bytes) = @_;
    my %found;
    open(my $mem, '<:raw', "/proc/$pid/mem") or return 'no access';
    foreach my $line (split /\n/, proc($pid, 'maps'))
    {
        my ($from, $to, $what) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \S+ *(.*)$/ or next;
        next if $what =~ /^\[v/;
        my ($pos, $end) = (hex($from), hex($to));
        my $tail = '';
        sysseek($mem, $pos, Fcntl::SEEK_SET()) or next;
        while ($pos < $end)
        {
            my $n = sysread($mem, my $chunk, $end - $pos > 1 << 20 ? 1 << 20 : $end - $pos) or last;
            $pos += $n;
            my $text = $tail . $chunk;
            foreach my $bytes (@bytes) { $found{ $what || 'anonymous' } = 1 if index($text, $bytes) >= 0 }
            $tail = substr($text, -64);
        }
    }
    return join(' ', sort keys %found);
}

$s->run("SELECT vault.update_secret(id, 'other') FROM vault.secrets WHERE name IN ('s5', 's6')");
$s->run($all_open) foreach 1 .. 2;
my ($locked) = proc($s->pid, 'status') =~ /^VmLck:\s+(\d+) kB/m;
diag("$locked kB are locked in a backend");
cmp_ok($locked, '>=', 4, 'memory is locked');
cmp_ok($locked, '<=', 64, 'and not more than 64 kB');
my @secret_maps = grep { /^VmFlags:.* lo\b/m } split /^(?=[0-9a-f]+-[0-9a-f]+ )/m, proc($s->pid, 'smaps');
cmp_ok(scalar(@secret_maps), '>', 0, 'locked mappings');
is(scalar(grep { !/^\S+ ---p / || !/^VmFlags:.* dd\b/m || !/^VmFlags:.* wf\b/m } @secret_maps), 0, 'each inaccessible between uses, left out of core dumps, wiped in children');
SKIP:
{
    $s->run("SELECT 'kr-control-mark' AS x");
    my $control = found_in_memory($s->pid, 'kr-control-mark');
    skip 'the memory of processes cannot be read here', 1 if $control eq 'no access';
    isnt($control, '', 'a mark is found in the memory of a backend');
    is(found_in_memory($s->pid, $new, substr(pack('H*', $new), 0, 16), substr(pack('H*', $new), 16)), '', 'the root key nowhere that can be read');
}

# Commands run as children: they have the key, once they print it, and no other
provide(command => "cp /proc/\$\$/status '$dir/child.status'; cp /proc/\$\$/maps '$dir/child.maps'; cat '$dir/keys'");
is(status('sealed', $s), 'f', 'a session loads the keys again, by a command');
like(slurp_file("$dir/child.status"), qr/^VmLck:\s+0 kB/m, 'whose process has nothing locked');

#
# A kernel that refuses to lock
#
$s->quit;
provide(file => "$dir/keys");
SKIP:
{
    my ($limit) = proc($$, 'limits') =~ /^Max locked memory +(\d+|unlimited)/m;
    skip 'no prlimit', 4 if !$limit || system('prlimit', '--pid', $$, '--memlock=0:');
    $node->restart;
    like(status("sealed || ' ' || detail || ' ' || hint"), qr/^false .*refuses to lock.* LimitMEMLOCK=/, 'status says so, and the line to set');
    is($k->exec($all_open), $secrets, 'secrets open all the same');
    like($k->exec(q{SELECT ok || ' ' || hint FROM kessel.doctor() WHERE "check" = 'vault'}), qr/^false .*LimitMEMLOCK=/, 'the doctor, too');
    system('prlimit', '--pid', $$, "--memlock=$limit:");
    $node->restart;
    is(status('detail IS NULL'), 't', 'with the limit as it was it is quiet');
}

#
# A key file encrypted with age, whose identity lies elsewhere
#
sub shell
{
    my ($command) = @_;
    my $out = '';
    return IPC::Run::run([ 'bash', '-euo', 'pipefail', '-c', $command ], '<', \undef, '>&', \$out) ? '' : "failed: $out";
}
is(shell("cd '$dir'; umask 077; age-keygen -o identity 2>/dev/null; age -r \$(age-keygen -y identity) -o keys.age keys"), '', 'age encrypts the key file');
is(index(slurp_file("$dir/keys.age"), $new), -1, 'which then tells nothing');
unlink "$dir/keys";
provide(command => "age -d -i '$dir/identity' '$dir/keys.age'");
is(status("provider || sealed || root_key_id"), "commandfalse$id{$new}", 'age gives the root key');
is($k->exec($all_open), $secrets, 'all secrets open');
rename("$dir/identity", "$dir/identity.gone");
$k->exec('SELECT pg_reload_conf()');
like(status("sealed || ' ' || detail"), qr/^true .*exit code 1/, 'without the identity it is sealed');
is($k->exec('SELECT 1'), '1', 'and all else works');
rename("$dir/identity.gone", "$dir/identity");

done_testing();

# Secrets that come from elsewhere: from an installation of supabase_vault in
# the same database.
use strict;
use warnings;

use lib 'test/lib';
use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $key = KesselTest::root_key_file("$dir/root.key");
my $k   = KesselTest->new(
    extension => 0,
    conf      => "session_preload_libraries = 'kessel_router'\nkessel.root_key_file = '$key'\nlog_statement = all\nlog_error_verbosity = verbose\n");

# What supabase_vault makes, with an encoding in place of its encryption: a row
# that is not encoded makes the view fail. $known tells whether it is an
# extension of that name.
my $mark = 'kr-marked-secret';

sub supabase_vault
{
    my ($db, $known) = @_;
    $k->exec("CREATE DATABASE $db", db => 'postgres');
    $k->exec(<<"SQL", db => $db);
CREATE SCHEMA vault;
CREATE FUNCTION vault._decrypt(secret text) RETURNS text LANGUAGE sql IMMUTABLE AS
    \$\$ SELECT convert_from(decode(reverse(secret), 'base64'), 'utf8'::name) \$\$;
CREATE FUNCTION vault._encrypt(secret text) RETURNS text LANGUAGE sql IMMUTABLE AS
    \$\$ SELECT reverse(replace(encode(convert_to(secret, 'utf8'), 'base64'), E'\\n', '')) \$\$;
CREATE TABLE vault.secrets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text, description text NOT NULL DEFAULT '', secret text NOT NULL, key_id uuid,
    nonce bytea DEFAULT '\\x00112233445566778899aabbccddeeff',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX ON vault.secrets (name) WHERE name IS NOT NULL;
CREATE VIEW vault.decrypted_secrets AS
    SELECT id, name, description, secret, vault._decrypt(secret) AS decrypted_secret, key_id, nonce, created_at, updated_at FROM vault.secrets;
SQL
    $k->exec(<<"SQL", db => $db) if $known;
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (99001, 'supabase_vault', 10, 'vault'::regnamespace, false, '0.3.1');
SQL
    return;
}

sub add
{
    my ($db, $id, $name, $value, $description) = @_;
    $name = defined $name ? "'$name'" : 'NULL';
    $description = '' unless defined $description;
    $k->exec("SET log_statement = none; INSERT INTO vault.secrets (id, name, secret, description, created_at, updated_at)"
          . " VALUES ('$id', $name, vault._encrypt($value), '$description', '2024-01-02 03:04:05.678901+00', '2024-06-07 08:09:10+00')", db => $db);
    return;
}

sub id { return sprintf('%08d-0000-4000-8000-000000000000', $_[0]); }

#
# The schema's name is taken
#
supabase_vault('supabase', 1);
add('supabase', id(1), 'stripe', "'$mark-1'", 'payments');
add('supabase', id(2), undef, "'$mark-2'");
add('supabase', id(3), 'empty', "''");
add('supabase', id(4), 'largest', "repeat('x', 1048576)");
add('supabase', id(5), 'too large', "repeat('x', 1048577)");
add('supabase', id(6), 'signs', "U&'\\00e4\\20ac\\+01f600'");
$k->exec("INSERT INTO vault.secrets (id, name, secret) VALUES ('" . id(7) . "', 'in the clear', '$mark in the clear')", db => 'supabase');
$k->exec("INSERT INTO vault.secrets (id, name, secret, created_at) VALUES ('" . id(8) . "', 'no text', reverse('/w=='), now() + interval '1 day')", db => 'supabase');
add('supabase', id(9), 'after the bad ones', "'$mark-9'");
$k->exec("UPDATE vault.secrets SET created_at = now() + interval '2 days' WHERE id = '" . id(9) . "'", db => 'supabase');

my $r = $k->run('CREATE EXTENSION kessel_router CASCADE', db => 'supabase');
like_error($r, '42P06', qr/^schema "vault" belongs to the extension supabase_vault$/, 'supabase_vault: its schema is in the way',
    hint => qr/ALTER SCHEMA vault RENAME TO supabase_vault; CREATE EXTENSION kessel_router CASCADE; SELECT \* FROM vault\.import_supabase\(\)/);
isnt($r->{detail}, '', 'supabase_vault: with the reason');
is($k->exec("SELECT count(*) FROM pg_namespace WHERE nspname IN ('kessel', 'app')", db => 'supabase'), '0', 'supabase_vault: nothing was made');

$k->exec('CREATE DATABASE taken', db => 'postgres');
$k->exec('CREATE SCHEMA vault', db => 'taken');
like_error($k->run('CREATE EXTENSION kessel_router CASCADE', db => 'taken'), '42P06', qr/^schema "vault" exists already$/, 'another schema of the name', hint => qr/DROP SCHEMA vault/);
$k->exec('DROP SCHEMA vault; CREATE EXTENSION kessel_router CASCADE', db => 'taken');
is($k->exec("SELECT vault.reveal(vault.create_secret('x', 'x'))", db => 'taken'), 'x', 'another schema of the name: the hint helps');
$r = $k->run('SELECT * FROM vault.import_supabase()', db => 'taken');
like_error($r, '3F000', qr/^schema "supabase_vault" does not exist$/, 'nothing to import', hint => qr/ALTER SCHEMA vault RENAME/);
like_error($k->run("SELECT * FROM vault.import_supabase('vault')", db => 'taken'), '22023', qr/own/, 'not from itself');
like_error($k->run("SELECT * FROM vault.import_supabase('public')", db => 'taken'), '42P01', qr/not that of supabase_vault/, 'not from any schema');
ok_run($k->run('SELECT count(*) FROM vault.import_supabase(NULL)', db => 'taken'), '0', 'NULL imports nothing');

#
# As the hint says
#
ok_run($k->run('ALTER SCHEMA vault RENAME TO supabase_vault; CREATE EXTENSION kessel_router CASCADE', db => 'supabase'), '', 'the schema renamed, the extension made');
is($k->exec("SELECT decrypted_secret FROM supabase_vault.decrypted_secrets WHERE name = 'stripe'", db => 'supabase'), "$mark-1", 'the old vault is readable still');
$k->exec("SELECT vault.create_secret('mine', 'empty')", db => 'supabase');
my $imported = 'SELECT name, outcome, reason FROM vault.import_supabase() ORDER BY secret_id';
is($k->exec($imported, db => 'supabase'), <<'OUT' =~ s/\n\z//r, 'every secret has its outcome');
stripe|imported|
|imported|
empty|skipped|the vault has a secret with this name
largest|imported|
too large|failed|it has 1048577 bytes; the limit is 1048576
signs|imported|
in the clear|failed|supabase_vault cannot decrypt it (SQLSTATE 22023)
no text|failed|supabase_vault cannot decrypt it (SQLSTATE 22021)
after the bad ones|imported|
OUT
is($k->exec(<<'SQL', db => 'supabase'), "t|6", 'what was imported is what was there');
SELECT bool_and(v.decrypted_secret = supabase_vault._decrypt(s.secret) AND v.name IS NOT DISTINCT FROM s.name
                AND v.description = s.description AND v.created_at = s.created_at AND v.updated_at = s.updated_at
                AND v.tenant_id IS NULL AND v.version = 1), count(*) + 1
FROM vault.decrypted_secrets v JOIN supabase_vault.secrets s USING (id)
SQL
is($k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'empty'", db => 'supabase'), 'mine', 'what was here stays');
is($k->exec("SELECT DISTINCT name, outcome FROM vault.import_supabase() WHERE outcome <> 'skipped' ORDER BY 1", db => 'supabase'),
    "in the clear|failed\nno text|failed\ntoo large|failed", 'a second call does the rest');
is($k->exec('SELECT count(*) FROM vault.verify()', db => 'supabase'), '0', 'all of it opens');

# By whom
$k->exec('CREATE ROLE admin LOGIN; GRANT kessel_admin TO admin; CREATE ROLE app LOGIN; GRANT kessel_user TO app;'
      . 'DELETE FROM vault.secrets', db => 'supabase');
is($k->run($imported, db => 'supabase', user => 'app')->{state}, '42501', 'not for everyone');
is($k->run($imported, db => 'supabase', user => 'admin')->{state}, '42501', 'an admin who may not read there');
is($k->exec('SELECT count(*) FROM vault.secrets', db => 'supabase'), '0', 'has imported nothing');
$k->exec('GRANT USAGE ON SCHEMA supabase_vault TO admin; GRANT SELECT ON supabase_vault.secrets, supabase_vault.decrypted_secrets TO admin', db => 'supabase');
is($k->run("SELECT count(*) FROM vault.import_supabase() WHERE outcome = 'imported'", db => 'supabase', user => 'admin')->{out}, '6', 'one who may imports');
is($k->run("SELECT vault.reveal('stripe')", db => 'supabase', user => 'admin')->{out}, "$mark-1", 'and reads what he has imported');

# A failure in between leaves nothing behind.
$k->exec('DELETE FROM vault.secrets', db => 'supabase');
$k->run('BEGIN; SELECT count(*) FROM vault.import_supabase(); SELECT 1/0; COMMIT', db => 'supabase');
is($k->exec('SELECT count(*) FROM vault.secrets', db => 'supabase'), '0', 'rolled back as a whole');
like_error($k->run('SET default_transaction_read_only = on; SELECT * FROM vault.import_supabase()', db => 'supabase'), '25006', qr/read-only/, 'not in a read-only transaction');

# Broken off while a value is being read.
$k->exec("CREATE OR REPLACE FUNCTION supabase_vault._decrypt(secret text) RETURNS text LANGUAGE plpgsql AS"
      . " \$\$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN 'x'; END \$\$", db => 'supabase');
my $holder = $k->session(db => 'supabase');
$holder->run('SELECT pg_advisory_lock(4711)');
my $s = $k->session(db => 'supabase');
$s->start('SELECT * FROM vault.import_supabase()');
$k->node->poll_query_until('supabase', "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = " . $s->pid);
$k->exec('SELECT pg_cancel_backend(' . $s->pid . ')', db => 'supabase');
is($s->finish->{state}, '57014', 'it can be cancelled');
ok_run($s->run('SELECT count(*) FROM vault.secrets'), '0', 'and has imported nothing then');
$_->quit foreach $s, $holder;

my $log = slurp_file($k->node->logfile);
is(scalar(() = $log =~ /^(?!.*INSERT INTO vault\.secrets).*\Q$mark\E/mg), 0, 'no plaintext in the log');
like($log, qr/kessel_audit: .*"action": "import", "purpose": "supabase_vault", "ok": true/, 'each is recorded');
like($log, qr/kessel_audit: .*"action": "import", "purpose": "supabase_vault", "ok": false.*"secret_id": "00000007-/, 'failures, too');

# Nothing of theirs is needed any more.
$k->exec("SET allow_system_table_mods = on; DELETE FROM pg_extension WHERE extname = 'supabase_vault';"
      . 'DROP SCHEMA supabase_vault CASCADE', db => 'supabase');
is($k->exec("SELECT vault.reveal(vault.create_secret('after', 'after'))", db => 'supabase'), 'after', 'life goes on without it');

done_testing();

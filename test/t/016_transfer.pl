# Secrets that come from elsewhere and go elsewhere: from supabase_vault in the
# same database, and a tenant's from one installation to another.
use strict;
use warnings;

use lib 'test/lib';
use JSON::PP ();
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
ok($log =~ /kessel_audit: .*"action": "import", "purpose": "supabase_vault", "ok": true/, 'each is recorded');
ok($log =~ /kessel_audit: .*"action": "import", "purpose": "supabase_vault", "ok": false.*"secret_id": "00000007-/, 'failures, too');

# Nothing of theirs is needed any more.
$k->exec("SET allow_system_table_mods = on; DELETE FROM pg_extension WHERE extname = 'supabase_vault';"
      . 'DROP SCHEMA supabase_vault CASCADE', db => 'supabase');
is($k->exec("SELECT vault.reveal(vault.create_secret('after', 'after'))", db => 'supabase'), 'after', 'life goes on without it');

#
# From one installation to another
#
sub installation
{
    my ($name, @slugs) = @_;
    my $file = KesselTest::root_key_file("$dir/$name.key");
    my $i    = KesselTest->new(name => $name, conf => "session_preload_libraries = 'kessel_router'\nkessel.root_key_file = '$file'\nlog_statement = all\nwal_level = logical\n");
    my $in   = join ', ', map { "'$_'" } @slugs;
    $i->exec("INSERT INTO app.data_sources (name, isolation, conninfo) VALUES ('s', 'row', '{}');"
          . "INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source)"
          . " SELECT t, t, s.id, 'row', t FROM app.data_sources s, unnest(ARRAY[$in]) t");
    return $i;
}

my $home = installation('home', 'acme', 'other', 'empty-one');
my $away = installation('away', 'acme', 'acme-too', 'empty-one');
my $recipient = $away->exec('SELECT vault.public_key()');

$home->exec('SET log_statement = none;' . <<"SQL");
SELECT vault.create_secret('$mark-a1', 'a', 'first of them', new_tenant_id => t.id, new_tags => '{"team": "b", "n": [1, 1.50, null], "ä": {"x": "y"}}', new_expires_at => '2099-01-01')
FROM app.tenants t WHERE slug = 'acme';
SELECT vault.update_secret(id, '$mark-a2') FROM vault.secrets WHERE name = 'a';
SELECT vault.update_secret(id, new_name => 'a renamed') FROM vault.secrets WHERE name = 'a';
SELECT vault.create_secret('$mark-expired', 'expired', new_tenant_id => t.id, new_expires_at => '2001-01-01') FROM app.tenants t WHERE slug = 'acme';
SELECT vault.create_secret(v.value, v.name, new_tenant_id => t.id)
FROM app.tenants t, (VALUES ('', 'empty'), (U&'\\00e4\\20ac\\+01f600', 'signs'), (repeat('$mark ', 20000), 'long'), ('$mark-none', NULL)) v (value, name) WHERE slug = 'acme';
SELECT vault.create_secret('$mark-other', 'of another', new_tenant_id => t.id) FROM app.tenants t WHERE slug = 'other';
SELECT vault.create_secret('$mark-infra', 'of none');
SQL
my $acme = $home->exec("SELECT id FROM app.tenants WHERE slug = 'acme'");

# All of a tenant's secrets but their plaintext; with it where that opens.
my $versions = <<'SQL';
SELECT v.secret_id, v.version, v.name, v.created_at, v.is_current, s.description, s.tags, s.expires_at, s.created_at, s.updated_at,
       CASE WHEN s.expires_at < now() THEN 'expired' ELSE md5(vault.reveal(v.secret_id, v.version)) END
FROM vault.secret_versions v JOIN vault.secrets s ON s.id = v.secret_id JOIN app.tenants t ON t.id = v.tenant_id
WHERE t.slug = 'acme' ORDER BY 1, 2
SQL
my $before = $home->exec($versions);
is(scalar(my @lines = split /\n/, $before), 8, 'six secrets, one of them in three versions');

# export_(TENANT, RECIPIENT): in psql, so that nothing of it is in the log
my $bundle = $home->exec("SELECT vault.export_tenant('acme', '$recipient')");
unlike($bundle, qr/\Q$mark\E/, 'the bundle shows no plaintext');
is(index($bundle, $home->exec("SELECT replace(encode(secret, 'base64'), E'\\n', '') FROM vault.secrets WHERE name = 'a renamed'")), -1, 'nor what is sealed at home');
my $parsed = JSON::PP->new->decode($bundle);
is_deeply([ map { scalar @{ $_->{versions} } } sort { @{ $b->{versions} } <=> @{ $a->{versions} } } @{ $parsed->{secrets} } ], [ 3, 1, 1, 1, 1, 1 ], 'it has all secrets of the tenant, in all versions');
is($parsed->{tenant}, 'acme', 'it names the tenant');
my $second = $home->exec("SELECT vault.export_tenant('$acme', '$recipient')");
my @keys = map { JSON::PP->new->decode($_)->{key} } $bundle, $second;
isnt($keys[0], $keys[1], 'by id; each bundle has a key of its own');
is($home->exec("SELECT vault.export_tenant('empty-one', '$recipient') -> 'secrets'"), '[]', 'a tenant without secrets');

# What came with it stays in a table of the test, each case changes a copy.
$away->exec("CREATE TABLE public.bundles (name text PRIMARY KEY, bundle jsonb); INSERT INTO public.bundles VALUES ('good', \$kr\$$bundle\$kr\$)");
my $import = "SELECT vault.import_tenant(bundle) FROM public.bundles WHERE name = 'good'";

my $importer = $away->session;

# refused(CHANGE, STATE, PATTERN, NAME): an expression over bundle is refused
# and leaves nothing.
sub refused
{
    my ($change, $state, $pattern, $name, %opt) = @_;
    my $tenant = $opt{tenant} ? ", '$opt{tenant}'" : '';
    my $r = $importer->run("SELECT vault.import_tenant($change$tenant) FROM public.bundles WHERE name = 'good'");
    like_error($r, $state, $pattern, $name, $opt{hint} ? (hint => $opt{hint}) : ());
    isnt($r->{hint}, '', "$name: with a hint") if $state =~ /^KR|^22023|^0A|^23/;
    return ok_run($importer->run('SELECT (SELECT count(*) FROM vault.secrets) + (SELECT count(*) FROM vault.former_versions)'), '0', "$name: nothing was imported");
}

my $altered = qr/^bundle was altered$/;
my $no_bundle = qr/^this is not a bundle of secrets$/;
refused('NULL::jsonb', '22004', qr/null/, 'NULL');
refused("'[]'::jsonb", '22023', $no_bundle, 'no object');
refused("'{}'::jsonb", '22023', $no_bundle, 'an empty object');
refused("'7'::jsonb", '22023', $no_bundle, 'a scalar');
refused("jsonb_set(bundle, '{format}', '\"other\"')", '22023', $no_bundle, 'another format');
refused("jsonb_set(bundle, '{format_version}', '2')", '0A000', qr/^bundle has format version 2$/, 'an unknown format version');
refused("bundle - '$_'", '22023', $no_bundle, "without $_") foreach sort grep { $_ ne 'format_version' } keys %$parsed;
refused("bundle #- '{secrets,0,$_}'", '22023', $no_bundle, "a secret without $_") foreach sort keys %{ $parsed->{secrets}[0] };
refused("bundle #- '{secrets,0,versions,0,$_}'", '22023', $no_bundle, "a version without $_") foreach sort keys %{ $parsed->{secrets}[0]{versions}[0] };
refused("jsonb_set(bundle, '{secrets,1}', '3')", '22023', $no_bundle, 'a number in the place of a secret');
refused("jsonb_set(bundle, '{secrets,1,versions}', '[]')", '22023', $no_bundle, 'a secret without versions');
refused("jsonb_set(bundle, '{secrets,1,versions,0,version}', '$_')", '22023', $no_bundle, "version $_") foreach '0', '-1', '99999999999', '"1"';
refused("bundle #- '{secrets,-1}'", 'KR011', $altered, 'the last secret taken out');
refused("bundle #- '{secrets,0}'", 'KR011', $altered, 'the first secret taken out');
refused("jsonb_set(bundle, '{secrets}', '[]')", 'KR011', $altered, 'all secrets taken out');
my ($three) = grep { @{ $parsed->{secrets}[$_]{versions} } == 3 } 0 .. $#{ $parsed->{secrets} };
refused("bundle #- '{secrets,$three,versions,$_}'", 'KR011', $altered, "version $_ taken out") foreach 0 .. 2;
refused("jsonb_set(bundle, '{secrets}', (bundle -> 'secrets') || (bundle #> '{secrets,0}'))", '23505', qr/is here already$/, 'a secret twice');
refused("jsonb_set(jsonb_set(bundle, '{secrets,0}', bundle #> '{secrets,1}'), '{secrets,1}', bundle #> '{secrets,0}')", 'KR011', $altered, 'two secrets in another order');
refused("jsonb_set(jsonb_set(bundle, '{secrets,0,versions,0,sealed}', bundle #> '{secrets,1,versions,0,sealed}'), '{secrets,0,versions,0,nonce}', bundle #> '{secrets,1,versions,0,nonce}')",
    'KR011', $altered, 'one value in the place of another');
refused("jsonb_set(bundle, '{secrets,$three,name}', '\"other\"')", 'KR011', $altered, 'another name');
refused("jsonb_set(bundle, '{secrets,$three,versions,2,name}', '\"other\"')", 'KR011', $altered, 'another name of a version');
refused("jsonb_set(bundle, '{secrets,$three,description}', '\"other\"')", 'KR011', $altered, 'another description');
refused("jsonb_set(bundle, '{secrets,$three,tags,team}', '\"other\"')", 'KR011', $altered, 'other tags');
refused("jsonb_set(bundle, '{secrets,$three,expires_at}', '$_')", 'KR011', $altered, "expiry $_") foreach 'null', '"infinity"';
refused("jsonb_set(bundle, '{secrets,$three,created_at}', '\"2001-01-01T00:00:00+00:00\"')", 'KR011', $altered, 'another time');
refused("jsonb_set(bundle, '{secrets,$three,created_at}', '\"yesterday or so\"')", '22007', qr/timestamp/, 'no time');
refused("jsonb_set(bundle, '{secrets,$three,id}', to_jsonb(gen_random_uuid()))", 'KR011', $altered, 'another id');
refused("jsonb_set(bundle, '{secrets,$three,versions,2,version}', '4')", 'KR011', $altered, 'another version');
refused("jsonb_set(bundle, '{tenant_id}', to_jsonb(gen_random_uuid()))", 'KR011', $altered, 'another tenant\'s id');
refused("jsonb_set(bundle, '{tenant}', '\"acme-too\"')", 'KR011', $altered, 'another tenant\'s slug');
refused("jsonb_set(bundle, '{exported_at}', '\"2001-01-01T00:00:00+00:00\"')", 'KR011', $altered, 'another time of export');
refused("jsonb_set(bundle, '{key}', '\"$keys[1]\"')", 'KR011', $altered, 'the key of another bundle');
refused("jsonb_set(bundle, '{check}', \$kr\$\"" . JSON::PP->new->decode($second)->{check} . "\"\$kr\$)", 'KR011', $altered, 'the end of another bundle');
refused("jsonb_set(bundle, '{recipient}', '\"" . $home->exec('SELECT vault.public_key()') . "\"')", 'KR011', qr/^bundle was sealed for another vault$/, 'another recipient');
refused("jsonb_set(bundle, '{key}', '\"AAAA\"')", '22023', $no_bundle, 'a short key');
refused("jsonb_set(bundle, '{secrets,$three,versions,0,sealed}', '\"AAAA\"')", '22023', $no_bundle, 'a value that is too short');
refused("jsonb_set(bundle, '{secrets,$three,versions,0,sealed}', '\"no base64!\"')", '22023', $no_bundle, 'no base64');

# Every character of a sealed value, one after the other.
$away->exec(<<'SQL');
CREATE FUNCTION public.flip(bundle jsonb, path text[], n int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_set(bundle, path, to_jsonb(overlay(t PLACING CASE substr(t, n, 1) WHEN 'A' THEN 'B' ELSE 'A' END FROM n)))
    FROM (SELECT bundle #>> path AS t) s
$$;
CREATE FUNCTION public.flips(bundle jsonb, path text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    states text[] := '{}';
BEGIN
    FOR i IN 1 .. least(length(bundle #>> path), 200) LOOP
        BEGIN
            PERFORM vault.import_tenant(public.flip(bundle, path, i));
            states := array_append(states, 'imported');
        EXCEPTION WHEN SQLSTATE 'KR011' OR SQLSTATE '22023' THEN
            states := array_append(states, 'refused');
        END;
    END LOOP;
    RETURN (SELECT string_agg(DISTINCT s, ',') FROM unnest(states) s);
END $$;
SQL
is($away->exec("SELECT public.flips(bundle, '$_') FROM public.bundles"), 'refused', "any character of $_ changed")
  foreach '{key}', '{recipient}', '{check}', '{check_nonce}', "{secrets,$three,versions,0,sealed}", "{secrets,$three,versions,2,nonce}";

# The tenant
refused('bundle', 'KR002', qr/^tenant "nobody" does not exist$/, 'into a tenant that is not there', tenant => 'nobody', hint => qr/Create it first/);
refused("bundle || '{\"tenant\": null}'", '22004', qr/does not name a tenant/, 'without a tenant');

# Who may
is($away->run($import, user => 'app')->{state}, '42501', 'not for everyone');
like_error($away->run("SET default_transaction_read_only = on; $import"), '25006', qr/read-only/, 'not in a read-only transaction');
$away->exec('GRANT USAGE ON SCHEMA public TO admin; GRANT SELECT ON public.bundles TO admin');

# Cancelled in the middle
$holder = $away->session;
$holder->run("BEGIN; SELECT vault.create_secret('x', 'signs')");
$s = $away->session;
$s->start($import);
$away->node->poll_query_until('infra', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $s->pid);
$away->exec('SELECT pg_cancel_backend(' . $s->pid . ')');
is($s->finish->{state}, '57014', 'importing can be cancelled');
$holder->run('ROLLBACK');
is($away->exec('SELECT count(*) FROM vault.secrets'), '0', 'and leaves nothing then');
$_->quit foreach $s, $holder;

# At last
is($away->run($import, user => 'admin')->{out}, '6', 'six secrets are imported');
is($away->exec($versions), $before, 'with ids, versions, names, times, tags and values');
is($away->exec('SELECT count(*) FROM vault.verify() WHERE reason <> \'expired\''), '0', 'all of it opens');
is($away->exec('SELECT count(*) FROM vault.secret_grants'), '0', 'nobody is granted anything');
is($away->run("SELECT vault.reveal('a renamed')", user => 'admin')->{state}, '42501', 'who has imported may not read');
is($away->exec("SELECT DISTINCT t.slug FROM vault.secrets s JOIN app.tenants t ON t.id = s.tenant_id JOIN vault.keys k ON k.id = s.key_id AND k.tenant_id = t.id"), 'acme', 'under the key of the tenant here');
is($home->exec("SELECT string_agg(encode(secret, 'hex'), '') FROM vault.secrets") eq $away->exec("SELECT string_agg(encode(secret, 'hex'), '') FROM vault.secrets"), '', 'sealed anew');
like_error($away->run($import), '23505', qr/is here already$/, 'not a second time', hint => qr/secret_ids/);
$away->exec("SELECT vault.update_secret(id, 'later') FROM vault.secrets WHERE name = 'a renamed'");
is($away->exec("SELECT version FROM vault.secrets WHERE name = 'a renamed'"), '4', 'life goes on there');

# Into another tenant; some of them alone
$away->exec('DELETE FROM vault.secrets');
is($away->exec("SELECT vault.import_tenant(bundle, 'acme-too') FROM public.bundles WHERE name = 'good'"), '6', 'into another tenant');
is($away->exec("SELECT vault.reveal('a renamed')"), "$mark-a2", 'where they open');
my $some = $home->exec("SELECT vault.export_tenant('acme', '$recipient', (SELECT array_agg(id) FROM vault.secrets WHERE name IN ('signs', 'empty')))");
is(scalar @{ JSON::PP->new->decode($some)->{secrets} }, 2, 'some secrets by id');
like_error($home->run("SELECT vault.export_tenant('acme', '$recipient', (SELECT array_agg(id) FROM vault.secrets WHERE name IN ('signs', 'of another')))"), '02000', qr/^the tenant has no secret/, 'not those of another tenant');
$away->exec('DELETE FROM vault.secrets; SELECT vault.rotate_public_key()');
is($away->exec($import), '6', 'a former public key still opens');
$away->exec('DELETE FROM vault.secrets; SELECT vault.destroy_retired_public_keys()');
refused('bundle', 'KR011', qr/^bundle was sealed for another vault$/, 'one that was destroyed does not');

$importer->quit;

# A name that is taken, by another secret
$away->exec("SELECT vault.create_secret('x', 'signs'); UPDATE public.bundles SET bundle = \$kr\$" . $home->exec("SELECT vault.export_tenant('acme', '" . $away->exec('SELECT vault.public_key()') . "')") . "\$kr\$");
$r = $away->run($import);
like_error($r, '23505', qr/is here already$/, 'a name that another secret has');
like($r->{detail}, qr/name "signs"/, 'is told');
is($away->exec('SELECT name FROM vault.secrets'), 'signs', 'and nothing is imported');

# Into a database that lacks the characters
$away->exec("CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", db => 'postgres');
$away->exec("CREATE EXTENSION kessel_router CASCADE; INSERT INTO app.data_sources (name, isolation, conninfo) VALUES ('s', 'row', '{}');"
      . "INSERT INTO app.tenants (slug, name, data_source_id, isolation, tenant_id_in_data_source) SELECT 'acme', 'acme', id, 'row', 'acme' FROM app.data_sources", db => 'latin1');
my $latin1 = $away->exec('SELECT vault.public_key()', db => 'latin1');
$r = $away->run("SET client_encoding = UTF8; SELECT vault.import_tenant(\$kr\$" . $home->exec("SELECT vault.export_tenant('acme', '$latin1')") . "\$kr\$)", db => 'latin1');
like_error($r, '22021', qr/^a secret cannot be represented in this database$/, 'a value that the encoding has not', hint => qr/UTF8/);
unlike($r->{err}, qr/0x/, 'is not quoted');
is($away->exec('SELECT count(*) FROM vault.secrets', db => 'latin1'), '0', 'nothing is imported then');
is($away->exec("SET client_encoding = UTF8; SELECT vault.import_tenant(\$kr\$" . $home->exec("SELECT vault.export_tenant('acme', '$latin1', (SELECT array_agg(id) FROM vault.secrets WHERE tenant_id = '$acme' AND name <> 'signs'))") . "\$kr\$)", db => 'latin1'), '4', 'what has none of them is');
is($away->exec("SELECT tags FROM vault.secrets WHERE name = 'a renamed'", db => 'latin1') =~ /"n": \[1, 1\.50, null\]/, 1, 'with its tags');

# Exporting: by whom, what, for whom
like_error($home->run("SELECT vault.export_tenant('acme', '$recipient')", user => 'admin'), '42501', qr/^permission denied to reveal secret/, 'exporting takes the privilege reveal');
$home->exec("SELECT vault.grant_secret(id, 'admin', 'reveal') FROM vault.secrets WHERE tenant_id = '$acme' AND name IS DISTINCT FROM 'signs'");
is($home->run("SELECT vault.export_tenant('acme', '$recipient')", user => 'admin')->{state}, '42501', 'on each secret');
$home->exec("SELECT vault.grant_secret(id, 'admin', 'reveal') FROM vault.secrets WHERE name = 'signs'");
is($home->run("SELECT jsonb_array_length(vault.export_tenant('acme', '$recipient') -> 'secrets')", user => 'admin')->{out}, '6', 'with it on all one may');
is($home->run("SELECT vault.export_tenant('acme', '$recipient')", user => 'app')->{state}, '42501', 'others may not');
like_error($home->run("SELECT vault.export_tenant('acme', '$_->[0]')"), '22023', qr/^recipient is not a/, "recipient: $_->[1]", hint => qr/vault\.public_key/)
  foreach [ '', 'empty' ], [ 'AAAA', 'too short' ], [ 'A' x 43 . '=', 'a point of low order' ], [ substr($recipient, 0, 43), 'without padding' ], [ "$recipient ", 'with a blank' ], [ 'ä' x 22, 'not ASCII' ];
is($home->run("SELECT vault.export_tenant(NULL, '$recipient')")->{state}, '22004', 'no tenant');
is($home->run("SELECT vault.export_tenant('acme', NULL)")->{state}, '22004', 'no recipient');
is($home->run("SELECT vault.export_tenant('nobody', '$recipient')")->{state}, 'KR002', 'an unknown tenant');
is($home->run("SET default_transaction_read_only = on; SELECT jsonb_array_length(vault.export_tenant('acme', '$recipient') -> 'secrets')")->{out}, '6', 'in a read-only transaction');
$home->exec("UPDATE vault.secrets SET name = 'moved' WHERE name = 'signs'");
like_error($home->run("SELECT vault.export_tenant('acme', '$recipient')"), 'KR011', qr/^version 1 of secret .* cannot be exported$/, 'a secret that does not open is not left out', hint => qr/vault\.verify/);
$home->exec("UPDATE vault.secrets SET name = 'signs' WHERE name = 'moved'");

# The box with the bundle's key is none of a secret, also where any bytes are text.
$away->exec("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0", db => 'postgres');
$away->exec('CREATE EXTENSION kessel_router CASCADE', db => 'bytes');
my $other = $away->exec('SELECT vault.public_key()', db => 'bytes');
foreach my $try (1 .. 8)
{
    my $boxed = $home->exec("SELECT vault.export_tenant('acme', '$other') ->> 'key'");
    like_error($away->run("SELECT vault.create_secret_sealed('$boxed')", db => 'bytes'), '22021', qr/is not text/, "a bundle's key is not taken for a secret, $try");
}

# What is left of it
foreach my $i ($home, $away)
{
    my $log = slurp_file($i->node->logfile);
    is(scalar(() = $log =~ /\Q$mark\E/g), 0, $i->node->name . ': no plaintext in the log');
}
ok(slurp_file($home->node->logfile) =~ /kessel_audit: .*"purpose": "export", "ok": true/, 'each version that was opened is recorded');
ok(slurp_file($home->node->logfile) =~ /kessel_audit: .*"action": "export", .*"count": 6/, 'so is the export');
ok(slurp_file($home->node->logfile) =~ /kessel_audit: .*"purpose": "export", "ok": false/, 'and what was denied');
ok(slurp_file($away->node->logfile) =~ /kessel_audit: .*"action": "import", "purpose": "bundle", "ok": true/, 'each secret that was imported');
ok(slurp_file($away->node->logfile) =~ /kessel_audit: .*"action": "import", "purpose": "bundle", "ok": false/, 'and what was altered');

done_testing();

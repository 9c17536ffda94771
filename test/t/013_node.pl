# Encrypted values between here and Node: those that Node's own crypto writes
# and reads, and secrets that libsodium-wrappers seals; the JavaScript of
# doc/application-encryption.md and doc/client-sealing.md; sealed values in
# router tables, in read-only transactions and on a standby; and that plaintext
# gets nowhere else.
use strict;
use warnings;

use lib 'test/lib';
use Cwd;
use File::Find;
use IPC::Run ();
use JSON::PP;
use KesselDoc;
use KesselTest;
use MIME::Base64;
use PostgreSQL::Test::Utils;
use Test::More;

my $mark = 'kr-node-mark';
my $app_key = '00112233445566778899aabbccddeeff' x 2;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $top = getcwd();
my $key_file = KesselTest::root_key_file("$dir/root.key");
my $k = KesselTest->new(conf => <<"CONF");
shared_preload_libraries = 'pg_stat_statements, kessel_router'
pg_stat_statements.track = all
kessel.root_key_file = '$key_file'
log_statement = all
log_min_duration_statement = 0
log_min_error_statement = info
log_error_verbosity = verbose
log_parameter_max_length_on_error = -1
wal_level = replica
max_wal_senders = 3
CONF
my $node = $k->node;
$k->exec('CREATE EXTENSION pg_stat_statements');

# Three tenants, each with a database; one is to be shredded.
my $solo = $k->data_cluster('solo');
$k->data_database($solo, $_) foreach qw(tenants_b tenants_c);
foreach my $db (qw(tenants tenants_b tenants_c))
{
    $k->data_exec($solo, "SET ROLE $solo->{owner}; CREATE TABLE customers (id integer PRIMARY KEY, api_key text, sealed bytea);"
          . "GRANT SELECT, INSERT, UPDATE, DELETE ON customers TO $solo->{runtime}", db => $db);
}
$k->data_source($solo, name => 'solo_a');
$k->data_source($solo, name => 'solo_b', db => 'tenants_b');
$k->data_source($solo, name => 'solo_c', db => 'tenants_c');
$k->exec("SELECT kessel.create_tenant('acme', data_source => 'solo_a'), kessel.create_tenant('globex', data_source => 'solo_b'), kessel.create_tenant('doomed', data_source => 'solo_c')");
$k->exec("SELECT kessel.import_tables('solo_a', 'public')");
my $member = 'cccccccc-0000-4000-8000-00000000000c';
$k->exec("SELECT kessel.add_member('acme', '$member'), kessel.add_member('doomed', '$member')");
$k->exec("GRANT USAGE ON SCHEMA data TO kessel_user; GRANT SELECT, INSERT, UPDATE ON data.customers TO kessel_user");
my $key_id = $k->exec("SELECT vault.create_secret('$app_key', 'app key')");
$k->exec("SELECT vault.grant_secret('$key_id', 'kessel_user', 'use')");

#
# Node's own crypto, in both directions
#
write_file("$dir/aes.js", <<'JS');
// aes.js write: rows of text, encoding, iv length, value, for COPY
// aes.js read FILE: lines of JSON {encoding, value, text}; says how many are right
const crypto = require('crypto');
const fs = require('fs');
const key = Buffer.from(process.env.ENCRYPTION_KEY, 'hex');
const texts = ['', 'a', 'sk_live_4eC39HqLyjWDarjtT1zdp7dc', 'Grüße, 世界 😀', 'line\nbreak\ttab\\ \'"', '€'.repeat(350000)];
if (process.argv[2] === 'write') {
  for (const text of texts) for (const encoding of ['hex', 'base64']) for (const length of [12, 16]) {
    const iv = crypto.randomBytes(length);
    const cipher = crypto.createCipheriv('aes-256-gcm', key, iv);
    const ciphertext = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
    const value = [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString(encoding)).join(':');
    console.log([Buffer.from(text).toString('hex'), encoding, length, value].join('|'));
  }
} else {
  let right = 0;
  for (const line of fs.readFileSync(process.argv[3], 'utf8').trim().split('\n')) {
    const { encoding, value, text } = JSON.parse(line);
    const [iv, tag, ciphertext] = value.split(':').map((part) => Buffer.from(part, encoding));
    if (iv.length !== 12 && iv.length !== 16 || tag.length !== 16) continue;
    const decipher = crypto.createDecipheriv('aes-256-gcm', key, iv);
    decipher.setAuthTag(tag);
    if (Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('hex') === text) right++;
  }
  console.log(right);
}
JS
$ENV{ENCRYPTION_KEY} = $app_key;
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'infra';
my ($ok, $out) = command('node', '--version');
ok($ok, 'there is a node') or BAIL_OUT('nodejs is missing: run make deps');
note("node $out");

($ok, $out) = command('node', "$dir/aes.js", 'write');
ok($ok, 'Node encrypts') or diag($out);
write_file("$dir/written", $out);
$k->exec('CREATE TABLE written (text text, encoding text, iv_length integer, value text)');
$k->exec("\\copy written FROM '$dir/written' (DELIMITER '|', FORMAT csv, QUOTE E'\\x01', NULL 'none')");
is($k->exec('SELECT count(*) FROM written'), '24', 'six texts in two encodings with two lengths');
is($k->exec("SELECT count(*) FROM written WHERE vault.import_aes_gcm(value, 'app key') = convert_from(decode(text, 'hex'), 'UTF8')"), '24', 'all of them open here');
$k->exec("\\copy (SELECT json_build_object('encoding', encoding, 'text', text, 'value', vault.encrypt_aes_gcm(convert_from(decode(text, 'hex'), 'UTF8'), 'app key', encoding, iv_length))::text FROM written) TO '$dir/back' (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')");
($ok, $out) = command('node', "$dir/aes.js", 'read', "$dir/back");
is($out, "24\n", 'and what is written here opens in Node');

# A statement opens the key once, and says how many values it has opened.
$k->exec("CREATE TABLE many AS SELECT vault.encrypt_aes_gcm(n::text, 'app key') AS value FROM generate_series(1, 1000) n; GRANT SELECT ON many TO kessel_user");
my $log_start = -s $node->logfile;
is($k->run("SELECT count(vault.import_aes_gcm(value, 'app key')) FROM many", user => 'app')->{out}, '1000', 'a thousand values');
my @records = audit_records($log_start);
is(scalar(grep { $_->{purpose} eq 'import' } @records), 1, 'the key is opened once');
is(join(' ', map { $_->{count} } grep { $_->{purpose} eq 'aes_gcm' } @records), '1000', 'the values are counted');
$log_start = -s $node->logfile;
$k->run("DO \$\$ DECLARE v text; BEGIN FOR v IN SELECT value FROM many LOOP PERFORM length(vault.import_aes_gcm(v, 'app key')); END LOOP; END \$\$", user => 'app');
is(scalar(grep { $_->{purpose} eq 'import' } audit_records($log_start)), 1, 'in a loop of PL/pgSQL, too');
my $s = $k->session(user => 'app');
is($s->run("BEGIN; SELECT count(vault.import_aes_gcm(value, 'app key')) FROM many")->{out}, '1000', 'within a transaction');
$k->exec("SELECT vault.revoke_secret('$key_id', 'kessel_user', 'use')");
is($s->run("SELECT count(vault.import_aes_gcm(value, 'app key')) FROM many")->{state}, '42501', 'the next statement asks for the privilege again');
$s->quit;
$k->exec("SELECT vault.grant_secret('$key_id', 'kessel_user', 'use')");

#
# Sealed values: router tables, sessions, read-only transactions
#
my %as_acme = (user => 'app', tenant => 'acme', sub => $member);
ok_run($k->run("INSERT INTO data.customers (id, sealed) VALUES (1, vault.seal('$mark-router', 'customers.sealed'))", %as_acme), '', 'a value in a router table');
ok_run($k->run("SELECT vault.open(sealed, 'customers.sealed') FROM data.customers", %as_acme), "$mark-router", 'opens');
ok_run($k->run("SELECT id FROM data.customers WHERE vault.open(sealed, 'customers.sealed') LIKE '%router'", %as_acme), '1', 'in a condition');
ok_run($k->run("UPDATE data.customers SET sealed = vault.seal(vault.open(sealed, 'customers.sealed') || ' 2', 'customers.sealed') RETURNING vault.open(sealed, 'customers.sealed')", %as_acme), "$mark-router 2", 'and can be changed');
like_error($k->run("SELECT vault.open(sealed, 'customers.sealed') FROM data.customers", user => 'app', tenant => 'globex', sub => $member), '42501', qr/permission denied for tenant/, 'a member of another tenant');
like_error($k->run('SELECT vault.open($$\x00$$, $$c$$)', user => 'app'), 'KR001', qr/no tenant is set/, 'nobody\'s');
unlike($k->data_exec($solo, 'SELECT sealed FROM customers'), qr/$mark/, 'the data source has the sealed value');
my ($value) = split /\n/, `sed -n 9p $dir/written`;
$value = (split /\|/, $value)[3];
$k->exec("SET kessel.tenant = 'acme'; INSERT INTO data.customers (id, api_key) VALUES (2, '$value')");
ok_run($k->run("UPDATE data.customers SET sealed = vault.seal(vault.import_aes_gcm(api_key, 'app key'), 'customers.sealed') WHERE id = 2", %as_acme), '', 'one that an app has encrypted, sealed in a router table');
ok_run($k->run("SELECT vault.open(sealed, 'customers.sealed') FROM data.customers WHERE id = 2", %as_acme), 'sk_live_4eC39HqLyjWDarjtT1zdp7dc', 'opens there');

like($k->run("SELECT vault.seal('x', 'c') AS v \\gset\nEXPLAIN (VERBOSE) SELECT id FROM data.customers WHERE api_key = vault.open(:'v', 'c')", %as_acme)->{out}, qr/Remote SQL: .*WHERE \(\(api_key = \$1/, 'what is compared with an opened constant is compared there');

ok_run($k->run("BEGIN READ ONLY; SELECT vault.open(vault.seal('x', 'c'), 'c'), vault.import_aes_gcm('$value', 'app key')", %as_acme), 'x|sk_live_4eC39HqLyjWDarjtT1zdp7dc', 'read-only, with a key that is there');
like_error($k->run("BEGIN READ ONLY; SELECT vault.seal('x', 'c')", tenant => 'globex'), '25006', qr/read-only/, 'not with one that would have to be made');
like_error($k->run('BEGIN READ ONLY; SELECT vault.public_key()'), '25006', qr/read-only/, 'nor a public key');
ok_run($k->run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT vault.open(vault.seal('x', 'c'), 'c')", tenant => 'globex'), 'x', 'the first key in a serializable transaction');

# Named arguments in the way of PostgREST.
$k->exec("CREATE TABLE sealed AS SELECT 1 AS id, vault.seal('$mark-sealed', 'sealed.v') AS v, vault.seal('{\"a\": \"$mark-json\"}'::jsonb, 'sealed.v') AS j FROM (SELECT set_config('kessel.tenant', 'doomed', false)) t");
my %as_doomed = (%as_acme, tenant => 'doomed');
my $hex = $k->exec('SELECT v FROM sealed');
my $call = "WITH source AS (SELECT call.scalar FROM (SELECT '{\"sealed\": \"\\$hex\", \"context\": \"sealed.v\"}'::json AS data) payload,"
  . ' LATERAL (SELECT sealed, context FROM json_to_record(payload.data) AS _(sealed bytea, context text) LIMIT 1) body,'
  . ' LATERAL (SELECT vault.open(sealed := body.sealed, context := body.context) AS scalar) call) SELECT json_agg(source.scalar) -> 0 FROM source';
ok_run($k->run($call, %as_doomed), "\"$mark-sealed\"", 'as PostgREST calls it');

# What others do reaches sessions that have the key in their cache.
my $reader = $k->session(%as_doomed);
$k->exec('GRANT SELECT ON sealed TO kessel_user');
is($reader->run("SELECT vault.open(v, 'sealed.v') FROM sealed")->{out}, "$mark-sealed", 'a session reads');
rename $key_file, "$key_file.away";
is($reader->run("SELECT vault.open(v, 'sealed.v') FROM sealed")->{state}, 'KR010', 'without the root key it does not');
rename "$key_file.away", $key_file;
is($reader->run("SELECT vault.open(v, 'sealed.v') FROM sealed")->{out}, "$mark-sealed", 'with it, it does again');

#
# The standby
#
$k->exec("SELECT vault.public_key()");
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
my $there = KesselTest::Session->new([ KesselTest::_psql_command($standby, db => 'infra', user => 'postgres') ], "SET kessel.tenant = 'doomed';\n");
is($there->run("SELECT vault.open(v, 'sealed.v') || ' ' || (vault.open_jsonb(j, 'sealed.v') ->> 'a') FROM sealed")->{out}, "$mark-sealed $mark-json", 'a standby opens values');
is($there->run("SELECT vault.open(vault.seal('x', 'c'), 'c')")->{out}, 'x', 'and seals, with a key that is there');
is($there->run("SELECT count(vault.import_aes_gcm(value, 'app key')) FROM many")->{out}, '1000', 'opens what an app has encrypted');
is($there->run('SELECT vault.public_key()')->{out}, $k->exec('SELECT vault.public_key()'), 'knows the public key');
is($there->run("SELECT vault.create_secret_sealed(repeat('A', 64))")->{state}, 'KR011', 'looks at boxes');
is($there->run('SELECT vault.rotate_public_key()')->{state}, '25006', 'and changes nothing');

$k->exec("SELECT vault.shred_tenant('doomed')");
like_error($reader->run("SELECT vault.open(v, 'sealed.v') FROM sealed"), 'KR011', qr/cannot be opened/, 'a shredded tenant\'s values are lost at once in a session that had the key');
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
like_error($there->run("SELECT vault.open(v, 'sealed.v') FROM sealed"), 'KR011', qr/cannot be opened/, 'and on the standby');
$_->quit foreach $reader, $there;
$standby->stop;

#
# Boxes, made by libsodium itself
#
write_file("$dir/box.py", <<'PY');
# box.py PUBLIC_KEY <secret: the sealed box in base64; 1.0.18 is the libsodium of Debian 12
import base64, ctypes, ctypes.util, sys
sodium = ctypes.CDLL(ctypes.util.find_library('sodium') or 'libsodium.so')
if sodium.sodium_init() < 0:
    sys.exit('sodium_init')
key, secret = base64.b64decode(sys.argv[1]), sys.stdin.buffer.read()
box = ctypes.create_string_buffer(len(secret) + 48)
if sodium.crypto_box_seal(box, secret, ctypes.c_ulonglong(len(secret)), key) != 0:
    sys.exit('crypto_box_seal')
print(base64.b64encode(box.raw[:len(secret) + 48]).decode())
PY
sub box_of
{
    my ($secret, $key) = @_;
    $key = $k->exec('SELECT vault.public_key()') unless defined $key;
    my ($done, $box) = command_with($secret, 'python3', "$dir/box.py", $key);
    $done or die "no box: $box";
    chomp $box;
    return $box;
}

foreach my $case ([ 'text', "$mark-box" ], [ 'nothing', '' ], [ 'characters', "Grüße, 世界 😀 $mark" ], [ 'a megabyte', $mark . 'x' x (1024 * 1024 - length $mark) ])
{
    my ($name, $secret) = @$case;
    write_file("$dir/create.sql", "SELECT vault.create_secret_sealed('" . box_of($secret) . "', 'box of $name', 'described', NULL, NULL, '{\"kind\": \"box\"}', now() + interval '1 day')");
    ok_run($k->run(slurp_file("$dir/create.sql") =~ s/^SELECT /SELECT FROM (SELECT /r =~ s/\z/) t/r), '', "a box of $name");
    is($k->exec("SELECT md5(decrypted_secret) || length(decrypted_secret) FROM vault.decrypted_secrets WHERE name = 'box of $name'"), $k->exec("SELECT md5(t) || length(t) FROM convert_from(decode('" . unpack('H*', $secret) . "', 'hex'), 'UTF8') t"), 'opens as it was');
}
is($k->exec("SELECT description || (tags ->> 'kind') || (expires_at > now()) || version FROM vault.secrets WHERE name = 'box of text'"), 'describedboxtrue1', 'with all that goes with it');
my $update = "SELECT vault.update_secret_sealed(id, '%s') FROM vault.secrets WHERE name = 'box of text'";
ok_run($k->run(sprintf $update, box_of("$mark-second") =~ tr{+/}{-_}r =~ s/=+\z//r), '', 'a new value, in url-safe base64');
is($k->exec("SELECT decrypted_secret || version FROM vault.decrypted_secrets WHERE name = 'box of text'"), "$mark-second2", 'is the next version');

my $old = box_of("$mark-old");
$k->exec('SELECT vault.rotate_public_key()');
ok_run($k->run(sprintf $update, $old), '', 'a box for the former key');
$k->exec('SELECT vault.destroy_retired_public_keys()');
like_error($k->run(sprintf $update, $old), 'KR011', qr/cannot be opened/, 'but for one that was destroyed');
like_error($k->run(sprintf $update, box_of("$mark-other", encode_base64("\x09" . "\0" x 31, ''))), 'KR011', qr/cannot be opened/, 'or for another vault\'s');
foreach my $case ([ 'a NUL', "$mark-a\0b" ], [ 'not UTF-8', "$mark-\xff\xfe" ])
{
    like_error($k->run(sprintf $update, box_of($case->[1])), '22021', qr/not text/, "a box of $case->[0]");
}
my $bytes = decode_base64(box_of($mark));
my @states;
for (my $i = 0; $i < length $bytes; $i++)
{
    my $altered = $bytes;
    substr($altered, $i, 1) = chr(ord(substr($altered, $i, 1)) ^ 1 << $i % 8);
    push @states, "'" . encode_base64($altered, '') . "'";
}
$k->exec('CREATE FUNCTION state_of_box(box text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM vault.create_secret_sealed(box); RETURN \'opened\'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END$$');
is($k->exec('SELECT string_agg(DISTINCT state_of_box(b), \' \') FROM unnest(ARRAY[' . join(',', @states) . ']) b'), 'KR011', 'a bit of each byte');
is($k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'box of text'"), "$mark-old", 'none of these has changed anything');

#
# The examples
#
my @encryption = KesselDoc::blocks(slurp_file("$top/doc/application-encryption.md"));
my @sealing = KesselDoc::blocks(slurp_file("$top/doc/client-sealing.md"));

write_file("$dir/app.js", (grep { $_->{lang} eq 'js' } @encryption)[0]{text} . "for (const text of process.argv.slice(2)) { const value = encrypt(text); if (decrypt(value) !== text) process.exit(1); console.log(value); }\n");
($ok, $out) = command('node', "$dir/app.js", 'of the example');
ok($ok, 'the example encrypts and decrypts') or diag($out);
chomp $out;
is($k->exec("SELECT vault.import_aes_gcm('$out', 'app key')"), 'of the example', 'and what it writes opens here');

# The wrapper, as PostgREST calls it.
$k->exec((grep { $_->{text} =~ /^CREATE SCHEMA api/ } @sealing)[0]{text});
$call = "WITH source AS (SELECT call.scalar FROM (SELECT '{\"sealed_secret\": \"%s\", \"new_name\": \"stripe\"}'::json AS data) payload,"
  . ' LATERAL (SELECT sealed_secret, new_name FROM json_to_record(payload.data) AS _(sealed_secret text, new_name text) LIMIT 1) body,'
  . ' LATERAL (SELECT api.create_secret_sealed(sealed_secret := body.sealed_secret, new_name := body.new_name) AS scalar) call) SELECT count(source.scalar) FROM source';
ok_run($k->run(sprintf($call, box_of("$mark-api", $k->run('SELECT api.public_key()', %as_acme)->{out})), %as_acme), '1', 'a user stores a secret through PostgREST');
is($k->exec("SELECT decrypted_secret || ' ' || (SELECT slug FROM app.tenants t WHERE t.id = s.tenant_id) FROM vault.decrypted_secrets s WHERE name = 'acme/stripe'"), "$mark-api acme", 'for its tenant');
is($k->run(sprintf($call, box_of($mark)), user => 'app', sub => $member)->{state}, '22004', 'not without one');

#
# The real package
#
my $skip = install_packages();
SKIP: {
    skip $skip, 6 if defined $skip;
    my @js = map { $_->{text} } grep { $_->{lang} eq 'js' } @sealing;
    write_file("$dir/npm/seal.js", $js[0]);
    write_file("$dir/npm/store.js", $js[1]);
    my ($shell) = map { $_->{text} =~ s/^npm .*\n//mr } grep { $_->{lang} eq 'sh' } @sealing;
    local $ENV{SECRET} = "Grüße $mark-npm";
    local $ENV{PGUSER} = 'postgres';
    ($ok, $out) = command('bash', '-euo', 'pipefail', '-c', "cd '$dir/npm'\n$shell");
    ok($ok, 'libsodium-wrappers seals') or diag($out);
    is($k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'stripe key'"), "Grüße $mark-npm", 'and it opens');

    ($ok, $out) = command('node', "$dir/npm/store.js");
    ok($ok, 'through node-postgres') or diag($out);
    is($k->exec("SELECT decrypted_secret || version || (tags ->> 'team') FROM vault.decrypted_secrets WHERE name = 'github token'"), "Grüße $mark-npm2infra", 'stored and changed');
    write_file("$dir/npm/urlsafe.js", $js[0] =~ s/console\.log\(.*\);/console.log(sodium.to_base64(box));/r);
    ($ok, $out) = command_with("$mark-urlsafe", 'node', "$dir/npm/urlsafe.js", $k->exec('SELECT vault.public_key()'));
    chomp $out;
    ok_run($k->run("SELECT FROM vault.create_secret_sealed('$out', 'urlsafe')"), '', 'in the base64 that the package writes');
    is($k->exec("SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'urlsafe'"), "$mark-urlsafe", 'it opens');
}

#
# Databases of other encodings: a dump's values open there
#
$k->exec("SET kessel.tenant = 'globex'; CREATE TABLE encoded AS SELECT n, vault.seal(v, 'größe') AS v, vault.encrypt_aes_gcm(v, 'app key') AS e FROM (VALUES (1, 'Grüße'), (2, '$mark 世界'), (3, 'ascii')) t (n, v)");
$k->exec("CREATE TABLE boxed AS SELECT '" . box_of('Grüße box') . "' AS good, '" . box_of("$mark 世界 box") . "' AS bad");
($ok, $out) = command('pg_dump', '-U', 'postgres', '-Fc', '-f', "$dir/dump", 'infra');
ok($ok, 'a dump') or diag($out);
foreach my $encoding (qw(LATIN1 SQL_ASCII))
{
    my $db = lc $encoding;
    $k->exec("CREATE DATABASE $db ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", db => 'postgres');
    ($ok, $out) = command('pg_restore', '-U', 'postgres', '-e', '-d', $db, "$dir/dump");
    ok($ok, "restored into a database in $encoding") or diag($out);
    my %at = (db => $db, tenant => 'globex');
    my $context = $encoding eq 'LATIN1' ? "'gr' || chr(246) || chr(223) || 'e'" : "'größe'";
    my $bytes = $encoding eq 'LATIN1' ? '\x4772fcdf65' : '\x4772c3bcc39f65';
    ok_run($k->run("SET client_encoding = '$encoding'; SELECT convert_to(vault.open(v, $context), '$encoding'), convert_to(vault.import_aes_gcm(e, 'app key'), '$encoding') FROM encoded WHERE n = 1", %at), "$bytes|$bytes", 'characters that it has');
    ok_run($k->run("SET client_encoding = '$encoding'; SELECT vault.open(vault.seal(vault.open(v, $context), 'c'), 'c') = vault.import_aes_gcm(vault.encrypt_aes_gcm(vault.import_aes_gcm(e, 'app key'), 'app key'), 'app key') FROM encoded WHERE n = 1", %at), 't', 'there and back');
    ok_run($k->run("SELECT convert_to(decrypted_secret, '$encoding') FROM vault.decrypted_secrets WHERE id = (SELECT vault.create_secret_sealed(good, 'in $db') FROM boxed) OR name = 'in $db'", %at), '', 'a box in it');
    is($k->run("SELECT convert_to(decrypted_secret, '$encoding') FROM vault.decrypted_secrets WHERE name = 'in $db'", %at)->{out}, $bytes . '20626f78', 'opens');
    next if $encoding eq 'SQL_ASCII';
    foreach my $call ("vault.open(v, $context)", "vault.import_aes_gcm(e, 'app key')", '(SELECT vault.create_secret_sealed(bad) FROM boxed)')
    {
        my $r = $k->run("SET client_encoding = '$encoding'; SELECT $call FROM encoded WHERE n = 2", %at);
        like_error($r, '22P05', qr/^what was opened cannot be shown in this database's encoding$/, "characters that it has not: $call");
        unlike($r->{err}, qr/$mark|0xe4/, 'and the error shows none of them');
    }
}

#
# Nowhere else
#
my @calls = (
    "SELECT vault.seal('$mark-1', 'c')",
    "SELECT vault.seal('{\"a\": \"$mark-2\"}'::jsonb, 'c')",
    "SELECT vault.seal('$mark-3', NULL)",
    "SELECT vault.seal('$mark-4'::integer, 'c')",
    "SELECT vault.seal('$mark-5', 'c') FROM nosuch",
    "SELECT vault.seal('$mark-6', 'c'), 1 / (clock_timestamp() IS NULL)::integer",
    "RESET kessel.tenant; SELECT vault.seal('$mark-7', 'c')",
    "SELECT vault.open(vault.seal('$mark-8', 'c'), 'c')::integer",
    "SELECT vault.open_jsonb(vault.seal('{\"a\": \"$mark-9\"}'::jsonb, 'c'), 'c')::integer",
    "SELECT count(*) FROM sealed2 WHERE vault.open(v, 'sealed.v') = '$mark-10'",
    "SELECT vault.encrypt_aes_gcm('$mark-11', 'app key')",
    "SELECT vault.encrypt_aes_gcm('$mark-12', 'nosuch')",
    "SELECT vault.encrypt_aes_gcm('$mark-13', 'app key', '$mark-13')",
    "SELECT vault.import_aes_gcm('$mark-14', 'app key')",
    "SELECT vault.import_aes_gcm(vault.encrypt_aes_gcm('$mark-15', 'app key'), 'app key')::integer",
    "SELECT opened::integer FROM opened",
    "PREPARE p (text) AS SELECT vault.seal(\$1, 'c'); EXECUTE p('$mark-16')",
    "DO \$\$ BEGIN PERFORM vault.seal('$mark-17', 'c'); RAISE EXCEPTION 'after'; END \$\$",
    "COPY (SELECT vault.open(vault.seal('$mark-18', 'c'), 'c')::integer) TO STDOUT",
    "SELECT vault.create_secret_sealed('$mark-19')");
$k->exec("SET kessel.tenant = 'globex'; CREATE TABLE sealed2 AS SELECT vault.seal('$mark-20', 'sealed.v') AS v; CREATE VIEW opened AS SELECT vault.open(v, 'sealed.v') AS opened FROM sealed2");
$k->run($_, tenant => 'globex') foreach @calls;
write_file("$dir/script.sql", "SELECT vault.seal(:secret, 'c'), vault.encrypt_aes_gcm(:secret, 'app key');\n");
foreach my $mode (qw(extended prepared))
{
    local $ENV{PGOPTIONS} = '-c kessel.tenant=globex';
    local $ENV{PGUSER} = 'postgres';
    ($ok, $out) = command('pgbench', '-n', '-t', '1', '-M', $mode, '-D', "secret=$mark-$mode", '-f', "$dir/script.sql");
    ok($ok, "pgbench -M $mode") or diag($out);
}
my $sealer = $k->session(tenant => 'globex');
$sealer->run("SELECT vault.seal('$mark-activity', 'c')");
is($k->exec('SELECT query FROM pg_stat_activity WHERE pid = ' . $sealer->pid), '<vault: statement with a value to be sealed>', 'pg_stat_activity shows a label');
$sealer->run("SELECT 'kept', vault.open(vault.seal('x', 'c'), 'c')");
$sealer->run("SELECT 'kept', count(*) FROM sealed WHERE vault.open(NULL, 'c') IS NULL");
like($k->exec('SELECT query FROM pg_stat_activity WHERE pid = ' . $sealer->pid), qr/kept/, 'but not where a statement only opens');
$sealer->quit;

unlike($k->exec('SELECT * FROM pg_stat_activity'), qr/$mark/, 'pg_stat_activity');
is($k->exec("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%kr-node' || '-mark%' AND query NOT LIKE 'PREPARE%' AND query NOT LIKE 'EXECUTE%' AND query NOT LIKE 'DO%' AND query NOT LIKE 'COPY%' AND query NOT LIKE 'CREATE%'"), '0', 'pg_stat_statements keeps it of no plain call');
$k->exec('SELECT pg_stat_statements_reset()');
$k->exec('VACUUM FULL');
$k->exec('CHECKPOINT');
$node->stop;
is(found_in($mark), '', 'no plaintext in data files, WAL and log');
is(found_in($app_key) . found_in(pack('H*', $app_key)), '', 'nor the key of the app');
like(slurp_file($node->logfile), qr/The statement carries a secret/, 'the log was searched, and has such statements');

done_testing();

sub write_file
{
    my ($file, $text) = @_;
    open(my $fh, '>:raw', $file) or die "$file: $!";
    print $fh $text;
    close($fh) or die "$file: $!";
    return;
}

# (did it succeed, what it said)
sub command { return command_with('', @_); }

sub command_with
{
    my ($in, @command) = @_;
    my $said = '';
    my $done = eval { IPC::Run::run(\@command, '<', \$in, '>&', \$said, IPC::Run::timeout(180 * ($ENV{KR_SLOW} || 1))) };
    return ($done, $said);
}

# Records of the audit in the log from there on.
sub audit_records
{
    my ($from) = @_;
    $k->exec('SELECT 1');
    my $log = substr(slurp_file($node->logfile), $from);
    return map { decode_json($_) } $log =~ /kessel_audit: (\{.*\})/g;
}

# The files of the cluster, its log among them, in which the bytes occur.
sub found_in
{
    my ($wanted) = @_;
    my @found;
    find({ no_chdir => 1, wanted => sub {
        return unless -f $_;
        push @found, $_ if index(slurp_file($_), $wanted) >= 0;
    } }, $node->data_dir, $node->logfile);
    return join(' ', @found);
}

# The packages of the examples from npm's registry; why not, if not. That the
# registry cannot be reached is no failure of ours; anything else is.
sub install_packages
{
    mkdir "$dir/npm";
    my ($found) = command('npm', '--version');
    return 'npm is not installed' unless $found;
    my @bounded = ('timeout', '-k', '10', 120 * ($ENV{KR_SLOW} || 1), 'npm', '--prefix', "$dir/npm", '--cache', "$dir/npm/cache", '--fetch-retries=1', '--fetch-timeout=20000');
    my ($done, $said) = command(@bounded, 'install', '--no-audit', '--no-fund', '--ignore-scripts', 'libsodium-wrappers', 'pg');
    return if $done;
    my ($reached) = command(@bounded, 'ping');
    return 'the registry of npm cannot be reached' unless $reached;
    ok(0, 'npm installs libsodium-wrappers and pg') or diag($said);
    return 'npm has failed';
}

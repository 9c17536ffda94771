# Drift: what is done to a target by hand is found, whatever it is, and told with
# the SQL that takes it back; and what nobody has touched costs one query each.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use KesselTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $k = KesselTest->new;
my $solo    = $k->data_cluster('solo');
my $schemas = $k->data_cluster('schemas', conf => "log_statement = all\n");
my $shared  = $k->data_cluster('shared');
my $s       = $k->session(user => 'admin');

$k->data_source($solo);
$k->exec("SELECT kessel.create_tenant('solo', data_source => 'solo')");
$k->data_source($schemas, isolation => 'schema');
# One whose name is as bad as a name can be.
my %schema = (a => 'schema_a', b => 'schema_b', c => q{it's "C", \\d.x});
foreach my $t (sort keys %schema)
{
    my ($name, $literal) = ($schema{$t}, $schema{$t});
    $name =~ s/"/""/g;
    $literal =~ s/'/''/g;
    $k->data_exec($schemas, "CREATE SCHEMA \"$name\" AUTHORIZATION schemas_owner; GRANT USAGE ON SCHEMA \"$name\" TO schemas_runtime");
    $k->exec("SELECT kessel.create_tenant('schema-$t', data_source => 'schemas', tenant_id_in_data_source => '$literal')");
}
$k->data_source($shared, isolation => 'row');
$k->exec("SELECT kessel.install_agent('shared'); SELECT kessel.create_tenant('row-a', data_source => 'shared'), kessel.create_tenant('row-b', data_source => 'shared')");

sub add
{
    my ($name, $up, $down, $options) = @_;
    return $k->exec("SELECT kessel.add_migration('crm', '$name', \$up\$$up\$up\$, \$down\$$down\$down\$" . ($options ? ", $options)" : ')'));
}

# lines(TENANTS, COLUMNS): what drift says, a line each.
sub drift
{
    my ($tenants, $columns, $more) = @_;
    $columns ||= "concat_ws(' ', difference, kind, object)";
    $tenants = $tenants ? "'{$tenants}'" : 'NULL';
    my $r = $s->run("SELECT $columns FROM kessel.drift('crm', $tenants" . ($more ? ", $more)" : ')'));
    return $r->{state} ? "$r->{state} $r->{err}" : $r->{out};
}

sub mend
{
    my ($d, $tenant, %opt) = @_;
    my $sql = drift($tenant, "string_agg(coalesce(mend, 'SELECT ''no SQL''') || ';', E'\\n' ORDER BY step)");
    return apply($d, $sql, %opt);
}

sub apply
{
    my ($d, $sql, %opt) = @_;
    return $k->data_exec($d, "SET client_min_messages = warning; BEGIN; SET LOCAL ROLE $d->{owner}; $sql; COMMIT", %opt);
}

#
# Every kind of object, in all kinds of isolation
#
my $everything = <<'SQL';
CREATE TYPE mood AS ENUM ('sad', 'it''s');
CREATE TYPE pair AS (a int, b text COLLATE "C");
CREATE TYPE span AS RANGE (SUBTYPE = float8);
CREATE DOMAIN email AS text COLLATE "C" DEFAULT 'x@y' NOT NULL CHECK (VALUE ~ '@');
CREATE SEQUENCE numbers;
CREATE TABLE accounts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL DEFAULT 'x', m mood, e email, n serial,
    g int GENERATED ALWAYS AS (1 + 1) STORED, p pair, UNIQUE (name), CHECK (id > 0)) WITH (fillfactor = 70, toast.autovacuum_enabled = off);
CREATE TABLE contacts (id bigint PRIMARY KEY, account int REFERENCES accounts ON DELETE CASCADE DEFERRABLE, next bigint DEFAULT nextval('numbers'));
CREATE INDEX ON accounts (lower(name)) WHERE id > 5;
CREATE UNIQUE INDEX accounts_u ON accounts (m, name DESC) WITH (fillfactor = 60);
CREATE FUNCTION f(x mood, y int[] DEFAULT '{1}', VARIADIC z text[] DEFAULT '{}') RETURNS SETOF accounts LANGUAGE sql SET search_path = "@tenant" AS 'SELECT * FROM accounts';
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN new; END$$;
CREATE PROCEDURE pr(INOUT a int) LANGUAGE plpgsql AS $$BEGIN END$$;
CREATE FUNCTION atom() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM accounts; END;
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE TRIGGER tr BEFORE UPDATE OF name ON accounts FOR EACH ROW WHEN (old.name IS DISTINCT FROM new.name) EXECUTE FUNCTION g();
ALTER TABLE accounts DISABLE TRIGGER tr;
CREATE VIEW v AS SELECT id, name FROM accounts WHERE m = 'sad';
CREATE VIEW v2 WITH (security_barrier) AS SELECT * FROM v;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM v2;
CREATE UNIQUE INDEX ON mv (count);
CREATE POLICY po ON accounts FOR SELECT TO "@runtime" USING (name = current_user);
CREATE RULE r AS ON DELETE TO contacts DO INSTEAD NOTHING;
CREATE STATISTICS st ON id, name FROM accounts;
CREATE TABLE part (id int, k text) PARTITION BY list (k);
CREATE TABLE p1 PARTITION OF part FOR VALUES IN ('a', 'b');
CREATE TABLE pd PARTITION OF part DEFAULT;
CREATE INDEX ON part (id);
ALTER TABLE part ADD PRIMARY KEY (id, k);
CREATE TABLE child () INHERITS (contacts);
CREATE UNLOGGED TABLE ul (a int);
CREATE TABLE typed OF pair;
COMMENT ON RULE r ON contacts IS 'rule';
COMMENT ON STATISTICS st IS 'statistics';
ALTER TABLE ul ALTER a SET STATISTICS 7;
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON accounts TO "@runtime";
GRANT UPDATE (account), SELECT (id) ON contacts TO "@owner@" WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION g() FROM public;
GRANT USAGE ON SEQUENCE numbers TO "@runtime";
COMMENT ON TABLE accounts IS 'it''s @tenant';
COMMENT ON COLUMN accounts.id IS 'col';
COMMENT ON FUNCTION g() IS 'fn';
COMMENT ON CONSTRAINT accounts_id_check ON accounts IS 'cc';
ALTER DEFAULT PRIVILEGES IN SCHEMA "@tenant" GRANT SELECT ON TABLES TO "@runtime";
CREATE COLLATION coll (locale = 'C');
CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq);
SQL
$everything =~ s/"\@owner\@"/"\@runtime"/;
# Where tenants share tables there can be none that is open to them.
my $rows = <<'SQL';
DO $$ BEGIN IF current_setting('kessel_agent.isolation') = 'row' THEN
    DROP POLICY po ON accounts;
    DROP RULE r ON contacts;
    ALTER TABLE accounts ADD tenant_id text NOT NULL;
    ALTER TABLE contacts ADD tenant_id text NOT NULL;
    PERFORM kessel_agent.protect('accounts'), kessel_agent.protect('contacts');
END IF; END $$;
SQL
$k->exec("SELECT kessel.add_blueprint('crm'); SELECT kessel.add_blueprint('more')");
add('0001_accounts', $everything . $rows, 'SELECT 1');
add('0002_places', 'CREATE TABLE places (id int, name text); INSERT INTO places VALUES (1, \'here\'); ALTER TABLE places DROP id; ALTER TABLE places ADD id int; '
      . q{DO $$ BEGIN IF current_setting('kessel_agent.isolation') = 'row' THEN DELETE FROM places; ALTER TABLE places ADD tenant_id text; PERFORM kessel_agent.protect('places'); END IF; END $$}, 'DROP TABLE places');
add('0003_index', 'CREATE INDEX CONCURRENTLY places_name ON places (name); ANALYZE places; VACUUM places', 'DROP INDEX CONCURRENTLY places_name', 'transactional => false');
my $r = $k->run("CALL kessel.migrate('crm')", user => 'admin');
is($r->{state}, '', 'migrated') or diag($r->{err}, $k->exec('SELECT error FROM kessel.migration_run_targets WHERE error IS NOT NULL'));
$k->exec("SELECT kessel.add_migration('more', '0001_notes', 'CREATE TABLE notes (id int REFERENCES contacts)', 'DROP TABLE notes')");
$k->exec("CALL kessel.migrate('more', tenants => '{schema-b}')");

is(drift(), '', 'what was just migrated has not drifted');
is($k->exec('SELECT count(*), count(DISTINCT key), min(jsonb_array_length(migrations)), max(jsonb_array_length(migrations)) FROM kessel.schema_references'), '4|4|3|4', 'a reference for each kind of place');
is($k->exec("SELECT s.name, c.schema_name, c.differences, c.error IS NULL, length(c.fingerprint) FROM kessel.schema_checks c JOIN app.data_sources s ON s.id = c.data_source_id WHERE s.name <> 'schemas' ORDER BY 1"),
    "shared|public|0|t|64\nsolo|public|0|t|64", 'which is recorded');
is($k->data_exec($_, "SELECT count(*) FROM pg_namespace WHERE nspname ~ 'scratch'"), 0, "nothing is left on $_->{name}") foreach $solo, $schemas, $shared;

# The server's log has each statement.
my $offset = -s $schemas->{node}->logfile;
is(drift(), '', 'again');
my @statements = grep { /execute|statement:/ && !/START TRANSACTION|set_config|ROLLBACK|DO \$\$/ } split /\n/, slurp_file($schemas->{node}->logfile, $offset);
is(scalar(@statements), 3, 'one query for each target, and nothing else') or diag(join "\n", @statements);
is($k->exec('SELECT count(*) FROM kessel.schema_references'), 4, '... and no new reference');

#
# What was done by hand
#
my @done = (
    [ 'DROP VIEW v2 CASCADE', 'missing view v2', 'missing materialized view mv', 'missing index mv.mv_count_idx' ],
    [ 'DROP INDEX accounts_u', 'missing index accounts.accounts_u' ],
    [ 'DROP INDEX part_id_idx', 'missing index part.part_id_idx' ],
    [ 'DROP INDEX accounts_u; CREATE INDEX accounts_u ON accounts (m)', 'different index accounts.accounts_u' ],
    [ 'CREATE INDEX byhand ON accounts (id)', 'unexpected index accounts.byhand' ],
    [ 'ALTER TABLE accounts DROP e', 'missing column accounts.e' ],
    [ 'ALTER TABLE accounts DROP name CASCADE', qr/missing column accounts\.name\n/ ],
    [ 'ALTER TABLE contacts DROP account', qr/missing column contacts\.account\n/ ],
    [ "ALTER TABLE accounts ADD extra text NOT NULL DEFAULT 'q'", 'unexpected column accounts.extra' ],
    [ 'ALTER TABLE accounts RENAME m TO n2', qr/missing column accounts\.m\n.*unexpected column accounts\.n2/s ],
    [ 'ALTER TABLE contacts ALTER account TYPE bigint', 'different column child.account', 'different column contacts.account' ],
    [ 'DROP POLICY po ON accounts; DROP TRIGGER tr ON accounts; DROP STATISTICS st; DROP VIEW v CASCADE; ALTER TABLE accounts ALTER name TYPE varchar(10)', qr/different column accounts\.name\n/ ],
    [ 'ALTER TABLE accounts DROP g; ALTER TABLE accounts ADD g int GENERATED ALWAYS AS (2 + 2) STORED', 'different column accounts.g' ],
    [ 'ALTER TABLE accounts ALTER g DROP EXPRESSION', 'different column accounts.g' ],
    [ 'ALTER TABLE accounts ALTER name DROP NOT NULL', 'missing not null accounts.name' ],
    [ 'ALTER TABLE ul ALTER a SET NOT NULL', 'unexpected not null ul.a' ],
    [ "ALTER TABLE accounts ALTER name SET DEFAULT 'y'", 'different default accounts.name' ],
    [ 'ALTER TABLE accounts ALTER name DROP DEFAULT', 'missing default accounts.name' ],
    [ 'ALTER TABLE ul ALTER a SET DEFAULT 5', 'unexpected default ul.a' ],
    [ 'ALTER TABLE accounts ALTER id DROP IDENTITY', 'missing identity accounts.id' ],
    [ 'ALTER TABLE accounts ALTER id SET GENERATED BY DEFAULT SET INCREMENT 5', 'different identity accounts.id' ],
    [ 'ALTER TABLE accounts ALTER name SET STORAGE external', 'unexpected column setting accounts.name.storage' ],
    [ 'ALTER TABLE ul ALTER a SET STATISTICS 9', 'different column setting ul.a.statistics' ],
    [ 'ALTER TABLE ul ALTER a SET (n_distinct = 4)', 'unexpected column setting ul.a.options' ],
    [ 'ALTER TABLE accounts DROP CONSTRAINT accounts_id_check', 'missing comment constraint accounts.accounts_id_check', 'missing constraint accounts.accounts_id_check' ],
    [ 'ALTER TABLE accounts DROP CONSTRAINT accounts_pkey CASCADE', 'missing constraint accounts.accounts_pkey', 'missing constraint contacts.contacts_account_fkey' ],
    [ 'ALTER TABLE contacts DROP CONSTRAINT contacts_account_fkey, ADD CONSTRAINT contacts_account_fkey FOREIGN KEY (account) REFERENCES accounts', 'different constraint contacts.contacts_account_fkey' ],
    [ 'ALTER TABLE ul ADD CONSTRAINT positive CHECK (a > 5) NOT VALID', 'unexpected constraint ul.positive' ],
    [ 'ALTER TABLE contacts ADD CONSTRAINT u UNIQUE (account); CREATE TABLE fk (a int REFERENCES contacts (account))', 'unexpected constraint contacts.u', 'unexpected table fk' ],
    [ 'DROP POLICY po ON accounts', 'missing policy accounts.po' ],
    [ 'CREATE POLICY p2 ON accounts USING (true)', 'unexpected policy accounts.p2' ],
    [ 'ALTER POLICY po ON accounts TO public', 'different policy accounts.po' ],
    [ 'ALTER TABLE accounts DISABLE ROW LEVEL SECURITY', 'missing row security accounts' ],
    [ 'ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY', 'missing forced row security accounts' ],
    [ 'ALTER TABLE ul ENABLE ROW LEVEL SECURITY', 'unexpected row security ul' ],
    [ 'DROP TRIGGER tr ON accounts', 'missing trigger accounts.tr' ],
    [ 'ALTER TABLE accounts ENABLE TRIGGER tr', 'different trigger accounts.tr' ],
    [ 'CREATE TRIGGER tr2 AFTER INSERT ON contacts FOR EACH ROW EXECUTE FUNCTION g()', 'unexpected trigger contacts.tr2' ],
    [ 'DROP RULE r ON contacts', 'missing comment rule contacts.r', 'missing rule contacts.r' ],
    [ 'DROP FUNCTION f', 'missing function f(mood, _int4, _text)' ],
    [ 'CREATE OR REPLACE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN old; END$$', 'different function g()' ],
    [ "CREATE FUNCTION byhand(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", 'unexpected function byhand(int4)' ],
    [ "DROP FUNCTION atom; CREATE FUNCTION atom() RETURNS int LANGUAGE sql AS 'SELECT 1'", 'different function atom()' ],
    [ 'ALTER FUNCTION g() SECURITY DEFINER', 'different function g()' ],
    [ 'DROP PROCEDURE pr(int)', 'missing procedure pr(int4)' ],
    [ "CREATE OR REPLACE VIEW v AS SELECT id, name FROM accounts WHERE m <> 'sad'", 'different view v' ],
    [ 'ALTER VIEW v2 RESET (security_barrier)', 'different view v2' ],
    [ 'DROP SEQUENCE numbers CASCADE', 'missing default child.next', 'missing default contacts.next', 'missing sequence numbers' ],
    [ 'ALTER SEQUENCE numbers INCREMENT 7 CACHE 3', 'different sequence numbers' ],
    [ 'CREATE SEQUENCE byhand', 'unexpected sequence byhand' ],
    [ 'ALTER SEQUENCE accounts_n_seq OWNED BY NONE', 'missing owned by accounts_n_seq' ],
    [ "CREATE TYPE colour AS ENUM ('red')", 'unexpected type colour' ],
    [ 'ALTER DOMAIN email DROP NOT NULL', 'missing domain not null email' ],
    [ "ALTER DOMAIN email SET DEFAULT 'a\@b'", 'different domain default email' ],
    [ 'ALTER DOMAIN email DROP CONSTRAINT email_check', 'missing domain constraint email.email_check' ],
    [ 'DROP TYPE mood CASCADE', qr/missing type mood/ ],
    [ 'DROP TABLE accounts CASCADE', qr/missing table accounts/ ],
    [ 'DROP TABLE part', 'missing constraint part.part_pkey', 'missing index part.part_id_idx', 'missing table p1', 'missing table part', 'missing table pd' ],
    [ 'DROP TABLE pd', 'missing table pd' ],
    [ 'ALTER TABLE child NO INHERIT contacts', 'missing inheritance child.contacts' ],
    [ 'ALTER TABLE ul SET LOGGED', 'different table ul' ],
    [ 'CREATE TABLE foo (id serial PRIMARY KEY); CREATE VIEW foov AS SELECT * FROM foo; COMMENT ON TABLE foo IS \'x\'', 'unexpected sequence foo_id_seq', 'unexpected table foo', 'unexpected view foov' ],
    [ 'DROP VIEW v2 CASCADE; CREATE TABLE v2 (a int)', qr/missing view v2\n.*|unexpected table v2/s ],
    [ 'ALTER TABLE accounts SET (fillfactor = 50), RESET (toast.autovacuum_enabled)', 'different parameter accounts.fillfactor', 'missing toast parameter accounts.autovacuum_enabled' ],
    [ 'DROP STATISTICS st', 'missing comment statistics st', 'missing statistics st' ],
    [ 'ALTER TABLE typed NOT OF', 'missing of type typed' ],
    [ "COMMENT ON RULE r ON contacts IS 'other'", 'different comment rule contacts.r' ],
    [ 'ALTER TABLE accounts CLUSTER ON accounts_u, REPLICA IDENTITY FULL', 'unexpected clustered on accounts', 'unexpected replica identity accounts' ],
    [ 'GRANT DELETE ON accounts TO solo_runtime', 'different grant accounts to runtime' ],
    [ 'REVOKE ALL ON accounts FROM solo_runtime', 'missing grant accounts to runtime' ],
    [ 'REVOKE INSERT ON contacts FROM solo_owner', 'unexpected grant contacts to owner' ],
    [ 'GRANT SELECT (name) ON accounts TO solo_runtime', 'unexpected grant accounts.name to runtime' ],
    [ 'REVOKE UPDATE (account) ON contacts FROM solo_runtime', 'missing grant option contacts.account to runtime' ],
    [ 'GRANT EXECUTE ON FUNCTION g() TO public', 'missing grant g() to public' ],
    [ 'REVOKE USAGE ON SEQUENCE numbers FROM solo_runtime', 'missing grant numbers to runtime' ],
    [ 'GRANT SELECT ON ul TO pg_monitor', 'unexpected grant ul to pg_monitor' ],
    [ 'RESET ROLE; ALTER TABLE ul OWNER TO solo_runtime; ALTER FUNCTION g() OWNER TO solo_runtime; GRANT solo_runtime TO solo_owner; SET ROLE solo_owner', qr/unexpected owner function g\(\).*unexpected owner table ul/s ],
    [ 'COMMENT ON TABLE accounts IS NULL', 'missing comment table accounts' ],
    [ "COMMENT ON COLUMN contacts.id IS 'new'", 'unexpected comment column contacts.id' ],
    [ 'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM solo_runtime', 'missing default privileges TABLES of owner to runtime' ],
    [ 'CREATE TABLE "we""ird \' ' . "\n" . '\\! x" ("co;l\'" int); CREATE FUNCTION "f\'""x"(int[], mood[]) RETURNS int LANGUAGE sql AS \'SELECT 1\'', qr/unexpected function .*unexpected table /s ],
);
foreach my $case (@done)
{
    my ($sql, @expected) = @$case;
    $k->data_exec($solo, "SET client_min_messages = warning; SET search_path = public; SET ROLE solo_owner; $sql");
    $s->run("DROP TABLE IF EXISTS was; CREATE TEMP TABLE was AS SELECT * FROM kessel.drift('crm', '{solo}')");
    my $found = join "\n", sort split /\n/, $s->run("SELECT concat_ws(' ', difference, kind, object) FROM was")->{out};
    ref $expected[0] ? like($found, $expected[0], "found: $sql") : is($found, join("\n", sort @expected), "found: $sql");
    my $mend = $s->run("SELECT string_agg(coalesce(mend, 'SELECT ''no SQL''') || ';', E'\\n' ORDER BY step) FROM was")->{out};
    eval { apply($solo, $mend) };
    is($@ || drift('solo'), '', '... and mended') or diag($mend);
}

# Many at once, in a place that is like no other.
$k->data_exec($schemas, <<'SQL');
SET ROLE schemas_owner; SET search_path = "it's ""C"", \d.x";
DROP TABLE contacts CASCADE; DROP POLICY po ON accounts; DROP INDEX accounts_u; ALTER TABLE accounts DROP e, ADD zip text, DISABLE ROW LEVEL SECURITY; DROP FUNCTION f;
CREATE OR REPLACE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; GRANT ALL ON accounts TO public; CREATE VIEW v3 AS SELECT * FROM v2;
CREATE OR REPLACE VIEW v AS SELECT id, name FROM accounts; ALTER TABLE accounts ALTER name SET DEFAULT 'q', ALTER id SET GENERATED BY DEFAULT, DROP CONSTRAINT accounts_name_key;
DROP TRIGGER tr ON accounts; COMMENT ON TABLE accounts IS 'z'; ALTER SEQUENCE numbers CYCLE; DROP TABLE p1; CREATE TABLE extra (id int PRIMARY KEY); ALTER DOMAIN email DROP DEFAULT;
SQL
cmp_ok(drift('schema-c', 'count(*)'), '>=', 18, 'much is found at once');
is(drift(undef, "DISTINCT concat_ws(' ', data_source, schema_name, tenant)"), q{schemas it's "C", \\d.x schema-c}, '... in that place alone');
eval { mend($schemas, 'schema-c') };
is($@ || drift(), '', '... and all of it mended in one transaction');
is($k->data_exec($schemas, 'SELECT count(*) FROM schema_a.places'), 1, 'rows of others are as they were');

# What cannot be mended says so.
$k->data_exec($solo, "ALTER TYPE mood ADD VALUE 'new'; DROP AGGREGATE total(int); CREATE COLLATION byhand (locale = 'C')");
is(drift('solo', "difference, kind, object, mend IS NULL, note IS NOT NULL"), "different|type|mood|t|t\nmissing|aggregate|total(int4)|t|t\nunexpected|other|pg_collation byhand|t|t", 'a reason where there is no SQL');
is(drift('solo', 'kind', q(ignore => '{type mood,aggregate%,other %}')), '', 'what is to be ignored');
is($k->exec("SELECT differences FROM kessel.schema_checks JOIN app.data_sources s ON s.id = data_source_id WHERE s.name = 'solo'"), 0, '... does not count');
$k->data_exec($solo, "DROP COLLATION byhand; CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0'); ALTER AGGREGATE total(int) OWNER TO solo_owner");
is(drift('solo', "kind, object, expected, actual"), "type|mood|ENUM ('sad', 'it''s')|ENUM ('sad', 'it''s', 'new')", 'both definitions');
add('0004_mood', q{ALTER TYPE mood ADD VALUE IF NOT EXISTS 'new'}, 'SELECT 1');
is(drift('solo', 'kind'), 'type', 'a migration that is not applied changes nothing');
$k->exec("CALL kessel.migrate('crm', tenants => '{solo}')");
is(drift(), '', 'one that is makes it as it should be; who lags behind has not drifted');
$k->data_exec($schemas, 'ALTER TYPE schema_a.mood RENAME TO humour');
like(drift('schema-a'), qr/missing type mood/, 'a type that has another name');
$k->data_exec($schemas, 'ALTER TYPE schema_a.humour RENAME TO mood');

#
# Who cannot be compared
#
sub unknown { return drift($_[0], "tenant, difference, error ->> 'sqlstate', error ->> 'message'") }

my $record = 'kessel_agent.migrations WHERE schema_name = \'schema_a\'';
$k->data_exec($schemas, "UPDATE kessel_agent.migrations SET state = 'applying' WHERE schema_name = 'schema_a' AND version = 3");
is(unknown('schema-a'), 'schema-a|unknown|55000|migration 0003_index of blueprint "crm" is under way or was cut off', 'a migration under way');
$k->data_exec($schemas, "UPDATE kessel_agent.migrations SET state = 'applied', checksum = repeat('0', 64) WHERE schema_name = 'schema_a' AND version = 3");
is(unknown('schema-a'), 'schema-a|unknown|KR014|migration 0003_index of blueprint "crm" is not known here with that content', 'another script');
$k->data_exec($schemas, "UPDATE kessel_agent.migrations SET checksum = (SELECT max(checksum) FROM kessel_agent.migrations WHERE version = 3 AND schema_name = 'schema_b') WHERE schema_name = 'schema_a' AND version = 3");
is(unknown('schema-a'), '', '... put right');
$k->data_exec($schemas, "INSERT INTO kessel_agent.migrations (schema_name, blueprint, version, name, checksum, applied_at) VALUES ('schema_a', 'theirs', 1, '0001_x', 'y', now())");
is(unknown('schema-a'), 'schema-a|unknown|KR014|migration 0001_x of blueprint "theirs" is not known here', 'a blueprint that is not known');
is(unknown('schema-a,schema-b'), 'schema-a|unknown|KR014|migration 0001_x of blueprint "theirs" is not known here', '... concerns nobody else');
$k->data_exec($schemas, "DELETE FROM kessel_agent.migrations WHERE blueprint = 'theirs'");
$k->data_exec($schemas, 'CREATE SCHEMA t_new AUTHORIZATION schemas_owner; GRANT USAGE ON SCHEMA t_new TO schemas_runtime');
$k->exec("UPDATE kessel.blueprints SET for_new_tenants = false; SELECT kessel.create_tenant('new', data_source => 'schemas')");
is(unknown('new'), 'new|unknown|55000|blueprint "crm" was never applied there', 'a place that was never migrated');
$k->data_exec($schemas, 'DROP SCHEMA t_new');
is(unknown('new'), 'new|unknown|3F000|data source "schemas" has no schema "t_new"', 'a schema that is gone');
$k->exec("SELECT kessel.drop_tenant('new')");
$k->data_database($solo, 'fresh');
$k->data_source($solo, name => 'fresh', db => 'fresh');
$k->exec("SELECT kessel.create_tenant('fresh', data_source => 'fresh')");
is(unknown('fresh'), 'fresh|unknown|55000|blueprint "crm" was never applied there', 'a database without any record');

# Scripts that cannot be built beside what is there.
sub try_script
{
    my ($up, $name) = @_;
    $k->exec("SELECT kessel.add_blueprint('odd'); SELECT kessel.add_migration('odd', '0001_odd', \$up\$$up\$up\$, 'SELECT 1')");
    $k->exec("CALL kessel.migrate('odd', tenants => '{fresh}')");
    my $r = $s->run("SELECT difference, error ->> 'sqlstate', error ->> 'message' FROM kessel.drift('odd', '{fresh}')");
    $k->data_exec($solo, 'DROP SCHEMA kessel_agent CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION solo_owner; DROP SCHEMA IF EXISTS elsewhere CASCADE', db => 'fresh');
    $k->exec("DELETE FROM kessel.migration_targets WHERE blueprint = 'odd'; SELECT kessel.drop_blueprint('odd')");
    return $r->{err} . $r->{out};
}
is(try_script('CREATE TABLE public.accounts (id int)'), 'unknown|0A000|migration 0001_odd names the schema "public"', 'a script that names the schema');
is(try_script(q{CREATE TABLE a (id int); SELECT 'public.a'::regclass}), 'unknown|0A000|migration 0001_odd names the schema "public"', '... in a literal');
is(try_script(q{CREATE TABLE a (id int, c text DEFAULT 'in public.a'); -- public.a
    CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) FROM public.a); END$$; COMMENT ON TABLE a IS 'see public.b'}), '', '... where it does not matter');
is(try_script('CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.a (id int)'), 'unknown|55000|migration 0001_odd cannot be built in a scratch schema', 'a script that makes another schema');
is(try_script('CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE IF NOT EXISTS elsewhere.a (id int); CREATE OR REPLACE FUNCTION elsewhere.f() RETURNS int LANGUAGE sql AS $$SELECT 1$$'),
    'unknown|0A000|the migrations make or change something outside of their schema', 'a script that changes another schema');
$k->data_exec($solo, 'SET ROLE solo_owner; CREATE TABLE public.byhand (id int)', db => 'fresh');
is(try_script('ALTER TABLE byhand ADD name text'), 'unknown|55000|migration 0001_odd cannot be built in a scratch schema', 'a script that needs what no migration makes');

# Extensions in the same schema: what they have is found, what lives there is not.
$k->data_exec($solo, 'CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION pg_trgm SCHEMA public; SET ROLE solo_owner; CREATE TABLE public.legacy (id int); INSERT INTO public.legacy VALUES (1)', db => 'fresh');
$k->exec("SELECT kessel.add_blueprint('ext'); SELECT kessel.add_migration('ext', '0001_ext', 'CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE words (w citext, t text); CREATE INDEX ON words USING gin (t gin_trgm_ops); CREATE TYPE kind AS ENUM (''a''); ALTER TABLE words ADD k kind DEFAULT ''a''')");
$k->exec("CALL kessel.migrate('ext', tenants => '{fresh}')");
ok_run($s->run("SELECT difference, kind, object, error FROM kessel.drift('ext', '{fresh}')"), 'unexpected|table|legacy|', 'extensions in the schema');
$k->data_exec($solo, 'DROP INDEX words_t_idx', db => 'fresh');
ok_run($s->run("SELECT difference, object, mend FROM kessel.drift('ext', '{fresh}') WHERE kind = 'index'"), 'missing|words.words_t_idx|CREATE INDEX words_t_idx ON public.words USING gin (t public.gin_trgm_ops)', '... and what is made with them');
is($k->data_exec($solo, 'SELECT count(*) FROM legacy', db => 'fresh'), 1, 'what lives there is as it was');

# Privileges there.
$k->data_exec($schemas, 'REVOKE CREATE ON DATABASE tenants FROM schemas_owner; ALTER DATABASE tenants OWNER TO postgres; GRANT CONNECT ON DATABASE tenants TO schemas_owner');
$k->exec('DELETE FROM kessel.schema_references');
is(drift('schema-a,schema-b', "tenant, error ->> 'sqlstate', error ->> 'message', error ->> 'hint' ~ 'CREATE'"),
    "schema-a|42501|a scratch schema cannot be made there|t\nschema-b|42501|a scratch schema cannot be made there|t", 'an owner who may not make a schema');
$k->data_exec($schemas, 'ALTER DATABASE tenants OWNER TO schemas_owner; GRANT CREATE ON DATABASE tenants TO schemas_owner');
is(drift('schema-a,schema-b'), '', '... once it may');

#
# A copy of a database; one that has been dumped and restored
#
my ($dump) = run_command([ 'pg_dump', '-h', $solo->{node}->host, '-p', $solo->{port}, '-d', 'tenants' ]);
$k->data_exec($solo, 'CREATE DATABASE restored OWNER solo_owner', db => 'postgres');
$k->data_exec($solo, 'ALTER SCHEMA public OWNER TO solo_owner; REVOKE ALL ON SCHEMA public FROM public', db => 'restored');
# Some versions have the commands \restrict and \unrestrict around it. The view's owner is under row security.
$dump =~ s/^(?:CREATE SCHEMA public;|\\(?:un)?restrict .*|REFRESH .*)$//mg;
$k->data_exec($solo, $dump, db => 'restored');
$k->data_source($solo, name => 'restored', db => 'restored');
$k->exec("SELECT kessel.create_tenant('restored', data_source => 'restored')");
is(drift('solo,restored'), '', 'what was dumped and restored is the same as it was');
is($k->exec('SELECT count(DISTINCT fingerprint) FROM kessel.schema_checks c JOIN app.data_sources s ON s.id = data_source_id WHERE s.name IN (\'solo\', \'restored\')'), 1, '... to the last letter');

#
# Fifty, up, down and up again
#
$k->data_exec($schemas, 'ALTER SYSTEM SET log_statement = none; SELECT pg_reload_conf()');
$k->exec("SELECT kessel.add_blueprint('fifty')");
$k->exec("SELECT kessel.add_migration('fifty', '0001_a', 'CREATE TABLE a (id serial PRIMARY KEY, b text); CREATE INDEX ON a (b); GRANT SELECT ON a TO \"\@runtime\"', 'DROP TABLE a'),"
      . "kessel.add_migration('fifty', '0002_b', 'ALTER TABLE a ADD c int REFERENCES a; CREATE VIEW av AS SELECT * FROM a', 'DROP VIEW av; ALTER TABLE a DROP c'),"
      . "kessel.add_migration('fifty', '0003_c', 'CREATE INDEX CONCURRENTLY a_c ON a (c)', 'DROP INDEX CONCURRENTLY a_c', transactional => false)");
$k->data_exec($schemas, join '', map { "CREATE SCHEMA t_f$_ AUTHORIZATION schemas_owner; GRANT USAGE ON SCHEMA t_f$_ TO schemas_runtime;" } 1 .. 50);
$k->exec("SELECT count(kessel.create_tenant('f' || i, data_source => 'schemas')) FROM generate_series(1, 50) i");
my $fifty = "(SELECT array_agg('f' || i) FROM generate_series(1, 50) i)";
sub fifty { return ok_run($s->run("SELECT difference, kind, object, error FROM kessel.drift('fifty', $fifty)"), '', $_[0]) }

$k->exec("CALL kessel.migrate('fifty', tenants => ARRAY" . "[" . join(',', map { "'f$_'" } 1 .. 50) . '])');
fifty('fifty up');
$k->exec("CALL kessel.rollback('fifty', 1, tenants => ARRAY" . "[" . join(',', map { "'f$_'" } 1 .. 50) . '])');
fifty('... down by two');
$k->exec("CALL kessel.rollback('fifty', 0, tenants => ARRAY" . "[" . join(',', map { "'f$_'" } 1 .. 50) . '])');
fifty('... down to nothing');
$k->exec("CALL kessel.migrate('fifty', tenants => ARRAY" . "[" . join(',', map { "'f$_'" } 1 .. 50) . '])');
fifty('... and up again');
my $begun = time;
fifty('... once more');
note(sprintf('fifty unchanged targets: %.0f ms', (time - $begun) * 1000));
$k->data_exec($schemas, "DROP VIEW t_f7.av; ALTER TABLE t_f33.a ADD byhand int");
ok_run($s->run("SELECT tenant, difference, kind, object FROM kessel.drift('fifty', $fifty)"), "f33|unexpected|column|a.byhand\nf7|missing|view|av", 'two of fifty');

# Nobody waits behind who reads a view's definition, nor that one for long.
my $holder = KesselTest::Session->new([ KesselTest::_psql_command($schemas->{node}, db => $schemas->{db}, user => 'postgres') ], '');
$holder->run('BEGIN; LOCK TABLE t_f5.a');
ok_run($s->run("SELECT tenant, difference, error ->> 'sqlstate' FROM kessel.drift('fifty', '{f5,f6}')"), 'f5|unknown|55P03', 'a table that is locked');
$holder->quit;

#
# One that is not there costs one line
#
$shared->{node}->stop('immediate');
is(drift(undef, "data_source, tenant, difference, error ->> 'sqlstate'", q(ignore => '{%}')) =~ s/^(?!shared).*\n?//mgr =~ s/\n$//r, 'shared||unknown|08001', 'a server that is down');
is($k->exec("SELECT differences IS NULL, fingerprint IS NULL, error ->> 'sqlstate' FROM kessel.schema_checks JOIN app.data_sources s ON s.id = data_source_id WHERE s.name = 'shared'"), 't|t|08001', '... which is recorded');
$k->exec("SELECT kessel.alter_data_source('shared', status => 'disabled')");
like(drift('row-a', "error ->> 'message'"), qr/"shared" is disabled/, 'one that is disabled');

done_testing();

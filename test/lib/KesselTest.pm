# KesselTest: an infra cluster with the extension and data clusters beside it,
# for TAP tests with PostgreSQL::Test::Cluster of PostgreSQL 15 to 18.
#
#   my $k = KesselTest->new;                        infra database, extension made
#   my $d = $k->data_cluster('shared');             SCRAM over TCP on 127.0.0.1
#   $k->crm_schema($d, 'acme');                     tables and rows of a tenant
#   $k->data_source($d, isolation => 'schema');
#   $k->exec("SELECT kessel.create_tenant(...)");   dies on an error
#   my $r = $k->run('SELECT ...', tenant => 'acme', user => 'app', sub => $uuid);
#   is($r->{state}, '42501');                       out, err, state, message, detail, hint
#   my $s = $k->session(user => 'app');             a psql that stays
#   $r = $s->run('BEGIN');
#
# Passwords are recognisable (see PASSWORD_MARK), so that a search can find one
# that got out.
package KesselTest;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use File::Temp ();
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The superuser of every cluster, whatever we ourselves are called. (Test::Utils
# has emptied the environment of such settings when it was loaded.)
$ENV{PGUSER} = 'postgres';

our @EXPORT = qw(like_error ok_run PASSWORD_MARK);

use constant PASSWORD_MARK => 'kr-marked-pw';
use constant DATABASE      => 'infra';
# Seconds after which a psql that does not answer counts as hung.
use constant PATIENCE => 60 * ($ENV{KR_SLOW} || 1);

# new(conf => "lines of postgresql.conf", name => 'infra', extension => 0)
sub new
{
    my ($class, %opt) = @_;
    my $self = bless { data => {} }, $class;
    my $node = PostgreSQL::Test::Cluster->new($opt{name} || 'infra');

    $self->{node} = $node;
    $node->init(extra => [ '--no-locale', '-E', 'UTF8', '-U', 'postgres' ]);
    $self->_small($node);
    # Statements are logged when they fail only: some carry a password.
    $node->append_conf('postgresql.conf', "log_statement = none\n");
    $node->append_conf('postgresql.conf', $opt{conf}) if $opt{conf};
    $node->start;
    $self->exec('CREATE DATABASE ' . DATABASE, db => 'postgres');
    unless (defined $opt{extension} && !$opt{extension})
    {
        $self->exec('CREATE EXTENSION kessel_router CASCADE');
        # Who an app connects as: may work for the tenants it is a member of.
        $self->exec('CREATE ROLE app LOGIN; GRANT kessel_user TO app;'
              . 'CREATE ROLE admin LOGIN; GRANT kessel_admin TO admin;'
              . 'CREATE ROLE service LOGIN; GRANT kessel_service TO service;'
              . 'CREATE ROLE stranger LOGIN');
    }
    return $self;
}

sub node { return $_[0]->{node}; }

# A new root key in a file, as kessel.root_key_file wants it; returns its path.
sub root_key_file
{
    my ($path) = @_;
    open(my $random, '<:raw', '/dev/urandom') or croak "/dev/urandom: $!";
    read($random, my $key, 32) == 32 or croak '/dev/urandom gave too little';
    umask 0077;
    append_to_file($path, unpack('H*', $key) . "\n");
    return $path;
}

sub _small
{
    my ($self, $node) = @_;
    $node->append_conf('postgresql.conf',
        "listen_addresses = '127.0.0.1'\nshared_buffers = 32MB\nmax_connections = 60\n"
          . "autovacuum_naptime = 1h\nmax_prepared_transactions = 5\n");
    return;
}

#
# Data clusters
#

# data_cluster(NAME, tls => 'good' | 'expired', conf => "...") returns a hash:
# name, node, port, db, runtime and owner (role names), password and
# owner_password. Only SCRAM lets a TCP connection in; with tls only TLS.
# The owner owns the database; the runtime role owns nothing.
sub data_cluster
{
    my ($self, $name, %opt) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    my $d    = {
        name           => $name,
        node           => $node,
        port           => $node->port,
        db             => 'tenants',
        runtime        => "${name}_runtime",
        owner          => "${name}_owner",
        password       => PASSWORD_MARK . "-$name-runtime",
        owner_password => PASSWORD_MARK . "-$name-owner",
        tls            => $opt{tls},
    };

    $node->init(extra => [ '--no-locale', '-E', 'UTF8', '-U', 'postgres' ]);
    $self->_small($node);
    $node->append_conf('postgresql.conf', "log_statement = none\npassword_encryption = 'scram-sha-256'\n");
    if ($opt{tls})
    {
        my $dir = $self->certificate($name, $opt{tls});
        $node->append_conf('postgresql.conf',
            "ssl = on\nssl_cert_file = '$dir/server.crt'\nssl_key_file = '$dir/server.key'\n");
        $d->{ca} = "$dir/ca.crt";
    }
    $node->append_conf('postgresql.conf', $opt{conf}) if $opt{conf};
    my $host = $opt{tls} ? 'hostssl' : 'host';
    unlink $node->data_dir . '/pg_hba.conf';
    $node->append_conf('pg_hba.conf', "local all all trust\n$host all all 127.0.0.1/32 scram-sha-256\n");
    $node->start;
    psql_die($node, 'postgres',
        "CREATE ROLE $d->{owner} LOGIN PASSWORD '$d->{owner_password}';"
          . "CREATE ROLE $d->{runtime} LOGIN PASSWORD '$d->{password}';");
    psql_die($node, 'postgres', "CREATE DATABASE $d->{db} OWNER $d->{owner}");
    psql_die($node, $d->{db},
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO $d->{owner};"
          . "GRANT USAGE ON SCHEMA public TO $d->{runtime}");
    $self->{data}{$name} = $d;
    return $d;
}

# A throw-away CA and a server certificate for 127.0.0.1; returns their folder.
sub certificate
{
    my ($self, $name, $kind) = @_;
    my $dir = PostgreSQL::Test::Utils::tempdir("tls_$name");
    my @end = $kind eq 'expired' ? ('-enddate', '20200102000000Z') : ('-days', 30);

    append_to_file("$dir/ca.cnf", <<"CNF");
[ca]
default_ca = kr
[kr]
database = $dir/index.txt
serial = $dir/serial
new_certs_dir = $dir
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = DNS:localhost,IP:127.0.0.1
CNF
    append_to_file("$dir/index.txt", '');
    append_to_file("$dir/serial",    "01\n");
    foreach my $command (
        [ qw(req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=kr-test-ca), '-keyout', "$dir/ca.key", '-out', "$dir/ca.crt" ],
        [ qw(req -newkey rsa:2048 -nodes -subj /CN=localhost), '-keyout', "$dir/server.key", '-out', "$dir/server.csr" ],
        [ qw(ca -batch -notext -startdate 20200101000000Z), @end, '-config', "$dir/ca.cnf", '-extensions', 'server',
            '-cert', "$dir/ca.crt", '-keyfile', "$dir/ca.key", '-in', "$dir/server.csr", '-out', "$dir/server.crt" ])
    {
        my ($out, $err) = ('', '');
        IPC::Run::run([ 'openssl', @$command ], '<', \undef, '>', \$out, '2>', \$err) or croak "openssl @$command: $err";
    }
    chmod 0600, "$dir/server.key";
    return $dir;
}

# The uri of a data cluster for one of its roles: runtime (default) or owner.
sub url
{
    my ($self, $d, %opt) = @_;
    my ($user, $password) = $opt{owner} ? ($d->{owner}, $d->{owner_password}) : ($d->{runtime}, $d->{password});
    my $db    = $opt{db} || $d->{db};
    my $query = $d->{tls} ? "?sslmode=verify-full&sslrootcert=$d->{ca}" : '';
    return "postgresql://$user:$password\@127.0.0.1:$d->{port}/$db$query";
}

# Superuser SQL in a data cluster; dies on an error.
sub data_exec
{
    my ($self, $d, $sql, %opt) = @_;
    return psql_die($d->{node}, $opt{db} || $d->{db}, $sql);
}

# A data source for a data cluster, with both credentials.
# data_source(CLUSTER, isolation => ..., name => ..., db => ..., options => json)
sub data_source
{
    my ($self, $d, %opt) = @_;
    my $name      = $opt{name}      || $d->{name};
    my $isolation = $opt{isolation} || 'database';
    my $options   = $opt{options}   || '{}';
    my $url = $self->url($d, db => $opt{db});

    $self->exec("SELECT kessel.create_data_source('$name', '$url', isolation => '$isolation', options => '$options');"
          . "SELECT kessel.set_credential('$name', '$d->{owner}', '$d->{owner_password}', 'owner')");
    return $name;
}

#
# A little CRM: accounts and contacts. Every tenant has the ids 1..ROWS, and its
# label in every row, so that a row of another tenant is seen at once.
#

sub _crm_tables
{
    my ($schema, $tenant_column) = @_;
    my $column = $tenant_column ? 'tenant_id text NOT NULL,' : '';
    my $key    = $tenant_column ? 'tenant_id, ' : '';
    return <<"SQL";
CREATE TABLE $schema.accounts (
    id integer NOT NULL, $column
    name text NOT NULL, city text, balance numeric(12,2) NOT NULL DEFAULT 0,
    active boolean NOT NULL DEFAULT true, opened date NOT NULL DEFAULT '2026-01-01',
    PRIMARY KEY (${key}id)
);
CREATE TABLE $schema.contacts (
    id integer NOT NULL, $column
    account_id integer NOT NULL, email text NOT NULL,
    PRIMARY KEY (${key}id),
    FOREIGN KEY (${key}account_id) REFERENCES $schema.accounts (${key}id)
);
SQL
}

sub _crm_rows
{
    my ($schema, $label, $rows, $tenant_id) = @_;
    my ($column, $value) = defined $tenant_id ? ('tenant_id, ', "'$tenant_id', ") : ('', '');
    return <<"SQL";
INSERT INTO $schema.accounts (${column}id, name, city, balance)
SELECT ${value}i, '$label account ' || i, (ARRAY['Bern', 'Oslo', 'Porto'])[1 + i % 3], i * 10 FROM generate_series(1, $rows) i;
INSERT INTO $schema.contacts (${column}id, account_id, email)
SELECT ${value}i, i, '$label' || i || '\@example.com' FROM generate_series(1, $rows) i;
SQL
}

sub _crm_grants
{
    my ($d, $schema, $more) = @_;
    $more = ', TRUNCATE' unless defined $more;
    return "GRANT USAGE ON SCHEMA $schema TO $d->{runtime};"
      . "GRANT SELECT, INSERT, UPDATE, DELETE$more ON ALL TABLES IN SCHEMA $schema TO $d->{runtime};";
}

# The whole database is one tenant's.
sub crm_database
{
    my ($self, $d, $label, %opt) = @_;
    my $rows = $opt{rows} || 5;
    $self->data_exec($d,
        "SET ROLE $d->{owner};" . _crm_tables('public') . _crm_rows('public', $label, $rows) . _crm_grants($d, 'public'),
        db => $opt{db});
    return;
}

# A schema for one tenant, named after its label.
sub crm_schema
{
    my ($self, $d, $label, %opt) = @_;
    my $schema = $opt{schema} || $label;
    my $rows   = $opt{rows}   || 5;
    $self->data_exec($d,
        "GRANT CREATE ON DATABASE $d->{db} TO $d->{owner}; SET ROLE $d->{owner}; CREATE SCHEMA $schema;"
          . _crm_tables($schema) . _crm_rows($schema, $label, $rows) . _crm_grants($d, $schema));
    return;
}

# Shared tables for several tenants, by the tenant id of each row; the data
# source must exist, for the agent goes in first.
sub crm_row
{
    my ($self, $d, $tenants, %opt) = @_;
    my $rows = $opt{rows} || 5;
    my $source = $opt{source} || $d->{name};
    $self->exec("SELECT kessel.install_agent('$source')");
    $self->data_exec($d,
        "SET ROLE $d->{owner};" . _crm_tables('public', 1)
          . "SELECT kessel_agent.protect('public.accounts'), kessel_agent.protect('public.contacts');"
          . _crm_grants($d, 'public', ''));
    $self->data_exec($d, _crm_rows('public', $_, $rows, $_)) foreach @$tenants;
    return;
}

# A further database in a data cluster, of the same owner.
sub data_database
{
    my ($self, $d, $db) = @_;
    psql_die($d->{node}, 'postgres', "CREATE DATABASE $db OWNER $d->{owner}");
    $self->data_exec($d,
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO $d->{owner};"
          . "GRANT USAGE ON SCHEMA public TO $d->{runtime}", db => $db);
    return;
}

# Six tenants, two of each isolation, on three clusters: row-a and row-b on
# shared; schema-a and schema-b on schemas; solo-a and solo-b on solo, each with
# a database. $k->{user}{a} is a member of those that end in a, {b} of the
# others. Router tables are in schema data, kessel_user may read and write them.
sub fleet
{
    my ($self) = @_;
    my $shared  = $self->{shared}  = $self->data_cluster('shared');
    my $schemas = $self->{schemas} = $self->data_cluster('schemas');
    my $solo    = $self->{solo}    = $self->data_cluster('solo');
    my %source = map { ("row-$_" => 'shared', "schema-$_" => 'schemas', "solo-$_" => "solo_$_") } qw(a b);
    my %id = map { ("row-$_" => "row-$_", "schema-$_" => "schema_$_", "solo-$_" => "solo-$_") } qw(a b);

    $self->data_source($shared, isolation => 'row');
    $self->crm_row($shared, [qw(row-a row-b)]);
    $self->data_source($schemas, isolation => 'schema');
    $self->crm_schema($schemas, "schema-$_", schema => "schema_$_") foreach qw(a b);
    $self->data_database($solo, 'tenants_b');
    $self->crm_database($solo, 'solo-a');
    $self->crm_database($solo, 'solo-b', db => 'tenants_b');
    $self->data_source($solo, name => 'solo_a');
    $self->data_source($solo, name => 'solo_b', db => 'tenants_b');
    $self->{user} = { a => 'aaaaaaaa-0000-4000-8000-00000000000a', b => 'bbbbbbbb-0000-4000-8000-00000000000b' };
    foreach my $tenant ($self->tenants)
    {
        my $user = $self->{user}{ substr($tenant, -1) };
        $self->exec("SELECT kessel.create_tenant('$tenant', data_source => '$source{$tenant}', tenant_id_in_data_source => '$id{$tenant}');"
              . "SELECT kessel.add_member('$tenant', '$user')");
    }
    $self->exec("SELECT kessel.import_tables('shared', 'public');"
          . 'GRANT USAGE ON SCHEMA data TO kessel_user, kessel_service;'
          . 'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA data TO kessel_user, kessel_service');
    return;
}

sub tenants { return qw(row-a row-b schema-a schema-b solo-a solo-b); }

# SQL as the member of a tenant, whose session has the tenant set.
sub as_member
{
    my ($self, $tenant, $sql, %opt) = @_;
    return $self->run($sql, user => 'app', tenant => $tenant, sub => $self->{user}{ substr($tenant, -1) }, %opt);
}

sub member_session
{
    my ($self, $tenant, %opt) = @_;
    return $self->session(user => 'app', tenant => $tenant, sub => $self->{user}{ substr($tenant, -1) }, %opt);
}

# Superuser SQL where a tenant's rows are, with its schema first in the path.
sub at_home
{
    my ($self, $tenant, $sql) = @_;
    my ($kind, $letter) = split /-/, $tenant;
    return $self->data_exec($self->{shared}, $sql) if $kind eq 'row';
    return $self->data_exec($self->{schemas}, "SET search_path = schema_$letter;" . $sql) if $kind eq 'schema';
    return $self->data_exec($self->{solo}, $sql, db => $letter eq 'a' ? 'tenants' : 'tenants_b');
}

#
# SQL in the infra database
#

# Superuser SQL; dies on an error. Returns what psql printed.
sub exec
{
    my ($self, $sql, %opt) = @_;
    return psql_die($self->{node}, $opt{db} || DATABASE, $sql);
}

sub psql_die
{
    my ($node, $db, $sql) = @_;
    my $r = _psql([ _psql_command($node, db => $db, user => 'postgres') ], $sql);
    croak "error $r->{state} in $db of " . $node->name . ": $r->{err}\nin: $sql" if $r->{state} ne '';
    return $r->{out};
}

# run(SQL, user => 'postgres', tenant =>, sub =>, claims => json, db =>, url =>)
# The settings are made for the session. Returns a hash: out, err, state (five
# characters, '' without an error), message, detail, hint.
sub run
{
    my ($self, $sql, %opt) = @_;
    return _psql([ _psql_command($self->{node}, db => DATABASE, %opt) ], _settings(%opt) . $sql);
}

sub session
{
    my ($self, %opt) = @_;
    return KesselTest::Session->new([ _psql_command($self->{node}, db => DATABASE, %opt) ], _settings(%opt));
}

sub _settings
{
    my (%opt) = @_;
    my $sql = '';
    my $claims = $opt{claims};
    $claims = "{\"sub\": \"$opt{sub}\"}" if defined $opt{sub};
    $sql .= "SELECT set_config('request.jwt.claims', '$claims', false) \\g /dev/null\n" if defined $claims;
    $sql .= "SET kessel.tenant = '$opt{tenant}';\n" if defined $opt{tenant};
    return $sql;
}

sub _psql_command
{
    my ($node, %opt) = @_;
    my $conninfo = $opt{url} || sprintf("host='%s' port=%d dbname='%s' user='%s'", $node->host, $node->port, $opt{db}, $opt{user} || 'postgres');
    return ('psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-v', 'ON_ERROR_STOP=1', '-P', 'pager=off', '-d', $conninfo);
}

sub _psql
{
    my ($command, $sql) = @_;
    my ($out, $err) = ('', '');
    IPC::Run::run($command, '<', \$sql, '>', \$out, '2>', \$err, IPC::Run::timeout(PATIENCE));
    chomp $out;
    return _result($out, $err);
}

sub _result
{
    my ($out, $err) = @_;
    my %r = (out => $out, err => $err, state => '', message => '', detail => '', hint => '');
    # Those of the first error; notices come along in err.
    if ($err =~ /^(?:psql:[^\n]*?: )?(?:ERROR|FATAL|PANIC): +([0-9A-Z]{5}): (.*)$/m)
    {
        @r{qw(state message)} = ($1, $2);
        my $rest = substr($err, $+[0]);
        $r{detail} = $1 if $rest =~ /^DETAIL: +(.*)$/m;
        $r{hint}   = $1 if $rest =~ /^HINT: +(.*)$/m;
    }
    elsif ($err =~ /(?:error|FATAL): (.*)/)
    {
        # The connection was refused or lost: psql has no SQLSTATE for us.
        @r{qw(state message)} = ('08000', $1);
    }
    return \%r;
}

#
# Assertions
#

# like_error(RESULT, STATE, qr/message/, NAME): that error, and with a hint
# where one is asked for: like_error(..., hint => qr/.../).
sub like_error
{
    my ($r, $state, $pattern, $name, %opt) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = $r->{state} eq $state && $r->{message} =~ $pattern;
    $ok &&= $r->{hint} =~ $opt{hint} if $opt{hint};
    ok($ok, $name) or diag("expected $state $pattern" . ($opt{hint} ? " hint $opt{hint}" : '') . "\n got: state \"$r->{state}\" out \"$r->{out}\"\n$r->{err}");
    return $ok;
}

# ok_run(RESULT, OUTPUT, NAME): no error and just this output.
sub ok_run
{
    my ($r, $out, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = $r->{state} eq '' && $r->{out} eq $out;
    ok($ok, $name) or diag("expected: \"$out\"\n     got: \"$r->{out}\"\n$r->{err}");
    return $ok;
}

# A psql that stays open. run(SQL) waits for its end and returns as run() above;
# an error does not end the session. start(SQL) does not wait, finish() does.
package KesselTest::Session;

use strict;
use warnings;

use Carp;
use IPC::Run ();

sub new
{
    my ($class, $command, $settings) = @_;
    my $self = bless { in => '', out => '', err => '', n => 0 }, $class;
    my @command = map { $_ eq 'ON_ERROR_STOP=1' ? 'ON_ERROR_STOP=0' : $_ } @$command;

    $self->{timer} = IPC::Run::timeout(KesselTest::PATIENCE());
    $self->{run} = IPC::Run::start(\@command, '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, $self->{timer});
    my $r = $self->run($settings . 'SELECT pg_backend_pid();');
    croak "no session: $r->{err}" if $r->{state} ne '';
    $self->{pid} = $r->{out};
    return $self;
}

sub pid { return $_[0]->{pid}; }

sub start
{
    my ($self, $sql) = @_;
    $self->{n}++;
    $self->{in} .= "$sql\n;\n\\echo kr-end-$self->{n}\n\\warn kr-end-$self->{n}\n";
    $self->{timer}->start(KesselTest::PATIENCE());
    eval { $self->{run}->pump_nb };
    return;
}

sub finish
{
    my ($self) = @_;
    my $end = "kr-end-$self->{n}\n";

    # A server that crashes ends psql, too.
    eval {
        $self->{run}->pump until $self->{out} =~ /$end/ && $self->{err} =~ /$end/;
        1;
    } or do { die $@ if $@ =~ /timeout/; };
    my ($out, $err) = @{$self}{qw(out err)};
    $err .= "psql: error: it has ended\n" if $out !~ /$end/;
    s/^\Q$end\E//m foreach $out, $err;
    @{$self}{qw(out err)} = ('', '');
    chomp $out;
    return KesselTest::_result($out, $err);
}

sub run
{
    my ($self, $sql) = @_;
    $self->start($sql);
    return $self->finish;
}

sub quit
{
    my ($self) = @_;
    $self->{in} .= "\\q\n";
    eval { $self->{run}->finish };
    return;
}

1;

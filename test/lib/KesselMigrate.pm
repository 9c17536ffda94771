# KesselMigrate: a fleet of fifty places for the tests of migrations, all on one
# data cluster: 40 databases of a tenant each (t01 .. t40), 9 schemas of one
# database (s1 .. s9), and one database that two tenants share (r1, r2).
#
#   my $m = KesselMigrate->new($k);
#   $m->blueprint('crm');                  0001 .. 0003, up and down
#   $m->sql('t07', 'SELECT ...');          superuser SQL in a tenant's place
#   $m->versions('crm');                   '2 x 50': what the places' own records say
package KesselMigrate;

use strict;
use warnings;

use KesselTest;

sub new
{
    my ($class, $k, %opt) = @_;
    my $d    = $k->data_cluster('many', conf => "max_connections = 150\n" . ($opt{conf} || ''));
    my $self = bless { k => $k, d => $d }, $class;

    $self->{databases} = [ map { sprintf 't%02d', $_ } 1 .. 40 ];
    $self->database($_) foreach @{ $self->{databases} }, 'schemas', 'shared';
    $k->exec("SELECT kessel.create_tenant('$_', data_source => '$_')") foreach @{ $self->{databases} };

    $self->schema("s$_") foreach 1 .. 9;
    $k->exec("SELECT kessel.alter_data_source('schemas', isolation => 'schema'); SELECT kessel.alter_data_source('shared', isolation => 'row')");
    $k->exec("SELECT kessel.create_tenant('s$_', data_source => 'schemas')") foreach 1 .. 9;
    $k->exec("SELECT kessel.install_agent('shared'); SELECT kessel.create_tenant('r1', data_source => 'shared'); SELECT kessel.create_tenant('r2', data_source => 'shared')");
    return $self;
}

# A database, and a data source of the same name.
sub database
{
    my ($self, $name) = @_;
    $self->{k}->data_database($self->{d}, $name);
    $self->{k}->data_exec($self->{d}, "GRANT CREATE ON DATABASE $name TO $self->{d}{owner}", db => $name);
    $self->{k}->data_source($self->{d}, name => $name, db => $name);
    return;
}

# A schema for a tenant of this name in the database schemas.
sub schema
{
    my ($self, $tenant) = @_;
    $self->{k}->data_exec($self->{d}, "CREATE SCHEMA t_$tenant AUTHORIZATION $self->{d}{owner}; GRANT USAGE ON SCHEMA t_$tenant TO $self->{d}{runtime}", db => 'schemas');
    return;
}

# The database of a tenant's place, and its schema.
sub place
{
    my ($self, $tenant) = @_;
    return $tenant =~ /^s\d/ ? ('schemas', "t_$tenant") : $tenant =~ /^r\d/ ? ('shared', 'public') : ($tenant, 'public');
}

sub sql
{
    my ($self, $tenant, $sql) = @_;
    my ($db, $schema) = $self->place($tenant);
    return $self->{k}->data_exec($self->{d}, "SET search_path = $schema; $sql", db => $db);
}

# A session in a tenant's place, that holds what it is told to.
sub holder
{
    my ($self, $tenant, $sql) = @_;
    my ($db, $schema) = $self->place($tenant);
    my $node = $self->{d}{node};
    my $s = $self->{k}->session(url => sprintf("host='%s' port=%d dbname='%s' user=postgres", $node->host, $node->port, $db));
    $s->run("SET search_path = $schema; BEGIN; $sql");
    return $s;
}

sub blueprint
{
    my ($self, $name) = @_;
    $self->{k}->exec(<<"SQL");
SELECT kessel.add_blueprint('$name');
SELECT kessel.add_migration('$name', '0001_accounts', \$kr\$
    CREATE TABLE "@{[ '@tenant' ]}".accounts (id integer, tenant_id text NOT NULL DEFAULT '', name text, PRIMARY KEY (tenant_id, id));
    GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO "@{[ '@runtime' ]}";
    DO \$do\$
    BEGIN
        IF to_regprocedure('kessel_agent.protect(regclass, name)') IS NOT NULL THEN
            PERFORM kessel_agent.protect('accounts');
        END IF;
    END
    \$do\$;
\$kr\$, 'DROP TABLE accounts');
SELECT kessel.add_migration('$name', '0002_city', 'ALTER TABLE accounts ADD COLUMN city text', 'ALTER TABLE accounts DROP COLUMN city');
SELECT kessel.add_migration('$name', '0003_index', 'CREATE INDEX CONCURRENTLY accounts_city ON accounts (city)', 'DROP INDEX CONCURRENTLY IF EXISTS accounts_city', false);
SQL
    return;
}

# "VERSION x PLACES, ..." by the places' own records.
sub versions
{
    my ($self, $blueprint) = @_;
    my %count;
    my @all = (@{ $self->{databases} }, 'schemas', 'shared');
    # One psql, that goes from one to the next.
    my $record = $self->{k}->data_exec($self->{d}, join '', map { <<"SQL" } @all);
\\c $_
\\echo $_
SELECT to_regclass('kessel_agent.migrations') IS NOT NULL AS there \\gset
\\if :there
SELECT schema_name, max(version), bool_and(state = 'applied') FROM kessel_agent.migrations WHERE blueprint = '$blueprint' GROUP BY 1;
\\endif
SQL
    $count{ /\|(\d+)\|t$/ ? $1 : 'cut off' }++ foreach grep { /\|/ } split /\n/, $record;
    my $places = @{ $self->{databases} } + 1 + grep { /^t_s/ } split /\n/, $self->{k}->data_exec($self->{d}, 'SELECT nspname FROM pg_namespace', db => 'schemas');
    $places -= $_ foreach values %count;
    $count{0} = $places if $places > 0;
    return join ', ', map { "$_ x $count{$_}" } sort keys %count;
}

1;

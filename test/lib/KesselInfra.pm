# KesselInfra: an infra database with many users and tenants, for the test of
# plans and for the bench.
package KesselInfra;

use strict;
use warnings;

use Exporter 'import';
use List::Util 'min';

our @EXPORT = qw(many_users user_number);

# The uuid of a user: spread over all uuids, as random ones are.
sub user_number { my ($n) = @_; return sprintf "(md5('user %d')::uuid)", $n }

# many_users(KESSEL, DATABASE, USERS, TENANTS): a new database, set up, with users
# and profiles, each an active member of one tenant and every tenth of another two.
# Triggers and foreign keys would do it row by row; what they keep in step is
# written as they would. Those that tell the caches fire in this mode, too; they are
# off while a transaction has the table for itself: nobody has looked at it yet.
sub many_users
{
    my ($k, $db, $users, $tenants) = @_;
    my $tenant = sub { my ($i) = @_; return "('00000000-0000-4000-8000-' || lpad((($i) % $tenants)::text, 12, '0'))::uuid" };

    $k->exec("CREATE DATABASE $db", db => 'postgres');
    $k->exec("CREATE EXTENSION kessel_router CASCADE; SELECT kessel.setup('{core}')", db => $db);
    # In parts, each of which a slow machine does within a statement's time.
    my $load = sub {
        my ($target, $count, $sql) = @_;
        my ($table) = $target =~ /^(\S+)/;
        my $watched = $table =~ /^app/;
        for (my $from = 0; $from < $count; $from += 250_000)
        {
            my $to = min($from + 250_000, $count) - 1;
            $k->exec("BEGIN; SET LOCAL session_replication_role = replica;"
                  . ($watched ? "ALTER TABLE $table DISABLE TRIGGER changed;" : '')
                  . "INSERT INTO $target " . $sql->("generate_series($from, $to) i") . ';'
                  . ($watched ? "ALTER TABLE $table ENABLE ALWAYS TRIGGER changed;" : '')
                  . 'COMMIT', db => $db);
        }
        $k->exec("VACUUM ANALYZE $table", db => $db);
    };
    $k->exec("INSERT INTO app.data_sources (name, isolation, conninfo) VALUES ('many', 'row', '{}')", db => $db);
    $load->('app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)', $tenants,
        sub { "SELECT @{[ $tenant->('i') ]}, 'many-' || i, 'Many ' || i, s.id, 'row', 'many_' || i FROM $_[0], app.data_sources s" });
    $load->('auth.users (id, email)', $users, sub { "SELECT md5('user ' || i)::uuid, 'user' || i || '\@example.com' FROM $_[0]" });
    $load->('public.profiles (id, email, tenant_id)', $users, sub { "SELECT md5('user ' || i)::uuid, 'user' || i || '\@example.com', @{[ $tenant->('i') ]} FROM $_[0]" });
    $load->('app.user_tenants (user_id, tenant_id, created_at)', $users,
        sub { "SELECT md5('user ' || i)::uuid, @{[ $tenant->('i + n') ]}, now() + n * interval '1 s' FROM $_[0], generate_series(0, 2) n WHERE n = 0 OR i % 10 = 0" });
    return;
}

1;

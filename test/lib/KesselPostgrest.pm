# KesselPostgrest: requests as PostgREST sends them to the database. What it does,
# seen on the wire:
#
# - BEGIN with the isolation level; READ ONLY for GET and HEAD, also of functions,
#   and for POST of a function that is not VOLATILE; else READ WRITE.
# - One SELECT of set_config()s, local: search_path, the role's own settings, role,
#   claims, method, path, headers, cookies, time zone, the app's settings.
# - SELECT of the function that is set to run before each request, if one is.
# - The statement itself, in a WITH pgrst_source.
# - COMMIT, or ABORT after an error or for Prefer: tx=rollback.
#
# Each of them, BEGIN and COMMIT as well, is prepared once for a connection, by its
# text and the types of its parameters, and then executed by name; or, with
# db-prepared-statements = false (behind a pooler), parsed anew without a name.
# Parameters are of type unknown in text, bodies of type json in binary, and results
# are binary.
#
#   my $p = KesselPostgrest->new(KesselClient->new(...), prepared => 1, before => '"public"."f"');
#   my $r = $p->request('GET', 'authenticated', $claims, $p->get('profiles', 'email'), schema => 'data');
#
# Returns state ('' without an error), message, detail, hint; body (text), total, page,
# headers, status.
# Statements are made by get, embed, post, patch, remove, rpc, rpc_get.
package KesselPostgrest;

use strict;
use warnings;

use JSON::PP;

use constant { UNKNOWN => 705, JSON => 114, INT8 => 20 };

sub new
{
    my ($class, $client, %opt) = @_;
    my $self = bless { client => $client, names => {}, tried => 0, prepared => 1, settings => {}, app => {}, %opt }, $class;
    $client->query("SET client_encoding = 'UTF8';SET client_min_messages TO WARNING;");
    return $self;
}

sub client { return $_[0]->{client} }

# statement(SQL with ? for parameters, each a text or { json => text })
sub statement
{
    my ($self, $sql, @params) = @_;
    my $n = 0;
    $sql =~ s/\?/'$' . ++$n/ge;
    my @types = map { ref ? JSON : UNKNOWN } @params;
    my @values = map { ref ? [ $_->{json}, 1 ] : [ $_, 0 ] } @params;
    return $self->{client}->once($sql, \@types, \@values, 1) unless $self->{prepared};

    my $key = "@types $sql";
    if (!defined $self->{names}{$key})
    {
        # PgBouncer takes the name of one that failed for taken.
        my $name = $self->{tried}++;
        my $r = $self->{client}->parse($name, $sql, @types);
        return $r if $r->{state};
        $self->{names}{$key} = $name;
    }
    return $self->{client}->execute($self->{names}{$key}, \@values, 1);
}

# Where the main statement is: its name.
sub name_of { my ($self, $sql) = @_; my ($name) = grep { defined } map { $self->{names}{$_} } grep { index($_, $sql) >= 0 } sort keys %{ $self->{names} }; return $name }

sub _settings
{
    my ($self, $method, $role, $claims, %opt) = @_;
    my $schema = $opt{schema} || 'public';
    my @set = ("'search_path'" => "\"$schema\", \"public\"");
    my $local = $self->{settings}{$role} || {};
    my @named = map { ('?' => [ $_, $local->{$_} ]) } sort keys %$local;
    push @set, @named, "'role'" => $role, "'request.jwt.claims'" => encode_json({ %$claims, role => $role }),
      "'request.method'" => $method, "'request.path'" => $opt{path} || '/',
      "'request.headers'" => encode_json({ 'user-agent' => 'test', %{ $opt{headers} || {} } }), "'request.cookies'" => encode_json($opt{cookies} || {});
    push @set, "'timezone'" => $opt{timezone} if $opt{timezone};
    push @set, map { ('?' => [ $_, $self->{app}{$_} ]) } sort keys %{ $self->{app} };
    my (@sql, @params);
    while (my ($name, $value) = splice(@set, 0, 2))
    {
        push @sql, "set_config($name, ?, true)";
        push @params, ref $value ? @$value : $value;
    }
    return ('select ' . join(', ', @sql), @params);
}

# request(METHOD, ROLE, CLAIMS, [SQL, PARAMETERS], schema =>, headers =>, stable => 1, rollback => 1, level =>)
sub request
{
    my ($self, $method, $role, $claims, $statement, %opt) = @_;
    my $mode = $method =~ /^(?:GET|HEAD)$/ || $opt{stable} ? 'READ ONLY' : 'READ WRITE';
    my $level = $opt{level} || 'READ COMMITTED';
    my $r = $self->statement("BEGIN ISOLATION LEVEL $level $mode");
    $r = $self->statement($self->_settings($method, $role, $claims, %opt)) if $r->{state} eq '';
    $r = $self->statement("select $self->{before}()") if $r->{state} eq '' && $self->{before};
    $r = $self->statement(@$statement) if $r->{state} eq '';
    my $set = $r->{state} eq '' && $opt{rollback} ? $self->{client}->query('SET CONSTRAINTS ALL IMMEDIATE') : $r;
    my $end = $self->statement($set->{state} eq '' && !$opt{rollback} ? 'COMMIT' : 'ABORT');
    return $set if $set->{state};
    return $end if $end->{state};
    my @value = map { defined $r->{rows}[0][$_] && ($r->{types}[$_] // 0) == INT8 ? unpack('q>', $r->{rows}[0][$_]) : $r->{rows}[0][$_] } 0 .. $#{ $r->{rows}[0] // [] };
    return { state => '', message => '', total => $value[0], page => $value[1], body => $value[-4], headers => $value[-3], status => $value[-2], rows => $r->{rows} };
}

#
# Statements
#

my $told = q{nullif(current_setting('response.headers', true), '') AS response_headers, nullif(current_setting('response.status', true), '') AS response_status};
my $array = q{coalesce(json_agg(_postgrest_t), '[]')};

sub _columns { my ($table, $columns) = @_; return join(', ', map { $_ eq '*' ? "$table.*" : "$table.\"$_\"" } split / /, $columns) }

sub _where { my ($table, @filters) = @_; return @filters ? ' WHERE ' . join(' AND ', map { " $table.\"$_->[0]\" $_->[1] " . ($_->[1] =~ /ANY/ ? '(?)' : '?') } @filters) : '' }

# get('data.accounts', 'id name', where => [['id', '=', 1]], order => 'id', limit => 5, count => 1, empty => 1 (HEAD), embed => [SELECTED, JOINED])
# count: 'planned' asks for the plan of the counting query instead.
sub get
{
    my ($self, $table, $columns, %opt) = @_;
    my ($schema, $name) = $table =~ /^(?:(.*)\.)?(.*)$/;
    $table = '"' . ($schema || 'public') . "\".\"$name\"";
    my @filters = @{ $opt{where} || [] };
    my @values = map { $_->[2] } @filters;
    my $where = _where($table, @filters);
    my $count = "SELECT 1  FROM $table$where";
    return [ "EXPLAIN (FORMAT JSON) $count", @values ] if ($opt{count} // '') eq 'planned';

    my ($selected, $joined) = @{ $opt{embed} || [ '', '' ] };
    my $sql = 'SELECT ' . _columns($table, $columns) . "$selected FROM $table $joined$where  " . ($opt{order} ? "ORDER BY $table.\"$opt{order}\" " : ' ');
    my @limit = $opt{limit} ? ($opt{limit}, 0) : ();
    $sql .= 'LIMIT ? OFFSET ?' if @limit;
    my ($with, $total) = !$opt{count} ? ('', 'null::bigint') : @limit ? (", pgrst_source_count AS ($count)", '(SELECT pg_catalog.count(*) FROM pgrst_source_count)') : ('', 'pg_catalog.count(_postgrest_t)');
    my $body = $opt{empty} ? q{''::text} : $array;
    return [ "WITH pgrst_source AS ( $sql ) $with SELECT $total AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, $body AS body, $told, '' AS response_inserted FROM ( SELECT * FROM pgrst_source ) _postgrest_t",
        @values, @limit, $with ? @values : () ];
}

# embed(KIND, FROM, COLUMNS, CONDITION, NAME): what get's embed takes. KIND: object or array.
sub embed
{
    my ($self, $kind, $from, $columns, $condition, $name) = @_;
    my ($alias) = $from =~ / AS "(\w+)"$/;
    my $select = 'SELECT ' . _columns("\"$alias\"", $columns) . " FROM $from" . ($condition ? " WHERE $condition" : '');
    return [ ", row_to_json(\"${name}_1\".*)::jsonb AS \"$name\"", " LEFT JOIN LATERAL ( $select ) AS \"${name}_1\" ON TRUE" ] if $kind eq 'object';
    return [ ", COALESCE( \"${name}_1\".\"${name}_1\", '[]') AS \"$name\"", " LEFT JOIN LATERAL ( SELECT json_agg(\"${name}_1\")::jsonb AS \"${name}_1\" FROM ($select ) AS \"${name}_1\" ) AS \"${name}_1\" ON TRUE" ];
}

# A body and its columns with their types: 'id integer, name text'.
sub _body
{
    my ($json, $types) = @_;
    my @names = map { /^ *(\w+)/ } split /, */, $types;
    my $typed = join(', ', map { /^ *(\w+) (.*)/ ? "\"$1\" $2" : () } split /, */, $types);
    my $record = $json =~ /^\s*\{/ ? 'json_to_record' : 'json_to_recordset';
    my $names = join(', ', map { "\"$_\"" } @names);
    return ("FROM (SELECT ? AS json_data) pgrst_payload, LATERAL (SELECT $names FROM $record(pgrst_payload.json_data) AS _($typed) ) pgrst_body ", \@names);
}

sub _written
{
    my ($self, $sql, $columns, %opt) = @_;
    my $inserted = $opt{merge} ? q{nullif(current_setting('pgrst.inserted', true),'')::int} : q{''};
    my $names = join(', ', map { $_ eq '*' ? 'pgrst_source.*' : "pgrst_source.\"$_\"" } split / /, $columns);
    my ($body, $from) = $columns eq '' ? (q{''::text}, 'SELECT * FROM pgrst_source') : ($array, "SELECT $names FROM pgrst_source");
    return "WITH pgrst_source AS ($sql) SELECT '' AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, array[]::text[] AS header, $body AS body, $told, $inserted AS response_inserted FROM ($from) _postgrest_t";
}

sub _table { my ($table) = @_; my ($schema, $name) = $table =~ /^(?:(.*)\.)?(.*)$/; return '"' . ($schema || 'public') . "\".\"$name\"" }

sub _returning { my ($table, $columns) = @_; return ' RETURNING ' . ($columns eq '' ? '1' : _columns($table, $columns)) }

# post(TABLE, JSON, TYPES, RETURNED COLUMNS, on => 'columns of the conflict', ignore => 1); with on and without ignore: merge-duplicates
sub post
{
    my ($self, $table, $json, $types, $returned, %opt) = @_;
    $table = _table($table);
    my ($from, $names) = _body($json, $types);
    my $merge = defined $opt{on} && !$opt{ignore};
    my $sql = "INSERT INTO $table(" . join(', ', map { "\"$_\"" } @$names) . ') SELECT ' . join(', ', map { "\"pgrst_body\".\"$_\"" } @$names) . " $from";
    my $count = sub { return "set_config('pgrst.inserted', (coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0) $_[0] 1)::text, true) <> '$_[1]'" };
    $sql .= 'WHERE ' . $count->('+', '0') if $merge;
    $sql .= ' ON CONFLICT(' . join(', ', map { "\"$_\"" } split / /, $opt{on}) . ') '
      . ($merge ? 'DO UPDATE SET ' . join(', ', map { "\"$_\" = EXCLUDED.\"$_\"" } @$names) . 'WHERE ' . $count->('-', '-1') : 'DO NOTHING') if defined $opt{on};
    return [ $self->_written($sql . _returning($table, $returned), $returned, merge => $merge), { json => $json } ];
}

sub patch
{
    my ($self, $table, $json, $types, $returned, @filters) = @_;
    $table = _table($table);
    my ($from, $names) = _body($json, $types);
    my $sql = "UPDATE $table SET " . join(', ', map { "\"$_\" = \"pgrst_body\".\"$_\"" } @$names) . " $from" . _where($table, @filters) . _returning($table, $returned);
    return [ $self->_written($sql, $returned), { json => $json }, map { $_->[2] } @filters ];
}

sub remove
{
    my ($self, $table, $returned, @filters) = @_;
    $table = _table($table);
    return [ $self->_written("DELETE FROM $table " . _where($table, @filters) . _returning($table, $returned), $returned), map { $_->[2] } @filters ];
}

# KIND: scalar, void, or set (of rows).
sub _called
{
    my ($kind, $call) = @_;
    return "SELECT pgrst_call.pgrst_scalar $call" if $kind ne 'set';
    return "SELECT pgrst_call.* $call";
}

sub _answered
{
    my ($kind, $sql) = @_;
    my ($page, $body) = $kind eq 'void' ? ('1', q{''::text}) : $kind eq 'scalar' ? ('1', q{coalesce(json_agg(_postgrest_t.pgrst_scalar)->0, 'null')}) : ('pg_catalog.count(_postgrest_t)', $array);
    return "WITH pgrst_source AS ($sql) SELECT null::bigint AS total_result_set, $page AS page_total, $body AS body, $told, '' AS response_inserted FROM (SELECT \"pgrst_source\".* FROM \"pgrst_source\") _postgrest_t";
}

# rpc('public.f', KIND, JSON, TYPES): POST; with an array it is called for each element.
sub rpc
{
    my ($self, $function, $kind, $json, $types) = @_;
    $function = _table($function);
    my ($from, $names) = $types eq '' ? ('FROM ', []) : _body($json, $types);
    my $args = join(', ', map { "\"$_\" := pgrst_body.\"$_\"" } @$names);
    my $lateral = @$names ? ', LATERAL ' : '';
    my $call = $kind ne 'set' ? "(SELECT $function($args) pgrst_scalar) pgrst_call" : "$function($args) pgrst_call";
    return [ _answered($kind, _called($kind, "$from$lateral$call")), $types eq '' ? () : { json => $json } ];
}

# rpc_get('public.f', KIND, [name, type, value]...)
sub rpc_get
{
    my ($self, $function, $kind, @args) = @_;
    $function = _table($function);
    my $args = join(', ', map { "\"$_->[0]\" := ?::$_->[1]" } @args);
    my $call = $kind ne 'set' ? "(SELECT $function($args) pgrst_scalar) pgrst_call" : "$function($args) pgrst_call";
    return [ _answered($kind, _called($kind, "FROM $call")), map { $_->[2] } @args ];
}

1;

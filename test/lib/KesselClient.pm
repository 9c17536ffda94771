# KesselClient: a client that speaks the protocol itself, for what psql cannot
# do: parameters apart from the statement, prepared statements by name, and a
# backend whose memory holds nothing but what this client has sent.
#
#   my $c = KesselClient->new($node, 'infra', user => 'admin');   port => of PgBouncer
#   my $r = $c->query('SELECT 1');                  simple protocol
#   $r = $c->call('SELECT f($1)', 'parameter');     extended protocol, unnamed
#   $r = $c->call_prepared('SELECT f($1)', 'p');    a named statement, executed twice
#   $r = $c->parse('s1', 'SELECT f($1)', 25);       a named statement, with types
#   $r = $c->execute('s1', [ [ 'p', 0 ] ], 1);      it, with formats: 0 text, 1 binary
#   $r = $c->once('SELECT f($1)', [25], [ [ 'p', 0 ] ], 1);   the same, unnamed
#   $r = $c->call_number($oid, 'p')                 fast path, without a statement
#   $c->start(query => 'SELECT 1'); $c->finish      or start(call => ...), without waiting
#   $r->{state}, $r->{message}, $r->{rows}          '' without an error; rows of text
#   $r->{types}                                     of execute and once: oids of the columns
#   $c->pid, $c->quit
package KesselClient;

use strict;
use warnings;

use Carp;
use IO::Socket::INET;
use IO::Socket::UNIX;

sub new
{
    my ($class, $node, $db, %opt) = @_;
    my $socket = $opt{port} ? IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $opt{port})
      : IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port);
    croak "cannot connect: $!" unless $socket;
    my $self = bless { socket => $socket, named => 0, read => '' }, $class;
    my $user = $opt{user} || 'postgres';
    my $body = pack('N', 196608) . join('', map { "$_\0" } 'user', $user, 'database', $db, '') ;

    print $socket pack('N', 4 + length $body), $body;
    $socket->flush;
    my $r = $self->_answer;
    croak "refused: $r->{message}" if $r->{state};
    return $self;
}

sub pid { return $_[0]->{pid} }

# In one write: a packet for each message would wait for the other side's answer.
sub _send
{
    my ($self, @messages) = @_;
    my $data = '';
    while (my ($type, $body) = splice(@messages, 0, 2)) { $data .= $type . pack('N', 4 + length $body) . $body }
    $self->{socket}->print($data);
    return;
}

sub _read
{
    my ($self, $n) = @_;
    while (length $self->{read} < $n)
    {
        my $got = sysread($self->{socket}, $self->{read}, 65536, length $self->{read});
        return undef unless $got;
    }
    return substr($self->{read}, 0, $n, '');
}

# Everything up to ReadyForQuery, or the end of the connection.
sub _answer
{
    my ($self) = @_;
    my %r = (state => '', message => '', detail => '', rows => []);

    for (;;)
    {
        my $header = $self->_read(5);
        if (!defined $header) { $r{state} ||= '08006'; return \%r }
        my ($type, $length) = unpack('a N', $header);
        my $body = $length > 4 ? $self->_read($length - 4) : '';
        last if $type eq 'Z';
        $self->{pid} = unpack('N', $body) if $type eq 'K';
        if ($type eq 'E')
        {
            my %field = map { /^(.)(.*)$/s ? ($1 => $2) : () } split /\0/, $body;
            @r{qw(state message detail)} = ($field{C}, $field{M}, $field{D} // '');
        }
        $r{types} = _types($body) if $type eq 'T';
        if ($type eq 'D')
        {
            my ($count, @row) = (unpack('n', $body));
            my $at = 2;
            foreach (1 .. $count)
            {
                my $n = unpack('N', substr($body, $at, 4));
                $at += 4;
                if ($n == 0xffffffff) { push @row, undef; next }
                push @row, substr($body, $at, $n);
                $at += $n;
            }
            push @{ $r{rows} }, \@row;
        }
    }
    return \%r;
}

sub _types
{
    my ($body) = @_;
    my ($count, @types) = unpack('n', $body);
    my $at = 2;
    foreach (1 .. $count)
    {
        $at = index($body, "\0", $at) + 1;
        push @types, unpack('N', substr($body, $at + 6, 4));
        $at += 18;
    }
    return \@types;
}

sub start
{
    my ($self, $how, $sql, @params) = @_;
    return $self->_send('Q', "$sql\0") if $how eq 'query';
    return $self->_send('P', "\0$sql\0" . pack('n', 0), _bind('', @params), 'S', '');
}

sub finish { return $_[0]->_answer }

sub query
{
    my ($self, $sql) = @_;
    $self->start(query => $sql);
    return $self->_answer;
}

sub _bind
{
    my ($name, @params) = @_;
    return ('B', "\0$name\0" . pack('n n', 0, scalar @params)
          . join('', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @params) . pack('n', 0),
        'E', "\0" . pack('N', 0));
}

sub call
{
    my ($self, $sql, @params) = @_;
    $self->start(call => $sql, @params);
    return $self->_answer;
}

sub call_prepared
{
    my ($self, $sql, @params) = @_;
    my $name = 's' . $self->{named}++;
    $self->_send('P', "$name\0$sql\0" . pack('n', 0), 'S', '');
    my $r = $self->_answer;
    return $r if $r->{state};
    foreach (1 .. 2)
    {
        $self->_send(_bind($name, @params), 'S', '');
        $r = $self->_answer;
    }
    return $r;
}

# As libpq: the portal is described, too.
sub _execute
{
    my ($name, $params, $format) = @_;
    return ('B', "\0$name\0" . pack('n*', scalar @$params, (map { $_->[1] } @$params), scalar @$params)
          . join('', map { defined $_->[0] ? pack('N', length $_->[0]) . $_->[0] : pack('N', 0xffffffff) } @$params) . pack('n n', 1, $format),
        'D', "P\0", 'E', "\0" . pack('N', 0), 'S', '');
}

sub parse
{
    my ($self, $name, $sql, @types) = @_;
    $self->_send('P', "$name\0$sql\0" . pack('n N*', scalar @types, @types), 'S', '');
    return $self->_answer;
}

sub execute
{
    my ($self, $name, $params, $format) = @_;
    $self->_send(_execute($name, $params, $format));
    return $self->_answer;
}

sub once
{
    my ($self, $sql, $types, $params, $format) = @_;
    $self->_send('P', "\0$sql\0" . pack('n N*', scalar @$types, @$types), _execute('', $params, $format));
    return $self->_answer;
}

sub call_number
{
    my ($self, $oid, @params) = @_;
    $self->_send('F', pack('N n n', $oid, 0, scalar @params)
          . join('', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @params) . pack('n', 0));
    return $self->_answer;
}

sub quit
{
    my ($self) = @_;
    $self->_send('X', '');
    close $self->{socket};
    return;
}

1;

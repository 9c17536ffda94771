# KesselProxy: a TCP proxy on 127.0.0.1 between a server and a data source, in a
# process of its own. It counts what passes, names it, delays it and breaks it.
#
#   my $p = KesselProxy->new($port_of_the_data_source);
#   $p->port                       where to connect instead
#   $p->delay(5)                   5 ms a round trip: half of it each way, without a limit of throughput
#   $p->reset; ...; $p->trips      round trips since the reset, of all connections that are not cancel requests
#   $p->connections                [{ id, kind, open, trips, unanswered, sent, received, answers => { D => 10, ... },
#                                     turns => [ [ 'P:SELECT 1', 'B:SELECT 1', 'D', 'E', 'S' ], ... ] }, ...]
#   $p->cut(1000, 'reset')         after 1,000 more bytes from the data source, each connection ends: reset, closed, or
#                                  'hang': nothing passes any more, as with a cable that was pulled
#   $p->on('COMMIT', 'lose')       when a message from the client has this text, in itself or in the statement that it
#                                  names. The next such message only. See ACTIONS.
#   $p->stall, $p->resume          nothing is forwarded meanwhile; the kernel's buffers fill up
#   $p->drop                       connections in which nothing passes any more are reset on both sides
#   $p->refuse(1)                  new connections are reset at once
#   $p->hits                       how often cut() and on() have struck
#
# A round trip is a turn of the client that got an answer: it speaks after the
# data source has spoken, or first, and the data source speaks after it. What
# the client sends without waiting, after the answer, is a turn, too, as long as
# "unanswered" when nothing has come back. Messages are parsed without TLS only;
# with parse => 0 not at all, which is for bulk.
#
# Needs what comes with Perl, nothing else.
package KesselProxy;

use strict;
use warnings;

use Carp;
use IO::Socket::INET;
use JSON::PP ();
use POSIX ();
use Socket qw(AF_UNIX IPPROTO_TCP PF_UNSPEC SOCK_STREAM SOL_SOCKET SO_LINGER TCP_NODELAY);
use Time::HiRes qw(time);

# What a message can start, see on():
#   lose    it does not reach the data source, and the connection is reset
#   deafen  it reaches the data source; when that has answered, the connection is reset without the answer
#   hang    it reaches the data source; nothing passes any more in either direction
#   hold    it waits in the proxy, with all that follows, for resume()
use constant ACTIONS => qw(lose deafen hang hold);
use constant CHUNK   => 65536;
# What may wait in one direction. Reading stops there, as a network's window does.
use constant WINDOW  => 16 * 1024 * 1024;
# Of a message's body, for its text.
use constant CAPTURE => 4096;

#
# The test's side
#

sub new
{
    my ($class, $target, %opt) = @_;
    my $listener = IO::Socket::INET->new(Listen => 100, LocalAddr => '127.0.0.1', ReuseAddr => 1) or croak "cannot listen: $!";
    my $self = bless { port => $listener->sockport }, $class;

    socketpair(my $here, my $there, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak "socketpair: $!";
    $self->{pid} = fork // croak "fork: $!";
    if (!$self->{pid})
    {
        close $here;
        eval { KesselProxy::Process::run($listener, $target, $there, defined $opt{parse} ? $opt{parse} : 1); 1 } or warn $@;
        POSIX::_exit(0);
    }
    close $there;
    $self->{control} = $here;
    $self->{control}->autoflush(1);
    return $self;
}

sub port { return $_[0]->{port} }

sub _ask
{
    my ($self, @words) = @_;
    my $control = $self->{control};
    print $control JSON::PP::encode_json(\@words), "\n";
    my $line = <$control>;
    croak 'the proxy is gone' unless defined $line;
    return JSON::PP::decode_json($line)->[0];
}

foreach my $command (qw(delay reset connections cut on stall resume drop refuse hits))
{
    no strict 'refs';
    *$command = sub { my ($self, @args) = @_; return $self->_ask($command, @args) };
}

sub trips
{
    my ($self) = @_;
    my $n = 0;
    $n += $_->{trips} + $_->{unanswered} foreach grep { $_->{kind} ne 'cancel' } @{ $self->connections };
    return $n;
}

# All turns of all connections, as text: "P:SELECT 1 B:SELECT 1 D E S".
sub turns
{
    my ($self) = @_;
    return map { my $c = $_; map { join ' ', @$_ } @{ $c->{turns} } } grep { $_->{kind} ne 'cancel' } @{ $self->connections };
}

sub stop
{
    my ($self) = @_;
    return unless $self->{pid};
    my $status = $?;
    close $self->{control};
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    delete $self->{pid};
    $? = $status;
    return;
}

sub DESTROY { my ($self) = @_; local ($@, $!); $self->stop if $self->{pid}; return }

#
# The process. A connection has two ways: to the data source (0) and back (1).
#
package KesselProxy::Process;

use strict;
use warnings;

use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_NODELAY);
use Time::HiRes qw(time);

my ($target, $parse);
my ($delay, $stalled, $refusing, $hits) = (0, 0, 0, 0);
my ($cut, @rules);
my @connections;
my $last_id = 0;

sub run
{
    (my ($listener, $control), $target, $parse) = (@_[0, 2, 1], $_[3]);
    my $commands = '';

    $SIG{PIPE} = 'IGNORE';
    $SIG{$_} = 'DEFAULT' foreach qw(INT TERM HUP);
    $listener->blocking(0);
    for (;;)
    {
        my ($reading, $writing, $timeout) = ('', '', undef);
        my $now = time;

        vec($reading, fileno $listener, 1) = 1;
        vec($reading, fileno $control,  1) = 1;
        foreach my $c (grep { $_->{open} && !$stalled && !$_->{hung} } @connections)
        {
            foreach my $way (0, 1)
            {
                my $w = $c->{ways}[$way];
                vec($reading, fileno $w->{from}, 1) = 1 if !$w->{ended} && $w->{waiting} < KesselProxy::WINDOW;
                next if $w->{held} || !@{ $w->{queue} };
                my $left = $w->{queue}[0][0] - $now;
                if    ($left <= 0) { vec($writing, fileno $w->{to}, 1) = 1 }
                elsif (!defined $timeout || $left < $timeout) { $timeout = $left }
            }
        }
        select($reading, $writing, undef, $timeout) >= 0 or next;

        if (vec($reading, fileno $control, 1))
        {
            sysread($control, $commands, 65536, length $commands) or return;
            while ($commands =~ s/\A(.*)\n//)
            {
                my ($name, @args) = @{ JSON::PP::decode_json($1) };
                my $answer = __PACKAGE__->can("do_$name")->(@args);
                syswrite($control, JSON::PP::encode_json([$answer]) . "\n");
            }
            next;
        }
        accept_one($listener) if vec($reading, fileno $listener, 1);
        foreach my $c (@connections)
        {
            foreach my $way (0, 1)
            {
                my $w = $c->{ways}[$way];
                receive($c, $way) if $c->{open} && vec($reading, fileno $w->{from}, 1);
                forward($c, $w)   if $c->{open};
            }
        }
        @connections = grep { $_->{open} || $_->{trips} || $_->{unanswered} } @connections;
    }
}

sub accept_one
{
    my ($listener) = @_;
    my $client = $listener->accept or return;

    my $server = $refusing ? undef : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $target);
    if (!$server)
    {
        setsockopt($client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
        close $client;
        return;
    }
    foreach my $socket ($client, $server)
    {
        $socket->blocking(0);
        setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
    }
    my @ways = map { { from => $_->[0], to => $_->[1], queue => [], waiting => 0, ended => 0, held => 0 } } [ $client, $server ], [ $server, $client ];
    # The start of a connection has a message without a type.
    my %c = (id => ++$last_id, ways => \@ways, open => 1, kind => 'session', starting => 1, budget => $cut ? $cut->[0] : undef, statements => {});
    clear(\%c);
    push @connections, \%c;
    return;
}

sub clear
{
    my ($c) = @_;
    @$c{qw(trips unanswered sent received answers turns client_speaks)} = (0, 0, 0, 0, {}, [], 0);
    return;
}

sub receive
{
    my ($c, $way) = @_;
    my $w = $c->{ways}[$way];
    my $n = sysread($w->{from}, my $data, KesselProxy::CHUNK);

    return if !defined $n && ($!{EAGAIN} || $!{EINTR});
    if (!$n)
    {
        # A reset is passed on as one, an end when what came before has gone out.
        if (defined $n) { $w->{ended} = 1; push @{ $w->{queue} }, [ time + $delay, undef ] }
        else            { end($c, 'reset') }
        return;
    }
    count($c, $way, $n);
    my $action = $parse && !$c->{opaque} ? parse($c, $w, $way, \$data) : undef;
    if ($c->{deaf} && $way == 1) { end($c, 'reset'); return }
    if ($way == 1 && defined $c->{budget})
    {
        if (($c->{budget} -= length $data) < 0)
        {
            substr($data, $c->{budget}) = '';
            $hits++;
            push @{ $w->{queue} }, [ time + $delay, $data ], [ time + $delay, $cut->[1] ] if length $data;
            push @{ $w->{queue} }, [ time + $delay, $cut->[1] ] if !length $data;
            $w->{ended} = 1;
            $w->{cuts}  = 1;
            delete $c->{budget};
            return;
        }
    }
    if (length $data)
    {
        push @{ $w->{queue} }, [ time + $delay, $data ];
        $w->{waiting} += length $data;
    }
    end($c, 'reset') if $action && $action eq 'lose';
    return;
}

sub forward
{
    my ($c, $w) = @_;
    my $now;

    while ($c->{open} && !$c->{hung} && !$stalled && !$w->{held} && @{ $w->{queue} })
    {
        my ($due, $data) = @{ $w->{queue}[0] };
        return if $due > ($now //= time);
        if (!defined $data)
        {
            shift @{ $w->{queue} };
            shutdown($w->{to}, 1);
            end($c, 'close') if $c->{ways}[0]{ended} && $c->{ways}[1]{ended} && !@{ $c->{ways}[0]{queue} } && !@{ $c->{ways}[1]{queue} };
            return;
        }
        if ($w->{cuts} && @{ $w->{queue} } == 1) { end($c, $data); return }
        my $n = syswrite($w->{to}, $data);
        if (!defined $n)
        {
            end($c, 'reset') unless $!{EAGAIN} || $!{EINTR};
            return;
        }
        $w->{waiting} -= $n;
        if ($n < length $data) { substr($w->{queue}[0][1], 0, $n) = ''; return }
        shift @{ $w->{queue} };
        if ($w->{hang_after} && !@{ $w->{queue} }) { $c->{hung} = 1; return }
    }
    return;
}

sub end
{
    my ($c, $how) = @_;

    if ($how eq 'hang') { $c->{hung} = 1; return }
    foreach my $socket (map { $_->{to} } @{ $c->{ways} })
    {
        setsockopt($socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) if $how eq 'reset';
        close $socket;
    }
    $c->{open} = 0;
    return;
}

#
# Counting and naming
#

sub count
{
    my ($c, $way, $n) = @_;

    $c->{ $way ? 'received' : 'sent' } += $n;
    if ($way == 0 && !$c->{client_speaks})
    {
        $c->{client_speaks} = 1;
        $c->{unanswered}    = 1;
        push @{ $c->{turns} }, [] if @{ $c->{turns} } < 10000;
    }
    elsif ($way == 1 && $c->{client_speaks})
    {
        $c->{client_speaks} = 0;
        $c->{unanswered}    = 0;
        $c->{trips}++;
    }
    return;
}

# Walks through a chunk's messages. For one that a rule is for, the chunk is cut
# off there or the connection marked, as the rule says.
sub parse
{
    my ($c, $w, $way, $data) = @_;
    my ($pos, $length) = (0, length $$data);

    if ($way == 1 && $c->{asked_for_tls})
    {
        $c->{opaque} = 1 if substr($$data, 0, 1) ne 'N';
        $c->{asked_for_tls} = 0;
        return if $c->{opaque};
        $pos = 1;
    }
    while ($pos < $length)
    {
        if ($w->{rest})
        {
            my $n = $length - $pos < $w->{rest} ? $length - $pos : $w->{rest};
            $w->{body} .= substr($$data, $pos, $n) if $way == 0 && length $w->{body} < KesselProxy::CAPTURE;
            $pos += $n;
            next if $w->{rest} -= $n;
        }
        else
        {
            my $header = $way == 0 && $c->{starting} ? 4 : 5;
            # The common case: the header is whole.
            if (!defined $w->{header} && $length - $pos >= $header)
            {
                $w->{header} = substr($$data, $pos, $header);
                $pos += $header;
            }
            else
            {
                $w->{header} //= '';
                my $n = $header - length $w->{header};
                $w->{header} .= substr($$data, $pos, $n);
                $pos += $n;
                last if length $w->{header} < $header;
            }
            $w->{start} = $pos - $header;
            $w->{start} = 0 if $w->{start} < 0;
            ($w->{type}, $w->{rest}) = $header == 4 ? ('', unpack('N', $w->{header}) - 4) : (substr($w->{header}, 0, 1), unpack('x N', $w->{header}) - 4);
            delete $w->{header};
            $w->{body} = '';
            if ($way == 1) { $c->{answers}{ $w->{type} }++; $w->{rest} = 0 if $w->{rest} < 0 }
            next if $w->{rest} > 0;
        }
        # A message is complete.
        my $start = delete $w->{start};
        $w->{rest} = 0;
        next if $way == 1;
        my $text = name($c, $w);
        push @{ $c->{turns}[-1] }, $text if @{ $c->{turns} } && @{ $c->{turns}[-1] } < 1000;
        my ($rule) = grep { index($text, $_->[0]) >= 0 } @rules or next;
        return strike($c, $w, $rule, $data, defined $start ? $start : 0);
    }
    $w->{start} = 0 if $w->{rest};
    return;
}

sub name
{
    my ($c, $w) = @_;
    my ($type, $body) = @$w{qw(type body)};

    if ($type eq '')
    {
        my $code = unpack('N', $body);
        if ($code == 80877103 || $code == 80877104) { $c->{asked_for_tls} = 1; return 'tls?' }
        $c->{starting} = 0;
        $c->{kind} = 'cancel' if $code == 80877102;
        return $c->{kind} eq 'cancel' ? 'cancel' : 'start';
    }
    if ($type eq 'Q') { $body =~ s/\0.*//s; return "Q:$body" }
    if ($type eq 'P')
    {
        my ($name, $sql) = split /\0/, $body;
        $c->{statements}{$name} = $sql;
        return "P:$sql";
    }
    if ($type eq 'B')
    {
        my (undef, $name) = split /\0/, $body, 3;
        return 'B:' . ($c->{statements}{$name} // '?');
    }
    return $type;
}

sub strike
{
    my ($c, $w, $rule, $data, $start) = @_;
    my $action = $rule->[1];

    @rules = grep { $_ != $rule } @rules;
    $hits++;
    substr($$data, $start) = '' if $action eq 'lose';
    $w->{held} = 1 if $action eq 'hold';
    $c->{deaf} = 1 if $action eq 'deafen';
    $w->{hang_after} = 1 if $action eq 'hang';
    return $action;
}

#
# Commands
#

sub do_delay { ($delay) = map { $_ / 2000 } @_; return 1 }
sub do_stall { $stalled = 1; return 1 }
sub do_refuse { ($refusing) = @_; return 1 }
sub do_hits { return $hits }

sub do_resume
{
    $stalled = 0;
    foreach my $c (@connections) { $_->{held} = 0 foreach @{ $c->{ways} } }
    return 1;
}

sub do_drop
{
    end($_, 'reset') foreach grep { $_->{open} && $_->{hung} } @connections;
    return 1;
}

sub do_cut
{
    my ($after, $how) = @_;
    $cut = defined $after ? [ $after, $how || 'reset' ] : undef;
    $_->{budget} = $after foreach grep { $_->{kind} ne 'cancel' } @connections;
    return 1;
}

sub do_on
{
    my ($text, $action) = @_;
    @rules = defined $text ? (@rules, [ $text, $action ]) : ();
    return 1;
}

sub do_reset
{
    clear($_) foreach @connections;
    $hits = 0;
    return 1;
}

sub do_connections
{
    return [ map { my $c = $_; +{ map { ($_ => $c->{$_}) } qw(id kind open trips unanswered sent received answers turns) } } @connections ];
}

1;

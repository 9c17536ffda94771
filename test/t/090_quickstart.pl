# The quickstart, with the extension that is installed: what it refuses, that it
# begins anew after a run that was broken off, what it shows, what is left.
use strict;
use warnings;

use IO::Socket::INET;
use IPC::Run;
use Test::More;
use Time::HiRes qw(usleep);

my $dir  = "$ENV{HOME}/qs";
my $base = 20000 + ($$ % 2000) * 5;
$base += 5 until free(5) == 5;

@ENV{qw(KESSEL_QUICKSTART_DIR KESSEL_QUICKSTART_PORT KESSEL_QUICKSTART_INSTALL)} = ($dir, $base, 'no');

# How many of so many ports are free.
sub free
{
    my ($count) = @_;
    my @sockets = grep { defined } map { listener($base + $_) } 0 .. $count - 1;
    return scalar @sockets;
}

sub listener
{
    my ($port) = @_;
    return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
}

sub shell
{
    my ($command) = @_;
    my ($out, $err) = ('', '');
    my $done = IPC::Run::run([ 'bash', '-c', $command ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(200));
    return { ok => $done, out => $out, err => $err };
}

sub slurp
{
    my ($file) = @_;
    local $/;
    open(my $fh, '<', $file) or return '';
    return scalar <$fh>;
}

# Processes that work in the folder.
sub left_over
{
    return grep { (readlink("$_/cwd") || '') =~ /^\Q$dir\E/ } glob('/proc/[0-9]*');
}

my $busy = listener($base + 2);
my $r = shell('quickstart/start.sh');
ok(!$r->{ok}, 'a port in use stops it');
like($r->{err}, qr/^quickstart: port @{[$base + 2]} of 127\.0\.0\.1 is in use\nquickstart: hint: .*KESSEL_QUICKSTART_PORT/, 'and is named');
ok(!-e $dir, 'before anything is made');
close($busy);

mkdir $dir or die "$dir: $!";
$r = shell('quickstart/start.sh');
like($r->{err}, qr/it is no quickstart folder.*\n.*hint: .*KESSEL_QUICKSTART_DIR/, 'a folder that is not its own is left alone');
$r = shell('quickstart/stop.sh');
like($r->{err}, qr/it is no quickstart folder/, 'by the end, too');
rmdir $dir or die "$dir: $!";

# Broken off while servers run.
my $begun = "$ENV{HOME}/qs.begun";
my $pid = fork;
if ($pid == 0)
{
    open(STDOUT, '>', $begun);
    open(STDERR, '>', "$begun.err");
    exec 'quickstart/start.sh';
    die;
}
for (1 .. 600)
{
    last if slurp($begun) =~ /filling/;
    usleep(100_000);
}
like(slurp($begun), qr/filling/, 'servers run');
kill 'TERM', $pid;
waitpid($pid, 0);
cmp_ok(scalar(left_over()), '>', 0, 'and go on after the script has been broken off');

$r = shell('quickstart/start.sh');
ok($r->{ok}, 'it begins anew') or diag($r->{out} . $r->{err});
my $out = $r->{out};
is($r->{err}, '', 'nothing on standard error');
is(() = $out =~ /^EXECUTE best_customer .*\n\S.* \| \d+\.\d\d \| [A-Z]{3}$/mg, 6, 'six tenants answer the prepared statement');
like($out, qr/^ best_customer \| +6 \| +0$/m, 'from one plan');
is(() = $out =~ /^ (?:byod|dedicated|shared-row|shared-schema) +\| t +\| +\d+ \|/mg, 4, 'four data sources pass their tests');
like($out, qr/^ TLS +\| t +\| TLS.*; certificate and host name verified/m, 'one by TLS verify-full');
like($out, qr/^Foreign Scan\n.*\n  Relations: Aggregate on .*\n  Remote SQL: .*\n  Route: tenant "ember"/m, 'a join with aggregate runs in the data source');
is_deeply([ $out =~ /^SQLSTATE (\w+)$/mg ], [qw(42501 KR001 KR003)], 'what is refused is refused');
is_deeply([ grep { length > 160 && !/^  Remote SQL/ } split /\n/, $out ], [], 'lines have a length to read');
unlike($out, qr/\b[0-9a-f]{32}\b/, 'no password is shown');

my ($command) = $out =~ /^  (PGPASSFILE=\S+ \S+ '[^']*')$/m;
my ($set, $select) = $out =~ /^  (SET [^\n]*;)\n  (SELECT [^\n]*;)\n  \\d\+ data\.opportunities\n/m;
$r = shell(qq{$command -XAt -c "$set" -c "$select"});
is($r->{err}, '', 'the command to go on with connects');
is(() = $r->{out} =~ /^.+\|.+$/mg, 5, 'and answers');

$r = shell('quickstart/stop.sh');
ok($r->{ok}, 'it stops') or diag($r->{err});
ok(!-e $dir, 'its folder is gone');
is_deeply([ left_over() ], [], 'and so are its servers');
like(shell('quickstart/stop.sh')->{out}, qr/nothing to stop/, 'twice does no harm');

done_testing();

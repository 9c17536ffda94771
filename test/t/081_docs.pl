# Runs what the files of doc say: each file's blocks in their order, on a server
# of its own, and looks for names in them that the extension has not. Those that
# go on with README.md run with it, see 080_readme.pl.
#
# Blocks are as in README.md, see 080_readme.pl; of them these are run here:
#   sql, sql error=STATE, text output, sh run; nothing with the word ignore
# and a comment "<!-- test" holds SQL that readers do not need, see KesselDoc.
# A superuser works in the infra database. /etc/postgresql is a folder of ours.
use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/../lib";
use KesselDoc;
use KesselTest;

my $top = "$FindBin::RealBin/../..";
my @files = sort glob "$top/doc/*.md";
cmp_ok(scalar(@files), '>=', 1, 'files in doc');

my %guide = map { $_ => 1 } KesselDoc::guide();
my $known;
foreach my $file (@files)
{
    my ($name) = $file =~ m{([^/]+)\.md$};
    my $text = slurp_file($file);
    my @blocks = KesselDoc::blocks($text);
    is(join(', ', KesselDoc::dead_links($text, "$top/doc")), '', "$name.md: links lead somewhere");

    my $k = KesselTest->new(name => $name, conf => "session_preload_libraries = 'kessel_router'\n");
    run_blocks($k, $name, @blocks) if !$guide{"doc/$name.md"} && grep { $_->{lang} =~ /^(?:sql|sh)$/ } @blocks;

    $known ||= { map { $_ => 1 } split /\n/, $k->exec(<<'SQL') };
SELECT pronamespace::regnamespace || '.' || proname FROM pg_proc WHERE pronamespace::regnamespace::text IN ('app', 'kessel', 'vault')
UNION SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relnamespace::regnamespace::text IN ('app', 'kessel', 'vault')
UNION SELECT name FROM pg_settings WHERE name LIKE 'kessel.%'
SQL
    # A column of a table may be named behind it: vault.keys.fingerprint.
    is(join(' ', grep { !$known->{$_} } $text =~ /`(?:SELECT )?((?:kessel|app|vault)\.[a-z]\w+)/g), '', "$name.md: nothing is named that is not there");
    $k->node->stop;
}
done_testing();

sub run_blocks
{
    my ($k, $name, @blocks) = @_;
    my $dir = PostgreSQL::Test::Utils::tempdir($name);
    my $session = KesselTest::Session->new(
        [ 'psql', '-Xq', '-v', 'VERBOSITY=verbose', '-v', 'ON_ERROR_STOP=1', '-P', 'pager=off', '-d', $k->node->connstr('infra') . ' user=postgres' ], '');
    my $printed = '';

    foreach my $block (@blocks)
    {
        my %is = map { /^(\w+)(?:=(.*))?$/ ? ($1 => $2 // 1) : () } @{ $block->{words} };
        my $at = "$name.md, line $block->{line}";
        next if $is{ignore};
        (my $text = $block->{text}) =~ s{/etc/postgresql/}{$dir/}g;

        if ($block->{lang} eq 'sql')
        {
            my $loaded = $k->exec('SELECT pg_conf_load_time()');
            my $r = $session->run($text);
            my @errors = $r->{err} =~ /^(?:psql:[^\n]*?: )?(?:ERROR|FATAL|PANIC): +([0-9A-Z]{5})/mg;
            is("@errors", $is{error} || '', "$at: SQL" . ($is{error} ? ", error $is{error}" : '')) or diag($r->{err});
            $printed = $r->{out};
            # Reading the configuration takes the server a moment.
            $k->node->poll_query_until('infra', "SELECT pg_conf_load_time() > '$loaded'") if $text =~ /pg_reload_conf/;
        }
        elsif ($block->{lang} eq 'text' && $is{output})
        {
            is(KesselDoc::trim($printed), KesselDoc::trim($block->{text}), "$at: that is the output");
        }
        elsif ($block->{lang} eq 'sh' && $is{run})
        {
            my $out = '';
            ok(IPC::Run::run([ 'bash', '-euo', 'pipefail', '-c', "cd '$dir'\n$text" ], '<', \undef, '>&', \$out), "$at: shell") or diag($out);
        }
    }
    $session->quit;
    return;
}

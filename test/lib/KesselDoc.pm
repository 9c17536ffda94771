# KesselDoc: the fenced blocks of a Markdown file, for tests that run them.
#
#   foreach my $block (KesselDoc::blocks($text)) { ... }
#
# A block is a hash: lang, words (what else stands in the info string), text,
# line. "<!-- test", up to "-->" on a line of its own, is a block of SQL that a
# reader does not see: what the blocks after it need and the text does not show.
package KesselDoc;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

# README.md and the files that go on where it ends, in their order.
sub guide { return map { $_ eq 'README' ? "$_.md" : "doc/$_.md" } qw(README router-tables fleet migrations); }

sub blocks
{
    my ($text) = @_;
    my (@blocks, $block);
    my $number = 0;
    foreach my $line (split /\n/, $text, -1)
    {
        $number++;
        my $ends = $block && $line =~ ($block->{hidden} ? qr/^-->$/ : qr/^```\s*$/);
        if    ($ends)  { push @blocks, $block; undef $block; }
        elsif ($block) { $block->{text} .= "$line\n"; }
        elsif ($line =~ /^```(.*)$/)
        {
            my ($lang, @words) = split ' ', $1;
            $block = { lang => $lang || '', words => \@words, line => $number, text => '' };
        }
        elsif ($line eq '<!-- test')
        {
            $block = { lang => 'sql', words => [], line => $number, text => '', hidden => 1 };
        }
    }
    die "the block of line $block->{line} is not closed\n" if $block;
    return @blocks;
}

# What psql has printed, without blanks at the ends of lines and of the text.
sub trim
{
    my ($text) = @_;
    $text =~ s/[ \t]+$//mg;
    $text =~ s/\s+\z//;
    return $text;
}

# The anchors of a text's headings.
sub anchors
{
    my ($text) = @_;
    return map { my $a = lc; $a =~ s/[^a-z0-9 _-]//g; $a =~ s/ /-/g; $a } $text =~ /^#+ +(.*)$/mg;
}

# The links that lead nowhere, of a file's text in a folder.
sub dead_links
{
    my ($text, $folder) = @_;
    my @dead;
    foreach my $link ($text =~ /\]\(([^)\s]+)\)/g)
    {
        next if $link =~ /^https?:/;
        my ($path, $anchor) = split /#/, $link, 2;
        my $to = $path eq '' ? $text : -f "$folder/$path" ? slurp_file("$folder/$path") : -e "$folder/$path" ? '' : undef;
        push @dead, $link if !defined $to || defined $anchor && !grep { $_ eq $anchor } anchors($to);
    }
    return @dead;
}

1;

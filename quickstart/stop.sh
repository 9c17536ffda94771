#!/bin/bash
# Stops the clusters of the quickstart and removes their folder. The extension
# stays installed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ ! -e "$dir" ]; then
    say "nothing to stop: there is no $dir"
    exit 0
fi
remove_folder
say "stopped the five clusters and removed $dir"

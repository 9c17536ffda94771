# shellcheck shell=bash disable=SC2034
# What start.sh and stop.sh share: settings, progress lines, and running a
# command as the user who owns the clusters. Sourced, never run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

# Servers refuse to run as root, so root hands them to the package's user. Its
# folder is not below /tmp or /var/tmp, where any user could plant one first.
if [ "$(id -u)" = 0 ]; then
    cluster_user=postgres
    default_dir=/var/lib/kessel-quickstart
else
    cluster_user=$(id -un)
    default_dir=$HOME/kessel-quickstart
fi
dir=${KESSEL_QUICKSTART_DIR:-$default_dir}
base_port=${KESSEL_QUICKSTART_PORT:-65432}
marker=$dir/.kessel-quickstart

# One cluster a line of the picture. The order gives the ports.
clusters=(infra shared-row shared-schema dedicated byod)
port_of() {
    local i
    for i in "${!clusters[@]}"; do
        if [ "${clusters[$i]}" = "$1" ]; then
            echo $((base_port + i))
        fi
    done
}

bold='' plain=''
if [ -t 1 ]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi

say() {
    printf '%s[%3d s]%s %s\n' "$bold" "$SECONDS" "$plain" "$*"
}

# die MESSAGE [HINT]
die() {
    printf 'quickstart: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then
        printf 'quickstart: hint: %s\n' "$2" >&2
    fi
    exit 1
}

# The caller's PG* variables must not reach our clusters.
unset PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGOPTIONS PGSERVICE PGSERVICEFILE PGSSLMODE PGSSLROOTCERT PGTZ PGDATESTYLE
export PGPASSFILE=$dir/pgpass PSQLRC=/dev/null PSQL_PAGER='' LC_ALL=C.UTF-8

as_cluster_user() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u "$cluster_user" -- "$@")
    else
        (cd / && "$@")
    fi
}

# Stops what runs in the folder and removes it. Removes nothing that this
# script did not make: the marker must be there and belong to the cluster user.
remove_folder() {
    local data pid pids=()

    if [ ! -e "$dir" ] && [ ! -L "$dir" ]; then
        return 0
    fi
    if [ -L "$dir" ] || [ ! -f "$marker" ] || [ "$(stat -c %U "$dir")" != "$cluster_user" ]; then
        die "$dir is there, but it is no quickstart folder of the user $cluster_user" \
            'Move it away, or choose another folder with KESSEL_QUICKSTART_DIR.'
    fi
    for data in "$dir"/*/data; do
        pid=$(sed -n 1p "$data/postmaster.pid" 2>/dev/null) || continue
        # After a crash of the machine the number may be someone else's.
        if [ -n "$pid" ] && [ "$(as_cluster_user readlink "/proc/$pid/cwd")" = "$(readlink -f "$data")" ]; then
            # At once, without a checkpoint: the files go as well.
            as_cluster_user kill -QUIT "$pid"
            pids+=("$pid")
        fi
    done
    for pid in "${pids[@]}"; do
        # A process that has ended has no folder, even while its parent does not ask.
        while as_cluster_user readlink "/proc/$pid/cwd" >/dev/null 2>&1; do
            sleep 0.1
        done
    done
    rm -rf -- "$dir"
}

#!/bin/bash
# make quickstart: builds and installs the extension, starts one infra cluster
# and four data clusters, fills a CRM for six tenants and shows the router at
# work on them. What was there from an earlier run is removed first.
set -Eeuo pipefail
export PG_CONFIG=${PG_CONFIG:-pg_config}
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/clusters.sh"

tenants_of() {
    case $1 in
        shared-row) echo alpine baltic ;;
        shared-schema) echo castello dundee ;;
        dedicated) echo ember ;;
        byod) echo fjord ;;
    esac
}

# The value of tenant_id in the row-isolated source, and the tenants' uuids.
tenant_uuid() {
    case $1 in
        alpine) echo a0000000-0000-4000-8000-00000000000a ;;
        baltic) echo b0000000-0000-4000-8000-00000000000b ;;
    esac
}

# quietly COMMAND…: into the log, whose end is shown if the command fails
quietly() {
    if ! "$@" >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        die "failed: $*" "The whole output is in $log."
    fi
}

# Sets $bin, the folder of the server's programs.
build_and_install() {
    if [ "${KESSEL_QUICKSTART_INSTALL:-yes}" = no ]; then
        bin=$("$PG_CONFIG" --bindir)
        return
    fi
    # Ask for sudo's password now, not in the middle of the logged commands.
    if [ "$(id -u)" != 0 ] && [ -t 0 ] && command -v sudo >/dev/null && ! sudo -n true 2>/dev/null; then
        sudo -v || true
    fi
    say 'installing the packages that are missing (make deps)'
    if ! "$top/ci/deps" 2>&1 | tee -a "$log"; then
        rm -f "$log"
        die 'not all packages are there'
    fi
    command -v "$PG_CONFIG" >/dev/null || die "there is no $PG_CONFIG" 'Name the one to build for: make quickstart PG_CONFIG=/path/to/pg_config'
    bin=$("$PG_CONFIG" --bindir)
    say "building for $("$PG_CONFIG" --version) (make)"
    quietly make -C "$top" -s -j2 all
    say 'installing (make install)'
    quietly "$top/ci/install"
}

# Before anything is touched: can the folder and the ports be had?
check_settings() {
    local name port

    case $dir in
        /*) ;;
        *) die "KESSEL_QUICKSTART_DIR must be an absolute path, not $dir" ;;
    esac
    case $dir in
        *[!A-Za-z0-9/._+-]*) die "the folder $dir has unusual characters in its name" 'Choose another with KESSEL_QUICKSTART_DIR.' ;;
    esac
    case $base_port in
        ''|*[!0-9]*) die "KESSEL_QUICKSTART_PORT must be a number, not $base_port" ;;
    esac
    if [ "$base_port" -lt 1024 ] || [ "$base_port" -gt 65531 ]; then
        die "KESSEL_QUICKSTART_PORT is $base_port" 'It is the first of five ports: 1024 to 65531.'
    fi
    # A socket's path has 107 bytes at most.
    if [ $((${#dir} + 22)) -gt 107 ]; then
        die "the folder's name is too long for the sockets in it: $dir" 'Choose a shorter one with KESSEL_QUICKSTART_DIR.'
    fi
    if [ -e "$dir" ]; then
        say 'removing what the last run made'
    fi
    remove_folder
    for name in "${clusters[@]}"; do
        port=$(port_of "$name")
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            die "port $port of 127.0.0.1 is in use" 'Choose five others with KESSEL_QUICKSTART_PORT=<the first of them>.'
        fi
    done
}

make_folder() {
    id "$cluster_user" >/dev/null 2>&1 || die "there is no user $cluster_user"
    if [ "$(id -u)" = 0 ]; then
        install -d -m 700 -o "$cluster_user" "$dir"
    else
        install -d -m 700 "$dir"
    fi
    as_cluster_user install -m 600 /dev/null "$marker"
    as_cluster_user mkdir -m 700 "$dir/run" "$dir/sql"
    # The vault's root key: beside the infra cluster's data directory, never in it.
    as_cluster_user install -m 600 /dev/null "$dir/root.key"
    openssl rand -hex 32 | as_cluster_user tee "$dir/root.key" >/dev/null
    # The cluster user may not be able to read this tree.
    tar -C "$here" -cf - crm tour | as_cluster_user tar -C "$dir/sql" -xf - --no-same-owner
}

start_clusters() {
    local name jobs=()

    make_passwords
    make_certificates
    for name in "${clusters[@]}"; do
        { make_cluster "$name" && start_cluster "$name"; } &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || die 'a cluster could not be made' "See $log."
    done
}

# fill_source NAME: roles, tables and rows of one data source
fill_source() {
    local name=$1 tenant statements

    make_data_source_roles "$name"
    case $name in
        shared-row)
            owner_psql "$name" -v tenant_column='tenant_id uuid NOT NULL,' -v tk='tenant_id,' -f "$dir/sql/crm/tables.sql" ;;
        shared-schema)
            for tenant in $(tenants_of "$name"); do
                owner_psql "$name" -v tenant_column= -v tk= \
                    -c "CREATE SCHEMA t_$tenant" -c "SET search_path = t_$tenant" -f "$dir/sql/crm/tables.sql"
            done ;;
        *)
            owner_psql "$name" -v tenant_column= -v tk= -f "$dir/sql/crm/tables.sql" ;;
    esac
    for tenant in $(tenants_of "$name"); do
        statements='SET client_min_messages = warning;'
        if [ "$name" = shared-row ]; then
            # Until the tables are protected, a default names the tenant.
            statements+=$(owner_psql "$name" -At -c "SELECT format('ALTER TABLE %s ALTER tenant_id SET DEFAULT %L;', oid::regclass, '$(tenant_uuid "$tenant")')
                FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        elif [ "$name" = shared-schema ]; then
            statements+="SET search_path = t_$tenant;"
        fi
        owner_psql "$name" --single-transaction -v slug="$tenant" -c "$statements" \
            -f "$dir/sql/crm/profiles.sql" -f "$dir/sql/crm/rows.sql"
    done
    superuser_psql "$name" crm -c ANALYZE
}

fill_sources() {
    local name jobs=()

    for name in "${clusters[@]:1}"; do
        fill_source "$name" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || die 'the CRM could not be filled' "See $dir/*/log."
    done
}

# What the tour's scripts need: urls without passwords, and the passwords apart.
write_settings() {
    local name prefix

    {
        for name in "${clusters[@]:1}"; do
            prefix=${name//-/_}
            if [ "$name" = byod ]; then
                printf "\\set byod_url 'postgresql://kessel_runtime@%s:%s/crm?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%s'\n" \
                    "$byod_host" "$(port_of byod)" "$dir/tls/ca.crt"
            else
                printf "\\set %s_url 'postgresql://kessel_runtime@127.0.0.1:%s/crm'\n" "$prefix" "$(port_of "$name")"
            fi
            printf "\\set %s_runtime '%s'\n" "$prefix" "$(password_of "$name" kessel_runtime)"
            printf "\\set %s_owner '%s'\n" "$prefix" "$(password_of "$name" crm_owner)"
        done
        printf "\\set alpine_id '%s'\n" "$(tenant_uuid alpine)"
        printf "\\set baltic_id '%s'\n" "$(tenant_uuid baltic)"
    } | as_cluster_user tee "$dir/sql/tour/settings.sql" >/dev/null
}

infra_url() {
    echo "host=127.0.0.1 port=$(port_of infra) user=$1 dbname=infra"
}

# The infra database, the extension in it, and three roles for three kinds of
# callers: who administers, an app's backend, an API that passes on claims.
make_infra() {
    superuser_psql infra postgres -c 'CREATE DATABASE infra'
    superuser_psql infra infra -e -c 'CREATE EXTENSION kessel_router CASCADE' 2>>"$log"
    superuser_psql infra infra <<END
REVOKE ALL ON DATABASE infra FROM PUBLIC;
CREATE ROLE crm_admin LOGIN PASSWORD '$(password_of infra crm_admin)' IN ROLE kessel_admin;
CREATE ROLE crm_app LOGIN PASSWORD '$(password_of infra crm_app)' IN ROLE kessel_service;
CREATE ROLE authenticated NOLOGIN IN ROLE kessel_user;
CREATE ROLE crm_api LOGIN NOINHERIT PASSWORD '$(password_of infra crm_api)' IN ROLE authenticated;
GRANT CONNECT ON DATABASE infra TO crm_admin, crm_app, crm_api;
-- import_tables() makes the schema data, which is its caller's.
GRANT CREATE ON DATABASE infra TO crm_admin;
END
}

# tour CONNECTION FILE: runs a script, showing its statements as they are typed.
# psql reads it from its standard input, so that errors look as they do there.
tour() {
    as_cluster_user env QUICKSTART_PSQL="$bin/psql" QUICKSTART_ADMIN="$(infra_url crm_admin)" \
        "$bin/psql" -X -q -e -v ON_ERROR_STOP=1 -v tour="$dir/sql/tour" -P footer=off "$1" <"$here/tour/$2" 2>&1 |
        sed -u "s/^== .* ==\$/$bold&$plain/" ||
        die "the tour broke off in $2" "Logs are $dir/*/log; make quickstart-stop removes what was started."
}

show() {
    tour "host=$dir/run port=$(port_of infra) user=postgres dbname=infra" 1_data_sources.sql
    tour "host=127.0.0.1 port=$(port_of shared-row) user=crm_owner dbname=crm" 2_protect.sql
    tour "$(infra_url crm_admin)" 3_tenants.sql
    tour "$(infra_url crm_app)" 4_queries.sql
    tour "$(infra_url crm_api)" 5_refused.sql
    tour "$(infra_url crm_app)" 6_suspended.sql
    as_cluster_user rm "$dir/sql/tour/settings.sql"
}

closing_words() {
    local psql=psql

    if [ "$(command -v psql)" = '' ]; then
        psql=$bin/psql
    fi
    cat <<END

Go on with:

  PGPASSFILE=$PGPASSFILE $psql '$(infra_url crm_app)'

  SET kessel.tenant = 'fjord';
  SELECT name, city FROM data.accounts ORDER BY employees DESC LIMIT 5;
  \\d+ data.opportunities

The administrator is crm_admin in the same place; quickstart/README.md says what else there is.
Stop and remove it all with: make quickstart-stop
END
}

trap '[ "$BASH_SUBSHELL" != 0 ] || printf "quickstart: line %s failed: %s\nquickstart: hint: Logs are %s and %s; make quickstart-stop removes what was started.\n" "$LINENO" "$BASH_COMMAND" "$dir/*/log" "${log:-}" >&2' ERR
# Jobs in the background do not hear of Ctrl-C.
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "${log:-}"; exit 130' INT TERM
check_settings
log=$(mktemp -t kessel-quickstart.XXXXXX)
build_and_install
say "making five clusters in $dir, ports $base_port to $(port_of byod)"
make_folder
start_clusters
say 'filling the CRM of six tenants'
fill_sources
write_settings
say 'the infra database'
make_infra
show
say 'done'
closing_words
rm -f "$log"

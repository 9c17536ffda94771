# shellcheck shell=bash disable=SC2154
# Makes the five clusters: certificates, initdb, settings, roles, databases.
# Sourced by start.sh after lib.sh; expects $bin, the server's folder of
# programs. Everything here runs as the cluster user.

byod_host=pg.fjord.example

# Makes a certificate authority, a server certificate signed by it, and throws
# the authority's key away.
make_certificates() {
    local tls=$dir/tls

    as_cluster_user mkdir -m 700 "$tls"
    as_cluster_user openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 \
        -subj '/CN=Quickstart throw-away CA' -addext 'basicConstraints=critical,CA:TRUE' \
        -keyout "$tls/ca.key" -out "$tls/ca.crt" 2>>"$log"
    as_cluster_user openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -subj "/CN=$byod_host" -keyout "$tls/server.key" -out "$tls/server.csr" 2>>"$log"
    printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\n' "$byod_host" | as_cluster_user tee "$tls/server.ext" >/dev/null
    as_cluster_user openssl x509 -req -days 365 -in "$tls/server.csr" -CA "$tls/ca.crt" -CAkey "$tls/ca.key" \
        -CAcreateserial -extfile "$tls/server.ext" -out "$tls/server.crt" 2>>"$log"
    as_cluster_user rm "$tls/ca.key" "$tls/ca.srl" "$tls/server.csr" "$tls/server.ext"
    as_cluster_user chmod 600 "$tls/server.key"
}

# make_cluster NAME: initdb and settings; does not start it
make_cluster() {
    local name=$1 home=$dir/$1 data=$dir/$1/data host=host

    as_cluster_user mkdir -m 700 "$home"
    as_cluster_user install -m 600 /dev/null "$home/password"
    password_of "$name" postgres | as_cluster_user tee "$home/password" >/dev/null
    as_cluster_user "$bin/initdb" --pgdata="$data" --username=postgres --auth=scram-sha-256 \
        --pwfile="$home/password" --encoding=UTF8 --locale=C.UTF-8 --no-sync >>"$log" 2>&1
    as_cluster_user rm "$home/password"
    if [ "$name" = byod ]; then
        host=hostssl
    fi
    as_cluster_user tee "$data/pg_hba.conf" >/dev/null <<END
# The owner of the folder is the superuser on the socket; all else is SCRAM.
local    all  postgres                peer map=quickstart
$host  all  all       127.0.0.1/32  scram-sha-256
END
    as_cluster_user tee "$data/pg_ident.conf" >/dev/null <<END
quickstart  $cluster_user  postgres
END
    as_cluster_user tee -a "$data/postgresql.conf" >/dev/null <<END

# quickstart
cluster_name = '$name'
listen_addresses = '127.0.0.1'
port = $(port_of "$name")
unix_socket_directories = '$dir/run'
unix_socket_permissions = 0700
shared_buffers = 32MB
max_connections = 50
timezone = 'UTC'
log_timezone = 'UTC'
END
    if [ "$name" = byod ]; then
        as_cluster_user tee -a "$data/postgresql.conf" >/dev/null <<END
ssl = on
ssl_cert_file = '$dir/tls/server.crt'
ssl_key_file = '$dir/tls/server.key'
ssl_min_protocol_version = 'TLSv1.3'
END
    fi
    if [ "$name" = infra ]; then
        as_cluster_user tee -a "$data/postgresql.conf" >/dev/null <<END
# From the start of each session: poolers are told of kessel.tenant, and
# statements that carry a password are kept out of the log.
shared_preload_libraries = 'kessel_router'
kessel.root_key_file = '$dir/root.key'
END
    fi
}

start_cluster() {
    as_cluster_user "$bin/pg_ctl" start --pgdata="$dir/$1/data" --log="$dir/$1/log" --wait --timeout=60 --silent ||
        die "the cluster $1 does not start" "See $dir/$1/log."
}

# Passwords are random and new each time; the file is what psql reads.
make_passwords() {
    local name role roles

    as_cluster_user install -m 600 /dev/null "$PGPASSFILE"
    for name in "${clusters[@]}"; do
        roles='postgres crm_owner kessel_runtime'
        if [ "$name" = infra ]; then
            roles='postgres crm_admin crm_app crm_api'
        fi
        for role in $roles; do
            printf '127.0.0.1:%s:*:%s:%s\n' "$(port_of "$name")" "$role" "$(openssl rand -hex 16)"
        done
    done | as_cluster_user tee "$PGPASSFILE" >/dev/null
    # The same passwords under the name that the certificate carries.
    sed -n "s/^127.0.0.1:$(port_of byod):/$byod_host:$(port_of byod):/p" "$PGPASSFILE" |
        as_cluster_user tee -a "$PGPASSFILE" >/dev/null
}

# password_of CLUSTER ROLE
password_of() {
    sed -n "s/^127.0.0.1:$(port_of "$1"):\*:$2://p" "$PGPASSFILE"
}

# superuser_psql CLUSTER DATABASE [ARGUMENT…]
superuser_psql() {
    local name=$1 database=$2

    shift 2
    as_cluster_user "$bin/psql" -X -q -v ON_ERROR_STOP=1 \
        "host=$dir/run port=$(port_of "$name") user=postgres dbname=$database" "$@"
}

# owner_psql CLUSTER [ARGUMENT…]: as the owner of that cluster's CRM, over TCP
owner_psql() {
    local name=$1 where

    shift
    where="host=127.0.0.1 port=$(port_of "$name")"
    if [ "$name" = byod ]; then
        where="host=$byod_host hostaddr=127.0.0.1 port=$(port_of byod) sslmode=verify-full sslrootcert=$dir/tls/ca.crt"
    fi
    as_cluster_user "$bin/psql" -X -q -v ON_ERROR_STOP=1 "$where user=crm_owner dbname=crm" "$@"
}

# The roles of a data source. kessel_runtime, which the router connects with,
# can do nothing but what the tables' grants say.
make_data_source_roles() {
    superuser_psql "$1" postgres <<END
CREATE ROLE crm_owner LOGIN PASSWORD '$(password_of "$1" crm_owner)';
CREATE ROLE kessel_runtime LOGIN NOINHERIT CONNECTION LIMIT 40 PASSWORD '$(password_of "$1" kessel_runtime)';
CREATE DATABASE crm OWNER crm_owner;
REVOKE ALL ON DATABASE crm FROM PUBLIC;
GRANT CONNECT ON DATABASE crm TO kessel_runtime;
\\connect crm
ALTER SCHEMA public OWNER TO crm_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
END
}

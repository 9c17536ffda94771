-- Changing a credential's password, and keeping a credential where it is.

-- One row for each of the hosts that a url names; NULL where libpq has a default.
CREATE FUNCTION kessel._endpoints(conninfo jsonb) RETURNS TABLE (host text, hostaddr text, port text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT lower(nullif(hosts[i], '')), nullif(addresses[i], ''),
           coalesce(nullif(CASE WHEN cardinality(ports) = 1 THEN ports[1] ELSE ports[i] END, ''), '5432')
    FROM (SELECT string_to_array(conninfo ->> 'host', ','), string_to_array(conninfo ->> 'hostaddr', ','),
                 string_to_array(conninfo ->> 'port', ',')) AS lists (hosts, addresses, ports)
    CROSS JOIN generate_series(1, greatest(cardinality(hosts), cardinality(addresses), 1)) AS i
$$;

-- By which one server is known again. Two that have one in common are the same.
CREATE FUNCTION kessel._places(conninfo jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT DISTINCT coalesce(place, '') || ':' || e.port
                 FROM kessel._endpoints(conninfo) e
                 CROSS JOIN unnest(CASE WHEN e.hostaddr IS NULL OR e.host IS NULL THEN ARRAY[coalesce(e.hostaddr, e.host)]
                                        ELSE ARRAY[e.hostaddr, e.host] END) AS place
                 ORDER BY 1)
$$;

-- What libpq checks: a root certificate makes require verify, and "system" defaults to all.
CREATE FUNCTION kessel._tls_rank(conninfo jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_position(ARRAY['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'],
        CASE WHEN nullif(conninfo ->> 'sslmode', '') IS NULL THEN
                 CASE WHEN conninfo ->> 'sslrootcert' = 'system' THEN 'verify-full' ELSE 'prefer' END
             WHEN conninfo ->> 'sslmode' = 'require' AND conninfo ->> 'sslrootcert' <> '' THEN 'verify-ca'
             ELSE conninfo ->> 'sslmode' END), 0)
$$;

-- Why a password that was meant for the one would get to somebody else under the
-- other; NULL where it would not. To leave hosts out is no such change.
CREATE FUNCTION kessel._leads_elsewhere(old jsonb, new jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN EXISTS (SELECT * FROM kessel._endpoints(new) EXCEPT SELECT * FROM kessel._endpoints(old)) THEN
            'The url leads to another host, address or port.'
        WHEN kessel._tls_rank(new) < kessel._tls_rank(old) THEN
            'The url asks for less with sslmode than before.'
        WHEN kessel._tls_rank(old) >= 5
             AND (new ->> 'sslrootcert' IS DISTINCT FROM old ->> 'sslrootcert'
                  OR old ->> 'sslcrl' IS NOT NULL AND new ->> 'sslcrl' IS DISTINCT FROM old ->> 'sslcrl'
                  OR old ->> 'sslcrldir' IS NOT NULL AND new ->> 'sslcrldir' IS DISTINCT FROM old ->> 'sslcrldir') THEN
            'The url trusts other certificates than before.'
        WHEN old ->> 'channel_binding' = 'require' AND new ->> 'channel_binding' IS DISTINCT FROM 'require'
             OR old ->> 'require_auth' IS NOT NULL AND new ->> 'require_auth' IS DISTINCT FROM old ->> 'require_auth' THEN
            'The url lets the server ask for the password in a weaker way than before.'
        WHEN lower(coalesce(new ->> 'ssl_min_protocol_version', 'TLSv1.2')) COLLATE "C" < lower(coalesce(old ->> 'ssl_min_protocol_version', 'TLSv1.2')) THEN
            'The url allows an older version of TLS than before.'
    END
$$;

-- The credential and those that log in as the same role on the same server, as
-- far as host, address and port tell: it has one password there. But a data
-- source may name other servers, too, or have the password sent in a weaker way:
-- may_get tells whether it gets the password nowhere but where the first one
-- sends it, may_lend whether the first one sends its password nowhere else.
CREATE FUNCTION kessel._same_login(source_id uuid, wanted text)
RETURNS TABLE (data_source_id uuid, data_source text, purpose text, username text, secret_id uuid, version integer, pending_secret_id uuid, places text[],
               may_get boolean, may_lend boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE logins AS MATERIALIZED (
        SELECT c.data_source_id, s.name, s.conninfo, c.purpose, c.username, c.secret_id, c.pending_secret_id, kessel._places(s.conninfo) AS places
        FROM app.data_source_credentials n
        JOIN app.data_source_credentials c ON c.username = n.username
        JOIN app.data_sources s ON s.id = c.data_source_id
        WHERE n.data_source_id = source_id AND n.purpose = wanted AND c.purpose IN ('runtime', 'owner')
    ), first AS (
        SELECT l.places, l.conninfo FROM logins l WHERE l.data_source_id = source_id AND l.purpose = wanted
    ), same AS (
        SELECT unnest(f.places) AS place FROM first f
        UNION
        SELECT unnest(l.places) FROM same JOIN logins l ON same.place = ANY (l.places)
    )
    SELECT l.data_source_id, l.name, l.purpose, l.username, l.secret_id, v.version, l.pending_secret_id,
           ARRAY(SELECT place FROM same ORDER BY 1),
           kessel._leads_elsewhere(f.conninfo, l.conninfo) IS NULL, kessel._leads_elsewhere(l.conninfo, f.conninfo) IS NULL
    FROM logins l
    CROSS JOIN first f
    LEFT JOIN vault.secrets v ON v.id = l.secret_id
    WHERE l.data_source_id = source_id AND l.purpose = wanted
       OR l.secret_id IS NOT NULL AND l.places && ARRAY(SELECT place FROM same)
    ORDER BY l.data_source_id <> source_id OR l.purpose <> wanted, l.name, l.purpose
$$;

CREATE FUNCTION kessel.drop_credential(data_source text, purpose text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    source app.data_sources := kessel._data_source(data_source);
    secret uuid;
    pending uuid;
BEGIN
    DELETE FROM app.data_source_credentials c
    WHERE c.data_source_id = source.id AND c.purpose = drop_credential.purpose
    RETURNING c.secret_id, c.pending_secret_id INTO secret, pending;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'data source "%" has no % credential', source.name, coalesce(drop_credential.purpose, 'such')
            USING ERRCODE = 'KR005', HINT = 'SELECT purpose, username FROM app.data_source_credentials lists those that there are.';
    END IF;
    PERFORM vault.delete_secret(secret), vault.delete_secret(pending);
END
$$;
COMMENT ON FUNCTION kessel.drop_credential(text, text) IS
    'Forgets a credential of a data source, its secret and its former versions; the role there is not touched. Errors: KR005 there is none, KR007. For kessel_admin';

CREATE PROCEDURE kessel.rotate_credential(data_source text, purpose text DEFAULT 'runtime')
LANGUAGE c AS 'MODULE_PATHNAME', 'kr_rotate_credential';
COMMENT ON PROCEDURE kessel.rotate_credential(text, text) IS
    'CALL it, outside a transaction block: gives the role that a credential (runtime or owner) logs in as a new password of 40 random characters, which nobody gets to see. '
    'It is sealed beside the current one and committed; then the role changes it itself, the data source being told a SCRAM verifier and no password; then a new login proves it; then it takes the place of the current one. '
    'Each step is committed, which a function could not do: wherever it is interrupted, sessions go on and log in with whichever of both the data source knows, and the next call, or kessel.test_data_source(), finishes it or undoes it. '
    'Credentials of other data sources with the same role, host and port are changed along, unless one of them names further hosts or addresses, or asks for less with sslmode: then nothing is changed. '
    'The same server under another name, and whoever else knows the password, cannot be known. '
    'Errors: 25001 in a transaction block, 22023 not a login, KR005 no such credential or no password, KR007, KR010, 55006 under way in another session, 55000 another data source would send the password elsewhere, 0A000 a pooler stands before the data source, which would have to learn the password, or the server did not ask for one, 25006 a standby; and those of the data source, all without a change. For kessel_admin';

CREATE FUNCTION kessel._settle_credential(data_source_id uuid, purpose text, OUT ok boolean, OUT detail text) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'kr_settle_credential';

REVOKE ALL ON FUNCTION
    kessel._endpoints(jsonb), kessel._places(jsonb), kessel._same_login(uuid, text), kessel._tls_rank(jsonb),
    kessel._leads_elsewhere(jsonb, jsonb), kessel.drop_credential(text, text), kessel._settle_credential(uuid, text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE kessel.rotate_credential(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.drop_credential(text, text) TO kessel_admin;
GRANT EXECUTE ON PROCEDURE kessel.rotate_credential(text, text) TO kessel_admin;

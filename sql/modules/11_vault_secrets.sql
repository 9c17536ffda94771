-- Storing and opening secrets: the interface of Supabase Vault, and what it
-- lacks: versions, expiry, tags, tenants, and a report of what cannot be opened.

CREATE FUNCTION vault.create_secret(
    new_secret      text,
    new_name        text DEFAULT NULL,
    new_description text DEFAULT '',
    new_key_id      uuid DEFAULT NULL,
    new_tenant_id   uuid DEFAULT NULL,
    new_tags        jsonb DEFAULT '{}',
    new_expires_at  timestamptz DEFAULT NULL
) RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_create';
COMMENT ON FUNCTION vault.create_secret(text, text, text, uuid, uuid, jsonb, timestamptz) IS
'Seals a secret and stores it; returns its id. new_secret: up to 1 MB, may be empty, not NULL. new_name: unique, or NULL. new_tenant_id: whom it belongs to, NULL for no tenant. new_key_id: an active key of that tenant in vault.keys; NULL takes the one that is due, and makes it where there is none. new_tags: a JSON object. new_expires_at: from then on it is not opened any more. The caller gets both privileges on it. Call it by SELECT with the secret as a parameter. Errors: KR010 no root key, 23505 name taken, 54000 too large, 22004 NULL, 22023 no such key or one of another tenant, or tags that are no object. For kessel_admin.';

CREATE FUNCTION vault.update_secret(
    secret_id       uuid,
    new_secret      text DEFAULT NULL,
    new_name        text DEFAULT NULL,
    new_description text DEFAULT NULL,
    new_key_id      uuid DEFAULT NULL,
    new_tags        jsonb DEFAULT NULL,
    new_expires_at  timestamptz DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_update';
COMMENT ON FUNCTION vault.update_secret(uuid, text, text, text, uuid, jsonb, timestamptz) IS
'Changes a secret; what is NULL stays as it is. A new secret or name makes the next version and keeps the one that was (kessel.secret_versions tells how many); a new key alone seals the same version anew. new_tags replaces all tags; new_expires_at ''infinity'' takes an expiry away. Errors: 02000 no such secret, KR010 no root key, KR011 the old value, needed for a new name or key, cannot be opened, KR012 it has expired, 23505 name taken, 54000 too large, 22023 no such key or one of another tenant, or tags that are no object. For kessel_admin.';

CREATE FUNCTION vault.delete_secret(secret_id uuid) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_delete';
COMMENT ON FUNCTION vault.delete_secret(uuid) IS
'Deletes a secret with all its versions and grants; false if there is none with this id, NULL for NULL. Errors: 23503 where a data source''s credential still uses it. For kessel_admin.';

CREATE FUNCTION vault.rollback_secret(secret_id uuid, to_version integer) RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_roll_back';
COMMENT ON FUNCTION vault.rollback_secret(uuid, integer) IS
'Makes the value of a former version the newest version again and returns its number; the name stays. NULL for NULL. Errors: 02000 no such secret or version, KR010 no root key, KR011 the version cannot be opened, KR012 the secret has expired. For kessel_admin.';

CREATE FUNCTION vault.reveal(secret_id uuid, version integer DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_reveal';
COMMENT ON FUNCTION vault.reveal(uuid, integer) IS
'The plaintext of a secret; version: a former one, NULL for the newest. Each call is recorded. Errors: 42501 the role does not have the privilege reveal on it, 02000 no such secret or version, KR010 no root key, KR011 it cannot be opened, KR012 it has expired, 22004 NULL. For kessel_admin, kessel_service and kessel_user, who need the privilege.';

CREATE FUNCTION vault.reveal(secret_name text) RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_reveal_name';
COMMENT ON FUNCTION vault.reveal(text) IS 'The plaintext of the secret with this name or id; else as vault.reveal(uuid, integer), but 02000 only for who may read all secrets: others get 42501 for what is not there, too. NULL for NULL.';

-- STABLE, so that a query that does not ask for the plaintext opens nothing.
CREATE FUNCTION vault._open(
    id              uuid,
    name            text,
    version         integer,
    tenant_id       uuid,
    key_id          uuid,
    secret          bytea,
    nonce           bytea,
    expires_at      timestamptz,
    key_tenant_id   uuid,
    key_root_key_id text,
    key_nonce       bytea,
    key_wrapped_key bytea
) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_vault_sql_open';

CREATE FUNCTION vault._check(
    id              uuid,
    name            text,
    version         integer,
    tenant_id       uuid,
    key_id          uuid,
    secret          bytea,
    nonce           bytea,
    expires_at      timestamptz,
    key_tenant_id   uuid,
    key_root_key_id text,
    key_nonce       bytea,
    key_wrapped_key bytea
) RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_vault_sql_check';

CREATE FUNCTION vault._may_reveal(secret_id uuid) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_vault_sql_may_reveal';

CREATE VIEW vault.decrypted_secrets WITH (security_barrier) AS
SELECT s.id,
       s.name,
       s.description,
       s.secret,
       vault._open(s.id, s.name, s.version, s.tenant_id, s.key_id, s.secret, s.nonce, s.expires_at,
                   k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key) AS decrypted_secret,
       s.key_id,
       s.nonce,
       s.tenant_id,
       s.version,
       s.tags,
       s.expires_at,
       s.created_at,
       s.updated_at
  FROM vault.secrets s
  LEFT JOIN vault.keys k ON k.id OPERATOR(pg_catalog.=) s.key_id
 WHERE vault._may_reveal(s.id);
COMMENT ON VIEW vault.decrypted_secrets IS
'The secrets that the current role may reveal, with their plaintext. decrypted_secret is NULL for a row that cannot be opened, see vault.verify(); with a warning KR010 where the root key is missing. Each opening is recorded. Ask by id or name with =, since LIKE and the like open all of them. For kessel_admin, kessel_service and kessel_user, who see what they have the privilege reveal on.';

CREATE VIEW vault.secret_versions AS
SELECT s.id AS secret_id, s.version, s.name, s.tenant_id, s.key_id, s.version_created_at AS created_at, true AS is_current
  FROM vault.secrets s
UNION ALL
SELECT f.secret_id, f.version, f.name, f.tenant_id, f.key_id, f.created_at, false
  FROM vault.former_versions f;
COMMENT ON VIEW vault.secret_versions IS
'All versions of all secrets, without their contents. vault.rollback_secret() makes a former one the newest, vault.reveal() shows it. For kessel_admin.';

CREATE FUNCTION vault.verify(
    OUT secret_id   uuid,
    OUT version     integer,
    OUT name        text,
    OUT tenant_id   uuid,
    OUT reason      text,
    OUT key_id      uuid,
    OUT root_key_id text
) RETURNS SETOF record
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.id, c.version, c.name, c.tenant_id, c.reason, c.key_id, c.root_key_id
    FROM (SELECT v.id, v.version, v.name, v.tenant_id, v.key_id, k.root_key_id,
                 vault._check(v.id, v.name, v.version, v.tenant_id, v.key_id, v.secret, v.nonce, v.expires_at,
                              k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key) AS reason
          FROM (SELECT s.id, s.version, s.name, s.tenant_id, s.key_id, s.secret, s.nonce, s.expires_at FROM vault.secrets s
                UNION ALL
                SELECT f.secret_id, f.version, f.name, f.tenant_id, f.key_id, f.secret, f.nonce, NULL FROM vault.former_versions f) v
          LEFT JOIN vault.keys k ON k.id = v.key_id) c
    WHERE c.reason IS NOT NULL
    ORDER BY c.tenant_id, c.id, c.version;
END;
COMMENT ON FUNCTION vault.verify() IS
'Tries every version of every secret and returns those that cannot be opened; no row: all can. reason: "root key is not in place" (root_key_id tells which it takes), "data key was destroyed", "expired", or "altered, moved or renamed" (by other means than the vault''s functions). Reveals nothing. For kessel_admin.';

REVOKE ALL ON vault.decrypted_secrets, vault.secret_versions FROM PUBLIC;
REVOKE ALL ON FUNCTION
    vault.create_secret(text, text, text, uuid, uuid, jsonb, timestamptz),
    vault.update_secret(uuid, text, text, text, uuid, jsonb, timestamptz),
    vault.delete_secret(uuid), vault.rollback_secret(uuid, integer), vault.reveal(uuid, integer), vault.reveal(text),
    vault._open(uuid, text, integer, uuid, uuid, bytea, bytea, timestamptz, uuid, text, bytea, bytea),
    vault._check(uuid, text, integer, uuid, uuid, bytea, bytea, timestamptz, uuid, text, bytea, bytea),
    vault._may_reveal(uuid), vault.verify() FROM PUBLIC;
GRANT SELECT ON vault.secret_versions TO kessel_admin;
GRANT EXECUTE ON FUNCTION
    vault.create_secret(text, text, text, uuid, uuid, jsonb, timestamptz),
    vault.update_secret(uuid, text, text, text, uuid, jsonb, timestamptz),
    vault.delete_secret(uuid), vault.rollback_secret(uuid, integer), vault.verify() TO kessel_admin;
GRANT SELECT ON vault.decrypted_secrets TO kessel_admin, kessel_service, kessel_user;
GRANT EXECUTE ON FUNCTION vault.reveal(uuid, integer), vault.reveal(text), vault._may_reveal(uuid),
    vault._open(uuid, text, integer, uuid, uuid, bytea, bytea, timestamptz, uuid, text, bytea, bytea)
    TO kessel_admin, kessel_service, kessel_user;

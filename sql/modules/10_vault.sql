-- The vault: sealed secrets and the wrapped keys that open them.
--
-- Rows are written by C only, sealed before they reach a table. No role has
-- any right on the tables; C works as their owner.

CREATE TABLE vault.keys (
    id          uuid PRIMARY KEY,
    tenant_id   uuid,
    root_key_id text NOT NULL CHECK (root_key_id OPERATOR(pg_catalog.~) '^[0-9a-f]{16}$'),
    wrapped_key bytea CHECK (pg_catalog.octet_length(wrapped_key) = 48),
    nonce       bytea NOT NULL CHECK (pg_catalog.octet_length(nonce) = 24),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'retired', 'destroyed')),
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK ((status = 'destroyed') = (wrapped_key IS NULL))
);
CREATE UNIQUE INDEX keys_one_active ON vault.keys (tenant_id) NULLS NOT DISTINCT WHERE status = 'active';
CREATE INDEX keys_root_key_id ON vault.keys (root_key_id) WHERE status <> 'destroyed';

COMMENT ON TABLE vault.keys IS 'Data keys, each wrapped by a root key that is kept outside the database. Written by the vault when a tenant''s first secret is stored.';
COMMENT ON COLUMN vault.keys.tenant_id IS 'Whose secrets it seals; NULL for what belongs to no tenant';
COMMENT ON COLUMN vault.keys.root_key_id IS 'Fingerprint of the root key that opens it';
COMMENT ON COLUMN vault.keys.wrapped_key IS 'The key, sealed; NULL once it was destroyed';
COMMENT ON COLUMN vault.keys.status IS 'active: seals and opens; retired: opens only; destroyed: what it sealed is lost for good';

CREATE TABLE vault.secrets (
    id          uuid PRIMARY KEY,
    name        text UNIQUE,
    description text NOT NULL DEFAULT '',
    secret      bytea NOT NULL CHECK (pg_catalog.octet_length(secret) >= 17 AND pg_catalog.get_byte(secret, 0) = 1),
    key_id      uuid NOT NULL REFERENCES vault.keys,
    nonce       bytea NOT NULL CHECK (pg_catalog.octet_length(nonce) = 24),
    tenant_id   uuid,
    version     integer NOT NULL CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX secrets_key_id ON vault.secrets (key_id);

COMMENT ON TABLE vault.secrets IS 'Sealed secrets. Written by vault.create_secret, update_secret, delete_secret and by the functions that store credentials.';
COMMENT ON COLUMN vault.secrets.secret IS 'Format byte, ciphertext and tag of XChaCha20-Poly1305, bound to tenant, id, version, key and name';
COMMENT ON COLUMN vault.secrets.version IS 'Raised each time the secret is sealed anew';

ALTER TABLE vault.keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE vault.secrets ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON vault.keys, vault.secrets FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('vault.keys', '');
SELECT pg_catalog.pg_extension_config_dump('vault.secrets', '');

CREATE FUNCTION vault._guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'kr_vault_sql_guard';
REVOKE ALL ON FUNCTION vault._guard() FROM PUBLIC;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON vault.secrets
    FOR EACH ROW EXECUTE FUNCTION vault._guard();
ALTER TABLE vault.secrets ENABLE ALWAYS TRIGGER guard;

CREATE FUNCTION vault.create_secret(
    new_secret      text,
    new_name        text DEFAULT NULL,
    new_description text DEFAULT '',
    new_key_id      uuid DEFAULT NULL,
    new_tenant_id   uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_create';
REVOKE ALL ON FUNCTION vault.create_secret(text, text, text, uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.create_secret(text, text, text, uuid, uuid) TO kessel_admin;
COMMENT ON FUNCTION vault.create_secret(text, text, text, uuid, uuid) IS
'Seals a secret and stores it; returns its id. new_secret: up to 1 MB, may be empty, not NULL. new_name: unique, or NULL. new_tenant_id: whom it belongs to, NULL for no tenant. new_key_id: an active key of that tenant in vault.keys; NULL takes the one that is due, and makes it where there is none. Call it by SELECT with the secret as a parameter. Errors: KR010 no root key, 23505 name taken, 54000 too large, 22004 NULL, 22023 no such key or one of another tenant. For kessel_admin.';

CREATE FUNCTION vault.update_secret(
    secret_id       uuid,
    new_secret      text DEFAULT NULL,
    new_name        text DEFAULT NULL,
    new_description text DEFAULT NULL,
    new_key_id      uuid DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_update';
REVOKE ALL ON FUNCTION vault.update_secret(uuid, text, text, text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.update_secret(uuid, text, text, text, uuid) TO kessel_admin;
COMMENT ON FUNCTION vault.update_secret(uuid, text, text, text, uuid) IS
'Changes a secret; what is NULL stays as it is. A new secret, name or key seals it anew as the next version. Errors: 02000 no such secret, KR010 no root key, KR011 the old value, needed for a new name or key, cannot be opened, 23505 name taken, 54000 too large, 22023 no such key or one of another tenant. For kessel_admin.';

CREATE FUNCTION vault.delete_secret(secret_id uuid) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_delete';
REVOKE ALL ON FUNCTION vault.delete_secret(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.delete_secret(uuid) TO kessel_admin;
COMMENT ON FUNCTION vault.delete_secret(uuid) IS
'Deletes a secret; false if there is none with this id, NULL for NULL. Errors: 23503 where a data source''s credential still uses it. For kessel_admin.';

CREATE FUNCTION vault._open(
    id              uuid,
    name            text,
    version         integer,
    tenant_id       uuid,
    key_id          uuid,
    secret          bytea,
    nonce           bytea,
    key_tenant_id   uuid,
    key_root_key_id text,
    key_nonce       bytea,
    key_wrapped_key bytea
) RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'kr_vault_sql_open';
REVOKE ALL ON FUNCTION vault._open(uuid, text, integer, uuid, uuid, bytea, bytea, uuid, text, bytea, bytea) FROM PUBLIC;

CREATE VIEW vault.decrypted_secrets WITH (security_barrier) AS
SELECT s.id,
       s.name,
       s.description,
       s.secret,
       vault._open(s.id, s.name, s.version, s.tenant_id, s.key_id, s.secret, s.nonce,
                   k.tenant_id, k.root_key_id, k.nonce, k.wrapped_key) AS decrypted_secret,
       s.key_id,
       s.nonce,
       s.tenant_id,
       s.version,
       s.created_at,
       s.updated_at
  FROM vault.secrets s
  LEFT JOIN vault.keys k ON k.id OPERATOR(pg_catalog.=) s.key_id;
REVOKE ALL ON vault.decrypted_secrets FROM PUBLIC;
COMMENT ON VIEW vault.decrypted_secrets IS
'vault.secrets with their plaintext. decrypted_secret is NULL for a row that cannot be opened: its key is missing or destroyed, or the row was altered; with a warning KR010 where the root key is missing. For the owner and superusers.';

CREATE FUNCTION vault.status(
    OUT sealed              boolean,
    OUT provider            text,
    OUT root_key_id         text,
    OUT wanted_root_key_ids text[],
    OUT detail              text,
    OUT hint                text
) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_status';
REVOKE ALL ON FUNCTION vault.status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.status() TO kessel_admin;
COMMENT ON FUNCTION vault.status() IS
'Whether the vault can be used: one row. sealed: some or all secrets cannot be opened. provider: generated file, file, command, or ambiguous (both settings are set). root_key_id: fingerprint of the root key in place, NULL if there is none. wanted_root_key_ids: those that some data key needs and that are not in place. detail, hint: what to do, NULL if there is nothing. Raises no error over what it reports. For kessel_admin.';

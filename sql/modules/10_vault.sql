-- The vault's tables: wrapped data keys, sealed secrets with their former
-- versions, and who may use or read which.
--
-- Rows are written by C only, sealed before they reach a table; C works as
-- their owner. kessel_admin may look at sealed secrets and delete them, nobody
-- else may write.

CREATE TABLE vault.keys (
    id          uuid PRIMARY KEY,
    tenant_id   uuid,
    purpose     text NOT NULL DEFAULT 'seal' CHECK (purpose IN ('seal', 'box')),
    root_key_id text NOT NULL CHECK (root_key_id OPERATOR(pg_catalog.~) '^[0-9a-f]{16}$'),
    fingerprint text NOT NULL CHECK (fingerprint OPERATOR(pg_catalog.~) '^[0-9a-f]{16}$'),
    wrapped_key bytea CHECK (pg_catalog.octet_length(wrapped_key) = 48),
    nonce       bytea NOT NULL CHECK (pg_catalog.octet_length(nonce) = 24),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'retired', 'destroyed')),
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK ((status = 'destroyed') = (wrapped_key IS NULL))
);
CREATE UNIQUE INDEX keys_one_active ON vault.keys (tenant_id, purpose) NULLS NOT DISTINCT WHERE status = 'active';
CREATE INDEX keys_root_key_id ON vault.keys (root_key_id) WHERE status <> 'destroyed';

COMMENT ON TABLE vault.keys IS 'Data keys, each wrapped by a root key that is kept outside the database. Written by the vault when a tenant''s first secret is stored.';
COMMENT ON COLUMN vault.keys.tenant_id IS 'Whose secrets it seals; NULL for what belongs to no tenant';
COMMENT ON COLUMN vault.keys.purpose IS 'seal: seals secrets and values; box: opens what clients have sealed with vault.public_key()';
COMMENT ON COLUMN vault.keys.root_key_id IS 'Fingerprint of the root key that opens it';
COMMENT ON COLUMN vault.keys.fingerprint IS 'Hash of the key itself, which tells nothing about it: 16 hexadecimal digits of BLAKE2b';
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
    tags        jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(tags) = 'object'),
    expires_at  timestamptz,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    version_created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX secrets_key_id ON vault.secrets (key_id);
CREATE INDEX secrets_tenant_id ON vault.secrets (tenant_id) WHERE tenant_id IS NOT NULL;

COMMENT ON TABLE vault.secrets IS 'Sealed secrets. Written by vault.create_secret, update_secret, delete_secret and by the functions that store credentials.';
COMMENT ON COLUMN vault.secrets.name IS 'Unique among all secrets, whichever tenant they belong to; may be NULL';
COMMENT ON COLUMN vault.secrets.tenant_id IS 'Whose secret it is; NULL for what belongs to no tenant, as credentials of data sources do';
COMMENT ON COLUMN vault.secrets.key_id IS 'The data key in vault.keys that it is sealed under';
COMMENT ON COLUMN vault.secrets.secret IS 'Format byte, ciphertext and tag of XChaCha20-Poly1305, bound to tenant, id, version, key and name';
COMMENT ON COLUMN vault.secrets.version IS 'Raised with each new value or name; stays where only the key changes';
COMMENT ON COLUMN vault.secrets.tags IS 'Free for the user: an object of names and values';
COMMENT ON COLUMN vault.secrets.expires_at IS 'From then on it is not opened any more; NULL: never';
COMMENT ON COLUMN vault.secrets.updated_at IS 'Last change of any kind; version_created_at: when the present version was stored';

CREATE TABLE vault.former_versions (
    secret_id  uuid NOT NULL REFERENCES vault.secrets ON DELETE CASCADE,
    version    integer NOT NULL CHECK (version > 0),
    name       text,
    tenant_id  uuid,
    key_id     uuid NOT NULL REFERENCES vault.keys,
    secret     bytea NOT NULL CHECK (pg_catalog.octet_length(secret) >= 17 AND pg_catalog.get_byte(secret, 0) = 1),
    nonce      bytea NOT NULL CHECK (pg_catalog.octet_length(nonce) = 24),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (secret_id, version)
);
CREATE INDEX former_versions_key_id ON vault.former_versions (key_id);

COMMENT ON TABLE vault.former_versions IS 'What secrets were before, sealed as it was then. The newest kessel.secret_versions of each secret are kept.';
COMMENT ON COLUMN vault.former_versions.created_at IS 'When this version was stored';

CREATE TABLE vault.secret_grants (
    secret_id  uuid NOT NULL REFERENCES vault.secrets ON DELETE CASCADE,
    role_name  name NOT NULL,
    privilege  text NOT NULL CHECK (privilege IN ('use', 'reveal')),
    granted_by name NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (secret_id, role_name, privilege)
);

COMMENT ON TABLE vault.secret_grants IS 'Who may use or read which secret. Written by vault.grant_secret and revoke_secret. Superusers and the owner of the extension need no row.';
COMMENT ON COLUMN vault.secret_grants.role_name IS 'A role, by name so that a dump restores where it is missing; public: everyone';
COMMENT ON COLUMN vault.secret_grants.privilege IS 'use: the router and tests of connections open it for this role; reveal: this role may read it';

CREATE TABLE vault.shred_proofs (
    id               uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id        uuid NOT NULL,
    tenant           text,
    shredded_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    shredded_by      name NOT NULL,
    login_role       name NOT NULL,
    key_ids          uuid[] NOT NULL,
    key_fingerprints text[] NOT NULL,
    root_key_ids     text[] NOT NULL,
    secrets          bigint NOT NULL,
    former_versions  bigint NOT NULL
);
CREATE INDEX shred_proofs_tenant_id ON vault.shred_proofs (tenant_id);

COMMENT ON TABLE vault.shred_proofs IS 'What vault.shred_tenant has destroyed, by whom and when.';
COMMENT ON COLUMN vault.shred_proofs.tenant IS 'Its slug at that time; NULL where the tenant was gone already';
COMMENT ON COLUMN vault.shred_proofs.shredded_by IS 'The role that it was called by; login_role: the one that had logged in';
COMMENT ON COLUMN vault.shred_proofs.key_fingerprints IS 'vault.keys.fingerprint of each key, in the order of key_ids';
COMMENT ON COLUMN vault.shred_proofs.root_key_ids IS 'Root keys that these keys were wrapped by: whoever still has one of them and an old copy of the row can open it';
COMMENT ON COLUMN vault.shred_proofs.secrets IS 'Secrets of the tenant that cannot be opened any more';

DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['vault.keys', 'vault.secrets', 'vault.former_versions', 'vault.secret_grants', 'vault.shred_proofs'] LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tab);
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM PUBLIC', tab);
        EXECUTE pg_catalog.format('CREATE POLICY admin_reads ON %s FOR SELECT TO kessel_admin USING (true)', tab);
        IF tab <> 'vault.keys' THEN
            EXECUTE pg_catalog.format('GRANT SELECT ON %s TO kessel_admin', tab);
        END IF;
        PERFORM pg_catalog.pg_extension_config_dump(tab::pg_catalog.regclass, '');
    END LOOP;
END
$$;

-- Not the keys themselves: a copy would outlast their destruction.
GRANT SELECT (id, tenant_id, purpose, root_key_id, fingerprint, status, created_at, updated_at) ON vault.keys TO kessel_admin;

CREATE FUNCTION vault._guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'kr_vault_sql_guard';
REVOKE ALL ON FUNCTION vault._guard() FROM PUBLIC;

DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['vault.secrets', 'vault.former_versions'] LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION vault._guard()', tab);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER guard', tab);
    END LOOP;
END
$$;

-- Secrets from elsewhere and to elsewhere: from the extension supabase_vault,
-- and a tenant's from one installation to another.

CREATE FUNCTION vault.import_supabase(
    source_schema text DEFAULT 'supabase_vault',
    OUT secret_id uuid,
    OUT name      text,
    OUT outcome   text,
    OUT reason    text
) RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_import_supabase';
REVOKE ALL ON FUNCTION vault.import_supabase(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.import_supabase(text) TO kessel_admin;
COMMENT ON FUNCTION vault.import_supabase(text) IS
'Takes over the secrets of the extension supabase_vault, with id, name, description, created_at and updated_at, and returns a row for each. source_schema: where that extension''s schema was moved to. outcome: imported, skipped (the vault has a secret with this id or name) or failed (reason tells why; the others are imported all the same). It can be called again. The source is read with the caller''s rights and stays as it is; the caller gets both privileges on what is imported, which belongs to no tenant. Each secret is recorded. Errors: 3F000 no such schema, 42P01 it is not that of supabase_vault, 42501 the caller may not read it, 22023 it is the vault''s own, KR010 no root key. For kessel_admin.';

-- As vault.delete_secret, for what is written for Supabase Vault.
CREATE POLICY admin_deletes ON vault.secrets FOR DELETE TO kessel_admin USING (true);
GRANT DELETE ON vault.secrets TO kessel_admin;

CREATE FUNCTION vault.export_tenant(
    tenant               text,
    recipient_public_key text,
    secret_ids           uuid[] DEFAULT NULL
) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_export_tenant';
REVOKE ALL ON FUNCTION vault.export_tenant(text, text, uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.export_tenant(text, text, uuid[]) TO kessel_admin;
COMMENT ON FUNCTION vault.export_tenant(text, text, uuid[]) IS
'A tenant''s secrets in all their versions, sealed for another installation alone, which takes them with vault.import_tenant. tenant: slug or id. recipient_public_key: what vault.public_key() returns there. secret_ids: these only; NULL is all. The bundle shows names, descriptions, tags and times in the clear, values never; it carries no grants and no data keys. Up to 256 MB. Each version is recorded with the purpose export. Reads only, so it runs on a standby. Errors: KR002 no such tenant, 42501 the caller does not have the privilege reveal on each of the secrets, 22023 no public key, 02000 no such secret of the tenant, KR010 no root key, KR011 a version cannot be opened, 54000 too large, 22004 NULL. For kessel_admin.';

CREATE FUNCTION vault.import_tenant(bundle jsonb, tenant text DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_import_tenant';
REVOKE ALL ON FUNCTION vault.import_tenant(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.import_tenant(jsonb, text) TO kessel_admin;
COMMENT ON FUNCTION vault.import_tenant(jsonb, text) IS
'Takes in what vault.export_tenant has returned in another installation: all of it or, with an error, nothing; returns how many secrets. tenant: slug or id of whom they belong to here; NULL is the slug that the bundle names. Ids, names, versions and times are kept. Nobody is granted anything on them, see vault.grant_secret. Anybody can seal a bundle for a public key, so know whom it comes from. Each secret is recorded. Errors: KR002 no such tenant, KR011 altered or sealed for another vault, 22023 no bundle, 0A000 another format version, 23505 a secret with this id or name is here already, KR010 no root key, 22021 a value that the database''s encoding has not, 22004 NULL, 25006 read-only transaction. For kessel_admin.';

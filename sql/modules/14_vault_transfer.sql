-- Secrets from elsewhere: from the extension supabase_vault.

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

-- Root keys and data keys.

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

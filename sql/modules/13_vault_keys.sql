-- Root keys and data keys.

CREATE FUNCTION vault.status(
    OUT sealed              boolean,
    OUT provider            text,
    OUT root_key_id         text,
    OUT root_key_ids        text[],
    OUT wanted_root_key_ids text[],
    OUT detail              text,
    OUT hint                text
) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_status';
REVOKE ALL ON FUNCTION vault.status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.status() TO kessel_admin;
COMMENT ON FUNCTION vault.status() IS
'Whether the vault can be used: one row. sealed: some or all secrets cannot be opened. provider: generated file, file, command, environment, or ambiguous (more than one setting is set). root_key_id: fingerprint of the first root key in place, which wraps, NULL if there is none. root_key_ids: of all in place. wanted_root_key_ids: those that some data key needs and that are not in place. detail: what is to be known; hint: what to do; NULL if there is nothing. Raises no error over what it reports. For kessel_admin.';

CREATE FUNCTION vault.rotate_root_key() RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_rotate_root_key';
REVOKE ALL ON FUNCTION vault.rotate_root_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.rotate_root_key() TO kessel_admin;
COMMENT ON FUNCTION vault.rotate_root_key() IS
'Wraps all data keys of this database by the first root key in place, in one transaction; returns how many were wrapped by another. Afterwards the others can be taken out. A data key whose root key is not in place, or that was altered, stays as it is and is named in a warning. Secrets can be opened meanwhile; who seals one waits. Tells every 10,000 keys how far it is. Errors: KR010 no root key, 25001 not at READ COMMITTED. For kessel_admin.';

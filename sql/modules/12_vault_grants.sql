-- Use without reveal: who may have a secret opened, and who may read it.

CREATE FUNCTION vault.grant_secret(secret_id uuid, role_name name, privilege text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_grant';
COMMENT ON FUNCTION vault.grant_secret(uuid, name, text) IS
'Grants a privilege on a secret to a role, and so to its members, or to public. privilege: use (the router connects with it for this role, and functions compute with it) or reveal (the role may read it); neither implies the other. Who reads also needs to be a member of kessel_admin, kessel_service or kessel_user. reveal can be granted by whoever has it; use by kessel_admin. Does nothing where the grant is there, or for a NULL. Errors: 42501 the caller may not reveal the secret, 42704 no such role, 23503 no such secret, 22023 no such privilege. For kessel_admin.';

CREATE FUNCTION vault.revoke_secret(secret_id uuid, role_name name, privilege text) RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_revoke';
COMMENT ON FUNCTION vault.revoke_secret(uuid, name, text) IS
'Takes a privilege on a secret from a role or from public; false where it had none, NULL for a NULL. Holds from the next statement in every session. Error 22023 no such privilege. For kessel_admin.';

REVOKE ALL ON FUNCTION vault.grant_secret(uuid, name, text), vault.revoke_secret(uuid, name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.grant_secret(uuid, name, text), vault.revoke_secret(uuid, name, text) TO kessel_admin;

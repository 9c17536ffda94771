-- Values of users' own tables: sealed here, encrypted by an app, or sealed by a
-- client before they come in.
--
-- What opens is STABLE, so that a view with opened columns costs nothing where
-- a query leaves them out, and has a cost that puts it after cheap conditions
-- and after LIMIT.

GRANT USAGE ON SCHEMA vault TO kessel_service, kessel_user;

CREATE FUNCTION vault.seal(value text, context text) RETURNS bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'kr_columns_seal_text';
CREATE FUNCTION vault.seal(value jsonb, context text) RETURNS bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'kr_columns_seal_jsonb';
REVOKE ALL ON FUNCTION vault.seal(text, text), vault.seal(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.seal(text, text), vault.seal(jsonb, text) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.seal(text, text) IS
'Seals a value for a bytea column, under the data key of the session''s tenant, which is made where there is none. It opens for this tenant and with this context alone; context is any text that says what the value is, such as ''patients.diagnosis''. value: up to 64 MB, may be empty; NULL gives NULL. The result is 58 bytes longer. Each call gives another result. Errors: KR001 no tenant is set, 42501 not a member of it, KR003 suspended, KR010 no root key, 22004 context is NULL, 54000 too large, 25006 the tenant''s first key cannot be stored in a read-only transaction. For kessel_user, kessel_service, kessel_admin.';
COMMENT ON FUNCTION vault.seal(jsonb, text) IS
'Seals a jsonb, to be opened by vault.open_jsonb, or as text by vault.open. All else as vault.seal(text, text).';

CREATE FUNCTION vault.open(sealed bytea, context text) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'kr_columns_open';
REVOKE ALL ON FUNCTION vault.open(bytea, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.open(bytea, text) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.open(bytea, text) IS
'Opens what vault.seal has returned, for the tenant that it was sealed for and with the same context; a jsonb as its text. NULL gives NULL. Works in read-only transactions and on a hot standby. Errors: KR011 altered, cut short, of another tenant or context, or its key was destroyed; KR001 no tenant is set, 42501 not a member of it, KR003 suspended, KR010 no root key, 22004 context is NULL. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.open_jsonb(sealed bytea, context text) RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'kr_columns_open_jsonb';
REVOKE ALL ON FUNCTION vault.open_jsonb(bytea, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.open_jsonb(bytea, text) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.open_jsonb(bytea, text) IS
'Opens what vault.seal has returned for a jsonb. Errors as vault.open, and 42804 for a value that was sealed as text. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.reseal(sealed bytea, context text) RETURNS bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'kr_columns_reseal';
REVOKE ALL ON FUNCTION vault.reseal(bytea, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.reseal(bytea, text) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.reseal(bytea, text) IS
'The same value under the tenant''s active key; unchanged, and not opened, where it is under that one already. NULL gives NULL. Errors as vault.open. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.import_aes_gcm(value text, key_secret text) RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'kr_columns_import_aes_gcm';
REVOKE ALL ON FUNCTION vault.import_aes_gcm(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.import_aes_gcm(text, text) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.import_aes_gcm(text, text) IS
'Opens a value that an app has encrypted with AES-256-GCM. value: iv:authTag:ciphertext, all three in hexadecimal (of one case) or all three in standard base64 with padding; iv of 12 or 16 bytes, tag of 16 bytes, up to 64 MB; NULL gives NULL. key_secret: name or id of the secret that holds the key as 64 hexadecimal digits; the caller needs the privilege use on it. It is opened once a statement. Errors: 22P02 not of this form, KR011 altered or written under another key, 22021 not text, 22023 the secret is no such key, 02000 no such secret (for who may use all), 42501 no privilege, or no such secret, 22004 key_secret is NULL, KR010, KR012. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.encrypt_aes_gcm(
    value      text,
    key_secret text,
    encoding   text DEFAULT 'hex',
    iv_length  integer DEFAULT 12
) RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'kr_columns_encrypt_aes_gcm';
REVOKE ALL ON FUNCTION vault.encrypt_aes_gcm(text, text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.encrypt_aes_gcm(text, text, text, integer) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.encrypt_aes_gcm(text, text, text, integer) IS
'Writes what vault.import_aes_gcm opens, for apps that still read it: iv:authTag:ciphertext with a random iv. encoding: hex (lower case) or base64. iv_length: 12 or 16 bytes. value: up to 64 MB; NULL gives NULL. key_secret and errors as there, and 22023 for another encoding or length. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.public_key() RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_box_public_key';
REVOKE ALL ON FUNCTION vault.public_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.public_key() TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.public_key() IS
'The key that clients seal secrets with (libsodium''s crypto_box_seal): 32 bytes of X25519 in base64. Made on first use. Computed from the private key, which the root key opens, not read from a table. Errors: KR010 no root key, KR011 the row of the key was altered, 25006 the first key cannot be stored in a read-only transaction. For kessel_user, kessel_service, kessel_admin.';

CREATE FUNCTION vault.rotate_public_key() RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_box_rotate';
REVOKE ALL ON FUNCTION vault.rotate_public_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.rotate_public_key() TO kessel_admin;
COMMENT ON FUNCTION vault.rotate_public_key() IS
'Makes a new key for clients and returns it as vault.public_key does. What was sealed with former ones still opens, until vault.destroy_retired_public_keys is called. Errors as vault.public_key. For kessel_admin.';

CREATE FUNCTION vault.destroy_retired_public_keys() RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_box_destroy_retired';
REVOKE ALL ON FUNCTION vault.destroy_retired_public_keys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.destroy_retired_public_keys() TO kessel_admin;
COMMENT ON FUNCTION vault.destroy_retired_public_keys() IS
'Destroys all former keys of clients, but not the active one, and returns how many: what was sealed with them opens no more. Error: 25006 in a read-only transaction. For kessel_admin.';

CREATE FUNCTION vault.create_secret_sealed(
    sealed_secret   text,
    new_name        text DEFAULT NULL,
    new_description text DEFAULT '',
    new_key_id      uuid DEFAULT NULL,
    new_tenant_id   uuid DEFAULT NULL,
    new_tags        jsonb DEFAULT '{}',
    new_expires_at  timestamptz DEFAULT NULL
) RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_box_create_secret';
REVOKE ALL ON FUNCTION vault.create_secret_sealed(text, text, text, uuid, uuid, jsonb, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.create_secret_sealed(text, text, text, uuid, uuid, jsonb, timestamptz) TO kessel_admin;
COMMENT ON FUNCTION vault.create_secret_sealed(text, text, text, uuid, uuid, jsonb, timestamptz) IS
'vault.create_secret for a secret that the client has sealed with vault.public_key (crypto_box_seal), so that it stands in no statement. sealed_secret: base64, standard with padding or url-safe without; the secret in it is text in UTF-8. All else as there. Errors as there, and 22P02 no base64 or too short for a box, KR011 altered or sealed for another key, 22021 what is in it is not text. For kessel_admin.';

CREATE FUNCTION vault.update_secret_sealed(secret_id uuid, sealed_secret text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_box_update_secret';
REVOKE ALL ON FUNCTION vault.update_secret_sealed(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.update_secret_sealed(uuid, text) TO kessel_admin;
COMMENT ON FUNCTION vault.update_secret_sealed(uuid, text) IS
'vault.update_secret for a new value that the client has sealed; see vault.create_secret_sealed. For kessel_admin.';

CREATE FUNCTION vault.sealed_key_id(sealed bytea) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN octet_length(sealed) >= 58 AND get_byte(sealed, 0) = 1 THEN encode(substring(sealed FROM 3 FOR 16), 'hex')::uuid END;
REVOKE ALL ON FUNCTION vault.sealed_key_id(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.sealed_key_id(bytea) TO kessel_user, kessel_service, kessel_admin;
COMMENT ON FUNCTION vault.sealed_key_id(bytea) IS
'The data key, of vault.keys, that a value of vault.seal() stands under: which values vault.reseal() has not reached yet. NULL for NULL and for what is no sealed value. For kessel_user, kessel_service, kessel_admin.';

-- What becomes of a tenant's data keys: rotation, destruction, crypto-shred.

CREATE FUNCTION vault._retire_key(tenant_id uuid) RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_retire_key';
CREATE FUNCTION vault._reseal(tenant_id uuid, after uuid, max_secrets integer, OUT last uuid, OUT resealed bigint, OUT failed bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_reseal';
CREATE FUNCTION vault._record(action text, tenant_id uuid, count bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_vault_sql_record';

CREATE FUNCTION vault._tenant_id(tenant text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_uuid boolean := tenant ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    found_id uuid;
BEGIN
    IF tenant IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT t.id INTO found_id FROM app.tenants t WHERE t.slug = tenant OR is_uuid AND t.id::text = tenant;
    -- A tenant that was dropped may have left keys.
    IF found_id IS NULL AND is_uuid AND EXISTS (SELECT FROM vault.keys k WHERE k.tenant_id = tenant::uuid) THEN
        RETURN tenant::uuid;
    END IF;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'tenant "%" does not exist', left(tenant, 100)
            USING ERRCODE = 'KR002', HINT = 'Give the slug or the id of a tenant. One that was dropped is named by its id, see vault.keys.';
    END IF;
    RETURN found_id;
END
$$;

CREATE VIEW vault.key_usage AS
SELECT k.id AS key_id, k.tenant_id, k.purpose, k.status, k.root_key_id, k.fingerprint,
       (SELECT pg_catalog.count(*) FROM vault.secrets s WHERE s.key_id OPERATOR(pg_catalog.=) k.id) AS secrets,
       (SELECT pg_catalog.count(*) FROM vault.former_versions f WHERE f.key_id OPERATOR(pg_catalog.=) k.id) AS former_versions,
       k.created_at, k.updated_at
  FROM vault.keys k;
COMMENT ON VIEW vault.key_usage IS
'Every data key with how much it seals. During vault.rotate_tenant_key() the numbers of the retired key go down to 0. Values sealed by vault.seal() stand in tables of yours and are not counted. For kessel_admin.';

-- Neither SECURITY DEFINER nor SET: either would keep it from committing.
CREATE PROCEDURE vault.rotate_tenant_key(tenant text, batch_size integer DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
    owner_id    uuid;
    new_key     uuid;
    total       bigint;
    done        bigint := 0;
    all_failed  bigint := 0;
    last_id     uuid := '00000000-0000-0000-0000-000000000000';
    resealed    bigint;
    failed      bigint;
    next_notice timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF batch_size IS NULL OR batch_size NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'batch_size must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'vault.rotate_tenant_key() runs in READ COMMITTED only'
            USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed'' first.';
    END IF;
    owner_id := vault._tenant_id(tenant);
    new_key := vault._retire_key(owner_id);
    IF new_key IS NULL THEN
        RAISE NOTICE 'there is no key yet, and nothing to rotate';
        RETURN;
    END IF;
    COMMIT;

    SELECT pg_catalog.sum(u.secrets + u.former_versions) INTO total
    FROM vault.key_usage u
    WHERE u.tenant_id IS NOT DISTINCT FROM owner_id AND u.purpose = 'seal' AND u.status = 'retired';
    LOOP
        SELECT b.last, b.resealed, b.failed INTO last_id, resealed, failed
        FROM vault._reseal(owner_id, last_id, batch_size) b;
        COMMIT;
        EXIT WHEN last_id IS NULL;
        done := done + resealed;
        all_failed := all_failed + failed;
        IF pg_catalog.clock_timestamp() >= next_notice THEN
            RAISE NOTICE '% of % sealed anew', done, total;
            next_notice := pg_catalog.clock_timestamp() + interval '5 seconds';
        END IF;
    END LOOP;

    IF all_failed > 0 THEN
        RAISE WARNING '% could not be opened and stay under their key', all_failed
            USING HINT = 'SELECT * FROM vault.verify() tells which and why.';
    END IF;
    RAISE NOTICE '% sealed anew under key %', done, new_key;
END
$$;
COMMENT ON PROCEDURE vault.rotate_tenant_key(text, integer) IS
'Gives a tenant (slug or id; NULL: what belongs to no tenant) a new data key and seals all versions of its secrets anew, batch_size secrets at a time, each batch committed. Call it outside a transaction block. Who reads or writes secrets meanwhile never fails. Killed or cancelled it is taken up by the next call. NOTICE lines and vault.key_usage tell how far it is. A version that cannot be opened stays as it is, with a WARNING. The retired key goes on opening values of vault.seal() and old dumps; vault.destroy_key() ends it. Errors: KR002 unknown tenant, KR010 the key''s root key is not in place, 25001 not READ COMMITTED, 2D000 inside a transaction block. For kessel_admin.';

CREATE FUNCTION vault.destroy_key(key_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    key vault.keys;
BEGIN
    SELECT * INTO key FROM vault.keys k WHERE k.id = key_id FOR UPDATE;
    IF NOT FOUND OR key.status = 'destroyed' THEN
        RETURN false;
    END IF;
    IF key.status = 'active'
       OR EXISTS (SELECT FROM vault.secrets s WHERE s.key_id = key.id)
       OR EXISTS (SELECT FROM vault.former_versions f WHERE f.key_id = key.id) THEN
        RAISE EXCEPTION 'key % is in use', key.id
            USING ERRCODE = 'object_in_use',
                  DETAIL = CASE WHEN key.status = 'active' THEN 'It is active.' ELSE 'Versions of secrets are sealed under it, see vault.key_usage.' END,
                  HINT = 'CALL vault.rotate_tenant_key() first; vault.shred_tenant() destroys what is in use.';
    END IF;
    UPDATE vault.keys k SET status = 'destroyed', wrapped_key = NULL, nonce = decode(repeat('00', 24), 'hex'), updated_at = clock_timestamp()
    WHERE k.id = key_id;
    PERFORM vault._record('destroy key', key.tenant_id, 1);
    IF key.purpose = 'seal' AND key.tenant_id IS NOT NULL THEN
        RAISE NOTICE 'values that vault.seal() has sealed under key % cannot be opened any more', key.id
            USING HINT = 'vault.sealed_key_id(value) tells which they are; a ROLLBACK would keep the key.';
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION vault.destroy_key(uuid) IS
'Destroys a retired key that seals no version of a secret any more; values of vault.seal() under it are lost, see vault.reseal(), also those that transactions older than the rotation have not committed yet. False where there is no such key or it is destroyed already. Error 55006 it is active or in use. For kessel_admin.';

CREATE FUNCTION vault.shred_tenant(tenant text) RETURNS vault.shred_proofs
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    shredded uuid := vault._tenant_id(tenant);
    proof    vault.shred_proofs;
    caller   name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
    IF shredded IS NULL THEN
        RAISE EXCEPTION 'a tenant must be named' USING ERRCODE = 'null_value_not_allowed', HINT = 'Give the slug or the id of a tenant.';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'vault.shred_tenant() runs in READ COMMITTED only'
            USING ERRCODE = 'active_sql_transaction', DETAIL = 'An older snapshot could miss a key.', HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;

    -- Waits for keys that are being made, which no row lock can.
    LOCK TABLE vault.keys IN SHARE ROW EXCLUSIVE MODE;
    SELECT array_agg(k.id ORDER BY k.created_at, k.id), array_agg(k.fingerprint ORDER BY k.created_at, k.id), array_agg(DISTINCT k.root_key_id)
    INTO proof.key_ids, proof.key_fingerprints, proof.root_key_ids
    FROM vault.keys k WHERE k.tenant_id = shredded AND k.status <> 'destroyed';
    UPDATE vault.keys k SET status = 'destroyed', wrapped_key = NULL, nonce = decode(repeat('00', 24), 'hex'), updated_at = clock_timestamp()
    WHERE k.id = ANY (proof.key_ids);

    INSERT INTO vault.shred_proofs (tenant_id, tenant, shredded_by, login_role, key_ids, key_fingerprints, root_key_ids, secrets, former_versions)
    VALUES (shredded, (SELECT t.slug FROM app.tenants t WHERE t.id = shredded), caller, session_user,
            coalesce(proof.key_ids, '{}'), coalesce(proof.key_fingerprints, '{}'), coalesce(proof.root_key_ids, '{}'),
            (SELECT count(*) FROM vault.secrets s WHERE s.key_id = ANY (proof.key_ids)),
            (SELECT count(*) FROM vault.former_versions f WHERE f.key_id = ANY (proof.key_ids)))
    RETURNING * INTO proof;
    PERFORM vault._record('shred', shredded, cardinality(proof.key_ids));
    RETURN proof;
END
$$;
COMMENT ON FUNCTION vault.shred_tenant(text) IS
'Destroys all data keys of a tenant (slug or id; the tenant may have been dropped) and returns the proof, a row of vault.shred_proofs: once this is committed nothing that was sealed for it opens, here or in a dump taken later; the rows stay. Waits for transactions that are sealing for it. What older backups and WAL hold is ended by vault.rotate_root_key() and destroying the old root key, see doc/shredding.md. Errors: KR002 unknown tenant, 22004 NULL, 25001 not READ COMMITTED. For kessel_admin.';

REVOKE ALL ON vault.key_usage FROM PUBLIC;
REVOKE ALL ON FUNCTION vault._retire_key(uuid), vault._reseal(uuid, uuid, integer), vault._record(text, uuid, bigint), vault._tenant_id(text),
    vault.destroy_key(uuid), vault.shred_tenant(text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE vault.rotate_tenant_key(text, integer) FROM PUBLIC;
GRANT SELECT ON vault.key_usage TO kessel_admin;
GRANT EXECUTE ON FUNCTION vault._retire_key(uuid), vault._reseal(uuid, uuid, integer), vault._tenant_id(text),
    vault.destroy_key(uuid), vault.shred_tenant(text) TO kessel_admin;
GRANT EXECUTE ON PROCEDURE vault.rotate_tenant_key(text, integer) TO kessel_admin;

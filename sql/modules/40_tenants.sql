-- Tenants and their members. Every function is for kessel_admin.

CREATE FUNCTION kessel._data_source(name text) RETURNS app.data_sources
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source app.data_sources;
BEGIN
    SELECT * INTO source FROM app.data_sources s WHERE s.name = _data_source.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'data source "%" does not exist', left(name, 100)
            USING ERRCODE = 'KR007', HINT = 'SELECT name FROM app.data_sources lists those that do.';
    END IF;
    RETURN source;
END
$$;

CREATE FUNCTION kessel._tenant(tenant text) RETURNS app.tenants
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found app.tenants;
BEGIN
    SELECT * INTO found FROM app.tenants t WHERE t.slug = tenant OR t.id::text = tenant;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'tenant "%" does not exist', left(tenant, 100)
            USING ERRCODE = 'KR002', HINT = 'SELECT slug FROM app.tenants lists those that do.';
    END IF;
    RETURN found;
END
$$;

CREATE FUNCTION kessel._check_slug(slug text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF slug IS NULL THEN
        RAISE EXCEPTION 'a tenant needs a slug'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is what the tenant is called in kessel.tenant and in urls, such as "acme".';
    END IF;
    -- PgBouncer compares tracked settings without regard to case, so no other form is safe.
    IF slug !~ '^[a-z0-9][a-z0-9-]{0,62}$' THEN
        RAISE EXCEPTION 'invalid slug "%"', left(slug, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A slug has 1 to 63 characters: lowercase letters, digits and, but not as the first, hyphens.',
                  HINT = format('For example "%s".', coalesce(nullif(btrim(left(btrim(regexp_replace(lower(slug), '[^a-z0-9]+', '-', 'g'), '-'), 63), '-'), ''), 'acme'));
    END IF;
    IF slug ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN
        RAISE EXCEPTION 'invalid slug "%"', left(slug, 100)
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It has the form of a tenant''s id.',
                  HINT = 'To choose the id, use the argument id of kessel.create_tenant().';
    END IF;
END
$$;

CREATE FUNCTION kessel.create_tenant(
    slug                     text,
    name                     text DEFAULT NULL,
    data_source              text DEFAULT NULL,
    isolation                text DEFAULT NULL,
    tenant_id_in_data_source text DEFAULT NULL,
    id                       uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    source app.data_sources;
    new_id uuid := coalesce(create_tenant.id, gen_random_uuid());
BEGIN
    PERFORM kessel._check_slug(create_tenant.slug);
    IF EXISTS (SELECT FROM app.tenants t WHERE t.slug = create_tenant.slug) THEN
        RAISE EXCEPTION 'tenant "%" exists already', create_tenant.slug
            USING ERRCODE = 'unique_violation', HINT = 'Choose another slug. SELECT * FROM kessel.routes shows what is taken.';
    END IF;

    IF create_tenant.data_source IS NOT NULL THEN
        source := kessel._data_source(create_tenant.data_source);
    ELSE
        SELECT * INTO source FROM app.data_sources s WHERE s.is_default;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no data source was named and there is no default one'
                USING ERRCODE = 'KR007',
                      HINT = CASE WHEN EXISTS (SELECT FROM app.data_sources) THEN 'Name one, or call kessel.set_default_data_source().'
                                  ELSE 'Make a database known with kessel.create_data_source(name, url), then name it, or call kessel.set_default_data_source(name).' END;
        END IF;
    END IF;
    IF create_tenant.isolation IS NOT NULL AND create_tenant.isolation <> source.isolation THEN
        RAISE EXCEPTION 'data source "%" keeps tenants apart by %, not by %', source.name, source.isolation, create_tenant.isolation
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Leave isolation out, or choose another data source.';
    END IF;

    -- Waits for an agent that is being installed, so that its fence knows this tenant.
    PERFORM FROM app.data_sources s WHERE s.id = source.id FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'data source "%" does not exist', source.name
            USING ERRCODE = 'KR007', DETAIL = 'It was dropped a moment ago.', HINT = 'Choose another one.';
    END IF;
    IF source.isolation = 'database' AND EXISTS (SELECT FROM app.tenants t WHERE t.data_source_id = source.id) THEN
        RAISE EXCEPTION 'data source "%" already belongs to tenant "%"', source.name,
                (SELECT t.slug FROM app.tenants t WHERE t.data_source_id = source.id)
            USING ERRCODE = 'unique_violation',
                  HINT = 'A source with isolation database holds one tenant. Create one of its own for this tenant, or one with isolation schema or row for many.';
    END IF;

    BEGIN
        INSERT INTO app.tenants (id, slug, name, data_source_id, isolation, tenant_id_in_data_source)
        VALUES (new_id, create_tenant.slug, coalesce(create_tenant.name, create_tenant.slug), source.id, source.isolation,
                coalesce(create_tenant.tenant_id_in_data_source,
                         CASE source.isolation WHEN 'schema' THEN 't_' || replace(create_tenant.slug, '-', '_')
                                               ELSE new_id::text END));
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'tenant "%" cannot be created', create_tenant.slug
            USING ERRCODE = 'unique_violation',
                  DETAIL = CASE WHEN EXISTS (SELECT FROM app.tenants t WHERE t.slug = create_tenant.slug)
                                THEN 'The slug is taken.'
                                WHEN EXISTS (SELECT FROM app.tenants t WHERE t.id = new_id)
                                THEN 'The id is taken.'
                                ELSE 'Its id in the data source belongs to another tenant there.' END,
                  HINT = 'SELECT * FROM kessel.routes shows what is taken.';
    END;
    PERFORM kessel._settle_tenant(new_id);
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION kessel.create_tenant(text, text, text, text, text, uuid) IS
    'Creates a tenant in a data source (default: the default one) and returns its id. tenant_id_in_data_source: row isolation, the value of its rows'' tenant column (default: its id); schema isolation, '
    'its schema, which must exist (default: t_ and the slug with _ for -). Blueprints with for_new_tenants are applied there, to the version that the fleet has; that stays if this transaction rolls back, and does no harm. '
    'Errors: 22023 bad slug or isolation, 23505 taken, KR005 no such schema, KR006 source not safe for row isolation (DETAIL lists why), KR007, KR008 agent missing, those of a migration with their own SQLSTATE. For kessel_admin';

CREATE FUNCTION kessel.rename_tenant(tenant text, new_slug text, new_name text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old app.tenants := kessel._tenant(tenant);
BEGIN
    PERFORM kessel._check_slug(coalesce(new_slug, old.slug));
    UPDATE app.tenants t SET slug = coalesce(new_slug, t.slug), name = coalesce(new_name, t.name) WHERE t.id = old.id;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'slug "%" is taken', new_slug USING ERRCODE = 'unique_violation', HINT = 'Choose another one.';
END
$$;
COMMENT ON FUNCTION kessel.rename_tenant(text, text, text) IS
    'Gives a tenant another slug and, if not NULL, another name. Where the data is does not change. Errors: KR002, 22023, 23505. For kessel_admin';

CREATE FUNCTION kessel.suspend_tenant(tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE app.tenants t SET status = 'suspended' WHERE t.id = (kessel._tenant(tenant)).id AND t.status <> 'suspended';
END
$$;
COMMENT ON FUNCTION kessel.suspend_tenant(text) IS
    'From commit on, every session is refused with KR003 at its next statement for this tenant. Nothing happens to one that is suspended. Error KR002. For kessel_admin';

CREATE FUNCTION kessel.resume_tenant(tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant_id uuid := (kessel._tenant(tenant)).id;
BEGIN
    UPDATE app.tenants t SET status = 'active' WHERE t.id = tenant_id AND t.status <> 'active';
    PERFORM kessel._settle_tenant(tenant_id);
END
$$;
COMMENT ON FUNCTION kessel.resume_tenant(text) IS
    'Lets a suspended tenant work again, after checking its data source, and applying what it lacks, as kessel.create_tenant does. Errors: KR002 and those of kessel.create_tenant. For kessel_admin';

CREATE FUNCTION kessel.drop_tenant(tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old app.tenants := kessel._tenant(tenant);
BEGIN
    DELETE FROM app.tenants t WHERE t.id = old.id;
    DELETE FROM kessel.migration_targets k
    WHERE old.isolation = 'schema' AND k.data_source_id = old.data_source_id AND k.schema_name = old.tenant_id_in_data_source;
    IF EXISTS (SELECT FROM vault.keys k WHERE k.tenant_id = old.id AND k.status <> 'destroyed') THEN
        RAISE NOTICE 'secrets and sealed values of tenant "%" stay, with its keys', old.slug
            USING HINT = format('SELECT * FROM vault.shred_tenant(%L) destroys them.', old.id);
    END IF;
    BEGIN
        PERFORM kessel._detach_tenant(old.data_source_id, old.tenant_id_in_data_source);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'the data source of tenant "%" could not be told: %', old.slug, SQLERRM
            USING HINT = 'Nothing depends on it: without a route nobody gets there.';
    END;
END
$$;
COMMENT ON FUNCTION kessel.drop_tenant(text) IS
    'Forgets a tenant and its members. Its data stays where it is. Error KR002. For kessel_admin';

-- ---------- members ----------

CREATE FUNCTION kessel.add_member(tenant text, user_id uuid, role text DEFAULT 'member') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF role IS NULL OR role NOT IN ('owner', 'admin', 'member') THEN
        RAISE EXCEPTION 'invalid role "%"', role
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A member is an owner, an admin or a member.';
    END IF;
    INSERT INTO app.user_tenants AS m (user_id, tenant_id, role)
    VALUES (add_member.user_id, (kessel._tenant(tenant)).id, add_member.role)
    ON CONFLICT ON CONSTRAINT user_tenants_pkey DO UPDATE SET role = excluded.role, is_active = true;
END
$$;
COMMENT ON FUNCTION kessel.add_member(text, uuid, text) IS
    'Lets a user work for a tenant; one who is a member already gets the role and is active again. Errors: KR002, 22023 no such role, 23502 NULL user. For kessel_admin';

CREATE FUNCTION kessel._change_member(tenant text, user_id uuid, active boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_tenant uuid := (kessel._tenant(tenant)).id;
BEGIN
    IF active IS NULL THEN
        DELETE FROM app.user_tenants m WHERE m.user_id = _change_member.user_id AND m.tenant_id = of_tenant;
    ELSE
        UPDATE app.user_tenants m SET is_active = active WHERE m.user_id = _change_member.user_id AND m.tenant_id = of_tenant;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'user % is not a member of tenant "%"', user_id, tenant
            USING ERRCODE = 'no_data_found', HINT = 'kessel.add_member() makes one.';
    END IF;
END
$$;

CREATE FUNCTION kessel.remove_member(tenant text, user_id uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT kessel._change_member(tenant, user_id, NULL) $$;
CREATE FUNCTION kessel.activate_member(tenant text, user_id uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT kessel._change_member(tenant, user_id, true) $$;
CREATE FUNCTION kessel.deactivate_member(tenant text, user_id uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT kessel._change_member(tenant, user_id, false) $$;
COMMENT ON FUNCTION kessel.remove_member(text, uuid) IS 'Ends a membership; sessions in use are refused at their next statement. Errors: KR002, P0002 not a member. For kessel_admin';
COMMENT ON FUNCTION kessel.activate_member(text, uuid) IS 'Makes a membership count again. Errors: KR002, P0002 not a member. For kessel_admin';
COMMENT ON FUNCTION kessel.deactivate_member(text, uuid) IS 'Makes a membership count no more, without forgetting it. Errors: KR002, P0002 not a member. For kessel_admin';

REVOKE ALL ON FUNCTION
    kessel._data_source(text), kessel._tenant(text), kessel._check_slug(text), kessel._change_member(text, uuid, boolean),
    kessel.create_tenant(text, text, text, text, text, uuid), kessel.rename_tenant(text, text, text),
    kessel.suspend_tenant(text), kessel.resume_tenant(text), kessel.drop_tenant(text),
    kessel.add_member(text, uuid, text), kessel.remove_member(text, uuid),
    kessel.activate_member(text, uuid), kessel.deactivate_member(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    kessel.create_tenant(text, text, text, text, text, uuid), kessel.rename_tenant(text, text, text),
    kessel.suspend_tenant(text), kessel.resume_tenant(text), kessel.drop_tenant(text),
    kessel.add_member(text, uuid, text), kessel.remove_member(text, uuid),
    kessel.activate_member(text, uuid), kessel.deactivate_member(text, uuid) TO kessel_admin;

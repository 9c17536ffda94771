-- Tenants with their data sources in one row, as apps know them that open their own
-- clients.

SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION infra.all_tenants() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF infra.is_admin() THEN
        RETURN QUERY SELECT t.id FROM app.tenants t;
    END IF;
END
$$;
COMMENT ON FUNCTION infra.all_tenants() IS 'All tenants, for an administrator; else none';

CREATE FUNCTION infra.visible_tenants() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_has_role('service_role', 'USAGE') THEN
        RETURN QUERY SELECT t.id FROM app.tenants t;
    ELSIF infra.is_admin() THEN
        RETURN QUERY SELECT infra.all_tenants();
    ELSE
        RETURN QUERY SELECT m.tenant_id FROM app.user_tenants m WHERE m.user_id = auth.uid() AND m.is_active;
    END IF;
END
$$;
COMMENT ON FUNCTION infra.visible_tenants() IS 'The tenants that the caller sees: the service and administrators all, users those that they are active in';

-- Not a CASE in the view: the executor asks for the right to call all that an
-- expression names.
CREATE FUNCTION infra.api_key(data_source_id uuid, purpose text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF has_function_privilege('kessel._api_key(uuid, text)', 'EXECUTE') THEN
        RETURN kessel._api_key(data_source_id, purpose);
    END IF;
    RETURN '********';
END
$$;
COMMENT ON FUNCTION infra.api_key(uuid, text) IS 'A key of a data source''s API for who may open it; else asterisks';

CREATE FUNCTION infra.shown_url(api_url text, conninfo jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(api_url, format('postgresql://%s:%s/%s', coalesce(conninfo ->> 'host', conninfo ->> 'hostaddr'), coalesce(conninfo ->> 'port', '5432'), conninfo ->> 'dbname'))
$$;
COMMENT ON FUNCTION infra.shown_url(text, jsonb) IS 'The url of a data source, without user and password';

CREATE VIEW public.tenants WITH (security_barrier) AS
SELECT t.id, t.name, t.slug AS subdomain,
       infra.shown_url(s.api_url, s.conninfo) AS data_source_url,
       CASE WHEN a.secret_id IS NOT NULL THEN infra.api_key(s.id, 'anon') END AS data_source_anon_key,
       CASE WHEN k.secret_id IS NOT NULL THEN infra.api_key(s.id, 'service') END AS data_source_service_key,
       s.region AS data_source_region, s.pool_config AS connection_pool_config,
       CASE WHEN pg_has_role('service_role', 'USAGE') OR infra.is_admin() THEN s.notes END AS data_source_notes,
       t.tenant_id_in_data_source, t.status, t.created_at, t.updated_at
FROM app.tenants t
JOIN app.data_sources s ON s.id = t.data_source_id
LEFT JOIN app.data_source_credentials a ON a.data_source_id = s.id AND a.purpose = 'anon'
LEFT JOIN app.data_source_credentials k ON k.data_source_id = s.id AND k.purpose = 'service'
WHERE t.id IN (SELECT infra.visible_tenants());
COMMENT ON VIEW public.tenants IS 'Tenants with their data sources. Keys are opened for service_role, and each opening is recorded; others see asterisks. service_role writes: that makes or changes the tenant and a data source of its own, and seals the keys';
COMMENT ON COLUMN public.tenants.subdomain IS 'The slug';
COMMENT ON COLUMN public.tenants.data_source_url IS 'https://: the API of a Supabase project, whose database stands behind it; or postgresql://. Written as NULL: the tenant goes to the default data source';
COMMENT ON COLUMN public.tenants.data_source_notes IS 'NULL but for administrators and the service';

-- Where the database of a Supabase project is; a url of another kind as it is.
CREATE FUNCTION infra.database_url(url text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN url ~* '^https?://[a-z0-9]+\.supabase\.(co|in|red)/?$' THEN regexp_replace(lower(url), '^https?://([a-z0-9.]+).*$', 'postgresql://db.\1:5432/postgres')
                WHEN url ~* '^https?://[a-z0-9.-]+' THEN regexp_replace(lower(url), '^https?://([a-z0-9.-]+).*$', 'postgresql://\1:5432/postgres')
                ELSE url END
$$;
COMMENT ON FUNCTION infra.database_url(text) IS 'The url of the database behind an API';

CREATE FUNCTION infra.kind_of(url text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN url ~* '^https?://' THEN 'supabase' WHEN url ~* '^[a-z]+://[^/]*\.neon\.tech([:/]|$)' THEN 'neon' ELSE 'postgres' END
$$;
COMMENT ON FUNCTION infra.kind_of(text) IS 'The kind of a data source, by its url';

CREATE FUNCTION infra.insert_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source text := NEW.subdomain;
BEGIN
    IF NEW.subdomain IS NULL THEN
        RAISE EXCEPTION 'subdomain is missing'
            USING ERRCODE = 'null_value_not_allowed', DETAIL = 'It is the slug of the tenant, such as "acme".';
    ELSIF EXISTS (SELECT FROM app.tenants t WHERE t.slug = NEW.subdomain) THEN
        RAISE EXCEPTION 'tenant "%" exists already', NEW.subdomain USING ERRCODE = 'unique_violation', HINT = 'Update it, or choose another subdomain.';
    ELSIF NEW.data_source_url IS NOT NULL AND EXISTS (SELECT FROM app.data_sources s WHERE s.name = NEW.subdomain) THEN
        RAISE EXCEPTION 'data source "%" exists already', NEW.subdomain
            USING ERRCODE = 'unique_violation', DETAIL = 'A tenant that is deleted leaves its data source.',
                  HINT = format('An administrator can give it to a tenant again, by kessel.create_tenant(%1$L, data_source => %1$L), or forget it, by kessel.drop_data_source(%1$L).', NEW.subdomain);
    END IF;
    IF NEW.data_source_url IS NULL THEN
        IF (NEW.data_source_anon_key, NEW.data_source_service_key, NEW.data_source_region, NEW.data_source_notes, NEW.connection_pool_config) IS DISTINCT FROM (NULL, NULL, NULL, NULL, NULL) THEN
            RAISE EXCEPTION 'data_source_url is missing'
                USING ERRCODE = 'invalid_parameter_value', DETAIL = 'Without it the tenant goes to the default data source, which is not the tenant''s to describe.';
        END IF;
        source := NULL;
    ELSE
        PERFORM kessel.create_data_source(source, infra.database_url(NEW.data_source_url), NEW.data_source_region, 'database', notes => NEW.data_source_notes);
        PERFORM kessel.set_api(source, CASE WHEN NEW.data_source_url ~* '^https?://' THEN NEW.data_source_url END,
                               NEW.data_source_anon_key, NEW.data_source_service_key, infra.kind_of(NEW.data_source_url), NEW.connection_pool_config);
    END IF;
    NEW.id := kessel.create_tenant(NEW.subdomain, NEW.name, source, tenant_id_in_data_source => NEW.tenant_id_in_data_source, id => NEW.id);
    IF NEW.status = 'suspended' THEN
        PERFORM kessel.suspend_tenant(NEW.id::text);
    ELSIF NEW.status <> 'active' THEN
        RAISE EXCEPTION 'invalid status' USING ERRCODE = 'invalid_parameter_value', HINT = 'It is active or suspended.';
    END IF;
    SELECT t.name, t.tenant_id_in_data_source, t.status, t.created_at, t.updated_at, infra.shown_url(s.api_url, s.conninfo)
    INTO NEW.name, NEW.tenant_id_in_data_source, NEW.status, NEW.created_at, NEW.updated_at, NEW.data_source_url
    FROM app.tenants t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.id = NEW.id;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.insert_tenant() IS 'Makes a tenant and, where there is a url, a data source of its own with the tenant''s slug as its name';

CREATE FUNCTION infra.update_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source app.data_sources;
    masked constant text := '********';
BEGIN
    IF (NEW.id, NEW.tenant_id_in_data_source) IS DISTINCT FROM (OLD.id, OLD.tenant_id_in_data_source) THEN
        RAISE EXCEPTION 'id and tenant_id_in_data_source cannot be changed'
            USING ERRCODE = 'feature_not_supported', DETAIL = 'The tenant''s data is found by them.';
    END IF;
    IF NEW.status IS NULL OR NEW.status NOT IN ('active', 'suspended') THEN
        RAISE EXCEPTION 'invalid status' USING ERRCODE = 'invalid_parameter_value', HINT = 'It is active or suspended.';
    END IF;
    IF (NEW.data_source_url, NEW.data_source_anon_key, NEW.data_source_service_key, NEW.data_source_region, NEW.connection_pool_config, NEW.data_source_notes)
       IS DISTINCT FROM (OLD.data_source_url, OLD.data_source_anon_key, OLD.data_source_service_key, OLD.data_source_region, OLD.connection_pool_config, OLD.data_source_notes) THEN
        SELECT s.* INTO source FROM app.tenants t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.id = OLD.id;
        IF source.isolation <> 'database' THEN
            RAISE EXCEPTION 'data source "%" is shared', source.name
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'What one tenant''s row says of it would hold for others, too.', HINT = 'kessel.alter_data_source() and kessel.set_api() change it.';
        END IF;
        PERFORM kessel.alter_data_source(source.name, CASE WHEN NEW.data_source_url <> OLD.data_source_url THEN infra.database_url(NEW.data_source_url) END,
                                         NEW.data_source_region, notes => NEW.data_source_notes);
        -- A url that is no API's takes the place of one that is.
        PERFORM kessel.set_api(source.name, CASE WHEN NEW.data_source_url ~* '^https?://' THEN NEW.data_source_url WHEN NEW.data_source_url <> OLD.data_source_url THEN '' END,
                               nullif(NEW.data_source_anon_key, masked), nullif(NEW.data_source_service_key, masked),
                               CASE WHEN NEW.data_source_url IS NOT NULL THEN infra.kind_of(NEW.data_source_url) END, NEW.connection_pool_config);
    END IF;
    IF (NEW.subdomain, NEW.name) IS DISTINCT FROM (OLD.subdomain, OLD.name) THEN
        PERFORM kessel.rename_tenant(OLD.id::text, NEW.subdomain, NEW.name);
    END IF;
    IF NEW.status <> OLD.status THEN
        IF NEW.status = 'suspended' THEN
            PERFORM kessel.suspend_tenant(OLD.id::text);
        ELSE
            PERFORM kessel.resume_tenant(OLD.id::text);
        END IF;
    END IF;
    SELECT t.updated_at, infra.shown_url(s.api_url, s.conninfo) INTO NEW.updated_at, NEW.data_source_url
    FROM app.tenants t JOIN app.data_sources s ON s.id = t.data_source_id WHERE t.id = OLD.id;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.update_tenant() IS 'Changes a tenant and its own data source. NULL leaves keys, url, region and notes as they are';

CREATE FUNCTION infra.delete_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kessel.drop_tenant(OLD.id::text);
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION infra.delete_tenant() IS 'Drops a tenant; its data source stays';

-- With the rights of whoever writes, and before the others, which act with the owner's:
-- that somebody has been granted all in public is not enough.
CREATE FUNCTION infra.guard_tenant() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role('service_role', 'USAGE') AND NOT (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = TG_RELID) THEN
        RAISE EXCEPTION 'permission denied to write tenants' USING ERRCODE = 'insufficient_privilege', HINT = 'The service can.';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION infra.guard_tenant() IS 'Keeps tenants for the service to write';

-- In the order of their names.
CREATE TRIGGER allowed INSTEAD OF INSERT OR UPDATE OR DELETE ON public.tenants FOR EACH ROW EXECUTE FUNCTION infra.guard_tenant();
CREATE TRIGGER insert_tenant INSTEAD OF INSERT ON public.tenants FOR EACH ROW EXECUTE FUNCTION infra.insert_tenant();
CREATE TRIGGER update_tenant INSTEAD OF UPDATE ON public.tenants FOR EACH ROW EXECUTE FUNCTION infra.update_tenant();
CREATE TRIGGER delete_tenant INSTEAD OF DELETE ON public.tenants FOR EACH ROW EXECUTE FUNCTION infra.delete_tenant();

REVOKE ALL ON TABLE public.tenants FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.tenants TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.tenants TO service_role;
REVOKE ALL ON FUNCTION infra.all_tenants(), infra.visible_tenants(), infra.api_key(uuid, text), infra.shown_url(text, jsonb), infra.database_url(text), infra.kind_of(text),
    infra.guard_tenant(), infra.insert_tenant(), infra.update_tenant(), infra.delete_tenant() FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.visible_tenants(), infra.api_key(uuid, text), infra.shown_url(text, jsonb) TO authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.all_tenants() TO authenticated;

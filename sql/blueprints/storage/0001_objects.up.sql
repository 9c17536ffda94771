-- Buckets and objects in the shape of Supabase's storage. What Supabase has made is
-- used as it is; what is made here in schema storage has a comment that begins with
-- "kessel_router storage:", by which the way back knows it. Content is ours in any
-- case: infra.object_contents.

SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION infra.guard_object() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_its boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        is_its := (NEW.owner, NEW.owner_id) IS NOT DISTINCT FROM (OLD.owner, OLD.owner_id);
    ELSE
        is_its := (NEW.owner, NEW.owner_id) IS NOT DISTINCT FROM (auth.uid(), auth.uid()::text);
    END IF;
    IF NOT is_its AND row_security_active('storage.objects') THEN
        RAISE EXCEPTION 'permission denied to make somebody else the owner of an object'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Leave owner and owner_id out. The service can write them.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.guard_object() IS 'Who makes an object is its owner';
REVOKE ALL ON FUNCTION infra.guard_object() FROM PUBLIC, anon, authenticated, service_role;

-- What triggers, defaults and the like of these tables do, they do with the rights of
-- whoever writes them: the one who sets up, or takes back. Supabase lets everybody make
-- triggers, with functions in temporary schemas, too.
CREATE FUNCTION infra.check_storage_owners() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stranger record;
BEGIN
    -- Keeps triggers from being made until the transaction ends.
    LOCK TABLE storage.buckets, storage.objects IN ROW EXCLUSIVE MODE;
    SELECT w.what, pg_get_userbyid(w.owner) AS name INTO stranger
    FROM (SELECT 'schema storage', (SELECT n.nspowner FROM pg_namespace n WHERE n.oid = to_regnamespace('storage'))
          UNION ALL SELECT 'table ' || t, (SELECT c.relowner FROM pg_class c WHERE c.oid = to_regclass(t)) FROM unnest(ARRAY['storage.buckets', 'storage.objects']) t
          UNION ALL SELECT format('function of trigger %I on %s', t.tgname, t.tgrelid::regclass), p.proowner
          FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid IN ('storage.buckets'::regclass, 'storage.objects'::regclass)) w(what, owner)
    WHERE NOT coalesce(pg_has_role(w.owner, current_user, 'MEMBER') OR pg_get_userbyid(w.owner) IN ('supabase_admin', 'supabase_storage_admin'), false)
    LIMIT 1;
    IF stranger.what IS NOT NULL THEN
        RAISE EXCEPTION '% belongs to role "%"', stranger.what, stranger.name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('What the owner does with it would be done with the rights of role "%s", which the owner does not have.', current_user),
                  HINT = 'Look at it, and drop it or ALTER its OWNER; or call kessel.setup() as a role that the owner could become.';
    END IF;
END
$$;
COMMENT ON FUNCTION infra.check_storage_owners() IS 'Raises 42501 where somebody has something on the tables of storage who could not become the caller';
REVOKE ALL ON FUNCTION infra.check_storage_owners() FROM PUBLIC, anon, authenticated, service_role;

DO $$
DECLARE
    lacking text;
BEGIN
    IF to_regnamespace('storage') IS NULL THEN
        CREATE SCHEMA storage;
        COMMENT ON SCHEMA storage IS 'kessel_router storage: files in buckets';
        REVOKE ALL ON SCHEMA storage FROM PUBLIC, anon, authenticated, service_role;
        GRANT USAGE ON SCHEMA storage TO anon, authenticated, service_role;
    ELSE
        RAISE NOTICE 'schema storage is there already and is used as it is; it belongs to role "%"',
            (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'storage');
        IF NOT has_schema_privilege('storage', 'CREATE')
           OR EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass('storage.objects') AND NOT pg_has_role(c.relowner, 'USAGE')) THEN
            RAISE EXCEPTION 'permission denied to add to schema storage'
                USING ERRCODE = 'insufficient_privilege', DETAIL = 'Functions and policies are made in it.',
                      HINT = 'Call kessel.setup() as a superuser, or as a member of the role that owns storage.objects: supabase_storage_admin.';
        END IF;
    END IF;

    IF to_regclass('storage.buckets') IS NULL THEN
        CREATE TABLE storage.buckets (
            id                 text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
            name               text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
            owner              uuid,
            owner_id           text,
            public             boolean DEFAULT false,
            avif_autodetection boolean DEFAULT false,
            file_size_limit    bigint CHECK (file_size_limit >= 0),
            allowed_mime_types text[] CHECK (cardinality(allowed_mime_types) <= 100),
            created_at         timestamptz DEFAULT now(),
            updated_at         timestamptz DEFAULT now()
        );
        CREATE UNIQUE INDEX bname ON storage.buckets (name);
        COMMENT ON TABLE storage.buckets IS 'kessel_router storage: where files are kept, and what may be kept there';
        COMMENT ON COLUMN storage.buckets.public IS 'storage.get_object() gives its objects to everybody who knows their names';
        COMMENT ON COLUMN storage.buckets.file_size_limit IS 'Bytes a file; NULL: 50 MB';
        COMMENT ON COLUMN storage.buckets.allowed_mime_types IS 'Such as text/css or image/*; NULL: all';
        CREATE TRIGGER touch BEFORE UPDATE ON storage.buckets FOR EACH ROW EXECUTE FUNCTION infra.touch();

        ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY;
        CREATE POLICY public_is_read ON storage.buckets FOR SELECT TO anon USING (public);
        CREATE POLICY public_or_admin_reads ON storage.buckets FOR SELECT TO authenticated USING (public OR (SELECT infra.is_admin()));
        CREATE POLICY admin_inserts ON storage.buckets FOR INSERT TO authenticated WITH CHECK ((SELECT infra.is_admin()));
        CREATE POLICY admin_updates ON storage.buckets FOR UPDATE TO authenticated USING ((SELECT infra.is_admin()));
        CREATE POLICY admin_deletes ON storage.buckets FOR DELETE TO authenticated USING ((SELECT infra.is_admin()));
        CREATE POLICY service ON storage.buckets TO service_role USING (true);
        REVOKE ALL ON TABLE storage.buckets FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT ON storage.buckets TO anon;
        GRANT SELECT, INSERT, UPDATE, DELETE ON storage.buckets TO authenticated, service_role;
    END IF;

    -- Its policies are the app's, as with Supabase; those of the bucket themes are made with it.
    IF to_regclass('storage.objects') IS NULL THEN
        CREATE TABLE storage.objects (
            id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            bucket_id        text NOT NULL REFERENCES storage.buckets,
            name             text NOT NULL CHECK (octet_length(name) <= 1024 AND name !~ '(^|/)\.{0,2}(/|$)' AND name !~ '[[:cntrl:]\\]'),
            owner            uuid DEFAULT auth.uid(),
            owner_id         text DEFAULT auth.uid()::text,
            created_at       timestamptz DEFAULT now(),
            updated_at       timestamptz DEFAULT now(),
            last_accessed_at timestamptz DEFAULT now(),
            metadata         jsonb,
            path_tokens      text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED,
            version          text,
            user_metadata    jsonb CHECK (octet_length(user_metadata::text) <= 65536)
        );
        CREATE UNIQUE INDEX bucketid_objname ON storage.objects (bucket_id, name);
        CREATE INDEX idx_objects_bucket_id_name ON storage.objects (bucket_id, name COLLATE "C");
        COMMENT ON TABLE storage.objects IS 'kessel_router storage: files; storage.put_object() writes them';
        COMMENT ON COLUMN storage.objects.metadata IS 'eTag, size (bytes), mimetype, cacheControl, lastModified: as the content is, whoever writes it';
        COMMENT ON COLUMN storage.objects.version IS 'kessel: and the id of its content; NULL where it has none';
        COMMENT ON COLUMN storage.objects.last_accessed_at IS 'Is not kept up';
        CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON storage.objects FOR EACH ROW EXECUTE FUNCTION infra.guard_object();
        CREATE TRIGGER touch BEFORE UPDATE ON storage.objects FOR EACH ROW EXECUTE FUNCTION infra.touch();

        ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
        CREATE POLICY service ON storage.objects TO service_role USING (true);
        REVOKE ALL ON TABLE storage.objects FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT ON storage.objects TO anon;
        GRANT SELECT, INSERT, UPDATE, DELETE ON storage.objects TO authenticated, service_role;
    END IF;

    PERFORM infra.check_storage_owners();
    SELECT string_agg(w.tab || '.' || w.col, ', ' ORDER BY 1) INTO lacking
    FROM (VALUES ('buckets', 'id'), ('buckets', 'name'), ('buckets', 'public'), ('buckets', 'file_size_limit'), ('buckets', 'allowed_mime_types'), ('objects', 'id'), ('objects', 'bucket_id'),
                 ('objects', 'name'), ('objects', 'owner'), ('objects', 'owner_id'), ('objects', 'created_at'), ('objects', 'updated_at'), ('objects', 'metadata'), ('objects', 'version')) w(tab, col)
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass('storage.' || w.tab) AND a.attname = w.col AND NOT a.attisdropped);
    IF lacking IS NOT NULL THEN
        RAISE EXCEPTION 'schema storage is there already, and is not as it should be'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'It lacks ' || lacking || '.', HINT = 'Update Supabase''s storage.';
    END IF;

    IF to_regprocedure('storage.foldername(text)') IS NULL THEN
        CREATE FUNCTION storage.foldername(name text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN (string_to_array(name, '/'))[1 : array_length(string_to_array(name, '/'), 1) - 1];
        COMMENT ON FUNCTION storage.foldername(text) IS 'kessel_router storage: the folders of a name, for policies: (storage.foldername(name))[1]';
    END IF;
    IF to_regprocedure('storage.filename(text)') IS NULL THEN
        CREATE FUNCTION storage.filename(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN (string_to_array(name, '/'))[array_length(string_to_array(name, '/'), 1)];
        COMMENT ON FUNCTION storage.filename(text) IS 'kessel_router storage: a name without its folders';
    END IF;
    IF to_regprocedure('storage.extension(text)') IS NULL THEN
        CREATE FUNCTION storage.extension(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN reverse(split_part(reverse((string_to_array(name, '/'))[array_length(string_to_array(name, '/'), 1)]), '.', 1));
        COMMENT ON FUNCTION storage.extension(text) IS 'kessel_router storage: what stands behind the last dot of a name';
    END IF;
END
$$;

-- ---------- content ----------

CREATE TABLE infra.object_contents (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    object_id  uuid REFERENCES storage.objects ON DELETE CASCADE,
    bucket_id  text CHECK (bucket_id IS NOT NULL OR object_id IS NULL),
    mime_type  text NOT NULL,
    content    bytea NOT NULL,
    size       bigint NOT NULL GENERATED ALWAYS AS (octet_length(content)) STORED,
    etag       text NOT NULL GENERATED ALWAYS AS ('"' || encode(sha256(content), 'hex') || '"') STORED,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX object_contents_object_id ON infra.object_contents (object_id);
COMMENT ON TABLE infra.object_contents IS 'What is in the files of storage.objects. Written by storage.put_object()';
COMMENT ON COLUMN infra.object_contents.object_id IS 'NULL until the object has it as its version; without an object it is deleted at commit';
COMMENT ON COLUMN infra.object_contents.bucket_id IS 'Of the object: whose limits hold when it gets the content, so that nobody is told of them who may not write there';
COMMENT ON COLUMN infra.object_contents.size IS 'Bytes';
COMMENT ON COLUMN infra.object_contents.etag IS 'SHA-256 in hexadecimal digits, in quotes';
ALTER TABLE infra.object_contents ENABLE ROW LEVEL SECURITY;
CREATE POLICY object_is_seen ON infra.object_contents FOR SELECT TO anon, authenticated
    USING (EXISTS (SELECT FROM storage.objects o WHERE o.id = object_id AND o.version = 'kessel:' || object_contents.id));
CREATE POLICY service ON infra.object_contents FOR SELECT TO service_role USING (true);
REVOKE ALL ON TABLE infra.object_contents FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON infra.object_contents TO anon, authenticated, service_role;

CREATE FUNCTION infra.check_object_name(name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    wrong := CASE
        WHEN name IS NULL OR name = '' THEN 'It is empty.'
        WHEN octet_length(name) > 1024 THEN 'It is longer than 1024 bytes.'
        WHEN name ~ E'[\\x01-\\x1f\\x7f-\\x9f]' THEN 'It has control characters.'
        WHEN strpos(name, '\') > 0 THEN 'It has a backslash.'
        WHEN name ~ '^/|/$|//' THEN 'A folder or the file has no name.'
        WHEN name ~ '(^|/)\.\.?(/|$)' THEN 'A folder or the file is called "." or "..".'
        WHEN EXISTS (SELECT FROM unnest(string_to_array(name, '/')) part WHERE octet_length(part) > 255) THEN 'A folder or the file has a name of more than 255 bytes.' END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invalid name of an object'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = wrong, HINT = 'Name folders and file with slashes between them, as in css/dark.css.';
    END IF;
END
$$;
COMMENT ON FUNCTION infra.check_object_name(text) IS 'Raises 22023 for a name that an object cannot have';

-- Parameters are names with values: a comma, say, would let a type be read as two.
CREATE FUNCTION infra.check_mime_type(mime_type text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    token constant text := '[A-Za-z0-9!#$&^_.+-]+';
BEGIN
    IF octet_length(mime_type) > 255 OR mime_type ~ '[^ -~]' OR mime_type !~ format('^%1$s/%1$s( *; *%1$s=(%1$s|"[^",;\\]*"))*$', token) THEN
        RAISE EXCEPTION 'invalid MIME type'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A type has up to 255 characters of ASCII.', HINT = 'Name one such as text/css, or text/css; charset=utf-8.';
    END IF;
END
$$;
COMMENT ON FUNCTION infra.check_mime_type(text) IS 'Raises 22023 for what is not the type of one file, with parameters or without';

-- Whether a bucket takes a file; DETAIL says why not.
CREATE FUNCTION infra.check_object(bucket text, mime_type text, size bigint) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record;
    essence text := lower(btrim(split_part(mime_type, ';', 1)));
BEGIN
    SELECT b.id, coalesce(b.file_size_limit, 52428800) AS most, b.allowed_mime_types AS types INTO place FROM storage.buckets b WHERE b.id = bucket;
    IF place.id IS NULL THEN
        RAISE EXCEPTION 'bucket "%" does not exist', left(bucket, 100)
            USING ERRCODE = 'no_data_found', HINT = 'INSERT INTO storage.buckets (id, name) makes one.';
    END IF;
    IF size > place.most THEN
        RAISE EXCEPTION 'a file of % bytes is too large for bucket "%"', size, bucket
            USING ERRCODE = 'program_limit_exceeded', DETAIL = format('It takes up to %s bytes a file.', place.most);
    END IF;
    IF NOT EXISTS (SELECT FROM unnest(coalesce(place.types, '{*/*}')) t(allowed)
                   WHERE lower(t.allowed) IN (essence, split_part(essence, '/', 1) || '/*', '*/*')) THEN
        RAISE EXCEPTION 'bucket "%" does not take files of type "%"', bucket, essence
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It takes ' || array_to_string(place.types, ', ') || '.';
    END IF;
END
$$;
COMMENT ON FUNCTION infra.check_object(text, text, bigint) IS
    'Raises an error where a bucket does not take a file of this type and size (bytes): P0002 no such bucket, 22023 a type that it does not take, 54000 too large';

CREATE FUNCTION infra.check_content() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM infra.check_mime_type(NEW.mime_type);
    IF NEW.bucket_id IS NOT NULL THEN
        PERFORM infra.check_object(NEW.bucket_id, NEW.mime_type, octet_length(NEW.content));
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.check_content() IS 'Keeps to the limits of the bucket';
CREATE TRIGGER limits BEFORE INSERT OR UPDATE OF object_id, bucket_id, mime_type, content ON infra.object_contents FOR EACH ROW EXECUTE FUNCTION infra.check_content();

CREATE FUNCTION infra.drop_unused_content() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM infra.object_contents c WHERE c.id = NEW.id AND c.object_id IS NULL;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.drop_unused_content() IS 'Deletes at commit what no object has';
CREATE CONSTRAINT TRIGGER unused AFTER INSERT ON infra.object_contents DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION infra.drop_unused_content();

-- Until an object has it no bucket's limit holds, only the largest of them all.
CREATE FUNCTION infra.add_content(mime_type text, content bytea) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most bigint := (SELECT max(coalesce(b.file_size_limit, 52428800)) FROM storage.buckets b);
    new_id uuid;
BEGIN
    IF octet_length(content) > coalesce(most, 0) THEN
        RAISE EXCEPTION 'a file of % bytes is too large', octet_length(content)
            USING ERRCODE = 'program_limit_exceeded', DETAIL = 'No bucket takes it.';
    END IF;
    INSERT INTO infra.object_contents AS c (mime_type, content) VALUES (add_content.mime_type, add_content.content) RETURNING c.id INTO new_id;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION infra.add_content(text, bytea) IS
    'Stores the content of an object that is about to be written with version kessel: and the id that is returned. Gives no right to write an object: without one it is deleted at commit. Errors: 23502 NULL, 22023 bad type, 54000 larger than any bucket takes';

-- ---------- objects ----------

CREATE FUNCTION infra.object_content_is_its() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found infra.object_contents;
    cache text := NEW.metadata ->> 'cacheControl';
BEGIN
    PERFORM infra.check_object_name(NEW.name);
    IF NEW.version ~ '^kessel:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        SELECT c.id, c.object_id, c.bucket_id, c.mime_type, ''::bytea, c.size, c.etag, c.created_at INTO found
        FROM infra.object_contents c WHERE c.id = substr(NEW.version, 8)::uuid;
    END IF;
    IF found.id IS NULL OR (found.object_id IS NOT NULL AND found.object_id <> NEW.id) THEN
        RAISE EXCEPTION 'version of an object is not one of its own'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Call storage.put_object().';
    END IF;
    IF cache IS NULL OR octet_length(cache) > 200 OR cache ~ '[^ -~]' THEN
        cache := 'max-age=3600';
    END IF;
    NEW.metadata := jsonb_build_object('eTag', found.etag, 'size', found.size, 'contentLength', found.size, 'mimetype', found.mime_type, 'cacheControl', cache,
                                       'lastModified', to_char(found.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'httpStatusCode', 200);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION infra.object_content_is_its() IS 'Holds name, version and metadata of an object against its content';

CREATE FUNCTION infra.object_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_has uuid := CASE WHEN NEW.version LIKE 'kessel:%' THEN substr(NEW.version, 8)::uuid END;
BEGIN
    DELETE FROM infra.object_contents c WHERE c.object_id = NEW.id AND c.id IS DISTINCT FROM now_has;
    UPDATE infra.object_contents c SET object_id = NEW.id, bucket_id = NEW.bucket_id
    WHERE c.id = now_has AND (c.object_id IS NULL OR c.bucket_id <> NEW.bucket_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.object_written() IS 'Gives an object its content, as far as its bucket takes it, and takes away the former one';

CREATE TRIGGER kessel_content BEFORE INSERT OR UPDATE ON storage.objects
    FOR EACH ROW WHEN (NEW.version LIKE 'kessel:%') EXECUTE FUNCTION infra.object_content_is_its();
CREATE TRIGGER kessel_inserted AFTER INSERT ON storage.objects
    FOR EACH ROW WHEN (NEW.version LIKE 'kessel:%') EXECUTE FUNCTION infra.object_written();
CREATE TRIGGER kessel_updated AFTER UPDATE ON storage.objects
    FOR EACH ROW WHEN ((NEW.version LIKE 'kessel:%' OR OLD.version LIKE 'kessel:%') AND (NEW.version, NEW.bucket_id) IS DISTINCT FROM (OLD.version, OLD.bucket_id))
    EXECUTE FUNCTION infra.object_written();

-- ---------- what apps call ----------

CREATE FUNCTION storage.put_object(
    bucket        text,
    name          text,
    content       bytea,
    mime_type     text DEFAULT 'application/octet-stream',
    if_match      text DEFAULT NULL,
    if_none_match text DEFAULT NULL,
    cache_control text DEFAULT NULL
) RETURNS TABLE (id uuid, etag text, size bigint, updated_at timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF bucket IS NULL OR put_object.mime_type IS NULL OR put_object.content IS NULL THEN
        RAISE EXCEPTION 'bucket, type and content of an object cannot be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM infra.check_object_name(put_object.name);
    IF if_none_match <> '*' THEN
        RAISE EXCEPTION 'if_none_match of a file that is written can only be *'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It means: only if there is none of this name.';
    END IF;
    IF if_match IS NOT NULL THEN
        UPDATE storage.objects o
        SET version = 'kessel:' || infra.add_content(put_object.mime_type, put_object.content), updated_at = clock_timestamp(),
            metadata = jsonb_build_object('cacheControl', cache_control)
        WHERE o.bucket_id = bucket AND o.name = put_object.name AND (o.metadata ->> 'eTag' = if_match OR if_match = '*')
        RETURNING o.id, o.metadata ->> 'eTag', (o.metadata ->> 'size')::bigint, o.updated_at INTO id, etag, size, updated_at;
    ELSE
        INSERT INTO storage.objects AS o (bucket_id, name, owner, owner_id, version, metadata)
        VALUES (bucket, put_object.name, auth.uid(), auth.uid()::text, 'kessel:' || infra.add_content(put_object.mime_type, put_object.content),
                jsonb_build_object('cacheControl', cache_control))
        ON CONFLICT (bucket_id, name) DO UPDATE SET version = excluded.version, metadata = excluded.metadata, updated_at = clock_timestamp()
            WHERE if_none_match IS NULL
        RETURNING o.id, o.metadata ->> 'eTag', (o.metadata ->> 'size')::bigint, o.updated_at INTO id, etag, size, updated_at;
    END IF;
    IF id IS NULL AND if_match IS NOT NULL THEN
        RAISE EXCEPTION 'object "%" is not the one that was to be overwritten', put_object.name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'It has another ETag, is not there, or may not be written.', HINT = 'Read it again.';
    ELSIF id IS NULL THEN
        RAISE EXCEPTION 'object "%" is there already', put_object.name
            USING ERRCODE = 'unique_violation', HINT = 'Leave if_none_match out to overwrite it.';
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION storage.put_object(text, text, bytea, text, text, text, text) IS
    'Writes a file, also over one that is there, as far as the policies of storage.objects let the caller. name: folders and file with slashes between them, up to 1024 bytes. if_match: only over the file that has this ETag; if_none_match ''*'': only if there is none. cache_control: for who serves it; NULL: max-age=3600. '
    'Returns a line; size in bytes. Errors: 42501 not allowed, 22023 bad name, type or if_none_match, or a type that the bucket does not take, 54000 too large, 22004 NULL, 23503 no such bucket, 23505 it is there already, 55000 it has not that ETag. For authenticated, service_role';

CREATE FUNCTION infra.public_object(bucket text, name text, OUT id uuid, OUT version text, OUT metadata jsonb, OUT updated_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.id, o.version, o.metadata, o.updated_at FROM storage.objects o JOIN storage.buckets b ON b.id = o.bucket_id
    WHERE o.bucket_id = public_object.bucket AND o.name = public_object.name AND b.public
$$;
COMMENT ON FUNCTION infra.public_object(text, text) IS 'An object of a public bucket; NULLs where there is none of this name';

CREATE FUNCTION infra.public_content(bucket text, name text) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.content FROM infra.public_object(bucket, name) o JOIN infra.object_contents c ON c.object_id = o.id AND 'kessel:' || c.id = o.version
$$;
COMMENT ON FUNCTION infra.public_content(text, text) IS 'The content of an object of a public bucket; NULL where there is none here';

CREATE FUNCTION storage.get_object(bucket text, name text, if_none_match text DEFAULT NULL)
RETURNS TABLE (id uuid, mime_type text, size bigint, etag text, cache_control text, updated_at timestamptz, not_modified boolean, content bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found record;
    for_all boolean := true;
BEGIN
    IF octet_length(if_none_match) > 8192 THEN
        RAISE EXCEPTION 'if_none_match is too long' USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It has up to 8192 bytes.';
    END IF;
    SELECT p.* INTO found FROM infra.public_object(bucket, get_object.name) p WHERE p.id IS NOT NULL;
    IF found.id IS NULL THEN
        for_all := false;
        SELECT o.id, o.version, o.metadata, o.updated_at INTO found FROM storage.objects o WHERE o.bucket_id = bucket AND o.name = get_object.name;
    END IF;
    IF found.id IS NULL THEN
        RETURN;
    END IF;
    id := found.id;
    mime_type := found.metadata ->> 'mimetype';
    size := (found.metadata ->> 'size')::bigint;
    etag := found.metadata ->> 'eTag';
    cache_control := found.metadata ->> 'cacheControl';
    updated_at := found.updated_at;
    not_modified := coalesce(btrim(if_none_match) = '*' OR etag = ANY (SELECT regexp_replace(btrim(e), '^W/', '') FROM unnest(string_to_array(if_none_match, ',')) e), false);
    IF NOT not_modified THEN
        content := CASE WHEN for_all THEN infra.public_content(bucket, get_object.name)
                        ELSE (SELECT c.content FROM infra.object_contents c WHERE c.object_id = found.id AND 'kessel:' || c.id = found.version) END;
        IF content IS NULL THEN
            RAISE EXCEPTION 'the content of object "%" is not in this database', get_object.name
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Its row was not written by storage.put_object().', HINT = 'Where Supabase keeps it, ask Supabase''s storage.';
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION storage.get_object(text, text, text) IS
    'A file: of a public bucket, or one that the policies of storage.objects let the caller read; no line where there is none. size in bytes; etag: SHA-256 in hexadecimal digits, in quotes. if_none_match: ETags with commas between them, or *: not_modified is true and content NULL for a file that has one of them. '
    'Works in read-only transactions. Errors: 55000 its content is not kept here, 22023 if_none_match is too long. For anon, authenticated, service_role';

CREATE FUNCTION storage.list_objects(bucket text, prefix text DEFAULT '', max_objects integer DEFAULT 100, start_after text DEFAULT NULL)
RETURNS TABLE (id uuid, name text, mime_type text, size bigint, etag text, created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF max_objects IS NULL OR max_objects NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'max_objects is not between 1 and 1000' USING ERRCODE = 'invalid_parameter_value', HINT = 'start_after, the last name of a page, gives the next one.';
    END IF;
    RETURN QUERY
    SELECT o.id, o.name, o.metadata ->> 'mimetype', (o.metadata ->> 'size')::bigint, o.metadata ->> 'eTag', o.created_at, o.updated_at
    FROM storage.objects o
    WHERE o.bucket_id = bucket AND starts_with(o.name, coalesce(prefix, ''))
      AND o.name COLLATE "C" >= coalesce(prefix, '') AND o.name COLLATE "C" > coalesce(start_after, '')
    ORDER BY o.name COLLATE "C" LIMIT max_objects;
END
$$;
COMMENT ON FUNCTION storage.list_objects(text, text, integer, text) IS
    'The files of a bucket whose names begin with prefix, that the policies of storage.objects let the caller see, in the order of their names'' bytes. start_after: only names behind this one. size in bytes. Error: 22023 max_objects is not between 1 and 1000. For anon, authenticated, service_role';

-- The setting is for Supabase, which lets nobody delete rows whose files it would have to delete too.
CREATE FUNCTION storage.remove_object(bucket text, name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found text;
    allowed text := coalesce(current_setting('storage.allow_delete_query', true), '');
BEGIN
    PERFORM set_config('storage.allow_delete_query', 'true', true);
    DELETE FROM storage.objects o WHERE o.bucket_id = bucket AND o.name = remove_object.name RETURNING coalesce(o.version, '') INTO found;
    PERFORM set_config('storage.allow_delete_query', allowed, true);
    IF found NOT LIKE 'kessel:%' THEN
        RAISE EXCEPTION 'the content of object "%" is not in this database', remove_object.name
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Its row was not written by storage.put_object().', HINT = 'Where Supabase keeps it, ask Supabase''s storage; else delete its row.';
    END IF;
    RETURN found IS NOT NULL;
END
$$;
COMMENT ON FUNCTION storage.remove_object(text, text) IS
    'Deletes a file; false where there is none that the policies of storage.objects let the caller delete. Error: 55000 its content is not kept here. For authenticated, service_role';

REVOKE ALL ON FUNCTION infra.check_object_name(text), infra.check_mime_type(text), infra.check_object(text, text, bigint), infra.check_content(), infra.drop_unused_content(),
    infra.add_content(text, bytea), infra.object_content_is_its(), infra.object_written(), infra.public_object(text, text), infra.public_content(text, text),
    storage.put_object(text, text, bytea, text, text, text, text), storage.get_object(text, text, text), storage.list_objects(text, text, integer, text), storage.remove_object(text, text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.public_object(text, text), infra.public_content(text, text), storage.get_object(text, text, text), storage.list_objects(text, text, integer, text)
    TO anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.check_object_name(text), infra.add_content(text, bytea), storage.put_object(text, text, bytea, text, text, text, text), storage.remove_object(text, text)
    TO authenticated, service_role;

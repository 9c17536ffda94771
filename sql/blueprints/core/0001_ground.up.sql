-- The ground of an infra database: roles and the schema auth as Supabase makes
-- them. What is there already, made by Supabase or by whoever has as many rights as
-- the one who sets up, is used as it is. What is made here has a comment that begins
-- with "kessel_router core:", by which the way back knows it.

SET search_path = pg_catalog, pg_temp;

-- Roles belong to the cluster, and other databases may use them: they are made
-- where missing and never dropped.
DO $$
DECLARE
    inherits text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH INHERIT TRUE' ELSE '' END;
    member record;
BEGIN
    IF to_regrole('anon') IS NULL THEN
        CREATE ROLE anon NOLOGIN;
        COMMENT ON ROLE anon IS 'apps before sign-in';
    END IF;
    IF to_regrole('authenticated') IS NULL THEN
        CREATE ROLE authenticated NOLOGIN;
        COMMENT ON ROLE authenticated IS 'apps of a user who has signed in';
    END IF;
    IF to_regrole('service_role') IS NULL THEN
        CREATE ROLE service_role NOLOGIN BYPASSRLS;
        COMMENT ON ROLE service_role IS 'backends that act for everybody: not for browsers';
    END IF;

    -- What the router asks of its callers are privileges, which a role that is
    -- NOINHERIT, as Supabase makes these, gets from no other.
    FOR member IN
        SELECT r.oid, r.rolname, r.rolinherit, g.rolname AS of
        FROM (VALUES ('authenticated', 'kessel_user'), ('service_role', 'kessel_service')) AS t(role, of)
        JOIN pg_roles r ON r.rolname = t.role
        JOIN pg_roles g ON g.rolname = t.of
        WHERE NOT pg_has_role(r.oid, g.oid, 'USAGE')
    LOOP
        EXECUTE format('GRANT %I TO %I%s', member.of, member.rolname, inherits);
        IF inherits = '' AND NOT member.rolinherit THEN
            EXECUTE format('ALTER ROLE %I INHERIT', member.rolname);
        END IF;
    END LOOP;
END
$$;

DO $$
DECLARE
    stranger record;
BEGIN
    IF to_regnamespace('auth') IS NULL THEN
        CREATE SCHEMA auth;
        COMMENT ON SCHEMA auth IS 'kessel_router core: users, and what the session''s claims say of them';
        REVOKE ALL ON SCHEMA auth FROM PUBLIC, anon, authenticated, service_role;
        GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
    ELSE
        RAISE NOTICE 'schema auth is there already and is used as it is; it belongs to role "%"',
            (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'auth');
    END IF;

    IF to_regclass('auth.users') IS NULL THEN
        CREATE TABLE auth.users (
            id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            aud                text DEFAULT 'authenticated',
            role               text DEFAULT 'authenticated',
            email              text,
            encrypted_password text,
            email_confirmed_at timestamptz,
            invited_at         timestamptz,
            last_sign_in_at    timestamptz,
            raw_app_meta_data  jsonb DEFAULT '{}',
            raw_user_meta_data jsonb DEFAULT '{}',
            is_super_admin     boolean,
            phone              text UNIQUE,
            phone_confirmed_at timestamptz,
            confirmed_at       timestamptz GENERATED ALWAYS AS (LEAST(email_confirmed_at, phone_confirmed_at)) STORED,
            banned_until       timestamptz,
            is_sso_user        boolean NOT NULL DEFAULT false,
            is_anonymous       boolean NOT NULL DEFAULT false,
            deleted_at         timestamptz,
            created_at         timestamptz DEFAULT now(),
            updated_at         timestamptz DEFAULT now()
        );
        -- Single sign-on may know one address by several providers.
        CREATE UNIQUE INDEX users_email ON auth.users (lower(email)) WHERE NOT is_sso_user;
        CREATE INDEX users_created_at ON auth.users (created_at);
        ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON TABLE auth.users FROM PUBLIC, anon, authenticated, service_role;
        COMMENT ON TABLE auth.users IS 'kessel_router core: who can sign in. For the roles that own it and that bypass row security';
    END IF;

    -- Bodies are parsed here, so that no search_path matters later, and inlined
    -- into policies. A setting that has been set in the session before is empty. The
    -- settings for single claims are of older servers, and count only where there are
    -- no claims: what somebody has left in a session must not stand for the next one.
    -- No coalesce() but in jwt(): the planner takes it for leaky, and row security would keep
    -- id = auth.uid() from an index.
    IF to_regprocedure('auth.jwt()') IS NULL THEN
        CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
        RETURN coalesce(nullif(current_setting('request.jwt.claims', true), ''), nullif(current_setting('request.jwt.claim', true), ''))::jsonb;
        COMMENT ON FUNCTION auth.jwt() IS 'kessel_router core: the session''s claims; NULL where there are none';
    END IF;
    IF to_regprocedure('auth.uid()') IS NULL THEN
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
        RETURN (CASE WHEN current_setting('request.jwt.claims', true) <> '' THEN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'
                     ELSE nullif(current_setting('request.jwt.claim.sub', true), '') END)::uuid;
        COMMENT ON FUNCTION auth.uid() IS 'kessel_router core: id of the user whose claims these are; NULL where there are none';
    END IF;
    IF to_regprocedure('auth.role()') IS NULL THEN
        CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
        RETURN CASE WHEN current_setting('request.jwt.claims', true) <> '' THEN current_setting('request.jwt.claims', true)::jsonb ->> 'role'
                     ELSE nullif(current_setting('request.jwt.claim.role', true), '') END;
        COMMENT ON FUNCTION auth.role() IS 'kessel_router core: role of the claims; NULL where there are none';
    END IF;
    IF to_regprocedure('auth.email()') IS NULL THEN
        CREATE FUNCTION auth.email() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
        RETURN CASE WHEN current_setting('request.jwt.claims', true) <> '' THEN current_setting('request.jwt.claims', true)::jsonb ->> 'email'
                     ELSE nullif(current_setting('request.jwt.claim.email', true), '') END;
        COMMENT ON FUNCTION auth.email() IS 'kessel_router core: e-mail address of the claims; NULL where there are none';
    END IF;

    -- Policies believe what these functions say, and functions of the one who sets up
    -- call them with his rights: so whoever could change them has to have those, too.
    -- Asked last, when nobody can put anything in their place any more.
    SELECT w.what, pg_get_userbyid(w.owner) AS name INTO stranger
    FROM (SELECT 'schema auth', (SELECT n.nspowner FROM pg_namespace n WHERE n.oid = to_regnamespace('auth'))
          UNION ALL SELECT 'table auth.users', (SELECT c.relowner FROM pg_class c WHERE c.oid = to_regclass('auth.users'))
          UNION ALL SELECT 'function ' || f, (SELECT p.proowner FROM pg_proc p WHERE p.oid = to_regprocedure(f))
          FROM unnest(ARRAY['auth.jwt()', 'auth.uid()', 'auth.role()', 'auth.email()']) f) w(what, owner)
    WHERE NOT coalesce(pg_has_role(w.owner, current_user, 'MEMBER') OR pg_get_userbyid(w.owner) IN ('supabase_admin', 'supabase_auth_admin'), false)
    LIMIT 1;
    IF stranger.what IS NOT NULL THEN
        RAISE EXCEPTION '% belongs to role "%"', stranger.what, stranger.name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('What the owner puts in its place would run with the rights of role "%s", which the owner does not have.', current_user),
                  HINT = 'Look at it, and ALTER its OWNER; or call kessel.setup() as a role that the owner could become.';
    END IF;
END
$$;

-- Organizations and their members. What one may see and do hangs on membership
-- alone: an administrator of the app is nobody here.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.organizations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    slug       text UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    tenant_id  uuid REFERENCES app.tenants ON DELETE SET NULL,
    settings   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object' AND octet_length(settings::text) <= 65536),
    created_by uuid DEFAULT auth.uid() REFERENCES auth.users ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX organizations_tenant_id ON public.organizations (tenant_id);
CREATE INDEX organizations_created_by ON public.organizations (created_by);
COMMENT ON TABLE public.organizations IS 'Organizations, for their members. public.create_organization() makes one';
COMMENT ON COLUMN public.organizations.tenant_id IS 'The tenant whose data it works with; membership gives no access to that';
COMMENT ON COLUMN public.organizations.created_by IS 'Who became its first owner; needed to make one; NULL when that user is gone';

CREATE TABLE public.organization_members (
    organization_id uuid NOT NULL REFERENCES public.organizations ON DELETE CASCADE,
    user_id         uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    role            text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX organization_members_user_id ON public.organization_members (user_id, organization_id) INCLUDE (role);
COMMENT ON TABLE public.organization_members IS 'Who is in which organization. One of them is always an owner';
COMMENT ON COLUMN public.organization_members.role IS 'owner: all; admin: all but owners and the end of the organization; member: uses it; viewer: reads it';

-- ---------- who is who, for policies ----------

-- Reads as its owner, for whom policies do not count: so those of the members' own
-- table can ask. An array, so that a policy's condition can use an index.
CREATE FUNCTION infra.my_organizations(roles text[] DEFAULT '{owner,admin,member,viewer}') RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT m.organization_id FROM public.organization_members m WHERE m.user_id = auth.uid() AND m.role = ANY (roles));
END
$$;
COMMENT ON FUNCTION infra.my_organizations(text[]) IS
    'Ids of the organizations in which the user of the claims has one of these roles; empty without a user. For policies: organization_id = ANY ((SELECT infra.my_organizations())::uuid[])';

-- ---------- always an owner ----------

CREATE FUNCTION infra.first_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.created_by IS NULL THEN
        RAISE EXCEPTION 'organization "%" would have no owner', NEW.name
            USING ERRCODE = 'not_null_violation', HINT = 'created_by is the user who becomes its owner.';
    END IF;
    INSERT INTO public.organization_members (organization_id, user_id, role) VALUES (NEW.id, NEW.created_by, 'owner');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.first_owner() IS 'Makes created_by the owner of a new organization';
CREATE TRIGGER first_owner AFTER INSERT ON public.organizations FOR EACH ROW EXECUTE FUNCTION infra.first_owner();

CREATE FUNCTION infra.keep_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Two who leave at once would each see the other: the second one waits here, or
    -- above read committed fails with 40001, which a mere lock would not bring about.
    UPDATE public.organizations o SET updated_at = clock_timestamp() WHERE o.id = OLD.organization_id;
    IF FOUND AND NOT EXISTS (SELECT FROM public.organization_members m WHERE m.organization_id = OLD.organization_id AND m.role = 'owner') THEN
        RAISE EXCEPTION 'organization % would have no owner', OLD.organization_id
            USING ERRCODE = 'restrict_violation', HINT = 'Make another member its owner first, or delete the organization.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION infra.keep_owner() IS 'Refuses that the last owner of an organization goes, or becomes something else';
CREATE CONSTRAINT TRIGGER keep_owner AFTER UPDATE OR DELETE ON public.organization_members
    DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION infra.keep_owner();

CREATE TRIGGER touch BEFORE UPDATE ON public.organizations FOR EACH ROW EXECUTE FUNCTION infra.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.organization_members FOR EACH ROW EXECUTE FUNCTION infra.touch();

-- Not by INSERT: whoever makes it is a member only after that, so RETURNING would be refused.
CREATE FUNCTION public.create_organization(name text, slug text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id uuid;
BEGIN
    IF auth.uid() IS NULL THEN
        RAISE EXCEPTION 'permission denied to create an organization'
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'The claims name no user.';
    END IF;
    INSERT INTO public.organizations (name, slug, created_by) VALUES (create_organization.name, create_organization.slug, auth.uid()) RETURNING id INTO new_id;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION public.create_organization(text, text) IS
    'Makes an organization of which the user of the claims is the owner, and returns its id. name: 1 to 200 characters; slug: lowercase letters, digits and -, unique, may be NULL. Errors: 42501 no user, 23502 name is NULL, 23514 bad name or slug, 23505 slug taken, 23503 the user is not in auth.users. For authenticated';

-- ---------- who may do what ----------

ALTER TABLE public.organizations ENABLE ROW LEVEL SECURITY;
CREATE POLICY member_reads ON public.organizations FOR SELECT TO authenticated
    USING (id = ANY ((SELECT infra.my_organizations())::uuid[]));
CREATE POLICY admin_updates ON public.organizations FOR UPDATE TO authenticated
    USING (id = ANY ((SELECT infra.my_organizations('{owner,admin}'))::uuid[]));
CREATE POLICY owner_deletes ON public.organizations FOR DELETE TO authenticated
    USING (id = ANY ((SELECT infra.my_organizations('{owner}'))::uuid[]));
CREATE POLICY service ON public.organizations TO service_role USING (true);

ALTER TABLE public.organization_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY member_reads ON public.organization_members FOR SELECT TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations())::uuid[]));
CREATE POLICY owner_inserts ON public.organization_members FOR INSERT TO authenticated
    WITH CHECK (organization_id = ANY ((SELECT infra.my_organizations('{owner}'))::uuid[]));
CREATE POLICY owner_updates ON public.organization_members FOR UPDATE TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations('{owner}'))::uuid[]));
CREATE POLICY owner_deletes ON public.organization_members FOR DELETE TO authenticated
    USING (organization_id = ANY ((SELECT infra.my_organizations('{owner}'))::uuid[]));
CREATE POLICY admin_inserts_others ON public.organization_members FOR INSERT TO authenticated
    WITH CHECK (role <> 'owner' AND organization_id = ANY ((SELECT infra.my_organizations('{admin}'))::uuid[]));
CREATE POLICY admin_updates_others ON public.organization_members FOR UPDATE TO authenticated
    USING (role <> 'owner' AND organization_id = ANY ((SELECT infra.my_organizations('{admin}'))::uuid[]));
CREATE POLICY admin_deletes_others ON public.organization_members FOR DELETE TO authenticated
    USING (role <> 'owner' AND organization_id = ANY ((SELECT infra.my_organizations('{admin}'))::uuid[]));
CREATE POLICY member_leaves ON public.organization_members FOR DELETE TO authenticated
    USING (user_id = (SELECT auth.uid()));
CREATE POLICY service ON public.organization_members TO service_role USING (true);

REVOKE ALL ON TABLE public.organizations, public.organization_members FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, DELETE, UPDATE (name, slug, settings) ON public.organizations TO authenticated;
GRANT SELECT, DELETE, INSERT (organization_id, user_id, role), UPDATE (role) ON public.organization_members TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.organizations, public.organization_members TO service_role;
REVOKE ALL ON FUNCTION infra.my_organizations(text[]), infra.first_owner(), infra.keep_owner(), public.create_organization(text, text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION infra.my_organizations(text[]), public.create_organization(text, text) TO authenticated;

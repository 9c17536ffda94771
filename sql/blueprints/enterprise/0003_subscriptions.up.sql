-- Subscriptions of organizations and users. The app's backend writes them, from
-- what its payment service tells.

SET search_path = pg_catalog, pg_temp;

CREATE TABLE public.subscriptions (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id      uuid REFERENCES public.organizations ON DELETE CASCADE,
    user_id              uuid REFERENCES auth.users ON DELETE CASCADE,
    plan                 text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'basic', 'premium', 'enterprise')),
    status               text NOT NULL DEFAULT 'active' CHECK (status IN ('incomplete', 'trialing', 'active', 'past_due', 'canceled', 'expired')),
    billing_cycle        text NOT NULL DEFAULT 'monthly' CHECK (billing_cycle IN ('monthly', 'quarterly', 'yearly')),
    -- An upper bound keeps NaN out, which is above every number.
    amount               numeric(16,4) NOT NULL DEFAULT 0 CHECK (amount BETWEEN 0 AND 999999999999.9999),
    currency             text NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    current_period_start timestamptz NOT NULL DEFAULT now(),
    current_period_end   timestamptz CHECK (current_period_end > current_period_start),
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    canceled_at          timestamptz,
    external_id          text UNIQUE CHECK (char_length(external_id) BETWEEN 1 AND 200),
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_of_one CHECK (num_nonnulls(organization_id, user_id) = 1)
);
CREATE UNIQUE INDEX subscriptions_one_of_organization ON public.subscriptions (organization_id) WHERE status IN ('trialing', 'active', 'past_due');
CREATE UNIQUE INDEX subscriptions_one_of_user ON public.subscriptions (user_id) WHERE status IN ('trialing', 'active', 'past_due');
CREATE INDEX subscriptions_organization_id ON public.subscriptions (organization_id) WHERE organization_id IS NOT NULL;
CREATE INDEX subscriptions_user_id ON public.subscriptions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscriptions_current_period_end ON public.subscriptions (current_period_end) WHERE status IN ('trialing', 'active', 'past_due');
COMMENT ON TABLE public.subscriptions IS 'What an organization or a user has subscribed to: one that is trialing, active or past_due, and any number of former ones. Written by service_role';
COMMENT ON COLUMN public.subscriptions.organization_id IS 'Whose it is: an organization''s, or else that of user_id';
COMMENT ON COLUMN public.subscriptions.status IS 'incomplete: not paid yet; trialing, active, past_due: in force; canceled, expired: over';
COMMENT ON COLUMN public.subscriptions.amount IS 'For each billing_cycle, in units of currency, which may have up to four decimals';
COMMENT ON COLUMN public.subscriptions.currency IS 'As in ISO 4217: three capital letters';
COMMENT ON COLUMN public.subscriptions.current_period_end IS 'NULL: it has no end. Nothing happens by itself when it is over';
COMMENT ON COLUMN public.subscriptions.external_id IS 'What the payment service calls it';

CREATE TRIGGER touch BEFORE UPDATE ON public.subscriptions FOR EACH ROW EXECUTE FUNCTION infra.touch();

ALTER TABLE public.subscriptions ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_or_admin_reads ON public.subscriptions FOR SELECT TO authenticated
    USING (user_id = (SELECT auth.uid()) OR organization_id = ANY ((SELECT infra.my_organizations('{owner,admin}'))::uuid[]));
CREATE POLICY service ON public.subscriptions TO service_role USING (true);

REVOKE ALL ON TABLE public.subscriptions FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.subscriptions TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.subscriptions TO service_role;

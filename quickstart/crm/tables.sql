-- The CRM's tables, made in the first schema of search_path.
--
-- One definition serves all three isolations. The row-isolated source sets
--   tenant_column   to the line that defines tenant_id, and
--   tk              to the words 'tenant_id,', with which its keys begin:
-- a foreign key over (tenant_id, account_id) cannot point at another tenant's
-- account. Everywhere else both are empty.

CREATE TYPE account_kind AS ENUM ('prospect', 'customer', 'partner', 'former');
CREATE TYPE lead_status AS ENUM ('new', 'contacted', 'qualified', 'converted', 'lost');
CREATE TYPE lead_source AS ENUM ('website', 'referral', 'trade_fair', 'campaign', 'cold_call');
CREATE TYPE opportunity_stage AS ENUM ('qualification', 'proposal', 'negotiation', 'won', 'lost');
CREATE TYPE invoice_status AS ENUM ('draft', 'sent', 'paid', 'overdue', 'void');
CREATE TYPE payment_method AS ENUM ('bank_transfer', 'card', 'direct_debit', 'cheque');

CREATE TABLE accounts (
    :tenant_column
    id             uuid NOT NULL DEFAULT gen_random_uuid(),
    name           text NOT NULL,
    kind           account_kind NOT NULL DEFAULT 'prospect',
    industry       text NOT NULL,
    city           text NOT NULL,
    postal_code    text,
    country        text NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
    website        text,
    employees      integer CHECK (employees > 0),
    annual_revenue numeric(14,2),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (:tk id)
);
COMMENT ON TABLE accounts IS 'Companies that we sell to, or want to';
COMMENT ON COLUMN accounts.country IS 'ISO 3166-1, two letters';
COMMENT ON COLUMN accounts.annual_revenue IS 'as the company publishes it, in the tenant''s currency';
CREATE INDEX accounts_name ON accounts (:tk name);
CREATE INDEX accounts_industry ON accounts (:tk industry);

CREATE TABLE contacts (
    :tenant_column
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    account_id uuid NOT NULL,
    first_name text NOT NULL,
    last_name  text NOT NULL,
    full_name  text GENERATED ALWAYS AS (first_name || ' ' || last_name) STORED,
    job_title  text,
    email      text NOT NULL CHECK (email LIKE '%_@_%'),
    phone      text,
    is_primary boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (:tk id),
    FOREIGN KEY (:tk account_id) REFERENCES accounts (:tk id) ON DELETE CASCADE
);
COMMENT ON TABLE contacts IS 'People at our accounts';
COMMENT ON COLUMN contacts.is_primary IS 'the one whom invoices are addressed to';
CREATE INDEX contacts_account_id ON contacts (:tk account_id);
CREATE INDEX contacts_email ON contacts (:tk lower(email));

CREATE TABLE leads (
    :tenant_column
    id                   uuid NOT NULL DEFAULT gen_random_uuid(),
    first_name           text NOT NULL,
    last_name            text NOT NULL,
    company              text NOT NULL,
    email                text NOT NULL,
    status               lead_status NOT NULL DEFAULT 'new',
    source               lead_source NOT NULL,
    score                smallint NOT NULL DEFAULT 0 CHECK (score BETWEEN 0 AND 100),
    estimated_value      numeric(12,2),
    converted_account_id uuid,
    created_at           timestamptz NOT NULL DEFAULT now(),
    converted_at         timestamptz,
    PRIMARY KEY (:tk id),
    FOREIGN KEY (:tk converted_account_id) REFERENCES accounts (:tk id) ON DELETE SET NULL (converted_account_id),
    CHECK ((status = 'converted') = (converted_at IS NOT NULL))
);
COMMENT ON TABLE leads IS 'People who showed interest and are not yet an account';
COMMENT ON COLUMN leads.score IS 'how likely they buy, 0 to 100';
CREATE INDEX leads_open ON leads (:tk score DESC) WHERE status IN ('new', 'contacted', 'qualified');
CREATE INDEX leads_converted_account_id ON leads (:tk converted_account_id);

CREATE TABLE opportunities (
    :tenant_column
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    account_id      uuid NOT NULL,
    contact_id      uuid,
    name            text NOT NULL,
    stage           opportunity_stage NOT NULL DEFAULT 'qualification',
    amount          numeric(14,2) NOT NULL CHECK (amount >= 0),
    probability     smallint NOT NULL CHECK (probability BETWEEN 0 AND 100),
    weighted_amount numeric(14,2) GENERATED ALWAYS AS (amount * probability / 100) STORED,
    expected_close  date NOT NULL,
    closed_at       timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (:tk id),
    FOREIGN KEY (:tk account_id) REFERENCES accounts (:tk id) ON DELETE CASCADE,
    FOREIGN KEY (:tk contact_id) REFERENCES contacts (:tk id) ON DELETE SET NULL (contact_id)
);
COMMENT ON TABLE opportunities IS 'Deals, open and closed';
COMMENT ON COLUMN opportunities.probability IS 'of winning, in percent';
COMMENT ON COLUMN opportunities.weighted_amount IS 'amount times probability: what the forecast adds up';
CREATE INDEX opportunities_account_id ON opportunities (:tk account_id);
CREATE INDEX opportunities_contact_id ON opportunities (:tk contact_id);
CREATE INDEX opportunities_expected_close ON opportunities (:tk expected_close) WHERE closed_at IS NULL;

CREATE TABLE invoices (
    :tenant_column
    id             uuid NOT NULL DEFAULT gen_random_uuid(),
    account_id     uuid NOT NULL,
    opportunity_id uuid,
    number         text NOT NULL,
    status         invoice_status NOT NULL DEFAULT 'draft',
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    issued_on      date NOT NULL,
    due_on         date NOT NULL,
    net            numeric(14,2) NOT NULL DEFAULT 0,
    tax            numeric(14,2) NOT NULL DEFAULT 0,
    total          numeric(14,2) GENERATED ALWAYS AS (net + tax) STORED,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (:tk id),
    UNIQUE (:tk number),
    FOREIGN KEY (:tk account_id) REFERENCES accounts (:tk id),
    FOREIGN KEY (:tk opportunity_id) REFERENCES opportunities (:tk id) ON DELETE SET NULL (opportunity_id),
    CHECK (due_on >= issued_on)
);
COMMENT ON TABLE invoices IS 'What we billed';
COMMENT ON COLUMN invoices.net IS 'the sum of the lines';
CREATE INDEX invoices_account_id ON invoices (:tk account_id);
CREATE INDEX invoices_opportunity_id ON invoices (:tk opportunity_id);
CREATE INDEX invoices_issued_on ON invoices (:tk issued_on);
CREATE INDEX invoices_unpaid ON invoices (:tk due_on) WHERE status IN ('sent', 'overdue');

CREATE TABLE invoice_lines (
    :tenant_column
    id               uuid NOT NULL DEFAULT gen_random_uuid(),
    invoice_id       uuid NOT NULL,
    position         smallint NOT NULL CHECK (position > 0),
    product          text NOT NULL,
    unit             text NOT NULL DEFAULT 'piece',
    quantity         numeric(10,2) NOT NULL CHECK (quantity > 0),
    unit_price       numeric(12,2) NOT NULL,
    discount_percent numeric(5,2) NOT NULL DEFAULT 0 CHECK (discount_percent BETWEEN 0 AND 100),
    amount           numeric(14,2) GENERATED ALWAYS AS (round(quantity * unit_price * (1 - discount_percent / 100), 2)) STORED,
    PRIMARY KEY (:tk id),
    UNIQUE (:tk invoice_id, position),
    FOREIGN KEY (:tk invoice_id) REFERENCES invoices (:tk id) ON DELETE CASCADE
);
COMMENT ON TABLE invoice_lines IS 'Line items of invoices';
CREATE INDEX invoice_lines_product ON invoice_lines (:tk product);

CREATE TABLE payments (
    :tenant_column
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    invoice_id uuid NOT NULL,
    amount     numeric(14,2) NOT NULL CHECK (amount > 0),
    method     payment_method NOT NULL DEFAULT 'bank_transfer',
    paid_at    timestamptz NOT NULL DEFAULT now(),
    reference  text,
    PRIMARY KEY (:tk id),
    FOREIGN KEY (:tk invoice_id) REFERENCES invoices (:tk id)
);
COMMENT ON TABLE payments IS 'Money received';
COMMENT ON COLUMN payments.reference IS 'as the bank reports it';
CREATE INDEX payments_invoice_id ON payments (:tk invoice_id);
CREATE INDEX payments_paid_at ON payments (:tk paid_at);

-- The router's role may work with rows, and with nothing else.
SELECT current_schema() AS schema \gset
GRANT USAGE ON SCHEMA :"schema" TO kessel_runtime;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA :"schema" TO kessel_runtime;

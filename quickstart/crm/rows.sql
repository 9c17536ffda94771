-- The rows of one tenant, made in the first schema of search_path from the
-- profile :slug. Always the same rows: chance is a hash of what is asked for,
-- so it depends neither on the clock nor on the plan.

-- In [0, 1), by subject and number.
CREATE FUNCTION pg_temp.chance(what text, n bigint) RETURNS float8 IMMUTABLE LANGUAGE sql
RETURN (hashtextextended(what, n) & 2147483647) / 2147483648.0::float8;

CREATE FUNCTION pg_temp.pick(list text[], what text, n bigint) RETURNS text IMMUTABLE LANGUAGE sql
RETURN list[1 + floor(pg_temp.chance(what, n) * cardinality(list))::int];

CREATE FUNCTION pg_temp.id_of(what text, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
RETURN md5(what || n)::uuid;

CREATE FUNCTION pg_temp.mail_name(name text) RETURNS text IMMUTABLE LANGUAGE sql
RETURN regexp_replace(translate(lower(name), 'äāåéėēīìñóõöøšūüžæņ', 'aaaeeeiinoooosuuzan'), '[^a-z]+', '', 'g');

-- The day on which the books were last looked at.
\set as_of '2026-10-31'

CREATE TEMPORARY TABLE one AS
SELECT *, date :'as_of' AS as_of FROM profiles WHERE slug = :'slug';

CREATE TEMPORARY TABLE made_accounts AS
SELECT n, pg_temp.id_of(slug || ' account', n) AS id, stem || ' ' || area || ' ' || form AS name,
       CASE WHEN chance < 0.55 THEN 'customer' WHEN chance < 0.88 THEN 'prospect' WHEN chance < 0.95 THEN 'partner' ELSE 'former' END AS kind,
       area, city, size,
       'https://' || pg_temp.mail_name(stem) || '-' || pg_temp.mail_name(area) || '.example' AS website,
       as_of - (30 + pg_temp.chance(slug || ' since', n) * 1700)::int AS since
FROM (SELECT one.*, n,
             -- Every stem meets every area and form before a name comes back.
             stems[1 + n % cardinality(stems)] AS stem,
             areas[1 + n / cardinality(stems) % cardinality(areas)] AS area,
             forms[1 + n / (cardinality(stems) * cardinality(areas)) % cardinality(forms)]
                 || CASE WHEN n >= cardinality(stems) * cardinality(areas) * cardinality(forms) THEN ' II' ELSE '' END AS form,
             string_to_array(pg_temp.pick(cities, slug || ' city', n), '|') AS city,
             pg_temp.chance(slug || ' kind', n) AS chance,
             pg_temp.chance(slug || ' size', n) AS size
      FROM one, generate_series(0, accounts - 1) AS n) AS a;

INSERT INTO accounts (id, name, kind, industry, city, postal_code, country, website, employees, annual_revenue, created_at)
SELECT id, name, kind::account_kind, area, city[1], city[2], city[3], website,
       -- Few are large: the cube of chance.
       3 + (size ^ 3 * 2400)::int,
       round((180000 + size ^ 3 * 290000000)::numeric, -3),
       since + time '08:00' + size * interval '9 hours'
FROM made_accounts;

INSERT INTO contacts (id, account_id, first_name, last_name, job_title, email, phone, is_primary, created_at)
SELECT pg_temp.id_of(slug || ' contact', k), id, first_name, last_name,
       pg_temp.pick('{Head of purchasing,Managing director,Buyer,Accountant,Operations manager,Office manager,Technical lead}', slug || ' job', k),
       pg_temp.mail_name(first_name) || '.' || pg_temp.mail_name(last_name) || '@' || split_part(website, '//', 2),
       dial_code || to_char(1000000 + pg_temp.chance(slug || ' phone', k) * 8999999, 'FM0000000'),
       i = 0, since + i * interval '41 days' + time '10:30'
FROM (SELECT one.*, a.*, i, a.n * 10 + i AS k,
             pg_temp.pick(first_names, slug || ' first', a.n * 10 + i) AS first_name,
             pg_temp.pick(last_names, slug || ' last', a.n * 10 + i) AS last_name
      FROM one, made_accounts AS a, generate_series(0, (pg_temp.chance(one.slug || ' contacts', a.n) * 4)::int) AS i) AS c;

INSERT INTO leads (id, first_name, last_name, company, email, status, source, score, estimated_value, converted_account_id, created_at, converted_at)
SELECT pg_temp.id_of(slug || ' lead', k), first_name, last_name, company,
       pg_temp.mail_name(first_name) || '@' || pg_temp.mail_name(company) || '.example',
       status::lead_status,
       pg_temp.pick('{website,website,referral,trade_fair,campaign,cold_call}', slug || ' source', k)::lead_source,
       CASE status WHEN 'converted' THEN 100 WHEN 'lost' THEN 0 ELSE 5 + (pg_temp.chance(slug || ' score', k) * 90)::int END,
       round((800 + pg_temp.chance(slug || ' value', k) ^ 2 * 90000)::numeric, -2),
       CASE WHEN status = 'converted' THEN account_id END,
       started,
       CASE WHEN status = 'converted' THEN started + (3 + pg_temp.chance(slug || ' days', k) * 20) * interval '1 day' END
FROM (SELECT one.*, k, a.id AS account_id,
             pg_temp.pick(first_names, slug || ' lead first', k) AS first_name,
             pg_temp.pick(last_names, slug || ' lead last', k) AS last_name,
             CASE WHEN a.id IS NULL THEN pg_temp.pick(last_names, slug || ' lead firm', k) || ' ' || pg_temp.pick(areas, slug || ' lead area', k)
                  ELSE a.name END AS company,
             CASE WHEN a.id IS NOT NULL THEN 'converted'
                  ELSE pg_temp.pick('{new,new,contacted,contacted,qualified,lost}', slug || ' status', k) END AS status,
             coalesce(a.since - 40, as_of - (pg_temp.chance(slug || ' lead age', k) * 240)::int)
                 + time '09:00' + pg_temp.chance(slug || ' lead hour', k) * interval '8 hours' AS started
      -- Every third account began as a lead; the others are still open.
      FROM one, generate_series(0, accounts * 3 / 2) AS k LEFT JOIN made_accounts AS a ON a.n = k AND k % 3 = 0) AS l;

CREATE TEMPORARY TABLE made_opportunities AS
SELECT one.slug, a.id AS account_id, a.n * 10 + i AS k, i,
       pg_temp.pick(products, one.slug || ' topic', a.n * 10 + i) AS product,
       greatest(a.since, as_of - 1000) + (pg_temp.chance(one.slug || ' begun', a.n * 10 + i) * (as_of - greatest(a.since, as_of - 1000)))::int AS begun,
       pg_temp.chance(one.slug || ' outcome', a.n * 10 + i) AS outcome,
       round((900 + (pg_temp.chance(one.slug || ' amount', a.n * 10 + i) ^ 3) * (4000 + a.size ^ 3 * 400000))::numeric, -1) AS amount,
       as_of
FROM one, made_accounts AS a, generate_series(1, (pg_temp.chance(one.slug || ' deals', a.n) * 4)::int) AS i;

INSERT INTO opportunities (id, account_id, contact_id, name, stage, amount, probability, expected_close, closed_at, created_at)
SELECT pg_temp.id_of(slug || ' opportunity', k), account_id,
       (SELECT c.id FROM contacts AS c WHERE c.id = pg_temp.id_of(slug || ' contact', k - i)),
       split_part(product, '|', 1) || ', ' || pg_temp.pick('{renewal,first order,framework contract,extension,pilot}', slug || ' deal', k),
       stage::opportunity_stage, amount,
       CASE stage WHEN 'won' THEN 100 WHEN 'lost' THEN 0 WHEN 'negotiation' THEN 70 WHEN 'proposal' THEN 45 ELSE 20 END,
       begun + 60,
       CASE WHEN stage IN ('won', 'lost') THEN begun + 45 + time '16:00' + outcome * interval '10 days' END,
       begun + time '11:00'
FROM (SELECT *, CASE WHEN begun > as_of - 60 THEN pg_temp.pick('{qualification,proposal,negotiation}', slug || ' stage', k)
                     WHEN outcome < 0.58 THEN 'won' ELSE 'lost' END AS stage
      FROM made_opportunities) AS o;

CREATE TEMPORARY TABLE made_invoices AS
SELECT *, row_number() OVER (PARTITION BY extract(year FROM issued_on) ORDER BY issued_on, id) AS serial,
       CASE WHEN issued_on > as_of - 4 THEN 'draft'
            WHEN outcome < 0.01 THEN 'void'
            WHEN issued_on + 30 < as_of THEN CASE WHEN outcome < 0.06 THEN 'overdue' ELSE 'paid' END
            WHEN outcome < 0.45 THEN 'paid'
            ELSE 'sent' END AS status
FROM (SELECT one.slug, currency, tax_percent, products, as_of, a.id AS account_id, a.size, a.n * 100 + i AS k,
             pg_temp.id_of(one.slug || ' invoice', a.n * 100 + i) AS id,
             as_of - (pg_temp.chance(one.slug || ' issued', a.n * 100 + i) * least(as_of - a.since, 1030))::int AS issued_on,
             pg_temp.chance(one.slug || ' paid', a.n * 100 + i) AS outcome
      FROM one, made_accounts AS a, generate_series(1, (pg_temp.chance(one.slug || ' invoices', a.n) * 12)::int) AS i
      WHERE a.kind IN ('customer', 'former')) AS v;

CREATE TEMPORARY TABLE made_lines AS
SELECT v.id AS invoice_id, v.k * 10 + position AS k, v.slug, position, product,
       1 + floor(pg_temp.chance(v.slug || ' quantity', v.k * 10 + position) ^ 4 * least(40 + v.size ^ 3 * 400, 60000 / product[3]::numeric)) AS quantity,
       CASE WHEN pg_temp.chance(v.slug || ' discount', v.k * 10 + position) < 0.15 THEN 10 ELSE 0 END AS discount_percent
FROM made_invoices AS v,
     generate_series(1, 1 + (pg_temp.chance(v.slug || ' lines', v.k) * 4)::int) AS position,
     string_to_array(v.products[1 + (v.k + position * 3) % cardinality(v.products)], '|') AS product;

INSERT INTO invoices (id, account_id, number, status, currency, issued_on, due_on, net, tax, created_at)
SELECT v.id, account_id, to_char(issued_on, 'YYYY-') || to_char(serial, 'FM00000'), v.status::invoice_status, currency,
       issued_on, issued_on + 30, net, round(net * tax_percent / 100, 2), issued_on + time '15:00'
FROM made_invoices AS v
JOIN (SELECT invoice_id, sum(round(quantity::numeric * product[3]::numeric * (1 - discount_percent / 100.0), 2)) AS net
      FROM made_lines GROUP BY invoice_id) AS l ON l.invoice_id = v.id;

-- A won deal leads to the account's next invoice.
UPDATE invoices AS v SET opportunity_id = o.id
FROM (SELECT DISTINCT ON (v.id) v.id AS invoice_id, o.id
      FROM opportunities AS o JOIN made_invoices AS v ON v.account_id = o.account_id AND v.issued_on BETWEEN o.closed_at::date AND o.closed_at::date + 60
      WHERE o.stage = 'won' ORDER BY v.id, o.closed_at) AS o
WHERE o.invoice_id = v.id;

INSERT INTO invoice_lines (id, invoice_id, position, product, unit, quantity, unit_price, discount_percent)
SELECT pg_temp.id_of(slug || ' line', k), invoice_id, position, product[1], product[2], quantity, product[3]::numeric, discount_percent
FROM made_lines;

-- One payment in nine comes in two halves.
INSERT INTO payments (id, invoice_id, amount, method, paid_at, reference)
SELECT pg_temp.id_of(m.slug || ' payment', m.k * 2 + part), v.id,
       CASE parts WHEN 1 THEN v.total WHEN 2 THEN CASE part WHEN 1 THEN round(v.total / 2, 2) ELSE v.total - round(v.total / 2, 2) END END,
       pg_temp.pick('{bank_transfer,bank_transfer,bank_transfer,card,direct_debit,cheque}', m.slug || ' method', m.k)::payment_method,
       least(v.issued_on + (4 + pg_temp.chance(m.slug || ' late', m.k) * 34 + part)::int, m.as_of) + time '12:00' + m.outcome * interval '5 hours',
       'INV ' || v.number || CASE parts WHEN 2 THEN format(' (%s/2)', part) ELSE '' END
FROM made_invoices AS m
JOIN invoices AS v USING (id),
     LATERAL (SELECT CASE WHEN m.k % 9 = 0 THEN 2 ELSE 1 END) AS p (parts),
     LATERAL generate_series(1, parts) AS part
WHERE v.status = 'paid';

DROP TABLE one, made_accounts, made_opportunities, made_invoices, made_lines;
DROP FUNCTION pg_temp.chance, pg_temp.pick, pg_temp.id_of, pg_temp.mail_name;

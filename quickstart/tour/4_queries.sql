-- As crm_app in the infra database.
\echo '== 6. One prepared statement, six tenants, four databases =='
\echo 'As crm_app, a member of kessel_service: an app''s backend, which may work for every tenant.'
\echo
SET plan_cache_mode = force_generic_plan;
PREPARE best_customer (date) AS
SELECT a.name, a.city, count(*) AS invoices, sum(i.total) AS revenue, i.currency
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= $1
GROUP BY a.id, a.name, a.city, i.currency
ORDER BY revenue DESC LIMIT 1;

\pset format unaligned
\pset fieldsep ' | '
\pset tuples_only on
\echo
\echo '-- rows of shared tables'
SET kessel.tenant = 'alpine';
EXECUTE best_customer ('2026-01-01');
\echo
\echo '-- the same tables, other rows'
SET kessel.tenant = 'baltic';
EXECUTE best_customer ('2026-01-01');
\echo
\echo '-- a schema of its own'
SET kessel.tenant = 'castello';
EXECUTE best_customer ('2026-01-01');
\echo
\echo '-- another schema'
SET kessel.tenant = 'dundee';
EXECUTE best_customer ('2026-01-01');
\echo
\echo '-- a database of its own'
SET kessel.tenant = 'ember';
EXECUTE best_customer ('2026-01-01');
\echo
\echo '-- the customer''s own database, by TLS verify-full'
SET kessel.tenant = 'fjord';
EXECUTE best_customer ('2026-01-01');
\pset tuples_only off
\pset format aligned
\echo
\echo 'All six came from one plan, which names no tenant:'
\echo
SELECT name, generic_plans, custom_plans FROM pg_prepared_statements;

\set ECHO none
SELECT generic_plans = 6 AND custom_plans = 0 AS as_expected FROM pg_catalog.pg_prepared_statements \gset
\if :as_expected
\else
    DO $$ BEGIN RAISE 'six executions should have used the one generic plan'; END $$;
\endif
\set ECHO queries
\echo '== 7. Joins and aggregates run where the data is =='
\echo
SET kessel.tenant = 'ember';
\timing on
SELECT a.industry, count(DISTINCT a.id) AS customers, count(*) AS invoices, sum(i.total) AS revenue
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= '2026-01-01'
GROUP BY a.industry ORDER BY revenue DESC;
\timing off
\pset format unaligned
\pset tuples_only on
\echo
EXPLAIN (VERBOSE, COSTS OFF)
SELECT a.industry, count(DISTINCT a.id) AS customers, count(*) AS invoices, sum(i.total) AS revenue
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= '2026-01-01'
GROUP BY a.industry ORDER BY revenue DESC;
\pset tuples_only off
\pset format aligned

\echo
\echo '== 8. A write, and its rollback =='
\echo
BEGIN;
SET LOCAL kessel.tenant = 'fjord';
INSERT INTO data.leads (first_name, last_name, company, email, source)
VALUES ('Ada', 'Lovelace', 'Analytical Engines', 'ada@engines.example', 'referral')
RETURNING company, status, source, score;
UPDATE data.leads SET score = 95, status = 'qualified' WHERE email = 'ada@engines.example'
RETURNING company, status, score;
ROLLBACK;
SET kessel.tenant = 'fjord';
SELECT count(*) AS left_over FROM data.leads WHERE email = 'ada@engines.example';

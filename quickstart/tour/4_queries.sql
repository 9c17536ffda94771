-- As crm_app, a member of kessel_service, in the infra database.
SET plan_cache_mode = force_generic_plan;
\echo
\echo '== 7. One prepared statement, six tenants, four databases =='
\echo
PREPARE best_customer (date) AS
SELECT a.name AS best_customer, a.city, count(*) AS invoices, sum(i.total) AS revenue, i.currency
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= $1
GROUP BY a.id, a.name, a.city, i.currency
ORDER BY revenue DESC LIMIT 1;

\echo
\echo 'Alpine: rows of shared tables'
\echo
SET kessel.tenant = 'alpine';
EXECUTE best_customer ('2026-01-01');
\echo 'Baltic: the same tables, other rows'
\echo
SET kessel.tenant = 'baltic';
EXECUTE best_customer ('2026-01-01');
\echo 'Castello: a schema of its own'
\echo
SET kessel.tenant = 'castello';
EXECUTE best_customer ('2026-01-01');
\echo 'Dundee: another schema'
\echo
SET kessel.tenant = 'dundee';
EXECUTE best_customer ('2026-01-01');
\echo 'Ember: a database of its own'
\echo
SET kessel.tenant = 'ember';
EXECUTE best_customer ('2026-01-01');
\echo 'Fjord: the customer''s own database, TLS verify-full'
\echo
SET kessel.tenant = 'fjord';
EXECUTE best_customer ('2026-01-01');

\echo 'All six came from one plan, which names no tenant:'
\echo
SELECT name, generic_plans, custom_plans FROM pg_catalog.pg_prepared_statements;
\echo
\echo '== 8. A join with aggregates runs where the data is =='
\echo
SET kessel.tenant = 'ember';
SELECT a.industry, count(DISTINCT a.id) AS customers, count(*) AS invoices, sum(i.total) AS revenue
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= '2026-01-01'
GROUP BY a.industry ORDER BY revenue DESC;

EXPLAIN (VERBOSE, COSTS OFF)
SELECT a.industry, count(DISTINCT a.id) AS customers, count(*) AS invoices, sum(i.total) AS revenue
FROM data.accounts AS a JOIN data.invoices AS i ON i.account_id = a.id
WHERE i.issued_on >= '2026-01-01'
GROUP BY a.industry ORDER BY revenue DESC;
\echo
\echo '== 9. A write, and its rollback =='
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
SELECT count(*) AS leads_left FROM data.leads WHERE email = 'ada@engines.example';

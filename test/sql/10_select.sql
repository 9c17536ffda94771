-- One prepared statement for all tenants, whatever their isolation.
SET timezone = 'UTC';
SET datestyle = 'ISO';
PREPARE totals AS SELECT count(*), sum(amount), min(name), max(opened) FROM data.accounts;
SET kessel.tenant = 'alder';
EXECUTE totals;
SET kessel.tenant = 'birch';
EXECUTE totals;
SET kessel.tenant = 'cedar';
EXECUTE totals;
SET kessel.tenant = 'dune';
EXECUTE totals;
SET kessel.tenant = 'ember';
EXECUTE totals;
EXECUTE totals;
SET kessel.tenant = 'alder';
EXECUTE totals;
SELECT name, generic_plans + custom_plans AS executions FROM pg_prepared_statements;

-- What postgres_fdw pushes down arrives as one statement.
SET kessel.tenant = 'cedar';
EXPLAIN (VERBOSE, COSTS OFF)
SELECT a.name, count(*) FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id
WHERE a.id < 5 GROUP BY a.name ORDER BY a.name LIMIT 2;
SELECT a.name, count(*) FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id
WHERE a.id < 5 GROUP BY a.name ORDER BY a.name LIMIT 2;
SELECT a.name, c.email FROM data.accounts a LEFT JOIN data.contacts c ON c.account_id = a.id AND c.id > 6 ORDER BY 1, 2;
EXPLAIN (COSTS OFF) SELECT FROM data.accounts;
RESET kessel.tenant;
EXPLAIN (COSTS OFF) SELECT FROM data.accounts;

-- Whole rows, system columns, no columns, NULLs, local parts of a query.
SET kessel.tenant = 'dune';
SELECT a FROM data.accounts a ORDER BY id LIMIT 2;
SELECT tableoid::regclass, ctid, xmin, id FROM data.accounts WHERE id = 1;
SELECT a, c.email FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id WHERE a.id = 3 ORDER BY 2;
SELECT count(*) FROM (SELECT FROM data.accounts) s;
SELECT id, coalesce(opened, '2000-01-01') FROM data.accounts WHERE left(name, 6) = 'dune 2';
SELECT id, g FROM data.accounts, generate_series(1, 2) g WHERE id < 3 ORDER BY id, g;
SELECT (SELECT max(id) FROM data.contacts c WHERE c.account_id = a.id) FROM data.accounts a ORDER BY id;
SELECT id FROM data.accounts WHERE id IN (SELECT account_id FROM data.contacts WHERE id > 12) ORDER BY id;
SELECT id FROM data.accounts UNION ALL SELECT id + 100 FROM data.accounts ORDER BY id LIMIT 3 OFFSET 5;
WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r JOIN data.accounts a ON a.id = r.i) SELECT max(i) FROM r;

-- Parameters of many types travel as text that means the same there.
SET datestyle = 'German';
SELECT id FROM data.accounts WHERE opened = '03.01.2026'::date;
SET datestyle = 'ISO';
PREPARE typed(text, numeric, date, int[]) AS
SELECT id FROM data.accounts WHERE name > $1 AND amount < $2 AND opened > $3 AND id = ANY ($4) ORDER BY id;
EXECUTE typed('dune ''"\', 1e3, '2026-01-03', '{1,3,5,7}');

-- Several scans on one connection; the first is put aside for the second.
SET kessel.tenant = 'ember';
SELECT count(*) FROM (SELECT a.id FROM data.accounts a, LATERAL (SELECT c.id FROM data.contacts c WHERE c.account_id = a.id OFFSET 0) c WHERE a.id < 50) s;
BEGIN;
DECLARE one CURSOR FOR SELECT id FROM data.accounts ORDER BY id;
DECLARE two CURSOR FOR SELECT id FROM data.contacts ORDER BY id DESC;
FETCH 2 FROM one;
FETCH 2 FROM two;
FETCH 2 FROM one;
FETCH 2 FROM two;
SELECT count(*) FROM data.accounts;
FETCH 1 FROM one;
MOVE FORWARD ALL FROM two;
FETCH 1 FROM two;
DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT id FROM data.accounts ORDER BY id;
COMMIT;
FETCH LAST FROM held;
FETCH FIRST FROM held;
CLOSE held;

-- Rows put aside go to disk when work_mem is small.
SET work_mem = '64kB';
BEGIN;
DECLARE big CURSOR FOR SELECT * FROM data.accounts CROSS JOIN generate_series(1, 3) g;
FETCH 1 FROM big;
SELECT count(*) FROM data.contacts;
MOVE FORWARD ALL FROM big;
COMMIT;
RESET work_mem;

-- Stopping early leaves the connection usable.
BEGIN;
SELECT id FROM (SELECT id FROM data.contacts OFFSET 0) s, generate_series(1, 1) LIMIT 1;
SELECT count(*) FROM data.contacts;
COMMIT;
SELECT count(*) FROM data.contacts;

-- Writing through router tables.
SET kessel.tenant = 'birch';
INSERT INTO data.accounts VALUES (10, 'birch 10', 1.5, '2026-02-01'), (11, 'birch 11', 2.5, NULL) RETURNING id, name, amount, opened;
INSERT INTO data.accounts (id, name) VALUES (12, 'birch 12') RETURNING *;
INSERT INTO data.accounts (id, name) VALUES (12, 'again') ON CONFLICT DO NOTHING;
INSERT INTO data.accounts (id, name) VALUES (12, 'again'), (13, 'birch 13') ON CONFLICT DO NOTHING RETURNING id;
INSERT INTO data.accounts (id, name) VALUES (13, 'again');
INSERT INTO data.accounts (id, name) VALUES (12, 'again') ON CONFLICT (id) DO UPDATE SET name = 'birch 12';
INSERT INTO data.accounts (id, name) SELECT i, 'many ' || i FROM generate_series(100, 1399) i;
SELECT count(*), min(id), max(id) FROM data.accounts WHERE id >= 100;
INSERT INTO data.accounts (id, name) SELECT i, CASE i WHEN 2700 THEN 'many 100' ELSE 'more ' || i END FROM generate_series(2000, 3000) i;
SELECT count(*) FROM data.accounts WHERE id >= 2000;

-- directly in the data source
EXPLAIN (VERBOSE, COSTS OFF) UPDATE data.accounts SET amount = amount + 1 WHERE id BETWEEN 100 AND 102;
UPDATE data.accounts SET amount = amount + 1 WHERE id BETWEEN 100 AND 102;
UPDATE data.accounts SET amount = amount + 1 WHERE id BETWEEN 100 AND 102 RETURNING id, amount, upper(name);
DELETE FROM data.accounts WHERE id = 102 RETURNING *;
UPDATE data.accounts SET amount = 0 WHERE id = 101 RETURNING 'constant';
UPDATE data.accounts a SET amount = 7 FROM data.contacts c WHERE c.account_id = a.id AND a.id = 2;
SELECT amount FROM data.accounts WHERE id = 2;
-- row by row
EXPLAIN (VERBOSE, COSTS OFF) UPDATE data.accounts SET name = name || left(random()::text, 0) || '!' WHERE left(name, 7) = 'many 10';
UPDATE data.accounts SET name = name || left(random()::text, 0) || '!' WHERE left(name, 7) = 'many 10';
UPDATE data.accounts a SET amount = 8 FROM data.contacts c WHERE c.account_id = a.id AND a.id = 2 RETURNING a.id, a.amount, c.email;
DELETE FROM data.accounts WHERE left(name, 4) = 'many';
SELECT count(*) FROM data.accounts;
DELETE FROM data.contacts c USING data.accounts a WHERE a.id = c.account_id AND a.id = 3 RETURNING c.id, a.name;
WITH gone AS (DELETE FROM data.accounts WHERE id = 13 RETURNING id, name)
INSERT INTO data.accounts (id, name) SELECT id + 1, name FROM gone RETURNING *;
SELECT id FROM data.accounts WHERE id > 9 ORDER BY id FOR UPDATE;
SELECT id FROM data.accounts WHERE id > 9 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED;
SELECT a.id FROM data.accounts a JOIN data.contacts c ON c.account_id = a.id FOR SHARE OF a NOWAIT;

-- COPY, local triggers, generated columns, views with check option
COPY data.accounts (id, name, amount) FROM stdin;
20	birch 20	1
21	birch 21	\N
\.
COPY (SELECT id, name, amount FROM data.accounts WHERE id >= 20 ORDER BY id) TO stdout;
-- (how COPY names its line differs between versions)
\set SHOW_CONTEXT never
COPY data.accounts (id, name) FROM stdin;
22	birch 22
20	twice
\.
\set SHOW_CONTEXT errors
SELECT count(*) FROM data.accounts WHERE id = 22;

CREATE FUNCTION pg_temp.shout() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN NEW.name := upper(NEW.name); RAISE NOTICE '% %', TG_OP, NEW.name; RETURN NEW; END$$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON data.accounts FOR EACH ROW EXECUTE FUNCTION pg_temp.shout();
INSERT INTO data.accounts (id, name) VALUES (30, 'quiet') RETURNING name;
UPDATE data.accounts SET name = 'still quiet' WHERE id = 30 RETURNING name;
DROP TRIGGER shout ON data.accounts;

CREATE VIEW pg_temp.small AS SELECT * FROM data.accounts WHERE amount < 100 WITH CHECK OPTION;
INSERT INTO pg_temp.small (id, name, amount) VALUES (31, 'small', 5);
INSERT INTO pg_temp.small (id, name, amount) VALUES (32, 'big', 500);
UPDATE pg_temp.small SET amount = 500 WHERE id = 31;
SELECT id, amount FROM data.accounts WHERE id IN (31, 32);
DELETE FROM data.accounts WHERE id > 5;

-- TRUNCATE, but not of what tenants share
TRUNCATE data.accounts;
SET kessel.tenant = 'cedar';
BEGIN;
TRUNCATE data.accounts;
ROLLBACK;
BEGIN;
ALTER FOREIGN TABLE data.contacts OPTIONS (ADD truncatable 'false');
TRUNCATE data.contacts;
ROLLBACK;
BEGIN;
TRUNCATE data.accounts, data.contacts RESTART IDENTITY CASCADE;
SELECT (SELECT count(*) FROM data.accounts) + (SELECT count(*) FROM data.contacts) AS left_over;
ROLLBACK;
SELECT count(*) FROM data.accounts;
SET kessel.tenant = 'birch';


-- constraints of the data source speak with their own SQLSTATE
\set SHOW_CONTEXT never
DO $$
BEGIN
    INSERT INTO data.accounts (id, name) VALUES (1, 'dup');
EXCEPTION WHEN unique_violation THEN
    RAISE NOTICE 'SQLSTATE %', SQLSTATE;
END $$;

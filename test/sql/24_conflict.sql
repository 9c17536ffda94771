-- ON CONFLICT with a target.
\getenv host PGHOST
\getenv port PGPORT
\set VERBOSITY terse
\set me :USER
\c regress_database regress_owner
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE stock (id integer PRIMARY KEY, sku text, "Shop" text NOT NULL DEFAULT 'main', amount integer, m mood, seen timestamptz, tags text[],
                    twice integer GENERATED ALWAYS AS (amount * 2) STORED);
CREATE UNIQUE INDEX ON stock (sku, "Shop");
CREATE UNIQUE INDEX ON stock (lower(sku)) WHERE amount > 1000;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON stock TO regress_runtime;
\c regression :me
SELECT count(*) FROM kessel.import_tables('database', 'public', 'upsert', limit_to => '{stock}');
ALTER FOREIGN TABLE upsert.stock RENAME sku TO article;
ALTER FOREIGN TABLE upsert.stock ALTER COLUMN article OPTIONS (ADD column_name 'sku');
ALTER FOREIGN TABLE upsert.stock RENAME TO goods;
ALTER FOREIGN TABLE upsert.goods OPTIONS (SET table_name 'stock');
SET kessel.tenant = 'ember';
SET search_path = upsert;

INSERT INTO goods (id, article, amount) VALUES (1, 'a', 10), (2, 'b', 20);
\set QUIET off
INSERT INTO goods (id, article) VALUES (1, 'x') ON CONFLICT (id) DO NOTHING;
INSERT INTO goods (id, article) VALUES (3, 'a') ON CONFLICT (article, "Shop") DO NOTHING;
INSERT INTO goods (id, article) VALUES (3, 'a') ON CONFLICT (id) DO NOTHING;
INSERT INTO goods (id, amount) VALUES (1, 11), (3, 30) ON CONFLICT (id) DO UPDATE SET amount = EXCLUDED.amount;
INSERT INTO goods (id, amount) VALUES (1, 12) ON CONFLICT (id) DO UPDATE SET amount = EXCLUDED.amount WHERE goods.amount < 0;
\set QUIET on
SELECT id, article, amount, twice FROM goods ORDER BY id;

-- as PostgREST upserts
BEGIN;
WITH pgrst_source AS (
    INSERT INTO "upsert"."goods" ("id", "article", "amount") SELECT pgrst_body."id", pgrst_body."article", pgrst_body."amount"
    FROM (SELECT '[{"id": 2, "article": "b", "amount": 21}, {"id": 4, "article": "d", "amount": 40}]'::json AS json_data) pgrst_payload,
         LATERAL (SELECT "id", "article", "amount" FROM json_to_recordset(pgrst_payload.json_data) AS _("id" integer, "article" text, "amount" integer)) pgrst_body
    WHERE set_config('pgrst.inserted', (coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0) + 1)::text, true) <> '0'
    ON CONFLICT ("id") DO UPDATE SET "id" = EXCLUDED."id", "article" = EXCLUDED."article", "amount" = EXCLUDED."amount"
    WHERE set_config('pgrst.inserted', (coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0) - 1)::text, true) <> '-1'
    RETURNING "upsert"."goods".*)
SELECT count(*), sum(amount), nullif(current_setting('pgrst.inserted', true), '')::int AS counted FROM pgrst_source;
COMMIT;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = 0 WHERE set_config('other.inserted', '1', true) <> '-1';
SELECT id, article, amount, twice FROM goods ORDER BY id;
DELETE FROM goods WHERE id = 4;
UPDATE goods SET amount = 20 WHERE id = 2;

-- what is computed there, what here, and what is returned
EXPLAIN (VERBOSE, COSTS OFF)
INSERT INTO goods AS g (id, article, amount) VALUES (1, 'c', 5) ON CONFLICT (id)
DO UPDATE SET amount = g.amount + excluded.amount * 2, article = upper(g.article || '$1''"x"'), "Shop" = DEFAULT, m = 'wild', tags = ARRAY['x', excluded.article],
              seen = now() WHERE g.amount IS DISTINCT FROM excluded.amount AND g.article <> current_user;
INSERT INTO goods AS g (id, article, amount) VALUES (1, 'c', 5) ON CONFLICT (id)
DO UPDATE SET amount = g.amount + excluded.amount * 2, article = upper(g.article || '$1''"x"'), "Shop" = DEFAULT, m = 'wild', tags = ARRAY['x', excluded.article],
              seen = now() WHERE g.amount IS DISTINCT FROM excluded.amount AND g.article <> current_user
RETURNING id, article, "Shop", amount, m, tags, seen = now() AS seen, twice;
INSERT INTO goods (id, amount) VALUES (1, 7) ON CONFLICT (id)
DO UPDATE SET (amount, m) = (CASE goods.amount WHEN 21 THEN excluded.amount ELSE -1 END, NULL) RETURNING amount, m;
INSERT INTO goods (id, article, amount) VALUES (40, 'Big', 2000);
INSERT INTO goods (id, article, amount) VALUES (41, 'BIG', 3000) ON CONFLICT (lower(article)) WHERE amount > 1000 DO UPDATE SET amount = excluded.amount RETURNING id, amount;

-- many rows
\set QUIET off
INSERT INTO goods (id, amount) SELECT i, i FROM generate_series(1, 3000) i ON CONFLICT (id) DO UPDATE SET amount = coalesce(goods.amount, 0) + 10000, seen = '2026-01-01';
\set QUIET on
SELECT count(*), count(seen), sum(amount) FROM goods;
INSERT INTO goods (id, amount) VALUES (5, 1), (6, 1), (5, 2) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;
SELECT id, amount FROM goods WHERE id IN (5, 6) ORDER BY id;
INSERT INTO goods (id, "Shop") VALUES (7, NULL), (8, 'given'), (9, NULL) ON CONFLICT (id) DO UPDATE SET "Shop" = excluded."Shop" || $$ $1$$ || current_setting('kessel.tenant');
SELECT id, "Shop" FROM goods WHERE id BETWEEN 7 AND 9 ORDER BY id;

-- prepared statements, functions, WITH, views
PREPARE put(integer, integer, text) AS INSERT INTO goods (id, amount) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET amount = $2 + goods.amount, article = $3 RETURNING amount, article;
EXECUTE put(1, 1, 'p1');
SET plan_cache_mode = force_generic_plan;
EXECUTE put(1, 10, 'p2');
ALTER FOREIGN TABLE goods ALTER COLUMN article OPTIONS (SET column_name 'Shop');
EXECUTE put(1, 100, 'p3');
ALTER FOREIGN TABLE goods ALTER COLUMN article OPTIONS (SET column_name 'sku');
RESET plan_cache_mode;
SELECT article, "Shop", amount FROM goods WHERE id = 1;
CREATE FUNCTION upsert.put(key integer, value integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE result integer; extra integer := 1000;
BEGIN
    FOR i IN 1 .. 7 LOOP
        INSERT INTO upsert.goods (id, amount) VALUES (key, value) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount + extra + i RETURNING amount INTO result;
    END LOOP;
    RETURN result;
END $$;
SELECT upsert.put(1, 5);
CREATE FUNCTION upsert.put_sql(integer, integer) RETURNS integer LANGUAGE sql AS
'INSERT INTO upsert.goods (id, amount) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount + $2 RETURNING amount';
SELECT upsert.put_sql(1, i) FROM generate_series(1, 3) i;
WITH done AS (INSERT INTO goods (id, amount) VALUES (1, 0), (5000, 0) ON CONFLICT (id) DO UPDATE SET amount = -1 RETURNING id, amount)
SELECT * FROM done ORDER BY id;
CREATE VIEW few AS SELECT id AS key, amount AS value FROM goods WHERE amount < 1000000 WITH CHECK OPTION;
INSERT INTO few VALUES (1, 77) ON CONFLICT (key) DO UPDATE SET value = excluded.value + few.value RETURNING *;
INSERT INTO few VALUES (1, 77) ON CONFLICT (key) DO UPDATE SET value = 2000000;
SELECT amount FROM goods WHERE id = 1;
DO $$BEGIN EXECUTE 'INSERT INTO upsert.goods (id, amount) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET amount = $1 + 1' USING 50; END$$;
SELECT amount FROM goods WHERE id = 1;

-- rights on the columns
GRANT USAGE ON SCHEMA upsert TO regress_app;
GRANT SELECT (id, amount), INSERT ON goods TO regress_app;
GRANT kessel_service TO regress_app;
SET ROLE regress_app;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (article, "Shop") DO NOTHING;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = 1;
RESET ROLE;
GRANT UPDATE (amount) ON goods TO regress_app;
SET ROLE regress_app;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = goods.amount + 1;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = length(goods.article);
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET article = 'x';
RESET ROLE;
REVOKE kessel_service FROM regress_app;

-- what is refused
\set VERBOSITY default
\set SHOW_CONTEXT never
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = (random() * 10)::integer;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = (SELECT 1);
\set VERBOSITY terse
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = upsert.put(goods.id, 1);
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET article = goods::text;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET article = to_char(goods.seen, 'YYYY');
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET tags[1] = 'x';
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = 1 WHERE goods.m::text = 'calm';
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id int4_ops) DO NOTHING;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (amount) DO NOTHING;
INSERT INTO goods (id) VALUES (1) ON CONFLICT ON CONSTRAINT stock_pkey DO NOTHING;
CREATE FUNCTION upsert.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER note AFTER UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION upsert.note();
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET amount = 1;
INSERT INTO goods (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
DROP TRIGGER note ON goods;

-- a schema each; shared tables, whose key has the tenant, too
RESET search_path;
SET kessel.tenant = 'dune';
INSERT INTO data.accounts (id, name) VALUES (1, 'dune one') ON CONFLICT (id) DO UPDATE SET name = excluded.name || ', was ' || accounts.name RETURNING id, name;
UPDATE data.accounts SET name = 'dune 1' WHERE id = 1;
SET kessel.tenant = 'birch';
INSERT INTO data.accounts (id, name) VALUES (1, 'birch one') ON CONFLICT (id) DO UPDATE SET name = excluded.name || ', was ' || accounts.name RETURNING id, name;
INSERT INTO data.accounts (id, name) SELECT i, 'birch new ' || i FROM generate_series(1, 20) i ON CONFLICT (id) DO UPDATE SET name = excluded.name;
SELECT count(*), min(name) FROM data.accounts;
INSERT INTO data.accounts (id, name) VALUES (1, 'birch again') ON CONFLICT (id) DO NOTHING;
INSERT INTO data.accounts (id, name) VALUES (100, 'birch new 2') ON CONFLICT (name) DO NOTHING;
SELECT id, name FROM data.accounts WHERE id IN (1, 100);
DELETE FROM data.accounts WHERE id > 5;
UPDATE data.accounts SET name = 'birch ' || id;
SET kessel.tenant = 'alder';
SELECT min(name), max(name) FROM data.accounts;

SET client_min_messages = warning;
DROP SCHEMA upsert CASCADE;
\c regress_database regress_owner
DROP TABLE stock; DROP TYPE mood;

-- kessel.is_between(): what it says, and that it says the same however it is planned.
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = warning;
CREATE SCHEMA pt;
GRANT USAGE ON SCHEMA pt TO PUBLIC;

CREATE FUNCTION pt.id(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
SELECT is(kessel.is_between(pt.id(5), bounds), result, 'five, ' || coalesce(bounds::text, 'NULL')) FROM (VALUES
    (ARRAY[pt.id(5), pt.id(5)], true), (ARRAY[pt.id(1), pt.id(9)], true), (ARRAY[pt.id(1), pt.id(4)], false), (ARRAY[pt.id(6), pt.id(9)], false), (ARRAY[pt.id(9), pt.id(1)], false),
    ('[0:1]={00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff}', true),
    ('{}', false), (ARRAY[pt.id(5)], false), (ARRAY[pt.id(1), pt.id(9), pt.id(9)], false), (ARRAY[ARRAY[pt.id(1), pt.id(9)]], false), (ARRAY[pt.id(5), NULL], false), (NULL, NULL)) v(bounds, result);
SELECT is(kessel.is_between(NULL, ARRAY[pt.id(1), pt.id(9)]), NULL, 'no id');
SELECT is((SELECT count(*) FROM generate_series(1, 300) a, generate_series(1, 20) b WHERE kessel.is_between(md5(a::text)::uuid, ARRAY[md5(b::text)::uuid, md5((b + 1)::text)::uuid]) <> (md5(a::text)::uuid BETWEEN md5(b::text)::uuid AND md5((b + 1)::text)::uuid)), 0::bigint, 'uuids are ordered as elsewhere');

-- The same by an index, by none, by one of a partition, of an outer join, and where each row has other bounds.
CREATE TABLE pt.rows (owner uuid, n integer) PARTITION BY RANGE (n);
CREATE TABLE pt.rows_1 PARTITION OF pt.rows FOR VALUES FROM (0) TO (3);
CREATE TABLE pt.rows_2 PARTITION OF pt.rows FOR VALUES FROM (3) TO (6);
INSERT INTO pt.rows SELECT pt.id(i), n FROM generate_series(1, 2000) i, generate_series(0, 5) n UNION ALL SELECT NULL, 1;
CREATE INDEX ON pt.rows (owner, n DESC);
CREATE TABLE pt.bounds AS SELECT pt.id(i) AS low, pt.id(i + 1) AS high FROM generate_series(1, 5) i;
ANALYZE pt.rows, pt.bounds;
CREATE FUNCTION pt.mine() RETURNS uuid[] LANGUAGE sql STABLE AS $$ SELECT string_to_array(nullif(current_setting('pt.mine', true), ''), ',')::uuid[] $$;
CREATE FUNCTION pt.nodes(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; found text[] := '{}';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP found := found || substring(line FROM '(?:Index(?: Only)?|Bitmap Index|Seq) Scan'); END LOOP;
    RETURN (SELECT string_agg(DISTINCT f, ' ' ORDER BY f) FROM unnest(found) f);
END $$;
ALTER TABLE pt.rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON pt.rows USING (kessel.is_between(owner, (SELECT pt.mine())));
CREATE ROLE pt_user IN ROLE kessel_user;
GRANT SELECT ON pt.rows, pt.bounds TO pt_user;
SET ROLE pt_user;
SELECT unalike(pt.nodes('SELECT * FROM pt.rows'), '%Seq%', 'partitions by their indexes');
SELECT is((SELECT count(*) FROM pt.rows), 0::bigint, 'nobody');
SET pt.mine = '00000000-0000-4000-8000-000000000007,00000000-0000-4000-8000-000000000007';
SELECT is((SELECT count(*) FROM pt.rows), 6::bigint, 'a user');
SELECT is((SELECT array_agg(n) FROM (SELECT n FROM pt.rows ORDER BY n DESC LIMIT 2) r), '{5,4}', 'in order');
PREPARE by_n (integer) AS SELECT count(*) FROM pt.rows WHERE n = $1;
SELECT results_eq('EXECUTE by_n(1)', 'SELECT 1::bigint', 'with a parameter');
SET pt.mine = '00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff';
SELECT is((SELECT count(*) FROM pt.rows), 12000::bigint, 'who sees all, but no row of nobody');
SELECT results_eq('EXECUTE by_n(1)', 'SELECT 2000::bigint', 'with a parameter, too');
SET plan_cache_mode = force_generic_plan;
SELECT results_eq('EXECUTE by_n(2)', 'SELECT 2000::bigint', 'by a plan for all');
SELECT is((SELECT count(*) FROM pt.bounds b JOIN pt.rows r ON kessel.is_between(r.owner, ARRAY[b.low, b.high])), 60::bigint, 'bounds of other rows');
SELECT is((SELECT count(r.n) FROM pt.bounds b LEFT JOIN pt.rows r ON kessel.is_between(r.owner, ARRAY[b.low, b.low]) AND r.n = 0), 5::bigint, 'an outer join');
SET pt.mine = 'x';
SELECT throws_ok('SELECT count(*) FROM pt.rows', '22P02', NULL, 'no uuids');
RESET ROLE;
CREATE INDEX by_hash ON pt.rows USING hash (owner);
SET enable_seqscan = off;
SELECT is((SELECT count(*) FROM pt.rows_1 WHERE kessel.is_between(owner, ARRAY[pt.id(1), pt.id(2)])), 6::bigint, 'as its owner, known bounds');

SELECT * FROM finish();
ROLLBACK;

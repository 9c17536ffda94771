-- Conditions that the data source checks though postgres_fdw would not ask it
-- to: what is shipped, and that the rows are those which a local table gives.
\set VERBOSITY terse
\set me :USER

\c regress_database regress_owner
CREATE TYPE status AS ENUM ('open', 'pending', 'closed');
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE tickets (
    id int PRIMARY KEY, status status, former status, states status[], owner uuid, title text, mail email, weight positive,
    data jsonb, done boolean, created_at timestamptz, updated_at timestamptz, local_at timestamp, due date);
INSERT INTO tickets
SELECT i, (ARRAY['open', 'pending', 'closed', NULL])[i % 4 + 1]::status, (ARRAY['open', 'closed'])[i % 2 + 1]::status,
       ARRAY['open', CASE WHEN i % 3 = 0 THEN 'closed' END]::status[], ('00000000-0000-4000-8000-00000000000' || i % 5)::uuid,
       'title ' || i, 'u' || i % 7 || '@example.com', i,
       jsonb_build_object('kind', 'k' || i % 3, 'n', i, 'deep', jsonb_build_object('x', i % 2)), (ARRAY[true, false, NULL])[i % 3 + 1],
       now() - i * interval '6 hours', NULL, CASE WHEN i < 200 THEN now()::timestamp - i * interval '6 hours' ELSE '2026-07-01 12:00' END, current_date - i / 4
FROM generate_series(1, 200) i;
CREATE TABLE notes (id int PRIMARY KEY, ticket_id int, status status);
INSERT INTO notes SELECT i, i % 200 + 1, (ARRAY['open', 'pending', 'closed', NULL])[(i + i % 3) % 4 + 1]::status FROM generate_series(1, 400) i;
GRANT SELECT, INSERT, UPDATE, DELETE ON tickets, notes TO regress_runtime;

-- another source, with an enum of its own
\c regress_schema regress_owner
CREATE TYPE status AS ENUM ('open', 'pending', 'closed');
CREATE TABLE "t-Dune".tickets (id int PRIMARY KEY, status status, created_at timestamptz);
INSERT INTO "t-Dune".tickets SELECT i, (ARRAY['open', 'pending'])[i % 2 + 1]::status, now() - i * interval '1 day' FROM generate_series(1, 9) i;
GRANT SELECT, UPDATE ON "t-Dune".tickets TO regress_runtime;

\c regression :me
SET timezone = 'America/New_York';
SET datestyle = 'ISO';
SET kessel.tenant = 'ember';
SELECT action, object FROM kessel.import_tables('database', 'public', limit_to => '{tickets,notes}') ORDER BY object;
CREATE SCHEMA here;
CREATE TABLE here.tickets AS SELECT * FROM data.tickets;
CREATE TABLE here.notes AS SELECT * FROM data.notes;
CREATE FUNCTION here.uid() RETURNS uuid LANGUAGE sql STABLE AS $$SELECT (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid$$;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-000000000003"}';

-- What of a plan's lines of this kind there is, without the statement's start.
CREATE FUNCTION here.lines_of(plan jsonb, kind text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(regexp_replace(v #>> '{}', '^SELECT.* FROM "@tenant".tickets( WHERE )?', ''), '; ') FROM jsonb_path_query(plan, ('$.**."' || kind || '"')::jsonpath) v
$$;
CREATE FUNCTION here.ask(VARIADIC conditions text[]) RETURNS TABLE (condition text, there text, here text, matches boolean, same boolean)
LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
    rows bigint;
BEGIN
    FOREACH condition IN ARRAY conditions LOOP
        EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT id FROM data.tickets WHERE ' || condition INTO plan;
        there := here.lines_of(plan, 'Remote SQL');
        here := here.lines_of(plan, 'Filter');
        EXECUTE 'SELECT count(l.id), count(l.id) = count(*) AND count(r.id) = count(*)
                 FROM (SELECT id FROM here.tickets WHERE ' || condition || ') l FULL JOIN (SELECT id FROM data.tickets WHERE ' || condition || ') r USING (id)'
            INTO rows, same;
        matches := rows > 0;
        RETURN NEXT;
    END LOOP;
END
$$;
\pset format unaligned

-- enums
SELECT * FROM here.ask(
    $$status = 'open'$$, $$status <> 'open'$$, $$status IN ('open', 'closed')$$, $$status NOT IN ('open', 'closed')$$, $$status > 'open'$$,
    $$status = former$$, $$status IS DISTINCT FROM 'open'$$, $$status IS NULL$$, $$status::text = 'open'$$, $$status::text LIKE 'o%'$$,
    $$states @> '{closed}'$$, $$'closed' = ANY (states)$$, $$states = '{open,closed}'$$, $$status = lower('OPEN')::data.status$$,
    $$status = (SELECT 'open'::data.status)$$, $$coalesce(status, 'closed') = 'closed'$$,
    -- an untyped parameter stands in one place
    $$(status, former) > (lower('OPEN')::data.status, lower('OPEN')::data.status)$$, $$(status = lower('OPEN')::data.status) IS NOT TRUE$$,
    $$coalesce(status = lower('OPEN')::data.status, done)$$);

-- domains
SELECT * FROM here.ask($$mail = 'u1@example.com'$$, $$mail LIKE 'u1%'$$, $$weight = 5$$, $$weight + 1 < 10$$, $$weight = 7::data.positive$$, $$mail IS NOT NULL$$);

-- values
SELECT * FROM here.ask(
    $$created_at > now() - interval '7 days'$$, $$owner = here.uid()$$, $$status = 'open' AND NOT (done OR owner = here.uid())$$,
    $$title = 'title ' || length(current_setting('request.jwt.claims'))$$, $$title <> current_user$$, $$title LIKE lower('TITLE') || ' 1%'$$,
    $$id = (SELECT max(id) FROM here.notes) / 4$$, $$id = ANY (ARRAY[3, extract(isodow FROM now())::int])$$,
    $$CASE WHEN done THEN owner = here.uid() END$$, $$coalesce(owner, here.uid()) = here.uid()$$, $$random() < 2 AND id = 7$$);

-- times and their zone
SELECT * FROM here.ask(
    $$created_at >= current_date - 3$$, $$created_at < date '2026-01-01' + 100000$$, $$local_at > now() - interval '7 days'$$,
    $$local_at > localtimestamp - interval '7 days'$$, $$due >= now() - interval '2 days'$$, $$due > current_date - 5$$,
    $$created_at::date = current_date - 3$$, $$created_at::timestamp > local_at$$, $$date_trunc('month', created_at) < date_trunc('month', now())$$,
    $$date_trunc('hour', created_at) < now()$$, $$created_at + interval '7 days' > now()$$);

-- what postgres_fdw cannot write
SELECT * FROM here.ask(
    $$(created_at, id) < (now() - interval '5 days', 50)$$, $$(done, id) >= (false, 50)$$, $$(weight, title, id) > (100, 'title 100', 7)$$,
    $$(status, id) <= ('pending', 50)$$, $$NOT (done, id) > (false, 50)$$,
    $$done IS TRUE$$, $$done IS NOT TRUE$$, $$done IS FALSE$$, $$done IS NOT FALSE$$, $$done IS UNKNOWN$$, $$done IS NOT UNKNOWN$$,
    $$coalesce(title, 'none') = 'title 9'$$, $$NOT coalesce(done, id = 7)$$, $$coalesce(id = 7, NULL)$$, $$id::text = '7'$$, $$owner::text LIKE '%4'$$);

-- jsonb
SELECT * FROM here.ask(
    $$data ->> 'kind' = 'k1'$$, $$data -> 'deep' ->> 'x' = '1'$$, $$data #>> '{deep,x}' = '1'$$, $$(data ->> 'n')::int BETWEEN 5 AND 7$$,
    $$data ? 'kind'$$, $$data @> '{"kind": "k1"}'$$, $$data ->> 'kind' IN ('k1', 'k2')$$, $$data ->> 'kind' LIKE '%1'$$, $$data ->> 'kind' > 'k1'$$);
\pset format aligned

-- four names of zones, where the system has them, are taken for abbreviations, which know no summer time
SELECT coalesce((SELECT name FROM pg_timezone_names WHERE name = 'CET'), 'Europe/Brussels') AS cet \gset
SET timezone = :'cet';
SELECT condition, matches, same FROM here.ask($$local_at = timestamptz '2026-07-01 12:00+02'$$, $$local_at <= timestamptz '2026-07-01 10:00+00'$$);
\pset format unaligned
RESET timezone;

-- A value is computed under the session's settings, a statement is sent under others.
SET search_path = here;
SET datestyle = 'German';
CREATE FUNCTION here.named_by_path(int) RETURNS int LANGUAGE plpgsql STABLE AS $$BEGIN RETURN id FROM tickets WHERE id = $1; END$$;
SELECT id FROM data.tickets WHERE id = named_by_path(8) AND title <> current_date::text AND due < now();
SELECT count(*) > 0 AS found FROM data.tickets WHERE due = current_date::text::date - 1;
RESET datestyle;
RESET search_path;

-- Joins and HAVING.
EXPLAIN (VERBOSE, COSTS OFF)
SELECT t.id, t.status FROM data.tickets t JOIN data.notes n ON n.ticket_id = t.id AND n.status = t.status WHERE t.created_at > now() - interval '9 days';
SELECT count(*), min(t.status), max(t.id) FROM data.tickets t JOIN data.notes n ON n.ticket_id = t.id AND n.status = t.status WHERE t.created_at > now() - interval '9 days';
SELECT count(*), min(t.status), max(t.id) FROM here.tickets t JOIN here.notes n ON n.ticket_id = t.id AND n.status = t.status WHERE t.created_at > now() - interval '9 days';
EXPLAIN (VERBOSE, COSTS OFF)
SELECT t.id, n.status FROM data.tickets t LEFT JOIN data.notes n ON n.ticket_id = t.id AND n.status = 'open' AND t.created_at > now() - interval '9 days';
SELECT count(*), count(n) FROM data.tickets t LEFT JOIN data.notes n ON n.ticket_id = t.id AND n.status = 'open' AND t.created_at > now() - interval '9 days';
SELECT count(*), count(n) FROM here.tickets t LEFT JOIN here.notes n ON n.ticket_id = t.id AND n.status = 'open' AND t.created_at > now() - interval '9 days';
EXPLAIN (VERBOSE, COSTS OFF)
SELECT owner, count(*) FROM data.tickets GROUP BY owner HAVING max(created_at) < now() - interval '10 hours' AND min(title) <> here.uid()::text;
SELECT owner, count(*) FROM data.tickets GROUP BY owner HAVING max(created_at) < now() - interval '10 hours' ORDER BY 1;
SELECT owner, count(*) FROM here.tickets GROUP BY owner HAVING max(created_at) < now() - interval '10 hours' ORDER BY 1;
-- Grouping.
CREATE FUNCTION here.group(VARIADIC queries text[]) RETURNS TABLE (query text, there text, matches boolean, same boolean)
LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
    expected text;
    found_there text;
BEGIN
    FOREACH query IN ARRAY queries LOOP
        EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) ' || replace(query, '@', 'data') INTO plan;
        there := here.lines_of(plan, 'Remote SQL');
        EXECUTE 'SELECT string_agg(r::text, '';'' ORDER BY r::text) FROM (' || replace(query, '@', 'here') || ') r' INTO expected;
        EXECUTE 'SELECT string_agg(r::text, '';'' ORDER BY r::text) FROM (' || replace(query, '@', 'data') || ') r' INTO found_there;
        matches := expected IS NOT NULL;
        same := expected IS NOT DISTINCT FROM found_there;
        RETURN NEXT;
    END LOOP;
END
$$;
SELECT * FROM here.group(
    $$SELECT status, count(*) FROM @.tickets GROUP BY status$$,
    $$SELECT date_trunc('month', created_at), count(*) FILTER (WHERE status = 'open'), count(*) FILTER (WHERE created_at > now() - interval '7 days') FROM @.tickets GROUP BY 1$$,
    $$SELECT created_at::date, min(status), max(former), count(DISTINCT status), max(mail) FROM @.tickets WHERE owner = here.uid() GROUP BY 1$$,
    $$SELECT data ->> 'kind', sum((data ->> 'n')::int) FROM @.tickets GROUP BY 1 HAVING count(*) FILTER (WHERE done IS NOT TRUE AND status = 'open') > 3$$,
    $$SELECT t.status, n.status, count(*) FROM @.tickets t JOIN @.notes n ON n.ticket_id = t.id GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 30$$,
    -- two columns that are shipped alike
    $$SELECT done IS TRUE, done AND done IS NOT NULL, count(*) FROM @.tickets GROUP BY 1, 2$$,
    -- not shipped
    $$SELECT array_agg(status ORDER BY status) FROM @.tickets$$,
    $$SELECT date_trunc('hour', created_at), count(*) FROM @.tickets GROUP BY 1$$,
    -- columns of two queries that look alike
    $$SELECT s.k, p.k FROM (SELECT states AS k, count(*) FROM @.tickets GROUP BY 1) s JOIN (SELECT status AS k, count(*) FROM @.notes GROUP BY 1) p ON p.k = s.k[1]$$);
-- a part of a value that is a column of the result, too
PREPARE shared(int) AS SELECT $1 + 1 AS x, count(*) FROM data.tickets WHERE id > length(current_setting('TimeZone')) + ($1 + 1) GROUP BY 1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE shared(3);
EXECUTE shared(3);
RESET plan_cache_mode;
SELECT id, (SELECT count(*) FROM data.tickets t WHERE t.status = o.status AND t.created_at < o.created_at + interval '1 day') FROM here.tickets o WHERE id < 4
EXCEPT
SELECT id, (SELECT count(*) FROM here.tickets t WHERE t.status = o.status AND t.created_at < o.created_at + interval '1 day') FROM here.tickets o WHERE id < 4;

-- Random conditions: a local table and the router table agree.
CREATE FUNCTION here.pick(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT choices[1 + floor(random() * cardinality(choices))::int]';
CREATE FUNCTION here.comparison() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kind text := here.pick('status', 'number', 'text', 'boolean', 'time', 'uuid');
    columns text[] := CASE kind
        WHEN 'status' THEN ARRAY['status', 'former']
        WHEN 'number' THEN ARRAY['id', 'weight', '(data ->> ''n'')::int', 'weight + 1', 'abs(id - 100)', 'coalesce(weight, 3)']
        WHEN 'text' THEN ARRAY['title', 'mail', 'data ->> ''kind''', 'status::text', 'lower(title)', 'id::text', 'coalesce(title, mail)']
        WHEN 'boolean' THEN ARRAY['done', '(id > 50)', 'coalesce(done, id = 7)']
        WHEN 'time' THEN ARRAY['created_at', 'local_at', 'due', 'date_trunc(''week'', created_at)', 'created_at::date', 'created_at::timestamp', 'coalesce(updated_at, local_at)']
        ELSE ARRAY['owner'] END;
    vals text[] := CASE kind
        WHEN 'status' THEN ARRAY['''open''::data.status', '''closed''', 'lower(''OPEN'')::data.status', 'NULL::data.status', '(SELECT ''pending''::data.status)']
        WHEN 'number' THEN ARRAY['7', 'length(current_setting(''TimeZone''))', 'NULL::int', 'extract(day FROM now())::int']
        WHEN 'text' THEN ARRAY['''title 5''', 'current_setting(''TimeZone'')', 'NULL::text', 'lower(''TITLE 9'')', 'current_user::text']
        WHEN 'boolean' THEN ARRAY['true', 'false', 'NULL::boolean', '(now() > ''2020-01-01'')']
        WHEN 'time' THEN ARRAY['now()', 'now() - interval ''4 days''', 'current_date', 'localtimestamp - interval ''1 day''', '''2026-11-15''::date', 'NULL::timestamptz']
        ELSE ARRAY['here.uid()', '''00000000-0000-4000-8000-000000000002''::uuid', 'NULL::uuid'] END;
BEGIN
    RETURN format(here.pick('(%1$s %2$s %3$s)', '(%1$s %2$s %3$s)', '(%1$s IS DISTINCT FROM %3$s)', '(%1$s IN (%3$s, %4$s))', '(%1$s IS NULL)', '(%1$s BETWEEN %3$s AND %4$s)',
                            '((%1$s, id) %2$s (%3$s, 50))', '((former, %1$s) %2$s (lower(''OPEN'')::data.status, %3$s))', '((%1$s %2$s %3$s) IS NOT TRUE)',
                            '(CASE WHEN done THEN %1$s %2$s %3$s ELSE %1$s = %4$s END)', 'coalesce(%1$s %2$s %3$s, done)'),
                  here.pick(VARIADIC columns), here.pick('=', '<>', '<', '<=', '>', '>='),
                  here.pick(VARIADIC CASE WHEN random() < 0.3 THEN columns ELSE vals END), here.pick(VARIADIC vals));
END
$$;
CREATE FUNCTION here.condition(depth int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF depth = 0 OR random() < 0.3 THEN
        RETURN here.comparison();
    END IF;
    RETURN format(here.pick('(%s AND %s)', '(%s OR %s)', '(NOT %1$s)'), here.condition(depth - 1), here.condition(depth - 1));
END
$$;
CREATE FUNCTION here.compare(rounds int) RETURNS TABLE (queries bigint, with_rows bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    query text;
    expected text;
    found_there text;
BEGIN
    queries := rounds;
    with_rows := 0;
    FOR i IN 1..rounds LOOP
        query := format(here.pick(
            'SELECT id FROM @.tickets WHERE %1$s',
            'SELECT id FROM @.tickets WHERE %1$s ORDER BY id LIMIT 9',
            'SELECT t.id, n.status FROM @.tickets t LEFT JOIN (SELECT id AS note, ticket_id, status FROM @.notes) n ON n.ticket_id = t.id AND n.status IS NOT DISTINCT FROM former WHERE t.id IN (SELECT id FROM @.tickets WHERE %1$s)',
            'SELECT id FROM @.tickets t WHERE EXISTS (SELECT FROM @.notes n WHERE n.ticket_id = t.id AND n.status = t.status) AND %1$s',
            'SELECT status, done IS TRUE, count(*), count(*) FILTER (WHERE %2$s), max(former) FROM @.tickets WHERE %1$s GROUP BY 1, 2',
            'SELECT date_trunc(''month'', created_at), data ->> ''kind'', count(DISTINCT status) FROM @.tickets GROUP BY 1, 2 HAVING count(*) FILTER (WHERE %1$s) > 2'),
            here.condition(3), here.condition(1));
        EXECUTE 'SELECT string_agg(r::text, '';'' ORDER BY r::text) FROM (' || replace(query, '@', 'here') || ') r' INTO expected;
        EXECUTE 'SELECT string_agg(r::text, '';'' ORDER BY r::text) FROM (' || replace(query, '@', 'data') || ') r' INTO found_there;
        with_rows := with_rows + (expected IS NOT NULL)::int;
        IF found_there IS DISTINCT FROM expected THEN
            RAISE WARNING '%: % instead of %', query, found_there, expected;
        END IF;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT setseed(0.7072) \g /dev/null
SELECT queries, with_rows > 50 AS enough FROM here.compare(300);

-- Prepared statements: values, enums and tenants change.
PREPARE by_status(data.status, interval) AS SELECT count(*) FROM data.tickets WHERE status = $1 AND created_at > now() - $2;
EXECUTE by_status('open', '5 days');
EXECUTE by_status('pending', '5 days');
EXECUTE by_status('open', '10 years');
SET kessel.tenant = 'dune';
EXECUTE by_status('open', '5 days');
EXECUTE by_status('closed', '10 years');
EXECUTE by_status(NULL, '10 years');
EXECUTE by_status('pending', '10 years');
EXECUTE by_status('open', '10 years');
SET kessel.tenant = 'ember';
EXECUTE by_status('pending', '10 years');
SELECT generic_plans > 0 AS generic FROM pg_prepared_statements WHERE name = 'by_status';
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE by_status('open', '5 days');
PREPARE twice(data.status) AS SELECT count(*) FROM data.tickets t JOIN data.notes n ON n.ticket_id = t.id WHERE t.status = $1 AND n.status = $1 AND (t.former = $1 OR t.former <> $1);
EXECUTE twice('open');
SET plan_cache_mode = force_generic_plan;
EXECUTE twice('open');
RESET plan_cache_mode;
PREPARE any_status(data.status[]) AS SELECT count(*) FROM data.tickets WHERE status = ANY ($1);
EXECUTE any_status('{open,closed}');
EXECUTE any_status('{}');

-- A function that is replaced or dropped.
CREATE FUNCTION here.limit() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 3; END';
SET plan_cache_mode = force_generic_plan;
PREPARE limited AS SELECT count(*) FROM data.tickets WHERE id <= here.limit();
EXECUTE limited;
CREATE OR REPLACE FUNCTION here.limit() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 5; END';
EXECUTE limited;
CREATE OR REPLACE FUNCTION here.limit() RETURNS int LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN 6; END';
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE limited;
DROP FUNCTION here.limit();
EXECUTE limited;
-- and one that raises
CREATE FUNCTION here.raise() RETURNS int LANGUAGE plpgsql STABLE AS $$BEGIN RAISE 'raised'; END$$;
SELECT count(*) FROM data.tickets WHERE id = here.raise();
SELECT count(*) FROM data.tickets WHERE CASE WHEN id > 0 THEN true ELSE id = here.raise() END;
SELECT count(*) FROM data.tickets WHERE coalesce(id, here.raise()) > 0;
SELECT count(*) FROM data.tickets;
-- and one that the user may not call
REVOKE ALL ON FUNCTION here.uid() FROM PUBLIC;
GRANT USAGE ON SCHEMA here TO regress_app;
GRANT SELECT ON data.tickets TO regress_app;
GRANT kessel_service TO regress_app;
SET ROLE regress_app;
SELECT count(*) FROM data.tickets WHERE owner = here.uid();
RESET ROLE;
REVOKE kessel_service FROM regress_app;

-- A label that is renamed while a plan has it in its SQL.
PREPARE labelled AS SELECT count(*) FROM data.tickets WHERE status = 'pending';
EXECUTE labelled;
ALTER TYPE data.status RENAME VALUE 'pending' TO 'waiting';
EXECUTE labelled;
ALTER TYPE data.status RENAME VALUE 'waiting' TO 'pending';
EXECUTE labelled;
RESET plan_cache_mode;

-- Row locks and updates are of matching rows alone, and one statement.
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM data.tickets WHERE status = 'open' AND created_at > now() - interval '7 days' FOR UPDATE;
EXPLAIN (VERBOSE, COSTS OFF) UPDATE data.tickets SET updated_at = now() WHERE status = 'open';
EXPLAIN (VERBOSE, COSTS OFF)
UPDATE data.tickets SET status = 'closed', former = status, states = '{open}', mail = 'x@example.com', weight = 7, title = upper(title), due = now() WHERE id = 3;
EXPLAIN (VERBOSE, COSTS OFF) UPDATE data.tickets SET weight = weight + 1 WHERE id = 3;
BEGIN;
UPDATE data.tickets SET status = 'closed', former = status, states = '{open}', mail = 'x@example.com', title = upper(title), due = now(), updated_at = now()
WHERE id = 4 AND status = 'open' RETURNING status, former, states, mail, title, due = now()::date, updated_at = now() AS now;
ROLLBACK;
PREPARE change(data.status, text) AS UPDATE data.tickets SET status = $1, mail = $2 WHERE id = 1 RETURNING status, mail;
BEGIN;
EXECUTE change('open', 'a@b');
EXECUTE change(NULL, NULL);
EXECUTE change('closed', 'nowhere');
ROLLBACK;
EXPLAIN (VERBOSE, COSTS OFF) DELETE FROM data.tickets t USING data.notes n WHERE n.ticket_id = t.id AND n.status = 'open' AND t.created_at < now() - interval '100 years';
EXPLAIN (VERBOSE, COSTS OFF) UPDATE data.tickets SET title = clock_timestamp()::text WHERE status = 'open';
BEGIN;
UPDATE data.tickets SET status = 'pending', updated_at = now() WHERE status = 'open' AND id < 20;
SELECT count(*), count(updated_at) FROM data.tickets WHERE status = 'pending' AND id < 20;
ROLLBACK;

-- A part of a partitioned table.
CREATE TABLE here.all_tickets (id int, status data.status, created_at timestamptz) PARTITION BY LIST (status);
CREATE FOREIGN TABLE here.open_tickets PARTITION OF here.all_tickets FOR VALUES IN ('open') SERVER kessel_router OPTIONS (schema_name '@tenant', table_name 'tickets');
CREATE TABLE here.closed_tickets PARTITION OF here.all_tickets FOR VALUES IN ('closed');
EXPLAIN (VERBOSE, COSTS OFF) SELECT count(*) FROM here.all_tickets WHERE status <> 'closed' AND created_at > now() - interval '2 days';
EXPLAIN (VERBOSE, COSTS OFF) UPDATE here.all_tickets SET created_at = now() WHERE created_at > now() - interval '2 days';

-- Behind a bound server a column may be what it is not here: order is not relied on.
CREATE SERVER elsewhere FOREIGN DATA WRAPPER kessel_fdw OPTIONS (dbname 'regress_database');
CREATE FOREIGN TABLE here.elsewhere (id int, status data.status, title text) SERVER elsewhere OPTIONS (schema_name 'public', table_name 'tickets');
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM here.elsewhere WHERE status = 'open' AND status < 'closed' AND title = here.uid()::text;

\pset format aligned
SET client_min_messages = warning;
DROP SERVER elsewhere CASCADE;
DROP SCHEMA here CASCADE;
DROP FOREIGN TABLE data.tickets, data.notes;
DROP TYPE data.status;
DROP DOMAIN data.email, data.positive;
RESET client_min_messages;

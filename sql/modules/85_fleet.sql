-- One statement on many tenants at once.

CREATE FUNCTION kessel.fleet_query(sql text, tenants text[] DEFAULT NULL, max_parallel integer DEFAULT 16,
    timeout interval DEFAULT '1 min', deadline interval DEFAULT NULL, params text[] DEFAULT NULL)
RETURNS TABLE (tenant text, ok boolean, "row" jsonb, error jsonb, ms double precision)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 COST 100000 AS 'MODULE_PATHNAME', 'kr_fleet_query';
COMMENT ON FUNCTION kessel.fleet_query(text, text[], integer, interval, interval, text[]) IS
    'Runs a query for each tenant, in a read-only transaction of its own in the tenant''s database, many at once. A line for each row, as soon as it is there: tenant (slug), ok = true, '
    'row as to_jsonb() makes it there, ms since the work for the tenant began (milliseconds). A tenant without rows has one line with row NULL. A tenant whose query fails has one with ok = false and error '
    '{"sqlstate", "message", "detail", "hint"}, perhaps after some of its rows. tenants: slugs or ids, each counts once; NULL: all active ones. max_parallel: 1 to 1000 connections at once, and to one host and port not more than kessel.fleet_connections_per_host; '
    'timeout: for each tenant; deadline: for all; NULL: no limit. params: values of $1, $2 ... as text. '
    'Times are in UTC. For a tenant who shares a database: one SELECT, EXPLAIN or SHOW with built-in functions that are not volatile and, with schema isolation, no other schema; else 42501 in its line. '
    'Raises 22023 for bad limits, 22004 for NULL, 42601 for several statements, 2D000 for transaction control, 0A000 for COPY. For kessel_service, kessel_admin';

CREATE FUNCTION kessel.fleet_exec(statement text, tenants text[] DEFAULT NULL, max_parallel integer DEFAULT 16,
    timeout interval DEFAULT '1 min', deadline interval DEFAULT NULL, params text[] DEFAULT NULL)
RETURNS TABLE (tenant text, ok boolean, command text, "rows" bigint, error jsonb, ms double precision)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 COST 100000 AS 'MODULE_PATHNAME', 'kr_fleet_exec';
COMMENT ON FUNCTION kessel.fleet_exec(text, text[], integer, interval, interval, text[]) IS
    'Runs a statement for each tenant and commits it there at once, independently of other tenants and of the transaction here: a ROLLBACK here undoes nothing. A line for each tenant: ok, command (as INSERT), '
    'rows that it has affected, error and ms as kessel.fleet_query(). Where a connection is lost while it commits, error has sqlstate 08007: the outcome is unknown; with any other nothing was changed. '
    'Where the call itself is cancelled, the server''s log tells how many had committed. It runs to the end, however many lines are fetched. '
    'Arguments and errors as kessel.fleet_query(), and 25006 in a read-only transaction. For kessel_service, kessel_admin';

CREATE FUNCTION kessel.fleet_rows(sql text, tenants text[] DEFAULT NULL, max_parallel integer DEFAULT 16,
    timeout interval DEFAULT '1 min', deadline interval DEFAULT NULL, params text[] DEFAULT NULL, on_error text DEFAULT 'stop')
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 COST 100000 AS 'MODULE_PATHNAME', 'kr_fleet_rows';
COMMENT ON FUNCTION kessel.fleet_rows(text, text[], integer, interval, interval, text[], text) IS
    'The rows of a query for each tenant, as kessel.fleet_query() runs it, in columns: FROM kessel.fleet_rows(...) AS t(tenant text, id integer, ...). The first column is the tenant''s slug, the others are the query''s, by position, in these types. '
    'The first tenant that fails raises its error (42804: another number of columns); with on_error => ''warn'' it is a WARNING, and the tenant''s further rows are left out. '
    'Arguments and errors as kessel.fleet_query(). For kessel_service, kessel_admin';

REVOKE ALL ON FUNCTION kessel.fleet_query(text, text[], integer, interval, interval, text[]),
    kessel.fleet_exec(text, text[], integer, interval, interval, text[]),
    kessel.fleet_rows(text, text[], integer, interval, interval, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.fleet_query(text, text[], integer, interval, interval, text[]),
    kessel.fleet_exec(text, text[], integer, interval, interval, text[]),
    kessel.fleet_rows(text, text[], integer, interval, interval, text[], text) TO kessel_service, kessel_admin;

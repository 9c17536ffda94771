-- Migrations of one blueprint on many targets at once, in steps between which the
-- caller commits. What kessel.migrate and kessel.rollback are built on.

CREATE FUNCTION kessel._migration_begin(run_id uuid, blueprint text, direction text, to_version integer, dry_run boolean, max_parallel integer,
    timeout interval, lock_timeout interval, lock_retries integer, data_source_ids uuid[], schema_names text[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_begin';
COMMENT ON FUNCTION kessel._migration_begin(uuid, text, text, integer, boolean, integer, interval, interval, integer, uuid[], text[]) IS
    'Internal: begins with the targets named by position in both arrays; ends with the portal it is called in, which PERFORM in a procedure leaves the CALL''s. direction: up or down. timeout: of each attempt at a target; '
    'lock_timeout: there; NULL: no limit. 55000 others are under way, 42704 no migrations, 22023, 22004, 2202E';

CREATE FUNCTION kessel._migration_next("wait" interval)
RETURNS TABLE (n integer, news text, from_version integer, version integer, applied integer, attempts integer, error jsonb, ms double precision)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_next';
COMMENT ON FUNCTION kessel._migration_next(interval) IS
    'Internal: what has happened; waits for it so long at most, and 100 ms more for more. n: position in the arrays; news: begun, retry (it will be begun again after a while), done, failed, unknown (08007: a commit was not answered). '
    'from_version, version: NULL where not known; of a dry run what was come to and taken back. applied: migrations run. error: as kessel.fleet_query(), with "migration", "statement" (from 1) and "line". ms: since it was begun first. '
    'An error raised here ends all. 55000 none are under way';

CREATE FUNCTION kessel._migration_open() RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_open';
COMMENT ON FUNCTION kessel._migration_open() IS 'Internal: targets whose end has not been told';

CREATE FUNCTION kessel._migration_stop() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_stop';
COMMENT ON FUNCTION kessel._migration_stop() IS
    'Internal: begins no more targets. Those that were not begun are not told of; those that wait to be begun again fail with their last error; those at work go on';

CREATE FUNCTION kessel._migration_stop_after(failures integer) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_stop_after';
COMMENT ON FUNCTION kessel._migration_stop_after(integer) IS 'Internal: from now on so many may fail or end unknown; the next one stops all as kessel._migration_stop() does, before another is begun. NULL: nothing changes';

CREATE FUNCTION kessel._migration_fail(message text, detail text, hint text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kr_migration_fail';
COMMENT ON FUNCTION kessel._migration_fail(text, text, text) IS 'Internal: raises KR013';

REVOKE ALL ON FUNCTION kessel._migration_fail(text, text, text), kessel._migration_stop_after(integer), kessel._migration_begin(uuid, text, text, integer, boolean, integer, interval, interval, integer, uuid[], text[]),
    kessel._migration_next(interval), kessel._migration_open(), kessel._migration_stop() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._migration_fail(text, text, text), kessel._migration_stop_after(integer), kessel._migration_begin(uuid, text, text, integer, boolean, integer, interval, interval, integer, uuid[], text[]),
    kessel._migration_next(interval), kessel._migration_open(), kessel._migration_stop() TO kessel_admin;

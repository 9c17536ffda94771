-- CALL kessel.migrate() and kessel.rollback().
--
-- The procedures run as their caller, for one that is SECURITY DEFINER or has a SET
-- cannot commit. Everything that they do is in functions that are SECURITY DEFINER,
-- short transactions of a run's life in this order:
--
--   _run_lock, _run_begin     a run and its targets, or one that was cut off is taken up
--   _run_wave                 what the wave may change is noted as in doubt, before anything is sent
--   _run_start, _run_step ... the engine at work (87_migration_engine.sql); what has become of it is written down
--   _run_wave_end             what was not begun, and whether it goes on
--   _run_reached, _run_late   new tenants get the version from now on; who came meanwhile is added
--   _run_end, _run_unlock
--
-- An admin who calls one of them by hand gets no further than the session's own run.

CREATE FUNCTION kessel._run_check(kind text, blueprint text, to_version integer, tenants text[], canary text[], max_parallel integer, on_error text,
    max_failures integer, dry_run boolean, timeout interval, lock_timeout interval, lock_retries integer, verify boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted integer;
    complaint text := CASE
        WHEN max_parallel IS NULL OR max_parallel NOT BETWEEN 1 AND 1000 THEN 'max_parallel must be between 1 and 1000'
        WHEN on_error IS NULL OR on_error NOT IN ('stop', 'continue') THEN 'on_error must be stop or continue'
        WHEN max_failures < 0 THEN 'max_failures must not be negative'
        WHEN dry_run IS NULL OR verify IS NULL THEN 'dry_run and verify must not be NULL'
        WHEN timeout NOT BETWEEN '1 ms' AND '24 days' THEN 'timeout must be between one millisecond and 24 days'
        WHEN lock_timeout NOT BETWEEN '1 ms' AND '24 days' THEN 'lock_timeout must be between one millisecond and 24 days'
        WHEN lock_retries IS NULL OR lock_retries NOT BETWEEN 0 AND 1000 THEN 'lock_retries must be between 0 and 1000' END;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a migration runs in READ COMMITTED only'
            USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed'' first.';
    END IF;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION '%', complaint USING ERRCODE = 'invalid_parameter_value';
    END IF;
    wanted := kessel._wanted_version(blueprint, to_version);
    IF kind = 'migrate' AND wanted = 0 THEN
        RAISE EXCEPTION 'blueprint "%" has no version 0', blueprint
            USING ERRCODE = 'invalid_parameter_value', HINT = 'CALL kessel.rollback() takes migrations back.';
    ELSIF kind = 'rollback' AND to_version IS NULL THEN
        RAISE EXCEPTION 'to_version must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the version that is to stay; 0 takes all back.';
    END IF;
    -- Names that are unknown, before anything else.
    PERFORM kessel._tenant_ids(tenants), kessel._tenant_ids(canary);
    RETURN wanted;
END
$$;
COMMENT ON FUNCTION kessel._run_check(text, text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean) IS 'The version that is meant; an error where the arguments of kessel.migrate() or kessel.rollback() are wrong';
REVOKE ALL ON FUNCTION kessel._run_check(text, text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_check(text, text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean) TO kessel_admin;

-- The run that this session is at; nobody else writes to it.
CREATE FUNCTION kessel._run_mine(run_id uuid) RETURNS kessel.migration_runs
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs;
BEGIN
    SELECT * INTO run FROM kessel.migration_runs r
    WHERE r.run_id = _run_mine.run_id AND r.state = 'running' AND r.pid = pg_backend_pid();
    IF run.run_id IS NULL OR kessel._run_holder(run.blueprint) IS DISTINCT FROM pg_backend_pid() THEN
        RAISE EXCEPTION 'this session does not work on run %', run_id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL kessel.migrate() or kessel.rollback().';
    END IF;
    RETURN run;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_mine(uuid) FROM PUBLIC;

-- Adds the targets that the run does not have yet.
CREATE FUNCTION kessel._run_choose(run kessel.migration_runs) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added integer;
BEGIN
    INSERT INTO kessel.migration_run_targets (run_id, n, wave, data_source_id, data_source, schema_name, tenants, state, from_version, version, note)
    SELECT run.run_id,
           (SELECT coalesce(max(x.n), 0) FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id) + row_number() OVER (ORDER BY g.data_source, g.schema_name),
           'rest', g.data_source_id, g.data_source, g.schema_name, g.tenants,
           CASE WHEN g.disabled THEN 'skipped' WHEN known.enough THEN 'done' ELSE 'waiting' END,
           CASE WHEN known.enough THEN k.version END, CASE WHEN known.enough THEN k.version END,
           CASE WHEN g.disabled THEN 'The data source is disabled.' WHEN known.enough THEN 'Not asked: it is known to be there.' END
    FROM kessel._targets(kessel._tenant_ids(run.tenants)) g
         LEFT JOIN kessel.migration_targets k ON k.data_source_id = g.data_source_id AND k.schema_name = g.schema_name AND k.blueprint = run.blueprint
         CROSS JOIN LATERAL (SELECT NOT (run.options ->> 'verify')::boolean AND k.trying IS NULL
                                    AND CASE run.kind WHEN 'migrate' THEN k.version >= run.to_version ELSE k.version <= run.to_version END AS enough) known
    WHERE NOT EXISTS (SELECT FROM kessel.migration_run_targets x
                      WHERE x.run_id = run.run_id AND x.data_source_id = g.data_source_id AND x.schema_name = g.schema_name);
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_choose(kessel.migration_runs) FROM PUBLIC;

-- Which of them go first.
CREATE FUNCTION kessel._run_choose_canary(run kessel.migration_runs) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    IF run.canary IS NULL THEN
        UPDATE kessel.migration_run_targets x SET wave = 'canary'
        WHERE x.run_id = run.run_id AND x.n = (
            SELECT y.n
            FROM kessel.migration_run_targets y JOIN kessel._targets(kessel._tenant_ids(run.tenants)) g USING (data_source_id, schema_name)
            WHERE y.run_id = run.run_id AND y.state = 'waiting'
            ORDER BY g.first_tenant COLLATE "C" NULLS LAST, y.n LIMIT 1);
        RETURN;
    END IF;
    WITH named AS (
        SELECT g.data_source_id, g.schema_name, g.first_tenant FROM kessel._targets(kessel._tenant_ids(run.canary)) g
    ), marked AS (
        UPDATE kessel.migration_run_targets x SET wave = 'canary'
        FROM named d
        WHERE x.run_id = run.run_id AND x.data_source_id = d.data_source_id AND x.schema_name = d.schema_name AND x.state <> 'skipped'
        RETURNING x.data_source_id, x.schema_name
    )
    SELECT string_agg(format('"%s"', d.first_tenant), ', ' ORDER BY d.first_tenant COLLATE "C") INTO wrong
    FROM named d WHERE NOT EXISTS (SELECT FROM marked m WHERE m.data_source_id = d.data_source_id AND m.schema_name = d.schema_name);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'tenant % cannot be the canary', wrong
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It is not among the tenants to be migrated, or its data source is disabled.',
                  HINT = 'Choose another one, or none: canary => ''{}''.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_choose_canary(kessel.migration_runs) FROM PUBLIC;

-- A rollback begins where all of it can be done.
CREATE FUNCTION kessel._run_check_way_down(run kessel.migration_runs) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    highest integer;
    missing text;
BEGIN
    -- What is not known may be the last version.
    SELECT max(greatest(k.version, k.trying, CASE WHEN k.version IS NULL THEN 2147483647 END)) INTO highest
    FROM kessel.migration_run_targets x
         LEFT JOIN kessel.migration_targets k ON k.data_source_id = x.data_source_id AND k.schema_name = x.schema_name AND k.blueprint = run.blueprint
    WHERE x.run_id = run.run_id AND x.state = 'waiting';
    SELECT string_agg(m.name, ', ' ORDER BY m.version DESC) INTO missing
    FROM kessel.migrations m
    WHERE m.blueprint = run.blueprint AND m.version > run.to_version AND m.version <= highest AND m.down IS NULL;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'blueprint "%" cannot go back to version %', run.blueprint, run.to_version
            USING ERRCODE = 'feature_not_supported', DETAIL = format('There is no way down for %s.', missing),
                  HINT = format('Add it: SELECT kessel.add_migration(%L, ..., down => ...) with the same up; or stop at a later version.', run.blueprint);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_check_way_down(kessel.migration_runs) FROM PUBLIC;

-- A run that was cut off goes on: what is done is done, all else is tried again.
CREATE FUNCTION kessel._run_take_up(run kessel.migration_runs, options jsonb) RETURNS kessel.migration_runs
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was timestamptz := run.updated_at;
    done bigint;
    total bigint;
BEGIN
    UPDATE kessel.migration_runs r
    SET pid = pg_backend_pid(), resumed_at = clock_timestamp(), updated_at = clock_timestamp(), options = _run_take_up.options,
        wave = NULL, working_on = NULL, stopping = false
    WHERE r.run_id = run.run_id RETURNING * INTO run;
    SELECT count(*) FILTER (WHERE x.state = 'done'), count(*) INTO done, total FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id;
    UPDATE kessel.migration_run_targets x
    SET state = CASE WHEN g.data_source_id IS NULL OR g.disabled THEN 'skipped' ELSE 'waiting' END,
        note = CASE WHEN g.data_source_id IS NULL THEN 'It is no target any more.' WHEN g.disabled THEN 'The data source is disabled.' END,
        error = NULL, began_at = NULL, ended_at = NULL, ms = NULL
    FROM kessel.migration_run_targets y
         LEFT JOIN kessel._targets(kessel._tenant_ids(run.tenants)) g ON g.data_source_id = y.data_source_id AND g.schema_name = y.schema_name
    WHERE y.run_id = run.run_id AND x.run_id = y.run_id AND x.n = y.n AND x.state <> 'done';
    PERFORM kessel._run_choose(run);
    RAISE NOTICE 'run % was interrupted at % with % of % targets done: it goes on', run.run_id, date_trunc('second', was), done, total;
    RETURN run;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_take_up(kessel.migration_runs, jsonb) FROM PUBLIC;

CREATE FUNCTION kessel._run_begin(kind text, blueprint text, to_version integer, tenants text[], canary text[], dry_run boolean, options jsonb, wanted uuid) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs;
    old kessel.migration_runs;
    disabled text;
BEGIN
    IF kessel._run_holder(blueprint) IS DISTINCT FROM pg_backend_pid() THEN
        RAISE EXCEPTION 'this session is not migrating blueprint "%"', blueprint
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL kessel.migrate() or kessel.rollback().';
    END IF;
    run.run_id := coalesce(wanted, gen_random_uuid());
    run.kind := kind; run.blueprint := blueprint; run.to_version := to_version; run.dry_run := dry_run; run.options := options;
    run.called_by := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    run.tenants := (SELECT array_agg(t.slug ORDER BY t.slug COLLATE "C") FROM app.tenants t JOIN unnest(kessel._tenant_ids(tenants)) AS i (id) ON i.id = t.id);
    run.canary := (SELECT array_agg(t.slug ORDER BY t.slug COLLATE "C") FROM app.tenants t JOIN unnest(kessel._tenant_ids(canary)) AS i (id) ON i.id = t.id);
    run.tenants := CASE WHEN tenants IS NOT NULL THEN coalesce(run.tenants, '{}') END;
    run.canary := CASE WHEN canary IS NOT NULL THEN coalesce(run.canary, '{}') END;

    -- We have the lock: whoever worked on these is gone.
    FOR old IN SELECT * FROM kessel.migration_runs r WHERE r.blueprint = _run_begin.blueprint AND r.state = 'running' ORDER BY r.started_at DESC LOOP
        IF (old.kind, old.to_version, old.dry_run) = (kind, to_version, dry_run) AND old.tenants IS NOT DISTINCT FROM run.tenants
           AND old.canary IS NOT DISTINCT FROM run.canary AND old.run_id = coalesce(wanted, old.run_id) AND run.state IS NULL THEN
            run := kessel._run_take_up(old, options);
        ELSE
            UPDATE kessel.migration_runs r SET state = 'interrupted', ended_at = clock_timestamp() WHERE r.run_id = old.run_id;
            RAISE NOTICE 'run % was interrupted at %, and is replaced by this one', old.run_id, date_trunc('second', old.updated_at);
        END IF;
    END LOOP;
    IF run.state IS NULL THEN
        IF EXISTS (SELECT FROM kessel.migration_runs r WHERE r.run_id = run.run_id) THEN
            RAISE EXCEPTION 'there is a run % already', run.run_id
                USING ERRCODE = 'unique_violation', HINT = 'Leave run_id out, and the run gets an id of its own.';
        END IF;
        INSERT INTO kessel.migration_runs (run_id, blueprint, kind, to_version, tenants, canary, dry_run, options, called_by)
        VALUES (run.run_id, run.blueprint, run.kind, run.to_version, run.tenants, run.canary, run.dry_run, run.options, run.called_by) RETURNING * INTO run;
        PERFORM kessel._run_choose(run);
        PERFORM kessel._run_choose_canary(run);
    END IF;
    IF kind = 'rollback' THEN
        PERFORM kessel._run_check_way_down(run);
    END IF;

    SELECT string_agg(DISTINCT x.data_source, ', ' ORDER BY x.data_source) INTO disabled
    FROM kessel.migration_run_targets x JOIN app.data_sources s ON s.id = x.data_source_id AND s.status = 'disabled'
    WHERE x.run_id = run.run_id AND x.state = 'skipped';
    IF disabled IS NOT NULL THEN
        RAISE NOTICE 'left out, because they are disabled: %', left(disabled, 500)
            USING HINT = 'Run it again once they are active.';
    END IF;
    RETURN run.run_id;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_begin(text, text, integer, text[], text[], boolean, jsonb, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_begin(text, text, integer, text[], text[], boolean, jsonb, uuid) TO kessel_admin;

-- The next wave; NULL: nothing waits.
CREATE FUNCTION kessel._run_wave(run_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
    last_version integer := (SELECT max(m.version) FROM kessel.migrations m WHERE m.blueprint = run.blueprint);
BEGIN
    -- A migration that is being changed is waited for; later ones see that it may be applied.
    PERFORM FROM kessel.blueprints b WHERE b.name = run.blueprint FOR SHARE;
    SELECT min(x.wave) INTO run.wave FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id AND x.state = 'waiting';
    IF run.wave IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE kessel.migration_runs r
    SET wave = run.wave, updated_at = clock_timestamp(),
        working_on = ARRAY(SELECT x.n FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id AND x.wave = run.wave AND x.state = 'waiting' ORDER BY x.n)
    WHERE r.run_id = run.run_id;
    IF run.dry_run THEN
        RETURN run.wave;
    END IF;

    UPDATE kessel.migration_run_targets x SET doubted = true
    FROM kessel.migration_targets k
    WHERE x.run_id = run.run_id AND x.wave = run.wave AND x.state = 'waiting' AND NOT x.doubted
      AND k.data_source_id = x.data_source_id AND k.schema_name = x.schema_name AND k.blueprint = run.blueprint AND k.trying IS NOT NULL;
    INSERT INTO kessel.migration_targets AS k (data_source_id, schema_name, blueprint, trying, last_run)
    SELECT x.data_source_id, x.schema_name, run.blueprint, CASE run.kind WHEN 'migrate' THEN run.to_version ELSE last_version END, run.run_id
    FROM kessel.migration_run_targets x
    WHERE x.run_id = run.run_id AND x.wave = run.wave AND x.state = 'waiting'
      AND NOT EXISTS (SELECT FROM kessel.migration_targets t
                      WHERE t.data_source_id = x.data_source_id AND t.schema_name = x.schema_name AND t.blueprint = run.blueprint
                        AND t.trying IS NULL AND CASE run.kind WHEN 'migrate' THEN t.version >= run.to_version ELSE t.version <= run.to_version END)
    ON CONFLICT ON CONSTRAINT migration_targets_pkey DO UPDATE
    SET trying = greatest(k.trying, CASE run.kind WHEN 'migrate' THEN greatest(k.version, run.to_version) ELSE coalesce(k.version, last_version) END),
        last_run = excluded.last_run, updated_at = clock_timestamp();
    RETURN run.wave;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_wave(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_wave(uuid) TO kessel_admin;

-- How many failures more a run takes; NULL: any number.
CREATE FUNCTION kessel._run_takes_failures(run kessel.migration_runs, failures bigint) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN run.wave = 'canary' THEN 0
            ELSE coalesce((run.options ->> 'max_failures')::integer, CASE run.options ->> 'on_error' WHEN 'stop' THEN 0 END) END - failures;
REVOKE ALL ON FUNCTION kessel._run_takes_failures(kessel.migration_runs, bigint) FROM PUBLIC;

-- Sets the engine to work on the wave.
CREATE FUNCTION kessel._run_start(run_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
BEGIN
    PERFORM kessel._migration_begin(run.run_id, run.blueprint, CASE run.kind WHEN 'migrate' THEN 'up' ELSE 'down' END, run.to_version, run.dry_run,
        (run.options ->> 'max_parallel')::integer, (run.options ->> 'timeout')::interval, (run.options ->> 'lock_timeout')::interval,
        (run.options ->> 'lock_retries')::integer, array_agg(x.data_source_id ORDER BY w.o), array_agg(x.schema_name::text ORDER BY w.o))
    FROM unnest(run.working_on) WITH ORDINALITY AS w (n, o)
         JOIN kessel.migration_run_targets x ON x.run_id = run.run_id AND x.n = w.n;
    PERFORM kessel._migration_stop_after(kessel._run_takes_failures(run, n.failed + n.unknown)) FROM kessel._run_numbers(run) n;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_start(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_start(uuid) TO kessel_admin;

-- Waits for half a second at most, and writes down what has happened.
CREATE FUNCTION kessel._run_step(run_id uuid, OUT ended boolean, OUT line text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
    heard bigint;
    numbers record;
BEGIN
    -- What a crash takes is asked for again: what is in doubt is on disk since _run_wave().
    PERFORM set_config('synchronous_commit', 'off', true);
    WITH news AS MATERIALIZED (
        SELECT e.*, run.working_on[e.n] AS target FROM kessel._migration_next('500 ms') WITH ORDINALITY AS e
    ), latest AS (
        SELECT DISTINCT ON (w.target) w.target, w.news, w.from_version, w.version, w.applied, w.attempts, w.error, w.ms
        FROM news w ORDER BY w.target, w.ordinality DESC
    ), changed AS (
        UPDATE kessel.migration_run_targets x
        SET state = CASE l.news WHEN 'begun' THEN 'running' WHEN 'retry' THEN 'waiting' ELSE l.news END,
            from_version = coalesce(l.from_version, x.from_version), version = l.version, applied = l.applied,
            attempts = coalesce(l.attempts, x.attempts), error = l.error, ms = l.ms,
            began_at = coalesce(x.began_at, clock_timestamp()), ended_at = CASE WHEN l.news IN ('done', 'failed', 'unknown') THEN clock_timestamp() END
        FROM latest l
        WHERE x.run_id = run.run_id AND x.n = l.target
        RETURNING x.data_source_id, x.schema_name, x.doubted, l.*
    ), known AS (
        INSERT INTO kessel.migration_targets AS k (data_source_id, schema_name, blueprint, version, trying, error, last_run)
        SELECT c.data_source_id, c.schema_name, run.blueprint, v.version,
               -- One that could not be asked is as doubtful as before.
               CASE WHEN c.news = 'unknown' OR v.version IS NULL AND (c.doubted OR run.dry_run) THEN t.trying END, c.error, run.run_id
        FROM changed c
             JOIN app.data_sources s ON s.id = c.data_source_id
             LEFT JOIN kessel.migration_targets t ON t.data_source_id = c.data_source_id AND t.schema_name = c.schema_name AND t.blueprint = run.blueprint
             CROSS JOIN LATERAL (SELECT CASE WHEN run.dry_run THEN c.from_version ELSE c.version END AS version) v
        -- Most often there is nothing new.
        WHERE c.news = 'unknown' OR c.news = 'failed' OR c.news = 'done' AND (t.version IS DISTINCT FROM v.version OR t.trying IS NOT NULL OR t.error IS NOT NULL)
        ON CONFLICT ON CONSTRAINT migration_targets_pkey DO UPDATE
        SET version = coalesce(excluded.version, k.version), trying = excluded.trying, error = excluded.error, last_run = excluded.last_run,
            updated_at = clock_timestamp()
    )
    SELECT count(*) INTO heard FROM changed;

    ended := kessel._migration_open() = 0;
    UPDATE kessel.migration_runs r SET updated_at = clock_timestamp() WHERE r.run_id = run.run_id RETURNING * INTO run;
    numbers := kessel._run_numbers(run);
    -- The engine has stopped itself.
    IF NOT run.stopping AND kessel._run_takes_failures(run, numbers.failed + numbers.unknown) < 0 THEN
        UPDATE kessel.migration_runs r SET stopping = true WHERE r.run_id = run.run_id;
    END IF;
    line := format('%s %s: %s of %s done', run.blueprint, run.to_version, numbers.done, numbers.total - numbers.skipped)
        || CASE WHEN numbers.failed > 0 THEN format(', %s failed', numbers.failed) ELSE '' END
        || CASE WHEN numbers.unknown > 0 THEN format(', %s unknown', numbers.unknown) ELSE '' END
        || CASE WHEN numbers.running > 0 THEN format(', %s at work', numbers.running) ELSE '' END
        || format(', %s a second', CASE WHEN numbers.rate < 10 THEN round(numbers.rate::numeric, 1) ELSE round(numbers.rate::numeric) END)
        || CASE WHEN numbers.time_left > '0' THEN format(', %s s left', ceil(extract(epoch FROM numbers.time_left))) ELSE '' END;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_step(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_step(uuid) TO kessel_admin;

-- After a wave: what was not begun is left out if the run stops.
CREATE FUNCTION kessel._run_wave_end(run_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
BEGIN
    IF NOT run.stopping THEN
        -- Never expected: it would be begun again, for ever.
        UPDATE kessel.migration_run_targets x
        SET state = 'failed', ended_at = clock_timestamp(), error = jsonb_build_object('sqlstate', 'XX000', 'message', 'the migration has ended without a word of this target')
        WHERE x.run_id = run.run_id AND x.n = ANY (run.working_on) AND x.state IN ('waiting', 'running');
        RETURN;
    END IF;
    WITH left_out AS (
        UPDATE kessel.migration_run_targets x
        SET state = 'skipped', note = CASE run.wave WHEN 'canary' THEN 'Not begun: the canary has failed.' ELSE 'Not begun: too many others have failed.' END
        WHERE x.run_id = run.run_id AND x.state IN ('waiting', 'running')
        RETURNING x.data_source_id, x.schema_name, x.doubted, x.n
    )
    UPDATE kessel.migration_targets k SET trying = NULL
    FROM left_out o
    WHERE o.n = ANY (run.working_on) AND NOT o.doubted AND NOT run.dry_run
      AND k.data_source_id = o.data_source_id AND k.schema_name = o.schema_name AND k.blueprint = run.blueprint;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_wave_end(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_wave_end(uuid) TO kessel_admin;

-- A run of the whole fleet says which version it is meant to have, and new tenants
-- get: once its canary has it, and without one once any target has it. Tenants that
-- are being created are waited for; see kessel._migrate_new_tenant().
CREATE FUNCTION kessel._run_reached(run_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
    numbers record := kessel._run_numbers(run);
BEGIN
    IF run.tenants IS NULL AND NOT run.dry_run AND (numbers.done > 0 OR numbers.failed + numbers.unknown = 0)
       AND NOT (run.wave IS NOT DISTINCT FROM 'canary' AND run.stopping) THEN
        PERFORM FROM kessel.blueprints b WHERE b.name = run.blueprint AND b.version <> run.to_version FOR UPDATE;
        UPDATE kessel.blueprints b SET version = run.to_version
        WHERE b.name = run.blueprint AND CASE run.kind WHEN 'migrate' THEN b.version < run.to_version ELSE b.version > run.to_version END;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_reached(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_reached(uuid) TO kessel_admin;

-- Tenants and data sources that came while the run of the whole fleet was at work.
CREATE FUNCTION kessel._run_late(run_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
BEGIN
    RETURN run.tenants IS NULL AND NOT run.stopping AND kessel._run_choose(run) > 0;
END
$$;
REVOKE ALL ON FUNCTION kessel._run_late(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_late(uuid) TO kessel_admin;

CREATE FUNCTION kessel._run_end(run_id uuid, OUT state text, OUT whole_fleet boolean, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run kessel.migration_runs := kessel._run_mine(run_id);
    numbers record := kessel._run_numbers(run);
    not_begun bigint;
    not_tried bigint;
    what text := CASE WHEN run.dry_run THEN 'dry run of ' ELSE '' END || format('blueprint "%s" %s version %s', run.blueprint, CASE run.kind WHEN 'migrate' THEN 'to' ELSE 'back to' END, run.to_version);
BEGIN
    not_begun := (SELECT count(*) FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id AND x.state = 'skipped' AND x.note ~ '^Not begun');
    state := CASE WHEN numbers.failed + numbers.unknown = 0 THEN 'done' WHEN not_begun > 0 THEN 'stopped' ELSE 'failed' END;
    whole_fleet := run.tenants IS NULL AND NOT run.dry_run;
    UPDATE kessel.migration_runs r
    SET state = _run_end.state, ended_at = clock_timestamp(), updated_at = clock_timestamp(), working_on = NULL WHERE r.run_id = run.run_id
    RETURNING * INTO run;
    IF run.dry_run THEN
        UPDATE kessel.migration_run_targets x
        SET note = format('Tried to version %s only: what comes next runs outside of a transaction, or after that.', x.version)
        WHERE x.run_id = run.run_id AND x.state = 'done' AND x.version <> run.to_version
          AND CASE run.kind WHEN 'migrate' THEN x.version < run.to_version ELSE x.version > run.to_version END;
        GET DIAGNOSTICS not_tried = ROW_COUNT;
        IF not_tried > 0 THEN
            RAISE WARNING '% of the targets were not tried to version %', not_tried, run.to_version
                USING DETAIL = 'A migration that runs outside of a transaction cannot be tried, nor what comes after it.';
        END IF;
    END IF;
    IF state = 'done' THEN
        message := format('%s: %s of %s targets done%s in %s s, run %s', what, numbers.done, numbers.total,
                          CASE WHEN numbers.skipped > 0 THEN format(', %s left out,', numbers.skipped) ELSE '' END,
                          round(extract(epoch FROM run.ended_at - run.resumed_at), 1), run.run_id);
        RETURN;
    END IF;
    message := format('%s: %s of %s targets failed', what, numbers.failed, numbers.total)
        || CASE WHEN numbers.unknown > 0 THEN format(', of %s the outcome is unknown', numbers.unknown) ELSE '' END
        || CASE WHEN not_begun > 0 THEN format(', %s not begun', not_begun) ELSE '' END;
    SELECT string_agg(format('data source "%s", schema "%s"%s: %s', f.data_source, f.schema_name,
                             CASE WHEN f.error ->> 'migration' IS NOT NULL THEN concat(', ', f.error ->> 'migration', ' line ' || (f.error ->> 'line')) ELSE '' END,
                             concat_ws(' ', f.error ->> 'sqlstate', f.error ->> 'message', '(' || replace(f.error ->> 'detail', E'\n', '; ') || ')')), E'\n' ORDER BY f.n) INTO detail
    FROM (SELECT * FROM kessel.migration_run_targets x WHERE x.run_id = run.run_id AND x.state IN ('failed', 'unknown') ORDER BY x.ended_at, x.n LIMIT 5) f;
    IF numbers.failed + numbers.unknown > 5 THEN
        detail := detail || format(E'\n... and %s more', numbers.failed + numbers.unknown - 5);
    END IF;
    hint := format('SELECT * FROM kessel.migration_run_targets WHERE run_id = %L AND state <> ''done'' lists all. What is done is kept: mend what is wrong and CALL kessel.%s() again.', run.run_id, run.kind);
END
$$;
REVOKE ALL ON FUNCTION kessel._run_end(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._run_end(uuid) TO kessel_admin;

-- ---------- the calls ----------

-- As their caller, with every name qualified. The first COMMIT, which fails where
-- there cannot be one, comes before the lock: see kr_run_lock.c.
CREATE PROCEDURE kessel._run(kind text, blueprint text, to_version integer, tenants text[], canary text[], max_parallel integer, on_error text, max_failures integer,
    dry_run boolean, timeout interval, lock_timeout interval, lock_retries integer, verify boolean, INOUT run_id uuid)
LANGUAGE plpgsql AS $$
DECLARE
    wanted integer;
    wave text;
    step record;
    result record;
    next_notice timestamptz;
BEGIN
    PERFORM kessel._run_check_alone();
    wanted := kessel._run_check(kind, blueprint, to_version, tenants, canary, max_parallel, on_error, max_failures, dry_run, timeout, lock_timeout, lock_retries, verify);
    COMMIT;
    PERFORM kessel._run_lock(blueprint);
    run_id := kessel._run_begin(kind, blueprint, wanted, tenants, canary, dry_run, pg_catalog.jsonb_build_object(
        'max_parallel', max_parallel, 'on_error', on_error, 'max_failures', max_failures, 'timeout', timeout, 'lock_timeout', lock_timeout,
        'lock_retries', lock_retries, 'verify', verify), run_id);
    COMMIT;
    LOOP
        wave := kessel._run_wave(run_id);
        COMMIT;
        IF wave IS NULL THEN
            PERFORM kessel._run_reached(run_id);
            COMMIT;
            EXIT WHEN NOT kessel._run_late(run_id);
            COMMIT;
            CONTINUE;
        END IF;
        PERFORM kessel._run_start(run_id);
        COMMIT;
        next_notice := pg_catalog.clock_timestamp() + interval '5 seconds';
        LOOP
            SELECT s.* INTO step FROM kessel._run_step(run_id) s;
            COMMIT;
            IF step.ended OR pg_catalog.clock_timestamp() >= next_notice THEN
                RAISE NOTICE '%', step.line;
                next_notice := pg_catalog.clock_timestamp() + interval '5 seconds';
            END IF;
            EXIT WHEN step.ended;
        END LOOP;
        PERFORM kessel._run_wave_end(run_id);
        COMMIT;
        PERFORM kessel._run_reached(run_id);
        COMMIT;
    END LOOP;
    SELECT e.* INTO result FROM kessel._run_end(run_id) e;
    COMMIT;
    IF result.state = 'done' AND result.whole_fleet THEN
        PERFORM kessel._refresh_exposed(blueprint);
        COMMIT;
    END IF;
    PERFORM kessel._run_unlock(blueprint);
    IF result.state <> 'done' THEN
        PERFORM kessel._migration_fail(result.message, coalesce(result.detail, ''), result.hint);
    END IF;
    RAISE NOTICE '%', result.message;
END
$$;
REVOKE ALL ON PROCEDURE kessel._run(text, text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE kessel._run(text, text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) TO kessel_admin;

CREATE PROCEDURE kessel.migrate(blueprint text, to_version integer DEFAULT NULL, tenants text[] DEFAULT NULL, canary text[] DEFAULT NULL,
    max_parallel integer DEFAULT 16, on_error text DEFAULT 'stop', max_failures integer DEFAULT NULL, dry_run boolean DEFAULT false, timeout interval DEFAULT '5 min',
    lock_timeout interval DEFAULT '2 s', lock_retries integer DEFAULT 5, verify boolean DEFAULT true, INOUT run_id uuid DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    CALL kessel._run('migrate', blueprint, to_version, tenants, canary, max_parallel, on_error, max_failures, dry_run, timeout, lock_timeout, lock_retries, verify, run_id);
END
$$;
CREATE PROCEDURE kessel.rollback(blueprint text, to_version integer, tenants text[] DEFAULT NULL, canary text[] DEFAULT NULL,
    max_parallel integer DEFAULT 16, on_error text DEFAULT 'stop', max_failures integer DEFAULT NULL, dry_run boolean DEFAULT false, timeout interval DEFAULT '5 min',
    lock_timeout interval DEFAULT '2 s', lock_retries integer DEFAULT 5, verify boolean DEFAULT true, INOUT run_id uuid DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    CALL kessel._run('rollback', blueprint, to_version, tenants, canary, max_parallel, on_error, max_failures, dry_run, timeout, lock_timeout, lock_retries, verify, run_id);
END
$$;
COMMENT ON PROCEDURE kessel.migrate(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) IS
    'Brings targets, the places where tenants'' data is, up to a version of a blueprint (NULL: the last), each in a transaction of its own there, many at once. One that has it already, or a higher one, is left as it is. '
    'tenants: slugs or ids; NULL: all, also suspended ones, and data sources without a tenant yet. Who shares a database or schema is migrated together. Disabled data sources are left out. '
    'canary: tenants whose places come first; NULL: that of the first by slug; empty: none. If one of them fails, nothing else is touched. on_error: stop begins no more after the first failure, continue tries all; with max_failures, both begin no more after more failures than that. '
    'dry_run: everything is done and rolled back there. timeout: for each attempt at a target; lock_timeout: for each lock there, which is tried lock_retries times more, from half a second to half a minute apart. '
    'verify false: those that are known here to have the version are not asked. run_id: an id for the run, see kessel.migration_progress; returns it. '
    'Call it outside of a transaction block, in READ COMMITTED: it commits about twice a second. Cut off in any way, it is taken up by the next call that asks for the same. A run of all tenants sets the version that new tenants get, and brings router tables up to date that kessel.expose() has made. '
    'Errors: KR013 some targets failed, everything else is done and recorded, see kessel.migration_run_targets; 55P03 another session migrates this blueprint; 25001, 2D000 inside a transaction block or not READ COMMITTED; 22023, 22004 bad argument; 42704, 42809 no such blueprint for data sources; KR002 no such tenant. For kessel_admin';
COMMENT ON PROCEDURE kessel.rollback(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) IS
    'Takes back what targets have above a version of a blueprint (0: all), the last migration first, by its down script. Arguments, waves, records and errors as kessel.migrate(); and 0A000, before any target is touched, where a migration has no down script that a target has or may have. For kessel_admin';
REVOKE ALL ON PROCEDURE kessel.migrate(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid),
    kessel.rollback(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE kessel.migrate(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid),
    kessel.rollback(text, integer, text[], text[], integer, text, integer, boolean, interval, interval, integer, boolean, uuid) TO kessel_admin;

-- A function that lists all that a migration could leave behind, with owners and
-- privileges; what it is compared with is a list that it has made before.
CREATE FUNCTION public.catalog_snapshot() RETURNS SETOF text LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT o FROM (
        SELECT format('class %s %s %s %s', o.oid::regclass, o.relkind, o.relowner::regrole, o.relacl) FROM pg_class o WHERE o.relnamespace::regnamespace::text !~ '^pg_(toast|temp)'
        UNION ALL SELECT format('function %s %s %s', o.oid::regprocedure, o.proowner::regrole, o.proacl) FROM pg_proc o WHERE o.pronamespace::regnamespace::text !~ '^pg_temp'
        UNION ALL SELECT format('type %s %s', o.oid::regtype, o.typacl) FROM pg_type o WHERE o.typnamespace::regnamespace::text !~ '^pg_(toast|temp)'
        UNION ALL SELECT format('schema %s %s', o.nspname, o.nspacl) FROM pg_namespace o WHERE o.nspname !~ '^pg_'
        UNION ALL SELECT format('trigger %s %s', o.tgrelid::regclass, o.tgname) FROM pg_trigger o WHERE NOT o.tgisinternal
        UNION ALL SELECT format('policy %s %s', o.polrelid::regclass, o.polname) FROM pg_policy o
        UNION ALL SELECT format('constraint %s %s', o.conrelid::regclass, o.conname) FROM pg_constraint o
        UNION ALL SELECT format('attribute %s %s %s', o.attrelid::regclass, o.attname, o.attacl) FROM pg_attribute o JOIN pg_class c ON c.oid = o.attrelid WHERE o.attnum > 0 AND c.relnamespace::regnamespace::text !~ '^pg_(toast|temp)'
        UNION ALL SELECT format('rows of %s', o.evtname) FROM pg_event_trigger o
        UNION ALL SELECT format('default acl %s', o) FROM pg_default_acl o) AS s(o)
    WHERE o !~ 'catalog_snapshot|(^| )before( |\.|$)'
$$;

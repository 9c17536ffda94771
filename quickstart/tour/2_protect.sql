-- As crm_owner in the row-isolated data source.
\echo
\echo '== 2. Shared tables, kept apart by row security =='
\echo 'In the data source shared-row, as the owner of its tables. From here on each row belongs to one tenant,'
\echo 'and the router''s role gets an error from these tables until it has entered a tenant.'
\echo
\o /dev/null
SELECT kessel_agent.protect(oid) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r';
\o
SELECT relname AS "table", relrowsecurity AS row_security, relforcerowsecurity AS forced,
       (SELECT string_agg(polname || ': ' || pg_get_expr(polqual, polrelid), ', ') FROM pg_policy WHERE polrelid = c.oid) AS policy
FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname;

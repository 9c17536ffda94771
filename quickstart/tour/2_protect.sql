-- As crm_owner in the row-isolated data source.
\echo '== 2. Shared tables, kept apart by row security =='
\echo 'In the data source shared-row, as the owner of its tables. From here on each row belongs to one tenant, and the'
\echo 'router''s role gets an error from these tables until it has entered a tenant.'
\echo
\o /dev/null
SELECT kessel_agent.protect(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r';
\o
SELECT count(*) AS tables, bool_and(relforcerowsecurity) AS forced, pg_get_expr(polqual, polrelid) AS policy
FROM pg_class AS c JOIN pg_policy ON polrelid = c.oid WHERE relrowsecurity GROUP BY policy;

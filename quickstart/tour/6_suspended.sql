-- As crm_app; the administrator works in a session of her own meanwhile.
\echo '== 10. A suspended tenant is refused at once, in sessions that are open too =='
\echo
SET kessel.tenant = 'dundee';
SELECT count(*) AS accounts FROM data.accounts;

\echo '-- the administrator, elsewhere'
\! "$QUICKSTART_PSQL" -X -q -e -o /dev/null "$QUICKSTART_ADMIN" -c "SELECT kessel.suspend_tenant('dundee');"
\echo
\echo '-- and here again'
\set ON_ERROR_STOP off
SELECT count(*) AS accounts FROM data.accounts;
\set ON_ERROR_STOP on
\set expected KR003
\i :tour/expect.sql
\echo
\echo '-- the administrator, elsewhere'
\! "$QUICKSTART_PSQL" -X -q -e -o /dev/null "$QUICKSTART_ADMIN" -c "SELECT kessel.resume_tenant('dundee');"
\echo
SELECT count(*) AS accounts FROM data.accounts;

-- As crm_app; the administrator works in a session of her own meanwhile.
\echo
\echo '== 11. A suspended tenant is refused at once, in sessions that are open too =='
\echo
SET kessel.tenant = 'dundee';
SELECT count(*) AS accounts FROM data.accounts;
\echo
\echo 'The administrator, elsewhere:'
\echo
\! "$QUICKSTART_PSQL" -X -q -e -P footer=off "$QUICKSTART_ADMIN" -c "SELECT kessel.suspend_tenant('dundee')"
\echo 'And here again:'
\echo
\set ON_ERROR_STOP off
SELECT count(*) AS accounts FROM data.accounts;
\set ON_ERROR_STOP on
\set expected KR003
\i :tour/expect.sql
\echo
\! "$QUICKSTART_PSQL" -X -q -e -P footer=off "$QUICKSTART_ADMIN" -c "SELECT kessel.resume_tenant('dundee')"
SELECT count(*) AS accounts FROM data.accounts;

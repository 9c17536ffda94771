-- As crm_api, the way PostgREST connects: a weak login that becomes the role
-- authenticated and passes on the claims of the user's token.
\echo '== 9. Users work for the tenants that they are members of, and for no other =='
\echo 'As crm_api, which becomes the role authenticated and passes on the claims of a user''s token, as PostgREST does.'
\echo
SET ROLE authenticated;
\o /dev/null
SELECT set_config('request.jwt.claims', '{"sub": "5e1f0000-0000-4000-8000-00000000a11a"}', false);
\o
SET kessel.tenant = 'alpine';
SELECT count(*) AS accounts FROM data.accounts;
SET kessel.tenant = 'baltic';
\set ON_ERROR_STOP off
SELECT count(*) AS accounts FROM data.accounts;
\set ON_ERROR_STOP on
\set expected 42501
\i :tour/expect.sql

\echo
\echo 'No tenant is an error as well, never an empty result:'
\echo
RESET kessel.tenant;
\set ON_ERROR_STOP off
SELECT count(*) AS accounts FROM data.accounts;
\set ON_ERROR_STOP on
\set expected KR001
\i :tour/expect.sql
\echo

-- As crm_admin in the infra database.
\i :tour/settings.sql

\echo '== 3. Six tenants =='
\echo 'From here on as crm_admin, a member of kessel_admin.'
\echo
\o /dev/null
SELECT kessel.create_tenant('alpine',   'Alpine Sports AG',       'shared-row', id => :'alpine_id');
SELECT kessel.create_tenant('baltic',   'Baltic Marine OÜ',       'shared-row', id => :'baltic_id');
SELECT kessel.create_tenant('castello', 'Castello Vini S.r.l.',   'shared-schema');
SELECT kessel.create_tenant('dundee',   'Dundee Instruments Ltd', 'shared-schema');
SELECT kessel.create_tenant('ember',    'Ember Energy Inc.',      'dedicated');
SELECT kessel.create_tenant('fjord',    'Fjord Seafood AS',       'byod');
SELECT kessel.set_default_data_source('shared-schema');
\o
\echo
SELECT tenant, data_source, region, isolation, host, port, schema FROM kessel.routes ORDER BY tenant;

\echo '== 4. Can each data source be reached, and is it safe? =='
\echo
SELECT s.name AS data_source, bool_and(t.ok) AS ok, count(*) AS checks, sum(t.ms) AS ms
FROM app.data_sources AS s, kessel.test_data_source(s.name) AS t GROUP BY s.name ORDER BY s.name;

SELECT * FROM kessel.test_data_source('byod');

\set ECHO none
SELECT bool_and(t.ok) AS as_expected FROM app.data_sources AS s, kessel.test_data_source(s.name) AS t \gset
\if :as_expected
\else
    SELECT s.name AS data_source, t.* FROM app.data_sources AS s, kessel.test_data_source(s.name) AS t WHERE NOT t.ok;
    DO $$ BEGIN RAISE 'a data source does not pass its tests'; END $$;
\endif
\set ECHO queries
\echo '== 5. Router tables: made once, for all tenants =='
\echo 'They hold no rows and name no tenant. Types, defaults, generated columns and comments come along.'
\echo
SELECT action, object FROM kessel.import_tables('dedicated', 'public', 'data');

\echo 'An app needs privileges on them as on any table, and each of its users a membership (here: one user, in Alpine):'
\echo
\o /dev/null
GRANT USAGE ON SCHEMA data TO crm_app, authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA data TO crm_app, authenticated;
SELECT kessel.add_member('alpine', '5e1f0000-0000-4000-8000-00000000a11a');
\o

\echo
\echo 'Is anything amiss? (Three of the four are reached without TLS, on the loopback of this machine.)'
\echo
\pset expanded on
SELECT * FROM kessel.doctor() WHERE NOT ok;

-- As crm_admin in the infra database.
\i :tour/settings.sql

\echo
\echo '== 3. Six tenants =='
\echo
\pset tuples_only on
\pset format unaligned
SELECT kessel.create_tenant('alpine',   'Alpine Sports AG',      'shared-row',    id => :'alpine_id');
SELECT kessel.create_tenant('baltic',   'Baltic Marine OÜ',      'shared-row',    id => :'baltic_id');
SELECT kessel.create_tenant('castello', 'Castello Vini S.r.l.',  'shared-schema');
SELECT kessel.create_tenant('dundee',   'Dundee Instruments Ltd', 'shared-schema');
SELECT kessel.create_tenant('ember',    'Ember Energy Inc.',     'dedicated');
SELECT kessel.create_tenant('fjord',    'Fjord Seafood AS',      'byod');
\pset tuples_only off
\pset format aligned

\echo
\echo 'A user, by the id that her token carries, who may work for Alpine:'
\echo
\o /dev/null
SELECT kessel.add_member('alpine', '5e1f0000-0000-4000-8000-00000000a11a', 'member');
\o

SELECT tenant, data_source, region, isolation, host, port, schema FROM kessel.routes ORDER BY tenant;

\echo
\echo '== 4. Can each data source be reached, and is it safe? =='
\echo
SELECT s.name AS data_source, t.* FROM app.data_sources AS s, kessel.test_data_source(s.name) AS t ORDER BY s.name;

\echo
\echo '== 5. What the doctor says =='
\echo
SELECT "check", ok, detail, hint FROM kessel.doctor();

\echo
\echo '== 6. Router tables: made once, for all tenants =='
\echo 'They hold no rows and name no tenant. Types, defaults, generated columns and comments come along.'
\echo
SELECT action, object, detail FROM kessel.import_tables('dedicated', 'public', 'data');
\d data.opportunities

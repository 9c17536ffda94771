-- As the superuser of the infra database: one of the urls names a file of the
-- server, the certificate authority, which is not for administrators to do.
\i :tour/settings.sql

\echo
\echo '== 1. Four data sources =='
\echo 'Where tenants live: two shared databases, a dedicated one, and one that a customer brought along, reached by'
\echo 'TLS verify-full. Passwords are sealed before they are stored.'
\echo
\o /dev/null
SELECT kessel.create_data_source('shared-row', :'shared_row_url', region => 'eu-central', isolation => 'row');
SELECT kessel.create_data_source('shared-schema', :'shared_schema_url', region => 'eu-south', isolation => 'schema');
SELECT kessel.create_data_source('dedicated', :'dedicated_url', region => 'us-east', isolation => 'database');
SELECT kessel.create_data_source('byod',
  :'byod_url',
  region => 'customer', isolation => 'database');
\echo
\echo 'Two credentials each: a weak role for the router, the owner of the tables to install the agent.'
\echo
\echo SELECT kessel.set_credential('''shared-row''', '''kessel_runtime''', '''…''');
\echo SELECT kessel.set_credential('''shared-row''', '''crm_owner''', '''…''', purpose => '''owner''');
\echo '… and so on for the other three.'
\echo
\set ECHO none
SELECT kessel.set_credential('shared-row', 'kessel_runtime', :'shared_row_runtime');
SELECT kessel.set_credential('shared-row', 'crm_owner', :'shared_row_owner', purpose => 'owner');
SELECT kessel.set_credential('shared-schema', 'kessel_runtime', :'shared_schema_runtime');
SELECT kessel.set_credential('shared-schema', 'crm_owner', :'shared_schema_owner', purpose => 'owner');
SELECT kessel.set_credential('dedicated', 'kessel_runtime', :'dedicated_runtime');
SELECT kessel.set_credential('dedicated', 'crm_owner', :'dedicated_owner', purpose => 'owner');
SELECT kessel.set_credential('byod', 'kessel_runtime', :'byod_runtime');
SELECT kessel.set_credential('byod', 'crm_owner', :'byod_owner', purpose => 'owner');
\o
\set ECHO queries
SELECT name AS data_source, kessel.install_agent(name) AS agent_version FROM app.data_sources ORDER BY name;

-- Tenants, members and data sources: the functions and what they refuse.
\set SHOW_CONTEXT never
SELECT kessel.create_tenant('Acme');
SELECT kessel.create_tenant(NULL);
SELECT kessel.create_tenant('00000000-0000-4000-8000-000000000001');
SELECT kessel.create_tenant(repeat('a', 64));
SELECT kessel.create_tenant('fern');
SELECT kessel.create_tenant('fern', data_source => 'nowhere');
SELECT kessel.create_tenant('fern', data_source => 'row', isolation => 'schema');
SELECT kessel.create_tenant('fern', data_source => 'database');
SELECT kessel.create_tenant('fern', data_source => 'schema');
SELECT kessel.create_tenant('alder', data_source => 'row');
SELECT kessel.create_tenant('fern', data_source => 'row', tenant_id_in_data_source => 'a');
SELECT kessel.set_default_data_source('row');
SELECT kessel.create_tenant('fern', 'Fern Ltd', id => '00000000-0000-4000-8000-00000000000f');
SELECT tenant, data_source, tenant_id_in_data_source FROM kessel.routes WHERE tenant = 'fern';
SELECT kessel.rename_tenant('fern', 'alder');
SELECT kessel.rename_tenant('fern', 'fir', 'Fir Ltd');
SET kessel.tenant = '00000000-0000-4000-8000-00000000000f';
SELECT count(*), kessel.current_tenant() FROM data.accounts;
SELECT kessel.add_member('fir', gen_random_uuid(), 'boss');
SELECT kessel.add_member('fern', gen_random_uuid());
SELECT kessel.drop_tenant('fir');
SELECT count(*) FROM data.accounts;
SELECT kessel.drop_tenant('fir');
SELECT kessel.suspend_tenant('fir');

-- data sources
SELECT kessel.create_data_source('Bad Name', 'host=db.example.com');
SELECT kessel.create_data_source('x', NULL);
SELECT kessel.create_data_source('x', 'postgresql://u:not-a-secret@[bad');
SELECT kessel.create_data_source('x', 'nonsense=1 password=not-a-secret');
SELECT kessel.create_data_source('x', 'host=db.example.com service=x');
SELECT kessel.create_data_source('x', 'host=db.example.com passfile=/tmp/x');
SELECT kessel.create_data_source('x', 'host=db.example.com', isolation => 'none');
SELECT kessel.create_data_source('x', 'host=db.example.com', options => '{"colour": "blue"}');
SELECT kessel.create_data_source('x', 'host=db.example.com', options => '{"schema": 1}');
SELECT kessel.create_data_source('x', 'host=db.example.com', options => '[]');
SELECT kessel.create_data_source('x', 'host=/tmp dbname=x');
SELECT kessel.create_data_source('x', 'dbname=x');
SELECT kessel.create_data_source('x', 'host=127.0.0.1 port=' || current_setting('port'));
SELECT kessel.create_data_source('row', 'host=db.example.com');
SELECT kessel.create_data_source('x', 'postgresql://u:p%40ss@db.example.com:5433/crm?sslmode=require', 'eu-west-1', 'schema', '{"schema": "crm"}', 'notes') IS NOT NULL AS made;
SELECT name, region, isolation, conninfo, options, status, notes FROM app.data_sources WHERE name = 'x';
SELECT c.purpose, c.username, v.opens FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id AND s.name = 'x',
LATERAL (SELECT d.decrypted_secret = 'p@ss' AS opens FROM vault.decrypted_secrets d WHERE d.id = c.secret_id) v;
SELECT kessel.alter_data_source('x', 'postgresql://v:other@db.example.com/crm', region => 'eu-central-1', options => '{"schema": null}', new_name => 'y');
SELECT name, region, conninfo, options FROM app.data_sources WHERE name = 'y';
SELECT c.username, d.decrypted_secret, d.version FROM app.data_source_credentials c JOIN vault.decrypted_secrets d ON d.id = c.secret_id;
SELECT kessel.alter_data_source('y', status => 'sleeping');
SELECT kessel.alter_data_source('y', new_name => 'row');
SELECT kessel.alter_data_source('row', isolation => 'database');
SELECT kessel.alter_data_source('x', status => 'disabled');
SELECT kessel.set_credential('y', NULL, 'p');
SELECT kessel.set_credential('y', 'u', 'p', 'root');
SELECT kessel.set_credential('z', 'u', 'p');
SELECT kessel.set_credential('y', NULL, 'api-key', 'anon');
SELECT purpose, username FROM app.data_source_credentials c JOIN app.data_sources s ON s.id = c.data_source_id AND s.name = 'y' ORDER BY 1;
SELECT kessel.drop_data_source('row');
SELECT kessel.drop_data_source('y');
SELECT count(*) FROM vault.secrets;
SELECT kessel.drop_data_source('y');

-- what only a superuser may set
CREATE ROLE regress_admin LOGIN IN ROLE kessel_admin;
SET SESSION AUTHORIZATION regress_admin;
SELECT kessel.create_data_source('z', 'host=db.example.com', options => '{"allow_local": true}');
SELECT kessel.create_data_source('z', 'host=db.example.com', options => '{"password_required": false}');
SELECT kessel.create_data_source('z', 'host=db.example.com sslrootcert=/etc/passwd');
SELECT kessel.create_data_source('z', 'dbname=x');
SELECT kessel.create_data_source('z', 'host=db.example.com sslmode=verify-full sslrootcert=system') IS NOT NULL AS made;
SELECT kessel.suspend_tenant('alder'), kessel.resume_tenant('alder');
SELECT count(*) FROM app.tenants;
SELECT count(*) FROM app.data_sources;
SELECT count(*) FROM vault.secrets;
SELECT kessel.drop_data_source('z');
RESET SESSION AUTHORIZATION;
DROP ROLE regress_admin;

-- This session's connections to data sources.

CREATE FUNCTION kessel._connections(OUT data_source text, OUT tenant text, OUT in_transaction boolean, OUT has_written boolean,
    OUT remote_pid integer, OUT server_version integer, OUT prepared_statements integer, OUT last_used timestamptz) RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'kr_connections';

CREATE VIEW kessel.connections AS SELECT * FROM kessel._connections();
COMMENT ON VIEW kessel.connections IS
    'Connections that this session keeps to data sources. tenant: for whom it is leased in this transaction, else NULL; remote_pid: its backend there; '
    'server_version: as in server_version_num; last_used: when it was last used. For kessel_service, kessel_admin';

CREATE FUNCTION kessel.disconnect(data_source text DEFAULT NULL) RETURNS integer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'kr_disconnect';
COMMENT ON FUNCTION kessel.disconnect(text) IS
    'Closes this session''s connections to a data source or bound server, by its name (NULL: to all) and returns how many; those that this transaction uses are closed at its end. Error KR007. For kessel_service, kessel_admin';

REVOKE ALL ON FUNCTION kessel._connections(), kessel.disconnect(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel._connections(), kessel.disconnect(text) TO kessel_service, kessel_admin;
GRANT SELECT ON kessel.connections TO kessel_service, kessel_admin;

-- The foreign data wrapper and the router's server.

CREATE FUNCTION kessel.fdw_handler() RETURNS fdw_handler
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'kr_fdw_handler';
CREATE FUNCTION kessel.fdw_validator(options text[], catalog oid) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'kr_fdw_validator';
REVOKE ALL ON FUNCTION kessel.fdw_handler(), kessel.fdw_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER kessel_fdw
    HANDLER kessel.fdw_handler VALIDATOR kessel.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kessel_fdw IS 'Tables of tenants: postgres_fdw plans, kessel_fdw executes';

-- A row that travels costs more than the planner assumes by default before
-- PostgreSQL 17; with this, groups and joins are made where the rows are.
CREATE SERVER kessel_router FOREIGN DATA WRAPPER kessel_fdw OPTIONS (fdw_tuple_cost '0.2');
COMMENT ON SERVER kessel_router IS 'Tables on this server read the database of the session''s tenant';
GRANT USAGE ON FOREIGN SERVER kessel_router TO kessel_admin;
GRANT USAGE ON FOREIGN DATA WRAPPER kessel_fdw TO kessel_admin;

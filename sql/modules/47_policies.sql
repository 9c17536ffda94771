-- What policies are made of: who asks is an administrator of the app, and rows of one's
-- own, or all, by one index scan.

-- COST: of the bounds, 100 units of the planner in all, once a scan. So who sees all, if the plan
-- is made for others, gets the index of another condition where that finds up to some 20 rows; and a
-- user the index from some 1,900 rows of the table on.
CREATE FUNCTION kessel._between_support(internal) RETURNS internal
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_between_support';
CREATE FUNCTION kessel._bound_support(internal) RETURNS internal
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_bound_support';
CREATE FUNCTION kessel._first_bound(bounds uuid[]) RETURNS uuid
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 20000 SUPPORT kessel._bound_support AS 'MODULE_PATHNAME', 'kr_first_bound';
CREATE FUNCTION kessel._last_bound(bounds uuid[]) RETURNS uuid
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 20000 SUPPORT kessel._bound_support AS 'MODULE_PATHNAME', 'kr_last_bound';

CREATE FUNCTION kessel.is_between(id uuid, bounds uuid[]) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT kessel._between_support AS 'MODULE_PATHNAME', 'kr_is_between';
COMMENT ON FUNCTION kessel.is_between(uuid, uuid[]) IS
    'As id BETWEEN bounds[1] AND bounds[2], but planned as what finds the rows of one id: by one scan of a B-tree index that begins with it. For policies: kessel.is_between(user_id, (SELECT infra.visible_users())). False where bounds are not two, or one of them is NULL; NULL for NULL. For kessel_user, kessel_service, kessel_admin';

-- For infra.is_admin() and infra.visible_users(). Whom they tell about is who asks: the user of the
-- claims or, with an argument, of auth.uid(); false and NULL for any other.
CREATE FUNCTION kessel._is_administrator() RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_is_administrator';
CREATE FUNCTION kessel._is_administrator(user_id uuid) RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_is_administrator';
CREATE FUNCTION kessel._visible_users() RETURNS uuid[]
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_visible_users';
CREATE FUNCTION kessel._visible_users(user_id uuid) RETURNS uuid[]
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kr_visible_users';

-- Inlined into what is planned: so for whom there are policies.
REVOKE ALL ON FUNCTION kessel.is_between(uuid, uuid[]), kessel._first_bound(uuid[]), kessel._last_bound(uuid[]),
    kessel._between_support(internal), kessel._bound_support(internal),
    kessel._is_administrator(), kessel._is_administrator(uuid), kessel._visible_users(), kessel._visible_users(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kessel.is_between(uuid, uuid[]), kessel._first_bound(uuid[]), kessel._last_bound(uuid[]),
    kessel._is_administrator(), kessel._is_administrator(uuid), kessel._visible_users(), kessel._visible_users(uuid) TO kessel_user, kessel_service, kessel_admin;

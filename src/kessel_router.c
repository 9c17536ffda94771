/*
 * kessel_router.c
 *	  Module magic and the list of what is initialised when the library loads.
 */
#include "postgres.h"

#include "fmgr.h"

#include "kr_audit.h"
#include "kr_error.h"
#include "kr_fdw_conflict.h"
#include "kr_fdw.h"
#include "kr_guc.h"
#include "kr_hide.h"
#include "kr_remote.h"
#include "kr_route.h"
#include "kr_session.h"
#include "kr_vault.h"
#include "kr_watch.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	kr_guc_init();
	kr_error_init();
	kr_hide_init();
	kr_audit_init();
	kr_session_init();
	kr_watch_init();
	kr_vault_init();
	kr_route_init();
	kr_remote_init();
	kr_fdw_server_init();
	kr_conflict_init();
	kr_jit_init();
	kr_permission_init();
}

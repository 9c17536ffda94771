/*
 * kr_compat.h
 *	  What differs between PostgreSQL 15 and 18; the only file that asks for
 *	  the server's version.
 */
#ifndef KR_COMPAT_H
#define KR_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "kessel_router is written for PostgreSQL 15 to 18"
#endif

/* VARDATA_ANY() and the like; in postgres.h before 16 */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#endif							/* KR_COMPAT_H */

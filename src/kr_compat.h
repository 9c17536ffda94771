/*
 * kr_compat.h
 *	  What differs between PostgreSQL 15 and 18; the only file that asks for
 *	  the server's version.
 */
#ifndef KR_COMPAT_H
#define KR_COMPAT_H

#include "postgres.h"

#include "storage/latch.h"
#include "utils/memutils.h"

#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "kessel_router is written for PostgreSQL 15 to 18"
#endif

/* VARDATA_ANY() and the like; in postgres.h before 16 */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* A wait event set that lives until it is freed, whatever the transaction does. */
static inline WaitEventSet *
kr_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* 18 has pg_noreturn instead, which stands in front of a declaration */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

#endif							/* KR_COMPAT_H */

/*
 * kr_infra.h
 *	  Calling functions of the infra database's own blueprints.
 */
#ifndef KR_INFRA_H
#define KR_INFRA_H

#include "postgres.h"

/*
 * infra.NAME(types), and its owner. InvalidOid where there is none, or where the
 * owner is not in kessel_admin: nobody else is to be told anything or to decide.
 */
extern Oid	kr_infra_function(const char *name, int nargs, const Oid *types, Oid *owner);

/*
 * Calls it as its owner: in a restricted operation, so that the owner can put off
 * nothing until the caller's rights are back, and with a search_path in which
 * nothing of the caller's is found. Transaction or subtransaction abort restores
 * the user. A strict function is not called with a NULL.
 */
extern Datum kr_infra_call(Oid function, Oid owner, int nargs, const NullableDatum *args, bool *isnull);

#endif							/* KR_INFRA_H */

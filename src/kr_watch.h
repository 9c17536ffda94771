/*
 * kr_watch.h
 *	  Noticing that the extension's tables have changed, for whoever caches
 *	  what is in them.
 */
#ifndef KR_WATCH_H
#define KR_WATCH_H

#include "postgres.h"

/*
 * Takes in what other backends have committed. As long as the number is the
 * same, nothing that was read since it was asked for has changed: neither rows
 * of the tables with the trigger "invalidate", nor roles and their members.
 */
extern uint64 kr_watch_generation(void);

extern void kr_watch_init(void);

#endif							/* KR_WATCH_H */

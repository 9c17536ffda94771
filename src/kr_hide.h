/*
 * kr_hide.h
 *	  Keeping a statement that carries a secret out of statistics from its first
 *	  moment on.
 */
#ifndef KR_HIDE_H
#define KR_HIDE_H

/* Does a text have EXECUTE of a prepared statement that carries a secret? */
extern bool kr_hide_executes_secret(const char *text);

extern void kr_hide_init(void);

#endif							/* KR_HIDE_H */

/*
 * kr_hide.h
 *	  Keeping a statement that carries a secret out of statistics from its first
 *	  moment on.
 */
#ifndef KR_HIDE_H
#define KR_HIDE_H

extern void kr_hide_init(void);

#endif							/* KR_HIDE_H */

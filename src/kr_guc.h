/*
 * kr_guc.h
 *	  All settings of kessel_router; documented in kr_guc.c and in README.md.
 */
#ifndef KR_GUC_H
#define KR_GUC_H

extern int	kr_guc_connect_timeout; /* seconds */
extern char *kr_guc_root_key_command;
extern char *kr_guc_root_key_file;
extern int	kr_guc_root_key_timeout;	/* seconds */
extern char *kr_guc_tenant;

extern void kr_guc_init(void);

#endif							/* KR_GUC_H */

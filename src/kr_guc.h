/*
 * kr_guc.h
 *	  All settings of kessel_router; documented in kr_guc.c and in doc/reference.md.
 */
#ifndef KR_GUC_H
#define KR_GUC_H

extern int	kr_guc_alert_failures;	/* per minute and role; 0: off */
extern int	kr_guc_alert_reveals;	/* per minute and role; 0: off */
extern int	kr_guc_audit_buffer_size;	/* kB; 0: none */
extern int	kr_guc_connect_timeout; /* seconds */
extern int	kr_guc_connection_idle_timeout; /* seconds; 0: off */
extern bool kr_guc_cross_tenant_writes;
extern int	kr_guc_fleet_connections_per_host;
extern int	kr_guc_max_idle_connections;
extern bool kr_guc_require_permissions;
extern char *kr_guc_root_key_command;
extern char *kr_guc_root_key_environment;
extern char *kr_guc_root_key_file;
extern int	kr_guc_root_key_timeout;	/* seconds */
extern int	kr_guc_secret_versions;
extern char *kr_guc_tenant;

/* True for what can name a tenant, see kr_guc.c. */
extern bool kr_guc_is_tenant_name(const char *value);

extern void kr_guc_init(void);

#endif							/* KR_GUC_H */

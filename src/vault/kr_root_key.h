/*
 * kr_root_key.h
 *	  Where the root key comes from: a file or a command.
 */
#ifndef KR_ROOT_KEY_H
#define KR_ROOT_KEY_H

#include "postgres.h"

#include <sys/stat.h>

#define KR_ROOT_KEY_BYTES 32

/* Why there is no key; of fixed size, so that telling it cannot fail. */
typedef struct KrRootKeyProblem
{
	char		detail[512];
	char		hint[256];
} KrRootKeyProblem;

/*
 * All return false and fill problem where the key cannot be had. key has room
 * for KR_ROOT_KEY_BYTES, in the caller's locked memory. *st is what the file
 * was when it was read.
 */
extern bool kr_root_key_read_file(const char *path, unsigned char *key,
								  struct stat *st, KrRootKeyProblem *problem);
extern bool kr_root_key_run_command(const char *command, int timeout_s,
									unsigned char *key,
									KrRootKeyProblem *problem);
extern bool kr_root_key_create_file(const char *path,
									KrRootKeyProblem *problem);

#endif							/* KR_ROOT_KEY_H */

/*
 * kr_root_key.h
 *	  Where root keys come from: a file, a command or the environment.
 */
#ifndef KR_ROOT_KEY_H
#define KR_ROOT_KEY_H

#include "postgres.h"

#include <sys/stat.h>

#define KR_ROOT_KEY_BYTES 32
#define KR_ROOT_KEYS_MAX 8

/* In the caller's locked memory; no key stands in it twice. */
typedef struct KrRootKeys
{
	int			number;
	unsigned char key[KR_ROOT_KEYS_MAX][KR_ROOT_KEY_BYTES];
} KrRootKeys;

/* Why there is no key; of fixed size, so that telling it cannot fail. */
typedef struct KrRootKeyProblem
{
	char		detail[512];
	char		hint[256];
} KrRootKeyProblem;

/*
 * Each fills in keys, in the order in which the source has them, or returns
 * false and fills in problem. *st is what the file was when it was read.
 */
extern bool kr_root_key_read_file(const char *path, KrRootKeys *keys,
								  struct stat *st, KrRootKeyProblem *problem);
extern bool kr_root_key_run_command(const char *command, int timeout_s,
									KrRootKeys *keys,
									KrRootKeyProblem *problem);
extern bool kr_root_key_read_environment(const char *name, KrRootKeys *keys,
										 KrRootKeyProblem *problem);

/* Make a key file with one new key. */
extern bool kr_root_key_create_file(const char *path,
									KrRootKeyProblem *problem);

#endif							/* KR_ROOT_KEY_H */

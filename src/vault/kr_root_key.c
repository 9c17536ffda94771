/*
 * kr_root_key.c
 *	  Getting root keys from a file, a command or the environment, and making a
 *	  key file.
 *
 * Called by the keyring alone. What passes through is in locked memory and
 * wiped when freed; of the environment the text is kept, see below. Keys that
 * cannot be had are no error but an answer (the vault is then sealed); only an
 * interrupt while a command runs is thrown. No answer has any of a source's
 * text in it: a line that is no key may be a key with a slip of the pen.
 *
 * A source is text with one key a line, in hexadecimal or base64. Blank lines
 * and lines that begin with "#" do not count. One line that is neither makes
 * the whole source unusable: going on without it could leave the wrong key
 * first. A file or a command's output of just 32 bytes that are no text is one
 * raw key.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "kr_locked.h"
#include "kr_root_key.h"

/* Eight keys and what is said of them; less than a page of locked memory. */
#define KR_KEY_TEXT_MAX 4000

/* A running command is looked after ever more rarely, up to this. */
#define KR_COMMAND_NAP_MAX_MS 50

/* What was taken out of the environment, see take_variable(). */
typedef struct TakenVariable
{
	char	   *name;			/* malloc()ed */
	char	   *text;			/* in pages of its own, inaccessible */
	size_t		len;
} TakenVariable;

typedef enum AddResult
{
	ADDED,
	NOT_A_KEY,
	TOO_MANY
} AddResult;

static TakenVariable taken;

static bool parse_keys(const char *source, const char *unit, const char *separators,
					   const unsigned char *text, size_t len,
					   KrRootKeys *keys, KrRootKeyProblem *problem);
static bool is_blank(char c);
static bool parse_raw(const unsigned char *text, size_t len, KrRootKeys *keys);
static AddResult add_key(KrRootKeys *keys, const char *text, size_t len);
static bool parse_key(const char *text, size_t len, unsigned char *key);
static bool take_variable(const char *name, char *value);
static bool file_is_private(const char *path, const struct stat *st,
							KrRootKeyProblem *problem);
static ssize_t read_up_to(int fd, unsigned char *buf, size_t size);
static bool write_all(int fd, const char *buf, size_t len);
static pid_t start_command(const char *command, int *fd);
static void close_others(void);
static bool await_command(pid_t pid, int fd, TimestampTz deadline,
						  unsigned char *buf, size_t *len, int *status);
static bool explain(KrRootKeyProblem *problem, const char *hint,
					const char *fmt,...) pg_attribute_printf(3, 4);

static const char *const hint_format =
"A root key is 32 random bytes, as 64 hexadecimal digits or in base64, one a line; \"#\" begins a comment line. Make one with: openssl rand -hex 32";

static const char *const no_memory = "No locked memory is to be had for reading root keys.";

bool
kr_root_key_read_file(const char *path, KrRootKeys *keys, struct stat *st,
					  KrRootKeyProblem *problem)
{
	char		source[MAXPGPATH + 32];
	unsigned char *buf;
	ssize_t		len;
	int			save_errno;
	int			fd;
	bool		ok;

	/* O_NONBLOCK: a FIFO must not make us wait, it is refused below */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return explain(problem, "Put the key file in place, readable by the server's user alone.",
					   "The key file \"%s\" cannot be opened: %s.",
					   path, strerror(errno));

	if (fstat(fd, st) != 0 || !file_is_private(path, st, problem))
	{
		close(fd);
		return false;
	}

	buf = kr_locked_alloc(KR_KEY_TEXT_MAX + 1);
	if (buf == NULL)
	{
		close(fd);
		return explain(problem, "", "%s", no_memory);
	}
	len = read_up_to(fd, buf, KR_KEY_TEXT_MAX + 1);
	save_errno = errno;
	close(fd);

	snprintf(source, sizeof(source), "key file \"%s\"", path);
	if (len < 0)
		ok = explain(problem, "", "The %s cannot be read: %s.", source, strerror(save_errno));
	else
		ok = parse_raw(buf, len, keys) ||
			parse_keys(source, "Line", "\n", buf, len, keys, problem);
	kr_locked_free(buf);
	return ok;
}

bool
kr_root_key_run_command(const char *command, int timeout_s, KrRootKeys *keys,
						KrRootKeyProblem *problem)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   (int64) timeout_s * 1000);
	unsigned char *buf;
	volatile size_t len = 0;
	volatile bool in_time = false;
	volatile bool parsed = false;
	volatile int status = -1;
	pid_t		pid;
	int			fd;

	buf = kr_locked_alloc(KR_KEY_TEXT_MAX + 1);
	if (buf == NULL)
		return explain(problem, "", "%s", no_memory);

	pid = start_command(command, &fd);
	if (pid < 0)
	{
		kr_locked_free(buf);
		return explain(problem, "", "kessel.root_key_command cannot be started: %s.",
					   strerror(errno));
	}

	/* An interrupt while we wait must leave neither process nor key behind. */
	PG_TRY();
	{
		size_t		got = 0;
		int			how = -1;

		in_time = await_command(pid, fd, deadline, buf, &got, &how);
		len = got;
		status = how;
		if (in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0)
			parsed = parse_raw(buf, len, keys) ||
				parse_keys("output of kessel.root_key_command", "Line", "\n",
						   buf, len, keys, problem);
	}
	PG_FINALLY();
	{
		if (!in_time)
		{
			kill(-pid, SIGKILL);
			kill(pid, SIGKILL);
			while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
				;
		}
		close(fd);
		kr_locked_free(buf);
	}
	PG_END_TRY();

	if (!in_time)
		return explain(problem, "Find out why it hangs, or raise kessel.root_key_timeout.",
					   "kessel.root_key_command did not end within %d seconds, or printed more than %d bytes.",
					   timeout_s, KR_KEY_TEXT_MAX);
	if (WIFSIGNALED(status))
		return explain(problem, "Run it by hand as the server's user.",
					   "kessel.root_key_command was ended by signal %d.", WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return explain(problem, "Run it by hand as the server's user.",
					   "kessel.root_key_command failed with exit code %d.", WEXITSTATUS(status));
	return parsed;
}

/*
 * The server's environment cannot change while it runs: what was read once
 * holds for the life of the backend.
 */
bool
kr_root_key_read_environment(const char *name, KrRootKeys *keys,
							 KrRootKeyProblem *problem)
{
	char		source[128];
	char	   *value = getenv(name);
	bool		ok;

	snprintf(source, sizeof(source), "environment variable \"%s\"", name);
	if (value != NULL)
	{
		/* what is no key may be somebody else's, and stays */
		if (!parse_keys(source, "Item", " \t\r\n", (unsigned char *) value,
						strlen(value), keys, problem))
			return false;
		return take_variable(name, value) || explain(problem, "", "%s", no_memory);
	}
	if (taken.name == NULL || strcmp(taken.name, name) != 0)
		return explain(problem, "Set it where the server is started, and start the server anew.",
					   "The %s is not set in the server's environment.", source);

	sodium_mprotect_readonly(taken.text);
	ok = parse_keys(source, "Item", " \t\r\n", (unsigned char *) taken.text, taken.len,
					keys, problem);
	sodium_mprotect_noaccess(taken.text);
	return ok;
}

/*
 * Make a key file with a new random key. It appears under its name complete or
 * not at all; where another process was faster its file stays.
 */
bool
kr_root_key_create_file(const char *path, KrRootKeyProblem *problem)
{
	char		tmp[MAXPGPATH];
	char		dir[MAXPGPATH];
	unsigned char *key;
	char	   *text;
	int			fd;
	int			save_errno = 0;

	snprintf(tmp, sizeof(tmp), "%s.%d.tmp", path, MyProcPid);
	strlcpy(dir, path, sizeof(dir));
	get_parent_directory(dir);

	key = kr_locked_alloc(KR_ROOT_KEY_BYTES);
	text = kr_locked_alloc(KR_ROOT_KEY_BYTES * 2 + 1);
	if (key == NULL || text == NULL)
	{
		kr_locked_free(key);
		kr_locked_free(text);
		return explain(problem, "", "No locked memory is to be had for a new root key.");
	}
	randombytes_buf(key, KR_ROOT_KEY_BYTES);
	sodium_bin2hex(text, KR_ROOT_KEY_BYTES * 2 + 1, key, KR_ROOT_KEY_BYTES);
	kr_locked_free(key);
	text[KR_ROOT_KEY_BYTES * 2] = '\n';

	/* left by a process of the same number that died here */
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		save_errno = errno;
	else
	{
		if (!write_all(fd, text, KR_ROOT_KEY_BYTES * 2 + 1) || pg_fsync(fd) != 0)
			save_errno = errno;
		if (close(fd) != 0 && save_errno == 0)
			save_errno = errno;
		if (save_errno == 0 && link(tmp, path) != 0 && errno != EEXIST)
			save_errno = errno;
		unlink(tmp);
	}
	kr_locked_free(text);

	if (save_errno != 0)
		return explain(problem, "Set kessel.root_key_file or kessel.root_key_command.",
					   "The key file \"%s\" cannot be made: %s.", path, strerror(save_errno));

	/* A secret must not outlive the name of the key that opens it. */
	fsync_fname(dir, true);
	return true;
}

/*
 * What is between two separators is a key, or nothing, or, where that is a
 * line, a comment. A NUL, like all else that does not belong there, makes it no
 * key.
 */
static bool
parse_keys(const char *source, const char *unit, const char *separators,
		   const unsigned char *text, size_t len,
		   KrRootKeys *keys, KrRootKeyProblem *problem)
{
	const char *p = (const char *) text;
	const char *end = p + len;
	bool		by_line = strcmp(separators, "\n") == 0;
	int			number = 0;

	keys->number = 0;
	if (len > KR_KEY_TEXT_MAX)
		return explain(problem, hint_format, "The %s has more than %d bytes.",
					   source, KR_KEY_TEXT_MAX);

	while (p < end)
	{
		const char *stop = p;
		const char *next;

		while (stop < end && (*stop == '\0' || strchr(separators, *stop) == NULL))
			stop++;
		next = stop + 1;
		while (p < stop && is_blank(*p))
			p++;
		while (p < stop && is_blank(stop[-1]))
			stop--;

		if (by_line || p < stop)
			number++;
		if (p < stop && !(by_line && *p == '#'))
		{
			AddResult	added = add_key(keys, p, stop - p);

			if (added == NOT_A_KEY)
				return explain(problem, hint_format, "%s %d of the %s is no root key.",
							   unit, number, source);
			if (added == TOO_MANY)
				return explain(problem, "Take out those that nothing needs any more.",
							   "The %s has more than %d root keys.",
							   source, KR_ROOT_KEYS_MAX);
		}
		p = next;
	}

	if (keys->number == 0)
		return explain(problem, hint_format, "The %s has no root key in it.", source);
	return true;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/*
 * 32 bytes, or with a line end behind them. What could be text is never taken
 * for raw bytes: a password, half a key in hexadecimal, a comment.
 */
static bool
parse_raw(const unsigned char *text, size_t len, KrRootKeys *keys)
{
	bool		is_text = true;

	if (len == KR_ROOT_KEY_BYTES + 1 && text[KR_ROOT_KEY_BYTES] == '\n')
		len--;
	if (len != KR_ROOT_KEY_BYTES)
		return false;

	for (size_t i = 0; i < len; i++)
		is_text = is_text && ((text[i] >= 0x20 && text[i] < 0x7f) ||
							  text[i] == '\t' || text[i] == '\r' || text[i] == '\n');
	if (is_text || sodium_is_zero(text, KR_ROOT_KEY_BYTES))
		return false;

	memcpy(keys->key[0], text, KR_ROOT_KEY_BYTES);
	keys->number = 1;
	return true;
}

/* One that is there already changes nothing. */
static AddResult
add_key(KrRootKeys *keys, const char *text, size_t len)
{
	unsigned char *key = kr_locked_alloc(KR_ROOT_KEY_BYTES);
	AddResult	result = ADDED;

	if (key == NULL || !parse_key(text, len, key))
		result = NOT_A_KEY;
	else
	{
		bool		found = false;

		for (int i = 0; i < keys->number && !found; i++)
			found = sodium_memcmp(keys->key[i], key, KR_ROOT_KEY_BYTES) == 0;
		if (!found && keys->number == KR_ROOT_KEYS_MAX)
			result = TOO_MANY;
		else if (!found)
			memcpy(keys->key[keys->number++], key, KR_ROOT_KEY_BYTES);
	}
	if (key != NULL)
		kr_locked_free(key);
	return result;
}

/* 64 hexadecimal digits or base64 of 32 bytes. */
static bool
parse_key(const char *text, size_t len, unsigned char *key)
{
	size_t		out_len = 0;

	if (len == KR_ROOT_KEY_BYTES * 2)
	{
		if (sodium_hex2bin(key, KR_ROOT_KEY_BYTES, text, len,
						   NULL, &out_len, NULL) != 0)
			return false;
	}
	else if (len == 43 || len == 44)
	{
		int			variant = len == 44 ? sodium_base64_VARIANT_ORIGINAL :
		sodium_base64_VARIANT_ORIGINAL_NO_PADDING;

		if (sodium_base642bin(key, KR_ROOT_KEY_BYTES, text, len,
							  NULL, &out_len, NULL, variant) != 0)
			return false;
	}
	return out_len == KR_ROOT_KEY_BYTES && !sodium_is_zero(key, KR_ROOT_KEY_BYTES);
}

/*
 * Keep a variable's value in locked memory and take it out of the environment
 * of this process: what it starts from now on (COPY ... PROGRAM) has it not.
 */
static bool
take_variable(const char *name, char *value)
{
	TakenVariable fresh = {0};

	fresh.len = strlen(value);
	fresh.name = strdup(name);
	fresh.text = fresh.name ? kr_locked_new(fresh.len + 1, NULL) : NULL;
	if (fresh.text == NULL)
	{
		free(fresh.name);
		return false;
	}
	memcpy(fresh.text, value, fresh.len);
	sodium_mprotect_noaccess(fresh.text);
	sodium_memzero(value, fresh.len);
	unsetenv(name);

	free(taken.name);
	sodium_free(taken.text);
	taken = fresh;
	return true;
}

/*
 * The rule that the server has for its TLS key: the server's user owns it and
 * no one else can touch it, or root owns it and a group may read it.
 */
static bool
file_is_private(const char *path, const struct stat *st, KrRootKeyProblem *problem)
{
	mode_t		forbidden = S_IRWXG | S_IRWXO;

	if (!S_ISREG(st->st_mode))
		return explain(problem, "Name a regular file.",
					   "The key file \"%s\" is not a regular file.", path);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return explain(problem, "Make the server's user or root its owner.",
					   "The key file \"%s\" belongs to another user.", path);
	if (st->st_uid == 0)
		forbidden = S_IWGRP | S_IXGRP | S_IRWXO;
	if ((st->st_mode & forbidden) != 0)
		return explain(problem, "Run chmod 0600 on it, or 0640 where root owns it; if others may have read it, replace the key.",
					   "The key file \"%s\" can be accessed by its group or by others (mode %04o).",
					   path, (unsigned) (st->st_mode & 07777));
	return true;
}

static ssize_t
read_up_to(int fd, unsigned char *buf, size_t size)
{
	size_t		len = 0;

	while (len < size)
	{
		ssize_t		n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		len += n;
	}
	return len;
}

static bool
write_all(int fd, const char *buf, size_t len)
{
	while (len > 0)
	{
		ssize_t		n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		buf += n;
		len -= n;
	}
	return true;
}

/*
 * Start "sh -c command" in a session of its own, so that all it starts can be
 * ended together; *fd is the reading end of its output. What it says on stderr
 * is dropped, it might say too much.
 */
static pid_t
start_command(const char *command, int *fd)
{
	int			ends[2];
	pid_t		pid;

	if (pipe(ends) != 0)
		return -1;
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	fcntl(ends[1], F_SETFD, FD_CLOEXEC);

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
	{
		int			save_errno = errno;

		close(ends[0]);
		close(ends[1]);
		errno = save_errno;
		return -1;
	}
	if (pid == 0)
	{
		/* Child: nothing of the server's may run here, only system calls. */
		sigset_t	none;
		int			null = open("/dev/null", O_RDWR);

		setsid();
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		signal(SIGPIPE, SIG_DFL);
		dup2(null, STDIN_FILENO);
		dup2(ends[1], STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close_others();
		execl("/bin/sh", "sh", "-c", command, (char *) NULL);
		_exit(127);
	}

	close(ends[1]);
	*fd = ends[0];
	return pid;
}

/*
 * In the child: close all but the standard files. The server's are not all
 * closed by exec, and what the command leaves running must not hold the
 * client's connection open.
 */
static void
close_others(void)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) == 0)
		return;
#endif
	for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
		close(fd);
}

/*
 * Collect the command's output till it has ended. False if it has not by the
 * deadline, or prints too much; the caller then ends it. Its end counts,
 * not that of its output: something it left in the background may hold that.
 */
static bool
await_command(pid_t pid, int fd, TimestampTz deadline,
			  unsigned char *buf, size_t *len, int *status)
{
	long		nap = 1;

	for (;;)
	{
		bool		ended;
		long		left;
		ssize_t		n;
		pid_t		got;

		got = waitpid(pid, status, WNOHANG);
		ended = got == pid;

		while (*len <= KR_KEY_TEXT_MAX &&
			   ((n = read(fd, buf + *len, KR_KEY_TEXT_MAX + 1 - *len)) > 0 ||
				(n < 0 && errno == EINTR)))
			*len += Max(n, 0);

		if (ended)
			return true;		/* too much output is no key either */
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0 || *len > KR_KEY_TEXT_MAX)
			return false;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, nap), PG_WAIT_EXTENSION);
		nap = Min(nap * 2, KR_COMMAND_NAP_MAX_MS);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Always false, so that a caller can return it. */
static bool
explain(KrRootKeyProblem *problem, const char *hint, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(problem->detail, sizeof(problem->detail), fmt, args);
	va_end(args);
	strlcpy(problem->hint, hint, sizeof(problem->hint));
	return false;
}

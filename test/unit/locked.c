/*
 * locked.c
 *	  Memory for keys and plaintext: what the kernel says of it, what a child
 *	  has of it, and what is left in it.
 *
 * Links with: src/vault/kr_locked.c -lsodium
 */
#include "kr_unit.h"

#include <setjmp.h>
#include <signal.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kr_locked.h"

static void kernel_flags(void);
static void children(void);
static void slots(void);
static void bounds(void);
static void no_locking(void);

int
main(void)
{
	if (sodium_init() < 0)
		return 1;
	kernel_flags();
	children();
	slots();
	bounds();
	no_locking();
	return tap_done();
}

/* Whether a mapping's line "VmFlags:" in /proc/self/smaps has a flag. */
static bool
has_flag(const void *memory, const char *flag)
{
	FILE	   *smaps = fopen("/proc/self/smaps", "r");
	char		line[512];
	bool		inside = false;
	bool		found = false;

	while (smaps != NULL && fgets(line, sizeof(line), smaps) != NULL)
	{
		unsigned long start;
		unsigned long end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (unsigned long) memory && (unsigned long) memory < end;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line + 8, flag) != NULL;
	}
	if (smaps != NULL)
		fclose(smaps);
	return found;
}

/* kB, from /proc/self/status */
static long
locked_kb(void)
{
	FILE	   *status = fopen("/proc/self/status", "r");
	char		line[512];
	long		kb = -1;

	while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		(void) sscanf(line, "VmLck: %ld", &kb);
	if (status != NULL)
		fclose(status);
	return kb;
}

static void
kernel_flags(void)
{
	bool		locked = false;
	unsigned char *page = kr_locked_new(300, &locked);
	unsigned char *small = kr_locked_alloc(40);

	ok(locked, "the kernel has locked it");
	ok(has_flag(page, " lo"), "and says so");
	ok(has_flag(page, " dd"), "it is left out of core dumps");
	ok(has_flag(page, " wf"), "and wiped in a child");
	ok(has_flag(small, " lo") && has_flag(small, " dd") && has_flag(small, " wf"),
	   "all that holds for small pieces, too");
	kr_locked_free(small);
	sodium_free(page);
}

/* Whether a child finds nothing but zeros. */
static bool
wiped_in_child(const unsigned char *memory, size_t len)
{
	pid_t		pid = fork();
	int			status = -1;

	if (pid == 0)
		_exit(sodium_is_zero(memory, len) ? 0 : 1);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void
children(void)
{
	unsigned char *small = kr_locked_alloc(32);
	unsigned char *large = kr_locked_alloc(100000);

	memset(small, 'k', 32);
	memset(large, 'k', 100000);
	ok(wiped_in_child(small, 32) && wiped_in_child(large, 100000), "a child inherits nothing");
	ok(small[31] == 'k' && large[99999] == 'k', "and the parent keeps it");
	kr_locked_free(small);
	kr_locked_free(large);
}

static void
slots(void)
{
	unsigned char *piece[20];
	unsigned char *again;
	bool		all = true;

	for (int i = 0; i < 20; i++)
	{
		piece[i] = kr_locked_alloc(100);
		memset(piece[i], i + 1, 100);
	}
	for (int i = 0; i < 20; i++)
	{
		for (int j = 0; j < 100; j++)
			all = all && piece[i][j] == i + 1;
	}
	ok(all, "twenty at once keep out of each other's way");
	for (int i = 0; i < 20; i++)
		kr_locked_free(piece[i]);
	ok(locked_kb() >= 4 && locked_kb() <= 40, "what is kept locked afterwards is bounded");

	again = kr_locked_alloc(100);
	ok(again == piece[0] && sodium_is_zero(again, 100), "freed memory is taken again, wiped");
	kr_locked_free(again);
	again = kr_locked_alloc(1000);
	memset(again, 'k', 1000);
	kr_locked_free(again);
	again = kr_locked_alloc(1000);
	ok(sodium_is_zero(again, 1000), "as far as it was used");
	kr_locked_free(again);
	kr_locked_free(NULL);
	again = kr_locked_alloc(0);
	ok(again != NULL, "nothing can be asked for");
	kr_locked_free(again);
}

static sigjmp_buf after_fault;

static void
on_fault(int signal_number)
{
	siglongjmp(after_fault, 1);
}

/* libsodium's guard pages are there: whether touching a byte is fatal. */
static bool
faults(volatile unsigned char *byte)
{
	if (sigsetjmp(after_fault, 1) != 0)
		return true;
	*byte = 1;
	return false;
}

static void
bounds(void)
{
	struct sigaction action = {0};
	unsigned char *piece = kr_locked_alloc(100);

	action.sa_handler = on_fault;
	sigaction(SIGSEGV, &action, NULL);
	ok(faults(piece + 100), "one byte too far is caught at once");
	kr_locked_free(piece);
	ok(faults(piece), "and so is use of freed memory");
	signal(SIGSEGV, SIG_DFL);
}

static void
no_locking(void)
{
	struct rlimit none = {0, 0};
	bool		locked = true;
	void	   *page;

	if (geteuid() == 0)
	{
		skip("a refusal to lock is noticed", "root may lock whatever the limit");
		return;
	}
	setrlimit(RLIMIT_MEMLOCK, &none);
	page = kr_locked_new(300, &locked);
	ok(page != NULL && !locked, "a refusal to lock is noticed");
	sodium_free(page);
}

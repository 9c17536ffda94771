/*
 * kr_remote_resolve.c
 *	  Looking up a host name in bounded, interruptible time.
 *
 * getaddrinfo() blocks for as long as resolv.conf lets it, which is longer than
 * anyone wants to wait. It is safe on any thread, so it runs on one of its own
 * that takes no signal, touches nothing of the server's and, when it does not
 * come back in time, is left behind to free its own memory.
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "kr_remote_internal.h"

/* Shared by the backend and the thread; malloc'ed. The one who comes last frees it. */
typedef struct Lookup
{
	pthread_mutex_t lock;
	bool		finished;
	bool		abandoned;
	int			wake[2];		/* the thread closes its end when it has finished */
	int			error;			/* of getaddrinfo() */
	struct addrinfo *addresses;
	char		host[FLEXIBLE_ARRAY_MEMBER];
} Lookup;

static void
free_lookup(Lookup *lookup)
{
	if (lookup->addresses != NULL)
		freeaddrinfo(lookup->addresses);
	close(lookup->wake[0]);
	pthread_mutex_destroy(&lookup->lock);
	free(lookup);
}

static void *
look_up(void *arg)
{
	Lookup	   *lookup = arg;
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	int			error = getaddrinfo(lookup->host, NULL, &hints, &addresses);
	bool		abandoned;

	pthread_mutex_lock(&lookup->lock);
	lookup->error = error;
	lookup->addresses = error == 0 ? addresses : NULL;
	lookup->finished = true;
	abandoned = lookup->abandoned;
	close(lookup->wake[1]);
	pthread_mutex_unlock(&lookup->lock);

	if (abandoned)
		free_lookup(lookup);
	return NULL;
}

/* NULL where the system has no thread or no file descriptor left. */
static Lookup *
start_lookup(const char *host)
{
	Lookup	   *lookup = calloc(1, offsetof(Lookup, host) + strlen(host) + 1);
	sigset_t	all;
	sigset_t	before;
	pthread_t	thread;
	int			rc;

	if (lookup == NULL)
		return NULL;
	memcpy(lookup->host, host, strlen(host) + 1);
	if (pipe2(lookup->wake, O_CLOEXEC) != 0)
	{
		free(lookup);
		return NULL;
	}
	pthread_mutex_init(&lookup->lock, NULL);

	/* The server's signal handlers belong to its own thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, look_up, lookup);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		close(lookup->wake[1]);
		free_lookup(lookup);
		return NULL;
	}
	pthread_detach(thread);
	return lookup;
}

static void
end_lookup(Lookup *lookup)
{
	bool		finished;

	pthread_mutex_lock(&lookup->lock);
	lookup->abandoned = true;
	finished = lookup->finished;
	pthread_mutex_unlock(&lookup->lock);
	if (finished)
		free_lookup(lookup);
}

/* False when the deadline has passed. */
static bool
await_lookup(Lookup *lookup, TimestampTz deadline)
{
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc;

		if (left <= 0)
			return false;
		rc = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   lookup->wake[0], left, PG_WAIT_EXTENSION);
		if (rc & WL_SOCKET_READABLE)
			return true;
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

/* "10.0.0.1, ::1", palloc'd */
static char *
addresses_text(const struct addrinfo *addresses)
{
	StringInfoData text;

	initStringInfo(&text);
	for (const struct addrinfo *a = addresses; a != NULL; a = a->ai_next)
	{
		char		address[NI_MAXHOST];

		if (getnameinfo(a->ai_addr, a->ai_addrlen, address, sizeof(address),
						NULL, 0, NI_NUMERICHOST) == 0)
			appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", address);
	}
	return text.data;
}

/*
 * The addresses of a host, separated by ", ", palloc'd. NULL where there is none
 * before the deadline; *reason then says why, in words for an administrator.
 */
char *
kr_remote_resolve(const char *host, TimestampTz deadline, const char **reason)
{
	Lookup	   *lookup;
	char	   *volatile result = NULL;

	*reason = "The system has no thread or file descriptor left to look it up.";
	if (!AcquireExternalFD())
		return NULL;
	lookup = start_lookup(host);
	if (lookup == NULL)
	{
		ReleaseExternalFD();
		return NULL;
	}

	PG_TRY();
	{
		if (!await_lookup(lookup, deadline))
			*reason = "The name server did not answer within kessel.connect_timeout.";
		else if (lookup->error != 0)
			*reason = pstrdup(gai_strerror(lookup->error));
		else
			result = addresses_text(lookup->addresses);
	}
	PG_FINALLY();
	{
		end_lookup(lookup);
		ReleaseExternalFD();
	}
	PG_END_TRY();
	return result;
}

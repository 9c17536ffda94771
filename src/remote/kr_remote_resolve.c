/*
 * kr_remote_resolve.c
 *	  Looking up a host name in bounded, interruptible time.
 */
#include "postgres.h"

#include <netdb.h>
#include <sys/socket.h>

#include "lib/stringinfo.h"

#include "kr_remote_internal.h"

/*
 * Of the threads that look names up for a fleet, so many may be left behind: one
 * for each name server's host that does not answer.
 */
#define MAX_LEFT_BEHIND 64

/* malloc'ed */
typedef struct Lookup
{
	int			error;			/* of getaddrinfo() */
	struct addrinfo *addresses;
	char		host[FLEXIBLE_ARRAY_MEMBER];
} Lookup;

static void
look_up(void *data)
{
	Lookup	   *lookup = data;
	struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM};

	lookup->error = getaddrinfo(lookup->host, NULL, &hints, &lookup->addresses);
}

static void
free_lookup(void *data)
{
	Lookup	   *lookup = data;

	if (lookup->error == 0 && lookup->addresses != NULL)
		freeaddrinfo(lookup->addresses);
	free(lookup);
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
	Lookup	   *lookup = calloc(1, offsetof(Lookup, host) + strlen(host) + 1);
	char	   *result = NULL;

	*reason = "The system has no thread, file descriptor or memory left to look it up.";
	if (lookup == NULL)
		return NULL;
	memcpy(lookup->host, host, strlen(host) + 1);

	switch (kr_thread_run(look_up, free_lookup, lookup, deadline, true))
	{
		case KR_THREAD_NOT_STARTED:
			*reason = "No thread could be started to look it up.";
			break;
		case KR_THREAD_LEFT_BEHIND:
			*reason = "The name server did not answer within kessel.connect_timeout.";
			return NULL;
		case KR_THREAD_FINISHED:
			if (lookup->error != 0)
				*reason = pstrdup(gai_strerror(lookup->error));
			else
				result = addresses_text(lookup->addresses);
			break;
	}
	free_lookup(lookup);
	return result;
}

struct KrLookup
{
	KrJob	   *job;
	Lookup	   *lookup;
};

/* palloc'd; NULL where there is no thread, file descriptor or memory left. */
KrLookup *
kr_lookup_start(const char *host)
{
	KrLookup   *result = palloc(sizeof(KrLookup));

	result->lookup = calloc(1, offsetof(Lookup, host) + strlen(host) + 1);
	if (result->lookup == NULL)
		return NULL;
	memcpy(result->lookup->host, host, strlen(host) + 1);
	result->job = kr_job_start(look_up, free_lookup, result->lookup, MAX_LEFT_BEHIND);
	if (result->job != NULL)
		return result;
	free_lookup(result->lookup);
	return NULL;
}

int
kr_lookup_fd(const KrLookup *lookup)
{
	return kr_job_fd(lookup->job);
}

/* NULL: it has an address. Raises nothing. */
const char *
kr_lookup_end(KrLookup *lookup)
{
	const char *reason = NULL;

	if (!kr_job_end(lookup->job))
		return "The name server did not answer in time.";
	if (lookup->lookup->error != 0)
		reason = gai_strerror(lookup->lookup->error);
	free_lookup(lookup->lookup);
	return reason;
}

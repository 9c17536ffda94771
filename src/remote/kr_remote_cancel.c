/*
 * kr_remote_cancel.c
 *	  Asking a data source to stop what it is doing, in bounded time.
 *
 * Called while a transaction is being cleaned up, so it raises nothing and does
 * not look at interrupts. libpq 17 can cancel without blocking. Before that
 * there is only PQcancel(), which waits for as long as the network likes; it is
 * documented to be safe in a signal handler and on any thread, so it runs on a
 * thread of its own that touches nothing of the server's and that is left
 * behind when it does not come back in time.
 */
#include "postgres.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "utils/timestamp.h"

#include "kr_remote_internal.h"

/* Wait for events on a file descriptor; true when they came before the deadline. */
static bool
wait_for_fd(int fd, short events, TimestampTz deadline)
{
	for (;;)
	{
		struct pollfd poller = {.fd = fd,.events = events};
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc;

		if (left <= 0)
			return false;
		rc = poll(&poller, 1, (int) left);
		if (rc > 0)
			return true;
		if (rc == 0 || errno != EINTR)
			return false;
	}
}

#ifdef LIBPQ_HAS_ASYNC_CANCEL

bool
kr_remote_cancel(PGconn *pg, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	PGcancelConn *cancel = PQcancelCreate(pg);
	PostgresPollingStatusType status = PGRES_POLLING_FAILED;

	if (cancel != NULL && PQcancelStart(cancel))
	{
		status = PGRES_POLLING_WRITING;
		while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
		{
			short		events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT;

			if (!wait_for_fd(PQcancelSocket(cancel), events, deadline))
				break;
			status = PQcancelPoll(cancel);
		}
	}
	PQcancelFinish(cancel);
	return status == PGRES_POLLING_OK;
}

#else

/* Handed to the thread, which frees it; nothing in it is the server's. */
typedef struct CancelJob
{
	PGcancel   *cancel;
	int			done_fd;		/* the thread writes one byte: 1 for success */
} CancelJob;

static void *
cancel_thread(void *arg)
{
	CancelJob  *job = arg;
	char		errbuf[256];
	char		ok = PQcancel(job->cancel, errbuf, sizeof(errbuf)) ? 1 : 0;

	if (write(job->done_fd, &ok, 1) != 1)
		ok = 0;					/* the reader has given up; nothing to do */
	close(job->done_fd);
	PQfreeCancel(job->cancel);
	free(job);
	return NULL;
}

/* Start the thread with every signal blocked: signals are the server's. */
static bool
start_cancel_thread(CancelJob *job)
{
	pthread_attr_t attr;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	int			rc;

	if (pthread_attr_init(&attr) != 0)
		return false;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, &attr, cancel_thread, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return rc == 0;
}

bool
kr_remote_cancel(PGconn *pg, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	CancelJob  *job;
	int			fds[2];
	char		ok = 0;

	if (pipe(fds) != 0)
		return false;
	job = malloc(sizeof(CancelJob));
	if (job != NULL)
	{
		job->cancel = PQgetCancel(pg);
		job->done_fd = fds[1];
	}
	if (job == NULL || job->cancel == NULL || !start_cancel_thread(job))
	{
		if (job != NULL)
			PQfreeCancel(job->cancel);
		free(job);
		close(fds[0]);
		close(fds[1]);
		return false;
	}

	if (!wait_for_fd(fds[0], POLLIN, deadline) || read(fds[0], &ok, 1) != 1)
		ok = 0;
	close(fds[0]);
	return ok == 1;
}

#endif							/* LIBPQ_HAS_ASYNC_CANCEL */

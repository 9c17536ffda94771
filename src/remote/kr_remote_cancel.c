/*
 * kr_remote_cancel.c
 *	  Asking a data source to stop what it is doing, in bounded time.
 *
 * Called while a transaction is being cleaned up, so it raises nothing and does
 * not look at interrupts. libpq 17 can cancel without blocking. Before that
 * there is only PQcancel(), which waits for as long as the network likes; it is
 * documented to be safe on any thread. Several are asked at once on a thread
 * each, whatever the version.
 */
#include "postgres.h"

#include <poll.h>

#include "utils/timestamp.h"

#include "kr_remote_internal.h"

#ifdef LIBPQ_HAS_ASYNC_CANCEL

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

/* malloc'ed */
typedef struct CancelJob
{
	PGcancelConn *cancel;
	bool		ok;
} CancelJob;

static void
send_cancel(void *data)
{
	CancelJob  *job = data;

	job->ok = PQcancelBlocking(job->cancel);
}

static void
free_cancel(void *data)
{
	CancelJob  *job = data;

	PQcancelFinish(job->cancel);
	free(job);
}

#define GET_CANCEL(pg) PQcancelCreate(pg)

#else

/* malloc'ed */
typedef struct CancelJob
{
	PGcancel   *cancel;
	bool		ok;
} CancelJob;

static void
send_cancel(void *data)
{
	CancelJob  *job = data;
	char		errbuf[256];

	job->ok = PQcancel(job->cancel, errbuf, sizeof(errbuf));
}

static void
free_cancel(void *data)
{
	CancelJob  *job = data;

	PQfreeCancel(job->cancel);
	free(job);
}

#define GET_CANCEL(pg) PQgetCancel(pg)

bool
kr_remote_cancel(PGconn *pg, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	CancelJob  *job = calloc(1, sizeof(CancelJob));
	KrThreadResult result;
	bool		ok;

	if (job == NULL)
		return false;
	job->cancel = PQgetCancel(pg);
	result = kr_thread_run(send_cancel, free_cancel, job, deadline, false);
	if (result == KR_THREAD_LEFT_BEHIND)
		return false;
	ok = job->ok;
	free_cancel(job);
	return ok;
}

#endif							/* LIBPQ_HAS_ASYNC_CANCEL */

/* malloc'ed */
struct KrCancel
{
	KrJob	   *job;
	CancelJob  *data;
};

KrCancel *
kr_cancel_start(PGconn *pg)
{
	KrCancel   *cancel = calloc(1, sizeof(KrCancel));

	if (cancel == NULL || (cancel->data = calloc(1, sizeof(CancelJob))) == NULL)
	{
		free(cancel);
		return NULL;
	}
	cancel->data->cancel = GET_CANCEL(pg);
	if (cancel->data->cancel != NULL)
		cancel->job = kr_job_start(send_cancel, free_cancel, cancel->data, INT_MAX);
	if (cancel->job != NULL)
		return cancel;
	free_cancel(cancel->data);
	free(cancel);
	return NULL;
}

bool
kr_cancel_wait(KrCancel *cancel, TimestampTz deadline)
{
	struct pollfd poller = {.fd = kr_job_fd(cancel->job),.events = POLLIN};

	for (;;)
	{
		long		left = deadline == 0 ? 0 :
			TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc = poll(&poller, 1, (int) left);

		if (rc > 0)
			return true;
		if (left <= 0 || (rc < 0 && errno != EINTR))
			return false;
	}
}

void
kr_cancel_end(KrCancel *cancel)
{
	if (kr_job_end(cancel->job))
		free_cancel(cancel->data);
	free(cancel);
}

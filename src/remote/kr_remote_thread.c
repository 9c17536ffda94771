/*
 * kr_remote_thread.c
 *	  Running what may block, or compute without end, in bounded time.
 *
 * Some library functions cannot be stopped: getaddrinfo() waits for as long as
 * resolv.conf lets it, PQcancel() for as long as the network likes, and
 * PQconnectPoll() hashes a password as often as the server asks for. They are
 * safe on any thread. So each runs on one of its own, which takes no signal and
 * touches nothing of the server's; when it does not come back in time it is left
 * behind, to give back what it works on when it is done.
 *
 * Who waits for several at once starts jobs and waits for their file descriptors.
 *
 * Should the backend end before that, it ends at once: what libraries have
 * registered with atexit() would take from under the thread what it works with.
 * (OpenSSL frees all that it has.) A crash of one backend would be one of all.
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "kr_remote_internal.h"

/* Shared by the backend and the thread; malloc'ed. The one who comes last frees it. */
struct KrJob
{
	KrThreadFunction run;
	KrThreadFunction release;
	void	   *data;
	pthread_mutex_t lock;
	bool		finished;
	bool		abandoned;
	int			wake[2];		/* the thread closes its end when it has finished */
};

/*
 * Threads that may be left behind in a session: a server that asks for hours of
 * hashing could have one more busy with each statement.
 */
#define MAX_LEFT_BEHIND 4

static bool left_one_behind = false;
static pg_atomic_uint32 left_behind;	/* zero, as static memory is */
static int	exit_code = -1;		/* -1: the backend is not ending */

/* proc_exit() calls this before it calls exit(). */
static void
note_exit_code(int code, Datum arg)
{
	exit_code = code;
}

/* Registered after those of libraries, so called before them. */
static void
end_at_once(void)
{
	if (exit_code >= 0)
		_exit(exit_code);
}

static void
note_left_behind(void)
{
	if (left_one_behind)
		return;
	left_one_behind = true;
	on_proc_exit(note_exit_code, (Datum) 0);
	(void) atexit(end_at_once);
}

static void
free_job(KrJob *job)
{
	close(job->wake[0]);
	pthread_mutex_destroy(&job->lock);
	free(job);
}

static void *
thread_main(void *arg)
{
	KrJob		   *job = arg;
	bool		abandoned;

	job->run(job->data);

	pthread_mutex_lock(&job->lock);
	job->finished = true;
	abandoned = job->abandoned;
	close(job->wake[1]);
	pthread_mutex_unlock(&job->lock);

	if (abandoned)
	{
		job->release(job->data);
		free_job(job);
		(void) pg_atomic_fetch_sub_u32(&left_behind, 1);
	}
	return NULL;
}

/* NULL where the system has no thread or no file descriptor left. */
static KrJob *
start_job(KrThreadFunction run, KrThreadFunction release, void *data)
{
	KrJob		   *job = calloc(1, sizeof(KrJob));
	sigset_t	all;
	sigset_t	before;
	pthread_t	thread;
	int			rc;

	if (job == NULL)
		return NULL;
	job->run = run;
	job->release = release;
	job->data = data;
	if (pipe(job->wake) != 0)
	{
		free(job);
		return NULL;
	}
	(void) fcntl(job->wake[0], F_SETFD, FD_CLOEXEC);
	(void) fcntl(job->wake[1], F_SETFD, FD_CLOEXEC);
	pthread_mutex_init(&job->lock, NULL);

	/* The server's signal handlers belong to its own thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, thread_main, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		close(job->wake[1]);
		free_job(job);
		return NULL;
	}
	pthread_detach(thread);
	return job;
}

KrJob *
kr_job_start(KrThreadFunction run, KrThreadFunction release, void *data, int max_left_behind)
{
	KrJob	   *job;

	if (left_one_behind && pg_atomic_read_u32(&left_behind) >= max_left_behind)
		return NULL;
	if (!AcquireExternalFD())
		return NULL;
	job = start_job(run, release, data);
	if (job == NULL)
		ReleaseExternalFD();
	return job;
}

int
kr_job_fd(const KrJob *job)
{
	return job->wake[0];
}

bool
kr_job_end(KrJob *job)
{
	bool		finished;

	pthread_mutex_lock(&job->lock);
	job->abandoned = true;
	finished = job->finished;
	if (!finished)
		(void) pg_atomic_fetch_add_u32(&left_behind, 1);
	pthread_mutex_unlock(&job->lock);
	if (finished)
		free_job(job);
	else
		note_left_behind();
	ReleaseExternalFD();
	return finished;
}

/* Wait for a file descriptor that can be read, without looking at interrupts. */
static void
wait_quietly(int fd, TimestampTz deadline)
{
	struct pollfd poller = {.fd = fd,.events = POLLIN};
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline)) > 0)
	{
		if (poll(&poller, 1, (int) left) >= 0 || errno != EINTR)
			return;
	}
}

/* The same, letting interrupts through. */
static void
wait_interruptibly(int fd, TimestampTz deadline)
{
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline)) > 0)
	{
		int			rc = WaitLatchOrSocket(MyLatch,
										   WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
										   fd, left, PG_WAIT_EXTENSION);

		if (rc & WL_SOCKET_READABLE)
			return;
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

KrThreadResult
kr_thread_run(KrThreadFunction run, KrThreadFunction release, void *data,
			  TimestampTz deadline, bool interruptible)
{
	/* To cancel is always tried. */
	KrJob	   *job = kr_job_start(run, release, data, interruptible ? MAX_LEFT_BEHIND : INT_MAX);

	if (job == NULL)
		return KR_THREAD_NOT_STARTED;
	if (!interruptible)
		wait_quietly(job->wake[0], deadline);
	else
	{
		PG_TRY();
		{
			wait_interruptibly(job->wake[0], deadline);
		}
		PG_CATCH();
		{
			if (kr_job_end(job))
				release(data);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return kr_job_end(job) ? KR_THREAD_FINISHED : KR_THREAD_LEFT_BEHIND;
}

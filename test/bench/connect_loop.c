/*
 * connect_loop.c
 *	  What connecting to many databases costs by itself: libpq on as many threads
 *	  as are to be at work at once, one statement in each database.
 *
 *	  connect_loop THREADS STATEMENT URL ...
 *
 * prints the sum of the numbers that the databases answer. A URL is a connection
 * string of libpq. Nothing can ask 200 databases in new sessions in much less time
 * than this. Built by bench.pl.
 *
 * Links with: -lpq -lpthread
 */
#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char *statement;
static char **urls;
static int	nurls;
static int	next_url = 0;
static long sum = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char *
take_url(long found)
{
	char	   *url;

	pthread_mutex_lock(&lock);
	sum += found;
	url = next_url < nurls ? urls[next_url++] : NULL;
	pthread_mutex_unlock(&lock);
	return url;
}

static void *
work(void *arg)
{
	long		found = 0;
	char	   *url;

	while ((url = take_url(found)) != NULL)
	{
		PGconn	   *pg = PQconnectdb(url);
		PGresult   *result = PQexec(pg, statement);

		if (PQresultStatus(result) != PGRES_TUPLES_OK)
		{
			fprintf(stderr, "%s\n", PQerrorMessage(pg));
			exit(1);
		}
		found = atol(PQgetvalue(result, 0, 0));
		PQclear(result);
		PQfinish(pg);
	}
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	threads[64];
	int			nthreads = argc > 3 ? atoi(argv[1]) : 0;

	if (nthreads < 1 || nthreads > 64)
	{
		fprintf(stderr, "usage: connect_loop THREADS STATEMENT URL ...\n");
		return 2;
	}
	statement = argv[2];
	urls = argv + 3;
	nurls = argc - 3;
	for (int i = 0; i < nthreads; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	for (int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	printf("%ld\n", sum);
	return 0;
}

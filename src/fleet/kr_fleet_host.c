/*
 * kr_fleet_host.c
 *	  The hosts that a fleet's targets are on: how many connections each may have,
 *	  who waits for one, and whether it answers at all.
 *
 * A host that has not answered yet gets MAX_SILENCES connections, however many there
 * are to be: so one that is dead takes up little of what others could use. When as
 * many attempts one after the other have had no answer, it is silent: its targets
 * fail at once, with an error that says so, but for one that now and then tries
 * whether it answers again. All that is forgotten at the end of the call.
 *
 * Who waits is an index into the program's targets and nothing else.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "kr_fleet.h"
#include "kr_guc.h"

/* Attempts without an answer after which a host counts as silent. */
#define MAX_SILENCES 2

/* How long nobody tries a silent host. */
#define PROBE_MS 5000

/* Host and port, as the source names them; several are one. */
static void
make_key(const KrSource *source, char *key, Size size)
{
	static const char *const keywords[] = {"host", "hostaddr", "port"};
	int			len = 0;

	memset(key, 0, size);
	for (int k = 0; k < lengthof(keywords); k++)
	{
		for (int i = 0; i < source->noptions && len < size; i++)
		{
			if (strcmp(source->keywords[i], keywords[k]) == 0)
				len += snprintf(key + len, size - len, "%s ", source->values[i]);
		}
	}
}

KrFleetHost *
kr_fleet_find_host(HTAB *hosts, MemoryContext cxt, const KrSource *source)
{
	char		key[sizeof(((KrFleetHost *) NULL)->key)];
	KrFleetHost *host;
	bool		found;

	make_key(source, key, sizeof(key));
	host = hash_search(hosts, key, HASH_ENTER, &found);
	if (!found)
	{
		memset(host, 0, sizeof(*host));
		memcpy(host->key, key, sizeof(key));
		host->cxt = cxt;
		host->looked_up = !kr_dial_needs_look_up(source);
	}
	return host;
}

/* ---------- connections ---------- */

static bool
may_be_probed(const KrFleetHost *host)
{
	return host->prober == NULL && GetCurrentTimestamp() >= host->probe;
}

bool
kr_fleet_host_is_silent(const KrFleetHost *host)
{
	return host->silences >= MAX_SILENCES && !may_be_probed(host);
}

/* One at a time asks for the address of a name that nobody has found yet. */
bool
kr_fleet_host_has_room(const KrFleetHost *host)
{
	int			limit = kr_guc_fleet_connections_per_host;

	if (host->silences >= MAX_SILENCES)
		return may_be_probed(host);
	if (!host->looked_up)
		limit = 1;
	else if (!host->answers)
		limit = Min(limit, MAX_SILENCES);
	return host->active < limit;
}

void
kr_fleet_host_enter(KrFleetHost *host, const KrFleetTarget *target)
{
	host->active++;
	if (host->silences >= MAX_SILENCES)
		host->prober = target;
}

void
kr_fleet_host_answered(KrFleetHost *host)
{
	host->looked_up = host->answers = true;
	host->silences = 0;
}

void
kr_fleet_host_leave(KrFleetHost *host, const KrFleetTarget *target)
{
	host->active--;
	if (target->unanswered)
	{
		host->silences++;
		host->probe = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROBE_MS);
	}
	else
	{
		/* A refusal is an answer. */
		host->answers = true;
		if (target->heard || host->prober == target)
			host->silences = 0;
	}
	if (host->prober == target)
		host->prober = NULL;
}

void
kr_fleet_raise_silent(KrFleetTarget *target)
{
	const char *source = target->source->name;

	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to data source \"%s\"", source),
			 errdetail("It was not tried: on its host, the last %d attempts of this call to connect had no answer in time.",
					   target->host->silences),
			 errhint("kessel.test_data_source('%s') shows to an administrator how far it gets.", source)));
}

/* ---------- the queue ---------- */

bool
kr_fleet_host_has_queue(const KrFleetHost *host)
{
	return host->queue_first < host->queue_end;
}

void
kr_fleet_host_push(KrFleetHost *host, int index)
{
	if (host->queue == NULL)
	{
		host->queue_size = 64;
		host->queue = MemoryContextAlloc(host->cxt, sizeof(int) * host->queue_size);
	}
	else if (host->queue_end == host->queue_size)
	{
		host->queue_size *= 2;
		host->queue = repalloc_huge(host->queue, sizeof(int) * host->queue_size);
	}
	host->queue[host->queue_end++] = index;
}

int
kr_fleet_host_pop(KrFleetHost *host)
{
	int			index = host->queue[host->queue_first++];

	if (host->queue_first == host->queue_end)
		host->queue_first = host->queue_end = 0;
	return index;
}

/*
 * tick.c - what happens by itself, on the server's cron (ten times a second): idle
 * records are deleted, the role is noted, the clock of idle times runs or stands
 * still; and INFO, which counts the same partitions.
 *
 * Partitions are found by name, through the keyspace: a key that was deleted,
 * renamed or swapped away is simply not found and forgotten.  (A renamed one is
 * known again once somebody opens it; until then frames expire it.)
 *
 * Reads are not replicated, so a replica does not know when a record was last
 * used.  Hence the clock: it runs on a primary only.  All that a replica or a
 * loading server takes in gets the time at which the clock stands, and is fresh
 * when the clock starts.
 */
#include "module/module.h"

#include <errno.h>
#include <string.h>

enum {
	TICK_EXPIRE = 1000,    /* Records at a time: about 0.2 ms. */
	TICK_BUDGET_US = 1000, /* 1 % of the time between ticks. */
	TICK_MAX_KEPT = 1024,  /* More names are for frames to expire. */
};

struct kept {
	struct kept *next;
	int db;
	size_t bytes;
	char name[];
};

static struct kept *kept; /* The next one to expire comes first. */
static unsigned int n_kept;
static struct buffer effects;
static struct RedisModuleCtx *info_ctx;

static bool replica;
static bool listeners = true;

static struct {
	bool runs;
	uint64_t stands_at_ms; /* While it does not run. */
	uint64_t behind_ms;    /* Of the machine's, while it runs. */
} idle_clock = { .stands_at_ms = 1 };

uint64_t
tick_ms(uint64_t now_us)
{
	if (!idle_clock.runs)
		return idle_clock.stands_at_ms;
	return now_us / 1000 - idle_clock.behind_ms;
}

static void
clock_run(bool run)
{
	uint64_t now_us = clock_us();

	if (run == idle_clock.runs)
		return;
	if (run)
		idle_clock.behind_ms = now_us / 1000 - idle_clock.stands_at_ms;
	else
		idle_clock.stands_at_ms = tick_ms(now_us);
	idle_clock.runs = run;
}

bool
tick_is_replica(void)
{
	return replica;
}

bool
tick_has_listeners(void)
{
	return listeners;
}

void
tick_keep(int db, const char *name, size_t bytes)
{
	for (struct kept *k = kept; k != NULL; k = k->next)
		if (k->db == db && k->bytes == bytes && memcmp(k->name, name, bytes) == 0)
			return;
	if (n_kept == TICK_MAX_KEPT)
		return;

	struct kept *k = RedisModule_Alloc(sizeof(*k) + bytes);

	k->db = db;
	k->bytes = bytes;
	memcpy(k->name, name, bytes);
	k->next = kept;
	kept = k;
	n_kept++;
}

static struct RedisModuleKey *
kept_open(struct RedisModuleCtx *ctx, const struct kept *k,
	  struct RedisModuleString **name)
{
	struct RedisModuleKey *key = NULL;

	*name = RedisModule_CreateString(NULL, k->name, k->bytes);
	if (RedisModule_SelectDb(ctx, k->db) == SERVER_OK)
		key = RedisModule_OpenKey(ctx, *name, SERVER_READ | SERVER_NOTOUCH);
	return key;
}

static void
kept_close(struct RedisModuleKey *key, struct RedisModuleString *name)
{
	if (key != NULL)
		RedisModule_CloseKey(key);
	RedisModule_FreeString(NULL, name);
}

/* Deletes what is idle in one partition until 'end_us'.  False: it is not there. */
static bool
kept_expire(struct RedisModuleCtx *ctx, const struct kept *k, uint64_t end_us)
{
	struct RedisModuleString *name;
	struct RedisModuleKey *key = kept_open(ctx, k, &name);
	struct partition *p = persist_partition(key);
	uint64_t now_us = clock_us();
	unsigned int n = p == NULL ? 0 : TICK_EXPIRE;

	while (n == TICK_EXPIRE && now_us < end_us) {
		effects.bytes = 0;
		n = partition_expire(p, tick_ms(now_us), TICK_EXPIRE,
				     listeners ? &effects : NULL);
		if (effects.bytes > 0)
			RedisModule_Replicate(ctx, "SNF.EFFECTS", "sb", name,
					      effects.data, effects.bytes);
		now_us = clock_us();
	}
	kept_close(key, name);
	return p != NULL;
}

/* Each partition in turn; those that the time does not allow for are the first of
 * the next tick. */
static void
tick_expire(struct RedisModuleCtx *ctx)
{
	uint64_t end_us = clock_us() + TICK_BUDGET_US;

	for (unsigned int n = n_kept; n > 0 && clock_us() < end_us; n--) {
		struct kept *k = kept, **last = &kept;

		kept = k->next;
		if (!kept_expire(ctx, k, end_us)) {
			RedisModule_Free(k);
			n_kept--;
			continue;
		}
		k->next = NULL;
		while (*last != NULL)
			last = &(*last)->next;
		*last = k;
	}
}

/* Whether there is a replica, or a backlog from which one could catch up. */
static bool
has_replicas(struct RedisModuleCtx *ctx)
{
	struct RedisModuleServerInfoData *info =
		RedisModule_GetServerInfo(ctx, "replication");
	int missing[2];
	long long n = RedisModule_ServerInfoGetFieldSigned(info, "connected_slaves",
							   &missing[0]) |
		      RedisModule_ServerInfoGetFieldSigned(info, "repl_backlog_active",
							   &missing[1]);

	RedisModule_FreeServerInfo(ctx, info);
	return n != 0 || missing[0] != SERVER_OK || missing[1] != SERVER_OK;
}

static void
note_role(int flags)
{
	replica = (flags & SERVER_IS_MASTER) == 0;
	clock_run(!replica &&
		  (flags & (SERVER_IS_LOADING | SERVER_IS_ASYNC_LOADING)) == 0);
}

static void
on_cron(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	int flags = RedisModule_GetContextFlags(ctx);

	(void)event, (void)subevent, (void)data;
	note_role(flags);
	if ((flags & SERVER_HAS_CHILD) == 0)
		listeners = (flags & SERVER_HAS_AOF) != 0 || has_replicas(ctx);
	if (idle_clock.runs && !RedisModule_AvoidReplicaTraffic())
		tick_expire(ctx);
}

static void
on_role(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	(void)event, (void)subevent, (void)data;
	listeners = true;
	note_role(RedisModule_GetContextFlags(ctx));
}

/* A replica that was not there before starts from what a child writes. */
static void
on_fork(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	(void)ctx, (void)event, (void)subevent, (void)data;
	listeners = true;
}

static void
info_sum(struct core_counters *sum, unsigned int *n)
{
	for (const struct kept *k = kept; k != NULL; k = k->next) {
		struct RedisModuleString *name;
		struct RedisModuleKey *key = kept_open(info_ctx, k, &name);
		struct partition *p = persist_partition(key);

		if (p != NULL) {
			struct core_counters c;

			partition_count(p, &c);
			sum->frames += c.frames;
			sum->reads += c.reads;
			sum->hits += c.hits;
			sum->groups += c.groups;
			sum->conflicts += c.conflicts;
			sum->refused += c.refused;
			sum->repeats += c.repeats;
			sum->expired += c.expired;
			sum->records += c.records;
			sum->memory_bytes += c.memory_bytes;
			sum->clients += c.clients;
			(*n)++;
		}
		kept_close(key, name);
	}
}

static void
on_info(struct RedisModuleInfoCtx *info, int for_crash_report)
{
	struct core_counters sum = { 0 };
	unsigned int n_partitions = 0;

	if (for_crash_report)
		return;
	info_sum(&sum, &n_partitions);

	const struct {
		const char *name;
		unsigned long long value;
	} fields[] = {
		{ "partitions", n_partitions },
		{ "records", sum.records },
		{ "memory_bytes", sum.memory_bytes },
		{ "clients", sum.clients },
		{ "frames", sum.frames },
		{ "reads", sum.reads },
		{ "hits", sum.hits },
		{ "groups", sum.groups },
		{ "conflicts", sum.conflicts },
		{ "refused", sum.refused },
		{ "repeats", sum.repeats },
		{ "expired", sum.expired },
	};

	/* The section and its fields get the module's name in front. */
	RedisModule_InfoAddSection(info, "");
	for (unsigned int i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		RedisModule_InfoAddFieldULongLong(info, fields[i].name, fields[i].value);
}

int
tick_load(struct RedisModuleCtx *ctx)
{
	static const struct {
		uint64_t id;
		server_event *call;
	} events[] = {
		{ SERVER_EVENT_CRON, on_cron },
		{ SERVER_EVENT_ROLE, on_role },
		{ SERVER_EVENT_FORK, on_fork },
	};

	/* The clock stays where it is: the server has not loaded its data yet. */
	replica = (RedisModule_GetContextFlags(ctx) & SERVER_IS_MASTER) == 0;
	info_ctx = RedisModule_GetDetachedThreadSafeContext(ctx);
	for (unsigned int i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		struct RedisModuleEvent event = { events[i].id, 1 };

		if (RedisModule_SubscribeToServerEvent(ctx, event, events[i].call) !=
		    SERVER_OK)
			return -ENOSYS;
	}
	return RedisModule_RegisterInfoFunc(ctx, on_info) == SERVER_OK ? 0 : -ENOSYS;
}

/*
 * tick.c - what happens by itself, on the server's cron (ten times a second): idle
 * records are deleted or become due, the role and the replicas are noted, and the
 * clock of idle times runs or stands still.
 *
 * Partitions are found by name, through the keyspace: a key that was deleted or
 * renamed is simply not found and forgotten; its new name is known from the server's
 * event.  (After SWAPDB a partition is known again once somebody opens it; until then
 * frames expire it.)
 *
 * Reads are not replicated, so a replica does not know when a record was last
 * used.  Hence the clock: it runs on a primary only.  All that a replica or a
 * loading server takes in gets the time at which the clock stands, and is fresh
 * when the clock starts.
 *
 * A term is a time in which this process is the primary without a break.  What a
 * client was told in one term is not to be believed in the next: in between, this
 * server may have taken over the state of another.
 */
#include "module/module.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	TICK_EXPIRE = 1000,     /* Records at a time: about 0.2 ms. */
	TICK_BUDGET_US = 1000,  /* 1 % of the time between ticks. */
	TICK_MAX_KEPT = 16384,  /* More names are for frames to expire. */
	TICK_MAX_REPLICAS = 64, /* That are looked at. */
};

struct kept {
	struct kept *next;
	int db;
	size_t bytes;
	char name[];
};

static struct kept *kept, **kept_last = &kept; /* The next one to expire comes first. */
static unsigned int n_kept;
static struct buffer effects;
static struct RedisModuleCtx *own_ctx; /* To look keys up in, from anywhere. */

static uint64_t term;
static unsigned int n_terms;
static unsigned int n_replicas;
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

uint64_t
tick_term(void)
{
	return term;
}

unsigned int
tick_n_terms(void)
{
	return n_terms;
}

unsigned int
tick_n_replicas(void)
{
	return n_replicas;
}

bool
tick_has_listeners(void)
{
	return listeners;
}

/* --- Partitions by name -------------------------------------------------------- */

static void
kept_append(struct kept *k)
{
	k->next = NULL;
	*kept_last = k;
	kept_last = &k->next;
}

static struct kept *
kept_first(void)
{
	struct kept *k = kept;

	kept = k->next;
	if (kept == NULL)
		kept_last = &kept;
	return k;
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
	kept_append(k);
	n_kept++;
}

unsigned int
tick_n_kept(void)
{
	return n_kept;
}

struct partition *
tick_find(int db, const char *name, size_t bytes)
{
	struct RedisModuleString *string = RedisModule_CreateString(NULL, name, bytes);
	struct partition *p = NULL;

	if (RedisModule_SelectDb(own_ctx, db) == SERVER_OK)
		p = persist_find(own_ctx, string, SERVER_READ | SERVER_NOTOUCH, NULL);
	RedisModule_FreeString(NULL, string);
	return p;
}

void
tick_each(void (*call)(const struct partition *, void *context), void *context)
{
	for (const struct kept *k = kept; k != NULL; k = k->next) {
		const struct partition *p = tick_find(k->db, k->name, k->bytes);

		if (p != NULL)
			call(p, context);
	}
}

/* A key has got a value under a name that it did not have. */
static int
on_keyspace(struct RedisModuleCtx *ctx, int type, const char *event,
	    struct RedisModuleString *key)
{
	size_t bytes;
	const char *name = RedisModule_StringPtrLen(key, &bytes);
	int db = RedisModule_GetSelectedDb(ctx);

	(void)type;
	if ((strcmp(event, "rename_to") == 0 || strcmp(event, "move_to") == 0) &&
	    tick_find(db, name, bytes) != NULL)
		tick_keep(db, name, bytes);
	return SERVER_OK;
}

/* --- Expiry -------------------------------------------------------------------- */

/* Expires what is idle in one partition until 'end_us'.  False: it is not there. */
static bool
kept_expire(struct RedisModuleCtx *ctx, const struct kept *k, uint64_t end_us)
{
	struct partition *p = tick_find(k->db, k->name, k->bytes);
	uint64_t now_us = clock_us();
	unsigned int n = TICK_EXPIRE;

	if (p == NULL)
		return false;
	while (n == TICK_EXPIRE && now_us < end_us) {
		effects.bytes = 0;
		n = partition_expire(p, tick_ms(now_us), TICK_EXPIRE,
				     listeners ? &effects : NULL);
		if (effects.bytes > 0 && RedisModule_SelectDb(ctx, k->db) == SERVER_OK)
			RedisModule_Replicate(ctx, "SNF.EFFECTS", "bb", k->name, k->bytes,
					      effects.data, effects.bytes);
		now_us = clock_us();
	}
	return true;
}

/* Each partition in turn; those that the time does not allow for are the first of
 * the next tick. */
static void
tick_expire(struct RedisModuleCtx *ctx)
{
	uint64_t end_us = clock_us() + TICK_BUDGET_US;

	for (unsigned int n = n_kept; n > 0 && clock_us() < end_us; n--) {
		struct kept *k = kept_first();

		if (kept_expire(ctx, k, end_us)) {
			kept_append(k);
		} else {
			RedisModule_Free(k);
			n_kept--;
		}
	}
}

/* --- Role and replicas --------------------------------------------------------- */

/* How many of the replicas follow the stream: one that is still being filled cannot
 * acknowledge anything. */
static unsigned int
count_online(struct RedisModuleServerInfoData *info, long long n_connected)
{
	unsigned int n = 0;

	for (int i = 0; i < n_connected && i < TICK_MAX_REPLICAS; i++) {
		char field[24];

		snprintf(field, sizeof(field), "slave%d", i);
		const char *text = RedisModule_ServerInfoGetFieldC(info, field);

		n += text != NULL && strstr(text, "state=online") != NULL;
	}
	return n;
}

/* Counts the replicas.  Returns whether there is one, or a backlog from which one
 * could catch up. */
static bool
note_replicas(struct RedisModuleCtx *ctx)
{
	struct RedisModuleServerInfoData *info =
		RedisModule_GetServerInfo(ctx, "replication");
	int missing[2];
	long long n_connected = RedisModule_ServerInfoGetFieldSigned(
		info, "connected_slaves", &missing[0]);
	long long backlog = RedisModule_ServerInfoGetFieldSigned(
		info, "repl_backlog_active", &missing[1]);

	n_replicas = missing[0] == SERVER_OK ? count_online(info, n_connected) : 0;
	RedisModule_FreeServerInfo(ctx, info);
	return n_connected != 0 || backlog != 0 || missing[0] != SERVER_OK ||
	       missing[1] != SERVER_OK;
}

static void
note_role(int flags)
{
	bool primary = (flags & SERVER_IS_MASTER) != 0;

	if (primary && term == 0) {
		term = persist_random();
		n_terms++;
	} else if (!primary && term != 0) {
		term = 0;
		due_stale();
	}
	clock_run(primary &&
		  (flags & (SERVER_IS_LOADING | SERVER_IS_ASYNC_LOADING)) == 0);
}

static void
on_cron(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	int flags = RedisModule_GetContextFlags(ctx);
	bool followed = note_replicas(ctx);

	(void)event, (void)subevent, (void)data;
	note_role(flags);
	if ((flags & SERVER_HAS_CHILD) == 0)
		listeners = (flags & SERVER_HAS_AOF) != 0 || followed;
	if (idle_clock.runs && !RedisModule_AvoidReplicaTraffic())
		tick_expire(ctx);
	if (due_n_waiters > 0)
		due_tick();
	info_tick(clock_us());
}

static void
on_role(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	(void)event, (void)subevent, (void)data;
	listeners = true;
	note_role(RedisModule_GetContextFlags(ctx));
}

static void
on_replica(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	   void *data)
{
	(void)event, (void)subevent, (void)data;
	listeners = true;
	note_replicas(ctx);
}

/* A replica that was not there before starts from what a child writes. */
static void
on_fork(struct RedisModuleCtx *ctx, struct RedisModuleEvent event, uint64_t subevent,
	void *data)
{
	(void)ctx, (void)event, (void)subevent, (void)data;
	listeners = true;
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
		{ SERVER_EVENT_REPLICA, on_replica },
		{ SERVER_EVENT_FORK, on_fork },
	};

	/* The clock stays where it is: the server has not loaded its data yet. */
	note_role((RedisModule_GetContextFlags(ctx) & SERVER_IS_MASTER) |
		  SERVER_IS_LOADING);
	own_ctx = RedisModule_GetDetachedThreadSafeContext(ctx);
	for (unsigned int i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		struct RedisModuleEvent event = { events[i].id, 1 };

		if (RedisModule_SubscribeToServerEvent(ctx, event, events[i].call) !=
		    SERVER_OK)
			return -ENOSYS;
	}
	return RedisModule_SubscribeToKeyspaceEvents(ctx, SERVER_GENERIC, on_keyspace) ==
			       SERVER_OK
		       ? 0
		       : -ENOSYS;
}

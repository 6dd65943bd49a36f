/*
 * store_probe.c - counts in a store over the network, while a test does what it likes
 * to the server, and knows at the end whether every count happened once.
 *
 * Each counter is read and then written back one higher, if it is still what was read.
 * Nobody else writes them.  So a counter has the version of the last write that was
 * acknowledged, or of one whose answer never came; anything else, and a conflict
 * without such a write, is an effect that was lost or happened twice.  Counters come in
 * sets, written in one batch; each set has a sum besides, to which every batch adds one
 * without looking.
 *
 *   store_probe URL WRITES TIMEOUT_MS [COMMIT [PARTITIONS]]
 *
 * With COMMIT (a number of replicas, or "auto") only what is final counts as
 * acknowledged.  Prints "lost" and "connected" when that is so, "unknown" with the first
 * write that is not answered in time, the number of writes now and then, "done ..." at the
 * end; exits with 0 if all is well.
 */
#include "store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
	N_SETS = STORE_INFLIGHT,
	SET_COUNTERS = 7,
	MAX_UNKNOWN = 64,
	PRINT_EVERY = 500,
	MAX_FDS = 256,
};

enum { TABLE_COUNTER, TABLE_SUM, N_TABLES };

struct counter {
	uint32_t key;
	uint64_t version, value; /* As acknowledged. */
	uint64_t tried;          /* The version of the write in flight. */
	/* Writes that nobody answered, since the last that is known. */
	uint64_t unknown[MAX_UNKNOWN];
	unsigned int n_unknown;
};

struct set {
	struct counter counter[SET_COUNTERS];
	uint32_t key;			/* Of its sum. */
	uint64_t n_added, n_perhaps;	/* As acknowledged; and those that were not. */
	bool writes, busy;
	bool known; /* Read since read_all() began. */
};

static struct set sets[N_SETS];
static uint64_t next_version;
static unsigned int phase = 1;
static unsigned int n_partitions;
static unsigned long n_applied, n_unknown, n_recovered, n_conflicts, n_waited;

static void
die(const struct counter *c, const char *what)
{
	printf("counter %" PRIu32 ": %s\n", c->key, what);
	exit(1);
}

/* The counter is at 'version' now.  It has to be one that it can be at. */
static void
counter_is(struct counter *c, uint64_t version, uint64_t value)
{
	if (version == c->version) {
		if (value != c->value)
			die(c, "another value under the same version");
		return;
	}
	for (unsigned int i = 0; i < c->n_unknown; i++) {
		if (c->unknown[i] != version)
			continue;
		if (value != c->value + 1)
			die(c, "a write without an answer counted wrongly");
		c->version = version;
		c->value = value;
		c->n_unknown = 0;
		n_recovered++;
		return;
	}
	die(c, "a version that nobody wrote, or that was overwritten");
}

/* Keys are spread over the partitions. */
static struct store_part *
part_of(struct store_batch *batch, uint32_t key)
{
	return &batch->part[key % n_partitions];
}

static void
sum_ask(struct set *s, struct store_batch *batch)
{
	static const int64_t one[3] = { 1, 0, INT64_MAX };
	struct frame *f = &part_of(batch, s->key)->request;
	uint8_t *group;

	if (!s->writes) {
		frame_read(f, TABLE_SUM, &s->key, sizeof(s->key), true);
		return;
	}
	group = frame_group(f, next_version++);
	frame_add(f, TABLE_SUM, &s->key, sizeof(s->key), 1, sizeof(int64_t), 0, 0, one);
	frame_group_end(group, 1);
}

static void
set_ask(struct set *s, struct store_batch *batch)
{
	for (unsigned int i = 0; i < SET_COUNTERS; i++) {
		struct counter *c = &s->counter[i];
		struct frame *f = &part_of(batch, c->key)->request;

		if (!s->writes) {
			frame_read(f, 0, &c->key, sizeof(c->key), true);
			continue;
		}

		uint64_t value = c->value + 1;

		c->tried = next_version++;
		uint8_t *group = frame_group(f, c->tried);

		frame_check(f, FRAME_CHECK, 0, &c->key, sizeof(c->key), c->version);
		frame_put(f, 0, &c->key, sizeof(c->key), 1, &value, sizeof(value), 0, 0);
		frame_group_end(group, 2);
	}
	sum_ask(s, batch);
}

static void
counter_wrote(struct counter *c, int answer)
{
	if (answer == FRAME_APPLIED) {
		c->version = c->tried;
		c->value++;
		c->n_unknown = 0;
		n_applied++;
	} else if (answer == FRAME_CONFLICT && c->n_unknown > 0) {
		n_conflicts++; /* One of them came late. */
	} else {
		die(c, "a conflict, but nobody else writes");
	}
}

static void
sum_answered(struct set *s, struct store_part *part)
{
	struct counter *c = &s->counter[0];
	struct frame_value v = { 0 };
	uint64_t sum = 0;

	if (part->error != 0) {
		s->n_perhaps += s->writes;
		return;
	}
	if (frame_reply_next(&part->reply, &v) != 1)
		die(c, "the sum's answer is missing");
	if (s->writes && v.answer != FRAME_APPLIED)
		die(c, "the sum's addition was refused");
	s->n_added += s->writes;
	if (s->writes)
		return;
	if (v.answer == FRAME_HIT && v.value_bytes == sizeof(sum))
		memcpy(&sum, v.value, sizeof(sum));
	if (sum < s->n_added || sum > s->n_added + s->n_perhaps)
		die(c, "an addition was lost, or counted twice");
}

static void
set_answered(struct set *s, struct store_batch *batch)
{
	bool whole = true;

	for (unsigned int i = 0; i < n_partitions; i++)
		whole &= batch->part[i].error == 0;
	for (unsigned int i = 0; i < SET_COUNTERS; i++) {
		struct counter *c = &s->counter[i];
		struct store_part *part = part_of(batch, c->key);
		struct frame_value v = { 0 };
		uint64_t value = 0;

		if (part->error != 0) {
			if (!s->writes)
				continue;
			if (c->n_unknown == MAX_UNKNOWN)
				die(c, "too many writes without an answer");
			c->unknown[c->n_unknown++] = c->tried;
			if (n_unknown++ == 0)
				printf("unknown\n");
			continue;
		}
		if (frame_reply_next(&part->reply, &v) != 1)
			die(c, "an answer is missing");
		if (s->writes) {
			counter_wrote(c, v.answer);
			continue;
		}
		if (v.answer == FRAME_HIT && v.value_bytes == sizeof(value))
			memcpy(&value, v.value, sizeof(value));
		counter_is(c, v.version, value);
	}
	sum_answered(s, part_of(batch, s->key));
	/* Some are read twice, so that reads and writes are in flight at once. */
	s->known = whole && !s->writes;
	s->writes = s->known && ++phase % 5 != 0;
	s->busy = false;
}

static void
submit_all(struct store *store, bool last)
{
	for (unsigned int i = 0; i < N_SETS; i++) {
		struct set *s = &sets[i];

		/* At the end each set is read once more. */
		if (s->busy || (last && s->known))
			continue;

		struct store_batch *batch = store->ops->batch(store);

		if (batch == NULL)
			return;
		if (last)
			s->writes = false;
		set_ask(s, batch);
		batch->owner = s;
		if (store->ops->submit(store, batch) != 0) {
			store->ops->free(store, batch);
			return;
		}
		s->busy = true;
	}
}

static void
print_health(const struct store *store)
{
	static bool lost;
	enum store_health health = store->ops->health(store);

	if (lost ? health == STORE_CONNECTED : health == STORE_LOST) {
		lost = !lost;
		printf("%s\n", lost ? "lost" : "connected");
	}
}

static void
wait_for(struct store *store)
{
	int fd[MAX_FDS], wait_ms;
	unsigned int n = store->ops->wait_fds(store, fd, MAX_FDS, &wait_ms);
	struct pollfd p[MAX_FDS];

	for (unsigned int i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	poll(p, n, wait_ms < 0 || wait_ms > 1000 ? 1000 : wait_ms);
}

static void
turn(struct store *store)
{
	struct store_batch *done[STORE_INFLIGHT];
	unsigned int n = store->ops->poll(store, done, STORE_INFLIGHT);
	unsigned long before = n_applied / PRINT_EVERY;

	for (unsigned int i = 0; i < n; i++) {
		if (!done[i]->final) {
			n_waited++;
			continue;
		}
		set_answered(done[i]->owner, done[i]);
		store->ops->free(store, done[i]);
	}
	print_health(store);
	if (n_applied / PRINT_EVERY != before)
		printf("%lu\n", n_applied);
	if (n == 0)
		wait_for(store);
}

/* Reads every counter, answered, after the last write. */
static void
read_all(struct store *store)
{
	for (unsigned int i = 0; i < N_SETS; i++) {
		while (sets[i].busy)
			turn(store);
		sets[i].writes = sets[i].known = false;
	}
	for (bool all = false; !all;) {
		submit_all(store, true);
		turn(store);
		all = true;
		for (unsigned int i = 0; i < N_SETS; i++)
			all &= sets[i].known && !sets[i].busy;
	}
}

static struct store *
open_store(char **argv, int argc)
{
	const char *commit = argc > 4 ? argv[4] : "0";
	struct store_table tables[N_TABLES] = {
		{ .name = "probe.counter", .key_max = sizeof(uint32_t),
		  .value_max = sizeof(uint64_t), .format = 1 },
		{ .name = "probe.sum", .key_max = sizeof(uint32_t),
		  .value_max = sizeof(uint64_t), .format = 1 },
	};
	struct store_options options = {
		.url = argv[1],
		.timeout_ms = (unsigned int)atoi(argv[3]),
		.n_partitions = argc > 5 ? (unsigned int)atoi(argv[5]) : 0,
	};
	struct store *store;
	char why[400];

	for (unsigned int i = 0; i < N_TABLES; i++)
		tables[i].commit = strcmp(commit, "auto") == 0 ? STORE_COMMIT_AUTO
							       : (uint8_t)atoi(commit);
	if (store_open(&options, tables, N_TABLES, &store, why, sizeof(why)) != 0) {
		printf("%s\n", why);
		exit(1);
	}
	n_partitions = store->n_partitions;
	return store;
}

int
main(int argc, char **argv)
{
	struct store *store;

	if (argc < 4 || argc > 6) {
		fprintf(stderr,
			"usage: store_probe URL WRITES TIMEOUT_MS "
			"[COMMIT [PARTITIONS]]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	store = open_store(argv, argc);
	if (getrandom(&next_version, sizeof(next_version), 0) < 0)
		return 1;
	next_version = next_version >> 8 | 1;
	for (uint32_t i = 0; i < N_SETS * SET_COUNTERS; i++) {
		sets[i / SET_COUNTERS].counter[i % SET_COUNTERS].key = i;
		sets[i / SET_COUNTERS].key = i / SET_COUNTERS;
	}
	while (n_applied < strtoul(argv[2], NULL, 10)) {
		submit_all(store, false);
		turn(store);
	}
	read_all(store);
	printf("done applied=%lu unknown=%lu recovered=%lu conflicts=%lu waited=%lu\n",
	       n_applied, n_unknown, n_recovered, n_conflicts, n_waited);
	store->ops->close(store);
	return 0;
}

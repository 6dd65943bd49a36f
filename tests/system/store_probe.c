/*
 * store_probe.c - counts in a store over the network, while a test does what it likes
 * to the server, and knows at the end whether every count happened once.
 *
 * Each counter is read and then written back one higher, if it is still what was read.
 * Nobody else writes them.  So a counter has the version of the last write that was
 * acknowledged, or of one whose answer never came; anything else, and a conflict
 * without such a write, is an effect that was lost or happened twice.
 *
 *   store_probe URL WRITES TIMEOUT_MS
 *
 * Prints "lost" and "connected" when that is so, the number of writes now and then,
 * "done ..." at the end; exits with 0 if all is well.
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
	SET_COUNTERS = 8,
	MAX_UNKNOWN = 64,
	PRINT_EVERY = 500,
};

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
	bool writes, busy;
	bool known; /* Read since read_all() began. */
};

static struct set sets[N_SETS];
static uint64_t next_version;
static unsigned int phase = 1;
static unsigned long n_applied, n_unknown, n_recovered, n_conflicts;

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

static void
set_ask(struct set *s, struct frame *f)
{
	for (unsigned int i = 0; i < SET_COUNTERS; i++) {
		struct counter *c = &s->counter[i];

		if (!s->writes) {
			frame_read(f, 0, &c->key, sizeof(c->key), true);
			continue;
		}

		uint64_t value = c->value + 1;

		c->tried = next_version++;
		uint8_t *group = frame_group(f, c->tried);

		frame_check(f, 0, &c->key, sizeof(c->key), c->version);
		frame_put(f, 0, &c->key, sizeof(c->key), 1, &value, sizeof(value), 0);
		frame_group_end(group, 2);
	}
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
set_answered(struct set *s, struct store_batch *batch)
{
	for (unsigned int i = 0; i < SET_COUNTERS; i++) {
		struct counter *c = &s->counter[i];
		struct frame_value v = { 0 };
		uint64_t value = 0;

		if (batch->error != 0) {
			if (!s->writes)
				continue;
			if (c->n_unknown == MAX_UNKNOWN)
				die(c, "too many writes without an answer");
			c->unknown[c->n_unknown++] = c->tried;
			n_unknown++;
			continue;
		}
		if (frame_reply_next(&batch->reply, &v) != 1)
			die(c, "an answer is missing");
		if (s->writes) {
			counter_wrote(c, v.answer);
			continue;
		}
		if (v.answer == FRAME_HIT && v.value_bytes == sizeof(value))
			memcpy(&value, v.value, sizeof(value));
		counter_is(c, v.version, value);
	}
	/* Some are read twice, so that reads and writes are in flight at once. */
	s->known = batch->error == 0 && !s->writes;
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
		set_ask(s, &batch->request);
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
turn(struct store *store)
{
	struct store_batch *done[STORE_INFLIGHT];
	unsigned int n = store->ops->poll(store, done, STORE_INFLIGHT);
	unsigned long before = n_applied / PRINT_EVERY;

	for (unsigned int i = 0; i < n; i++) {
		set_answered(done[i]->owner, done[i]);
		store->ops->free(store, done[i]);
	}
	print_health(store);
	if (n_applied / PRINT_EVERY != before)
		printf("%lu\n", n_applied);
	if (n == 0) {
		int wait_ms;
		struct pollfd p = { .fd = store->ops->wait_fd(store, &wait_ms),
				    .events = POLLIN };

		poll(&p, 1, wait_ms < 0 || wait_ms > 100 ? 100 : wait_ms);
	}
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

int
main(int argc, char **argv)
{
	static const struct store_table tables[] = {
		{ "probe.counter", sizeof(uint32_t), sizeof(uint64_t), 1 },
	};
	struct store *store;
	char why[300];

	if (argc != 4) {
		fprintf(stderr, "usage: store_probe URL WRITES TIMEOUT_MS\n");
		return 2;
	}

	struct store_options options = { .url = argv[1],
					 .timeout_ms = (unsigned int)atoi(argv[3]) };

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (store_open(&options, tables, 1, &store, why, sizeof(why)) != 0) {
		printf("%s\n", why);
		return 1;
	}
	if (getrandom(&next_version, sizeof(next_version), 0) < 0)
		return 1;
	next_version = next_version >> 8 | 1;
	for (uint32_t i = 0; i < N_SETS * SET_COUNTERS; i++)
		sets[i / SET_COUNTERS].counter[i % SET_COUNTERS].key = i;
	while (n_applied < strtoul(argv[2], NULL, 10)) {
		submit_all(store, false);
		turn(store);
	}
	read_all(store);
	printf("done applied=%lu unknown=%lu recovered=%lu conflicts=%lu\n", n_applied,
	       n_unknown, n_recovered, n_conflicts);
	store->ops->close(store);
	return 0;
}

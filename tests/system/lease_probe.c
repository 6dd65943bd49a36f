/*
 * lease_probe.c - takes the leases that a store gives, and settles each together with one
 * more in a count that belongs to the record, so that a test can see how often it fired.
 *
 *   lease_probe URL RECORDS IDLE_MS TIMEOUT_MS settle|hold [COMMIT]
 *
 * Writes so many records first, keys 0 and on, with that idle time; prints "written",
 * then "leased KEY" and "settled KEY" (or "lost KEY": its lease had ended) until it is
 * killed.  One that holds settles nothing.  It sleeps while there is nothing to do.
 */
#include "store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { TABLE_RECORD, TABLE_FIRED, N_TABLES };

enum { MAX_FDS = 256 };

static uint64_t next_version;
static unsigned int n_out;			/* Batches that are not final. */

/* Puts a record whose time is going to pass. */
static void
record_put(struct store *store, uint32_t key, uint32_t idle_ms)
{
	struct store_batch *b = store->ops->batch(store), *done;
	struct frame *f = &b->part[key % store->n_partitions].request;
	uint8_t *group = frame_group(f, next_version++);

	frame_put(f, TABLE_RECORD, &key, sizeof(key), 1, &key, sizeof(key), 0, idle_ms);
	frame_group_end(group, 1);
	if (store->ops->submit(store, b) != 0)
		exit(1);
	do {
		while (store->ops->poll(store, &done, 1) == 0)
			;
	} while (!done->final);
	if (b->part[key % store->n_partitions].error != 0)
		exit(1);
	store->ops->free(store, b);
}

/* Takes as many leases as can be settled at once. */
static void
leases_take(struct store *store, bool hold)
{
	static const int64_t one[3] = { 1, 0, INT64_MAX };
	struct store_lease lease[STORE_INFLIGHT];
	unsigned int n = store->ops->due(store, lease, STORE_INFLIGHT - n_out);

	for (unsigned int i = 0; i < n; i++) {
		struct store_batch *b = hold ? NULL : store->ops->batch(store);
		uint32_t key;

		memcpy(&key, lease[i].record.key, sizeof(key));
		printf("leased %" PRIu32 "\n", key);
		if (b == NULL)
			continue;

		struct frame *f = &b->part[lease[i].partition].request;
		uint8_t *group = frame_group(f, next_version++);

		frame_check(f, FRAME_SETTLE, lease[i].record.table, &key, sizeof(key),
			    lease[i].record.version);
		frame_add(f, TABLE_FIRED, &key, sizeof(key), 1, sizeof(int64_t), 0, 0,
			  one);
		frame_group_end(group, 2);
		b->owner = (void *)(uintptr_t)key;
		/* One that cannot go out now is leased again. */
		if (store->ops->submit(store, b) == 0)
			n_out++;
		else
			store->ops->free(store, b);
	}
}

static bool
settled(struct store *store)
{
	struct store_batch *done;
	struct frame_value v = { 0 };
	unsigned int key;

	if (store->ops->poll(store, &done, 1) == 0)
		return false;
	if (!done->final)
		return true;
	key = (unsigned int)(uintptr_t)done->owner;

	struct store_part *part = &done->part[key % store->n_partitions];

	if (part->error == 0 && frame_reply_next(&part->reply, &v) == 1)
		printf("%s %u\n", v.answer == FRAME_APPLIED ? "settled" : "lost", key);
	store->ops->free(store, done);
	n_out--;
	return true;
}

static void
wait_for(struct store *store)
{
	int fd[MAX_FDS], wait_ms;
	unsigned int n = store->ops->wait_fds(store, fd, MAX_FDS, &wait_ms);
	struct pollfd p[MAX_FDS];

	for (unsigned int i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	poll(p, n, wait_ms);
}

int
main(int argc, char **argv)
{
	struct store_table tables[N_TABLES] = {
		{ .name = "probe.record", .key_max = 4, .value_max = 8, .format = 1,
		  .leased = true },
		{ .name = "probe.fired", .key_max = 4, .value_max = 8, .format = 1 },
	};
	struct store_options options = { .n_partitions = 2 };
	struct store *store;
	char why[400];

	if (argc < 6 || argc > 7) {
		fprintf(stderr, "usage: lease_probe URL RECORDS IDLE_MS TIMEOUT_MS "
				"settle|hold [COMMIT]\n");
		return 2;
	}
	options.url = argv[1];
	options.timeout_ms = (unsigned int)atoi(argv[4]);
	for (unsigned int i = 0; i < N_TABLES && argc == 7; i++)
		tables[i].commit = (uint8_t)atoi(argv[6]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (store_open(&options, tables, N_TABLES, &store, why, sizeof(why)) != 0) {
		printf("%s\n", why);
		return 1;
	}
	if (getrandom(&next_version, sizeof(next_version), 0) < 0)
		return 1;
	next_version = next_version >> 8 | 1;
	for (int i = 0; i < atoi(argv[2]); i++)
		record_put(store, (uint32_t)i, (uint32_t)atoi(argv[3]));
	printf("written\n");
	for (;;) {
		leases_take(store, strcmp(argv[5], "hold") == 0);
		if (!settled(store))
			wait_for(store);
	}
}

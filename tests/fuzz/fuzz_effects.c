/*
 * fuzz_effects.c - any bytes as a saved partition: as its first piece up to the first
 * half, and as effects from there on.  What came of it can be saved, and loads as the
 * same number of records and clients, what expires in it is deleted or due, and a walk
 * through it meets every record that is left.
 */
#include <assert.h>
#include <stdlib.h>

#include "store/partition.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static const uint64_t seed[2] = { 5, 6 };

static int
load(void *context, const void *piece, size_t bytes)
{
	struct partition **p = context;

	if (*p == NULL)
		return partition_load(piece, bytes, seed, p);
	return partition_replay(*p, piece, bytes, 1000);
}

static void
expect_saves_the_same(const struct partition *p)
{
	struct core_counters before, after;
	struct partition *copy = NULL;
	int err = partition_save(p, load, &copy);

	assert(err == 0);
	partition_count(p, &before);
	partition_count(copy, &after);
	assert(before.records == after.records && before.clients == after.clients);
	partition_free(copy);
}

/* What is left is for ever, or due in a table that is leased. */
static void
expect_all_expire(struct partition *p)
{
	const uint64_t never = (uint64_t)UINT32_MAX + 3600 * 1000 + 10000;
	unsigned int n_tables;
	struct core_counters count;
	const struct core_table *table = partition_tables(p, &n_tables);
	uint64_t n = 0, n_due = 0;

	while (partition_expire(p, never, 7, NULL) == 7)
		;
	partition_count(p, &count);
	for (unsigned int i = 0; i < n_tables; i++)
		n += table[i].n_records;
	assert(count.records == n && count.clients == 0);
	for (record_id id = slots_next(&p->table.slots, 0); id != 0;
	     id = slots_next(&p->table.slots, id)) {
		const struct record *r = table_record(&p->table, id);

		assert(r->idle == 0 || (table[r->table].flags & CORE_LEASED) != 0);
		n_due += r->idle != 0;
	}
	assert(count.due == n_due && (partition_due_tables(p) != 0) == (n_due > 0));
}

static void
expect_a_walk(struct partition *p)
{
	struct buffer out = { 0 };
	unsigned int n_tables, n = 0;
	const struct core_table *table = partition_tables(p, &n_tables);

	for (unsigned int i = 0; i < n_tables; i++) {
		uint64_t cursor = 0;

		do {
			struct frame_lease record;
			struct frame_cursor c;

			out.bytes = 0;
			if (partition_scan(p, 0, i, 5, &cursor, &out) != 0)
				abort();
			for (c.at = out.data, c.end = out.data + out.bytes; c.at < c.end;
			     n++) {
				c.at += 8;
				if (frame_lease_next(&c, &record) != 1)
					abort();
			}
		} while (cursor != 0);
		assert(n >= table[i].n_records);
		n -= (unsigned int)table[i].n_records;
		assert(n == 0);
	}
	buffer_fini(&out);
}

/* A frame that picks, takes and gives back whatever is there as a range: none of it may
 * trip over what was put in its place. */
static void
use_ranges(struct partition *p)
{
	struct buffer reply = { 0 };
	uint64_t room[64];
	struct frame f;
	uint8_t *group;

	frame_init(&f, room, sizeof(room));
	frame_pick(&f, 0, "k", 1, 100);
	group = frame_group(&f, 9);
	frame_take(&f, 0, "k", 1, 1, 100, 77);
	frame_group_end(group, 1);
	group = frame_group(&f, 10);
	frame_give(&f, 0, "k", 1, 500, 77);
	frame_give(&f, 0, "k", 1, 0, 5);
	frame_group_end(group, 2);
	frame_finish(&f, partition_generation(p), 2, UINT64_MAX, UINT64_MAX);
	partition_apply(p, room, (size_t)(f.at - f.start), 2, 1000, false, &reply, NULL);
	buffer_fini(&reply);
}

/* The parts lie in memory of just their size. */
static int
replay(struct partition *p, const uint8_t *effects, size_t bytes)
{
	uint8_t *copy = malloc(bytes + (bytes == 0));
	int err;

	memcpy(copy, effects, bytes);
	err = partition_replay(p, copy, bytes, 1000);
	free(copy);
	return err;
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	/* Two tables: "a", which is leased, and "b". */
	static const uint8_t start[] = {
		'S', 'N', 'F', 'P', 2,	 0, 0, 0,    7, 0, 0, 0, 0, 0, 0, 0,
		1,   0,	  0,   0,   0,	 0, 0, 0,    4, 1, 1, 1, 64, 0, 0, 8,
		0,   0,	  0,   0,   0,	 0, 0, 0,    'a', 4, 1, 1, 0, 64, 0, 0,
		8,   0,	  0,   0,   0,	 0, 0, 0,    0, 'b',
	};
	struct partition *p = NULL;
	size_t half = bytes / 2;

	if (half >= 1 && input[0] == 'S') {
		if (partition_load(input, half, seed, &p) != 0)
			return 0;
	} else {
		half = 0;
		if (partition_load(start, sizeof(start), seed, &p) != 0)
			abort();
	}
	replay(p, input + half, bytes - half);
	use_ranges(p);
	expect_saves_the_same(p);
	expect_all_expire(p);
	expect_a_walk(p);
	partition_free(p);
	return 0;
}

/*
 * fuzz_effects.c - any bytes as a saved partition: as its first piece up to the first
 * half, and as effects from there on.  What came of it can be saved, and loads as the
 * same number of records and clients, and what expires in it is deleted.
 */
#include <assert.h>
#include <stdlib.h>

#include "store/core.h"

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

static void
expect_all_expire(struct partition *p)
{
	const uint64_t never = (uint64_t)UINT32_MAX + 3600 * 1000 + 10000;
	unsigned int n_tables;
	struct core_counters count;
	const struct core_table *table = partition_tables(p, &n_tables);
	uint64_t n = 0;

	while (partition_expire(p, never, 7, NULL) == 7)
		;
	partition_count(p, &count);
	for (unsigned int i = 0; i < n_tables; i++)
		n += table[i].n_records;
	assert(count.records == n && count.clients == 0);
	for (record_id id = slots_next(&p->table.slots, 0); id != 0;
	     id = slots_next(&p->table.slots, id))
		assert(table_record(&p->table, id)->idle == 0);
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
	static const uint8_t start[] = { 'S', 'N', 'F', 'P', 1, 0, 0, 0, 7, 0, 0, 0, 0, 0,
					 0, 0, 4, 1, 1, 0, 64, 0, 0, 8, 'a', 4, 1, 1, 0,
					 4, 0, 16, 0, 'b' };
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
	expect_saves_the_same(p);
	expect_all_expire(p);
	partition_free(p);
	return 0;
}

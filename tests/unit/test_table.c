/*
 * test_table.c - the index and the memory of records against a plain array of what
 * should be there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_memory.h"
#include "test_random.h"

static const uint64_t seed[2] = { 11, 12 };

enum { MODEL_KEYS = 30000 };

/* Key i is its number, as many times as fit its length. */
struct model {
	record_id id[MODEL_KEYS];		/* 0: absent. */
	uint16_t value_bytes[MODEL_KEYS];
	uint64_t n;
};

static struct table_probe
probe_of(const struct table *t, uint32_t i, uint8_t *key)
{
	struct table_probe probe = {
		.key = key,
		.table = (uint8_t)(i % 3),
		.key_bytes = (uint8_t)(4 + i % 61),
	};

	for (unsigned int at = 0; at < probe.key_bytes; at++)
		key[at] = (uint8_t)(i >> at % 4 * 8);
	table_probe(t, &probe, 1);
	return probe;
}

static void
insert(struct table *t, struct model *m, uint32_t i, uint16_t value_bytes)
{
	struct table_room room = { 0 };
	uint8_t key[FRAME_MAX_KEY];
	struct table_probe probe = probe_of(t, i, key);

	assert_int_equal(table_reserve(t, &room, 0, probe.key_bytes, value_bytes), 0);
	m->id[i] = table_insert(t, &probe, value_bytes);
	m->value_bytes[i] = value_bytes;
	m->n++;
	struct record *r = table_record(t, m->id[i]);
	r->version = i + 1;
	memset(record_value(r), (int)i, value_bytes);
}

static void
rewrite(struct table *t, struct model *m, uint32_t i, uint16_t value_bytes)
{
	struct table_room room = { 0 };
	uint8_t key[FRAME_MAX_KEY];
	struct table_probe probe = probe_of(t, i, key);

	assert_int_equal(
		table_reserve(t, &room, m->id[i], probe.key_bytes, value_bytes), 0);
	if (slots_class(&t->slots, probe.key_bytes, value_bytes) !=
	    slots_class(&t->slots, probe.key_bytes, m->value_bytes[i]))
		m->id[i] = table_move(t, &probe, m->id[i], value_bytes);
	m->value_bytes[i] = value_bytes;
	struct record *r = table_record(t, m->id[i]);
	r->value_bytes = value_bytes;
	memset(record_value(r), (int)i, value_bytes);
}

static void
remove_key(struct table *t, struct model *m, uint32_t i)
{
	uint8_t key[FRAME_MAX_KEY];
	struct table_probe probe = probe_of(t, i, key);

	table_remove(t, &probe, m->id[i]);
	m->id[i] = 0;
	m->n--;
}

static void
expect_model(const struct table *t, const struct model *m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < MODEL_KEYS; i++) {
		uint8_t key[FRAME_MAX_KEY];
		struct table_probe probe = probe_of(t, i, key);

		assert_int_equal(table_find(t, &probe), m->id[i]);
		assert_int_equal(table_get(t, &probe), m->id[i]);
		if (m->id[i] == 0)
			continue;
		struct record *r = table_record(t, m->id[i]);
		assert_int_equal(r->version, i + 1);
		assert_int_equal(r->value_bytes, m->value_bytes[i]);
		for (unsigned int at = 0; at < r->value_bytes; at++)
			assert_int_equal(record_value(r)[at], (uint8_t)i);
	}
	for (record_id id = slots_next(&t->slots, 0); id != 0;
	     id = slots_next(&t->slots, id)) {
		assert_int_equal(m->id[table_record(t, id)->version - 1], id);
		n++;
	}
	assert_int_equal(n, m->n);
	assert_int_equal(t->n_records, m->n);
}

static void
random_changes_match_the_model(void **state)
{
	static struct model m;
	struct test_random r = test_random_init(__func__);
	struct table t;

	(void)state;
	test_memory_init();
	memset(&m, 0, sizeof(m));
	assert_int_equal(table_init(&t, seed), 0);
	for (unsigned int phase = 0; phase < 6; phase++) {
		/* Phases that mostly grow, and then mostly shrink. */
		uint32_t grows = phase % 2 == 0 ? 90 : 20;

		for (unsigned int n = 0; n < 30000; n++) {
			uint32_t i = test_random_below(&r, MODEL_KEYS);
			bool big = test_random_below(&r, 50) == 0;
			uint16_t bytes = (uint16_t)test_random_below(
				&r, big ? FRAME_MAX_VALUE + 1 : 64);

			if (m.id[i] == 0)
				insert(&t, &m, i, bytes);
			else if (test_random_below(&r, 100) < grows)
				rewrite(&t, &m, i, bytes);
			else
				remove_key(&t, &m, i);
		}
		expect_model(&t, &m);
		assert_int_equal(t.memory_bytes + t.slots.memory_bytes,
				 test_memory.n_bytes);
	}
	table_fini(&t);
	assert_int_equal(test_memory.n_bytes, 0);
}

static void
a_probe_made_before_a_change_still_finds(void **state)
{
	static struct model m;
	uint8_t key[3][FRAME_MAX_KEY];
	struct table_probe probe[3];
	struct table t;

	(void)state;
	memset(&m, 0, sizeof(m));
	test_memory_init();
	assert_int_equal(table_init(&t, seed), 0);
	insert(&t, &m, 1, 8);
	for (uint32_t i = 0; i < 3; i++)
		probe[i] = probe_of(&t, i, key[i]);
	insert(&t, &m, 0, 8);
	rewrite(&t, &m, 1, 200);
	assert_int_equal(table_get(&t, &probe[0]), m.id[0]);
	assert_int_equal(table_get(&t, &probe[1]), m.id[1]);
	assert_int_equal(table_get(&t, &probe[2]), 0);
	remove_key(&t, &m, 1);
	insert(&t, &m, 2, 200);			/* In the slot that 1 had. */
	assert_int_equal(table_get(&t, &probe[1]), 0);
	assert_int_equal(table_get(&t, &probe[2]), m.id[2]);
	table_fini(&t);
}

/* Also when a chunk is made while the one before has slots left. */
static void
every_slot_is_taken_once(void **state)
{
	enum { N = 5000 };
	struct test_random r = test_random_init(__func__);
	struct slots s;
	unsigned int n_taken = 0, n_found = 0;

	(void)state;
	test_memory_init();
	assert_int_equal(slots_init(&s), 0);
	while (n_taken < N) {
		uint8_t class = (uint8_t)test_random_below(&r, s.n_classes);
		uint32_t n = 1 + test_random_below(&r, FRAME_MAX_GROUP_OPS);

		assert_int_equal(slots_reserve(&s, class, n), 0);
		for (; n > 0; n--) {
			struct record *made = slots_record(&s, slots_take(&s, class));

			memset(made, 0, s.classes[class].slot_bytes);
			made->version = ++n_taken;
		}
	}
	for (record_id id = slots_next(&s, 0); id != 0; id = slots_next(&s, id)) {
		assert_in_range(slots_record(&s, id)->version, 1, n_taken);
		n_found++;
	}
	assert_int_equal(n_found, n_taken);
	slots_fini(&s);
	assert_int_equal(test_memory.n_bytes, 0);
}

static void
a_million_records_are_found(void **state)
{
	enum { N = 1000000 };
	struct table t;
	uint32_t longest = 0;

	(void)state;
	test_memory_init();
	assert_int_equal(table_init(&t, seed), 0);
	for (uint64_t i = 0; i < 2 * N; i++) {
		uint64_t key[2] = { i % N, 5 };
		struct table_probe probe = { .key = (uint8_t *)key, .key_bytes = 16 };
		struct table_room room = { 0 };

		table_probe(&t, &probe, 1);
		record_id id = table_get(&t, &probe);
		if (i < N) {
			assert_int_equal(id, 0);
			assert_int_equal(table_reserve(&t, &room, 0, 16, 8), 0);
			id = table_insert(&t, &probe, 8);
			table_record(&t, id)->version = i + 1;
		}
		assert_int_equal(table_record(&t, id)->version, i % N + 1);
	}
	/* The load of the index: no bucket drags a long chain. */
	for (uint32_t i = 0; i < t.n_buckets; i++) {
		const struct table_bucket *b = &t.segments[i >> 12][i & 4095];
		uint32_t n = 1;

		for (; b->overflow != 0; n++)
			b = &t.spill[b->overflow >> 8][b->overflow & 255];
		longest = n > longest ? n : longest;
	}
	assert_in_range(t.n_buckets, N / 7, N / 5);
	assert_in_range(longest, 1, 4);
	/* 64 bytes for the record, the rest is the index and the newest chunk. */
	assert_in_range(t.memory_bytes + t.slots.memory_bytes, 64 * N, 80 * N);
	table_fini(&t);
	assert_int_equal(test_memory.n_bytes, 0);
}

static void
without_memory_nothing_is_lost(void **state)
{
	static struct model m;
	struct table t;
	uint32_t i = 0;

	(void)state;
	memset(&m, 0, sizeof(m));
	test_memory_init();
	for (unsigned int n = 0; n < 2; n++) {
		test_memory_fail_after(n);
		assert_int_equal(table_init(&t, seed), -ENOMEM);
		assert_int_equal(test_memory.n_bytes, 0);
	}
	test_memory_recover();
	assert_int_equal(table_init(&t, seed), 0);
	for (; i < MODEL_KEYS; i++) {
		struct table_room room = { 0 };

		test_memory_fail_after(0);
		if (table_reserve(&t, &room, 0, (uint8_t)(4 + i % 61),
				  (uint16_t)(i % 1500)) != 0)
			test_memory_recover();
		insert(&t, &m, i, (uint16_t)(i % 1500));
		test_memory_recover();
	}
	expect_model(&t, &m);
	table_fini(&t);
	assert_int_equal(test_memory.n_bytes, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes_match_the_model),
		cmocka_unit_test(a_probe_made_before_a_change_still_finds),
		cmocka_unit_test(every_slot_is_taken_once),
		cmocka_unit_test(a_million_records_are_found),
		cmocka_unit_test(without_memory_nothing_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

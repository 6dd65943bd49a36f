/*
 * test_limits.c - tables with a limit: what is refused when they are full, and what is
 * evicted.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "test_partition.h"

enum { PLAIN = 0, REFUSES = 1, EVICTS = 2, LIMIT = 4 };

static uint64_t version;

static int
setup(void **state)
{
	if (test_setup(state) != 0)
		return -1;
	return test_declare(t.partition, "refuses", 0, LIMIT) == REFUSES &&
			       test_declare(t.partition, "evicts", CORE_EVICT, LIMIT) ==
				       EVICTS
		       ? 0
		       : -1;
}

static void
put(uint8_t id, const char *key, uint8_t rank, uint32_t idle_ms, enum frame_answer want)
{
	test_group(&t.frame, ++version);
	test_put_ranked(&t.frame, id, key, "value", rank, idle_ms);
	expect_group(want);
}

/* Which of the keys a to z are there. */
static void
expect_keys(uint8_t id, const char *want)
{
	char there[27] = "", key[2] = "a";
	struct frame_value v = { 0 };

	for (; key[0] <= 'z'; key[0]++)
		test_peek(&t.frame, id, key);
	apply();
	for (key[0] = 'a'; key[0] <= 'z'; key[0]++) {
		assert_int_equal(frame_reply_next(&t.answers, &v), 1);
		if (v.answer == FRAME_HIT)
			strcat(there, key);
	}
	assert_string_equal(there, want);
}

static void
fill(uint8_t id, uint8_t rank, uint32_t idle_ms)
{
	put(id, "a", rank, idle_ms, FRAME_APPLIED);
	put(id, "b", rank, idle_ms, FRAME_APPLIED);
	put(id, "c", rank, idle_ms, FRAME_APPLIED);
	put(id, "d", rank, idle_ms, FRAME_APPLIED);
}

static void
a_full_table_refuses_what_is_new(void **state)
{
	(void)state;
	fill(REFUSES, 0, 1000);
	put(REFUSES, "e", 0, 1000, FRAME_FULL);
	put(REFUSES, "a", 0, 1000, FRAME_APPLIED);
	put(PLAIN, "e", 0, 1000, FRAME_APPLIED);
	expect_keys(REFUSES, "abcd");
	assert_int_equal(counters().full, 1);
	assert_int_equal(table(REFUSES)->n_full, 1);
	test_group(&t.frame, ++version);
	test_add(&t.frame, REFUSES, "e", 0, 1, 0, 1);
	expect_group(FRAME_FULL);
	test_group(&t.frame, ++version);
	test_take(&t.frame, REFUSES, "e", 10, 1);
	test_put(&t.frame, PLAIN, "f", "value", 0);
	expect_group(FRAME_FULL);
	expect_keys(PLAIN, "e");
	pass(1200);
	put(REFUSES, "e", 0, 1000, FRAME_APPLIED);
}

static void
what_counts_is_what_a_group_leaves(void **state)
{
	(void)state;
	fill(REFUSES, 0, 0);
	test_group(&t.frame, ++version);
	test_put(&t.frame, REFUSES, "e", "one for another", 0);
	test_delete(&t.frame, REFUSES, "a");
	expect_group(FRAME_APPLIED);
	test_group(&t.frame, ++version);
	test_delete(&t.frame, REFUSES, "b");
	test_delete(&t.frame, REFUSES, "b");	/* Counts once. */
	test_put(&t.frame, REFUSES, "f", "1", 0);
	test_put(&t.frame, REFUSES, "g", "2", 0);
	expect_group(FRAME_FULL);
	test_group(&t.frame, ++version);
	test_delete(&t.frame, REFUSES, "b");
	test_put(&t.frame, REFUSES, "b", "back", 0);
	test_put(&t.frame, REFUSES, "f", "1", 0);
	expect_group(FRAME_FULL);
	test_group(&t.frame, ++version);
	test_put(&t.frame, REFUSES, "f", "there", 0);
	test_put(&t.frame, REFUSES, "f", "and gone", 0);
	test_delete(&t.frame, REFUSES, "f");
	expect_group(FRAME_APPLIED);
	expect_keys(REFUSES, "bcde");
}

static void
the_earliest_goes_first(void **state)
{
	(void)state;
	put(EVICTS, "a", 0, 9000, FRAME_APPLIED);
	put(EVICTS, "b", 0, 3000, FRAME_APPLIED);
	put(EVICTS, "c", 0, 300000, FRAME_APPLIED);
	put(EVICTS, "d", 0, 6000, FRAME_APPLIED);
	put(EVICTS, "e", 0, 90000000, FRAME_APPLIED);
	expect_keys(EVICTS, "acde");
	put(EVICTS, "f", 0, 90000000, FRAME_APPLIED);
	expect_keys(EVICTS, "acef");
	put(EVICTS, "g", 0, 90000000, FRAME_APPLIED);
	expect_keys(EVICTS, "cefg");
	put(EVICTS, "h", 0, 90000000, FRAME_APPLIED);
	expect_keys(EVICTS, "efgh");
	put(EVICTS, "i", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "fghi");
	assert_int_equal(table(EVICTS)->n_evicted, 5);
	assert_int_equal(counters().evicted, 5);
}

/* With the same idle time the oldest goes, not the one that came just before. */
static void
a_flood_evicts_its_own_oldest(void **state)
{
	(void)state;
	for (unsigned int idle_ms = 5000; idle_ms < 40000; idle_ms += 30000) {
		char key[2] = "a", want[5] = "";

		for (; key[0] <= 'z'; key[0]++) {
			put(EVICTS, key, 0, idle_ms, FRAME_APPLIED);
			pass(100);
		}
		memcpy(want, "wxyz", 4);
		expect_keys(EVICTS, want);
		pass(50000);
	}
}

static void
the_lowest_rank_goes_first(void **state)
{
	(void)state;
	put(EVICTS, "a", 1, 1000, FRAME_APPLIED);
	put(EVICTS, "b", 0, 90000000, FRAME_APPLIED);
	put(EVICTS, "c", 1, 2000, FRAME_APPLIED);
	put(EVICTS, "d", 0, 80000000, FRAME_APPLIED);
	put(EVICTS, "e", 1, 3000, FRAME_APPLIED);
	expect_keys(EVICTS, "abce");
	put(EVICTS, "f", 1, 3000, FRAME_APPLIED);
	expect_keys(EVICTS, "acef");
	put(EVICTS, "g", 0, 3000, FRAME_APPLIED);
	expect_keys(EVICTS, "cefg");
}

/* A connection that is established after all. */
static void
a_rank_may_rise(void **state)
{
	(void)state;
	fill(EVICTS, 0, 5000);
	put(EVICTS, "a", 1, 5000, FRAME_APPLIED);
	put(EVICTS, "e", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "acde");
}

static void
what_was_touched_stays_longer(void **state)
{
	(void)state;
	fill(EVICTS, 0, 5000);
	pass(2000);
	test_touch(&t.frame, EVICTS, "a");
	test_read(&t.frame, EVICTS, "b");
	test_peek(&t.frame, EVICTS, "c");
	apply();
	put(EVICTS, "e", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "abde");
	put(EVICTS, "f", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "abef");
}

static void
what_has_no_idle_time_is_not_evicted(void **state)
{
	(void)state;
	fill(EVICTS, 0, 0);
	put(EVICTS, "e", 0, 1000, FRAME_FULL);
	put(EVICTS, "a", 0, 1000, FRAME_APPLIED);
	put(EVICTS, "e", 0, 0, FRAME_APPLIED);
	expect_keys(EVICTS, "bcde");
}

static void
a_group_does_not_evict_what_it_writes(void **state)
{
	(void)state;
	fill(EVICTS, 0, 5000);
	test_group(&t.frame, ++version);
	test_put(&t.frame, EVICTS, "e", "1", 9000);
	test_put(&t.frame, EVICTS, "a", "2", 1000);
	test_check(&t.frame, EVICTS, "b", version - 3);
	test_put(&t.frame, EVICTS, "f", "3", 9000);
	expect_group(FRAME_APPLIED);
	expect_keys(EVICTS, "adef");
	/* Two would have to go for these, and only one can. */
	test_group(&t.frame, ++version);
	test_put(&t.frame, EVICTS, "a", "2", 1000);
	test_put(&t.frame, EVICTS, "e", "1", 9000);
	test_put(&t.frame, EVICTS, "f", "3", 9000);
	test_put(&t.frame, EVICTS, "g", "4", 9000);
	test_put(&t.frame, EVICTS, "h", "5", 9000);
	expect_group(FRAME_FULL);
	expect_keys(EVICTS, "adef");
}

static void
a_conflict_evicts_nothing(void **state)
{
	(void)state;
	fill(EVICTS, 0, 5000);
	test_group(&t.frame, ++version);
	test_put(&t.frame, EVICTS, "e", "1", 9000);
	test_check(&t.frame, EVICTS, "b", version);
	expect_group(FRAME_CONFLICT);
	expect_keys(EVICTS, "abcd");
}

static void
a_lowered_limit_stops_growth(void **state)
{
	(void)state;
	fill(EVICTS, 0, 5000);
	test_declare(t.partition, "evicts", CORE_EVICT, 2);
	put(EVICTS, "e", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "bcde");
	test_declare(t.partition, "evicts", CORE_EVICT, 0);
	put(EVICTS, "f", 0, 5000, FRAME_APPLIED);
	expect_keys(EVICTS, "bcdef");
}

/* The longest keys go for the shortest operations: effects have room for both. */
static void
evictions_are_replicated(void **state)
{
	enum { N = 1000 };
	struct partition *replica;
	char key[FRAME_MAX_KEY + 1];

	(void)state;
	test_declare(t.partition, "evicts", CORE_EVICT, N);
	for (unsigned int i = 0; i < N; i++) {
		snprintf(key, sizeof(key), "%064u", i);
		test_group(&t.frame, ++version);
		test_put(&t.frame, EVICTS, key, "", 5000);
		test_group_end(&t.frame);
		if (i % 400 == 399 || i == N - 1)
			apply();
	}
	replica = test_reload(t.partition, t.now_ms);
	buffer_fini(&t.effects);
	for (unsigned int i = 0; i < N;) {
		test_group(&t.frame, ++version);
		for (unsigned int n = 0; n < FRAME_MAX_GROUP_OPS && i < N; n++, i++) {
			snprintf(key, sizeof(key), "%08u", i);
			test_put(&t.frame, EVICTS, key, "", 5000);
		}
		test_group_end(&t.frame);
	}
	apply();
	assert_int_equal(table(EVICTS)->n_evicted, N);
	assert_int_equal(table(EVICTS)->n_records, N);
	assert_int_equal(partition_replay(replica, t.effects.data, t.effects.bytes,
					  t.now_ms),
			 0);
	assert_true(test_same(t.partition, replica));
	partition_free(replica);
}

/* As many as fit a frame of the shortest operations, each on a record whose time has
 * passed, and in the place of another with the longest key. */
static void
a_frame_may_have_any_effects(void **state)
{
	enum { N = 1280 };
	char key[FRAME_MAX_KEY + 1];

	(void)state;
	test_declare(t.partition, "evicts", CORE_EVICT, 0);
	for (unsigned int i = 0; i < 2 * N; i++) {
		snprintf(key, sizeof(key), i < N ? "%08u" : "%064u", i);
		test_group(&t.frame, ++version);
		test_put(&t.frame, EVICTS, key, "", i < N ? 1000 : 100);
		test_group_end(&t.frame);
		if (i % 400 == 399 || i == 2 * N - 1)
			apply();
	}
	t.now_ms += 5000;
	test_declare(t.partition, "evicts", CORE_EVICT, 1);
	buffer_fini(&t.effects);
	t.effects = (struct buffer){ 0 };
	for (unsigned int i = 0; i < N;) {
		test_group(&t.frame, ++version);
		for (unsigned int n = 0; n < FRAME_MAX_GROUP_OPS; n++, i++) {
			snprintf(key, sizeof(key), "%08u", i);
			test_take(&t.frame, EVICTS, key, 64, 3);
		}
		test_group_end(&t.frame);
	}
	apply();
	assert_int_equal(table(EVICTS)->n_evicted, N);
	assert_true(t.effects.bytes >= N * (12 + 28 + 68));
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_full_table_refuses_what_is_new),
		CASE(what_counts_is_what_a_group_leaves),
		CASE(the_earliest_goes_first),
		CASE(a_flood_evicts_its_own_oldest),
		CASE(the_lowest_rank_goes_first),
		CASE(a_rank_may_rise),
		CASE(what_was_touched_stays_longer),
		CASE(what_has_no_idle_time_is_not_evicted),
		CASE(a_group_does_not_evict_what_it_writes),
		CASE(a_conflict_evicts_nothing),
		CASE(a_lowered_limit_stops_growth),
		CASE(evictions_are_replicated),
		CASE(a_frame_may_have_any_effects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

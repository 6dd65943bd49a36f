/*
 * test_apply.c - what frames do to a partition, case by case; test_effects.c does it
 * with random ones.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "test_partition.h"

static int
setup(void **state)
{
	const struct core_declaration b = { "b", 16, 100, 1, 0, 0 };

	if (test_setup(state) != 0)
		return -1;
	return partition_declare(t.partition, &b) == 1 ? 0 : -1;
}

/* Puts one record, unconditionally. */
static void
put(uint64_t version, const char *key, const char *value, uint32_t idle_ms)
{
	test_group(&t.frame, version);
	test_put(&t.frame, 0, key, value, idle_ms);
	expect_group(FRAME_APPLIED);
}

/* --- Groups --------------------------------------------------------------------- */

static void
a_read_sees_the_group_before_it(void **state)
{
	(void)state;
	test_read(&t.frame, 0, "key");
	test_group(&t.frame, 5);
	test_check(&t.frame, 0, "key", 0);
	test_put(&t.frame, 0, "key", "value", 0);
	test_put(&t.frame, 1, "key", "other table", 0);
	test_group_end(&t.frame);
	test_read(&t.frame, 0, "key");
	test_read(&t.frame, 1, "key");
	test_group(&t.frame, 6);
	test_check(&t.frame, 0, "key", 5);
	test_delete(&t.frame, 0, "key");
	test_group_end(&t.frame);
	test_read(&t.frame, 0, "key");
	apply();
	expect(FRAME_MISS);
	expect(FRAME_APPLIED);
	expect_hit("value", 5);
	expect_hit("other table", 5);
	expect(FRAME_APPLIED);
	expect(FRAME_MISS);
	expect_end();
}

static void
a_failed_check_leaves_everything(void **state)
{
	(void)state;
	put(1, "one", "1", 0);
	test_group(&t.frame, 2);
	test_put(&t.frame, 0, "two", "2", 0);	/* Checks count wherever they stand. */
	test_delete(&t.frame, 0, "one");
	test_check(&t.frame, 0, "one", 99);
	test_group_end(&t.frame);
	apply();
	expect(FRAME_CONFLICT);
	expect_record(0, "one", "1", 1);
	expect_record(0, "two", NULL, 0);
}

static void
of_two_clients_one_wins(void **state)
{
	(void)state;
	put(1, "counter", "0", 0);
	for (uint64_t version = 10; version < 12; version++) {
		test_group(&t.frame, version);
		test_check(&t.frame, 0, "counter", 1);
		test_put(&t.frame, 0, "counter", version == 10 ? "first" : "second", 0);
		expect_group(version == 10 ? FRAME_APPLIED : FRAME_CONFLICT);
	}
	expect_record(0, "counter", "first", 10);
}

static void
a_value_may_change_its_length(void **state)
{
	static char text[2049];

	(void)state;
	for (unsigned int n = 0; n <= 2048; n++) {
		memset(text, 'a' + (int)(n % 26), n);
		text[n] = 0;
		put(n * 2 + 1, "key", text, n % 3 * 1000);
		expect_record(0, "key", text, n * 2 + 1);
		text[(2048 - n) / 2] = 0;
	}
}

/* What is left of a chunk is less than a group needs, again and again. */
static void
the_longest_group_of_new_records_fits(void **state)
{
	char key[16];

	(void)state;
	put(1, "alone", "1", 0);
	for (unsigned int group = 0; group < 100; group++) {
		test_group(&t.frame, group + 2);
		for (unsigned int i = 0; i < FRAME_MAX_GROUP_OPS; i++) {
			snprintf(key, sizeof(key), "key %u", group * 100 + i);
			test_put(&t.frame, 0, key, "value", 0);
		}
		expect_group(FRAME_APPLIED);
	}
	assert_int_equal(counters().records, 1 + 100 * FRAME_MAX_GROUP_OPS);
}

static void
refusing_lets_deletes_through(void **state)
{
	struct frame_reply_head head;

	(void)state;
	put(1, "one", "1", 0);
	test_group(&t.frame, 2);
	test_put(&t.frame, 0, "one", "2", 0);
	test_group_end(&t.frame);
	test_group(&t.frame, 3);
	test_delete(&t.frame, 0, "one");
	test_add(&t.frame, 0, "two", 0, 1, 0, 9);
	test_group_end(&t.frame);
	test_group(&t.frame, 3);
	test_take(&t.frame, 0, "range", 64, 1);
	test_group_end(&t.frame);
	test_read(&t.frame, 0, "one");
	test_group(&t.frame, 4);
	test_delete(&t.frame, 0, "one");
	test_group_end(&t.frame);
	assert_int_equal(test_apply_refusing(t.partition, &t.frame, 1, ++t.frame_id,
					     t.now_ms, true, &t.reply, NULL),
			 0);
	frame_reply_open(t.reply.data, t.reply.bytes, &head, &t.answers);
	expect(FRAME_REFUSED);
	expect(FRAME_REFUSED);
	expect(FRAME_REFUSED);
	expect_hit("1", 1);
	expect(FRAME_APPLIED);
	expect_record(0, "one", NULL, 0);
}

static void
a_touch_has_no_answer(void **state)
{
	(void)state;
	put(1, "one", "1", 1000);
	test_touch(&t.frame, 0, "one");
	test_touch(&t.frame, 0, "two");
	test_read(&t.frame, 0, "one");
	test_touch(&t.frame, 0, "one");
	apply();
	expect_hit("1", 1);
	expect_end();
	t.now_ms += 900;
	test_touch(&t.frame, 0, "one");
	apply();
	expect_end();
	t.now_ms += 900;
	expect_record(0, "one", "1", 1);
	assert_int_equal(table(0)->n_reads, 6);
	assert_int_equal(table(0)->n_hits, 5);
}

/* --- Frames that fail ------------------------------------------------------------ */

static void
expect_error(int want)
{
	assert_int_equal(test_apply(t.partition, &t.frame, 1, 1, t.now_ms, &t.reply,
				    &t.effects),
			 want);
	assert_int_equal(t.reply.bytes, 0);
	assert_int_equal(t.effects.bytes, 0);
}

static void
a_wrong_frame_changes_nothing(void **state)
{
	(void)state;
	test_group(&t.frame, 1);
	test_put(&t.frame, 0, "one", "1", 0);
	test_group_end(&t.frame);
	test_read(&t.frame, 2, "no such table");
	expect_error(-EBADMSG);
	expect_record(0, "one", NULL, 0);
}

static int
apply_empty(uint64_t generation, uint64_t term)
{
	test_frame_init(&t.frame);
	frame_finish(&t.frame.f, generation, term, 1, 1);
	return partition_apply(t.partition, t.frame.buffer, FRAME_HEAD_BYTES, TEST_TERM,
			       t.now_ms, false, &t.reply, NULL);
}

static void
another_generation_or_term_is_stale(void **state)
{
	(void)state;
	assert_int_equal(apply_empty(TEST_GENERATION + 1, TEST_TERM), -ESTALE);
	assert_int_equal(apply_empty(TEST_GENERATION, TEST_TERM + 1), -ESTALE);
	assert_int_equal(apply_empty(TEST_GENERATION, TEST_TERM), 0);
}

static void
a_reply_may_be_too_long(void **state)
{
	enum { N = FRAME_MAX_REPLY_BYTES / (FRAME_MAX_VALUE + 16) + 1 };

	(void)state;
	for (unsigned int i = 0; i < N; i++)
		test_read(&t.frame, 0, "abcd");
	expect_error(-EMSGSIZE);
	t.frame.f.at -= 8;
	assert_int_equal(
		test_apply(t.partition, &t.frame, 1, 2, t.now_ms, &t.reply, NULL), 0);
}

static void
what_was_in_the_reply_stays(void **state)
{
	(void)state;
	assert_int_equal(buffer_reserve(&t.reply, 8), 0);
	memcpy(t.reply.data, "in front", 8);
	t.reply.bytes = 8;
	assert_int_equal(apply_empty(TEST_GENERATION, TEST_TERM), 0);
	assert_int_equal(t.reply.bytes, 8 + FRAME_REPLY_HEAD_BYTES);
	assert_memory_equal(t.reply.data, "in frontSNR\2", 12);
}

/* A group of all that asks for memory: records of three sizes, a counter, a range that
 * grows, and a quarantine. */
static void
hungry_group(void)
{
	static char text[400];

	memset(text, 'x', sizeof(text) - 1);
	test_frame_init(&t.frame);
	test_group(&t.frame, 2);
	test_put(&t.frame, 0, "one", "1", 10);
	test_put_ranked(&t.frame, 0, "two", text, 1, 10);
	test_put(&t.frame, 0, "three", text + 300, 10);
	test_add(&t.frame, 0, "four", 0, 1, 0, 1);
	test_take(&t.frame, 0, "range", 5000, 4999);
	test_give(&t.frame, 0, "range", 1000, 1);
	test_group_end(&t.frame);
}

/* Without memory for any one of its needs a frame fails whole, or a group is refused
 * whole, and asked again it succeeds. */
static void
memory_may_end_anywhere(void **state)
{
	int err;

	(void)state;
	for (unsigned int n = 0;; n++) {
		struct frame_value v = { .answer = FRAME_REFUSED };
		struct frame_reply_head head;
		bool failed;

		/* From the start, but for what the reply has grown to. */
		partition_free(t.partition);
		buffer_fini(&t.effects);
		t.partition = test_partition_new(test_seed);
		test_declare(t.partition, "a", 0, 0);
		test_frame_init(&t.frame);
		test_group(&t.frame, 1);
		test_take(&t.frame, 0, "range", 10, 1);
		expect_group(FRAME_APPLIED);
		buffer_fini(&t.effects);
		hungry_group();
		test_memory_fail_after(n);
		err = test_apply(t.partition, &t.frame, 2, 1, t.now_ms, &t.reply,
				 &t.effects);
		failed = test_memory.n_left == 0;
		test_memory_recover();
		if (err == 0) {
			frame_reply_open(t.reply.data, t.reply.bytes, &head, &t.answers);
			assert_int_equal(frame_reply_next(&t.answers, &v), 1);
		}
		if (v.answer == FRAME_APPLIED)
			break;
		assert_int_equal(v.answer, FRAME_REFUSED);
		assert_true(failed && (err == 0 || err == -ENOMEM));
		assert_true(err == 0 || t.effects.bytes == 0);
		expect_record(0, "one", NULL, 0);
		expect_record(0, "four", NULL, 0);
		hungry_group();
		assert_int_equal(test_apply(t.partition, &t.frame, 2, 2, t.now_ms,
					    &t.reply, &t.effects),
				 0);
		expect_record(0, "one", "1", 2);
		assert_in_range(n, 0, 50);
	}
	expect_record(0, "one", "1", 2);
	assert_int_equal(table(1)->n_records, 1);
}

/* --- Time ----------------------------------------------------------------------- */

static void
idle_records_expire(void **state)
{
	const uint64_t start_ms = t.now_ms;

	(void)state;
	put(1, "idle", "1", 1000);
	put(2, "read", "2", 1000);
	put(3, "for ever", "3", 0);
	put(4, "peeked", "4", 1000);
	t.now_ms = start_ms + 900;
	expect_record(0, "idle", "1", 1);
	expect_record(0, "peeked", "4", 4);
	test_read(&t.frame, 0, "read");
	apply();
	t.now_ms = start_ms + 1000;
	expect_record(0, "peeked", "4", 4);	/* Not before its time. */
	t.now_ms = start_ms + 1200;
	/* Not answered, though nobody has deleted it. */
	expect_record(0, "idle", NULL, 0);
	expect_record(0, "peeked", NULL, 0);
	expect_record(0, "read", "2", 2);
	test_group(&t.frame, 6);
	test_check(&t.frame, 0, "peeked", 0);	/* Absent, as far as anyone can tell. */
	test_put(&t.frame, 0, "peeked", "again", 1000);
	expect_group(FRAME_APPLIED);
	expect_record(0, "peeked", "again", 6);
	pass(0);
	assert_int_equal(counters().records, 3);
	assert_int_equal(counters().expired, 1);
	assert_int_equal(table(0)->n_records, 3);
	pass(2000);
	assert_int_equal(counters().records, 1);
}

static void
an_idle_time_may_become_shorter(void **state)
{
	(void)state;
	put(1, "key", "1", UINT32_MAX);
	put(2, "key", "1", 500);
	put(3, "other", "1", 500);
	put(4, "other", "1", 0);
	pass(700);
	assert_int_equal(counters().records, 1);
	expect_record(0, "other", "1", 4);
}

/* A record changes wheels with its rank. */
static void
a_rank_changes_no_idle_time(void **state)
{
	(void)state;
	for (uint8_t n = 0; n < 4; n++) {
		test_group(&t.frame, n + 1u);
		test_put_ranked(&t.frame, 0, "key", "1", n % 2, 1000);
		expect_group(FRAME_APPLIED);
		pass(900);
	}
	expect_record(0, "key", "1", 4);
	pass(300);
	assert_int_equal(counters().records, 0);
}

static void
loading_starts_idle_times_anew(void **state)
{
	struct partition *loaded;

	(void)state;
	put(1, "key", "1", 1000);
	pass(900);
	t.now_ms += 5000;			/* Nobody could read meanwhile. */
	loaded = test_reload(t.partition, t.now_ms);
	partition_free(t.partition);
	t.partition = loaded;
	assert_int_equal(partition_siblings(loaded), TEST_PARTITIONS);
	pass(1000);
	expect_record(0, "key", "1", 1);
	pass(200);
	assert_int_equal(counters().records, 0);
}

/* --- Tables --------------------------------------------------------------------- */

static void
declarations(void **state)
{
	static const struct {
		const char *name;
		struct core_declaration d;
		int want;
	} cases[] = {
		{ "the same again is the same", { "b", 16, 100, 1, 0, 0 }, 1 },
		{ "another size is another table's", { "b", 16, 101, 1, 0, 0 }, -EEXIST },
		{ "another key size too", { "b", 15, 100, 1, 0, 0 }, -EEXIST },
		{ "a new one is the next", { "c", 1, 0, 1, 0, 0 }, 2 },
		{ "no name", { "", 1, 0, 1, 0, 0 }, -EINVAL },
		{ "a name with a space", { "a b", 1, 0, 1, 0, 0 }, -EINVAL },
		{ "a name of 31", { "0123456789012345678901234567890", 1, 0, 1, 0, 0 },
		  3 },
		{ "a name of 32", { "01234567890123456789012345678901", 1, 0, 1, 0, 0 },
		  -EINVAL },
		{ "a name of the core's", { "snf.quarantine", 69, 0, 1, 0, 0 }, -EINVAL },
		{ "no keys", { "d", 0, 10, 1, 0, 0 }, -EINVAL },
		{ "long keys", { "d", 65, 10, 1, 0, 0 }, -EINVAL },
		{ "long values", { "d", 64, FRAME_MAX_VALUE + 1, 1, 0, 0 }, -EINVAL },
		{ "an unknown flag", { "d", 64, 8, 1, 4, 0 }, -EINVAL },
		{ "leases that are evicted", { "d", 64, 8, 1, 3, 5 }, -EINVAL },
		{ "a newer format, flags and a limit", { "b", 16, 100, 3, 2, 7 }, 1 },
		{ "an older format, and neither", { "b", 16, 100, 2, 1, 0 }, 1 },
		{ "a shorter value of it", { "b", 16, 99, 2, 1, 0 }, 1 },
		{ "one of the same format", { "b", 16, 99, 3, 1, 0 }, 1 },
		{ "a longer one of an older", { "b", 16, 101, 2, 1, 0 }, -EEXIST },
		{ "a shorter one of a newer", { "b", 16, 99, 4, 1, 0 }, 1 },
		{ "a longer one of a newer", { "b", 16, 120, 5, 1, 0 }, 1 },
		{ "what was there before", { "b", 16, 100, 3, 1, 0 }, 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (partition_declare(t.partition, &cases[i].d) != cases[i].want)
			fail_msg("not so: %s", cases[i].name);
	}
	assert_int_equal(table(1)->value_max, 120);
	assert_int_equal(table(1)->format, 5);
	assert_int_equal(table(1)->flags, CORE_LEASED);
	assert_int_equal(table(1)->limit, 0);
}

/* The core can have its own in any case. */
static void
one_table_is_left_to_the_core(void **state)
{
	(void)state;
	for (int i = 2; i < CORE_MAX_TABLES - 1; i++) {
		char name[3] = { 'T', (char)('0' + i), 0 };

		assert_int_equal(test_declare(t.partition, name, 0, 0), i);
	}
	assert_int_equal(test_declare(t.partition, "x", 0, 0), -ENOSPC);
	assert_int_equal(test_declare(t.partition, "a", 0, 0), 0);
	test_group(&t.frame, 1);
	test_take(&t.frame, 0, "range", 10, 1);
	test_group_end(&t.frame);
	test_group(&t.frame, 2);
	test_give(&t.frame, 0, "range", 1000, 1);
	test_group_end(&t.frame);
	apply();
	expect(FRAME_APPLIED);
	expect(FRAME_APPLIED);
	assert_string_equal(table(CORE_MAX_TABLES - 1)->name, "snf.quarantine");
	assert_int_equal(test_declare(t.partition, "x", 0, 0), -ENOSPC);
	assert_int_equal(test_declare(t.partition, "a", 0, 0), 0);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_read_sees_the_group_before_it),
		CASE(a_failed_check_leaves_everything),
		CASE(of_two_clients_one_wins),
		CASE(a_value_may_change_its_length),
		CASE(the_longest_group_of_new_records_fits),
		CASE(refusing_lets_deletes_through),
		CASE(a_touch_has_no_answer),
		CASE(a_wrong_frame_changes_nothing),
		CASE(another_generation_or_term_is_stale),
		CASE(a_reply_may_be_too_long),
		CASE(what_was_in_the_reply_stays),
		CASE(memory_may_end_anywhere),
		CASE(idle_records_expire),
		CASE(an_idle_time_may_become_shorter),
		CASE(a_rank_changes_no_idle_time),
		CASE(loading_starts_idle_times_anew),
		CASE(declarations),
		CASE(one_table_is_left_to_the_core),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

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

#include "test_memory.h"
#include "test_partition.h"

static struct partition *partition;
static struct test_frame frame;
static struct buffer reply, effects;
static uint64_t now_ms = 1000;

static int
setup(void **state)
{
	(void)state;
	test_memory_init();
	reply = effects = (struct buffer){ 0 };
	if (partition_new(TEST_GENERATION, test_seed, &partition) != 0 ||
	    partition_declare(partition, "a", 64, 2048, 1) != 0 ||
	    partition_declare(partition, "b", 16, 100, 1) != 1)
		return -1;
	test_frame_init(&frame);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	partition_free(partition);
	buffer_fini(&reply);
	buffer_fini(&effects);
	return test_memory.n_bytes == 0 ? 0 : -1;
}

/* Applies the frame as client 1 and starts a new one. */
static void
apply(uint64_t id)
{
	assert_int_equal(test_apply(partition, &frame, 1, id, now_ms, &reply, &effects),
			 0);
	test_frame_init(&frame);
}

static struct frame_cursor
answers(void)
{
	struct frame_reply_head head;
	struct frame_cursor c;

	assert_int_equal(frame_reply_open(reply.data, reply.bytes, &head, &c), 0);
	return c;
}

static struct frame_value
expect(struct frame_cursor *c, enum frame_answer want)
{
	struct frame_value v;

	assert_int_equal(frame_reply_next(c, &v), 1);
	assert_int_equal(v.answer, want);
	return v;
}

static void
expect_hit(struct frame_cursor *c, const char *value, uint64_t version)
{
	struct frame_value v = expect(c, FRAME_HIT);

	assert_int_equal(v.version, version);
	assert_int_equal(v.value_bytes, strlen(value));
	assert_memory_equal(v.value, value, v.value_bytes);
}

static void
expect_end(struct frame_cursor *c)
{
	struct frame_value v;

	assert_int_equal(frame_reply_next(c, &v), 0);
}

/* Puts one record, unconditionally. */
static void
put(uint64_t id, const char *key, const char *value, uint32_t idle_ms)
{
	test_group(&frame, id);
	test_put(&frame, 0, key, value, idle_ms);
	test_group_end(&frame);
	apply(id);
}

static void
expect_record(const char *key, const char *value, uint64_t version)
{
	struct frame_cursor c;

	test_frame_init(&frame);
	frame_read(&frame.f, 0, key, (uint8_t)strlen(key), false);
	apply(1000000);
	c = answers();
	if (value == NULL)
		expect(&c, FRAME_MISS);
	else
		expect_hit(&c, value, version);
	expect_end(&c);
}

/* --- Groups --------------------------------------------------------------------- */

static void
a_read_sees_the_group_before_it(void **state)
{
	struct frame_cursor c;

	(void)state;
	test_read(&frame, 0, "key");
	test_group(&frame, 5);
	test_check(&frame, 0, "key", 0);
	test_put(&frame, 0, "key", "value", 0);
	test_put(&frame, 1, "key", "other table", 0);
	test_group_end(&frame);
	test_read(&frame, 0, "key");
	test_read(&frame, 1, "key");
	test_group(&frame, 6);
	test_check(&frame, 0, "key", 5);
	test_delete(&frame, 0, "key");
	test_group_end(&frame);
	test_read(&frame, 0, "key");
	apply(1);
	c = answers();
	expect(&c, FRAME_MISS);
	expect(&c, FRAME_APPLIED);
	expect_hit(&c, "value", 5);
	expect_hit(&c, "other table", 5);
	expect(&c, FRAME_APPLIED);
	expect(&c, FRAME_MISS);
	expect_end(&c);
}

static void
a_failed_check_leaves_everything(void **state)
{
	struct frame_cursor c;

	(void)state;
	put(1, "one", "1", 0);
	test_group(&frame, 2);
	test_put(&frame, 0, "two", "2", 0);	/* Checks count wherever they stand. */
	test_delete(&frame, 0, "one");
	test_check(&frame, 0, "one", 99);
	test_group_end(&frame);
	apply(2);
	c = answers();
	expect(&c, FRAME_CONFLICT);
	expect_record("one", "1", 1);
	expect_record("two", NULL, 0);
}

static void
of_two_clients_one_wins(void **state)
{
	struct frame_cursor c;

	(void)state;
	put(1, "counter", "0", 0);
	for (uint64_t client = 10; client < 12; client++) {
		test_group(&frame, client);
		test_check(&frame, 0, "counter", 1);
		test_put(&frame, 0, "counter", client == 10 ? "first" : "second", 0);
		test_group_end(&frame);
		assert_int_equal(test_apply(partition, &frame, client, 1, now_ms, &reply,
					    NULL), 0);
		test_frame_init(&frame);
		c = answers();
		expect(&c, client == 10 ? FRAME_APPLIED : FRAME_CONFLICT);
	}
	expect_record("counter", "first", 10);
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
		expect_record("key", text, n * 2 + 1);
		text[(2048 - n) / 2] = 0;
	}
}

/* What is left of a chunk is less than a group needs, again and again. */
static void
the_longest_group_of_new_records_fits(void **state)
{
	struct core_counters count;
	char key[16];

	(void)state;
	put(1, "alone", "1", 0);
	for (unsigned int group = 0; group < 100; group++) {
		test_group(&frame, group + 2);
		for (unsigned int i = 0; i < FRAME_MAX_GROUP_OPS; i++) {
			snprintf(key, sizeof(key), "key %u", group * 100 + i);
			test_put(&frame, 0, key, "value", 0);
		}
		test_group_end(&frame);
		apply(group + 2);
	}
	partition_count(partition, &count);
	assert_int_equal(count.records, 1 + 100 * FRAME_MAX_GROUP_OPS);
	assert_int_equal(count.refused, 0);
}

static void
refusing_lets_deletes_through(void **state)
{
	struct frame_cursor c;

	(void)state;
	put(1, "one", "1", 0);
	test_group(&frame, 2);
	test_put(&frame, 0, "one", "2", 0);
	test_group_end(&frame);
	test_group(&frame, 3);
	test_delete(&frame, 0, "one");
	test_put(&frame, 0, "two", "2", 0);
	test_group_end(&frame);
	test_read(&frame, 0, "one");
	test_group(&frame, 4);
	test_delete(&frame, 0, "one");
	test_group_end(&frame);
	frame_finish(&frame.f, TEST_GENERATION, 1, 2);
	reply.bytes = 0;
	assert_int_equal(partition_apply(partition, frame.buffer,
					 (size_t)(frame.f.at - frame.f.start), now_ms,
					 true, &reply, NULL),
			 0);
	c = answers();
	expect(&c, FRAME_REFUSED);
	expect(&c, FRAME_REFUSED);
	expect_hit(&c, "1", 1);
	expect(&c, FRAME_APPLIED);
	expect_record("one", NULL, 0);
}

/* --- Frames that fail ------------------------------------------------------------ */

static void
a_wrong_frame_changes_nothing(void **state)
{
	(void)state;
	test_group(&frame, 1);
	test_put(&frame, 0, "one", "1", 0);
	test_group_end(&frame);
	test_read(&frame, 2, "no such table");
	assert_int_equal(test_apply(partition, &frame, 1, 1, now_ms, &reply, &effects),
			 -EBADMSG);
	assert_int_equal(reply.bytes, 0);
	assert_int_equal(effects.bytes, 0);
	expect_record("one", NULL, 0);
}

static void
another_generation_is_stale(void **state)
{
	(void)state;
	frame_finish(&frame.f, TEST_GENERATION + 1, 1, 1);
	assert_int_equal(partition_apply(partition, frame.buffer, FRAME_HEAD_BYTES,
					 now_ms, false, &reply, NULL),
			 -ESTALE);
}

static void
a_reply_may_be_too_long(void **state)
{
	enum { N = FRAME_MAX_REPLY_BYTES / (2048 + 16) + 1 };
	size_t room = FRAME_HEAD_BYTES + N * 8;
	uint8_t *buffer = malloc(room);
	struct frame f;

	(void)state;
	frame_init(&f, buffer, room);
	while (frame_read(&f, 0, "abcd", 4, true) != NULL)
		;
	frame_finish(&f, TEST_GENERATION, 1, 1);
	assert_int_equal(partition_apply(partition, buffer, room, now_ms, false, &reply,
					 NULL),
			 -EMSGSIZE);
	frame_init(&f, buffer, room - 8);
	while (frame_read(&f, 0, "abcd", 4, true) != NULL)
		;
	frame_finish(&f, TEST_GENERATION, 1, 2);
	assert_int_equal(
		partition_apply(partition, buffer, room - 8, now_ms, false, &reply, NULL),
		0);
	free(buffer);
}

static void
what_was_in_the_reply_stays(void **state)
{
	(void)state;
	assert_int_equal(buffer_reserve(&reply, 8), 0);
	memcpy(reply.data, "in front", 8);
	reply.bytes = 8;
	frame_finish(&frame.f, TEST_GENERATION, 1, 1);
	assert_int_equal(partition_apply(partition, frame.buffer, FRAME_HEAD_BYTES,
					 now_ms, false, &reply, NULL),
			 0);
	assert_int_equal(reply.bytes, 8 + FRAME_REPLY_HEAD_BYTES);
	assert_memory_equal(reply.data, "in frontSNR\1", 12);
}

/* Without memory for any one of its needs a frame fails whole, or a group is refused
 * whole, and asked again it succeeds. */
static void
memory_may_end_anywhere(void **state)
{
	static char text[400];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	for (unsigned int n = 0;; n++) {
		bool failed;
		int err;

		test_frame_init(&frame);
		test_group(&frame, 1);
		test_put(&frame, 0, "one", "1", 10);
		test_put(&frame, 0, "two", text, 10);
		test_put(&frame, 0, "three", text + 300, 10);
		test_group_end(&frame);
		test_memory_fail_after(n);
		err = test_apply(partition, &frame, 1, n + 1, now_ms, &reply, &effects);
		failed = test_memory.n_left == 0;
		test_memory_recover();
		if (err == 0) {
			struct frame_cursor c = answers();
			struct frame_value v;

			assert_int_equal(frame_reply_next(&c, &v), 1);
			if (v.answer == FRAME_APPLIED)
				break;
			assert_int_equal(v.answer, FRAME_REFUSED);
		} else {
			assert_int_equal(err, -ENOMEM);
			assert_int_equal(effects.bytes, 0);
		}
		assert_true(failed);
		test_frame_init(&frame);
		test_read(&frame, 0, "one");
		test_read(&frame, 0, "two");
		apply(0);
		assert_int_equal(reply.bytes, FRAME_REPLY_HEAD_BYTES + 16);
		/* From the start, but for what the reply has grown to. */
		partition_free(partition);
		buffer_fini(&effects);
		assert_int_equal(partition_new(TEST_GENERATION, test_seed, &partition),
				 0);
		partition_declare(partition, "a", 64, 2048, 1);
		assert_in_range(n, 0, 50);
	}
	expect_record("two", text, 1);
}

/* --- Time ----------------------------------------------------------------------- */

static void
idle_records_expire(void **state)
{
	struct core_counters count;
	uint64_t start_ms = now_ms;

	(void)state;
	put(1, "idle", "1", 1000);
	put(2, "read", "2", 1000);
	put(3, "for ever", "3", 0);
	put(4, "peeked", "4", 1000);
	now_ms = start_ms + 900;
	expect_record("idle", "1", 1);
	expect_record("peeked", "4", 4);
	test_read(&frame, 0, "read");
	apply(5);
	now_ms = start_ms + 1000;
	expect_record("peeked", "4", 4);	/* Not before its time. */
	now_ms = start_ms + 1200;
	/* Not answered, though nobody has deleted it. */
	expect_record("idle", NULL, 0);
	expect_record("peeked", NULL, 0);
	expect_record("read", "2", 2);
	test_frame_init(&frame);
	test_group(&frame, 6);
	test_check(&frame, 0, "peeked", 0);	/* Absent, as far as anyone can tell. */
	test_put(&frame, 0, "peeked", "again", 1000);
	test_group_end(&frame);
	apply(6);
	expect_record("peeked", "again", 6);
	while (partition_expire(partition, now_ms, 1, &effects) == 1)
		;
	partition_count(partition, &count);
	assert_int_equal(count.records, 3);
	assert_int_equal(count.expired, 1);
	assert_int_equal(partition->tables[0].n_records, 3);
	now_ms += 2000;
	while (partition_expire(partition, now_ms, 1, &effects) == 1)
		;
	partition_count(partition, &count);
	assert_int_equal(count.records, 1);
	now_ms = start_ms;
}

static void
an_idle_time_may_become_shorter(void **state)
{
	struct core_counters count;
	uint64_t start_ms = now_ms;

	(void)state;
	put(1, "key", "1", UINT32_MAX);
	put(2, "key", "1", 500);
	put(3, "other", "1", 500);
	put(4, "other", "1", 0);
	now_ms = start_ms + 700;
	partition_expire(partition, now_ms, 100, NULL);
	partition_count(partition, &count);
	assert_int_equal(count.records, 1);
	expect_record("other", "1", 4);
	now_ms = start_ms;
}

static void
a_promoted_replica_starts_idle_times_anew(void **state)
{
	struct core_counters count;
	uint64_t start_ms = now_ms;

	(void)state;
	put(1, "key", "1", 1000);
	now_ms = start_ms + 5000;
	partition_refresh(partition, now_ms);
	partition_expire(partition, now_ms, 100, NULL);
	expect_record("key", "1", 1);
	now_ms += 1200;
	expect_record("key", NULL, 0);
	partition_expire(partition, now_ms, 100, NULL);
	partition_count(partition, &count);
	assert_int_equal(count.records, 0);
	now_ms = start_ms;
}

/* --- Tables --------------------------------------------------------------------- */

static void
declarations(void **state)
{
	static const struct {
		const char *name, *table;
		uint16_t key_max, value_max;
		int want;
	} cases[] = {
		{ "the same again is the same", "a", 64, 2048, 0 },
		{ "another size is another table's", "b", 16, 101, -EEXIST },
		{ "another key size too", "b", 15, 100, -EEXIST },
		{ "a new one is the next", "c", 1, 0, 2 },
		{ "no name", "", 1, 0, -EINVAL },
		{ "a name with a space", "a b", 1, 0, -EINVAL },
		{ "a name of 31", "0123456789012345678901234567890", 1, 0, 3 },
		{ "a name of 32", "01234567890123456789012345678901", 1, 0, -EINVAL },
		{ "no keys", "d", 0, 10, -EINVAL },
		{ "long keys", "d", 65, 10, -EINVAL },
		{ "long values", "d", 64, 2049, -EINVAL },
	};
	unsigned int n;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (partition_declare(partition, cases[i].table, cases[i].key_max,
				      cases[i].value_max, 2) != cases[i].want)
			fail_msg("not so: %s", cases[i].name);
	}
	for (int i = 4; i < CORE_MAX_TABLES; i++) {
		char name[2] = { (char)('A' + i), 0 };

		assert_int_equal(partition_declare(partition, name, 4, 4, 1), i);
	}
	assert_int_equal(partition_declare(partition, "x", 4, 4, 1), -ENOSPC);
	assert_int_equal(partition_tables(partition, &n)[0].format, 2);
	assert_int_equal(n, CORE_MAX_TABLES);
	assert_int_equal(partition_declare(partition, "a", 64, 2048, 1), 0);
	assert_int_equal(partition_tables(partition, &n)[0].format, 2);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_read_sees_the_group_before_it),
		CASE(a_failed_check_leaves_everything),
		CASE(of_two_clients_one_wins),
		CASE(a_value_may_change_its_length),
		CASE(the_longest_group_of_new_records_fits),
		CASE(refusing_lets_deletes_through),
		CASE(a_wrong_frame_changes_nothing),
		CASE(another_generation_is_stale),
		CASE(a_reply_may_be_too_long),
		CASE(what_was_in_the_reply_stays),
		CASE(memory_may_end_anywhere),
		CASE(idle_records_expire),
		CASE(an_idle_time_may_become_shorter),
		CASE(a_promoted_replica_starts_idle_times_anew),
		CASE(declarations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_clients.c - frames that come again: answered as the first time, applied once,
 * for as long as they and their client are remembered.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_memory.h"
#include "test_partition.h"

static struct partition *partition;
static struct test_frame frame;
static struct buffer reply, effects;
static const uint64_t now_ms = 1000;

static int
setup(void **state)
{
	(void)state;
	test_memory_init();
	reply = effects = (struct buffer){ 0 };
	if (partition_new(TEST_GENERATION, test_seed, &partition) != 0 ||
	    partition_declare(partition, "a", 64, 2048, 1) != 0)
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
add_one(uint64_t version, uint64_t current)
{
	test_frame_init(&frame);
	test_group(&frame, version);
	test_check(&frame, 0, "key", current);
	test_put(&frame, 0, "key", "value", 0);
	test_group_end(&frame);
	test_read(&frame, 0, "key");
}

static void
a_repeat_is_answered_and_not_applied(void **state)
{
	struct core_counters count;
	struct frame_cursor c;

	(void)state;
	add_one(1, 0);
	apply(1);
	add_one(2, 1);
	apply(2);
	effects.bytes = 0;
	add_one(1, 0);
	apply(1);
	c = answers();
	expect(&c, FRAME_APPLIED);
	assert_int_equal(expect(&c, FRAME_HIT).version, 2);	/* Read afresh. */
	assert_int_equal(effects.bytes, 0);
	add_one(3, 1);
	apply(3);
	add_one(3, 1);
	apply(3);
	c = answers();
	expect(&c, FRAME_CONFLICT);
	partition_count(partition, &count);
	assert_int_equal(count.repeats, 2);
	assert_int_equal(count.groups, 3);
}

static void
an_old_repeat_is_told_so(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= CORE_CLIENT_FRAMES + 1; i++) {
		add_one(i, i - 1);
		apply(i * 10);			/* Gaps are normal. */
	}
	add_one(1, 0);
	assert_int_equal(test_apply(partition, &frame, 1, 10, now_ms, &reply, NULL),
			 -EALREADY);
	assert_int_equal(test_apply(partition, &frame, 1, 25, now_ms, &reply, NULL),
			 -EALREADY);
	assert_int_equal(test_apply(partition, &frame, 1, 20, now_ms, &reply, NULL), 0);
	/* Another client's frames are its own. */
	assert_int_equal(test_apply(partition, &frame, 2, 10, now_ms, &reply, NULL), 0);
	/* Reads may always be repeated. */
	test_frame_init(&frame);
	test_read(&frame, 0, "key");
	assert_int_equal(test_apply(partition, &frame, 1, 10, now_ms, &reply, NULL), 0);
}

static void
a_repeat_has_as_many_groups(void **state)
{
	struct frame_cursor c;

	(void)state;
	add_one(1, 0);
	apply(1);
	test_frame_init(&frame);
	for (unsigned int i = 0; i < 100; i++) {
		test_group(&frame, 1);
		test_delete(&frame, 0, "key");
		test_group_end(&frame);
	}
	assert_int_equal(test_apply(partition, &frame, 1, 1, now_ms, &reply, NULL),
			 -EBADMSG);
	/* It was not applied: the record is there. */
	add_one(2, 1);
	apply(2);
	c = answers();
	expect(&c, FRAME_APPLIED);
}

static void
silent_clients_are_forgotten(void **state)
{
	struct partition *replica;
	struct core_counters count;

	(void)state;
	for (uint64_t client = 1; client <= 10; client++) {
		test_frame_init(&frame);
		test_group(&frame, 1);
		test_delete(&frame, 0, "key");
		test_group_end(&frame);
		assert_int_equal(test_apply(partition, &frame, client, 1,
					    now_ms + client * 1000, &reply, &effects),
				 0);
	}
	assert_int_equal(partition_expire(partition, now_ms + 3600 * 1000 + 4500, 3,
					  &effects),
			 3);
	assert_int_equal(partition_expire(partition, now_ms + 3600 * 1000 + 4500, 3,
					  &effects),
			 1);
	partition_count(partition, &count);
	assert_int_equal(count.clients, 6);
	assert_int_equal(partition_new(TEST_GENERATION, test_seed, &replica), 0);
	partition_declare(replica, "a", 64, 2048, 1);
	assert_int_equal(partition_replay(replica, effects.data, effects.bytes, now_ms),
			 0);
	partition_count(replica, &count);
	assert_int_equal(count.clients, 6);
	partition_free(replica);
}

static void
clients_are_bounded(void **state)
{
	struct core_counters count;

	(void)state;
	for (uint64_t client = 1; client <= 70000; client++) {
		test_frame_init(&frame);
		test_group(&frame, 1);
		test_delete(&frame, 0, "key");
		test_group_end(&frame);
		assert_int_equal(test_apply(partition, &frame, client, 1, now_ms, &reply,
					    NULL),
				 0);
	}
	partition_count(partition, &count);
	assert_int_equal(count.clients, 65536);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_repeat_is_answered_and_not_applied),
		CASE(an_old_repeat_is_told_so),
		CASE(a_repeat_has_as_many_groups),
		CASE(silent_clients_are_forgotten),
		CASE(clients_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

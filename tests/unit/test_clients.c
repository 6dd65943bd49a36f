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

#include "test_partition.h"

/* Applies the frame as it was asked for with this id, and begins a new one. */
static void
apply_as(uint64_t id)
{
	t.frame_id = id - 1;
	apply();
}

static int
apply_raw(uint64_t client, uint64_t id)
{
	return test_apply(t.partition, &t.frame, client, id, t.now_ms, &t.reply, NULL);
}

static void
write_delete(uint64_t version)
{
	test_group(&t.frame, version);
	test_delete(&t.frame, 0, "key");
	test_group_end(&t.frame);
}

static void
add_one(uint64_t version, uint64_t current)
{
	test_frame_init(&t.frame);
	test_group(&t.frame, version);
	test_check(&t.frame, 0, "key", current);
	test_put(&t.frame, 0, "key", "value", 0);
	test_group_end(&t.frame);
	test_read(&t.frame, 0, "key");
}

static void
a_repeat_is_answered_and_not_applied(void **state)
{
	(void)state;
	add_one(1, 0);
	apply_as(1);
	add_one(2, 1);
	apply_as(2);
	t.effects.bytes = 0;
	add_one(1, 0);
	apply_as(1);
	expect(FRAME_APPLIED);
	assert_int_equal(expect(FRAME_HIT).version, 2);	/* Read afresh. */
	assert_int_equal(t.effects.bytes, 0);
	add_one(3, 1);
	apply_as(3);
	add_one(3, 1);
	apply_as(3);
	expect(FRAME_CONFLICT);
	assert_int_equal(counters().repeats, 2);
	assert_int_equal(counters().groups, 3);
}

static void
an_old_repeat_is_told_so(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= CORE_CLIENT_FRAMES + 1; i++) {
		add_one(i, i - 1);
		apply_as(i * 10);		/* Gaps are normal. */
	}
	add_one(1, 0);
	assert_int_equal(apply_raw(1, 10), -EALREADY);
	assert_int_equal(apply_raw(1, 25), -EALREADY);
	assert_int_equal(apply_raw(1, 20), 0);
	/* Another client's frames are its own. */
	assert_int_equal(apply_raw(2, 10), 0);
	/* Reads may always be repeated. */
	test_frame_init(&t.frame);
	test_read(&t.frame, 0, "key");
	assert_int_equal(apply_raw(1, 10), 0);
}

static void
a_repeat_has_as_many_groups(void **state)
{
	(void)state;
	add_one(1, 0);
	apply_as(1);
	test_frame_init(&t.frame);
	for (unsigned int i = 0; i < 100; i++) {
		write_delete(1);
	}
	assert_int_equal(apply_raw(1, 1), -EBADMSG);
	/* It was not applied: the record is there. */
	add_one(2, 1);
	apply_as(2);
	expect(FRAME_APPLIED);
}

/* A frame that is answered in all ways but two. */
static void
write_all_answers(void)
{
	test_group(&t.frame, 1);
	test_take(&t.frame, 0, "range", 10, 3);
	test_group_end(&t.frame);
	test_group(&t.frame, 2);
	test_take(&t.frame, 0, "range", 10, 3);
	test_group_end(&t.frame);
	test_group(&t.frame, 3);
	test_add(&t.frame, 0, "counter", 0, 6, 0, 10);
	test_group_end(&t.frame);
	test_group(&t.frame, 4);
	test_add(&t.frame, 0, "counter", 0, 6, 0, 10);
	test_group_end(&t.frame);
	test_group(&t.frame, 5);
	test_put(&t.frame, 1, "one", "1", 0);
	test_group_end(&t.frame);
	test_group(&t.frame, 6);
	test_put(&t.frame, 1, "two", "2", 0);
	test_group_end(&t.frame);
}

static void
expect_all_answers(void)
{
	static const enum frame_answer want[] = {
		FRAME_APPLIED, FRAME_CONFLICT, FRAME_APPLIED,
		FRAME_BOUND,   FRAME_APPLIED,  FRAME_FULL,
	};

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		expect(want[i]);
	expect_end();
}

/* Also by a replica that was promoted, and by one that was loaded. */
static void
all_answers_are_remembered(void **state)
{
	struct partition *copies[2] = { test_partition_new(test_seed) };

	(void)state;
	test_declare(t.partition, "full", 0, 1);
	test_declare(copies[0], "a", 0, 0);
	test_declare(copies[0], "full", 0, 1);
	write_all_answers();
	apply_as(1);
	expect_all_answers();
	write_all_answers();
	apply_as(1);
	expect_all_answers();
	assert_int_equal(counters().groups, 6);
	assert_int_equal(counters().full, 1);
	assert_int_equal(partition_replay(copies[0], t.effects.data, t.effects.bytes,
					  t.now_ms),
			 0);
	copies[1] = test_reload(t.partition, t.now_ms);
	for (unsigned int i = 0; i < 2; i++) {
		partition_free(t.partition);
		t.partition = copies[i];
		write_all_answers();
		apply_as(1);
		expect_all_answers();
		assert_int_equal(counters().groups, 0);
	}
}

static void
silent_clients_are_forgotten(void **state)
{
	const uint64_t later_ms = t.now_ms + 3600 * 1000 + 4500;
	struct partition *replica = test_partition_new(test_seed);
	struct core_counters count;

	(void)state;
	test_declare(replica, "a", 0, 0);
	for (uint64_t client = 1; client <= 10; client++) {
		test_frame_init(&t.frame);
		write_delete(1);
		assert_int_equal(test_apply(t.partition, &t.frame, client, 1,
					    t.now_ms + client * 1000, &t.reply,
					    &t.effects),
				 0);
	}
	assert_int_equal(partition_expire(t.partition, later_ms, 3, &t.effects), 3);
	assert_int_equal(partition_expire(t.partition, later_ms, 3, &t.effects), 1);
	assert_int_equal(counters().clients, 6);
	assert_int_equal(partition_replay(replica, t.effects.data, t.effects.bytes,
					  t.now_ms),
			 0);
	partition_count(replica, &count);
	assert_int_equal(count.clients, 6);
	partition_free(replica);
}

static int
delete_as(uint64_t client, uint64_t id)
{
	test_frame_init(&t.frame);
	write_delete(1);
	return apply_raw(client, id);
}

/* However many there are, who was heard of lately is not forgotten for others. */
static void
clients_are_bounded(void **state)
{
	enum { MOST = 65536, NEW = 1 << 20 };

	(void)state;
	for (uint64_t client = 1; client <= MOST; client++)
		assert_int_equal(delete_as(client, 1), 0);
	t.now_ms += 9000;
	assert_int_equal(delete_as(1, 2), 0);
	assert_int_equal(delete_as(NEW, 1), -ENOMEM);
	t.now_ms += 2000;
	for (uint64_t client = NEW + 1; client < NEW + MOST; client++)
		assert_int_equal(delete_as(client, 1), 0);
	assert_int_equal(delete_as(NEW, 1), -ENOMEM);
	assert_int_equal(counters().clients, MOST);
	assert_int_equal(counters().repeats, 0);
	assert_int_equal(delete_as(1, 2), 0);
	assert_int_equal(counters().repeats, 1);
}

static void
nobody_comes_new_while_memory_is_short(void **state)
{
	(void)state;
	assert_int_equal(delete_as(1, 1), 0);
	test_frame_init(&t.frame);
	write_delete(1);
	assert_int_equal(test_apply_refusing(t.partition, &t.frame, 2, 1, t.now_ms, true,
					     &t.reply, &t.effects),
			 -ENOMEM);
	assert_int_equal(counters().clients, 1);
	assert_int_equal(test_apply_refusing(t.partition, &t.frame, 1, 2, t.now_ms, true,
					     &t.reply, &t.effects),
			 0);
	/* Who only reads is not remembered. */
	test_frame_init(&t.frame);
	test_read(&t.frame, 0, "key");
	assert_int_equal(test_apply_refusing(t.partition, &t.frame, 2, 1, t.now_ms, true,
					     &t.reply, &t.effects),
			 0);
	assert_int_equal(delete_as(2, 1), 0);
	assert_int_equal(counters().clients, 2);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_repeat_is_answered_and_not_applied),
		CASE(an_old_repeat_is_told_so),
		CASE(a_repeat_has_as_many_groups),
		CASE(all_answers_are_remembered),
		CASE(silent_clients_are_forgotten),
		CASE(clients_are_bounded),
		CASE(nobody_comes_new_while_memory_is_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

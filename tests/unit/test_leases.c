/*
 * test_leases.c - tables whose records are leased when their time has passed, and the
 * bulk views of records.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "test_partition.h"

enum { PLAIN = 0, LEASED = 1, OTHER = 2, IDLE_MS = 1000 };

static int
setup(void **state)
{
	if (test_setup(state) != 0)
		return -1;
	return test_declare(t.partition, "leased", CORE_LEASED, 0) == LEASED &&
			       test_declare(t.partition, "other", CORE_LEASED, 0) == OTHER
		       ? 0
		       : -1;
}

static void
put(uint8_t id, const char *key, uint64_t version)
{
	test_group(&t.frame, version);
	test_put(&t.frame, id, key, "value", IDLE_MS);
	expect_group(FRAME_APPLIED);
}

/* Leases up to 'max' records, whose keys are 'want'. */
static void
expect_leases(unsigned int max, const char *want)
{
	struct buffer out = { 0 };
	struct frame_lease lease = { 0 };
	struct frame_cursor c;
	char keys[64] = "";
	int n = partition_lease(t.partition, t.now_ms, UINT64_MAX, max, &out), n_read = 0;

	assert_int_equal(frame_leases_open(out.data, out.bytes, &c), 0);
	for (; frame_lease_next(&c, &lease) == 1; n_read++) {
		assert_memory_equal(lease.value, "value", lease.value_bytes);
		assert_int_equal(lease.value_bytes, 5);
		strncat(keys, (const char *)lease.key, lease.key_bytes);
	}
	assert_ptr_equal(c.at, c.end);
	assert_int_equal(n_read, n);
	assert_string_equal(keys, want);
	buffer_fini(&out);
}

static void
settle(const char *key, uint64_t version, enum frame_answer want)
{
	test_group(&t.frame, version + 1000);
	test_settle(&t.frame, LEASED, key, version);
	expect_group(want);
}

static void
a_due_record_is_leased_once(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	pass(900);
	assert_int_equal(partition_due_tables(t.partition), 0);
	expect_leases(10, "");
	pass(300);
	assert_int_not_equal(partition_due_tables(t.partition), 0);
	assert_int_equal(counters().due, 1);
	expect_leases(10, "a");
	assert_int_equal(partition_due_tables(t.partition), 0);
	assert_int_equal(counters().due, 1);
	expect_leases(10, "");
	pass(CORE_LEASE_MS - 100);
	expect_leases(10, "");
}

static void
a_lease_that_ends_is_given_again(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	pass(1200);
	for (unsigned int i = 0; i < 5; i++) {
		expect_leases(1, "a");
		pass(CORE_LEASE_MS);
		expect_leases(1, "");		/* Not before. */
		pass(200);
	}
	assert_int_equal(table(LEASED)->n_leased, 5);
	assert_int_equal(table(LEASED)->n_expired, 1);
	assert_int_equal(counters().due, 1);
}

static void
a_due_record_is_answered(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	put(PLAIN, "a", 1);
	pass(60000);				/* Nobody takes leases. */
	expect_record(PLAIN, "a", NULL, 0);
	expect_record(LEASED, "a", "value", 1);
	expect_leases(10, "a");
	expect_record(LEASED, "a", "value", 1);
	pass(60000);
	expect_record(LEASED, "a", "value", 1);
	test_group(&t.frame, 2);
	test_check(&t.frame, LEASED, "a", 1);
	expect_group(FRAME_APPLIED);
	expect_leases(10, "a");
}

/* Whether it waits for a lease, or has one. */
static void
a_touch_lets_it_live_on(void **state)
{
	(void)state;
	for (unsigned int leased = 0; leased < 2; leased++) {
		put(LEASED, "a", 1);
		pass(1200);
		if (leased)
			expect_leases(10, "a");
		test_touch(&t.frame, LEASED, "a");
		apply();
		assert_int_equal(counters().due, 0);
		assert_int_equal(partition_due_tables(t.partition), 0);
		settle("a", 1, FRAME_CONFLICT);
		pass(900);			/* The lease ends in this. */
		expect_leases(10, "");
		settle("a", 1, FRAME_CONFLICT);
		pass(300);
		expect_leases(10, "a");
		settle("a", 1, FRAME_APPLIED);
	}
}

/* An idle time that is shorter than a lease is not stretched by one. */
static void
a_touch_is_no_longer_than_the_idle_time(void **state)
{
	(void)state;
	test_group(&t.frame, 1);
	test_put(&t.frame, LEASED, "a", "value", 200);
	expect_group(FRAME_APPLIED);
	pass(400);
	expect_leases(10, "a");
	test_touch(&t.frame, LEASED, "a");
	apply();
	pass(400);
	expect_leases(10, "a");
}

static void
a_write_lets_it_live_on(void **state)
{
	(void)state;
	for (unsigned int leased = 0; leased < 2; leased++) {
		put(LEASED, "a", 1);
		pass(1200);
		if (leased)
			expect_leases(10, "a");
		put(LEASED, "a", 2);
		assert_int_equal(counters().due, 0);
		settle("a", 2, FRAME_CONFLICT);
		pass(900);
		expect_leases(10, "");
		pass(300);
		expect_leases(10, "a");
		assert_int_equal(counters().due, 1);
	}
}

static void
it_is_settled_once(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	settle("a", 1, FRAME_CONFLICT);		/* Its time is to come. */
	pass(1200);
	settle("a", 2, FRAME_CONFLICT);		/* Another version. */
	expect_leases(10, "a");
	settle("a", 1, FRAME_APPLIED);
	settle("a", 1, FRAME_CONFLICT);
	expect_record(LEASED, "a", NULL, 0);
	assert_int_equal(counters().due, 0);
	assert_int_equal(counters().settled, 1);
	pass(60000);
	expect_leases(10, "");
	assert_int_equal(counters().records, 0);
}

/* Any instance may settle: a lease only keeps others from trying. */
static void
it_may_be_settled_without_a_lease(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	pass(1200);
	settle("a", 1, FRAME_APPLIED);
	assert_int_equal(partition_due_tables(t.partition), 0);
	expect_leases(10, "");
}

static void
what_is_settled_may_be_put_again(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	pass(1200);
	test_group(&t.frame, 2);
	test_settle(&t.frame, LEASED, "a", 1);
	test_put(&t.frame, LEASED, "a", "value", IDLE_MS);
	expect_group(FRAME_APPLIED);
	expect_record(LEASED, "a", "value", 2);
	settle("a", 2, FRAME_CONFLICT);
	pass(1200);
	expect_leases(10, "a");
}

static void
a_plain_record_cannot_be_settled(void **state)
{
	(void)state;
	put(PLAIN, "a", 1);
	t.now_ms += 1200;
	test_group(&t.frame, 2);
	test_settle(&t.frame, PLAIN, "a", 1);
	expect_group(FRAME_CONFLICT);
}

static void
the_first_due_are_leased_first(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	pass(200);
	put(LEASED, "b", 2);
	put(OTHER, "x", 3);
	pass(200);
	put(LEASED, "c", 4);
	put(OTHER, "y", 5);
	pass(1500);
	test_group(&t.frame, 6);
	test_delete(&t.frame, LEASED, "b");	/* Out of the middle of a queue. */
	expect_group(FRAME_APPLIED);
	/* Tables take turns. */
	expect_leases(3, "axc");
	expect_leases(3, "y");
}

static void
a_table_may_stop_being_leased(void **state)
{
	(void)state;
	put(LEASED, "a", 1);
	put(LEASED, "b", 2);
	pass(1200);
	expect_leases(1, "b");
	assert_int_equal(test_declare(t.partition, "leased", 0, 0), LEASED);
	expect_record(LEASED, "a", NULL, 0);
	pass(200);
	pass(CORE_LEASE_MS + 200);
	assert_int_equal(counters().records, 0);
	assert_int_equal(counters().due, 0);
	expect_leases(10, "");
}

static void
loading_ends_leases_and_starts_anew(void **state)
{
	struct partition *loaded;

	(void)state;
	put(LEASED, "a", 1);
	put(LEASED, "b", 2);
	pass(1200);
	expect_leases(1, "b");
	loaded = test_reload(t.partition, t.now_ms);
	assert_true(test_same(t.partition, loaded));
	partition_free(t.partition);
	t.partition = loaded;
	assert_int_equal(counters().due, 0);
	settle("b", 2, FRAME_CONFLICT);
	pass(1000);
	expect_leases(10, "");
	pass(200);
	assert_int_equal(counters().due, 2);
	settle("b", 2, FRAME_APPLIED);
	expect_leases(10, "a");
}

/* Memory may end at any of the records. */
static void
leases_may_lack_memory(void **state)
{
	struct buffer out = { 0 };
	char key[2] = "a";
	int n = 0;

	(void)state;
	for (; key[0] < 'a' + 26; key[0]++)
		put(LEASED, key, (uint64_t)key[0]);
	pass(1200);
	test_memory_fail_after(0);
	assert_int_equal(partition_lease(t.partition, t.now_ms, UINT64_MAX, 26, &out), -ENOMEM);
	assert_int_equal(out.bytes, 0);
	test_memory_fail_after(1);
	while (n < 26) {
		struct frame_cursor c;
		int more = partition_lease(t.partition, t.now_ms, UINT64_MAX, 26, &out);

		assert_true(more > 0);
		n += more;
		assert_int_equal(frame_leases_open(out.data, out.bytes, &c), 0);
		test_memory_recover();
		out.bytes = 0;
	}
	assert_int_equal(n, 26);
	buffer_fini(&out);
}

/* --- Scan ----------------------------------------------------------------------- */

enum { N_SCANNED = 3000 };

static unsigned int
scan(uint8_t id, unsigned int max, uint8_t *seen)
{
	struct buffer out = { 0 };
	unsigned int n_calls = 0;
	uint64_t cursor = 0;

	do {
		struct frame_cursor c;
		struct frame_lease record;
		uint32_t ms[2];
		unsigned int n = 0;

		out.bytes = 0;
		assert_int_equal(partition_scan(t.partition, t.now_ms, id, max, &cursor,
						&out),
				 0);
		for (c.at = out.data, c.end = out.data + out.bytes; c.at < c.end; n++) {
			memcpy(ms, c.at, sizeof(ms));
			c.at += sizeof(ms);
			assert_int_equal(frame_lease_next(&c, &record), 1);
			assert_int_equal(record.table, id);
			assert_int_equal(ms[0], IDLE_MS);
			assert_in_range(ms[1], 0, IDLE_MS);
			seen[atoi((const char *)record.key)]++;
		}
		assert_in_range(n, 0, max);
		n_calls++;
	} while (cursor != 0);
	buffer_fini(&out);
	return n_calls;
}

static void
a_scan_meets_every_record(void **state)
{
	static const unsigned int sizes[] = { 1, 7, 100, 1000 };
	uint8_t seen[N_SCANNED];
	char key[8];

	(void)state;
	for (unsigned int i = 0; i < N_SCANNED; i++) {
		snprintf(key, sizeof(key), "%07u", i);
		put(i % 2 == 0 ? PLAIN : LEASED, key, i + 1);
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		memset(seen, 0, sizeof(seen));
		scan(LEASED, sizes[i], seen);
		for (unsigned int n = 0; n < N_SCANNED; n++)
			assert_int_equal(seen[n], n % 2);
	}
	/* None is left that is as good as deleted; those that are due are. */
	t.now_ms += 2 * IDLE_MS;
	memset(seen, 0, sizeof(seen));
	scan(PLAIN, 100, seen);
	scan(LEASED, 100, seen);
	for (unsigned int n = 0; n < N_SCANNED; n++)
		assert_int_equal(seen[n], n % 2);
	/* A call ends though it finds nothing. */
	assert_in_range(scan(OTHER, 1000, seen), 1, 3);
}

static void
any_cursor_will_do(void **state)
{
	static const uint64_t cursors[] = { 1, 1 << 14, 0x7fffffff, UINT32_MAX,
					    UINT64_MAX };
	struct buffer out = { 0 };

	(void)state;
	put(PLAIN, "a", 1);
	for (size_t i = 0; i < sizeof(cursors) / sizeof(cursors[0]); i++) {
		uint64_t cursor = cursors[i];

		assert_int_equal(partition_scan(t.partition, t.now_ms, PLAIN, 10, &cursor,
						&out),
				 0);
		assert_int_equal(cursor, 0);
	}
	buffer_fini(&out);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_due_record_is_leased_once),
		CASE(a_lease_that_ends_is_given_again),
		CASE(a_due_record_is_answered),
		CASE(a_touch_lets_it_live_on),
		CASE(a_touch_is_no_longer_than_the_idle_time),
		CASE(a_write_lets_it_live_on),
		CASE(it_is_settled_once),
		CASE(it_may_be_settled_without_a_lease),
		CASE(what_is_settled_may_be_put_again),
		CASE(a_plain_record_cannot_be_settled),
		CASE(the_first_due_are_leased_first),
		CASE(a_table_may_stop_being_leased),
		CASE(loading_ends_leases_and_starts_anew),
		CASE(leases_may_lack_memory),
		CASE(a_scan_meets_every_record),
		CASE(any_cursor_will_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

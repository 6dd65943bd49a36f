/*
 * test_counters.c - ADD: fields of values as counters with bounds.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_partition.h"

static int64_t
field(const char *key, unsigned int offset, uint64_t version)
{
	struct frame_value v;
	int64_t number;

	test_peek(&t.frame, 0, key);
	apply();
	v = expect(FRAME_HIT);
	assert_int_equal(v.version, version);
	assert_int_equal(v.value_bytes, 16);
	memcpy(&number, v.value + offset, sizeof(number));
	return number;
}

static void
counters_keep_to_their_bounds(void **state)
{
	static const struct {
		const char *name;
		int64_t from, delta, min, max, to;
		enum frame_answer want;
	} cases[] = {
		{ "within", 5, 3, 0, 10, 8, FRAME_APPLIED },
		{ "to the upper bound", 5, 5, 0, 10, 10, FRAME_APPLIED },
		{ "over it", 5, 6, 0, 10, 5, FRAME_BOUND },
		{ "to the lower bound", 5, -5, 0, 10, 0, FRAME_APPLIED },
		{ "below it", 5, -6, 0, 10, 5, FRAME_BOUND },
		{ "out of bounds, and back into them", 50, -45, 0, 10, 5, FRAME_APPLIED },
		{ "out of bounds, and not back", 50, -5, 0, 10, 50, FRAME_BOUND },
		{ "by nothing", 5, 0, 5, 5, 5, FRAME_APPLIED },
		{ "over the largest number", INT64_MAX, 1, INT64_MIN, INT64_MAX,
		  INT64_MAX, FRAME_BOUND },
		{ "below the smallest", INT64_MIN, -1, INT64_MIN, INT64_MAX, INT64_MIN,
		  FRAME_BOUND },
		{ "from end to end", INT64_MIN, INT64_MAX, INT64_MIN, INT64_MAX, -1,
		  FRAME_APPLIED },
	};
	uint64_t version = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool applied = cases[i].want == FRAME_APPLIED;

		test_group(&t.frame, ++version);
		test_delete(&t.frame, 0, "counter");
		test_group_end(&t.frame);
		test_group(&t.frame, ++version);
		test_add(&t.frame, 0, "counter", 8, cases[i].from, INT64_MIN, INT64_MAX);
		test_group_end(&t.frame);
		apply();
		test_group(&t.frame, ++version);
		test_add(&t.frame, 0, "counter", 8, cases[i].delta, cases[i].min,
			 cases[i].max);
		test_group_end(&t.frame);
		apply();
		expect(cases[i].want);
		if (field("counter", 8, version - !applied) != cases[i].to)
			fail_msg("not so: %s", cases[i].name);
	}
}

static void
a_counter_is_made_of_zeros(void **state)
{
	(void)state;
	test_group(&t.frame, 1);
	test_add(&t.frame, 0, "one", 0, 7, 0, 10);
	test_add(&t.frame, 0, "one", 8, -7, -10, 10);
	expect_group(FRAME_APPLIED);
	assert_int_equal(field("one", 0, 1), 7);
	assert_int_equal(field("one", 8, 1), -7);
	test_group(&t.frame, 2);
	test_add(&t.frame, 0, "two", 8, 11, 0, 10);
	expect_group(FRAME_BOUND);
	expect_record(0, "two", NULL, 0);
	assert_int_equal(counters().bounds, 1);
}

static void
a_value_too_short_has_no_such_field(void **state)
{
	(void)state;
	test_group(&t.frame, 1);
	test_put(&t.frame, 0, "short", "123456789012345", 0);
	expect_group(FRAME_APPLIED);
	test_group(&t.frame, 2);
	test_add(&t.frame, 0, "short", 8, 1, 0, INT64_MAX);
	test_put(&t.frame, 0, "other", "value", 0);
	expect_group(FRAME_BOUND);
	expect_record(0, "short", "123456789012345", 1);
	expect_record(0, "other", NULL, 0);
}

/* Who is told of a bound believes what it knows of the rest. */
static void
a_conflict_counts_more_than_a_bound(void **state)
{
	(void)state;
	test_group(&t.frame, 1);
	test_add(&t.frame, 0, "counter", 0, 11, 0, 10);
	test_check(&t.frame, 0, "other", 5);
	expect_group(FRAME_CONFLICT);
}

static void
a_counter_whose_time_has_passed_starts_anew(void **state)
{
	const int64_t one[3] = { 1, 0, 10 };

	(void)state;
	for (uint64_t version = 1; version <= 2; version++) {
		test_group(&t.frame, version);
		frame_add(&t.frame.f, 0, "one", 3, 1, 16, 0, 1000, one);
		t.frame.n_ops++;
		expect_group(FRAME_APPLIED);
		assert_int_equal(field("one", 0, version), 1);
		t.now_ms += 2000;		/* And nobody deletes it. */
	}
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(counters_keep_to_their_bounds),
		CASE(a_counter_is_made_of_zeros),
		CASE(a_value_too_short_has_no_such_field),
		CASE(a_conflict_counts_more_than_a_bound),
		CASE(a_counter_whose_time_has_passed_starts_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_wheel.c - the timer wheel against a plain array of when each record is due.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_memory.h"
#include "test_random.h"

enum { N_RECORDS = 500 };

static struct slots slots;
static struct wheel wheel;
static record_id id[N_RECORDS];
static uint32_t due[N_RECORDS];			/* 0: not in the wheel. */

static unsigned int
number_of(record_id which)
{
	return (unsigned int)slots_record(&slots, which)->version - 1;
}

static int
setup(void **state)
{
	(void)state;
	test_memory_init();
	memset(&wheel, 0, sizeof(wheel));
	memset(due, 0, sizeof(due));
	if (slots_init(&slots) != 0)
		return -1;
	for (unsigned int i = 0; i < N_RECORDS; i++) {
		if (slots_reserve(&slots, 0, 1) != 0)
			return -1;
		id[i] = slots_take(&slots, 0);
		memset(slots_record(&slots, id[i]), 0, sizeof(struct record));
		slots_record(&slots, id[i])->version = i + 1;
	}
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	slots_fini(&slots);
	return test_memory.n_bytes == 0 ? 0 : -1;
}

static void
arm(unsigned int i, uint32_t now, uint32_t when)
{
	wheel_disarm(&wheel, &slots, id[i]);
	wheel_arm(&wheel, &slots, id[i], now, when);
	due[i] = when;
}

/* Takes out up to 'max' of what came up, arms again what is early, like
 * partition_expire() does.  Returns whether there may be more. */
static bool
take(uint32_t now, unsigned int max)
{
	for (unsigned int n = 0; n < max; n++) {
		record_id up = wheel_next(&wheel, &slots, now);

		if (up == 0)
			return false;
		unsigned int i = number_of(up);
		assert_int_not_equal(due[i], 0);
		if (due[i] <= now)
			due[i] = 0;
		else
			wheel_arm(&wheel, &slots, up, now, due[i]);
	}
	return true;
}

static void
expect_none_due(uint32_t now)
{
	uint32_t n = 0;

	for (unsigned int i = 0; i < N_RECORDS; i++) {
		if (due[i] == 0)
			continue;
		assert_true(due[i] > now);
		n++;
	}
	assert_int_equal(wheel.n[0] + wheel.n[1] + wheel.n[2], n);
}

/* Far and near, on and around the borders of the levels. */
static uint32_t
some_span(struct test_random *r)
{
	static const uint32_t borders[] = { 1, 256, 65536, 1 << 24 };
	uint32_t span = borders[test_random_below(r, 4)];

	switch (test_random_below(r, 3)) {
	case 0:
		return span + test_random_below(r, 3) - (span > 1);
	case 1:
		return 1 + test_random_below(r, span);
	default:
		return 1 + test_random_below(r, 300);
	}
}

static void
every_record_comes_up_in_time(void **state)
{
	struct test_random r = test_random_init(__func__);
	uint32_t now = 5;

	(void)state;
	for (unsigned int n = 0; n < 20000; n++) {
		unsigned int i = test_random_below(&r, N_RECORDS);

		switch (test_random_below(&r, 4)) {
		case 0:
			wheel_disarm(&wheel, &slots, id[i]);
			due[i] = 0;
			break;
		case 1:
			now += test_random_below(&r, 20) == 0 ? some_span(&r) :
								test_random_below(&r, 4);
			/* Bounded calls finish in the end, whatever is armed between. */
			while (take(now, 1 + test_random_below(&r, 10)))
				arm(test_random_below(&r, N_RECORDS), now,
				    now + 1 + some_span(&r));
			expect_none_due(now);
			break;
		default:
			arm(i, now, now + some_span(&r));
		}
	}
}

static void
a_call_takes_no_more_than_it_may(void **state)
{
	unsigned int n = 0;

	(void)state;
	for (unsigned int i = 0; i < N_RECORDS; i++)
		arm(i, 1, 1 + 256 * 3);
	while (take(1 + 256 * 3, 7)) {
		unsigned int left = wheel.n[0] + wheel.n[1] + wheel.n[2];

		n++;
		assert_true(left + n * 7 >= N_RECORDS);
	}
	expect_none_due(1 + 256 * 3);
	assert_int_equal(wheel.n[0] + wheel.n[1] + wheel.n[2], 0);
}

/* A walk meets each record once, nearer slots first, and knows which of them were touched
 * since they were armed. */
static void
a_walk_follows_the_slots(void **state)
{
	struct test_random r = test_random_init(__func__);
	uint32_t now = 1 + test_random_below(&r, 100000), last = 0;
	bool met[N_RECORDS] = { false };
	unsigned int n = 0;

	(void)state;
	for (unsigned int i = 0; i < N_RECORDS; i++)
		arm(i, now, now + 1 + test_random_below(&r, i % 2 == 0 ? 250 : 60000));
	for (record_id at = wheel_after(&wheel, &slots, 0); at != 0; n++) {
		const struct record *record = slots_record(&slots, at);
		unsigned int i = number_of(at);

		assert_false(met[i]);
		met[i] = true;
		assert_false(wheel_early(&wheel, record, due[i]));
		assert_true(wheel_early(&wheel, record, due[i] + 256));
		/* Exactly in the first level, to one slot of 256 ticks in the second. */
		assert_true(due[i] >= last || record->slot_level == 2);
		assert_true(due[i] + 256 >= last);
		last = due[i];
		at = wheel_after(&wheel, &slots, at);
	}
	assert_int_equal(n, N_RECORDS);
}

static void
forty_nine_days_are_not_shortened(void **state)
{
	const uint32_t days_49 = UINT32_MAX / WHEEL_TICK_MS;

	(void)state;
	arm(0, 1000, 1000 + days_49);
	while (take(1000 + days_49 - 1, 1))
		;
	assert_int_equal(due[0], 1000 + days_49);
	while (take(1000 + days_49, 1))
		;
	assert_int_equal(due[0], 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_record_comes_up_in_time, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_call_takes_no_more_than_it_may, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_walk_follows_the_slots, setup,
						teardown),
		cmocka_unit_test_setup_teardown(forty_nine_days_are_not_shortened, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_ranges.c - ranges: PICK, TAKE and GIVE, and members in quarantine.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_partition.h"

enum { MANY = FRAME_MAX_MEMBERS };

static uint64_t version;

static void
take(uint32_t n_members, uint32_t member, enum frame_answer want)
{
	test_group(&t.frame, ++version);
	test_take(&t.frame, 0, "range", n_members, member);
	expect_group(want);
}

static void
give(uint32_t quarantine_ms, uint32_t member, enum frame_answer want)
{
	test_group(&t.frame, ++version);
	test_give(&t.frame, 0, "range", quarantine_ms, member);
	expect_group(want);
}

/* Takes all but one of the members. */
static void
take_all_but(uint32_t n_members, uint32_t free)
{
	for (uint32_t i = 0; i < n_members;) {
		for (unsigned int n = 0; n < 800 && i < n_members; n++, i++) {
			if (i == free)
				continue;
			test_group(&t.frame, ++version);
			test_take(&t.frame, 0, "range", n_members, i);
			test_group_end(&t.frame);
		}
		apply();
	}
}

/* The member that is proposed; -1: none. */
static int
pick(uint32_t n_members)
{
	struct frame_value v = { 0 };
	uint32_t member;

	test_pick(&t.frame, 0, "range", n_members);
	apply();
	assert_int_equal(frame_reply_next(&t.answers, &v), 1);
	expect_end();
	if (v.answer == FRAME_MISS)
		return -1;
	assert_int_equal(v.answer, FRAME_HIT);
	assert_int_equal(v.version, 0);
	assert_int_equal(v.value_bytes, sizeof(member));
	memcpy(&member, v.value, sizeof(member));
	assert_in_range(member, 0, n_members - 1);
	return (int)member;
}

static void
expect_range(uint32_t n_members, uint32_t n_taken)
{
	struct frame_value v;
	uint32_t head[2];

	test_peek(&t.frame, 0, "range");
	apply();
	v = expect(FRAME_HIT);
	memcpy(head, v.value, sizeof(head));
	assert_int_equal(v.value_bytes, frame_range_bytes(n_members));
	assert_int_equal(head[0], n_members);
	assert_int_equal(head[1], n_taken);
}

static void
of_two_takers_one_wins(void **state)
{
	(void)state;
	take(10, 3, FRAME_APPLIED);
	take(10, 3, FRAME_CONFLICT);
	expect_range(10, 1);
	give(0, 3, FRAME_APPLIED);
	expect_range(10, 0);
	take(10, 3, FRAME_APPLIED);
}

static void
what_is_given_was_taken(void **state)
{
	(void)state;
	give(0, 3, FRAME_CONFLICT);
	expect_record(0, "range", NULL, 0);
	take(10, 3, FRAME_APPLIED);
	give(0, 4, FRAME_CONFLICT);
	give(0, 10, FRAME_CONFLICT);
	give(0, MANY - 1, FRAME_CONFLICT);
	give(0, 3, FRAME_APPLIED);
	give(0, 3, FRAME_CONFLICT);
	expect_range(10, 0);
}

static void
a_group_takes_all_or_nothing(void **state)
{
	(void)state;
	take(100, 70, FRAME_APPLIED);
	test_group(&t.frame, ++version);
	test_take(&t.frame, 0, "range", 100, 69);
	test_give(&t.frame, 0, "range", 0, 70);
	test_take(&t.frame, 0, "range", 100, 71);
	test_take(&t.frame, 0, "other", 10, 0);
	expect_group(FRAME_APPLIED);
	expect_range(100, 2);
	test_group(&t.frame, ++version);
	test_take(&t.frame, 0, "range", 100, 70);
	test_take(&t.frame, 0, "range", 100, 71);
	expect_group(FRAME_CONFLICT);
	expect_range(100, 2);
}

static void
the_version_is_the_last_groups(void **state)
{
	(void)state;
	take(10, 3, FRAME_APPLIED);
	take(10, 4, FRAME_APPLIED);
	test_group(&t.frame, version + 1);
	test_check(&t.frame, 0, "range", version);
	test_give(&t.frame, 0, "range", 0, 3);
	expect_group(FRAME_APPLIED);
	test_group(&t.frame, version + 2);
	test_check(&t.frame, 0, "range", version + 1);
	test_give(&t.frame, 0, "range", 0, 4);
	expect_group(FRAME_APPLIED);
}

static void
a_range_grows(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 63, 64, 65, 1000, 1000, 64, MANY };
	uint32_t n = 0, n_taken = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bool again = i > 0 && sizes[i] <= n;

		n = sizes[i] > n ? sizes[i] : n;
		take(sizes[i], sizes[i] - 1, again ? FRAME_CONFLICT : FRAME_APPLIED);
		n_taken += !again;
		expect_range(n, n_taken);
		for (size_t j = 0; j <= i; j++)
			take(n, sizes[j] - 1, FRAME_CONFLICT);
	}
	/* What was taken of the smaller range is not given twice. */
	take(MANY, 5, FRAME_APPLIED);
	take(6, 5, FRAME_CONFLICT);
}

/* Within one group as well, whatever its order. */
static void
a_range_grows_in_a_group(void **state)
{
	(void)state;
	test_group(&t.frame, ++version);
	test_take(&t.frame, 0, "range", 10, 1);
	test_take(&t.frame, 0, "range", MANY, MANY - 1);
	test_take(&t.frame, 0, "range", 500, 400);
	expect_group(FRAME_APPLIED);
	expect_range(MANY, 3);
}

static void
other_values_are_no_ranges(void **state)
{
	static const char *const values[] = { "", "1234567", "\377\377\377\377abcd",
					      "a\001\001\001too short for so many" };

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		test_group(&t.frame, ++version);
		test_put(&t.frame, 0, "range", values[i], 0);
		expect_group(FRAME_APPLIED);
		assert_int_equal(pick(10), -1);
		take(10, 1, FRAME_CONFLICT);
		give(0, 1, FRAME_CONFLICT);
		give(1000, 1, FRAME_CONFLICT);
	}
}

/* --- PICK ----------------------------------------------------------------------- */

static void
a_pick_changes_nothing(void **state)
{
	(void)state;
	t.effects.bytes = 0;
	assert_int_not_equal(pick(MANY), -1);
	assert_int_equal(t.effects.bytes, 0);
	expect_record(0, "range", NULL, 0);
}

static void
the_last_free_member_is_found(void **state)
{
	(void)state;
	take_all_but(MANY, 40000);
	for (unsigned int i = 0; i < 300; i++)
		assert_int_equal(pick(MANY), 40000);
	assert_int_equal(pick(40000), -1);
	assert_int_equal(pick(40001), 40000);
	take(MANY, 40000, FRAME_APPLIED);
	assert_int_equal(pick(MANY), -1);
	give(0, MANY - 1, FRAME_APPLIED);
	assert_int_equal(pick(MANY), MANY - 1);
	assert_int_equal(pick(MANY - 1), -1);
}

static void
members_beyond_the_record_are_free(void **state)
{
	(void)state;
	take_all_but(70, 70);
	assert_int_equal(pick(70), -1);
	assert_int_equal(pick(71), 70);
	for (unsigned int i = 0; i < 300; i++)
		assert_in_range(pick(72), 70, 71);
}

/* Those who ask at the same time do not race while there is enough for all; and if there
 * is not, it is those who asked first that may have taken theirs. */
static void
picks_in_a_row_differ(void **state)
{
	enum { N_MEMBERS = 64000 };
	static const uint32_t n_free[] = { 1, 100, 640 };
	static int first[N_MEMBERS];

	(void)state;
	take_all_but(N_MEMBERS, N_MEMBERS);
	for (unsigned int c = 0; c < sizeof(n_free) / sizeof(n_free[0]); c++) {
		uint32_t step = N_MEMBERS / n_free[c];
		bool seen[N_MEMBERS] = { false };

		for (uint32_t i = 0; i < n_free[c]; i++) {
			test_group(&t.frame, ++version);
			test_give(&t.frame, 0, "range", 0, i * step);
			test_group_end(&t.frame);
			if (i % 500 == 499)
				apply();
		}
		apply();
		for (unsigned int i = 0; i < n_free[c]; i++) {
			first[i] = pick(N_MEMBERS);
			assert_in_range(first[i], 0, N_MEMBERS - 1);
			assert_int_equal((uint32_t)first[i] % step, 0);
			assert_false(seen[first[i]]);
			seen[first[i]] = true;
		}
		for (unsigned int i = 0; i < n_free[c] && n_free[c] <= 100; i++)
			assert_int_equal(pick(N_MEMBERS), first[i]);
		for (uint32_t i = 0; i < n_free[c]; i++)
			take(N_MEMBERS, i * step, FRAME_APPLIED);
	}
}

/* Chi-square of 'n' numbers that should be as many; beyond 6 standard deviations once in
 * a billion runs. */
static void
expect_spread(const unsigned int *n, unsigned int n_kinds, unsigned int n_all)
{
	double want = (double)n_all / n_kinds, sum = 0, deviation = n_kinds - 1;

	for (unsigned int i = 0; i < n_kinds; i++)
		sum += ((double)n[i] - want) * ((double)n[i] - want) / want;
	assert_true((sum - deviation) * (sum - deviation) < 36 * 2 * deviation);
}

static void
all_free_members_have_equal_chance(void **state)
{
	enum { KINDS = 64, PICKS = 20000 };
	/* Drawn from all members; where few are free, from groups of them; where next to
	 * none are, from the free ones. */
	static const struct {
		uint32_t n_members, step;
	} cases[] = { { 64512, 1 }, { 64000, 100 }, { 64000, 1000 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t n_members = cases[i].n_members, step = cases[i].step;
		unsigned int n[KINDS] = { 0 };

		if (step > 1)
			take_all_but(n_members, n_members);
		for (uint32_t free = 0; step > 1 && free < n_members; free += step)
			give(0, free, FRAME_APPLIED);
		for (unsigned int j = 0; j < PICKS; j++) {
			/* As if the last pick were long ago. */
			memset(t.partition->picks, 0, sizeof(t.partition->picks));
			n[(unsigned int)pick(n_members) / (n_members / KINDS)]++;
		}
		expect_spread(n, KINDS, PICKS);
	}
}

/* Whoever knows neither seed nor state cannot say what is next: at least other seeds give
 * other rows, and a row does not repeat itself. */
static void
picks_depend_on_the_seed(void **state)
{
	static const uint64_t seeds[2][2] = { { 3, 4 }, { 3, 5 } };
	int row[2][32];
	unsigned int n_same = 0;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		partition_free(t.partition);
		t.partition = test_partition_new(seeds[i]);
		test_declare(t.partition, "a", 0, 0);
		for (unsigned int j = 0; j < 32; j++)
			row[i][j] = pick(MANY);
	}
	for (unsigned int j = 0; j < 32; j++)
		n_same += (row[0][j] == row[1][j]) + (row[0][j] == row[0][(j + 16) % 32]);
	assert_in_range(n_same, 0, 3);
}

/* --- Quarantine ----------------------------------------------------------------- */

static void
expect_in_quarantine(bool yes)
{
	assert_int_equal(pick(2), yes ? -1 : 0);
	take(2, 0, yes ? FRAME_CONFLICT : FRAME_APPLIED);
	if (!yes)
		give(0, 0, FRAME_APPLIED);
	else
		give(5000, 0, FRAME_CONFLICT);
}

/* Two members taken, and one of them given back. */
static void
begin_quarantine(void)
{
	take(2, 0, FRAME_APPLIED);
	take(2, 1, FRAME_APPLIED);
	give(3000, 0, FRAME_APPLIED);
}

static void
a_member_rests_in_quarantine(void **state)
{
	(void)state;
	begin_quarantine();
	expect_in_quarantine(true);
	give(0, 0, FRAME_CONFLICT);
	pass(2900);
	expect_in_quarantine(true);
	expect_range(2, 2);
	pass(300);
	expect_range(2, 1);
	expect_in_quarantine(false);
	assert_int_equal(table(1)->n_records, 0);
	assert_int_equal(table(1)->n_expired, 1);
}

/* Its end comes when somebody sees to it, not before. */
static void
a_late_end_is_an_end_too(void **state)
{
	(void)state;
	begin_quarantine();
	t.now_ms += 10000;
	expect_in_quarantine(true);
	pass(0);
	expect_in_quarantine(false);
}

static void
quarantine_is_saved_and_loaded(void **state)
{
	(void)state;
	begin_quarantine();
	t.now_ms += 10000;			/* Passed, and not yet seen to. */
	for (unsigned int i = 0; i < 2; i++) {
		struct partition *loaded = test_reload(t.partition, t.now_ms);

		assert_true(test_same(t.partition, loaded));
		partition_free(t.partition);
		t.partition = loaded;
		expect_in_quarantine(true);
		pass(2900);			/* Anew. */
		expect_in_quarantine(true);
	}
	pass(300);
	expect_in_quarantine(false);
}

static void
quarantine_is_replicated(void **state)
{
	struct partition *replica = test_partition_new(test_seed);

	(void)state;
	test_declare(replica, "a", 0, 0);
	take(2, 0, FRAME_APPLIED);
	take(2, 1, FRAME_APPLIED);
	for (unsigned int i = 0; i < 3; i++) {
		size_t bytes = 0;

		if (i == 1)
			give(3000, 0, FRAME_APPLIED);
		else if (i == 2)
			pass(4000);
		/* Bit by bit, as it goes on. */
		for (; bytes < t.effects.bytes;) {
			size_t n = test_effect_bytes(t.effects.data + bytes);

			assert_int_equal(partition_replay(replica, t.effects.data + bytes,
							  n, 500),
					 0);
			bytes += n;
		}
		t.effects.bytes = 0;
		assert_true(test_same(t.partition, replica));
	}
	partition_free(t.partition);
	t.partition = replica;
	expect_in_quarantine(false);
}

/* Else the end would free a member that somebody has taken. */
static void
a_deleted_range_keeps_its_quarantine(void **state)
{
	(void)state;
	begin_quarantine();
	test_group(&t.frame, ++version);
	test_delete(&t.frame, 0, "range");
	expect_group(FRAME_APPLIED);
	take(2, 1, FRAME_APPLIED);
	take(2, 0, FRAME_CONFLICT);
	pass(4000);
	take(2, 0, FRAME_APPLIED);
	pass(4000);
	take(2, 0, FRAME_CONFLICT);
}

static void
clients_cannot_name_the_cores_table(void **state)
{
	(void)state;
	begin_quarantine();
	test_read(&t.frame, 1, "key");
	assert_int_equal(test_apply(t.partition, &t.frame, 9, 1, t.now_ms, &t.reply,
				    NULL),
			 -EBADMSG);
}

/* Memory is short, but what is given back has to go back. */
static void
members_are_given_back_while_memory_is_short(void **state)
{
	struct frame_reply_head head;

	(void)state;
	begin_quarantine();
	test_group(&t.frame, ++version);
	test_give(&t.frame, 0, "range", 1000, 1);
	test_group_end(&t.frame);
	test_group(&t.frame, ++version);
	test_take(&t.frame, 0, "range", 2000, 1999);
	test_group_end(&t.frame);
	assert_int_equal(test_apply_refusing(t.partition, &t.frame, 1, ++t.frame_id,
					     t.now_ms, true, &t.reply, NULL),
			 0);
	frame_reply_open(t.reply.data, t.reply.bytes, &head, &t.answers);
	expect(FRAME_APPLIED);
	expect(FRAME_REFUSED);
	test_frame_init(&t.frame);
	expect_range(2, 2);
	pass(4000);
	expect_range(2, 0);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
	const struct CMUnitTest tests[] = {
		CASE(of_two_takers_one_wins),
		CASE(what_is_given_was_taken),
		CASE(a_group_takes_all_or_nothing),
		CASE(the_version_is_the_last_groups),
		CASE(a_range_grows),
		CASE(a_range_grows_in_a_group),
		CASE(other_values_are_no_ranges),
		CASE(a_pick_changes_nothing),
		CASE(the_last_free_member_is_found),
		CASE(members_beyond_the_record_are_free),
		CASE(picks_in_a_row_differ),
		CASE(all_free_members_have_equal_chance),
		CASE(picks_depend_on_the_seed),
		CASE(a_member_rests_in_quarantine),
		CASE(a_late_end_is_an_end_too),
		CASE(quarantine_is_saved_and_loaded),
		CASE(quarantine_is_replicated),
		CASE(a_deleted_range_keeps_its_quarantine),
		CASE(clients_cannot_name_the_cores_table),
		CASE(members_are_given_back_while_memory_is_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

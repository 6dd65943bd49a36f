/*
 * test_operations.c - what functions may do with tables beyond reading and writing them,
 * by a function that does as its packets say: UDP packets to port 1000 + what, from a
 * port that is the key.  What it sees, it stamps into the destination port.
 */
#include "ask.h"

#include <stdio.h>

enum what {
	ADD = 1,				/* To the key's counter, up to 3. */
	GLANCE,					/* At it. */
	READ,
	COUNT,					/* Read it, and write one more. */
	OPEN,					/* A session. */
	BRIEF,					/* One that is worth less. */
	LOOK,					/* At it, without refreshing it. */
	TOUCH,
	PICK,					/* A member of a range, and take it. */
	TAKE,					/* Member 0. */
	GIVE,					/* Member 0, to rest for 5 s. */
	BOTH,					/* Read two keys, wherever they lie. */
	INSERT,
	PASS,					/* Nothing at all. */
};

enum {
	N_MEMBERS = 4,
	SESSION_MS = 10 * 1000,
	REMAKES = 500,				/* Sessions from here on are made anew. */
};

struct counter {
	int64_t n, unused;
};

struct session {
	uint32_t n_ended, zero;			/* How often its like ended before. */
};

static void session_expired(struct nf_run *r, const void *key, const void *value);

NF_TABLE(counter, uint32_t, struct counter)
NF_TABLE(session, uint32_t, struct session, .idle_ms = SESSION_MS,
	 .expired = session_expired)
NF_TABLE(ended, uint32_t, struct counter)
NF_TABLE(brief, uint32_t, struct session, .idle_ms = SESSION_MS)
NF_RANGE(member, uint32_t)

/* Counts, by reading and writing and by adding. */
static void
session_expired(struct nf_run *r, const void *key, const void *value)
{
	const struct counter *ended = ended_read(r, key);
	const struct session *session = value;

	if (nf_pending(r))
		return;

	struct counter next = { ended != NULL ? ended->n + 1 : 1, 0 };
	struct session again = { session->n_ended + 1, 0 };

	ended_write(r, key, &next);
	counter_add(r, key, 0, -1, INT64_MIN, INT64_MAX);
	if (*(const uint32_t *)key >= REMAKES && session->n_ended < 2)
		session_write(r, key, &again);
}

static void
stamp(struct nf_run *r, int64_t n)
{
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	to.port = rte_cpu_to_be_16((uint16_t)n);
	nf_set_dst(r, &to);
}

static enum nf_verdict
stamp_counter(struct nf_run *r, const struct counter *c)
{
	if (nf_pending(r))
		return NF_WAIT;
	stamp(r, c != NULL ? c->n : 0);
	return NF_SEND;
}

static enum nf_verdict
count(struct nf_run *r, uint32_t key)
{
	const struct counter *c = counter_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;

	struct counter next = { c != NULL ? c->n + 1 : 1, 0 };

	counter_write(r, &key, &next);
	stamp(r, next.n);
	return NF_SEND;
}

static enum nf_verdict
pick(struct nf_run *r, uint32_t key)
{
	uint32_t member;

	if (!member_pick(r, &key, N_MEMBERS, &member))
		return nf_pending(r) ? NF_WAIT : nf_drop(r, NF_DROP_PORTS);
	member_take(r, &key, N_MEMBERS, member);
	stamp(r, member);
	return NF_SEND;
}

static enum nf_verdict
session(struct nf_run *r, uint32_t key, enum what what)
{
	struct session new = { 0 };

	switch (what) {
	case OPEN:
		session_write(r, &key, &new);
		counter_add(r, &key, 0, 1, INT64_MIN, INT64_MAX);
		return NF_SEND;
	case BRIEF:
		brief_write_brief(r, &key, &new, SESSION_MS);
		return NF_SEND;
	case INSERT:
		brief_insert(r, &key, &new, SESSION_MS);
		return NF_SEND;
	case TOUCH:
		session_touch(r, &key);
		return NF_SEND;
	default:
		break;
	}

	const struct session *s = session_peek(r, &key);
	const struct session *b = brief_peek(r, &key);

	if (nf_pending(r))
		return NF_WAIT;
	return s != NULL || b != NULL ? NF_SEND : nf_drop(r, NF_DROP_STATE);
}

static enum nf_verdict
operations_packet(struct nf_run *r)
{
	uint32_t key = rte_be_to_cpu_16(nf_flow(r)->src_port), other = key + 1;
	enum what what = rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1000U;

	switch (what) {
	case ADD:
		counter_add(r, &key, 0, 1, 0, 3);
		return NF_SEND;
	case GLANCE:
		return stamp_counter(r, counter_glance(r, &key));
	case READ:
		return stamp_counter(r, counter_read(r, &key));
	case COUNT:
		return count(r, key);
	case PICK:
		return pick(r, key);
	case TAKE:
		member_take(r, &key, N_MEMBERS, 0);
		return NF_SEND;
	case GIVE:
		member_give(r, &key, 0, 5000);
		return NF_SEND;
	case BOTH:
		counter_read(r, &other);
		return stamp_counter(r, counter_read(r, &key));
	case PASS:
		return NF_SEND;
	default:
		return session(r, key, what);
	}
}

static const struct nf operations = { .name = "test_operations",
				      .packet = operations_packet };

/* --- how it is asked ------------------------------------------------------------ */

static struct bench *
open_bench(unsigned int n_pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &operations, .section = "", .n_pipes = n_pipes,
				     .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

static void
test_adds_stay_in_their_bounds(void **state)
{
	struct bench *b = open_bench(2, 1);

	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(run_one(b, i % 2, ADD, 1), 1000 + ADD);
	assert_int_equal(run_one(b, 0, GLANCE, 1), 3);
	assert_int_equal(run_one(b, 0, ADD, 1), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_LIMIT), 1);
	assert_int_equal(bench_stats(b).bounds, 8);
	assert_int_equal(run_one(b, 1, GLANCE, 1), 3);
	bench_close(b);
}

static void
test_adds_do_not_conflict_and_none_is_lost(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(2, 1);
		struct spec packets[16];

		for (unsigned int i = 0; i < 16; i++)
			packets[i] = ask(OPEN, 1 + i / 2);
		bench_race(b, packets, 16, schedule, 8);
		while (take(b) >= 0)
			;
		for (unsigned int key = 1; key <= 8; key++)
			assert_int_equal(run_one(b, 0, READ, key), 2);
		assert_int_equal(bench_conflicts(b), 0);
		bench_close(b);
	}
}

static void
test_a_glance_knows_of_its_own_pipes_adds(void **state)
{
	struct bench *b = open_bench(1, 1);

	assert_int_equal(run_one(b, 0, ADD, 1), 1000 + ADD);
	put(b, 0, ADD, 1);
	put(b, 0, GLANCE, 1);
	bench_settle(b);
	assert_int_equal(take(b), 2);
	assert_int_equal(take(b), 1000 + ADD);
	assert_int_equal(run_one(b, 0, READ, 1), 2);
	assert_int_equal(run_one(b, 0, GLANCE, 1), 2);
	bench_close(b);
}

static void
test_a_touch_refreshes_without_a_trip(void **state)
{
	struct bench *b = open_bench(2, 3);

	assert_int_equal(run_one(b, 0, OPEN, 1), 1000 + OPEN);
	for (unsigned int i = 0; i < 3; i++) {
		bench_wait(b, SESSION_MS - 1000);
		put(b, 1, TOUCH, 1);
		bench_turn(b, 1);
		assert_int_equal(take(b), 1000 + TOUCH);
		bench_turn(b, 1);
		assert_int_equal(run_one(b, 0, LOOK, 1), 1000 + LOOK);
	}
	bench_wait(b, SESSION_MS + 1000);
	bench_settle(b);
	assert_int_equal(run_one(b, 0, LOOK, 1), -1);
	bench_close(b);
}

/* --- expiry --------------------------------------------------------------------- */

/* Whatever the order of two instances' turns, and whether a packet comes in between. */
static void
test_a_session_ends_exactly_once(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 9; schedule++) {
		struct bench *b = open_bench(2, 1 + schedule % 2 * 2);
		bool touched = schedule >> 8;
		unsigned int n_left;

		for (unsigned int key = 1; key <= 40; key++)
			assert_int_equal(run_one(b, 0, OPEN, key), 1000 + OPEN);
		bench_wait(b, SESSION_MS + 1000);
		for (unsigned int i = 0; i < 8; i++) {
			if (i == 3 && touched)
				put(b, 1, TOUCH, 7);
			bench_turn(b, schedule >> i & 1);
		}
		bench_settle(b);
		n_left = bench_records(b, "session");
		assert_true(n_left <= touched);
		assert_int_equal(bench_records(b, "ended"), 40 - n_left);
		assert_int_equal(bench_stats(b).leases_settled, 40 - n_left);
		bench_wait(b, SESSION_MS + 1000);
		bench_settle(b);
		while (take(b) >= 0)
			;
		for (unsigned int key = 1; key <= 40; key++)
			assert_int_equal(run_one(b, 0, GLANCE, key), 0);
		assert_int_equal(bench_records(b, "ended"), 40);
		assert_int_equal(bench_stats(b).leases_settled, 40);
		bench_close(b);
	}
}

/* An instance that has the lease stops in the middle; another gets it.  When the first
 * one goes on, its group changes nothing. */
static void
test_a_lease_ends_with_its_instance(void **state)
{
	for (unsigned int n_turns = 0; n_turns < 4; n_turns++) {
		struct bench *b = open_bench(2, 1);

		assert_int_equal(run_one(b, 0, OPEN, 1), 1000 + OPEN);
		bench_wait(b, SESSION_MS + 1000);
		for (unsigned int i = 0; i < n_turns; i++)
			bench_turn(b, 0);
		bench_wait(b, 2000);
		for (unsigned int i = 0; i < 8; i++)
			bench_turn(b, 1);
		assert_int_equal(bench_records(b, "session"), 0);
		bench_settle(b);
		assert_int_equal(bench_stats(b).leases_settled, 1);
		assert_int_equal(run_one(b, 0, GLANCE, 1), 0);
		bench_close(b);
	}
}

static void
test_a_handler_may_make_its_record_anew(void **state)
{
	struct bench *b = open_bench(2, 1);

	assert_int_equal(run_one(b, 0, OPEN, REMAKES), 1000 + OPEN);
	for (unsigned int i = 1; i <= 3; i++) {
		bench_wait(b, SESSION_MS + 1000);
		bench_settle(b);
		assert_int_equal(bench_stats(b).leases_settled, i);
		assert_int_equal(bench_records(b, "session"), i < 3);
	}
	bench_close(b);
}

static void
test_what_is_of_another_format_is_left_alone(void **state)
{
	struct bench *b = open_bench(1, 1);

	assert_int_equal(run_one(b, 0, OPEN, 1), 1000 + OPEN);
	session_table.format = counter_table.format = 2;
	bench_wait(b, SESSION_MS + 1000);
	bench_settle(b);
	assert_int_equal(bench_stats(b).leases_left, 1);
	assert_int_equal(bench_records(b, "session"), 1);
	assert_int_equal(run_one(b, 0, COUNT, 1), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_FORMAT), 1);
	session_table.format = counter_table.format = 1;
	assert_int_equal(run_one(b, 0, READ, 1), 1);
	bench_close(b);
}

/* --- ranges --------------------------------------------------------------------- */

static void
test_a_member_is_found_as_long_as_there_is_one(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(2, 1);
		bool taken[N_MEMBERS] = { false };
		struct spec packets[5];
		int n;

		for (unsigned int i = 0; i < 5; i++)
			packets[i] = ask(PICK, 1);
		bench_race(b, packets, 5, schedule, 8);
		for (unsigned int i = 0; i < N_MEMBERS; i++) {
			n = take(b);
			assert_in_range(n, 0, N_MEMBERS - 1);
			assert_false(taken[n]);
			taken[n] = true;
		}
		assert_int_equal(take(b), -1);
		assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 1);
		bench_close(b);
	}
}

static void
test_a_member_rests_before_it_is_taken_again(void **state)
{
	struct bench *b = open_bench(2, 1);

	assert_int_equal(run_one(b, 0, TAKE, 1), 1000 + TAKE);
	assert_int_equal(run_one(b, 1, TAKE, 1), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 1);
	assert_int_equal(run_one(b, 1, GIVE, 1), 1000 + GIVE);
	assert_int_equal(run_one(b, 0, GIVE, 1), -1);
	assert_int_equal(run_one(b, 0, TAKE, 1), -1);
	for (unsigned int i = 1; i < N_MEMBERS; i++)
		assert_in_range(run_one(b, 0, PICK, 1), 1, N_MEMBERS - 1);
	assert_int_equal(run_one(b, 0, PICK, 1), -1);
	bench_wait(b, 6000);
	assert_int_equal(run_one(b, 1, PICK, 1), 0);
	bench_close(b);
}

static void
test_a_full_table_refuses_or_evicts(void **state)
{
	struct bench_setup setup = { .nf = &operations, .section = "", .n_pipes = 1,
				     .n_partitions = 1 };

	bench_close(open_bench(1, 1));		/* Numbers the tables. */
	for (unsigned int evict = 0; evict < 2; evict++) {
		struct bench *b;

		setup.table[brief_table.index] =
			(struct pipe_table){ .limit = 2, .evict = evict };
		b = bench_open_as(&setup);
		assert_int_equal(run_one(b, 0, INSERT, 1), 1000 + INSERT);
		assert_int_equal(run_one(b, 0, BRIEF, 2), 1000 + BRIEF);
		assert_int_equal(run_one(b, 0, INSERT, 1), -1);
		assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 1);
		assert_int_equal(run_one(b, 0, INSERT, 3), evict ? 1000 + INSERT : -1);
		assert_int_equal(bench_dropped(b, NF_DROP_STORE_FULL), !evict);
		assert_int_equal(run_one(b, 0, LOOK, 1), 1000 + LOOK);
		assert_int_equal(run_one(b, 0, LOOK, 2), evict ? -1 : 1000 + LOOK);
		assert_int_equal(bench_records(b, "brief"), 2);
		bench_close(b);
	}
}

/* --- partitions, and their loss ------------------------------------------------- */

static void
test_only_runs_of_a_lost_partition_are_lost(void **state)
{
	for (unsigned int pass = 0; pass < 2; pass++) {
		struct bench_setup setup = { .nf = &operations, .section = "",
					     .n_pipes = 1, .n_partitions = 4,
					     .pass_unseen = pass };
		struct bench *b = bench_open_as(&setup);

		bench_fail(b, 2, -ETIMEDOUT);
		for (uint32_t key = 1; key <= 60; key++) {
			uint32_t other = key + 1;
			bool lost = nf_spread(&key, 4) % 4 == 2;
			bool other_lost = nf_spread(&other, 4) % 4 == 2;

			assert_int_equal(run_one(b, 0, COUNT, key),
					 !lost ? 1 : pass ? 1000 + COUNT : -1);
			assert_int_equal(run_one(b, 0, BOTH, key),
					 !(lost || other_lost) ? 1
					 : pass ? 1000 + BOTH : -1);
			assert_int_equal(run_one(b, 0, PASS, key), 1000 + PASS);
		}
		assert_true((bench_dropped(b, NF_DROP_STORE_LOST) > 0) == !pass);
		bench_fail(b, 2, 0);
		for (unsigned int key = 1; key <= 60; key++)
			assert_in_range(run_one(b, 0, COUNT, key), 1, 2);
		bench_close(b);
	}
}

/* A group whose answer nobody knows: dropped, for it may not have happened. */
static void
test_a_group_that_may_be_lost_does_not_pass(void **state)
{
	struct bench *b = open_bench(1, 1);

	put(b, 0, COUNT, 1);
	bench_turn(b, 0);
	bench_fail(b, 0, -ETIMEDOUT);
	bench_settle(b);
	assert_int_equal(take(b), -1);
	assert_int_equal(bench_dropped(b, NF_DROP_STORE_LOST), 1);
	bench_fail(b, 0, 0);
	assert_int_equal(run_one(b, 0, COUNT, 1), 1);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adds_stay_in_their_bounds),
		cmocka_unit_test(test_adds_do_not_conflict_and_none_is_lost),
		cmocka_unit_test(test_a_glance_knows_of_its_own_pipes_adds),
		cmocka_unit_test(test_a_touch_refreshes_without_a_trip),
		cmocka_unit_test(test_a_session_ends_exactly_once),
		cmocka_unit_test(test_a_lease_ends_with_its_instance),
		cmocka_unit_test(test_a_handler_may_make_its_record_anew),
		cmocka_unit_test(test_what_is_of_another_format_is_left_alone),
		cmocka_unit_test(test_a_member_is_found_as_long_as_there_is_one),
		cmocka_unit_test(test_a_member_rests_before_it_is_taken_again),
		cmocka_unit_test(test_a_full_table_refuses_or_evicts),
		cmocka_unit_test(test_only_runs_of_a_lost_partition_are_lost),
		cmocka_unit_test(test_a_group_that_may_be_lost_does_not_pass),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

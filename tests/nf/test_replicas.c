/*
 * test_replicas.c - which packets wait for replicas, by a function that counts: UDP
 * packets to port 1000 + what, from a port that is the key.  What it has counted, it
 * stamps into the destination port, and what it was asked into the address.
 */
#include "ask.h"
#include "../unit/test_random.h"

enum what {
	READ = 1,
	COUNT,					/* One more. */
	HINT,					/* The same, which may be lost. */
	MIXED,					/* That, and a write that may not. */
	N_WHAT,
	JUMP = N_WHAT,				/* Ten more, at once. */
	BOTH,					/* Reads the next key as well: the sum. */
};

#define ELSEWHERE 1000

NF_TABLE(counter, uint32_t, uint32_t)
NF_TABLE(other, uint32_t, uint32_t, .spread = nf_spread)

static enum nf_verdict
replicas_packet(struct nf_run *r)
{
	uint32_t key = rte_be_to_cpu_16(nf_flow(r)->src_port), beside = key + 1, next;
	enum what what = rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1000U;
	const uint32_t *n, *m;
	struct endpoint to;

	/* With data: a hint about another key, in the same connection. */
	if (packet_payload_bytes(nf_packet(r)) > 0) {
		key += ELSEWHERE;
		what = HINT;
	}
	n = counter_read(r, &key);
	m = what == BOTH ? counter_read(r, &beside) : NULL;
	if (nf_pending(r))
		return NF_WAIT;
	next = (n != NULL ? *n : 0) + (m != NULL ? *m : 0);
	if (what != READ && what != BOTH) {
		next += what == JUMP ? 10 : 1;
		if (what == MIXED)
			other_write(r, &key, &next);
		counter_write(r, &key, &next);
		if (what == HINT || what == MIXED)
			nf_may_lose(r);
	}
	flow_destination(nf_flow(r), &to);
	to.port = rte_cpu_to_be_16((uint16_t)next);
	to.ip6[3] = (uint8_t)what;
	nf_set_dst(r, &to);
	return NF_SEND;
}

static const struct nf replicas = { .name = "test_replicas", .packet = replicas_packet };

static struct bench *
open_bench(unsigned int n_pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &replicas, .section = "", .n_pipes = n_pipes,
				     .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

static void
turn(struct bench *b, unsigned int n)
{
	while (n-- > 0)
		bench_turn(b, 0);
}

static void
test_nothing_leaves_on_what_replicas_may_not_have(void **state)
{
	struct bench *b = open_bench(1, 1);

	bench_hold(b, true);
	put(b, 0, COUNT, 1);
	for (unsigned int i = 0; i < 12; i++) {
		if (i == 6) {
			put(b, 0, READ, 1);
			put(b, 0, COUNT, 1);
			put(b, 0, READ, 2);
		}
		bench_turn(b, 0);
	}
	/* A read of something else does not wait. */
	assert_int_equal(take(b), 0);
	assert_int_equal(take(b), -1);
	assert_int_equal(bench_stats(b).uncommitted, 2);
	bench_hold(b, false);
	bench_settle(b);
	assert_int_equal(bench_stats(b).uncommitted, 0);
	assert_int_equal(take(b), 1);
	assert_int_equal(take(b), 1);
	assert_int_equal(take(b), 2);
	assert_int_equal(bench_conflicts(b), 0);
	bench_close(b);
}

/* More than the store lets wait: packets queue, and none is lost. */
static void
test_slow_replicas_lose_nothing(void **state)
{
	struct bench *b = open_bench(1, 2);
	int n, last = 0;

	bench_hold(b, true);
	for (unsigned int i = 0; i < 300; i++) {
		put(b, 0, COUNT, 1 + i % 3);
		bench_turn(b, 0);
		bench_turn(b, 0);
	}
	assert_int_equal(take(b), -1);
	bench_hold(b, false);
	bench_settle(b);
	for (unsigned int i = 0; i < 300; i++) {
		n = take(b);
		assert_true(n >= last);
		last = n;
	}
	assert_int_equal(last, 100);
	assert_int_equal(take(b), -1);
	assert_int_equal(bench_conflicts(b), 0);
	bench_close(b);
}

static void
test_what_may_be_lost_waits_for_no_replica(void **state)
{
	struct bench *b = open_bench(1, 1);

	bench_hold(b, true);
	put(b, 0, COUNT, 1);
	for (unsigned int i = 0; i < 3; i++) {
		put(b, 0, HINT, 2);
		put(b, 0, READ, 2);
	}
	turn(b, 12);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(take(b), i);
		assert_int_equal(take(b), i);
	}
	assert_int_equal(take(b), -1);
	assert_int_equal(bench_stats(b).uncommitted, 1);
	/* Nor does a batch in which there is nothing else. */
	put(b, 0, HINT, 2);
	turn(b, 6);
	assert_int_equal(take(b), 4);
	assert_int_equal(bench_stats(b).uncommitted, 1);
	bench_hold(b, false);
	bench_settle(b);
	assert_int_equal(take(b), 1);
	assert_int_equal(take(b), -1);
	assert_int_equal(bench_conflicts(b), 0);
	bench_close(b);
}

static void
test_nothing_leaves_early_that_depends_on_what_may_not_be_lost(void **state)
{
	static const enum what first[] = { COUNT, MIXED };

	for (unsigned int i = 0; i < 2; i++) {
		struct bench *b = open_bench(1, 1);

		bench_hold(b, true);
		put(b, 0, first[i], 1);
		put(b, 0, HINT, 1);
		put(b, 0, HINT, 1);
		put(b, 0, READ, 1);
		put(b, 0, READ, 2);
		turn(b, 12);
		assert_int_equal(take(b), 0);
		assert_int_equal(take(b), -1);
		bench_hold(b, false);
		bench_settle(b);
		for (int n = 1; n <= 3; n++)
			assert_int_equal(take(b), n);
		assert_int_equal(take(b), 3);
		assert_int_equal(bench_conflicts(b), 0);
		bench_close(b);
	}
}

/* What a light run wrote may be built upon by one that waits. */
static void
test_what_waits_behind_leaves_behind(void **state)
{
	struct bench *b = open_bench(1, 1);

	bench_hold(b, true);
	put(b, 0, HINT, 1);
	put(b, 0, COUNT, 1);
	put(b, 0, HINT, 1);
	turn(b, 12);
	assert_int_equal(take(b), 1);
	assert_int_equal(take(b), -1);
	bench_hold(b, false);
	bench_settle(b);
	assert_int_equal(take(b), 2);
	assert_int_equal(take(b), 3);
	assert_int_equal(bench_conflicts(b), 0);
	bench_close(b);
}

static void
test_a_race_is_run_again_before_replicas_have_it(void **state)
{
	struct bench *b = open_bench(2, 1);
	int sum = 0;

	bench_hold(b, true);
	put(b, 0, COUNT, 2);
	for (unsigned int i = 0; i < 2; i++)
		put(b, i, HINT, 1);
	for (unsigned int i = 0; i < 20; i++)
		bench_turn(b, i % 2);
	for (int n; (n = take(b)) >= 0;)
		sum += n;
	assert_int_equal(sum, 1 + 2);
	assert_int_equal(bench_conflicts(b), 1);
	bench_hold(b, false);
	bench_settle(b);
	assert_int_equal(take(b), 1);
	bench_close(b);
}

static void
test_a_connections_packets_leave_in_order(void **state)
{
	struct bench *b = open_bench(1, 2);
	struct spec hint = ask(COUNT, 1);

	hint.data = "x";
	bench_hold(b, true);
	put(b, 0, COUNT, 1);
	bench_put(b, 0, &hint);
	turn(b, 12);
	assert_int_equal(take(b), -1);
	put(b, 0, HINT, 1 + ELSEWHERE);
	turn(b, 12);
	assert_int_equal(take(b), -1);
	bench_hold(b, false);
	bench_settle(b);
	assert_string_equal(sent_endpoints(bench_take(b)), "10.0.0.1:1 > 10.0.0.2:1");
	assert_string_equal(sent_endpoints(bench_take(b)), "10.0.0.1:1 > 10.0.0.3:1");
	assert_string_equal(sent_endpoints(bench_take(b)), "10.0.0.1:1001 > 10.0.0.3:2");
	assert_int_equal(bench_conflicts(b), 0);
	bench_close(b);
}

/* Nobody leaves with what a light run wrote that then lost a race: key 2 is never 1. */
static void
test_what_saw_a_hint_that_failed_is_run_again(void **state)
{
	static const enum what after[] = { READ, BOTH };

	for (unsigned int i = 0; i < 4; i++) {
		struct bench *b = open_bench(2, 1);

		if (i % 2 == 1)
			put(b, 0, COUNT, 1);
		put(b, 0, HINT, 2);
		put(b, 0, after[i % 2], 2 - i % 2);
		bench_hold(b, i / 2 == 1);
		bench_turn(b, 0);
		put(b, 1, JUMP, 2);
		for (unsigned int n = 0; n < 20; n++)
			bench_turn(b, n < 2 || n % 2 == 1);
		bench_hold(b, false);
		bench_settle(b);
		for (int n; (n = take(b)) >= 0;)
			assert_true(n >= 10 || (i % 2 == 1 && n == 1));
		assert_int_equal(bench_conflicts(b), 2);
		bench_close(b);
	}
}

/* Each packet that writes counts once, whichever wait and whichever lose races; and those
 * of a connection leave in order. */
static void
test_nothing_is_lost_or_overtaken_in_any_mixture(void **state)
{
	struct test_random random = test_random_init("replicas");

	for (unsigned int round = 0; round < 200; round++) {
		struct bench *b = open_bench(1 + round % 2, 1 + round % 3);
		unsigned int n_written[4] = { 0 }, n_put = 0, n_sent = 0;
		unsigned int last[4][N_WHAT] = { 0 };
		const struct sent *s;

		for (unsigned int i = 0; i < 120; i++) {
			unsigned int what = 1 + test_random_below(&random, N_WHAT - 1);
			unsigned int key = 1 + test_random_below(&random, 3);

			/* Of a connection, in one pipe: packets do not overtake there. */
			put(b, (what + key) % (1 + round % 2), what, key);
			n_written[key] += what != READ;
			n_put++;
			bench_hold(b, test_random_below(&random, 3) > 0);
			for (unsigned int n = test_random_below(&random, 4); n > 0; n--)
				bench_turn(b, n % (1 + round % 2));
		}
		bench_hold(b, false);
		bench_settle(b);
		while ((s = bench_take(b)) != NULL) {
			unsigned int key, n, what;

			assert_int_equal(sscanf(sent_endpoints(s),
						"10.0.0.1:%u > 10.0.0.%u:%u", &key, &what,
						&n), 3);
			assert_true(n >= last[key][what] + (what != READ));
			last[key][what] = n;
			n_sent++;
		}
		assert_int_equal(n_sent, n_put);
		for (unsigned int key = 1; key <= 3; key++)
			assert_int_equal(run_one(b, 0, READ, key), n_written[key]);
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_leaves_on_what_replicas_may_not_have),
		cmocka_unit_test(test_slow_replicas_lose_nothing),
		cmocka_unit_test(test_what_may_be_lost_waits_for_no_replica),
		cmocka_unit_test(
			test_nothing_leaves_early_that_depends_on_what_may_not_be_lost),
		cmocka_unit_test(test_what_waits_behind_leaves_behind),
		cmocka_unit_test(test_a_race_is_run_again_before_replicas_have_it),
		cmocka_unit_test(test_a_connections_packets_leave_in_order),
		cmocka_unit_test(test_what_saw_a_hint_that_failed_is_run_again),
		cmocka_unit_test(test_nothing_is_lost_or_overtaken_in_any_mixture),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

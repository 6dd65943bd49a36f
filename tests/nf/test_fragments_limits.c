/*
 * test_fragments_limits.c - what waits for its first fragment, and what is known of
 * datagrams, is bounded in number and time; no flood of them stops or delays others.
 */
#include "fragments_gate.h"

/* [B34; case 27] */
static void
test_duplicates_do_not_use_up_limits(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .fragments = "per_source: 2", .n_pipes = 2,
		.n_partitions = 1 });
	struct step step = { "the same again", MIDDLE(dns), KEPT, true };

	for (unsigned int i = 0; i < 20; i++) {
		bench_steps(b, &step, 1);
		step.writes = false;
	}
	bench_steps(b, (struct step[]){ { "another", LAST(dns), KEPT, true },
					{ "all", FIRST(dns), SENT, true, .emits = 2 } },
		    2);
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	bench_close(b);
}

/* [B13; case 25] */
static void
test_what_is_lost_times_out(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });

	bench_steps(b, (struct step[]){ { "a first alone", FIRST(dns), SENT, true },
					{ "a last alone", LAST(dns2), KEPT, true },
					{ "over IPv6", LAST(dns6), KEPT, true } }, 3);
	bench_wait(b, 29900);
	bench_settle(b);
	assert_int_equal(bench_records(b, "fragments.datagram"), 3);
	assert_int_equal(bench_records(b, "fragments.fragment"), 2);
	bench_wait(b, 1200);
	bench_settle(b);
	assert_int_equal(bench_records(b, "fragments.datagram"), 1);
	assert_int_equal(bench_records(b, "fragments.fragment"), 1);
	bench_steps(b, (struct step[]){ { "too late", LAST(dns), KEPT, true },
					{ "alone", FIRST(dns2), SENT, true } }, 2);
	bench_wait(b, 60000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "fragments.datagram"), 0);
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	bench_wait(b, 600000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "fragments.sender"), 0);
	bench_close(b);
}

static void
test_the_timeout_is_as_configured(void **state)
{
	static const struct step steps[] = {
		{ "a first", FIRST(dns), SENT, true },
		{ "in time", MIDDLE(dns), SENT, true, .after_ms = 1900 },
		{ "too late", LAST(dns), KEPT, true, .after_ms = 3100 },
		{ "over IPv6", FIRST(dns6), SENT, true },
		{ "too late, too", LAST(dns6), KEPT, true, .after_ms = 3100 },
	};

	RUN("timeout: 2s", steps);
}

static struct step
waiting(const struct spec *of, uint32_t id, unsigned int at, int fate)
{
	return (struct step){ "one that waits", { .part_of = of, .id = id,
			      .fragment = (uint16_t)at, .part_bytes = 8, .more = true },
			      fate, fate == KEPT };
}

/* [B13, B34; case 25] */
static void
test_what_waits_is_limited(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 3 });
	static const struct spec other = WHOLE("10.0.0.77:1", "192.0.2.9:53");
	struct spec far = { .from = "10.0.0.1:1", .to = "192.0.2.9:53",
			    .protocol = PROTO_UDP, .data = "12345678", .more = true,
			    .id = 7 };
	struct step step = { "far out", far, KEPT, true };

	for (unsigned int i = 0; i < 65; i++) {	/* Of one datagram. */
		step.packet.fragment = (uint16_t)(10 + i);
		step.fate = i < 64 ? KEPT : DROPPED(LIMIT);
		step.writes = i < 64;
		bench_steps(b, &step, 1);
	}
	for (unsigned int i = 64; i < 110; i++) { /* Of one sender. */
		step = waiting(&dns, 100 + i, 2, i < 100 ? KEPT : DROPPED(LIMIT));
		bench_steps(b, &step, 1);
	}
	step = waiting(&other, 1, 2, KEPT);
	bench_steps(b, &step, 1);
	step = (struct step){ "first ones pass", FIRST(dns), SENT, true };
	bench_steps(b, &step, 1);
	bench_wait(b, 31000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "fragments.fragment"), 0);
	for (unsigned int i = 0; i < 102; i++) { /* They have been counted off. */
		step = waiting(&dns, 100 + i, 2, i < 100 ? KEPT : DROPPED(LIMIT));
		bench_steps(b, &step, 1);
	}
	bench_close(b);
}

/* Those that their first has sent are counted off. */
static void
test_what_was_sent_waits_no_more(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .fragments = "per_source: 2", .n_pipes = 2,
		.n_partitions = 1 });

	for (uint32_t id = 1; id < 50; id++) {
		struct step steps[] = {
			{ "early", MIDDLE(dns), KEPT, true },
			{ "early", LAST(dns), KEPT, true },
			{ "first", FIRST(dns), SENT, true, .emits = 2 },
		};

		for (unsigned int i = 0; i < 3; i++)
			steps[i].packet.id = id;
		bench_steps(b, steps, 3);
	}
	bench_close(b);
}

/* As without a file, but for the limit of a table. */
static struct bench *
open_limited(const char *section, const char *name, uint64_t limit)
{
	struct bench_setup setup = { .nf = &gate, .fragments = section, .n_pipes = 2,
				     .n_partitions = 1 };
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(&nf_fragments, table, STORE_MAX_TABLES), i = 0;

	while (i < n && strcmp(table[i]->name, name) != 0)
		i++;
	assert_true(i < n);
	setup.table[i] = (struct pipe_table){ .limit = limit, .evict = table[i]->evict };
	return bench_open_as(&setup);
}

/* Fragments of as many senders as it pleases the flood.  [B13, B34; U25] */
static void
test_a_flood_of_fragments_stops_nothing_else(void **state)
{
	static const struct step fine[] = {
		{ "a packet", dns, SENT },
		{ "a datagram in order", FIRST(dns), SENT, true },
		{ "its rest", MIDDLE(dns), SENT, true },
		{ "its end", LAST(dns), SENT, true },
	};
	struct bench *b = open_limited(NULL, "fragment", 50);
	char from[32];

	for (unsigned int i = 0; i < 500; i++) {
		struct spec flood = { .from = from, .to = "192.0.2.9:53",
				      .protocol = PROTO_UDP, .data = DATA,
				      .fragment = 2, .more = true };

		snprintf(from, sizeof(from), "10.1.%u.%u:1", i / 200, i % 200);
		bench_put(b, i % 2, &flood);
		if (i % 10 == 9)
			bench_settle(b);
	}
	assert_int_equal(bench_records(b, "fragments.fragment"), 50);
	assert_int_equal(bench_stats(b).kept, 50);
	assert_int_equal(bench_dropped(b, NF_DROP_STORE_FULL), 450);
	bench_steps(b, fine, RTE_DIM(fine));
	bench_close(b);
}

/* The first 'n_parts' of three of each of 'n' datagrams, from ever other senders. */
static void
put_strangers(struct bench *b, unsigned int n, unsigned int n_parts)
{
	static unsigned int sender;
	char from[32];

	for (unsigned int i = 0; i < n; i++, sender++) {
		const struct spec whole = WHOLE(from, "192.0.2.9:53");
		const struct spec part[] = { FIRST(whole), MIDDLE(whole), LAST(whole) };

		snprintf(from, sizeof(from), "10.1.%u.%u:1", sender / 200, sender % 200);
		for (unsigned int k = 0; k < n_parts; k++) {
			bench_put(b, i % 2, &part[k]);
			bench_settle(b);
			assert_non_null(bench_take(b));
			assert_null(bench_take(b));
		}
	}
}

/* Those of a flood go for others, the oldest first.  [B13, B34; U25] */
static void
test_a_flood_of_datagrams_stops_no_other(void **state)
{
	static const struct step first[] = { { "a first", FIRST(dns), SENT, true } };
	static const struct step rest[] = {
		{ "its rest", MIDDLE(dns), SENT, true },
		{ "its end", LAST(dns), SENT, true },
	};

	for (unsigned int n_parts = 1; n_parts <= 3; n_parts++) {
		struct bench *b = open_limited("", "datagram", 50);

		put_strangers(b, 300, n_parts);
		assert_int_equal(bench_records(b, "fragments.datagram"), 50);
		bench_steps(b, first, 1);
		put_strangers(b, 40, 1);
		bench_steps(b, rest, 2);
		assert_int_equal(bench_records(b, "fragments.datagram"), 50);
		assert_int_equal(bench_dropped(b, NF_DROP_STORE_FULL), 0);
		bench_close(b);
	}
}

/* Of them nothing more is to come. */
static void
test_whole_datagrams_go_before_others(void **state)
{
	static const struct step steps[] = {
		{ "its rest", MIDDLE(dns), SENT, true },
		{ "its end", LAST(dns), SENT, true },
	};
	static const struct step first = { "a first", FIRST(dns), SENT, true };
	struct bench *b = open_limited("", "datagram", 50);

	bench_steps(b, &first, 1);
	put_strangers(b, 500, 3);
	bench_steps(b, steps, RTE_DIM(steps));
	bench_close(b);
}

/* [B34] */
static void
test_what_is_held_of_a_forgotten_datagram_expires(void **state)
{
	static const struct step early[] = {
		{ "one waits", MIDDLE(dns), KEPT, true },
	};
	static const struct step steps[] = {
		{ "its datagram is forgotten", FIRST(dns), SENT, true },
		{ "what comes again passes", MIDDLE(dns), SENT, true },
		{ "and the end", LAST(dns), SENT, true },
		{ "what is left counts", { .part_of = &dns, .fragment = 2, .id = 9 },
		  DROPPED(LIMIT) },
		{ "until it expires", { .part_of = &dns, .fragment = 2, .id = 9 }, KEPT,
		  true, .after_ms = 31000 },
	};
	struct bench *b = open_limited("per_source: 1", "datagram", 4);

	bench_steps(b, early, 1);
	put_strangers(b, 10, 1);
	assert_int_equal(bench_records(b, "fragments.fragment"), 1);
	bench_steps(b, steps, RTE_DIM(steps));
	bench_close(b);
}

/* A datagram of more parts than are remembered. */
static void
test_parts_are_limited(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });
	struct spec part = { .from = "10.0.0.1:1", .to = "192.0.2.9:53",
			     .protocol = PROTO_UDP, .data = "12345678", .more = true };
	struct step step = { "a first", FIRST(dns), SENT, true };

	bench_steps(b, &step, 1);
	for (unsigned int i = 1; i < 130; i++) {
		part.fragment = (uint16_t)(2 * i);
		step = (struct step){ "one of many", part,
				      i < 128 ? SENT : DROPPED(LIMIT), i < 128 };
		bench_steps(b, &step, 1);
	}
	bench_close(b);
}

enum {
	STREAM_DATAGRAMS = 1000,		/* At the most. */
};

/* Datagrams of one sender, all of 'n_parts' parts of 16 bytes, and what became of
 * them. */
struct stream {
	struct spec whole;
	unsigned int n_datagrams, n_parts;
	unsigned int n_sent, apart;		/* The most, of parts of one datagram. */
	unsigned int first_at[STREAM_DATAGRAMS];
	uint64_t seen[STREAM_DATAGRAMS];	/* Parts, a bit each. */
};

static void
stream_take(struct stream *s, struct bench *b)
{
	const struct sent *sent;

	while ((sent = bench_take(b)) != NULL) {
		unsigned int i = (sent->frame[18] << 8 | sent->frame[19]) - 1;
		unsigned int part = (sent->frame[20] << 8 | sent->frame[21]) & 0x1fff;

		assert_true(i < s->n_datagrams);
		assert_false(s->seen[i] >> part / 2 & 1);
		if (s->seen[i] == 0)
			s->first_at[i] = s->n_sent;
		s->seen[i] |= 1ULL << part / 2;
		s->apart = RTE_MAX(s->apart, s->n_sent++ - s->first_at[i]);
	}
}

static void
stream_put(const struct stream *s, struct bench *b, unsigned int i)
{
	unsigned int part = i % s->n_parts;
	struct spec packet = PART(s->whole, 2 * part, 16, part + 1 < s->n_parts);

	packet.id = 1 + i / s->n_parts;
	bench_put(b, i % 2, &packet);
}

/* Parts come in order, in alternation at two instances, of which each takes its turn when
 * 'burst' more have come.  What is written is known 'latency' bursts later. */
static void
stream_run(struct stream *s, struct bench *b, unsigned int burst, unsigned int latency)
{
	unsigned int n = s->n_datagrams * s->n_parts;

	for (unsigned int i = 0, turn = 0; s->n_sent < n; i++) {
		assert_true(i < 2 * n + 1000 * burst);
		if (i < n)
			stream_put(s, b, i);
		if (i % burst < burst - 1)
			continue;
		bench_hold(b, ++turn % (latency + 1) != 0);
		bench_turn(b, turn % 2);
		stream_take(s, b);
		bench_turn(b, (turn + 1) % 2);
		stream_take(s, b);
	}
	bench_hold(b, false);
}

static void
stream(unsigned int n_parts, unsigned int burst, unsigned int latency)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });
	static struct stream s;
	struct pipe_stats stats;

	s = (struct stream){
		.n_parts = n_parts, .n_datagrams = 3 * STREAM_DATAGRAMS / n_parts,
		.whole = { .from = "10.0.0.1:1000", .to = "192.0.2.9:53",
			   .protocol = PROTO_UDP, .data_bytes = 16 * n_parts - 8 } };
	stream_run(&s, b, burst, latency);
	stats = bench_stats(b);
	/* None is held back, or given up... */
	assert_int_equal(stats.kept, 0);
	assert_int_equal(stats.injected, 0);
	/* ...and none is run again for what became of another datagram. */
	assert_true(10 * stats.runs <= (n_parts <= 4 ? 52 : 65) * s.n_sent);
	assert_true(s.apart <= 2 * n_parts + (8 + 2 * latency) * burst);
	bench_close(b);
}

/* A part is run four times if nobody contends: to find its ports and with them, each time
 * to ask and to decide.  [B13, B34, B52; case 23; U19] */
static void
test_one_senders_datagrams_do_not_wait_for_each_other(void **state)
{
	for (unsigned int burst = 1; burst <= 64; burst *= 4)
		for (unsigned int latency = 0; latency <= 4; latency += 2) {
			stream(3, burst, latency);
			stream(4, burst, latency);
			stream(45, burst, latency);
		}
}

/* Later fragments without a first, of one sender: of ever other datagrams, and of one. */
static void
put_flood(struct bench *b, unsigned int round, unsigned int n)
{
	static const struct spec whole = { .from = "10.0.0.1:1000",
					   .to = "192.0.2.9:53", .protocol = PROTO_UDP,
					   .data_bytes = 8000 };
	struct spec part = PART(whole, 2, 8, true);

	for (unsigned int i = 0; i < n; i++) {
		part.id = i % 4 == 0 ? 20000 : 20001 + (n * round + i) % 40000;
		part.fragment = (uint16_t)(i % 4 == 0 ? 2 + 2 * i : 2);
		bench_put(b, i % 2, &part);
	}
}

/* Sends what is no flood, in the midst of one, at two instances; returns after how many
 * turns of theirs all of it has left. */
static unsigned int
turns_among(struct bench *b, unsigned int round, unsigned int n_flood)
{
	struct spec fine[] = { dns, dns2, FIRST(dns), MIDDLE(dns), LAST(dns),
			       FIRST(dns2), MIDDLE(dns2), LAST(dns2) };
	unsigned int turns = 0, n_left = 0;

	put_flood(b, round, n_flood / 2);
	for (unsigned int i = 0; i < RTE_DIM(fine); i++) {
		fine[i].id = 1 + round;
		bench_put(b, i % 2, &fine[i]);
	}
	put_flood(b, 200 + round, n_flood / 2);
	for (; n_left < RTE_DIM(fine); turns++) {
		assert_true(turns < 100);
		bench_turn(b, turns % 2);
		while (bench_take(b) != NULL)
			n_left++;
	}
	return turns;
}

/* [B13, B34; U25] */
static void
test_one_senders_flood_delays_nobody(void **state)
{
	struct bench *b = bench_open_as(&(struct bench_setup){
		.nf = &gate, .n_pipes = 2, .n_partitions = 1 });
	const unsigned int rounds = 200, flood = 200;
	unsigned int quiet = 0, most = 0;
	struct pipe_stats before, after;

	for (unsigned int i = 0; i < rounds; i++)
		quiet = RTE_MAX(quiet, turns_among(b, i, 0));
	before = bench_stats(b);
	for (unsigned int i = 0; i < rounds; i++)
		most = RTE_MAX(most, turns_among(b, rounds + i, flood));
	bench_settle(b);
	after = bench_stats(b);
	assert_true(most <= quiet + 2);
	/* Its own wait one trip for a first, and are forgotten. */
	assert_int_equal(bench_records(b, "fragments.fragment"), 100);
	assert_int_equal(after.dropped[NF_DROP_LIMIT] + after.kept, rounds * flood);
	assert_true(after.conflicts <= 2 * before.conflicts);
	assert_true(after.runs - before.runs <= rounds * (4 * flood + 50));
	bench_close(b);
}

/* Held parts may outlive what is known of their datagram.  [B34] */
static void
test_what_is_left_of_a_datagram_is_replaced(void **state)
{
#define WAITS(at)                                                                        \
	{ .part_of = &dns, .fragment = (at), .part_bytes = 8, .more = true, .id = 3 }
	static const struct step steps[] = {
		{ "one waits", PART(dns, 1, 16, true), KEPT, true },
		{ "a last, with which it seems whole", PART(dns, 2, 8, false), KEPT,
		  true },
		{ "one of another, in its place", PART(dns, 2, 16, true), KEPT, true },
		{ "has left it behind", FIRST(dns), SENT, true, .emits = 1 },
		{ "which counts until it expires", WAITS(2), KEPT, true },
		{ "as those that wait", WAITS(3), KEPT, true },
		{ "of which there are three", WAITS(4), DROPPED(LIMIT) },
		{ "and none at last", WAITS(2), KEPT, true, .after_ms = 31000 },
		{ "so that another", WAITS(3), KEPT, true },
		{ "and one more may wait", WAITS(4), KEPT, true },
	};
#undef WAITS

	RUN("{ overlap: pass, per_source: 3 }", steps);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_duplicates_do_not_use_up_limits),
		cmocka_unit_test(test_what_is_lost_times_out),
		cmocka_unit_test(test_the_timeout_is_as_configured),
		cmocka_unit_test(test_what_waits_is_limited),
		cmocka_unit_test(test_what_was_sent_waits_no_more),
		cmocka_unit_test(test_a_flood_of_fragments_stops_nothing_else),
		cmocka_unit_test(test_a_flood_of_datagrams_stops_no_other),
		cmocka_unit_test(test_whole_datagrams_go_before_others),
		cmocka_unit_test(test_what_is_held_of_a_forgotten_datagram_expires),
		cmocka_unit_test(test_parts_are_limited),
		cmocka_unit_test(test_one_senders_datagrams_do_not_wait_for_each_other),
		cmocka_unit_test(test_one_senders_flood_delays_nobody),
		cmocka_unit_test(test_what_is_left_of_a_datagram_is_replaced),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

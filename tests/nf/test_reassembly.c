/*
 * test_reassembly.c - TCP reassembly, packet by packet.
 */
#include "harness.h"

#include <stdio.h>

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1000"

/* Data of the client, whose first byte is number 101. */
#define DATA(at, text) { OUT, .flags = "PA", .seq = 100 + (at), .data = text }
#define FIN(at) { OUT, .flags = "FA", .seq = 100 + (at) }

#define HANDSHAKE                                                                \
	{ "SYN", { OUT, .flags = "S", .seq = 100 }, SENT, true },                \
	{ "SYN/ACK", { IN, .flags = "SA", .seq = 900, .ack = 101 }, SENT, true }, \
	{ "ACK", { OUT, .flags = "A", .seq = 101, .ack = 901 }, SENT }

static const char defaults[] = "{}";

/* [B55] */
static void
test_what_is_in_order_passes(void **state)
{
	static const struct step steps[] = {
		{ "midstream", DATA(1, "abc"), DROPPED(STATE) },
		HANDSHAKE,
		{ "data", DATA(1, "abc"), SENT, true },
		{ "more", DATA(4, "def"), SENT, true },
		{ "the other direction", { IN, .flags = "PA", .seq = 901, .data = "x" },
		  SENT, true },
		{ "an ACK", { OUT, .flags = "A", .seq = 107 }, SENT },
		{ "again, in case it was lost behind us", DATA(1, "abc"), SENT },
		{ "old and new in one", DATA(4, "defg"), SENT, true },
		{ "a keep-alive byte", DATA(7, "g"), SENT },
		{ "FIN", FIN(8), SENT, true },
		{ "FIN again", FIN(8), SENT },
		{ "data behind the FIN", DATA(9, "x"), DROPPED(STATE) },
		{ "UDP", { OUT, .protocol = PROTO_UDP }, SENT },
		{ "ping", { OUT, .protocol = PROTO_ICMP, .type = 8 }, SENT },
		{ "ARP", { .side = NF_INSIDE, .arp = true }, SENT },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

/* [B55, B57] */
static void
test_what_is_early_waits(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "third", DATA(7, "ghi"), KEPT, true },
		{ "second", DATA(4, "def"), KEPT, true },
		{ "second again", DATA(4, "def"), KEPT },
		{ "first brings both", DATA(1, "abc"), SENT, true, .emits = 2 },
		{ "fourth", DATA(10, "j"), SENT, true },
		{ "early", DATA(13, "m"), KEPT, true },
		{ "what covers it comes without it", DATA(11, "klmn"), SENT, true },
		{ "FIN, early", FIN(16), KEPT, true },
		{ "its hole is filled", DATA(15, "o"), SENT, true, .emits = 1 },
		{ "nothing behind it", DATA(17, "x"), DROPPED(STATE) },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

static void
test_the_order_in_which_they_leave(void **state)
{
	struct bench *b = bench_open("reassembly", defaults, 2);
	static const struct step opening[] = { HANDSHAKE };
	static const struct spec early[] = {
		DATA(5, "56"), DATA(3, "34"), DATA(7, "78"),
	};
	static const struct spec last = DATA(1, "12");
	static const char *const want[] = { "12", "34", "56", "78" };

	bench_steps(b, opening, 3);
	for (unsigned int i = 0; i < 3; i++)
		bench_put(b, i % 2, &early[i]);
	bench_settle(b);
	assert_null(bench_take(b));
	bench_put(b, 1, &last);
	bench_settle(b);
	for (unsigned int i = 0; i < 4; i++) {
		const struct sent *s = bench_take(b);

		assert_non_null(s);
		assert_string_equal(sent_data(s), want[i]);
		assert_int_equal(s->side, NF_OUTSIDE);
	}
	/* Only the two directions are left. */
	assert_int_equal(bench_records(b, "stream"), 2);
	assert_int_equal(bench_records(b, "segment"), 0);
	bench_close(b);
}

/* [B56] */
static void
test_sequence_numbers_wrap(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S", .seq = 0xfffffffd }, SENT, true },
		{ "behind the wrap", { OUT, .flags = "PA", .seq = 1, .data = "c" }, KEPT,
		  true },
		{ "across it", { OUT, .flags = "PA", .seq = 0xfffffffe, .data = "abc" },
		  SENT, true, .emits = 1 },
		{ "too far ahead to be in any window", { OUT, .flags = "PA",
		  .seq = 0x50000000, .data = "x" }, DROPPED(STATE) },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

/* [B57] */
static void
test_what_is_kept_is_bounded(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "one", DATA(3, "x"), KEPT, true },
		{ "two", DATA(5, "x"), KEPT, true },
		{ "no room", DATA(7, "x"), DROPPED(LIMIT) },
		{ "one again is no third", DATA(3, "x"), KEPT },
		{ "the hole is filled", DATA(1, "xx"), SENT, true, .emits = 1 },
		{ "room again", DATA(7, "x"), KEPT, true },
	};

	RUN_STEPS("reassembly", "max_held: 2", steps);
}

/* One packet brings ten; the rest goes with those that follow. */
static void
test_many_are_released_in_steps(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "2", DATA(2, "b"), KEPT, true }, { "3", DATA(3, "c"), KEPT, true },
		{ "4", DATA(4, "d"), KEPT, true }, { "5", DATA(5, "e"), KEPT, true },
		{ "6", DATA(6, "f"), KEPT, true }, { "7", DATA(7, "g"), KEPT, true },
		{ "8", DATA(8, "h"), KEPT, true }, { "9", DATA(9, "i"), KEPT, true },
		{ "10", DATA(10, "j"), KEPT, true }, { "11", DATA(11, "k"), KEPT, true },
		{ "12", DATA(12, "l"), KEPT, true }, { "13", DATA(13, "m"), KEPT, true },
		{ "1 brings ten", DATA(1, "a"), SENT, true, .emits = 10 },
		{ "14 waits behind the others, which go", DATA(14, "n"), KEPT, true,
		  .emits = 3 },
		{ "15", DATA(15, "o"), SENT, true },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

/* [B59, case 25] */
static void
test_what_waits_too_long_is_lost(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "early", DATA(4, "def"), KEPT, true },
		{ "early", DATA(7, "ghi"), KEPT, true, .after_ms = 20000 },
		{ "the first of them has gone", DATA(1, "abc"), SENT, true,
		  .after_ms = 11000 },
		{ "it comes again", DATA(4, "def"), SENT, true, .emits = 1 },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

/* [B31] */
static void
test_only_an_exact_rst_and_a_due_syn_count(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "data", DATA(1, "abc"), SENT, true },
		{ "a blind RST passes and changes nothing", { OUT, .flags = "R",
		  .seq = 105 }, SENT },
		{ "a blind SYN likewise", { OUT, .flags = "S", .seq = 5000 }, SENT },
		{ "data", DATA(4, "def"), SENT, true },
		{ "RST", { OUT, .flags = "R", .seq = 107 }, SENT, true },
		{ "nothing is left", DATA(7, "ghi"), DROPPED(STATE) },
		{ "of the other direction either", { IN, .flags = "PA", .seq = 901,
		  .data = "x" }, DROPPED(STATE) },
		{ "SYN", { OUT, .flags = "S", .seq = 5000 }, SENT, true },
		{ "SYN again", { OUT, .flags = "S", .seq = 5000 }, SENT },
		{ "another SYN, as nothing was sent yet", { OUT, .flags = "S",
		  .seq = 100 }, SENT, true },
		{ "data", DATA(1, "abc"), SENT, true },
		{ "FIN", FIN(4), SENT, true },
		{ "SYN after the FIN", { OUT, .flags = "S", .seq = 7000 }, SENT, true },
		{ "data on a SYN counts", { IN, .flags = "SA", .seq = 900,
		  .data = "fast" }, SENT, true },
		{ "so this is next", { IN, .flags = "PA", .seq = 905, .data = "x" }, SENT,
		  true },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

static void
test_what_cannot_be_placed_is_dropped(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "a wrong checksum", { OUT, .flags = "PA", .seq = 101, .data = "x",
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "a first fragment", { OUT, .flags = "PA", .seq = 101,
		  .data = "12345678",
		  .more = true }, DROPPED(FRAGMENT) },
		{ "a later fragment", { OUT, .fragment = 1, .data = "x" },
		  DROPPED(FRAGMENT) },
		{ "the stream is as it was", DATA(1, "x"), SENT, true },
	};

	RUN_STEPS("reassembly", defaults, steps);
}

/* All segments of a stream, in every order of four, on two instances at once: each
 * byte leaves once and in order.  [B58, B60, B72] */
static void
race(const unsigned int *order, unsigned int schedule)
{
	static const struct step opening[] = { HANDSHAKE };
	static const struct spec segment[] = {
		DATA(1, "a"), DATA(2, "bb"), DATA(4, "ccc"), DATA(7, "dddd"),
	};
	struct bench *b = bench_open("reassembly", defaults, 2);
	struct spec packets[4];
	char all[16] = "";
	const struct sent *s;

	bench_steps(b, opening, 3);
	for (unsigned int i = 0; i < 4; i++)
		packets[i] = segment[order[i]];
	bench_race(b, packets, 4, schedule, 10);
	while ((s = bench_take(b)) != NULL)
		strcat(all, sent_data(s));
	/* Between two instances the wire may swap what both send in one turn. */
	assert_int_equal(strlen(all), 10);
	assert_int_equal(bench_records(b, "stream"), 2);
	assert_int_equal(bench_records(b, "segment"), 0);
	for (const char *c = "abbcccdddd"; *c != '\0'; c++)
		assert_non_null(strchr(all, *c));
	assert_int_equal(bench_dropped(b, NF_DROP_CONFLICT), 0);
	bench_close(b);
}

static void
test_two_instances_send_each_segment_once(void **state)
{
	for (unsigned int code = 0; code < 256; code++) {
		unsigned int order[4], seen = 0;

		for (unsigned int i = 0; i < 4; i++) {
			order[i] = code >> 2 * i & 3;
			seen |= 1U << order[i];
		}
		for (unsigned int schedule = 0; seen == 15 && schedule < 64; schedule++)
			race(order, schedule * 0x2b);
	}
}

static void
test_what_a_section_may_not_say(void **state)
{
	assert_true(bench_refuses("reassembly", "max_held: 65"));
	assert_true(bench_refuses("reassembly", "max_held: 0"));
	assert_true(bench_refuses("reassembly", "idle: 0"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_in_order_passes),
		cmocka_unit_test(test_what_is_early_waits),
		cmocka_unit_test(test_the_order_in_which_they_leave),
		cmocka_unit_test(test_sequence_numbers_wrap),
		cmocka_unit_test(test_what_is_kept_is_bounded),
		cmocka_unit_test(test_many_are_released_in_steps),
		cmocka_unit_test(test_what_waits_too_long_is_lost),
		cmocka_unit_test(test_only_an_exact_rst_and_a_due_syn_count),
		cmocka_unit_test(test_what_cannot_be_placed_is_dropped),
		cmocka_unit_test(test_two_instances_send_each_segment_once),
		cmocka_unit_test(test_what_a_section_may_not_say),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

/*
 * test_ips.c - the IPS, packet by packet, and its matcher against a plain search.
 */
#include "harness.h"

#include "nf/matcher.h"

static const char section[] = "signatures:\n"
			      "- { id: 1, content: evil, action: alert }\n"
			      "- { id: 2, content: 'kill|20 6D|e', action: drop }\n"
			      "- { id: 3, content: 'a\\|b', action: alert }\n";

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1000"

#define DATA(at, text) { OUT, .flags = "PA", .seq = 100 + (at), .data = text }

#define HANDSHAKE                                                                \
	{ "SYN", { OUT, .flags = "S", .seq = 100 }, SENT, true },                \
	{ "SYN/ACK", { IN, .flags = "SA", .seq = 900, .ack = 101 }, SENT, true }, \
	{ "ACK", { OUT, .flags = "A", .seq = 101, .ack = 901 }, SENT }

/* [B62, case 55] */
static void
test_a_signature_is_found_wherever_it_is_cut(void **state)
{
	static const struct step steps[] = {
		{ "midstream", DATA(1, "evil"), DROPPED(STATE) },
		HANDSHAKE,
		{ "whole", DATA(1, "xxevilxx"), SENT, true, .alerts = 1 },
		{ "again is not another", DATA(1, "xxevilxx"), SENT },
		{ "its beginning", DATA(9, "e"), SENT, true },
		{ "an ACK in between", { OUT, .flags = "A", .seq = 110 }, SENT },
		{ "the other direction is another stream",
		  { IN, .flags = "PA", .seq = 901, .data = "vil" }, SENT, true },
		{ "its middle", DATA(10, "vi"), SENT, true },
		{ "its end", DATA(12, "l"), SENT, true, .alerts = 1 },
		{ "its end again", DATA(12, "l"), SENT },
		{ "old and new bytes in one segment", DATA(12, "lev"), SENT, true },
		{ "the rest", DATA(15, "il"), SENT, true, .alerts = 1 },
		{ "a bar in the text", DATA(17, "a|b"), SENT, true, .alerts = 3 },
		{ "in the other direction", { IN, .flags = "PA", .seq = 904,
		  .data = "evil" }, SENT, true, .alerts = 1 },
	};

	RUN_STEPS("ips", section, steps);
}

/* [B65, case 47] */
static void
test_a_drop_is_for_the_rest_of_the_connection(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "as far as the bytes in hexadecimal", DATA(1, "kill"), SENT, true },
		{ "these", DATA(5, " m"), SENT, true },
		{ "and the rest", DATA(7, "e"), DROPPED(SIGNATURE), true, .alerts = 2 },
		{ "other connections are not affected", { .side = NF_INSIDE,
		  .from = "10.0.0.2:1", .to = "192.0.2.1:80", .flags = "S" }, SENT,
		  true },
	};
	static const char drops[] =
		"signatures: [{ id: 7, content: kill, action: drop }]";
	static const struct step dropped[] = {
		HANDSHAKE,
		{ "its beginning", DATA(1, "ki"), SENT, true },
		{ "its end", DATA(3, "ll"), DROPPED(SIGNATURE), true, .alerts = 7 },
		{ "again", DATA(3, "ll"), DROPPED(SIGNATURE) },
		{ "something else", DATA(3, "xx"), DROPPED(SIGNATURE) },
		{ "the other direction", { IN, .flags = "A", .seq = 901 },
		  DROPPED(SIGNATURE) },
		{ "a RST", { OUT, .flags = "R", .seq = 103 }, DROPPED(SIGNATURE) },
		{ "a SYN", { OUT, .flags = "S", .seq = 9 }, DROPPED(SIGNATURE) },
		{ "a datagram of it", { OUT, .protocol = PROTO_UDP, .data = "kill" },
		  DROPPED(SIGNATURE), true, .alerts = 7 },
		{ "and the answer", { IN, .protocol = PROTO_UDP, .data = "x" },
		  DROPPED(SIGNATURE) },
	};

	RUN_STEPS("ips", section, steps);
	RUN_STEPS("ips", drops, dropped);
}

/* What the receiver may take for new although it was seen before may not carry what
 * says drop.  [B55, case 57] */
static void
test_old_bytes_are_not_a_way_round(void **state)
{
	static const char drops[] =
		"signatures: [{ id: 7, content: kill, action: drop },"
		" { id: 8, content: evil, action: alert }]";
	static const struct step steps[] = {
		HANDSHAKE,
		{ "harmless", DATA(1, "xxxx"), SENT, true },
		{ "the same place, another text", DATA(1, "kill"), DROPPED(SIGNATURE),
		  true,
		  .alerts = 7 },
		{ "is blocked", DATA(5, "xxxx"), DROPPED(SIGNATURE) },
	};

	RUN_STEPS("ips", drops, steps);
}

/* [B66] */
static void
test_what_is_out_of_order_comes_again(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "early", DATA(3, "il"), DROPPED(LIMIT) },
		{ "first", DATA(1, "ev"), SENT, true },
		{ "then", DATA(3, "il"), SENT, true, .alerts = 1 },
		{ "a wrong checksum", { OUT, .flags = "PA", .seq = 105, .data = "x",
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "a blind SYN changes nothing", { OUT, .flags = "S", .seq = 5000 },
		  SENT },
		{ "a blind RST likewise", { OUT, .flags = "R", .seq = 5000 }, SENT },
		{ "data", DATA(5, "ev"), SENT, true },
		{ "FIN with data", { OUT, .flags = "FPA", .seq = 107, .data = "il" },
		  SENT,
		  true, .alerts = 1 },
		{ "behind the FIN", DATA(10, "x"), DROPPED(STATE) },
		{ "RST", { IN, .flags = "R", .seq = 901 }, SENT, true },
		{ "all is forgotten", DATA(1, "x"), DROPPED(STATE) },
		{ "data on a SYN", { OUT, .flags = "S", .seq = 100, .data = "ev" }, SENT,
		  true },
		{ "goes on behind it", DATA(3, "il"), SENT, true, .alerts = 1 },
		{ "a fragment", { OUT, .fragment = 1, .data = "x" }, DROPPED(FRAGMENT) },
		{ "ARP", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "a datagram", { OUT, .protocol = PROTO_UDP, .data = "ev" }, SENT },
		{ "does not go on", { OUT, .protocol = PROTO_UDP, .data = "il" }, SENT },
		{ "a ping", { OUT, .protocol = PROTO_ICMP, .type = 8, .data = "evil" },
		  SENT, .alerts = 1 },
	};

	RUN_STEPS("ips", section, steps);
}

static void
test_midstream_can_be_inspected(void **state)
{
	static const char inspect[] =
		"signatures: [{ id: 1, content: evil, action: alert }]\n"
		"midstream: inspect\n";
	static const struct step steps[] = {
		{ "a bare ACK", { OUT, .flags = "A", .seq = 5 }, SENT },
		{ "from here on", DATA(7, "ev"), SENT, true },
		{ "it is inspected", DATA(9, "il"), SENT, true, .alerts = 1 },
	};

	RUN_STEPS("ips", inspect, steps);
}

static void
test_what_a_section_may_not_say(void **state)
{
	static const char *const contents[] = {
		"''", "'|4|'", "'|41'", "'|4x|'", "'a\\'",
	};

	for (unsigned int i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
		char text[128] = "signatures: [{ id: 1, action: drop, content: ";

		strcat(strcat(text, contents[i]), " }]");
		assert_true(bench_refuses("ips", text));
	}
	assert_true(bench_refuses("ips", "midstream: drop"));
	assert_true(bench_refuses("ips", "signatures: [{ id: 1, action: drop }]"));
	assert_false(bench_refuses("ips", "signatures: []"));
}

/* The segments of a signature on two instances at once: whichever is early is dropped
 * and comes again, and the signature is found exactly once.  [B62, B72] */
static void
test_two_instances_find_it_once(void **state)
{
	static const struct step opening[] = { HANDSHAKE };
	static const struct spec segment[] = {
		DATA(1, "ev"), DATA(3, "i"), DATA(4, "lx"),
	};

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("ips", section, 2);

		bench_steps(b, opening, 3);
		bench_race(b, segment, 3, schedule, 10);
		for (unsigned int again = 0; again < 3; again++)
			bench_race(b, segment, 3, schedule, 10);
		assert_int_equal(bench_alert(b), 1);
		assert_int_equal(bench_alert(b), 0);
		while (bench_take(b) != NULL)
			;
		bench_close(b);
	}
}

/* --- the matcher -------------------------------------------------------------- */

struct tally {
	unsigned int n[8];
};

static void
tally(void *context, unsigned int string)
{
	((struct tally *)context)->n[string]++;
}

static unsigned int
count_plainly(const char *text, const char *string)
{
	unsigned int n = 0;

	for (const char *at = text; (at = strstr(at, string)) != NULL; at++)
		n++;
	return n;
}

/* Strings that are part of each other, in texts of two letters, cut everywhere. */
static void
test_the_matcher_finds_what_a_plain_search_finds(void **state)
{
	static const char *const strings[] = {
		"ab", "aba", "b", "bbb", "abab", "aab", "ab", "babbaab",
	};
	struct matcher_string list[8];
	struct matcher *m;

	for (unsigned int i = 0; i < 8; i++)
		list[i] = (struct matcher_string){ (const uint8_t *)strings[i],
						   strlen(strings[i]) };
	assert_int_equal(matcher_new(list, 8, &m), 0);
	for (unsigned int code = 0; code < 1 << 14; code++) {
		unsigned int cut = code % 15;
		uint32_t at = MATCHER_START;
		struct tally found = { { 0 } };
		char text[15] = "";

		for (unsigned int i = 0; i < 14; i++)
			text[i] = (char)('a' + (code >> i & 1));
		at = matcher_scan(m, at, (const uint8_t *)text, cut, tally, &found);
		matcher_scan(m, at, (const uint8_t *)text + cut, 14 - cut, tally, &found);
		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(found.n[i], count_plainly(text, strings[i]));
	}
	matcher_free(m);
}

/* Every byte value is a class of its own, if need be. */
static void
test_the_matcher_knows_all_bytes(void **state)
{
	uint8_t all[256], text[256];
	struct matcher_string one = { all, 256 };
	struct tally found = { { 0 } };
	struct matcher *m;

	for (unsigned int i = 0; i < 256; i++)
		all[i] = (uint8_t)(255 - i);
	assert_int_equal(matcher_new(&one, 1, &m), 0);
	for (unsigned int i = 0; i < 256; i++) {
		memcpy(text, all, 256);
		text[i] ^= 1;
		matcher_scan(m, MATCHER_START, text, 256, tally, &found);
	}
	assert_int_equal(found.n[0], 0);
	matcher_scan(m, MATCHER_START, all, 256, tally, &found);
	assert_int_equal(found.n[0], 1);
	matcher_free(m);
	assert_int_equal(matcher_new(&one, 0, &m), 0);
	assert_int_equal(matcher_scan(m, MATCHER_START, all, 256, tally, &found), 0);
	matcher_free(m);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_signature_is_found_wherever_it_is_cut),
		cmocka_unit_test(test_a_drop_is_for_the_rest_of_the_connection),
		cmocka_unit_test(test_old_bytes_are_not_a_way_round),
		cmocka_unit_test(test_what_is_out_of_order_comes_again),
		cmocka_unit_test(test_midstream_can_be_inspected),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_two_instances_find_it_once),
		cmocka_unit_test(test_the_matcher_finds_what_a_plain_search_finds),
		cmocka_unit_test(test_the_matcher_knows_all_bytes),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

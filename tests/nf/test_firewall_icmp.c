/*
 * test_firewall_icmp.c - ICMP and ICMPv6 through the firewall, and fragments.
 */
#include "firewall_case.h"

#define PING(direction, kind) { direction, .protocol = PROTO_ICMP, .type = kind }
#define PING_IN                                                                  \
	.side = NF_OUTSIDE, .from = "192.0.2.1:1000", .to = "10.0.0.1:1000"

#define ERROR(...)                                                               \
	{ .side = NF_OUTSIDE, .from = "198.51.100.1:1", .to = "10.0.0.1:1",      \
	  .protocol = PROTO_ICMP, __VA_ARGS__ }

static const char defaults[] = "rules: []";

/* [B27, B28] */
static void
test_an_echo_reply_needs_its_request(void **state)
{
	static const struct step steps[] = {
		{ "unasked reply", PING(PING_IN, 0), DROPPED(STATE) },
		{ "request from outside", PING(PING_IN, 8), DROPPED(POLICY) },
		{ "request", PING(OUT, 8), SENT, true },
		{ "request again", PING(OUT, 8), SENT },
		{ "reply", PING(PING_IN, 0), SENT },
		{ "outside still may not ask, under the same identifier",
		  PING(PING_IN, 8), DROPPED(POLICY) },
		{ "reply under another", { .side = NF_OUTSIDE, .from = "192.0.2.1:1001",
		  .to = "10.0.0.1:1001", .protocol = PROTO_ICMP }, DROPPED(STATE) },
		{ "the requester does not reply", PING(OUT, 0), DROPPED(STATE) },
		{ "reply, 29 s later", PING(PING_IN, 0), SENT, .after_ms = 29000 },
		{ "reply, too late", PING(PING_IN, 0), DROPPED(STATE),
		  .after_ms = 31000 },
		{ "ICMPv6 request", PING(OUT6, 128), SENT, true },
		{ "ICMPv6 reply", { .side = NF_OUTSIDE, .from = "[2001:db8:1::1]:1000",
		  .to = "[2001:db8::1]:1000", .protocol = PROTO_ICMP, .type = 129 },
		  SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B28] */
static void
test_both_sides_may_ask_under_one_identifier(void **state)
{
	static const struct step steps[] = {
		{ "request out", PING(OUT, 8), SENT, true },
		{ "request in", PING(PING_IN, 8), SENT, true },
		{ "reply in", PING(PING_IN, 0), SENT },
		{ "reply out", PING(OUT, 0), SENT },
	};

	RUN_STEPS("firewall", "default: { in: allow }", steps);
}

/* [B11, B28; case 17, 19] */
static void
test_icmp_errors_pass_if_they_quote_a_known_connection(void **state)
{
	static const struct spec known = { C("S", 1000, 0) };
	static const struct spec unknown = { .from = "10.0.0.9:9", .to = "192.0.2.1:80" };
	static const struct spec udp6 = { OUT6, .protocol = PROTO_UDP };
	static const struct step steps[] = {
		{ "about nothing", { IN, .protocol = PROTO_ICMP, .type = 3, .code = 1,
		  .quote = &known }, DROPPED(STATE) },
		HANDSHAKE,
		{ "port unreachable", { IN, .protocol = PROTO_ICMP, .type = 3, .code = 3,
		  .quote = &known }, SENT },
		{ "from a router in between",
		  ERROR(.type = 3, .code = 4, .quote = &known), SENT },
		{ "to someone else", { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
		  .to = "10.0.0.2:1", .protocol = PROTO_ICMP, .type = 3, .code = 4,
		  .quote = &known }, DROPPED(STATE) },
		{ "about another", { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
		  .to = "10.0.0.9:1", .protocol = PROTO_ICMP, .type = 11,
		  .quote = &unknown }, DROPPED(STATE) },
		{ "that is too short",
		  ERROR(.type = 3, .quote = &known, .quote_bytes = 4), DROPPED(STATE) },
		{ "the connection lives on", { C("A", 1001, 5001) }, SENT,
		  .after_ms = 86400 * 1000 },
		{ "UDP over IPv6", { OUT6, .protocol = PROTO_UDP }, SENT, true },
		{ "its port unreachable", { IN6, .protocol = PROTO_ICMP, .type = 1,
		  .code = 4, .quote = &udp6 }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B28, B39; U17] */
static void
test_hostile_icmp_errors_are_dropped(void **state)
{
	static const struct spec right = { C("A", 1001, 5001) };
	static const struct spec far = { C("A", 0x40000000, 5001) };
	static const struct spec bad_header = { C("A", 1001, 5001),
						.bad_ip_checksum = true };
	static const struct spec gre = { OUT, .protocol = 47, .data = "xxxxxxxx" };
	static const struct spec ipip = { OUT, .protocol = 4, .data = "xxxxxxxx" };
	static const struct spec error = { OUT, .protocol = PROTO_ICMP, .type = 3,
					   .quote = &right };
	static const struct step steps[] = {
		HANDSHAKE,
		{ "right", ERROR(.type = 3, .code = 4, .quote = &right), SENT },
		{ "about what the stream is far from",
		  ERROR(.type = 3, .code = 4, .quote = &far), DROPPED(STATE) },
		{ "with a wrong checksum", ERROR(.type = 3, .code = 4, .quote = &right,
						 .bad_checksum = true), DROPPED(STATE) },
		{ "that quotes a wrong IP checksum",
		  ERROR(.type = 3, .code = 4, .quote = &bad_header), DROPPED(STATE) },
		{ "that quotes GRE", ERROR(.type = 3, .code = 4, .quote = &gre),
		  DROPPED(STATE) },
		{ "that quotes IP in IP", ERROR(.type = 3, .code = 4, .quote = &ipip),
		  DROPPED(STATE) },
		{ "that quotes an error", ERROR(.type = 3, .code = 4, .quote = &error),
		  DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B7] */
static void
test_icmp_errors_do_not_keep_a_connection_alive(void **state)
{
	static const struct spec known = { OUT, .protocol = PROTO_UDP };
	static const struct step steps[] = {
		{ "question", { OUT, .protocol = PROTO_UDP }, SENT, true },
		{ "error", { IN, .protocol = PROTO_ICMP, .type = 3, .quote = &known },
		  SENT, .after_ms = 20000 },
		{ "error, too late", { IN, .protocol = PROTO_ICMP, .type = 3,
		  .quote = &known }, DROPPED(STATE), .after_ms = 11000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B35] */
static void
test_what_ipv6_needs_passes_both_ways(void **state)
{
	static const uint8_t types[] = { 2, 130, 131, 132, 133, 134, 135, 136, 137, 141,
					 142, 143, 148, 149, 151, 152, 153 };
	static const uint8_t others[] = { 100, 128, 129, 138, 139, 140, 144, 146, 150, 200,
					  255 };
	struct bench *b = bench_open("firewall", "default: { out: deny, in: deny }", 1);

	for (unsigned int i = 0; i < 2 * sizeof(types); i++) {
		struct spec spec = { .side = i % 2 ? NF_INSIDE : NF_OUTSIDE,
				     .from = "[fe80::1]:1", .to = "[ff02::1]:1",
				     .protocol = PROTO_ICMP, .type = types[i / 2] };

		bench_put(b, 0, &spec);
		bench_settle(b);
		assert_non_null(bench_take(b));
	}
	for (unsigned int i = 0; i < sizeof(others); i++) {
		struct spec spec = { .side = NF_OUTSIDE, .from = "[fe80::1]:1",
				     .to = "[fe80::2]:1", .protocol = PROTO_ICMP,
				     .type = others[i] };

		bench_put(b, 0, &spec);
		bench_settle(b);
		assert_null(bench_take(b));
	}
	bench_close(b);
}

/* [B28, B35] */
static void
test_other_icmp_goes_by_the_rules(void **state)
{
	static const struct step steps[] = {
		{ "router solicitation", { OUT, .protocol = PROTO_ICMP, .type = 10 },
		  SENT },
		{ "and back", { IN, .protocol = PROTO_ICMP, .type = 9 },
		  DROPPED(POLICY) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

static const struct spec whole = { OUT, .protocol = PROTO_UDP, .data_bytes = 2000 };
static const struct spec whole_in = { IN, .protocol = PROTO_UDP, .data_bytes = 2000 };
static const struct spec whole6 = { IN6, .protocol = PROTO_UDP, .data_bytes = 2000 };

/* [B34; case 29; U19] */
static void
test_fragments_follow_their_first(void **state)
{
	static const struct step steps[] = {
		{ "the first opens", { .side = NF_INSIDE, .part_of = &whole,
		  .part_bytes = 1000, .more = true }, SENT, true },
		{ "the second follows", { .side = NF_INSIDE, .part_of = &whole,
		  .fragment = 125 }, SENT, true, .differs = true },
		{ "the answer's first", { .side = NF_OUTSIDE, .part_of = &whole_in,
		  .part_bytes = 1000, .more = true }, SENT, true },
		{ "and its second", { .side = NF_OUTSIDE, .part_of = &whole_in,
		  .fragment = 125 }, SENT, true, .differs = true },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B34, B35; U19] */
static void
test_fragments_of_what_is_denied_are_denied(void **state)
{
	for (unsigned int order = 0; order < 2; order++) {
		static const struct spec parts[] = {
			{ .side = NF_OUTSIDE, .part_of = &whole6, .part_bytes = 1000,
			  .more = true },
			{ .side = NF_OUTSIDE, .part_of = &whole6, .fragment = 125 },
		};
		struct bench *b = bench_open("firewall", defaults, 2);

		bench_put(b, 0, &parts[order]);
		bench_settle(b);
		bench_put(b, 1, &parts[!order]);
		bench_settle(b);
		assert_null(bench_take(b));
		assert_int_equal(bench_records(b, "connection"), 0);
		bench_close(b);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_echo_reply_needs_its_request),
		cmocka_unit_test(test_both_sides_may_ask_under_one_identifier),
		cmocka_unit_test(test_icmp_errors_pass_if_they_quote_a_known_connection),
		cmocka_unit_test(test_hostile_icmp_errors_are_dropped),
		cmocka_unit_test(test_icmp_errors_do_not_keep_a_connection_alive),
		cmocka_unit_test(test_what_ipv6_needs_passes_both_ways),
		cmocka_unit_test(test_other_icmp_goes_by_the_rules),
		cmocka_unit_test(test_fragments_follow_their_first),
		cmocka_unit_test(test_fragments_of_what_is_denied_are_denied),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

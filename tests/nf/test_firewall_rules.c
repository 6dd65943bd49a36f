/*
 * test_firewall_rules.c - what the rules say of a packet, how it is told so, and what
 * becomes of it when they change.
 */
#include "firewall_case.h"

static const char defaults[] = "rules: []";

static void
test_the_first_rule_that_matches_counts(void **state)
{
	static const char section[] =
		"rules:\n"
		"  - { action: deny, direction: out, protocol: udp,\n"
		"      destination_ports: 53 }\n"
		"  - { action: allow, direction: in, protocol: tcp,\n"
		"      destination: 10.0.0.1, destination_ports: [22, 8000-8080] }\n"
		"  - { action: deny, protocol: tcp,\n"
		"      source: [192.0.2.0/24, 2001:db8:1::/48] }\n"
		"  - { action: allow, direction: in, protocol: tcp,\n"
		"      destination: [10.0.0.0/8, 2001:db8::/32] }\n"
		"  - { action: allow, direction: in, protocol: icmp,\n"
		"      source: 192.0.2.0/24 }\n"
		"  - { action: allow, direction: in, protocol: [47, 50] }\n"
		"  - { action: deny, direction: out, source: 10.0.0.66 }\n";
	static const struct step steps[] = {
		{ "a deny before the default", { .side = NF_INSIDE, .from = "10.0.0.1:1",
		  .to = "192.0.2.1:53", .protocol = PROTO_UDP }, DROPPED(POLICY) },
		{ "an allow before a deny", { .side = NF_OUTSIDE, .from = "192.0.2.1:9",
		  .to = "10.0.0.1:22", .flags = "S" }, SENT, true },
		{ "its answer", { .side = NF_INSIDE, .from = "10.0.0.1:22",
		  .to = "192.0.2.1:9", .flags = "SA", .seq = 7, .ack = 1 }, SENT, true },
		{ "the last of a range", { .side = NF_OUTSIDE, .from = "192.0.2.1:9",
		  .to = "10.0.0.1:8080", .flags = "S" }, SENT, true },
		{ "behind it", { .side = NF_OUTSIDE, .from = "192.0.2.1:9",
		  .to = "10.0.0.1:8081", .flags = "S" }, DROPPED(POLICY) },
		{ "another address", { .side = NF_OUTSIDE, .from = "192.0.2.1:9",
		  .to = "10.0.0.2:22", .flags = "S" }, DROPPED(POLICY) },
		{ "from elsewhere", { .side = NF_OUTSIDE, .from = "192.0.3.1:9",
		  .to = "10.0.0.2:22", .flags = "S" }, SENT, true },
		{ "the deny for IPv6", { IN6, .flags = "S" }, DROPPED(POLICY) },
		{ "the allow for IPv6", { .side = NF_OUTSIDE, .from = "[2001:db8:2::1]:9",
		  .to = "[2001:db8::1]:9", .flags = "S" }, SENT, true },
		{ "ping from there", { .side = NF_OUTSIDE, .from = "192.0.2.1:1000",
		  .to = "10.0.0.1:1000", .protocol = PROTO_ICMP, .type = 8 }, SENT, true },
		{ "its reply", { OUT, .protocol = PROTO_ICMP }, SENT },
		{ "rules for IPv4 addresses do not match IPv6",
		  { IN6, .protocol = PROTO_ICMP, .type = 128 }, DROPPED(POLICY) },
		{ "a protocol by number", { IN, .protocol = 50, .data = "xxxx" }, SENT,
		  true },
		{ "the last rule", { .side = NF_INSIDE, .from = "10.0.0.66:1",
		  .to = "1.1.1.1:1", .flags = "S" }, DROPPED(POLICY) },
	};

	RUN_STEPS("firewall", section, steps);
}

static void
test_defaults_can_be_turned_round(void **state)
{
	static const char section[] = "default: { out: deny, in: allow }";
	static const struct step steps[] = {
		{ "out", { OUT, .flags = "S" }, DROPPED(POLICY) },
		{ "in", { IN, .flags = "S" }, SENT, true },
		{ "its answer", { OUT, .flags = "SA", .seq = 7, .ack = 1 }, SENT, true },
	};

	RUN_STEPS("firewall", section, steps);
}

/* [case 47] */
static void
test_what_a_rule_dropped_is_dropped_again(void **state)
{
	static const struct step steps[] = {
		{ "denied", { S("S", 5000, 0) }, DROPPED(POLICY) },
		{ "sent again", { S("S", 5000, 0) }, DROPPED(POLICY), .after_ms = 1000 },
		{ "with what would follow it", { S("A", 5001, 1), .data = "x" },
		  DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B36] */
static void
test_reject_says_so_to_the_sender(void **state)
{
	static const char section[] =
		"default: { in: reject }\n"
		"rules:\n"
		"  - { action: deny, direction: in, destination_ports: 23, protocol: tcp }\n";
	static const struct step steps[] = {
		{ "UDP", { IN, .protocol = PROTO_UDP }, DROPPED(POLICY), .answers = 1 },
		{ "ping", { IN, .protocol = PROTO_ICMP, .type = 8 }, DROPPED(POLICY),
		  .answers = 1 },
		{ "IPv6", { IN6, .protocol = PROTO_UDP }, DROPPED(POLICY), .answers = 1 },
		{ "deny says nothing", { .side = NF_OUTSIDE, .from = "192.0.2.1:80",
		  .to = "10.0.0.1:23", .flags = "S" }, DROPPED(POLICY) },
		{ "nor is there an answer to a wrong checksum",
		  { IN, .protocol = PROTO_UDP, .bad_checksum = true }, DROPPED(POLICY) },
		{ "or to what belongs to nothing", { S("A", 1, 1) }, DROPPED(STATE) },
		{ "or to a RST", { S("R", 1, 0) }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", section, steps);
}

/* [B36] */
static void
test_a_rejected_syn_gets_a_rst_that_counts(void **state)
{
	static const struct spec syn = { S("S", 5000, 0), .data = "abc" };
	static const struct spec udp = { IN, .protocol = PROTO_UDP };
	struct bench *b = bench_open("firewall", "default: { in: reject }", 1);
	const struct packet *p;
	const struct sent *s;

	bench_put(b, 0, &syn);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_string_equal(sent_endpoints(s), "10.0.0.1:1000 > 192.0.2.1:80");
	assert_string_equal(sent_flags(s), "RA");
	assert_int_equal(packet_tcp_seq(sent_packet(s)), 0);
	assert_int_equal(packet_tcp_ack(sent_packet(s)), 5004);
	bench_put(b, 0, &udp);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	p = sent_packet(s);
	assert_int_equal(p->icmp_type, 3);
	assert_int_equal(p->icmp_code, 13);
	assert_string_equal(sent_quoted(s), "192.0.2.1:80 > 10.0.0.1:1000");
	bench_close(b);
}

/* [B36] */
static void
test_rejections_are_limited(void **state)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .n_pipes = 1,
				     .n_partitions = 1, .refusals = 5,
				     .section = "default: { in: reject }" };
	static const struct spec syn = { S("S", 5000, 0) };
	struct bench *b = bench_open_as(&setup);
	unsigned int n = 0;

	for (unsigned int i = 0; i < 200; i++)
		bench_put(b, 0, &syn);
	bench_settle(b);
	while (bench_take(b) != NULL)
		n++;
	assert_in_range(n, 1, 20);
	assert_int_equal(bench_dropped(b, NF_DROP_POLICY), 200);
	bench_close(b);
}

static const char open_section[] =
	"default: { out: allow, in: deny }\n"
	"rules:\n"
	"  - { action: allow, direction: in, protocol: udp, destination_ports: 53 }\n";
static const char shut_section[] =
	"default: { out: deny, in: deny }\n"
	"reload: reevaluate";
static const char shut_but_kept[] = "default: { out: deny, in: deny }\nreload: keep";

#define ASK_IN                                                                   \
	.side = NF_OUTSIDE, .from = "192.0.2.1:7000", .to = "10.0.0.9:53",       \
	.protocol = PROTO_UDP
#define ANSWER_IN                                                                \
	.side = NF_INSIDE, .from = "10.0.0.9:53", .to = "192.0.2.1:7000",        \
	.protocol = PROTO_UDP

static const struct step opened[] = {
	HANDSHAKE,
	{ "a question from outside", { ASK_IN }, SENT, true },
	{ "a ping", { OUT, .protocol = PROTO_ICMP, .type = 8 }, SENT, true },
};

/* [B37] */
static void
test_new_rules_are_for_new_connections(void **state)
{
	static const struct step after[] = {
		{ "what was open stays", { C("A", 1001, 5001) }, SENT },
		{ "from both sides", { ANSWER_IN }, SENT, true },
		{ "a new one is judged by them", { .side = NF_INSIDE,
		  .from = "10.0.0.1:1001", .to = "192.0.2.1:80", .flags = "S" },
		  DROPPED(POLICY) },
		{ "and so is a new query", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:7001", .to = "10.0.0.9:53", .protocol = PROTO_UDP },
		  DROPPED(POLICY) },
	};

	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = bench_open("firewall", open_section, n_pipes);

		bench_steps(b, opened, 5);
		for (unsigned int i = 0; i < n_pipes; i++)
			bench_reload(b, i, shut_but_kept);
		bench_steps(b, after, 4);
		bench_close(b);
	}
}

/* [B37] */
static void
test_old_connections_are_judged_again_if_the_file_says_so(void **state)
{
	static const struct step after[] = {
		{ "opened from inside, judged as such from outside",
		  { S("A", 5001, 1001) }, DROPPED(POLICY), true },
		{ "it is gone for the other side", { C("A", 1001, 5001) },
		  DROPPED(STATE) },
		{ "opened from outside, judged as such from inside", { ANSWER_IN },
		  DROPPED(POLICY), true },
		{ "a query", { .side = NF_OUTSIDE, .from = "192.0.2.1:1000",
		  .to = "10.0.0.1:1000", .protocol = PROTO_ICMP }, DROPPED(STATE) },
		{ "", { OUT, .protocol = PROTO_ICMP, .type = 8 }, DROPPED(POLICY), true },
	};
	static const char still_open[] =
		"reload: reevaluate\n"
		"default: { in: reject }\n"
		"rules:\n"
		"  - { action: allow, direction: out, idle: 1h }\n";
	static const struct step kept[] = {
		{ "what they still allow is written once", { S("A", 5001, 1001) }, SENT,
		  true },
		{ "and never again", { C("A", 1001, 5001) }, SENT },
		{ "the new rule's idle time counts", { C("A", 1001, 5001) }, DROPPED(STATE),
		  .after_ms = 3601 * 1000 },
		{ "what they reject is told so", { ASK_IN }, DROPPED(POLICY), true,
		  .answers = 1 },
	};

	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = bench_open("firewall", open_section, n_pipes);

		bench_steps(b, opened, 5);
		for (unsigned int i = 0; i < n_pipes; i++)
			bench_reload(b, i, shut_section);
		bench_steps(b, after, 1);
		bench_steps(b, after + 1, 1);
		bench_steps(b, after + 2, 1);
		bench_steps(b, after + 4, 1);
		bench_close(b);

		b = bench_open("firewall", open_section, n_pipes);
		bench_steps(b, opened, 5);
		for (unsigned int i = 0; i < n_pipes; i++)
			bench_reload(b, i, still_open);
		bench_steps(b, kept, 2);
		bench_steps(b, kept + 3, 1);
		bench_steps(b, kept + 2, 1);
		bench_close(b);
	}
}

/* [B37] */
static void
test_the_same_rules_are_the_same_after_a_reload(void **state)
{
	static const char same[] =
		"reload: reevaluate\n"
		"rules:\n"
		"  - { action: allow, direction: in, protocol: udp,\n"
		"      destination_ports: [53] }\n";
	static const struct step after[] = {
		{ "nothing is written", { C("A", 1001, 5001) }, SENT },
	};
	struct bench *b = bench_open("firewall", open_section, 1);

	bench_steps(b, opened, 5);
	bench_reload(b, 0, same);
	bench_steps(b, after, 1);
	bench_close(b);
}

static void
test_what_a_section_may_not_say(void **state)
{
	static const char *const sections[] = {
		"rules: [{ direction: in }]",
		"rules: [{ action: allow, destination_ports: 80 }]",
		"rules: [{ action: allow, protocol: icmp, destination_ports: 80 }]",
		"rules: [{ action: allow, protocol: [tcp, 47], source_ports: 80 }]",
		"rules: [{ action: allow, protocol: 256 }]",
		"rules: [{ action: allow, protocol: tpc }]",
		"rules: [{ action: allow, source: 10.0.0.1/8 }]",
		"rules: [{ action: allow, protocol: tcp, source_ports: 80-79 }]",
		"rules: [{ action: allow, idle: 31d }]",
		"rules: [{ action: refuse }]",
		"default: { out: maybe }",
		"timeouts: { udp: 0 }",
		"limits: { half_open: 0 }",
		"reload: sometimes",
	};

	for (unsigned int i = 0; i < sizeof(sections) / sizeof(sections[0]); i++)
		assert_true(bench_refuses("firewall", sections[i]));
	assert_false(bench_refuses("firewall", "rules: [{ action: reject, protocol: "
					       "[tcp, sctp], destination_ports: 80 }]"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_first_rule_that_matches_counts),
		cmocka_unit_test(test_defaults_can_be_turned_round),
		cmocka_unit_test(test_what_a_rule_dropped_is_dropped_again),
		cmocka_unit_test(test_reject_says_so_to_the_sender),
		cmocka_unit_test(test_a_rejected_syn_gets_a_rst_that_counts),
		cmocka_unit_test(test_rejections_are_limited),
		cmocka_unit_test(test_new_rules_are_for_new_connections),
		cmocka_unit_test(test_old_connections_are_judged_again_if_the_file_says_so),
		cmocka_unit_test(test_the_same_rules_are_the_same_after_a_reload),
		cmocka_unit_test(test_what_a_section_may_not_say),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

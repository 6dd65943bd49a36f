/*
 * test_firewall.c - the firewall, packet by packet.
 *
 * Names in brackets are those of the behaviours and of the peers' cases that a table
 * proves.
 */
#include "harness.h"

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1000"
#define OUT6                                                                     \
	.side = NF_INSIDE, .from = "[2001:db8::1]:1000", .to = "[2001:db8:1::1]:80"
#define IN6                                                                      \
	.side = NF_OUTSIDE, .from = "[2001:db8:1::1]:80", .to = "[2001:db8::1]:1000"

#define HANDSHAKE                                                                \
	{ "inside opens", { OUT, .flags = "S" }, SENT, true },                   \
	{ "outside accepts", { IN, .flags = "SA" }, SENT, true },                \
	{ "inside confirms", { OUT, .flags = "A" }, SENT, true }

static const char defaults[] = "rules: []";

/* [B27, B28, case 43] */
static void
test_inside_may_open_and_outside_may_only_answer(void **state)
{
	static const struct step steps[] = {
		{ "an answer to nothing", { IN, .flags = "SA" }, DROPPED(STATE) },
		{ "outside may not open", { IN, .flags = "S" }, DROPPED(POLICY) },
		HANDSHAKE,
		{ "data out", { OUT, .flags = "PA", .data = "x" }, SENT },
		{ "data in", { IN, .flags = "PA", .data = "x" }, SENT },
		{ "a VLAN tag and padding stay on",
		  { IN, .flags = "A", .vlan = 5, .padding = 6 }, SENT },
		{ "another port is another connection",
		  { .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1001",
		    .flags = "A" }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

static void
test_ipv6_is_no_different(void **state)
{
	static const struct step steps[] = {
		{ "outside may not open", { IN6, .flags = "S" }, DROPPED(POLICY) },
		{ "SYN", { OUT6, .flags = "S" }, SENT, true },
		{ "SYN/ACK", { IN6, .flags = "SA" }, SENT, true },
		{ "ACK", { OUT6, .flags = "A" }, SENT, true },
		{ "data", { IN6, .flags = "PA", .data = "x" }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B29] */
static void
test_nothing_is_picked_up_midstream(void **state)
{
	static const struct step steps[] = {
		{ "ACK from inside", { OUT, .flags = "A" }, DROPPED(STATE) },
		{ "data from inside", { OUT, .flags = "PA", .data = "x" },
		  DROPPED(STATE) },
		{ "FIN from inside", { OUT, .flags = "FA" }, DROPPED(STATE) },
		{ "RST from inside", { OUT, .flags = "R" }, DROPPED(STATE) },
		{ "SYN/ACK from inside", { OUT, .flags = "SA" }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* Each repeated once: a retransmission passes and writes nothing.  [cases 31, 35] */
static void
test_every_state_writes_once(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true },
		{ "SYN again", { OUT, .flags = "S" }, SENT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true },
		{ "SYN/ACK again", { IN, .flags = "SA" }, SENT },
		{ "ACK", { OUT, .flags = "A" }, SENT, true },
		{ "ACK again", { OUT, .flags = "A" }, SENT },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true },
		{ "FIN again", { OUT, .flags = "FA" }, SENT },
		{ "ACK of the FIN", { IN, .flags = "A" }, SENT, true },
		{ "FIN once more", { OUT, .flags = "FA" }, SENT },
		{ "data the other way", { IN, .flags = "PA", .data = "x" }, SENT },
		{ "the other FIN", { IN, .flags = "FA" }, SENT, true },
		{ "the other FIN again", { IN, .flags = "FA" }, SENT },
		{ "the last ACK", { OUT, .flags = "A" }, SENT, true },
		{ "the other FIN in TIME_WAIT", { IN, .flags = "FA" }, SENT },
		{ "the last ACK again", { OUT, .flags = "A" }, SENT },
		{ "RST", { OUT, .flags = "R" }, SENT, true },
		{ "RST again", { OUT, .flags = "R" }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

static void
test_flags_that_make_no_sense_in_a_state_are_dropped(void **state)
{
	static const struct step steps[] = {
		{ "no flags", { OUT }, DROPPED(STATE) },
		{ "SYN and FIN", { OUT, .flags = "SF" }, DROPPED(STATE) },
		{ "SYN and RST", { OUT, .flags = "SR" }, DROPPED(STATE) },
		{ "SYN", { OUT, .flags = "S" }, SENT, true },
		{ "the opener does not confirm what nobody accepted",
		  { OUT, .flags = "A" }, DROPPED(STATE) },
		{ "nor accept its own SYN", { OUT, .flags = "SA" }, DROPPED(STATE) },
		{ "FIN before anything", { OUT, .flags = "FA" }, DROPPED(STATE) },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true },
		{ "ACK", { OUT, .flags = "A" }, SENT, true },
		{ "a FIN has an ACK", { OUT, .flags = "F" }, DROPPED(STATE) },
		{ "SYN from the other end of an open connection",
		  { IN, .flags = "S" }, DROPPED(STATE) },
		{ "all of them", { OUT, .flags = "FSRPAU" }, DROPPED(STATE) },
		{ "the connection is none the worse", { OUT, .flags = "A" }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B14, B32] */
static void
test_simultaneous_open_and_close(void **state)
{
	static const struct step steps[] = {
		{ "SYN out", { OUT, .flags = "S" }, SENT, true },
		{ "SYN in", { IN, .flags = "S" }, SENT, true },
		{ "SYN/ACK out", { OUT, .flags = "SA" }, SENT, true },
		{ "SYN/ACK in", { IN, .flags = "SA" }, SENT },
		{ "ACK out", { OUT, .flags = "A" }, SENT, true },
		{ "data in", { IN, .flags = "PA", .data = "x" }, SENT },
		{ "FIN out", { OUT, .flags = "FA" }, SENT, true },
		{ "FIN in, before its ACK", { IN, .flags = "FA" }, SENT, true },
		{ "ACK out", { OUT, .flags = "A" }, SENT, true },
		{ "ACK in", { IN, .flags = "A" }, SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B32] */
static void
test_split_handshake_and_data_on_a_syn(void **state)
{
	static const struct step steps[] = {
		{ "SYN with data", { OUT, .flags = "S", .data = "fast" }, SENT, true },
		{ "the answer is a bare SYN", { IN, .flags = "S" }, SENT, true },
		{ "which is accepted", { OUT, .flags = "SA" }, SENT, true },
		{ "and confirmed", { IN, .flags = "A" }, SENT },
		{ "data", { OUT, .flags = "PA", .data = "x" }, SENT, true },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B32, cases 33, 39] */
static void
test_a_syn_reopens_what_was_closed(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "a SYN in an open connection passes, to be challenged",
		  { OUT, .flags = "S" }, SENT },
		{ "the challenge", { IN, .flags = "A" }, SENT },
		{ "its answer", { OUT, .flags = "R" }, SENT, true },
		{ "outside may not reopen", { IN, .flags = "S" }, DROPPED(POLICY) },
		{ "the SYN again", { OUT, .flags = "S" }, SENT, true },
		{ "a challenge by one who still knows the old one",
		  { IN, .flags = "A" }, SENT },
		{ "its answer closes again", { OUT, .flags = "R" }, SENT, true },
		{ "and again", { OUT, .flags = "S" }, SENT, true },
		{ "without SYN/ACK no data", { OUT, .flags = "PA", .data = "x" },
		  DROPPED(STATE) },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true },
		{ "ACK", { OUT, .flags = "A" }, SENT, true },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true },
		{ "FIN", { IN, .flags = "FA" }, SENT, true },
		{ "ACK: TIME_WAIT", { OUT, .flags = "A" }, SENT, true },
		{ "outside may not reopen in TIME_WAIT", { IN, .flags = "S" },
		  DROPPED(POLICY) },
		{ "inside may", { OUT, .flags = "S" }, SENT, true },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B27] */
static void
test_idle_times_are_those_of_linux(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true },
		{ "SYN_SENT is there after 119 s", { IN, .flags = "A" }, SENT,
		  .after_ms = 119000 },
		{ "and was refreshed by that", { IN, .flags = "A" }, SENT,
		  .after_ms = 119000 },
		{ "it is gone after 121 s", { IN, .flags = "SA" }, DROPPED(STATE),
		  .after_ms = 121000 },
		{ "SYN", { OUT, .flags = "S" }, SENT, true },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true },
		{ "SYN_RECV is gone after 61 s", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 61000 },
		HANDSHAKE,
		{ "ESTABLISHED is there after 4 days and 23 hours", { IN, .flags = "A" },
		  SENT, .after_ms = (4 * 24 + 23) * 3600 * 1000ULL },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true },
		{ "FIN_WAIT is there after 119 s", { OUT, .flags = "A" }, SENT,
		  .after_ms = 119000 },
		{ "ACK", { IN, .flags = "A" }, SENT, true },
		{ "CLOSE_WAIT is there after 59 s", { IN, .flags = "A" }, SENT,
		  .after_ms = 59000 },
		{ "FIN", { IN, .flags = "FA" }, SENT, true },
		{ "ACK: TIME_WAIT", { OUT, .flags = "A" }, SENT, true,
		  .after_ms = 29000 },
		{ "TIME_WAIT is gone after 121 s", { IN, .flags = "FA" }, DROPPED(STATE),
		  .after_ms = 121000 },
		HANDSHAKE,
		{ "RST", { IN, .flags = "R" }, SENT, true },
		{ "CLOSE is gone after 11 s", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 11000 },
		HANDSHAKE,
		{ "ESTABLISHED is gone after 5 days and an hour", { OUT, .flags = "A" },
		  DROPPED(STATE), .after_ms = (5 * 24 + 1) * 3600 * 1000ULL },
	};

	RUN_STEPS("firewall", defaults, steps);
}

static void
test_idle_times_can_be_set(void **state)
{
	static const char section[] = "timeouts: { tcp_syn_sent: 5s }";
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true },
		{ "is forgotten when the file says", { IN, .flags = "SA" },
		  DROPPED(STATE),
		  .after_ms = 6000 },
	};

	RUN_STEPS("firewall", section, steps);
}

/* [B27] */
static void
test_udp_is_a_stream_once_it_was_answered(void **state)
{
	static const struct step steps[] = {
		{ "unasked", { IN, .protocol = PROTO_UDP }, DROPPED(POLICY) },
		{ "question", { OUT, .protocol = PROTO_UDP }, SENT, true },
		{ "again", { OUT, .protocol = PROTO_UDP }, SENT },
		{ "answer", { IN, .protocol = PROTO_UDP }, SENT, true,
		  .after_ms = 29000 },
		{ "question", { OUT, .protocol = PROTO_UDP }, SENT, .after_ms = 119000 },
		{ "too late", { IN, .protocol = PROTO_UDP }, DROPPED(POLICY),
		  .after_ms = 121000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

#define PING(direction, kind) { direction, .protocol = PROTO_ICMP, .type = kind }
#define PING_IN                                                                  \
	.side = NF_OUTSIDE, .from = "192.0.2.1:1000", .to = "10.0.0.1:1000"

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
		{ "ICMPv6 request", PING(OUT6, 128), SENT, true },
		{ "ICMPv6 reply", { .side = NF_OUTSIDE, .from = "[2001:db8:1::1]:1000",
		  .to = "[2001:db8::1]:1000", .protocol = PROTO_ICMP, .type = 129 },
		  SENT },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B11, B28, cases 17, 19] */
static void
test_icmp_errors_pass_if_they_quote_a_known_connection(void **state)
{
	static const struct spec known = { OUT, .flags = "S" };
	static const struct spec unknown = { .from = "10.0.0.9:9", .to = "192.0.2.1:80" };
	static const struct spec udp6 = { OUT6, .protocol = PROTO_UDP };
	static const struct step steps[] = {
		{ "about nothing", { IN, .protocol = PROTO_ICMP, .type = 3, .code = 1,
		  .quote = &known }, DROPPED(STATE) },
		HANDSHAKE,
		{ "port unreachable", { IN, .protocol = PROTO_ICMP, .type = 3, .code = 3,
		  .quote = &known }, SENT },
		{ "from a router in between", { .side = NF_OUTSIDE,
		  .from = "198.51.100.1:1",
		  .to = "10.0.0.1:1", .protocol = PROTO_ICMP, .type = 3, .code = 4,
		  .quote = &known }, SENT },
		{ "to someone else", { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
		  .to = "10.0.0.2:1", .protocol = PROTO_ICMP, .type = 3, .code = 4,
		  .quote = &known }, DROPPED(STATE) },
		{ "about another", { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
		  .to = "10.0.0.9:1", .protocol = PROTO_ICMP, .type = 11,
		  .quote = &unknown }, DROPPED(STATE) },
		{ "that is too short", { IN, .protocol = PROTO_ICMP, .type = 3,
		  .quote = &known, .quote_bytes = 4 }, DROPPED(STATE) },
		{ "the connection lives on", { OUT, .flags = "A" }, SENT },
		{ "UDP over IPv6", { OUT6, .protocol = PROTO_UDP }, SENT, true },
		{ "its port unreachable", { IN6, .protocol = PROTO_ICMP, .type = 1,
		  .code = 4, .quote = &udp6 }, SENT },
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
		  SENT,
		  .after_ms = 20000 },
		{ "error, too late", { IN, .protocol = PROTO_ICMP, .type = 3,
		  .quote = &known }, DROPPED(STATE), .after_ms = 11000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B35] */
static void
test_what_ipv6_needs_passes_both_ways(void **state)
{
	static const uint8_t types[] = { 2, 130, 131, 132, 133, 134, 135, 136, 137, 143 };

	for (unsigned int side = 0; side < 2; side++) {
		struct bench *b = bench_open("firewall",
					     "default: { out: deny, in: deny }", 1);

		for (unsigned int i = 0; i < sizeof(types); i++) {
			struct step step = { "neighbour discovery",
				{ .side = side, .from = "[fe80::1]:1",
				  .to = "[ff02::1]:1", .protocol = PROTO_ICMP,
				  .type = types[i] }, SENT };

			bench_steps(b, &step, 1);
		}
		bench_close(b);
	}
}

static void
test_other_traffic(void **state)
{
	static const struct step steps[] = {
		{ "ARP passes", { .side = NF_OUTSIDE, .arp = true }, SENT },
		{ "GRE from inside", { OUT, .protocol = 47, .data = "xxxx" }, SENT,
		  true },
		{ "GRE back", { IN, .protocol = 47, .data = "xxxx" }, SENT },
		{ "GRE, 599 s later", { IN, .protocol = 47, .data = "xxxx" }, SENT,
		  .after_ms = 599000 },
		{ "GRE, too late", { IN, .protocol = 47, .data = "xxxx" },
		  DROPPED(POLICY),
		  .after_ms = 601000 },
		{ "an ICMP message that is no query nor error goes by the rules",
		  { OUT, .protocol = PROTO_ICMP, .type = 10 }, SENT },
		{ "and back", { IN, .protocol = PROTO_ICMP, .type = 9 },
		  DROPPED(POLICY) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B39] */
static void
test_a_wrong_checksum_changes_no_state(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S", .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "did not open", { IN, .flags = "SA" }, DROPPED(STATE) },
		HANDSHAKE,
		{ "RST", { IN, .flags = "R", .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "did not close", { IN, .flags = "FA" }, SENT, true },
		{ "UDP", { OUT, .protocol = PROTO_UDP, .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "ping", { OUT, .protocol = PROTO_ICMP, .type = 8,
		  .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "the rules come first", { IN, .protocol = PROTO_UDP,
		  .bad_checksum = true }, DROPPED(POLICY) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B34] */
static void
test_fragments_without_ports_are_dropped(void **state)
{
	static const struct step steps[] = {
		{ "the first opens", { OUT, .protocol = PROTO_UDP, .more = true,
		  .data = "12345678" }, SENT, true },
		{ "the second has no ports", { OUT, .protocol = PROTO_UDP, .fragment = 2,
		  .data = "12345678" }, DROPPED(FRAGMENT) },
		{ "likewise", { OUT6, .protocol = PROTO_UDP, .more = true,
		  .data = "12345678" }, SENT, true },
		{ "in IPv6", { OUT6, .protocol = PROTO_UDP, .fragment = 2,
		  .data = "12345678" }, DROPPED(FRAGMENT) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

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
		  .to = "192.0.2.1:9", .flags = "SA" }, SENT, true },
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
		{ "ping from there", PING(PING_IN, 8), SENT, true },
		{ "its reply", PING(OUT, 0), SENT },
		{ "rules for IPv4 addresses do not match IPv6", PING(IN6, 128),
		  DROPPED(POLICY) },
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
		{ "its answer", { OUT, .flags = "SA" }, SENT, true },
	};

	RUN_STEPS("firewall", section, steps);
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
		"default: { out: maybe }",
		"timeouts: { udp: 0 }",
	};

	for (unsigned int i = 0; i < sizeof(sections) / sizeof(sections[0]); i++)
		assert_true(bench_refuses("firewall", sections[i]));
}

/* Whatever the order in which two instances see the two ends of a handshake and
 * its close, every packet passes, and the connection ends closed.  [B72] */
static void
test_two_instances_agree_on_a_connection(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		static const struct spec opening = { OUT, .flags = "S" };
		static const struct spec confirming = { OUT, .flags = "A" };
		static const struct spec racing[] = {
			{ IN, .flags = "SA" }, { OUT, .flags = "S" },
		};
		static const struct spec closing[] = {
			{ OUT, .flags = "FA" }, { IN, .flags = "FA" },
			{ OUT, .flags = "A" }, { IN, .flags = "A" },
		};
		static const struct step after[] = {
			{ "no second thoughts", { IN, .flags = "S" }, DROPPED(POLICY) },
			{ "TIME_WAIT, or LAST_ACK if the ACKs were first",
			  { OUT, .flags = "FA" }, SENT },
		};
		struct bench *b = bench_open("firewall", defaults, 2);
		unsigned int n = 0;

		bench_race(b, &opening, 1, schedule, 10);
		bench_race(b, racing, 2, schedule, 10);
		bench_race(b, &confirming, 1, schedule, 10);
		bench_race(b, closing, 4, schedule, 10);
		while (bench_take(b) != NULL)
			n++;
		assert_int_equal(n, 8);
		assert_int_equal(bench_records(b, "connection"), 1);
		bench_race(b, &confirming, 1, 0, 0);
		assert_non_null(bench_take(b));
		assert_null(bench_take(b));
		bench_steps(b, after, 2);
		bench_close(b);
	}
}

/* Two SYNs of one connection at the same moment open it once. */
static void
test_two_instances_open_a_connection_once(void **state)
{
	static const struct spec twice[] = {
		{ OUT, .flags = "S" }, { OUT, .flags = "S" },
	};
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 6; schedule++) {
		struct bench *b = bench_open("firewall", defaults, 2);

		bench_race(b, twice, 2, schedule, 6);
		assert_int_equal(bench_writes(b), 1);
		assert_non_null(bench_take(b));
		assert_non_null(bench_take(b));
		conflicts += bench_conflicts(b);
		bench_close(b);
	}
	assert_true(conflicts > 0);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inside_may_open_and_outside_may_only_answer),
		cmocka_unit_test(test_ipv6_is_no_different),
		cmocka_unit_test(test_nothing_is_picked_up_midstream),
		cmocka_unit_test(test_every_state_writes_once),
		cmocka_unit_test(test_flags_that_make_no_sense_in_a_state_are_dropped),
		cmocka_unit_test(test_simultaneous_open_and_close),
		cmocka_unit_test(test_split_handshake_and_data_on_a_syn),
		cmocka_unit_test(test_a_syn_reopens_what_was_closed),
		cmocka_unit_test(test_idle_times_are_those_of_linux),
		cmocka_unit_test(test_idle_times_can_be_set),
		cmocka_unit_test(test_udp_is_a_stream_once_it_was_answered),
		cmocka_unit_test(test_an_echo_reply_needs_its_request),
		cmocka_unit_test(test_icmp_errors_pass_if_they_quote_a_known_connection),
		cmocka_unit_test(test_icmp_errors_do_not_keep_a_connection_alive),
		cmocka_unit_test(test_what_ipv6_needs_passes_both_ways),
		cmocka_unit_test(test_other_traffic),
		cmocka_unit_test(test_a_wrong_checksum_changes_no_state),
		cmocka_unit_test(test_fragments_without_ports_are_dropped),
		cmocka_unit_test(test_the_first_rule_that_matches_counts),
		cmocka_unit_test(test_defaults_can_be_turned_round),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_two_instances_agree_on_a_connection),
		cmocka_unit_test(test_two_instances_open_a_connection_once),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

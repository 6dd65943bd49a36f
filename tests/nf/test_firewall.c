/*
 * test_firewall.c - the firewall, packet by packet: what passes by default, for how long,
 * of which protocols.
 */
#include "firewall_case.h"

static const char defaults[] = "rules: []";

/* [B27, B28; case 43; U1] */
static void
test_inside_may_open_and_outside_may_only_answer(void **state)
{
	static const struct step steps[] = {
		{ "an answer to nothing", { S("SA", 5000, 1001) }, DROPPED(STATE) },
		{ "outside may not open", { S("S", 5000, 0) }, DROPPED(POLICY) },
		HANDSHAKE,
		{ "data out", { C("PA", 1001, 5001), .data = "x" }, SENT },
		{ "data in", { S("PA", 5001, 1002), .data = "x" }, SENT },
		{ "a VLAN tag and padding stay on",
		  { S("A", 5002, 1002), .vlan = 5, .padding = 6 }, SENT },
		{ "and two of them", { S("A", 5002, 1002), .vlan = 5, .service_vlan = 6 },
		  SENT },
		{ "another port is another connection",
		  { .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1001",
		    .flags = "A", .seq = 5001, .ack = 1001 }, DROPPED(STATE) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B35] */
static void
test_ipv6_is_no_different(void **state)
{
	static const struct step steps[] = {
		{ "outside may not open", { IN6, .flags = "S" }, DROPPED(POLICY) },
		{ "SYN", { OUT6, .flags = "S", .seq = 1000 }, SENT, true },
		{ "SYN/ACK", { IN6, .flags = "SA", .seq = 5000, .ack = 1001 }, SENT, true },
		{ "ACK", { OUT6, .flags = "A", .seq = 1001, .ack = 5001 }, SENT, true },
		{ "data, after 2 hours and 4 minutes", { IN6, .flags = "PA", .seq = 5001,
		  .ack = 1001, .data = "x" }, SENT, .after_ms = 124 * 60 * 1000 },
		{ "UDP", { OUT6, .protocol = PROTO_UDP }, SENT, true },
		{ "with a well-known port", { IN6, .protocol = PROTO_UDP },
		  DROPPED(POLICY), .after_ms = 31000 },
		{ "UDP between others", { .side = NF_INSIDE, .from = "[2001:db8::1]:5000",
		  .to = "[2001:db8:1::1]:5001", .protocol = PROTO_UDP }, SENT, true },
		{ "is there after nearly 2 minutes", { .side = NF_OUTSIDE,
		  .from = "[2001:db8:1::1]:5001", .to = "[2001:db8::1]:5000",
		  .protocol = PROTO_UDP }, SENT, true, .after_ms = 119000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B27; case 49; U16] */
static void
test_idle_times_are_those_of_linux(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "SYN_SENT is there after 119 s", { S("A", 1, 1) }, SENT,
		  .after_ms = 119000 },
		{ "and was refreshed by that", { S("A", 1, 1) }, SENT, .after_ms = 119000 },
		{ "it is gone after 121 s", { S("SA", 5000, 1001) }, DROPPED(STATE),
		  .after_ms = 121000 },
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "SYN/ACK", { S("SA", 5000, 1001) }, SENT, true },
		{ "SYN_RECV is gone after 61 s", { C("A", 1001, 5001) }, DROPPED(STATE),
		  .after_ms = 61000 },
		HANDSHAKE,
		{ "ESTABLISHED is there after 4 days and 23 hours",
		  { S("A", 5001, 1001) }, SENT, .after_ms = (4 * 24 + 23) * 3600 * 1000ULL },
		{ "FIN", { C("FA", 1001, 5001) }, SENT, true },
		{ "FIN_WAIT is there after 119 s", { C("A", 1002, 5001) }, SENT,
		  .after_ms = 119000 },
		{ "ACK", { S("A", 5001, 1002) }, SENT, true },
		{ "CLOSE_WAIT is there after 59 s", { S("A", 5001, 1002) }, SENT,
		  .after_ms = 59000 },
		{ "FIN", { S("FA", 5001, 1002) }, SENT, true },
		{ "ACK: TIME_WAIT", { C("A", 1002, 5002) }, SENT, true,
		  .after_ms = 29000 },
		{ "TIME_WAIT is gone after 121 s", { S("FA", 5001, 1002) },
		  DROPPED(STATE), .after_ms = 121000 },
		HANDSHAKE,
		{ "RST", { S("R", 5001, 0) }, SENT, true },
		{ "CLOSE is gone after 11 s", { C("A", 1001, 5001) }, DROPPED(STATE),
		  .after_ms = 11000 },
		HANDSHAKE,
		{ "ESTABLISHED is gone after 5 days and an hour", { C("A", 1001, 5001) },
		  DROPPED(STATE), .after_ms = (5 * 24 + 1) * 3600 * 1000ULL },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B27; U21] */
static void
test_idle_times_can_be_set(void **state)
{
	static const char section[] =
		"timeouts: { tcp_syn_sent: 5s, tcp_established: 2h }\n"
		"rules:\n"
		"  - { action: allow, direction: out, protocol: tcp, idle: 10m,\n"
		"      destination_ports: 80 }\n"
		"  - { action: allow, direction: out, protocol: udp, idle: 1h }\n";
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0) }, SENT, true },
		{ "is forgotten when the file says", { S("SA", 5000, 1001) },
		  DROPPED(STATE), .after_ms = 6000 },
		HANDSHAKE,
		{ "a rule has its own time", { S("A", 5001, 1001) }, SENT,
		  .after_ms = 599 * 1000 },
		{ "which ends", { S("A", 5001, 1001) }, DROPPED(STATE),
		  .after_ms = 601 * 1000 },
		{ "a question", { OUT, .protocol = PROTO_UDP }, SENT, true },
		{ "is not established", { IN, .protocol = PROTO_UDP }, DROPPED(POLICY),
		  .after_ms = 31000 },
		{ "a question", { OUT, .protocol = PROTO_UDP }, SENT, true },
		{ "answered, it is", { IN, .protocol = PROTO_UDP }, SENT, true },
		{ "for an hour", { IN, .protocol = PROTO_UDP }, SENT,
		  .after_ms = 3599 * 1000 },
	};

	RUN_STEPS("firewall", section, steps);
}

/* [B27, B28] */
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

/* [B27, B28] */
static void
test_gre_and_other_protocols(void **state)
{
	static const struct step steps[] = {
		{ "ARP passes", { .side = NF_OUTSIDE, .arp = true }, SENT },
		{ "GRE from outside", { IN, .protocol = 47, .data = "xxxx" },
		  DROPPED(POLICY) },
		{ "GRE from inside", { OUT, .protocol = 47, .data = "xxxx" }, SENT,
		  true },
		{ "without an answer for 31 s", { IN, .protocol = 47, .data = "xxxx" },
		  DROPPED(POLICY), .after_ms = 31000 },
		{ "GRE from inside", { OUT, .protocol = 47, .data = "xxxx" }, SENT,
		  true },
		{ "GRE back", { IN, .protocol = 47, .data = "xxxx" }, SENT, true },
		{ "179 s later", { IN, .protocol = 47, .data = "xxxx" }, SENT,
		  .after_ms = 179000 },
		{ "too late", { IN, .protocol = 47, .data = "xxxx" }, DROPPED(POLICY),
		  .after_ms = 181000 },
		{ "ESP", { OUT, .protocol = 50, .data = "xxxx" }, SENT, true },
		{ "ESP back, 599 s later", { IN, .protocol = 50, .data = "xxxx" }, SENT,
		  .after_ms = 599000 },
		{ "too late", { IN, .protocol = 50, .data = "xxxx" }, DROPPED(POLICY),
		  .after_ms = 601000 },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B28; case 45] */
static void
test_what_is_negotiated_inside_of_a_connection_is_not_expected(void **state)
{
	static const struct step steps[] = {
		HANDSHAKE,
		{ "PORT 10,0,0,1,4,1 of an FTP client",
		  { C("PA", 1001, 5001), .data = "PORT 10,0,0,1,4,1\r\n" }, SENT },
		{ "opens nothing for the server", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:20", .to = "10.0.0.1:1025", .flags = "S" },
		  DROPPED(POLICY) },
	};

	RUN_STEPS("firewall", defaults, steps);
}

/* [B39] */
static void
test_a_wrong_checksum_changes_no_state(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { C("S", 1000, 0), .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "did not open", { S("SA", 5000, 1001) }, DROPPED(STATE) },
		{ "in a bad IP header", { C("S", 1000, 0), .bad_ip_checksum = true },
		  DROPPED(PARSE) },
		HANDSHAKE,
		{ "RST", { S("R", 5001, 0), .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "FIN", { S("FA", 5001, 1001), .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "did not close", { S("A", 5001, 1001) }, SENT, .after_ms = 3600 * 1000 },
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

/* [B40; U4] */
static void
test_zones_do_not_mix(void **state)
{
	static const struct step steps[] = {
		{ "opened in one", { C("S", 1000, 0), .vlan = 5 }, SENT, true },
		{ "not answered in another", { S("SA", 5000, 1001), .vlan = 6 },
		  DROPPED(STATE) },
		{ "where it may be opened, too", { C("S", 1000, 0), .vlan = 6 }, SENT,
		  true },
		{ "each is answered", { S("SA", 5000, 1001), .vlan = 6 }, SENT, true },
		{ "in its own", { S("SA", 5000, 1001), .vlan = 5 }, SENT, true },
	};
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = defaults,
				     .n_pipes = 2, .n_partitions = 3,
				     .zone = PIPE_ZONE_VLAN };
	struct bench *b = bench_open_as(&setup);

	bench_steps(b, steps, 5);
	bench_close(b);
}

/* A table's number in the store, which it has once there was one. */
static unsigned int
number_of(const char *name)
{
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(nf_find("firewall"), table, STORE_MAX_TABLES);

	bench_close(bench_open("firewall", defaults, 1));
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(table[i]->name, name) == 0)
			return table[i]->index;
	fail_msg("no table %s", name);
	return 0;
}

/* [case 49; U16] */
static void
test_a_full_table_takes_the_place_of_what_is_worth_least(void **state)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = defaults,
				     .n_pipes = 2, .n_partitions = 1 };
	static const struct step opening[] = { HANDSHAKE };
	static const struct step after[] = {
		{ "the one that is open stays", { S("A", 5001, 1001) }, SENT },
	};
	struct bench *b;
	char from[32];

	setup.table[number_of("connection")] = (struct pipe_table){ 10, true, 0 };
	b = bench_open_as(&setup);
	bench_steps(b, opening, 3);
	for (unsigned int i = 0; i < 100; i++) {
		struct spec udp = { .side = NF_INSIDE, .from = from,
				    .to = "192.0.2.1:53", .protocol = PROTO_UDP };

		snprintf(from, sizeof(from), "10.0.1.1:%u", 1024 + i);
		if (i == 50)
			bench_wait(b, 60 * 1000);
		bench_put(b, i % 2, &udp);
		bench_settle(b);
		assert_non_null(bench_take(b));
	}
	assert_in_range(bench_records(b, "connection"), 1, 10);
	bench_steps(b, after, 1);
	bench_close(b);
}

/* --- SCTP --------------------------------------------------------------------- */

enum {
	CHUNKS_AT = 34,				/* Behind Ethernet and IPv4. */
};

/* Sends a packet of one chunk.  Returns whether it passed. */
static bool
sctp(struct bench *b, unsigned int pipe, enum nf_side side, uint32_t tag, uint8_t type,
     uint8_t flags, uint32_t chosen)
{
	struct spec spec = { .side = side, .protocol = 132, .data_bytes = 32,
			     .from = side == NF_INSIDE ? "10.0.0.1:1" : "192.0.2.1:1",
			     .to = side == NF_INSIDE ? "192.0.2.1:1" : "10.0.0.1:1" };
	static uint8_t frame[BENCH_FRAME_BYTES];
	uint8_t head[32] = { 0x13, 0x88, 0x17, 0x70 };
	unsigned int bytes = spec_build(&spec, frame);
	bool passed;

	if (side == NF_OUTSIDE)
		memcpy(head, (uint8_t[]){ 0x17, 0x70, 0x13, 0x88 }, 4);
	memcpy(head + 4, (rte_be32_t[]){ rte_cpu_to_be_32(tag) }, 4);
	head[12] = type;
	head[13] = flags;
	head[15] = 20;
	memcpy(head + 16, (rte_be32_t[]){ rte_cpu_to_be_32(chosen) }, 4);
	memcpy(frame + CHUNKS_AT, head, sizeof(head));
	spec = (struct spec){ .side = side, .raw = frame, .raw_bytes = bytes };
	bench_put(b, pipe, &spec);
	bench_settle(b);
	passed = bench_take(b) != NULL;
	assert_null(bench_take(b));
	return passed;
}

/* [B27, B28; U4] */
static void
test_sctp_associations(void **state)
{
	struct bench *b = bench_open("firewall", defaults, 2);

	assert_false(sctp(b, 0, NF_OUTSIDE, 0, 1, 0, 7));		/* INIT, denied. */
	assert_false(sctp(b, 0, NF_INSIDE, 5, 0, 0, 0));		/* DATA of nothing. */
	assert_false(sctp(b, 0, NF_INSIDE, 5, 1, 0, 7));		/* INIT with a tag. */
	assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 77));		/* INIT */
	assert_false(sctp(b, 1, NF_OUTSIDE, 78, 2, 0, 99));	/* The wrong tag. */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 2, 0, 99));	/* INIT ACK */
	assert_false(sctp(b, 0, NF_INSIDE, 99, 0, 0, 0));		/* DATA, too early. */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 10, 0, 1));		/* COOKIE ECHO */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 11, 0, 1));	/* COOKIE ACK */
	bench_wait(b, 4 * 86400 * 1000ULL);
	assert_true(sctp(b, 0, NF_INSIDE, 99, 0, 0, 0));		/* DATA */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 4, 0, 0));		/* HEARTBEAT */
	assert_false(sctp(b, 1, NF_OUTSIDE, 78, 6, 0, 0));	/* ABORT, forged. */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 0, 0, 0));
	assert_true(sctp(b, 0, NF_INSIDE, 99, 7, 0, 0));		/* SHUTDOWN */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 8, 0, 0));		/* SHUTDOWN ACK */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 14, 0, 0));		/* SHUTDOWN COMPLETE */
	bench_wait(b, 11 * 1000);
	assert_int_equal(bench_records(b, "connection"), 0);
	assert_false(sctp(b, 0, NF_INSIDE, 99, 0, 0, 0));

	assert_true(sctp(b, 0, NF_INSIDE, 321, 4, 0, 0));		/* Another path. */
	bench_wait(b, 29 * 1000);
	assert_true(sctp(b, 1, NF_OUTSIDE, 123, 5, 0, 0));
	bench_wait(b, 209 * 1000);
	assert_true(sctp(b, 1, NF_OUTSIDE, 123, 0, 0, 0));
	assert_true(sctp(b, 1, NF_OUTSIDE, 321, 6, 1, 0));	/* ABORT, reflected. */
	bench_close(b);
}

/* The tags of the two sides are 77 and 99 from then on. */
static struct bench *
open_association(void)
{
	struct bench *b = bench_open("firewall", defaults, 2);

	assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 77));		/* INIT */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 2, 0, 99));	/* INIT ACK */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 10, 0, 1));		/* COOKIE ECHO */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 11, 0, 1));	/* COOKIE ACK */
	return b;
}

/* [B28; U4, U8] RFC 9260, 5.2.2: an end that has lost its association opens it anew, and
 * the other one still has it, or not. */
static void
test_an_sctp_end_may_start_again(void **state)
{
	for (enum nf_side side = NF_INSIDE; side <= NF_OUTSIDE; side++) {
		struct bench *b = open_association();
		uint32_t own = side == NF_INSIDE ? 99 : 77, other = 77 + 99 - own;

		assert_true(sctp(b, 0, side, 0, 1, 0, 1077));		/* INIT */
		assert_false(sctp(b, 1, !side, 1078, 2, 0, 1099));
		assert_true(sctp(b, 1, !side, 1077, 2, 0, 1099));	/* INIT ACK */
		/* Anybody can have come so far: the old one is none the worse. */
		assert_true(sctp(b, 0, side, own, 0, 0, 0));		/* DATA */
		assert_true(sctp(b, 1, !side, other, 0, 0, 0));
		assert_false(sctp(b, 0, side, 1098, 10, 0, 1));
		assert_false(sctp(b, 0, side, 1099, 0, 0, 0));
		assert_true(sctp(b, 0, side, 1099, 10, 0, 1));		/* COOKIE ECHO */
		assert_true(sctp(b, 1, !side, 1077, 11, 0, 1));		/* COOKIE ACK */
		assert_true(sctp(b, 0, side, 1099, 0, 0, 0));
		assert_true(sctp(b, 1, !side, 1077, 0, 0, 0));
		assert_false(sctp(b, 0, side, own, 0, 0, 0));
		assert_false(sctp(b, 1, !side, other, 0, 0, 0));
		bench_wait(b, 4 * 86400 * 1000ULL);
		assert_true(sctp(b, 0, side, 1099, 0, 0, 0));
		bench_close(b);
	}
}

/* [B28] */
static void
test_an_sctp_end_may_be_refused_to_start_again(void **state)
{
	struct bench *b = open_association();

	assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 1077));	/* INIT */
	assert_false(sctp(b, 1, NF_OUTSIDE, 1078, 6, 0, 0));
	assert_true(sctp(b, 1, NF_OUTSIDE, 1077, 6, 0, 0));	/* ABORT of that. */
	bench_wait(b, 86400 * 1000ULL);
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 0, 0, 0));		/* DATA, old. */
	bench_close(b);
}

/* [B28] RFC 9260, 5.2.1. */
static void
test_both_sctp_ends_may_open(void **state)
{
	struct bench *b = bench_open("firewall", defaults, 2);

	assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 77));		/* INIT */
	assert_true(sctp(b, 1, NF_OUTSIDE, 0, 1, 0, 99));		/* INIT */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 2, 0, 77));		/* INIT ACK */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 2, 0, 99));	/* INIT ACK */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 10, 0, 1));	/* COOKIE ECHO */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 10, 0, 1));		/* COOKIE ECHO */
	assert_true(sctp(b, 0, NF_INSIDE, 99, 11, 0, 1));		/* COOKIE ACK */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 11, 0, 1));	/* COOKIE ACK */
	bench_wait(b, 86400 * 1000ULL);
	assert_true(sctp(b, 0, NF_INSIDE, 99, 0, 0, 0));		/* DATA */
	assert_true(sctp(b, 1, NF_OUTSIDE, 77, 0, 0, 0));
	bench_close(b);
}

/* [B33] */
static void
test_sctp_associations_are_counted_until_they_end(void **state)
{
	static const char one[] = "limits: { connections_per_source: 1 }";
	struct bench *b = bench_open("firewall", one, 2);

	for (unsigned int i = 0; i < 5; i++) {
		assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 77));	/* INIT */
		assert_true(sctp(b, 1, NF_OUTSIDE, 77, 6, 0, 0));	/* ABORT */
	}
	bench_wait(b, 11 * 1000);
	bench_settle(b);
	assert_true(sctp(b, 0, NF_INSIDE, 0, 1, 0, 77));
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inside_may_open_and_outside_may_only_answer),
		cmocka_unit_test(test_ipv6_is_no_different),
		cmocka_unit_test(test_idle_times_are_those_of_linux),
		cmocka_unit_test(test_idle_times_can_be_set),
		cmocka_unit_test(test_udp_is_a_stream_once_it_was_answered),
		cmocka_unit_test(test_gre_and_other_protocols),
		cmocka_unit_test(test_what_is_negotiated_inside_of_a_connection_is_not_expected),
		cmocka_unit_test(test_a_wrong_checksum_changes_no_state),
		cmocka_unit_test(test_zones_do_not_mix),
		cmocka_unit_test(test_a_full_table_takes_the_place_of_what_is_worth_least),
		cmocka_unit_test(test_sctp_associations),
		cmocka_unit_test(test_an_sctp_end_may_start_again),
		cmocka_unit_test(test_an_sctp_end_may_be_refused_to_start_again),
		cmocka_unit_test(test_both_sctp_ends_may_open),
		cmocka_unit_test(test_sctp_associations_are_counted_until_they_end),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

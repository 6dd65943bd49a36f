/*
 * test_nat.c - the NAT, packet by packet.  Where the pool has one port, it is known
 * which one a connection gets.
 */
#include "harness.h"

#include <stdio.h>

static const char one_port[] = "addresses: 203.0.113.1\n"
			       "ports: 2000\n";

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"
#define AS_IN "192.0.2.1:80 > 10.0.0.1:1000"

/* [case 1, B22: the harness checks every checksum] */
static void
test_tcp_and_udp_go_out_and_come_back(void **state)
{
	static const struct step steps[] = {
		{ "unasked", { IN, .flags = "S" }, DROPPED(STATE) },
		{ "midstream", { OUT, .flags = "A" }, DROPPED(STATE) },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN again", { OUT, .flags = "S" }, SENT, false, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, false, AS_IN },
		{ "ACK", { OUT, .flags = "A" }, SENT, true, AS_OUT },
		{ "data", { OUT, .flags = "PA", .data = "odd" }, SENT, false, AS_OUT },
		{ "data", { IN, .flags = "PA", .data = "even" }, SENT, false, AS_IN },
		{ "from another", { .side = NF_OUTSIDE, .from = "192.0.2.2:80",
		  .to = "203.0.113.1:2000", .flags = "A" }, DROPPED(STATE) },
		{ "FIN", { IN, .flags = "FA" }, SENT, true, AS_IN },
		{ "FIN", { OUT, .flags = "FA" }, SENT, false, AS_OUT },
		{ "ACK", { IN, .flags = "A" }, SENT, false, AS_IN },
		{ "a new connection on the old mapping", { OUT, .flags = "S" }, SENT,
		  true,
		  AS_OUT },
		{ "UDP has ports of its own", { OUT, .protocol = PROTO_UDP, .data = "x" },
		  SENT, true, AS_OUT },
		{ "its answer", { IN, .protocol = PROTO_UDP, .data = "xyz" }, SENT, false,
		  AS_IN },
		{ "ARP passes", { .side = NF_INSIDE, .arp = true }, SENT },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* [cases 1, 21] */
static void
test_echo_goes_by_identifier(void **state)
{
	static const struct step steps[] = {
		{ "unasked", { IN, .protocol = PROTO_ICMP, .type = 0 }, DROPPED(STATE) },
		{ "request", { OUT, .protocol = PROTO_ICMP, .type = 8, .data = "ping" },
		  SENT, true, "203.0.113.1:2000 > 192.0.2.1:2000" },
		{ "reply", { .side = NF_OUTSIDE, .from = "192.0.2.1:2000",
		  .to = "203.0.113.1:2000", .protocol = PROTO_ICMP, .data = "ping",
		  .padding = 4 }, SENT, false, "192.0.2.1:1000 > 10.0.0.1:1000" },
		{ "a request the other way is no reply", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:2000", .to = "203.0.113.1:2000",
		  .protocol = PROTO_ICMP, .type = 8 }, DROPPED(STATE) },
		{ "nor is a reply a request", { OUT, .protocol = PROTO_ICMP },
		  DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* [cases 5, 9; B3, B19, B20; U14] */
static void
test_a_port_that_is_taken_stays_with_its_owner(void **state)
{
	static const struct step steps[] = {
		{ "the first takes it", { OUT, .protocol = PROTO_UDP }, SENT, true,
		  AS_OUT },
		{ "the second finds none", { .side = NF_INSIDE, .from = "10.0.0.2:1000",
		  .to = "192.0.2.1:80", .protocol = PROTO_UDP }, DROPPED(PORTS) },
		{ "the first is as before", { IN, .protocol = PROTO_UDP }, SENT, false,
		  AS_IN },
		{ "to another server it may be free", { .side = NF_INSIDE,
		  .from = "10.0.0.2:1000", .to = "192.0.2.2:80", .protocol = PROTO_UDP },
		  SENT, true, "203.0.113.1:2000 > 192.0.2.2:80" },
		{ "whose answers are not the first's", { .side = NF_OUTSIDE,
		  .from = "192.0.2.2:80", .to = "203.0.113.1:2000",
		  .protocol = PROTO_UDP }, SENT, false, "192.0.2.2:80 > 10.0.0.2:1000" },
		{ "once the first is forgotten", { OUT, .protocol = PROTO_TCP,
		  .flags = "A" }, DROPPED(STATE), .after_ms = 301 * 1000 },
		{ "it rests", { .side = NF_INSIDE, .from = "10.0.0.2:1000",
		  .to = "192.0.2.1:80", .protocol = PROTO_UDP }, DROPPED(PORTS),
		  .after_ms = 119 * 1000 },
		{ "the second gets it", { .side = NF_INSIDE, .from = "10.0.0.2:1000",
		  .to = "192.0.2.1:80", .protocol = PROTO_UDP }, SENT, true, AS_OUT,
		  .after_ms = 2 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* [B6, B7, B16, B17; case 13] */
static void
test_only_packets_from_inside_keep_a_mapping(void **state)
{
	static const struct step steps[] = {
		{ "UDP", { OUT, .protocol = PROTO_UDP }, SENT, true, AS_OUT },
		{ "outbound refreshes", { OUT, .protocol = PROTO_UDP }, SENT, false,
		  AS_OUT,
		  .after_ms = 290 * 1000 },
		{ "just before the end", { IN, .protocol = PROTO_UDP }, SENT, false,
		  AS_IN,
		  .after_ms = 290 * 1000 },
		{ "inbound did not refresh", { IN, .protocol = PROTO_UDP },
		  DROPPED(STATE),
		  .after_ms = 11 * 1000 },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "opening lasts 4 minutes", { IN, .flags = "SA" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT,
		  .after_ms = 121 * 1000 },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, false, AS_IN },
		{ "ACK", { OUT, .flags = "A" }, SENT, true, AS_OUT },
		{ "open lasts 2 hours and 4 minutes", { IN, .flags = "A" }, SENT, false,
		  AS_IN, .after_ms = 7430 * 1000 },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "RST", { IN, .flags = "R" }, SENT, true, AS_IN },
		{ "the mapping lives on for a while", { OUT, .flags = "A" }, SENT, false,
		  AS_OUT, .after_ms = 230 * 1000 },
		{ "but not longer", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
		{ "ping", { OUT, .protocol = PROTO_ICMP, .type = 8 }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.1:2000" },
		{ "a minute later", { .side = NF_OUTSIDE, .from = "192.0.2.1:2000",
		  .to = "203.0.113.1:2000", .protocol = PROTO_ICMP }, DROPPED(STATE),
		  .after_ms = 61 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* A packet from inside races with the expiry of its mapping: either that lives on, or it
 * is gone with its port, which rests. */
static void
test_a_mapping_lives_on_or_is_gone(void **state)
{
	static const struct spec first = { OUT, .protocol = PROTO_UDP };
	uint64_t lived = 0, gone = 0;

	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = bench_open("nat", one_port, 2);
		const struct sent *s;

		bench_put(b, 0, &first);
		bench_settle(b);
		bench_take(b);
		bench_wait(b, 301 * 1000);
		for (unsigned int i = 0; i < 8; i++) {
			if (i == 4)
				bench_put(b, 1, &first);
			bench_turn(b, schedule >> i & 1);
		}
		bench_settle(b);
		s = bench_take(b);
		if (s != NULL) {
			assert_string_equal(sent_endpoints(s), AS_OUT);
			lived++;
		} else {
			assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 1);
			gone++;
		}
		assert_int_equal(bench_records(b, "forward"), s != NULL);
		assert_int_equal(bench_records(b, "reverse"), s != NULL);
		assert_int_equal(bench_stats(b).leases_settled, s == NULL);
		bench_close(b);
	}
	assert_true(lived > 0 && gone > 0);
}

static void
test_what_is_not_translated_does_not_pass(void **state)
{
	static const struct spec sent = { OUT, .protocol = PROTO_UDP };
	static const struct step steps[] = {
		{ "IPv6", { .side = NF_INSIDE, .from = "[2001:db8::1]:1",
		  .to = "[2001:db8::2]:1", .protocol = PROTO_UDP }, DROPPED(POLICY) },
		{ "GRE", { OUT, .protocol = 47, .data = "xxxx" }, DROPPED(POLICY) },
		{ "a later fragment", { OUT, .protocol = PROTO_UDP, .fragment = 1,
		  .data = "x" }, DROPPED(FRAGMENT) },
		{ "an ICMP error", { IN, .protocol = PROTO_ICMP, .type = 3,
		  .quote = &sent },
		  DROPPED(STATE) },
		{ "a hairpin", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "203.0.113.1:2000", .protocol = PROTO_UDP }, DROPPED(POLICY) },
		{ "a wrong checksum", { OUT, .protocol = PROTO_UDP,
		  .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "made no mapping", { IN, .protocol = PROTO_UDP }, DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* [B2, B4] */
static void
test_ports_and_addresses_are_those_of_the_pool(void **state)
{
	struct bench *b = bench_open("nat", "addresses: [203.0.113.1, 203.0.113.2]", 2);
	bool used[2] = { false };

	for (unsigned int host = 1; host <= 40; host++) {
		unsigned int address = 0;

		for (unsigned int i = 0; i < 4; i++) {
			char from[32];
			unsigned int got, port;
			int n;

			sprintf(from, "10.0.0.%u:%u", host, 1000 + i);

			struct spec packet = { .side = NF_INSIDE, .from = from,
					       .to = "192.0.2.1:53",
					       .protocol = PROTO_UDP };

			bench_put(b, i % 2, &packet);
			bench_settle(b);

			const struct sent *s = bench_take(b);

			assert_non_null(s);
			n = sscanf(sent_endpoints(s), "203.0.113.%u:%u", &got, &port);
			assert_int_equal(n, 2);
			assert_true(got == 1 || got == 2);
			assert_true(port >= 1024 && port <= 65535);
			assert_true(i == 0 || got == address);
			address = got;
			used[got - 1] = true;
			assert_null(bench_take(b));
		}
	}
	assert_true(used[0] && used[1]);
	bench_close(b);
}

static void
test_what_a_section_may_not_say(void **state)
{
	assert_true(bench_refuses("nat", "ports: 1024-65535"));
	assert_true(bench_refuses("nat", "addresses: []"));
	assert_true(bench_refuses("nat", "addresses: 2001:db8::1"));
	assert_true(bench_refuses("nat", "{ addresses: 10.0.0.1, ports: 0-5 }"));
	assert_true(bench_refuses("nat", "{ addresses: 10.0.0.1, ports: 70000 }"));
	assert_true(bench_refuses("nat", "{ addresses: 10.0.0.1, udp_idle: never }"));
}

/* Two instances map flows of different hosts to one server at the same moment, in a pool
 * where they must collide: never the same port twice.  [B5, B72] */
static void
test_two_instances_never_give_a_port_twice(void **state)
{
	uint64_t conflicts = 0;

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, "
						    "ports: 2000-2007 }", 2);
		bool taken[8] = { false };
		static char from[10][32];
		struct spec packets[10];
		const struct sent *s;
		unsigned int port = 0, n = 0;

		for (unsigned int i = 0; i < 10; i++) {
			sprintf(from[i], "10.0.0.%u:1000", i + 1);
			packets[i] = (struct spec){ .side = NF_INSIDE, .from = from[i],
						    .to = "192.0.2.1:53",
						    .protocol = PROTO_UDP };
		}
		bench_race(b, packets, 10, schedule, 10);
		while ((s = bench_take(b)) != NULL) {
			sscanf(sent_endpoints(s), "203.0.113.1:%u", &port);
			assert_in_range(port, 2000, 2007);
			assert_false(taken[port - 2000]);
			taken[port - 2000] = true;
			n++;
		}
		/* As long as there is one, it is found. */
		assert_int_equal(n, 8);
		assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 2);
		assert_int_equal(bench_records(b, "forward"), 8);
		assert_int_equal(bench_records(b, "reverse"), 8);
		conflicts += bench_conflicts(b);
		bench_close(b);
	}
	assert_true(conflicts > 0);
}

/* Packets of one new flow on two instances get one mapping. */
static void
test_two_instances_give_a_flow_one_port(void **state)
{
	static const struct spec twice[] = {
		{ OUT, .protocol = PROTO_UDP }, { OUT, .protocol = PROTO_UDP },
	};

	for (unsigned int schedule = 0; schedule < 1 << 10; schedule++) {
		struct bench *b = bench_open("nat", "addresses: 203.0.113.1", 2);
		char first[64];

		bench_race(b, twice, 2, schedule, 10);
		strcpy(first, sent_endpoints(bench_take(b)));
		assert_string_equal(sent_endpoints(bench_take(b)), first);
		assert_int_equal(bench_records(b, "forward"), 1);
		assert_int_equal(bench_records(b, "reverse"), 1);
		bench_close(b);
	}
}

/* In a store of several partitions a flow's records lie in one of them, whichever port it
 * gets, and ports are given once all the same.  [B5, B72] */
static void
test_partitions_share_the_ports(void **state)
{
	struct bench_setup setup = { .nf = nf_find("nat"), .n_pipes = 2,
				     .n_partitions = 5,
				     .section = "{ addresses: 203.0.113.1, "
						"ports: 2003-2999 }" };
	struct bench *b = bench_open_as(&setup);
	bool taken[3000] = { false };
	char from[32], to[32];
	unsigned int port;
	const struct sent *s;

	for (unsigned int i = 0; i < 200; i++) {
		struct spec out = { .side = NF_INSIDE, .from = from, .to = "192.0.2.1:53",
				    .protocol = PROTO_UDP };
		struct spec in = { .side = NF_OUTSIDE, .from = "192.0.2.1:53", .to = to,
				   .protocol = PROTO_UDP };

		sprintf(from, "10.0.%u.1:%u", i % 7, 1000 + i);
		bench_put(b, i % 2, &out);
		bench_settle(b);
		s = bench_take(b);
		assert_non_null(s);
		assert_int_equal(sscanf(sent_endpoints(s), "203.0.113.1:%u", &port), 1);
		assert_in_range(port, 2003, 2999);
		assert_false(taken[port]);
		taken[port] = true;
		sprintf(to, "203.0.113.1:%u", port);
		bench_put(b, (i + 1) % 2, &in);
		bench_settle(b);
		assert_non_null(strstr(sent_endpoints(bench_take(b)), from));
		assert_null(bench_take(b));
	}
	assert_int_equal(bench_records(b, "reverse"), 200);
	bench_wait(b, 301 * 1000);
	bench_settle(b);
	assert_int_equal(bench_stats(b).leases_settled, 200);
	assert_int_equal(bench_records(b, "reverse"), 0);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp_and_udp_go_out_and_come_back),
		cmocka_unit_test(test_echo_goes_by_identifier),
		cmocka_unit_test(test_a_port_that_is_taken_stays_with_its_owner),
		cmocka_unit_test(test_only_packets_from_inside_keep_a_mapping),
		cmocka_unit_test(test_a_mapping_lives_on_or_is_gone),
		cmocka_unit_test(test_what_is_not_translated_does_not_pass),
		cmocka_unit_test(test_ports_and_addresses_are_those_of_the_pool),
		cmocka_unit_test(test_what_a_section_may_not_say),
		cmocka_unit_test(test_two_instances_never_give_a_port_twice),
		cmocka_unit_test(test_two_instances_give_a_flow_one_port),
		cmocka_unit_test(test_partitions_share_the_ports),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

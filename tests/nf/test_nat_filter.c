/*
 * test_nat_filter.c - the NAT's mappings, who may send to them, and hairpins.
 */
#include "harness.h"

#include <stdio.h>

#define POOL "addresses: 203.0.113.1\nports: 2000\n"

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define OUT_ELSEWHERE .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.2:53"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000"
#define IN_OTHER_PORT .side = NF_OUTSIDE, .from = "192.0.2.1:81", .to = "203.0.113.1:2000"
#define IN_OTHER_HOST .side = NF_OUTSIDE, .from = "192.0.2.3:80", .to = "203.0.113.1:2000"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"
#define AS_IN "192.0.2.1:80 > 10.0.0.1:1000"
#define UDP .protocol = PROTO_UDP

/* [case 11; B1] */
static void
test_an_endpoint_has_one_mapping_for_all_remote_ones(void **state)
{
	static const struct step steps[] = {
		{ "to A:p", { OUT, UDP }, SENT, true, AS_OUT },
		{ "to A2:p", { OUT_ELSEWHERE, UDP }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.2:53" },
		{ "to A2:p2", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "192.0.2.2:54", UDP }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.2:54" },
		{ "TCP, too", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "to another server", { OUT_ELSEWHERE, .flags = "S" }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.2:53" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: endpoint_independent", steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: address_and_port", steps);
}

/* [B8] */
static void
test_filtering_by_address_lets_in_who_was_sent_to(void **state)
{
	static const struct step steps[] = {
		{ "nobody yet", { IN, UDP }, DROPPED(STATE) },
		{ "out", { OUT, UDP }, SENT, true, AS_OUT },
		{ "the one", { IN, UDP }, SENT, false, AS_IN },
		{ "its other port", { IN_OTHER_PORT, UDP }, SENT, false,
		  "192.0.2.1:81 > 10.0.0.1:1000" },
		{ "another host", { IN_OTHER_HOST, UDP }, DROPPED(STATE) },
		{ "once it is sent to", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "192.0.2.3:9", UDP }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.3:9" },
		{ "it may", { IN_OTHER_HOST, UDP }, SENT, false,
		  "192.0.2.3:80 > 10.0.0.1:1000" },
		{ "the first goes on", { OUT, UDP }, SENT, false, AS_OUT,
		  .after_ms = 200 * 1000 },
		{ "when the second's session has ended, it may not",
		  { IN_OTHER_HOST, UDP }, DROPPED(STATE), .after_ms = 150 * 1000 },
		{ "but the first", { IN_OTHER_PORT, UDP }, SENT, false,
		  "192.0.2.1:81 > 10.0.0.1:1000" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: address", steps);
}

/* [B8] */
static void
test_filtering_by_nothing_lets_in_everybody(void **state)
{
	static const struct step steps[] = {
		{ "nobody yet", { IN_OTHER_HOST, UDP }, DROPPED(STATE) },
		{ "out", { OUT, UDP }, SENT, true, AS_OUT },
		{ "everybody, and nothing is written", { IN_OTHER_HOST, UDP }, SENT,
		  false, "192.0.2.3:80 > 10.0.0.1:1000" },
		{ "whose packets do not refresh", { IN_OTHER_HOST, UDP }, SENT, false,
		  "192.0.2.3:80 > 10.0.0.1:1000", .after_ms = 290 * 1000 },
		{ "the mapping", { IN_OTHER_HOST, UDP }, DROPPED(STATE),
		  .after_ms = 11 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: endpoint_independent", steps);
}

/* [B8] */
static void
test_filtering_by_address_and_port_lets_in_answers(void **state)
{
	static const struct step steps[] = {
		{ "out", { OUT, UDP }, SENT, true, AS_OUT },
		{ "the one", { IN, UDP }, SENT, false, AS_IN },
		{ "its other port", { IN_OTHER_PORT, UDP }, DROPPED(STATE) },
		{ "another host", { IN_OTHER_HOST, UDP }, DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: address_and_port", steps);
}

/* [B8, B14] */
static void
test_connections_from_outside_come_to_a_mapping(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "a SYN from another port", { IN_OTHER_PORT, .flags = "S" }, SENT, true,
		  "192.0.2.1:81 > 10.0.0.1:1000" },
		{ "again", { IN_OTHER_PORT, .flags = "S" }, SENT, false,
		  "192.0.2.1:81 > 10.0.0.1:1000" },
		{ "SYN/ACK", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "192.0.2.1:81", .flags = "SA" }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.1:81" },
		{ "ACK", { IN_OTHER_PORT, .flags = "A" }, SENT, false,
		  "192.0.2.1:81 > 10.0.0.1:1000" },
		{ "midstream", { .side = NF_OUTSIDE, .from = "192.0.2.1:82",
		  .to = "203.0.113.1:2000", .flags = "A" }, DROPPED(STATE) },
		{ "it is open", { IN_OTHER_PORT, .flags = "A" }, SENT, false,
		  "192.0.2.1:81 > 10.0.0.1:1000", .after_ms = 7430 * 1000 },
		{ "the one from inside is not", { IN, .flags = "A" }, DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: endpoint_independent", steps);
}

/* [B15] */
static void
test_an_unsolicited_syn_is_held_before_it_is_refused(void **state)
{
	static const struct step steps[] = {
		{ "a mapping", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN from a stranger", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  true },
		{ "again", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  .after_ms = 1000 },
		{ "again", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  .after_ms = 2000 },
		{ "after 6 seconds it is told", { IN_OTHER_HOST, .flags = "S" },
		  DROPPED(STATE), .answers = 1, .after_ms = 4000 },
		{ "what is no SYN is not", { IN_OTHER_HOST, .flags = "A" },
		  DROPPED(STATE) },
		{ "a wrong checksum is not remembered", { IN_OTHER_HOST, .flags = "S",
		  .bad_checksum = true }, DROPPED(CHECKSUM), .after_ms = 61 * 1000 },
		{ "all begins anew", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  true },
		{ "where there is no mapping, nobody is told", { .side = NF_OUTSIDE,
		  .from = "192.0.2.3:80", .to = "203.0.113.1:2001", .flags = "S" },
		  DROPPED(STATE) },
	};
	static const struct step asked_for[] = {
		{ "a mapping", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN from a stranger", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  true },
		{ "the inside calls it, too", { .side = NF_INSIDE,
		  .from = "10.0.0.1:1000", .to = "192.0.2.3:80", .flags = "S" }, SENT,
		  true, "203.0.113.1:2000 > 192.0.2.3:80", .after_ms = 3000 },
		{ "its SYN again", { IN_OTHER_HOST, .flags = "S" }, SENT, true,
		  "192.0.2.3:80 > 10.0.0.1:1000", .after_ms = 4000 },
	};
	static const struct step forbidden[] = {
		{ "a mapping", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN from a stranger", { IN_OTHER_HOST, .flags = "S" },
		  DROPPED(STATE) },
		{ "again", { IN_OTHER_HOST, .flags = "S" }, DROPPED(STATE),
		  .after_ms = 7000 },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: address_and_port", asked_for);
	RUN_STEPS_UNDIVIDED("nat", POOL "unsolicited_syn: drop", forbidden);
}

/* [B15; U25] Strangers that call from everywhere: what is remembered of them is bounded,
 * and those that are asked for get in. */
static void
test_what_is_remembered_of_strangers_is_bounded(void **state)
{
	static const struct spec mapping = { OUT, .flags = "S" };
	struct bench *b = bench_open("nat", POOL, 1);
	char from[32];

	bench_put(b, 0, &mapping);
	bench_settle(b);
	assert_non_null(bench_take(b));
	for (unsigned int i = 0; i < 66000; i++) {
		struct spec call = { .side = NF_OUTSIDE, .from = from,
				     .to = "203.0.113.1:2000", .flags = "S" };

		sprintf(from, "100.%u.%u.%u:80", i >> 16 & 255, i >> 8 & 255, i & 255);
		bench_put(b, 0, &call);
		if (i % 32 == 31)
			bench_settle(b);
	}
	bench_settle(b);
	assert_int_equal(bench_records(b, "held"), 65536);
	assert_int_equal(bench_dropped(b, NF_DROP_STATE), 65536);
	assert_int_equal(bench_dropped(b, NF_DROP_STORE_FULL), 66000 - 65536);
	bench_wait(b, 70 * 1000);
	bench_settle(b);
	bench_wait(b, 70 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "held"), 0);
	bench_close(b);
}

/* [B9] */
static void
test_inside_hosts_meet_at_their_outside_addresses(void **state)
{
	static const char section[] = "{ addresses: 203.0.113.1, ports: 2000-2063, "
				      "filtering: endpoint_independent }";

	for (unsigned int kind = 0; kind < 2; kind++) {
		struct bench *b = bench_open("nat", section, 2);
		uint8_t protocol = kind == 0 ? PROTO_UDP : PROTO_TCP;
		struct spec server = { OUT, .protocol = protocol, .flags = "S" };
		unsigned int a, client_port, port;
		char to[32], from[32];

		/* The server has a mapping. */
		bench_put(b, 0, &server);
		bench_settle(b);
		assert_int_equal(sscanf(sent_endpoints(bench_take(b)), "203.0.113.1:%u",
					&port), 1);
		sprintf(to, "203.0.113.1:%u", port);

		/* A client inside calls there, and is seen by its outside endpoint. */
		struct spec client = { .side = NF_INSIDE, .from = "10.0.0.2:3000",
				       .to = to, .protocol = protocol, .flags = "S",
				       .mac_from = "02:00:00:00:00:22" };

		bench_put(b, 1, &client);
		bench_settle(b);

		const struct sent *s = bench_take(b);

		assert_non_null(s);
		assert_int_equal(s->side, NF_INSIDE);
		assert_int_equal(sscanf(sent_endpoints(s),
					"203.0.113.1:%u > 10.0.0.1:%u", &client_port,
					&a), 2);
		assert_int_equal(a, 1000);
		assert_in_range(client_port, 2000, 2063);
		assert_int_not_equal(client_port, port);

		/* It goes to the server's MAC address: the default of a spec. */
		assert_string_equal(sent_macs(s),
				    "02:00:00:00:00:01 > 02:00:00:00:00:02");

		/* The answer comes back. */
		sprintf(from, "203.0.113.1:%u", client_port);

		struct spec answer = { .side = NF_INSIDE, .from = "10.0.0.1:1000",
				       .to = from, .protocol = protocol, .flags = "SA" };

		bench_put(b, 0, &answer);
		bench_settle(b);
		s = bench_take(b);
		assert_non_null(s);
		assert_int_equal(s->side, NF_INSIDE);
		assert_int_equal(sscanf(sent_endpoints(s),
					"203.0.113.1:%u > 10.0.0.2:%u", &port, &a), 2);
		assert_int_equal(a, 3000);
		assert_string_equal(sent_macs(s),
				    "02:00:00:00:00:01 > 02:00:00:00:00:22");
		assert_null(bench_take(b));
		bench_close(b);
	}
}

/* [B9, B10] */
static void
test_a_hairpin_is_filtered_as_others_are(void **state)
{
	static const struct step off[] = {
		{ "a mapping", { OUT, UDP }, SENT, true, AS_OUT },
		{ "no hairpins", { .side = NF_INSIDE, .from = "10.0.0.1:1001",
		  .to = "203.0.113.1:2000", UDP }, DROPPED(POLICY) },
	};

	static const struct spec first = { OUT, UDP };
	struct bench *b = bench_open("nat", "{ addresses: 203.0.113.1, ports: 2000-2063, "
					    "filtering: address_and_port }", 2);
	unsigned int port;
	char to[32];

	RUN_STEPS_UNDIVIDED("nat", POOL "hairpin: no", off);

	bench_put(b, 0, &first);
	bench_settle(b);
	assert_int_equal(sscanf(sent_endpoints(bench_take(b)), "203.0.113.1:%u", &port),
			 1);
	sprintf(to, "203.0.113.1:%u", port);

	struct spec second = { .side = NF_INSIDE, .from = "10.0.0.2:1000", .to = to,
			       UDP };

	bench_put(b, 1, &second);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_dropped(b, NF_DROP_STATE), 1);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_endpoint_has_one_mapping_for_all_remote_ones),
		cmocka_unit_test(test_filtering_by_address_lets_in_who_was_sent_to),
		cmocka_unit_test(test_filtering_by_nothing_lets_in_everybody),
		cmocka_unit_test(test_filtering_by_address_and_port_lets_in_answers),
		cmocka_unit_test(test_connections_from_outside_come_to_a_mapping),
		cmocka_unit_test(test_an_unsolicited_syn_is_held_before_it_is_refused),
		cmocka_unit_test(test_what_is_remembered_of_strangers_is_bounded),
		cmocka_unit_test(test_inside_hosts_meet_at_their_outside_addresses),
		cmocka_unit_test(test_a_hairpin_is_filtered_as_others_are),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

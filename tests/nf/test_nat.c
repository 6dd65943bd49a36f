/*
 * test_nat.c - the NAT, packet by packet: translation, times, TCP states, and what does
 * not pass.  Where the pool has one port, it is known which one a connection gets.
 */
#include "harness.h"

#include <stdio.h>

static const char one_port[] = "addresses: 203.0.113.1\n"
			       "ports: 2000\n";
static const char dependent[] = "addresses: 203.0.113.1\n"
				"ports: 2000\n"
				"mapping: endpoint_dependent\n";

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"
#define AS_IN "192.0.2.1:80 > 10.0.0.1:1000"
#define UDP .protocol = PROTO_UDP

/* [case 1; B22] */
static void
test_tcp_and_udp_go_out_and_come_back(void **state)
{
	static const struct step steps[] = {
		{ "unasked", { IN, .flags = "SA" }, DROPPED(STATE) },
		{ "midstream", { OUT, .flags = "A" }, DROPPED(STATE) },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN again", { OUT, .flags = "S" }, SENT, false, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "data", { OUT, .flags = "PA", .data = "odd" }, SENT, false, AS_OUT },
		{ "data", { IN, .flags = "PA", .data = "even" }, SENT, false, AS_IN },
		{ "from another", { .side = NF_OUTSIDE, .from = "192.0.2.2:80",
		  .to = "203.0.113.1:2000", .flags = "A" }, DROPPED(STATE) },
		{ "FIN", { IN, .flags = "FA" }, SENT, true, AS_IN },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true, AS_OUT },
		{ "ACK", { IN, .flags = "A" }, SENT, false, AS_IN },
		{ "a new connection on the old mapping", { OUT, .flags = "S" }, SENT,
		  true, AS_OUT },
		{ "UDP has ports of its own", { OUT, UDP, .data = "x" }, SENT, true,
		  AS_OUT },
		{ "its answer", { IN, UDP, .data = "xyz" }, SENT, false, AS_IN },
		{ "without a checksum", { OUT, UDP, .no_checksum = true }, SENT, false,
		  AS_OUT },
		{ "ARP passes", { .side = NF_INSIDE, .arp = true }, SENT },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
	RUN_STEPS_UNDIVIDED("nat", dependent, steps);
}

/* [cases 1, 21; B17] */
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
		{ "to another host with the same identifier", { .side = NF_INSIDE,
		  .from = "10.0.0.1:1000", .to = "192.0.2.2:1000",
		  .protocol = PROTO_ICMP, .type = 8 }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.2:2000" },
		{ "a request the other way is no reply", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:2000", .to = "203.0.113.1:2000",
		  .protocol = PROTO_ICMP, .type = 13 }, DROPPED(STATE) },
		{ "nor is a reply a request", { OUT, .protocol = PROTO_ICMP },
		  DROPPED(STATE) },
		{ "a minute later", { .side = NF_OUTSIDE, .from = "192.0.2.1:2000",
		  .to = "203.0.113.1:2000", .protocol = PROTO_ICMP }, DROPPED(STATE),
		  .after_ms = 61 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
}

/* [B23] Of two hosts that number their packets alike. */
static void
test_identifications_of_fragments_are_not_mixed_up(void **state)
{
	static const struct spec whole[2] = {
		{ OUT, UDP, .data_bytes = 1000, .id = 77 },
		{ .side = NF_INSIDE, .from = "10.0.0.2:1000", .to = "192.0.2.1:80", UDP,
		  .data_bytes = 1000, .id = 77 },
	};
	static const struct spec alone = { OUT, UDP, .dont_fragment = true, .id = 77 };
	struct bench *b = bench_open("nat", "addresses: 203.0.113.1", 2);
	unsigned int id[4];
	const struct sent *s;

	for (unsigned int i = 0; i < 4; i++) {
		struct spec part = whole[i / 2];

		part.part_of = &whole[i / 2];
		part.fragment = i % 2 == 0 ? 0 : 64;
		part.part_bytes = i % 2 == 0 ? 512 : 0;
		part.more = i % 2 == 0;
		bench_put(b, i % 2, &part);
		bench_settle(b);
		s = bench_take(b);
		assert_non_null(s);
		sent_endpoints(s);
		id[i] = s->frame[18] << 8 | s->frame[19];
	}
	assert_int_equal(id[0], id[1]);
	assert_int_equal(id[2], id[3]);
	assert_int_not_equal(id[0], id[2]);
	bench_put(b, 0, &alone);
	bench_settle(b);
	s = bench_take(b);
	assert_int_equal(s->frame[18] << 8 | s->frame[19], 77);
	bench_close(b);
}

/* [case 15; B24] What a payload says of addresses is left alone. */
static void
test_payloads_are_not_looked_at(void **state)
{
	static const struct spec port_command = {
		.side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:21",
		.flags = "S", .data = "PORT 10,0,0,1,4,1\r\n",
	};
	struct bench *b = bench_open("nat", one_port, 1);

	bench_put(b, 0, &port_command);
	bench_settle(b);
	assert_string_equal(sent_data(bench_take(b)), port_command.data);
	bench_close(b);
}

/* [case 13; B6, B7, B16; U16] */
static void
test_only_packets_from_inside_keep_a_session(void **state)
{
	static const struct step steps[] = {
		{ "UDP", { OUT, UDP }, SENT, true, AS_OUT },
		{ "outbound refreshes", { OUT, UDP }, SENT, false, AS_OUT,
		  .after_ms = 290 * 1000 },
		{ "just before the end", { IN, UDP }, SENT, false, AS_IN,
		  .after_ms = 290 * 1000 },
		{ "inbound did not refresh", { IN, UDP }, DROPPED(STATE),
		  .after_ms = 11 * 1000 },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "opening lasts 4 minutes", { IN, .flags = "SA" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT,
		  .after_ms = 121 * 1000 },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "open lasts 2 hours and 4 minutes", { IN, .flags = "A" }, SENT, false,
		  AS_IN, .after_ms = 7430 * 1000 },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "RST", { IN, .flags = "R" }, SENT, true, AS_IN },
		{ "RST again", { IN, .flags = "R" }, SENT, false, AS_IN,
		  .after_ms = 230 * 1000 },
		{ "does not refresh", { IN, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 11 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
	RUN_STEPS_UNDIVIDED("nat", dependent, steps);
}

/* [B6, B7] */
static void
test_times_and_who_refreshes_are_options(void **state)
{
	static const char section[] = "{ addresses: 203.0.113.1, ports: 2000, "
				      "inbound_refresh: yes, udp_idle: 300s, "
				      "udp_well_known_idle: 120s }";
	static const struct step steps[] = {
		{ "UDP to port 80", { OUT, UDP }, SENT, true, AS_OUT },
		{ "an answer", { IN, UDP }, SENT, false, AS_IN, .after_ms = 110 * 1000 },
		{ "a turn later", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "it has refreshed", { IN, UDP }, SENT, false, AS_IN,
		  .after_ms = 110 * 1000 },
		{ "a turn later", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "a turn later", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "the time is that of the port", { IN, UDP }, DROPPED(STATE),
		  .after_ms = 121 * 1000 },
		{ "UDP to port 8080", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "192.0.2.1:8080", UDP }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.1:8080", .after_ms = 121 * 1000 },
		{ "lives longer", { .side = NF_OUTSIDE, .from = "192.0.2.1:8080",
		  .to = "203.0.113.1:2000", UDP }, SENT, false,
		  "192.0.2.1:8080 > 10.0.0.1:1000", .after_ms = 290 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", section, steps);
}

/* [B14; case 35] */
static void
test_connections_open_in_any_order(void **state)
{
	static const struct step simultaneous[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN from the other side", { IN, .flags = "S" }, SENT, true, AS_IN },
		{ "SYN/ACK", { OUT, .flags = "SA" }, SENT, false, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, false, AS_IN },
		{ "it is open", { IN, .flags = "A" }, SENT, false, AS_IN,
		  .after_ms = 7430 * 1000 },
	};
	static const struct step lost_ack[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "SYN/ACK again", { IN, .flags = "SA" }, SENT, false, AS_IN },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "it is open", { IN, .flags = "A" }, SENT, false, AS_IN,
		  .after_ms = 7430 * 1000 },
	};
	static const struct step early_data[] = {
		{ "SYN with data", { OUT, .flags = "S", .data = "get" }, SENT, true,
		  AS_OUT },
		{ "a challenge", { IN, .flags = "A" }, SENT, false, AS_IN },
		{ "RST", { OUT, .flags = "R" }, SENT, true, AS_OUT },
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK with data", { IN, .flags = "SA", .data = "got" }, SENT, true,
		  AS_IN },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, simultaneous);
	RUN_STEPS_UNDIVIDED("nat", one_port, lost_ack);
	RUN_STEPS_UNDIVIDED("nat", one_port, early_data);
}

/* [B16; cases 31, 33] */
static void
test_connections_end_by_and_by(void **state)
{
	static const struct step closed[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true, AS_OUT },
		{ "half open, data still comes", { IN, .flags = "A", .data = "more" },
		  SENT, false, AS_IN, .after_ms = 230 * 1000 },
		{ "and is acknowledged", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "FIN", { IN, .flags = "FA" }, SENT, true, AS_IN,
		  .after_ms = 230 * 1000 },
		{ "ACK", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "FIN again", { IN, .flags = "FA" }, SENT, false, AS_IN,
		  .after_ms = 100 * 1000 },
		{ "ACK again", { OUT, .flags = "A" }, SENT, false, AS_OUT },
		{ "a stray one", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
	};
	static const struct step half_reopened[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "FIN", { OUT, .flags = "FA" }, SENT, true, AS_OUT },
		{ "FIN", { IN, .flags = "FA" }, SENT, true, AS_IN },
		{ "one side sends a SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "which opens nothing", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, closed);
	RUN_STEPS_UNDIVIDED("nat", one_port, half_reopened);
}

/* [B16] */
static void
test_a_reset_that_is_not_believed_ends_nothing(void **state)
{
	static const struct step steps[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "RST", { IN, .flags = "R", .seq = 77 }, SENT, true, AS_IN },
		{ "more from outside says nothing", { IN, .flags = "A" }, SENT, false,
		  AS_IN },
		{ "the host goes on", { OUT, .flags = "A", .data = "x" }, SENT, true,
		  AS_OUT },
		{ "it is open as before", { IN, .flags = "A" }, SENT, false, AS_IN,
		  .after_ms = 7430 * 1000 },
	};
	static const struct step crossed[] = {
		{ "SYN", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "SYN/ACK", { IN, .flags = "SA" }, SENT, true, AS_IN },
		{ "RST", { IN, .flags = "R" }, SENT, true, AS_IN },
		{ "the host's FIN was on its way", { OUT, .flags = "FA" }, SENT, true,
		  AS_OUT },
		{ "which does not open it", { OUT, .flags = "A" }, DROPPED(STATE),
		  .after_ms = 241 * 1000 },
	};

	RUN_STEPS_UNDIVIDED("nat", one_port, steps);
	RUN_STEPS_UNDIVIDED("nat", one_port, crossed);
}

/* [U14; B39] */
static void
test_what_is_not_translated_does_not_pass(void **state)
{
	static const struct step steps[] = {
		{ "IPv6", { .side = NF_INSIDE, .from = "[2001:db8::1]:1",
		  .to = "[2001:db8::2]:1", UDP }, DROPPED(POLICY) },
		{ "GRE", { OUT, .protocol = 47, .data = "xxxx" }, DROPPED(POLICY) },
		{ "multicast", { .side = NF_INSIDE, .from = "10.0.0.1:1000",
		  .to = "239.1.2.3:1000", UDP }, DROPPED(POLICY) },
		{ "broadcast", { .side = NF_INSIDE, .from = "10.0.0.1:68",
		  .to = "255.255.255.255:67", UDP }, DROPPED(POLICY) },
		{ "no source", { .side = NF_INSIDE, .from = "0.0.0.0:1000",
		  .to = "192.0.2.1:80", .flags = "S" }, DROPPED(POLICY) },
		{ "a redirect", { OUT, .protocol = PROTO_ICMP, .type = 5 },
		  DROPPED(STATE) },
		{ "a wrong checksum", { OUT, UDP, .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "made no session", { IN, UDP }, DROPPED(STATE) },
	};
	static const struct step passed[] = {
		{ "IPv6, if the file says so", { .side = NF_INSIDE,
		  .from = "[2001:db8::1]:1", .to = "[2001:db8::2]:1", UDP }, SENT },
		{ "both ways", { .side = NF_OUTSIDE, .from = "[2001:db8::2]:1",
		  .to = "[2001:db8::1]:1", .flags = "S" }, SENT },
	};

	RUN_STEPS("nat", "addresses: 203.0.113.1", steps);
	RUN_STEPS("nat", "{ addresses: 203.0.113.1, ipv6: pass }", passed);
}

/* Takes the packet that leaves; NULL: none does. */
static const struct sent *
through(struct bench *b, unsigned int pipe, const struct spec *packet)
{
	bench_put(b, pipe, packet);
	bench_settle(b);
	return bench_take(b);
}

/* A packet that gets nothing, with what its sender is told. */
static void
check_refused(struct bench *b, const struct spec *packet, enum nf_drop why)
{
	uint64_t before = bench_dropped(b, why);
	const struct sent *s = through(b, 0, packet);
	struct packet p;
	uint8_t frame[BENCH_FRAME_BYTES];

	assert_int_equal(bench_dropped(b, why), before + 1);
	assert_non_null(s);
	assert_int_equal(s->side, NF_INSIDE);
	memcpy(frame, s->frame, s->bytes);
	assert_int_equal(packet_parse(&p, frame, s->bytes, s->bytes), PACKET_OK);
	assert_int_equal(p.icmp_type, 3);
	assert_int_equal(p.icmp_code, 1);
	assert_null(bench_take(b));
}

/* [cases 3, 5, 9; B3, B10, B19, B20; U13, U14, U15] */
static void
test_a_port_that_is_taken_stays_with_its_owner(void **state)
{
	static const struct spec first = { OUT, UDP }, answer = { IN, UDP };
	static const struct spec second = { .side = NF_INSIDE, .from = "10.0.0.2:1000",
					    .to = "192.0.2.1:80", UDP };
	static const struct spec third = { .side = NF_INSIDE, .from = "10.0.0.2:1000",
					   .to = "192.0.2.2:80", UDP };
	struct bench *b = bench_open("nat", one_port, 2);

	assert_string_equal(sent_endpoints(through(b, 0, &first)), AS_OUT);
	/* To another server it is no more free. */
	check_refused(b, &second, NF_DROP_PORTS);
	check_refused(b, &third, NF_DROP_PORTS);
	assert_int_equal(bench_records(b, "forward"), 1);
	assert_int_equal(bench_records(b, "reverse"), 1);
	assert_string_equal(sent_endpoints(through(b, 1, &answer)), AS_IN);
	bench_wait(b, 301 * 1000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "reverse"), 0);
	/* It rests. */
	bench_wait(b, 119 * 1000);
	check_refused(b, &second, NF_DROP_PORTS);
	bench_wait(b, 2 * 1000);
	assert_string_equal(sent_endpoints(through(b, 1, &second)), AS_OUT);
	bench_close(b);
}

/* [case 3; U13, U15] */
static void
test_a_larger_pool_helps_at_once(void **state)
{
	static const struct spec first = { OUT, UDP };
	static const struct spec second = { .side = NF_INSIDE, .from = "10.0.0.2:1000",
					    .to = "192.0.2.1:80", UDP };
	struct bench *b = bench_open("nat", one_port, 2);

	assert_string_equal(sent_endpoints(through(b, 0, &first)), AS_OUT);
	check_refused(b, &second, NF_DROP_PORTS);
	for (unsigned int i = 0; i < 2; i++)
		bench_reload(b, i, "{ addresses: 203.0.113.1, ports: 2000-2001 }");
	assert_string_equal(sent_endpoints(through(b, 1, &second)),
			    "203.0.113.1:2001 > 192.0.2.1:80");
	assert_string_equal(sent_endpoints(through(b, 1, &first)), AS_OUT);
	bench_close(b);
}

/* [B19; U13] Log lines of one kind are few, over all instances. */
static void
test_exhaustion_is_logged_now_and_then(void **state)
{
	static const struct spec first = { OUT, UDP };
	static const struct spec second = { .side = NF_INSIDE, .from = "10.0.0.2:1000",
					    .to = "192.0.2.1:80", UDP };
	struct bench *b = bench_open("nat", one_port, 2);

	through(b, 0, &first);
	for (unsigned int i = 0; i < 10; i++) {
		bench_put(b, i % 2, &second);
		bench_settle(b);
	}
	assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 10);
	assert_int_equal(bench_stats(b).events, 1);
	bench_wait(b, 11 * 1000);
	bench_put(b, 0, &second);
	bench_settle(b);
	assert_int_equal(bench_stats(b).events, 2);
	while (bench_take(b) != NULL)
		;
	bench_close(b);
}

/* [B1, B3] */
static void
test_dependent_mappings_share_a_port(void **state)
{
	static const struct step steps[] = {
		{ "the first takes it", { OUT, UDP }, SENT, true, AS_OUT },
		{ "to another server it is free", { .side = NF_INSIDE,
		  .from = "10.0.0.2:1000", .to = "192.0.2.2:80", UDP }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.2:80" },
		{ "whose answers are not the first's", { .side = NF_OUTSIDE,
		  .from = "192.0.2.2:80", .to = "203.0.113.1:2000", UDP }, SENT, false,
		  "192.0.2.2:80 > 10.0.0.2:1000" },
		{ "as its are not the other's", { IN, UDP }, SENT, false, AS_IN },
		{ "nobody else may send to it", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:81", .to = "203.0.113.1:2000", UDP },
		  DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", dependent, steps);
}

/* [B2, B4] */
static void
test_ports_and_addresses_are_those_of_the_pool(void **state)
{
	struct bench *b = bench_open("nat", "addresses: 203.0.113.0/31", 2);
	bool used[2] = { false };

	for (unsigned int host = 1; host <= 40; host++) {
		unsigned int address = 0;

		for (unsigned int i = 0; i < 4; i++) {
			char from[32];
			unsigned int got, port;
			int n;

			sprintf(from, "10.0.0.%u:%u", host, 1000 + i);

			struct spec packet = { .side = NF_INSIDE, .from = from,
					       .to = "192.0.2.1:53", UDP };
			const struct sent *s = through(b, i % 2, &packet);

			assert_non_null(s);
			n = sscanf(sent_endpoints(s), "203.0.113.%u:%u", &got, &port);
			assert_int_equal(n, 2);
			assert_true(got == 0 || got == 1);
			assert_true(port >= 1024 && port <= 65535);
			assert_true(i == 0 || got == address);
			address = got;
			used[got] = true;
			assert_null(bench_take(b));
		}
	}
	assert_true(used[0] && used[1]);
	bench_close(b);
}

/* [B5; U7] In a store of several partitions a flow's records lie in one of them,
 * whichever port it gets, and ports are given once all the same. */
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
				    UDP };
		struct spec in = { .side = NF_OUTSIDE, .from = "192.0.2.1:53", .to = to,
				   UDP };

		sprintf(from, "10.0.%u.1:%u", i % 23, 1000 + i);
		s = through(b, i % 2, &out);
		assert_non_null(s);
		assert_int_equal(sscanf(sent_endpoints(s), "203.0.113.1:%u", &port), 1);
		assert_in_range(port, 2003, 2999);
		assert_false(taken[port]);
		taken[port] = true;
		sprintf(to, "203.0.113.1:%u", port);
		s = through(b, (i + 1) % 2, &in);
		assert_non_null(strstr(sent_endpoints(s), from));
		assert_null(bench_take(b));
	}
	assert_int_equal(bench_records(b, "reverse"), 200);
	assert_int_equal(bench_records(b, "outside"), 200);
	bench_wait(b, 301 * 1000);
	bench_settle(b);
	assert_int_equal(bench_stats(b).leases_settled, 200);
	assert_int_equal(bench_records(b, "reverse"), 0);
	assert_int_equal(bench_records(b, "mapping"), 0);
	assert_int_equal(bench_records(b, "outside"), 0);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp_and_udp_go_out_and_come_back),
		cmocka_unit_test(test_echo_goes_by_identifier),
		cmocka_unit_test(test_identifications_of_fragments_are_not_mixed_up),
		cmocka_unit_test(test_payloads_are_not_looked_at),
		cmocka_unit_test(test_only_packets_from_inside_keep_a_session),
		cmocka_unit_test(test_times_and_who_refreshes_are_options),
		cmocka_unit_test(test_connections_open_in_any_order),
		cmocka_unit_test(test_connections_end_by_and_by),
		cmocka_unit_test(test_a_reset_that_is_not_believed_ends_nothing),
		cmocka_unit_test(test_what_is_not_translated_does_not_pass),
		cmocka_unit_test(test_a_port_that_is_taken_stays_with_its_owner),
		cmocka_unit_test(test_a_larger_pool_helps_at_once),
		cmocka_unit_test(test_exhaustion_is_logged_now_and_then),
		cmocka_unit_test(test_dependent_mappings_share_a_port),
		cmocka_unit_test(test_ports_and_addresses_are_those_of_the_pool),
		cmocka_unit_test(test_partitions_share_the_ports),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

/*
 * test_lb_modes.c - the ways to a backend and back: full NAT, direct return, UDP,
 * fragments.
 */
#include "lb_case.h"

#define VIRTUAL "address: 192.0.2.10:80\n"
#define FULL VIRTUAL "mode: nat\nsources: 10.9.9.1\n"                            \
		     "backends: [10.0.0.1:8080, 10.0.0.2:8080]\n"

/* --- full NAT ----------------------------------------------------------------- */

/* Takes what was sent, whose source or destination is 10.9.9.1, and gives that port. */
static unsigned int
source_port(struct bench *b, const char **text)
{
	const struct sent *s = bench_take(b);
	const char *at;

	assert_non_null(s);
	*text = sent_endpoints(s);
	at = strstr(*text, "10.9.9.1:");
	assert_non_null(at);
	return (unsigned int)atoi(at + 9);
}

/* Sends an answer of backend 'n' to the port of a source. */
static struct spec
answer(unsigned int n, unsigned int port, const char *flags)
{
	static char from[32], to[32];

	sprintf(from, "10.0.0.%u:8080", n);
	sprintf(to, "10.9.9.1:%u", port);
	return (struct spec){ .side = NF_INSIDE, .from = from, .to = to, .flags = flags };
}

static void
full_connection(struct bench *b, unsigned int n_pipes)
{
	struct spec syn = { CLIENT(1), .flags = "S" }, ack = { CLIENT(1), .flags = "A" };
	struct spec fin = { CLIENT(1), .flags = "FA" }, back;
	unsigned int port, pipe = 0;
	const char *text;
	char want[80];

	bench_put(b, pipe++ % n_pipes, &syn);
	bench_settle(b);
	port = source_port(b, &text);
	sprintf(want, "10.9.9.1:%u > 10.0.0.1:8080", port);
	assert_string_equal(text, want);
	assert_in_range(port, 1024, 65535);
	for (unsigned int i = 0; i < 4; i++) {
		back = answer(1, port, i == 0 ? "SA" : "A");
		bench_put(b, pipe++ % n_pipes, &back);
		bench_settle(b);
		assert_string_equal(sent_endpoints(bench_take(b)), BACK(1));
		bench_put(b, pipe++ % n_pipes, &ack);
		bench_settle(b);
		assert_int_equal(source_port(b, &text), port);
	}
	back = answer(1, port, "FA");
	bench_put(b, pipe++ % n_pipes, &back);
	bench_settle(b);
	assert_string_equal(sent_endpoints(bench_take(b)), BACK(1));
	bench_put(b, pipe++ % n_pipes, &fin);
	bench_settle(b);
	assert_int_equal(source_port(b, &text), port);
	assert_null(bench_take(b));
	assert_int_equal(bench_records(b, "full"), 1);
	assert_int_equal(bench_records(b, "answer"), 1);
	bench_wait(b, 241000);
	bench_settle(b);
	assert_int_equal(bench_records(b, "full"), 0);
	assert_int_equal(bench_records(b, "answer"), 0);
}

/* [B47; U4, U9] */
static void
test_full_nat_over_any_instances(void **state)
{
	static const unsigned int shapes[][2] = { { 1, 1 }, { 2, 1 }, { 2, 3 } };

	for (unsigned int i = 0; i < N_STEPS(shapes); i++) {
		struct bench *b = lb_bench(FULL, shapes[i][0], shapes[i][1]);

		full_connection(b, shapes[i][0]);
		bench_close(b);
	}
}

/* [B47; U9] */
static void
test_no_port_of_a_source_is_given_twice(void **state)
{
	static const char one[] = VIRTUAL "mode: nat\nsources: 10.9.9.1\n"
					  "backends: 10.0.0.1:8080\n";

	for (unsigned int schedule = 0; schedule < 1 << 6; schedule++) {
		struct bench *b = lb_bench(one, 2, 1 + schedule % 4);
		static uint8_t taken[65536];
		struct spec syn[40];
		const char *text;

		memset(taken, 0, sizeof(taken));
		for (unsigned int i = 0; i < 40; i++)
			syn[i] = lb_client(i, "S");
		bench_race(b, syn, 40, schedule, 6);
		for (unsigned int i = 0; i < 40; i++)
			assert_int_equal(taken[source_port(b, &text)]++, 0);
		assert_int_equal(bench_records(b, "answer"), 40);
		bench_wait(b, 11000);
		bench_settle(b);
		assert_int_equal(bench_records(b, "full"), 0);
		assert_int_equal(bench_records(b, "answer"), 0);
		bench_close(b);
	}
}

/* [B47] */
static void
test_what_full_nat_does_not_know(void **state)
{
	static const struct step steps[] = {
		{ "an answer of no connection", { .side = NF_INSIDE,
		  .from = "10.0.0.1:8080", .to = "10.9.9.1:2000", .flags = "A" },
		  DROPPED(STATE) },
		{ "what else a backend sends passes", { .side = NF_INSIDE,
		  .from = "10.0.0.1:8080", .to = HOST(1), .flags = "A" }, SENT },
		{ "what was never opened", { CLIENT(9), .flags = "A" }, DROPPED(STATE) },
	};

	RUN_STEPS("lb", FULL, steps);
}

/* [B46, B47] */
static void
test_full_nat_resets_both_ends(void **state)
{
	struct bench *b = lb_bench(FULL, 2, 3);
	struct spec syn = { CLIENT(1), .flags = "S" };
	struct spec data = { CLIENT(1), .flags = "PA", .seq = 5, .ack = 9 }, late;
	const char *text;
	unsigned int port;
	char want[80];

	bench_put(b, 0, &syn);
	bench_settle(b);
	port = source_port(b, &text);
	lb_set_down(b, 1);
	bench_put(b, 1, &data);
	bench_settle(b);
	for (unsigned int i = 0; i < 2; i++) {
		const struct sent *s = bench_take(b);

		assert_string_equal(sent_flags(s), s->side == NF_OUTSIDE ? "R" : "RA");
		sprintf(want, "10.9.9.1:%u > 10.0.0.1:8080", port);
		assert_string_equal(sent_endpoints(s),
				    s->side == NF_OUTSIDE ? BACK(1) : want);
	}
	late = answer(1, port, "PA");
	late.ack = 5;
	bench_put(b, 0, &late);
	bench_settle(b);
	assert_string_equal(sent_flags(bench_take(b)), "R");
	assert_null(bench_take(b));
	/* A new connection of the same port is another one, from another port. */
	bench_put(b, 0, &syn);
	bench_settle(b);
	assert_int_not_equal(source_port(b, &text), port);
	assert_int_equal(bench_records(b, "answer"), 1);
	bench_close(b);
}

/* [B47, B51] */
static void
test_full_nat_of_udp_and_ipv6(void **state)
{
	static const char section[] =
		"address: '[2001:db8::10]:53'\nprotocol: udp\nmode: nat\n"
		"sources: '2001:db8:9::1'\nbackends: '[2001:db8:1::1]:5353'\n";
	static const struct spec query = { .side = NF_OUTSIDE,
					   .from = "[2001:db8:2::1]:7",
					   .to = "[2001:db8::10]:53",
					   .protocol = PROTO_UDP, .data = "?" };
	struct bench *b = lb_bench(section, 2, 3);
	struct spec reply = { .side = NF_INSIDE, .from = "[2001:db8:1::1]:5353",
			      .protocol = PROTO_UDP, .data = "!" };
	char to[64];
	const char *text;

	for (unsigned int i = 0; i < 2; i++) {
		bench_put(b, i, &query);
		bench_settle(b);
		text = sent_endpoints(bench_take(b));
		assert_memory_equal(text, "[2001:db8:9::1]:", 16);
		assert_non_null(strstr(text, " > [2001:db8:1::1]:5353"));
		assert_int_equal(sscanf(text, "%63s", to), 1);
		reply.to = to;
		bench_put(b, !i, &reply);
		bench_settle(b);
		assert_string_equal(sent_endpoints(bench_take(b)),
				    "[2001:db8::10]:53 > [2001:db8:2::1]:7");
	}
	assert_int_equal(bench_records(b, "full"), 1);
	bench_close(b);
}

/* [B47] */
static void
test_clients_are_spread_over_sources(void **state)
{
	static const char two[] = VIRTUAL
		"mode: nat\nsources: [10.9.9.1, 10.9.9.2]\nbackends: 10.0.0.1:8080\n";
	struct bench *b = lb_bench(two, 1, 1);
	bool first = false, second = false;

	for (unsigned int i = 0; i < 40; i++) {
		struct spec syn = lb_client(i, "S");
		const char *text;

		bench_put(b, 0, &syn);
		bench_settle(b);
		text = sent_endpoints(bench_take(b));
		first |= strstr(text, "10.9.9.1:") != NULL;
		second |= strstr(text, "10.9.9.2:") != NULL;
	}
	assert_true(first && second);
	bench_close(b);
}

/* All ports of one partition are taken: nothing leaves untranslated, and what is there
 * stays. */

/* [B47; U14] */
static void
test_no_port_is_free(void **state)
{
	static const char one[] = VIRTUAL "mode: nat\nsources: 10.9.9.1\n"
					  "opening: 1h\nbackends: 10.0.0.1:8080\n";
	struct bench *b = lb_bench(one, 1, 8);
	unsigned int n_ports = 64512 / 8;
	char from[32];
	struct spec syn = { .side = NF_OUTSIDE, .from = from, .to = "192.0.2.10:80",
			    .flags = "S" };

	for (unsigned int i = 0; i < n_ports + 3; i++) {
		sprintf(from, "198.51.100.1:%u", 1024 + i);
		bench_put(b, 0, &syn);
		bench_settle(b);
		if (i < n_ports)
			assert_non_null(bench_take(b));
		assert_null(bench_take(b));
	}
	assert_int_equal(bench_dropped(b, NF_DROP_PORTS), 3);
	assert_int_equal(bench_records(b, "full"), n_ports);
	sprintf(from, "198.51.100.1:1024");
	bench_put(b, 0, &syn);
	bench_settle(b);
	assert_non_null(bench_take(b));
	bench_close(b);
}

/* --- direct return ------------------------------------------------------------ */

static const struct sent *
pass_one(struct bench *b, unsigned int pipe, const struct spec *packet)
{
	const struct sent *s;

	bench_put(b, pipe, packet);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_not_equal(s->side, packet->side);
	return s;
}

/* [B47] */
static void
test_direct_return_by_mac(void **state)
{
	static const char section[] = VIRTUAL "mode: dsr_mac\nbackends:\n"
		"  - {address: '10.0.0.1:80', mac: '02:00:00:00:0a:01'}\n"
		"  - {address: '10.0.0.2:80', mac: '02:00:00:00:0a:02'}\n";
	static const char *const packets[] = { "S", "A", "PA", "FA", "A" };
	struct bench *b = lb_bench(section, 2, 3);
	struct spec other = { CLIENT(2), .flags = "S" };
	const struct sent *s;

	for (unsigned int i = 0; i < N_STEPS(packets); i++) {
		struct spec packet = { CLIENT(1), .flags = packets[i] };

		s = pass_one(b, i % 2, &packet);
		assert_string_equal(sent_macs(s),
				    "02:00:00:00:00:02 > 02:00:00:00:0a:01");
		assert_string_equal(sent_endpoints(s), HOST(1) " > 192.0.2.10:80");
	}
	/* The first one's is closed. */
	s = pass_one(b, 1, &other);
	assert_string_equal(sent_macs(s), "02:00:00:00:00:02 > 02:00:00:00:0a:01");
	bench_close(b);
}

static void
tunnelled(const char *mode, unsigned int protocol, unsigned int more)
{
	struct spec packet = { CLIENT(1), .flags = "S", .vlan = 7 };
	struct bench *b;
	char section[256];
	uint8_t frame[BENCH_FRAME_BYTES];
	unsigned int bytes = spec_build(&packet, frame);

	sprintf(section, VIRTUAL "mode: %s\ntunnel_source: 10.8.8.8\n"
		"backends: [10.0.0.1:80, 10.0.0.2:80]\n", mode);
	b = lb_bench(section, 2, 1);
	for (unsigned int i = 0; i < 3; i++) {
		const struct sent *s = pass_one(b, i % 2, &packet);
		const uint8_t *ip = s->frame + 18;

		assert_int_equal(s->bytes, bytes + more);
		assert_memory_equal(s->frame, frame, 18);
		assert_int_equal(ip[9], protocol);
		assert_memory_equal(ip + 12,
				    ((uint8_t[]){ 10, 8, 8, 8, 10, 0, 0, 1 }), 8);
		/* The packet itself is as it came. */
		assert_memory_equal(ip + more, frame + 18, bytes - 18);
		packet.flags = "A";
		spec_build(&packet, frame);
	}
	bench_close(b);
}

/* [B47] */
static void
test_direct_return_by_tunnel(void **state)
{
	tunnelled("dsr_ipip", 4, 20);
	tunnelled("dsr_gue", PROTO_UDP, 32);
}

/* [B46, B47] */
static void
test_a_dead_backend_of_a_tunnel(void **state)
{
	static const char section[] = VIRTUAL "mode: dsr_ipip\n"
		"tunnel_source: 10.8.8.8\nbackends: [10.0.0.1:80, 10.0.0.2:80]\n";
	struct spec syn = { CLIENT(1), .flags = "S" };
	struct spec data = { CLIENT(1), .flags = "PA", .seq = 3, .ack = 4 };
	struct bench *b = lb_bench(section, 1, 1);
	const struct sent *s;

	pass_one(b, 0, &syn);
	lb_set_down(b, 1);
	bench_put(b, 0, &data);
	bench_settle(b);
	for (unsigned int i = 0; i < 2; i++) {
		s = bench_take(b);
		assert_non_null(s);
		if (s->side == NF_OUTSIDE) {
			assert_string_equal(sent_endpoints(s), BACK(1));
			continue;
		}
		assert_int_equal(s->frame[14 + 9], 4);
		assert_memory_equal(s->frame + 14 + 16, ((uint8_t[]){ 10, 0, 0, 1 }), 4);
		assert_int_equal(s->frame[14 + 20 + 9], PROTO_TCP);
		assert_true(s->frame[14 + 40 + 13] & TCP_RST);
	}
	assert_null(bench_take(b));
	bench_close(b);
}

/* --- frames ------------------------------------------------------------------- */

/* [B47, B49] */
static void
test_frames_are_addressed(void **state)
{
	static const char section[] = VIRTUAL "mac: '02:00:00:00:00:aa'\n"
		"router_mac: '02:00:00:00:00:bb'\nbackends:\n"
		"  - {address: '10.0.0.1:8080', mac: '02:00:00:00:0a:01'}\n"
		"  - 10.0.0.2:8080\n";
	static const struct spec client = { CLIENT(1), .flags = "S" };
	static const struct spec backend = { BACKEND(1, 1), .flags = "SA" };
	static const struct spec second = { CLIENT(2), .flags = "S" };
	struct bench *b = lb_bench(section, 2, 1);
	const struct sent *s = pass_one(b, 0, &client);

	assert_string_equal(sent_macs(s), "02:00:00:00:00:aa > 02:00:00:00:0a:01");
	assert_string_equal(sent_endpoints(s), TO(1, 1));
	s = pass_one(b, 1, &backend);
	assert_string_equal(sent_macs(s), "02:00:00:00:00:aa > 02:00:00:00:00:bb");
	s = pass_one(b, 1, &second);
	assert_string_equal(sent_macs(s), "02:00:00:00:00:02 > 02:00:00:00:00:01");
	assert_string_equal(sent_endpoints(s), TO(2, 2));
	bench_close(b);
}

/* --- UDP ---------------------------------------------------------------------- */

#define UDP VIRTUAL "protocol: udp\nbackends: [10.0.0.1:8080, 10.0.0.2:8080]\n"

/* [B51] */
static void
test_udp_by_flow(void **state)
{
	static const struct step steps[] = {
		{ "1", { DATAGRAM(1) }, SENT, true, TO(1, 1) },
		{ "2", { DATAGRAM(2) }, SENT, true, TO(2, 2) },
		{ "it stays", { DATAGRAM(1) }, SENT, false, TO(1, 1) },
		{ "an answer", { BACKEND(1, 1), .protocol = PROTO_UDP, .data = "!" },
		  SENT, false, BACK(1) },
		{ "of the other", { BACKEND(2, 1), .protocol = PROTO_UDP, .data = "!" },
		  DROPPED(STATE) },
		{ "TCP has no backend", { CLIENT(1), .flags = "S" }, DROPPED(BACKEND) },
		{ "a wrong checksum makes no flow", { DATAGRAM(3), .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "none is right", { DATAGRAM(3), .no_checksum = true }, SENT, true,
		  TO(3, 1) },
		{ "answers keep it", { BACKEND(1, 1), .protocol = PROTO_UDP,
		  .data = "!" }, SENT, false, BACK(1), .after_ms = 290000 },
		{ "for as long", { DATAGRAM(1) }, SENT, false, TO(1, 1),
		  .after_ms = 290000 },
	};

	RUN_STEPS("lb", UDP, steps);
}

/* [B51] */
static void
test_udp_by_datagram(void **state)
{
	struct bench *b = lb_bench(UDP "hash: datagram\n", 2, 1);
	struct spec datagram = { DATAGRAM(1) };
	struct spec reply = { BACKEND(2, 1), .protocol = PROTO_UDP, .data = "!" };
	unsigned int n[10] = { 0 };

	for (unsigned int i = 0; i < 200; i++)
		n[lb_try(b, i % 2, &datagram)]++;
	assert_in_range(n[1], 60, 140);
	assert_int_equal(n[1] + n[2], 200);
	assert_string_equal(sent_endpoints(pass_one(b, 0, &reply)), BACK(1));
	assert_int_equal(bench_writes(b), 0);
	lb_set_down(b, 1);
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(lb_try(b, i % 2, &datagram), 2);
	bench_close(b);
}

/* [B51] */
static void
test_datagrams_may_fall_by_hash(void **state)
{
	struct bench *b = lb_bench(UDP "hash: datagram\nscheduler: maglev\n", 2, 1);
	struct spec datagram = { DATAGRAM(1) };
	unsigned int to = lb_try(b, 0, &datagram);

	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(lb_try(b, i % 2, &datagram), to);
	assert_int_equal(bench_writes(b), 0);
	bench_close(b);
}

/* --- fragments ---------------------------------------------------------------- */

/* [B52; U19] */
static void
test_fragments_reach_one_backend(void **state)
{
	struct bench *b = lb_bench(UDP, 2, 3);
	struct spec before = { DATAGRAM(9) };
	static const struct spec whole = {
		CLIENT(1), .protocol = PROTO_UDP, .data_bytes = 3000, .id = 77,
	};
	struct spec part[3];
	const struct sent *s;
	unsigned int n = 0;

	assert_int_equal(lb_try(b, 0, &before), 1);
	for (unsigned int i = 0; i < 3; i++) {
		part[i] = (struct spec){ .side = NF_OUTSIDE, .part_of = &whole,
					 .fragment = (uint16_t)(i * 1024 / 8),
					 .part_bytes = i < 2 ? 1024 : 0, .more = i < 2 };
	}
	/* The first one comes second, and at another instance. */
	bench_put(b, 0, &part[1]);
	bench_settle(b);
	assert_null(bench_take(b));
	bench_put(b, 1, &part[0]);
	bench_settle(b);
	bench_put(b, 0, &part[2]);
	bench_settle(b);
	while ((s = bench_take(b)) != NULL) {
		assert_memory_equal(s->frame + 14 + 16, ((uint8_t[]){ 10, 0, 0, 2 }), 4);
		n++;
	}
	assert_int_equal(n, 3);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_nat_over_any_instances),
		cmocka_unit_test(test_no_port_of_a_source_is_given_twice),
		cmocka_unit_test(test_what_full_nat_does_not_know),
		cmocka_unit_test(test_full_nat_resets_both_ends),
		cmocka_unit_test(test_full_nat_of_udp_and_ipv6),
		cmocka_unit_test(test_clients_are_spread_over_sources),
		cmocka_unit_test(test_no_port_is_free),
		cmocka_unit_test(test_direct_return_by_mac),
		cmocka_unit_test(test_direct_return_by_tunnel),
		cmocka_unit_test(test_a_dead_backend_of_a_tunnel),
		cmocka_unit_test(test_frames_are_addressed),
		cmocka_unit_test(test_udp_by_flow),
		cmocka_unit_test(test_udp_by_datagram),
		cmocka_unit_test(test_datagrams_may_fall_by_hash),
		cmocka_unit_test(test_fragments_reach_one_backend),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

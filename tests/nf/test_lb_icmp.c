/*
 * test_lb_icmp.c - ICMP errors to those they concern, and who answers for a virtual
 * address.
 */
#include "lb_case.h"

#define TWO "address: 192.0.2.10:80\nbackends: [10.0.0.1:8080, 10.0.0.2:8080]\n"

/* What the virtual address sent to client 'n', and what a backend got. */
static const struct spec sent_1 = { .from = "192.0.2.10:80", .to = HOST(1),
				    .flags = "PA", .data_bytes = 1400 };
static const struct spec sent_2 = { .from = "192.0.2.10:80", .to = HOST(2),
				    .flags = "PA", .data_bytes = 1400 };
static const struct spec sent_9 = { .from = "192.0.2.10:80", .to = HOST(9),
				    .flags = "PA" };
static const struct spec got_1 = { .from = HOST(1), .to = "10.0.0.1:8080",
				   .flags = "PA" };
static const struct spec got_9 = { .from = HOST(9), .to = "10.0.0.1:8080",
				   .flags = "PA" };
static const struct spec elsewhere = { .from = "10.0.0.9:9", .to = "203.0.113.9:9",
				       .flags = "PA" };

#define ROUTER                                                                   \
	.side = NF_OUTSIDE, .from = "203.0.113.1:1", .to = "192.0.2.10:1",       \
	.protocol = PROTO_ICMP, .type = 3, .code = 4
#define INSIDE_ROUTER                                                            \
	.side = NF_INSIDE, .from = "10.0.0.254:1", .to = HOST(1),       \
	.protocol = PROTO_ICMP, .type = 3, .code = 4

/* [B11, B48; U18] */
static void
test_errors_go_to_the_backend_that_is_quoted(void **state)
{
	static const struct step steps[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "2", { CLIENT(2), .flags = "S" }, SENT, true, TO(2, 2) },
		{ "fragmentation needed", { ROUTER, .quote = &sent_1 }, SENT, false,
		  "203.0.113.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:8080 > " HOST(1) },
		{ "of the other, with more than 8 bytes", { ROUTER, .quote = &sent_2,
		  .quote_bytes = 500 }, SENT, false, "203.0.113.1:0 > 10.0.0.2:0",
		  .quoted_as = "10.0.0.2:8080 > " HOST(2) },
		{ "of no connection", { ROUTER, .quote = &sent_9 }, DROPPED(STATE) },
		{ "of what is not ours", { ROUTER, .quote = &elsewhere },
		  DROPPED(STATE) },
		{ "with a wrong checksum", { ROUTER, .quote = &sent_1,
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "to another address", { .side = NF_OUTSIDE, .from = "203.0.113.1:1",
		  .to = "203.0.113.7:1", .protocol = PROTO_ICMP, .type = 3,
		  .quote = &elsewhere }, SENT },
		{ "it ends nothing", { CLIENT(1), .flags = "A" }, SENT, true, TO(1, 1) },
	};

	RUN_STEPS("lb", TWO, steps);
}

/* [B48; U18] */
static void
test_errors_go_to_the_client_that_is_quoted(void **state)
{
	static const struct step steps[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "fragmentation needed", { INSIDE_ROUTER, .quote = &got_1 }, SENT, false,
		  "192.0.2.10:0 > 198.51.100.1:0",
		  .quoted_as = HOST(1) " > 192.0.2.10:80" },
		{ "of no connection", { INSIDE_ROUTER, .quote = &got_9 },
		  DROPPED(STATE) },
		{ "of what is not ours", { INSIDE_ROUTER, .quote = &elsewhere }, SENT },
		{ "with a wrong checksum", { INSIDE_ROUTER, .quote = &got_1,
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "which is not ours to check", { INSIDE_ROUTER, .quote = &elsewhere,
		  .bad_checksum = true }, SENT },
	};

	RUN_STEPS("lb", TWO, steps);
}

/* The backend is another service's by now, and the connection is not. */

/* [B48, B54; U18, U23] */
static void
test_errors_of_a_backend_that_moved(void **state)
{
	static const char moved[] =
		"services:\n"
		"  - {address: '192.0.2.10:80', backends: ['10.0.0.2:8080']}\n"
		"  - {address: '192.0.2.11:80', backends: ['10.0.0.1:8080']}\n";
	static const struct step before[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
	};
	static const struct step after[] = {
		{ "fragmentation needed", { INSIDE_ROUTER, .quote = &got_1 }, SENT, false,
		  "192.0.2.10:0 > 198.51.100.1:0",
		  .quoted_as = HOST(1) " > 192.0.2.10:80" },
		{ "of no connection", { INSIDE_ROUTER, .quote = &got_9 },
		  DROPPED(STATE) },
	};
	struct bench *b = lb_bench(TWO, 2, 3);

	bench_steps(b, before, N_STEPS(before));
	lb_reload(b, 2, moved);
	bench_steps(b, after, N_STEPS(after));
	bench_close(b);
}

/* [B48; U18] */
static void
test_errors_keep_nothing_alive(void **state)
{
	static const struct step steps[] = {
		{ "1", { CLIENT(1), .flags = "S" }, SENT, true, TO(1, 1) },
		{ "an error", { ROUTER, .quote = &sent_1 }, SENT, false,
		  "203.0.113.1:0 > 10.0.0.1:0", .after_ms = 8000 },
		{ "it is over", { ROUTER, .quote = &sent_1 }, DROPPED(STATE),
		  .after_ms = 3000 },
	};

	RUN_STEPS("lb", TWO, steps);
}

/* [B48; U18] */
static void
test_too_big_of_ipv6(void **state)
{
	static const char section[] = "address: '[2001:db8::10]:80'\n"
				      "backends: '[2001:db8:1::1]:8080'\n";
	static const struct spec sent = { .from = "[2001:db8::10]:80",
					  .to = "[2001:db8:2::1]:1", .flags = "PA",
					  .data_bytes = 1200 };
	static const struct step steps[] = {
		{ "SYN", { .side = NF_OUTSIDE, .from = "[2001:db8:2::1]:1",
		  .to = "[2001:db8::10]:80", .flags = "S" }, SENT, true,
		  "[2001:db8:2::1]:1 > [2001:db8:1::1]:8080" },
		{ "packet too big", { .side = NF_OUTSIDE, .from = "[2001:db8:3::1]:1",
		  .to = "[2001:db8::10]:1", .protocol = PROTO_ICMP, .type = 2,
		  .quote = &sent, .quote_bytes = 1000 }, SENT, false,
		  "[2001:db8:3::1]:0 > [2001:db8:1::1]:0",
		  .quoted_as = "[2001:db8:1::1]:8080 > [2001:db8:2::1]:1" },
	};

	RUN_STEPS("lb", section, steps);
}

/* [B47, B48; U9, U18] */
static void
test_errors_through_full_nat(void **state)
{
	static const char section[] = "address: 192.0.2.10:80\nmode: nat\n"
				      "sources: 10.9.9.1\nbackends: 10.0.0.1:8080\n";
	struct bench *b = lb_bench(section, 2, 3);
	struct spec syn = { CLIENT(1), .flags = "S" };
	struct spec from_router = { ROUTER, .quote = &sent_1 };
	struct spec got = { .to = "10.0.0.1:8080", .flags = "PA" };
	struct spec from_inside = { .side = NF_INSIDE, .from = "10.0.0.254:1",
				    .to = "10.9.9.1:1", .protocol = PROTO_ICMP, .type = 3,
				    .code = 4, .quote = &got };
	char source[32], want[80];
	const struct sent *s;

	bench_put(b, 0, &syn);
	bench_settle(b);
	sscanf(sent_endpoints(bench_take(b)), "%31s", source);
	bench_put(b, 1, &from_router);
	bench_settle(b);
	s = bench_take(b);
	assert_string_equal(sent_endpoints(s), "203.0.113.1:0 > 10.0.0.1:0");
	sprintf(want, "10.0.0.1:8080 > %s", source);
	assert_string_equal(sent_quoted(s), want);
	got.from = source;
	bench_put(b, 1, &from_inside);
	bench_settle(b);
	s = bench_take(b);
	assert_string_equal(sent_endpoints(s), "192.0.2.10:0 > 198.51.100.1:0");
	assert_string_equal(sent_quoted(s), HOST(1) " > 192.0.2.10:80");
	bench_close(b);
}

/* [B47, B48] */
static void
test_errors_through_direct_return(void **state)
{
	static const char section[] = "address: 192.0.2.10:80\nmode: dsr_mac\nbackends:\n"
		"  - {address: '10.0.0.1:80', mac: '02:00:00:00:0a:01'}\n";
	struct bench *b = lb_bench(section, 2, 1);
	struct spec syn = { CLIENT(1), .flags = "S" };
	struct spec error = { ROUTER, .quote = &sent_1 };
	const struct sent *s;

	bench_put(b, 0, &syn);
	bench_settle(b);
	bench_put(b, 1, &error);
	bench_settle(b);
	for (unsigned int i = 0; i < 2; i++) {
		s = bench_take(b);
		assert_non_null(s);
		assert_string_equal(sent_macs(s),
				    "02:00:00:00:00:02 > 02:00:00:00:0a:01");
	}
	assert_string_equal(sent_quoted(s), BACK(1));
	bench_close(b);
}

/* [B48, B51] */
static void
test_errors_of_datagrams(void **state)
{
	static const char section[] =
		"address: 192.0.2.10:80\nprotocol: udp\nhash: datagram\n"
		"scheduler: maglev\nbackends: [10.0.0.1:8080, 10.0.0.2:8080]\n";
	static const struct spec reply = { .from = "192.0.2.10:80",
					   .to = HOST(1), .protocol = PROTO_UDP,
					   .data = "!" };
	struct spec datagram = { CLIENT(1), .protocol = PROTO_UDP, .data = "?" };
	struct spec error = { ROUTER, .quote = &reply };
	struct bench *b = lb_bench(section, 2, 1);
	unsigned int to = lb_try(b, 0, &datagram);

	assert_int_equal(lb_try(b, 1, &error), to);
	bench_close(b);
}

/* --- echo --------------------------------------------------------------------- */

static void
ping(const char *section, const char *from, const char *to, uint8_t type, uint8_t answer)
{
	struct bench *b = lb_bench(section, 1, 1);
	struct spec request = { .side = NF_OUTSIDE, .from = from, .to = to,
				.protocol = PROTO_ICMP, .type = type, .ttl = 1,
				.data = "abcdefg" };
	const struct sent *s;
	char want[128];

	bench_put(b, 0, &request);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_string_equal(sent_macs(s), "02:00:00:00:00:01 > 02:00:00:00:00:02");
	sprintf(want, "%s > %s", to, from);
	/* The identifier is both ports. */
	assert_string_equal(sent_endpoints(s), want);
	assert_int_equal(sent_packet(s)->icmp_type, answer);
	assert_int_equal(s->frame[from[0] == '[' ? 14 + 7 : 14 + 8], 64);
	assert_null(bench_take(b));
	bench_close(b);
}

/* [B49; U31] */
static void
test_virtual_addresses_answer_ping(void **state)
{
	static const struct step steps[] = {
		{ "another address", { .side = NF_OUTSIDE, .from = "198.51.100.1:5",
		  .to = "192.0.2.11:5", .protocol = PROTO_ICMP, .type = 8 }, SENT },
		{ "from inside", { .side = NF_INSIDE, .from = "10.0.0.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 8 }, SENT },
		{ "an answer", { .side = NF_OUTSIDE, .from = "198.51.100.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 0 }, SENT },
		{ "a wrong checksum", { .side = NF_OUTSIDE, .from = "198.51.100.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 8,
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "as if from many", { .side = NF_OUTSIDE, .from = "224.0.0.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 8 },
		  DROPPED(VERDICT) },
		{ "sent to many", { .side = NF_OUTSIDE, .from = "198.51.100.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 8,
		  .mac_to = "ff:ff:ff:ff:ff:ff" }, DROPPED(VERDICT) },
	};
	static const struct step no[] = {
		{ "it passes", { .side = NF_OUTSIDE, .from = "198.51.100.1:5",
		  .to = "192.0.2.10:5", .protocol = PROTO_ICMP, .type = 8 }, SENT },
	};

	ping(TWO, "198.51.100.1:5", "192.0.2.10:5", 8, 0);
	ping("address: '[2001:db8::10]:80'\nbackends: '[2001:db8:1::1]:8080'\n",
	     "[2001:db8:2::1]:5", "[2001:db8::10]:5", 128, 129);
	RUN_STEPS("lb", TWO, steps);
	RUN_STEPS("lb", TWO "ping: no\n", no);
}

/* --- neighbours --------------------------------------------------------------- */

#define MAC "mac: '02:00:00:00:00:aa'\n"

/* Who has 192.0.2.x? */
static unsigned int
ask(struct bench *b, unsigned int pipe, enum nf_side side, const uint8_t ip[4],
    uint8_t answer[BENCH_FRAME_BYTES])
{
	uint8_t frame[42] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 192, 0, 2, 1,
	};
	struct spec question = { .side = side, .raw = frame, .raw_bytes = sizeof(frame) };
	const struct sent *s;
	unsigned int bytes = 0;

	memcpy(frame + 38, ip, 4);
	bench_put(b, pipe, &question);
	bench_settle(b);
	while ((s = bench_take(b)) != NULL) {
		if (s->side != side)
			continue;
		memcpy(answer, s->frame, s->bytes);
		bytes = s->bytes;
	}
	return bytes;
}

/* [B49; U31] */
static void
test_any_instance_answers_for_virtual_addresses(void **state)
{
	static const uint8_t virtual[] = { 192, 0, 2, 10 }, other[] = { 192, 0, 2, 11 };
	static const uint8_t source[] = { 10, 9, 9, 1 };
	static const uint8_t mac[] = { 2, 0, 0, 0, 0, 0xaa };
	struct bench *b = lb_bench(TWO MAC "mode: nat\nsources: 10.9.9.1\n", 2, 1);
	struct bench *without = lb_bench(TWO, 1, 1);
	uint8_t answer[BENCH_FRAME_BYTES];

	for (unsigned int pipe = 0; pipe < 2; pipe++) {
		assert_true(ask(b, pipe, NF_OUTSIDE, virtual, answer) >= 42);
		assert_memory_equal(answer + 6, mac, 6);
		assert_memory_equal(answer + 22, mac, 6);
		assert_memory_equal(answer + 28, virtual, 4);
		assert_true(ask(b, pipe, NF_INSIDE, source, answer) >= 42);
		assert_memory_equal(answer + 22, mac, 6);
	}
	assert_int_equal(ask(b, 0, NF_OUTSIDE, other, answer), 0);
	assert_int_equal(ask(b, 0, NF_INSIDE, virtual, answer), 0);
	assert_int_equal(ask(b, 0, NF_OUTSIDE, source, answer), 0);
	assert_int_equal(ask(without, 0, NF_OUTSIDE, virtual, answer), 0);
	bench_close(without);
	bench_close(b);
}

/* [B49; U31] */
static void
test_neighbour_solicitations(void **state)
{
	static const char section[] = "address: '[2001:db8::10]:80'\n" MAC
				      "backends: '[2001:db8:1::1]:8080'\n";
	/* The target, and the source's link-layer address. */
	static const char solicitation[] =
		"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x10\x01\x01\x02\0\0\0\0\x02";
	uint8_t frame[BENCH_FRAME_BYTES];
	struct spec question = { .side = NF_OUTSIDE, .from = "[2001:db8:2::1]:1",
				 .to = "[ff02::1:ff00:10]:1", .protocol = PROTO_ICMP,
				 .mac_to = "33:33:ff:00:00:10", .type = 135, .ttl = 255,
				 .data_bytes = 24 };
	unsigned int bytes = spec_build(&question, frame);
	struct spec raw = { .side = NF_OUTSIDE, .raw = frame, .raw_bytes = bytes };
	uint32_t sum = PROTO_ICMP6 + 32;
	struct bench *b = lb_bench(section, 1, 1);
	const struct sent *s;

	memset(frame + 54 + 2, 0, 6);
	memcpy(frame + 54 + 8, solicitation, 24);
	for (unsigned int i = 14 + 8; i < bytes; i += 2)
		sum += (uint32_t)(frame[i] << 8 | frame[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	frame[56] = (uint8_t)(~sum >> 8);
	frame[57] = (uint8_t)~sum;
	bench_put(b, 0, &raw);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_int_equal(s->frame[54], 136);
	assert_memory_equal(s->frame + 6, ((uint8_t[]){ 2, 0, 0, 0, 0, 0xaa }), 6);
	assert_string_equal(sent_endpoints(s), "[2001:db8::10]:0 > [2001:db8:2::1]:0");
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors_go_to_the_backend_that_is_quoted),
		cmocka_unit_test(test_errors_go_to_the_client_that_is_quoted),
		cmocka_unit_test(test_errors_of_a_backend_that_moved),
		cmocka_unit_test(test_errors_keep_nothing_alive),
		cmocka_unit_test(test_too_big_of_ipv6),
		cmocka_unit_test(test_errors_through_full_nat),
		cmocka_unit_test(test_errors_through_direct_return),
		cmocka_unit_test(test_errors_of_datagrams),
		cmocka_unit_test(test_virtual_addresses_answer_ping),
		cmocka_unit_test(test_any_instance_answers_for_virtual_addresses),
		cmocka_unit_test(test_neighbour_solicitations),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

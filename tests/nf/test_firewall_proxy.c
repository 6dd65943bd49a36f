/*
 * test_firewall_proxy.c - the SYN proxy: cookies, the handshake with the server, and the
 * numbers that have to be shifted from then on.
 */
#include "harness.h"

#include "base/siphash.h"
#include "nf/firewall.h"

#define CLIENT "192.0.2.1:1000"
#define SERVER "10.0.0.1:80"
#define C(f, s, a)                                                               \
	.side = NF_OUTSIDE, .from = CLIENT, .to = SERVER, .flags = f, .seq = s, .ack = a
#define S(f, s, a)                                                               \
	.side = NF_INSIDE, .from = SERVER, .to = CLIENT, .flags = f, .seq = s, .ack = a

static const char always[] = "default: { in: allow }\nsyn_proxy: always";

/* What leaves for a packet.  NULL: nothing. */
static const struct sent *
ask(struct bench *b, unsigned int pipe, const struct spec *spec)
{
	bench_put(b, pipe, spec);
	bench_settle(b);
	return bench_take(b);
}

/* Asserts that it is a segment out of 'side' with these flags and numbers. */
static void
check(const struct sent *s, enum nf_side side, const char *flags, uint32_t seq, uint32_t ack)
{
	assert_non_null(s);
	assert_int_equal(s->side, side);
	assert_string_equal(sent_flags(s), flags);
	assert_int_equal(packet_tcp_seq(sent_packet(s)), seq);
	assert_int_equal(packet_tcp_ack(sent_packet(s)), ack);
}

/* All pipes get to know the keys that the first of them has made. */
static void
know_keys(struct bench *b)
{
	bench_settle(b);
	bench_note(b);
	bench_settle(b);
}

static struct bench *
open_bench(const char *section, unsigned int n_pipes)
{
	struct bench_setup setup = { .nf = nf_find("firewall"), .section = section,
				     .n_pipes = 2, .n_partitions = 3 };
	struct bench *b;

	setup.n_pipes = n_pipes;
	b = bench_open_as(&setup);
	know_keys(b);
	return b;
}

/* A SYN; returns the cookie. */
static uint32_t
cookie(struct bench *b, unsigned int pipe)
{
	static const struct spec syn = { C("S", 1000, 0), .mss = 1460,
					 .sack_permitted = true, .wscale = WSCALE(7),
					 .timestamp = 5 };
	const struct sent *s = ask(b, pipe, &syn);
	struct tcp_options o;
	uint32_t seq;

	assert_non_null(s);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_string_equal(sent_flags(s), "SA");
	assert_string_equal(sent_endpoints(s), SERVER " > " CLIENT);
	assert_int_equal(packet_tcp_ack(sent_packet(s)), 1001);
	assert_int_equal(packet_tcp_window(sent_packet(s)), 0);
	assert_true(packet_tcp_options(sent_packet(s), &o));
	assert_int_equal(o.mss, 1460);
	assert_true(o.sack_permitted);
	assert_int_equal(o.wscale, TCP_NO_WSCALE);
	assert_false(o.has_timestamp);
	seq = packet_tcp_seq(sent_packet(s));
	assert_null(bench_take(b));
	return seq;
}

/* The handshake with both; the server begins with 5000.  Returns the cookie. */
static uint32_t
handshake(struct bench *b, unsigned int n_pipes)
{
	uint32_t seq = cookie(b, 0);
	struct spec ack = { C("A", 1001, seq + 1), .window = 30000 };
	struct spec answer = { S("SA", 5000, 1001), .mss = 1400, .window = 20000 };
	struct tcp_options o;
	const struct sent *s = ask(b, n_pipes - 1, &ack);

	/* What is written from here on is of another epoch than before. */
	bench_fail_over(b);
	check(s, NF_INSIDE, "S", 1000, 0);
	assert_string_equal(sent_endpoints(s), CLIENT " > " SERVER);
	assert_int_equal(packet_tcp_window(sent_packet(s)), 30000);
	assert_true(packet_tcp_options(sent_packet(s), &o));
	assert_int_equal(o.mss, 1460);
	assert_true(o.sack_permitted);
	assert_null(bench_take(b));
	s = ask(b, 0, &answer);
	for (unsigned int i = 0; i < 2; i++) {
		assert_non_null(s);
		if (s->side == NF_INSIDE) {
			check(s, NF_INSIDE, "A", 1001, 5001);
			assert_int_equal(packet_tcp_window(sent_packet(s)), 30000);
		} else {
			check(s, NF_OUTSIDE, "A", seq + 1, 1001);
			assert_int_equal(packet_tcp_window(sent_packet(s)), 20000);
		}
		s = bench_take(b);
	}
	assert_null(s);
	return seq;
}

/* [B33; U25] */
static void
test_a_syn_leaves_no_state(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint64_t before = bench_writes(b);

	for (unsigned int i = 0; i < 100; i++)
		cookie(b, i % 2);
	assert_int_equal(bench_writes(b), before);
	assert_int_equal(bench_records(b, "connection"), 0);
	assert_int_equal(bench_records(b, "counted"), 0);
	bench_close(b);
}

/* [B33; U4] */
static void
test_numbers_are_shifted_for_as_long_as_the_connection_lives(void **state)
{
	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		struct bench *b = open_bench(always, n_pipes);
		uint32_t seq = handshake(b, n_pipes);
		struct spec question = { C("PA", 1001, seq + 1), .data = "hello" };
		struct spec answer = { S("PA", 5001, 1006), .data = "world" };
		struct spec sack = { C("A", 1006, seq + 1),
				     .sack = { { seq + 3, seq + 6 } } };
		struct spec far = { C("A", 1006 + 0x20000000, seq + 6) };
		struct spec unshifted = { C("A", 1006, 5006 + 0x10000000) };
		struct spec fin = { C("FA", 1006, seq + 6) };
		struct spec last = { S("FA", 5006, 1007) };
		struct spec ack = { C("A", 1007, seq + 7) };
		struct tcp_options o;
		const struct sent *s;

		s = ask(b, 0, &question);
		assert_string_equal(sent_data(s), "hello");
		check(s, NF_INSIDE, "PA", 1001, 5001);
		s = ask(b, n_pipes - 1, &answer);
		assert_string_equal(sent_data(s), "world");
		check(s, NF_OUTSIDE, "PA", seq + 1, 1006);
		s = ask(b, 0, &sack);
		assert_true(packet_tcp_options(sent_packet(s), &o));
		assert_int_equal(o.sack[0][0], 5003);
		assert_int_equal(o.sack[0][1], 5006);
		assert_null(ask(b, 0, &far));
		assert_null(ask(b, 0, &unshifted));
		check(ask(b, 0, &fin), NF_INSIDE, "FA", 1006, 5006);
		check(ask(b, n_pipes - 1, &last), NF_OUTSIDE, "FA", seq + 6, 1007);
		check(ask(b, 0, &ack), NF_INSIDE, "A", 1007, 5007);
		assert_null(bench_take(b));
		bench_wait(b, 121 * 1000);
		assert_int_equal(bench_records(b, "connection"), 0);
		bench_close(b);
	}
}

/* [B33; U18] */
static void
test_what_an_error_quotes_is_shifted_too(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = handshake(b, 2);
	struct spec answer = { S("PA", 5001, 1001), .data = "world" };
	struct spec as_sent = { S("PA", seq + 1, 1001), .data = "world" };
	struct spec error = { .side = NF_OUTSIDE, .from = "198.51.100.1:1", .to = "10.0.0.1:1",
			      .protocol = PROTO_ICMP, .type = 3, .code = 4,
			      .quote = &as_sent, .quote_bytes = 25 };
	const struct sent *s;
	rte_be32_t quoted;

	assert_non_null(ask(b, 0, &answer));
	s = ask(b, 1, &error);
	assert_non_null(s);
	assert_string_equal(sent_quoted(s), SERVER " > " CLIENT);
	memcpy(&quoted, packet_quoted_transport(sent_packet(s), s->bytes) + 4, 4);
	assert_int_equal(rte_be_to_cpu_32(quoted), 5001);
	/* As the server has sent it, no router has seen it there. */
	as_sent.seq = 5001 + 0x40000000;
	assert_null(ask(b, 1, &error));
	bench_close(b);
}

/* [B33] */
static void
test_only_the_cookie_opens(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = cookie(b, 0);
	struct spec wrong = { C("A", 1001, seq + 2) };
	struct spec other_syn = { C("A", 1002, seq + 1) };
	struct spec other_port = { C("A", 1001, seq + 1) };
	struct spec right = { C("A", 1001, seq + 1) };

	other_port.from = "192.0.2.1:1001";
	assert_null(ask(b, 0, &wrong));
	assert_null(ask(b, 0, &other_syn));
	assert_null(ask(b, 0, &other_port));
	assert_int_equal(bench_records(b, "connection"), 0);
	check(ask(b, 1, &right), NF_INSIDE, "S", 1000, 0);
	/* A client that waits has the SYN sent again. */
	check(ask(b, 0, &right), NF_INSIDE, "S", 1000, 0);
	assert_null(bench_take(b));
	bench_close(b);
}

/* [B33; U25] If the ACK is lost, what comes next is a probe of the window that is shut:
 * without data, of the last byte that was acknowledged (Linux), or with the first one. */
static void
test_a_probe_brings_the_cookie_when_the_ack_was_lost(void **state)
{
	for (unsigned int of_next = 0; of_next < 2; of_next++) {
		struct bench *b = open_bench(always, 2);
		uint32_t seq = cookie(b, 0);
		struct spec probe = { C("A", 1000 + of_next, seq + 1),
				      .data_bytes = of_next };
		struct spec answer = { S("SA", 5000, 1001) };

		check(ask(b, 1, &probe), NF_INSIDE, "S", 1000, 0);
		check(ask(b, 0, &probe), NF_INSIDE, "S", 1000, 0);
		assert_non_null(ask(b, 0, &answer));
		assert_non_null(bench_take(b));
		check(ask(b, 1, &probe), NF_INSIDE, "A", 1000 + of_next, 5001);
		assert_null(bench_take(b));
		bench_close(b);
	}
}

/* [B33, B39] */
static void
test_a_wrong_checksum_ends_no_handshake(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = cookie(b, 0);
	struct spec ack = { C("A", 1001, seq + 1) };
	struct spec rst = { C("R", 1001, 0), .bad_checksum = true };

	assert_non_null(ask(b, 0, &ack));
	assert_null(ask(b, 1, &rst));
	assert_int_equal(bench_dropped(b, NF_DROP_CHECKSUM), 1);
	assert_int_equal(bench_records(b, "connection"), 1);
	rst.bad_checksum = false;
	assert_null(ask(b, 1, &rst));
	assert_int_equal(bench_records(b, "connection"), 0);
	bench_close(b);
}

/* [B33] */
static void
test_cookies_grow_old(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = cookie(b, 0);
	struct spec ack = { C("A", 1001, seq + 1) };

	for (unsigned int i = 0; i < 2; i++) {
		if (i == 0)
			check(ask(b, 1, &ack), NF_INSIDE, "S", 1000, 0);
		bench_wait(b, 65 * 1000);
		bench_settle(b);
		bench_note(b);
		bench_settle(b);
		assert_int_equal(bench_records(b, "cookie_keys"), 1);
	}
	assert_null(ask(b, 1, &ack));
	assert_int_not_equal(cookie(b, 1), seq);
	bench_close(b);
}

/* [B33] */
static void
test_a_server_may_refuse(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = cookie(b, 0);
	struct spec ack = { C("A", 1001, seq + 1) };
	struct spec wrong = { S("RA", 0, 1002) };
	struct spec rst = { S("RA", 0, 1001) };

	assert_non_null(ask(b, 0, &ack));
	assert_null(ask(b, 1, &wrong));
	check(ask(b, 1, &rst), NF_OUTSIDE, "RA", seq + 1, 1001);
	assert_null(bench_take(b));
	/* And the client may try again. */
	seq = cookie(b, 0);
	ack.ack = seq + 1;
	check(ask(b, 0, &ack), NF_INSIDE, "S", 1000, 0);
	bench_close(b);
}

/* [B33] */
static void
test_the_rules_come_before_the_cookie(void **state)
{
	static const struct spec syn = { C("S", 1000, 0) };
	struct bench *b = open_bench("syn_proxy: always", 1);

	assert_null(ask(b, 0, &syn));
	assert_int_equal(bench_dropped(b, NF_DROP_POLICY), 1);
	bench_close(b);
}

/* [B33; U25] */
static void
test_auto_proxies_what_a_limit_would_drop(void **state)
{
	struct bench *b = bench_open("firewall", "default: { in: allow }\nsyn_proxy: auto\n"
						 "limits: { half_open: 1 }", 2);
	static const struct spec first = { .side = NF_OUTSIDE, .from = "198.51.100.1:1",
					   .to = SERVER, .flags = "S" };
	static const struct spec refusal = { .side = NF_INSIDE, .to = "198.51.100.1:1",
					     .from = SERVER, .flags = "RA", .ack = 1 };
	static const struct spec syn = { C("S", 9000, 0) };
	struct spec data;
	uint32_t seq;

	know_keys(b);
	check(ask(b, 0, &first), NF_INSIDE, "S", 0, 0);
	seq = handshake(b, 2);
	data = (struct spec){ C("PA", 1001, seq + 1), .data = "x" };
	check(ask(b, 0, &data), NF_INSIDE, "PA", 1001, 5001);
	/* It is over: the next one is as without. */
	assert_non_null(ask(b, 1, &refusal));
	bench_wait(b, 86400 * 1000);
	assert_null(bench_take(b));
	data = syn;
	data.from = "192.0.2.1:2000";
	check(ask(b, 0, &data), NF_INSIDE, "S", 9000, 0);
	bench_close(b);
}

/* [B33] */
static void
test_a_connection_that_has_ended_begins_again_by_a_cookie(void **state)
{
	struct bench *b = open_bench(always, 2);
	uint32_t seq = handshake(b, 2), again;
	struct spec rst = { C("R", 1001, 0) };
	struct spec ack = { C("A", 1001, 0) };

	check(ask(b, 0, &rst), NF_INSIDE, "R", 1001, 0);
	again = cookie(b, 1);
	assert_int_equal(again, seq);
	ack.ack = again + 1;
	check(ask(b, 0, &ack), NF_INSIDE, "S", 1000, 0);
	bench_close(b);
}

/* The vectors of its authors: key 00 01 .. 0f, messages 00 01 02 .. of 0, 8 and 15
 * bytes. */
static void
test_siphash(void **state)
{
	static const struct {
		unsigned int bytes;
		uint64_t want;
	} cases[] = {
		{ 0, 0x726fdb47dd0e0e31 },
		{ 8, 0x93f5f5799a932462 },
		{ 15, 0xa129ca6149be45e5 },
	};
	static const uint64_t key[2] = { 0x0706050403020100, 0x0f0e0d0c0b0a0908 };
	uint8_t message[16];

	for (unsigned int i = 0; i < sizeof(message); i++)
		message[i] = (uint8_t)i;
	for (unsigned int i = 0; i < 3; i++)
		assert_true(siphash(key, message, cases[i].bytes) ==
			    cases[i].want);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_syn_leaves_no_state),
		cmocka_unit_test(test_numbers_are_shifted_for_as_long_as_the_connection_lives),
		cmocka_unit_test(test_what_an_error_quotes_is_shifted_too),
		cmocka_unit_test(test_only_the_cookie_opens),
		cmocka_unit_test(test_a_probe_brings_the_cookie_when_the_ack_was_lost),
		cmocka_unit_test(test_a_wrong_checksum_ends_no_handshake),
		cmocka_unit_test(test_cookies_grow_old),
		cmocka_unit_test(test_a_server_may_refuse),
		cmocka_unit_test(test_the_rules_come_before_the_cookie),
		cmocka_unit_test(test_auto_proxies_what_a_limit_would_drop),
		cmocka_unit_test(test_a_connection_that_has_ended_begins_again_by_a_cookie),
		cmocka_unit_test(test_siphash),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

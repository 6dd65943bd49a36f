/*
 * test_nat_icmp.c - ICMP errors through the NAT, and fragments.
 */
#include "harness.h"

#include <stdio.h>

#define POOL "addresses: 203.0.113.1\nports: 2000\n"

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "203.0.113.1:2000"
#define AS_OUT "203.0.113.1:2000 > 192.0.2.1:80"
#define AS_IN "192.0.2.1:80 > 10.0.0.1:1000"
#define UDP .protocol = PROTO_UDP
#define ICMP .protocol = PROTO_ICMP
/* What a host outside, a router on the way, or one inside says. */
#define FROM_PEER .side = NF_OUTSIDE, .from = "192.0.2.1:1", .to = "203.0.113.1:1", ICMP
#define FROM_ROUTER                                                              \
	.side = NF_OUTSIDE, .from = "198.51.100.7:1", .to = "203.0.113.1:1", ICMP
#define FROM_HOST .side = NF_INSIDE, .from = "10.0.0.1:1", .to = "192.0.2.1:1", ICMP
#define FROM_INSIDE .side = NF_INSIDE, .from = "10.9.9.9:1", .to = "192.0.2.1:1", ICMP

/* As they were when they left, outside and inside. */
static const struct spec left_udp = { .from = "203.0.113.1:2000", .to = "192.0.2.1:80",
				      UDP, .data = "data" };
static const struct spec left_tcp = { .from = "203.0.113.1:2000", .to = "192.0.2.1:80",
				      .flags = "S" };
static const struct spec left_echo = { .from = "203.0.113.1:2000", .to = "192.0.2.1:2000",
				       ICMP, .type = 8, .data = "ping" };
static const struct spec came_udp = { .from = "192.0.2.1:80", .to = "10.0.0.1:1000",
				      UDP };

/* [cases 17, 19; B18; U18] */
static void
test_an_error_finds_who_sent_what_it_quotes(void **state)
{
	static const struct step steps[] = {
		{ "UDP", { OUT, UDP, .data = "data" }, SENT, true, AS_OUT },
		{ "TCP", { OUT, .flags = "S" }, SENT, true, AS_OUT },
		{ "echo", { OUT, ICMP, .type = 8, .data = "ping" }, SENT, true,
		  "203.0.113.1:2000 > 192.0.2.1:2000" },
		{ "no such port", { FROM_PEER, .type = 3, .code = 3,
		  .quote = &left_udp }, SENT, false, "192.0.2.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
		{ "with the data", { FROM_PEER, .type = 3, .code = 3,
		  .quote = &left_udp, .quote_bytes = 12 }, SENT, false,
		  "192.0.2.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
		{ "of TCP, 8 bytes", { FROM_PEER, .type = 3, .code = 3,
		  .quote = &left_tcp }, SENT, false, "192.0.2.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
		{ "of TCP, all of it", { FROM_PEER, .type = 3, .code = 3,
		  .quote = &left_tcp, .quote_bytes = 20 }, SENT, false,
		  "192.0.2.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
		{ "of an echo", { FROM_PEER, .type = 3, .code = 1,
		  .quote = &left_echo }, SENT, false, "192.0.2.1:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:1000" },
		{ "too big, from a router on the way", { FROM_ROUTER, .type = 3,
		  .code = 4, .quote = &left_tcp }, SENT, false,
		  "198.51.100.7:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
		{ "time exceeded, too", { FROM_ROUTER, .type = 11,
		  .quote = &left_udp }, SENT, false, "198.51.100.7:0 > 10.0.0.1:0",
		  .quoted_as = "10.0.0.1:1000 > 192.0.2.1:80" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "mapping: endpoint_dependent", steps);
}

/* [B18] */
static void
test_an_error_from_inside_is_translated(void **state)
{
	static const struct step steps[] = {
		{ "nobody was sent to", { FROM_HOST, .type = 3, .code = 3,
		  .quote = &came_udp }, DROPPED(STATE) },
		{ "UDP", { OUT, UDP }, SENT, true, AS_OUT },
		{ "the host", { FROM_HOST, .type = 3, .code = 3, .quote = &came_udp },
		  SENT, false, "203.0.113.1:0 > 192.0.2.1:0",
		  .quoted_as = "192.0.2.1:80 > 203.0.113.1:2000" },
		{ "a router before it", { FROM_INSIDE, .type = 11, .quote = &came_udp },
		  SENT, false, "203.0.113.1:0 > 192.0.2.1:0",
		  .quoted_as = "192.0.2.1:80 > 203.0.113.1:2000" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
	RUN_STEPS_UNDIVIDED("nat", POOL "mapping: endpoint_dependent", steps);
}

/* [B18] */
static void
test_an_error_about_what_a_mapping_let_in_is_translated(void **state)
{
	static const struct spec came = { .from = "192.0.2.3:9", .to = "10.0.0.1:1000",
					  UDP };
	static const struct step steps[] = {
		{ "UDP", { OUT, UDP }, SENT, true, AS_OUT },
		{ "a stranger", { .side = NF_OUTSIDE, .from = "192.0.2.3:9",
		  .to = "203.0.113.1:2000", UDP }, SENT, false,
		  "192.0.2.3:9 > 10.0.0.1:1000" },
		{ "is told", { .side = NF_INSIDE, .from = "10.0.0.1:1",
		  .to = "192.0.2.3:1", ICMP, .type = 3, .code = 3, .quote = &came },
		  SENT, false, "203.0.113.1:0 > 192.0.2.3:0",
		  .quoted_as = "192.0.2.3:9 > 203.0.113.1:2000" },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL "filtering: endpoint_independent", steps);
}

/* [B7, B11] */
static void
test_an_error_neither_ends_a_session_nor_keeps_it(void **state)
{
	static const struct step steps[] = {
		{ "UDP", { OUT, UDP }, SENT, true, AS_OUT },
		{ "no such port", { FROM_PEER, .type = 3, .code = 3,
		  .quote = &left_udp }, SENT, false, "192.0.2.1:0 > 10.0.0.1:0",
		  .after_ms = 150 * 1000 },
		{ "it goes on", { IN, UDP }, SENT, false, AS_IN },
		{ "a turn later", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "from inside", { FROM_HOST, .type = 3, .code = 3, .quote = &came_udp },
		  SENT, false, "203.0.113.1:0 > 192.0.2.1:0",
		  .after_ms = 140 * 1000 },
		{ "a turn later", { .side = NF_INSIDE, .arp = true }, SENT },
		{ "it has ended in its time", { IN, UDP }, DROPPED(STATE),
		  .after_ms = 170 * 1000 },
		{ "so has what there was to say of it", { FROM_PEER, .type = 3,
		  .code = 3, .quote = &left_udp }, DROPPED(STATE) },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL "inbound_refresh: yes", steps);
}

/* [B18; U17] */
static void
test_hostile_errors_are_dropped_silently(void **state)
{
	static const struct spec gre = { .from = "203.0.113.1:1", .to = "192.0.2.1:1",
					 .protocol = 47, .data = "12345678" };
	static const struct spec ipip = { .from = "203.0.113.1:1", .to = "192.0.2.1:1",
					  .protocol = 4, .data = "12345678" };
	static const struct spec other = { .from = "203.0.113.1:2001",
					   .to = "192.0.2.1:80", UDP };
	static const struct spec stranger = { .from = "203.0.113.1:2000",
					      .to = "192.0.2.2:80", UDP };
	static const struct spec own_error = { FROM_PEER, .type = 3,
					       .quote = &left_udp };
	static const struct spec wrong_ip = { .from = "203.0.113.1:2000",
					      .to = "192.0.2.1:80", UDP,
					      .bad_ip_checksum = true };
	static const struct spec later = { .from = "203.0.113.1:2000",
					   .to = "192.0.2.1:80", UDP, .fragment = 5,
					   .data = "12345678" };
	static const struct spec nobody = { .from = "203.0.113.2:2000",
					    .to = "192.0.2.1:80", UDP };
	static const struct step steps[] = {
		{ "UDP", { OUT, UDP }, SENT, true, AS_OUT },
		{ "about GRE", { FROM_PEER, .type = 3, .quote = &gre }, DROPPED(STATE) },
		{ "about IP in IP", { FROM_PEER, .type = 3, .quote = &ipip },
		  DROPPED(STATE) },
		{ "about another port", { FROM_PEER, .type = 3, .quote = &other },
		  DROPPED(STATE) },
		{ "about another peer", { FROM_PEER, .type = 3, .quote = &stranger },
		  DROPPED(STATE) },
		{ "about an error", { FROM_PEER, .type = 3, .quote = &own_error,
		  .quote_bytes = 36 }, DROPPED(STATE) },
		{ "about a later fragment", { FROM_PEER, .type = 3, .quote = &later },
		  DROPPED(STATE) },
		{ "to another than it is about", { FROM_PEER, .type = 3,
		  .quote = &nobody }, DROPPED(STATE) },
		{ "cut short", { FROM_PEER, .type = 3, .quote = &left_udp,
		  .quote_bytes = 7 }, DROPPED(STATE) },
		{ "about nothing", { FROM_PEER, .type = 3 }, DROPPED(STATE) },
		{ "with a wrong checksum", { FROM_PEER, .type = 3, .quote = &left_udp,
		  .bad_checksum = true }, DROPPED(CHECKSUM) },
		{ "or one in what it quotes", { FROM_PEER, .type = 3,
		  .quote = &wrong_ip }, DROPPED(CHECKSUM) },
		{ "the session is as before", { IN, UDP }, SENT, false, AS_IN },
	};

	RUN_STEPS_UNDIVIDED("nat", POOL, steps);
}

/* [B9, B18] */
static void
test_errors_of_hairpins_come_back(void **state)
{
	static const char section[] = "{ addresses: 203.0.113.1, ports: 2000-2063, "
				      "filtering: endpoint_independent }";
	static const struct spec server = { OUT, UDP };
	struct bench *b = bench_open("nat", section, 2);
	unsigned int server_port, client_port;
	char to[32], from[32];
	const struct sent *s;

	bench_put(b, 0, &server);
	bench_settle(b);
	assert_int_equal(sscanf(sent_endpoints(bench_take(b)), "203.0.113.1:%u",
				&server_port), 1);
	sprintf(to, "203.0.113.1:%u", server_port);

	struct spec client = { .side = NF_INSIDE, .from = "10.0.0.2:3000", .to = to,
			       UDP };

	bench_put(b, 1, &client);
	bench_settle(b);
	assert_int_equal(sscanf(sent_endpoints(bench_take(b)), "203.0.113.1:%u",
				&client_port), 1);
	sprintf(from, "203.0.113.1:%u", client_port);

	/* The server has no such port. */
	struct spec came = { .from = from, .to = "10.0.0.1:1000", UDP };
	struct spec error = { .side = NF_INSIDE, .from = "10.0.0.1:1",
			      .to = "203.0.113.1:1", ICMP, .type = 3, .code = 3,
			      .quote = &came };
	char want[80];

	bench_put(b, 0, &error);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_INSIDE);
	assert_string_equal(sent_endpoints(s), "203.0.113.1:0 > 10.0.0.2:0");
	sprintf(want, "10.0.0.2:3000 > %s", to);
	assert_string_equal(sent_quoted(s), want);
	assert_null(bench_take(b));
	bench_close(b);
}

/* [B9, B17, B49] Whoever is asked answers, and nothing is written. */
static void
test_outside_addresses_answer_pings(void **state)
{
#define PING ICMP, .type = 8, .data = "are you there?"
	static const struct step steps[] = {
		{ "from outside", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.1:7", PING }, KEPT, .answers = 1 },
		{ "from inside", { .side = NF_INSIDE, .from = "10.0.0.1:7",
		  .to = "203.0.113.1:7", PING }, KEPT, .answers = 1 },
		{ "from a host with a static one", { .side = NF_INSIDE,
		  .from = "10.0.0.5:7", .to = "203.0.113.1:7", PING }, KEPT,
		  .answers = 1 },
		{ "an address of rules", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.2:7", PING }, KEPT, .answers = 1 },
		{ "not a static one, for that is a host's", { .side = NF_OUTSIDE,
		  .from = "192.0.2.1:7", .to = "203.0.113.9:7", PING }, SENT, false,
		  "192.0.2.1:7 > 10.0.0.5:7" },
		{ "a wrong checksum", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.1:7", PING, .bad_checksum = true },
		  DROPPED(CHECKSUM) },
		{ "from nobody", { .side = NF_OUTSIDE, .from = "0.0.0.0:7",
		  .to = "203.0.113.1:7", PING }, DROPPED(STATE) },
		{ "no other question", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.1:7", ICMP, .type = 13, .data = "123456789abc" },
		  DROPPED(STATE) },
		{ "not of somebody else", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.77:7", PING }, DROPPED(STATE) },
	};
	static const struct step off[] = {
		{ "ping: no", { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
		  .to = "203.0.113.1:7", PING }, DROPPED(STATE) },
	};
	static const struct spec ping = { .side = NF_OUTSIDE, .from = "192.0.2.1:7",
					  .to = "203.0.113.1:7", PING, .vlan = 5,
					  .ttl = 1 };
	struct bench *b;
	const struct sent *s;

	RUN_STEPS("nat", POOL "forwards: [{outside: '203.0.113.2:80', "
		  "inside: '10.0.0.6:80'}]\n"
		  "static: [{inside: 10.0.0.5, outside: 203.0.113.9}]\n", steps);
	RUN_STEPS("nat", POOL "ping: no\n", off);
	b = bench_open("nat", POOL, 1);
	bench_put(b, 0, &ping);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_string_equal(sent_endpoints(s), "203.0.113.1:7 > 192.0.2.1:7");
	assert_string_equal(sent_macs(s), "02:00:00:00:00:01 > 02:00:00:00:00:02");
	assert_string_equal(sent_data(s), ping.data);
	assert_int_equal(sent_packet(s)->icmp_type, 0);
	assert_int_equal(s->frame[sent_packet(s)->l3 + 8], 64);
	assert_int_equal(s->frame[15], 5);
	bench_close(b);
}

/* [cases 23, 27; B13; U19] */
static void
test_fragments_are_translated_alike(void **state)
{
	static const struct spec out = { OUT, UDP, .data_bytes = 2000, .id = 7 };
	static const struct spec in = { IN, UDP, .data_bytes = 1500, .id = 8 };
	static const struct spec ping = { OUT, ICMP, .type = 8, .data_bytes = 1500,
					  .id = 9 };

	for (unsigned int n_pipes = 1; n_pipes <= 2; n_pipes++) {
		const struct spec *whole[] = { &out, &in, &ping };
		struct bench *b = bench_open("nat", POOL, n_pipes);

		for (unsigned int i = 0; i < 3; i++) {
			struct spec part = *whole[i];
			const struct sent *s;
			const char *want = i == 1 ? "192.0.2.1 > 10.0.0.1"
						  : "203.0.113.1 > 192.0.2.1";

			part.part_of = whole[i];
			for (unsigned int k = 0; k < 3; k++) {
				char src[20], dst[20], got[50];
				unsigned int n;

				part.fragment = (uint16_t)(k * 70);
				part.part_bytes = k < 2 ? 560 : 0;
				part.more = k < 2;
				bench_put(b, k % n_pipes, &part);
				bench_settle(b);
				s = bench_take(b);
				assert_non_null(s);
				n = sscanf(sent_endpoints(s), "%19[^:]:%*u > %19[^:]",
					   src, dst);
				assert_int_equal(n, 2);
				sprintf(got, "%s > %s", src, dst);
				assert_string_equal(got, want);
				assert_null(bench_take(b));
			}
		}
		bench_close(b);
	}
}

/* [case 25; B13; U19] */
static void
test_fragments_before_their_first_wait_for_it(void **state)
{
	static const struct spec whole = { OUT, UDP, .data_bytes = 1000, .id = 7 };
	struct spec first = whole, later = whole;
	struct bench *b = bench_open("nat", POOL, 2);
	const struct sent *s;

	first.part_of = later.part_of = &whole;
	first.part_bytes = 512;
	first.more = true;
	later.fragment = 64;
	bench_put(b, 0, &later);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_records(b, "forward"), 0);
	bench_put(b, 1, &first);
	bench_settle(b);
	for (unsigned int i = 0; i < 2; i++) {
		s = bench_take(b);
		assert_non_null(s);
		assert_non_null(strstr(sent_endpoints(s), "203.0.113.1"));
	}
	assert_null(bench_take(b));

	/* One whose first never comes leaves nothing behind. */
	later.id = 8;
	bench_put(b, 0, &later);
	bench_settle(b);
	bench_wait(b, 400 * 1000);
	bench_settle(b);
	assert_null(bench_take(b));
	assert_int_equal(bench_records(b, "forward"), 0);
	bench_close(b);
}

/* Cuts 'whole' in parts of 560 bytes, as far as there are 'n' of them. */
static void
cut(const struct spec *whole, struct spec *part, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		part[i] = *whole;
		part[i].part_of = whole;
		part[i].fragment = (uint16_t)(i * 70);
		part[i].part_bytes = i + 1 < n ? 560 : 0;
		part[i].more = i + 1 < n;
	}
}

/* [B13, B17; U19] The ports of a datagram are known before its first fragment has made
 * the session: whichever fragment is run first makes it, and all are translated alike. */
static void
test_fragments_of_a_first_ping_race(void **state)
{
	static const struct spec ping = { OUT, ICMP, .type = 8, .data_bytes = 1500,
					  .id = 9 };
	static const char *const sections[] = {
		"addresses: 203.0.113.1\nports: 2000-2063\n",
		"addresses: 203.0.113.1\nports: 2000-2063\n"
		"mapping: endpoint_dependent\n",
	};
	struct spec part[3];

	cut(&ping, part, 3);
	for (unsigned int schedule = 0; schedule < 1 << 11; schedule++) {
		struct bench *b = bench_open("nat", sections[schedule & 1], 2);
		const struct sent *s;
		unsigned int n = 0, n_first = 0;

		bench_race(b, part, 3, schedule >> 1, 10);
		for (; (s = bench_take(b)) != NULL; n++) {
			const struct packet *p;

			assert_non_null(strstr(sent_endpoints(s), "203.0.113.1"));
			p = sent_packet(s);
			n_first += !(p->flags & PACKET_LATER_FRAGMENT);
		}
		assert_int_equal(bench_dropped(b, NF_DROP_STATE), 0);
		assert_int_equal(n, 3);
		assert_int_equal(n_first, 1);
		assert_int_equal(bench_records(b, "forward"), 1);
		assert_int_equal(bench_records(b, "reverse"), 1);
		assert_int_equal(bench_records(b, "outside"), schedule & 1 ? 0 : 1);
		bench_close(b);
	}
}

/* [B17] What has no identifier makes no session, nor does a query from outside. */
static void
test_fragments_of_no_query_make_no_session(void **state)
{
	static const struct spec long_udp = { .from = "192.0.2.1:80",
					      .to = "10.0.0.1:1000", UDP,
					      .data_bytes = 1500 };
	static const struct spec of[] = {
		{ FROM_HOST, .type = 3, .code = 3, .quote = &long_udp,
		  .quote_bytes = 1400, .id = 7 },
		{ OUT, ICMP, .type = 5, .data_bytes = 1400, .id = 8 },
		{ IN, ICMP, .type = 8, .data_bytes = 1400, .id = 9 },
	};

	for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct bench *b = bench_open("nat", POOL, 2);
		struct spec part[3];

		cut(&of[i], part, 3);
		bench_race(b, part, 3, 0, 0);
		assert_null(bench_take(b));
		assert_int_equal(bench_records(b, "forward"), 0);
		bench_close(b);
	}
}

/* [B12; U18] */
static void
test_what_is_too_long_is_answered_or_cut(void **state)
{
	static const struct spec fixed = { OUT, UDP, .data_bytes = 1300,
					   .dont_fragment = true };
	static const struct spec loose = { OUT, UDP, .data_bytes = 1300 };
	static const struct spec answer = { IN, UDP, .data_bytes = 1300,
					    .dont_fragment = true };
	struct bench_setup setup = { .names = "nat", .section = POOL, .n_pipes = 1,
				     .n_partitions = 1, .mtu = { 1280, 1280 } };
	struct bench *b = bench_open_as(&setup);
	const struct sent *s;
	const struct packet *p;

	bench_put(b, 0, &fixed);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_INSIDE);
	assert_string_equal(sent_quoted(s), "10.0.0.1:1000 > 192.0.2.1:80");
	p = sent_packet(s);
	assert_int_equal(p->icmp_type << 8 | p->icmp_code, 3 << 8 | 4);
	assert_int_equal(p->data[p->l4 + 6] << 8 | p->data[p->l4 + 7], 1280);
	assert_null(bench_take(b));

	bench_put(b, 0, &loose);
	bench_settle(b);
	for (unsigned int i = 0; i < 2; i++) {
		s = bench_take(b);
		assert_non_null(s);
		assert_int_equal(s->side, NF_OUTSIDE);
		assert_non_null(strstr(sent_endpoints(s), "203.0.113.1"));
	}
	assert_null(bench_take(b));

	/* From outside: who sent it knows nothing of the inside address. */
	bench_put(b, 0, &answer);
	bench_settle(b);
	s = bench_take(b);
	assert_non_null(s);
	assert_int_equal(s->side, NF_OUTSIDE);
	assert_string_equal(sent_quoted(s), "192.0.2.1:80 > 203.0.113.1:2000");
	assert_null(bench_take(b));
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_error_finds_who_sent_what_it_quotes),
		cmocka_unit_test(test_an_error_from_inside_is_translated),
		cmocka_unit_test(test_an_error_about_what_a_mapping_let_in_is_translated),
		cmocka_unit_test(test_an_error_neither_ends_a_session_nor_keeps_it),
		cmocka_unit_test(test_hostile_errors_are_dropped_silently),
		cmocka_unit_test(test_errors_of_hairpins_come_back),
		cmocka_unit_test(test_outside_addresses_answer_pings),
		cmocka_unit_test(test_fragments_are_translated_alike),
		cmocka_unit_test(test_fragments_before_their_first_wait_for_it),
		cmocka_unit_test(test_fragments_of_a_first_ping_race),
		cmocka_unit_test(test_fragments_of_no_query_make_no_session),
		cmocka_unit_test(test_what_is_too_long_is_answered_or_cut),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

/*
 * test_refuse.c - what answers a packet, held against another program's idea of it.
 */
#include "net/refuse.h"

#include "packet_samples.h"

enum {
	RESET_DESTINATION = 100, /* Beside enum refusal. */
	RESET_SOURCE,
	ECHO,
};

/* Made with scapy. */
static const struct {
	const char *name;
	unsigned int sample, how, mtu;
	const char *want;
} cases[] = {
	{ "a SYN is refused by a RST that acknowledges it", TCP4, REFUSE_RST, 0,
	  "0200000000010200000000020800450000280000400040066ec6c00002090a0000010050"
	  "0400000000000102030550140000db6f0000" },
	{ "what has an ACK by one with that as its number", TCP4_OPTIONS, REFUSE_RST, 0,
	  "0200000000010200000000020800450000280000400040066ec6c00002090a0000010050"
	  "0400000000000000000050040000df860000" },
	{ "data on a SYN are acknowledged, too", TCP6, REFUSE_RST, 0,
	  "02000000000102000000000286dd600000000014064020010db800010000000000000000"
	  "000920010db8000000000000000000000001005004000000000000000002501400005002"
	  "0000" },
	{ "what is not TCP has no RST", UDP4, REFUSE_RST, 0,
	  "020000000001020000000002080045c0003b0000400040016df8c00002090a0000010303"
	  "c923000000004500001f000700004011aebd0a000001c000020914e90035000b4b4b6f64"
	  "64" },
	{ "port unreachable", UDP4, REFUSE_PORT, 0,
	  "020000000001020000000002080045c0003b0000400040016df8c00002090a0000010303"
	  "c923000000004500001f000700004011aebd0a000001c000020914e90035000b4b4b6f64"
	  "64" },
	{ "host unreachable, with its tag", TAGGED, REFUSE_HOST, 0,
	  "02000000000102000000000281000005080045c0003a0000400040016df9c00002090a00"
	  "00010301c924000000004500001e000700004011aebe0a000001c000020914e90035000a"
	  "a6387879" },
	{ "prohibited; options are quoted, not copied", IP4_OPTIONS, REFUSE_PROHIBITED, 0,
	  "020000000001020000000002080045c0004b0000400040016de8c00002090a000001030d"
	  "c91a000000004600002f00010000400619ba0a000001c000020994040000040000500000"
	  "00000000000050192000fb0b0000616263" },
	{ "too big", ECHO4, REFUSE_TOO_BIG, 1400,
	  "020000000001020000000002080045c0003c0000400040016df7c00002090a0000010304"
	  "f7830000057845000020000700004001aecc0a000001c00002090800080a112200037069"
	  "6e67" },
	{ "port unreachable over IPv6", UDP6, REFUSE_PORT, 0,
	  "02000000000102000000000286dd6c000000003b3a4020010db800010000000000000000"
	  "000920010db8000000000000000000000001010431da0000000060000000000b11402001"
	  "0db800000000000000000000000120010db800010000000000000000000914e90035000b"
	  "bbd86f6464" },
	{ "address unreachable over IPv6", ECHO6, REFUSE_HOST, 0,
	  "02000000000102000000000286dd6c000000003c3a4020010db800010000000000000000"
	  "000920010db8000000000000000000000001010309030000000060000000000c3a402001"
	  "0db800000000000000000000000120010db8000100000000000000000009800034461122"
	  "000370696e67" },
	{ "prohibited over IPv6, with both tags", TWO_TAGS, REFUSE_PROHIBITED, 0,
	  "02000000000102000000000288a800068100000586dd6c000000003b3a4020010db80001"
	  "0000000000000000000920010db8000000000000000000000001010131dd000000006000"
	  "0000000b114020010db800000000000000000000000120010db800010000000000000000"
	  "000914e90035000b9cc378797a" },
	{ "too big over IPv6", TCP6, REFUSE_TOO_BIG, 1400,
	  "02000000000102000000000286dd6c00000000453a4020010db800010000000000000000"
	  "000920010db8000000000000000000000001020036510000057860000000001506402001"
	  "0db800000000000000000000000120010db8000100000000000000000009040000500000"
	  "000000000000500220000f15000021" },
	{ "a RST to the destination has the segment's numbers", TCP4_OPTIONS,
	  RESET_DESTINATION, 0,
	  "0200000000020200000000010800450000280000400040066ec60a000001c00002090400"
	  "0050000000000000000050140000df760000" },
	{ "and acknowledges nothing if that does not", TCP4, RESET_DESTINATION, 0,
	  "0200000000020200000000010800450000280000400040066ec60a000001c00002090400"
	  "0050010203040000000050040000db800000" },
	{ "over IPv6", TCP6, RESET_DESTINATION, 0,
	  "02000000000202000000000186dd600000000014064020010db800000000000000000000"
	  "000120010db8000100000000000000000009040000500000000000000000500400005014"
	  "0000" },
	{ "a RST to the source is that which refuses", TCP4_OPTIONS, RESET_SOURCE, 0,
	  "0200000000010200000000020800450000280000400040066ec6c00002090a0000010050"
	  "0400000000000000000050040000df860000" },
	{ "an echo is replied to", ECHO4, ECHO, 0,
	  "020000000001020000000002080045000020000700004001aeccc00002090a0000010000"
	  "100a1122000370696e67" },
	{ "over IPv6", ECHO6, ECHO, 0,
	  "02000000000102000000000286dd60000000000c3a4020010db800010000000000000000"
	  "000920010db8000000000000000000000001810033461122000370696e67" },
};

/* The refusal, in memory that ends where it may; the caller frees it. */
static uint8_t *
refuse(const struct packet *p, uint32_t head_bytes, unsigned int how, unsigned int mtu,
       unsigned int *bytes)
{
	uint8_t *frame = malloc(REFUSE_MAX_BYTES);

	if (how == ECHO)
		*bytes = packet_echo(p, frame);
	else if (how >= RESET_DESTINATION)
		*bytes = packet_reset(p, how == RESET_SOURCE, frame);
	else
		*bytes = packet_refuse(p, head_bytes, (enum refusal)how, mtu, frame);
	return frame;
}

/* [B12, B36] */
static void
refusals_are_what_another_program_makes(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame f, want = { .bytes = 0 };
		unsigned int bytes;
		struct packet p;

		print_message("  %s\n", cases[i].name);
		frame_make(&f, samples[cases[i].sample].hex);
		hex_append(&want, cases[i].want);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);

		uint8_t *made = refuse(&p, f.bytes, cases[i].how, cases[i].mtu, &bytes);

		assert_int_equal(bytes, want.bytes);
		assert_memory_equal(made, want.data, bytes);
		free(made);
	}
}

static void
every_refusal_is_a_packet_back_with_right_checksums(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++)
		for (unsigned int how = REFUSE_RST; how <= REFUSE_TOO_BIG; how++) {
			struct packet p, q;
			unsigned int bytes;
			struct flow inner;
			struct frame f;

			frame_make(&f, samples[i].hex);
			assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
					 PACKET_OK);

			uint8_t *made = refuse(&p, f.bytes, how, 1280, &bytes);

			if (bytes == 0) {
				free(made);
				continue;
			}
			assert_int_equal(packet_parse(&q, made, bytes, bytes), PACKET_OK);
			assert_int_equal(q.end, bytes);
			assert_true(packet_checksum_ok(&q));
			if (packet_inner(&q, bytes, &inner)) {
				assert_true(packet_quoted_ok(&q, bytes));
				assert_memory_equal(&inner, &p.flow, flow_bytes(&inner));
			}
			free(made);
		}
}

/* Of a long packet as much is quoted as an error may have. */
static void
errors_are_short(void **state)
{
	static const struct {
		unsigned int sample, ip_bytes;
	} of[] = { { UDP4, 576 }, { UDP6, 1280 }, { TAGGED, 576 }, { TWO_TAGS, 1280 } };

	(void)state;
	for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		const struct sample *s = &samples[of[i].sample];
		unsigned int bytes, l3 = s->at.l3;
		struct packet p, q;
		struct frame f;

		frame_make(&f, s->hex);
		memset(f.data + s->at.end, 'x', 1600 - s->at.end);
		word_put(f.data + s->at.l4 + 4, (uint16_t)(1600 - s->at.l4));
		word_put(f.data + l3 + (of[i].ip_bytes == 576 ? 2 : 4),
			 (uint16_t)(1600 - l3 - (of[i].ip_bytes == 576 ? 0 : 40)));
		if (of[i].ip_bytes == 576)
			reference_ip4(f.data + l3);
		assert_int_equal(packet_parse(&p, f.data, 1600, 1600), PACKET_OK);

		uint8_t *made = refuse(&p, 1600, REFUSE_PORT, 0, &bytes);

		assert_int_equal(bytes, l3 + of[i].ip_bytes);
		assert_int_equal(packet_parse(&q, made, bytes, bytes), PACKET_OK);
		assert_true(packet_checksum_ok(&q));
		free(made);
		/* Of one in several buffers, what can be read. */
		made = refuse(&p, 300, REFUSE_PORT, 0, &bytes);
		assert_int_equal(bytes, 300 + 8 + (of[i].ip_bytes == 576 ? 20 : 40));
		free(made);
	}
}

static void
an_mtu_is_one_that_the_protocol_knows(void **state)
{
	static const struct {
		unsigned int sample, mtu, at;
		uint16_t want;
	} of[] = {
		{ UDP4, 70000, 14 + 20 + 6, 65535 },
		{ UDP4, 68, 14 + 20 + 6, 68 },
		{ UDP6, 1000, 14 + 40 + 6, 1280 },
		{ UDP6, 9000, 14 + 40 + 6, 9000 },
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct packet p;
		unsigned int bytes;
		struct frame f;

		frame_make(&f, samples[of[i].sample].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);

		uint8_t *made = refuse(&p, f.bytes, REFUSE_TOO_BIG, of[i].mtu, &bytes);

		assert_int_equal(word_at(made + of[i].at), of[i].want);
		free(made);
	}
}

static const struct {
	const char *name;
	unsigned int sample, at;
	const char *patch; /* What is put there. */
} silent[] = {
	{ "an ICMP error", ERROR4_UDP, 0, "02" },
	{ "an ICMPv6 error", ERROR6_UDP, 0, "02" },
	{ "a redirect", REDIRECT4, 0, "02" },
	{ "an ICMPv6 redirect", NEIGHBOR6, 54, "89" },
	{ "a later fragment", LATER4, 0, "02" },
	{ "a later IPv6 fragment", LATER6, 0, "02" },
	{ "a RST", TCP4, 47, "04" },
	{ "a RST with ACK over IPv6", TCP6, 67, "14" },
	{ "to a group of stations", UDP4, 0, "01005e000001" },
	{ "to all stations", UDP4, 0, "ffffffffffff" },
	{ "from a group of stations", UDP4, 6, "03" },
	{ "to a multicast address", UDP4, 30, "e0000001" },
	{ "to the broadcast address", UDP4, 30, "ffffffff" },
	{ "to no address", UDP4, 30, "00000000" },
	{ "from a multicast address", UDP4, 26, "e1020304" },
	{ "from the broadcast address", UDP4, 26, "ffffffff" },
	{ "from a reserved address", UDP4, 26, "f0000001" },
	{ "from this network", UDP4, 26, "00000001" },
	{ "from a loopback address", UDP4, 26, "7f000001" },
	{ "to an IPv6 multicast address", UDP6, 38, "ff02" },
	{ "from an IPv6 multicast address", UDP6, 22, "ff02" },
	{ "from no IPv6 address", UDP6, 22, "00000000000000000000000000000000" },
	{ "from the IPv6 loopback address", UDP6, 22,
	  "00000000000000000000000000000001" },
};

/* [B36] */
static void
what_could_echo_or_multiply_is_not_answered(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(silent) / sizeof(silent[0]); i++)
		for (unsigned int how = REFUSE_RST; how <= REFUSE_TOO_BIG; how++) {
			struct frame f, patch = { .bytes = 0 };
			unsigned int bytes;
			struct packet p;

			if (how == REFUSE_RST)
				print_message("  %s\n", silent[i].name);
			frame_make(&f, samples[silent[i].sample].hex);
			hex_append(&patch, silent[i].patch);
			memcpy(f.data + silent[i].at, patch.data, patch.bytes);
			if (word_at(f.data + 12) == 0x0800)
				reference_ip4(f.data + 14);
			assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
					 PACKET_OK);
			free(refuse(&p, f.bytes, how, 1280, &bytes));
			assert_int_equal(bytes, 0);
		}
}

static void
only_tcp_is_reset(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct packet p;
		unsigned int bytes;
		struct frame f;

		frame_make(&f, samples[i].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		for (unsigned int how = RESET_DESTINATION; how <= RESET_SOURCE; how++) {
			free(refuse(&p, f.bytes, how, 0, &bytes));
			assert_int_equal(bytes != 0, samples[i].protocol == PROTO_TCP);
		}
		if (samples[i].protocol != PROTO_TCP)
			continue;
		p.tcp_flags |= TCP_RST;
		free(refuse(&p, f.bytes, RESET_SOURCE, 0, &bytes));
		assert_int_equal(bytes, 0);
	}
}

/* Nothing but a whole echo request is, nor one that could multiply. */
static void
only_echo_requests_are_replied_to(void **state)
{
	static const uint8_t group[] = { 0x01, 0x00, 0x5e, 0x00, 0x00, 0x01 };

	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		bool is_echo = i == ECHO4 || i == ECHO6;
		unsigned int bytes;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[i].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		free(refuse(&p, f.bytes, ECHO, 0, &bytes));
		assert_int_equal(bytes, is_echo ? p.end : 0);
		p.flags |= PACKET_FRAGMENT;
		free(refuse(&p, f.bytes, ECHO, 0, &bytes));
		assert_int_equal(bytes, 0);
		p.flags &= (uint16_t)~PACKET_FRAGMENT;
		memcpy(f.data, group, sizeof(group));
		free(refuse(&p, f.bytes, ECHO, 0, &bytes));
		assert_int_equal(bytes, 0);
	}
}

/* The TTL is anew, the checksum of a reply that is all zeros right, a wrong one wrong. */
static void
replies_have_their_own_ttl_and_the_checksum_of_the_request(void **state)
{
	(void)state;
	for (unsigned int wrong = 0; wrong <= 1; wrong++) {
		struct packet p, q;
		unsigned int bytes;
		struct frame f;

		frame_make(&f, samples[ECHO4].hex);
		memset(f.data + samples[ECHO4].at.l4 + 4, 0, 8);
		f.data[samples[ECHO4].at.l3 + 8] = 1;
		reference_ip4(f.data + samples[ECHO4].at.l3);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		word_put(f.data + p.l4 + 2, (uint16_t)(0xf7ff + wrong));
		assert_int_equal(packet_checksum_ok(&p), !wrong);

		uint8_t *made = refuse(&p, f.bytes, ECHO, 0, &bytes);

		assert_int_equal(packet_parse(&q, made, bytes, bytes), PACKET_OK);
		assert_int_equal(made[q.l3 + 8], 64);
		assert_int_equal(packet_checksum_ok(&q), !wrong);
		free(made);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals_are_what_another_program_makes),
		cmocka_unit_test(every_refusal_is_a_packet_back_with_right_checksums),
		cmocka_unit_test(errors_are_short),
		cmocka_unit_test(an_mtu_is_one_that_the_protocol_knows),
		cmocka_unit_test(what_could_echo_or_multiply_is_not_answered),
		cmocka_unit_test(only_tcp_is_reset),
		cmocka_unit_test(only_echo_requests_are_replied_to),
		cmocka_unit_test(
			replies_have_their_own_ttl_and_the_checksum_of_the_request),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

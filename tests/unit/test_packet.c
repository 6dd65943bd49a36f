/*
 * test_packet.c - packets in, what is known of them out.
 *
 * Each packet is parsed in a buffer of exactly its size, so that the sanitizers
 * see a byte read too many.
 */
#include "net/packet.h"

#include "packet_samples.h"

static void
flow_expect(const struct flow *f, uint8_t protocol, const char *src, const char *dst)
{
	char text[PACKET_TEXT_BYTES];
	struct endpoint e;

	assert_int_equal(f->protocol, protocol);
	assert_int_equal(f->zone, 0);
	flow_source(f, &e);
	endpoint_print(&e, text);
	assert_string_equal(text, src);
	flow_destination(f, &e);
	endpoint_print(&e, text);
	assert_string_equal(text, dst);
}

static void
sample_expect(const struct sample *s, const struct packet *p)
{
	assert_int_equal(p->l3, s->at.l3);
	assert_int_equal(p->l4, s->at.l4);
	assert_int_equal(p->payload, s->at.payload);
	assert_int_equal(p->end, s->at.end);
	assert_int_equal(p->flags, s->flags);
	flow_expect(&p->flow, s->protocol, s->src, s->dst);
}

static void
every_sample_is_parsed_and_its_checksum_is_right(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct frame f;
		struct packet p;

		print_message("  %s\n", samples[i].name);
		frame_make(&f, samples[i].hex);

		uint8_t *copy = exact_copy(&f, f.bytes);

		assert_int_equal(packet_parse(&p, copy, f.bytes, f.bytes), PACKET_OK);
		assert_ptr_equal(p.data, copy);
		sample_expect(&samples[i], &p);
		assert_true(packet_checksum_ok(&p));
		reference_sums(&p);
		assert_memory_equal(copy, f.data, f.bytes);
		free(copy);
	}
}

static void
errors_tell_the_flow_that_they_quote(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		const struct sample *s = &samples[i];
		struct frame f;
		struct packet p;
		struct flow inner;

		frame_make(&f, s->hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_int_equal(packet_inner(&p, f.bytes, &inner), s->inner.src != NULL);
		assert_false(packet_inner(&p, p.payload + 19U, &inner));
		assert_false(packet_inner(&p, 0, &inner));
		if (s->inner.src == NULL)
			continue;
		assert_true(packet_inner(&p, f.bytes, &inner));
		assert_int_equal(inner.version, p.flow.version);
		flow_expect(&inner, s->inner.protocol, s->inner.src, s->inner.dst);
	}
}

static void
no_packet_is_accepted_that_is_cut_short(void **state)
{
	struct endpoint to = { .port = 1 };
	struct packet p;
	struct flow inner;
	struct frame f;

	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		const struct sample *s = &samples[i];

		frame_make(&f, s->hex);
		for (uint32_t n = 0; n <= f.bytes; n++) {
			uint8_t *copy = exact_copy(&f, n);
			enum packet_error want =
				n < s->at.end ? PACKET_MALFORMED : PACKET_OK;

			assert_int_equal(packet_parse(&p, copy, n, n), want);
			/* It goes on in other buffers: the headers have to be here. */
			want = n < s->at.payload ? PACKET_MALFORMED : PACKET_OK;
			assert_int_equal(packet_parse(&p, copy, n, f.bytes), want);
			if (want == PACKET_OK) {
				sample_expect(s, &p);
				(void)packet_inner(&p, n, &inner);
				to.version = p.flow.version;
				packet_set_src(&p, &to);
				packet_set_dst(&p, &to);
			}
			free(copy);
		}
	}
}

static const struct {
	const char *name;
	unsigned int sample;
	uint16_t at, word; /* What is put where. */
	enum packet_error want;
} patches[] = {
	{ "ARP is not IP", TCP4, 12, 0x0806, PACKET_NOT_IP },
	{ "an IEEE 802.3 length is not IP", TCP4, 12, 0x0026, PACKET_NOT_IP },
	{ "version 5 is not IPv4", TCP4, 14, 0x5500, PACKET_MALFORMED },
	{ "nor is version 6", TCP4, 14, 0x6500, PACKET_MALFORMED },
	{ "version 4 is not IPv6", TCP6, 14, 0x4000, PACKET_MALFORMED },
	{ "an IPv4 header has 20 bytes", TCP4, 14, 0x4400, PACKET_MALFORMED },
	{ "an IPv4 header ends in its datagram", UDP4, 14, 0x4800, PACKET_MALFORMED },
	{ "an IPv4 header ends in the frame", UDP4, 14, 0x4f00, PACKET_MALFORMED },
	{ "an IPv4 datagram holds its header", TCP4, 16, 19, PACKET_MALFORMED },
	{ "an IPv4 datagram ends in the frame", TCP4, 16, 47, PACKET_MALFORMED },
	{ "an IPv6 datagram ends in the frame", TCP6, 18, 22, PACKET_MALFORMED },
	{ "a TCP header has 20 bytes", TCP4, 46, 0x4002, PACKET_MALFORMED },
	{ "a TCP header ends in its datagram", TCP4, 46, 0x6002, PACKET_MALFORMED },
	{ "so does one over IPv6", TCP6, 66, 0x6002, PACKET_MALFORMED },
	{ "a UDP length holds the header", UDP4, 38, 7, PACKET_MALFORMED },
	{ "a UDP length ends in its datagram", UDP4, 38, 12, PACKET_MALFORMED },
	{ "even in an atomic fragment", ATOMIC6, 66, 11, PACKET_MALFORMED },
	{ "but the rest of a fragment comes later", FIRST4, 38, 200, PACKET_OK },
	{ "the same over IPv6", FIRST6, 66, 200, PACKET_OK },
	{ "a first fragment has all of TCP", FIRST4, 22, 0x4006, PACKET_MALFORMED },
	{ "a first fragment has all of ICMP", FIRST4, 16, 27, PACKET_MALFORMED },
	{ "a later fragment has nothing of it", LATER4, 22, 0x4006, PACKET_OK },
	{ "4 bytes are no TCP", GRE4, 22, 0x4006, PACKET_MALFORMED },
	{ "4 bytes are no UDP", GRE4, 22, 0x4011, PACKET_MALFORMED },
	{ "4 bytes are no ICMP", GRE4, 22, 0x4001, PACKET_MALFORMED },
	{ "ICMPv6 over IPv4 is no ICMP", GRE4, 22, 0x403a, PACKET_OK },
	{ "ICMP over IPv6 is no ICMPv6", NO_NEXT6, 20, 0x0140, PACKET_OK },
	{ "options end in the datagram", CHAIN6, 54, 0x2b07, PACKET_MALFORMED },
	{ "hop-by-hop options come first", CHAIN6, 54, 0x0000, PACKET_MALFORMED },
	{ "there is one fragment header", ATOMIC6, 54, 0x2c00, PACKET_MALFORMED },
	{ "an authentication header ends too", AH6, 54, 0x06ff, PACKET_MALFORMED },
};

static void
lengths_that_contradict_are_malformed(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(patches) / sizeof(patches[0]); i++) {
		struct frame f;
		struct packet p;

		print_message("  %s\n", patches[i].name);
		frame_make(&f, samples[patches[i].sample].hex);
		word_put(f.data + patches[i].at, patches[i].word);
		if (word_at(f.data + 12) == 0x0800)
			reference_ip4(f.data + 14);

		uint8_t *copy = exact_copy(&f, f.bytes);

		assert_int_equal(packet_parse(&p, copy, f.bytes, f.bytes),
				 patches[i].want);
		free(copy);
	}
}

static void
one_wrong_bit_of_an_ip4_header_is_seen(void **state)
{
	static const unsigned int with_header[] = { TCP4, IP4_OPTIONS };
	struct frame f;
	struct packet p;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		frame_make(&f, samples[with_header[i]].hex);
		for (unsigned int bit = 14 * 8; bit < samples[with_header[i]].at.l4 * 8U;
		     bit++) {
			f.data[bit / 8] ^= 1 << bit % 8;
			assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
					 PACKET_MALFORMED);
			f.data[bit / 8] ^= 1 << bit % 8;
		}
	}
}

static void
two_tags_are_skipped_three_are_malformed(void **state)
{
	struct frame f;
	struct packet p;

	(void)state;
	for (unsigned int n = 0; n <= 3; n++) {
		f.bytes = 0;
		hex_append(&f, ETHER_TEXT);
		for (unsigned int i = 0; i < n; i++)
			hex_append(&f, i == 0 ? "88a80001" : "81000001");
		hex_append(&f, samples[UDP4].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
				 n == 3 ? PACKET_MALFORMED : PACKET_OK);
		if (n < 3)
			assert_int_equal(p.l3, 14 + 4 * n);
	}
}

/* Some hosts take IP out of there, though an 802.3 frame is none to others. */
static void
ip_is_not_hidden_by_an_802_3_header(void **state)
{
	static const struct {
		const char *hex;
		enum packet_error want;
	} cases[] = {
		{ "0040aaaa030000000800", PACKET_MALFORMED },
		{ "05dcaaaa0300000086dd", PACKET_MALFORMED },
		{ "0040aaaa030000f80800", PACKET_MALFORMED },
		{ "0040aaaa030000008100", PACKET_MALFORMED },
		{ "810000000040aaaa030000000800", PACKET_MALFORMED },
		{ "0040aaaa030000000806", PACKET_NOT_IP },	/* ARP */
		{ "0040aaaa0300000c2000", PACKET_NOT_IP },	/* CDP */
		{ "00264242030000000000", PACKET_NOT_IP },	/* STP */
		{ "05ddaaaa030000000800", PACKET_NOT_IP },	/* No length. */
	};
	struct frame f;
	struct packet p;

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		f.bytes = 0;
		hex_append(&f, "020000000002020000000001");
		hex_append(&f, cases[i].hex);
		hex_append(&f, samples[UDP4].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
				 cases[i].want);
		/* Cut short, it is nothing to anybody. */
		assert_int_equal(packet_parse(&p, f.data, 21, 21), PACKET_NOT_IP);
	}
}

static void
eight_extension_headers_are_parsed_nine_are_not(void **state)
{
	(void)state;
	for (unsigned int n = 0; n <= PACKET_MAX_EXTENSIONS + 1; n++) {
		struct frame f;
		struct packet p;

		frame_make(&f, samples[NO_NEXT6].hex);
		f.data[20] = n == 0 ? 59 : 60;
		word_put(f.data + 18, (uint16_t)(n * 8));
		for (unsigned int i = 1; i <= n; i++)
			hex_append(&f, i == n ? "3b00010400000000" : "3c00010400000000");
		if (n > PACKET_MAX_EXTENSIONS) {
			assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes),
					 PACKET_MALFORMED);
			continue;
		}
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_int_equal(p.flow.protocol, 59);
		assert_int_equal(p.l4, 54 + n * 8);
	}
}

static void
every_byte_of_a_flow_is_defined(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct frame f;
		struct packet a, b;
		struct flow inner_a, inner_b;

		memset(&a, 0x00, sizeof(a));
		memset(&b, 0xff, sizeof(b));
		memset(&inner_a, 0x00, sizeof(inner_a));
		memset(&inner_b, 0xff, sizeof(inner_b));
		frame_make(&f, samples[i].hex);
		assert_int_equal(packet_parse(&a, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_int_equal(packet_parse(&b, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_memory_equal(&a, &b, offsetof(struct packet, flow));
		assert_memory_equal(&a.flow, &b.flow, flow_bytes(&a.flow));
		if (packet_inner(&a, f.bytes, &inner_a) &&
		    packet_inner(&b, f.bytes, &inner_b))
			assert_memory_equal(&inner_a, &inner_b, flow_bytes(&inner_a));
	}
}

/* [B34] */
static void
fragments_say_which_part_they_are(void **state)
{
	static const struct {
		unsigned int sample;
		struct packet_part want;
	} cases[] = {
		{ FIRST4, { 7, 0, 16, true, PROTO_UDP } },
		{ LATER4, { 7, 16, 18, false, PROTO_UDP } },
		{ FIRST6, { 7, 0, 16, true, PROTO_UDP } },
		{ LATER6, { 7, 16, 18, false, PROTO_UDP } },
	};

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		const struct packet_part *want = &cases[i].want;
		struct packet_part part;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[cases[i].sample].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		packet_part(&p, &part);
		assert_int_equal(part.id, want->id);
		assert_int_equal(part.start, want->start);
		assert_int_equal(part.end, want->end);
		assert_int_equal(part.more, want->more);
		assert_int_equal(part.protocol, want->protocol);
	}
}

static void
tcp_fields_are_read_from_the_header(void **state)
{
	struct frame f;
	struct packet p;

	(void)state;
	frame_make(&f, samples[TCP4].hex);
	assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
	assert_int_equal(packet_tcp_seq(&p), 0x01020304);
	assert_int_equal(packet_tcp_ack(&p), 0x05060708);
	assert_int_equal(packet_tcp_window(&p), 0x1234);
	assert_int_equal(p.tcp_flags, TCP_SYN);
	assert_int_equal(packet_payload_bytes(&p), 0);
	frame_make(&f, samples[TCP4_OPTIONS].hex);
	assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
	assert_int_equal(p.tcp_flags, TCP_SYN | TCP_ACK);
	assert_int_equal(p.tcp_options, 20);
	assert_int_equal(packet_payload_bytes(&p), 5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_sample_is_parsed_and_its_checksum_is_right),
		cmocka_unit_test(errors_tell_the_flow_that_they_quote),
		cmocka_unit_test(no_packet_is_accepted_that_is_cut_short),
		cmocka_unit_test(lengths_that_contradict_are_malformed),
		cmocka_unit_test(one_wrong_bit_of_an_ip4_header_is_seen),
		cmocka_unit_test(two_tags_are_skipped_three_are_malformed),
		cmocka_unit_test(ip_is_not_hidden_by_an_802_3_header),
		cmocka_unit_test(eight_extension_headers_are_parsed_nine_are_not),
		cmocka_unit_test(every_byte_of_a_flow_is_defined),
		cmocka_unit_test(fragments_say_which_part_they_are),
		cmocka_unit_test(tcp_fields_are_read_from_the_header),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

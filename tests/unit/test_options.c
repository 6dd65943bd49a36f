/*
 * test_options.c - TCP options in, what they say out; and numbers that move with them.
 */
#include "net/packet.h"

#include "packet_samples.h"
#include "test_random.h"

static const struct {
	const char *name, *hex; /* Filled up with ends of the list. */
	bool ok;
	struct tcp_options want;
} cases[] = {
	{ "none", "", true, { .wscale = TCP_NO_WSCALE } },
	{ "padding", "01010101", true, { .wscale = TCP_NO_WSCALE } },
	{ "nothing counts behind the end",
	  "00020405b4",
	  true,
	  { .wscale = TCP_NO_WSCALE } },
	{ "a SYN of Linux",
	  "020405b40402080a0000000a0000000b01030307",
	  true,
	  { .mss = 1460,
	    .wscale = 7,
	    .sack_permitted = true,
	    .has_timestamp = true,
	    .timestamp = 10,
	    .timestamp_echo = 11 } },
	{ "a window scale of 0 is one", "030300", true, { .wscale = 0 } },
	{ "more than 14 is 14", "03030f", true, { .wscale = 14 } },
	{ "three SACK blocks behind a timestamp",
	  "0101080a0000000a0000000b"
	  "051a00000001000000020000000300000004fffffffe00000005",
	  true,
	  { .wscale = TCP_NO_WSCALE,
	    .has_timestamp = true,
	    .timestamp = 10,
	    .timestamp_echo = 11,
	    .n_sacks = 3,
	    .sack = { { 1, 2 }, { 3, 4 }, { 0xfffffffe, 5 } } } },
	{ "four SACK blocks",
	  "05220000000100000002000000030000000400000005000000060000000700000008",
	  true,
	  { .wscale = TCP_NO_WSCALE,
	    .n_sacks = 4,
	    .sack = { { 1, 2 }, { 3, 4 }, { 5, 6 }, { 7, 8 } } } },
	{ "unknown ones are skipped",
	  "1e04ffff22080102030405060303020101",
	  true,
	  { .wscale = 2 } },
	{ "an option without a length", "010101fe", false, { .wscale = TCP_NO_WSCALE } },
	{ "a length of 0", "02000405", false, { .wscale = TCP_NO_WSCALE } },
	{ "a length of 1", "fe010000", false, { .wscale = TCP_NO_WSCALE } },
	{ "one that ends behind the header",
	  "020405b4fe050101",
	  false,
	  { .mss = 1460, .wscale = TCP_NO_WSCALE } },
	{ "a short MSS", "02030500", false, { .wscale = TCP_NO_WSCALE } },
	{ "a long window scale", "03040700", false, { .wscale = TCP_NO_WSCALE } },
	{ "SACK permitted with a body", "04030000", false, { .wscale = TCP_NO_WSCALE } },
	{ "a short timestamp",
	  "0809000000000000ff000000",
	  false,
	  { .wscale = TCP_NO_WSCALE } },
	{ "half a SACK block", "0506000000010000", false, { .wscale = TCP_NO_WSCALE } },
	{ "no SACK block", "05020000", false, { .wscale = TCP_NO_WSCALE } },
};

/* A TCP segment with these options and a byte of payload; checksums are right. */
static void
segment_make(unsigned int sample, const struct frame *options, struct frame *f)
{
	const struct sample *s = &samples[sample];
	bool is_ip4 = s->protocol == PROTO_TCP && s->at.l4 == 34;
	unsigned int bytes = 20 + (options->bytes + 3) / 4 * 4 + 1;
	struct packet p;

	frame_make(f, s->hex);
	memset(f->data + s->at.l4 + 20, 0, 60);
	memcpy(f->data + s->at.l4 + 20, options->data, options->bytes);
	f->bytes = s->at.l4 + bytes;
	f->data[s->at.l4 + 12] = (uint8_t)((bytes - 1) / 4 << 4);
	f->data[f->bytes - 1] = 'x';
	word_put(f->data + 14 + (is_ip4 ? 2 : 4), (uint16_t)(bytes + (is_ip4 ? 20 : 0)));
	if (is_ip4)
		reference_ip4(f->data + 14);
	assert_int_equal(packet_parse(&p, f->data, f->bytes, f->bytes), PACKET_OK);
	reference_sums(&p);
}

static void
options_say_what_they_say(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame f, options = { .bytes = 0 };
		const struct tcp_options *want = &cases[i].want;
		struct tcp_options got;
		struct packet p;

		print_message("  %s\n", cases[i].name);
		hex_append(&options, cases[i].hex);
		segment_make(TCP4, &options, &f);

		uint8_t *copy = exact_copy(&f, f.bytes - 1);

		assert_int_equal(packet_parse(&p, copy, f.bytes - 1, f.bytes), PACKET_OK);
		memset(&got, 0xff, sizeof(got));
		assert_int_equal(packet_tcp_options(&p, &got), cases[i].ok);
		assert_int_equal(got.mss, want->mss);
		assert_int_equal(got.wscale, want->wscale);
		assert_int_equal(got.sack_permitted, want->sack_permitted);
		assert_int_equal(got.has_timestamp, want->has_timestamp);
		assert_int_equal(got.timestamp, want->timestamp);
		assert_int_equal(got.timestamp_echo, want->timestamp_echo);
		assert_int_equal(got.n_sacks, want->n_sacks);
		assert_memory_equal(got.sack, want->sack, sizeof(got.sack));
		free(copy);
	}
}

static void
what_is_not_tcp_has_none(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct tcp_options got;
		struct packet p;
		struct frame f;

		frame_make(&f, samples[i].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		assert_true(packet_tcp_options(&p, &got));
		assert_int_equal(got.mss, i == TCP4_OPTIONS ? 1460 : 0);
	}
}

static void
number_add(uint8_t *at, uint32_t by)
{
	uint32_t n = (uint32_t)word_at(at) << 16 | word_at(at + 2);

	n += by;
	word_put(at, (uint16_t)(n >> 16));
	word_put(at + 2, (uint16_t)n);
}

/* SACK blocks at an even and at an odd offset, behind 0 to 3 bytes of padding.  [B33] */
static void
numbers_move_together(void **state)
{
	struct test_random r = test_random_init("shift");

	(void)state;
	for (unsigned int i = 0; i < 200000; i++) {
		unsigned int sample = i & 1 ? TCP4 : TCP6, pad = i >> 1 & 3;
		unsigned int n_sacks = test_random_below(&r, 4);
		struct frame f, want, options = { .bytes = 0 };
		uint32_t seq = (uint32_t)test_random_u64(&r);
		uint32_t ack = (uint32_t)test_random_u64(&r);
		bool has_ack = test_random_below(&r, 4) != 0;
		struct packet p;

		for (unsigned int k = 0; k < pad; k++)
			hex_append(&options, "01");
		if (n_sacks > 0) {
			options.data[options.bytes++] = 5;
			options.data[options.bytes++] = (uint8_t)(2 + 8 * n_sacks);
			for (unsigned int k = 0; k < 8 * n_sacks; k++)
				options.data[options.bytes++] =
					(uint8_t)test_random_u64(&r);
		}
		segment_make(sample, &options, &f);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		f.data[p.l4 + 13] = has_ack ? TCP_ACK : TCP_SYN;
		reference_sums(&p);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		want = f;
		packet_shift_tcp(&p, seq, ack);

		uint8_t *tcp = want.data + p.l4;

		number_add(tcp + 4, seq);
		if (has_ack)
			number_add(tcp + 8, ack);
		for (unsigned int k = 0; k < 2 * n_sacks; k++)
			number_add(tcp + 20 + pad + 2 + 4 * k, ack);
		p.data = want.data;
		reference_sums(&p);
		assert_memory_equal(f.data, want.data, want.bytes);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_say_what_they_say),
		cmocka_unit_test(what_is_not_tcp_has_none),
		cmocka_unit_test(numbers_move_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

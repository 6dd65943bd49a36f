/*
 * test_rewrite.c - rewrites, held against checksums that are computed anew.
 */
#include "net/packet.h"

#include "packet_samples.h"

static uint32_t
random_next(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32);
}

/* Words of all zeros and all ones are what goes wrong: half of them are such. */
static void
random_words(void *out, uint32_t bytes)
{
	for (uint8_t *at = out; bytes >= 2; at += 2, bytes -= 2) {
		uint32_t r = random_next();

		word_put(at, r & 1 ? (uint16_t)(r >> 16) : r & 2 ? 0xffff : 0);
	}
}

static void
one_wrong_bit_behind_ip_is_a_wrong_checksum(void **state)
{
	static const unsigned int summed[] = { TCP4,       UDP4,       TCP6,
					       UDP6,       ECHO4,      ECHO6,
					       ERROR4_UDP, ERROR6_UDP, CHAIN6 };
	struct frame f;
	struct packet p;

	(void)state;
	for (unsigned int i = 0; i < sizeof(summed) / sizeof(summed[0]); i++) {
		frame_make(&f, samples[summed[i]].hex);
		for (unsigned int bit = 0; bit < f.bytes * 8; bit++) {
			f.data[bit / 8] ^= 1 << bit % 8;
			if (bit >= samples[summed[i]].at.l4 * 8U &&
			    packet_parse(&p, f.data, f.bytes, f.bytes) == PACKET_OK)
				assert_int_equal(packet_checksum_ok(&p),
						 bit / 8 >= p.end);
			f.data[bit / 8] ^= 1 << bit % 8;
		}
	}
	frame_make(&f, samples[UDP6].hex);
	assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
	word_put(f.data + p.l4 + 6, 0);
	assert_false(packet_checksum_ok(&p));
}

static void
an_updated_checksum_is_that_of_the_new_words(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 200000; i++) {
		uint8_t old[40], new[40], sum[2];
		uint32_t bytes = random_next() % 20 * 2;
		rte_be16_t word;

		random_words(old, sizeof(old));
		old[38] = 1; /* A sum over nothing but zeros has no second form. */
		memcpy(new, old, sizeof(new));
		random_words(new, bytes);
		word_put(sum, ~reference_sum(0, old, sizeof(old)));
		memcpy(&word, sum, sizeof(word));
		word = checksum_update(word, old, new, bytes);
		memcpy(sum, &word, sizeof(word));
		assert_int_equal(word_at(sum),
				 (uint16_t)~reference_sum(0, new, sizeof(new)));
	}
}

/* Rewrites both ends of a sample's copy; 'want' becomes what it has to be. */
static void
rewrite_random(struct packet *p, struct frame *want)
{
	struct packet q = *p;
	struct endpoint src = { .version = p->flow.version };
	struct endpoint dst = src;
	bool ports = p->flow.src_port != 0;
	bool query = p->flags & PACKET_ICMP_QUERY;
	unsigned int ip_bytes = src.version == 4 ? 4 : 16;
	uint8_t *ip = want->data + p->l3 + (src.version == 4 ? 12 : 8);

	random_words(src.ip6, ip_bytes);
	random_words(&src.port, sizeof(src.port));
	random_words(dst.ip6, ip_bytes);
	random_words(&dst.port, sizeof(dst.port));
	packet_set_src(p, &src);
	packet_set_dst(p, &dst);
	memcpy(ip, src.ip6, ip_bytes);
	memcpy(ip + ip_bytes, dst.ip6, ip_bytes);
	if (query) {
		memcpy(want->data + p->l4 + 4, &dst.port, 2);
	} else if (ports) {
		memcpy(want->data + p->l4, &src.port, 2);
		memcpy(want->data + p->l4 + 2, &dst.port, 2);
	}
	q.data = want->data;
	reference_sums(&q);
}

static void
a_rewrite_leaves_the_packet_as_if_sent_so(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < N_SAMPLES; i++) {
		struct frame f, want;
		struct packet p;
		struct flow before;

		frame_make(&f, samples[i].hex);
		want = f;
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		before = p.flow;
		for (unsigned int n = 0; n < 20000; n++) {
			rewrite_random(&p, &want);
			assert_memory_equal(f.data, want.data, f.bytes);
			assert_true(packet_checksum_ok(&p));
		}
		assert_memory_equal(&p.flow, &before, flow_bytes(&before));
	}
}

static void
every_port_leaves_the_checksum_as_if_computed(void **state)
{
	static const struct {
		unsigned int sample;
		uint16_t never, at_last; /* A form that it has not, and has. */
	} cases[] = {
		{ TCP4, 0xffff, 0x0000 },  { UDP4, 0x0000, 0xffff },
		{ TCP6, 0xffff, 0x0000 },  { UDP6, 0x0000, 0xffff },
		{ ECHO4, 0xffff, 0x0000 }, { ECHO6, 0xffff, 0x0000 },
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame f, want;
		struct packet p, q;
		struct endpoint to;
		bool seen = false;

		frame_make(&f, samples[cases[i].sample].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		q = p;
		q.data = want.data;
		flow_source(&p.flow, &to);
		for (uint32_t port = 0; port <= UINT16_MAX; port++) {
			to.port = rte_cpu_to_be_16((uint16_t)port);
			packet_set_src(&p, &to);
			want = f;
			reference_sums(&q);
			assert_memory_equal(f.data, want.data, f.bytes);

			uint16_t sum = word_at(f.data + sum_offset(&p));

			assert_int_not_equal(sum, cases[i].never);
			seen |= sum == cases[i].at_last;
		}
		assert_true(seen);
	}
}

static void
udp_without_a_checksum_stays_so(void **state)
{
	static const unsigned int udp[] = { UDP4, UDP6 };
	struct frame f, want;
	struct packet p;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		frame_make(&f, samples[udp[i]].hex);
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		word_put(f.data + sum_offset(&p), 0);
		want = f;
		for (unsigned int n = 0; n < 1000; n++) {
			rewrite_random(&p, &want);
			assert_memory_equal(f.data, want.data, f.bytes);
			assert_int_equal(word_at(f.data + sum_offset(&p)), 0);
		}
	}
}

/* The answer to a ping with identifier, sequence number and data 0: its sum is 0,
 * of which 0xffff is the only complement that a receiver takes. */
static void
an_echo_reply_of_zeros_has_a_checksum(void **state)
{
	struct frame f, want;
	struct packet p;
	struct endpoint to;

	(void)state;
	frame_make(&f, samples[ECHO_REPLY4].hex);
	assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
	memset(f.data + p.l4, 0, p.end - p.l4);
	reference_sums(&p);
	want = f;
	assert_int_equal(word_at(f.data + p.l4 + 2), 0xffff);
	flow_source(&p.flow, &to);
	for (uint32_t id = 0; id <= UINT16_MAX; id++) {
		to.port = rte_cpu_to_be_16((uint16_t)id);
		packet_set_dst(&p, &to);
		assert_true(packet_checksum_ok(&p));
	}
	flow_destination(&p.flow, &to);
	to.port = 0;
	packet_set_dst(&p, &to);
	assert_memory_equal(f.data, want.data, f.bytes);
}

static void
a_wrong_checksum_stays_wrong(void **state)
{
	static const unsigned int summed[] = { TCP4, UDP4, TCP6, UDP6, ECHO4, ECHO6 };
	struct frame f, unused;
	struct packet p;

	(void)state;
	for (unsigned int i = 0; i < sizeof(summed) / sizeof(summed[0]); i++) {
		frame_make(&f, samples[summed[i]].hex);
		f.data[samples[summed[i]].at.end - 1] ^= 1;
		assert_int_equal(packet_parse(&p, f.data, f.bytes, f.bytes), PACKET_OK);
		unused = f;
		for (unsigned int n = 0; n < 1000; n++) {
			rewrite_random(&p, &unused);
			assert_false(packet_checksum_ok(&p));
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_wrong_bit_behind_ip_is_a_wrong_checksum),
		cmocka_unit_test(an_updated_checksum_is_that_of_the_new_words),
		cmocka_unit_test(a_rewrite_leaves_the_packet_as_if_sent_so),
		cmocka_unit_test(every_port_leaves_the_checksum_as_if_computed),
		cmocka_unit_test(udp_without_a_checksum_stays_so),
		cmocka_unit_test(an_echo_reply_of_zeros_has_a_checksum),
		cmocka_unit_test(a_wrong_checksum_stays_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

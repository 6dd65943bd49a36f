/*
 * test_mtu.c - what is longer than a link takes, and the fragments that are made of it:
 * put together again here, they say what the one packet said.
 */
#include "pipe/mtu.h"

#include "packet_samples.h"
#include "pipe/eal.h"
#include "pipe/port.h"

enum {
	MAX_BYTES = 65600,
};

static struct rte_mempool *pool;
static uint8_t frame[MAX_BYTES], whole[MAX_BYTES], joined[MAX_BYTES];

/* The first bytes of a sample, and then as much data that the frame has 'bytes' bytes. */
static struct rte_mbuf *
frame_of(unsigned int sample, const char *options, uint32_t bytes, struct packet *p)
{
	const struct sample *s = &samples[sample];
	bool is_ip4 = s->protocol == PROTO_ICMP || s->at.l4 - s->at.l3 == 20;
	uint32_t n = (uint32_t)strlen(options) / 2, l4 = s->at.l4 + n;
	struct frame f, o = { .bytes = 0 };

	frame_make(&f, s->hex);
	hex_append(&o, options);
	memcpy(frame, f.data, s->at.l4);
	memcpy(frame + s->at.l4, o.data, n);
	memcpy(frame + l4, f.data + s->at.l4, s->at.payload - s->at.l4);
	for (uint32_t i = l4 + s->at.payload - s->at.l4; i < bytes; i++)
		frame[i] = (uint8_t)(i * 7 + i / 256);
	word_put(frame + s->at.l3 + (is_ip4 ? 2 : 4),
		 (uint16_t)(bytes - s->at.l3 - (is_ip4 ? 0 : 40)));
	if (s->protocol == PROTO_UDP)
		word_put(frame + l4 + 4, (uint16_t)(bytes - l4));
	if (is_ip4) {
		frame[s->at.l3] = (uint8_t)(0x45 + n / 4);
		reference_ip4(frame + s->at.l3);
	}
	assert_int_equal(packet_parse(p, frame, bytes, bytes), PACKET_OK);
	return port_packet(pool, NULL, 0, frame, bytes);
}

/* Puts fragments together; returns how many bytes there are behind IP. */
static uint32_t
join(struct rte_mbuf **part, unsigned int n, unsigned int mtu, bool more)
{
	uint32_t end = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint32_t bytes = part[i]->pkt_len;
		struct packet_part where = { .end = 0 };
		struct packet p;

		const void *at = rte_pktmbuf_read(part[i], 0, bytes, whole);

		if (at != whole)
			memcpy(whole, at, bytes);
		assert_int_equal(packet_parse(&p, whole, bytes, bytes), PACKET_OK);
		assert_int_equal(p.end, bytes);
		assert_true(bytes - p.l3 <= mtu);
		assert_true(p.flags & PACKET_FRAGMENT);
		packet_part(&p, &where);
		assert_int_equal(where.more, i + 1 < n || more);
		if (i == 0)
			end = where.start;
		assert_int_equal(where.start, end);
		assert_true(!where.more || (where.end - where.start) % 8 == 0);
		memcpy(joined + end, whole + bytes - (where.end - where.start),
		       where.end - where.start);
		end = where.end;
	}
	return end;
}

static const struct {
	const char *name;
	unsigned int sample, bytes, around, mtu;
	bool dont;
	enum mtu_fate want;
} fates[] = {
	{ "what is as long as the MTU fits", UDP4, 1514, 0, 1500, false, MTU_FITS },
	{ "also with DF", UDP4, 1514, 0, 1500, true, MTU_FITS },
	{ "one byte more does not", UDP4, 1515, 0, 1500, false, MTU_FRAGMENT },
	{ "and is refused with DF", UDP4, 1515, 0, 1500, true, MTU_TOO_BIG },
	{ "a tag does not count", TAGGED, 1518, 0, 1500, true, MTU_FITS },
	{ "a tunnel does", UDP4, 1494, 20, 1500, true, MTU_FITS },
	{ "as much as it has", UDP4, 1495, 20, 1500, true, MTU_TOO_BIG },
	{ "in front of fragments, too", UDP4, 1495, 20, 1500, false, MTU_FRAGMENT },
	{ "IPv6 fits", UDP6, 1514, 0, 1500, false, MTU_FITS },
	{ "or is refused", UDP6, 1515, 0, 1500, false, MTU_TOO_BIG },
};

/* [B12; U18] */
static void
test_what_is_too_long_is_refused_or_fragmented(void **state)
{
	for (unsigned int i = 0; i < RTE_DIM(fates); i++) {
		struct packet p;

		print_message("  %s\n", fates[i].name);
		rte_pktmbuf_free(frame_of(fates[i].sample, "", fates[i].bytes, &p));
		if (fates[i].dont)
			frame[p.l3 + 6] |= 0x40;
		assert_int_equal(mtu_fate(&p, fates[i].around, fates[i].mtu),
				 fates[i].want);
	}
}

static const struct {
	const char *name;
	unsigned int sample;
	const char *options;
	unsigned int bytes, mtu, want;
} cases[] = {
	{ "two fragments", UDP4, "", 1515, 1500, 2 },
	{ "three", TCP4, "", 3000, 1400, 3 },
	{ "behind a tag", TAGGED, "", 3000, 1400, 3 },
	{ "an MTU that is no multiple of 8", UDP4, "", 3000, 1407, 3 },
	{ "another protocol", GRE4, "", 2000, 1500, 2 },
	{ "options are in the first", UDP4, "0101010101010100", 2900, 1400, 3 },
	{ "or in all", UDP4, "8304010100000000", 4170, 1400, 4 },
	{ "the longest datagram", UDP4, "", 65549, 576, 119 },
	{ "the shortest link and the longest header", UDP4,
	  "8328010101010101010101010101010101010101010101010101010101010101010101010101"
	  "0101",
	  65549, 524, 142 },
	{ "fragments that are longer than a buffer", UDP4, "", 20000, 9000, 3 },
};

/* [B12] */
static void
test_fragments_are_the_datagram(void **state)
{
	for (unsigned int i = 0; i < RTE_DIM(cases); i++) {
		struct rte_mbuf *part[MTU_MAX_FRAGMENTS];
		struct packet p;
		struct rte_mbuf *m =
			frame_of(cases[i].sample, cases[i].options, cases[i].bytes, &p);

		print_message("  %s\n", cases[i].name);

		unsigned int n = mtu_fragment(m, &p, cases[i].mtu, part);

		assert_int_equal(n, cases[i].want);
		assert_int_equal(join(part, n, cases[i].mtu, false), p.end - p.l4);
		assert_memory_equal(joined, frame + p.l4, p.end - p.l4);
		rte_pktmbuf_free_bulk(part, n);
		rte_pktmbuf_free(m);
	}
}

/* Only options that are to be copied are in later fragments (RFC 791). */
static void
test_options_are_copied_that_say_so(void **state)
{
	struct rte_mbuf *part[MTU_MAX_FRAGMENTS];
	struct packet p;
	struct rte_mbuf *m = frame_of(UDP4, "01070304830305940400004404000000", 2900, &p);

	assert_int_equal(mtu_fragment(m, &p, 1400, part), 3);

	const uint8_t *first = rte_pktmbuf_mtod_offset(part[0], uint8_t *, p.l3);
	const uint8_t *later = rte_pktmbuf_mtod_offset(part[1], uint8_t *, p.l3);

	assert_int_equal(first[0], 0x49);
	assert_memory_equal(first + 20, frame + p.l3 + 20, 16);
	assert_int_equal(later[0], 0x47);
	assert_memory_equal(later + 20, "\x83\x03\x05\x94\x04\x00\x00\x00", 8);
	rte_pktmbuf_free_bulk(part, 3);
	rte_pktmbuf_free(m);
}

/* Of the first, of one in the middle, and of the last. */
static void
test_a_fragment_is_fragmented_further(void **state)
{
	for (unsigned int i = 0; i < 3; i++) {
		struct rte_mbuf *part[MTU_MAX_FRAGMENTS];
		uint32_t start = i * 2960;
		struct packet p;
		struct rte_mbuf *m = frame_of(UDP4, "", 14 + 20 + 2960, &p);
		uint8_t *ip = rte_pktmbuf_mtod_offset(m, uint8_t *, 14);

		word_put(ip + 6, (uint16_t)(start / 8 | (i < 2 ? 0x2000 : 0)));
		reference_ip4(ip);
		memcpy(frame + 14, ip, 20);
		assert_int_equal(packet_parse(&p, frame, p.end, p.end), PACKET_OK);

		unsigned int n = mtu_fragment(m, &p, 1500, part);

		assert_int_equal(n, 2);
		assert_int_equal(join(part, n, 1500, i < 2), start + 2960);
		assert_memory_equal(joined + start, frame + 34, 2960);
		rte_pktmbuf_free_bulk(part, n);
		rte_pktmbuf_free(m);
	}
}

static void
test_without_buffers_there_are_no_fragments(void **state)
{
	struct rte_mbuf *part[MTU_MAX_FRAGMENTS], *taken[512];
	unsigned int n_taken = 0;
	struct packet p;
	struct rte_mbuf *m = frame_of(UDP4, "", 60000, &p);

	while ((taken[n_taken] = rte_pktmbuf_alloc(pool)) != NULL)
		n_taken++;
	rte_pktmbuf_free_bulk(taken + n_taken - 5, 5);
	n_taken -= 5;
	assert_int_equal(mtu_fragment(m, &p, 1500, part), 0);
	assert_int_equal(rte_mempool_avail_count(pool), 5);
	rte_pktmbuf_free_bulk(taken, n_taken);
	rte_pktmbuf_free(m);
	assert_int_equal(rte_mempool_in_use_count(pool), 0);
}

static int
start(void **state)
{
	const struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 64 };
	char why[256];

	if (eal_start(&options, why, sizeof(why)) != 0)
		return -1;
	pool = rte_pktmbuf_pool_create("mtu", 511, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
				       SOCKET_ID_ANY);
	return pool != NULL ? 0 : -1;
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_too_long_is_refused_or_fragmented),
		cmocka_unit_test(test_fragments_are_the_datagram),
		cmocka_unit_test(test_options_are_copied_that_say_so),
		cmocka_unit_test(test_a_fragment_is_fragmented_further),
		cmocka_unit_test(test_without_buffers_there_are_no_fragments),
	};

	return cmocka_run_group_tests(tests, start, NULL);
}

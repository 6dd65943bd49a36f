/*
 * test_segment.c - one packet of many segments becomes many packets, each right, that
 * say together what the one said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/packet.h"
#include "pipe/eal.h"
#include "pipe/port.h"
#include "pipe/segment.h"

enum {
	MAX_BYTES = 70000,
	MAX_SEGMENTS = 64,
	TCP_CWR = 0x80,
};

static struct rte_mempool *pool;

static const struct {
	const char *name;
	unsigned int version, tags, options; /* Bytes of TCP options. */
	unsigned int payload, gso;
	unsigned int want;
} cases[] = {
	{ "IPv4", 4, 0, 0, 4000, 1460, 3 },
	{ "IPv6 with options", 6, 0, 12, 4000, 1428, 3 },
	{ "a VLAN tag", 4, 1, 12, 3000, 1448, 3 },
	{ "two VLAN tags over IPv6", 6, 2, 0, 3000, 1400, 3 },
	{ "an even multiple", 4, 0, 0, 2000, 1000, 2 },
	{ "one segment only", 4, 0, 0, 500, 1000, 1 },
	{ "64 KB", 4, 0, 12, 64240, 1448, 45 },
	{ "segments longer than a buffer", 4, 0, 0, 20000, 8948, 3 },
	{ "more than fit are cut off", 4, 0, 0, 10000, 100, MAX_SEGMENTS },
	{ "no size is no packet of ours", 4, 0, 0, 4000, 0, 0 },
};

/* A packet as the kernel hands it on; returns its length. */
static uint32_t
make(unsigned int i, uint8_t *data, struct virtio_net_hdr *h)
{
	static const uint8_t ip4[20] = { 0x45, 0,         0, 0, 0xff, 0xff, 0x40, 0, 64,
					 6,    [12] = 10, 0, 0, 1,    10,   0,    0, 2 };
	static const uint8_t ip6[40] = {
		0x60, [6] = 6, 64, 0xfd, [23] = 1, 0xfd, [39] = 2
	};
	static const uint8_t tag[4] = { 0x81, 0, 0, 7 };
	bool v6 = cases[i].version == 6;
	uint32_t at = 12, l4_bytes = 20 + cases[i].options + cases[i].payload;

	memset(data, 0, MAX_BYTES);
	for (unsigned int t = 0; t < cases[i].tags; t++, at += 4)
		memcpy(data + at, tag, sizeof(tag));
	data[at] = v6 ? 0x86 : 0x08;
	data[at + 1] = v6 ? 0xdd : 0x00;
	at += 2;
	uint32_t total = l4_bytes + (v6 ? 0 : 20);
	memcpy(data + at, v6 ? ip6 : ip4, v6 ? 40 : 20);
	data[at + (v6 ? 4 : 2)] = total >> 8;
	data[at + (v6 ? 5 : 3)] = total;
	at += v6 ? 40 : 20;
	*h = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6
						     : VIRTIO_NET_HDR_GSO_TCPV4,
				      .gso_size = cases[i].gso,
				      .csum_start = at,
				      .csum_offset = 16 };
	memcpy(data + at, (uint8_t[]){ 4, 0, 0, 80, 0xff, 0xff, 0xff, 0 }, 8);
	data[at + 12] = (20 + cases[i].options) << 2;
	data[at + 13] = TCP_ACK | TCP_PSH | TCP_FIN | TCP_CWR;
	memset(data + at + 20, 1, cases[i].options);
	at += 20 + cases[i].options;
	for (unsigned int j = 0; j < cases[i].payload; j++)
		data[at + j] = j * 7 + (j >> 8);
	return at + cases[i].payload;
}

static void
check(unsigned int i, const uint8_t *payload, struct rte_mbuf **out, unsigned int n)
{
	uint32_t done = 0;

	for (unsigned int j = 0; j < n; j++) {
		static uint8_t segment[MAX_BYTES];
		uint32_t bytes = out[j]->pkt_len;
		struct packet p;
		bool last = done + cases[i].gso >= cases[i].payload;

		assert_true(bytes <= sizeof(segment));
		const void *data = rte_pktmbuf_read(out[j], 0, bytes, segment);
		if (data != segment)
			memcpy(segment, data, bytes);
		assert_int_equal(packet_parse(&p, segment, bytes, bytes), PACKET_OK);
		assert_true(packet_checksum_ok(&p));
		assert_int_equal(p.end, bytes);
		assert_int_equal(packet_tcp_seq(&p), 0xffffff00 + done);
		assert_int_equal(!!(p.tcp_flags & TCP_FIN), last);
		assert_int_equal(!!(p.tcp_flags & TCP_PSH), last);
		assert_int_equal(!!(p.tcp_flags & TCP_CWR), j == 0);
		assert_memory_equal(p.data + p.payload, payload + done,
				    packet_payload_bytes(&p));
		done += packet_payload_bytes(&p);
	}
	if (n > 0 && n < MAX_SEGMENTS)
		assert_int_equal(done, cases[i].payload);
}

static void
test_segments(void **state)
{
	static uint8_t data[MAX_BYTES], before[MAX_BYTES];

	(void)state;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rte_mbuf *out[MAX_SEGMENTS];
		struct virtio_net_hdr h;
		uint32_t bytes = make(i, data, &h);

		print_message("  %s\n", cases[i].name);
		memcpy(before, data, bytes);
		unsigned int n = segment_tcp(pool, data, bytes, &h, out, MAX_SEGMENTS);
		assert_int_equal(n, cases[i].want);
		check(i, before + bytes - cases[i].payload, out, n);
		rte_pktmbuf_free_bulk(out, n);
		assert_int_equal(rte_mempool_avail_count(pool), pool->size);
	}
}

/* Whatever the header says, nothing beyond the packet is touched: the sanitizer's to
 * see. */
static void
test_lies(void **state)
{
	(void)state;
	for (unsigned int start = 0; start < 80; start++) {
		for (unsigned int offset = 0; offset < 20; offset++) {
			uint8_t data[60] = { [12] = 8, [14] = 0x45, [23] = 6 };
			struct rte_mbuf *out[MAX_SEGMENTS];
			struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						    .gso_size = 10,
						    .csum_start = start,
						    .csum_offset = offset };

			data[46] = offset << 4;
			segment_checksum(data, sizeof(data), &h);
			unsigned int n = segment_tcp(pool, data, sizeof(data), &h, out,
						     MAX_SEGMENTS);
			rte_pktmbuf_free_bulk(out, n);
		}
	}
}

static void
test_checksum(void **state)
{
	static uint8_t data[MAX_BYTES];
	struct virtio_net_hdr h;
	struct packet p;

	(void)state;
	uint32_t bytes = make(1, data, &h);
	/* The pseudo header's sum: addresses, protocol and length. */
	uint32_t sum = 0xfd00 + 1 + 0xfd00 + 2 + PROTO_TCP + (bytes - 54);
	sum = (sum & 0xffff) + (sum >> 16);
	data[54 + 16] = sum >> 8;
	data[54 + 17] = sum;
	segment_checksum(data, bytes, &h);
	assert_int_equal(packet_parse(&p, data, bytes, bytes), PACKET_OK);
	assert_true(packet_checksum_ok(&p));
}

/* An INIT, whose checksum scapy has made. */
static void
test_a_checksum_of_sctp(void **state)
{
	static const uint8_t init[] = {
		0x03, 0xe8, 0x00, 0x50, 0x00, 0x00, 0x00, 0x00, 0x16, 0x3a,
		0xc8, 0xcc, 0x01, 0x00, 0x00, 0x14, 0x12, 0x34, 0x56, 0x78,
		0x00, 0x01, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x0a, 0x00, 0x00,
		0x00, 0x01,
	};
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .csum_start = 34, .csum_offset = 8 };
	uint8_t data[34 + sizeof(init)] = { [12] = 8, [14] = 0x45, [23] = 132 };

	(void)state;
	memcpy(data + 34, init, sizeof(init));
	memset(data + 34 + 8, 0x5a, 4);
	segment_checksum(data, sizeof(data), &h);
	assert_memory_equal(data + 34, init, sizeof(init));
}

static int
setup(void **state)
{
	const struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 64 };
	char why[256];

	(void)state;
	if (eal_start(&options, why, sizeof(why)) != 0)
		return -1;
	pool = rte_pktmbuf_pool_create("test", 255, 0, 0, 2048 + RTE_PKTMBUF_HEADROOM,
				       SOCKET_ID_ANY);
	return pool == NULL ? -1 : 0;
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_checksum),
		cmocka_unit_test(test_a_checksum_of_sctp),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}

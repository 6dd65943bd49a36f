/*
 * gen.h - the synthetic source: what gen.c (flows, ports) and gen_frame.c (bytes)
 * share.
 */
#ifndef PIPE_GEN_H
#define PIPE_GEN_H

#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_mbuf.h>
#include <rte_memcpy.h>

#include "net/packet.h"

enum {
	GEN_MIN_FRAME = 60,			/* Ethernet's, without the FCS. */
	GEN_MAX_FRAME = 1514,
	GEN_FCS = 4,
	GEN_FIRST_PORT = 1024,
	GEN_PORTS = 65536 - GEN_FIRST_PORT,
	GEN_FIRST_HOST = 10 << 24 | 1,		/* 10.0.0.1, fd00:0:0:1::a00:1 */
	GEN_MAX_HOSTS = 1 << 20,		/* Of one queue. */
	GEN_MAX_FLOWS = 1 << 24,
	/* The answering end acknowledges data each time its sequence number enters
	 * another such range: less than its first window of 65535, which is not scaled,
	 * and far less than the ones of 65535 << 14 behind that. */
	GEN_ACK_SHIFT = 15,
};

/* What the first byte of a UDP payload says. */
enum gen_mark {
	GEN_DATA,
	GEN_OPEN,				/* Please answer. */
	GEN_ANSWER,
};

struct gen_options {
	uint64_t size, flows, hosts, packets, seed, rate, total;
	uint64_t port;				/* Of the answering end. */
	bool udp, ipv6;
	uint8_t to[16];				/* Its address. */
};

/* Where things are in a frame, and what they are in all frames alike. */
struct gen_frame {
	uint8_t data[2048] __rte_cache_aligned;
	bool udp, ipv6;
	uint16_t bytes, payload_bytes;
	uint16_t l4, src_host, dst_host;	/* Offsets; a host is 4 bytes. */
	uint16_t ip_sum, l4_sum;		/* Of 'data', not complemented. */
};

/* One connection of a client's.  Sums are of 16-bit words as they lie in memory, so
 * that no byte order matters. */
struct gen_flow {
	rte_be32_t host;			/* The end of the client's address. */
	rte_be16_t port;
	rte_be16_t ip_sum;			/* IPv4 header checksum. */
	uint32_t sum;				/* Of all in the L4 checksum but 'seq'. */
	uint32_t seq;				/* Next to send. */
	rte_be32_t ack;
	uint32_t left;				/* Data packets before it closes. */
	uint32_t due;				/* When to try again. */
	uint16_t generation;
	uint8_t state, tries;
};

static_assert(sizeof(struct gen_flow) == 32, "two flows in a cache line");

/* Reads "size=64,flows=1000"; what is absent has its default. */
bool gen_options_read(const char *text, struct gen_options *out, char *why,
		      size_t why_bytes);

void gen_frame_init(struct gen_frame *f, const struct gen_options *options);
/* The parts of a flow's checksums that stay; after host, port or ack changed. */
void gen_flow_sum(const struct gen_frame *f, struct gen_flow *flow);

/* A TCP segment without data from the flow's client, or its opening UDP packet. */
void gen_control(const struct gen_frame *f, const struct gen_flow *flow,
		 struct rte_mbuf *m, uint8_t tcp_flags);
/* Makes of a packet received by the outside end the answer to it. */
void gen_answer(const struct gen_frame *f, struct rte_mbuf *m, uint8_t tcp_flags,
		uint32_t seq, uint32_t ack);
/* Whether the IPv4 and L4 checksums are right and the lengths fit the buffer. */
bool gen_frame_ok(const struct gen_frame *f, const struct rte_mbuf *m);

/* Of a TCP packet that is all right otherwise. */
bool gen_has_payload(const struct gen_frame *f, const uint8_t *data);

/* Whether it is a packet of this kind, its headers at the usual offsets. */
static __rte_always_inline bool
gen_frame_is_ours(const struct rte_mbuf *m, const uint8_t *data, bool ipv6, bool udp)
{
	uint8_t protocol = udp ? PROTO_UDP : PROTO_TCP;
	uint16_t type;

	memcpy(&type, data + 12, sizeof(type));
	if (m->data_len < GEN_MIN_FRAME)
		return false;
	if (ipv6)
		return type == RTE_BE16(RTE_ETHER_TYPE_IPV6) && data[20] == protocol &&
		       m->data_len >= 54 + (udp ? 9 : 20);
	return type == RTE_BE16(RTE_ETHER_TYPE_IPV4) && data[14] == 0x45 &&
	       data[23] == protocol;
}

static __rte_always_inline void
gen_mbuf_init(struct rte_mbuf *m, uint16_t bytes)
{
	m->data_off = RTE_PKTMBUF_HEADROOM;
	m->ol_flags = 0;
	m->packet_type = 0;
	m->pkt_len = bytes;
	m->data_len = bytes;
	m->vlan_tci = 0;
	m->hash.rss = 0;
}

/* A data packet.  All that depends on 'ipv6' and 'udp' is known when it is compiled:
 * a branch less for each of tens of millions of packets a second. */
static __rte_always_inline void
gen_data(const struct gen_frame *f, struct gen_flow *flow, struct rte_mbuf *m, bool ipv6,
	 bool udp)
{
	const unsigned int l4 = ipv6 ? 54 : 34;
	uint8_t *d = (uint8_t *)m->buf_addr + RTE_PKTMBUF_HEADROOM;
	uint32_t sum = flow->sum;

	gen_mbuf_init(m, f->bytes);
	rte_mov64(d, f->data);
	if (f->bytes > 64)
		rte_memcpy(d + 64, f->data + 64, f->bytes - 64);
	memcpy(d + (ipv6 ? 34 : 26), &flow->host, 4);
	memcpy(d + l4, &flow->port, 2);
	if (!ipv6)
		memcpy(d + 24, &flow->ip_sum, 2);
	if (!udp) {
		rte_be32_t seq = rte_cpu_to_be_32(flow->seq);

		memcpy(d + l4 + 4, &seq, 4);
		memcpy(d + l4 + 8, &flow->ack, 4);
		sum += (seq & 0xffff) + (seq >> 16);
		flow->seq += f->payload_bytes;
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	uint16_t check = ~sum;
	if (udp && check == 0)
		check = 0xffff;
	memcpy(d + l4 + (udp ? 6 : 16), &check, 2);
}

#endif

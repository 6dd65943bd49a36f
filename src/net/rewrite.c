/*
 * rewrite.c - checksums, and changes to a packet that keep them right.
 *
 * A rewrite reads the old bytes from the packet itself, so that one may follow
 * another, and changes the checksum by the difference alone (RFC 1624): a packet
 * that arrived with a wrong checksum leaves with a wrong one.  All lengths were
 * checked by packet_parse().
 */
#include "net/packet.h"

#include <assert.h>

#include "net/wire.h"

/* What the change of 'from' into 'to' adds to a sum (RFC 1624: ~m + m'). */
static inline uint64_t
sum_change(const uint8_t *from, const uint8_t *to, unsigned int bytes)
{
	uint64_t change = 0;

	for (; bytes >= sizeof(uint32_t); bytes -= sizeof(uint32_t)) {
		change += (uint64_t)~load_32(from) + load_32(to);
		from += sizeof(uint32_t);
		to += sizeof(uint32_t);
	}
	if (bytes != 0)
		change += (uint16_t)~load_16(from) + load_16(to);
	return change;
}

/* A checksum after its sum has changed (RFC 1624, equation 3). */
static inline uint16_t
sum_apply(uint16_t checksum, uint64_t change)
{
	return (uint16_t)~sum_fold((uint16_t)~checksum + change);
}

rte_be16_t
checksum_update(rte_be16_t sum, const void *from, const void *to, unsigned int bytes)
{
	return sum_apply(sum, sum_change(from, to, bytes));
}

/* The sum of the pseudo header of RFC 9293 and RFC 8200. */
static uint64_t
sum_pseudo(const struct packet *p, uint32_t bytes)
{
	const uint8_t *ip = p->data + p->l3;
	uint64_t sum = rte_cpu_to_be_32(bytes);

	sum += rte_cpu_to_be_16(p->flow.protocol);
	if (p->flow.version == 4)
		return sum + sum_bytes(ip + IP4_SRC, sizeof(p->flow.ip4));
	return sum + sum_bytes(ip + IP6_SRC, sizeof(p->flow.ip6));
}

bool
packet_checksum_ok(const struct packet *p)
{
	const uint8_t *l4 = p->data + p->l4;
	uint32_t bytes = p->end - p->l4;
	uint64_t sum = 0;

	if (p->flags & PACKET_FRAGMENT)
		return true;
	switch (flow_transport(&p->flow)) {
	case PROTO_UDP:
		if (load_16(l4 + UDP_SUM) == 0)
			return p->flow.version == 4;
		/* IP may carry more behind the UDP datagram: it is not summed. */
		bytes = load_be16(l4 + UDP_LENGTH);
		sum = sum_pseudo(p, bytes);
		break;
	case PROTO_TCP:
	case PROTO_ICMP6:
		sum = sum_pseudo(p, bytes);
		break;
	case PROTO_ICMP:
		break;
	default:
		return true;
	}
	return sum_fold(sum + sum_bytes(l4, bytes)) == UINT16_MAX;
}

/* Stores 'to' at 'at'; returns what that adds to a sum. */
static inline uint64_t
replace(uint8_t *at, const void *to, unsigned int bytes)
{
	uint64_t change = sum_change(at, to, bytes);

	memcpy(at, to, bytes);
	return change;
}

static inline void
store_16(uint8_t *at, uint16_t word)
{
	memcpy(at, &word, sizeof(word));
}

static inline void
rewrite_sum(uint8_t *sum, uint64_t change)
{
	store_16(sum, sum_apply(load_16(sum), change));
}

/* 0 stands for "no checksum" in UDP, and stays: over IPv6 as well, where RFC 6936
 * asks middle boxes to leave it alone.  A sum that comes out as 0 is sent as its
 * other form, 0xffff (RFC 768). */
static inline void
rewrite_udp_sum(uint8_t *udp, uint64_t change)
{
	uint16_t sum = load_16(udp + UDP_SUM);

	if (sum == 0)
		return;
	sum = sum_apply(sum, change);
	store_16(udp + UDP_SUM, sum == 0 ? UINT16_MAX : sum);
}

/* ICMP has no pseudo header, so its bytes may all be 0: then only 0xffff is right,
 * which equation 3 cannot know.  Where the header is 0 but for the sum, 0xffff is
 * right whatever follows. */
static inline void
rewrite_icmp_sum(uint8_t *icmp, uint64_t change)
{
	static const uint8_t zero[ICMP_BYTES];

	rewrite_sum(icmp + ICMP_SUM, change);
	if (memcmp(icmp, zero, ICMP_BYTES) == 0)
		store_16(icmp + ICMP_SUM, UINT16_MAX);
}

/* Rewrites port or identifier and the sum over them, after the addresses' change. */
static inline void
rewrite_transport(struct packet *p, unsigned int port_at, const rte_be16_t *port,
		  uint64_t change)
{
	uint8_t *l4 = p->data + p->l4;
	bool query = p->flags & PACKET_ICMP_QUERY;

	switch (flow_transport(&p->flow)) {
	case PROTO_TCP:
		change += replace(l4 + port_at, port, sizeof(*port));
		rewrite_sum(l4 + TCP_SUM, change);
		break;
	case PROTO_UDP:
		change += replace(l4 + port_at, port, sizeof(*port));
		rewrite_udp_sum(l4, change);
		break;
	case PROTO_ICMP:
		if (query)
			rewrite_icmp_sum(l4, replace(l4 + ICMP_ID, port, sizeof(*port)));
		break;
	case PROTO_ICMP6:
		if (query)
			change += replace(l4 + ICMP_ID, port, sizeof(*port));
		rewrite_sum(l4 + ICMP_SUM, change);
		break;
	}
}

static inline void
rewrite(struct packet *p, unsigned int ip4_at, unsigned int ip6_at, unsigned int port_at,
	const struct endpoint *to)
{
	uint8_t *ip = p->data + p->l3;
	uint64_t change;

	assert(to->version == p->flow.version);
	if (p->flow.version == 4) {
		change = replace(ip + ip4_at, &to->ip4, sizeof(to->ip4));
		rewrite_sum(ip + IP4_SUM, change);
	} else {
		change = replace(ip + ip6_at, to->ip6, sizeof(to->ip6));
	}
	if (!(p->flags & PACKET_LATER_FRAGMENT))
		rewrite_transport(p, port_at, &to->port, change);
}

void
packet_set_src(struct packet *p, const struct endpoint *to)
{
	rewrite(p, IP4_SRC, IP6_SRC, SRC_PORT, to);
}

void
packet_set_dst(struct packet *p, const struct endpoint *to)
{
	rewrite(p, IP4_DST, IP6_DST, DST_PORT, to);
}

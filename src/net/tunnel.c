/*
 * tunnel.c - see tunnel.h.
 *
 * The UDP checksum of GUE is 0, "none", over both versions of IP: what is inside has its
 * own (RFC 6935), and the packet need not be read for it.
 */
#include "net/tunnel.h"

#include <assert.h>

#include "net/sums.h"

enum {
	PROTO_IP4 = 4,
	PROTO_IP6 = 41,
	GUE_BYTES = 4,
	GUE_PROTOCOL = 1,
	EPHEMERAL = 0xc000, /* The lowest of the dynamic ports (RFC 6335). */
};

unsigned int
tunnel_bytes(enum tunnel kind, uint8_t version)
{
	unsigned int ip = version == 4 ? IP4_BYTES : IP6_BYTES;

	switch (kind) {
	case TUNNEL_IPIP:
		return ip;
	case TUNNEL_GUE:
		return ip + UDP_BYTES + GUE_BYTES;
	default:
		return 0;
	}
}

/* A number by which routers may tell inner flows apart (RFC 6438): the same for all
 * packets of a flow in one direction. */
static uint32_t
entropy(const struct flow *f)
{
	const uint8_t *at = (const uint8_t *)f;
	uint64_t h = 0;

	for (unsigned int i = 0; i < flow_bytes(f); i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, at + i, sizeof(word));
		h = (h ^ word) * 0x9e3779b97f4a7c15u;
		h ^= h >> 32;
	}
	return (uint32_t)h;
}

static_assert(FLOW4_BYTES % 8 == 0 && FLOW6_BYTES % 8 == 0, "a flow is whole words");

static void
put_ip4(uint8_t *ip, const struct endpoint *src, const struct endpoint *dst,
	uint32_t bytes)
{
	ip[0] = 0x45;
	store_be16(ip + IP4_TOTAL, bytes);
	store_16(ip + IP4_ID, 0); /* Of what is never fragmented (RFC 6864, 4.1). */
	store_be16(ip + IP4_FRAGMENT, IP4_DONT);
	memcpy(ip + IP4_SRC, &src->ip4, sizeof(src->ip4));
	memcpy(ip + IP4_DST, &dst->ip4, sizeof(dst->ip4));
}

static void
put_ip6(uint8_t *ip, const struct endpoint *src, const struct endpoint *dst,
	uint32_t bytes)
{
	store_be16(ip + IP6_PAYLOAD, bytes - IP6_BYTES);
	memcpy(ip + IP6_SRC, src->ip6, sizeof(src->ip6));
	memcpy(ip + IP6_DST, dst->ip6, sizeof(dst->ip6));
}

/* The outer IP header, of a datagram of 'bytes' bytes. */
static void
put_ip(uint8_t *ip, const struct packet *p, uint8_t protocol, const struct endpoint *src,
       const struct endpoint *dst, uint32_t bytes)
{
	const uint8_t *inner = p->data + p->l3;
	bool is_ip4 = p->flow.version == 4;
	uint8_t tos = is_ip4 ? inner[IP4_TOS] : (uint8_t)(load_be16(inner) >> 4);
	uint8_t ttl = inner[is_ip4 ? IP4_TTL : IP6_HOPS];

	if (dst->version == 4) {
		put_ip4(ip, src, dst, bytes);
		ip[IP4_TOS] = tos;
		ip[IP4_TTL] = ttl;
		ip[IP4_PROTOCOL] = protocol;
		make_ip4_sum(ip);
	} else {
		store_be32(ip, 6U << 28 | (uint32_t)tos << 20 |
				       (entropy(&p->flow) & 0xfffff));
		put_ip6(ip, src, dst, bytes);
		ip[IP6_NEXT] = protocol;
		ip[IP6_HOPS] = ttl;
	}
}

static void
put_gue(uint8_t *udp, const struct packet *p, uint8_t protocol, rte_be16_t src_port,
	rte_be16_t dst_port, uint32_t bytes)
{
	static const uint8_t no_flags[GUE_BYTES];

	if (src_port == 0)
		store_be16(udp + SRC_PORT, EPHEMERAL | (entropy(&p->flow) >> 16));
	else
		store_16(udp + SRC_PORT, src_port);
	store_16(udp + DST_PORT, dst_port);
	store_be16(udp + UDP_LENGTH, bytes);
	store_16(udp + UDP_SUM, 0);
	memcpy(udp + UDP_BYTES, no_flags, sizeof(no_flags));
	udp[UDP_BYTES + GUE_PROTOCOL] = protocol;
}

uint8_t *
tunnel_put(struct packet *p, enum tunnel kind, const struct endpoint *src,
	   const struct endpoint *dst)
{
	unsigned int more = tunnel_bytes(kind, dst->version);
	unsigned int ip_bytes = dst->version == 4 ? IP4_BYTES : IP6_BYTES;
	uint8_t inner = p->flow.version == 4 ? PROTO_IP4 : PROTO_IP6;
	uint8_t *start = p->data - more, *ip = start + p->l3;
	uint32_t bytes = more + p->end - p->l3;

	assert(src->version == dst->version);
	if (kind == TUNNEL_NONE)
		return p->data;
	memmove(start, p->data, p->l3);
	store_be16(ip - 2, dst->version == 4 ? TYPE_IP4 : TYPE_IP6);
	if (kind == TUNNEL_GUE)
		put_gue(ip + ip_bytes, p, inner, src->port, dst->port, bytes - ip_bytes);
	put_ip(ip, p, kind == TUNNEL_GUE ? PROTO_UDP : inner, src, dst, bytes);
	return start;
}

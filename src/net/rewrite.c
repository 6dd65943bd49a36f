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

#include "net/sums.h"

rte_be16_t
checksum_update(rte_be16_t sum, const void *from, const void *to, unsigned int bytes)
{
	return sum_apply(sum, sum_change(from, to, bytes));
}

bool
packet_checksum_ok(const struct packet *p)
{
	const uint8_t *ip = p->data + p->l3, *l4 = p->data + p->l4;
	uint8_t protocol = flow_transport(&p->flow);
	uint32_t bytes = p->end - p->l4;
	uint64_t sum = 0;

	if (p->flags & PACKET_FRAGMENT)
		return true;
	switch (protocol) {
	case PROTO_UDP:
		if (load_16(l4 + UDP_SUM) == 0)
			return p->flow.version == 4;
		/* IP may carry more behind the UDP datagram: it is not summed. */
		bytes = load_be16(l4 + UDP_LENGTH);
		sum = sum_pseudo(ip, protocol, bytes);
		break;
	case PROTO_TCP:
	case PROTO_ICMP6:
		sum = sum_pseudo(ip, protocol, bytes);
		break;
	case PROTO_ICMP:
		break;
	default:
		return true;
	}
	return sum_fold(sum + sum_bytes(l4, bytes)) == UINT16_MAX;
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

void
packet_shift_id(struct packet *p, uint16_t id)
{
	uint8_t *ip = p->data + p->l3;
	rte_be16_t shifted = rte_cpu_to_be_16((uint16_t)(load_be16(ip + IP4_ID) + id));

	rewrite_sum(ip + IP4_SUM, replace(ip + IP4_ID, &shifted, sizeof(shifted)));
}

/*
 * quoted.c - rewrites of the packet that an ICMP error quotes (RFC 5508, 4.2).
 *
 * The error's own checksum is over the quotation, the checksums in it included: whatever
 * changes there is added up on the way and changes it once.  What a quotation claims of
 * lengths behind its end is not believed, nor needed.
 */
#include "net/packet.h"

#include <assert.h>

#include "net/sums.h"

/* Applies 'change' to the checksum at 'sum' by 'apply'; returns what that adds to the sum
 * around it. */
static uint64_t
quoted_sum(uint8_t *sum, uint8_t *header, void (*apply)(uint8_t *, uint64_t),
	   uint64_t change)
{
	uint16_t before = load_16(sum), after;

	apply(header, change);
	after = load_16(sum);
	return (uint64_t)(uint16_t)~before + after;
}

/* Rewrites what is quoted of a transport header, after the addresses' change.  A TCP
 * header may end before its checksum.  Returns what its own changes add to the sum around
 * it. */
static uint64_t
quoted_transport(const struct packet *q, unsigned int port_at, const rte_be16_t *port,
		 uint64_t change)
{
	uint8_t *l4 = q->data + q->l4;
	uint64_t own;

	switch (flow_transport(&q->flow)) {
	case PROTO_TCP:
		own = replace(l4 + port_at, port, sizeof(*port));
		if (q->end - q->l4 < TCP_SUM + 2)
			return own;
		return own +
		       quoted_sum(l4 + TCP_SUM, l4 + TCP_SUM, rewrite_sum, change + own);
	case PROTO_UDP:
		own = replace(l4 + port_at, port, sizeof(*port));
		return own + quoted_sum(l4 + UDP_SUM, l4, rewrite_udp_sum, change + own);
	case PROTO_ICMP:
		own = replace(l4 + ICMP_ID, port, sizeof(*port));
		return own + quoted_sum(l4 + ICMP_SUM, l4, rewrite_icmp_sum, own);
	case PROTO_ICMP6:
		own = replace(l4 + ICMP_ID, port, sizeof(*port));
		return own + quoted_sum(l4 + ICMP_SUM, l4 + ICMP_SUM, rewrite_sum,
					change + own);
	default:
		return 0;
	}
}

static void
rewrite_quoted(struct packet *p, uint32_t head_bytes, unsigned int ip4_at,
	       unsigned int ip6_at, unsigned int port_at, const struct endpoint *to)
{
	struct packet q;
	uint64_t address, rest = 0;

	assert(to->version == p->flow.version);
	if (!packet_quote(p, head_bytes, &q))
		return;

	uint8_t *ip = q.data + q.l3;

	if (q.flow.version == 4) {
		address = replace(ip + ip4_at, &to->ip4, sizeof(to->ip4));
		rest = quoted_sum(ip + IP4_SUM, ip + IP4_SUM, rewrite_sum, address);
	} else {
		address = replace(ip + ip6_at, to->ip6, sizeof(to->ip6));
	}
	rest += quoted_transport(&q, port_at, &to->port, address);
	/* The type of an error is not 0, so this sum never is one over zeros. */
	rewrite_sum(p->data + p->l4 + ICMP_SUM, address + rest);
}

void
packet_set_quoted_src(struct packet *p, uint32_t head_bytes, const struct endpoint *to)
{
	rewrite_quoted(p, head_bytes, IP4_SRC, IP6_SRC, SRC_PORT, to);
}

void
packet_set_quoted_dst(struct packet *p, uint32_t head_bytes, const struct endpoint *to)
{
	rewrite_quoted(p, head_bytes, IP4_DST, IP6_DST, DST_PORT, to);
}

const uint8_t *
packet_quoted_transport(const struct packet *p, uint32_t head_bytes)
{
	struct packet q;

	if (!packet_quote(p, head_bytes, &q) || q.end - q.l4 < QUOTED_BYTES)
		return NULL;
	return q.data + q.l4;
}

void
packet_shift_quoted(struct packet *p, uint32_t head_bytes, uint32_t seq)
{
	struct packet q;

	if (!packet_quote(p, head_bytes, &q) || flow_transport(&q.flow) != PROTO_TCP)
		return;

	uint8_t *tcp = q.data + q.l4;
	rte_be32_t to = rte_cpu_to_be_32(rte_be_to_cpu_32(load_32(tcp + TCP_SEQ)) + seq);
	uint64_t change = replace(tcp + TCP_SEQ, &to, sizeof(to));

	if (q.end - q.l4 >= TCP_SUM + 2)
		change += quoted_sum(tcp + TCP_SUM, tcp + TCP_SUM, rewrite_sum, change);
	rewrite_sum(p->data + p->l4 + ICMP_SUM, change);
}

bool
packet_quoted_ok(const struct packet *p, uint32_t head_bytes)
{
	struct packet q;

	if ((p->flags & PACKET_FRAGMENT) || p->end > head_bytes ||
	    !packet_quote(p, head_bytes, &q) || !packet_checksum_ok(p))
		return false;
	if (q.flow.version != 4)
		return true;

	const uint8_t *ip = q.data + q.l3;

	return sum_fold(sum_bytes(ip, (ip[0] & 0x0f) * 4U)) == UINT16_MAX;
}

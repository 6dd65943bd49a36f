/*
 * fuzz_packet.c - any bytes as a packet: parsed, rewritten and put back.
 *
 * The input is two new endpoints and how much of the packet can be read, then the
 * packet.  It is copied to where nothing lies behind it.
 */
#include <assert.h>
#include <stdlib.h>

#include "net/packet.h"

struct control {
	uint8_t src[18], dst[18]; /* Address and port. */
	uint8_t cut;              /* Bytes that lie in another buffer. */
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

static void
endpoint_take(struct endpoint *e, const uint8_t *from, uint8_t version)
{
	*e = (struct endpoint){ .version = version };
	memcpy(e->ip6, from, version == 4 ? sizeof(e->ip4) : sizeof(e->ip6));
	memcpy(&e->port, from + sizeof(e->ip6), sizeof(e->port));
}

static void
check_offsets(const struct packet *p, uint32_t head_bytes, uint32_t bytes)
{
	assert(p->l3 >= 14 && p->l3 <= 22);
	assert(p->payload >= p->l3 + (p->flow.version == 4 ? 20 : 40));
	assert(p->payload <= head_bytes);
	assert(p->payload <= p->end && p->end <= bytes);
	assert(p->flow.version == 4 || p->flow.version == 6);
	assert(p->flow.zone == 0);
	if (p->flags & PACKET_LATER_FRAGMENT) {
		assert(p->flags & PACKET_FRAGMENT);
		assert(p->l4 == 0 && p->flow.src_port == 0 && p->flow.dst_port == 0);
	} else {
		assert(p->l4 > p->l3 && p->l4 <= p->payload);
	}
	if (p->flow.protocol == PROTO_TCP && p->l4 != 0) {
		assert(p->payload - p->l4 == 20 + p->tcp_options);
		(void)packet_tcp_seq(p);
		(void)packet_tcp_ack(p);
		(void)packet_tcp_window(p);
	}
}

/* A checksum is a number modulo 0xffff: 0 and 0xffff are the same. */
static bool
same_but_for_zero(const uint8_t *a, const uint8_t *b, uint32_t at)
{
	unsigned int x = a[at] << 8 | a[at + 1], y = b[at] << 8 | b[at + 1];

	return x % 0xffff == y % 0xffff;
}

/* Whether two packets are the same but for the form of their checksums. */
static bool
packets_equal(const struct packet *p, const uint8_t *a, uint8_t *b, uint32_t bytes)
{
	uint32_t sums[2] = { 0 };

	if (p->flow.version == 4)
		sums[0] = p->l3 + 10U;
	if (p->l4 != 0 && p->flow.protocol == PROTO_TCP)
		sums[1] = p->l4 + 16U;
	if (p->l4 != 0 && p->flow.protocol == PROTO_UDP)
		sums[1] = p->l4 + 6U;
	if (p->l4 != 0 &&
	    (p->flow.protocol == PROTO_ICMP6 || p->flow.protocol == PROTO_ICMP))
		sums[1] = p->l4 + 2U;
	for (unsigned int i = 0; i < 2; i++) {
		/* What has no checksum there was not changed there. */
		if (sums[i] == 0 || sums[i] + 2 > bytes)
			continue;
		if (!same_but_for_zero(a, b, sums[i]))
			return false;
		memcpy(b + sums[i], a + sums[i], 2);
	}
	return memcmp(a, b, bytes) == 0;
}

/* Whether a rewrite changes a port or an identifier. */
static bool
has_ports(const struct packet *p)
{
	return p->l4 != 0 &&
	       (p->flow.protocol == PROTO_TCP || p->flow.protocol == PROTO_UDP ||
		(p->flags & PACKET_ICMP_QUERY));
}

/* Rewrites 'p' there and back; 'original' is what it was. */
static void
check_rewrites(struct packet *p, const uint8_t *original, const struct control *control,
	       uint32_t head_bytes, uint32_t bytes)
{
	bool whole = head_bytes == bytes;
	bool right = whole && packet_checksum_ok(p);
	struct endpoint src, dst, old_src, old_dst, now;
	struct packet again;

	flow_source(&p->flow, &old_src);
	flow_destination(&p->flow, &old_dst);
	endpoint_take(&src, control->src, p->flow.version);
	endpoint_take(&dst, control->dst, p->flow.version);
	if (p->flags & PACKET_ICMP_QUERY)
		src.port = dst.port;
	if (!has_ports(p))
		src.port = dst.port = 0;
	packet_set_src(p, &src);
	packet_set_dst(p, &dst);
	assert(packet_parse(&again, p->data, head_bytes, bytes) == PACKET_OK);
	assert(again.l3 == p->l3 && again.l4 == p->l4 && again.payload == p->payload);
	assert(again.end == p->end && again.flags == p->flags);
	flow_source(&again.flow, &now);
	assert(memcmp(&now, &src, sizeof(now)) == 0);
	flow_destination(&again.flow, &now);
	assert(memcmp(&now, &dst, sizeof(now)) == 0);
	if (right)
		assert(packet_checksum_ok(&again));
	packet_set_src(p, &old_src);
	packet_set_dst(p, &old_dst);
	if (right)
		assert(packet_checksum_ok(p));
	assert(packets_equal(p, original, p->data, head_bytes));
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct control control;
	struct packet p;
	struct flow inner, name, back;

	if (bytes < sizeof(control))
		return 0;
	memcpy(&control, input, sizeof(control));
	input += sizeof(control);
	bytes -= sizeof(control);

	uint32_t head_bytes =
		(uint32_t)(bytes > control.cut ? bytes - control.cut : bytes);
	uint8_t *copy = malloc(head_bytes);

	if (head_bytes != 0)
		memcpy(copy, input, head_bytes);
	if (packet_parse(&p, copy, head_bytes, (uint32_t)bytes) == PACKET_OK) {
		check_offsets(&p, head_bytes, (uint32_t)bytes);
		if (packet_inner(&p, head_bytes, &inner))
			assert(p.flags & PACKET_ICMP_ERROR &&
			       inner.version == p.flow.version);
		flow_reverse(&p.flow, &back);
		if (flow_canonical(&p.flow, &name))
			assert(memcmp(&name, &back, flow_bytes(&name)) == 0);
		else
			assert(memcmp(&name, &p.flow, flow_bytes(&name)) == 0);
		check_rewrites(&p, input, &control, head_bytes, (uint32_t)bytes);
	}
	free(copy);
	return 0;
}

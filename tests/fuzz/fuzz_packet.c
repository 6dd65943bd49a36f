/*
 * fuzz_packet.c - any bytes as a packet: parsed, rewritten and put back, refused, put
 * into a tunnel, answered.
 *
 * The input is two new endpoints, how much of the packet can be read, and what it is
 * refused as, then the packet.  It is copied to where nothing lies behind it; what is
 * made of it, too.
 */
#include <assert.h>
#include <stdlib.h>

#include "net/neighbour.h"
#include "net/packet.h"
#include "net/refuse.h"
#include "net/tunnel.h"

struct control {
	uint8_t src[18], dst[18]; /* Address and port. */
	uint8_t cut;              /* Bytes that lie in another buffer. */
	uint8_t how;
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
	if (p->flags & PACKET_FRAGMENT) {
		struct packet_part part;

		packet_part(p, &part);
		assert(part.start <= part.end && part.end - part.start <= p->end);
		assert((part.start != 0) == ((p->flags & PACKET_LATER_FRAGMENT) != 0));
		assert(part.start != 0 || part.more);
		assert(p->flow.version == 6 || part.id <= UINT16_MAX);
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

/* Rewrites what an error quotes there and back. */
static void
check_quoted(struct packet *p, const struct control *control, uint32_t head_bytes)
{
	bool right = packet_quoted_ok(p, head_bytes);
	struct endpoint src, dst, old_src, old_dst, now;
	struct flow inner, again;

	endpoint_take(&src, control->src, p->flow.version);
	endpoint_take(&dst, control->dst, p->flow.version);
	if (!packet_inner(p, head_bytes, &inner)) {
		assert(!right);
		packet_set_quoted_src(p, head_bytes, &src);
		packet_set_quoted_dst(p, head_bytes, &dst);
		return;
	}
	assert(p->flags & PACKET_ICMP_ERROR && inner.version == p->flow.version);
	flow_source(&inner, &old_src);
	flow_destination(&inner, &old_dst);
	packet_set_quoted_src(p, head_bytes, &src);
	packet_set_quoted_dst(p, head_bytes, &dst);
	assert(packet_inner(p, head_bytes, &again));
	assert(again.protocol == inner.protocol);
	flow_destination(&again, &now);
	if (inner.protocol != PROTO_TCP && inner.protocol != PROTO_UDP &&
	    now.port != dst.port)
		now.port = dst.port; /* It has none. */
	assert(memcmp(&now, &dst, sizeof(now)) == 0);
	assert(packet_quoted_ok(p, head_bytes) == right);
	packet_set_quoted_src(p, head_bytes, &old_src);
	packet_set_quoted_dst(p, head_bytes, &old_dst);
	assert(packet_quoted_ok(p, head_bytes) == right);
}

/* Moves a segment's numbers there and back. */
static void
check_options(struct packet *p, bool whole)
{
	struct tcp_options before, after;
	bool right = whole && packet_checksum_ok(p), fine;

	fine = packet_tcp_options(p, &before);
	assert(before.n_sacks <= TCP_MAX_SACKS &&
	       (before.wscale <= 14 || before.wscale == TCP_NO_WSCALE));
	if (p->flow.protocol != PROTO_TCP || p->l4 == 0)
		return;
	packet_shift_tcp(p, 0x12345678, 0xfedcba98);
	assert(packet_tcp_options(p, &after) == fine && after.mss == before.mss);
	for (unsigned int i = 0; fine && i < after.n_sacks; i++)
		assert(after.sack[i][0] == before.sack[i][0] + 0xfedcba98);
	packet_shift_tcp(p, -0x12345678U, -0xfedcba98U);
	assert(packet_tcp_options(p, &after) == fine);
	assert(!right || packet_checksum_ok(p));
}

static void
check_refusals(const struct packet *p, const struct control *control, uint32_t head_bytes)
{
	uint8_t *frame = malloc(REFUSE_MAX_BYTES);
	enum refusal how = control->how % (REFUSE_TOO_BIG + 1);
	unsigned int n[3];
	struct packet made;

	for (unsigned int i = 0; i < 3; i++) {
		if (i == 0)
			n[i] = packet_refuse(p, head_bytes, how, control->cut * 16U,
					     frame);
		else
			n[i] = packet_reset(p, i == 2, frame);
		assert(n[i] <= REFUSE_MAX_BYTES);
		if (n[i] == 0)
			continue;
		assert(packet_parse(&made, frame, n[i], n[i]) == PACKET_OK);
		assert(made.end == n[i] && made.l3 == p->l3);
		assert(packet_checksum_ok(&made));
		/* What is made here is never refused itself. */
		assert(packet_refuse(&made, n[i], how, 0, frame) == 0);
	}
	free(frame);
}

static void
check_tunnel(const struct packet *p, const struct control *control, uint32_t head_bytes,
	     uint32_t bytes)
{
	enum tunnel kind = control->how & 1 ? TUNNEL_GUE : TUNNEL_IPIP;
	uint8_t version = control->how & 2 ? 4 : 6;
	unsigned int more = tunnel_bytes(kind, version);
	uint8_t *room = malloc(more + head_bytes);
	struct endpoint src, dst;
	struct packet q = *p, outer;

	memcpy(room + more, p->data, head_bytes);
	q.data = room + more;
	endpoint_take(&src, control->src, version);
	endpoint_take(&dst, control->dst, version);
	assert(tunnel_put(&q, kind, &src, &dst) == room);
	if (p->end - p->l3 + more <= UINT16_MAX) {
		assert(packet_parse(&outer, room, more + head_bytes, more + bytes) ==
		       PACKET_OK);
		assert(outer.end == p->end + more && outer.flow.version == version);
	}
	free(room);
}

static bool
all_are_ours(const void *who, const struct endpoint *address)
{
	return who == NULL && address->port == 0;
}

static void
check_neighbour(const uint8_t *data, uint32_t bytes)
{
	static const uint8_t mac[MAC_BYTES] = { 2, 0, 0x5e, 0x10, 0, 1 };
	uint8_t *out = malloc(NEIGHBOUR_MAX_BYTES);
	unsigned int n = neighbour_answer(data, bytes, all_are_ours, NULL, mac, out);

	assert(n <= NEIGHBOUR_MAX_BYTES);
	if (n != 0)
		assert(neighbour_answer(out, n, all_are_ours, NULL, mac, out) == 0);
	free(out);
}

/* All that is done with what was parsed. */
static void
check_packet(struct packet *p, const uint8_t *input, const struct control *control,
	     uint32_t head_bytes, uint32_t bytes)
{
	struct flow name, back;

	check_offsets(p, head_bytes, bytes);
	flow_reverse(&p->flow, &back);
	if (flow_canonical(&p->flow, &name))
		assert(memcmp(&name, &back, flow_bytes(&name)) == 0);
	else
		assert(memcmp(&name, &p->flow, flow_bytes(&name)) == 0);
	check_refusals(p, control, head_bytes);
	check_tunnel(p, control, head_bytes, bytes);
	check_rewrites(p, input, control, head_bytes, bytes);
	check_options(p, head_bytes == bytes);
	check_quoted(p, control, head_bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct control control;
	struct packet p;

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
	check_neighbour(copy, head_bytes);
	if (packet_parse(&p, copy, head_bytes, (uint32_t)bytes) == PACKET_OK)
		check_packet(&p, input, &control, head_bytes, (uint32_t)bytes);
	free(copy);
	return 0;
}

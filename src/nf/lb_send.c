/*
 * lb_send.c - how packets get from a client to its backend and back, in each mode.
 *
 *   dnat      the destination becomes the backend's, and the virtual one on the way back
 *   nat       the same, and the client's becomes one of ours, so that answers come here
 *   dsr_...   the packet stays as it is, and gets to the backend by its MAC address or in
 *             a tunnel; answers do not come here
 *
 * RSTs of our own go the same ways.
 */
#include "nf/lb.h"

enum {
	GUE_PORT = 6080,			/* IANA */
	RESET_BYTES = REFUSE_MAX_BYTES,
};

/* Where the frames go to; NULL: as they came. */
struct way {
	const uint8_t *src, *dst;
};

static struct way
way_to_backend(const struct lb *lb, const struct lb_conn *c)
{
	const struct lb_backend *b;

	if (c->place == LB_NONE)
		return (struct way){ NULL, NULL };
	b = &c->service->backend[c->place];
	if (!b->has_mac)
		return (struct way){ NULL, NULL };
	return (struct way){ lb->has_mac ? lb->mac : NULL, b->mac };
}

static struct way
way_to_client(const struct lb *lb)
{
	if (!lb->has_router_mac)
		return (struct way){ NULL, NULL };
	return (struct way){ lb->has_mac ? lb->mac : NULL, lb->router_mac };
}

static enum tunnel
tunnel_of(const struct lb_service *s)
{
	return s->mode == LB_DSR_IPIP ? TUNNEL_IPIP
	       : s->mode == LB_DSR_GUE ? TUNNEL_GUE
				       : TUNNEL_NONE;
}

static void
tunnel_ends(const struct lb *lb, const struct lb_conn *c, struct endpoint *src,
	    struct endpoint *dst)
{
	*src = lb->tunnel_source[c->backend.version == 6];
	*dst = c->backend;
	dst->port = rte_cpu_to_be_16(GUE_PORT);
}

void
lb_send_to_backend(struct nf_run *r, const struct lb_conn *c)
{
	const struct lb *lb = nf_static(r);
	struct way way = way_to_backend(lb, c);
	enum tunnel tunnel = tunnel_of(c->service);
	struct endpoint src, dst;

	if (way.dst != NULL)
		nf_set_ethernet(r, way.src, way.dst);
	if (tunnel == TUNNEL_NONE)
		return;
	tunnel_ends(lb, c, &src, &dst);
	nf_encapsulate(r, tunnel, &src, &dst);
}

void
lb_send_to_client(struct nf_run *r)
{
	struct way way = way_to_client(nf_static(r));

	if (way.dst != NULL)
		nf_set_ethernet(r, way.src, way.dst);
}

enum nf_verdict
lb_send(struct nf_run *r, const struct lb_conn *c, bool from_backend)
{
	struct endpoint client;

	if (from_backend) {
		nf_set_src(r, &c->service->address);
		if (c->is_full) {
			flow_source(c->key, &client);
			nf_set_dst(r, &client);
		}
		lb_send_to_client(r);
		return NF_SEND;
	}
	if (c->service->mode <= LB_NAT)
		nf_set_dst(r, &c->backend);
	if (c->is_full)
		nf_set_src(r, &c->source);
	lb_send_to_backend(r, c);
	return NF_SEND;
}

/* --- resets ------------------------------------------------------------------- */

static void
set_ethernet(uint8_t *frame, const struct way *way)
{
	if (way->dst == NULL)
		return;
	memcpy(frame, way->dst, MAC_BYTES);
	if (way->src != NULL)
		memcpy(frame + MAC_BYTES, way->src, MAC_BYTES);
}

/* The RST at 'frame' goes on to the other end, as the packet that it is made of would
 * have. There is room for a tunnel in front of it. */
static void
send_on(struct nf_run *r, const struct lb_conn *c, bool from_backend, uint8_t *frame,
	unsigned int bytes)
{
	const struct lb *lb = nf_static(r);
	enum tunnel tunnel = tunnel_of(c->service);
	struct endpoint client, src, dst;
	struct packet p;
	struct way way = from_backend ? way_to_client(lb) : way_to_backend(lb, c);

	if (packet_parse(&p, frame, bytes, bytes) != PACKET_OK)
		return;
	set_ethernet(frame, &way);
	if (from_backend) {
		packet_set_src(&p, &c->service->address);
		flow_source(c->key, &client);
		packet_set_dst(&p, &client);
	} else if (tunnel != TUNNEL_NONE) {
		tunnel_ends(lb, c, &src, &dst);
		frame = tunnel_put(&p, tunnel, &src, &dst);
		bytes += tunnel_bytes(tunnel, dst.version);
	} else if (c->service->mode <= LB_NAT) {
		packet_set_dst(&p, &c->backend);
		if (c->is_full)
			packet_set_src(&p, &c->source);
	}
	nf_emit(r, frame, bytes);
}

void
lb_send_resets(struct nf_run *r, const struct lb_conn *c, bool from_backend)
{
	const struct packet *p = nf_packet(r);
	uint8_t room[TUNNEL_MAX_BYTES + RESET_BYTES];
	uint8_t *frame = room + TUNNEL_MAX_BYTES;
	unsigned int bytes = packet_reset(p, true, frame);

	if (bytes > 0)
		nf_answer(r, frame, bytes);
	bytes = packet_reset(p, false, frame);
	if (bytes > 0)
		send_on(r, c, from_backend, frame, bytes);
}

/*
 * effects.c - what comes of a run beside what it writes: how its packet is rewritten,
 * and packets of the run's own.
 *
 * Handlers only say what they want; all of it happens when the run has ended and its group
 * is applied (release.c), or never.  Packets of its own are made at once, and thrown
 * away with an execution that does not count.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

/* --- the packet ---------------------------------------------------------------- */

void
nf_set_src(struct nf_run *r, const struct endpoint *to)
{
	r->src = *to;
	r->edits |= RUN_SET_SRC;
}

void
nf_set_dst(struct nf_run *r, const struct endpoint *to)
{
	r->dst = *to;
	r->edits |= RUN_SET_DST;
}

void
nf_set_quoted_src(struct nf_run *r, const struct endpoint *to)
{
	r->quoted_src = *to;
	r->edits |= RUN_SET_QUOTED_SRC;
}

void
nf_set_quoted_dst(struct nf_run *r, const struct endpoint *to)
{
	r->quoted_dst = *to;
	r->edits |= RUN_SET_QUOTED_DST;
}

static void
shift(struct nf_run *r, uint32_t seq, uint32_t ack, uint16_t id)
{
	if (!(r->edits & RUN_SHIFT)) {
		r->shift_seq = 0;
		r->shift_ack = 0;
		r->shift_id = 0;
	}
	r->shift_seq += seq;
	r->shift_ack += ack;
	r->shift_id += id;
	r->edits |= RUN_SHIFT;
}

void
nf_shift_tcp(struct nf_run *r, uint32_t seq, uint32_t ack)
{
	shift(r, seq, ack, 0);
}

void
nf_shift_id(struct nf_run *r, uint16_t id)
{
	shift(r, 0, 0, id);
}

void
nf_set_ethernet(struct nf_run *r, const uint8_t *src, const uint8_t *dst)
{
	if (src != NULL) {
		memcpy(r->ethernet_src, src, sizeof(r->ethernet_src));
		r->edits |= RUN_SET_ETHERNET_SRC;
	}
	if (dst != NULL) {
		memcpy(r->ethernet_dst, dst, sizeof(r->ethernet_dst));
		r->edits |= RUN_SET_ETHERNET_DST;
	}
}

void
nf_encapsulate(struct nf_run *r, enum tunnel kind, const struct endpoint *src,
	       const struct endpoint *dst)
{
	r->tunnel = (uint8_t)kind;
	r->tunnel_src = *src;
	r->tunnel_dst = *dst;
	r->edits |= RUN_ENCAPSULATE;
}

static __rte_noinline void
rewrite_more(struct nf_run *r)
{
	struct packet *p = &r->packet;
	uint32_t head_bytes = r->mbuf->data_len;

	if (r->edits & RUN_SET_QUOTED_SRC)
		packet_set_quoted_src(p, head_bytes, &r->quoted_src);
	if (r->edits & RUN_SET_QUOTED_DST)
		packet_set_quoted_dst(p, head_bytes, &r->quoted_dst);
	if ((r->edits & RUN_SHIFT) && (p->flags & PACKET_ICMP_ERROR))
		packet_shift_quoted(p, head_bytes, r->shift_seq);
	else if ((r->edits & RUN_SHIFT) && (r->shift_seq | r->shift_ack) != 0)
		packet_shift_tcp(p, r->shift_seq, r->shift_ack);
	if ((r->edits & RUN_SHIFT) && r->shift_id != 0)
		packet_shift_id(p, r->shift_id);
	if (r->edits & RUN_SET_ETHERNET_DST)
		memcpy(p->data, r->ethernet_dst, sizeof(r->ethernet_dst));
	if (r->edits & RUN_SET_ETHERNET_SRC)
		memcpy(p->data + 6, r->ethernet_src, sizeof(r->ethernet_src));
}

void
run_rewrite(struct nf_run *r)
{
	if (r->edits & RUN_SET_SRC)
		packet_set_src(&r->packet, &r->src);
	if (r->edits & RUN_SET_DST)
		packet_set_dst(&r->packet, &r->dst);
	if (unlikely((r->edits & ~RUN_EDIT_COMMON) != 0))
		rewrite_more(r);
}

/* --- packets of its own -------------------------------------------------------- */

struct rte_mbuf *
run_mbuf(const struct nf_run *r)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(r->mbuf->pool);

	if (m == NULL) {
		r->pipe->stats.dropped[NF_DROP_BUFFERS]++;
		return NULL;
	}
	/* When it arrived, for captures. */
	memcpy(m->dynfield1, r->mbuf->dynfield1, sizeof(m->dynfield1));
	return m;
}

struct nf_run *
run_emit(struct nf_run *r, const void *frame, unsigned int bytes, enum run_leaves leaves)
{
	struct rte_mbuf *m = run_mbuf(r);

	if (m == NULL)
		return NULL;

	char *to = rte_pktmbuf_append(m, (uint16_t)bytes);

	assert(to != NULL);			/* bytes <= 2048 */
	memcpy(to, frame, bytes);
	run_of(m)->emitted_next = NULL;
	run_of(m)->leaves = (uint8_t)leaves;

	struct rte_mbuf **tail = &r->emitted;

	while (*tail != NULL)
		tail = &run_of(*tail)->emitted_next;
	*tail = m;
	return run_of(m);
}

void
run_free_emitted(struct nf_run *r)
{
	while (r->emitted != NULL) {
		struct rte_mbuf *m = r->emitted;

		r->emitted = run_of(m)->emitted_next;
		rte_pktmbuf_free(m);
	}
}

void
nf_emit(struct nf_run *r, const void *frame, unsigned int bytes)
{
	run_emit(r, frame, bytes, RUN_LEAVES_ON);
}

void
nf_answer(struct nf_run *r, const void *frame, unsigned int bytes)
{
	run_emit(r, frame, bytes, RUN_LEAVES_BACK);
}

void
nf_inject(struct nf_run *r, const void *frame, unsigned int bytes, uint8_t protocol,
	  rte_be16_t src_port, rte_be16_t dst_port)
{
	struct nf_run *injected = run_emit(r, frame, bytes, RUN_ARRIVES);

	if (injected != NULL) {
		injected->protocol = protocol;
		injected->src_port = src_port;
		injected->dst_port = dst_port;
	}
}

/* --- the rest ------------------------------------------------------------------ */

void
nf_set_ports(struct nf_run *r, uint8_t protocol, rte_be16_t src_port, rte_be16_t dst_port)
{
	r->protocol = protocol;
	r->src_port = src_port;
	r->dst_port = dst_port;
	r->extras |= RUN_HAS_PORTS;
}

void
nf_refuse(struct nf_run *r, enum refusal how)
{
	r->refusal = (uint8_t)how;
	r->extras |= RUN_REFUSES;
}

void
nf_established(struct nf_run *r)
{
	r->extras |= RUN_ESTABLISHED;
}

void
nf_alert(struct nf_run *r, uint32_t id)
{
	if (r->n_alerts < RUN_MAX_ALERTS)
		r->alert[r->n_alerts++] = id;
}

enum nf_verdict
nf_drop(struct nf_run *r, enum nf_drop reason)
{
	r->drop = reason;
	return NF_DROP;
}

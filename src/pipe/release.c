/*
 * release.c - the end of a run: its packet leaves, is dropped, lives on in the store, or
 * arrives anew.
 *
 * Packets wait in an outbox for the end of the turn.  Those of ordered ports leave in the
 * order in which they arrived, whatever became of them: each has a slot, which one that
 * arrives anew keeps, and then hands on to those that wait behind it.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

#include "base/hash.h"
#include "pipe/mtu.h"

/* --- ports --------------------------------------------------------------------- */

bool
release_flush(struct pipe *p, unsigned int side)
{
	struct outbox *out = &p->out[side];

	if (out->n == 0)
		return false;

	unsigned int n = p->port[side]->ops->tx(p->port[side], out->packet, out->n);

	memmove(out->packet, out->packet + n, (out->n - n) * sizeof(*out->packet));
	out->n -= n;
	return n > 0;
}

/* Counts the packet under 'sent', or as dropped if there is no room for it. */
static void
send_packet(struct pipe *p, unsigned int side, struct rte_mbuf *m, uint64_t *sent)
{
	struct outbox *out = &p->out[side];

	if (unlikely(out->n == TX_ROOM && !release_flush(p, side))) {
		p->stats.dropped[NF_DROP_TRANSMIT]++;
		rte_pktmbuf_free(m);
		return;
	}
	out->packet[out->n++] = m;
	(*sent)++;
}

static void
drop_packet(struct pipe *p, struct rte_mbuf *m, enum nf_drop reason)
{
	p->stats.dropped[reason]++;
	rte_pktmbuf_free(m);
}

/* --- alerts -------------------------------------------------------------------- */

static void
report_alerts(struct pipe *p, const struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_alerts; i++) {
		uint32_t tail =
			atomic_load_explicit(&p->alert_tail, memory_order_relaxed);

		p->stats.alerts++;
		if (tail - atomic_load_explicit(&p->alert_head, memory_order_acquire) ==
		    ALERT_ROOM) {
			p->stats.alerts_lost++;
			continue;
		}
		p->alert[tail % ALERT_ROOM] = (struct pipe_alert){
			r->packet.flow, r->alert[i], r->verdict == NF_DROP
		};
		atomic_store_explicit(&p->alert_tail, tail + 1, memory_order_release);
	}
}

unsigned int
pipe_alerts(struct pipe *p, struct pipe_alert *out, unsigned int max)
{
	uint32_t head = atomic_load_explicit(&p->alert_head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&p->alert_tail, memory_order_acquire);
	unsigned int n = 0;

	while (n < max && head != tail)
		out[n++] = p->alert[head++ % ALERT_ROOM];
	atomic_store_explicit(&p->alert_head, head, memory_order_release);
	return n;
}

/* --- what was established lately ----------------------------------------------- */

static struct seen *
seen_place(struct pipe *p, struct nf_run *r, uint32_t *tag)
{
	const struct flow *f = nf_connection(r);
	uint64_t hash = hash_bytes(f, flow_bytes(f), p->secret);

	*tag = (uint32_t)(hash >> 32);
	return &p->seen[hash % SEEN_PLACES];
}

static void
see(struct pipe *p, struct nf_run *r)
{
	uint32_t tag, now = (uint32_t)(p->now >> SEEN_SHIFT);
	struct seen *s = seen_place(p, r, &tag);

	/* Most packets find it as it should be, and leave the cache line clean. */
	if (s->tag != tag || s->at != now)
		*s = (struct seen){ tag, now };
}

bool
release_seen(struct pipe *p, struct nf_run *r)
{
	uint32_t tag, now = (uint32_t)(p->now >> SEEN_SHIFT);
	const struct seen *s = seen_place(p, r, &tag);

	return s->at != 0 && s->tag == tag && now - s->at <= p->grace;
}

bool
nf_unseen(const struct nf_run *r)
{
	const struct pipe *p = r->pipe;

	return p->unseen != 0 &&
	       (uint32_t)(p->now >> SEEN_SHIFT) - p->unseen + 1 <= p->grace + 1;
}

/* --- refusals ------------------------------------------------------------------ */

static bool
bucket_has(struct bucket *b, uint64_t now)
{
	b->credit = RTE_MIN(b->credit + (now - b->at), b->most);
	b->at = now;
	return b->credit >= b->cost;
}

/* What tells the sender that its packet, which is still as it came, is refused; or NULL.
 * The answer to one that has turned would be for an address of ours. */
static struct rte_mbuf *
refuse(struct pipe *p, const struct nf_run *r, enum refusal how, unsigned int mtu)
{
	if ((r->marks & RUN_HAS_TURNED) || !bucket_has(&p->refusals, p->now)) {
		p->stats.suppressed++;
		return NULL;
	}

	struct rte_mbuf *m = run_mbuf(r);

	if (m == NULL)
		return NULL;

	unsigned int bytes = packet_refuse(&r->packet, r->mbuf->data_len, how, mtu,
					   rte_pktmbuf_mtod(m, uint8_t *));

	if (bytes == 0) {
		rte_pktmbuf_free(m);
		return NULL;
	}
	rte_pktmbuf_append(m, (uint16_t)bytes);
	p->refusals.credit -= p->refusals.cost;
	return m;
}

/* --- leaving ------------------------------------------------------------------- */

/* Puts the header of a tunnel around a packet.  False: there is no room for it. */
static bool
encapsulate(const struct nf_run *r, struct rte_mbuf *m, struct packet *q)
{
	unsigned int bytes = tunnel_bytes(r->tunnel, r->tunnel_src.version);

	if (rte_pktmbuf_prepend(m, (uint16_t)bytes) == NULL)
		return false;
	tunnel_put(q, r->tunnel, &r->tunnel_src, &r->tunnel_dst);
	return true;
}

/* In several parts, as it is longer than the link takes. */
static void
send_fragments(struct pipe *p, struct nf_run *r, unsigned int to, unsigned int mtu)
{
	struct rte_mbuf *part[MTU_MAX_FRAGMENTS];
	unsigned int n = mtu_fragment(r->mbuf, &r->packet, mtu, part);
	uint64_t *count = &p->stats.sent;
	struct packet q;

	if (n == 0)
		p->stats.dropped[NF_DROP_BUFFERS]++;
	for (unsigned int i = 0; i < n; i++) {
		struct rte_mbuf *m = part[i];

		memcpy(m->dynfield1, r->mbuf->dynfield1, sizeof(m->dynfield1));
		if ((r->edits & RUN_ENCAPSULATE) &&
		    (packet_parse(&q, rte_pktmbuf_mtod(m, uint8_t *), m->data_len,
				  m->pkt_len) != PACKET_OK ||
		     !encapsulate(r, m, &q))) {
			drop_packet(p, m, NF_DROP_BUFFERS);
			continue;
		}
		send_packet(p, to, m, count);
		count = &p->stats.emitted;
	}
	rte_pktmbuf_free(r->mbuf);
}

/* One that may be too long, or that is rewritten in a way that few are. */
static __rte_noinline void
send_special(struct pipe *p, struct nf_run *r, unsigned int to)
{
	unsigned int around = 0, mtu = p->mtu[to];
	enum mtu_fate fate = MTU_FITS;

	if (r->edits & RUN_ENCAPSULATE)
		around = tunnel_bytes(r->tunnel, r->tunnel_src.version);
	if (mtu != 0 && !(r->marks & RUN_IS_NOT_IP))
		fate = mtu_fate(&r->packet, around, mtu);
	if (fate == MTU_TOO_BIG) {
		struct rte_mbuf *answer = refuse(p, r, REFUSE_TOO_BIG, mtu - around);

		drop_packet(p, r->mbuf, NF_DROP_TOO_BIG);
		if (answer != NULL)
			send_packet(p, r->side, answer, &p->stats.answered);
		return;
	}
	run_rewrite(r);
	if (fate == MTU_FRAGMENT)
		send_fragments(p, r, to, mtu - around);
	else if (around > 0 && !encapsulate(r, r->mbuf, &r->packet))
		drop_packet(p, r->mbuf, NF_DROP_BUFFERS);
	else
		send_packet(p, to, r->mbuf, &p->stats.sent);
}

static inline void
send_run(struct pipe *p, struct nf_run *r, unsigned int to)
{
	if (unlikely(r->mbuf->pkt_len > p->frame_max[to] ||
		     (r->edits & ~RUN_EDIT_COMMON) != 0)) {
		send_special(p, r, to);
		return;
	}
	run_rewrite(r);
	send_packet(p, to, r->mbuf, &p->stats.sent);
}

/* --- arriving anew ------------------------------------------------------------- */

static void
anew(struct pipe *p, struct nf_run *r)
{
	r->next = NULL;
	if (p->anew_tail != NULL)
		p->anew_tail->next = r;
	else
		p->anew_head = r;
	p->anew_tail = r;
	p->n_anew++;
}

/* As if it came in on the other side.  False: it has done so before, or cannot. */
static bool
turn(struct pipe *p, struct nf_run *r)
{
	if (r->marks & RUN_HAS_TURNED) {
		drop_packet(p, r->mbuf, NF_DROP_TURNED);
		return false;
	}
	chain_rewrite_flow(r, &r->packet.flow);
	r->src_port = r->packet.flow.src_port;
	r->dst_port = r->packet.flow.dst_port;
	run_rewrite(r);
	if ((r->edits & RUN_ENCAPSULATE) && !encapsulate(r, r->mbuf, &r->packet)) {
		drop_packet(p, r->mbuf, NF_DROP_BUFFERS);
		return false;
	}
	r->side = !r->side;
	r->marks |= RUN_HAS_TURNED;
	p->stats.turned++;
	return true;
}

/* Sends what the run made, on the side where each belongs; returns what is to arrive. */
static struct rte_mbuf *
send_emitted(struct pipe *p, struct rte_mbuf *emitted, unsigned int side)
{
	struct rte_mbuf *arriving = NULL, **tail = &arriving;

	while (emitted != NULL) {
		struct rte_mbuf *m = emitted;
		struct nf_run *of = run_of(m);

		emitted = of->emitted_next;
		if (of->leaves == RUN_ARRIVES) {
			of->emitted_next = NULL;
			*tail = m;
			tail = &of->emitted_next;
			continue;
		}
		send_packet(p, of->leaves == RUN_LEAVES_ON ? !side : side, m,
			    &p->stats.emitted);
	}
	return arriving;
}

/* The first of those behind a run that has left arrives in its slot, before the others. */
static void
follow(struct pipe *p, struct rte_mbuf *m, unsigned int side, uint64_t slot)
{
	struct nf_run *r = run_of(m);

	r->pipe = p;
	r->mbuf = m;
	r->side = (uint8_t)side;
	r->slot = slot;
	r->arrived = p->now;
	r->behind = r->emitted_next;
	r->marks = RUN_IS_INJECTED | RUN_HAS_FOUND;
	if (r->behind != NULL)
		r->marks |= RUN_LEADS;
	p->stats.injected++;
	anew(p, r);
}

/* --- the end ------------------------------------------------------------------- */

/* Does what the run decided.  Returns whether its packet is gone; if not, it has been put
 * where it arrives anew from. */
static inline bool
decided(struct pipe *p, struct nf_run *r)
{
	switch ((enum nf_verdict)r->verdict) {
	case NF_SEND:
		send_run(p, r, !r->side);
		return true;
	case NF_BOUNCE:
		send_run(p, r, r->side);
		return true;
	case NF_KEEP:
		p->stats.kept++;
		rte_pktmbuf_free(r->mbuf);
		return true;
	case NF_TURN:
		return !turn(p, r);
	case NF_AGAIN:
		assert(r->marks & RUN_IS_FRAGMENT);
		if (!(r->extras & RUN_HAS_PORTS))
			return false;
		r->marks &= (uint8_t)~RUN_IS_FRAGMENT;
		r->marks |= RUN_HAS_FOUND;
		return false;
	default:
		drop_packet(p, r->mbuf, r->drop);
		return true;
	}
}

static inline void
depart(struct pipe *p, uint64_t arrived)
{
	if (p->n_departed < PIPE_MAX_LIVE)
		p->departed[p->n_departed++] = arrived;
}

/* Hands on what the run says of itself. */
static void
report(struct pipe *p, const struct nf_run *r)
{
	if (r->extras & RUN_LOGS)
		events_put(p, r, false);
	if (r->extras & RUN_HAS_TASK)
		task_hand_over(p, r);
}

/* Packets that are to arrive, and others behind them. */
static struct rte_mbuf *
joined(struct rte_mbuf *first, struct rte_mbuf *more)
{
	struct rte_mbuf **tail = &first;

	while (*tail != NULL)
		tail = &run_of(*tail)->emitted_next;
	*tail = more;
	return first;
}

/* The same for one that made packets, leads others, or does not leave.  Returns whether
 * its slot is free. */
static __rte_noinline bool
dispatch_special(struct pipe *p, struct nf_run *r)
{
	struct rte_mbuf *emitted = r->emitted, *answer = NULL;
	struct rte_mbuf *behind = r->marks & RUN_LEADS ? r->behind : NULL;
	unsigned int side = r->side, from = r->marks & RUN_HAS_TURNED ? !side : side;
	uint64_t slot = r->slot, arrived = r->arrived;

	if (r->n_alerts > 0)
		report_alerts(p, r);
	if ((r->extras & p->heeded & RUN_ESTABLISHED) && r->verdict == NF_SEND)
		see(p, r);
	if (r->extras & (RUN_LOGS | RUN_HAS_TASK))
		report(p, r);
	if (r->extras & RUN_REFUSES)
		answer = refuse(p, r, r->refusal, 0);

	bool gone = decided(p, r);
	struct rte_mbuf *arriving = send_emitted(p, emitted, side);

	if (answer != NULL)
		send_packet(p, side, answer, &p->stats.answered);
	behind = joined(behind, arriving);
	if (!gone) {
		r->emitted = NULL;
		r->behind = behind;
		if (behind != NULL)
			r->marks |= RUN_LEADS;
		anew(p, r);
		return false;
	}
	depart(p, arrived);
	if (behind == NULL)
		return true;
	follow(p, behind, from, slot);
	return false;
}

/* Does what the run decided.  It is gone afterwards, or arrives anew: returns whether its
 * slot is free. */
static bool
dispatch(struct pipe *p, struct nf_run *r)
{
	p->n_live--;
	if (unlikely(r->marks & RUN_IS_ERRAND)) {
		report(p, r);
		((struct errand *)r)->end(p, r);
		return true;
	}
	if (unlikely((r->n_alerts | r->marks | (r->extras & p->heeded)) != 0 ||
		     r->emitted != NULL || r->verdict == NF_TURN))
		return dispatch_special(p, r);
	depart(p, r->arrived);
	decided(p, r);
	return true;
}

/* The run has ended.  Packets of ordered ports leave in the order they came. */
void
release_run(struct pipe *p, struct nf_run *r)
{
	if (likely(!p->ordered)) {
		dispatch(p, r);
		return;
	}
	p->finished[r->slot % PIPE_MAX_LIVE] = r;
	while ((r = p->finished[p->n_left % PIPE_MAX_LIVE]) != NULL) {
		p->finished[p->n_left % PIPE_MAX_LIVE] = NULL;
		if (!dispatch(p, r))
			return;
		p->n_left++;
	}
}

void
release_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	r->n_alerts = 0;
	r->extras = 0;
	r->verdict = NF_DROP;
	r->drop = reason;
	release_run(p, r);
}

/* Those that left in this turn have left now. */
void
release_count(struct pipe *p)
{
	for (unsigned int i = 0; i < p->n_departed; i++)
		p->stats.residence[pipe_residence_bucket(p->now - p->departed[i])]++;
	p->n_departed = 0;
}

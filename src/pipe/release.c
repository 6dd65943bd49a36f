/*
 * release.c - the end of a run: its packet leaves, is dropped, or lives on in the store.
 *
 * Packets wait in an outbox for the end of the turn.  Those of ordered ports leave in the
 * order in which they arrived, whatever became of them.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

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
report_alerts(struct pipe *p, const struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_alerts; i++) {
		uint32_t tail =
			atomic_load_explicit(&p->alert_tail, memory_order_relaxed);

		p->stats.alerts++;
		if (tail - atomic_load_explicit(&p->alert_head, memory_order_acquire) ==
		    ALERT_ROOM)
			continue;
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

/* Does what the run decided.  It is gone afterwards. */
static void
dispatch(struct pipe *p, struct nf_run *r)
{
	unsigned int to = !r->side;
	struct rte_mbuf *emitted = r->emitted;

	p->n_live--;
	if (unlikely(r->mbuf == NULL)) {
		timer_end(p, r);
		return;
	}
	if (p->n_departed < PIPE_MAX_LIVE)
		p->departed[p->n_departed++] = r->arrived;
	if (unlikely(r->n_alerts > 0))
		report_alerts(p, r);
	switch ((enum nf_verdict)r->verdict) {
	case NF_SEND:
		run_rewrite(r);
		send_packet(p, to, r->mbuf, &p->stats.sent);
		break;
	case NF_KEEP:
		p->stats.kept++;
		rte_pktmbuf_free(r->mbuf);
		break;
	default:
		p->stats.dropped[r->drop]++;
		rte_pktmbuf_free(r->mbuf);
		break;
	}
	while (unlikely(emitted != NULL)) {
		struct rte_mbuf *m = emitted;

		emitted = run_of(m)->emitted_next;
		send_packet(p, to, m, &p->stats.emitted);
	}
}

/* The run has ended.  Packets of ordered ports leave in the order they came. */
void
release_run(struct pipe *p, struct nf_run *r)
{
	if (likely(!p->ordered)) {
		dispatch(p, r);
		return;
	}
	p->finished[r->sequence % PIPE_MAX_LIVE] = r;
	while ((r = p->finished[p->n_left % PIPE_MAX_LIVE]) != NULL) {
		p->finished[p->n_left % PIPE_MAX_LIVE] = NULL;
		p->n_left++;
		dispatch(p, r);
	}
}

void
release_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	r->n_alerts = 0;
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

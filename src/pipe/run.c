/*
 * run.c - one execution of a handler: what nf.h promises its author, but for tables
 * (access.c).  Everything that a handler does stays in the run until it ends with a
 * verdict.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

#include "base/hash.h"

/* It took what it could not read for absent: nothing of it counts. */
static __rte_noinline enum nf_verdict
drop_unreadable(struct run_context *c, struct nf_run *r)
{
	const struct run_value *v = &r->value[r->unreadable - 1];

	run_refused(r->pipe, v->table, v->format);
	r->n_writes = 0;
	r->n_alerts = 0;
	c->n_touches = 0;
	run_free_emitted(r);
	return nf_drop(r, NF_DROP_FORMAT);
}

enum nf_verdict
run_execute(struct run_context *c, struct nf_run *r)
{
	r->n_asked = 0;
	r->n_pending = 0;
	r->n_writes = 0;
	r->n_alerts = 0;
	r->drop = NF_DROP_VERDICT;
	r->set_src = false;
	r->set_dst = false;
	r->unreadable = 0;
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	c->writes.at = c->writes.start;
	c->n_touches = 0;

	enum nf_verdict verdict =
		likely(r->mbuf != NULL) ? c->nf->packet(r) : timer_execute(r);

	if (unlikely(r->unreadable != 0 && r->n_pending == 0))
		return drop_unreadable(c, r);
	/* An author's mistake: to wait for nothing would be for ever. */
	assert(verdict != NF_WAIT || r->n_pending > 0);
	return verdict;
}

void
run_rewrite(struct nf_run *r)
{
	if (r->set_src)
		packet_set_src(&r->packet, &r->src);
	if (r->set_dst)
		packet_set_dst(&r->packet, &r->dst);
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

const struct packet *
nf_packet(const struct nf_run *r)
{
	return &r->packet;
}

const struct flow *
nf_flow(const struct nf_run *r)
{
	return &r->packet.flow;
}

const struct flow *
nf_connection(struct nf_run *r)
{
	if (!r->has_connection) {
		flow_canonical(&r->packet.flow, &r->connection);
		r->has_connection = true;
	}
	return &r->connection;
}

enum nf_side
nf_side(const struct nf_run *r)
{
	return r->side;
}

const void *
nf_static(const struct nf_run *r)
{
	return context_of(r)->nf_static;
}

uint32_t
nf_head_bytes(const struct nf_run *r)
{
	return r->mbuf->data_len;
}

uint64_t
nf_random(const struct nf_run *r)
{
	return hash_fold(r->sequence ^ context_of(r)->secret,
			 (r->attempt + 1) * 0x9e3779b97f4a7c15u ^ context_of(r)->secret);
}

unsigned int
nf_partitions(const struct nf_run *r)
{
	return context_of(r)->n_parts;
}

bool
nf_pending(const struct nf_run *r)
{
	return r->n_pending > 0;
}

void
nf_set_src(struct nf_run *r, const struct endpoint *to)
{
	r->src = *to;
	r->set_src = true;
}

void
nf_set_dst(struct nf_run *r, const struct endpoint *to)
{
	r->dst = *to;
	r->set_dst = true;
}

void
nf_emit(struct nf_run *r, const void *frame, unsigned int bytes)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(r->mbuf->pool);

	if (m == NULL) {
		r->pipe->stats.dropped[NF_DROP_BUFFERS]++;
		return;
	}

	char *to = rte_pktmbuf_append(m, bytes);

	assert(to != NULL);			/* bytes <= 2048 */
	memcpy(to, frame, bytes);
	memcpy(m->dynfield1, r->mbuf->dynfield1, sizeof(m->dynfield1));
	run_of(m)->emitted_next = NULL;

	struct rte_mbuf **tail = &r->emitted;

	while (*tail != NULL)
		tail = &run_of(*tail)->emitted_next;
	*tail = m;
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

/*
 * run.c - one execution of a handler: what nf.h promises its author, but for tables
 * (access.c) and for what comes of it (effects.c).  Everything that a handler does stays
 * in the run until it ends with a verdict.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

#include "base/hash.h"

/* It took what it could not read for absent, or wanted more than a run may: nothing of it
 * counts. */
static __rte_noinline enum nf_verdict
drop_unreadable(struct run_context *c, struct nf_run *r)
{
	bool too_much = r->unreadable == RUN_TOO_MUCH;

	/* One that is not to decide yet comes here again. */
	if (!too_much && !order_waits(&r->pipe->order, r)) {
		const struct run_value *v = &r->value[r->unreadable - 1];

		run_refused(r->pipe, v->table, v->format);
	}
	r->n_writes = 0;
	r->n_alerts = 0;
	r->extras = 0;
	c->n_touches = 0;
	run_free_emitted(r);
	return nf_drop(r, too_much ? NF_DROP_LIMIT : NF_DROP_FORMAT);
}

/* A run that is not of the functions of the file, or not of a packet. */
static __rte_noinline enum nf_verdict
execute_other(struct run_context *c, struct nf_run *r)
{
	enum nf_verdict verdict;

	if (r->marks & RUN_IS_ERRAND) {
		const struct errand *e = (const struct errand *)r;

		chain_enter(c, e->stage);
		verdict = e->execute(r);
	} else {
		chain_enter(c, c->chain.n);
		verdict = c->chain.stage[c->chain.n].nf->packet(r);
	}
	chain_enter(c, 0);
	return verdict;
}

void
run_reset(struct nf_run *r)
{
	struct run_context *c = context_of(r);

	r->n_asked = 0;
	r->n_pending = 0;
	r->n_writes = 0;
	r->n_alerts = 0;
	r->drop = NF_DROP_VERDICT;
	r->edits = 0;
	r->extras = 0;
	r->unreadable = 0;
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	c->writes.at = c->writes.start;
	c->n_touches = 0;
}

enum nf_verdict
run_execute(struct run_context *c, struct nf_run *r)
{
	run_reset(r);

	enum nf_verdict verdict =
		likely((r->marks & (RUN_IS_ERRAND | RUN_IS_FRAGMENT)) == 0)
			? c->packet(r)
			: execute_other(c, r);

	if (unlikely(r->unreadable != 0 && r->n_pending == 0))
		return drop_unreadable(c, r);
	/* An author's mistake: to wait for nothing would be for ever. */
	assert(verdict != NF_WAIT || r->n_pending > 0);
	return verdict;
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

bool
nf_quoted(const struct nf_run *r, struct flow *quoted)
{
	const struct run_context *c = context_of(r);

	if (c->has_quoted) {
		memcpy(quoted, &c->quoted, flow_bytes(&c->quoted));
		return true;
	}
	if (!packet_inner(&r->packet, r->mbuf->data_len, quoted))
		return false;
	quoted->zone = r->packet.flow.zone;
	return true;
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

uint16_t
nf_epoch(const struct nf_run *r, unsigned int partition)
{
	const struct store *store = r->pipe->store;
	uint64_t term = store->ops->term(store, partition);

	term ^= term >> 32;
	return (uint16_t)(term ^ term >> 16);
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

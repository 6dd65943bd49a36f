/*
 * timer.c - runs without a packet: errands, and of these the ones for records whose time
 * has passed, what a function's '.expired' handlers are called by.
 *
 * An errand starts, waits for its reads in a batch, decides, and its group is committed,
 * as that of a packet.  Packets come first: errands are few at a time, and are started
 * when there is room.
 *
 * The store leases records whose time has passed to one instance each, some at a time.
 * The group of such a run begins with the settlement of the record, so all of it happens
 * once or not at all.  A run that fails just ends: what is still due is leased again.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

enum {
	TIMERS_OF_A_TURN = 16,
};

static_assert((int)TIMERS_OF_A_TURN <= STORE_MAX_LEASES, "what a store gives at once");

unsigned int
errand_room(const struct pipe *p)
{
	unsigned int n = PIPE_MAX_LIVE - p->n_live;

	if (p->open != NULL)
		n = RTE_MIN(n, JOB_MAX_ENTRIES - p->open->n_used);
	if (p->ordered)
		n = RTE_MIN(n,
			    (unsigned int)(PIPE_MAX_LIVE - (p->n_slots - p->n_left)));
	return n;
}

void
errand_start(struct pipe *p, struct errand *e)
{
	struct nf_run *r = &e->run;

	memset(r, 0, sizeof(*r));
	r->marks = RUN_IS_ERRAND;
	r->pipe = p;
	r->arrived = p->now;
	r->sequence = p->n_arrived++;
	if (p->ordered)
		r->slot = p->n_slots++;
	/* A lane of its own: nobody waits for an errand, nor it for anybody. */
	r->lane_hash = (p->order.seed ^ r->sequence << 1) | 1;
	p->n_live++;
	job_open(p);
	pipe_start(p, r);
}

/* --- records whose time has passed --------------------------------------------- */

/* The record's value as handlers know it, with zeros behind one that is short.  False: this
 * release does not read it. */
static bool
take_value(struct timer *t, const struct nf_table *table,
	   const struct frame_lease *record)
{
	if (unlikely(record->format != table->format))
		return run_upgrade(table, record->format, record->value,
				   record->value_bytes, t->value) == table->value_max;
	if (record->value_bytes > table->value_max)
		return false;
	memcpy(t->value, record->value, record->value_bytes);
	memset((uint8_t *)t->value + record->value_bytes, 0,
	       table->value_max - record->value_bytes);
	return true;
}

static enum nf_verdict
execute(struct nf_run *r)
{
	const struct timer *t = (const struct timer *)r;

	run_settle(r, t->table, t->key, t->key_bytes, t->version);
	t->table->expired(r, t->key, t->value);
	return r->n_pending > 0 ? NF_WAIT : NF_KEEP;
}

static void
end(struct pipe *p, struct nf_run *r)
{
	unsigned int i = (unsigned int)((struct timer *)r - p->timer);

	if (r->verdict == NF_KEEP)
		p->stats.leases_settled++;
	else
		p->stats.leases_left++;
	p->timers_free |= 1ULL << i;
}

/* Makes a run of a lease.  A record of a format that this release does not read is left
 * to an instance that does. */
static void
start(struct pipe *p, const struct store_lease *lease)
{
	const struct frame_lease *record = &lease->record;
	const struct nf_table *table = p->table[record->table];
	unsigned int i = (unsigned int)__builtin_ctzll(p->timers_free);
	struct timer *t = &p->timer[i];

	if (p->context.n_parts > 1 &&
	    table->spread(record->key, record->key_bytes) % p->context.n_parts !=
		    lease->partition) {
		p->stats.leases_left++;
		return;
	}
	if (!take_value(t, table, record)) {
		run_refused(p, record->table, record->format);
		p->stats.leases_left++;
		return;
	}
	p->timers_free &= ~(1ULL << i);
	t->errand.stage = p->table_stage[record->table];
	t->errand.execute = execute;
	t->errand.end = end;
	t->table = table;
	t->version = record->version;
	t->key_bytes = record->key_bytes;
	memcpy(t->key, record->key, record->key_bytes);
	errand_start(p, &t->errand);
}

bool
timer_gather(struct pipe *p)
{
	struct store_lease lease[TIMERS_OF_A_TURN];
	unsigned int n = (unsigned int)__builtin_popcountll(p->timers_free);

	n = RTE_MIN(n, (unsigned int)TIMERS_OF_A_TURN);
	n = RTE_MIN(n, errand_room(p));
	if (n == 0)
		return false;
	n = p->store->ops->due(p->store, lease, n);
	for (unsigned int i = 0; i < n; i++)
		start(p, &lease[i]);
	return n > 0;
}

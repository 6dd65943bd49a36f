/*
 * timer.c - runs for records whose time has passed: what a function's '.expired' handlers
 * are called by.
 *
 * The store leases such records to one instance each, some at a time.  A run for one
 * goes the way of a packet's: it starts, waits for its reads in a batch, decides, and its
 * group is committed.  That group begins with the settlement of the record, so all of it
 * happens once or not at all.  A run that fails just ends: what is still due is leased
 * again.
 *
 * Packets come first: timers are few at a time, and are started when there is room.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

enum {
	TIMERS_OF_A_TURN = 16,
};

static_assert((int)TIMERS_OF_A_TURN <= STORE_MAX_LEASES, "what a store gives at once");

/* How many more may start. */
static unsigned int
room(const struct pipe *p)
{
	unsigned int n = (unsigned int)__builtin_popcountll(p->timers_free);

	n = RTE_MIN(n, (unsigned int)TIMERS_OF_A_TURN);
	n = RTE_MIN(n, PIPE_MAX_LIVE - p->n_live);
	if (p->open != NULL)
		n = RTE_MIN(n, JOB_MAX_ENTRIES - p->open->n_used);
	if (p->ordered)
		n = RTE_MIN(n,
			    (unsigned int)(PIPE_MAX_LIVE - (p->n_arrived - p->n_left)));
	return n;
}

/* The record's value as handlers know it.  False: this release does not read it. */
static bool
take_value(struct timer *t, const struct nf_table *table,
	   const struct frame_lease *record)
{
	if (unlikely(record->format != table->format))
		return run_upgrade(table, record->format, record->value,
				   record->value_bytes, t->value) == table->value_max;
	if (record->value_bytes != table->value_max)
		return false;
	memcpy(t->value, record->value, record->value_bytes);
	return true;
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
	struct nf_run *r = &t->run;

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
	t->table = table;
	t->version = record->version;
	t->key_bytes = record->key_bytes;
	memcpy(t->key, record->key, record->key_bytes);
	memset(r, 0, sizeof(*r));
	r->pipe = p;
	r->arrived = p->now;
	r->sequence = p->n_arrived++;
	/* A lane of its own: nobody waits for a timer, nor it for anybody. */
	r->lane_hash = (p->order.seed ^ r->sequence << 1) | 1;
	p->n_live++;
	pipe_start(p, r);
}

bool
timer_gather(struct pipe *p)
{
	struct store_lease lease[TIMERS_OF_A_TURN];
	unsigned int n = room(p);

	if (n == 0)
		return false;
	n = p->store->ops->due(p->store, lease, n);
	if (likely(n == 0))
		return false;
	job_open(p);
	for (unsigned int i = 0; i < n; i++)
		start(p, &lease[i]);
	return true;
}

enum nf_verdict
timer_execute(struct nf_run *r)
{
	const struct timer *t = (const struct timer *)r;

	run_settle(r, t->table, t->key, t->key_bytes, t->version);
	t->table->expired(r, t->key, t->value);
	return r->n_pending > 0 ? NF_WAIT : NF_KEEP;
}

void
timer_end(struct pipe *p, struct nf_run *r)
{
	unsigned int i = (unsigned int)((struct timer *)r - p->timer);

	if (r->verdict == NF_KEEP)
		p->stats.leases_settled++;
	else
		p->stats.leases_left++;
	p->timers_free |= 1ULL << i;
}

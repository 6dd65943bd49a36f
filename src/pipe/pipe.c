/*
 * pipe.c - the turn of a pipe: receive, run, submit, settle, transmit.
 *
 * New packets are run once, which writes their reads into the open job's frame.  The
 * job is submitted as soon as the store takes one more: at low load with a packet or
 * two, at high load with whatever has gathered while others were under way.  When it
 * comes back its runs are run again, now with values; their writes go into the job
 * that is open then.
 *
 * A job being settled adds at most one operation group for each of its entries to the
 * open job.  Should there be no room for one, because the store takes no more for the
 * moment, its run starts again later.  A job is only submitted while there is another
 * batch to open.
 */
#include "pipe/run.h"

#include <stdio.h>
#include <sys/random.h>

#include <rte_branch_prediction.h>
#include <rte_malloc.h>

#include "base/hash.h"

enum {
	HEALTH_TURNS = 256,			/* How often a busy pipe looks at it. */
};

unsigned int
pipe_private_bytes(void)
{
	return RTE_ALIGN_CEIL(sizeof(struct nf_run), RTE_MBUF_PRIV_ALIGN);
}

const struct pipe_stats *
pipe_stats(const struct pipe *p)
{
	return &p->stats;
}

void
pipe_set_static(struct pipe *p, const void *nf_static)
{
	p->context.nf_static = nf_static;
}

void
pipe_stop_receiving(struct pipe *p)
{
	p->receiving = false;
}

bool
pipe_drained(const struct pipe *p)
{
	return p->n_live == 0 && p->out[0].n == 0 && p->out[1].n == 0;
}

bool
pipe_ended(const struct pipe *p)
{
	for (unsigned int side = 0; side < 2; side++) {
		const struct port *port = p->port[side];

		if (port->ops->ended == NULL || !port->ops->ended(port))
			return false;
	}
	return pipe_drained(p);
}

/* --- jobs --------------------------------------------------------------------- */

void
job_open(struct pipe *p)
{
	if (p->open != NULL)
		return;

	struct store_batch *b = p->store->ops->batch(p->store);
	struct job *job = p->job;

	assert(b != NULL);			/* pipe_submit() */
	while (job->batch != NULL)
		job++;
	job->batch = b;
	job->n_entries = 0;
	job->n_used = 0;
	job->n_new = 0;
	job->n_ops = 0;
	job->n_groups = 0;
	job->answered = false;
	job->settled = false;
	b->owner = job;
	p->open = job;
	p->n_jobs++;
	p->context.part = b->part;
}

/* --- run ---------------------------------------------------------------------- */

void
pipe_start(struct pipe *p, struct nf_run *r)
{
	r->n_fetched = 0;
	r->first = 0;
	r->speculative = false;
	r->has_group = false;
	r->state = run_execute(&p->context, r) == NF_WAIT ? RUN_READING : RUN_DECIDED;
	p->stats.runs++;
	job_add(p->open, r, r->n_pending);
}

/* Makes a run of a packet.  False if it is not for the function. */
static inline bool
arrive(struct pipe *p, struct rte_mbuf *m, unsigned int side)
{
	struct nf_run *r = run_of(m);

	r->pipe = p;
	r->mbuf = m;
	r->arrived = p->now;
	r->sequence = p->n_arrived++;
	r->side = side;
	r->trips = 0;
	r->attempt = 0;
	r->late = false;
	r->has_connection = false;
	r->lane_hash = 0;
	r->n_alerts = 0;
	r->set_src = false;
	r->set_dst = false;
	r->emitted = NULL;
	p->n_live++;
	p->stats.received_bytes += m->pkt_len;

	enum packet_error err = packet_parse(&r->packet, rte_pktmbuf_mtod(m, uint8_t *),
					     m->data_len, m->pkt_len);

	if (likely(err == PACKET_OK))
		return true;
	if (err == PACKET_NOT_IP && p->context.nf->passes_non_ip) {
		r->verdict = NF_SEND;
		release_run(p, r);
	} else {
		release_dropped(p, r,
				err == PACKET_NOT_IP ? NF_DROP_NOT_IP : NF_DROP_PARSE);
	}
	return false;
}

static void
arrive_burst(struct pipe *p, struct rte_mbuf **packets, unsigned int n, unsigned int side)
{
	struct nf_run *run[PIPE_BURST];
	unsigned int n_runs = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (i + 4 < n) {
			rte_prefetch0(rte_pktmbuf_mtod(packets[i + 4], void *));
			run_prefetch(run_of(packets[i + 4]));
		}
		if (likely(arrive(p, packets[i], side)))
			run[n_runs++] = run_of(packets[i]);
	}
	p->stats.received += n;
	p->open->n_new += n_runs;
	for (unsigned int i = 0; i < n_runs; i++)
		pipe_start(p, run[i]);
}

/* How many more packets may come in. */
static unsigned int
room(const struct pipe *p)
{
	unsigned int n = PIPE_MAX_LIVE - p->n_live;

	n = RTE_MIN(n, (unsigned int)PIPE_BURST);
	if (p->open != NULL) {
		n = RTE_MIN(n, JOB_MAX_ENTRIES - p->open->n_used);
		n = RTE_MIN(n, PIPE_BATCH - p->open->n_new);
	}
	if (p->ordered)
		n = RTE_MIN(n,
			    (unsigned int)(PIPE_MAX_LIVE - (p->n_arrived - p->n_left)));
	return n;
}

/* Runs that were parked or lost a race start again, before anything new. */
static bool
restart_runs(struct pipe *p)
{
	bool any = false;

	while (p->order.restart_head != NULL) {
		job_open(p);
		if (p->open->n_used == JOB_MAX_ENTRIES)
			break;
		pipe_start(p, order_next_restart(&p->order));
		any = true;
	}
	return any;
}

/* Takes what has arrived on one side, as far as there is room. */
static bool
receive(struct pipe *p, unsigned int side)
{
	struct rte_mbuf *packets[PIPE_BURST];
	struct port *port = p->port[side];
	unsigned int n, n_max;
	bool any = false;

	do {
		n_max = room(p);
		if (n_max == 0)
			break;
		n = port->ops->rx(port, packets, n_max);
		pipe_stage_end(p, PIPE_STAGE_RECEIVE);
		if (n == 0)
			break;
		job_open(p);
		arrive_burst(p, packets, n, side);
		pipe_stage_end(p, PIPE_STAGE_RUN);
		any = true;
	} while (n == n_max);
	return any;
}

static bool
pipe_gather(struct pipe *p)
{
	bool any = restart_runs(p);

	if (unlikely(!p->receiving))
		return any;
	/* The side that comes first may take all the room: they take turns. */
	p->first_side = !p->first_side;
	any |= receive(p, p->first_side);
	any |= receive(p, !p->first_side);
	if (p->leases)
		any |= timer_gather(p);
	return any;
}

/* --- submit and collect ------------------------------------------------------- */

/* Settles a job that does not go to the store; of what it asks, 'error' comes. */
static void
settle_unsent(struct pipe *p, struct job *job, int error)
{
	struct store_batch *b = job->batch;

	for (unsigned int i = 0; i < p->context.n_parts; i++)
		b->part[i].error = error;
	b->final = true;
	p->open = NULL;
	job_open(p);
	pipe_settle(p, job);
}

static bool
pipe_submit(struct pipe *p)
{
	struct job *job = p->open;
	int err;

	if (job == NULL || (job->n_entries == 0 && job->n_ops == 0) ||
	    p->n_jobs == STORE_BATCHES)
		return false;
	if (job->n_ops == 0 && p->n_jobs_in_flight == 0) {
		settle_unsent(p, job, 0);
		return true;
	}
	err = p->store->ops->submit(p->store, job->batch);
	if (err == 0) {
		p->n_jobs_in_flight++;
		p->stats.batches++;
		p->open = NULL;
		return true;
	}
	/* Lost, and all before it have come back: so is this one. */
	if (err != -ENOTCONN || p->n_jobs_in_flight > 0)
		return false;
	settle_unsent(p, job, err);
	return true;
}

/* Settles what has come back, one batch at a time: each needs room in the open job. */
static bool
pipe_collect(struct pipe *p)
{
	struct store_batch *done;
	bool any = false;

	while (p->store->ops->poll(p->store, &done, 1) == 1) {
		struct job *job = done->owner;

		pipe_stage_end(p, PIPE_STAGE_STORE);
		if (likely(!job->answered))
			p->n_jobs_in_flight--;
		else
			p->stats.uncommitted--;
		if (p->open != NULL &&
		    p->open->n_used + job->n_entries > JOB_MAX_ENTRIES)
			pipe_submit(p);
		job_open(p);
		pipe_settle(p, job);
		pipe_stage_end(p, PIPE_STAGE_SETTLE);
		any = true;
	}
	return any;
}

bool
pipe_turn(struct pipe *p)
{
	bool any;

	p->now = rte_rdtsc();
	any = pipe_gather(p);
	any |= pipe_submit(p);
	any |= pipe_collect(p);
	if (unlikely(!any || ++p->n_turns % HEALTH_TURNS == 0))
		atomic_store_explicit(&p->health, p->store->ops->health(p->store),
				      memory_order_relaxed);
	pipe_stage_end(p, PIPE_STAGE_STORE);
	any |= release_flush(p, NF_INSIDE);
	any |= release_flush(p, NF_OUTSIDE);
	if (any) {
		pipe_stage_end(p, PIPE_STAGE_TRANSMIT);
		release_count(p);
	}
	return any;
}

enum store_health
pipe_health(const struct pipe *p)
{
	return atomic_load_explicit(&p->health, memory_order_relaxed);
}

/* The longest value that may be written, in any format. */
static uint16_t
value_max(const struct nf_table *t)
{
	unsigned int n, max = t->value_max;

	for (unsigned int format = 1; format < t->format; format++) {
		n = nf_table_bytes(t, (uint8_t)format, t->value_max);
		max = RTE_MAX(max, n);
	}
	return (uint16_t)max;
}

unsigned int
pipe_tables(const struct nf *nf, const struct pipe_table *wanted,
	    struct store_table *declared)
{
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(nf, 0, table, STORE_MAX_TABLES);

	for (unsigned int i = 0; i < n; i++) {
		const struct nf_table *t = table[i];

		declared[i] = (struct store_table){
			.key_max = t->key_max, .value_max = value_max(t),
			.format = t->format, .leased = t->expired != NULL,
			.evict = wanted[i].evict, .commit = wanted[i].commit,
			.limit = wanted[i].limit,
		};
		snprintf(declared[i].name, sizeof(declared[i].name), "%s.%s", nf->name,
			 t->name);
	}
	return n;
}

int
pipe_open(const struct pipe_config *config, struct pipe **out)
{
	struct pipe *p = rte_zmalloc("pipe", sizeof(*p), RTE_CACHE_LINE_SIZE);
	uint64_t secret[3];

	if (p == NULL)
		return -ENOMEM;
	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret)) {
		rte_free(p);
		return -EIO;
	}
	p->store = config->store;
	p->receiving = true;
	p->pass_unseen = config->pass_unseen;
	p->timers_free = UINT64_MAX;
	for (unsigned int i = nf_tables(config->nf, 0, p->table, STORE_MAX_TABLES);
	     i-- > 0;)
		p->leases |= p->table[i]->expired != NULL;
	for (unsigned int side = 0; side < 2; side++) {
		p->port[side] = config->port[side];
		p->ordered |= p->port[side]->ordered;
	}
	p->context = (struct run_context){
		.n_parts = p->store->n_partitions,
		.next_version = secret[0] >> 1,	/* 2^63 writes until it wraps. */
		.secret = secret[1],
		.nf = config->nf,
		.nf_static = config->nf_static,
		.writes = { p->write_buffer, p->write_buffer,
			    p->write_buffer + sizeof(p->write_buffer) },
		.touches = { p->touch_buffer, p->touch_buffer,
			     p->touch_buffer + sizeof(p->touch_buffer) },
	};
	pipe_set_formats(p, config->format);
	order_init(&p->order, secret[2]);
	*out = p;
	return 0;
}

void
pipe_close(struct pipe *p)
{
	rte_free(p);
}

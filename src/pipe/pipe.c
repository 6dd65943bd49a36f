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

#include <sys/random.h>

#include <rte_branch_prediction.h>
#include <rte_ether.h>
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
pipe_set_static(struct pipe *p, const struct chain *chain)
{
	p->context.chain = *chain;
	chain_enter(&p->context, 0);
	note_forget(p);
}

void
pipe_stop_receiving(struct pipe *p)
{
	p->receiving = false;
}

bool
pipe_drained(const struct pipe *p)
{
	return p->n_live == 0 && p->n_anew == 0 && p->out[0].n == 0 && p->out[1].n == 0;
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
	r->picked = 0;
	r->speculative = 0;
	r->has_group = false;
	r->state = run_execute(&p->context, r) == NF_WAIT ? RUN_READING : RUN_DECIDED;
	p->stats.runs++;
	job_add(p->open, r, r->n_pending);
}

/* The number of the outer VLAN; 0: none.  The lengths have been checked. */
static uint16_t
vlan_of(const uint8_t *data)
{
	uint16_t type = (uint16_t)(data[12] << 8 | data[13]);

	if (type != RTE_ETHER_TYPE_VLAN && type != RTE_ETHER_TYPE_QINQ)
		return 0;
	return (uint16_t)((data[14] & 0x0f) << 8 | data[15]);
}

/* What is not in the headers of a packet, or not where it is looked for. */
static __rte_noinline void
complete(struct pipe *p, struct nf_run *r)
{
	struct flow *f = &r->packet.flow;

	f->zone = p->zone == PIPE_ZONE_VLAN ? vlan_of(r->packet.data) : (uint16_t)p->zone;
	if (!(r->packet.flags & PACKET_FRAGMENT))
		return;
	if ((r->marks & RUN_HAS_FOUND) == 0) {
		if (p->context.chain.n_all > p->context.chain.n)
			r->marks |= RUN_IS_FRAGMENT;
	} else if (r->packet.flags & PACKET_LATER_FRAGMENT) {
		f->protocol = r->protocol != 0 ? r->protocol : f->protocol;
		f->src_port = r->src_port;
		f->dst_port = r->dst_port;
	}
}

/* Not for handlers of packets: done with at once. */
static __rte_noinline void
arrive_other(struct pipe *p, struct nf_run *r, enum packet_error err)
{
	enum nf_verdict verdict;

	if (err != PACKET_NOT_IP) {
		release_dropped(p, r, NF_DROP_PARSE);
		return;
	}
	r->marks |= RUN_IS_NOT_IP;
	verdict = chain_non_ip(r);
	r->verdict = (uint8_t)verdict;
	release_run(p, r);
}

/* Makes a run of the packet, of which 'marks' are known.  False if it has ended. */
static inline bool
begin(struct pipe *p, struct nf_run *r, struct rte_mbuf *m, uint8_t marks)
{
	r->sequence = p->n_arrived++;
	r->trips = 0;
	r->attempt = 0;
	r->late = false;
	r->has_connection = false;
	r->marks = marks;
	r->lane_hash = 0;
	r->emitted = NULL;
	p->n_live++;

	enum packet_error err = packet_parse(&r->packet, rte_pktmbuf_mtod(m, uint8_t *),
					     m->data_len, m->pkt_len);

	if (unlikely(err != PACKET_OK)) {
		arrive_other(p, r, err);
		return false;
	}
	if (unlikely((p->zone | (r->packet.flags & PACKET_FRAGMENT)) != 0))
		complete(p, r);
	return true;
}

static inline bool
arrive(struct pipe *p, struct rte_mbuf *m, unsigned int side)
{
	struct nf_run *r = run_of(m);

	r->pipe = p;
	r->mbuf = m;
	r->arrived = p->now;
	r->side = (uint8_t)side;
	if (unlikely(p->ordered))
		r->slot = p->n_slots++;
	p->stats.received_bytes += m->pkt_len;
	return begin(p, r, m, 0);
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
			    (unsigned int)(PIPE_MAX_LIVE - (p->n_slots - p->n_left)));
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

/* Those that have left a run to arrive anew, in that order. */
static bool
restart_anew(struct pipe *p)
{
	bool any = false;

	while (p->anew_head != NULL && p->n_live < PIPE_MAX_LIVE) {
		struct nf_run *r = p->anew_head;

		job_open(p);
		if (p->open->n_used == JOB_MAX_ENTRIES)
			break;
		p->anew_head = r->next;
		if (p->anew_head == NULL)
			p->anew_tail = NULL;
		p->n_anew--;
		if (begin(p, r, r->mbuf, r->marks))
			pipe_start(p, r);
		any = true;
	}
	return any;
}

/* Takes what has arrived on one side, as far as there is room.  With all that a packet goes
 * through up to its handler in one function it is 3 % faster altogether. */
static __attribute__((flatten)) bool
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

	if (unlikely(p->n_anew > 0))
		any |= restart_anew(p);
	if (unlikely(!p->receiving))
		return any;
	/* The side that comes first may take all the room: they take turns. */
	p->first_side = !p->first_side;
	any |= receive(p, p->first_side);
	any |= receive(p, !p->first_side);
	if (p->leases)
		any |= timer_gather(p);
	if (p->notes != NULL)
		any |= note_gather(p);
	if (p->lane != NULL)
		any |= task_gather(p);
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

static void
set_limits(struct pipe *p, const struct pipe_config *config)
{
	uint64_t hz = rte_get_tsc_hz();

	p->zone = config->zone;
	for (unsigned int side = 0; side < 2; side++) {
		p->mtu[side] = config->mtu[side];
		p->frame_max[side] = p->mtu[side] != 0 ? p->mtu[side] + RTE_ETHER_HDR_LEN
						       : UINT32_MAX;
	}
	p->refusals = (struct bucket){
		.credit = hz, .most = hz, .at = rte_rdtsc(),
		.cost = config->refusals > 0 ? hz / config->refusals : UINT64_MAX,
	};
}

/* How packets fare without the store. */
static int
set_loss(struct pipe *p, const struct pipe_config *config)
{
	uint64_t grace = config->grace_ms * (rte_get_tsc_hz() / 1000) >> SEEN_SHIFT;

	p->loss = (uint8_t)config->loss;
	p->heeded = UINT8_MAX & ~RUN_ESTABLISHED;
	p->grace = (uint32_t)RTE_MIN(grace, (uint64_t)INT32_MAX);
	if (config->loss != PIPE_LOSS_ESTABLISHED)
		return 0;
	p->heeded = UINT8_MAX;
	p->seen = rte_zmalloc("seen", SEEN_PLACES * sizeof(*p->seen), RTE_CACHE_LINE_SIZE);
	return p->seen != NULL ? 0 : -ENOMEM;
}

static void
set_functions(struct pipe *p, const struct pipe_config *config, const uint64_t secret[3])
{
	const struct chain *chain = &config->chain;

	p->context = (struct run_context){
		.n_parts = p->store->n_partitions,
		.next_version = secret[0] >> 1,	/* 2^63 writes until it wraps. */
		.secret = secret[1],
		.packet = chain->n == 1 ? chain->stage[0].nf->packet : chain_packet,
		.writes = { p->write_buffer, p->write_buffer,
			    p->write_buffer + sizeof(p->write_buffer) },
		.touches = { p->touch_buffer, p->touch_buffer,
			     p->touch_buffer + sizeof(p->touch_buffer) },
	};
	pipe_set_static(p, chain);
	for (unsigned int i = chain_tables(chain, p->table, p->table_stage); i-- > 0;)
		p->leases |= p->table[i]->expired != NULL;
	pipe_set_formats(p, config->format);
}

static int
open_background(struct pipe *p, const struct pipe_config *config)
{
	int err = note_open(p);

	if (err == 0)
		err = events_open(p, config->events);
	if (err == 0)
		err = task_open(p, config->lane);
	return err;
}

int
pipe_open(const struct pipe_config *config, struct pipe **out)
{
	struct pipe *p = rte_zmalloc("pipe", sizeof(*p), RTE_CACHE_LINE_SIZE);
	uint64_t secret[3];
	int err = -EIO;

	if (p == NULL)
		return -ENOMEM;
	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		goto close_pipe;
	err = set_loss(p, config);
	if (err != 0)
		goto close_pipe;
	p->store = config->store;
	p->receiving = true;
	p->secret = secret[1];
	p->timers_free = UINT64_MAX;
	for (unsigned int side = 0; side < 2; side++) {
		p->port[side] = config->port[side];
		p->ordered |= p->port[side]->ordered;
	}
	set_limits(p, config);
	set_functions(p, config, secret);
	order_init(&p->order, secret[2]);
	err = ahead_open(&p->context);
	if (err != 0)
		goto close_pipe;
	err = open_background(p, config);
	if (err != 0)
		goto close_pipe;
	*out = p;
	return 0;
close_pipe:
	pipe_close(p);
	return err;
}

void
pipe_close(struct pipe *p)
{
	note_close(p);
	events_close(p);
	task_close(p);
	rte_free(p->seen);
	rte_free(p->context.ahead);
	rte_free(p);
}

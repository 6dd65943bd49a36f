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
 * open job, so there is always room (JOB_MAX_ENTRIES), and always a slot: the batch
 * that came back has freed one.
 */
#include "pipe/run.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>

#include <rte_branch_prediction.h>
#include <rte_cycles.h>
#include <rte_malloc.h>
#include <rte_prefetch.h>

#include "base/hash.h"

enum {
	TX_ROOM = 1024,				/* Packets that wait for a port. */
	ALERT_ROOM = 1024,
};

struct outbox {
	unsigned int n;
	struct rte_mbuf *packet[TX_ROOM];
};

struct pipe {
	struct run_context context;
	struct store *store;
	struct port *port[2];
	struct job *open;
	unsigned int n_jobs_in_flight;
	unsigned int n_live;			/* Runs between arrival and release. */
	uint64_t n_arrived;
	uint64_t n_left;			/* Ordered ports: released up to here. */
	bool receiving, ordered;
	uint8_t first_side;			/* To receive from in this turn. */
	uint64_t now;				/* TSC at the start of the stage. */
	unsigned int n_departed;		/* In this turn: when they had arrived. */
	uint64_t departed[PIPE_MAX_LIVE];
	struct pipe_stats stats;
	struct outbox out[2];			/* By the side they leave on. */
	struct job job[STORE_BATCHES];
	struct order order;
	struct nf_run *finished[PIPE_MAX_LIVE];	/* Ordered ports: by sequence. */
	_Atomic uint32_t alert_head, alert_tail;
	struct pipe_alert alert[ALERT_ROOM];
	uint8_t write_buffer[RUN_WRITE_BYTES];
};

unsigned int
pipe_private_bytes(void)
{
	return RTE_ALIGN_CEIL(sizeof(struct nf_run), RTE_MBUF_PRIV_ALIGN);
}

struct run_context *
pipe_run_context(struct pipe *p)
{
	return &p->context;
}

void
pipe_count_drop(struct pipe *p, enum nf_drop reason)
{
	p->stats.dropped[reason]++;
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

/* Ends a stage: the cycles since the last one ended are its. */
static void
stage_end(struct pipe *p, enum pipe_stage stage)
{
	uint64_t now = rte_rdtsc();

	p->stats.cycles[stage] += now - p->now;
	p->now = now;
}

/* --- release ------------------------------------------------------------------ */

static bool
flush_side(struct pipe *p, unsigned int side)
{
	struct outbox *out = &p->out[side];

	if (out->n == 0)
		return false;

	unsigned int n = p->port[side]->ops->tx(p->port[side], out->packet, out->n);

	memmove(out->packet, out->packet + n, (out->n - n) * sizeof(*out->packet));
	out->n -= n;
	return n > 0;
}

static void
send_packet(struct pipe *p, unsigned int side, struct rte_mbuf *m)
{
	struct outbox *out = &p->out[side];

	if (unlikely(out->n == TX_ROOM && !flush_side(p, side))) {
		pipe_count_drop(p, NF_DROP_TRANSMIT);
		rte_pktmbuf_free(m);
		return;
	}
	out->packet[out->n++] = m;
}

static void
report_alerts(struct pipe *p, const struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_alerts; i++) {
		uint32_t tail = atomic_load_explicit(&p->alert_tail, memory_order_relaxed);

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
	if (p->n_departed < PIPE_MAX_LIVE)
		p->departed[p->n_departed++] = r->arrived;
	if (unlikely(r->n_alerts > 0))
		report_alerts(p, r);
	switch ((enum nf_verdict)r->verdict) {
	case NF_SEND:
		run_rewrite(r);
		p->stats.sent++;
		send_packet(p, to, r->mbuf);
		break;
	case NF_KEEP:
		p->stats.kept++;
		rte_pktmbuf_free(r->mbuf);
		break;
	default:
		pipe_count_drop(p, r->drop);
		rte_pktmbuf_free(r->mbuf);
		break;
	}
	while (unlikely(emitted != NULL)) {
		struct rte_mbuf *m = emitted;

		emitted = run_of(m)->emitted_next;
		p->stats.emitted++;
		send_packet(p, to, m);
	}
}

/* The run has ended.  Packets of ordered ports leave in the order they came. */
static void
release(struct pipe *p, struct nf_run *r)
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

static void
release_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	if (unlikely(r->emitted != NULL))
		run_free_emitted(r);
	r->n_alerts = 0;
	r->verdict = NF_DROP;
	r->drop = reason;
	release(p, r);
}

/* --- jobs --------------------------------------------------------------------- */

/* Makes sure that a job is open. */
static void
job_open(struct pipe *p)
{
	if (p->open != NULL)
		return;

	struct store_batch *b = p->store->ops->batch(p->store);
	struct job *job = p->job;

	/* A batch in flight, one being settled, one open: STORE_BATCHES. */
	assert(b != NULL);
	while (job->batch != NULL)
		job++;
	job->batch = b;
	job->n_entries = 0;
	job->n_new = 0;
	job->n_ops = 0;
	b->owner = job;
	p->open = job;
	p->context.request = &b->request;
}

static void
job_add(struct job *job, struct nf_run *r, unsigned int n_ops)
{
	job->entry[job->n_entries++] = r;
	job->n_ops += n_ops;
}

static void
job_free(struct pipe *p, struct job *job)
{
	p->store->ops->free(p->store, job->batch);
	job->batch = NULL;
}

/* --- run ---------------------------------------------------------------------- */

/* The first execution: its reads go into the open job.  A run that decides without
 * reading goes there too, so that it does not overtake its flow; it is run again at
 * its turn. */
static void
start(struct pipe *p, struct nf_run *r)
{
	r->n_fetched = 0;
	r->first = 0;
	r->speculative = false;
	r->has_group = false;
	r->state = run_execute(&p->context, r) == NF_WAIT ? RUN_READING : RUN_DECIDED;
	p->stats.runs++;
	job_add(p->open, r, r->n_pending);
}

static inline void
prefetch_run(const struct nf_run *r)
{
	rte_prefetch0(r);
	rte_prefetch0((const char *)r + 64);
	rte_prefetch0((const char *)r + 128);
	rte_prefetch0(&r->value[0]);
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
		release(p, r);
	} else {
		release_dropped(p, r, err == PACKET_NOT_IP ? NF_DROP_NOT_IP : NF_DROP_PARSE);
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
			prefetch_run(run_of(packets[i + 4]));
		}
		if (likely(arrive(p, packets[i], side)))
			run[n_runs++] = run_of(packets[i]);
	}
	p->stats.received += n;
	p->open->n_new += n_runs;
	for (unsigned int i = 0; i < n_runs; i++)
		start(p, run[i]);
}

/* How many more packets may come in. */
static unsigned int
room(const struct pipe *p)
{
	unsigned int n = PIPE_MAX_LIVE - p->n_live;

	n = RTE_MIN(n, (unsigned int)PIPE_BURST);
	if (p->open != NULL) {
		n = RTE_MIN(n, JOB_MAX_ENTRIES - p->open->n_entries);
		n = RTE_MIN(n, PIPE_BATCH - p->open->n_new);
	}
	if (p->ordered)
		n = RTE_MIN(n, (unsigned int)(PIPE_MAX_LIVE - (p->n_arrived - p->n_left)));
	return n;
}

/* Runs that were parked or lost a race start again, before anything new. */
static bool
restart_runs(struct pipe *p)
{
	bool any = false;

	while (p->order.restart_head != NULL) {
		job_open(p);
		if (p->open->n_entries == JOB_MAX_ENTRIES)
			break;
		start(p, order_next_restart(&p->order));
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
		stage_end(p, PIPE_STAGE_RECEIVE);
		if (n == 0)
			break;
		job_open(p);
		arrive_burst(p, packets, n, side);
		stage_end(p, PIPE_STAGE_RUN);
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
	return any;
}

/* --- settle ------------------------------------------------------------------- */

/* Takes the answers to one run's operations off the reply. */
static int
bind(struct frame_cursor *reply, struct nf_run *r)
{
	struct frame_value v;

	if (r->state == RUN_COMMITTING) {
		if (frame_reply_next(reply, &v) != 1)
			return -EBADMSG;
		r->fate = v.answer == FRAME_APPLIED    ? RUN_APPLIED
			  : v.answer == FRAME_CONFLICT ? RUN_CONFLICT
						       : RUN_REFUSED;
		return 0;
	}
	for (unsigned int k = 0, i = r->first; k < r->n_pending + r->n_fetched; k++) {
		if (unlikely(frame_reply_next(reply, &v) != 1))
			return -EBADMSG;
		r->value[i].value = v.value;
		r->value[i].version = v.version;
		r->value[i].value_bytes = v.value_bytes;
		r->value[i].format = v.format;
		r->value[i].unacknowledged = false;
		if (++i == r->n_asked)
			i = 0;
	}
	r->n_fetched = r->n_asked;
	r->speculative = false;
	return 0;
}

/* The next one may decide; 'r' leaves. */
static void
end_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	order_decided(&p->order, r);
	release_dropped(p, r, reason);
}

/* A run that has to start again. */
static void
retry(struct pipe *p, struct nf_run *r)
{
	r->has_group = false;
	if (++r->attempt >= RUN_MAX_TRIPS)
		end_dropped(p, r, NF_DROP_CONFLICT);
	else
		order_retry(&p->order, r);
}

/* Those of the commit queue whose fate is known leave, or start again. */
static void
release_committed(struct pipe *p)
{
	struct nf_run *r;

	while ((r = order_next_committed(&p->order)) != NULL) {
		enum run_fate fate = r->has_group ? (enum run_fate)r->fate
				     : r->doomed  ? RUN_CONFLICT
						  : RUN_APPLIED;

		switch (fate) {
		case RUN_APPLIED:
			release(p, r);
			break;
		case RUN_CONFLICT:
			p->stats.conflicts++;
			retry(p, r);
			break;
		default:
			release_dropped(p, r, fate == RUN_LOST ? NF_DROP_STORE_LOST
							       : NF_DROP_STORE_REFUSED);
			break;
		}
	}
}

/* The run asked for more than is here. */
static void
wait_more(struct pipe *p, struct nf_run *r, uint8_t *mark)
{
	if (++r->trips >= RUN_MAX_TRIPS) {
		p->context.request->at = mark;
		end_dropped(p, r, NF_DROP_CONFLICT);
		return;
	}
	run_ask_again(&p->context, r);
	r->state = RUN_READING;
	order_late(&p->order, r);
	job_add(p->open, r, r->n_asked);
}

/* Runs 'r' with its values.  Most runs leave here. */
static void
decide(struct pipe *p, struct nf_run *r)
{
	if (unlikely(!order_quiet(&p->order))) {
		if (order_park(&p->order, r)) {
			p->stats.parked++;
			return;
		}
		order_overlay(&p->order, r);
	}

	uint8_t *mark = p->context.request->at;
	enum nf_verdict verdict = run_execute(&p->context, r);

	p->stats.runs++;
	if (unlikely(verdict == NF_WAIT)) {
		wait_more(p, r, mark);
		return;
	}
	p->context.request->at = mark;
	r->verdict = verdict;
	if (r->n_writes > 0) {
		run_put_group(&p->context, r);
		job_add(p->open, r, 1);
		order_commit(&p->order, r);
	} else if (unlikely(r->speculative || order_committing(&p->order, r))) {
		order_commit(&p->order, r);
	} else {
		order_decided(&p->order, r);
		release(p, r);
		return;
	}
	order_decided(&p->order, r);
}

/* The store did not answer, or answered nonsense. */
static void
job_lost(struct pipe *p, struct job *job, unsigned int from)
{
	for (unsigned int i = from; i < job->n_entries; i++) {
		struct nf_run *r = job->entry[i];

		if (r->state == RUN_COMMITTING)
			r->fate = RUN_LOST;
		else
			end_dropped(p, r, NF_DROP_STORE_LOST);
	}
	job->n_entries = from;
}

/* Entries are taken in the order of the frame.  A group that stands behind a read was
 * applied after it: that run still needs what the group wrote from the overlay. */
static void
pipe_settle(struct pipe *p, struct job *job)
{
	struct frame_cursor reply = job->batch->reply;
	unsigned int n = job->batch->error == 0 ? job->n_entries : 0;

	for (unsigned int i = 0; i < n; i++) {
		struct nf_run *r = job->entry[i];

		if (i + 3 < n)
			prefetch_run(job->entry[i + 3]);
		if (r->state != RUN_DECIDED && unlikely(bind(&reply, r) != 0)) {
			n = i;
			break;
		}
		if (r->state == RUN_COMMITTING)
			release_committed(p);
		else
			decide(p, r);
	}
	if (unlikely(n < job->n_entries)) {
		job_lost(p, job, n);
		release_committed(p);
	}
	job_free(p, job);
}

static bool
pipe_submit(struct pipe *p)
{
	struct job *job = p->open;

	if (job == NULL || job->n_entries == 0)
		return false;
	if (job->n_ops > 0 || p->n_jobs_in_flight > 0) {
		int err = p->store->ops->submit(p->store, job->batch);

		if (err == 0) {
			p->n_jobs_in_flight++;
			p->stats.batches++;
			p->open = NULL;
			return true;
		}
		/* Lost, and all before it have come back: so is this one. */
		if (err != -ENOTCONN || p->n_jobs_in_flight > 0)
			return false;
		job->batch->error = err;
	} else {
		job->batch->error = 0;
	}
	p->open = NULL;
	job_open(p);
	pipe_settle(p, job);
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

		p->n_jobs_in_flight--;
		stage_end(p, PIPE_STAGE_STORE);
		if (p->open != NULL &&
		    p->open->n_entries + job->n_entries > JOB_MAX_ENTRIES &&
		    !pipe_submit(p))
			job->batch->error = -EBUSY;
		job_open(p);
		pipe_settle(p, job);
		stage_end(p, PIPE_STAGE_SETTLE);
		any = true;
	}
	return any;
}

/* Those that left in this turn have left now. */
static void
count_residence(struct pipe *p)
{
	for (unsigned int i = 0; i < p->n_departed; i++)
		p->stats.residence[pipe_residence_bucket(p->now - p->departed[i])]++;
	p->n_departed = 0;
}

bool
pipe_turn(struct pipe *p)
{
	bool any;

	p->now = rte_rdtsc();
	any = pipe_gather(p);
	any |= pipe_submit(p);
	any |= pipe_collect(p);
	stage_end(p, PIPE_STAGE_STORE);
	any |= flush_side(p, NF_INSIDE);
	any |= flush_side(p, NF_OUTSIDE);
	if (any) {
		stage_end(p, PIPE_STAGE_TRANSMIT);
		count_residence(p);
	}
	return any;
}

unsigned int
pipe_tables(const struct nf *nf, struct store_table *declared)
{
	struct nf_table *table[STORE_MAX_TABLES];
	unsigned int n = nf_tables(nf, 0, table, STORE_MAX_TABLES);

	for (unsigned int i = 0; i < n; i++) {
		const struct nf_table *t = table[i];

		declared[i] = (struct store_table){ .key_max = t->key_max,
						    .value_max = t->value_max,
						    .format = t->format };
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
	for (unsigned int side = 0; side < 2; side++) {
		p->port[side] = config->port[side];
		p->ordered |= p->port[side]->ordered;
	}
	p->context = (struct run_context){
		.next_version = secret[0] >> 1,	/* 2^63 writes until it wraps. */
		.secret = secret[1],
		.nf = config->nf,
		.nf_static = config->nf_static,
		.writes = { p->write_buffer, p->write_buffer,
			    p->write_buffer + sizeof(p->write_buffer) },
	};
	order_init(&p->order, secret[2]);
	*out = p;
	return 0;
}

void
pipe_close(struct pipe *p)
{
	rte_free(p);
}

/*
 * settle.c - what a pipe does with a batch that came back.
 *
 * Runs get their values and decide; most of them are released at once.  Those that wrote
 * put their group into the open job and are released when that is acknowledged; those
 * that lost a race, or need more, go round again.
 *
 * A batch whose groups have to reach replicas comes back twice.  The first time its reads
 * are settled and its groups stay; what they wrote is in the overlay until the second.
 * Those of light runs are over the first time.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

/* Takes the answers to one run's reads off the replies of the partitions that it asked.
 * Where one is lost, those of the others are still taken off. */
static __rte_always_inline int
bind_from(struct store_part *part, struct nf_run *r, bool only_one)
{
	struct frame_value v;
	int err = 0;

	for (unsigned int k = 0, i = r->first; k < r->n_pending + r->n_fetched; k++) {
		struct run_value *value = &r->value[i];
		struct store_part *from = only_one ? part : &part[value->part];

		if (++i == r->n_asked)
			i = 0;
		if (!only_one && unlikely(from->error != 0)) {
			err = from->error;
			continue;
		}
		if (unlikely(frame_reply_next(&from->reply, &v) != 1)) {
			from->error = err = -EBADMSG;
			continue;
		}
		value->value = v.value;
		value->version = v.version;
		value->value_bytes = v.value_bytes;
		value->format = v.format;
	}
	r->n_fetched = r->n_asked;
	r->speculative = 0;
	r->unacknowledged = 0;
	return err;
}

static inline int
bind(const struct pipe *p, struct store_part *part, struct nf_run *r)
{
	if (unlikely(p->context.n_parts > 1))
		return bind_from(part, r, false);
	if (unlikely(part->error != 0))
		return part->error;
	return bind_from(part, r, true);
}

/* The next one may decide; 'r' leaves. */
static void
end_dropped(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	order_decided(&p->order, r);
	release_dropped(p, r, reason);
}

/* Whether its packet passes although the store does not answer. */
static bool
may_pass(struct pipe *p, struct nf_run *r)
{
	if (r->mbuf == NULL || p->loss == PIPE_LOSS_DROP)
		return false;
	return p->loss == PIPE_LOSS_PASS || release_seen(p, r);
}

static void
passed_unseen(struct pipe *p)
{
	p->stats.passed_unseen++;
	p->unseen = (uint32_t)(p->now >> SEEN_SHIFT) | 1;
}

/* The store did not answer what the run has to know. */
static void
end_lost(struct pipe *p, struct nf_run *r)
{
	if (likely(!may_pass(p, r))) {
		end_dropped(p, r, NF_DROP_STORE_LOST);
		return;
	}
	order_decided(&p->order, r);
	if (r->emitted != NULL)
		run_free_emitted(r);
	r->n_alerts = 0;
	r->edits = 0;
	r->extras = 0;
	r->verdict = NF_SEND;
	passed_unseen(p);
	release_run(p, r);
}

/* The same for one that has decided, if nobody knows whether its group was applied. */
static void
release_lost(struct pipe *p, struct nf_run *r)
{
	if (r->verdict == NF_SEND && may_pass(p, r)) {
		passed_unseen(p);
		r->extras = 0;
		release_run(p, r);
		return;
	}
	release_dropped(p, r, NF_DROP_STORE_LOST);
}

/* A run that has to start again; if it did so too often, 'reason' is why. */
static void
retry(struct pipe *p, struct nf_run *r, enum nf_drop reason)
{
	r->has_group = false;
	if (r->mbuf == NULL || ++r->attempt >= RUN_MAX_TRIPS)
		end_dropped(p, r, reason);
	else
		order_retry(&p->order, r);
}

/* Those of the commit queues whose fate is known leave, or start again. */
static void
release_committed(struct pipe *p)
{
	struct nf_run *r;

	while ((r = order_next_committed(&p->order)) != NULL) {
		if (r->has_group) {
			r->job->n_groups--;
			job_done(p, r->job);
		}

		enum run_fate fate = r->has_group ? (enum run_fate)r->fate
				     : r->doomed  ? RUN_CONFLICT
						  : RUN_APPLIED;

		switch (fate) {
		case RUN_APPLIED:
			release_run(p, r);
			break;
		case RUN_CONFLICT:
			p->stats.conflicts++;
			retry(p, r, NF_DROP_CONFLICT);
			break;
		case RUN_BOUND:
			p->stats.bounds++;
			retry(p, r, NF_DROP_LIMIT);
			break;
		case RUN_FULL:
			release_dropped(p, r, NF_DROP_STORE_FULL);
			break;
		case RUN_LOST:
			if (r->extras & RUN_LOGS)
				events_put(p, r, true);
			/* fall through */
		case RUN_UNSENT:
			release_lost(p, r);
			break;
		default:
			release_dropped(p, r, NF_DROP_STORE_REFUSED);
			break;
		}
	}
}

/* The run asked for more than is here. */
static void
wait_more(struct pipe *p, struct nf_run *r)
{
	if (++r->trips >= RUN_MAX_TRIPS) {
		run_take_back(&p->context, r);
		end_dropped(p, r, NF_DROP_CONFLICT);
		return;
	}
	run_ask_again(&p->context, r);
	r->state = RUN_READING;
	/* Fragments that look for their first do so side by side: in a flood, each would
	 * wait for the trips of all before it. */
	if (likely(!(r->marks & RUN_IS_FRAGMENT)))
		order_late(&p->order, r);
	job_add(p->open, r, r->n_asked);
}

/* An earlier run of its connection is not decided yet.  What this one will want to read
 * beyond what is here it asks for all the same, so that both share a trip: a connection
 * behind a function that rewrites would else get on by one packet in two trips. */
static void
wait_turn(struct pipe *p, struct nf_run *r)
{
	if (!(r->marks & RUN_IS_FRAGMENT) && r->trips < RUN_MAX_TRIPS / 2) {
		order_overlay(&p->order, r);
		p->stats.runs++;
		if (run_execute(&p->context, r) == NF_WAIT) {
			wait_more(p, r);
			return;
		}
		if (r->n_pending > 0)
			run_take_back(&p->context, r);
	}
	order_park(&p->order, r);
	p->stats.parked++;
}

/* Puts the touches of a run that has decided into the open job. */
static void
put_touches(struct pipe *p, const struct nf_run *r)
{
	if (p->context.n_touches == 0)
		return;
	run_put_touches(&p->context);
	p->open->n_ops += p->context.n_touches;
	/* With a group, the run counts by its entry. */
	if (r->n_writes == 0)
		p->open->n_used++;
}

/* Puts the group of a run that has decided into the open job. */
static void
put_group(struct pipe *p, struct nf_run *r)
{
	struct store_part *part = &p->context.part[r->part];
	bool first = part->request.groups == NULL;

	run_put_group(&p->context, r);
	job_add(p->open, r, 1);
	r->job = p->open;
	p->open->n_groups++;
	order_commit(&p->order, r);
	part->may_lose = r->light && (first || part->may_lose);
}

/* Runs 'r' with its values.  Most runs leave here.  Where it is 'tight', the open job may
 * have no room for what the run asks or writes. */
static inline void
decide(struct pipe *p, struct nf_run *r, bool tight)
{
	if (unlikely(tight) && p->open->n_used == JOB_MAX_ENTRIES) {
		order_retry(&p->order, r);
		return;
	}
	if (unlikely(!order_quiet(&p->order))) {
		if (order_waits(&p->order, r)) {
			wait_turn(p, r);
			return;
		}
		order_overlay(&p->order, r);
	}

	enum nf_verdict verdict = run_execute(&p->context, r);

	p->stats.runs++;
	if (unlikely(verdict == NF_WAIT)) {
		wait_more(p, r);
		return;
	}
	if (unlikely((r->n_pending | p->context.n_touches) != 0)) {
		if (r->n_pending > 0)
			run_take_back(&p->context, r);
		put_touches(p, r);
	}
	r->verdict = verdict;
	if (r->n_writes > 0) {
		put_group(p, r);
	} else if (unlikely(r->speculative || order_committing(&p->order, r))) {
		order_commit(&p->order, r);
	} else {
		order_decided(&p->order, r);
		release_run(p, r);
		return;
	}
	order_decided(&p->order, r);
}

static enum run_fate
fate_of(uint8_t answer)
{
	static const uint8_t fates[FRAME_N_ANSWERS] = {
		[FRAME_APPLIED] = RUN_APPLIED, [FRAME_CONFLICT] = RUN_CONFLICT,
		[FRAME_REFUSED] = RUN_REFUSED, [FRAME_BOUND] = RUN_BOUND,
		[FRAME_FULL] = RUN_FULL,
	};

	return fates[answer];
}

static enum run_fate
fate_of_error(int error)
{
	if (error == -ENOMEM)
		return RUN_REFUSED;
	/* -EBADMSG may also be of a reply that could not be read. */
	return error == -ENOTCONN ? RUN_UNSENT : RUN_LOST;
}

/* Takes the answer to a group off its partition's reply: the next one that is a group's,
 * as reads that were settled before are still among them. */
static enum run_fate
take_fate(struct store_part *part)
{
	struct frame_value v = { .answer = FRAME_MISS };

	if (unlikely(part->error != 0))
		return fate_of_error(part->error);
	while (v.answer < FRAME_APPLIED) {
		if (unlikely(frame_reply_next(&part->reply, &v) != 1)) {
			part->error = -EBADMSG;
			return RUN_LOST;
		}
	}
	return fate_of(v.answer);
}

/* The second time: only groups are left. */
static void
settle_groups(struct pipe *p, struct job *job)
{
	for (unsigned int i = 0; i < job->n_entries; i++) {
		struct nf_run *r = job->entry[i];
		uint8_t part = r != NULL ? r->part : job->left_part[i];
		enum run_fate fate = take_fate(&job->batch->part[part]);

		if (r == NULL)
			continue;
		r->fate = fate;
		release_committed(p);
	}
	job->settled = true;
	job_done(p, job);
}

/* A group's answer.  Unless it is final, there will be another one in its place, which
 * 'n_stay' counts; that one holds, if the run is not light. */
static inline void
settle_group(struct pipe *p, struct job *job, struct nf_run *r, unsigned int *n_stay)
{
	bool final = job->batch->final, stays = !final && !r->light;
	enum run_fate fate = take_fate(&job->batch->part[r->part]);

	if (unlikely(p->order.n_guesses > 0))
		guess_answered(&p->order, r);
	if (unlikely(!final)) {
		job->entry[*n_stay] = stays ? r : NULL;
		job->left_part[(*n_stay)++] = r->part;
	}
	if (unlikely(stays))
		return;
	r->fate = fate;
	release_committed(p);
}

/* Entries are taken in the order of the frame.  A group that stands behind a read was
 * applied after it: that run still needs what the group wrote from the overlay. */
void
pipe_settle(struct pipe *p, struct job *job)
{
	struct store_batch *b = job->batch;
	unsigned int n = job->n_entries, n_stay = 0;
	bool tight = p->open->n_used + n > JOB_MAX_ENTRIES;

	if (unlikely(job->answered)) {
		settle_groups(p, job);
		return;
	}
	for (unsigned int i = 0; i < n; i++) {
		struct nf_run *r = job->entry[i];

		if (i + 3 < n)
			run_prefetch(job->entry[i + 3]);
		if (r->state == RUN_COMMITTING)
			settle_group(p, job, r, &n_stay);
		else if (r->state == RUN_DECIDED || likely(bind(p, b->part, r) == 0))
			decide(p, r, tight);
		else
			end_lost(p, r);
	}
	if (likely(b->final)) {
		job->settled = true;
		job_done(p, job);
		return;
	}
	job->n_entries = n_stay;
	job->answered = true;
	p->stats.uncommitted++;
}

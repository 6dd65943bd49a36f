/*
 * settle.c - what a pipe does with a batch that came back.
 *
 * Runs get their values and decide; most of them are released at once.  Those that wrote
 * put their group into the open job and are released when that is acknowledged; those
 * that lost a race, or need more, go round again.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

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
			release_run(p, r);
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
		release_run(p, r);
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
void
pipe_settle(struct pipe *p, struct job *job)
{
	struct frame_cursor reply = job->batch->reply;
	unsigned int n = job->batch->error == 0 ? job->n_entries : 0;

	for (unsigned int i = 0; i < n; i++) {
		struct nf_run *r = job->entry[i];

		if (i + 3 < n)
			run_prefetch(job->entry[i + 3]);
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

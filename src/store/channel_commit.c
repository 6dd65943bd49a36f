/*
 * channel_commit.c - which answered groups enough replicas have.
 *
 * A connection that asks for the replicas' acknowledgement is blocked until it is there,
 * so this is one beside the frames, and no read ever waits for a replica.  While parts
 * are uncommitted, rounds run on it, one after the other: SNF.MARK, which makes sure that
 * this is still the term that answered them, and WAIT, which covers all that the server
 * did before the mark.  So what was answered when a round was sent is committed when
 * its WAIT counts enough replicas: all of it at once, however many parts.
 */
#include "store/channel.h"

enum { COMMIT_WAIT_MS = 100 };			/* Then the next round covers more. */

static void
round_start(struct channel *c, uint64_t now_ms)
{
	const struct channel_ring *r = &c->uncommitted;
	struct resp_out o = channel_ask_start(&c->round, &c->frames);
	unsigned int wait_ms = c->timeout_ms < COMMIT_WAIT_MS ? c->timeout_ms
							      : COMMIT_WAIT_MS;

	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "SNF.MARK", 8);
	resp_put_string(&o, c->frames.key, strlen(c->frames.key));
	resp_put_number(&o, c->term);
	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "WAIT", 4);
	resp_put_number(&o, ring_at(r, 0)->commit);
	resp_put_number(&o, wait_ms);
	channel_ask_end(&c->round, &o, &c->commits, c->frames.asking ? 3 : 2, now_ms);
	c->round_id = ring_at(r, r->n - 1)->id;
}

/* So many replicas have what the round covers. */
static void
round_end(struct channel *c, int64_t n_replicas)
{
	struct channel_ring *r = &c->uncommitted;

	while (r->n > 0 && ring_at(r, 0)->id <= c->round_id &&
	       ring_at(r, 0)->commit <= n_replicas)
		ring_pop(r)->batch->n_uncommitted--;
}

/* Takes the lines of the answer.  Returns whether the round has ended. */
static bool
round_receive(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->commits;
	bool drained = false;

	while (c->round.n_lines > 0) {
		struct resp r;
		ssize_t n = resp_next(l->rx + l->rx_at, l->rx_end - l->rx_at, &r);

		if (n == 0) {
			if (drained || channel_receive(l, now_ms, &drained) == 0)
				return false;
			continue;
		}
		if (n > 0 && r.type == '-') {
			channel_refused(c, l, r.text, r.text_bytes, now_ms);
			c->round.n_lines = 0;
			return false;
		}
		if (n < 0 || r.type != (c->round.n_lines == 3 ? '+' : ':')) {
			link_fail(l, now_ms, "the server's answer makes no sense");
			return false;
		}
		l->rx_at += (size_t)n;
		if (--c->round.n_lines == 0)
			round_end(c, r.number);
	}
	return true;
}

void
commit_turn(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->commits;
	struct channel_ask *a = &c->round;

	link_turn(l, now_ms);
	if (l->state != LINK_UP || l->connection != a->connection)
		a->n_lines = 0;
	while (l->state == LINK_UP && c->frames.state == LINK_UP) {
		if (a->n_lines == 0 && c->uncommitted.n == 0)
			return;
		if (a->n_lines == 0)
			round_start(c, now_ms);
		if (now_ms - a->asked_ms >= COMMIT_WAIT_MS + c->timeout_ms) {
			link_fail(l, now_ms, "no answer within %u ms", c->timeout_ms);
			return;
		}
		if (!channel_ask_send(a, l, now_ms) || !round_receive(c, now_ms))
			return;
	}
}

/*
 * channel_commit.c - which answered groups enough replicas have.
 *
 * A connection that asks for the replicas' acknowledgement is blocked until it is there,
 * so this is one beside the frames, and no read ever waits for a replica.  While parts
 * are uncommitted, rounds run on it, one after the other: SNF.MARK, which leaves a mark
 * in the stream to the replicas; WAIT, which waits for that mark and so covers all that
 * the server did before it; and SNF.MARK again.  A mark is answered by the server of this
 * term only: both are, so the term was the same in between.  A server that was demoted
 * and promoted again there has another history, in which WAIT means nothing.
 *
 * So what was answered when a round was sent is committed when its WAIT counted enough
 * replicas and its second mark is answered: all of it at once, however many parts.
 *
 * Where replicas are missing, nothing waits long for them: see channel_patience_ms().  So
 * what needs none, and travels in the same batches, is not held up.
 *
 * SNF.MARK answers how many replicas there are.  For a caller who watches for the first
 * one, it is asked now and then for that alone.
 */
#include "store/channel.h"

enum { COMMIT_WAIT_MS = 100 };			/* Then the next round covers more. */

/* When an unanswered round has failed: so early that another connection can still tell
 * of those that it covers, before their time is over. */
static uint64_t
round_fails_ms(const struct channel *c)
{
	return c->round.asked_ms + COMMIT_WAIT_MS + c->timeout_ms / 2;
}

static void
put_mark(struct resp_out *o, const struct channel *c)
{
	resp_put_head(o, '*', 3);
	resp_put_string(o, "SNF.MARK", 8);
	resp_put_string(o, c->frames.key, strlen(c->frames.key));
	resp_put_number(o, c->term);
}

static void
round_start(struct channel *c, uint64_t now_ms)
{
	const struct channel_ring *r = &c->uncommitted;
	struct resp_out o = channel_ask_start(&c->round, &c->frames);
	unsigned int n_lines = c->frames.asking ? 2 : 1;

	put_mark(&o, c);
	c->round_id = 0;
	c->round_commit = 0;
	c->round_replicas = 0;
	if (r->n > 0) {
		c->round_commit = ring_at(r, 0)->commit;
		resp_put_head(&o, '*', 3);
		resp_put_string(&o, "WAIT", 4);
		resp_put_number(&o, c->round_commit);
		resp_put_number(&o, earlier(c->timeout_ms, COMMIT_WAIT_MS));
		channel_put_asking(&o, &c->frames);
		put_mark(&o, c);
		n_lines = 2 * n_lines + 1;
		c->round_id = ring_at(r, r->n - 1)->id;
	}
	channel_ask_end(&c->round, &o, &c->commits, n_lines, now_ms);
}

/* What the round covers is where it has to be. */
static void
round_end(struct channel *c)
{
	struct channel_ring *r = &c->uncommitted;

	if (c->round_commit > 0 && c->round_replicas >= c->round_commit)
		c->missing = false;
	while (r->n > 0 && ring_at(r, 0)->id <= c->round_id &&
	       ring_at(r, 0)->commit <= c->round_replicas)
		ring_pop(r)->batch->n_uncommitted--;
}

/* Takes the lines of the answer.  Returns whether the round has ended. */
static bool
round_receive(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->commits;
	/* The answers of a round; to a mark alone it is as to the last one. */
	const char *kinds = c->frames.asking ? "+mw+m" : "mwm";
	bool drained = false;

	while (c->round.n_lines > 0) {
		char kind = kinds[strlen(kinds) - c->round.n_lines];
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
		if (n < 0 || r.type != (kind == '+' ? '+' : ':')) {
			link_fail(l, now_ms, "the server's answer makes no sense");
			return false;
		}
		l->rx_at += (size_t)n;
		if (kind == 'w')
			c->round_replicas = r.number;
		else if (kind == 'm')
			c->replicated |= r.number > 0;
		if (--c->round.n_lines == 0)
			round_end(c);
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
		if (a->n_lines == 0 && !round_is_due(c, now_ms))
			return;
		if (a->n_lines == 0)
			round_start(c, now_ms);
		if (now_ms >= round_fails_ms(c)) {
			link_fail(l, now_ms, "no answer within %u ms",
				  COMMIT_WAIT_MS + c->timeout_ms / 2);
			return;
		}
		if (!channel_ask_send(a, l, now_ms) || !round_receive(c, now_ms))
			return;
	}
}

unsigned int
commit_wait_fds(struct channel *c, int *fd, unsigned int max, uint64_t now_ms,
		uint64_t *until_ms)
{
	const struct link *l = &c->commits;
	const struct channel_ask *a = &c->round;
	uint64_t until = link_due_ms(l, now_ms), watch = a->asked_ms + CHANNEL_WATCH_MS;

	/* Nobody reads from it meanwhile: its end must not wake who sleeps. */
	if (a->n_lines == 0 && c->uncommitted.n == 0 && l->state != LINK_GREETING) {
		if (c->watch)
			*until_ms = earlier(*until_ms,
					    l->state == LINK_UP || now_ms < watch
						    ? watch : until);
		return 0;
	}
	if (a->n_lines > 0) {
		until = earlier(until, round_fails_ms(c));
		if (a->sent < a->n)
			until = earlier(until, now_ms + CHANNEL_SOON_MS);
	}
	if (c->uncommitted.n > 0)
		until = earlier(until,
				ring_at(&c->uncommitted, 0)->asked_ms +
					channel_patience_ms(c));
	*until_ms = earlier(*until_ms, until);
	return link_fds(l, fd, max);
}

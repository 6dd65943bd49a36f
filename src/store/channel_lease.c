/*
 * channel_lease.c - records whose time has passed, leased to this client.
 *
 * The server pushes them: one SNF.DUE is always outstanding, and is answered when there
 * are some.  The next one is asked when all of them were given out and the caller is
 * done with reading them, so that a client never holds more leases than it works on.
 */
#include "store/channel.h"

#include <stdlib.h>

enum {
	LEASE_WAIT_MS = 10000,			/* Then it answers that there are none. */
};

static void
due_start(struct channel *c, uint64_t now_ms)
{
	struct resp_out o = channel_ask_start(&c->due, &c->frames);

	resp_put_head(&o, '*', 5 + (size_t)__builtin_popcountll(c->leased));
	resp_put_string(&o, "SNF.DUE", 7);
	resp_put_string(&o, c->frames.key, strlen(c->frames.key));
	resp_put_number(&o, c->term);
	resp_put_number(&o, STORE_MAX_LEASES);
	resp_put_number(&o, LEASE_WAIT_MS);
	for (uint64_t left = c->leased; left != 0; left &= left - 1)
		resp_put_number(&o, c->table_id[__builtin_ctzll(left)]);
	channel_ask_end(&c->due, &o, &c->leases, c->frames.asking ? 2 : 1, now_ms);
	c->message.want = c->message.got = 0;
}

/* Takes the lines before the message.  Returns whether it is known how long it is. */
static bool
due_line(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->leases;
	struct resp r;
	ssize_t n = resp_next(l->rx + l->rx_at, l->rx_end - l->rx_at, &r);
	char want = c->due.n_lines == 2 ? '+' : '$';

	if (n == 0)
		return false;
	if (n > 0 && r.type == '-') {
		channel_refused(c, l, r.text, r.text_bytes, now_ms);
		c->due.n_lines = 0;
		return false;
	}
	if (n < 0 || r.type != want ||
	    (want == '$' && (r.number < FRAME_REPLY_HEAD_BYTES ||
			     r.number > FRAME_MAX_REPLY_BYTES))) {
		link_fail(l, now_ms, "the server's leases make no sense");
		return false;
	}
	l->rx_at += (size_t)n;
	if (want == '+') {
		c->due.n_lines--;
		return due_line(c, now_ms);
	}
	if (bulk_expect(&c->message, (size_t)r.number) != 0)
		link_fail(l, now_ms, "no memory for the server's leases");
	return l->state == LINK_UP;
}

/* All of the message is here. */
static void
due_check(struct channel *c, uint64_t now_ms)
{
	size_t n = c->message.want - 2;

	c->due.n_lines = 0;
	if (memcmp(c->message.bytes + n, "\r\n", 2) != 0 ||
	    frame_leases_open(c->message.bytes, n, &c->lease) != 0) {
		c->lease = (struct frame_cursor){ NULL, NULL };
		link_fail(&c->leases, now_ms, "the server's leases make no sense");
		return;
	}
	c->lease_held = c->lease.at != c->lease.end;
}

static void
due_receive(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->leases;
	bool drained = false;

	while (c->due.n_lines > 0 && l->state == LINK_UP) {
		size_t before = c->message.got;

		if (c->message.want == 0) {
			if (!due_line(c, now_ms) && l->state == LINK_UP &&
			    (drained || channel_receive(l, now_ms, &drained) == 0))
				return;
			continue;
		}
		if (bulk_take(&c->message, l, now_ms))
			due_check(c, now_ms);
		else if (c->message.got == before)
			return;
	}
}

void
lease_turn(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->leases;
	struct channel_ask *a = &c->due;

	link_turn(l, now_ms);
	if (l->state != LINK_UP || l->connection != a->connection)
		a->n_lines = 0;
	while (l->state == LINK_UP && c->frames.state == LINK_UP && !c->lease_held) {
		if (a->n_lines == 0)
			due_start(c, now_ms);
		if (now_ms - a->asked_ms >= LEASE_WAIT_MS + c->timeout_ms) {
			link_fail(l, now_ms, "no answer within %u ms", c->timeout_ms);
			return;
		}
		if (!channel_ask_send(a, l, now_ms))
			return;
		due_receive(c, now_ms);
		if (a->n_lines > 0)
			return;
	}
}

void
lease_void(struct channel *c)
{
	c->lease.at = c->lease.end;
}

bool
channel_lease(struct channel *c, struct frame_lease *lease)
{
	const struct link *l = &c->frames;

	while (frame_lease_next(&c->lease, lease) == 1) {
		for (unsigned int i = 0; i < l->n_tables; i++) {
			if (c->table_id[i] != lease->table)
				continue;
			lease->table = (uint8_t)i;
			return true;
		}
		/* Another store's table: its instances get it when this lease ends. */
	}
	/* Nor is anything behind a record that makes no sense. */
	lease_void(c);
	return false;
}

void
channel_release(struct channel *c, uint64_t now_ms)
{
	if (!c->lease_held || c->lease.at != c->lease.end)
		return;
	c->lease_held = false;
	lease_turn(c, now_ms);
}

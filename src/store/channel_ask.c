/*
 * channel_ask.c - what the three conversations of a channel share: receiving, long
 * answers, and short commands.
 */
#include "store/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	CHANNEL_REPLY_BYTES = 16 << 10,		/* Grows to the longest that came. */
};

size_t
channel_receive(struct link *l, uint64_t now_ms, bool *drained)
{
	l->rx_end -= l->rx_at;
	memmove(l->rx, l->rx + l->rx_at, l->rx_end);
	l->rx_at = 0;

	size_t room = LINK_RECEIVE_BYTES - l->rx_end;
	size_t n = link_receive(l, l->rx + l->rx_end, room, now_ms);

	l->rx_end += n;
	*drained = n < room;
	return n;
}

int
bulk_expect(struct channel_bulk *b, size_t n)
{
	size_t room = b->room != 0 ? b->room : CHANNEL_REPLY_BYTES;
	uint8_t *bytes;

	n += 2;
	while (room < n)
		room *= 2;
	if (room != b->room) {
		bytes = aligned_alloc(64, room);
		if (bytes == NULL)
			return -ENOMEM;
		free(b->bytes);
		b->bytes = bytes;
		b->room = room;
	}
	b->want = n;
	b->got = 0;
	return 0;
}

bool
bulk_take(struct channel_bulk *b, struct link *l, uint64_t now_ms)
{
	size_t here = l->rx_end - l->rx_at, want = b->want - b->got;
	size_t n = here < want ? here : want;

	memcpy(b->bytes + b->got, l->rx + l->rx_at, n);
	l->rx_at += n;
	if (n == 0)
		n = link_receive(l, b->bytes + b->got, want, now_ms);
	b->got += n;
	return b->got == b->want;
}

void
channel_put_asking(struct resp_out *o, const struct link *frames)
{
	if (!frames->asking)
		return;
	memcpy(o->at, LINK_ASKING, sizeof(LINK_ASKING) - 1);
	o->at += sizeof(LINK_ASKING) - 1;
}

struct resp_out
channel_ask_start(struct channel_ask *a, const struct link *frames)
{
	struct resp_out o = { a->bytes, a->bytes + sizeof(a->bytes) };

	channel_put_asking(&o, frames);
	return o;
}

void
channel_ask_end(struct channel_ask *a, const struct resp_out *o, const struct link *l,
		unsigned int n_lines, uint64_t now_ms)
{
	a->n = (size_t)(o->at - a->bytes);
	a->sent = 0;
	a->n_lines = n_lines;
	a->asked_ms = now_ms;
	a->connection = l->connection;
}

bool
channel_ask_send(struct channel_ask *a, struct link *l, uint64_t now_ms)
{
	if (a->sent < a->n)
		a->sent += link_send(l, a->bytes + a->sent, a->n - a->sent, now_ms);
	return a->sent == a->n;
}

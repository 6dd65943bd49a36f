/*
 * valkey.c - the store over the network: frames go to the module in a Redis or Valkey
 * server and come back, over one connection that link.c keeps.
 *
 * A batch is written in its place in a command: space in front of the frame takes the
 * words before it, so that it leaves in one send() and is never copied.  Answers come
 * in the order of the questions; each is copied once, to where its batch keeps it.
 *
 * When the connection is lost, every unanswered batch is asked again on the next one,
 * in order, with the same client and id: the server knows by them what it applied
 * already.  If the state itself was lost meanwhile (another generation), they are
 * asked of the new one.  A batch that is not answered within the timeout is given
 * back as such, and the connection goes down with it: no late answer can be taken
 * for another's.
 */
#define _GNU_SOURCE
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "store/link.h"
#include "store/resp.h"

enum {
	VALKEY_TIMEOUT_MS = 1000,
	VALKEY_RESERVE = 192,          /* For the words in front of a frame. */
	VALKEY_TAIL = 64,              /* For "\r\n" behind it. */
	VALKEY_REPLY_BYTES = 64 << 10, /* Grows to the longest that came. */
	VALKEY_IDLE_MS = 100,          /* A closed connection is noticed by then. */
	VALKEY_SOON_MS = 5,            /* While a socket may become writable. */
};

struct valkey_batch {
	struct store_batch batch; /* First. */
	uint8_t *buffer;          /* Reserve, frame, tail. */
	bool taken;               /* By the caller, or in flight. */
	/* Set by submit(). */
	const uint8_t *command;
	size_t command_bytes;
	uint64_t id, asked_ms;
	/* The reply with its "\r\n". */
	uint8_t *reply;
	size_t reply_room, reply_bytes;
	size_t reply_want; /* 0: its first line is still to come. */
};

struct valkey {
	struct store store; /* First. */
	struct link link;
	struct valkey_batch batch[STORE_BATCHES];
	/* In flight, from the oldest: 'flight' is a ring that starts at 'first'. */
	struct valkey_batch *flight[STORE_INFLIGHT];
	unsigned int first, n_flight;
	unsigned int n_sent; /* Of them, sent whole. */
	size_t next_sent;    /* Bytes of the one after those. */

	uint8_t words[VALKEY_RESERVE]; /* What every command starts with. */
	size_t words_bytes;
	uint64_t client, next_id, generation;
	uint8_t table_id[STORE_MAX_TABLES]; /* In all frames in flight. */
	bool same_ids;                      /* All are the caller's own indexes. */
	bool was_up;
	bool look; /* At the socket, even if nothing is due. */
	uint64_t looked_ms, lost_ms;
	unsigned int timeout_ms;
};

static_assert(STORE_INFLIGHT == 8, "the ring's index is masked");

static uint64_t
coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static struct valkey_batch *
flight_at(const struct valkey *v, unsigned int i)
{
	return v->flight[(v->first + i) % STORE_INFLIGHT];
}

/* --- Frames on their way out --------------------------------------------------- */

/* Puts the words of the command around a frame. */
static void
command_write(const struct valkey *v, struct valkey_batch *b)
{
	struct frame *f = &b->batch.request;
	size_t n = (size_t)(f->at - f->start);
	uint8_t head[RESP_MAX_HEAD];
	struct resp_out o = { head, head + sizeof(head) };

	resp_put_head(&o, '$', n);

	size_t head_bytes = (size_t)(o.at - head);
	uint8_t *start = f->start - head_bytes - v->words_bytes;

	memcpy(start, v->words, v->words_bytes);
	memcpy(start + v->words_bytes, head, head_bytes);
	memcpy(f->at, "\r\n", 2);
	b->command = start;
	b->command_bytes = (size_t)(f->at + 2 - start);
}

static void
send_flight(struct valkey *v, uint64_t now_ms)
{
	while (v->link.state == LINK_UP && v->n_sent < v->n_flight) {
		struct valkey_batch *b = flight_at(v, v->n_sent);

		v->next_sent += link_send(&v->link, b->command + v->next_sent,
					  b->command_bytes - v->next_sent, now_ms);
		if (v->next_sent < b->command_bytes)
			return;
		v->n_sent++;
		v->next_sent = 0;
	}
}

/* After a greeting: everything in flight is asked again, in the tables and the
 * generation that are there now. */
static void
ask_again(struct valkey *v)
{
	const struct link *l = &v->link;
	uint8_t to[UINT8_MAX + 1] = { 0 };
	bool renamed = memcmp(v->table_id, l->table_id, l->n_tables) != 0;

	for (unsigned int i = 0; i < l->n_tables; i++)
		to[v->table_id[i]] = l->table_id[i];
	for (unsigned int i = 0; i < v->n_flight; i++) {
		struct valkey_batch *b = flight_at(v, i);

		if (renamed)
			frame_map_tables(&b->batch.request, to, sizeof(to));
		frame_finish(&b->batch.request, l->generation, v->client, b->id);
		b->reply_bytes = b->reply_want = 0;
	}
	if (v->generation != 0 && v->generation != l->generation)
		log_warning("store", "%s: its state was lost, starting from nothing",
			    l->url.host);
	v->generation = l->generation;
	memcpy(v->table_id, l->table_id, sizeof(v->table_id));
	v->same_ids = true;
	for (unsigned int i = 0; i < l->n_tables; i++)
		v->same_ids &= v->table_id[i] == i;
	v->n_sent = 0;
	v->next_sent = 0;
	v->was_up = true;
}

/* --- Answers ------------------------------------------------------------------- */

static void
give_back(struct valkey *v, int error, struct store_batch **out)
{
	struct valkey_batch *b = flight_at(v, 0);

	b->batch.error = error;
	v->first++;
	v->n_flight--;
	if (v->n_sent > 0)
		v->n_sent--;
	else
		v->next_sent = 0;
	*out = &b->batch;
}

static int
reply_reserve(struct valkey_batch *b, size_t bytes)
{
	size_t room = VALKEY_REPLY_BYTES;

	if (bytes <= b->reply_room)
		return 0;
	while (room < bytes)
		room *= 2;

	uint8_t *reply = aligned_alloc(64, room);

	if (reply == NULL)
		return -ENOMEM;
	free(b->reply);
	b->reply = reply;
	b->reply_room = room;
	return 0;
}

/* The first line of the oldest batch's answer.  Returns 1 if the batch is finished
 * with '*error', 0 if not (the answer follows, or is not here, or the link went
 * down). */
static int
reply_line(struct valkey *v, struct valkey_batch *b, uint64_t now_ms, int *error)
{
	struct link *l = &v->link;
	struct resp r;
	ssize_t n = resp_next(l->rx + l->rx_at, l->rx_end - l->rx_at, &r);

	if (n == 0)
		return 0;
	if (n > 0 && r.type == '-') {
		static const char bad[] = "ERR SNFBAD", repeat[] = "SNFREPEAT";
		bool is_bad = r.text_bytes >= sizeof(bad) - 1 &&
			      memcmp(r.text, bad, sizeof(bad) - 1) == 0;

		if (is_bad || (r.text_bytes >= sizeof(repeat) - 1 &&
			       memcmp(r.text, repeat, sizeof(repeat) - 1) == 0)) {
			log_warning("store", "a batch was refused: %.*s",
				    (int)r.text_bytes, r.text);
			l->rx_at += (size_t)n;
			*error = is_bad ? -EBADMSG : -EALREADY;
			return 1;
		}
		link_refused(l, now_ms, r.text, r.text_bytes);
		return 0;
	}
	if (n < 0 || r.type != '$' || r.number < FRAME_REPLY_HEAD_BYTES ||
	    r.number > FRAME_MAX_REPLY_BYTES) {
		link_fail(l, now_ms, "the server's answer makes no sense");
		return 0;
	}
	if (reply_reserve(b, (size_t)r.number + 2) != 0) {
		link_fail(l, now_ms, "no memory for the server's answer");
		return 0;
	}
	l->rx_at += (size_t)n;
	b->reply_want = (size_t)r.number + 2;
	return 0;
}

/* The rest of it: what was received already, and then straight from the socket. */
static int
reply_rest(struct valkey *v, struct valkey_batch *b, uint64_t now_ms)
{
	struct link *l = &v->link;
	size_t here = l->rx_end - l->rx_at, want = b->reply_want - b->reply_bytes;
	size_t n = here < want ? here : want;
	struct frame_reply_head head;

	memcpy(b->reply + b->reply_bytes, l->rx + l->rx_at, n);
	l->rx_at += n;
	b->reply_bytes += n;
	if (n < want && n == 0)
		b->reply_bytes +=
			link_receive(l, b->reply + b->reply_bytes, want, now_ms);
	if (b->reply_bytes < b->reply_want)
		return 0;
	n = b->reply_bytes - 2;
	if (memcmp(b->reply + n, "\r\n", 2) != 0 ||
	    frame_reply_open(b->reply, n, &head, &b->batch.reply) != 0 ||
	    head.id != b->id) {
		link_fail(l, now_ms, "the server's answer makes no sense");
		return 0;
	}
	return 1;
}

/* What was received and not taken moves to the front, and more comes behind it. */
static size_t
receive_more(struct valkey *v, uint64_t now_ms, bool *drained)
{
	struct link *l = &v->link;

	l->rx_end -= l->rx_at;
	memmove(l->rx, l->rx + l->rx_at, l->rx_end);
	l->rx_at = 0;

	size_t room = LINK_RECEIVE_BYTES - l->rx_end;
	size_t n = link_receive(l, l->rx + l->rx_end, room, now_ms);

	l->rx_end += n;
	*drained = n < room;
	return n;
}

static unsigned int
receive_flight(struct valkey *v, struct store_batch **done, unsigned int max,
	       uint64_t now_ms)
{
	struct link *l = &v->link;
	bool drained = false;
	unsigned int n = 0;

	while (n < max && v->n_sent > 0 && l->state == LINK_UP) {
		struct valkey_batch *b = flight_at(v, 0);
		int finished = 0, error = 0;
		size_t before = b->reply_bytes;

		if (b->reply_want == 0)
			finished = reply_line(v, b, now_ms, &error);
		if (b->reply_want != 0)
			finished = reply_rest(v, b, now_ms);
		if (finished)
			give_back(v, error, &done[n++]);
		if (finished || l->state != LINK_UP)
			continue;
		/* All of a long answer that was here is taken: then the socket says when
		 * there is more; else look once for the next lines. */
		if (b->reply_want != 0
			    ? b->reply_bytes == before
			    : drained || receive_more(v, now_ms, &drained) == 0)
			break;
	}
	return n;
}

/* --- Turns --------------------------------------------------------------------- */

/* Notices a connection that the server closed while nobody asked anything. */
static void
look_for_end(struct valkey *v, uint64_t now_ms)
{
	uint8_t byte;

	if (!v->look && now_ms - v->looked_ms < VALKEY_IDLE_MS)
		return;
	v->look = false;
	v->looked_ms = now_ms;
	if (link_receive(&v->link, &byte, 1, now_ms) > 0)
		link_fail(&v->link, now_ms, "the server says what was not asked");
}

/* Remembers since when the server has not been heard of. */
static void
note_loss(struct valkey *v, uint64_t now_ms)
{
	if (v->link.state == LINK_UP || !v->was_up)
		return;
	v->was_up = false;
	v->lost_ms = v->n_flight > 0 ? flight_at(v, 0)->asked_ms : now_ms;
}

static unsigned int
expire_flight(struct valkey *v, struct store_batch **done, unsigned int max,
	      uint64_t now_ms)
{
	unsigned int n = 0;

	while (n < max && v->n_flight > 0 &&
	       now_ms - flight_at(v, 0)->asked_ms >= v->timeout_ms) {
		if (v->link.state == LINK_UP)
			link_fail(&v->link, now_ms, "no answer within %u ms",
				  v->timeout_ms);
		note_loss(v, now_ms);
		give_back(v, -ETIMEDOUT, &done[n++]);
	}
	return n;
}

static unsigned int
valkey_poll(struct store *store, struct store_batch **done, unsigned int max)
{
	struct valkey *v = (struct valkey *)store;
	uint64_t now_ms = coarse_ms();
	unsigned int n = 0;

	if (v->link.state != LINK_UP) {
		link_turn(&v->link, now_ms);
		if (v->link.state == LINK_UP)
			ask_again(v);
	}
	if (v->link.state == LINK_UP) {
		if (v->n_flight == 0)
			look_for_end(v, now_ms);
		if (v->n_sent < v->n_flight)
			send_flight(v, now_ms);
		n = receive_flight(v, done, max, now_ms);
	}
	note_loss(v, now_ms);
	return n + expire_flight(v, done + n, max - n, now_ms);
}

static enum store_health
valkey_health(const struct store *store)
{
	const struct valkey *v = (const struct valkey *)store;

	if (v->link.state == LINK_UP)
		return STORE_CONNECTED;
	return coarse_ms() - v->lost_ms < v->timeout_ms ? STORE_CONNECTING : STORE_LOST;
}

static struct store_batch *
valkey_batch(struct store *store)
{
	struct valkey *v = (struct valkey *)store;

	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		struct valkey_batch *b = &v->batch[i];

		if (b->taken)
			continue;
		b->taken = true;
		b->batch = (struct store_batch){ 0 };
		frame_init(&b->batch.request, b->buffer + VALKEY_RESERVE,
			   FRAME_MAX_BYTES);
		return &b->batch;
	}
	return NULL;
}

static void
valkey_free(struct store *store, struct store_batch *batch)
{
	(void)store;
	((struct valkey_batch *)batch)->taken = false;
}

static int
valkey_submit(struct store *store, struct store_batch *batch)
{
	struct valkey *v = (struct valkey *)store;
	struct valkey_batch *b = (struct valkey_batch *)batch;
	uint64_t now_ms = coarse_ms();

	if (v->n_flight == STORE_INFLIGHT)
		return -EAGAIN;
	if (v->link.state != LINK_UP && now_ms - v->lost_ms >= v->timeout_ms)
		return -ENOTCONN;
	if (!v->same_ids)
		frame_map_tables(&batch->request, v->table_id, v->link.n_tables);
	b->id = ++v->next_id;
	b->asked_ms = now_ms;
	b->reply_bytes = b->reply_want = 0;
	frame_finish(&batch->request, v->generation, v->client, b->id);
	command_write(v, b);
	v->flight[(v->first + v->n_flight++) % STORE_INFLIGHT] = b;
	send_flight(v, now_ms);
	note_loss(v, now_ms);
	return 0;
}

static int
valkey_wait_fd(struct store *store, int *timeout_ms)
{
	struct valkey *v = (struct valkey *)store;
	uint64_t now_ms = coarse_ms();
	uint64_t until_ms = UINT64_MAX;

	v->look = true;
	if (v->n_flight > 0)
		until_ms = flight_at(v, 0)->asked_ms + v->timeout_ms;
	if (v->link.state == LINK_DOWN && v->link.retry_ms < until_ms)
		until_ms = v->link.retry_ms;
	if ((v->link.state == LINK_GREETING ||
	     (v->link.state == LINK_UP && v->n_sent < v->n_flight)) &&
	    now_ms + VALKEY_SOON_MS < until_ms)
		until_ms = now_ms + VALKEY_SOON_MS;
	*timeout_ms = until_ms == UINT64_MAX ? -1
		      : until_ms <= now_ms   ? 0
					     : (int)(until_ms - now_ms);
	return v->link.fd;
}

/* --- Start and end ------------------------------------------------------------- */

static void
valkey_close(struct store *store)
{
	struct valkey *v = (struct valkey *)store;

	if (v == NULL)
		return;
	link_fini(&v->link);
	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		free(v->batch[i].buffer);
		free(v->batch[i].reply);
	}
	free(v);
}

static int
batches_init(struct valkey *v)
{
	for (unsigned int i = 0; i < STORE_BATCHES; i++) {
		struct valkey_batch *b = &v->batch[i];

		b->buffer =
			aligned_alloc(64, VALKEY_RESERVE + FRAME_MAX_BYTES + VALKEY_TAIL);
		if (b->buffer == NULL || reply_reserve(b, VALKEY_REPLY_BYTES) != 0)
			return -ENOMEM;
	}
	return 0;
}

/* Waits until the link is up, or cannot come up, or the timeout has passed. */
static int
wait_up(struct valkey *v)
{
	uint64_t end_ms = coarse_ms() + v->timeout_ms;

	for (;;) {
		struct store_batch *none;
		int wait_ms;

		valkey_poll(&v->store, &none, 0);
		if (v->link.state == LINK_UP)
			return 0;

		struct pollfd p = { .fd = valkey_wait_fd(&v->store, &wait_ms),
				    .events = POLLIN };

		if (v->link.hopeless)
			return -EPROTO;
		if (coarse_ms() >= end_ms)
			return -ETIMEDOUT;
		poll(&p, 1, wait_ms);
	}
}

static int
valkey_open(const struct store_options *options, const struct store_table *tables,
	    unsigned int n_tables, struct store **out, char *why, size_t why_bytes)
{
	unsigned int timeout_ms =
		options->timeout_ms != 0 ? options->timeout_ms : VALKEY_TIMEOUT_MS;
	struct store_url url;
	int err = url_parse(options->url, &url, why, why_bytes);

	if (err != 0)
		return err;

	struct valkey *v = calloc(1, sizeof(*v));

	if (v == NULL)
		return -ENOMEM;
	v->store.ops = url.is_unix ? &store_valkey_unix_ops : &store_valkey_ops;
	v->timeout_ms = timeout_ms;
	err = link_init(&v->link, &url, tables, n_tables, timeout_ms);
	if (err != 0)
		goto say_why;

	struct resp_out o = { v->words, v->words + sizeof(v->words) };

	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "SNF.FRAME", 9);
	resp_put_string(&o, v->link.key, strlen(v->link.key));
	v->words_bytes = (size_t)(o.at - v->words);
	if (getrandom(&v->client, sizeof(v->client), 0) != sizeof(v->client)) {
		err = -EIO;
		goto say_why;
	}
	err = batches_init(v);
	if (err == 0)
		err = wait_up(v);
	if (err != 0)
		goto say_why;
	v->link.quiet = false;
	*out = &v->store;
	return 0;
say_why:
	snprintf(why, why_bytes, "store %s: %s", url.host,
		 v->link.reason[0] != 0 ? v->link.reason : strerror(-err));
	valkey_close(&v->store);
	return err;
}

#define VALKEY_OPS(name)                                                                 \
	{                                                                                \
		.scheme = name, .open = valkey_open, .batch = valkey_batch,              \
		.submit = valkey_submit, .poll = valkey_poll, .free = valkey_free,       \
		.wait_fd = valkey_wait_fd, .health = valkey_health,                      \
		.close = valkey_close,                                                   \
	}

const struct store_ops store_valkey_ops = VALKEY_OPS("valkey");
const struct store_ops store_valkey_unix_ops = VALKEY_OPS("valkey+unix");

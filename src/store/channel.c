/*
 * channel.c - frames to one partition and their answers.
 *
 * A part is written in its place in a command: space in front of the frame takes the
 * words before it, so that it leaves in one piece and is never copied.  Answers come in
 * the order of the questions; each is copied once, to where its part keeps it.
 *
 * When the connection is lost, every unanswered part is asked again on the next one, in
 * order, with the same client and id: the server knows by them what it applied already.
 * If the next one is another term, what was answered and is not committed may be unknown
 * there: it is asked again too, before the others.  Its new answers are kept beside
 * the first, which the caller may be reading, until it is final.  A part that is not
 * final within the timeout is given up; if it was not even answered, the connection goes
 * down with it: no late answer can be taken for another's.
 */
#include "store/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum {
	CHANNEL_IDLE_MS = 100,			/* A closed connection is seen by then. */
	CHANNEL_SAY_MS = 10000,			/* Between log lines that are alike. */
	CHANNEL_SEND = 8,			/* Frames in one system call. */
};

void
channel_refused(struct channel *c, struct link *l, const char *text, size_t bytes,
		uint64_t now_ms)
{
	static const char *const all[] = { "SNFSTALE", "READONLY", "MOVED ", "ASK " };

	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (bytes >= strlen(all[i]) && memcmp(text, all[i], strlen(all[i])) == 0)
			l = &c->frames;
	if (l->state == LINK_UP)
		link_refused(l, now_ms, text, bytes);
}

/* --- Frames on their way out -------------------------------------------------- */

/* What a command starts with. */
static void
words_write(struct channel *c)
{
	struct resp_out o = { c->words, c->words + sizeof(c->words) - RESP_MAX_HEAD };

	channel_put_asking(&o, &c->frames);
	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "SNF.FRAME", 9);
	resp_put_string(&o, c->frames.key, strlen(c->frames.key));
	c->words_bytes = (size_t)(o.at - c->words);
}

/* Completes the frame and puts the words of the command around it. */
static void
command_write(const struct channel *c, struct channel_part *p)
{
	struct frame *f = &p->part->request;
	uint8_t head[RESP_MAX_HEAD];
	struct resp_out o = { head, head + sizeof(head) };

	frame_finish(f, c->generation, c->term, c->client, p->id);
	resp_put_head(&o, '$', (size_t)(f->at - f->start));

	size_t head_bytes = (size_t)(o.at - head);
	uint8_t *start = f->start - head_bytes - c->words_bytes;

	memcpy(start, c->words, c->words_bytes);
	memcpy(start + c->words_bytes, head, head_bytes);
	memcpy(f->at, "\r\n", 2);
	p->command = start;
	p->command_bytes = (size_t)(f->at + 2 - start);
	p->reply.want = p->reply.got = 0;
}

/* Of the first one that is not sent whole. */
static size_t
flight_bytes(const struct channel *c)
{
	return ring_at(&c->flight, c->n_sent)->command_bytes;
}

static void
flight_send(struct channel *c, uint64_t now_ms)
{
	while (c->frames.state == LINK_UP && c->n_sent < c->flight.n) {
		struct iovec piece[CHANNEL_SEND];
		unsigned int n = 0;

		for (; n < CHANNEL_SEND && c->n_sent + n < c->flight.n; n++) {
			const struct channel_part *p = ring_at(&c->flight, c->n_sent + n);
			size_t sent = n == 0 ? c->next_sent : 0;

			piece[n].iov_base = (void *)(p->command + sent);
			piece[n].iov_len = p->command_bytes - sent;
		}
		size_t got = link_send_all(&c->frames, piece, n, now_ms);

		c->next_sent += got;
		for (; n > 0 && c->next_sent >= flight_bytes(c); n--) {
			c->next_sent -= flight_bytes(c);
			c->n_sent++;
		}
		if (got == 0 || c->next_sent > 0)
			return;
	}
}

/* --- A new connection --------------------------------------------------------- */

/* What is not committed goes in front of what is not answered. */
static void
ask_uncommitted(struct channel *c)
{
	struct channel_ring unanswered = c->flight;

	c->flight = c->uncommitted;
	c->uncommitted.n = 0;
	for (unsigned int i = 0; i < c->flight.n; i++) {
		struct channel_part *p = ring_at(&c->flight, i);

		if (p->first_reply != NULL)
			continue;
		p->first_reply = p->reply.bytes;
		p->reply = (struct channel_bulk){ 0 };
	}
	while (unanswered.n > 0)
		ring_push(&c->flight, ring_pop(&unanswered));
}

/* Tables may have other ids now. */
static void
flight_rename(struct channel *c)
{
	const struct link *l = &c->frames;
	uint8_t to[UINT8_MAX + 1] = { 0 };

	if (memcmp(c->table_id, l->table_id, l->n_tables) != 0) {
		for (unsigned int i = 0; i < l->n_tables; i++)
			to[c->table_id[i]] = l->table_id[i];
		for (unsigned int i = 0; i < c->flight.n; i++)
			frame_map_tables(&ring_at(&c->flight, i)->part->request, to,
					 sizeof(to));
	}
	memcpy(c->table_id, l->table_id, sizeof(c->table_id));
	c->same_ids = true;
	for (unsigned int i = 0; i < l->n_tables; i++)
		c->same_ids &= c->table_id[i] == i;
}

static void
channel_opened(struct channel *c, uint64_t now_ms)
{
	const struct link *l = &c->frames;

	if (c->generation != 0 && c->generation != l->generation)
		log_warning("store", "%s: its state was lost, starting from nothing",
			    l->name);
	if (c->generation != l->generation || c->term != l->term) {
		ask_uncommitted(c);
		lease_void(c);
	}
	c->connection = l->connection;
	c->generation = l->generation;
	c->term = l->term;
	c->n_sent = 0;
	c->next_sent = 0;
	c->asking_taken = false;
	c->was_up = true;
	/* It has said as much as a mark does. */
	c->replicated |= l->n_replicas > 0;
	c->round.asked_ms = now_ms;
	words_write(c);
	flight_rename(c);
	for (unsigned int i = 0; i < c->flight.n; i++)
		command_write(c, ring_at(&c->flight, i));
}

/* --- Answers ------------------------------------------------------------------ */

/* The oldest part has its answer, or there is none to come. */
static void
flight_done(struct channel *c, int error)
{
	struct channel_part *p = ring_pop(&c->flight);

	if (c->n_sent > 0)
		c->n_sent--;
	else
		c->next_sent = 0;
	c->asking_taken = false;
	if (!p->answered)
		p->batch->n_unanswered--;
	p->answered = true;
	if (error != 0)
		p->part->error = error;
	if (p->commit == 0)
		return;
	if (error == 0)
		ring_push(&c->uncommitted, p);
	else
		p->batch->n_uncommitted--;
}

static bool
starts_with(const struct resp *r, const char *prefix)
{
	size_t n = strlen(prefix);

	return r->text_bytes >= n && memcmp(r->text, prefix, n) == 0;
}

/* Whether it is time to say again what may happen with every batch. */
static bool
may_say(uint64_t *said_ms, uint64_t now_ms)
{
	if (*said_ms != 0 && now_ms - *said_ms < CHANNEL_SAY_MS)
		return false;
	*said_ms = now_ms;
	return true;
}

/* An error reply: some are about this frame alone.  Returns whether this one is. */
static bool
reply_refused(struct channel *c, const struct resp *r, uint64_t now_ms)
{
	static const struct {
		const char *prefix;
		int err;
	} alone[] = {
		{ "ERR SNFBAD", -EBADMSG },
		{ "SNFREPEAT", -EALREADY },
		{ "ERR SNFNOMEM", -ENOMEM },
	};

	for (size_t i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
		if (!starts_with(r, alone[i].prefix))
			continue;
		if (may_say(&c->refused_ms, now_ms))
			log_warning("store", "%s: a batch was refused: %.*s",
				    c->frames.name, (int)r->text_bytes, r->text);
		flight_done(c, alone[i].err);
		return true;
	}
	link_refused(&c->frames, now_ms, r->text, r->text_bytes);
	return false;
}

/* The first line of the oldest part's answer.  Returns whether there was one. */
static bool
reply_line(struct channel *c, struct channel_part *p, uint64_t now_ms)
{
	struct link *l = &c->frames;
	struct resp r;
	ssize_t n = resp_next(l->rx + l->rx_at, l->rx_end - l->rx_at, &r);

	if (n == 0)
		return false;
	if (n > 0 && r.type == '-') {
		l->rx_at += (size_t)n;
		return reply_refused(c, &r, now_ms);
	}
	if (n > 0 && l->asking && !c->asking_taken && r.type == '+') {
		l->rx_at += (size_t)n;
		c->asking_taken = true;
		return true;
	}
	if (n < 0 || r.type != '$' || r.number < FRAME_REPLY_HEAD_BYTES ||
	    r.number > FRAME_MAX_REPLY_BYTES) {
		link_fail(l, now_ms, "the server's answer makes no sense");
		return false;
	}
	if (bulk_expect(&p->reply, (size_t)r.number) != 0) {
		link_fail(l, now_ms, "no memory for the server's answer");
		return false;
	}
	l->rx_at += (size_t)n;
	return true;
}

/* All of the oldest part's answer is here. */
static void
reply_check(struct channel *c, struct channel_part *p, uint64_t now_ms)
{
	size_t n = p->reply.want - 2;
	struct frame_reply_head head;
	struct frame_cursor answers;

	if (memcmp(p->reply.bytes + n, "\r\n", 2) != 0 ||
	    frame_reply_open(p->reply.bytes, n, &head, &answers) != 0 ||
	    head.id != p->id) {
		link_fail(&c->frames, now_ms, "the server's answer makes no sense");
		return;
	}
	/* The caller may be in the middle of the first one. */
	if (!p->answered)
		p->part->reply = answers;
	flight_done(c, 0);
}

static void
flight_receive(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->frames;
	bool drained = false;

	while (c->n_sent > 0 && l->state == LINK_UP) {
		struct channel_part *p = ring_at(&c->flight, 0);

		if (p->reply.want == 0) {
			/* All that was received is taken: look once for more. */
			if (!reply_line(c, p, now_ms) && l->state == LINK_UP &&
			    (drained || channel_receive(l, now_ms, &drained) == 0))
				return;
			continue;
		}

		size_t before = p->reply.got;

		if (bulk_take(&p->reply, l, now_ms))
			reply_check(c, p, now_ms);
		else if (p->reply.got == before)
			return;
	}
}

/* --- Turns -------------------------------------------------------------------- */

/* Notices a connection that the server closed while nobody asked anything. */
static void
look_for_end(struct channel *c, uint64_t now_ms)
{
	uint8_t byte;

	if (!c->look && now_ms - c->looked_ms < CHANNEL_IDLE_MS)
		return;
	c->looked_ms = now_ms;
	if (link_receive(&c->frames, &byte, 1, now_ms) > 0)
		link_fail(&c->frames, now_ms, "the server says what was not asked");
}

/* Remembers since when the server, which is down, has not been heard of. */
static void
note_loss(struct channel *c, uint64_t now_ms)
{
	if (!c->was_up)
		return;
	c->was_up = false;
	c->lost_ms = c->flight.n > 0 ? ring_at(&c->flight, 0)->asked_ms : now_ms;
}

static bool
is_overdue(const struct channel_ring *r, uint64_t patience_ms, uint64_t now_ms)
{
	return r->n > 0 && now_ms - ring_at(r, 0)->asked_ms >= patience_ms;
}

static void
channel_expire(struct channel *c, uint64_t now_ms)
{
	while (is_overdue(&c->flight, c->timeout_ms, now_ms)) {
		if (c->frames.state == LINK_UP)
			link_fail(&c->frames, now_ms, "no answer within %u ms",
				  c->timeout_ms);
		note_loss(c, now_ms);
		flight_done(c, -ETIMEDOUT);
	}
	while (is_overdue(&c->uncommitted, channel_patience_ms(c), now_ms)) {
		struct channel_part *p = ring_pop(&c->uncommitted);

		if (may_say(&c->missed_ms, now_ms))
			log_warning("store",
				    "%s: replicas have not acknowledged what was written "
				    "within %u ms: its packets are dropped",
				    c->frames.name, c->timeout_ms);
		c->missing = true;
		p->part->error = -ETIMEDOUT;
		p->batch->n_uncommitted--;
	}
}

/* Looks after the link itself. */
static void
frames_turn(struct channel *c, uint64_t now_ms)
{
	link_turn(&c->frames, now_ms);
	if (c->frames.state == LINK_UP && c->frames.connection != c->connection)
		channel_opened(c, now_ms);
	if (c->frames.state == LINK_UP && c->flight.n == 0)
		look_for_end(c, now_ms);
}

void
channel_turn(struct channel *c, uint64_t now_ms)
{
	struct link *l = &c->frames;
	/* A pipe has many turns in the same millisecond: most look for answers only. */
	bool tick = c->look || now_ms != c->turned_ms || l->state != LINK_UP;

	if (tick)
		frames_turn(c, now_ms);
	if (l->state == LINK_UP && c->flight.n > 0) {
		if (c->n_sent < c->flight.n)
			flight_send(c, now_ms);
		flight_receive(c, now_ms);
	}
	if (c->round.n_lines > 0 || c->commits.state == LINK_GREETING ||
	    round_is_due(c, now_ms))
		commit_turn(c, now_ms);
	if (tick && c->leased != 0)
		lease_turn(c, now_ms);
	if (l->state != LINK_UP)
		note_loss(c, now_ms);
	if (tick)
		channel_expire(c, now_ms);
	c->look = false;
	c->turned_ms = now_ms;
}

void
channel_submit(struct channel *c, struct channel_part *p, uint64_t now_ms)
{
	if (!c->same_ids)
		frame_map_tables(&p->part->request, c->table_id, c->frames.n_tables);
	if (p->first_reply != NULL) {
		free(p->first_reply);
		p->first_reply = NULL;
	}
	p->id = ++c->next_id;
	p->asked_ms = now_ms;
	p->answered = false;
	p->n_before = c->n_groups;
	c->n_groups += p->has_groups;
	p->batch->n_unanswered++;
	p->batch->n_uncommitted += p->commit > 0;
	command_write(c, p);
	ring_push(&c->flight, p);
	/* While the server has others, those that are submitted before the next turn leave
	 * together: that spares it, and us, half of what a system call costs. */
	if (c->flight.n == 1)
		flight_send(c, now_ms);
	if (c->frames.state != LINK_UP)
		note_loss(c, now_ms);
}

void
channel_rewind(struct channel_part *p)
{
	p->part->reply = (struct frame_cursor){
		p->reply.bytes + FRAME_REPLY_HEAD_BYTES,
		p->reply.bytes + p->reply.want - 2,
	};
}

unsigned int
channel_wait_fds(struct channel *c, int *fd, unsigned int max, uint64_t now_ms,
		 uint64_t *until_ms)
{
	unsigned int n = link_fds(&c->frames, fd, max);
	uint64_t until = link_due_ms(&c->frames, now_ms);
	bool sending = c->frames.state == LINK_UP && c->n_sent < c->flight.n;

	c->look = true;
	if (c->flight.n > 0)
		until = earlier(until, ring_at(&c->flight, 0)->asked_ms + c->timeout_ms);
	n += commit_wait_fds(c, fd + n, max - n, now_ms, &until);
	if (c->leased != 0) {
		n += link_fds(&c->leases, fd + n, max - n);
		until = earlier(until, link_due_ms(&c->leases, now_ms));
		sending |= c->due.sent < c->due.n;
		if (c->lease.at != c->lease.end)
			until = now_ms;
	}
	if (sending)
		until = earlier(until, now_ms + CHANNEL_SOON_MS);
	*until_ms = earlier(*until_ms, until);
	return n;
}

/* --- Start and end ------------------------------------------------------------ */

int
channel_init(struct channel *c, const struct link_config *config, uint64_t client,
	     uint64_t leased)
{
	int err;

	c->client = client;
	c->timeout_ms = config->timeout_ms;
	c->leased = leased;
	c->same_ids = true;
	c->n_links = 1;
	err = link_init(&c->frames, config);
	if (err != 0)
		return err;
	c->n_links++;
	err = link_init_beside(&c->commits, &c->frames);
	if (err != 0 || leased == 0)
		return err;
	c->n_links++;
	return link_init_beside(&c->leases, &c->frames);
}

void
channel_fini(struct channel *c)
{
	struct link *links[] = { &c->frames, &c->commits, &c->leases };

	while (c->n_links > 0)
		link_fini(links[--c->n_links]);
	free(c->message.bytes);
}

void
channel_part_fini(struct channel_part *p)
{
	free(p->reply.bytes);
	free(p->first_reply);
}

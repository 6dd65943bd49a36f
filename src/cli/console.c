/*
 * console.c - a store's link, used the slow way: a question, a wait, an answer.
 */
#include "cli/console.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/link.h"
#include "store/refusal.h"
#include "store/resp.h"

enum {
	CONSOLE_TIMEOUT_MS = 5000,
	CONSOLE_POLL_MS = 20,			/* Also the longest wait for a deadline. */
	CONSOLE_COMMAND = 8192,			/* Bytes. */
	CONSOLE_ANSWER = 64 << 10,		/* Grows... */
	CONSOLE_MAX_ANSWER = 64 << 20,		/* ...to what no store has to say. */
	CONSOLE_MAX_PARTS = 64 << 10,		/* Of one answer. */
};

struct console {
	struct store_url url;
	struct link link;
	char server[WIRE_SHOWN_BYTES];
	size_t room, bytes;
	uint8_t *answer;
};

struct console_word
console_text(const char *text)
{
	return (struct console_word){ text, strlen(text) };
}

struct console_word
console_number(uint64_t number, char room[24])
{
	return (struct console_word){
		room, (size_t)snprintf(room, 24, "%llu", (unsigned long long)number)
	};
}

/* Takes a part off, a string with its bytes.  Returns as resp_next(). */
static ssize_t
part_take(const uint8_t *at, size_t left, struct console_part *part)
{
	const uint8_t *text;
	struct resp r;
	ssize_t n = resp_next(at, left, &r);

	if (n <= 0)
		return n;
	*part = (struct console_part){ r.type, r.number, "", 0 };
	if (r.type == '+' || r.type == '-') {
		part->text = r.text;
		part->text_bytes = r.text_bytes;
	} else if (r.type == '$' && r.number >= 0) {
		n = resp_string(at, left, CONSOLE_MAX_ANSWER, &text, &part->text_bytes);
		part->text = (const char *)text;
	}
	return n;
}

bool
console_next(struct console_cursor *c, struct console_part *part)
{
	ssize_t n = part_take(c->at, (size_t)(c->end - c->at), part);

	if (n <= 0)
		return false;
	c->at += n;
	return true;
}

int
console_whole(const uint8_t *bytes, size_t n_bytes)
{
	const uint8_t *at = bytes, *end = bytes + n_bytes;
	uint64_t n_parts = 1;

	for (uint64_t i = 0; i < n_parts; i++) {
		struct console_part part;
		ssize_t n = part_take(at, (size_t)(end - at), &part);

		if (n < 0 || (n == 0 && n_bytes > CONSOLE_MAX_ANSWER))
			return -EBADMSG;
		if (n == 0)
			return 0;
		at += n;
		if (part.type != '*' || part.number < 0)
			continue;
		if ((uint64_t)part.number > CONSOLE_MAX_PARTS - n_parts)
			return -EBADMSG;
		n_parts += (uint64_t)part.number;
	}
	return 1;
}

/* Waits for the link to have something to do. */
static void
wait_link(struct console *c)
{
	int fd[LINK_MAX_FDS];
	unsigned int n = link_fds(&c->link, fd, LINK_MAX_FDS);
	struct pollfd p[LINK_MAX_FDS];

	for (unsigned int i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	poll(p, n, CONSOLE_POLL_MS);
}

static int
wait_up(struct console *c, uint64_t end_ms, char *why, size_t why_bytes)
{
	for (;;) {
		link_turn(&c->link, clock_ms());
		if (c->link.state == LINK_UP)
			return 0;
		if (c->link.hopeless || clock_ms() >= end_ms)
			break;
		wait_link(c);
	}
	snprintf(why, why_bytes, "%s: %s", c->link.name, c->link.reason);
	return -ETIMEDOUT;
}

int
console_open(const char *url, unsigned int partition, struct console **out, char *why,
	     size_t why_bytes)
{
	struct console *c = calloc(1, sizeof(*c));
	struct link_config config = { .url = &c->url,
				      .bare = true,
				      .partition = partition,
				      .timeout_ms = CONSOLE_TIMEOUT_MS };
	int err = -ENOMEM;

	if (c == NULL)
		return err;
	/* Of what goes wrong on the way nothing but the end is of interest. */
	log_set_level(LOG_ERROR);
	err = url_parse(url, &c->url, why, why_bytes);
	if (err != 0)
		goto free_console;
	err = link_init(&c->link, &config);
	if (err != 0) {
		snprintf(why, why_bytes, "%s", c->link.reason);
		goto close;
	}
	err = wait_up(c, clock_ms() + CONSOLE_TIMEOUT_MS, why, why_bytes);
	if (err != 0)
		goto close;
	*out = c;
	return 0;
close:
	link_fini(&c->link);
free_console:
	free(c);
	return err;
}

void
console_close(struct console *c)
{
	if (c == NULL)
		return;
	link_fini(&c->link);
	free(c->answer);
	free(c);
}

const char *
console_key(const struct console *c)
{
	return c->link.key;
}

const char *
console_server(struct console *c)
{
	wire_address_print(&c->link.at, c->server);
	return c->server;
}

uint32_t
console_connection(const struct console *c)
{
	return c->link.connection;
}

/* Sends all of it.  False: the link went down. */
static bool
send_all(struct console *c, const uint8_t *bytes, size_t n, uint64_t end_ms)
{
	size_t sent = 0;

	while (c->link.state == LINK_UP && sent < n && clock_ms() < end_ms) {
		sent += link_send(&c->link, bytes + sent, n - sent, clock_ms());
		if (sent < n)
			wait_link(c);
	}
	return sent == n;
}

/* Receives one whole answer.  False: the link went down, or it took too long. */
static bool
receive_one(struct console *c, uint64_t end_ms)
{
	c->bytes = 0;
	while (c->link.state == LINK_UP && clock_ms() < end_ms) {
		if (c->room - c->bytes < CONSOLE_ANSWER) {
			size_t room = c->room == 0 ? 2 * CONSOLE_ANSWER : 2 * c->room;
			uint8_t *more = realloc(c->answer, room);

			if (more == NULL)
				return false;
			c->answer = more;
			c->room = room;
		}

		size_t n = link_receive(&c->link, c->answer + c->bytes, c->room - c->bytes,
					clock_ms());
		int whole = console_whole(c->answer, c->bytes += n);

		if (whole == 1)
			return true;
		if (whole < 0)
			link_fail(&c->link, clock_ms(), "the answer makes no sense");
		else if (n == 0)
			wait_link(c);
	}
	return false;
}

static bool
command_write(const struct console_word *word, unsigned int n, struct resp_out *o)
{
	bool fits = resp_put_head(o, '*', n);

	for (unsigned int i = 0; i < n; i++)
		fits = fits && resp_put_string(o, word[i].bytes, word[i].n);
	return fits;
}

/* One attempt.  1: answered, 0: to be asked again, or -EREMOTEIO. */
static int
ask_once(struct console *c, const struct resp_out *command, const uint8_t *bytes,
	 uint64_t end_ms, char *why, size_t why_bytes)
{
	bool asking = c->link.asking;
	struct resp r;

	if ((asking && !(send_all(c, (const uint8_t *)LINK_ASKING, strlen(LINK_ASKING),
				  end_ms) && receive_one(c, end_ms))) ||
	    !send_all(c, bytes, (size_t)(command->at - bytes), end_ms) ||
	    !receive_one(c, end_ms))
		return 0;
	if (resp_next(c->answer, c->bytes, &r) <= 0 || r.type != '-')
		return 1;
	/* Another server has the partition: the link goes there. */
	if (refusal_of(r.text, r.text_bytes)->kind == REFUSAL_REDIRECT) {
		link_refused(&c->link, clock_ms(), r.text, r.text_bytes);
		return 0;
	}
	snprintf(why, why_bytes, "%.*s", (int)r.text_bytes, r.text);
	return -EREMOTEIO;
}

int
console_ask(struct console *c, const struct console_word *word, unsigned int n,
	    struct console_cursor *answer, char *why, size_t why_bytes)
{
	uint64_t end_ms = clock_ms() + CONSOLE_TIMEOUT_MS;
	uint8_t command[CONSOLE_COMMAND];
	struct resp_out o = { command, command + sizeof(command) };
	int done = 0;

	if (!command_write(word, n, &o)) {
		snprintf(why, why_bytes, "the question is too long");
		return -EMSGSIZE;
	}
	while (done == 0) {
		int err = wait_up(c, end_ms, why, why_bytes);

		if (err != 0)
			return err;
		if (clock_ms() >= end_ms) {
			/* An answer that still comes must not be taken for the next. */
			link_fail(&c->link, clock_ms(), "no answer for %d ms",
				  CONSOLE_TIMEOUT_MS);
			snprintf(why, why_bytes, "%s: %s", c->link.name, c->link.reason);
			return -ETIMEDOUT;
		}
		done = ask_once(c, &o, command, end_ms, why, why_bytes);
	}
	if (done < 0)
		return done;
	*answer = (struct console_cursor){ c->answer, c->answer + c->bytes };
	return 0;
}

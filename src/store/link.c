/*
 * link.c - the connections below valkey.c: coming up, what went wrong, and when
 * to try again.  It knows nothing of frames; finder.c knows where to go.
 *
 * A lost connection is tried again at once, a few times, and then with waits that double
 * up to a hundredth of the outage so far: a short failover is noticed soon, a long
 * outage costs little.  What only an operator can mend is tried at leisure.
 */
#define _GNU_SOURCE
#include "store/link.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "store/refusal.h"

enum {
	LINK_BACKOFF_MS = 10,
	LINK_MIN_CAP_MS = 20,
	LINK_MAX_CAP_MS = 500,
	LINK_HOPELESS_CAP_MS = 2000,
	LINK_AT_ONCE = 4,			/* Retries without a wait, in a row. */
	LINK_STABLE_MS = 1000,			/* Up for so long: the outage is over. */
	LINK_SOON_MS = 1,			/* Until a connection is made. */
	TLS_ALERT = 0x15,			/* What a server that wants TLS says. */
};

/* Why a link goes down. */
enum cause {
	CAUSE_LOST,				/* The connection broke. */
	CAUSE_GONE,				/* It was never made. */
	CAUSE_HUNG,
	CAUSE_ELSEWHERE,			/* Another server, or the same anew. */
	CAUSE_TRANSIENT,			/* The server will not, for now. */
	CAUSE_HOPELESS,				/* The server will not. */
};

/* --- What is said ---------------------------------------------------------------- */

/* Whether this was not said in this outage yet; takes a note of it. */
static bool
is_news(struct link *l)
{
	uint32_t hash = 2166136261u;

	for (const char *c = l->reason; *c != 0; c++)
		hash = (hash ^ (unsigned char)*c) * 16777619u;
	for (unsigned int i = 0; i < l->n_said; i++)
		if (l->said[i] == hash)
			return false;
	if (l->n_said == LINK_MAX_SAID)
		return false;
	l->said[l->n_said++] = hash;
	return true;
}

/* Until it was up for the first time, whoever opens the store says what is wrong. */
static void
say(struct link *l, enum cause cause, bool of_partition)
{
	if (!l->was_up || (!l->speaks_for_all && !of_partition))
		return;
	/* The link for frames is about to say the same. */
	if (l->main != NULL && cause < CAUSE_TRANSIENT &&
	    l->backoff_ms <= 2 * LINK_BACKOFF_MS)
		return;
	if (!is_news(l))
		return;
	l->said_up = false;
	if (cause == CAUSE_ELSEWHERE)
		log_info("store", "%s: %s", l->name, l->reason);
	else
		log_warning("store", "%s: %s, trying again", l->name, l->reason);
}

/* A line of words, even if they are somebody else's.  Where several servers are
 * possible, it tells which. */
static void __attribute__((format(printf, 2, 0)))
reason_set(struct link *l, const char *format, va_list args)
{
	char shown[WIRE_SHOWN_BYTES] = "";
	int n = 0;

	if (l->url->kind != URL_PLAIN && l->at.bytes != 0) {
		wire_address_print(&l->at, shown);
		n = snprintf(l->reason, sizeof(l->reason), "%s: ", shown);
	}
	vsnprintf(l->reason + n, sizeof(l->reason) - (size_t)n, format, args);
	for (char *c = l->reason; *c != 0; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
}

/* --- Going down ------------------------------------------------------------------ */

static uint64_t
link_random(struct link *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

/* How long to wait before the next attempt. */
static uint64_t
wait_ms(struct link *l, enum cause cause, uint64_t now_ms)
{
	uint64_t cap = (now_ms - l->lost_ms) / 100, wait;

	if ((cause == CAUSE_LOST || cause == CAUSE_ELSEWHERE) &&
	    l->n_at_once < LINK_AT_ONCE) {
		l->n_at_once++;
		return 0;
	}
	if (cap < LINK_MIN_CAP_MS)
		cap = LINK_MIN_CAP_MS;
	if (cap > LINK_MAX_CAP_MS)
		cap = LINK_MAX_CAP_MS;
	if (cause == CAUSE_HOPELESS)
		cap = LINK_HOPELESS_CAP_MS;
	if (l->backoff_ms > cap)
		l->backoff_ms = cap;
	/* Between half and all of it, so that many clients do not come at once. */
	wait = l->backoff_ms / 2 + link_random(l) % (l->backoff_ms / 2 + 1);
	l->backoff_ms *= 2;
	return wait;
}

static void
close_link(struct link *l)
{
	wire_close(&l->wire);
	l->state = LINK_DOWN;
	l->rx_at = l->rx_end = 0;
}

static void
down(struct link *l, enum cause cause, bool of_partition, bool same_place,
     uint64_t now_ms)
{
	/* A connection that was of use ends the outage before it, even if it was short;
	 * one that only brought a refusal does not. */
	if (l->state == LINK_UP && (now_ms - l->up_ms >= LINK_STABLE_MS ||
				    (cause == CAUSE_LOST && l->heard))) {
		l->backoff_ms = LINK_BACKOFF_MS;
		l->n_at_once = 0;
		l->lost_ms = now_ms;
	}
	if (l->state == LINK_UP && now_ms - l->up_ms >= LINK_STABLE_MS)
		l->n_said = 0;
	close_link(l);
	l->hopeless = cause == CAUSE_HOPELESS;
	l->retry_ms = now_ms + wait_ms(l, cause, now_ms);
	say(l, cause, of_partition);
	if (l->main != NULL)
		return;
	finder_down(&l->finder,
		    cause == CAUSE_HUNG ? FINDER_HUNG
		    : same_place	? FINDER_LOST
					: FINDER_GONE,
		    now_ms);
	if (l->url->kind == URL_SENTINEL)
		sentinel_hurry(&l->sentinel, now_ms);
}

static void __attribute__((format(printf, 4, 5)))
fail(struct link *l, enum cause cause, uint64_t now_ms, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	reason_set(l, format, args);
	va_end(args);
	down(l, cause, false, cause == CAUSE_LOST, now_ms);
}

void
link_fail(struct link *l, uint64_t now_ms, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	reason_set(l, format, args);
	va_end(args);
	down(l, CAUSE_HUNG, false, false, now_ms);
}

/* --- Error replies --------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3)))
reason_print(struct link *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	reason_set(l, format, args);
	va_end(args);
}

/* A Cluster's server says who has the partition. */
static void
redirected(struct link *l, uint64_t now_ms, const char *text, size_t bytes)
{
	char why[FINDER_WHY_BYTES];
	int err = finder_redirect(&l->finder, text, bytes, now_ms, why);
	int shown = bytes < 100 ? (int)bytes : 100;

	if (err == -EINVAL) {
		reason_print(l, "the server says \"%.*s\": %s", shown, text, why);
		down(l, CAUSE_HOPELESS, true, false, now_ms);
		return;
	}
	reason_print(l, "the server says \"%.*s\"%s", shown, text,
		     err == 0 ? "" : ", which does not answer");
	down(l, err == 0 ? CAUSE_ELSEWHERE : CAUSE_TRANSIENT, true, false, now_ms);
}

void
link_refused(struct link *l, uint64_t now_ms, const char *text, size_t bytes)
{
	static const enum cause causes[] = {
		[REFUSAL_REDIRECT] = CAUSE_HOPELESS,
		[REFUSAL_ELSEWHERE] = CAUSE_ELSEWHERE,
		[REFUSAL_ANEW] = CAUSE_ELSEWHERE,
		[REFUSAL_TRANSIENT] = CAUSE_TRANSIENT,
		[REFUSAL_HOPELESS] = CAUSE_HOPELESS,
	};
	const struct refusal *r = refusal_of(text, bytes);
	int shown = r->quoted ? bytes < 100 ? (int)bytes : 100 : 0;

	if (r->kind == REFUSAL_REDIRECT && l->url->kind == URL_CLUSTER &&
	    l->main == NULL) {
		redirected(l, now_ms, text, bytes);
		return;
	}
	reason_print(l, "%s%.*s%s%s", r->quoted ? "the server says \"" : "", shown, text,
		     !r->quoted ? "" : r->words[0] == 0 ? "\"" : "\": ", r->words);
	down(l, causes[r->kind], r->of_partition, r->kind == REFUSAL_ANEW, now_ms);
}

/* --- Bytes ----------------------------------------------------------------------- */

static void
broken(struct link *l, int err, uint64_t now_ms)
{
	const char *why = wire_why(&l->wire, err);
	bool in_words = err == -EPROTO || err == -ESHUTDOWN;

	if (l->state == LINK_UP)
		fail(l, CAUSE_LOST, now_ms, "%s%s",
		     in_words ? "" : "connection lost: ", why);
	else if (err == -EPROTO)
		fail(l, CAUSE_HOPELESS, now_ms, "%s", why);
	else if (l->is_connected)
		fail(l, CAUSE_GONE, now_ms, "%s while greeting%s", why,
		     l->tls == NULL ? ": does the server want TLS (valkeys://)?" : "");
	else
		fail(l, CAUSE_GONE, now_ms,
		     "cannot connect: %s: is a server running there?", why);
}

size_t
link_send_all(struct link *l, struct iovec *piece, unsigned int n, uint64_t now_ms)
{
	ssize_t sent = wire_send_all(&l->wire, piece, n);

	if (sent >= 0)
		return (size_t)sent;
	broken(l, (int)sent, now_ms);
	return 0;
}

size_t
link_receive(struct link *l, void *to, size_t room, uint64_t now_ms)
{
	ssize_t got = wire_receive(&l->wire, to, room);

	if (got >= 0) {
		l->heard |= got > 0;
		return (size_t)got;
	}
	broken(l, (int)got, now_ms);
	return 0;
}

/* --- The greeting's answers -------------------------------------------------------- */

static void
up(struct link *l, uint64_t now_ms)
{
	l->rx_at = l->rx_end = 0;		/* Nothing else was asked yet. */
	l->state = LINK_UP;
	l->up_ms = now_ms;
	l->heard = false;
	l->hopeless = false;
	l->was_up = true;
	if (l->main == NULL)
		finder_up(&l->finder);
	if (l->n_said > 0 && !l->said_up)
		log_info("store", "%s: connected again", l->name);
	l->said_up = true;
}

static void
take_answers(struct link *l, uint64_t now_ms)
{
	struct hello_answer a = { 0 };
	int got = hello_take(&l->hello, l->asking, l->rx, l->rx_end, &a);

	switch (got) {
	case 0:
		return;
	case 1:
		l->generation = a.generation;
		l->term = a.term;
		l->n_replicas = a.n_replicas;
		memcpy(l->table_id, a.table_id, sizeof(l->table_id));
		up(l, now_ms);
		return;
	case -EREMOTEIO:
		link_refused(l, now_ms, a.refusal, a.refusal_bytes);
		return;
	case -EPROTO:
		fail(l, CAUSE_HOPELESS, now_ms,
		     "the module is of another release: load the snf_store.so of this "
		     "one");
		return;
	default:
		if (l->rx[0] == TLS_ALERT)
			fail(l, CAUSE_HOPELESS, now_ms,
			     "the server wants TLS: use valkeys://");
		else
			fail(l, CAUSE_TRANSIENT, now_ms,
			     "this is no Redis or Valkey server");
	}
}

/* --- Coming up --------------------------------------------------------------------- */

static void
start(struct link *l, uint64_t now_ms)
{
	unsigned int attempt_ms = l->timeout_ms;

	if (l->main != NULL) {
		l->at = l->main->at;
		l->asking = l->main->asking;
		l->main_connection = l->main->connection;
	} else {
		const struct finder_place *place = finder_next(&l->finder, now_ms);

		if (place == NULL)
			return;
		l->at = place->address;
		l->asking = l->finder.asking;
		attempt_ms = finder_attempt_ms(&l->finder, l->timeout_ms);
	}

	int err = wire_connect(&l->wire, &l->at, l->tls);

	l->connection++;
	l->is_connected = false;
	l->hello_sent = 0;
	l->give_up_ms = now_ms + attempt_ms;
	l->state = LINK_GREETING;
	if (err != 0)
		broken(l, err, now_ms);
}

static void
send_hello(struct link *l, uint64_t now_ms)
{
	size_t n, sent = 1;

	while (l->state == LINK_GREETING && sent > 0 &&
	       (n = hello_next(&l->hello, l->asking, &l->hello_sent)) > 0) {
		sent = link_send(l, l->hello.bytes + l->hello_sent, n, now_ms);
		l->hello_sent += sent;
	}
}

static void
greet(struct link *l, uint64_t now_ms)
{
	if (!l->is_connected) {
		int ready = wire_ready(&l->wire);

		if (ready < 0) {
			broken(l, ready, now_ms);
			return;
		}
		l->is_connected = ready > 0;
	}
	if (l->is_connected)
		send_hello(l, now_ms);
	if (l->state == LINK_GREETING && l->is_connected && l->hello.end > 0)
		l->rx_end += link_receive(l, l->rx + l->rx_end,
					  LINK_RECEIVE_BYTES - l->rx_end, now_ms);
	if (l->state == LINK_GREETING && l->is_connected)
		take_answers(l, now_ms);
	if (l->state != LINK_GREETING)
		return;
	if (l->rx_end == LINK_RECEIVE_BYTES)
		fail(l, CAUSE_TRANSIENT, now_ms, "this is no Redis or Valkey server");
	else if (now_ms >= l->give_up_ms)
		fail(l, CAUSE_HUNG, now_ms, "no answer from the server%s",
		     l->tls != NULL && !l->is_connected
			     ? ": does it speak TLS on this port?" : "");
}

/* A side link goes down with the main one, without a word. */
static void
follow_main(struct link *l, uint64_t now_ms)
{
	const struct link *m = l->main;

	if (l->state == LINK_DOWN ||
	    (m->state == LINK_UP && m->connection == l->main_connection))
		return;
	close_link(l);
	l->retry_ms = l->lost_ms = now_ms;
	l->backoff_ms = LINK_BACKOFF_MS;
	l->n_at_once = 0;
}

static void
ask_sentinels(struct link *l, uint64_t now_ms)
{
	bool was_down = l->state == LINK_DOWN, hopeless;
	char shown[WIRE_SHOWN_BYTES];
	enum finder_verdict verdict =
		sentinel_turn(&l->sentinel, &l->finder, l->state == LINK_UP, now_ms);

	if (verdict == FINDER_GO) {
		wire_address_print(&l->finder.place[l->finder.primary].address, shown);
		if (!was_down)
			fail(l, CAUSE_ELSEWHERE, now_ms, "the primary is now %s", shown);
		l->retry_ms = now_ms;
		return;
	}
	if (!sentinel_is_lost(&l->sentinel, &l->finder, &hopeless))
		return;
	if (l->state == LINK_UP || l->finder.primary < 0) {
		snprintf(l->reason, sizeof(l->reason), "%s", l->sentinel.why);
		l->hopeless = l->state != LINK_UP && hopeless;
		say(l, CAUSE_TRANSIENT, false);
	}
}

void
link_turn(struct link *l, uint64_t now_ms)
{
	enum link_state before = l->state;

	if (l->lost_ms == 0)
		l->lost_ms = now_ms;
	if (l->main != NULL)
		follow_main(l, now_ms);
	else if (l->url->kind == URL_SENTINEL)
		ask_sentinels(l, now_ms);
	/* Whoever looks at the state is to see that it was down. */
	if (before != LINK_DOWN && l->state == LINK_DOWN)
		return;
	if (l->main != NULL && l->main->state != LINK_UP)
		return;
	if (l->state == LINK_DOWN && now_ms >= l->retry_ms)
		start(l, now_ms);
	if (l->state == LINK_GREETING)
		greet(l, now_ms);
}

uint64_t
link_due_ms(const struct link *l, uint64_t now_ms)
{
	uint64_t due_ms = UINT64_MAX, ask_ms;
	bool asks = l->main == NULL && l->url->kind == URL_SENTINEL;

	if (l->state == LINK_GREETING)
		due_ms = !l->is_connected || l->hello_sent < l->hello.end
				 ? now_ms + LINK_SOON_MS
				 : l->give_up_ms;
	else if (l->state == LINK_DOWN && (!asks || l->finder.primary >= 0) &&
		 (l->main == NULL || l->main->state == LINK_UP))
		due_ms = l->retry_ms;
	if (!asks)
		return due_ms;
	ask_ms = sentinel_due_ms(&l->sentinel, now_ms);
	return ask_ms < due_ms ? ask_ms : due_ms;
}

unsigned int
link_fds(const struct link *l, int *fd, unsigned int max)
{
	unsigned int n = 0;

	if (l->wire.fd >= 0 && n < max)
		fd[n++] = l->wire.fd;
	if (l->main == NULL && l->sentinel.wire.fd >= 0 && n < max)
		fd[n++] = l->sentinel.wire.fd;
	return n;
}

/* --- Start and end ----------------------------------------------------------------- */

static int
init_all(struct link *l, const struct hello_open *open)
{
	if (getrandom(&l->random, sizeof(l->random), 0) < 0 || l->random == 0)
		l->random = 1;
	l->rx = malloc(LINK_RECEIVE_BYTES);
	if (l->rx == NULL) {
		snprintf(l->reason, sizeof(l->reason), "out of memory");
		return -ENOMEM;
	}
	if (!hello_write(&l->hello, l->url, open)) {
		snprintf(l->reason, sizeof(l->reason), "too many tables");
		return -EINVAL;
	}
	return 0;
}

static void
name_set(struct link *l, const struct link_config *c)
{
	size_t n = strlen(c->url->shown);

	memcpy(l->name, c->url->shown, n + 1);
	if (c->n_partitions > 1)
		snprintf(l->name + n, sizeof(l->name) - n, " partition %u", c->partition);
	snprintf(l->key, sizeof(l->key), "snf:{%s:%u}", c->url->name, c->partition);
}

int
link_init(struct link *l, const struct link_config *config)
{
	struct hello_open open = { l->key, config->tables, config->n_tables,
				   config->n_partitions };
	int err;

	*l = (struct link){ .wire = { .fd = -1 },
			    .n_tables = config->n_tables,
			    .timeout_ms = config->timeout_ms,
			    .speaks_for_all = config->partition == 0 ||
					      config->url->kind == URL_CLUSTER,
			    .backoff_ms = LINK_BACKOFF_MS };
	sentinel_init(&l->sentinel, NULL, l->timeout_ms);
	name_set(l, config);
	l->url = malloc(sizeof(*l->url));
	if (l->url == NULL) {
		snprintf(l->reason, sizeof(l->reason), "out of memory");
		return -ENOMEM;
	}
	*l->url = *config->url;
	err = init_all(l, config->bare ? NULL : &open);
	if (err == 0 && l->url->is_tls)
		err = tls_context_get(l->url, &l->tls, l->reason, sizeof(l->reason));
	if (err == 0)
		err = finder_init(&l->finder, l->url, l->reason, sizeof(l->reason));
	l->sentinel.tls = l->tls;
	if (err == 0 && l->reason[0] != 0 && config->partition == 0)
		log_warning("store", "%s: %s, trying the others", l->name, l->reason);
	if (err == 0)
		l->reason[0] = 0;
	return err;
}

int
link_init_beside(struct link *l, const struct link *main)
{
	*l = (struct link){ .main = main,
			    .url = main->url,
			    .tls = tls_context_again(main->tls),
			    .wire = { .fd = -1 },
			    .timeout_ms = main->timeout_ms,
			    .speaks_for_all = main->speaks_for_all,
			    .was_up = true,
			    .backoff_ms = LINK_BACKOFF_MS };
	sentinel_init(&l->sentinel, NULL, l->timeout_ms);
	memcpy(l->name, main->name, sizeof(l->name));
	memcpy(l->key, main->key, sizeof(l->key));
	return init_all(l, NULL);
}

void
link_fini(struct link *l)
{
	sentinel_fini(&l->sentinel);
	wire_close(&l->wire);
	tls_context_put(l->tls);
	if (l->main == NULL)
		free(l->url);
	free(l->rx);
}

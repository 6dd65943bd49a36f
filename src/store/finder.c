/*
 * finder.c - decides where to look for a primary.
 *
 * Places are addresses: first those of the URL, then the last few that servers or
 * Sentinels named.  Without Sentinels they are tried in turn, unless a redirect says
 * which.  A server that hangs is not believed to be back for a while: the others may know
 * of its successor by then, and each attempt at it costs time in which nobody is
 * asked.
 */
#define _GNU_SOURCE
#include "store/finder.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "store/resp.h"

enum {
	FINDER_HOLD_MS = 1000,			/* Before a hung place is tried again. */
	FINDER_ATTEMPT_MIN_MS = 50,
	FINDER_ATTEMPT_MAX_MS = 250,
	FINDER_USELESS = 4,			/* Answers, before another is asked. */
};

/* --- Places ------------------------------------------------------------------------ */

static int
host_resolve(struct finder *f, const struct url_host *h, bool is_unix)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	int err;

	if (is_unix) {
		struct wire_address *a = &f->place[f->n_places++].address;

		a->un.sun_family = AF_UNIX;
		memcpy(a->un.sun_path, h->name, strlen(h->name) + 1);
		a->bytes = sizeof(a->un);
		return 0;
	}
	err = getaddrinfo(h->name, h->port, &hints, &list);
	if (err != 0)
		return err;
	for (const struct addrinfo *i = list; i != NULL; i = i->ai_next) {
		struct wire_address *a = &f->place[f->n_places].address;

		if (f->n_places == FINDER_MAX_SEEDS || i->ai_addrlen > sizeof(a->un))
			continue;
		memcpy(&a->any, i->ai_addr, i->ai_addrlen);
		a->bytes = i->ai_addrlen;
		memcpy(a->host, h->name, sizeof(a->host));
		f->n_places++;
	}
	freeaddrinfo(list);
	return 0;
}

int
finder_init(struct finder *f, const struct store_url *url, char *why, size_t why_bytes)
{
	*f = (struct finder){ .kind = url->kind,
			      .url = url,
			      .at = -1,
			      .next = -1,
			      .primary = -1 };
	why[0] = 0;
	for (unsigned int i = 0; i < url->n_hosts; i++) {
		int err = host_resolve(f, &url->host[i], url->is_unix);

		if (err != 0)
			snprintf(why, why_bytes, "cannot find the host %s: %s",
				 url->host[i].name, gai_strerror(err));
	}
	f->n_seeds = f->n_places;
	/* One that cannot be found does no harm while there are others. */
	return f->n_places == 0 ? -EHOSTUNREACH : 0;
}

/* Finds the place, or makes it in that of the one that was learned first. */
static int
place_of(struct finder *f, const struct wire_address *a)
{
	unsigned int first = f->kind == URL_SENTINEL ? f->n_seeds : 0, i;

	for (i = first; i < f->n_places; i++)
		if (wire_address_equal(&f->place[i].address, a))
			return (int)i;
	if (f->n_places < FINDER_MAX_PLACES)
		i = f->n_places++;
	else
		do
			i = f->n_seeds + f->learned++ % (FINDER_MAX_PLACES - f->n_seeds);
		while ((int)i == f->at);
	f->place[i] = (struct finder_place){ .address = *a };
	return (int)i;
}

/* The address that a server means.  Returns 0 or -EINVAL and why. */
static int
target_resolve(const struct finder *f, const struct finder_target *t,
	       struct wire_address *out, char why[FINDER_WHY_BYTES])
{
	bool numeric = wire_address_parse(out, t->host, t->port) == 0;

	if (t->host[0] == 0 && f->at >= 0) {
		*out = f->place[f->at].address;
		wire_address_set_port(out, t->port);
		return 0;
	}
	/* By the name that the URL has for it, if it has one: a certificate may know
	 * that alone. */
	for (unsigned int i = 0; i < f->n_seeds; i++) {
		const struct wire_address *a = &f->place[i].address;

		if (numeric ? wire_address_same_host(a, out)
			    : strcasecmp(a->host, t->host) == 0) {
			*out = *a;
			wire_address_set_port(out, t->port);
			return 0;
		}
	}
	if (numeric)
		return 0;
	snprintf(why, FINDER_WHY_BYTES,
		 "it names the host %.60s, which the URL does not: add it there, or have "
		 "addresses announced", t->host[0] == 0 ? "?" : t->host);
	return -EINVAL;
}

static bool
place_hangs(const struct finder_place *p, uint64_t now_ms)
{
	return p->hung_ms != 0 && now_ms - p->hung_ms < FINDER_HOLD_MS;
}

const struct finder_place *
finder_next(struct finder *f, uint64_t now_ms)
{
	f->asking = f->next >= 0 && f->ask_next;
	f->ask_next = false;
	if (f->kind == URL_SENTINEL) {
		f->at = f->primary;
		return f->at < 0 ? NULL : &f->place[f->at];
	}
	f->at = f->next;
	f->next = -1;
	for (unsigned int i = 0; i < f->n_places && f->at < 0; i++) {
		unsigned int candidate = f->turn++ % f->n_places;

		if (!place_hangs(&f->place[candidate], now_ms))
			f->at = (int)candidate;
	}
	if (f->at < 0)
		f->at = (int)(f->turn++ % f->n_places);
	return &f->place[f->at];
}

void
finder_up(struct finder *f)
{
	f->place[f->at].was_up = true;
	f->place[f->at].hung_ms = 0;
	f->failed = false;
	f->n_useless = 0;
}

void
finder_down(struct finder *f, enum finder_end end, uint64_t now_ms)
{
	if (f->at < 0)
		return;
	if (end == FINDER_LOST)
		f->next = f->at;
	if (end == FINDER_HUNG)
		f->place[f->at].hung_ms = now_ms;
	if (f->at == f->primary)
		f->failed = true;
}

unsigned int
finder_attempt_ms(const struct finder *f, unsigned int timeout_ms)
{
	unsigned int ms = timeout_ms / 4;

	/* There is nobody else to ask, or somebody is asked at the same time. */
	if (f->kind == URL_SENTINEL || (f->n_places == 1 && f->kind == URL_PLAIN))
		return timeout_ms;
	/* It is far away, perhaps: it has not been up yet, and hung before. */
	if (f->at >= 0 && !f->place[f->at].was_up && f->place[f->at].hung_ms != 0)
		return timeout_ms;
	return ms < FINDER_ATTEMPT_MIN_MS   ? FINDER_ATTEMPT_MIN_MS
	       : ms > FINDER_ATTEMPT_MAX_MS ? FINDER_ATTEMPT_MAX_MS
					    : ms;
}

/* --- Redirects --------------------------------------------------------------------- */

/* A port, all of [at, end). */
static int
port_parse(const char *at, const char *end, uint16_t *out)
{
	unsigned int port = 0;

	if (at == end || end - at > 5)
		return -EINVAL;
	for (; at < end; at++) {
		if (!isdigit((unsigned char)*at))
			return -EINVAL;
		port = port * 10 + (unsigned int)(*at - '0');
	}
	if (port == 0 || port > UINT16_MAX)
		return -EINVAL;
	*out = (uint16_t)port;
	return 0;
}

/* A host of [at, end) that can be shown and compared. */
static int
host_parse(const char *at, const char *end, char out[URL_HOST_BYTES])
{
	size_t n = (size_t)(end - at);

	if (n >= URL_HOST_BYTES)
		return -EINVAL;
	for (const char *c = at; c < end; c++)
		if (!isgraph((unsigned char)*c))
			return -EINVAL;
	memcpy(out, at, n);
	out[n] = 0;
	return 0;
}

int
finder_redirect_parse(const char *text, size_t bytes, struct finder_target *out)
{
	const char *end = text + bytes, *at = text, *colon;
	struct finder_target t = { 0 };

	if (bytes > 6 && memcmp(text, "MOVED ", 6) == 0)
		at += 6;
	else if (bytes > 4 && memcmp(text, "ASK ", 4) == 0)
		at += 4;
	else
		return -EINVAL;
	t.is_ask = text[0] == 'A';
	while (at < end && isdigit((unsigned char)*at))
		at++;
	if (at == end || *at++ != ' ')
		return -EINVAL;
	colon = memrchr(at, ':', (size_t)(end - at));
	if (colon == NULL || host_parse(at, colon, t.host) != 0 ||
	    port_parse(colon + 1, end, &t.port) != 0)
		return -EINVAL;
	*out = t;
	return 0;
}

int
finder_redirect(struct finder *f, const char *text, size_t bytes, uint64_t now_ms,
		char why[FINDER_WHY_BYTES])
{
	struct finder_target t;
	struct wire_address a;
	int to;

	why[0] = 0;
	if (finder_redirect_parse(text, bytes, &t) != 0) {
		snprintf(why, FINDER_WHY_BYTES, "it names nobody else");
		return -EINVAL;
	}
	if (target_resolve(f, &t, &a, why) != 0)
		return -EINVAL;
	to = place_of(f, &a);
	if (place_hangs(&f->place[to], now_ms))
		return -EAGAIN;
	f->next = to;
	f->ask_next = t.is_ask;
	return 0;
}

/* --- Sentinels --------------------------------------------------------------------- */

ssize_t
finder_answer_parse(const uint8_t *at, size_t left, struct finder_target *out)
{
	struct finder_target t = { 0 };
	const uint8_t *start = at, *word[2];
	size_t bytes[2];
	struct resp r;
	ssize_t n = resp_next(at, left, &r);

	if (n <= 0)
		return n;
	if ((r.type == '*' || r.type == '$') && r.number == -1)
		return -ENOENT;
	if (r.type != '*' || r.number != 2)
		return -EBADMSG;
	at += n;
	left -= (size_t)n;
	for (unsigned int i = 0; i < 2; i++) {
		n = resp_string(at, left, URL_HOST_BYTES, &word[i], &bytes[i]);
		if (n <= 0)
			return n;
		at += n;
		left -= (size_t)n;
	}
	const char *host = (const char *)word[0], *port = (const char *)word[1];

	if (bytes[0] == 0 || host_parse(host, host + bytes[0], t.host) != 0 ||
	    port_parse(port, port + bytes[1], &t.port) != 0)
		return -EBADMSG;
	*out = t;
	return at - start;
}

/* Whether to leave 'f->primary' for another on the word of the Sentinel that is asked
 * now. */
static bool
is_believed(struct finder *f, bool up)
{
	f->doubts |= 1u << f->asked;
	return !up || f->told_here ||
	       (unsigned int)__builtin_popcount(f->doubts) > f->n_seeds / 2;
}

enum finder_verdict
finder_told(struct finder *f, const struct finder_target *told, bool up,
	    char why[FINDER_WHY_BYTES])
{
	struct wire_address a;

	why[0] = 0;
	if (target_resolve(f, told, &a, why) != 0)
		return FINDER_ASK_ANOTHER;
	if (f->primary >= 0 && wire_address_equal(&f->place[f->primary].address, &a)) {
		f->told_here = true;
		f->doubts = 0;
		if (up || !f->failed || ++f->n_useless < FINDER_USELESS)
			return FINDER_STAY;
		f->n_useless = 0;
		return FINDER_ASK_ANOTHER;
	}
	if (!is_believed(f, up))
		return FINDER_ASK_ANOTHER;
	f->primary = place_of(f, &a);
	f->told_here = true;
	f->failed = false;
	f->doubts = 0;
	f->n_useless = 0;
	return FINDER_GO;
}

void
finder_ask_another(struct finder *f)
{
	f->asked = (f->asked + 1) % f->n_seeds;
	f->told_here = false;
}

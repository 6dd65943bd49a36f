/*
 * link.c - the connection below valkey.c: sockets, the greeting, and when to try
 * again.  It knows nothing of frames.
 *
 * The greeting is AUTH, if there is a password, and SNF.OPEN, sent at once; its
 * answers say which generation of the partition is there and what its tables are
 * called.  A name is resolved once, at the start: resolving blocks.
 */
#define _GNU_SOURCE
#include "store/link.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"
#include "store/resp.h"

enum {
	LINK_BACKOFF_MS = 10,
	LINK_MAX_BACKOFF_MS = 500,
};

/* --- When it fails --------------------------------------------------------------- */

static uint64_t
link_random(struct link *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

static void
link_down(struct link *l, uint64_t now_ms)
{
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	l->state = LINK_DOWN;
	l->rx_at = l->rx_end = 0;
	/* Between half and all of it, so that many clients do not come at once. */
	l->retry_ms =
		now_ms + l->backoff_ms / 2 + link_random(l) % (l->backoff_ms / 2 + 1);
	l->backoff_ms *= 2;
	if (l->backoff_ms > LINK_MAX_BACKOFF_MS)
		l->backoff_ms = LINK_MAX_BACKOFF_MS;
	if (l->quiet || strcmp(l->reason, l->logged) == 0)
		return;
	memcpy(l->logged, l->reason, sizeof(l->logged));
	log_warning("store", "%s: %s, trying again", l->url.host, l->reason);
}

void
link_fail(struct link *l, uint64_t now_ms, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(l->reason, sizeof(l->reason), format, args);
	va_end(args);
	l->hopeless = false;
	link_down(l, now_ms);
}

void
link_refused(struct link *l, uint64_t now_ms, const char *text, size_t bytes)
{
	static const struct {
		const char *prefix;
		bool hopeless;
		const char *advice;
	} known[] = {
		{ "ERR unknown command", true,
		  "the module is not loaded: redis-server --loadmodule "
		  ".../snf_store.so" },
		{ "ERR SNFPROTO", true,
		  "the module is of another release: load the snf_store.so of this one" },
		{ "ERR SNFTABLE", true,
		  "another release uses this store: give it another name in the URL" },
		{ "WRONGTYPE", true, "its key is in use: give another name in the URL" },
		{ "NOAUTH", true, "it wants a password: valkey://user:password@host" },
		{ "WRONGPASS", true, "user or password is wrong" },
		{ "ERR AUTH", true, "it has no password: take it out of the URL" },
		{ "NOPERM", true,
		  "the user may not: ACL SETUSER ... +snf.open +snf.frame "
		  "~snf:*" },
		{ "MOVED", true, "it is a Cluster" },
		{ "DENIED", true, "protected mode: give it a password or bind it" },
		{ "READONLY", false, "it is a replica: give the primary's address" },
		{ "MISCONF", false, "it cannot save and refuses writes: see its log" },
		{ "LOADING", false, "it is loading its data" },
		{ "SNFSTALE", false, "the state was lost or replaced" },
	};
	const char *advice = "";

	l->hopeless = false;
	for (unsigned int i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		size_t n = strlen(known[i].prefix);

		if (bytes < n || memcmp(text, known[i].prefix, n) != 0)
			continue;
		advice = known[i].advice;
		l->hopeless = known[i].hopeless;
		break;
	}
	/* One line of what somebody else wrote. */
	snprintf(l->reason, sizeof(l->reason), "the server says \"%.*s\"%s%s",
		 (int)(bytes < 100 ? bytes : 100), text, *advice == 0 ? "" : ": ",
		 advice);
	for (char *c = l->reason; *c != 0; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	link_down(l, now_ms);
}

/* --- Bytes ------------------------------------------------------------------------- */

static void
link_lost(struct link *l, uint64_t now_ms)
{
	if (l->state == LINK_UP)
		link_fail(l, now_ms, "connection lost: %s", strerror(errno));
	else
		link_fail(l, now_ms, "cannot connect: %s: is a server running there?",
			  strerror(errno));
}

size_t
link_send(struct link *l, const void *bytes, size_t n, uint64_t now_ms)
{
	ssize_t sent = send(l->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent >= 0)
		return (size_t)sent;
	if (errno != EAGAIN && errno != EINTR)
		link_lost(l, now_ms);
	return 0;
}

size_t
link_receive(struct link *l, void *to, size_t room, uint64_t now_ms)
{
	ssize_t got = recv(l->fd, to, room, MSG_DONTWAIT);

	if (got > 0)
		return (size_t)got;
	if (got == 0)
		link_fail(l, now_ms, "the server closed the connection");
	else if (errno != EAGAIN && errno != EINTR)
		link_lost(l, now_ms);
	return 0;
}

/* --- Coming up --------------------------------------------------------------------- */

static void
link_connect(struct link *l, uint64_t now_ms)
{
	unsigned int i = l->next_address++ % l->n_addresses;
	int family = l->address[i].any.sa_family, on = 1;

	l->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0) {
		link_fail(l, now_ms, "cannot make a socket: %s", strerror(errno));
		return;
	}
	if (family != AF_UNIX)
		setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(l->fd, &l->address[i].any, l->address_bytes[i]) != 0 &&
	    errno != EINPROGRESS) {
		link_lost(l, now_ms);
		return;
	}
	l->state = LINK_GREETING;
	l->hello_sent = 0;
	l->give_up_ms = now_ms + l->timeout_ms;
}

/* The answers to the greeting, looked at from the first byte each time. */
struct answers {
	const uint8_t *at, *end;
};

/* Takes an answer off.  False: it is not here yet, or the link went down over it. */
static bool
answer_next(struct link *l, struct answers *a, char want, struct resp *r, uint64_t now_ms)
{
	ssize_t n = resp_next(a->at, (size_t)(a->end - a->at), r);

	if (n == 0)
		return false;
	if (n > 0 && r->type == '-')
		link_refused(l, now_ms, r->text, r->text_bytes);
	else if (n < 0 || r->type != want)
		link_fail(l, now_ms, "this is no Redis or Valkey server");
	else
		a->at += n;
	return l->state == LINK_GREETING;
}

static void
link_answers(struct link *l, uint64_t now_ms)
{
	struct answers a = { l->rx, l->rx + l->rx_end };
	uint8_t id[STORE_MAX_TABLES];
	struct resp r;

	if (l->url.password[0] != 0 && !answer_next(l, &a, '+', &r, now_ms))
		return;
	if (!answer_next(l, &a, '*', &r, now_ms))
		return;
	if (r.number != (int64_t)l->n_tables + 1) {
		link_fail(l, now_ms, "the module answers with another number of tables");
		return;
	}
	if (!answer_next(l, &a, ':', &r, now_ms))
		return;

	uint64_t generation = (uint64_t)r.number;

	for (unsigned int i = 0; i < l->n_tables; i++) {
		if (!answer_next(l, &a, ':', &r, now_ms))
			return;
		if (r.number < 0 || r.number > UINT8_MAX) {
			link_fail(l, now_ms, "the module answers with a bad table");
			return;
		}
		id[i] = (uint8_t)r.number;
	}
	l->generation = generation;
	memcpy(l->table_id, id, sizeof(id));
	l->rx_at = l->rx_end = 0; /* Nothing else was asked yet. */
	l->backoff_ms = LINK_BACKOFF_MS;
	l->state = LINK_UP;
	if (l->logged[0] != 0)
		log_info("store", "%s: connected again", l->url.host);
	l->logged[0] = 0;
}

static void
link_greet(struct link *l, uint64_t now_ms)
{
	if (now_ms >= l->give_up_ms) {
		link_fail(l, now_ms, "no answer from the server");
		return;
	}
	if (l->hello_sent < l->hello_bytes) {
		l->hello_sent += link_send(l, l->hello + l->hello_sent,
					   l->hello_bytes - l->hello_sent, now_ms);
		if (l->state != LINK_GREETING || l->hello_sent == 0)
			return;
	}
	l->rx_end += link_receive(l, l->rx + l->rx_end, LINK_RECEIVE_BYTES - l->rx_end,
				  now_ms);
	if (l->state == LINK_GREETING && l->rx_end > 0)
		link_answers(l, now_ms);
	if (l->state == LINK_GREETING && l->rx_end == LINK_RECEIVE_BYTES)
		link_fail(l, now_ms, "this is no Redis or Valkey server");
}

void
link_turn(struct link *l, uint64_t now_ms)
{
	if (l->state == LINK_DOWN && now_ms >= l->retry_ms)
		link_connect(l, now_ms);
	if (l->state == LINK_GREETING)
		link_greet(l, now_ms);
}

/* --- Start and end ----------------------------------------------------------------- */

static int
link_resolve(struct link *l)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;

	if (l->url.is_unix) {
		l->address[0].un.sun_family = AF_UNIX;
		memcpy(l->address[0].un.sun_path, l->url.host, strlen(l->url.host) + 1);
		l->address_bytes[0] = sizeof(l->address[0].un);
		l->n_addresses = 1;
		return 0;
	}

	int err = getaddrinfo(l->url.host, l->url.port, &hints, &list);

	if (err != 0) {
		snprintf(l->reason, sizeof(l->reason), "cannot find the host: %s",
			 gai_strerror(err));
		return -EHOSTUNREACH;
	}
	for (struct addrinfo *a = list; a != NULL; a = a->ai_next) {
		if (l->n_addresses == LINK_MAX_ADDRESSES ||
		    a->ai_addrlen > sizeof(l->address[0]))
			continue;
		memcpy(&l->address[l->n_addresses], a->ai_addr, a->ai_addrlen);
		l->address_bytes[l->n_addresses++] = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return l->n_addresses == 0 ? -EHOSTUNREACH : 0;
}

static bool
hello_write(struct link *l, const struct store_table *tables)
{
	struct resp_out o = { l->hello, l->hello + sizeof(l->hello) };
	const struct store_url *u = &l->url;
	bool fits = true;

	if (u->password[0] != 0) {
		fits = resp_put_head(&o, '*', u->user[0] != 0 ? 3 : 2) &&
		       resp_put_string(&o, "AUTH", 4) &&
		       (u->user[0] == 0 ||
			resp_put_string(&o, u->user, strlen(u->user))) &&
		       resp_put_string(&o, u->password, strlen(u->password));
	}
	fits = fits && resp_put_head(&o, '*', 3 + 4 * l->n_tables) &&
	       resp_put_string(&o, "SNF.OPEN", 8) &&
	       resp_put_string(&o, l->key, strlen(l->key)) &&
	       resp_put_number(&o, FRAME_PROTOCOL);
	for (unsigned int i = 0; i < l->n_tables; i++)
		fits = fits &&
		       resp_put_string(&o, tables[i].name, strlen(tables[i].name)) &&
		       resp_put_number(&o, tables[i].key_max) &&
		       resp_put_number(&o, tables[i].value_max) &&
		       resp_put_number(&o, tables[i].format);
	l->hello_bytes = (size_t)(o.at - l->hello);
	return fits;
}

int
link_init(struct link *l, const struct store_url *url, const struct store_table *tables,
	  unsigned int n_tables, unsigned int timeout_ms)
{
	*l = (struct link){ .url = *url,
			    .fd = -1,
			    .n_tables = n_tables,
			    .timeout_ms = timeout_ms,
			    .backoff_ms = LINK_BACKOFF_MS,
			    .quiet = true };
	snprintf(l->key, sizeof(l->key), "snf:{%s:0}", url->name);
	if (getrandom(&l->random, sizeof(l->random), 0) < 0 || l->random == 0)
		l->random = 1;
	if (n_tables > STORE_MAX_TABLES || !hello_write(l, tables)) {
		snprintf(l->reason, sizeof(l->reason), "too many tables");
		return -EINVAL;
	}

	int err = link_resolve(l);

	if (err != 0)
		return err;
	l->rx = malloc(LINK_RECEIVE_BYTES);
	if (l->rx == NULL) {
		snprintf(l->reason, sizeof(l->reason), "out of memory");
		return -ENOMEM;
	}
	return 0;
}

void
link_fini(struct link *l)
{
	if (l->fd >= 0)
		close(l->fd);
	free(l->rx);
}

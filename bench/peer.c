/*
 * peer.c - lanes of what our store is compared with, and of its own slow commands: the
 * fewest instructions that send a request and look at the answer.
 *
 * Keys and values have one length and every key is there, so the length of an answer is
 * known before it comes; the places where a miss or an error would show are looked
 * at.  memcached's keys are text, and its requests the text protocol's, for one "get"
 * of many keys is what it answers fastest.
 */
#define _GNU_SOURCE
#include "lane.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	PEER_BYTES = 2 << 20,			/* More than can be in flight. */
	PEER_ASKED = 8,				/* Requests in flight. */
	SCAN_COUNT = 1000,			/* Records in one answer. */
};

struct peer;

/* How a server is asked, and what it says. */
struct peer_protocol {
	char *(*read)(struct peer *p, char *to);
	char *(*write)(struct peer *p, char *to);
	/* Bytes of the answer that is next, -1: not all here, -2: it is wrong. */
	ssize_t (*answer)(struct peer *p, const char *from, size_t bytes);
};

struct peer {
	struct lane lane;			/* First. */
	const struct peer_protocol *protocol;
	int fd;
	uint64_t asked_ns[PEER_ASKED], n_asked, n_answered;
	uint64_t cursor;			/* PEER_SCAN */
	size_t tx_at, tx_end, rx_at, rx_end;
	char *tx, *rx;
};

/* --- Requests -------------------------------------------------------------------- */

#define SAY(to, text) ((char *)memcpy((to), (text), sizeof(text) - 1) + sizeof(text) - 1)

static char *
say_number(char *to, const char *before, unsigned int n, const char *after)
{
	return to + sprintf(to, "%s%u%s", before, n, after);
}

static char *
say_key(struct peer *p, char *to)
{
	uint64_t key[2];

	key_write(lane_next(&p->lane), key);
	memcpy(to, key, KEY_BYTES);
	return to + KEY_BYTES;
}

/* As text of the same length: 6 bits in each byte. */
static char *
say_text_key(struct peer *p, char *to)
{
	uint64_t n = lane_next(&p->lane);
	uint64_t half[2] = { mixed(n), 0 };

	for (unsigned int i = 0; i < 8; i++)
		half[1] |= (n >> 6 * i & 0x3f) << 8 * i;
	half[0] = (half[0] & 0x3f3f3f3f3f3f3f3f) + 0x3030303030303030;
	half[1] += 0x3030303030303030;
	memcpy(to, half, sizeof(half));
	return to + KEY_BYTES;
}

static char *
mget_write(struct peer *p, char *to)
{
	to = say_number(to, "*", 1 + p->lane.work.n_keys, "\r\n$4\r\nMGET\r\n");
	for (unsigned int i = 0; i < p->lane.work.n_keys; i++)
		to = SAY(say_key(p, SAY(to, "$16\r\n")), "\r\n");
	return to;
}

static char *
mset_write(struct peer *p, char *to)
{
	to = say_number(to, "*", 1 + 2 * p->lane.work.n_keys, "\r\n$4\r\nMSET\r\n");
	for (unsigned int i = 0; i < p->lane.work.n_keys; i++) {
		char *key = SAY(to, "$16\r\n");

		to = SAY(SAY(say_key(p, key), "\r\n"), "$16\r\n");
		memcpy(to, key, RECORD_BYTES);
		to = SAY(to + RECORD_BYTES, "\r\n");
	}
	return to;
}

static char *
text_get_write(struct peer *p, char *to)
{
	to = SAY(to, "get");
	for (unsigned int i = 0; i < p->lane.work.n_keys; i++)
		to = say_text_key(p, SAY(to, " "));
	return SAY(to, "\r\n");
}

/* Only the last one is answered. */
static char *
text_set_write(struct peer *p, char *to)
{
	for (unsigned int i = p->lane.work.n_keys; i > 0; i--) {
		char *key = SAY(to, "set ");

		to = SAY(say_text_key(p, key), " 0 0 16");
		to = i > 1 ? SAY(to, " noreply\r\n") : SAY(to, "\r\n");
		memcpy(to, key, RECORD_BYTES);
		to = SAY(to + RECORD_BYTES, "\r\n");
	}
	return to;
}

static char *
scan_write(struct peer *p, char *to)
{
	char cursor[24];
	int digits = sprintf(cursor, "%llu", (unsigned long long)p->cursor);

	return to + sprintf(to, "*5\r\n$8\r\nSNF.SCAN\r\n$11\r\nsnf:{snf:0}\r\n"
				"$1\r\n%d\r\n$%d\r\n%s\r\n$4\r\n%d\r\n",
			    LANE_CONNECTION, digits, cursor, SCAN_COUNT);
}

/* --- Answers --------------------------------------------------------------------- */

/* An answer to a read of all keys: a head, elements that start alike, an end. */
static ssize_t
elements_look(const char *from, size_t bytes, const char *head, unsigned int n,
	      const char *start, size_t element_bytes, const char *end)
{
	size_t head_bytes = strlen(head), start_bytes = strlen(start);
	size_t want = head_bytes + n * element_bytes + strlen(end);
	const char *at = from + head_bytes;

	if (bytes >= 1 && (from[0] == '-' || from[0] == 'E'))
		return -2;
	if (bytes < want)
		return -1;
	if (memcmp(from, head, head_bytes) != 0)
		return -2;
	for (unsigned int i = 0; i < n; i++, at += element_bytes)
		if (memcmp(at, start, start_bytes) != 0)
			return -2;
	return memcmp(at, end, strlen(end)) == 0 ? (ssize_t)want : -2;
}

static ssize_t
redis_answer(struct peer *p, const char *from, size_t bytes)
{
	const struct work *w = &p->lane.work;
	char head[16];

	if (w->kind != WORK_READ)
		return elements_look(from, bytes, "+OK\r\n", 0, "", 0, "");
	say_number(head, "*", w->n_keys, "\r\n");
	return elements_look(from, bytes, head, w->n_keys, "$16\r\n", 5 + RECORD_BYTES + 2,
			     "");
}

static ssize_t
memcached_answer(struct peer *p, const char *from, size_t bytes)
{
	const struct work *w = &p->lane.work;

	if (w->kind != WORK_READ)
		return elements_look(from, bytes, "STORED\r\n", 0, "", 0, "");
	return elements_look(from, bytes, "", w->n_keys, "VALUE ",
			     6 + KEY_BYTES + strlen(" 0 16\r\n") + RECORD_BYTES + 2,
			     "END\r\n");
}

/* The number in a line that starts with 'type'; -1: not all here, -2: it is another. */
static int64_t
line_number(const char **at, const char *end, char type)
{
	const char *line = *at;
	const char *stop = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;

	if (line < end && *line != type)
		return -2;
	if (stop == NULL)
		return -1;
	*at = stop + 1;
	return strtoll(line + 1, NULL, 10);
}

/* An array: the next cursor, an integer or a string, and records. */
static ssize_t
scan_answer(struct peer *p, const char *from, size_t bytes)
{
	const char *at = from, *end = from + bytes;
	int64_t n = line_number(&at, end, '*');
	uint64_t cursor = 0;

	for (int64_t i = 0; i < n; i++) {
		if (i == 0 && at < end && *at == ':') {
			cursor = (uint64_t)line_number(&at, end, ':');
			continue;
		}
		int64_t length = line_number(&at, end, '$');

		if (length < 0)
			return length;
		if (end - at < length + 2)
			return -1;
		if (i == 0)
			cursor = strtoull(at, NULL, 10);
		at += length + 2;
	}
	if (n < 0)
		return n;
	p->cursor = cursor;
	return at - from;
}

/* --- The lane -------------------------------------------------------------------- */

static void
peer_send(struct peer *p)
{
	if (p->tx_at == p->tx_end)
		return;

	ssize_t n = send(p->fd, p->tx + p->tx_at, p->tx_end - p->tx_at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN)
		die("a server is gone: %s", strerror(errno));
	p->tx_at += n > 0 ? (size_t)n : 0;
	if (p->tx_at == p->tx_end)
		p->tx_at = p->tx_end = 0;
}

static bool
peer_submit(struct lane *l, uint64_t now)
{
	struct peer *p = (struct peer *)l;
	bool read = l->work.kind == WORK_READ;

	if (p->n_asked - p->n_answered == PEER_ASKED || p->tx_end > PEER_BYTES / 2)
		return false;

	char *to = p->tx + p->tx_end;

	to = read ? p->protocol->read(p, to) : p->protocol->write(p, to);
	p->tx_end = (size_t)(to - p->tx);
	p->asked_ns[p->n_asked++ % PEER_ASKED] = now;
	peer_send(p);
	return true;
}

static void
peer_receive(struct peer *p)
{
	memmove(p->rx, p->rx + p->rx_at, p->rx_end - p->rx_at);
	p->rx_end -= p->rx_at;
	p->rx_at = 0;

	ssize_t n = recv(p->fd, p->rx + p->rx_end, PEER_BYTES - p->rx_end, MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN))
		die("a server closed its connection");
	p->rx_end += n > 0 ? (size_t)n : 0;
}

static unsigned int
peer_poll(struct lane *l)
{
	struct peer *p = (struct peer *)l;
	ssize_t n = -1;

	if (p->n_asked == p->n_answered)
		return 0;
	peer_send(p);
	if (p->rx_end > p->rx_at)
		n = p->protocol->answer(p, p->rx + p->rx_at, p->rx_end - p->rx_at);
	if (n == -1) {
		peer_receive(p);
		n = p->protocol->answer(p, p->rx, p->rx_end);
	}
	if (n == -2)
		die("a wrong answer: %.60s", p->rx + p->rx_at);
	if (n == -1)
		return 0;
	lane_answered(l, p->asked_ns[p->n_answered++ % PEER_ASKED], now_ns());
	p->rx_at += (size_t)n;
	return 1;
}

static unsigned int
peer_fds(struct lane *l, struct pollfd *fds, int *timeout_ms)
{
	struct peer *p = (struct peer *)l;

	(void)timeout_ms;
	fds[0] = (struct pollfd){ .fd = p->fd, .events = POLLIN };
	return 1;
}

static void
peer_close(struct lane *l)
{
	struct peer *p = (struct peer *)l;

	close(p->fd);
	free(p->tx);
	free(p->rx);
	free(p);
}

static int
peer_connect(const char *address)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	struct sockaddr_in here = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const char *port = strrchr(address, ':');
	int on = 1, fd, err;

	if (address[0] == '/') {
		strncpy(path.sun_path, address, sizeof(path.sun_path) - 1);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		err = connect(fd, (struct sockaddr *)&path, sizeof(path));
	} else {
		here.sin_port = htons((uint16_t)atoi(port != NULL ? port + 1 : address));
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		err = connect(fd, (struct sockaddr *)&here, sizeof(here));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	}
	if (err != 0)
		die("%s: %s", address, strerror(errno));
	return fd;
}

struct lane *
peer_open(enum peer_kind kind, const char *address)
{
	static const struct lane_ops ops = { peer_submit, peer_poll, peer_fds, peer_close };
	static const struct peer_protocol protocols[] = {
		[PEER_REDIS] = { mget_write, mset_write, redis_answer },
		[PEER_MEMCACHED] = { text_get_write, text_set_write, memcached_answer },
		[PEER_SCAN] = { scan_write, NULL, scan_answer },
	};
	struct peer *p = calloc(1, sizeof(*p));

	if (p == NULL || (p->tx = malloc(PEER_BYTES)) == NULL ||
	    (p->rx = malloc(PEER_BYTES)) == NULL)
		die("out of memory");
	p->lane.ops = &ops;
	p->lane.random = now_ns() | 1;
	p->protocol = &protocols[kind];
	p->fd = peer_connect(address);
	return &p->lane;
}

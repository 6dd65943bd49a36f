/*
 * test_link.h - servers that a test plays for a link, on sockets of 127.0.0.1.  The clock
 * is the test's: a millisecond is a turn of all of them.  What is logged is kept.
 */
#ifndef TEST_LINK_H
#define TEST_LINK_H

#include "store/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

#define UP       "*5\r\n:7\r\n:8\r\n:1\r\n:3\r\n:0\r\n"
#define OPENED   "SNF.OPEN"
#define OK       "+OK\r\n"

/* --- What is logged ---------------------------------------------------------------- */

static unsigned int n_lines;
static char lines[4096];

void
log_line(enum log_level level, const char *component, const char *format, ...)
{
	size_t n = strlen(lines);
	va_list args;

	(void)level;
	va_start(args, format);
	if (n < sizeof(lines))
		vsnprintf(lines + n, sizeof(lines) - n, format, args);
	va_end(args);
	n_lines++;
	strncat(lines, "\n", sizeof(lines) - strlen(lines) - 1);
}

/* --- Servers ----------------------------------------------------------------------- */

enum { N_CLIENTS = 4 };

struct server {
	int listener;
	unsigned int port;
	int client[N_CLIENTS];			/* -1: none */
	unsigned int n_connections;
	const char *until;			/* Answers when this was asked... */
	const char *says;			/* ...with that; NULL: it hangs. */
	bool closes;				/* Behind it. */
	char heard[4096];			/* By the last client. */
};

static struct server servers[3];
static struct link l, side;
static uint64_t now_ms;
static struct store_url url;

static void
server_start(struct server *s, const char *until, const char *says)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(a);

	*s = (struct server){ .until = until, .says = says };
	for (unsigned int i = 0; i < N_CLIENTS; i++)
		s->client[i] = -1;
	s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(s->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s->listener, 16), 0);
	getsockname(s->listener, (struct sockaddr *)&a, &bytes);
	s->port = ntohs(a.sin_port);
}

static void
server_drop(struct server *s)
{
	for (unsigned int i = 0; i < N_CLIENTS; i++) {
		if (s->client[i] >= 0)
			close(s->client[i]);
		s->client[i] = -1;
	}
}

static void
server_stop(struct server *s)
{
	server_drop(s);
	if (s->listener > 0)
		close(s->listener);
	s->listener = -1;
}

static void
server_accept(struct server *s)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK);

	if (fd < 0)
		return;
	s->n_connections++;
	s->heard[0] = 0;
	for (unsigned int i = 0; i < N_CLIENTS; i++)
		if (s->client[i] < 0) {
			s->client[i] = fd;
			return;
		}
	fail_msg("too many connections at once");
}

static void
server_turn(struct server *s)
{
	if (s->listener <= 0)
		return;
	server_accept(s);
	for (unsigned int i = 0; i < N_CLIENTS; i++) {
		size_t n = strlen(s->heard), room = sizeof(s->heard) - 1 - n;
		ssize_t got = s->client[i] < 0
				      ? -1 : recv(s->client[i], s->heard + n, room, 0);

		if (got == 0) {
			close(s->client[i]);
			s->client[i] = -1;
		}
		if (got <= 0)
			continue;
		s->heard[n + (size_t)got] = 0;
		if (s->says == NULL || strstr(s->heard, s->until) == NULL)
			continue;
		send(s->client[i], s->says, strlen(s->says), MSG_NOSIGNAL);
		if (s->closes) {
			close(s->client[i]);
			s->client[i] = -1;
		}
	}
}

/* --- The link ---------------------------------------------------------------------- */

static const struct store_table tables[2] = {
	{ .name = "a", .key_max = 16, .value_max = 64, .format = 1, .leased = true },
	{ .name = "b", .key_max = 4, .value_max = 8, .format = 2, .evict = true,
	  .limit = 1000 },
};

/* 'format' is a URL with "%u" for the ports of the servers. */
static void
link_start(const char *format, unsigned int timeout_ms)
{
	struct link_config config = { .url = &url,
				      .tables = tables,
				      .n_tables = 2,
				      .partition = 0,
				      .n_partitions = 4,
				      .timeout_ms = timeout_ms };
	char text[200], why[200];

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, sizeof(text), format, servers[0].port, servers[1].port,
		 servers[2].port);
	assert_int_equal(url_parse(text, &url, why, sizeof(why)), 0);
	assert_int_equal(link_init(&l, &config), 0);
}

static void
turn(void)
{
	now_ms++;
	link_turn(&l, now_ms);
	if (side.main != NULL)
		link_turn(&side, now_ms);
	for (unsigned int i = 0; i < 3; i++)
		server_turn(&servers[i]);
}

static void
turns(unsigned int n)
{
	while (n-- > 0)
		turn();
}

/* Returns how many milliseconds it took. */
static unsigned int
turns_until(enum link_state state, unsigned int most)
{
	for (unsigned int n = 0; n < most; n++) {
		turn();
		if (l.state == state)
			return n;
	}
	fail_msg("not so within %u ms: %s\n%s", most, l.reason, lines);
	return 0;
}

/* Connections and lines in ten seconds of the test's clock. */
static void
assert_calm(unsigned int most_connections, unsigned int most_lines)
{
	unsigned int before = 0, after = 0;

	for (unsigned int i = 0; i < 3; i++)
		before += servers[i].n_connections;
	n_lines = 0;
	turns(10000);
	for (unsigned int i = 0; i < 3; i++)
		after += servers[i].n_connections;
	if (after - before > most_connections || n_lines > most_lines)
		fail_msg("%u connections, %u lines in 10 s:\n%s", after - before, n_lines,
			 lines);
	assert_true(after - before > 3);
}

static int
setup(void **state)
{
	(void)state;
	now_ms = 1000;
	n_lines = 0;
	lines[0] = 0;
	memset(servers, 0, sizeof(servers));
	memset(&l, 0, sizeof(l));
	memset(&side, 0, sizeof(side));
	for (unsigned int i = 0; i < 3; i++)
		server_start(&servers[i], OPENED, UP);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	if (side.main != NULL)
		link_fini(&side);
	link_fini(&l);
	for (unsigned int i = 0; i < 3; i++)
		server_stop(&servers[i]);
	return 0;
}

#define LINK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif

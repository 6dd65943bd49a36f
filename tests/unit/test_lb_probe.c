/*
 * test_lb_probe.c - how backends are checked: what a file may say of it, and what single
 * probes make of servers on this machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nf/lb_probe.h"

/* --- the file ------------------------------------------------------------------- */

/* [B44] */
static void
test_what_contradicts_itself_is_refused(void **state)
{
	static const char *const wrong[] = {
		"type: ftp", "type: tcp, path: /", "type: udp, status: 200",
		"type: http, payload: x", "type: icmp, port: 80", "type: tcp, match: x",
		"type: http, verify: yes", "type: tcp, timeout: 3s",
		"type: http, path: nothing", "type: http, path: '/a b'",
		"type: http, host: 'a/b'", "type: http, status: 600",
		"type: http, status: 399-200", "type: tcp, jitter: 101",
		"type: tcp, jitter: -1", "type: tcp, interval: 10ms",
		"type: tcp, fall: 0",
		"type: tcp, timeout: 61s, interval: 90s",
	};
	static const char *const right[] = {
		"type: none", "type: tcp", "type: icmp, jitter: 0",
		"type: tcp, interval: 500ms", "type: udp, payload: ping, match: pong",
		"type: https, host: example.com, path: '/health?x=1', status: 200-299, "
		"match: ok, verify: yes, port: 8443",
		"type: tcp, timeout: 60s, interval: 60s",
	};

	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]) +
					 sizeof(right) / sizeof(right[0]);
	     i++) {
		unsigned int n_wrong = sizeof(wrong) / sizeof(wrong[0]);
		const char *text = i < n_wrong ? wrong[i] : right[i - n_wrong];
		struct lb_check given = { 0 }, check;
		struct config *config;
		char section[256];
		int err;

		sprintf(section, "{%s}", text);
		err = config_load_text("section", section, strlen(section),
				       lb_check_fields, &given, &config);
		if (err == 0) {
			err = lb_check_init(&given, &check);
			config_free(config);
		}
		if ((err != 0) != (i < n_wrong))
			fail_msg("%s: %s", text, err != 0 ? "refused" : "accepted");
	}
}

/* --- probes --------------------------------------------------------------------- */

struct server {
	int fd, kind;
	const char *answer;
	struct endpoint at;
	pthread_t thread;
};

/* Answers one request. */
static void *
serve(void *argument)
{
	struct server *s = argument;
	struct sockaddr_storage from;
	socklen_t bytes = sizeof(from);
	char text[2048];
	ssize_t n;

	if (s->kind == SOCK_DGRAM) {
		n = recvfrom(s->fd, text, sizeof(text), 0, (struct sockaddr *)&from,
			     &bytes);
		if (n >= 0 && s->answer != NULL)
			n = sendto(s->fd, s->answer, strlen(s->answer), 0,
				   (struct sockaddr *)&from, bytes);
		return NULL;
	}

	int fd = accept(s->fd, NULL, NULL);

	n = read(fd, text, sizeof(text));
	if (n > 0 && s->answer != NULL)
		n = write(fd, s->answer, strlen(s->answer));
	shutdown(fd, SHUT_WR);
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
	return NULL;
}

static void
server_start(struct server *s, int kind, const char *answer)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(in);

	s->kind = kind;
	s->answer = answer;
	s->fd = socket(AF_INET, kind, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)&in, &bytes), 0);
	if (kind == SOCK_STREAM)
		assert_int_equal(listen(s->fd, 1), 0);
	s->at = (struct endpoint){ .ip4 = in.sin_addr.s_addr, .port = in.sin_port,
				   .version = 4 };
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void
server_end(struct server *s)
{
	pthread_join(s->thread, NULL);
	close(s->fd);
}

/* [B44] */
static void
test_a_probe_sees_what_the_server_says(void **state)
{
	static const struct {
		const char *name;
		struct lb_check check;
		const char *answer;
		uint32_t want;
	} cases[] = {
		{ "a page", { .kind = LB_CHECK_HTTP }, "HTTP/1.1 200 OK\r\n"
		  "Content-Length: 5\r\n\r\nhello", 0 },
		{ "without a length", { .kind = LB_CHECK_HTTP },
		  "HTTP/1.0 204 OK\r\n\r\n", 0 },
		{ "moved, which is as good", { .kind = LB_CHECK_HTTP },
		  "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n"
		  "Content-Length: 0\r\n\r\n", 0 },
		{ "broken", { .kind = LB_CHECK_HTTP }, "HTTP/1.1 503 Busy\r\n"
		  "Content-Length: 0\r\n\r\n", 503 },
		{ "its body is still to come", { .kind = LB_CHECK_HTTP },
		  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0 },
		{ "it takes its time with the rest",
		  { .kind = LB_CHECK_HTTP, .match = "ell" },
		  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		  "2\r\nhe\r\n2\r\nll\r\n", 0 },
		{ "another head comes before", { .kind = LB_CHECK_HTTP },
		  "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
		  "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503 },
		{ "with what is looked for", { .kind = LB_CHECK_HTTP, .match = "ell" },
		  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 0 },
		{ "without it", { .kind = LB_CHECK_HTTP, .match = "elf" },
		  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ENOMSG },
		{ "it is only in the head", { .kind = LB_CHECK_HTTP, .match = "Content" },
		  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ENOMSG },
		{ "not HTTP", { .kind = LB_CHECK_HTTP }, "SSH-2.0-x\r\n", EPROTO },
		{ "nothing", { .kind = LB_CHECK_HTTP }, NULL, EPROTO },
		{ "no TLS", { .kind = LB_CHECK_HTTPS }, "HTTP/1.1 400 What\r\n\r\n",
		  EPROTO },
		{ "UDP", { .kind = LB_CHECK_UDP, .payload = "x" }, "pong", 0 },
		{ "UDP that says nothing", { .kind = LB_CHECK_UDP }, NULL, 0 },
		{ "UDP with it", { .kind = LB_CHECK_UDP, .match = "on" }, "pong", 0 },
		{ "UDP without it", { .kind = LB_CHECK_UDP, .match = "in" }, "pong",
		  ENOMSG },
		{ "UDP that says nothing, but should",
		  { .kind = LB_CHECK_UDP, .match = "in" }, NULL, ETIMEDOUT },
	};

	assert_int_equal(lb_probe_init(), 0);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct lb_check check;
		bool udp = cases[i].check.kind == LB_CHECK_UDP;
		struct lb_probe_result result;
		struct server server;

		assert_int_equal(lb_check_init(&cases[i].check, &check), 0);
		check.timeout_ms = udp ? 100 : 10 * 1000;
		server_start(&server, udp ? SOCK_DGRAM : SOCK_STREAM, cases[i].answer);
		lb_probe(&check, &server.at, &result);
		if (result.cause != cases[i].want)
			fail_msg("%s: %u, want %u", cases[i].name, result.cause,
				 cases[i].want);
		server_end(&server);
	}
}

/* [B44] Nobody listens; or somebody does, and says nothing. */
static void
test_a_probe_ends_in_time(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &bytes), 0);
	for (unsigned int listening = 0; listening < 2; listening++) {
		static const int kinds[] = { LB_CHECK_TCP, LB_CHECK_HTTP, LB_CHECK_HTTPS,
					     LB_CHECK_UDP };
		struct endpoint at = { .ip4 = in.sin_addr.s_addr, .port = in.sin_port,
				       .version = 4 };

		for (unsigned int i = 0; i < 4; i++) {
			struct lb_check given = { .kind = kinds[i], .timeout_ms = 100 };
			struct lb_check check;
			struct lb_probe_result result;
			bool silent = listening && kinds[i] != LB_CHECK_TCP;

			assert_int_equal(lb_check_init(&given, &check), 0);
			lb_probe(&check, &at, &result);
			if (kinds[i] == LB_CHECK_UDP || !silent)
				assert_int_equal(result.cause, listening &&
							       kinds[i] == LB_CHECK_TCP
							       ? 0 : ECONNREFUSED);
			else
				assert_int_equal(result.cause, ETIMEDOUT);
			assert_in_range(result.elapsed_ms, 0, 5000);
		}
		assert_int_equal(listen(fd, 16), 0);
	}
	close(fd);
}

/* [B44] */
static void
test_a_ping_is_answered(void **state)
{
	static const char *const addresses[] = { "127.0.0.1", "::1" };

	for (unsigned int i = 0; i < 2; i++) {
		struct lb_check given = { .kind = LB_CHECK_ICMP }, check;
		struct lb_probe_result result;
		struct endpoint to;

		assert_int_equal(lb_check_init(&given, &check), 0);
		assert_int_equal(address_parse(addresses[i], &to), 0);
		lb_probe(&check, &to, &result);
		/* Nobody but root may, unless a sysctl says so; IPv6 may be off. */
		if (result.cause == EPERM || result.cause == EACCES ||
		    result.cause == EADDRNOTAVAIL || result.cause == EAFNOSUPPORT)
			continue;
		assert_int_equal(result.cause, 0);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_contradicts_itself_is_refused),
		cmocka_unit_test(test_a_probe_sees_what_the_server_says),
		cmocka_unit_test(test_a_probe_ends_in_time),
		cmocka_unit_test(test_a_ping_is_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

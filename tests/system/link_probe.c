/*
 * link_probe.c - keeps a link to a store while a test does what it likes to the servers,
 * and says where it is.
 *
 * While the link is up, it asks SNF.MARK all the time: so it notices a server that hangs
 * and one that is none any more, as a store does that has work.
 *
 *   link_probe URL TIMEOUT_MS
 *
 * Prints "up ADDRESS" and "down REASON" with the time in milliseconds in front, and
 * "hopeless" behind that if it is; at the end of its standard input "connections N".
 * Log lines are on standard error.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/link.h"
#include "base/clock.h"
#include "store/resp.h"

enum {
	PROBE_PAUSE_MS = 5,			/* Between questions. */
};

static struct link l;
static struct {
	uint8_t bytes[256];
	size_t n, sent;
	unsigned int n_answers;			/* Still to come. */
	uint64_t asked_ms;
} question;

static void
ask(uint64_t now_ms)
{
	struct resp_out o = { question.bytes, question.bytes + sizeof(question.bytes) };

	if (l.asking) {
		memcpy(o.at, LINK_ASKING, sizeof(LINK_ASKING) - 1);
		o.at += sizeof(LINK_ASKING) - 1;
	}
	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "SNF.MARK", 8);
	resp_put_string(&o, l.key, strlen(l.key));
	resp_put_number(&o, l.term);
	question.n = (size_t)(o.at - question.bytes);
	question.sent = 0;
	question.n_answers = l.asking ? 2 : 1;
	question.asked_ms = now_ms;
}

static void
take(uint64_t now_ms)
{
	l.rx_end += link_receive(&l, l.rx + l.rx_end, LINK_RECEIVE_BYTES - l.rx_end,
				 now_ms);
	while (l.state == LINK_UP && question.n_answers > 0) {
		struct resp r;
		ssize_t n = resp_next(l.rx + l.rx_at, l.rx_end - l.rx_at, &r);

		if (n == 0)
			return;
		if (n < 0) {
			link_fail(&l, now_ms, "this makes no sense");
			return;
		}
		if (r.type == '-') {
			link_refused(&l, now_ms, r.text, r.text_bytes);
			return;
		}
		l.rx_at += (size_t)n;
		question.n_answers--;
	}
	l.rx_at = l.rx_end = 0;
}

static void
question_turn(uint64_t now_ms)
{
	if (question.n_answers == 0 && now_ms - question.asked_ms >= PROBE_PAUSE_MS)
		ask(now_ms);
	if (question.sent < question.n)
		question.sent += link_send(&l, question.bytes + question.sent,
					   question.n - question.sent, now_ms);
	if (l.state == LINK_UP)
		take(now_ms);
	if (l.state == LINK_UP && question.n_answers > 0 &&
	    now_ms - question.asked_ms >= l.timeout_ms)
		link_fail(&l, now_ms, "no answer within %u ms", l.timeout_ms);
}

/* Waits for what may come; false: the standard input has ended. */
static bool
wait_for_more(uint64_t now_ms)
{
	struct pollfd p[1 + LINK_MAX_FDS] = { { .fd = 0, .events = POLLIN } };
	int fd[LINK_MAX_FDS], wait_ms = PROBE_PAUSE_MS;
	unsigned int n = link_fds(&l, fd, LINK_MAX_FDS);
	uint64_t due_ms = link_due_ms(&l, now_ms);

	for (unsigned int i = 0; i < n; i++)
		p[1 + i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	if (due_ms < now_ms + PROBE_PAUSE_MS)
		wait_ms = due_ms <= now_ms ? 0 : (int)(due_ms - now_ms);
	poll(p, 1 + n, wait_ms);
	return p[0].revents == 0;
}

static void
tell(uint64_t now_ms)
{
	static char told[400];
	char now[400], shown[WIRE_SHOWN_BYTES];

	if (l.state == LINK_GREETING || (l.state == LINK_DOWN && l.reason[0] == 0))
		return;
	wire_address_print(&l.at, shown);
	snprintf(now, sizeof(now), "%s %s%s", l.state == LINK_UP ? "up" : "down",
		 l.state == LINK_UP ? shown : l.reason, l.hopeless ? " hopeless" : "");
	if (strcmp(now, told) == 0)
		return;
	strcpy(told, now);
	printf("%" PRIu64 " %s\n", now_ms, now);
}

int
main(int argc, char **argv)
{
	static const struct store_table table = { .name = "probe", .key_max = 16,
						  .value_max = 64, .format = 1 };
	static struct store_url url;
	struct link_config config = { .url = &url, .tables = &table, .n_tables = 1,
				      .n_partitions = 1 };
	char why[200];

	if (argc != 3) {
		fprintf(stderr, "usage: link_probe URL TIMEOUT_MS\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	config.timeout_ms = (unsigned int)atoi(argv[2]);
	if (url_parse(argv[1], &url, why, sizeof(why)) != 0) {
		printf("error %s\n", why);
		return 1;
	}
	if (link_init(&l, &config) != 0) {
		printf("error %s\n", l.reason);
		link_fini(&l);
		return 1;
	}
	for (uint64_t now_ms = clock_ms(); wait_for_more(now_ms); now_ms = clock_ms()) {
		uint32_t before = l.connection;

		link_turn(&l, now_ms);
		tell(now_ms);
		if (l.connection != before)
			memset(&question, 0, sizeof(question));
		if (l.state == LINK_UP)
			question_turn(now_ms);
		tell(now_ms);
	}
	printf("connections %" PRIu32 "\n", l.connection);
	link_fini(&l);
	return 0;
}

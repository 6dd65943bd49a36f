/*
 * play.c - see play.h.
 */
#include "play.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"

static const uint64_t key = 0x1122334455667788;

bool
play_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 1) == 1;
}

/* --- Start and end ------------------------------------------------------------ */

struct play
play_default(void)
{
	return (struct play){
		.n_partitions = 1,
		.timeout_ms = PLAY_TIMEOUT_MS,
		.table = { .name = "test", .key_max = 8, .value_max = 100, .format = 2 },
		.generation = 77,
		.term = 55,
		.table_id = 3,
	};
}

static void
listen_unix(struct play *p, char *url, size_t url_bytes)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memcpy(p->folder, "/tmp/test-play-XXXXXX", 22);
	assert_non_null(mkdtemp(p->folder));
	snprintf(p->path, sizeof(p->path), "%s/s", p->folder);
	snprintf(url, url_bytes, "valkey+unix://%s", p->path);
	memcpy(address.sun_path, p->path, sizeof(p->path));
	p->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&address, sizeof(address)),
			 0);
}

static void
listen_tcp(struct play *p, char *url, size_t url_bytes)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(address);

	p->listener = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&address, bytes), 0);
	assert_int_equal(getsockname(p->listener, (struct sockaddr *)&address, &bytes),
			 0);
	p->port = ntohs(address.sin_port);
	snprintf(url, url_bytes, "valkey+cluster://127.0.0.1:%d", p->port);
}

static void *
greet_first(void *context)
{
	struct play *p = context;

	for (unsigned int i = 0; i < p->n_partitions; i++) {
		int fd = accept(p->listener, NULL, NULL);

		p->fd[play_greet(p, fd)] = fd;
	}
	return NULL;
}

void
play_open(struct play *p)
{
	char url[100], why[200] = "";
	struct store_options options = { .url = url,
					 .timeout_ms = p->timeout_ms,
					 .n_partitions = p->n_partitions };
	pthread_t thread;

	log_set_level(LOG_ERROR);
	if (p->is_cluster)
		listen_tcp(p, url, sizeof(url));
	else
		listen_unix(p, url, sizeof(url));
	assert_int_equal(listen(p->listener, 16), 0);
	assert_int_equal(pthread_create(&thread, NULL, greet_first, p), 0);

	const struct store_table tables[] = { p->table, p->beside };
	int err = store_valkey_ops.open(&options, tables, 1 + (p->beside.name[0] != 0),
					&p->store, why, sizeof(why));

	assert_int_equal(pthread_join(thread, NULL), 0);
	if (err != 0)
		fail_msg("%s", why);
	assert_int_equal(p->store->n_partitions, p->n_partitions);
	assert_int_equal(p->store->ops->health(p->store), STORE_CONNECTED);
}

void
play_close(struct play *p)
{
	p->store->ops->close(p->store);
	for (unsigned int i = 0; i < p->n_partitions; i++)
		close(p->fd[i]);
	close(p->listener);
	if (p->is_cluster)
		return;
	unlink(p->path);
	rmdir(p->folder);
}

/* --- The client's side -------------------------------------------------------- */

void
play_turn(struct play *p)
{
	struct store_batch *done[STORE_INFLIGHT];
	unsigned int n;

	do {
		n = p->store->ops->poll(p->store, done, STORE_INFLIGHT);
		for (unsigned int i = 0; i < n; i++) {
			assert_true(p->n_done < PLAY_QUEUE);
			p->done[p->n_done].batch = done[i];
			p->done[p->n_done++].final = done[i]->final;
		}
	} while (n > 0);
}

void
play_expect_done(struct play *p, const struct store_batch *b, bool final)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS;

	while (p->n_taken == p->n_done) {
		assert_true(clock_ms() < end_ms);
		play_turn(p);
	}
	assert_ptr_equal(p->done[p->n_taken].batch, b);
	assert_int_equal(p->done[p->n_taken].final, final);
	if (++p->n_taken == p->n_done)
		p->n_taken = p->n_done = 0;
}

void
play_expect_none(struct play *p)
{
	play_turn(p);
	assert_int_equal(p->n_taken, p->n_done);
}

/* --- The server's side -------------------------------------------------------- */

void
play_take(struct play *p, int fd, void *to, size_t n)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS;

	for (size_t got = 0; got < n;) {
		assert_true(clock_ms() < end_ms);
		play_turn(p);
		if (!play_readable(fd))
			continue;

		ssize_t m = read(fd, (char *)to + got, n - got);

		assert_true(m > 0);
		got += (size_t)m;
	}
}

void
play_expect(struct play *p, int fd, const char *text)
{
	char got[300] = "";

	assert_true(strlen(text) < sizeof(got));
	play_take(p, fd, got, strlen(text));
	assert_string_equal(got, text);
}

void
play_say(int fd, const void *bytes, size_t n)
{
	assert_int_equal(send(fd, bytes, n, MSG_NOSIGNAL), n);
}

void
play_say_text(int fd, const char *text)
{
	play_say(fd, text, strlen(text));
}

int
play_accept(struct play *p)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS;

	while (!play_readable(p->listener)) {
		assert_true(clock_ms() < end_ms);
		play_turn(p);
	}
	return accept(p->listener, NULL, NULL);
}

unsigned int
play_greet(struct play *p, int fd)
{
	char hello[4096], answer[128];
	ssize_t n = read(fd, hello, sizeof(hello) - 1);
	unsigned int partition;
	const char *open;

	assert_true(n > 0);
	hello[n] = 0;
	open = strstr(hello, "$8\r\nSNF.OPEN\r\n$11\r\nsnf:{snf:");
	assert_non_null(open);
	partition = (unsigned int)open[28] - '0';
	assert_true(partition < p->n_partitions);
	assert_non_null(strstr(open, "}\r\n$1\r\n2\r\n$1\r\n"));
	if (strstr(hello, "ASKING") != NULL)
		play_say_text(fd, "+OK\r\n");
	n = snprintf(answer, sizeof(answer), "*%d\r\n:%llu\r\n:%llu\r\n:%u\r\n:%u\r\n",
		     4 + (p->beside.name[0] != 0), (unsigned long long)p->generation,
		     (unsigned long long)p->term, p->n_replicas, p->table_id);
	if (p->beside.name[0] != 0)
		n += snprintf(answer + n, sizeof(answer) - (size_t)n, ":%u\r\n",
			      p->table_id + 1);
	play_say(fd, answer, (size_t)n);
	return partition;
}

void
play_again(struct play *p, unsigned int partition)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS;
	int fd = play_accept(p);
	char byte;

	while (recv(p->fd[partition], &byte, 1, MSG_DONTWAIT) > 0)
		;
	assert_int_equal(recv(p->fd[partition], &byte, 1, MSG_DONTWAIT), 0);
	close(p->fd[partition]);
	while (!play_readable(fd)) {
		assert_true(clock_ms() < end_ms);
		play_turn(p);
	}
	assert_int_equal(play_greet(p, fd), partition);
	p->fd[partition] = fd;
}

struct frame_head
play_take_frame(struct play *p, unsigned int partition, void *ops, size_t room,
		bool asking)
{
	int fd = p->fd[partition];
	char start[100], length[64] = "";
	struct frame_head head;

	snprintf(start, sizeof(start),
		 "%s*3\r\n$9\r\nSNF.FRAME\r\n$11\r\nsnf:{snf:%u}\r\n$",
		 asking ? "*1\r\n$6\r\nASKING\r\n" : "", partition);
	play_expect(p, fd, start);
	for (size_t i = 0; i < 2 || memcmp(length + i - 2, "\r\n", 2) != 0; i++) {
		assert_true(i < sizeof(length));
		play_take(p, fd, length + i, 1);
	}
	play_take(p, fd, &head, sizeof(head));
	assert_int_equal(atoi(length), head.n_bytes);
	assert_true(head.n_bytes - sizeof(head) <= room);
	play_take(p, fd, ops, head.n_bytes - sizeof(head));
	play_expect(p, fd, "\r\n");
	assert_int_equal(head.magic, FRAME_MAGIC);
	assert_int_equal(head.generation, p->generation);
	assert_int_equal(head.term, p->term);
	return head;
}

static size_t
answer_start(uint8_t *to, uint64_t id, uint32_t bytes)
{
	struct frame_reply_head head = { FRAME_REPLY_MAGIC, bytes, id };
	int at = sprintf((char *)to, "$%u\r\n", bytes);

	memset(to + at, 0, bytes);
	memcpy(to + at, &head, sizeof(head));
	memcpy(to + at + bytes, "\r\n", 2);
	return (size_t)at;
}

size_t
play_hit(uint8_t *to, uint64_t id, uint16_t n, uint8_t fill)
{
	uint32_t bytes = FRAME_REPLY_HEAD_BYTES + 16 + FRAME_PAD(n);
	size_t at = answer_start(to, id, bytes);
	uint64_t version = 9;

	to[at + 16] = FRAME_HIT;
	memcpy(to + at + 18, &n, sizeof(n));
	memcpy(to + at + 24, &version, sizeof(version));
	memset(to + at + 32, fill, n);
	return at + bytes + 2;
}

size_t
play_group(uint8_t *to, uint64_t id, enum frame_answer answer)
{
	uint32_t bytes = FRAME_REPLY_HEAD_BYTES + 8;
	size_t at = answer_start(to, id, bytes);

	to[at + 16] = (uint8_t)answer;
	return at + bytes + 2;
}

void
play_expect_mark(struct play *p, int fd)
{
	char text[100];

	snprintf(text, sizeof(text),
		 "*3\r\n$8\r\nSNF.MARK\r\n$11\r\nsnf:{snf:0}\r\n$2\r\n%d\r\n",
		 (int)p->term);
	play_expect(p, fd, text);
}

void
play_expect_round(struct play *p, int fd, unsigned int n_replicas)
{
	char text[100];

	snprintf(text, sizeof(text), "*3\r\n$4\r\nWAIT\r\n$1\r\n%u\r\n$3\r\n100\r\n",
		 n_replicas);
	play_expect_mark(p, fd);
	play_expect(p, fd, text);
	play_expect_mark(p, fd);
}

void
play_answer_round(int fd, unsigned int n_replicas)
{
	char text[20];

	snprintf(text, sizeof(text), ":1\r\n:%u\r\n:1\r\n", n_replicas);
	play_say_text(fd, text);
}

/* --- Questions and answers ---------------------------------------------------- */

void
play_put(struct frame *f, uint8_t table)
{
	uint8_t *group = frame_group(f, 5);

	frame_put(f, table, &key, sizeof(key), 2, "v", 1, 0, 0);
	frame_group_end(group, 1);
}

struct store_batch *
play_ask(struct play *p, unsigned int at, bool write, uint64_t *id)
{
	struct store_batch *b = p->store->ops->batch(p->store);
	uint8_t ops[200];

	assert_non_null(b);
	b->part[at].may_lose = p->may_lose;
	if (write)
		play_put(&b->part[at].request, 0);
	else
		frame_read(&b->part[at].request, 0, &key, sizeof(key), true);
	assert_int_equal(p->store->ops->submit(p->store, b), 0);
	*id = play_take_frame(p, at, ops, sizeof(ops), false).id;
	return b;
}

void
play_answer_group(struct play *p, unsigned int at, uint64_t id, enum frame_answer answer)
{
	uint8_t bytes[100];

	play_say(p->fd[at], bytes, play_group(bytes, id, answer));
}

void
play_answer_read(struct play *p, unsigned int at, uint64_t id)
{
	uint8_t bytes[200];

	play_say(p->fd[at], bytes, play_hit(bytes, id, 10, 7));
}

void
play_expect_answer(struct store_batch *b, unsigned int at, enum frame_answer answer)
{
	struct frame_value v = { 0 };

	assert_int_equal(b->part[at].error, 0);
	assert_int_equal(frame_reply_next(&b->part[at].reply, &v), 1);
	assert_int_equal(v.answer, answer);
	assert_int_equal(frame_reply_next(&b->part[at].reply, &v), 0);
}

/*
 * test_valkey.c - the client of a server that is played by the test: it answers byte by
 * byte, late, wrongly or not at all, and sees exactly what it was asked.
 */
#include "store/store.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

enum {
	TIMEOUT_MS = 60000, /* In tests that no timeout should end. */
	DEADLINE_MS = 30000,
	TABLE_ID = 3, /* What the server calls table 0. */
	WORDS = 64,
};

static const char command_start[] = "*3\r\n$9\r\nSNF.FRAME\r\n$11\r\nsnf:{snf:0}\r\n";

/* The server's side. */
struct play {
	char folder[32], path[64];
	int listener, fd;
	uint64_t generation;
	unsigned int table_id;
	struct store *store;
};

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Takes the greeting and answers it. */
static void
greet(struct play *p)
{
	char hello[4096], answer[64];
	ssize_t n = read(p->fd, hello, sizeof(hello) - 1);

	assert_true(n > 0);
	hello[n] = 0;
	assert_non_null(strstr(hello,
			       "$8\r\nSNF.OPEN\r\n$11\r\nsnf:{snf:0}\r\n$1\r\n1\r\n"
			       "$4\r\ntest\r\n$1\r\n8\r\n$3\r\n100\r\n$1\r\n2\r\n"));
	n = snprintf(answer, sizeof(answer), "*2\r\n:%llu\r\n:%u\r\n",
		     (unsigned long long)p->generation, p->table_id);
	assert_int_equal(write(p->fd, answer, (size_t)n), n);
}

static void *
greet_first(void *context)
{
	struct play *p = context;

	p->fd = accept(p->listener, NULL, NULL);
	greet(p);
	return NULL;
}

static void
play_open(struct play *p, unsigned int timeout_ms)
{
	static const struct store_table table = { "test", 8, 100, 2 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char url[100], why[200] = "";
	struct store_options options = { .url = url, .timeout_ms = timeout_ms };
	pthread_t thread;

	log_set_level(LOG_ERROR);
	*p = (struct play){ .folder = "/tmp/test-valkey-XXXXXX",
			    .generation = 77,
			    .table_id = TABLE_ID };
	assert_non_null(mkdtemp(p->folder));
	snprintf(p->path, sizeof(p->path), "%s/s", p->folder);
	snprintf(url, sizeof(url), "valkey+unix://%s", p->path);
	memcpy(address.sun_path, p->path, sizeof(p->path));
	p->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&address, sizeof(address)),
			 0);
	assert_int_equal(listen(p->listener, 5), 0);
	assert_int_equal(pthread_create(&thread, NULL, greet_first, p), 0);
	int err = store_valkey_unix_ops.open(&options, &table, 1, &p->store, why,
					     sizeof(why));

	assert_int_equal(pthread_join(thread, NULL), 0);
	if (err != 0)
		fail_msg("%s", why);
	assert_int_equal(p->store->ops->health(p->store), STORE_CONNECTED);
}

static void
play_close(struct play *p)
{
	p->store->ops->close(p->store);
	close(p->fd);
	close(p->listener);
	unlink(p->path);
	rmdir(p->folder);
}

/* --- What it is asked ---------------------------------------------------------- */

static bool
readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 1) == 1;
}

/* The next 'n' bytes from the client, which is let send meanwhile. */
static void
take(struct play *p, void *to, size_t n)
{
	uint64_t end_ms = now_ms() + DEADLINE_MS;
	struct store_batch *done;

	for (size_t got = 0; got < n;) {
		assert_true(now_ms() < end_ms);
		assert_int_equal(p->store->ops->poll(p->store, &done, 1), 0);
		if (!readable(p->fd))
			continue;

		ssize_t m = read(p->fd, (char *)to + got, n - got);

		assert_true(m > 0);
		got += (size_t)m;
	}
}

/* The next command; its frame's head, and its operations to 'ops'. */
static struct frame_head
take_frame(struct play *p, void *ops, size_t room)
{
	char start[sizeof(command_start) - 1], length[WORDS] = "", end[2];
	struct frame_head head;

	take(p, start, sizeof(start));
	assert_memory_equal(start, command_start, sizeof(start));
	for (size_t i = 0; i < 2 || memcmp(length + i - 2, "\r\n", 2) != 0; i++) {
		assert_true(i < sizeof(length));
		take(p, length + i, 1);
	}
	take(p, &head, sizeof(head));
	assert_int_equal(length[0], '$');
	assert_int_equal(atoi(length + 1), head.n_bytes);
	assert_true(head.n_bytes - sizeof(head) <= room);
	take(p, ops, head.n_bytes - sizeof(head));
	take(p, end, 2);
	assert_memory_equal(end, "\r\n", 2);
	assert_int_equal(head.magic, FRAME_MAGIC);
	assert_int_equal(head.generation, p->generation);
	return head;
}

/* Waits for the client to hang up and come again, and greets it. */
static void
take_again(struct play *p)
{
	uint64_t end_ms = now_ms() + DEADLINE_MS;
	struct store_batch *done;
	char byte;

	while (!readable(p->listener)) {
		assert_true(now_ms() < end_ms);
		p->store->ops->poll(p->store, &done, 0);
	}
	while (recv(p->fd, &byte, 1, MSG_DONTWAIT) > 0)
		;
	assert_int_equal(recv(p->fd, &byte, 1, MSG_DONTWAIT), 0);
	close(p->fd);
	p->fd = accept(p->listener, NULL, NULL);
	while (!readable(p->fd))
		p->store->ops->poll(p->store, &done, 0);
	greet(p);
}

/* --- What it asks, and is answered ----------------------------------------------- */

static const uint64_t key = 0x1122334455667788;

/* Submits a frame that reads the key 'n' times. */
static struct store_batch *
ask(struct play *p, unsigned int n)
{
	struct store_batch *b = p->store->ops->batch(p->store);

	assert_non_null(b);
	assert_int_equal((uintptr_t)b->request.start % 8, 0);
	for (unsigned int i = 0; i < n; i++)
		assert_non_null(frame_read(&b->request, 0, &key, sizeof(key), true));
	assert_int_equal(p->store->ops->submit(p->store, b), 0);
	return b;
}

/* An answer of one hit whose value is 'n' bytes of 'fill'.  Returns its length. */
static size_t
answer_write(uint8_t *to, uint64_t id, uint16_t n, uint8_t fill)
{
	uint32_t bytes = FRAME_REPLY_HEAD_BYTES + 16 + FRAME_PAD(n);
	struct frame_reply_head head = { FRAME_REPLY_MAGIC, bytes, id };
	uint64_t version = 9;
	int at = sprintf((char *)to, "$%u\r\n", bytes);

	memset(to + at, 0, bytes);
	memcpy(to + at, &head, sizeof(head));
	to[at + 16] = FRAME_HIT;
	memcpy(to + at + 18, &n, sizeof(n));
	memcpy(to + at + 24, &version, sizeof(version));
	memset(to + at + 32, fill, n);
	memcpy(to + at + bytes, "\r\n", 2);
	return (size_t)at + bytes + 2;
}

static void
say(struct play *p, const void *bytes, size_t n)
{
	assert_int_equal(send(p->fd, bytes, n, MSG_NOSIGNAL), n);
}

static unsigned int
poll_store(struct play *p, struct store_batch **done)
{
	return p->store->ops->poll(p->store, done, STORE_INFLIGHT);
}

static void
check_answer(struct play *p, struct store_batch *b, uint16_t n, uint8_t fill)
{
	struct frame_value v = { 0 };

	assert_int_equal(b->error, 0);
	assert_int_equal((uintptr_t)b->reply.at % 8, 0);
	assert_int_equal(frame_reply_next(&b->reply, &v), 1);
	assert_int_equal(v.answer, FRAME_HIT);
	assert_int_equal(v.value_bytes, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(v.value[i], fill);
	assert_int_equal(frame_reply_next(&b->reply, &v), 0);
	p->store->ops->free(p->store, b);
}

/* --- The tests --------------------------------------------------------------------- */

static void
test_an_answer_may_come_in_any_two_pieces(void **state)
{
	struct store_batch *done[STORE_INFLIGHT];
	uint8_t answer[400], ops[100];
	struct play p;
	size_t bytes = 400;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	for (size_t cut = 1; cut < bytes; cut++) {
		struct store_batch *b = ask(&p, 1);
		struct frame_head head = take_frame(&p, ops, sizeof(ops));

		assert_int_equal(head.id, cut);
		assert_int_equal(ops[0], FRAME_READ);
		assert_int_equal(ops[1], TABLE_ID);
		assert_memory_equal(ops + 4, &key, sizeof(key));
		bytes = answer_write(answer, head.id, 100, (uint8_t)cut);
		say(&p, answer, cut);
		assert_int_equal(poll_store(&p, done), 0);
		say(&p, answer + cut, bytes - cut);
		assert_int_equal(poll_store(&p, done), 1);
		assert_ptr_equal(done[0], b);
		check_answer(&p, b, 100, (uint8_t)cut);
	}
	play_close(&p);
}

static void
test_answers_may_come_together(void **state)
{
	struct store_batch *b[STORE_INFLIGHT], *done[STORE_INFLIGHT];
	uint8_t ops[100], answers[STORE_INFLIGHT * 400];
	struct play p;
	size_t bytes = 0;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		b[i] = ask(&p, 1);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++) {
		uint64_t id = take_frame(&p, ops, sizeof(ops)).id;

		bytes +=
			answer_write(answers + bytes, id, (uint16_t)(10 * i), (uint8_t)i);
	}
	say(&p, answers, bytes);
	assert_int_equal(p.store->ops->poll(p.store, done, 3), 3);
	assert_int_equal(poll_store(&p, done + 3), STORE_INFLIGHT - 3);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++) {
		assert_ptr_equal(done[i], b[i]);
		check_answer(&p, done[i], (uint16_t)(10 * i), (uint8_t)i);
	}
	play_close(&p);
}

static void
test_there_is_an_end_to_what_is_in_flight(void **state)
{
	struct store_batch *b[STORE_BATCHES];
	struct play p;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		b[i] = ask(&p, 1);
	for (unsigned int i = STORE_INFLIGHT; i < STORE_BATCHES; i++) {
		b[i] = p.store->ops->batch(p.store);
		assert_non_null(b[i]);
		assert_int_equal(p.store->ops->submit(p.store, b[i]), -EAGAIN);
	}
	assert_null(p.store->ops->batch(p.store));
	p.store->ops->free(p.store, b[STORE_INFLIGHT]);
	assert_non_null(p.store->ops->batch(p.store));
	play_close(&p);
}

static void
test_a_frame_that_does_not_fit_the_socket(void **state)
{
	static uint8_t ops[FRAME_MAX_BYTES];
	struct store_batch *b, *done[STORE_INFLIGHT];
	uint8_t answer[400];
	struct frame_head head;
	struct play p;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	b = ask(&p, 200000);
	head = take_frame(&p, ops, sizeof(ops));
	assert_int_equal(head.n_bytes, FRAME_HEAD_BYTES + 200000 * 16);
	for (unsigned int i = 0; i < 200000; i++)
		assert_memory_equal(ops + 16 * i + 4, &key, sizeof(key));
	say(&p, answer, answer_write(answer, head.id, 1, 1));
	assert_int_equal(poll_store(&p, done), 1);
	check_answer(&p, b, 1, 1);
	play_close(&p);
}

/* What the server may say instead of an answer: the client hangs up, comes again,
 * and asks the same. */
static const struct {
	const char *name;
	const char *text;
} nonsense[] = {
	{ "a number", ":5\r\n" },
	{ "a null", "$-1\r\n" },
	{ "too much", "$99999999\r\n" },
	{ "too little", "$15\r\n123456789012345\r\n" },
	{ "no reply of the module", "$16\r\n1234567890123456\r\n" },
	{ "an answer to somebody else", "$16\r\nSNR\1\20\0\0\0\0\0\0\0\0\0\0\1\r\n" },
	{ "another protocol", "HTTP/1.1 400\r\n" },
	{ "another generation", "-SNFSTALE open it again\r\n" },
	{ "not now", "-LOADING Redis is loading the dataset in memory\r\n" },
	{ "any other error", "-ERR what is that\r\n" },
};

static void
test_nonsense_is_asked_again(void **state)
{
	struct store_batch *b[2], *done[STORE_INFLIGHT];
	uint8_t ops[100], answer[400];
	struct play p;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct frame_head head[2], again;
		size_t bytes = 0;

		for (unsigned int k = 0; k < 2; k++)
			b[k] = ask(&p, 1);
		for (unsigned int k = 0; k < 2; k++)
			head[k] = take_frame(&p, ops, sizeof(ops));
		/* Its zeros are part of the text. */
		say(&p, nonsense[i].text, i == 5 ? 23 : strlen(nonsense[i].text));
		if (poll_store(&p, done) != 0)
			fail_msg("%s: taken for an answer", nonsense[i].name);
		p.generation++;
		p.table_id = p.table_id % 7 + 1;
		take_again(&p);
		for (unsigned int k = 0; k < 2; k++) {
			again = take_frame(&p, ops, sizeof(ops));
			if (again.id != head[k].id || again.client != head[k].client ||
			    ops[1] != p.table_id)
				fail_msg("%s: not asked the same again",
					 nonsense[i].name);
			bytes += answer_write(answer + bytes, again.id, 1, 1);
		}
		say(&p, answer, bytes);
		assert_int_equal(poll_store(&p, done), 2);
		for (unsigned int k = 0; k < 2; k++)
			check_answer(&p, b[k], 1, 1);
	}
	play_close(&p);
}

static void
test_a_bad_frame_is_given_back(void **state)
{
	static const char bad[] = "-ERR SNFBAD malformed\r\n", old[] = "-SNFREPEAT\r\n";
	struct store_batch *b[3], *done[STORE_INFLIGHT];
	uint8_t ops[100], answer[400];
	struct frame_head head = { 0 };
	struct play p;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	for (unsigned int k = 0; k < 3; k++)
		b[k] = ask(&p, 1);
	for (unsigned int k = 0; k < 3; k++)
		head = take_frame(&p, ops, sizeof(ops));
	say(&p, bad, sizeof(bad) - 1);
	say(&p, old, sizeof(old) - 1);
	say(&p, answer, answer_write(answer, head.id, 1, 1));
	assert_int_equal(poll_store(&p, done), 3);
	assert_int_equal(b[0]->error, -EBADMSG);
	assert_int_equal(b[1]->error, -EALREADY);
	check_answer(&p, b[2], 1, 1);
	play_close(&p);
}

static void
test_no_answer_in_time(void **state)
{
	struct store_batch *b, *done[STORE_INFLIGHT];
	uint64_t end_ms = now_ms() + DEADLINE_MS, asked_ms;
	uint8_t ops[100], answer[400];
	struct frame_head head;
	int wait_ms;
	struct play p;

	(void)state;
	play_open(&p, 100);
	asked_ms = now_ms();
	b = ask(&p, 1);
	head = take_frame(&p, ops, sizeof(ops));
	p.store->ops->wait_fd(p.store, &wait_ms);
	assert_in_range(wait_ms, 0, 100);
	while (poll_store(&p, done) == 0)
		assert_true(now_ms() < end_ms);
	assert_in_range(now_ms() - asked_ms, 90, DEADLINE_MS);
	assert_int_equal(b->error, -ETIMEDOUT);
	assert_int_equal(p.store->ops->health(p.store), STORE_LOST);
	assert_int_equal(p.store->ops->submit(p.store, b), -ENOTCONN);
	/* The late answer reaches nobody. */
	send(p.fd, answer, answer_write(answer, head.id, 1, 1), MSG_NOSIGNAL);
	take_again(&p);
	while (p.store->ops->health(p.store) != STORE_CONNECTED) {
		assert_true(now_ms() < end_ms);
		assert_int_equal(poll_store(&p, done), 0);
	}
	assert_int_equal(p.store->ops->submit(p.store, b), 0);
	assert_true(take_frame(&p, ops, sizeof(ops)).id > head.id);
	play_close(&p);
}

static void
test_an_end_is_noticed_without_asking(void **state)
{
	struct store_batch *done[STORE_INFLIGHT];
	struct play p;
	int wait_ms;

	(void)state;
	play_open(&p, TIMEOUT_MS);
	shutdown(p.fd, SHUT_RDWR);
	assert_true(readable(p.store->ops->wait_fd(p.store, &wait_ms)));
	poll_store(&p, done);
	assert_int_equal(p.store->ops->health(p.store), STORE_CONNECTING);
	take_again(&p);
	poll_store(&p, done);
	assert_int_equal(p.store->ops->health(p.store), STORE_CONNECTED);
	play_close(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_answer_may_come_in_any_two_pieces),
		cmocka_unit_test(test_answers_may_come_together),
		cmocka_unit_test(test_there_is_an_end_to_what_is_in_flight),
		cmocka_unit_test(test_a_frame_that_does_not_fit_the_socket),
		cmocka_unit_test(test_nonsense_is_asked_again),
		cmocka_unit_test(test_a_bad_frame_is_given_back),
		cmocka_unit_test(test_no_answer_in_time),
		cmocka_unit_test(test_an_end_is_noticed_without_asking),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_valkey.c - the client with one partition: frames and answers, on a server that
 * the test plays.
 */
#include "play.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"

enum { MAX_FDS = 8 };

static const uint64_t key = 0x1122334455667788;

static struct store_batch *
new_batch(struct play *p)
{
	struct store_batch *b = p->store->ops->batch(p->store);

	assert_non_null(b);
	return b;
}

/* Submits a frame that reads the key 'n' times. */
static struct store_batch *
ask(struct play *p, unsigned int n)
{
	struct store_batch *b = new_batch(p);
	struct frame *f = &b->part[0].request;

	assert_int_equal((uintptr_t)f->start % 8, 0);
	for (unsigned int i = 0; i < n; i++)
		assert_non_null(frame_read(f, 0, &key, sizeof(key), true));
	assert_int_equal(p->store->ops->submit(p->store, b), 0);
	return b;
}

static unsigned int
poll_store(struct play *p, struct store_batch **done)
{
	return p->store->ops->poll(p->store, done, STORE_INFLIGHT);
}

static void
check_answer(struct play *p, struct store_batch *b, uint16_t n, uint8_t fill)
{
	struct store_part *part = &b->part[0];
	struct frame_value v = { 0 };

	assert_true(b->final);
	assert_int_equal(part->error, 0);
	assert_int_equal((uintptr_t)part->reply.at % 8, 0);
	assert_int_equal(frame_reply_next(&part->reply, &v), 1);
	assert_int_equal(v.answer, FRAME_HIT);
	assert_int_equal(v.value_bytes, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(v.value[i], fill);
	assert_int_equal(frame_reply_next(&part->reply, &v), 0);
	p->store->ops->free(p->store, b);
}

static void
test_an_answer_may_come_in_any_two_pieces(void **state)
{
	struct store_batch *done[STORE_INFLIGHT];
	uint8_t answer[400], ops[100];
	struct play p = play_default();
	size_t bytes = 400;

	(void)state;
	play_open(&p);
	for (size_t cut = 1; cut < bytes; cut++) {
		struct store_batch *b = ask(&p, 1);
		struct frame_head head = play_take_frame(&p, 0, ops, sizeof(ops), false);

		assert_int_equal(head.id, cut);
		assert_int_equal(ops[0], FRAME_READ);
		assert_int_equal(ops[1], p.table_id);
		assert_memory_equal(ops + 4, &key, sizeof(key));
		bytes = play_hit(answer, head.id, 100, (uint8_t)cut);
		play_say(p.fd[0], answer, cut);
		assert_int_equal(poll_store(&p, done), 0);
		play_say(p.fd[0], answer + cut, bytes - cut);
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
	struct play p = play_default();
	size_t bytes = 0;
	int wait_ms;

	(void)state;
	play_open(&p);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		b[i] = ask(&p, 1);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++) {
		uint64_t id = play_take_frame(&p, 0, ops, sizeof(ops), false).id;

		bytes += play_hit(answers + bytes, id, (uint16_t)(10 * i), (uint8_t)i);
	}
	play_say(p.fd[0], answers, bytes);
	assert_int_equal(p.store->ops->poll(p.store, done, 3), 3);
	p.store->ops->wait_fds(p.store, NULL, 0, &wait_ms);
	assert_int_equal(wait_ms, 0);
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
	struct play p = play_default();
	struct store_batch *b[STORE_BATCHES];

	(void)state;
	play_open(&p);
	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		b[i] = ask(&p, 1);
	for (unsigned int i = STORE_INFLIGHT; i < STORE_BATCHES; i++) {
		b[i] = new_batch(&p);
		assert_int_equal(p.store->ops->submit(p.store, b[i]), -EAGAIN);
	}
	assert_null(p.store->ops->batch(p.store));
	p.store->ops->free(p.store, b[STORE_INFLIGHT]);
	assert_ptr_equal(new_batch(&p), b[STORE_INFLIGHT]);
	play_close(&p);
}

static void
test_an_empty_batch_asks_nothing_and_keeps_its_place(void **state)
{
	struct store_batch *b, *empty;
	struct play p = play_default();
	uint8_t ops[100], answer[400];
	uint64_t id;

	(void)state;
	play_open(&p);
	b = ask(&p, 1);
	empty = ask(&p, 0);
	id = play_take_frame(&p, 0, ops, sizeof(ops), false).id;
	play_expect_none(&p);
	assert_false(play_readable(p.fd[0]));
	play_say(p.fd[0], answer, play_hit(answer, id, 1, 1));
	play_expect_done(&p, b, true);
	play_expect_done(&p, empty, true);
	assert_int_equal(empty->part[0].error, 0);
	assert_ptr_equal(empty->part[0].reply.at, empty->part[0].reply.end);
	play_close(&p);
}

static void
test_a_frame_that_does_not_fit_the_socket(void **state)
{
	static uint8_t ops[FRAME_MAX_BYTES];
	struct store_batch *b, *done[STORE_INFLIGHT];
	struct play p = play_default();
	uint8_t answer[400];
	struct frame_head head;

	(void)state;
	play_open(&p);
	b = ask(&p, 200000);
	head = play_take_frame(&p, 0, ops, sizeof(ops), false);
	assert_int_equal(head.n_bytes, FRAME_HEAD_BYTES + 200000 * 16);
	for (unsigned int i = 0; i < 200000; i++)
		assert_memory_equal(ops + 16 * i + 4, &key, sizeof(key));
	play_say(p.fd[0], answer, play_hit(answer, head.id, 1, 1));
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
	{ "an answer to somebody else", "$16\r\nSNR\2\20\0\0\0\0\0\0\0\0\0\0\1\r\n" },
	{ "another protocol", "HTTP/1.1 400\r\n" },
	{ "another generation", "-SNFSTALE open it again\r\n" },
	{ "not now", "-LOADING Redis is loading the dataset in memory\r\n" },
	{ "any other error", "-ERR what is that\r\n" },
};

static void
test_nonsense_is_asked_again(void **state)
{
	struct store_batch *b[2], *done[STORE_INFLIGHT];
	struct play p = play_default();
	uint8_t ops[100], answer[400];

	(void)state;
	play_open(&p);
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct frame_head head[2], again;
		size_t bytes = 0;

		for (unsigned int k = 0; k < 2; k++)
			b[k] = ask(&p, 1);
		for (unsigned int k = 0; k < 2; k++)
			head[k] = play_take_frame(&p, 0, ops, sizeof(ops), false);
		/* Its zeros are part of the text. */
		play_say(p.fd[0], nonsense[i].text,
			 i == 5 ? 23 : strlen(nonsense[i].text));
		if (poll_store(&p, done) != 0)
			fail_msg("%s: taken for an answer", nonsense[i].name);
		p.generation++;
		p.table_id = p.table_id % 7 + 1;
		play_again(&p, 0);
		for (unsigned int k = 0; k < 2; k++) {
			again = play_take_frame(&p, 0, ops, sizeof(ops), false);
			if (again.id != head[k].id || again.client != head[k].client ||
			    ops[1] != p.table_id)
				fail_msg("%s: not asked the same again",
					 nonsense[i].name);
			bytes += play_hit(answer + bytes, again.id, 1, 1);
		}
		play_say(p.fd[0], answer, bytes);
		assert_int_equal(poll_store(&p, done), 2);
		for (unsigned int k = 0; k < 2; k++)
			check_answer(&p, b[k], 1, 1);
	}
	play_close(&p);
}

static void
test_a_bad_frame_is_given_back(void **state)
{
	struct store_batch *b[3], *done[STORE_INFLIGHT];
	struct play p = play_default();
	uint8_t ops[100], answer[400];
	struct frame_head head = { 0 };

	(void)state;
	play_open(&p);
	for (unsigned int k = 0; k < 3; k++)
		b[k] = ask(&p, 1);
	for (unsigned int k = 0; k < 3; k++)
		head = play_take_frame(&p, 0, ops, sizeof(ops), false);
	play_say_text(p.fd[0], "-ERR SNFBAD malformed\r\n");
	play_say_text(p.fd[0], "-SNFREPEAT\r\n");
	play_say(p.fd[0], answer, play_hit(answer, head.id, 1, 1));
	assert_int_equal(poll_store(&p, done), 3);
	assert_int_equal(b[0]->part[0].error, -EBADMSG);
	assert_int_equal(b[1]->part[0].error, -EALREADY);
	check_answer(&p, b[2], 1, 1);
	play_close(&p);
}

static void
test_no_answer_in_time(void **state)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS, asked_ms;
	struct play p = play_default();
	struct store_batch *b, *done[STORE_INFLIGHT];
	uint8_t ops[100], answer[400];
	struct frame_head head;
	int wait_ms, fd[MAX_FDS];

	(void)state;
	p.timeout_ms = 100;
	play_open(&p);
	asked_ms = clock_ms();
	b = ask(&p, 1);
	head = play_take_frame(&p, 0, ops, sizeof(ops), false);
	assert_int_equal(p.store->ops->wait_fds(p.store, fd, MAX_FDS, &wait_ms), 1);
	assert_in_range(wait_ms, 0, 100);
	while (poll_store(&p, done) == 0)
		assert_true(clock_ms() < end_ms);
	assert_in_range(clock_ms() - asked_ms, 90, PLAY_DEADLINE_MS);
	assert_int_equal(b->part[0].error, -ETIMEDOUT);
	assert_true(b->final);
	assert_int_equal(p.store->ops->health(p.store), STORE_LOST);
	assert_int_equal(p.store->ops->submit(p.store, b), -ENOTCONN);
	/* The late answer reaches nobody. */
	send(p.fd[0], answer, play_hit(answer, head.id, 1, 1), MSG_NOSIGNAL);
	play_again(&p, 0);
	while (p.store->ops->health(p.store) != STORE_CONNECTED) {
		assert_true(clock_ms() < end_ms);
		assert_int_equal(poll_store(&p, done), 0);
	}
	assert_int_equal(p.store->ops->submit(p.store, b), 0);
	assert_true(play_take_frame(&p, 0, ops, sizeof(ops), false).id > head.id);
	play_close(&p);
}

static void
test_an_end_is_noticed_without_asking(void **state)
{
	struct store_batch *done[STORE_INFLIGHT];
	struct play p = play_default();
	int wait_ms, fd[MAX_FDS];

	(void)state;
	play_open(&p);
	shutdown(p.fd[0], SHUT_RDWR);
	assert_int_equal(p.store->ops->wait_fds(p.store, fd, MAX_FDS, &wait_ms), 1);
	assert_true(play_readable(fd[0]));
	poll_store(&p, done);
	assert_int_equal(p.store->ops->health(p.store), STORE_CONNECTING);
	play_again(&p, 0);
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
		cmocka_unit_test(test_an_empty_batch_asks_nothing_and_keeps_its_place),
		cmocka_unit_test(test_a_frame_that_does_not_fit_the_socket),
		cmocka_unit_test(test_nonsense_is_asked_again),
		cmocka_unit_test(test_a_bad_frame_is_given_back),
		cmocka_unit_test(test_no_answer_in_time),
		cmocka_unit_test(test_an_end_is_noticed_without_asking),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

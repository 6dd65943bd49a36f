/*
 * test_commit.c - writes that wait for replicas, and what becomes of them in a new
 * term, on a server that the test plays.
 */
#include "play.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

static struct store_batch *
ask(struct play *p, bool write, uint64_t *id)
{
	return play_ask(p, 0, write, id);
}

static struct play
play_with_commit(uint8_t commit)
{
	struct play p = play_default();

	p.table.commit = commit;
	return p;
}

/* --- Replicas ----------------------------------------------------------------- */

static void
test_reads_do_not_wait_for_replicas(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *write, *read;
	uint64_t ids[2];
	int side;

	(void)state;
	play_open(&p);
	write = ask(&p, true, &ids[0]);
	read = ask(&p, false, &ids[1]);
	play_answer_group(&p, 0, ids[0], FRAME_APPLIED);
	play_expect_done(&p, write, false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_answer_read(&p, 0, ids[1]);
	play_expect_done(&p, read, true);
	play_expect_answer(read, 0, FRAME_HIT);
	play_expect_none(&p);
	for (unsigned int i = 0; i < 3; i++) {
		play_expect_none(&p);
		play_say_text(side, ":1\r\n");
	}
	play_expect_done(&p, write, true);
	play_expect_answer(write, 0, FRAME_APPLIED);
	play_expect_none(&p);
	close(side);
	play_close(&p);
}

static void
test_a_round_covers_what_was_answered_before_it(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b[4];
	uint64_t ids[4];
	int side;

	(void)state;
	play_open(&p);
	for (unsigned int i = 0; i < 4; i++)
		b[i] = ask(&p, true, &ids[i]);
	play_answer_group(&p, 0, ids[0], FRAME_APPLIED);
	play_expect_done(&p, b[0], false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	for (unsigned int i = 1; i < 4; i++)
		play_answer_group(&p, 0, ids[i], FRAME_APPLIED);
	for (unsigned int i = 1; i < 4; i++)
		play_expect_done(&p, b[i], false);
	play_answer_round(side, 1);
	play_expect_done(&p, b[0], true);
	play_expect_none(&p);
	play_expect_round(&p, side, 1);
	play_answer_round(side, 2);
	for (unsigned int i = 1; i < 4; i++)
		play_expect_done(&p, b[i], true);
	/* There is nothing to ask now. */
	play_expect_none(&p);
	assert_false(play_readable(side));
	close(side);
	play_close(&p);
}

static void
test_too_few_replicas_are_asked_again(void **state)
{
	struct play p = play_with_commit(2);
	struct store_batch *b;
	uint64_t id;
	int side;

	(void)state;
	play_open(&p);
	b = ask(&p, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	side = play_accept(&p);
	for (unsigned int n = 0; n < 3; n++) {
		play_expect_round(&p, side, 2);
		play_expect_none(&p);
		play_answer_round(side, n);
	}
	play_expect_done(&p, b, true);
	play_expect_answer(b, 0, FRAME_APPLIED);
	close(side);
	play_close(&p);
}

static void
test_what_no_replica_has_in_time_is_given_up(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b, *after;
	uint64_t id;
	int side;

	(void)state;
	p.timeout_ms = 100;
	play_open(&p);
	b = ask(&p, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_expect_done(&p, b, true);
	assert_int_equal(b->part[0].error, -ETIMEDOUT);
	/* The server is there: it is not lost. */
	assert_int_equal(p.store->ops->health(p.store), STORE_CONNECTED);
	after = ask(&p, false, &id);
	play_answer_read(&p, 0, id);
	play_expect_done(&p, after, true);
	play_expect_answer(after, 0, FRAME_HIT);
	close(side);
	play_close(&p);
}

/* What waits for replicas that are not there is given up soon, until they are back. */
static void
test_missing_replicas_are_not_waited_for_long(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b;
	uint64_t id, start_ms, soon_ms;
	int side;

	(void)state;
	p.timeout_ms = 120;		/* A round fails at 160. */
	soon_ms = p.timeout_ms - 10;		/* The store's clock is coarse. */
	play_open(&p);
	for (unsigned int i = 0; i < 3; i++) {
		b = ask(&p, true, &id);
		start_ms = clock_ms();
		play_answer_group(&p, 0, id, FRAME_APPLIED);
		play_expect_done(&p, b, false);
		if (i == 0)
			side = play_accept(&p);
		play_expect_round(&p, side, 1);
		if (i < 2) {
			play_expect_done(&p, b, true);
			assert_int_equal(b->part[0].error, -ETIMEDOUT);
			assert_true((clock_ms() - start_ms < soon_ms) == (i > 0));
		}
		/* It is the third one's in which there is one. */
		play_answer_round(side, i / 2);
	}
	play_expect_done(&p, b, true);
	b = ask(&p, true, &id);
	start_ms = clock_ms();
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	play_expect_round(&p, side, 1);
	play_expect_done(&p, b, true);
	assert_true(clock_ms() - start_ms >= soon_ms);
	close(side);
	play_close(&p);
}

/* A write is final with its answer, and nobody asks about replicas. */
static void
expect_no_wait(struct play *p)
{
	struct store_batch *b;
	uint64_t id;

	p->n_replicas = 2;
	play_open(p);
	b = ask(p, true, &id);
	play_answer_group(p, 0, id, FRAME_APPLIED);
	play_expect_done(p, b, true);
	play_expect_answer(b, 0, FRAME_APPLIED);
	assert_false(play_readable(p->listener));
	play_close(p);
}

static void
test_what_may_be_lost_waits_for_no_replica(void **state)
{
	struct play p = play_with_commit(1);

	(void)state;
	p.may_lose = true;
	expect_no_wait(&p);
}

static void
test_only_writes_of_tables_that_ask_for_replicas_wait(void **state)
{
	struct play p = play_with_commit(0);

	(void)state;
	expect_no_wait(&p);
}

static void
test_the_first_replica_is_waited_for_from_then_on(void **state)
{
	struct play p = play_with_commit(STORE_COMMIT_AUTO);
	struct store_batch *b;
	uint64_t id;
	int side;

	(void)state;
	play_open(&p);
	side = play_accept(&p);
	play_expect_mark(&p, side);
	play_say_text(side, ":0\r\n");
	b = ask(&p, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, true);
	for (p.n_replicas = 1; p.n_replicas + 1 > 0; p.n_replicas--) {
		shutdown(p.fd[0], SHUT_RDWR);
		play_again(&p, 0);
		while (p.store->ops->health(p.store) != STORE_CONNECTED)
			play_turn(&p);
		close(side);
		b = ask(&p, true, &id);
		play_answer_group(&p, 0, id, FRAME_APPLIED);
		play_expect_done(&p, b, false);
		side = play_accept(&p);
		play_expect_round(&p, side, 1);
		play_answer_round(side, 1);
		play_expect_done(&p, b, true);
	}
	close(side);
	play_close(&p);
}

static void
test_there_is_an_end_to_what_waits_for_replicas(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b[STORE_UNCOMMITTED], *more, *read;
	uint64_t id;
	int side = -1;

	(void)state;
	play_open(&p);
	for (unsigned int i = 0; i < STORE_UNCOMMITTED; i++) {
		b[i] = ask(&p, true, &id);
		play_answer_group(&p, 0, id, FRAME_APPLIED);
		play_expect_done(&p, b[i], false);
	}
	more = p.store->ops->batch(p.store);
	play_put(&more->part[0].request, 0);
	assert_int_equal(p.store->ops->submit(p.store, more), -EAGAIN);
	read = ask(&p, false, &id);
	play_answer_read(&p, 0, id);
	play_expect_done(&p, read, true);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_answer_round(side, 1);
	play_expect_round(&p, side, 1);
	play_answer_round(side, 1);
	for (unsigned int i = 0; i < STORE_UNCOMMITTED; i++)
		play_expect_done(&p, b[i], true);
	assert_int_equal(p.store->ops->submit(p.store, more), 0);
	close(side);
	play_close(&p);
}

/* Submits a batch with a group in a table that waits for nobody. */
static int
submit_beside(struct play *p, struct store_batch **b)
{
	*b = p->store->ops->batch(p->store);
	play_put(&(*b)->part[0].request, 1);
	return p->store->ops->submit(p->store, *b);
}

/* How the server answered a group has to be remembered for as long as it may be asked
 * again, however many others come behind it. */
static void
test_what_waits_is_among_those_that_the_server_remembers(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *wait, *b, *more;
	uint8_t ops[200];
	uint64_t id;
	int side;

	(void)state;
	p.beside = p.table;
	p.beside.name[0] = 'T';
	p.beside.commit = 0;
	play_open(&p);
	wait = ask(&p, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, wait, false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	for (unsigned int i = 1; i < FRAME_REMEMBERED; i++) {
		assert_int_equal(submit_beside(&p, &b), 0);
		id = play_take_frame(&p, 0, ops, sizeof(ops), false).id;
		assert_int_equal(ops[17], p.table_id + 1);
		play_answer_group(&p, 0, id, FRAME_APPLIED);
		play_expect_done(&p, b, true);
		p.store->ops->free(p.store, b);
		/* Those without groups are not remembered, and do not count. */
		b = ask(&p, false, &id);
		play_answer_read(&p, 0, id);
		play_expect_done(&p, b, true);
		p.store->ops->free(p.store, b);
	}
	assert_int_equal(submit_beside(&p, &more), -EAGAIN);
	b = ask(&p, false, &id);
	play_answer_read(&p, 0, id);
	play_expect_done(&p, b, true);
	assert_int_equal(p.store->ops->submit(p.store, more), -EAGAIN);
	play_answer_round(side, 1);
	play_expect_done(&p, wait, true);
	assert_int_equal(p.store->ops->submit(p.store, more), 0);
	close(side);
	play_close(&p);
}

/* --- New connections ---------------------------------------------------------- */

static void
test_the_same_term_is_asked_only_what_it_did_not_answer(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b[2];
	uint64_t ids[2];
	uint8_t ops[200];
	int side;

	(void)state;
	play_open(&p);
	b[0] = ask(&p, true, &ids[0]);
	b[1] = ask(&p, true, &ids[1]);
	play_answer_group(&p, 0, ids[0], FRAME_APPLIED);
	play_expect_done(&p, b[0], false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	shutdown(p.fd[0], SHUT_RDWR);
	play_again(&p, 0);
	close(side);
	assert_int_equal(play_take_frame(&p, 0, ops, sizeof(ops), false).id, ids[1]);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_answer_round(side, 1);
	play_expect_done(&p, b[0], true);
	play_answer_group(&p, 0, ids[1], FRAME_APPLIED);
	play_expect_done(&p, b[1], false);
	close(side);
	play_close(&p);
}

/* What a primary that is gone answered is not believed: not even for a reading. */
static void
test_a_new_term_is_asked_all_that_is_not_final(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b[2];
	const uint8_t *first;
	uint8_t ops[200];
	uint64_t ids[2];
	int side;

	(void)state;
	play_open(&p);
	b[0] = ask(&p, true, &ids[0]);
	b[1] = ask(&p, true, &ids[1]);
	play_answer_group(&p, 0, ids[0], FRAME_APPLIED);
	play_expect_done(&p, b[0], false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	first = b[0]->part[0].reply.at;
	for (unsigned int n = 0; n < 3; n++) {
		p.term++;
		p.generation += n == 1;
		p.table_id++;
		shutdown(p.fd[0], SHUT_RDWR);
		play_again(&p, 0);
		close(side);
		for (unsigned int i = 0; i < 2; i++) {
			assert_int_equal(
				play_take_frame(&p, 0, ops, sizeof(ops), false).id,
				ids[i]);
			assert_int_equal(ops[17], p.table_id);
		}
		play_answer_group(&p, 0, ids[0], FRAME_CONFLICT);
		play_expect_none(&p);
		/* The caller still reads the first answer. */
		assert_ptr_equal(b[0]->part[0].reply.at, first);
		assert_int_equal(first[0], FRAME_APPLIED);
		side = play_accept(&p);
		play_expect_round(&p, side, 1);
	}
	play_answer_group(&p, 0, ids[1], FRAME_APPLIED);
	play_expect_done(&p, b[1], false);
	play_answer_round(side, 1);
	play_expect_done(&p, b[0], true);
	play_expect_answer(b[0], 0, FRAME_CONFLICT);
	close(side);
	p.store->ops->free(p.store, b[0]);
	play_close(&p);
}

#define STALE "-SNFSTALE another term\r\n"

static const struct {
	const char *name, *answer;
} other_terms[] = {
	{ "demoted and promoted before the round", STALE ":1\r\n" STALE },
	{ "demoted and promoted between the mark and WAIT", ":1\r\n:1\r\n" STALE },
	{ "demoted behind WAIT", ":1\r\n:1\r\n-READONLY it is a replica\r\n" },
};

/* Even if a WAIT counts enough replicas: of what, nobody knows. */
static void
test_a_mark_of_another_term_opens_again(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(other_terms) / sizeof(other_terms[0]); i++) {
		struct play p = play_with_commit(1);
		struct store_batch *b;
		uint8_t ops[200];
		uint64_t id;
		int side;

		play_open(&p);
		b = ask(&p, true, &id);
		play_answer_group(&p, 0, id, FRAME_APPLIED);
		play_expect_done(&p, b, false);
		side = play_accept(&p);
		play_expect_round(&p, side, 1);
		play_say_text(side, other_terms[i].answer);
		play_turn(&p);
		if (p.n_done != p.n_taken)
			fail_msg("%s: taken for committed", other_terms[i].name);
		p.term++;
		play_again(&p, 0);
		close(side);
		assert_int_equal(play_take_frame(&p, 0, ops, sizeof(ops), false).id, id);
		play_answer_group(&p, 0, id, FRAME_CONFLICT);
		side = play_accept(&p);
		play_expect_round(&p, side, 1);
		play_answer_round(side, 1);
		play_expect_done(&p, b, true);
		play_expect_answer(b, 0, FRAME_CONFLICT);
		close(side);
		play_close(&p);
	}
}

static void
test_a_user_who_may_not_wait_is_told_and_frames_go_on(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b, *read;
	uint64_t id;
	int side;

	(void)state;
	p.timeout_ms = 300;
	play_open(&p);
	b = ask(&p, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_say_text(side, "-NOPERM no permission for 'snf.mark'\r\n");
	read = ask(&p, false, &id);
	play_answer_read(&p, 0, id);
	play_expect_done(&p, read, true);
	play_expect_done(&p, b, true);
	assert_int_equal(b->part[0].error, -ETIMEDOUT);
	close(side);
	play_close(&p);
}

static void
test_while_asking_every_command_is_preceded(void **state)
{
	struct play p = play_with_commit(1);
	struct store_batch *b;
	uint8_t ops[200], bytes[100];
	char text[100];
	uint64_t id;
	int side;

	(void)state;
	p.is_cluster = true;
	play_open(&p);
	b = ask(&p, true, &id);
	snprintf(text, sizeof(text), "-ASK 77 127.0.0.1:%d\r\n", p.port);
	play_say_text(p.fd[0], text);
	p.term++;
	play_again(&p, 0);
	assert_int_equal(play_take_frame(&p, 0, ops, sizeof(ops), true).id, id);
	memcpy(bytes, "+OK\r\n", 5);

	size_t n = 5 + play_group(bytes + 5, id, FRAME_APPLIED);

	/* In any two pieces. */
	play_say(p.fd[0], bytes, 3);
	play_expect_none(&p);
	play_say(p.fd[0], bytes + 3, 4);
	play_expect_none(&p);
	play_say(p.fd[0], bytes + 7, n - 7);
	play_expect_done(&p, b, false);
	side = play_accept(&p);
	play_expect(&p, side, "*1\r\n$6\r\nASKING\r\n");
	play_expect_mark(&p, side);
	play_expect(&p, side, "*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$3\r\n100\r\n");
	play_expect(&p, side, "*1\r\n$6\r\nASKING\r\n");
	play_expect_mark(&p, side);
	play_say_text(side, "+OK\r\n:1\r\n:1\r\n+OK\r\n:1\r\n");
	play_expect_done(&p, b, true);
	play_expect_answer(b, 0, FRAME_APPLIED);
	close(side);
	play_close(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_do_not_wait_for_replicas),
		cmocka_unit_test(test_a_round_covers_what_was_answered_before_it),
		cmocka_unit_test(test_too_few_replicas_are_asked_again),
		cmocka_unit_test(test_what_no_replica_has_in_time_is_given_up),
		cmocka_unit_test(test_missing_replicas_are_not_waited_for_long),
		cmocka_unit_test(test_what_may_be_lost_waits_for_no_replica),
		cmocka_unit_test(test_only_writes_of_tables_that_ask_for_replicas_wait),
		cmocka_unit_test(test_the_first_replica_is_waited_for_from_then_on),
		cmocka_unit_test(test_there_is_an_end_to_what_waits_for_replicas),
		cmocka_unit_test(
			test_what_waits_is_among_those_that_the_server_remembers),
		cmocka_unit_test(test_the_same_term_is_asked_only_what_it_did_not_answer),
		cmocka_unit_test(test_a_new_term_is_asked_all_that_is_not_final),
		cmocka_unit_test(test_a_mark_of_another_term_opens_again),
		cmocka_unit_test(test_a_user_who_may_not_wait_is_told_and_frames_go_on),
		cmocka_unit_test(test_while_asking_every_command_is_preceded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test_channel.c - what a store does while nobody asks it anything, leases, and several
 * partitions, on servers that the test plays.
 */
#include "play.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

enum {
	MAX_FDS = 8,
	FEW_WAKES = 20,
};

static const uint64_t key = 7;

/* --- Sleep -------------------------------------------------------------------- */

/* Sleeps as an idle pipe does, for as long as the store lets it.  Returns whether there
 * is something to read on the server's side. */
static bool
nap(struct play *p, int fd)
{
	struct pollfd polled[1 + MAX_FDS] = { { .fd = fd, .events = POLLIN } };
	int fds[MAX_FDS], wait_ms;
	unsigned int n;

	play_turn(p);
	n = p->store->ops->wait_fds(p->store, fds, MAX_FDS, &wait_ms);
	for (unsigned int i = 0; i < n; i++)
		polled[1 + i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	if (wait_ms < 0)
		wait_ms = PLAY_DEADLINE_MS;
	/* Whoever sleeps through the deadline was not woken. */
	assert_true(poll(polled, 1 + n, wait_ms) > 0 || wait_ms < PLAY_DEADLINE_MS);
	return polled[0].revents != 0;
}

/* Sleeps until then, and does not wake all the time. */
static void
sleep_until_readable(struct play *p, int fd)
{
	for (unsigned int n = 0; !nap(p, fd); n++)
		assert_true(n < FEW_WAKES);
}

static int
sleep_until_connected(struct play *p)
{
	sleep_until_readable(p, p->listener);
	return accept(p->listener, NULL, NULL);
}

/* It waits for nothing but the end of the connection for frames. */
static void
turn_until_idle(struct play *p)
{
	uint64_t end_ms = clock_ms() + PLAY_DEADLINE_MS;
	int fd[MAX_FDS], wait_ms;
	unsigned int n;

	do {
		assert_true(clock_ms() < end_ms);
		play_turn(p);
		n = p->store->ops->wait_fds(p->store, fd, MAX_FDS, &wait_ms);
	} while (wait_ms >= 0 || n > 1);
}

static void
test_an_idle_store_sleeps_unless_it_looks_for_a_replica(void **state)
{
	struct play p = play_default();
	uint64_t opened_ms, asked_ms;
	struct store_batch *b;
	uint64_t id;
	int side;

	(void)state;
	p.table.commit = STORE_COMMIT_AUTO;
	opened_ms = clock_ms();
	play_open(&p);
	side = sleep_until_connected(&p);
	assert_true(clock_ms() - opened_ms >= 900);
	sleep_until_readable(&p, side);
	play_expect_mark(&p, side);
	play_say_text(side, ":0\r\n");
	asked_ms = clock_ms();
	sleep_until_readable(&p, side);
	assert_true(clock_ms() - asked_ms >= 900);
	play_expect_mark(&p, side);
	/* Nothing has changed: a write is final when it is answered. */
	b = play_ask(&p, 0, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, true);
	play_say_text(side, ":0\r\n");
	play_expect_none(&p);
	/* The server hangs up while it is not asked: nobody cares until then. */
	close(side);
	side = sleep_until_connected(&p);
	sleep_until_readable(&p, side);
	play_expect_mark(&p, side);
	play_say_text(side, ":1\r\n");
	turn_until_idle(&p);
	b = play_ask(&p, 0, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	play_expect_round(&p, side, 1);
	play_say_text(side, ":0\r\n:1\r\n:0\r\n");
	play_expect_done(&p, b, true);
	turn_until_idle(&p);
	close(side);
	play_close(&p);
}

static void
test_a_look_for_a_replica_is_preceded_while_asking(void **state)
{
	struct play p = play_default();
	struct store_batch *b;
	uint8_t ops[200], bytes[100];
	char text[100];
	uint64_t id;
	int side;

	(void)state;
	p.is_cluster = true;
	p.table.commit = STORE_COMMIT_AUTO;
	play_open(&p);
	b = play_ask(&p, 0, false, &id);
	snprintf(text, sizeof(text), "-ASK 77 127.0.0.1:%d\r\n", p.port);
	play_say_text(p.fd[0], text);
	play_again(&p, 0);
	play_take_frame(&p, 0, ops, sizeof(ops), true);
	play_say_text(p.fd[0], "+OK\r\n");
	play_say(p.fd[0], bytes, play_hit(bytes, id, 10, 7));
	play_expect_done(&p, b, true);
	side = sleep_until_connected(&p);
	play_expect(&p, side, "*1\r\n$6\r\nASKING\r\n");
	play_expect_mark(&p, side);
	play_say_text(side, "+OK\r\n:1\r\n");
	turn_until_idle(&p);
	close(side);
	play_close(&p);
}

/* Frames are answered as ever. */
static void
test_a_connection_for_commits_that_is_cut_off_is_made_anew(void **state)
{
	struct play p = play_default();
	uint64_t start_ms = clock_ms();
	struct store_batch *b;
	uint64_t id;
	int side, again;
	char byte;

	(void)state;
	p.timeout_ms = 1000;
	p.table.commit = 1;
	play_open(&p);
	b = play_ask(&p, 0, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	/* It does not wait until the batch's own time is over. */
	again = sleep_until_connected(&p);
	assert_in_range(clock_ms() - start_ms, 500, 950);
	assert_int_equal(read(side, &byte, 1), 0);
	close(side);
	play_expect_round(&p, again, 1);
	play_answer_round(again, 1);
	play_expect_done(&p, b, true);
	play_expect_answer(b, 0, FRAME_APPLIED);
	/* One that is not answered at all is given up, and the frames' connection is not. */
	b = play_ask(&p, 0, true, &id);
	play_answer_group(&p, 0, id, FRAME_APPLIED);
	play_expect_done(&p, b, false);
	play_expect_round(&p, again, 1);
	play_expect_done(&p, b, true);
	assert_int_equal(b->part[0].error, -ETIMEDOUT);
	assert_int_equal(p.store->ops->health(p.store), STORE_CONNECTED);
	close(again);
	play_close(&p);
}

/* --- Leases ------------------------------------------------------------------- */

static const char due[] = "*6\r\n$7\r\nSNF.DUE\r\n$11\r\nsnf:{snf:0}\r\n$2\r\n55\r\n"
			  "$2\r\n64\r\n$5\r\n10000\r\n$1\r\n3\r\n";

/* A message of records of these tables, whose keys are 0, 1...  Returns its length. */
static size_t
leases_write(uint8_t *to, const uint8_t *table, unsigned int n)
{
	uint32_t head[4] = { FRAME_LEASES_MAGIC, 16 + n * 32 };
	int at = sprintf((char *)to, "$%u\r\n", head[1]);

	memcpy(to + at, head, sizeof(head));
	at += (int)sizeof(head);
	for (uint8_t i = 0; i < n; i++, at += 32) {
		uint8_t record[32] = { FRAME_HIT, table[i], 1, 2, 1 };

		record[8] = 9;
		record[16] = 'v';
		record[24] = i;
		memcpy(to + at, record, sizeof(record));
	}
	memcpy(to + at, "\r\n", 2);
	return (size_t)at + 2;
}

static void
expect_lease(const struct store_lease *l, uint8_t number)
{
	assert_int_equal(l->partition, 0);
	assert_int_equal(l->record.table, 0);
	assert_int_equal(l->record.version, 9);
	assert_int_equal(l->record.key_bytes, 1);
	assert_int_equal(*l->record.key, number);
	assert_int_equal(*l->record.value, 'v');
}

static unsigned int
wait_due(struct play *p, struct store_lease *lease, unsigned int max)
{
	time_t end = time(NULL) + PLAY_DEADLINE_MS / 1000;
	unsigned int n;

	while ((n = p->store->ops->due(p->store, lease, max)) == 0) {
		assert_true(time(NULL) < end);
		play_turn(p);
	}
	return n;
}

static void
test_leases_are_pushed_one_message_at_a_time(void **state)
{
	const uint8_t tables[] = { 3, 9, 3, 3 };
	struct store_lease lease[STORE_MAX_LEASES];
	struct play p = play_default();
	uint8_t bytes[300];
	int side, wait_ms, fd[8];

	(void)state;
	p.table.leased = true;
	play_open(&p);
	side = play_accept(&p);
	for (unsigned int round = 0; round < 3; round++) {
		size_t n = leases_write(bytes, tables, 4);

		play_expect(&p, side, due);
		assert_int_equal(p.store->ops->due(p.store, lease, 10), 0);
		assert_int_equal(p.store->ops->wait_fds(p.store, fd, 8, &wait_ms), 2);
		/* None were due for so long: asked again. */
		if (round == 1) {
			play_say(side, bytes, leases_write(bytes, tables, 0));
			play_expect(&p, side, due);
			n = leases_write(bytes, tables, 4);
		}
		play_say(side, bytes, 30);
		play_expect_none(&p);
		play_say(side, bytes + 30, n - 30);
		assert_int_equal(wait_due(&p, lease, 1), 1);
		expect_lease(&lease[0], 0);
		p.store->ops->wait_fds(p.store, fd, 8, &wait_ms);
		assert_int_equal(wait_ms, 0);
		/* Table 9 is somebody else's. */
		assert_int_equal(wait_due(&p, lease, 10), 2);
		expect_lease(&lease[0], 2);
		expect_lease(&lease[1], 3);
		play_expect_none(&p);
		assert_false(play_readable(side));
		expect_lease(&lease[1], 3);
		assert_int_equal(p.store->ops->due(p.store, lease, 10), 0);
	}
	close(side);
	play_close(&p);
}

static void
test_leases_of_another_term_are_void(void **state)
{
	const uint8_t tables[] = { 3, 3 };
	struct store_lease lease[STORE_MAX_LEASES];
	struct play p = play_default();
	uint8_t bytes[300];
	int side;

	(void)state;
	p.table.leased = true;
	play_open(&p);
	side = play_accept(&p);
	play_expect(&p, side, due);
	play_say(side, bytes, leases_write(bytes, tables, 2));
	assert_int_equal(wait_due(&p, lease, 1), 1);
	p.generation++;
	shutdown(p.fd[0], SHUT_RDWR);
	play_again(&p, 0);
	while (p.store->ops->health(p.store) != STORE_CONNECTED)
		play_turn(&p);
	/* It is read still. */
	expect_lease(&lease[0], 0);
	assert_int_equal(p.store->ops->due(p.store, lease, 10), 0);
	close(side);
	side = play_accept(&p);
	play_expect(&p, side, due);
	close(side);
	play_close(&p);
}

/* --- Partitions --------------------------------------------------------------- */

static void
test_a_batch_comes_back_when_all_its_parts_have(void **state)
{
	struct play p = play_default();
	struct store_batch *b, *behind;
	uint8_t ops[200];
	uint64_t ids[4];

	(void)state;
	p.n_partitions = 4;
	play_open(&p);
	b = p.store->ops->batch(p.store);
	for (unsigned int i = 0; i < 4; i += 3)
		frame_read(&b->part[i].request, 0, &key, sizeof(key), true);
	assert_int_equal(p.store->ops->submit(p.store, b), 0);
	for (unsigned int i = 0; i < 4; i += 3)
		ids[i] = play_take_frame(&p, i, ops, sizeof(ops), false).id;
	behind = play_ask(&p, 1, false, &ids[1]);
	assert_false(play_readable(p.fd[2]));
	play_answer_read(&p, 1, ids[1]);
	play_answer_read(&p, 3, ids[3]);
	play_expect_none(&p);
	play_answer_read(&p, 0, ids[0]);
	play_expect_done(&p, b, true);
	play_expect_done(&p, behind, true);
	play_expect_answer(b, 0, FRAME_HIT);
	play_expect_answer(b, 3, FRAME_HIT);
	assert_int_equal(b->part[1].error, 0);
	play_expect_answer(behind, 1, FRAME_HIT);
	play_close(&p);
}

static void
test_a_lost_partition_does_not_stall_the_others(void **state)
{
	struct play p = play_default();
	struct store_batch *b, *both, *behind;
	uint8_t ops[200];
	uint64_t ids[2], id;

	(void)state;
	p.n_partitions = 2;
	p.timeout_ms = 200;
	play_open(&p);
	b = play_ask(&p, 0, false, &ids[0]);
	behind = play_ask(&p, 1, false, &ids[1]);
	play_answer_read(&p, 1, ids[1]);
	play_expect_done(&p, b, true);
	assert_int_equal(b->part[0].error, -ETIMEDOUT);
	play_expect_done(&p, behind, true);
	play_expect_answer(behind, 1, FRAME_HIT);
	assert_int_equal(p.store->ops->health(p.store), STORE_LOST);

	both = p.store->ops->batch(p.store);
	for (unsigned int i = 0; i < 2; i++)
		frame_read(&both->part[i].request, 0, &key, sizeof(key), true);
	assert_int_equal(p.store->ops->submit(p.store, both), 0);
	id = play_take_frame(&p, 1, ops, sizeof(ops), false).id;
	play_answer_read(&p, 1, id);
	play_expect_done(&p, both, true);
	assert_int_equal(both->part[0].error, -ENOTCONN);
	play_expect_answer(both, 1, FRAME_HIT);
	b = p.store->ops->batch(p.store);
	frame_read(&b->part[0].request, 0, &key, sizeof(key), true);
	assert_int_equal(p.store->ops->submit(p.store, b), -ENOTCONN);
	play_again(&p, 0);
	while (p.store->ops->health(p.store) != STORE_CONNECTED)
		play_turn(&p);
	assert_int_equal(p.store->ops->submit(p.store, b), 0);
	play_close(&p);
}

static void
test_a_batch_is_final_when_all_its_parts_are(void **state)
{
	struct play p = play_default();
	struct store_batch *b;
	uint8_t ops[200];
	uint64_t ids[2];
	int side;

	(void)state;
	p.n_partitions = 2;
	p.table.commit = 1;
	play_open(&p);
	b = p.store->ops->batch(p.store);
	play_put(&b->part[0].request, 0);
	frame_read(&b->part[1].request, 0, &key, sizeof(key), true);
	assert_int_equal(p.store->ops->submit(p.store, b), 0);
	for (unsigned int i = 0; i < 2; i++)
		ids[i] = play_take_frame(&p, i, ops, sizeof(ops), false).id;
	play_answer_group(&p, 0, ids[0], FRAME_APPLIED);
	side = play_accept(&p);
	play_expect_round(&p, side, 1);
	play_answer_read(&p, 1, ids[1]);
	play_expect_done(&p, b, false);
	play_expect_answer(b, 1, FRAME_HIT);
	play_answer_round(side, 1);
	play_expect_done(&p, b, true);
	play_expect_answer(b, 0, FRAME_APPLIED);
	close(side);
	play_close(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_idle_store_sleeps_unless_it_looks_for_a_replica),
		cmocka_unit_test(test_a_look_for_a_replica_is_preceded_while_asking),
		cmocka_unit_test(
			test_a_connection_for_commits_that_is_cut_off_is_made_anew),
		cmocka_unit_test(test_leases_are_pushed_one_message_at_a_time),
		cmocka_unit_test(test_leases_of_another_term_are_void),
		cmocka_unit_test(test_a_batch_comes_back_when_all_its_parts_have),
		cmocka_unit_test(test_a_lost_partition_does_not_stall_the_others),
		cmocka_unit_test(test_a_batch_is_final_when_all_its_parts_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

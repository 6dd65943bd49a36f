/*
 * test_notes.c - what pipes remember between packets, and what functions have done beside
 * them, by one that does as its packets say: UDP packets to port 1000 + what, from a port
 * that is the key.  What it sees, it stamps into the destination port.
 */
#include "ask.h"

#include <stdio.h>

#include "pipe/task.h"

enum what {
	COUNT = 1,				/* One more, and say so. */
	SHOW,					/* What the note says. */
	NOTE,					/* Set what notes are made of. */
	READ,
	TASK,					/* Double the key, and count that. */
	TASK_AND_COUNT,				/* The same, if this is written: up to 2. */
};

enum {
	NOTED = 60000,				/* The key that notes are made of. */
	DONE = 60001,				/* Counts what was done. */
};

enum {
	EVENT_COUNTED,
	EVENT_DONE,
};

struct counter {
	int64_t n, unused;
};

NF_TABLE(counter, uint32_t, struct counter)

static const struct nf_event events[] = {
	[EVENT_COUNTED] = { .name = "counted", .number = "n" },
	[EVENT_DONE] = { .name = "done", .number = "result", .line = true },
	{ 0 }
};

/* Notes show it. */
struct state {
	uint64_t factor;
};

static const struct config_field options[] = {
	{ "factor", CONFIG_UINT, offsetof(struct state, factor), .help = "a number" },
	{ 0 }
};

static void
stamp(struct nf_run *r, int64_t n)
{
	struct endpoint to;

	flow_destination(nf_flow(r), &to);
	to.port = rte_cpu_to_be_16((uint16_t)n);
	nf_set_dst(r, &to);
}

static enum nf_verdict
count(struct nf_run *r, uint32_t key)
{
	const struct counter *c = counter_read(r, &key);

	if (nf_pending(r))
		return NF_WAIT;

	struct counter next = { c != NULL ? c->n + 1 : 1, 0 };

	counter_write(r, &key, &next);
	nf_log(r, EVENT_COUNTED, NULL, NULL, (uint64_t)next.n);
	return NF_SEND;
}

static enum nf_verdict
write_note(struct nf_run *r, uint32_t n)
{
	struct counter next = { n, 0 };
	uint32_t key = NOTED;

	counter_write(r, &key, &next);
	return NF_SEND;
}

static enum nf_verdict
show(struct nf_run *r, int64_t n)
{
	stamp(r, n);
	return NF_SEND;
}

static enum nf_verdict
packet(struct nf_run *r)
{
	uint32_t key = rte_be_to_cpu_16(nf_flow(r)->src_port);
	enum what what = rte_be_to_cpu_16(nf_flow(r)->dst_port) - 1000U;
	const struct counter *c;

	switch (what) {
	case COUNT:
		return count(r, key);
	case SHOW:
		return show(r, *(const int64_t *)nf_note(r));
	case NOTE:
		return write_note(r, key);
	case TASK_AND_COUNT:
		counter_add(r, &key, 0, 1, 0, 2);
		/* fall through */
	case TASK:
		nf_task(r, &key, sizeof(key));
		return NF_SEND;
	default:
		c = counter_read(r, &key);
		return nf_pending(r) ? NF_WAIT : show(r, c != NULL ? c->n : 0);
	}
}

/* What is noted, times the factor; it is 1 in the beginning. */
static void
note(struct nf_run *r, void *to)
{
	const struct state *s = nf_static(r);
	uint32_t key = NOTED;
	const struct counter *c = counter_read(r, &key);
	struct counter first = { 1, 0 };

	/* A note is zeros before, whatever an execution that waited has left. */
	assert_int_equal(*(int64_t *)to, 0);
	*(int64_t *)to = -1;
	if (nf_pending(r))
		return;
	if (c == NULL)
		counter_insert(r, &key, &first, 0);
	*(int64_t *)to = (c != NULL ? c->n : 1) * (int64_t)(s->factor + 1);
}

static unsigned int
work(const void *state, const void *task, unsigned int bytes, void *result)
{
	uint64_t twice = 2 * *(const uint32_t *)task;

	(void)state;
	assert_int_equal(bytes, 4);
	memcpy(result, &twice, sizeof(twice));
	return sizeof(twice);
}

/* Counts, by reading and writing. */
static void
done(struct nf_run *r, const void *task, const void *result)
{
	uint32_t key = DONE;
	const struct counter *c = counter_read(r, &key);
	uint64_t twice;

	if (nf_pending(r))
		return;

	struct counter next = { c != NULL ? c->n + 1 : 1, 0 };

	memcpy(&twice, result, sizeof(twice));
	assert_int_equal(twice, 2 * *(const uint32_t *)task);
	counter_write(r, &key, &next);
	nf_log(r, EVENT_DONE, NULL, NULL, twice);
}

static const struct nf notes = {
	.name = "test_notes", .packet = packet, .note = note, .note_ms = 1000,
	.work = work, .done = done, .events = events, .options = options,
	.options_bytes = sizeof(struct state),
};

/* Has nothing of the kind, and then a note of its own. */
static enum nf_verdict
pass(struct nf_run *r)
{
	(void)r;
	return NF_SEND;
}

static void
note_of_other(struct nf_run *r, void *to)
{
	(void)r;
	*(int64_t *)to = 4711;
}

static const struct nf other = { .name = "other", .packet = pass, .note = note_of_other,
				 .note_ms = 500 };

/* --- how it is asked ------------------------------------------------------------ */

static struct bench *
open_bench(unsigned int n_pipes, unsigned int n_partitions)
{
	struct bench_setup setup = { .nf = &notes, .section = "{}", .n_pipes = n_pipes,
				     .n_partitions = n_partitions };

	return bench_open_as(&setup);
}

/* --- notes ---------------------------------------------------------------------- */

static void
test_a_note_shows_what_was_when_it_was_made(void **state)
{
	for (unsigned int n_partitions = 1; n_partitions <= 3; n_partitions += 2) {
		struct bench *b = open_bench(2, n_partitions);

		/* The first packet comes before the first note. */
		assert_int_equal(run_one(b, 0, SHOW, 1), 0);
		assert_int_equal(run_one(b, 0, SHOW, 1), 1);
		bench_note(b);
		assert_int_equal(run_one(b, 1, SHOW, 1), 1);
		assert_int_equal(run_one(b, 0, NOTE, 7), 1000 + NOTE);
		assert_int_equal(run_one(b, 0, SHOW, 1), 1);
		bench_note(b);
		for (unsigned int pipe = 0; pipe < 2; pipe++)
			assert_int_equal(run_one(b, pipe, SHOW, 1), 7);
		bench_close(b);
	}
}

/* Two of them write the same; the one that loses looks again. */
static void
test_notes_that_write_do_not_hinder_each_other(void **state)
{
	for (unsigned int schedule = 0; schedule < 1 << 8; schedule++) {
		struct bench *b = open_bench(2, 1);

		for (unsigned int i = 0; i < 8; i++)
			bench_turn(b, schedule >> i & 1);
		bench_note(b);
		for (unsigned int pipe = 0; pipe < 2; pipe++)
			assert_int_equal(run_one(b, pipe, SHOW, 1), 1);
		assert_int_equal(bench_writes(b), 1);
		bench_close(b);
	}
}

static void
test_an_old_note_stays_while_the_store_is_lost(void **state)
{
	struct bench *b = open_bench(1, 1);

	bench_note(b);
	bench_fail(b, 0, -ETIMEDOUT);
	bench_note(b);
	assert_int_equal(run_one(b, 0, SHOW, 1), 1);
	bench_fail(b, 0, 0);
	assert_int_equal(run_one(b, 0, NOTE, 5), 1000 + NOTE);
	bench_note(b);
	assert_int_equal(run_one(b, 0, SHOW, 1), 5);
	bench_close(b);
}

static void
test_a_note_is_shown_though_what_it_writes_finds_no_room(void **state)
{
	struct bench_setup setup = { .nf = &notes, .section = "{}", .n_pipes = 1,
				     .n_partitions = 1 };
	struct bench *b;

	bench_close(open_bench(1, 1));		/* Numbers the tables. */
	setup.table[counter_table.index] = (struct pipe_table){ .limit = 1 };
	b = bench_open_as(&setup);
	assert_int_equal(run_one(b, 0, NOTE, 5), 1000 + NOTE);
	bench_note(b);
	assert_int_equal(run_one(b, 0, SHOW, 1), 5);
	bench_close(b);
	b = bench_open_as(&setup);
	put(b, 0, COUNT, 1);
	bench_turn(b, 0);
	bench_settle(b);
	assert_int_equal(take(b), 1000 + COUNT);
	bench_note(b);
	assert_int_equal(bench_records(b, "counter"), 1);
	assert_int_equal(run_one(b, 0, SHOW, 1), 1);
	bench_close(b);
}

/* Also one that is under way then. */
static void
test_a_reload_forgets_notes(void **state)
{
	for (unsigned int n_turns = 0; n_turns < 4; n_turns++) {
		struct bench *b = open_bench(1, 1);

		bench_note(b);
		assert_int_equal(run_one(b, 0, NOTE, 5), 1000 + NOTE);
		bench_note(b);
		for (unsigned int i = 0; i < n_turns; i++)
			bench_turn(b, 0);
		bench_reload(b, 0, "factor: 9");
		put(b, 0, SHOW, 1);
		bench_turn(b, 0);
		bench_turn(b, 0);
		assert_int_equal(take(b), 0);
		bench_settle(b);
		assert_int_equal(run_one(b, 0, SHOW, 1), 50);
		bench_close(b);
	}
}

static void
test_each_function_of_a_chain_has_its_own(void **state)
{
	for (unsigned int first = 0; first < 2; first++) {
		struct bench_setup setup = { .nf = first ? &notes : &other,
					     .then = { first ? &other : &notes },
					     .section = "test_notes: {}", .n_pipes = 1,
					     .n_partitions = 1 };
		struct bench *b = bench_open_as(&setup);
		struct pipe_event e;

		bench_note(b);
		assert_int_equal(run_one(b, 0, SHOW, 1), 1);
		assert_int_equal(run_one(b, 0, COUNT, 1), 1000 + COUNT);
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.stage, !first);
		assert_int_equal(run_one(b, 0, TASK, 1), 1000 + TASK);
		bench_work(b);
		assert_int_equal(run_one(b, 0, READ, DONE), 1);
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.stage, !first);
		bench_close(b);
	}
}

/* --- tasks ---------------------------------------------------------------------- */

static void
test_a_task_is_done_once(void **state)
{
	struct bench *b = open_bench(2, 3);
	struct pipe_event e;

	for (unsigned int i = 0; i < 40; i++)
		assert_int_equal(run_one(b, i % 2, TASK, 100 + i), 1000 + TASK);
	assert_int_equal(run_one(b, 0, READ, DONE), 0);
	bench_work(b);
	assert_int_equal(run_one(b, 0, READ, DONE), 40);
	for (unsigned int i = 0; i < 40; i++) {
		assert_true(bench_event(b, &e));
		assert_int_equal(e.said.event, EVENT_DONE);
	}
	assert_int_equal(count_events(b), 0);
	assert_int_equal(bench_stats(b).tasks, 40);
	bench_close(b);
}

static void
test_the_task_of_a_group_that_is_refused_is_not(void **state)
{
	struct bench *b = open_bench(1, 1);

	for (unsigned int i = 0; i < 3; i++)
		run_one(b, 0, TASK_AND_COUNT, 1);
	bench_fail(b, 0, -ETIMEDOUT);
	assert_int_equal(run_one(b, 0, TASK_AND_COUNT, 2), -1);
	bench_fail(b, 0, 0);
	bench_work(b);
	assert_int_equal(run_one(b, 0, READ, DONE), 2);
	assert_int_equal(bench_stats(b).tasks, 2);
	bench_close(b);
}

static void
test_more_tasks_than_there_is_room_for_are_counted(void **state)
{
	struct bench *b = open_bench(1, 1);

	for (unsigned int i = 0; i < TASK_ROOM + 10; i++)
		put(b, 0, TASK, 1 + i);
	bench_settle(b);
	while (take(b) >= 0)
		;
	assert_int_equal(bench_stats(b).tasks_lost, 10);
	bench_work(b);
	assert_int_equal(run_one(b, 0, READ, DONE), TASK_ROOM);
	assert_int_equal(run_one(b, 0, TASK, 1), 1000 + TASK);
	bench_work(b);
	assert_int_equal(run_one(b, 0, READ, DONE), TASK_ROOM + 1);
	bench_close(b);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_note_shows_what_was_when_it_was_made),
		cmocka_unit_test(test_notes_that_write_do_not_hinder_each_other),
		cmocka_unit_test(test_an_old_note_stays_while_the_store_is_lost),
		cmocka_unit_test(test_a_note_is_shown_though_what_it_writes_finds_no_room),
		cmocka_unit_test(test_a_reload_forgets_notes),
		cmocka_unit_test(test_each_function_of_a_chain_has_its_own),
		cmocka_unit_test(test_a_task_is_done_once),
		cmocka_unit_test(test_the_task_of_a_group_that_is_refused_is_not),
		cmocka_unit_test(test_more_tasks_than_there_is_room_for_are_counted),
	};

	return cmocka_run_group_tests(tests, bench_start, NULL);
}

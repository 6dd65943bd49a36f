/*
 * test_task.c - tasks in their threads: lanes, reloads, and the end, whoever is blocked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <semaphore.h>
#include <time.h>

#include "pipe/pipe.h"
#include "pipe/task.h"

enum {
	BLOCK = 1,				/* Until the test says so. */
};

static sem_t go, blocked;
static _Atomic unsigned int n_spoiled;

/* Writes which state it saw. */
static unsigned int
work_in_thread(const void *state, const void *task, unsigned int bytes, void *result)
{
	uint64_t seen = *(const uint64_t *)state;

	(void)bytes;
	if (*(const uint64_t *)task == BLOCK) {
		sem_post(&blocked);
		while (sem_wait(&go) != 0)
			;
	}
	if (*(const uint64_t *)state != seen)
		n_spoiled++;
	memcpy(result, &seen, sizeof(seen));
	return sizeof(seen);
}

static const struct nf threaded = { .name = "threaded", .work = work_in_thread };

static struct chain
make_chain(const uint64_t *state)
{
	return (struct chain){ .n = 1, .n_all = 1, .stage = { { &threaded, state } } };
}

static void
put_task(struct task_lane *lane, uint64_t what)
{
	struct task *t = task_place(lane);

	assert_non_null(t);
	memset(t, 0, sizeof(*t));
	t->bytes = sizeof(what);
	memcpy(t->what, &what, sizeof(what));
	task_put(lane);
}

/* The next that is done; waits for it. */
static void
take_task(struct task_lane *lane, struct task *out)
{
	while (!task_take(lane, out))
		sched_yield();
}

static void
test_threads_serve_all_lanes(void **state)
{
	uint64_t number = 1, sum[3] = { 0 };
	struct chain chain = make_chain(&number);
	struct tasks *tasks;
	struct task t;

	assert_int_equal(tasks_open(&chain, 3, 4, &tasks), 0);
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < 3 * TASK_ROOM; i++)
			put_task(tasks_lane(tasks, i % 3), 10 + i);
		for (unsigned int i = 0; i < 3; i++)
			assert_null(task_place(tasks_lane(tasks, i)));
		for (unsigned int i = 0; i < 3 * TASK_ROOM; i++) {
			take_task(tasks_lane(tasks, i % 3), &t);
			assert_int_equal(t.what[0] % 3, (10 + i) % 3);
			assert_int_equal(t.result[0], 1);
			sum[i % 3] += t.what[0];
		}
	}
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(sum[i], 20 * (TASK_ROOM * (10 + i) +
					       3 * TASK_ROOM * (TASK_ROOM - 1) / 2));
		assert_false(task_take(tasks_lane(tasks, i), &t));
	}
	assert_true(tasks_close(tasks));
}

/* The main thread spoils a state as soon as it may. */
static void
test_a_state_stays_while_a_task_sees_it(void **state)
{
	uint64_t old = 1, new = 2;
	struct chain chain = make_chain(&old), next = make_chain(&new);
	struct tasks *tasks;
	struct task t;

	assert_int_equal(tasks_open(&chain, 1, 2, &tasks), 0);
	put_task(tasks_lane(tasks, 0), BLOCK);
	sem_wait(&blocked);
	tasks_set_static(tasks, &next);
	assert_true(tasks_use(tasks, &chain));
	assert_false(tasks_use(tasks, &next));
	put_task(tasks_lane(tasks, 0), 2);
	take_task(tasks_lane(tasks, 0), &t);
	assert_int_equal(t.what[0], 2);
	assert_int_equal(t.result[0], 2);
	sem_post(&go);
	take_task(tasks_lane(tasks, 0), &t);
	assert_int_equal(t.result[0], 1);
	assert_false(tasks_use(tasks, &chain));
	old = 3;
	assert_true(tasks_close(tasks));
	assert_int_equal(n_spoiled, 0);
}

static void
test_blocked_threads_do_not_keep_others_from_work(void **state)
{
	uint64_t number = 1;
	struct chain chain = make_chain(&number);
	struct tasks *tasks;
	struct task t;

	assert_int_equal(tasks_open(&chain, 1, 2, &tasks), 0);
	for (unsigned int i = 0; i < 2; i++)
		put_task(tasks_lane(tasks, 0), BLOCK);
	for (unsigned int i = 0; i < 2; i++)
		sem_wait(&blocked);
	put_task(tasks_lane(tasks, 0), 2);
	tasks_tend(tasks);
	take_task(tasks_lane(tasks, 0), &t);
	assert_int_equal(t.what[0], 2);
	for (unsigned int i = 0; i < 2; i++)
		sem_post(&go);
	for (unsigned int i = 0; i < 2; i++)
		take_task(tasks_lane(tasks, 0), &t);
	assert_true(tasks_close(tasks));
}

/* It goes on in what was left to it, and wakes nobody. */
static void
test_a_blocked_thread_does_not_keep_the_end_from_coming(void **state)
{
	static uint64_t number = 1;
	static struct tasks *tasks;
	struct chain chain = make_chain(&number);
	struct timespec start, end;

	assert_int_equal(tasks_open(&chain, 1, 3, &tasks), 0);
	put_task(tasks_lane(tasks, 0), BLOCK);
	sem_wait(&blocked);
	clock_gettime(CLOCK_MONOTONIC, &start);
	assert_false(tasks_close(tasks));
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_in_range(end.tv_sec - start.tv_sec, 0, TASK_STOP_MS / 1000 + 2);
	assert_true(tasks_use(tasks, &chain));
	sem_post(&go);
	while (tasks_use(tasks, &chain))
		sched_yield();
}

static int
start(void **state)
{
	sem_init(&go, 0, 0);
	sem_init(&blocked, 0, 0);
	return 0;
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_serve_all_lanes),
		cmocka_unit_test(test_a_state_stays_while_a_task_sees_it),
		cmocka_unit_test(test_blocked_threads_do_not_keep_others_from_work),
		cmocka_unit_test(test_a_blocked_thread_does_not_keep_the_end_from_coming),
	};

	return cmocka_run_group_tests(tests, start, NULL);
}

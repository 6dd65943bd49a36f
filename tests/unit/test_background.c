/*
 * test_background.c - what goes on beside the packets, with all threads that an instance
 * has: the pipe's, which sleeps, as its ports are silent; those of tasks; and the main
 * thread, which reads events and reloads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include "pipe/eal.h"
#include "pipe/events.h"
#include "pipe/instance.h"
#include "pipe/task.h"

enum {
	N_ROUNDS = 200,
	NOTE_MS = 1,
	GOOD = 0x600d,
};

enum {
	EVENT_NOTE,
	EVENT_DONE,
};

struct state {
	uint64_t magic;
};

static _Atomic uint64_t n_spoiled;

static void
look(const void *state)
{
	if (((const struct state *)state)->magic != GOOD)
		atomic_fetch_add(&n_spoiled, 1);
}

static enum nf_verdict
packet(struct nf_run *r)
{
	(void)r;
	return NF_SEND;
}

/* Each note has a task, and says so. */
static void
note(struct nf_run *r, void *to)
{
	uint64_t next = *(const uint64_t *)nf_note(r) + 1;

	look(nf_static(r));
	memcpy(to, &next, sizeof(next));
	nf_log(r, EVENT_NOTE, NULL, NULL, next);
	nf_task(r, &next, sizeof(next));
}

static unsigned int
work(const void *state, const void *task, unsigned int bytes, void *result)
{
	look(state);
	memcpy(result, task, bytes);
	return bytes;
}

static void
done(struct nf_run *r, const void *task, const void *result)
{
	look(nf_static(r));
	if (memcmp(task, result, sizeof(uint64_t)) != 0)
		atomic_fetch_add(&n_spoiled, 1);
	nf_log(r, EVENT_DONE, NULL, NULL, *(const uint64_t *)result);
}

static const struct nf_event events[] = { { .name = "note" }, { .name = "done" }, { 0 } };

static const struct nf function = { .name = "background", .packet = packet, .note = note,
				    .note_ms = NOTE_MS, .work = work, .done = done,
				    .events = events };

static unsigned int
silent_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	(void)p, (void)packets, (void)n;
	return 0;
}

static const struct port_ops silent_ops = { .rx = silent_rx };

static struct store *
open_store(void)
{
	struct store_options options = { .url = "embedded:" };
	struct store *store;
	char why[256];

	assert_int_equal(store_open(&options, NULL, 0, &store, why, sizeof(why)), 0);
	return store;
}

/* Reads events, and counts each kind. */
static void
read_events(struct pipe *p, uint64_t n[2])
{
	struct pipe_event event[64];
	unsigned int n_read = pipe_events(p, event, 64);

	for (unsigned int i = 0; i < n_read; i++)
		n[event[i].said.event]++;
}

static void
test_it_goes_on_while_the_pipe_sleeps_and_over_reloads(void **unused)
{
	static struct state state[2] = { { GOOD }, { 0 } };
	int fd = eventfd(0, EFD_CLOEXEC);
	struct port port = { .ops = &silent_ops, .wait_fd = fd };
	struct chain chain[2] = { { 1, 1, { { &function, &state[0] } } },
				  { 1, 1, { { &function, &state[1] } } } };
	struct pipe_config config = { .chain = chain[0], .store = open_store(),
				      .port = { &port, &port }, .events = true };
	struct tasks *tasks;
	struct worker *w;
	uint64_t n[2] = { 0 };

	assert_int_equal(tasks_open(&chain[0], 1, 2, &tasks), 0);
	config.lane = tasks_lane(tasks, 0);
	assert_int_equal(worker_start(&config, &w), 0);
	for (unsigned int i = 1; i <= N_ROUNDS; i++) {
		uint64_t before = n[EVENT_DONE];

		while (n[EVENT_DONE] < before + 2)
			read_events(worker_pipe(w), n);
		state[i % 2].magic = GOOD;
		worker_set_static(w, &chain[i % 2]);
		tasks_set_static(tasks, &chain[i % 2]);
		while (tasks_use(tasks, &chain[(i + 1) % 2]))
			;
		state[(i + 1) % 2].magic = 0;
	}
	worker_stop(w, 1000);
	read_events(worker_pipe(w), n);
	assert_int_equal(atomic_load(&n_spoiled), 0);
	assert_int_equal(pipe_stats(worker_pipe(w))->tasks, n[EVENT_NOTE]);
	assert_in_range(n[EVENT_DONE], 2 * N_ROUNDS, n[EVENT_NOTE]);
	assert_int_equal(pipe_stats(worker_pipe(w))->events_lost, 0);
	assert_true(tasks_close(tasks));
	worker_free(w);
	config.store->ops->close(config.store);
	close(fd);
}

static int
start_dpdk(void **unused)
{
	struct eal_options options = { .huge = EAL_HUGE_OFF, .memory_mb = 64 };
	char why[256];

	(void)unused;
	return eal_start(&options, why, sizeof(why));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_goes_on_while_the_pipe_sleeps_and_over_reloads),
	};

	return cmocka_run_group_tests(tests, start_dpdk, NULL);
}

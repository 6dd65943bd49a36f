/*
 * worker.c - the thread of a pipe, and its sleep.
 *
 * A pipe that has found nothing to do for a moment waits for a descriptor: a port's,
 * the store's, or the one by which other threads wake it.  Ports without one are
 * looked at every millisecond; the synthetic source is never slept on.
 */
#define _GNU_SOURCE
#include "pipe/instance.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_lcore.h>

#include "base/log.h"
#include "pipe/task.h"

/* A round trip to a store that is awake takes about 10 us: bench/store. */
#define SPIN_US 50

enum {
	/* Frames, commits, leases, and looking for the primary, of each partition. */
	MAX_STORE_FDS = 4 * STORE_MAX_PARTITIONS,
};

struct worker {
	struct pipe_config config;
	struct pipe *pipe;
	pthread_t thread;
	int wake_fd;
	uint64_t note_cycles, note_at;		/* TSC, when notes are made; 0: never. */
	_Atomic uint64_t stop_ms;		/* 0: go on; else how long to drain. */
	_Atomic bool ended;
	_Atomic(const struct chain *) wanted, used;
};

/* Notes are made when it is time, whatever else there is to do. */
static void
keep_notes(struct worker *w)
{
	uint64_t now;

	if (w->note_cycles == 0)
		return;
	now = rte_get_tsc_cycles();
	if (now < w->note_at)
		return;
	w->note_at = now + w->note_cycles;
	pipe_note(w->pipe);
}

/* No longer than until then. */
static int
bound_sleep(const struct worker *w, int timeout_ms)
{
	uint64_t now = rte_get_tsc_cycles();
	int ms;

	if (w->note_cycles == 0)
		return timeout_ms;
	ms = now < w->note_at
		     ? (int)((w->note_at - now) * 1000 / rte_get_tsc_hz()) + 1
		     : 0;
	return timeout_ms < 0 ? ms : RTE_MIN(ms, timeout_ms);
}

static void
sleep_until_something(struct worker *w)
{
	struct store *store = w->config.store;
	struct pollfd fd[3 + MAX_STORE_FDS];
	int store_fd[MAX_STORE_FDS], timeout_ms;
	unsigned int n = 0;
	unsigned int n_store = store->ops->wait_fds(store, store_fd, MAX_STORE_FDS,
						    &timeout_ms);

	fd[n++] = (struct pollfd){ .fd = w->wake_fd, .events = POLLIN };
	for (unsigned int i = 0; i < n_store; i++)
		fd[n++] = (struct pollfd){ .fd = store_fd[i], .events = POLLIN };
	for (unsigned int side = 0; side < 2; side++) {
		const struct port *port = w->config.port[side];

		if (port->busy)
			return;
		fd[n++] = (struct pollfd){ .fd = port->wait_fd, .events = POLLIN };
		if (port->wait_fd < 0 &&
		    (port->ops->ended == NULL || !port->ops->ended(port)))
			timeout_ms = 1;
	}
	if (!pipe_drained(w->pipe) && (timeout_ms < 0 || timeout_ms > 1))
		timeout_ms = 1;
	if (poll(fd, n, bound_sleep(w, timeout_ms)) > 0 && fd[0].revents != 0) {
		uint64_t count;

		if (read(w->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			log_warning("pipe", "cannot read its wake-up: errno %d", errno);
	}
}

static void
drain(struct worker *w, uint64_t drain_ms)
{
	uint64_t end = rte_get_tsc_cycles() + drain_ms * rte_get_tsc_hz() / 1000;

	pipe_stop_receiving(w->pipe);
	while (!pipe_drained(w->pipe) && rte_get_tsc_cycles() < end) {
		if (!pipe_turn(w->pipe))
			sleep_until_something(w);
	}
	if (!pipe_drained(w->pipe))
		log_warning("pipe",
			    "not all packets in flight could be finished in %u ms: "
			    "they are lost",
			    (unsigned int)drain_ms);
}

static void *
worker_main(void *argument)
{
	struct worker *w = argument;
	uint64_t spin = SPIN_US * rte_get_tsc_hz() / 1000000;
	uint64_t quiet_since = 0;
	uint64_t stop_ms;

	if (rte_thread_register() != 0)
		log_warning("pipe", "no DPDK thread slot: packet buffers are not cached");
	while ((stop_ms = atomic_load_explicit(&w->stop_ms, memory_order_acquire)) == 0) {
		const struct chain *wanted =
			atomic_load_explicit(&w->wanted, memory_order_acquire);

		if (wanted != atomic_load_explicit(&w->used, memory_order_relaxed)) {
			pipe_set_static(w->pipe, wanted);
			atomic_store_explicit(&w->used, wanted, memory_order_release);
		}
		keep_notes(w);
		if (pipe_turn(w->pipe)) {
			quiet_since = 0;
			continue;
		}
		if (pipe_ended(w->pipe))
			atomic_store(&w->ended, true);
		if (quiet_since == 0)
			quiet_since = rte_get_tsc_cycles();
		else if (rte_get_tsc_cycles() - quiet_since > spin)
			sleep_until_something(w);
	}
	drain(w, stop_ms);
	rte_thread_unregister();
	return NULL;
}

int
worker_start(const struct pipe_config *config, struct worker **out)
{
	struct worker *w = calloc(1, sizeof(*w));
	int err;

	if (w == NULL)
		return -ENOMEM;
	w->config = *config;
	w->wanted = &w->config.chain;
	w->used = &w->config.chain;
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (w->wake_fd < 0) {
		err = -errno;
		goto free_worker;
	}
	err = pipe_open(config, &w->pipe);
	if (err != 0)
		goto close_wake;
	w->note_cycles = pipe_note_ms(w->pipe) * rte_get_tsc_hz() / 1000;
	w->note_at = rte_get_tsc_cycles() + w->note_cycles;
	if (config->lane != NULL)
		task_lane_wake(config->lane, w->wake_fd);
	err = -pthread_create(&w->thread, NULL, worker_main, w);
	if (err != 0)
		goto close_pipe;
	pthread_setname_np(w->thread, "snf-pipe");
	*out = w;
	return 0;
close_pipe:
	if (config->lane != NULL)
		task_lane_wake(config->lane, -1);
	pipe_close(w->pipe);
close_wake:
	close(w->wake_fd);
free_worker:
	free(w);
	return err;
}

static void
wake(struct worker *w)
{
	if (eventfd_write(w->wake_fd, 1) != 0)
		log_warning("pipe", "cannot be woken: errno %d", errno);
}

struct pipe *
worker_pipe(struct worker *w)
{
	return w->pipe;
}

bool
worker_ended(const struct worker *w)
{
	return atomic_load(&w->ended);
}

void
worker_set_static(struct worker *w, const struct chain *chain)
{
	atomic_store_explicit(&w->wanted, chain, memory_order_release);
	while (atomic_load_explicit(&w->used, memory_order_acquire) != chain) {
		wake(w);
		sched_yield();
	}
}

void
worker_stop(struct worker *w, uint64_t drain_ms)
{
	atomic_store_explicit(&w->stop_ms, drain_ms > 0 ? drain_ms : 1,
			      memory_order_release);
	wake(w);
	pthread_join(w->thread, NULL);
	if (w->config.lane != NULL)
		task_lane_wake(w->config.lane, -1);
}

void
worker_free(struct worker *w)
{
	pipe_close(w->pipe);
	close(w->wake_fd);
	free(w);
}

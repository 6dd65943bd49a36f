/*
 * task.h - what functions do that blocks (nf_task()), in threads beside the pipes'.
 *
 * A pipe has a lane: it puts tasks there, and takes those that are done.  Neither waits
 * for anybody.  The threads serve all lanes.  There are a few, and more while all of them
 * are blocked (tasks_tend()).
 */
#ifndef PIPE_TASK_H
#define PIPE_TASK_H

#include "nf/nf.h"

enum {
	TASK_ROOM = 256,			/* Of a pipe, from put to take. */
	TASK_MAX_THREADS = 64,
	TASK_STOP_MS = 1000,			/* Then who is still blocked is left alone. */
};

struct task {
	uint8_t stage;				/* Whose it is: a place in the chain. */
	uint16_t bytes;
	uint64_t what[NF_MAX_TASK_BYTES / 8];
	uint64_t result[NF_MAX_TASK_BYTES / 8];	/* Zeros behind what work() set. */
};

struct chain;
struct tasks;
struct task_lane;

/* Threads for the functions of 'chain', 'n_threads' at first; with 0 there are none ever,
 * and tasks_work() does all.  NULL if no function has tasks. */
int tasks_open(const struct chain *chain, unsigned int n_lanes, unsigned int n_threads,
	       struct tasks **out);
/* Waits for what is under way, at most TASK_STOP_MS.  Returns false if something still
 * is: then its thread is left alone, with all that it uses, and ends when it can. */
bool tasks_close(struct tasks *t);		/* NULL is ignored: true. */

/* By the main thread. */
/* From the next task on, work() sees what is in this chain. */
void tasks_set_static(struct tasks *t, const struct chain *chain);
/* Whether a task under way sees something of that chain. */
bool tasks_use(struct tasks *t, const struct chain *chain);
/* Starts more threads if tasks wait and all are blocked; to be called every now and
 * then. */
void tasks_tend(struct tasks *t);

/* Does the next task, in this thread.  False: there is none. */
bool tasks_work(struct tasks *t);

/* That of a pipe, by its number; NULL without tasks.  'wake_fd' is an eventfd that is
 * written when a task is done, or -1. */
struct task_lane *tasks_lane(struct tasks *t, unsigned int i);
void task_lane_wake(struct task_lane *lane, int wake_fd);

/* By the pipe's thread alone. */
/* The place for a task that task_put() then hands over; NULL: TASK_ROOM are out. */
struct task *task_place(struct task_lane *lane);
void task_put(struct task_lane *lane);
/* Takes the first that is done. */
bool task_take(struct task_lane *lane, struct task *out);

#endif

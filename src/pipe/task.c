/*
 * task.c - see task.h; and the runs that tell functions what came of their tasks.
 *
 * Both rings of a lane have one writer and one reader at a time: the pipe, and whichever
 * thread holds the mutex.  A pipe has at most TASK_ROOM tasks out, so there is always
 * room for one that is done.
 *
 * A thread notes which static state it lets work() see, so that a reload knows when it
 * may go.  Nothing ends a thread that is blocked.  When the instance stops, the threads
 * get a moment; who is still blocked then is left behind, with the memory that it may
 * touch.
 */
#define _GNU_SOURCE
#include "pipe/task.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/log.h"
#include "pipe/run.h"

struct ring {
	_Alignas(RTE_CACHE_LINE_SIZE) _Atomic uint32_t tail;
	_Alignas(RTE_CACHE_LINE_SIZE) _Atomic uint32_t head;
	struct task task[TASK_ROOM];
};

struct task_lane {
	struct tasks *tasks;
	int wake_fd;				/* The mutex's. */
	unsigned int n_out;			/* The pipe's own. */
	struct ring asked, done;
};

struct task_thread {
	pthread_t thread;
	struct tasks *tasks;
	const void *uses;			/* The static state that work() sees... */
	bool busy;				/* ...while it does. */
	bool left;				/* To itself: it was still busy at the end. */
};

struct tasks {
	sem_t asked;				/* As many as there are tasks in 'asked'. */
	pthread_mutex_t mutex;			/* Of all that follows. */
	pthread_cond_t quiet;			/* None is busy. */
	struct chain chain;
	bool stopping;
	unsigned int n_threads, n_busy;
	unsigned int next;			/* Lane to be served. */
	struct task_thread thread[TASK_MAX_THREADS];
	unsigned int n_lanes;
	struct task_lane lane[];
};

/* --- rings --------------------------------------------------------------------- */

static struct task *
ring_place(struct ring *r)
{
	return &r->task[atomic_load_explicit(&r->tail, memory_order_relaxed) % TASK_ROOM];
}

static void
ring_put(struct ring *r)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
}

static bool
ring_take(struct ring *r, struct task *out)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

	if (head == atomic_load_explicit(&r->tail, memory_order_acquire))
		return false;
	*out = r->task[head % TASK_ROOM];
	atomic_store_explicit(&r->head, head + 1, memory_order_release);
	return true;
}

static bool
ring_empty(struct ring *r)
{
	return atomic_load_explicit(&r->head, memory_order_relaxed) ==
	       atomic_load_explicit(&r->tail, memory_order_acquire);
}

struct task *
task_place(struct task_lane *lane)
{
	if (lane->n_out == TASK_ROOM)
		return NULL;
	return ring_place(&lane->asked);
}

void
task_put(struct task_lane *lane)
{
	lane->n_out++;
	ring_put(&lane->asked);
	sem_post(&lane->tasks->asked);
}

bool
task_take(struct task_lane *lane, struct task *out)
{
	if (!ring_take(&lane->done, out))
		return false;
	lane->n_out--;
	return true;
}

struct task_lane *
tasks_lane(struct tasks *t, unsigned int i)
{
	return t != NULL ? &t->lane[i] : NULL;
}

void
task_lane_wake(struct task_lane *lane, int wake_fd)
{
	pthread_mutex_lock(&lane->tasks->mutex);
	lane->wake_fd = wake_fd;
	pthread_mutex_unlock(&lane->tasks->mutex);
}

/* --- threads ------------------------------------------------------------------- */

/* Takes a task of one lane after the other. */
static struct task_lane *
take_asked(struct tasks *t, struct task *task)
{
	for (unsigned int i = 0; i < t->n_lanes; i++) {
		struct task_lane *lane = &t->lane[t->next++ % t->n_lanes];

		if (ring_take(&lane->asked, task))
			return lane;
	}
	return NULL;
}

static void
give_done(struct task_lane *lane, const struct task *task)
{
	*ring_place(&lane->done) = *task;
	ring_put(&lane->done);
	if (lane->wake_fd >= 0 && eventfd_write(lane->wake_fd, 1) != 0)
		log_warning("pipe", "cannot be woken: errno %d", errno);
}

/* Does a task, if there is one, in the name of 'by'.  The mutex is held before and
 * after. */
static bool
work_one(struct tasks *t, struct task_thread *by)
{
	struct task task;
	struct task_lane *lane = take_asked(t, &task);

	if (lane == NULL)
		return false;

	const struct stage *stage = &t->chain.stage[task.stage];
	const struct nf *nf = stage->nf;
	const void *state = stage->nf_static;

	by->uses = state;
	by->busy = true;
	t->n_busy++;
	pthread_mutex_unlock(&t->mutex);
	memset(task.result, 0, sizeof(task.result));
	nf->work(state, task.what, task.bytes, task.result);
	pthread_mutex_lock(&t->mutex);
	by->busy = false;
	t->n_busy--;
	if (!t->stopping)
		give_done(lane, &task);
	else if (t->n_busy == 0)
		pthread_cond_signal(&t->quiet);
	return true;
}

bool
tasks_work(struct tasks *t)
{
	struct task_thread here = { .busy = false };
	bool any;

	pthread_mutex_lock(&t->mutex);
	any = work_one(t, &here);
	pthread_mutex_unlock(&t->mutex);
	return any;
}

static void *
task_main(void *argument)
{
	struct task_thread *self = argument;
	struct tasks *t = self->tasks;
	bool stopping;

	do {
		while (sem_wait(&t->asked) != 0)
			;			/* By a debugger. */
		pthread_mutex_lock(&t->mutex);
		if (!t->stopping)
			work_one(t, self);
		stopping = t->stopping;
		pthread_mutex_unlock(&t->mutex);
	} while (!stopping);
	return NULL;
}

/* The mutex is held. */
static int
start_thread(struct tasks *t)
{
	struct task_thread *thread = &t->thread[t->n_threads];
	int err;

	thread->tasks = t;
	err = -pthread_create(&thread->thread, NULL, task_main, thread);
	if (err != 0)
		return err;
	pthread_setname_np(thread->thread, "snf-task");
	t->n_threads++;
	return 0;
}

void
tasks_tend(struct tasks *t)
{
	int n_waiting = 0;

	if (t == NULL)
		return;
	pthread_mutex_lock(&t->mutex);
	sem_getvalue(&t->asked, &n_waiting);
	while (t->n_busy > 0 && n_waiting-- > (int)(t->n_threads - t->n_busy) &&
	       t->n_threads < TASK_MAX_THREADS && start_thread(t) == 0)
		;
	pthread_mutex_unlock(&t->mutex);
}

void
tasks_set_static(struct tasks *t, const struct chain *chain)
{
	if (t == NULL)
		return;
	pthread_mutex_lock(&t->mutex);
	t->chain = *chain;
	pthread_mutex_unlock(&t->mutex);
}

bool
tasks_use(struct tasks *t, const struct chain *chain)
{
	bool used = false;

	if (t == NULL)
		return false;
	pthread_mutex_lock(&t->mutex);
	for (unsigned int i = 0; i < t->n_threads; i++)
		for (unsigned int k = 0; k < chain->n_all; k++)
			used |= t->thread[i].busy &&
				t->thread[i].uses == chain->stage[k].nf_static;
	pthread_mutex_unlock(&t->mutex);
	return used;
}

static struct tasks *
tasks_new(const struct chain *chain, unsigned int n_lanes)
{
	struct tasks *t = calloc(1, sizeof(*t) + n_lanes * sizeof(t->lane[0]));
	pthread_condattr_t attributes;

	if (t == NULL)
		return NULL;
	sem_init(&t->asked, 0, 0);
	pthread_mutex_init(&t->mutex, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&t->quiet, &attributes);
	pthread_condattr_destroy(&attributes);
	t->chain = *chain;
	t->n_lanes = n_lanes;
	for (unsigned int i = 0; i < n_lanes; i++) {
		t->lane[i].tasks = t;
		t->lane[i].wake_fd = -1;
	}
	return t;
}

int
tasks_open(const struct chain *chain, unsigned int n_lanes, unsigned int n_threads,
	   struct tasks **out)
{
	struct tasks *t;
	bool any = false;
	int err = 0;

	*out = NULL;
	for (unsigned int i = 0; i < chain->n; i++)
		any |= chain->stage[i].nf->work != NULL;
	if (!any)
		return 0;
	t = tasks_new(chain, n_lanes);
	if (t == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&t->mutex);
	while (t->n_threads < n_threads && err == 0)
		err = start_thread(t);
	pthread_mutex_unlock(&t->mutex);
	if (err != 0) {
		tasks_close(t);
		return err;
	}
	*out = t;
	return 0;
}

/* The mutex is held. */
static void
wait_quiet(struct tasks *t)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += TASK_STOP_MS / 1000;
	while (t->n_busy > 0 && pthread_cond_timedwait(&t->quiet, &t->mutex, &end) == 0)
		;
}

bool
tasks_close(struct tasks *t)
{
	bool all = true;

	if (t == NULL)
		return true;
	pthread_mutex_lock(&t->mutex);
	t->stopping = true;
	for (unsigned int i = 0; i < t->n_threads; i++)
		sem_post(&t->asked);
	wait_quiet(t);
	for (unsigned int i = 0; i < t->n_threads; i++) {
		if (!t->thread[i].busy)
			continue;
		t->thread[i].left = true;
		pthread_detach(t->thread[i].thread);
		all = false;
	}
	pthread_mutex_unlock(&t->mutex);
	for (unsigned int i = 0; i < t->n_threads; i++)
		if (!t->thread[i].left)
			pthread_join(t->thread[i].thread, NULL);
	if (!all)
		return false;
	pthread_cond_destroy(&t->quiet);
	pthread_mutex_destroy(&t->mutex);
	sem_destroy(&t->asked);
	free(t);
	return true;
}

/* --- runs ---------------------------------------------------------------------- */

enum {
	ERRANDS = 16,				/* Of a pipe, at a time. */
};

struct task_errand {
	struct errand errand;			/* First. */
	bool taken, again;			/* Lost a race: from the top. */
	unsigned int n_tries;
	struct task task;
};

struct task_errands {
	unsigned int n_again;
	struct task_errand of[ERRANDS];
};

void
nf_task(struct nf_run *r, const void *task, unsigned int bytes)
{
	assert(bytes <= NF_MAX_TASK_BYTES);
	assert(!(r->extras & RUN_HAS_TASK));
	r->task_stage = (uint8_t)context_of(r)->at;
	r->task_bytes = (uint16_t)bytes;
	memcpy(r->task, task, bytes);
	r->extras |= RUN_HAS_TASK;
}

int
task_open(struct pipe *p, struct task_lane *lane)
{
	p->lane = lane;
	if (lane == NULL)
		return 0;
	p->errands = calloc(1, sizeof(*p->errands));
	return p->errands != NULL ? 0 : -ENOMEM;
}

void
task_close(struct pipe *p)
{
	free(p->errands);
}

void
task_hand_over(struct pipe *p, const struct nf_run *r)
{
	struct task *task = p->lane != NULL ? task_place(p->lane) : NULL;

	if (task == NULL) {
		p->stats.tasks_lost++;
		return;
	}
	task->stage = r->task_stage;
	task->bytes = r->task_bytes;
	memset(task->what, 0, sizeof(task->what));
	memcpy(task->what, r->task, r->task_bytes);
	task_put(p->lane);
	p->stats.tasks++;
}

static enum nf_verdict
execute(struct nf_run *r)
{
	struct task_errand *e = (struct task_errand *)r;
	const struct nf *nf = context_of(r)->chain.stage[e->task.stage].nf;

	nf->done(r, e->task.what, e->task.result);
	return r->n_pending > 0 ? NF_WAIT : NF_KEEP;
}

static void
end(struct pipe *p, struct nf_run *r)
{
	struct task_errand *e = (struct task_errand *)r;

	e->again = r->verdict != NF_KEEP && r->drop == NF_DROP_CONFLICT &&
		   ++e->n_tries < RUN_MAX_TRIPS;
	p->errands->n_again += e->again;
	e->taken = e->again;
}

static void
start(struct pipe *p, struct task_errand *e)
{
	e->taken = true;
	e->again = false;
	e->errand.stage = e->task.stage;
	e->errand.execute = execute;
	e->errand.end = end;
	errand_start(p, &e->errand);
}

static bool
start_again(struct pipe *p)
{
	bool any = false;

	for (unsigned int i = 0; i < ERRANDS && errand_room(p) > 0; i++) {
		struct task_errand *e = &p->errands->of[i];

		if (!e->again)
			continue;
		p->errands->n_again--;
		start(p, e);
		any = true;
	}
	return any;
}

bool
task_gather(struct pipe *p)
{
	bool any = p->errands->n_again > 0 && start_again(p);

	if (likely(ring_empty(&p->lane->done)))
		return any;
	for (unsigned int i = 0; i < ERRANDS && errand_room(p) > 0; i++) {
		struct task_errand *e = &p->errands->of[i];

		if (e->taken)
			continue;
		if (!task_take(p->lane, &e->task))
			break;
		e->n_tries = 0;
		start(p, e);
		any = true;
	}
	return any;
}
